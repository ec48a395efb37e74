//! The log's length: what is cut off it, and when.

use serde::{Deserialize, Serialize};

use super::follower::Run;
use super::group::{Group, Role};
use super::history::Base;
use super::order::Work;
use crate::context::Ctx;
use crate::ids::{Lsn, NodeId};
use crate::mutant::Mutant;

/// A place in the log, for cutting it.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Mark {
    base: Base,
    bytes: u64,
}

impl Group {
    /// Bytes came into the log, which durably ends with this position and check.
    pub(super) fn mark(&mut self, bytes: u64, always: bool, (lsn, check): (Lsn, u32)) {
        self.bytes += bytes;
        self.unmarked += bytes;
        if always || self.unmarked >= self.config.log_bytes / 16 {
            self.unmarked = 0;
            let base = Base { lsn, check, eras: self.log.eras_to(lsn) };
            self.marks.push_back(Mark { base, bytes: self.bytes });
        }
    }

    /// Another log has taken this one's place.
    pub(super) fn marks_anew(&mut self, bytes: u64) {
        self.marks.clear();
        (self.bytes, self.unmarked) = (bytes, 0);
        self.checkpoint = self.log.end;
        self.mark(0, true, (self.log.end, self.log.check));
    }

    /// Keeps the log within its bound. What is cut off, a copy that has not taken it does without.
    pub(super) fn cut(&mut self, ctx: &mut Ctx<'_>) {
        let limit = self.config.log_bytes;
        // With half of the log filled only what everybody has goes; with three quarters more has to.
        if self.bytes < limit / 2 {
            return;
        }
        let settled = self.durable.min(self.applied_for_checkpoint());
        if self.checkpointing.is_none() && self.checkpoint < settled && self.retry.is_none() && self.switching.is_none()
        {
            let op = self.op();
            self.checkpointing = Some((op, settled));
            self.order(ctx, Work::Checkpoint { op, at: settled });
        }
        let slowest = self.slowest(ctx);
        let over = self.bytes >= limit / 4 * 3;
        let mut cut = None;
        while let Some(mark) = self.marks.front()
            && mark.base.lsn <= self.checkpoint
            && (mark.base.lsn <= slowest || over)
            && (self.marks.len() > 1 || self.is_full())
            && self.bytes - cut.as_ref().map_or(0, |mark: &Mark| mark.bytes) >= limit / 2
        {
            cut = self.marks.pop_front();
        }
        let Some(mark) = cut.filter(|mark| mark.base.lsn > self.log.base) else { return };
        self.bytes -= mark.bytes;
        self.marks.iter_mut().for_each(|later| later.bytes -= mark.bytes);
        self.log.base = mark.base.lsn;
        self.dropped(ctx, mark.base.lsn);
        self.order(ctx, Work::Trim { base: mark.base });
    }

    fn applied_for_checkpoint(&self) -> Lsn {
        if self.writer.era.is_some() { self.durable } else { self.applied }
    }

    /// What the copy that is furthest behind has; who does not write knows of none, and keeps what its bound allows.
    fn slowest(&self, ctx: &Ctx<'_>) -> Lsn {
        let Role::Primary { .. } = self.role else { return Lsn(0) };
        let held = |node: &NodeId| {
            self.feeds.get(node).map_or(Lsn(0), |feed| if feed.staged { feed.acked } else { feed.durable })
        };
        let others = self.others(ctx.me());
        if ctx.has(Mutant::CutByFastest) {
            return others.iter().map(held).max().unwrap_or(self.log.end);
        }
        others.iter().map(held).min().unwrap_or(self.log.end)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn run_logged(&mut self, run: &Run) {
        self.log = run.after.clone();
        self.durable = self.log.end;
        self.mark(run.bytes.len() as u64, false, (self.log.end, self.log.check));
    }
}
