//! What a scenario file means, as data.

use std::collections::BTreeMap;

use apus_engine::{Availability, Config, DiagnosisRule, Mutant};

use crate::fault::{Fault, Kind, Ns, Target};

/// A scenario: topology, knobs, workload, faults, expectations.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name; the file is named alike.
    pub name: String,
    /// Two lines for an operator.
    pub about: String,
    /// Worlds it runs in: `heap`, `turmoil`, `emulated`.
    pub worlds: Vec<String>,
    /// Machines, numbered from 0.
    pub nodes: u16,
    /// How many of them vote: the first ones. At most `nodes`.
    pub voters: u16,
    /// How many of the voters, the last ones, are arbiters.
    pub arbiters: u16,
    /// Members at the start; the others are machines that may be added. At most `nodes`.
    pub members: u16,
    /// Length of the safety phase, in which faults happen.
    pub duration: Ns,
    /// Length of the liveness phase, in which everything must heal.
    pub heal: Ns,
    /// Of the seeds asked for only those that this number divides are run; 1 for all.
    pub every: u64,
    /// Knobs of all nodes: the engine's configuration without identity, services and resources.
    pub cluster: Cluster,
    /// What is supervised.
    pub services: Vec<Service>,
    /// What clients do.
    pub workload: Workload,
    /// Files of the first service that are replicated.
    pub files: Option<Files>,
    /// Scripted faults.
    pub faults: Vec<ScriptedFault>,
    /// What each seed draws.
    pub swarm: Vec<SwarmFault>,
    /// What must hold.
    pub expect: Expect,
    /// A planted bug, for canary scenarios.
    pub mutant: Option<Mutant>,
}

/// Knobs of the cluster; `None` keeps the engine's default. Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// `adaptive` or `paper`.
    pub rule: Option<DiagnosisRule>,
    /// `safe` or `prefer`, of the dispatcher.
    pub availability: Option<Availability>,
    /// Between two tests.
    pub period: Option<Ns>,
    /// K.
    pub observers: Option<u8>,
    /// H.
    pub convict: Option<u8>,
    /// Shortest deadline.
    pub deadline_floor: Option<Ns>,
    /// Longest deadline.
    pub deadline_ceiling: Option<Ns>,
    /// See the engine.
    pub suspicion: Option<Ns>,
    /// Leader's heartbeat.
    pub heartbeat: Option<Ns>,
    /// Shortest election timeout.
    pub election: Option<Ns>,
    /// L.
    pub lease: Option<Ns>,
    /// ρ.
    pub drift_ppm: Option<u32>,
    /// Log entries in one packet at most.
    pub batch: Option<u16>,
    /// Applied entries kept before compaction.
    pub keep: Option<u32>,
    /// Wire version all nodes write at the start.
    pub wire_version: Option<u8>,
    /// One-way delay of a healthy link: half of it to one and a half, drawn per packet.
    pub link_delay: Option<Ns>,
    /// Time a healthy disk takes to sync.
    pub disk_delay: Option<Ns>,
}

/// One supervised service; durations in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// For people.
    pub name: String,
    /// `cold`, `warm` or `hot`.
    pub strategy: apus_engine::Strategy,
    /// Active copies.
    pub degree: u8,
    /// Names of services it requires.
    pub requires: Vec<String>,
    /// From start to ready in a healthy run.
    pub starts_in: Ns,
    /// From start to ready at most.
    pub start_within: Ns,
    /// Threads that beat, and how often at least.
    pub heartbeats: Vec<Ns>,
    /// From the stop request to the kill.
    pub grace: Ns,
    /// Failures …
    pub failures: u8,
    /// … within this time escalate.
    pub within: Ns,
    /// Whether the reboot hook may be used.
    pub may_reboot: bool,
}

/// Replicated files, and what the program of the first service does with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// How many nodes have them: the first ones.
    pub copies: u16,
    /// What a program waits for.
    pub mode: apus_engine::Mode,
    /// Under `sync`: how many copies.
    pub need: u8,
    /// Steps of the program a second.
    pub rate: u32,
    /// Bytes of a log at most.
    pub log: u64,
    /// Records that a copy may be behind before somebody is told.
    pub lag: u64,
    /// Between two looks through a copy's files; zero for none.
    pub scrub: Ns,
    /// Bytes of files that all copies begin with.
    pub tree: u64,
    /// Blocks of 4 KiB of them that the program writes side by side.
    pub blocks: u64,
}

/// What clients do.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Workload {
    /// Nothing.
    #[default]
    None,
    /// They put notes into the log.
    Notes {
        /// Clients.
        clients: u16,
        /// Notes of each client a second.
        rate: u32,
    },
    /// They send requests to the cluster's address; whoever holds the dispatcher answers.
    Flows {
        /// Clients.
        clients: u16,
        /// Requests of each client a second.
        rate: u32,
    },
}

/// A fault with ranges to draw from. A range of one value is that value.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptedFault {
    /// What.
    pub kind: Kind,
    /// Whom.
    pub target: Target,
    /// When it starts, at least and at most.
    pub at: (Ns, Ns),
    /// How long, at least and at most; drawn log-uniformly.
    pub lasts: (Ns, Ns),
    /// See the kind.
    pub rate_ppm: (u32, u32),
    /// See the kind; drawn log-uniformly.
    pub size: (u64, u64),
}

/// A kind of fault that each seed has on or off.
#[derive(Clone, Debug, PartialEq)]
pub struct SwarmFault {
    /// What.
    pub kind: Kind,
    /// Whom.
    pub target: Target,
    /// Chance that a seed has it at all, in parts per million.
    pub chance_ppm: u32,
    /// How many of it a seed with it gets, at least and at most.
    pub count: (u16, u16),
    /// How long each, log-uniform.
    pub lasts: (Ns, Ns),
    /// See the kind.
    pub rate_ppm: (u32, u32),
    /// See the kind.
    pub size: (u64, u64),
}

/// What must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// Checkers by name that do not apply here, each with the reason. All others do.
    pub except: BTreeMap<String, String>,
    /// After a fault on the holder, the dispatcher is held again within this time; checked per seed.
    pub takeover_within: Option<Ns>,
    /// After a crash every live node knows within this time.
    pub diagnosis_within: Option<Ns>,
    /// After the first verdict on a crash every live node knows within this time.
    pub news_within: Option<Ns>,
    /// After healing everything is well within this time.
    pub converge_within: Option<Ns>,
    /// For no longer than this no client's segment reaches a server; looked at where there are frames.
    pub blackout_within: Option<Ns>,
    /// While nothing goes wrong nodes send no more than so many packets a second, on average over the nodes.
    pub packets_at_rest: Option<u64>,
    /// Goals that at least one seed must reach; names in [`crate::goal`].
    pub sometimes: Vec<String>,
    /// The scenario shows a failure on purpose: checkers of which at least one must fail in some seed (canary, 1998 rule).
    /// Such a scenario is run by the suite as passed when it fails as told; alone, `apus run` still exits with the failure.
    pub fails: Vec<String>,
}

/// Everything one run needs, with nothing left to draw but packet fates.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The scenario it came from.
    pub scenario: Scenario,
    /// The seed.
    pub seed: u64,
    /// All faults, by time.
    pub faults: Vec<Fault>,
    /// Configuration of each node, before restarts change it.
    pub configs: Vec<Config>,
}
