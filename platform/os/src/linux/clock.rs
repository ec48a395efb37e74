//! The clock that leases are counted on.

use std::time::Duration;

/// Nanoseconds since the machine started, sleep included: `CLOCK_BOOTTIME`, the one that the kernel's receive path reads too.
#[must_use]
pub fn boot() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds since the machine started without its sleep: what service managers count in.
#[must_use]
pub fn monotonic() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call; both clocks exist since Linux 2.6.39, so that the call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    let whole = u64::try_from(now.tv_sec).unwrap_or_default();
    whole * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// How long until a time of [`boot`]; zero if it is over.
#[must_use]
pub fn left(until: u64) -> Duration {
    Duration::from_nanos(until.saturating_sub(boot()))
}

/// Hour, minute and second of a time since 1970 in this machine's zone.
#[must_use]
pub fn local_time(seconds: u64) -> (u64, u64, u64) {
    let seconds = libc::time_t::try_from(seconds).unwrap_or_default();
    // SAFETY: a structure of integers and a pointer that may be null: zeroes are a value of it.
    let mut day: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both outlive the call, which writes into the second and keeps neither.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut day) };
    let number = |part: i32| u64::try_from(part).unwrap_or_default();
    (number(day.tm_hour), number(day.tm_min), number(day.tm_sec))
}
