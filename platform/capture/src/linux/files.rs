//! The table of files: which inode is which file, and which of its bytes nobody has read yet.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::capture::Capture;
use super::layout::{BUCKETS, FILES, File, NONE, RECENT, Range, Reasons, SPANS, Shared};
use super::lock::Held;
use super::operation::FileId;
use super::sys::{Handle, Stat};

/// Bytes that are remembered as one range while writes follow each other.
const TOGETHER: u64 = 64 << 10;

/// A file of the table, as a descriptor remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its place.
    pub index: u32,
    /// Which file of those that have had the place.
    pub generation: u32,
}

fn bucket(key: [u64; 3]) -> usize {
    let mixed = (key[1] ^ key[0].rotate_left(32)).wrapping_add(key[2]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % BUCKETS
}

impl File {
    fn is(&self, key: [u64; 3]) -> bool {
        self.dead.load(Relaxed) == 0 && self.key.iter().zip(key).all(|(own, other)| own.load(Relaxed) == other)
    }

    /// The last range that was remembered.
    fn newest(&self) -> &Range {
        &self.recent[self.recent_next.load(Relaxed).wrapping_sub(1) as usize % RECENT]
    }

    /// All records up to this one were handed over, as of now.
    pub(super) fn look(&self, shared: &Shared) -> u64 {
        let shipped = shared.shipped.load(Acquire);
        self.seen.store(shipped, Relaxed);
        shipped
    }

    /// Remembers that record `seq` is about these bytes; those that nobody has read before.
    #[inline]
    pub(super) fn note(&self, seq: u64, start: u64, end: u64, shared: &Shared) {
        self.last.store(seq, Relaxed);
        // A log's records are small, and each begins where the one before ended. A part of the range is older than the
        // range says then: bytes may be copied that were read already.
        let newest = self.newest();
        if newest.end.load(Relaxed) == start
            && newest.seq.load(Relaxed) > self.seen.load(Relaxed)
            && end.wrapping_sub(newest.start.load(Relaxed)) <= TOGETHER
        {
            newest.end.store(end, Relaxed);
            newest.seq.store(seq, Relaxed);
            return self.raise(end);
        }
        let next = self.recent_next.load(Relaxed);
        self.recent_next.store(next.wrapping_add(1), Relaxed);
        let slot = &self.recent[next as usize % RECENT];
        let old = slot.seq.load(Relaxed);
        if old > self.seen.load(Relaxed) {
            self.spill(slot, old, shared);
        }
        slot.seq.store(seq, Relaxed);
        slot.start.store(start, Relaxed);
        slot.end.store(end, Relaxed);
        self.raise(end);
    }

    /// Unread bytes may lie below `end`.
    #[inline]
    fn raise(&self, end: u64) {
        if end > self.top.load(Relaxed) {
            self.top.store(end, Relaxed);
        }
    }

    /// A range falls out of those that are known exactly. What was read meanwhile is looked at then.
    #[cold]
    fn spill(&self, slot: &Range, old: u64, shared: &Shared) {
        let shipped = self.look(shared);
        let spilled = &self.spilled;
        if old > shipped {
            if spilled.seq.load(Relaxed) <= shipped {
                spilled.start.store(u64::MAX, Relaxed);
                spilled.end.store(0, Relaxed);
            }
            spilled.start.fetch_min(slot.start.load(Relaxed), Relaxed);
            spilled.end.fetch_max(slot.end.load(Relaxed), Relaxed);
            spilled.seq.fetch_max(old, Relaxed);
        }
        let unread = self.recent.iter().chain([spilled]).filter(|range| range.seq.load(Relaxed) > shipped);
        self.top.store(unread.map(|range| range.end.load(Relaxed)).max().unwrap_or(0), Relaxed);
    }

    /// The last range's bytes are these, and those that it had before.
    #[inline]
    pub(super) fn noted(&self, start: u64, end: u64) {
        let newest = self.newest();
        if start < newest.start.load(Relaxed) {
            newest.start.store(start, Relaxed);
        }
        if end > newest.end.load(Relaxed) {
            newest.end.store(end, Relaxed);
        }
        self.raise(end);
    }

    /// Nobody knows any more which bytes were read.
    pub(super) fn note_all(&self, seq: u64) {
        self.top.store(u64::MAX, Relaxed);
        self.spilled.start.store(0, Relaxed);
        self.spilled.end.store(u64::MAX, Relaxed);
        self.spilled.seq.fetch_max(seq, Relaxed);
        self.last.fetch_max(seq, Relaxed);
    }

    /// Whether some bytes within `start..end` may be unread. Where not, that is sure.
    #[inline]
    pub(super) fn may_be_unread(&self, start: u64, end: u64) -> bool {
        if start >= self.top.load(Relaxed) {
            return false;
        }
        let seen = self.seen.load(Relaxed);
        let lies = |range: &Range| {
            range.seq.load(Relaxed) > seen && range.start.load(Relaxed) < end && start < range.end.load(Relaxed)
        };
        self.recent.iter().any(lies) || lies(&self.spilled)
    }

    /// The bytes within `start..end` that nobody has read, in ascending pieces that do not touch.
    pub(super) fn unread(&self, start: u64, end: u64, shipped: u64, into: &mut [(u64, u64); RECENT + 1]) -> usize {
        let mut used = 0;
        let mut put = |range: &Range| {
            let (from, to) = (range.start.load(Relaxed).max(start), range.end.load(Relaxed).min(end));
            if range.seq.load(Relaxed) > shipped && from < to {
                into[used] = (from, to);
                used += 1;
            }
        };
        self.recent.iter().for_each(&mut put);
        put(&self.spilled);
        into[..used].sort_unstable();
        let mut kept = 0;
        for at in 0..used {
            if kept > 0 && into[at].0 <= into[kept - 1].1 {
                into[kept - 1].1 = into[kept - 1].1.max(into[at].1);
            } else {
                into[kept] = into[at];
                kept += 1;
            }
        }
        kept
    }

    /// While the order is lost: these bytes may differ from what was shipped.
    pub(super) fn mark(&self, start: u64, end: u64) {
        let used = (self.spans_used.load(Relaxed) as usize).min(SPANS);
        for span in &self.spans[..used] {
            if span.start.load(Relaxed) <= end && start <= span.end.load(Relaxed) {
                span.start.fetch_min(start, Relaxed);
                span.end.fetch_max(end, Relaxed);
                return;
            }
        }
        if used < SPANS {
            self.spans[used].start.store(start, Relaxed);
            self.spans[used].end.store(end, Relaxed);
            self.spans_used.store(used as u32 + 1, Relaxed);
            return;
        }
        // No room: the nearest span grows over the gap.
        let gap = |at: usize| {
            let (from, to) = (self.spans[at].start.load(Relaxed), self.spans[at].end.load(Relaxed));
            from.saturating_sub(end).max(start.saturating_sub(to))
        };
        if let Some(near) = (0..SPANS).min_by_key(|&at| gap(at)) {
            self.spans[near].start.fetch_min(start, Relaxed);
            self.spans[near].end.fetch_max(end, Relaxed);
        }
    }

    /// The handle.
    pub(super) fn handle(&self) -> Handle {
        let mut handle = Handle {
            bytes: self.handle_bytes.load(Relaxed).min(128),
            kind: self.handle_kind.load(Relaxed) as i32,
            data: [0; 128],
        };
        for (to, from) in handle.data.iter_mut().zip(&self.handle) {
            *to = from.load(Relaxed);
        }
        handle
    }
}

impl Capture {
    /// The living file of this key.
    pub(super) fn find(&self, key: [u64; 3]) -> Option<Bound> {
        let _table = self.table()?;
        let mut index = self.shared.buckets[bucket(key)].load(Relaxed);
        // A chain that a dead process left half changed ends all the same.
        for _ in 0..FILES {
            if index == NONE {
                return None;
            }
            let file = self.file(index);
            if file.is(key) {
                return Some(Bound { index, generation: file.generation.load(Relaxed) });
            }
            index = file.next.load(Relaxed);
        }
        None
    }

    fn table(&self) -> Option<Held<'_>> {
        let held = self.shared.table.take(self.own(), self.shared.lock_ms.load(Relaxed));
        if held.is_none() {
            self.lose(Reasons::LOCK | Reasons::ALL);
        }
        held
    }

    /// Gives the file a place in the table. `None`, and the order lost, if there is none.
    pub(super) fn admit(&self, stat: &Stat, handle: &Handle, id: u64) -> Option<Bound> {
        let _table = self.table()?;
        let hint = self.shared.hint.load(Relaxed);
        let free = (0..FILES as u32)
            .map(|step| hint.wrapping_add(step) % FILES as u32)
            .find(|&index| self.file(index).used.load(Acquire) == 0);
        let Some(index) = free else {
            self.lose(Reasons::TABLE_FULL | Reasons::ALL);
            return None;
        };
        self.shared.hint.store(index.wrapping_add(1), Relaxed);
        let file = self.file(index);
        file.id.store(id, Relaxed);
        for (to, from) in file.key.iter().zip(stat.key) {
            to.store(from, Relaxed);
        }
        for range in file.recent.iter().chain([&file.spilled]) {
            range.seq.store(0, Relaxed);
        }
        for zeroed in [&file.untracked, &file.whole, &file.spans_used] {
            zeroed.store(0, Relaxed);
        }
        for zeroed in [&file.dead, &file.last, &file.seen, &file.top] {
            zeroed.store(0, Relaxed);
        }
        file.size.store(stat.size, Relaxed);
        file.handle_bytes.store(handle.bytes, Relaxed);
        file.handle_kind.store(handle.kind as u32, Relaxed);
        for (to, &from) in file.handle.iter().zip(&handle.data) {
            to.store(from, Relaxed);
        }
        let bucket = &self.shared.buckets[bucket(stat.key)];
        file.next.store(bucket.load(Relaxed), Relaxed);
        file.used.store(1, Release);
        bucket.store(index, Relaxed);
        self.shared.used.fetch_add(1, Relaxed);
        Some(Bound { index, generation: file.generation.load(Relaxed) })
    }

    /// Gives a place back. The caller holds the file's lock.
    pub(super) fn evict(&self, index: u32) {
        let Some(_table) = self.table() else { return };
        let file = self.file(index);
        let key = [file.key[0].load(Relaxed), file.key[1].load(Relaxed), file.key[2].load(Relaxed)];
        let mut link = &self.shared.buckets[bucket(key)];
        for _ in 0..FILES {
            let at = link.load(Relaxed);
            if at == NONE {
                break;
            }
            if at == index {
                link.store(file.next.load(Relaxed), Relaxed);
                break;
            }
            link = &self.file(at).next;
        }
        file.generation.fetch_add(1, Relaxed);
        file.used.store(0, Release);
        self.shared.used.fetch_sub(1, Relaxed);
    }

    /// The files that are known, their handles, and whether their last name is gone.
    pub fn known(&self) -> Vec<(FileId, Handle, bool)> {
        let one = |index| {
            let file = self.file(index);
            (FileId(file.id.load(Relaxed)), file.handle(), file.dead.load(Relaxed) != 0)
        };
        self.taken().map(one).collect()
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        (0..FILES as u32).filter(|&index| self.file(index).used.load(Acquire) != 0)
    }
}
