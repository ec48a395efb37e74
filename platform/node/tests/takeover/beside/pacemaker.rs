//! corosync and Pacemaker on the field, from Debian's packages: each node has a mount, process and host name space of its own, with empty
//! folders where they keep their state; their sockets are abstract and go with the network namespace. No fencing device, as with
//! whoever has no hardware for it: `stonith-enabled=false`.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::clock::boot_us;
use super::copy;
use super::faults::{Fault, Stack};
use super::field::{Field, NODES};
use super::processes;
use super::stop::until;
use super::tail::Tail;
use crate::cluster::end;
use crate::net::{VIP, node_address, sh};

pub(crate) const NAME: &str = "corosync (token 1 s) + Pacemaker, no fencing";
/// What corosync says when it misses a node.
const FAILED: &[&str] = &["A processor failed", "A new membership"];

/// What is a machine of its own to them; process 1 of it takes in what others leave.
const MACHINE: &str = r#"set -e
hostname n$1
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /var/log
mkdir -p /run/lock /run/crm /run/resource-agents /var/log/pacemaker /var/log/corosync /var/log/cluster
mount -t tmpfs tmpfs /var/lib/corosync
mount -t tmpfs tmpfs /var/lib/pacemaker
cd /var/lib/pacemaker
mkdir cib pengine blackbox cores
chown -R hacluster:haclient /var/lib/pacemaker /run/crm /var/log/pacemaker
chmod 750 cib pengine blackbox cores /run/crm
mount --bind $2/corosync.conf /etc/corosync/corosync.conf
cd /
touch $2/machine$1
while :; do sleep 3600 & wait $! || :; done
"#;

pub(crate) struct Pacemaker {
    /// Of each node: the machine, corosync, Pacemaker.
    programs: Vec<Vec<Child>>,
    tails: Vec<Tail>,
    copies: PathBuf,
    field: Field,
}

impl Drop for Pacemaker {
    fn drop(&mut self) {
        for node in 0..NODES {
            self.power_off(node);
        }
    }
}

impl Pacemaker {
    pub(crate) fn new() -> Result<Self, String> {
        for tool in ["corosync -v", "pacemakerd --version", "crm_mon --version", "unshare --version"] {
            sh(tool).map_err(|error| format!("{error}: install corosync pacemaker resource-agents"))?;
        }
        let field = Field::new()?;
        let copies = field.folder("copies")?;
        let log = |node: usize| field.file(&format!("corosync{node}.log"));
        let tails = (0..NODES).map(|node| Tail::new(log(node), FAILED)).collect();
        let mut made = Self { programs: (0..NODES).map(|_| Vec::new()).collect(), tails, copies, field };
        made.corosync()?;
        for node in 0..NODES {
            made.power_on(node)?;
        }
        made.configure()?;
        Ok(made)
    }

    /// The configuration of corosync, the same for all.
    fn corosync(&self) -> Result<(), String> {
        let mut text = String::from(
            "totem {\nversion: 2\ncluster_name: apus\ncrypto_cipher: none\ncrypto_hash: none\ntoken: 1000\n}\n\
             quorum {\nprovider: corosync_votequorum\n}\n\
             logging {\nto_stderr: yes\nto_syslog: no\nto_logfile: no\ntimestamp: on\n}\nnodelist {\n",
        );
        for node in 0..NODES {
            let address = node_address(node);
            text += &format!("node {{\nring0_addr: {address}\nname: n{node}\nnodeid: {}\n}}\n", node + 1);
        }
        text += "}\n";
        std::fs::write(self.field.file("corosync.conf"), text).map_err(|error| error.to_string())
    }

    fn power_on(&mut self, node: usize) -> Result<(), String> {
        let folder = self.field.net.folder.display().to_string();
        let up = self.field.file(&format!("machine{node}"));
        let _ = std::fs::remove_file(&up);
        let place = self.field.net.node(node);
        let own = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let more = ["--propagation", "private", "bash", "-c", MACHINE, "machine", &node.to_string(), &folder];
        let machine = self.field.start(&place, &[&own[..], &more].concat(), &format!("machine{node}.log"))?;
        self.programs[node].push(machine);
        until(
            10,
            "a machine",
            || if up.exists() { Ok(()) } else { Err(format!("node {node}: see machine{node}.log")) },
        )?;
        let corosync = self.enter(node, &["corosync", "-f"], &format!("corosync{node}.log"))?;
        self.programs[node].push(corosync);
        until(10, "corosync", || self.within(node, &["corosync-quorumtool", "-i"]).map(drop).or_else(joined))?;
        let log = format!("PCMK_logfile={folder}/pacemaker{node}.log");
        let pacemaker = self.enter(node, &["env", &log, "pacemakerd", "-f"], &format!("pacemakerd{node}.log"))?;
        self.programs[node].push(pacemaker);
        Ok(())
    }

    fn power_off(&mut self, node: usize) {
        // Its first process takes all others with it.
        let first = self.first(node);
        processes::signal(&first.into_iter().collect::<Vec<_>>(), "KILL");
        self.programs[node].iter_mut().for_each(end);
        self.programs[node].clear();
    }

    /// The first process of a machine.
    fn first(&self, node: usize) -> Option<u32> {
        let pid = self.programs[node].first()?.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    fn entering(&self, node: usize) -> Result<Vec<String>, String> {
        let pid = self.first(node).ok_or("the machine is off")?;
        let words = ["nsenter", "-t", &pid.to_string(), "-m", "-u", "-p", "-n", "--"].map(str::to_owned);
        Ok(words.to_vec())
    }

    fn enter(&self, node: usize, command: &[&str], log: &str) -> Result<Child, String> {
        let entering = self.entering(node)?;
        let words: Vec<&str> = entering.iter().map(String::as_str).chain(command.iter().copied()).collect();
        self.field.start(&self.field.net.node(node), &words, log)
    }

    /// Runs a command to its end, on a node.
    fn within(&self, node: usize, command: &[&str]) -> Result<String, String> {
        let entering = self.entering(node)?;
        let output = Command::new(&entering[0]).args(&entering[1..]).args(command).output();
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(format!("{}: {} {}", command.join(" "), text(&output.stdout), text(&output.stderr)))
    }

    fn configure(&self) -> Result<(), String> {
        self.online(0, 60)?;
        let property = |name: &str, value: &str| {
            self.within(0, &["crm_attribute", "-t", "crm_config", "-n", name, "-v", value]).map(drop)
        };
        property("stonith-enabled", "false")?;
        property("dc-deadtime", "2s")?;
        self.within(0, &["crm_attribute", "-t", "rsc_defaults", "-n", "resource-stickiness", "-v", "100"])?;
        let primitive = |id: &str, kind: &str, monitor: &str, attributes: &[(&str, &str)]| {
            let mut pairs = String::new();
            for (name, value) in attributes {
                pairs += &format!("<nvpair id=\"{id}-{name}\" name=\"{name}\" value=\"{value}\"/>");
            }
            let text = format!(
                "<primitive id=\"{id}\" class=\"ocf\" provider=\"heartbeat\" type=\"{kind}\">\
                 <instance_attributes id=\"{id}-a\">{pairs}</instance_attributes>\
                 <operations><op id=\"{id}-m\" name=\"monitor\" interval=\"{monitor}\" timeout=\"20s\"/></operations></primitive>"
            );
            self.within(0, &["cibadmin", "-o", "resources", "-C", "-X", &text]).map(drop)
        };
        primitive("vip", "IPaddr2", "10s", &[("ip", VIP), ("cidr_netmask", "24"), ("nic", "eth0")])?;
        let words = format!("copy {}", self.copies.display());
        primitive("copy", "anything", "1s", &[("binfile", &self.field.exe), ("cmdline_options", &words)])?;
        let together = "<rsc_colocation id=\"together\" rsc=\"copy\" with-rsc=\"vip\" score=\"INFINITY\"/>";
        self.within(0, &["cibadmin", "-o", "constraints", "-C", "-X", together]).map(drop)
    }

    /// Waits until all are members, by a node's word.
    fn online(&self, node: usize, seconds: u64) -> Result<(), String> {
        until(seconds, "not all nodes are online", || {
            let text = self.within(node, &["crm_mon", "-1"])?;
            if text.contains("Online: [ n0 n1 n2 ]") { Ok(()) } else { Err(text) }
        })
    }
}

/// `corosync-quorumtool` fails without a quorum too, and then it has been answered.
fn joined(error: String) -> Result<(), String> {
    if error.contains("Cannot initialize") { Err(error) } else { Ok(()) }
}

impl Stack for Pacemaker {
    fn name(&self) -> &'static str {
        NAME
    }
    fn field(&mut self) -> &mut Field {
        &mut self.field
    }
    fn see(&self) -> &Field {
        &self.field
    }
    fn tails(&self) -> &[Tail] {
        &self.tails
    }
    fn copies(&self) -> Option<&PathBuf> {
        Some(&self.copies)
    }
    fn keeps(&self) -> Duration {
        Duration::from_secs(8)
    }
    fn daemons(&self, node: usize) -> Vec<u32> {
        let all = processes::all(&self.field.net.node(node));
        let is = |pid: &u32| {
            let name = processes::name(*pid);
            name == "corosync" || name.starts_with("pacemaker")
        };
        all.into_iter().filter(is).collect()
    }

    fn settle(&mut self) -> Result<usize, String> {
        until(60, "no single owner", || {
            let holders = self.field.holders();
            let [one] = holders[..] else { return Err(format!("owners {holders:?}")) };
            let alive = copy::lives(&self.copies, boot_us().saturating_sub(60_000)).len();
            if alive != 1 {
                return Err(format!("{alive} copies live"));
            }
            self.online(one, 0)?;
            Ok(one)
        })
    }

    fn hand_over(&mut self, from: usize) -> Result<(), String> {
        let to = format!("n{}", (from + 1) % NODES);
        self.within(from, &["crm_resource", "--move", "--resource", "vip", "--node", &to]).map(drop)
    }

    fn revive(&mut self, node: usize, fault: Fault) -> Result<(), String> {
        match fault {
            // Its operator switches it off and on, as what it left running is not known to anybody.
            Fault::Kill => {
                self.power_off(node);
                self.field.strip(node);
                self.power_on(node)
            }
            Fault::Move => {
                // The order is a rule that would hold for ever.
                self.settle()?;
                self.within(node, &["crm_resource", "--clear", "--resource", "vip"]).map(drop)
            }
            Fault::Program => self.within(node, &["crm_resource", "--cleanup"]).map(drop),
            _ => Ok(()),
        }
    }
}
