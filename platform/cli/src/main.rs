//! The `apus` command.

mod args;
mod artifacts;
mod bench;
mod lists;
mod mutants;
mod run;
mod suite;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Usage errors, as in `sysexits.h`.
const USAGE: u8 = 64;
/// An error of the command itself.
const INTERNAL: u8 = 70;

/// Why a command ended without a verdict.
enum Trouble {
    /// The user can mend it.
    Usage(String),
    /// Something outside failed.
    Internal(String),
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
    // A reader that has seen enough closes the pipe: that is no error. Any other panic is told and exits as one.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if !text.contains("failed printing to stdout") {
            eprintln!("apus: internal error: {panic}");
        }
    }));
    std::panic::catch_unwind(|| act(cli.command)).unwrap_or(ExitCode::from(INTERNAL))
}

fn act(command: Command) -> ExitCode {
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Replay { artifact } => artifacts::replay(&artifact),
        Command::Shrink { artifact, out, seconds } => artifacts::shrink(&artifact, out.as_deref(), seconds),
        Command::Explain(args) => artifacts::explain(&args),
        Command::Why { artifact, node, time } => artifacts::why(&artifact, &node, &time),
        Command::Corpus(action) => artifacts::corpus(&action),
        Command::List { table: Some(path), .. } => lists::fault_table(&path),
        Command::List { what, format, .. } => lists::list(&what, format),
        Command::Doctor => lists::doctor(),
        Command::Schema => lists::schema(),
        Command::Bench(what) => bench::bench(&what),
        Command::Mutants(args) => mutants::mutants(&args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Trouble::Usage(what)) => {
            eprintln!("apus: {what}");
            ExitCode::from(USAGE)
        }
        Err(Trouble::Internal(what)) => {
            eprintln!("apus: {what}");
            ExitCode::from(INTERNAL)
        }
    }
}
