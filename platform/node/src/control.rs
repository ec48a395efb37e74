//! The control socket: a line of JSON each way. Its file is the owner's only.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// Asks a running node one thing.
///
/// # Errors
/// If no node listens there, or it refuses: with what it said.
#[cfg(unix)]
pub fn ask(socket: &Path, question: &Value) -> Result<Value, Error> {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    let place = socket.display();
    let failed = |error: std::io::Error| {
        Error::Failed(format!(
            "{place}: {error}; does a node run here, and are you its owner? `--control` names another socket"
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let answer: Value = serde_json::from_str(&line).map_err(|error| Error::Failed(format!("{place}: {error}")))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(what) => Err(Error::Usage(what.into())),
        None => Ok(answer),
    }
}

/// Asks a running node for a trace of at most `lasts`; `each` is given a line for each frame, and says whether it wants more. The
/// last line has `end`, unless `each` wanted no more.
///
/// # Errors
/// As [`ask`].
#[cfg(unix)]
pub fn trace(
    socket: &Path,
    question: &Value,
    lasts: std::time::Duration,
    mut each: impl FnMut(&Value) -> bool,
) -> Result<(), Error> {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    let place = socket.display();
    let failed = |error: &dyn std::fmt::Display| {
        Error::Failed(format!(
            "{place}: {error}; does a node run here, and are you its owner? `--control` names another socket"
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(lasts + std::time::Duration::from_secs(10))).map_err(|error| failed(&error))?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(|error| failed(&error))?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| failed(&error))?;
        let line: Value = serde_json::from_str(&line).map_err(|error| Error::Failed(format!("{place}: {error}")))?;
        if let Some(what) = line.get("error").and_then(Value::as_str) {
            return Err(Error::Usage(what.into()));
        }
        if !each(&line) || line.get("end").is_some() {
            return Ok(());
        }
    }
    Err(failed(&"the node ended within the trace"))
}

/// Asks a running node for a trace.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(unix))]
pub fn trace(_: &Path, _: &Value, _: std::time::Duration, _: impl FnMut(&Value) -> bool) -> Result<(), Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}

/// Asks a running node one thing.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(unix))]
pub fn ask(_: &Path, _: &Value) -> Result<Value, Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}
