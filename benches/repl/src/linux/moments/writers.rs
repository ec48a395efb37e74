//! The workloads: many threads, or many processes. They go on until they are killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::network::until;
use crate::linux::processes::{Ended, bound};
use crate::linux::sqlite::Connection;
use crate::stats::Draw;

/// Their names.
pub(crate) const NAMES: [&str; 3] = ["sqlite", "redis", "git"];

/// Bytes of generation `number`: whoever reads it knows whether they are whole.
pub(crate) fn generation(number: u64) -> Vec<u8> {
    let mut draw = Draw(number);
    (0..8192).flat_map(|_| draw.next().to_le_bytes()).collect()
}

/// They do all that they can.
static FAST: AtomicBool = AtomicBool::new(false);
/// They rest.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Between two operations.
fn pause(usual: u64) {
    while QUIET.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    if !FAST.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(usual));
    }
}

/// Role: a workload in the folder it runs in, which may hold what another one left that was killed. `room` has what it tells and is
/// told: `done`, operations so far; `server`, a process of its own; `fast` and `quiet`, how it is to work.
pub(crate) fn serve(name: &str, room: &Path) -> io::Result<()> {
    if let Err(error) = std::fs::remove_file(room.join("server"))
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let _server = if name == "redis" { Some(server(room)?) } else { None };
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut start = |work: fn(u64, &AtomicU64) -> io::Result<()>, number: u64| {
            let done = &done;
            threads.push(scope.spawn(move || {
                if let Err(error) = work(number, done) {
                    eprintln!("writer {number}: {error}");
                    std::process::exit(1);
                }
            }));
        };
        match name {
            "sqlite" => {
                (0..3).for_each(|number| start(rows, number));
                start(generations, 3);
            }
            "redis" => (0..2).for_each(|number| start(commands, number)),
            "git" => (0..2).for_each(|number| start(commits, number)),
            other => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{other} is no workload"))),
        }
        start(marks, 9);
        let told = File::create(room.join("done"))?;
        loop {
            FAST.store(room.join("fast").exists(), Relaxed);
            QUIET.store(room.join("quiet").exists(), Relaxed);
            // Always as long: whoever reads it finds one number or the next.
            told.write_all_at(format!("{:020}\n", done.load(Relaxed)).as_bytes(), 0)?;
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

/// A server in this folder, once it answers.
fn server(room: &Path) -> io::Result<Ended> {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--dir", "."]);
    command.args(["--unixsocket", "socket", "--auto-aof-rewrite-percentage", "0"]).stdout(Stdio::null());
    let server = Ended(bound(&mut command).spawn()?);
    std::fs::write(room.join("server"), server.0.id().to_string())?;
    let answers = || {
        let mut ask = Command::new("redis-cli");
        ask.args(["-s", "socket", "ping"]).env_remove("LD_PRELOAD");
        ask.output().is_ok_and(|output| output.stdout.starts_with(b"PONG"))
    };
    if until(Duration::from_secs(10), answers) {
        Ok(server)
    } else {
        Err(io::Error::other("redis-server does not answer"))
    }
}

/// What time it is, each 5 ms, at the end of a file: by it the lag of a copy is seen.
fn marks(_: u64, _: &AtomicU64) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open("marks")?;
    loop {
        std::thread::sleep(Duration::from_millis(5));
        file.write_all(&super::drive::now().to_le_bytes())?;
    }
}

/// Rows in a database, and after each, in a log, that it is there: threads 0 and 1 in one with a write-ahead log, 2 in one with a journal.
fn rows(number: u64, done: &AtomicU64) -> io::Result<()> {
    let connection = Connection::open(if number < 2 { "a.db" } else { "b.db" })?;
    connection.run("PRAGMA busy_timeout=60000")?;
    connection.run(if number < 2 { "PRAGMA journal_mode=WAL" } else { "PRAGMA journal_mode=DELETE" })?;
    connection
        .run("PRAGMA synchronous=NORMAL; CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, w INTEGER, v BLOB)")?;
    let mut log = OpenOptions::new().append(true).create(true).open(format!("log-{number}"))?;
    // Numbers grow over the lives of this program.
    for row in super::drive::now() / 1000.. {
        let size = 50 + row % 400;
        connection.run(&format!(
            "BEGIN IMMEDIATE; INSERT INTO t VALUES({row}0{number}, {number}, randomblob({size})); DELETE FROM t WHERE w={number} AND n < (SELECT n FROM t WHERE w={number} ORDER BY n DESC LIMIT 1 OFFSET 300); COMMIT"
        ))?;
        writeln!(log, "{row}0{number}")?;
        done.fetch_add(1, Relaxed);
        pause(2);
    }
    Ok(())
}

/// A file, whole on the disk, then its name in another one, as editors and package managers do it.
fn generations(_: u64, done: &AtomicU64) -> io::Result<()> {
    for number in super::drive::now() / 1000.. {
        let name = format!("gen-{number}");
        let mut file = File::create("gen.new")?;
        file.write_all(&generation(number))?;
        file.sync_all()?;
        std::fs::rename("gen.new", &name)?;
        let before = std::fs::read_to_string("CURRENT").unwrap_or_default();
        let mut current = File::create("CURRENT.new")?;
        current.write_all(name.as_bytes())?;
        current.sync_all()?;
        std::fs::rename("CURRENT.new", "CURRENT")?;
        if !before.is_empty() {
            std::fs::remove_file(before)?;
        }
        done.fetch_add(1, Relaxed);
        pause(10);
    }
    Ok(())
}

/// Commands for a server that was started beside.
fn commands(number: u64, done: &AtomicU64) -> io::Result<()> {
    let mut draw = Draw(super::drive::now());
    loop {
        let mut client = Command::new("redis-cli")
            .args(["-s", "socket", "--pipe"])
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let Some(mut input) = client.stdin.take() else { return Err(io::Error::other("no pipe")) };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let mut text = String::new();
            for _ in 0..20 {
                let (key, size) = (draw.below(500), draw.below(200) + 1);
                text += &format!("SET key:{number}:{key} {}\r\n", "v".repeat(size as usize));
            }
            if input.write_all(text.as_bytes()).is_err() {
                break;
            }
            done.fetch_add(20, Relaxed);
            pause(4);
        }
        let asks = if number == 0 { input.write_all(b"BGREWRITEAOF\r\n") } else { Ok(()) };
        drop((input, asks));
        // Where the server is killed, the next one is waited for.
        client.wait()?;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Commits in a repository of its own.
fn commits(number: u64, done: &AtomicU64) -> io::Result<()> {
    let folder = format!("repo-{number}");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-C", &folder, "-c", "user.name=n", "-c", "user.email=e@e", "-c", "gc.auto=0"]).args(args);
        // One that was killed leaves its locks; the next one takes them away, as a person would.
        git.stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    std::fs::create_dir_all(&folder)?;
    git(&["init", "-q", "."])?;
    let locks = ["index.lock", "HEAD.lock", "refs/heads/master.lock", "refs/heads/main.lock", "gc.pid.lock"];
    for lock in locks {
        let _ = std::fs::remove_file(format!("{folder}/.git/{lock}"));
    }
    let mut draw = Draw(super::drive::now());
    for round in 1u64.. {
        for file in 0..3 {
            let bytes: Vec<u8> = (0..500).flat_map(|_| draw.next().to_le_bytes()).collect();
            std::fs::write(format!("{folder}/file-{file}"), bytes)?;
        }
        git(&["add", "-A"])?;
        git(&["commit", "-q", "-m", "more"])?;
        if round % 40 == 0 {
            git(&["gc", "-q", "--prune=now"])?;
        }
        done.fetch_add(1, Relaxed);
        // A copy that lags behind the lives of files is never one that can be shown: no faster than a busy person's tools.
        pause(50);
    }
    Ok(())
}
