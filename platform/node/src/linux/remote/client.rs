//! Who asks, at the control socket of a node.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use apus_os::linux::Beneath;
use serde_json::{Value, json};

use super::super::control::LONGEST;
use super::frame::{self, BLOCK, Kind};
use super::{SAID, copy};
use crate::Error;
use crate::remote::{Copied, Ended};
use crate::view::short;

/// A node says within this time whether it may be.
const ANSWER: Duration = Duration::from_secs(15);
/// A copy on which nothing moves for so long has failed.
const SILENCE: Duration = Duration::from_secs(60);

/// Asks, and gives the stream on which it goes on once it is granted.
fn ask(socket: &Path, question: &Value) -> Result<UnixStream, Error> {
    let (place, line) = (socket.display(), format!("{question}\n"));
    if line.len() as u64 > LONGEST {
        return Err(Error::Usage(format!(
            "it is too long: {} bytes with what stands around it, of {LONGEST}",
            line.len()
        )));
    }
    let failed = |error: io::Error| {
        Error::Failed(format!(
            "{place}: {error}; does a node run here, and are you its owner? `--control` names another socket"
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    stream.write_all(line.as_bytes()).map_err(failed)?;
    // Byte by byte: what follows the line is no line.
    let mut line = Vec::new();
    let mut one = io::BufReader::with_capacity(1, &stream).take(4_096);
    one.read_until(b'\n', &mut line).map_err(failed)?;
    let answer: Value = serde_json::from_slice(&line).map_err(|error| Error::Failed(format!("{place}: {error}")))?;
    match (answer["refused"].as_str(), answer["error"].as_str()) {
        (Some(why), _) => Err(Error::Usage(short(why, 3 * SAID))),
        (None, Some(what)) => Err(Error::Failed(short(what, 3 * SAID))),
        (None, None) if answer["go"] == true => Ok(stream),
        (None, None) => {
            Err(Error::Failed(format!("{place}: an answer that is none; is this node of an earlier version?")))
        }
    }
}

fn broke(error: &io::Error) -> Error {
    Error::Failed(format!("the connection broke off before its end: {error}"))
}

/// Runs a command at a node. `input` is what it hears; what it says goes to `out` and `err`.
///
/// # Errors
/// If it is refused, cannot be started, or the connection breaks off.
pub fn exec(
    socket: &Path,
    node: u16,
    command: &[String],
    input: Option<Box<dyn Read + Send>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Ended, Error> {
    let mut stream = ask(socket, &json!({ "do": "exec", "node": node, "command": command }))?;
    stream.set_read_timeout(None).map_err(|error| broke(&error))?;
    let mut to = stream.try_clone().map_err(|error| broke(&error))?;
    std::thread::spawn(move || {
        let mut bytes = [0; BLOCK];
        let mut input = input;
        while let Some(many) = input.as_mut().and_then(|input| input.read(&mut bytes).ok()).filter(|many| *many > 0) {
            if frame::put(&mut to, Kind::In, &[&bytes[..many]]).is_err() {
                return;
            }
        }
        let _ = frame::put(&mut to, Kind::InEnd, &[]);
    });
    let mut body = Vec::new();
    loop {
        let wrote = match frame::get(&mut stream, &mut body).map_err(|error| broke(&error))? {
            Some(Kind::Out) => out.write_all(&body).and_then(|()| out.flush()),
            Some(Kind::Err) => err.write_all(&body).and_then(|()| err.flush()),
            Some(Kind::End) => return ended(&body),
            Some(_) => return Err(Error::Failed("an answer that is none".into())),
            None => return Err(broke(&io::ErrorKind::UnexpectedEof.into())),
        };
        // Whoever reads on is gone: so is who asks.
        wrote.map_err(|error| Error::Failed(format!("standard output: {error}")))?;
    }
}

fn ended(body: &[u8]) -> Result<Ended, Error> {
    let end: Value = serde_json::from_slice(body).map_err(|error| Error::Failed(error.to_string()))?;
    if let Some(error) = end["error"].as_str() {
        return Err(Error::Failed(short(error, SAID)));
    }
    let number = |key: &str| end[key].as_i64().and_then(|number| i32::try_from(number).ok());
    Ok(Ended { code: number("code"), signal: number("signal"), cut: end["cut"].as_str().map(|cut| short(cut, SAID)) })
}

/// What the other end said last, where the stream broke because it had ended.
fn last(stream: &mut UnixStream, error: io::Error) -> Error {
    let mut body = Vec::new();
    loop {
        match frame::get(stream, &mut body) {
            Ok(Some(Kind::End)) => return Error::Failed(copy::said(&body)),
            Ok(Some(_)) => {}
            _ => return Error::Failed(error.to_string()),
        }
    }
}

/// Copies a file of this machine to a node.
///
/// # Errors
/// If it is refused, or disk or connection fail: what was begun there is gone on with by the next attempt.
pub fn push(socket: &Path, from: &Path, node: u16, path: &str) -> Result<Copied, Error> {
    let here = |error: io::Error| Error::Usage(format!("{}: {error}", from.display()));
    let mut file = File::open(from).map_err(here)?;
    if !file.metadata().map_err(here)?.is_file() {
        return Err(Error::Usage(format!("{}: it is no regular file", from.display())));
    }
    let mut stream = ask(socket, &json!({ "do": "push", "node": node, "path": path }))?;
    let _ = (stream.set_read_timeout(Some(SILENCE)), stream.set_write_timeout(Some(SILENCE)));
    let given = match copy::give(&mut file, u64::MAX, &mut stream) {
        Ok(given) => given,
        Err(error) => return Err(last(&mut stream, error)),
    };
    let mut body = Vec::new();
    match frame::get(&mut stream, &mut body) {
        Ok(Some(Kind::End)) => {
            let end: Value = serde_json::from_slice(&body).unwrap_or_default();
            if end["done"] == true { Ok(given) } else { Err(Error::Failed(copy::said(&body))) }
        }
        Ok(_) => Err(broke(&io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(broke(&error)),
    }
}

/// Copies a file of a node to this machine.
///
/// # Errors
/// As [`push`].
pub fn pull(socket: &Path, node: u16, path: &str, to: &Path) -> Result<Copied, Error> {
    let here = |error: io::Error| Error::Usage(format!("{}: {error}", to.display()));
    let name = path.rsplit('/').next().unwrap_or_default();
    let to = if fs::metadata(to).is_ok_and(|is| is.is_dir()) { to.join(name) } else { to.to_owned() };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let place = Beneath::open(folder).and_then(|folder| folder.place(name)).map_err(here)?;
    place.check().map_err(here)?;
    let mut stream = ask(socket, &json!({ "do": "pull", "node": node, "path": path }))?;
    let _ = (stream.set_read_timeout(Some(SILENCE)), stream.set_write_timeout(Some(SILENCE)));
    let taken = copy::take(place, u64::MAX, &mut stream);
    let end = match &taken {
        Ok(copied) => copy::told(*copied),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let told = frame::end(&mut stream, &end);
    match taken {
        Ok(copied) => {
            // The node puts down how it ended before it goes.
            let mut body = Vec::new();
            let _ = told.and_then(|()| frame::get(&mut stream, &mut body).map(|_| ()));
            Ok(copied)
        }
        Err(error) => Err(Error::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What an asker makes of what a node answers.
    fn asked(answer: &'static [u8], words: &str) -> Result<Ended, Error> {
        let place = std::env::temp_dir().join(format!("apus-ask-{}-{}", std::process::id(), answer.len()));
        let _ = fs::remove_file(&place);
        let listener = UnixListener::bind(&place).expect("a socket");
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut line = String::new();
            let _ = io::BufReader::new(&stream).read_line(&mut line);
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            // Until he has gone.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let ended = exec(&place, 1, &[words.to_owned()], None, &mut Vec::new(), &mut Vec::new());
        if words.len() < 4_096 {
            node.join().expect("it ends");
        }
        let _ = fs::remove_file(&place);
        ended
    }

    #[test]
    fn what_is_refused_is_told_from_what_fails_and_drives_no_terminal() {
        let said = |result: Result<Ended, Error>| match result {
            Err(Error::Usage(what)) => (64, what),
            Err(Error::Failed(what)) => (70, what),
            Ok(ended) => panic!("{ended:?}"),
        };
        let told = said(asked(b"{\"refused\":\"no\\u001b[2J\\nnode 1: yes\"}\n", "/bin/true"));
        assert_eq!(told, (64, "no [2J node 1: yes".into()));
        assert_eq!(said(asked(b"{\"error\":\"node 1 is down\"}\n", "/bin/true")), (70, "node 1 is down".into()));
        assert_eq!(said(asked(b"", "/bin/true")).0, 70);
        assert_eq!(said(asked(b"{\"go\":true}\n", "/bin/true")).0, 70);
        let (code, what) = said(asked(b"{\"go\":true}\n\n", &"x".repeat(5_000)));
        assert!(code == 64 && what.contains("too long"), "{what}");
        let mut end = b"{\"go\":true}\n".to_vec();
        frame::end(&mut end, &json!({ "error": "gone\u{1b}[2J\nnode 2: fine" })).expect("memory");
        assert_eq!(said(asked(end.leak(), "/bin/true")), (70, "gone [2J node 2: fine".into()));
    }
}
