//! How a copy's files are compared with another's, and take the place of the published ones.

use std::fs::File;
use std::io;

use apus_engine::Lsn;
use apus_engine::shipping::{Answer, Base, Mends, Page, Place, Record, Stretch};

use super::digest;
use super::disk::{self, Handle};
use super::index::Index;
use super::log::Log;
use super::marks::{Saved, Seat, Switch};
use super::orphans;
use super::recover;
use super::sealed;
use super::shadow::{Published, Second, Shadow, clear};
use super::shared::lock;
use super::store::{Done, Fail, INDEX, Store, index_path, log_path};
use super::tree::Tree;

impl Store {
    pub(super) fn end_comparison(&mut self) {
        if let Some((_, log)) = self.staged.take() {
            let _ = clear(log.folder());
        }
        let _ = clear(&self.settings.state.join("shadow"));
    }

    /// A switch that was decided and then failed comes first.
    pub(super) fn end_switch(&mut self) -> io::Result<()> {
        if self.marks.body.switch.is_none() {
            return Ok(());
        }
        self.staged = None;
        let settings = self.settings.clone();
        recover::end_switch(&settings, &mut self.marks, &mut self.alarms)?;
        recover::tidy(&settings, &self.marks.body)?;
        self.log = recover::open_log(&settings, &mut self.marks, &mut self.alarms)?;
        let index = recover::open_index(&settings, &mut self.marks, &mut self.alarms)?;
        self.tree = recover::tree(&settings)?;
        let mut shared = lock(&self.shared);
        let seat = Seat { captured: shared.captured, ..shared.logged };
        shared.index = index;
        shared.logged(seat);
        (self.applied, self.loose) = (self.log.history().end, None);
        Ok(())
    }

    pub(super) fn shadow(&mut self, base: &Base) -> Done {
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

    pub(super) fn digest(&mut self, second: bool, (salt, depth): (u64, u8), stretches: &[Stretch]) -> Done {
        let mut shared = lock(&self.shared);
        let (tree, index) = (&mut self.tree, &mut shared.index);
        let page = match &mut self.staged {
            Some((shadow, _)) if second => digest::page(&mut Second { shadow, tree, index }, salt, depth, stretches)?,
            None if second => return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared")),
            _ => digest::page(&mut Published { tree, index }, salt, depth, stretches)?,
        };
        Ok(Answer::Page(page))
    }

    pub(super) fn compare(&mut self, page: &Page, from: &Place) -> io::Result<Mends> {
        let mut shared = lock(&self.shared);
        digest::compare(&mut Published { tree: &mut self.tree, index: &mut shared.index }, page, from)
    }

    pub(super) fn mend(&mut self, mends: &Mends) -> Done {
        let mut shared = lock(&self.shared);
        let Some((shadow, _)) = &mut self.staged else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared"));
        };
        shadow.mend(&mut self.tree, &mut shared.index, mends)?;
        Ok(Answer::Done)
    }

    /// Brings the second tree forward by records of the second log, and drops what of it may go.
    pub(super) fn fold(&mut self, (from, upto): (Lsn, Lsn), base: Option<&Base>) -> Done {
        let mut shared = lock(&self.shared);
        let Some((shadow, staged)) = &mut self.staged else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no files are being compared"));
        };
        catch_up(shadow, (&mut self.tree, &mut shared.index), staged, (from, upto))?;
        if let Some(base) = base {
            staged.trim(base.lsn)?;
        }
        Ok(Answer::Done)
    }

    pub(super) fn save(&mut self, from: Lsn) -> Done {
        let folder = self.settings.state.join("orphans");
        let (end, check, torn) = (self.log.history().end, self.log.history().check, self.marks.body.torn);
        let known = self.marks.body.saved.as_ref();
        if known.is_some_and(|is| {
            (is.end, is.check, is.from, is.torn) == (end, check, from, torn) && folder.join(&is.folder).is_dir()
        }) {
            // Whoever begins to follow anew asks for it anew.
            return Ok(Answer::Done);
        }
        let mut shared = lock(&self.shared);
        let (tree, index, log) = (&mut self.tree, &mut shared.index, &self.log);
        let source = orphans::Source { group: self.settings.group, log, tree, index, all: self.marks.body.torn };
        let saved = orphans::save(&folder, from, source)?;
        drop(shared);
        let name = saved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.marks.change(|body| body.saved = Some(Saved { end, check, from, torn, folder: name }))?;
        self.alarm(format!("what only this copy had is in {}", saved.display()));
        Ok(Answer::Done)
    }

    pub(super) fn switch(&mut self, upto: Lsn) -> Done {
        let decided = self.marks.body.switch.as_ref().map(|switch| switch.upto);
        self.end_switch()?;
        if decided == Some(upto) && self.log.history().end == upto && !self.marks.body.torn && !self.marks.body.blank {
            // It had failed half-way.
            return Ok(Answer::Done);
        }
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
        if !recover::exchange(&self.settings, &self.marks, &mut self.alarms)? {
            self.marks.change(|body| body.switch = None)?;
            return Err(io::Error::new(io::ErrorKind::NotFound, "the files that were compared are gone"));
        }
        self.reached(Fail::SwitchExchanged)?;
        let Some((_, log)) = self.staged.take() else { return Ok(Answer::Done) };
        let mut tree = recover::tree(&self.settings)?;
        let moved = recover::bring_over(&self.settings, &mut tree, &old, &index);
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
        recover::settled(&mut self.marks, seat)?;
        self.reached(Fail::SwitchDone)?;
        recover::tidy(&self.settings, &self.marks.body)?;
        drop(before);
        Ok(Answer::Done)
    }

    /// The second tree with the second log in it, as a folder.
    pub(super) fn build(&mut self, shadow: &mut Shadow, staged: &Log, upto: Lsn) -> io::Result<(Handle, Index)> {
        let mut shared = lock(&self.shared);
        if staged.history().end != upto {
            let why = format!("the second log ends at {}, not at {upto}", staged.history().end);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        catch_up(shadow, (&mut self.tree, &mut shared.index), staged, (staged.base().lsn, upto))?;
        let (top, index) = shadow.build(&mut self.tree, &mut shared.index)?;
        let root = Handle::of_open(File::open(&top)?)?;
        Ok((root, index))
    }
}

/// Makes the changes of the second log after one record up to another.
fn catch_up(
    shadow: &mut Shadow,
    (tree, index): (&mut Tree, &mut Index),
    staged: &Log,
    (after, upto): (Lsn, Lsn),
) -> io::Result<()> {
    let mut at = after.next();
    while at <= upto {
        let bytes = staged.read(at, disk::CHUNK)?;
        let mut rest = &bytes[..];
        let mut changes = Vec::new();
        while let Ok((record, head)) = Record::read(rest)
            && record.lsn <= upto
        {
            rest = rest.get(head.size()..).unwrap_or_default();
            at = record.lsn.next();
            changes.push(record.change);
        }
        if changes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("record {at} is not in the second log")));
        }
        shadow.catch_up(tree, index, &changes)?;
    }
    Ok(())
}
