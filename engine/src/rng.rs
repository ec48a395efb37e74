//! Randomness: one seed, one labelled stream per use.

use core::convert::Infallible;

use rand_core::TryRng;
use serde::{Deserialize, Serialize};

use crate::hash::{Hash128, mix};

/// What a run is drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator for one use. A new draw in one stream moves no other stream.
    #[must_use]
    pub fn stream(self, label: &str) -> Rng {
        Rng { key: self.derive(label).0, counter: 0 }
    }

    /// A seed for a part of the run, such as one node.
    #[must_use]
    pub fn derive(self, label: &str) -> Self {
        let mut hash = Hash128::new(self.0);
        hash.bytes(label.as_bytes());
        Self(hash.finish64())
    }

    /// A seed for the `n`th of many like parts.
    #[must_use]
    pub const fn nth(self, n: u64) -> Self {
        let mut hash = Hash128::new(self.0);
        hash.word(n);
        Self(hash.finish64())
    }
}

/// A counter-based generator: value `i` is a function of the stream's key and `i` alone.
///
/// Two rounds of `SplitMix64`'s finaliser over a Weyl sequence. Small, fixed for ever, the same on every host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rng {
    key: u64,
    counter: u64,
}

/// A probability as an exact ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ratio {
    /// How often it hits …
    pub hit: u32,
    /// … in this many trials.
    pub of: u32,
}

impl Ratio {
    /// Never.
    pub const NEVER: Self = Self { hit: 0, of: 1 };
}

impl Rng {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "not an iterator: it has no end")]
    pub const fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(mix(self.key.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15))) ^ self.key)
    }

    /// A number below `bound`, and zero for a zero bound. Bias is below 2⁻⁶⁴ · `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// A number in `low..=high`; `low` when the range is empty.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next(),
        }
    }

    /// Whether an event of this probability happens.
    pub const fn hit(&mut self, ratio: Ratio) -> bool {
        ratio.hit != 0 && self.below(ratio.of as u64) < ratio.hit as u64
    }
}

impl TryRng for Rng {
    type Error = Infallible;

    #[allow(clippy::cast_possible_truncation, reason = "the low half is asked for")]
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
