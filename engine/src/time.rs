//! Time as the engine sees it: a count, never a clock.

use core::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point on one node's own monotonic clock, in microseconds since that clock's origin.
///
/// Two nodes' times are not comparable: the worlds give every node its own origin and drift. A
/// host passes `now` into every call; the engine reads no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

/// A length of time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Micros(pub u64);

impl Time {
    /// Later than every time a host can reach.
    pub const NEVER: Self = Self(u64::MAX);

    /// The length from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

impl Micros {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `ms` milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// `s` seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }

    /// `self · num / den`, rounded down, saturating.
    ///
    /// # Panics
    /// If `den` is zero.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "compared before")]
    pub const fn scale(self, num: u64, den: u64) -> Self {
        assert!(den != 0, "scaled by a zero denominator");
        if let Some(scaled) = self.0.checked_mul(num) {
            return Self(scaled / den);
        }
        let wide = self.0 as u128 * num as u128 / den as u128;
        if wide > u64::MAX as u128 { Self(u64::MAX) } else { Self(wide as u64) }
    }
}

impl Add<Micros> for Time {
    type Output = Self;
    fn add(self, length: Micros) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Sub<Micros> for Time {
    type Output = Self;
    fn sub(self, length: Micros) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

impl Add for Micros {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Micros {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
