//! A table as plain bytes: what is stored, sent, mapped into the kernel, and compared bit for bit.
//!
//! ```text
//! offset  bytes
//!      0  8      magic "ONE-IP1\0"
//!      8  8      checksum of all bytes after it
//!     16  8      epoch
//!     24  8      seed
//!     32  1      log2 of the number of slots, 4 to 20
//!     33  1      key: 0 source, 1 source and ports, 2 QUIC
//!     34  2      number of servers, at most 4,096
//!     36  4      IPv4 address
//!     40  16     IPv6 address
//!     56  6      claimed hardware address
//!     62  2      zero
//!     64  2 M    server of each slot
//!         2 M    former server of each slot
//!         8 n    servers: hardware address, zero, zero
//! ```
//! Numbers are little-endian, addresses as on the wire.

use crate::mutant::planted;
use crate::{Frame, Head, Key, MAX_SERVERS, Mac, Mutant, NOBODY, Slot, Table};

/// Bytes before the first slot.
pub const HEAD_BYTES: usize = 64;
/// Where the checksum is; it covers what follows it.
pub const CHECKSUM_AT: usize = 8;
const COVERED: usize = 16;
pub(crate) const MAGIC: [u8; 8] = *b"ONE-IP1\0";

/// Where the parts of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Slots.
    pub slots: usize,
    /// Where the servers of slots begin.
    pub servers_at: usize,
    /// Where the former servers of slots begin.
    pub formers_at: usize,
    /// Where the addresses of servers begin.
    pub macs_at: usize,
    /// All bytes.
    pub bytes: usize,
}

impl Layout {
    /// Of a table with 2 to the `log2` slots (4 to 20) and this many servers.
    #[must_use]
    pub const fn new(log2: u8, servers: u16) -> Option<Self> {
        if log2 < 4 || log2 > 20 || servers > MAX_SERVERS {
            return None;
        }
        let slots = 1_usize << log2;
        let formers_at = HEAD_BYTES.wrapping_add(slots.wrapping_mul(2));
        let macs_at = formers_at.wrapping_add(slots.wrapping_mul(2));
        let bytes = macs_at.wrapping_add((servers as usize).wrapping_mul(8));
        Some(Self { slots, servers_at: HEAD_BYTES, formers_at, macs_at, bytes })
    }
}

/// Why bytes are not a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockError {
    /// Not the magic of a table, or of another version of it.
    Magic,
    /// The numbers of slots and servers ask for `needed` bytes.
    Size {
        /// Bytes of such a block.
        needed: usize,
        /// Bytes there are.
        there: usize,
    },
    /// Slots, servers or the kind of key are outside what a table may have.
    Range,
    /// The bytes are damaged.
    Checksum,
    /// A slot names a server that is not in the table.
    Slot(u32),
    /// The table is older than the one in use.
    Epoch {
        /// Of the block.
        offered: u64,
        /// Of the table in use.
        in_use: u64,
    },
}

impl core::fmt::Display for BlockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic => write!(f, "this is no dispatch table (its first eight bytes must be `ONE-IP1\\0`)"),
            Self::Size { needed, there } => write!(f, "a table of this shape has {needed} bytes, this one has {there}"),
            Self::Range => write!(f, "a table has 2^4 to 2^20 slots, at most 4096 servers, and a key of 0 to 2"),
            Self::Checksum => write!(f, "the table's checksum is wrong: it was damaged on its way; fetch it again"),
            Self::Slot(slot) => write!(f, "slot {slot} names a server that the table does not have"),
            Self::Epoch { offered, in_use } => {
                write!(
                    f,
                    "the table is of epoch {offered}, and one of epoch {in_use} is in use; only a later one is taken"
                )
            }
        }
    }
}

impl core::error::Error for BlockError {}

/// Checksum of a block: of its length and of the bytes after the checksum itself.
#[must_use]
pub fn checksum(block: &[u8]) -> u64 {
    let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in block.get(COVERED..).unwrap_or_default().chunks(8) {
        let word = chunk.iter().rev().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
        sum = (sum ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(29);
    }
    sum ^ block.len() as u64
}

/// A table over checked bytes.
#[derive(Clone, Copy, Debug)]
pub struct Block<'b> {
    bytes: &'b [u8],
    head: Head,
    layout: Layout,
    servers: &'b [[u8; 2]],
    formers: &'b [[u8; 2]],
    macs: &'b [[u8; 8]],
}

impl<'b> Block<'b> {
    /// Checks everything: shape, checksum, and that each slot's servers exist.
    ///
    /// # Errors
    /// What is wrong; nothing of a wrong block is used.
    pub fn new(bytes: &'b [u8]) -> Result<Self, BlockError> {
        if bytes.read(0) != Some(MAGIC) {
            return Err(BlockError::Magic);
        }
        let short = BlockError::Size { needed: HEAD_BYTES, there: bytes.len() };
        let fixed = bytes.get(..HEAD_BYTES).ok_or(short)?;
        let word = |from: usize| fixed.read(from).map_or(0, u64::from_le_bytes);
        let [log2, key] = fixed.read(32).unwrap_or_default();
        let servers = fixed.read(34).map_or(0, u16::from_le_bytes);
        let key = match key {
            0 => Key::Source,
            1 => Key::Ports,
            2 => Key::Quic,
            _ => return Err(BlockError::Range),
        };
        let layout = Layout::new(log2, servers).ok_or(BlockError::Range)?;
        if bytes.len() != layout.bytes {
            return Err(BlockError::Size { needed: layout.bytes, there: bytes.len() });
        }
        if checksum(bytes) != word(CHECKSUM_AT) && !planted(Mutant::ChecksumIgnored) {
            return Err(BlockError::Checksum);
        }
        let head = Head {
            epoch: word(16),
            seed: word(24),
            log2_slots: log2,
            key,
            v4: fixed.read(36).unwrap_or_default(),
            v6: fixed.read(40).unwrap_or_default(),
            claim: fixed.read(56).unwrap_or_default(),
        };
        let part = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
        let (slots, _) = part(layout.servers_at, layout.formers_at).as_chunks();
        let (formers, _) = part(layout.formers_at, layout.macs_at).as_chunks();
        let (macs, _) = part(layout.macs_at, layout.bytes).as_chunks();
        let block = Self { bytes, head, layout, servers: slots, formers, macs };
        let known = |place: u16| place == NOBODY || place < servers || planted(Mutant::SlotUnchecked);
        for number in 0..1_u32 << log2 {
            let slot = block.slot(number);
            if !known(slot.server) || !known(slot.former) {
                return Err(BlockError::Slot(number));
            }
        }
        Ok(block)
    }

    /// The same, for a node that uses a table of epoch `in_use`.
    ///
    /// # Errors
    /// As [`Block::new`], and for a table that is not later than the one in use.
    pub fn newer(bytes: &'b [u8], in_use: u64) -> Result<Self, BlockError> {
        let block = Self::new(bytes)?;
        let offered = block.head.epoch;
        if offered <= in_use && !planted(Mutant::OldTableTaken) {
            Err(BlockError::Epoch { offered, in_use })
        } else {
            Ok(block)
        }
    }

    /// Where its parts are.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }
}

impl Table for Block<'_> {
    #[inline]
    fn head(&self) -> Head {
        self.head
    }

    #[inline]
    fn slot(&self, number: u32) -> Slot {
        let number = number as usize & self.layout.slots.wrapping_sub(1);
        let of = |part: &[[u8; 2]]| part.get(number).map_or(NOBODY, |server| u16::from_le_bytes(*server));
        Slot { server: of(self.servers), former: of(self.formers) }
    }

    #[inline]
    fn server(&self, place: u16) -> Option<Mac> {
        let [a, b, c, d, e, f, _, _] = *self.macs.get(usize::from(place))?;
        Some([a, b, c, d, e, f])
    }

    #[inline]
    fn port(&self, number: usize) -> Option<(u16, [u8; 8])> {
        let server = u16::from_le_bytes(*self.servers.get(number)?);
        Some((server, *self.macs.get(usize::from(server))?))
    }
}
