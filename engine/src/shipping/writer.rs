//! Captured changes get their numbers, and go into the log and to who follows.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fact::Fact;
use super::group::{Group, Role};
use super::order::{Answer, Captured, Work};
use super::pop_if;
use super::record::{Change, Head, Record};
use crate::config::Mode;
use crate::context::Ctx;
use crate::ids::{Epoch, FileId, Lsn, OpId};
use crate::mutant::Mutant;

/// Bytes of records that are kept in memory for who follows closely.
const CACHE: usize = 1 << 20;
/// Bytes in one order to the log at most, if single records are not longer.
pub(super) const APPEND: usize = 256 * 1024;
/// Under this number it is kept when a name last went.
pub(super) const NAMES: FileId = FileId(u64::MAX);

/// What a node that writes keeps.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Writer {
    /// In which era programs write, until that is closed.
    pub(super) era: Option<Epoch>,
    /// The last captured change that has a record.
    pub(super) captured: u64,
    /// Captured before this life: other copies may have records of it that this one's log has not yet.
    pub(super) written: u64,
    /// Not in the log yet: position, bytes, number of the captured change.
    pub(super) unlogged: VecDeque<(Lsn, Vec<u8>, u64)>,
    pub(super) appending: Option<(OpId, Lsn)>,
    /// What programs wait for.
    pub(super) barriers: VecDeque<(Lsn, u64)>,
    /// The newest records.
    cache: VecDeque<(Lsn, Vec<u8>)>,
    cached: usize,
}

impl Writer {
    pub(super) fn is_idle(&self) -> bool {
        self.era.is_none() && self.unlogged.is_empty() && self.appending.is_none()
    }

    /// Forgets the newest records: they are read from the log.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
        self.cached = 0;
    }

    /// Records after `after`, one behind the other, as far as they are in memory and within `most` bytes. Those that are not in the log
    /// yet can be had nowhere else.
    pub(super) fn cached(&self, after: Lsn, most: usize) -> Option<(Lsn, Vec<u8>)> {
        let skip = |first: Lsn| usize::try_from(after.next().0.checked_sub(first.0)?).ok();
        if let Some(skip) = self.cache.front().and_then(|(first, _)| skip(*first)) {
            return run(self.cache.iter().skip(skip).map(|(lsn, bytes)| (*lsn, bytes)), most);
        }
        let skip = skip(self.unlogged.front()?.0)?;
        run(self.unlogged.iter().skip(skip).map(|(lsn, bytes, _)| (*lsn, bytes)), most)
    }
}

/// As many records as `most` bytes hold, one at least, and the last of them.
fn run<'r>(records: impl Iterator<Item = (Lsn, &'r Vec<u8>)>, most: usize) -> Option<(Lsn, Vec<u8>)> {
    let mut out: Option<(Lsn, Vec<u8>)> = None;
    for (lsn, bytes) in records {
        match &mut out {
            None => out = Some((lsn, bytes.clone())),
            Some((_, all)) if all.len() + bytes.len() > most => break,
            Some((last, all)) => {
                *last = lsn;
                all.extend_from_slice(bytes);
            }
        }
    }
    out
}

impl Group {
    /// Gives a captured change its number; false: it cannot be one.
    pub(super) fn on_captured(&mut self, captured: Captured) -> bool {
        let Captured { number, change } = captured;
        if self.writer.era.is_none() || number <= self.writer.captured {
            return true;
        }
        let next = number == self.writer.captured + 1;
        self.writer.captured = number;
        let sound = change.is_sound() && !matches!(change, Change::Era { .. });
        if sound {
            self.number(change, Some(number));
        }
        next && sound
    }

    /// Numbers the last change again, now and then: a planted bug.
    pub(super) fn again(&mut self, ctx: &Ctx<'_>) {
        if !ctx.has(Mutant::NumberedTwice) || !self.log.end.0.is_multiple_of(7) {
            return;
        }
        let last = self.writer.unlogged.back().and_then(|(_, bytes, _)| Record::read(bytes).ok());
        if let Some((record, _)) = last {
            self.number(record.change, None);
        }
    }

    /// The next record of the history.
    pub(super) fn number(&mut self, change: Change, captured: Option<u64>) {
        let Some(era) = self.writer.era else { return };
        let lsn = self.log.end.next();
        self.touched.insert(change.file(), lsn);
        match &change {
            Change::Create { at, .. }
            | Change::Link { at, .. }
            | Change::Mkdir { at, .. }
            | Change::Symlink { at, .. } => {
                self.touched.insert(at.dir, lsn);
            }
            Change::Rename { from, to, .. } => {
                for dir in [from.dir, to.dir, NAMES] {
                    self.touched.insert(dir, lsn);
                }
            }
            Change::Unlink { .. } | Change::Rmdir { .. } => {
                self.touched.insert(NAMES, lsn);
            }
            _ => {}
        }
        let barrier = matches!(change, Change::Barrier { .. });
        let record = Record { group: self.config.id, era, lsn, prev: self.log.check, change };
        let (bytes, check) = record.encode();
        if let Ok(head) = Head::read(&bytes) {
            self.log.push(&head);
        } else {
            (self.log.end, self.log.check) = (lsn, check);
        }
        if let (true, Some(number)) = (barrier, captured) {
            self.writer.barriers.push_back((lsn, number));
        }
        let writer = &mut self.writer;
        writer.cached += bytes.len();
        writer.cache.push_back((lsn, bytes.clone()));
        while writer.cached > CACHE
            && let Some((_, old)) = writer.cache.pop_front()
        {
            writer.cached -= old.len();
        }
        let number = writer.captured;
        writer.unlogged.push_back((lsn, bytes, number));
    }

    /// Changes were lost on the way: the files are no longer what the records lead to.
    pub(super) fn on_missed(&mut self, ctx: &mut Ctx<'_>) {
        if self.writer.era.is_none() || ctx.has(Mutant::MissedIgnored) {
            return;
        }
        Self::fact(ctx, &[], Fact::Missed { group: self.config.id, after: self.log.end });
        self.number(Change::Era { fresh: true }, None);
        self.pump(ctx);
    }

    /// Bytes in one order to the log.
    pub(super) fn append_at_most(&self) -> usize {
        APPEND.min(usize::try_from(self.config.log_bytes / 8).unwrap_or(APPEND))
    }

    /// One order at a time: what comes meanwhile goes with the next.
    pub(super) fn log_captured(&mut self, ctx: &mut Ctx<'_>) {
        if self.writer.appending.is_some() || self.writer.unlogged.is_empty() || !self.may_try() || self.is_full() {
            return;
        }
        let most = self.append_at_most();
        let op = self.op();
        let mut records = Vec::new();
        let mut last = (Lsn(0), 0);
        for (lsn, bytes, captured) in &self.writer.unlogged {
            if !records.is_empty() && records.len() + bytes.len() > most {
                break;
            }
            records.extend_from_slice(bytes);
            last = (*lsn, *captured);
        }
        self.writer.appending = Some((op, last.0));
        self.order(ctx, Work::Append { op, staged: false, records, captured: last.1 });
    }

    pub(super) fn on_logged(&mut self, ctx: &mut Ctx<'_>, answer: &Answer) {
        let Some((_, upto)) = self.writer.appending.take() else { return };
        if !self.own_went(ctx, answer) {
            return;
        }
        let (mut bytes, mut check) = (0, self.log.check);
        while let Some((_, gone, _)) = pop_if(&mut self.writer.unlogged, |(lsn, ..)| *lsn <= upto) {
            bytes += gone.len() as u64;
            check = Head::read(&gone).map_or(check, |head| head.check);
        }
        self.durable = upto;
        self.mark(bytes, false, (upto, check));
    }

    /// The disk of who writes fails: it is tried again, and told.
    fn own_went(&mut self, ctx: &mut Ctx<'_>, answer: &Answer) -> bool {
        let before = self.trouble;
        let fine = self.went(ctx, answer);
        let (group, node) = (self.config.id, ctx.me());
        match (before, self.trouble) {
            (None, Some(why)) => {
                Self::fact(ctx, &[], Fact::Troubled { group, node, why });
            }
            (Some(_), None) => {
                Self::fact(ctx, &[], Fact::Recovered { group, node });
            }
            _ => {}
        }
        fine
    }

    /// Up to where programs need not wait any more.
    fn kept_by_enough(&self, ctx: &Ctx<'_>) -> Lsn {
        let counted = |feed: &&super::feed::Feed| !feed.staged || ctx.has(Mutant::StagedCounts);
        let feeds = || self.feeds.values().filter(counted);
        match self.config.mode {
            Mode::Async => self.log.end,
            Mode::SemiSync if ctx.has(Mutant::SemiAtOnce) => self.log.end,
            Mode::SemiSync => feeds().map(|feed| feed.received).max().unwrap_or_default(),
            Mode::Sync if ctx.has(Mutant::NeedIgnored) => self.durable,
            Mode::Sync => {
                let mut durable: Vec<Lsn> = feeds().map(|feed| feed.durable).collect();
                durable.push(self.durable);
                durable.sort_unstable_by(|a, b| b.cmp(a));
                durable.get(usize::from(self.config.need).saturating_sub(1)).copied().unwrap_or_default()
            }
        }
    }

    pub(super) fn release(&mut self, ctx: &mut Ctx<'_>) {
        if !matches!(self.role, Role::Primary { .. }) {
            return;
        }
        let kept = self.kept_by_enough(ctx);
        let mut last = None;
        while let Some((_, number)) = pop_if(&mut self.writer.barriers, |(lsn, _)| *lsn <= kept) {
            last = Some(number);
        }
        if let Some(captured) = last {
            self.order(ctx, Work::Release { captured });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_logged_yet_is_sent_from_memory_however_much_it_is() {
        let record = |lsn: u64| (Lsn(lsn), alloc::vec![lsn as u8; 10]);
        let writer = Writer {
            unlogged: (4..=9).map(|lsn| (record(lsn).0, record(lsn).1, lsn)).collect(),
            cache: (7..=9).map(record).collect(),
            ..Writer::default()
        };
        let sent = |after: u64| writer.cached(Lsn(after), 25).map(|(last, bytes)| (last.0, bytes[0], bytes.len()));
        assert_eq!(sent(7), Some((9, 8, 20)));
        assert_eq!(sent(9), None, "there is no more");
        assert_eq!(sent(4), Some((6, 5, 20)), "gone from the cache");
        assert_eq!(sent(3), Some((5, 4, 20)));
        assert_eq!(sent(2), None, "that is in the log");
        assert_eq!(Writer::default().cached(Lsn(3), 25), None);
    }
}
