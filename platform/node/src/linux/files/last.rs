//! The end of a capture: programs have ended, and what they left is taken before their files are closed.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use apus_capture::{Drained, Drainer};
use apus_files::Feed;

/// A ring of which so long nothing more can be taken is given up, once its programs have ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const NAP: Duration = Duration::from_millis(1);

const RUNS: u8 = 0;
const ENDED: u8 = 1;
const TAKEN: u8 = 2;
const LOST: u8 = 3;

/// How far the end has come. The group's thread says that programs have ended, and the drainer's what came of it.
#[derive(Debug, Default)]
pub(super) struct Last(AtomicU8);

impl Last {
    pub(super) fn programs_ended(&self) {
        let _ = self.0.compare_exchange(RUNS, ENDED, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst) == ENDED
    }

    pub(super) fn came(&self, all: bool) {
        self.0.store(if all { TAKEN } else { LOST }, Ordering::SeqCst);
    }

    /// Whether all was taken; `None`: it is not known yet.
    pub(super) fn all(&self) -> Option<bool> {
        match self.0.load(Ordering::SeqCst) {
            TAKEN => Some(true),
            LOST => Some(false),
            _ => None,
        }
    }
}

/// Takes what is in the ring by now, and what mapped files hold. `false`: it cannot be taken to its end.
pub(super) fn take(drainer: &mut Drainer, feed: &mut Feed, stop: &AtomicBool, mut told: impl FnMut(&str)) -> bool {
    let end = drainer.capture().status().next;
    let mut went = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        match drainer.drain(feed) {
            Ok(drained) => {
                let in_order = |drainer: &Drainer| drainer.capture().status().reasons.in_order();
                if in_order(drainer) && (drained == Drained::Idle || feed.taken() + 1 >= end) {
                    match drainer.look_last(feed) {
                        Ok(()) if in_order(drainer) => return true,
                        Ok(()) => {}
                        Err(error) => told(&error.to_string()),
                    }
                } else if (drained == Drained::Some || feed.is_full()) && in_order(drainer) {
                    // Who has no room waits for the log, as the end of the files does.
                    went = Instant::now();
                }
            }
            Err(error) => told(&error.to_string()),
        }
        if went.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(NAP);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_wanted_once_and_known_afterwards() {
        let last = Last::default();
        assert!(!last.is_wanted() && last.all().is_none());
        last.programs_ended();
        assert!(last.is_wanted() && last.all().is_none());
        last.came(false);
        last.programs_ended();
        assert!(!last.is_wanted() && last.all() == Some(false));
    }
}
