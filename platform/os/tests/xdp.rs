//! The core on the host, the program in the kernel, and a network card of the emulated world: the same verdict, the same bytes,
//! for every frame.
//!
//! `APUS_XDP_FRAMES` says how many frames (10^7 take some minutes), `APUS_XDP_OBJECT` which object.
#![cfg(target_os = "linux")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

#[path = "../../../engine/dispatch/tests/fuzz.rs"]
#[allow(dead_code, reason = "its tests run where they are")]
mod fuzz;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use apus_dispatch::{Block, Flow, Here, Hooks, Mac, Reason, Table as _, Verdict, dispatch, sign};
use apus_os::Plane;
use apus_os::linux::Xdp;
use apus_sim::emulated::NodePort;
use fuzz::bed::{Random, V4, V6};
use fuzz::{CLIENTS, frame, situation, tables};

/// Connections that the namespace has.
struct Sockets(BTreeSet<Flow>);

impl Hooks for Sockets {
    fn has_socket(&self, flow: &Flow) -> bool {
        self.0.contains(flow)
    }
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().expect("iproute2 is installed");
    assert!(done.success(), "ip {args}");
}

/// The kernel makes IPv6 addresses usable a moment after they were added.
fn settled() {
    for _ in 0..500 {
        let seen =
            Command::new("ip").args(["-6", "address", "show", "tentative"]).output().expect("iproute2 is installed");
        if seen.stdout.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("addresses are tentative after five seconds");
}

fn bytes_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&address.octets());
            bytes
        }
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> OwnedFd {
    fn raw(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
        // SAFETY: all zeros are an address.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let port = address.port().to_be();
        let size = match address.ip() {
            IpAddr::V4(ip) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: port,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: a storage has room for every kind of address.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(sin) };
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(ip) => {
                let sin = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: port,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    sin6_scope_id: 0,
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(sin) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, size as u32)
    }
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointer.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it was opened above.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let one = 1_i32;
    // SAFETY: the pointer is to four bytes.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const one).cast(), 4) };
    let (address, size) = raw(from);
    // SAFETY: the pointer is to at least `size` bytes.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size) };
    assert!(set == 0 && bound == 0, "{from}: {}", std::io::Error::last_os_error());
    let (address, size) = raw(to);
    // SAFETY: the pointer is to at least `size` bytes.
    let connected = unsafe { libc::connect(fd, (&raw const address).cast(), size) };
    assert!(connected == 0, "{from} to {to}: {}", std::io::Error::last_os_error());
    socket
}

/// In a namespace of this thread alone: real connections from the odd ones of the ports that frames come from.
fn sockets() -> (Sockets, Vec<OwnedFd>, Vec<TcpListener>) {
    // SAFETY: no pointer; it changes this thread only.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(alone, 0, "{}", std::io::Error::last_os_error());
    ip("link set lo up");
    let mut clients: Vec<IpAddr> = CLIENTS.iter().map(|client| IpAddr::from(*client)).collect();
    for last in 0..8 {
        let mut client = V6;
        (client[0], client[15]) = (0x20, last);
        clients.push(client.into());
    }
    let (four, six) = (IpAddr::V4(Ipv4Addr::from(V4)), IpAddr::V6(Ipv6Addr::from(V6)));
    for address in clients.iter().chain([&four, &six]) {
        if address.is_ipv4() {
            ip(&format!("address replace {address}/32 dev lo"));
        } else {
            ip(&format!("address replace {address}/128 dev lo nodad"));
        }
    }
    settled();
    let (mut flows, mut open, mut listeners) = (BTreeSet::new(), Vec::new(), Vec::new());
    for cluster_port in [80, 443] {
        for cluster in [four, six] {
            listeners.push(TcpListener::bind((cluster, cluster_port)).expect("a port of the cluster's address"));
            for client in clients.iter().filter(|client| client.is_ipv4() == cluster.is_ipv4()) {
                for port in [1001, 1003, 1005] {
                    open.push(connect((*client, port).into(), (cluster, cluster_port).into()));
                    let v6 = client.is_ipv6();
                    flows.insert(Flow { client: bytes_of(*client), v6, port, cluster_port });
                    if *client == cluster {
                        // Its other end is the cluster's as well.
                        flows.insert(Flow { client: bytes_of(*client), v6, port: cluster_port, cluster_port: port });
                    }
                }
            }
        }
    }
    (Sockets(flows), open, listeners)
}

fn load() -> Option<Xdp> {
    let loaded = match std::env::var("APUS_XDP_OBJECT") {
        Ok(path) => Xdp::load(&std::fs::read(path).expect("the object of APUS_XDP_OBJECT")),
        Err(_) => Xdp::committed(),
    };
    match loaded {
        Ok(xdp) => Some(xdp),
        // SAFETY: no pointer.
        Err(error) if unsafe { libc::geteuid() } != 0 => {
            println!("SKIPPED: only root may load a program ({error})");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// The emulated world's network card, with nothing looked at but its ends: cable and stack.
fn at_the_card(card: &mut NodePort, claim: Mac, before: &[u8], verdict: Verdict, after: &[u8]) {
    let own = card.mac();
    let to = before.first_chunk::<6>().copied().unwrap_or_default();
    let ours = to == own || (claim != [0; 6] && to == claim);
    let taken = card.receive(before).expect("it takes all frames");
    assert_eq!(taken.verdict, verdict, "at the card: {before:x?}");
    let sent = (verdict == Verdict::Transmit).then_some(after);
    assert_eq!(taken.sent.as_deref(), sent, "on the wire, {verdict:?}: {before:x?}");
    // IP for this machine goes up, without its Ethernet header; neighbour discovery ends below IP.
    let neighbour = after.get(20..22) == Some(&[58, 255]) && matches!(after.get(54), None | Some(135 | 136));
    let packet = match after.get(12..14) {
        Some([0x08, 0x00]) => Some(&after[14..]),
        Some([0x86, 0xdd]) if after.len() >= 22 && !neighbour => Some(&after[14..]),
        _ => None,
    };
    let up = packet.filter(|_| ours && matches!(verdict, Verdict::Pass | Verdict::Local));
    assert_eq!(taken.up.as_deref(), up, "to the stack, {verdict:?}: {before:x?}");
    if !ours && to[0] & 1 == 0 {
        card.promiscuous(false);
        assert_eq!(card.receive(before), None, "another card's: {before:x?}");
        card.promiscuous(true);
    }
}

/// The kernel's clock is its own: an expired lease, and one without end.
fn live(here: Here) -> Here {
    let lease = match here.lease {
        0 => 0,
        lease if lease <= here.now => 1,
        _ => u64::MAX,
    };
    Here { lease, ..here }
}

#[test]
fn the_kernel_and_the_emulated_card_do_to_every_frame_what_the_core_does() {
    let Some(mut xdp) = load() else { return };
    let frames: u64 =
        std::env::var("APUS_XDP_FRAMES").map_or(100_000, |many| many.parse().expect("a number of frames"));
    let (sockets, _open, _listeners) = sockets();
    let mut card = NodePort::new(sockets.0.iter().copied());
    card.promiscuous(true);
    let tables = tables();
    let mut random = Random(3);
    let mut out = vec![0; 4_096];
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    let (mut here, mut bytes, mut runts) = (situation(&mut random), &tables[0], 0);
    for number in 0..frames {
        if number % (frames / 60).max(1) == 0 {
            bytes = &tables[(number / (frames / 60).max(1)) as usize % tables.len()];
            xdp.publish(bytes, &live(here)).expect("a good table");
            card.publish(bytes.clone());
        }
        if number % 16 == 0 {
            here = situation(&mut random);
            card.stand(here);
            xdp.stand(&live(here)).expect("a state");
        }
        let before = frame(&mut random);
        let block = Block::new(bytes).expect("a good table");
        let mut after = before.clone();
        let verdict = dispatch(&here, &block, &sockets, &mut after[..]);
        at_the_card(&mut card, block.head().claim, &before, verdict, &after);
        if before.len() < 14 {
            runts += 1; // The kernel gives a program no such frame.
            continue;
        }
        if verdict == Verdict::Local {
            sign(&here, &mut after[..]);
        }
        let (answer, length) = xdp.test_run(&before, &mut out).expect("a run");
        let wanted = match verdict {
            Verdict::Drop(_) => 1,
            Verdict::Pass | Verdict::Local => 2,
            Verdict::Transmit => 3,
        };
        assert_eq!(answer, wanted, "frame {number}, {verdict:?}: {here:?} {before:x?}");
        assert!(out[..length] == after, "frame {number}, {verdict:?}: {here:?} {before:x?} {:x?}", &out[..length]);
        let name = match verdict {
            Verdict::Pass => "pass",
            Verdict::Local => "local",
            Verdict::Transmit => "transmit",
            Verdict::Drop(reason) => reason.name(),
        };
        *seen.entry(name.to_owned()).or_default() += 1;
    }
    // Every single reason as well, by the counters.
    let mut counted = xdp.counters().expect("counters");
    counted.retain(|_, many| *many > 0);
    assert_eq!(counted, seen);
    assert!(seen.len() == 3 + Reason::ALL.len() - 1, "all but runts are met: {seen:?}");
    println!(
        "{frames} frames through host core, emulated card and kernel program (to which {runts} were too short): \
         0 verdicts or bytes differ: {seen:?}"
    );
}
