//! Medians of paired rounds, and how sure they are.

/// How often rounds are drawn anew for an interval.
const DRAWS: usize = 1000;

/// A median, and the middle 95 % of the medians of rounds that are drawn anew from those there were (percentile bootstrap, Efron 1979).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5 % of the drawn medians lie below.
    pub low: f64,
    /// Of what was measured.
    pub median: f64,
    /// 2.5 % of the drawn medians lie above.
    pub high: f64,
}

impl Interval {
    /// Of these figures. The same figures give the same interval.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(figures: &[f64]) -> Self {
        let mut draw = Draw(figures.len() as u64);
        let mut medians: Vec<f64> = (0..DRAWS)
            .map(|_| {
                let again: Vec<f64> = figures
                    .iter()
                    .map(|_| figures[usize::try_from(draw.below(figures.len() as u64)).unwrap_or(0)])
                    .collect();
                median(&again)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        Self { low: medians[DRAWS / 40], median: median(figures), high: medians[DRAWS - 1 - DRAWS / 40] }
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:.3} [{:.3}, {:.3}]", self.median, self.low, self.high)
    }
}

/// The middle one, or the middle of the two.
///
/// # Panics
/// If there are none.
pub fn median(figures: &[f64]) -> f64 {
    assert!(!figures.is_empty(), "a median of nothing");
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

/// Numbers that look drawn, from a seed (`SplitMix64`).
#[derive(Clone, Copy, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The next one.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        let mut draw = Draw(1);
        let figures: Vec<f64> = (0..400).map(|_| 1.0 + draw.below(1000) as f64 / 10_000.0).collect();
        let (few, many) = (Interval::of(&figures[..10]), Interval::of(&figures));
        for interval in [few, many] {
            assert!(interval.low <= interval.median && interval.median <= interval.high, "{interval:?}");
        }
        assert!(many.high - many.low < few.high - few.low, "{few:?} {many:?}");
        assert!((many.median - 1.05).abs() < 0.01, "{many:?}");
        // One round that was disturbed moves a mean, and no median of rounds.
        let mut disturbed = figures.clone();
        disturbed[7] = 50.0;
        assert!((Interval::of(&disturbed).median - many.median).abs() < 0.01);
    }
}
