//! The side of the programs: what is done before and after an operation. Nothing here allocates or fails loudly; it runs where a
//! program was interrupted anywhere.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use libc::c_int;

use super::busy::Busy;
use super::files::Bound;
use super::layout::{CONFIG, File, Kind, MAGIC, RECENT, Reasons, Shared, Status, state};
use super::lock::{Got, Held};
use super::path::Name;
use super::ring::{Say, Slot};
use super::sys::{self, Errno};
use crate::Globs;

/// Faults that tests plant, to see that they are caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bug {
    /// None.
    #[default]
    None,
    /// Bytes are overwritten before they were read or copied.
    NoCopy,
    /// The record gets its number after the call, outside the lock.
    LateSequence,
}

/// A group's ring, as a program or the drainer sees it.
pub struct Capture {
    pub(super) shared: &'static Shared,
    pub(super) ring: NonNull<u8>,
    pub(super) ring_bytes: u64,
    root: &'static [u8],
    patterns: &'static [u8],
    own: AtomicU32,
    /// When this process began to record: monotonic, nanoseconds.
    since: AtomicU64,
    pub(super) bug: Bug,
}

// SAFETY: all behind the pointer is atomic or written by the one thread that reserved it.
unsafe impl Send for Capture {}
// SAFETY: as above.
unsafe impl Sync for Capture {}

/// Where the bytes of an operation go.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// `len` bytes at an offset.
    At(u64, u64),
    /// `len` bytes at the file's place.
    Here(u64),
    /// `len` bytes at the file's end, where the place is afterwards.
    Append(u64),
    /// As `Append`, but the place stays.
    AppendAside(u64),
    /// The file's new length.
    Truncate(u64),
    /// The file's least length.
    Extend(u64),
    /// Zeros at an offset; the file grows with them if told so.
    Zero(u64, u64, bool),
    /// All from an offset on moves.
    Shift(u64),
}

/// The descriptor belongs to a file that the table has forgotten: it must be looked up anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl Capture {
    /// The ring at `path`.
    ///
    /// # Errors
    /// There is none, or it is of another kind.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Self::attach(file.as_raw_fd()).map_err(|Errno(number)| {
            let why = if number == libc::EPROTO {
                "is no ring of this version of apus-capture; remove it".into()
            } else {
                Errno(number).text()
            };
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
        })
    }

    /// The ring behind `fd`, which may be closed afterwards.
    pub fn attach(fd: c_int) -> Result<Self, Errno> {
        let whole = size_of::<Shared>() as u64;
        let size = sys::fstat(fd)?.size;
        let ring_bytes = size.saturating_sub(whole);
        if !ring_bytes.is_power_of_two() || ring_bytes < 1 << 16 {
            return Err(Errno(libc::EPROTO));
        }
        let mut capture = Self::map_fd(fd, ring_bytes)?;
        let shared = capture.shared;
        let used = shared.config_len.load(Acquire) as usize;
        if shared.magic.load(Acquire) != MAGIC || shared.ring_bytes.load(Relaxed) != ring_bytes || used > CONFIG {
            return Err(Errno(libc::EPROTO));
        }
        // A copy: what is referred to must not change under our hands, whatever a program writes into the ring.
        let text = sys::room(used)?;
        for (to, from) in text.iter_mut().zip(&shared.config) {
            *to = from.load(Relaxed);
        }
        let text: &'static [u8] = text;
        let end = text.iter().position(|&byte| byte == 0).ok_or(Errno(libc::EPROTO))?;
        capture.root = &text[..end];
        capture.patterns = &text[end + 1..];
        Ok(capture)
    }

    pub(super) fn map(file: &std::fs::File, ring_bytes: u64) -> io::Result<Self> {
        Ok(Self::map_fd(file.as_raw_fd(), ring_bytes)?)
    }

    /// Maps the shared part and the ring, and the ring once more behind itself.
    fn map_fd(fd: c_int, ring_bytes: u64) -> Result<Self, Errno> {
        let whole = size_of::<Shared>();
        let ring = ring_bytes as usize;
        let both = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let reserve = [
            0,
            whole + 2 * ring,
            libc::PROT_NONE as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize,
            usize::MAX,
            0,
        ];
        // SAFETY: a new mapping anywhere.
        let base = unsafe { sys::call(libc::SYS_mmap, reserve) };
        if base < 0 {
            return Err(Errno(-base as i32));
        }
        let base = base as usize;
        let fixed = (libc::MAP_SHARED | libc::MAP_FIXED) as usize;
        for (at, len, offset) in [(base, whole + ring, 0), (base + whole + ring, ring, whole)] {
            // SAFETY: within the mapping just made.
            let got = unsafe { sys::call(libc::SYS_mmap, [at, len, both, fixed, fd as usize, offset]) };
            if got < 0 {
                // SAFETY: ours, and nobody has it yet.
                unsafe { sys::call(libc::SYS_munmap, [base, whole + 2 * ring, 0, 0, 0, 0]) };
                return Err(Errno(-got as i32));
            }
        }
        let start = core::ptr::with_exposed_provenance_mut::<u8>(base);
        // SAFETY: mapped for good, of atomics, aligned to a page.
        let shared: &'static Shared = unsafe { &*start.cast::<Shared>() };
        // SAFETY: within the mapping.
        let ring = unsafe { start.add(whole) };
        let ring = NonNull::new(ring).ok_or(Errno(libc::ENOMEM))?;
        Ok(Self {
            shared,
            ring,
            ring_bytes,
            root: &[],
            patterns: &[],
            own: AtomicU32::new(sys::pid()),
            since: AtomicU64::new(sys::now()),
            bug: Bug::None,
        })
    }

    /// Plants a fault.
    pub fn plant(&mut self, bug: Bug) {
        self.bug = bug;
    }

    /// To be called in the child of a fork.
    pub fn forked(&self) {
        self.own.store(sys::pid(), Relaxed);
        self.since.store(sys::now(), Relaxed);
    }

    pub(super) fn own(&self) -> u32 {
        self.own.load(Relaxed)
    }

    /// The time of a record. No process that has another one's number can have begun before it: that is what it is for, and it may be as
    /// old as the drainer's last look at the clock, or as this process.
    #[inline]
    pub(super) fn time(&self) -> u64 {
        if self.shared.asleep.load(Relaxed) != 0 {
            return sys::now();
        }
        self.shared.clock.load(Relaxed).max(self.since.load(Relaxed))
    }

    /// The root, as the kernel names it.
    pub fn root(&self) -> &[u8] {
        self.root
    }

    /// The patterns, each ended by a zero.
    pub fn patterns(&self) -> &[u8] {
        self.patterns
    }

    /// The name below the root, if it is below it.
    pub fn inside<'n>(&self, name: &'n Name) -> Option<&'n [u8]> {
        let rest = name.as_bytes().strip_prefix(self.root)?;
        if self.root == b"/" { Some(rest) } else { rest.strip_prefix(b"/") }
    }

    /// The name below the root, if it belongs to the group.
    pub fn held<'n>(&self, name: &'n Name) -> Option<&'n [u8]> {
        self.inside(name).filter(|below| Globs::new(self.patterns).holds(below))
    }

    /// What can be told of the group.
    pub fn status(&self) -> Status {
        let shared = self.shared;
        Status {
            reasons: self.reasons(),
            ever: Reasons(shared.ever.load(Relaxed)),
            untracked: shared.untracked.load(Relaxed) != 0,
            next: shared.next.load(Relaxed),
            shipped: shared.shipped.load(Relaxed),
            waiting: shared.head.load(Relaxed).saturating_sub(shared.tail.load(Relaxed)),
            copied: shared.copied.load(Relaxed),
            lost: shared.lost.load(Relaxed),
            reread: shared.reread.load(Relaxed),
        }
    }

    /// Whether the tree after the last operation that was handed over is one that programs could see.
    pub fn shown(&self) -> bool {
        let hidden = self.shared.hidden.load(Acquire);
        hidden == 0 || hidden <= self.shared.shipped.load(Acquire)
    }

    /// How often files came in under a new name.
    pub fn entered(&self) -> u32 {
        self.shared.entered.load(Acquire)
    }

    pub(super) fn reasons(&self) -> Reasons {
        Reasons(self.shared.reasons.load(SeqCst))
    }

    /// The order is lost: told before the operation by which it is.
    #[cold]
    pub fn lose(&self, reasons: u32) {
        self.shared.ever.fetch_or(reasons, SeqCst);
        if self.shared.reasons.fetch_or(reasons, SeqCst) == 0 {
            self.shared.lost.fetch_add(1, Relaxed);
        }
        self.wake();
    }

    /// There was no room for a record.
    pub(super) fn full(&self) {
        if self.reasons().in_order() {
            self.lose(Reasons::RING_FULL);
        }
    }

    #[inline]
    pub(super) fn lock<'a>(&'a self, lock: &'a super::lock::Lock) -> Option<Held<'a>> {
        lock.take(self.own(), self.shared.lock_ms.load(Relaxed))
    }

    /// Does an operation on the bytes of a file, with its record. `fd` is open on the file. `call` gives the kernel's result; it is
    /// called exactly once, unless the file is [`Stale`].
    pub fn change(
        &self,
        bound: Bound,
        fd: c_int,
        source: Source,
        mut call: impl FnMut() -> isize,
    ) -> Result<isize, Stale> {
        let file = self.file(bound.index);
        let Some(busy) = Busy::enter() else { return Ok(self.aside(file, Reasons::SIGNAL, call)) };
        if self.bug == Bug::LateSequence {
            let result = call();
            return self.change_locked(&busy, bound, fd, late(source, fd, result), || result);
        }
        self.change_locked(&busy, bound, fd, source, call)
    }

    /// Without a lock: the whole file is read anew, whatever comes between.
    #[cold]
    fn aside(&self, file: &File, why: u32, mut call: impl FnMut() -> isize) -> isize {
        file.whole.store(1, SeqCst);
        self.lose(why);
        let result = call();
        file.whole.store(1, SeqCst);
        self.lose(why);
        result
    }

    pub(super) fn change_locked(
        &self,
        _busy: &Busy,
        bound: Bound,
        fd: c_int,
        source: Source,
        mut call: impl FnMut() -> isize,
    ) -> Result<isize, Stale> {
        let file = self.file(bound.index);
        let Some(held) = self.lock(&file.lock) else { return Ok(self.aside(file, Reasons::LOCK, call)) };
        if file.generation.load(Relaxed) != bound.generation {
            return Err(Stale);
        }
        if held.got == Got::Dead {
            file.note_all(self.shared.next.load(Acquire));
        }
        if file.dead.load(Relaxed) != 0 && file.last.load(Relaxed) <= file.look(self.shared) {
            return Err(Stale);
        }
        let (start, end) = self.extent(file, fd, source);
        if !self.reasons().in_order() {
            return Ok(self.marked(file, fd, source, start, end, &mut call));
        }
        // An appended byte is behind all that was there.
        let destroys = !matches!(source, Source::Append(_) | Source::AppendAside(_) | Source::Extend(_));
        if destroys
            && self.bug != Bug::NoCopy
            && file.may_be_unread(start, end)
            && !self.copy_before(file, bound.index, fd, start, end)
        {
            return Ok(self.marked(file, fd, source, start, end, &mut call));
        }
        let id = file.id.load(Relaxed);
        let (kind, offset, len) = match source {
            Source::At(..) | Source::Here(_) | Source::Append(_) | Source::AppendAside(_) => {
                (Kind::Write, start, end - start)
            }
            Source::Truncate(len) => (Kind::Truncate, len, 0),
            Source::Extend(len) => (Kind::Extend, len, 0),
            Source::Zero(from, len, _) => (Kind::Zero, from, len),
            Source::Shift(from) => (Kind::Rewrite, from, file.size.load(Relaxed).saturating_sub(from)),
        };
        let Some(slot) = self.reserve_here(Say::of(kind, bound.index, id).at(offset, len), state::INTENT) else {
            self.full();
            return Ok(self.marked(file, fd, source, start, end, &mut call));
        };
        if kind.refers() {
            file.note(slot.seq, start, end, self.shared);
        } else {
            file.last.store(slot.seq, Relaxed);
        }
        let result = call();
        self.conclude(file, fd, source, start, slot, result);
        drop(held);
        Ok(result)
    }

    /// The bytes that an operation is about, before it is done; those of an appending one are where the records say.
    #[inline]
    fn extent(&self, file: &File, fd: c_int, source: Source) -> (u64, u64) {
        let size = || file.size.load(Relaxed);
        match source {
            Source::At(offset, len) | Source::Zero(offset, len, _) => (offset, offset.saturating_add(len)),
            Source::Here(len) => {
                let at = sys::place(fd).unwrap_or(0);
                (at, at.saturating_add(len))
            }
            Source::Append(len) | Source::AppendAside(len) => (size(), size().saturating_add(len)),
            Source::Truncate(len) => (len, u64::MAX),
            Source::Extend(len) => (len, len),
            Source::Shift(from) => (from, u64::MAX),
        }
    }

    /// Where the bytes went, told by the record.
    #[inline]
    fn conclude(&self, file: &File, fd: c_int, source: Source, start: u64, slot: Slot, result: isize) {
        if result < 0 {
            return self.publish(slot, state::FAILED);
        }
        let record = self.record(slot.at);
        let done = result as u64;
        let size = &file.size;
        match source {
            Source::At(..) | Source::Here(_) => {
                record.len.store(done, Relaxed);
                if size.load(Relaxed) < start + done {
                    size.store(start + done, Relaxed);
                }
                file.noted(start, start + done);
            }
            Source::Append(_) | Source::AppendAside(_) => {
                let end = if matches!(source, Source::Append(_)) {
                    sys::place(fd).ok()
                } else {
                    sys::fstat(fd).ok().map(|stat| stat.size)
                };
                let end = end.unwrap_or(start.saturating_add(done));
                record.offset.store(end.saturating_sub(done), Relaxed);
                record.len.store(done, Relaxed);
                size.store(end, Relaxed);
                // The bytes may lie behind where the records said.
                file.noted(end.saturating_sub(done), end);
            }
            Source::Truncate(len) => size.store(len, Relaxed),
            Source::Extend(len) => {
                size.fetch_max(len, Relaxed);
            }
            Source::Zero(from, len, grows) => {
                if grows {
                    size.fetch_max(from + len, Relaxed);
                }
            }
            Source::Shift(from) => {
                let end = sys::fstat(fd).map_or(from, |stat| stat.size);
                record.len.store(end.saturating_sub(from), Relaxed);
                size.store(end, Relaxed);
            }
        }
        self.publish(slot, state::DONE);
    }

    /// While the order is lost: what may differ is remembered, and the operation done.
    #[cold]
    fn marked(
        &self,
        file: &File,
        fd: c_int,
        source: Source,
        start: u64,
        end: u64,
        call: &mut dyn FnMut() -> isize,
    ) -> isize {
        if matches!(source, Source::Append(_) | Source::AppendAside(_)) {
            // To the end, wherever that is.
            file.mark(sys::fstat(fd).map_or(0, |stat| stat.size.min(start)), u64::MAX);
        } else {
            file.mark(start, end);
        }
        let result = call();
        if result >= 0 {
            match source {
                Source::Truncate(len) => file.size.store(len, Relaxed),
                _ => file.size.store(sys::fstat(fd).map_or(end, |stat| stat.size), Relaxed),
            }
        }
        result
    }

    /// Copies the bytes within `start..end` that nobody has read into the ring. `false`: it could not be done and the order is lost.
    #[cold]
    pub(super) fn copy_before(&self, file: &File, index: u32, fd: c_int, start: u64, end: u64) -> bool {
        let mut pieces = [(0, 0); RECENT + 1];
        let shipped = file.look(self.shared);
        if file.last.load(Relaxed) <= shipped {
            file.top.store(0, Relaxed);
            return true;
        }
        let count = file.unread(start, end, shipped, &mut pieces);
        if count == 0 {
            return true;
        }
        let size = sys::fstat(fd).map_or(u64::MAX, |stat| stat.size);
        let pieces = &mut pieces[..count];
        let mut total = 0;
        for piece in pieces.iter_mut() {
            piece.1 = piece.1.min(size).max(piece.0);
            total += piece.1 - piece.0;
        }
        // As much as the ring can hardly hold is waited for instead.
        if total > self.ring_bytes / 4 {
            let ready = self.wait_shipped(file.last.load(Relaxed));
            if !ready {
                self.full();
            }
            return ready;
        }
        self.copy_pieces(file, index, fd, pieces).unwrap_or_else(|| {
            let ready = self.wait_shipped(file.last.load(Relaxed));
            if !ready {
                self.lose(Reasons::COPY);
            }
            ready
        })
    }

    /// The file goes with its bytes: those that nobody has read are copied. As much as the ring can hardly hold is waited for instead;
    /// where that is in vain the drainer finds the file gone, and says so.
    #[cold]
    pub(super) fn copy_last(&self, file: &File, index: u32, fd: c_int) {
        let mut pieces = [(0, 0); RECENT + 1];
        let count = file.unread(0, sys::fstat(fd).map_or(0, |stat| stat.size), file.look(self.shared), &mut pieces);
        let total: u64 = pieces[..count].iter().map(|(from, to)| to - from).sum();
        if total > self.ring_bytes / 4 {
            self.wait_shipped(file.last.load(Relaxed));
        } else {
            self.copy_pieces(file, index, fd, &pieces[..count]);
        }
    }

    /// Copies these bytes of a file into the ring. `false`: it is full, and the order is lost; `None`: they cannot be read.
    fn copy_pieces(&self, file: &File, index: u32, fd: c_int, pieces: &[(u64, u64)]) -> Option<bool> {
        let mut readable = Readable { fd, own: false };
        for &(from, to) in pieces {
            let mut at = from;
            while at < to {
                let want = (to - at).min(self.ring_bytes / 16) as usize;
                let say = Say { more: want, ..Say::of(Kind::Before, index, file.id.load(Relaxed)).at(at, want as u64) };
                let Some(slot) = self.reserve(say, state::COPYING) else {
                    self.full();
                    return Some(false);
                };
                let Ok(got) = readable.pread(self.room(slot, 0, want), at) else {
                    self.publish(slot, state::FAILED);
                    return None;
                };
                self.record(slot.at).len.store(got as u64, Relaxed);
                self.publish(slot, state::DONE);
                self.shared.copied.fetch_add(got as u64, Relaxed);
                if got == 0 {
                    break;
                }
                at += got as u64;
            }
        }
        Some(true)
    }

    /// Waits until the drainer has taken record `seq`, as long as a full ring would hold a program up.
    fn wait_shipped(&self, seq: u64) -> bool {
        let until = sys::now() + u64::from(self.shared.stall_ms.load(Relaxed)) * 1_000_000;
        loop {
            let room = self.shared.room.load(Acquire);
            if self.shared.shipped.load(Acquire) >= seq {
                return true;
            }
            if sys::now() > until || !self.reasons().in_order() {
                return false;
            }
            self.shared.waiters.store(1, SeqCst);
            self.wake();
            sys::futex_wait(&self.shared.room, room, 2);
        }
    }

    /// The file may change in ways that leave no record, from now on.
    pub fn untracked(&self, bound: Bound) {
        let file = self.file(bound.index);
        if file.untracked.swap(1, SeqCst) == 0 {
            self.shared.untracked.store(1, SeqCst);
        }
        self.wake();
    }
}

/// A descriptor of the same file from which bytes can be read.
struct Readable {
    fd: c_int,
    own: bool,
}

impl Readable {
    fn pread(&mut self, to: &mut [u8], at: u64) -> Result<usize, Errno> {
        if self.fd < 0 {
            return Err(Errno(libc::EBADF));
        }
        match sys::pread(self.fd, to, at) {
            // Opened for writing alone, or past the page cache.
            Err(Errno(libc::EBADF | libc::EINVAL)) if !self.own => {
                let mut link = [0u8; 32];
                super::path::descriptor(self.fd, &mut link);
                self.fd = sys::openat(libc::AT_FDCWD, link.as_ptr().cast(), libc::O_RDONLY)?;
                self.own = true;
                sys::pread(self.fd, to, at)
            }
            other => other,
        }
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        if self.own {
            sys::close(self.fd);
        }
    }
}

/// The bytes of an operation that was done already: for the planted fault alone.
fn late(source: Source, fd: c_int, result: isize) -> Source {
    match source {
        Source::Here(_) if result > 0 => {
            Source::At(sys::place(fd).unwrap_or(0).saturating_sub(result as u64), result as u64)
        }
        other => other,
    }
}
