//! A new table under traffic: every frame meets one table, whole, and none an older one than what was in use when it was sent; the
//! same for what the node is. And how long a publication takes.
//!
//! `APUS_PUBLISH` says how many publications (default 40), for each size of table.
#![cfg(target_os = "linux")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apus_dispatch::{CHECKSUM_AT, HEAD_BYTES, Here, Layout, Mac, NOBODY, Tag, checksum, hash_v4, slot_of, with_ports};
use apus_os::Plane as _;
use apus_os::linux::Xdp;
use hdrhistogram::Histogram;

const DISPATCHER: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT: Mac = [2, 0, 0, 0, 0, 2];
const VIP: [u8; 4] = [10, 0, 0, 100];
const SERVERS: u16 = 16;
const SEED: u64 = 0x0123_4567_89ab_cdef;

/// Namespaces of this process; they go when it does, whatever happened.
struct Net;

impl Net {
    fn name(role: &str) -> String {
        format!("apus-pub-{role}-{}", std::process::id())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for role in ["d", "c"] {
            let _ = Command::new("ip").args(["netns", "del", &Self::name(role)]).output();
        }
    }
}

fn sh(line: &str) {
    let out = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What `work` does, as if the process were in that namespace.
fn within<T: Send>(role: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{}", Net::name(role))).expect("the namespace");
            // SAFETY: no pointer; it changes this thread only.
            let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            work()
        });
        there.join().expect("no panic in the namespace")
    })
}

/// Table number `version`: slot `s` is of server `s + version`, and the server's hardware address tells both.
fn table(version: u16, log2: u8) -> Vec<u8> {
    let layout = Layout::new(log2, SERVERS).expect("a good shape");
    let mut bytes = vec![0; layout.bytes];
    bytes[..8].copy_from_slice(b"ONE-IP1\0");
    bytes[16..24].copy_from_slice(&u64::from(version).to_le_bytes());
    bytes[24..32].copy_from_slice(&SEED.to_le_bytes());
    bytes[32] = log2;
    bytes[33] = 1;
    bytes[34..36].copy_from_slice(&SERVERS.to_le_bytes());
    bytes[36..40].copy_from_slice(&VIP);
    for slot in 0..layout.slots {
        bytes[HEAD_BYTES + 2 * slot..][..2].copy_from_slice(&owner(slot as u32, version).to_le_bytes());
        bytes[layout.formers_at + 2 * slot..][..2].copy_from_slice(&NOBODY.to_le_bytes());
    }
    let [high, low] = version.to_be_bytes();
    for server in 0..SERVERS {
        bytes[layout.macs_at + 8 * usize::from(server)..][..6].copy_from_slice(&[2, 0x50, high, low, 0, server as u8]);
    }
    let sum = checksum(&bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

const fn owner(slot: u32, version: u16) -> u16 {
    ((slot + version as u32) % SERVERS as u32) as u16
}

/// What the node is in an epoch: its number goes with it.
const fn here(epoch: u64) -> Here {
    Here { now: 0, lease: u64::MAX, epoch, fence: 0, server: NOBODY, id: number(epoch as u16), mac: DISPATCHER }
}

const fn number(epoch: u16) -> u8 {
    (epoch % 251) as u8
}

/// A datagram that carries two numbers.
fn datagram(client: u32, table: u64, epoch: u64) -> Vec<u8> {
    let [a, b, c, d] = client.to_be_bytes();
    let mut frame = [&DISPATCHER[..], &CLIENT, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 172, 16, a, b]);
    frame.extend(VIP);
    frame.extend([c, d, 0, 80, 0, 24, 0, 0]);
    frame.extend(table.to_be_bytes());
    frame.extend(epoch.to_be_bytes());
    frame
}

fn packet_socket(port: &str) -> OwnedFd {
    let name = std::ffi::CString::new(port).expect("a name");
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zeros are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: the text outlives the call and ends with a zero.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    let size = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address outlives the call, and its size is given.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    let wait = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    let buffer = 32_i32 << 20;
    let set = [
        // SAFETY: the value outlives the call, and its size is given.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), 16) },
        // SAFETY: as above.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, (&raw const buffer).cast(), 4) },
    ];
    assert_eq!(set, [0, 0], "{}", io::Error::last_os_error());
    socket
}

/// What was ordered and what was done, of tables and of the node's state.
#[derive(Default)]
struct Clock {
    begun: [AtomicU64; 2],
    done: [AtomicU64; 2],
    over: AtomicBool,
}

/// Sends as fast as it may.
fn send(clock: &Clock, sent: &AtomicU64, first: u32) {
    let socket = packet_socket("eth0");
    let mut client = first;
    while !clock.over.load(Ordering::Relaxed) {
        let [table, epoch] = clock.done.each_ref().map(|done| done.load(Ordering::SeqCst));
        let frame = datagram(client, table, epoch);
        client = client.wrapping_add(0x9e37_79b1);
        // SAFETY: the buffer outlives the call and is as long as is said.
        if unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) } > 0 {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Judges what comes back; how many frames, and of how many tables.
fn receive(clock: &Clock, socket: &OwnedFd, log2: u8) -> (u64, usize) {
    let (mut frames, mut seen) = (0, std::collections::BTreeSet::new());
    let mut bytes = [0_u8; 256];
    loop {
        // SAFETY: the buffer outlives the call and is as long as is said.
        let got = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        let begun = clock.begun.each_ref().map(|begun| begun.load(Ordering::SeqCst));
        if got < 0 {
            if clock.over.load(Ordering::Relaxed) {
                return (frames, seen.len());
            }
            continue;
        }
        if got < 58 || bytes[..2] != [2, 0x50] {
            continue;
        }
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (version, server) = (short(2), u16::from(bytes[5]));
        let hash = hash_v4(SEED, [bytes[26], bytes[27], bytes[28], bytes[29]]);
        let slot = slot_of(with_ports(hash, short(34), short(36)), log2);
        assert_eq!(server, owner(slot, version), "slot {slot} by table {version}: parts of two tables");
        let (table, epoch) = (word(42), word(50));
        assert!(
            u64::from(version) >= table && u64::from(version) <= begun[0],
            "table {version}, {table} was in use when it was sent, {} the newest",
            begun[0]
        );
        let tag = Tag::of(bytes[6..12].try_into().expect("six bytes")).expect("a tag");
        assert_eq!(tag.sender, number(tag.epoch), "parts of two states: {tag:?}");
        assert!(
            u64::from(tag.epoch) >= epoch && u64::from(tag.epoch) <= begun[1],
            "epoch {}, {epoch} was when it was sent, {} is the newest",
            tag.epoch,
            begun[1]
        );
        frames += 1;
        seen.insert(version);
    }
}

fn row(name: &str, times: &Histogram<u64>) {
    let at = |quantile: f64| times.value_at_quantile(quantile);
    println!("| {name} | {} | {} | {} | {} |", times.len(), at(0.5), at(0.99), times.max());
}

#[test]
fn a_table_is_in_use_whole_or_not_at_all() {
    // SAFETY: no pointer.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: only root may make network namespaces");
        return;
    }
    let _net = Net;
    let (d, c) = (Net::name("d"), Net::name("c"));
    let text = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    sh(&format!(
        "ip netns add {d}; ip netns add {c}
        ip -n {d} link add eth0 address {} type veth peer name eth0 netns {c} address {}
        ip netns exec {d} sysctl -qw net.ipv6.conf.all.disable_ipv6=1
        ip netns exec {c} sysctl -qw net.ipv6.conf.all.disable_ipv6=1
        ip -n {d} link set eth0 up; ip -n {c} link set eth0 up",
        text(DISPATCHER),
        text(CLIENT)
    ));
    let many: u16 = std::env::var("APUS_PUBLISH").map_or(40, |many| many.parse().expect("a number"));
    println!("| microseconds | publications | p50 | p99 | max |\n|---|---|---|---|---|");
    for log2 in [16, 18] {
        let mut xdp = within("d", || Xdp::new("eth0").expect("a program on a port"));
        // The other end of a cable polls for frames that a program sends back only if it has a program itself.
        let _end = within("c", || Xdp::new("eth0").expect("a program on a port"));
        xdp.publish(&table(0, log2), &here(0)).expect("a good table");
        let (clock, sent) = (Clock::default(), AtomicU64::new(0));
        let (mut checked, mut flipped, mut stood) = (times(), times(), times());
        let (frames, tables) = std::thread::scope(|scope| {
            let (clock, sent) = (&clock, &sent);
            let seen = scope.spawn(move || {
                within("c", move || {
                    let socket = packet_socket("eth0");
                    receive(clock, &socket, log2)
                })
            });
            scope.spawn(move || within("c", move || send(clock, sent, log2.into())));
            let began = Instant::now();
            while sent.load(Ordering::Relaxed) < 1_000 && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
            for version in 1..=many {
                let block = table(version, log2);
                // A publication meets a table that is free: the one before was some time ago.
                std::thread::sleep(Duration::from_millis(u64::from(version % 8) * 10));
                let start = Instant::now();
                let number = xdp.prepare(&block).expect("a good table");
                let _ = checked.record(start.elapsed().as_micros() as u64);
                clock.begun[0].store(version.into(), Ordering::SeqCst);
                let start = Instant::now();
                xdp.flip(number, &here(version.saturating_sub(1).into())).expect("a change of tables");
                let _ = flipped.record(start.elapsed().as_micros() as u64);
                clock.done[0].store(version.into(), Ordering::SeqCst);
                xdp.settle();
                clock.begun[1].store(version.into(), Ordering::SeqCst);
                let start = Instant::now();
                xdp.stand(&here(version.into())).expect("a state");
                let _ = stood.record(start.elapsed().as_micros() as u64);
                clock.done[1].store(version.into(), Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(100));
            clock.over.store(true, Ordering::Relaxed);
            seen.join().expect("every frame is right")
        });
        row(&format!("2^{log2} slots: table checked and written aside"), &checked);
        row("the same: put into use", &flipped);
        row("what the node is", &stood);
        let sent = sent.load(Ordering::Relaxed);
        println!("{frames} of {sent} frames judged, of {tables} tables, {}", xdp.attached());
        assert!(frames > 1_000 && tables > usize::from(many) / 2, "the traffic must meet the changes");
        let middle = flipped.value_at_quantile(0.5);
        assert!(middle <= 250, "{middle} us to put a table into use");
    }
}

fn times() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}
