//! The control socket of a running node.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use apus_dispatch::Key;
use apus_engine::diagnosis::Status;
use apus_engine::{Command, Engine, NodeId, ServiceConfig, SubmitError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

use super::address::Order;
use super::programs::Programs;
use super::{DISPATCHER, now};
use crate::config::key_of;
use crate::{Error, Member};

/// A question is at most so long, in bytes.
const LONGEST: u64 = 4_096;
const NO_ADDRESS: &str = "this cluster has no address: its configuration has no `[vip]`";

/// What questions are answered from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) engine: Rc<RefCell<Engine>>,
    /// Wakes the loop: the engine has something to do.
    pub(super) nudge: Rc<Notify>,
    /// `None` without an address.
    pub(super) address: Option<Sender<Order>>,
    pub(super) nodes: Vec<Member>,
    pub(super) me: NodeId,
    pub(super) services: Vec<ServiceConfig>,
    pub(super) programs: Rc<Programs>,
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
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        // The file's rights are set after it is there.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
            continue;
        }
        let serving = serving.clone();
        tokio::task::spawn_local(async move {
            let (from, mut to) = stream.into_split();
            let mut line = String::new();
            if BufReader::new(from.take(LONGEST)).read_line(&mut line).await.is_ok() {
                let answer = serving.answer(&line).await.unwrap_or_else(|what| json!({"error": what}));
                let _ = to.write_all(format!("{answer}\n").as_bytes()).await;
            }
        });
    }
}

impl Serving {
    async fn answer(&self, line: &str) -> Result<Value, String> {
        let question: Value = serde_json::from_str(line).map_err(|error| format!("no question: {error}"))?;
        let node = || {
            let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok()).map(NodeId);
            node.ok_or_else(|| "`node` must be a node's number".to_owned())
        };
        match question["do"].as_str().unwrap_or_default() {
            "status" => {
                let mut status = self.status();
                if self.address.is_some() {
                    status["address"] = self.of_address(|to| Order::Status { to }).await?;
                }
                Ok(status)
            }
            "table" => self.of_address(|to| Order::Table { to }).await,
            "set" => self.set(&question),
            "services" => Ok(self.services()),
            "move" => self.submit(Command::Move { resource: DISPATCHER, to: node()? }),
            "drain" => self.submit(Command::Drain(node()?)),
            "undrain" => self.submit(Command::Undrain(node()?)),
            other => Err(format!("`{other}` is not known")),
        }
    }

    async fn of_address(&self, order: impl FnOnce(oneshot::Sender<Value>) -> Order) -> Result<Value, String> {
        let (to, answer) = oneshot::channel();
        let address = self.address.as_ref().ok_or_else(|| NO_ADDRESS.to_owned())?;
        address.send(order(to)).map_err(|_| "the node is ending".to_owned())?;
        answer.await.map_err(|_| "the node is ending".to_owned())
    }

    fn set(&self, question: &Value) -> Result<Value, String> {
        let key: Option<Key> = match question["key"].as_str() {
            Some(name) => Some(key_of(name).ok_or_else(|| format!("`{name}` is no key; use source, ports or quic"))?),
            None => None,
        };
        let log2_slots = question["log2_slots"].as_u64().and_then(|slots| u8::try_from(slots).ok());
        if log2_slots.is_some_and(|slots| !(4..=20).contains(&slots)) {
            return Err("a table has 2^4 to 2^20 slots".into());
        }
        let address = self.address.as_ref().ok_or_else(|| NO_ADDRESS.to_owned())?;
        address.send(Order::Set { key, log2_slots }).map_err(|_| "the node is ending".to_owned())?;
        Ok(json!({"done": true}))
    }

    fn submit(&self, command: Command) -> Result<Value, String> {
        let result = self.engine.borrow_mut().submit(now(), command);
        self.nudge.notify_one();
        match result {
            Ok(()) => Ok(json!({"done": true})),
            Err(SubmitError::NotCoordinator { hint: Some(node) }) => {
                Err(format!("node {} coordinates: ask it there", node.0))
            }
            Err(SubmitError::NotCoordinator { hint: None }) => {
                Err("no node coordinates at the moment; try again in a second".into())
            }
            Err(SubmitError::Unknown) => Err("there is no such node, or nobody has the address yet".into()),
            Err(SubmitError::NotEligible(node)) => {
                Err(format!("node {} may not have it: it is down, drained, or no candidate", node.0))
            }
            Err(SubmitError::WindowFull { limit }) => Err(format!("{limit} changes are under way; try again")),
            Err(other) => Err(format!("refused: {other:?}")),
        }
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
            self.nodes.iter().map(|node| node.id).find(|node| can(*node))
        };
        if let Some(to) = to {
            let _ = self.submit(Command::Move { resource: DISPATCHER, to });
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
