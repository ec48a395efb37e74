//! The ring: mapped twice in a row, so that no record is cut by its end.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::capture::Capture;
use super::layout::{CONFIG, FILES, Kind, MAGIC, NONE, Reasons, Record, Shared, state};
use super::sys;

/// What a group is: a tree, and which of its names belong to it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The tree, on one file system, without symbolic links in it.
    pub root: std::path::PathBuf,
    /// As in [`crate::Globs`].
    pub patterns: Vec<String>,
    /// Bytes of the ring: a power of two, at least 64 KiB. 16 MiB are held by caches where 256 MiB are not.
    pub ring_bytes: u64,
    /// How long a full ring holds a program up before the order is given up.
    pub stall_ms: u32,
    /// How long a lock does whose holder lives.
    pub lock_ms: u32,
    /// Permissions of the ring's file. Whoever may write it is trusted with all of the group: `0o660` and `owner_group` let programs of
    /// one group of users record too.
    pub mode: u32,
    /// The group of users that the ring's file belongs to, if not the maker's own.
    pub owner_group: Option<u32>,
}

impl Group {
    /// A group with the usual bounds.
    pub fn new(root: impl Into<std::path::PathBuf>, patterns: &[&str]) -> Self {
        Self {
            root: root.into(),
            patterns: patterns.iter().map(ToString::to_string).collect(),
            ring_bytes: 16 << 20,
            stall_ms: 200,
            lock_ms: 1000,
            mode: 0o600,
            owner_group: None,
        }
    }

    /// Makes the ring at `path`, on which programs start to record at once; one that is there is used as it is.
    ///
    /// # Errors
    /// What is wrong with the group, the path or the file system, with its mend.
    pub fn create(&self, path: &Path) -> io::Result<Capture> {
        if path.exists() {
            let there = Capture::at(path)?;
            let (root, patterns) = (self.canonical()?, self.patterns_text()?);
            if there.root() != root.as_os_str().as_bytes() || there.patterns() != patterns {
                let why = format!(
                    "{} is the ring of another group; remove it once no program uses it, or name another",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            return Ok(there);
        }
        if !self.ring_bytes.is_power_of_two() || !(1 << 16..=1 << 40).contains(&self.ring_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the ring's bytes must be a power of two from 65536 on",
            ));
        }
        let root = self.canonical()?;
        let patterns = self.patterns_text()?;
        let config: Vec<u8> = [root.as_os_str().as_bytes(), b"\0", &patterns].concat();
        if config.len() > CONFIG {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("root and patterns are longer than {CONFIG} bytes"),
            ));
        }
        let inside = CString::new(root.as_os_str().as_bytes())?;
        let device = sys::stat(libc::AT_FDCWD, inside.as_ptr())?.key[0];
        let dir = std::fs::File::open(&root)?;
        if let Err(error) = sys::handle(dir.as_raw_fd(), c"".as_ptr()) {
            let why = format!(
                "{}: its file system has no file handles ({}); put the group on ext4, xfs, btrfs or tmpfs",
                root.display(),
                io::Error::from(error)
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        // Made under another name: whoever finds it finds it whole.
        let new = path.with_extension(format!("new-{}", std::process::id()));
        // Left by a maker of the same number that was killed; what anyone else puts there is not written to.
        let _ = std::fs::remove_file(&new);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        file.set_len(size_of::<Shared>() as u64 + self.ring_bytes)?;
        std::os::unix::fs::fchown(&file, None, self.owner_group)?;
        // The umask must not keep out who is let in.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(self.mode & 0o666))?;
        let capture = Capture::map(&file, self.ring_bytes)?;
        let shared = capture.shared;
        shared.ring_bytes.store(self.ring_bytes, Ordering::Relaxed);
        shared.stall_ms.store(self.stall_ms, Ordering::Relaxed);
        shared.lock_ms.store(self.lock_ms, Ordering::Relaxed);
        shared.device.store(device, Ordering::Relaxed);
        shared.config_len.store(config.len() as u32, Ordering::Relaxed);
        for (to, &byte) in shared.config.iter().zip(&config) {
            to.store(byte, Ordering::Relaxed);
        }
        for bucket in &shared.buckets {
            bucket.store(NONE, Ordering::Relaxed);
        }
        shared.next.store(1, Ordering::Relaxed);
        shared.reasons.store(Reasons::NEW | Reasons::ALL, Ordering::Relaxed);
        shared.lost.store(1, Ordering::Relaxed);
        shared.ever.store(Reasons::NEW | Reasons::ALL, Ordering::Relaxed);
        shared.magic.store(MAGIC, Ordering::Release);
        std::fs::rename(&new, path)?;
        Capture::at(path)
    }

    fn canonical(&self) -> io::Result<std::path::PathBuf> {
        std::fs::canonicalize(&self.root)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.root.display())))
    }

    fn patterns_text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        for pattern in &self.patterns {
            if pattern.is_empty() || pattern.contains('\0') {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pattern is empty or holds a zero byte"));
            }
            text.extend_from_slice(pattern.as_bytes());
            text.push(0);
        }
        Ok(text)
    }
}

/// What a record says.
#[derive(Clone, Copy)]
pub(super) struct Say<'a> {
    pub(super) kind: Kind,
    pub(super) file: u32,
    pub(super) id: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) texts: [&'a [u8]; 2],
    /// Bytes after the texts, filled in by the caller.
    pub(super) more: usize,
}

impl<'a> Say<'a> {
    pub(super) fn of(kind: Kind, file: u32, id: u64) -> Self {
        Self { kind, file, id, offset: 0, len: 0, texts: [&[], &[]], more: 0 }
    }
    pub(super) fn at(self, offset: u64, len: u64) -> Self {
        Self { offset, len, ..self }
    }
    pub(super) fn named(self, first: &'a [u8], second: &'a [u8]) -> Self {
        Self { texts: [first, second], ..self }
    }
}

/// A record that was reserved.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) at: u64,
    pub(super) seq: u64,
}

impl Capture {
    /// The byte at `at`.
    fn byte(&self, at: u64) -> *mut u8 {
        let place = (at & (self.ring_bytes - 1)) as usize;
        // SAFETY: within the first of both mappings.
        unsafe { self.ring.as_ptr().add(place) }
    }

    /// The record at `at`, a place between tail and head, and a multiple of 64 unless somebody wrote nonsense into the ring.
    pub(super) fn record(&self, at: u64) -> &Record {
        // SAFETY: a multiple of 64 below the ring's bytes, themselves a multiple of 64: 64 bytes lie there, aligned. They are all
        // atomics, of which any bytes are a value.
        unsafe { &*self.byte(at & !63).cast::<Record>() }
    }

    /// Whether there can be records between these places. Both lie in memory that every program of the group may write to.
    pub(super) fn spans(&self, from: u64, head: u64) -> bool {
        head.wrapping_sub(from) <= self.ring_bytes
    }

    /// The place after the record at `at`; `None` if it says what no record does.
    pub(super) fn after(&self, at: u64, head: u64) -> Option<u64> {
        let total = u64::from(self.record(at).total.load(Ordering::Relaxed));
        (total >= 64 && total.is_multiple_of(64) && total <= head.saturating_sub(at)).then(|| at + total)
    }

    /// Bytes of the ring from `at` on, not more than it has.
    pub(super) fn bytes(&self, at: u64, len: usize) -> &[AtomicU8] {
        let len = len.min(self.ring_bytes as usize);
        // SAFETY: the first byte is in the first mapping, the second follows it, and no length is above the ring's.
        unsafe { core::slice::from_raw_parts(self.byte(at).cast::<AtomicU8>(), len) }
    }

    /// Bytes of the ring from `at` on, in words where they lie so.
    pub(super) fn read(&self, at: u64, to: &mut [u8]) {
        let bytes = self.bytes(at, to.len());
        // SAFETY: atomic bytes that lie as atomic words do are such words.
        let (first, words, last) = unsafe { bytes.align_to::<AtomicU64>() };
        let (head, rest) = to.split_at_mut(first.len());
        let (middle, tail) = rest.split_at_mut(words.len() * 8);
        for (to, from) in head.iter_mut().zip(first).chain(tail.iter_mut().zip(last)) {
            *to = from.load(Ordering::Relaxed);
        }
        for (to, from) in middle.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Text of the ring.
    pub(super) fn copied(bytes: &[AtomicU8]) -> Vec<u8> {
        bytes.iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    /// Where the kernel may put the bytes after the texts.
    #[allow(clippy::mut_from_ref, reason = "the bytes are those of one record that one thread fills")]
    pub(super) fn room(&self, slot: Slot, texts: usize, len: usize) -> &mut [u8] {
        let len = len.min(self.ring_bytes as usize);
        let first = self.byte(slot.at.wrapping_add(64 + texts as u64));
        // SAFETY: within both mappings, as in `bytes`. Reserved by this thread; the kernel alone writes there, and no one here reads
        // through the slice. A program that writes there against the rules changes what is copied, not what is referred to.
        unsafe { core::slice::from_raw_parts_mut(first, len) }
    }

    /// Reserves a record and fills it in. `None` once the ring was full for longer than the limit.
    pub(super) fn reserve(&self, say: Say<'_>, first: u32) -> Option<Slot> {
        self.reserve_here(say, first)
    }

    /// The same, for where what is said is known when this is compiled.
    #[inline(always)]
    pub(super) fn reserve_here(&self, say: Say<'_>, first: u32) -> Option<Slot> {
        let [one, two] = say.texts;
        let total = (64 + one.len() + two.len() + say.more).next_multiple_of(64) as u64;
        if total > self.ring_bytes / 2 {
            return None;
        }
        let mut until = 0;
        loop {
            let held = self.shared.ring.take(self.own(), self.shared.lock_ms.load(Ordering::Relaxed))?;
            let head = self.shared.head.load(Ordering::Relaxed);
            let mut tail = self.shared.seen.load(Ordering::Relaxed);
            if !self.holds(tail, head, total) {
                tail = self.shared.tail.load(Ordering::Acquire);
                self.shared.seen.store(tail, Ordering::Relaxed);
                if !self.holds(tail, head, total) {
                    drop(held);
                    self.wait_room(tail, &mut until)?;
                    continue;
                }
            }
            let seq = self.shared.next.load(Ordering::Relaxed);
            let record = self.record(head);
            record.kind.store(say.kind as u32, Ordering::Relaxed);
            record.total.store(total as u32, Ordering::Relaxed);
            record.owner.store(self.own(), Ordering::Relaxed);
            record.seq.store(seq, Ordering::Relaxed);
            let named_by_it = say.id == 0 && matches!(say.kind, Kind::Create | Kind::Bind | Kind::Enter);
            record.id.store(if named_by_it { seq } else { say.id }, Ordering::Relaxed);
            record.file.store(say.file, Ordering::Relaxed);
            record.texts.store((one.len() | two.len() << 16) as u32, Ordering::Relaxed);
            record.offset.store(say.offset, Ordering::Relaxed);
            record.len.store(say.len, Ordering::Relaxed);
            record.time.store(self.time(), Ordering::Relaxed);
            if !one.is_empty() || !two.is_empty() {
                let texts = self.bytes(head.wrapping_add(64), one.len() + two.len());
                for (to, &byte) in texts.iter().zip(one.iter().chain(two)) {
                    to.store(byte, Ordering::Relaxed);
                }
            }
            record.state.store(first, Ordering::Relaxed);
            // Number and place change apart: whoever takes the lock from a dead process must not see a number twice.
            self.shared.next.store(seq.wrapping_add(1), Ordering::Relaxed);
            self.shared.head.store(head.wrapping_add(total), Ordering::Release);
            // Stores are seen in their order on this processor: what the operation does is not seen before the record.
            drop(held);
            self.ahead(head.wrapping_add(total));
            return Some(Slot { at: head, seq });
        }
    }

    /// Whether there is room for `total` bytes more.
    #[inline]
    fn holds(&self, tail: u64, head: u64, total: u64) -> bool {
        self.spans(tail, head) && self.spans(tail, head.wrapping_add(total))
    }

    /// Waits until the tail moves; `None` after the limit, which `until` keeps.
    #[cold]
    fn wait_room(&self, tail: u64, until: &mut u64) -> Option<()> {
        let now = sys::now();
        if *until == 0 {
            *until = now + u64::from(self.shared.stall_ms.load(Ordering::Relaxed)) * 1_000_000;
        } else if now >= *until || !self.reasons().in_order() {
            return None;
        }
        let room = self.shared.room.load(Ordering::Acquire);
        if self.shared.tail.load(Ordering::Acquire) == tail {
            self.shared.waiters.store(1, Ordering::SeqCst);
            self.wake();
            sys::futex_wait(&self.shared.room, room, 5);
        }
        Some(())
    }

    /// The next record's line is fetched while the kernel does this one's operation: it was last touched a whole ring ago.
    #[inline]
    fn ahead(&self, at: u64) {
        // SAFETY: a hint, about a place in the ring.
        unsafe { core::arch::asm!("prefetchw [{}]", in(reg) self.byte(at & !63), options(nostack, preserves_flags)) };
    }

    /// The record's operation was done.
    pub(super) fn publish(&self, slot: Slot, end: u32) {
        self.record(slot.at).state.store(end, Ordering::Release);
        if self.shared.asleep.load(Ordering::SeqCst) != 0 {
            self.wake();
        }
    }

    /// The record is complete; its operation begins.
    pub(super) fn begin(&self, slot: Slot) {
        self.record(slot.at).state.store(state::INTENT, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// There is more room than there was.
    pub(super) fn roomier(&self) {
        if self.shared.waiters.load(Ordering::SeqCst) != 0 {
            self.shared.waiters.store(0, Ordering::SeqCst);
            self.shared.room.fetch_add(1, Ordering::SeqCst);
            sys::futex_wake(&self.shared.room, u32::MAX >> 1);
        }
    }

    /// Wakes a drainer that sleeps.
    pub(super) fn wake(&self) {
        if self.shared.asleep.swap(0, Ordering::SeqCst) != 0 {
            sys::futex_wake(&self.shared.asleep, 1);
        }
    }

    /// The file at a place of the table.
    pub(super) fn file(&self, index: u32) -> &super::layout::File {
        &self.shared.files[index as usize % FILES]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::super::layout::{Kind, NONE, state};
    use super::super::{Capture, Change, Consumer, Drained, Drainer, Listed, Operation};
    use super::Group;

    /// Counts listings, takes no more than so many operations, and has something in every directory that goes.
    struct Listings(u64, u64);

    impl Consumer for Listings {
        fn take(&mut self, operation: &Operation<'_>) -> std::io::Result<()> {
            self.0 += u64::from(matches!(operation.change, Change::Listing { .. }));
            if matches!(operation.change, Change::Rmdir { .. }) {
                return Err(std::io::Error::from_raw_os_error(libc::ENOTEMPTY));
            }
            self.1 = self.1.checked_sub(1).ok_or_else(|| std::io::Error::other("no more"))?;
            Ok(())
        }
        fn wants(&mut self, _: &Listed) -> bool {
            false
        }
    }

    /// What no program writes that keeps to the rules: lengths of a record, where it lies, and what of a file it is about.
    struct Nonsense {
        head: u64,
        kind: u32,
        total: u32,
        texts: u32,
        offset: u64,
        len: u64,
    }

    const PLAIN: Nonsense = Nonsense { head: 64, kind: Kind::Write as u32, total: 64, texts: 0, offset: 0, len: 0 };

    fn plant(capture: &Capture, what: &Nonsense) {
        let shared = capture.shared;
        let head = shared.head.load(SeqCst);
        let record = capture.record(head);
        for (word, value) in [
            (&record.kind, what.kind),
            (&record.total, what.total),
            (&record.texts, what.texts),
            (&record.file, NONE),
            (&record.state, state::DONE),
        ] {
            word.store(value, SeqCst);
        }
        record.offset.store(what.offset, SeqCst);
        record.len.store(what.len, SeqCst);
        shared.head.store(head.wrapping_add(what.head), SeqCst);
    }

    /// Whether what it was last given may be shown.
    #[derive(Default)]
    struct Shown(Option<bool>);

    impl Consumer for Shown {
        fn take(&mut self, operation: &Operation<'_>) -> std::io::Result<()> {
            self.0 = Some(operation.publish);
            Ok(())
        }
    }

    /// While a listing is caught up with, a file goes before its bytes were read: what it leaves behind is not shown as whole once the
    /// listing is, but when the record comes by which it went.
    #[test]
    fn a_file_that_is_gone_stays_hidden_after_a_listing() {
        let dir = std::env::temp_dir().join(format!("apus-hidden-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).expect("a folder");
        let ring = dir.join("ring");
        let capture = Group::new(dir.join("root"), &["*"]).create(&ring).expect("a ring");
        let mut drainer = Drainer::open(&ring).expect("nobody drains it");
        drainer.drain(&mut Listings(0, u64::MAX)).expect("it takes all");
        assert!(capture.reasons().in_order() && capture.shown());
        let shared = capture.shared;
        let mut settle = |gone: u64| {
            // As `renew` leaves it, then as `gone` does; more records wait.
            (drainer.whole_at, _) = (Some(50), shared.hidden.swap(gone.max(50), SeqCst));
            drainer.handed = 49;
            shared.shipped.store(49, SeqCst);
            plant(&capture, &PLAIN);
            let mut shown = Shown::default();
            drainer.show(&mut shown).expect("it takes all");
            shown.0
        };
        assert_eq!((settle(50), capture.shown()), (Some(true), true));
        assert_eq!((settle(60), capture.shown()), (Some(false), false));
        shared.shipped.store(60, SeqCst);
        assert!(capture.shown());
        std::fs::remove_dir_all(dir).expect("ours");
    }

    /// What a listing was made for is not forgotten where the consumer fails in the middle of it: the next one is of all.
    #[test]
    fn a_listing_that_failed_is_made_again() {
        let dir = std::env::temp_dir().join(format!("apus-again-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).expect("a folder");
        let ring = dir.join("ring");
        let capture = Group::new(dir.join("root"), &["*"]).create(&ring).expect("a ring");
        let mut drainer = Drainer::open(&ring).expect("nobody drains it");
        for room in 0..2 {
            let mut listings = Listings(0, room);
            assert!(drainer.drain(&mut listings).is_err(), "after {room}");
            assert!(!capture.reasons().in_order(), "after {room}");
            assert_eq!(listings.0, 1);
        }
        let mut listings = Listings(0, u64::MAX);
        assert_eq!(drainer.drain(&mut listings).expect("it takes all"), Drained::Some);
        assert!(capture.reasons().in_order() && capture.shown());
        std::fs::remove_dir_all(dir).expect("ours");
    }

    /// The order is lost, all is listed anew, and nothing ends or waits for ever.
    #[test]
    fn nonsense_in_the_ring_loses_the_order_and_no_more() {
        let dir = std::env::temp_dir().join(format!("apus-nonsense-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).expect("a folder");
        let ring = dir.join("ring");
        let group = Group { ring_bytes: 1 << 16, ..Group::new(dir.join("root"), &["*"]) };
        let capture = group.create(&ring).expect("a ring");
        let mut drainer = Drainer::open(&ring).expect("nobody drains it");
        let mut listings = Listings(0, u64::MAX);
        let mut settle = |listings: &mut Listings| {
            while drainer.drain(listings).expect("it takes all") != Drained::Idle || !capture.reasons().in_order() {}
        };
        settle(&mut listings);
        let before = Kind::Before as u32;
        for (at, what) in [
            Nonsense { total: 0, ..PLAIN },
            Nonsense { total: 65, head: 128, ..PLAIN },
            Nonsense { total: 128, ..PLAIN },
            Nonsense { total: u32::MAX, ..PLAIN },
            Nonsense { kind: 99, ..PLAIN },
            Nonsense { texts: u32::MAX, ..PLAIN },
            Nonsense { kind: before, len: 1, ..PLAIN },
            Nonsense { kind: before, len: u64::MAX, ..PLAIN },
            Nonsense { offset: u64::MAX, len: 5, ..PLAIN },
            Nonsense { offset: 1 << 63, kind: Kind::Extend as u32, ..PLAIN },
            Nonsense { len: 5, ..PLAIN },
            // A record like any other, for which the copy has no place.
            Nonsense { kind: Kind::Rmdir as u32, ..PLAIN },
            Nonsense { head: 32, ..PLAIN },
            Nonsense { head: 1 << 40, ..PLAIN },
            Nonsense { head: 64u64.wrapping_neg(), ..PLAIN },
            Nonsense { head: 1 << 63, ..PLAIN },
        ]
        .iter()
        .enumerate()
        {
            plant(&capture, what);
            settle(&mut listings);
            assert_eq!((listings.0, capture.status().lost), (at as u64 + 2, at as u64 + 2), "nonsense {at}");
        }
        std::fs::remove_dir_all(dir).expect("ours");
    }
}
