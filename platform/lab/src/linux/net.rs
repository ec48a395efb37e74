//! Namespaces of a lab: a machine for each node, one for clients, and a switch between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::machine;
use super::sh::{feed, sh, until};

/// The cluster's address.
pub(crate) const VIP: &str = "10.98.0.100";
const CLIENT: &str = "10.98.0.200";
const CLIENT_MAC: &str = "02:98:00:00:00:c8";
/// What all namespaces of all labs begin with.
const PREFIX: &str = "apus-lab-";

/// The address of a node among its peers.
pub(crate) fn address(node: u16) -> String {
    format!("10.98.0.{}", node + 1)
}

/// The hardware address of its port.
pub(crate) fn mac(node: u16) -> String {
    format!("02:98:00:00:00:{:02x}", node + 1)
}

/// The names of a lab's namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) id: String,
    pub(crate) nodes: u16,
}

/// Frames between some ports that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Who counts them: a word.
    pub(crate) name: String,
    /// Ports they come from and go to; the clients' port is [`Net::nodes`].
    pub(crate) from: BTreeSet<u16>,
    pub(crate) to: BTreeSet<u16>,
    /// How many of a million.
    pub(crate) ppm: u32,
}

impl Net {
    fn space(&self, who: &str) -> String {
        format!("{PREFIX}{}-{who}", self.id)
    }
    pub(crate) fn node(&self, node: u16) -> String {
        self.space(&format!("n{node}"))
    }
    pub(crate) fn switch(&self) -> String {
        self.space("switch")
    }
    pub(crate) fn client(&self) -> String {
        self.space("client")
    }
    /// A node's port of the switch.
    pub(crate) fn port(&self, node: u16) -> String {
        if node == self.nodes { "client".into() } else { format!("n{node}") }
    }

    /// Makes all of it.
    pub(crate) fn make(&self) -> Result<(), String> {
        let switch = self.switch();
        sh(&["ip", "netns", "add", &switch])?;
        self.batch(
            &switch,
            "link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n",
        )?;
        sh(&["ip", "netns", "add", &self.client()])?;
        self.plug(&self.client(), &self.port(self.nodes), CLIENT_MAC, CLIENT)?;
        for node in 0..self.nodes {
            self.machine(node)?;
        }
        Ok(())
    }

    fn batch(&self, space: &str, lines: &str) -> Result<(), String> {
        feed(&["ip", "-n", space, "-batch", "-"], lines).map(drop)
    }

    fn plug(&self, space: &str, port: &str, mac: &str, address: &str) -> Result<(), String> {
        let lines = format!("link add {port} type veth peer name eth0 netns {space}\nlink set {port} master br0 up\n");
        self.batch(&self.switch(), &lines)?;
        let lines = format!("link set lo up\nlink set eth0 address {mac} up\naddress add {address}/24 dev eth0\n");
        self.batch(space, &lines)
    }

    /// Makes a node's machine: as one that has just been switched on.
    pub(crate) fn machine(&self, node: u16) -> Result<(), String> {
        let space = self.node(node);
        sh(&["ip", "netns", "add", &space])?;
        self.plug(&space, &self.port(node), &mac(node), &address(node))?;
        // The kernel has one table of neighbours for all namespaces, and it may be full.
        let mut lines = format!("neigh replace {CLIENT} lladdr {CLIENT_MAC} dev eth0 nud permanent\n");
        for other in (0..self.nodes).filter(|other| *other != node) {
            let (address, mac) = (address(other), mac(other));
            lines += &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n");
        }
        self.batch(&space, &lines)
    }

    /// Takes the power from a node's machine: nothing that it would still say gets out, and nothing of its kernel's state is left.
    pub(crate) fn power_off(&self, node: u16) -> Result<(), String> {
        self.carrier(node, false)?;
        end_all(&self.node(node))?;
        // The system takes its time to remove a namespace, and a new machine needs the port.
        sh(&["ip", "-n", &self.switch(), "link", "del", &self.port(node)])?;
        remove(&self.node(node))
    }

    pub(crate) fn carrier(&self, node: u16, up: bool) -> Result<(), String> {
        sh(&["ip", "-n", &self.switch(), "link", "set", &self.port(node), if up { "up" } else { "down" }]).map(drop)
    }

    /// Has the switch obey these rules and no other; counters begin anew.
    pub(crate) fn rules(&self, rules: &[Rule]) -> Result<(), String> {
        let mut text = String::from("table bridge lab {}\ndelete table bridge lab\ntable bridge lab {\n");
        for name in rules.iter().map(|rule| &rule.name).collect::<BTreeSet<_>>() {
            text += &format!("counter {name} {{}}\n");
        }
        text += "chain forward {\ntype filter hook forward priority 0\n";
        let ports = |ports: &BTreeSet<u16>| {
            ports.iter().map(|port| format!("\"{}\"", self.port(*port))).collect::<Vec<_>>().join(", ")
        };
        for rule in rules.iter().filter(|rule| !rule.from.is_empty() && !rule.to.is_empty()) {
            let chance = if rule.ppm >= 1_000_000 {
                String::new()
            } else {
                format!("numgen random mod 1000000 < {} ", rule.ppm)
            };
            let (from, to, name) = (ports(&rule.from), ports(&rule.to), &rule.name);
            text += &format!("iifname {{ {from} }} oifname {{ {to} }} {chance}counter name \"{name}\" drop\n");
        }
        text += "}\n}\n";
        feed(&["ip", "netns", "exec", &self.switch(), "nft", "-f", "-"], &text).map(drop)
    }

    /// Frames that each name's rules have lost since they were given.
    pub(crate) fn lost(&self) -> Result<BTreeMap<String, u64>, String> {
        let list = ["ip", "netns", "exec", &self.switch(), "nft", "list", "counters", "table", "bridge", "lab"];
        let mut lost = BTreeMap::new();
        let mut name = None;
        for line in sh(&list)?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["counter", of, "{"] => name = Some(of.to_owned()),
                ["packets", count, ..] => {
                    lost.extend(name.take().map(|name| (name, count.parse().unwrap_or(0))));
                }
                _ => {}
            }
        }
        Ok(lost)
    }
}

/// Namespaces of a lab, or of all.
pub(crate) fn spaces(id: Option<&str>) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let of = |name: &String| {
        let rest = name.strip_prefix(PREFIX)?;
        let (own, _) = rest.rsplit_once('-')?;
        (id.is_none_or(|id| id == own)).then_some(())
    };
    let mut all: Vec<String> = names.filter(|name| of(name).is_some()).collect();
    all.sort();
    all
}

/// The lab that a namespace belongs to.
pub(crate) fn lab_of(space: &str) -> Option<String> {
    let (id, _) = space.strip_prefix(PREFIX)?.rsplit_once('-')?;
    Some(id.to_owned())
}

/// Ends all that runs in a namespace.
fn end_all(space: &str) -> Result<(), String> {
    until(Duration::from_secs(5), || {
        let left = machine::pids(space);
        if left.is_empty() {
            return Ok(());
        }
        machine::signal(&left, "KILL");
        Err(format!("{space}: processes {left:?} do not end"))
    })
}

/// Ends all that runs in a namespace, and removes it.
pub(crate) fn remove(space: &str) -> Result<(), String> {
    end_all(space)?;
    if Path::new("/run/netns").join(space).exists() {
        sh(&["ip", "netns", "del", space])?;
    }
    Ok(())
}
