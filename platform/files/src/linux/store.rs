//! One group's copy.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apus_capture::linux::Capture;
use apus_engine::shipping::{Answer, Base, Change, Found, Happening, Record, Work};
use apus_engine::{Epoch, Lsn, OpId};

use super::adopt::adopt;
use super::digest;
use super::disk::{self, Handle};
use super::feed::{Feed, Shared, lock};
use super::index::Index;
use super::log::{Batch, Log};
use super::marks::{Marks, Ring, Seat, Switch};
use super::orphans::{self, Saved};
use super::sealed;
use super::settings::{Settings, StoreError};
use super::shadow::{Published, Second, Shadow, clear};
use super::tree::{Care, Tree};

/// What an index file begins with.
pub(super) const INDEX: [u8; 8] = *b"APUSIDX1";
/// How long a start waits for a feed that runs beside it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Alarms that are kept until somebody asks.
const ALARMS: usize = 256;

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

/// An answer that has to wait until the feed has come so far in the ring.
#[derive(Debug)]
struct Wait {
    op: OpId,
    upto: u64,
    /// What differs; `None`: programs have ended, and all was told.
    mends: Option<apus_engine::shipping::Mends>,
}

/// One group's copy on this machine, with its state folder locked. Owned by one thread; what it does, it waits for.
pub struct Store {
    pub(super) settings: Settings,
    pub(super) _lock: File,
    pub(super) marks: Marks,
    pub(super) log: Log,
    pub(super) staged: Option<(Shadow, Log)>,
    pub(super) tree: Tree,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) applied: Lsn,
    /// Up to here the files may have later changes.
    pub(super) loose: Option<Lsn>,
    pub(super) alarms: VecDeque<String>,
    /// What is drained.
    pub(super) ring: Option<Capture>,
    waits: Vec<Wait>,
    /// No program changes the files any more; it is kept so once all is in the log.
    closing: bool,
    told: bool,
    released: u64,
    pub(super) fail: Option<Fail>,
}

/// Where tests have a store end, as a kill would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
#[non_exhaustive]
pub enum Fail {
    /// Before the switch is marked.
    SwitchBuilt,
    /// Before the folders change places.
    SwitchMarked,
    /// After they have.
    SwitchExchanged,
    /// Before the old ones are removed.
    SwitchDone,
    /// An index was written, and is not marked.
    IndexWritten,
}

type Done<T = Answer> = io::Result<T>;

impl Store {
    /// Opens the copy, or makes a blank one: locks its folder, recovers log and marks, ends a switch that was begun.
    ///
    /// # Errors
    /// The folders do not fit, are used, or cannot be read. Damage is no error: the copy then counts as blank or torn, the damaged file is
    /// kept aside, and [`alarms`](Self::alarms) tells it.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        super::recover::open(settings)
    }

    /// What a start has found makes a copy.
    pub(super) fn new(
        settings: Settings,
        lock: File,
        (marks, log, tree): (Marks, Log, Tree),
        index: Index,
        loose: Option<Lsn>,
        alarms: VecDeque<String>,
    ) -> Self {
        let (seat, kept) = (log.seat(), marks.body.seat);
        let logged = if seat.captured >= kept.captured { seat } else { kept };
        let applied = if loose.is_some() { marks.body.checkpoint } else { log.history().end };
        Self {
            shared: Arc::new(Mutex::new(Shared::new(index, logged))),
            settings,
            _lock: lock,
            marks,
            log,
            staged: None,
            tree,
            applied,
            loose,
            alarms,
            ring: None,
            waits: Vec::new(),
            closing: false,
            told: false,
            released: 0,
            fail: None,
        }
    }

    /// The era in which a program may be changing the files, or did until the machine failed.
    #[must_use]
    pub const fn open_era(&self) -> Option<Epoch> {
        self.marks.body.open
    }

    /// Begins to take what is captured by the ring at `ring`, or goes on with it after a restart. `wake` is called, from the thread of the
    /// drainer, when [`happened`](Self::happened) has something new.
    ///
    /// # Errors
    /// The ring is of another tree, or cannot be opened.
    pub fn feed(&mut self, ring: &Path, wake: Box<dyn Fn() + Send>) -> Result<Feed, StoreError> {
        let failed = || StoreError::io(ring);
        let capture = Capture::at(ring).map_err(failed())?;
        let root = std::fs::canonicalize(&self.settings.root).map_err(StoreError::io(&self.settings.root))?;
        if capture.root() != root.as_os_str().as_encoded_bytes() {
            let why = format!("it is the ring of another tree than {}; name the group's own", root.display());
            return Err(StoreError::Unfit(ring.to_path_buf(), why));
        }
        let id = ring_id(ring).map_err(failed())?;
        if self.marks.body.ring.id != id {
            let era = self.marks.body.open.unwrap_or_default();
            self.marks.change(|body| body.ring = Ring { id, prefix: prefix(era) }).map_err(failed())?;
        }
        let mount = self.tree.root.as_fd().try_clone_to_owned().map_err(failed())?;
        let mut shared = lock(&self.shared);
        shared.begin(capture.status().shipped);
        let skip = if shared.logged.ring == id { shared.logged } else { Seat::default() };
        drop(shared);
        let known = capture.known();
        self.ring = Some(capture);
        Ok(Feed::new(Arc::clone(&self.shared), wake, mount, self.marks.body.ring, skip, known))
    }

    /// What the disk holds; all of it is durable then. With a feed: once all is taken that lies in the ring by now.
    ///
    /// # Errors
    /// What is there cannot be made durable.
    pub fn found(&mut self) -> Result<Found, StoreError> {
        self.end_comparison();
        let state = self.settings.state.clone();
        let failed = || StoreError::io(&state);
        let target = self.ring.as_ref().map(|ring| ring.status().next.saturating_sub(1));
        if let Some(target) = target {
            let begun = Instant::now();
            while lock(&self.shared).taken < target && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let body = &self.marks.body;
        let lost = body.open.is_some() && !body.torn && self.ring.is_none();
        if lost {
            self.alarm("a program had the files open, and what was captured is gone".to_owned());
            self.marks.change(|body| body.torn = true).map_err(failed())?;
        }
        let torn = self.marks.body.torn;
        if torn {
            // As the crash left them.
            let index = lock(&self.shared).index.clone();
            let (index, _) = adopt(&mut self.tree, &index, &self.settings.globs, None).map_err(failed())?;
            lock(&self.shared).index = index;
            (self.loose, self.applied) = (None, self.log.history().end);
        }
        self.told = true;
        let shared = lock(&self.shared);
        let body = &self.marks.body;
        Ok(Found {
            blank: body.blank,
            promised: body.promised,
            base: self.log.base(),
            log: self.log.history().clone(),
            bytes: self.log.bytes(),
            applied: self.applied,
            open: body.open,
            torn,
            captured: shared.logged.captured,
            written: if body.open.is_some() { shared.captured } else { shared.logged.captured },
        })
    }

    /// Does it. `None`: there is no answer (`Find`, `Trim`, `Release`), or it comes by [`happened`](Self::happened). Never panics; a full
    /// disk is [`Answer::Full`], other trouble [`Answer::Failed`], and [`alarms`](Self::alarms) tells why.
    pub fn perform(&mut self, work: &Work) -> Option<(OpId, Answer)> {
        let (op, done) = match work {
            Work::Find => return None,
            Work::Trim { base } => {
                let upto = base.lsn.min(self.marks.body.checkpoint);
                if let Err(error) = self.log.trim(upto) {
                    self.alarm(format!("{}: the log's beginning stays: {error}", self.log.folder().display()));
                }
                return None;
            }
            Work::Release { captured } => {
                self.release(*captured);
                return None;
            }
            Work::Promise { op, era } => (*op, self.mark(|body| body.promised = body.promised.max(*era))),
            Work::Append { op, staged, records, captured } => {
                return self.append(&[(*op, *staged, records, *captured)]).pop();
            }
            Work::Read { op, from, most } => (*op, self.read(*from, *most)),
            Work::Apply { op, upto } => (*op, self.apply(*upto)),
            Work::Checkpoint { op, .. } => (*op, self.checkpoint().map(|()| Answer::Done)),
            Work::Open { op, era } => (*op, self.open_files(*era)),
            Work::Close { op } => {
                self.waits.push(Wait { op: *op, upto: self.ring_end(), mends: None });
                return None;
            }
            Work::Shadow { op, base } => (*op, self.shadow(base)),
            Work::Digest { op, shadow, from } => (*op, self.digest(*shadow, from)),
            Work::Compare { op, page } => match self.compare(page) {
                Ok(mends) => {
                    self.waits.push(Wait { op: *op, upto: self.ring_end(), mends: Some(mends) });
                    return None;
                }
                Err(error) => (*op, Err(error)),
            },
            Work::Mend { op, mends } => (*op, self.mend(mends)),
            Work::Switch { op, upto } => (*op, self.switch(*upto)),
            Work::Orphans { op, from } => (*op, self.save(*from)),
        };
        Some((op, self.answered(work, done)))
    }

    /// The same for what has waited: appends that follow each other are made durable at once.
    pub fn perform_all(&mut self, works: Vec<Work>) -> Vec<(OpId, Answer)> {
        let mut out = Vec::new();
        let mut at = 0;
        while let Some(work) = works.get(at) {
            let run: Vec<(OpId, bool, &Vec<u8>, u64)> = works[at..]
                .iter()
                .map_while(|work| match work {
                    Work::Append { op, staged, records, captured } => Some((*op, *staged, records, *captured)),
                    _ => None,
                })
                .collect();
            if run.is_empty() {
                out.extend(self.perform(work));
                at += 1;
            } else {
                at += run.len();
                out.extend(self.append(&run));
            }
        }
        out
    }

    /// What is to be told to the engine since the last call, in order: captured changes, changes that were missed, and answers that had to
    /// wait for them. Nothing before [`found`](Self::found).
    pub fn happened(&mut self) -> Vec<Happening> {
        if !self.told {
            return Vec::new();
        }
        let mut shared = lock(&self.shared);
        let told = std::mem::take(&mut shared.told);
        let mut out = std::mem::take(&mut shared.queue);
        let (taken, captured, changed) = (shared.taken, shared.captured, shared.changed);
        drop(shared);
        told.into_iter().for_each(|told| self.alarm(told));
        if changed {
            // The ring has to tell again what was listed until this is kept.
            let _ = self.write_index();
        }
        for wait in std::mem::take(&mut self.waits) {
            if wait.upto > taken {
                self.waits.push(wait);
                continue;
            }
            let answer = match wait.mends {
                Some(mends) => Answer::Mends { mends, captured },
                None => {
                    self.look_closed(&mut out);
                    Answer::Done
                }
            };
            out.push(Happening::Done { op: wait.op, answer });
        }
        out
    }

    /// The record of the ring up to which programs that wait for their files may go on.
    #[must_use]
    pub const fn released(&self) -> Option<u64> {
        if self.released == 0 { None } else { Some(self.released) }
    }

    /// What a person should know since the last call: damage, what a file system refused, names that were in the way.
    pub fn alarms(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.tree.told);
        told.into_iter().for_each(|told| self.alarm(told));
        self.alarms.drain(..).collect()
    }

    /// Where the copy stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = lock(&self.shared);
        let body = &self.marks.body;
        Status {
            promised: body.promised,
            open: body.open,
            blank: body.blank,
            torn: body.torn,
            base: self.log.history().base,
            end: self.log.history().end,
            bytes: self.log.bytes(),
            applied: if body.open.is_some() { self.log.history().end } else { self.applied },
            checkpoint: body.checkpoint,
            staged: self.staged.as_ref().map(|(_, log)| log.history().end),
            captured: (shared.captured, shared.logged.captured),
            files: shared.index.counts(),
            orphans: self.orphans().unwrap_or_default(),
        }
    }

    /// What was saved of histories that no other copy has.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn orphans(&self) -> Result<Vec<Saved>, StoreError> {
        let folder = self.settings.state.join("orphans");
        orphans::list(&folder).map_err(StoreError::io(&folder))
    }

    /// Has the store end at a place, as a kill would: for tests.
    #[doc(hidden)]
    pub const fn fail_at(&mut self, fail: Option<Fail>) {
        self.fail = fail;
    }

    // How it is done.

    pub(super) fn alarm(&mut self, what: String) {
        if self.alarms.back() != Some(&what) && self.alarms.len() < ALARMS {
            self.alarms.push_back(what);
        }
    }

    fn answered(&mut self, work: &Work, done: Done) -> Answer {
        match done {
            Ok(answer) => answer,
            Err(error) => {
                let name = match work {
                    Work::Append { .. } => "append",
                    Work::Apply { .. } => "apply",
                    Work::Switch { .. } => "switch",
                    Work::Orphans { .. } => "orphans",
                    Work::Checkpoint { .. } => "checkpoint",
                    _ => "files",
                };
                self.failed(name, &error)
            }
        }
    }

    fn failed(&mut self, what: &str, error: &io::Error) -> Answer {
        self.alarm(format!("{}: {what}: {error}", self.settings.root.display()));
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) { Answer::Full } else { Answer::Failed }
    }

    fn mark(&mut self, change: impl FnOnce(&mut super::marks::Body)) -> Done {
        self.marks.change(change).map(|()| Answer::Done)
    }

    pub(super) fn reached(&self, at: Fail) -> Done<()> {
        if self.fail == Some(at) { Err(io::Error::other(format!("{at:?}: ended for a test"))) } else { Ok(()) }
    }

    /// The last record that is in the ring by now.
    fn ring_end(&self) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.status().next.saturating_sub(1))
    }

    fn release(&mut self, captured: u64) {
        let mut shared = lock(&self.shared);
        while let Some((_, seq)) = shared.barriers.front().copied().filter(|(number, _)| *number <= captured) {
            self.released = self.released.max(seq);
            shared.barriers.pop_front();
        }
    }

    fn append(&mut self, run: &[(OpId, bool, &Vec<u8>, u64)]) -> Vec<(OpId, Answer)> {
        let mut out = Vec::new();
        let mut at = 0;
        while let Some((_, staged, ..)) = run.get(at) {
            let many = run[at..].iter().take_while(|(_, other, ..)| other == staged).count();
            let part = &run[at..at + many];
            let done = self.append_run(*staged, part);
            let answer = match done {
                Ok(()) => Answer::Done,
                Err(error) => self.failed("log", &error),
            };
            let failed = answer != Answer::Done;
            out.extend(part.iter().map(|(op, ..)| (*op, answer.clone())));
            at += many;
            if failed && !*staged {
                // What comes after it would leave a gap.
                out.extend(run[at..].iter().map(|(op, ..)| (*op, Answer::Failed)));
                break;
            }
        }
        out
    }

    fn append_run(&mut self, staged: bool, run: &[(OpId, bool, &Vec<u8>, u64)]) -> io::Result<()> {
        let ring = self.marks.body.ring.id;
        let shared = lock(&self.shared);
        let seat = |captured: u64| {
            let new = captured > shared.logged.captured;
            new.then(|| shared.seat(captured, ring).unwrap_or(Seat { captured, ..shared.logged }))
        };
        let batches: Vec<Batch<'_>> = run
            .iter()
            .map(|(_, _, records, captured)| Batch { records, seat: if staged { None } else { seat(*captured) } })
            .collect();
        drop(shared);
        if staged {
            let Some((_, log)) = &mut self.staged else {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared"));
            };
            return log.append(&batches);
        }
        let last = batches.iter().filter_map(|batch| batch.seat).next_back();
        self.log.append(&batches)?;
        if let Some(seat) = last {
            lock(&self.shared).logged(seat);
        }
        if self.marks.body.open.is_some() {
            // What a program wrote is in its files.
            self.applied = self.log.history().end;
        }
        self.try_closed();
        Ok(())
    }

    fn read(&mut self, from: Lsn, most: u32) -> Done {
        match self.log.read(from, most as usize) {
            Ok(records) if records.is_empty() => Ok(Answer::Gone),
            Ok(records) => Ok(Answer::Records(records)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // Who wants them gets its files compared instead.
                self.alarm(error.to_string());
                Ok(Answer::Gone)
            }
            Err(error) => Err(error),
        }
    }

    fn apply(&mut self, upto: Lsn) -> Done {
        while self.applied < upto {
            let bytes = self.log.read(self.applied.next(), disk::CHUNK)?;
            if bytes.is_empty() {
                let why = format!("record {} is not in the log", self.applied.next());
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
            let mut rest = &bytes[..];
            while let Ok((record, head)) = Record::read(rest) {
                rest = rest.get(head.size()..).unwrap_or_default();
                if record.lsn > upto {
                    break;
                }
                self.apply_one(&record.change)?;
                self.applied = record.lsn;
            }
        }
        if self.loose.is_some_and(|end| self.applied >= end) {
            self.end_loose()?;
        }
        Ok(Answer::Done)
    }

    fn apply_one(&mut self, change: &Change) -> io::Result<()> {
        let care = if self.loose.is_some_and(|end| self.applied < end) { Care::Loose } else { Care::Exact };
        let mut shared = lock(&self.shared);
        if let Some((shadow, _)) = &mut self.staged {
            let content = matches!(
                change,
                Change::Write { .. }
                    | Change::Append { .. }
                    | Change::Truncate { .. }
                    | Change::Punch { .. }
                    | Change::Attributes { .. }
                    | Change::SetXattr { .. }
                    | Change::RemoveXattr { .. }
            );
            if content {
                shadow.keep(&mut self.tree, &mut shared.index, change.file())?;
            }
        }
        self.tree.apply(&mut shared.index, change, care)
    }

    /// All that may have been in the files in part is in them.
    fn end_loose(&mut self) -> io::Result<()> {
        let mut shared = lock(&self.shared);
        let lost = self.tree.sweep(&mut shared.index)?;
        drop(shared);
        if !lost.is_empty() {
            let names: Vec<_> = lost.iter().take(5).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
            self.marks.change(|body| body.torn = true)?;
            let why = format!(
                "{} files are gone that the log leads to ({}): restart the daemon, and they are compared with another copy's",
                lost.len(),
                names.join(", ")
            );
            return Err(io::Error::other(why));
        }
        self.loose = None;
        self.checkpoint()?;
        self.tree.purge()
    }

    /// Files and index are durable.
    fn checkpoint(&mut self) -> io::Result<()> {
        if self.marks.body.open.is_none() {
            rustix::fs::syncfs(&self.tree.root)?;
        }
        self.write_index()
    }

    /// Writes the index down. While programs write it is that of the log's end.
    fn write_index(&mut self) -> io::Result<()> {
        let serial = self.marks.body.index + 1;
        let mut shared = lock(&self.shared);
        let (at, bytes) = if self.marks.body.open.is_some() && self.ring.is_some() {
            (self.log.history().end, shared.at_log_end().encode())
        } else {
            (self.applied, shared.index.encode())
        };
        drop(shared);
        sealed::write(&index_path(&self.settings.state, serial), &sealed::seal_bytes(INDEX, &bytes))?;
        self.reached(Fail::IndexWritten)?;
        let old = self.marks.body.index;
        self.marks.change(|body| (body.index, body.checkpoint) = (serial, at))?;
        let _ = std::fs::remove_file(index_path(&self.settings.state, old));
        let mut shared = lock(&self.shared);
        shared.changed = false;
        shared.settle();
        Ok(())
    }

    /// Programs may change the files from now on.
    fn open_files(&mut self, era: Epoch) -> Done {
        self.end_switch()?;
        self.applied = self.log.history().end;
        let body = &self.marks.body;
        if body.blank || body.torn {
            // They are taken as they are.
            let index = lock(&self.shared).index.clone();
            let (index, _) = adopt(&mut self.tree, &index, &self.settings.globs, Some(prefix(era)))?;
            lock(&self.shared).index = index;
            self.loose = None;
            self.tree.purge()?;
        }
        if self.ring.is_none() || self.marks.body.open.is_none() {
            self.write_index()?;
        }
        self.tree.let_go();
        self.closing = false;
        self.mark(|body| {
            (body.open, body.boot) = (Some(era), super::marks::boot());
            (body.blank, body.torn) = (false, false);
        })
    }

    /// Programs have ended, and all they did was told: whether the files are what was told of them.
    fn look_closed(&mut self, out: &mut Vec<Happening>) {
        self.closing = true;
        self.ring = None;
        if let Some(era) = self.marks.body.open {
            let index = lock(&self.shared).index.clone();
            match adopt(&mut self.tree, &index, &self.settings.globs, Some(prefix(era))) {
                Ok((index, changed)) => {
                    if changed {
                        self.alarm("programs changed names unseen: other copies will compare their files".to_owned());
                        out.push(Happening::Missed);
                    }
                    lock(&self.shared).index = index;
                }
                Err(error) => drop(self.failed("close", &error)),
            }
        }
        self.try_closed();
    }

    fn try_closed(&mut self) {
        if !self.closing || self.marks.body.open.is_none() {
            return;
        }
        let shared = lock(&self.shared);
        let (all, seat) = (shared.logged.captured >= shared.captured, shared.logged);
        drop(shared);
        if !all {
            return;
        }
        self.applied = self.log.history().end;
        self.closing = false;
        let era = self.marks.body.open;
        let closed = self.marks.change(|body| (body.open, body.seat) = (None, seat)).and_then(|()| self.checkpoint());
        if let Err(error) = closed {
            self.failed("close", &error);
            if self.marks.body.open.is_none() {
                // Without a checkpoint a start would make old changes to these files: they count as open.
                let _ = self.marks.change(|body| body.open = era);
            }
        }
    }

    // Comparing.

    fn end_comparison(&mut self) {
        if let Some((_, log)) = self.staged.take() {
            let _ = clear(log.folder());
        }
        let _ = clear(&self.settings.state.join("shadow"));
    }

    /// A switch that was decided and then failed comes first.
    fn end_switch(&mut self) -> io::Result<()> {
        if self.marks.body.switch.is_none() {
            return Ok(());
        }
        self.staged = None;
        let settings = self.settings.clone();
        super::recover::end_switch(&settings, &mut self.marks, &mut self.alarms)?;
        super::recover::tidy(&settings, &self.marks.body)?;
        self.log = super::recover::open_log(&settings, &mut self.marks, &mut self.alarms)?;
        let index = super::recover::open_index(&settings, &mut self.marks, &mut self.alarms)?;
        self.tree = super::recover::tree(&settings)?;
        let mut shared = lock(&self.shared);
        let seat = Seat { captured: shared.captured, ..shared.logged };
        shared.index = index;
        shared.logged(seat);
        (self.applied, self.loose) = (self.log.history().end, None);
        Ok(())
    }

    fn shadow(&mut self, base: &Base) -> Done {
        self.end_switch()?;
        self.end_comparison();
        let state = &self.settings.state;
        let mut shared = lock(&self.shared);
        let shadow = Shadow::of(&mut self.tree, &mut shared.index, &state.join("shadow"))?;
        let seat = shared.logged;
        drop(shared);
        let folder = log_path(state, self.marks.body.log + 1);
        let size = Log::segment_size(self.settings.log_bytes);
        let log = Log::create(&folder, self.settings.group, size, base.clone(), seat)?;
        self.staged = Some((shadow, log));
        Ok(Answer::Done)
    }

    fn digest(&mut self, second: bool, from: &apus_engine::shipping::Place) -> Done {
        let mut shared = lock(&self.shared);
        let (tree, index) = (&mut self.tree, &mut shared.index);
        let page = match &mut self.staged {
            Some((shadow, _)) if second => digest::page(&mut Second { shadow, tree, index }, from)?,
            None if second => return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared")),
            _ => digest::page(&mut Published { tree, index }, from)?,
        };
        Ok(Answer::Page(page))
    }

    fn compare(&mut self, page: &apus_engine::shipping::Page) -> io::Result<apus_engine::shipping::Mends> {
        let mut shared = lock(&self.shared);
        digest::compare(&mut Published { tree: &mut self.tree, index: &mut shared.index }, page)
    }

    fn mend(&mut self, mends: &apus_engine::shipping::Mends) -> Done {
        let mut shared = lock(&self.shared);
        let Some((shadow, _)) = &mut self.staged else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared"));
        };
        shadow.mend(&mut self.tree, &mut shared.index, mends)?;
        Ok(Answer::Done)
    }

    fn save(&mut self, from: Lsn) -> Done {
        let mut shared = lock(&self.shared);
        let (tree, index, log) = (&mut self.tree, &mut shared.index, &self.log);
        let source = orphans::Source { group: self.settings.group, log, tree, index, all: self.marks.body.torn };
        let saved = orphans::save(&self.settings.state.join("orphans"), from, source)?;
        drop(shared);
        self.alarm(format!("what only this copy had is in {}", saved.display()));
        Ok(Answer::Done)
    }

    fn switch(&mut self, upto: Lsn) -> Done {
        self.end_switch()?;
        let Some((mut shadow, staged)) = self.staged.take() else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared"));
        };
        let made = self.build(&mut shadow, &staged, upto);
        self.staged = Some((shadow, staged));
        let (root, index) = made?;
        self.reached(Fail::SwitchBuilt)?;
        // A start that goes on with the switch must know what the old folder held. The disk has all of it since the new one was built.
        self.write_index()?;
        let serial = self.marks.body.index + 1;
        sealed::write(&index_path(&self.settings.state, serial), &sealed::seal_bytes(INDEX, &index.encode()))?;
        let switch = Switch { root, log: self.marks.body.log + 1, index: serial, upto };
        self.marks.change(|body| body.switch = Some(switch))?;
        // From here on there is no way back, and a start goes on.
        self.reached(Fail::SwitchMarked)?;
        let old = lock(&self.shared).index.clone();
        if let Err(error) = super::recover::exchange(&self.settings, &self.marks, &mut self.alarms) {
            self.marks.change(|body| body.switch = None)?;
            return Err(error);
        }
        self.reached(Fail::SwitchExchanged)?;
        let Some((_, log)) = self.staged.take() else { return Ok(Answer::Done) };
        let mut tree = super::recover::tree(&self.settings)?;
        let moved = super::recover::bring_over(&self.settings, &mut tree, &old, &index);
        self.alarms.extend(std::mem::take(&mut tree.told));
        moved?;
        let mut shared = lock(&self.shared);
        shared.logged.captured = shared.captured;
        let seat = shared.logged;
        shared.index = index;
        shared.logged(seat);
        drop(shared);
        let before = std::mem::replace(&mut self.log, log);
        self.tree = tree;
        (self.applied, self.loose) = (upto, None);
        super::recover::settled(&mut self.marks, seat)?;
        self.reached(Fail::SwitchDone)?;
        super::recover::tidy(&self.settings, &self.marks.body)?;
        drop(before);
        Ok(Answer::Done)
    }

    /// The second tree with the second log in it, as a folder.
    fn build(&mut self, shadow: &mut Shadow, staged: &Log, upto: Lsn) -> io::Result<(Handle, Index)> {
        let mut shared = lock(&self.shared);
        let mut at = staged.base().lsn.next();
        if staged.history().end != upto {
            let why = format!("the second log ends at {}, not at {upto}", staged.history().end);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        while at <= upto {
            let bytes = staged.read(at, disk::CHUNK)?;
            let mut rest = &bytes[..];
            let mut changes = Vec::new();
            while let Ok((record, head)) = Record::read(rest) {
                rest = rest.get(head.size()..).unwrap_or_default();
                at = record.lsn.next();
                changes.push(record.change);
            }
            if bytes.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("record {at} is not in the second log")));
            }
            shadow.catch_up(&mut self.tree, &mut shared.index, &changes)?;
        }
        let (top, index) = shadow.build(&mut self.tree, &mut shared.index)?;
        let root = Handle::of_open(File::open(&top)?)?;
        Ok((root, index))
    }
}

/// What stands above a ring's numbers in the numbers of files that are made under it.
fn prefix(era: Epoch) -> u64 {
    let (grant, life) = (era.0 >> 20, era.0 & 0xf_ffff);
    (grant & 0xffff) << 48 | (life & 0xff) << 40
}

/// Tells one ring from any other that is at the same path.
fn ring_id(ring: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let is = std::fs::metadata(ring)?;
    let born = is.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    let bytes = [is.dev().to_le_bytes(), is.ino().to_le_bytes(), (born.as_nanos() as u64).to_le_bytes()].concat();
    let hash = blake3::hash(&bytes);
    Ok(hash.as_bytes().first_chunk().map_or(1, |first| u64::from_le_bytes(*first) | 1))
}

pub(super) fn index_path(state: &Path, serial: u64) -> PathBuf {
    state.join(format!("index-{serial}"))
}

pub(super) fn log_path(state: &Path, number: u64) -> PathBuf {
    state.join(format!("log-{number}"))
}
