//! What an operator says of files and nodes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{CONTROL, OfNode};

const CHECK: &str = "\
Examples:
  apus config check /etc/apus.toml
  apus config check node0.toml node1.toml node2.toml     also whether they contradict each other

Exit codes: 0 they are right; 1 something is wrong, told with file, line and mend; 64 a file cannot be read.";

const APPLY: &str = "\
The address and the weights of nodes change at once, on all nodes, through the log. All else waits for `systemctl reload apus`, which
stops no program: --dry-run tells what, and which copies are started anew then.

Exit codes: 0 applied, or told; 64 refused, or the file is wrong; 70 no node answers here.";

pub(crate) const FENCE: &str = "\
The log says first that it is done: without a majority nobody is fenced. docs/daemon.md tells what the plug-in is given and what its
exit code means.

Exit codes: 0 the machine is stopped; 64 refused, failed, or not known; 70 no node answers here.";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read files and tell everything that is wrong in them
    #[command(after_help = CHECK)]
    Check {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Also whether this machine has what the file of its node names: programs, users, folders, port
        #[arg(long)]
        here: bool,
    },
    /// Have the node that runs here take in a file
    #[command(after_help = APPLY)]
    Apply {
        /// The file
        #[arg(default_value = "/etc/apus.toml")]
        file: PathBuf,
        /// Only tell what would happen
        #[arg(long)]
        dry_run: bool,
        /// The control socket of the node that runs here
        #[arg(long, value_name = "SOCKET", default_value = CONTROL)]
        control: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArgs {
    /// Begin or end it
    #[arg(value_enum)]
    pub what: Switch,
    #[command(flatten)]
    pub of: OfNode,
    /// Why, for everybody to see
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
    /// Only tell what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until it has nothing to do any more; ask the node itself
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// For so many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub within: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct FenceArgs {
    #[command(flatten)]
    pub of: OfNode,
    /// What is done to it
    #[arg(long, value_enum, default_value_t = Action::Off)]
    pub action: Action,
    /// Why, for everybody to see
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub why: String,
    /// Also while it is up
    #[arg(long)]
    pub force: bool,
    /// Only tell what would be run
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// It is off afterwards
    Off,
    /// It begins anew
    Reboot,
    /// Nothing: could it be stopped?
    Status,
}

impl Action {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Off => apus_node::Action::Off.word(),
            Self::Reboot => apus_node::Action::Reboot.word(),
            Self::Status => apus_node::Action::Status.word(),
        }
    }
}
