//! A lab that stays up until it is taken down: `apus lab`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_node::Part;
use serde_json::{Value, json};

use super::cluster::{Cluster, Extra, remove};
use super::net::{Net, Rule, VIP, address, lab_of, spaces};
use super::sh::{sh, until};
use super::{cgroup, machine, missing, net};
use crate::{Error, LIVE_NODES};

/// Where labs keep their files.
const FOLDER: &str = "/run/apus-lab";
/// A lab is whole within this.
const WHOLE: Duration = Duration::from_secs(30);

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its daemon is killed.
    Kill,
    /// Its machine loses power: all that runs there is gone, and nothing more is heard.
    PowerOff,
    /// Its daemon is stopped by SIGSTOP; its kernel runs on.
    Freeze,
    /// It hears nobody and nobody hears it; its port has a carrier.
    Partition,
    /// What it sends is lost.
    OneWay,
    /// What is sent to it is lost.
    OneWayIn,
    /// Its port loses the carrier.
    LinkDown,
    /// So many of a million frames from it and to it are lost.
    Loss(u32),
    /// Its daemon gets so many percent of one processor.
    Starve(u64),
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerOff => "power-off",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::OneWayIn => "one-way-in",
            Self::LinkDown => "link-down",
            Self::Loss(_) => "loss",
            Self::Starve(_) => "starve",
        }
    }

    /// What the switch does for it.
    fn rules(kind: &str, ppm: u32, node: u16, ports: u16) -> Vec<Rule> {
        let (own, rest) = (BTreeSet::from([node]), (0..=ports).filter(|port| *port != node).collect::<BTreeSet<_>>());
        let rule = |from: &BTreeSet<u16>, to: &BTreeSet<u16>, ppm| Rule {
            name: format!("{}_{node}", kind.replace('-', "_")),
            from: from.clone(),
            to: to.clone(),
            ppm,
        };
        const ALL: u32 = 1_000_000;
        match kind {
            "partition" => vec![rule(&own, &rest, ALL), rule(&rest, &own, ALL)],
            "one-way" => vec![rule(&own, &rest, ALL)],
            "one-way-in" => vec![rule(&rest, &own, ALL)],
            "loss" => vec![rule(&own, &rest, ppm), rule(&rest, &own, ppm)],
            _ => Vec::new(),
        }
    }
}

/// How to begin.
#[derive(Clone, Debug)]
pub struct Up {
    /// The lab's name.
    pub name: String,
    /// Machines with a node each.
    pub nodes: u16,
    /// The web server of this command, even where nginx is installed.
    pub plain: bool,
}

/// One lab.
#[derive(Clone, Debug)]
pub struct Lab {
    pub(super) cluster: Cluster,
    /// `nginx`, or `the built-in server`.
    pub web: String,
    /// Faults of the net: kind, node, and how many of a million.
    faults: Vec<(String, u16, u32)>,
}

/// How a node is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which.
    pub node: u16,
    /// Its machine: `on`, `off`, or `no carrier`.
    pub machine: &'static str,
    /// Its daemon: `runs`, `frozen`, `dead`.
    pub daemon: &'static str,
    /// What the net does to it.
    pub faults: Vec<String>,
    /// What it says of the cluster; nothing if it does not answer.
    pub says: Value,
    /// Its copy of the web service.
    pub web: String,
}

fn failed(what: String) -> Error {
    Error::Failed(what)
}

/// Whether a lab of this name can be made.
pub(super) fn can_be(name: &str, nodes: u16) -> Result<(), Error> {
    if let Some(what) = missing() {
        return Err(Error::Usage(what));
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    if name.is_empty() || name.len() > 16 || !name.chars().all(plain) {
        return Err(Error::Usage(format!("`{name}` is no name: use 1 to 16 letters and digits")));
    }
    if !(1..=LIVE_NODES).contains(&nodes) {
        return Err(Error::Usage(format!("{nodes} nodes: use 1 to {LIVE_NODES}")));
    }
    if !spaces(Some(name)).is_empty() {
        let what = format!("the lab `{name}` is up, or was not taken down: `apus lab down --name {name}` first");
        return Err(Error::Usage(what));
    }
    Ok(())
}

impl Lab {
    /// Where a lab's files are.
    pub(super) fn folder(name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    /// Makes a lab and waits until it serves. What was made is taken away again if that fails.
    ///
    /// # Errors
    /// If it cannot be made: with what is missing.
    pub fn up(up: &Up) -> Result<Self, Error> {
        can_be(&up.name, up.nodes)?;
        let made = Self::make(up);
        if made.is_err() {
            let _ = Self::down(&up.name);
        }
        made.map_err(failed)
    }

    fn make(up: &Up) -> Result<Self, String> {
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        let folder = Self::folder(&up.name);
        remove(&folder)?;
        let net = Net { id: up.name.clone(), nodes: up.nodes };
        let nginx = sh(&["sh", "-c", "command -v nginx"]).ok().filter(|_| !up.plain);
        let cluster = Cluster { net, folder, exe, first: false, disks: false };
        cluster.make()?;
        let web = if nginx.is_some() { "nginx" } else { "the built-in server" };
        let lab = Self { cluster, web: web.into(), faults: Vec::new() };
        let parts = vec![Part::Voter; usize::from(up.nodes)];
        for node in 0..up.nodes {
            lab.cluster.write(node, &parts, &lab.service(node, nginx.as_deref().map(str::trim))?)?;
            lab.cluster.format(node)?;
            lab.cluster.start(node)?;
        }
        lab.keep()?;
        until(WHOLE, || lab.is_whole())?;
        Ok(lab)
    }

    /// The service `web` as a node's file has it.
    fn service(&self, node: u16, nginx: Option<&str>) -> Result<Extra, String> {
        let files = self.cluster.files(node);
        let place = files.display();
        fs::create_dir_all(&files).map_err(|error| format!("{place}: {error}"))?;
        let command = match nginx {
            Some(nginx) => {
                let mut text = format!(
                    "user root;\nworker_processes 1;\ndaemon off;\npid {place}/nginx.pid;\nerror_log {place}/nginx.log;\n\
                     events {{ worker_connections 256; }}\nhttp {{\n  access_log off;\n"
                );
                for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                    text += &format!("  {kind}_temp_path {place}/nginx-{kind};\n");
                }
                text += &format!(
                    "  server {{\n    listen 80;\n    location / {{ default_type text/plain; return 200 \"web on n{node}\\n\"; }}\n  }}\n}}\n"
                );
                let file = files.join("nginx.conf");
                fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
                format!("[\"{nginx}\", \"-e\", \"{place}/nginx.log\", \"-c\", \"{place}/nginx.conf\"]")
            }
            None => format!("[\"{}\", \"lab\", \"serve\", \"web on n{node}\"]", self.cluster.exe),
        };
        let many = self.cluster.net.nodes;
        let tables = format!(
            "[[services]]\nname = \"web\"\ncommand = {command}\nstrategy = \"hot\"\nreplicas = {many}\n\
             ready = {{ http = \"http://127.0.0.1:80/\" }}\nlive = {{ http = \"http://127.0.0.1:80/\", every = \"1s\" }}\n\
             stop = {{ signal = \"TERM\", grace = \"2s\" }}\n"
        );
        Ok(Extra { tables, cluster: 98, ..Extra::default() })
    }

    /// What other commands must know of it.
    fn keep(&self) -> Result<(), String> {
        let faults: Vec<Value> = self.faults.iter().map(|(kind, node, ppm)| json!([kind, node, ppm])).collect();
        let nodes = self.cluster.net.nodes;
        let state = json!({"nodes": nodes, "web": self.web, "exe": self.cluster.exe, "faults": faults});
        let file = self.cluster.folder.join("lab.json");
        fs::write(&file, state.to_string()).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// The lab of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(name: &str) -> Result<Self, Error> {
        let folder = Self::folder(name);
        let none = || Error::Usage(format!("there is no lab `{name}`: `apus lab up` makes one"));
        let text = fs::read_to_string(folder.join("lab.json")).map_err(|_| none())?;
        let state: Value = serde_json::from_str(&text).map_err(|_| none())?;
        let nodes = state["nodes"].as_u64().and_then(|nodes| u16::try_from(nodes).ok()).ok_or_else(none)?;
        let fault = |fault: &Value| {
            let small = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
            Some((fault[0].as_str()?.to_owned(), u16::try_from(small(&fault[1])?).ok()?, small(&fault[2])?))
        };
        let exe = state["exe"].as_str().unwrap_or("apus").to_owned();
        let cluster = Cluster { net: Net { id: name.into(), nodes }, folder, exe, first: false, disks: false };
        let faults = state["faults"].as_array().into_iter().flatten().filter_map(fault).collect();
        Ok(Self { cluster, web: state["web"].as_str().unwrap_or_default().into(), faults })
    }

    /// How many machines it has.
    #[must_use]
    pub const fn nodes(&self) -> u16 {
        self.cluster.net.nodes
    }

    /// The namespace of a node, or with `None` of the clients.
    #[must_use]
    pub fn space(&self, node: Option<u16>) -> String {
        node.map_or_else(|| self.cluster.net.client(), |node| self.cluster.net.node(node))
    }

    /// The control socket of a node.
    #[must_use]
    pub fn control(&self, node: u16) -> PathBuf {
        self.cluster.control(node)
    }

    /// Where all files of it are.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.cluster.folder
    }

    /// The cluster's address.
    #[must_use]
    pub const fn address() -> &'static str {
        VIP
    }

    /// The address of a node.
    #[must_use]
    pub fn node_address(node: u16) -> String {
        address(node)
    }

    /// Every node serves, and is up for all.
    fn is_whole(&self) -> Result<(), String> {
        let many = usize::from(self.nodes());
        for node in 0..self.nodes() {
            let status = self.cluster.status(node);
            let status = status.map_err(|error| format!("{error}; n{node} said: {}", self.cluster.last_words(node)))?;
            let up = |node: &&Value| node["status"] == "up";
            let seen = status["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(up).count());
            if status["dispatcher"].is_null() || seen < many {
                return Err(format!("n{node} sees {seen} of {many} nodes, dispatcher {}", status["dispatcher"]));
            }
            let web = self.web_of(node);
            if web != "ready" {
                return Err(format!("web on n{node} is {web}; it said: {}", self.cluster.last_words(node)));
            }
            let table = self.cluster.ask(node, &json!({"do": "table"}))?;
            let serves = table["servers"].as_array().map_or(0, Vec::len);
            if serves < many {
                return Err(format!("{serves} of {many} servers are in the table of n{node}"));
            }
        }
        Ok(())
    }

    fn web_of(&self, node: u16) -> String {
        let Ok(services) = self.cluster.ask(node, &json!({"do": "services"})) else { return "unknown".into() };
        let here = services["services"].as_array().into_iter().flatten().find(|row| row["here"] == true);
        here.and_then(|row| row["state"].as_str()).unwrap_or("not here").into()
    }

    /// Waits until every node serves again.
    ///
    /// # Errors
    /// If that takes longer than 30 s: with what is missing.
    pub fn wait(&self) -> Result<(), Error> {
        until(WHOLE, || self.is_whole()).map_err(failed)
    }

    /// How each node is.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        let on = spaces(Some(&self.cluster.net.id));
        let cut = |node| self.faults.iter().any(|(kind, of, _)| *of == node && kind == "link-down");
        (0..self.nodes())
            .map(|node| {
                let powered = on.contains(&self.cluster.net.node(node));
                let daemon = match self.cluster.daemon(node).map(machine::state) {
                    None => "dead",
                    Some(Some('T')) => "frozen",
                    Some(_) => "runs",
                };
                let says = if daemon == "runs" { self.cluster.status(node).unwrap_or_default() } else { Value::Null };
                let of = self.faults.iter().filter(|(kind, of, _)| *of == node && kind != "link-down");
                let machine = if powered { if cut(node) { "no carrier" } else { "on" } } else { "off" };
                let web = if daemon == "runs" { self.web_of(node) } else { "unknown".into() };
                Status { node, machine, daemon, faults: of.map(|(kind, ..)| kind.clone()).collect(), says, web }
            })
            .collect()
    }

    /// Who has the address, or who coordinates, by the word of most.
    ///
    /// # Errors
    /// If nobody says.
    pub fn role(&self, role: &str) -> Result<u16, Error> {
        let mut votes = std::collections::BTreeMap::<u16, usize>::new();
        for status in self.status() {
            if let Some(node) = status.says[role].as_u64().and_then(|node| u16::try_from(node).ok()) {
                *votes.entry(node).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.map(|(node, _)| node).ok_or_else(|| Error::Usage(format!("no node says who the {role} is: wait, or heal")))
    }

    /// Does something to a node.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn fault(&mut self, node: u16, fault: Fault) -> Result<(), Error> {
        if node >= self.nodes() {
            return Err(Error::Usage(format!("there is no node {node}: they are 0 to {}", self.nodes() - 1)));
        }
        let off = !spaces(Some(&self.cluster.net.id)).contains(&self.cluster.net.node(node));
        if off {
            return Err(Error::Usage(format!("n{node} has no power: `apus lab heal {node}` first")));
        }
        let running = || {
            self.cluster.daemon(node).ok_or_else(|| {
                Error::Usage(format!("the daemon of n{node} does not run: `apus lab heal {node}` starts it"))
            })
        };
        match fault {
            Fault::Kill => machine::end(running()?, "KILL").map_err(failed)?,
            Fault::Freeze => machine::signal(&[running()?], "STOP"),
            Fault::PowerOff => self.cluster.power_off(node).map_err(failed)?,
            Fault::Starve(percent) => {
                let pid = running()?;
                let skipped = |why| Error::Usage(format!("starve: SKIPPED: {why}"));
                cgroup::starve(&self.group(node), pid, percent).map_err(skipped)?;
            }
            Fault::LinkDown => self.cluster.net.carrier(node, false).map_err(failed)?,
            Fault::Partition | Fault::OneWay | Fault::OneWayIn | Fault::Loss(_) => {}
        }
        if !matches!(fault, Fault::Kill | Fault::Freeze | Fault::PowerOff | Fault::Starve(_)) {
            let ppm = if let Fault::Loss(ppm) = fault { ppm } else { 1_000_000 };
            self.faults.retain(|(kind, of, _)| !(*of == node && kind == fault.name()));
            self.faults.push((fault.name().into(), node, ppm));
            self.rules().map_err(failed)?;
        }
        self.keep().map_err(failed)
    }

    fn group(&self, node: u16) -> String {
        format!("{}-n{node}", self.cluster.net.id)
    }

    /// How often the daemon of a node was held back since it is starved.
    #[must_use]
    pub fn held_back(&self, node: u16) -> u64 {
        cgroup::held_back(&self.group(node))
    }

    fn rules(&self) -> Result<(), String> {
        let ports = self.nodes();
        let rules = self.faults.iter().flat_map(|(kind, node, ppm)| Fault::rules(kind, *ppm, *node, ports));
        self.cluster.net.rules(&rules.collect::<Vec<_>>())
    }

    /// Ends every fault of a node, or of all: machines have power and a net, daemons run.
    ///
    /// # Errors
    /// If something cannot be undone.
    pub fn heal(&mut self, node: Option<u16>) -> Result<(), Error> {
        let on = spaces(Some(&self.cluster.net.id));
        for node in (0..self.nodes()).filter(|other| node.is_none_or(|node| node == *other)) {
            self.faults.retain(|(_, of, _)| *of != node);
            if !on.contains(&self.cluster.net.node(node)) {
                self.cluster.power_on(node).map_err(failed)?;
            }
            self.cluster.net.carrier(node, true).map_err(failed)?;
            cgroup::feed(&self.group(node));
            match self.cluster.daemon(node) {
                None => self.cluster.start(node).map_err(failed)?,
                Some(pid) => machine::signal(&[pid], "CONT"),
            }
        }
        self.rules().and_then(|()| self.keep()).map_err(failed)
    }

    /// Takes away all that a lab of this name has, also what an interrupted `up` or a crash has left. How many namespaces there were.
    ///
    /// # Errors
    /// If something cannot be removed; the rest is.
    pub fn down(name: &str) -> Result<usize, Error> {
        let mut wrong = Vec::new();
        let all = spaces(Some(name));
        for space in &all {
            wrong.extend(net::remove(space).err());
        }
        cgroup::feed(&format!("{name}-"));
        wrong.extend(Cluster::clear(&Self::folder(name), name).err());
        let _ = fs::remove_dir(FOLDER);
        if wrong.is_empty() { Ok(all.len()) } else { Err(failed(wrong.join("; "))) }
    }

    /// Names of all labs of which something is there.
    #[must_use]
    pub fn all() -> Vec<String> {
        let folders = fs::read_dir(FOLDER).into_iter().flatten().flatten();
        let folders = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut all: BTreeSet<String> = spaces(None).iter().filter_map(|space| lab_of(space)).collect();
        all.extend(folders);
        all.into_iter().collect()
    }
}
