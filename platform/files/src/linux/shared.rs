//! What a store and its feed share: changes that have numbers and are not in the log yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use apus_engine::FileId;
use apus_engine::shipping::{Captured, Change, Happening};

use super::index::Index;
use super::marks::Seat;

/// Bytes that a captured change takes besides those of a file, about: itself, its place and its step.
const ONE: usize = 256;

/// What store and feed share.
pub(super) struct Shared {
    /// As of the last number.
    pub(super) index: Index,
    /// As of the log's end, while a feed is there.
    pub(super) durable: Index,
    /// What lies between both.
    pub(super) steps: VecDeque<(u64, Step)>,
    pub(super) queue: Vec<Happening>,
    /// The last number that was given.
    pub(super) captured: u64,
    /// How far the log has it durably.
    pub(super) logged: Seat,
    /// Of each change that is not in the log: number, record of the ring, how many of that record there are up to it, and its bytes here.
    pub(super) seats: VecDeque<(u64, u64, u32, u32)>,
    /// The bytes of all of these.
    pub(super) waiting: u64,
    /// Records of the ring that were handed over in full, with the last number by then.
    pub(super) passed: VecDeque<(u64, u64)>,
    /// The last of those whose changes the log has.
    pub(super) kept: u64,
    /// All of the ring was taken up to this record.
    pub(super) taken: u64,
    /// Somebody waits until all was taken up to this one.
    pub(super) awaited: Option<u64>,
    /// Names were taken from a listing: until the log has this number and the index is written down, the ring has to tell again.
    pub(super) unsettled: Option<(u64, u64)>,
    /// The index must be written down.
    pub(super) changed: bool,
    /// Barriers that somebody may wait for: number, record of the ring.
    pub(super) barriers: VecDeque<(u64, u64)>,
    pub(super) told: Vec<String>,
    /// Which feed is taken; what an earlier one still hands over is not.
    pub(super) feed: u64,
    /// None is.
    pub(super) over: bool,
}

/// What a number does to the index.
pub(super) enum Step {
    Change(Change),
    Listed(Box<Index>),
}

impl Shared {
    pub(super) fn new(index: Index, logged: Seat) -> Self {
        Self {
            durable: Index::default(),
            steps: VecDeque::new(),
            index,
            queue: Vec::new(),
            captured: logged.captured,
            logged,
            seats: VecDeque::new(),
            waiting: 0,
            passed: VecDeque::new(),
            kept: 0,
            taken: 0,
            awaited: None,
            unsettled: None,
            changed: false,
            barriers: VecDeque::new(),
            told: Vec::new(),
            feed: 0,
            over: true,
        }
    }

    /// Nothing is taken any more: the last number is the last one.
    pub(super) const fn end(&mut self) {
        self.feed += 1;
        self.over = true;
    }

    /// Where in the ring a number came from.
    pub(super) fn seat(&self, captured: u64, ring: u64) -> Option<Seat> {
        let first = self.seats.front()?.0;
        let at = usize::try_from(captured.checked_sub(first)?).ok()?;
        let &(number, seq, part, _) = self.seats.get(at)?;
        (number == captured).then_some(Seat { captured, ring, seq, part })
    }

    /// The log has all up to here.
    pub(super) fn logged(&mut self, seat: Seat) {
        self.logged = seat;
        while let Some((.., bytes)) = self.seats.front().filter(|(number, ..)| *number <= seat.captured) {
            self.waiting -= u64::from(*bytes);
            self.seats.pop_front();
        }
        while self.steps.front().is_some_and(|(number, _)| *number <= seat.captured) {
            match self.steps.pop_front() {
                Some((_, Step::Change(change))) => drop(self.durable.change(&change)),
                Some((_, Step::Listed(index))) => {
                    self.durable = *index;
                    self.changed = true;
                }
                None => {}
            }
        }
        self.settle();
    }

    /// The index as of the log's end, with all that is known of its files by now.
    pub(super) fn at_log_end(&mut self) -> &Index {
        let missing: Vec<FileId> = self.durable.without_handle().collect();
        for file in missing {
            let handle = self.index.node(file).and_then(|node| node.handle.clone());
            if handle.is_some() {
                self.durable.set_handle(file, handle);
            }
        }
        &self.durable
    }

    /// What need not be told again.
    pub(super) fn settle(&mut self) {
        while let Some((seq, _)) = self.passed.front().copied().filter(|(_, last)| *last <= self.logged.captured) {
            self.kept = seq;
            self.passed.pop_front();
        }
        if self.unsettled.is_some_and(|(number, _)| number <= self.logged.captured) && !self.changed {
            self.unsettled = None;
        }
    }

    /// A ring begins, or is gone on with, after this record.
    pub(super) fn begin(&mut self, ring: u64, shipped: u64) {
        self.seats.clear();
        self.waiting = 0;
        self.passed.clear();
        self.steps.clear();
        self.durable = self.index.clone();
        (self.kept, self.taken, self.unsettled) = (shipped, shipped, None);
        self.feed += 1;
        self.over = false;
        self.captured = self.logged.captured;
        self.barriers.clear();
        // Whom the daemon before would have let go on. A new ring counts from one: of its records the log has none.
        let seq = if self.logged.ring == ring { self.logged.seq } else { 0 };
        self.barriers.push_back((self.logged.captured, seq));
    }

    pub(super) fn push(&mut self, change: Change, seq: u64, part: u32) {
        self.captured += 1;
        match &change {
            // Of bytes only how many there are matters to the index.
            Change::Write { file, .. } | Change::Append { file, .. } => {
                let length = self.index.node(*file).map_or(0, |node| node.size);
                self.steps.push_back((self.captured, Step::Change(Change::Truncate { file: *file, length })));
            }
            Change::Punch { .. } | Change::Attributes { .. } | Change::SetXattr { .. } | Change::RemoveXattr { .. } => {
            }
            Change::Barrier { .. } | Change::Era { .. } => {}
            names => self.steps.push_back((self.captured, Step::Change(names.clone()))),
        }
        let captured = Captured { number: self.captured, change };
        if matches!(captured.change, Change::Barrier { .. }) {
            self.barriers.push_back((self.captured, seq));
        }
        let bytes = match &captured.change {
            Change::Write { bytes, .. } | Change::Append { bytes, .. } => bytes.len(),
            Change::SetXattr { name, value, .. } => name.len() + value.len(),
            _ => 0,
        };
        let bytes = u32::try_from(bytes + ONE).unwrap_or(u32::MAX);
        self.waiting += u64::from(bytes);
        self.seats.push_back((self.captured, seq, part, bytes));
        match self.queue.last_mut() {
            Some(Happening::Captured(run)) => run.push(captured),
            _ => self.queue.push(Happening::Captured(vec![captured])),
        }
    }
}

/// Locks what is shared; a thread that ended in the middle of a change of it has left what was numbered, and no more.
pub(super) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
