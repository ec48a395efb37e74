//! The replicated log: Raft (Ongaro 2014) with pre-votes, a quorum check, leader stickiness, joint membership changes,
//! readmission of wiped nodes, and durability as data: what depends on a record is sent when the record is done.

mod beat;
mod election;
mod log;
mod membership;
mod message;
mod replication;
mod state;
#[cfg(test)]
mod tests;

pub use message::{
    Append, AppendReply, Beat, BeatReply, Entry, Fact, Grant, Install, Membership, Message, Payload, Snapshot,
    TakeOver, ViewState, VoteReply, VoteRequest,
};

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::context::{Ctx, Signal, earliest};
use crate::event::Fact as AnyFact;
use crate::ids::{Epoch, EvidenceId, Index, NodeId, OpId, ResourceId, Term};
use crate::io::{Command, Durable, Lane, Outcome, Record, SubmitError};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::time::{Micros, Time};
use crate::views::Renew;
use crate::wire::Body;
use log::Log;

/// How long a record that did not fit is left alone.
const RETRY_FULL: Micros = Micros::from_millis(200);
/// A note is at most this long.
const NOTE_MAX: usize = 32 * 1024;

/// One node's copy of the log and its role.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Consensus {
    me: NodeId,
    term: Term,
    voted: Option<NodeId>,
    /// The term and vote that are durable.
    durable_vote: (Term, Option<NodeId>),
    log: Log,
    /// Entries up to here are durable on this node.
    durable: Index,
    commit: Index,
    state: ViewState,
    role: Role,
    leader: Option<NodeId>,
    /// When a leader was last heard.
    heard: Option<Time>,
    /// When this node last followed a leader or was one, or started: until then it may have helped to prolong a lease.
    served: Time,
    /// When to campaign, unless a leader is heard.
    election: Time,
    /// Records on their way to the disk, oldest first, and whether they are there.
    disk: VecDeque<(OpId, Pending, bool)>,
    /// A record that did not fit waits until then.
    retry: Option<Time>,
    /// The disk was wiped: this node does not vote and is not counted until it is readmitted.
    blank: bool,
    /// The disk was wiped when this life began.
    born_blank: bool,
    /// While blank: the log showed this node without a vote, so that a later vote is a new one.
    seen_without_vote: bool,
    /// Members that were told to the other parts.
    announced: Arc<Membership>,
    /// Index and term of the entry or snapshot that they come from: while it is the same, so are they.
    announced_at: Option<(Index, Term)>,
    evidence: EvidenceId,
}

/// What waits for a record.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
enum Pending {
    /// Term and vote, and whom to answer.
    Vote { term: Term, voted: Option<NodeId>, reply: Option<NodeId> },
    /// Entries, and the append that brought them.
    Entries { first: Index, last: Index, reply: Option<(NodeId, Time)> },
    /// A snapshot of this node's own or from the leader.
    Snapshot { index: Index, reply: Option<(NodeId, Time)> },
    /// This node votes again.
    Admitted,
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
enum Role {
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate {
        votes: BTreeSet<NodeId>,
    },
    Candidate {
        votes: BTreeSet<NodeId>,
        /// The latest that any of them followed a leader or was one, on this node's clock.
        served: Time,
    },
    Leader(Leadership),
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Leadership {
    elected_at: Time,
    /// No earlier leader was acknowledged by a quorum for what it sent after this.
    alone_since: Time,
    /// The leader's first entry.
    first: Index,
    peers: BTreeMap<NodeId, Progress>,
    /// When to look again at who owes an answer.
    heartbeat: Time,
    /// When the next heartbeat goes to all.
    round: Time,
    /// How far heartbeats have prolonged leases: as [`Consensus::renewed`].
    renewed: BTreeMap<ResourceId, Time>,
    /// The commit index moved in this step, and followers were not told yet.
    untold: bool,
    /// Readmissions and promotions that the leader works on.
    promote: BTreeSet<NodeId>,
    /// A transfer was asked for; not again before.
    transferred: Option<Time>,
}

/// What a leader knows of a follower.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Progress {
    /// Equal and durable up to here.
    matched: Index,
    /// The next entry to send.
    next: Index,
    /// Newest send time it has answered.
    acked: Option<Time>,
    /// When something that it has to answer was sent last.
    asked: Option<Time>,
    /// What it asked to go on holding with its last heartbeat's answer, and when that came.
    asking: Option<(Renew, Time)>,
    /// The disk was wiped.
    blank: bool,
    /// When entries were last sent that it has not answered.
    sent: Option<Time>,
    /// The lowest `next` tried since it last accepted: a refusal is answered at once only by going further back.
    refused: Option<Index>,
    /// How far it was told of commits, and when first.
    told: Option<(Index, Time)>,
}

impl Progress {
    /// Whether it has left something unanswered.
    fn owes(&self) -> bool {
        self.asked > self.acked
    }

    /// Whether it has all, knows how far it is committed, and has said so lately.
    fn is_settled(&self, last: Index, commit: Index, since: Time) -> bool {
        let answered = |told: Time| self.acked.is_some_and(|acked| acked >= told.max(since));
        self.matched == last && self.told.is_some_and(|(upto, at)| upto == commit && answered(at))
    }
}

impl Consensus {
    pub(crate) fn new(config: &Config, durable: Durable, now: Time, rng: &mut Rng) -> Self {
        let bootstrap = &config.bootstrap;
        let first = Snapshot {
            membership: Membership {
                voters: bootstrap.voters.iter().copied().collect(),
                arbiters: bootstrap.arbiters.iter().copied().collect(),
                learners: bootstrap.learners.iter().copied().collect(),
                ..Membership::default()
            },
            ..Snapshot::default()
        };
        let snapshot = durable.snapshot.unwrap_or_else(|| Arc::new(first));
        let log = Log::new(snapshot, durable.log.into_values());
        let wait = config.consensus.election;
        Self {
            me: config.me,
            term: durable.term,
            voted: durable.voted,
            durable_vote: (durable.term, durable.voted),
            durable: log.last_index(),
            commit: log.snapshot.index,
            state: log.snapshot.state.clone(),
            role: Role::Follower,
            leader: None,
            heard: None,
            served: if config.has(Mutant::StartForgotten) { Time(0) } else { now },
            election: now + wait + Micros(rng.below(wait.0 + 1)),
            disk: VecDeque::new(),
            retry: None,
            blank: !durable.formatted && !config.has(Mutant::BlankVotes),
            born_blank: !durable.formatted,
            seen_without_vote: false,
            announced: Arc::default(),
            announced_at: None,
            evidence: EvidenceId::NONE,
            log,
        }
    }

    /// Tells the other parts what the disk held.
    pub(crate) fn on_start(&mut self, ctx: &mut Ctx<'_>) {
        if self.blank {
            self.event(ctx, &[], Fact::Blank { node: self.me });
        }
        if self.log.snapshot.index > Index(0) {
            let members = self.log.snapshot.membership.clone();
            self.see_without_vote(&members);
            self.tell_restored(ctx);
        }
        self.announce(ctx);
    }

    /// Routes a message to its handler; a message of a higher term first makes this node a follower of that term.
    pub(crate) fn on_message(&mut self, ctx: &mut Ctx<'_>, from: NodeId, message: Message) {
        match message {
            Message::VoteRequest(request) => self.on_vote_request(ctx, from, &request),
            Message::VoteReply(reply) => self.on_vote_reply(ctx, from, reply),
            Message::Append(append) => self.on_append(ctx, from, append, false),
            Message::Beat(beat) => self.on_beat(ctx, from, beat),
            Message::BeatReply(answer) => self.on_beat_reply(ctx, from, answer),
            Message::AppendReply(reply) => self.on_append_reply(ctx, from, reply),
            Message::Install(install) => self.on_install(ctx, from, install),
            Message::TakeOver(take_over) => self.on_take_over(ctx, from, take_over),
        }
    }

    pub(crate) fn on_timer(&mut self, ctx: &mut Ctx<'_>) {
        if self.retry.is_some_and(|at| at <= ctx.now) {
            self.retry = None;
            self.persist_again(ctx);
        }
        if matches!(self.role, Role::Leader(_)) {
            self.lead_on(ctx);
        } else if self.election <= ctx.now {
            self.campaign(ctx, false);
        }
    }

    pub(crate) fn on_signal(&mut self, ctx: &mut Ctx<'_>, signal: &Signal) {
        match signal {
            Signal::Propose(payload) => {
                self.propose(ctx, payload.clone());
            }
            // After a pause nothing that was heard before it is fresh: wait a full timeout for a leader.
            // And the clock may have jumped: what is counted as silence may have been none.
            Signal::Stalled { .. } => {
                self.served = ctx.now;
                if !matches!(self.role, Role::Leader(_)) {
                    self.reset_election(ctx);
                }
            }
            Signal::NodeUp { node, .. } => {
                // It may have started anew and know no leader.
                if let Role::Leader(lead) = &mut self.role
                    && let Some(progress) = lead.peers.get_mut(node)
                {
                    progress.told = None;
                }
            }
            _ => {}
        }
    }

    /// A record is durable, or did not fit.
    pub(crate) fn on_done(&mut self, ctx: &mut Ctx<'_>, op: OpId, outcome: Outcome) {
        let Some(at) = self.disk.iter().position(|(waiting, ..)| *waiting == op) else { return };
        if outcome != Outcome::Ok {
            // Order matters on the disk: everything from this record on is written again.
            self.retry.get_or_insert(ctx.now + RETRY_FULL);
            return;
        }
        if ctx.has(Mutant::DoneOutOfOrder) {
            self.disk.swap(0, at);
        }
        self.disk[if ctx.has(Mutant::DoneOutOfOrder) { 0 } else { at }].2 = true;
        // A record counts only with all before it: one of those may have failed without having told so yet.
        while self.disk.front().is_some_and(|(.., there)| *there)
            && let Some((_, pending, _)) = self.disk.pop_front()
        {
            self.on_durable(ctx, pending);
        }
    }

    pub(crate) fn submit(&mut self, ctx: &mut Ctx<'_>, command: Command) -> Result<(), SubmitError> {
        if !matches!(self.role, Role::Leader(_)) {
            return Err(SubmitError::NotCoordinator { hint: self.leader });
        }
        let limit = ctx.config().consensus.window;
        if self.log.last_index().0.saturating_sub(self.commit.0) >= u64::from(limit) {
            return Err(SubmitError::WindowFull { limit });
        }
        match command {
            Command::Note(bytes) if bytes.len() > NOTE_MAX => Err(SubmitError::TooLarge),
            Command::Note(bytes) => {
                self.propose(ctx, Payload::Note(bytes));
                Ok(())
            }
            Command::AddNode { node, voter } => self.add_node(ctx, node, voter),
            Command::RemoveNode(node) => self.remove_node(ctx, node),
            Command::Move { .. }
            | Command::Drain(_)
            | Command::Undrain(_)
            | Command::Set { .. }
            | Command::Scrub(_)
            | Command::Compare { .. } => Err(SubmitError::Unknown),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let role = match &self.role {
            Role::Leader(lead) => lead.heartbeat,
            _ => self.election,
        };
        earliest([Some(role), self.retry])
    }

    // What the other parts and worlds may look at.

    /// The current term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Whether this node leads, and since when on its own clock.
    #[must_use]
    pub const fn leads(&self) -> Option<(Term, Time)> {
        match &self.role {
            Role::Leader(lead) => Some((self.term, lead.elected_at)),
            _ => None,
        }
    }

    /// If this node leads: an instant such that no earlier leader can have been acknowledged by a quorum for anything it
    /// sent later (rule R3).
    #[must_use]
    pub const fn alone_since(&self) -> Option<Time> {
        match &self.role {
            Role::Leader(lead) => Some(lead.alone_since),
            _ => None,
        }
    }

    /// When the leader that this node follows was heard last.
    #[must_use]
    pub fn leader_heard(&self) -> Option<Time> {
        self.heard.filter(|_| self.leader.is_some_and(|leader| leader != self.me))
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether this node leads and has committed an entry of its own term.
    #[must_use]
    pub fn own_term_committed(&self) -> bool {
        matches!(&self.role, Role::Leader(lead) if self.commit >= lead.first)
    }

    /// Q of rule R1: the newest send time such that a quorum has acknowledged an append sent then or later.
    #[must_use]
    pub fn quorum_contact(&self, now: Time) -> Option<Time> {
        let Role::Leader(lead) = &self.role else { return None };
        let contact = |voters: &BTreeSet<NodeId>| {
            let mut acked: alloc::vec::Vec<Time> = voters
                .iter()
                .filter_map(|node| if *node == self.me { Some(now) } else { self.counted(lead, *node)?.acked })
                .collect();
            acked.sort_unstable_by(|a, b| b.cmp(a));
            acked.get(voters.len() / 2).copied()
        };
        let members = self.log.membership();
        let new = contact(&members.voters)?;
        if members.is_joint() { Some(new.min(contact(&members.outgoing)?)) } else { Some(new) }
    }

    /// The newest grant of a resource in the log, committed or not.
    #[must_use]
    pub fn newest_grant(&self, resource: ResourceId) -> Option<(Epoch, NodeId)> {
        self.log.newest_grant(resource)
    }

    /// Whether an entry about this resource waits for commitment.
    #[must_use]
    pub fn in_flight(&self, resource: ResourceId) -> bool {
        self.log.in_flight(resource, self.commit)
    }

    /// The members in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// The last committed and applied index.
    #[must_use]
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// The applied state.
    #[must_use]
    pub const fn state(&self) -> &ViewState {
        &self.state
    }

    /// The last index of the log.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// An entry that is still in the log.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// Whether the disk was wiped and the node is not yet readmitted.
    #[must_use]
    pub const fn is_blank(&self) -> bool {
        self.blank
    }

    /// Whether this life began on a wiped disk: such a node is no old instance of itself.
    #[must_use]
    pub const fn was_born_blank(&self) -> bool {
        self.born_blank
    }

    // Helpers of all files of this part.

    fn event(&self, ctx: &mut Ctx<'_>, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        ctx.event(because, AnyFact::Consensus(fact))
    }

    fn send(&self, ctx: &mut Ctx<'_>, to: NodeId, message: Message) {
        ctx.send(to, Lane::Log, &Body::Consensus(message));
    }

    fn persist(&mut self, ctx: &mut Ctx<'_>, record: Record, pending: Pending) {
        let op = ctx.persist(record);
        self.disk.push_back((op, pending, false));
    }

    /// Writes every record that is not durable again, in order, from what is in memory now.
    fn persist_again(&mut self, ctx: &mut Ctx<'_>) {
        let waiting = core::mem::take(&mut self.disk);
        for (_, pending, _) in waiting {
            let record = match &pending {
                Pending::Vote { term, voted, .. } => Record::Vote { term: *term, voted: *voted },
                Pending::Entries { first, .. } => {
                    let entries = self.log.from(*first, usize::MAX / 2).to_vec();
                    if entries.first().is_none_or(|entry| entry.index != *first) {
                        continue;
                    }
                    Record::Entries(entries)
                }
                Pending::Snapshot { .. } => Record::Snapshot(self.log.snapshot.clone()),
                Pending::Admitted => Record::Admitted,
            };
            self.persist(ctx, record, pending);
        }
    }

    fn on_durable(&mut self, ctx: &mut Ctx<'_>, pending: Pending) {
        match pending {
            Pending::Vote { term, voted, reply } => self.on_vote_durable(ctx, term, voted, reply),
            Pending::Entries { last, reply, .. } => {
                // What was truncated meanwhile does not count.
                self.durable = self.durable.max(last.min(self.log.last_index()));
                if let Some((to, sent_at)) = reply {
                    self.acknowledge(ctx, to, sent_at, last);
                }
                self.advance_commit(ctx);
            }
            Pending::Snapshot { index, reply } => {
                self.durable = self.durable.max(index);
                if let Some((to, sent_at)) = reply {
                    self.acknowledge(ctx, to, sent_at, index);
                }
            }
            Pending::Admitted => {}
        }
    }

    /// Whether a set of nodes is a quorum of the members in force.
    fn is_quorum(&self, ctx: &Ctx<'_>, has: impl Fn(NodeId) -> bool) -> bool {
        let members = self.log.membership();
        let majority = |voters: &BTreeSet<NodeId>| {
            let mut count = voters.iter().filter(|node| has(**node)).count();
            if ctx.has(Mutant::LearnerCounted) {
                count += members.learners.iter().filter(|node| has(**node)).count();
            }
            let half = voters.len() / 2;
            if ctx.has(Mutant::QuorumOffByOne) { count >= half.max(1) } else { count > half }
        };
        majority(&members.voters)
            && (!members.is_joint() || ctx.has(Mutant::JointIgnoresOld) || majority(&members.outgoing))
    }

    fn reset_election(&mut self, ctx: &mut Ctx<'_>) {
        let wait = ctx.config().consensus.election;
        let more = if ctx.has(Mutant::TimeoutNotRandom) { 0 } else { ctx.rng.below(wait.0 + 1) };
        self.election = ctx.now + wait + Micros(more);
    }

    /// Tells the members to the other parts if they changed; whether they did.
    fn announce(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let at = self.log.membership_index();
        let at = self.log.term(at).map(|term| (at, term));
        if at.is_some() && at == self.announced_at {
            return false;
        }
        self.announced_at = at;
        let members = self.log.membership();
        if *self.announced == *members {
            return false;
        }
        self.announced = Arc::new(members.clone());
        let fact = Fact::Members {
            index: self.log.membership_index(),
            voters: u16::try_from(members.voters.len()).unwrap_or(u16::MAX),
            joint: members.is_joint(),
        };
        self.event(ctx, &[self.evidence], fact);
        ctx.signal(Signal::Members(self.announced.clone()));
        true
    }

    fn tell_restored(&mut self, ctx: &mut Ctx<'_>) {
        let index = self.log.snapshot.index;
        let evidence = self.event(ctx, &[self.evidence], Fact::Installed { index });
        ctx.signal(Signal::Restored { snapshot: self.log.snapshot.clone(), evidence });
    }

    /// Applies entries up to `to`, exactly once and in order.
    fn apply_to(&mut self, ctx: &mut Ctx<'_>, to: Index) {
        while self.commit < to {
            let Some(entry) = self.log.entry(self.commit.next()).cloned() else { break };
            self.commit = entry.index;
            self.state.apply(&entry);
            let fact = Fact::Committed { index: entry.index, term: entry.term, digest: entry.digest() };
            let evidence = self.event(ctx, &[self.evidence], fact);
            self.on_applied_config(ctx, &entry);
            ctx.signal(Signal::Applied { entry, evidence });
        }
        self.compact(ctx);
    }

    /// Replaces old applied entries by a snapshot.
    fn compact(&mut self, ctx: &mut Ctx<'_>) {
        let keep = u64::from(ctx.config().consensus.keep);
        let index = Index(self.commit.0.saturating_sub(keep / 2));
        if self.commit.0.saturating_sub(self.log.snapshot.index.0) <= keep {
            return;
        }
        // The snapshot's state is that of its index: replay from the last one.
        let mut snapshot = Snapshot::clone(&self.log.snapshot);
        while snapshot.index < index {
            let Some(entry) = self.log.entry(snapshot.index.next()) else { return };
            snapshot.state.apply(entry);
            (snapshot.index, snapshot.term) = (entry.index, entry.term);
            if let Payload::Config(members) = &entry.payload {
                snapshot.membership = Membership::clone(members);
            }
        }
        let snapshot = Arc::new(snapshot);
        self.log.compact(snapshot.clone());
        self.persist(ctx, Record::Snapshot(snapshot), Pending::Snapshot { index, reply: None });
    }

    /// Progress of a voter that may be counted: not one whose disk was wiped.
    fn counted<'a>(&self, lead: &'a Leadership, node: NodeId) -> Option<&'a Progress> {
        lead.peers.get(&node).filter(|progress| !progress.blank)
    }
}
