//! The control socket of a running node.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use apus_engine::consensus::{Consensus, Grant, ViewState};
use apus_engine::diagnosis::Status;
use apus_engine::views::Order as Wish;
use apus_engine::{Command, Micros, NodeId, ResourceId, ServiceConfig, SubmitError};
use apus_os::Trace;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::address::Order;
use super::cluster::Nodes;
use super::files::Files;
use super::held::Held;
use super::machine::is_down;
use super::places::Places;
use super::programs::Programs;
use super::remote::{self, Far, Local};
use super::trace::Bounds;
use super::view::View;
use super::{DISPATCHER, now};
use crate::hex::mac_text;
use crate::view::Entry;
use crate::{Error, Setup};

/// A question is at most so long, in bytes.
pub(super) const LONGEST: u64 = 4_096;
/// Who asks has so long to say what.
const PATIENCE: Duration = Duration::from_secs(5);
/// Askers at once.
const PLACES: usize = 64;
pub(super) const STARTING: &str = "this node is starting, or its disk failed; see its output";
pub(super) const NO_ADDRESS: &str = "this cluster has no address: its configuration has no `[vip]`";

/// What questions are answered from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) engine: Rc<RefCell<Held>>,
    /// Wakes the loop: the engine has something to do.
    pub(super) nudge: Rc<Notify>,
    /// `None` without an address.
    pub(super) address: Option<Sender<Order>>,
    pub(super) nodes: Nodes,
    pub(super) me: NodeId,
    pub(super) services: Vec<ServiceConfig>,
    pub(super) programs: Rc<Programs>,
    pub(super) files: Rc<Files>,
    /// How the address is set up where the log does not say.
    pub(super) first: Option<Setup>,
    pub(super) members: super::cluster::Members,
    /// The cluster's number, and how long leases are.
    pub(super) cluster: u32,
    pub(super) lease: Micros,
    /// Journal and peers.
    pub(super) view: Rc<View>,
    /// What is done here for operators elsewhere, and elsewhere for those here.
    pub(super) far: Rc<Far>,
    /// The node shall take its own place.
    pub(super) anew: Rc<Cell<bool>>,
    /// One machine is fenced at a time.
    pub(super) fencing: Rc<tokio::sync::Mutex<()>>,
}

/// Listens, unless a node does already.
pub(super) async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let place = path.display();
    let failed = |error: std::io::Error| Error::Failed(format!("{place}: {error}"));
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::Usage(format!(
            "{place}: a node runs here already; end it first, or give this one another `control`"
        )));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until it is aborted.
pub(super) async fn serve(listener: UnixListener, serving: Serving) {
    let own = fs::metadata("/proc/self").map_or(0, |own| own.uid());
    let places = Places::new(PLACES);
    let mut told: Option<tokio::time::Instant> = None;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // The file's rights are set after it is there.
        let Some(peer) = stream.peer_cred().ok().filter(|peer| peer.uid() == own || peer.uid() == 0) else {
            continue;
        };
        let by =
            Local { user: peer.uid(), process: peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default() };
        let mut place = places.take().await;
        let serving = serving.clone();
        let gave_way = places.evicted();
        if serving.view.slow.gave_way_at_control(gave_way) && told.is_none_or(|told| told.elapsed() > PATIENCE) {
            told = Some(tokio::time::Instant::now());
            let text = format!("the control socket is full: {gave_way} who asked too slowly gave way so far");
            serving.view.note(&serving.engine.borrow(), Entry::new("host", "slow-asker", text));
        }
        tokio::task::spawn_local(async move {
            let wanted = place.give_up.take();
            let busy = Cell::new(false);
            let wanted = async {
                match wanted {
                    Some(wanted) => drop(wanted.await),
                    None => std::future::pending().await,
                }
                // What was begun is done to its end.
                while busy.get() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = serving.talk(stream, by, &busy) => {}
                () = wanted => {}
            }
            drop(place);
        });
    }
}

impl Serving {
    /// One question of one asker; it is `busy` while an order is carried out.
    async fn talk(&self, stream: UnixStream, by: Local, busy: &Cell<bool>) {
        let (from, mut to) = stream.into_split();
        let (mut line, mut from) = (String::new(), BufReader::new(from.take(LONGEST)));
        if !matches!(timeout(PATIENCE, from.read_line(&mut line)).await, Ok(Ok(_))) {
            self.view.slow.control.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let trace = self.trace(&line).await;
        if let Some(Ok((trace, bounds))) = trace {
            return super::trace::tell(trace, bounds, &mut to).await;
        }
        let refused = trace.and_then(Result::err).map(Err);
        let question: Value = serde_json::from_str(&line).unwrap_or_default();
        if remote::is_ours(&question) {
            // Frames follow once it is granted, and not before.
            let early = !from.buffer().is_empty();
            let whole = from.into_inner().into_inner().reunite(to).ok().and_then(|whole| whole.into_std().ok());
            if let Some(whole) = whole.filter(|_| !early) {
                self.far(&question, by, whole).await;
            }
            return;
        }
        if question["do"] == "events" {
            return self.tell_events(&question, &mut to).await;
        }
        self.ordered(&question, by.user);
        let answer = match refused {
            Some(refused) => refused,
            None => {
                busy.set(true);
                self.answer(&line).await
            }
        };
        busy.set(false);
        if let Err(why) = &answer {
            self.refused(&question, why);
        }
        let answer = answer.unwrap_or_else(|what| json!({"error": what}));
        let _ = to.write_all(format!("{answer}\n").as_bytes()).await;
    }
}

fn refusal(error: SubmitError) -> String {
    match error {
        SubmitError::NotWriter => "its files are not written on this node".into(),
        SubmitError::Unknown => "nobody has it yet, or there is no such node".into(),
        SubmitError::NotEligible(node) => {
            format!("node {} may not have it: it is down, drained, or no candidate", node.0)
        }
        SubmitError::TooOld(node) => {
            format!(
                "node {} runs a program that does not know settings, or was not heard yet: upgrade or start it",
                node.0
            )
        }
        other => format!("refused: {other:?}"),
    }
}

/// How many connections this machine's TCP has at the address: all that are neither listening nor over.
fn connections(setup: &Setup) -> Result<usize, String> {
    // As the kernel writes them: words of the machine's byte order, in hexadecimal digits.
    let words = |bytes: &[u8]| -> String {
        bytes.chunks(4).map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap_or_default()))).collect()
    };
    let mut all = 0;
    let own = [
        ("/proc/self/net/tcp", setup.v4.map(|v4| words(&v4.octets()))),
        ("/proc/self/net/tcp6", setup.v4.map(|v4| words(&v4.to_ipv6_mapped().octets()))),
        ("/proc/self/net/tcp6", setup.v6.map(|v6| words(&v6.octets()))),
    ];
    for (file, own) in own {
        let Some(own) = own else { continue };
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.ends_with('6') => continue,
            other => other.map_err(|error| format!("{file}: {error}"))?,
        };
        all += text.lines().skip(1).filter(|line| is_open(line, &own)).count();
    }
    Ok(all)
}

/// Whether a line of the kernel's list is a connection at this address that is not over: neither listening nor closed.
fn is_open(line: &str, own: &str) -> bool {
    let mut words = line.split_whitespace();
    let here = words.nth(1).and_then(|here| here.split(':').next());
    let state = words.nth(1);
    here == Some(own) && !matches!(state, Some("06" | "07" | "0A") | None)
}

impl Serving {
    async fn answer(&self, line: &str) -> Result<Value, String> {
        let question: Value = serde_json::from_str(line).map_err(|error| format!("no question: {error}"))?;
        let node = || {
            let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok()).map(NodeId);
            node.ok_or_else(|| "`node` must be a node's number".to_owned())
        };
        if question["dry"] == true {
            return self.plan(&question).await;
        }
        match question["do"].as_str().unwrap_or_default() {
            "status" => {
                let mut status = self.status();
                if self.address.is_some() {
                    status["address"] = self.of_address(|to| Order::Status { to }).await?;
                }
                Ok(status)
            }
            "certificates" => {
                let mut status = self.status();
                status["cluster"] = self.members.status();
                Ok(status)
            }
            "table" => self.of_address(|to| Order::Table { to }).await,
            "set" => self.set(&question).await,
            "move" => self.hand_over(self.meant(&question)?, node()?).await,
            "drain" => self.drain(node()?, true).await,
            "undrain" => self.undrain(node()?).await,
            "maintain" => self.maintain(node()?, &question).await,
            "fence" => self.fence(node()?, &question).await,
            "apply" => self.apply(&question).await,
            "rest" => self.rest(node()?).await,
            "services" => Ok(self.services()),
            "files" => self.files_status(&question).await,
            "orphans" => self.orphans(&question),
            "paths" => self.paths(&question),
            "scrub" | "compare" => self.look_through(&question).await,
            "token" => self.token(&question),
            "leave" => self.leave(node()?).await,
            "rotate" => self.rotate(question["what"].as_str().unwrap_or_default()).await,
            "note" => self.note(&question),
            "cluster" => Ok(self.cluster().await),
            "why" => self.why(question["of"].as_str().unwrap_or_default()).await,
            other => Err(format!("`{other}` is not known")),
        }
    }

    /// A trace, if that is the question.
    async fn trace(&self, line: &str) -> Option<Result<(Trace, Bounds), String>> {
        let question: Value = serde_json::from_str(line).ok()?;
        if question["do"] != "trace" {
            return None;
        }
        let bounds = Bounds::of(&question);
        let asked = self.of_address(|to| Order::Trace { bytes: bounds.bytes, to }).await;
        Some(asked.and_then(|trace| trace.map_err(|error| error.to_string())).map(|trace| (trace, bounds)))
    }

    pub(super) async fn of_address<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, String> {
        let (to, answer) = oneshot::channel();
        let address = self.address.as_ref().ok_or_else(|| NO_ADDRESS.to_owned())?;
        address.send(order(to)).map_err(|_| "the node is ending".to_owned())?;
        answer.await.map_err(|_| "the node is ending".to_owned())
    }

    /// How the address is set up, where it was `first` before anything was changed.
    pub(super) fn set_up(&self, first: Setup) -> Result<Setup, String> {
        let engine = self.engine.borrow();
        let (_, log, ..) = engine.look().ok_or(STARTING)?;
        log.state().settings.get(&DISPATCHER).map_or(Ok(first), |setting| first.read(setting))
    }

    pub(super) async fn set(&self, question: &Value) -> Result<Value, String> {
        let first = self.first.ok_or(NO_ADDRESS)?;
        let value = self.set_up(first)?.with(question)?.bytes();
        let wanted = value.clone();
        self.order(Wish::Set { resource: DISPATCHER, value }, move |state| {
            state.settings.get(&DISPATCHER) == Some(&wanted)
        })
        .await
    }

    /// What is to be moved: the address, if nothing is named.
    pub(super) fn meant(&self, question: &Value) -> Result<ResourceId, String> {
        let Some(what) = question["what"].as_str() else { return Ok(DISPATCHER) };
        match self.view.resources(what)[..] {
            [resource] => Ok(ResourceId(resource)),
            [] => Err(format!("`{what}` is not known here; `apus status` names what can be moved")),
            _ => Err(format!("`{what}` has several slots: name one, such as {what}.0")),
        }
    }

    async fn hand_over(&self, resource: ResourceId, to: NodeId) -> Result<Value, String> {
        self.may_have(resource, to)?;
        self.order(Wish::Move { resource, to }, move |state| {
            let grant = state.grants.get(&resource);
            grant.is_some_and(|grant| grant.moving == Some(Some(to)) || grant.holder == to && !grant.released)
        })
        .await
    }

    /// Whether a node can be given something now.
    pub(super) fn may_have(&self, resource: ResourceId, to: NodeId) -> Result<(), String> {
        self.is_member(to)?;
        let what = self.view.name(resource);
        let engine = self.engine.borrow();
        let drained = engine.look().is_some_and(|(_, log, ..)| log.state().drained.contains(&to));
        if drained || is_down(&engine, to) {
            let (why, mend) = if drained { ("drained", "undrain it first") } else { ("down", "start it first") };
            return Err(format!("node {} may not have {what}: it is {why}; {mend}", to.0));
        }
        Ok(())
    }

    pub(super) async fn drain(&self, node: NodeId, on: bool) -> Result<Value, String> {
        self.is_member(node)?;
        self.order(Wish::Maintenance { node, on }, move |state| state.drained.contains(&node) == on).await
    }

    pub(super) fn is_member(&self, node: NodeId) -> Result<(), String> {
        let engine = self.engine.borrow();
        let (_, log, ..) = engine.look().ok_or(STARTING)?;
        if log.membership().contains(node) {
            return Ok(());
        }
        let known: Vec<String> = log.membership().members().iter().map(|node| node.0.to_string()).collect();
        Err(format!("node {} is not in the cluster; its nodes are {}", node.0, known.join(", ")))
    }

    /// Has something done by whoever coordinates, and waits until this node's log shows it.
    pub(super) async fn order(&self, wish: Wish, shown: impl Fn(&ViewState) -> bool) -> Result<Value, String> {
        let (mut why, mut asked) = (String::new(), false);
        for _ in 0..12 {
            {
                let mut engine = self.engine.borrow_mut();
                let taken = match engine.submit(now(), wish.clone().into()) {
                    Err(SubmitError::NotCoordinator { .. }) => match engine.pass_on(now(), wish.clone()) {
                        // Who leads was heard, and said what it speaks.
                        Err(SubmitError::TooOld(node)) => {
                            let mend = "runs an earlier program: give the order there";
                            return Err(format!("node {}, which coordinates, {mend}", node.0));
                        }
                        other => other,
                    },
                    other => other,
                };
                asked |= taken.is_ok();
                why = match taken {
                    Ok(()) => "the coordinator did not do it; does it know of a majority of the nodes?".into(),
                    Err(SubmitError::NotCoordinator { .. }) => "no node coordinates: is a majority of them up?".into(),
                    Err(SubmitError::WindowFull { limit }) => format!("{limit} changes are under way"),
                    Err(SubmitError::ChangeInProgress) => "another change of it is under way".into(),
                    Err(error) => return Err(refusal(error)),
                };
            }
            self.nudge.notify_one();
            for _ in 0..40 {
                // A node that has begun anew knows its log, but not yet how much of it is so: what is undone there may be of long ago.
                let current = |log: &Consensus| log.commit() == log.last_index() && shown(log.state());
                if asked && self.engine.borrow().look().is_some_and(|(_, log, ..)| current(log)) {
                    return Ok(json!({"done": true}));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Err(format!("not done within 5 s: {why}"))
    }

    /// How far a drained node is: whether it still has the address, slots of this node's table, and connections. Those only the
    /// node itself can count.
    async fn rest(&self, node: NodeId) -> Result<Value, String> {
        self.is_member(node)?;
        let Some(first) = self.first else { return self.rest_of_services(node) };
        let table = self.of_address(|to| Order::Table { to }).await?;
        let engine = self.engine.borrow();
        let (_, log, views, _) = engine.look().ok_or(STARTING)?;
        let state = log.state();
        let grant = state.grants.get(&DISPATCHER).filter(|grant| !grant.released);
        let has =
            grant.is_some_and(|grant| grant.holder == node) || node == self.me && views.holds(DISPATCHER).is_some();
        let mac = self.nodes.borrow().iter().find(|member| member.id == node).map(|member| mac_text(member.mac));
        let slots =
            table["servers"].as_array().into_iter().flatten().find(|server| server["mac"].as_str() == mac.as_deref());
        let slots = slots.map_or(0, |server| server["slots"].as_u64().unwrap_or_default());
        let set_up = self.set_up(first)?;
        let connections = if node == self.me { Some(connections(&set_up)?) } else { None };
        let drained = state.drained.contains(&node);
        let services = self.slots_of(state, node);
        let rests =
            drained && !has && slots == 0 && services == 0 && connections.is_none_or(|connections| connections == 0);
        Ok(json!({
            "drained": drained,
            "has_address": has,
            "slots": slots,
            "connections": connections,
            "services": services,
            "rests": rests,
        }))
    }

    /// Slots of services that a node holds.
    fn slots_of(&self, state: &ViewState, node: NodeId) -> usize {
        let held = |(resource, grant): &(&ResourceId, &Grant)| {
            **resource != DISPATCHER && grant.holder == node && !grant.released
        };
        state.grants.iter().filter(held).count()
    }

    /// How far a drained node is, where there is no address.
    fn rest_of_services(&self, node: NodeId) -> Result<Value, String> {
        let engine = self.engine.borrow();
        let (_, log, ..) = engine.look().ok_or(STARTING)?;
        let (drained, services) = (log.state().drained.contains(&node), self.slots_of(log.state(), node));
        Ok(json!({
            "drained": drained, "has_address": false, "slots": 0, "connections": 0, "services": services,
            "rests": drained && services == 0,
        }))
    }

    /// Whether this node coordinates and is the dispatcher.
    pub(super) fn is_both(&self) -> bool {
        let engine = self.engine.borrow();
        let Some((_, log, views, _)) = engine.look() else { return false };
        log.leads().is_some() && views.holds(DISPATCHER).is_some()
    }

    /// Hands the address over to another node that can have it, if there is one.
    pub(super) fn step_aside(&self) {
        let to = {
            let engine = self.engine.borrow();
            let Some((diagnosis, log, ..)) = engine.look() else { return };
            let can = |node: NodeId| {
                let up = diagnosis.status(node).is_none_or(|(status, _)| status == Status::Up);
                up && node != self.me && !log.state().drained.contains(&node) && log.membership().contains(node)
            };
            self.nodes.borrow().iter().map(|node| node.id).find(|node| can(*node))
        };
        if let Some(to) = to {
            let text = format!("coordinator and dispatcher are one node: the address is to go to node {}", to.0);
            let entry = Entry {
                about: Some(to.0),
                resource: Some(DISPATCHER.0),
                name: Some("the address".into()),
                ..Entry::new("host", "step-aside", text)
            };
            self.view.note(&self.engine.borrow(), entry);
            let _ = self.engine.borrow_mut().submit(now(), Command::Move { resource: DISPATCHER, to });
            self.nudge.notify_one();
        }
    }

    fn status(&self) -> Value {
        let engine = self.engine.borrow();
        let Some((diagnosis, log, views, _)) = engine.look() else {
            return json!({"node": self.me.0, "state": "starting, or its disk failed"});
        };
        let state = log.state();
        let grant = state.grants.get(&DISPATCHER);
        let nodes: Vec<Value> = self
            .nodes
            .borrow()
            .iter()
            .map(|node| {
                let status = match diagnosis.status(node.id) {
                    Some((status, _)) => format!("{status:?}").to_lowercase(),
                    None => "up".into(),
                };
                json!({
                    "node": node.id.0,
                    "address": node.address.to_string(),
                    "status": status,
                    "drained": state.drained.contains(&node.id),
                    "weight": node.weight,
                })
            })
            .collect();
        json!({
            "node": self.me.0,
            "state": "running",
            "incarnation": engine.incarnation().0,
            "term": log.term().0,
            "coordinator": log.leader().map(|node| node.0),
            "dispatcher": grant.filter(|grant| !grant.released).map(|grant| grant.holder.0),
            "epoch": grant.map(|grant| grant.epoch.0),
            "dispatches": views.holds(DISPATCHER).is_some(),
            "nodes": nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_that_are_open_are_told_from_those_that_are_over() {
        let line =
            |state| format!("   0: 6400610A:1F90 C800610A:D2F0 {state} 00000000:00000000 00:00000000 00000000 0");
        for (state, open) in [("01", true), ("08", true), ("03", true), ("0A", false), ("06", false), ("07", false)] {
            assert_eq!(super::is_open(&line(state), "6400610A"), open, "{state}");
            assert!(!super::is_open(&line(state), "6500610A"), "another address");
        }
    }
}
