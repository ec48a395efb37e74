//! The leader's side: renewals only with a fresh quorum (rule R1), grants only after the old lease (R3).

use alloc::collections::BTreeMap;

use super::{Ask, Fact, Message, Renew, Renewed, Views};
use crate::consensus::{Consensus, Payload};
use crate::context::{Ctx, Signal};
use crate::ids::{EvidenceId, NodeId, ResourceId};
use crate::io::SubmitError;
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

impl Views {
    /// This node leads: leases that the predecessor renewed may still run.
    pub(super) fn on_leads(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, evidence: EvidenceId) {
        self.leads = Some(evidence);
        self.renewed.clear();
        self.failed.clear();
        self.leaving.clear();
        ctx.shared.given_up.clear();
        self.proposing.clear();
        self.waiting.clear();
        self.unrenewed.clear();
        let wait = self.wait(ctx);
        let alone_since = log.alone_since().unwrap_or(ctx.now);
        self.not_before = if ctx.has(Mutant::ElectedTimeIgnored) { ctx.now } else { alone_since + wait };
        self.place_at = Some(ctx.now);
    }

    pub(super) fn on_deposed(&mut self) {
        self.leads = None;
        self.place_at = None;
        self.proposing.clear();
        self.renewed.clear();
    }

    /// A pause and a jump of the clock look alike. If it was a jump, no lease is as old as it seems: wait anew.
    pub(super) fn on_stalled(&mut self, ctx: &Ctx<'_>, _late: Micros) {
        if self.leads.is_some() {
            self.not_before = self.not_before.max(ctx.now + self.wait(ctx));
        }
    }

    /// L(1+ε) and the timers' slack, ε > 2ρ/(1−ρ) (rule R3).
    fn wait(&self, ctx: &Ctx<'_>) -> Micros {
        let views = &ctx.config().views;
        if ctx.has(Mutant::GrantWaitTooShort) {
            return self.lease.scale(7, 10);
        }
        if ctx.has(Mutant::DriftIgnored) {
            return self.lease;
        }
        outlasts(self.lease, views.drift_ppm) + views.timer_slack
    }

    pub(super) fn on_renew(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, from: NodeId, renew: &Renew) {
        if let Some(answer) = self.answer_renewal(ctx, log, from, renew) {
            self.send(ctx, from, Message::Renewed(answer));
        }
    }

    /// Rule R1 for a renewal that came now.
    pub(super) fn answer_renewal(
        &mut self,
        ctx: &Ctx<'_>,
        log: &Consensus,
        from: NodeId,
        renew: &Renew,
    ) -> Option<Renewed> {
        let (renewed, until) = judge_renewal(ctx, log, from, renew, ctx.now)?;
        renewed.count(&mut self.renewed, until);
        Some(renewed)
    }

    /// From when on a resource may be granted to another node than its holder (rule R3).
    pub(super) fn grantable_at(&self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId) -> Time {
        let Some(grant) = log.state().grants.get(&resource) else { return Time(0) };
        if grant.released || ctx.has(Mutant::GrantWithoutWait) {
            return Time(0);
        }
        self.over_at(ctx, log, resource)
    }

    /// When the lease of whoever holds a resource must have run out, as far as this leader has renewed it.
    pub(super) fn over_at(&self, ctx: &Ctx<'_>, log: &Consensus, resource: ResourceId) -> Time {
        let renewed = self.renewed.get(&resource).copied().max(log.renewed(resource));
        let renewed = renewed.map_or(Time(0), |contact| contact + self.wait(ctx));
        self.not_before.max(renewed)
    }

    /// A holder asks the leader for something.
    pub(super) fn on_ask(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, from: NodeId, ask: &Ask) {
        if log.leads().is_none() {
            return;
        }
        let (Ask::Release { resource, mut epoch } | Ask::FailOver { resource, mut epoch, .. }) = *ask;
        let Some(grant) = log.state().grants.get(&resource) else { return };
        if ctx.has(Mutant::OldEpochAccepted) {
            epoch = grant.epoch;
        } else if grant.epoch != epoch || grant.holder != from {
            let newest = grant.epoch;
            if epoch < newest {
                self.event(ctx, &[], Fact::Refused { resource, epoch, newest });
            }
            return;
        }
        if log.in_flight(resource) || grant.released {
            return;
        }
        match *ask {
            Ask::Release { .. } => ctx.signal(Signal::Propose(Payload::Release { resource, epoch })),
            Ask::FailOver { because, .. } => {
                self.failed.insert(resource, from);
                if self.choose(ctx, log, resource).is_none_or(|node| node == from) {
                    return;
                }
                if grant.moving.is_none() {
                    ctx.signal(Signal::Propose(Payload::Move { resource, to: None, because }));
                }
                let known = self.leaving.get(&resource).filter(|(of, _)| *of == epoch);
                let since = known.map_or(ctx.now, |(_, since)| *since);
                self.leaving.insert(resource, (epoch, since));
            }
        }
    }

    pub(super) fn submit_move(
        &mut self,
        ctx: &mut Ctx<'_>,
        log: &Consensus,
        resource: ResourceId,
        to: NodeId,
    ) -> Result<(), SubmitError> {
        let grant = log.state().grants.get(&resource).ok_or(SubmitError::Unknown)?;
        if !self.may_hold(ctx, log, resource, to) || self.down.contains_key(&to) {
            return Err(SubmitError::NotEligible(to));
        }
        if grant.holder == to && grant.moving.is_none() || grant.moving == Some(Some(to)) {
            return Ok(());
        }
        if log.in_flight(resource) || grant.moving.is_some() {
            return Err(SubmitError::ChangeInProgress);
        }
        let evidence = self.leads.unwrap_or_default();
        let because = [evidence, EvidenceId::NONE, EvidenceId::NONE];
        ctx.signal(Signal::Propose(Payload::Move { resource, to: Some(to), because }));
        Ok(())
    }
}

impl Renewed {
    /// Notes, for rule R3, up to which instant what this renews may be held.
    pub(crate) fn count(&self, into: &mut BTreeMap<ResourceId, Time>, until: Time) {
        for (resource, _) in &self.held {
            let known = into.entry(*resource).or_insert(until);
            *known = (*known).max(until);
        }
    }
}

/// Rule R1: the leader of a fresh quorum, with an entry of its own term committed, renews what is newest in its log. `at`: when
/// the renewal came here, perhaps a while ago. What a quorum did since then is not needed: from `at` on the lease lasts a whole
/// length at most, so what counts for rule R3 is the earlier of `at` and the quorum's contact, which is told with the answer.
pub(crate) fn judge_renewal(
    ctx: &Ctx<'_>,
    log: &Consensus,
    from: NodeId,
    renew: &Renew,
    at: Time,
) -> Option<(Renewed, Time)> {
    let lease = ctx.config().views.lease;
    let (term, _) = log.leads()?;
    if !log.own_term_committed() && !ctx.has(Mutant::RenewBeforeOwnTerm) {
        return None;
    }
    let contact = if ctx.has(Mutant::RenewWithoutQuorum) { Some(ctx.now) } else { log.quorum_contact(ctx.now) };
    let contact = contact?;
    let age = at.since(contact);
    if ctx.now.since(contact) >= lease {
        return None;
    }
    let drift_ppm = if ctx.has(Mutant::DriftIgnored) { 0 } else { ctx.config().views.drift_ppm };
    let whole = ctx.has(Mutant::LeftIsWholeLease);
    let left = if whole { lease } else { left(lease, age, drift_ppm) };
    let applied_only = ctx.has(Mutant::RenewAppliedOnly);
    let given_up = |resource: &ResourceId, epoch| {
        ctx.shared.given_up.get(resource) == Some(&epoch) && !ctx.has(Mutant::LeaverRenewed)
    };
    let is_member = log.membership().contains(from) || ctx.has(Mutant::RemovedKeepsHolding);
    let mine = |resource: &ResourceId, epoch| {
        let applied = log.state().grants.get(resource);
        let newest =
            if applied_only { applied.map(|grant| (grant.epoch, grant.holder)) } else { log.newest_grant(*resource) };
        newest == Some((epoch, from)) && applied.is_some_and(|grant| grant.epoch == epoch && !grant.released)
    };
    let held: alloc::vec::Vec<_> = renew
        .held
        .iter()
        .filter(|(resource, epoch)| is_member && mine(resource, *epoch) && !given_up(resource, *epoch))
        .copied()
        .collect();
    (!held.is_empty()).then_some((Renewed { sent_at: renew.sent_at, left, held, term }, contact.min(at)))
}

/// How long a leader waits by its clock so that a lease has run out by its holder's: L(1 + 2ρ/(1−ρ)), rounded up (rule R3).
pub(super) fn outlasts(lease: Micros, drift_ppm: u32) -> Micros {
    let rho = u64::from(drift_ppm).min(500_000);
    lease + lease.scale(2 * rho, 1_000_000 - rho) + Micros(1)
}

/// What is left of a lease whose quorum was last heard `age` ago: (L − age)(1 − ρ), rounded down (rule R1).
pub(super) fn left(lease: Micros, age: Micros, drift_ppm: u32) -> Micros {
    (lease - age).scale(1_000_000 - u64::from(drift_ppm).min(1_000_000), 1_000_000)
}
