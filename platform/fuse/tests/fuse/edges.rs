//! Files outside, full queues, killed daemons, and other edges.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use apus_capture::linux::{Reasons, Replay};
use apus_capture::{Consumer, Listed, Operation};
use apus_fuse::Barrier;

use crate::model::Model;
use crate::world::{Way, World, good, more, root, snapshot, until};

const PATTERNS: &[&str] = &["*.db"];
/// `FUSE_WRITE` and `FUSE_READ`.
const DATA: [u32; 2] = [15, 16];

/// In a role: writes, maps and reads files outside the group.
pub(crate) fn plain() {
    let root = root();
    for number in 0..20 {
        let path = root.join(format!("plain-{number}"));
        std::fs::write(&path, vec![number; 100_000]).expect("it has room");
        assert_eq!(std::fs::read(&path).expect("a file"), vec![number; 100_000]);
        let file = File::options().read(true).write(true).open(&path).expect("a file");
        // SAFETY: a new mapping anywhere.
        let start = unsafe {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: mapped just now, and longer than that.
        unsafe { *start.cast::<u8>() = 77 };
        let mut first = [0];
        file.read_exact_at(&mut first, 0).expect("it is long enough");
        assert_eq!(first, [77], "a store is seen by whoever reads");
        std::fs::rename(&path, root.join(format!("renamed-{number}"))).expect("a new name");
    }
    std::os::unix::fs::symlink("plain-0", root.join("link")).expect("a link");
    std::fs::remove_file(root.join("renamed-3")).expect("it is there");
}

/// Nothing of them is handed over, and their bytes do not pass through the daemon.
pub(crate) fn files_outside_leave_no_trace(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let model = Model::default();
    let seen = model.seen();
    world.mount(world.options(), Box::new(model));
    world.run("plain", &[]);
    world.settle();
    assert!(world.mounted().status().passthrough, "the kernel has it");
    let data: u64 = world.mounted().requests().iter().filter(|(kind, _)| DATA.contains(kind)).map(|(_, n)| n).sum();
    assert_eq!(data, 0, "bytes of files outside the group passed through the daemon");
    let log = seen.lock().expect("no thread ends with it").log.clone();
    assert_eq!(log.len(), 2, "the empty listing and its end: {log:?}");
    let backing = world.mounted().backing();
    assert_eq!(std::fs::read(backing.join("renamed-7")).expect("a file")[..2], [77, 7]);
    assert!(std::fs::symlink_metadata(backing.join("renamed-3")).is_err());
    world.end();
}

/// In a role: a file is opened outside the group, renamed into it, and written meanwhile.
pub(crate) fn late() {
    let root = root();
    let file = File::create(root.join("new.tmp")).expect("a file");
    file.write_all_at(b"before", 0).expect("it has room");
    std::fs::rename(root.join("new.tmp"), root.join("new.db")).expect("a new name");
    file.write_all_at(b"after the renaming", 3).expect("it has room");
    println!("written");
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("a line");
}

pub(crate) fn a_file_that_is_open_while_it_comes_in_is_told(way: Way) {
    let world = World::new(way, PATTERNS);
    let mut command = world.role("late", &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    world.settle();
    assert_eq!(world.mounted().status().untracked, 1, "it is told while it lasts");
    assert_eq!(std::fs::read(world.copy.join("new.db")).expect("it came in"), b"before");
    drop(child.stdin.take());
    assert!(child.wait().expect("it is ours").success());
    until("the end of it", || world.mounted().status().untracked == 0);
    world.equal();
    assert_eq!(std::fs::read(world.copy.join("new.db")).expect("it came in"), b"befafter the renaming");
    world.end();
}

/// A copy that takes nothing while the gate is shut, or refuses.
struct Gated {
    replay: Replay,
    shut: Arc<AtomicBool>,
    refuse: bool,
    refused: Arc<AtomicU64>,
}

impl Consumer for Gated {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        while self.shut.load(SeqCst) {
            if self.refuse {
                self.refused.fetch_add(1, SeqCst);
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.replay.take(operation)
    }

    fn wants(&mut self, listed: &Listed) -> bool {
        self.replay.wants(listed)
    }
}

/// In a role: many writes, new files, removed ones.
pub(crate) fn many() {
    let root = root();
    let count: u32 = more()[0].parse().expect("a number");
    let file = File::create(root.join("big.db")).expect("a file");
    for number in 0..count {
        let byte = number as u8;
        file.write_all_at(&vec![byte; 10_000], u64::from(number) * 7000).expect("it has room");
        let name = root.join(format!("{}.db", number % 5));
        if number % 3 == 0 {
            let _ = std::fs::remove_file(&name);
        } else {
            std::fs::write(&name, vec![byte; 500]).expect("it has room");
        }
    }
    file.set_len(20_000).expect("a shorter file");
}

pub(crate) fn a_full_queue_is_told_and_mended(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let shut = Arc::new(AtomicBool::new(false));
    let replay = Replay::new(&world.copy).expect("a copy");
    let gated = Gated { replay, shut: Arc::clone(&shut), refuse: false, refused: Arc::default() };
    let mut options = world.options();
    (options.queue_bytes, options.stall_ms) = (200_000, 20);
    world.mount(options, Box::new(gated));
    world.settle();
    world.run("many", &["10"]);
    world.equal();
    assert_eq!(world.mounted().status().lost, 1, "the first listing alone");
    shut.store(true, SeqCst);
    world.run("many", &["60"]);
    let status = world.mounted().status();
    assert_eq!(status.reasons.0, Reasons::RING_FULL, "{status}");
    assert_eq!(status.stalls, 1, "one call waits, once");
    assert!(status.waiting <= 210_000, "{status}");
    shut.store(false, SeqCst);
    world.equal();
    assert_eq!(world.mounted().status().lost, 2);
    world.end();
}

pub(crate) fn a_refusing_consumer_gets_it_again(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let (shut, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let replay = Replay::new(&world.copy).expect("a copy");
    let gated = Gated { replay, shut: Arc::clone(&shut), refuse: true, refused: Arc::clone(&refused) };
    world.mount(world.options(), Box::new(gated));
    world.settle();
    shut.store(true, SeqCst);
    world.run("many", &["20"]);
    until("a refusal", || refused.load(SeqCst) > 1);
    let status = world.mounted().status();
    assert!(status.refused.as_ref().is_some_and(|why| why.contains("No space")), "{status}");
    assert!(status.reasons.in_order(), "what waits is not lost");
    shut.store(false, SeqCst);
    world.equal();
    assert_eq!(world.mounted().status().refused, None);
    world.end();
}

/// In a role: another user, without rights.
pub(crate) fn user() {
    let root = root();
    // SAFETY: there are no groups to read.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::setgid(4711) }, 0);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::setuid(4712) }, 0);
    // SAFETY: no memory is passed.
    unsafe { libc::umask(0o027) };
    let refused = File::create(root.join("no.db")).expect_err("the folder is root's");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let open = root.join("open");
    std::fs::write(open.join("mine.db"), b"mine").expect("it may");
    std::fs::create_dir(open.join("folder")).expect("it may");
    let file = File::options().write(true).create_new(true).mode(0o4755).open(open.join("suid.db")).expect("it may");
    assert_eq!(file.metadata().expect("it is open").mode() & 0o7777, 0o4750);
    file.write_all_at(b"x", 0).expect("it has room");
    assert_eq!(file.metadata().expect("it is open").mode() & 0o7777, 0o750, "who writes loses the bit");
    assert!(std::fs::read(open.join("secret.db")).is_err(), "permissions are looked at");
    assert!(std::fs::remove_file(open.join("secret.db")).is_err(), "the folder is sticky");
}

pub(crate) fn files_belong_to_their_makers(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let open = world.root.join("open");
    std::fs::create_dir(&open).expect("a folder");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).expect("it is ours");
    std::fs::write(open.join("secret.db"), b"secret").expect("it has room");
    std::fs::set_permissions(open.join("secret.db"), std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::fs::set_permissions(&world.dir, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let replay = Replay::new(&world.copy).expect("a copy");
    world.mount(world.options(), Box::new(replay));
    // The test itself may lie where others may not look.
    let own = world.dir.join("own");
    std::fs::copy(std::env::current_exe().expect("we run"), &own).expect("it has room");
    let mut command = Command::new(own);
    command.current_dir("/").env("APUS_ROLE", "user").env("APUS_ROOT", &world.root);
    good(command);
    world.equal();
    let tree = snapshot(&world.copy, PATTERNS);
    assert_eq!(tree["open/mine.db"], (libc::S_IFREG | 0o640, 4712, 4711, b"mine".to_vec()));
    assert_eq!(tree["open/folder"].1, 4712);
    assert_eq!(tree["open/suid.db"].0, libc::S_IFREG | 0o750);
    world.end();
}

/// Keeps what `fsync` told, and lets the second one fail.
struct Gate(Arc<Mutex<Vec<Option<u64>>>>);

impl Barrier for Gate {
    fn wait(&self, seq: Option<u64>) -> io::Result<()> {
        let mut told = self.0.lock().expect("no thread ends with it");
        told.push(seq);
        if told.len() == 2 { Err(io::Error::from_raw_os_error(libc::EDQUOT)) } else { Ok(()) }
    }
}

/// In a role: asks for the disk.
pub(crate) fn sync() {
    let file = File::create(root().join("a.db")).expect("a file");
    file.write_all_at(b"one", 0).expect("it has room");
    file.sync_data().expect("the barrier lets it pass");
    file.write_all_at(b"two", 0).expect("it has room");
    let refused = file.sync_all().expect_err("the barrier does not");
    assert_eq!(refused.raw_os_error(), Some(libc::EDQUOT));
    File::open(root()).expect("a folder").sync_all().expect("the barrier lets it pass");
    let other = File::create(root().join("outside")).expect("a file");
    other.sync_all().expect("the barrier lets it pass");
}

pub(crate) fn a_barrier_holds_an_fsync(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let told = Arc::default();
    let mut options = world.options();
    options.barrier = Some(Box::new(Gate(Arc::clone(&told))));
    let replay = Replay::new(&world.copy).expect("a copy");
    world.mount(options, Box::new(replay));
    world.settle();
    world.run("sync", &[]);
    world.equal();
    let told = told.lock().expect("no thread ends with it").clone();
    assert_eq!(told.len(), 4);
    assert!(told[0].is_some() && told[0] < told[1] && told[1] < told[2], "{told:?}");
    assert_eq!(told[3], None, "a file outside the group has no number");
    world.end();
}

/// Holds all until it is opened.
struct Closed(Arc<AtomicBool>, Arc<AtomicU64>);

impl Barrier for Closed {
    fn wait(&self, _: Option<u64>) -> io::Result<()> {
        self.1.fetch_add(1, SeqCst);
        while !self.0.load(SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }
}

const SYNCS: u64 = 20;

/// In a role: many threads ask for the disk, while another goes on.
pub(crate) fn syncs() {
    let root = root();
    std::thread::scope(|scope| {
        for number in 0..SYNCS {
            let file = File::create(root.join(format!("{number}.db"))).expect("a file");
            scope.spawn(move || {
                file.write_all_at(b"x", 0).expect("it has room");
                file.sync_all().expect("the barrier lets it pass");
            });
        }
        let mut line = String::new();
        io::stdin().read_line(&mut line).expect("a line");
        std::fs::write(root.join("other.db"), b"on").expect("it has room");
        assert_eq!(std::fs::read(root.join("other.db")).expect("a file"), b"on");
        println!("on");
    });
}

pub(crate) fn fsyncs_that_wait_hold_up_nobody_else(way: Way) {
    let mut world = World::bare(way, PATTERNS);
    let (open, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut options = world.options();
    options.barrier = Some(Box::new(Closed(Arc::clone(&open), Arc::clone(&waiting))));
    let replay = Replay::new(&world.copy).expect("a copy");
    world.mount(options, Box::new(replay));
    let mut command = world.role("syncs", &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    until("all of them waiting", || waiting.load(SeqCst) == SYNCS);
    writeln!(child.stdin.take().expect("piped")).expect("it reads");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "on\n");
    assert_eq!(waiting.load(SeqCst), SYNCS);
    open.store(true, SeqCst);
    assert!(child.wait().expect("it is ours").success());
    world.equal();
    world.end();
}

/// In a role: appends, and tells each time how long the file is by then, until it cannot.
pub(crate) fn append() {
    let path = root().join("log.db");
    let mut file = File::options().create(true).append(true).open(path).expect("a file");
    let mut out = io::stdout();
    for number in 0u64.. {
        match file.write(&number.to_ne_bytes()) {
            Ok(8) => writeln!(out, "{number}").expect("somebody reads"),
            Ok(part) => panic!("{part} bytes"),
            Err(error) => {
                writeln!(out, "{}", error.raw_os_error().unwrap_or(0)).expect("somebody reads");
                return;
            }
        }
        out.flush().expect("somebody reads");
    }
}

/// What a process has to say.
fn told(child: &mut std::process::Child) -> String {
    let mut text = String::new();
    if let Some(mut from) = child.stderr.take() {
        io::Read::read_to_string(&mut from, &mut text).expect("text");
    }
    text
}

/// The daemon is another process here, and killed in the middle: what a program was told to be written is in the tree, the program's
/// call fails, and the next daemon goes on in the same folder with the same copy.
pub(crate) fn a_killed_daemon_loses_nothing(way: Way) {
    let world = World::bare(way, PATTERNS);
    let transport = if way.0 == apus_fuse::Transport::Ring { "ring" } else { "device" };
    let daemon = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apus-fuse"));
        command.arg("mount").arg(&world.root).args(["--match", "*.db", "--transport", transport]);
        command.arg("--copy-to").arg(&world.copy).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        until("a mount", || {
            assert!(child.try_wait().expect("it is ours").is_none(), "it ends: {}", told(&mut child));
            apus_fuse::status(&world.root).is_ok()
        });
        child
    };
    let mut acknowledged = 0u64;
    for round in 0..6 {
        let mut serving = daemon();
        let mut writer = world.role("append", &[]).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(writer.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
        let before = acknowledged;
        for _ in 0..200 + round * 50 {
            lines.next().expect("it goes on");
            acknowledged += 1;
        }
        serving.kill().expect("it is ours");
        serving.wait().expect("it is ours");
        let mut last = String::new();
        for line in lines {
            acknowledged += 1;
            last = line;
        }
        acknowledged -= 1;
        assert!(acknowledged > before);
        // The call that was in flight over the ring is cancelled.
        let gone = [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED];
        assert!(gone.iter().any(|error| error.to_string() == last), "the mount is gone, not error {last}");
        assert!(writer.wait().expect("it is ours").success());
    }
    let mut serving = daemon();
    // One write at most each time was done and not told.
    let bytes = std::fs::metadata(world.root.join("log.db")).expect("a file").len();
    assert!((acknowledged * 8..=(acknowledged + 6) * 8).contains(&bytes), "{acknowledged} were told, {bytes} bytes");
    let same = || {
        let (tree, copy) = (snapshot(&world.root, PATTERNS), snapshot(&world.copy, PATTERNS));
        tree == copy
    };
    until("the copy being the tree", same);
    // SAFETY: no memory is passed.
    unsafe { libc::kill(serving.id() as i32, libc::SIGTERM) };
    assert!(serving.wait().expect("it is ours").success(), "it ends when it is asked to");
    assert!(apus_fuse::status(&world.root).is_err(), "it is not mounted");
    assert_eq!(snapshot(&world.root, PATTERNS), snapshot(&world.copy, PATTERNS));
    std::fs::remove_dir_all(&world.dir).expect("ours");
}
