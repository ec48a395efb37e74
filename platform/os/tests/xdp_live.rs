//! Real connections through a bridge, a dispatcher and servers, each in a network namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

#[path = "../../../engine/dispatch/tests/bed/mod.rs"]
mod bed;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use apus_dispatch::{HEAD_BYTES, Here, Key, Layout, NOBODY};
use apus_os::Plane;
use apus_os::linux::Xdp;
use bed::{LOG2, ROUTER, SERVERS, V4, mac, seal, table};

/// Namespaces of this process; they go when it does, whatever happened.
struct Net(&'static str);

impl Net {
    fn name(&self, role: &str) -> String {
        format!("apus-{}-{role}-{}", self.0, std::process::id())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for role in ROLES.iter().chain(&["sw"]) {
            let _ = Command::new("ip").args(["netns", "del", &self.name(role)]).output();
        }
    }
}

const ROLES: [&str; 4] = ["d", "s1", "s2", "c"];

fn sh(line: &str) {
    let out = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What `work` does, as if the process were in that namespace.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace");
            // SAFETY: no pointer; it changes this thread only.
            let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            work()
        });
        there.join().expect("no panic in the namespace")
    })
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a time.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(done, 0);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// All slots are one server's, and were another's.
fn all_of(server: u16, former: u16) -> Vec<u8> {
    let mut bytes = table(Key::Source, [0; 6]);
    let layout = Layout::new(LOG2, SERVERS).expect("a good shape");
    for slot in 0..layout.slots {
        bytes[HEAD_BYTES + 2 * slot..][..2].copy_from_slice(&server.to_le_bytes());
        bytes[layout.formers_at + 2 * slot..][..2].copy_from_slice(&former.to_le_bytes());
    }
    seal(&mut bytes);
    bytes
}

fn text(mac: apus_dispatch::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A bridge with four ports. The cluster's address is on the loopback of both servers, who do not speak for it.
fn wire(net: &Net) {
    let sw = net.name("sw");
    sh(&format!("ip netns add {sw}; ip -n {sw} link add br0 type bridge; ip -n {sw} link set br0 up"));
    let macs = [mac(0), mac(1), mac(2), ROUTER];
    for (number, role) in ROLES.iter().enumerate() {
        let (ns, mac) = (net.name(role), text(macs[number]));
        sh(&format!(
            "ip netns add {ns}; ip -n {ns} link add eth0 address {mac} type veth peer name p{number} netns {sw}
            ip -n {sw} link set p{number} master br0 up
            ip -n {ns} link set lo up; ip -n {ns} link set eth0 up
            ip -n {ns} addr add 10.0.0.{}/24 dev eth0",
            number + 1
        ));
    }
    let (c, cluster) = (net.name("c"), Ipv4Addr::from(V4));
    // A program sees the bytes: a checksum left to a network card that is none would be wrong.
    sh(&format!(
        "ip netns exec {c} ethtool -K eth0 tx off
        ip -n {c} neigh replace {cluster} lladdr {} dev eth0 nud permanent",
        text(mac(0))
    ));
    for role in ["s1", "s2"] {
        let ns = net.name(role);
        sh(&format!(
            "ip netns exec {ns} sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
            ip -n {ns} addr add {cluster}/32 dev lo
            ip -n {ns} neigh replace 10.0.0.4 lladdr {} dev eth0 nud permanent",
            text(ROUTER)
        ));
    }
}

/// Answers each byte with its number.
fn serve(net: &Net, role: &str, number: u8) {
    let listener = within(&net.name(role), || TcpListener::bind((Ipv4Addr::from(V4), 80)).expect("the cluster's port"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[number]).is_ok() {}
            });
        }
    });
}

fn plane(net: &Net, role: &str, server: u16, lease: u64) -> Xdp {
    let mut xdp = within(&net.name(role), || Xdp::new("eth0").expect("a program on a port"));
    println!("{role}: {}", xdp.attached());
    xdp.stand(&here(server, lease)).expect("a state");
    xdp
}

fn here(server: u16, lease: u64) -> Here {
    Here { now: 0, lease, epoch: 7, fence: 7, server, id: server as u8, mac: mac(server) }
}

fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[test]
fn connections_outlive_a_change_of_their_slots_and_a_lease_ends_by_itself() {
    // SAFETY: no pointer.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: only root may make network namespaces");
        return;
    }
    if Command::new("ethtool").arg("--version").output().is_err() {
        println!("SKIPPED: `ethtool` is missing");
        return;
    }
    let net = Net("xdp");
    wire(&net);
    // The other end of a cable polls for frames that a program sends back only if it has a program itself.
    let _ends: Vec<_> =
        within(&net.name("sw"), || ["p0", "p1", "p2"].map(|port| Xdp::new(port).expect("a program")).into());
    let minute = now() + 60_000_000_000;
    let mut dispatcher = plane(&net, "d", 0, minute);
    let mut servers = [plane(&net, "s1", 1, 0), plane(&net, "s2", 2, 0)];
    let mut publish = |dispatcher: &mut Xdp, server, former| {
        for (place, plane) in (0..).zip([dispatcher].into_iter().chain(&mut servers)) {
            let lease = if place == 0 { minute } else { 0 };
            plane.publish(&all_of(server, former), &here(place, lease)).expect("a good table");
        }
        servers.iter_mut().map(|server| server.counters().expect("counters")).collect::<Vec<_>>()
    };
    publish(&mut dispatcher, 1, NOBODY);
    serve(&net, "s1", 1);
    serve(&net, "s2", 2);
    let connect = || {
        within(&net.name("c"), || {
            let to = SocketAddr::from((V4, 80));
            let stream = TcpStream::connect_timeout(&to, Duration::from_millis(900))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            Ok::<_, io::Error>(stream)
        })
    };

    // The ports of a new bridge take a while to forward.
    if (0..10).all(|_| connect().is_err()) {
        let frames = dispatcher.counters();
        panic!("no connection; dispatcher {frames:?}, servers {:?}", publish(&mut dispatcher, 1, NOBODY));
    }
    let mut old: Vec<_> = (0..50).map(|_| connect().expect("a connection")).collect();
    assert!(old.iter_mut().all(|stream| ask(stream).expect("an answer") == 1), "the first server has all slots");

    let before = publish(&mut dispatcher, 2, 1);
    assert!(before[0]["local"] >= 150, "the first server's port has seen them: {before:?}");
    let mut young: Vec<_> = (0..50).map(|_| connect().expect("a connection")).collect();
    assert!(young.iter_mut().all(|stream| ask(stream).expect("an answer") == 2), "the second has all slots now");
    assert!(old.iter_mut().all(|stream| ask(stream).expect("an answer") == 1), "the old ones are still with the first");
    let after = publish(&mut dispatcher, 2, 1);
    assert!(after[1]["transmit"] >= 50, "by a second chance: {after:?}");
    assert!(after[0]["local"] >= before[0]["local"] + 50, "which came: {before:?} {after:?}");

    // The daemon is frozen: nobody renews the lease, and the program keeps it by itself.
    let end = now() + 200_000_000;
    dispatcher.stand(&here(0, end)).expect("a state");
    assert_eq!(ask(&mut old[0]).expect("an answer"), 1, "the lease still holds");
    std::thread::sleep(Duration::from_nanos(end.saturating_sub(now())));
    let expired = dispatcher.counters().expect("counters");
    let start = Instant::now();
    assert!(connect().is_err(), "the lease has ended");
    assert!(start.elapsed() >= Duration::from_millis(500), "nobody answered, rather than refused");
    let counted = dispatcher.counters().expect("counters");
    assert!(counted["lease-expired"] > expired["lease-expired"], "{counted:?}");
    assert_eq!(counted["transmit"], expired["transmit"], "no frame was sent on without a lease");
    dispatcher.stand(&here(0, minute)).expect("a state");
    assert_eq!(ask(&mut young[0]).expect("an answer"), 2, "with a new lease it goes on");
    println!("dispatcher {counted:?}\nservers {after:?}");
}
