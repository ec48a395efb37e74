//! A node's monotonic clock: its own origin, its own rate, and jumps.

use apus_engine::Time;

use crate::fault::Ns;

const MILLION: i64 = 1_000_000;

/// Maps true time to local time and back.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    from: Ns,
    local_ns: i64,
    /// Rate of a healthy clock against true time.
    base_ppm: i64,
    ppm: i64,
}

impl Clock {
    /// A clock that shows `origin` at true time `now`.
    pub(super) fn new(now: Ns, origin: Ns, base_ppm: i64) -> Self {
        Self { from: now, local_ns: origin.cast_signed(), base_ppm, ppm: base_ppm }
    }

    /// Exact in 64 bits for a day of true time at any rate that a scenario can ask for.
    const fn local_ns(&self, now: Ns) -> i64 {
        let passed = now.cast_signed() - self.from.cast_signed();
        self.local_ns + passed + (passed * self.ppm).div_euclid(MILLION)
    }

    /// What it shows.
    pub(super) fn read(&self, now: Ns) -> Time {
        Time((self.local_ns(now) / 1_000).max(0).cast_unsigned())
    }

    /// The first instant at which it shows `time` or more; at least `now`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of true time")]
    pub(super) fn when(&self, now: Ns, time: Time) -> Ns {
        if time == Time::NEVER {
            return Ns::MAX;
        }
        let rate = MILLION + self.ppm;
        let near = time.0.checked_mul(1_000).and_then(|local| local.checked_signed_diff(self.local_ns.cast_unsigned()));
        let passed = match near.and_then(|missing| missing.checked_mul(MILLION)?.checked_add(rate - 1)) {
            Some(scaled) => i128::from(scaled.div_euclid(rate)),
            None => {
                let missing = i128::from(time.0) * 1_000 - i128::from(self.local_ns);
                (missing * i128::from(MILLION) + i128::from(rate) - 1).div_euclid(rate.into())
            }
        };
        (i128::from(self.from) + passed).clamp(i128::from(now), i128::from(Ns::MAX)) as Ns
    }

    fn rebase(&mut self, now: Ns) {
        self.local_ns = self.local_ns(now);
        self.from = now;
    }

    /// Runs at another rate from now on, relative to its healthy one.
    pub(super) fn set_rate(&mut self, now: Ns, more_ppm: i64) {
        self.rebase(now);
        self.ppm = more_ppm;
    }

    /// Runs at its healthy rate from now on.
    pub(super) fn heal(&mut self, now: Ns) {
        let base = self.base_ppm;
        self.set_rate(now, base);
    }

    /// Jumps.
    pub(super) fn jump(&mut self, now: Ns, by: i64) {
        self.rebase(now);
        self.local_ns += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_instant_that_reads_so() {
        for ppm in [-500, -1, 0, 1, 500] {
            let clock = Clock::new(7, 1_000_000_007, ppm);
            for time in [1_000_001, 1_234_567, 99_999_999].map(Time) {
                let at = clock.when(0, time);
                assert!(clock.read(at) >= time && clock.read(at - 1) < time, "{ppm} ppm, {time:?}");
            }
        }
    }
}
