//! One live run: a lab is made, the plan's faults strike it at their times, and what its nodes tell is judged.

mod files;
mod play;
mod strike;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apus_engine::{Config, NodeId, Strategy, Time};
use apus_node::{Knobs, Part, Told};
use apus_os::linux::clock;
use apus_sim::fault::Kind;
use apus_sim::report::Run;
use apus_sim::scenario::{Plan, Scenario, Workload};
use apus_sim::world::Options;
use serde_json::{Value, json};

use super::cluster::{Cluster, Extra};
use super::net::{Net, spaces};
use super::sh::until;
use super::watch::Watch;
use super::{disk, machine, net};
use crate::judge::{Evidence, judge};
pub(crate) use files::missing as library;
use play::Play;

/// A cluster is whole within this.
const WHOLE: Duration = Duration::from_secs(30);

/// A lab that is gone with the value.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) plan: Plan,
    parts: Vec<Part>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::env::var_os("APUS_KEEP").is_some() {
            return;
        }
        for space in spaces(Some(&self.cluster.net.id)) {
            let _ = net::remove(&space);
        }
        let _ = Cluster::clear(&self.cluster.folder, &self.cluster.net.id);
    }
}

/// Runs one plan.
pub(crate) fn run(plan: &Plan, options: &Options) -> Result<Run, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    static FIRST: OnceLock<bool> = OnceLock::new();
    let id = format!("live{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let folder = PathBuf::from("/run/apus-lab").join(&id);
    let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
    let net = Net { id, nodes: plan.scenario.nodes };
    let first = *FIRST.get_or_init(machine::go_first);
    let parts = parts(&plan.configs[0], plan.scenario.nodes);
    let disks = has_disks(&plan.scenario);
    let mut stage = Stage { cluster: Cluster { net, folder, exe, first, disks }, plan: plan.clone(), parts };
    let (start, wall) = (clock::boot(), wall());
    stage.make()?;
    let watch = Watch::start(&stage.cluster.net);
    let mut play = Play::new(&mut stage, start, watch);
    play.begin()?;
    let played = play.play()?;
    let files = stage.files();
    let evidence = Evidence {
        files,
        plan: plan.clone(),
        start,
        end: played.end,
        told: (0..plan.scenario.nodes).map(|node| stage.read(node)).collect(),
        done: played.done,
        powerless: played.powerless,
        well: played.well,
        asked: stage.cluster.asked(start),
        reigns: played.watch.map(|watch| watch.end(wall)),
    };
    stage.is_seen(&evidence)?;
    let mut judged = judge(&evidence);
    judged.measures.insert("lateness", played.late);
    if std::env::var_os("APUS_KEEP").is_some() {
        eprintln!("kept: {}", stage.cluster.folder.display());
    }
    let mut faults = plan.faults.clone();
    for (fault, nodes) in faults.iter_mut().zip(&played.struck) {
        if !nodes.is_empty() && fault.target != apus_sim::fault::Target::All {
            fault.target = apus_sim::fault::Target::Nodes(nodes.clone());
        }
    }
    Ok(Run {
        seed: plan.seed,
        violation: judged.violation,
        faults,
        effects: played.effects,
        goals: judged.goals,
        measures: judged.measures,
        hash: judged.hash.finish(),
        events: judged.hash.events,
        simulated: played.end,
        trace: if options.keep_trace { judged.lines } else { Vec::new() },
    })
}

/// Whether its machines need disks that lose what was not synced.
fn has_disks(scenario: &Scenario) -> bool {
    let mut kinds = scenario.faults.iter().map(|fault| fault.kind).chain(scenario.swarm.iter().map(|fault| fault.kind));
    scenario.files.is_some() || kinds.any(|kind| kind == Kind::LoseUnsynced)
}

/// What a scenario needs besides, and is not here.
pub(crate) fn missing_for(scenario: &Scenario) -> Option<String> {
    let library = scenario.files.as_ref().and_then(|_| files::missing());
    library.or_else(|| has_disks(scenario).then(disk::missing).flatten())
}

/// Nanoseconds of the wall clock.
fn wall() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn parts(config: &Config, nodes: u16) -> Vec<Part> {
    let bootstrap = &config.bootstrap;
    let part = |node: NodeId| {
        if bootstrap.arbiters.contains(&node) {
            Part::Arbiter
        } else if bootstrap.voters.contains(&node) {
            Part::Voter
        } else {
            Part::Learner
        }
    };
    (0..nodes).map(|node| part(NodeId(node))).collect()
}

impl Stage {
    /// Machines, daemons and servers, until all know of all.
    fn make(&mut self) -> Result<(), String> {
        fs::create_dir_all(&self.cluster.folder).map_err(|error| error.to_string())?;
        self.cluster.make()?;
        for node in 0..self.plan.scenario.nodes {
            let config = self.plan.configs[usize::from(node)].clone();
            self.write(node, &config)?;
            self.cluster.format(node)?;
            self.link(node)?;
            self.start(node)?;
        }
        until(WHOLE, || self.whole())
    }

    /// Writes a node's file, so that its engine is configured as the plan says.
    pub(super) fn write(&self, node: u16, config: &Config) -> Result<(), String> {
        let files = self.cluster.files(node);
        let top = format!("lease = \"{}us\"\ntold = \"{}\"\n", config.views.lease.0, self.cluster.told(node).display());
        let mut tables = Knobs::of(config).toml();
        for (at, (service, own)) in self.plan.scenario.services.iter().zip(&config.services).enumerate() {
            let (writes, group) = if at == 0 { self.group(node) } else { Default::default() };
            let beats: Vec<String> = own.heartbeats.iter().map(|beat| beat.0.to_string()).collect();
            let promises: Vec<String> = own.heartbeats.iter().map(|beat| format!("\"{}us\"", beat.0)).collect();
            let requires: Vec<String> = service.requires.iter().map(|name| format!("\"{name}\"")).collect();
            let (strategy, many) = match own.strategy {
                Strategy::Cold => ("cold", String::new()),
                Strategy::Warm => ("warm", String::new()),
                Strategy::Hot => ("hot", format!("replicas = {}\n", own.degree)),
            };
            let starts_in = service.starts_in / 1_000;
            tables += &format!(
                "[[services]]\nname = \"{}\"\n\
                 command = [\"{}/program\", \"lab\", \"program\", \"{}\", \"{starts_in}\", \"{}\"{writes}]\n\
                 strategy = \"{strategy}\"\n{many}ready = \"notify\"\nheartbeats = [{}]\nrequires = [{}]\n\
                 stop = {{ signal = \"TERM\", grace = \"{}us\" }}\nstart_within = \"{}us\"\nfailures = {}\nwithin = \"{}us\"\n\
                 backoff = \"{}us\"\nbackoff_max = \"{}us\"\nstable_after = \"{}us\"\npromote = [\"true\"]\n",
                service.name,
                files.display(),
                files.display(),
                beats.join(","),
                promises.join(", "),
                requires.join(", "),
                own.grace.0,
                own.start_within.0,
                own.failures,
                own.within.0,
                own.backoff.0,
                own.backoff_max.0,
                own.stable_after.0,
            );
            tables += &group;
        }
        let extra = Extra { top, tables, cluster: 98 ^ (config.cluster.0 ^ self.plan.configs[0].cluster.0) };
        self.cluster.write(node, &self.parts, &extra)
    }

    /// The program that services run; without it they cannot be started.
    pub(super) fn link(&self, node: u16) -> Result<(), String> {
        let program = self.cluster.files(node).join("program");
        let _ = fs::remove_file(&program);
        std::os::unix::fs::symlink(&self.cluster.exe, &program)
            .map_err(|error| format!("{}: {error}", program.display()))
    }

    /// Starts what a machine runs from its start: the daemon, and a server if clients come.
    pub(super) fn start(&self, node: u16) -> Result<(), String> {
        self.cluster.start(node)?;
        if matches!(self.plan.scenario.workload, Workload::Flows { .. }) && !self.serves(node) {
            let log = self.cluster.files(node).join("server.log");
            let command = [&self.cluster.exe[..], "lab", "serve", &format!("n{node}")];
            machine::start(&self.cluster.net.node(node), false, &command, &log).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn serves(&self, node: u16) -> bool {
        let is = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(2) == Some(b"serve")
        };
        machine::pids(&self.cluster.net.node(node)).into_iter().any(is)
    }

    /// Every node answers, knows all others as up, and the dispatcher; every copy runs.
    fn whole(&self) -> Result<(), String> {
        let all: Vec<u16> = (0..self.plan.scenario.nodes).collect();
        self.well(&all, &[])
    }

    /// What is not well among the nodes that run, if anything; `gone` are those that do not.
    pub(super) fn well(&self, nodes: &[u16], gone: &[u16]) -> Result<(), String> {
        let mut first: Option<(Value, Value, Value)> = None;
        let mut dispatches = Vec::new();
        for &node in nodes {
            let status = self.cluster.status(node);
            let status = status.map_err(|error| {
                format!("n{node} does not answer: {error}; it said: {}", self.cluster.last_words(node))
            })?;
            for other in status["nodes"].as_array().into_iter().flatten() {
                let number = other["node"].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or(u16::MAX);
                let (seen, is_gone) = (other["status"].as_str().unwrap_or_default(), gone.contains(&number));
                if seen != if is_gone { "down" } else { "up" } {
                    return Err(format!("n{node} thinks n{number} is {seen}"));
                }
            }
            let own = (status["coordinator"].clone(), status["dispatcher"].clone(), status["epoch"].clone());
            if own.0.is_null() || own.1.is_null() {
                return Err(format!("n{node} knows coordinator {} and dispatcher {}", own.0, own.1));
            }
            if status["dispatches"] == true {
                dispatches.push(node);
            }
            let known = first.get_or_insert_with(|| own.clone());
            if *known != own {
                return Err(format!("n{node} knows {own:?}, n{} knows {known:?}", nodes[0]));
            }
        }
        let dispatcher = first.map(|(_, dispatcher, _)| dispatcher).unwrap_or_default();
        if dispatches.len() != 1 || dispatcher != dispatches[0] {
            return Err(format!("n{dispatches:?} dispatch, and all know {dispatcher}"));
        }
        self.copies_well(nodes)
    }

    fn copies_well(&self, nodes: &[u16]) -> Result<(), String> {
        self.files_well(nodes)?;
        if self.plan.scenario.services.is_empty() {
            return Ok(());
        }
        let serve = nodes.iter().filter(|node| self.parts[usize::from(**node)] != Part::Arbiter).count() as u64;
        let mut runs = BTreeMap::<(String, u64), Vec<u16>>::new();
        for &node in nodes {
            let services = self.cluster.ask(node, &json!({"do": "services"}))?;
            for row in services["services"].as_array().into_iter().flatten() {
                let slot = row["slot"].as_u64().unwrap_or_default();
                // A copy needs a node of its own.
                if slot >= serve {
                    continue;
                }
                let ready = runs.entry((row["name"].as_str().unwrap_or_default().into(), slot)).or_default();
                if row["state"] == "ready" && row["node"] == node {
                    ready.push(node);
                }
            }
        }
        match runs.iter().find(|(_, ready)| ready.len() != 1) {
            Some(((name, slot), ready)) => Err(format!("{name}.{slot} is active and ready on {} nodes", ready.len())),
            None => Ok(()),
        }
    }

    /// That there is something to judge: a verdict on nothing would be a good one.
    fn is_seen(&self, evidence: &Evidence) -> Result<(), String> {
        let boots = |told: &[(Time, Told)]| told.iter().any(|(_, told)| matches!(told, Told::Boot { .. }));
        if let Some(node) = evidence.told.iter().position(|told| !boots(told)) {
            return Err(format!("n{node} told nothing"));
        }
        if evidence.files.as_ref().is_some_and(|files| files.said.is_empty()) {
            return Err("the program with replicated files told nothing".into());
        }
        let flows = matches!(self.plan.scenario.workload, Workload::Flows { .. });
        let serve = self.parts.iter().filter(|part| **part != Part::Arbiter).count();
        let frames = evidence.reigns.as_ref().map(|reigns| reigns.values().map(|reign| reign.frames).sum::<u64>());
        if flows && serve > 1 && frames == Some(0) {
            return Err("tcpdump saw no dispatcher's frame at any port".into());
        }
        Ok(())
    }

    /// What a node told.
    fn read(&self, node: u16) -> Vec<(Time, Told)> {
        let text = fs::read_to_string(self.cluster.told(node)).unwrap_or_default();
        text.lines().filter_map(Told::read).collect()
    }

    /// Starts the clients who send requests to the cluster's address.
    pub(super) fn clients(&self) -> Result<(), String> {
        let Workload::Flows { clients, rate } = self.plan.scenario.workload else { return Ok(()) };
        self.cluster.load(clients, rate).map_err(|error| error.to_string())
    }
}
