//! The machine's clocks, in microseconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// The clock that captured frames are stamped by.
pub(crate) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The clock that nodes and programs tell by.
pub(crate) fn boot_us() -> u64 {
    apus_os::linux::clock::boot() / 1_000
}
