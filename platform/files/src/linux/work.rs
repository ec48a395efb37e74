//! How a copy does what is to be done with its log and its published files.

use std::io;

use apus_engine::shipping::{Answer, Change, Happening, Record, Work};
use apus_engine::{Epoch, Lsn, OpId};

use super::adopt::adopt;
use super::disk;
use super::log::Batch;
use super::marks::{Body, Seat, boot};
use super::sealed;
use super::shared::lock;
use super::store::{ALARMS, Done, Fail, INDEX, Store, index_path, prefix};
use super::tree::Care;

/// An append as it is ordered: whose answer, which log, what, and up to which captured change.
pub(super) type Append<'a> = (OpId, bool, &'a Vec<u8>, u64);

impl Store {
    pub(super) fn alarm(&mut self, what: String) {
        if self.alarms.back() != Some(&what) && self.alarms.len() < ALARMS {
            self.alarms.push_back(what);
        }
    }

    pub(super) fn answered(&mut self, work: &Work, done: Done) -> Answer {
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

    pub(super) fn failed(&mut self, what: &str, error: &io::Error) -> Answer {
        self.alarm(format!("{}: {what}: {error}", self.settings.root.display()));
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) { Answer::Full } else { Answer::Failed }
    }

    pub(super) fn mark(&mut self, change: impl FnOnce(&mut Body)) -> Done {
        self.marks.change(change).map(|()| Answer::Done)
    }

    pub(super) fn reached(&self, at: Fail) -> Done<()> {
        if self.fail == Some(at) { Err(io::Error::other(format!("{at:?}: ended for a test"))) } else { Ok(()) }
    }

    /// The last record that is in the ring by now.
    pub(super) fn ring_end(&self) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.status().next.saturating_sub(1))
    }

    pub(super) fn release(&mut self, captured: u64) {
        let mut shared = lock(&self.shared);
        while let Some((_, seq)) = shared.barriers.front().copied().filter(|(number, _)| *number <= captured) {
            self.released = self.released.max(seq);
            shared.barriers.pop_front();
        }
    }

    pub(super) fn append(&mut self, run: &[Append<'_>]) -> Vec<(OpId, Answer)> {
        let mut out = Vec::new();
        let mut at = 0;
        while let Some((_, staged, ..)) = run.get(at) {
            let many = run[at..].iter().take_while(|(_, other, ..)| other == staged).count();
            let part = &run[at..at + many];
            let done = self.append_run(*staged, part);
            let (good, answer) = match done {
                Ok(()) => (many, Answer::Done),
                Err((good, error)) => (good, self.failed("log", &error)),
            };
            let failed = answer != Answer::Done;
            out.extend(part[..good].iter().map(|(op, ..)| (*op, Answer::Done)));
            out.extend(part[good..].iter().map(|(op, ..)| (*op, answer.clone())));
            at += many;
            if failed && !*staged {
                // What comes after it would leave a gap.
                out.extend(run[at..].iter().map(|(op, ..)| (*op, Answer::Failed)));
                break;
            }
        }
        out
    }

    /// If it fails: how many of them are durable all the same.
    pub(super) fn append_run(&mut self, staged: bool, run: &[Append<'_>]) -> Result<(), (usize, io::Error)> {
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
                return Err((0, io::Error::new(io::ErrorKind::NotFound, "no files are being compared")));
            };
            return log.append(&batches);
        }
        self.not_between().map_err(|error| (0, error))?;
        if let Some(why) = &self.stuck {
            return Err((0, io::Error::other(format!("the files could not be closed yet: {why}"))));
        }
        let done = self.log.append(&batches);
        let good = done.as_ref().map_or_else(|(good, _)| *good, |()| batches.len());
        let last = batches[..good].iter().filter_map(|batch| batch.seat).next_back();
        if let Some(seat) = last {
            lock(&self.shared).logged(seat);
        }
        if self.marks.body.open.is_some() && self.ring.is_some() {
            // What a program wrote is in its files.
            self.applied = self.log.history().end;
        }
        self.try_closed();
        done
    }

    pub(super) fn read(&mut self, from: Lsn, most: u32) -> Done {
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

    /// A switch that was decided and could not be ended: neither log nor files are known to be those that count.
    fn not_between(&self) -> io::Result<()> {
        if self.marks.body.switch.is_none() {
            return Ok(());
        }
        Err(io::Error::other("other files were to take the place of these and it failed half-way: restart the daemon"))
    }

    pub(super) fn apply(&mut self, upto: Lsn) -> Done {
        self.not_between()?;
        if self.closing {
            // What programs did is in the files, and not all of it may be in the log.
            return Err(io::Error::other("the files are not closed yet"));
        }
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

    pub(super) fn apply_one(&mut self, change: &Change) -> io::Result<()> {
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
    pub(super) fn end_loose(&mut self) -> io::Result<()> {
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
    pub(super) fn checkpoint(&mut self) -> io::Result<()> {
        if self.marks.body.open.is_none() {
            self.flush()?;
        }
        self.write_index()
    }

    /// Files are durable. A file system tells of what it lost once: after that only a start, which makes the changes since the last
    /// checkpoint again, can say so.
    fn flush(&mut self) -> io::Result<()> {
        if self.unsynced {
            return Err(io::Error::other(
                "files were not made durable once: restart the daemon, and they are made again",
            ));
        }
        let done = self.reached(Fail::Flush).and_then(|()| Ok(rustix::fs::syncfs(&self.tree.root)?));
        self.unsynced = done.is_err();
        done
    }

    /// Writes the index down. While programs write it is that of the log's end.
    pub(super) fn write_index(&mut self) -> io::Result<()> {
        self.write_index_with(|_| {})
    }

    /// The same, and what else is so from then on.
    fn write_index_with(&mut self, also: impl FnOnce(&mut Body)) -> io::Result<()> {
        let serial = self.marks.body.index + 1;
        let mut shared = lock(&self.shared);
        let all = shared.logged.captured >= shared.captured;
        let (at, bytes) = if self.marks.body.open.is_some() && (self.ring.is_some() || !all) {
            (self.log.history().end, shared.at_log_end().encode())
        } else {
            (self.applied, shared.index.encode())
        };
        drop(shared);
        sealed::write(&index_path(&self.settings.state, serial), &sealed::seal_bytes(INDEX, &bytes))?;
        self.reached(Fail::IndexWritten)?;
        let old = self.marks.body.index;
        self.marks.change(|body| {
            (body.index, body.checkpoint) = (serial, at);
            also(body);
        })?;
        let _ = std::fs::remove_file(index_path(&self.settings.state, old));
        let mut shared = lock(&self.shared);
        shared.changed = false;
        shared.settle();
        Ok(())
    }

    /// Programs may change the files from now on.
    pub(super) fn open_files(&mut self, era: Epoch) -> Done {
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
        if self.marks.body.open.is_none() {
            // Before programs write: what was applied until now is made again by nobody.
            self.checkpoint()?;
        } else if self.ring.is_none() {
            self.write_index()?;
        }
        self.tree.let_go();
        (self.closing, self.stuck, self.lost) = (false, None, false);
        self.mark(|body| {
            (body.open, body.boot) = (Some(era), boot());
            (body.blank, body.torn, body.saved) = (false, false, None);
        })
    }

    /// Programs have ended, and all they did was told: whether the files are what was told of them.
    pub(super) fn look_closed(&mut self, out: &mut Vec<Happening>) {
        self.closing = self.marks.body.open.is_some();
        self.end_feed();
        out.append(&mut lock(&self.shared).queue);
        if self.lost {
            out.push(Happening::Missed);
            if let Err(error) = self.marks.change(|body| body.torn = true) {
                drop(self.failed("close", &error));
            }
        }
        if let Some(era) = self.marks.body.open {
            let index = lock(&self.shared).index.clone();
            match adopt(&mut self.tree, &index, &self.settings.globs, Some(prefix(era))) {
                Ok((index, changed)) => {
                    if changed && !self.lost {
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

    pub(super) fn try_closed(&mut self) {
        self.closing &= self.marks.body.open.is_some();
        if !self.closing {
            self.stuck = None;
            return;
        }
        let shared = lock(&self.shared);
        let (all, seat) = (shared.logged.captured >= shared.captured, shared.logged);
        drop(shared);
        if !all {
            return;
        }
        self.applied = self.log.history().end;
        // All at once: without a checkpoint a start would make old changes to these files, and closed without their content being
        // durable it would make none.
        let closed = self.flush().and_then(|()| self.write_index_with(|body| (body.open, body.seat) = (None, seat)));
        match closed {
            Ok(()) => (self.closing, self.stuck) = (false, None),
            // It is tried again before whatever comes next. Until then the log and the files stay as they are.
            Err(error) => {
                let why = error.to_string();
                if self.stuck.as_ref() != Some(&why) {
                    drop(self.failed("close", &error));
                }
                self.stuck = Some(why);
                if self.unsynced {
                    // What programs wrote is made again by nobody.
                    let _ = self.marks.change(|body| body.torn = true);
                }
            }
        }
    }
}
