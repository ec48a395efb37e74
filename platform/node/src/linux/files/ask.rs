//! What operators ask of groups.

use apus_engine::{Command, FileId, GroupId, NodeId, SubmitError};
use serde_json::{Value, json};

use super::super::control::{STARTING, Serving};
use super::super::now;

/// Paths that are asked for at once, at most.
const MOST_PATHS: usize = 1_000;

impl Serving {
    /// The group that a question names.
    fn meant_group<'q>(&self, question: &'q Value) -> Result<(GroupId, &'q str), String> {
        let name = question["group"].as_str().unwrap_or_default();
        let known = || match &self.files.names()[..] {
            [] => "this node has none: write `[[groups]]` in its file".to_owned(),
            names => format!("known here are {}", names.join(", ")),
        };
        let (id, _) = self.files.named(name).ok_or_else(|| format!("`{name}` is no group of files: {}", known()))?;
        Ok((id, name))
    }

    /// Groups over all nodes; of one, if that is asked.
    pub(in super::super) async fn files_status(&self, question: &Value) -> Result<Value, String> {
        let only = question["group"].as_str().map(|_| self.meant_group(question)).transpose()?;
        let status = self.cluster().await;
        let of = |group: &&Value| only.is_none_or(|(_, name)| group["group"] == name);
        let groups: Vec<&Value> = status["files"].as_array().into_iter().flatten().filter(of).collect();
        let about = |alarm: &&Value| {
            let name = alarm["about"].as_str().and_then(|about| about.strip_prefix("files "));
            name.is_some_and(|name| only.is_none_or(|(_, only)| only == name))
        };
        let alarms: Vec<&Value> = status["alarms"].as_array().into_iter().flatten().filter(about).collect();
        Ok(json!({ "node": self.me.0, "groups": groups, "alarms": alarms, "missing": status["missing"] }))
    }

    /// What was saved on this node.
    pub(in super::super) fn orphans(&self, question: &Value) -> Result<Value, String> {
        let only = question["group"].as_str().map(|_| self.meant_group(question)).transpose()?;
        Ok(json!({ "node": self.me.0, "orphans": self.files.orphans(only.map(|(_, name)| name)) }))
    }

    /// What files are called whose numbers somebody has; `paths` is null until that is known.
    pub(in super::super) fn paths(&self, question: &Value) -> Result<Value, String> {
        let (_, name) = self.meant_group(question)?;
        let files: Option<Vec<FileId>> =
            question["files"].as_array().and_then(|all| all.iter().map(|file| file.as_u64().map(FileId)).collect());
        let files =
            files.filter(|files| files.len() <= MOST_PATHS).ok_or("`files` must be at most 1000 numbers of files")?;
        Ok(json!({ "node": self.me.0, "paths": self.files.paths(name, &files) }))
    }

    /// Has copies looked through, or one compared from the start; on whatever node its files are written.
    pub(in super::super) async fn look_through(&self, question: &Value) -> Result<Value, String> {
        let (group, name) = self.meant_group(question)?;
        let command = match question["do"].as_str() {
            Some("compare") => {
                let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok()).map(NodeId);
                let node = node.ok_or("`node` must be a node's number")?;
                Command::Compare { group, node }
            }
            _ => Command::Scrub(group),
        };
        let answer = self.engine.borrow_mut().submit(now(), command.clone());
        match answer {
            Ok(()) => {
                self.nudge.notify_one();
                Ok(json!({ "done": true, "writer": self.me.0 }))
            }
            Err(SubmitError::NotCoordinator { .. }) => Err(STARTING.into()),
            Err(SubmitError::Unknown) => {
                Err(format!("that node takes no records of `{name}` at present; `apus repl status` tells who does"))
            }
            Err(_) => {
                let status = self.files_status(&json!({ "group": name })).await?;
                let writer = status["groups"][0]["writer"].as_u64();
                Err(match writer {
                    Some(writer) => format!("`{name}` is written on node {writer}: ask there"),
                    None => format!("`{name}` is written nowhere at present; `apus repl status` tells why"),
                })
            }
        }
    }
}
