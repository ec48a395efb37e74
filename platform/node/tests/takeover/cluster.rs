//! Five nodes and their servers in namespaces, and the clients in front of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};
use std::thread::sleep;
use std::time::Duration;

use apus_node::{Config, ask, init};
use serde_json::{Value, json};

use crate::net::{Net, VIP, clients, sh};
use crate::wait::until;

pub(crate) const NODES: usize = 5;

/// Undoes what a killed node has left.
pub(crate) fn clear(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let config = Config::read(file, &text).map_err(|error| error.to_string())?;
    apus_node::clear(&config).map_err(|error| error.to_string())
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) exe: String,
    pub(crate) nodes: Vec<Option<Child>>,
    servers: Vec<Option<Child>>,
    /// Who does not answer at the moment.
    pub(crate) away: Option<usize>,
}

/// Asks one node after the other until one can; else why the last could not.
pub(crate) fn any(nodes: usize, ask: impl Fn(usize) -> Result<Value, String>) -> Result<(), String> {
    let mut last = String::new();
    for node in 0..nodes {
        match ask(node) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether so many servers have slots in a node's table.
pub(crate) fn all_serve(node: usize, servers: usize, table: &Value) -> Result<(), String> {
    let all = table["servers"].as_array().cloned().unwrap_or_default();
    let serve = all.len() >= servers && all.iter().all(|server| server["slots"] != 0);
    if serve { Ok(()) } else { Err(format!("node {node}: {table}")) }
}

pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn signal(child: Option<&Child>, name: &str) -> Result<(), String> {
    sh(&format!("kill -{name} {}", child.ok_or("no such program")?.id()))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().chain(&mut self.servers).flatten().for_each(end);
    }
}

impl Cluster {
    /// With this data plane, or with the one that is chosen; nodes speak this wire version at most.
    pub(crate) fn new(plane: Option<&str>, wire: u8) -> Result<Self, String> {
        let mut net = Net::new(NODES)?;
        net.plane = plane.map(str::to_owned);
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        let mut cluster = Self { net, exe, nodes: Vec::new(), servers: Vec::new(), away: None };
        for node in 0..NODES {
            let config = cluster.config(node, wire)?;
            init(&config).map_err(|error| error.to_string())?;
            cluster.nodes.push(None);
            cluster.start(node)?;
            cluster.servers.push(None);
            cluster.serve(node)?;
        }
        cluster.whole()?;
        Ok(cluster)
    }

    /// Writes a node's file: from its next start on it speaks this wire version.
    pub(crate) fn config(&self, node: usize, wire: u8) -> Result<Config, String> {
        let file = self.net.config(node, wire)?;
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        Config::read(&file, &text).map_err(|error| error.to_string())
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.net.folder.join(name).display().to_string()
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let file = self.file(&format!("node{node}.toml"));
        let command = [&self.exe[..], "node", &file];
        let child = self.net.start(&self.net.node(node), &command, &format!("node{node}.log"));
        self.nodes[node] = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Ends a daemon at once, or in order.
    pub(crate) fn stop(&mut self, node: usize, name: &str) -> Result<(), String> {
        signal(self.nodes[node].as_ref(), name)?;
        let mut child = self.nodes[node].take().ok_or("it does not run")?;
        child.wait().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Starts a node's server.
    pub(crate) fn serve(&mut self, node: usize) -> Result<(), String> {
        let command = [&self.exe[..], "serve", VIP, &node.to_string()];
        let server = self.net.start(&self.net.node(node), &command, "servers.log");
        self.servers[node] = Some(server.map_err(|error| error.to_string())?);
        Ok(())
    }

    pub(crate) fn end_server(&mut self, node: usize) {
        self.servers[node].iter_mut().for_each(end);
        self.servers[node] = None;
    }

    pub(crate) fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        if self.away == Some(node) {
            return Err(format!("node {node} is away"));
        }
        ask(&self.net.folder.join(format!("control{node}")), question).map_err(|error| error.to_string())
    }

    pub(crate) fn status(&self, node: usize) -> Value {
        self.ask(node, &json!({"do": "status"})).unwrap_or_default()
    }

    /// Asks any node.
    pub(crate) fn order(&self, question: &Value) -> Result<(), String> {
        until(5, "an order", || any(NODES, |node| self.ask(node, question)))
    }

    /// The dispatcher, by its own word, and the coordinator, by the dispatcher's.
    pub(crate) fn dispatcher(&self) -> Result<(usize, usize), String> {
        let found = (0..NODES).find_map(|node| {
            let status = self.status(node);
            let dispatches = status["dispatches"] == true && status["dispatcher"] == node;
            let coordinator = status["coordinator"].as_u64().and_then(|node| usize::try_from(node).ok());
            dispatches.then_some(node).zip(coordinator)
        });
        found.ok_or_else(|| "nobody dispatches".into())
    }

    /// Waits until every node serves, in every table.
    pub(crate) fn whole(&self) -> Result<(), String> {
        until(30, "the cluster is not whole", || {
            for node in 0..NODES {
                all_serve(node, NODES, &self.ask(node, &json!({"do": "table"}))?)?;
            }
            self.dispatcher().map(|_| ())
        })
    }

    /// Brings dispatcher and coordinator into one node, or apart.
    pub(crate) fn place(&self, together: bool) -> Result<(usize, usize), String> {
        until(10, "the dispatcher's place", || {
            let (dispatcher, coordinator) = self.dispatcher()?;
            if (dispatcher == coordinator) == together {
                return Ok((dispatcher, coordinator));
            }
            let to = if together { coordinator } else { (coordinator + 1) % NODES };
            self.order(&json!({"do": "move", "node": to}))?;
            sleep(Duration::from_millis(100));
            Err(format!("{dispatcher} dispatches, {coordinator} coordinates"))
        })
    }
}

pub(crate) struct Clients {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Whose connections may break.
    pub(crate) struck: Option<usize>,
    /// Does not tell of each connection that is lost.
    pub(crate) quiet: bool,
}

impl Drop for Clients {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Connections that broke: of servers that were not struck, and of the one that was.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lost {
    pub(crate) others: usize,
    /// Of the servers that were struck, and how many connections these had.
    pub(crate) struck: usize,
    pub(crate) had: u64,
}

impl Clients {
    pub(crate) fn start(net: &Net, exe: &str, many: usize) -> Result<Self, String> {
        let command = [exe, "load", VIP, &clients().join(","), &many.to_string()];
        let mut child = net.start(&net.client(), &command, "load.log").map_err(|error| error.to_string())?;
        let to = child.stdin.take().ok_or("no standard input")?;
        let from = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, to, from, struck: None, quiet: false })
    }

    pub(crate) fn say(&mut self, word: &str) -> Result<(), String> {
        writeln!(self.to, "{word}").map_err(|error| format!("clients: {error}"))
    }

    pub(crate) fn report(&mut self) -> Result<Value, String> {
        self.say("report")?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| format!("clients: {error}: {line}"))
    }

    /// Counts what is broken, and has it connected again.
    pub(crate) fn count(&mut self, name: &str) -> Result<Lost, String> {
        let report = self.report()?;
        let mut lost = Lost::default();
        for broken in report["broken"].as_array().into_iter().flatten() {
            if self.struck.is_some() && broken["server"].as_u64() == self.struck.map(|struck| struck as u64) {
                lost.struck += 1;
            } else {
                if !self.quiet {
                    eprintln!("{name}: lost {broken}");
                }
                lost.others += 1;
            }
        }
        let struck = self.struck.map(|struck| struck.to_string()).unwrap_or_default();
        self.say(format!("renew {struck}").trim())?;
        Ok(lost)
    }

    /// Waits until everybody is connected and has been answered; tells what broke meanwhile.
    pub(crate) fn settle(&mut self, name: &str) -> Result<Lost, String> {
        let mut all = Lost::default();
        until(30, "clients do not settle", || {
            let lost = self.count(name)?;
            all = Lost { others: all.others + lost.others, struck: all.struck + lost.struck, had: 0 };
            let report = self.report()?;
            let calm = report["broken"].as_array().is_some_and(Vec::is_empty)
                && report["late"].as_object().is_some_and(serde_json::Map::is_empty)
                && report["servers"].get("none").is_none()
                && report["silent_us"].as_u64() < Some(crate::strike::CALM);
            if calm { Ok(()) } else { Err(format!("{} {} {}", report["broken"], report["late"], report["servers"])) }
        })?;
        self.struck = None;
        Ok(all)
    }
}
