//! Placement: who should own what. A function of configuration, applied state and diagnosis; only the leader acts on it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Fact, Views};
use crate::config::{Availability, ResourceConfig, Role, Strategy};
use crate::consensus::{Consensus, Membership, Payload};
use crate::context::{Ctx, Signal};
use crate::ids::{Causes, Epoch, EvidenceId, NodeId, ResourceId};
use crate::io::Copy;
use crate::mutant::Mutant;
use crate::time::Micros;

/// The placement is looked at this often without a reason.
const LOOK_AGAIN: Micros = Micros::from_millis(200);

impl Views {
    /// The leader looks at every resource.
    pub(super) fn place(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        self.place_at = None;
        if log.leads().is_none() || self.leads.is_none() {
            return;
        }
        self.place_at = Some(ctx.now + LOOK_AGAIN);
        if !log.own_term_committed() {
            return;
        }
        let resources: Vec<ResourceId> = ctx
            .config()
            .resources
            .iter()
            .filter(|resource| resource.availability == Availability::Safe)
            .map(|resource| resource.id)
            .collect();
        for resource in resources {
            if !log.in_flight(resource) && !self.proposing.contains_key(&resource) {
                self.place_one(ctx, log, resource);
            }
        }
    }

    fn place_one(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, resource: ResourceId) {
        let Some(grant) = log.state().grants.get(&resource) else {
            return self.grant(ctx, log, resource, &[]);
        };
        let holder = grant.holder;
        let because = grant.because;
        if grant.released {
            return self.grant(ctx, log, resource, &because);
        }
        let (epoch, moving) = (grant.epoch, grant.moving.is_some());
        let member = log.membership().contains(holder);
        let down = self.down.get(&holder).copied();
        self.part_with(ctx, resource, epoch);
        if member && down.is_none() {
            if let Some(over) = self.lapsed(ctx, log, resource, epoch) {
                return self.pass_over(ctx, log, resource, holder, over);
            }
            let drained = log.state().drained.contains(&holder) && !ctx.has(Mutant::DrainForgets);
            // What it requires has gone elsewhere: it follows.
            let alone = ctx.config().resource(resource).is_some_and(|config| !holds_required(ctx, log, config, holder));
            if (drained || alone) && !moving && self.choose(ctx, log, resource).is_some_and(|node| node != holder) {
                let because = [self.leads.unwrap_or_default(), EvidenceId::NONE, EvidenceId::NONE];
                ctx.signal(Signal::Propose(Payload::Move { resource, to: None, because }));
            }
            return;
        }
        if ctx.has(Mutant::DeadHolderKept) || (self.is_hot(ctx, resource) && ctx.has(Mutant::DegreeNotRestored)) {
            return;
        }
        let at = self.grantable_at(ctx, log, resource);
        if at > ctx.now {
            if self.waiting.insert(resource) {
                let fact = Fact::Waiting { resource, holder, left: at.since(ctx.now) };
                self.event(ctx, &[down.unwrap_or_default(), self.leads.unwrap_or_default()], fact);
            }
            self.place_at = self.place_at.map(|look| look.min(at));
            return;
        }
        self.grant(ctx, log, resource, &[down.unwrap_or_default()]);
    }

    /// Who has asked for another holder may be too slow to learn that it is to let go, and yet renew: after a lease's time it is not
    /// renewed any more (rule R7).
    fn part_with(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch) {
        let leaving = self.leaving.get(&resource).filter(|(of, _)| *of == epoch);
        match leaving.map(|(_, since)| *since + self.lease) {
            Some(until) if until <= ctx.now => {
                ctx.shared.given_up.insert(resource, epoch);
            }
            Some(until) => self.place_at = self.place_at.map(|look| look.min(until)),
            None => {}
        }
    }

    /// How long the lease of a holder that is up has been over, if that is a whole lease or more, or, if it has asked for another
    /// holder, since when it has (rule R7).
    fn lapsed(&mut self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId, epoch: Epoch) -> Option<Micros> {
        let answered = log.quorum_contact(ctx.now).is_some_and(|contact| ctx.now.since(contact) < self.lease);
        let gave_up = ctx.shared.given_up.get(&resource) == Some(&epoch);
        let over_at = self.over_at(ctx, log, resource);
        if !answered || over_at > ctx.now || ctx.has(Mutant::LapsedKept) {
            if gave_up && over_at > ctx.now {
                self.place_at = self.place_at.map(|look| look.min(over_at));
            }
            self.unrenewed.remove(&resource);
            return None;
        }
        if let Some((_, since)) = self.leaving.get(&resource).filter(|_| gave_up) {
            return Some(ctx.now.since(*since));
        }
        let known = self.unrenewed.get(&resource).filter(|(of, _)| *of == epoch);
        let since = known.map_or(ctx.now, |(_, since)| *since);
        self.unrenewed.insert(resource, (epoch, since));
        self.place_at = self.place_at.map(|look| look.min((since + self.lease).max(ctx.now + Micros(1))));
        let over = ctx.now.since(since);
        (over >= self.lease).then_some(over)
    }

    /// The holder is up and does not renew: somebody else is granted it, if there is anybody.
    fn pass_over(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, resource: ResourceId, holder: NodeId, over: Micros) {
        self.failed.insert(resource, holder);
        if self.choose(ctx, log, resource).is_some_and(|node| node != holder) {
            self.unrenewed.remove(&resource);
            let lapsed = self.event(ctx, &[self.leads.unwrap_or_default()], Fact::Lapsed { resource, holder, over });
            self.grant(ctx, log, resource, &[lapsed]);
        }
    }

    fn is_hot(&self, ctx: &Ctx<'_>, resource: ResourceId) -> bool {
        let role = ctx.config().resource(resource).map(|resource| resource.role);
        matches!(role, Some(Role::Slot { service, .. })
            if ctx.config().service(service).is_some_and(|service| service.strategy == Strategy::Hot))
    }

    fn grant(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, resource: ResourceId, because: &[EvidenceId]) {
        let Some(holder) = self.choose(ctx, log, resource) else { return };
        let index = crate::ids::Index(log.last_index().0 + 1 + self.proposing.len() as u64);
        let mut reasons: Vec<EvidenceId> = because.to_vec();
        reasons.push(self.leads.unwrap_or_default());
        let proposed = self.event(ctx, &reasons, Fact::Proposed { resource, holder, index });
        let mut causes = Causes::default();
        causes[0] = proposed;
        for (slot, id) in causes[1..].iter_mut().zip(because.iter().filter(|id| id.is_some())) {
            *slot = *id;
        }
        self.failed.remove(&resource);
        self.leaving.remove(&resource);
        ctx.shared.given_up.remove(&resource);
        self.proposing.insert(resource, holder);
        ctx.signal(Signal::Propose(Payload::Grant { resource, holder, because: causes }));
    }

    /// Whether a node may own a resource at all.
    pub(super) fn may_hold(&self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId, node: NodeId) -> bool {
        let Some(config) = ctx.config().resource(resource) else { return false };
        fits(config, log.membership(), node) || (ctx.has(Mutant::GrantToArbiter) && log.membership().contains(node))
    }

    /// The best owner now: the operator's wish, else a healthy candidate that owns least, in candidate order.
    pub(super) fn choose(&self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId) -> Option<NodeId> {
        let config = ctx.config().resource(resource)?;
        let state = log.state();
        let fit = |node: NodeId| {
            self.may_hold(ctx, log, resource, node)
                && (!self.down.contains_key(&node) || ctx.has(Mutant::GrantToDown))
                && (!state.drained.contains(&node) || ctx.has(Mutant::GrantToDraining))
                && !self.holds_sibling(ctx, log, config, node)
                && holds_required(ctx, log, config, node)
        };
        if let Some(Some(Some(wish))) = state.grants.get(&resource).map(|grant| grant.moving)
            && fit(wish)
        {
            return Some(wish);
        }
        let nodes: Vec<NodeId> = if config.candidates.is_empty() {
            log.membership().members().into_iter().collect()
        } else {
            config.candidates.clone()
        };
        let failed = self.failed.get(&resource);
        let leaving = state.grants.get(&resource).filter(|grant| grant.moving.is_some()).map(|grant| grant.holder);
        let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
        for owner in ctx.config().resources.iter().filter_map(|other| self.owner(ctx, log, other.id)) {
            *loads.entry(owner).or_default() += 1;
        }
        let load = |node: &NodeId| loads.get(node).copied().unwrap_or_default();
        let order = |at: usize| if config.candidates.is_empty() { 0 } else { at };
        let (pick, _) = nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| fit(**node))
            .map(|(at, node)| {
                let avoid = failed == Some(node) || leaving == Some(*node);
                (*node, (avoid, self.suspect.contains(node), order(at), load(node), *node))
            })
            .min_by_key(|(_, rank)| *rank)?;
        Some(pick)
    }

    /// Who has a resource or is about to, by the newest grant that is known of; nobody if that was released.
    fn owner(&self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId) -> Option<NodeId> {
        let proposed = self.proposing.get(&resource).filter(|_| !ctx.has(Mutant::PlacedBlind));
        proposed.copied().or_else(|| {
            let (epoch, holder) = log.newest_grant(resource)?;
            let applied = log.state().grants.get(&resource);
            (!applied.is_some_and(|grant| grant.epoch == epoch && grant.released)).then_some(holder)
        })
    }

    /// Slots of one service go to different nodes.
    fn holds_sibling(&self, ctx: &Ctx<'_>, log: &Consensus, config: &ResourceConfig, node: NodeId) -> bool {
        let Role::Slot { service, .. } = config.role else { return false };
        ctx.config().resources.iter().any(|other| {
            other.id != config.id
                && matches!(other.role, Role::Slot { service: same, .. } if same == service)
                && self.owner(ctx, log, other.id) == Some(node)
        })
    }

    /// A warm service keeps a passive copy on the candidate after its holder.
    pub(super) fn update_standby(
        &mut self,
        ctx: &mut Ctx<'_>,
        log: &Consensus,
        resource: ResourceId,
        holder: NodeId,
        epoch: Epoch,
        evidence: EvidenceId,
    ) {
        let Some(config) = ctx.config().resource(resource) else { return };
        let Role::Slot { service, slot } = config.role else { return };
        if ctx.config().service(service).is_none_or(|service| service.strategy != Strategy::Warm) {
            return;
        }
        let members = log.membership();
        let nodes: Vec<NodeId> = if config.candidates.is_empty() {
            members.members().into_iter().collect()
        } else {
            config.candidates.clone()
        };
        let fit =
            |node: &&NodeId| fits(config, members, **node) && **node != holder && !log.state().drained.contains(node);
        // The next one after the holder, around the ring of candidates.
        let after = nodes.iter().position(|node| *node == holder).map_or(0, |at| at + 1);
        let next = nodes[after..].iter().chain(&nodes[..after]).find(fit).copied();
        let copy = Copy { service, slot };
        let on = next == Some(self.me);
        let was = if on { !self.standbys.insert(copy) } else { self.standbys.remove(&copy) };
        if on != was {
            ctx.signal(Signal::StandBy { copy, on, epoch, evidence });
        }
    }
}

/// Whether a node was granted a slot of every service that a slot's service requires: they run side by side.
fn holds_required(ctx: &Ctx<'_>, log: &Consensus, config: &ResourceConfig, node: NodeId) -> bool {
    let Role::Slot { service, .. } = config.role else { return true };
    let Some(service) = ctx.config().service(service) else { return true };
    service.requires.iter().all(|needed| {
        ctx.config().resources.iter().any(|other| {
            matches!(other.role, Role::Slot { service, .. } if service == *needed)
                && log.state().grants.get(&other.id).is_some_and(|grant| grant.holder == node && !grant.released)
        })
    })
}

/// Whether a node may own a resource by configuration and membership.
fn fits(config: &ResourceConfig, members: &Membership, node: NodeId) -> bool {
    members.contains(node)
        && !members.arbiters.contains(&node)
        && (config.candidates.is_empty() || config.candidates.contains(&node))
}
