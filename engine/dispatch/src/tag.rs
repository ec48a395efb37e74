//! The source address of a dispatched frame: who sent it on, by which grant, and how often.

use crate::Mac;

/// A locally administered address in whose bytes a dispatched frame carries what a server must know. The frame does not
/// grow by a byte.
///
/// Layout: `52 41 | dispatcher | epoch, low 16 bits, big-endian | hop`. The second lowest bit of the first byte is set:
/// no maker assigns such an address (IEEE 802, clause 8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Number of the node that sent it on; of a first segment on its way back, of the server that asked about it.
    pub sender: u8,
    /// Low bits of the epoch in which it holds the address.
    pub epoch: u16,
    /// 0: from the dispatcher; 1: from a server that has no socket for it.
    pub hop: u8,
}

impl Tag {
    pub(crate) const MARK: u16 = 0x5241;

    /// As an address.
    #[inline]
    #[must_use]
    pub const fn mac(self) -> Mac {
        let [high, low] = self.epoch.to_be_bytes();
        let [first, second] = Self::MARK.to_be_bytes();
        [first, second, self.sender, high, low, self.hop]
    }

    /// From an address, if it is one of ours.
    #[inline]
    #[must_use]
    pub const fn of(mac: Mac) -> Option<Self> {
        let [a, b, sender, high, low, hop] = mac;
        if u16::from_be_bytes([a, b]) != Self::MARK {
            return None;
        }
        Some(Self { sender, epoch: u16::from_be_bytes([high, low]), hop })
    }

    /// Whether it is of an earlier epoch than this one. Epochs closer than 32,768 to each other are told apart.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "serial numbers, RFC 1982")]
    pub const fn before(self, epoch: u64) -> bool {
        (self.epoch.wrapping_sub(epoch as u16) as i16) < 0
    }
}
