//! Tables and frames for the tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "each test takes what it needs"
)]

use apus_dispatch::{CHECKSUM_AT, HEAD_BYTES, Here, Key, Layout, Mac, NOBODY, checksum};

pub const V4: [u8; 4] = [10, 0, 0, 100];
pub const V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub const ROUTER: Mac = [2, 0, 0, 0, 0xff, 1];
pub const SERVERS: u16 = 4;
pub const LOG2: u8 = 6;
pub const SEED: u64 = 0x1234_5678_9abc_def0;

/// The port of a server.
pub fn mac(server: u16) -> Mac {
    [2, 0, 0, 0, 1, server as u8]
}

/// The dispatcher is server 0; slot `s` is of server `s % 4`, formerly of the one after it.
pub fn here(server: u16) -> Here {
    Here {
        now: 1_000,
        lease: if server == 0 { 2_000 } else { 0 },
        epoch: 7,
        fence: 7,
        server,
        id: server as u8,
        fresh: false,
        mac: mac(server),
    }
}

pub fn table(key: Key, claim: Mac) -> Vec<u8> {
    let layout = Layout::new(LOG2, SERVERS).expect("a good shape");
    let mut bytes = vec![0; layout.bytes];
    bytes[..8].copy_from_slice(b"ONE-IP1\0");
    bytes[16..24].copy_from_slice(&7_u64.to_le_bytes());
    bytes[24..32].copy_from_slice(&SEED.to_le_bytes());
    bytes[32] = LOG2;
    bytes[33] = key as u8;
    bytes[34..36].copy_from_slice(&SERVERS.to_le_bytes());
    bytes[36..40].copy_from_slice(&V4);
    bytes[40..56].copy_from_slice(&V6);
    bytes[56..62].copy_from_slice(&claim);
    for slot in 0..layout.slots {
        let server = slot as u16 % SERVERS;
        let former = if slot < 32 { (server + 1) % SERVERS } else { NOBODY };
        bytes[HEAD_BYTES + 2 * slot..][..2].copy_from_slice(&server.to_le_bytes());
        bytes[layout.formers_at + 2 * slot..][..2].copy_from_slice(&former.to_le_bytes());
    }
    for server in 0..SERVERS {
        bytes[layout.macs_at + 8 * server as usize..][..6].copy_from_slice(&mac(server));
    }
    seal(&mut bytes);
    bytes
}

pub fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
}

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// Tags in front of what an Ethernet frame carries.
pub fn vlan(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in tags {
        out.extend(tag.to_be_bytes());
        out.extend([0, 42]);
    }
    out.extend(&frame[12..]);
    out
}

/// An IPv4 packet; `field` is flags and fragment offset, `options` a multiple of four bytes.
pub fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, field: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut out = vec![0x40 | (header / 4) as u8, 0];
    out.extend(((header + payload.len()) as u16).to_be_bytes());
    out.extend([0, 1]);
    out.extend(field.to_be_bytes());
    out.extend([64, protocol, 0, 0]);
    out.extend(from);
    out.extend(to);
    out.extend(options);
    out.extend(payload);
    out
}

pub fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([next, hops]);
    out.extend(from);
    out.extend(to);
    out.extend(payload);
    out
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut out = [from.to_be_bytes(), to.to_be_bytes()].concat();
    out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    out
}

pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = [from.to_be_bytes(), to.to_be_bytes(), (8 + payload.len() as u16).to_be_bytes()].concat();
    out.extend([0, 0]);
    out.extend(payload);
    out
}

pub fn icmp_error(kind: u8, told: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], told].concat()
}

/// From a router to the dispatcher.
pub fn to_dispatcher(kind: u16, packet: &[u8]) -> Vec<u8> {
    ethernet(mac(0), ROUTER, kind, packet)
}

pub fn arp(operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4];
    out.extend(operation.to_be_bytes());
    out.extend(sender.0);
    out.extend(sender.1);
    out.extend(target.0);
    out.extend(target.1);
    ethernet([0xff; 6], sender.0, 0x0806, &out)
}

/// The internet checksum of an `ICMPv6` message in an IPv6 packet; 0 when it is right.
pub fn icmpv6_sum(packet: &[u8]) -> u16 {
    let length = u16::from_be_bytes([packet[4], packet[5]]);
    let mut bytes = packet[8..40].to_vec();
    bytes.extend([0, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(&packet[40..40 + length as usize]);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// `SplitMix64`.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
