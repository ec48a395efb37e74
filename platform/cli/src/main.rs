//! The `apus` command.

mod advice;
mod args;
mod artifacts;
mod bench;
mod bench_repl;
mod cluster;
mod config;
mod corpus;
mod dispatch;
mod doctor;
mod incident;
mod judge;
mod junit;
mod lab;
mod lists;
mod man;
mod mutants;
mod node;
mod operate;
mod plan;
mod plots;
mod print;
mod progress;
mod remote;
mod repl;
mod report;
mod run;
mod service;
mod suite;
mod tap;
mod top;
mod trace;
mod unit;
mod view;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

use apus_sim::scenario::Problems;
use clap::{CommandFactory as _, Parser};
use serde_json::json;

use args::{BenchCommand, Cli, Command, Format};

/// Usage errors, as in `sysexits.h`.
const USAGE: u8 = 64;
/// An error of the command itself.
const INTERNAL: u8 = 70;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a command ended without a verdict.
enum Trouble {
    /// The user can mend it.
    Usage(String),
    /// Scenario files that are wrong, each with its places.
    Scenarios(Vec<Problems>),
    /// Something outside failed.
    Internal(String),
}

impl Trouble {
    const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Scenarios(_) => USAGE,
            Self::Internal(_) => INTERNAL,
        }
    }

    fn tell(&self, format: Format) {
        let text = match self {
            Self::Usage(what) | Self::Internal(what) => what.clone(),
            Self::Scenarios(files) => files.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        };
        print::error(&text);
        if let Self::Scenarios(files) = self {
            let many: usize = files.iter().map(|file| file.all.len()).sum();
            print::error(&format!("{}: nothing was run", print::count(many as u64, "problem")));
        }
        if format == Format::Json {
            let problems: Vec<_> = match self {
                Self::Scenarios(files) => {
                    files.iter().flat_map(|file| &file.all).map(apus_sim::scenario::Problem::to_json).collect()
                }
                _ => Vec::new(),
            };
            print::json(&json!({ "apus": VERSION, "exit_code": self.code(), "error": text, "problems": problems }));
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let help = !error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if help { 0 } else { USAGE });
        }
    };
    // A panic in a world is caught there and becomes a violation; any other has an exit code of its own, never Rust's 101.
    static PANIC: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|panic| {
        if panic.payload_as_str() != Some("a scoped thread panicked")
            && let Ok(mut last) = PANIC.lock()
        {
            *last = panic.to_string();
        }
    }));
    let code = std::panic::catch_unwind(|| act(cli)).unwrap_or_else(|_| {
        print::error(&format!("internal error: {}", PANIC.lock().map(|last| last.clone()).unwrap_or_default()));
        INTERNAL
    });
    if let Some(why) = print::failed() {
        print::error(&format!("standard output: {why}"));
        return ExitCode::from(INTERNAL);
    }
    ExitCode::from(code)
}

fn act(cli: Cli) -> u8 {
    let format = cli.format;
    if format == Format::Csv && !matches!(cli.command, Command::Bench(BenchCommand::Dispatch(_))) {
        print::error("only `apus bench dispatch` writes CSV; want --format text or json");
        return USAGE;
    }
    let result = match cli.command {
        Command::Run(args) => run::run(&args, format),
        Command::Replay { artifact } => artifacts::replay(&artifact, format),
        Command::Shrink { artifact, out, budget } => artifacts::shrink(&artifact, out.as_deref(), budget, format),
        Command::Explain(args) => artifacts::explain(&args, format),
        Command::Why(args) => match (args.node, args.time) {
            (Some(node), Some(time)) => artifacts::why(Path::new(&args.what), node, time, format),
            _ => view::why(&args, format),
        },
        Command::Corpus(action) => corpus::corpus(&action, format),
        Command::List { table: Some(path), .. } => lists::fault_table(&path),
        Command::List { what, .. } => Ok(lists::list(what, format)),
        Command::Doctor => Ok(doctor::doctor(format)),
        Command::Schema => {
            print::json(&apus_sim::scenario::schema());
            Ok(0)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "apus", &mut script);
            print::line(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
        Command::Bench(what) => bench::bench(&what, format),
        Command::Mutants(args) => mutants::mutants(&args, format),
        Command::Node(what) => node::node(&what, format),
        Command::Incident(what) => incident::incident(&what, format),
        Command::Status(args) => view::status(&args, format),
        Command::Top(args) => top::top(&args, format),
        Command::Events(args) => view::events(&args, format),
        Command::Move(args) => view::hand_over(&args, format),
        Command::Exec(args) => remote::exec(&args, format),
        Command::Cp(args) => remote::cp(&args, format),
        Command::Man { dir } => man::pages(&dir, format),
        Command::Vip(args) => node::vip(&args, format),
        Command::Lab(what) => lab::lab(&what, format),
        Command::Repl(args) => repl::repl(&args, format),
        Command::Service(args) => service::service(&args, format),
        Command::Hbeat { thread, timeout } => service::hbeat(thread, timeout),
        Command::Keep { folder } => service::keep(&folder),
        Command::Fallback { root, patterns } => service::fallback(&root, &patterns),
        Command::Cluster(what) => cluster::cluster(&what, format),
        Command::Config(what) => config::config(&what, format),
        Command::Maintenance(args) => node::maintenance(&args, format),
    };
    result.unwrap_or_else(|trouble| {
        trouble.tell(format);
        trouble.code()
    })
}

/// Writes a file and the folders above it.
fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), Trouble> {
    let trouble = |error: std::io::Error| Trouble::Internal(format!("{}: {error}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(trouble)?;
    }
    std::fs::write(path, bytes).map_err(trouble)
}
