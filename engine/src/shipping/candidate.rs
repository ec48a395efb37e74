//! Promotion: who has the grant writes only after enough copies have promised its era, and with the history that has come furthest.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fact::Fact;
use super::group::{AGAIN, Group, Role};
use super::history::{EraStart, History, is_fresh_after};
use super::message::{Ask, Have, Message};
use crate::context::Ctx;
use crate::ids::{Epoch, EvidenceId, Lsn, NodeId};
use crate::mutant::Mutant;
use crate::time::Time;

/// What was answered.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Answered {
    blank: bool,
    whole: bool,
    base: Lsn,
    end: Lsn,
    eras: Vec<EraStart>,
}

impl Answered {
    fn history(&self) -> History {
        History { base: self.base, end: self.end, check: 0, eras: self.eras.clone() }
    }

    fn rank(&self) -> (Epoch, Lsn) {
        self.history().rank()
    }

    /// Whether who has this copy's files and records can go on by the records of another.
    fn is_part_of(&self, other: &Self) -> bool {
        self.whole
            && other.base <= self.end
            && !is_fresh_after(&other.eras, self.end)
            && self.history().agrees(&other.eras, other.end) == self.end
    }
}

/// A holder that asks.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) grant: Epoch,
    pub(super) era: Epoch,
    pub(super) evidence: EvidenceId,
    since: Time,
    asked: Option<Time>,
    answers: BTreeMap<NodeId, Answered>,
    told: bool,
}

impl Candidate {
    pub(super) const fn new(grant: Epoch, era: Epoch, evidence: EvidenceId, now: Time) -> Self {
        Self { grant, era, evidence, since: now, asked: None, answers: BTreeMap::new(), told: false }
    }
}

impl Group {
    pub(super) fn ask_again(&mut self, ctx: &mut Ctx<'_>) {
        let others = self.others(ctx.me());
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.era != self.promised || candidate.asked.is_some_and(|at| ctx.now.since(at) < AGAIN) {
            return;
        }
        candidate.asked = Some(ctx.now);
        let ask = Ask { group: self.config.id, era: candidate.era };
        let missing = others.into_iter().filter(|node| !candidate.answers.contains_key(node));
        missing.for_each(|node| Self::say(ctx, node, Message::Ask(ask)));
    }

    pub(super) fn on_have(&mut self, ctx: &mut Ctx<'_>, from: NodeId, have: Have) {
        if have.promised > have.era {
            // A later grant is at work: this node's is over, and its lease will tell.
            let mine = match &self.role {
                Role::Candidate(candidate) => candidate.era,
                Role::Primary { era, .. } => *era,
                _ => return,
            };
            if have.promised > mine {
                self.promise(ctx, have.promised);
            }
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        if have.era == candidate.era && have.promised == have.era {
            let Have { blank, whole, base, end, eras, .. } = have;
            candidate.answers.insert(from, Answered { blank, whole, base, end, eras });
        }
    }

    /// Opens the files, or takes over a history that has come further.
    pub(super) fn candidate_step(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let (grant, era, evidence) = (candidate.grant, candidate.era, candidate.evidence);
        if era < self.promised {
            // Promised to another grant meanwhile: the lease of this one is over.
            return;
        }
        if !self.promise(ctx, era) {
            return;
        }
        self.ask_again(ctx);
        // A program of this grant may be writing still, after a restart of the daemon: what it wrote is logged first.
        let told = self.writer.captured >= self.writer.written;
        let resumes = self.writer.era.is_some()
            && told
            && !self.is_closing()
            && self.writer.unlogged.is_empty()
            && self.writer.appending.is_none();
        if !(self.is_settled() || resumes) {
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        let counts = |answer: &&Answered| !answer.blank || ctx.has(Mutant::BlankCounts);
        let everybody = candidate.answers.len() + 1 == self.config.copies.len();
        let have = candidate.answers.values().filter(counts).count() + usize::from(!self.blank);
        let all_blank = everybody && have == 0;
        let need = usize::from(self.config.quorum());
        let late = ctx.now.since(candidate.since) > AGAIN.scale(4, 1);
        if have < need && !all_blank && !ctx.has(Mutant::AsksNobody) {
            if !candidate.told && late {
                candidate.told = true;
                let (have, need) = (have as u8, need as u8);
                Self::fact(ctx, &[evidence], Fact::TooFew { group: self.config.id, era, have, need });
            }
            return;
        }
        let shorter = ctx.has(Mutant::LengthBeforeEra);
        let rank = |(era, end): (Epoch, Lsn)| if shorter { (end.0, era.0) } else { (era.0, end.0) };
        let mine = rank(self.log.rank());
        let mut further: Vec<(NodeId, Answered)> = candidate
            .answers
            .iter()
            .filter(|(_, answer)| !answer.blank && (self.blank || rank(answer.rank()) > mine))
            .map(|(node, answer)| (*node, answer.clone()))
            .collect();
        further.sort_by_key(|(_, answer)| rank(answer.rank()));
        if ctx.has(Mutant::BestIgnored) {
            further.clear();
        }
        let mut counted = have;
        let (node, answer) = loop {
            let Some((node, answer)) = further.pop() else { return self.open(ctx, grant, era, evidence) };
            let is_model = answer.whole || self.takes_records(answer.base, answer.end, &answer.eras);
            if is_model || ctx.has(Mutant::TornModel) {
                break (node, answer);
            }
            // Its records are the furthest, but its files lost something, and this copy needs files: those of a whole copy come first,
            // from which the records go on.
            let Role::Candidate(candidate) = &mut self.role else { return };
            if let Some((whole, files)) = candidate.answers.iter().find(|(_, whole)| whole.is_part_of(&answer)) {
                break (*whole, files.clone());
            }
            if !late && !everybody {
                return;
            }
            // Without it enough have answered all the same: what programs were told to be kept is theirs too.
            counted -= 1;
            if counted < need {
                if !candidate.told {
                    candidate.told = true;
                    Self::fact(ctx, &[evidence], Fact::NoModel { group: self.config.id, era, furthest: node });
                }
                return;
            }
        };
        let upto = answer.end;
        Self::fact(ctx, &[evidence], Fact::Fetching { group: self.config.id, era, from: node, upto });
        self.follow(ctx, (node, era), (answer.base, answer.end, &answer.eras), Some((grant, evidence)));
    }
}
