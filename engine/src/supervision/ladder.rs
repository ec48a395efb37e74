//! What follows a failure: back-off and restart, then another node, then the reboot hook (paper §2.1, §2.2).

use super::unit::Want;
use super::{Fact, FailureCause, Phase, Rung, Supervision};
use crate::context::{Ctx, Signal};
use crate::ids::{EvidenceId, ThreadId};
use crate::io::{Copy, ExitCause, ProcessOrder};
use crate::mutant::Mutant;
use crate::time::Micros;

/// A copy that was given up is tried again, or the machine rebooted, when nobody has taken it over for this long.
const LAST_RESORT: Micros = Micros::from_secs(4);

impl Supervision {
    /// A thread did not keep its promise: keep the stacks, then stop the program.
    pub(super) fn hung(&mut self, ctx: &mut Ctx<'_>, copy: Copy, thread: ThreadId) {
        let hang = FailureCause::Hang(thread);
        let cause = if ctx.has(Mutant::HangIsCrash) { FailureCause::Crash(ExitCause::Code(0)) } else { hang };
        self.failed(ctx, copy, cause);
        let op = ctx.process(copy, ProcessOrder::Capture);
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.beats.clear();
            unit.phase = Phase::Capturing { op };
        }
    }

    /// Notes a failure; what follows is decided when the program is gone.
    pub(super) fn failed(&mut self, ctx: &mut Ctx<'_>, copy: Copy, cause: FailureCause) {
        let Some(service) = self.service(ctx, copy).cloned() else { return };
        let keep_streak = ctx.has(Mutant::BackOffKept);
        let keep_all = ctx.has(Mutant::WindowNotSliding);
        let now = ctx.now;
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let stable = unit.ready_since.take().is_some_and(|since| now.since(since) >= service.stable_after);
        if stable && !keep_streak {
            unit.streak = 0;
        }
        unit.streak = unit.streak.saturating_add(1);
        if !keep_all {
            unit.failures.retain(|at| now.since(*at) < service.within);
        }
        if unit.failures.len() > 255 {
            unit.failures.pop_front();
        }
        unit.failures.push_back(now);
        unit.failing = true;
        let because = unit.evidence;
        let evidence = self.event(ctx, &[because], Fact::Failed { copy, cause });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
        }
    }

    /// The failed program is gone: restart after a wait, or go up the ladder.
    pub(super) fn after_failure(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(service) = self.service(ctx, copy).cloned() else { return };
        let Some(unit) = self.units.get_mut(&copy) else { return };
        unit.failing = false;
        unit.phase = Phase::Stopped;
        if unit.want == Want::Nothing {
            return self.gone(ctx, copy);
        }
        let limit = usize::from(service.failures) + usize::from(ctx.has(Mutant::EscalatesLate));
        if unit.failures.len() >= limit && !ctx.has(Mutant::NeverEscalates) {
            return self.escalate(ctx, copy);
        }
        let doubled = service.backoff.0.saturating_mul(1 << (unit.streak.max(1) - 1).min(20));
        let full = Micros(doubled).min(service.backoff_max);
        // An eighth more or less, so that copies that fail together do not start together.
        let jitter = full.0 / 4;
        let mut wait = Micros(full.0 - jitter / 2 + ctx.rng.below(jitter + 1));
        if ctx.has(Mutant::NoBackOff) {
            wait = Micros::ZERO;
        }
        let failures = u8::try_from(unit.failures.len()).unwrap_or(u8::MAX);
        unit.backed_off = ctx.now + wait;
        unit.phase = Phase::BackingOff { until: unit.backed_off };
        let because = unit.evidence;
        let evidence = self.event(ctx, &[because], Fact::BackingOff { copy, wait, failures });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
        }
    }

    /// Too many failures here: another node shall try.
    fn escalate(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let because = unit.evidence;
        unit.failures.clear();
        unit.streak = 0;
        unit.phase = Phase::GivenUp { until: ctx.now + LAST_RESORT };
        let (resource, want) = (unit.resource, unit.want);
        let evidence = self.event(ctx, &[because], Fact::Escalated { copy, rung: Rung::FailOver });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
        }
        if let Want::Active(epoch) = want {
            ctx.signal(Signal::CannotKeep { resource, epoch, because: [evidence, because, EvidenceId::NONE] });
        }
    }

    /// Nobody has taken it over: the reboot hook if it may be used, else another try here.
    pub(super) fn last_resort(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let may_reboot = self.service(ctx, copy).is_some_and(|service| service.may_reboot);
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let because = unit.evidence;
        if !may_reboot || !matches!(unit.want, Want::Active(_)) {
            return self.start(ctx, copy);
        }
        unit.phase = Phase::GivenUp { until: ctx.now + LAST_RESORT };
        let evidence = self.event(ctx, &[because], Fact::Escalated { copy, rung: Rung::Reboot });
        ctx.reboot([evidence, because, EvidenceId::NONE]);
    }
}
