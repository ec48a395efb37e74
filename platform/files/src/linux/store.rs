//! One group's copy.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apus_capture::linux::Capture;
use apus_engine::shipping::{Answer, Found, Happening, Mends, Work};
use apus_engine::{Epoch, FileId, Lsn, OpId};

use super::adopt::adopt;
use super::feed::Feed;
use super::index::Index;
use super::log::Log;
use super::marks::{Marks, Ring, Seat};
use super::orphans::{self, Saved};
use super::settings::{Settings, StoreError};
use super::shadow::Shadow;
use super::shared::{Shared, lock};
use super::tree::Tree;
use super::work::Append;

/// What an index file begins with.
pub(super) const INDEX: [u8; 8] = *b"APUSIDX1";
/// How long a start waits for a feed that runs beside it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Alarms that are kept until somebody asks.
pub(super) const ALARMS: usize = 256;

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
    mends: Option<Mends>,
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
    pub(super) closing: bool,
    /// What keeps it from being closed.
    pub(super) stuck: Option<String>,
    /// What programs did was not taken to its end.
    pub(super) lost: bool,
    /// The file system did not take what was to be durable. It says so once: nothing later vouches for what came before.
    pub(super) unsynced: bool,
    told: bool,
    pub(super) released: u64,
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
    /// When the files are to be durable: as if the file system said that they are not.
    Flush,
}

pub(super) type Done<T = Answer> = io::Result<T>;

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
            stuck: None,
            lost: false,
            unsynced: false,
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
        shared.begin(id, capture.status().shipped);
        let skip = if shared.logged.ring == id { shared.logged } else { Seat::default() };
        drop(shared);
        // A ring is drained by one feed: what was released before was another's.
        self.released = 0;
        let known = capture.known();
        self.ring = Some(capture);
        Ok(Feed::new(Arc::clone(&self.shared), wake, mount, self.marks.body.ring, skip, known))
    }

    /// Nothing is taken from the feed any more: what waits for it waits no longer.
    pub fn stop_feed(&self) {
        lock(&self.shared).end();
    }

    /// The same, and of the ring nothing is expected.
    pub fn end_feed(&mut self) {
        self.ring = None;
        self.stop_feed();
    }

    /// Programs have ended, and what they did cannot be taken to its end: once they are closed the files are torn.
    pub fn lose(&mut self, why: &str) {
        self.alarm(format!("{why}: other copies will compare their files, and this one is compared after a restart"));
        self.lost = true;
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
            // The log takes nothing before: the feed has to have room for all of it.
            lock(&self.shared).awaited = Some(target);
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
        self.try_closed();
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
            Work::Digest { op, shadow, salt, depth, stretches } => {
                (*op, self.digest(*shadow, (*salt, *depth), stretches))
            }
            Work::Compare { op, page, from } => match self.compare(page, from) {
                Ok(mends) => {
                    self.waits.push(Wait { op: *op, upto: self.ring_end(), mends: Some(mends) });
                    return None;
                }
                Err(error) => (*op, Err(error)),
            },
            Work::Mend { op, mends } => (*op, self.mend(mends)),
            Work::Fold { op, from, upto, base } => (*op, self.fold((*from, *upto), base.as_ref())),
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
            let run: Vec<Append<'_>> = works[at..]
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
        let (taken, captured, changed, over) = (shared.taken, shared.captured, shared.changed, shared.over);
        shared.awaited = self.waits.iter().map(|wait| wait.upto).filter(|upto| *upto > taken).min();
        drop(shared);
        told.into_iter().for_each(|told| self.alarm(told));
        if changed {
            // The ring has to tell again what was listed until this is kept.
            let _ = self.write_index();
        }
        for wait in std::mem::take(&mut self.waits) {
            if wait.upto > taken && !self.lost && !over {
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

    /// A path of a file below the root, for people; `None`: it has no name, or is not known.
    #[must_use]
    pub fn path(&self, file: FileId) -> Option<String> {
        let path = lock(&self.shared).index.path(file)?;
        Some(String::from_utf8_lossy(&path).into_owned())
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
}

/// What stands above a ring's numbers in the numbers of files that are made under it.
pub(super) fn prefix(era: Epoch) -> u64 {
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
