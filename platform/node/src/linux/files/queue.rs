//! What the loop and a group's thread share.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use apus_capture::linux::Capture;
use apus_engine::shipping::Work;

/// How a group's thread stands, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// What keeps it from its disk.
    pub(super) trouble: Option<String>,
    /// Programs are being captured.
    pub(super) captures: bool,
    /// Programs without the library that were refused, or let through.
    pub(super) strangers: u64,
    /// Saved updates that nobody has removed.
    pub(super) orphans: u64,
}

#[derive(Default)]
struct Inside {
    works: VecDeque<Work>,
    ring: Option<Arc<Capture>>,
    /// Barriers that were told: their number, and that of the ring's record.
    barriers: VecDeque<(u64, u64)>,
    state: State,
}

/// Orders on their way to a group's thread, and the ring of its programs.
pub(super) struct Queue {
    pub(super) ring: PathBuf,
    inside: Mutex<Inside>,
    bell: Condvar,
    posted: AtomicBool,
    over: AtomicBool,
    /// Boot clock, nanoseconds.
    lease: AtomicU64,
}

impl Queue {
    pub(super) fn new(ring: PathBuf) -> Self {
        Self {
            ring,
            inside: Mutex::default(),
            bell: Condvar::new(),
            posted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            lease: AtomicU64::new(0),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The loop's.

    pub(super) fn post(&self, work: Work) {
        let ring = {
            let mut inside = self.inside();
            inside.works.push_back(work);
            self.posted.store(true, Ordering::SeqCst);
            inside.ring.clone()
        };
        self.bell.notify_one();
        if let Some(ring) = ring {
            ring.rouse();
        }
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        let ring = self.inside().ring.clone();
        self.bell.notify_one();
        if let Some(ring) = ring {
            ring.rouse();
        }
    }

    pub(super) fn lease(&self, until: u64) {
        self.lease.store(until, Ordering::SeqCst);
        if let Some(ring) = &self.inside().ring {
            ring.lease(until);
        }
    }

    /// Programs that wait for barriers up to this one may go on.
    pub(super) fn release(&self, captured: u64) {
        let mut inside = self.inside();
        let mut record = None;
        while let Some((_, at)) = inside.barriers.pop_front_if(|(number, _)| *number <= captured) {
            record = Some(at);
        }
        if let (Some(record), Some(ring)) = (record, &inside.ring) {
            ring.release(record);
        }
    }

    pub(super) fn state(&self) -> State {
        self.inside().state.clone()
    }

    pub(super) fn captured(&self) -> Option<Arc<Capture>> {
        self.inside().ring.clone()
    }

    // The thread's.

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn is_posted(&self) -> bool {
        self.posted.load(Ordering::SeqCst) || self.is_over()
    }

    /// All that is to be done; waits for something if `patient`.
    pub(super) fn take(&self, patient: bool) -> VecDeque<Work> {
        let mut inside = self.inside();
        while patient && inside.works.is_empty() && !self.is_over() {
            inside = self.bell.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        self.posted.store(false, Ordering::SeqCst);
        std::mem::take(&mut inside.works)
    }

    /// Programs record there from now on, or nowhere.
    pub(super) fn set_ring(&self, ring: Option<Arc<Capture>>) {
        if let Some(ring) = &ring {
            ring.lease(self.lease.load(Ordering::SeqCst));
        }
        let mut inside = self.inside();
        if ring.is_none() {
            inside.barriers.clear();
        }
        inside.ring = ring;
    }

    /// A program waits for this one.
    pub(super) fn barrier(&self, number: u64, record: u64) {
        self.inside().barriers.push_back((number, record));
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inside().state);
    }
}
