//! Whether a connection has a socket here: asked of the kernel by `NETLINK_SOCK_DIAG`.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use apus_dispatch::{Flow, Hooks};

/// Answers for the connections of this machine's (or namespace's) TCP.
#[derive(Debug)]
pub(super) struct Sockets(OwnedFd);

/// `SOCK_DIAG_BY_FAMILY`, its request and what precedes it (`linux/sock_diag.h`, `linux/inet_diag.h`).
const BY_FAMILY: u16 = 20;
const ASKED: usize = 16 + 56;
const LISTENS: u8 = 10;

impl Sockets {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn ask(&self, flow: &Flow, own: &[u8]) -> io::Result<bool> {
        let mut ask = [0_u8; ASKED];
        let family = if flow.v6 { libc::AF_INET6 } else { libc::AF_INET };
        ask[..4].copy_from_slice(&u32::try_from(ASKED).unwrap_or_default().to_ne_bytes());
        ask[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        ask[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        ask[16] = u8::try_from(family).unwrap_or_default();
        ask[17] = 6;
        // All states; then who: ports, own address, the other's; any interface, any cookie.
        ask[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        ask[24..26].copy_from_slice(&flow.cluster_port.to_be_bytes());
        ask[26..28].copy_from_slice(&flow.port.to_be_bytes());
        ask[28..28 + own.len()].copy_from_slice(own);
        let client = if flow.v6 { &flow.client[..] } else { &flow.client[12..] };
        ask[44..44 + client.len()].copy_from_slice(client);
        ask[64..72].copy_from_slice(&[0xff; 8]);
        // SAFETY: the buffer outlives the call and is as long as is said.
        if unsafe { libc::send(self.0.as_raw_fd(), ask.as_ptr().cast(), ask.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = [0_u8; 512];
        // SAFETY: the buffer outlives the call and is as long as is said.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        if got < 18 {
            return Err(io::Error::last_os_error());
        }
        // An error (type 2) says that there is none. A listener takes what begins a connection, and this does not.
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        Ok(kind == BY_FAMILY && answer[17] != LISTENS)
    }
}

/// With the cluster's addresses.
#[derive(Debug)]
pub(super) struct Connections<'a> {
    pub(super) sockets: &'a Sockets,
    pub(super) v4: [u8; 4],
    pub(super) v6: [u8; 16],
}

impl Hooks for Connections<'_> {
    /// Where the kernel does not answer, a connection counts as this server's own.
    fn has_socket(&self, flow: &Flow) -> bool {
        let own: &[u8] = if flow.v6 { &self.v6 } else { &self.v4 };
        self.sockets.ask(flow, own).unwrap_or(true)
    }
}
