//! One crash, who knows when: `cargo bench -p apus-benches --bench detection [-- NODES SEEDS]`.
//!
//! Ours and foca on the same network (0.1 to 0.3 ms, 1 % lost) with the same crash.
#![allow(missing_docs, reason = "a bench")]

use apus_benches::detection::{Row, Script, lan, ours, swift, theirs};

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = match numbers[..] {
        [nodes, seeds, ..] => vec![(nodes as u16, seeds)],
        [nodes] => vec![(nodes as u16, 5)],
        [] => vec![(10, 200), (100, 40), (1_000, 5)],
    };
    println!("{}", Row::HEAD);
    for (nodes, seeds) in sizes {
        let script = Script::new(nodes, seeds);
        println!("{}", ours("apus", &script));
        println!("{}", theirs("foca, LAN", &script, &lan(nodes)));
        println!("{}", theirs("foca, swift", &script, &swift(nodes)));
    }
}
