//! Frames on the virtual Ethernet: what the world knows about each besides its bytes, and how those it makes itself are built.

use apus_dispatch::{Flow, Mac};

/// The cluster's addresses.
pub(super) const CLUSTER_V4: [u8; 4] = [10, 8, 0, 100];
/// See [`CLUSTER_V4`].
pub(super) const CLUSTER_V6: [u8; 16] = [0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// Where the cluster answers.
pub(super) const PORT: u16 = 80;
/// To everybody.
pub(super) const BROADCAST: Mac = [0xff; 6];

/// What a frame is, by who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Nothing that is followed.
    Other,
    /// A client's segment to the cluster.
    Segment {
        flow: Flow,
        /// It begins a connection.
        begins: bool,
    },
    /// A client's datagram to the cluster, or a part of it.
    Datagram { client: [u8; 16], ident: u16, part: bool },
    /// A router's error about a connection.
    Error { flow: Flow },
    /// Who has the cluster's address?
    Question,
    /// From somebody who does not exist.
    Spoofed,
}

/// What the world knows about a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Number of the packet that it carries; 0 if that is not followed.
    pub(super) id: u64,
    pub(super) sort: Sort,
    /// How often a node sent it on.
    pub(super) hops: u8,
    /// A fault made it a second time.
    pub(super) copy: bool,
    /// A fault changed its bytes.
    pub(super) dirty: bool,
}

impl Meta {
    pub(super) const NONE: Self = Self { id: 0, sort: Sort::Other, hops: 0, copy: false, dirty: false };
}

/// One frame.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) meta: Meta,
}

/// An IPv4 address as a flow has it.
pub(super) const fn wide([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

pub(super) fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Target of an IP packet, as a flow has it, and whether it is an IPv6 one.
pub(super) fn target(packet: &[u8]) -> Option<([u8; 16], bool)> {
    match packet.first()? >> 4 {
        4 => Some((wide(read(packet, 16)?), false)),
        6 => Some((read(packet, 24)?, true)),
        _ => None,
    }
}

/// What a client's IP packet to the cluster is.
pub(super) fn sort(packet: &[u8]) -> Option<Sort> {
    let segment = |client, v6, at: usize| {
        let [a, b, c, d] = read(packet, at)?;
        let (port, cluster_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let [flags] = read(packet, at + 13)?;
        Some(Sort::Segment { flow: Flow { client, v6, port, cluster_port }, begins: flags & 0x12 == 2 })
    };
    match target(packet)? {
        (to, false) if to == wide(CLUSTER_V4) => {
            let client = wide(read(packet, 12)?);
            let part = u16::from_be_bytes(read(packet, 6)?) & 0x3fff != 0;
            match read(packet, 9)? {
                [6] if !part => segment(client, false, 20),
                _ => Some(Sort::Datagram { client, ident: u16::from_be_bytes(read(packet, 4)?), part }),
            }
        }
        (to, true) if to == CLUSTER_V6 => match read(packet, 6)? {
            [6] => segment(read(packet, 8)?, true, 40),
            _ => Some(Sort::Datagram { client: read(packet, 8)?, ident: 0, part: false }),
        },
        _ => None,
    }
}

/// An Ethernet frame.
pub(super) fn frame(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP packet about IPv4 on Ethernet, in its frame.
pub(super) fn arp(operation: u16, to: Mac, from: (Mac, [u8; 4]), about: (Mac, [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let payload = [&head[..], &operation.to_be_bytes(), &from.0, &from.1, &about.0, &about.1].concat();
    frame(to, from.0, 0x0806, &payload)
}

/// The Internet checksum.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 packet.
pub(super) fn v4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut head = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    head.extend(from);
    head.extend(to);
    let sum = checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    head.extend(payload);
    head
}

/// An IPv6 packet.
pub(super) fn v6(next: u8, hops: u8, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, hops];
    packet.extend(from);
    packet.extend(to);
    packet.extend(payload);
    packet
}

/// An `ICMPv6` packet with its checksum.
pub(super) fn icmp6(hops: u8, from: [u8; 16], to: [u8; 16], mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let sum = checksum(&[&from, &to, &length, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum);
    v6(58, hops, from, to, &message)
}

/// Whether the checksum of an `ICMPv6` packet is right.
pub(super) fn whole(packet: &[u8]) -> bool {
    let parts = || {
        let length = usize::from(u16::from_be_bytes(read(packet, 4)?));
        Some((packet.get(8..40)?, packet.get(40..40 + length)?))
    };
    parts().is_some_and(|(addresses, message)| {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        checksum(&[addresses, &length, &[0, 0, 0, 58], message]) == [0; 2]
    })
}

/// The group that hears questions about an IPv6 address, and its hardware address.
fn solicited(about: [u8; 16]) -> ([u8; 16], Mac) {
    let [.., a, b, c] = about;
    ([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c], [0x33, 0x33, 0xff, a, b, c])
}

/// A neighbour solicitation, in its frame.
pub(super) fn solicitation(from: (Mac, [u8; 16]), about: [u8; 16]) -> Vec<u8> {
    let (group, mac) = solicited(about);
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &about, &[1, 1], &from.0].concat();
    frame(mac, from.0, 0x86dd, &icmp6(255, from.1, group, message))
}

/// A neighbour advertisement with the override flag, in its frame; solicited if it is to somebody.
pub(super) fn advertisement(from: (Mac, [u8; 16]), to: Option<(Mac, [u8; 16])>) -> Vec<u8> {
    let all = ([0x33, 0x33, 0, 0, 0, 1], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let flags = if to.is_some() { 0x60 } else { 0x20 };
    let (mac, address) = to.unwrap_or(all);
    let message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &from.1, &[2, 1], &from.0].concat();
    frame(mac, from.0, 0x86dd, &icmp6(255, from.1, address, message))
}

/// A TCP header without data; its checksum is left out: it is for what never reaches a socket.
pub(super) fn tcp(from: u16, to: u16, sequence: u32, flags: u8) -> Vec<u8> {
    let mut head = Vec::from(from.to_be_bytes());
    head.extend(to.to_be_bytes());
    head.extend(sequence.to_be_bytes());
    head.extend([0, 0, 0, 0, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    head
}

/// A router's word that a packet of the cluster on this connection was too big.
pub(super) fn too_big(flow: &Flow, router: u8) -> Vec<u8> {
    let segment = tcp(flow.cluster_port, flow.port, 1, 0x10);
    if flow.v6 {
        let told = v6(6, 64, CLUSTER_V6, flow.client, &segment);
        let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &told].concat();
        let mut from = CLUSTER_V6;
        from[13] = 9;
        from[15] = router;
        return icmp6(64, from, CLUSTER_V6, message);
    }
    let [.., a, b, c, d] = flow.client;
    let told = v4(6, CLUSTER_V4, [a, b, c, d], &segment);
    let mut message = [&[3, 4, 0, 0, 0, 0, 2, 64][..], &told].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum);
    v4(1, [10, 8, 9, router], CLUSTER_V4, &message)
}
