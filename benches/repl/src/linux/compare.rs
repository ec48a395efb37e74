//! Rounds, and what they come to.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};

use super::processes::{Ended, bound};
use super::redis::Redis;
use super::ways::{self, Place, Way};
use super::work::{KINDS, Kind};
use crate::stats::{Interval, median};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A folder on the disk that is meant. What is made there goes in the end.
    pub dir: PathBuf,
    /// Rounds of each workload. Each has processes and files of its own: which pages and blocks they get moves times by several per cent.
    pub rounds: usize,
    /// Turns of a round; in each, every way has a slot on the way there and one on the way back.
    pub turns: usize,
    /// Names of workloads, as in [`KINDS`].
    pub kinds: Vec<String>,
    /// Names of ways besides `none`, as in [`super::WAYS`].
    pub ways: Vec<String>,
    /// This program and the arguments after which [`super::role`] gets all others.
    pub me: Vec<OsString>,
    /// The library that is preloaded.
    pub library: PathBuf,
}

/// Where a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The workload.
    pub kind: &'a str,
    /// Slots done, of all.
    pub done: usize,
    /// Slots in all.
    pub of: usize,
}

/// One way with one workload.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The way.
    pub way: String,
    /// Nanoseconds an operation, of each slot.
    pub nanos: Vec<f64>,
    /// Time against `none`, by round: the median of its turns.
    pub ratios: Vec<f64>,
    /// Of these.
    pub ratio: Interval,
    /// The program's processor time against `none` in the same round.
    pub processor: Interval,
    /// Processor time of what works beside the program, in nanoseconds an operation.
    pub beside: f64,
}

impl Cell {
    /// The least and the greatest of its slots, nanoseconds an operation.
    pub fn spread(&self) -> (f64, f64) {
        self.nanos.iter().fold((f64::MAX, 0.0), |(least, greatest), nanos| (nanos.min(least), nanos.max(greatest)))
    }
}

/// One workload.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub kind: Kind,
    /// `none` first.
    pub cells: Vec<Cell>,
}

/// All that was measured, and why the rest was not.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By workload.
    pub rows: Vec<Row>,
    /// Workloads and ways that are not there, with the reason.
    pub left_out: Vec<(String, String)>,
    /// What each way saw, in words.
    pub seen: Vec<(String, String)>,
}

/// Does slots.
pub(crate) trait Runner {
    /// Nanoseconds an operation, and those of a processor.
    fn slot(&mut self, count: u64) -> io::Result<(f64, f64)>;
}

struct Worker {
    _child: Ended,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the worker ended"));
        }
        Ok(line)
    }
}

impl Runner for Worker {
    fn slot(&mut self, count: u64) -> io::Result<(f64, f64)> {
        writeln!(self.to, "{count}")?;
        let line = self.line()?;
        let mut words = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        match (words.next(), words.next()) {
            (Some(nanos), Some(processor)) => Ok((nanos / count as f64, processor / count as f64)),
            _ => Err(io::Error::other(format!("the worker said: {line}"))),
        }
    }
}

/// A way, its folder, and the program of the workload that is measured.
struct Lane {
    name: String,
    way: Box<dyn Way>,
    place: Place,
}

impl Lane {
    /// A program of the workload in a folder of its own.
    fn runner(&mut self, kind: &Kind, number: usize) -> io::Result<Box<dyn Runner>> {
        let redis = kind.name == "redis";
        let folder = self.place.root.join(format!("{}-{number}", kind.name));
        self.way.folder(&folder)?;
        let socket = self.place.room.join("socket");
        let mut command = if redis { Redis::command(&folder, &socket) } else { self.place.role(&["work", kind.name]) };
        command.current_dir(&folder);
        self.way.before(&mut command)?;
        if redis {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        self.way.resume();
        let mut child = bound(&mut command).spawn()?;
        self.way.started(&mut child)?;
        if redis {
            return Ok(Box::new(Redis::started(child, socket)?));
        }
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the worker has no pipes"));
        };
        let mut worker = Worker { _child: Ended(child), to, from: BufReader::new(from) };
        let line = worker.line()?;
        if line.trim() != "ready" {
            return Err(io::Error::other(format!("the worker said: {line}")));
        }
        Ok(Box::new(worker))
    }
}

/// Goes with what holds it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(below: &Path) -> io::Result<Self> {
        let path = below.join(format!("apus-repl-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(std::fs::canonicalize(path)?))
    }
}

/// Measures. `told` hears of each slot.
///
/// # Errors
/// The folder cannot be used, a name is unknown, or `none` itself fails. What only one way lacks is in [`Report::left_out`].
pub fn run(plan: &Plan, told: &mut dyn FnMut(Step<'_>)) -> io::Result<Report> {
    let disk = Folder::new(&plan.dir).map_err(|error| named(&plan.dir, &error))?;
    let memory = Path::new("/dev/shm");
    let room = Folder::new(if memory.is_dir() { memory } else { &plan.dir })?;
    let mut report = Report::default();
    let mut lanes: Vec<Lane> = Vec::new();
    for name in std::iter::once("none").chain(plan.ways.iter().map(String::as_str).filter(|name| *name != "none")) {
        let mut way = ways::make(name)?;
        let place = Place {
            root: disk.0.join(name).join("root"),
            room: room.0.join(name),
            disk: disk.0.join(name),
            me: plan.me.clone(),
            library: plan.library.clone(),
        };
        std::fs::create_dir_all(&place.root)?;
        std::fs::create_dir_all(&place.room)?;
        match way.start(&place).and_then(|()| way.rest()) {
            Ok(()) => lanes.push(Lane { name: name.to_string(), way, place }),
            Err(error) => report.left_out.push((name.to_string(), error.to_string())),
        }
    }
    let mut kinds = Vec::new();
    for name in &plan.kinds {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let why = format!("{name} is no workload; there are {}", names.join(", "));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        };
        match kind.lacks() {
            Some(why) => report.left_out.push((kind.name.to_string(), why.to_string())),
            None => kinds.push(*kind),
        }
    }
    let of = kinds.len() * plan.rounds * plan.turns * lanes.len() * 2;
    let mut done = 0;
    for kind in kinds {
        let mut step = || {
            done += 1;
            told(Step { kind: kind.name, done, of });
        };
        report.rows.push(measure(kind, plan, &mut lanes, &mut step)?);
    }
    for lane in &mut lanes {
        let seen = lane.way.seen().unwrap_or_else(|error| format!("TROUBLE: {error}"));
        report.seen.push((lane.name.clone(), seen));
    }
    Ok(report)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[derive(Default)]
struct Figures {
    nanos: Vec<f64>,
    beside: Vec<f64>,
    /// Of each round.
    ratio: Vec<f64>,
    processor: Vec<f64>,
}

/// What one turn came to for one way: both of its slots together.
#[derive(Clone, Copy, Default)]
struct Turn {
    nanos: f64,
    processor: f64,
}

fn measure(kind: Kind, plan: &Plan, lanes: &mut [Lane], step: &mut dyn FnMut()) -> io::Result<Row> {
    let mut figures: Vec<Figures> = lanes.iter().map(|_| Figures::default()).collect();
    for round in 0..plan.rounds {
        let mut runners = Vec::new();
        for lane in lanes.iter_mut() {
            let runner = lane.runner(&kind, round);
            runners.push(runner.map_err(|error| io::Error::other(format!("{}, {}: {error}", lane.name, kind.name)))?);
            lane.way.rest()?;
        }
        let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); lanes.len()];
        // One turn is thrown away: caches fill, files grow to their size.
        for turn in 0..=plan.turns {
            let mut sums = vec![Turn::default(); lanes.len()];
            let there: Vec<usize> = (0..lanes.len()).map(|at| (at + turn + round) % lanes.len()).collect();
            for &at in there.iter().chain(there.iter().rev()) {
                let lane = &mut lanes[at];
                lane.way.resume();
                let before = lane.way.beside();
                let (nanos, processor) = runners[at].slot(kind.count)?;
                lane.way.rest()?;
                sums[at].nanos += nanos;
                sums[at].processor += processor;
                if turn > 0 {
                    figures[at].nanos.push(nanos);
                    figures[at].beside.push((lane.way.beside() - before) as f64 / kind.count as f64);
                    step();
                }
            }
            if turn > 0 {
                turns.iter_mut().zip(sums).for_each(|(turns, sum)| turns.push(sum));
            }
        }
        for (figures, own) in figures.iter_mut().zip(&turns) {
            let ratios = |of: fn(&Turn) -> f64| {
                let ratios: Vec<f64> = own.iter().zip(&turns[0]).map(|(own, none)| of(own) / of(none)).collect();
                median(&ratios)
            };
            figures.ratio.push(ratios(|turn| turn.nanos));
            figures.processor.push(ratios(|turn| turn.processor));
        }
        for (lane, runner) in lanes.iter_mut().zip(runners) {
            lane.way.resume();
            drop(runner);
            lane.way.remove(&lane.place.root.join(format!("{}-{round}", kind.name)))?;
            lane.way.rest()?;
        }
    }
    let cells = lanes
        .iter()
        .zip(figures)
        .map(|(lane, own)| Cell {
            way: lane.name.clone(),
            ratio: Interval::of(&own.ratio),
            processor: Interval::of(&own.processor),
            beside: median(&own.beside),
            nanos: own.nanos,
            ratios: own.ratio,
        })
        .collect();
    Ok(Row { kind, cells })
}
