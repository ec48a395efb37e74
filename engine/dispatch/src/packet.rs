//! A packet for the cluster: whose it is, and what of it decides its slot.

use crate::header::{Inner, TCP, UDP, be16};
use crate::mutant::planted;
use crate::{Flow, Frame, Head, Hooks, Key, Mutant, Reason, Table, hash_v4, hash_v6, with_ports};

/// A packet for the cluster, ready to be routed.
pub(crate) struct Packet {
    pub(crate) inner: Inner,
    /// An IPv6 address in two halves, or an IPv4 one in the second: kernel targets keep bytes in memory, and may not read
    /// all of them there.
    pub(crate) client: [u64; 2],
    pub(crate) v6: bool,
    /// An ICMP error: `inner` is the packet it tells about, which the cluster sent.
    pub(crate) reverse: bool,
}

/// An IPv4 address, as a client's.
#[inline]
pub(crate) const fn halves_v4(address: [u8; 4]) -> [u64; 2] {
    [0, u32::from_be_bytes(address) as u64]
}

/// An IPv6 address, as a client's.
#[inline]
pub(crate) const fn halves_v6(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

/// A client's address, as a flow has it.
#[inline]
const fn whole([high, low]: [u64; 2]) -> [u8; 16] {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high.to_be_bytes(), low.to_be_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Whether a port could be in it.
#[inline]
fn has_ports(packet: &Packet) -> bool {
    (!packet.inner.fragment || planted(Mutant::FragmentPorts)) && matches!(packet.inner.protocol, TCP | UDP)
}

/// Client's and cluster's port of a packet that has ports, if they are not cut off.
#[inline]
fn ports<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<(u16, u16)> {
    let [a, b, c, d] = frame.read::<4>(packet.inner.l4)?;
    let (from, to) = (be16(a, b), be16(c, d));
    Some(if packet.reverse && !planted(Mutant::ErrorNotReversed) { (to, from) } else { (from, to) })
}

#[inline]
pub(crate) fn hash<F: Frame + ?Sized>(frame: &F, head: &Head, packet: &Packet) -> Result<u64, Reason> {
    let client = whole(packet.client);
    let [.., a, b, c, d] = client;
    let hash = if packet.v6 { hash_v6(head.seed, client) } else { hash_v4(head.seed, [a, b, c, d]) };
    if head.key as u8 == Key::Source as u8 || !has_ports(packet) {
        return Ok(hash);
    }
    let (client, cluster) = ports(frame, packet).ok_or(Reason::Truncated)?;
    Ok(with_ports(hash, client, cluster))
}

/// The connection of a TCP segment that does not begin one, or of an error about one.
#[inline]
pub(crate) fn connection<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<Flow> {
    if packet.inner.protocol != TCP || packet.inner.fragment {
        return None;
    }
    let (port, cluster_port) = ports(frame, packet)?;
    if !packet.reverse {
        let [flags] = frame.read::<1>(packet.inner.l4 + 13)?;
        // SYN without ACK begins one.
        if flags & 0x12 == 0x02 && !planted(Mutant::SynMoved) {
            return None;
        }
    }
    Some(Flow { client: whole(packet.client), v6: packet.v6, port, cluster_port })
}

/// The server that a QUIC packet's destination connection id names (RFC 9000, section 17), if the table has it.
#[inline]
pub(crate) fn quic<F, T, H>(table: &T, hooks: &H, frame: &F, packet: &Packet) -> Option<u16>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    if packet.inner.protocol != UDP || packet.inner.fragment || packet.reverse {
        return None;
    }
    let payload = packet.inner.l4 + 8;
    let [first] = frame.read::<1>(payload)?;
    let id = if first & 0x80 == 0 {
        payload + 1
    } else {
        let [length] = frame.read::<1>(payload + 5)?;
        if length < 8 {
            return None;
        }
        payload + 6
    };
    let server = hooks.quic_server(frame.read::<8>(id)?)?;
    table.server(server).map(|_| server)
}
