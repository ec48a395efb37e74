//! The plane that needs neither packet sockets nor programs in the kernel: real connections through a bridge, a dispatcher and a server
//! whose process is killed and frozen.
#![cfg(target_os = "linux")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

#[path = "../../../engine/dispatch/tests/bed/mod.rs"]
mod bed;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apus_dispatch::{HEAD_BYTES, Here, Key, Layout, NOBODY, Tag};
use apus_os::linux::{Guard, Port, Vip, choose, clock};
use bed::{ACK, LOG2, ROUTER, SERVERS, V4, V6, ethernet, ipv4, mac, seal, table, tcp};

/// The rights of a container that is given the network's administration, and no more of it: neither packet sockets nor programs.
const BARE: [&str; 2] = ["setpriv", "--bounding-set=-net_raw,-bpf,-perfmon,-sys_admin"];
/// With this variable the test of its name is the server's process; its value is a file.
const HOLD: &str = "APUS_TAP_HOLD";
/// Of a large transfer.
const BULK: usize = 8 << 20;

/// Namespaces and a file of this process; they go when it does, whatever happened.
struct Net(PathBuf);

const ROLES: [&str; 3] = ["d", "s", "c"];

fn name(role: &str) -> String {
    format!("apus-tap-{role}-{}", std::process::id())
}

impl Drop for Net {
    fn drop(&mut self) {
        for role in ROLES.iter().chain(&["sw"]) {
            let _ = Command::new("ip").args(["netns", "del", &name(role)]).output();
        }
        let _ = std::fs::remove_file(&self.0);
    }
}

fn said(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What `work` does, as if the process were in that namespace.
fn within<T: Send>(role: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{}", name(role))).expect("the namespace");
            // SAFETY: no pointer; it changes this thread only.
            let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            work()
        });
        there.join().expect("no panic in the namespace")
    })
}

/// All slots are the server's.
fn block() -> Vec<u8> {
    let mut bytes = table(Key::Source, [0; 6]);
    let layout = Layout::new(LOG2, SERVERS).expect("a good shape");
    for slot in 0..layout.slots {
        bytes[HEAD_BYTES + 2 * slot..][..2].copy_from_slice(&1_u16.to_le_bytes());
        bytes[layout.formers_at + 2 * slot..][..2].copy_from_slice(&NOBODY.to_le_bytes());
    }
    seal(&mut bytes);
    bytes
}

fn here(server: u16, lease: u64) -> Here {
    Here { now: 0, lease, epoch: 7, fence: 7, server, id: server as u8, fresh: false, mac: mac(server) }
}

fn port(server: u16) -> Port {
    Port {
        name: "eth0".into(),
        mac: mac(server),
        v4: Some(Ipv4Addr::from(V4)),
        v6: Some(Ipv6Addr::from(V6)),
        log2_slots: LOG2,
    }
}

fn text(mac: apus_dispatch::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A bridge with three ports; their cards have all their offices to do, as by default.
fn wire() -> Net {
    let net = Net(std::env::temp_dir().join(name("state")));
    let sw = name("sw");
    said(&format!(
        "ip netns add {sw}; ip -n {sw} link add br0 type bridge forward_delay 0; ip -n {sw} link set br0 up"
    ));
    for (number, (role, mac)) in ROLES.iter().zip([mac(0), mac(1), ROUTER]).enumerate() {
        let (ns, mac) = (name(role), text(mac));
        said(&format!(
            "ip netns add {ns}; ip -n {ns} link add eth0 address {mac} type veth peer name p{number} netns {sw}
            ip -n {sw} link set p{number} master br0 up
            ip -n {ns} link set lo up; ip -n {ns} link set eth0 up
            ip -n {ns} addr add 10.0.0.{}/24 dev eth0",
            number + 1
        ));
    }
    said(&format!(
        "ip -n {} neigh replace {} lladdr {} dev eth0 nud permanent
        ip -n {} neigh replace 10.0.0.3 lladdr {} dev eth0 nud permanent",
        name("c"),
        Ipv4Addr::from(V4),
        text(mac(0)),
        name("s"),
        text(ROUTER)
    ));
    net
}

/// A name for the bytes (FNV-1a).
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Answers a length and so many bytes with their sum.
fn serve() {
    let listener = within("s", || TcpListener::bind((Ipv4Addr::from(V4), 80)).expect("the cluster's port"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut length = [0; 4];
                while stream.read_exact(&mut length).is_ok() {
                    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
                    if stream
                        .read_exact(&mut bytes)
                        .and_then(|()| stream.write_all(&sum(&bytes).to_be_bytes()))
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
}

fn ask(stream: &mut TcpStream, many: usize) -> io::Result<()> {
    let bytes: Vec<u8> = (0..many).map(|number| ((number * 31) >> 3) as u8).collect();
    stream.write_all(&(many as u32).to_be_bytes())?;
    stream.write_all(&bytes)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    assert_eq!(u64::from_be_bytes(answer), sum(&bytes), "what came is what was sent");
    Ok(())
}

fn connect() -> io::Result<TcpStream> {
    within("c", || {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((V4, 80)), Duration::from_millis(900))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    })
}

/// The server's process, and the plane that it has chosen.
fn hold(net: &Net) -> (Child, String) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &name("s")])
        .args(BARE)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_server", "--nocapture", "--test-threads=1"])
        .env(HOLD, &net.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let line = lines.find_map(|line| Some(line.split_once("it holds by ")?.1.to_owned()));
    (child, line.expect("the server holds the address"))
}

/// Holds the address until its standard input ends, as the process of [`hold`].
#[test]
fn a_server() {
    let Some(state) = std::env::var_os(HOLD) else { return };
    let port = port(1);
    let _guard = Guard::new("eth0", port.v4, port.v6).expect("a guard");
    let mut choice = choose(&port, None).expect("a plane");
    choice.plane.publish(&block(), &here(1, 0)).expect("a good table");
    let _vip = Vip::hold("eth0", port.v4, port.v6, state.as_ref()).expect("the address");
    println!("it holds by {}; {:?}", choice.plane.name(), choice.tried);
    let _ = io::stdin().lines().count();
}

/// Tables and ports of a namespace that are the plane's.
fn own(role: &str) -> String {
    let ns = name(role);
    said(&format!(
        "ip netns exec {ns} nft list tables | grep apusplane || true; ip -n {ns} -o link | grep ': apus' || true"
    ))
}

/// What the rules of the dispatcher's guard have kept in.
fn kept_in() -> u64 {
    let rules = said(&format!("ip netns exec {} nft list chain netdev apus_eth0 out", name("d")));
    let words: Vec<&str> = rules.split_whitespace().collect();
    words.windows(2).filter(|two| two[0] == "packets").filter_map(|two| two[1].parse::<u64>().ok()).sum()
}

fn signal(child: &Child, name: &str) {
    said(&format!("kill -{name} {}", child.id()));
}

#[test]
fn frames_go_by_tap_devices_through_the_guard_and_a_dead_process_leaves_its_server_serving() {
    // SAFETY: no pointer.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: only root may make network namespaces");
        return;
    }
    for tool in ["nft", "setpriv"] {
        if Command::new(tool).arg("--version").output().is_err() {
            println!("SKIPPED: `{tool}` is missing");
            return;
        }
    }
    let began = Instant::now();
    let step = |what: &str| println!("{:6.2} s  {what}", began.elapsed().as_secs_f64());
    let net = wire();
    let minute = clock::boot() + 60_000_000_000;
    let asked = port(0);
    let guard = within("d", || Guard::new("eth0", asked.v4, asked.v6)).expect("a guard");
    let mut lease = within("d", || guard.lease()).expect("a lease");
    lease.arm(Duration::from_secs(60)).expect("the guard takes it");
    let mut plane = within("d", || choose(&asked, Some("tap"))).expect("the plane").plane;
    plane.publish(&block(), &here(0, minute)).expect("a good table");
    let taken = within("d", || choose(&asked, Some("tap"))).expect_err("the port has one").to_string();
    assert!(taken.contains("another process has made them"), "{taken}");
    let (mut server, chosen) = hold(&net);
    assert!(chosen.starts_with("tap;"), "without those rights nothing else runs: {chosen}");
    assert!(own("s").contains("apusplane_eth0") && own("s").contains("apus1"), "{}", own("s"));
    serve();

    step("connections");
    let mut stream = (0..10).find_map(|_| connect().ok()).expect("a connection, once the bridge forwards");
    ask(&mut stream, 1).expect("an answer");
    let before = plane.counters().expect("counters");
    ask(&mut stream, BULK).expect("an answer");
    let after = plane.counters().expect("counters");
    let sent = after["transmit"] - before["transmit"];
    assert!(sent >= BULK as u64 / 1_460, "joined segments come as single ones: {sent} frames");
    step("jumbo frames");
    for (number, role) in ROLES.iter().enumerate() {
        let (ns, sw) = (name(role), name("sw"));
        said(&format!("ip -n {sw} link set p{number} mtu 9000; ip -n {ns} link set eth0 mtu 9000"));
    }
    said(&format!("ip -n {} link set br0 mtu 9000", name("sw")));
    let mut jumbo = connect().expect("a connection");
    ask(&mut jumbo, BULK).expect("an answer");
    let longer = plane.counters().expect("counters");
    let sent = longer["transmit"] - after["transmit"];
    assert!((BULK as u64 / 8_960..BULK as u64 / 4_000).contains(&sent), "longer frames go as they are: {sent}");
    assert_eq!((longer["not-sent"], longer["rules-not-renewed"]), (0, 0), "{longer:?}");

    step("without the lease");
    lease.disarm().expect("the guard takes it");
    let kept = kept_in();
    let tagged = Tag { sender: 0, epoch: 7, hop: 0 }.mac();
    let packet = ipv4([10, 0, 0, 3], V4, 6, 0, &[], &tcp(4_000, 80, ACK));
    plane.send(&ethernet(mac(1), tagged, 0x0800, &packet)).expect("it is written");
    assert_eq!(kept_in(), kept + 1, "the guard keeps a frame of ours");
    let before = plane.counters().expect("counters");
    assert!(connect().is_err(), "nothing leaves");
    let after = plane.counters().expect("counters");
    assert!(after["transmit"] > before["transmit"], "the plane believed in its lease: {after:?}");
    assert!(kept_in() > kept + 1, "and the guard did not");
    lease.arm(Duration::from_secs(60)).expect("the guard takes it");
    connect().and_then(|mut stream| ask(&mut stream, 1)).expect("with the lease it goes on");
    plane.stand(&here(0, clock::boot())).expect("a state");
    assert!(connect().is_err(), "the plane looks at its lease itself");
    assert!(plane.counters().expect("counters")["lease-expired"] > after["lease-expired"]);
    plane.stand(&here(0, minute)).expect("a state");

    step("the server's process is frozen");
    signal(&server, "STOP");
    std::thread::sleep(Duration::from_millis(50));
    let frozen = Instant::now();
    ask(&mut stream, 1_000).expect("its server goes on");
    println!("          answered after {} ms", frozen.elapsed().as_millis());
    ask(&mut jumbo, 1_000).expect("the other one, too");
    // The rules hold for a second; what comes first may have to come again.
    let young = (0..3).find_map(|_| connect().ok()).map(|mut stream| ask(&mut stream, 1));
    young.expect("and with new ones").expect("an answer");
    signal(&server, "CONT");
    ask(&mut stream, 1_000).expect("an answer");
    step("killed");
    server.kill().and_then(|()| server.wait()).expect("it ran");
    assert_eq!(own("s"), "", "its rules and devices go with it");
    ask(&mut stream, BULK).expect("its server goes on");
    connect().and_then(|mut stream| ask(&mut stream, 1)).expect("and with new ones");
    step("anew");
    let (mut server, _) = hold(&net);
    ask(&mut stream, 1_000).expect("an answer");

    step("the port goes down and comes again");
    said(&format!("ip -n {} link set eth0 down", name("d")));
    let down = plane.send(&ethernet(mac(1), mac(0), 0x0806, &[0; 28])).expect_err("the port is down");
    assert_eq!(down.kind(), io::ErrorKind::NetworkDown, "{down}");
    said(&format!("ip -n {} link set eth0 up", name("d")));
    ask(&mut stream, 1_000).expect("an answer");
    drop(plane);
    assert_eq!(own("d"), "", "rules and devices go with the plane");
    server.kill().and_then(|()| server.wait()).expect("it ran");
    step("done");
}

/// CPU time of this process, in nanoseconds.
fn busy() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a time.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Least CPU time for each of these frames, in nanoseconds: that of a client who sends them, of the plane, and of the kernel for both.
fn cost(sender: &UdpSocket, mut transmitted: impl FnMut() -> Option<u64>) -> u64 {
    const BURST: u64 = 256;
    let once = |_| {
        let (before, from) = (transmitted(), busy());
        for _ in 0..BURST {
            sender.send_to(&[0; 18], (Ipv4Addr::from(V4), 9)).expect("it is sent");
        }
        if let Some(before) = before {
            let began = Instant::now();
            while transmitted() < Some(before + BURST) {
                assert!(began.elapsed() < Duration::from_secs(5), "all are sent on");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        (busy() - from) / BURST
    };
    (0..300).map(once).min().unwrap_or_default()
}

/// What a frame costs: `cargo test --release -p apus-os --test tap -- --ignored --nocapture`.
#[test]
#[ignore = "it measures, and judges nothing"]
fn what_a_frame_costs() {
    let _net = wire();
    let sender = within("c", || UdpSocket::bind("10.0.0.3:0")).expect("a socket");
    println!("client alone: {} ns of CPU a frame", cost(&sender, || None));
    let port = port(0);
    for name in ["af-xdp", "af-packet", "tap"] {
        let guard = within("d", || Guard::new("eth0", port.v4, port.v6)).expect("a guard");
        let mut lease = within("d", || guard.lease()).expect("a lease");
        lease.arm(Duration::from_secs(60)).expect("the guard takes it");
        let mut plane = within("d", || choose(&port, Some(name))).expect("the plane").plane;
        plane.publish(&block(), &here(0, clock::boot() + 60_000_000_000)).expect("a good table");
        let all = cost(&sender, || Some(plane.counters().expect("counters")["transmit"]));
        println!("{name} and client: {all} ns of CPU a frame");
    }
}
