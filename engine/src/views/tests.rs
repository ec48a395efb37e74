//! Lease arithmetic against exact fractions, for any clocks within the drift.

use super::leader::{left, outlasts};
use crate::rng::Seed;
use crate::time::Micros;

const MILLION: u128 = 1_000_000;

#[test]
fn no_lease_outlives_the_wait_whatever_the_clocks() {
    let mut rng = Seed(1).stream("leases");
    for _ in 0..100_000 {
        let lease = Micros(rng.between(1_000, 60_000_000));
        let age = Micros(rng.below(lease.0));
        let rho = rng.below(100_001);
        let ppm = u32::try_from(rho).unwrap_or(0);
        // Rates of both clocks, in clock microseconds per million true ones.
        let holder = u128::from(rng.between(1_000_000 - rho, 1_000_000 + rho));
        let leader = u128::from(rng.between(1_000_000 - rho, 1_000_000 + rho));
        let (kept, waited) = (u128::from(left(lease, age, ppm).0), u128::from(outlasts(lease, ppm).0));
        // kept / holder ≤ waited / leader, of true time, even for a renewal of age zero.
        let whole = u128::from(left(lease, Micros::ZERO, ppm).0);
        assert!(
            whole * leader <= waited * holder,
            "lease {lease:?}, drift {ppm}: {whole} at {holder}, {waited} at {leader}"
        );
        assert!(kept <= whole && kept <= u128::from((lease - age).0));
    }
}

#[test]
fn the_wait_and_what_is_left_are_as_long_as_the_rules_say() {
    let mut rng = Seed(2).stream("leases");
    for _ in 0..100_000 {
        let lease = rng.between(1_000, 60_000_000);
        let age = rng.below(lease);
        let rho = rng.below(100_001);
        let ppm = u32::try_from(rho).unwrap_or(0);
        let (l, r) = (u128::from(lease), u128::from(rho));
        let wait = u128::from(outlasts(Micros(lease), ppm).0);
        // L(1 + 2ρ/(1−ρ)) = L(1+ρ)/(1−ρ); at most one microsecond more.
        assert!(wait * (MILLION - r) >= l * (MILLION + r) && (wait - 1) * (MILLION - r) <= l * (MILLION + r));
        let left = u128::from(left(Micros(lease), Micros(age), ppm).0);
        let exact = u128::from(lease - age) * (MILLION - r);
        assert!(left * MILLION <= exact && exact < (left + 1) * MILLION);
    }
}
