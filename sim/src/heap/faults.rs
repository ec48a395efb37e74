//! Faults at work: how each kind starts, steps, and stops.

use std::collections::BTreeSet;

use apus_engine::{Command, ExitCause, NodeId, Ratio, ResourceId, Rng, Seed, SubmitError};

use super::World;
use super::node::Host;
use super::queue::Due;
use super::storage::PowerLoss;
use crate::fault::{Fault, Kind, MS, Ns, S, Target};
use crate::trace::What;

/// A fault of the plan while the run goes on.
#[derive(Clone, Debug)]
pub(super) struct Active {
    /// Whom, once it has started.
    pub(super) nodes: BTreeSet<NodeId>,
    mask: Vec<u64>,
    /// Aimed at everything.
    pub(super) everything: bool,
    /// Between start and stop.
    pub(super) running: bool,
    /// When it stops.
    pub(super) ends: Ns,
    /// How often it had an effect.
    pub(super) effects: u64,
    pub(super) rng: Rng,
    /// For kinds that are on and off in turn.
    pub(super) on: bool,
    /// For kinds that wait for something.
    pub(super) until: Ns,
    pub(super) steps: u32,
    /// The node in the middle of a bridge.
    pub(super) bridge: Option<NodeId>,
    /// Nodes whose links are stopped by a swizzle.
    pub(super) clogged: BTreeSet<NodeId>,
    order: Vec<NodeId>,
    zombies: Vec<(NodeId, Box<apus_engine::Engine>)>,
}

impl Active {
    pub(super) fn new(seed: u64, index: usize, fault: &Fault) -> Self {
        // One stream a kind and time: taking another fault away moves no draw of this one.
        let rng =
            Seed(seed).derive(fault.kind.spec().name).nth(fault.at).nth(u64::from(fault.rate_ppm)).stream("fault");
        let _ = index;
        Self {
            nodes: BTreeSet::new(),
            mask: Vec::new(),
            everything: false,
            running: false,
            ends: fault.at + fault.lasts,
            effects: 0,
            rng,
            on: false,
            until: 0,
            steps: 0,
            bridge: None,
            clogged: BTreeSet::new(),
            order: Vec::new(),
            zombies: Vec::new(),
        }
    }

    /// Whether a node is among the targets.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.everything || self.mask.get(node.0 as usize / 64).is_some_and(|word| word >> (node.0 % 64) & 1 == 1)
    }

    fn aim(&mut self, nodes: BTreeSet<NodeId>, total: usize) {
        self.mask = vec![0; total.div_ceil(64)];
        for node in &nodes {
            if let Some(word) = self.mask.get_mut(node.0 as usize / 64) {
                *word |= 1 << (node.0 % 64);
            }
        }
        self.nodes = nodes;
    }
}

impl World {
    /// The running fault of a kind at a node, if any.
    pub(super) fn find(&self, kind: Kind, node: NodeId) -> Option<u16> {
        let mut running = self.on_nodes.iter().copied();
        running.find(|index| self.plan.faults[*index as usize].kind == kind && self.active[*index as usize].has(node))
    }

    /// Whether a kind is at work at a node; counts an effect if so.
    pub(super) fn hits(&mut self, kind: Kind, node: NodeId) -> bool {
        if self.on_nodes.is_empty() {
            return false;
        }
        self.find(kind, node).is_some_and(|index| {
            self.active[index as usize].effects += 1;
            true
        })
    }

    /// The size of a kind at work at a node; counts an effect if so.
    pub(super) fn size_of(&mut self, kind: Kind, node: NodeId) -> Option<u64> {
        if self.on_nodes.is_empty() {
            return None;
        }
        let index = self.find(kind, node)?;
        self.active[index as usize].effects += 1;
        Some(self.plan.faults[index as usize].size)
    }

    /// Who is meant, now.
    fn resolve(&mut self, index: u16, target: &Target) -> BTreeSet<NodeId> {
        let all = || (0..self.nodes.len() as u16).map(NodeId);
        let leader = self.leader();
        let voters: Vec<NodeId> = self.nodes[0].config.bootstrap.voters.clone();
        let pick = |rng: &mut Rng, from: Vec<NodeId>, n: usize| {
            let mut left = from;
            let mut out = BTreeSet::new();
            while out.len() < n && !left.is_empty() {
                out.insert(left.swap_remove(rng.below(left.len() as u64) as usize));
            }
            out
        };
        let holder = |resource: u16| all().find(|node| self.holds(*node, ResourceId(resource)));
        let dispatcher = holder(0);
        let members: Vec<NodeId> = all().take(self.plan.scenario.members as usize).collect();
        let bystanders: Vec<NodeId> =
            members.iter().copied().filter(|node| self.nodes[node.0 as usize].guards.is_empty()).collect();
        let held = if let Target::Holder(resource) = target { holder(*resource) } else { None };
        let rng = &mut self.active[index as usize].rng;
        match target {
            Target::All => members.into_iter().collect(),
            Target::Nodes(nodes) => nodes.iter().copied().collect(),
            Target::Random => pick(rng, members, 1),
            Target::Voter => pick(rng, voters, 1),
            Target::Some(n) => pick(rng, members, *n as usize),
            Target::Minority => {
                let most = (voters.len() - 1) / 2;
                pick(rng, voters, most)
            }
            Target::Half => {
                let half = members.len() / 2;
                pick(rng, members, half)
            }
            Target::Leader => leader.into_iter().collect(),
            Target::Follower => pick(rng, voters.into_iter().filter(|node| Some(*node) != leader).collect(), 1),
            Target::Dispatcher => dispatcher.into_iter().collect(),
            Target::Holder(_) => held.into_iter().collect(),
            Target::Bystander => pick(rng, bystanders, 1),
        }
    }

    /// A fault starts. A role that nobody has at the moment is waited for.
    pub(super) fn fault_start(&mut self, index: u16) {
        let fault = self.plan.faults[index as usize].clone();
        let nodes = self.resolve(index, &fault.target);
        let total = self.nodes.len();
        if nodes.is_empty() {
            if self.now < self.plan.scenario.duration.saturating_sub(fault.lasts + 100 * MS) {
                self.queue.push(self.now + 50 * MS, Due::FaultStart(index));
            }
            return;
        }
        let state = &mut self.active[index as usize];
        state.everything = fault.target == Target::All;
        state.aim(nodes.clone(), total);
        state.running = true;
        let lasts = if fault.kind.spec().lasts { fault.lasts } else { self.grace_of(fault.kind) };
        let state = &mut self.active[index as usize];
        state.ends = (self.now + lasts).min(self.plan.scenario.duration);
        let ends = state.ends;
        self.started[index as usize] = nodes.iter().copied().collect();
        self.line(None, What::FaultStart { fault: index, kind: fault.kind, nodes: nodes.iter().copied().collect() });
        self.queue.push(ends, Due::FaultStop(index));
        if is_link(fault.kind) {
            self.on_links.push(index);
        } else {
            self.on_nodes.push(index);
        }
        self.apply_start(index, &fault);
        if let Some(step) = self.step_of(index, &fault) {
            self.queue.push(self.now + step, Due::FaultStep(index, 0));
        }
    }

    /// How long an instant kind keeps trying.
    const fn grace_of(&self, kind: Kind) -> Ns {
        match kind {
            Kind::AddNode | Kind::RemoveNode | Kind::MoveHolder | Kind::OutOfMemory | Kind::ProgramCrash => 3 * S,
            _ => 0,
        }
    }

    fn apply_start(&mut self, index: u16, fault: &Fault) {
        let nodes: Vec<NodeId> = self.active[index as usize].nodes.iter().copied().collect();
        let mut effects = 0;
        for &node in &nodes {
            effects += self.start_at(index, fault, node);
        }
        match fault.kind {
            Kind::Bridge => {
                let middle = nodes.first().copied();
                self.active[index as usize].bridge = middle;
            }
            Kind::Swizzle => self.active[index as usize].order = nodes,
            Kind::Flap => self.active[index as usize].on = true,
            Kind::Knobs => effects += 1,
            _ => {}
        }
        self.active[index as usize].effects += effects;
    }

    /// Starts a fault at one node; how many effects that had.
    fn start_at(&mut self, index: u16, fault: &Fault, node: NodeId) -> u64 {
        let at = node.0 as usize;
        let now = self.now;
        let alive = u64::from(self.nodes[at].alive);
        match fault.kind {
            Kind::Crash | Kind::Upgrade | Kind::DivergentConfig | Kind::CrashInRecovery => {
                self.halt(node, None);
                alive
            }
            Kind::CrashLoop => alive,
            Kind::GracefulStop => {
                self.stop_in_order(node);
                alive
            }
            Kind::PowerOff | Kind::CrashAll | Kind::LoseUnsynced | Kind::ClockOrigin => {
                self.halt(node, Some(PowerLoss::LoseAll));
                alive
            }
            Kind::TornWrite | Kind::ReorderWrites => {
                let draw = self.active[index as usize].rng.next();
                self.halt(node, Some(PowerLoss::Prefix(draw)));
                alive
            }
            Kind::PermanentLoss => {
                self.halt(node, Some(PowerLoss::LoseAll));
                self.nodes[at].lost = true;
                alive
            }
            Kind::Wipe
            | Kind::StaleDisk
            | Kind::PhantomWrite
            | Kind::Misdirect
            | Kind::BitRot
            | Kind::StaleChunk
            | Kind::TruncatedFile => {
                self.halt(node, Some(PowerLoss::LoseAll));
                if fault.kind == Kind::Wipe {
                    self.nodes[at].storage = super::storage::Storage::new(false);
                    self.files_wiped(node);
                } else {
                    self.nodes[at].storage.damaged = true;
                }
                alive
            }
            Kind::NewAddress => {
                self.halt(node, None);
                self.nodes[at].hidden_from =
                    (0..self.nodes.len() as u16).map(NodeId).filter(|peer| *peer != node).collect();
                alive
            }
            Kind::WrongCluster => {
                self.halt(node, None);
                self.nodes[at].config.cluster.0 ^= 1;
                let host = &mut self.nodes[at];
                self.parked.insert(node, std::mem::replace(&mut host.storage, super::storage::Storage::new(true)));
                self.boot(node);
                alive
            }
            Kind::Zombie => {
                let engine = self.nodes[at].engine.clone();
                self.active[index as usize].zombies.extend(engine.map(|engine| (node, engine)));
                self.halt(node, None);
                self.boot(node);
                0
            }
            Kind::Freeze | Kind::Suspend => {
                self.nodes[at].frozen = true;
                self.nodes[at].suspended = fault.kind == Kind::Suspend;
                alive
            }
            Kind::CrashAtPoint => {
                let fuse = self.active[index as usize].rng.below(fault.size.max(1) * 20);
                self.nodes[at].fuse = Some(fuse);
                0
            }
            Kind::Drift => {
                let sign = if self.active[index as usize].rng.below(2) == 0 { 1 } else { -1 };
                let bound = i64::from(self.nodes[at].config.views.drift_ppm) / 2;
                self.nodes[at].clock.set_rate(now, (sign * signed(fault.size)).clamp(-bound, bound));
                1
            }
            Kind::Slew => {
                let bound = i64::from(self.nodes[at].config.views.drift_ppm) / 2;
                self.nodes[at].clock.set_rate(now, signed(fault.size).min(bound));
                1
            }
            Kind::JumpForward => {
                self.nodes[at].clock.jump(now, signed(fault.size));
                self.resume(node);
                1
            }
            Kind::JumpBackward => {
                self.nodes[at].clock.jump(now, -signed(fault.size));
                1
            }
            Kind::ProgramHang => {
                let mut hung = 0;
                for program in self.nodes[at].programs.values_mut() {
                    program.hung = true;
                    hung += 1;
                }
                hung
            }
            Kind::FilesRot => self.files_rot(node),
            Kind::ProgramCrash => self.end_programs(node, ExitCause::Code(1)),
            Kind::OutOfMemory => self.end_programs(node, ExitCause::OutOfMemory),
            Kind::ProgramPoison => self.end_programs(node, ExitCause::Signal(6)),
            _ => 0,
        }
    }

    /// How often a kind steps.
    fn step_of(&mut self, index: u16, fault: &Fault) -> Option<Ns> {
        let rng = &mut self.active[index as usize].rng;
        Some(match fault.kind {
            Kind::Flap => (fault.size / 2).max(MS),
            Kind::Flood => (S / fault.size.max(1)).max(1),
            Kind::Strobe => 100 * MS,
            Kind::Slew => (fault.lasts / 2).max(1),
            Kind::Starve => rng.between(fault.size / 2, fault.size).max(MS),
            Kind::CrashLoop => fault.size.max(10 * MS),
            Kind::CrashInRecovery => (fault.lasts / (2 * fault.size + 2)).max(MS),
            Kind::Swizzle => (fault.lasts / (2 * self.active[index as usize].order.len() as u64 + 1)).max(1),
            Kind::Zombie => 50 * MS,
            Kind::AddNode | Kind::RemoveNode | Kind::MoveHolder | Kind::Drain => 50 * MS,
            _ => return None,
        })
    }

    /// A fault with steps takes the next one.
    pub(super) fn fault_step(&mut self, index: u16, step: u32) {
        if !self.active[index as usize].running {
            return;
        }
        let fault = self.plan.faults[index as usize].clone();
        let nodes: Vec<NodeId> = self.active[index as usize].nodes.iter().copied().collect();
        match fault.kind {
            Kind::Flap => self.active[index as usize].on ^= true,
            Kind::Flood => nodes.iter().for_each(|node| self.flood(index, *node)),
            Kind::Strobe => {
                let by = if step.is_multiple_of(2) { signed(fault.size) } else { -signed(fault.size) };
                for node in &nodes {
                    self.nodes[node.0 as usize].clock.jump(self.now, by);
                    self.active[index as usize].effects += 1;
                }
            }
            Kind::Slew => {
                for node in &nodes {
                    let host = &mut self.nodes[node.0 as usize];
                    let bound = i64::from(host.config.views.drift_ppm) / 2;
                    host.clock.set_rate(self.now, -signed(fault.size).min(bound));
                }
            }
            Kind::Starve => nodes.iter().for_each(|node| self.starve(index, &fault, *node)),
            Kind::CrashLoop | Kind::CrashInRecovery => {
                for node in &nodes {
                    if step % 2 == u32::from(fault.kind == Kind::CrashInRecovery) {
                        self.halt(*node, None);
                        self.active[index as usize].effects += 1;
                    } else {
                        self.boot(*node);
                    }
                }
            }
            Kind::Swizzle => self.swizzle(index, step),
            Kind::Zombie => self.zombies(index),
            Kind::AddNode | Kind::RemoveNode | Kind::MoveHolder | Kind::Drain => self.operate(index, &fault, &nodes),
            _ => {}
        }
        if let Some(wait) = self.step_of(index, &fault) {
            self.queue.push(self.now + wait, Due::FaultStep(index, step + 1));
        }
    }

    fn flood(&mut self, index: u16, node: NodeId) {
        let nodes = self.nodes.len() as u64;
        let state = &mut self.active[index as usize];
        let from = NodeId(state.rng.below(nodes) as u16);
        let len = state.rng.below(200) as usize;
        let datagram = (0..len).map(|_| state.rng.next() as u8).collect();
        state.effects += 1;
        self.deliver(node, from, 0, datagram);
    }

    fn starve(&mut self, index: u16, fault: &Fault, node: NodeId) {
        let state = &mut self.active[index as usize];
        let stop = state.rng.hit(Ratio { hit: fault.rate_ppm, of: 1_000_000 });
        state.effects += u64::from(stop);
        let host = &mut self.nodes[node.0 as usize];
        let was = std::mem::replace(&mut host.frozen, stop);
        if was && !stop {
            self.resume(node);
        }
    }

    fn swizzle(&mut self, index: u16, step: u32) {
        let state = &mut self.active[index as usize];
        let many = state.order.len();
        let step = step as usize;
        if step < many {
            let node = state.order[step];
            state.clogged.insert(node);
        } else if !state.clogged.is_empty() {
            let place = state.rng.below(state.clogged.len() as u64) as usize;
            let node = state.clogged.iter().nth(place).copied();
            state.clogged.retain(|other| Some(*other) != node);
        }
    }

    /// Old instances wake and send; nothing reaches them.
    fn zombies(&mut self, index: u16) {
        let mut zombies = std::mem::take(&mut self.active[index as usize].zombies);
        for (node, engine) in &mut zombies {
            let local = self.nodes[node.0 as usize].clock.read(self.now);
            engine.handle(local, apus_engine::Input::Tick);
            while let Some(output) = engine.poll_output() {
                match output {
                    apus_engine::Output::Send { to, datagram, .. } => {
                        self.active[index as usize].effects += 1;
                        self.transmit(*node, to, datagram);
                    }
                    // Told by nobody that runs: known as evidence, not as an act of the node.
                    apus_engine::Output::Event(event) => self.line(None, What::Event(event)),
                    _ => {}
                }
            }
        }
        self.active[index as usize].zombies = zombies;
    }

    /// An operator repeats a command until somebody accepts it.
    fn operate(&mut self, index: u16, fault: &Fault, nodes: &[NodeId]) {
        if self.active[index as usize].on {
            return;
        }
        for &node in nodes {
            if fault.kind == Kind::AddNode {
                self.boot(node);
            }
            let command = match fault.kind {
                Kind::AddNode => Command::AddNode { node, voter: true },
                Kind::RemoveNode => Command::RemoveNode(node),
                Kind::MoveHolder => Command::Move { resource: ResourceId(0), to: node },
                _ => Command::Drain(node),
            };
            if self.command(&command) == Ok(()) {
                self.active[index as usize].effects += 1;
                self.active[index as usize].on = true;
            }
        }
    }

    /// Submits a command where it is accepted.
    pub(super) fn command(&mut self, command: &Command) -> Result<(), SubmitError> {
        let mut last = Err(SubmitError::NotCoordinator { hint: None });
        for at in 0..self.nodes.len().min(64) {
            last = self.submit(NodeId(at as u16), command.clone());
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// A fault ends.
    pub(super) fn fault_stop(&mut self, index: u16) {
        let state = &mut self.active[index as usize];
        if !state.running {
            return;
        }
        state.running = false;
        let fault = self.plan.faults[index as usize].clone();
        self.on_links.retain(|other| *other != index);
        self.on_nodes.retain(|other| *other != index);
        let nodes: Vec<NodeId> = self.active[index as usize].nodes.iter().copied().collect();
        for &node in &nodes {
            self.stop_at(&fault, node);
        }
        let effects = self.active[index as usize].effects;
        self.line(None, What::FaultStop { fault: index, kind: fault.kind, effects });
    }

    fn stop_at(&mut self, fault: &Fault, node: NodeId) {
        let at = node.0 as usize;
        let now = self.now;
        match fault.kind {
            Kind::Upgrade => {
                let host = &mut self.nodes[at];
                let newest = apus_engine::wire::VERSION;
                host.config.wire_version = if host.config.wire_version == newest { 1 } else { newest };
                self.boot(node);
            }
            Kind::DivergentConfig => {
                let own = &mut self.nodes[at].config;
                own.diagnosis.period = own.diagnosis.period.scale(3, 2);
                own.consensus.election = own.consensus.election.scale(3, 2);
                own.consensus.batch = 1;
                self.boot(node);
            }
            Kind::ClockOrigin => {
                let origin = self.os.below(1_000 * S);
                self.nodes[at].clock = super::clock::Clock::new(now, origin, 0);
                self.boot(node);
            }
            Kind::WrongCluster => {
                self.halt(node, None);
                self.nodes[at].config.cluster.0 ^= 1;
                if let Some(storage) = self.parked.remove(&node) {
                    self.nodes[at].storage = storage;
                }
                self.boot(node);
            }
            Kind::Freeze | Kind::Suspend | Kind::Starve => {
                self.nodes[at].frozen = false;
                self.nodes[at].suspended = false;
                self.files_woke(node);
                self.resume(node);
            }
            Kind::Drift | Kind::Slew => self.nodes[at].clock.heal(now),
            Kind::CrashAtPoint => {
                self.nodes[at].fuse = None;
                self.boot(node);
            }
            Kind::ProgramHang => self.nodes[at].programs.values_mut().for_each(|program| program.hung = false),
            Kind::Drain => {
                self.undrains.push(node);
            }
            Kind::NewAddress => self.boot(node),
            _ if matches!(fault.kind.spec().aim, crate::fault::Aim::Nodes | crate::fault::Aim::Disks) => {
                self.boot(node);
            }
            _ => {}
        }
    }

    /// A process that stood still runs again.
    pub(super) fn resume(&mut self, node: NodeId) {
        let host = &self.nodes[node.0 as usize];
        if host.alive && !host.frozen {
            let life = host.life;
            self.queue.push(self.now, Due::Wake(node, life));
        }
    }

    /// The liveness phase: every fault is over, every machine that can run runs.
    pub(super) fn heal(&mut self) {
        for index in 0..self.active.len() {
            self.fault_stop(index as u16);
        }
        for at in 0..self.nodes.len() {
            let host: &mut Host = &mut self.nodes[at];
            host.hidden_from.clear();
            if host.life > 0 {
                self.boot(NodeId(at as u16));
            }
        }
        self.files_healed();
        self.line(None, What::Healed);
    }
}

/// Whether a kind works on packets.
const fn is_link(kind: Kind) -> bool {
    matches!(kind.spec().aim, crate::fault::Aim::Links | crate::fault::Aim::Cut)
        || matches!(kind, Kind::NicDown | Kind::NoSockets | Kind::Garbled | Kind::Swizzle)
}

/// A size as a signed number; sizes are far below the limit.
const fn signed(size: u64) -> i64 {
    if size > i64::MAX as u64 { i64::MAX } else { size as i64 }
}
