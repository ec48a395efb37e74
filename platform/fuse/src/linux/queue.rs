//! Operations on their way to the consumer: in memory, bounded by bytes. Whoever adds one waits for room, but not for ever.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use apus_capture::linux::Reasons;
use apus_capture::{Change, FileId, Operation};

/// What was done, with its own names and bytes.
#[derive(Clone, Debug)]
pub(super) enum Did {
    Create(Vec<u8>, u32),
    Write(u64, Vec<u8>),
    Truncate(u64),
    Extend(u64),
    Zero(u64, u64),
    Rename(Vec<u8>, Vec<u8>),
    Exchange(Vec<u8>, Vec<u8>),
    Link(Vec<u8>),
    Symlink(Vec<u8>, Vec<u8>),
    Unlink(Vec<u8>),
    Mkdir(Vec<u8>, u32),
    Rmdir(Vec<u8>),
    Mode(Vec<u8>, u32),
    Owner(Vec<u8>, u32, u32),
    Times(Vec<u8>, i64, i64),
    SetAttribute(Vec<u8>, Vec<u8>, Vec<u8>),
    RemoveAttribute(Vec<u8>, Vec<u8>),
    Sync,
}

impl Did {
    /// Bytes that it holds, besides itself.
    fn bytes(&self) -> usize {
        match self {
            Self::Truncate(_) | Self::Extend(_) | Self::Zero(..) | Self::Sync => 0,
            Self::Create(a, _)
            | Self::Write(_, a)
            | Self::Link(a)
            | Self::Unlink(a)
            | Self::Mkdir(a, _)
            | Self::Rmdir(a)
            | Self::Mode(a, _)
            | Self::Owner(a, ..)
            | Self::Times(a, ..) => a.len(),
            Self::Rename(a, b) | Self::Exchange(a, b) | Self::Symlink(a, b) | Self::RemoveAttribute(a, b) => {
                a.len() + b.len()
            }
            Self::SetAttribute(a, b, c) => a.len() + b.len() + c.len(),
        }
    }

    /// As the consumer takes it.
    fn change(&self) -> Change<'_> {
        match self {
            Self::Create(path, mode) => Change::Create { path, mode: *mode },
            Self::Write(offset, bytes) => Change::Write { offset: *offset, bytes },
            Self::Truncate(len) => Change::Truncate { len: *len },
            Self::Extend(len) => Change::Extend { len: *len },
            Self::Zero(offset, len) => Change::Zero { offset: *offset, len: *len },
            Self::Rename(from, to) => Change::Rename { from, to },
            Self::Exchange(from, to) => Change::Exchange { from, to },
            Self::Link(path) => Change::Link { path },
            Self::Symlink(path, target) => Change::Symlink { path, target },
            Self::Unlink(path) => Change::Unlink { path },
            Self::Mkdir(path, mode) => Change::Mkdir { path, mode: *mode },
            Self::Rmdir(path) => Change::Rmdir { path },
            Self::Mode(path, mode) => Change::Mode { path, mode: *mode },
            Self::Owner(path, user, group) => Change::Owner { path, user: *user, group: *group },
            Self::Times(path, accessed, modified) => Change::Times { path, accessed: *accessed, modified: *modified },
            Self::SetAttribute(path, name, value) => Change::SetAttribute { path, name, value },
            Self::RemoveAttribute(path, name) => Change::RemoveAttribute { path, name },
            Self::Sync => Change::Sync,
        }
    }
}

/// One operation that waits.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) seq: u64,
    pub(super) file: u64,
    pub(super) publish: bool,
    pub(super) did: Did,
}

impl Item {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.did.bytes()
    }

    pub(super) fn operation(&self, publish: bool) -> Operation<'_> {
        Operation { seq: self.seq, file: FileId(self.file), publish, change: self.did.change() }
    }
}

struct Inner {
    items: VecDeque<Item>,
    /// Bytes that were added and not handed over.
    used: usize,
    next: u64,
    reasons: u32,
    ever: u32,
    lost: u64,
    stalls: u64,
    asleep: bool,
    /// How many wait for room.
    short: usize,
    handed: u64,
    closed: bool,
}

/// What can be told of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) reasons: Reasons,
    pub(super) ever: Reasons,
    pub(super) lost: u64,
    pub(super) stalls: u64,
    pub(super) waiting: usize,
    pub(super) next: u64,
    pub(super) handed: u64,
}

/// The queue of a group.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    room: Condvar,
    work: Condvar,
    limit: usize,
    stall: Duration,
}

impl Queue {
    /// Numbers begin at `first`. The order counts as lost until the group was listed.
    pub(super) fn new(first: u64, limit: usize, stall: Duration) -> Self {
        let reasons = Reasons::NEW | Reasons::ALL;
        let inner = Inner {
            items: VecDeque::new(),
            used: 0,
            next: first,
            reasons,
            ever: reasons,
            lost: 1,
            stalls: 0,
            asleep: false,
            short: 0,
            handed: first.saturating_sub(1),
            closed: false,
        };
        Self { inner: Mutex::new(inner), room: Condvar::new(), work: Condvar::new(), limit, stall }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread ends while it holds it")
    }

    /// Adds an operation that was just done; the caller holds the lock of the file or of the names. Its number, or `None`: the order is
    /// lost, and the caller remembers what must be read again before it lets go of the lock. Without a `file` the operation makes one known,
    /// whose number is the operation's own.
    pub(super) fn push(&self, file: Option<u64>, publish: bool, did: Did) -> Option<u64> {
        let mut item = Item { seq: 0, file: file.unwrap_or(0), publish, did };
        let bytes = item.bytes();
        let mut inner = self.inner();
        if inner.reasons == 0 && inner.used > 0 && inner.used + bytes > self.limit {
            inner.stalls += 1;
            inner.short += 1;
            let until = Instant::now() + self.stall;
            while inner.reasons == 0 && inner.used > 0 && inner.used + bytes > self.limit {
                let Some(left) = until.checked_duration_since(Instant::now()) else {
                    lose(&mut inner, Reasons::RING_FULL);
                    break;
                };
                inner = self.room.wait_timeout(inner, left).expect("no thread ends while it holds it").0;
            }
            inner.short -= 1;
        }
        if inner.reasons != 0 {
            return None;
        }
        item.seq = inner.next;
        if file.is_none() {
            item.file = item.seq;
        }
        inner.next += 1;
        inner.used += bytes;
        let seq = item.seq;
        inner.items.push_back(item);
        if inner.asleep {
            inner.asleep = false;
            self.work.notify_one();
        }
        Some(seq)
    }

    /// A number that nothing else has.
    pub(super) fn number(&self) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        inner.next - 1
    }

    /// The order is lost.
    pub(super) fn lose(&self, reasons: u32) {
        lose(&mut self.inner(), reasons);
        self.room.notify_all();
        self.work.notify_one();
    }

    /// The order is kept from here on; the caller lists the group and holds the names. Why it was lost, and the number of the listing.
    /// What still waits is dropped: the listing and all contents stand for it.
    pub(super) fn begin(&self) -> (u32, u64) {
        let mut inner = self.inner();
        let mut reasons = std::mem::take(&mut inner.reasons);
        if !inner.items.is_empty() {
            inner.items.clear();
            inner.used = 0;
            reasons |= Reasons::ALL;
        }
        inner.next += 1;
        (reasons, inner.next - 1)
    }

    /// Up to `many` operations that are due; they count as waiting until [`Queue::handed`].
    pub(super) fn take(&self, many: usize, into: &mut VecDeque<Item>) {
        let mut inner = self.inner();
        let many = many.min(inner.items.len());
        into.extend(inner.items.drain(..many));
    }

    /// `bytes` of operations up to `seq` were taken by the consumer.
    pub(super) fn handed(&self, seq: u64, bytes: usize) {
        let mut inner = self.inner();
        inner.handed = seq;
        inner.used = inner.used.saturating_sub(bytes);
        if inner.short > 0 {
            self.room.notify_all();
        }
    }

    /// Sleeps until there is something, at most `limit`.
    pub(super) fn sleep(&self, limit: Duration) {
        let mut inner = self.inner();
        if inner.items.is_empty() && inner.reasons == 0 && !inner.closed {
            inner.asleep = true;
            inner = self.work.wait_timeout(inner, limit).expect("no thread ends while it holds it").0;
            inner.asleep = false;
        }
    }

    /// Nothing is added any more.
    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.work.notify_all();
    }

    /// Whether nothing is added any more.
    pub(super) fn closed(&self) -> bool {
        self.inner().closed
    }

    pub(super) fn told(&self) -> Told {
        let inner = self.inner();
        Told {
            reasons: Reasons(inner.reasons),
            ever: Reasons(inner.ever),
            lost: inner.lost,
            stalls: inner.stalls,
            waiting: inner.used,
            next: inner.next,
            handed: inner.handed,
        }
    }
}

fn lose(inner: &mut Inner, reasons: u32) {
    if inner.reasons == 0 {
        inner.lost += 1;
    }
    inner.reasons |= reasons;
    inner.ever |= reasons;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(limit: usize, stall: u64) -> Queue {
        let queue = Queue::new(10, limit, Duration::from_millis(stall));
        assert_eq!(queue.push(Some(1), true, Did::Sync), None, "not listed yet");
        assert_eq!(queue.begin(), (Reasons::NEW | Reasons::ALL, 10));
        queue
    }

    #[test]
    fn a_full_queue_loses_the_order_and_says_so() {
        let queue = queue(4096, 5);
        assert_eq!(queue.push(None, true, Did::Create(b"a".to_vec(), 0o644)), Some(11));
        assert_eq!(queue.push(Some(11), true, Did::Write(0, vec![1; 3000])), Some(12));
        assert_eq!(queue.push(Some(11), true, Did::Write(0, vec![2; 3000])), None);
        let told = queue.told();
        assert_eq!((told.reasons.0, told.lost, told.stalls), (Reasons::RING_FULL, 2, 1));
        // Nobody waits a second time.
        assert_eq!(queue.push(Some(11), true, Did::Sync), None);
        assert_eq!(queue.told().stalls, 1);
        let mut taken = VecDeque::new();
        queue.take(9, &mut taken);
        assert_eq!(taken.iter().map(|item| (item.seq, item.file)).collect::<Vec<_>>(), [(11, 11), (12, 11)]);
        assert_eq!(queue.begin().0, Reasons::RING_FULL);
        assert!(queue.push(Some(11), true, Did::Sync) > Some(13));
    }

    #[test]
    fn whoever_waits_for_room_gets_it() {
        let queue = queue(4096, 60_000);
        assert!(queue.push(Some(1), true, Did::Write(0, vec![1; 3000])).is_some());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.push(Some(1), true, Did::Write(0, vec![2; 3000])));
            while queue.told().stalls == 0 {
                std::thread::yield_now();
            }
            let mut taken = VecDeque::new();
            queue.take(9, &mut taken);
            let item = taken.pop_front().expect("one");
            queue.handed(item.seq, item.bytes());
            assert!(waits.join().expect("it ends").is_some());
        });
        assert!(queue.told().reasons.in_order());
    }

    /// Longer than the whole bound: it is let through alone.
    #[test]
    fn one_that_is_longer_than_the_bound_passes_alone() {
        let queue = queue(4096, 5);
        assert!(queue.push(Some(1), true, Did::Write(0, vec![1; 30_000])).is_some());
    }
}
