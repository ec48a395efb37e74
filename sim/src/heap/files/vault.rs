//! A machine's copy of a group: log, files, and what of both survives a power failure.

use std::collections::VecDeque;

use apus_engine::shipping::{Base, Captured, Change, Found, Have, Head, History, Record};
use apus_engine::{Epoch, Lsn, Rng};

use super::tree::Tree;

/// One record of a log.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) head: Head,
    pub(crate) bytes: Vec<u8>,
}

impl Kept {
    pub(crate) fn change(&self) -> Option<Change> {
        Record::read(&self.bytes).ok().map(|(record, _)| record.change)
    }
}

/// A log of records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) base: Base,
    pub(crate) kept: VecDeque<Kept>,
    /// Records up to here survive a power failure.
    pub(crate) durable: Lsn,
    history: History,
    bytes: u64,
}

impl Log {
    pub(crate) fn after(base: Base) -> Self {
        Self { durable: base.lsn, history: History::after(&base), base, kept: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn end(&self) -> Lsn {
        self.kept.back().map_or(self.base.lsn, |kept| kept.head.lsn)
    }

    pub(crate) fn check(&self) -> u32 {
        self.kept.back().map_or(self.base.check, |kept| kept.head.check)
    }

    pub(crate) fn get(&self, lsn: Lsn) -> Option<&Kept> {
        let at = usize::try_from(lsn.0.checked_sub(self.base.lsn.0 + 1)?).ok()?;
        self.kept.get(at).filter(|kept| kept.head.lsn == lsn)
    }

    pub(crate) const fn history(&self) -> &History {
        &self.history
    }

    /// The era that wrote a position.
    pub(crate) fn era(&self, lsn: Lsn) -> Epoch {
        let eras = &self.history.eras;
        eras.iter().rev().find(|start| start.first <= lsn).map(|start| start.era).unwrap_or_default()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn push(&mut self, head: Head, bytes: &[u8]) {
        self.history.push(&head);
        self.bytes += bytes.len() as u64;
        self.kept.push_back(Kept { head, bytes: bytes.to_vec() });
    }

    /// What is kept has changed.
    fn recount(&mut self) {
        self.history = History::after(&self.base);
        self.kept.iter().for_each(|kept| self.history.push(&kept.head));
        self.bytes = self.kept.iter().map(|kept| kept.bytes.len() as u64).sum();
    }

    fn power_off(&mut self, rng: &mut Rng) {
        let open = self.end().0.saturating_sub(self.durable.0);
        let keep = Lsn(self.durable.0 + rng.below(open + 1));
        self.kept.retain(|kept| kept.head.lsn <= keep);
        self.recount();
        self.durable = self.end();
    }
}

/// What was saved of a history that the others do not have.
#[derive(Clone, Debug)]
pub(crate) struct Orphan {
    pub(crate) records: Vec<(Epoch, Lsn)>,
    pub(crate) files: u128,
}

/// A copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vault {
    pub(crate) blank: bool,
    promised: Epoch,
    pub(crate) promised_durable: Epoch,
    pub(crate) log: Log,
    pub(crate) tree: Tree,
    /// The files as a power failure leaves them at least, and the changes since.
    disk: Tree,
    since: Vec<Change>,
    pub(crate) applied: Lsn,
    checkpoint: Lsn,
    /// Brought back by a restart after a power failure, and not yet at the log's end.
    pub(crate) loose: bool,
    pub(crate) staged: Option<(Tree, Log)>,
    pub(crate) open: Option<Epoch>,
    closed: bool,
    pub(crate) torn: bool,
    /// As `torn`, until the log says that the files are taken as they are.
    pub(crate) doubtful: bool,
    /// Captured and perhaps not in the log.
    pub(crate) ring: VecDeque<Captured>,
    /// The last number that was captured, that the daemon was told, that is in the log.
    pub(crate) captured: u64,
    pub(crate) told: u64,
    pub(crate) logged: u64,
    pub(crate) orphans: Vec<Orphan>,
    /// A program may change the files.
    pub(crate) writes: bool,
    /// A bit has turned since they were last compared.
    pub(crate) rotten: bool,
}

impl Vault {
    pub(crate) fn blank() -> Self {
        Self { blank: true, ..Self::default() }
    }

    /// What a daemon finds at its start.
    pub(crate) fn found(&mut self) -> Found {
        self.staged = None;
        // A start makes durable what it finds.
        self.log.durable = self.log.end();
        self.promised_durable = self.promised;
        self.try_closed();
        if self.torn {
            // As the crash left it.
            self.tree.sweep();
            (self.loose, self.applied, self.checkpoint) = (false, self.log.end(), self.log.end());
        }
        self.told = self.logged;
        self.ring.retain(|captured| captured.number > self.logged);
        Found {
            blank: self.blank,
            promised: self.promised,
            base: self.log.base.clone(),
            log: self.log.history().clone(),
            bytes: self.log.bytes(),
            applied: self.applied,
            open: self.open,
            torn: self.torn,
            captured: self.logged,
            written: self.captured,
        }
    }

    /// Whether it can go on by the records of a copy that tells this of itself, its files being what its log leads to.
    pub(crate) fn takes_records(&self, have: &Have) -> bool {
        let end = self.log.end();
        let whole = !self.blank && !self.torn && !self.doubtful;
        let fresh = have.eras.iter().any(|start| start.fresh && start.first > end);
        whole && !fresh && have.base <= end && self.log.history().agrees(&have.eras, have.end) == end
    }

    /// A program changes the files.
    pub(crate) fn capture(&mut self, change: Change) -> u64 {
        self.tree.apply(&change);
        self.since.push(change.clone());
        self.captured += 1;
        self.ring.push_back(Captured { number: self.captured, change });
        self.captured
    }

    /// A program has made its files durable, as its own system does it.
    pub(crate) fn sync(&mut self) {
        self.disk = self.tree.clone();
        self.since.clear();
    }

    pub(crate) fn promise(&mut self, era: Epoch) {
        self.promised = self.promised.max(era);
    }

    pub(crate) fn promise_kept(&mut self, era: Epoch) {
        self.promised_durable = self.promised_durable.max(era);
    }

    /// Puts records into a log; they are durable later.
    pub(crate) fn append(&mut self, staged: bool, records: &[u8], captured: u64) {
        let log = match &mut self.staged {
            Some((_, log)) if staged => log,
            _ => &mut self.log,
        };
        let mut rest = records;
        while let Ok(head) = Head::read(rest) {
            let (bytes, later) = rest.split_at(head.size());
            log.push(head, bytes);
            self.doubtful &= staged || !head.is_fresh();
            rest = later;
        }
        if captured > 0 && !staged {
            self.applied = self.log.end();
            self.logged = self.logged.max(captured);
        }
    }

    pub(crate) fn appended(&mut self, staged: bool, upto: Lsn) {
        let log = match &mut self.staged {
            Some((_, log)) if staged => log,
            _ => &mut self.log,
        };
        log.durable = log.durable.max(upto.min(log.end()));
        let logged = self.logged;
        self.ring.retain(|captured| captured.number > logged);
        self.try_closed();
    }

    pub(crate) fn opened(&mut self, era: Epoch) {
        (self.open, self.closed, self.torn, self.blank, self.doubtful) = (Some(era), false, false, false, false);
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.writes = false;
        self.try_closed();
    }

    /// Closed durably once all that was captured is durable in the log.
    fn try_closed(&mut self) {
        if self.closed && self.logged == self.captured && self.log.durable == self.log.end() {
            self.open = None;
        }
    }

    pub(crate) fn apply(&mut self, upto: Lsn) {
        while self.applied < upto {
            let Some(change) = self.log.get(self.applied.next()).and_then(Kept::change) else { break };
            if self.loose {
                self.tree.loosely(&change);
            } else {
                self.tree.apply(&change);
            }
            self.since.push(change);
            self.applied = self.applied.next();
        }
        self.recovered();
    }

    /// A restarted copy has come to its log's end.
    pub(crate) fn recovered(&mut self) {
        if self.loose && self.applied == self.log.end() {
            self.tree.sweep();
            self.loose = false;
        }
    }

    pub(crate) fn checkpointed(&mut self, at: Lsn) {
        self.disk = self.tree.clone();
        self.since.clear();
        self.checkpoint = at;
    }

    pub(crate) fn trim(&mut self, base: Base) {
        while self.log.kept.front().is_some_and(|kept| kept.head.lsn <= base.lsn) {
            self.log.kept.pop_front();
        }
        self.log.base = base;
        self.log.recount();
    }

    pub(crate) fn shadow(&mut self, base: Base) {
        self.staged = Some((self.tree.clone(), Log::after(base)));
    }

    pub(crate) fn switch(&mut self) {
        let Some((mut tree, log)) = self.staged.take() else { return };
        log.kept.iter().filter_map(Kept::change).for_each(|change| {
            tree.loosely(&change);
        });
        tree.sweep();
        (self.tree, self.log) = (tree, log);
        self.applied = self.log.end();
        (self.torn, self.doubtful, self.blank, self.loose, self.open) = (false, false, false, false, None);
        self.rotten = false;
        let at = self.applied;
        self.checkpointed(at);
        self.ring.clear();
        self.logged = self.captured;
        self.told = self.captured;
    }

    /// Saves the records from here on, and the files.
    pub(crate) fn save(&mut self, from: Lsn) {
        let tail = self.log.kept.iter().filter(|kept| kept.head.lsn >= from);
        let records = tail.map(|kept| (kept.head.era, kept.head.lsn)).collect();
        self.orphans.push(Orphan { records, files: self.tree.hash() });
    }

    /// Power fails: of what was not durable a part is there.
    pub(crate) fn power_off(&mut self, rng: &mut Rng) {
        self.promised = self.promised_durable;
        self.log.power_off(rng);
        self.staged = None;
        self.torn |= self.open.is_some();
        self.doubtful = self.torn;
        let mut tree = self.disk.clone();
        for change in self.since.drain(..) {
            if rng.below(2) == 0 {
                tree.loosely(&change);
            }
        }
        self.disk = tree.clone();
        self.tree = tree;
        self.applied = self.checkpoint.min(self.log.end());
        self.loose = true;
        self.writes = false;
        self.ring.clear();
        self.logged = self.captured;
        self.told = self.captured;
        self.recovered();
    }

    /// A bit of a file turns; its own changes are known as such until the files are compared.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let files: Vec<_> = self.tree.files.iter().filter(|(_, file)| file.len() > 0).map(|(at, _)| *at).collect();
        let Some(at) = files.get(rng.below(files.len() as u64) as usize) else { return false };
        let many = self.tree.files.get(at).map_or(0, |file| file.len() as u64);
        let bit = rng.below(many * 8) as usize;
        self.tree.flip(*at, bit);
        self.rotten = true;
        true
    }
}
