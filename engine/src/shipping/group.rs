//! One group on one node: its log, its files, and its part: it writes, follows, or asks whether it may write.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::fact::{Fact, Trouble};
use super::feed::Feed;
use super::follower::{Follower, Run, Switch};
use super::history::History;
use super::length::Mark;
use super::message::{Lead, Message};
use super::model::Waiting;
use super::order::{Answer, Found, Happening, Work};
use super::writer::Writer;
use crate::config::GroupConfig;
use crate::context::{Ctx, Signal};
use crate::ids::{Epoch, EvidenceId, FileId, Incarnation, Lsn, NodeId, OpId};
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

/// Between two looks at what was not answered.
pub(super) const TICK: Micros = Micros::from_millis(50);
/// After so long without an answer something is sent again.
pub(super) const AGAIN: Micros = Micros::from_millis(150);
/// A disk in trouble is tried again after so long.
const RETRY: Micros = Micros::from_millis(500);
/// A holder that was told to let go waits for the others for so long.
const PARTING: Micros = Micros::from_secs(3);

/// What a node does for a group.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) enum Role {
    /// Nothing, until somebody leads.
    Idle,
    /// It has the grant and asks the others.
    Candidate(Candidate),
    /// Programs write here.
    Primary {
        /// By which grant.
        grant: Epoch,
        /// In which era.
        era: Epoch,
        /// Until the era's first record and the mark are durable: who waits.
        opening: Option<Opening>,
    },
    /// It takes another node's records.
    Follower(Follower),
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Opening {
    op: OpId,
    marked: bool,
    evidence: EvidenceId,
}

/// One group on one node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Group {
    pub(super) config: GroupConfig,
    pub(super) found: bool,
    pub(super) blank: bool,
    /// The files are, or with the log's records will be, a state of the history.
    pub(super) whole: bool,
    pub(super) promised: Epoch,
    promising: Option<(OpId, Epoch)>,
    /// Who asked before the promise was durable.
    pub(super) asked: BTreeMap<NodeId, Epoch>,
    pub(super) log: History,
    /// How much of the log is durable here; all of it unless this node writes.
    pub(super) durable: Lsn,
    pub(super) applied: Lsn,
    applying: Option<(OpId, Lsn)>,
    pub(super) checkpoint: Lsn,
    pub(super) checkpointing: Option<(OpId, Lsn)>,
    pub(super) writer: Writer,
    pub(super) closing: Option<OpId>,
    pub(super) feeds: BTreeMap<NodeId, Feed>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) role: Role,
    pub(super) let_go: Option<(Epoch, Time)>,
    pub(super) marks: VecDeque<Mark>,
    /// Bytes in the log, and since the last mark.
    pub(super) bytes: u64,
    pub(super) unmarked: u64,
    /// What the log of who follows is being changed by, also when it follows somebody else by then.
    pub(super) adding: Option<(OpId, Run)>,
    pub(super) switching: Option<(OpId, Switch)>,
    pub(super) trouble: Option<Trouble>,
    pub(super) retry: Option<Time>,
    pub(super) compare: bool,
    next_op: u64,
    pub(super) stream: u32,
    pub(super) tick: Option<Time>,
    led: Time,
    /// When each file was last changed, as far as a copy may not have it yet; names that went are under the last number.
    pub(super) touched: BTreeMap<FileId, Lsn>,
    /// How far each copy was when it last told, and who is behind by more than the bound.
    pub(super) seen: BTreeMap<NodeId, Lsn>,
    pub(super) lagging: BTreeSet<NodeId>,
    /// Who was told to have been left behind by the log.
    pub(super) cut_off: BTreeSet<NodeId>,
}

impl Group {
    pub(super) fn new(config: &GroupConfig) -> Self {
        Self {
            config: config.clone(),
            found: false,
            blank: false,
            whole: true,
            promised: Epoch(0),
            promising: None,
            asked: BTreeMap::new(),
            log: History::default(),
            durable: Lsn(0),
            applied: Lsn(0),
            applying: None,
            checkpoint: Lsn(0),
            checkpointing: None,
            writer: Writer::default(),
            closing: None,
            feeds: BTreeMap::new(),
            waiting: Vec::new(),
            role: Role::Idle,
            let_go: None,
            marks: VecDeque::new(),
            bytes: 0,
            unmarked: 0,
            adding: None,
            switching: None,
            trouble: None,
            retry: None,
            compare: false,
            next_op: 0,
            stream: 0,
            tick: None,
            led: Time(0),
            touched: BTreeMap::new(),
            seen: BTreeMap::new(),
            lagging: BTreeSet::new(),
            cut_off: BTreeSet::new(),
        }
    }

    /// Where this copy stands, for people: its last record, its last applied one, and whether programs write here.
    #[must_use]
    pub const fn position(&self) -> (Lsn, Lsn, bool) {
        (self.log.end, self.applied, matches!(self.role, Role::Primary { .. }))
    }

    pub(super) fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    pub(super) fn order(&self, ctx: &mut Ctx<'_>, work: Work) {
        ctx.files(self.config.id, work);
    }

    pub(super) fn fact(ctx: &mut Ctx<'_>, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        ctx.event(because, crate::event::Fact::Shipping(fact))
    }

    pub(super) fn others(&self, me: NodeId) -> Vec<NodeId> {
        self.config.copies.iter().copied().filter(|node| *node != me).collect()
    }

    pub(super) fn wake(&mut self, now: Time) {
        self.tick.get_or_insert(now + TICK);
    }

    /// The era that this life of a holder writes in: the grant counts first, then the life, so that a machine which lost what it had
    /// not made durable never gives one number of one era to two changes.
    fn era_of(grant: Epoch, life: Incarnation) -> Epoch {
        Epoch(grant.0.saturating_mul(1 << 20) | u64::from(life.0) & 0xf_ffff)
    }

    // What the host tells.

    pub(super) fn on_happening(&mut self, ctx: &mut Ctx<'_>, what: Happening) {
        match what {
            Happening::Found(found) => self.on_found(ctx, found),
            Happening::Captured(changes) => {
                let mut sound = true;
                for captured in changes {
                    if self.closing.is_some() && ctx.has(Mutant::TailUnread) {
                        continue;
                    }
                    sound &= self.on_captured(captured);
                    self.again(ctx);
                }
                if !sound {
                    self.on_missed(ctx);
                }
                self.pump(ctx);
            }
            Happening::Missed => self.on_missed(ctx),
            Happening::Done { op, answer } => self.on_done(ctx, op, answer),
        }
        self.settle(ctx);
    }

    fn on_found(&mut self, ctx: &mut Ctx<'_>, found: Found) {
        if self.found {
            return;
        }
        self.found = true;
        // Later than all streams of earlier lives.
        self.stream = ctx.incarnation().0 << 12;
        self.blank = found.blank;
        self.whole = !found.blank && (!found.torn || ctx.has(Mutant::TornIsWhole));
        self.promised = found.promised;
        self.durable = found.log.end;
        self.log = found.log;
        self.bytes = found.bytes;
        self.applied = found.applied.min(self.log.end);
        self.checkpoint = self.applied;
        self.writer.captured = found.captured;
        if found.torn {
            // What is in the files and not in the log may be what a program was told to be durable: nothing is applied over it.
            self.applied = self.log.end;
            self.checkpoint = self.log.end;
        } else if let Some(era) = found.open {
            // A program wrote while this daemon did not run: what was captured comes next, in the era it was written in.
            self.writer.era = Some(era);
            self.writer.written = found.written;
            self.applied = self.log.end;
            // Whom the daemon before would have told.
            self.writer.barriers.push_back((self.log.end, found.captured));
        }
        self.mark(0, true, (self.log.end, self.log.check));
        self.wake(ctx.now);
    }

    fn on_done(&mut self, ctx: &mut Ctx<'_>, op: OpId, answer: Answer) {
        if let Some((_, era)) = self.promising.filter(|(waits, _)| *waits == op) {
            self.promising = None;
            if answer == Answer::Done {
                self.promised = self.promised.max(era);
                self.on_promised(ctx);
            }
        } else if let Some((_, upto)) = self.applying.filter(|(waits, _)| *waits == op) {
            self.applying = None;
            self.went(ctx, &answer);
            if answer == Answer::Done {
                self.applied = self.applied.max(upto);
                self.ack(ctx);
            }
        } else if let Some((_, at)) = self.checkpointing.filter(|(waits, _)| *waits == op) {
            self.checkpointing = None;
            if answer == Answer::Done {
                self.checkpoint = self.checkpoint.max(at);
            }
        } else if self.closing == Some(op) {
            self.closing = None;
            let at = self.log.end;
            self.writer.era = None;
            self.applied = at;
            Self::fact(ctx, &[], Fact::Closed { group: self.config.id, at });
        } else if let Some((_, run)) = self.adding.take_if(|(waits, _)| *waits == op) {
            self.on_appended(ctx, &answer, run);
        } else if let Some((_, switch)) = self.switching.take_if(|(waits, _)| *waits == op) {
            self.on_switched(ctx, &answer, switch);
        } else if self.writer.appending.as_ref().is_some_and(|(waits, _)| *waits == op) {
            self.on_logged(ctx, &answer);
        } else if let Role::Primary { opening: Some(opening), .. } = &mut self.role
            && opening.op == op
        {
            opening.marked = answer == Answer::Done;
            if !opening.marked {
                // The mark is asked for again.
                self.retry = Some(ctx.now + RETRY);
            }
        } else if matches!(self.role, Role::Follower(_)) && self.on_follower_done(ctx, op, &answer) {
        } else {
            self.on_feed_done(ctx, op, answer);
        }
    }

    /// How a disk fares.
    pub(super) fn went(&mut self, ctx: &mut Ctx<'_>, answer: &Answer) -> bool {
        let trouble = match answer {
            Answer::Full => Some(Trouble::Full),
            Answer::Failed => Some(Trouble::Failed),
            _ => None,
        };
        if trouble.is_some() {
            self.retry = Some(ctx.now + RETRY);
        }
        if trouble != self.trouble {
            self.trouble = trouble;
            self.ack(ctx);
        }
        trouble.is_none()
    }

    pub(super) const fn may_try(&self) -> bool {
        self.retry.is_none()
    }

    // Eras.

    /// Refuses lower eras from now on; false until that is durable.
    pub(super) fn promise(&mut self, ctx: &mut Ctx<'_>, era: Epoch) -> bool {
        if era <= self.promised {
            return true;
        }
        if ctx.has(Mutant::EraInMemory) {
            self.promised = era;
            self.on_promised(ctx);
            return true;
        }
        // One at a time: what is durable is known here, too. A higher one is asked for again.
        if self.promising.is_none() {
            let op = self.op();
            self.promising = Some((op, era));
            self.order(ctx, Work::Promise { op, era });
        }
        false
    }

    fn on_promised(&mut self, ctx: &mut Ctx<'_>) {
        Self::fact(ctx, &[], Fact::Promised { group: self.config.id, era: self.promised });
        let era = match &self.role {
            Role::Idle => None,
            Role::Candidate(candidate) => Some(candidate.era),
            Role::Primary { era, .. } => Some(*era),
            Role::Follower(follower) => Some(follower.era),
        };
        if era.is_some_and(|era| era < self.promised) {
            self.step_back(ctx);
        }
        self.feeds.clear();
        self.waiting.clear();
    }

    /// Neither writes nor follows any more.
    pub(super) fn step_back(&mut self, ctx: &mut Ctx<'_>) {
        self.role = Role::Idle;
        self.close(ctx);
        self.wake(ctx.now);
    }

    pub(super) fn close(&mut self, ctx: &mut Ctx<'_>) {
        if self.writer.era.is_some() && self.closing.is_none() {
            let op = self.op();
            self.closing = Some(op);
            self.order(ctx, Work::Close { op });
        }
    }

    pub(super) const fn applying_none(&self) -> bool {
        self.applying.is_none()
    }

    pub(super) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether the log has no room: what comes waits until a part of it is cut off.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= self.config.log_bytes
    }

    /// Whether log and files stand still and are one: nothing is captured, logged or applied.
    pub(super) fn is_settled(&self) -> bool {
        let still = self.adding.is_none() && self.switching.is_none() && self.closing.is_none();
        self.found && still && self.writer.is_idle() && self.applied == self.log.end
    }

    // What the other parts say.

    pub(super) fn on_holds(&mut self, ctx: &mut Ctx<'_>, grant: Epoch, evidence: EvidenceId) {
        let era = Self::era_of(grant, ctx.incarnation());
        if ctx.has(Mutant::OpensEarly) {
            ctx.signal(Signal::FilesReady { resource: self.config.resource, epoch: grant, evidence });
        }
        if let Role::Primary { era: now, opening: None, .. } = self.role
            && now == era
            && self.closing.is_none()
        {
            ctx.signal(Signal::FilesReady { resource: self.config.resource, epoch: grant, evidence });
            return;
        }
        self.let_go = None;
        self.role = Role::Candidate(Candidate::new(grant, era, evidence, ctx.now));
        self.wake(ctx.now);
        self.settle(ctx);
    }

    pub(super) fn on_lost(&mut self, ctx: &mut Ctx<'_>) {
        self.let_go = None;
        if matches!(self.role, Role::Candidate(_) | Role::Primary { .. }) || self.fetches() {
            self.step_back(ctx);
        }
        self.settle(ctx);
    }

    fn fetches(&self) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.then.is_some())
    }

    /// Nothing runs any more: the grant is given back once the others have what was written.
    pub(super) fn on_let_go(&mut self, ctx: &mut Ctx<'_>, grant: Epoch) {
        self.let_go = Some((grant, ctx.now + PARTING));
        if matches!(self.role, Role::Candidate(_)) || self.fetches() {
            self.role = Role::Idle;
        }
        self.close(ctx);
        self.wake(ctx.now);
        self.settle(ctx);
    }

    fn try_let_go(&mut self, ctx: &mut Ctx<'_>) {
        let Some((epoch, until)) = self.let_go else { return };
        let behind = |feed: &Feed| feed.staged || feed.durable < self.log.end;
        let waits = self.closing.is_some() || !self.writer.is_idle() || self.feeds.values().any(behind);
        let over = ctx.now >= until || ctx.has(Mutant::LetsGoEarly) || matches!(self.role, Role::Idle);
        if waits && !over {
            return;
        }
        self.let_go = None;
        if matches!(self.role, Role::Primary { .. }) {
            Self::fact(ctx, &[], Fact::LetGo { group: self.config.id, at: self.log.end, whole: !waits });
        }
        self.role = Role::Idle;
        ctx.signal(Signal::LetGo { resource: self.config.resource, epoch });
    }

    // Time.

    pub(super) fn on_timer(&mut self, ctx: &mut Ctx<'_>) {
        self.tick = None;
        if self.retry.is_some_and(|at| at <= ctx.now) {
            self.retry = None;
            if let Role::Primary { era, opening: Some(opening), .. } = &mut self.role
                && !opening.marked
            {
                let (op, era) = (opening.op, *era);
                self.order(ctx, Work::Open { op, era });
            }
        }
        match &self.role {
            Role::Candidate(_) => self.ask_again(ctx),
            Role::Primary { era, .. } => {
                let era = *era;
                if ctx.now.since(self.led) >= TICK.scale(2, 1) {
                    self.lead(ctx, era);
                }
                self.feeds_again(ctx);
            }
            Role::Follower(_) => self.follower_again(ctx),
            Role::Idle => {}
        }
        if !matches!(self.role, Role::Primary { .. }) && !self.feeds.is_empty() {
            self.feeds_again(ctx);
        }
        self.settle(ctx);
        if !matches!(self.role, Role::Idle) || !self.is_settled() || self.let_go.is_some() || !self.feeds.is_empty() {
            self.wake(ctx.now);
        }
    }

    /// Tells the other copies that this node writes.
    pub(super) fn lead(&mut self, ctx: &mut Ctx<'_>, era: Epoch) {
        self.led = ctx.now;
        let (group, base, end) = (self.config.id, self.log.base, self.log.end);
        for to in self.others(ctx.me()) {
            let eras = self.log.eras.clone();
            Self::say(ctx, to, Message::Lead(Lead { group, era, base, end, eras }));
        }
    }

    // What follows from what is so now.

    /// Does whatever can be done now.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        if !self.found {
            return;
        }
        self.log_captured(ctx);
        self.compared(ctx);
        self.apply(ctx);
        self.candidate_step(ctx);
        self.opened(ctx);
        self.follower_step(ctx);
        self.answer_asks(ctx);
        self.release(ctx);
        self.cut(ctx);
        self.try_let_go(ctx);
    }

    /// Only what is durable in the log goes into the files: after a failure they can be brought to the log's end.
    fn apply(&mut self, ctx: &mut Ctx<'_>) {
        let writes = self.writer.era.is_some() || self.closing.is_some();
        let mut upto = self.log.end;
        if ctx.has(Mutant::AppliesBeforeDurable)
            && let Role::Follower(follower) = &self.role
            && follower.staged.is_none()
        {
            upto = follower.received.end;
        }
        if writes || self.applying.is_some() || self.applied >= upto || self.retry.is_some() || self.switching.is_some()
        {
            return;
        }
        let op = self.op();
        self.applying = Some((op, upto));
        self.order(ctx, Work::Apply { op, upto });
    }

    /// Programs may write from now on, in a new era.
    pub(super) fn open(&mut self, ctx: &mut Ctx<'_>, grant: Epoch, era: Epoch, evidence: EvidenceId) {
        let fresh = !self.whole && !ctx.has(Mutant::FreshForgotten);
        let op = self.op();
        self.role = Role::Primary { grant, era, opening: Some(Opening { op, marked: false, evidence }) };
        self.feeds.clear();
        self.waiting.clear();
        self.seen.clear();
        self.lagging.clear();
        self.cut_off.clear();
        if !ctx.has(Mutant::CacheKept) {
            // What this life wrote before may not be in the history any more, nor is what others wrote since among it.
            self.writer.forget();
        }
        self.writer.era = Some(era);
        (self.blank, self.whole) = (false, true);
        if !ctx.has(Mutant::EraUnmarked) {
            self.number(super::record::Change::Era { fresh }, None);
        }
        let at = self.log.end;
        let opened = Self::fact(ctx, &[evidence], Fact::Opened { group: self.config.id, era, at, fresh });
        if let Role::Primary { opening: Some(opening), .. } = &mut self.role {
            opening.evidence = opened;
        }
        self.order(ctx, Work::Open { op, era });
        self.lead(ctx, era);
    }

    fn opened(&mut self, ctx: &mut Ctx<'_>) {
        let durable = self.durable;
        let Role::Primary { grant, opening, .. } = &mut self.role else { return };
        let first = self.log.eras.last().map(|last| last.first).unwrap_or_default();
        if let Some(open) = opening.take_if(|open| open.marked && durable >= first) {
            let (resource, epoch) = (self.config.resource, *grant);
            ctx.signal(Signal::FilesReady { resource, epoch, evidence: open.evidence });
        }
    }
}
