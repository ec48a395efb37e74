//! One crash, who knows when: `cargo bench -p apus-benches --bench detection [-- [quiet] [NAME…] NODES SEEDS [FIRST]]`.
//!
//! Ours and foca on the same network (0.1 to 0.3 ms, 1 % lost) with the same crash; `quiet`: without one, for wrong verdicts.
//! Names choose contenders: `apus-1s`, `apus-1.3s`, `foca-lan`, `foca-swift`.
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
    let asked = |name: &str| words.iter().any(|word| word == name);
    let quiet = asked("quiet");
    let known = ["apus-1s", "apus-1.3s", "foca-lan", "foca-swift"];
    let named = known.into_iter().any(asked);
    println!("{}", Row::HEAD);
    for (nodes, seeds) in sizes {
        let script = if quiet { Script::quiet(nodes, seeds) } else { Script::new(nodes, seeds) };
        let script = Script { first: numbers.get(2).copied().unwrap_or(0), ..script };
        for name in known.into_iter().filter(|name| !named || asked(name)) {
            let row = match name {
                "apus-1s" => ours(name, &script),
                "apus-1.3s" => ours(name, &Script { period: 1_300, ..script }),
                // Without a crash there is nothing to compare.
                _ if quiet => continue,
                "foca-lan" => theirs(name, &script, &lan(nodes)),
                _ => theirs(name, &script, &swift(nodes)),
            };
            println!("{row}");
        }
    }
}
