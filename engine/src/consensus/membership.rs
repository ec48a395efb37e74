//! Membership: joint changes (Raft §6), learners first, readmission of wiped nodes, leaving the leader's seat.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;

use super::{Consensus, Entry, Membership, Message, Payload, Pending, Role, TakeOver};
use crate::context::Ctx;
use crate::ids::{Index, NodeId};
use crate::io::{Record, SubmitError};
use crate::mutant::Mutant;

/// A learner this close to the end has caught up.
const CAUGHT_UP: u64 = 8;

impl Consensus {
    fn change_runs(&self, ctx: &Ctx<'_>) -> bool {
        let members = self.log.membership();
        (members.is_joint() || self.log.membership_index() > self.commit) && !ctx.has(Mutant::TwoChangesAtOnce)
    }

    pub(super) fn add_node(&mut self, ctx: &mut Ctx<'_>, node: NodeId, voter: bool) -> Result<(), SubmitError> {
        if self.change_runs(ctx) {
            return Err(SubmitError::ChangeInProgress);
        }
        let mut members = self.log.membership().clone();
        if !members.contains(node) {
            members.learners.insert(node);
            self.propose(ctx, Payload::Config(Arc::new(members)));
        }
        if voter && let Role::Leader(lead) = &mut self.role {
            lead.promote.insert(node);
        }
        Ok(())
    }

    pub(super) fn remove_node(&mut self, ctx: &mut Ctx<'_>, node: NodeId) -> Result<(), SubmitError> {
        if self.change_runs(ctx) {
            return Err(SubmitError::ChangeInProgress);
        }
        let mut members = self.log.membership().clone();
        if !members.contains(node) {
            return Err(SubmitError::Unknown);
        }
        if members.voters.contains(&node) && members.voters.len() == 1 {
            return Err(SubmitError::NotEligible(node));
        }
        members.learners.remove(&node);
        members.arbiters.remove(&node);
        let mut voters = members.voters.clone();
        voters.remove(&node);
        self.propose_voters(ctx, members, voters);
        Ok(())
    }

    /// Starts the change to other voters: jointly, unless the voters stay the same.
    fn propose_voters(&mut self, ctx: &mut Ctx<'_>, mut members: Membership, voters: BTreeSet<NodeId>) {
        if members.voters != voters {
            members.outgoing = core::mem::replace(&mut members.voters, voters);
        }
        self.propose(ctx, Payload::Config(Arc::new(members)));
    }

    /// A config entry is committed.
    pub(super) fn on_applied_config(&mut self, _ctx: &mut Ctx<'_>, entry: &Entry) {
        if let Payload::Config(members) = &entry.payload {
            self.see_without_vote(members);
        }
    }

    /// A blank node notes that committed members have it without a vote: whatever it forgot counts no longer.
    pub(super) fn see_without_vote(&mut self, members: &Membership) {
        self.seen_without_vote |= self.blank && !members.votes(self.me);
    }

    /// It is readmitted when later members, in its log, give it a vote again: the promise starts anew.
    pub(super) fn readmit(&mut self, ctx: &mut Ctx<'_>) {
        if self.blank && self.seen_without_vote && self.log.membership().votes(self.me) {
            self.blank = false;
            self.persist(ctx, Record::Admitted, Pending::Admitted);
        }
    }

    /// The leader's membership work: leave joint configurations, demote wiped voters, promote learners, give its seat up.
    pub(super) fn work_on_members(&mut self, ctx: &mut Ctx<'_>) {
        if !self.own_term_committed() {
            return;
        }
        let members = self.log.membership();
        let settled = self.log.membership_index() <= self.commit;
        if settled && members.is_joint() {
            let mut members = members.clone();
            members.outgoing.clear();
            self.propose(ctx, Payload::Config(Arc::new(members)));
            return;
        }
        if !settled {
            return;
        }
        if !members.votes(self.me) {
            self.hand_over(ctx);
            return;
        }
        self.demote_blank(ctx);
        self.promote_ready(ctx);
    }

    fn demote_blank(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Leader(lead) = &self.role else { return };
        let members = self.log.membership();
        let blank = members.voters.iter().find(|node| lead.peers.get(node).is_some_and(|progress| progress.blank));
        let Some(node) = blank.copied() else { return };
        if members.voters.len() == 1 || self.change_runs(ctx) {
            return;
        }
        let mut members = members.clone();
        let mut voters = members.voters.clone();
        voters.remove(&node);
        members.learners.insert(node);
        if let Role::Leader(lead) = &mut self.role {
            lead.promote.insert(node);
        }
        self.propose_voters(ctx, members, voters);
    }

    fn promote_ready(&mut self, ctx: &mut Ctx<'_>) {
        if self.log.membership().learners.is_empty() || self.change_runs(ctx) {
            return;
        }
        let last = self.log.last_index();
        let members = self.log.membership();
        let Role::Leader(lead) = &mut self.role else { return };
        // A voter of the first hour that is a learner now was wiped under an earlier leader.
        let bootstrap = &ctx.config().bootstrap;
        let wanted = lead.promote.iter().chain(&bootstrap.voters).copied();
        let ready = wanted.filter(|node| {
            members.learners.contains(node)
                && lead.peers.get(node).is_some_and(|progress| {
                    progress.acked.is_some() && progress.matched.0 + CAUGHT_UP >= last.0 && progress.matched > Index(0)
                })
        });
        let Some(node) = ready.min() else { return };
        lead.promote.remove(&node);
        let mut members = members.clone();
        members.learners.remove(&node);
        if bootstrap.arbiters.contains(&node) {
            members.arbiters.insert(node);
        }
        let mut voters = members.voters.clone();
        voters.insert(node);
        self.propose_voters(ctx, members, voters);
    }

    /// A leader without a vote asks the best voter to take over.
    fn hand_over(&mut self, ctx: &mut Ctx<'_>) {
        let pause = ctx.config().consensus.election;
        let term = self.term;
        let voters = self.log.membership().voters.clone();
        let Role::Leader(lead) = &mut self.role else { return };
        if lead.transferred.is_some_and(|at| ctx.now.since(at) < pause) {
            return;
        }
        lead.transferred = Some(ctx.now);
        let known = lead.peers.iter().filter(|(node, progress)| voters.contains(node) && !progress.blank);
        let best = known.max_by_key(|(_, progress)| progress.matched).map(|(node, _)| *node);
        match best {
            Some(node) => self.send(ctx, node, Message::TakeOver(TakeOver { term })),
            None => self.step_down(ctx, false),
        }
    }
}
