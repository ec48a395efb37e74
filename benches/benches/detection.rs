//! One crash, who knows when: `cargo bench -p apus-benches --bench detection [-- [quiet] NODES SEEDS]`.
//!
//! Ours and foca on the same network (0.1 to 0.3 ms, 1 % lost) with the same crash; `quiet`: without one, for wrong verdicts.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "a bench, of at most 65,536 nodes")]

use apus_benches::detection::{Row, Script, lan, ours, swift, theirs};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes = match numbers[..] {
        [nodes, seeds, ..] => vec![(nodes as u16, seeds)],
        [nodes] => vec![(nodes as u16, 5)],
        [] => vec![(10, 200), (100, 40), (1_000, 5)],
    };
    let quiet = words.iter().any(|word| word == "quiet");
    println!("{}", Row::HEAD);
    for (nodes, seeds) in sizes {
        let script = if quiet { Script::quiet(nodes, seeds) } else { Script::new(nodes, seeds) };
        println!("{}", ours("apus, 1 s", &script));
        println!("{}", ours("apus, 1.3 s", &Script { period: 1_300, ..script }));
        if !quiet {
            println!("{}", theirs("foca, LAN", &script, &lan(nodes)));
            println!("{}", theirs("foca, swift", &script, &swift(nodes)));
        }
    }
}
