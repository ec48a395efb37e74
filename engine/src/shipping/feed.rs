//! The side that is followed: records, comparison of files, scrub, and what is told of who falls behind.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fact::{Fact, Trouble};
use super::group::{AGAIN, Group, Role};
use super::history::Base;
use super::message::{Ack, Begin, Follow, Message, Records, Wrong};
use super::model::{Job, Walked};
use super::order::{Answer, Work};
use super::pace::Pace;
use super::pop_if;
use crate::context::Ctx;
use crate::ids::{Epoch, Lsn, NodeId, OpId};
use crate::mutant::Mutant;
use crate::time::Time;

/// Bytes of records in one packet, if a single one is not longer.
const PACKET: usize = 24 * 1024;
/// Bytes of records on their way to one copy.
const INFLIGHT: usize = 256 * 1024;

/// One copy that follows this node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Feed {
    pub(super) stream: u32,
    pub(super) era: Epoch,
    /// Its files are being compared; what it holds is no copy yet.
    pub(super) staged: bool,
    begin: Option<Base>,
    sent: Lsn,
    /// What was sent and not received: up to where, bytes, since when if it was sent once.
    on_way: VecDeque<(Lsn, usize, Option<Time>)>,
    pub(super) received: Lsn,
    /// As it says, also of records that it keeps beside files that are compared.
    pub(super) acked: Lsn,
    pub(super) durable: Lsn,
    pub(super) applied: Lsn,
    progress: Time,
    reading: Option<OpId>,
    pub(super) comparing: Option<(OpId, Job)>,
    /// What it told and was not compared yet.
    pub(super) jobs: VecDeque<Job>,
    pub(super) pace: Pace,
    /// Up to here it has been sent records again.
    again: Lsn,
    pub(super) trouble: Option<Trouble>,
    pub(super) scrub: Option<Walked>,
    pub(super) scrub_at: Time,
    /// It is looked through once although that is not done now and then, or before its time.
    pub(super) asked: bool,
    /// How often all of it was looked through.
    pub(super) scrubs: u64,
}

impl Feed {
    /// Whether its files are being looked through.
    pub(super) const fn is_scrubbing(&self) -> bool {
        self.scrub.is_some() || self.asked
    }

    /// Looks through its files from now on.
    pub(super) const fn look_through(&mut self, now: Time) {
        (self.asked, self.scrub_at) = (true, now);
    }
}

impl Group {
    /// Whether this node may be followed in an era: it writes in it, or holds what its writer fetches.
    fn serves(&self, era: Epoch) -> bool {
        match &self.role {
            Role::Primary { era: mine, .. } => *mine == era,
            Role::Idle => era == self.promised && self.is_settled() && !self.blank,
            _ => false,
        }
    }

    pub(super) fn on_follow(&mut self, ctx: &mut Ctx<'_>, from: NodeId, follow: Follow) {
        if follow.era < self.promised {
            return self.refuse(ctx, from, follow.era);
        }
        if !self.serves(follow.era)
            || self.feeds.get(&from).is_some_and(|feed| feed.stream > follow.stream && feed.era == follow.era)
        {
            return;
        }
        let (group, era, stream) = (self.config.id, follow.era, follow.stream);
        let staged = follow.from.is_none();
        if follow.from.is_some_and(|from| from < self.log.base) {
            // The records after that are gone.
            return Self::say(ctx, from, Message::Wrong(Wrong { group, era, stream }));
        }
        if staged && !self.whole {
            // Records are as good as any; files that lost something are nobody's model.
            return;
        }
        let known = self.feeds.get(&from).is_some_and(|feed| feed.stream == follow.stream && feed.era == follow.era);
        if !known {
            let base = Base { lsn: self.log.end, check: self.log.check, eras: self.log.eras.clone() };
            let at = follow.from.unwrap_or(base.lsn);
            // It goes on from what it has received; what of that is durable it tells next.
            let durable = if !staged && ctx.has(Mutant::FollowCounts) { at } else { Lsn(0) };
            let before = self.feeds.get(&from).and_then(|feed| feed.trouble);
            let feed = Feed {
                stream: follow.stream,
                era: follow.era,
                staged,
                begin: staged.then_some(base),
                sent: at,
                on_way: VecDeque::new(),
                received: at,
                acked: at,
                durable,
                applied: Lsn(0),
                progress: ctx.now,
                reading: None,
                comparing: None,
                jobs: VecDeque::new(),
                pace: Pace::default(),
                again: Lsn(0),
                trouble: before,
                scrub: None,
                scrub_at: ctx.now + self.config.scrub,
                asked: false,
                scrubs: 0,
            };
            self.feeds.insert(from, feed);
        }
        if let Some(base) = self.feeds.get(&from).and_then(|feed| feed.begin.clone()) {
            Self::say(ctx, from, Message::Begin(Begin { group, era, stream, base }));
        }
        self.pump(ctx);
        self.wake(ctx.now);
    }

    /// Sends records to who can take more.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_>) {
        let nodes: Vec<NodeId> = self.feeds.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.pump_to(ctx, node));
    }

    fn pump_to(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        loop {
            let end = self.log.end;
            let Some(feed) = self.feeds.get_mut(&node) else { return };
            let room = feed.on_way.iter().map(|(_, bytes, _)| bytes).sum::<usize>() < INFLIGHT;
            if feed.sent >= end || !room || feed.reading.is_some() || feed.trouble.is_some() {
                return;
            }
            let sent = feed.sent;
            match self.writer.cached(sent, PACKET) {
                Some((last, bytes)) => self.send_records(ctx, node, last, bytes),
                None => {
                    let op = self.op();
                    if let Some(feed) = self.feeds.get_mut(&node) {
                        feed.reading = Some(op);
                    }
                    self.order(ctx, Work::Read { op, from: sent.next(), most: PACKET as u32 });
                    return;
                }
            }
        }
    }

    fn send_records(&mut self, ctx: &mut Ctx<'_>, node: NodeId, last: Lsn, bytes: Vec<u8>) {
        let (group, end) = (self.config.id, self.log.end);
        let Some(feed) = self.feeds.get_mut(&node) else { return };
        if feed.on_way.is_empty() {
            feed.progress = ctx.now;
        }
        feed.sent = last;
        feed.on_way.push_back((last, bytes.len(), (last > feed.again).then_some(ctx.now)));
        let (era, stream) = (feed.era, feed.stream);
        Self::say(ctx, node, Message::Records(Records { group, era, stream, end, bytes }));
    }

    pub(super) fn on_ack(&mut self, ctx: &mut Ctx<'_>, from: NodeId, ack: Ack) {
        let (end, group) = (self.log.end, self.config.id);
        let Some(feed) = self.feeds.get_mut(&from).filter(|feed| (feed.stream, feed.era) == (ack.stream, ack.era))
        else {
            return self.unknown(ctx, from, (ack.era, ack.stream));
        };
        // What was never written cannot be held.
        if ack.received > end || ack.durable > ack.received.max(end) || ack.applied > end {
            return;
        }
        if ack.received > feed.received {
            feed.progress = ctx.now;
            feed.pace.went_on();
        }
        feed.received = feed.received.max(ack.received);
        feed.acked = feed.acked.max(ack.durable);
        let mut sent = None;
        while let Some((.., at)) = pop_if(&mut feed.on_way, |(last, ..)| *last <= ack.received) {
            sent = at;
        }
        if let Some(at) = sent {
            feed.pace.observe(ctx.now.since(at));
        }
        if ack.applied > Lsn(0) {
            // Only a copy whose files are published says so.
            (feed.staged, feed.begin) = (false, None);
            feed.applied = feed.applied.max(ack.applied);
            self.cut_off.remove(&from);
        }
        if !feed.staged || ctx.has(Mutant::StagedCounts) {
            feed.durable = feed.durable.max(ack.durable);
        }
        let trouble = match ack.trouble {
            1 => Some(Trouble::Full),
            2 => Some(Trouble::Failed),
            _ => None,
        };
        let before = core::mem::replace(&mut feed.trouble, trouble);
        if let Some(why) = trouble.filter(|_| trouble != before) {
            Self::fact(ctx, &[], Fact::Troubled { group, node: from, why });
        } else if before.is_some() && trouble.is_none() {
            Self::fact(ctx, &[], Fact::Recovered { group, node: from });
        }
        self.pump_to(ctx, from);
    }

    /// A copy whose files were being compared when it was left behind begins anew.
    pub(super) fn unknown(&self, ctx: &mut Ctx<'_>, from: NodeId, (era, stream): (Epoch, u32)) {
        if self.serves(era) && self.cut_off.contains(&from) && !self.feeds.contains_key(&from) {
            Self::say(ctx, from, Message::Wrong(Wrong { group: self.config.id, era, stream }));
        }
    }

    /// What was not answered is sent again; who is behind is told of; files are looked through.
    pub(super) fn feeds_again(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        let again = !ctx.has(Mutant::NeverResends);
        for feed in self.feeds.values_mut() {
            let wait = if ctx.has(Mutant::PaceIgnored) { AGAIN } else { feed.pace.again() };
            if feed.sent > feed.received && now.since(feed.progress) >= wait && again {
                feed.again = feed.again.max(feed.sent);
                (feed.sent, feed.progress) = (feed.received, now);
                feed.on_way.clear();
                feed.pace.in_vain();
            }
        }
        self.pump(ctx);
        self.watch_lag(ctx);
        self.scrub_again(ctx);
        // What a scrub is told may be older than what was acknowledged since.
        if self.feeds.values().all(|feed| feed.scrub.is_none()) {
            let slowest = self.feeds.values().map(|feed| feed.applied).min().unwrap_or(self.log.end);
            self.touched.retain(|_, lsn| *lsn > slowest);
        }
    }

    fn watch_lag(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Primary { .. } = self.role else { return };
        let (group, bound) = (self.config.id, self.config.lag);
        for node in self.others(ctx.me()) {
            let applied = self.feeds.get(&node).map(|feed| if feed.staged { Lsn(0) } else { feed.applied });
            if let Some(applied) = applied.filter(|applied| *applied > Lsn(0)) {
                self.seen.insert(node, applied);
            }
            let applied = self.seen.get(&node).copied().unwrap_or_default();
            let behind = self.log.end.0.saturating_sub(applied.0);
            if behind > bound {
                if self.lagging.insert(node) && !ctx.has(Mutant::LagUntold) {
                    Self::fact(ctx, &[], Fact::Lagging { group, node, behind });
                }
            } else if behind <= bound / 2 && self.lagging.remove(&node) {
                Self::fact(ctx, &[], Fact::CaughtUp { group, node });
            }
        }
    }

    /// Records are gone from the log: who has not taken them has its files compared.
    pub(super) fn dropped(&mut self, ctx: &mut Ctx<'_>, upto: Lsn) {
        if !matches!(self.role, Role::Primary { .. }) {
            return;
        }
        for node in self.others(ctx.me()) {
            if self.feeds.get(&node).is_none_or(|feed| feed.acked < upto) {
                self.drop_feed(ctx, node, upto);
            }
        }
    }

    fn drop_feed(&mut self, ctx: &mut Ctx<'_>, node: NodeId, upto: Lsn) {
        let group = self.config.id;
        if let Some(Feed { era, stream, .. }) = self.feeds.remove(&node) {
            Self::say(ctx, node, Message::Wrong(Wrong { group, era, stream }));
        }
        if self.cut_off.insert(node) {
            Self::fact(ctx, &[], Fact::Dropped { group, node, upto });
        }
    }

    pub(super) fn on_feed_done(&mut self, ctx: &mut Ctx<'_>, op: OpId, answer: Answer) {
        let Some((node, feed)) = self.feeds.iter_mut().find(|(_, feed)| {
            feed.reading == Some(op) || feed.comparing.as_ref().is_some_and(|(waits, _)| *waits == op)
        }) else {
            return;
        };
        let node = *node;
        if feed.reading == Some(op) {
            feed.reading = None;
            match answer {
                Answer::Records(bytes) => {
                    let mut rest = &bytes[..];
                    let mut last = None;
                    while let Ok(head) = super::record::Head::read(rest) {
                        last = Some(head.lsn);
                        rest = rest.get(head.size()..).unwrap_or_default();
                    }
                    if let Some(last) = last {
                        self.send_records(ctx, node, last, bytes);
                        self.pump_to(ctx, node);
                    }
                }
                Answer::Gone => {
                    let upto = self.log.base;
                    self.drop_feed(ctx, node, upto);
                }
                // It is tried again with the next tick.
                _ => {}
            }
            return;
        }
        self.on_compared(ctx, node, answer);
    }
}
