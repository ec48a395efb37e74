//! Adaptive testing: while all is well the leader's heartbeats test those that decide, and rings rest.

use super::probe::Purpose;
use super::{CALM, Diagnosis, LHM_MAX, REST};
use crate::config::{Config, DiagnosisRule};
use crate::consensus::Consensus;
use crate::context::Ctx;
use crate::ids::NodeId;
use crate::mutant::Mutant;
use crate::time::{Micros, Time};

/// How long nobody, or the leader, may be silent on a healthy network: a period, or a leader's rest and a quarter.
fn silence(config: &Config) -> Micros {
    let diagnosis = &config.diagnosis;
    diagnosis.period.max(diagnosis.deadline_floor.scale(2, 1)).max(config.rest().scale(5, 4))
}

/// When a leader that this node follows is silent for so long; nobody leads: at once. `None`: this node leads.
pub(super) fn silent_at(log: &Consensus, silence: Micros) -> Option<Time> {
    let heard = || log.leader_heard().map_or(Time(0), |at| at + silence);
    log.leads().is_none().then(heard)
}

impl Diagnosis {
    /// Notes whether the table has changed since the last time.
    pub(super) fn look_for_change(&mut self, ctx: &Ctx<'_>) {
        let digest = self.table.digest();
        if digest != self.settled || !self.table.down.is_empty() || !self.table.suspect.is_empty() {
            self.settled = digest;
            self.stirred = ctx.now;
        }
    }

    /// Whether all members are up, all know it, and nothing was otherwise lately.
    fn is_calm(&self, ctx: &Ctx<'_>) -> bool {
        let config = &ctx.config().diagnosis;
        config.rule == DiagnosisRule::Adaptive
            && self.lhm == 0
            && self.queue.is_empty()
            && self.rumor.is_none()
            && ctx.now.since(self.stirred) >= config.period.scale(CALM, 1)
    }

    /// Who only hears the leader hears nobody when it falls silent: all rings test at once, so that those that live are heard.
    pub(super) fn wake_by_silence(&mut self, ctx: &Ctx<'_>, log: &Consensus) {
        if !self.is_calm(ctx) || ctx.has(Mutant::RingsNeverRest) {
            return;
        }
        let silent = |at: Time| ctx.now.since(at) >= silence(ctx.config());
        let silent = log.leader_heard().is_some_and(silent);
        if !silent {
            (self.rested, self.woken) = (Some(ctx.now), false);
        } else if !self.woken && !ctx.has(Mutant::LeaderUnwatched) {
            self.woken = true;
            self.next.fill(ctx.now);
        }
    }

    /// Rings that rest for longer than a period are not looked at meanwhile, unless the leader falls silent or all is not well any more.
    pub(super) fn doze(&mut self, ctx: &Ctx<'_>, log: &Consensus) {
        let silence = silence(ctx.config());
        let led = silent_at(log, silence).is_none_or(|at| at > ctx.now);
        let long = self.next.iter().any(|at| *at > ctx.now + ctx.config().diagnosis.period);
        self.dozing = (long && led).then_some(silence);
        if long && !led && !ctx.has(Mutant::LeaderUnwatched) {
            self.rouse(ctx);
        }
    }

    /// Ends that as soon as all is not well.
    pub(super) fn stir(&mut self, ctx: &Ctx<'_>) {
        self.look_for_change(ctx);
        if self.dozing.is_some() && !self.is_calm(ctx) {
            self.rouse(ctx);
        }
    }

    /// All rings test within a period again, one after the other.
    fn rouse(&mut self, ctx: &Ctx<'_>) {
        self.dozing = None;
        let (many, period) = (self.next.len() as u64, ctx.config().diagnosis.period);
        for (ring, next) in (1..).zip(&mut self.next) {
            *next = (*next).min(ctx.now + period.scale(ring, many));
        }
    }

    /// How long nobody may be heard before this node takes itself for cut off. At rest its tests begin only when the leader is silent.
    pub(super) fn isolated_after(&self, ctx: &Ctx<'_>) -> Micros {
        let config = &ctx.config().diagnosis;
        let awake = config.deadline_floor.scale(2, 1).max(config.period);
        match self.rested {
            Some(at) if ctx.now.since(at) < config.period.scale(4, 1) => {
                awake.max(silence(ctx.config()) + config.deadline_floor)
            }
            _ => awake,
        }
    }

    /// Until when a ring's successor needs no test, because the leader watches it, or is heard itself; `None`: it does need one.
    pub(super) fn rests_until(&mut self, ctx: &Ctx<'_>, log: &Consensus, ring: usize) -> Option<Time> {
        if ctx.has(Mutant::RingsNeverRest) || !self.is_calm(ctx) {
            return None;
        }
        let leader = log.leader().filter(|leader| ctx.knows_rest(*leader))?;
        let silence = silence(ctx.config());
        let heard = log.leader_heard().filter(|at| ctx.now.since(*at) < silence);
        if heard.is_none() && leader != self.me && !ctx.has(Mutant::LeaderUnwatched) {
            return None;
        }
        let target = self.target(ctx, ring)?;
        let period = ctx.config().diagnosis.period;
        if target == leader && !ctx.has(Mutant::LeaderUnwatched) {
            return heard.map(|at| at + silence);
        }
        log.membership().votes(target).then(|| self.tested[ring] + period.scale(REST, 1))
    }

    /// A heartbeat is on its way.
    pub(super) fn await_beat(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let Some(rank) = self.table.rank(node) else { return };
        let waits =
            self.probes.iter().any(|probe| probe.target == node && !matches!(probe.purpose, Purpose::Help { .. }));
        if !waits && !self.table.entry(rank).down && ctx.config().diagnosis.rule == DiagnosisRule::Adaptive {
            self.probe(ctx, node, Purpose::Beat);
        }
    }

    /// A follower has answered what was sent to it at `sent`: it lives, and tests of it that are no younger are answered too.
    pub(super) fn beat_answered(&mut self, ctx: &Ctx<'_>, node: NodeId, sent: Time) {
        let before = self.probes.len();
        let mut trip = None;
        self.probes.retain(|probe| {
            let answered = probe.target == node && probe.sent <= sent && !matches!(probe.purpose, Purpose::Help { .. });
            if answered && probe.purpose == Purpose::Beat && probe.sent == sent {
                trip = Some(ctx.now.since(sent));
            }
            !answered
        });
        if let Some(trip) = trip {
            self.beats.entry(node).or_default().observe(trip);
        }
        if self.probes.len() < before {
            self.lhm = self.lhm.saturating_sub(1);
        }
    }

    /// If this node observes another, it tests it now.
    pub(super) fn test_as_observer(&mut self, ctx: &mut Ctx<'_>, node: NodeId) {
        let (Some(rank), Some(me)) = (self.table.rank(node), self.table.rank(self.me)) else { return };
        let mut rings = 0..self.rings.offsets.len();
        if let Some(ring) = rings.find(|ring| self.observer(ctx, rank, *ring) == Some(me))
            && !self.table.entry(rank).down
        {
            self.probe(ctx, node, Purpose::Test { ring });
        }
    }

    /// Whether so many heartbeats without an answer at once rather speak against this node.
    pub(super) fn blames_itself(&mut self, beats: usize) {
        if beats > 1 && beats * 2 > self.beats.len() {
            self.lhm = (self.lhm + 1).min(LHM_MAX);
        }
    }
}
