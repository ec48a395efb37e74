//! `apus bench`: how fast the worlds are, and how fast the protocols are in them.

use std::time::{Duration, Instant};

use apus_sim::heap::Heap;
use apus_sim::runner::{Batch, Progress, run_batch};
use apus_sim::scenario::Scenario;
use apus_sim::search::Search;
use apus_sim::turmoil::Turmoil;
use apus_sim::world::World;
use serde_json::json;

use crate::args::{BenchCommand, Format};
use crate::bench_repl;
use crate::dispatch;
use crate::print::{self, say};
use crate::suite;
use crate::{Trouble, VERSION};

pub(crate) fn bench(what: &BenchCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        BenchCommand::Sim { seconds } => sim(format, *seconds),
        BenchCommand::Search { states, nodes, faults, horizon, jobs, mutant } => {
            let search = Search {
                states: *states,
                nodes: *nodes,
                faults: *faults,
                horizon: apus_engine::Micros::from_millis(*horizon),
                jobs: suite::jobs(*jobs),
                mutant: *mutant,
                ..Search::default()
            };
            let found = search.run();
            let code = u8::from(found.violation.is_some());
            if format == Format::Json {
                let violation = found.violation.as_ref().map(|(what, path)| json!({ "what": what, "path": path }));
                print::json(&json!({
                    "apus": VERSION, "states": found.states, "steps": found.steps, "merged": found.merged,
                    "longest": found.longest, "complete": found.complete, "seconds": found.took.as_secs_f64(),
                    "violation": violation, "exit_code": code,
                }));
                return Ok(code);
            }
            say!(
                "{} unique states in {:.1} s ({:.0} a second), {} steps, {} merged, histories of up to {} steps, {}",
                found.states,
                found.took.as_secs_f64(),
                found.states as f64 / found.took.as_secs_f64(),
                found.steps,
                found.merged,
                found.longest,
                if found.complete { "every one within the bounds" } else { "not all" }
            );
            if let Some((what, path)) = found.violation {
                say!("VIOLATED {what}\n{}", path.join("\n"));
            }
            Ok(code)
        }
        BenchCommand::Diagnosis { nodes, seeds, jobs } => diagnosis(*nodes, *seeds, suite::jobs(*jobs), format),
        BenchCommand::Dispatch(args) => dispatch::dispatch(args, format),
        BenchCommand::Repl(args) => bench_repl::repl(args, format),
    }
}

fn parse(text: &str) -> Result<Scenario, Trouble> {
    Scenario::parse("bench", text).map_err(|problems| Trouble::Internal(problems.to_string()))
}

/// A quiet ring.
fn ring(nodes: u16) -> Result<Scenario, Trouble> {
    let period = if nodes > 100 { "1s" } else { "200ms" };
    parse(&format!(
        "name = \"ring-{nodes}\"\nabout = \"\"\"\nA quiet ring.\nFor measuring.\"\"\"\nworlds = [\"heap\"]\nnodes = {nodes}\nvoters = 5\nduration = \"10s\"\nheal = \"1s\"\n[cluster]\nperiod = \"{period}\"\n"
    ))
}

/// Events a second on the common swarm, and the cost of size.
fn sim(format: Format, seconds: u64) -> Result<u8, Trouble> {
    let mut rows = Vec::new();
    let budget = Some(Duration::from_secs(seconds));
    let swarm = suite::load(&["common-swarm-8".into()])?;
    let mut one = |name: String, world: &(dyn World + Sync), scenario: &Scenario| {
        let batch = Batch { to: u64::MAX, budget, ..Batch::default() };
        let began = Instant::now();
        let summary = run_batch(world, scenario, &batch, &Progress::default());
        let took = began.elapsed().as_secs_f64();
        rows.push((
            name,
            scenario.nodes,
            summary.events as f64 / took,
            summary.seeds as f64 / took * 3_600.0,
            summary.node_time as f64 / 1e9 / took,
            summary.simulated as f64 / 1e9 / took,
            peak_memory(),
        ));
    };
    one("common-swarm-8".into(), &Heap, &swarm[0].scenario);
    for nodes in [5_u16, 16, 50, 500, 5_000] {
        let ring = ring(nodes)?;
        one(format!("ring of {nodes}"), &Heap, &ring);
        if Turmoil.refuses(&ring).is_none() {
            one(format!("ring of {nodes} in turmoil"), &Turmoil, &ring);
        }
    }
    if format == Format::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, nodes, events, seeds, node_seconds, ratio, memory)| {
                json!({ "name": name, "nodes": nodes, "events_per_s": events, "seeds_per_h": seeds,
                        "node_seconds_per_s": node_seconds, "real_time_ratio": ratio, "peak_bytes": memory })
            })
            .collect();
        print::json(&rows.into());
        return Ok(0);
    }
    say!(
        "{:<22} {:>7} {:>12} {:>12} {:>14} {:>12} {:>12}",
        "scenario",
        "nodes",
        "events/s",
        "seeds/h",
        "node years/h",
        "x real time",
        "KiB/node"
    );
    for (name, nodes, events, seeds, node_seconds, ratio, memory) in &rows {
        let years = node_seconds * 3_600.0 / 31_557_600.0;
        let each =
            memory.map_or_else(|| "-".into(), |bytes| format!("{:.1}", bytes as f64 / 1024.0 / f64::from(*nodes)));
        say!("{name:<22} {nodes:>7} {events:>12.0} {seeds:>12.0} {years:>14.1} {ratio:>12.1} {each:>12}");
    }
    for pair in rows.windows(2).filter(|pair| pair[1].0.ends_with("in turmoil")) {
        let (heap, turmoil) = (pair[0].5, pair[1].5);
        say!("{}: the heap is {:.0} times as fast as turmoil", pair[0].0, heap / turmoil);
    }
    Ok(0)
}

/// The most memory this process has used so far, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Time until every live node has diagnosed one crash.
fn diagnosis(nodes: u16, seeds: u64, jobs: usize, format: Format) -> Result<u8, Trouble> {
    let text = format!(
        "name = \"diagnosis\"\nabout = \"\"\"\nOne crash in a ring.\nFor measuring.\"\"\"\nworlds = [\"heap\"]\nnodes = {nodes}\nvoters = 5\nduration = \"9s\"\nheal = \"1s\"\n\
         [cluster]\nperiod = \"1s\"\n[[fault]]\nkind = \"loss\"\nat = \"0s\"\nfor = \"9s\"\ntarget = \"all\"\nrate = \"1%\"\n\
         [[fault]]\nkind = \"power-off\"\nat = [\"4s\", \"5s\"]\nfor = \"4s\"\ntarget = \"n{}\"\n[expect]\ndiagnosis_within = \"4s\"\n",
        nodes / 2
    );
    let scenario = parse(&text)?;
    let batch = Batch { to: seeds, jobs, keep_going: true, ..Batch::default() };
    let summary = run_batch(&Heap, &scenario, &batch, &Progress::default());
    let mut values = summary.values.get("diagnosis").cloned().unwrap_or_default();
    values.sort_unstable();
    if format == Format::Json {
        let at = |percent: usize| values.get((values.len().saturating_sub(1)) * percent / 100);
        let code = if values.is_empty() { 2 } else { u8::from(!summary.failures.is_empty()) };
        let failures: Vec<_> = summary
            .failures
            .iter()
            .map(|(seed, violation)| json!({ "seed": seed, "checker": violation.checker, "what": violation.what }))
            .collect();
        print::json(&json!({
            "apus": VERSION, "nodes": nodes, "seeds": summary.seeds, "median_ns": at(50), "p99_ns": at(99),
            "worst_ns": at(100), "failures": failures, "seconds": summary.took.as_secs_f64(), "exit_code": code,
        }));
        return Ok(code);
    }
    let Some(worst) = values.last() else {
        say!("nobody diagnosed anything: {:?}", summary.failures.first_key_value());
        return Ok(2);
    };
    say!(
        "{nodes} nodes, {} seeds: all live nodes know after median {} ms, worst {} ms; {} failing seeds; {:.1} s",
        summary.seeds,
        values[values.len() / 2] / 1_000_000,
        worst / 1_000_000,
        summary.failures.len(),
        summary.took.as_secs_f64()
    );
    for (seed, violation) in summary.failures.iter().take(5) {
        say!("  seed {seed}: {}: {}", violation.checker, violation.what);
    }
    Ok(u8::from(!summary.failures.is_empty()))
}
