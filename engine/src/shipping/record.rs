//! One change of a group's files, as it is numbered, kept in logs and shipped.
//!
//! ```text
//! offset size
//!  0      2   magic "AR"
//!  2      1   version, 1
//!  3      1   kind
//!  4      2   group
//!  6      2   zero
//!  8      8   era: the grant under which it was written
//! 16      8   position in the group's history, dense, from 1
//! 24      4   header check of the record before; zero before the first
//! 28      4   body check
//! 32      8   file
//! 40      8   offset
//! 48      8   length, mode or flag
//! 56      4   bytes of the body
//! 60      4   header check: of the 60 bytes before
//! 64      …   body, zeros up to a multiple of 8
//! ```
//! Integers are little-endian, checks CRC-32C. Each header holds the check of the one before it, so that a hole, a swap or a record of
//! another history is seen without trust in who brought it. A file is named by a number that is never used again in its group,
//! not by a path and not by an inode, which systems use again at once.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::crc::crc32c;
use crate::ids::{Epoch, FileId, GroupId, Lsn};

/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of a write at most: a longer one is several records.
pub const MOST_BYTES: usize = 32 * 1024;
/// Bytes of a record at most.
pub const MOST: usize = HEADER + MOST_BYTES + 512;
/// Bytes of one name in a directory at most.
pub const MOST_NAME: usize = 255;
/// Bytes of a symbolic link's target at most.
pub const MOST_TARGET: usize = 4095;
const MAGIC: [u8; 2] = *b"AR";
const VERSION: u8 = 1;

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

/// One numbered change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Of which group.
    pub group: GroupId,
    /// By which grant.
    pub era: Epoch,
    /// At which place of the history.
    pub lsn: Lsn,
    /// The header check of the record before.
    pub prev: u32,
    /// What.
    pub change: Change,
}

/// What a header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    kind: u8,
    /// Of which group.
    pub group: GroupId,
    /// By which grant.
    pub era: Epoch,
    /// At which place.
    pub lsn: Lsn,
    /// The header check of the record before.
    pub prev: u32,
    body_check: u32,
    file: u64,
    offset: u64,
    number: u64,
    body: u32,
    /// This header's own check: what the next record holds as `prev`.
    pub check: u32,
}

/// Why bytes are no record.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordError {
    /// They end early: in a log, a write that was interrupted.
    Truncated,
    /// They do not begin as a record does.
    Magic,
    /// A version that this program does not read.
    Version,
    /// The header is damaged.
    HeaderCheck,
    /// The body is damaged.
    BodyCheck,
    /// An unknown kind.
    Kind,
    /// A value outside its range, or a name that leads out of its directory.
    Value,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the record ends early",
            Self::Magic => "no record begins here",
            Self::Version => "the record is of a version that this program does not read",
            Self::HeaderCheck => "the record's header is damaged",
            Self::BodyCheck => "the record's body is damaged",
            Self::Kind => "the record is of an unknown kind",
            Self::Value => "the record holds a value outside its range",
        })
    }
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
    fn lay(&self) -> (u8, u64, u64, u64, Vec<u8>) {
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

    fn read(head: &Head, body: &[u8]) -> Result<Self, RecordError> {
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

const fn padded(body: usize) -> usize {
    body.next_multiple_of(8)
}

impl Head {
    /// Reads the header at the front of `bytes`.
    ///
    /// # Errors
    /// If no whole, undamaged header is there. The body is not looked at.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Err(RecordError::Truncated) };
        if header[..2] != MAGIC {
            return Err(RecordError::Magic);
        }
        let check = u32_at(header, 60);
        if crc32c(&header[..60]) != check {
            return Err(RecordError::HeaderCheck);
        }
        if header[2] != VERSION {
            return Err(RecordError::Version);
        }
        let body = u32_at(header, 56);
        if header[6..8] != [0; 2] || body as usize > MOST - HEADER {
            return Err(RecordError::Value);
        }
        Ok(Self {
            kind: header[3],
            group: GroupId(u16::from_le_bytes([header[4], header[5]])),
            era: Epoch(u64_at(header, 8)),
            lsn: Lsn(u64_at(header, 16)),
            prev: u32_at(header, 24),
            body_check: u32_at(header, 28),
            file: u64_at(header, 32),
            offset: u64_at(header, 40),
            number: u64_at(header, 48),
            body,
            check,
        })
    }

    /// Bytes of the whole record, with its padding.
    #[must_use]
    pub const fn size(&self) -> usize {
        HEADER + padded(self.body as usize)
    }

    /// Whether it begins an era.
    #[must_use]
    pub const fn is_era(&self) -> bool {
        self.kind == 16
    }

    /// Whether it begins an era whose files are not what the records before lead to.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.is_era() && self.number == 1
    }
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Record {
    /// The record's bytes, and its header check.
    ///
    /// # Panics
    /// If the change is not [sound](Change::is_sound): who captures looks first.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, u32) {
        assert!(self.change.is_sound(), "an unsound change at {} of {}", self.lsn, self.group);
        let (kind, file, offset, number, body) = self.change.lay();
        let mut out = Vec::with_capacity(HEADER + padded(body.len()));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, kind]);
        out.extend_from_slice(&self.group.0.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.era.0.to_le_bytes());
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.prev.to_le_bytes());
        out.extend_from_slice(&crc32c(&body).to_le_bytes());
        for word in [file, offset, number] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        let check = crc32c(&out);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&body);
        out.resize(HEADER + padded(body.len()), 0);
        (out, check)
    }

    /// Reads the record at the front of `bytes`; the next one begins [`Head::size`] bytes later.
    ///
    /// # Errors
    /// If no whole, undamaged record is there. Whether it follows the one before is the caller's to see, by `lsn` and `prev`.
    pub fn read(bytes: &[u8]) -> Result<(Self, Head), RecordError> {
        let head = Head::read(bytes)?;
        let Some(rest) = bytes.get(HEADER..head.size()) else { return Err(RecordError::Truncated) };
        let (body, padding) = rest.split_at(head.body as usize);
        if crc32c(body) != head.body_check {
            return Err(RecordError::BodyCheck);
        }
        let change = Change::read(&head, body)?;
        // One record has one encoding.
        let (kind, file, offset, number, again) = change.lay();
        let same = (kind, file, offset, number) == (head.kind, head.file, head.offset, head.number) && again == body;
        if !same || !change.is_sound() || padding.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Value);
        }
        let Head { group, era, lsn, prev, .. } = head;
        Ok((Self { group, era, lsn, prev, change }, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;
    use alloc::vec;

    fn entry(dir: u64, name: &[u8]) -> Entry {
        Entry { dir: FileId(dir), name: name.to_vec() }
    }

    fn changes() -> Vec<Change> {
        let file = FileId(7);
        vec![
            Change::Create { file, at: entry(0, b"a"), mode: 0o644 },
            Change::Write { file, offset: 5, bytes: vec![1; 100] },
            Change::Append { file, offset: 105, bytes: vec![2; MOST_BYTES] },
            Change::Truncate { file, length: 3 },
            Change::Punch { file, offset: 4096, length: 8192 },
            Change::Rename { file, from: entry(0, b"a"), to: entry(9, &[b'x'; MOST_NAME]) },
            Change::Link { file, at: entry(0, b"again") },
            Change::Unlink { at: entry(0, b"again") },
            Change::Mkdir { file: FileId(9), at: entry(0, b"d"), mode: 0o755 },
            Change::Rmdir { at: entry(0, b"d") },
            Change::Symlink { file: FileId(11), at: entry(0, b"s"), target: b"../x".to_vec() },
            Change::Attributes { file, attributes: Attributes { mode: 0o600, uid: 1, gid: 2, mtime: u64::MAX } },
            Change::SetXattr { file, name: b"user.a".to_vec(), value: vec![0, 1, 2] },
            Change::RemoveXattr { file, name: b"user.a".to_vec() },
            Change::Barrier { file },
            Change::Era { fresh: true },
        ]
    }

    fn record(lsn: u64, prev: u32, change: Change) -> Record {
        Record { group: GroupId(3), era: Epoch(40), lsn: Lsn(lsn), prev, change }
    }

    #[test]
    fn every_kind_there_and_back_in_one_chain() {
        let (mut log, mut prev) = (Vec::new(), 0);
        for (at, change) in changes().into_iter().enumerate() {
            let (bytes, check) = record(at as u64 + 1, prev, change).encode();
            assert!(bytes.len() % 8 == 0 && bytes.len() <= MOST);
            log.extend(bytes);
            prev = check;
        }
        let (mut rest, mut prev) = (&log[..], 0);
        for (at, change) in changes().into_iter().enumerate() {
            let (read, head) = Record::read(rest).expect("it is whole");
            assert_eq!(read, record(at as u64 + 1, prev, change));
            assert_eq!((head.lsn, head.is_era()), (read.lsn, at == 15));
            prev = head.check;
            rest = &rest[head.size()..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        for change in changes() {
            let (bytes, _) = record(1, 0, change).encode();
            let stride = if bytes.len() > 1000 { 61 } else { 1 };
            for bit in (0..bytes.len() * 8).step_by(stride) {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Record::read(&damaged).is_err(), "bit {bit} of {} bytes", bytes.len());
            }
            for cut in (0..bytes.len()).step_by(stride) {
                assert_eq!(Record::read(&bytes[..cut]), Err(RecordError::Truncated));
            }
        }
    }

    #[test]
    fn a_name_that_leads_out_is_refused() {
        let long = [b'x'; MOST_NAME + 1];
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &long] {
            let change = Change::Create { file: FileId(1), at: entry(0, name), mode: 0 };
            assert!(!change.is_sound(), "{name:?}");
            // A hostile sender's checks are right.
            let (mut bytes, _) =
                record(1, 0, Change::Create { file: FileId(1), at: entry(0, b"ok"), mode: 0 }).encode();
            bytes.truncate(HEADER);
            bytes.extend_from_slice(name);
            bytes.resize(HEADER + padded(name.len()), 0);
            bytes[56..60].copy_from_slice(&(name.len() as u32).to_le_bytes());
            bytes[28..32].copy_from_slice(&crc32c(name).to_le_bytes());
            let check = crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&check.to_le_bytes());
            assert_eq!(Record::read(&bytes), Err(RecordError::Value), "{name:?}");
        }
    }

    #[test]
    fn random_bytes_with_right_checks_never_panic_and_have_one_encoding() {
        let mut rng = Seed(5).stream("record");
        let (mut good, mut bad) = (0, 0);
        for _ in 0..60_000 {
            let which = rng.below(16) as usize;
            let (mut bytes, _) = record(1, 0, changes().swap_remove(which)).encode();
            let body = bytes.len() - HEADER;
            for _ in 0..rng.between(1, 3) {
                let at = if body > 0 && rng.below(2) == 0 {
                    HEADER + rng.below(body as u64) as usize
                } else {
                    rng.below(60) as usize
                };
                bytes[at] ^= 1 << rng.below(8);
            }
            let length = u32::from_le_bytes([bytes[56], bytes[57], bytes[58], bytes[59]]) as usize;
            if let Some(body) = bytes.get(HEADER..HEADER.saturating_add(length)) {
                let check = crc32c(body);
                bytes[28..32].copy_from_slice(&check.to_le_bytes());
            }
            let check = crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&check.to_le_bytes());
            match Record::read(&bytes) {
                Ok((read, head)) => {
                    assert_eq!(read.encode().0, bytes[..head.size()]);
                    good += 1;
                }
                Err(_) => bad += 1,
            }
        }
        assert!(good > 10_000 && bad > 10_000, "{good} read, {bad} refused");
    }
}
