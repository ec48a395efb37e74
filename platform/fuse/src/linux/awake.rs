//! Idle processors stay awake while requests come fast.
//!
//! A request over the ring is served on the program's processor. When it is answered, that processor is busy with us for a moment, so where
//! another one is idle the kernel wakes the program there, each time on the other one. That is cheap from a processor that waits for work,
//! but one that has halted takes 20 us and more to come back where a hypervisor has to bring it, and longer from a deep sleep of a
//! machine's own: more than all the rest of a request. So while there are many requests, the kernel is told that nothing may take
//! time to wake up (`/dev/cpu_dma_latency`), and idle processors poll. It is told until the device is closed, which the kernel does for
//! whoever is killed.

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A thread tells of so many requests at once.
const MANY: u32 = 64;
/// That many within this time are fast: a slower program has time to wait.
const FAST: u64 = 20_000_000;
/// Without as many for so long, processors may sleep.
const QUIET: Duration = Duration::from_millis(100);
const DEVICE: &str = "/dev/cpu_dma_latency";

/// Keeps processors awake.
#[derive(Debug)]
pub(super) struct Awake {
    began: Instant,
    /// When there were last many, in nanoseconds since it began; 0: never.
    last: AtomicU64,
    held: AtomicBool,
    over: Mutex<bool>,
    bell: Condvar,
}

/// How many a thread has served since it told.
#[derive(Debug, Default)]
pub(super) struct Served {
    many: u32,
    since: u64,
}

impl Awake {
    /// `None` where the kernel has no such device, or does not let us.
    pub(super) fn start() -> Option<Arc<Self>> {
        drop(hold()?);
        let awake = Arc::new(Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            held: AtomicBool::new(false),
            over: Mutex::default(),
            bell: Condvar::new(),
        });
        let own = Arc::clone(&awake);
        std::thread::Builder::new().name("awake".into()).spawn(move || own.keep()).ok()?;
        Some(awake)
    }

    /// A request was served.
    pub(super) fn served(&self, by: &mut Served) {
        by.many += 1;
        if by.many < MANY {
            return;
        }
        let now = self.began.elapsed().as_nanos() as u64;
        if now - by.since < FAST {
            self.last.store(now, Relaxed);
            if !self.held.load(Relaxed) {
                self.bell.notify_one();
            }
        }
        *by = Served { many: 0, since: now };
    }

    /// Whether processors are kept awake now.
    #[cfg(test)]
    fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    pub(super) fn end(&self) {
        *self.over.lock().expect("no thread ends while it holds it") = true;
        self.bell.notify_one();
    }

    fn keep(&self) {
        let mut over = self.over.lock().expect("no thread ends while it holds it");
        let mut seen = 0;
        while !*over {
            let last = self.last.load(Relaxed);
            if last == seen {
                // A ring that comes before this waits is made up for by the next one.
                self.held.store(false, Relaxed);
                over = self.bell.wait(over).expect("no thread ends while it holds it");
                continue;
            }
            let held = hold();
            self.held.store(true, Relaxed);
            seen = last;
            while !*over {
                over = self.bell.wait_timeout(over, QUIET).expect("no thread ends while it holds it").0;
                let last = self.last.load(Relaxed);
                if last == seen {
                    break;
                }
                seen = last;
            }
            drop(held);
        }
    }
}

/// No time to wake up, until it is closed.
fn hold() -> Option<File> {
    let mut device = File::options().write(true).open(DEVICE).ok()?;
    device.write_all(&0i32.to_ne_bytes()).ok()?;
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_kept_awake_while_requests_come_fast() {
        let Some(awake) = Awake::start() else {
            println!("SKIPPED: {DEVICE} cannot be written");
            return;
        };
        let mut by = Served::default();
        (1..MANY).for_each(|_| awake.served(&mut by));
        assert_eq!(awake.last.load(Relaxed), 0, "too few");
        while !awake.is_held() {
            awake.served(&mut by);
        }
        // Nobody asks any more.
        while awake.is_held() {
            std::thread::yield_now();
        }
        awake.end();
    }
}
