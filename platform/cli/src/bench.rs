//! `apus bench`: how fast the worlds are, and how fast the protocols are in them.

use std::time::{Duration, Instant};

use apus_sim::heap::Heap;
use apus_sim::runner::{Batch, Progress, run_batch};
use apus_sim::scenario::Scenario;
use apus_sim::search::Search;
use serde_json::json;

use crate::Trouble;
use crate::args::{BenchCommand, Format};
use crate::suite;

pub(crate) fn bench(what: &BenchCommand) -> Result<u8, Trouble> {
    match what {
        BenchCommand::Sim { format, seconds } => sim(*format, *seconds),
        BenchCommand::Search { states, nodes, faults, horizon, jobs, mutant } => {
            let mutant = mutant.as_deref().map(|name| {
                apus_engine::Mutant::named(name).ok_or_else(|| {
                    Trouble::Usage(format!("--mutant `{name}`: there is none of this name; see `apus list mutants`"))
                })
            });
            let search = Search {
                states: *states,
                nodes: (*nodes).clamp(1, 4),
                faults: *faults,
                horizon: apus_engine::Micros::from_millis(*horizon),
                jobs: suite::jobs(*jobs),
                mutant: mutant.transpose()?,
                ..Search::default()
            };
            let found = search.run();
            println!(
                "{} unique states in {:.1} s ({:.0} a second), {} steps, {} merged, histories of up to {} steps, {}",
                found.states,
                found.took.as_secs_f64(),
                found.states as f64 / found.took.as_secs_f64(),
                found.steps,
                found.merged,
                found.longest,
                if found.complete { "every one within the bounds" } else { "not all" }
            );
            let Some((what, path)) = found.violation else { return Ok(0) };
            println!("VIOLATED {what}\n{}", path.join("\n"));
            Ok(1)
        }
        BenchCommand::Diagnosis { nodes, seeds, jobs } => diagnosis(*nodes, *seeds, suite::jobs(*jobs)),
    }
}

fn parse(text: &str) -> Result<Scenario, Trouble> {
    Scenario::parse("bench", text).map_err(|problems| Trouble::Internal(problems.to_string()))
}

/// Events a second on the common swarm, and the cost of size.
fn sim(format: Format, seconds: u64) -> Result<u8, Trouble> {
    let mut rows = Vec::new();
    let budget = Some(Duration::from_secs(seconds));
    let swarm = suite::load(&["common-swarm-8".into()])?;
    let mut one = |name: String, scenario: &Scenario| {
        let batch = Batch { to: u64::MAX, budget, ..Batch::default() };
        let began = Instant::now();
        let summary = run_batch(&Heap, scenario, &batch, &Progress::default());
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
    one("common-swarm-8".into(), &swarm[0].scenario);
    for nodes in [5_u16, 50, 500, 5_000] {
        let period = if nodes > 100 { "1s" } else { "200ms" };
        let text = format!(
            "name = \"ring-{nodes}\"\nabout = \"\"\"\nA quiet ring.\nFor measuring.\"\"\"\nworlds = [\"heap\"]\nnodes = {nodes}\nvoters = 5\nduration = \"10s\"\nheal = \"1s\"\n[cluster]\nperiod = \"{period}\"\n"
        );
        one(format!("ring of {nodes}"), &parse(&text)?);
    }
    if format == Format::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, nodes, events, seeds, node_seconds, ratio, memory)| {
                json!({ "name": name, "nodes": nodes, "events_per_s": events, "seeds_per_h": seeds,
                        "node_seconds_per_s": node_seconds, "real_time_ratio": ratio, "peak_bytes": memory })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(0);
    }
    println!(
        "{:<18} {:>7} {:>12} {:>12} {:>14} {:>12} {:>12}",
        "scenario", "nodes", "events/s", "seeds/h", "node years/h", "x real time", "KiB/node"
    );
    for (name, nodes, events, seeds, node_seconds, ratio, memory) in rows {
        let years = node_seconds * 3_600.0 / 31_557_600.0;
        let each =
            memory.map_or_else(|| "-".into(), |bytes| format!("{:.1}", bytes as f64 / 1024.0 / f64::from(nodes)));
        println!("{name:<18} {nodes:>7} {events:>12.0} {seeds:>12.0} {years:>14.1} {ratio:>12.1} {each:>12}");
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
fn diagnosis(nodes: u16, seeds: u64, jobs: usize) -> Result<u8, Trouble> {
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
    let Some(worst) = values.last() else {
        println!("nobody diagnosed anything: {:?}", summary.failures.first_key_value());
        return Ok(2);
    };
    println!(
        "{nodes} nodes, {} seeds: all live nodes know after median {} ms, worst {} ms; {} failing seeds; {:.1} s",
        summary.seeds,
        values[values.len() / 2] / 1_000_000,
        worst / 1_000_000,
        summary.failures.len(),
        summary.took.as_secs_f64()
    );
    for (seed, violation) in summary.failures.iter().take(5) {
        println!("  seed {seed}: {}: {}", violation.checker, violation.what);
    }
    Ok(u8::from(!summary.failures.is_empty()))
}
