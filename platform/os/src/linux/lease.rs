//! The elements of the guard's sets, straight to the kernel: a command takes longer to start than a dispatcher may take to begin.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::system::at;

/// Numbers of `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFTABLES: u16 = 10;
const BEGIN: u16 = 16;
const END: u16 = 17;
const NEW_ELEMENT: u16 = NFTABLES << 8 | 12;
const OLD_ELEMENT: u16 = NFTABLES << 8 | 14;
const NETDEV: u8 = 5;
const NESTED: u16 = 1 << 15;

/// Who may dispatch, and how long: until its elements expire in the kernel.
#[derive(Debug)]
pub struct Lease {
    socket: OwnedFd,
    table: String,
    addresses: Vec<IpAddr>,
    sequence: u32,
}

/// One attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

impl Lease {
    pub(super) fn new(table: String, addresses: Vec<IpAddr>) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
        if fd < 0 {
            return Err(at("netfilter")(io::Error::last_os_error()));
        }
        // SAFETY: it was just opened, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, table, addresses, sequence: 0 })
    }

    fn message(&mut self, kind: u16, flags: i32, family: u8, subsystem: u16, body: &[u8]) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default();
        let mut bytes = Vec::from(u32::try_from(20 + body.len()).unwrap_or_default().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family, 0]);
        bytes.extend(subsystem.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn element(&self, address: IpAddr, left: Option<Duration>) -> Vec<u8> {
        let (set, value) = match address {
            IpAddr::V4(v4) => ("lease4", v4.octets().to_vec()),
            IpAddr::V6(v6) => ("lease6", v6.octets().to_vec()),
        };
        let mut element = attribute(NESTED | 1, &attribute(1, &value));
        if let Some(left) = left {
            let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
            element.extend(attribute(4, &ms.to_be_bytes()));
        }
        [text(1, &self.table), text(2, set), attribute(NESTED | 3, &attribute(NESTED | 1, &element))].concat()
    }

    /// Lets this node dispatch for so long.
    ///
    /// # Errors
    /// If the kernel does not take it: then this node does not dispatch.
    pub fn arm(&mut self, left: Duration) -> io::Result<()> {
        let mut batch = Vec::new();
        for address in self.addresses.clone() {
            // Before Linux 6.12 an element that is there keeps its time: it is taken away first, in the same transaction.
            let (with, without) = (self.element(address, Some(left)), self.element(address, None));
            batch.extend(self.message(NEW_ELEMENT, libc::NLM_F_CREATE, NETDEV, 0, &with));
            batch.extend(self.message(OLD_ELEMENT, 0, NETDEV, 0, &without));
            batch.extend(self.message(NEW_ELEMENT, libc::NLM_F_CREATE | libc::NLM_F_ACK, NETDEV, 0, &with));
        }
        self.transact(&batch)
    }

    /// Lets this node dispatch no more.
    ///
    /// # Errors
    /// If the kernel does not take it: then the lease ends by itself.
    pub fn disarm(&mut self) -> io::Result<()> {
        let mut batch = Vec::new();
        for address in self.addresses.clone() {
            // It may be over already.
            let (with, without) = (self.element(address, Some(Duration::from_secs(1))), self.element(address, None));
            batch.extend(self.message(NEW_ELEMENT, libc::NLM_F_CREATE, NETDEV, 0, &with));
            batch.extend(self.message(OLD_ELEMENT, libc::NLM_F_ACK, NETDEV, 0, &without));
        }
        self.transact(&batch)
    }

    /// All of it or nothing.
    fn transact(&mut self, batch: &[u8]) -> io::Result<()> {
        let begin = self.message(BEGIN, 0, 0, NFTABLES, &[]);
        let end = self.message(END, 0, 0, NFTABLES, &[]);
        let whole = [&begin[..], batch, &end].concat();
        let fd = self.socket.as_raw_fd();
        // SAFETY: the buffer outlives the call and is as long as is said.
        if unsafe { libc::send(fd, whole.as_ptr().cast(), whole.len(), 0) } < 0 {
            return Err(at("lease")(io::Error::last_os_error()));
        }
        for _ in &self.addresses {
            let mut answer = [0_u8; 4_096];
            // SAFETY: the buffer outlives the call and is as long as is said.
            if unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) } < 20 {
                return Err(at("lease")(io::Error::last_os_error()));
            }
            let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
            if code != 0 {
                return Err(at("lease")(io::Error::from_raw_os_error(-code)));
            }
        }
        Ok(())
    }
}
