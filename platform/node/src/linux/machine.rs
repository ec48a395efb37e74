//! What the engine's host needs of this machine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use apus_dispatch::{self as dispatch, Members};
use apus_engine::diagnosis::Status;
use apus_engine::{
    Causes, Copy, Deadline, Engine, Event, Fact, GuardOrder, Input, NodeId, OpId, Outcome, ProcessOrder, Time, views,
};
use apus_host::{Hold, Machine};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::address::Order;
use super::cluster::Nodes;
use super::{DISPATCHER, Say, now};
use crate::Member;

/// The engine, where the control socket sees it too, and what of it the address follows.
pub(super) struct Live {
    engine: Rc<RefCell<Engine>>,
    address: Sender<Order>,
    nodes: Nodes,
    me: NodeId,
    told: Option<Seen>,
}

/// What the address follows: the newest grant's epoch, who serves, and how it is set up if the log says so.
#[derive(Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) fence: u64,
    pub(super) members: Members,
    pub(super) setting: Option<Vec<u8>>,
}

impl Live {
    pub(super) const fn new(engine: Rc<RefCell<Engine>>, address: Sender<Order>, nodes: Nodes, me: NodeId) -> Self {
        Self { engine, address, nodes, me, told: None }
    }

    /// Tells the address what has changed: who serves, and which dispatcher is the oldest that is obeyed.
    fn tell(&mut self) {
        let engine = self.engine.borrow();
        let Some(seen) = seen(&engine, &self.nodes.borrow(), self.me) else { return };
        if self.told.as_ref() != Some(&seen) {
            let _ = self.address.send(Order::Seen(seen.clone()));
            self.told = Some(seen);
        }
    }
}

/// Servers are the members of the cluster that are not down; who is drained takes nothing new.
fn seen(engine: &Engine, nodes: &[Member], me: NodeId) -> Option<Seen> {
    let (diagnosis, log, ..) = engine.look()?;
    let state = log.state();
    let serves = |node: NodeId| {
        let down = diagnosis.status(node).is_some_and(|(status, _)| matches!(status, Status::Down | Status::Left));
        log.membership().contains(node) && (node == me || !down)
    };
    let members = nodes.iter().filter(|node| serves(node.id)).map(|node| dispatch::Member {
        id: node.id.0.into(),
        mac: node.mac,
        weight: node.weight,
        draining: state.drained.contains(&node.id),
    });
    let fence = state.grants.get(&DISPATCHER).map_or(0, |grant| grant.epoch.0);
    let members = Members::new(members).unwrap_or_default();
    Some(Seen { fence, members, setting: state.settings.get(&DISPATCHER).cloned() })
}

impl Hold for Live {
    fn with<T>(&mut self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let result = act(&mut self.engine.borrow_mut());
        self.tell();
        Some(result)
    }
}

/// Boot clock, address, signals. It runs no programs: no service is configured.
pub(super) struct LiveMachine {
    address: Sender<Order>,
    done: mpsc::UnboundedReceiver<OpId>,
    waiting: VecDeque<Input>,
    nudge: Rc<Notify>,
    term: Signal,
    interrupt: Signal,
    say: Say,
}

impl LiveMachine {
    pub(super) fn new(
        address: Sender<Order>,
        done: mpsc::UnboundedReceiver<OpId>,
        nudge: Rc<Notify>,
        say: Say,
    ) -> std::io::Result<Self> {
        let (term, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { address, done, waiting: VecDeque::new(), nudge, term, interrupt, say })
    }
}

impl Machine for LiveMachine {
    type Error = Infallible;

    fn now(&self) -> Time {
        now()
    }

    fn guard(&mut self, order: GuardOrder) {
        match order {
            GuardOrder::Arm { resource: DISPATCHER, epoch, until } => {
                let _ = self.address.send(Order::Lease { epoch: epoch.0, until: until.0.saturating_mul(1_000) });
            }
            GuardOrder::Disarm { op, resource: DISPATCHER, epoch } => {
                let _ = self.address.send(Order::Release { op, epoch: epoch.0 });
            }
            GuardOrder::Arm { .. } => {}
            GuardOrder::Disarm { op, .. } => self.waiting.push_back(Input::Done { op, outcome: Outcome::Ok }),
        }
    }

    fn process(&mut self, op: OpId, _: Copy, _: ProcessOrder) {
        self.waiting.push_back(Input::Done { op, outcome: Outcome::ProcessFailed });
    }

    /// No service is configured that may ask for it.
    fn reboot(&mut self, _: Causes) {}

    fn event(&mut self, event: Event) {
        let quiet =
            matches!(event.fact, Fact::Diagnosis(_) | Fact::Consensus(_) | Fact::Views(views::Fact::Noted { .. }));
        if !quiet {
            (self.say)(&format!("{:?}", event.fact));
        }
    }

    async fn next(&mut self, deadline: Option<Deadline>) -> Option<Input> {
        if let Some(input) = self.waiting.pop_front() {
            return Some(input);
        }
        let wait = deadline.map(|deadline| Duration::from_micros(deadline.at.since(now()).0));
        tokio::select! {
            biased;
            _ = self.term.recv() => None,
            _ = self.interrupt.recv() => None,
            Some(op) = self.done.recv() => Some(Input::Done { op, outcome: Outcome::Ok }),
            () = self.nudge.notified() => Some(Input::Tick),
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => Some(Input::Tick),
        }
    }
}
