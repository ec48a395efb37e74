//! The holder's side: renewals (rule R1), expiry counted from the sending (R2), silence at expiry (R4), letting go.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Ask, Fact, Message, Renew, Renewed, Views};
use crate::consensus::Consensus;
use crate::context::{Ctx, Signal};
use crate::ids::{Epoch, EvidenceId, NodeId, OpId, ResourceId, Term};
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

/// Requests are repeated this often.
const ASK_AGAIN: Micros = Micros::from_millis(100);
/// A lease that runs out twice within so many leases is not kept (rule R7).
const UNSTEADY: u64 = 8;

/// One grant of this node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Holding {
    pub(super) epoch: Epoch,
    /// Expiry on this node's clock; `None` before the first renewal and after expiry.
    pub(super) until: Option<Time>,
    /// Since when it is neither armed nor out of a leader's reach.
    idle: Option<Time>,
    /// When it last ran out.
    lost: Option<Time>,
    /// When it ran out before that, if not long before.
    again: Option<Time>,
    /// Asked the leader for another holder, as this node cannot keep it armed (rule R7).
    gives_up: bool,
    /// Told to let go; renewed only until what runs has stopped in its own time.
    letting_go: bool,
    /// Being disarmed: never renewed again.
    releasing: bool,
    evidence: EvidenceId,
    /// Send times of renewals that may still be answered.
    asked: Vec<Time>,
    /// The newest leader's term that renewed it.
    term: Term,
}

impl Views {
    /// A grant is this node's own.
    pub(super) fn take_grant(
        &mut self,
        ctx: &mut Ctx<'_>,
        log: &Consensus,
        resource: ResourceId,
        epoch: Epoch,
        evidence: EvidenceId,
    ) {
        if self.held.get(&resource).is_some_and(|held| held.epoch >= epoch) || !Self::is_safe(ctx, resource) {
            return;
        }
        let holding = Holding {
            epoch,
            until: None,
            idle: Some(ctx.now),
            lost: None,
            again: None,
            gives_up: false,
            letting_go: false,
            releasing: false,
            evidence,
            asked: Vec::new(),
            term: Term(0),
        };
        self.asks.remove(&resource);
        if let Some(old) = self.held.insert(resource, holding)
            && old.until.is_some()
        {
            ctx.signal(Signal::LeaseLost { resource, epoch: old.epoch, evidence });
        }
        self.publish(ctx);
        self.renew(ctx, log);
    }

    /// A grant went to somebody else: what is still armed of an older one is over.
    pub(super) fn lose_grant(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch, evidence: EvidenceId) {
        self.asks.remove(&resource);
        let Some(held) = self.held.remove(&resource) else { return };
        self.publish(ctx);
        let refused = Fact::Refused { resource, epoch: held.epoch, newest: epoch };
        let evidence = self.event(ctx, &[evidence, held.evidence], refused);
        if held.until.is_some() {
            ctx.signal(Signal::LeaseLost { resource, epoch: held.epoch, evidence });
            let _: OpId = ctx.disarm(resource, held.epoch);
        }
    }

    /// This node is no member any more.
    pub(super) fn leave(&mut self, ctx: &mut Ctx<'_>) {
        if ctx.has(Mutant::RemovedKeepsHolding) {
            return;
        }
        let held = core::mem::take(&mut self.held);
        self.publish(ctx);
        for (resource, held) in held {
            if held.until.is_some() {
                let evidence = self.event(ctx, &[held.evidence], Fact::Released { resource, epoch: held.epoch });
                ctx.signal(Signal::LeaseLost { resource, epoch: held.epoch, evidence });
                let _: OpId = ctx.disarm(resource, held.epoch);
            }
        }
        self.asks.clear();
    }

    /// Asks the leader for more time, for all that is held.
    pub(super) fn renew(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        self.give_up(ctx, log);
        let keep = self.lease.scale(2, 1);
        let mut held = Vec::new();
        for (resource, holding) in &mut self.held {
            if !holding.releasing {
                holding.asked.retain(|at| ctx.now.since(*at) < keep);
                holding.asked.push(ctx.now);
                held.push((*resource, holding.epoch));
            }
        }
        if held.is_empty() {
            self.renew_at = None;
            return;
        }
        // Until there is an answer.
        self.renew_at = Some(ctx.now + self.lease.scale(1, 12));
        let renew = Renew { sent_at: ctx.now, held };
        match log.leader() {
            Some(leader) if leader == self.me => {
                if let Some(answer) = self.answer_renewal(ctx, log, self.me, &renew) {
                    self.on_renewed(ctx, self.me, &answer);
                }
            }
            Some(leader) => self.send(ctx, leader, Message::Renew(renew)),
            None => {}
        }
    }

    /// What a node that hears a leader could not arm for a whole lease, or not for long, somebody else shall have (rule R7).
    fn give_up(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        let led = log.leader_heard().is_some_and(|at| ctx.now.since(at) < self.lease.scale(2, 1));
        let mut over = Vec::new();
        for (resource, held) in self.held.iter_mut().filter(|(_, held)| !held.letting_go && !held.releasing) {
            if !led {
                held.again = None;
                held.idle = held.idle.map(|_| ctx.now);
                if core::mem::take(&mut held.gives_up) {
                    self.asks.remove(resource);
                }
                continue;
            }
            let long = held.idle.filter(|since| ctx.now.since(*since) >= self.lease);
            let again = held.again.filter(|_| !ctx.has(Mutant::LimpsOn));
            if let Some(since) = again.or(long).filter(|_| !held.gives_up && !ctx.has(Mutant::NeverGivesUp)) {
                held.gives_up = true;
                over.push((*resource, held.epoch, ctx.now.since(since), held.evidence));
            }
        }
        for (resource, epoch, over, because) in over {
            let lapsed = self.event(ctx, &[because], Fact::Lapsed { resource, holder: self.me, over });
            let because = [lapsed, EvidenceId::NONE, EvidenceId::NONE];
            self.ask(ctx, log, resource, Ask::FailOver { resource, epoch, because });
        }
    }

    /// The leader's answer: time counts from when this node asked (R2).
    pub(super) fn on_renewed(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, renewed: &Renewed) {
        // What has run out is lost first, whichever came first to be looked at.
        self.expire(ctx);
        for (resource, epoch) in &renewed.held {
            let newest = self.newest.get(resource).copied().unwrap_or_default();
            if *epoch < newest {
                self.event(ctx, &[], Fact::Refused { resource: *resource, epoch: *epoch, newest });
                continue;
            }
            self.extend(ctx, *resource, *epoch, renewed);
        }
        self.rest(renewed);
    }

    /// Asks again a sixth of a lease after what was answered, if that was for all that is held.
    fn rest(&mut self, renewed: &Renewed) {
        let answered = |(resource, held): (&ResourceId, &Holding)| {
            held.releasing
                || held.asked.last() == Some(&renewed.sent_at) && renewed.held.contains(&(*resource, held.epoch))
        };
        if self.renew_at.is_some() && self.held.iter().all(answered) {
            self.renew_at = Some(renewed.sent_at + self.lease.scale(1, 6));
        }
    }

    /// An answer to a heartbeat has asked for more time for all that is held.
    pub(super) fn on_carried(&mut self, at: Time) {
        let keep = self.lease.scale(2, 1);
        for held in self.held.values_mut().filter(|held| !held.releasing) {
            held.asked.retain(|asked| at.since(*asked) < keep);
            held.asked.push(at);
        }
    }

    /// A heartbeat brought the answer to that: while they do, this node asks by itself only if one stays away.
    pub(super) fn on_prolonged(&mut self, ctx: &mut Ctx<'_>, by: NodeId, renewed: &Renewed) {
        let before = self.renew_at;
        self.on_renewed(ctx, by, renewed);
        let kept = self.held.values().filter(|held| !held.releasing);
        let until = kept.map(|held| held.until).min().flatten();
        let reserve = self.lease.scale(1, 4);
        self.renew_at = match until {
            Some(until) if before.is_some() && until > ctx.now + reserve => Some(until - reserve),
            _ => before,
        };
    }

    /// What goes with the answers to heartbeats from now on.
    fn publish(&self, ctx: &mut Ctx<'_>) {
        let kept = self.held.iter().filter(|(_, held)| !held.releasing);
        ctx.shared.held = kept.map(|(resource, held)| (*resource, held.epoch)).collect();
    }

    fn extend(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch, renewed: &Renewed) {
        let from_receive = ctx.has(Mutant::LeaseFromReceiveTime);
        let Some(held) = self.held.get_mut(&resource) else { return };
        let known = held.asked.contains(&renewed.sent_at);
        if held.epoch != epoch || held.releasing || renewed.term < held.term || !known {
            return;
        }
        held.term = renewed.term;
        let counted_from = if from_receive { ctx.now } else { renewed.sent_at };
        let until = counted_from + renewed.left.min(self.lease);
        if until <= ctx.now || held.until.is_some_and(|old| old >= until) {
            return;
        }
        let first = held.until.replace(until).is_none();
        held.idle = None;
        let unsteady = self.lease.scale(UNSTEADY, 1);
        held.again = held.again.filter(|_| held.lost.is_some_and(|at| ctx.now.since(at) < unsteady));
        if held.again.is_none() && core::mem::take(&mut held.gives_up) {
            self.asks.remove(&resource);
        }
        let because = held.evidence;
        let more = if ctx.has(Mutant::GuardOutlivesLease) { self.lease.scale(1, 3) } else { Micros::ZERO };
        ctx.arm(resource, epoch, until + more);
        if first {
            let evidence = self.event(ctx, &[because], Fact::Armed { resource, epoch, until });
            ctx.signal(Signal::Holds { resource, epoch, evidence });
        }
    }

    /// Leases that have run out: the guard has acted already, the rest stops now.
    pub(super) fn expire(&mut self, ctx: &mut Ctx<'_>) {
        let over: Vec<ResourceId> = self
            .held
            .iter()
            .filter(|(_, held)| held.until.is_some_and(|until| until <= ctx.now))
            .map(|(resource, _)| *resource)
            .collect();
        for resource in over {
            let Some(held) = self.held.get_mut(&resource) else { continue };
            if ctx.has(Mutant::LeaseForEver) {
                let until = ctx.now + self.lease;
                held.until = Some(until);
                ctx.arm(resource, held.epoch, until);
                continue;
            }
            held.until = None;
            held.idle = Some(ctx.now);
            let before = held.lost.replace(ctx.now);
            held.again = before.filter(|at| ctx.now.since(*at) < self.lease.scale(UNSTEADY, 1));
            let (epoch, because, letting_go) = (held.epoch, held.evidence, held.letting_go);
            let evidence = self.event(ctx, &[because], Fact::Expired { resource, epoch });
            ctx.signal(Signal::LeaseLost { resource, epoch, evidence });
            if letting_go {
                self.begin_release(ctx, resource, epoch);
            }
        }
    }

    /// The log tells the holder to let go.
    pub(super) fn on_move(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, evidence: EvidenceId) {
        let slot = Self::is_slot(ctx, resource);
        let Some(held) = self.held.get_mut(&resource).filter(|held| !held.letting_go) else { return };
        held.letting_go = true;
        let (epoch, armed) = (held.epoch, held.until.is_some());
        self.asks.remove(&resource);
        if slot && armed {
            ctx.signal(Signal::MustLetGo { resource, epoch, evidence });
            if ctx.has(Mutant::ReleaseBeforeStop) {
                self.asks.insert(resource, Ask::Release { resource, epoch });
                self.ask_at = Some(ctx.now);
            }
        } else {
            self.begin_release(ctx, resource, epoch);
        }
    }

    /// Supervision has stopped what ran.
    pub(super) fn on_let_go(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch) {
        if self.held.get(&resource).is_some_and(|held| held.epoch == epoch && held.letting_go) {
            self.begin_release(ctx, resource, epoch);
        }
    }

    /// Disarms; the release is told when that is done.
    fn begin_release(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch) {
        if let Some(held) = self.held.get_mut(&resource) {
            held.until = None;
            held.releasing = true;
        }
        self.publish(ctx);
        if self.disarming.values().any(|waiting| *waiting == (resource, epoch)) {
            return;
        }
        if ctx.has(Mutant::ReleaseBeforeStop) {
            self.asks.insert(resource, Ask::Release { resource, epoch });
            self.ask_at = Some(ctx.now);
            return;
        }
        let op = ctx.disarm(resource, epoch);
        self.disarming.insert(op, (resource, epoch));
    }

    /// The guard is disarmed: the leader may know.
    pub(super) fn release(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, resource: ResourceId, epoch: Epoch) {
        let because = self.held.get(&resource).map(|held| held.evidence).unwrap_or_default();
        self.event(ctx, &[because], Fact::Released { resource, epoch });
        // A later grant, applied while the guard was being disarmed, tells the leader as much.
        let overtaken = self.newest.get(&resource).is_some_and(|newest| *newest > epoch);
        if !overtaken || ctx.has(Mutant::OvertakenAsked) {
            self.ask(ctx, log, resource, Ask::Release { resource, epoch });
        }
    }

    /// Asks the leader for something, now and again until the log shows it.
    pub(super) fn ask(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, resource: ResourceId, ask: Ask) {
        self.asks.insert(resource, ask);
        self.ask_again(ctx, log);
    }

    pub(super) fn ask_again(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        self.ask_at = None;
        if self.asks.is_empty() {
            return;
        }
        self.ask_at = Some(ctx.now + ASK_AGAIN);
        let asks: Vec<Ask> = self.asks.values().cloned().collect();
        for ask in asks {
            match log.leader() {
                Some(leader) if leader == self.me => self.on_ask(ctx, log, self.me, &ask),
                Some(leader) => self.send(ctx, leader, Message::Ask(ask)),
                None => {}
            }
        }
    }
}
