//! What an operator does, in order.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use apus_engine::NodeId;
use apus_node::cluster::{self, NewNode};
use apus_node::{Config, ask, init};
use serde_json::{Value, json};

use crate::wait::until;

/// Nodes at first.
const FIRST: usize = 3;

struct Nodes {
    folder: PathBuf,
    third: u32,
    port: u16,
    running: Vec<Option<Child>>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let failed = std::env::var_os("APUS_KEEP").is_some();
        for node in 0..self.running.len() {
            self.end(node);
        }
        if !failed {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Nodes {
    fn new() -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("apus-secure-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        Ok(Self { folder, third: std::process::id() % 250, port, running: Vec::new() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn address(&self, node: usize) -> String {
        format!("127.99.{}.{}", self.third, node + 1)
    }

    /// The configuration of one of the first nodes.
    fn config(&self, node: usize) -> String {
        let (place, port) = (self.folder.display(), self.port);
        let mut text = format!(
            "cluster = 99\nnode = {node}\nport = {port}\nfolder = \"{place}/store{node}\"\ncontrol = \"{place}/control{node}\"\n\
             keys = \"{place}/keys/node-{node}\"\nlease = \"5s\"\n"
        );
        for other in 0..FIRST {
            text += &format!("[[nodes]]\nid = {other}\naddress = \"{}\"\n", self.address(other));
        }
        text + "[[services]]\nname = \"idle\"\ncommand = [\"/bin/sleep\", \"1000\"]\nstop = { grace = \"100ms\" }\n"
    }

    fn read(&self, file: &Path) -> Result<Config, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        Config::read(&file.display().to_string(), &text).map_err(|error| error.to_string())
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let exe = std::env::current_exe().map_err(|error| error.to_string())?;
        let log = fs::File::options().create(true).append(true).open(self.file(&format!("log{node}")));
        let log = log.map_err(|error| error.to_string())?;
        let file = self.file(&format!("node{node}.toml"));
        let child = Command::new(exe).arg("node").arg(file).stdin(Stdio::null()).stderr(log).spawn();
        self.running.resize_with(self.running.len().max(node + 1), || None);
        self.running[node] = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Ends a node's program, so that nothing of it is left.
    fn end(&mut self, node: usize) {
        let slot = self.running.get_mut(node).and_then(Option::take);
        let Some(mut child) = slot else { return };
        let _ = child.kill();
        let _ = child.wait();
        let copy = self.file(&format!("store{node}/programs/idle.0"));
        end_keeper(&copy);
    }

    fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        ask(&self.file(&format!("control{node}")), question).map_err(|error| error.to_string())
    }

    fn status(&self, node: usize) -> Result<Value, String> {
        self.ask(node, &json!({"do": "certificates"}))
    }

    /// Waits until each of these is connected to all the others, and all see one coordinator. Gives what they say.
    fn whole(&self, nodes: &[usize]) -> Result<Vec<Value>, String> {
        until(20, "the cluster is whole", || {
            let all: Result<Vec<Value>, String> = nodes.iter().map(|node| self.status(*node)).collect();
            let all = all?;
            for (node, status) in nodes.iter().zip(&all) {
                let others: Vec<usize> = nodes.iter().copied().filter(|other| other != node).collect();
                let known = status["nodes"].as_array().map_or(0, Vec::len);
                let is_whole = status["cluster"]["connected"] == json!(others)
                    && known == nodes.len()
                    && status["coordinator"].is_u64()
                    && status["coordinator"] == all[0]["coordinator"];
                if !is_whole {
                    return Err(format!("node {node}: {status}"));
                }
            }
            Ok(all)
        })
    }

    /// Which process runs the service, and where.
    fn idle(&self, nodes: &[usize]) -> Result<(usize, u64), String> {
        until(20, "the service runs", || {
            for node in nodes {
                let services = self.ask(*node, &json!({"do": "services"}))?;
                let rows = services["services"].as_array().cloned().unwrap_or_default();
                if let Some(pid) = rows.iter().find(|row| row["state"] == "ready").and_then(|row| row["pid"].as_u64()) {
                    return Ok((*node, pid));
                }
            }
            Err("nowhere".into())
        })
    }
}

/// Tells a keeper to end, with its copy.
fn end_keeper(folder: &Path) {
    use apus_os::program::{Order, VERSION, encode_order};
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(folder.join("socket")) else { return };
    let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
    for order in [Order::Hello { version: VERSION }, Order::Stop { op: 1, grace: 0 }, Order::Leave] {
        let _ = stream.write_all(&encode_order(&order));
    }
    let mut bytes = [0; 4_096];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
    let _ =
        until(
            5,
            "its warden has ended",
            || if folder.join("socket").exists() { Err("not yet".into()) } else { Ok(()) },
        );
}

fn check(holds: bool, what: &str, status: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what}: {status}")) }
}

fn serials(all: &[Value]) -> Vec<u64> {
    all.iter().map(|status| status["cluster"]["serial"].as_u64().unwrap_or_default()).collect()
}

pub(crate) fn tell() -> Result<(), String> {
    let began = Instant::now();
    let mut nodes = Nodes::new()?;
    let told = story(&mut nodes, began);
    if told.is_err() {
        for node in 0..=FIRST {
            let log = fs::read_to_string(nodes.file(&format!("log{node}"))).unwrap_or_default();
            eprintln!("node {node}:\n{log}");
        }
    }
    told
}

fn story(nodes: &mut Nodes, began: Instant) -> Result<(), String> {
    let done = |what: &str| println!("test {what} ... ok (at {} ms)", began.elapsed().as_millis());
    let text = |error: apus_node::Error| error.to_string();
    for node in 0..FIRST {
        fs::write(nodes.file(&format!("node{node}.toml")), nodes.config(node)).map_err(|error| error.to_string())?;
    }
    // Without certificates a node that is to have some does not start.
    let first = nodes.read(&nodes.file("node0.toml"))?;
    init(&first).map_err(text)?;
    let error = apus_node::run(&first, |_| {}).map_err(text);
    check(
        error.as_ref().is_err_and(|error| error.contains("no certificate")),
        "it starts",
        &json!(format!("{error:?}")),
    )?;
    let keys = nodes.file("keys");
    cluster::init(&first, Some(&keys), 90).map_err(text)?;
    let again = cluster::init(&first, Some(&keys), 90).map_err(text);
    check(again.is_err_and(|error| error.contains("there are keys already")), "twice", &json!(null))?;
    for node in 0..FIRST {
        if node > 0 {
            init(&nodes.read(&nodes.file(&format!("node{node}.toml")))?).map_err(text)?;
        }
        nodes.start(node)?;
    }
    let all = nodes.whole(&[0, 1, 2])?;
    check(all.iter().all(|status| status["cluster"]["transport"] == "quic"), "by QUIC", &all[0])?;
    let (place, pid) = nodes.idle(&[0, 1, 2])?;
    done("three nodes speak by certificates");

    // Everything changes while a program runs and a node coordinates: neither notices.
    let before = serials(&all);
    for (what, authorities) in [("node", 1), ("install", 2), ("use", 2), ("remove", 1)] {
        // Refused while somebody does not show what the step before has given it.
        until(20, what, || nodes.ask(0, &json!({"do": "rotate", "what": what})))?;
        until(20, what, || {
            let all = nodes.whole(&[0, 1, 2])?;
            for status in &all {
                let many = status["cluster"]["authorities_days_left"].as_array().map_or(0, Vec::len);
                check(many == authorities, "authorities", status)?;
            }
            let is_new = serials(&all).iter().zip(&before).all(|(now, before)| now > before);
            check(is_new, "new certificates", &json!(serials(&all)))
        })?;
        check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    }
    done("certificates and their authority change without a stop");

    let answer = nodes.ask(0, &json!({"do": "token", "life": 60}))?;
    let word = answer["token"].as_str().ok_or("no token")?.to_owned();
    let (file, store) = (nodes.file("node3.toml"), nodes.file("store3"));
    let address = nodes.address(3).parse().ok();
    let new = NewNode { node: None, address, mac: [0; 6], weight: 1 };
    let config = cluster::join(&word, &file, &store, &new).map_err(text)?;
    check(config.me == NodeId(3) && config.services.len() == 1, "it is node 3", &json!(config.me.0))?;
    let other = nodes.file("node4.toml");
    let twice = cluster::join(&word, &other, &nodes.file("store4"), &new).map_err(text);
    check(twice.as_ref().is_err_and(|error| error.contains("it was used")), "twice", &json!(twice.err()))?;
    let joined = fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let control = format!("control = \"{}\"\n{joined}", nodes.file("control3").display());
    fs::write(&file, control).map_err(|error| error.to_string())?;
    nodes.start(3)?;
    nodes.whole(&[0, 1, 2, 3])?;
    check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    done("a node joins with a token, once");

    let order = json!({"do": "leave", "node": 3});
    nodes.ask(1, &order)?;
    let refused = |node| -> Result<u64, String> {
        let status = nodes.status(node)?;
        let count = |why: &str| status["cluster"]["refused"][why].as_u64().unwrap_or_default();
        Ok(count("revoked") + count("no_member"))
    };
    let all = nodes.whole(&[0, 1, 2])?;
    check(nodes.ask(1, &order).is_err(), "it leaves twice", &all[1])?;
    until(10, "who has left is refused", || {
        let counts = [refused(0)?, refused(1)?, refused(2)?];
        check(counts.iter().all(|count| *count > 0), "refused", &json!(counts))
    })?;
    nodes.whole(&[0, 1, 2])?;
    check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    done("a node that has left is refused by all");
    Ok(())
}
