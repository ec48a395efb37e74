//! What a world with a data plane of its own sees of the machines, and how it drives them: one event at a time, with its own
//! events between. Engines, faults, guards and checkers go on exactly as without it.

use std::time::Instant;

use apus_engine::{NodeId, ResourceId};

use super::World;
use super::link::{cuts, is_cut};
use crate::fault::{Fault, Kind, Ns};
use crate::report::{Run, Violation};
use crate::scenario::Plan;
use crate::world::{Options, TIMEOUT};

/// The resource that is the cluster's address.
const DISPATCHER: ResourceId = ResourceId(0);

/// What a data plane may know of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The machine has power and its kernel runs.
    pub(crate) up: bool,
    /// It has power: what it holds in memory stays.
    pub(crate) powered: bool,
    /// The life of its process, if it runs and is not paused.
    pub(crate) daemon: Option<u32>,
    /// Epoch and end of the guard that is armed, in nanoseconds of the machine's clock.
    pub(crate) lease: Option<(u64, u64)>,
}

/// What an engine holds to be true of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Members that may serve, each with whether it is drained.
    pub(crate) servers: Vec<(NodeId, bool)>,
    /// Epoch of the newest grant of the address.
    pub(crate) epoch: u64,
}

impl World {
    /// A world to be driven by [`one`](Self::one).
    pub(crate) fn driven(plan: &Plan, options: &Options) -> Self {
        Self::new(plan, options)
    }

    /// When its next event is due.
    pub(crate) fn due(&self) -> Ns {
        self.queue.next_at().unwrap_or(Ns::MAX)
    }

    /// When the run ends, if nothing fails.
    pub(crate) fn ends(&self) -> Ns {
        self.end()
    }

    /// Whether something failed.
    pub(crate) const fn failed(&self) -> bool {
        self.violation.is_some()
    }

    /// Does its next event.
    pub(crate) fn one(&mut self) {
        if let Some((at, due)) = self.queue.pop_until(Ns::MAX) {
            self.now = self.now.max(at);
            self.dispatch(due);
        }
    }

    /// Time moves on to an event of the data plane.
    pub(crate) fn move_to(&mut self, now: Ns) {
        self.now = self.now.max(now);
    }

    /// Ends a run whose wall-clock time is over.
    pub(crate) fn look_at_the_clock(&mut self) {
        if self.options.deadline.is_some_and(|end| Instant::now() >= end) {
            let what = format!("cut after {} events: the time for one seed was over", self.hash.events);
            self.violate(TIMEOUT, true, what);
        }
    }

    /// Adds to the trace hash.
    pub(crate) fn hash_frame(&mut self, port: u64, bytes: &[u8]) {
        self.hash.word(self.now ^ port << 48);
        self.hash.bytes(bytes);
    }

    /// Of the plan.
    pub(crate) fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// True time.
    pub(crate) const fn true_time(&self) -> Ns {
        self.now
    }

    /// The machine's clock, in nanoseconds.
    pub(crate) fn local_ns(&self, node: NodeId) -> u64 {
        self.local(node).0.saturating_mul(1_000)
    }

    /// The first instant at which the machine's clock shows this.
    pub(crate) fn when_local(&self, node: NodeId, local_ns: u64) -> Ns {
        let time = apus_engine::Time(local_ns.div_ceil(1_000));
        self.nodes[node.0 as usize].clock.when(self.now, time)
    }

    /// What a machine's data plane may know.
    pub(crate) fn seen(&self, node: NodeId) -> Seen {
        let host = &self.nodes[node.0 as usize];
        let powered = host.powered && !host.lost && host.life > 0;
        let up = powered && !host.suspended;
        let daemon = (up && host.alive && !host.frozen).then_some(host.life);
        let lease = host.guards.get(&DISPATCHER).map(|(epoch, until)| (epoch.0, until.0.saturating_mul(1_000)));
        Seen { up, powered, daemon, lease }
    }

    /// What a machine's engine holds to be true.
    pub(crate) fn known(&self, node: NodeId) -> Option<Known> {
        let (diagnosis, log, ..) = self.nodes[node.0 as usize].engine.as_ref()?.look()?;
        let members = log.membership();
        let fit = |other: &NodeId| {
            members.contains(*other)
                && !members.arbiters.contains(other)
                && diagnosis.status(*other).is_none_or(|(status, _)| status != apus_engine::diagnosis::Status::Down)
        };
        let drained = |other: NodeId| (other, log.state().drained.contains(&other));
        let servers = (0..self.nodes.len() as u16).map(NodeId).filter(fit).map(drained).collect();
        let epoch = log.state().grants.get(&DISPATCHER).map_or(0, |grant| grant.epoch.0);
        Some(Known { servers, epoch })
    }

    /// Who may act for the address now.
    pub(crate) fn may_dispatch(&self, node: NodeId) -> bool {
        self.holds(node, DISPATCHER)
    }

    /// Running faults that frames meet.
    pub(crate) fn on_frames(&self) -> Vec<u16> {
        self.on_links.clone()
    }

    /// Running faults that act on the data plane by themselves.
    pub(crate) fn striking(&self) -> Vec<u16> {
        let strikes = |index: &u16| {
            use Kind::{ArpStorm, DuplicateAddress, Fragments, SpoofedFlood, SwitchForgets, TooBig};
            let kind = self.plan.faults[*index as usize].kind;
            matches!(kind, ArpStorm | DuplicateAddress | Fragments | SpoofedFlood | SwitchForgets | TooBig)
        };
        self.on_nodes.iter().copied().filter(strikes).collect()
    }

    /// The fault, if any, by which the switch lets a machine's port send by one address only.
    pub(crate) fn secures(&self, node: Option<NodeId>) -> Option<u16> {
        let secures = |index: &u16| self.plan.faults[*index as usize].kind == Kind::PortSecurity;
        self.on_links.iter().copied().filter(secures).find(|index| node.is_some() && self.touches(*index, node))
    }

    /// A fault of the plan.
    pub(crate) fn fault(&self, index: u16) -> &Fault {
        &self.plan.faults[index as usize]
    }

    /// Whether a fault touches a machine; `None` is a machine that is no node.
    pub(crate) fn touches(&self, index: u16, node: Option<NodeId>) -> bool {
        let state = &self.active[index as usize];
        state.everything || node.is_some_and(|node| state.has(node))
    }

    /// When a running fault ends.
    pub(crate) fn fault_ends(&self, index: u16) -> Ns {
        self.active[index as usize].ends
    }

    /// Whether a running fault is a cut, and then whether it lets nothing through between two machines.
    pub(crate) fn cut_between(&self, index: u16, from: Option<NodeId>, to: Option<NodeId>) -> Option<bool> {
        let kind = self.plan.faults[index as usize].kind;
        // A machine that is no node is in no set of nodes.
        let number = |node: Option<NodeId>| node.unwrap_or(NodeId(u16::MAX));
        let state = &self.active[index as usize];
        is_cut(kind).then(|| {
            let all = state.everything && kind != Kind::NicDown;
            !all && cuts(kind, state, number(from), number(to))
        })
    }

    /// A fault had an effect on a frame.
    pub(crate) fn had_effect(&mut self, index: u16) {
        self.active[index as usize].effects += 1;
    }

    /// The delay of a healthy link.
    pub(crate) const fn healthy_delay(&self) -> Ns {
        self.link_delay
    }

    /// A property of the data plane did not hold.
    pub(crate) fn breaks(&mut self, checker: &'static str, what: String) {
        let liveness = crate::checker::names::named(checker).is_some_and(|name| name.liveness);
        let at = self.now;
        self.blame(Violation { checker, liveness, at, what });
    }

    /// A goal was reached by the data plane.
    pub(crate) fn reached(&mut self, goal: &'static str) {
        self.reach(goal);
    }

    /// Worst value of a measure of the data plane.
    pub(crate) fn measure(&mut self, name: &'static str, value: Ns) {
        let worst = self.measured_outside.entry(name).or_default();
        *worst = (*worst).max(value);
    }

    /// Ends a run early: what must hold at its end is not looked at.
    pub(crate) fn cut_driven(self) -> Run {
        self.report()
    }

    /// The checkers look for the last time.
    pub(crate) fn end_driven(mut self) -> Run {
        if self.violation.is_none() {
            self.now = self.end();
            self.finish();
        }
        self.report()
    }
}
