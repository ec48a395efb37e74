//! Namespaces: a bridge, nodes, a client. They are gone with the value, whatever happened.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The cluster's address, and those of nodes and clients.
pub(crate) const VIP: &str = "10.97.0.100";
pub(crate) fn node_address(node: usize) -> String {
    format!("10.97.0.{}", node + 1)
}
pub(crate) fn node_mac(node: usize) -> String {
    format!("02:97:00:00:00:{:02x}", node + 1)
}
const CLIENT_MAC: &str = "02:97:00:00:00:c8";
const CLIENTS: std::ops::Range<u8> = 200..208;
pub(crate) fn clients() -> Vec<String> {
    CLIENTS.map(|last| format!("10.97.0.{last}")).collect()
}

pub(crate) struct Net {
    pub(crate) nodes: usize,
    pub(crate) folder: PathBuf,
    /// The data plane that nodes are asked to have.
    pub(crate) plane: Option<String>,
    names: Vec<String>,
}

/// Runs a command to its end.
pub(crate) fn sh(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Result<Self, String> {
        let pid = std::process::id();
        let folder = std::env::temp_dir().join(format!("apus-takeover-{pid}"));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut net = Self { nodes, folder, plane: None, names: Vec::new() };
        for name in (0..nodes).map(|node| format!("n{node}")).chain(["br".into(), "c".into()]) {
            let name = format!("apus-{name}-{pid}");
            sh(&format!("ip netns add {name}"))?;
            net.names.push(name.clone());
            sh(&format!("ip -n {name} link set lo up"))?;
        }
        let bridge = net.bridge();
        sh(&format!("ip -n {bridge} link add br0 type bridge forward_delay 0 mcast_snooping 0"))?;
        sh(&format!("ip -n {bridge} link set br0 up"))?;
        for node in 0..nodes {
            net.attach(&net.node(node), &format!("v{node}"), &node_mac(node))?;
            sh(&format!("ip -n {} address add {}/24 dev eth0", net.node(node), node_address(node)))?;
        }
        net.attach(&net.client(), "vc", CLIENT_MAC)?;
        for address in clients() {
            sh(&format!("ip -n {} address add {address}/24 dev eth0", net.client()))?;
        }
        // The kernel has one table of neighbours for all namespaces, and it may be full.
        for node in 0..nodes {
            let of = net.node(node);
            for other in (0..nodes).filter(|other| *other != node) {
                let (address, mac) = (node_address(other), node_mac(other));
                sh(&format!("ip -n {of} neigh replace {address} lladdr {mac} dev eth0 nud permanent"))?;
            }
            for address in clients() {
                sh(&format!("ip -n {of} neigh replace {address} lladdr {CLIENT_MAC} dev eth0 nud permanent"))?;
            }
        }
        Ok(net)
    }

    fn attach(&self, to: &str, port: &str, mac: &str) -> Result<(), String> {
        let bridge = self.bridge();
        sh(&format!("ip -n {bridge} link add {port} type veth peer name eth0 netns {to}"))?;
        sh(&format!("ip -n {bridge} link set {port} master br0 up"))?;
        sh(&format!("ip -n {to} link set eth0 address {mac} up"))
    }

    /// Makes one more namespace, for who looks on.
    pub(crate) fn aside(&mut self, who: &str) -> Result<String, String> {
        let name = format!("apus-{who}-{}", std::process::id());
        sh(&format!("ip netns add {name}"))?;
        self.names.push(name.clone());
        sh(&format!("ip -n {name} link set lo up"))?;
        Ok(name)
    }
    /// All namespaces.
    pub(crate) fn all(&self) -> &[String] {
        &self.names
    }
    pub(crate) fn node(&self, node: usize) -> String {
        self.names[node].clone()
    }
    pub(crate) fn bridge(&self) -> String {
        self.names[self.nodes].clone()
    }
    pub(crate) fn client(&self) -> String {
        self.names[self.nodes + 1].clone()
    }

    pub(crate) fn link(&self, node: usize, up: bool) -> Result<(), String> {
        let state = if up { "up" } else { "down" };
        sh(&format!("ip -n {} link set v{node} {state}", self.bridge()))
    }

    /// What comes from a node, and what goes to it, is lost in the bridge, with the carrier up: all of it, or what nodes say
    /// to each other.
    pub(crate) fn cut(&self, node: usize, all: bool) -> Result<(), String> {
        let (from, to) =
            if all { ("", "") } else { ("ip daddr 10.97.0.1-10.97.0.99 ", "ip saddr 10.97.0.1-10.97.0.99 ") };
        let rules = format!(
            "table netdev cut {{\nchain from {{ type filter hook ingress device \"v{node}\" priority 0;\n{from}drop\n}}\n\
             chain to {{ type filter hook egress device \"v{node}\" priority 0;\n{to}drop\n}}\n}}\n"
        );
        let file = self.folder.join("cut.nft").display().to_string();
        std::fs::write(&file, rules).map_err(|error| error.to_string())?;
        sh(&format!("ip netns exec {} nft -f {file}", self.bridge()))
    }
    pub(crate) fn mend(&self) -> Result<(), String> {
        sh(&format!("ip netns exec {} nft delete table netdev cut", self.bridge()))
    }

    /// Starts a program in a namespace.
    pub(crate) fn start(&self, namespace: &str, command: &[&str], log: &str) -> io::Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join(log))?;
        Command::new("ip")
            .args(["netns", "exec", namespace])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
    }

    /// The configuration of a node that speaks this wire version at most, in a file.
    pub(crate) fn config(&self, node: usize, wire: u8) -> Result<String, String> {
        let folder = self.folder.display();
        let mut text = format!(
            "cluster = 97\nnode = {node}\nfolder = \"{folder}/store{node}\"\ncontrol = \"{folder}/control{node}\"\n"
        );
        for other in 0..self.nodes {
            let (address, mac) = (node_address(other), node_mac(other));
            text += &format!("[[nodes]]\nid = {other}\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
        text += &format!("[vip]\nv4 = \"{VIP}\"\ninterface = \"eth0\"\nkey = \"ports\"\nlog2_slots = 14\nseed = 97\n");
        if let Some(plane) = &self.plane {
            text += &format!("plane = \"{plane}\"\n");
        }
        text += &format!("[knobs]\nwire_version = {wire}\n");
        let path = self.folder.join(format!("node{node}.toml"));
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path.display().to_string())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = sh(&format!("ip netns del {name}"));
        }
        if std::env::var_os("APUS_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
