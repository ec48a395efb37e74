//! One node of the `raft` crate, with the same disk.

use std::collections::VecDeque;

use apus_engine::consensus::{Message, Payload};
use raft::eraftpb::{self, ConfState, EntryType, HardState, MessageType};
use raft::storage::MemStorage;
use raft::{GetEntriesContext, RawNode, StateRole};

use crate::{Start, View};

/// Ticks of an election timeout; the random part is pinned to the longest.
pub(crate) const ELECTION: usize = 10;

pub(crate) struct Theirs {
    config: raft::Config,
    node: RawNode<MemStorage>,
    base: eraftpb::Snapshot,
    /// What is durable, oldest first.
    written: Vec<Batch>,
    disk: VecDeque<(u64, Batch)>,
    step: u64,
    sent: Vec<eraftpb::Message>,
}

#[derive(Clone)]
struct Batch {
    number: u64,
    snapshot: eraftpb::Snapshot,
    entries: Vec<eraftpb::Entry>,
    hard: Option<HardState>,
    /// Sent once it is durable.
    messages: Vec<eraftpb::Message>,
}

fn open(base: &eraftpb::Snapshot, written: &[Batch]) -> MemStorage {
    let storage = MemStorage::new();
    let mut core = storage.wl();
    core.apply_snapshot(base.clone()).expect("a first snapshot fits");
    for batch in written {
        if !batch.snapshot.is_empty() {
            core.apply_snapshot(batch.snapshot.clone()).expect("a later snapshot fits");
        }
        core.append(&batch.entries).expect("entries are in memory");
        if let Some(hard) = &batch.hard {
            core.set_hardstate(hard.clone());
        }
    }
    drop(core);
    storage
}

fn id(node: u16) -> u64 {
    u64::from(node) + 1
}

fn node(id: u64) -> u16 {
    (id - 1) as u16
}

impl Theirs {
    pub(crate) fn new(me: u16, start: &Start) -> Self {
        let ids = |list: &[u16]| list.iter().copied().map(id).collect::<Vec<_>>();
        let members = ConfState {
            voters: ids(&start.voters),
            voters_outgoing: ids(&start.outgoing),
            learners: ids(&start.learners),
            ..ConfState::default()
        };
        let mut base = eraftpb::Snapshot::default();
        let meta = base.mut_metadata();
        (meta.index, meta.term) = (1, 1);
        meta.set_conf_state(members);
        let entries = start.log.iter().zip(2..).map(|((term, note), index)| entry(index, *term, note)).collect();
        let hard = HardState { term: start.term, vote: start.vote.map_or(0, id), commit: 1, ..HardState::default() };
        let first = Batch { number: 0, snapshot: Default::default(), entries, hard: Some(hard), messages: Vec::new() };
        let config = raft::Config {
            id: id(me),
            election_tick: ELECTION,
            heartbeat_tick: 2,
            max_size_per_msg: u64::MAX,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let written = vec![first];
        let node = start_node(&config, open(&base, &written));
        Self { config, node, base, written, disk: VecDeque::new(), step: 0, sent: Vec::new() }
    }

    fn drain(&mut self) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.sent.extend(ready.take_messages());
            ready.take_committed_entries();
            let batch = Batch {
                number: ready.number(),
                snapshot: ready.snapshot().clone(),
                entries: ready.entries().clone(),
                hard: ready.hs().cloned(),
                messages: ready.take_persisted_messages(),
            };
            let mut core = self.node.mut_store().wl();
            if !batch.snapshot.is_empty() {
                core.apply_snapshot(batch.snapshot.clone()).expect("a snapshot of a leader fits");
            }
            core.append(&batch.entries).expect("entries follow");
            if let Some(hard) = &batch.hard {
                core.set_hardstate(hard.clone());
            }
            drop(core);
            let free = !ready.must_sync() && self.disk.is_empty();
            self.node.advance_append_async(ready);
            self.apply();
            self.disk.push_back((if free { 0 } else { self.step }, batch));
            if free {
                self.complete();
            }
        }
    }

    fn complete(&mut self) {
        let Some((_, mut batch)) = self.disk.pop_front() else { return };
        self.sent.append(&mut batch.messages);
        self.node.on_persist_ready(batch.number);
        self.written.push(batch);
        self.apply();
    }

    fn apply(&mut self) {
        let log = &self.node.raft.raft_log;
        let upto = log.committed.min(log.persisted);
        if upto > log.applied {
            self.node.advance_apply_to(upto);
        }
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<eraftpb::Message> {
        std::mem::take(&mut self.sent)
    }

    /// One of ours, in their words.
    pub(crate) fn receive(&mut self, from: u16, message: &Message) {
        let mut out = eraftpb::Message { from: id(from), to: self.config.id, ..eraftpb::Message::default() };
        match message {
            Message::VoteRequest(ask) => {
                out.set_msg_type(if ask.pre { MessageType::MsgRequestPreVote } else { MessageType::MsgRequestVote });
                (out.term, out.index, out.log_term) = (ask.term.0, ask.last_index.0, ask.last_term.0);
                if ask.transfer {
                    out.context = b"CampaignTransfer".to_vec().into();
                }
            }
            Message::VoteReply(reply) => {
                out.set_msg_type(if reply.pre {
                    MessageType::MsgRequestPreVoteResponse
                } else {
                    MessageType::MsgRequestVoteResponse
                });
                (out.term, out.reject) = (reply.term.0, !reply.granted);
            }
            Message::Append(append) => {
                out.set_msg_type(MessageType::MsgAppend);
                (out.term, out.index, out.log_term) = (append.term.0, append.prev_index.0, append.prev_term.0);
                out.commit = append.commit.0;
                let entries = append.entries.iter().map(|ours| match &ours.payload {
                    Payload::Note(bytes) => entry(ours.index.0, ours.term.0, bytes),
                    _ => entry(ours.index.0, ours.term.0, &[]),
                });
                out.entries = entries.collect::<Vec<_>>().into();
            }
            Message::AppendReply(reply) => {
                out.set_msg_type(MessageType::MsgAppendResponse);
                (out.term, out.index, out.reject) = (reply.term.0, reply.index.0, !reply.fits);
            }
            Message::Install(install) => {
                out.set_msg_type(MessageType::MsgSnapshot);
                out.term = install.term.0;
                let meta = out.mut_snapshot().mut_metadata();
                (meta.index, meta.term) = (install.snapshot.index.0, install.snapshot.term.0);
                meta.set_conf_state(self.base.get_metadata().get_conf_state().clone());
            }
            Message::Beat(_) | Message::BeatReply(_) => panic!("ours was told to speak a version without heartbeats"),
            Message::TakeOver(ask) => {
                out.set_msg_type(MessageType::MsgTimeoutNow);
                out.term = ask.term.0;
            }
        }
        self.receive_raw(out);
    }

    /// One of theirs. Hints of commitment in votes are their extension of Raft; they are taken out.
    pub(crate) fn receive_raw(&mut self, mut message: eraftpb::Message) {
        if matches!(message.get_msg_type(), MessageType::MsgRequestVoteResponse | MessageType::MsgRequestVote) {
            (message.commit, message.commit_term) = (0, 0);
        }
        // An answer of one who is no member is refused; so is it by ours.
        let _ = self.node.step(message);
        self.drain();
    }

    pub(crate) fn step(&mut self, step: u64) {
        self.step = step;
    }

    pub(crate) fn sync(&mut self, upto: u64) {
        while self.disk.front().is_some_and(|(step, _)| *step <= upto) {
            self.complete();
            self.drain();
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.disk.is_empty()
    }

    pub(crate) fn restart(&mut self) {
        self.disk.clear();
        let storage = open(&self.base, &self.written);
        // Ours learns anew how far is committed.
        let first = raft::Storage::first_index(&storage).expect("in memory");
        storage.wl().mut_hard_state().commit = first - 1;
        let config = raft::Config { applied: first - 1, ..self.config.clone() };
        self.node = start_node(&config, storage);
    }

    pub(crate) fn forget_leader(&mut self) {
        if self.node.raft.state != StateRole::Leader {
            self.node.raft.set_randomized_election_timeout(2 * ELECTION - 1);
            while self.node.raft.election_elapsed < ELECTION {
                self.node.tick();
            }
        }
    }

    /// Its election timer fires.
    pub(crate) fn time_out(&mut self) {
        self.node.raft.set_randomized_election_timeout(2 * ELECTION - 1);
        while !self.node.tick() {}
        self.drain();
    }

    /// One tick of a leader.
    pub(crate) fn tick(&mut self) {
        if self.node.raft.state == StateRole::Leader {
            self.node.tick();
            self.drain();
        }
    }

    /// Only a leader takes it; a follower of theirs would pass it on.
    pub(crate) fn propose(&mut self, note: &[u8]) {
        if self.node.raft.state == StateRole::Leader {
            self.node.propose(Vec::new(), note.to_vec()).expect("a leader takes notes");
            self.drain();
        }
    }

    /// The vote is that in memory: compare when all is synced.
    pub(crate) fn view(&self) -> View {
        let raft = &self.node.raft;
        let (first, last) = (raft.raft_log.first_index(), raft.raft_log.last_index());
        let entries = if first > last {
            Vec::new()
        } else {
            raft.raft_log.entries(first, None, GetEntriesContext::empty(false)).expect("in memory")
        };
        View {
            term: raft.term,
            vote: (raft.vote != 0).then(|| node(raft.vote)),
            leads: raft.state == StateRole::Leader,
            commit: raft.raft_log.committed,
            log: entries.into_iter().map(|entry| (entry.index, entry.term, entry.data.to_vec())).collect(),
        }
    }

    /// Term, vote, and the term of an entry as a restart would find them; `None` for an entry before the snapshot.
    pub(crate) fn on_disk(&self, index: u64) -> (u64, Option<u16>, Option<u64>) {
        let storage = open(&self.base, &self.written);
        let hard = storage.rl().hard_state().clone();
        let term = raft::Storage::term(&storage, index);
        let term = match term {
            Ok(term) => Some(term),
            Err(raft::Error::Store(raft::StorageError::Compacted)) => None,
            Err(_) => Some(0),
        };
        (hard.term, (hard.vote != 0).then(|| node(hard.vote)), term)
    }
}

fn start_node(config: &raft::Config, storage: MemStorage) -> RawNode<MemStorage> {
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(config, storage, &silent).expect("the configuration is sound")
}

fn entry(index: u64, term: u64, note: &[u8]) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry { index, term, ..eraftpb::Entry::default() };
    entry.set_entry_type(EntryType::EntryNormal);
    entry.data = note.to_vec().into();
    entry
}

/// To whom and from whom, as our numbers.
pub(crate) fn ends(message: &eraftpb::Message) -> (u16, u16) {
    (node(message.from), node(message.to))
}
