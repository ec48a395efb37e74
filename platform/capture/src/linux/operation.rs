//! What the drainer hands over.

use std::io;

use super::sys::Handle;

/// A file, whatever its names are: the number of the record by which the group came to know it. 0: a directory or a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// One operation of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// Grows from one operation to the next, with gaps; the parts of a long write share one. If A returned before B was called, A's is
    /// lower. After the drainer was killed the last operation may come a second time.
    pub seq: u64,
    /// The file it is about.
    pub file: FileId,
    /// Whether the tree after it was once what a program could see. If not, it is applied together with those that follow, up to one
    /// that says so.
    pub publish: bool,
    /// What was done.
    pub change: Change<'a>,
}

/// What was done. Paths are below the group's root, without a slash before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The file at `path` was there before and is called by its number from now on.
    Bind {
        /// Where it is.
        path: &'a [u8],
    },
    /// A new, empty file.
    Create {
        /// Where it is.
        path: &'a [u8],
        /// Permissions.
        mode: u32,
    },
    /// Bytes of a file.
    Write {
        /// In bytes.
        offset: u64,
        /// What was written, as it was when it was.
        bytes: &'a [u8],
    },
    /// The file's length.
    Truncate {
        /// In bytes.
        len: u64,
    },
    /// The file's least length.
    Extend {
        /// In bytes.
        len: u64,
    },
    /// Zeros, or nothing, at a place; the length stays.
    Zero {
        /// In bytes.
        offset: u64,
        /// In bytes.
        len: u64,
    },
    /// A name changes; what had the new one loses it.
    Rename {
        /// Until now.
        from: &'a [u8],
        /// From now on.
        to: &'a [u8],
    },
    /// Two names change places. The file is the one that had the first.
    Exchange {
        /// One of them.
        from: &'a [u8],
        /// The other.
        to: &'a [u8],
    },
    /// One more name of the file; what had it loses it.
    Link {
        /// The new name.
        path: &'a [u8],
    },
    /// A symbolic link; what had the name loses it.
    Symlink {
        /// The name.
        path: &'a [u8],
        /// Its text.
        target: &'a [u8],
    },
    /// A name goes.
    Unlink {
        /// The name.
        path: &'a [u8],
    },
    /// A new directory.
    Mkdir {
        /// The name.
        path: &'a [u8],
        /// Permissions.
        mode: u32,
    },
    /// A directory goes.
    Rmdir {
        /// The name.
        path: &'a [u8],
    },
    /// Permissions.
    Mode {
        /// One of its names.
        path: &'a [u8],
        /// The twelve bits.
        mode: u32,
    },
    /// User and group.
    Owner {
        /// One of its names.
        path: &'a [u8],
        /// By number.
        user: u32,
        /// By number.
        group: u32,
    },
    /// Times, in nanoseconds since 1970.
    Times {
        /// One of its names.
        path: &'a [u8],
        /// Of access.
        accessed: i64,
        /// Of change.
        modified: i64,
    },
    /// An extended attribute.
    SetAttribute {
        /// One of the file's names.
        path: &'a [u8],
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// An extended attribute goes.
    RemoveAttribute {
        /// One of the file's names.
        path: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A program asked for the file to be on the disk: all before this belongs there.
    Sync,
    /// The order was lost. All names of the group, parents first; whatever is not among them goes. Lengths and contents of the files
    /// that differ follow, then `Resynced`; until then nothing may be shown.
    Listing {
        /// All of them.
        entries: &'a [Listed],
    },
    /// The order is kept again.
    Resynced,
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Below the root.
    pub path: Vec<u8>,
    /// Of files.
    pub file: FileId,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// In bytes.
    pub size: u64,
}

/// What can be at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its text.
    Symlink(Vec<u8>),
}

/// Takes operations, in order.
pub trait Consumer {
    /// One operation. Once this returns, the drainer never gives it again; until then the bytes are kept.
    ///
    /// # Errors
    /// The drainer stops and gives the operation again when it is called the next time. `ENOENT`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`,
    /// `EEXIST` and `ELOOP` say that the copy is not what the operation was made on: the group is listed anew. `EWOULDBLOCK` says that there
    /// is no room at present: that is no error, and the drainer waits ([`Drained::Waiting`](super::Drained)).
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()>;

    /// A file gets this number; `handle` opens it whatever its names are. Told before the operation or listing that names it.
    fn bound(&mut self, file: FileId, handle: &Handle) {
        let _ = (file, handle);
    }

    /// This number is no file's any more: nothing more is told of it.
    fn unbound(&mut self, file: FileId) {
        let _ = file;
    }

    /// The record with this number was handed over in full; there may have been nothing to do for it.
    fn passed(&mut self, seq: u64) {
        let _ = seq;
    }

    /// What came of records up to this one need not be handed over again, whatever happens: the ring gives them up. What is above stays
    /// there, and comes again if the drainer is killed. The same for what is read anew: until the number of its [`Change::Resynced`] is
    /// reached, it is read anew once more.
    fn kept(&self) -> u64 {
        u64::MAX
    }

    /// All is listed next. `first`: the ring was just made, and nothing was recorded or lost yet. Whether the consumer wants content with
    /// it; if not, none is given, also of what is known to have changed.
    fn anew(&mut self, first: bool) -> bool {
        let _ = first;
        true
    }

    /// Whether the content of a file that is listed must be given, although nothing is known to have changed it.
    fn wants(&mut self, listed: &Listed) -> bool {
        let _ = listed;
        false
    }
}

/// Takes all and keeps nothing: what capture alone costs.
#[derive(Clone, Copy, Debug)]
pub struct Discard;

impl Consumer for Discard {
    fn take(&mut self, _: &Operation<'_>) -> io::Result<()> {
        Ok(())
    }
}
