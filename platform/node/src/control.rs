//! The control socket: a line of JSON each way. Its file is the owner's only.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Error;

/// Asks a running node one thing.
///
/// # Errors
/// If no node listens there, or it refuses: with what it said.
pub fn ask(socket: &Path, question: &Value) -> Result<Value, Error> {
    ask_long(socket, question, Duration::from_secs(10))
}

/// Asks a running node one thing that takes so long at most.
///
/// # Errors
/// As [`ask`].
#[cfg(unix)]
pub fn ask_long(socket: &Path, question: &Value, within: Duration) -> Result<Value, Error> {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    let place = socket.display();
    let failed = |error: std::io::Error| {
        Error::Failed(format!(
            "{place}: {error}; does a node run here, and are you its owner? `--control` names another socket"
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(within)).map_err(failed)?;
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
    lasts: Duration,
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
    stream.set_read_timeout(Some(lasts + Duration::from_secs(10))).map_err(|error| failed(&error))?;
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
pub fn trace(_: &Path, _: &Value, _: Duration, _: impl FnMut(&Value) -> bool) -> Result<(), Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}

/// Asks a running node one thing.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(unix))]
pub fn ask_long(_: &Path, _: &Value, _: Duration) -> Result<Value, Error> {
    Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
}

/// Waits until a drained node has nothing to do any more: it is not the dispatcher, gets nothing new, and its connections have ended.
/// Only the node itself can count those: ask it there. Answers how it stood last, each time it changed, to `tell`.
///
/// # Errors
/// If it takes longer than `limit`, with what it still has, or the node cannot be asked.
pub fn wait_drained(socket: &Path, node: u16, limit: Duration, mut tell: impl FnMut(&Value)) -> Result<Value, Error> {
    const TWICE: Duration = Duration::from_millis(300);
    let began = std::time::Instant::now();
    let (mut last, mut rested) = (Value::Null, false);
    loop {
        let rest = ask(socket, &serde_json::json!({"do": "rest", "node": node}))?;
        if rest["connections"].is_null() {
            let what = format!("node {node} runs elsewhere, and only it knows its connections: wait there");
            return Err(Error::Usage(what));
        }
        if rest != last {
            tell(&rest);
        }
        // Twice, for other nodes may learn of it a moment later.
        let rests = rest["rests"] == true;
        if rests && rested {
            return Ok(rest);
        }
        rested = rests;
        if began.elapsed() > limit {
            let what = if rest["has_address"] == true {
                "it still has the address: is another node up and not drained?".into()
            } else if rest["slots"] != 0 {
                format!("it still has {} slots: is another node up and not drained?", rest["slots"])
            } else if rest["drained"] == true {
                format!("it still has {} connections: wait longer, or end their programs", rest["connections"])
            } else {
                "it is not drained: `apus node drain` it first".into()
            };
            return Err(Error::Failed(format!("node {node} does not rest after {} s: {what}", limit.as_secs())));
        }
        last = rest;
        std::thread::sleep(TWICE);
    }
}
