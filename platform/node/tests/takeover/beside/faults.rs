//! One trial: a fault strikes the node that has the address, and what clients, askers and copies see of it.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clock::{boot_us, wall_us};
use super::field::{Field, NODES};
use super::judge::{gap, overlap, owned};
use super::tail::{self, Tail};
use super::{copy, processes, stop};
use crate::net::sh;

/// What strikes the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All processes of the manager are killed.
    Kill,
    /// They are stopped by SIGSTOP.
    Stop,
    /// Nothing gets past the node's own switch, with the carrier up.
    Partition,
    /// What the node sends is lost there; it hears everything.
    OneWay,
    /// The manager gets 1 ms of one processor in 100 ms.
    Starve,
    /// The node's port loses the carrier.
    Link,
    /// An operator has all moved to another node.
    Move,
    /// The program with one owner is killed.
    Program,
}

pub(crate) const PLANNED: &str = "planned move";

impl Fault {
    pub(crate) const ALL: [Self; 8] =
        [Self::Kill, Self::Stop, Self::Partition, Self::OneWay, Self::Starve, Self::Link, Self::Move, Self::Program];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed (SIGKILL)",
            Self::Stop => "frozen (SIGSTOP)",
            Self::Partition => "partition, carrier up",
            Self::OneWay => "one way: it is not heard",
            Self::Starve => "starved, 1 ms of CPU in 100",
            Self::Link => "link down",
            Self::Move => PLANNED,
            Self::Program => "program killed",
        }
    }
}

/// A manager of an address, and perhaps of a program, on the field.
pub(crate) trait Stack {
    fn name(&self) -> &'static str;
    fn field(&mut self) -> &mut Field;
    fn see(&self) -> &Field;
    /// Logs in which a node says that it misses another, one for each node.
    fn tails(&self) -> &[Tail];
    /// Where copies of the program with one owner say that they live.
    fn copies(&self) -> Option<&PathBuf>;
    /// Who has not lost the address after so long has kept it.
    fn keeps(&self) -> Duration;
    /// The manager's processes on a node, which faults strike.
    fn daemons(&self, node: usize) -> Vec<u32>;
    /// Waits until all is well, and one node owns address and program.
    fn settle(&mut self) -> Result<usize, String>;
    fn hand_over(&mut self, from: usize) -> Result<(), String>;
    /// Does what an operator does after a fault.
    fn revive(&mut self, node: usize, fault: Fault) -> Result<(), String>;
    /// How long frames of an earlier dispatcher came after one of a later, since it was asked last, in microseconds.
    fn dispatchers(&mut self) -> Option<u64> {
        None
    }
}

/// The longest that anything may take until the client is answered again.
const LIMIT: Duration = Duration::from_secs(20);
/// So long after the new owner came a fault is mended: two owners are seen for so long at least.
const HOLD: Duration = Duration::from_secs(1);
/// A client that was itself so far behind saw nothing that counts, in microseconds.
const BEHIND: u64 = 25_000;
/// Answers of the owner in the second before the fault, of five hundred: with fewer the askers are blind.
const SEEN: usize = 250;
/// A stack that is not well again after so long is made anew.
const WELL: Duration = Duration::from_secs(60);
/// A copy lives if it said so within this, in microseconds.
const ALIVE: u64 = 60_000;

/// Processes of the program with one owner, on a node.
fn programs(stack: &dyn Stack, node: usize) -> Vec<u32> {
    let all = processes::all(&stack.see().net.node(node));
    all.into_iter().filter(|pid| processes::words(*pid).get(1).is_some_and(|word| word == "copy")).collect()
}

/// Strikes; gives the processes that were meant.
fn act(stack: &mut dyn Stack, fault: Fault, node: usize) -> Result<Vec<u32>, String> {
    let pids = if fault == Fault::Program { programs(stack, node) } else { stack.daemons(node) };
    if pids.is_empty() {
        return Err(format!("node {node} runs nothing that could be struck"));
    }
    match fault {
        Fault::Kill | Fault::Program => processes::signal(&pids, "KILL"),
        Fault::Stop => processes::signal(&pids, "STOP"),
        Fault::Partition => stack.see().cut(node, true)?,
        Fault::OneWay => stack.see().cut(node, false)?,
        Fault::Starve => stack.see().starve(&pids)?,
        Fault::Link => stack.see().net.link(node, false)?,
        Fault::Move => stack.hand_over(node)?,
    }
    Ok(pids)
}

/// Whether it did anything.
fn effect(stack: &dyn Stack, fault: Fault, node: usize, pids: &[u32], moved: bool) -> bool {
    match fault {
        Fault::Kill | Fault::Program => pids.iter().all(|pid| processes::state(*pid).is_none()),
        Fault::Stop => pids.iter().all(|pid| processes::state(*pid) == Some('T')),
        Fault::Partition | Fault::OneWay => stack.see().lost() > 0,
        Fault::Starve => stack.see().held_back() > 0,
        Fault::Link => !stack.see().has_carrier(node),
        Fault::Move => moved,
    }
}

fn undo(stack: &mut dyn Stack, fault: Fault, node: usize, pids: &[u32]) -> Result<(), String> {
    match fault {
        Fault::Stop => processes::signal(pids, "CONT"),
        Fault::Partition | Fault::OneWay => stack.see().mend()?,
        Fault::Starve => {
            stack.see().feed();
            for pid in pids {
                let _ = sh(&format!("chrt -a -r -p 1 {pid}"));
            }
        }
        Fault::Link => stack.see().net.link(node, true)?,
        Fault::Kill | Fault::Move | Fault::Program => {}
    }
    stack.revive(node, fault)
}

/// Up to a second, so that faults strike at any time of the timers.
fn phase() -> Duration {
    Duration::from_micros(wall_us().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44)
}

/// What there is during a fault.
struct During {
    report: Value,
    /// Another node answers for the address.
    moved: bool,
    /// The client was not answered again in time.
    late: Option<String>,
}

fn wait(stack: &mut dyn Stack, fault: Fault, struck: usize, boot: u64) -> Result<During, String> {
    let began = Instant::now();
    let mut since = None;
    loop {
        stop::check()?;
        sleep(Duration::from_millis(40));
        let report = stack.field().report()?;
        let silent = report["silent_us"].as_u64().unwrap_or(u64::MAX);
        let moved = stack.see().answers.owners(100_000).iter().any(|owner| *owner != struck);
        let newest = stack.copies().map(|folder| copy::lives(folder, boot_us().saturating_sub(ALIVE)));
        let begun = newest.as_ref().is_none_or(|lives| lives.iter().any(|(first, _)| *first > boot));
        let alive = newest.is_none_or(|lives| !lives.is_empty());
        // The address may come before the program.
        let kept = began.elapsed() >= if moved { stack.keeps() * 2 } else { stack.keeps() };
        let over = if fault == Fault::Program { begun } else { moved && begun };
        if over {
            since.get_or_insert_with(Instant::now);
        }
        let held = since.is_some_and(|since| since.elapsed() >= HOLD) || kept && since.is_none();
        if silent < 60_000 && alive && held {
            // What was due a moment ago is decided after this.
            sleep(super::probe::PATIENCE + Duration::from_millis(20));
            return Ok(During { report: stack.field().report()?, moved, late: None });
        }
        if began.elapsed() > LIMIT {
            let late = Some(format!("not recovered in time: silent {silent} us, moved {moved}, a copy lives: {alive}"));
            return Ok(During { report, moved, late });
        }
    }
}

/// Waits until all is well for everybody. A daemon that has just been woken may say for a moment what was so before: then it is asked again.
fn well(stack: &mut dyn Stack, limit: Duration) -> Result<usize, String> {
    let began = Instant::now();
    loop {
        let owner = stack.settle()?;
        match stack.field().calm(owner, 5) {
            Ok(()) => return Ok(owner),
            Err(error) if stop::asked() || began.elapsed() > limit => return Err(error),
            Err(_) => {}
        }
    }
}

/// One trial. All is well again at its end, unless it says otherwise: then the stack must be made anew.
pub(crate) fn trial(stack: &mut dyn Stack, fault: Fault) -> Result<(Value, bool), String> {
    let struck = well(stack, WELL)?;
    // The askers' second before the fault is one of calm.
    sleep(Duration::from_millis(700) + phase());
    stack.dispatchers();
    stack.field().say("mark")?;
    let (wall, boot) = (wall_us(), boot_us());
    stack.see().answers.forget(wall - 1_000_000);
    let pids = act(stack, fault, struck)?;
    let during = wait(stack, fault, struck, boot);
    let (two, copies) = (
        stack.see().answers.owners(ALIVE).len() > 1,
        stack.copies().map(|folder| copy::lives(folder, boot_us().saturating_sub(ALIVE)).len() > 1),
    );
    let acted = during.as_ref().is_ok_and(|during| effect(stack, fault, struck, &pids, during.moved));
    let (wall_mended, boot_mended) = (wall_us(), boot_us());
    stack.field().say("mark")?;
    undo(stack, fault, struck, &pids)?;
    let during = during?;
    let whole = well(stack, WELL);
    let healed = stack.field().report()?;
    // What was captured is read within this time.
    sleep(Duration::from_millis(100));
    let answers = stack.see().answers.since(wall - 1_000_000);
    let spans: Vec<_> = (0..NODES).map(|node| owned(&answers, u8::try_from(node).unwrap_or(u8::MAX))).collect();
    let before = answers.iter().filter(|answer| answer.gave < wall && usize::from(answer.asked) == struck).count();
    let behind = during.report["behind_us"].as_u64().unwrap_or(u64::MAX);
    let mut invalid = during.late.clone();
    if behind > BEHIND {
        invalid.get_or_insert(format!("the client was behind: {behind} us"));
    }
    if before < SEEN {
        invalid.get_or_insert(format!("the askers saw {before} answers before the fault"));
    }
    if !acted {
        invalid.get_or_insert("the fault had no effect".into());
    }
    if let Err(error) = &whole {
        invalid.get_or_insert(format!("not whole in time: {error}"));
    }
    let address = fault != Fault::Program;
    let mut value = json!({
        "stack": stack.name(),
        "fault": fault.name(),
        "invalid": invalid,
        "moved": during.moved,
        "detect_us": tail::first(stack.tails(), struck, boot),
        "outage_us": address.then(|| during.report["outage_us"].clone()),
        "heal_us": (address && healed["behind_us"].as_u64().is_some_and(|behind| behind <= BEHIND)).then(|| healed["outage_us"].clone()),
        "failed": during.report["failed"],
        "requests": during.report["sent"],
        "latency_us": during.report["latency_us"],
        "behind_us": behind,
        "overlap_us": overlap(&spans),
        "overlap_open": two,
        "frames_overlap_us": stack.dispatchers(),
        "window_ms": (wall_mended - wall) / 1_000,
    });
    if value["overlap_us"] != 0 {
        // Who, from when to when after the fault, in milliseconds: to look into.
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let ms = |at: u64| (at as f64 - wall as f64) / 1_000.0;
        let all: Vec<Vec<[f64; 2]>> =
            spans.iter().map(|spans| spans.iter().map(|(from, to)| [ms(*from), ms(*to)]).collect()).collect();
        value["owned_ms"] = json!(all);
        value["struck"] = struck.into();
    }
    if matches!(fault, Fault::Move | Fault::Program | Fault::Starve) {
        value["detect_us"] = Value::Null;
    }
    if let Some(folder) = stack.copies() {
        let lives = copy::lives(folder, boot);
        let lives: Vec<_> = lives.into_iter().map(|life| vec![life]).collect();
        value["service_outage_us"] = gap(&lives, boot, boot_mended).into();
        value["service_overlap_us"] = overlap(&lives).into();
        value["service_open"] = copies.into();
    }
    Ok((value, whole.is_ok()))
}

/// What a stack costs a node at rest: for so long nobody asks, and nothing happens.
pub(crate) fn rest(stack: &mut dyn Stack, seconds: u64) -> Result<Value, String> {
    let owner = well(stack, WELL)?;
    stack.field().ask(false)?;
    sleep(Duration::from_secs(2));
    let own = |pid: &u32| {
        let words = processes::words(*pid);
        let others = ["nginx", "tcpdump", "nsenter", "unshare", "bash", "sleep", "ip"];
        let ours = ["serve", "copy"];
        !others.contains(&processes::name(*pid).as_str())
            && !words.get(1).is_some_and(|word| ours.contains(&word.as_str()))
    };
    let pids: Vec<Vec<u32>> =
        (0..NODES).map(|node| processes::all(&stack.see().net.node(node)).into_iter().filter(own).collect()).collect();
    let look = |stack: &dyn Stack| -> Vec<(u64, u64, u64)> {
        (0..NODES)
            .map(|node| {
                let (frames, bytes) = stack.see().sent(node);
                (frames, bytes, processes::cpu_us(&pids[node]))
            })
            .collect()
    };
    let (began, first) = (Instant::now(), look(stack));
    sleep(Duration::from_secs(seconds));
    let (took, last) = (began.elapsed().as_secs_f64(), look(stack));
    stack.field().ask(true)?;
    let memory: Vec<(u64, u64)> = pids.iter().map(|pids| processes::memory_kib(pids)).collect();
    let nodes: Vec<Value> = (0..NODES)
        .map(|node| {
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let rate = |of: fn(&(u64, u64, u64)) -> u64| of(&last[node]).saturating_sub(of(&first[node])) as f64 / took;
            json!({
                "owner": node == owner,
                "frames_s": rate(|seen| seen.0),
                "bytes_s": rate(|seen| seen.1),
                "cpu_percent": rate(|seen| seen.2) / 10_000.0,
                "resident_kib": memory[node].0,
                "share_kib": memory[node].1,
                "processes": pids[node].len(),
            })
        })
        .collect();
    Ok(json!({"stack": stack.name(), "rest": nodes, "seconds": took}))
}
