//! Programs that wait: who has a file put on the disk goes on once copies elsewhere hold it too, if the group is run so.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::busy::Busy;
use super::capture::{Capture, Stale};
use super::files::Bound;
use super::layout::{Kind, NONE, state};
use super::ring::Say;
use super::sys;

/// Between two looks at a lease that may end, in milliseconds.
const LOOK: u32 = 20;

/// What a program has put on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file of the group.
    File(Bound),
    /// All that was done so far: names belong to no file.
    Names,
}

/// What a program waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The record that has to be released; `None`: one is made once the order is kept again.
    record: Option<u64>,
    /// How often the order had been lost by then: a record from before may be gone.
    lost: u64,
}

impl Capture {
    /// Has programs wait from now on, or no longer.
    pub fn wait_for_release(&self, wait: bool) {
        self.shared.awaits.store(u32::from(wait), SeqCst);
        self.stir();
    }

    /// Whether who has a file put on the disk waits.
    pub fn awaits(&self) -> bool {
        self.shared.awaits.load(Relaxed) != 0
    }

    /// Until when programs may change the files: nanoseconds of the boot clock. Who waits longer is told of a failure (`EIO`).
    pub fn lease(&self, until: u64) {
        self.shared.lease.store(until, Release);
        self.stir();
    }

    /// Who waits for records up to this one may go on.
    pub fn release(&self, record: u64) {
        if self.shared.released.fetch_max(record, SeqCst) < record {
            self.stir();
        }
    }

    fn stir(&self) {
        self.shared.releases.fetch_add(1, SeqCst);
        sys::futex_wake(&self.shared.releases, u32::MAX >> 1);
    }

    /// Ends the drainer's sleep: somebody waits for it.
    pub fn rouse(&self) {
        self.shared.hurry.fetch_add(1, SeqCst);
        sys::futex_wake(&self.shared.hurry, 1);
        self.wake();
    }

    /// A file is about to be put on the disk, by a program that may wait.
    ///
    /// # Errors
    /// The file's place in the table was given away: it must be looked up anew, since what was written is not known to be elsewhere.
    pub fn mark(&self, target: Target) -> Result<Mark, Stale> {
        // Before the record: an order that is lost in between is seen.
        let lost = self.shared.lost.load(SeqCst);
        Ok(Mark { record: self.synced(target)?, lost })
    }

    /// The number of the record, if there is one: the order may be lost, or the file without a name.
    fn synced(&self, target: Target) -> Result<Option<u64>, Stale> {
        if !self.reasons().in_order() {
            return Ok(None);
        }
        let Some(_busy) = Busy::enter() else { return Ok(None) };
        let (index, id) = match target {
            Target::Names => (NONE, 0),
            Target::File(bound) => {
                let file = self.file(bound.index);
                if file.generation.load(Relaxed) != bound.generation {
                    return Err(Stale);
                }
                if file.dead.load(Relaxed) != 0 {
                    return Ok(None);
                }
                (bound.index, file.id.load(Relaxed))
            }
        };
        // Nothing to wait for and nothing destroyed: one record, complete at once.
        let slot = self.reserve(Say::of(Kind::Sync, index, id), state::DONE);
        if slot.is_none() {
            self.full();
        }
        Ok(slot.map(|slot| slot.seq))
    }

    /// Waits until what was marked is released; `false`: the lease ended before. A program that handles a signal in the middle of a
    /// change of its own cannot make a record: it is told of a failure too.
    ///
    /// # Errors
    /// A record must be made again, and the file looked up anew for it.
    pub fn wait_released(&self, target: Target, mut mark: Mark) -> Result<bool, Stale> {
        self.rouse();
        loop {
            let word = self.shared.releases.load(Acquire);
            if mark.record.is_some_and(|record| self.shared.released.load(SeqCst) >= record) || !self.awaits() {
                return Ok(true);
            }
            let in_order = self.reasons().in_order();
            if in_order && mark.record.is_none() && self.is_gone(target) {
                // Nobody has it put on any disk: it has no name any more.
                return Ok(true);
            }
            if sys::boot() >= self.shared.lease.load(Acquire) {
                return Ok(false);
            }
            if Busy::enter().is_none() {
                // A handler of a signal: what it interrupted holds a lock, and would do so for as long as this waits. The order may be
                // lost by what the handler wrote itself, and cannot be kept again before that lock is let go.
                return Ok(false);
            }
            if in_order && (mark.record.is_none() || self.shared.lost.load(SeqCst) != mark.lost) {
                mark = self.mark(target)?;
                self.rouse();
                if mark.record.is_some() {
                    continue;
                }
            }
            sys::futex_wait(&self.shared.releases, word, if in_order { LOOK } else { 2 });
        }
    }

    /// Whether the file has no name any more. That of a file that had the place before or after it says nothing.
    fn is_gone(&self, target: Target) -> bool {
        let Target::File(bound) = target else { return false };
        let file = self.file(bound.index);
        file.dead.load(Acquire) != 0 && file.generation.load(Relaxed) == bound.generation
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::SeqCst;

    use super::super::{Capture, Consumer, Drainer, Group, Operation, sys};
    use super::{Busy, Mark, Target};

    /// Takes all.
    struct Takes;

    impl Consumer for Takes {
        fn take(&mut self, _: &Operation<'_>) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A group with one file that a program knows.
    fn group(name: &str) -> (std::path::PathBuf, Capture, super::Bound) {
        let dir = std::env::temp_dir().join(format!("apus-wait-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).expect("a folder");
        std::fs::write(dir.join("root/a"), "a").expect("a file");
        let capture = Group::new(dir.join("root"), &["*"]).create(&dir.join("ring")).expect("a ring");
        let file = std::fs::File::open(dir.join("root/a")).expect("it is there");
        let super::super::Class::File(bound) = capture.classify(std::os::fd::AsRawFd::as_raw_fd(&file)) else {
            panic!("it belongs to the group")
        };
        (dir, capture, bound)
    }

    fn settle(dir: &std::path::Path) -> Drainer {
        let mut drainer = Drainer::open(&dir.join("ring")).expect("nobody drains it");
        while drainer.drain(&mut Takes).expect("it takes all") != super::super::Drained::Idle {}
        drainer
    }

    #[test]
    fn a_program_waits_until_its_record_is_released_or_the_lease_ends() {
        let (dir, capture, bound) = group("release");
        let _drainer = settle(&dir);
        capture.wait_for_release(true);
        capture.lease(u64::MAX);
        let mark = capture.mark(Target::File(bound)).expect("it has its place");
        let record = mark.record.expect("the order is kept");
        let went = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let done = capture.wait_released(Target::File(bound), mark);
                went.store(true, SeqCst);
                done
            });
            capture.release(record - 1);
            assert!(!went.load(SeqCst), "the one before does not do");
            capture.release(record);
            assert_eq!(waits.join().expect("it ends"), Ok(true));
        });
        capture.lease(sys::boot());
        let late = capture.mark(Target::File(bound)).expect("it has its place");
        assert_eq!(capture.wait_released(Target::File(bound), late), Ok(false), "its time is over");
        assert_eq!(capture.wait_released(Target::File(bound), mark), Ok(true), "that was released while it was not");
        capture.wait_for_release(false);
        assert_eq!(capture.wait_released(Target::File(bound), late), Ok(true), "nobody waits any more");
        std::fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_file_whose_place_was_given_away_is_not_gone() {
        let (dir, capture, bound) = group("swept");
        let _drainer = settle(&dir);
        capture.wait_for_release(true);
        capture.lease(u64::MAX);
        let unmarked = Mark { record: None, lost: 0 };
        capture.evict(bound.index);
        assert_eq!(capture.mark(Target::File(bound)), Err(super::Stale));
        assert_eq!(capture.wait_released(Target::File(bound), unmarked), Err(super::Stale));
        std::fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn who_may_not_enter_leaves_what_it_found() {
        let outer = Busy::enter();
        assert!(outer.is_some());
        assert!(Busy::enter().is_none() && Busy::enter().is_none());
        drop(outer);
        assert!(Busy::enter().is_some());
    }

    #[test]
    fn a_handler_in_the_middle_of_a_change_is_told_of_a_failure_whatever_it_wrote() {
        let (dir, capture, bound) = group("handler");
        let mut drainer = settle(&dir);
        capture.wait_for_release(true);
        capture.lease(u64::MAX);
        let fd = std::os::fd::AsRawFd::as_raw_fd;
        let file = std::fs::File::options().write(true).open(dir.join("root/a")).expect("it is there");
        let (tell, told) = std::sync::mpsc::channel();
        let (mut went, waiting) = (None, &capture);
        std::thread::scope(|scope| {
            // What waits for ever is let go as if nobody waited any more, so that it fails instead.
            scope.spawn(move || {
                if told.recv_timeout(std::time::Duration::from_secs(60)).is_err() {
                    waiting.wait_for_release(false);
                }
            });
            let done = capture.change(bound, fd(&file), super::super::Source::At(0, 1), || {
                // The handler writes, and has what it wrote put on the disk.
                let wrote = capture.change(bound, fd(&file), super::super::Source::At(1, 1), || 1);
                assert_eq!(wrote, Ok(1));
                assert!(!capture.reasons().in_order(), "it was written without a lock");
                went =
                    Some(capture.wait_released(
                        Target::File(bound),
                        capture.mark(Target::File(bound)).expect("it has its place"),
                    ));
                1
            });
            assert_eq!(done, Ok(1));
            let _ = tell.send(());
        });
        assert_eq!(went, Some(Ok(false)));
        // What was interrupted lets go of its lock: the order is kept again.
        while drainer.drain(&mut Takes).expect("it takes all") != super::super::Drained::Idle {}
        assert!(capture.reasons().in_order());
        std::fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_record_that_went_with_the_order_is_made_again() {
        let (dir, capture, bound) = group("lost");
        capture.wait_for_release(true);
        capture.lease(u64::MAX);
        // No drainer has listed the group: there is no record yet.
        let mark = capture.mark(Target::File(bound)).expect("it has its place");
        assert_eq!(mark, Mark { record: None, lost: 1 });
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| capture.wait_released(Target::File(bound), mark));
            let mut drainer = settle(&dir);
            // The record comes after the listing.
            while !waits.is_finished() {
                drainer.drain(&mut Takes).expect("it takes all");
                capture.release(capture.status().shipped);
                std::thread::yield_now();
            }
            assert_eq!(waits.join().expect("it ends"), Ok(true));
        });
        std::fs::remove_dir_all(dir).expect("ours");
    }
}
