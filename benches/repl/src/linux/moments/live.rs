//! Apus as it is run: three daemons in a network of their own. One runs the programs, one keeps the copy, one only votes.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use apus_os::program::{Order, VERSION, encode_order};
use serde_json::{Value, json};

use super::network::{Network, until};
use super::systems::{Site, System};

/// Daemons by place. The last one receives.
const WRITER: usize = 0;
const VOTER: usize = 1;
const COPY: usize = 2;
/// How long anything takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three daemons.
#[derive(Default)]
pub(super) struct Live {
    network: Network,
    room: PathBuf,
    crashes: usize,
    /// After a start of the copy's daemon: what its log held. Its files are shown once they have that.
    goal: Option<u64>,
}

impl Live {
    fn ask(&self, node: usize, question: &Value) -> io::Result<Value> {
        let mut stream = UnixStream::connect(self.room.join(format!("control{node}")))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// What a node says of its own copy.
    fn copy(&self, node: usize) -> Value {
        let status = self.ask(node, &json!({ "do": "files", "group": "files" })).unwrap_or_default();
        let copies = status["groups"][0]["copies"].as_array().cloned().unwrap_or_default();
        copies.into_iter().find(|copy| copy["node"] == node).unwrap_or_default()
    }

    /// Whether the copy is one that could be taken over now: it follows, and is not on its way to where it had been before a start.
    fn is_level(&mut self) -> bool {
        let copy = self.copy(COPY);
        let (Some(end), Some(applied)) = (copy["end"].as_u64(), copy["applied"].as_u64()) else { return false };
        if copy["doing"] != "follows" {
            return false;
        }
        let goal = *self.goal.get_or_insert(end);
        applied >= goal
    }

    fn said(&self, node: usize, what: &str) -> usize {
        let text = std::fs::read(self.room.join(format!("log{node}"))).unwrap_or_default();
        String::from_utf8_lossy(&text).matches(what).count()
    }
}

/// A node's file.
fn file(site: &Site, node: usize) -> String {
    let (room, me) = (site.room.display(), site.me.iter().map(|word| format!("{:?}", word.to_string_lossy())));
    let command = me.collect::<Vec<_>>().join(", ");
    let root = if node == COPY { &site.copy } else { &site.root };
    let mut text = format!(
        "cluster = 97\nnode = {node}\nport = 7497\nfolder = \"{room}/store{node}\"\ncontrol = \"{room}/control{node}\"\nlease = \"20s\"\n"
    );
    for other in [WRITER, VOTER, COPY] {
        let part = if other == VOTER { "part = \"arbiter\"\n" } else { "" };
        let _ = writeln!(text, "[[nodes]]\nid = {other}\naddress = \"127.97.0.{}\"\n{part}", other + 1);
    }
    let _ = write!(
        text,
        "[[services]]\nname = \"programs\"\ncommand = [{command}, \"serve\", \"{}\", \"{room}\"]\ndirectory = \"{}\"\n\
         candidates = [{WRITER}, {COPY}]\nfailures = 200\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\nstop = {{ grace = \"500ms\" }}\n\
         [[groups]]\nname = \"files\"\nservice = \"programs\"\nroot = \"{}\"\npatterns = [\"**\", \"!*-shm\", \"!socket\"]\n\
         mode = \"async\"\nlog = \"1G\"\nring = \"{room}/ring{node}\"\nlibrary = \"{}\"\n",
        site.workload,
        root.display(),
        root.display(),
        site.library.display(),
    );
    text
}

impl System for Live {
    fn start(&mut self, site: &Site) -> io::Result<()> {
        self.room.clone_from(&site.room);
        let apus = Path::new(&site.me[0]).with_file_name("apus");
        if !apus.is_file() {
            let why = format!("{} is not built: cargo build --release -p apus", apus.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let mut programs = Vec::new();
        for node in [WRITER, VOTER, COPY] {
            let config = site.room.join(format!("node{node}.toml"));
            std::fs::write(&config, file(site, node))?;
            let made = Command::new(&apus).args(["node", "init", "--config"]).arg(&config).output()?;
            if !made.status.success() {
                return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
            }
            // What it says is kept over its starts.
            let run = format!(
                "exec '{}' node run --config '{}' >> '{}' 2>&1",
                apus.display(),
                config.display(),
                site.room.join(format!("log{node}")).display()
            );
            programs.push(["sh", "-c", &run].map(str::to_string).to_vec());
        }
        self.network.start(programs)
    }

    fn dress(&self, _: &mut Command) {}

    fn runs(&mut self, before: Option<u32>) -> io::Result<Option<u32>> {
        let mut found = None;
        let mut runs = || {
            let status = self.ask(WRITER, &json!({ "do": "services" })).unwrap_or_default();
            let row = status["services"].as_array().and_then(|rows| rows.first().cloned()).unwrap_or_default();
            found = row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            row["state"] == "ready" && found.is_some() && found != before
        };
        if until(PATIENCE, &mut runs) {
            return Ok(found);
        }
        Err(io::Error::other(format!("the programs do not run after {} s{}", PATIENCE.as_secs(), self.story())))
    }

    fn freeze(&mut self) -> io::Result<bool> {
        if !self.is_level() {
            return Ok(false);
        }
        self.network.stop(COPY)?;
        Ok(true)
    }

    fn thaw(&mut self) -> io::Result<()> {
        self.network.signal(COPY, libc::SIGCONT);
        Ok(())
    }

    /// By turns the daemon that keeps the copy and the one that captures.
    fn crash(&mut self) -> io::Result<()> {
        let at = if self.crashes.is_multiple_of(2) { COPY } else { WRITER };
        self.crashes += 1;
        if at == COPY {
            self.goal = None;
        }
        self.network.crash(at)
    }

    fn processor(&self) -> u64 {
        self.network.processor()
    }

    fn wire(&mut self) -> io::Result<u64> {
        Ok(self.network.wire())
    }

    fn note(&self) -> String {
        let status = self.ask(WRITER, &json!({ "do": "files", "group": "files" })).unwrap_or_default();
        let capture = &status["groups"][0]["capture"];
        format!(
            "order lost {} times, {} bytes copied before they were destroyed; files compared {} times; copy {}",
            capture["lost"],
            capture["copied_bytes"],
            self.said(COPY, "compares: true"),
            self.copy(COPY)
        )
    }

    fn story(&self) -> String {
        let mut story = String::new();
        for node in [WRITER, VOTER, COPY] {
            let text = std::fs::read(self.room.join(format!("log{node}"))).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let _ = write!(story, "\nnode {node}: {}", lines[lines.len().saturating_sub(25)..].join("\n  "));
        }
        story
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        for node in [WRITER, VOTER, COPY] {
            self.network.signal(node, libc::SIGKILL);
        }
        // Programs outlive their daemon: keepers are told to end them, and themselves.
        for node in [WRITER, COPY] {
            let programs = std::fs::read_dir(self.room.join(format!("store{node}/programs")));
            for program in programs.into_iter().flatten().flatten() {
                end_keeper(&program.path());
            }
        }
        for process in self.network.others() {
            // SAFETY: no memory is passed; whoever is in this network was started here.
            unsafe { libc::kill(process.cast_signed(), libc::SIGKILL) };
        }
    }
}

/// Tells a keeper to end, with what it keeps, and waits until it has.
fn end_keeper(folder: &Path) {
    let Ok(mut stream) = UnixStream::connect(folder.join("socket")) else { return };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    for order in [Order::Hello { version: VERSION }, Order::Stop { op: 1, grace: 0 }, Order::Leave] {
        let _ = stream.write_all(&encode_order(&order));
    }
    // Until it closes.
    let mut bytes = [0; 4_096];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
    until(PATIENCE, || !folder.join("socket").exists());
}
