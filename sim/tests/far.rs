//! A copy far away: 10 Mbit/s, 200 ms there and back, 1 % of packets lost. A hundredth of a tree of 2 GiB is mended while a program writes.

use apus_engine::Mutant;
use apus_sim::heap::Heap;
use apus_sim::report::Verdict;
use apus_sim::runner::{Batch, Progress, Summary, run_batch};
use apus_sim::scenario::{Scenario, shipped};
use apus_sim::turmoil::Turmoil;
use apus_sim::world::World;

fn text(name: &str) -> &'static str {
    shipped().iter().find(|(known, _)| *known == name).map_or_else(|| panic!("no scenario {name}"), |(_, text)| text)
}

fn scenario(name: &str, text: &str) -> Scenario {
    Scenario::parse(name, text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn one(world: &(dyn World + Sync), scenario: &Scenario, seed: u64) -> Summary {
    let seed = seed * scenario.every;
    let batch = Batch { from: seed, to: seed + 1, keep_going: true, ..Batch::default() };
    run_batch(world, scenario, &batch, &Progress::default())
}

/// The same line, eight times the tree, and as many more changes.
fn two_gibibytes(name: &str) -> Scenario {
    let small = text(name);
    let parts = [
        ("tree = 268435456", "tree = 2147483648"),
        ("log = 2097152", "log = 8388608"),
        ("duration = \"52s\"", "duration = \"236s\""),
        ("for = \"51s\"", "for = \"235s\""),
        ("for = [\"24s\", \"26s\"]", "for = [\"175s\", \"176s\"]"),
    ];
    let large = parts.iter().fold(small.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{name} has no `{old}`");
        text.replace(old, new)
    });
    scenario(name, &large)
}

fn tell(name: &str, summary: &Summary) {
    for (measure, (value, _)) in &summary.measures {
        if measure.ends_with("-ppm") {
            println!("{name}: {measure} {}.{:04}", value / 1_000_000, value % 1_000_000 / 100);
        } else {
            println!("{name}: {measure} {} ms", value / 1_000_000);
        }
    }
}

#[test]
fn a_hundredth_of_two_gibibytes_costs_a_tenth_more_on_the_wire() {
    for name in ["files-far", "files-far-clustered"] {
        let scenario = two_gibibytes(name);
        let summary = one(&Heap, &scenario, 0);
        assert_eq!(
            summary.verdict(&scenario),
            Verdict::Pass,
            "{:?} {:?}",
            summary.failures,
            summary.vacuous(&scenario)
        );
        tell(name, &summary);
        let wire = summary.measures.get("compared-wire-ppm").expect("a copy was compared").0;
        assert!(wire <= 1_100_000, "{name}: {wire} ppm");
    }
}

/// Behind the shipped transport and codecs.
#[test]
fn the_shipped_transport_does_the_same() {
    let scenario = scenario("files-far", text("files-far"));
    let summary = one(&Turmoil, &scenario, 0);
    assert_eq!(summary.verdict(&scenario), Verdict::Pass, "{:?} {:?}", summary.failures, summary.vacuous(&scenario));
    tell("files-far in turmoil", &summary);
}

/// What costs more than it may is found by what it costs.
#[test]
fn what_is_told_too_finely_or_too_soon_is_found() {
    for (mutant, by) in [(Mutant::SumsSkipped, "files-compared-cheaply"), (Mutant::PaceIgnored, "files-compared-soon")]
    {
        let mut scenario = scenario("files-far", text("files-far"));
        scenario.mutant = Some(mutant);
        let summary = one(&Heap, &scenario, 0);
        let found: Vec<&str> = summary.failures.values().map(|violation| violation.checker).collect();
        assert_eq!(found, [by], "{mutant:?}");
    }
}
