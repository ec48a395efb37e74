//! Whether a copy is one that the program could have left behind: told by the programs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::network::until;
use super::writers::generation;
use crate::linux::processes::{Ended, bound};

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text.lines().take(3).collect::<Vec<_>>().join("; ")) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.file_name().unwrap_or_default().display()))
}

/// Looks at the copy of a workload's folder, which may be written to.
pub(crate) fn judge(workload: &str, copy: &Path) -> Result<(), String> {
    match workload {
        "sqlite" => {
            for (name, writers) in [("a.db", 0..2), ("b.db", 2..3)] {
                database(copy, name, writers)?;
            }
            current(copy)
        }
        "redis" => {
            let manifest = copy.join("appendonlydir/appendonly.aof.manifest");
            output(Command::new("redis-check-aof").arg(manifest))?;
            loads(copy)
        }
        _ => {
            for number in 0..2 {
                let repository = copy.join(format!("repo-{number}"));
                let mut git = Command::new("git");
                git.arg("-C").arg(repository).args(["-c", "safe.directory=*", "fsck", "--full", "--no-dangling"]);
                output(&mut git)?;
            }
            Ok(())
        }
    }
}

/// A server takes the files for its own, and answers.
fn loads(copy: &Path) -> Result<(), String> {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--appendonly", "yes", "--save", "", "--dir", ".", "--unixsocket", "judge"]);
    let server = bound(command.current_dir(copy).stdout(Stdio::null())).spawn();
    let mut server = Ended(server.map_err(|error| format!("redis-server: {error}"))?);
    let mut ended = None;
    let answers = || {
        ended = server.0.try_wait().ok().flatten();
        let mut ask = Command::new("redis-cli");
        ask.args(["-s", "judge", "ping"]).current_dir(copy);
        ended.is_some() || ask.output().is_ok_and(|output| output.stdout.starts_with(b"PONG"))
    };
    let answered = until(Duration::from_secs(20), answers);
    match ended {
        None if answered => Ok(()),
        None => Err("redis-server does not answer".into()),
        Some(status) => Err(format!("redis-server does not load it: {status}")),
    }
}

/// The database is whole, and has each row of which a log says so.
fn database(copy: &Path, name: &str, writers: std::ops::Range<u64>) -> Result<(), String> {
    let mut ask = String::from("PRAGMA integrity_check;");
    for writer in writers.clone() {
        ask += &format!("SELECT coalesce(max(n), 0) FROM t WHERE w={writer};");
    }
    let told = output(Command::new("sqlite3").arg(copy.join(name)).arg(ask)).map_err(|why| format!("{name}: {why}"))?;
    let mut lines = told.lines();
    if lines.next() != Some("ok") {
        return Err(format!("{name}: {}", told.lines().take(2).collect::<Vec<_>>().join("; ")));
    }
    for (writer, line) in writers.zip(lines) {
        let log = String::from_utf8_lossy(&read(&copy.join(format!("log-{writer}")))?).into_owned();
        let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
        let logged = log.lines().next_back().map_or(0, number);
        if number(line) < logged {
            return Err(format!("{name}: the log has row {logged}, the table ends at {line}"));
        }
    }
    Ok(())
}

/// What is named as the newest generation is there, whole.
fn current(copy: &Path) -> Result<(), String> {
    let name = String::from_utf8_lossy(&read(&copy.join("CURRENT"))?).into_owned();
    let number = name.strip_prefix("gen-").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| format!("CURRENT says {name:?}"))?;
    if read(&copy.join(&name))? == generation(number) { Ok(()) } else { Err(format!("{name} is not whole")) }
}
