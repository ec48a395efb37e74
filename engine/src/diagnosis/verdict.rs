//! From a missed probe to a verdict: second try and helpers, accusation, company, conviction, refutation.

use alloc::vec::Vec;

use super::probe::{Probe, Purpose};
use super::{Diagnosis, Fact, LHM_MAX, Message, News, PingReply, PingReq, Rumor, Spread, Status};
use crate::config::DiagnosisRule;
use crate::context::{Ctx, Signal};
use crate::ids::{EvidenceId, Incarnation, NodeId};
use crate::mutant::Mutant;

/// Successors tested at once when one is silent: adjacent failures cost one deadline, not one each.
const SPECULATE: usize = 3;

impl Diagnosis {
    /// Probes whose deadline has passed.
    pub(super) fn miss_due(&mut self, ctx: &mut Ctx<'_>) {
        let mut late: Vec<Probe> = Vec::new();
        self.probes.retain(|probe| {
            let due = probe.due <= ctx.now;
            if due {
                late.push(probe.clone());
            }
            !due
        });
        let tests = late.iter().filter(|probe| matches!(probe.purpose, Purpose::Test { .. })).count();
        if tests > 1 && tests * 3 > self.rings.offsets.len() {
            // Many silent at once: it is more likely this node.
            self.lhm = (self.lhm + 1).min(LHM_MAX);
        }
        self.blames_itself(late.iter().filter(|probe| probe.purpose == Purpose::Beat).count());
        for probe in late {
            match probe.purpose {
                Purpose::Beat => self.missed(ctx, &probe, 0),
                Purpose::Test { ring } => self.missed(ctx, &probe, ring),
                Purpose::Confirm { missed, .. } => self.accuse(ctx, probe.target, missed),
                Purpose::Help { asker, seq } => {
                    self.send(ctx, asker, Message::PingReply(PingReply { seq, target: probe.target, heard: false }));
                }
                Purpose::Revisit => {}
            }
        }
    }

    /// A test was not answered: try again, ask helpers, and look at who comes behind.
    fn missed(&mut self, ctx: &mut Ctx<'_>, probe: &Probe, ring: usize) {
        let target = probe.target;
        if self.table.rank(target).is_none_or(|rank| self.table.entry(rank).down) {
            return;
        }
        let fact = Fact::Missed { node: target, deadline: probe.due.since(probe.sent) };
        let missed = self.event(ctx, &[], fact);
        if ctx.config().diagnosis.rule == DiagnosisRule::Paper {
            self.accuse(ctx, target, missed);
            self.test(ctx, ring);
            return;
        }
        let confirming = |other: &Probe| other.target == target && matches!(other.purpose, Purpose::Confirm { .. });
        if self.probes.iter().any(confirming) {
            return;
        }
        self.probe(ctx, target, Purpose::Confirm { ring, missed });
        let seq = self.seq;
        let mut helpers = self.helpers(ctx, target);
        if let Some(rank) = self.table.rank(target) {
            for ring in 0..self.rings.offsets.len() {
                let observer = self.observer(ctx, rank, ring).map(|behind| self.table.node(behind));
                let new = |node: &NodeId| *node != self.me && *node != target && !helpers.contains(node);
                if let Some(observer) = observer.filter(new) {
                    helpers.push(observer);
                }
            }
        }
        for helper in helpers {
            self.send(ctx, helper, Message::PingReq(PingReq { seq, target }));
        }
        self.speculate(ctx, target, ring);
    }

    /// Tests the next few behind a silent successor now.
    fn speculate(&mut self, ctx: &mut Ctx<'_>, silent: NodeId, ring: usize) {
        let (Some(me), Some(mut rank)) = (self.table.rank(self.me), self.table.rank(silent)) else { return };
        for _ in 0..SPECULATE {
            rank = self.rings.ahead(rank, ring, 1);
            let node = self.table.node(rank);
            if rank == me || self.probes.iter().any(|probe| probe.target == node) {
                break;
            }
            if !self.table.entry(rank).down {
                self.probe(ctx, node, Purpose::Test { ring });
            }
        }
    }

    /// Random nodes that are up, other than the target: drawn ones, and where draws miss, the next ones after the last.
    fn helpers(&self, ctx: &mut Ctx<'_>, target: NodeId) -> Vec<NodeId> {
        let want = usize::from(ctx.config().diagnosis.indirect);
        let mut helpers = Vec::new();
        let len = self.table.len();
        let mut rank = 0;
        for draw in 0..want * 4 + len {
            if helpers.len() >= want {
                break;
            }
            let drawn = draw < want * 4;
            rank = if drawn { usize::try_from(ctx.rng.below(len as u64)).unwrap_or(0) } else { (rank + 1) % len };
            let node = self.table.node(rank);
            let fit = self.table.entry(rank).status() == Status::Up;
            if fit && node != target && node != self.me && !helpers.contains(&node) {
                helpers.push(node);
            }
        }
        helpers
    }

    /// Neither the node nor a helper answered: this node accuses.
    fn accuse(&mut self, ctx: &mut Ctx<'_>, node: NodeId, because: EvidenceId) {
        let Some(rank) = self.table.rank(node) else { return };
        if self.table.entry(rank).down || self.table.entry(rank).accusers.contains(&self.me) {
            return;
        }
        let (inc, me) = (self.table.entry(rank).inc, self.me);
        let evidence = self.event(ctx, &[because], Fact::Suspected { node, inc, by: me });
        self.table.change(rank, |entry| {
            entry.ctr |= 1;
            entry.accusers.push(me);
            entry.accusers.sort_unstable();
            entry.evidence = evidence;
        });
        ctx.signal(Signal::NodeSuspect { node, evidence });
        if !self.is_isolated(ctx) {
            self.tell_observers(ctx, rank);
        }
        self.judge(ctx, rank);
        if !self.table.entry(rank).down && !ctx.has(Mutant::NoBuddy) {
            // What tells the suspect can be lost: it is asked as well, before this node judges alone.
            self.probe(ctx, node, Purpose::Revisit);
        }
    }

    /// Who tests a rank in a ring now: the first node behind it that is not judged down.
    pub(super) fn observer(&self, ctx: &Ctx<'_>, rank: usize, ring: usize) -> Option<usize> {
        let live = |behind: &usize| !self.table.entry(*behind).down || ctx.has(Mutant::DeadObserversTold);
        (1..self.rings.len).map(|steps| self.rings.behind(rank, ring, steps)).find(live)
    }

    /// The suspect hears it first; its other observers test it at once. Where too few are left to judge it, any node may.
    fn tell_observers(&mut self, ctx: &mut Ctx<'_>, rank: usize) {
        let news = self.table.news(rank);
        let mut to = Vec::new();
        for ring in 0..self.rings.offsets.len() {
            let observer = self.observer(ctx, rank, ring).map(|behind| self.table.node(behind));
            to.extend(
                observer.filter(|observer| *observer != self.me && *observer != news.node && !to.contains(observer)),
            );
        }
        if to.len() + 1 < self.needed(ctx) && !ctx.has(Mutant::DeadObserversTold) {
            to.extend(self.helpers(ctx, news.node));
        }
        if !ctx.has(Mutant::NoBuddy) {
            to.insert(0, news.node);
        }
        for node in to {
            self.send(ctx, node, Message::Spread(Spread { news: alloc::vec![news.clone()] }));
        }
    }

    /// How many accusers make a verdict that others believe.
    fn needed(&self, ctx: &Ctx<'_>) -> usize {
        let config = &ctx.config().diagnosis;
        if ctx.has(Mutant::SingleObserverConvicts) || config.rule == DiagnosisRule::Paper {
            return 1;
        }
        usize::from(config.convict).min(self.rings.offsets.len()).max(1)
    }

    /// Enough accusers make a verdict; a lone one waits for company.
    fn judge(&mut self, ctx: &mut Ctx<'_>, rank: usize) {
        let entry = self.table.entry(rank);
        let node = self.table.node(rank);
        if entry.ctr.is_multiple_of(2) || (entry.down && !entry.private) {
            return;
        }
        if entry.accusers.len() >= self.needed(ctx) {
            self.convict(ctx, node, false);
        } else if entry.accusers.contains(&self.me) && !entry.down {
            let until = ctx.now + ctx.config().diagnosis.suspicion;
            self.lone.entry(node).or_insert(until);
        }
    }

    /// The verdict. One that this node reaches alone it keeps to itself: it may be the one that hears badly.
    pub(super) fn convict(&mut self, ctx: &mut Ctx<'_>, node: NodeId, alone: bool) {
        let Some(rank) = self.table.rank(node) else { return };
        let entry = self.table.entry(rank);
        if entry.ctr.is_multiple_of(2) || node == self.me || (entry.down && (alone || !entry.private)) {
            return;
        }
        let known = entry.down;
        let private = alone && !ctx.has(Mutant::LoneVerdictSpread);
        self.table.change(rank, |entry| entry.private = private);
        if !known {
            self.mark_down(ctx, rank);
        }
        if !private {
            self.freshen(ctx, rank);
        }
    }

    /// Whether nobody at all was heard for a period and a deadline: then it is more likely this node that is cut off.
    fn is_isolated(&self, ctx: &Ctx<'_>) -> bool {
        let config = &ctx.config().diagnosis;
        self.table.len() > 2
            && config.rule == DiagnosisRule::Adaptive
            && ctx.now.since(self.last_heard) > self.isolated_after(ctx)
    }

    /// Somebody is heard: if nobody was for long, what this node thought of the others meanwhile is void.
    pub(super) fn end_isolation(&mut self, ctx: &mut Ctx<'_>) {
        if self.is_isolated(ctx) {
            self.probes.clear();
            self.lone.clear();
            for rank in 0..self.table.len() {
                let entry = self.table.entry(rank);
                if entry.private || (!entry.down && entry.accusers.contains(&self.me)) {
                    self.acquit(ctx, rank);
                }
            }
        }
    }

    /// Takes this node's own accusation or verdict back.
    fn acquit(&mut self, ctx: &mut Ctx<'_>, rank: usize) {
        let (node, entry) = (self.table.node(rank), self.table.entry(rank));
        let (inc, because) = (entry.inc, entry.evidence);
        let fact = if entry.down { Fact::Up { node, inc } } else { Fact::Cleared { node, inc } };
        let evidence = self.event(ctx, &[because], fact);
        self.table.change(rank, |entry| {
            entry.down = false;
            entry.private = false;
            entry.ctr &= !1;
            entry.accusers.clear();
            entry.evidence = evidence;
        });
        ctx.signal(Signal::NodeUp { node, inc, evidence });
    }

    fn mark_down(&mut self, ctx: &mut Ctx<'_>, rank: usize) {
        let node = self.table.node(rank);
        let entry = self.table.entry(rank);
        let (inc, mut because) = (entry.inc, entry.evidence);
        if !because.is_some() {
            // News in version 1 carries no evidence: what was heard, and from whom, is the evidence then.
            let by = entry.accusers.first().copied().unwrap_or(self.me);
            because = self.event(ctx, &[], Fact::Suspected { node, inc, by });
        }
        let evidence = self.event(ctx, &[because], Fact::Down { node, inc });
        self.table.change(rank, |entry| {
            entry.down = true;
            entry.told = true;
            entry.evidence = evidence;
        });
        self.lone.remove(&node);
        self.probes.retain(|probe| probe.target != node || matches!(probe.purpose, Purpose::Help { .. }));
        ctx.signal(Signal::NodeDown { node, evidence });
        // The arc behind it is ours now: look at once.
        for ring in 0..self.rings.offsets.len() {
            if self.table.rank(self.me).is_some_and(|me| self.rings.ahead(me, ring, self.walked[ring]) == rank) {
                self.test(ctx, ring);
            }
        }
    }

    /// A packet of `rank` itself came in, in this life.
    pub(super) fn hear(&mut self, ctx: &mut Ctx<'_>, rank: usize, inc: Incarnation) {
        let entry = self.table.entry(rank);
        if inc <= entry.inc {
            // It speaks: what this node holds against it by itself, or from hearsay without a verdict, is void.
            if inc == entry.inc && entry.ctr % 2 == 1 && (!entry.down || entry.private) {
                self.acquit(ctx, rank);
            }
            return;
        }
        let node = self.table.node(rank);
        let (known, was_down) = (entry.inc.0 > 0, entry.down);
        let because = entry.evidence;
        self.lone.remove(&node);
        self.table.change(rank, |entry| {
            entry.inc = inc;
            entry.ctr = 0;
            entry.accusers.clear();
            entry.down = false;
            entry.private = false;
            entry.told |= known || was_down;
        });
        if known || was_down {
            let evidence = self.event(ctx, &[because], Fact::Up { node, inc });
            self.table.change(rank, |entry| entry.evidence = evidence);
            ctx.signal(Signal::NodeUp { node, inc, evidence });
            self.freshen(ctx, rank);
        }
    }

    /// Merges news into the table; `told`: a packet of its own brought it here, so it is meant for this node.
    pub(super) fn take_news(&mut self, ctx: &mut Ctx<'_>, news: Vec<News>, told: bool) {
        for item in news {
            let Some(rank) = self.table.rank(item.node) else { continue };
            if item.node == self.me {
                self.refute(ctx, rank, &item);
            } else {
                self.merge(ctx, rank, item, told);
            }
        }
    }

    /// News about this node: if it is accused, it contradicts by raising its own counter.
    fn refute(&mut self, ctx: &mut Ctx<'_>, rank: usize, item: &News) {
        let mine = self.table.entry(rank).ctr;
        if ctx.has(Mutant::SelfAccusation) && item.down {
            let evidence = item.evidence;
            self.table.change(rank, |entry| entry.down = true);
            ctx.signal(Signal::NodeDown { node: self.me, evidence });
        }
        if item.inc > self.inc && item.inc.0 < u32::MAX / 2 && !ctx.has(Mutant::ForgedLifeKept) {
            let rumor = self.rumor.get_or_insert(Rumor { inc: item.inc, since: ctx.now, denied: 0 });
            rumor.inc = item.inc.max(rumor.inc);
        }
        if item.inc != self.inc || item.ctr < mine || ctx.has(Mutant::NoRefutation) {
            let accused_before = item.inc < self.inc && item.ctr % 2 == 1 && !ctx.has(Mutant::NoRefutation);
            if accused_before {
                // Who accuses an earlier life, or knows of none, has not heard of this one: a counter says nothing to him.
                self.table.change(rank, |entry| entry.told = true);
            }
            if accused_before || item.inc == self.inc && item.ctr < mine {
                self.freshen(ctx, rank);
            }
            return;
        }
        if item.ctr.is_multiple_of(2) {
            // Raised by an earlier refutation that this node still knows, or learns of now.
            let ctr = item.ctr;
            self.table.change(rank, |entry| entry.ctr = ctr);
            return;
        }
        let raise = u32::from(!ctx.has(Mutant::RefuteWithoutRaise));
        let ctr = item.ctr.saturating_add(1).min(u32::MAX - 1) * raise;
        self.table.change(rank, |entry| {
            entry.ctr = ctr & !1;
            entry.told = true;
        });
        self.freshen(ctx, rank);
    }

    /// Whether an accusation that others tell of counts: this node's own is only its echo.
    fn of_another(&self, ctx: &Ctx<'_>, by: NodeId) -> bool {
        by != self.me || ctx.has(Mutant::EchoBelieved)
    }

    fn merge(&mut self, ctx: &mut Ctx<'_>, rank: usize, mut item: News, told: bool) {
        if !item.down && item.ctr % 2 == 1 && !self.table.entry(rank).accusers.contains(&self.me) {
            // What this node has taken back does not return as its echo.
            item.accusers.retain(|by| self.of_another(ctx, *by));
            if item.accusers.is_empty() {
                return;
            }
        }
        let entry = self.table.entry(rank);
        if item.inc < entry.inc && !ctx.has(Mutant::StaleIncarnationAccepted) {
            return;
        }
        let newer_life = item.inc > entry.inc || (item.inc < entry.inc && ctx.has(Mutant::StaleIncarnationAccepted));
        let lower_wins = ctx.has(Mutant::LowerCounterWins);
        let newer = newer_life || if lower_wins { item.ctr < entry.ctr } else { item.ctr > entry.ctr };
        if newer {
            self.replace(ctx, rank, item, told);
        } else if item.ctr == entry.ctr {
            self.unite(ctx, rank, &item, told);
        }
    }

    /// Newer news takes the place of what was known.
    fn replace(&mut self, ctx: &mut Ctx<'_>, rank: usize, item: News, told: bool) {
        let node = item.node;
        let old = self.table.entry(rank).clone();
        let first = old.inc.0 == 0 && item.ctr == 0 && !item.down;
        self.lone.remove(&node);
        self.table.change(rank, |entry| {
            entry.inc = item.inc;
            entry.ctr = item.ctr;
            entry.accusers.clone_from(&item.accusers);
            entry.accusers.truncate(16);
            entry.down = false;
            entry.private = false;
            entry.told = true;
        });
        if item.down && item.accusers.len() >= self.needed(ctx) {
            self.table.change(rank, |entry| entry.evidence = item.evidence);
            self.mark_down(ctx, rank);
            self.freshen(ctx, rank);
        } else if item.ctr % 2 == 1 {
            let by = item.accusers.iter().copied().find(|by| self.of_another(ctx, *by));
            self.heard_accusation(ctx, rank, item.evidence, by, told);
        } else {
            self.clear(ctx, rank, &old, item.evidence, first);
            self.freshen(ctx, rank);
        }
    }

    /// Up again, or up for the first time.
    fn clear(&mut self, ctx: &mut Ctx<'_>, rank: usize, old: &super::table::Entry, evidence: EvidenceId, first: bool) {
        let node = self.table.node(rank);
        let inc = self.table.entry(rank).inc;
        let fact = match old.status() {
            Status::Suspect if old.inc == inc => Fact::Cleared { node, inc },
            Status::Up if old.inc == inc || first => return,
            _ => Fact::Up { node, inc },
        };
        let evidence = self.event(ctx, &[evidence, old.evidence], fact);
        self.table.change(rank, |entry| entry.evidence = evidence);
        ctx.signal(Signal::NodeUp { node, inc, evidence });
    }

    /// The same state, perhaps with more accusers or a verdict.
    fn unite(&mut self, ctx: &mut Ctx<'_>, rank: usize, item: &News, told: bool) {
        let known = self.table.entry(rank).told;
        let more: Vec<NodeId> =
            item.accusers.iter().copied().filter(|by| !self.table.entry(rank).accusers.contains(by)).take(16).collect();
        self.table.change(rank, |entry| {
            entry.told = true;
            if entry.accusers.len() < 16 {
                entry.accusers.extend(&more);
                entry.accusers.sort_unstable();
            }
        });
        let open = !self.table.entry(rank).down || self.table.entry(rank).private;
        if item.down && item.accusers.len() >= self.needed(ctx) && open && item.ctr % 2 == 1 {
            self.table.change(rank, |entry| {
                entry.evidence = item.evidence;
                entry.private = false;
            });
            if !self.table.entry(rank).down {
                self.mark_down(ctx, rank);
            }
            self.freshen(ctx, rank);
        } else if let Some(by) = more.iter().find(|by| self.of_another(ctx, **by))
            && item.ctr % 2 == 1
        {
            self.heard_accusation(ctx, rank, item.evidence, Some(*by), told);
        } else if !known && item.ctr == 0 {
            self.queue.insert(rank, 1);
        }
    }

    /// An accusation by others: whoever observes the node, or is asked to look by the accuser, tests it now.
    fn heard_accusation(
        &mut self,
        ctx: &mut Ctx<'_>,
        rank: usize,
        evidence: EvidenceId,
        by: Option<NodeId>,
        told: bool,
    ) {
        let node = self.table.node(rank);
        let (inc, by) = (self.table.entry(rank).inc, by.unwrap_or(node));
        let evidence = self.event(ctx, &[evidence], Fact::Suspected { node, inc, by });
        self.table.change(rank, |entry| entry.evidence = evidence);
        ctx.signal(Signal::NodeSuspect { node, evidence });
        self.judge(ctx, rank);
        let Some(me) = self.table.rank(self.me) else { return };
        let mut rings = 0..self.rings.offsets.len();
        let ring = rings.find(|ring| self.observer(ctx, rank, *ring) == Some(me)).or_else(|| told.then_some(0));
        if let Some(ring) = ring
            && !self.table.entry(rank).down
            && !self.probes.iter().any(|probe| probe.target == node)
        {
            self.probe(ctx, node, Purpose::Test { ring });
        }
    }
}
