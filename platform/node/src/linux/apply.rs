//! A new configuration file for a node that runs: what can change at once goes through the log, for all nodes; the rest waits until
//! the daemon takes its own place.

use std::io;
use std::path::{Path, PathBuf};

use apus_engine::NodeId;
use apus_os::linux::text_file;
use serde_json::{Value, json};

use super::control::Serving;
use super::plan::changes;
use crate::forecast::Forecast;
use crate::{Config, Setup, difference};

/// A configuration is at most so long, in bytes.
const LONGEST: u64 = 1 << 20;

/// What is done at once.
#[derive(Default)]
struct Now {
    /// How the address is set up, before and after.
    set_up: Option<(Setup, Setup)>,
    /// Weights of nodes, before and after.
    weights: Vec<(NodeId, u32, u32)>,
}

impl Serving {
    /// The file of a question, if it is one of this very node, read and found to be right.
    async fn file(&self, question: &Value) -> Result<Config, String> {
        let name = question["file"].as_str().ok_or("`file` must be a path")?;
        if !Path::new(name).is_absolute() {
            return Err(format!("{name}: it must be an absolute path"));
        }
        self.read_own(name).await
    }

    /// A file of this very node, read and found to be right. Not in the engine's thread: a disk may be slow.
    async fn read_own(&self, name: &str) -> Result<Config, String> {
        let place = PathBuf::from(name);
        let text = tokio::task::spawn_blocking(move || text_file(&place, LONGEST)).await.map_err(io::Error::other);
        let text = text.flatten().map_err(|error| format!("{name}: {error}"))?;
        let config = Config::check(name, &text).map_err(|all| lines(&all))?;
        let (me, cluster) = (config.me, config.cluster);
        if (me, cluster) != (self.me, self.cluster) {
            let own = (self.me.0, self.cluster);
            return Err(format!(
                "{name}: it is for node {} of cluster {cluster}, and this is node {} of {}",
                me.0, own.0, own.1
            ));
        }
        Ok(config)
    }

    fn now(&self, new: &Config) -> Result<Now, String> {
        let mut now = Now::default();
        if let (Some(first), Some(vip)) = (self.first, &new.vip) {
            let old = self.set_up(first)?;
            let new = Setup::from(vip);
            now.set_up = (old != new).then_some((old, new));
        }
        for node in self.nodes.borrow().iter() {
            let weight = new.nodes.iter().find(|other| other.id == node.id).map_or(node.weight, |other| other.weight);
            if weight != node.weight {
                now.weights.push((node.id, node.weight, weight));
            }
        }
        Ok(now)
    }

    /// What a file would change.
    pub(super) async fn plan_apply(&self, question: &Value) -> Result<Value, String> {
        let new = self.file(question).await?;
        self.plan_of(&new, &self.now(&new)?).await
    }

    async fn plan_of(&self, new: &Config, now: &Now) -> Result<Value, String> {
        let weights = now.weights.clone();
        let table = self
            .tables(|mut table| {
                if let Some((_, new)) = now.set_up {
                    (table.key, table.log2_slots) = (new.key, new.log2_slots);
                }
                let weighed = table.members.all().iter().map(|member| {
                    let found = weights.iter().find(|(id, ..)| u64::from(id.0) == member.id);
                    apus_dispatch::Member { weight: found.map_or(member.weight, |(.., weight)| *weight), ..*member }
                });
                table.members = apus_dispatch::Members::new(weighed).unwrap_or_default();
                table
            })
            .await?;
        let mut plan = self.told(&Forecast::default(), table, Vec::new());
        let mut all = now.set_up.map(|(old, new)| changes(old, new)).unwrap_or_default();
        all.extend(now.weights.iter().map(|(node, from, to)| {
            json!({ "what": format!("weight of node {}", node.0), "from": from, "to": to, "effect": "its share of the clients", "when": "now" })
        }));
        all.extend(
            difference::settings(&self.members.config, new)
                .into_iter()
                .map(|one| json!({ "what": one.what, "effect": one.effect, "when": "reload" })),
        );
        plan["changes"] = all.into();
        plan["copies"] = self.copies(new);
        Ok(plan)
    }

    /// What copies on this node do once the daemon has taken its own place.
    fn copies(&self, new: &Config) -> Value {
        let services = self.services();
        let rows: Vec<&Value> = services["services"].as_array().into_iter().flatten().collect();
        let mut all = Vec::new();
        for one in difference::services(&self.members.config.services, &new.services) {
            let what = if one.fields.is_empty() {
                one.what.to_owned()
            } else {
                format!("{}: {}", one.what, one.fields.join(", "))
            };
            let mut here =
                rows.iter().filter(|row| row["name"] == one.service.as_str() && row["pid"].is_u64()).peekable();
            if here.peek().is_none() {
                all.push(json!({ "name": one.service, "node": null, "pid": null, "what": what, "when": "reload" }));
            }
            all.extend(here.map(|row| {
                let name = format!("{}.{}", one.service, row["slot"]);
                json!({ "name": name, "node": self.me.0, "pid": row["pid"], "what": what, "when": "reload" })
            }));
        }
        all.into()
    }

    /// Changes what can be changed at once, and tells what waits.
    pub(super) async fn apply(&self, question: &Value) -> Result<Value, String> {
        let new = self.file(question).await?;
        let now = self.now(&new)?;
        let plan = self.plan_of(&new, &now).await?;
        if let Some((_, new)) = now.set_up {
            self.set(&new.json()).await?;
        }
        for (node, _, weight) in now.weights {
            let mut entry = self.entry(node).ok_or_else(|| format!("node {} is not in the cluster", node.0))?;
            entry.weight = weight;
            self.put(node, &entry).await?;
        }
        Ok(json!({ "done": true, "plan": plan }))
    }

    /// Whether the file of this node is right, so that the daemon may take its own place. What is wrong is said.
    pub(super) async fn may_begin_anew(&self) -> bool {
        let read = self.read_own(&self.members.config.file.display().to_string()).await;
        for line in read.as_ref().err().iter().flat_map(|wrong| wrong.lines()) {
            (self.members.say)(&format!("not reloaded: {line}"));
        }
        read.is_ok()
    }
}

fn lines(all: &[crate::ConfigError]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
