//! A group in a folder of its own, its drainer and its copy.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use apus_capture::linux::{Capture, Drainer, Replay, Status};
use apus_capture::{Change, Consumer, Group, Listed, Operation};

/// The library, built for this test.
pub(crate) fn library() -> PathBuf {
    let own = std::env::current_exe().expect("we run");
    let deps = own.parent().expect("it lies in a folder");
    let places = [deps.join("libapus_interpose.so"), deps.with_file_name("libapus_interpose.so")];
    places.into_iter().find(|place| place.exists()).expect("cargo builds the library for its tests")
}

/// An operation, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) seq: u64,
    pub(crate) file: u64,
    pub(crate) publish: bool,
    pub(crate) what: What,
}

/// What a kept operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Create(String),
    Write(u64, Vec<u8>),
    Truncate(u64),
    Zero(u64, u64),
    Rename(String, String),
    Unlink(String),
    Other(String),
}

/// Does operations over in the copy and keeps them.
pub(crate) struct Recorder {
    replay: Replay,
    history: Arc<Mutex<Vec<Kept>>>,
    taken: u64,
    /// After so many operations it waits, so that records pile up.
    pause_every: u64,
    gate: Arc<Mutex<bool>>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Consumer for Recorder {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let what = match operation.change {
            Change::Create { path, .. } => What::Create(text(path)),
            Change::Write { offset, bytes } => What::Write(offset, bytes.to_vec()),
            Change::Truncate { len } => What::Truncate(len),
            Change::Zero { offset, len } => What::Zero(offset, len),
            Change::Rename { from, to } => What::Rename(text(from), text(to)),
            Change::Unlink { path } => What::Unlink(text(path)),
            other => What::Other(format!("{other:?}")),
        };
        let kept = Kept { seq: operation.seq, file: operation.file.0, publish: operation.publish, what };
        self.history.lock().expect("no thread ends while it holds it").push(kept);
        self.taken += 1;
        if self.pause_every > 0 && self.taken.is_multiple_of(self.pause_every) {
            std::thread::sleep(Duration::from_millis(3));
        }
        let mut shown = self.gate.lock().expect("no thread ends while it holds it");
        self.replay.take(operation)?;
        *shown = operation.publish;
        Ok(())
    }

    fn wants(&mut self, listed: &Listed) -> bool {
        self.replay.wants(listed)
    }
}

/// A group with its ring.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) copy: PathBuf,
    pub(crate) ring: PathBuf,
    pub(crate) capture: Capture,
    drainer: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    pub(crate) history: Arc<Mutex<Vec<Kept>>>,
    /// Held while an operation is done; whether the copy may be shown.
    gate: Arc<Mutex<bool>>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where groups of tests can lie: file handles and extended attributes are needed, and the right to use them. Or why there is no such place.
pub(crate) fn place() -> &'static Result<PathBuf, String> {
    static PLACE: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    PLACE.get_or_init(|| {
        let mut why = String::new();
        for base in [std::env::temp_dir(), "/dev/shm".into()] {
            match tried(&base) {
                Ok(()) => return Ok(base),
                Err(error) => why = format!("{}: {error}", base.display()),
            }
        }
        Err(why)
    })
}

fn tried(base: &Path) -> io::Result<()> {
    let dir = base.join(format!("apus-capture-probe-{}", std::process::id()));
    let done = (|| {
        std::fs::create_dir_all(dir.join("root"))?;
        std::fs::write(dir.join("root/a.db"), "x")?;
        Group::new(dir.join("root"), &["*.db"]).create(&dir.join("ring"))?;
        let mut replay = Replay::new(dir.join("copy"))?;
        let mut drainer = Drainer::open(&dir.join("ring"))?;
        drainer.drain(&mut replay)?;
        // Opened by its handle.
        let read = std::fs::read(dir.join("copy/a.db"))?;
        if read == b"x" {
            Ok(())
        } else {
            Err(io::Error::other("files cannot be opened by handle: CAP_DAC_READ_SEARCH is needed"))
        }
    })();
    let _ = std::fs::remove_dir_all(&dir);
    done
}

impl World {
    pub(crate) fn new(patterns: &[&str], change: impl FnOnce(&mut Group)) -> Self {
        let number = NEXT.fetch_add(1, SeqCst);
        let base = place().as_ref().expect("looked at before any test");
        let dir = base.join(format!("apus-capture-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).expect("a folder");
        let dir = std::fs::canonicalize(dir).expect("it is there");
        let (root, copy, ring) = (dir.join("root"), dir.join("copy"), dir.join("ring"));
        let mut group = Group::new(&root, patterns);
        // Tests of the order must not lose it because the machine is busy.
        group.stall_ms = 60_000;
        group.lock_ms = 60_000;
        change(&mut group);
        let capture = group.create(&ring).expect("a ring");
        Self { dir, root, copy, ring, capture, drainer: None, history: Arc::default(), gate: Arc::default() }
    }

    /// Starts to drain, in a thread, and waits until the group is listed.
    pub(crate) fn drain(&mut self, pause_every: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut drainer = Drainer::open(&self.ring).expect("nobody drains it");
        let replay = Replay::new(&self.copy).expect("a copy");
        let mut recorder = Recorder {
            replay,
            history: Arc::clone(&self.history),
            taken: 0,
            pause_every,
            gate: Arc::clone(&self.gate),
        };
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            drainer.run(&mut recorder, &told).expect("the copy takes all");
            for note in drainer.notes() {
                println!("  drainer: {note}");
            }
        });
        self.drainer = Some((stop, thread));
        self.settle();
    }

    /// Waits until all is handed over.
    pub(crate) fn settle(&self) {
        loop {
            let status = self.capture.status();
            if status.reasons.in_order() && status.waiting == 0 && self.capture.shown() {
                return;
            }
            let drains = self.drainer.as_ref().is_some_and(|(_, thread)| !thread.is_finished());
            assert!(drains, "the drainer ended: {status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.drainer.take() {
            stop.store(true, SeqCst);
            thread.join().expect("the drainer ends well");
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.capture.status()
    }

    /// A program with the library before it.
    pub(crate) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("LD_PRELOAD", library()).env("APUS_CAPTURE", &self.ring).current_dir(&self.root);
        command
    }

    /// This test as such a program.
    pub(crate) fn role(&self, role: &str, args: &[(&str, String)]) -> Command {
        let mut command = self.program(std::env::current_exe().expect("we run"));
        command.env("APUS_ROLE", role).env("APUS_HISTORY", self.dir.join("history"));
        for (name, value) in args {
            command.env(name, value);
        }
        command
    }

    /// Stops the drainer between two operations and copies the copy, if it may be shown then.
    pub(crate) fn freeze(&self, to: &Path) -> bool {
        let shown = self.gate.lock().expect("no thread ends while it holds it");
        *shown && Command::new("cp").arg("-a").arg(&self.copy).arg(to).status().expect("it runs").success()
    }

    /// The copy is as the tree is.
    pub(crate) fn assert_same(&self) {
        let (own, copy) = (tree(&self.root), tree(&self.copy));
        for (name, what) in &own {
            assert!(
                copy.get(name) == Some(what),
                "{name} differs: {} there, {} in the copy",
                brief(Some(what)),
                brief(copy.get(name))
            );
        }
        let more: Vec<_> = copy.keys().filter(|name| !own.contains_key(*name)).collect();
        assert!(more.is_empty(), "only in the copy: {more:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn brief(what: Option<&(u32, Vec<u8>)>) -> String {
    what.map_or_else(|| "nothing".into(), |(mode, bytes)| format!("mode {mode:o}, {} bytes", bytes.len()))
}

/// Every name, with its type and permissions, and its content or target.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    fn walk(dir: &Path, root: &Path, into: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("it is there");
            let content = if meta.is_dir() {
                walk(&path, root, into);
                Vec::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).expect("a file")
            };
            let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
            into.insert(name, (meta.permissions().mode(), content));
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

/// Runs to its end, well.
pub(crate) fn finish(mut child: Child) {
    let status = child.wait().expect("it is ours");
    assert!(status.success(), "{status}");
}

/// Numbers that look drawn, from a seed.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut draw = Self(seed);
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&draw.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A setting of a role.
pub(crate) fn setting(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not set"))
}
