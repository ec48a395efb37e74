//! `apus run`: scenarios over seeds, a verdict table, reports and artifacts.

use std::time::{Duration, Instant};

use apus_sim::report::Verdict;
use apus_sim::runner::{Batch, Progress, run_batch};
use serde_json::json;

use crate::args::{Format, RunArgs, World};
use crate::judge::{Row, Totals, hash_of, print_head, print_row};
use crate::print::{self, BOLD, DIM, count, say, style, word};
use crate::progress;
use crate::suite::{self, Item, Place};
use crate::{Trouble, VERSION, junit, report, tap};

pub(crate) fn run(args: &RunArgs, format: Format) -> Result<u8, Trouble> {
    let mut items = if args.scenarios.is_empty() { suite::load_shipped()? } else { suite::load(&args.scenarios)? };
    // Several scenarios are a suite: one that shows a failure on purpose passes by failing.
    let suite = items.len() > 1;
    let before = items.len();
    if args.world == World::Live && !args.list {
        crate::lab::refuse(&items, suite)?;
    }
    items.retain(|item| !args.world.of(&item.scenario).is_empty());
    let skipped = before - items.len();
    let several = args.world == World::All;
    if let Some(name) = &args.tap {
        return tap::run(name, args, items, format);
    }
    if args.list {
        list(&items, format);
        return Ok(0);
    }
    let usual = match (args.world, suite) {
        (World::Live, _) => (0, 1),
        (_, true) => (0, 20_000),
        (_, false) => (0, 1_000),
    };
    let one = args.seed.or(args.seed_from_commit).map(|seed| (seed, seed.saturating_add(1)));
    let (from, to) = args.seeds.or(one).unwrap_or(usual);
    let minute = args.scenarios.is_empty() && args.world != World::Live;
    let budget = args.budget.or(minute.then_some(Duration::from_secs(60)));
    let batch = Batch {
        from,
        to,
        shard: args.shard.unwrap_or((0, 1)),
        jobs: if args.world == World::Live { args.jobs.map_or(1, usize::from) } else { suite::jobs(args.jobs) },
        budget: None,
        timeout: args.timeout_per_seed,
        check_determinism: args.check_determinism.unwrap_or(0),
        keep_going: args.keep_going,
    };
    for item in &mut items {
        item.scenario.mutant = args.mutant.or(item.scenario.mutant);
    }
    let text = format == Format::Text;
    if text {
        head(&items, &batch, args);
        if skipped > 0 {
            say!("{DIM}{} not for the world {}{DIM:#}", count(skipped as u64, "scenario"), args.world.name());
        }
        if suite {
            print_head();
        }
    }
    let began = Instant::now();
    let places = |item: Item| args.world.of(&item.scenario).into_iter().map(move |world| (item.clone(), world));
    let items: Vec<(Item, Place)> = items.into_iter().flat_map(places).collect();
    let many = items.len();
    let mut kinds = [0, 0];
    let mut rows: Vec<Row> = Vec::new();
    for (at, (item, world)) in items.into_iter().enumerate() {
        // What is left of the budget is shared among the scenarios that are left.
        let left = u32::try_from(many - at).unwrap_or(u32::MAX);
        let share = budget.map(|budget| budget.saturating_sub(began.elapsed()) / left);
        let batch = Batch { budget: share, ..batch.clone() };
        let progress = Progress::default();
        let place = progress::Place { name: &item.scenario.name, at: (at + 1, many), began, budget, kinds };
        let summary = progress::show(&place, &batch, &progress, || run_batch(world, &item.scenario, &batch, &progress));
        for (sum, own) in kinds.iter_mut().zip(progress.kinds) {
            *sum |= own.into_inner();
        }
        let row = Row::new(item, world, summary, args)?;
        if text {
            print_row(&row, suite, several);
        }
        rows.push(row);
    }
    let worst = rows.iter().map(|row| row.counts_as(!suite)).filter(|verdict| *verdict != Verdict::Pass).min();
    let none = rows.iter().all(|row| row.summary.seeds == 0);
    let worst = if none { Verdict::NoSeed } else { worst.unwrap_or(Verdict::Pass) };
    let differing = differing(&rows, suite);
    let totals = Totals::new(&rows, batch.jobs, began.elapsed());
    if let Some(path) = &args.junit {
        crate::write(path, junit::report(&rows, &batch, suite))?;
    }
    if text {
        if suite {
            verdicts(&rows, several);
        }
        for what in differing {
            say!("differs between worlds: {what}");
        }
        totals.print();
        foot(&totals, &batch, worst);
    } else {
        print::json(&report::report(&rows, &batch, &totals, worst, suite, args.world.name()));
    }
    Ok(worst as u8)
}

/// Names what would run.
fn list(items: &[Item], format: Format) {
    if format == Format::Json {
        let rows: Vec<_> =
            items.iter().map(|item| json!({ "scenario": item.scenario.name, "file": item.file })).collect();
        print::json(&json!({ "apus": VERSION, "scenarios": rows, "exit_code": 0 }));
        return;
    }
    for item in items {
        say!("{:<32} {}", item.scenario.name, item.file);
    }
}

pub(crate) fn seeds_of(batch: &Batch) -> String {
    let (from, to) = (batch.from, batch.to);
    let seeds = if to - from == 1 { format!("seed {from}") } else { format!("seeds {from}..{to}") };
    if batch.shard.1 > 1 { format!("{seeds} shard {}/{}", batch.shard.0, batch.shard.1) } else { seeds }
}

fn head(items: &[Item], batch: &Batch, args: &RunArgs) {
    let mutant = args.mutant.map_or_else(String::new, |mutant| format!("  mutant {}", mutant.name()));
    say!(
        "{BOLD}apus {VERSION}{BOLD:#}  world {}  {}  {} ({:016x})  {}{mutant}",
        args.world.name(),
        seeds_of(batch),
        count(items.len() as u64, "scenario"),
        hash_of(items.iter()),
        count(batch.jobs as u64, "job"),
    );
}

/// Scenarios whose verdict is not the same in all worlds they ran in: a fault of a world, or of the engine.
fn differing(rows: &[Row], suite: bool) -> Vec<String> {
    let pairs = rows.windows(2).filter(|pair| pair[0].item.file == pair[1].item.file);
    let tell = |row: &Row| format!("{} in {}", word(row.counts_as(!suite)), row.world.name());
    pairs
        .filter(|pair| pair[0].counts_as(!suite) != pair[1].counts_as(!suite))
        .map(|pair| format!("{}: {}, {}", pair[0].item.scenario.name, tell(&pair[0]), tell(&pair[1])))
        .collect()
}

/// How many scenarios had which verdict.
fn verdicts(rows: &[Row], several: bool) {
    let mut many = std::collections::BTreeMap::<Verdict, u64>::new();
    for row in rows {
        *many.entry(row.counts_as(false)).or_default() += 1;
    }
    let cells: Vec<String> = many
        .iter()
        .map(|(verdict, many)| {
            let colour = style(*verdict);
            format!("{many} {colour}{}{colour:#}", word(*verdict))
        })
        .collect();
    let what = if several { "result" } else { "scenario" };
    say!("{}: {}", count(rows.len() as u64, what), cells.join(", "));
}

fn foot(totals: &Totals, batch: &Batch, worst: Verdict) {
    let colour = style(worst);
    say!(
        "verdict {colour}{}{colour:#}  apus {VERSION}  {}  scenarios {:016x}  traces {:032x}",
        word(worst),
        seeds_of(batch),
        totals.scenarios,
        totals.traces
    );
}
