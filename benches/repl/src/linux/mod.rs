//! Linux on x86-64.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a benchmark and numbers of system calls, far below what a double or 32 bits hold"
)]

mod compare;
mod moments;
mod processes;
mod redis;
mod sqlite;
mod table;
mod ways;
mod work;

use std::io;
use std::path::Path;

pub use compare::{Cell, Plan, Report, Row, Step, run};
pub use moments::{Moments, Outcome, Part, moments, text};
pub use ways::WAYS;
pub use work::{KINDS, Kind};

/// Plays a role of a measurement: what [`Plan::me`] is run with more arguments for.
///
/// # Errors
/// There is no such role, or it could not do what it is for.
pub fn role(args: &[String]) -> io::Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["work", kind] => work::worker(kind),
        ["serve", workload, room] => moments::serve(workload, Path::new(room)),
        ["receive", ring, copy] => moments::receive(Path::new(ring), Path::new(copy)),
        ["drain", ring] => ways::drain(Path::new(ring), None),
        ["drain", ring, into] => ways::drain(Path::new(ring), Some(Path::new(into))),
        ["fuse", variant, root] => ways::mount(variant, Path::new(root)),
        ["fanotify", when] => ways::read(*when == "before"),
        ["listened", program @ ..] if !program.is_empty() => ways::listened(program),
        ["supervise", process] => ways::supervise(process.parse().unwrap_or(0)),
        other => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no role", other.join(" ")))),
    }
}
