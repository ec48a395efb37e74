//! The control side of a node: what it does, when, and what it must never do.

mod bed;

use apus_dispatch::{
    ANNOUNCED_AT, Act, Block, Claim, Here, Key, Member, Members, NOBODY, Notice, QUIET, REFRESHED, SETTLED, Station,
    StationConfig, Table as _, Tag, primaries,
};
use bed::{V4, V6, mac};

const MS: u64 = 1_000_000;

fn config() -> StationConfig {
    StationConfig {
        id: 3,
        node: 1,
        mac: mac(1),
        v4: V4,
        v6: V6,
        claim: [0; 6],
        key: Key::Source,
        seed: 5,
        log2_slots: 6,
    }
}

fn member(id: u16) -> Member {
    Member { id: u64::from(id), mac: mac(id), weight: 10, draining: false }
}

fn members(all: &[Member]) -> Members {
    Members::new(all.iter().copied()).expect("they can be told apart")
}

fn agreed(epoch: u64, all: &[Member]) -> Notice {
    Notice::Members { epoch, members: members(all) }
}

/// A station, with what it did when.
struct Run {
    station: Station,
    published: Vec<(u64, Vec<u8>)>,
    stood: Vec<(u64, Here)>,
    sent: Vec<(u64, Vec<u8>)>,
}

impl Run {
    fn new() -> Self {
        let mut run = Self { station: Station::new(config()), published: vec![], stood: vec![], sent: vec![] };
        run.drain(0);
        run
    }

    fn drain(&mut self, now: u64) {
        while let Some(act) = self.station.poll() {
            match act {
                Act::Publish(block) => self.published.push((now, block)),
                Act::Stand(here) => self.stood.push((now, here)),
                Act::Announce { frame } => self.sent.push((now, frame)),
            }
        }
    }

    /// Lets time pass, with ticks just when they are asked for.
    fn until(&mut self, now: u64) {
        while let Some(due) = self.station.deadline().filter(|due| *due <= now) {
            self.station.handle(due, Notice::Tick);
            self.drain(due);
        }
    }

    fn tell(&mut self, now: u64, notice: Notice) {
        self.until(now);
        self.station.handle(now, notice);
        self.drain(now);
    }

    /// When announcements were sent, in milliseconds since `from`; each time all three forms.
    fn announced(&self, from: u64) -> Vec<u64> {
        let times: Vec<u64> = self.sent.iter().map(|(at, _)| at - from).collect();
        assert!(times.chunks(3).all(|of| of.len() == 3 && of[0] == of[2]), "{times:?}");
        times.iter().step_by(3).map(|at| at / MS).collect()
    }

    fn here(&self) -> Here {
        self.stood.last().expect("it stands from the start").1
    }
}

#[test]
pub(crate) fn a_new_dispatcher_announces_four_times_in_all_forms() {
    let mut run = Run::new();
    let start = 7 * MS;
    run.tell(start, Notice::Lease { epoch: 4, until: start + 5_000 * MS });
    run.until(start + 10_000 * MS);
    assert_eq!(run.announced(start), [0, 50, 200, 1_000, 3_000]);
    assert_eq!(ANNOUNCED_AT[3] + REFRESHED, 3_000 * MS);
    for (_, frame) in &run.sent {
        assert_eq!(Claim::heard(&frame[..]), Some(Claim { id: 3, epoch: 4 }));
        assert_eq!(frame[6..12], mac(1));
    }
    let kinds: Vec<&[u8]> = run.sent.iter().take(3).map(|(_, frame)| &frame[12..14]).collect();
    assert_eq!(kinds, [[8, 6], [8, 6], [0x86, 0xdd]]);
    assert_eq!((run.here().lease, run.here().epoch, run.here().fence), (start + 5_000 * MS, 4, 4));
    assert_eq!(run.station.deadline(), None);
    assert_eq!(Tag::of(mac(1)), None);
}

#[test]
pub(crate) fn a_renewal_is_no_beginning_but_a_lease_after_a_gap_is() {
    let mut run = Run::new();
    for at in 0..40 {
        run.tell(at * 100 * MS, Notice::Lease { epoch: 4, until: (at * 100 + 300) * MS });
    }
    assert_eq!(run.announced(0), [0, 50, 200, 1_000, 3_000]);
    run.sent.clear();
    run.tell(9_000 * MS, Notice::Lease { epoch: 4, until: 9_100 * MS });
    run.until(20_000 * MS);
    assert_eq!(run.announced(9_000 * MS), [0, 50], "the lease ends before the others");
}

#[test]
pub(crate) fn nothing_is_sent_without_a_lease_at_that_instant() {
    let mut run = Run::new();
    run.tell(0, Notice::Claimed(None));
    run.tell(MS, Notice::Lease { epoch: 4, until: MS });
    run.tell(2 * MS, Notice::Claimed(None));
    assert_eq!(run.sent, []);
    // A tick that comes too late, from a daemon that was frozen.
    run.tell(10 * MS, Notice::Lease { epoch: 4, until: 100 * MS });
    assert_eq!(run.announced(10 * MS), [0]);
    run.station.handle(100 * MS, Notice::Tick);
    run.drain(100 * MS);
    assert_eq!(run.announced(10 * MS), [0]);
    // What was not yet taken is taken back.
    run.station.handle(200 * MS, Notice::Lease { epoch: 5, until: 900 * MS });
    run.station.handle(201 * MS, Notice::Released { epoch: 5 });
    run.drain(201 * MS);
    run.until(9_000 * MS);
    assert_eq!(run.announced(10 * MS), [0]);
    assert_eq!(run.here().lease, 0);
    run.tell(300 * MS, Notice::Lease { epoch: 5, until: 900 * MS });
    assert_eq!(run.here().lease, 900 * MS, "its renewals were late, and it goes on");
    run.tell(300 * MS, Notice::Released { epoch: 5 });
    run.tell(300 * MS, Notice::Lease { epoch: 4, until: 900 * MS });
    assert_eq!(run.here().lease, 0, "an earlier one does not");
    run.tell(301 * MS, Notice::Lease { epoch: 6, until: 900 * MS });
    run.tell(302 * MS, Notice::Released { epoch: 5 });
    assert_eq!(run.here().lease, 900 * MS, "an earlier grant's end does not end this one");
}

#[test]
pub(crate) fn a_late_tick_sends_once_for_all_it_missed() {
    let mut run = Run::new();
    run.tell(0, Notice::Lease { epoch: 4, until: 5_000 * MS });
    run.station.handle(400 * MS, Notice::Tick);
    run.drain(400 * MS);
    run.until(5_000 * MS);
    assert_eq!(run.announced(0), [0, 400, 1_000, 3_000]);
}

#[test]
pub(crate) fn a_stale_or_foreign_claim_is_answered_by_a_whole_series_but_not_too_often() {
    let mut run = Run::new();
    run.tell(0, Notice::Lease { epoch: 4, until: 90_000 * MS });
    for (claim, start) in [(Some(Claim { id: 9, epoch: 3 }), 5_000 * MS), (None, 10_000 * MS)] {
        run.until(start);
        run.sent.clear();
        run.tell(start, Notice::Claimed(claim));
        run.tell(start + 10 * MS, Notice::Claimed(claim));
        run.until(start + 4_000 * MS);
        assert_eq!(run.announced(start), [0, 50, 200, 1_000, 3_000]);
        run.sent.clear();
        run.tell(start + 4_000 * MS, Notice::Claimed(Some(Claim { id: 3, epoch: 4 })));
        run.tell(start + 4_000 * MS, Notice::Claimed(Some(Claim { id: 9, epoch: 5 })));
        run.until(start + 4_900 * MS);
        assert_eq!(run.announced(start), [], "{claim:?}");
    }
    run.until(20_000 * MS);
    run.sent.clear();
    for at in 0..1_000 {
        run.tell(20_000 * MS + at * MS, Notice::Claimed(None));
    }
    assert!((20..=40).contains(&run.announced(0).len()), "a storm is not answered by a storm");
}

#[test]
pub(crate) fn a_fence_only_rises_and_ends_an_older_lease() {
    let mut run = Run::new();
    run.tell(0, Notice::Lease { epoch: 4, until: 9_000 * MS });
    run.tell(MS, Notice::Fence { epoch: 3 });
    assert_eq!((run.here().fence, run.here().lease), (4, 9_000 * MS));
    run.tell(2 * MS, Notice::Fence { epoch: 6 });
    assert_eq!((run.here().fence, run.here().lease), (6, 0));
    run.sent.clear();
    run.tell(3 * MS, Notice::Lease { epoch: 5, until: 9_000 * MS });
    run.until(9_000 * MS);
    assert_eq!((run.sent.len(), run.here().lease), (0, 0));
    run.tell(10_000 * MS, Notice::Lease { epoch: 6, until: 19_000 * MS });
    assert_eq!((run.sent.len(), run.here().lease), (3, 19_000 * MS));
}

fn slots_of(block: &[u8], server: apus_dispatch::Mac) -> usize {
    let block = Block::new(block).expect("it is a table");
    (0..64).filter(|slot| block.server(block.slot(*slot).server) == Some(server)).count()
}

#[test]
pub(crate) fn the_table_follows_departures_at_once_and_arrivals_when_it_is_quiet() {
    let mut run = Run::new();
    assert_eq!(run.here().server, NOBODY);
    run.tell(0, agreed(10, &[member(1), member(2)]));
    assert_eq!((run.published.len(), run.here().server), (1, 0));
    run.tell(MS, agreed(11, &[member(1), member(2)]));
    assert_eq!(run.published.len(), 1, "nothing has changed");
    // One comes, and half a second later another.
    run.tell(1_000 * MS, agreed(12, &[member(1), member(2), member(3)]));
    run.tell(1_500 * MS, agreed(13, &[member(0), member(1), member(2), member(3)]));
    run.until(2_499 * MS);
    assert_eq!(run.published.len(), 1);
    run.until(9_000 * MS);
    assert_eq!(run.published.len(), 2);
    assert_eq!((run.published[1].0, run.here().server), (1_500 * MS + QUIET, 1));
    // One comes and, before its time, another drains: one change for both.
    let drains = Member { draining: true, ..member(2) };
    run.tell(10_000 * MS, agreed(14, &[member(0), member(1), member(2), member(3), member(4)]));
    run.tell(10_100 * MS, agreed(15, &[member(0), member(1), drains, member(3), member(4)]));
    assert_eq!(run.published.len(), 3);
    let block = &run.published[2].1;
    assert!(slots_of(block, mac(4)) > 0 && slots_of(block, mac(2)) == 0);
    run.tell(10_200 * MS, agreed(16, &[member(1), drains, member(3), member(4)]));
    assert_eq!((run.published.len(), run.here().server), (4, 0));
    // A changed mind, and a stale word.
    run.tell(11_000 * MS, agreed(17, &[member(1), drains, member(3), member(4), member(5)]));
    run.tell(11_001 * MS, agreed(18, &[member(1), drains, member(3), member(4)]));
    run.tell(11_002 * MS, agreed(3, &[member(1)]));
    run.until(20_000 * MS);
    assert_eq!(run.published.len(), 4);
    // Another network card.
    run.tell(20_000 * MS, agreed(19, &[member(1), drains, Member { mac: mac(9), ..member(3) }, member(4)]));
    assert_eq!(run.published.len(), 5);
    let mut epochs = Vec::new();
    for (_, bytes) in &run.published {
        epochs.push(Block::new(bytes).expect("it is a table").head().epoch);
    }
    assert_eq!(epochs, [10, 13, 15, 16, 19]);
}

#[test]
pub(crate) fn who_comes_does_not_wait_for_ever() {
    let mut run = Run::new();
    run.tell(0, agreed(0, &[member(1)]));
    for n in 1..30_u16 {
        let all: Vec<Member> = (1..=n + 1).map(member).collect();
        run.tell((u64::from(n) * 900 + 200) * MS, agreed(u64::from(n), &all));
    }
    assert_eq!(run.published.get(1).map(|(at, _)| *at), Some(1_100 * MS + 8 * QUIET));
}

#[test]
pub(crate) fn a_former_server_is_remembered_over_a_drain() {
    let mut run = Run::new();
    let drains = Member { draining: true, ..member(2) };
    run.tell(0, agreed(1, &[member(1), member(2), member(3)]));
    run.tell(MS, agreed(2, &[member(1), drains, member(3)]));
    let [old, new] = [0, 1].map(|at| Block::new(&run.published[at].1).expect("it is a table"));
    for slot in 0..64 {
        let (wanted, slot) = (if old.slot(slot).server == 1 { 1 } else { NOBODY }, new.slot(slot));
        // Of what this node has always had it asks who else could have it.
        assert_eq!(slot.former, if wanted == NOBODY && slot.server == 0 { 2 } else { wanted });
    }
}

#[test]
pub(crate) fn another_set_up_is_a_new_table_and_is_announced() {
    let mut run = Run::new();
    let configure = |key, v4, log2_slots| Notice::Configure { key, v4, v6: V6, log2_slots };
    run.tell(0, configure(Key::Ports, V4, 7));
    assert_eq!(run.published.len(), 0, "there are no members yet");
    run.tell(1, agreed(5, &[member(1)]));
    run.tell(2, Notice::Lease { epoch: 1, until: 90_000 * MS });
    run.until(5_000 * MS);
    run.sent.clear();
    run.tell(5_000 * MS, configure(Key::Ports, V4, 7));
    assert_eq!((run.published.len(), run.sent.len()), (1, 0), "nothing has changed");
    run.tell(5_000 * MS, configure(Key::Source, V4, 255));
    assert_eq!((run.published.len(), run.sent.len()), (2, 0));
    let head = Block::new(&run.published[1].1).expect("it is a table").head();
    assert_eq!((head.epoch, head.log2_slots, head.key), (6, 20, Key::Source));
    run.tell(5_000 * MS, configure(Key::Source, [10, 0, 0, 101], 6));
    run.until(9_000 * MS);
    assert_eq!(run.announced(5_000 * MS), [0, 50, 200, 1_000, 3_000]);
    assert_eq!(run.sent[0].1[28..32], [10, 0, 0, 101]);
    assert_eq!(run.published.len(), 3);
    // What is agreed later is later.
    run.tell(9_000 * MS, agreed(6, &[]));
    let head = Block::new(&run.published[3].1).expect("it is a table").head();
    assert_eq!((head.epoch, run.here().server), (8, NOBODY));
}

#[test]
pub(crate) fn a_table_comes_before_the_place_in_it() {
    let mut station = Station::new(config()).with_quiet(0);
    assert!(matches!(station.poll(), Some(Act::Stand(here)) if here.lease == 0));
    station.handle(5, agreed(1, &[member(0), member(1)]));
    assert!(matches!(station.poll(), Some(Act::Publish(_))));
    assert!(matches!(station.poll(), Some(Act::Stand(here)) if here.server == 1));
    assert_eq!(station.poll(), None);
    station.handle(6, agreed(2, &[member(0), member(1), member(2)]));
    assert!(matches!(station.poll(), Some(Act::Publish(_))), "no quiet time was asked for");
    assert_eq!((station.poll(), station.deadline()), (None, Some(6 + SETTLED)));
    station.handle(6 + SETTLED, Notice::Tick);
    assert!(matches!(station.poll(), Some(Act::Stand(here)) if !here.fresh));
    assert_eq!((station.poll(), station.deadline()), (None, None));
}

/// Of each slot, the places of who has it and who had it.
fn all_slots(block: &[u8]) -> Vec<(u16, u16)> {
    let block = Block::new(block).expect("it is a table");
    (0..64).map(|number| block.slot(number)).map(|slot| (slot.server, slot.former)).collect()
}

#[test]
pub(crate) fn a_server_that_comes_asks_who_has_had_its_slots_in_the_meantime() {
    let mut run = Run::new();
    run.tell(0, agreed(1, &[member(1), member(2), member(3)]));
    let others = members(&[member(2), member(3)]);
    let without = primaries(config().seed, config().log2_slots, &others).expect("a good size");
    for ((server, former), other) in all_slots(&run.published[0].1).into_iter().zip(&without) {
        assert_eq!(former, if server == 0 { other + 1 } else { NOBODY });
    }
    // It saw itself before another one that was away at the same time: what is the other's now, it asks about as before.
    let mut late = Run::new();
    late.tell(0, agreed(1, &[member(1), member(2)]));
    late.tell(160 * MS, agreed(2, &[member(1), member(2), member(3)]));
    assert_eq!(late.published.len(), 2, "who has just begun does not wait");
    let slots = all_slots(&late.published[1].1);
    assert!(
        slots
            .iter()
            .zip(all_slots(&late.published[0].1))
            .all(|((server, former), (had, _))| { !(*server == 2 && had == 0) || *former == 1 })
    );
    assert!(slots.contains(&(2, 1)));
}

#[test]
pub(crate) fn who_is_cut_off_keeps_the_table_of_the_others() {
    let all = [member(1), member(2), member(3), member(4), member(5)];
    let mut run = Run::new();
    run.tell(0, agreed(1, &all));
    run.tell(5_000 * MS, agreed(2, &all[..1]));
    run.until(6_000 * MS);
    assert_eq!(run.published.len(), 2);
    assert_eq!(all_slots(&run.published[0].1), all_slots(&run.published[1].1));
    run.published.remove(0);
    // A grant says that the others are gone indeed.
    run.tell(6_000 * MS, Notice::Lease { epoch: 1, until: 6_500 * MS });
    assert_eq!((run.published.len(), slots_of(&run.published[1].1, mac(1))), (2, 64));
    run.tell(20_000 * MS, agreed(3, &all));
    run.until(30_000 * MS);
    assert_eq!(run.published.len(), 3);
    // A dispatcher serves what it sees for as long as it may, and then what the others do.
    run.tell(30_000 * MS, Notice::Lease { epoch: 3, until: 31_000 * MS });
    run.tell(30_500 * MS, agreed(4, &all[..2]));
    assert_eq!((run.published.len(), run.here().server), (4, 0));
    run.until(32_000 * MS);
    assert_eq!((run.published.len(), run.published[4].0), (5, 31_000 * MS));
    assert!(slots_of(&run.published[4].1, mac(5)) > 0);
    // That somebody else was granted it says the same.
    run.tell(33_000 * MS, Notice::Fence { epoch: 9 });
    assert_eq!((run.published.len(), slots_of(&run.published[5].1, mac(5))), (6, 0));
}
