//! What a host does for a group of files, and what it tells: the engine opens no file.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::history::Base;
use super::page::{Mends, Page, Place, Stretch};
use super::record::Change;
use crate::ids::{Epoch, GroupId, Lsn, OpId};

/// One thing to do with a group's files or log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Of which group.
    pub group: GroupId,
    /// What.
    pub work: Work,
}

/// What to do. Orders of one group are carried out in order, as far as a later one relies on an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Work {
    /// Tell what the disk holds, by [`Happening::Found`], and from then on what is captured.
    Find,
    /// Keep durably that eras below are refused.
    Promise {
        /// Answer with this.
        op: OpId,
        /// The era.
        era: Epoch,
    },
    /// Put records behind the log's end and make them durable. If that fails nothing of them may be found later.
    Append {
        /// Answer with this.
        op: OpId,
        /// The log that is being built beside files that are compared.
        staged: bool,
        /// Whole records, as encoded, one behind the other.
        records: Vec<u8>,
        /// Once they are durable, captured changes up to this one need not be kept any more.
        captured: u64,
    },
    /// Read records from the log; answered by [`Answer::Records`] or [`Answer::Gone`].
    Read {
        /// Answer with this.
        op: OpId,
        /// The first.
        from: Lsn,
        /// Bytes at most, but one record at least.
        most: u32,
    },
    /// Records up to the base may go.
    Trim {
        /// What the log begins after from now on.
        base: Base,
    },
    /// Apply records from the log to the published files, in order, up to this one.
    Apply {
        /// Answer with this.
        op: OpId,
        /// The last one.
        upto: Lsn,
    },
    /// Make the published files durable; a restart then has to apply only what comes after `at`.
    Checkpoint {
        /// Answer with this.
        op: OpId,
        /// All changes up to here are in the files.
        at: Lsn,
    },
    /// Keep durably that a program may change the files from now on, and capture what it does.
    Open {
        /// Answer with this.
        op: OpId,
        /// The era.
        era: Epoch,
    },
    /// No program changes the files any more; answer when the last captured change was told.
    Close {
        /// Answer with this.
        op: OpId,
    },
    /// Programs that wait for captured barriers up to this one may go on.
    Release {
        /// The number of the barrier.
        captured: u64,
    },
    /// Begin a second tree, as like the published one as is cheap, and an empty staged log beside it.
    Shadow {
        /// Answer with this.
        op: OpId,
        /// What the staged log begins after.
        base: Base,
    },
    /// Tell what is in stretches of a tree, or in the first of them; answered by [`Answer::Page`].
    Digest {
        /// Answer with this.
        op: OpId,
        /// The second tree, not the published one.
        shadow: bool,
        /// What hashes are made with.
        salt: u64,
        /// How fine.
        depth: u8,
        /// Which, in order.
        stretches: Vec<Stretch>,
    },
    /// Compare stretches of another tree with the published files; answered by [`Answer::Mends`].
    Compare {
        /// Answer with this.
        op: OpId,
        /// The other tree's.
        page: Page,
        /// What lies before is done.
        from: Place,
    },
    /// Mend a stretch of the second tree.
    Mend {
        /// Answer with this.
        op: OpId,
        /// How.
        mends: Mends,
    },
    /// Apply records of the staged log to the second tree, those after `from` up to `upto`.
    Fold {
        /// Answer with this.
        op: OpId,
        /// Records up to here are in it.
        from: Lsn,
        /// The last one.
        upto: Lsn,
        /// Records of the staged log up to here may go, once that is done.
        base: Option<Base>,
    },
    /// Apply the staged log to the second tree up to its end; then both take the place of the published files and the log, at once and durably.
    Switch {
        /// Answer with this.
        op: OpId,
        /// The staged log's end.
        upto: Lsn,
    },
    /// Save what this node wrote and the others do not have: the records from here on, what was captured and not logged, and the
    /// files as they are.
    Orphans {
        /// Answer with this.
        op: OpId,
        /// The first record that is saved.
        from: Lsn,
    },
}

/// What a host tells of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Happening {
    /// What the disk holds. Nothing is done with a group before.
    Found(Found),
    /// A program changed files, in this order. Numbers grow by one from change to change, also over a restart of the host's process.
    Captured(Vec<Captured>),
    /// Changes happened that were not captured.
    Missed,
    /// An order is done.
    Done {
        /// Which.
        op: OpId,
        /// How it went.
        answer: Answer,
    },
}

/// A captured change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Captured {
    /// Its number.
    pub number: u64,
    /// What.
    pub change: Change,
}

/// What a start finds of a group. All of it is durable by then, also what an earlier process had only written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Found {
    /// Nothing is there, and what was there is lost.
    pub blank: bool,
    /// The promised era.
    pub promised: Epoch,
    /// What the log begins after.
    pub base: Base,
    /// The log's records after it, headers only, in order: their position, check, and era if they begin one.
    pub log: super::history::History,
    /// Bytes of the log.
    pub bytes: u64,
    /// Records up to here are in the files for sure; later ones may be, in part.
    pub applied: Lsn,
    /// The era in which a program may still be changing the files, or did until the machine failed.
    pub open: Option<Epoch>,
    /// Changes of that era may be in the files and neither in the log nor captured.
    pub torn: bool,
    /// The last captured change that is in the log.
    pub captured: u64,
    /// The last captured change; those that are not in the log are told next.
    pub written: u64,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// It is done, and durable where that was asked for.
    Done,
    /// The disk is full: nothing was done.
    Full,
    /// The disk failed: nothing of it will be found.
    Failed,
    /// The records asked for are no longer there.
    Gone,
    /// Records, as encoded, one behind the other.
    Records(Vec<u8>),
    /// What is in stretches.
    Page(Page),
    /// What differs, looked at when all captured changes up to `captured` were in the files.
    Mends {
        /// What mends it.
        mends: Mends,
        /// The last captured change.
        captured: u64,
    },
}
