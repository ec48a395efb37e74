//! A node's durable state as the world keeps it.

use apus_engine::{Durable, OpId, Outcome, Record};

use super::outside::Files;

/// What a power failure does to writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PowerLoss {
    /// All are gone.
    LoseAll,
    /// A prefix is there.
    Prefix(u64),
}

/// Records on a disk: what is synced, and what is on its way.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    synced: Durable,
    pending: Vec<(OpId, Record)>,
    /// How many of `pending` the running sync covers.
    in_sync: usize,
    /// Damaged so that the next start refuses it.
    pub(super) damaged: bool,
    /// Bytes, where a shell outside writes them; the records above are idle then.
    pub(super) files: Files,
}

impl Storage {
    /// A formatted disk, or a blank one.
    pub(super) fn new(formatted: bool) -> Self {
        let synced = if formatted { Durable::formatted() } else { Durable::default() };
        Self { synced, pending: Vec::new(), in_sync: 0, damaged: false, files: Files::new(formatted) }
    }

    /// What a start finds; `None`: the disk is damaged and refused.
    pub(super) fn open(&mut self) -> Option<Durable> {
        self.flush();
        (!self.damaged).then(|| self.synced.clone())
    }

    /// Takes a record; true if a sync has to be started for it.
    pub(super) fn append(&mut self, op: OpId, record: Record) -> bool {
        self.pending.push((op, record));
        if self.in_sync > 0 {
            return false;
        }
        self.in_sync = self.pending.len();
        true
    }

    /// The running sync is done: the finished operations, and whether the next sync has to be started.
    pub(super) fn synced(&mut self) -> (Vec<(OpId, Outcome)>, bool) {
        let mut done = Vec::with_capacity(self.in_sync);
        for (op, record) in self.pending.drain(..self.in_sync) {
            self.synced.replay(record);
            done.push((op, Outcome::Ok));
        }
        self.in_sync = self.pending.len();
        (done, self.in_sync > 0)
    }

    /// The process is gone but the machine runs on: what was written gets to the disk.
    pub(super) fn flush(&mut self) {
        self.in_sync = self.pending.len();
        self.synced();
        self.files.flush();
    }

    /// Power fails; true if a write was lost.
    pub(super) fn power_off(&mut self, loss: PowerLoss) -> bool {
        let keep = match loss {
            PowerLoss::LoseAll => 0,
            PowerLoss::Prefix(draw) => (draw % (self.pending.len() as u64 + 1)) as usize,
        };
        let lost = keep < self.pending.len() || self.files.power_off(loss);
        self.pending.truncate(keep);
        self.flush();
        lost
    }
}
