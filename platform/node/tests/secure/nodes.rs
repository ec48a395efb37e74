//! Nodes on addresses of the loopback, each a program of its own.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use apus_node::{Config, ask};
use serde_json::{Value, json};

use crate::wait::until;

/// Nodes at first.
pub(crate) const FIRST: usize = 3;

pub(crate) struct Nodes {
    pub(crate) folder: PathBuf,
    cluster: u8,
    third: u32,
    pub(crate) port: u16,
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
    /// A cluster of this number, which is also the second byte of its addresses.
    pub(crate) fn new(cluster: u8) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("apus-secure-{cluster}-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let free = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        Ok(Self { folder, cluster, third: std::process::id() % 250, port, running: Vec::new() })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn address(&self, node: usize) -> String {
        format!("127.{}.{}.{}", self.cluster, self.third, node + 1)
    }

    /// The configuration of one of the first nodes.
    pub(crate) fn config(&self, node: usize, lease: &str) -> String {
        let (place, port, cluster) = (self.folder.display(), self.port, self.cluster);
        let mut text = format!(
            "cluster = {cluster}\nnode = {node}\nport = {port}\nfolder = \"{place}/store{node}\"\ncontrol = \"{place}/control{node}\"\n\
             keys = \"{place}/keys/node-{node}\"\nlease = \"{lease}\"\n"
        );
        for other in 0..FIRST {
            text += &format!("[[nodes]]\nid = {other}\naddress = \"{}\"\n", self.address(other));
        }
        text + "[[services]]\nname = \"idle\"\ncommand = [\"/bin/sleep\", \"1000\"]\nstop = { grace = \"100ms\" }\n"
    }

    pub(crate) fn read(&self, file: &Path) -> Result<Config, String> {
        let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
        Config::read(&file.display().to_string(), &text).map_err(|error| error.to_string())
    }

    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let exe = std::env::current_exe().map_err(|error| error.to_string())?;
        let log = fs::File::options().create(true).append(true).open(self.file(&format!("log{node}")));
        let log = log.map_err(|error| error.to_string())?;
        let file = self.file(&format!("node{node}.toml"));
        let child = Command::new(exe).arg("node").arg(file).stdin(Stdio::null()).stderr(log).spawn();
        self.running.resize_with(self.running.len().max(node + 1), || None);
        self.running[node] = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Ends a node's daemon as `kill -9` does; its keeper goes on until its lease is over.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.running.get_mut(node).and_then(Option::take) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The process of a node's daemon.
    pub(crate) fn pid(&self, node: usize) -> Option<u32> {
        self.running.get(node)?.as_ref().map(Child::id)
    }

    /// Ends a node's program, so that nothing of it is left.
    pub(crate) fn end(&mut self, node: usize) {
        let slot = self.running.get_mut(node).and_then(Option::take);
        let Some(mut child) = slot else { return };
        let _ = child.kill();
        let _ = child.wait();
        let copy = self.file(&format!("store{node}/programs/idle.0"));
        end_keeper(&copy);
    }

    pub(crate) fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        ask(&self.file(&format!("control{node}")), question).map_err(|error| error.to_string())
    }

    pub(crate) fn status(&self, node: usize) -> Result<Value, String> {
        self.ask(node, &json!({"do": "certificates"}))
    }

    /// Waits until each of these is connected to all the others, and all see one coordinator. Gives what they say.
    pub(crate) fn whole(&self, nodes: &[usize]) -> Result<Vec<Value>, String> {
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
    pub(crate) fn idle(&self, nodes: &[usize]) -> Result<(usize, u64), String> {
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
