//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Fault scenarios in CI, and the cluster they are about.
///
/// Exit codes of `run`: 0 pass, 1 safety violated, 2 liveness violated, 3 vacuous, 4 no seed ran, 5 not deterministic,
/// 64 usage, 70 internal error.
#[derive(Debug, Parser)]
#[command(name = "apus", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run scenarios over many seeds; without one, the shipped suite for a minute
    Run(RunArgs),
    /// Run an artifact again and compare its trace hash
    Replay {
        /// The artifact
        artifact: PathBuf,
    },
    /// Make an artifact smaller
    Shrink {
        /// The artifact
        artifact: PathBuf,
        /// Where to write the smaller one; the same file if left out
        #[arg(long)]
        out: Option<PathBuf>,
        /// Wall-clock budget in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Tell the story of an artifact, and write pictures of it
    Explain(ExplainArgs),
    /// What led to the last act of a node before a time
    Why {
        /// The artifact
        artifact: PathBuf,
        /// Such as n2
        node: String,
        /// Such as 7.5s or 812ms
        time: String,
    },
    /// Past failures that are run again
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// What there is: scenarios, faults, mutants, checkers, goals
    List {
        /// scenarios, faults, mutants, checkers, or goals
        what: String,
        /// text or json
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Write the table of faults, as docs/faults.md has it, from runs of the shipped suite
        #[arg(long, value_name = "FILE")]
        table: Option<PathBuf>,
    },
    /// Look at this machine and this build
    Doctor,
    /// The JSON schema of scenario files
    Schema,
    /// Measure
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Run every planted bug until a scenario catches it
    Mutants(MutantArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Scenario files, folders of them, or names of shipped scenarios
    pub scenarios: Vec<String>,
    /// Seeds A..B, B not included
    #[arg(long, value_name = "A..B", conflicts_with_all = ["seed", "seed_from_commit"])]
    pub seeds: Option<String>,
    /// One seed
    #[arg(long, conflicts_with = "seed_from_commit")]
    pub seed: Option<u64>,
    /// One seed made from a commit's hash, so that each commit tries another
    #[arg(long, value_name = "SHA")]
    pub seed_from_commit: Option<String>,
    /// Run part i of n: seeds with seed mod n = i
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
    /// Threads; all processors if left out
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Stop starting seeds after this long, such as 60s or 20m, over all scenarios
    #[arg(long)]
    pub budget: Option<String>,
    /// A seed that takes longer fails
    #[arg(long, value_name = "TIME")]
    pub timeout_per_seed: Option<String>,
    /// The world to run in
    #[arg(long, default_value = "heap")]
    pub world: String,
    /// Run this share of the seeds twice and compare
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "100")]
    pub check_determinism: Option<u8>,
    /// Shrink the first failure of each scenario, for this many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    pub shrink: Option<u64>,
    /// Write a `JUnit` report
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Where artifacts of failures go
    #[arg(long, value_name = "DIR")]
    pub artifacts: Option<PathBuf>,
    /// Plant a bug; see `apus list mutants`
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
    /// Go on after the first failing seed of a scenario
    #[arg(long)]
    pub keep_going: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The artifact
    pub artifact: PathBuf,
    /// Write a self-contained page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a Mermaid sequence diagram
    #[arg(long, value_name = "FILE")]
    pub mermaid: Option<PathBuf>,
    /// Write a capture for packet tools
    #[arg(long, value_name = "FILE")]
    pub pcapng: Option<PathBuf>,
    /// Write a trace for Perfetto or Chrome
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// Run every artifact of a folder again
    Run {
        /// The folder
        #[arg(default_value = "scenarios/corpus")]
        dir: PathBuf,
    },
    /// Copy an artifact into a folder
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
        /// Seconds for each
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Events a second, seeds and node years an hour, memory by cluster size
    Sim {
        /// text or json
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
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
        #[arg(long, default_value_t = 3)]
        nodes: u16,
        /// Faults in one history at most: a loss, a repetition, a crash, a timeout, something overtaken
        #[arg(long, default_value_t = 2)]
        faults: u8,
        /// Milliseconds that pass in one history
        #[arg(long, default_value_t = 1_000)]
        horizon: u64,
        /// Threads; all processors if left out
        #[arg(long)]
        jobs: Option<usize>,
        /// Plant a bug
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Diagnosis of one crash by cluster size
    Diagnosis {
        /// Nodes
        #[arg(long, default_value_t = 1_000)]
        nodes: u16,
        /// Seeds
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Threads; all processors if left out
        #[arg(long)]
        jobs: Option<usize>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MutantArgs {
    /// Only these; all if none is named
    pub names: Vec<String>,
    /// Seeds of each scenario at most
    #[arg(long, default_value_t = 200)]
    pub seeds: u64,
    /// Threads; all processors if left out
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Write the table, as docs/mutants.md has it
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
}
