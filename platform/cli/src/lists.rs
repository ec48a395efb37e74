//! `apus list`: what there is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use apus_engine::Mutant;
use apus_sim::fault::Kind;
use apus_sim::runner::{options, run_guarded};
use apus_sim::scenario::{Plan, Scenario, shipped};
use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::Trouble;
use crate::args::{Format, Things};
use crate::print::{self, BOLD, say};

/// What there is, or how many there are of each.
pub(crate) fn list(what: Option<Things>, format: Format) -> u8 {
    let Some(what) = what else {
        count_all(format);
        return 0;
    };
    let rows = rows(what);
    match format {
        Format::Text | Format::Csv => {
            let wide = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            rows.iter().for_each(|(name, about)| say!("{BOLD}{name:<wide$}{BOLD:#}  {about}"));
        }
        Format::Json => {
            print::json(&rows.iter().map(|(name, about)| json!({ "name": name, "about": about })).collect());
        }
    }
    0
}

fn rows(what: Things) -> Vec<(String, String)> {
    match what {
        Things::Scenarios => shipped()
            .iter()
            .map(|(name, text)| {
                let about = Scenario::parse(name, text).map(|scenario| scenario.about).unwrap_or_default();
                ((*name).into(), about.replace('\n', " "))
            })
            .collect(),
        Things::Faults => Kind::ALL.iter().map(|kind| (kind.spec().name.into(), kind.spec().about.into())).collect(),
        Things::Mutants => Mutant::ALL.iter().map(|mutant| (mutant.name().into(), mutant.about().into())).collect(),
        Things::Checkers => {
            apus_sim::checker::names::NAMES.iter().map(|name| (name.name.into(), name.property.into())).collect()
        }
        Things::Goals => apus_sim::goal::GOALS.iter().map(|goal| (goal.name.into(), goal.about.into())).collect(),
    }
}

fn count_all(format: Format) {
    let all = Things::value_variants().iter().map(|things| {
        let name = things.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        (name, rows(*things).len())
    });
    if format == Format::Json {
        let all: serde_json::Map<String, Value> = all.map(|(name, many)| (name, many.into())).collect();
        print::json(&all.into());
        return;
    }
    for (name, many) in all {
        say!("{many:>4} {BOLD}{name:<10}{BOLD:#}  apus list {name}");
    }
}

/// The table of faults, with what they did in three seeds of every shipped scenario in each of its worlds.
pub(crate) fn fault_table(path: &Path) -> Result<u8, Trouble> {
    let mut uses: BTreeMap<Kind, (Vec<String>, BTreeMap<&str, u64>)> = BTreeMap::new();
    for item in crate::suite::load_shipped()? {
        if item.scenario.nodes > 100 {
            continue;
        }
        for world in item.scenario.worlds.iter().filter_map(|world| apus_sim::world::named(world)) {
            for seed in 0..3 {
                let plan = Plan::draw(&item.scenario, seed);
                let run = run_guarded(world, &plan, &options(&item.scenario));
                for (fault, effects) in run.faults.iter().zip(&run.effects) {
                    let (scenarios, sums) = uses.entry(fault.kind).or_default();
                    if !scenarios.contains(&item.scenario.name) {
                        scenarios.push(item.scenario.name.clone());
                    }
                    *sums.entry(world.name()).or_default() += effects;
                }
            }
        }
    }
    let mut out = String::from(
        "# Faults\n\nMade by `apus list faults --table docs/faults.md`. Effects are counted over three seeds of every shipped scenario, in each world.\n\n\
         | code | kind | what it does | in heap | in turmoil | emulated | scenarios |\n|---|---|---|---|---|---|---|\n",
    );
    for kind in Kind::ALL {
        let spec = kind.spec();
        let (scenarios, sums) = uses.get(kind).cloned().unwrap_or_default();
        let shown: Vec<&str> = scenarios.iter().take(3).map(String::as_str).collect();
        let effects = |world: &str| {
            let carried = spec.worlds.contains(&world);
            if carried { sums.get(world).copied().unwrap_or_default().to_string() } else { "-".into() }
        };
        let (code, name, about) = (spec.code, spec.name, spec.about);
        let (heap, turmoil, emulated) = (effects("heap"), effects("turmoil"), effects("emulated"));
        let _ =
            writeln!(out, "| {code} | `{name}` | {about} | {heap} | {turmoil} | {emulated} | {} |", shown.join(", "));
    }
    crate::write(path, out)?;
    Ok(0)
}
