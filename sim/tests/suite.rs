//! The shipped suite on a few seeds, its determinism, the exhaustive search, and the planted bugs that docs/mutants.md claims.

use apus_engine::Mutant;
use apus_sim::artifact::Artifact;
use apus_sim::emulated::Emulated;
use apus_sim::fault::Kind;
use apus_sim::heap::{self, Heap};
use apus_sim::report::Verdict;
use apus_sim::runner::{Batch, Progress, run_batch};
use apus_sim::scenario::{Plan, Scenario, shipped};
use apus_sim::search::Search;
use apus_sim::world::{Options, World};

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
        let heap = scenario.worlds.iter().any(|world| world == "heap");
        if !heap || scenario.mutant.is_some() || !scenario.expect.fails.is_empty() || scenario.nodes > 100 {
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

/// What holds among the machines holds with frames below them: a file's verdict is the same in each world that it names.
#[test]
fn the_emulated_world_has_the_verdicts_of_the_heap() {
    let mut both = 0;
    for (name, _) in shipped() {
        let scenario = scenario(name);
        let named = |world: &str| scenario.worlds.iter().any(|named| named == world);
        if !named("heap") || !named("emulated") {
            continue;
        }
        let batch = Batch { from: 0, to: 2, jobs: 2, ..Batch::default() };
        let heap = run_batch(&Heap, &scenario, &batch, &Progress::default());
        let emulated = run_batch(&Emulated, &scenario, &batch, &Progress::default());
        assert!(
            heap.failures.is_empty() && emulated.failures.is_empty(),
            "{name}: {:?} {:?}",
            heap.failures,
            emulated.failures
        );
        both += 1;
    }
    assert!(both >= 20, "only {both} scenarios are for both");
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
    let search = Search { horizon: apus_engine::Micros::from_millis(450), jobs: 2, ..Search::default() };
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

/// The cells of a page's tables, rows of planted bugs or kinds of faults only.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    lines.map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

/// docs/mutants.md is made by `apus mutants`: each row's lowest seed is run again.
#[test]
fn every_claimed_kill_is_a_kill() {
    let stale = "stale: run `apus mutants --table docs/mutants.md`";
    let page = include_str!("../../docs/mutants.md");
    let rows = rows(page);
    assert_eq!(rows.len(), Mutant::ALL.len(), "{stale}");
    let (mut killed, mut real) = (0, 0);
    for (cells, mutant) in rows.iter().zip(Mutant::ALL) {
        let name = mutant.name();
        assert_eq!(cells[1..4], [mutant.part(), name, mutant.about()], "{stale}");
        if let Some(why) = mutant.equivalent() {
            assert_eq!(cells[4], format!("equivalent: {why}"), "{stale}");
            continue;
        }
        real += 1;
        let Ok(seed) = cells[6].parse::<u64>() else { continue };
        let mut scenario = scenario(cells[4]);
        scenario.mutant = Some(*mutant);
        let world: &(dyn World + Sync) = if mutant.part() == "dispatch" { &Emulated } else { &Heap };
        let batch = Batch { from: seed, to: seed + 1, jobs: 1, keep_going: true, ..Batch::default() };
        let summary = run_batch(world, &scenario, &batch, &Progress::default());
        let violation = summary.failures.get(&seed).unwrap_or_else(|| panic!("{name} lives in {}; {stale}", cells[4]));
        assert_eq!(violation.checker, cells[5], "{name}; {stale}");
        killed += 1;
    }
    assert!(killed * 100 >= 95 * real, "only {killed} of {real} planted bugs are killed");
    assert!(page.contains(&format!("{killed} of {real} planted bugs killed")), "{stale}");
}

/// docs/faults.md has a line for every kind, with its effects in each world that carries it, and scenarios in which it acts.
#[test]
fn every_fault_kind_acts() {
    let stale = "stale: run `apus list faults --table docs/faults.md`";
    let rows = rows(include_str!("../../docs/faults.md"));
    assert_eq!(rows.len(), Kind::ALL.len(), "{stale}");
    for (cells, kind) in rows.iter().zip(Kind::ALL) {
        let spec = kind.spec();
        assert_eq!(cells[1..4], [spec.code, spec.name, spec.about], "{stale}");
        for (world, effects) in ["heap", "turmoil", "emulated"].into_iter().zip(&cells[4..7]) {
            let acts = effects.parse::<u64>().is_ok_and(|effects| effects > 0);
            if world == "emulated" && spec.worlds.len() > 1 && !acts {
                // The machines are the heap's: what acts there acts here. Not every kind is in a scenario for both.
                continue;
            }
            assert_eq!(acts, spec.worlds.contains(&world), "`{}` in {world}: {effects} effects; {stale}", spec.name);
        }
        let shown =
            cells[7].split(", ").map(scenario).filter(|scenario| scenario.worlds.iter().any(|world| world == "heap"));
        let acts = |scenario: Scenario| seeds(&scenario, 0, 3).kinds.get(kind).is_some_and(|(_, had)| *had > 0);
        assert!(!spec.worlds.contains(&"heap") || shown.into_iter().any(acts), "`{}` does nothing; {stale}", spec.name);
    }
}

fn failing(name: &str, mutant: &str, seed: u64) -> Plan {
    let mut scenario = scenario(name);
    scenario.mutant = Mutant::named(mutant);
    Plan::draw(&scenario, seed)
}

/// What an artifact keeps of packets is what happens, not what the seed would draw: with links ten times as slow and other
/// dice for the faults, the run is still the same, bit for bit.
#[test]
fn artifacts_keep_the_fate_of_every_packet() {
    for (name, mutant, seed) in
        [("common-swarm-8", "stale-incarnation-accepted", 20), ("clock-drift", "grant-without-wait", 0)]
    {
        let plan = failing(name, mutant, seed);
        let keep = Options { keep_trace: true, ..Options::default() };
        let run = heap::run(&plan, &keep);
        assert!(run.violation.is_some(), "{name}");
        let text = shipped().iter().find(|(known, _)| *known == name).expect("it is shipped").1;
        let explicit = Plan::with_faults(&plan.scenario, seed, run.faults.clone());
        let kept = Artifact::from_json(&Artifact::new(text, &explicit, &Heap, &run).to_json()).expect("it reads back");
        assert!(kept.fates.packets() > 500);
        let mut other = kept.plan.clone();
        other.scenario.cluster.link_delay = Some(2_000_000);
        for fault in other.faults.iter_mut().filter(|fault| fault.kind.spec().aim == apus_sim::fault::Aim::Links) {
            fault.rate_ppm = fault.rate_ppm.saturating_mul(2).min(900_000);
        }
        assert_eq!(heap::run(&other, &kept.options()).hash, run.hash, "{name}: the kept fates decide");
        assert_ne!(heap::run(&other, &Options::default()).hash, run.hash, "{name}: without them chance does");
    }
}

/// A planted bug's failure does not shrink into one that has nothing to do with it.
#[test]
fn shrinking_keeps_the_cause() {
    let plan = failing("drain", "drain-forgets", 0);
    let shrunk = apus_sim::shrink::shrink(&Heap, &plan, std::time::Duration::from_secs(20)).expect("it fails");
    let mut scenario = shrunk.plan.scenario.clone();
    scenario.mutant = None;
    let without = Plan::with_faults(&scenario, shrunk.plan.seed, shrunk.plan.faults.clone());
    let violation = heap::run(&without, &Options::default()).violation;
    let checker = shrunk.run.violation.expect("it fails").checker;
    assert!(violation.is_none_or(|violation| violation.checker != checker));
}

/// 1-minimal: without any one of its faults the failure is gone.
#[test]
fn a_shrunk_plan_has_no_fault_too_many() {
    let plan = failing("common-swarm-8", "stale-incarnation-accepted", 20);
    let before = plan.faults.len();
    let shrunk = apus_sim::shrink::shrink(&Heap, &plan, std::time::Duration::from_secs(60)).expect("it fails");
    assert!(shrunk.minimal && shrunk.plan.faults.len() < before);
    let checker = shrunk.run.violation.as_ref().expect("it fails").checker;
    for without in 0..shrunk.plan.faults.len() {
        let mut faults = shrunk.plan.faults.clone();
        faults.remove(without);
        let fewer = Plan::with_faults(&shrunk.plan.scenario, shrunk.plan.seed, faults);
        let violation = heap::run(&fewer, &Options::default()).violation;
        assert!(violation.is_none_or(|violation| violation.checker != checker), "fault {without} is not needed");
    }
}

/// The report of two holders counts from when the second guard opened, not from when the first one did.
#[test]
fn two_holders_are_measured_from_the_second_guard_on() {
    let run = heap::run(
        &failing("partition-1998-rule", "", 0),
        &Options { keep_trace: true, measure_overlap: true, ..Options::default() },
    );
    let at = run.violation.as_ref().expect("two holders").at;
    let overlap = run.measures["two-holders-time"];
    let healed = run.faults[0].at + run.faults[0].lasts;
    assert!(overlap > healed - at && overlap < healed - at + 2_000_000_000, "{overlap} ns from {at} to {healed}");
}

#[test]
fn a_seed_ends_at_its_deadline() {
    let plan = failing("common-swarm-8", "", 3);
    let now = std::time::Instant::now();
    let run = heap::run(&plan, &Options { deadline: Some(now), ..Options::default() });
    assert_eq!(run.violation.map(|violation| violation.checker), Some(apus_sim::world::TIMEOUT));
    assert!(run.events > 0 && run.simulated < plan.scenario.duration, "cut on the way");
}

#[test]
fn each_scripted_fault_must_act_once_there_were_seeds_enough() {
    let fault = |at: &str, lasts: &str, rate: &str| {
        format!("[[fault]]\nkind = \"loss\"\nat = \"{at}\"\nfor = \"{lasts}\"\nrate = \"{rate}\"\ntarget = \"all\"\n")
    };
    let text = format!(
        "name = \"two\"\nabout = \"\"\"\nOne.\nTwo.\"\"\"\nnodes = 3\nduration = \"5s\"\n{}{}",
        fault("2s", "1s", "20%"),
        fault("3500ms", "1ms", "0.0001%")
    );
    let scenario = Scenario::parse("two.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(seeds(&scenario, 0, 19).vacuous(&scenario), Vec::<String>::new());
    let why = seeds(&scenario, 0, 20).vacuous(&scenario);
    assert_eq!(why, ["the scripted fault `loss`, `[[fault]]` number 2, had no effect in any seed"]);
}

/// A leader that is frozen while its partition ends is still in a fault: that it is deposed then breaks nothing.
#[test]
fn a_fault_that_ends_excuses_a_node_no_less_from_another() {
    let fault = |kind: &str, at: &str, lasts: &str| {
        format!("[[fault]]\nkind = \"{kind}\"\nat = \"{at}\"\nfor = \"{lasts}\"\ntarget = \"leader\"\n")
    };
    let text = format!(
        "name = \"two\"\nabout = \"\"\"\nOne.\nTwo.\"\"\"\nnodes = 3\nduration = \"6s\"\n{}{}",
        fault("partition", "1500ms", "300ms"),
        fault("freeze", "1600ms", "2500ms")
    );
    let scenario = Scenario::parse("two.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    for seed in 0..8 {
        let run = heap::run(&Plan::draw(&scenario, seed), &Options::default());
        assert_eq!(run.violation, None, "seed {seed}");
        assert!(run.effects.iter().all(|effects| *effects > 0), "seed {seed}: {:?}", run.effects);
    }
}

/// Also where a failing seed ends it.
#[test]
fn a_summary_is_the_same_whatever_the_number_of_threads() {
    for name in ["canary-votes-twice", "dispatcher-crash"] {
        let scenario = scenario(name);
        let told = |jobs| {
            let batch = Batch { to: 40, jobs, ..Batch::default() };
            let summary = run_batch(&Heap, &scenario, &batch, &Progress::default());
            (summary.seeds, summary.events, summary.digest, format!("{:?}", summary.failures))
        };
        let one = told(1);
        for jobs in [2, 3, 8] {
            assert_eq!(told(jobs), one, "{name} with {jobs} threads");
        }
    }
}
