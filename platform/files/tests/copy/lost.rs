//! What was not captured, or is gone: other copies compare, and nothing is taken for whole that is not.

use std::time::{Duration, Instant};

use apus_engine::shipping::{Answer, Change, Mends, Place as At, Work};
use apus_engine::{Epoch, Lsn, OpId, Seed};

use crate::compare::{after, all, digest};
use crate::live::{World, has, sqlite};
use crate::world::{Writer, append, apply, begin, done, open, place, same};

/// Compares the second copy with the first one, whose program may go on, until the second one has all up to then.
fn compare(world: &mut World) {
    world.turn();
    let base = apus_engine::shipping::Base {
        lsn: world.history.end,
        check: world.history.check,
        eras: world.history.eras.clone(),
    };
    done(&mut world.two, &Work::Shadow { op: OpId(1), base });
    let mut todo = all();
    let mut shipped = world.history.end;
    while let Some(next) = todo.pop() {
        let page = digest(&mut world.two, true, &next);
        let one = &mut world.one.as_mut().expect("it runs").store;
        assert_eq!(one.perform(&Work::Compare { op: OpId(2), page: page.clone(), from: At::START }), None);
        let mends = answered(world);
        after(&mut todo, next, &page, &mends);
        done(&mut world.two, &Work::Mend { op: OpId(3), mends });
        shipped = stage(world, shipped);
    }
    // All that the first copy's files had when they were looked at is in the log by now.
    done(&mut world.two, &Work::Switch { op: OpId(4), upto: shipped });
}

fn stage(world: &mut World, mut shipped: Lsn) -> Lsn {
    world.turn();
    loop {
        let one = &mut world.one.as_mut().expect("it runs").store;
        let answer = one.perform(&Work::Read { op: OpId(5), from: shipped.next(), most: 1 << 20 });
        let Some((_, Answer::Records(records))) = answer else { return shipped };
        done(&mut world.two, &Work::Append { op: OpId(6), staged: true, records, captured: 0 });
        shipped = world.two.status().staged.expect("files are compared");
    }
}

fn answered(world: &mut World) -> Mends {
    let begun = Instant::now();
    loop {
        world.turn();
        match world.answers.pop() {
            Some(Answer::Mends { mends, captured }) => {
                assert!(captured <= world.captured, "it was told before");
                return mends;
            }
            Some(other) => panic!("{other:?}"),
            None => assert!(begun.elapsed() < Duration::from_secs(30), "no answer"),
        }
    }
}

/// The order is lost while a database is written: it is told once, all names are listed, and a comparison while the program goes on makes
/// the other copy the same.
#[test]
fn a_lost_order_is_told_and_a_comparison_mends_it() {
    if !has("sqlite3") {
        return;
    }
    let mut world = World::new("order");
    let child = sqlite(&world, "WAL", 3);
    world.run(child, World::ship);
    world.same("before");
    let capture = apus_capture::linux::Capture::at(&world.ring).expect("a ring");
    let child = sqlite(&world, "DELETE", 20);
    let mut compared = 0;
    let begun = Instant::now();
    world.run(child, |world| {
        if world.missed == 0 && begun.elapsed() > Duration::from_millis(20) {
            capture.lose(apus_capture::linux::Reasons::STRANGER | apus_capture::linux::Reasons::ALL);
            // Somebody else's doing, unseen.
            std::fs::write(world.place.0.join("1/root/stranger"), "unseen").expect("a file");
            while world.missed == 0 && begun.elapsed() < Duration::from_secs(20) {
                world.turn();
            }
            compare(world);
            compared += 1;
        }
    });
    assert!(world.missed >= 1 && compared == 1, "{} times, {compared}", world.missed);
    world.same("compared");
    // The daemon is killed after that: nothing is listed again.
    let missed = world.missed;
    world.kill();
    let child = sqlite(&world, "WAL", 2);
    world.run(child, |_| {});
    assert_eq!(world.missed, missed);
    world.same("gone on");
}

/// Killed before what was missed is in the log, it is told again.
#[test]
fn what_was_missed_is_told_until_the_log_has_it() {
    if !has("sqlite3") {
        return;
    }
    let mut world = World::new("missed");
    let child = sqlite(&world, "WAL", 2);
    world.run(child, World::ship);
    let capture = apus_capture::linux::Capture::at(&world.ring).expect("a ring");
    for round in 1..4 {
        capture.lose(apus_capture::linux::Reasons::STRANGER | apus_capture::linux::Reasons::ALL);
        std::fs::write(world.place.0.join("1/root").join(format!("stranger-{round}")), "unseen").expect("a file");
        let begun = Instant::now();
        while !(capture.status().reasons.in_order() && capture.shown()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is not listed");
            std::thread::sleep(Duration::from_millis(1));
        }
        // Listed, and nobody has been told.
        world.kill();
        world.settle_files();
        assert_eq!(world.missed, round, "told once more, and once");
        compare(&mut world);
        world.same(&format!("round {round}"));
    }
    // Once the ring has given up what came after it, it has given up that too.
    let child = sqlite(&world, "WAL", 1);
    world.run(child, |_| {});
    world.kill();
    world.settle_files();
    assert_eq!(world.missed, 3, "it is in the log");
}

/// A copy whose program had its files open, and of which nobody knows what was captured, is torn: its log counts, its files do not.
#[test]
fn an_open_copy_without_its_ring_is_torn() {
    let place = place("torn");
    let mut rng = Seed(1).stream("torn");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    for _ in 0..60 {
        let change = writer.any(&mut rng);
        append(&mut store, writer.write(change));
    }
    apply(&mut store, writer.history.end);
    done(&mut store, &Work::Open { op: OpId(1), era: Epoch(9 << 20) });
    drop(store);
    std::fs::write(place.0.join("root/new"), "nobody saw it").expect("a file");
    for _ in 0..2 {
        let mut store = open(&place.0);
        let found = store.found().expect("it is found");
        assert!(found.torn && !found.blank && found.open == Some(Epoch(9 << 20)), "{found:?}");
        assert_eq!((found.log.end, found.applied), (writer.history.end, writer.history.end));
    }
    let mut store = open(&place.0);
    store.found().expect("it is found");
    let before = store.status().files;
    done(&mut store, &Work::Orphans { op: OpId(2), from: writer.history.end.next() });
    let saved = store.orphans().expect("listed");
    let files = writer.model.files.values().filter(|file| matches!(file.sort, crate::world::Sort::File(_))).count();
    assert_eq!(saved[0].files, files as u64, "all files");
    // Who opens it takes the files as they are.
    done(&mut store, &Work::Open { op: OpId(3), era: Epoch(10 << 20) });
    assert!(!store.status().torn && store.status().files.0 == before.0 + 1);
}

/// Appends that waited together are durable together, and a log that is trimmed is found again.
#[test]
fn appends_together_and_a_trimmed_log() {
    let place = place("together");
    let mut rng = Seed(2).stream("together");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let mut last = Lsn(0);
    for round in 0..40 {
        let mut works: Vec<Work> = (0..20)
            .map(|nth| {
                let change = writer.any(&mut rng);
                Work::Append { op: OpId(nth), staged: false, records: writer.write(change), captured: 0 }
            })
            .collect();
        works.push(Work::Apply { op: OpId(99), upto: writer.history.end });
        let answers = store.perform_all(works);
        let ops: Vec<u64> = answers.iter().map(|(op, _)| op.0).collect();
        assert_eq!(ops, (0..20).chain([99]).collect::<Vec<u64>>());
        assert!(answers.iter().all(|(_, answer)| *answer == Answer::Done), "{answers:?}");
        let upto = store.status().end;
        apply(&mut store, upto);
        if round % 10 == 9 {
            done(&mut store, &Work::Checkpoint { op: OpId(1), at: upto });
            let base = apus_engine::shipping::Base { lsn: last, ..apus_engine::shipping::Base::default() };
            assert_eq!(store.perform(&Work::Trim { base }), None);
            last = upto;
        }
    }
    let status = store.status();
    assert!(status.base > Lsn(0) && status.base < status.checkpoint, "{status:?}");
    assert_eq!(store.perform(&Work::Read { op: OpId(1), from: Lsn(1), most: 100 }), Some((OpId(1), Answer::Gone)));
    drop(store);
    let mut store = open(&place.0);
    let found = store.found().expect("it is found");
    assert_eq!((found.base.lsn, found.log.end, found.bytes), (status.base, writer.history.end, status.bytes));
    apply(&mut store, writer.history.end);
    same(&place.0.join("root"), &writer.model, "found again");
    // What does not follow the log's end is refused, and what comes after it with it.
    let next = writer.write(Change::Barrier { file: apus_engine::FileId(1) });
    let after = writer.write(Change::Barrier { file: apus_engine::FileId(1) });
    let append =
        |op, records: &Vec<u8>| Work::Append { op: OpId(op), staged: false, records: records.clone(), captured: 0 };
    let answers = store.perform_all(vec![append(1, &after), append(2, &next)]);
    assert_eq!(answers, [(OpId(1), Answer::Failed), (OpId(2), Answer::Failed)]);
    assert_eq!(store.perform(&append(3, &next)), Some((OpId(3), Answer::Done)));
}
