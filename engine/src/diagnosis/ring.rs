//! Who tests whom: K rings over the members, derived from their number alone, so nothing has to be agreed or stored.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::hash::mix;

/// Ring k leads from rank r to rank r + offset k, modulo the number of members.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Rings {
    pub(super) len: usize,
    pub(super) offsets: Vec<usize>,
}

const fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Rings {
    /// At most `many` rings over `len` members. Offsets are prime to `len` while there are such, so that each ring is one
    /// cycle, and far from 1, so that machines that fail together are not neighbours.
    pub(super) fn new(len: usize, many: usize) -> Self {
        let mut offsets = Vec::new();
        let span = len.saturating_sub(1) as u64;
        let mut draw = 0_u64;
        for strict in [true, false] {
            for _ in 0..64 {
                if offsets.len() >= many.min(len.saturating_sub(1)) {
                    break;
                }
                draw += 1;
                let offset = 1 + usize::try_from(mix(draw ^ (len as u64) << 32) % span.max(1)).unwrap_or(0);
                if !offsets.contains(&offset) && (!strict || gcd(offset, len) == 1) {
                    offsets.push(offset);
                }
            }
        }
        let mut next = 1;
        while offsets.len() < many.min(len.saturating_sub(1)) {
            if !offsets.contains(&next) {
                offsets.push(next);
            }
            next += 1;
        }
        Self { len, offsets }
    }

    /// The rank `steps` behind `rank` in ring `ring`.
    pub(super) fn ahead(&self, rank: usize, ring: usize, steps: usize) -> usize {
        (rank + self.offsets[ring] * steps) % self.len
    }

    /// The rank `steps` before `rank` in ring `ring`; with one step, who tests it if nobody is down.
    pub(super) fn behind(&self, rank: usize, ring: usize, steps: usize) -> usize {
        (rank + self.len - self.offsets[ring] * steps % self.len) % self.len
    }

    /// Where news goes at once: predecessors in all rings, and chords of doubling length backwards.
    pub(super) fn spread(&self, rank: usize, chords: bool) -> Vec<usize> {
        let mut to = Vec::new();
        if self.len < 2 {
            return to;
        }
        let mut add = |other: usize| {
            if other != rank && !to.contains(&other) {
                to.push(other);
            }
        };
        if !chords {
            add(self.behind(rank, 0, 1));
            return to;
        }
        for ring in 0..self.offsets.len() {
            add(self.behind(rank, ring, 1));
        }
        let mut chord = 1;
        while chord < self.len {
            add((rank + self.len - chord) % self.len);
            chord *= 2;
        }
        to
    }
}
