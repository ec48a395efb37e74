//! Files that survive their machine: a program that acknowledges rows, power-off of its machine, and daemons killed at any moment.
//!
//! `APUS_FILE_KILLS=200` for more of the latter, `APUS_SEED=N` for the same moments again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use apus_engine::Seed;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Row};
use crate::killed::given;

const NODES: usize = 3;

/// The library that captures; cargo builds it before this test.
fn library() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folders = [own.parent()?, own.parent()?.parent()?];
    folders.iter().map(|folder| folder.join("libapus_interpose.so")).find(|file| file.is_file())
}

/// Why this cannot be shown here.
fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("it needs x86-64".into());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Some("it needs root: files are opened by their handles".into());
    }
    if library().is_none() {
        return Some("libapus_interpose.so is not there: cargo build -p apus-interpose".into());
    }
    Path::new("/dev/shm").is_dir().then_some(()).map_or_else(|| Some("it needs /dev/shm".into()), |()| None)
}

pub(crate) fn skipped() -> bool {
    let why = missing();
    if let Some(why) = &why {
        println!("files: SKIPPED: {why}");
    }
    why.is_some()
}

/// A service `db` that writes rows in `books`, and acknowledges them in a file of the cluster's.
pub(crate) fn books(mode: &str, kind: &str, lease: &str, more: &str) -> (String, String) {
    let exe = std::env::current_exe().expect("it runs");
    let library = library().expect("it was looked for");
    let services = format!(
        "[[services]]\nname = \"db\"\ncommand = [\"{}\", \"rows\", \"{kind}\", \"ROOT\", \"FOLDER\"]\ndirectory = \"ROOT\"\n\
         ready = \"notify\"\nfailures = 200\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\nstop = {{ grace = \"500ms\" }}\n\
         [[groups]]\nname = \"books\"\nservice = \"db\"\nroot = \"ROOT\"\npatterns = [\"**\", \"!*-shm\"]\n\
         mode = \"{mode}\"\nring = \"RING\"\nlibrary = \"{}\"\n{more}\n",
        exe.display(),
        library.display(),
    );
    (format!("lease = \"{lease}\""), services)
}

/// The program: rows by `SQLite`, or lines of a file, each acknowledged once it is durable.
pub(crate) fn rows(kind: &str, root: &str, folder: &str) -> Result<(), String> {
    let (root, folder) = (Path::new(root), Path::new(folder));
    let told = |error: std::io::Error| error.to_string();
    let mut acks = fs::File::options().create(true).append(true).open(folder.join("acks")).map_err(told)?;
    let mut rows: Box<dyn Rows> = if kind == "sqlite" {
        Box::new(Sqlite::open(root).map_err(told)?)
    } else {
        Box::new(Lines::open(root).map_err(told)?)
    };
    let seen = rows.all().map_err(told)?;
    // What the successor found: in one piece, or not at all.
    let text: String = seen.iter().map(|row| format!("{row}\n")).collect();
    let found = folder.join(format!("found.{}", std::process::id()));
    fs::write(&found, text).map_err(told)?;
    fs::rename(&found, folder.join("found")).map_err(told)?;
    let keeper = std::env::var_os("NOTIFY_SOCKET").ok_or("no keeper")?;
    apus_os::linux::program::tell(Path::new(&keeper), "READY=1\n").map_err(told)?;
    let mut next = seen.last().map_or(1, |last| last + 1);
    let flood = folder.join("flood");
    loop {
        if folder.join("quiet").exists() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        if flood.exists() {
            fs::rename(&flood, folder.join("flooding")).map_err(told)?;
            while !folder.join("go").exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // More than can be on the way to others, and nobody waits for it.
            let mut bulk = fs::File::options().create(true).append(true).open(root.join("bulk")).map_err(told)?;
            for at in 0..1_024_u32 {
                bulk.write_all(&at.to_le_bytes().repeat(1_024)).map_err(told)?;
            }
            fs::write(folder.join("flooded"), "").map_err(told)?;
        }
        rows.add(next).map_err(told)?;
        acks.write_all(format!("{next}\n").as_bytes()).map_err(told)?;
        next += 1;
    }
}

trait Rows {
    fn all(&mut self) -> std::io::Result<Vec<u64>>;
    fn add(&mut self, row: u64) -> std::io::Result<()>;
}

/// A line each; now and then the file is replaced by a new one.
struct Lines {
    root: PathBuf,
    file: fs::File,
    many: u64,
}

impl Lines {
    fn open(root: &Path) -> std::io::Result<Self> {
        let file = fs::File::options().create(true).append(true).open(root.join("rows"))?;
        Ok(Self { root: root.to_path_buf(), file, many: 0 })
    }
}

impl Rows for Lines {
    fn all(&mut self) -> std::io::Result<Vec<u64>> {
        let text = fs::read_to_string(self.root.join("rows"))?;
        // The last line may be cut: it was not acknowledged.
        Ok(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect())
    }

    fn add(&mut self, row: u64) -> std::io::Result<()> {
        let text = format!("{row}\n");
        if self.many == 0 {
            // A line that was cut would join with the next.
            self.file.write_all(b"\n")?;
        }
        self.many += 1;
        if !self.many.is_multiple_of(16) {
            self.file.write_all(text.as_bytes())?;
            return self.file.sync_data();
        }
        let mut all = fs::read(self.root.join("rows"))?;
        all.extend(text.as_bytes());
        let new = self.root.join("rows.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&all)?;
        file.sync_all()?;
        fs::rename(&new, self.root.join("rows"))?;
        self.file = fs::File::options().append(true).open(self.root.join("rows"))?;
        self.file.sync_all()
    }
}

/// Rows of a table, in a log, with every commit durable.
struct Sqlite {
    to: std::process::ChildStdin,
    from: BufReader<std::process::ChildStdout>,
}

impl Sqlite {
    fn open(root: &Path) -> std::io::Result<Self> {
        let mut child =
            Command::new("sqlite3").arg(root.join("books.db")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let none = || std::io::Error::other("no pipe");
        let (to, from) = (child.stdin.take().ok_or_else(none)?, child.stdout.take().ok_or_else(none)?);
        let mut own = Self { to, from: BufReader::new(from) };
        own.ask("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, t TEXT);")?;
        Ok(own)
    }

    /// Answers all lines of a question.
    fn ask(&mut self, what: &str) -> std::io::Result<Vec<String>> {
        writeln!(self.to, "{what}\nSELECT 'end';")?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line)? == 0 {
                return Err(std::io::Error::other("sqlite3 has ended"));
            }
            match line.trim_end() {
                "end" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }
}

impl Rows for Sqlite {
    fn all(&mut self) -> std::io::Result<Vec<u64>> {
        let whole = self.ask("PRAGMA integrity_check;")?;
        if whole != ["ok"] {
            return Err(std::io::Error::other(format!("the database is damaged: {whole:?}")));
        }
        Ok(self.ask("SELECT n FROM rows ORDER BY n;")?.iter().filter_map(|line| line.parse().ok()).collect())
    }

    fn add(&mut self, row: u64) -> std::io::Result<()> {
        // What it refuses it says on standard error, and answers nothing.
        let answer = self.ask(&format!("INSERT INTO rows VALUES ({row}, hex(randomblob(100))); SELECT changes();"))?;
        if answer == ["1"] { Ok(()) } else { Err(std::io::Error::other(format!("row {row}: {answer:?}"))) }
    }
}

fn numbers(file: &Path) -> BTreeSet<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

pub(crate) fn acks(cluster: &Cluster) -> BTreeSet<u64> {
    numbers(&cluster.folder().join("acks"))
}

pub(crate) fn root(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.folder().join(format!("root{node}"))
}

/// A tree as names and contents, without what does not belong to the group.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
            if path.is_dir() {
                open.push(path);
            } else if !name.display().to_string().ends_with("-shm") {
                let mut bytes = Vec::new();
                let _ = fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
                all.insert(name, bytes);
            }
        }
    }
    all
}

/// What a node says of its copy.
pub(crate) fn copy(cluster: &Cluster, node: usize) -> Value {
    let status = cluster.ask(node, &json!({ "do": "files", "group": "books" }));
    let copies = status["groups"][0]["copies"].as_array().cloned().unwrap_or_default();
    copies.into_iter().find(|copy| copy["node"] == node).unwrap_or_default()
}

/// Lets the program rest, and waits until all copies have everything; they must be alike then.
pub(crate) fn alike(cluster: &Cluster, writer: usize) {
    fs::write(cluster.folder().join("quiet"), "").expect("a file");
    let settled = || {
        let all: Vec<Value> = (0..NODES).map(|node| copy(cluster, node)).collect();
        let end = &all[writer]["end"];
        let follows = |(node, copy): (usize, &Value)| {
            node == writer || copy["doing"] == "follows" && copy["applied"] == *end && copy["end"] == *end
        };
        end.is_u64() && all[writer]["doing"] == "writes" && all.iter().enumerate().all(follows)
    };
    cluster.wait("all copies", || {
        // Twice: a change may have been on its way.
        settled() && {
            std::thread::sleep(Duration::from_millis(50));
            settled()
        }
    });
    let model = tree(&root(cluster, writer));
    assert!(!model.is_empty(), "there is something to compare");
    for node in 0..NODES {
        let other = tree(&root(cluster, node));
        let differs = |name: &&PathBuf| other.get(*name) != model.get(*name);
        let names: BTreeSet<&PathBuf> = model.keys().chain(other.keys()).collect();
        let tell = |name: &PathBuf| {
            let (ours, theirs) =
                (model.get(name).cloned().unwrap_or_default(), other.get(name).cloned().unwrap_or_default());
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
            let many = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            format!("{}: {} and {} bytes, {many} differ, from {at} on", name.display(), ours.len(), theirs.len())
        };
        let wrong: Vec<_> = names.into_iter().filter(differs).map(tell).collect();
        assert!(wrong.is_empty(), "node {node} is not like node {writer}: {wrong:?}\n{}", cluster.story());
    }
    fs::remove_file(cluster.folder().join("quiet")).expect("it is ours");
}

/// All processes of a node, its programs too, and what lies in its memory are gone at once.
pub(crate) fn power_off(cluster: &mut Cluster, node: usize) {
    let store = cluster.folder().join(format!("store{node}")).display().to_string();
    let place = root(cluster, node).display().to_string();
    let mut pids = vec![cluster.pid(node)];
    for entry in fs::read_dir("/proc").expect("it is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        if pid != std::process::id() && (words.contains(&store) || words.contains(&place)) {
            pids.push(pid);
        }
    }
    // One that a program had started may have ended by itself meanwhile.
    let numbers = pids.iter().map(u32::to_string);
    Command::new("kill").arg("-KILL").args(numbers).stderr(Stdio::null()).status().expect("kill");
    cluster.kill(node);
    let _ = fs::remove_file(ring(node));
}

pub(crate) fn ring(node: usize) -> String {
    // Others may run the same test.
    format!("/dev/shm/apus-services-{}.{node}.books", std::process::id())
}

pub(crate) struct Rings;

impl Drop for Rings {
    fn drop(&mut self) {
        (0..NODES).for_each(|node| {
            let _ = fs::remove_file(ring(node));
        });
    }
}

/// What was acknowledged is there, whoever asks.
pub(crate) fn found(cluster: &Cluster, acknowledged: &BTreeSet<u64>) {
    let found = numbers(&cluster.folder().join("found"));
    let lost: Vec<&u64> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}\n{}", cluster.story());
}

pub(crate) fn writes(cluster: &Cluster, more: usize) {
    let before = acks(cluster).len();
    cluster.wait("rows", || acks(cluster).len() >= before + more);
}

pub(crate) fn powered_off() {
    if skipped() {
        return;
    }
    let sqlite = Command::new("sqlite3").arg("--version").output().is_ok();
    if !sqlite {
        println!("files by SQLite: SKIPPED: sqlite3 is not installed; lines of a file instead");
    }
    let _rings = Rings;
    let (top, services) = books("sync", if sqlite { "sqlite" } else { "lines" }, "1s", "");
    let mut cluster = Cluster::new("powered-off", NODES, &top, &services);
    let (first, _) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
    writes(&cluster, 50);
    alike(&cluster, first);
    writes(&cluster, 20);

    // What it writes from here on nobody else gets.
    let others: Vec<u32> = (0..NODES).filter(|node| *node != first).map(|node| cluster.pid(node)).collect();
    let at = |name: &str| cluster.folder().join(name);
    fs::write(at("flood"), "").expect("a file");
    cluster.wait("the program", || at("flooding").exists());
    crate::tests::signal("STOP", &others);
    fs::write(at("go"), "").expect("a file");
    let until = Instant::now() + Duration::from_millis(600);
    while !at("flooded").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
    power_off(&mut cluster, first);
    let (off, acknowledged) = (Instant::now(), acks(&cluster));
    crate::tests::signal("CONT", &others);
    let (second, _) = cluster.ready("db", 0, |node, row: &Row| node != first && row["node"] == node);
    println!("  {} rows acknowledged; up on node {second} after {} ms", acknowledged.len(), off.elapsed().as_millis());
    found(&cluster, &acknowledged);
    writes(&cluster, 20);

    let why = cluster.ask(second, &json!({ "do": "why", "of": "db" })).to_string();
    assert!(why.contains("opens files books at @"), "the position is told: {why}");

    cluster.start(first);
    cluster.wait("the old writer's copy", || copy(&cluster, first)["doing"] == "follows");
    let saved = cluster.ask(first, &json!({ "do": "orphans" }));
    let saved = saved["orphans"].as_array().cloned().unwrap_or_default();
    assert_eq!(saved.len(), 1, "{saved:?}\n{}", cluster.story());
    assert!(Path::new(saved[0]["path"].as_str().unwrap_or_default()).join("manifest.txt").is_file(), "{saved:?}");
    alike(&cluster, second);
    looked_through(&cluster, second);
    found_by_scrub(&cluster, second);
}

/// Has copies looked through, and waits until they were.
fn looked_through(cluster: &Cluster, writer: usize) {
    let scrubs = || {
        let status = cluster.ask(writer, &json!({ "do": "files", "group": "books" }));
        let copies = status["groups"][0]["copies"].as_array().cloned().unwrap_or_default();
        copies.iter().filter_map(|copy| copy["scrubs"].as_u64()).collect::<Vec<_>>()
    };
    let before = scrubs();
    assert_eq!(before.len(), NODES - 1);
    assert_eq!(cluster.ask(writer, &json!({ "do": "scrub", "group": "books" }))["done"], true);
    cluster.wait("a scrub", || scrubs().iter().zip(&before).all(|(new, old)| new > old));
    assert!(!cluster.story().contains("Differs"), "{}", cluster.story());
    let refused =
        cluster.try_ask((writer + 1) % NODES, &json!({ "do": "scrub", "group": "books" })).expect_err("not there");
    assert!(refused.contains(&format!("`books` is written on node {writer}: ask there")), "{refused}");
}

/// A byte that somebody else changed at a copy is found, and mended.
fn found_by_scrub(cluster: &Cluster, writer: usize) {
    let other = (writer + 1) % NODES;
    fs::write(cluster.folder().join("quiet"), "").expect("a file");
    let file = tree(&root(cluster, other)).into_iter().max_by_key(|(_, bytes)| bytes.len()).expect("a file");
    let at = root(cluster, other).join(&file.0);
    let mut bytes = file.1;
    bytes[5_000] ^= 1;
    fs::write(&at, &bytes).expect("nobody guards a copy");
    assert_eq!(cluster.ask(writer, &json!({ "do": "scrub", "group": "books" }))["done"], true);
    cluster.wait("the difference", || cluster.story().contains("Differs"));
    // It is told before that copy begins to compare.
    cluster.wait("the mended byte", || fs::read(&at).is_ok_and(|now| now.get(5_000) != bytes.get(5_000)));
    alike(cluster, writer);
}

pub(crate) fn killed() {
    if skipped() {
        return;
    }
    let (kills, seed) = (given("APUS_FILE_KILLS", 12), given("APUS_SEED", 7));
    println!("{kills} kills, APUS_SEED={seed}");
    let mut rng = Seed(seed).stream("kills");
    let _rings = Rings;
    let (top, services) = books("sync", "lines", "20s", "");
    let mut cluster = Cluster::new("files-killed", NODES, &top, &services);
    let (writer, row) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
    writes(&cluster, 20);
    alike(&cluster, writer);
    let compared = |cluster: &Cluster| cluster.said("compares: true");
    let before = compared(&cluster);
    for kill in 0..kills {
        let node = usize::try_from(rng.below(3)).unwrap_or_default();
        std::thread::sleep(Duration::from_micros(rng.below(150_000)));
        cluster.kill(node);
        std::thread::sleep(Duration::from_micros(rng.below(60_000)));
        cluster.start(node);
        if kill % 4 == 3 {
            let (now, again) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
            assert_eq!((now, &again["pid"]), (writer, &row["pid"]), "the same process\n{}", cluster.story());
            writes(&cluster, 3);
            alike(&cluster, writer);
        }
    }
    cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
    writes(&cluster, 3);
    alike(&cluster, writer);
    let acknowledged = acks(&cluster);
    let there = numbers(&root(&cluster, (writer + 1) % NODES).join("rows"));
    assert!(acknowledged.is_subset(&there), "all that was acknowledged is in every copy");
    assert_eq!(compared(&cluster), before, "nothing was compared anew\n{}", cluster.story());
    println!("  {} rows acknowledged", acknowledged.len());
}

/// By order, nothing is lost even where no program waits; who is not captured is kept out; a program that crashes goes on.
pub(crate) fn moved() {
    if skipped() {
        return;
    }
    let _rings = Rings;
    let (top, services) = books("async", "lines", "20s", "");
    let mut cluster = Cluster::new("files-moved", NODES, &top, &services);
    let (first, row) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
    writes(&cluster, 50);
    alike(&cluster, first);

    crate::tests::signal("KILL", &[crate::tests::pid(&row)]);
    let (_, again) = cluster.ready("db", 0, |node, now: &Row| node == first && now["pid"] != row["pid"]);
    writes(&cluster, 20);
    assert_eq!(again["restarts"], 1);
    alike(&cluster, first);

    let mut stranger = Command::new("/bin/sh");
    stranger.args(["-c", "echo stranger >> rows"]).current_dir(root(&cluster, first)).stderr(Stdio::null());
    assert!(!stranger.status().expect("a shell").success(), "it is refused");
    cluster.wait("the guard's word", || copy(&cluster, first)["strangers"]["refused"].as_u64() > Some(0));
    writes(&cluster, 20);
    alike(&cluster, first);

    let second = (first + 1) % NODES;
    let acknowledged = acks(&cluster);
    assert_eq!(cluster.ask(first, &json!({ "do": "move", "what": "db", "node": second }))["done"], true);
    cluster.ready("db", 0, |node, row: &Row| node == second && row["node"] == second);
    found(&cluster, &acknowledged);
    writes(&cluster, 20);
    alike(&cluster, second);

    // A daemon that is ended in order leaves its program, and finds it again.
    let (_, row) = cluster.ready("db", 0, |node, _| node == second);
    assert_eq!(cluster.end(second), Some(0));
    cluster.start(second);
    let (_, again) = cluster.ready("db", 0, |node, _| node == second);
    assert_eq!(again["pid"], row["pid"]);
    writes(&cluster, 20);
    alike(&cluster, second);
    for node in 0..NODES {
        assert_eq!(cluster.ask(node, &json!({ "do": "orphans" }))["orphans"], json!([]), "nothing was parted from");
    }
    for (question, said) in [
        (json!({ "do": "files", "group": "boks" }), "`boks` is no group of files: known here are books"),
        (json!({ "do": "compare", "group": "books", "node": 9 }), "that node takes no records of `books` at present"),
    ] {
        let refused = cluster.try_ask(second, &question).expect_err(said);
        assert!(refused.contains(said), "{refused}");
    }
    let other = (second + 1) % NODES;
    let compared = cluster.said("Shipping(Synced");
    assert_eq!(cluster.ask(second, &json!({ "do": "compare", "group": "books", "node": other }))["done"], true);
    // To its end: what nodes say of each other may be a moment old.
    cluster.wait("a comparison", || cluster.said("Shipping(Synced") > compared);
    alike(&cluster, second);
}
