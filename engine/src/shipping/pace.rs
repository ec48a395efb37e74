//! How long an answer takes, so that what is on its way over a long line is not sent twice.

use serde::{Deserialize, Serialize};

use super::group::AGAIN;
use crate::time::Micros;

/// After so long something is sent again however often that was in vain.
const MOST: Micros = Micros::from_secs(5);

/// An estimate of round trips, after RFC 6298 §2, in integers. What is sent again bears another number, or is not counted (Karn's rule).
#[derive(Clone, Copy, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Pace {
    smooth: Micros,
    var: Micros,
    known: bool,
    /// How often in a row something was sent again.
    vain: u8,
}

impl Pace {
    /// Folds one round trip in (gains 1/8 and 1/4).
    pub(super) fn observe(&mut self, took: Micros) {
        self.vain = 0;
        if !self.known {
            (self.smooth, self.var, self.known) = (took, took.scale(1, 2), true);
            return;
        }
        let error = Micros(self.smooth.0.abs_diff(took.0));
        self.var = self.var.scale(3, 4) + error.scale(1, 4);
        self.smooth = self.smooth.scale(7, 8) + took.scale(1, 8);
    }

    /// When something without an answer is sent again: twice as late each time in vain (rule 5.5). Not before four round trips: what is on
    /// its way already may fill the line for as long as that.
    pub(super) fn again(&self) -> Micros {
        let known = (self.smooth + self.var.scale(4, 1)).max(self.smooth.scale(4, 1)).max(AGAIN);
        let first = if self.known { known } else { AGAIN.scale(3, 1) };
        first.scale(1 << self.vain.min(4), 1).min(MOST.max(first))
    }

    /// Something of what is waited for came, whenever it was sent.
    pub(super) const fn went_on(&mut self) {
        self.vain = 0;
    }

    /// Something is sent again.
    pub(super) fn in_vain(&mut self) {
        self.vain = self.vain.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_long_line_and_longer_each_time_in_vain() {
        let mut pace = Pace::default();
        assert_eq!(pace.again(), Micros::from_millis(450));
        for _ in 0..50 {
            pace.observe(Micros::from_millis(400));
        }
        assert_eq!(pace.again(), Micros::from_millis(1_600));
        let first = pace.again();
        pace.in_vain();
        assert_eq!(pace.again(), first.scale(2, 1));
        for _ in 0..300 {
            pace.in_vain();
        }
        assert_eq!(pace.again(), MOST);
        pace.observe(Micros::from_millis(1));
        for _ in 0..90 {
            pace.observe(Micros::from_millis(1));
        }
        assert_eq!(pace.again(), AGAIN, "never sooner");
    }
}
