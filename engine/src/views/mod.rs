//! Leases, grants and placement: diagnosis proposes, a quorum grants, the holder's clock enforces.

mod holder;
mod leader;
mod message;
mod placement;
mod prefer;
#[cfg(test)]
mod tests;

pub(crate) use leader::judge_renewal;
pub use message::{Ask, Claim, Fact, Message, Order, Renew, Renewed};

use alloc::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{Availability, Config, Role};
use crate::consensus::{Consensus, Entry, Payload};
use crate::context::{Ctx, Signal};
use crate::event::Fact as AnyFact;
use crate::ids::{Epoch, EvidenceId, NodeId, OpId, ResourceId};
use crate::io::{Command, Copy, Lane, Outcome, SubmitError};
use crate::time::{Micros, Time};
use crate::wire::Body;
use holder::Holding;
use prefer::Prefer;

/// A setting is at most so long, in bytes.
const SETTING_MAX: usize = 1_024;

/// A member that does not know settings, if there is one; who was never heard counts as such.
fn too_old(ctx: &Ctx<'_>, log: &Consensus) -> Option<NodeId> {
    log.membership().members().into_iter().find(|node| ctx.speaks(*node) < 3)
}

/// One node's leases and, on the leader, the placement.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Views {
    me: NodeId,
    lease: Micros,
    /// What this node was granted, by resource.
    held: BTreeMap<ResourceId, Holding>,
    /// The newest epoch heard of.
    newest: BTreeMap<ResourceId, Epoch>,
    /// When to renew next.
    renew_at: Option<Time>,
    /// Disarms on their way, and what is released when they are done.
    disarming: BTreeMap<OpId, (ResourceId, Epoch)>,
    /// Requests that are repeated until the log shows them.
    asks: BTreeMap<ResourceId, Ask>,
    ask_at: Option<Time>,
    /// Nodes that diagnosis calls down or suspect, with the evidence.
    down: BTreeMap<NodeId, EvidenceId>,
    suspect: BTreeSet<NodeId>,
    /// Leader: newest quorum contact under which each resource was renewed.
    renewed: BTreeMap<ResourceId, Time>,
    /// Leader: no grant to another holder before this, whatever else is known.
    not_before: Time,
    /// Leader: who failed to keep a resource alive; others are tried first.
    failed: BTreeMap<ResourceId, NodeId>,
    /// Leader: grants on their way to the log, which does not show them yet.
    proposing: BTreeMap<ResourceId, NodeId>,
    /// Leader: when to look at the placement next.
    place_at: Option<Time>,
    /// Leader: told about waiting.
    waiting: BTreeSet<ResourceId>,
    /// Leader: since when the holder of a grant is to let go, because it asked for another one.
    leaving: BTreeMap<ResourceId, (Epoch, Time)>,
    /// Leader: since when a grant's lease is over, by what this leader has seen.
    unrenewed: BTreeMap<ResourceId, (Epoch, Time)>,
    leads: Option<EvidenceId>,
    /// Warm standbys on this node.
    standbys: BTreeSet<Copy>,
    prefer: Prefer,
}

impl Views {
    pub(crate) fn new(config: &Config, now: Time) -> Self {
        Self {
            me: config.me,
            lease: config.views.lease,
            held: BTreeMap::new(),
            newest: BTreeMap::new(),
            renew_at: None,
            disarming: BTreeMap::new(),
            asks: BTreeMap::new(),
            ask_at: None,
            down: BTreeMap::new(),
            suspect: BTreeSet::new(),
            renewed: BTreeMap::new(),
            not_before: Time(0),
            failed: BTreeMap::new(),
            proposing: BTreeMap::new(),
            place_at: None,
            waiting: BTreeSet::new(),
            leaving: BTreeMap::new(),
            unrenewed: BTreeMap::new(),
            leads: None,
            standbys: BTreeSet::new(),
            prefer: Prefer::new(config, now),
        }
    }

    pub(crate) fn on_message(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, from: NodeId, message: Message) {
        match message {
            Message::Renew(renew) => self.on_renew(ctx, log, from, &renew),
            Message::Renewed(renewed) => self.on_renewed(ctx, from, &renewed),
            Message::Ask(ask) => self.on_ask(ctx, log, from, &ask),
            Message::Claim(claim) => self.on_claim(ctx, from, claim),
            Message::Order(order) => {
                let _ = self.submit(ctx, log, order.into());
            }
        }
    }

    pub(crate) fn on_timer(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        self.expire(ctx);
        if self.renew_at.is_some_and(|at| at <= ctx.now) {
            self.renew(ctx, log);
        }
        if self.ask_at.is_some_and(|at| at <= ctx.now) {
            self.ask_again(ctx, log);
        }
        if self.place_at.is_some_and(|at| at <= ctx.now) {
            self.place(ctx, log);
        }
        self.prefer_on_timer(ctx);
    }

    /// A guard was disarmed: now the release may be told.
    pub(crate) fn on_done(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, op: OpId, _outcome: Outcome) {
        let Some((resource, epoch)) = self.disarming.remove(&op) else { return };
        self.release(ctx, log, resource, epoch);
    }

    pub(crate) fn on_signal(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, signal: &Signal) {
        match signal {
            Signal::NodeSuspect { node, .. } => {
                self.suspect.insert(*node);
            }
            Signal::NodeDown { node, evidence } => {
                self.suspect.remove(node);
                self.down.insert(*node, *evidence);
                self.place(ctx, log);
            }
            Signal::NodeUp { node, .. } => {
                self.suspect.remove(node);
                self.down.remove(node);
                self.place(ctx, log);
            }
            Signal::Stalled { late, .. } => self.on_stalled(ctx, *late),
            Signal::Leads { evidence, .. } => self.on_leads(ctx, log, *evidence),
            Signal::Deposed { .. } => self.on_deposed(),
            Signal::Proposed { payload: Payload::Grant { resource, .. }, .. } => {
                self.proposing.remove(resource);
            }
            Signal::Applied { entry, evidence } => self.on_applied(ctx, log, entry, *evidence),
            Signal::Restored { snapshot, evidence } => {
                for (resource, grant) in &snapshot.state.grants {
                    self.learn_grant(ctx, log, *resource, grant.epoch, grant.holder, *evidence);
                    if grant.moving.is_some() && !grant.released {
                        self.on_move(ctx, *resource, *evidence);
                    }
                }
            }
            Signal::Members(members) if !members.contains(self.me) => self.leave(ctx),
            Signal::Carried { at } => self.on_carried(*at),
            Signal::Prolonged { by, renewed } => self.on_prolonged(ctx, *by, renewed),
            Signal::LetGo { resource, epoch } => self.on_let_go(ctx, *resource, *epoch),
            Signal::CannotKeep { resource, epoch, because } => {
                let ask = Ask::FailOver { resource: *resource, epoch: *epoch, because: *because };
                self.ask(ctx, log, *resource, ask);
            }
            _ => {}
        }
    }

    pub(crate) fn submit(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, command: Command) -> Result<(), SubmitError> {
        if log.leads().is_none() {
            return Err(SubmitError::NotCoordinator { hint: log.leader() });
        }
        match command {
            Command::Move { resource, to } => self.submit_move(ctx, log, resource, to),
            Command::Drain(node) | Command::Undrain(node) if !log.membership().contains(node) => {
                Err(SubmitError::Unknown)
            }
            Command::Drain(node) => {
                ctx.signal(Signal::Propose(Payload::Maintenance { node, on: true }));
                Ok(())
            }
            Command::Undrain(node) => {
                ctx.signal(Signal::Propose(Payload::Maintenance { node, on: false }));
                Ok(())
            }
            Command::Set { value, .. } if value.len() > SETTING_MAX => Err(SubmitError::TooLarge),
            Command::Set { resource, .. }
                if resource < ResourceId::SETTINGS && ctx.config().resource(resource).is_none() =>
            {
                Err(SubmitError::Unknown)
            }
            Command::Set { resource, value } => match too_old(ctx, log) {
                Some(node) => Err(SubmitError::TooOld(node)),
                None => {
                    ctx.signal(Signal::Propose(Payload::Set { resource, value }));
                    Ok(())
                }
            },
            Command::Note(_)
            | Command::AddNode { .. }
            | Command::RemoveNode(_)
            | Command::Scrub(_)
            | Command::Compare { .. } => Err(SubmitError::Unknown),
        }
    }

    /// Sends a command on to whoever leads, who takes or refuses it in silence: what comes of it is in the log.
    pub(crate) fn pass_on(&self, ctx: &mut Ctx<'_>, log: &Consensus, order: Order) -> Result<(), SubmitError> {
        if matches!(&order, Order::Set { value, .. } if value.len() > SETTING_MAX) {
            return Err(SubmitError::TooLarge);
        }
        match log.leader() {
            Some(leader) if leader != self.me => {
                let message = Message::Order(order);
                if ctx.speaks(leader) < crate::wire::since(message.kind()) {
                    return Err(SubmitError::TooOld(leader));
                }
                self.send(ctx, leader, message);
                Ok(())
            }
            hint => Err(SubmitError::NotCoordinator { hint }),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let expiry = self.held.values().filter_map(|held| held.until).min();
        crate::context::earliest([expiry, self.renew_at, self.ask_at, self.place_at, self.prefer.deadline()])
    }

    /// Whether this node holds a resource by its own clock, and until when.
    #[must_use]
    pub fn holds(&self, resource: ResourceId) -> Option<(Epoch, Time)> {
        self.held.get(&resource).and_then(|held| held.until.map(|until| (held.epoch, until)))
    }

    /// A committed entry.
    fn on_applied(&mut self, ctx: &mut Ctx<'_>, log: &Consensus, entry: &Entry, evidence: EvidenceId) {
        match &entry.payload {
            Payload::Grant { resource, holder, because } => {
                let epoch = Epoch(entry.index.0);
                let fact = Fact::Granted { resource: *resource, epoch, holder: *holder };
                let evidence = ctx.event(&[evidence, because[0], because[1]], AnyFact::Views(fact));
                self.waiting.remove(resource);
                self.learn_grant(ctx, log, *resource, epoch, *holder, evidence);
            }
            Payload::Move { resource, .. } => self.on_move(ctx, *resource, evidence),
            Payload::Release { resource, epoch } => {
                self.asks.retain(|asked, ask| {
                    asked != resource || !matches!(ask, Ask::Release { epoch: told, .. } if *told <= *epoch)
                });
            }
            Payload::Note(bytes) => {
                let digest = crate::hash::hash_bytes(0, bytes);
                ctx.event(&[evidence], AnyFact::Views(Fact::Noted { index: entry.index, digest }));
            }
            Payload::Lead(_) | Payload::Config(_) | Payload::Maintenance { .. } | Payload::Set { .. } => {}
        }
        self.place(ctx, log);
    }

    /// A grant is known: it is mine, or what I held of it is over.
    fn learn_grant(
        &mut self,
        ctx: &mut Ctx<'_>,
        log: &Consensus,
        resource: ResourceId,
        epoch: Epoch,
        holder: NodeId,
        evidence: EvidenceId,
    ) {
        let newest = self.newest.entry(resource).or_default();
        if epoch < *newest {
            return;
        }
        *newest = epoch;
        self.update_standby(ctx, log, resource, holder, epoch, evidence);
        if holder == self.me {
            self.take_grant(ctx, log, resource, epoch, evidence);
        } else {
            self.lose_grant(ctx, resource, epoch, evidence);
        }
    }

    fn event(&self, ctx: &mut Ctx<'_>, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        ctx.event(because, AnyFact::Views(fact))
    }

    fn send(&self, ctx: &mut Ctx<'_>, to: NodeId, message: Message) {
        ctx.send(to, Lane::Probe, &Body::Views(message));
    }

    /// Whether a resource follows the rules of quorum and lease.
    fn is_safe(ctx: &Ctx<'_>, resource: ResourceId) -> bool {
        ctx.config().resource(resource).is_some_and(|resource| resource.availability == Availability::Safe)
    }

    /// Whether a program runs for a resource, so that supervision has to let go first.
    fn is_slot(ctx: &Ctx<'_>, resource: ResourceId) -> bool {
        ctx.config().resource(resource).is_some_and(|resource| matches!(resource.role, Role::Slot { .. }))
    }
}
