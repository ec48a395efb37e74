//! A line that is written over itself, on a terminal only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use apus_sim::runner::{Batch, Progress};

use crate::print::{columns, over, short};

/// Where a run of several scenarios stands.
pub(crate) struct Place<'a> {
    /// The scenario that runs now.
    pub name: &'a str,
    /// Its number, from 1, and how many there are.
    pub at: (usize, usize),
    /// When the whole run began, and how long it may take.
    pub began: Instant,
    pub budget: Option<Duration>,
    /// Kinds of faults that had an effect in earlier scenarios.
    pub kinds: [u64; 2],
}

/// Does the work, and shows how it goes on.
pub(crate) fn show<T>(place: &Place<'_>, batch: &Batch, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if columns().is_none() {
        return work();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let painter = scope.spawn(|| {
            let began = Instant::now();
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(150));
                over(&line(place, batch, progress, began.elapsed()));
            }
            over("");
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        painter.thread().unpark();
        result
    })
}

fn line(place: &Place<'_>, batch: &Batch, progress: &Progress, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let seeds = progress.seeds.load(Ordering::Relaxed);
    let all = (batch.to - batch.from).div_ceil(batch.shard.1.max(1));
    let events = progress.events.load(Ordering::Relaxed) as f64 / seconds;
    let years = progress.node_seconds.load(Ordering::Relaxed) as f64 / 31_557_600.0;
    let kinds = [0, 1].map(|half| progress.kinds[half].load(Ordering::Relaxed) | place.kinds[half]);
    let kinds: u32 = kinds.iter().map(|half| half.count_ones()).sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small and positive")]
    let rate = short(events as u64);
    format!(
        "[{}/{}] {}  {seeds}/{all} seeds  {rate} events/s  {years:.3} node years  {kinds} fault kinds  ETA {}",
        place.at.0,
        place.at.1,
        place.name,
        eta(place, batch, seeds, all, elapsed)
    )
}

/// Until this scenario's seeds are done or the budget of the whole run is over, whichever comes first.
fn eta(place: &Place<'_>, batch: &Batch, seeds: u64, all: u64, elapsed: Duration) -> String {
    let by_seeds = (seeds > 0).then(|| elapsed.mul_f64(all.saturating_sub(seeds) as f64 / seeds as f64));
    let left = batch.budget.map(|budget| budget.saturating_sub(elapsed));
    let here = by_seeds.into_iter().chain(left).min();
    let whole = place.budget.map(|budget| budget.saturating_sub(place.began.elapsed()));
    let here = if place.at.0 < place.at.1 { whole.or(here) } else { here };
    here.map_or_else(
        || "-:--".into(),
        |left| {
            let seconds = left.as_secs();
            if seconds >= 3_600 {
                format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
            } else {
                format!("{}:{:02}", seconds / 60, seconds % 60)
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_everything() {
        let place = Place { name: "healthy", at: (2, 5), began: Instant::now(), budget: None, kinds: [0b101, 0b1] };
        let batch = Batch { to: 400, shard: (1, 4), ..Batch::default() };
        let progress = Progress::default();
        progress.seeds.store(50, Ordering::Relaxed);
        progress.events.store(2_000_000, Ordering::Relaxed);
        progress.node_seconds.store(31_557_600, Ordering::Relaxed);
        progress.kinds[0].store(0b11, Ordering::Relaxed);
        assert_eq!(
            line(&place, &batch, &progress, Duration::from_secs(2)),
            "[2/5] healthy  50/100 seeds  1.00 M events/s  1.000 node years  4 fault kinds  ETA 0:02"
        );
    }
}
