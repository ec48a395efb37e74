//! Rules of a plane's own, ahead of the [`Guard`](super::Guard): while its process is awake, the plane alone has what is about the
//! cluster's addresses, and what of it the system gets, it gets from the plane.
//!
//! The table is this process's own: the kernel takes it away with it. And the rules hold only as long as this process says so again and
//! again: one that is frozen leaves what a dispatcher sends to the guard, which lets the system have it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::choose::Port;
use super::netfilter::{NEW_CHAIN, NEW_RULE, NEW_SET, NEW_TABLE, Netfilter, attribute, element, nested, number, text};
use super::ring::index_of;
use super::system::at;

/// The rules hold for so long, and are renewed this often.
const HOLD: Duration = Duration::from_millis(1_000);
const RENEW: Duration = Duration::from_millis(250);

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
fn forward(index: i32) -> Vec<Expression> {
    let value = nested(2, &[attribute(1, &index.to_ne_bytes())]);
    vec![expression("immediate", &[number(1, REGISTER), value]), expression("fwd", &[number(1, REGISTER)])]
}

/// Nothing more is asked in this chain: `NF_DROP` is 0, `NF_ACCEPT` 1.
fn verdict(code: u32) -> Expression {
    expression("immediate", &[number(1, 0), nested(2, &[nested(2, &[number(1, code)])])])
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

/// How the plane gets what is about the addresses.
pub(super) enum Way<'a> {
    /// By a packet socket, before all rules.
    Copies,
    /// By the device `to`; and what comes to the device `from` leaves by the port.
    Devices { to: &'a str, from: &'a str },
}

/// The rules of one port, in a table of their own.
pub(super) struct Rules {
    netfilter: Netfilter,
    table: String,
    port: i32,
    due: Instant,
}

impl Rules {
    /// # Errors
    /// If the kernel does not know them, or another process has made them.
    pub(super) fn new(port: &Port, way: &Way<'_>) -> io::Result<Self> {
        Self::make(port, way).map_err(|error| {
            let what = format!("rules that take the frames of {}", port.name);
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
        })
    }

    fn make(port: &Port, way: &Way<'_>) -> io::Result<Self> {
        let table = format!("apusplane_{}", port.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        let index = index_of(&port.name)?;
        let mut netfilter = Netfilter::new()?;
        let create = libc::NLM_F_CREATE;
        // With an owner: this socket. Another process's is not touched.
        let body = [text(1, &table), number(2, 2)].concat();
        let mut batch = netfilter.message(NEW_TABLE, create | libc::NLM_F_EXCL, &body);
        // Elements with a time of their own.
        let set =
            [text(1, &table), text(2, "awake"), number(3, 0x10), number(4, INTERFACES), number(5, 4), number(10, 1)];
        batch.extend(netfilter.message(NEW_SET, create, &set.concat()));
        let chain = |netfilter: &mut Netfilter, name: &str, device: &str, priority: i32| {
            let hook = [number(1, 0), number(2, priority.cast_unsigned()), text(3, device)];
            let body = [text(1, &table), text(3, name), nested(4, &hook), text(7, "filter")].concat();
            netfilter.message(NEW_CHAIN, create, &body)
        };
        let rule = |netfilter: &mut Netfilter, chain: &str, expressions: &[Expression]| {
            let body = [text(1, &table), text(2, chain), nested(4, expressions)].concat();
            netfilter.message(NEW_RULE, create | libc::NLM_F_APPEND, &body)
        };
        batch.extend(chain(&mut netfilter, "in", &port.name, EARLY));
        let asleep = expression("lookup", &[text(1, "awake"), number(2, REGISTER), number(4, 1), number(5, 1)]);
        batch.extend(rule(&mut netfilter, "in", &[known(INDEX), asleep, verdict(1)]));
        let taken = match way {
            Way::Copies => vec![verdict(0)],
            Way::Devices { to, .. } => forward(index_of(to)?),
        };
        for about in port.v4.map(about_v4).into_iter().chain(port.v6.map(about_v6)).flatten() {
            batch.extend(rule(&mut netfilter, "in", &[&about[..], &taken].concat()));
        }
        if let Way::Devices { from, .. } = way {
            batch.extend(chain(&mut netfilter, "out", from, 0));
            batch.extend(rule(&mut netfilter, "out", &forward(index)));
        }
        let mut rules = Self { netfilter, table, port: index, due: Instant::now() };
        let awake = rules.awake();
        rules.netfilter.transact(&[batch, awake].concat(), 1)?;
        Ok(rules)
    }

    fn awake(&mut self) -> Vec<u8> {
        self.due = Instant::now() + RENEW;
        let of = |left| element(&self.table, "awake", &self.port.to_ne_bytes(), left);
        self.netfilter.renew(&of(Some(HOLD)), &of(None))
    }

    /// Says that this process is awake, if it is time. False if the kernel refuses: then the guard has the frames soon.
    pub(super) fn renew(&mut self) -> bool {
        if self.due > Instant::now() {
            return true;
        }
        let batch = self.awake();
        self.netfilter.transact(&batch, 1).is_ok()
    }

    /// Until it is time.
    pub(super) fn left(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}
