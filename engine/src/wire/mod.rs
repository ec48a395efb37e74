//! The packet format between nodes.
//!
//! ```text
//! offset size
//!  0      2   magic "AP"
//!  2      1   version of this body (1 to 5)
//!  3      1   newest version the sender speaks
//!  4      1   kind
//!  5      4   cluster id
//!  9      2   sender
//! 11      4   sender's incarnation
//! 15      …   body, integers little-endian or LEB128
//! end-4   4   check: low half of the keyed 64-bit hash of all before it
//! ```
//! Laid by hand: a typical probe is 40 bytes, and the decoder's only allocations are vectors whose
//! announced length is checked against the bytes that are left. It never panics.

mod codec;
#[cfg(test)]
mod tests;

pub use codec::{Reader, Wire, Writer};

use alloc::vec::Vec;

use crate::config::Config;
use crate::hash::hash_bytes;
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::mutant::Mutant;
use crate::{consensus, diagnosis, shipping, views};

/// The newest version this engine reads and writes.
///
/// 2 has evidence, 3 settings, 4 the layout of 3: who speaks it takes a leader's word less often (see [`crate::Config::rest`]).
/// 5 has groups of files.
pub const VERSION: u8 = 5;
/// What a node without groups of files writes.
pub const USUAL: u8 = 4;
/// The version that brought rest.
pub(crate) const REST: u8 = 4;
/// The version that brought groups of files; a node with some writes it.
pub const FILES: u8 = 5;
const MAGIC: [u8; 2] = *b"AP";
const HEADER: usize = 15;
const CHECK: usize = 4;

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Version of the body.
    pub version: u8,
    /// Newest version the sender speaks.
    pub speaks: u8,
    /// Whose cluster.
    pub cluster: ClusterId,
    /// Who.
    pub sender: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
}

/// What a packet says, by the part it is for. Kinds `0x1…` diagnosis, `0x2…` consensus, `0x3…` views, `0x4…` shipping.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// For `diagnosis`.
    Diagnosis(diagnosis::Message),
    /// For `consensus`.
    Consensus(consensus::Message),
    /// For `views`.
    Views(views::Message),
    /// For `shipping`.
    Shipping(shipping::Message),
}

/// Why a packet was dropped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DecodeError {
    /// Shorter than a header and a check, or a body that ends early.
    Truncated,
    /// Bytes after the body.
    Trailing,
    /// Not one of our packets.
    Magic,
    /// Damaged on the way.
    Check,
    /// A version this engine does not read.
    Version,
    /// A kind this engine does not know.
    Kind,
    /// A value outside its range.
    Value,
    /// Another cluster's packet.
    Cluster,
}

/// The kind byte of a packet, without any check; for drop filters and statistics.
#[must_use]
pub fn peek_kind(datagram: &[u8]) -> Option<u8> {
    datagram.get(4).copied()
}

/// The name of a kind, for people.
#[must_use]
pub fn kind_name(kind: u8) -> &'static str {
    match kind >> 4 {
        1 => diagnosis::Message::kind_name(kind),
        2 => consensus::Message::kind_name(kind),
        3 => views::Message::kind_name(kind),
        4 => shipping::Message::kind_name(kind),
        _ => "unknown",
    }
}

/// The check value for everything before it.
fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut out = [0; CHECK];
    out.copy_from_slice(&hash_bytes(0x4150_5553, bytes).to_le_bytes()[..CHECK]);
    out
}

/// Whether a packet's check is right.
#[must_use]
pub fn is_intact(datagram: &[u8]) -> bool {
    datagram.split_last_chunk::<CHECK>().is_some_and(|(bytes, tail)| check(bytes) == *tail)
}

/// Makes the check of a damaged packet right again, as a weak checksum would let it pass; for fault injection.
pub fn repair_check(datagram: &mut [u8]) {
    if let Some(at) = datagram.len().checked_sub(CHECK) {
        let (bytes, tail) = datagram.split_at_mut(at);
        tail.copy_from_slice(&check(bytes));
    }
}

/// The version that brought a kind: who speaks an older one does not know it.
#[must_use]
pub const fn since(kind: u8) -> u8 {
    match kind {
        // Orders to who coordinates.
        0x34 => 3,
        // Heartbeats of a cluster at rest, and their answers.
        0x26 | 0x27 => REST,
        0x40..=0x4f => FILES,
        _ => 1,
    }
}

/// Lays a packet.
#[must_use]
pub fn encode(header: &Header, body: &Body) -> Vec<u8> {
    let mut w = Writer::new(header.version);
    w.bytes(&MAGIC);
    w.u8(header.version);
    w.u8(header.speaks);
    w.u8(match body {
        Body::Diagnosis(m) => m.kind(),
        Body::Consensus(m) => m.kind(),
        Body::Views(m) => m.kind(),
        Body::Shipping(m) => m.kind(),
    });
    w.u32(header.cluster.0);
    w.u16(header.sender.0);
    w.u32(header.incarnation.0);
    match body {
        Body::Diagnosis(m) => m.put_body(&mut w),
        Body::Consensus(m) => m.put_body(&mut w),
        Body::Views(m) => m.put_body(&mut w),
        Body::Shipping(m) => m.put_body(&mut w),
    }
    let mut out = w.into_vec();
    let tail = check(&out);
    out.extend_from_slice(&tail);
    out
}

/// Reads a packet.
pub fn decode(config: &Config, datagram: &[u8]) -> Result<(Header, Body), DecodeError> {
    let Some(end) = datagram.len().checked_sub(CHECK).filter(|end| *end >= HEADER) else {
        return Err(DecodeError::Truncated);
    };
    let (front, tail) = datagram.split_at(end);
    if front[..2] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if check(front) != tail && !config.has(Mutant::ChecksumIgnored) {
        return Err(DecodeError::Check);
    }
    let version = front[2];
    // A node of an older version does not read newer bodies, whatever this code could.
    if version == 0 || version > VERSION.min(config.wire_version) {
        return Err(DecodeError::Version);
    }
    let layout = if config.has(Mutant::VersionMisread) { VERSION } else { version };
    let mut r = Reader::new(layout, &front[3..]);
    let (speaks, kind) = (r.u8()?, r.u8()?);
    let header = Header {
        version,
        speaks,
        cluster: ClusterId(r.u32()?),
        sender: NodeId(r.u16()?),
        incarnation: Incarnation(r.u32()?),
    };
    if header.cluster != config.cluster && !config.has(Mutant::ClusterIgnored) {
        return Err(DecodeError::Cluster);
    }
    if version < since(kind) {
        return Err(DecodeError::Kind);
    }
    let body = match kind >> 4 {
        1 => Body::Diagnosis(diagnosis::Message::get_body(kind, &mut r)?),
        2 => Body::Consensus(consensus::Message::get_body(kind, &mut r)?),
        3 => Body::Views(views::Message::get_body(kind, &mut r)?),
        4 => Body::Shipping(shipping::Message::get_body(kind, &mut r)?),
        _ => return Err(DecodeError::Kind),
    };
    r.end()?;
    Ok((header, body))
}
