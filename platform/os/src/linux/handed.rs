//! Frames by TAP devices alone, for machines that refuse packet sockets and programs in the kernel: `CAP_NET_ADMIN` is enough.
//!
//! Rules at the port hand what is about the cluster's addresses over to one device, before the [`Guard`](super::Guard) has it: the frames
//! themselves, no copies. By the same device the system gets those that are for it. What is written to another device comes out of the
//! port, through the guard.
//!
//! The rules are this process's own: the kernel takes them away with it. And they hold only as long as this process says so again and
//! again: one that is frozen leaves what a dispatcher sends to the guard, which lets the system have it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choose::Port;
use super::netfilter::{NEW_CHAIN, NEW_RULE, NEW_SET, NEW_TABLE, Netfilter, attribute, element, nested, number, text};
use super::packet::BATCH;
use super::ring::{BEFORE, index_of, option};
use super::system::{at, command};
use super::tap::Tap;

/// The rules hold for so long, and are renewed this often.
const HOLD: Duration = Duration::from_millis(1_000);
const RENEW: Duration = Duration::from_millis(250);
/// Frames that may wait for this process, for each address.
const WAITING: &str = "4096";
/// The longest frame that a device may have.
const LONGEST: usize = 65_535 + 14 + 8;

/// Of the ports of this thread's namespace.
const STATISTICS: &str = "/proc/thread-self/net/dev";

/// Numbers of `linux/netfilter/nf_tables.h`: where the bytes of a packet are counted from, what is known of it besides, a register.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const PROTOCOL: u32 = 1;
const INDEX: u32 = 4;
const TRANSPORT_PROTOCOL: u32 = 16;
const REGISTER: u32 = 8;
/// Before the guard, whose chain is at -300.
const EARLY: i32 = -400;
/// The type of a set's keys, for people who list it: numbers of interfaces.
const INTERFACES: u32 = 20;

type Expression = Vec<u8>;

fn expression(name: &str, parts: &[Vec<u8>]) -> Expression {
    nested(1, &[text(1, name), nested(2, parts)])
}

/// The register holds these bytes.
fn equal(bytes: &[u8]) -> Expression {
    expression("cmp", &[number(1, REGISTER), number(2, 0), nested(3, &[attribute(1, bytes)])])
}

/// What is known of the packet, into the register.
fn known(what: u32) -> Expression {
    expression("meta", &[number(1, REGISTER), number(2, what)])
}

/// The packet has these bytes there.
fn has(base: u32, offset: u32, bytes: &[u8]) -> [Expression; 2] {
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    let load = [number(1, REGISTER), number(2, base), number(3, offset), number(4, length)];
    [expression("payload", &load), equal(bytes)]
}

/// The packet goes out of a port, and is nobody else's.
fn forward(index: i32) -> [Expression; 2] {
    let value = nested(2, &[attribute(1, &index.to_ne_bytes())]);
    [expression("immediate", &[number(1, REGISTER), value]), expression("fwd", &[number(1, REGISTER)])]
}

/// What is about an IPv4 address.
fn about_v4(v4: Ipv4Addr) -> Vec<Vec<Expression>> {
    let of = |kind: u16, offset: u32| {
        let protocol = [known(PROTOCOL), equal(&kind.to_be_bytes())];
        [protocol, has(NETWORK, offset, &v4.octets())].concat()
    };
    // Packets to it; ARP that asks for it, or says to come from it.
    vec![of(0x0800, 16), of(0x0806, 24), of(0x0806, 14)]
}

/// What is about an IPv6 address.
fn about_v6(v6: Ipv6Addr) -> Vec<Vec<Expression>> {
    let to = [[known(PROTOCOL), equal(&0x86dd_u16.to_be_bytes())], has(NETWORK, 24, &v6.octets())].concat();
    // Neighbour solicitation and advertisement with this target (RFC 4861, sections 4.3 and 4.4).
    let target = |kind: u8| {
        [
            [known(PROTOCOL), equal(&0x86dd_u16.to_be_bytes())],
            [known(TRANSPORT_PROTOCOL), equal(&[58])],
            has(TRANSPORT, 0, &[kind]),
            has(TRANSPORT, 8, &v6.octets()),
        ]
        .concat()
    };
    vec![to, target(135), target(136)]
}

/// The rules of one port, in a table of their own.
struct Rules {
    netfilter: Netfilter,
    table: String,
    port: i32,
    due: Instant,
}

impl Rules {
    fn new(port: &Port, index: i32, to: i32, from: &str) -> io::Result<Self> {
        let table = format!("apustap_{}", port.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let mut netfilter = Netfilter::new()?;
        let create = libc::NLM_F_CREATE;
        // With an owner (Linux 5.12): this socket. Another process's is not touched.
        let body = [text(1, &table), number(2, 2)].concat();
        let mut batch = netfilter.message(NEW_TABLE, create | libc::NLM_F_EXCL, &body);
        // Elements with a time of their own.
        let set =
            [text(1, &table), text(2, "awake"), number(3, 0x10), number(4, INTERFACES), number(5, 4), number(10, 1)];
        batch.extend(netfilter.message(NEW_SET, create, &set.concat()));
        let mut chain = |name: &str, device: &str, priority: i32| {
            let hook = [number(1, 0), number(2, priority.cast_unsigned()), text(3, device)];
            let body = [text(1, &table), text(3, name), nested(4, &hook), text(7, "filter")].concat();
            batch.extend(netfilter.message(NEW_CHAIN, create, &body));
        };
        chain("in", &port.name, EARLY);
        chain("out", from, 0);
        let mut rule = |chain: &str, expressions: &[Expression], more: i32| {
            let body = [text(1, &table), text(2, chain), nested(4, expressions)].concat();
            batch.extend(netfilter.message(NEW_RULE, create | libc::NLM_F_APPEND | more, &body));
        };
        let asleep = expression("lookup", &[text(1, "awake"), number(2, REGISTER), number(4, 1), number(5, 1)]);
        let accept = expression("immediate", &[number(1, 0), nested(2, &[nested(2, &[number(1, 1)])])]);
        rule("in", &[known(INDEX), asleep, accept], 0);
        let addresses = port.v4.map(about_v4).into_iter().chain(port.v6.map(about_v6)).flatten();
        for about in addresses {
            rule("in", &[about, forward(to).into()].concat(), 0);
        }
        rule("out", &forward(index), libc::NLM_F_ACK);
        netfilter.transact(&batch, 1)?;
        let mut rules = Self { netfilter, table, port: index, due: Instant::now() };
        rules.renew()?;
        Ok(rules)
    }

    /// Says that this process is awake.
    fn renew(&mut self) -> io::Result<()> {
        self.due = Instant::now() + RENEW;
        let of = |left| element(&self.table, "awake", &self.port.to_ne_bytes(), left);
        let batch = self.netfilter.renew(&of(Some(HOLD)), &of(None));
        self.netfilter.transact(&batch, 1)
    }
}

/// Where frames come from.
pub(super) struct Handed {
    /// Before the devices: frames go to none that is not there.
    rules: Rules,
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
pub(super) fn hand_over(port: &Port, tap: &Arc<Tap>) -> io::Result<(Handed, Leave, Full)> {
    let index = index_of(&port.name).map_err(at(&port.name))?;
    tap.at_once()?;
    command("ip", &["link", "set", "dev", tap.name(), "txqueuelen", WAITING], "")?;
    let out = Tap::make("apus%d", true)?;
    command("ip", &["link", "set", "dev", out.name(), "addrgenmode", "none", "up"], "")?;
    let leave = Leave { port: group(index, port.v6)?, tap: out, name: port.name.clone() };
    let rules = Rules::new(port, index, index_of(tap.name())?, leave.tap.name()).map_err(|error| {
        let what = format!("rules that hand over the frames of {}", port.name);
        match error.raw_os_error() {
            // The right to make rules is the one to make devices, which are made.
            Some(libc::EPERM | libc::EEXIST | libc::EBUSY) => {
                at(&format!("{what}: another process has made them"))(error)
            }
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL) => at(&format!(
                "{what}: the kernel does not know them (nftables' fwd; tables with an owner, Linux 5.12)"
            ))(error),
            _ => at(&what)(error),
        }
    })?;
    let full = Full { file: File::open(STATISTICS).map_err(at(STATISTICS))?, name: tap.name().into() };
    let buffers = (0..BATCH).map(|_| vec![0; BEFORE + LONGEST]).collect();
    Ok((Handed { rules, tap: tap.clone(), buffers }, leave, full))
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

    /// Says that this process is awake, if it is time. False if the kernel refuses: then the system has the frames soon.
    pub(super) fn renew(&mut self) -> bool {
        self.rules.due > Instant::now() || self.rules.renew().is_ok()
    }

    /// Waits for a frame, until `other` can be read, or until it is time to renew.
    pub(super) fn wait(&self, other: RawFd) {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut both = [entry(self.tap.as_raw_fd()), entry(other)];
        let left = self.rules.due.saturating_duration_since(Instant::now()).as_millis();
        let left = i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1);
        // SAFETY: the entries outlive the call, and there are two.
        unsafe { libc::poll(both.as_mut_ptr(), 2, left) };
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
