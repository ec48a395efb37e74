//! Another machine is stopped by the operator's plug-in. The log says so first: who has no majority fences nobody, and each attempt
//! has a place in the log, its epoch, which only grows. A node remembers the highest that it gave to the plug-in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use apus_engine::diagnosis::Status;
use apus_engine::{Incarnation, NodeId};
use apus_os::linux::plugin;
use serde_json::{Value, json};

use super::control::{STARTING, Serving};
use super::now;
use crate::fence::{Action, Call, Fence, Verdict};
use crate::roster;
use crate::view::{Entry, wall};

/// Nodes that are down are looked for this often.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure it is tried again so much later, and so often in all.
const AGAIN: Duration = Duration::from_secs(20);
const TRIES: u32 = 3;
/// A leader that heard no majority for so long fences nobody by itself.
const LOST: apus_engine::Micros = apus_engine::Micros::from_millis(250);
/// Of a reason, in bytes.
const REASON: usize = 300;

impl Serving {
    fn fence_of(&self) -> Result<&Fence, String> {
        self.members.config.fence.as_ref().ok_or_else(|| {
            "no fence is configured: write `[fence]` with a `command` into the configuration, and `systemctl reload apus`".into()
        })
    }

    /// What would be done.
    pub(super) fn plan_fence(&self, node: NodeId, question: &Value) -> Result<Value, String> {
        let (action, fence) = (self.may_fence(node, question)?, self.fence_of()?);
        let call = self.call(node, action, 0, question["why"].as_str().unwrap_or_default());
        let held = self.held_by(node);
        Ok(json!({
            "dry": true, "changes": [], "resources": [], "copies": [], "table": null,
            "warnings": if action == Action::Status { Vec::new() } else { self.warnings(node) },
            "runs": fence.command.iter().cloned().chain(call.arguments()).collect::<Vec<_>>(),
            "input": call.input(), "within_ms": fence.within.0 / 1_000, "holds": held,
        }))
    }

    fn held_by(&self, node: NodeId) -> Vec<String> {
        let engine = self.engine.borrow();
        let grants = engine.look().map(|(_, log, ..)| &log.state().grants);
        let held = grants.into_iter().flatten().filter(|(_, grant)| grant.holder == node && !grant.released);
        held.map(|(resource, _)| self.view.name(*resource)).collect()
    }

    /// Whether an operator may have this done.
    fn may_fence(&self, node: NodeId, question: &Value) -> Result<Action, String> {
        self.fence_of()?;
        let word = question["action"].as_str().unwrap_or("off");
        let action = Action::read(word).ok_or_else(|| format!("`{word}`: off, reboot or status"))?;
        let known = self.nodes.borrow().iter().any(|known| known.id == node);
        if !known {
            return Err(format!("node {} is not in the cluster", node.0));
        }
        if action == Action::Status {
            return Ok(action);
        }
        if node == self.me {
            return Err("a node does not fence itself: ask another one".into());
        }
        let engine = self.engine.borrow();
        let (diagnosis, ..) = engine.look().ok_or(STARTING)?;
        let down = diagnosis.status(node).is_some_and(|(status, _)| matches!(status, Status::Down | Status::Left));
        if !down && question["force"] != true {
            let mend = format!(
                "`apus maintenance on {}` moves its work away in order; `--force` fences it all the same",
                node.0
            );
            return Err(format!("node {} is up: {mend}", node.0));
        }
        Ok(action)
    }

    fn call(&self, node: NodeId, action: Action, epoch: u64, why: &str) -> Call {
        let address = self.nodes.borrow().iter().find(|known| known.id == node).map(|known| known.address.to_string());
        let targets = self.members.config.fence.as_ref().map(|fence| &fence.targets);
        Call {
            action,
            cluster: self.cluster,
            node,
            address: address.unwrap_or_default(),
            target: targets.and_then(|targets| targets.get(&node).cloned()),
            epoch,
            by: self.me,
            why: why.chars().filter(|c| !c.is_control()).take(REASON).collect(),
        }
    }

    /// An operator has a node fenced, or has the plug-in looked at.
    pub(super) async fn fence(&self, node: NodeId, question: &Value) -> Result<Value, String> {
        let action = self.may_fence(node, question)?;
        let why = question["why"].as_str().filter(|why| !why.is_empty()).unwrap_or("an operator asks for it");
        let (verdict, said, epoch) = self.fence_now(node, action, why).await?;
        let answer =
            json!({ "done": verdict == Verdict::Done, "verdict": verdict.word(), "said": said, "epoch": epoch });
        if verdict == Verdict::Done {
            return Ok(answer);
        }
        Err(format!("node {}: {} {}: {said}", node.0, action.word(), verdict.word()))
    }

    /// Puts it into the log, asks the plug-in, and puts down what became of it.
    async fn fence_now(&self, node: NodeId, action: Action, why: &str) -> Result<(Verdict, String, u64), String> {
        let setting = roster::fencing(node);
        let mut record =
            json!({ "action": action.word(), "by": self.me.0, "since_us": wall(), "why": why, "state": "ordered" });
        record["life"] = self.life(node).map(|life| life.0).into();
        record["down"] = self.down(&self.engine.borrow()).contains(&node).into();
        let changes = action != Action::Status;
        if changes {
            self.put_words(setting, record.to_string().into_bytes()).await?;
        }
        let epoch = self.engine.borrow().look().map_or(0, |(_, log, ..)| log.commit().0);
        let call = self.call(node, action, epoch, why);
        self.note_fence(node, epoch, &format!("fencing node {}: {} begins, for {why}", node.0, action.word()));
        let (verdict, said) = self.run_plugin(call).await?;
        self.note_fence(node, epoch, &format!("fencing node {}: {} {}: {said}", node.0, action.word(), verdict.word()));
        if changes {
            record["epoch"] = epoch.into();
            record["state"] = verdict.word().into();
            record["at_us"] = wall().into();
            // The machine is stopped or not: that the log cannot be told now changes nothing of it.
            if let Err(error) = self.put_words(setting, record.to_string().into_bytes()).await {
                (self.members.say)(&format!("fencing node {}: the log does not say how it went: {error}", node.0));
            }
        }
        Ok((verdict, said, epoch))
    }

    async fn run_plugin(&self, call: Call) -> Result<(Verdict, String), String> {
        let fence = self.fence_of()?.clone();
        let folder = self.members.config.folder.clone();
        let within = Duration::from_micros(fence.within.0);
        let ran = tokio::task::spawn_blocking(move || {
            if call.action != Action::Status && !remember(folder, &call).map_err(|error| error.to_string())? {
                return Ok((Verdict::Stale, "this node has asked with a later epoch before".to_owned()));
            }
            let input = format!("{}\n", call.input());
            let ended = plugin::ask(&fence.command, &call.arguments(), &call.environment(), &input, within);
            let ended = ended.map_err(|error| error.to_string())?;
            let late = format!("it was not done within {} s and was killed. {}", within.as_secs(), ended.said);
            Ok::<_, String>((Verdict::of(ended.code), if ended.late { late } else { ended.said }))
        });
        ran.await.map_err(|error| error.to_string())?
    }

    fn life(&self, node: NodeId) -> Option<Incarnation> {
        let engine = self.engine.borrow();
        engine.look().and_then(|(diagnosis, ..)| diagnosis.status(node)).map(|(_, life)| life)
    }

    fn note_fence(&self, node: NodeId, epoch: u64, text: &str) {
        let entry = Entry { about: Some(node.0), epoch: Some(epoch), ..Entry::new("host", "fence", text) };
        self.view.note(&self.engine.borrow(), entry);
        (self.members.say)(text);
    }

    /// Nodes that are to be fenced by this one, which coordinates: down, and not without anything when they were last up. Nobody without a
    /// fresh majority.
    fn due(&self, held: &BTreeMap<NodeId, Vec<String>>) -> Vec<(NodeId, Option<Incarnation>)> {
        let engine = self.engine.borrow();
        let Some((diagnosis, log, ..)) = engine.look() else { return Vec::new() };
        let fresh = log.leads().is_some() && log.quorum_contact(now()).is_some_and(|at| now().since(at) < LOST);
        if !fresh || !log.own_term_committed() {
            return Vec::new();
        }
        let down = self.down(&engine).into_iter().filter(|node| held.get(node).is_some_and(|held| !held.is_empty()));
        let all = down.map(|node| (node, diagnosis.status(node).map(|(_, life)| life)));
        // Once for each of its lives, whoever did it; who was up when it was fenced may have lived on.
        all.filter(|(node, life)| {
            let record = roster::words(&log.state().settings, roster::fencing(*node));
            let done = record["state"] == Verdict::Done.word() && record["down"] == true;
            !(done && record["life"] == json!(life.map(|life| life.0)))
        })
        .collect()
    }

    /// What nodes hold that are up; who is down keeps what it had.
    fn remember_held(&self, held: &mut BTreeMap<NodeId, Vec<String>>) {
        let (members, down) = {
            let engine = self.engine.borrow();
            let Some((_, log, ..)) = engine.look() else { return };
            (log.membership().members(), self.down(&engine))
        };
        held.retain(|node, _| members.contains(node));
        for node in members {
            let now = self.held_by(node);
            if !down.contains(&node) || !now.is_empty() {
                held.insert(node, now);
            }
        }
    }
}

/// Notes the epoch that a node is fenced with; `false`: a later one was there before.
fn remember(folder: PathBuf, call: &Call) -> std::io::Result<bool> {
    let file = folder.join("fenced");
    let known: Value =
        std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let key = call.node.0.to_string();
    if known[&key].as_u64().is_some_and(|known| known > call.epoch) {
        return Ok(false);
    }
    let mut all = known.as_object().cloned().unwrap_or_default();
    all.insert(key, call.epoch.into());
    let fresh = folder.join("fenced.new");
    std::fs::write(&fresh, Value::Object(all).to_string())?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(fresh, file)?;
    Ok(true)
}

/// Has nodes fenced while this one coordinates, if the configuration says so.
pub(super) async fn follow(serving: Serving) {
    if !serving.members.config.fence.as_ref().is_some_and(|fence| fence.auto) {
        return;
    }
    let mut tries: BTreeMap<(NodeId, Option<Incarnation>), (u32, Instant)> = BTreeMap::new();
    let mut held = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        serving.remember_held(&mut held);
        let due = serving.due(&held);
        tries.retain(|key, _| due.contains(key));
        for key in due {
            let (many, again) = tries.entry(key).or_insert((0, Instant::now()));
            if *many >= TRIES || Instant::now() < *again {
                continue;
            }
            *many += 1;
            *again = Instant::now() + AGAIN;
            let why = format!("it is down and held {}", held[&key.0].join(", "));
            if let Err(error) = serving.fence_now(key.0, Action::Off, &why).await {
                (serving.members.say)(&format!("fencing node {}: {error}", key.0.0));
            }
        }
    }
}
