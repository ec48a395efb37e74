//! A comparison or a scrub, on the side whose files are the model.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fact::Fact;
use super::group::{AGAIN, Group, Role};
use super::message::{Holds, Mending, Message, Scrub, Wrong};
use super::order::{Answer, Work};
use super::page::{Mend, Mends, Page, Place, TOP};
use super::pieces::{Batch, Pieces};
use super::writer::NAMES;
use crate::context::Ctx;
use crate::ids::{FileId, Lsn, NodeId};
use crate::mutant::Mutant;

/// What one copy told and was not compared yet: more is left to be told again.
const JOBS: usize = 8;
/// Parts of one answer: as much as fills a long line until the next is told.
const PARTS: u8 = 4;

/// What a copy told, and from where on it is not compared yet.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Job {
    number: u32,
    scrub: Option<Lsn>,
    page: Page,
    from: Place,
    parts: u8,
}

/// How far a copy's files are looked through.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Walked {
    salt: u64,
    number: u32,
    pieces: Pieces,
    /// What is being looked at.
    batch: Option<Batch>,
}

/// A comparison whose captured changes have not all come yet.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Waiting {
    to: NodeId,
    stream: u32,
    number: u32,
    last: bool,
    scrub: Option<Lsn>,
    mends: Mends,
    captured: u64,
}

impl Group {
    pub(super) fn on_page(&mut self, ctx: &mut Ctx<'_>, from: NodeId, holds: Holds) {
        let Some(feed) = self.feeds.get_mut(&from).filter(|feed| (feed.stream, feed.era) == (holds.stream, holds.era))
        else {
            return self.unknown(ctx, from, (holds.era, holds.stream));
        };
        let Holds { number, scrub, page, .. } = holds;
        let asked = scrub.is_none() || feed.scrub.as_ref().is_some_and(|walked| walked.number == number);
        let known = feed.jobs.iter().any(|job| (job.number, job.scrub) == (number, scrub))
            || feed
                .comparing
                .as_ref()
                .is_some_and(|(_, job)| (job.number, job.scrub.is_some()) == (number, scrub.is_some()));
        if !asked || known || feed.jobs.len() >= JOBS || page.told.is_empty() {
            return;
        }
        feed.jobs.push_back(Job { number, scrub, page, from: Place::START, parts: PARTS });
        self.compare_next(ctx, from);
    }

    fn compare_next(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let op = self.op();
        let Some(feed) = self.feeds.get_mut(&node).filter(|feed| feed.comparing.is_none()) else { return };
        let Some(job) = feed.jobs.pop_front() else { return };
        let (page, from) = (job.page.clone(), job.from.clone());
        feed.comparing = Some((op, job));
        self.order(ctx, Work::Compare { op, page, from });
    }

    pub(super) fn on_compared(&mut self, ctx: &mut Ctx<'_>, node: NodeId, answer: Answer) {
        let Some(feed) = self.feeds.get_mut(&node) else { return };
        let Some((_, mut job)) = feed.comparing.take() else { return };
        if let Answer::Mends { mends, captured } = answer {
            job.parts -= 1;
            let (number, scrub) = (job.number, job.scrub);
            let whole = job.page.end().is_none_or(|end| mends.to >= *end);
            let last = whole || job.parts == 0 || scrub.is_some() || mends.to <= job.from;
            let waiting = Waiting { to: node, stream: feed.stream, number, last, scrub, mends, captured };
            if !last {
                job.from = waiting.mends.to.clone();
                feed.jobs.push_front(job);
            }
            self.waiting.push(waiting);
            self.compared(ctx);
        }
        self.compare_next(ctx, node);
    }

    /// Sends or judges what was compared, once all that was captured before has its number.
    pub(super) fn compared(&mut self, ctx: &mut Ctx<'_>) {
        let writes = self.writer.era.is_some();
        let captured = self.writer.captured;
        let (ready, waiting) =
            core::mem::take(&mut self.waiting).into_iter().partition(|waits| !writes || waits.captured <= captured);
        self.waiting = waiting;
        let ready: Vec<Waiting> = ready;
        for Waiting { to, stream, number, last, scrub, mends, .. } in ready {
            let Some(feed) = self.feeds.get(&to).filter(|feed| feed.stream == stream) else { continue };
            if let Some(applied) = scrub {
                self.judge(ctx, to, (number, applied), mends);
                continue;
            }
            let (group, era, upto) = (self.config.id, feed.era, self.log.end);
            let mending = Mending { group, era, stream, number, last, upto, mends };
            Self::say(ctx, to, Message::Mends(Box::new(mending)));
        }
    }

    // Scrub.

    pub(super) fn scrub_again(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Primary { era, opening: None, .. } = self.role else { return };
        let (group, never) = (self.config.id, self.config.scrub.0 == 0);
        for (node, feed) in &mut self.feeds {
            let busy = feed.comparing.is_some() || !feed.jobs.is_empty();
            let idle = feed.staged || feed.applied == Lsn(0) || busy;
            if idle || ctx.now < feed.scrub_at || never && !feed.asked {
                continue;
            }
            feed.scrub_at = ctx.now + feed.pace.again().max(AGAIN);
            let salt = feed.scrub.as_ref().map_or_else(|| ctx.rng.next(), |walked| walked.salt);
            let begun = || Walked { salt, number: 0, pieces: Pieces::all(TOP), batch: None };
            let walked = feed.scrub.get_or_insert_with(begun);
            if walked.batch.is_none() {
                walked.batch = walked.pieces.take();
            }
            walked.number += 1;
            let Some(batch) = &walked.batch else { continue };
            let (number, salt, depth, stretches) = (walked.number, walked.salt, batch.depth, batch.stretches.clone());
            let scrub = Scrub { group, era, stream: feed.stream, number, salt, depth, stretches };
            Self::say(ctx, *node, Message::Scrub(scrub));
        }
    }

    /// A difference counts if the file was not changed after what the copy had applied: then nothing explains it.
    fn judge(&mut self, ctx: &mut Ctx<'_>, node: NodeId, (number, applied): (u32, Lsn), mut mends: Mends) {
        let (group, wait) = (self.config.id, self.config.scrub);
        // Of what was changed before this era nothing is known here.
        let known = self.log.eras.last().is_some_and(|last| last.first <= applied);
        let hasty = ctx.has(Mutant::ScrubHasty);
        let unexplained = |file: &FileId| hasty || known && self.touched.get(file).is_none_or(|lsn| *lsn <= applied);
        let still = unexplained(&NAMES);
        let wrong = mends.mends.iter().find_map(|mend| match mend {
            Mend::Block { file, block, .. } => unexplained(file).then_some((*file, Some(*block))),
            Mend::File { file, .. } => unexplained(file).then_some((*file, None)),
            Mend::Gone(file) => (still && unexplained(file)).then_some((*file, None)),
            Mend::Name { dir, file, .. } => (still && unexplained(dir)).then_some((file.unwrap_or(*dir), None)),
        });
        let Some(feed) = self.feeds.get_mut(&node) else { return };
        let Some(walked) = feed.scrub.as_mut().filter(|walked| walked.number == number) else { return };
        let Some(mut batch) = walked.batch.take() else { return };
        batch.remove(&Place::START, &mends.to);
        let depth = batch.depth;
        walked.pieces.put(batch);
        // That a file is missing says enough.
        mends.zeros.clear();
        walked.pieces.put_asked(depth, &mut mends);
        let done = walked.pieces.is_empty();
        feed.scrub_at = if done { ctx.now + wait } else { ctx.now };
        feed.scrubs += u64::from(done);
        feed.asked &= !done;
        if done {
            feed.scrub = None;
        }
        if let Some((file, block)) = wrong.filter(|_| !ctx.has(Mutant::ScrubIgnored)) {
            let (era, stream) = (feed.era, feed.stream);
            feed.scrub_at = ctx.now + wait;
            Self::fact(ctx, &[], Fact::Differs { group, node, file, block });
            Self::say(ctx, node, Message::Wrong(Wrong { group, era, stream }));
        }
    }
}
