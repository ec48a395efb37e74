//! One workload after the other, under one system after the other.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::cost::cost;
use super::judge::judge;
use super::network::until;
use super::programs::Programs;
use super::systems::{self, Site, System};
use super::writers;
use crate::stats::{Draw, Interval};

/// The moment's longest wait, in microseconds.
const WAIT: u64 = 20_000;
/// After how many moments something is killed.
const CRASH_EVERY: usize = 20;
/// How long a system may take for what is there at its start.
const START: Duration = Duration::from_secs(60);
/// How long a copy may not be fit to be shown.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Moments {
    /// A folder on the disk that is meant. What is made there goes in the end.
    pub dir: PathBuf,
    /// Moments of each workload under each system.
    pub moments: usize,
    /// How long the lag is looked at before that.
    pub lag: Duration,
    /// Rounds in which the programs' speed is compared with that of programs at which no system looks; 0: it is not.
    pub rounds: usize,
    /// `sqlite`, `redis`, `git`; all if empty.
    pub workloads: Vec<String>,
    /// `apus`, `apus-live`, `lsyncd`, `syncthing`; all if empty.
    pub systems: Vec<String>,
    /// Where torn copies are kept, on the disk of `dir`.
    pub keep: Option<PathBuf>,
    /// Draws the waits.
    pub seed: u64,
    /// This program and the arguments after which [`crate::role`] gets all others.
    pub me: Vec<OsString>,
    /// The library that is preloaded.
    pub library: PathBuf,
}

/// One workload under one system.
#[derive(Clone, Debug)]
pub struct Part {
    /// The workload.
    pub workload: String,
    /// The system.
    pub system: String,
    /// Moments that were looked at.
    pub moments: usize,
    /// Of which the program found the copy broken, or lacking what it had said to be there.
    pub torn: usize,
    /// The first of them, in words.
    pub first: Option<String>,
    /// Instants at which the system itself said that the copy is not to be shown.
    pub hidden: usize,
    /// Programs and receivers that were killed.
    pub crashes: usize,
    /// How old a mark was when it was seen in the copy, in microseconds.
    pub lag: Histogram<u64>,
    /// Bytes sent for each byte that the programs wrote.
    pub wire: f64,
    /// Processor time of the system, of one processor.
    pub processor: f64,
    /// Time of an operation against that of programs at which no system looks.
    pub cost: Option<Interval>,
    /// What is to be known besides.
    pub note: String,
}

/// All of them, and what could not be done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order in which they were done.
    pub parts: Vec<Part>,
    /// Systems that are not there, with the reason.
    pub left_out: Vec<(String, String)>,
}

/// Monotonic time in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is the kernel's.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec.unsigned_abs() * 1_000_000_000 + at.tv_nsec.unsigned_abs()
}

/// Looks at the marks that come into the copy, until told to stop.
fn look(copy: &Path, stop: &AtomicBool) -> Histogram<u64> {
    // To an hour, three digits. A histogram of these bounds can be made.
    let mut lag = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap_or_else(|error| unreachable!("{error}"));
    let mut seen = std::fs::metadata(copy.join("marks")).map_or(0, |meta| meta.len() / 8 * 8);
    while !stop.load(Relaxed) {
        std::thread::sleep(Duration::from_micros(500));
        let Ok(mut file) = std::fs::File::open(copy.join("marks")) else { continue };
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(seen)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
            continue;
        }
        let at = now();
        for mark in bytes.chunks_exact(8) {
            let mark = u64::from_le_bytes(mark.try_into().unwrap_or_default());
            // A mark of zeros is a hole that is not filled yet: it is looked at again.
            if mark == 0 {
                break;
            }
            lag.saturating_record((at.saturating_sub(mark) / 1000).max(1));
            seen += 8;
        }
    }
    lag
}

/// Does all of it. `told` hears where it is.
///
/// # Errors
/// The folder cannot be used, a name is unknown, or a program could not be started.
pub fn moments(plan: &Moments, told: &mut dyn FnMut(&str)) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let names = |given: &[String], all: &[&str]| -> Vec<String> {
        if given.is_empty() { all.iter().map(ToString::to_string).collect() } else { given.to_vec() }
    };
    for workload in names(&plan.workloads, &writers::NAMES) {
        for name in names(&plan.systems, &systems::NAMES) {
            match systems::make(&name) {
                Ok(system) => outcome.parts.push(part(plan, &workload, &name, system, told)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    outcome.left_out.push((name, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(outcome)
}

/// Goes with what holds it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn part(
    plan: &Moments,
    workload: &str,
    name: &str,
    system: Box<dyn System>,
    told: &mut dyn FnMut(&str),
) -> io::Result<Part> {
    let folder = Folder(plan.dir.join(format!("apus-moments-{}-{workload}-{name}", std::process::id())));
    // It ends before its folder goes.
    let mut system = system;
    let below = |name: &str| folder.0.join(name);
    for name in ["root", "copy", "room"] {
        std::fs::create_dir_all(below(name))?;
    }
    let whole = std::fs::canonicalize(&folder.0)?;
    let site = Site {
        root: whole.join("root"),
        copy: whole.join("copy"),
        room: whole.join("room"),
        me: plan.me.clone(),
        library: plan.library.clone(),
        workload: workload.to_string(),
    };
    told(&format!("{workload}, {name}: starts"));
    system.start(&site)?;
    let mut programs = Programs::start(system.as_mut(), &site)?;
    let copied = || std::fs::metadata(site.copy.join("marks")).is_ok_and(|meta| meta.len() > 8);
    if !until(START, copied) {
        return Err(io::Error::other(format!("{workload}, {name}: nothing was copied in {} s", START.as_secs())));
    }
    // Each thread has begun, and what it began with has come.
    std::thread::sleep(Duration::from_secs(2));
    told(&format!("{workload}, {name}: cost"));
    let cost = cost(plan.rounds, &programs, &site)?;
    told(&format!("{workload}, {name}: lag"));
    let stop = AtomicBool::new(false);
    let (wire, written, used, began) = (system.wire()?, programs.bytes(), system.processor(), Instant::now());
    let lag = std::thread::scope(|scope| {
        let looking = scope.spawn(|| look(&site.copy, &stop));
        std::thread::sleep(plan.lag);
        stop.store(true, Relaxed);
        looking.join()
    });
    let lag = lag.map_err(|_| io::Error::other("the lag was not looked at"))?;
    let (sent, wrote) = (system.wire()? - wire, programs.bytes() - written);
    let mut part = Part {
        workload: workload.to_string(),
        system: name.to_string(),
        moments: 0,
        torn: 0,
        first: None,
        hidden: 0,
        crashes: 0,
        lag,
        wire: sent as f64 / wrote.max(1) as f64,
        processor: (system.processor() - used) as f64 / began.elapsed().as_nanos() as f64,
        cost,
        note: String::new(),
    };
    let mut draw = Draw(plan.seed);
    let (moment, mut last) = (below("moment"), Instant::now());
    while part.moments < plan.moments {
        std::thread::sleep(Duration::from_micros(draw.below(WAIT)));
        if part.crashes < part.moments / CRASH_EVERY {
            if part.crashes.is_multiple_of(2) {
                programs.crash(system.as_mut(), &site)?;
            } else {
                system.crash()?;
            }
            part.crashes += 1;
            std::thread::sleep(Duration::from_micros(draw.below(WAIT)));
        }
        if let Some(ended) = programs.ended()? {
            return Err(io::Error::other(format!("{workload}, {name}: the programs ended: {ended}")));
        }
        if !system.freeze()? {
            part.hidden += 1;
            if last.elapsed() > PATIENCE {
                let why = format!(
                    "the copy is not to be shown for {} s; {}{}",
                    PATIENCE.as_secs(),
                    system.note(),
                    system.story()
                );
                return Err(io::Error::other(format!("{workload}, {name}: {why}")));
            }
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let taken = Command::new("cp").arg("-a").arg(&site.copy).arg(&moment).status();
        system.thaw()?;
        if !taken?.success() {
            return Err(io::Error::other(format!("{} cannot be copied", site.copy.display())));
        }
        part.moments += 1;
        last = Instant::now();
        if let Err(why) = judge(workload, &moment) {
            part.torn += 1;
            part.first.get_or_insert_with(|| format!("moment {}: {why}", part.moments));
            if let Some(kept) = &plan.keep {
                let kept = kept.join(format!("{workload}-{name}-{}", part.moments));
                std::fs::rename(&moment, &kept)?;
                // What the programs have meanwhile, to compare with.
                Command::new("cp").arg("-a").arg(&site.root).arg(kept.join("root")).status()?;
                continue;
            }
        }
        std::fs::remove_dir_all(&moment)?;
        told(&format!("{workload}, {name}: {}/{} moments, {} torn", part.moments, plan.moments, part.torn));
    }
    part.note = format!("{} operations; {}", programs.done(), system.note());
    Ok(part)
}

/// A table in Markdown.
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::from(
        "| workload | system | torn, of moments | lag ms: p50 / p99 / greatest | sent, of a byte written | processor | programs' time | crashes | not shown |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let ms = |micros: u64| micros as f64 / 1000.0;
    for part in &outcome.parts {
        let (half, most, all) = (part.lag.value_at_quantile(0.5), part.lag.value_at_quantile(0.99), part.lag.max());
        let cost = part.cost.map_or_else(|| "-".to_string(), |cost| cost.to_string());
        let _ = writeln!(
            text,
            "| {} | {} | {} of {} | {:.1} / {:.1} / {:.1} | {:.2} | {:.1} % | {cost} | {} | {} |",
            part.workload,
            part.system,
            part.torn,
            part.moments,
            ms(half),
            ms(most),
            ms(all),
            part.wire,
            part.processor * 100.0,
            part.crashes,
            part.hidden
        );
    }
    for part in &outcome.parts {
        let first = part.first.as_ref().map_or_else(String::new, |first| format!("; the first torn one, {first}"));
        let _ = writeln!(text, "\n{}, {}: {}{first}", part.workload, part.system, part.note.trim_end_matches("; "));
    }
    for (name, why) in &outcome.left_out {
        let _ = writeln!(text, "\n{name}: left out: {why}");
    }
    text
}
