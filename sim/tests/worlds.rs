//! The same scenarios in both worlds; streams that break; and what the turmoil world promises by itself.

use std::time::{Duration, Instant};

use apus_engine::Mutant;
use apus_sim::artifact::Artifact;
use apus_sim::heap::Heap;
use apus_sim::report::{Run, Verdict};
use apus_sim::runner::{Batch, Progress, Summary, options, run_batch, run_guarded};
use apus_sim::scenario::{Plan, Scenario, shipped};
use apus_sim::turmoil::Turmoil;
use apus_sim::world::{Options, TIMEOUT, World};

fn scenario(name: &str) -> Scenario {
    let (_, text) = shipped().iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no scenario {name}"));
    Scenario::parse(name, text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn seeds(world: &(dyn World + Sync), scenario: &Scenario, to: u64) -> Summary {
    let batch = Batch { to, jobs: 2, keep_going: true, ..Batch::default() };
    run_batch(world, scenario, &batch, &Progress::default())
}

fn run(scenario: &Scenario, seed: u64, keep_trace: bool) -> Run {
    let options = Options { keep_trace, ..options(scenario) };
    run_guarded(&Turmoil, &Plan::draw(scenario, seed), &options)
}

#[test]
fn verdicts_are_the_same_in_both_worlds() {
    let names = [
        "canary-quorum-off-by-one",
        "dispatcher-power-off",
        "frozen-daemon-wakes",
        "full-disk-leader",
        "partition-1998-rule",
        "partition-dispatcher",
        "rolling-upgrade",
        "swarm-turmoil-5",
        "two-node-arbiter",
        "wiped-disk",
    ];
    for name in names {
        let scenario = scenario(name);
        let (heap, turmoil) = (seeds(&Heap, &scenario, 3), seeds(&Turmoil, &scenario, 3));
        let told = |summary: &Summary| (summary.verdict(&scenario), summary.fails_as_told(&scenario));
        assert_eq!(told(&heap), told(&turmoil), "{name}: {:?} {:?}", heap.failures, turmoil.failures);
        // What is a fault in one world is one in the other.
        let effective = |summary: &Summary| {
            let kinds = summary.kinds.iter().filter(|(_, (_, had))| *had > 0);
            kinds.map(|(kind, _)| kind.spec().name).collect::<Vec<_>>()
        };
        assert_eq!(effective(&heap), effective(&turmoil), "{name}");
    }
}

#[test]
fn streams_break_and_the_protocols_go_on() {
    for (name, _) in shipped().iter().filter(|(name, _)| name.starts_with("stream-") || *name == "swarm-streams-7") {
        let scenario = scenario(name);
        let summary = seeds(&Turmoil, &scenario, 2);
        assert_eq!(summary.verdict(&scenario), Verdict::Pass, "{name}: {:?}", summary.failures);
    }
}

#[test]
fn one_seed_is_one_run() {
    for name in ["swarm-turmoil-5", "swarm-streams-7"] {
        let scenario = scenario(name);
        let (one, two, other) = (run(&scenario, 3, false), run(&scenario, 3, false), run(&scenario, 4, false));
        assert_eq!((one.hash, one.events), (two.hash, two.events), "{name}");
        assert_ne!(one.hash, other.hash, "{name}: all seeds look alike");
    }
}

/// An artifact of this world names it, and its packets meet the same fate on the same streams again.
#[test]
fn an_artifact_repeats_its_run() {
    let (name, text) = shipped().iter().find(|(name, _)| *name == "dispatcher-power-off").expect("it is shipped");
    let mut scenario = Scenario::parse(name, text).expect("it is good");
    scenario.mutant = Mutant::named("grant-without-wait");
    let seed =
        (0..40).find(|seed| run(&scenario, *seed, false).violation.is_some()).expect("the planted bug is caught");
    let found = run(&scenario, seed, true);
    let plan = Plan::with_faults(&scenario, seed, found.faults.clone());
    let explicit = run_guarded(&Turmoil, &plan, &Options { keep_trace: true, ..options(&scenario) });
    let kept = Artifact::new(text, &plan, &Turmoil, &explicit).to_json();
    let artifact = Artifact::from_json(&kept).expect("it reads back");
    assert_eq!(artifact.world.name(), "turmoil");
    assert!(artifact.fates.packets() > 100);
    let again = run_guarded(artifact.world, &artifact.plan, &artifact.options());
    assert_eq!(again.violation, explicit.violation);
    assert_eq!(again.hash, explicit.hash);
}

/// Every packet that a stream or a datagram brought is the one that was sent: the world compares them all, and so this run
/// would have failed otherwise. Here they are counted, so that the comparison is not one of nothing.
#[test]
fn packets_really_go_over_sockets() {
    let scenario = scenario("stream-sliced");
    let run = run(&scenario, 0, true);
    assert_eq!(run.violation, None);
    let received = run.trace.iter().filter(|line| matches!(line.what, apus_sim::trace::What::Received { .. })).count();
    assert!(received > 1_000, "{received}");
}

#[test]
fn a_run_ends_at_its_deadline() {
    let scenario = scenario("swarm-turmoil-5");
    let options = Options { deadline: Some(Instant::now() + Duration::from_millis(20)), ..options(&scenario) };
    let run = run_guarded(&Turmoil, &Plan::draw(&scenario, 0), &options);
    assert_eq!(run.violation.expect("it was cut").checker, TIMEOUT);
}

#[test]
fn more_than_sixteen_nodes_are_refused() {
    let mut large = scenario("healthy");
    assert_eq!(Turmoil.refuses(&large), None);
    large.nodes = 17;
    assert!(Turmoil.refuses(&large).expect("it is refused").contains("17 nodes"));
}
