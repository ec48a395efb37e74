//! One machine: its engine, and the host loop around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use apus_engine::{
    Config, Copy, Deadline, Durable, Engine, EngineFact, Epoch, Event, ExitCause, Fact, Input, NodeId, OpId, Outcome,
    Output, ResourceId, Role, Seed, Time,
};

use apus_engine::supervision::Fact as Supervised;

use super::World;
use super::clock::Clock;
use super::program::Program;
use super::queue::Due;
use super::storage::{PowerLoss, Storage};
use crate::fault::{Kind, MS, Ns};
use crate::trace::{Line, What};

/// Packets that wait for a process that stands still; more are lost, as in a socket's buffer.
const INBOX: usize = 512;

/// A machine and what runs on it.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) config: Config,
    /// `None` while the process does not run, or while it is being driven.
    pub(super) engine: Option<Box<Engine>>,
    /// Counts the starts of the process.
    pub(super) life: u32,
    pub(super) alive: bool,
    pub(super) powered: bool,
    /// The process stands still; the kernel runs on.
    pub(super) frozen: bool,
    /// The whole machine stands still.
    pub(super) suspended: bool,
    /// The machine never comes back.
    pub(super) lost: bool,
    /// The engine is being driven right now.
    driven: bool,
    pub(super) clock: Clock,
    pub(super) storage: Storage,
    /// What the process has not looked at yet.
    pub(super) inbox: VecDeque<Input>,
    /// With a slow process: when it has time again.
    pub(super) busy_until: Ns,
    /// When the timer that is set will fire.
    timer: Ns,
    pub(super) guards: BTreeMap<ResourceId, (Epoch, Time)>,
    pub(super) programs: BTreeMap<Copy, Program>,
    /// Crash after this many more outputs.
    pub(super) fuse: Option<u64>,
    /// Peers that do not know its new address yet.
    pub(super) hidden_from: BTreeSet<NodeId>,
    /// When the disk has done what was ordered of it for replicated files.
    pub(super) files_done_at: Ns,
}

impl Host {
    pub(super) fn new(config: Config, clock: Clock, member: bool) -> Self {
        Self {
            config,
            engine: None,
            life: 0,
            alive: false,
            powered: true,
            frozen: false,
            suspended: false,
            lost: false,
            driven: false,
            clock,
            storage: Storage::new(member),
            inbox: VecDeque::new(),
            busy_until: 0,
            timer: Ns::MAX,
            guards: BTreeMap::new(),
            programs: BTreeMap::new(),
            fuse: None,
            hidden_from: BTreeSet::new(),
            files_done_at: 0,
        }
    }
}

impl World {
    /// Starts the node's process, unless it runs or the machine is lost.
    pub(super) fn boot(&mut self, node: NodeId) {
        let host = &mut self.nodes[node.0 as usize];
        if host.alive || host.lost {
            return;
        }
        host.powered = true;
        if self.outside.is_some() {
            return self.boot_outside(node);
        }
        let Some(durable) = host.storage.open() else {
            host.storage = Storage::new(false);
            self.files_wiped(node);
            self.line(Some(node), What::Refused);
            let life = self.nodes[node.0 as usize].life;
            self.queue.push(self.now + 500 * MS, Due::Boot(node, life));
            return;
        };
        self.begin_life(node);
        self.start_engine(node, durable);
        self.drive(node, None);
    }

    /// A new life on what the disk holds.
    pub(super) fn start_engine(&mut self, node: NodeId, durable: Durable) {
        let host = &mut self.nodes[node.0 as usize];
        let seed = Seed(self.plan.seed).derive("node").nth(u64::from(node.0)).nth(u64::from(host.life));
        let engine = Engine::new(host.config.clone(), durable, seed, host.clock.read(self.now));
        let incarnation = engine.incarnation();
        host.engine = Some(Box::new(engine));
        self.line(Some(node), What::Boot(incarnation));
        self.find_programs(node);
    }

    /// A new life of the daemon. What keepers hold, programs and the leases of their slots, outlives a daemon; the address does not.
    pub(super) fn begin_life(&mut self, node: NodeId) {
        let host = &mut self.nodes[node.0 as usize];
        host.life += 1;
        host.alive = true;
        (host.frozen, host.suspended, host.driven) = (false, false, false);
        host.timer = Ns::MAX;
        host.inbox.clear();
        host.fuse = None;
        let kept = |resource: &ResourceId| matches!(self.roles.get(resource), Some(Role::Slot { .. }));
        let armed: Vec<(ResourceId, Epoch)> = host
            .guards
            .iter()
            .filter(|(resource, _)| !kept(resource))
            .map(|(resource, (epoch, _))| (*resource, *epoch))
            .collect();
        for (resource, epoch) in armed {
            self.integrate_holders(resource);
            self.nodes[node.0 as usize].guards.remove(&resource);
            self.line(Some(node), What::Disarmed { resource, epoch });
        }
    }

    /// Ends the node's process. With `power`, the machine goes with it.
    pub(super) fn halt(&mut self, node: NodeId, power: Option<PowerLoss>) -> bool {
        let resources: Vec<ResourceId> = self.nodes[node.0 as usize].guards.keys().copied().collect();
        for resource in &resources {
            self.integrate_holders(*resource);
        }
        let host = &mut self.nodes[node.0 as usize];
        let was = host.alive;
        host.alive = false;
        host.engine = None;
        host.inbox.clear();
        let mut lost = false;
        if let Some(loss) = power {
            host.powered = false;
            lost = host.storage.power_off(loss);
            host.files_done_at = 0;
            host.programs.clear();
            let guards = std::mem::take(&mut host.guards);
            if self.options.keep_trace {
                // For pictures only: without power nobody tells it.
                let ends = guards.into_iter().map(|(resource, (epoch, _))| What::Disarmed { resource, epoch });
                self.trace.extend(ends.map(|what| Line { at: self.now, node: Some(node), what }));
            }
        } else {
            host.storage.flush();
        }
        if power.is_some() {
            self.files_power_off(node);
        }
        if let Some(outside) = &mut self.outside {
            outside.stop(node, power.is_some());
        }
        if was {
            self.line(Some(node), What::Halt);
        }
        lost || (was && power.is_none_or(|loss| loss == PowerLoss::LoseAll))
    }

    /// Ends the process in order: programs first, guards disarmed.
    pub(super) fn stop_in_order(&mut self, node: NodeId) {
        let guards = std::mem::take(&mut self.nodes[node.0 as usize].guards);
        for (resource, (epoch, _)) in guards {
            self.line(Some(node), What::Disarmed { resource, epoch });
        }
        self.nodes[node.0 as usize].programs.clear();
        self.halt(node, None);
    }

    /// Hands an input to the node's engine, now or when its process runs again.
    pub(super) fn feed(&mut self, node: NodeId, input: Input) {
        let host = &mut self.nodes[node.0 as usize];
        if !host.alive {
            return;
        }
        if self.outside.is_some() || host.frozen || host.driven || host.busy_until > self.now {
            let packet = matches!(input, Input::Packet { .. });
            if !packet || host.inbox.len() < INBOX {
                host.inbox.push_back(input);
            }
            return self.poke(node);
        }
        self.drive(node, Some(input));
    }

    /// One turn of the host loop: an input, then all outputs.
    fn drive(&mut self, node: NodeId, mut input: Option<Input>) {
        let at = node.0 as usize;
        let life = self.nodes[at].life;
        let Some(mut engine) = self.nodes[at].engine.take() else { return };
        self.nodes[at].driven = true;
        loop {
            if let Some(input) = input.take() {
                let local = self.nodes[at].clock.read(self.now);
                self.hash_input(node, local, &input);
                self.worked[at] += 1;
                if self.worked[at] > self.work_bound {
                    let what = format!("{node} got more than {} inputs within a second", self.work_bound);
                    self.violate("bounded-work", false, what);
                    self.nodes[at].engine = Some(engine);
                    self.nodes[at].driven = false;
                    return;
                }
                engine.handle(local, input);
            }
            while let Some(output) = engine.poll_output() {
                if self.fuse_blows(node) {
                    return;
                }
                self.execute(node, output);
            }
            if !self.nodes[at].alive || self.nodes[at].life != life {
                self.nodes[at].driven = false;
                return;
            }
            if let Some(slow) = self.size_of(Kind::SlowNode, node) {
                self.nodes[at].busy_until = self.now + slow;
                self.queue.push(self.now + slow, Due::Wake(node, life));
                break;
            }
            match self.nodes[at].inbox.pop_front() {
                Some(next) => input = Some(next),
                None => break,
            }
        }
        let deadline = engine.deadline();
        self.nodes[at].engine = Some(engine);
        self.nodes[at].driven = false;
        self.set_timer(node, deadline);
    }

    /// Whether the process dies before its next output.
    pub(super) fn fuse_blows(&mut self, node: NodeId) -> bool {
        let host = &mut self.nodes[node.0 as usize];
        let Some(fuse) = &mut host.fuse else { return false };
        if *fuse > 0 {
            *fuse -= 1;
            return false;
        }
        host.fuse = None;
        host.driven = false;
        self.hits(Kind::CrashAtPoint, node);
        self.halt(node, None);
        true
    }

    /// The process has time again.
    pub(super) fn wake(&mut self, node: NodeId, life: u32) {
        let host = &mut self.nodes[node.0 as usize];
        if host.life != life || !host.alive || host.frozen || host.busy_until > self.now {
            return;
        }
        if self.outside.is_some() {
            return self.poke(node);
        }
        let input = host.inbox.pop_front().unwrap_or(Input::Tick);
        self.drive(node, Some(input));
    }

    fn set_timer(&mut self, node: NodeId, deadline: Option<Deadline>) {
        let Some(deadline) = deadline else { return };
        let host = &self.nodes[node.0 as usize];
        let at = host.clock.when(self.now, deadline.at);
        if at >= host.timer {
            return;
        }
        let at = self.fires(node, at);
        self.nodes[node.0 as usize].timer = at;
        self.queue.push(at, Due::Timer { node });
    }

    /// When a timer that is set for `at` really fires.
    pub(super) fn fires(&mut self, node: NodeId, mut at: Ns) -> Ns {
        if !self.on_nodes.is_empty() {
            if let Some(grid) = self.size_of(Kind::CoarseTimer, node) {
                at = at.div_ceil(grid.max(1)) * grid.max(1);
            }
            if let Some(late) = self.size_of(Kind::LateTimer, node) {
                at += self.os.below(late + 1);
            }
        }
        at
    }

    /// A timer fires; a stale one only sets the next.
    pub(super) fn timer(&mut self, node: NodeId) {
        let now = self.now;
        let host = &mut self.nodes[node.0 as usize];
        if !host.alive || host.timer > now {
            return;
        }
        host.timer = Ns::MAX;
        if host.frozen || host.busy_until > now {
            // It fires when the process runs again.
            return;
        }
        let deadline = host.engine.as_ref().and_then(|engine| engine.deadline());
        if deadline.is_some_and(|deadline| deadline.at <= host.clock.read(now)) {
            self.feed(node, Input::Tick);
        } else {
            self.set_timer(node, deadline);
        }
    }

    /// Starts one output; never waits for it.
    fn execute(&mut self, node: NodeId, output: Output) {
        self.hash_output(node, &output);
        match output {
            Output::Send { to, datagram, .. } => {
                self.files_packet(node, &datagram, true);
                self.transmit(node, to, datagram);
            }
            Output::Persist { op, record } => self.persist(node, op, record),
            Output::Guard(order) => self.guard(node, order),
            Output::Process { op, copy, order } => self.program(node, op, copy, order),
            Output::Files(order) => self.files_order(node, order),
            Output::Reboot { .. } => self.reboot(node),
            Output::Event(event) => self.told(node, event),
        }
    }

    /// Runs the reboot hook.
    pub(crate) fn reboot(&mut self, node: NodeId) {
        self.reach("escalated-to-reboot");
        self.halt(node, Some(PowerLoss::LoseAll));
        let life = self.nodes[node.0 as usize].life;
        self.queue.push(self.now + 2_000 * MS, Due::Boot(node, life));
    }

    /// The node tells something.
    pub(crate) fn told(&mut self, node: NodeId, event: Event) {
        let fact = event.fact.clone();
        match &fact {
            Fact::Shipping(fact) => self.files_told(node, fact),
            Fact::Supervision(Supervised::Stopped { copy }) => self.files_program_gone(node, *copy),
            _ => {}
        }
        self.line(Some(node), What::Event(event));
        self.after_event(node, &fact);
    }

    /// A process whose disk failed ends; a machine that is an old instance of itself is wiped by its operator.
    fn after_event(&mut self, node: NodeId, fact: &Fact) {
        match fact {
            Fact::Engine(EngineFact::DiskFailed) => {
                self.halt(node, None);
                let life = self.nodes[node.0 as usize].life;
                self.queue.push(self.now + 1_000 * MS, Due::Boot(node, life));
            }
            Fact::Engine(EngineFact::Superseded { silent: true, .. }) => {
                self.halt(node, None);
                let host = &mut self.nodes[node.0 as usize];
                host.storage = Storage::new(false);
                let life = host.life;
                self.files_wiped(node);
                self.queue.push(self.now + 500 * MS, Due::Boot(node, life));
            }
            _ => {}
        }
    }

    fn persist(&mut self, node: NodeId, op: OpId, record: apus_engine::Record) {
        if self.hits(Kind::DiskFull, node) || self.hits(Kind::ReadOnly, node) {
            // A refusal takes as long as a write may, so that it can come after the success of a later one.
            let slow = self.size_of(Kind::SlowDisk, node).unwrap_or(0);
            let after = MS / 10 + self.os.below(2 * (self.disk_delay + slow) + 1);
            return self.done(node, op, Outcome::DiskFull, after);
        }
        if let Some(index) = self.find(Kind::DiskError, node) {
            let rate = self.plan.faults[index as usize].rate_ppm;
            let state = &mut self.active[index as usize];
            if state.rng.hit(apus_engine::Ratio { hit: rate, of: 1_000_000 }) {
                state.effects += 1;
                return self.done(node, op, Outcome::DiskFailed, MS);
            }
        }
        if self.nodes[node.0 as usize].storage.append(op, record) {
            self.start_sync(node);
        }
    }

    fn start_sync(&mut self, node: NodeId) {
        let delay =
            self.disk_delay / 2 + self.os.below(self.disk_delay + 1) + self.size_of(Kind::SlowDisk, node).unwrap_or(0);
        let life = self.nodes[node.0 as usize].life;
        self.queue.push(self.now + delay, Due::Synced { node, life });
    }

    /// A batch of records is durable.
    pub(super) fn synced(&mut self, node: NodeId, life: u32) {
        let host = &mut self.nodes[node.0 as usize];
        if host.life != life || !host.alive {
            return;
        }
        let (done, more) = host.storage.synced();
        if more {
            self.start_sync(node);
        }
        for (op, outcome) in done {
            self.feed(node, Input::Done { op, outcome });
        }
    }

    /// Answers an output after a while.
    pub(super) fn done(&mut self, node: NodeId, op: OpId, outcome: Outcome, after: Ns) {
        let life = self.nodes[node.0 as usize].life;
        self.queue.push(self.now + after, Due::Done { node, life, op, outcome });
    }

    /// A packet arrives at a machine.
    pub(super) fn deliver(&mut self, to: NodeId, from: NodeId, id: u64, datagram: Vec<u8>) {
        let host = &mut self.nodes[to.0 as usize];
        let hidden = !host.hidden_from.is_empty() && host.hidden_from.contains(&from);
        if !host.alive || host.suspended || !host.powered || hidden {
            let there = host.alive && !host.suspended && host.powered;
            if there {
                self.hits(Kind::NewAddress, to);
            }
            if self.options.keep_trace {
                self.line(Some(from), What::Lost { to, id, fault: None });
            }
            return;
        }
        if let Some(sender) = self.nodes.get_mut(from.0 as usize)
            && !sender.hidden_from.is_empty()
        {
            sender.hidden_from.remove(&to);
        }
        if self.options.keep_trace {
            let kind = apus_engine::wire::peek_kind(&datagram).unwrap_or(0);
            self.line(Some(to), What::Received { from, id, kind, datagram: datagram.clone() });
        }
        self.files_packet(to, &datagram, false);
        self.feed(to, Input::Packet { from, datagram });
    }

    /// Ends a program with a cause, if it runs.
    pub(super) fn end_programs(&mut self, node: NodeId, cause: ExitCause) -> u64 {
        let copies: Vec<Copy> = self.nodes[node.0 as usize].programs.keys().copied().collect();
        for copy in &copies {
            self.exit(node, *copy, cause);
        }
        copies.len() as u64
    }

    pub(super) fn hash_output(&mut self, node: NodeId, output: &Output) {
        match output {
            Output::Send { to, datagram, .. } => {
                self.hash.word(u64::from(node.0) << 48 | u64::from(to.0) << 32 | tail(datagram));
            }
            Output::Persist { record, .. } => self.hash.value(record),
            Output::Guard(order) => self.hash.value(order),
            Output::Process { op, copy, order } => self.hash.value(&(*op, *copy, *order)),
            Output::Files(order) => self.hash.value(order),
            Output::Reboot { .. } => {}
            Output::Event(event) => self.hash.value(event),
        }
    }

    pub(super) fn hash_input(&mut self, node: NodeId, local: Time, input: &Input) {
        self.hash.events += 1;
        self.hash.word(u64::from(node.0) << 48 ^ local.0);
        match input {
            Input::Tick => self.hash.word(1),
            Input::Packet { from, datagram } => self.hash.word(2 << 60 | u64::from(from.0) << 32 | tail(datagram)),
            Input::Done { .. } | Input::Process { .. } | Input::Files { .. } => self.hash.value(input),
        }
    }
}

/// A packet's own check and its length stand for its bytes.
fn tail(datagram: &[u8]) -> u64 {
    let check = datagram.last_chunk::<4>().map_or(0, |tail| u32::from_le_bytes(*tail));
    u64::from(check) ^ (datagram.len() as u64) << 20
}
