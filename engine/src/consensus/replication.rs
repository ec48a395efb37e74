//! Replication: appends, acknowledgements after the disk, commitment (Raft §5.3, §5.4), snapshots, the quorum check.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{
    Append, AppendReply, Consensus, Entry, Fact, Install, Message, Payload, Pending, Progress, Role, Snapshot,
};
use crate::context::{Ctx, Signal};
use crate::ids::{Index, NodeId, Term};
use crate::io::Record;
use crate::mutant::Mutant;
use crate::time::Time;

/// Heartbeats between two to a learner that has all.
const LEARNER_REST: u64 = 16;

impl Consensus {
    /// Puts a payload into the log if this node leads; where it stands.
    pub(super) fn propose(&mut self, ctx: &mut Ctx<'_>, payload: Payload) -> Option<Index> {
        if !matches!(self.role, Role::Leader(_)) {
            return None;
        }
        let index = self.log.last_index().next();
        let entry = Entry { index, term: self.term, payload: payload.clone() };
        self.log.push(entry.clone());
        self.persist(
            ctx,
            Record::Entries(alloc::vec![entry]),
            Pending::Entries { first: index, last: index, reply: None },
        );
        ctx.signal(Signal::Proposed { payload, index });
        if self.announce(ctx) {
            self.track_peers();
        }
        self.send_all(ctx);
        self.advance_commit(ctx);
        Some(index)
    }

    /// Keeps a progress for every other member, and for nobody else.
    pub(super) fn track_peers(&mut self) {
        let (me, next) = (self.me, self.log.last_index().next());
        let members = self.log.membership().members();
        let Role::Leader(lead) = &mut self.role else { return };
        lead.peers.retain(|node, _| members.contains(node));
        for node in members.into_iter().filter(|node| *node != me) {
            let fresh = Progress {
                matched: Index(0),
                next,
                acked: None,
                asked: None,
                asking: None,
                blank: false,
                sent: None,
                refused: None,
                told: None,
            };
            lead.peers.entry(node).or_insert(fresh);
        }
    }

    /// Heartbeats, the quorum check, and membership work that waits.
    pub(super) fn lead_on(&mut self, ctx: &mut Ctx<'_>) {
        let timeout = ctx.config().consensus.election;
        let Some((_, elected_at)) = self.leads() else { return };
        let contact = self.quorum_contact(ctx.now).unwrap_or(elected_at).max(elected_at);
        if ctx.now.since(contact) > timeout.scale(2, 1) && !ctx.has(Mutant::NoCheckQuorum) {
            self.step_down(ctx, true);
            return;
        }
        if let Role::Leader(lead) = &mut self.role
            && lead.heartbeat <= ctx.now
        {
            self.beat(ctx);
        }
        self.work_on_members(ctx);
    }

    /// Sends followers what they lack, or a heartbeat: to all once in a rest, to who owes an answer every heartbeat. A learner
    /// that has all decides nothing and is left alone for some: in a large cluster the heartbeats of learners would be most of
    /// what is sent.
    fn beat(&mut self, ctx: &mut Ctx<'_>) {
        let retry = ctx.config().consensus.heartbeat.scale(2, 1);
        let rest = ctx.now - ctx.config().consensus.heartbeat.scale(LEARNER_REST, 1);
        let (last, commit, members) = (self.log.last_index(), self.commit, self.log.membership());
        let Role::Leader(lead) = &mut self.role else { return };
        let mut peers = Vec::with_capacity(lead.peers.len());
        let round = lead.round <= ctx.now || ctx.has(Mutant::NeverRests);
        if round {
            lead.round = ctx.now + ctx.config().rest();
        }
        lead.heartbeat = lead.round;
        for (node, progress) in &mut lead.peers {
            if !round && !progress.owes() && ctx.knows_rest(*node) {
                continue;
            }
            // No answer for two heartbeats: send again from what is known to be there.
            if progress.sent.is_some_and(|at| ctx.now.since(at) >= retry) {
                progress.next = progress.matched.next();
                progress.sent = None;
            }
            if members.votes(*node) || !progress.is_settled(last, commit, rest) {
                peers.push(*node);
            }
        }
        for node in peers {
            self.send_append(ctx, node, true);
        }
    }

    fn send_all(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Leader(lead) = &self.role else { return };
        let peers: Vec<NodeId> = lead.peers.keys().copied().collect();
        for node in peers {
            self.send_append(ctx, node, false);
        }
    }

    /// Sends one follower its next entries. Without `beat`, only if there are any.
    fn send_append(&mut self, ctx: &mut Ctx<'_>, to: NodeId, beat: bool) {
        let batch = usize::from(ctx.config().consensus.batch);
        let (last, commit, term) = (self.log.last_index(), self.commit, self.term);
        let Role::Leader(lead) = &mut self.role else { return };
        let Some(progress) = lead.peers.get_mut(&to) else { return };
        if !beat && progress.next > last {
            return;
        }
        let prev_index = Index(progress.next.0.saturating_sub(1));
        progress.asked = Some(ctx.now);
        lead.heartbeat = lead.heartbeat.min(ctx.now + ctx.config().consensus.heartbeat);
        let Some(prev_term) = self.log.term(prev_index) else {
            progress.sent = Some(ctx.now);
            progress.next = self.log.snapshot.index.next();
            let install = Install { term, sent_at: ctx.now, snapshot: self.log.snapshot.clone() };
            return self.send(ctx, to, Message::Install(install));
        };
        if progress.told.is_none_or(|(upto, _)| upto != commit) {
            progress.told = Some((commit, ctx.now));
        }
        let entries = within_packet(self.log.from(prev_index.next(), batch));
        if let Some(entry) = entries.last() {
            progress.next = entry.index.next();
            progress.sent.get_or_insert(ctx.now);
        }
        let idle = entries.is_empty() && progress.matched == last && ctx.knows_rest(to);
        let append = Append { term, prev_index, prev_term, commit, sent_at: ctx.now, entries };
        if idle {
            self.send_beat(ctx, to, &append);
        } else {
            self.send(ctx, to, Message::Append(append));
        }
    }

    /// `beat`: it came as a heartbeat of a cluster at rest, and is answered as one.
    pub(super) fn on_append(&mut self, ctx: &mut Ctx<'_>, from: NodeId, append: Append, beat: bool) {
        if !self.follow(ctx, from, append.term, append.sent_at) {
            return;
        }
        if !self.is_sound(&append) {
            return;
        }
        let fits = self.log.term(append.prev_index) == Some(append.prev_term)
            || append.prev_index < self.log.snapshot.index
            || ctx.has(Mutant::NoPrevCheck) && append.prev_index <= self.log.last_index();
        if !fits {
            // Try again behind the last entry, or further back if terms differ.
            let index = self.log.last_index().min(Index(append.prev_index.0.saturating_sub(1))).max(self.commit);
            let reply = AppendReply { term: self.term, sent_at: append.sent_at, fits: false, index, blank: self.blank };
            return self.send(ctx, from, Message::AppendReply(reply));
        }
        let matched = append.entries.last().map_or(append.prev_index, |entry| entry.index);
        let first_new = self.take_entries(ctx, append.entries);
        let checked = if ctx.has(Mutant::CommitBeyondMatch) { self.log.last_index() } else { matched };
        self.apply_to(ctx, append.commit.min(checked));
        self.readmit(ctx);
        self.announce(ctx);
        match first_new {
            Some(first) => {
                let entries = self.log.from(first, usize::MAX / 2).to_vec();
                let last = self.log.last_index();
                if ctx.has(Mutant::AckBeforePersist) {
                    self.acknowledge(ctx, from, append.sent_at, last);
                }
                let pending = Pending::Entries { first, last, reply: Some((from, append.sent_at)) };
                self.persist(ctx, Record::Entries(entries), pending);
            }
            None => {
                if let Some(reply) = self.acknowledgement(ctx, from, append.sent_at, matched) {
                    if beat {
                        self.answer_beat(ctx, from, reply);
                    } else {
                        self.send(ctx, from, Message::AppendReply(reply));
                    }
                }
            }
        }
    }

    /// Whether an append is one a leader could have sent; a peer can send anything.
    fn is_sound(&self, append: &Append) -> bool {
        let mut last = (append.prev_index, append.prev_term);
        append.entries.iter().all(|entry| {
            let next = entry.index == last.0.next() && entry.term >= last.1 && entry.index.0 < u64::MAX / 2;
            last = (entry.index, entry.term);
            next && entry.term <= append.term
        })
    }

    /// Appends what is new; the first index that has to be written.
    fn take_entries(&mut self, ctx: &Ctx<'_>, entries: Vec<Entry>) -> Option<Index> {
        let mut first = None;
        for entry in entries {
            if entry.index <= self.log.snapshot.index {
                continue;
            }
            match self.log.term(entry.index) {
                Some(term) if term == entry.term => continue,
                // A committed entry is never taken back, whoever asks.
                Some(_) if entry.index <= self.commit || ctx.has(Mutant::ConflictKept) => continue,
                Some(_) => {
                    self.log.truncate(entry.index);
                    self.forget_pending(Index(entry.index.0 - 1));
                }
                None => {}
            }
            if entry.index != self.log.last_index().next() {
                break;
            }
            first.get_or_insert(entry.index);
            self.log.push(entry);
        }
        first
    }

    /// Entries after `upto` were taken back: that they reach the disk means nothing any more.
    fn forget_pending(&mut self, upto: Index) {
        self.durable = self.durable.min(upto);
        for (_, pending, _) in &mut self.disk {
            if let Pending::Entries { last, .. } = pending {
                *last = upto.min(*last);
            }
        }
    }

    /// Accepts the sender as leader of its term; false: it is not.
    fn follow(&mut self, ctx: &mut Ctx<'_>, from: NodeId, term: Term, sent_at: Time) -> bool {
        if term < self.term && !ctx.has(Mutant::StaleTermAccepted) {
            let reply = AppendReply { term: self.term, sent_at, fits: false, index: self.commit, blank: self.blank };
            self.send(ctx, from, Message::AppendReply(reply));
            return false;
        }
        self.catch_up_term(ctx, term);
        if let Role::Leader(_) = self.role {
            // Two leaders of one term cannot be; a peer that says so is wrong.
            return false;
        }
        self.role = Role::Follower;
        self.heard = Some(ctx.now);
        self.served = ctx.now;
        self.reset_election(ctx);
        if self.leader != Some(from) {
            self.leader = Some(from);
            self.evidence = self.event(ctx, &[self.evidence], Fact::Follows { leader: from, term: self.term });
        }
        true
    }

    /// Answers an append whose entries up to `index` are durable.
    pub(super) fn acknowledge(&mut self, ctx: &mut Ctx<'_>, to: NodeId, sent_at: Time, index: Index) {
        if let Some(reply) = self.acknowledgement(ctx, to, sent_at, index) {
            self.send(ctx, to, Message::AppendReply(reply));
        }
    }

    fn acknowledgement(&self, ctx: &Ctx<'_>, to: NodeId, sent_at: Time, index: Index) -> Option<AppendReply> {
        if self.leader != Some(to) {
            return None;
        }
        let durable = if ctx.has(Mutant::AckBeforePersist) { index } else { index.min(self.durable) };
        // The term this follower acts in must be durable too, or it could vote in it again.
        if self.durable_vote.0 < self.term {
            return None;
        }
        Some(AppendReply { term: self.term, sent_at, fits: true, index: durable, blank: self.blank })
    }

    pub(super) fn on_append_reply(&mut self, ctx: &mut Ctx<'_>, from: NodeId, reply: AppendReply) {
        self.catch_up_term(ctx, reply.term);
        let (last, now) = (self.log.last_index(), ctx.now);
        let Role::Leader(lead) = &mut self.role else { return };
        if reply.term != self.term || reply.sent_at > now || reply.index > last && reply.fits {
            return;
        }
        let Some(progress) = lead.peers.get_mut(&from) else { return };
        progress.acked = progress.acked.max(Some(reply.sent_at));
        ctx.signal(Signal::Answered { node: from, sent: reply.sent_at });
        let newly_blank = reply.blank && !progress.blank;
        progress.blank = reply.blank;
        if reply.blank {
            // A wiped disk holds no more than it says now.
            progress.matched = progress.matched.min(reply.index);
        }
        let mut again = false;
        if reply.fits {
            progress.matched = progress.matched.max(reply.index);
            progress.next = progress.next.max(progress.matched.next());
            progress.refused = None;
        } else {
            progress.next = reply.index.next().min(progress.next).max(progress.matched.next());
            // A refusal that leads no further back waits for the next heartbeat.
            again = progress.refused.is_none_or(|tried| progress.next < tried);
            progress.refused = Some(progress.refused.map_or(progress.next, |tried| tried.min(progress.next)));
        }
        progress.sent = None;
        let more = progress.next <= last;
        if newly_blank {
            self.event(ctx, &[], Fact::Blank { node: from });
        }
        self.advance_commit(ctx);
        if again || (more && reply.fits) {
            self.send_append(ctx, from, again);
        }
        self.work_on_members(ctx);
        // If the commit index moves in this step all are told at its end, after what follows from it.
        if reply.fits && !more && matches!(&self.role, Role::Leader(lead) if !lead.untold) {
            self.tell(ctx, Some(from));
        }
    }

    /// The end of a step: if the commit index moved, followers are told, each once however many entries it took.
    pub(crate) fn finish_step(&mut self, ctx: &mut Ctx<'_>) {
        if let Role::Leader(lead) = &mut self.role
            && core::mem::take(&mut lead.untold)
        {
            self.tell(ctx, None);
        }
    }

    /// Tells one follower, or all, how far the log is committed, unless it knows. One that has not acknowledged all is
    /// left alone: its answer, or the entries that go to it, bring it the news.
    fn tell(&mut self, ctx: &mut Ctx<'_>, only: Option<NodeId>) {
        if ctx.has(Mutant::CommitUntold) {
            return;
        }
        let (last, commit) = (self.log.last_index(), self.commit);
        let Role::Leader(lead) = &self.role else { return };
        let unaware =
            |progress: &Progress| progress.matched == last && progress.told.is_none_or(|(upto, _)| upto < commit);
        let peers: Vec<NodeId> = match only {
            Some(node) => {
                lead.peers.get(&node).filter(|progress| unaware(progress)).map(|_| node).into_iter().collect()
            }
            None => lead.peers.iter().filter(|(_, progress)| unaware(progress)).map(|(node, _)| *node).collect(),
        };
        for node in peers {
            self.send_append(ctx, node, true);
        }
    }

    /// Commits what a quorum holds, if it is of this term (Raft §5.4.2).
    pub(super) fn advance_commit(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Leader(lead) = &self.role else { return };
        let held = |node: NodeId| {
            if node == self.me {
                self.durable
            } else {
                self.counted(lead, node).map_or(Index(0), |progress| progress.matched)
            }
        };
        let mut to = self.commit;
        let mut index = self.log.last_index();
        while index > self.commit {
            let own = self.log.term(index) == Some(self.term) || ctx.has(Mutant::CommitsOldTerm);
            if own && self.is_quorum(ctx, |node| held(node) >= index) {
                to = index;
                break;
            }
            index = Index(index.0 - 1);
        }
        if to > self.commit {
            self.apply_to(ctx, to);
            if let Role::Leader(lead) = &mut self.role {
                lead.untold = true;
            }
            self.work_on_members(ctx);
        }
    }

    pub(super) fn on_install(&mut self, ctx: &mut Ctx<'_>, from: NodeId, install: Install) {
        if !self.follow(ctx, from, install.term, install.sent_at) {
            return;
        }
        let Install { snapshot, sent_at, .. } = install;
        let index = snapshot.index;
        let stale = index <= self.commit && !ctx.has(Mutant::OldSnapshotTaken);
        if stale || index.0 >= u64::MAX / 2 {
            return self.acknowledge(ctx, from, sent_at, self.commit);
        }
        self.install(ctx, snapshot);
        let record = Record::Snapshot(self.log.snapshot.clone());
        self.persist(ctx, record, Pending::Snapshot { index, reply: Some((from, sent_at)) });
    }

    fn install(&mut self, ctx: &mut Ctx<'_>, snapshot: Arc<Snapshot>) {
        if self.log.term(snapshot.index) != Some(snapshot.term) {
            // The log is another one: of what is on the disk only what was committed counts.
            self.forget_pending(self.commit);
        }
        self.commit = snapshot.index;
        self.state = snapshot.state.clone();
        self.log.compact(snapshot);
        let members = self.log.membership().clone();
        self.see_without_vote(&members);
        self.tell_restored(ctx);
        self.announce(ctx);
    }
}

/// The first entries that fit into one packet of the log lane; at least one.
fn within_packet(entries: &[Entry]) -> Vec<Entry> {
    let mut room = 48 * 1024_usize;
    let mut out = Vec::new();
    for entry in entries {
        let size = if let Payload::Note(bytes) = &entry.payload { bytes.len() + 32 } else { 256 };
        if size > room && !out.is_empty() {
            break;
        }
        room = room.saturating_sub(size);
        out.push(entry.clone());
    }
    out
}
