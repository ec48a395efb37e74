//! `apus run --tap`: curl in a network namespace talks to a simulated cluster whose dispatcher dies.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{apus, root, temp};
use serde_json::Value;

/// A namespace that goes with the test, whatever happened.
struct Namespace(String);

impl Namespace {
    /// None, and a word, where there can be none.
    fn new() -> Option<Self> {
        let own = Self(format!("apus-tap-{}", std::process::id()));
        let out = Command::new("ip").args(["netns", "add", &own.0]).output();
        let missing =
            ["curl", "setpriv"].into_iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
        match (out, missing) {
            (Ok(out), None) if out.status.success() => Some(own),
            (Ok(out), None) => {
                println!("SKIPPED: no namespace: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            (_, missing) => {
                println!("SKIPPED: {} is not here", missing.unwrap_or("ip"));
                None
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).current_dir(root());
        command
    }

    fn run(&self, args: &[&str]) -> (bool, String) {
        let out = self.command(args[0]).args(&args[1..]).output().expect("it starts");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn has(&self, device: &str) -> bool {
        self.run(&["ip", "link", "show", "dev", device]).0
    }

    /// Which server answers, if one does within a second.
    fn ask(&self, from: &str, url: &str) -> Option<String> {
        let (_, text) = self.run(&["curl", "-s", "--max-time", "1", "--interface", from, url]);
        text.lines().find_map(|line| line.strip_prefix("server ").map(str::to_owned))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

struct Running {
    child: Child,
    lines: Receiver<Value>,
}

impl Running {
    fn start(place: &Namespace, scenario: &str, lasts: &str) -> Self {
        let mut command = place.command(env!("CARGO_BIN_EXE_apus"));
        command.args(["run", scenario, "--world", "emulated", "--tap", "apus0", "--for", lasts, "--format", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let out = child.stdout.take().expect("a pipe");
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = to.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Self { child, lines }
    }

    /// The next line that fits.
    fn line(&self, within: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("the line comes");
            if fits(&line) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SCENARIO: &str = r#"
name = "tap-takeover"
about = "The dispatcher loses power while people look."
worlds = ["emulated"]
nodes = 3
duration = "4s"
heal = "3s"

[workload]
kind = "flows"
clients = 3
rate = 2

[[fault]]
kind = "power-off"
at = "3s"
for = "1s"
target = "dispatcher"
"#;

#[test]
fn curl_talks_to_a_cluster_through_a_takeover() {
    let Some(place) = Namespace::new() else { return };
    let file = temp("tap").join("tap-takeover.toml");
    std::fs::write(&file, SCENARIO).expect("it can be written");
    let scenario = file.to_str().expect("a plain path");
    let mut running = Running::start(&place, scenario, "7s");
    let first = running.line(Duration::from_secs(10), |line| line["device"].is_string());
    assert_eq!(first["cluster"][0], "10.8.0.100", "{first}");
    let says = |what: &'static str| move |line: &Value| line["what"].as_str().is_some_and(|text| text.contains(what));
    running.line(Duration::from_secs(3), says("is the dispatcher"));
    // More clients than one: each has its server.
    let clients: Vec<String> = (210..218).map(|last| format!("10.8.0.{last}")).collect();
    for client in &clients {
        assert!(place.run(&["ip", "address", "add", &format!("{client}/16"), "dev", "apus0"]).0, "{client}");
    }
    let url = "http://10.8.0.100/";
    let before: Vec<Option<String>> = clients.iter().map(|client| place.ask(client, url)).collect();
    let mut servers: Vec<&String> = before.iter().flatten().collect();
    assert!(servers.len() >= 6, "hardly anybody is answered: {before:?}");
    servers.sort_unstable();
    servers.dedup();
    assert!(servers.len() > 1, "one server answers all: {before:?}");
    let six = first["cluster"][1].as_str().map(|six| place.ask("fd08::4:1", &format!("http://[{six}]/")));
    assert!(six.is_none_or(|server| server.is_some()), "nobody answers by IPv6");
    running.line(Duration::from_secs(5), says("power-off"));
    running.line(Duration::from_secs(3), says("is the dispatcher"));
    let again = Instant::now();
    let after = loop {
        let after: Vec<Option<String>> = clients[..4].iter().map(|client| place.ask(client, url)).collect();
        if after.iter().all(Option::is_some) {
            break after;
        }
        assert!(again.elapsed() < Duration::from_secs(3), "after the takeover: {after:?}");
    };
    let last = running.line(Duration::from_secs(10), |line| line["verdict"].is_string());
    assert_eq!((&last["verdict"], &last["early"]), (&"pass".into(), &false.into()), "{last}");
    assert!(last["frames_in"].as_u64() > Some(50) && last["frames_out"].as_u64() > Some(50), "{last}");
    println!("before {before:?}, after {after:?}: {last}");
    assert!(running.child.wait().expect("it ends").success());
    assert!(!place.has("apus0"), "the device is left behind");

    // Ctrl-C.
    let mut running = Running::start(&place, scenario, "60s");
    running.line(Duration::from_secs(10), |line| line["device"].is_string());
    assert!(place.has("apus0"));
    let pid = running.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let last = running.line(Duration::from_secs(3), |line| line["verdict"].is_string());
    assert_eq!(last["early"], true, "{last}");
    assert!(running.child.wait().expect("it ends").success());
    assert!(!place.has("apus0"), "the device is left behind");

    // What cannot be.
    let bin = env!("CARGO_BIN_EXE_apus");
    let args = ["run", scenario, "--world", "emulated", "--tap"];
    let refused = |before: &[&str], name: &str| {
        let mut command = place.command(if before.is_empty() { bin } else { before[0] });
        let rest = before.iter().skip(1).chain(if before.is_empty() { None } else { Some(&bin) });
        let out = command.args(rest).args(args).arg(name).output().expect("it starts");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = refused(&[], "lo");
    assert!(code == Some(64) && text.contains("a device `lo` already"), "{code:?} {text}");
    let (code, text) = refused(&["setpriv", "--reuid", "65534", "--clear-groups"], "apus0");
    assert!(code == Some(64) && text.contains("only root may make a TAP device"), "{code:?} {text}");
    assert!(place.run(&["ip", "route", "add", "blackhole", "10.8.3.0/24"]).0);
    let (code, text) = refused(&[], "apus0");
    assert!(code == Some(64) && text.contains("10.8.0.0/16 is in use here: `blackhole 10.8.3.0/24"), "{code:?} {text}");
    assert!(!place.has("apus0"), "the device is left behind");
}

#[test]
fn tap_wants_one_scenario_of_the_emulated_world() {
    for (args, wanted) in [
        (&["vip-healthy", "--tap", "apus0"][..], "add --world emulated"),
        (&["vip-healthy", "vip-too-big", "--world", "emulated", "--tap", "apus0"], "2 were named"),
        (&["common-swarm-8", "--world", "emulated", "--tap", "apus0"], "not for the emulated world"),
        (&["vip-healthy", "--world", "emulated", "--tap", "no/name"], "no name for a device"),
        (&["vip-healthy", "--world", "emulated", "--for", "5s"], "--tap"),
        (&["vip-healthy", "--world", "emulated", "--tap", "apus0", "--seeds", "0..2"], "--seeds"),
    ] {
        let ran = apus(&[&["run"], args].concat());
        assert_eq!(ran.code, 64, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(wanted), "{args:?}: {}", ran.stderr);
    }
}
