//! The log against a plain list, quorums against counting, also under joint members, who is told of a commit, and
//! what voters say of the leaders that they served.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::log::Log;
use super::{
    Append, AppendReply, Beat, BeatReply, Consensus, Entry, Membership, Message, Payload, Snapshot, VoteReply,
    VoteRequest,
};
use crate::config::{Availability, Bootstrap, Config, ResourceConfig, Role, ViewsConfig};
use crate::context::{Ctx, Peer, Shared, Signal};
use crate::ids::{Epoch, EvidenceId, Incarnation, Index, NO_CAUSE, NodeId, OpId, ResourceId, Term};
use crate::io::{Durable, Outcome, Output, Part};
use crate::rng::{Rng, Seed};
use crate::time::{Micros, Time};
use crate::views::Renew;
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
    /// Heartbeats at rest that it sent since somebody looked.
    beats: Vec<(u16, Beat)>,
}

impl Led {
    /// Elected, its first entry known to all as committed.
    fn new() -> Self {
        let voters = alloc::vec![NodeId(0), NodeId(1), NodeId(2)];
        let config = Config::new(NodeId(0), Bootstrap { voters, ..Bootstrap::default() });
        let mut rng = Seed(4).stream("led");
        let log = Consensus::new(&config, Durable::formatted(), Time(0), &mut rng);
        let mut led =
            Self { shared: Shared::of(config), rng, log, now: Time(1_000), disk: Vec::new(), beats: Vec::new() };
        led.step(|log, ctx| log.campaign(ctx, true));
        led.sync();
        let term = led.log.term();
        led.step(|log, ctx| {
            log.on_message(
                ctx,
                NodeId(1),
                Message::VoteReply(VoteReply { term, pre: false, granted: true, quiet: Micros::ZERO }),
            );
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
                Output::Send { to, datagram, .. } => match wire::decode(&config, &datagram) {
                    Ok((_, Body::Consensus(Message::Append(append)))) => sent.push((to.0, append)),
                    Ok((_, Body::Consensus(Message::Beat(beat)))) => self.beats.push((to.0, beat)),
                    _ => {}
                },
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

const MS: Micros = Micros::from_millis(1);

impl Led {
    /// Its timer fires at an instant; whom it sends heartbeats of a cluster at rest to.
    fn beats_at(&mut self, at: Time) -> Vec<u16> {
        let appends = self.step(|log, ctx| {
            ctx.now = at;
            log.on_timer(ctx);
        });
        assert!(appends.is_empty(), "{appends:?}");
        self.now = at;
        core::mem::take(&mut self.beats).into_iter().map(|(to, _)| to).collect()
    }

    /// A follower answers the heartbeat of an instant, and holds a resource.
    fn answer(&mut self, from: u16, sent_at: Time, held: Vec<(ResourceId, Epoch)>) {
        let reply =
            AppendReply { term: self.log.term(), sent_at, fits: true, index: self.log.last_index(), blank: false };
        let renew = Renew { sent_at: Time(7), held };
        self.step(|log, ctx| log.on_message(ctx, NodeId(from), Message::BeatReply(BeatReply { reply, renew })));
    }
}

#[test]
fn who_has_answered_is_left_alone_and_who_has_not_is_asked_again() {
    let mut led = Led::new();
    for node in [1, 2] {
        led.shared.peers.insert(NodeId(node), Peer { inc: Incarnation(1), speaks: wire::VERSION });
    }
    let first = led.now + MS.scale(50, 1);
    let (rest, again) = (led.shared.config.rest(), led.shared.config.consensus.heartbeat);
    assert_eq!((rest, again), (MS.scale(200, 1), MS.scale(50, 1)));
    // Whatever is on its way from the election: from the first whole round on both have answered all.
    let round = (0..8).map(|at| first + again.scale(at, 1)).find(|at| !led.beats_at(*at).is_empty()).expect("a round");
    led.answer(1, round, Vec::new());
    assert_eq!(led.log.deadline(), Some(round + again), "one has not answered");
    assert_eq!(led.beats_at(round + again), [2]);
    led.answer(2, round + again, Vec::new());
    assert_eq!(led.beats_at(round + again.scale(2, 1)), []);
    assert_eq!(led.log.deadline(), Some(round + rest));
    assert_eq!(led.beats_at(round + rest), [1, 2]);
}

#[test]
fn a_heartbeat_answers_what_the_one_before_was_asked() {
    let mut led = Led::new();
    let (resource, mine) = (ResourceId(3), NodeId(1));
    led.shared.peers.insert(mine, Peer { inc: Incarnation(1), speaks: wire::VERSION });
    let mut config = Config::clone(&led.shared.config);
    config.resources.push(ResourceConfig {
        id: resource,
        role: Role::Dispatcher,
        availability: Availability::Safe,
        candidates: Vec::new(),
    });
    led.shared.config = Arc::new(config);
    led.step(|log, ctx| {
        log.propose(ctx, Payload::Grant { resource, holder: mine, because: Default::default() });
    });
    let epoch = Epoch(led.log.last_index().0);
    led.sync();
    led.ack(1);
    led.ack(2);
    led.beats.clear();
    let lease = led.shared.config.views.lease;
    let beat = |led: &mut Led, at: Time| {
        led.step(|log, ctx| {
            ctx.now = at;
            log.on_timer(ctx);
        });
        led.now = at;
        core::mem::take(&mut led.beats).into_iter().find(|(to, _)| *to == 1).map(|(_, beat)| beat)
    };
    let from = led.now;
    let asked = (1..20).map(|at| from + MS.scale(50 * at, 1)).find(|at| beat(&mut led, *at).is_some());
    let asked = asked.expect("a heartbeat");
    // The grant of another epoch is not prolonged, the resource of another neither.
    led.answer(1, asked, alloc::vec![(resource, epoch), (ResourceId(4), epoch)]);
    let came = led.now;
    led.answer(2, asked, Vec::new());
    let next = (1..20).find_map(|at| beat(&mut led, came + MS.scale(50 * at, 1))).expect("the next one");
    assert_eq!((next.renewed.sent_at, &next.renewed.held[..]), (Time(7), &[(resource, epoch)][..]));
    // The quorum's contact is that of the first heartbeat, a moment before it was asked: nearly the whole lease, whenever it is told.
    assert!(next.renewed.left > lease - MS.scale(2, 1), "{:?}", next.renewed.left);
    assert_eq!(led.log.renewed(resource), Some(asked), "a successor waits from the quorum's contact");
}

/// A follower of three that is asked for its vote at some time; how quiet it says that it was.
fn quiet_of(led: &mut Led, at: Time) -> Option<Micros> {
    let last = (led.log.last_index(), Term(led.log.term().0 + 9));
    let request = VoteRequest {
        term: Term(led.log.term().0 + 1),
        pre: false,
        transfer: false,
        last_index: last.0,
        last_term: last.1,
    };
    led.now = at;
    led.step(|log, ctx| log.on_message(ctx, NodeId(1), Message::VoteRequest(request)));
    let config = led.shared.config.clone();
    let mut ctx = led.shared.ctx(&mut led.rng, Part::Consensus, led.now);
    for op in core::mem::take(&mut led.disk) {
        led.log.on_done(&mut ctx, op, Outcome::Ok);
    }
    core::mem::take(&mut led.shared.outputs).into_iter().find_map(|output| match output {
        Output::Send { datagram, .. } => match wire::decode(&config, &datagram) {
            Ok((_, Body::Consensus(Message::VoteReply(reply)))) if reply.granted => Some(reply.quiet),
            _ => None,
        },
        _ => None,
    })
}

/// Nodes speak version 2 with each other from the start.
fn speak(led: &mut Led) {
    for node in 1..3 {
        led.shared.peers.insert(NodeId(node), Peer { inc: Incarnation(1), speaks: 2 });
    }
}

#[test]
fn a_voter_says_how_long_it_served_no_leader() {
    // It led until the very request that deposes it; then it is quiet from there on.
    let mut led = Led::new();
    speak(&mut led);
    let term = led.log.term();
    led.step(|log, ctx| log.step_down(ctx, false));
    let down = led.now;
    assert_eq!(quiet_of(&mut led, down + Micros(40_000)), Some(Micros(40_001)));
    // It follows a leader: from the last append on.
    let mut led = Led::new();
    speak(&mut led);
    let append = Append {
        term: Term(term.0 + 1),
        prev_index: Index(1),
        prev_term: term,
        commit: Index(1),
        sent_at: Time(7),
        entries: Vec::new(),
    };
    led.now = Time(100_000);
    led.step(|log, ctx| log.on_message(ctx, NodeId(2), Message::Append(append)));
    assert_eq!(quiet_of(&mut led, Time(400_001)), Some(Micros(300_001)));
    // After a stall nothing that its clock counted is sure.
    let stalled = Signal::Stalled { late: MS, evidence: EvidenceId::NONE };
    led.now = Time(700_000);
    led.step(|log, ctx| log.on_signal(ctx, &stalled));
    assert_eq!(quiet_of(&mut led, Time(710_001)), Some(Micros(10_001)));
    // To a node that speaks version 1 it says nothing: that is read as zero.
    led.shared.peers.clear();
    assert_eq!(quiet_of(&mut led, Time(900_000)), Some(Micros::ZERO));
    // A node that has just started may have served a leader until then.
    let config = led.shared.config.clone();
    let log = Consensus::new(&config, Durable::formatted(), Time(5_000_000), &mut led.rng);
    let mut led = Led { log, ..led };
    speak(&mut led);
    assert_eq!(quiet_of(&mut led, Time(5_000_100)), Some(Micros(101)));
}

#[test]
fn a_new_leader_counts_from_what_its_voters_last_heard() {
    let views = ViewsConfig::default();
    for (quiet, alone_for) in [(300 * 1_000, 290_000 - 300), (0, 0), (5_000, 0), (10_000_000, 2_000_000)] {
        let mut led = Led::new();
        led.now = Time(1_000_000);
        led.step(|log, ctx| log.step_down(ctx, false));
        led.now = led.now + Micros(2_000_000);
        led.step(|log, ctx| log.campaign(ctx, true));
        led.sync();
        let term = led.log.term();
        let reply = VoteReply { term, pre: false, granted: true, quiet: Micros(quiet) };
        led.step(|log, ctx| log.on_message(ctx, NodeId(1), Message::VoteReply(reply)));
        let alone = led.now.since(led.log.alone_since().expect("it leads"));
        // Less by the drift of both clocks, and by what a clock may jump; never longer than the leader's own silence.
        assert!(alone.0.abs_diff(alone_for) <= 5, "{quiet}: {alone:?}, not {alone_for}");
        assert!(alone + views.timer_slack <= Micros(quiet.max(views.timer_slack.0)) || quiet == 10_000_000);
    }
}
