//! A comparison, on the side whose files are mended: what is here is told piece by piece, several at a time, and what comes back is done.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fold::Fold;
use super::follower::Stage;
use super::group::{Group, Role};
use super::message::{Holds, Mending, Message};
use super::order::{Answer, Work};
use super::page::{Mends, Page, Place, TOP, Told, What};
use super::pieces::{Batch, Open, Pieces};
use crate::context::Ctx;
use crate::ids::{Lsn, NodeId, OpId};
use crate::mutant::Mutant;
use crate::time::Micros;

/// What is told and not answered at once: enough for a long line, as each is answered in parts.
const WINDOW: usize = 4;
/// Parts of answers that wait for the disk.
const CAME: usize = 32;

/// How far a comparison has come.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Walk {
    salt: u64,
    pieces: Pieces,
    told: Open,
    number: u32,
    reading: Option<(OpId, Batch)>,
    came: VecDeque<Came>,
    mending: Option<(OpId, After)>,
    pub(super) fold: Fold,
}

/// A part of an answer.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Came {
    mends: Mends,
    after: After,
}

/// What follows once it is done: with the records up to here it is right, what is asked for, what is to be told again.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct After {
    upto: Lsn,
    floor: Lsn,
    depth: u8,
    /// Its places and what it asks for, without what it does.
    asks: Mends,
    again: Option<Batch>,
}

impl Walk {
    /// What lies before it is mended.
    pub(super) fn place(&self) -> Place {
        self.pieces.place()
    }

    /// Up to here no mend that may still come wants a record again.
    pub(super) fn floor(&self) -> Lsn {
        let told = self.told.0.values().map(|asked| asked.floor);
        let came =
            self.came.iter().map(|came| came.after.floor).chain(self.mending.iter().map(|(_, after)| after.floor));
        told.chain(came).fold(self.fold.upto, Lsn::min)
    }

    fn is_done(&self) -> bool {
        let none_open = self.told.0.is_empty() && self.reading.is_none() && !self.fold.is_busy();
        none_open && self.pieces.is_empty() && self.came.is_empty() && self.mending.is_none()
    }
}

impl Group {
    /// The second tree is there.
    pub(super) fn walk_from_the_start(&mut self, ctx: &mut Ctx<'_>) {
        let depth = if ctx.has(Mutant::SumsSkipped) { 0 } else { TOP };
        let salt = ctx.rng.next();
        let Role::Follower(follower) = &mut self.role else { return };
        let base = follower.staged.as_ref().map_or(Lsn(0), |staged| staged.base);
        let fold = core::mem::replace(&mut follower.walk.fold, Fold::after(base));
        follower.walk = Walk { salt, pieces: Pieces::all(depth), fold, ..Walk::default() };
        self.go_to(Stage::Walking);
    }

    /// Does whatever the comparison can do now.
    pub(super) fn walk_on(&mut self, ctx: &mut Ctx<'_>) {
        let may = self.may_try();
        loop {
            let op = self.op();
            let Role::Follower(follower) = &mut self.role else { return };
            if !matches!(follower.stage, Stage::Walking) {
                return;
            }
            let walk = &mut follower.walk;
            let tells = walk.reading.is_none() && walk.told.0.len() < WINDOW && !walk.pieces.is_empty();
            let (folds, tells) = (tells && self.fold(ctx), tells);
            let Role::Follower(follower) = &mut self.role else { return };
            let walk = &mut follower.walk;
            if walk.mending.is_none()
                && may
                && let Some(Came { mends, after }) = walk.came.pop_front()
            {
                walk.mending = Some((op, after));
                self.order(ctx, Work::Mend { op, mends });
                continue;
            }
            if tells
                && !folds
                && let Some(batch) = walk.pieces.take()
            {
                if batch.zeros {
                    // What is there is known.
                    let told = |stretch: &super::page::Stretch| Told {
                        from: stretch.from.clone(),
                        to: stretch.to.clone(),
                        what: What::Zeros,
                    };
                    let page = Page { salt: walk.salt, told: batch.stretches.iter().map(told).collect() };
                    self.tell_page(ctx, batch, page);
                } else {
                    let (salt, depth, stretches) = (walk.salt, batch.depth, batch.stretches.clone());
                    walk.reading = Some((op, batch));
                    self.order(ctx, Work::Digest { op, shadow: true, salt, depth, stretches });
                }
                continue;
            }
            if walk.is_done() {
                follower.stage = Stage::Mended(follower.upto);
            }
            return;
        }
    }

    fn tell_page(&mut self, ctx: &mut Ctx<'_>, batch: Batch, page: Page) {
        let Role::Follower(follower) = &mut self.role else { return };
        let walk = &mut follower.walk;
        walk.number += 1;
        walk.fold.told();
        let Some(rest) = walk.told.tell(walk.number, batch, &page, (ctx.now, walk.fold.upto)) else {
            // Nothing of it was told: the host cannot read its tree.
            return self.give_up(ctx);
        };
        walk.pieces.put(rest);
        let (group, era, stream, number) = (self.config.id, follower.era, follower.stream, walk.number);
        Self::say(ctx, follower.source, Message::Holds(Holds { group, era, stream, number, scrub: None, page }));
    }

    /// An order of the comparison is done; false: it was none.
    pub(super) fn on_walked(&mut self, ctx: &mut Ctx<'_>, op: OpId, answer: &Answer) -> bool {
        if self.on_folded(ctx, op, answer) {
            return true;
        }
        let Role::Follower(follower) = &mut self.role else { return false };
        let walk = &mut follower.walk;
        if let Some((_, batch)) = walk.reading.take_if(|(waits, _)| *waits == op) {
            match answer {
                Answer::Page(page) => self.tell_page(ctx, batch, page.clone()),
                _ => self.give_up(ctx),
            }
            return true;
        }
        let Some((_, after)) = walk.mending.take_if(|(waits, _)| *waits == op) else { return false };
        if !self.went(ctx, answer) {
            self.give_up(ctx);
            return true;
        }
        let Role::Follower(follower) = &mut self.role else { return true };
        let After { upto, floor, depth, mut asks, again } = after;
        follower.upto = follower.upto.max(upto);
        follower.walk.fold.mended(floor);
        if let Some(batch) = again.filter(|_| !ctx.has(Mutant::RestForgotten)) {
            follower.walk.pieces.put(batch);
        }
        if ctx.has(Mutant::FinerForgotten) {
            asks.finer.clear();
        }
        follower.walk.pieces.put_asked(depth, &mut asks);
        if ctx.has(Mutant::FirstPageOnly) {
            follower.walk.pieces = Pieces::default();
        }
        true
    }

    /// A part of an answer came.
    pub(super) fn on_mends(&mut self, ctx: &mut Ctx<'_>, from: NodeId, mending: Mending) {
        let Role::Follower(follower) = &mut self.role else { return };
        let expected = (follower.source, follower.era, follower.stream);
        let walks = matches!(follower.stage, Stage::Walking) && follower.walk.came.len() < CAME;
        if (from, mending.era, mending.stream) != expected || !walks {
            return;
        }
        follower.heard = ctx.now;
        let Mending { number, last, upto, mut mends, .. } = mending;
        let Some(answered) = follower.walk.told.answered(number, &mends, last, ctx.now) else { return };
        follower.pace.went_on();
        if let Some(since) = answered.since {
            follower.pace.observe(ctx.now.since(since));
        }
        let asks = Mends {
            from: mends.from.clone(),
            to: mends.to.clone(),
            mends: Vec::new(),
            finer: core::mem::take(&mut mends.finer),
            // Who was told of zeros makes no file by that.
            zeros: core::mem::take(&mut mends.zeros).into_iter().filter(|_| !answered.zeros).collect(),
        };
        let after = After { upto, floor: answered.floor, depth: answered.depth, asks, again: answered.again };
        follower.walk.came.push_back(Came { mends, after });
    }

    /// What was not answered is told again, as it is by then.
    pub(super) fn walk_again(&mut self, ctx: &Ctx<'_>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let wait = if ctx.has(Mutant::PaceIgnored) { super::group::AGAIN } else { follower.pace.again() };
        let walk = &mut follower.walk;
        let late = |at| ctx.now.since(at) >= wait && wait > Micros::ZERO;
        let numbers: Vec<u32> =
            walk.told.0.iter().filter(|(_, asked)| late(asked.at)).map(|(number, _)| *number).collect();
        for number in &numbers {
            if let Some(asked) = walk.told.0.remove(number)
                && !ctx.has(Mutant::LostIsMended)
            {
                walk.pieces.put(asked.batch);
            }
        }
        if !numbers.is_empty() {
            follower.pace.in_vain();
        }
    }
}
