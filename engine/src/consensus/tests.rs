//! The log against a plain list, quorums against counting, also under joint members, and who is told of a commit.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::log::Log;
use super::{Append, AppendReply, Consensus, Entry, Membership, Message, Payload, Snapshot, VoteReply};
use crate::config::{Bootstrap, Config};
use crate::context::{Ctx, Shared};
use crate::ids::{Epoch, Index, NO_CAUSE, NodeId, OpId, ResourceId, Term};
use crate::io::{Durable, Outcome, Output, Part};
use crate::rng::{Rng, Seed};
use crate::time::{Micros, Time};
use crate::wire::{self, Body};

fn members(rng: &mut Rng) -> Membership {
    let mut some = || (0..6).filter(|_| rng.below(2) == 0).map(NodeId).collect::<BTreeSet<_>>();
    let (mut voters, outgoing, learners) = (some(), some(), some());
    voters.insert(NodeId(0));
    Membership { voters, outgoing, learners, ..Membership::default() }
}

fn payload(rng: &mut Rng) -> Payload {
    let resource = ResourceId(u16::try_from(rng.below(3)).unwrap_or(0));
    match rng.below(5) {
        0 => Payload::Config(members(rng).into()),
        1 => Payload::Grant { resource, holder: NodeId(u16::try_from(rng.below(4)).unwrap_or(0)), because: NO_CAUSE },
        2 => Payload::Release { resource, epoch: Epoch(rng.below(9)) },
        3 => Payload::Lead(NodeId(1)),
        _ => Payload::Note(alloc::vec![1]),
    }
}

/// The same, as a list of everything ever kept.
struct Plain {
    base: Snapshot,
    entries: Vec<Entry>,
}

impl Plain {
    fn last(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }
    fn find<T>(&self, what: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        self.entries.iter().rev().find_map(what)
    }
}

#[test]
fn the_log_is_a_list() {
    let mut rng = Seed(1).stream("log");
    for _ in 0..2_000 {
        let base = Snapshot { membership: members(&mut rng), ..Snapshot::default() };
        let mut log = Log::new(Arc::new(base.clone()), []);
        let mut plain = Plain { base, entries: Vec::new() };
        for _ in 0..40 {
            let last = plain.last();
            match rng.below(8) {
                0 if last > plain.base.index => {
                    let from = Index(rng.between(plain.base.index.0 + 1, last.0));
                    let had = plain.entries.iter().any(|e| e.index >= from && matches!(e.payload, Payload::Config(_)));
                    assert_eq!(log.truncate(from), had);
                    plain.entries.retain(|entry| entry.index < from);
                }
                1 if last > plain.base.index => {
                    // A snapshot of this log up to some entry, or of another one that goes further.
                    let own = rng.below(2) == 0;
                    let index = Index(rng.between(plain.base.index.0 + 1, last.0) + if own { 0 } else { rng.below(3) });
                    let term = log.term(index).filter(|_| own).unwrap_or(Term(99));
                    let snapshot = Snapshot { index, term, membership: members(&mut rng), ..Snapshot::default() };
                    log.compact(Arc::new(snapshot.clone()));
                    plain.entries.retain(|entry| own && entry.index > index);
                    plain.base = snapshot;
                }
                _ => {
                    let entry = Entry { index: last.next(), term: Term(1 + last.0 / 7), payload: payload(&mut rng) };
                    log.push(entry.clone());
                    plain.entries.push(entry);
                }
            }
            compare(&log, &plain, &mut rng);
        }
    }
}

fn compare(log: &Log, plain: &Plain, rng: &mut Rng) {
    assert_eq!(log.last_index(), plain.last());
    assert_eq!(log.last_term(), plain.entries.last().map_or(plain.base.term, |entry| entry.term));
    for index in (0..=plain.last().0 + 1).map(Index) {
        assert_eq!(log.entry(index), plain.entries.iter().find(|entry| entry.index == index));
    }
    let from = Index(rng.between(plain.base.index.0 + 1, plain.last().0 + 1));
    let rest: Vec<&Entry> = plain.entries.iter().filter(|entry| entry.index >= from).take(3).collect();
    assert_eq!(log.from(from, 3).iter().collect::<Vec<_>>(), rest);
    let set = plain.find(|entry| match &entry.payload {
        Payload::Config(members) => Some((members.clone(), entry.index)),
        _ => None,
    });
    let (members, at) = set.unwrap_or((Arc::new(plain.base.membership.clone()), plain.base.index));
    assert_eq!((log.membership(), log.membership_index()), (&*members, at));
    for resource in (0..3).map(ResourceId) {
        let grant = plain.find(|entry| match entry.payload {
            Payload::Grant { resource: of, holder, .. } if of == resource => Some((Epoch(entry.index.0), holder)),
            _ => None,
        });
        assert_eq!(log.newest_grant(resource), grant);
        let commit = Index(rng.below(plain.last().0 + 2));
        let open = plain.entries.iter().any(|entry| {
            entry.index > commit
                && match entry.payload {
                    Payload::Grant { resource: of, .. } | Payload::Release { resource: of, .. } => of == resource,
                    _ => false,
                }
        });
        assert_eq!(log.in_flight(resource, commit), open);
    }
}

#[test]
fn a_quorum_is_a_majority_of_each_set_of_voters() {
    let mut rng = Seed(2).stream("quorum");
    for _ in 0..20_000 {
        let members = members(&mut rng);
        let snapshot = Snapshot { index: Index(1), term: Term(1), membership: members.clone(), ..Snapshot::default() };
        let config = Config::new(NodeId(0), Bootstrap { voters: alloc::vec![NodeId(0)], ..Bootstrap::default() });
        let durable = Durable { snapshot: Some(snapshot.into()), ..Durable::formatted() };
        let consensus = Consensus::new(&config, durable, Time(0), &mut rng);
        let has: BTreeSet<NodeId> = (0..6).filter(|_| rng.below(2) == 0).map(NodeId).collect();
        let most = |voters: &BTreeSet<NodeId>| 2 * voters.intersection(&has).count() > voters.len();
        let want = most(&members.voters) && (members.outgoing.is_empty() || most(&members.outgoing));
        let mut shared = Shared::of(config);
        let mut part = Seed(3).stream("consensus");
        let ctx = shared.ctx(&mut part, Part::Consensus, Time(0));
        assert_eq!(consensus.is_quorum(&ctx, |node| has.contains(&node)), want, "{has:?} of {members:?}");
        // Two quorums of members that follow each other share a voter.
        let rest: BTreeSet<NodeId> = (0..6).map(NodeId).filter(|node| !has.contains(node)).collect();
        assert!(!(want && consensus.is_quorum(&ctx, |node| rest.contains(&node))));
    }
}

/// The leader of three nodes, driven by hand.
struct Led {
    shared: Shared,
    rng: Rng,
    log: Consensus,
    now: Time,
    /// Operations that wait for the disk.
    disk: Vec<OpId>,
}

impl Led {
    /// Elected, its first entry known to all as committed.
    fn new() -> Self {
        let voters = alloc::vec![NodeId(0), NodeId(1), NodeId(2)];
        let config = Config::new(NodeId(0), Bootstrap { voters, ..Bootstrap::default() });
        let mut rng = Seed(4).stream("led");
        let log = Consensus::new(&config, Durable::formatted(), Time(0), &mut rng);
        let mut led = Self { shared: Shared::of(config), rng, log, now: Time(1_000), disk: Vec::new() };
        led.step(|log, ctx| log.campaign(ctx, true));
        led.sync();
        let term = led.log.term();
        led.step(|log, ctx| {
            log.on_message(ctx, NodeId(1), Message::VoteReply(VoteReply { term, pre: false, granted: true }));
        });
        led.sync();
        led.ack(1);
        led.ack(2);
        assert_eq!((led.log.commit(), led.log.last_index()), (Index(1), Index(1)));
        led
    }

    /// One call, to its end; the appends that it sent.
    fn step(&mut self, run: impl FnOnce(&mut Consensus, &mut Ctx<'_>)) -> Vec<(u16, Append)> {
        self.now = self.now + Micros(1);
        let mut ctx = self.shared.ctx(&mut self.rng, Part::Consensus, self.now);
        run(&mut self.log, &mut ctx);
        self.log.finish_step(&mut ctx);
        let config = self.shared.config.clone();
        let mut sent = Vec::new();
        for output in core::mem::take(&mut self.shared.outputs) {
            match output {
                Output::Persist { op, .. } => self.disk.push(op),
                Output::Send { to, datagram, .. } => {
                    if let Ok((_, Body::Consensus(Message::Append(append)))) = wire::decode(&config, &datagram) {
                        sent.push((to.0, append));
                    }
                }
                _ => {}
            }
        }
        sent
    }

    /// What was written is durable.
    fn sync(&mut self) -> Vec<(u16, Append)> {
        let disk = core::mem::take(&mut self.disk);
        self.step(|log, ctx| disk.into_iter().for_each(|op| log.on_done(ctx, op, Outcome::Ok)))
    }

    /// A follower holds everything.
    fn ack(&mut self, from: u16) -> Vec<(u16, Append)> {
        let (term, index, sent_at) = (self.log.term(), self.log.last_index(), self.now);
        let reply = AppendReply { term, sent_at, fits: true, index, blank: false };
        self.step(|log, ctx| log.on_message(ctx, NodeId(from), Message::AppendReply(reply)))
    }

    fn note(&mut self, count: usize) -> Vec<(u16, Append)> {
        self.step(|log, ctx| {
            for _ in 0..count {
                log.propose(ctx, Payload::Note(alloc::vec![1]));
            }
        })
    }
}

/// Whom each empty append goes to, and the commit index that it tells.
fn told(sent: &[(u16, Append)]) -> Vec<(u16, u64)> {
    sent.iter().filter(|(_, append)| append.entries.is_empty()).map(|(to, append)| (*to, append.commit.0)).collect()
}

#[test]
fn a_commit_is_told_at_once_and_once() {
    let mut led = Led::new();
    let sent = led.note(3);
    assert_eq!((sent.len(), told(&sent).len()), (6, 0), "entries only");
    assert!(led.sync().is_empty(), "one of three is no quorum");
    // Three entries commit in one step: one packet, to the follower that holds them.
    assert_eq!(told(&led.ack(1)), [(1, 4)]);
    assert_eq!(told(&led.ack(2)), [(2, 4)], "the other one is told when it has them");
    assert!(led.ack(1).is_empty() && led.ack(2).is_empty(), "nobody is told twice");
    let now = led.now;
    let beat = led.step(|log, ctx| {
        ctx.now = now + Micros::from_millis(50);
        log.on_timer(ctx);
    });
    assert_eq!(told(&beat), [(1, 4), (2, 4)], "heartbeats go on");
}

#[test]
fn entries_that_go_out_anyhow_bring_the_commit() {
    let mut led = Led::new();
    led.note(1);
    led.sync();
    let (term, index, sent_at) = (led.log.term(), led.log.last_index(), led.now);
    let reply = AppendReply { term, sent_at, fits: true, index, blank: false };
    let sent = led.step(|log, ctx| {
        log.on_message(ctx, NodeId(1), Message::AppendReply(reply));
        log.propose(ctx, Payload::Note(alloc::vec![2]));
    });
    assert!(told(&sent).is_empty(), "{sent:?}");
    assert!(sent.iter().all(|(_, append)| append.commit == index) && sent.len() == 2);
    // A new leader tells nothing that a former one committed before its own first entry is.
    led.step(|log, ctx| log.step_down(ctx, false));
    assert!(led.ack(2).is_empty());
}

#[test]
fn a_follower_that_lags_is_not_told_in_between() {
    let mut led = Led::new();
    led.note(1);
    led.sync();
    led.note(1);
    // It holds the first of two entries; the second is on its way to it.
    let (term, sent_at) = (led.log.term(), led.now);
    let reply = AppendReply { term, sent_at, fits: true, index: Index(2), blank: false };
    let sent = led.step(|log, ctx| log.on_message(ctx, NodeId(1), Message::AppendReply(reply)));
    assert_eq!(led.log.commit(), Index(2));
    assert!(sent.is_empty(), "{sent:?}");
    led.sync();
    assert_eq!(told(&led.ack(1)), [(1, 3)]);
}
