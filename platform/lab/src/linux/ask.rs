//! Asking daemons, which may be frozen.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Asks one thing, and gives up after a time.
pub(crate) fn ask(socket: &Path, question: &Value, limit: Duration) -> Result<Value, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    stream.write_all(format!("{question}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let answer: Value = serde_json::from_str(&line).map_err(|error| format!("{}: {error}", socket.display()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(what) => Err(what.into()),
        None => Ok(answer),
    }
}
