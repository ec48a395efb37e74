//! What stands between two programs: the last change of one, the mark that it has ended, and the ring of the next.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use apus_capture::linux::{Capture, Class, Target};
use apus_capture::{Change as Op, Consumer as _, Drained, Drainer, FileId as Id, Group, Operation};
use apus_engine::shipping::{Answer, Change, Entry, Happening, Work};
use apus_engine::{Epoch, FileId, OpId};
use apus_files::linux::Fail;
use apus_files::{Feed, Store};

use crate::live::{ERA, World};
use crate::world::{Writer, append, apply, begin, done, open, place};

fn close(store: &mut Store) -> Vec<Happening> {
    assert_eq!(store.perform(&Work::Close { op: OpId(77) }), None);
    let mut happened = store.happened();
    assert_eq!(happened.pop(), Some(Happening::Done { op: OpId(77), answer: Answer::Done }));
    happened
}

fn refused(store: &mut Store, work: &Work) -> String {
    let answer = store.perform(work);
    assert!(matches!(answer, Some((_, Answer::Failed))), "{work:?}: {answer:?}");
    store.alarms().join("\n")
}

fn write(bytes: &[u8]) -> Change {
    Change::Write { file: FileId(5), offset: 0, bytes: bytes.to_vec() }
}

/// A blank ring for the files at a place.
fn ring(place: &std::path::Path) -> PathBuf {
    let ring = place.join("ring");
    Group::new(std::fs::canonicalize(place.join("root")).expect("it is there"), &["**"]).create(&ring).expect("a ring");
    ring
}

/// A program waits for its own record, whatever the number was that an earlier ring had come to; also after a restart.
#[test]
fn a_new_ring_releases_nothing_of_an_earlier_one() {
    let mut world = World::new("rings");
    let home = world.place.0.clone();
    let path = home.join("1/root/file");
    // By a program that is seen: a file that nobody saw come is found after a while, and the order begins anew.
    let child = world.command("touch").arg("file").spawn().expect("it runs");
    world.run(child, |_| {});
    let waits = |world: &World, capture: &Capture| {
        let file = std::fs::File::open(&path).expect("it is there");
        let Class::File(bound) = capture.classify(file.as_raw_fd()) else { panic!("it belongs to the group") };
        capture.wait_for_release(true);
        // Who is not released is told that its time is over.
        capture.lease(0);
        let target = Target::File(bound);
        let mark = capture.mark(target).expect("its place is its own");
        capture.release(world.one.as_ref().expect("it runs").store.released().unwrap_or_default());
        !capture.wait_released(target, mark).expect("its place is its own")
    };
    let capture = Capture::at(&world.ring).expect("a ring");
    // Until all is listed nothing has a record.
    world.settle();
    for _ in 0..50 {
        assert!(waits(&world, &capture), "nothing was released");
    }
    world.settle();
    let captured = world.captured;
    let one = &mut world.one.as_mut().expect("it runs").store;
    one.perform(&Work::Release { captured });
    let before = one.released().expect("barriers are in the log");
    assert!(before >= 50, "{before}");
    assert_eq!(close(one), []);
    std::fs::remove_file(&world.ring).expect("it is there");
    let era = Epoch(ERA.0 + 1);
    done(one, &Work::Open { op: OpId(3), era });
    drop(world.one.take());
    // Killed and begun anew around the moment in which the new ring comes.
    for restart in [false, true] {
        let store = open_live(&home);
        if restart {
            assert_eq!(store.open_era(), Some(era));
        }
        world.one = Some(crate::live::Daemon::of(store));
        if restart {
            world.go_on();
        } else {
            world.begin();
        }
        world.one.as_mut().expect("it runs").store.perform(&Work::Release { captured });
        let capture = Capture::at(&world.ring).expect("a ring");
        assert!(waits(&world, &capture), "restarted: {restart}");
        drop(world.one.take());
    }
}

fn open_live(home: &std::path::Path) -> Store {
    crate::live::open(&home.join("1"))
}

/// A mark that cannot be written: the copy counts as open, nothing is added to it or applied over it, and it is closed once it can be.
#[test]
fn a_copy_that_cannot_be_closed_is_closed_later() {
    let place = place("stuck");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let at = Entry { dir: FileId::ROOT, name: b"a".to_vec() };
    append(&mut store, writer.write(Change::Create { file: FileId(5), at, mode: 0o600 }));
    append(&mut store, writer.write(write(b"first")));
    apply(&mut store, writer.history.end);
    done(&mut store, &Work::Open { op: OpId(1), era: Epoch(9 << 20) });
    store.fail_at(Some(Fail::IndexWritten));
    assert_eq!(close(&mut store), []);
    assert_eq!(store.open_era(), Some(Epoch(9 << 20)), "nothing says that it is closed");
    let records = writer.write(write(b"later"));
    let add = Work::Append { op: OpId(2), staged: false, records, captured: 0 };
    let told = refused(&mut store, &add);
    assert!(told.contains("could not be closed yet"), "{told}");
    refused(&mut store, &Work::Apply { op: OpId(3), upto: writer.history.end });
    store.fail_at(None);
    done(&mut store, &add);
    assert_eq!(store.open_era(), None);
    apply(&mut store, writer.history.end);
    assert_eq!(std::fs::read(place.0.join("root/a")).expect("it is there"), b"later");
}

/// What a drainer hands over after the files were closed gets no number: nobody would log it.
#[test]
fn what_comes_after_the_last_number_gets_none() {
    let place = place("last");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    done(&mut store, &Work::Open { op: OpId(1), era: Epoch(9 << 20) });
    let mut feed = store.feed(&ring(&place.0), Box::new(|| {})).unwrap_or_else(|error| panic!("{error}"));
    let mut take = |seq, change| {
        feed.take(&Operation { seq, file: Id(seq), publish: true, change }).expect("it is taken");
        feed.passed(seq);
        feed.kept()
    };
    take(1, Op::Listing { entries: &[] });
    store.happened();
    take(5, Op::Sync);
    let told = close(&mut store);
    let [Happening::Captured(captured)] = &told[..] else { panic!("{told:?}") };
    let number = captured.last().expect("some").number;
    // The thread is late.
    assert_eq!(take(6, Op::Sync), 0, "the ring keeps it");
    assert_eq!(store.happened(), []);
    assert!(store.open_era().is_some(), "what came before is not in the log");
    let records = writer.write(Change::Barrier { file: FileId::ROOT });
    done(&mut store, &Work::Append { op: OpId(2), staged: false, records, captured: number });
    assert_eq!(store.open_era(), None);
}

/// What the log does not take stays in the ring once so much waits for it, and comes in its order when there is room again.
#[test]
fn what_waits_for_the_log_has_a_bound() {
    const LIMIT: u64 = 10_000;
    let place = place("bound");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    done(&mut store, &Work::Open { op: OpId(1), era: Epoch(9 << 20) });
    let mut feed = store.feed(&ring(&place.0), Box::new(|| {})).unwrap_or_else(|error| panic!("{error}"));
    let mut take = |feed: &mut Feed, seq, file, change| {
        let took = feed.take(&Operation { seq, file: Id(file), publish: true, change });
        if took.is_ok() {
            feed.passed(seq);
        }
        took.map_err(|error| error.kind())
    };
    take(&mut feed, 1, 1, Op::Listing { entries: &[] }).expect("a listing");
    let bytes = [7; 1_000];
    let write = |at: u64| Op::Write { offset: at * 1_000, bytes: &bytes };
    take(&mut feed, 2, 2, Op::Create { path: b"a", mode: 0o600 }).expect("a file");
    // Without a bound all is taken, as while a thread takes what it would have to log itself.
    (3..30).for_each(|seq| take(&mut feed, seq, 2, write(seq)).expect("no bound yet"));
    feed.limit(LIMIT);
    assert!(feed.is_full());
    assert_eq!(take(&mut feed, 30, 2, write(30)), Err(std::io::ErrorKind::WouldBlock));
    assert_eq!(feed.taken(), 29, "it is as if it had not been told");
    // What was read anew belongs to a record that was taken.
    take(&mut feed, 29, 2, write(99)).expect("never refused");
    take(&mut feed, 29, 2, Op::Listing { entries: &[] }).expect("never refused");
    let log = |store: &mut Store, writer: &mut Writer| {
        let mut changes = Vec::new();
        for told in store.happened() {
            if let Happening::Captured(run) = told {
                changes.extend(run);
            }
        }
        let last = changes.last().map_or(0, |last| last.number);
        let records = changes.iter().flat_map(|captured| writer.write(captured.change.clone())).collect();
        done(store, &Work::Append { op: OpId(2), staged: false, records, captured: last });
        changes
    };
    assert!(log(&mut store, &mut writer).len() > 27);
    assert!(!feed.is_full(), "the log has all of it");
    // The list said that there is no such file any more.
    take(&mut feed, 31, 31, Op::Create { path: b"b", mode: 0o600 }).expect("there is room again");
    let mut taken = Vec::new();
    for seq in 32..200 {
        while take(&mut feed, seq, 31, write(seq)) == Err(std::io::ErrorKind::WouldBlock) {
            let some = log(&mut store, &mut writer);
            let held: usize = some.iter().map(|captured| format!("{:?}", captured.change).len() / 3).sum();
            assert!(!some.is_empty() && held < 3 * LIMIT as usize, "{held}");
            taken.extend(some);
        }
    }
    taken.extend(log(&mut store, &mut writer));
    let offset = |change: &Change| match change {
        Change::Write { offset, .. } => Some(*offset),
        _ => None,
    };
    let offsets: Vec<u64> = taken.iter().filter_map(|captured| offset(&captured.change)).collect();
    assert_eq!(offsets, (32..200).map(|seq| seq * 1_000).collect::<Vec<_>>(), "each once, in order");
    // A large one is taken whole once it was begun.
    let large = vec![3; 3 << 20];
    take(&mut feed, 200, 31, Op::Write { offset: 0, bytes: &large[..1 << 20] }).expect("there is room");
    assert!(feed.is_full());
}

/// A file system says once that it has lost something: no later flush vouches for what came before.
#[test]
fn a_flush_that_failed_once_is_not_believed_the_second_time() {
    let place = place("flush");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let at = Entry { dir: FileId::ROOT, name: b"a".to_vec() };
    append(&mut store, writer.write(Change::Create { file: FileId(5), at, mode: 0o600 }));
    apply(&mut store, writer.history.end);
    let before = store.status().checkpoint;
    let check = Work::Checkpoint { op: OpId(1), at: writer.history.end };
    store.fail_at(Some(Fail::Flush));
    refused(&mut store, &check);
    store.fail_at(None);
    for _ in 0..2 {
        let told = refused(&mut store, &check);
        assert!(told.contains("restart the daemon"), "{told}");
        // Programs would write over what may be lost.
        refused(&mut store, &Work::Open { op: OpId(2), era: Epoch(9 << 20) });
    }
    let status = store.status();
    assert_eq!((status.checkpoint, status.open), (before, None));
    drop(store);
    // A start makes it again.
    std::fs::remove_file(place.0.join("root/a")).expect("it is there");
    let mut store = open(&place.0);
    store.found().expect("it is found");
    apply(&mut store, writer.history.end);
    assert!(place.0.join("root/a").exists() && store.status().checkpoint == writer.history.end);
    // What programs wrote is made again by nobody.
    done(&mut store, &Work::Open { op: OpId(2), era: Epoch(9 << 20) });
    store.fail_at(Some(Fail::Flush));
    assert_eq!(close(&mut store), []);
    assert_eq!(store.open_era(), Some(Epoch(9 << 20)));
    drop(store);
    let mut store = open(&place.0);
    assert!(store.found().expect("it is found").torn);
}

/// What programs did cannot be taken to its end, or its thread has ended before somebody else's record: the copy can be closed all the same,
/// and the first is told.
#[test]
fn a_copy_whose_last_changes_cannot_be_taken_is_closed() {
    for lost in [true, false] {
        let place = place(if lost { "lose" } else { "stop" });
        let mut writer = Writer::new();
        let mut store = open(&place.0);
        begin(&mut store, &mut writer);
        done(&mut store, &Work::Open { op: OpId(1), era: Epoch(9 << 20) });
        std::fs::write(place.0.join("root/a"), "a").expect("a file");
        let path = ring(&place.0);
        let mut feed = store.feed(&path, Box::new(|| {})).unwrap_or_else(|error| panic!("{error}"));
        let capture = Capture::at(&path).expect("a ring");
        let mut drainer = Drainer::open(&path).expect("nobody drains it");
        while drainer.drain(&mut feed).expect("it takes all") != Drained::Idle {}
        let listed = store.happened();
        let captured = listed.iter().find_map(|what| match what {
            Happening::Captured(captured) => captured.last().map(|last| last.number),
            _ => None,
        });
        if let Some(captured) = captured {
            let records = writer.write(Change::Barrier { file: FileId::ROOT });
            done(&mut store, &Work::Append { op: OpId(2), staged: false, records, captured });
        }
        // A record that is never handed over.
        let file = std::fs::File::open(place.0.join("root/a")).expect("it is there");
        let Class::File(bound) = capture.classify(file.as_raw_fd()) else { panic!("it belongs to the group") };
        capture.mark(Target::File(bound)).expect("its place is its own");
        assert_eq!(store.perform(&Work::Close { op: OpId(77) }), None);
        assert_eq!(store.happened(), [], "it waits for the record: {:?}", capture.status());
        if lost {
            store.lose("the ring cannot be read");
        } else {
            store.stop_feed();
        }
        let mut told = store.happened();
        assert_eq!(told.pop(), Some(Happening::Done { op: OpId(77), answer: Answer::Done }));
        assert_eq!(told.contains(&Happening::Missed), lost, "{told:?}");
        assert_eq!((store.open_era(), store.status().torn), (None, lost));
    }
}
