//! The keys of a scenario file: one table, read by the parser, the schema and the reference.

use apus_engine::Mutant;

use crate::checker::names::NAMES;
use crate::fault::{Kind, MS, Ns, S};
use crate::goal::GOALS;

/// A closed set of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// Exactly these.
    These(&'static [&'static str]),
    /// Kinds of faults.
    Kinds,
    /// Checkers.
    Checkers,
    /// Goals.
    Goals,
    /// Planted bugs.
    Mutants,
}

impl Words {
    pub(super) fn all(self) -> Vec<&'static str> {
        match self {
            Self::These(words) => words.to_vec(),
            Self::Kinds => Kind::ALL.iter().map(|kind| kind.spec().name).collect(),
            Self::Checkers => NAMES.iter().map(|row| row.name).collect(),
            Self::Goals => GOALS.iter().map(|goal| goal.name).collect(),
            Self::Mutants => Mutant::ALL.iter().map(|mutant| mutant.name()).collect(),
        }
    }

    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::These(_) => "word",
            Self::Kinds => "kind of fault",
            Self::Checkers => "checker",
            Self::Goals => "goal",
            Self::Mutants => "planted bug",
        }
    }
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Any text that is not empty.
    Text,
    /// Lower-case words joined by hyphens.
    Name,
    /// One of a set.
    Word(Words),
    /// Some of a set.
    WordList(Words),
    /// Names of other services.
    NameList,
    /// A whole number, least and most.
    Count(u64, u64),
    /// A whole number, or two.
    Counts(u64, u64),
    /// True or false.
    Flag,
    /// A duration, least and most.
    Time(Ns, Ns),
    /// A duration, or two.
    Times(Ns, Ns),
    /// A list of durations.
    TimeList(Ns, Ns),
    /// A share, at most so many parts per million.
    Share(u64),
    /// A share, or two.
    Shares(u64),
    /// One size or two, in the unit of the fault's kind.
    Sizes,
    /// Whom a fault is aimed at.
    Target,
    /// Reasons by checker.
    Reasons,
    /// A table.
    Table(&'static Table),
    /// A list of tables.
    Tables(&'static Table),
    /// A table of tables by kind of fault.
    ByKind(&'static Table),
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// What holds without it, for people; `None`: it must be there.
    pub(super) default: Option<&'static str>,
    pub(super) about: &'static str,
}

/// One table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// As in the file, such as `[[fault]]`; empty for the file itself.
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
}

impl Table {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn must(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, default: None, about }
}

const fn may(name: &'static str, shape: Shape, default: &'static str, about: &'static str) -> Key {
    Key { name, shape, default: Some(default), about }
}

/// Machines at most.
pub(super) const MOST_NODES: u64 = 5_000;
/// Nodes in the turmoil world at most.
pub const TURMOIL_NODES: u16 = 16;
/// The longest scenario.
const HOUR: Ns = 3_600 * S;
const NODES: Shape = Shape::Count(1, MOST_NODES);
/// The words for targets; others are node names.
pub(super) const TARGETS: &[&str] =
    &["all", "random", "voter", "minority", "half", "leader", "follower", "dispatcher", "bystander"];
/// Worlds that this version has.
pub(super) const WORLDS: &[&str] = &["heap", "turmoil", "emulated"];
/// Nodes in the emulated world at most.
pub const EMULATED_NODES: u16 = 32;

/// The file.
pub(super) static ROOT: Table = Table {
    name: "",
    about: "The scenario itself.",
    keys: &[
        must("name", Shape::Name, "the file's name without `.toml`"),
        must("about", Shape::Text, "two lines for an operator: what happens, and what must hold"),
        may("worlds", Shape::WordList(Words::These(WORLDS)), "[\"heap\"]", "worlds it runs in"),
        must("nodes", NODES, "machines, named `n0`, `n1`, …"),
        may(
            "voters",
            Shape::Count(1, 99),
            "the largest odd number up to `members` and 5",
            "how many nodes vote: the first ones",
        ),
        may("arbiters", Shape::Count(0, 98), "0", "how many of the voters, the last ones, only vote and own nothing"),
        may(
            "members",
            NODES,
            "`nodes`",
            "nodes that belong to the cluster at the start; the others wait for an `add-node` fault",
        ),
        must("duration", Shape::Time(S, HOUR), "length of the safety phase, in which faults happen"),
        may(
            "heal",
            Shape::Time(S, HOUR),
            "\"10s\"",
            "length of the liveness phase after it, in which everything must heal",
        ),
        may(
            "every",
            Shape::Count(1, 1_000_000),
            "1",
            "for heavy scenarios: of the seeds asked for only those run that this number divides",
        ),
        may("mutant", Shape::Word(Words::Mutants), "none", "a planted bug that the scenario must find"),
        may("cluster", Shape::Table(&CLUSTER), "the engine's defaults", "knobs of all nodes"),
        may("service", Shape::Tables(&SERVICE), "none", "supervised programs"),
        may("workload", Shape::Table(&WORKLOAD), "none", "what clients do"),
        may("files", Shape::Table(&FILES), "none", "replicated files of the first service"),
        may("fault", Shape::Tables(&FAULT), "none", "scripted faults"),
        may("swarm", Shape::ByKind(&SWARM), "none", "faults that each seed draws, by kind"),
        may("expect", Shape::Table(&EXPECT), "all invariants", "what must hold"),
    ],
};

/// `[cluster]`.
pub(super) static CLUSTER: Table = Table {
    name: "[cluster]",
    about: "Knobs of all nodes. What is left out keeps the engine's default.",
    keys: &[
        may(
            "rule",
            Shape::Word(Words::These(&["adaptive", "paper"])),
            "\"adaptive\"",
            "rule of diagnosis: the adaptive ring, or the paper's",
        ),
        may(
            "availability",
            Shape::Word(Words::These(&["safe", "prefer"])),
            "\"safe\"",
            "of the dispatcher: never two holders, or the 1998 rule",
        ),
        may("period", Shape::Time(MS, 60 * S), "\"200ms\"", "between two probes of a neighbour"),
        may("observers", Shape::Count(1, 16), "3", "neighbours that watch each node"),
        may("convict", Shape::Count(1, 16), "2", "accusers that make a verdict"),
        may("deadline_floor", Shape::Time(MS, 60 * S), "\"60ms\"", "shortest deadline of a probe"),
        may("deadline_ceiling", Shape::Time(MS, 60 * S), "\"800ms\"", "longest deadline of a probe"),
        may("suspicion", Shape::Time(0, 60 * S), "\"200ms\"", "how long a lone accusation waits for company"),
        may("heartbeat", Shape::Time(MS, 60 * S), "\"50ms\"", "between two heartbeats of the leader"),
        may("election", Shape::Time(MS, 60 * S), "\"300ms\"", "shortest election timeout; at least twice `heartbeat`"),
        may("lease", Shape::Time(MS, 60 * S), "\"600ms\"", "how long a lease lasts; at least three heartbeats"),
        may("drift", Shape::Share(100_000), "\"500ppm\"", "how far two clocks may drift apart"),
        may("batch", Shape::Count(1, 1_024), "64", "log entries in one packet at most"),
        may("keep", Shape::Count(1, 1_000_000), "256", "applied log entries kept before compaction"),
        may(
            "wire_version",
            Shape::Count(1, 5),
            "4, or 5 with `[files]`",
            "wire version that all nodes write at the start",
        ),
        may(
            "link_delay",
            Shape::Time(1_000, S),
            "\"200us\"",
            "one-way delay of a healthy link, half to one and a half of it",
        ),
        may("disk_delay", Shape::Time(1_000, S), "\"1ms\"", "time a healthy disk takes to sync"),
    ],
};

/// `[[service]]`.
pub(super) static SERVICE: Table = Table {
    name: "[[service]]",
    about: "One supervised program each.",
    keys: &[
        must("name", Shape::Name, "its name"),
        may(
            "strategy",
            Shape::Word(Words::These(&["cold", "warm", "hot"])),
            "\"cold\"",
            "one copy; one copy and a standby; or `degree` active copies",
        ),
        may("degree", Shape::Count(1, 16), "1, or 2 if hot", "active copies, on different nodes"),
        may("requires", Shape::NameList, "[]", "services that must be ready on the same node first"),
        may(
            "starts_in",
            Shape::Time(MS, 60 * S),
            "\"200ms\"",
            "from start to ready in a healthy run, half to one and a half of it",
        ),
        may("start_within", Shape::Time(MS, 600 * S), "\"2s\"", "from start to ready at most"),
        may(
            "heartbeats",
            Shape::TimeList(10 * MS, 600 * S),
            "[]",
            "a duration for each thread that beats: how often at least",
        ),
        may("grace", Shape::Time(0, 60 * S), "\"500ms\"", "from the stop request to the kill"),
        may("failures", Shape::Count(1, 100), "3", "this many failures …"),
        may("within", Shape::Time(MS, HOUR), "\"30s\"", "… within this time escalate"),
        may("may_reboot", Shape::Flag, "false", "whether the last rung, the reboot hook, may be used"),
    ],
};

/// `[workload]`.
pub(super) static WORKLOAD: Table = Table {
    name: "[workload]",
    about: "What clients do, from the start to the end.",
    keys: &[
        must(
            "kind",
            Shape::Word(Words::These(&["none", "notes", "flows"])),
            "nothing, notes put into the log, or requests to the cluster's address",
        ),
        may("clients", Shape::Count(1, 1_000), "4", "how many clients"),
        may("rate", Shape::Count(1, 10_000), "10", "what each of them does a second"),
    ],
};

/// `[files]`.
pub(super) static FILES: Table = Table {
    name: "[files]",
    about: "Files that the program of the first service changes, replicated to the first nodes. The service must be cold.",
    keys: &[
        may("copies", Shape::Count(1, 16), "3", "how many nodes have them"),
        may(
            "mode",
            Shape::Word(Words::These(&["async", "semi-sync", "sync"])),
            "\"async\"",
            "what the program waits for when it asks for durable files: its own disk, that another copy has received them, or that `need` copies have them on disk",
        ),
        may("need", Shape::Count(1, 16), "2", "copies under `sync`, the writer's own among them"),
        may("rate", Shape::Count(1, 10_000), "100", "what the program does a second"),
        may("log", Shape::Count(65_536, 1 << 40), "1048576", "bytes of a log at most, at each copy"),
        may("lag", Shape::Count(1, 1_000_000), "200", "a copy that is behind by more records is told of"),
        may("scrub", Shape::Time(0, HOUR), "\"0s\"", "between two looks through a copy's files; zero for none"),
        may(
            "tree",
            Shape::Count(1 << 20, 1 << 40),
            "none",
            "bytes of 64 files that all copies begin with; the program writes blocks of them anywhere, and comparing them may cost 1.1 times what differs",
        ),
        may("blocks", Shape::Count(1, 256), "1", "blocks of 4 KiB of the tree that it writes side by side"),
    ],
};

/// `[[fault]]`.
pub(super) static FAULT: Table = Table {
    name: "[[fault]]",
    about: "One scripted fault each; always carried out. Two values are a range from which each seed draws.",
    keys: &[
        must("kind", Shape::Word(Words::Kinds), "what happens"),
        must("at", Shape::Times(0, HOUR), "when it starts"),
        may("for", Shape::Times(MS, HOUR), "must be there if the kind lasts", "how long it lasts, drawn log-uniformly"),
        may("target", Shape::Target, "`all` for links and load, else `random`", "whom it hits"),
        may("rate", Shape::Shares(1_000_000), "the kind's", "how often, for kinds with a rate"),
        may("size", Shape::Sizes, "the kind's", "how much, for kinds with a size, drawn log-uniformly"),
    ],
};

/// One entry of `[swarm]`.
pub(super) static SWARM: Table = Table {
    name: "[swarm]",
    about: "One key for each kind of fault, `kind = { … }`. Each seed has the kind or not; what would cost the quorum is dropped.",
    keys: &[
        may("chance", Shape::Share(1_000_000), "\"50%\"", "chance that a seed has this kind at all"),
        may("count", Shape::Counts(1, 1_000), "[1, 2]", "how many a seed with it gets"),
        may("for", Shape::Times(MS, HOUR), "[\"100ms\", \"5s\"]", "how long each lasts, drawn log-uniformly"),
        may("target", Shape::Target, "`all` for links and load, else `random`", "whom each hits"),
        may("rate", Shape::Shares(1_000_000), "the kind's", "how often, for kinds with a rate, drawn log-uniformly"),
        may("size", Shape::Sizes, "the kind's", "how much, for kinds with a size, drawn log-uniformly"),
    ],
};

/// `[expect]`.
pub(super) static EXPECT: Table = Table {
    name: "[expect]",
    about: "What must hold. Every checker applies unless it is excepted with a reason.",
    keys: &[
        may("invariants", Shape::Word(Words::These(&["all"])), "\"all\"", "says that every checker applies"),
        may("except", Shape::Reasons, "none", "checkers that do not apply here, each with the reason"),
        may(
            "takeover_within",
            Shape::Time(MS, HOUR),
            "no bound",
            "after its holder fails, the dispatcher is held again",
        ),
        may("diagnosis_within", Shape::Time(MS, HOUR), "no bound", "after a crash every running node knows"),
        may(
            "news_within",
            Shape::Time(MS, HOUR),
            "no bound",
            "after the first verdict on a crash every running node knows",
        ),
        may(
            "converge_within",
            Shape::Time(MS, HOUR),
            "one second less than `heal`",
            "after healing everything is well",
        ),
        may(
            "blackout_within",
            Shape::Time(MS, HOUR),
            "no bound",
            "no longer than this does no client's segment reach a server; looked at where there are frames",
        ),
        may(
            "packets_at_rest",
            Shape::Count(1, 10_000),
            "no bound",
            "seven seconds after a fault, a start or a change of the leader, nodes send no more packets a second, on average over them",
        ),
        may("sometimes", Shape::WordList(Words::Goals), "[]", "goals that at least one seed must reach"),
        may(
            "fails",
            Shape::WordList(Words::Checkers),
            "[]",
            "checkers of which one must fail in some seed: the scenario shows a failure",
        ),
    ],
};

/// Every table, in the order of the reference.
pub(super) const TABLES: [&Table; 8] = [&ROOT, &CLUSTER, &SERVICE, &WORKLOAD, &FILES, &FAULT, &SWARM, &EXPECT];
