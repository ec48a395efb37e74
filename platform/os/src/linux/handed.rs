//! Frames by TAP devices alone, for machines that refuse packet sockets and programs in the kernel: `CAP_NET_ADMIN` is enough.
//!
//! [`Rules`](super::rules::Rules) at the port hand what is about the cluster's addresses over to one device, before the
//! [`Guard`](super::Guard) has it: the frames themselves, no copies. By the same device the system gets those that are for it. What is
//! written to another device comes out of the port, through the guard.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::choose::Port;
use super::packet::BATCH;
use super::ring::{BEFORE, index_of, option, wait};
use super::rules::{Rules, Way};
use super::system::{at, command};
use super::tap::Tap;

/// Frames that may wait for this process, for each address.
const WAITING: &str = "4096";
/// The longest frame that a device may have.
const LONGEST: usize = 65_535 + 14 + 8;

/// Of the ports of this thread's namespace.
const STATISTICS: &str = "/proc/thread-self/net/dev";

/// Where frames come from.
pub(super) struct Handed {
    tap: Arc<Tap>,
    /// Of a batch.
    buffers: Vec<Vec<u8>>,
}

/// By which frames leave.
pub(super) struct Leave {
    tap: Tap,
    name: String,
    /// Where the port is asked for its state, and by which it takes in what is sent to the group of an IPv6 address.
    port: OwnedFd,
}

/// Frames that found the device full: a file of the kernel's.
pub(super) struct Full {
    file: File,
    name: String,
}

/// Takes what is about the cluster's addresses from a port; the system gets its own by `tap`.
pub(super) fn hand_over(port: &Port, tap: &Arc<Tap>) -> io::Result<(Handed, Rules, Leave, Full)> {
    let index = index_of(&port.name).map_err(at(&port.name))?;
    tap.at_once()?;
    command("ip", &["link", "set", "dev", tap.name(), "txqueuelen", WAITING], "")?;
    let out = Tap::make("apus%d", true)?;
    command("ip", &["link", "set", "dev", out.name(), "addrgenmode", "none", "up"], "")?;
    let leave = Leave { port: group(index, port.v6)?, tap: out, name: port.name.clone() };
    let rules = Rules::new(port, &Way::Devices { to: tap.name(), from: leave.tap.name() })?;
    let full = Full { file: File::open(STATISTICS).map_err(at(STATISTICS))?, name: tap.name().into() };
    let buffers = (0..BATCH).map(|_| vec![0; BEFORE + LONGEST]).collect();
    Ok((Handed { tap: tap.clone(), buffers }, rules, leave, full))
}

impl Handed {
    /// At most a batch, each behind what precedes a frame. Whether there was any.
    pub(super) fn take(&mut self, act: impl FnOnce(&mut [&mut [u8]])) -> bool {
        let mut frames: [&mut [u8]; BATCH] = std::array::from_fn(|_| &mut [][..]);
        let mut many = 0;
        for (frame, buffer) in frames.iter_mut().zip(&mut self.buffers) {
            let Ok(length) = self.tap.take(buffer) else { break };
            *frame = buffer.get_mut(..length).unwrap_or_default();
            many += 1;
        }
        if many > 0 {
            act(&mut frames[..many]);
        }
        many > 0
    }

    /// Waits for a frame, until `other` can be read, or so long.
    pub(super) fn wait(&self, other: RawFd, most: Duration) {
        wait([self.tap.as_raw_fd(), other], most);
    }
}

impl Leave {
    /// A frame and what precedes it. Whether the guard lets it out is not told.
    pub(super) fn put(&self, frame: &[u8]) -> io::Result<()> {
        self.tap.put(frame)
    }

    /// An error if the port is down or gone, so that what is sent would be lost without a word.
    pub(super) fn check(&self) -> io::Result<()> {
        // SAFETY: zeros are a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last one stays zero.
        for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: the request outlives the call.
        if unsafe { libc::ioctl(self.port.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
            return Err(at(&self.name)(io::Error::last_os_error()));
        }
        // SAFETY: the kernel has put the flags there.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if i32::from(flags) & libc::IFF_UP == 0 {
            return Err(at(&self.name)(io::Error::from_raw_os_error(libc::ENETDOWN)));
        }
        Ok(())
    }
}

impl Full {
    /// How many, so far.
    pub(super) fn lost(&self) -> u64 {
        let mut text = vec![0; 1 << 16];
        let mut length = 0;
        while let Ok(more) = self.file.read_at(&mut text[length..], length as u64) {
            length += more;
            if more == 0 || length == text.len() {
                break;
            }
        }
        sent_in_vain(&String::from_utf8_lossy(&text[..length]), &self.name).unwrap_or_default()
    }
}

/// What the kernel has counted of a port: frames that it sent and that were dropped.
fn sent_in_vain(statistics: &str, port: &str) -> Option<u64> {
    let line = statistics.lines().find_map(|line| line.trim_start().strip_prefix(port)?.strip_prefix(':'))?;
    // Eight numbers of what was received; then bytes, packets, errors, drops of what was sent.
    line.split_whitespace().nth(11)?.parse().ok()
}

/// A socket of the system, by which the port takes in what is sent to the group of those who ask for an IPv6 address
/// (RFC 4291, section 2.7.1).
fn group(index: i32, v6: Option<Ipv6Addr>) -> io::Result<OwnedFd> {
    let family = if v6.is_some() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(v6) = v6 {
        let [.., a, b, c] = v6.octets();
        let group = libc::in6_addr { s6_addr: [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c] };
        let join = libc::ipv6_mreq { ipv6mr_multiaddr: group, ipv6mr_interface: index.cast_unsigned() };
        option(fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &join)
            .map_err(at("the group of those who ask for the IPv6 address"))?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_drops_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n \
            apus1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\napus10:21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36\n";
        assert_eq!(sent_in_vain(text, "apus1"), Some(12));
        assert_eq!(sent_in_vain(text, "apus10"), Some(32));
        assert_eq!(sent_in_vain(text, "apus"), None);
    }
}
