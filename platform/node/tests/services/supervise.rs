//! How fast a crash and a hang are seen by the daemon's engine and mended, by the times that the daemon tells of itself. The test, the
//! daemon and the programs read one clock.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apus_engine::supervision::{self, FailureCause};
use apus_engine::{Copy, Fact, ServiceId, Time};
use apus_node::Told;
use apus_os::linux::clock;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::peers;
use crate::tests::pid;

/// What the hanging program promises.
const TIMEOUT: u64 = 500_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A shell that kills without a new process for each kill.
pub(crate) struct Killer(Child);

impl Killer {
    pub(crate) fn new() -> Self {
        Self(Command::new("/bin/sh").stdin(Stdio::piped()).spawn().expect("a shell"))
    }

    /// Kills, and gives the time before it, in microseconds of the boot clock.
    pub(crate) fn kill(&mut self, pid: u32) -> u64 {
        assert!(pid > 1);
        let to = self.0.stdin.as_mut().expect("its input");
        let at = clock::boot() / 1_000;
        to.write_all(format!("kill -9 {pid}\n").as_bytes()).expect("it reads");
        at
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What a node tells, as it comes.
struct Teller {
    file: PathBuf,
    read: u64,
}

impl Teller {
    /// The next thing that is such.
    fn until<T>(&mut self, cluster: &Cluster, such: impl Fn(Time, &Told) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut file = fs::File::open(&self.file).expect("it tells");
            file.seek(SeekFrom::Start(self.read)).expect("it grows");
            let text = std::io::read_to_string(file).expect("it is a text");
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                self.read += line.len() as u64;
                if let Some(found) = Told::read(line.trim()).and_then(|(at, told)| such(at, &told)) {
                    return found;
                }
            }
            assert!(Instant::now() < until, "it does not tell\n{}", cluster.story());
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

fn ready(copy: Copy) -> impl Fn(Time, &Told) -> Option<u64> {
    move |at, told| match told {
        Told::Event { event } if event.fact == Fact::Supervision(supervision::Fact::Ready { copy }) => Some(at.0),
        _ => None,
    }
}

/// Times in microseconds.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) times: Histogram<u64>,
    /// What the slowest of a hundred may take.
    pub(crate) goal: Option<u64>,
}

impl Row {
    pub(crate) fn new(what: &str, goal: Option<u64>) -> Self {
        Self { what: what.into(), times: Histogram::new(3).expect("three digits"), goal }
    }

    pub(crate) fn put(&mut self, time: u64) {
        self.times.record(time).expect("it fits");
    }

    pub(crate) fn at(&self, percent: f64) -> u64 {
        self.times.value_at_quantile(percent / 100.0)
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what, "n": self.times.len(), "p50_us": self.at(50.0), "p99_us": self.at(99.0),
            "max_us": self.times.max(), "goal_us": self.goal,
        })
    }

    fn line(&self) -> String {
        let ms = |us: u64| format!("{}.{:02}", us / 1_000, us % 1_000 / 10);
        let goal = self.goal.map_or_else(|| "–".into(), ms);
        let (p50, p99, max) = (ms(self.at(50.0)), ms(self.at(99.0)), ms(self.times.max()));
        format!("| {} | {} | {p50} | {p99} | {max} | {goal} |", self.what, self.times.len())
    }
}

/// One node with a trivial program, which says that it is ready, and one that hangs.
fn measure(kills: usize, hangs: usize) -> Vec<Row> {
    let exe = std::env::current_exe().expect("it runs").display().to_string();
    let more = "backoff = \"1ms\"\nbackoff_max = \"1ms\"\nfailures = 255\nwithin = \"1s\"\nready = \"notify\"\n";
    let program = |name: &str, what: &str, more: &str| {
        format!("[[services]]\nname = \"{name}\"\ncommand = [\"{exe}\", \"program\", \"{what}\"]\n{more}")
    };
    let mut services = program("trivial", "ready", more);
    if hangs > 0 {
        let promise = format!("heartbeats = [\"{TIMEOUT}us\"]\nstop = {{ grace = \"10ms\" }}\n");
        services += &program("hangs", "hangs", &format!("{more}{promise}"));
    }
    let cluster = Cluster::new("supervise", 1, "told = \"FOLDER/told\"", &services);
    let folder = cluster.folder().to_path_buf();
    let copy = |service| Copy { service: ServiceId(service), slot: 0 };
    let (_, row) = cluster.ready("trivial", 0, |_, _| true);
    let (mut killer, mut told) = (Killer::new(), Teller { file: folder.join("told"), read: 0 });
    let mut seen = Row::new("crash seen by the engine", Some(5_000));
    let mut ran = Row::new("the next one runs", None);
    let mut again = Row::new("crash to ready again, by its own word", Some(50_000));
    told.until(&cluster, ready(copy(0)));
    let stamp = folder.join("store0/programs/trivial.0/began");
    let mut number = pid(&row);
    for _ in 0..kills {
        let killed = killer.kill(number);
        let gone = told.until(&cluster, |at, told| match told {
            Told::Gone { copy: gone, .. } if *gone == copy(0) => Some(at.0),
            _ => None,
        });
        let up = told.until(&cluster, ready(copy(0)));
        let (fresh, began) = peers::stamp(&stamp).expect("it has begun");
        assert!(gone >= killed && began >= killed && fresh != number);
        seen.put(gone - killed);
        ran.put(began - killed);
        again.put(up - killed);
        number = fresh;
        // Not in step with anything.
        std::thread::sleep(Duration::from_micros(clock::boot() % 20_000));
    }
    let mut late = Row::new("hang seen after its timeout of 500 ms", Some(TIMEOUT / 10));
    for _ in 0..hangs {
        let hung = told.until(&cluster, |at, told| match told {
            Told::Event { event } => match event.fact {
                Fact::Supervision(supervision::Fact::Failed { copy: which, cause: FailureCause::Hang(_) })
                    if which == copy(1) =>
                {
                    Some(at.0)
                }
                _ => None,
            },
            _ => None,
        });
        // Its last beat, while it is kept for its evidence.
        let beat = fs::read_to_string(folder.join("store0/programs/hangs.0/beat")).expect("it has beaten");
        let due = beat.trim().parse::<u64>().expect("a number") + TIMEOUT;
        assert!(hung >= due, "not before its time: {hung} {due}");
        late.put(hung - due);
        told.until(&cluster, ready(copy(1)));
    }
    let mut all = vec![seen, ran, again];
    all.extend((hangs > 0).then_some(late));
    all
}

/// What is kept: it says when it began, that it is ready, and beats for a while.
pub(crate) fn program(what: &str) -> Result<(), String> {
    let began = clock::boot() / 1_000;
    let put = |name: &str, text: String| {
        let fresh = format!("{name}.new");
        fs::write(&fresh, text).and_then(|()| fs::rename(fresh, name)).map_err(|error| error.to_string())
    };
    put("began", format!("{} {began}\n", std::process::id()))?;
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from) {
        let say = |lines: &str| apus_os::linux::program::tell(&socket, lines).map_err(|error| error.to_string());
        say("READY=1")?;
        if what == "hangs" {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(70));
                // Before the beat: what is measured from it is no shorter than it was.
                put("beat", format!("{}\n", clock::boot() / 1_000))?;
                say("WATCHDOG=1")?;
            }
        }
    }
    loop {
        std::thread::sleep(Duration::from_secs(1_000));
    }
}

/// Goals that are not met by so many.
fn missed(rows: &[Row]) -> Vec<String> {
    let late = rows.iter().filter_map(|row| {
        let goal = row.goal.filter(|goal| row.at(99.0) > *goal)?;
        Some(format!("{}: p99 {} us, goal {goal} us", row.what, row.at(99.0)))
    });
    late.collect()
}

/// `[TRIALS] [--format json]`. A goal that is missed is an error.
pub(crate) fn table(words: &[&str]) -> Result<(), String> {
    let (trials, as_json) = match words {
        [] => (200, false),
        ["--format", "json"] => (200, true),
        [trials] => (number(trials)?, false),
        [trials, "--format", "json"] => (number(trials)?, true),
        _ => return Err(format!("`{}` is not known: [TRIALS] [--format json]", words.join(" "))),
    };
    let mut rows = measure(trials, (trials / 6).max(1));
    let (peers, skipped) = peers::measure(trials.min(30));
    let ours = rows[1].at(50.0);
    let ratio = |row: &Row| json!({ "what": row.what, "p50_ratio_to_apus": row.at(50.0) as f64 / ours.max(1) as f64 });
    let ratios: Vec<Value> = peers.iter().map(ratio).collect();
    rows.extend(peers);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let missed = missed(&rows);
    let judged = if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) };
    if as_json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        println!(
            "{}",
            json!({ "rows": rows, "ratios": ratios, "skipped": skipped, "load": load.trim(), "missed": missed })
        );
        return judged;
    }
    println!(
        "| in ms; load average {} | n | p50 | p99 | most | goal for p99 |\n|---|---|---|---|---|---|",
        load.trim()
    );
    rows.iter().for_each(|row| println!("{}", row.line()));
    ratios.iter().for_each(|one| {
        println!("{}: {:.1} times ours at p50", one["what"], one["p50_ratio_to_apus"].as_f64().unwrap_or_default());
    });
    skipped.iter().for_each(|why| println!("{why}"));
    println!("goals: {}", if missed.is_empty() { "met".into() } else { format!("MISSED {}", missed.join("; ")) });
    judged
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().ok().filter(|many| *many > 0).ok_or_else(|| format!("`{word}` is no number of trials"))
}

/// A few of each, on a machine that may be busy: bounds that only something broken exceeds.
pub(crate) fn smoke() {
    let mut judged = [Row::new("quick", Some(9)), Row::new("slow", Some(9)), Row::new("free", None)];
    judged.iter_mut().zip([9, 10, 99]).for_each(|(row, time)| row.put(time));
    assert_eq!(missed(&judged), ["slow: p99 10 us, goal 9 us"]);
    let rows = measure(8, 1);
    let bounds = [100_000, 500_000, 500_000, 250_000];
    for (row, bound) in rows.iter().zip(bounds) {
        assert!(row.at(50.0) < bound, "{}: {} µs", row.what, row.at(50.0));
    }
}
