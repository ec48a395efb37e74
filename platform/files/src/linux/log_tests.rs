//! The log, cut and damaged at every place.

use std::path::{Path, PathBuf};

use apus_engine::shipping::{Base, Change, EraStart, Head, History, Record};
use apus_engine::{Epoch, FileId, GroupId, Lsn};

use super::*;

const GROUP: GroupId = GroupId(3);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder(name: &str) -> Folder {
    let top = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let path = top.join(format!("apus-log-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    Folder(path)
}

/// So many records behind `history`.
fn records(history: &mut History, many: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..many {
        let lsn = history.end.next();
        let change = Change::Write { file: FileId(9), offset: lsn.0, bytes: vec![lsn.0 as u8; bytes] };
        let (bytes, _) = Record { group: GROUP, era: Epoch(5), lsn, prev: history.check, change }.encode();
        history.push(&Head::read(&bytes).expect("it is whole"));
        out.extend(bytes);
    }
    out
}

fn seat(captured: u64) -> Option<Seat> {
    Some(Seat { captured, ring: 1, seq: captured * 2, part: 1 })
}

/// Batches of records, and the log's end and file's end after each.
fn written(folder: &Path, batches: u64) -> (PathBuf, Vec<(Lsn, u64)>) {
    let mut log = Log::create(&folder.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let mut ends = vec![(Lsn(0), FRONT)];
    for batch in 1..=batches {
        let bytes = records(&mut history, 1 + batch % 3, 20);
        log.append(&[Batch { records: &bytes, seat: seat(history.end.0) }]).expect("room");
        ends.push((history.end, log.segments.back().expect("one").end));
    }
    (log.segments.back().expect("one").path.clone(), ends)
}

fn open(folder: &Path) -> Result<Log, Damage> {
    Log::open(&folder.join("log"), GROUP, 64 << 10).expect("it can be read")
}

/// Whatever part of the last batch a crash has left: those before it are there, the last one whole or not at all, and the log goes on.
#[test]
fn a_log_that_is_cut_at_any_byte_of_its_tail_is_whole() {
    let place = folder("cut");
    let (path, ends) = written(&place.0, 5);
    let bytes = std::fs::read(&path).expect("a segment");
    let (before, last) = (ends[4], ends[5]);
    for cut in before.1..=last.1 {
        // What was not written is zeros, as the room was taken before; nobody had been told of the last batch, so there is no seal.
        let mut torn = bytes.clone();
        torn[cut as usize..].fill(0);
        std::fs::write(&path, &torn).expect("a segment");
        let mut log = open(&place.0).unwrap_or_else(|damage| panic!("cut at {cut}: {damage}"));
        let end = if cut >= last.1 - 7 && log.history().end == last.0 { last } else { before };
        assert_eq!(log.history().end, end.0, "cut at {cut}");
        assert_eq!(log.seat().captured, end.0.0, "cut at {cut}");
        let mut history = log.history().clone();
        let more = records(&mut history, 2, 5);
        log.append(&[Batch { records: &more, seat: None }]).expect("room");
        drop(log);
        let log = open(&place.0).expect("it is whole");
        assert_eq!(log.history().end, history.end, "cut at {cut}, gone on");
        assert_eq!(log.read(Lsn(1), usize::MAX).expect("they are there").len() as u64, log.bytes());
    }
}

/// Sectors of batches that were on their way come to the disk in any order: what was acknowledged is there, and nothing else is asked for.
#[test]
fn batches_that_were_on_their_way_may_have_come_in_part() {
    let place = folder("order");
    let mut log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let first = records(&mut history, 3, 700);
    log.append(&[Batch { records: &first, seat: seat(3) }]).expect("room");
    let kept = history.end;
    let (path, from) = log.segments.back().map(|last| (last.path.clone(), last.end)).expect("one");
    let durable = std::fs::read(&path).expect("a segment");
    let group: Vec<Vec<u8>> = (0..4).map(|_| records(&mut history, 1, 700)).collect();
    let batches: Vec<Batch<'_>> = group.iter().map(|records| Batch { records, seat: None }).collect();
    log.append(&batches).expect("room");
    let end = log.segments.back().expect("one").end;
    drop(log);
    let all = std::fs::read(&path).expect("a segment");
    let sectors: Vec<usize> = (from as usize / 512..=(end as usize - 1) / 512).collect();
    for mask in 0..1u32 << sectors.len() {
        let mut part = durable.clone();
        for (nth, sector) in sectors.iter().enumerate().filter(|(nth, _)| mask >> nth & 1 == 1) {
            let _ = nth;
            let (from, to) = (sector * 512, (sector * 512 + 512).min(end as usize));
            part[from..to].copy_from_slice(&all[from..to]);
        }
        std::fs::write(&path, &part).expect("a segment");
        let log = open(&place.0).unwrap_or_else(|damage| panic!("{mask:b}: {damage}"));
        assert!(log.history().end >= kept, "{mask:b}: what was acknowledged is gone");
        let read = log.read(kept.next(), usize::MAX).expect("it can be read");
        assert_eq!(read, group.concat()[..read.len()], "{mask:b}");
    }
}

/// A bit that turns in what is durable is told, with file and place, and never taken for a torn tail.
#[test]
fn any_flipped_bit_is_told_with_its_place() {
    let place = folder("flip");
    let (path, ends) = written(&place.0, 4);
    let bytes = std::fs::read(&path).expect("a segment");
    let end = ends[4];
    let front = bytes[..FRONT as usize].iter().rposition(|byte| *byte != 0).expect("it says something");
    let used = (0..=front).chain(FRONT as usize..end.1 as usize);
    for at in used {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&path, &damaged).expect("a segment");
            let damage = match open(&place.0) {
                Err(damage) => damage,
                Ok(log) => panic!("bit {bit} of byte {at} is not seen: {:?}", log.history()),
            };
            let near = if at < FRONT as usize {
                0
            } else {
                ends.iter().rev().find(|(_, from)| *from <= at as u64).expect("one").1
            };
            assert!(damage.path == path && damage.offset >= near && damage.offset <= at as u64, "byte {at}: {damage}");
        }
    }
    // The seal, and what is behind it, says nothing that is needed.
    for at in end.1 as usize..end.1 as usize + FRAME {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).expect("a segment");
        assert_eq!(open(&place.0).expect("all is there").history().end, end.0);
    }
}

#[test]
fn a_log_of_many_segments_is_read_trimmed_and_found_again() {
    let place = folder("segments");
    let mut log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let mut all = Vec::new();
    for _ in 0..60 {
        let bytes = records(&mut history, 9, 1000);
        all.push(bytes.clone());
        log.append(&[Batch { records: &bytes, seat: seat(history.end.0) }]).expect("room");
    }
    assert!(log.segments.len() > 5);
    let all = all.concat();
    let size = all.len() / history.end.0 as usize;
    for from in 1..=history.end.0 {
        let bytes = log.read(Lsn(from), 3000).expect("it can be read");
        let start = (from as usize - 1) * size;
        assert_eq!(bytes, all[start..(start + 3000 / size * size).min(all.len())], "from {from}");
    }
    assert!(log.read(history.end.next(), 10).expect("none").is_empty());
    log.trim(Lsn(300)).expect("it goes");
    let base = log.history().base;
    assert!(base > Lsn(200) && base <= Lsn(300), "{base}");
    assert!(log.read(base, 10).expect("gone").is_empty());
    assert!(!log.read(base.next(), 10).expect("there").is_empty());
    let before = log.history().clone();
    drop(log);
    let log = open(&place.0).expect("it is whole");
    assert_eq!(log.history(), &before);
    assert_eq!(log.base().lsn, base);
    assert_eq!(log.seat(), seat(history.end.0).expect("one"));
    // A segment that is gone, or another's, is told.
    let middle = log.segments[2].path.clone();
    drop(log);
    let bytes = std::fs::read(&middle).expect("a segment");
    std::fs::remove_file(&middle).expect("ours");
    let damage = open(&place.0).expect_err("a hole");
    assert!(damage.why.contains("are missing"), "{damage}");
    std::fs::write(&middle, &bytes).expect("a segment");
    assert!(open(&place.0).is_ok());
    let other =
        Log::open(&place.0.join("log"), GroupId(4), 64 << 10).expect("it can be read").expect_err("another group's");
    assert!(other.why.contains("not of"), "{other}");
}

/// After a write that failed nothing of it is found, and the log goes on in a new segment.
#[test]
fn what_failed_is_not_found() {
    let place = folder("failed");
    let mut log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let bytes = records(&mut history, 2, 100);
    log.append(&[Batch { records: &bytes, seat: None }]).expect("room");
    let kept = history.clone();
    let lost = records(&mut history, 2, 100);
    let path = log.segments.back().expect("one").path.clone();
    // A file that cannot be written: as an error of the disk.
    let whole = std::mem::replace(&mut log.segments.back_mut().expect("one").file, File::open(&path).expect("a file"));
    assert!(log.append(&[Batch { records: &lost, seat: None }]).is_err());
    log.segments.back_mut().expect("one").file = whole;
    // As much of it as can be has come to the disk all the same.
    let at = log.segments.back().expect("one").end;
    let frame = Frame {
        seal: false,
        bytes: lost.len() as u32,
        first: kept.end.next(),
        prev: kept.check,
        seat: Seat::default(),
        synced: kept.end,
        segment: 1,
        mark: log.segments.back().expect("one").mark,
    };
    write_at(&log.segments.back().expect("one").file, &[&frame.encode()[..], &lost].concat(), at).expect("room");
    let mut history = kept.clone();
    let other = records(&mut history, 1, 300);
    log.append(&[Batch { records: &other, seat: None }]).expect("room");
    assert_eq!(log.segments.len(), 2);
    drop(log);
    let log = open(&place.0).expect("it is whole");
    assert_eq!(log.history().end, kept.end.next());
    assert_eq!(log.read(kept.end.next(), usize::MAX).expect("there"), other);
    assert_eq!(log.bytes(), (bytes.len() + other.len()) as u64);
    // Records that do not follow are refused, whoever brings them.
    let mut log = log;
    assert!(log.append(&[Batch { records: &other, seat: None }]).is_err());
    assert!(log.append(&[Batch { records: b"nonsense", seat: None }]).is_err());
}

/// A program writes what a batch's header looks like, and the machine fails in the middle of that: it is a torn tail like any other.
#[test]
fn content_that_looks_like_a_header_is_no_damage() {
    let place = folder("looks");
    let log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let mut log = log;
    log.append(&[Batch { records: &records(&mut history, 2, 100), seat: None }]).expect("room");
    let (path, end) = log.segments.back().map(|last| (last.path.clone(), last.end)).expect("one");
    let kept = history.end;
    let header = Frame {
        seal: true,
        bytes: 0,
        first: Lsn(99),
        prev: 0,
        seat: Seat::default(),
        synced: Lsn(98),
        segment: 1,
        mark: 0,
    };
    // Wherever in the file such bytes come to lie.
    let content: Vec<u8> = (0..8).flat_map(|shift| [&vec![1; shift][..], &header.encode()].concat()).collect();
    let change = Change::Write { file: FileId(9), offset: 0, bytes: content };
    let (bytes, _) = Record { group: GROUP, era: Epoch(5), lsn: kept.next(), prev: history.check, change }.encode();
    log.append(&[Batch { records: &bytes, seat: None }]).expect("room");
    drop(log);
    let mut torn = std::fs::read(&path).expect("a segment");
    let seal = end as usize + FRAME + bytes.len();
    torn[end as usize..end as usize + FRAME].fill(0);
    torn[seal..seal + FRAME].fill(0);
    assert!((0..torn.len() - FRAME).any(|at| Frame::read(&torn[at..]).is_some_and(|frame| frame.synced == Lsn(98))));
    std::fs::write(&path, torn).expect("a segment");
    let log = open(&place.0).unwrap_or_else(|damage| panic!("{damage}"));
    assert_eq!(log.history().end, kept);
}

/// Of batches that need more than one segment those that are durable count, and the others are not found.
#[test]
fn of_batches_in_two_segments_the_first_may_be_durable_alone() {
    let place = folder("two");
    let mut log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    let group: Vec<Vec<u8>> = (0..3).map(|_| records(&mut history, 1, 25 << 10)).collect();
    let batches: Vec<Batch<'_>> = group.iter().map(|records| Batch { records, seat: None }).collect();
    // There is no place for a second segment.
    let folder = std::mem::replace(&mut log.folder, place.0.join("gone"));
    let (good, _) = log.append(&batches).expect_err("no room");
    assert_eq!((good, log.history().end), (2, Lsn(2)));
    log.folder = folder;
    log.append(&batches[good..]).expect("room");
    drop(log);
    assert_eq!(open(&place.0).expect("it is whole").history().end, history.end);
}

/// What a log begins after is kept as it was given, or not taken at all.
#[test]
fn more_eras_than_a_segment_has_room_for_are_refused() {
    let place = folder("eras");
    let eras = |many: u64| {
        let era = |at| EraStart { era: Epoch(u64::MAX - many + at), first: Lsn(u64::MAX / 2 + at), fresh: true };
        Base { lsn: Lsn(u64::MAX / 2 + many), check: 5, eras: (0..many).map(era).collect() }
    };
    let create = |base| Log::create(&place.0.join("log"), GROUP, 64 << 10, base, Seat::default());
    assert_eq!(create(eras(300)).expect_err("too many").kind(), io::ErrorKind::InvalidData);
    drop(create(eras(64)).expect("as many as a history remembers"));
    assert_eq!(open(&place.0).expect("it is whole").base(), eras(64));
}

/// A segment that cannot be removed stays in the log.
#[test]
fn a_trim_that_failed_is_made_again() {
    let place = folder("trim");
    let mut log = Log::create(&place.0.join("log"), GROUP, 64 << 10, Base::default(), Seat::default()).expect("a log");
    let mut history = History::default();
    for _ in 0..4 {
        log.append(&[Batch { records: &records(&mut history, 1, 31 << 10), seat: None }]).expect("room");
    }
    assert_eq!(log.segments.len(), 4);
    let path = std::mem::replace(&mut log.segments[0].path, place.0.join("nowhere"));
    assert!(log.trim(Lsn(3)).is_err());
    assert_eq!((log.segments.len(), log.history().base), (4, Lsn(0)));
    log.segments[0].path = path;
    log.trim(Lsn(3)).expect("it goes");
    assert_eq!(log.history().base, Lsn(3));
    drop(log);
    assert_eq!(open(&place.0).expect("it is whole").history().base, Lsn(3));
}
