//! Real programs under the library: what the feed tells makes another copy like the first, also over kills of the daemon.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apus_capture::Group;
use apus_capture::linux::Drainer;
use apus_engine::shipping::{Answer, Change, Happening, Head, History, Record, Work};
use apus_engine::{Epoch, Lsn, OpId, Rng, Seed};
use apus_files::{Globs, Settings, Store};

use crate::world::{GROUP, Place, done, equal, place, seen};

const PATTERNS: [&str; 2] = ["**", "!*-shm"];
pub(crate) const ERA: Epoch = Epoch(3 << 20 | 1);

/// The library, built for this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().expect("we run");
    let deps = own.parent().expect("it lies in a folder");
    let places = [deps.join("libapus_interpose.so"), deps.with_file_name("libapus_interpose.so")];
    places.into_iter().find(|place| place.exists()).expect("cargo builds the library for its tests")
}

pub(crate) fn has(program: &str) -> bool {
    let there = Command::new("which").arg(program).output().is_ok_and(|run| run.status.success());
    if !there {
        println!("SKIPPED: there is no {program}");
    }
    there
}

fn settings(place: &Path) -> Settings {
    Settings {
        group: GROUP,
        root: place.join("root"),
        state: place.join("state"),
        globs: Globs::new(&PATTERNS),
        log_bytes: 64 << 20,
    }
}

pub(crate) fn open(place: &Path) -> Store {
    std::fs::create_dir_all(place.join("root")).expect("a folder");
    loop {
        match Store::open(settings(place)) {
            // A child of another test holds the lock until it has become its program.
            Err(apus_files::StoreError::Busy(_)) => std::thread::yield_now(),
            other => return other.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

/// A daemon with its drainer. Dropped, it ends as if it was killed: nothing is told or kept any more.
pub(crate) struct Daemon {
    pub(crate) store: Store,
    drains: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.drains.take() {
            stop.store(true, SeqCst);
            let _ = thread.join();
        }
    }
}

impl Daemon {
    pub(crate) const fn of(store: Store) -> Self {
        Self { store, drains: None }
    }

    fn drain(&mut self, ring: &Path) {
        let mut feed = self.store.feed(ring, Box::new(|| {})).unwrap_or_else(|error| panic!("{error}"));
        let mut drainer = Drainer::open(ring).expect("nobody drains it");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let ended = drainer.run(&mut feed, &told);
            for note in drainer.notes() {
                println!("  drainer: {note}");
            }
            ended.expect("the feed takes all");
        });
        self.drains = Some((stop, thread));
    }
}

/// Two copies, and what the engine would do between them.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) ring: PathBuf,
    pub(crate) one: Option<Daemon>,
    pub(crate) two: Store,
    pub(crate) history: History,
    pub(crate) captured: u64,
    pub(crate) answers: Vec<Answer>,
    /// Numbered, and not yet ordered to be logged.
    unlogged: Vec<(Vec<u8>, u64)>,
    pub(crate) missed: u64,
    pub(crate) kills: u64,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let place = place(name);
        let base = std::fs::canonicalize(&place.0).expect("it is there");
        let ring = base.join("ring");
        let mut one = open(&base.join("1"));
        let mut two = open(&base.join("2"));
        assert!(one.found().expect("found").blank && two.found().expect("found").blank);
        let mut world = Self {
            place,
            ring,
            one: None,
            two,
            history: History::default(),
            captured: 0,
            answers: Vec::new(),
            unlogged: Vec::new(),
            missed: 0,
            kills: 0,
        };
        let mark = world.number(Change::Era { fresh: true });
        world.one = Some(Daemon { store: one, drains: None });
        let first = &mut world.one.as_mut().expect("it runs").store;
        done(first, &Work::Append { op: OpId(1), staged: false, records: mark, captured: 0 });
        done(first, &Work::Open { op: OpId(2), era: ERA });
        world.begin();
        world
    }

    pub(crate) fn begin(&mut self) {
        let base = self.place.0.join("1/root");
        let mut group = Group::new(std::fs::canonicalize(base).expect("it is there"), &PATTERNS);
        // The order must not be lost because the machine is busy.
        (group.stall_ms, group.lock_ms) = (60_000, 60_000);
        group.create(&self.ring).expect("a ring");
        let ring = self.ring.clone();
        self.one.as_mut().expect("it runs").drain(&ring);
        // Programs start after the group was listed.
        let capture = apus_capture::linux::Capture::at(&self.ring).expect("a ring");
        while !capture.status().reasons.in_order() || !capture.shown() {
            std::thread::yield_now();
        }
    }

    /// A daemon that was begun anew drains the ring that is there.
    pub(crate) fn go_on(&mut self) {
        let ring = self.ring.clone();
        let one = self.one.as_mut().expect("it runs");
        one.drain(&ring);
        one.store.found().expect("it is found");
    }

    pub(crate) fn number(&mut self, change: Change) -> Vec<u8> {
        let record = Record { group: GROUP, era: ERA, lsn: self.history.end.next(), prev: self.history.check, change };
        let bytes = record.encode().0;
        self.history.push(&Head::read(&bytes).expect("whole"));
        bytes
    }

    /// One turn of the daemon: what happened is numbered, logged here, and logged and applied there. Whether there was something.
    pub(crate) fn turn(&mut self) -> bool {
        let happened = self.one.as_mut().expect("it runs").store.happened();
        let any = !happened.is_empty();
        for what in happened {
            match what {
                Happening::Captured(changes) => {
                    for captured in changes {
                        assert_eq!(captured.number, self.captured + 1, "numbers are dense");
                        assert!(captured.change.is_sound(), "{captured:?}");
                        self.captured = captured.number;
                        let bytes = self.number(captured.change);
                        self.unlogged.push((bytes, captured.number));
                    }
                }
                Happening::Missed => {
                    self.missed += 1;
                    let mark = self.number(Change::Era { fresh: true });
                    self.unlogged.push((mark, self.captured));
                }
                Happening::Done { answer, .. } => self.answers.push(answer),
                other @ Happening::Found(_) => panic!("{other:?}"),
            }
        }
        while !self.unlogged.is_empty() {
            let many = self.unlogged.len().min(64);
            let part: Vec<(Vec<u8>, u64)> = self.unlogged.drain(..many).collect();
            let captured = part.last().expect("some").1;
            let records: Vec<u8> = part.into_iter().flat_map(|(bytes, _)| bytes).collect();
            let one = &mut self.one.as_mut().expect("it runs").store;
            done(one, &Work::Append { op: OpId(3), staged: false, records, captured });
        }
        any
    }

    pub(crate) fn ship(&mut self) {
        let one = &mut self.one.as_mut().expect("it runs").store;
        loop {
            let from = self.two.status().end.next();
            let answer = one.perform(&Work::Read { op: OpId(4), from, most: 256 << 10 });
            let Some((_, Answer::Records(records))) = answer else { break };
            done(&mut self.two, &Work::Append { op: OpId(5), staged: false, records, captured: 0 });
            let upto = self.two.status().end;
            done(&mut self.two, &Work::Apply { op: OpId(6), upto });
        }
    }

    /// The daemon is killed, and another one begins.
    pub(crate) fn kill(&mut self) {
        self.kills += 1;
        self.one = None;
        self.unlogged.clear();
        let mut daemon = Daemon { store: open(&self.place.0.join("1")), drains: None };
        assert_eq!(daemon.store.open_era(), Some(ERA));
        let ring = self.ring.clone();
        daemon.drain(&ring);
        let found = daemon.store.found().expect("it is found");
        assert!(!found.torn && found.open == Some(ERA), "{found:?}");
        assert!(found.written >= found.captured && found.log.end <= self.history.end, "{found:?}");
        (self.history, self.captured) = (found.log, found.captured);
        self.one = Some(daemon);
    }

    /// Runs until the program has ended and all of it is shipped; now and then `now_and_then` is asked for.
    pub(crate) fn run(&mut self, mut child: Child, mut now_and_then: impl FnMut(&mut Self)) {
        let begun = Instant::now();
        loop {
            self.turn();
            now_and_then(self);
            if let Some(ended) = child.try_wait().expect("it is ours") {
                assert!(ended.success(), "the program failed: {ended}");
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "it takes too long");
        }
        self.settle();
    }

    /// All that was captured is logged and shipped.
    pub(crate) fn settle(&mut self) {
        let begun = Instant::now();
        let capture = apus_capture::linux::Capture::at(&self.ring).expect("a ring");
        loop {
            // Looked at before the turn: what is taken between both is told by the next one.
            let status = capture.status();
            if !self.turn() && status.reasons.in_order() && status.waiting == 0 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not settle: {status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ship();
    }

    /// The same without shipping: records after something was missed are no good to who has not compared.
    pub(crate) fn settle_files(&mut self) {
        let begun = Instant::now();
        let capture = apus_capture::linux::Capture::at(&self.ring).expect("a ring");
        loop {
            // As above.
            let status = capture.status();
            let quiet = status.reasons.in_order() && status.waiting == 0 && capture.shown();
            if !self.turn() && quiet {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not settle: {:?}", capture.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LD_PRELOAD", library()).env("APUS_CAPTURE", &self.ring).current_dir(self.place.0.join("1/root"));
        command.stdout(Stdio::null());
        command
    }

    pub(crate) fn same(&self, what: &str) {
        let tree = |copy: &str| {
            let mut tree = seen(&self.place.0.join(copy).join("root"));
            tree.retain(|path, _| !path.ends_with(b"-shm"));
            tree
        };
        equal(&tree("2"), &tree("1"), what);
    }
}

const ROWS: &str = "PRAGMA journal_mode = JOURNAL; CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b BLOB);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 40) INSERT INTO t (b) SELECT randomblob(3000) FROM c;
    DELETE FROM t WHERE a % 7 = 3; UPDATE t SET b = randomblob(5000) WHERE a % 5 = 1;";

pub(crate) fn sqlite(world: &World, journal: &str, times: usize) -> Child {
    let script = vec![ROWS.replace("JOURNAL", journal); times].join("\n");
    let path = world.place.0.join(format!("{journal}.sql"));
    std::fs::write(&path, script).expect("a file");
    let mut command = world.command("sqlite3");
    command.arg(format!("{journal}.db")).stdin(std::fs::File::open(path).expect("it is there"));
    command.spawn().expect("it runs")
}

/// Databases, with a log and with a journal: the second copy is the first one, and opens.
#[test]
fn a_database_is_the_same_on_both_copies() {
    if !has("sqlite3") {
        return;
    }
    let mut world = World::new("sqlite");
    for journal in ["WAL", "DELETE"] {
        let child = sqlite(&world, journal, 6);
        world.run(child, World::ship);
        world.same(journal);
        let db = world.place.0.join(format!("2/root/{journal}.db"));
        let copy = world.place.0.join("check.db");
        std::fs::copy(&db, &copy).expect("a copy");
        let run =
            Command::new("sqlite3").arg(&copy).arg("PRAGMA integrity_check; SELECT count(*) > 100 FROM t;").output();
        assert_eq!(String::from_utf8_lossy(&run.expect("it runs").stdout), "ok\n1\n");
    }
    assert_eq!(world.missed, 0, "nothing was missed");
    // The log holds barriers, which others would have waited for.
    let captured = world.captured;
    let one = &mut world.one.as_mut().expect("it runs").store;
    one.perform(&Work::Release { captured });
    assert!(one.released().is_some_and(|record| record > 0));
    // Closed, with all of it in the log.
    assert_eq!(one.perform(&Work::Close { op: OpId(9) }), None);
    let begun = Instant::now();
    let mut answered = Vec::new();
    while answered.is_empty() && begun.elapsed() < Duration::from_secs(10) {
        answered = world.one.as_mut().expect("it runs").store.happened();
    }
    assert_eq!(answered, [Happening::Done { op: OpId(9), answer: Answer::Done }]);
    let one = &mut world.one.as_mut().expect("it runs").store;
    assert_eq!((one.open_era(), one.alarms()), (None, Vec::new()));
    world.one = None;
    let mut store = open(&world.place.0.join("1"));
    let found = store.found().expect("it is found");
    assert!(!found.torn && found.open.is_none() && found.applied == found.log.end, "{found:?}");
    assert_eq!(found.captured, world.captured);
}

/// A shell's operations on names, links, attributes and holes, one kind after the other.
#[test]
fn operations_on_names_are_the_same_on_both_copies() {
    if !has("python3") {
        return;
    }
    let mut world = World::new("names");
    let script = r#"
import os, random
random.seed(5)
os.makedirs('a/b/c'); os.mkdir('d')
for i in range(60):
    p = random.choice(['a', 'a/b', 'a/b/c', 'd', '.']) + '/f%d' % random.randrange(12)
    try:
        k = random.randrange(11)
        if k < 3:
            with open(p, 'wb') as f:
                f.write(os.urandom(random.randrange(100000)))
        elif k == 3: os.rename(p, 'd/g%d' % random.randrange(5))
        elif k == 4: os.link(p, 'a/l%d' % i)
        elif k == 5: os.symlink('../x', p + 's%d' % i)
        elif k == 6: os.unlink(p)
        elif k == 7: os.chmod(p, 0o640); os.chown(p, 7, 8)
        elif k == 8: os.setxattr(p, 'user.mark', b'x%d' % i)
        elif k == 9: os.truncate(p, random.randrange(50000))
        else: os.utime(p, (5, 10 + i))
    except FileNotFoundError: pass
    except FileExistsError: pass
os.rename('a', 'e'); os.mkdir('a'); os.rename('e/b', 'a/b')
os.mkdir('gone'); os.rmdir('gone')
os.makedirs('theirs/own', exist_ok=True)
if os.getuid() == 0:
    os.chown('theirs', 1234, 1234)
    if os.fork() == 0:
        os.setgid(1234); os.setuid(1234)
        try:
            os.mkdir('theirs/dir%s' % ROUND); os.symlink('x', 'theirs/link%s' % ROUND)
            open('theirs/file%s' % ROUND, 'w').write('mine')
        finally: os._exit(0)
    os.wait()
f = os.open('sparse', os.O_CREAT | os.O_RDWR)
os.posix_fallocate(f, 0, 200000); os.pwrite(f, b'end', 900000); os.ftruncate(f, 1000000)
fd2 = os.open('tmp.new', os.O_CREAT | os.O_WRONLY, 0o600); os.write(fd2, b'new'); os.fsync(fd2); os.rename('tmp.new', 'sparse2')
import ctypes
os.symlink('nowhere', 'way')
assert ctypes.CDLL(None).renameat2(-100, b'sparse', -100, b'way', 2) == 0
os.unlink('sparse'); os.rename('way', 'sparse')
open('one', 'w').write('one'); open('two', 'w').write('two')
assert ctypes.CDLL(None).renameat2(-100, b'one', -100, b'two', 2) == 0
assert open('one').read() == 'two'
os.unlink('sparse2'); os.write(fd2, b'nobody sees this'); os.fsync(fd2)
"#;
    for round in 0..3 {
        let mut command = world.command("python3");
        let script = script.replace("ROUND", &round.to_string()).replace("seed(5)", &format!("seed({round})")).replace("makedirs('a/b/c'); os.mkdir('d')", if round == 0 {
            "makedirs('a/b/c'); os.mkdir('d')"
        } else {
            "makedirs('a/b/c', exist_ok=True); import shutil; shutil.rmtree('a'); shutil.rmtree('e'); os.makedirs('a/b/c')"
        });
        let child = command.arg("-c").arg(script).spawn().expect("it runs");
        world.run(child, |_| {});
        assert_eq!(world.missed, 0, "nothing was missed");
        world.same(&format!("round {round}"));
        world.kill();
        world.settle();
    }
    assert_eq!(world.missed, 0, "nothing was missed");
}

/// The daemon is killed at random moments while a database is written: it goes on from the ring, with the same numbers, and nothing is
/// compared anew.
#[test]
fn a_killed_daemon_goes_on_from_the_ring() {
    if !has("sqlite3") {
        return;
    }
    let mut world = World::new("kills");
    let mut rng = Seed(11).stream("kills");
    for round in 0..3 {
        let child = sqlite(&world, if round % 2 == 0 { "WAL" } else { "DELETE" }, 12);
        let mut next = spread(&mut rng);
        world.run(child, |world| {
            if Instant::now() >= next {
                // Some turns end in the middle: numbered, and not logged.
                world.kill();
                next = spread(&mut rng);
            }
        });
        assert_eq!(world.missed, 0, "nothing is read anew: {:?}", world.one.as_mut().expect("it runs").store.alarms());
        world.same(&format!("round {round}"));
    }
    println!("{} kills", world.kills);
    assert!(world.kills > 5, "{} kills", world.kills);
    assert_eq!(world.missed, 0, "nothing is read anew");
    assert!(world.history.end > Lsn(1000), "{:?}", world.history.end);
    assert!(world.two.alarms().is_empty());
}

fn spread(rng: &mut Rng) -> Instant {
    Instant::now() + Duration::from_micros(rng.between(2_000, 60_000))
}
