//! A node and who looks after it: a service manager's socket, played by the test, and a watchdog device that is a pipe.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;
use crate::tests::{began, pid, service, signal};

/// `WATCHDOG_USEC`, as a duration.
const PERIOD: Duration = Duration::from_millis(1_200);
const PATIENCE: Duration = Duration::from_secs(30);

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    /// What a node says next, within a time.
    fn hear(&self, within: Duration) -> Option<String> {
        let mut bytes = [0; 4_096];
        self.0.set_read_timeout(Some(within.max(Duration::from_millis(1)))).expect("a time");
        self.0.recv(&mut bytes).ok().map(|many| String::from_utf8_lossy(&bytes[..many]).into_owned())
    }

    /// Hears until somebody says this; gives the whole of it.
    fn until(&self, line: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.hear(until.saturating_duration_since(Instant::now()));
            let said = said.unwrap_or_else(|| panic!("nobody says {line}"));
            if said.lines().any(|one| one.starts_with(line)) {
                return said;
            }
        }
    }

    /// When it was fed, in so long a time.
    fn feedings(&self, lasts: Duration) -> Vec<Instant> {
        let until = Instant::now() + lasts;
        let mut all = Vec::new();
        while let Some(said) = self.hear(until.saturating_duration_since(Instant::now())) {
            if said == "WATCHDOG=1" {
                all.push(Instant::now());
            }
            if Instant::now() >= until {
                break;
            }
        }
        all
    }

    fn forget(&self) {
        while self.hear(Duration::from_millis(1)).is_some() {}
    }
}

pub(crate) fn managed() {
    let mut cluster = Cluster::stopped("managed", 1, "lease = \"60s\"", &service("web", ""));
    // By an abstract name first, then by a path.
    let name = format!("apus-managed-{}", std::process::id());
    let at = SocketAddr::from_abstract_name(&name).expect("a name");
    let abstract_one = Manager(UnixDatagram::bind_addr(&at).expect("a socket"));
    cluster.set("NOTIFY_SOCKET", &format!("@{name}"));
    cluster.start(0);
    let said = abstract_one.until("READY=1");
    assert!(said.contains("STATUS=node 0 of cluster 98"), "{said}");
    assert_eq!(cluster.ask(0, &json!({"do": "status"}))["state"], "running", "it serves when it says so");
    let (_, row) = cluster.ready("web", 0, |_, _| true);
    let (web, since) = (pid(&row), began(pid(&row)));
    abstract_one.until("STATUS=node 0 of cluster 98: node 0 coordinates, 1 of 1 voters up; holds web.0");
    abstract_one.forget();
    assert!(abstract_one.feedings(Duration::from_millis(300)).is_empty(), "nobody asked to be fed");
    assert_eq!(cluster.end(0), Some(0));
    assert!(abstract_one.until("STOPPING=1").contains("programs run on"));
    assert_eq!(began(web), since, "its end is not that of its programs");

    let path = cluster.folder().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).expect("a socket"));
    cluster.set("NOTIFY_SOCKET", &path.display().to_string());
    cluster.set("WATCHDOG_USEC", &PERIOD.as_micros().to_string());
    // What it says is read by nobody.
    let (unread, mut filled) = std::io::pipe().expect("a pipe");
    cluster.start_to(0, filled.try_clone().expect("a pipe").into());
    manager.until("READY=1");
    let fed = manager.feedings(PERIOD * 2);
    assert!((3..=6).contains(&fed.len()), "at half the period: {}", fed.len());
    assert!(fed.windows(2).all(|two| two[1] - two[0] < PERIOD), "never later than the period");

    reloaded(&cluster, &manager, web);

    // A loop that is stuck: it says something, and cannot.
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    // Byte by byte, so that no room is left.
    let filler = std::thread::spawn(move || {
        while filled.write_all(b".").is_ok() {
            count.fetch_add(1, Relaxed);
        }
    });
    let mut before = u64::MAX;
    while before != written.load(Relaxed) {
        before = written.load(Relaxed);
        std::thread::sleep(Duration::from_millis(200));
    }
    let good = fs::read_to_string(cluster.file(0)).expect("a file");
    fs::write(cluster.file(0), good.replace("cluster = 98", "cluster = x")).expect("a file");
    manager.forget();
    signal("HUP", &[cluster.pid(0)]);
    std::thread::sleep(Duration::from_millis(500));
    manager.forget();
    let fed = manager.feedings(PERIOD * 2);
    assert!(fed.is_empty(), "a stuck loop feeds nobody: {}", fed.len());
    // As a manager would now.
    cluster.kill(0);
    drop(unread);
    filler.join().expect("it ends with the pipe");
    fs::write(cluster.file(0), good).expect("a file");
    cluster.start(0);
    manager.until("READY=1");
    let (_, row) = cluster.ready("web", 0, |_, _| true);
    assert_eq!((pid(&row), began(web)), (web, since), "its programs were there all the while");
    // A manager that is gone, as in a container that was given the name of a socket of outside.
    cluster.kill(0);
    drop(manager);
    fs::remove_file(&path).expect("a socket");
    cluster.start(0);
    let (_, row) = cluster.ready("web", 0, |_, _| true);
    assert_eq!(pid(&row), web);
    // Told to end while it takes its own place, it ends.
    signal("HUP", &[cluster.pid(0)]);
    std::thread::sleep(Duration::from_millis(10));
    cluster.end(0);
    assert!(began(web).is_some(), "and its program runs on");
}

/// A daemon takes its own place; a wrong file changes nothing.
fn reloaded(cluster: &Cluster, manager: &Manager, web: u32) {
    let life = || cluster.ask(0, &json!({"do": "status"}))["incarnation"].as_u64();
    let (daemon, before, first) = (cluster.pid(0), began(cluster.pid(0)), life());
    let good = fs::read_to_string(cluster.file(0)).expect("a file");
    // One that is wrong, and one that is right for another cluster.
    for wrong in ["x", "97"] {
        manager.forget();
        fs::write(cluster.file(0), good.replace("cluster = 98", &format!("cluster = {wrong}"))).expect("a file");
        signal("HUP", &[daemon]);
        manager.until("STATUS=not reloaded");
        assert_eq!(life(), first, "it goes on");
    }
    fs::write(cluster.file(0), &good).expect("a file");
    manager.forget();
    signal("HUP", &[daemon]);
    let said = manager.until("RELOADING=1");
    assert!(said.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{said}");
    manager.until("READY=1");
    assert_eq!(began(daemon), before, "the same process");
    assert!(life() > first, "another life");
    let (_, row) = cluster.ready("web", 0, |_, _| true);
    assert_eq!((pid(&row), &row["restarts"]), (web, &json!(0)), "the same program");
    // Again and again, also while it is neither the one nor the other.
    for _ in 0..40 {
        signal("HUP", &[daemon]);
        std::thread::sleep(Duration::from_millis(15));
    }
    manager.forget();
    signal("HUP", &[daemon]);
    manager.until("READY=1");
    assert_eq!(began(daemon), before, "the same process");
    let (_, row) = cluster.ready("web", 0, |_, _| true);
    assert_eq!((pid(&row), &row["restarts"]), (web, &json!(0)), "the same program");
}

/// Reads a pipe to its end, byte by byte with the time.
fn bytes(path: &std::path::Path) -> Receiver<(Instant, u8)> {
    let (to, got) = channel();
    let mut pipe = fs::File::options().read(true).write(true).open(path).expect("a pipe");
    std::thread::spawn(move || {
        let mut byte = [0];
        while pipe.read_exact(&mut byte).is_ok() && to.send((Instant::now(), byte[0])).is_ok() {}
    });
    got
}

pub(crate) fn watched() {
    let top = "watchdog = { device = \"FOLDER/device\", timeout = \"2s\" }";
    let mut cluster = Cluster::stopped("watched", 1, top, &service("web", ""));
    let device = cluster.folder().join("device");
    assert!(Command::new("mkfifo").arg(&device).status().expect("mkfifo").success());
    let fed = bytes(&device);
    cluster.start(0);
    let all: Vec<(Instant, u8)> = (0..5).map(|_| fed.recv_timeout(PATIENCE).expect("it is fed")).collect();
    assert!(all.iter().all(|(_, byte)| *byte == 0));
    assert!(all.windows(2).all(|two| two[1].0 - two[0].0 < Duration::from_millis(1_500)), "in time: {all:?}");
    // Killed: nobody says that it was meant.
    cluster.kill(0);
    assert!(fed.try_iter().all(|(_, byte)| byte == 0));
    assert!(fed.recv_timeout(Duration::from_secs(1)).is_err());
    cluster.start(0);
    cluster.ready("web", 0, |_, _| true);
    assert_eq!(cluster.end(0), Some(0));
    let last = std::iter::from_fn(|| fed.recv_timeout(Duration::from_millis(500)).ok()).last();
    assert_eq!(last.map(|(_, byte)| byte), Some(b'V'), "ended in order");
    // One that is not there is an error, and is told.
    let text = fs::read_to_string(cluster.file(0)).expect("a file");
    fs::write(cluster.file(0), text.replace("/device", "/no-device")).expect("a file");
    cluster.start(0);
    cluster.wait("the end", || cluster.story().contains("is a driver loaded, such as softdog"));
    if !std::path::Path::new("/dev/watchdog").exists() {
        println!("SKIPPED: a real watchdog: this machine has no /dev/watchdog");
    }
}
