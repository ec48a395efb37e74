//! The guard: sees every opening of the group's files, by whatever program, before it is done, and does not let one pass that could
//! change a file behind the ring's back.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::capture::Capture;
use super::layout::Reasons;
use super::mapped::Mapped;
use super::path::Name;
use super::sys;

/// What happens to a program without the library that opens a file of the group for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is refused (`EPERM`).
    Refuse,
    /// It may, and the group is read anew from then on until it is known what was changed.
    Mark,
}

/// What the guard decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The program's process.
    pub process: u32,
    /// What runs in it: the program's file, or what it calls itself where that cannot be read.
    pub program: String,
    /// The file, below the root.
    pub path: Vec<u8>,
    /// Whether it was let through.
    pub allowed: bool,
}

/// Watches the directories of a group. Needs `CAP_SYS_ADMIN`.
pub struct Guard {
    capture: Capture,
    /// A process with the library has it mapped.
    ring: Mapped,
    policy: Policy,
    queue: OwnedFd,
    marked: BTreeSet<PathBuf>,
}

/// The kernel's header of an event.
const EVENT: usize = size_of::<libc::fanotify_event_metadata>();

impl Guard {
    /// Watches from now on. Files that are open already are not seen.
    ///
    /// # Errors
    /// No rights, or a kernel without open permission events.
    pub fn new(ring: &Path, policy: Policy) -> io::Result<Self> {
        let capture = Capture::at(ring)?;
        let ring = Mapped::at(ring)?;
        let class = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_TID;
        // SAFETY: no memory is passed.
        let queue = unsafe {
            libc::fanotify_init(class, (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as libc::c_uint)
        };
        if queue < 0 {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                error.kind(),
                format!("the guard needs CAP_SYS_ADMIN and a kernel with fanotify permission events: {error}"),
            ));
        }
        // SAFETY: just opened, nobody else's.
        let queue = unsafe { OwnedFd::from_raw_fd(queue) };
        let mut guard = Self { capture, ring, policy, queue, marked: BTreeSet::new() };
        let root = Path::new(std::ffi::OsStr::from_bytes(guard.capture.root())).to_path_buf();
        guard.mark(&root)?;
        Ok(guard)
    }

    fn mark(&mut self, dir: &Path) -> io::Result<()> {
        if self.marked.insert(dir.to_path_buf()) {
            let path = CString::new(dir.as_os_str().as_bytes())?;
            let events = libc::FAN_OPEN_PERM | libc::FAN_EVENT_ON_CHILD;
            // SAFETY: the path ends with a zero.
            let done = unsafe {
                libc::fanotify_mark(
                    self.queue.as_raw_fd(),
                    libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR,
                    events,
                    libc::AT_FDCWD,
                    path.as_ptr(),
                )
            };
            if done != 0 {
                self.marked.remove(dir);
                return Err(io::Error::last_os_error());
            }
        }
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.mark(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Watches directories that have come since.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.marked.retain(|dir| dir.is_dir());
        let root = Path::new(std::ffi::OsStr::from_bytes(self.capture.root())).to_path_buf();
        self.mark(&root)
    }

    /// Answers what waits, at most `millis` after the call if nothing does. Tells what was decided about programs without the library.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub fn answer(&mut self, millis: i32) -> io::Result<Vec<Verdict>> {
        let mut wait = libc::pollfd { fd: self.queue.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure.
        unsafe { libc::poll(&raw mut wait, 1, millis) };
        let mut verdicts = Vec::new();
        let mut buffer = [0u64; 512];
        // SAFETY: the buffer is as long as is said.
        let got = unsafe { libc::read(self.queue.as_raw_fd(), buffer.as_mut_ptr().cast(), size_of_val(&buffer)) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(verdicts) } else { Err(error) };
        }
        let mut at = 0;
        while at + EVENT <= got as usize {
            // SAFETY: within what was read; events are multiples of eight bytes long.
            let place = unsafe { buffer.as_ptr().cast::<u8>().add(at).cast::<libc::fanotify_event_metadata>() };
            // SAFETY: as above.
            let event = unsafe { place.read_unaligned() };
            at += (event.event_len as usize).max(EVENT);
            if event.fd < 0 {
                // The queue was full: openings went by.
                self.capture.lose(Reasons::STRANGER | Reasons::ALL);
                continue;
            }
            // SAFETY: the kernel opened it for us.
            let fd = unsafe { OwnedFd::from_raw_fd(event.fd) };
            let allowed = self.judge(&fd, event.pid.cast_unsigned(), &mut verdicts);
            let answer = libc::fanotify_response {
                fd: event.fd,
                response: if allowed { libc::FAN_ALLOW } else { libc::FAN_DENY },
            };
            // SAFETY: one structure.
            unsafe { libc::write(self.queue.as_raw_fd(), (&raw const answer).cast(), size_of_val(&answer)) };
        }
        Ok(verdicts)
    }

    fn judge(&self, fd: &OwnedFd, process: u32, verdicts: &mut Vec<Verdict>) -> bool {
        if Path::new(&format!("/proc/self/task/{process}")).exists() {
            return true;
        }
        let Ok(name) = Name::of(fd.as_raw_fd()) else { return true };
        let Some(below) = self.capture.held(&name) else { return true };
        if !writes(process) || self.ring.by(process) == Some(true) {
            return true;
        }
        let allowed = self.policy == Policy::Mark;
        if allowed {
            self.follow(fd);
        }
        // A refused opening may have made an empty file, one that is let through may cut the file before the drainer has read it.
        self.capture.lose(Reasons::STRANGER | if allowed { Reasons::ALL } else { 0 });
        let (process, program) = who(process);
        verdicts.push(Verdict { process, program, path: below.to_vec(), allowed });
        allowed
    }
}

impl Guard {
    /// The file is read again and again from now on. Not under the lock of names: who holds it may wait for our answer.
    fn follow(&self, fd: &OwnedFd) {
        let fd = fd.as_raw_fd();
        let Ok(stat) = sys::fstat(fd) else { return };
        let known = self.capture.find(stat.key);
        let bound = match (known, sys::handle(fd, c"".as_ptr())) {
            (Some(bound), _) => Some(bound),
            // It gets its name from the listing that follows.
            (None, Ok(handle)) => self.capture.admit(&stat, &handle, self.capture.number()),
            (None, Err(_)) => None,
        };
        if let Some(bound) = bound {
            self.capture.untracked(bound);
        }
    }
}

/// Whether the call in which the process waits opens for writing. What cannot be told may.
fn writes(process: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/syscall")) else { return true };
    let words: Vec<u64> = text
        .split_whitespace()
        .map(|word| {
            word.strip_prefix("0x").map_or_else(
                || word.parse().unwrap_or(u64::MAX),
                |hex| u64::from_str_radix(hex, 16).unwrap_or(u64::MAX),
            )
        })
        .collect();
    let flags = match (words.first().map(|&number| number as i64), words.len() > 4) {
        (Some(libc::SYS_open), true) => words[2],
        (Some(libc::SYS_openat), true) => words[3],
        // A program that is started is read.
        (Some(libc::SYS_execve | libc::SYS_execveat), true) => 0,
        (Some(libc::SYS_openat2), true) => return openat2_writes(process, words[3]),
        _ => return true,
    } as i32;
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// The flags lie in the process's memory.
fn openat2_writes(process: u32, how: u64) -> bool {
    let mut flags = 0u64;
    let local = libc::iovec { iov_base: (&raw mut flags).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(how as usize), iov_len: 8 };
    // SAFETY: eight bytes here; the other place is another process's.
    let got = unsafe { libc::process_vm_readv(process.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    got != 8 || flags as i32 & libc::O_ACCMODE != libc::O_RDONLY || flags as i32 & libc::O_TRUNC != 0
}

/// The process that a thread belongs to, and what runs in it.
fn who(thread: u32) -> (u32, String) {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let process = field("Tgid:").and_then(|number| number.parse().ok()).unwrap_or(thread);
    let file = std::fs::read_link(format!("/proc/{thread}/exe")).ok().map(|file| file.display().to_string());
    (process, file.or_else(|| field("Name:").map(str::to_owned)).unwrap_or_default())
}
