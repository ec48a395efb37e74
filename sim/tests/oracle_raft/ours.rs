//! One engine of ours, of which only the consensus part is heard, with a disk that syncs when told.

use std::collections::{BTreeMap, VecDeque};

use apus_engine::consensus::{Entry, Membership, Message, Payload, Snapshot};
use apus_engine::wire::{self, Body, Header};
use apus_engine::{
    Bootstrap, Command, Config, Durable, Engine, Incarnation, Index, Input, Micros, Mutant, NodeId, OpId, Outcome,
    Output, Record, Seed, Term, Time,
};

use crate::{Start, View};

pub(crate) struct Ours {
    me: u16,
    config: Config,
    engine: Engine,
    now: Time,
    durable: Durable,
    /// Records on their way, with the step that made them.
    disk: VecDeque<(u64, OpId, Record)>,
    step: u64,
    life: u64,
    sent: Vec<(u16, Message)>,
}

/// The last wire version without heartbeats of their own kind: theirs has none.
const PLAIN: u8 = 3;

impl Ours {
    pub(crate) fn new(me: u16, start: &Start, mutant: Option<Mutant>) -> Self {
        let ids = |list: &[u16]| list.iter().copied().map(NodeId).collect::<Vec<_>>();
        let bootstrap =
            Bootstrap { voters: ids(&start.voters), learners: ids(&start.learners), ..Bootstrap::default() };
        let mut config = Config::new(NodeId(me), bootstrap);
        // Nothing but consensus acts.
        config.diagnosis.period = Micros::from_secs(1_000_000);
        config.mutant = mutant;
        config.wire_version = PLAIN;
        let membership = Membership {
            voters: start.voters.iter().copied().map(NodeId).collect(),
            outgoing: start.outgoing.iter().copied().map(NodeId).collect(),
            learners: start.learners.iter().copied().map(NodeId).collect(),
            ..Membership::default()
        };
        let snapshot = Snapshot { index: Index(1), term: Term(1), membership, ..Snapshot::default() };
        let entries = start.log.iter().zip(2..).map(|((term, note), index)| entry(index, *term, note));
        let durable = Durable {
            formatted: true,
            term: Term(start.term),
            voted: start.vote.map(NodeId),
            snapshot: Some(snapshot.into()),
            log: entries.map(|entry| (entry.index, entry)).collect::<BTreeMap<_, _>>(),
            ..Durable::default()
        };
        let now = Time(1_000_000);
        let engine = Engine::new(config.clone(), durable.clone(), Seed(u64::from(me)), now);
        let mut ours =
            Self { me, config, engine, now, durable, disk: VecDeque::new(), step: 0, life: 0, sent: Vec::new() };
        ours.drain();
        ours.sync(u64::MAX);
        ours
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { to, datagram, .. } => {
                    if let Ok((_, Body::Consensus(message))) = wire::decode(&self.config, &datagram) {
                        self.sent.push((to.0, message));
                    }
                }
                Output::Persist { op, record } => self.disk.push_back((self.step, op, record)),
                _ => {}
            }
        }
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&mut self) -> Vec<(u16, Message)> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn receive(&mut self, from: u16, message: &Message) {
        let header = Header {
            version: PLAIN,
            speaks: PLAIN,
            cluster: self.config.cluster,
            sender: NodeId(from),
            incarnation: Incarnation(1),
        };
        let datagram = wire::encode(&header, &Body::Consensus(message.clone()));
        self.engine.handle(self.now, Input::Packet { from: NodeId(from), datagram });
        self.drain();
    }

    /// Begins the next step: its records form one batch.
    pub(crate) fn step(&mut self, step: u64) {
        self.step = step;
    }

    /// Makes durable what was written up to a step.
    pub(crate) fn sync(&mut self, upto: u64) {
        while let Some((step, op, record)) = self.disk.pop_front() {
            if step > upto {
                self.disk.push_front((step, op, record));
                break;
            }
            self.durable.replay(record);
            self.engine.handle(self.now, Input::Done { op, outcome: Outcome::Ok });
            self.drain();
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.disk.is_empty()
    }

    /// The process dies with what was not synced, and starts again.
    pub(crate) fn restart(&mut self) {
        self.disk.clear();
        self.life += 1;
        let seed = Seed(u64::from(self.me)).nth(self.life);
        self.engine = Engine::new(self.config.clone(), self.durable.clone(), seed, self.now);
        self.drain();
        let born: Vec<_> = self.disk.drain(..).collect();
        for (_, op, record) in born {
            self.durable.replay(record);
            self.engine.handle(self.now, Input::Done { op, outcome: Outcome::Ok });
            self.drain();
        }
    }

    /// Time passes until just before the node would campaign: no leader is fresh any more.
    pub(crate) fn forget_leader(&mut self) {
        if let Some(deadline) = self.engine.deadline()
            && !self.view().leads
        {
            self.now = self.now.max(deadline.at - Micros(1));
        }
    }

    /// Its timer fires: a campaign, or a leader's heartbeat.
    pub(crate) fn time_out(&mut self) {
        if let Some(deadline) = self.engine.deadline() {
            self.now = self.now.max(deadline.at);
        }
        self.engine.handle(self.now, Input::Tick);
        self.drain();
    }

    /// Only a leader takes it.
    pub(crate) fn propose(&mut self, note: &[u8]) {
        let leads = self.view().leads;
        let taken = self.engine.submit(self.now, Command::Note(note.to_vec())).is_ok();
        assert_eq!(taken, leads, "a leader takes notes, and nobody else");
        self.drain();
    }

    pub(crate) fn leader(&self) -> Option<u16> {
        self.engine.look().and_then(|(_, consensus, ..)| consensus.leader()).map(|node| node.0)
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The vote is that on the disk: compare when all is synced.
    pub(crate) fn view(&self) -> View {
        let (_, consensus, ..) = self.engine.look().expect("the engine runs");
        let last = consensus.last_index().0;
        let held = (1..=last).rev().map_while(|index| consensus.entry(Index(index)));
        let mut log: Vec<_> = held.map(|entry| (entry.index.0, entry.term.0, note(entry))).collect();
        log.reverse();
        View {
            term: consensus.term().0,
            vote: self.durable.voted.map(|node| node.0),
            leads: consensus.leads().is_some(),
            commit: consensus.commit().0,
            log,
        }
    }
}

/// An entry of ours; a leader's first has no note.
pub(crate) fn entry(index: u64, term: u64, note: &[u8]) -> Entry {
    let payload = if note.is_empty() { Payload::Lead(NodeId(0)) } else { Payload::Note(note.to_vec()) };
    Entry { index: Index(index), term: Term(term), payload }
}

fn note(entry: &Entry) -> Vec<u8> {
    match &entry.payload {
        Payload::Note(bytes) => bytes.clone(),
        Payload::Lead(_) => Vec::new(),
        other => format!("{other:?}").into_bytes(),
    }
}
