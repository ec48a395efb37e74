//! The shipped suite on a few seeds, its determinism, the exhaustive search, and the planted bugs that docs/mutants.md claims.

use apus_engine::Mutant;
use apus_sim::fault::Kind;
use apus_sim::heap::Heap;
use apus_sim::report::Verdict;
use apus_sim::runner::{Batch, Progress, run_batch};
use apus_sim::scenario::{Plan, Scenario, shipped};
use apus_sim::search::Search;

fn scenario(name: &str) -> Scenario {
    let (_, text) = shipped().iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no scenario {name}"));
    Scenario::parse(name, text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn seeds(scenario: &Scenario, from: u64, to: u64) -> apus_sim::runner::Summary {
    let batch = Batch { from, to, jobs: 2, ..Batch::default() };
    run_batch(&Heap, scenario, &batch, &Progress::default())
}

#[test]
fn every_safe_scenario_holds_on_a_few_seeds() {
    for (name, _) in shipped() {
        let scenario = scenario(name);
        if scenario.mutant.is_some() || !scenario.expect.fails.is_empty() || scenario.nodes > 100 {
            continue;
        }
        let summary = seeds(&scenario, 0, 6);
        assert_eq!(
            summary.verdict(&scenario),
            Verdict::Pass,
            "{name}: {:?} {:?}",
            summary.failures,
            summary.vacuous(&scenario)
        );
    }
}

#[test]
fn canaries_fail_as_told() {
    for (name, _) in shipped().iter().filter(|(name, _)| name.starts_with("canary-") || *name == "partition-1998-rule")
    {
        let scenario = scenario(name);
        let summary = seeds(&scenario, 0, 1_000);
        assert!(summary.fails_as_told(&scenario), "{name} passed, or failed otherwise: {:?}", summary.failures);
    }
}

#[test]
fn the_1998_rule_has_two_dispatchers_and_the_report_says_for_how_long() {
    let summary = seeds(&scenario("partition-1998-rule"), 0, 1);
    let (overlap, _) = summary.measures["two-holders-time"];
    assert!(overlap > 1_000_000_000, "two dispatchers for {overlap} ns only");
}

#[test]
fn one_seed_is_one_run() {
    for name in ["common-swarm-8", "swarm-services-6", "swarm-disks-5"] {
        let scenario = scenario(name);
        let (one, two) = (seeds(&scenario, 0, 12), seeds(&scenario, 0, 12));
        assert_eq!(one.digest, two.digest, "{name}");
        let other = seeds(&scenario, 12, 24);
        assert_ne!(one.digest, other.digest, "{name}: all seeds look alike");
    }
}

#[test]
fn a_plan_of_explicit_faults_repeats_the_failure() {
    let mut scenario = scenario("dispatcher-power-off");
    scenario.mutant = Mutant::named("grant-without-wait");
    let summary = seeds(&scenario, 0, 2_000);
    let (seed, _) = summary.failures.first_key_value().expect("the planted bug is caught");
    let plan = Plan::draw(&scenario, *seed);
    let shrunk = apus_sim::shrink::shrink(&Heap, &plan, std::time::Duration::from_secs(20)).expect("it fails again");
    assert!(shrunk.plan.faults.len() <= 6, "{:?}", shrunk.plan.faults);
    assert!(shrunk.plan.scenario.nodes <= 5);
}

#[test]
fn the_search_finds_nothing_in_the_engine_and_something_in_a_broken_one() {
    let search = Search { horizon: apus_engine::Micros::from_millis(300), jobs: 2, ..Search::default() };
    let found = search.run();
    assert_eq!(found.violation, None);
    assert!(found.complete && found.states > 50_000, "only {} states", found.states);
    for mutant in [Mutant::QuorumOffByOne, Mutant::VotesTwice, Mutant::UpToDateIgnored] {
        let found = Search { states: 3_000_000, jobs: 2, mutant: Some(mutant), ..Search::default() }.run();
        let (what, path) =
            found.violation.unwrap_or_else(|| panic!("{} lives in {} states", mutant.name(), found.states));
        assert!(!what.is_empty() && !path.is_empty(), "{what} without a history");
    }
}

/// docs/mutants.md is made by `apus mutants`: each row's lowest seed is run again.
#[test]
fn every_claimed_kill_is_a_kill() {
    let table = include_str!("../../docs/mutants.md");
    let mut rows = 0;
    for line in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let mutant = Mutant::named(cells[2]).unwrap_or_else(|| panic!("stale: there is no mutant {}", cells[2]));
        rows += 1;
        let Ok(seed) = cells[6].parse::<u64>() else { continue };
        let mut scenario = scenario(cells[4]);
        scenario.mutant = Some(mutant);
        let summary = seeds(&scenario, seed, seed + 1);
        let violation =
            summary.failures.get(&seed).unwrap_or_else(|| panic!("stale: {} lives in {}", cells[2], cells[4]));
        assert_eq!(violation.checker, cells[5], "stale: {}", cells[2]);
    }
    assert_eq!(rows, Mutant::ALL.len(), "stale: run `apus mutants --table docs/mutants.md`");
}

/// docs/faults.md has a line for every kind, with the shipped scenarios that use it.
#[test]
fn every_fault_kind_is_documented() {
    let page = include_str!("../../docs/faults.md");
    for kind in Kind::ALL {
        let spec = kind.spec();
        let row = format!("| {} | `{}` |", spec.code, spec.name);
        assert!(page.contains(&row), "docs/faults.md lacks {row}: run `apus list faults --table docs/faults.md`");
    }
}
