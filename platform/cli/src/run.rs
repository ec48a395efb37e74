//! `apus run`: scenarios over seeds, a verdict table, reports and artifacts.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apus_engine::Mutant;
use apus_sim::artifact::{Artifact, scenario_hash};
use apus_sim::heap::Heap;
use apus_sim::report::Verdict;
use apus_sim::runner::{Batch, Progress, Summary, options, run_batch, run_guarded};
use apus_sim::scenario::Plan;
use serde_json::json;

use crate::Trouble;
use crate::args::{Format, RunArgs};
use crate::suite::{self, Item};

/// The result of one scenario.
struct Row {
    item: Item,
    summary: Summary,
    verdict: Verdict,
    /// Shows a failure on purpose, and did.
    as_told: bool,
    /// Artifact of the first failure.
    artifact: Option<String>,
}

impl Row {
    /// What counts for the suite: a scenario that shows a failure passes by failing.
    fn counts_as(&self, alone: bool) -> Verdict {
        if !alone && self.summary.seeds == 0 && self.item.scenario.every > 1 {
            // None of the seeds asked for was its turn.
            Verdict::Pass
        } else if self.item.scenario.expect.fails.is_empty() || alone {
            self.verdict
        } else if self.as_told {
            Verdict::Pass
        } else if self.verdict == Verdict::Pass || self.verdict == Verdict::Vacuous {
            Verdict::Vacuous
        } else {
            self.verdict
        }
    }
}

pub(crate) fn run(args: &RunArgs) -> Result<u8, Trouble> {
    if args.world != "heap" {
        let what = format!("--world `{}`: this build carries the world `heap`", args.world);
        return Err(Trouble::Usage(what));
    }
    let mutant = args.mutant.as_deref().map(mutant).transpose()?;
    let (items, suite) = if args.scenarios.is_empty() {
        (suite::load_shipped()?, true)
    } else {
        let items = suite::load(&args.scenarios)?;
        let suite = items.len() > 1;
        (items, suite)
    };
    let seeds = match (&args.seeds, args.seed, &args.seed_from_commit) {
        (Some(text), ..) => suite::seeds(text)?,
        (_, Some(seed), _) => (seed, seed.saturating_add(1)),
        (.., Some(sha)) => suite::commit(sha).map(|seed| (seed, seed.saturating_add(1)))?,
        _ if suite => (0, 20_000),
        _ => (0, 1_000),
    };
    let budget = match &args.budget {
        Some(text) => Some(suite::duration("--budget", text)?),
        None if args.scenarios.is_empty() => Some(Duration::from_secs(60)),
        None => None,
    };
    let batch = Batch {
        from: seeds.0,
        to: seeds.1,
        shard: args.shard.as_deref().map_or(Ok((0, 1)), suite::shard)?,
        jobs: suite::jobs(args.jobs),
        budget: None,
        timeout: args
            .timeout_per_seed
            .as_deref()
            .map(|text| suite::duration("--timeout-per-seed", text))
            .transpose()?,
        check_determinism: args.check_determinism.unwrap_or(0).min(100),
        keep_going: args.keep_going,
    };
    let text = args.format == Format::Text;
    if text {
        head(&items, &batch, mutant);
    }
    let began = Instant::now();
    let many = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let mut rows = Vec::new();
    for (at, mut item) in items.into_iter().enumerate() {
        item.scenario.mutant = mutant.or(item.scenario.mutant);
        // What is left of the budget is shared among the scenarios that are left.
        let share = budget.map(|budget| {
            let left = u32::try_from(at).map_or(1, |at| many - at).max(1);
            budget.saturating_sub(began.elapsed()) / left
        });
        let batch = Batch { budget: share, ..batch.clone() };
        let row = run_one(item, &batch, args)?;
        if text {
            print_row(&row, suite);
        }
        rows.push(row);
    }
    let worst = rows.iter().map(|row| row.counts_as(!suite)).filter(|verdict| *verdict != Verdict::Pass).min();
    let worst =
        worst.unwrap_or(if rows.iter().all(|row| row.summary.seeds == 0) { Verdict::NoSeed } else { Verdict::Pass });
    if text {
        foot(&rows, &batch, worst, began.elapsed());
    } else {
        println!("{}", json_report(&rows, worst, suite));
    }
    if let Some(path) = &args.junit {
        write(path, &junit(&rows, suite))?;
    }
    Ok(worst as u8)
}

pub(crate) fn mutant(name: &str) -> Result<Mutant, Trouble> {
    Mutant::named(name).ok_or_else(|| {
        Trouble::Usage(format!("--mutant `{name}`: there is none of this name; see `apus list mutants`"))
    })
}

fn head(items: &[Item], batch: &Batch, mutant: Option<Mutant>) {
    let hash = items.iter().fold(0, |sum, item| sum ^ scenario_hash(&item.text));
    let bug = mutant.map_or_else(String::new, |mutant| format!("  mutant {}", mutant.name()));
    println!(
        "apus {}  seeds {}..{}  scenarios {} ({hash:016x})  jobs {}{bug}",
        env!("CARGO_PKG_VERSION"),
        batch.from,
        batch.to,
        items.len(),
        batch.jobs
    );
}

fn run_one(item: Item, batch: &Batch, args: &RunArgs) -> Result<Row, Trouble> {
    let progress = Progress::default();
    let summary = with_progress(&item, batch, &progress, || run_batch(&Heap, &item.scenario, batch, &progress));
    let verdict = summary.verdict(&item.scenario);
    let as_told = summary.fails_as_told(&item.scenario);
    let mut artifact = None;
    if let Some((seed, _)) = summary.failures.first_key_value() {
        let expected = !item.scenario.expect.fails.is_empty() && as_told;
        if args.artifacts.is_some() || (args.shrink.is_some() && !expected) {
            artifact = Some(keep(&item, *seed, args)?);
        }
    }
    Ok(Row { item, summary, verdict, as_told, artifact })
}

/// Writes the artifact of a failing seed, shrunk if that was asked for; its path.
fn keep(item: &Item, seed: u64, args: &RunArgs) -> Result<String, Trouble> {
    let mut plan = Plan::draw(&item.scenario, seed);
    let mut run = run_guarded(&Heap, &plan, &options(&item.scenario));
    if let Some(seconds) = args.shrink
        && let Some(shrunk) = apus_sim::shrink::shrink(&Heap, &plan, Duration::from_secs(seconds))
    {
        (plan, run) = (shrunk.plan, shrunk.run);
    } else {
        let explicit = Plan::with_faults(&plan.scenario, plan.seed, run.faults.clone());
        let again = run_guarded(&Heap, &explicit, &options(&item.scenario));
        let name = |run: &apus_sim::report::Run| run.violation.as_ref().map(|violation| violation.checker);
        if name(&again) == name(&run) {
            (plan, run) = (explicit, again);
        }
    }
    let dir = args.artifacts.clone().unwrap_or_else(|| "artifacts".into());
    let path = dir.join(format!("{}-{seed}.json", item.scenario.name));
    write(&path, &Artifact::new(&item.text, &plan, &run).to_json())?;
    Ok(path.display().to_string())
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    let trouble = |error: std::io::Error| Trouble::Internal(format!("{}: {error}", path.display()));
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(trouble)?;
    }
    std::fs::write(path, text).map_err(trouble)
}

/// A line that is written over itself, on a terminal only.
fn with_progress<T>(item: &Item, batch: &Batch, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let seconds = began.elapsed().as_secs_f64();
                let seeds = progress.seeds.load(Ordering::Relaxed);
                let rate = progress.events.load(Ordering::Relaxed) as f64 / seconds;
                let years = progress.node_seconds.load(Ordering::Relaxed) as f64 / 31_557_600.0;
                let all = batch.to - batch.from;
                eprint!(
                    "\r\x1b[K{}  {seeds}/{all} seeds  {:.2} M events/s  {years:.3} node years",
                    item.scenario.name,
                    rate / 1e6
                );
                let _ = std::io::stderr().flush();
            }
            eprint!("\r\x1b[K");
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Safety => "SAFETY",
        Verdict::Liveness => "LIVENESS",
        Verdict::Vacuous => "VACUOUS",
        Verdict::NoSeed => "no seed",
        Verdict::NotDeterministic => "NOT DETERMINISTIC",
    }
}

fn print_row(row: &Row, suite: bool) {
    let Row { item, summary, .. } = row;
    let told = if suite && row.as_told { " (fails as told)" } else { "" };
    let every = if item.scenario.every > 1 { format!(" (one seed in {})", item.scenario.every) } else { String::new() };
    println!(
        "{:<32} {:<9} {:>6} seeds  {:>8} events  digest {:016x}{every}{told}",
        item.scenario.name,
        word(row.counts_as(!suite)),
        summary.seeds,
        summary.events,
        (summary.digest >> 64) as u64
    );
    let quiet = suite && row.counts_as(false) == Verdict::Pass;
    if quiet {
        return;
    }
    for (seed, violation) in summary.failures.iter().take(3) {
        println!("    seed {seed}: {} at {} ms: {}", violation.checker, violation.at / 1_000_000, violation.what);
        if let Some((overlap, _)) = summary.measures.get("two-holders-time") {
            println!(
                "    two nodes held one resource at once for {}.{:03} s",
                overlap / 1_000_000_000,
                overlap / 1_000_000 % 1_000
            );
        }
        println!("    replay: apus run {} --seed {seed}{}", item.file, mutant_option(item));
    }
    for seed in summary.differing.iter().take(3) {
        println!("    seed {seed}: two runs differ");
    }
    for why in summary.vacuous(&item.scenario) {
        println!("    vacuous: {why}");
    }
    if let Some(path) = &row.artifact {
        println!("    artifact: {path}  (apus explain {path} --html timeline.html)");
    }
    if !suite {
        details(summary);
    }
}

fn mutant_option(item: &Item) -> String {
    item.scenario.mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", mutant.name()))
}

/// Measures, faults and goals of a scenario that was run alone.
fn details(summary: &Summary) {
    for (name, values) in &summary.values {
        let mut values = values.clone();
        values.sort_unstable();
        let at = |percent: usize| values[(values.len() - 1) * percent / 100] / 1_000;
        let worst = summary.measures[name].1;
        println!(
            "    {name:<18} median {:>9} us  p99 {:>9} us  worst {:>9} us (seed {worst})",
            at(50),
            at(99),
            at(100)
        );
    }
    let kinds: Vec<String> =
        summary.kinds.iter().map(|(kind, (planned, had))| format!("{} {had}/{planned}", kind.spec().name)).collect();
    println!("    faults with effects: {}", kinds.join(", "));
    let goals: Vec<String> = summary.goals.iter().map(|(goal, many)| format!("{goal} {many}")).collect();
    println!("    goals: {}", goals.join(", "));
}

fn foot(rows: &[Row], batch: &Batch, worst: Verdict, took: Duration) {
    let seeds: u64 = rows.iter().map(|row| row.summary.seeds).sum();
    let events: u64 = rows.iter().map(|row| row.summary.events).sum();
    let node_time: u128 = rows.iter().map(|row| row.summary.node_time).sum();
    let busy: f64 = rows.iter().map(|row| row.summary.took.as_secs_f64()).sum();
    let mut kinds = std::collections::BTreeMap::new();
    for (kind, (_, had)) in rows.iter().flat_map(|row| &row.summary.kinds) {
        *kinds.entry(kind).or_insert(0) += had;
    }
    let effective = kinds.values().filter(|had| **had > 0).count();
    let hash = rows.iter().fold(0, |sum, row| sum ^ scenario_hash(&row.item.text));
    let digest = rows.iter().fold(0, |sum, row| sum ^ row.summary.digest);
    println!(
        "{seeds} seeds in {:.1} s, {:.2} M events/s a core, {:.4} node years, {effective} fault kinds with effects",
        took.as_secs_f64(),
        events as f64 / busy.max(1e-9) / batch.jobs as f64 / 1e6,
        node_time as f64 / 1e9 / 31_557_600.0
    );
    println!(
        "verdict {}  apus {}  seeds {}..{}  scenarios {hash:016x}  traces {digest:032x}",
        word(worst),
        env!("CARGO_PKG_VERSION"),
        batch.from,
        batch.to
    );
}

fn json_report(rows: &[Row], worst: Verdict, suite: bool) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let summary = &row.summary;
            json!({
                "scenario": row.item.scenario.name,
                "file": row.item.file,
                "scenario_hash": format!("{:016x}", scenario_hash(&row.item.text)),
                "verdict": word(row.counts_as(!suite)).to_lowercase(),
                "fails_as_told": row.as_told,
                "seeds": summary.seeds,
                "events": summary.events,
                "seconds": summary.took.as_secs_f64(),
                "digest": format!("{:032x}", summary.digest),
                "measures": summary.measures.iter().map(|(name, (value, seed))| (*name, json!({ "worst_ns": value, "seed": seed }))).collect::<std::collections::BTreeMap<_, _>>(),
                "goals": summary.goals,
                "faults": summary.kinds.iter().map(|(kind, (planned, had))| (kind.spec().name, json!({ "planned": planned, "with_effect": had }))).collect::<std::collections::BTreeMap<_, _>>(),
                "failures": summary.failures.iter().map(|(seed, violation)| json!({ "seed": seed, "checker": violation.checker, "at_ns": violation.at, "what": violation.what })).collect::<Vec<_>>(),
                "vacuous": summary.vacuous(&row.item.scenario),
                "artifact": row.artifact,
            })
        })
        .collect();
    let report = json!({ "apus": env!("CARGO_PKG_VERSION"), "verdict": word(worst).to_lowercase(), "exit_code": worst as u8, "scenarios": rows });
    serde_json::to_string_pretty(&report).unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One test case a scenario; failing seeds as cases of their own.
fn junit(rows: &[Row], suite: bool) -> String {
    let mut cases = String::new();
    let mut failures = 0;
    for row in rows {
        let name = escape(&row.item.scenario.name);
        let seconds = row.summary.took.as_secs_f64();
        let verdict = row.counts_as(!suite);
        if verdict == Verdict::Pass {
            let _ = writeln!(cases, r#"  <testcase classname="apus" name="{name}" time="{seconds:.3}"/>"#);
            continue;
        }
        if row.summary.failures.is_empty() {
            failures += 1;
            let why = escape(&row.summary.vacuous(&row.item.scenario).join("; "));
            let _ = writeln!(
                cases,
                r#"  <testcase classname="apus" name="{name}" time="{seconds:.3}"><failure message="{}">{why}</failure></testcase>"#,
                word(verdict)
            );
        }
        for (seed, violation) in &row.summary.failures {
            failures += 1;
            let _ = writeln!(
                cases,
                r#"  <testcase classname="apus" name="{name} seed {seed}"><properties><property name="seed" value="{seed}"/><property name="replay" value="apus run {} --seed {seed}"/></properties><failure message="{}">{}</failure></testcase>"#,
                escape(&row.item.file),
                violation.checker,
                escape(&violation.what)
            );
        }
    }
    let tests = cases.lines().count();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"apus\" tests=\"{tests}\" failures=\"{failures}\">\n{cases}</testsuite>\n"
    )
}
