//! Captures in pcapng (draft-ietf-opsawg-pcapng), block by block: a section, its interfaces, then packets.

/// Raw IP packets, no link header (`LINKTYPE_RAW`).
pub const LINK_RAW: u16 = 101;
/// Ethernet frames (`LINKTYPE_ETHERNET`).
pub const LINK_ETHERNET: u16 = 1;

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'p> {
    /// Which of the section's interfaces, counted from 0.
    pub interface: u32,
    /// Nanoseconds.
    pub at: u64,
    /// As many of its bytes as were kept.
    pub bytes: &'p [u8],
    /// How many it had.
    pub length: usize,
    /// For people.
    pub comment: &'p str,
    /// It came in; else it went out.
    pub inbound: bool,
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let padded = body.len().div_ceil(4) * 4;
    let total = u32::try_from(padded + 12).unwrap_or(u32::MAX);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&total.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(out.len() + padded - body.len(), 0);
    out.extend_from_slice(&total.to_le_bytes());
}

/// An option of a block, padded.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().div_ceil(4) * 4, 0);
}

/// Begins a section.
pub fn section(out: &mut Vec<u8>) {
    let mut body = Vec::new();
    body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    body.extend_from_slice(&1_u16.to_le_bytes());
    body.extend_from_slice(&0_u16.to_le_bytes());
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    option(&mut body, 4, concat!("apus ", env!("CARGO_PKG_VERSION")).as_bytes());
    option(&mut body, 0, &[]);
    block(out, 0x0a0d_0d0a, &body);
}

/// Adds an interface with times in nanoseconds.
pub fn interface(out: &mut Vec<u8>, link: u16, name: &str) {
    let mut body = Vec::new();
    body.extend_from_slice(&link.to_le_bytes());
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    option(&mut body, 2, name.as_bytes());
    option(&mut body, 9, &[9]);
    option(&mut body, 0, &[]);
    block(out, 1, &body);
}

/// Adds a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    let number = |many: usize| u32::try_from(many).unwrap_or(u32::MAX).to_le_bytes();
    let mut body = Vec::new();
    body.extend_from_slice(&packet.interface.to_le_bytes());
    body.extend_from_slice(&u32::try_from(packet.at >> 32).unwrap_or(0).to_le_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "the low half")]
    let low = packet.at as u32;
    body.extend_from_slice(&low.to_le_bytes());
    body.extend_from_slice(&number(packet.bytes.len()));
    body.extend_from_slice(&number(packet.length));
    body.extend_from_slice(packet.bytes);
    body.resize(body.len().div_ceil(4) * 4, 0);
    option(&mut body, 1, packet.comment.as_bytes());
    option(&mut body, 2, &(if packet.inbound { 1_u32 } else { 2 }).to_le_bytes());
    option(&mut body, 0, &[]);
    block(out, 6, &body);
}
