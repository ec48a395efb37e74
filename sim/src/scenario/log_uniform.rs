//! Log-uniform draws with integers only: each order of magnitude is alike likely.

use apus_engine::Rng;

/// Fraction bits of a logarithm.
const BITS: u32 = 16;

/// 2^(2^-k) for k = 1 to 16, with 63 fraction bits: square roots of square roots.
const ROOTS: [u128; BITS as usize] = {
    let mut roots = [0; BITS as usize];
    let mut last: u128 = 2 << 63;
    let mut at = 0;
    while at < roots.len() {
        last = (last << 63).isqrt();
        roots[at] = last;
        at += 1;
    }
    roots
};

/// The binary logarithm with 16 fraction bits, rounded down. `value` is at least 1.
fn log2(value: u64) -> u64 {
    let whole = value.ilog2();
    let mut mantissa = u128::from(value) << (63 - whole);
    let mut out = u64::from(whole);
    for _ in 0..BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        out = out << 1 | u64::from(bit == 1);
    }
    out
}

/// The power of two of a number with 16 fraction bits, rounded down.
fn exp2(power: u64) -> u64 {
    let mut out: u128 = 1 << 63;
    for (at, root) in ROOTS.iter().enumerate() {
        if power >> (BITS as usize - 1 - at) & 1 == 1 {
            out = (out * root) >> 63;
        }
    }
    let whole = power >> BITS;
    if whole > 63 { u64::MAX } else { u64::try_from(out >> (63 - whole)).unwrap_or(u64::MAX) }
}

/// A number in `low..=high`, uniform in its logarithm; `low` when the range is empty. Zero counts as one unless it is all there is.
pub(super) fn log_uniform(rng: &mut Rng, low: u64, high: u64) -> u64 {
    if high <= low {
        return low;
    }
    let least = low.max(1);
    exp2(rng.between(log2(least), log2(high.saturating_add(1)))).clamp(least, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_engine::Seed;

    #[test]
    fn logarithms_and_powers_fit_together() {
        for value in [1, 2, 3, 10, 1_000, 123_456_789, 1 << 40, u64::MAX / 3] {
            let back = exp2(log2(value));
            assert!(back <= value && value - back <= value / 40_000 + 1, "{value} {back}");
        }
        assert_eq!(log2(8), 3 << BITS);
        assert_eq!(exp2(10 << BITS), 1_024);
    }

    #[test]
    fn decades_are_alike_likely() {
        let mut rng = Seed(1).stream("test");
        let mut decades = [0_u32; 4];
        for _ in 0..40_000 {
            let value = log_uniform(&mut rng, 100, 1_000_000);
            assert!((100..=1_000_000).contains(&value));
            decades[(value.ilog10() - 2).min(3) as usize] += 1;
        }
        assert!(decades.iter().all(|many| (9_500..10_500).contains(many)), "{decades:?}");
    }

    #[test]
    fn the_ends_are_kept() {
        let mut rng = Seed(2).stream("test");
        assert_eq!(log_uniform(&mut rng, 7, 7), 7);
        assert_eq!(log_uniform(&mut rng, 0, 0), 0);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| log_uniform(&mut rng, 1, 3)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
