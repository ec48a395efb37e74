//! One group's copy.

use std::path::{Path, PathBuf};

use apus_engine::shipping::{Answer, Found, Happening, Work};
use apus_engine::{Epoch, Lsn, OpId};

use super::feed::Feed;
use super::settings::{Settings, StoreError};

/// Where a copy stands, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The promised era.
    pub promised: Epoch,
    /// The era in which a program may be changing the files.
    pub open: Option<Epoch>,
    /// Nothing is there, and what was there is lost.
    pub blank: bool,
    /// The files are not what the log leads to.
    pub torn: bool,
    /// What the log begins after.
    pub base: Lsn,
    /// The log's last record.
    pub end: Lsn,
    /// Bytes of the log's records.
    pub bytes: u64,
    /// Records up to here are in the published files.
    pub applied: Lsn,
    /// Of those, records up to here survive a power failure in the files themselves.
    pub checkpoint: Lsn,
    /// While files are compared: the second log's last record.
    pub staged: Option<Lsn>,
    /// The last captured change, and the last one that is durable in the log.
    pub captured: (u64, u64),
    /// Files, and names of them.
    pub files: (u64, u64),
    /// What was saved of histories that no other copy has.
    pub orphans: Vec<Saved>,
}

/// What was saved of a history that no other copy has. Only people remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The folder; `manifest.txt` in it can be read by people.
    pub path: PathBuf,
    /// The last era of that history.
    pub era: Epoch,
    /// The first record that was saved.
    pub from: Lsn,
    /// The last one; before `from` if there is none.
    pub upto: Lsn,
    /// Files that were saved whole.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One group's copy on this machine, with its state folder locked. Owned by one thread; what it does, it waits for.
pub struct Store {
    settings: Settings,
}

impl Store {
    /// Opens the copy, or makes a blank one: locks its folder, recovers log and marks, ends a switch that was begun.
    ///
    /// # Errors
    /// The folders do not fit, are used, or cannot be read. Damage is no error: the copy then counts as blank or torn, the damaged file is
    /// kept aside, and [`alarms`](Self::alarms) tells it.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        Ok(Self { settings })
    }

    /// The era in which a program may be changing the files, or did until the machine failed.
    #[must_use]
    pub fn open_era(&self) -> Option<Epoch> {
        None
    }

    /// Begins to take what is captured by the ring at `ring`, or goes on with it after a restart. `wake` is called, from the thread of the
    /// drainer, when [`happened`](Self::happened) has something new.
    ///
    /// # Errors
    /// The ring is of another tree, or cannot be opened.
    pub fn feed(&mut self, ring: &Path, wake: Box<dyn Fn() + Send>) -> Result<Feed, StoreError> {
        drop(wake);
        Err(StoreError::Unfit(ring.to_path_buf(), String::new()))
    }

    /// What the disk holds; all of it is durable then. With a feed: once all is taken that lies in the ring by now.
    ///
    /// # Errors
    /// What is there cannot be made durable.
    pub fn found(&mut self) -> Result<Found, StoreError> {
        Err(StoreError::Unfit(self.settings.state.clone(), String::new()))
    }

    /// Does it. `None`: there is no answer (`Find`, `Trim`, `Release`), or it comes by [`happened`](Self::happened). Never panics; a full
    /// disk is [`Answer::Full`], other trouble [`Answer::Failed`], and [`alarms`](Self::alarms) tells why.
    pub fn perform(&mut self, work: &Work) -> Option<(OpId, Answer)> {
        let _ = work;
        None
    }

    /// The same for what has waited: appends that follow each other are made durable at once.
    pub fn perform_all(&mut self, works: Vec<Work>) -> Vec<(OpId, Answer)> {
        works.iter().filter_map(|work| self.perform(work)).collect()
    }

    /// What is to be told to the engine since the last call, in order: captured changes, changes that were missed, and answers that had to
    /// wait for them. Nothing before [`found`](Self::found).
    pub fn happened(&mut self) -> Vec<Happening> {
        Vec::new()
    }

    /// The record of the ring up to which programs that wait for their files may go on.
    #[must_use]
    pub fn released(&self) -> Option<u64> {
        None
    }

    /// What a person should know since the last call: damage, what a file system refused, names that were in the way.
    pub fn alarms(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Where the copy stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// What was saved of histories that no other copy has.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn orphans(&self) -> Result<Vec<Saved>, StoreError> {
        Ok(Vec::new())
    }
}
