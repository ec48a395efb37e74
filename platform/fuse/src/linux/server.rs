//! From a request to its answer.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use apus_capture::Globs;
use apus_capture::linux::Reasons;
use apus_capture::linux::sys::Errno;

use super::backing::{self, Done, check};
use super::device::Transport;
use super::lanes::Lanes;
use super::mount::Barrier;
use super::opens::Opens;
use super::protocol::{Answer, Fields, Header, names, opcode};
use super::queue::{Did, Queue};
use super::tree::{Names, Node, State};

/// The attribute of the mounted folder by which another process asks how the group is.
pub(super) const STATUS: &CStr = c"user.apus.status";

/// What serves a mount.
pub(super) struct Server {
    /// The folder underneath.
    pub(super) root: OwnedFd,
    /// The file system that it is on: what is mounted below it is not shown.
    pub(super) device: u64,
    pub(super) patterns: Vec<u8>,
    /// Of files of which the kernel keeps no pages.
    direct: Vec<u8>,
    /// Whether the kernel maps such files.
    pub(super) direct_io: AtomicBool,
    names: Mutex<Names>,
    pub(super) opens: Opens,
    pub(super) queue: Queue,
    /// Where the kernel is told which file underneath is meant.
    pub(super) control: OnceLock<OwnedFd>,
    pub(super) passthrough: AtomicBool,
    pub(super) transport: OnceLock<Transport>,
    /// The threads that take requests.
    pub(super) lanes: OnceLock<Arc<Lanes>>,
    /// Whether threads that stay on one processor run before programs.
    pub(super) realtime: bool,
    pub(super) barrier: Option<Box<dyn Barrier>>,
    pub(super) untracked: AtomicU64,
    /// Whether all that was read anew is whole and shown.
    pub(super) shown: AtomicBool,
    /// What the consumer last refused.
    pub(super) refused: Mutex<Option<String>>,
    /// Requests by kind.
    pub(super) counts: [AtomicU64; opcode::END],
    pub(super) bug: Bug,
    /// The write that [`Bug::Late`] holds back.
    held: Mutex<Option<(u64, Did)>>,
}

/// A fault that is planted, for the tests of the tests: debug builds alone have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// A write is numbered after the one that follows it.
    Late,
    /// A file that is renamed into the group comes without its content.
    Bare,
}

impl Bug {
    pub(super) fn planted() -> Self {
        match std::env::var("APUS_FUSE_BUG").as_deref() {
            Ok("late") if cfg!(debug_assertions) => Self::Late,
            Ok("bare") if cfg!(debug_assertions) => Self::Bare,
            _ => Self::None,
        }
    }
}

/// A request with its buffer: names and bytes in it, then its answer.
pub(super) struct Request<'a> {
    pub(super) header: Header,
    /// The structure that it begins with.
    pub(super) op: &'a [u8],
    pub(super) buffer: &'a mut [u8],
    /// Bytes of the buffer that the kernel filled.
    pub(super) filled: usize,
}

impl Request<'_> {
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields(self.op)
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// The name that the request begins with.
    pub(super) fn name(&self) -> Done<CString> {
        self.two_names().map(|(name, _)| name)
    }

    /// Both names; without a second one it is empty.
    pub(super) fn two_names(&self) -> Done<(CString, CString)> {
        let mut parts = names(self.payload());
        let mut next = || CString::new(parts.next().unwrap_or_default()).map_err(|_| Errno(libc::EINVAL));
        Ok((next()?, next()?))
    }

    pub(super) fn answer(&mut self) -> Answer<'_> {
        Answer::new(self.buffer)
    }
}

impl Server {
    pub(super) fn new(
        root: OwnedFd,
        device: u64,
        (patterns, direct): (Vec<u8>, Vec<u8>),
        names: Names,
        queue: Queue,
        (realtime, barrier): (bool, Option<Box<dyn Barrier>>),
    ) -> Self {
        Self {
            root,
            device,
            patterns,
            direct,
            direct_io: AtomicBool::new(false),
            names: Mutex::new(names),
            opens: Opens::default(),
            queue,
            control: OnceLock::new(),
            passthrough: AtomicBool::new(false),
            transport: OnceLock::new(),
            lanes: OnceLock::new(),
            realtime,
            barrier,
            untracked: AtomicU64::new(0),
            shown: AtomicBool::new(false),
            refused: Mutex::new(None),
            counts: [const { AtomicU64::new(0) }; opcode::END],
            bug: Bug::planted(),
            held: Mutex::new(None),
        }
    }

    pub(super) fn root(&self) -> RawFd {
        self.root.as_raw_fd()
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().expect("no thread ends while it holds it")
    }

    /// Whether a name belongs to the group.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        Globs::new(&self.patterns).holds(path)
    }

    /// Whether the kernel shall keep no pages of a file of the group, whose writes then come whole and cost less, and whose reads all come.
    pub(super) fn is_direct(&self, names: &Names, node: &Node) -> bool {
        self.direct_io.load(Relaxed)
            && !self.direct.is_empty()
            && names.one(node).is_some_and(|path| Globs::new(&self.direct).holds(&path))
    }

    /// Whether folders may be moved without that files join or leave the group.
    pub(super) fn folders_may_move(&self) -> bool {
        Globs::new(&self.patterns).ignore_directories()
    }

    pub(super) fn node(&self, id: u64) -> Done<Arc<Node>> {
        self.names().node(id)
    }

    /// Hands over what was done to the bytes of a file, whose lock the caller holds. `start..end` is read again if the order is lost.
    pub(super) fn record(&self, state: &mut State, publish: bool, did: Did, start: u64, end: u64) -> Option<u64> {
        if state.file == 0 {
            return None;
        }
        if self.bug == Bug::Late && matches!(did, Did::Write(..)) {
            let mut held = self.held.lock().expect("no thread ends while it holds it");
            return match held.take() {
                Some((file, before)) => {
                    self.queue.push(Some(state.file), publish, did);
                    self.queue.push(Some(file), publish, before)
                }
                None => {
                    *held = Some((state.file, did));
                    None
                }
            };
        }
        let seq = self.queue.push(Some(state.file), publish, did);
        if seq.is_none() {
            state.remember(start, end);
        }
        seq
    }

    /// Does what may take long, without that other requests wait for it.
    pub(super) fn waiting<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.lanes.get() {
            Some(lanes) => lanes.waiting(work),
            None => work(),
        }
    }

    /// What a person must know; it stands in the status.
    pub(super) fn tell(&self, what: String) {
        *self.refused.lock().expect("no thread ends while it holds it") = Some(what);
    }

    /// Answers a request. The length of the answer, or `None` if there is none.
    pub(super) fn serve(&self, request: &mut Request<'_>) -> Done<Option<usize>> {
        let kind = request.header.opcode;
        if let Some(count) = self.counts.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        let done = match kind {
            opcode::WRITE => self.write(request),
            opcode::READ => self.read(request),
            opcode::LOOKUP => self.lookup(request),
            opcode::GETATTR => self.get_attributes(request),
            opcode::SETATTR => self.set_attributes(request),
            opcode::READLINK => self.read_link(request),
            opcode::SYMLINK => self.make_symlink(request),
            opcode::MKNOD => self.make_node(request),
            opcode::MKDIR => self.make_dir(request),
            opcode::UNLINK => self.unlink(request),
            opcode::RMDIR => self.remove_dir(request),
            opcode::RENAME | opcode::RENAME2 => self.rename(request),
            opcode::LINK => self.link(request),
            opcode::OPEN => self.open(request),
            opcode::CREATE => self.create(request),
            opcode::TMPFILE => self.unnamed(request),
            opcode::RELEASE => self.release(request),
            opcode::FSYNC => self.sync(request),
            opcode::FSYNCDIR => self.sync_dir(request),
            opcode::STATFS => self.space(request),
            opcode::SETXATTR => self.set_attribute(request),
            opcode::GETXATTR => self.attribute(request),
            opcode::LISTXATTR => self.list_attributes(request),
            opcode::REMOVEXATTR => self.remove_attribute(request),
            opcode::READDIR => self.read_dir(request, false),
            opcode::READDIRPLUS => self.read_dir(request, true),
            opcode::FALLOCATE => self.allocate(request),
            opcode::LSEEK => self.seek(request),
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => self.copy(request),
            opcode::SYNCFS => self.waiting(|| backing::sync_all(self.root())).map(|()| 0),
            opcode::DESTROY => Ok(0),
            opcode::FORGET => {
                let times = request.fields().u64(0);
                self.names().forget(request.header.node, times);
                return Ok(None);
            }
            opcode::BATCH_FORGET => {
                let (count, list) = (request.fields().u32(0) as usize, Fields(request.payload()));
                let mut names = self.names();
                for at in 0..count.min(request.filled / 16) {
                    names.forget(list.u64(at * 16), list.u64(at * 16 + 8));
                }
                return Ok(None);
            }
            // What was interrupted is answered all the same, and soon.
            opcode::INTERRUPT => return Ok(None),
            // The kernel does these itself, or leaves them out: locks, flushes, access, folders' openings.
            _ => Err(Errno(libc::ENOSYS)),
        };
        done.map(Some)
    }

    /// How the group is.
    pub(super) fn status(&self) -> Status {
        let told = self.queue.told();
        Status {
            transport: self.transport.get().copied().unwrap_or(Transport::Device),
            passthrough: self.passthrough.load(Relaxed),
            reasons: told.reasons,
            ever: told.ever,
            lost: told.lost,
            stalls: told.stalls,
            waiting: told.waiting as u64,
            next: told.next,
            handed: told.handed,
            untracked: self.untracked.load(Acquire),
            refused: self.refused.lock().expect("no thread ends while it holds it").clone(),
            nodes: self.names().len() as u64,
            requests: self.counts.iter().map(|count| count.load(Relaxed)).sum(),
            writes: self.counts[opcode::WRITE as usize].load(Relaxed),
        }
    }

    /// Requests so far, by kind.
    pub(super) fn requests(&self) -> Vec<(u32, u64)> {
        (0..).zip(&self.counts).map(|(kind, count)| (kind, count.load(Relaxed))).filter(|&(_, n)| n > 0).collect()
    }
}

/// What can be told of a mount at any time.
#[derive(Clone, Debug)]
pub struct Status {
    /// How requests come from the kernel.
    pub transport: Transport,
    /// Whether files outside the group are read and written without this process.
    pub passthrough: bool,
    /// Why the order is lost, if it is.
    pub reasons: Reasons,
    /// All reasons since the mount.
    pub ever: Reasons,
    /// How often the order was lost, the first listing included.
    pub lost: u64,
    /// How often a program waited for the consumer.
    pub stalls: u64,
    /// Bytes of operations that wait for the consumer.
    pub waiting: u64,
    /// The next operation's number.
    pub next: u64,
    /// All operations up to this one were taken.
    pub handed: u64,
    /// Files of the group that a program writes which opened them before they were in it: whole again once it closes them.
    pub untracked: u64,
    /// What the consumer last refused, and tries again.
    pub refused: Option<String>,
    /// Files that are known.
    pub nodes: u64,
    /// Requests from the kernel so far.
    pub requests: u64,
    /// Those of them that were writes.
    pub writes: u64,
}

impl fmt::Display for Status {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: Vec<&str>| if words.is_empty() { "nothing".to_string() } else { words.join(", ") };
        writeln!(to, "process: {}", std::process::id())?;
        writeln!(to, "transport: {}", self.transport)?;
        let through = if self.passthrough { "yes" } else { "no: files outside the group go through the daemon too" };
        writeln!(to, "passthrough: {through}")?;
        if self.reasons.in_order() {
            writeln!(to, "order: kept")?;
        } else {
            writeln!(to, "order: lost: {}", list(self.reasons.words()))?;
        }
        writeln!(to, "lost so far: {} times, by: {}", self.lost, list(self.ever.words()))?;
        writeln!(to, "operations: next {}, handed over up to {}, {} bytes wait", self.next, self.handed, self.waiting)?;
        writeln!(to, "programs waited for the consumer: {} times", self.stalls)?;
        writeln!(to, "requests: {}, writes {}; files known: {}", self.requests, self.writes, self.nodes)?;
        if self.untracked > 0 {
            writeln!(to, "untracked: {} files change without operations until they are closed", self.untracked)?;
        }
        if let Some(refused) = &self.refused {
            writeln!(to, "the consumer refuses: {refused}")?;
        }
        Ok(())
    }
}

/// Asks the mount at `root`, from any process.
///
/// # Errors
/// Nothing of ours is mounted there, or its daemon has ended.
pub fn status(root: &Path) -> io::Result<String> {
    asked(root).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::ENOTCONN) => "its daemon has ended; mount it again, or `apus-fuse unmount` it".to_string(),
            Some(libc::ENODATA | libc::EOPNOTSUPP) => "apus-fuse is not mounted there".to_string(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("{}: {why}", root.display()))
    })
}

/// As [`status`], with the kernel's error.
pub(super) fn asked(root: &Path) -> io::Result<String> {
    let path = CString::new(root.as_os_str().as_bytes())?;
    let mut text = vec![0u8; 4096];
    // SAFETY: names end with a zero, the room is as large as is said.
    let got = unsafe { libc::getxattr(path.as_ptr(), STATUS.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    text.truncate(check(got as i64)? as usize);
    Ok(String::from_utf8_lossy(&text).into_owned())
}
