//! Elections: polls before them (Raft thesis §9.6), votes (§3.4), stickiness and transfer (§4.2.3, §3.10).

use alloc::collections::BTreeSet;

use super::{Consensus, Fact, Leadership, Message, Payload, Pending, Role, TakeOver, VoteReply, VoteRequest};
use crate::context::{Ctx, Signal};
use crate::ids::{NodeId, Term};
use crate::io::Record;
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

impl Consensus {
    /// Starts a poll, or with `transfer` an election at once.
    pub(super) fn campaign(&mut self, ctx: &mut Ctx<'_>, transfer: bool) {
        self.reset_election(ctx);
        if self.blank || !self.log.membership().votes(self.me) {
            return;
        }
        self.leader = None;
        let pre = !transfer && !ctx.has(Mutant::NoPreVote);
        let term = Term(self.term.0.saturating_add(1));
        self.evidence = self.event(ctx, &[self.evidence], Fact::Campaign { term, pre });
        if pre {
            self.role = Role::PreCandidate { votes: BTreeSet::from([self.me]) };
            self.ask(ctx, term, true, false);
            self.count_votes(ctx);
        } else {
            self.stand(ctx, term, transfer);
        }
    }

    /// Raises the term and votes for itself; asks the others at once, counts its own vote when it is durable.
    fn stand(&mut self, ctx: &mut Ctx<'_>, term: Term, transfer: bool) {
        self.term = term;
        self.voted = Some(self.me);
        self.role = Role::Candidate { votes: BTreeSet::new(), served: self.served };
        let vote = Pending::Vote { term, voted: self.voted, reply: None };
        self.persist(ctx, Record::Vote { term, voted: self.voted }, vote);
        self.ask(ctx, term, false, transfer);
    }

    fn ask(&self, ctx: &mut Ctx<'_>, term: Term, pre: bool, transfer: bool) {
        let request =
            VoteRequest { term, pre, transfer, last_index: self.log.last_index(), last_term: self.log.last_term() };
        let members = self.log.membership();
        let voters: BTreeSet<NodeId> = members.voters.union(&members.outgoing).copied().collect();
        for node in voters.into_iter().filter(|node| *node != self.me) {
            self.send(ctx, node, Message::VoteRequest(request.clone()));
        }
    }

    /// Follows a higher term.
    pub(super) fn catch_up_term(&mut self, ctx: &mut Ctx<'_>, term: Term) {
        if term <= self.term {
            return;
        }
        self.step_down(ctx, false);
        self.term = term;
        self.voted = None;
        self.leader = None;
        self.persist(ctx, Record::Vote { term, voted: None }, Pending::Vote { term, voted: None, reply: None });
    }

    /// Becomes a follower.
    pub(super) fn step_down(&mut self, ctx: &mut Ctx<'_>, no_quorum: bool) {
        let was = core::mem::replace(&mut self.role, Role::Follower);
        if matches!(was, Role::Leader(_)) {
            // It counts itself to the quorum whose contact a lease is prolonged by.
            if !ctx.has(Mutant::LedForgotten) {
                self.served = ctx.now;
            }
            self.evidence = self.event(ctx, &[self.evidence], Fact::SteppedDown { term: self.term, no_quorum });
            self.leader = None;
            ctx.signal(Signal::Deposed { evidence: self.evidence });
        }
        self.reset_election(ctx);
    }

    pub(super) fn on_vote_request(&mut self, ctx: &mut Ctx<'_>, from: NodeId, request: &VoteRequest) {
        let timeout = ctx.config().consensus.election;
        let leads = matches!(self.role, Role::Leader(_));
        let hears = leads || (self.leader.is_some() && self.heard.is_some_and(|at| ctx.now.since(at) < timeout));
        if hears && !request.transfer && request.term > self.term && !ctx.has(Mutant::NoStickiness) {
            // A candidate that this node's leader can still be heard by must not depose it.
            return;
        }
        if !request.pre {
            self.catch_up_term(ctx, request.term);
        }
        let granted = self.may_vote(ctx, from, request);
        if request.pre {
            let term = if granted { request.term } else { self.term };
            self.send(ctx, from, Message::VoteReply(VoteReply { term, pre: true, granted, quiet: Micros::ZERO }));
            return;
        }
        if !granted {
            let refusal = VoteReply { term: self.term, pre: false, granted: false, quiet: Micros::ZERO };
            self.send(ctx, from, Message::VoteReply(refusal));
            return;
        }
        self.reset_election(ctx);
        self.voted = Some(from);
        let vote = Pending::Vote { term: self.term, voted: self.voted, reply: Some(from) };
        if ctx.has(Mutant::VoteBeforePersist) {
            self.give_vote(ctx, from);
        }
        self.persist(ctx, Record::Vote { term: self.term, voted: self.voted }, vote);
    }

    /// Tells a candidate that it has the vote of this term, and since when it has this node to itself.
    fn give_vote(&self, ctx: &mut Ctx<'_>, to: NodeId) {
        let quiet = ctx.now.since(self.served);
        self.send(ctx, to, Message::VoteReply(VoteReply { term: self.term, pre: false, granted: true, quiet }));
    }

    fn may_vote(&self, ctx: &Ctx<'_>, from: NodeId, request: &VoteRequest) -> bool {
        let newer = (request.last_term, request.last_index) >= (self.log.last_term(), self.log.last_index());
        let free = request.pre
            || ctx.has(Mutant::VotesTwice)
            || (request.term == self.term && self.voted.map_or(self.leader.is_none(), |voted| voted == from));
        let current = if request.pre { request.term > self.term } else { request.term == self.term };
        !self.blank
            && current
            && free
            && (newer || ctx.has(Mutant::UpToDateIgnored))
            && !(matches!(self.role, Role::Leader(_)) && !request.pre)
    }

    /// A term and vote are durable: now they may be told.
    pub(super) fn on_vote_durable(
        &mut self,
        ctx: &mut Ctx<'_>,
        term: Term,
        voted: Option<NodeId>,
        reply: Option<NodeId>,
    ) {
        self.durable_vote = (term, voted);
        let Some(candidate) = voted else { return };
        self.evidence = self.event(ctx, &[self.evidence], Fact::Voted { term, candidate });
        if term != self.term {
            return;
        }
        if let Some(to) = reply {
            if !ctx.has(Mutant::VoteBeforePersist) {
                self.give_vote(ctx, to);
            }
        } else if let Role::Candidate { votes, .. } = &mut self.role {
            votes.insert(self.me);
            self.count_votes(ctx);
        }
    }

    pub(super) fn on_vote_reply(&mut self, ctx: &mut Ctx<'_>, from: NodeId, reply: VoteReply) {
        if !reply.granted {
            self.catch_up_term(ctx, reply.term);
            return;
        }
        match &mut self.role {
            Role::PreCandidate { votes } if reply.pre && reply.term.0 == self.term.0.saturating_add(1) => {
                votes.insert(from);
            }
            Role::Candidate { votes, served } if !reply.pre && reply.term == self.term => {
                votes.insert(from);
                if !ctx.has(Mutant::VotersUnheard) {
                    *served = (*served).max(quiet_since(ctx, reply.quiet));
                }
            }
            _ => return,
        }
        self.count_votes(ctx);
    }

    fn count_votes(&mut self, ctx: &mut Ctx<'_>) {
        match &self.role {
            Role::PreCandidate { votes } if self.is_quorum(ctx, |node| votes.contains(&node)) => {
                let term = Term(self.term.0.saturating_add(1));
                self.evidence = self.event(ctx, &[self.evidence], Fact::Campaign { term, pre: false });
                self.stand(ctx, term, false);
            }
            Role::Candidate { votes, served } if self.is_quorum(ctx, |node| votes.contains(&node)) => {
                self.lead(ctx, *served);
            }
            _ => {}
        }
    }

    /// Takes office: the first entry commits what came before it.
    fn lead(&mut self, ctx: &mut Ctx<'_>, served: Time) {
        self.evidence = self.event(ctx, &[self.evidence], Fact::Elected { term: self.term });
        if ctx.has(Mutant::LeaderRewrites) && self.log.last_index() > self.commit {
            self.log.truncate(self.commit.next());
            self.durable = self.durable.min(self.commit);
        }
        self.leader = Some(self.me);
        self.role = Role::Leader(Leadership {
            elected_at: ctx.now,
            alone_since: served.max(self.served).min(ctx.now),
            first: self.log.last_index().next(),
            peers: Default::default(),
            heartbeat: ctx.now,
            round: ctx.now,
            renewed: Default::default(),
            untold: false,
            promote: Default::default(),
            transferred: None,
        });
        self.track_peers();
        ctx.signal(Signal::Leads { term: self.term, evidence: self.evidence });
        self.propose(ctx, Payload::Lead(self.me));
    }

    /// The leader asks this node to campaign at once.
    pub(super) fn on_take_over(&mut self, ctx: &mut Ctx<'_>, from: NodeId, take_over: TakeOver) {
        if take_over.term == self.term && self.leader == Some(from) && !matches!(self.role, Role::Leader(_)) {
            self.campaign(ctx, true);
        }
    }
}

/// The latest instant on this node's clock at which a voter can have served a leader, if that was `quiet` ago by the
/// voter's clock when it said so: as much less as two clocks may differ, and less what a clock may jump unnoticed.
fn quiet_since(ctx: &Ctx<'_>, quiet: Micros) -> Time {
    let views = &ctx.config().views;
    let rho = u64::from(views.drift_ppm).min(500_000);
    ctx.now - quiet.scale(1_000_000 - rho, 1_000_000 + rho) + views.timer_slack
}
