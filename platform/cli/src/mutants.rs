//! `apus mutants`: the table of planted bugs.

use std::fmt::Write as _;

use apus_engine::Mutant;
use apus_sim::heap::Heap;
use apus_sim::runner::{Batch, Progress, run_batch};
use serde_json::json;

use crate::args::{Format, MutantArgs};
use crate::print::{self, say};
use crate::suite::{self, Item};
use crate::{Trouble, VERSION};

/// Tries planted bugs on the shipped suite until a scenario catches each.
pub(crate) fn mutants(args: &MutantArgs, format: Format) -> Result<u8, Trouble> {
    let wanted: &[Mutant] = if args.names.is_empty() { Mutant::ALL } else { &args.names };
    let items = suite::load_shipped()?;
    let mut table =
        String::from("| part | mutant | what is wrong | killed by | checker | seed |\n|---|---|---|---|---|---|\n");
    let mut rows = Vec::new();
    let mut killed = 0;
    for mutant in wanted {
        let found = hunt(*mutant, &items, args);
        let about = mutant.about();
        let (part, name) = (mutant.part(), mutant.name());
        let row = match &found {
            Some((scenario, checker, seed)) => {
                format!("| {part} | `{name}` | {about} | `{scenario}` | {checker} | {seed} |")
            }
            None => format!("| {part} | `{name}` | {about} | – | – | – |"),
        };
        if format == Format::Text {
            say!("{row}");
        }
        let _ = writeln!(table, "{row}");
        let by = found
            .as_ref()
            .map(|(scenario, checker, seed)| json!({ "scenario": scenario, "checker": checker, "seed": seed }));
        rows.push(json!({ "part": part, "mutant": name, "about": about, "killed_by": by }));
        killed += usize::from(found.is_some());
    }
    let score =
        format!("{killed} of {} planted bugs killed within {} seeds of each scenario", wanted.len(), args.seeds);
    let code = u8::from(killed < wanted.len()) * 3;
    if format == Format::Text {
        say!("{score}");
    } else {
        print::json(
            &json!({ "apus": VERSION, "killed": killed, "tried": wanted.len(), "seeds": args.seeds, "mutants": rows, "exit_code": code }),
        );
    }
    if let Some(path) = &args.table {
        let head = "# Planted bugs\n\nMade by `apus mutants`; a test runs each row's scenario and seed again and fails when it is stale.\n\n";
        crate::write(path, format!("{head}{score}.\n\n{table}"))?;
    }
    Ok(code)
}

/// The first scenario and the lowest seed that catch a planted bug: a few seeds of all first, then more.
fn hunt(mutant: Mutant, items: &[Item], args: &MutantArgs) -> Option<(String, &'static str, u64)> {
    let mut from = 0;
    let mut to = 4.min(args.seeds);
    while from < to {
        for item in items.iter().filter(|item| item.scenario.mutant.is_none() && item.scenario.expect.fails.is_empty())
        {
            if item.scenario.nodes > 64 && from > 0 {
                continue;
            }
            let mut scenario = item.scenario.clone();
            scenario.mutant = Some(mutant);
            let batch = Batch { from, to, jobs: suite::jobs(args.jobs), ..Batch::default() };
            let summary = run_batch(&Heap, &scenario, &batch, &Progress::default());
            if let Some((seed, violation)) = summary.failures.first_key_value() {
                return Some((scenario.name, violation.checker, *seed));
            }
        }
        from = to;
        to = (to * 8).min(args.seeds);
    }
    None
}
