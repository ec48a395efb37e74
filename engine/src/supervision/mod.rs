//! Process life (paper §2.2): start, readiness, heartbeats, crash, hang, restart with back-off, escalation, standby, drain.

mod fact;
mod ladder;
mod unit;

pub use fact::{Fact, FailureCause, Rung};
pub use unit::Phase;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Role, ServiceConfig};
use crate::consensus::Payload;
use crate::context::{Ctx, Signal};
use crate::event::Fact as AnyFact;
use crate::ids::{Epoch, EvidenceId, NodeId, OpId, ResourceId, ThreadId};
use crate::io::{Copy, ExitCause, Outcome, ProcessInput, ProcessOrder};
use crate::mutant::Mutant;
use crate::time::{Micros, Time};
use unit::{Unit, Want};

/// The programs of one node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Supervision {
    units: BTreeMap<Copy, Unit>,
    /// Who was granted each resource last, and which of them diagnosis calls down.
    holders: BTreeMap<ResourceId, NodeId>,
    down: BTreeMap<NodeId, EvidenceId>,
}

impl Supervision {
    pub(crate) fn new(config: &Config) -> Self {
        let slots = config.resources.iter().filter_map(|resource| match resource.role {
            Role::Slot { service, slot } => {
                Some((Copy { service, slot }, Unit { resource: resource.id, ..Unit::default() }))
            }
            Role::Dispatcher => None,
        });
        Self { units: slots.collect(), holders: BTreeMap::new(), down: BTreeMap::new() }
    }

    /// Every copy that could run here, and what it does.
    pub fn copies(&self) -> impl Iterator<Item = (Copy, Phase)> {
        self.units.iter().map(|(copy, unit)| (*copy, unit.phase))
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.units.values().filter_map(Unit::deadline).min()
    }

    pub(crate) fn on_signal(&mut self, ctx: &mut Ctx<'_>, signal: &Signal) {
        match *signal {
            // With files the program starts once they are those of the grant.
            Signal::Holds { resource, .. } if ctx.config().group_of(resource).is_some() => {}
            Signal::Holds { resource, epoch, evidence } | Signal::FilesReady { resource, epoch, evidence } => {
                self.on_holds(ctx, resource, epoch, evidence);
            }
            Signal::MustLetGo { resource, epoch, evidence } => self.on_must_let_go(ctx, resource, epoch, evidence),
            Signal::LeaseLost { resource, evidence, .. } => self.on_lease_lost(ctx, resource, evidence),
            Signal::StandBy { copy, on, epoch, evidence } => self.on_stand_by(ctx, copy, on, epoch, evidence),
            Signal::Stalled { late, .. } => self.on_stalled(late),
            Signal::NodeDown { node, evidence } => {
                self.down.insert(node, evidence);
            }
            Signal::NodeUp { node, .. } => {
                self.down.remove(&node);
            }
            Signal::Applied { ref entry, evidence } => {
                if let Payload::Grant { resource, holder, .. } = entry.payload {
                    self.on_grant(ctx, resource, holder, evidence);
                }
            }
            _ => {}
        }
    }

    /// A grant that follows from a machine's failure: the cause is told as such.
    fn on_grant(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, holder: NodeId, evidence: EvidenceId) {
        let before = self.holders.insert(resource, holder);
        let Some(down) = before.filter(|old| *old != holder).and_then(|old| self.down.get(&old).copied()) else {
            return;
        };
        if holder != ctx.me() {
            return;
        }
        if let Some(copy) = self.copy_of(resource) {
            let machine = FailureCause::Machine;
            let cause =
                if ctx.has(Mutant::MachineIsCrash) { FailureCause::Crash(ExitCause::Code(-1)) } else { machine };
            self.event(ctx, &[evidence, down], Fact::Failed { copy, cause });
        }
    }

    fn on_holds(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch, evidence: EvidenceId) {
        let Some(copy) = self.copy_of(resource) else { return };
        let Some(unit) = self.units.get_mut(&copy) else { return };
        unit.want = Want::Active(epoch);
        unit.evidence = evidence;
        unit.let_go = None;
        match unit.phase {
            Phase::GivenUp { .. } => {
                unit.failures.clear();
                self.start(ctx, copy);
            }
            Phase::Stopped | Phase::Blocked => self.start(ctx, copy),
            Phase::Standby => self.promote(ctx, copy, epoch),
            // What is on its way up as a standby, or on its way down, is looked at when it has arrived.
            _ => {}
        }
    }

    fn on_must_let_go(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, epoch: Epoch, evidence: EvidenceId) {
        let Some(copy) = self.copy_of(resource) else { return };
        let Some(unit) = self.units.get_mut(&copy) else { return };
        if ctx.has(Mutant::DrainForgets) {
            return;
        }
        unit.want = Want::Nothing;
        unit.evidence = evidence;
        unit.let_go = Some(epoch);
        self.settle_down(ctx, copy, true);
    }

    fn on_lease_lost(&mut self, ctx: &mut Ctx<'_>, resource: ResourceId, evidence: EvidenceId) {
        let Some(copy) = self.copy_of(resource) else { return };
        let Some(unit) = self.units.get_mut(&copy) else { return };
        if ctx.has(Mutant::KeepsAfterLoss) || !matches!(unit.want, Want::Active(_)) && unit.let_go.is_none() {
            return;
        }
        unit.want = Want::Nothing;
        unit.evidence = evidence;
        self.settle_down(ctx, copy, false);
    }

    fn on_stand_by(&mut self, ctx: &mut Ctx<'_>, copy: Copy, on: bool, epoch: Epoch, evidence: EvidenceId) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        if matches!(unit.want, Want::Active(_)) {
            return;
        }
        unit.evidence = evidence;
        if on {
            unit.want = Want::Standby(epoch);
            if matches!(unit.phase, Phase::Stopped) {
                self.start(ctx, copy);
            }
        } else if matches!(unit.want, Want::Standby(_)) {
            unit.want = Want::Nothing;
            // The grant that ends the standby may be this node's own: it is promoted then, not stopped.
            if self.holders.get(&unit.resource) != Some(&ctx.me()) {
                self.settle_down(ctx, copy, true);
            }
        }
    }

    /// A node that was itself paused must not call its programs hung: they had no chance to be heard.
    fn on_stalled(&mut self, late: Micros) {
        for unit in self.units.values_mut() {
            for due in unit.beats.values_mut() {
                *due = *due + late;
            }
            if let Phase::Starting { due, .. } = &mut unit.phase {
                *due = *due + late;
            }
        }
    }

    /// Stops what runs, if anything does; tells that it let go when nothing does.
    fn settle_down(&mut self, ctx: &mut Ctx<'_>, copy: Copy, gently: bool) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        if unit.runs() {
            if matches!(unit.phase, Phase::Stopping { .. }) {
                return;
            }
            self.stop(ctx, copy, gently);
            if ctx.has(Mutant::StartBeforeExit) && self.units.get(&copy).is_some_and(|unit| unit.let_go.is_none()) {
                ctx.process(copy, ProcessOrder::Start { active: false, epoch: Epoch(0) });
            }
        } else {
            unit.phase = Phase::Stopped;
            self.gone(ctx, copy);
        }
    }

    fn stop(&mut self, ctx: &mut Ctx<'_>, copy: Copy, gently: bool) {
        let grace = match self.service(ctx, copy) {
            Some(service) if gently && !ctx.has(Mutant::NoGrace) => service.grace,
            _ => Micros::ZERO,
        };
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let because = unit.evidence;
        unit.beats.clear();
        let evidence = self.event(ctx, &[because], Fact::Stopping { copy });
        let op = ctx.process(copy, ProcessOrder::Stop { grace });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
            unit.phase = Phase::Stopping { op };
        }
        self.stop_dependents(ctx, copy);
    }

    /// What requires a copy that ends is stopped too, and waits for it.
    fn stop_dependents(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let dependents: Vec<Copy> = self
            .units
            .iter()
            .filter(|(other, unit)| {
                unit.runs()
                    && !matches!(unit.phase, Phase::Stopping { .. })
                    && self.service(ctx, **other).is_some_and(|service| service.requires.contains(&copy.service))
            })
            .map(|(other, _)| *other)
            .collect();
        for other in dependents {
            self.stop(ctx, other, true);
        }
    }

    /// Starts what is wanted, if what it requires is ready.
    fn start(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(service) = self.service(ctx, copy).cloned() else { return };
        let blocked = !self.requirements_ready(&service) && !ctx.has(Mutant::DependencyIgnored);
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let (active, epoch) = match unit.want {
            Want::Nothing => {
                unit.phase = Phase::Stopped;
                return;
            }
            Want::Standby(epoch) => (ctx.has(Mutant::StandbyActive), epoch),
            Want::Active(epoch) => (true, epoch),
        };
        if blocked {
            unit.phase = Phase::Blocked;
            return;
        }
        if ctx.now < unit.backed_off && !ctx.has(Mutant::BackOffForgotten) {
            unit.phase = Phase::BackingOff { until: unit.backed_off };
            return;
        }
        let because = unit.evidence;
        unit.beats.clear();
        unit.ready_since = None;
        let evidence = self.event(ctx, &[because], Fact::Starting { copy, active, epoch });
        if ctx.has(Mutant::StopsWhatItFinds) {
            ctx.process(copy, ProcessOrder::Stop { grace: service.grace });
        }
        let op = ctx.process(copy, ProcessOrder::Start { active, epoch });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
            unit.phase = Phase::Starting { op: Some(op), due: ctx.now + service.start_within, active };
        }
    }

    fn promote(&mut self, ctx: &mut Ctx<'_>, copy: Copy, epoch: Epoch) {
        let op = ctx.process(copy, ProcessOrder::Promote { epoch });
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.phase = Phase::Promoting { op };
        }
    }

    fn requirements_ready(&self, service: &ServiceConfig) -> bool {
        service.requires.iter().all(|needed| {
            self.units.iter().any(|(copy, unit)| copy.service == *needed && matches!(unit.phase, Phase::Ready))
        })
    }

    pub(crate) fn on_done(&mut self, ctx: &mut Ctx<'_>, op: OpId, outcome: Outcome) {
        let waits = |unit: &Unit| match unit.phase {
            Phase::Starting { op: waiting, .. } => waiting == Some(op),
            Phase::Promoting { op: waiting } | Phase::Capturing { op: waiting } | Phase::Stopping { op: waiting } => {
                waiting == op
            }
            _ => false,
        };
        let Some((copy, unit)) = self.units.iter_mut().find(|(_, unit)| waits(unit)) else { return };
        let copy = *copy;
        match unit.phase {
            Phase::Starting { due, active, .. } => {
                if outcome == Outcome::Ok {
                    unit.phase = Phase::Starting { op: None, due, active };
                    if ctx.has(Mutant::ReadinessIgnored) {
                        self.ready(ctx, copy);
                    }
                } else {
                    unit.phase = Phase::Stopped;
                    self.failed(ctx, copy, FailureCause::NotStarted);
                    self.after_failure(ctx, copy);
                }
            }
            Phase::Promoting { .. } => self.promoted(ctx, copy, outcome),
            Phase::Capturing { .. } => self.stop(ctx, copy, true),
            Phase::Stopping { .. } => self.stopped(ctx, copy),
            _ => {}
        }
    }

    fn promoted(&mut self, ctx: &mut Ctx<'_>, copy: Copy, outcome: Outcome) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let because = unit.evidence;
        match unit.want {
            Want::Active(epoch) if outcome == Outcome::Ok => {
                unit.phase = Phase::Ready;
                unit.ready_since = Some(ctx.now);
                let promoted = self.event(ctx, &[because], Fact::Promoted { copy, epoch });
                let evidence = self.event(ctx, &[promoted], Fact::Ready { copy });
                self.arm_beats(ctx, copy, evidence);
            }
            _ => {
                unit.phase = Phase::Stopped;
                self.start(ctx, copy);
            }
        }
    }

    /// A copy that was told to end is gone.
    fn stopped(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        unit.phase = Phase::Stopped;
        unit.ready_since = None;
        let because = unit.evidence;
        let evidence = self.event(ctx, &[because], Fact::Stopped { copy });
        let Some(unit) = self.units.get_mut(&copy) else { return };
        unit.evidence = evidence;
        if core::mem::take(&mut unit.failing) && unit.want != Want::Nothing {
            self.after_failure(ctx, copy);
            return;
        }
        self.gone(ctx, copy);
    }

    /// Nothing runs: let go if asked to, start again if it is wanted after all.
    fn gone(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        unit.failing = false;
        if let Some(epoch) = unit.let_go.take() {
            let resource = unit.resource;
            if ctx.config().group_of(resource).is_some() {
                ctx.signal(Signal::FilesLetGo { resource, epoch });
            } else {
                ctx.signal(Signal::LetGo { resource, epoch });
            }
        }
        if unit.want != Want::Nothing {
            self.start(ctx, copy);
        }
    }

    pub(crate) fn on_process(&mut self, ctx: &mut Ctx<'_>, copy: Copy, what: ProcessInput) {
        match what {
            ProcessInput::Ready => self.ready(ctx, copy),
            ProcessInput::Heartbeat { thread, timeout } => self.on_heartbeat(ctx, copy, thread, timeout),
            ProcessInput::Exited(cause) => self.on_exited(ctx, copy, cause),
        }
    }

    fn ready(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        let Phase::Starting { active, .. } = unit.phase else { return };
        let because = unit.evidence;
        unit.ready_since = Some(ctx.now);
        unit.phase = if active { Phase::Ready } else { Phase::Standby };
        let want = unit.want;
        let evidence = self.event(ctx, &[because], Fact::Ready { copy });
        match want {
            Want::Active(epoch) if !active => self.promote(ctx, copy, epoch),
            _ if active => {
                self.arm_beats(ctx, copy, evidence);
                self.unblock(ctx);
            }
            _ => {}
        }
    }

    /// From readiness on each configured thread has to beat.
    fn arm_beats(&mut self, ctx: &Ctx<'_>, copy: Copy, evidence: EvidenceId) {
        let Some(service) = self.service(ctx, copy) else { return };
        let promises = service.heartbeats.iter().enumerate();
        let beats = promises.map(|(at, promise)| (ThreadId(u32::try_from(at).unwrap_or(u32::MAX)), ctx.now + *promise));
        let beats: BTreeMap<ThreadId, Time> =
            if ctx.has(Mutant::HangUnseen) { BTreeMap::new() } else { beats.collect() };
        if let Some(unit) = self.units.get_mut(&copy) {
            unit.evidence = evidence;
            unit.beats = beats;
        }
    }

    /// What waited for a service that is ready now.
    fn unblock(&mut self, ctx: &mut Ctx<'_>) {
        let blocked: Vec<Copy> =
            self.units.iter().filter(|(_, unit)| unit.phase == Phase::Blocked).map(|(copy, _)| *copy).collect();
        for copy in blocked {
            self.start(ctx, copy);
        }
    }

    fn on_heartbeat(&mut self, ctx: &Ctx<'_>, copy: Copy, thread: ThreadId, timeout: Micros) {
        let Some(unit) = self.units.get_mut(&copy).filter(|unit| unit.phase == Phase::Ready) else { return };
        if ctx.has(Mutant::HangUnseen) {
            return;
        }
        if timeout == Micros::ZERO {
            unit.beats.remove(&thread);
        } else if unit.beats.len() < 4_096 || unit.beats.contains_key(&thread) {
            unit.beats.insert(thread, ctx.now + timeout);
        }
        if ctx.has(Mutant::AnyThreadFeeds) {
            for due in unit.beats.values_mut() {
                *due = ctx.now + timeout;
            }
        }
    }

    fn on_exited(&mut self, ctx: &mut Ctx<'_>, copy: Copy, cause: ExitCause) {
        let Some(unit) = self.units.get_mut(&copy).filter(|unit| unit.runs()) else { return };
        if matches!(unit.phase, Phase::Stopping { .. }) {
            return self.stopped(ctx, copy);
        }
        unit.phase = Phase::Stopped;
        unit.beats.clear();
        if cause == ExitCause::Guard && !ctx.has(Mutant::KeepsAfterLoss) {
            // The lease had run out: not the program's failure, and not to be started before it is held again.
            unit.ready_since = None;
            unit.want = Want::Nothing;
            return self.gone(ctx, copy);
        }
        self.failed(ctx, copy, FailureCause::Crash(cause));
        self.stop_dependents(ctx, copy);
        self.after_failure(ctx, copy);
    }

    pub(crate) fn on_timer(&mut self, ctx: &mut Ctx<'_>) {
        let due: Vec<Copy> = self
            .units
            .iter()
            .filter(|(_, unit)| unit.deadline().is_some_and(|at| at <= ctx.now))
            .map(|(copy, _)| *copy)
            .collect();
        for copy in due {
            self.on_due(ctx, copy);
        }
    }

    fn on_due(&mut self, ctx: &mut Ctx<'_>, copy: Copy) {
        let Some(unit) = self.units.get_mut(&copy) else { return };
        match unit.phase {
            Phase::Starting { .. } => {
                self.failed(ctx, copy, FailureCause::NotReady);
                self.stop(ctx, copy, true);
            }
            Phase::BackingOff { .. } => self.start(ctx, copy),
            Phase::GivenUp { .. } => self.last_resort(ctx, copy),
            Phase::Ready => {
                let late = unit.beats.iter().find(|(_, due)| **due <= ctx.now).map(|(thread, _)| *thread);
                if let Some(thread) = late {
                    self.hung(ctx, copy, thread);
                }
            }
            _ => {}
        }
    }

    fn copy_of(&self, resource: ResourceId) -> Option<Copy> {
        self.units.iter().find(|(_, unit)| unit.resource == resource).map(|(copy, _)| *copy)
    }

    fn service<'a>(&self, ctx: &'a Ctx<'_>, copy: Copy) -> Option<&'a ServiceConfig> {
        ctx.config().service(copy.service)
    }

    fn event(&self, ctx: &mut Ctx<'_>, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        ctx.event(because, AnyFact::Supervision(fact))
    }
}
