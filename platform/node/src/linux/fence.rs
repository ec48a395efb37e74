//! Another machine is stopped by the operator's plug-in. The log says so first: who has no majority fences nobody, and each attempt
//! has a place in the log, its epoch, which only grows. A node remembers the highest that it gave to the plug-in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apus_engine::{Incarnation, NodeId, ResourceId};
use apus_os::linux::plugin;
use serde_json::{Value, json};

use super::control::{STARTING, Serving};
use super::{COMMANDS, now};
use crate::fence::{Action, Call, Fence, Verdict, reason};
use crate::roster;
use crate::view::{Entry, wall};

/// Nodes that are down are looked for this often.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure it is tried again so much later, and so often in all in one life of a node.
const AGAIN: Duration = Duration::from_secs(20);
const TRIES: u32 = 3;
/// A leader that heard no majority for so long fences nobody by itself.
const LOST: apus_engine::Micros = apus_engine::Micros::from_millis(250);
/// Between the order and the plug-in, the node was seen to be up.
const GIVEN_UP: &str = "given up: it is up again";

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
        if !diagnosis.is_convicted(node) && question["force"] != true {
            let mend = format!(
                "`apus maintenance on {}` moves its work away in order; `--force` fences it all the same",
                node.0
            );
            return Err(format!("node {} is up, or down by this node's word alone: {mend}", node.0));
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
            why: reason(why),
        }
    }

    /// An operator has a node fenced, or has the plug-in looked at.
    pub(super) async fn fence(&self, node: NodeId, question: &Value) -> Result<Value, String> {
        let action = self.may_fence(node, question)?;
        let why = question["why"].as_str().filter(|why| !why.is_empty()).unwrap_or("an operator asks for it");
        let still = || self.may_fence(node, question).is_ok();
        let (verdict, said, epoch) = self.fence_now(node, action, why, still).await?;
        let answer =
            json!({ "done": verdict == Verdict::Done, "verdict": verdict.word(), "said": said, "epoch": epoch });
        if verdict == Verdict::Done {
            return Ok(answer);
        }
        Err(format!("node {}: {} {}: {said}", node.0, action.word(), verdict.word()))
    }

    /// Puts it into the log, asks the plug-in unless it need not be done any more, and puts down what became of it. One at a time.
    async fn fence_now(
        &self,
        node: NodeId,
        action: Action,
        why: &str,
        still: impl Fn() -> bool,
    ) -> Result<(Verdict, String, u64), String> {
        let why = reason(why);
        let begin = async |epoch: u64| {
            let call = self.call(node, action, epoch, &why);
            self.note_fence(node, epoch, &format!("fencing node {}: {} begins, for {why}", node.0, action.word()));
            self.run_plugin(call).await
        };
        let tell = |epoch: u64, state: &str, said: &str| {
            self.note_fence(node, epoch, &format!("fencing node {}: {} {state}: {said}", node.0, action.word()));
        };
        if action == Action::Status {
            let epoch = self.reached();
            let (verdict, said) = begin(epoch).await?;
            tell(epoch, verdict.word(), &said);
            return Ok((verdict, said, epoch));
        }
        let _one = self.fencing.lock().await;
        let mut record =
            json!({ "action": action.word(), "by": self.me.0, "since_us": wall(), "why": why, "state": "ordered" });
        record["life"] = self.life(node).map(|life| life.0).into();
        record["down"] = self.is_convicted(node).into();
        let ordered = record.to_string().into_bytes();
        let entry = Setting { serving: self, setting: roster::fencing(node) };
        let went = |epoch: u64, done: Option<&(Verdict, String)>| {
            let (state, said) = match done {
                Some((verdict, said)) => (verdict.word(), said.as_str()),
                None => (GIVEN_UP, "the plug-in was not asked"),
            };
            tell(epoch, state, said);
            record["epoch"] = epoch.into();
            record["state"] = state.into();
            record["at_us"] = wall().into();
            record.to_string().into_bytes()
        };
        let (epoch, done, put) = attempt(&entry, ordered, still, begin, went).await?;
        if let Err(error) = put {
            (self.members.say)(&format!("fencing node {}: the log does not say how it went: {error}", node.0));
        }
        done.map(|(verdict, said)| (verdict, said, epoch)).ok_or_else(|| GIVEN_UP.into())
    }

    /// The place in the log that this node knows.
    fn reached(&self) -> u64 {
        self.engine.borrow().look().map_or(0, |(_, log, ..)| log.commit().0)
    }

    async fn run_plugin(&self, call: Call) -> Result<(Verdict, String), String> {
        let fence = self.fence_of()?.clone();
        let folder = self.members.config.folder.clone();
        let within = Duration::from_micros(fence.within.0);
        // Whoever does not wait any more wants nothing: the plug-in is killed.
        let waits = Arc::new(());
        let wanted = Arc::downgrade(&waits);
        let ran = tokio::task::spawn_blocking(move || {
            if call.action != Action::Status && !remember(&folder, &call).map_err(|error| error.to_string())? {
                return Ok((Verdict::Stale, "this node has asked with a later epoch before".to_owned()));
            }
            let input = format!("{}\n", call.input());
            let (more, environment, notes) = (call.arguments(), call.environment(), folder.join(COMMANDS));
            let ended = plugin::ask(&fence.command, &more, &environment, &input, within, &wanted, &notes);
            let ended = ended.map_err(|error| error.to_string())?;
            let late = format!("it was not done within {} s and was killed. {}", within.as_secs(), ended.said);
            Ok::<_, String>((Verdict::of(ended.code), if ended.late { late } else { ended.said }))
        });
        let ended = ran.await.map_err(|error| error.to_string());
        drop(waits);
        ended?
    }

    /// Whether a node is down, by more than this node's word.
    fn is_convicted(&self, node: NodeId) -> bool {
        self.engine.borrow().look().is_some_and(|(diagnosis, ..)| diagnosis.is_convicted(node))
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

    /// Nodes that are to be fenced by this one, which coordinates: convicted, not in maintenance, and not without anything when they were
    /// last up. Nobody without a fresh majority.
    fn due(&self, held: &BTreeMap<NodeId, Vec<String>>) -> Vec<(NodeId, Option<Incarnation>)> {
        let engine = self.engine.borrow();
        let Some((diagnosis, log, ..)) = engine.look() else { return Vec::new() };
        let fresh = log.leads().is_some() && log.quorum_contact(now()).is_some_and(|at| now().since(at) < LOST);
        if !fresh || !log.own_term_committed() {
            return Vec::new();
        }
        let members = log.membership().members();
        let down = members.into_iter().filter(|node| {
            *node != self.me
                && diagnosis.is_convicted(*node)
                && !log.state().drained.contains(node)
                && held.get(node).is_some_and(|held| !held.is_empty())
        });
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

/// Where attempts to fence a node are put down: the newest one has taken the place of the one before.
trait Log {
    /// Puts one there; the place that the log has reached then.
    async fn put(&self, words: Vec<u8>) -> Result<u64, String>;
    /// What is there.
    fn newest(&self) -> Option<Vec<u8>>;
}

struct Setting<'s> {
    serving: &'s Serving,
    setting: ResourceId,
}

impl Log for Setting<'_> {
    async fn put(&self, words: Vec<u8>) -> Result<u64, String> {
        self.serving.put_words(self.setting, words).await?;
        Ok(self.serving.reached())
    }

    fn newest(&self) -> Option<Vec<u8>> {
        let engine = self.serving.engine.borrow();
        engine.look().and_then(|(_, log, ..)| log.state().settings.get(&self.setting).cloned())
    }
}

/// One attempt: into the log, then looked at again, then done, unless it need not be any more (`None`); and how it went into the log,
/// unless a later attempt is there. Gives its epoch, what was done, and whether the log says so.
async fn attempt<T>(
    log: &impl Log,
    ordered: Vec<u8>,
    still: impl Fn() -> bool,
    act: impl AsyncFnOnce(u64) -> Result<T, String>,
    went: impl FnOnce(u64, Option<&T>) -> Vec<u8>,
) -> Result<(u64, Option<T>, Result<(), String>), String> {
    let epoch = log.put(ordered.clone()).await?;
    let done = if still() { Some(act(epoch).await?) } else { None };
    let words = went(epoch, done.as_ref());
    // The machine is stopped or not: that the log cannot be told now changes nothing of it.
    let put = if log.newest() == Some(ordered) {
        log.put(words).await.map(|_| ())
    } else {
        Err("there is a later attempt".into())
    };
    Ok((epoch, done, put))
}

/// Notes the epoch that a node is fenced with, so that it lasts; `false`: a later one was there before.
fn remember(folder: &Path, call: &Call) -> io::Result<bool> {
    let file = folder.join("fenced");
    let wrong = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let mut all: BTreeMap<String, u64> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| wrong(error.into()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(wrong(error)),
    };
    let key = call.node.0.to_string();
    if all.get(&key).is_some_and(|known| *known > call.epoch) {
        return Ok(false);
    }
    all.insert(key, call.epoch);
    let fresh = folder.join("fenced.new");
    std::fs::write(&fresh, serde_json::to_string(&all)?)?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(fresh, file)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(true)
}

/// What was seen of the nodes, look by look.
#[derive(Default)]
struct Watched {
    held: BTreeMap<NodeId, Vec<String>>,
    /// Since when a node is convicted in this life without a break.
    since: BTreeMap<NodeId, (Option<Incarnation>, Instant)>,
}

/// Has nodes fenced while this one coordinates, if the configuration says so.
pub(super) async fn follow(serving: Serving) {
    let Some(fence) = serving.members.config.fence.as_ref().filter(|fence| fence.auto) else { return };
    let (watched, after) = (RefCell::default(), Duration::from_micros(fence.after.0));
    tokio::join!(watch(&serving, &watched), act(&serving, &watched, after));
}

/// Looks on, also while a plug-in runs.
async fn watch(serving: &Serving, watched: &RefCell<Watched>) {
    loop {
        {
            let mut watched = watched.borrow_mut();
            serving.remember_held(&mut watched.held);
            let nodes: Vec<NodeId> = watched.held.keys().copied().collect();
            watched.since.retain(|node, (life, _)| serving.is_convicted(*node) && serving.life(*node) == *life);
            for node in nodes.into_iter().filter(|node| serving.is_convicted(*node)) {
                watched.since.entry(node).or_insert_with(|| (serving.life(node), Instant::now()));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Fences who was down for long enough, one after the other.
async fn act(serving: &Serving, watched: &RefCell<Watched>, after: Duration) {
    // In which life it was tried, how often, and when it may be again.
    let mut tries: BTreeMap<NodeId, (Option<Incarnation>, u32, Instant)> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let ripe = |node: &NodeId| watched.borrow().since.get(node).is_some_and(|(_, since)| since.elapsed() >= after);
        let may = |node: NodeId, life: Option<Incarnation>| match tries.get(&node) {
            Some((tried, many, again)) if *tried == life => *many < TRIES && Instant::now() >= *again,
            _ => true,
        };
        let due = serving.due(&watched.borrow().held);
        let Some((node, life)) = due.into_iter().find(|(node, life)| ripe(node) && may(*node, *life)) else { continue };
        let why = format!("it is down and held {}", watched.borrow().held[&node].join(", "));
        let still = || ripe(&node) && serving.is_convicted(node) && serving.life(node) == life;
        let done = serving.fence_now(node, Action::Off, &why, still).await;
        let many = match tries.get(&node) {
            Some((tried, many, _)) if *tried == life => *many,
            _ => 0,
        };
        let many = match done {
            // Asking again is of no use.
            Ok((Verdict::Unknown, ..)) => TRIES,
            _ => many + 1,
        };
        tries.insert(node, (life, many, Instant::now() + AGAIN));
        if let Err(error) = done {
            (serving.members.say)(&format!("fencing node {}: {error}", node.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A log in memory; `while_put` happens while an entry is on its way into it.
    #[derive(Default)]
    struct Memory<'t> {
        entries: RefCell<Vec<Vec<u8>>>,
        while_put: Option<&'t dyn Fn()>,
    }

    impl Log for Memory<'_> {
        async fn put(&self, words: Vec<u8>) -> Result<u64, String> {
            tokio::task::yield_now().await;
            if let Some(event) = self.while_put {
                event();
            }
            self.entries.borrow_mut().push(words);
            Ok(self.entries.borrow().len() as u64)
        }

        fn newest(&self) -> Option<Vec<u8>> {
            self.entries.borrow().last().cloned()
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn words(word: &str) -> Vec<u8> {
        word.as_bytes().to_vec()
    }

    fn went(epoch: u64, done: Option<&&str>) -> Vec<u8> {
        words(&format!("{} {epoch}", done.unwrap_or(&"given up")))
    }

    #[test]
    fn who_is_up_by_the_time_that_it_is_ordered_is_not_fenced() {
        let down = Cell::new(true);
        let back = || down.set(false);
        for comes_back in [false, true] {
            let log = Memory { while_put: comes_back.then_some(&back as &dyn Fn()), ..Memory::default() };
            let asked = Cell::new(0);
            let plugin = async |_| {
                asked.set(asked.get() + 1);
                Ok("stopped")
            };
            let (epoch, done, put) =
                block_on(attempt(&log, words("ordered"), || down.get(), plugin, went)).expect("it is in the log");
            assert!(epoch == 1 && put.is_ok());
            let (times, told) = if comes_back { (0, "given up 1") } else { (1, "stopped 1") };
            assert_eq!((asked.get(), done.is_some()), (times, !comes_back));
            assert_eq!(log.newest(), Some(words(told)), "and the log says so");
        }
    }

    #[test]
    fn how_an_attempt_went_does_not_hide_a_later_one() {
        let log = Memory::default();
        let slow = async |_| {
            // Another node coordinates, and begins, while the plug-in runs here.
            log.put(words("ordered by another")).await?;
            Ok("stopped")
        };
        let (epoch, done, put) =
            block_on(attempt(&log, words("ordered"), || true, slow, went)).expect("it is in the log");
        assert_eq!((epoch, done), (1, Some("stopped")), "it is known here");
        assert_eq!(put, Err("there is a later attempt".into()));
        assert_eq!(log.newest(), Some(words("ordered by another")));
        // What cannot be ordered is not done.
        struct Lost;
        impl Log for Lost {
            async fn put(&self, _: Vec<u8>) -> Result<u64, String> {
                Err("no majority".into())
            }
            fn newest(&self) -> Option<Vec<u8>> {
                None
            }
        }
        let never = async |_| -> Result<&str, String> { unreachable!("nobody decided it") };
        let refused = block_on(attempt(&Lost, words("ordered"), || true, never, went));
        assert_eq!(refused.map(|_| ()), Err("no majority".into()));
    }
}
