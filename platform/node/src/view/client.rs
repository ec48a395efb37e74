//! Questions to a running node that are answered by many lines.

use std::path::Path;
#[cfg(unix)]
use std::time::Duration;

use serde_json::Value;

use crate::Error;

/// What comes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// More is wanted.
    More,
    /// Nothing more is.
    Enough,
}

/// A node that says nothing for so long does not answer: while there is nothing to tell it says so every two seconds.
#[cfg(unix)]
const SILENCE: Duration = Duration::from_secs(15);

/// Asks a running node, and gives each line of its answer to `each`. The last line has `end`.
///
/// # Errors
/// If no node listens there, it falls silent, or it refuses: with what it said.
#[cfg(unix)]
pub fn stream(socket: &Path, question: &Value, mut each: impl FnMut(&Value) -> Flow) -> Result<(), Error> {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    let place = socket.display();
    let failed = |error: &dyn std::fmt::Display| {
        Error::Failed(format!(
            "{place}: {error}; does a node run here, and are you its owner? `--control` names another socket"
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(SILENCE)).map_err(|error| failed(&error))?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(|error| failed(&error))?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| failed(&error))?;
        let line: Value = serde_json::from_str(&line).map_err(|error| Error::Failed(format!("{place}: {error}")))?;
        if let Some(what) = line.get("error").and_then(Value::as_str) {
            return Err(Error::Usage(what.into()));
        }
        if line.get("beat").is_none() && each(&line) == Flow::Enough || line.get("end").is_some() {
            return Ok(());
        }
    }
    Err(failed(&"the node ended meanwhile"))
}

/// Asks a running node.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(unix))]
pub fn stream(_: &Path, _: &Value, _: impl FnMut(&Value) -> Flow) -> Result<(), Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}
