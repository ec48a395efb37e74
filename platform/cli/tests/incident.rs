//! A node that really runs, and is killed: its record as a file, run again, drawn, and refused where it is damaged.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::apus;
use serde_json::Value;

struct Node {
    folder: PathBuf,
    child: Option<Child>,
}

impl Node {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("apus-incident-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let place = folder.display();
        let text = format!(
            "cluster = 97\nnode = 0\nport = {port}\nfolder = \"{place}/store\"\ncontrol = \"{place}/control\"\nlease = \"10s\"\n\
             [[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\ncommand = [\"/bin/sleep\", \"1000\"]\n"
        );
        fs::write(folder.join("node.toml"), text).expect("a file");
        let node = Self { folder, child: None };
        assert_eq!(apus(&["node", "init", "--config", &node.path("node.toml")]).code, 0);
        node
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Starts it, and waits until its program is ready; gives that's number.
    fn start(&mut self) -> u64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
        command.args(["node", "run", "--config", &self.path("node.toml")]);
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a node"));
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let out = apus(&["service", "status", "--control", &self.path("control"), "--format", "json"]);
            let status: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
            let row = &status["services"][0];
            if let (Some(pid), true) = (row["pid"].as_u64(), row["state"] == "ready") {
                return pid;
            }
            assert!(Instant::now() < until, "it is not ready: {}{}", out.stdout, out.stderr);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        use std::os::unix::net::UnixStream;
        self.kill();
        // Its keeper ends with the program's lease at the latest; sooner, by its socket.
        let keeper = self.folder.join("store/programs/web.0/socket");
        if let Ok(mut stream) = UnixStream::connect(&keeper) {
            use apus_os::program::{Order, VERSION, encode_order};
            use std::io::{Read as _, Write as _};
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            for order in [Order::Hello { version: VERSION }, Order::Stop { op: 1, grace: 0 }, Order::Leave] {
                let _ = stream.write_all(&encode_order(&order));
            }
            while matches!(stream.read(&mut [0; 4_096]), Ok(1..)) {}
        }
        let until = Instant::now() + Duration::from_secs(10);
        while keeper.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn json(args: &[&str]) -> (i32, Value) {
    let out = apus(&[args, &["--format", "json"]].concat());
    (
        out.code,
        serde_json::from_str(&out.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", out.stdout, out.stderr)),
    )
}

fn damaged(file: &Path, to: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = fs::read(file).expect("it is there");
    change(&mut bytes);
    let place = file.with_file_name(to);
    fs::write(&place, bytes).expect("a file");
    let out = apus(&["replay", &place.display().to_string()]);
    assert_eq!(out.code, 64, "{}{}", out.stdout, out.stderr);
    out.stderr
}

#[test]
fn a_live_incident_is_exported_replayed_and_drawn() {
    let mut node = Node::new("one");
    let store = node.path("store");
    let empty = apus(&["incident", "export", "--node", &store, &node.path("none")]);
    assert_eq!(empty.code, 64, "{}", empty.stdout);
    assert!(empty.stderr.contains("nothing is recorded there"), "{}", empty.stderr);
    let pid = node.start();
    std::thread::sleep(Duration::from_millis(300));
    node.kill();
    assert_eq!(node.start(), pid, "the program outlived its daemon");
    std::thread::sleep(Duration::from_millis(300));

    // While it runs.
    let file = node.path("incident.bin");
    let (code, out) = json(&["incident", "export", "--node", &store, &file]);
    assert_eq!((code, &out["node"], &out["missing"]), (0, &0.into(), &0.into()), "{out}");
    let (code, out) = json(&["replay", &file]);
    assert_eq!(code, 0, "{out}");
    let (same, unhashed) = (out["same"].as_u64().expect("a number"), out["unhashed"].as_u64().expect("a number"));
    assert!(same > 10 && same + unhashed == out["steps"].as_u64().expect("a number"), "{out}");
    assert_eq!(out["difference"], Value::Null);
    let text = apus(&["replay", &file]);
    assert!(text.stdout.contains("n0  life 1  ") && text.stdout.contains("n0  life 2  "), "{}", text.stdout);
    assert!(text.stdout.contains("with the same state hash"), "{}", text.stdout);

    // In the same pictures as a simulated run.
    let page = node.path("incident.html");
    let out = apus(&["explain", &file, "--html", &page, "--pcapng", &node.path("incident.pcapng")]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let html = fs::read_to_string(&page).expect("it is written");
    for word in ["\"title\":\"incident incident.bin\"", "leads t", "holds r256 by e"] {
        assert!(html.contains(word), "{word} is not in the page");
    }
    assert!(html.contains("<!doctype html>") || html.contains("<!DOCTYPE html>"));

    // What is wrong with a file is said.
    let file = Path::new(&file);
    let said = damaged(file, "short.bin", |bytes| bytes.truncate(bytes.len() / 2));
    assert!(said.contains("ends early"), "{said}");
    let said = damaged(file, "damaged.bin", |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    assert!(said.contains("damaged at byte"), "{said}");
    let said = damaged(file, "later.bin", |bytes| bytes[8] = 200);
    assert!(said.contains("version 200") && said.contains("use a newer one"), "{said}");
    let said = damaged(file, "other.bin", |bytes| bytes[0] = b'X');
    assert!(said.contains("neither an artifact nor an incident"), "{said}");
}
