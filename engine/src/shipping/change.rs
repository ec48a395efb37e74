//! What changes of files there are, and how each lies in a record.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::record::{Head, MOST_BYTES, RecordError};
use crate::ids::FileId;

/// Bytes of one name in a directory at most.
pub const MOST_NAME: usize = 255;
/// Bytes of a symbolic link's target at most.
pub const MOST_TARGET: usize = 4095;

/// A name in a directory of the group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The directory; [`FileId::ROOT`] for the group's root.
    pub dir: FileId,
    /// One name: no `/`, no zero byte, not `.` or `..`.
    pub name: Vec<u8>,
}

impl Entry {
    /// Whether the name can only mean something inside its directory.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let name = &self.name[..];
        !name.is_empty()
            && name.len() <= MOST_NAME
            && name != b"."
            && name != b".."
            && !name.iter().any(|b| matches!(b, 0 | b'/'))
    }
}

/// Owner, permissions and time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of owners.
    pub gid: u32,
    /// Last change, nanoseconds since 1970.
    pub mtime: u64,
}

/// What changed. Each sets a state, so that a run of records can be applied again from an earlier position: the end is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    /// A regular file was made.
    Create {
        /// Its number.
        file: FileId,
        /// Where.
        at: Entry,
        /// Permission bits.
        mode: u32,
    },
    /// Bytes were written.
    Write {
        /// Into which file.
        file: FileId,
        /// From this byte on.
        offset: u64,
        /// At most [`MOST_BYTES`].
        bytes: Vec<u8>,
    },
    /// Bytes were written to the end of a file; the offset is where that end was, so that a repetition changes nothing.
    Append {
        /// To which file.
        file: FileId,
        /// Where its end was.
        offset: u64,
        /// At most [`MOST_BYTES`].
        bytes: Vec<u8>,
    },
    /// A file has this length now.
    Truncate {
        /// Which.
        file: FileId,
        /// Bytes.
        length: u64,
    },
    /// A range became a hole.
    Punch {
        /// In which file.
        file: FileId,
        /// From this byte on.
        offset: u64,
        /// So many bytes.
        length: u64,
    },
    /// A file or directory has another name; what had that name is gone.
    Rename {
        /// Which.
        file: FileId,
        /// The name that it loses.
        from: Entry,
        /// The name that it gets.
        to: Entry,
    },
    /// A file has one more name.
    Link {
        /// Which.
        file: FileId,
        /// The name.
        at: Entry,
    },
    /// A file has one name less; without names it is gone.
    Unlink {
        /// The name.
        at: Entry,
    },
    /// A directory was made.
    Mkdir {
        /// Its number.
        file: FileId,
        /// Where.
        at: Entry,
        /// Permission bits.
        mode: u32,
    },
    /// A directory is gone.
    Rmdir {
        /// Which.
        at: Entry,
    },
    /// A symbolic link was made.
    Symlink {
        /// Its number.
        file: FileId,
        /// Where.
        at: Entry,
        /// At most [`MOST_TARGET`] bytes, none of them zero.
        target: Vec<u8>,
    },
    /// Owner, permissions or time were set.
    Attributes {
        /// Of which file.
        file: FileId,
        /// What they are now.
        attributes: Attributes,
    },
    /// An extended attribute was set.
    SetXattr {
        /// Of which file.
        file: FileId,
        /// Its name.
        name: Vec<u8>,
        /// What it is now.
        value: Vec<u8>,
    },
    /// An extended attribute was taken away.
    RemoveXattr {
        /// Of which file.
        file: FileId,
        /// Its name.
        name: Vec<u8>,
    },
    /// A program asked for a file to be durable, and waits.
    Barrier {
        /// Which.
        file: FileId,
    },
    /// An era begins: the first record of each.
    Era {
        /// The files at this place are not what the records before lead to: who has only those must compare files.
        fresh: bool,
    },
}

impl Change {
    /// The file that it is about; for a name that went, its directory.
    #[must_use]
    pub const fn file(&self) -> FileId {
        match self {
            Self::Create { file, .. }
            | Self::Write { file, .. }
            | Self::Append { file, .. }
            | Self::Truncate { file, .. }
            | Self::Punch { file, .. }
            | Self::Rename { file, .. }
            | Self::Link { file, .. }
            | Self::Mkdir { file, .. }
            | Self::Symlink { file, .. }
            | Self::Attributes { file, .. }
            | Self::SetXattr { file, .. }
            | Self::RemoveXattr { file, .. }
            | Self::Barrier { file } => *file,
            Self::Unlink { at } | Self::Rmdir { at } => at.dir,
            Self::Era { .. } => FileId::ROOT,
        }
    }

    /// Whether a record can hold it: lengths within their bounds, names that are names.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let fits = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= i64::MAX as u64);
        match self {
            Self::Write { offset, bytes, .. } | Self::Append { offset, bytes, .. } => {
                bytes.len() <= MOST_BYTES && fits(*offset, bytes.len() as u64)
            }
            Self::Truncate { length, .. } => fits(*length, 0),
            Self::Punch { offset, length, .. } => fits(*offset, *length),
            Self::Create { file, at, .. } | Self::Mkdir { file, at, .. } | Self::Link { file, at } => {
                *file != FileId::ROOT && at.is_plain()
            }
            Self::Symlink { file, at, target } => {
                *file != FileId::ROOT
                    && at.is_plain()
                    && (1..=MOST_TARGET).contains(&target.len())
                    && !target.contains(&0)
            }
            Self::Rename { file, from, to } => *file != FileId::ROOT && from.is_plain() && to.is_plain(),
            Self::Unlink { at } | Self::Rmdir { at } => at.is_plain(),
            Self::SetXattr { name, value, .. } => is_xattr(name) && value.len() <= MOST_BYTES,
            Self::RemoveXattr { name, .. } => is_xattr(name),
            Self::Attributes { .. } | Self::Barrier { .. } | Self::Era { .. } => true,
        }
    }

    /// Kind, file, offset, number, body.
    pub(super) fn lay(&self) -> (u8, u64, u64, u64, Vec<u8>) {
        let named = |entry: &Entry, rest: &[u8]| [&entry.name, rest].concat();
        match self {
            Self::Create { file, at, mode } => (1, file.0, at.dir.0, (*mode).into(), named(at, &[])),
            Self::Write { file, offset, bytes } => (2, file.0, *offset, 0, bytes.clone()),
            Self::Append { file, offset, bytes } => (3, file.0, *offset, 0, bytes.clone()),
            Self::Truncate { file, length } => (4, file.0, 0, *length, Vec::new()),
            Self::Punch { file, offset, length } => (5, file.0, *offset, *length, Vec::new()),
            Self::Rename { file, from, to } => {
                let body = [&from.dir.0.to_le_bytes()[..], &[from.name.len() as u8], &from.name, &to.name].concat();
                (6, file.0, to.dir.0, 0, body)
            }
            Self::Link { file, at } => (7, file.0, at.dir.0, 0, named(at, &[])),
            Self::Unlink { at } => (8, 0, at.dir.0, 0, named(at, &[])),
            Self::Mkdir { file, at, mode } => (9, file.0, at.dir.0, (*mode).into(), named(at, &[])),
            Self::Rmdir { at } => (10, 0, at.dir.0, 0, named(at, &[])),
            Self::Symlink { file, at, target } => (11, file.0, at.dir.0, at.name.len() as u64, named(at, target)),
            Self::Attributes { file, attributes } => {
                let body = [attributes.uid.to_le_bytes(), attributes.gid.to_le_bytes()].concat();
                (12, file.0, attributes.mtime, attributes.mode.into(), body)
            }
            Self::SetXattr { file, name, value } => (13, file.0, 0, name.len() as u64, [&name[..], value].concat()),
            Self::RemoveXattr { file, name } => (14, file.0, 0, 0, name.clone()),
            Self::Barrier { file } => (15, file.0, 0, 0, Vec::new()),
            Self::Era { fresh } => (16, 0, 0, (*fresh).into(), Vec::new()),
        }
    }

    pub(super) fn read(head: &Head, body: &[u8]) -> Result<Self, RecordError> {
        let file = FileId(head.file);
        let Head { offset, number, .. } = *head;
        let dir = FileId(offset);
        let at = || Entry { dir, name: body.to_vec() };
        let small = |number: u64| u32::try_from(number).map_err(|_| RecordError::Value);
        let cut = |number: u64| {
            let length = usize::try_from(number).map_err(|_| RecordError::Value)?;
            body.split_at_checked(length).ok_or(RecordError::Value)
        };
        Ok(match head.kind {
            1 => Self::Create { file, at: at(), mode: small(number)? },
            2 => Self::Write { file, offset, bytes: body.to_vec() },
            3 => Self::Append { file, offset, bytes: body.to_vec() },
            4 => Self::Truncate { file, length: number },
            5 => Self::Punch { file, offset, length: number },
            6 => {
                let (from, rest) = body.split_first_chunk().ok_or(RecordError::Value)?;
                let (length, rest) = rest.split_first().ok_or(RecordError::Value)?;
                let (old, new) = rest.split_at_checked(usize::from(*length)).ok_or(RecordError::Value)?;
                let from = Entry { dir: FileId(u64::from_le_bytes(*from)), name: old.to_vec() };
                Self::Rename { file, from, to: Entry { dir, name: new.to_vec() } }
            }
            7 => Self::Link { file, at: at() },
            8 => Self::Unlink { at: at() },
            9 => Self::Mkdir { file, at: at(), mode: small(number)? },
            10 => Self::Rmdir { at: at() },
            11 => {
                let (name, target) = cut(number)?;
                Self::Symlink { file, at: Entry { dir, name: name.to_vec() }, target: target.to_vec() }
            }
            12 => {
                let (uid, rest) = body.split_first_chunk().ok_or(RecordError::Value)?;
                let (gid, _) = rest.split_first_chunk().ok_or(RecordError::Value)?;
                let (uid, gid) = (u32::from_le_bytes(*uid), u32::from_le_bytes(*gid));
                Self::Attributes { file, attributes: Attributes { mode: small(number)?, uid, gid, mtime: offset } }
            }
            13 => {
                let (name, value) = cut(number)?;
                Self::SetXattr { file, name: name.to_vec(), value: value.to_vec() }
            }
            14 => Self::RemoveXattr { file, name: body.to_vec() },
            15 => Self::Barrier { file },
            16 if number <= 1 => Self::Era { fresh: number == 1 },
            16 => return Err(RecordError::Value),
            _ => return Err(RecordError::Kind),
        })
    }
}

fn is_xattr(name: &[u8]) -> bool {
    (1..=MOST_NAME).contains(&name.len()) && !name.contains(&0)
}
