//! What the loop and a group's thread share.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use apus_capture::linux::Capture;
use apus_engine::shipping::Work;
use apus_engine::{FileId, Time};

/// How the mount over a group's tree is.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounting {
    /// Who serves it; 0: nobody.
    pub(super) process: u32,
    /// How often it had to be put there again.
    pub(super) again: u64,
    /// What keeps it from being there.
    pub(super) trouble: Option<String>,
}

/// An opening by a program that is not captured.
#[derive(Clone, Debug)]
pub(super) struct Stranger {
    pub(super) process: u32,
    pub(super) program: String,
    pub(super) path: String,
    pub(super) allowed: bool,
    /// When it was so last, and when it was last told, by the clock of the machine's start.
    pub(super) at: Time,
    pub(super) told: Time,
    /// How often it was so.
    pub(super) times: u64,
}

/// How a group's thread stands, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// What keeps it from its disk.
    pub(super) trouble: Option<String>,
    /// Of the copy.
    pub(super) store: Option<apus_files::Status>,
    /// Files whose paths somebody asks for, and what they are: nothing for one that has none.
    pub(super) wanted: Vec<FileId>,
    pub(super) paths: BTreeMap<FileId, Option<String>>,
    /// Openings by programs without the library: refused, and let through.
    pub(super) strangers: (u64, u64),
    /// The last of them.
    pub(super) stranger: Option<Stranger>,
    /// Where there is to be one.
    pub(super) mount: Option<Mounting>,
}

#[derive(Default)]
struct Inside {
    works: VecDeque<Work>,
    /// Something was captured.
    captured: bool,
    ring: Option<Arc<Capture>>,
    state: State,
}

/// Orders on their way to a group's thread, and the ring of its programs.
pub(super) struct Queue {
    pub(super) ring: PathBuf,
    inside: Mutex<Inside>,
    bell: Condvar,
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
            over: AtomicBool::new(false),
            lease: AtomicU64::new(0),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The loop's.

    pub(super) fn post(&self, work: Work) {
        self.inside().works.push_back(work);
        self.bell.notify_one();
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        // Not between its look and its wait.
        drop(self.inside());
        self.bell.notify_one();
    }

    pub(super) fn lease(&self, until: u64) {
        self.lease.store(until, Ordering::SeqCst);
        if let Some(ring) = &self.inside().ring {
            ring.lease(until);
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

    /// Something was captured.
    pub(super) fn wake(&self) {
        self.inside().captured = true;
        self.bell.notify_one();
    }

    /// Waits for something, and gives all orders that there are.
    pub(super) fn take(&self) -> Vec<Work> {
        let mut inside = self.inside();
        while inside.works.is_empty() && !inside.captured && !self.is_over() {
            inside = self.bell.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside.captured = false;
        std::mem::take(&mut inside.works).into()
    }

    /// Programs record there from now on, or nowhere.
    pub(super) fn set_ring(&self, ring: Option<Arc<Capture>>) {
        let mut inside = self.inside();
        let lease = self.lease.load(Ordering::SeqCst);
        if let Some(ring) = &ring
            && lease > 0
        {
            // A daemon that has just begun knows of none: that of the one before holds for the program that it left.
            ring.lease(lease);
        }
        inside.ring = ring;
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inside().state);
    }
}
