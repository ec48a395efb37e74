//! Programs stay on their processors.
//!
//! A request over the ring is served on the program's own processor. When it is answered the kernel wakes the program; it finds that
//! processor busy with us, and where another one is idle it wakes the program there, whose next request is served there, and so on: each
//! request moves it. That costs 20 us a request where an idle processor has halted under a hypervisor, and made `SQLite` take 6 times as
//! long as without us instead of 2.7 (`docs/replication.md`). A processor on which nothing but `SCHED_IDLE` runs counts as idle. So while a
//! program is seen to move, the threads of its queues run behind programs instead of before them: it is the program who waits for
//! them, and they run as soon as it does.
//!
//! Behind programs they may starve, on a processor that has other work. A thread looks after them each millisecond, and lets them run before
//! programs again if one of them wants to run and does not come to it, or nothing is asked any more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::device::{first, usual};

/// So many requests are looked at together.
const MANY: u32 = 64;
/// A program moves if that many came within this time, and most of them from another processor than the one before.
const FAST: Duration = Duration::from_millis(20);
/// Between two looks at threads that run behind programs.
const TICK: Duration = Duration::from_millis(1);
/// Without a request for so many looks they run before programs again.
const QUIET: u32 = 20;
/// After one of them starved, none runs behind programs for so long; twice as long each time, until all went well for as long.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(10);

/// One thread that serves.
#[derive(Debug)]
pub(super) struct Own {
    thread: i32,
    queue: usize,
    /// Requests that it has begun to serve.
    turns: AtomicU64,
}

impl Own {
    /// Its number may be another's once it has ended.
    fn lives(&self) -> bool {
        Path::new(&format!("/proc/self/task/{}", self.thread)).exists()
    }
}

/// What a thread has seen since it last looked.
#[derive(Debug)]
pub(super) struct Seen {
    many: u32,
    moved: u32,
    since: Instant,
}

#[derive(Debug, Default)]
struct Inside {
    threads: Vec<Arc<Own>>,
    /// Queues between which a program moves.
    asked: BTreeSet<usize>,
    over: bool,
}

/// Where programs are woken.
#[derive(Debug)]
pub(super) struct Stay {
    /// Who asked last, and in which queue.
    last: AtomicU64,
    began: Instant,
    /// Before this nothing is asked for; nanoseconds since it began.
    not_before: AtomicU64,
    inside: Mutex<Inside>,
    bell: Condvar,
    /// Whether threads run before programs otherwise.
    realtime: bool,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { many: 0, moved: 0, since: Instant::now() }
    }
}

impl Stay {
    /// Looks after threads that serve, from a thread of its own until [`end`](Self::end).
    pub(super) fn start(realtime: bool) -> std::io::Result<Arc<Self>> {
        let stay = Arc::new(Self {
            last: AtomicU64::new(0),
            began: Instant::now(),
            not_before: AtomicU64::new(0),
            inside: Mutex::default(),
            bell: Condvar::new(),
            realtime,
        });
        let own = Arc::clone(&stay);
        std::thread::Builder::new().name("fuse-stay".into()).spawn(move || {
            if realtime {
                first(0);
            }
            own.watch();
        })?;
        Ok(stay)
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// This thread serves a queue from now on.
    pub(super) fn join(&self, queue: usize) -> Arc<Own> {
        // SAFETY: no memory is passed.
        let thread = unsafe { libc::gettid() };
        let own = Arc::new(Own { thread, queue, turns: AtomicU64::new(0) });
        self.inside().threads.push(Arc::clone(&own));
        own
    }

    /// A request of `asker`, a thread, has come.
    pub(super) fn comes(&self, own: &Own, seen: &mut Seen, asker: u32) {
        own.turns.store(own.turns.load(Relaxed) + 1, Relaxed);
        let now = u64::from(asker) << 16 | own.queue as u64 & 0xffff;
        let before = self.last.load(Relaxed);
        if before != now {
            self.last.store(now, Relaxed);
            seen.moved += u32::from(before >> 16 == u64::from(asker));
        }
        seen.many += 1;
        if seen.many < MANY {
            return;
        }
        if seen.moved > MANY / 2 && seen.since.elapsed() < FAST && self.now() >= self.not_before.load(Relaxed) {
            self.inside().asked.extend([own.queue, before as usize & 0xffff]);
            self.bell.notify_one();
        }
        *seen = Seen::new();
    }

    pub(super) fn end(&self) {
        self.inside().over = true;
        self.bell.notify_one();
    }

    /// How a thread runs when nothing else is asked for.
    fn restore(&self, own: &Own) {
        if !own.lives() {
            return;
        }
        if !(self.realtime && first(own.thread)) {
            usual(own.thread, libc::SCHED_OTHER);
        }
    }

    fn watch(&self) {
        let mut pause = PAUSE;
        let mut inside = self.inside();
        while !inside.over {
            if inside.asked.is_empty() {
                inside = self.bell.wait(inside).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let began = Instant::now();
            let (starved, after) = self.behind(inside);
            inside = after;
            if began.elapsed() >= pause {
                pause = PAUSE;
            }
            if starved {
                self.not_before.store(self.now() + pause.as_nanos() as u64, Relaxed);
                pause = (pause * 2).min(LONGEST);
                inside.asked.clear();
            }
        }
    }

    /// The threads of queues that are asked for run behind programs, until one of them starves, which is told, or nothing comes any more.
    fn behind<'s>(&'s self, mut inside: MutexGuard<'s, Inside>) -> (bool, MutexGuard<'s, Inside>) {
        let mut queues = BTreeSet::new();
        // Those threads, with their turns at the last look, and whether they wanted to run then.
        let mut looked: Vec<(Arc<Own>, u64, bool)> = Vec::new();
        let mut quiet = 0;
        let mut starved = false;
        while !inside.over && !starved && quiet < QUIET {
            for queue in std::mem::take(&mut inside.asked) {
                if queues.insert(queue) {
                    for own in inside.threads.iter().filter(|own| own.queue == queue && own.lives()) {
                        usual(own.thread, libc::SCHED_IDLE);
                        looked.push((Arc::clone(own), own.turns.load(Relaxed), false));
                    }
                }
            }
            inside = self.bell.wait_timeout(inside, TICK).unwrap_or_else(PoisonError::into_inner).0;
            quiet += 1;
            for (own, turns, wanted) in &mut looked {
                let now = own.turns.load(Relaxed);
                let wants = wants_to_run(own.thread);
                starved |= wants && *wanted && now == *turns;
                if now != *turns {
                    quiet = 0;
                }
                (*turns, *wanted) = (now, wants);
            }
        }
        looked.iter().for_each(|(own, ..)| self.restore(own));
        (starved, inside)
    }
}

/// Whether a thread of this process runs, or would.
fn wants_to_run(thread: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // Its name, in parentheses, may hold any of the others.
    text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn policy(thread: i32) -> i32 {
        // SAFETY: no memory is passed.
        unsafe { libc::sched_getscheduler(thread) & !libc::SCHED_RESET_ON_FORK }
    }

    fn until(what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(40);
        while !is() {
            assert!(Instant::now() < end, "it does not come to {what}");
            std::thread::yield_now();
        }
    }

    /// A thread that joins queue 1, and does what it is told.
    fn thread(stay: &Arc<Stay>) -> (Arc<Own>, std::sync::mpsc::Sender<bool>) {
        let (tell, told) = channel();
        let (say, said) = channel();
        let stay = Arc::clone(stay);
        std::thread::spawn(move || {
            say.send(stay.join(1)).expect("it is waited for");
            // Works until it is told to rest, or rests until it is told to work.
            let mut works = false;
            loop {
                match if works { told.try_recv().map_err(|_| ()) } else { told.recv().map_err(|_| ()) } {
                    Ok(now) => works = now,
                    Err(()) if works => std::hint::spin_loop(),
                    Err(()) => return,
                }
            }
        });
        (said.recv().expect("it says"), tell)
    }

    /// As many requests as are looked at, each from another processor than the one before.
    fn moving(stay: &Stay, own: &Own, other: &Own) {
        let mut seen = [Seen::new(), Seen::new()];
        for _ in 0..MANY {
            stay.comes(own, &mut seen[0], 7);
            stay.comes(other, &mut seen[1], 7);
        }
    }

    #[test]
    fn threads_run_behind_programs_while_one_moves() {
        let stay = Stay::start(false).expect("a thread");
        let (own, _works) = thread(&stay);
        let other = Own { thread: 0, queue: 2, turns: AtomicU64::new(0) };
        let mut seen = Seen::new();
        for at in 0..4 * MANY {
            // Two askers, each on its processor.
            stay.comes(if at % 2 == 0 { &own } else { &other }, &mut seen, 7 + at % 2);
        }
        assert!(stay.inside().asked.is_empty(), "nobody moves");
        until("running behind programs", || {
            moving(&stay, &own, &other);
            policy(own.thread) == libc::SCHED_IDLE
        });
        // Nothing is asked any more.
        until("running as before", || policy(own.thread) == libc::SCHED_OTHER);
        stay.end();
    }

    #[test]
    fn a_thread_that_starves_is_let_run() {
        let stay = Stay::start(false).expect("a thread");
        let (own, works) = thread(&stay);
        let other = Own { thread: 0, queue: 2, turns: AtomicU64::new(0) };
        until("running behind programs", || {
            moving(&stay, &own, &other);
            policy(own.thread) == libc::SCHED_IDLE
        });
        // It runs, and takes no request: as one that waits for a processor.
        works.send(true).expect("it is there");
        until("a pause", || {
            stay.not_before.load(Relaxed) > 0
                || policy(own.thread) != libc::SCHED_IDLE && {
                    moving(&stay, &own, &other);
                    false
                }
        });
        until("running as before", || policy(own.thread) == libc::SCHED_OTHER);
        stay.end();
    }
}
