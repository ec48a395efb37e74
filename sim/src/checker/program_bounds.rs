//! Rules of supervision with a bound in time (paper §2.2): hangs are found, grace is given, the degree is restored.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::supervision::{self, FailureCause};
use apus_engine::{
    Copy, Epoch, Fact, NodeId, ProcessOrder, ResourceConfig, ResourceId, Role, ServiceConfig, Strategy, views,
};

use super::{Checker, Look};
use crate::fault::{Kind, Ns, S};
use crate::scenario::Plan;
use crate::trace::{Line, What};

fn services(plan: &Plan) -> Vec<ServiceConfig> {
    plan.configs.first().map(|config| config.services.clone()).unwrap_or_default()
}

fn resources(plan: &Plan) -> Vec<ResourceConfig> {
    plan.configs.first().map(|config| config.resources.clone()).unwrap_or_default()
}

/// A thread that stops beating is found out within its promise and a second.
#[derive(Clone)]
pub(super) struct HangFound {
    services: Vec<ServiceConfig>,
    ready: BTreeSet<(NodeId, Copy)>,
    due: BTreeMap<(NodeId, Copy), Ns>,
}

impl HangFound {
    pub(super) fn new(plan: &Plan) -> Self {
        // A standby does not beat, and which copy is one changes.
        let services = services(plan).into_iter().filter(|service| service.strategy != Strategy::Warm);
        Self { services: services.collect(), ready: BTreeSet::new(), due: BTreeMap::new() }
    }

    fn promise(&self, copy: Copy) -> Option<Ns> {
        let service = self.services.iter().find(|service| service.id == copy.service)?;
        service.heartbeats.first().map(|promise| promise.0 * 1_000)
    }

    fn late(&self, now: Ns) -> Result<(), String> {
        let late = self.due.iter().find(|(_, due)| **due < now);
        late.map_or(Ok(()), |((node, copy), _)| {
            Err(format!("{node} has not found out that slot {} of {} hangs", copy.slot, copy.service))
        })
    }

    fn forget(&mut self, node: NodeId) {
        self.ready.retain(|(at, _)| *at != node);
        self.due.retain(|(at, _), _| *at != node);
    }
}

impl Checker for HangFound {
    fn name(&self) -> &'static str {
        "hang-found"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        self.late(line.at)?;
        match (&line.what, line.node) {
            (What::Boot(_) | What::Halt, Some(node)) => self.forget(node),
            (What::Gone { copy, .. }, Some(node)) => {
                self.ready.remove(&(node, *copy));
                self.due.remove(&(node, *copy));
            }
            (What::FaultStart { kind: Kind::ProgramHang, nodes, .. }, _) => {
                let hung: Vec<(NodeId, Copy)> =
                    self.ready.iter().filter(|(node, _)| nodes.contains(node)).copied().collect();
                for (node, copy) in hung {
                    if let Some(promise) = self.promise(copy) {
                        self.due.insert((node, copy), line.at + promise + S);
                    }
                }
            }
            // The program beats again, or something else befalls its machine.
            (What::FaultStart { nodes, .. }, _) => self.due.retain(|(node, _), _| !nodes.contains(node)),
            (What::FaultStop { .. } | What::Healed, _) => self.due.clear(),
            (What::Event(event), Some(node)) => match event.fact {
                Fact::Supervision(supervision::Fact::Ready { copy }) => {
                    self.ready.insert((node, copy));
                }
                Fact::Supervision(supervision::Fact::Failed { copy, cause }) if cause != FailureCause::Machine => {
                    self.due.remove(&(node, copy));
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        self.late(now)
    }
}

/// A program is given its grace, unless its lease is lost.
#[derive(Clone)]
pub(super) struct GraceKept {
    services: Vec<ServiceConfig>,
    slots: BTreeMap<Copy, ResourceId>,
    armed: BTreeMap<(NodeId, ResourceId), Epoch>,
    newest: BTreeMap<ResourceId, Epoch>,
    /// When a lease was lost last: renewed in the same instant, it is lost all the same for what ran.
    lost: BTreeMap<(NodeId, ResourceId), Ns>,
}

impl GraceKept {
    pub(super) fn new(plan: &Plan) -> Self {
        let slots = resources(plan).into_iter().filter_map(|resource| match resource.role {
            Role::Slot { service, slot } => Some((Copy { service, slot }, resource.id)),
            Role::Dispatcher => None,
        });
        Self {
            services: services(plan),
            slots: slots.collect(),
            armed: BTreeMap::new(),
            newest: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }
}

impl Checker for GraceKept {
    fn name(&self) -> &'static str {
        "grace-kept"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(node) = line.node else { return Ok(()) };
        match &line.what {
            What::Boot(_) | What::Halt => self.armed.retain(|(at, _), _| *at != node),
            What::Armed { resource, epoch, .. } => {
                self.armed.insert((node, *resource), *epoch);
            }
            What::Disarmed { resource, .. } => {
                self.armed.remove(&(node, *resource));
            }
            What::Event(event) => match event.fact {
                Fact::Views(views::Fact::Granted { resource, epoch, .. }) => {
                    let newest = self.newest.entry(resource).or_default();
                    *newest = (*newest).max(epoch);
                }
                // The guard may close a moment later in the same instant.
                Fact::Views(views::Fact::Expired { resource, .. } | views::Fact::Refused { resource, .. }) => {
                    self.armed.remove(&(node, resource));
                    self.lost.insert((node, resource), line.at);
                }
                _ => {}
            },
            What::Program { copy, order: ProcessOrder::Stop { grace } } => {
                let Some(resource) = self.slots.get(copy) else { return Ok(()) };
                let Some(service) = self.services.iter().find(|service| service.id == copy.service) else {
                    return Ok(());
                };
                let held = self.armed.get(&(node, *resource));
                if self.lost.get(&(node, *resource)) == Some(&line.at) {
                    return Ok(());
                }
                if held.is_some() && held == self.newest.get(resource) && *grace < service.grace {
                    return Err(format!(
                        "{node} ends {} within {} us, {} are promised",
                        copy.service, grace.0, service.grace.0
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// While enough machines are well, every copy of a hot service is active again within the bound.
#[derive(Clone)]
pub(super) struct DegreeHeld {
    slots: Vec<(Copy, u8)>,
    voters: usize,
    arbiters: BTreeSet<NodeId>,
    /// Faults under way that leave the rest of the machines alone, and all others.
    open: BTreeMap<u16, bool>,
    calm_since: Ns,
    missing: BTreeMap<Copy, Ns>,
}

/// Diagnosis, the old lease, the start, and one restart.
const RESTORED: Ns = 4 * S;

impl DegreeHeld {
    pub(super) fn new(plan: &Plan) -> Self {
        let services = services(plan);
        let hot = resources(plan).into_iter().filter_map(|resource| match resource.role {
            Role::Slot { service, slot } => {
                let service = services.iter().find(|known| known.id == service)?;
                let copy = Copy { service: service.id, slot };
                (service.strategy == Strategy::Hot && service.requires.is_empty()).then_some((copy, service.degree))
            }
            Role::Dispatcher => None,
        });
        let voters = plan.scenario.voters;
        Self {
            slots: hot.collect(),
            voters: usize::from(voters),
            arbiters: (voters - plan.scenario.arbiters.min(voters)..voters).map(NodeId).collect(),
            open: BTreeMap::new(),
            calm_since: 0,
            missing: BTreeMap::new(),
        }
    }
}

impl Checker for DegreeHeld {
    fn name(&self) -> &'static str {
        "degree-held"
    }
    fn liveness(&self) -> bool {
        true
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match line.what {
            What::FaultStart { fault, kind, .. } => {
                let stops = matches!(kind, Kind::PowerOff | Kind::Crash | Kind::CrashAll | Kind::PermanentLoss);
                self.open.insert(fault, stops);
                self.calm_since = line.at;
            }
            What::FaultStop { fault, kind, .. } => {
                if kind != Kind::PermanentLoss {
                    self.open.remove(&fault);
                }
                self.calm_since = line.at;
            }
            What::Boot(_) | What::Halt | What::Healed => self.calm_since = line.at,
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        let up: Vec<NodeId> =
            (0..look.nodes()).map(|at| NodeId(at as u16)).filter(|node| look.engine(*node).is_some()).collect();
        let voting = up.iter().filter(|node| usize::from(node.0) < self.voters).count();
        let fit = up.iter().filter(|node| !self.arbiters.contains(node)).count();
        let calm = self.open.values().all(|stops| *stops) && voting * 2 > self.voters;
        for (copy, degree) in &self.slots {
            if !calm || fit < usize::from(*degree) || look.active_copies(*copy).len() == 1 {
                self.missing.remove(copy);
                continue;
            }
            let since = (*self.missing.entry(*copy).or_insert(now)).max(self.calm_since);
            if now > since + RESTORED {
                let took = (now - since) / S;
                return Err(format!(
                    "slot {} of {} has been lost for {took} s, and {fit} machines could run it",
                    copy.slot, copy.service
                ));
            }
        }
        Ok(())
    }
}
