//! What the seeds of one scenario amount to, and how that is told to people.

use std::time::Duration;

use anstyle::Style;
use apus_sim::artifact::{Artifact, scenario_hash};
use apus_sim::explain;
use apus_sim::report::Verdict;
use apus_sim::runner::{Summary, options, run_guarded};
use apus_sim::scenario::Plan;
use apus_sim::world::{Options, TIMEOUT};

use crate::Trouble;
use crate::args::RunArgs;
use crate::print::{BAD, BOLD, DIM, count, ms, say, short, style, word};
use crate::suite::{Item, Place};

/// The result of one scenario.
pub(crate) struct Row {
    pub item: Item,
    pub summary: Summary,
    pub world: Place,
    pub verdict: Verdict,
    /// Shows a failure on purpose, and did.
    pub as_told: bool,
    /// The first failing seed, looked at again.
    pub first: Option<First>,
}

/// The first failing seed.
pub(crate) struct First {
    pub seed: u64,
    /// The story of its artifact, for a report.
    pub story: Vec<String>,
    pub artifact: Option<Kept>,
}

/// An artifact that was written.
pub(crate) struct Kept {
    pub path: String,
    pub hash: u128,
    pub faults: usize,
    pub nodes: u16,
    /// Runs that shrinking took; `None`: it was not shrunk.
    pub tried: Option<u32>,
    pub minimal: bool,
}

impl Row {
    /// What counts for the suite: a scenario that shows a failure passes by failing.
    pub(crate) fn counts_as(&self, alone: bool) -> Verdict {
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

    pub(crate) fn new(item: Item, world: Place, summary: Summary, args: &RunArgs) -> Result<Self, Trouble> {
        let verdict = summary.verdict(&item.scenario);
        let as_told = summary.fails_as_told(&item.scenario);
        let mut row = Self { item, summary, world, verdict, as_told, first: None };
        // What was cut by the clock of this machine is no failure to keep.
        let first = row.summary.failures.iter().find(|(_, violation)| violation.checker != TIMEOUT);
        if let Some((seed, _)) = first {
            row.first = Some(row.look_again(*seed, args)?);
        }
        Ok(row)
    }

    fn look_again(&self, seed: u64, args: &RunArgs) -> Result<First, Trouble> {
        let world = self.world;
        let scenario = &self.item.scenario;
        let mut plan = Plan::draw(scenario, seed);
        let mut run = run_guarded(world, &plan, &options(scenario));
        let expected = !scenario.expect.fails.is_empty() && self.as_told;
        let wanted = args.artifacts.is_some() || (args.shrink.is_some() && !expected);
        let mut first = First { seed, story: Vec::new(), artifact: None };
        if wanted {
            let shrunk = args.shrink.and_then(|budget| apus_sim::shrink::shrink(world, &plan, budget));
            let (mut tried, mut minimal) = (None, false);
            if let Some(shrunk) = shrunk {
                (tried, minimal) = (Some(shrunk.tried), shrunk.minimal);
                plan = shrunk.plan;
            } else {
                let explicit = Plan::with_faults(&plan.scenario, plan.seed, run.faults.clone());
                let again = run_guarded(world, &explicit, &options(scenario));
                if again.violation.map(|violation| violation.checker) == run.violation.as_ref().map(|v| v.checker) {
                    plan = explicit;
                }
            }
            run = run_guarded(world, &plan, &Options { keep_trace: true, ..options(scenario) });
            let dir = args.artifacts.clone().unwrap_or_else(|| "artifacts".into());
            let place = if world.name() == "heap" { String::new() } else { format!("-{}", world.name()) };
            let path = dir.join(format!("{}{place}-{seed}.json", scenario.name));
            crate::write(&path, Artifact::new(&self.item.text, &plan, world, &run).to_json())?;
            first.artifact = Some(Kept {
                path: path.display().to_string(),
                hash: run.hash,
                faults: plan.faults.len(),
                nodes: plan.scenario.nodes,
                tried,
                minimal,
            });
        }
        if args.junit.is_some() {
            if !wanted {
                run = run_guarded(world, &plan, &Options { keep_trace: true, ..options(scenario) });
            }
            first.story = explain::story(&run);
        }
        Ok(first)
    }

    /// The command that runs one seed again.
    pub(crate) fn replay(&self, seed: u64) -> String {
        let own = apus_sim::scenario::Scenario::parse(&self.item.file, &self.item.text)
            .is_ok_and(|as_is| as_is.mutant == self.item.scenario.mutant);
        let mutant = self.item.scenario.mutant.filter(|_| !own);
        let mutant = mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", mutant.name()));
        let world = if self.world.name() == "heap" { String::new() } else { format!(" --world {}", self.world.name()) };
        format!("apus run {} --seed {seed}{mutant}{world}", quoted(&self.item.file))
    }
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./\\:".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The head of the table of a suite.
pub(crate) fn print_head() {
    say!("{BOLD}{:<32} {:<10} {:>9} {:>10}  {:<16}{BOLD:#}", "scenario", "verdict", "seeds", "events", "traces");
}

pub(crate) fn print_row(row: &Row, suite: bool, several: bool) {
    let Row { item, summary, .. } = row;
    let told = if suite && row.as_told { "  fails as told" } else { "" };
    let place = if several { format!("  {}", row.world.name()) } else { String::new() };
    let verdict = row.counts_as(!suite);
    let colour: Style = style(verdict);
    say!(
        "{:<32} {colour}{:<10}{colour:#} {:>9} {:>10}  {:016x}{place}{told}",
        item.scenario.name,
        word(verdict),
        summary.seeds,
        short(summary.events),
        high(summary.digest)
    );
    if suite && verdict == Verdict::Pass {
        return;
    }
    for (seed, violation) in summary.failures.iter().take(3) {
        let at = ms(violation.at);
        say!("    seed {seed}: {BAD}{}{BAD:#} at {at} ms: {}", violation.checker, violation.what);
        if let Some(hash) = summary.hashes.get(seed) {
            say!("      trace    {hash:032x}");
        }
        say!("      replay   {}", row.replay(*seed));
    }
    if let Some((overlap, seed)) = summary.measures.get("two-holders-time") {
        say!("    two nodes held one resource at once for {} ms (seed {seed})", ms(*overlap));
    }
    let more = summary.failures.len().saturating_sub(3);
    if more > 0 {
        say!("    {} more", count(more as u64, "failing seed"));
    }
    for seed in summary.differing.iter().take(3) {
        say!("    seed {seed}: two runs differ; {}", row.replay(*seed));
    }
    for why in summary.vacuous(&item.scenario) {
        say!("    vacuous: {why}");
    }
    if let Some(kept) = row.first.as_ref().and_then(|first| first.artifact.as_ref()) {
        let (faults, nodes) = (count(kept.faults as u64, "fault"), count(kept.nodes.into(), "node"));
        let how = match kept.tried {
            Some(tried) if kept.minimal => format!(", shrunk in {tried} runs, no fault can be taken away"),
            Some(tried) => format!(", shrunk in {tried} runs until the time was over"),
            None => String::new(),
        };
        say!("    artifact {}: {faults} on {nodes}{how}", kept.path);
        say!("      next     apus explain {} --html timeline.html", quoted(&kept.path));
    }
    if !suite {
        details(summary);
    }
}

/// A measure's value with its unit: times are in nanoseconds, shares in parts per million.
fn value(name: &str, value: u64) -> String {
    if name.ends_with("-ppm") { format!("{value} ppm") } else { format!("{} ms", ms(value)) }
}

/// Measures, faults and goals of a scenario that was run alone.
fn details(summary: &Summary) {
    for (name, values) in &summary.values {
        let mut values = values.clone();
        values.sort_unstable();
        let at = |percent: usize| value(name, values[(values.len() - 1) * percent / 100]);
        let worst = summary.measures[name].1;
        say!(
            "    {name:<18} median {:>14}  p99 {:>14}  worst {:>14}  {DIM}seed {worst}{DIM:#}",
            at(50),
            at(99),
            at(100)
        );
    }
    let kinds: Vec<String> =
        summary.kinds.iter().map(|(kind, (planned, had))| format!("{} {had}/{planned}", kind.spec().name)).collect();
    if !kinds.is_empty() {
        say!("    faults with effects: {}", kinds.join(", "));
    }
    let goals: Vec<String> = summary.goals.iter().map(|(goal, many)| format!("{goal} {many}")).collect();
    if !goals.is_empty() {
        say!("    goals: {}", goals.join(", "));
    }
}

/// What all scenarios amount to.
pub(crate) struct Totals {
    pub seeds: u64,
    pub events: u64,
    pub node_years: f64,
    /// Kinds of faults that had an effect.
    pub kinds: usize,
    /// Events a second of one thread.
    pub rate: f64,
    pub scenarios: u64,
    /// Digest of all traces, whatever the order and the number of threads.
    pub traces: u128,
    pub took: Duration,
}

impl Totals {
    pub(crate) fn new(rows: &[Row], jobs: usize, took: Duration) -> Self {
        let busy: f64 = rows.iter().map(|row| row.summary.took.as_secs_f64()).sum();
        let events = rows.iter().map(|row| row.summary.events).sum::<u64>();
        let kinds: std::collections::BTreeSet<_> = rows
            .iter()
            .flat_map(|row| &row.summary.kinds)
            .filter(|(_, (_, had))| *had > 0)
            .map(|(kind, _)| *kind)
            .collect();
        Self {
            seeds: rows.iter().map(|row| row.summary.seeds).sum(),
            events,
            node_years: rows.iter().map(|row| row.summary.node_time).sum::<u128>() as f64 / 1e9 / 31_557_600.0,
            kinds: kinds.len(),
            rate: events as f64 / busy.max(1e-9) / jobs as f64,
            scenarios: hash_of(rows.iter().map(|row| &row.item)),
            traces: rows.iter().fold(0, |sum, row| sum ^ row.summary.digest),
            took,
        }
    }

    pub(crate) fn print(&self) {
        say!(
            "{} in {:.1} s, {:.2} M events/s a thread, {:.4} node years, {} with effects",
            count(self.seeds, "seed"),
            self.took.as_secs_f64(),
            self.rate / 1e6,
            self.node_years,
            count(self.kinds as u64, "fault kind")
        );
    }
}

/// One hash over the texts of several scenarios, each counted once.
pub(crate) fn hash_of<'a>(items: impl Iterator<Item = &'a Item>) -> u64 {
    let hashes: std::collections::BTreeSet<u64> = items.map(|item| scenario_hash(&item.text)).collect();
    hashes.into_iter().fold(0, |sum, hash| sum ^ hash)
}

#[allow(clippy::cast_possible_truncation, reason = "the upper half is 64 bits")]
const fn high(digest: u128) -> u64 {
    (digest >> 64) as u64
}
