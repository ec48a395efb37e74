//! The field on which all stacks stand alike: three nodes, each behind a switch of its own with somebody who asks it, the switches
//! joined by another, where the client is. nginx and a small server run on every node all the time: managers move the address only.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::asker::Answers;
use super::stop::until;
use super::{cgroup, processes};
use crate::cluster::end;
use crate::net::{Net, VIP, clients, node_mac, sh};
use crate::peers;

pub(crate) const NODES: usize = 3;
/// Those who ask, and a network of just them.
const ASKERS: &str = "10.97.0.220/30";
fn asker(node: usize) -> String {
    format!("10.97.0.{}", 220 + node)
}
fn asker_mac(node: usize) -> String {
    format!("02:97:00:00:01:{:02x}", node + 1)
}

pub(crate) struct Field {
    pub(crate) net: Net,
    pub(crate) exe: String,
    pub(crate) answers: Answers,
    askers: Vec<Child>,
    programs: Vec<Child>,
    probe: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Field {
    fn drop(&mut self) {
        self.askers.iter_mut().chain(&mut self.programs).chain([&mut self.probe]).for_each(end);
        for space in self.net.all() {
            let left = processes::end_all(space);
            if !left.is_empty() {
                eprintln!("{space}: processes {left:?} do not end");
            }
        }
        cgroup::feed(&group());
    }
}

fn group() -> String {
    format!("failover-{}", std::process::id())
}

impl Field {
    pub(crate) fn new() -> Result<Self, String> {
        let mut net = Net::new(NODES)?;
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        match Self::fill(&mut net, &exe) {
            Ok((answers, askers, programs, mut probe)) => {
                let to = probe.stdin.take().ok_or("no standard input")?;
                let from = BufReader::new(probe.stdout.take().ok_or("no standard output")?);
                Ok(Self { net, exe, answers, askers, programs, probe, to, from })
            }
            Err(error) => {
                net.all().iter().for_each(|space| drop(processes::end_all(space)));
                Err(error)
            }
        }
    }

    /// Who asks, who answers, and the client.
    fn fill(net: &mut Net, exe: &str) -> Result<(Answers, Vec<Child>, Vec<Child>, Child), String> {
        let bridge = net.bridge();
        let mut askers = Vec::new();
        for node in 0..NODES {
            let place = net.node(node);
            sh(&format!("ip -n {bridge} link add b{node} type bridge forward_delay 0 mcast_snooping 0"))?;
            sh(&format!("ip -n {bridge} link set b{node} up"))?;
            sh(&format!("ip -n {bridge} link set v{node} nomaster"))?;
            sh(&format!("ip -n {bridge} link set v{node} master b{node}"))?;
            sh(&format!("ip -n {bridge} link add s{node} type veth peer name u{node}"))?;
            sh(&format!("ip -n {bridge} link set s{node} master b{node} up"))?;
            sh(&format!("ip -n {bridge} link set u{node} master br0 up"))?;
            let beside = net.aside(&format!("o{node}"))?;
            sh(&format!("ip -n {bridge} link add w{node} type veth peer name eth0 netns {beside}"))?;
            sh(&format!("ip -n {bridge} link set w{node} master b{node} up"))?;
            sh(&format!("ip -n {beside} link set eth0 address {} up", asker_mac(node)))?;
            sh(&format!("ip -n {beside} address add {}/24 dev eth0", asker(node)))?;
            // Whoever else has it, it asks this one.
            sh(&format!("ip -n {beside} neigh replace {VIP} lladdr {} dev eth0 nud permanent", node_mac(node)))?;
            for other in 0..NODES {
                let (address, mac) = (asker(other), asker_mac(other));
                sh(&format!("ip -n {place} neigh replace {address} lladdr {mac} dev eth0 nud permanent"))?;
            }
            sh(&format!("ip netns exec {place} sysctl -qw net.ipv4.ip_nonlocal_bind=1"))?;
            askers.push(beside);
        }
        let net = &*net;
        let answers = Answers::start(net, ASKERS)?;
        let mut programs = Vec::new();
        for node in 0..NODES {
            let place = net.node(node);
            let folder = net.folder.join(format!("nginx{node}")).display().to_string();
            let file = peers::conf(&folder, node)?;
            programs.push(launch(net, &place, &["nginx", "-c", &file, "-p", &folder], &format!("nginx{node}.log"))?);
            let serve = [exe, "serve", VIP, &node.to_string()];
            programs.push(launch(net, &place, &serve, "servers.log")?);
        }
        let asking = (0..)
            .zip(&askers)
            .map(|(node, place): (usize, _)| launch(net, place, &[exe, "ask", &node.to_string()], "askers.log"));
        let askers = asking.collect::<Result<Vec<_>, _>>()?;
        let target = format!("{VIP}:{}", peers::PORT);
        let command = [exe, "probe", &target, &clients().join(",")];
        let probe = net.start(&net.client(), &command, "probe.log").map_err(|error| error.to_string())?;
        Ok((answers, askers, programs, probe))
    }

    /// Starts a program in a namespace; what it says goes to a file.
    pub(crate) fn start(&self, place: &str, command: &[&str], log: &str) -> Result<Child, String> {
        launch(&self.net, place, command, log)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.net.folder.join(name)
    }

    /// A folder, made if it is not there.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.file(name);
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        Ok(folder)
    }

    pub(crate) fn say(&mut self, word: &str) -> Result<(), String> {
        writeln!(self.to, "{word}").map_err(|error| format!("the client: {error}"))
    }

    pub(crate) fn report(&mut self) -> Result<Value, String> {
        self.say("report")?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| format!("the client: {error}: {line}"))
    }

    /// Nobody asks for the address, or all do again.
    pub(crate) fn ask(&mut self, on: bool) -> Result<(), String> {
        let pids: Vec<u32> = self.askers.iter().map(Child::id).collect();
        processes::signal(&pids, if on { "CONT" } else { "STOP" });
        self.say(if on { "go" } else { "pause" })
    }

    /// What comes from a node, and with `both` what goes to it, is lost between the switches.
    pub(crate) fn cut(&self, node: usize, both: bool) -> Result<(), String> {
        let to = format!("chain to {{ type filter hook egress device \"u{node}\" priority 0;\ncounter drop\n}}\n");
        let rules = format!(
            "table netdev cut {{\nchain from {{ type filter hook ingress device \"u{node}\" priority 0;\ncounter drop\n}}\n{}}}\n",
            if both { &to } else { "" }
        );
        let file = self.file("cut.nft").display().to_string();
        std::fs::write(&file, rules).map_err(|error| error.to_string())?;
        sh(&format!("ip netns exec {} nft -f {file}", self.net.bridge()))
    }

    /// Frames that were lost so.
    pub(crate) fn lost(&self) -> u64 {
        let place = self.net.bridge();
        let list = ["netns", "exec", &place, "nft", "list", "table", "netdev", "cut"];
        let text = Command::new("ip").args(list).output().map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut words = text.split_whitespace();
        let mut sum = 0;
        while words.by_ref().any(|word| word == "packets") {
            sum += words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        sum
    }

    pub(crate) fn mend(&self) -> Result<(), String> {
        self.net.mend()
    }

    /// Whether a node's port has a carrier.
    pub(crate) fn has_carrier(&self, node: usize) -> bool {
        self.number(&self.net.node(node), "eth0", "carrier") == Some(1)
    }

    fn number(&self, place: &str, port: &str, what: &str) -> Option<u64> {
        let file = format!("/sys/class/net/{port}/{what}");
        let output = Command::new("ip").args(["netns", "exec", place, "cat", &file]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }

    /// Frames and bytes that a node has sent.
    pub(crate) fn sent(&self, node: usize) -> (u64, u64) {
        let of = |what: &str| {
            self.number(&self.net.bridge(), &format!("v{node}"), &format!("statistics/rx_{what}")).unwrap_or(0)
        };
        (of("packets"), of("bytes"))
    }

    /// Who has the address on its port.
    pub(crate) fn holders(&self) -> Vec<usize> {
        let has = |node: &usize| {
            let command = ["-o", "-n", &self.net.node(*node), "address", "show", "dev", "eth0"];
            let output = Command::new("ip").args(command).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!(" {VIP}/")))
        };
        (0..NODES).filter(has).collect()
    }

    /// Takes the address from a node, as its operator would.
    pub(crate) fn strip(&self, node: usize) {
        let _ = sh(&format!("ip -n {} address del {VIP}/24 dev eth0", self.net.node(node)));
    }

    /// Waits until this node alone answers, and the client has been answered for a while.
    pub(crate) fn calm(&mut self, owner: usize, seconds: u64) -> Result<(), String> {
        until(seconds, "the client is not answered by one owner", || {
            std::thread::sleep(Duration::from_millis(75));
            let owners = self.answers.owners(250_000);
            let report = self.report()?;
            let silent = report["silent_us"].as_u64().unwrap_or(u64::MAX);
            let calm = report["calm_us"].as_u64().unwrap_or(u64::MAX);
            if owners == [owner] && silent < 60_000 && calm > 400_000 {
                return Ok(());
            }
            Err(format!("owners {owners:?} and not {owner}, silent {silent} us, the last failed {calm} us ago"))
        })
    }

    /// Lets some processes have 1 ms of one processor in 100 ms.
    pub(crate) fn starve(&self, pids: &[u32]) -> Result<(), String> {
        for pid in pids {
            // Who goes first cannot be held back.
            let _ = sh(&format!("chrt -a -o -p 0 {pid}"));
            cgroup::starve(&group(), *pid, 1)?;
        }
        Ok(())
    }
    pub(crate) fn held_back(&self) -> u64 {
        cgroup::held_back(&group())
    }
    pub(crate) fn feed(&self) {
        cgroup::feed(&group());
    }
}

fn launch(net: &Net, place: &str, command: &[&str], log: &str) -> Result<Child, String> {
    let open = File::options().create(true).append(true).open(net.folder.join(log));
    let log = open.map_err(|error| format!("{log}: {error}"))?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    let child = Command::new("ip")
        .args(["netns", "exec", place])
        .args(command)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn();
    child.map_err(|error| format!("{}: {error}", command.join(" ")))
}
