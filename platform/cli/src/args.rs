//! What can be said on the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use apus_engine::Mutant;
use apus_hashes::measure::Change;
use apus_sim::scenario::nearest;
use clap::builder::Styles;
use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit codes, as every help text and docs/scenarios.md tell them.
const CODES: &str = "\
Exit codes:
  0   pass: every property held
  1   a safety property was violated
  2   a liveness property was violated, or a seed took too long
  3   vacuous: a fault had no effect, or a goal was never reached
  4   no seed ran
  5   not deterministic: two runs of one seed differed
  64  wrong usage, or a bad scenario or artifact
  70  internal error, such as a file that cannot be written";

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Green.on_default());

/// Fault scenarios in CI, and the cluster they are about.
#[derive(Debug, Parser)]
#[command(name = "apus", version, styles = STYLES, max_term_width = 110, after_help = CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// How results are written: for people, or as one JSON document
    #[arg(long, global = true, value_enum, value_name = "text|json", hide_possible_values = true, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run scenarios over many seeds; without one, the shipped suite for a minute
    #[command(after_help = RUN_EXAMPLES, after_long_help = format!("{RUN_EXAMPLES}\n\n{CODES}"))]
    Run(RunArgs),
    /// Run an artifact or an incident again and compare its hashes
    #[command(
        after_help = "Exit codes: as `run` for the violation that is found again; 5 if the trace hash, or the state after any step, is another one."
    )]
    Replay {
        /// The artifact, or the incident
        artifact: PathBuf,
    },
    /// Make an artifact smaller: faults, then nodes, then work, then time
    #[command(after_help = "Exit codes: 0 written; 3 nothing is violated any more, and nothing is written.")]
    Shrink {
        /// The artifact
        artifact: PathBuf,
        /// Where to write the smaller one; the same file if left out
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Wall-clock budget, such as 60s
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
        budget: Duration,
    },
    /// Tell the story of an artifact or of incidents, and write pictures of it
    Explain(ExplainArgs),
    /// Why something in the cluster is as it is, over all nodes; or what led to an act in an artifact
    #[command(after_help = WHY)]
    Why(WhyArgs),
    /// Past failures that are run again
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// What there is: scenarios, faults, mutants, checkers, goals
    List {
        /// What to list; without it, how many there are of each
        #[arg(value_enum)]
        what: Option<Things>,
        /// Write the table of faults, as docs/faults.md has it, from runs of the shipped suite
        #[arg(long, value_name = "FILE")]
        table: Option<PathBuf>,
    },
    /// Look at this machine and this build, and say what a missing thing costs
    Doctor,
    /// The JSON schema of scenario files
    Schema,
    /// A completion script for a shell
    #[command(after_help = "Example: apus completions bash > ~/.local/share/bash-completion/completions/apus")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Manual pages, one for each command
    #[command(after_help = "Example: apus man /usr/local/share/man/man1")]
    Man {
        /// The folder they are written to
        dir: PathBuf,
    },
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Run every planted bug until a scenario catches it
    #[command(after_help = "Exit codes: 0 all were caught; 3 some were not.")]
    Mutants(MutantArgs),
    /// This machine as a node of a cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// What live nodes recorded of themselves
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// The whole cluster, as the node that runs here sees it: nodes, leases, services, what is amiss
    #[command(after_help = STATUS)]
    Status(StatusArgs),
    /// The same, live on a terminal, with rates and what nodes tell
    #[command(after_help = TOP)]
    Top(TopArgs),
    /// What nodes told, by the journals of all that can be asked
    #[command(after_help = EVENTS)]
    Events(EventArgs),
    /// Hand the address, or a slot of a service, over to a node
    #[command(after_help = MOVE)]
    Move(MoveArgs),
    /// Run a command at nodes whose files allow it
    #[command(after_help = EXEC)]
    Exec(ExecArgs),
    /// Copy a file to a node or from one, where its file allows it
    #[command(after_help = CP)]
    Cp(CpArgs),
    /// The cluster's address, as the node that runs here sees it
    Vip(VipArgs),
    /// A cluster of real nodes in namespaces of this machine, and faults for it; Linux, as root
    #[command(subcommand)]
    Lab(crate::lab::LabCommand),
    /// Supervised programs, as the node that runs here sees them
    Service(ServiceArgs),
    /// Files that several nodes have
    Repl(crate::repl::ReplArgs),
    /// Say that a thread of a supervised program lives, from within that program
    #[command(after_help = HBEAT)]
    Hbeat {
        /// The thread's number, from 0
        thread: u32,
        /// It beats again within this time, such as 2s; 0 ends its promise
        #[arg(value_parser = promise)]
        timeout: Duration,
    },
    /// Keep one copy of a service: what a node starts
    #[command(hide = true)]
    Keep {
        /// The copy's folder
        folder: PathBuf,
    },
    /// Serve the mount over a group of files: what a node starts
    #[command(hide = true)]
    Fallback {
        /// The group's folder
        root: PathBuf,
        /// Which files belong to it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        patterns: Vec<String>,
    },
    /// The cluster's nodes and their certificates
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Configuration files of nodes: are they right, and what would one change
    #[command(subcommand)]
    Config(crate::operate::ConfigCommand),
    /// Take a node's work away while somebody works on it, or give it back
    Maintenance(crate::operate::MaintenanceArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a new cluster's authority and this node's certificate, once
    Init {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
        /// Also make the certificates of all other nodes, each in a folder below this one
        #[arg(long, value_name = "FOLDER")]
        others: Option<PathBuf>,
        /// How many days the nodes' certificates are good
        #[arg(long, value_name = "DAYS", default_value_t = apus_node::cluster::DAYS, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
    },
    /// Make a token that lets one node in, once; on the node that makes certificates
    Token {
        /// How many seconds it works
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        life: u64,
        /// Only for this node, which may be known already: it gets a new key
        #[arg(long, value_name = "NODE")]
        node: Option<u8>,
        /// Where the new node asks, if not at this node's own address
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<String>,
        /// The control socket of the node that runs here
        #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
        control: PathBuf,
    },
    /// Let this machine in: make its key, get its certificate, write its configuration
    Join {
        /// What `apus cluster token` said
        token: String,
        /// The hardware address of the port with the cluster's address, if it has one; see `ip link`
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// The configuration to write
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
        /// Folder of the store and, in it, of the keys
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/apus")]
        folder: PathBuf,
        /// The number to have, if not the lowest that is free
        #[arg(long, value_name = "NODE")]
        node: Option<u8>,
        /// Where the others reach this node, if not whence it asks
        #[arg(long, value_name = "ADDRESS")]
        address: Option<std::net::IpAddr>,
        /// Its share of the clients, relative to that of the others
        #[arg(long, value_name = "WEIGHT", default_value_t = 1)]
        weight: u32,
    },
    /// Nodes, ends of certificates, connections, refusals
    #[command(after_help = "Exit codes: 0 all is well; 1 a certificate ends soon, or nodes speak in the clear.")]
    Status {
        /// The control socket of the node that runs here
        #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
        control: PathBuf,
    },
    /// Take a node out for good: its certificate is refused by all
    Leave {
        #[command(flatten)]
        of: OfNode,
        /// Only tell what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// New certificates, or the next step to a new authority; on the node that makes certificates
    Rotate {
        /// What to do
        #[arg(value_enum)]
        what: Rotation,
        /// The control socket of the node that runs here
        #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
        control: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rotation {
    /// New certificates for all nodes, by the authority there is
    Node,
    /// First step: all nodes believe a new authority too
    Install,
    /// Second step: the new authority makes all certificates; the old one is believed for a day more
    Use,
    /// Third step: the old authority is believed no more
    Remove,
}

const WHY: &str = "\
Examples:
  apus why vip                    the address of the cluster
  apus why web                    a service, or one slot of it: web.1
  apus why n2                     a node
  apus why ARTIFACT n2 7.5s       the last act of a node before a time, in an artifact

Exit codes: 0 told; 3 nothing is told of it; 64 there is no such thing; 70 no node answers here.";

const STATUS: &str = "\
Exit codes: 0 nothing is amiss; 1 something is; 2 there is no quorum; 64 the node refuses; 70 no node answers here.";

const TOP: &str = "\
Keys: up, down select; enter or w tells why; p pauses; q ends.
Exit codes: as `status` with --once; otherwise 0, and 70 where no node answers here.";

const EVENTS: &str = "\
A line each: time on this node's clock, node, what happened; the oldest first. With --format json a line of JSON each.
This node's journal goes back further than those of others, of which the last 4,096 entries are asked for.
Exit codes: 0 told; 1 told, but some journals are missing; 64 there is no such node; 70 no node answers here.";

const MOVE: &str = "\
Examples: apus move vip --to 2; apus move web.1 --to 0

Exit codes: 0 ordered, and in the log; 64 refused, with the reason; 70 no node answers here.";

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The address (vip), a service with one slot, or a slot such as web.1
    pub what: String,
    /// Number of the node
    #[arg(long, value_name = "NODE", value_parser = node)]
    pub to: u16,
    /// Only tell what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

const EXEC: &str = "\
Example: apus exec 1 2 -- /usr/bin/systemctl status apus

What may be run stands in `[remote]` of each node's own file; nothing, without.
Both nodes put down who asked what, and what came of it: `apus events`.
Exit codes: the command's own, of several nodes the highest; 128 and the signal that ended it;
124 ended because it took too long or said too much; 64 refused, with the reason;
70 no node answers here or there, it cannot be started, or the connection broke off.";

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Numbers of the nodes
    #[arg(value_name = "NODE", required = true, value_parser = node)]
    pub nodes: Vec<u16>,
    /// The command's absolute path, and its arguments
    #[arg(value_name = "CMD", last = true, required = true)]
    pub command: Vec<String>,
    /// Give it what is typed here, or comes by a pipe; for one node
    #[arg(long, short)]
    pub input: bool,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

const CP: &str = "\
Examples:
  apus cp site.conf 2:/srv/files/site.conf
  apus cp 2:/srv/files/core.7 .

From where to where stands in `[remote]` of the node's own file; nowhere, without.
A copy that broke off is gone on with by the same command.
Exit codes: 0 copied, whole; 64 refused, with the reason; 70 disk or connection failed, or no
node answers here.";

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// A file here, or NODE:PATH
    #[arg(value_name = "SRC")]
    pub from: String,
    /// Where to, likewise
    #[arg(value_name = "DST")]
    pub to: String,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The address (vip), a service, a slot or a node; or an artifact
    #[arg(value_name = "WHAT")]
    pub what: String,
    /// In an artifact: such as n2
    #[arg(value_parser = node, requires = "time")]
    pub node: Option<u16>,
    /// In an artifact: such as 7.5s or 812ms
    #[arg(value_parser = time, requires = "node")]
    pub time: Option<Duration>,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print one picture and end
    #[arg(long)]
    pub once: bool,
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    pub every: Duration,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    /// Go on with what comes, until it is interrupted
    #[arg(long, short)]
    pub follow: bool,
    /// Only what is not older, such as 10m; without it, everything
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Duration>,
    /// Only what this node told, such as n2
    #[arg(long, value_parser = node)]
    pub node: Option<u16>,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

const HBEAT: &str = "\
Example, in a shell that a service runs: while work; do apus hbeat 0 5s; done

The environment's NOTIFY_SOCKET names the keeper. Exit codes: 0 heard; 64 there is no keeper; 70 it does not listen.";

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    pub what: ServiceCommand,
    /// The control socket of the node that runs here
    #[arg(long, global = true, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Each slot: who holds it, and, if a copy is here, what it does and how the last one ended
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Format the store of a node of a new cluster, once
    Init {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
    },
    /// Run a node until SIGTERM or SIGINT
    #[command(
        after_help = "Exit codes: 0 ended by a signal; 64 a bad configuration; 70 the machine refuses something."
    )]
    Run {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
    },
    /// Take everything away from a node and give it nothing new; its connections go on
    Drain {
        #[command(flatten)]
        of: OfNode,
        /// Wait until its connections have ended; ask the node itself
        #[arg(long)]
        wait: bool,
        /// For so many seconds at most
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        within: u64,
        /// Only tell what would happen
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
    },
    /// End a drain
    Undrain(OfNode),
    /// Have another machine stopped by the plug-in that the configuration names
    #[command(after_help = crate::operate::FENCE)]
    Fence(crate::operate::FenceArgs),
    /// Print a unit for systemd that runs this node
    #[command(
        after_help = "Example: apus node unit > /etc/systemd/system/apus.service && systemctl daemon-reload && systemctl enable --now apus"
    )]
    Unit {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
    },
    /// Undo what a killed node has left on its machine: the address, kernel settings, rules
    Clear {
        /// The node's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/apus.toml")]
        config: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OfNode {
    /// Number of the node
    pub node: u16,
    /// The control socket of the node that runs here
    #[arg(long, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

/// Where a node listens if its configuration does not say.
pub(crate) const CONTROL: &str = "/run/apus/control";
/// Names another socket for all commands of a shell.
pub(crate) const SOCKET_ENV: &str = "APUS_CONTROL";

#[derive(Debug, Args)]
pub(crate) struct VipArgs {
    #[command(subcommand)]
    pub what: VipCommand,
    /// The control socket of the node that runs here
    #[arg(long, global = true, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VipCommand {
    /// Who has the address, which nodes serve, the data plane and what became of its frames
    Status,
    /// The table in use: slots of each server
    Table,
    /// Change the address, or how servers are chosen, on all nodes and for good
    #[command(
        after_help = "Another key or address moves clients: what they have open ends. Another size moves few of them."
    )]
    Set {
        /// The IPv4 address, or none
        #[arg(long, value_name = "ADDRESS")]
        v4: Option<String>,
        /// The IPv6 address, or none
        #[arg(long, value_name = "ADDRESS")]
        v6: Option<String>,
        /// What of a packet decides: source, ports or quic
        #[arg(long)]
        key: Option<String>,
        /// The table has 2 to this power slots
        #[arg(long, value_parser = clap::value_parser!(u8).range(4..=20))]
        log2_slots: Option<u8>,
        /// Only tell what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Each frame of the data plane and what becomes of it, a line each
    Trace(TraceArgs),
    /// Hand the address over to a node
    Move {
        /// Number of the node
        #[arg(long, value_name = "NODE")]
        to: u16,
        /// Only tell what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Write a capture for Wireshark instead, with verdict, reason, slot and server as the comment of each frame
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
    /// End after so many frames
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub frames: u64,
    /// End after this long
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = time)]
    pub lasts: Duration,
    /// Keep so many bytes of each frame at most
    #[arg(long, value_name = "N", default_value_t = 65_535, value_parser = clap::value_parser!(u32).range(14..=131_072))]
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[value(alias = "table")]
    Text,
    /// One JSON document, for programs
    Json,
    /// Lines of comma-separated values: `bench dispatch` alone has them
    Csv,
}

/// A world to run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum World {
    /// Event heap and virtual time: millions of seeds
    Heap,
    /// The shipped host loop, transport and store in turmoil: at most 16 nodes
    Turmoil,
    /// Real TCP stacks on a virtual Ethernet, through the dispatcher's data plane: at most 32 nodes
    Emulated,
    /// Real daemons in namespaces of this machine, at the pace of the clock: at most 16 nodes. Linux, as root. Takes every scenario
    /// whose faults a lab can inject, whatever its `worlds` are; one seed if left out
    Live,
    /// Each simulated world that a scenario names, one after the other
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Things {
    Scenarios,
    Faults,
    Mutants,
    Checkers,
    Goals,
}

const RUN_EXAMPLES: &str = "\
Examples:
  apus run                                              the shipped suite for a minute
  apus run scenarios --seeds 0..20000 --shard 0/4       a quarter of a night's seeds
  apus run dispatcher-power-off --seed 94               one seed of one shipped scenario
  apus run my.toml --budget 3m --shrink --artifacts out --junit out/junit.xml
  sudo apus run vip-healthy --world emulated --tap apus0     and: curl http://10.8.0.100/";

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Scenario files, folders of them, or names of shipped scenarios
    pub scenarios: Vec<String>,
    /// Seeds A..B, B not included; 0..1000 if left out, 0..20000 for several scenarios, 0..1 live
    #[arg(long, value_name = "A..B", value_parser = seeds, conflicts_with_all = ["seed", "seed_from_commit"], help_heading = "Seeds")]
    pub seeds: Option<(u64, u64)>,
    /// One seed
    #[arg(long, value_name = "N", conflicts_with = "seed_from_commit", help_heading = "Seeds")]
    pub seed: Option<u64>,
    /// One seed made from a commit's hash, so that each commit tries another
    #[arg(long, value_name = "SHA", value_parser = commit, help_heading = "Seeds")]
    pub seed_from_commit: Option<u64>,
    /// Run part I of N: seeds with seed mod N = I
    #[arg(long, value_name = "I/N", value_parser = shard, help_heading = "Seeds")]
    pub shard: Option<(u64, u64)>,
    /// Go on after the first failing seed of a scenario
    #[arg(long, help_heading = "Seeds")]
    pub keep_going: bool,
    /// Threads; all processors if left out
    #[arg(long, value_name = "N", value_parser = jobs, help_heading = "Time")]
    pub jobs: Option<NonZeroUsize>,
    /// Start no seed after this long, such as 60s or 20m, over all scenarios
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Time")]
    pub budget: Option<Duration>,
    /// End a seed that takes longer, and count it as failed
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Time")]
    pub timeout_per_seed: Option<Duration>,
    /// The world to run in
    #[arg(long, value_enum, default_value_t = World::Heap, help_heading = "What runs")]
    pub world: World,
    /// Plant a bug; see `apus list mutants`
    #[arg(long, value_name = "NAME", value_parser = mutant, help_heading = "What runs")]
    pub mutant: Option<Mutant>,
    /// Run this share of the seeds twice and compare
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, require_equals = true, default_missing_value = "100",
          value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "What runs")]
    pub check_determinism: Option<u8>,
    /// Join the virtual Ethernet of one scenario to a TAP device that is made for it, at the pace of the clock: curl can talk to the
    /// cluster. Linux, as root, with --world emulated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seeds", "shard", "jobs", "budget", "timeout_per_seed", "list", "shrink", "artifacts", "junit", "check_determinism"], help_heading = "What runs")]
    pub tap: Option<String>,
    /// With --tap: end after this long, such as 60s; the scenario's own length if left out
    #[arg(long = "for", value_name = "TIME", value_parser = time, requires = "tap", help_heading = "What runs")]
    pub lasts: Option<Duration>,
    /// Only name the scenarios that would run
    #[arg(long, help_heading = "What runs")]
    pub list: bool,
    /// Shrink the first failure of each scenario, for this long at most
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = time,
          help_heading = "Results")]
    pub shrink: Option<Duration>,
    /// Where artifacts of failures go; `artifacts` if only --shrink is given
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    pub artifacts: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = "Write a JUnit report", help_heading = "Results")]
    pub junit: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The artifact, or an incident
    pub artifact: PathBuf,
    /// With an incident: those of other nodes, drawn together
    pub more: Vec<PathBuf>,
    /// Show every line of the trace from A to B in place of the story, such as 14.4s..14.9s
    #[arg(long, value_name = "A..B", value_parser = times)]
    pub trace: Option<(Duration, Duration)>,
    /// Write a self-contained page with a time line
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a Mermaid sequence diagram of the messages that matter
    #[arg(long, value_name = "FILE")]
    pub mermaid: Option<PathBuf>,
    /// Write a capture with the bytes of every packet
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
    /// Write a trace for Perfetto or Chrome
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
    /// Write all four into a folder, named after the artifact
    #[arg(long, value_name = "DIR", conflicts_with_all = ["html", "mermaid", "pcapng", "perfetto"])]
    pub all: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IncidentCommand {
    /// Copy a node's record into one file, while the node runs or after its end; `apus replay` and `apus explain` take it
    #[command(after_help = "Exit codes: 0 written; 64 nothing is recorded, or the record is damaged.")]
    Export {
        /// The node's folder
        #[arg(long, value_name = "DIR", default_value = "/var/lib/apus")]
        node: PathBuf,
        /// Only about this long before the end, such as 10m
        #[arg(long, value_name = "TIME", value_parser = time)]
        last: Option<Duration>,
        /// Where to write it
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// Run every artifact of a folder again: it must fail with its planted bug, and pass without it
    #[command(after_help = "Exit codes: 0 every entry does as it should; 1 one does not; 4 there is none.")]
    Run {
        /// The folder
        #[arg(default_value = "scenarios/corpus")]
        dir: PathBuf,
    },
    /// Copy an artifact into a folder, if it does as an entry should
    Add {
        /// The artifact
        artifact: PathBuf,
        /// The folder
        #[arg(default_value = "scenarios/corpus")]
        dir: PathBuf,
    },
    /// Shrink every artifact of a folder, and drop those that fail alike by the same faults
    Minimize {
        /// The folder
        #[arg(default_value = "scenarios/corpus")]
        dir: PathBuf,
        /// Wall-clock budget for each, such as 30s
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
        budget: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Events a second, seeds and node years an hour, memory by cluster size
    Sim {
        /// Seconds for each row
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Exhaustive search of a small cluster
    Search {
        /// Unique states at most
        #[arg(long, default_value_t = 1_000_000)]
        states: u64,
        /// Nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=4))]
        nodes: u16,
        /// Faults in one history at most: a loss, a repetition, a crash, a timeout, something overtaken
        #[arg(long, default_value_t = 2)]
        faults: u8,
        /// Milliseconds that pass in one history
        #[arg(long, default_value_t = 1_000)]
        horizon: u64,
        /// Threads; all processors if left out
        #[arg(long, value_name = "N", value_parser = jobs)]
        jobs: Option<NonZeroUsize>,
        /// Plant a bug
        #[arg(long, value_name = "NAME", value_parser = mutant)]
        mutant: Option<Mutant>,
    },
    /// Diagnosis of one crash by cluster size
    Diagnosis {
        /// Nodes
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(2..=5_000))]
        nodes: u16,
        /// Seeds
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Threads; all processors if left out
        #[arg(long, value_name = "N", value_parser = jobs)]
        jobs: Option<NonZeroUsize>,
    },
    /// Ways to choose a server for a client: loads, clients moved, time, memory, and which to take
    #[command(after_help = DISPATCH_EXAMPLES)]
    Dispatch(DispatchArgs),
    /// Ways to capture what programs do to files: what each costs them, on your own disk
    #[command(after_help = REPL_EXAMPLES)]
    Repl(ReplArgs),
}

const REPL_EXAMPLES: &str = "\
Examples:
  apus bench repl --dir /var/lib
  apus bench repl --dir /srv --workloads sqlite-normal,redis --ways again,interposer --rounds 15 --format json

Each round has processes and files of its own, which do short slots of work in turns and back. A
ratio is the median of the rounds, with the interval in which 95 % of the medians lie that such
rounds give. `again` shows what chance does. docs/replication.md tells of the ways. The interposer's
library is built by `cargo build --release -p apus-interpose`.";

#[derive(Debug, Args)]
pub(crate) struct ReplArgs {
    /// A folder on the disk that is meant; what is made there goes in the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Rounds of each workload
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(7..=1000))]
    pub rounds: u16,
    /// Turns of a round: in each, every way has two slots
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub turns: u16,
    /// sqlite-normal, sqlite-full, random-fsync, append, rename, redis; all if left out
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// again, other, interposer, replay, fuse, fuse-device, fuse-through, fanotify-after, fanotify-before, seccomp, ebpf; all if left out
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub ways: Vec<String>,
    /// The interposer's library; beside this program if left out
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
    /// A part of the measurement that runs in a process of its own
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true, value_name = "ARGS")]
    pub role: Vec<String>,
}

const DISPATCH_EXAMPLES: &str = "\
Examples:
  apus bench dispatch --servers 16 --change remove
  apus bench dispatch --servers 3 --weights 1,1,4 --clients access.txt --change drain --format csv
  apus bench dispatch --servers 256 --weights 1..100 --clients zipf --change roll --plots out

--format may also be csv, or table (text). docs/dispatch-table.md tells of the columns.";

#[derive(Debug, Args)]
pub(crate) struct DispatchArgs {
    /// Servers
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(apus_hashes::MAX_SERVERS)))]
    pub servers: u16,
    /// A weight for each server, such as 1,1,4; or a range that they go through again and again, such as 1..100
    #[arg(long, value_name = "W,W,…|A..B", value_parser = weights, default_value = "1..1")]
    pub weights: Weights,
    /// uniform, zipf, nat, or a file with a line for each client: an address and, if wanted, its packets
    #[arg(long, value_name = "SHAPE|FILE", default_value = "uniform")]
    pub clients: String,
    /// Clients that are drawn where no file is given
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1_000..=20_000_000))]
    pub many: u32,
    /// What happens to the servers: add, remove, drain, reweight, roll
    #[arg(long, value_name = "CHANGE", default_value = "remove", value_parser = change)]
    pub change: Change,
    /// Write plots into a folder, each as PNG and SVG
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// Do not count instructions; they are counted where valgrind is present
    #[arg(long)]
    pub no_instructions: bool,
    /// Looks up with this contender and does nothing else: what is run in valgrind
    #[arg(long, hide = true, value_name = "NAME")]
    pub count: Option<String>,
}

/// Weights as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    Each(Vec<u32>),
    Range(u32, u32),
}

#[derive(Debug, Args)]
pub(crate) struct MutantArgs {
    /// Only these; all if none is named
    #[arg(value_parser = mutant)]
    pub names: Vec<Mutant>,
    /// Seeds of each scenario at most
    #[arg(long, default_value_t = 200)]
    pub seeds: u64,
    /// Threads; all processors if left out
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<NonZeroUsize>,
    /// Start no seed of a planted bug after this long
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = time)]
    pub timeout: Duration,
    /// Only this scenario
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Write the table, as docs/mutants.md has it; rows of planted bugs that are not named are kept
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
}

/// `A..B`.
fn seeds(text: &str) -> Result<(u64, u64), String> {
    let wrong = || "want A..B with A below B, such as 0..1000".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = if from.is_empty() { 0 } else { from.parse().map_err(|_| wrong())? };
    let to = to.parse().map_err(|_| wrong())?;
    if from < to { Ok((from, to)) } else { Err(wrong()) }
}

/// `I/N`.
fn shard(text: &str) -> Result<(u64, u64), String> {
    let wrong = || "want I/N with I below N, such as 0/4".to_owned();
    let (i, n) = text.split_once('/').ok_or_else(wrong)?;
    let (i, n) = (i.parse().map_err(|_| wrong())?, n.parse().map_err(|_| wrong())?);
    if i < n { Ok((i, n)) } else { Err(wrong()) }
}

/// The seed of a commit: the first 7 hex digits of its hash, so that an abbreviated hash means the same seed.
fn commit(text: &str) -> Result<u64, String> {
    let wrong = || "want a commit's hash of 7 to 64 hex digits, such as the output of `git rev-parse HEAD`".to_owned();
    if !(7..=64).contains(&text.len()) || !text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u64::from_str_radix(&text[..7], 16).map_err(|_| wrong())
}

/// `1,1,4` or `1..100`.
fn weights(text: &str) -> Result<Weights, String> {
    let one = |word: &str| match word.trim().parse() {
        Ok(weight @ 1..=65_535) => Ok(weight),
        _ => Err(format!(
            "`{word}` is no weight: want 1 to 65535 for each server, such as 1,1,4, or a range such as 1..100"
        )),
    };
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (one(from)?, one(to)?);
        return if from <= to {
            Ok(Weights::Range(from, to))
        } else {
            Err(format!("want {to}..{from}, the smaller first"))
        };
    }
    text.split(',').map(one).collect::<Result<_, _>>().map(Weights::Each)
}

fn change(name: &str) -> Result<Change, String> {
    Change::ALL.iter().copied().find(|change| change.name() == name).ok_or_else(|| {
        let near = nearest(name, Change::ALL.iter().map(|change| change.name()));
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        format!("{near}want add, remove, drain, reweight or roll")
    })
}

/// `20m`, `60s`, `1.5s`, `500ms`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "want a number and ns, us, ms, s, m or h, such as 90s or 1.5s".to_owned();
    apus_sim::scenario::read_time(text).map(Duration::from_nanos).map_err(|_| wrong())
}

/// `2s`, or `0`.
fn promise(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(Duration::ZERO) } else { time(text) }
}

/// `14.4s..14.9s`.
fn times(text: &str) -> Result<(Duration, Duration), String> {
    let wrong = || "want A..B with A below B, such as 14.4s..14.9s".to_owned();
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let (from, to) = (time(from)?, time(to)?);
    if from < to { Ok((from, to)) } else { Err(wrong()) }
}

fn jobs(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "want how many threads, at least 1".to_owned())
}

/// `n3` or `3`.
pub(crate) fn node(text: &str) -> Result<u16, String> {
    text.strip_prefix('n').unwrap_or(text).parse().map_err(|_| "want a node such as n2".to_owned())
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| {
        let near = nearest(name, Mutant::ALL.iter().map(|mutant| mutant.name()));
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        format!("{near}`apus list mutants` names them all")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn odd_values_are_refused() {
        for text in ["5", "5..5", "9..1", "a..b", "..", "0..99999999999999999999", "-1..4"] {
            assert!(seeds(text).is_err(), "{text}");
        }
        assert_eq!(seeds("..7"), Ok((0, 7)));
        for text in ["4/4", "1", "0/0", "-1/2", "1/2/3"] {
            assert!(shard(text).is_err(), "{text}");
        }
        assert_eq!(shard("3/4"), Ok((3, 4)));
        for text in ["", "abc", "zzzzzzzz", "0x12345678", "µµµµµµµµ"] {
            assert!(commit(text).is_err(), "{text}");
        }
        assert_eq!(commit("deadbeefdeadbeefffff"), Ok(0x0dea_dbee));
        assert_eq!(commit("deadbee"), Ok(0x0dea_dbee));
        for text in ["", "5", "s", "5 parsecs", "-3s", "1e3s"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1_500)));
        for text in ["", "0", "1,,2", "1,x", "65536", "5..1", "0..3", "-1", "1..2..3"] {
            assert!(weights(text).is_err(), "{text}");
        }
        assert_eq!(weights("1, 2,65535"), Ok(Weights::Each(vec![1, 2, 65_535])));
        assert_eq!(weights("1..100"), Ok(Weights::Range(1, 100)));
        assert!(change("remvoe").is_err_and(|what| what.contains("`remove`")));
        assert!(node("m3").is_err() && node("n70000").is_err());
        assert!(mutant("no-such").is_err_and(|what| what.contains("apus list mutants")));
        assert!(mutant("grant-without-wiat").is_err_and(|what| what.contains("grant-without-wait")));
    }
}
