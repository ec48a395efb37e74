//! Adaptive ring diagnosis (Bianchini and Buskens, 1991/92), event-driven, with several observers, incarnations, refutation
//! and indirect probes: who is up, who is down. It proposes; it never decides ownership.

mod gossip;
mod message;
mod probe;
mod rest;
mod ring;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

pub use message::{Ack, Compare, Fact, Message, News, Ping, PingReply, PingReq, Spread, Status, Superseded};

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::{Config, DiagnosisRule};
use crate::consensus::Consensus;
use crate::context::{Ctx, Signal, earliest};
use crate::event::Fact as AnyFact;
use crate::ids::{EvidenceId, Incarnation, NodeId};
use crate::io::Lane;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::time::{Micros, Time};
use crate::wire::Body;
use probe::{Probe, Purpose, Rtt};
use ring::Rings;
use table::Table;

/// A disk queue longer than this makes a node sick by its own word.
const SICK_QUEUE: u32 = 64;
/// Local health goes from 0, well, to this.
const LHM_MAX: u8 = 8;
/// Probes on their way at most; a flood of requests for help finds no room.
const PROBES_MAX: usize = 64;
/// Periods between two tests in one ring of a node that the leader watches, while all is well.
const REST: u64 = 32;
/// All must have been well for so many periods before.
const CALM: u64 = 16;

/// One node's view of the ring.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Diagnosis {
    me: NodeId,
    inc: Incarnation,
    rings: Rings,
    table: Table,
    /// Next test of each ring, its round-trip estimate, and how far it has walked past down nodes.
    next: Vec<Time>,
    rtt: Vec<Rtt>,
    walked: Vec<usize>,
    /// When each ring tested last.
    tested: Vec<Time>,
    /// Round trips of a leader's heartbeats.
    beats: BTreeMap<NodeId, Rtt>,
    /// When the table last changed, or was found to differ from another's, and its digest since.
    stirred: Time,
    settled: u64,
    /// When this node was last at rest, and whether the silence of its leader has woken it since.
    rested: Option<Time>,
    woken: bool,
    /// Rings sleep for longer than a period, as long as the leader is not silent for this.
    dozing: Option<Micros>,
    probes: Vec<Probe>,
    seq: u32,
    lhm: u8,
    /// Lone accusations and when they become verdicts.
    lone: BTreeMap<NodeId, Time>,
    /// News by rank and how often it is still sent.
    queue: BTreeMap<usize, u8>,
    /// Ranks whose news goes out at the end of this call.
    fresh: Vec<usize>,
    compared: Option<Time>,
    /// When any member was heard last.
    last_heard: Time,
    revisit: Time,
    revisited: usize,
    suspects_turn: bool,
    rumor: Option<Rumor>,
}

/// Others speak of a life of this node that it has not begun: a damaged packet, or it is an old instance of itself.
#[derive(Clone, Copy, Debug, Hash, Serialize, Deserialize)]
struct Rumor {
    inc: Incarnation,
    since: Time,
    /// Rings, as bits, whose successor has answered this life since.
    denied: u16,
}

impl Diagnosis {
    pub(crate) fn new(config: &Config, inc: Incarnation, now: Time, rng: &mut Rng) -> Self {
        let mut this = Self {
            me: config.me,
            inc,
            rings: Rings::default(),
            table: Table::default(),
            next: Vec::new(),
            rtt: Vec::new(),
            walked: Vec::new(),
            tested: Vec::new(),
            beats: BTreeMap::new(),
            stirred: now,
            settled: 0,
            rested: None,
            woken: false,
            dozing: None,
            probes: Vec::new(),
            seq: 0,
            lhm: 0,
            lone: BTreeMap::new(),
            queue: BTreeMap::new(),
            fresh: Vec::new(),
            compared: None,
            last_heard: now,
            revisit: now + config.diagnosis.period,
            revisited: 0,
            suspects_turn: false,
            rumor: None,
        };
        this.reshape(config, config.bootstrap.members(), now, rng);
        this
    }

    /// Builds the rings over other members; O(N), on a membership change only.
    fn reshape(&mut self, config: &Config, members: Vec<NodeId>, now: Time, rng: &mut Rng) {
        let observers =
            if config.diagnosis.rule == DiagnosisRule::Paper { 1 } else { usize::from(config.diagnosis.observers) };
        self.rings = Rings::new(members.len(), observers);
        self.table.reshape(members);
        let many = self.rings.offsets.len();
        self.probes
            .retain(|probe| self.table.rank(probe.target).is_some() && probe.ring().is_none_or(|ring| ring < many));
        self.queue.clear();
        self.fresh.clear();
        let period = config.diagnosis.period;
        self.next = (0..many).map(|_| now + Micros(rng.below(period.0))).collect();
        self.rtt = alloc::vec![Rtt::default(); many];
        self.walked = alloc::vec![1; many];
        self.tested = alloc::vec![now; many];
        self.stirred = now;
        self.dozing = None;
        let table = &self.table;
        self.beats.retain(|node, _| table.rank(*node).is_some());
        if let Some(rank) = self.table.rank(self.me) {
            let inc = self.inc;
            self.table.change(rank, |entry| {
                entry.inc = inc;
                entry.told |= inc.0 > 1;
            });
            if inc.0 > 1 {
                // Back again: its observers hear so from itself, and from where.
                self.fresh.push(rank);
            }
        }
    }

    pub(crate) fn on_message(&mut self, ctx: &mut Ctx<'_>, from: NodeId, inc: Incarnation, message: Message) {
        if let Some(rank) = self.table.rank(from) {
            self.notice(ctx, from);
            self.hear(ctx, rank, inc);
        }
        match message {
            Message::Ping(ping) => self.on_ping(ctx, from, ping),
            Message::Ack(ack) => self.on_ack(ctx, from, ack),
            Message::PingReq(request) => self.on_ping_req(ctx, from, request),
            Message::PingReply(reply) => self.on_ping_reply(ctx, from, reply),
            Message::Compare(compare) => self.on_compare(ctx, from, &compare),
            Message::Spread(spread) => self.take_news(ctx, spread.news, true),
            // The engine itself answers to these.
            Message::Superseded(_) => {}
        }
        self.stir(ctx);
        self.flush(ctx);
    }

    /// A packet of any kind came from a node.
    pub(crate) fn notice(&mut self, ctx: &mut Ctx<'_>, from: NodeId) {
        if self.table.rank(from).is_some() {
            self.end_isolation(ctx);
            self.last_heard = ctx.now;
        }
    }

    pub(crate) fn on_timer(&mut self, ctx: &mut Ctx<'_>, log: &Consensus) {
        if self.dozing.is_some() {
            self.rested = Some(ctx.now);
        }
        self.miss_due(ctx);
        self.stir(ctx);
        self.wake_by_silence(ctx, log);
        for ring in 0..self.next.len() {
            if self.next[ring] <= ctx.now {
                let next = ctx.now + ctx.config().diagnosis.period;
                match self.rests_until(ctx, log, ring) {
                    Some(until) if until > ctx.now => self.next[ring] = until,
                    _ => {
                        self.next[ring] = next;
                        self.test(ctx, ring);
                    }
                }
            }
        }
        self.doze(ctx, log);
        if self.revisit <= ctx.now {
            self.revisit_doubted(ctx);
        }
        let over: Vec<NodeId> = self.lone.iter().filter(|(_, at)| **at <= ctx.now).map(|(node, _)| *node).collect();
        for node in over {
            self.lone.remove(&node);
            self.convict(ctx, node, true);
        }
        self.flush(ctx);
    }

    pub(crate) fn on_signal(&mut self, ctx: &mut Ctx<'_>, signal: &Signal) {
        match signal {
            Signal::Members(members) => {
                let config = ctx.shared.config.clone();
                let nodes: Vec<NodeId> = members.members().into_iter().collect();
                let same = nodes.len() == self.table.len() && nodes.iter().all(|node| self.table.rank(*node).is_some());
                if !same {
                    self.reshape(&config, nodes, ctx.now, ctx.rng);
                }
            }
            Signal::Beat { node } if !ctx.has(Mutant::BeatUnwatched) => self.await_beat(ctx, *node),
            Signal::Answered { node, sent } => self.beat_answered(ctx, *node, *sent),
            Signal::Stalled { evidence, .. } if !ctx.has(Mutant::AccuseAfterStall) => {
                // Whoever was paused himself must not accuse: every running verdict is void.
                self.probes.clear();
                self.lone.clear();
                self.lhm = (self.lhm + 2).min(LHM_MAX);
                let lhm = self.lhm;
                self.event(ctx, &[*evidence], Fact::SelfDegraded { lhm });
            }
            _ => {}
        }
        self.stir(ctx);
    }

    pub(crate) fn deadline(&self, log: &Consensus) -> Option<Time> {
        if self.rings.offsets.is_empty() {
            return None;
        }
        let probes = self.probes.iter().map(|probe| probe.due).min();
        let silence = self.dozing.and_then(|silence| rest::silent_at(log, silence));
        let next = self.next.iter().min().copied();
        earliest([probes, next, self.lone.values().min().copied(), Some(self.revisit), silence])
    }

    /// The life that others speak of, once every ring's successor has answered this one: nobody lives it.
    pub(crate) fn denied_life(&mut self) -> Option<Incarnation> {
        let rings = self.rings.offsets.len();
        self.rumor.take_if(|rumor| rumor.denied.count_ones() as usize >= rings).map(|rumor| rumor.inc)
    }

    /// A later life of this node begins.
    pub(crate) fn reborn(&mut self, inc: Incarnation) {
        self.inc = inc;
        self.rumor = None;
        if let Some(rank) = self.table.rank(self.me) {
            self.table.change(rank, |entry| {
                entry.inc = inc;
                entry.ctr = 0;
                entry.told = true;
            });
            self.fresh.push(rank);
        }
    }

    /// What this node thinks of another, and in which life it knows it; `None` for no member.
    #[must_use]
    pub fn status(&self, node: NodeId) -> Option<(Status, Incarnation)> {
        let entry = self.table.entry(self.table.rank(node)?);
        Some((entry.status(), entry.inc))
    }

    /// Whether a node is down by a verdict that is not this node's alone: enough to act on it where it may be up.
    #[must_use]
    pub fn is_convicted(&self, node: NodeId) -> bool {
        self.table.rank(node).map(|rank| self.table.entry(rank)).is_some_and(|entry| entry.down && !entry.private)
    }

    /// Who tests whom now, by this node's verdicts: pairs of tester and tested, each once.
    #[must_use]
    pub fn tests(&self) -> BTreeSet<(NodeId, NodeId)> {
        let live = |rank: &usize| !self.table.entry(*rank).down;
        let ranks = 0..self.rings.len;
        let pairs = ranks.flat_map(|rank| (0..self.rings.offsets.len()).map(move |ring| (rank, ring)));
        let pairs = pairs.filter_map(|(rank, ring)| {
            let tester = (1..self.rings.len).map(|steps| self.rings.behind(rank, ring, steps)).find(live)?;
            Some((self.table.node(tester), self.table.node(rank)))
        });
        pairs.collect()
    }

    /// How many members are judged down here.
    #[must_use]
    pub fn down(&self) -> usize {
        self.table.down.len()
    }

    /// How unwell this node feels; 0 is well.
    #[must_use]
    pub const fn lhm(&self) -> u8 {
        self.lhm
    }

    fn event(&self, ctx: &mut Ctx<'_>, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        ctx.event(because, AnyFact::Diagnosis(fact))
    }

    fn send(&self, ctx: &mut Ctx<'_>, to: NodeId, message: Message) {
        ctx.send(to, Lane::Probe, &Body::Diagnosis(message));
    }

    /// The node a ring tests now: the successor, or the next one that is not judged down.
    fn target(&mut self, ctx: &Ctx<'_>, ring: usize) -> Option<NodeId> {
        let me = self.table.rank(self.me)?;
        // Every period the walk starts at the successor again: a node that came back gets its arc back.
        let from = if ctx.has(Mutant::ArcKept) { self.walked[ring] } else { 1 };
        for steps in from..self.rings.len {
            let rank = self.rings.ahead(me, ring, steps);
            if rank == me {
                break;
            }
            if !self.table.entry(rank).down {
                self.walked[ring] = steps;
                return Some(self.table.node(rank));
            }
            if ctx.has(Mutant::WalkStops) {
                return None;
            }
        }
        None
    }

    fn test(&mut self, ctx: &mut Ctx<'_>, ring: usize) {
        self.tested[ring] = ctx.now;
        if let Some(target) = self.target(ctx, ring) {
            self.probe(ctx, target, Purpose::Test { ring });
        }
    }

    /// Looks at one node that is judged down, or that others accuse, every few periods: an isolated node finds back by
    /// it, and a suspicion whose end was told to others only ends here too.
    fn revisit_doubted(&mut self, ctx: &mut Ctx<'_>) {
        self.revisit = ctx.now + ctx.config().diagnosis.period.scale(4, 1);
        let after = self.revisited + 1;
        let next = |ranks: &BTreeSet<usize>| ranks.range(after..).next().or_else(|| ranks.first()).copied();
        let down = next(&self.table.down).filter(|_| !ctx.has(Mutant::DownNeverProbed));
        let suspect = next(&self.table.suspect).filter(|_| !ctx.has(Mutant::SuspectNeverProbed));
        self.suspects_turn = !self.suspects_turn;
        let rank = if self.suspects_turn { suspect.or(down) } else { down.or(suspect) };
        if let Some(rank) = rank {
            self.revisited = rank;
            self.probe(ctx, self.table.node(rank), Purpose::Revisit);
        }
    }

    /// Sends one probe.
    fn probe(&mut self, ctx: &mut Ctx<'_>, target: NodeId, purpose: Purpose) {
        if self.probes.len() >= PROBES_MAX || target == self.me {
            return;
        }
        let config = &ctx.config().diagnosis;
        let of = |rtt: Option<&Rtt>| rtt.map_or(config.deadline_floor, |rtt| rtt.deadline(config));
        let mut wait = match purpose {
            _ if config.rule == DiagnosisRule::Paper || ctx.has(Mutant::TimeoutFixed) => config.deadline_floor,
            Purpose::Test { ring } => of(self.rtt.get(ring)),
            Purpose::Confirm { ring, .. } => {
                let beat = self.beats.get(&target).map_or(Micros::ZERO, |rtt| rtt.deadline(config));
                of(self.rtt.get(ring)).max(beat).scale(2, 1)
            }
            Purpose::Beat => of(self.beats.get(&target)),
            Purpose::Help { .. } | Purpose::Revisit => config.deadline_floor.scale(3, 2),
        };
        if config.rule == DiagnosisRule::Paper {
            wait = config.deadline_ceiling;
        }
        wait = wait.scale(u64::from(self.lhm) + 1, 1);
        self.seq = self.seq.wrapping_add(1);
        self.probes.push(Probe { seq: self.seq, target, sent: ctx.now, due: ctx.now + wait, purpose });
        if purpose == Purpose::Beat {
            return;
        }
        let ping = Ping { seq: self.seq, digest: self.table.digest(), lhm: self.lhm, news: self.piggyback() };
        self.send(ctx, target, Message::Ping(ping));
    }

    fn on_ping(&mut self, ctx: &mut Ctx<'_>, from: NodeId, ping: Ping) {
        self.take_news(ctx, ping.news, false);
        let sick = ctx.persisting() > SICK_QUEUE;
        let ack = Ack { seq: ping.seq, digest: self.table.digest(), sick, news: self.piggyback() };
        self.send(ctx, from, Message::Ack(ack));
        self.compare_if_differs(ctx, from, ping.digest);
    }

    fn on_ack(&mut self, ctx: &mut Ctx<'_>, from: NodeId, ack: Ack) {
        let at = if ctx.has(Mutant::AnyAckCounts) {
            (0..self.probes.len()).min_by_key(|at| self.probes[*at].seq)
        } else {
            self.probes.iter().position(|probe| probe.target == from && probe.seq == ack.seq)
        };
        if let Some(at) = at {
            let probe = self.probes.swap_remove(at);
            self.answered(ctx, &probe, ack.sick);
        }
        self.take_news(ctx, ack.news, false);
        self.compare_if_differs(ctx, from, ack.digest);
    }

    /// A probe was answered in time.
    fn answered(&mut self, ctx: &mut Ctx<'_>, probe: &Probe, sick: bool) {
        let rtt = ctx.now.since(probe.sent);
        match probe.purpose {
            Purpose::Test { ring } | Purpose::Confirm { ring, .. } => {
                if let Some(estimate) = self.rtt.get_mut(ring) {
                    estimate.observe(rtt);
                }
                // The target lives: other tests of it that wait are answered too.
                self.probes.retain(|other| {
                    other.target != probe.target
                        || matches!(other.purpose, Purpose::Help { .. })
                        || other.sent > probe.sent
                });
                if matches!(probe.purpose, Purpose::Test { .. }) {
                    self.lhm = self.lhm.saturating_sub(1);
                }
                if let Some(rumor) = self.rumor.as_mut().filter(|rumor| rumor.since <= probe.sent) {
                    rumor.denied |= 1 << ring;
                }
            }
            Purpose::Help { asker, seq } => {
                self.send(ctx, asker, Message::PingReply(PingReply { seq, target: probe.target, heard: true }));
            }
            Purpose::Beat | Purpose::Revisit => {}
        }
        self.note_sick(ctx, probe.target, sick);
    }

    /// A node that says its disk is late is a poor place for new work, but it is not down.
    fn note_sick(&mut self, ctx: &mut Ctx<'_>, node: NodeId, sick: bool) {
        let Some(rank) = self.table.rank(node) else { return };
        let entry = self.table.entry(rank);
        if entry.sick == sick {
            return;
        }
        let (inc, evidence) = (entry.inc, entry.evidence);
        self.table.change(rank, |entry| entry.sick = sick);
        if sick {
            ctx.signal(Signal::NodeSuspect { node, evidence });
        } else {
            ctx.signal(Signal::NodeUp { node, inc, evidence });
        }
    }

    fn on_ping_req(&mut self, ctx: &mut Ctx<'_>, from: NodeId, request: PingReq) {
        if self.table.rank(request.target).is_some() && self.table.rank(from).is_some() {
            self.probe(ctx, request.target, Purpose::Help { asker: from, seq: request.seq });
            // Its observers may be resting: one suspects it, so they test it too.
            if !self.probes.iter().any(|probe| probe.target == request.target && probe.ring().is_some()) {
                self.test_as_observer(ctx, request.target);
            }
        }
    }

    fn on_ping_reply(&mut self, ctx: &mut Ctx<'_>, _from: NodeId, reply: PingReply) {
        if !reply.heard || ctx.has(Mutant::IndirectIgnored) {
            return;
        }
        let asked = |probe: &Probe| {
            probe.seq == reply.seq && probe.target == reply.target && matches!(probe.purpose, Purpose::Confirm { .. })
        };
        // Somebody hears it: the link between us is bad, the node is not.
        self.probes.retain(|probe| !asked(probe));
    }
}
