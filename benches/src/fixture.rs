//! Engines as they stand in the middle of their work.

use apus_engine::consensus::{Append, Entry, Message, Payload};
use apus_engine::diagnosis::{self, News, Ping};
use apus_engine::wire::{self, Body, Header};
use apus_engine::{
    Bootstrap, Config, Durable, Engine, EvidenceId, Incarnation, Index, Input, NodeId, Outcome, Output, Seed, Term,
    Time,
};

/// Sizes of cluster that are measured.
pub const SIZES: [u16; 4] = [5, 50, 500, 5_000];

/// Node 0 of a cluster with five voters.
#[must_use]
pub fn config(nodes: u16) -> Config {
    let all: Vec<NodeId> = (0..nodes).map(NodeId).collect();
    let (voters, learners) = all.split_at(all.len().min(5));
    Config::new(NodeId(0), Bootstrap { voters: voters.to_vec(), learners: learners.to_vec(), ..Bootstrap::default() })
}

/// Takes all outputs; records are durable at once. How many packets there were.
pub fn drain(engine: &mut Engine, now: Time) -> usize {
    let mut packets = 0;
    while let Some(output) = engine.poll_output() {
        match output {
            Output::Persist { op, .. } => engine.handle(now, Input::Done { op, outcome: Outcome::Ok }),
            Output::Send { .. } => packets += 1,
            _ => {}
        }
    }
    packets
}

/// A node that runs and has heard its leader, and what time it is there.
#[must_use]
pub fn follower(nodes: u16) -> (Engine, Time) {
    let now = Time(1_000_000);
    let mut engine = Engine::new(config(nodes), Durable::formatted(), Seed(1), now);
    drain(&mut engine, now);
    engine.handle(now, packet(1, &append(0, 1)));
    drain(&mut engine, now);
    engine.forget_events();
    (engine, now)
}

/// A packet from a node in its first life.
#[must_use]
pub fn packet(from: u16, body: &Body) -> Input {
    Input::Packet { from: NodeId(from), datagram: wire::encode(&header(from), body) }
}

/// The head of such a packet.
#[must_use]
pub fn header(from: u16) -> Header {
    Header {
        version: wire::USUAL,
        speaks: wire::USUAL,
        cluster: config(2).cluster,
        sender: NodeId(from),
        incarnation: Incarnation(1),
    }
}

/// A probe with so many items of news.
#[must_use]
pub fn ping(news: u16) -> Body {
    let item = |node| News {
        node: NodeId(node),
        inc: Incarnation(1),
        ctr: 0,
        accusers: Vec::new(),
        down: false,
        evidence: EvidenceId::NONE,
    };
    Body::Diagnosis(diagnosis::Message::Ping(Ping { seq: 7, digest: 0, lhm: 0, news: (1..=news).map(item).collect() }))
}

/// An append of node 1, leader of term 1: so many entries of 100 bytes after the first `prev`.
#[must_use]
pub fn append(prev: u64, entries: u64) -> Body {
    let entry = |index| Entry { index: Index(index), term: Term(1), payload: Payload::Note(vec![7; 100]) };
    Body::Consensus(Message::Append(Append {
        term: Term(1),
        prev_index: Index(prev),
        prev_term: Term(u64::from(prev > 0)),
        commit: Index(prev),
        sent_at: Time(5),
        entries: (prev + 1..=prev + entries).map(entry).collect(),
    }))
}
