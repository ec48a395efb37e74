//! Waiting for what must come.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Looks again and again until it is so.
pub(crate) fn until<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed() > Duration::from_secs(seconds) => {
                return Err(format!("{what}: not within {seconds} s: {error}"));
            }
            Err(_) => sleep(Duration::from_millis(25)),
        }
    }
}
