//! Heartbeats of a cluster at rest: they bring no entries, are answered at once, and carry the renewals of leases both ways.

use super::{Append, AppendReply, Beat, BeatReply, Consensus, Message, Role};
use crate::context::{Ctx, Signal};
use crate::ids::{NodeId, ResourceId, Term};
use crate::io::Lane;
use crate::mutant::Mutant;
use crate::time::{Micros, Time};
use crate::views::{self, Renew, Renewed};
use crate::wire::Body;

impl Consensus {
    /// Sends a heartbeat to a follower that has all and knows of rest: a datagram, as tests are, and a test itself.
    pub(super) fn send_beat(&mut self, ctx: &mut Ctx<'_>, to: NodeId, append: &Append) {
        let Append { term, prev_index, prev_term, commit, sent_at, .. } = *append;
        let renewed = self.prolong(ctx, to, term);
        let beat = Beat { term, prev_index, prev_term, commit, sent_at, renewed };
        ctx.send(to, Lane::Probe, &Body::Consensus(Message::Beat(beat)));
        if self.log.membership().votes(to) {
            ctx.signal(Signal::Beat { node: to });
        }
    }

    /// What a follower asked for with its last answer, as far as rule R1 grants it, counted for rule R3 before it is told.
    fn prolong(&mut self, ctx: &Ctx<'_>, to: NodeId, term: Term) -> Renewed {
        let nothing = Renewed { sent_at: Time(0), left: Micros::ZERO, held: alloc::vec::Vec::new(), term };
        let Role::Leader(lead) = &self.role else { return nothing };
        let Some((renew, at)) = lead.peers.get(&to).and_then(|progress| progress.asking.clone()) else {
            return nothing;
        };
        let Some((renewed, until)) = views::judge_renewal(ctx, self, to, &renew, at) else { return nothing };
        if let Role::Leader(lead) = &mut self.role
            && !ctx.has(Mutant::CarriedUncounted)
        {
            renewed.count(&mut lead.renewed, until);
        }
        renewed
    }

    /// If this node leads: the instant, as in rule R3, up to which its heartbeats have prolonged a lease.
    #[must_use]
    pub fn renewed(&self, resource: ResourceId) -> Option<Time> {
        let Role::Leader(lead) = &self.role else { return None };
        lead.renewed.get(&resource).copied()
    }

    pub(super) fn on_beat(&mut self, ctx: &mut Ctx<'_>, from: NodeId, beat: Beat) {
        let Beat { term, prev_index, prev_term, commit, sent_at, renewed } = beat;
        let entries = alloc::vec::Vec::new();
        self.on_append(ctx, from, Append { term, prev_index, prev_term, commit, sent_at, entries }, true);
        if self.leader == Some(from) && self.term == term && !renewed.held.is_empty() {
            ctx.signal(Signal::Prolonged { by: from, renewed });
        }
    }

    /// Answers a heartbeat, with what this node holds and wants to go on holding.
    pub(super) fn answer_beat(&self, ctx: &mut Ctx<'_>, to: NodeId, reply: AppendReply) {
        let renew = Renew { sent_at: ctx.now, held: ctx.shared.held.clone() };
        if !renew.held.is_empty() {
            ctx.signal(Signal::Carried { at: ctx.now });
        }
        ctx.send(to, Lane::Probe, &Body::Consensus(Message::BeatReply(BeatReply { reply, renew })));
    }

    pub(super) fn on_beat_reply(&mut self, ctx: &mut Ctx<'_>, from: NodeId, answer: BeatReply) {
        let BeatReply { reply, mut renew } = answer;
        if let Role::Leader(lead) = &mut self.role
            && reply.term == self.term
            && let Some(progress) = lead.peers.get_mut(&from)
        {
            renew.held.truncate(ctx.config().resources.len());
            progress.asking = (!renew.held.is_empty()).then_some((renew, ctx.now));
        }
        self.on_append_reply(ctx, from, reply);
    }
}
