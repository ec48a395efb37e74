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

/// Asks a running node one thing.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(unix))]
pub fn ask(_: &Path, _: &Value) -> Result<Value, Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}
