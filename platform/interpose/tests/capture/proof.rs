//! The copy before overwriting: programs overwrite in a tight loop while the drainer lags, and its history is compared with theirs.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::world::{Draw, What, World, finish, setting};

const OPERATIONS: u64 = 6000;
const SPAN: u64 = 48 * 1024;

/// Role: one thread, one file at a time, all kinds of operations. Tells what it did. A file that has lost its name is closed at once.
pub(crate) fn overwrite() {
    let mut draw = Draw(setting("APUS_SEED"));
    let mut history = String::new();
    let mut name = "a.db";
    let open = |name: &str, trunc: bool| {
        OpenOptions::new().read(true).write(true).create(true).truncate(trunc).open(name).expect("a file")
    };
    let mut file = open(name, false);
    let mut size = 0u64;
    let _ = writeln!(history, "create {name}");
    for number in 0..setting("APUS_OPERATIONS") {
        let offset = draw.below(SPAN);
        let len = draw.below(5000) + 1;
        match draw.below(100) {
            0..70 => {
                file.write_all_at(&Draw::bytes(number, len as usize), offset).expect("written");
                let _ = writeln!(history, "write {offset} {len} {number}");
                size = size.max(offset + len);
            }
            70..80 => {
                let appending = OpenOptions::new().append(true).open(name).expect("a file");
                (&appending).write_all(&Draw::bytes(number, len as usize)).expect("written");
                let _ = writeln!(history, "write {size} {len} {number}");
                size += len;
            }
            80..88 => {
                let to = draw.below(SPAN);
                file.set_len(to).expect("cut");
                let _ = writeln!(history, "truncate {to}");
                size = to;
            }
            88..92 => {
                let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: no memory is passed.
                let done = unsafe { libc::fallocate(file.as_raw_fd(), how, offset as i64, len as i64) };
                assert_eq!(done, 0, "punched");
                let _ = writeln!(history, "zero {offset} {len}");
            }
            92..95 => {
                file = open(name, true);
                let _ = writeln!(history, "truncate 0");
                size = 0;
            }
            95..98 => {
                let to = if name == "a.db" { "b.db" } else { "a.db" };
                std::fs::rename(name, to).expect("renamed");
                let _ = writeln!(history, "rename {name} {to}");
                name = to;
            }
            _ => {
                std::fs::remove_file(name).expect("removed");
                let _ = writeln!(history, "unlink {name}");
                file = open(name, false);
                let _ = writeln!(history, "create {name}");
                size = 0;
            }
        }
        if size > 4 * SPAN {
            file.set_len(0).expect("cut");
            let _ = writeln!(history, "truncate 0");
            size = 0;
        }
    }
    let place = std::path::PathBuf::from(std::env::var_os("APUS_HISTORY").expect("a place"));
    std::fs::write(place.with_extension("new"), history).expect("told");
    std::fs::rename(place.with_extension("new"), place).expect("told");
}

/// What differs between the two histories.
fn compare_single(seed: u64, bug: Option<&str>, pause: u64) -> Result<u64, String> {
    let mut world = World::new(&["*.db"], |group| group.ring_bytes = 1 << 20);
    world.drain(pause);
    let start = world.history.lock().expect("kept").len();
    let mut role =
        world.role("overwrite", &[("APUS_SEED", seed.to_string()), ("APUS_OPERATIONS", OPERATIONS.to_string())]);
    if let Some(bug) = bug {
        role.env("APUS_CAPTURE_BUG", bug);
    }
    finish(role.spawn().expect("it runs"));
    world.settle();
    world.stop();
    let told = std::fs::read_to_string(world.dir.join("history")).expect("it told");
    let history = world.history.lock().expect("kept").clone();
    let mut seen = history[start..].iter().filter(|kept| !matches!(kept.what, What::Other(_)));
    let status = world.status();
    if status.lost != 1 {
        return Err(format!("the order was lost: {:?}", status.ever.words()));
    }
    for (at, line) in told.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let wanted = match words[0] {
            "write" => What::Write(number(1), Draw::bytes(number(3), number(2) as usize)),
            "truncate" => What::Truncate(number(1)),
            "zero" => What::Zero(number(1), number(2)),
            "rename" => What::Rename(words[1].into(), words[2].into()),
            "unlink" => What::Unlink(words[1].into()),
            _ => What::Create(words[1].into()),
        };
        let got = seen.next().ok_or_else(|| format!("operation {at} ({line}) is missing"))?;
        if got.what != wanted {
            let first = match (&got.what, &wanted) {
                (What::Write(_, a), What::Write(_, b)) => a.iter().zip(b).position(|(a, b)| a != b),
                _ => None,
            };
            return Err(format!("operation {at} ({line}) came as {}, first other byte {first:?}", short(&got.what)));
        }
        if !got.publish {
            return Err(format!("operation {at} ({line}) came as one that may not be shown"));
        }
    }
    if let Some(more) = seen.next() {
        return Err(format!("{} was never done", short(&more.what)));
    }
    world.assert_same();
    Ok(status.copied)
}

fn short(what: &What) -> String {
    match what {
        What::Write(offset, bytes) => format!("write {offset} {}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// One thread: the histories are equal, whether the drainer lags or not; while it lags, bytes are copied before they are overwritten.
pub(crate) fn overwrites_are_shipped_as_they_were() {
    for (seed, pause) in [(1, 0), (2, 7), (3, 40)] {
        let copied = compare_single(seed, None, pause).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!(
            "  {OPERATIONS} operations, drainer waits after {pause}: equal; {copied} bytes copied before they were overwritten"
        );
        assert!(pause == 0 || copied > 0, "nothing was overwritten before it was read: the test shows nothing");
    }
}

/// One of the seeds must show the fault, by one of its signs: whatever else goes wrong shows nothing.
fn caught(compare: impl Fn(u64) -> Option<String>, seeds: u64, signs: &[&str]) {
    let mut others = Vec::new();
    for why in (1..=seeds).filter_map(compare) {
        if signs.iter().any(|sign| why.contains(sign)) {
            println!("  caught: {why}");
            return;
        }
        others.push(why);
    }
    panic!("no seed of {seeds} showed it, the comparison is blind; what it told instead: {others:?}");
}

/// The same with the copy left out must differ.
pub(crate) fn a_capture_without_copies_is_caught() {
    caught(
        |seed| compare_single(seed, Some("no-copy"), 7).err(),
        5,
        &["first other byte Some", "file not as recorded"],
    );
}

const THREADS: u64 = 4;
const SHARED: u64 = 64 * 1024;
/// Operations of each thread, and after how many it waits for its turn.
const EACH: u64 = 2500;
const TURN_EVERY: u64 = 100;

/// Role: threads overwrite one file and each one of its own, and pass a token around. Every eight bytes say who wrote them when.
pub(crate) fn threads() {
    let seed = setting("APUS_SEED");
    let count = setting("APUS_OPERATIONS");
    let all = Mutex::new(String::new());
    let turn = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (all, turn) = (&all, &turn);
            scope.spawn(move || {
                let mut draw = Draw(seed ^ thread << 32);
                let mut history = String::new();
                let open = |name: &str| {
                    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(name).expect("a file")
                };
                let shared = open("shared.db");
                let own = open(&format!("own-{thread}.db"));
                for number in 0..count {
                    let stamp = (thread << 32 | number) + 1;
                    let write = |file: &File, offset: u64, len: u64| {
                        let bytes: Vec<u8> = stamp.to_le_bytes().iter().copied().cycle().take(len as usize).collect();
                        file.write_all_at(&bytes, offset).expect("written");
                    };
                    if number % TURN_EVERY == TURN_EVERY / 2 {
                        // Nobody begins before the one before has returned.
                        while turn.load(SeqCst) % THREADS != thread {
                            std::thread::yield_now();
                        }
                        write(&own, 1 << 20, 8);
                        let at = turn.load(SeqCst);
                        let _ = writeln!(history, "{stamp} {} 8 turn-{at}", 1 << 20);
                        turn.store(at + 1, SeqCst);
                        continue;
                    }
                    let (offset, len) = (draw.below(SHARED / 8) * 8, (draw.below(600) + 1) * 8);
                    match draw.below(20) {
                        0 if thread == 0 => {
                            shared.set_len(draw.below(SHARED)).expect("cut");
                            continue;
                        }
                        0..16 => {
                            write(&shared, offset, len);
                            let _ = writeln!(history, "{stamp} {offset} {len} shared");
                        }
                        _ => {
                            write(&own, offset, len);
                            let _ = writeln!(history, "{stamp} {offset} {len} own");
                        }
                    }
                }
                all.lock().expect("told").push_str(&history);
            });
        }
    });
    std::fs::write(std::env::var_os("APUS_HISTORY").expect("a place"), all.into_inner().expect("told")).expect("told");
}

fn compare_threads(seed: u64, bug: Option<&str>, pause: u64) -> Result<(usize, u64), String> {
    let mut world = World::new(&["*.db"], |group| group.ring_bytes = 4 << 20);
    world.drain(pause);
    let mut role = world.role("threads", &[("APUS_SEED", seed.to_string()), ("APUS_OPERATIONS", EACH.to_string())]);
    if let Some(bug) = bug {
        role.env("APUS_CAPTURE_BUG", bug);
    }
    finish(role.spawn().expect("it runs"));
    world.settle();
    world.stop();
    if world.status().lost != 1 {
        return Err(format!("the order was lost: {:?}", world.status().ever.words()));
    }
    let told = std::fs::read_to_string(world.dir.join("history")).expect("it told");
    let mut wanted = std::collections::BTreeMap::new();
    for line in told.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        wanted.insert(number(0), (number(1), number(2), words[3].to_string()));
    }
    let count = wanted.len();
    let (mut last, mut turns) = ([0u64; THREADS as usize], 0u64);
    for kept in world.history.lock().expect("kept").iter() {
        let What::Write(offset, bytes) = &kept.what else { continue };
        let stamp = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if let Some(at) = bytes.chunks(8).position(|chunk| chunk != stamp.to_le_bytes()) {
            return Err(format!(
                "a write of {} bytes at {offset} holds another one's bytes from {} on",
                bytes.len(),
                at * 8
            ));
        }
        let Some((at, len, kind)) = wanted.remove(&stamp) else {
            return Err(format!("{stamp:#x} came twice, or was never written"));
        };
        if (*offset, bytes.len() as u64) != (at, len) {
            return Err(format!(
                "{stamp:#x} was written at {at}, {len} bytes, and came at {offset}, {} bytes",
                bytes.len()
            ));
        }
        let thread = ((stamp - 1) >> 32) as usize;
        if stamp <= last[thread] {
            return Err(format!("{stamp:#x} came after {:#x} of the same thread", last[thread]));
        }
        last[thread] = stamp;
        if let Some(turn) = kind.strip_prefix("turn-") {
            if turn != turns.to_string() {
                return Err(format!("turn {turn} came where {turns} was due: it had returned before this one began"));
            }
            turns += 1;
        }
    }
    if let Some((stamp, _)) = wanted.first_key_value() {
        return Err(format!("{stamp:#x} is missing, with {} more", wanted.len() - 1));
    }
    let (own, copy) = (crate::world::tree(&world.root), crate::world::tree(&world.copy));
    if let Some(name) = own.keys().find(|name| own.get(*name) != copy.get(*name)) {
        return Err(format!("{name} differs in the end: the order of its writes was another one"));
    }
    Ok((count, turns))
}

/// Threads: each write comes whole, once, in its thread's order; what had returned before another began comes before it; the copy is
/// the tree.
pub(crate) fn threads_keep_their_order() {
    for (seed, pause) in [(1, 0), (2, 11), (3, 50)] {
        let (writes, turns) = compare_threads(seed, None, pause).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("  {writes} writes of {THREADS} threads, {turns} handed on, drainer waits after {pause}: equal");
        assert_eq!(turns, THREADS * EACH / TURN_EVERY, "turns were taken that did not come");
    }
}

/// The same with numbers taken after the call must differ.
pub(crate) fn a_late_sequence_is_caught() {
    let signs = [
        "holds another one's bytes",
        "the order of its writes was another one",
        "had returned before",
        "came after",
        "file not as recorded",
    ];
    caught(|seed| compare_threads(seed, Some("late-sequence"), 7).err(), 10, &signs);
}
