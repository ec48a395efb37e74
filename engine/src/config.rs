//! What a node is told at its start. [`Config::check`] refuses what the protocols could not keep.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, GroupId, NodeId, ResourceId, ServiceId};
use crate::mutant::Mutant;
use crate::time::Micros;

/// Everything that is the same for all nodes of a cluster, and who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Packets of another cluster are counted and dropped.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// The wire version this node writes at most; 1 to 5, and 5 only with groups of files.
    pub wire_version: u8,
    /// The members when the cluster was first started; later changes come through the log.
    pub bootstrap: Bootstrap,
    /// Knobs of the ring.
    pub diagnosis: DiagnosisConfig,
    /// Knobs of the replicated log.
    pub consensus: ConsensusConfig,
    /// Knobs of leases and grants.
    pub views: ViewsConfig,
    /// Who may own what.
    pub resources: Vec<ResourceConfig>,
    /// What is supervised.
    pub services: Vec<ServiceConfig>,
    /// Files that are replicated.
    pub groups: Vec<GroupConfig>,
    /// A planted bug; always `None` outside a world.
    pub mutant: Option<Mutant>,
}

/// The first membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Nodes that decide; an odd number is best.
    pub voters: Vec<NodeId>,
    /// Voters that own nothing and run nothing; a subset of `voters`.
    pub arbiters: Vec<NodeId>,
    /// Nodes that only follow.
    pub learners: Vec<NodeId>,
}

impl Bootstrap {
    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.voters.iter().chain(&self.learners).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Which diagnosis rule runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiagnosisRule {
    /// Event-driven adaptive ring with several observers.
    #[default]
    Adaptive,
    /// NT-SwiFT 1998 §3.1: ping the neighbour every `period`, the next one if it fails; the verdict is the ping's.
    Paper,
}

/// Knobs of `diagnosis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DiagnosisConfig {
    /// Adaptive ring, or the paper's.
    pub rule: DiagnosisRule,
    /// Between two tests of one successor.
    pub period: Micros,
    /// K: ring permutations, so observers of each node.
    pub observers: u8,
    /// H: accusers that make a verdict.
    pub convict: u8,
    /// Shortest deadline of a probe, whatever was measured.
    pub deadline_floor: Micros,
    /// Longest deadline of a probe.
    pub deadline_ceiling: Micros,
    /// How many nodes an indirect probe goes through.
    pub indirect: u8,
    /// How long a lone accusation waits for company before the indirect result decides alone.
    pub suspicion: Micros,
    /// Each news item is sent `retransmit · ⌈log2 N⌉` times at most.
    pub retransmit: u8,
}

impl Default for DiagnosisConfig {
    fn default() -> Self {
        Self {
            rule: DiagnosisRule::Adaptive,
            period: Micros::from_millis(200),
            observers: 3,
            convict: 2,
            deadline_floor: Micros::from_millis(60),
            deadline_ceiling: Micros::from_millis(800),
            indirect: 2,
            suspicion: Micros::from_millis(200),
            retransmit: 3,
        }
    }
}

/// Knobs of `consensus`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConsensusConfig {
    /// Between two heartbeats of a leader to a follower that owes it an answer; to the others it is [`Config::rest`].
    pub heartbeat: Micros,
    /// Shortest election timeout; each wait is drawn from `election..2·election`.
    pub election: Micros,
    /// Entries in one append at most.
    pub batch: u16,
    /// Applied entries that are kept before the log is compacted into a snapshot.
    pub keep: u32,
    /// Proposals in flight at most.
    pub window: u16,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            heartbeat: Micros::from_millis(50),
            election: Micros::from_millis(300),
            batch: 64,
            keep: 256,
            window: 256,
        }
    }
}

/// Knobs of `views`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewsConfig {
    /// L: how long a lease lasts.
    pub lease: Micros,
    /// ρ: how far two nodes' clocks may drift apart, in parts per million.
    pub drift_ppm: u32,
    /// How late a timer may fire on a healthy host.
    pub timer_slack: Micros,
}

impl Default for ViewsConfig {
    fn default() -> Self {
        Self { lease: Micros::from_millis(600), drift_ppm: 500, timer_slack: Micros::from_millis(10) }
    }
}

/// What a resource prefers when it cannot have both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Availability {
    /// Never two owners; without a quorum there is none.
    #[default]
    Safe,
    /// The 1998 rule: the first node up leads, its neighbour takes over. Two owners in a partition.
    Prefer,
}

/// One thing that at most one node may own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceConfig {
    /// Its number.
    pub id: ResourceId,
    /// What owning it means.
    pub role: Role,
    /// Safe, or the 1998 rule.
    pub availability: Availability,
    /// Nodes that may own it, the preferred one first; empty for any member that is no arbiter.
    pub candidates: Vec<NodeId>,
}

/// What owning a resource means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Answers for the cluster's address.
    Dispatcher,
    /// Runs the active copy in this slot of a service. Slots of one service go to different nodes.
    Slot {
        /// The service.
        service: ServiceId,
        /// From 0; below the degree of the service.
        slot: u8,
    },
}

/// How copies of a service stand by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// One active copy, started where the grant goes.
    #[default]
    Cold,
    /// One active copy and a passive one on the next candidate.
    Warm,
    /// `degree` active copies on different nodes.
    Hot,
}

/// What a service's supervisor is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceConfig {
    /// Its number.
    pub id: ServiceId,
    /// For people.
    pub name: String,
    /// Cold, warm or hot.
    pub strategy: Strategy,
    /// Active copies: 1 unless hot.
    pub degree: u8,
    /// Services that must be ready on the same node before this one starts.
    pub requires: Vec<ServiceId>,
    /// From start to ready at most.
    pub start_within: Micros,
    /// Threads that must beat, and how often at least. Empty: no hang detection.
    pub heartbeats: Vec<Micros>,
    /// From the stop request to the kill.
    pub grace: Micros,
    /// First wait before a restart; doubles each time up to `backoff_max`.
    pub backoff: Micros,
    /// Longest wait before a restart.
    pub backoff_max: Micros,
    /// A run of this length resets the back-off.
    pub stable_after: Micros,
    /// N: this many failures …
    pub failures: u8,
    /// … within T escalate to the next rung: restart, fail over, reboot hook.
    pub within: Micros,
    /// Whether the last rung, the reboot hook, may be used.
    pub may_reboot: bool,
}

impl ServiceConfig {
    /// A cold service with the usual timing.
    #[must_use]
    pub fn cold(id: ServiceId, name: &str) -> Self {
        Self {
            id,
            name: name.into(),
            strategy: Strategy::Cold,
            degree: 1,
            requires: Vec::new(),
            start_within: Micros::from_secs(2),
            heartbeats: Vec::new(),
            grace: Micros::from_millis(500),
            backoff: Micros::from_millis(50),
            backoff_max: Micros::from_secs(5),
            stable_after: Micros::from_secs(10),
            failures: 3,
            within: Micros::from_secs(30),
            may_reboot: false,
        }
    }
}

/// When a program's request for durable files is granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// When its own machine has them.
    #[default]
    Async,
    /// When another copy has received them.
    SemiSync,
    /// When `need` copies have them on their disks.
    Sync,
}

/// A group of files: one history of changes, on several nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Its number.
    pub id: GroupId,
    /// The slot of the cold service whose program changes the files.
    pub resource: ResourceId,
    /// The nodes that have them; the resource's candidates.
    pub copies: Vec<NodeId>,
    /// What a program waits for.
    pub mode: Mode,
    /// Under `sync`: how many copies, the writer's own among them.
    pub need: u8,
    /// Bytes of the log at most, at each copy.
    pub log_bytes: u64,
    /// A copy that is behind by more records is told of.
    pub lag: u64,
    /// Between two looks through a copy's files; zero for none.
    pub scrub: Micros,
}

impl GroupConfig {
    /// A group with the usual knobs.
    #[must_use]
    pub const fn new(id: GroupId, resource: ResourceId, copies: Vec<NodeId>) -> Self {
        Self { id, resource, copies, mode: Mode::Async, need: 2, log_bytes: 64 << 20, lag: 10_000, scrub: Micros::ZERO }
    }

    /// How many copies have to promise an era before anybody writes in it: of those that hold what was granted under `sync` one is
    /// among them; otherwise half of the copies.
    #[must_use]
    pub fn quorum(&self) -> u8 {
        let many = u8::try_from(self.copies.len()).unwrap_or(u8::MAX);
        match self.mode {
            Mode::Sync => (many + 1).saturating_sub(self.need).max(1),
            Mode::Async | Mode::SemiSync => many - many / 2,
        }
    }
}

/// Why a configuration was refused.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No voter is named.
    NoVoters,
    /// An arbiter is not a voter.
    ArbiterIsNoVoter(NodeId),
    /// A knob is outside its range.
    OutOfRange {
        /// Which, as in the configuration file.
        knob: &'static str,
        /// What would be right.
        want: &'static str,
    },
    /// Two resources or services share a number.
    Duplicate(&'static str, u16),
    /// A service requires one that does not exist, or itself by a circle.
    BadDependency(ServiceId),
    /// A resource is a slot that its service does not have.
    BadSlot(ResourceId),
    /// A group of files does not fit its resource or its copies.
    BadGroup(GroupId, &'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVoters => write!(f, "no voter is named: at least one node must decide"),
            Self::ArbiterIsNoVoter(node) => write!(f, "arbiter {node} is not among the voters: add it there"),
            Self::OutOfRange { knob, want } => write!(f, "`{knob}` is out of range: {want}"),
            Self::Duplicate(what, number) => write!(f, "two {what}s have the number {number}"),
            Self::BadDependency(service) => {
                write!(f, "service {service} requires an unknown service or, by a circle, itself")
            }
            Self::BadGroup(group, want) => write!(f, "group {group} of files: {want}"),
            Self::BadSlot(resource) => write!(f, "resource {resource} names a slot that its service does not have"),
        }
    }
}

impl Config {
    /// A configuration with the usual knobs.
    #[must_use]
    pub fn new(me: NodeId, bootstrap: Bootstrap) -> Self {
        Self {
            cluster: ClusterId(0x4150_5553),
            me,
            wire_version: crate::wire::USUAL,
            bootstrap,
            diagnosis: DiagnosisConfig::default(),
            consensus: ConsensusConfig::default(),
            views: ViewsConfig::default(),
            resources: Vec::new(),
            services: Vec::new(),
            groups: Vec::new(),
            mutant: None,
        }
    }

    /// Whether the protocols can keep what they promise under these knobs.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |ok: bool, knob, want| if ok { Ok(()) } else { Err(ConfigError::OutOfRange { knob, want }) };
        if self.bootstrap.voters.is_empty() {
            return Err(ConfigError::NoVoters);
        }
        if let Some(node) = self.bootstrap.arbiters.iter().find(|node| !self.bootstrap.voters.contains(node)) {
            return Err(ConfigError::ArbiterIsNoVoter(*node));
        }
        let d = &self.diagnosis;
        range((1..=16).contains(&d.observers), "diagnosis.observers", "1 to 16")?;
        range((1..=d.observers).contains(&d.convict), "diagnosis.convict", "1 to `observers`")?;
        range(d.period.0 >= 1_000, "diagnosis.period", "at least 1ms")?;
        range(
            d.deadline_floor.0 > 0 && d.deadline_floor <= d.deadline_ceiling,
            "diagnosis.deadline_floor",
            "above 0 and at most `deadline_ceiling`",
        )?;
        let c = &self.consensus;
        range(
            c.heartbeat.0 > 0 && c.election.0 >= 2 * c.heartbeat.0,
            "consensus.election",
            "at least twice `heartbeat`",
        )?;
        range(c.batch > 0, "consensus.batch", "at least 1")?;
        range(c.window > 0, "consensus.window", "at least 1")?;
        range(self.views.lease >= c.heartbeat.scale(3, 1), "views.lease", "at least three heartbeats")?;
        range(self.views.drift_ppm <= 100_000, "views.drift_ppm", "at most 100000")?;
        range((1..=crate::wire::VERSION).contains(&self.wire_version), "wire_version", "1 to 5")?;
        self.check_services()?;
        self.check_groups()
    }

    fn check_services(&self) -> Result<(), ConfigError> {
        for (at, service) in self.services.iter().enumerate() {
            if self.services[..at].iter().any(|other| other.id == service.id) {
                return Err(ConfigError::Duplicate("service", service.id.0));
            }
            if service.degree == 0 || (service.strategy != Strategy::Hot && service.degree != 1) {
                return Err(ConfigError::OutOfRange {
                    knob: "services.degree",
                    want: "at least 1, and 1 unless the strategy is hot",
                });
            }
            if self.requires_itself(service.id, service.id, self.services.len()) {
                return Err(ConfigError::BadDependency(service.id));
            }
        }
        for (at, resource) in self.resources.iter().enumerate() {
            if self.resources[..at].iter().any(|other| other.id == resource.id) {
                return Err(ConfigError::Duplicate("resource", resource.id.0));
            }
            if let Role::Slot { service, slot } = resource.role
                && self.service(service).is_none_or(|service| slot >= service.degree)
            {
                return Err(ConfigError::BadSlot(resource.id));
            }
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), ConfigError> {
        for (at, group) in self.groups.iter().enumerate() {
            let bad = |want| Err(ConfigError::BadGroup(group.id, want));
            let others = &self.groups[..at];
            if others.iter().any(|other| other.id == group.id) {
                return Err(ConfigError::Duplicate("group", group.id.0));
            }
            if others.iter().any(|other| other.resource == group.resource) {
                return bad("another group has its resource: one program writes one group");
            }
            let resource = self.resource(group.resource);
            let Some(ResourceConfig { role: Role::Slot { service, .. }, candidates, .. }) = resource else {
                return bad("its resource must be the slot of a service");
            };
            if self.service(*service).is_none_or(|service| service.strategy != Strategy::Cold) {
                return bad("its service must be cold: a standby would read files that change below it");
            }
            let mut copies = group.copies.clone();
            copies.sort_unstable();
            copies.dedup();
            if copies.len() != group.copies.len() || !(1..=16).contains(&copies.len()) {
                return bad("it has 1 to 16 different copies");
            }
            if candidates.len() != copies.len() || candidates.iter().any(|node| !copies.contains(node)) {
                return bad("its copies must be the candidates of its resource");
            }
            if !(1..=copies.len()).contains(&usize::from(group.need)) && group.mode == Mode::Sync {
                return bad("`need` is 1 to the number of copies");
            }
            if group.log_bytes < 1 << 16 {
                return bad("`log_bytes` is at least 65536");
            }
            if self.wire_version < crate::wire::FILES {
                return bad("`wire_version` must be 5");
            }
        }
        Ok(())
    }

    /// The group of files that a resource's program changes.
    #[must_use]
    pub fn group_of(&self, resource: ResourceId) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.resource == resource)
    }

    /// Whether `from` reaches `goal` by what it requires; an unknown service counts as reached.
    fn requires_itself(&self, goal: ServiceId, from: ServiceId, depth: usize) -> bool {
        let Some(service) = self.service(from) else { return true };
        depth == 0 && !service.requires.is_empty()
            || service
                .requires
                .iter()
                .any(|next| *next == goal || (depth > 0 && self.requires_itself(goal, *next, depth - 1)))
    }

    /// Between two heartbeats of a leader to a follower that has answered the last one: at most two thirds of the shortest election
    /// timeout, so that one which is late is repeated before anybody stands, and a third of a lease.
    #[must_use]
    pub fn rest(&self) -> Micros {
        let within = self.consensus.election.scale(2, 3).min(self.views.lease.scale(1, 3));
        within.max(self.consensus.heartbeat)
    }

    /// The service of this number.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&ServiceConfig> {
        self.services.iter().find(|service| service.id == id)
    }

    /// The resource of this number.
    #[must_use]
    pub fn resource(&self, id: ResourceId) -> Option<&ResourceConfig> {
        self.resources.iter().find(|resource| resource.id == id)
    }

    /// Whether this planted bug is on. Always false without the feature `mutants`.
    #[must_use]
    pub fn has(&self, mutant: Mutant) -> bool {
        cfg!(feature = "mutants") && self.mutant == Some(mutant)
    }
}
