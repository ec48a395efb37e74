//! The clock that leases are counted on.

use std::time::Duration;

/// Nanoseconds since the machine started, sleep included: `CLOCK_BOOTTIME`, the one that the kernel's receive path reads too.
#[must_use]
pub fn boot() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call; the clock exists since Linux 2.6.39, so that the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let whole = u64::try_from(now.tv_sec).unwrap_or_default();
    whole * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// How long until a time of [`boot`]; zero if it is over.
#[must_use]
pub fn left(until: u64) -> Duration {
    Duration::from_nanos(until.saturating_sub(boot()))
}
