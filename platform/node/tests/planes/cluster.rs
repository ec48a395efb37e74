//! Three nodes on a bridge, and what happens to their dispatcher.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use apus_node::{Config, ask, init};
use apus_os::linux::Xdp;
use serde_json::{Value, json};

use crate::clients::TRIED;
use crate::wait::until;

const NODES: usize = 3;
const VIPS: [&str; 2] = ["10.98.0.100", "fd98::100"];
/// Connections that stay, for each address.
const CONNECTIONS: usize = 30;
const CLIENT: (&str, [&str; 2]) = ("02:98:00:00:00:c8", ["10.98.0.200", "fd98::c8"]);

fn mac(node: usize) -> String {
    format!("02:98:00:00:00:{:02x}", node + 1)
}
fn addresses(node: usize) -> [String; 2] {
    [format!("10.98.0.{}", node + 1), format!("fd98::{:x}", node + 1)]
}

/// Has these ends of cables polled, by programs that let everything pass, until its standard input ends.
pub(crate) fn poll(ports: &[&str]) -> Result<(), String> {
    let ends: Result<Vec<Xdp>, _> = ports.iter().map(|port| Xdp::new(port)).collect();
    let _ends = ends.map_err(|error| error.to_string())?;
    println!("ready");
    let _ = std::io::stdin().lines().count();
    Ok(())
}

fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().map_err(|error| format!("sh: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// A program that ends with the value, and answers words with lines.
struct Program {
    child: Child,
    from: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok(line.trim().into())
    }

    fn ask(&mut self, word: &str) -> Result<Value, String> {
        let to = self.child.stdin.as_mut().ok_or("no standard input")?;
        writeln!(to, "{word}").map_err(|error| error.to_string())?;
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| format!("clients: {error}: {line}"))
    }

    fn signal(&self, name: &str) -> Result<(), String> {
        sh(&format!("kill -{name} {}", self.child.id()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Cluster {
    /// Before the namespaces, which are gone at last.
    nodes: Vec<Option<Program>>,
    _servers: Vec<Program>,
    _ends: Option<Program>,
    /// Who is not asked at the moment.
    away: Option<usize>,
    net: Net,
}

/// Namespaces and a folder. They are gone with the value, whatever happened.
struct Net {
    folder: PathBuf,
}

impl Drop for Net {
    fn drop(&mut self) {
        for role in roles() {
            let _ = sh(&format!("ip netns del {}", name(&role)));
        }
        if std::env::var_os("APUS_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn name(role: &str) -> String {
    format!("apus-pl-{role}-{}", std::process::id())
}

fn roles() -> impl Iterator<Item = String> {
    (0..NODES).map(|node| format!("n{node}")).chain(["br".into(), "c".into()])
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Net {
    fn new() -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("apus-planes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(text)?;
        let net = Self { folder };
        let bridge = name("br");
        let mut lines = String::new();
        for role in roles() {
            let role = name(&role);
            let _ = writeln!(lines, "ip netns add {role}; ip -n {role} link set lo up");
        }
        let _ = writeln!(lines, "ip -n {bridge} link add br0 type bridge forward_delay 0 mcast_snooping 0");
        let _ = writeln!(lines, "ip -n {bridge} link set br0 up");
        let nodes = (0..NODES).map(|node| (format!("n{node}"), mac(node), addresses(node)));
        let client = ("c".to_owned(), CLIENT.0.to_owned(), CLIENT.1.map(str::to_owned));
        let all: Vec<_> = nodes.chain([client]).collect();
        for (role, mac, [v4, v6]) in &all {
            let of = name(role);
            let _ = writeln!(
                lines,
                "ip -n {bridge} link add v{role} type veth peer name eth0 netns {of}
                ip -n {bridge} link set v{role} master br0 up
                ip -n {of} link set eth0 address {mac} up
                ip -n {of} address add {v4}/24 dev eth0; ip -n {of} address add {v6}/64 dev eth0 nodad"
            );
            // The kernel has one table of neighbours for all namespaces, and it may be full. The client asks for the cluster alone.
            for (_, mac, addresses) in all.iter().filter(|(other, ..)| other != role && role != "c") {
                for address in addresses {
                    let _ = writeln!(lines, "ip -n {of} neigh replace {address} lladdr {mac} dev eth0 nud permanent");
                }
            }
        }
        sh(&lines)?;
        Ok(net)
    }

    fn start(&self, role: &str, words: &[&str]) -> Result<Program, String> {
        let log = self.folder.join(format!("{role}-{}.log", words[0]));
        let log = std::fs::File::options().create(true).append(true).open(log).map_err(text)?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", &name(role)])
            .arg(std::env::current_exe().map_err(text)?)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(text)?;
        let from = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Program { child, from })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The client believes that this node has the address.
    fn deceive(&self, node: usize) -> Result<(), String> {
        VIPS.iter().try_for_each(|vip| {
            sh(&format!("ip -n {} neigh replace {vip} lladdr {} dev eth0 nud permanent", name("c"), mac(node)))
        })
    }

    /// It asks again.
    fn forget(&self) -> Result<(), String> {
        VIPS.iter().try_for_each(|vip| sh(&format!("ip -n {} neigh del {vip} dev eth0", name("c"))))
    }
}

impl Cluster {
    fn new(plane: Option<&str>) -> Result<Self, String> {
        let net = Net::new()?;
        let mut ends = None;
        if matches!(plane, Some("xdp" | "af-xdp")) {
            // Frames go on as they are, with what their sender left to a network card undone.
            sh(&format!("ip netns exec {} ethtool -K eth0 tx off", name("c")))?;
        }
        if plane == Some("xdp") {
            // In the driver of a cable: frames that a program sends arrive if the other end polls.
            let mut program = net.start("br", &["poll", "vn0", "vn1", "vn2"])?;
            if program.line()? != "ready" {
                return Err("the ends of the cables have no programs".into());
            }
            ends = Some(program);
        }
        let mut cluster = Self { nodes: Vec::new(), _servers: Vec::new(), _ends: ends, away: None, net };
        for node in 0..NODES {
            let mut config = format!(
                "cluster = 98\nnode = {node}\nfolder = \"{}\"\ncontrol = \"{}\"\n",
                cluster.net.file(&format!("store{node}")),
                cluster.net.file(&format!("control{node}"))
            );
            for other in 0..NODES {
                let ([v4, _], mac) = (addresses(other), mac(other));
                let _ = writeln!(config, "[[nodes]]\nid = {other}\naddress = \"{v4}\"\nmac = \"{mac}\"");
            }
            let [v4, v6] = VIPS;
            let _ = writeln!(
                config,
                "[vip]\nv4 = \"{v4}\"\nv6 = \"{v6}\"\ninterface = \"eth0\"\nkey = \"ports\"\nlog2_slots = 16\nseed = 98"
            );
            if let Some(plane) = plane {
                let _ = writeln!(config, "plane = \"{plane}\"");
            }
            let file = cluster.net.file(&format!("node{node}.toml"));
            std::fs::write(&file, &config).map_err(text)?;
            init(&Config::read(&file, &config).map_err(text)?).map_err(text)?;
            cluster.nodes.push(None);
            cluster.start(node)?;
            let server = cluster.net.start(&format!("n{node}"), &["serve", v4, v6, &node.to_string()])?;
            cluster._servers.push(server);
        }
        cluster.whole()?;
        Ok(cluster)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let file = self.net.file(&format!("node{node}.toml"));
        self.nodes[node] = Some(self.net.start(&format!("n{node}"), &["node", &file])?);
        Ok(())
    }

    fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        if self.away == Some(node) {
            return Err(format!("node {node} is away"));
        }
        ask(&self.net.folder.join(format!("control{node}")), question).map_err(text)
    }

    fn status(&self, node: usize) -> Result<Value, String> {
        self.ask(node, &json!({"do": "status"}))
    }

    /// Frames of clients that a node refused for want of a lease: what its program in the kernel counted, which alone sees
    /// the lease end while the daemon is frozen, or what its daemon did.
    fn refused(&self, node: usize) -> Result<u64, String> {
        let address = self.status(node)?["address"].clone();
        let of = |reason: &str| address["counters"][reason].as_u64().unwrap_or_default();
        let in_kernel = address["plane"].as_str().is_some_and(|plane| plane.starts_with("xdp"));
        Ok(of("lease-expired") + if in_kernel { 0 } else { of("not-dispatcher") })
    }

    fn dispatcher(&self) -> Result<usize, String> {
        (0..NODES)
            .find(|node| {
                let status = self.status(*node).unwrap_or_default();
                status["dispatches"] == true && status["dispatcher"] == *node
            })
            .ok_or_else(|| "nobody dispatches".into())
    }

    /// Every node serves, in every table.
    fn whole(&self) -> Result<usize, String> {
        until(30, "the cluster is not whole", || {
            for node in 0..NODES {
                let table = self.ask(node, &json!({"do": "table"}))?;
                let servers = table["servers"].as_array().cloned().unwrap_or_default();
                if servers.len() < NODES || servers.iter().any(|server| server["slots"] == 0) {
                    return Err(format!("node {node}: {table}"));
                }
            }
            self.dispatcher()
        })
    }

    fn program(&self, node: usize) -> Result<&Program, String> {
        self.nodes[node].as_ref().ok_or_else(|| "it does not run".into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Strike {
    Move,
    Stop,
    Kill,
}

/// New connections are answered, at both addresses.
fn answered(clients: &mut Program) -> Result<(), String> {
    until(10, "new connections", || {
        let fresh = clients.ask("fresh")?;
        if fresh == json!([TRIED, TRIED]) { Ok(()) } else { Err(format!("answered, IPv4 and IPv6: {fresh}")) }
    })
}

fn strike(cluster: &mut Cluster, clients: &mut Program, what: Strike) -> Result<(), String> {
    let struck = cluster.whole()?;
    answered(clients)?;
    let before = cluster.refused(struck)?;
    let began = Instant::now();
    match what {
        Strike::Move => {
            let order = json!({"do": "move", "node": (struck + 1) % NODES});
            until(5, "an order", || {
                let last = (0..NODES).map(|node| cluster.ask(node, &order)).reduce(Result::or);
                last.unwrap_or_else(|| Err("no node".into()))
            })?;
        }
        Strike::Stop => cluster.program(struck)?.signal("STOP")?,
        Strike::Kill => cluster.nodes[struck] = None,
    }
    cluster.away = (what != Strike::Move).then_some(struck);
    until(10, "nobody took over", || match cluster.dispatcher()? {
        other if other != struck => Ok(()),
        _ => Err("the same".into()),
    })?;
    answered(clients)?;
    println!("  {what:?}: new connections answered {} ms later", began.elapsed().as_millis());
    match what {
        Strike::Move => {}
        Strike::Kill => cluster.start(struck)?,
        Strike::Stop => {
            // Whoever still believes in it gets no answer: what it dispatched by, in the kernel too, has ended.
            cluster.net.deceive(struck)?;
            let fresh = clients.ask("fresh");
            cluster.net.forget()?;
            cluster.program(struck)?.signal("CONT")?;
            if fresh.as_ref() != Ok(&json!([0, 0])) {
                return Err(format!("a frozen node dispatches: {fresh:?}"));
            }
            cluster.away = None;
            // What waited for the daemon in user space is looked at once it runs again.
            until(10, "a frozen node refused nothing", || match cluster.refused(struck)? {
                after if after > before => Ok(()),
                after => Err(format!("{before} frames before, {after} after")),
            })?;
        }
    }
    cluster.away = None;
    cluster.whole()?;
    answered(clients)?;
    let report = clients.ask("report")?;
    let own = |broken: &&Value| what != Strike::Move && broken["server"].as_u64() == Some(struck as u64);
    let broken = report["broken"].as_array().cloned().unwrap_or_default();
    match broken.iter().find(|broken| !own(broken)) {
        Some(broken) => Err(format!("{what:?} of {struck}: a connection of another server broke: {broken}")),
        None => Ok(()),
    }
}

/// One plane, from the start of the cluster to its end.
fn trial(plane: Option<&str>, strikes: &[Strike]) -> Result<String, String> {
    let began = Instant::now();
    let mut cluster = Cluster::new(plane)?;
    let address = cluster.status(0)?["address"].clone();
    let used = address["plane"].as_str().unwrap_or_default().to_owned();
    println!("{used}: {}", address["tried"]);
    if plane.is_some_and(|plane| plane != used) {
        return Err(format!("{plane:?} was asked for, {used} runs"));
    }
    for what in strikes {
        let [v4, v6] = VIPS;
        // A strike may break connections of the one struck: each has new ones.
        let mut clients = cluster.net.start("c", &["talk", v4, v6, &CONNECTIONS.to_string()])?;
        until(20, "connections", || {
            let report = clients.ask("report")?;
            let all = report["open"] == json!([CONNECTIONS, CONNECTIONS]);
            if all { Ok(()) } else { Err(report.to_string()) }
        })?;
        strike(&mut cluster, &mut clients, *what).map_err(|error| format!("{used}: {error}"))?;
    }
    println!("  {:.1} s", began.elapsed().as_secs_f64());
    Ok(used)
}

pub(crate) fn test(asked: &[&str]) -> Result<(), String> {
    let probe = name("probe");
    for (tool, line) in [
        ("iproute2, and the right to make namespaces", format!("ip netns add {probe}; ip netns del {probe}")),
        ("nftables", "nft --version".into()),
        ("ethtool", "ethtool --version".into()),
    ] {
        if let Err(error) = sh(&line) {
            println!("planes: SKIPPED: {tool}: {error}");
            return Ok(());
        }
    }
    let all = [Strike::Move, Strike::Stop, Strike::Kill];
    if !asked.is_empty() {
        return asked.iter().try_for_each(|plane| trial(Some(plane), &all).map(|_| ()));
    }
    let chosen = trial(None, &all)?;
    for plane in ["xdp", "xdp-generic", "af-xdp", "af-packet", "tap"].into_iter().filter(|plane| *plane != chosen) {
        trial(Some(plane), &[Strike::Stop])?;
    }
    Ok(())
}
