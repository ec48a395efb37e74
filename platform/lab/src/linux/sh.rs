//! Commands of the system.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Runs a command to its end, and gives what it wrote.
///
/// # Errors
/// If it cannot be run or fails: with the command and what it said.
pub(crate) fn sh(words: &[&str]) -> Result<String, String> {
    feed(words, "")
}

/// The same with an input.
pub(crate) fn feed(words: &[&str], input: &str) -> Result<String, String> {
    let line = || words.join(" ");
    let (name, args) = words.split_first().ok_or("no command")?;
    let child =
        Command::new(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("{}: {error}", line()))?;
    if let Some(mut to) = child.stdin.take() {
        // Who reads nothing does not mind.
        let _ = to.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("{}: {error}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{}: {}", line(), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Looks again and again until it is so.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() > limit => return Err(format!("not within {} s: {error}", limit.as_secs())),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}
