//! What the tests' programs do alike: they are nodes themselves, and end with a code.

use std::process::ExitCode;
use std::time::Instant;

use apus_node::{Config, run};

/// Runs one node.
pub(crate) fn node(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let config = Config::read(file, &text).map_err(|error| error.to_string())?;
    let began = Instant::now();
    run(&config, move |line| eprintln!("{:9.3} {line}", began.elapsed().as_secs_f64()))
        .map_err(|error| error.to_string())
}

/// Ends the test of this name: with what went wrong, if anything did.
pub(crate) fn end(name: &str, result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{name}: {what}");
            ExitCode::FAILURE
        }
    }
}
