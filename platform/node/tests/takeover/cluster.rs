//! The experiment.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

use apus_node::{Config, ask, init, run};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::net::{Net, VIP, clients, sh};
use crate::watch::{Seen, Watch};

const NODES: usize = 5;

/// Runs one node.
pub(crate) fn node(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let config = Config::read(file, &text).map_err(|error| error.to_string())?;
    let began = Instant::now();
    run(&config, move |line| eprintln!("{:9.3} {line}", began.elapsed().as_secs_f64()))
        .map_err(|error| error.to_string())
}

/// Why it cannot run here, if so.
fn skipped() -> Option<String> {
    for (tool, args) in [("ip", "-V"), ("nft", "--version"), ("tcpdump", "--version")] {
        if sh(&format!("{tool} {args}")).is_err() {
            return Some(format!("`{tool}` is missing"));
        }
    }
    let name = format!("apus-probe-{}", std::process::id());
    let made = sh(&format!("ip netns add {name}"));
    let _ = sh(&format!("ip netns del {name}"));
    made.err().map(|error| format!("no namespaces: {error}"))
}

struct Cluster {
    net: Net,
    exe: String,
    nodes: Vec<Option<Child>>,
    servers: Vec<Child>,
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().flatten().chain(&mut self.servers).for_each(end);
    }
}

impl Cluster {
    fn new() -> Result<Self, String> {
        let net = Net::new(NODES)?;
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        let mut cluster = Self { net, exe, nodes: Vec::new(), servers: Vec::new() };
        for node in 0..NODES {
            let file = cluster.net.config(node)?;
            let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
            init(&Config::read(&file, &text).map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
            cluster.nodes.push(None);
            cluster.start(node)?;
            let command = [&cluster.exe[..], "serve", VIP, &node.to_string()];
            let server = cluster.net.start(&cluster.net.node(node), &command, "servers.log");
            cluster.servers.push(server.map_err(|error| error.to_string())?);
        }
        cluster.whole()?;
        Ok(cluster)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let file = self.net.folder.join(format!("node{node}.toml")).display().to_string();
        let command = [&self.exe[..], "node", &file];
        let child = self.net.start(&self.net.node(node), &command, &format!("node{node}.log"));
        self.nodes[node] = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        ask(&self.net.folder.join(format!("control{node}")), question).map_err(|error| error.to_string())
    }

    /// Asks whoever coordinates.
    fn order(&self, question: &Value) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..50 {
            for node in 0..NODES {
                match self.ask(node, question) {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            sleep(Duration::from_millis(100));
        }
        Err(last)
    }

    /// The dispatcher, by its own word, and whether it coordinates too.
    fn dispatcher(&self) -> Option<(usize, bool)> {
        (0..NODES).find_map(|node| {
            let status = self.ask(node, &json!({"do": "status"})).unwrap_or_default();
            let dispatches = status["dispatches"] == true && status["dispatcher"] == node;
            dispatches.then(|| (node, status["coordinator"] == node))
        })
    }

    /// Waits until every node serves, in every table, and dispatcher and coordinator are two nodes.
    fn whole(&self) -> Result<usize, String> {
        let mut last = Value::Null;
        for _ in 0..300 {
            let whole = (0..NODES).all(|node| {
                last = self.ask(node, &json!({"do": "table"})).unwrap_or_default();
                let servers = last["servers"].as_array().cloned().unwrap_or_default();
                servers.len() == NODES && servers.iter().all(|server| server["slots"].as_u64() > Some(0))
            });
            if let Some((dispatcher, false)) = self.dispatcher().filter(|_| whole) {
                return Ok(dispatcher);
            }
            sleep(Duration::from_millis(100));
        }
        Err(format!("the cluster is not whole after 30 s: {last}; status {:?}", self.ask(0, &json!({"do": "status"}))))
    }
}

struct Clients {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Clients {
    fn start(net: &Net, exe: &str, many: usize) -> Result<Self, String> {
        let command = [exe, "load", VIP, &clients().join(","), &many.to_string()];
        let mut child = net.start(&net.client(), &command, "load.log").map_err(|error| error.to_string())?;
        let to = child.stdin.take().ok_or("no standard input")?;
        let from = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, to, from })
    }

    fn say(&mut self, word: &str) -> Result<(), String> {
        writeln!(self.to, "{word}").map_err(|error| format!("clients: {error}"))
    }

    fn report(&mut self) -> Result<Value, String> {
        self.say("report")?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| format!("clients: {error}: {line}"))
    }

    /// Everybody is connected again and has been answered.
    fn settle(&mut self) -> Result<(), String> {
        let mut last = Value::Null;
        for _ in 0..100 {
            self.say("reset")?;
            sleep(Duration::from_millis(300));
            last = self.report()?;
            let none = last["servers"].get("none").is_some();
            if last["broken"].as_array().is_some_and(Vec::is_empty) && !none {
                return self.say("reset");
            }
        }
        Err(format!("clients do not settle: {} {}", last["broken"], last["servers"]))
    }
}

/// All trials of one kind.
struct Row {
    name: &'static str,
    trials: u64,
    /// How long nobody answered a flow of datagrams, in microseconds.
    blackout: Histogram<u64>,
    lost_of_survivors: usize,
    lost_of_struck: usize,
}

impl Row {
    fn new(name: &'static str) -> Self {
        let blackout = Histogram::new(3).expect("three digits");
        Self { name, trials: 0, blackout, lost_of_survivors: 0, lost_of_struck: 0 }
    }

    fn add(&mut self, report: &Value, struck: Option<usize>) {
        self.trials += 1;
        for gap in report["gaps"].as_array().into_iter().flatten() {
            let _ = self.blackout.record(gap["us"].as_u64().unwrap_or_default());
        }
        for broken in report["broken"].as_array().into_iter().flatten() {
            if struck.is_some() && broken["server"].as_u64() == struck.map(|struck| struck as u64) {
                self.lost_of_struck += 1;
            } else {
                eprintln!("{}: lost {broken}", self.name);
                self.lost_of_survivors += 1;
            }
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn ms(&self, quantile: f64) -> f64 {
        self.blackout.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn head() {
        println!("| event | trials | blackout p50 ms | p99 | max | connections of others lost | of the one struck |");
        println!("|---|---|---|---|---|---|---|");
    }

    fn print(&self) {
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} | {} |",
            self.name,
            self.trials,
            self.ms(0.5),
            self.ms(0.99),
            self.ms(1.0),
            self.lost_of_survivors,
            self.lost_of_struck
        );
    }
}

/// What strikes the dispatcher.
#[derive(Clone, Copy, PartialEq)]
enum Strike {
    Kill,
    Stop,
    Link,
    Move,
}

impl Strike {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Kill, "killed (SIGKILL)"),
        (Self::Stop, "frozen (SIGSTOP)"),
        (Self::Link, "link down"),
        (Self::Move, "planned hand-over"),
    ];
}

fn signal(child: Option<&Child>, name: &str) -> Result<(), String> {
    sh(&format!("kill -{name} {}", child.ok_or("no such node")?.id()))
}

fn strike(cluster: &mut Cluster, clients: &mut Clients, what: Strike, row: &mut Row) -> Result<(), String> {
    let struck = cluster.whole()?;
    clients.settle()?;
    sleep(Duration::from_millis(500));
    match what {
        Strike::Kill => {
            signal(cluster.nodes[struck].as_ref(), "KILL")?;
            if let Some(mut child) = cluster.nodes[struck].take() {
                let _ = child.wait();
            }
        }
        Strike::Stop => signal(cluster.nodes[struck].as_ref(), "STOP")?,
        Strike::Link => cluster.net.link(struck, false)?,
        Strike::Move => {
            let to = (struck + 1) % NODES;
            cluster.order(&json!({"do": "move", "node": to}))?;
        }
    }
    sleep(Duration::from_millis(3_000));
    let report = clients.report()?;
    match what {
        Strike::Kill => cluster.start(struck)?,
        Strike::Stop => signal(cluster.nodes[struck].as_ref(), "CONT")?,
        Strike::Link => cluster.net.link(struck, true)?,
        Strike::Move => {}
    }
    row.add(&report, if what == Strike::Move { None } else { Some(struck) });
    Ok(())
}

/// Drains every node in turn, restarts it, and takes it back.
fn roll(cluster: &mut Cluster, clients: &mut Clients, row: &mut Row) -> Result<(), String> {
    cluster.whole()?;
    clients.settle()?;
    for node in 0..NODES {
        cluster.order(&json!({"do": "drain", "node": node}))?;
        sleep(Duration::from_millis(1_500));
        if cluster.dispatcher().is_some_and(|(dispatcher, _)| dispatcher == node) {
            return Err(format!("node {node} is drained and still dispatches"));
        }
        cluster.order(&json!({"do": "undrain", "node": node}))?;
        cluster.whole()?;
    }
    sleep(Duration::from_millis(1_000));
    row.add(&clients.report()?, None);
    Ok(())
}

pub(crate) fn experiment(trials: u64, connections: usize, table: bool) -> Result<(), String> {
    if let Some(why) = skipped() {
        println!("takeover: SKIPPED: {why}");
        return Ok(());
    }
    let mut cluster = Cluster::new()?;
    let mut clients = Clients::start(&cluster.net, &cluster.exe, connections)?;
    clients.settle()?;
    let watch = Watch::start(&cluster.net)?;
    let mut rows = Vec::new();
    Row::head();
    for (what, name) in Strike::ALL {
        let mut row = Row::new(name);
        for _ in 0..trials {
            strike(&mut cluster, &mut clients, what, &mut row)?;
        }
        row.print();
        rows.push(row);
    }
    let mut row = Row::new("all servers drained in turn");
    for _ in 0..trials.div_ceil(3) {
        roll(&mut cluster, &mut clients, &mut row)?;
    }
    row.print();
    rows.push(row);
    let seen: Seen = watch.end();
    drop(clients);
    drop(cluster);
    if table {
        match keepalived(trials) {
            Ok(rows) => rows.iter().for_each(Row::print),
            Err(why) => println!("keepalived: SKIPPED: {why}"),
        }
    }
    println!("{connections} connections; on the bridge: {seen:?}");
    judge(&rows, &seen)
}

/// VRRP between two nodes, for the same clients: the address moves with everything behind it.
fn keepalived(trials: u64) -> Result<Vec<Row>, String> {
    sh("keepalived --version")?;
    let net = Net::new(2)?;
    let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
    let folder = net.folder.display().to_string();
    let mut children = Children(Vec::new());
    let start = |node: usize| {
        let file = format!("{folder}/keepalived{node}.conf");
        let (state, priority) = if node == 0 { ("MASTER", 150) } else { ("BACKUP", 100) };
        let text = format!(
            "global_defs {{ vrrp_garp_master_delay 1 }}\nvrrp_instance a {{\nstate {state}\ninterface eth0\n\
             virtual_router_id 97\npriority {priority}\nadvert_int 1\nvirtual_ipaddress {{ {VIP}/24 }}\n}}\n"
        );
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let pid = |of: &str| format!("--{of}={folder}/{of}{node}.pid");
        let command = ["keepalived", "-n", "-l", "-P", "-f", &file, &pid("pid"), &pid("vrrp_pid")];
        net.start(&net.node(node), &command, "keepalived.log").map_err(|error| error.to_string())
    };
    for node in 0..2 {
        // A server may begin before the address comes.
        let _ = sh(&format!("ip netns exec {} sysctl -qw net.ipv4.ip_nonlocal_bind=1", net.node(node)));
        let command = [&exe[..], "serve", VIP, &node.to_string()];
        children.0.push(net.start(&net.node(node), &command, "servers.log").map_err(|error| error.to_string())?);
    }
    let (first, second) = (start(0)?, start(1)?);
    children.0.push(second);
    let mut first = Children(vec![first]);
    sleep(Duration::from_secs(5));
    let mut clients = Clients::start(&net, &exe, 100)?;
    clients.settle()?;
    let mut rows = vec![Row::new("keepalived (VRRP, 1 s): killed"), Row::new("keepalived (VRRP, 1 s): link down")];
    for _ in 0..trials {
        for (kill, row) in [true, false].into_iter().zip(&mut rows) {
            clients.settle()?;
            sleep(Duration::from_millis(500));
            if kill {
                for of in ["vrrp_pid", "pid"] {
                    let pid = std::fs::read_to_string(format!("{folder}/{of}0.pid")).unwrap_or_default();
                    let _ = sh(&format!("kill -KILL {}", pid.trim()));
                }
                // A killed daemon leaves the address on its machine, which goes on answering for it: the machine dies as well.
                net.link(0, false)?;
                first.0.iter_mut().for_each(end);
            } else {
                net.link(0, false)?;
            }
            sleep(Duration::from_secs(6));
            let report = clients.report()?;
            if kill {
                // Who notices that its other half was killed takes the address away itself.
                let _ = sh(&format!("ip -n {} address del {VIP}/24 dev eth0", net.node(0)));
                first.0 = vec![start(0)?];
            }
            net.link(0, true)?;
            row.add(&report, Some(0));
            sleep(Duration::from_secs(6));
        }
    }
    Ok(rows)
}

/// Programs that end with the value.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

fn judge(rows: &[Row], seen: &Seen) -> Result<(), String> {
    let mut wrong = Vec::new();
    if seen.late > 0 {
        wrong.push(format!("two dispatchers: {} frames of an earlier one after a later one's", seen.late));
    }
    if seen.dispatched == 0 || seen.reigns.len() < 4 {
        wrong.push(format!("the bridge saw too little: {seen:?}"));
    }
    for row in rows.iter().filter(|row| row.lost_of_survivors > 0) {
        wrong.push(format!("{}: {} connections of surviving servers lost", row.name, row.lost_of_survivors));
    }
    // The bound is for machines with other work; the goals are in the table's documentation.
    for row in rows.iter().filter(|row| row.ms(0.99) > 2_000.0) {
        wrong.push(format!("{}: nobody answered for {:.0} ms", row.name, row.ms(0.99)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
