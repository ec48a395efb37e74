//! After healing everything is well again, and stays so: one leader, an owner for every resource, all copies running.

use std::collections::BTreeMap;

use apus_engine::{Availability, Copy, Fact, NodeId, ResourceId, Role, consensus};

use super::{Checker, Look, logs, nodes};
use crate::fault::{Kind, Ns, S};
use crate::scenario::Plan;
use crate::trace::{Line, What};

/// The leader's node and its members, if exactly one node leads the newest term.
fn leader(look: &dyn Look) -> Result<NodeId, String> {
    let leads = logs(look).filter_map(|(node, log)| log.leads().map(|(term, _)| (term, node)));
    leads.max().map(|(_, node)| node).ok_or_else(|| "nobody leads".into())
}

/// What is not well, if anything.
fn unwell(look: &dyn Look, homeless: &[Copy]) -> Result<(), String> {
    let leader = leader(look)?;
    let Some((_, log, ..)) = look.engine(leader).and_then(|engine| engine.look()) else {
        return Err(format!("{leader} does not run"));
    };
    for (node, other) in logs(look).filter(|(node, _)| log.membership().contains(*node)) {
        if other.commit().0 + 8 < log.commit().0 {
            return Err(format!("{node} has applied {}, {leader} leads at {}", other.commit(), log.commit()));
        }
    }
    let config = &look.plan().configs[0];
    for resource in &config.resources {
        if let Role::Slot { service, slot } = resource.role
            && homeless.contains(&Copy { service, slot })
        {
            continue;
        }
        let holders = look.holders(resource.id);
        if let Some(stranger) = holders.iter().find(|holder| !log.membership().contains(**holder)) {
            return Err(format!("{stranger}, which is no member, holds {}", resource.id));
        }
        if holders.is_empty() {
            return Err(format!("nobody holds {}", resource.id));
        }
        if holders.len() > 1 && resource.availability == Availability::Prefer {
            return Err(format!("{} nodes hold {}", holders.len(), resource.id));
        }
        if let Role::Slot { service, slot } = resource.role {
            let copy = Copy { service, slot };
            let active = look.active_copies(copy);
            if active.len() != 1 || !holders.contains(&active[0]) {
                return Err(format!("slot {slot} of {service} is active on {active:?}, held by {holders:?}"));
            }
        }
    }
    Ok(())
}

/// Slots for which the members do not suffice: a copy needs a node of its own.
fn homeless(look: &dyn Look) -> Vec<Copy> {
    let Ok(leader) = leader(look) else { return Vec::new() };
    let Some((_, log, ..)) = look.engine(leader).and_then(|engine| engine.look()) else { return Vec::new() };
    let members = log.membership();
    let drained = &log.state().drained;
    let fit = nodes(look).filter(|node| {
        members.contains(*node)
            && !members.arbiters.contains(node)
            && !drained.contains(node)
            && look.engine(*node).is_some()
    });
    let fit = fit.count();
    let slots = look.plan().configs[0].resources.iter().filter_map(|resource| match resource.role {
        Role::Slot { service, slot } => Some(Copy { service, slot }),
        Role::Dispatcher => None,
    });
    slots.filter(|copy| usize::from(copy.slot) >= fit).collect()
}

/// Everything is well within the bound after healing.
#[derive(Clone)]
pub(super) struct Converges {
    bound: Ns,
    healed: Option<Ns>,
    well_since: Option<Ns>,
    last: String,
    quorum: bool,
}

impl Converges {
    pub(super) fn new(plan: &Plan) -> Self {
        let bound = plan.scenario.expect.converge_within.unwrap_or(plan.scenario.heal.saturating_sub(S));
        // A majority that never comes back owes nothing.
        let lost: usize = plan.faults.iter().filter(|fault| fault.kind == Kind::PermanentLoss).count();
        let quorum = lost * 2 < plan.scenario.voters as usize;
        Self { bound, healed: None, well_since: None, last: String::new(), quorum }
    }
}

impl Checker for Converges {
    fn name(&self) -> &'static str {
        "converges"
    }
    fn liveness(&self) -> bool {
        true
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if matches!(line.what, What::Healed) {
            self.healed = Some(line.at);
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        if self.healed.is_none() {
            return Ok(());
        }
        match unwell(look, &homeless(look)) {
            Ok(()) => {
                self.well_since.get_or_insert(now);
            }
            Err(what) => {
                self.well_since = None;
                self.last = what;
            }
        }
        Ok(())
    }
    fn end(&mut self, look: &dyn Look) -> Result<(), String> {
        let Some(healed) = self.healed.filter(|_| self.quorum) else { return Ok(()) };
        unwell(look, &homeless(look))?;
        match self.well_since {
            Some(since) if since <= healed + self.bound => Ok(()),
            Some(since) => Err(format!("well only {} ms after healing: {}", (since - healed) / 1_000_000, self.last)),
            None => Err(format!("never well for a second: {}", self.last)),
        }
    }
    fn measures(&self, into: &mut BTreeMap<&'static str, Ns>) {
        if let (Some(healed), Some(since)) = (self.healed, self.well_since) {
            into.insert("converge", since.saturating_sub(healed));
        }
    }
}

/// A holder that is back for less than this has not come back.
const BACK: Ns = 5_000_000_000;

/// After its holder fails, the dispatcher is held again within the bound: by another, or by itself for good.
#[derive(Clone)]
pub(super) struct TakeoverBound {
    bound: Option<Ns>,
    holder: Option<NodeId>,
    /// Its guard is not armed.
    idle: bool,
    gone: Option<(Ns, NodeId)>,
    /// Whether a fault takes a node's processor time: there, a holder that is back for a moment has not come back.
    limps: bool,
    /// Its holder came back: since when it had been gone, and when it was armed.
    back: Option<(Ns, Ns)>,
    worst: Ns,
}

impl TakeoverBound {
    pub(super) fn new(plan: &Plan) -> Self {
        let limps = plan.faults.iter().any(|fault| matches!(fault.kind, Kind::Starve | Kind::SlowNode));
        let bound = plan.scenario.expect.takeover_within;
        Self { bound, holder: None, idle: false, gone: None, limps, back: None, worst: 0 }
    }
}

impl Checker for TakeoverBound {
    fn name(&self) -> &'static str {
        "takeover-bound"
    }
    fn liveness(&self) -> bool {
        true
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match (&line.what, line.node) {
            (What::Armed { resource: ResourceId(0), .. }, Some(node)) => {
                if self.idle && self.holder == Some(node) {
                    // The holder itself is back.
                    let since = self.gone.take().map_or(line.at, |(since, _)| since);
                    if let Some(bound) = self.bound
                        && line.at > since + bound
                    {
                        let (lost, bound) = ((line.at - since) / 1_000_000, bound / 1_000_000);
                        return Err(format!(
                            "{node} has lost the dispatcher again and again for {lost} ms, the bound is {bound} ms"
                        ));
                    }
                    self.back = Some((since, line.at)).filter(|_| self.limps);
                }
                self.idle = false;
                if let Some((since, old)) = self.gone
                    && old != node
                {
                    self.worst = self.worst.max(line.at - since);
                    self.gone = None;
                    if let Some(bound) = self.bound
                        && self.worst > bound
                    {
                        let (took, bound) = (self.worst / 1_000_000, bound / 1_000_000);
                        return Err(format!(
                            "{node} holds the dispatcher {took} ms after {old} failed, the bound is {bound} ms"
                        ));
                    }
                }
                if self.holder != Some(node) {
                    self.back = None;
                }
                self.holder = Some(node);
            }
            (What::FaultStart { kind, nodes, .. }, _) => {
                let fatal = matches!(
                    kind,
                    Kind::PowerOff | Kind::Crash | Kind::PermanentLoss | Kind::Freeze | Kind::Partition | Kind::Suspend
                );
                if let Some(holder) =
                    self.holder.filter(|holder| fatal && nodes.contains(holder) && self.gone.is_none())
                {
                    self.gone = Some((line.at, holder));
                }
            }
            // It let go or ran out, for whatever reason.
            (What::Disarmed { resource: ResourceId(0), .. }, Some(node)) if self.holder == Some(node) => {
                self.idle = true;
                let before = self.back.take().filter(|(_, at)| line.at < at + BACK);
                self.gone.get_or_insert((before.map_or(line.at, |(since, _)| since), node));
            }
            (What::FaultStop { .. } | What::Healed, _) => (self.gone, self.back) = (None, None),
            // Who leads now has to find out anew.
            (What::Event(event), _) if matches!(event.fact, Fact::Consensus(consensus::Fact::Elected { .. })) => {
                self.back = None;
            }
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        match (self.bound, self.gone) {
            (Some(bound), Some((since, old))) if now > since + bound => {
                Err(format!("{old} failed {} ms ago and nobody holds the dispatcher", (now - since) / 1_000_000))
            }
            _ => Ok(()),
        }
    }
    fn measures(&self, into: &mut BTreeMap<&'static str, Ns>) {
        if self.worst > 0 {
            into.insert("takeover", self.worst);
        }
    }
}

/// A drained node holds nothing once it had time to let go.
#[derive(Clone, Default)]
pub(super) struct DrainedEmpty {
    since: BTreeMap<NodeId, Ns>,
    disturbed: u32,
    quiet_since: Ns,
}

impl Checker for DrainedEmpty {
    fn name(&self) -> &'static str {
        "drained-empty"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match &line.what {
            What::FaultStart { kind, .. } if *kind != Kind::Drain => self.disturbed += 1,
            What::FaultStop { kind, .. } if *kind != Kind::Drain => {
                self.disturbed = self.disturbed.saturating_sub(1);
                self.quiet_since = line.at;
            }
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        let Ok(leader) = leader(look) else { return Ok(()) };
        let Some((_, log, ..)) = look.engine(leader).and_then(|engine| engine.look()) else { return Ok(()) };
        let drained = &log.state().drained;
        self.since.retain(|node, _| drained.contains(node));
        for node in drained {
            let since = (*self.since.entry(*node).or_insert(now)).max(self.quiet_since);
            if self.disturbed > 0 || now < since + 4 * S {
                continue;
            }
            let held =
                look.plan().configs[0].resources.iter().find(|resource| look.holders(resource.id).contains(node));
            if let Some(resource) = held {
                return Err(format!("{node} was drained {} s ago and still holds {}", (now - since) / S, resource.id));
            }
        }
        Ok(())
    }
}
