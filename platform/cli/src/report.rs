//! The result of a run as one JSON document.

use std::collections::BTreeMap;

use apus_sim::artifact::scenario_hash;
use apus_sim::report::Verdict;
use apus_sim::runner::Batch;
use serde_json::{Value, json};

use crate::VERSION;
use crate::judge::{Kept, Row, Totals};
use crate::print::word;

pub(crate) fn report(rows: &[Row], batch: &Batch, totals: &Totals, worst: Verdict, suite: bool, world: &str) -> Value {
    json!({
        "apus": VERSION,
        "world": world,
        "verdict": word(worst).to_lowercase(),
        "exit_code": worst as u8,
        "seeds": { "from": batch.from, "to": batch.to, "shard": [batch.shard.0, batch.shard.1], "ran": totals.seeds },
        "events": totals.events,
        "events_per_s_thread": totals.rate,
        "node_years": totals.node_years,
        "seconds": totals.took.as_secs_f64(),
        "scenarios_hash": format!("{:016x}", totals.scenarios),
        "traces": format!("{:032x}", totals.traces),
        "scenarios": rows.iter().map(|row| one(row, suite)).collect::<Vec<_>>(),
    })
}

fn one(row: &Row, suite: bool) -> Value {
    let summary = &row.summary;
    let measures: BTreeMap<_, _> = summary
        .measures
        .iter()
        .map(|(name, (value, seed))| {
            let unit = if name.ends_with("-ppm") { "worst_ppm" } else { "worst_ns" };
            (*name, json!({ unit: value, "seed": seed }))
        })
        .collect();
    let faults: BTreeMap<_, _> = summary
        .kinds
        .iter()
        .map(|(kind, (planned, had))| (kind.spec().name, json!({ "planned": planned, "with_effect": had })))
        .collect();
    let failures: Vec<_> = summary
        .failures
        .iter()
        .map(|(seed, violation)| {
            let hash = summary.hashes.get(seed).map(|hash| format!("{hash:032x}"));
            json!({
                "seed": seed, "checker": violation.checker, "liveness": violation.liveness, "at_ns": violation.at,
                "what": violation.what, "trace_hash": hash, "replay": row.replay(*seed),
            })
        })
        .collect();
    json!({
        "scenario": row.item.scenario.name,
        "world": row.world.name(),
        "file": row.item.file,
        "scenario_hash": format!("{:016x}", scenario_hash(&row.item.text)),
        "mutant": row.item.scenario.mutant.map(apus_engine::Mutant::name),
        "verdict": word(row.counts_as(!suite)).to_lowercase(),
        "fails_as_told": row.as_told,
        "seeds": summary.seeds,
        "events": summary.events,
        "seconds": summary.took.as_secs_f64(),
        "digest": format!("{:032x}", summary.digest),
        "measures": measures,
        "goals": summary.goals,
        "faults": faults,
        "failures": failures,
        "differing": summary.differing,
        "vacuous": summary.vacuous(&row.item.scenario),
        "artifact": row.first.as_ref().and_then(|first| first.artifact.as_ref()).map(artifact),
    })
}

fn artifact(kept: &Kept) -> Value {
    json!({
        "path": kept.path, "trace_hash": format!("{:032x}", kept.hash), "faults": kept.faults, "nodes": kept.nodes,
        "shrunk": kept.tried.is_some(), "minimal": kept.minimal,
    })
}
