//! Supervised programs and the kernel's guards, as the operating system would keep them.

use apus_engine::{
    Copy, Epoch, ExitCause, GuardOrder, NodeId, OpId, Outcome, ProcessInput, ProcessOrder, ResourceId, Role, ThreadId,
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
    /// Whom to tell when it is gone.
    pub(super) stopping: Option<OpId>,
}

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

    fn start_program(&mut self, node: NodeId, op: OpId, copy: Copy, active: bool, epoch: Epoch) {
        let at = node.0 as usize;
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
        self.nodes[at].programs.insert(copy, Program { run, active, epoch, hung: false, stopping: None });
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
        program.stopping = Some(op);
        // A healthy program ends within its grace; a hung one has to be killed after it.
        let takes = if hung { grace } else { grace.min(MS + self.os.below(20 * MS)) };
        self.queue.push(self.now + takes + MS, Due::ProgramGone { node, copy, run });
    }

    /// A program that was asked to stop is gone with all its children.
    pub(super) fn program_gone(&mut self, node: NodeId, copy: Copy, run: u32) {
        let programs = &mut self.nodes[node.0 as usize].programs;
        if programs.get(&copy).is_some_and(|program| program.run == run)
            && let Some(op) = programs.remove(&copy).and_then(|program| program.stopping)
        {
            self.line(Some(node), What::Gone { copy, cause: None });
            self.done(node, op, Outcome::Ok, 0);
        }
    }

    /// A program does something by itself.
    pub(super) fn program_acts(&mut self, node: NodeId, copy: Copy, run: u32, what: ProcessInput) {
        let at = node.0 as usize;
        if self.nodes[at].suspended {
            self.queue.push(self.now + 50 * MS, Due::Program { node, copy, run, what });
            return;
        }
        let Some(program) = self.nodes[at].programs.get(&copy).filter(|program| program.run == run) else { return };
        let hung = program.hung;
        match what {
            ProcessInput::Exited(cause) => return self.exit(node, copy, cause),
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
        self.feed(node, apus_engine::Input::Process { copy, what });
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
        match program.stopping {
            Some(op) => self.done(node, op, Outcome::Ok, 0),
            None => self.feed(node, apus_engine::Input::Process { copy, what: ProcessInput::Exited(cause) }),
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
