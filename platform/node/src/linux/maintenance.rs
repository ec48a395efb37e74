//! A node in maintenance: it gives everything away and gets nothing, and the log says why and since when. It is diagnosed as before,
//! and votes as long as it is up.

use apus_engine::views::Order as Wish;
use apus_engine::{NodeId, ResourceId};
use serde_json::{Value, json};

use super::control::Serving;
use crate::fence::reason;
use crate::roster;
use crate::view::wall;

impl Serving {
    /// Begins or ends a node's maintenance.
    pub(super) async fn maintain(&self, node: NodeId, question: &Value) -> Result<Value, String> {
        self.is_member(node)?;
        let on = question["on"].as_bool().ok_or("`on` must be true or false")?;
        if !on {
            return self.undrain(node).await;
        }
        let why = reason(question["why"].as_str().unwrap_or_default());
        let warnings = self.warnings(node);
        // The reason first: whoever sees the drain knows it.
        let note = json!({ "since_us": wall(), "by": self.me.0, "why": why });
        self.put_words(roster::maintenance(node), note.to_string().into_bytes()).await?;
        self.drain(node, true).await?;
        Ok(json!({ "done": true, "warnings": warnings }))
    }

    /// Ends a drain, and what the log says of it.
    pub(super) async fn undrain(&self, node: NodeId) -> Result<Value, String> {
        let done = self.drain(node, false).await?;
        let setting = roster::maintenance(node);
        let noted = self
            .engine
            .borrow()
            .look()
            .is_some_and(|(_, log, ..)| log.state().settings.get(&setting).is_some_and(|words| !words.is_empty()));
        if noted {
            self.put_words(setting, Vec::new()).await?;
        }
        Ok(done)
    }

    /// Puts a setting of words into the log.
    pub(super) async fn put_words(&self, resource: ResourceId, value: Vec<u8>) -> Result<Value, String> {
        let wanted = value.clone();
        self.order(Wish::Set { resource, value }, move |state| state.settings.get(&resource) == Some(&wanted)).await
    }

    /// What an operator should know before a node's work is taken away and the node with it.
    pub(super) fn warnings(&self, node: NodeId) -> Vec<String> {
        let engine = self.engine.borrow();
        let Some((_, log, ..)) = engine.look() else { return Vec::new() };
        let down = self.down(&engine);
        let (members, mut all) = (log.membership(), Vec::new());
        let needed = members.voters.len() / 2 + 1;
        let left = members.voters.iter().filter(|voter| **voter != node && !down.contains(voter)).count();
        if members.votes(node) && left < needed {
            all.push(format!(
                "once node {} is stopped, {left} of {} voters are up and {needed} are needed: nothing could be granted then",
                node.0,
                members.voters.len()
            ));
        }
        let serves = |other: &NodeId| {
            *other != node
                && !members.arbiters.contains(other)
                && !down.contains(other)
                && !log.state().drained.contains(other)
        };
        if !members.members().iter().any(serves) {
            all.push(format!("no other node can serve: node {} keeps what it has", node.0));
        }
        all
    }
}
