//! The side that follows: takes records into its log and then into its files, or has its files compared first.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::fact::Fact;
use super::fold::Fold;
use super::group::{AGAIN, Group, Role};
use super::history::{EraStart, History, is_fresh_after};
use super::message::{Begin, Follow, Holds, Lead, Message, Records, Scrub, Wrong};
use super::order::{Answer, Work};
use super::pace::Pace;
use super::pop_if;
use super::record::{Head, Record};
use super::stand::Doing;
use super::walker::Walk;
use crate::context::Ctx;
use crate::ids::{Epoch, EvidenceId, Lsn, NodeId, OpId};
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

/// Who is not heard for so long is followed no longer when it serves a candidate.
const SILENT: Micros = Micros::from_secs(2);
/// Bytes of records that wait for the log.
const INBOX: usize = 1 << 20;

/// How far the comparison of files has come.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Records only.
    Log,
    /// What only this copy holds is being saved.
    Saving(OpId, Lsn),
    /// It has asked for the comparison.
    Asking,
    /// The second tree is being made.
    Shadowing(OpId),
    /// It is told what is here, and mended.
    Walking,
    /// All is mended; right with the records up to here.
    Mended(Lsn),
    /// The second tree takes the first one's place.
    Switching,
    /// As `Saving`, afterwards: a planted bug.
    SavingLate(OpId),
}

/// Records on their way into the log.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) bytes: Vec<u8>,
    pub(super) after: History,
    staged: bool,
    stream: u32,
}

/// A log that takes the place of another.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Switch {
    log: History,
    bytes: u64,
    era: Epoch,
    late: Option<Lsn>,
}

/// A copy that follows.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Follower {
    pub(super) source: NodeId,
    pub(super) era: Epoch,
    pub(super) stream: u32,
    pub(super) stage: Stage,
    /// It follows so as to write then: by which grant, because of what.
    pub(super) then: Option<(Epoch, EvidenceId)>,
    /// How far the source had come when it was chosen.
    goal: Lsn,
    inbox: VecDeque<Run>,
    /// What overtook records that have not come yet, by its first one.
    early: BTreeMap<Lsn, Vec<u8>>,
    /// What has come without a gap.
    pub(super) received: History,
    /// The log that is being built beside files that are compared.
    pub(super) staged: Option<History>,
    pub(super) upto: Lsn,
    pub(super) walk: Walk,
    pub(super) pace: Pace,
    pub(super) heard: Time,
    asked: Time,
    /// What a scrub asked for: the records applied by then, and its number.
    scrubbing: Option<(OpId, Lsn, u32)>,
    saves: Option<Lsn>,
}

/// The record that follows whole ones, and what is there already.
fn first_after(mut records: &[u8], end: Lsn) -> Lsn {
    let mut last = end;
    while let Ok(head) = Head::read(records) {
        last = last.max(head.lsn);
        records = records.get(head.size()..).unwrap_or_default();
    }
    last.next()
}

impl Follower {
    /// Whether it takes records, so that it can say how far it has come: before files are compared it has not begun.
    pub(super) const fn may_ack(&self) -> bool {
        self.staged.is_some() || matches!(self.stage, Stage::Log | Stage::SavingLate(_))
    }

    /// For people.
    pub(super) fn doing(&self) -> Doing {
        match (&self.stage, self.then) {
            (Stage::Log | Stage::SavingLate(_), Some(_)) => Doing::Fetching(self.goal),
            (Stage::Log | Stage::SavingLate(_), None) => Doing::Following(self.source),
            _ => Doing::Comparing(self.source, self.walk.place()),
        }
    }
}

impl Group {
    pub(super) fn on_lead(&mut self, ctx: &mut Ctx<'_>, from: NodeId, lead: Lead) {
        if lead.era < self.promised && !ctx.has(Mutant::OldEraTaken) {
            return self.refuse(ctx, from, lead.era);
        }
        if !self.promise(ctx, lead.era) {
            return;
        }
        match &mut self.role {
            Role::Follower(follower) if (follower.source, follower.era) == (from, lead.era) => {
                follower.heard = ctx.now;
                return;
            }
            Role::Idle | Role::Follower(_) => {}
            _ => return,
        }
        // What was written here under an earlier grant goes into the log first.
        if self.writer.era.is_some() {
            self.step_aside(ctx);
        }
        if self.is_settled() {
            self.follow(ctx, (from, lead.era), (lead.base, lead.end, &lead.eras), None);
        }
    }

    /// Whether this copy can go on by the records of a history, without its files being compared.
    pub(super) fn takes_records(&self, base: Lsn, end: Lsn, eras: &[EraStart]) -> bool {
        let own = self.whole && !self.blank && !self.compare;
        own && base <= self.log.end && !is_fresh_after(eras, self.log.end) && self.log.agrees(eras, end) == self.log.end
    }

    /// Begins to follow: by records if this copy's history is a part of the other's, else by comparing files.
    pub(super) fn follow(
        &mut self,
        ctx: &mut Ctx<'_>,
        (source, era): (NodeId, Epoch),
        (base, end, eras): (Lsn, Lsn, &[EraStart]),
        then: Option<(Epoch, EvidenceId)>,
    ) {
        let agreed = self.log.agrees(eras, end);
        let diverged = agreed < self.log.end;
        let fresh = is_fresh_after(eras, self.log.end) && !ctx.has(Mutant::FreshFollowed);
        let whole = self.whole || ctx.has(Mutant::TornFollows);
        let records = whole && !self.blank && !self.compare && !fresh && base <= self.log.end;
        let compares = !(records && (!diverged || ctx.has(Mutant::DivergedFollows)));
        self.stream += 1;
        let mut follower = Follower {
            source,
            era,
            stream: self.stream,
            stage: Stage::Log,
            then,
            goal: end,
            inbox: VecDeque::new(),
            early: BTreeMap::new(),
            received: self.log.clone(),
            staged: None,
            upto: Lsn(0),
            walk: Walk::default(),
            pace: Pace::default(),
            heard: ctx.now,
            asked: ctx.now,
            scrubbing: None,
            saves: None,
        };
        let group = self.config.id;
        Self::fact(ctx, &[], Fact::Following { group, era, source, compares });
        if compares {
            follower.stage = Stage::Asking;
            // A copy whose files are not what its log leads to saves them too.
            let saves = (diverged || !self.whole) && !self.blank && !ctx.has(Mutant::OrphansForgotten);
            if saves && ctx.has(Mutant::OrphansLate) {
                follower.saves = Some(agreed.next());
            } else if saves {
                let op = self.op();
                follower.stage = Stage::Saving(op, agreed.next());
                self.order(ctx, Work::Orphans { op, from: agreed.next() });
            }
        }
        self.role = Role::Follower(follower);
        // Whom this copy served while it followed nobody does so no more.
        self.feeds.clear();
        self.waiting.clear();
        self.ask_to_follow(ctx);
        self.ack(ctx);
        self.wake(ctx.now);
    }

    fn ask_to_follow(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let from = match follower.stage {
            Stage::Log => Some(follower.received.end),
            Stage::Asking => None,
            _ => return,
        };
        follower.asked = ctx.now;
        let follow = Follow { group: self.config.id, era: follower.era, stream: follower.stream, from };
        Self::say(ctx, follower.source, Message::Follow(follow));
    }

    /// This node's files are closed before it follows.
    fn step_aside(&mut self, ctx: &mut Ctx<'_>) {
        self.on_lost(ctx);
        if self.writer.era.is_some() {
            self.close(ctx);
        }
    }

    pub(super) fn on_records(&mut self, ctx: &mut Ctx<'_>, from: NodeId, records: &Records) {
        let Role::Follower(follower) = &mut self.role else { return };
        if (from, records.era, records.stream) != (follower.source, follower.era, follower.stream) {
            return;
        }
        follower.heard = ctx.now;
        let taking = follower.staged.is_some() || matches!(follower.stage, Stage::Log);
        if !taking || follower.inbox.iter().map(|run| run.bytes.len()).sum::<usize>() > INBOX {
            return;
        }
        let first = Head::read(&records.bytes).map_or(Lsn(0), |head| head.lsn);
        if first > follower.received.end.next() && !ctx.has(Mutant::GapTaken) {
            let held: usize = follower.early.values().map(Vec::len).sum();
            if held + records.bytes.len() <= INBOX {
                follower.early.insert(first, records.bytes.clone());
            }
            return;
        }
        let mut bytes = records.bytes.clone();
        // What had overtaken it follows.
        while let Some(next) = follower.early.first_entry()
            && *next.key() <= first_after(&bytes, follower.received.end)
        {
            bytes.extend_from_slice(&next.remove());
        }
        let mut rest = &bytes[..];
        let mut run = Vec::new();
        let mut wrong = false;
        while let Ok((record, head)) = Record::read(rest) {
            let (bytes, later) = rest.split_at(head.size().min(rest.len()));
            rest = later;
            if head.lsn <= follower.received.end && !(ctx.has(Mutant::TakenTwice) && head.lsn == follower.received.end)
            {
                continue;
            }
            let follows = follower.received.takes(&head) || ctx.has(Mutant::GapTaken) || ctx.has(Mutant::TakenTwice);
            if record.group != self.config.id || record.era > follower.era || !follows {
                // A gap is filled by repetition; another history is not.
                wrong = head.lsn == follower.received.end.next();
                break;
            }
            // Files that are compared already were looked at before that, too.
            if head.is_fresh() && !ctx.has(Mutant::FreshFollowed) {
                wrong = true;
                break;
            }
            follower.received.push(&head);
            run.extend_from_slice(bytes);
        }
        if !run.is_empty() {
            let after = follower.received.clone();
            let (staged, stream) = (follower.staged.is_some(), follower.stream);
            follower.inbox.push_back(Run { bytes: run, after, staged, stream });
        }
        if wrong {
            self.compare = true;
            self.give_up(ctx);
        } else if self.config.mode == crate::config::Mode::SemiSync {
            self.ack(ctx);
        }
    }

    pub(super) fn on_begin(&mut self, ctx: &mut Ctx<'_>, from: NodeId, begin: Begin) {
        let op = self.op();
        let Role::Follower(follower) = &mut self.role else { return };
        let expected = (follower.source, follower.era, follower.stream);
        if (from, begin.era, begin.stream) != expected || !matches!(follower.stage, Stage::Asking) {
            return;
        }
        follower.heard = ctx.now;
        follower.staged = Some(History::after(&begin.base));
        follower.received = History::after(&begin.base);
        follower.upto = begin.base.lsn;
        follower.walk.fold = Fold::after(begin.base.lsn);
        follower.inbox.clear();
        follower.early.clear();
        follower.stage = Stage::Shadowing(op);
        self.order(ctx, Work::Shadow { op, base: begin.base });
    }

    pub(super) fn on_wrong(&mut self, ctx: &Ctx<'_>, from: NodeId, wrong: Wrong) {
        let Role::Follower(follower) = &self.role else { return };
        if (from, wrong.era, wrong.stream) == (follower.source, follower.era, follower.stream) {
            // The next word of who writes begins it.
            self.compare = true;
            self.give_up(ctx);
        }
    }

    pub(super) fn on_scrub(&mut self, ctx: &mut Ctx<'_>, from: NodeId, scrub: Scrub) {
        let (op, applied) = (self.op(), self.applied);
        let Role::Follower(follower) = &mut self.role else { return };
        let known = (from, scrub.era, scrub.stream) == (follower.source, follower.era, follower.stream);
        if known && follower.staged.is_none() && follower.scrubbing.is_none() {
            follower.scrubbing = Some((op, applied, scrub.number));
            let Scrub { salt, depth, stretches, .. } = scrub;
            self.order(ctx, Work::Digest { op, shadow: false, salt, depth, stretches });
        }
    }

    /// An order of a follower is done; false: it was none.
    pub(super) fn on_follower_done(&mut self, ctx: &mut Ctx<'_>, op: OpId, answer: &Answer) -> bool {
        let Role::Follower(follower) = &mut self.role else { return false };
        if let Some((_, applied, number)) = follower.scrubbing.filter(|(waits, ..)| *waits == op) {
            follower.scrubbing = None;
            if let Answer::Page(page) = answer {
                let (group, era, stream) = (self.config.id, follower.era, follower.stream);
                let holds = Holds { group, era, stream, number, scrub: Some(applied), page: page.clone() };
                Self::say(ctx, follower.source, Message::Holds(holds));
            }
            return true;
        }
        let stage = follower.stage.clone();
        match stage {
            Stage::Saving(waits, first) if waits == op => {
                if self.went(ctx, answer) {
                    let upto = self.log.end;
                    Self::fact(ctx, &[], Fact::Orphaned { group: self.config.id, from: first, upto });
                    self.go_to(Stage::Asking);
                    self.ask_to_follow(ctx);
                } else {
                    self.give_up(ctx);
                }
            }
            Stage::SavingLate(waits) if waits == op => self.go_to(Stage::Log),
            Stage::Shadowing(waits) if waits == op => {
                if self.went(ctx, answer) {
                    self.walk_from_the_start(ctx);
                } else {
                    self.give_up(ctx);
                }
            }
            Stage::Walking => return self.on_walked(ctx, op, answer),
            _ => return false,
        }
        true
    }

    /// Follows no more; who did so as to write asks the others again.
    pub(super) fn give_up(&mut self, ctx: &Ctx<'_>) {
        let Role::Follower(follower) = &self.role else { return };
        let asks = follower.then.filter(|_| !ctx.has(Mutant::FetchForgotten));
        self.role = asks.map_or(Role::Idle, |(grant, evidence)| {
            Role::Candidate(Candidate::new(grant, follower.era, evidence, ctx.now))
        });
        self.wake(ctx.now);
    }

    pub(super) fn go_to(&mut self, stage: Stage) {
        if let Role::Follower(follower) = &mut self.role {
            follower.stage = stage;
        }
    }

    pub(super) fn on_appended(&mut self, ctx: &mut Ctx<'_>, answer: &Answer, run: Run) {
        let skips = ctx.has(Mutant::FullSkipped) && *answer == Answer::Full;
        if !self.went(ctx, answer) && !skips {
            // Nothing after it before it.
            if let Role::Follower(follower) = &mut self.role
                && follower.stream == run.stream
            {
                follower.inbox.push_front(run);
            }
            return;
        }
        if !run.staged {
            self.run_logged(&run);
        } else if let Role::Follower(follower) = &mut self.role
            && follower.stream == run.stream
        {
            follower.walk.fold.logged(run.bytes.len() as u64, &run.after, self.config.log_bytes);
            // What was cut off it meanwhile stays so.
            let base = follower.staged.as_ref().map_or(run.after.base, |staged| staged.base);
            follower.staged = Some(History { base, ..run.after });
        }
        self.ack(ctx);
    }

    pub(super) fn on_switched(&mut self, ctx: &mut Ctx<'_>, answer: &Answer, switch: Switch) {
        if !self.went(ctx, answer) {
            if matches!(self.role, Role::Follower(_)) {
                self.give_up(ctx);
            }
            return;
        }
        let Switch { log, bytes, era, late } = switch;
        match &mut self.role {
            Role::Follower(follower) if matches!(follower.stage, Stage::Switching) => {
                (follower.stage, follower.staged) = (Stage::Log, None);
            }
            Role::Follower(_) => self.give_up(ctx),
            _ => {}
        }
        self.log = log;
        (self.durable, self.applied) = (self.log.end, self.log.end);
        (self.whole, self.blank, self.compare) = (true, false, false);
        self.marks_anew(bytes);
        Self::fact(ctx, &[], Fact::Synced { group: self.config.id, era, at: self.log.end });
        if let Some(from) = late {
            let op = self.op();
            self.go_to(Stage::SavingLate(op));
            self.order(ctx, Work::Orphans { op, from });
        }
        self.ack(ctx);
    }

    /// Does whatever a follower can do now.
    pub(super) fn follower_step(&mut self, ctx: &mut Ctx<'_>) {
        self.append_received(ctx);
        self.walk_on(ctx);
        let may = self.may_try();
        let idle = self.adding.is_none() && self.switching.is_none() && self.applying_none();
        let Role::Follower(follower) = &self.role else { return };
        if let (Stage::Mended(upto), Some(staged)) = (&follower.stage, &follower.staged)
            && (staged.end >= *upto || ctx.has(Mutant::SwitchesEarly))
            && idle
            && may
        {
            let log = staged.clone();
            let (bytes, era, late) = (follower.walk.fold.bytes(), follower.era, follower.saves);
            let upto = log.end;
            let op = self.op();
            self.go_to(Stage::Switching);
            self.switching = Some((op, Switch { log, bytes, era, late }));
            self.order(ctx, Work::Switch { op, upto });
            return;
        }
        let Role::Follower(follower) = &self.role else { return };
        // Who follows so as to write has caught up.
        if let Some((grant, evidence)) = follower.then
            && matches!(follower.stage, Stage::Log)
            && self.log.end >= follower.goal
            && self.applied == self.log.end
            && follower.era == self.promised
        {
            let era = follower.era;
            self.open(ctx, grant, era, evidence);
        }
    }

    fn append_received(&mut self, ctx: &mut Ctx<'_>) {
        let (op, most) = (self.op(), self.append_at_most());
        let (may, full) = (self.may_try(), self.is_full());
        let Role::Follower(follower) = &mut self.role else { return };
        let may = may && (!full || follower.staged.is_some());
        let taking = matches!(follower.stage, Stage::Log) || follower.staged.is_some();
        if !may || !taking || self.adding.is_some() || matches!(follower.stage, Stage::Switching | Stage::Shadowing(_))
        {
            return;
        }
        let Some(mut run) = follower.inbox.pop_front() else { return };
        while let Some(next) = pop_if(&mut follower.inbox, |next| run.bytes.len() + next.bytes.len() <= most) {
            run.bytes.extend_from_slice(&next.bytes);
            run.after = next.after;
        }
        // What came while the trees changed places goes into the log that is there now.
        run.staged = follower.staged.is_some();
        let (staged, records) = (run.staged, run.bytes.clone());
        self.adding = Some((op, run));
        self.order(ctx, Work::Append { op, staged, records, captured: 0 });
    }

    /// What was not answered is asked again.
    pub(super) fn follower_again(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.then.is_some() && ctx.now.since(follower.heard) > SILENT {
            // Who held the best history is gone: the others are asked anew.
            return self.give_up(ctx);
        }
        self.walk_again(ctx);
        let Role::Follower(follower) = &mut self.role else { return };
        if ctx.now.since(follower.asked) < AGAIN {
            return;
        }
        match follower.stage.clone() {
            // Also tells who has restarted, or lost what it knew of this copy.
            Stage::Log | Stage::Asking => {
                self.ask_to_follow(ctx);
                self.ack(ctx);
            }
            _ => {
                follower.asked = ctx.now;
                self.ack(ctx);
            }
        }
    }
}
