//! What the consumer gets is what was done: every tree that a program saw, and no other, in order.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::model::{Model, hash};
use crate::world::{Way, World, ended, more, root, snapshot};

const PATTERNS: &[&str] = &["*.db", "*.db-wal", "!skip.db"];
/// Names that are used: in the group, outside, in folders.
const NAMES: [&str; 10] =
    ["a.db", "b.db", "c.db-wal", "skip.db", "x.tmp", "y.tmp", "d/a.db", "d/y.tmp", "e/b.db", "e/s.db"];
const STEPS: u64 = 400;
/// Calls that may come as several operations.
const PARTS: [&str; 4] = ["write", "append", "store", "link what"];

/// Draws.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
    fn name(&mut self, root: &Path) -> PathBuf {
        root.join(NAMES[self.below(NAMES.len() as u64) as usize])
    }
    fn bytes(&mut self) -> Vec<u8> {
        let len = self.below(9000) + 1;
        let byte = self.below(255) as u8 + 1;
        vec![byte; len as usize]
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zeros")
}

/// In a role: does what the seed says, and tells the tree after each call.
pub(crate) fn random() {
    let root = root();
    let patterns = std::env::var("APUS_PATTERNS").expect("it is said");
    let patterns: Vec<&str> = patterns.split(' ').collect();
    let mut draw = Draw(more()[0].parse().expect("a seed"));
    let mut last = hash(&snapshot(&root, &patterns));
    println!("{last} begin");
    for folder in ["d", "e"] {
        std::fs::create_dir(root.join(folder)).expect("a folder");
        last = hash(&snapshot(&root, &patterns));
        println!("{last} mkdir");
    }
    // Files that stay open across changes of their names; those outside the group are read alone.
    let mut kept: Vec<File> = Vec::new();
    for _ in 0..STEPS {
        let path = draw.name(&root);
        let what = step(&mut draw, &root, &path, &mut kept);
        let now = hash(&snapshot(&root, &patterns));
        if now != last {
            println!("{now} {what} {}", path.display());
            last = now;
        }
    }
}

/// One call that changes something, or none.
fn step(draw: &mut Draw, root: &Path, path: &Path, kept: &mut Vec<File>) -> &'static str {
    let other = draw.name(root);
    let written = || OpenOptions::new().read(true).write(true).open(path).ok();
    match draw.below(25) {
        0 | 1 => {
            let mode = [0o600, 0o644, 0o755][draw.below(3) as usize];
            drop(OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(path));
            "create"
        }
        2..=4 => {
            let (at, bytes) = (draw.below(20_000), draw.bytes());
            written().map(|file| file.write_all_at(&bytes, at));
            "write"
        }
        5 => {
            let file = OpenOptions::new().append(true).open(path).ok();
            file.map(|mut file| std::io::Write::write(&mut file, &draw.bytes()));
            "append"
        }
        6 => {
            written().map(|file| file.set_len(draw.below(15_000)));
            "truncate"
        }
        7 => {
            drop(OpenOptions::new().write(true).truncate(true).open(path));
            "cut at opening"
        }
        8 | 9 => {
            let how = [
                0,
                libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_ZERO_RANGE,
                libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            ][draw.below(5) as usize];
            // SAFETY: no memory is passed.
            written().map(|file| unsafe {
                libc::fallocate(file.as_raw_fd(), how, draw.below(9000) as i64, draw.below(9000) as i64 + 1)
            });
            "fallocate"
        }
        10..=12 => {
            let _ = std::fs::rename(path, &other);
            "rename"
        }
        13 => {
            let (a, b) = (c(path), c(&other));
            let how = [libc::RENAME_EXCHANGE, libc::RENAME_NOREPLACE][draw.below(2) as usize];
            // SAFETY: both names end with a zero.
            unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), how) };
            "renameat2"
        }
        14 => {
            let _ = std::fs::hard_link(path, &other);
            "link"
        }
        15 => {
            let _ = std::fs::remove_file(path);
            "unlink"
        }
        16 => {
            let _ = std::os::unix::fs::symlink("somewhere", path);
            "symlink"
        }
        17 => {
            let _ = std::fs::rename(root.join("e"), root.join("d/f"));
            if draw.below(2) == 0 {
                return "move a folder";
            }
            "none"
        }
        18 => {
            let _ = std::fs::rename(root.join("d/f"), root.join("e"));
            "move a folder back"
        }
        19 => {
            let mode = [0o600, 0o640, 0o755][draw.below(3) as usize];
            if path.symlink_metadata().is_ok_and(|there| there.is_file()) {
                let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
            }
            "chmod"
        }
        20 => {
            if let (Ok(from), Some(to)) = (File::open(&other), written()) {
                let (mut at, mut place) = (draw.below(3000) as i64, draw.below(9000) as i64);
                let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
                // SAFETY: both places are there.
                unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut place, 5000, 0) };
            }
            "copy"
        }
        21 => {
            let open = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(root);
            if let Ok(file) = open {
                file.write_all_at(&draw.bytes(), 0).expect("it has room");
                let (from, to) = (c(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))), c(path));
                let how = libc::AT_SYMLINK_FOLLOW;
                // SAFETY: both names end with a zero.
                unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), how) };
                kept.push(file);
            }
            "link what had no name"
        }
        22 => {
            map(draw, path);
            "store"
        }
        23 => {
            // What was opened outside the group is written behind the daemon's back, which is another test.
            if path.extension().is_some_and(|end| end != "tmp") && !path.ends_with("skip.db") {
                kept.extend(written());
            }
            if kept.len() > 4 {
                kept.remove(0);
            }
            "keep open"
        }
        _ => {
            let at = draw.below(9000);
            if let Some(file) = kept.last() {
                let _ = file.write_all_at(&draw.bytes(), at);
            }
            "write to what is open"
        }
    }
}

/// A store through a shared mapping, brought to the file.
fn map(draw: &mut Draw, path: &Path) {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return };
    let len = file.metadata().map_or(0, |found| found.len()) as usize;
    if len == 0 {
        return;
    }
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: a new mapping anywhere.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: mapped as long as is said, and nobody cuts the file meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), len) };
    let (at, byte) = (draw.below(len as u64) as usize, draw.below(255) as u8);
    bytes[at..(at + 100).min(len)].fill(byte);
    // SAFETY: it was mapped just now.
    assert_eq!(unsafe { libc::msync(start, len, libc::MS_SYNC) }, 0);
    // SAFETY: nothing refers to it any more.
    unsafe { libc::munmap(start, len) };
}

/// For each seed: the list of trees that a program saw after its calls is the list of those that the consumer showed.
pub(crate) fn the_history_is_what_programs_saw(way: Way) {
    let seeds = std::env::var("APUS_SEEDS").map_or(0..6, |text| {
        let first: u64 = text.parse().expect("a seed");
        first..first + 1
    });
    for seed in seeds {
        let mut world = World::bare(way, PATTERNS);
        let model = Model::default();
        let seen = model.seen();
        world.mount(world.options(), Box::new(model));
        world.settle();
        let told = world.run("random", &[&seed.to_string()]);
        world.settle();
        let tree = snapshot(&world.mounted().backing(), PATTERNS);
        let status = world.mounted().status();
        assert_eq!(status.lost, 1, "seed {seed}: the order was lost:\n{status}");
        let saw: Vec<(u64, &str)> = told
            .lines()
            .map(|line| line.split_once(' ').expect("a number"))
            .map(|(number, what)| (number.parse().expect("a number"), what))
            .collect();
        let seen = seen.lock().expect("no thread ends with it");
        let mut next = 0;
        for (number, what) in &saw {
            // The kernel cuts a write where a page begins that it does not hold whole: trees in between are ones that a reader beside it
            // could see.
            let parts = if PARTS.iter().any(|part| what.starts_with(part)) { 8 } else { 1 };
            let found = seen.trees.iter().skip(next).take(parts).position(|tree| tree == number);
            let Some(found) = found else {
                let before: Vec<&str> = saw.iter().take_while(|(at, _)| at != number).map(|(_, what)| *what).collect();
                let (before, after) = (before.join("\n"), seen.logged(next));
                panic!(
                    "seed {seed}: the tree after `{what}` is another one, after:\n{before}\nthe operations:\n{after}"
                )
            };
            next += found + 1;
        }
        assert_eq!(next, seen.trees.len(), "seed {seed}: trees were shown that no program saw");
        assert!(saw.len() > 60, "seed {seed}: little was done");
        assert_eq!(seen.trees.last(), Some(&hash(&tree)), "seed {seed}: the copy is not the tree");
        drop(seen);
        world.end();
    }
}

const THREADS: u64 = 4;
const WRITES: u64 = 500;

/// In a role: threads write to the same files, and tell when each call began and returned, by one clock.
pub(crate) fn threads() {
    let root = root();
    let clock = AtomicU64::new(1);
    let files: Vec<File> = ["a.db", "b.db"].iter().map(|name| File::create(root.join(name)).expect("a file")).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (clock, files) = (&clock, &files);
            scope.spawn(move || {
                let mut draw = Draw(thread);
                let mut told = String::new();
                for number in 0..WRITES {
                    let id = (thread << 32 | number) + 1;
                    let mut bytes = vec![thread as u8; 300];
                    bytes[..8].copy_from_slice(&id.to_ne_bytes());
                    let began = clock.fetch_add(1, SeqCst);
                    files[draw.below(2) as usize].write_all_at(&bytes, draw.below(3000)).expect("it has room");
                    let returned = clock.fetch_add(1, SeqCst);
                    told += &format!("{id} {began} {returned}\n");
                }
                print!("{told}");
            });
        }
    });
}

/// If A returned before B was called, A comes first; and all of them at once make the same file.
pub(crate) fn threads_keep_their_order(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let model = Model::default();
    let seen = model.seen();
    world.mount(world.options(), Box::new(model));
    let told = world.run("threads", &[]);
    world.settle();
    let tree = snapshot(&world.mounted().backing(), PATTERNS);
    let seen = seen.lock().expect("no thread ends with it");
    let calls: std::collections::BTreeMap<u64, (u64, u64)> = told
        .lines()
        .map(|line| line.split(' ').map(|number| number.parse().expect("a number")).collect::<Vec<u64>>())
        .map(|numbers| (numbers[0], (numbers[1], numbers[2])))
        .collect();
    assert_eq!(calls.len() as u64, THREADS * WRITES);
    assert_eq!(seen.writes.len(), calls.len(), "each write is handed over once");
    let mut latest = 0;
    for id in &seen.writes {
        let (began, returned) = calls[id];
        assert!(returned > latest, "a write that returned before another began comes after it");
        latest = latest.max(began);
    }
    assert_eq!(seen.trees.last(), Some(&hash(&tree)), "the copy is not the tree");
    drop(seen);
    world.end();
}

/// Faults that are planted in the daemon are seen by these tests.
pub(crate) fn planted_faults_are_caught(way: Way) {
    if !cfg!(debug_assertions) {
        println!("planted_faults_are_caught: SKIPPED: debug builds alone have them");
        return;
    }
    // What each does wrong, the test that sees it, and its words.
    let plants = [
        ("late", "threads_keep_their_order", "comes after it"),
        ("bare", "the_history_is_what_programs_saw", "is another one"),
    ];
    for (bug, test, says) in plants {
        let mut command = std::process::Command::new(std::env::current_exe().expect("we run"));
        command.arg(test).env("APUS_FUSE_BUG", bug);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = ended(command.spawn().expect("it starts"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(says), "{bug} is not caught over {way:?}: {text}");
    }
}
