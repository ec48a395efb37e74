//! A lock between processes that outlives any of them: the word names the process that holds it.

use core::sync::atomic::{AtomicU32, Ordering};

use super::sys;

const WAITED_FOR: u32 = 1 << 31;
/// How often a word is looked at before its holder is waited for.
const SPINS: u32 = 200;
/// How long it sleeps at most before it looks again, in milliseconds.
const LOOK: u32 = 1;

/// 0 while free, else the holder's process, with a bit that says that others wait.
#[repr(C)]
pub(super) struct Lock(AtomicU32);

/// How a lock was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// From nobody.
    Free,
    /// From a process that ended while it held the lock: what it guards may be half done.
    Dead,
}

/// A lock that is held, until dropped.
pub(super) struct Held<'a> {
    lock: &'a Lock,
    pub(super) got: Got,
}

impl Lock {
    /// Takes the lock for process `own`; `None` if its living holder kept it for `limit_ms`.
    #[inline]
    pub(super) fn take(&self, own: u32, limit_ms: u32) -> Option<Held<'_>> {
        if self.0.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Some(Held { lock: self, got: Got::Free });
        }
        self.wait(own, limit_ms)
    }

    #[cold]
    fn wait(&self, own: u32, limit_ms: u32) -> Option<Held<'_>> {
        for _ in 0..SPINS {
            core::hint::spin_loop();
            if self.0.load(Ordering::Relaxed) == 0
                && self.0.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some(Held { lock: self, got: Got::Free });
            }
        }
        let until = sys::now() + u64::from(limit_ms) * 1_000_000;
        loop {
            let word = self.0.load(Ordering::Relaxed);
            // Whoever has waited leaves the bit: it cannot know whether it was the last.
            if word & !WAITED_FOR == 0 {
                if self.0.compare_exchange(word, own | WAITED_FOR, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Some(Held { lock: self, got: Got::Free });
                }
                continue;
            }
            if word & WAITED_FOR == 0
                && self.0.compare_exchange(word, word | WAITED_FOR, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            sys::futex_wait(&self.0, word | WAITED_FOR, LOOK);
            let still = self.0.load(Ordering::Relaxed);
            if still == word | WAITED_FOR {
                if sys::ended(word & !WAITED_FOR, None)
                    && self.0.compare_exchange(still, own | WAITED_FOR, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return Some(Held { lock: self, got: Got::Dead });
                }
                if sys::now() > until {
                    return None;
                }
            }
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // A plain store costs a third of an exchange. Who sets its bit between the look and the store is not woken: it looks by itself again.
        if self.lock.0.load(Ordering::Relaxed) & WAITED_FOR == 0 {
            return self.lock.0.store(0, Ordering::Release);
        }
        if self.lock.0.swap(0, Ordering::Release) & WAITED_FOR != 0 {
            sys::futex_wake(&self.lock.0, 1);
        }
    }
}
