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

pub use super::change::{Attributes, Change, Entry, MOST_NAME, MOST_TARGET};
use super::crc::crc32c;
use crate::ids::{Epoch, GroupId, Lsn};

/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of a write at most: a longer one is several records.
pub const MOST_BYTES: usize = 32 * 1024;
/// Bytes of a record at most.
pub const MOST: usize = HEADER + MOST_BYTES + 512;
const MAGIC: [u8; 2] = *b"AR";
const VERSION: u8 = 1;

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
    pub(super) kind: u8,
    /// Of which group.
    pub group: GroupId,
    /// By which grant.
    pub era: Epoch,
    /// At which place.
    pub lsn: Lsn,
    /// The header check of the record before.
    pub prev: u32,
    pub(super) body_check: u32,
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) number: u64,
    pub(super) body: u32,
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
    use crate::ids::FileId;
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
