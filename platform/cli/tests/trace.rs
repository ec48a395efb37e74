//! `apus vip trace` on a live node, in a network namespace, read back by tshark.
#![cfg(target_os = "linux")]

mod common;

use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{apus, temp};

const VIP: &str = "10.97.3.100";
const CLIENT: &str = "10.97.3.200";

fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))) }
}

/// A node's namespace and a client's, with a cable between them. All goes with the value.
struct Net {
    node: String,
    client: String,
    running: Option<Child>,
}

impl Net {
    fn new() -> Result<Self, String> {
        let pid = std::process::id();
        let net = Self { node: format!("apus-tn-{pid}"), client: format!("apus-tc-{pid}"), running: None };
        let (node, client) = (&net.node, &net.client);
        for tool in ["nft --version", "curl --version", "ip netns"] {
            sh(tool)?;
        }
        sh(&format!("ip netns add {node}; ip netns add {client}; ip -n {node} link set lo up"))?;
        sh(&format!("ip -n {node} link add eth0 type veth peer name eth0 netns {client}"))?;
        sh(&format!("ip -n {node} link set eth0 address 02:97:03:00:00:01 up"))?;
        sh(&format!("ip -n {client} link set eth0 address 02:97:03:00:00:c8 up"))?;
        sh(&format!(
            "ip -n {node} address add 10.97.3.1/24 dev eth0; ip -n {client} address add {CLIENT}/24 dev eth0"
        ))?;
        sh(&format!("ip -n {node} neigh replace {CLIENT} lladdr 02:97:03:00:00:c8 dev eth0 nud permanent"))?;
        Ok(net)
    }

    /// The client asks; nobody serves, so all it gets is a reset.
    fn ask(&self) {
        let client = &self.client;
        let _ = sh(&format!("ip netns exec {client} curl -s --max-time 1 http://{VIP}/"));
    }

    fn neighbour(&self, of: &str) {
        let client = &self.client;
        sh(&format!("ip -n {client} neigh replace {VIP} {of}")).expect("a neighbour");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let _ = child.wait();
        }
        for name in [&self.node, &self.client] {
            let _ = sh(&format!("ip netns del {name}"));
        }
    }
}

fn spawn(control: &str, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command.args(["vip", "trace", "--control", control]).args(args);
    command.stdout(Stdio::piped()).spawn().expect("it starts")
}

fn ended(child: Child) -> String {
    let Output { status, stdout, .. } = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(stdout).expect("UTF-8");
    assert!(status.success(), "{text}");
    text
}

#[test]
fn a_trace_has_each_frame_with_what_became_of_it() {
    let mut net = match Net::new() {
        Ok(net) => net,
        Err(error) => return println!("SKIPPED: {error}"),
    };
    let folder = temp("trace");
    let (file, control) = (folder.join("node.toml"), folder.join("control").display().to_string());
    let text = format!(
        "cluster = 973\nnode = 0\nfolder = \"{0}/store\"\ncontrol = \"{control}\"\n\
         [[nodes]]\nid = 0\naddress = \"10.97.3.1\"\nmac = \"02:97:03:00:00:01\"\n\
         [vip]\nv4 = \"{VIP}\"\ninterface = \"eth0\"\nlog2_slots = 10\nseed = 97\nplane = \"af-packet\"\n",
        folder.display()
    );
    std::fs::write(&file, text).expect("it can be written");
    let file = file.display().to_string();
    let init = apus(&["node", "init", "--config", &file]);
    assert_eq!(init.code, 0, "{}", init.stderr);
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    let command = ["netns", "exec", &net.node, env!("CARGO_BIN_EXE_apus"), "node", "run", "--config", &file];
    let child = Command::new("ip").args(command).stdout(log.try_clone().expect("a log")).stderr(log).spawn();
    net.running = Some(child.expect("it starts"));
    let began = Instant::now();
    while !apus(&["vip", "status", "--control", &control, "--format", "json"]).stdout.contains("\"dispatches\": true") {
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(20), "it does not become the dispatcher: {log}");
        sleep(Duration::from_millis(50));
    }

    // A capture.
    let capture = folder.join("out.pcapng").display().to_string();
    let tracing = spawn(&control, &["--pcapng", &capture, "--for", "2500ms"]);
    sleep(Duration::from_millis(300));
    net.ask();
    net.neighbour("dev eth0 nud permanent lladdr 01:00:5e:00:00:01");
    net.ask();
    let text = ended(tracing);
    assert!(text.contains("ended by: time"), "{text}");
    let fields = ["-T", "fields", "-E", "separator=|", "-e", "frame.comment", "-e", "arp.opcode", "-e", "tcp.dstport"];
    match Command::new("tshark").args(["-n", "-r", &capture]).args(fields).output() {
        Ok(out) => {
            let rows = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{rows}{}", String::from_utf8_lossy(&out.stderr));
            let has = |what: &str, end: &str| rows.lines().any(|row| row.starts_with(what) && row.ends_with(end));
            assert!(has("transmit", "|1|"), "the question is not answered: {rows}");
            assert!(has("local, slot ", ", server 0||80"), "the client's segment: {rows}");
            assert!(has("drop, group", "||80"), "by a group's address: {rows}");
            println!("{rows}");
        }
        Err(error) => println!("SKIPPED reading the capture: tshark: {error}"),
    }
    let bytes = std::fs::read(&capture).expect("a capture");
    assert!(bytes.len() > 400 && bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "{} bytes", bytes.len());

    // Lines, until somebody else asks; JSON, until there are enough.
    let lines = spawn(&control, &["--for", "20s"]);
    sleep(Duration::from_millis(300));
    net.ask();
    let json = spawn(&control, &["--for", "20s", "--frames", "1", "--bytes", "34", "--format", "json"]);
    sleep(Duration::from_millis(300));
    net.ask();
    let text = ended(lines);
    let wanted = format!("> {VIP}:80 tcp S, ");
    assert!(text.lines().any(|line| line.contains(&wanted) && line.ends_with("drop, group")), "{text}");
    assert!(text.contains("ended by: another trace"), "{text}");
    let text = ended(json);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["reason"], lines[0]["bytes"].as_str().map(str::len)), (&"group".into(), Some(68)), "{text}");
    assert_eq!((&lines[1]["end"], &lines[1]["frames"]), (&"frames".into(), &1.into()), "{text}");
}

#[test]
fn without_a_node_it_says_what_to_do() {
    let ran = apus(&["vip", "trace", "--control", "/no/such/socket"]);
    assert!(ran.code == 70 && ran.stderr.contains("does a node run here"), "{}", ran.stderr);
}
