//! Records that come while files are compared go into the second tree soon: what programs write meanwhile is then not sent twice, and the
//! second log does not grow without a bound.
//!
//! A mend shows a block as the source had it at or after the last record that this tree had when the block was told. So records after
//! that one go in again once the mend is done, and no record is dropped that such a mend may still want.

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::group::{Group, Role};
use super::history::{Base, History};
use super::order::{Answer, Work};
use crate::context::Ctx;
use crate::ids::{Lsn, OpId};
use crate::mutant::Mutant;

/// How much of the second log is in the second tree.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Fold {
    /// Records up to here are in it.
    pub(super) upto: Lsn,
    doing: Option<(OpId, Lsn, Lsn)>,
    /// Nothing was told since.
    fresh: bool,
    /// Where the log can be cut, and its bytes up to there.
    marks: VecDeque<(Base, u64)>,
    /// Bytes of the log, with what was cut off.
    bytes: u64,
    cut: u64,
}

impl Fold {
    pub(super) fn after(base: Lsn) -> Self {
        Self { upto: base, ..Self::default() }
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.doing.is_some()
    }

    /// Bytes of the log.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes - self.cut
    }

    /// Records are durable in the second log.
    pub(super) fn logged(&mut self, bytes: u64, after: &History, most: u64) {
        self.bytes += bytes;
        if self.bytes - self.marks.back().map_or(self.cut, |(_, bytes)| *bytes) >= most / 16 {
            let base = Base { lsn: after.end, check: after.check, eras: after.eras_to(after.end) };
            self.marks.push_back((base, self.bytes));
        }
    }

    /// Something was told, or is about to be.
    pub(super) const fn told(&mut self) {
        self.fresh = false;
    }

    /// A mend was done that shows the tree as of this record, or later.
    pub(super) fn mended(&mut self, floor: Lsn) {
        self.upto = self.upto.min(floor);
    }
}

impl Group {
    /// Brings the second tree up to the second log before more is told of it; true: that takes a while.
    pub(super) fn fold(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let (op, limit, may) = (self.op(), self.config.log_bytes, self.may_try());
        let Role::Follower(follower) = &mut self.role else { return false };
        let Some(staged) = &mut follower.staged else { return false };
        let fold = &mut follower.walk.fold;
        if fold.doing.is_some() {
            return true;
        }
        if fold.fresh || staged.end <= fold.upto || !may || ctx.has(Mutant::FoldForgotten) {
            return false;
        }
        let floor = if ctx.has(Mutant::FoldCutsAll) { fold.upto } else { follower.walk.floor() };
        let fold = &mut follower.walk.fold;
        let mut base = None;
        while let Some((at, bytes)) = fold.marks.front()
            && at.lsn <= floor
            && fold.bytes - fold.cut >= limit / 2
        {
            fold.cut = *bytes;
            base = fold.marks.pop_front().map(|(at, _)| at);
        }
        if let Some(base) = &base {
            staged.base = base.lsn;
        }
        let (from, upto) = (fold.upto, staged.end);
        (fold.doing, fold.fresh) = (Some((op, from, upto)), true);
        self.order(ctx, Work::Fold { op, from, upto, base });
        true
    }

    /// An order to do so is done; false: it was none.
    pub(super) fn on_folded(&mut self, ctx: &mut Ctx<'_>, op: OpId, answer: &Answer) -> bool {
        let Role::Follower(follower) = &mut self.role else { return false };
        let fold = &mut follower.walk.fold;
        let Some((_, from, upto)) = fold.doing.take_if(|(waits, ..)| *waits == op) else { return false };
        // A mend that was done meanwhile may want older ones again.
        if fold.upto == from {
            fold.upto = upto;
        }
        if !self.went(ctx, answer) {
            self.give_up(ctx);
        }
        true
    }
}
