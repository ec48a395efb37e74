//! How fast: from a kill to the report, from a start to ready.

use std::time::Instant;

use apus_os::linux::clock;
use apus_os::program::{Report, Spec};

use crate::client::{Copy, Link, Process};

/// So many of each.
pub(crate) struct Times {
    /// From the kill of a program to the report of its end, in microseconds.
    pub(crate) seen: Vec<u64>,
    /// From the kill to the report that the next one is ready.
    pub(crate) again: Vec<u64>,
}

/// Kills a trivial program again and again.
pub(crate) fn measure(trials: usize) -> Times {
    let (_copy, mut link) = Copy::kept("times");
    let spec = Spec {
        name: "sleep".into(),
        command: vec!["/bin/sleep".into(), "1000".into()],
        stop_signal: 15,
        log_bytes: 65_536,
        log_files: 1,
        ..Spec::default()
    };
    let mut times = Times { seen: Vec::new(), again: Vec::new() };
    let mut pid = start(&mut link, &spec);
    for _ in 0..trials {
        let program = Process::open(pid).expect("it runs");
        let at = Instant::now();
        let killed = clock::boot();
        program.signal(libc::SIGKILL);
        let end = link.wait(|report| match report {
            Report::Ended(end) => Some(*end),
            _ => None,
        });
        let heard = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        assert!(end.at >= killed);
        times.seen.push(heard);
        pid = start(&mut link, &spec);
        times.again.push(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    times.seen.sort_unstable();
    times.again.sort_unstable();
    times
}

fn start(link: &mut Link, spec: &Spec) -> u32 {
    let pid = link.began(spec.clone());
    link.ready();
    pid
}

/// The value that so many per mille are not above.
pub(crate) fn at(sorted: &[u64], per_mille: usize) -> u64 {
    sorted[(sorted.len() * per_mille).div_ceil(1_000).clamp(1, sorted.len()) - 1]
}

pub(crate) fn table(trials: usize) {
    let times = measure(trials);
    println!("| {trials} kills of a trivial program, µs | p50 | p99 | most |\n|---|---|---|---|");
    for (name, values) in [("end seen and told", &times.seen), ("next one ready", &times.again)] {
        println!("| {name} | {} | {} | {} |", at(values, 500), at(values, 990), at(values, 1_000));
    }
}
