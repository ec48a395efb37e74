//! Supervised programs and the kernel's guards, as the operating system would keep them.

use apus_engine::{
    Copy, Epoch, ExitCause, GuardOrder, NodeId, OpId, Outcome, ProcessInput, ProcessOrder, ResourceId, Role, ThreadId,
    Time,
};

use super::World;
use super::queue::Due;
use crate::fault::{Kind, MS, Ns};
use crate::trace::What;

/// One running program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Tells this run from earlier ones.
    pub(super) run: u32,
    /// Whether it is the active copy.
    pub(super) active: bool,
    /// The grant it was started under.
    pub(super) epoch: Epoch,
    /// Thread 0 no longer beats.
    pub(super) hung: bool,
    /// It is on its way down, and whom to tell when it is gone.
    pub(super) stopping: Option<Option<OpId>>,
    /// It can serve.
    pub(super) ready: bool,
    /// The life of the daemon that started it, or took it over.
    pub(super) life: u32,
    /// What shall run once it is gone: the order, active or standby, by which grant.
    next: Option<(OpId, bool, Epoch)>,
}

/// A copy that a new daemon does not ask for is stopped after so long.
const UNCLAIMED: Ns = 10_000 * MS;

impl World {
    /// Carries a guard order out.
    pub(crate) fn guard(&mut self, node: NodeId, order: GuardOrder) {
        let at = node.0 as usize;
        match order {
            GuardOrder::Arm { resource, epoch, until } => {
                let old = self.nodes[at].guards.get(&resource).copied();
                if old.is_some_and(|(newer, _)| newer > epoch) {
                    return;
                }
                // Up to now there was the old guard, or none.
                self.integrate_holders(resource);
                let host = &mut self.nodes[at];
                host.guards.insert(resource, (epoch, until));
                let end = host.clock.when(self.now, until);
                let fresh = old
                    .is_none_or(|(old_epoch, old_until)| old_epoch != epoch || host.clock.read(self.now) >= old_until);
                if end != Ns::MAX {
                    self.queue.push(end, Due::Guard { node, resource });
                }
                self.check_arm(node, resource, epoch);
                if fresh || self.options.keep_trace {
                    self.line(Some(node), What::Armed { resource, epoch, until: end });
                }
            }
            GuardOrder::Disarm { op, resource, epoch } => {
                self.integrate_holders(resource);
                let host = &mut self.nodes[at];
                if host.guards.get(&resource).is_some_and(|(armed, _)| *armed <= epoch) {
                    host.guards.remove(&resource);
                    self.line(Some(node), What::Disarmed { resource, epoch });
                    self.end_program_of(node, resource);
                }
                self.done(node, op, Outcome::Ok, 20_000);
            }
        }
    }

    /// A lease may have run out: the guard ends the program by itself.
    pub(super) fn guard_due(&mut self, node: NodeId, resource: ResourceId) {
        let host = &mut self.nodes[node.0 as usize];
        let Some(&(epoch, until)) = host.guards.get(&resource) else { return };
        if host.clock.read(self.now) < until {
            return;
        }
        self.integrate_holders(resource);
        self.nodes[node.0 as usize].guards.remove(&resource);
        self.line(Some(node), What::Disarmed { resource, epoch });
        self.end_program_of(node, resource);
    }

    /// The guard ends the active copy that runs for `resource`.
    fn end_program_of(&mut self, node: NodeId, resource: ResourceId) {
        let Some(Role::Slot { service, slot }) = self.roles.get(&resource).copied() else { return };
        let copy = Copy { service, slot };
        if self.nodes[node.0 as usize].programs.get(&copy).is_some_and(|program| program.active) {
            self.exit(node, copy, ExitCause::Guard);
        }
    }

    /// Whether `node` may act for `resource` now, by its kernel's guard.
    pub(super) fn holds(&self, node: NodeId, resource: ResourceId) -> bool {
        let host = &self.nodes[node.0 as usize];
        host.powered && host.guards.get(&resource).is_some_and(|(_, until)| host.clock.read(self.now) < *until)
    }

    /// Carries an order to a program out.
    pub(crate) fn program(&mut self, node: NodeId, op: OpId, copy: Copy, order: ProcessOrder) {
        self.line(Some(node), What::Program { copy, order });
        match order {
            ProcessOrder::Start { active, epoch } => self.start_program(node, op, copy, active, epoch),
            ProcessOrder::Promote { epoch } => {
                let program = self.nodes[node.0 as usize].programs.get_mut(&copy);
                let outcome = match program {
                    Some(program) if program.stopping.is_none() => {
                        (program.active, program.epoch) = (true, epoch);
                        Outcome::Ok
                    }
                    _ => Outcome::ProcessFailed,
                };
                self.check_programs(node, copy);
                self.done(node, op, outcome, MS);
            }
            ProcessOrder::Stop { grace } => self.stop_program(node, op, copy, grace.0 * 1_000),
            ProcessOrder::Capture => self.done(node, op, Outcome::Ok, 5 * MS),
        }
    }

    /// A new daemon finds what an earlier one started: keepers know it, guards hold on to their leases.
    pub(super) fn find_programs(&mut self, node: NodeId) {
        let host = &mut self.nodes[node.0 as usize];
        let life = host.life;
        // Nobody waits for an answer to the earlier daemon.
        for program in host.programs.values_mut() {
            program.stopping = program.stopping.map(|_| None);
            program.next = None;
        }
        let found: Vec<(Copy, u32)> = host.programs.iter().map(|(copy, program)| (*copy, program.run)).collect();
        let armed: Vec<(ResourceId, Epoch, Time)> =
            host.guards.iter().map(|(resource, (epoch, until))| (*resource, *epoch, *until)).collect();
        if !found.is_empty() {
            self.queue.push(self.now + UNCLAIMED, Due::Unclaimed { node, life });
        }
        for (resource, epoch, until) in armed {
            let until = self.nodes[node.0 as usize].clock.when(self.now, until);
            self.line(Some(node), What::Armed { resource, epoch, until });
        }
        for (copy, run) in found {
            self.line(Some(node), What::Found { copy, run });
        }
    }

    /// What nobody has claimed for so long is stopped, once somebody coordinates.
    pub(super) fn unclaimed(&mut self, node: NodeId, life: u32) {
        let host = &mut self.nodes[node.0 as usize];
        if host.life != life || !host.alive {
            return;
        }
        let look = host.engine.as_ref().and_then(|engine| engine.look());
        if host.frozen || !look.is_some_and(|(_, log, ..)| log.leader().is_some()) {
            self.queue.push(self.now + 1_000 * MS, Due::Unclaimed { node, life });
            return;
        }
        for (copy, program) in host.programs.iter_mut().filter(|(_, program)| program.life != life) {
            if program.stopping.is_none() {
                program.stopping = Some(None);
                self.queue.push(self.now + MS, Due::ProgramGone { node, copy: *copy, run: program.run });
            }
        }
    }

    /// The keeper of a copy that an earlier daemon started makes it so that one runs: what runs already is left alone, or made
    /// active; what is on its way down, or runs as what it shall not be, is waited for.
    fn take_over(&mut self, node: NodeId, op: OpId, copy: Copy, active: bool, epoch: Epoch) {
        let host = &mut self.nodes[node.0 as usize];
        let life = host.life;
        let Some(program) = host.programs.get_mut(&copy) else { return };
        let run = program.run;
        program.life = life;
        if program.stopping.is_some() || program.active && !active {
            program.next = Some((op, active, epoch));
            if program.stopping.replace(None).is_none() {
                self.queue.push(self.now + MS, Due::ProgramGone { node, copy, run });
            }
            return;
        }
        (program.active, program.epoch) = (active, epoch);
        let ready = program.ready;
        self.reach("program-adopted");
        self.line(Some(node), What::Kept { copy, run });
        self.done(node, op, Outcome::Ok, MS);
        if ready {
            self.queue.push(self.now + 2 * MS, Due::Program { node, copy, run, what: ProcessInput::Ready });
        }
        self.check_programs(node, copy);
    }

    fn start_program(&mut self, node: NodeId, op: OpId, copy: Copy, active: bool, epoch: Epoch) {
        let at = node.0 as usize;
        let life = self.nodes[at].life;
        if self.nodes[at].programs.get(&copy).is_some_and(|program| program.life != life) {
            return self.take_over(node, op, copy, active, epoch);
        }
        let runs = self.nodes[at].programs.contains_key(&copy);
        if runs || self.hits(Kind::ProgramWontStart, node) {
            if !runs {
                self.line(Some(node), What::Gone { copy, cause: None });
            }
            self.done(node, op, Outcome::ProcessFailed, MS);
            return;
        }
        self.next_run += 1;
        let run = self.next_run;
        let program = Program { run, active, epoch, hung: false, stopping: None, ready: false, life, next: None };
        self.nodes[at].programs.insert(copy, program);
        self.line(Some(node), What::Began { copy, run });
        self.done(node, op, Outcome::Ok, 2 * MS);
        let Some(service) = self.plan.scenario.services.get(copy.service.0 as usize) else { return };
        let mut ready = service.starts_in / 2 + self.os.below(service.starts_in + 1);
        if let Some(slow) = self.size_of(Kind::ProgramSlowStart, node) {
            ready += slow;
        }
        self.queue.push(self.now + 2 * MS + ready, Due::Program { node, copy, run, what: ProcessInput::Ready });
        if let Some(after) = self.size_of(Kind::ProgramPoison, node) {
            let what = ProcessInput::Exited(ExitCause::Signal(11));
            self.queue.push(self.now + 2 * MS + after, Due::Program { node, copy, run, what });
        }
        self.check_programs(node, copy);
    }

    fn stop_program(&mut self, node: NodeId, op: OpId, copy: Copy, grace: Ns) {
        let Some(program) = self.nodes[node.0 as usize].programs.get_mut(&copy) else {
            self.done(node, op, Outcome::Ok, MS);
            return;
        };
        let (run, hung) = (program.run, program.hung);
        program.stopping = Some(Some(op));
        // A healthy program ends within its grace; a hung one has to be killed after it.
        let takes = if hung { grace } else { grace.min(MS + self.os.below(20 * MS)) };
        self.queue.push(self.now + takes + MS, Due::ProgramGone { node, copy, run });
    }

    /// A program that was asked to stop is gone with all its children.
    pub(super) fn program_gone(&mut self, node: NodeId, copy: Copy, run: u32) {
        let programs = &mut self.nodes[node.0 as usize].programs;
        if programs.get(&copy).is_some_and(|program| program.run == run && program.stopping.is_some())
            && let Some(program) = programs.remove(&copy)
        {
            self.line(Some(node), What::Gone { copy, cause: None });
            self.after_program(node, copy, &program);
        }
    }

    /// Tells who waits for a program's end, and starts what waits for it.
    fn after_program(&mut self, node: NodeId, copy: Copy, program: &Program) {
        if let Some(op) = program.stopping.flatten() {
            self.done(node, op, Outcome::Ok, 0);
        }
        let host = &self.nodes[node.0 as usize];
        if let Some((op, active, epoch)) = program.next.filter(|_| host.alive && host.life == program.life) {
            self.start_program(node, op, copy, active, epoch);
        }
    }

    /// A program does something by itself.
    pub(super) fn program_acts(&mut self, node: NodeId, copy: Copy, run: u32, what: ProcessInput) {
        let at = node.0 as usize;
        if self.nodes[at].suspended {
            self.queue.push(self.now + 50 * MS, Due::Program { node, copy, run, what });
            return;
        }
        let life = self.nodes[at].life;
        let Some(program) = self.nodes[at].programs.get_mut(&copy).filter(|program| program.run == run) else {
            return;
        };
        let (hung, claimed, again) = (program.hung, program.life == life, program.ready);
        let active = program.active;
        program.ready |= what == ProcessInput::Ready;
        match what {
            ProcessInput::Exited(cause) => return self.exit(node, copy, cause),
            // Told anew to the daemon that took it over; its threads beat already.
            ProcessInput::Ready if again => {}
            ProcessInput::Ready => {
                let threads = self
                    .plan
                    .scenario
                    .services
                    .get(copy.service.0 as usize)
                    .map_or(0, |service| service.heartbeats.len());
                for thread in 0..u32::try_from(threads).unwrap_or(0) {
                    self.beat(node, copy, run, ThreadId(thread));
                }
            }
            ProcessInput::Heartbeat { thread, .. } => {
                self.beat(node, copy, run, thread);
                if hung && thread.0 == 0 {
                    self.hits(Kind::ProgramHang, node);
                    return;
                }
            }
        }
        if what == ProcessInput::Ready && active {
            self.files_program(node, copy, run);
        }
        if claimed {
            self.feed(node, apus_engine::Input::Process { copy, what });
        }
    }

    /// Schedules the next beat of a thread, well within its promise.
    fn beat(&mut self, node: NodeId, copy: Copy, run: u32, thread: ThreadId) {
        let Some(service) = self.plan.scenario.services.get(copy.service.0 as usize) else { return };
        let Some(promise) = service.heartbeats.get(thread.0 as usize).copied() else { return };
        let next = promise / 3 + self.os.below(promise / 6 + 1);
        let what = ProcessInput::Heartbeat { thread, timeout: apus_engine::Micros(promise / 1_000) };
        self.queue.push(self.now + next, Due::Program { node, copy, run, what });
    }

    /// A program is gone without having been asked, or by its guard.
    pub(super) fn exit(&mut self, node: NodeId, copy: Copy, cause: ExitCause) {
        let Some(program) = self.nodes[node.0 as usize].programs.remove(&copy) else { return };
        self.line(Some(node), What::Gone { copy, cause: Some(cause) });
        if program.stopping.is_some() {
            return self.after_program(node, copy, &program);
        }
        // Whom the present daemon has not taken over, it does not hear of.
        if program.life == self.nodes[node.0 as usize].life {
            self.feed(node, apus_engine::Input::Process { copy, what: ProcessInput::Exited(cause) });
        }
    }

    /// Adds the time since the last change in which two nodes held `resource`.
    pub(super) fn integrate_holders(&mut self, resource: ResourceId) {
        let since = self.holders_since.insert(resource, self.now).unwrap_or(self.now);
        let mut ends: Vec<Ns> = Vec::new();
        for host in &self.nodes {
            if let Some((_, until)) = host.guards.get(&resource).filter(|_| host.powered) {
                ends.push(host.clock.when(since, *until).min(self.now));
            }
        }
        ends.sort_unstable();
        if let [.., second, _] = ends[..] {
            *self.overlap.entry(resource).or_default() += second.saturating_sub(since);
        }
    }

    /// For how long two guards of `resource` stay open from now on, if nothing closes one of them.
    pub(super) fn overlap_ahead(&self, resource: ResourceId) -> Ns {
        let open = self.nodes.iter().filter(|host| host.powered).filter_map(|host| {
            let (_, until) = host.guards.get(&resource)?;
            Some(host.clock.when(self.now, *until))
        });
        let mut ends: Vec<Ns> = open.filter(|end| *end > self.now).collect();
        ends.sort_unstable();
        if let [.., second, _] = ends[..] { second - self.now } else { 0 }
    }

    /// Whether any guard of `resource` is open at another node.
    fn check_arm(&mut self, node: NodeId, resource: ResourceId, epoch: Epoch) {
        let others = (0..self.nodes.len()).filter(|at| *at != node.0 as usize);
        let other = others.map(|at| NodeId(at as u16)).find(|other| self.holds(*other, resource));
        if let Some(other) = other {
            let theirs = self.nodes[other.0 as usize].guards[&resource].0;
            self.reach("two-holders");
            self.violate(
                "one-holder",
                false,
                format!("{node} holds {resource} by {epoch} while {other} still holds it by {theirs}"),
            );
        }
    }

    /// Whether the active copy of `copy` runs at another node as well.
    fn check_programs(&mut self, node: NodeId, copy: Copy) {
        let active = |at: &usize| self.nodes[*at].programs.get(&copy).is_some_and(|program| program.active);
        if !active(&(node.0 as usize)) {
            return;
        }
        if let Some(other) = (0..self.nodes.len()).filter(|at| *at != node.0 as usize).find(active) {
            let (service, slot) = (copy.service, copy.slot);
            self.violate(
                "one-active-copy",
                false,
                format!("{node} starts slot {slot} of {service} while it is active at n{other}"),
            );
        }
    }
}
