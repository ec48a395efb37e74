//! `apus list`, `apus doctor`, `apus schema`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use apus_engine::Mutant;
use apus_sim::fault::Kind;
use apus_sim::heap::Heap;
use apus_sim::runner::{options, run_guarded};
use apus_sim::scenario::{Plan, Scenario, shipped};
use serde_json::{Value, json};

use crate::Trouble;
use crate::args::Format;

pub(crate) fn list(what: &str, format: Format) -> Result<u8, Trouble> {
    let rows: Vec<(String, String)> = match what {
        "scenarios" => shipped()
            .iter()
            .map(|(name, text)| {
                let about = Scenario::parse(name, text).map(|scenario| scenario.about).unwrap_or_default();
                ((*name).into(), about.replace('\n', " "))
            })
            .collect(),
        "faults" => Kind::ALL.iter().map(|kind| (kind.spec().name.into(), kind.spec().about.into())).collect(),
        "mutants" => Mutant::ALL.iter().map(|mutant| (mutant.name().into(), mutant.about().into())).collect(),
        "checkers" => {
            apus_sim::checker::names::NAMES.iter().map(|name| (name.name.into(), name.property.into())).collect()
        }
        "goals" => apus_sim::goal::GOALS.iter().map(|goal| (goal.name.into(), goal.about.into())).collect(),
        _ => {
            let known = "scenarios, faults, mutants, checkers, goals";
            return Err(Trouble::Usage(format!("list `{what}`: want one of {known}")));
        }
    };
    match format {
        Format::Text => rows.iter().for_each(|(name, about)| println!("{name:<36} {about}")),
        Format::Json => {
            let rows: Vec<Value> = rows.iter().map(|(name, about)| json!({ "name": name, "about": about })).collect();
            println!("{}", serde_json::to_string_pretty(&rows).unwrap_or_default());
        }
    }
    Ok(0)
}

/// The table of faults, with what they did in three seeds of every shipped scenario.
pub(crate) fn fault_table(path: &Path) -> Result<u8, Trouble> {
    let mut uses: BTreeMap<Kind, (Vec<String>, u64)> = BTreeMap::new();
    for item in crate::suite::load_shipped()? {
        if item.scenario.nodes > 100 {
            continue;
        }
        for seed in 0..3 {
            let plan = Plan::draw(&item.scenario, seed);
            let run = run_guarded(&Heap, &plan, &options(&item.scenario));
            for (fault, effects) in run.faults.iter().zip(&run.effects) {
                let (scenarios, sum) = uses.entry(fault.kind).or_default();
                if !scenarios.contains(&item.scenario.name) {
                    scenarios.push(item.scenario.name.clone());
                }
                *sum += effects;
            }
        }
    }
    let mut out = String::from(
        "# Faults\n\nMade by `apus list faults --table docs/faults.md`. Effects are counted over three seeds of every shipped scenario.\n\n\
         | code | kind | what it does | worlds | effects | scenarios |\n|---|---|---|---|---|---|\n",
    );
    for kind in Kind::ALL {
        let spec = kind.spec();
        let (scenarios, effects) = uses.get(kind).cloned().unwrap_or_default();
        let shown: Vec<&str> = scenarios.iter().take(3).map(String::as_str).collect();
        let (code, name, about, worlds) = (spec.code, spec.name, spec.about, spec.worlds.first().unwrap_or(&"-"));
        let _ = writeln!(out, "| {code} | `{name}` | {about} | {worlds} | {effects} | {} |", shown.join(", "));
    }
    crate::run::write(path, &out)?;
    Ok(0)
}

/// What this build and machine can do.
#[allow(clippy::unnecessary_wraps, reason = "all commands have one shape")]
pub(crate) fn doctor() -> Result<u8, Trouble> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    println!("apus {} on {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    println!("processors        {jobs}");
    println!(
        "build             {}",
        if cfg!(debug_assertions) { "debug: worlds run several times slower" } else { "release" }
    );
    println!("worlds            heap");
    println!("scenarios         {}", shipped().len());
    println!("fault kinds       {}", Kind::ALL.len());
    println!("planted bugs      {}", Mutant::ALL.len());
    Ok(0)
}

#[allow(clippy::unnecessary_wraps, reason = "all commands have one shape")]
pub(crate) fn schema() -> Result<u8, Trouble> {
    println!("{}", serde_json::to_string_pretty(&apus_sim::scenario::schema()).unwrap_or_default());
    Ok(0)
}
