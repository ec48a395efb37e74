//! `apus mutants`: every planted bug against the shipped suite, and the table of what catches it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use apus_engine::Mutant;
use apus_sim::emulated::Emulated;
use apus_sim::heap::Heap;
use apus_sim::runner::{Batch, Progress, Summary, run_batch};
use apus_sim::scenario::Scenario;
use apus_sim::world::World;
use serde_json::{Value, json};

use crate::args::{Format, MutantArgs};
use crate::print::{self, say};
use crate::suite::{self, Item};
use crate::{Trouble, VERSION, write};

/// Seeds of every scenario in the first round; each later round goes on to eight times as many.
const FIRST_ROUND: u64 = 3;
/// Seeds over which a kill is counted.
const COUNTED: u64 = 100;
/// Larger clusters are tried on the seeds of the first round only.
const LARGE: u16 = 20;
/// A scenario that catches a bug in so many of [`COUNTED`] seeds is good enough.
const OFTEN: u64 = 20;
/// Of the scenarios that catch a bug in a round, so many are counted on all [`COUNTED`] seeds.
const COMPARED: usize = 3;

/// What catches a planted bug.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kill {
    scenario: String,
    checker: String,
    /// The lowest seed that does.
    seed: u64,
    /// How many of the first [`COUNTED`] do.
    of_hundred: u64,
}

/// What is known of one planted bug.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Killed(Kill),
    /// The reason why it is no bug at all.
    Equivalent(&'static str),
    Alive,
}

/// The suite, and which checkers fail in a scenario without a bug: there they prove nothing.
struct Hunt<'a> {
    items: Vec<Item>,
    args: &'a MutantArgs,
    dirty: BTreeMap<(usize, &'static str), BTreeSet<&'static str>>,
}

pub(crate) fn mutants(args: &MutantArgs, format: Format) -> Result<u8, Trouble> {
    let wanted: &[Mutant] = if args.names.is_empty() { Mutant::ALL } else { &args.names };
    // Rows of an earlier run are kept for what is not named now, and tell where to look first.
    let old = args.table.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let mut fates: BTreeMap<Mutant, Fate> =
        Mutant::ALL.iter().map(|mutant| (*mutant, read_row(&old, *mutant))).collect();
    let mut items = suite::load_shipped()?;
    items.retain(|item| {
        let scenario = &item.scenario;
        scenario.mutant.is_none() && scenario.expect.fails.is_empty()
    });
    if let Some(only) = &args.scenario {
        items.retain(|item| item.scenario.name == *only);
    }
    let mut hunt = Hunt { items, args, dirty: BTreeMap::new() };
    let began = Instant::now();
    for (at, mutant) in wanted.iter().enumerate() {
        let known = match fates.get(mutant) {
            Some(Fate::Killed(kill)) => Some(kill.scenario.clone()),
            _ => None,
        };
        let fate = hunt.fate(*mutant, known.as_deref(), args.timeout);
        if format == Format::Text {
            let (done, all, took) = (at + 1, wanted.len(), began.elapsed().as_secs());
            say!("{done:>3}/{all} {took:>5} s  {:<32} {}", mutant.name(), sentence(&fate));
        }
        fates.insert(*mutant, fate);
        if let Some(path) = &args.table {
            write(path, page(&fates))?;
        }
    }
    let tried: Vec<(Mutant, &Fate)> = wanted.iter().filter_map(|mutant| Some((*mutant, fates.get(mutant)?))).collect();
    let code = u8::from(tried.iter().any(|(_, fate)| **fate == Fate::Alive)) * 3;
    match format {
        Format::Text | Format::Csv => say!("{}", score(tried.iter().map(|(_, fate)| *fate))),
        Format::Json => print::json(&report(&tried, code)),
    }
    Ok(code)
}

impl Hunt<'_> {
    /// What caught it before, if that still does and often; else rounds of more and more seeds until a scenario catches
    /// the bug, and of those that do the one that does most often.
    fn fate(&mut self, mutant: Mutant, known: Option<&str>, timeout: Duration) -> Fate {
        if let Some(why) = mutant.equivalent() {
            return Fate::Equivalent(why);
        }
        let began = Instant::now();
        let known = self.items.iter().position(|item| Some(item.scenario.name.as_str()) == known);
        let known = known.and_then(|at| self.best(mutant, &[(0, at)], timeout));
        if let Some(kill) = known.as_ref().filter(|kill| kill.of_hundred >= OFTEN) {
            return Fate::Killed(kill.clone());
        }
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by_key(|at| {
            let item = &self.items[*at].scenario;
            let unlikely = item.services.is_empty() == (mutant.part() == "supervision");
            (item.nodes > LARGE, unlikely, *at)
        });
        order.retain(|at| self.items[*at].scenario.worlds.iter().any(|world| world == world_of(mutant).name()));
        let (mut from, mut to) = (0, FIRST_ROUND.min(self.args.seeds));
        while from < to {
            let mut caught: Vec<(u64, usize)> = Vec::new();
            for at in &order {
                if began.elapsed() >= timeout {
                    break;
                }
                if self.items[*at].scenario.nodes > LARGE && (from > 0 || !caught.is_empty()) {
                    continue;
                }
                let kills = self.kills(*at, mutant, from, to, timeout.saturating_sub(began.elapsed()));
                if !kills.is_empty() {
                    caught.push((kills.len() as u64, *at));
                    // A sure catch: nothing is gained by looking at the rest.
                    if from > 0 || caught.len() >= COMPARED && kills.len() as u64 == to - from {
                        break;
                    }
                }
            }
            caught.sort_by_key(|(many, at)| (std::cmp::Reverse(*many), self.items[*at].scenario.nodes, *at));
            let found = self.best(mutant, &caught, timeout);
            let settled = found.is_some() || from > 0;
            let best = found.into_iter().chain(known.clone()).max_by_key(|kill| kill.of_hundred);
            if let Some(kill) = best.filter(|_| settled) {
                return Fate::Killed(kill);
            }
            (from, to) = (to, (to * 8).min(self.args.seeds));
        }
        Fate::Alive
    }

    /// Counts the kills of the first few candidates on all counted seeds.
    fn best(&mut self, mutant: Mutant, caught: &[(u64, usize)], timeout: Duration) -> Option<Kill> {
        let mut best: Option<Kill> = None;
        for (_, at) in caught.iter().take(COMPARED) {
            let large = self.items[*at].scenario.nodes > LARGE;
            let kills = self.kills(*at, mutant, 0, if large { FIRST_ROUND } else { COUNTED }, timeout);
            let kills = if kills.is_empty() { self.kills(*at, mutant, 0, self.args.seeds, timeout) } else { kills };
            let Some((seed, checker)) = kills.first().cloned() else { continue };
            let of_hundred = kills.iter().filter(|(seed, _)| *seed < COUNTED).count() as u64;
            if best.as_ref().is_none_or(|best| of_hundred > best.of_hundred) {
                best = Some(Kill { scenario: self.items[*at].scenario.name.clone(), checker, seed, of_hundred });
            }
        }
        best
    }

    /// Seeds in `from..to` that fail by the bug, each with its checker.
    fn kills(&mut self, at: usize, mutant: Mutant, from: u64, to: u64, budget: Duration) -> Vec<(u64, String)> {
        let batch = Batch {
            from,
            to,
            jobs: suite::jobs(self.args.jobs),
            budget: Some(budget),
            keep_going: to <= COUNTED,
            ..Batch::default()
        };
        let summary = self.run(at, world_of(mutant), Some(mutant), &batch);
        if summary.failures.is_empty() {
            return Vec::new();
        }
        let dirty = self.dirty(at, mutant).clone();
        let kills = summary.failures.iter().filter(|(_, violation)| !dirty.contains(violation.checker));
        kills.map(|(seed, violation)| (*seed, violation.checker.to_owned())).collect()
    }

    /// Checkers that fail on the first seeds of a scenario without any planted bug.
    fn dirty(&mut self, at: usize, of: Mutant) -> &BTreeSet<&'static str> {
        let world = world_of(of);
        let key = (at, world.name());
        if !self.dirty.contains_key(&key) {
            let to = if self.items[at].scenario.nodes > LARGE { 1 } else { COUNTED };
            let batch = Batch { to, jobs: suite::jobs(self.args.jobs), keep_going: true, ..Batch::default() };
            let summary = self.run(at, world, None, &batch);
            self.dirty.insert(key, summary.failures.values().map(|violation| violation.checker).collect());
        }
        &self.dirty[&key]
    }

    fn run(&self, at: usize, world: &(dyn World + Sync), mutant: Option<Mutant>, batch: &Batch) -> Summary {
        let scenario = Scenario { mutant, every: 1, ..self.items[at].scenario.clone() };
        run_batch(world, &scenario, batch, &Progress::default())
    }
}

/// Where a planted bug lives: those of the data plane only where there is one.
fn world_of(mutant: Mutant) -> &'static (dyn World + Sync) {
    if mutant.part() == "dispatch" { &Emulated } else { &Heap }
}

fn sentence(fate: &Fate) -> String {
    match fate {
        Fate::Killed(Kill { scenario, checker, seed, of_hundred }) => {
            format!("{scenario}: {checker}, seed {seed}, {of_hundred} of {COUNTED}")
        }
        Fate::Equivalent(why) => format!("equivalent: {why}"),
        Fate::Alive => "ALIVE".into(),
    }
}

fn score<'f>(fates: impl Iterator<Item = &'f Fate>) -> String {
    let fates: Vec<&Fate> = fates.collect();
    let killed = fates.iter().filter(|fate| matches!(fate, Fate::Killed(_))).count();
    let equivalent = fates.iter().filter(|fate| matches!(fate, Fate::Equivalent(_))).count();
    let real = fates.len() - equivalent;
    format!(
        "{killed} of {real} planted bugs killed ({}.{} %), {equivalent} more are equivalent",
        killed * 100 / real.max(1),
        killed * 1_000 / real.max(1) % 10
    )
}

fn page(fates: &BTreeMap<Mutant, Fate>) -> String {
    let mut out = format!(
        "# Planted bugs\n\nMade by `apus mutants --table docs/mutants.md`. Each is switched on by `apus run SCENARIO --mutant NAME`. The last column says how \
         many of\nthe first {COUNTED} seeds of the scenario catch it. A test runs each row's scenario and seed again and fails when it is stale.\n\n\
         {}.\n\n| part | mutant | what is wrong | killed by | checker | lowest seed | of {COUNTED} |\n|---|---|---|---|---|---|---|\n",
        score(fates.values())
    );
    for (mutant, fate) in fates {
        let _ = write!(out, "| {} | `{}` | {} | ", mutant.part(), mutant.name(), mutant.about());
        let _ = match fate {
            Fate::Killed(kill) => {
                writeln!(out, "`{}` | {} | {} | {} |", kill.scenario, kill.checker, kill.seed, kill.of_hundred)
            }
            Fate::Equivalent(why) => writeln!(out, "equivalent: {why} | – | – | – |"),
            Fate::Alive => writeln!(out, "– | – | – | – |"),
        };
    }
    out
}

/// What an earlier table says of a planted bug.
fn read_row(table: &str, mutant: Mutant) -> Fate {
    if let Some(why) = mutant.equivalent() {
        return Fate::Equivalent(why);
    }
    let name = format!("| `{}` |", mutant.name());
    let read = || {
        let line = table.lines().find(|line| line.contains(&name))?;
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, _, _, _, scenario, checker, seed, of_hundred, ..] = cells[..] else { return None };
        let (seed, of_hundred) = (seed.parse().ok()?, of_hundred.parse().ok()?);
        Some(Fate::Killed(Kill { scenario: scenario.into(), checker: checker.into(), seed, of_hundred }))
    };
    read().unwrap_or(Fate::Alive)
}

fn report(tried: &[(Mutant, &Fate)], code: u8) -> Value {
    let rows: Vec<_> = tried
        .iter()
        .map(|(mutant, fate)| {
            let mut row = json!({ "part": mutant.part(), "mutant": mutant.name(), "about": mutant.about() });
            match fate {
                Fate::Killed(kill) => {
                    row["scenario"] = kill.scenario.clone().into();
                    row["checker"] = kill.checker.clone().into();
                    row["seed"] = kill.seed.into();
                    row["of_hundred"] = kill.of_hundred.into();
                }
                Fate::Equivalent(why) => row["equivalent"] = (*why).into(),
                Fate::Alive => row["alive"] = true.into(),
            }
            row
        })
        .collect();
    json!({ "apus": VERSION, "score": score(tried.iter().map(|(_, fate)| *fate)), "mutants": rows, "exit_code": code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_table_reads_back() {
        let mutant = Mutant::ALL.iter().copied().find(|mutant| mutant.equivalent().is_none()).expect("there is one");
        let fate =
            Fate::Killed(Kill { scenario: "healthy".into(), checker: "one-holder".into(), seed: 7, of_hundred: 3 });
        let page = page(&BTreeMap::from([(mutant, fate.clone())]));
        assert_eq!(read_row(&page, mutant), fate);
        assert_eq!(read_row("", mutant), Fate::Alive);
    }

    #[test]
    fn the_score_leaves_equivalent_ones_out() {
        let kill = Kill { scenario: String::new(), checker: String::new(), seed: 0, of_hundred: 0 };
        let fates = [Fate::Killed(kill), Fate::Alive, Fate::Equivalent("no path")];
        assert_eq!(score(fates.iter()), "1 of 2 planted bugs killed (50.0 %), 1 more are equivalent");
    }
}
