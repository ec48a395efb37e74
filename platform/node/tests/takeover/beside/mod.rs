//! Fail-over beside peers: the same faults, clients and askers over Apus, keepalived, corosync with Pacemaker, and those that only detect
//! or only restart. `docs/compare-failover.md` says what is measured and what makes a trial invalid.

mod apus;
mod asker;
mod clock;
mod copy;
mod faults;
mod field;
mod judge;
mod keepalived;
mod others;
mod pacemaker;
mod plot;
mod probe;
mod processes;
mod stop;
mod tail;

#[path = "../../../../lab/src/linux/cgroup.rs"]
mod cgroup;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use apus::Apus;
use faults::{Fault, Stack, rest, trial};
use judge::{HEAD, Row, missed, rows};
use keepalived::Keepalived;
use others::{Serf, Supervisord};
use pacemaker::Pacemaker;

pub(crate) use asker::ask;
pub(crate) use copy::live;
pub(crate) use judge::self_test;
pub(crate) use probe::probe;

const ADVERTS: [(&str, &str); 2] = [("keepalived, advert_int 1", "1"), ("keepalived, advert_int 0.1", "0.1")];
/// Nobody here can start systemd as process 1 of a node without a machine for it.
const SYSTEMD: &str = "systemd: SKIPPED: its restarts need it as process 1, which a namespace of this kind is not";

/// What was asked for.
pub(crate) struct Asked {
    trials: usize,
    only: String,
    as_json: bool,
    /// Trials so far, a line of JSON each: a run goes on where the last one ended.
    store: PathBuf,
    plot: Option<PathBuf>,
    /// Nothing is run; what there is is shown.
    show: bool,
}

impl Asked {
    pub(crate) fn read(words: &[&str]) -> Result<Self, String> {
        let mut asked = Self {
            trials: 30,
            only: String::new(),
            as_json: false,
            store: std::env::temp_dir().join("apus-compare-failover.jsonl"),
            plot: None,
            show: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("`{word}` needs a value"));
            match *word {
                "--only" => asked.only = value()?.into(),
                "--format" => asked.as_json = value()? == "json",
                "--store" => asked.store = value()?.into(),
                "--plot" => asked.plot = Some(value()?.into()),
                "--show" => asked.show = true,
                number => {
                    asked.trials = number.parse().map_err(|_| format!("`{number}`: say how many trials"))?;
                }
            }
        }
        Ok(asked)
    }

    /// Few trials of everything are a test of this program: peers then get one each, and of fewer faults.
    fn is_quick(&self) -> bool {
        self.trials < 5 && self.only.is_empty()
    }

    fn wants(&self, stack: &str, fault: Fault) -> bool {
        format!("{stack}: {}", fault.name()).contains(&self.only)
    }

    /// How many trials there shall be.
    fn many(&self, stack: &str, fault: Fault) -> usize {
        if !self.wants(stack, fault) {
            return 0;
        }
        if stack == apus::NAME || !self.is_quick() {
            return self.trials;
        }
        let few = if stack == pacemaker::NAME { fault == Fault::Partition } else { true };
        usize::from(few && matches!(fault, Fault::Kill | Fault::Partition | Fault::Move | Fault::Program))
    }
}

struct Store {
    file: PathBuf,
    all: Vec<Value>,
    began: Instant,
}

impl Store {
    fn open(file: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| format!("{}: {error}", file.display()))?,
        };
        // A line that was cut off is not there.
        let all = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { file: file.into(), all, began: Instant::now() })
    }

    fn add(&mut self, mut value: Value) -> Result<(), String> {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        value["load"] = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).into();
        let failed = |error: std::io::Error| format!("{}: {error}", self.file.display());
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = std::fs::File::options().create(true).append(true).open(&self.file).map_err(failed)?;
        file.write_all(format!("{value}\n").as_bytes()).map_err(failed)?;
        self.all.push(value);
        Ok(())
    }

    fn count(&self, stack: &str, fault: Fault) -> usize {
        let of = |trial: &&Value| trial["stack"] == stack && trial["fault"] == fault.name();
        self.all.iter().filter(of).count()
    }

    fn has_rest(&self, stack: &str) -> bool {
        self.all.iter().any(|one| one["stack"] == stack && one["rest"].is_array())
    }

    /// Of the trials that are wanted, those that are missing.
    fn missing(&self, asked: &Asked, stack: &str, faults: &[Fault]) -> Vec<(Fault, usize)> {
        let left = |fault: &Fault| (*fault, asked.many(stack, *fault).saturating_sub(self.count(stack, *fault)));
        faults.iter().map(left).filter(|(_, left)| *left > 0).collect()
    }

    fn tell(&self, trial: &Value, of: usize) {
        let ms = |name: &str| trial[name].as_u64().map_or("–".into(), |us| format!("{:.1}", us as f64 / 1_000.0));
        let why = trial["invalid"].as_str().map_or(String::new(), |why| format!("  INVALID: {why}"));
        let (stack, fault) = (trial["stack"].as_str().unwrap_or_default(), trial["fault"].as_str().unwrap_or_default());
        let number = self.all.iter().filter(|one| one["stack"] == stack && one["fault"] == fault).count();
        eprintln!(
            "{:6.0} s  {stack}: {fault} {number} of {of}: seen after {} ms, outage {}, after mending {}, two owners {}, service outage {}, two copies {}{why}",
            self.began.elapsed().as_secs_f64(),
            ms("detect_us"),
            ms("outage_us"),
            ms("heal_us"),
            ms("overlap_us"),
            ms("service_outage_us"),
            ms("service_overlap_us"),
        );
    }
}

/// Makes a stack and has it struck; one that does not recover is made anew. Whoever cannot be made is left out, with the reason.
fn run(
    store: &mut Store,
    asked: &Asked,
    name: &str,
    faults: &[Fault],
    make: &dyn Fn() -> Result<Box<dyn Stack>, String>,
) -> Result<(), String> {
    let mut stack: Option<Box<dyn Stack>> = None;
    let mut failures = 0;
    for (fault, left) in store.missing(asked, name, faults) {
        let mut done = 0;
        while done < left {
            stop::check()?;
            if failures > 2 {
                eprintln!("{name}: SKIPPED: it failed three times in a row");
                return Ok(());
            }
            let mut made = match stack.take() {
                Some(stack) => stack,
                None => match make() {
                    Ok(made) => made,
                    Err(why) if stop::asked() => return Err(why),
                    Err(why) => {
                        failures += 1;
                        eprintln!("{name}: cannot be made: {why}");
                        continue;
                    }
                },
            };
            if !store.has_rest(name) {
                match rest(made.as_mut(), if asked.trials < 5 { 3 } else { 30 }) {
                    Ok(found) => store.add(found)?,
                    Err(why) => {
                        failures += 1;
                        eprintln!("{name}: does not come to rest: {why}");
                        continue;
                    }
                }
            }
            match trial(made.as_mut(), fault) {
                Ok((value, whole)) => {
                    store.add(value.clone())?;
                    store.tell(&value, asked.many(name, fault));
                    (done, failures) = (done + 1, 0);
                    stack = whole.then_some(made);
                }
                Err(why) if stop::asked() => return Err(why),
                Err(why) => {
                    failures += 1;
                    // Counted: it was not possible to strike it, or to undo that.
                    let invalid = format!("not settled: {why}");
                    let value = json!({"stack": name, "fault": fault.name(), "invalid": invalid});
                    store.add(value.clone())?;
                    store.tell(&value, asked.many(name, fault));
                    done += 1;
                }
            }
        }
    }
    Ok(())
}

fn run_all(store: &mut Store, asked: &Asked) -> Result<(), String> {
    let own: Vec<Fault> = Fault::ALL.to_vec();
    let address: Vec<Fault> = own.iter().copied().filter(|fault| *fault != Fault::Program).collect();
    run(store, asked, apus::NAME, &own, &|| Ok(Box::new(Apus::new()?)))?;
    for (name, advert) in ADVERTS {
        run(store, asked, name, &address, &|| Ok(Box::new(Keepalived::new(name, advert)?)))?;
    }
    run(store, asked, pacemaker::NAME, &own, &|| Ok(Box::new(Pacemaker::new()?)))?;
    let detected = store.missing(asked, others::SERF, &[Fault::Kill, Fault::Stop, Fault::Partition]);
    if !detected.is_empty() {
        match Serf::new() {
            Err(why) => eprintln!("{}: SKIPPED: {why}", others::SERF),
            Ok(mut serf) => {
                for (fault, left) in detected {
                    for _ in 0..left {
                        stop::check()?;
                        let value = serf.trial(fault)?;
                        store.add(value.clone())?;
                        store.tell(&value, asked.many(others::SERF, fault));
                    }
                }
            }
        }
    }
    for (fault, left) in store.missing(asked, others::SUPERVISORD, &[Fault::Program]) {
        match Supervisord::new() {
            Err(why) => eprintln!("{}: SKIPPED: {why}", others::SUPERVISORD),
            Ok(mut supervisord) => {
                for _ in 0..left {
                    stop::check()?;
                    let value = supervisord.trial()?;
                    store.add(value.clone())?;
                    store.tell(&value, asked.many(others::SUPERVISORD, fault));
                }
            }
        }
    }
    if "systemd: program killed".contains(&asked.only) {
        eprintln!("{SYSTEMD}");
    }
    Ok(())
}

/// What stacks cost at rest, as a table.
fn rests(all: &[Value]) -> Vec<String> {
    let mut lines = vec![
        "| stack, a node at rest | frames/s sent | bytes/s | CPU % of a core | resident MiB | of which its share |"
            .to_owned(),
        "|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    for one in all {
        let Some(nodes) = one["rest"].as_array() else { continue };
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let mean = |name: &str| {
            nodes.iter().map(|node| node[name].as_f64().unwrap_or(0.0)).sum::<f64>() / nodes.len().max(1) as f64
        };
        lines.push(format!(
            "| {} | {:.1} | {:.0} | {:.2} | {:.1} | {:.1} |",
            one["stack"].as_str().unwrap_or_default(),
            mean("frames_s"),
            mean("bytes_s"),
            mean("cpu_percent"),
            mean("resident_kib") / 1_024.0,
            mean("share_kib") / 1_024.0
        ));
    }
    lines
}

fn show(store: &Store, asked: &Asked) -> Result<(), String> {
    let rows: Vec<Row> = rows(&store.all);
    let wanted = Fault::ALL.iter().filter(|fault| asked.many(apus::NAME, **fault) > 0);
    let wanted: Vec<&str> = wanted.map(|fault| fault.name()).collect();
    let missed = missed(&rows, apus::NAME, faults::PLANNED, &wanted);
    let struck: usize = rows.iter().filter(|row| row.stack == apus::NAME).map(|row| row.trials.len()).sum();
    if let Some(file) = &asked.plot {
        plot::write(file, &rows)?;
    }
    if asked.as_json {
        let rest: Vec<&Value> = store.all.iter().filter(|one| one["rest"].is_array()).collect();
        let all: Vec<Value> = rows.iter().map(Row::json).collect();
        println!("{}", json!({"rows": all, "rest": rest, "faults_on_apus": struck, "missed": missed}));
    } else {
        println!("{HEAD}");
        rows.iter().for_each(|row| println!("{}", row.text()));
        println!();
        rests(&store.all).iter().for_each(|line| println!("{line}"));
        println!("\n{struck} faults on {}; goals: {}", apus::NAME, if missed.is_empty() { "met" } else { "MISSED" });
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("; ")) }
}

/// Runs what is missing, and shows all that there is.
pub(crate) fn compare(asked: &Asked) -> Result<(), String> {
    self_test();
    stop::listen();
    processes::sweep();
    let mut store = Store::open(&asked.store)?;
    if !asked.show {
        run_all(&mut store, asked)?;
    }
    show(&store, asked)
}
