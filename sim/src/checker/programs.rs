//! Rules of supervision (paper §2.2): one copy in a slot, started after the last one is gone, back-off and escalation
//! as configured, after what it requires, under a valid grant, and with the true cause told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use apus_engine::supervision::{self, FailureCause};
use apus_engine::{Copy, Epoch, ExitCause, Fact, NodeId, ProcessOrder, ResourceId, Role, ServiceConfig};

use super::Checker;
use crate::fault::{Kind, Ns};
use crate::scenario::Plan;
use crate::trace::{Line, What};

fn fact(line: &Line) -> Option<(NodeId, supervision::Fact)> {
    match (line.node, &line.what) {
        (Some(node), What::Event(event)) => match event.fact {
            Fact::Supervision(fact) => Some((node, fact)),
            _ => None,
        },
        _ => None,
    }
}

fn services(plan: &Plan) -> Vec<ServiceConfig> {
    plan.configs.first().map(|config| config.services.clone()).unwrap_or_default()
}

/// The new copy starts after the old one is gone.
#[derive(Clone, Default)]
pub(super) struct RestartAfterExit {
    running: BTreeSet<(NodeId, Copy)>,
}

impl Checker for RestartAfterExit {
    fn name(&self) -> &'static str {
        "restart-after-exit"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(node) = line.node else { return Ok(()) };
        match line.what {
            What::Boot(_) | What::Halt => self.running.retain(|(at, _)| *at != node),
            What::Gone { copy, .. } => {
                self.running.remove(&(node, copy));
            }
            What::Program { copy, order: ProcessOrder::Start { .. } } if !self.running.insert((node, copy)) => {
                return Err(format!("{node} starts slot {} of {} while the old copy runs", copy.slot, copy.service));
            }
            _ => {}
        }
        // A start that fails tells so; the copy does not run then.
        if let Some((node, supervision::Fact::Failed { copy, cause: FailureCause::NotStarted })) = fact(line) {
            self.running.remove(&(node, copy));
        }
        Ok(())
    }
}

/// Programs outlive their daemon: the next one takes over what runs, stops nothing that it has not taken over, and never has a second
/// copy begin beside it.
#[derive(Clone, Default)]
pub(super) struct OutliveDaemon {
    runs: BTreeMap<(NodeId, Copy), u32>,
    /// Of an earlier daemon, and not asked for by this one.
    found: BTreeSet<(NodeId, Copy)>,
}

impl Checker for OutliveDaemon {
    fn name(&self) -> &'static str {
        "programs-outlive-daemon"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(node) = line.node else { return Ok(()) };
        match line.what {
            // The next start tells what still runs.
            What::Boot(_) | What::Halt => {
                self.runs.retain(|(at, _), _| *at != node);
                self.found.retain(|(at, _)| *at != node);
            }
            What::Found { copy, run } => {
                self.runs.insert((node, copy), run);
                self.found.insert((node, copy));
            }
            What::Began { copy, run } => {
                if let Some(old) = self.runs.insert((node, copy), run) {
                    let (slot, service) = (copy.slot, copy.service);
                    return Err(format!("{node} has two copies in slot {slot} of {service}: runs {old} and {run}"));
                }
            }
            What::Kept { copy, run } if self.runs.get(&(node, copy)) != Some(&run) => {
                return Err(format!("{node} takes over run {run} of {}, which does not run", copy.service));
            }
            What::Gone { copy, .. } => {
                self.runs.remove(&(node, copy));
                self.found.remove(&(node, copy));
            }
            What::Program { copy, order: ProcessOrder::Start { .. } } => {
                self.found.remove(&(node, copy));
            }
            What::Program { copy, order } if self.found.contains(&(node, copy)) => {
                return Err(format!(
                    "{node} orders {order:?} of a copy of {} that an earlier daemon left, before it takes it over",
                    copy.service
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Waits between restarts are at least the configured back-off, doubled each time, and kept.
#[derive(Clone)]
pub(super) struct BackoffKept {
    services: Vec<ServiceConfig>,
    waits: BTreeMap<(NodeId, Copy), (Ns, Ns)>,
    streak: BTreeMap<(NodeId, Copy), (u32, Ns)>,
    /// Whose last run was about as long as a stable one.
    unsure: BTreeSet<(NodeId, Copy)>,
}

impl BackoffKept {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { services: services(plan), waits: BTreeMap::new(), streak: BTreeMap::new(), unsure: BTreeSet::new() }
    }
}

impl Checker for BackoffKept {
    fn name(&self) -> &'static str {
        "backoff-kept"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if let (Some(node), What::Boot(_) | What::Halt) = (line.node, &line.what) {
            self.waits.retain(|(at, _), _| *at != node);
            self.streak.retain(|(at, _), _| *at != node);
        }
        let Some((node, fact)) = fact(line) else { return Ok(()) };
        match fact {
            supervision::Fact::Escalated { copy, .. } => {
                self.streak.remove(&(node, copy));
            }
            supervision::Fact::Ready { copy } => {
                self.streak.entry((node, copy)).or_default().1 = line.at;
            }
            supervision::Fact::Failed { copy, cause } if cause != FailureCause::Machine => {
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                let (streak, ready) = self.streak.entry((node, copy)).or_default();
                let ran = if *ready > 0 { line.at.saturating_sub(*ready) } else { 0 };
                let (clearly, perhaps) = (service.stable_after.0 * 1_010, service.stable_after.0 * 990);
                // Clocks differ by the drift bound: between the two the node may take the run for short or for stable.
                self.unsure.remove(&(node, copy));
                if ran > perhaps && ran < clearly {
                    self.unsure.insert((node, copy));
                }
                *streak = if ran >= clearly { 1 } else { *streak + 1 };
                *ready = 0;
                self.waits.insert((node, copy), (line.at, 0));
            }
            supervision::Fact::BackingOff { copy, wait, .. } => {
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                let full = |streak: u32| {
                    service.backoff.0.saturating_mul(1 << (streak.max(1) - 1).min(20)).min(service.backoff_max.0)
                };
                let fits = |streak: u32| wait.0 >= full(streak) * 8 / 10 && wait.0 <= full(streak) * 12 / 10;
                let (streak, ready) = self.streak.get(&(node, copy)).copied().unwrap_or((1, 0));
                if self.unsure.remove(&(node, copy)) && fits(1) {
                    self.streak.insert((node, copy), (1, ready));
                } else if !fits(streak) {
                    let full = full(streak);
                    return Err(format!(
                        "{node} waits {} us before restart {streak} of {}, not about {full}",
                        wait.0, copy.service
                    ));
                }
                self.waits.insert((node, copy), (line.at, wait.0 * 990));
            }
            supervision::Fact::Starting { copy, .. } => {
                if let Some((since, wait)) = self.waits.remove(&(node, copy))
                    && line.at < since + wait
                {
                    return Err(format!("{node} restarts {} before its back-off is over", copy.service));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// N failures within T escalate: not one fewer, not one more.
#[derive(Clone)]
pub(super) struct EscalationKept {
    services: Vec<ServiceConfig>,
    failures: BTreeMap<(NodeId, Copy), VecDeque<Ns>>,
}

impl EscalationKept {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { services: services(plan), failures: BTreeMap::new() }
    }
}

impl Checker for EscalationKept {
    fn name(&self) -> &'static str {
        "escalation-kept"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if let (Some(node), What::Boot(_) | What::Halt) = (line.node, &line.what) {
            self.failures.retain(|(at, _), _| *at != node);
        }
        let Some((node, fact)) = fact(line) else { return Ok(()) };
        match fact {
            supervision::Fact::Failed { copy, cause } if cause != FailureCause::Machine => {
                self.failures.entry((node, copy)).or_default().push_back(line.at);
            }
            supervision::Fact::BackingOff { copy, .. } => {
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                let failures = self.failures.entry((node, copy)).or_default();
                failures.retain(|at| line.at - at < service.within.0 * 990);
                if failures.len() >= usize::from(service.failures) {
                    return Err(format!("{node} only restarts {} after {} failures", copy.service, failures.len()));
                }
            }
            supervision::Fact::Escalated { copy, rung } => {
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                let failures = self.failures.entry((node, copy)).or_default();
                failures.retain(|at| line.at - at < service.within.0 * 1_010);
                let many = failures.len();
                failures.clear();
                if many < usize::from(service.failures) && rung == supervision::Rung::FailOver {
                    return Err(format!("{node} gives {} up after {many} failures in the window", copy.service));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A copy starts when what it requires is ready on its node.
#[derive(Clone)]
pub(super) struct DependencyOrder {
    services: Vec<ServiceConfig>,
    ready: BTreeSet<(NodeId, Copy)>,
}

impl DependencyOrder {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { services: services(plan), ready: BTreeSet::new() }
    }
}

impl Checker for DependencyOrder {
    fn name(&self) -> &'static str {
        "dependency-order"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if let Some(node) = line.node {
            match line.what {
                What::Boot(_) | What::Halt => self.ready.retain(|(at, _)| *at != node),
                What::Gone { copy, .. } => {
                    self.ready.remove(&(node, copy));
                }
                _ => {}
            }
        }
        match fact(line) {
            Some((node, supervision::Fact::Ready { copy })) => {
                self.ready.insert((node, copy));
            }
            Some((node, supervision::Fact::Starting { copy, active: true, .. })) => {
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                for needed in &service.requires {
                    if !self.ready.iter().any(|(at, ready)| *at == node && ready.service == *needed) {
                        return Err(format!(
                            "{node} starts {} before {needed}, which it requires, is ready",
                            copy.service
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// An active copy runs only under an armed guard of its own grant, and under none that is older than another's.
#[derive(Clone)]
pub(super) struct GuardObeyed {
    slots: BTreeMap<Copy, ResourceId>,
    armed: BTreeMap<(NodeId, ResourceId), Epoch>,
    newest: BTreeMap<ResourceId, Epoch>,
    active: BTreeMap<(NodeId, Copy), Ns>,
}

impl GuardObeyed {
    pub(super) fn new(plan: &Plan) -> Self {
        let resources = plan.configs.first().map(|config| config.resources.clone()).unwrap_or_default();
        let slots = resources.iter().filter_map(|resource| match resource.role {
            Role::Slot { service, slot } => Some((Copy { service, slot }, resource.id)),
            Role::Dispatcher => None,
        });
        Self { slots: slots.collect(), armed: BTreeMap::new(), newest: BTreeMap::new(), active: BTreeMap::new() }
    }
}

impl Checker for GuardObeyed {
    fn name(&self) -> &'static str {
        "guard-obeyed"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(node) = line.node else { return Ok(()) };
        match line.what {
            What::Boot(_) | What::Halt => self.armed.retain(|(at, _), _| *at != node),
            What::Armed { resource, epoch, .. } => {
                self.armed.insert((node, resource), epoch);
                let newest = self.newest.entry(resource).or_default();
                *newest = (*newest).max(epoch);
            }
            What::Disarmed { resource, .. } => {
                self.armed.remove(&(node, resource));
            }
            What::Gone { copy, .. } => {
                self.active.remove(&(node, copy));
            }
            What::Program { copy, order } => {
                let (ProcessOrder::Start { active: true, epoch } | ProcessOrder::Promote { epoch }) = order else {
                    return Ok(());
                };
                let Some(resource) = self.slots.get(&copy) else { return Ok(()) };
                self.active.insert((node, copy), line.at);
                if self.newest.get(resource).is_some_and(|newest| *newest > epoch) {
                    return Err(format!("{node} starts {} by {epoch}, which is not the newest grant", copy.service));
                }
                if self.armed.get(&(node, *resource)) != Some(&epoch) {
                    return Err(format!("{node} starts {} by {epoch} without an armed guard of it", copy.service));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The cause that is told is the true one.
#[derive(Clone, Default)]
pub(super) struct CauseTrue {
    exits: BTreeMap<(NodeId, Copy), (Ns, ExitCause)>,
    hangs: BTreeMap<u16, Vec<NodeId>>,
    hung: BTreeMap<NodeId, Ns>,
    stalled: BTreeMap<NodeId, Ns>,
}

impl Checker for CauseTrue {
    fn name(&self) -> &'static str {
        "cause-true"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match (&line.what, line.node) {
            (What::Gone { copy, cause: Some(cause) }, Some(node)) => {
                self.exits.insert((node, *copy), (line.at, *cause));
            }
            (What::FaultStart { fault, kind, nodes }, _) => match kind {
                Kind::ProgramHang => {
                    for node in nodes {
                        self.hung.insert(*node, Ns::MAX);
                    }
                    self.hangs.insert(*fault, nodes.clone());
                }
                Kind::Freeze | Kind::Suspend | Kind::Starve | Kind::SlowNode | Kind::JumpForward | Kind::LateTimer => {
                    for node in nodes {
                        self.stalled.insert(*node, Ns::MAX);
                    }
                    self.hangs.insert(*fault, nodes.clone());
                }
                _ => {}
            },
            (What::FaultStop { fault, .. }, _) => {
                for node in self.hangs.remove(fault).unwrap_or_default() {
                    for map in [&mut self.hung, &mut self.stalled] {
                        map.entry(node).and_modify(|until| *until = line.at + 5_000_000_000);
                    }
                }
            }
            _ => {}
        }
        let Some((node, supervision::Fact::Failed { copy, cause })) = fact(line) else { return Ok(()) };
        let lately = |map: &BTreeMap<NodeId, Ns>| map.get(&node).is_some_and(|until| *until >= line.at);
        match cause {
            FailureCause::Crash(told) => match self.exits.get(&(node, copy)) {
                Some((_, cause)) if *cause == told => Ok(()),
                Some((_, cause)) => Err(format!("{node} says {} ended by {told:?}, it was {cause:?}", copy.service)),
                None => Err(format!("{node} says {} ended by {told:?}, but it did not end by itself", copy.service)),
            },
            FailureCause::Hang(thread) if !lately(&self.hung) => {
                let why = if lately(&self.stalled) { "; the node itself was paused" } else { "" };
                Err(format!("{node} says {thread} of {} hangs, but it beats{why}", copy.service))
            }
            _ => Ok(()),
        }
    }
}
