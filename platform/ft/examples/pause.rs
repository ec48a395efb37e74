//! How long a checkpoint holds a program up, beside ways that others take, in the same run: `cargo run --release --example pause`.
//!
//! For each size and number of written pages: the library's checkpoint; a copy of the whole arena (libft of 1998); and pages found by
//! hashes. A checkpoint every 2 ms or less often. Medians and 99th percentiles of so many rounds, and how many times as long the others take.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn main() {
    linux::main();
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn main() {
    println!("SKIPPED: this needs 64-bit Linux");
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux {
    use std::time::{Duration, Instant};

    use apus_ft::{Config, Ft, Tracking};

    const PAGE: usize = 4096;

    /// Medians and 99th percentiles, in microseconds.
    struct Spread(f64, f64);

    fn spread(mut all: Vec<Duration>) -> Spread {
        all.sort_unstable();
        let at = |share: usize| all[(all.len() - 1) * share / 100].as_secs_f64() * 1e6;
        Spread(at(50), at(99))
    }

    /// Writes `dirty` pages, far from each other, in another order each round.
    fn write(arena: &mut [u8], dirty: usize, round: usize) {
        let pages = arena.len() / PAGE;
        for at in 0..dirty {
            let page = (at * (pages / dirty) + round * 7) % pages;
            arena[page * PAGE + round % PAGE] = arena[page * PAGE + round % PAGE].wrapping_add(1);
        }
    }

    fn library(bytes: usize, dirty: usize, rounds: usize, tracking: Tracking) -> (Spread, Spread) {
        let config = Config { capacity: bytes + PAGE, layout: Some("pause".into()), tracking, ..Config::new("pause") };
        let mut ft = Ft::init(config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ft.tracking(), tracking, "this kernel has no such way");
        let mut arena = ft.arena("all", bytes).unwrap_or_else(|error| panic!("{error}"));
        // All of it is in use, as it would be.
        arena.as_mut_slice().iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        let (mut pauses, mut writes) = (Vec::new(), Vec::new());
        for round in 0..rounds + 20 {
            // As far apart as checkpoints are in use; back to back, each would meet the thread that folds the one before.
            std::thread::sleep(Duration::from_millis(2));
            let began = Instant::now();
            write(arena.as_mut_slice(), dirty, round);
            let wrote = began.elapsed();
            let made = ft.checkpoint().unwrap_or_else(|error| panic!("{error}"));
            if round >= 20 {
                assert_eq!(made.pages, dirty);
                pauses.push(made.pause);
                writes.push(wrote / u32::try_from(dirty).unwrap_or(1));
            }
        }
        (spread(pauses), spread(writes))
    }

    fn whole(bytes: usize, dirty: usize, rounds: usize) -> Spread {
        let mut arena = vec![1_u8; bytes];
        let mut kept = vec![0_u8; bytes];
        let mut pauses = Vec::new();
        for round in 0..rounds {
            write(&mut arena, dirty, round);
            let began = Instant::now();
            kept.copy_from_slice(std::hint::black_box(&arena));
            pauses.push(began.elapsed());
        }
        spread(pauses)
    }

    pub(super) fn main() {
        println!(
            "{:>8} {:>6}  {:>22}  {:>12}  {:>22}  {:>22}",
            "arena", "dirty", "checkpoint us p50/p99", "write us", "whole copy", "hashed"
        );
        for (bytes, dirty, rounds) in
            [(1 << 20, 10, 4_000), (16 << 20, 100, 1_000), (100 << 20, 100, 600), (100 << 20, 1_000, 200)]
        {
            let (own, first) = library(bytes, dirty, rounds, Tracking::Protected);
            let copy = whole(bytes, dirty, rounds.min(200));
            let (hashed, _) = library(bytes, dirty, 20.min(rounds), Tracking::Hashed);
            let beside = |other: &Spread| format!("{:>9.0} ({:>6.1} x)", other.0, other.0 / own.0);
            println!(
                "{:>5} MB {dirty:>6}  {:>10.1} / {:>9.1}  {:>12.2}  {:>22}  {:>22}",
                bytes >> 20,
                own.0,
                own.1,
                first.0,
                beside(&copy),
                beside(&hashed)
            );
        }
    }
}
