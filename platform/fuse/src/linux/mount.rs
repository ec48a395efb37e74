//! What a caller sees: a group, mounted.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use apus_capture::Consumer;
use apus_capture::linux::Reasons;
use apus_capture::linux::sys::open_limit;

use super::apart::{self, Outside, is_dead};
use super::backing::{self, check};
use super::device::{self, Transport};
use super::handover::Handover;
use super::lanes::{Lanes, Nudge, Work};
use super::queue::Queue;
use super::server::{Server, Status, asked};
use super::stay::Stay;
use super::tree::Names;
use super::uring;

/// Mounts of daemons that have ended which may lie on each other.
const DEAD: usize = 8;
/// Names that logs have.
const DIRECT: [&str; 5] = ["*-wal", "*-journal", "*.wal", "*.aof", "*.log"];
/// The attribute of the folder underneath that tells which numbers are free.
const FREE: &CStr = c"trusted.apus.fuse";
/// How many numbers a mount sets aside: more than it can use.
const NUMBERS: u64 = 1 << 44;

/// Lets a program's `fsync` return.
pub trait Barrier: Send + Sync {
    /// Called after the disk underneath has the file. `seq` is the number of the `Sync` that was handed over; `None` for a file outside the
    /// group, or if the order is lost.
    ///
    /// # Errors
    /// They are the program's: its `fsync` fails.
    fn wait(&self, seq: Option<u64>) -> io::Result<()>;
}

/// What is mounted, and how.
pub struct Options {
    /// The folder, on one file system that has file handles. What is mounted below it is not shown.
    pub root: PathBuf,
    /// As in [`apus_capture::Globs`].
    pub patterns: Vec<String>,
    /// Files of the group, by patterns too, of which the kernel shall keep no pages: those that are written rather than read. A write comes
    /// whole and costs a third less; each read comes too.
    pub direct: Vec<String>,
    /// Bytes of operations that may wait for the consumer.
    pub queue_bytes: usize,
    /// How long a full queue holds a program up before the order is given up, in milliseconds.
    pub stall_ms: u64,
    /// `None`: `io_uring` where the kernel takes it, else the device.
    pub transport: Option<Transport>,
    /// Whether files outside the group are read and written without this process.
    pub passthrough: bool,
    /// Whether the threads that serve over `io_uring` run before programs (`SCHED_RR`, where it is allowed): each stays on the processor of
    /// the program that waits for it, and would wait there behind others.
    pub realtime: bool,
    /// Whether these threads run behind programs (`SCHED_IDLE`) while a program would move to another processor with each request.
    pub stay: bool,
    /// What `fsync` waits for, besides the disk.
    pub barrier: Option<Box<dyn Barrier>>,
    /// Where it is mounted, if not where this thread is: this process then sees the tree underneath by its path.
    pub outside: Option<Outside>,
}

impl Options {
    /// With the usual bounds.
    pub fn new(root: impl Into<PathBuf>, patterns: &[&str]) -> Self {
        Self {
            root: root.into(),
            patterns: patterns.iter().map(ToString::to_string).collect(),
            direct: DIRECT.iter().map(ToString::to_string).collect(),
            queue_bytes: 64 << 20,
            stall_ms: 200,
            transport: None,
            passthrough: true,
            realtime: true,
            stay: true,
            barrier: None,
            outside: None,
        }
    }
}

/// A mounted group. Dropped, it is taken away at once, whoever uses it.
pub struct Mounted {
    root: PathBuf,
    server: Arc<Server>,
    lanes: Vec<Arc<Lanes>>,
    outside: Option<Arc<Outside>>,
    stay: Option<Arc<Stay>>,
    handover: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Mounted {
    /// Mounts, and hands all that programs do to `consumer`, from a thread of its own. A mount of a daemon that was killed is taken away
    /// first. No thread of this process may use the mount.
    ///
    /// # Errors
    /// What is wrong with the folder, the patterns or the kernel, with its mend.
    pub fn new(options: Options, consumer: Box<dyn Consumer + Send>) -> io::Result<Self> {
        let patterns = patterns_text(&options.patterns)?;
        if patterns.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no pattern: which files belong to the group?"));
        }
        let direct = patterns_text(&options.direct)?;
        raise_limit();
        let root = folder(&options.root)?;
        let place = options.root.canonicalize()?;
        let found = backing::stat(backing::raw(&root), c"")?;
        let again = backing::open(backing::raw(&root), c".", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let names = Names::new(again, &found).map_err(|error| {
            let mend = "its file system has no file handles; put the group on ext4, xfs, btrfs or tmpfs";
            io::Error::new(io::ErrorKind::Unsupported, format!("{}: {}; {mend}", place.display(), error.text()))
        })?;
        let first = set_aside(backing::raw(&root));
        let queue = Queue::new(first, options.queue_bytes, Duration::from_millis(options.stall_ms));
        let server = Arc::new(Server::new(
            root,
            found.key[0],
            (patterns, direct),
            names,
            queue,
            (options.realtime, options.barrier),
        ));
        let mut handover = Handover::new(Arc::clone(&server), consumer);
        // Before anybody can change a thing.
        handover.begin()?;
        let allowed = device::ring_allowed();
        let ring = match options.transport {
            Some(Transport::Ring) if !allowed => {
                let why = "the kernel does not take FUSE over io_uring; write Y into /sys/module/fuse/parameters/enable_uring (Linux 6.14)";
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            Some(transport) => transport == Transport::Ring,
            None => allowed,
        };
        let outside = options.outside.map(Arc::new);
        let device = there(outside.as_deref(), || device::mount(&place, server.root()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut mounted = Self { root: place, server, lanes: Vec::new(), outside, stay: None, handover: None, stop };
        mounted.start(device, ring, options.passthrough, options.stay)?;
        let stop = Arc::clone(&mounted.stop);
        let thread = std::thread::Builder::new().name("handover".into());
        let server = Arc::clone(&mounted.server);
        mounted.handover = Some(thread.spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| handover.run(&stop))).is_err() {
                // Programs go on; their changes are not handed over.
                server.queue.lose(Reasons::DRIFT | Reasons::ALL);
                server.tell("it has panicked: nothing is handed over until the next mount".into());
            }
        })?);
        Ok(mounted)
    }

    fn start(&mut self, device: OwnedFd, ring: bool, passthrough: bool, stay: bool) -> io::Result<()> {
        let server = &self.server;
        let ring = device::agree(server, backing::raw(&device), ring, passthrough)?;
        let transport = if ring { Transport::Ring } else { Transport::Device };
        let _ = server.transport.set(transport);
        let _ = server.control.set(device.try_clone()?);
        if ring {
            let device = device.try_clone()?;
            self.stay = if stay { Some(Stay::start(server.realtime)?) } else { None };
            let stay = self.stay.clone();
            let work: Work = Box::new(move |server, queue, begun| {
                uring::serve(server, backing::raw(&device), queue, begun, stay.as_deref())
            });
            let (path, outside) = (apart::text(&self.root)?, self.outside.clone());
            let nudge: Nudge = Box::new(move |queue| match &outside {
                None => apart::nudge(&path),
                Some(outside) => {
                    let _ = outside.run(|| {
                        device::stay(queue);
                        apart::nudge(&path);
                    });
                }
            });
            self.lanes.push(Lanes::new(server, device::processors(), Some(nudge), work));
        }
        // What the kernel forgets comes this way even where there is a ring.
        let work: Work = Box::new(move |server, _, _| {
            let own = device::clone(backing::raw(&device))?;
            device::serve(server, backing::raw(&own))
        });
        self.lanes.push(Lanes::new(server, 1, None, work));
        let _ = server.lanes.set(Arc::clone(&self.lanes[0]));
        for lanes in &self.lanes {
            lanes.start()?;
        }
        Ok(())
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tree underneath, for this process.
    pub fn backing(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.server.root()).into()
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.server.status()
    }

    /// Requests so far: `FUSE_…` number of the kind, and how many.
    pub fn requests(&self) -> Vec<(u32, u64)> {
        self.server.requests()
    }

    /// Waits until the consumer has taken all that was done, in order, at most `limit`. Whether it has.
    pub fn settle(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            let told = self.server.queue.told();
            if told.reasons.in_order() && told.waiting == 0 && self.server.shown.load(Relaxed) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether nobody can use it any more: it was unmounted, by us or by others.
    pub fn ended(&self) -> bool {
        self.lanes.iter().all(|lanes| lanes.ended())
    }

    /// Takes it away, if no program uses it.
    ///
    /// # Errors
    /// `EBUSY`: a program uses it, and goes on.
    pub fn unmount(&self) -> io::Result<()> {
        there(self.outside.as_deref(), || unmount(&self.root, false))
    }

    /// After it was unmounted: waits until the consumer has all, at most `limit`. Whether it has.
    pub fn finish(mut self, limit: Duration) -> bool {
        self.lanes.iter().for_each(|lanes| lanes.join());
        if self.server.untracked.load(Relaxed) > 0 {
            // Closed by the unmounting, and nobody has told us.
            self.server.queue.lose(Reasons::DRIFT | Reasons::ALL);
        }
        self.server.queue.close();
        let until = Instant::now() + limit;
        let Some(handover) = self.handover.take() else { return true };
        while !handover.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = handover.is_finished();
        self.stop.store(true, Relaxed);
        let _ = handover.join();
        done
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if (self.lanes.is_empty() || !self.ended())
            && let Ok(root) = apart::text(&self.root)
        {
            let _ = there(self.outside.as_deref(), || {
                // SAFETY: the name ends with a zero. Whoever uses it gets ENOTCONN.
                unsafe { libc::umount2(root.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
                Ok(())
            });
        }
        self.stop.store(true, Relaxed);
        self.server.queue.close();
        if let Some(stay) = &self.stay {
            stay.end();
        }
        self.lanes.iter().for_each(|lanes| lanes.join());
        if let Some(thread) = self.handover.take() {
            let _ = thread.join();
        }
    }
}

/// Does something where it is mounted.
fn there<T: Send>(outside: Option<&Outside>, what: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match outside {
        Some(outside) => outside.run(what)?,
        None => what(),
    }
}

/// Takes the mount at `root` away. `lazily`: at once from sight, and in truth once no program uses it.
///
/// # Errors
/// Nothing is mounted there, a program uses it, or the caller is not root.
pub fn unmount(root: &Path, lazily: bool) -> io::Result<()> {
    let path = apart::text(root)?;
    let how = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::umount2(path.as_ptr(), how) }).map(drop).map_err(|error| {
        let why = match error.0 {
            libc::EBUSY => "programs use it; end them, or take it away lazily".to_string(),
            libc::EINVAL => "nothing is mounted there".to_string(),
            _ => error.text(),
        };
        io::Error::new(io::Error::from(error).kind(), format!("{}: {why}", root.display()))
    })
}

/// The folder underneath. Mounts whose daemons have ended are taken away.
fn folder(root: &Path) -> io::Result<OwnedFd> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", root.display()));
    for _ in 0..DEAD {
        let opened = File::open(root).and_then(|file| match asked(root) {
            Err(error) if is_dead(&error) => Err(error),
            Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "mounted already; `apus-fuse unmount` it first")),
            Err(_) if !file.metadata()?.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => Ok(file),
        });
        match opened {
            Err(error) if is_dead(&error) => unmount(root, true)?,
            other => return other.map(OwnedFd::from).map_err(named),
        }
    }
    Err(named(io::Error::from_raw_os_error(libc::ENOTCONN)))
}

fn patterns_text(patterns: &[String]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for pattern in patterns {
        if pattern.is_empty() || pattern.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pattern is empty or holds a zero byte"));
        }
        text.extend_from_slice(pattern.as_bytes());
        text.push(0);
    }
    Ok(text)
}

/// The first number that no earlier mount of this folder has given to a file, which a copy may still remember.
fn set_aside(root: i32) -> u64 {
    let mut text = [0; 24];
    let free = backing::attribute(root, FREE, &mut text).ok();
    let free = free.and_then(|got| std::str::from_utf8(&text[..got]).ok()?.parse::<u64>().ok()).unwrap_or(1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let first = free.max(now);
    // Where there is no place for it, the time alone keeps them apart.
    let _ = backing::set_attribute(root, FREE, (first + NUMBERS).to_string().as_bytes(), 0);
    first
}

/// As many open files as this process may have: each one that a program opens is one here.
fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is the kernel's.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 && open_limit() < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the structure is there.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}
