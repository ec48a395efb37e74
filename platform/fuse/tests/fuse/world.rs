//! A mounted group in a folder of its own, its copy, and programs on it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use apus_capture::linux::Replay;
use apus_capture::{Consumer, Globs};
use apus_fuse::{Mounted, Options, Transport};

/// How long anything may take that is expected to end.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// How requests come in a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way(pub(crate) Transport);

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Ways that the kernel has.
pub(crate) fn ways() -> &'static [Way] {
    static WAYS: OnceLock<Vec<Way>> = OnceLock::new();
    WAYS.get_or_init(|| {
        let mut ways = vec![Way(Transport::Device)];
        match std::fs::write(SWITCH, "Y") {
            Ok(()) => ways.push(Way(Transport::Ring)),
            Err(error) => println!("fuse: over io_uring: SKIPPED: {SWITCH}: {error}"),
        }
        ways
    })
}

/// What tests change or leave outside of their folders is as it was once this is dropped, however they end.
pub(crate) struct Tidy(Option<String>);

impl Tidy {
    /// Takes away folders of processes that were killed, too.
    pub(crate) fn begin() -> Self {
        let own = |name: &str| {
            let rest = name.strip_prefix("apus-fuse-")?;
            let rest = rest.strip_prefix("probe-").unwrap_or(rest);
            rest.split('-').next()?.parse::<u32>().ok()
        };
        for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            let gone = |process: u32| !Path::new(&format!("/proc/{process}")).exists();
            if entry.file_name().to_str().and_then(own).is_some_and(gone) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Self(std::fs::read_to_string(SWITCH).ok())
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(SWITCH, before.trim_end());
        }
    }
}

/// Where mounts of tests can be, in a mount namespace of this process: whatever happens, they end with it. Or why there is no such place.
pub(crate) fn place() -> &'static Result<PathBuf, String> {
    static PLACE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PLACE.get_or_init(|| {
        let failed = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|error| format!("/dev/fuse: {error}"))?;
        // SAFETY: no memory is passed.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(failed("a mount namespace"));
        }
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: names end with a zero, or are none.
        if unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) } != 0 {
            return Err(failed("private mounts"));
        }
        let base = std::env::temp_dir();
        let probe = base.join(format!("apus-fuse-probe-{}", std::process::id()));
        let done = std::fs::create_dir_all(probe.join("root")).and_then(|()| {
            let copy = Replay::new(probe.join("copy"))?;
            drop(Mounted::new(Options::new(probe.join("root"), &["*"]), Box::new(copy))?);
            Ok(())
        });
        let _ = std::fs::remove_dir_all(&probe);
        done.map(|()| base).map_err(|error| error.to_string())
    })
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A group.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) copy: PathBuf,
    pub(crate) patterns: &'static [&'static str],
    pub(crate) way: Way,
    pub(crate) mounted: Option<Mounted>,
}

impl World {
    /// Its folders, not mounted.
    pub(crate) fn bare(way: Way, patterns: &'static [&'static str]) -> Self {
        let base = place().as_ref().expect("it was looked at before");
        let dir = base.join(format!("apus-fuse-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst)));
        let (root, copy) = (dir.join("root"), dir.join("copy"));
        for folder in [&dir, &root, &copy] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        Self { dir, root, copy, patterns, way, mounted: None }
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::new(&self.root, self.patterns);
        options.transport = Some(self.way.0);
        options
    }

    /// Mounted, and done over again in the copy.
    pub(crate) fn new(way: Way, patterns: &'static [&'static str]) -> Self {
        let mut world = Self::bare(way, patterns);
        let replay = Replay::new(&world.copy).expect("a copy");
        world.mount(world.options(), Box::new(replay));
        world
    }

    pub(crate) fn mount(&mut self, options: Options, consumer: Box<dyn Consumer + Send>) {
        self.mounted = Some(Mounted::new(options, consumer).expect("it is mounted"));
    }

    pub(crate) fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("it is mounted")
    }

    /// This test as another process in the mount, in one of its roles.
    pub(crate) fn role(&self, role: &str, more: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("we run"));
        command.current_dir(&self.dir).env("APUS_ROLE", role).env("APUS_ROOT", &self.root);
        command.env("APUS_MORE", more.join(" ")).env("APUS_PATTERNS", self.patterns.join(" "));
        command
    }

    /// Runs to its good end.
    pub(crate) fn run(&self, role: &str, more: &[&str]) -> String {
        good(self.role(role, more))
    }

    pub(crate) fn settle(&self) {
        assert!(self.mounted().settle(LIMIT), "the consumer has not taken all:\n{}", self.mounted().status());
    }

    /// The copy is the tree underneath, as far as it belongs to the group.
    pub(crate) fn equal(&self) {
        self.settle();
        let (tree, copy) = (snapshot(&self.mounted().backing(), self.patterns), snapshot(&self.copy, self.patterns));
        for (path, entry) in &tree {
            assert!(copy.get(path) == Some(entry), "{path}: {entry:?} in the tree, {:?} in the copy", copy.get(path));
        }
        assert_eq!(tree.keys().collect::<Vec<_>>(), copy.keys().collect::<Vec<_>>());
    }

    /// Taken away, with all handed over.
    pub(crate) fn end(mut self) {
        let mounted = self.mounted.take().expect("it is mounted");
        mounted.unmount().expect("nobody uses it");
        assert!(mounted.finish(LIMIT), "the consumer has not taken all");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // First, or what lies below is removed through it.
        drop(self.mounted.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs a program, which must end well within the limit.
pub(crate) fn good(mut command: Command) -> String {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
    let output = ended(child);
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The output of a program that must end within the limit.
pub(crate) fn ended(child: Child) -> Output {
    let pid = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    let waits = std::thread::spawn(move || {
        let output = child.wait_with_output().expect("it is ours");
        let _ = tell.send(());
        output
    });
    if told.recv_timeout(LIMIT).is_err() {
        // SAFETY: no memory is passed.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        panic!("process {pid} does not end");
    }
    waits.join().expect("it was waited for")
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < end, "it does not come to {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What is at a name: kind and permissions, owner, group, bytes or text.
pub(crate) type Entry = (u32, u32, u32, Vec<u8>);

/// The part of a tree that belongs to a group.
pub(crate) fn snapshot(root: &Path, patterns: &[&str]) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    walk(root, "", &text_of(patterns), &mut all);
    all
}

pub(crate) fn text_of(patterns: &[&str]) -> Vec<u8> {
    patterns.iter().flat_map(|pattern| pattern.bytes().chain([0])).collect()
}

fn walk(dir: &Path, below: &str, patterns: &[u8], all: &mut BTreeMap<String, Entry>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let found = entry.path().symlink_metadata().expect("it is there");
        let mut bytes = Vec::new();
        if found.is_dir() {
            walk(&entry.path(), &format!("{name}/"), patterns, all);
        } else if !Globs::new(patterns).holds(name.as_bytes()) {
            continue;
        } else if found.is_file() {
            bytes = std::fs::read(entry.path()).expect("a file");
        } else if found.is_symlink() {
            bytes = std::fs::read_link(entry.path()).expect("a link").as_os_str().as_bytes().to_vec();
        } else {
            continue;
        }
        all.insert(name, (found.mode(), found.uid(), found.gid(), bytes));
    }
}

/// In a role: the mounted folder.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("APUS_ROOT").expect("it is said").into()
}

/// In a role: what else was said.
pub(crate) fn more() -> Vec<String> {
    std::env::var("APUS_MORE").expect("it is said").split_whitespace().map(str::to_string).collect()
}
