//! Netfilter's tables, straight to the kernel: a command takes longer to start than a dispatcher may take to begin, and what a command
//! owns goes with it.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// Numbers of `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFTABLES: u16 = 10;
const BEGIN: u16 = 16;
const END: u16 = 17;
pub(super) const NEW_TABLE: u16 = NFTABLES << 8;
pub(super) const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
pub(super) const NEW_RULE: u16 = NFTABLES << 8 | 6;
pub(super) const NEW_SET: u16 = NFTABLES << 8 | 9;
pub(super) const NEW_ELEMENT: u16 = NFTABLES << 8 | 12;
pub(super) const OLD_ELEMENT: u16 = NFTABLES << 8 | 14;
const NETDEV: u8 = 5;
const NESTED: u16 = 1 << 15;
/// Of an answer: its header, and the code behind it.
const CODE: usize = 20;

/// A connection to the kernel. A table that it has made its own is taken away when it is closed, whatever closes it.
#[derive(Debug)]
pub(super) struct Netfilter {
    socket: OwnedFd,
    sequence: u32,
}

/// One attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// Attributes in one.
pub(super) fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(NESTED | kind, &parts.concat())
}

/// An element of a set, which ends by itself after `left`, if that is given.
pub(super) fn element(table: &str, set: &str, key: &[u8], left: Option<Duration>) -> Vec<u8> {
    let mut element = vec![nested(1, &[attribute(1, key)])];
    if let Some(left) = left {
        let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        element.push(attribute(4, &ms.to_be_bytes()));
    }
    [text(1, table), text(2, set), nested(3, &[nested(1, &element)])].concat()
}

impl Netfilter {
    pub(super) fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, sequence: 0 })
    }

    /// One message about tables of ports.
    pub(super) fn message(&mut self, kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
        self.about(kind, flags, NETDEV, 0, body)
    }

    fn about(&mut self, kind: u16, flags: i32, family: u8, subsystem: u16, body: &[u8]) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default();
        let mut bytes = Vec::from(u32::try_from(CODE + body.len()).unwrap_or_default().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family, 0]);
        bytes.extend(subsystem.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// An element lasts anew; asks for one answer. Before Linux 6.12 an element that is there keeps its time: it is taken away first, in
    /// the same transaction.
    pub(super) fn renew(&mut self, with: &[u8], without: &[u8]) -> Vec<u8> {
        let mut batch = self.message(NEW_ELEMENT, libc::NLM_F_CREATE, with);
        batch.extend(self.message(OLD_ELEMENT, 0, without));
        batch.extend(self.message(NEW_ELEMENT, libc::NLM_F_CREATE | libc::NLM_F_ACK, with));
        batch
    }

    /// All of these messages or none. `answers` of them ask for one (`NLM_F_ACK`): at least one.
    pub(super) fn transact(&mut self, batch: &[u8], answers: usize) -> io::Result<()> {
        let begin = self.about(BEGIN, 0, 0, NFTABLES, &[]);
        let end = self.about(END, 0, 0, NFTABLES, &[]);
        let whole = [&begin[..], batch, &end].concat();
        let fd = self.socket.as_raw_fd();
        // What a transaction before this one was refused for may still wait to be read.
        let first = batch.get(8..12).and_then(|at| at.first_chunk()).map_or(0, |at| u32::from_ne_bytes(*at));
        // SAFETY: the buffer outlives the call and is as long as is said.
        if unsafe { libc::send(fd, whole.as_ptr().cast(), whole.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut left = answers;
        while left > 0 {
            let mut answer = [0_u8; 4_096];
            // SAFETY: the buffer outlives the call and is as long as is said.
            if unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) } < 20 {
                return Err(io::Error::last_os_error());
            }
            let word = |at: usize| [answer[at], answer[at + 1], answer[at + 2], answer[at + 3]];
            if u32::from_ne_bytes(word(8)).wrapping_sub(first).cast_signed() < 0 {
                continue;
            }
            match i32::from_ne_bytes(word(16)) {
                0 => left -= 1,
                code => return Err(io::Error::from_raw_os_error(-code)),
            }
        }
        Ok(())
    }
}
