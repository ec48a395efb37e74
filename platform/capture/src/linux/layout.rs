//! What lies in shared memory. Numbers only, in atomics: every process that maps it sees the same, and any of them may end at any instant.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use super::lock::Lock;

/// Tells a ring of this layout.
pub(super) const MAGIC: u64 = 0x4150_5553_4341_5032;
/// Files that may be known at once.
pub(super) const FILES: usize = 16_384;
/// Chains in the table of files.
pub(super) const BUCKETS: usize = 16_384;
/// Bytes for the root and the patterns.
pub(super) const CONFIG: usize = 32_768;
/// Ranges of a file that are remembered one by one until the drainer has read them.
pub(super) const RECENT: usize = 16;
/// Ranges of a file that are remembered while the order is lost.
pub(super) const SPANS: usize = 8;
/// No file of the table.
pub(super) const NONE: u32 = u32::MAX;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(super) enum Kind {
    /// Old bytes that are about to be destroyed. Not an operation.
    Before = 1,
    /// A file that was there is known by a number from now on.
    Bind,
    /// A new file; `offset` is its mode.
    Create,
    /// Bytes in `offset..offset + len`.
    Write,
    /// The file ends at `offset`.
    Truncate,
    /// The file ends at `offset` or later.
    Extend,
    /// Zeros in `offset..offset + len`.
    Zero,
    /// All from `offset` on is new, and the file ends at `offset + len`.
    Rewrite,
    /// From the first name to the second.
    Rename,
    /// Both names change places.
    Exchange,
    /// The second name is another one of the file.
    Link,
    /// The first name is a symbolic link to the second text.
    Symlink,
    /// The name is gone.
    Unlink,
    /// A new directory; `offset` is its mode.
    Mkdir,
    /// The directory is gone.
    Rmdir,
    /// A file with content came into the group; `offset` is its mode, `len` its length.
    Enter,
    /// Permissions: `offset`.
    Mode,
    /// Owner `offset`, group `len`; `u32::MAX` leaves one as it is.
    Owner,
    /// Read at `offset`, written at `len`, in nanoseconds since 1970.
    Times,
    /// An extended attribute: name, value.
    SetAttribute,
    /// An extended attribute is gone.
    RemoveAttribute,
    /// The program asked for the file to be on the disk.
    Sync,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        const ALL: [Kind; 22] = [
            Kind::Before,
            Kind::Bind,
            Kind::Create,
            Kind::Write,
            Kind::Truncate,
            Kind::Extend,
            Kind::Zero,
            Kind::Rewrite,
            Kind::Rename,
            Kind::Exchange,
            Kind::Link,
            Kind::Symlink,
            Kind::Unlink,
            Kind::Mkdir,
            Kind::Rmdir,
            Kind::Enter,
            Kind::Mode,
            Kind::Owner,
            Kind::Times,
            Kind::SetAttribute,
            Kind::RemoveAttribute,
            Kind::Sync,
        ];
        ALL.get((number as usize).wrapping_sub(1)).copied()
    }

    /// Whether its bytes are read from the file when it is drained.
    pub(super) fn refers(self) -> bool {
        matches!(self, Self::Write | Self::Rewrite | Self::Enter)
    }

    /// Whether it is about names, and made under the lock of names.
    pub(super) fn names(self) -> bool {
        matches!(
            self,
            Self::Bind
                | Self::Create
                | Self::Rename
                | Self::Exchange
                | Self::Link
                | Self::Symlink
                | Self::Unlink
                | Self::Mkdir
                | Self::Rmdir
                | Self::Enter
        )
    }
}

/// How far a record is.
pub(super) mod state {
    /// Its payload is being copied: the operation has not begun.
    pub(crate) const COPYING: u32 = 1;
    /// The operation may have been done.
    pub(crate) const INTENT: u32 = 2;
    /// The operation was done, the fields tell with what result.
    pub(crate) const DONE: u32 = 3;
    /// The operation was refused.
    pub(crate) const FAILED: u32 = 4;
}

/// One record: 64 bytes, then two texts and further bytes, filled up to a multiple of 64.
#[repr(C)]
pub(super) struct Record {
    pub(super) state: AtomicU32,
    pub(super) kind: AtomicU32,
    /// Bytes to the next record.
    pub(super) total: AtomicU32,
    /// The process.
    pub(super) owner: AtomicU32,
    pub(super) seq: AtomicU64,
    /// Of the file; 0 for directories and links.
    pub(super) id: AtomicU64,
    /// Place of the file in the table, or `NONE`.
    pub(super) file: AtomicU32,
    /// Lengths of both texts: the lower 16 bits, the upper 16 bits.
    pub(super) texts: AtomicU32,
    pub(super) offset: AtomicU64,
    pub(super) len: AtomicU64,
    /// Monotonic, nanoseconds: when the process began to record or the drainer last looked at its clock, whichever is later.
    pub(super) time: AtomicU64,
}
const _: () = assert!(size_of::<Record>() == 64);

/// Bytes of a file that were written and not read yet.
#[repr(C)]
pub(super) struct Range {
    pub(super) seq: AtomicU64,
    pub(super) start: AtomicU64,
    pub(super) end: AtomicU64,
}

/// Bytes that differ from what was shipped, in no order.
#[repr(C)]
pub(super) struct Span {
    pub(super) start: AtomicU64,
    pub(super) end: AtomicU64,
}

/// A file that is known. All but `generation` is guarded by `lock`, the chain by the table's. What a write looks at comes first, in one
/// line of the cache.
#[repr(C, align(64))]
pub(super) struct File {
    pub(super) lock: Lock,
    /// Changes when the place is given to another file.
    pub(super) generation: AtomicU32,
    pub(super) id: AtomicU64,
    /// The last record about it.
    pub(super) last: AtomicU64,
    /// The record by which its last name went, or 0.
    pub(super) dead: AtomicU64,
    /// Where it ends, as far as the records tell.
    pub(super) size: AtomicU64,
    /// What `Shared::shipped` was when a writer of this file last asked: whoever asks each time takes the line from the drainer.
    pub(super) seen: AtomicU64,
    /// Nothing unread lies here or behind.
    pub(super) top: AtomicU64,
    pub(super) recent_next: AtomicU32,
    /// Changed in ways that leave no record: a shared mapping.
    pub(super) untracked: AtomicU32,
    /// Whether the place is taken.
    pub(super) used: AtomicU32,
    pub(super) next: AtomicU32,
    pub(super) key: [AtomicU64; 3],
    /// While the order is lost: all of it may differ.
    pub(super) whole: AtomicU32,
    pub(super) spans_used: AtomicU32,
    /// Bounds of what fell out of `recent`.
    pub(super) spilled: Range,
    pub(super) recent: [Range; RECENT],
    pub(super) spans: [Span; SPANS],
    pub(super) handle_bytes: AtomicU32,
    pub(super) handle_kind: AtomicU32,
    pub(super) handle: [AtomicU8; 128],
}

/// Why a group's order is lost until it is listed and read anew. Bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reasons(pub u32);

impl Reasons {
    /// No drainer has listed the group yet.
    pub const NEW: u32 = 1;
    /// The ring was full for longer than the limit.
    pub const RING_FULL: u32 = 1 << 1;
    /// The table of files was full.
    pub const TABLE_FULL: u32 = 1 << 2;
    /// A lock was not let go within the limit.
    pub const LOCK: u32 = 1 << 3;
    /// A handler of a signal changed a file while the program was in the middle of changing one.
    pub const SIGNAL: u32 = 1 << 4;
    /// Bytes could not be copied before they were destroyed.
    pub const COPY: u32 = 1 << 5;
    /// A directory was moved so that files joined or left the group.
    pub const DIRECTORY: u32 = 1 << 6;
    /// A process ended in the middle of changing names, and others went on.
    pub const OWNER: u32 = 1 << 7;
    /// A file is not as the records say.
    pub const DRIFT: u32 = 1 << 8;
    /// A program without the library changed the group.
    pub const STRANGER: u32 = 1 << 9;
    /// A call that cannot be followed (see `docs/replication.md`).
    pub const CALL: u32 = 1 << 10;
    /// Every file is read again in full.
    pub const ALL: u32 = 1 << 31;

    /// Whether the order is kept.
    pub fn in_order(self) -> bool {
        self.0 == 0
    }

    /// The reasons as words.
    pub fn words(self) -> Vec<&'static str> {
        const WORDS: [(u32, &str); 12] = [
            (Reasons::NEW, "not listed yet"),
            (Reasons::RING_FULL, "ring full"),
            (Reasons::TABLE_FULL, "too many files at once"),
            (Reasons::LOCK, "lock held too long"),
            (Reasons::SIGNAL, "write in a signal handler"),
            (Reasons::COPY, "old bytes not copied"),
            (Reasons::DIRECTORY, "directory moved across the group's edge"),
            (Reasons::OWNER, "process ended in the middle"),
            (Reasons::DRIFT, "file not as recorded"),
            (Reasons::STRANGER, "changed by a program without the library"),
            (Reasons::CALL, "changed by a call that cannot be followed"),
            (Reasons::ALL, "everything is read again"),
        ];
        WORDS.iter().filter(|(bit, _)| self.0 & bit != 0).map(|&(_, word)| word).collect()
    }
}

/// What can be told of a group at any time.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Why the order is lost, if it is.
    pub reasons: Reasons,
    /// All reasons since the ring was made.
    pub ever: Reasons,
    /// Whether a file is changed through a shared mapping: consistent at `msync` only.
    pub untracked: bool,
    /// The next record's number.
    pub next: u64,
    /// All records up to this one were handed over.
    pub shipped: u64,
    /// Bytes of records that wait.
    pub waiting: u64,
    /// Bytes that were copied before they were destroyed.
    pub copied: u64,
    /// How often the order was lost, the first listing included.
    pub lost: u64,
    /// How often a file was read because it is changed through a shared mapping.
    pub reread: u64,
}

/// The start of the shared memory.
#[repr(C, align(4096))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) ring_bytes: AtomicU64,
    /// How long a full ring may hold up a program, in milliseconds.
    pub(super) stall_ms: AtomicU32,
    /// How long a lock may, in milliseconds.
    pub(super) lock_ms: AtomicU32,
    pub(super) config_len: AtomicU32,
    /// The root's device is part of every key.
    pub(super) device: AtomicU64,
    pub(super) apart: [AtomicU64; 8],
    pub(super) reasons: AtomicU32,
    pub(super) ever: AtomicU32,
    pub(super) untracked: AtomicU32,
    /// Changes when a file comes in under a new name: what was known not to be in the group may be now.
    pub(super) entered: AtomicU32,
    /// 1: who has a file put on the disk waits until that is released.
    pub(super) awaits: AtomicU32,
    pub(super) copied: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) reread: AtomicU64,
    pub(super) apart2: [AtomicU64; 8],
    pub(super) names: Lock,
    pub(super) table: Lock,
    /// The last place of the table that was given.
    pub(super) hint: AtomicU32,
    pub(super) used: AtomicU32,
    pub(super) apart3: [AtomicU64; 8],
    /// Guards `head` and `next`.
    pub(super) ring: Lock,
    pub(super) head: AtomicU64,
    pub(super) next: AtomicU64,
    /// What `tail` was when a writer last asked, for want of room.
    pub(super) seen: AtomicU64,
    pub(super) apart4: [AtomicU64; 8],
    /// These two change with every record that is handed over: programs read them where they must.
    pub(super) tail: AtomicU64,
    pub(super) shipped: AtomicU64,
    pub(super) apart5: [AtomicU64; 8],
    /// Monotonic time in nanoseconds, as the drainer last looked.
    pub(super) clock: AtomicU64,
    /// Changes with the tail, for those who wait for room.
    pub(super) room: AtomicU32,
    pub(super) waiters: AtomicU32,
    /// 1 while the drainer sleeps until it is woken.
    pub(super) asleep: AtomicU32,
    pub(super) drainer: AtomicU32,
    /// Records below this one lead to trees that cannot be shown.
    pub(super) hidden: AtomicU64,
    /// 1 while the files are read anew.
    pub(super) resyncing: AtomicU32,
    /// Changes when somebody waits for the drainer, which then sleeps no longer.
    pub(super) hurry: AtomicU32,
    /// Changes with `released` and `lease`.
    pub(super) releases: AtomicU32,
    /// Who waits for a record up to this one may go on.
    pub(super) released: AtomicU64,
    /// When the programs' right to change the files ends: boot clock, nanoseconds.
    pub(super) lease: AtomicU64,
    pub(super) config: [AtomicU8; CONFIG],
    pub(super) buckets: [AtomicU32; BUCKETS],
    pub(super) files: [File; FILES],
}
