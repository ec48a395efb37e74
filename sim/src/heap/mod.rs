//! The heap world: virtual time, one event heap, every fault. Millions of seeds.
//!
//! All order comes from the heap's key; all chance from labelled streams of the plan's seed.

mod clients;
mod clock;
mod ether;
mod faults;
mod files;
mod link;
mod node;
mod outside;
mod program;
mod queue;
mod storage;
mod streams;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use apus_engine::{Command, Engine, NodeId, ResourceId, Rng, Role, Seed, SubmitError};

use crate::checker::{Checkers, Look, work_bound};
use crate::fault::{Kind, MS, Ns, S};
use crate::report::{Run, Violation};
use crate::scenario::Plan;
use crate::trace::{Line, TraceHash, What};
use crate::world::{Options, TIMEOUT};
use clock::Clock;
pub(crate) use ether::Known;
use faults::Active;
use node::Host;
use outside::Outside;
pub(crate) use outside::{Action, StreamId};
use queue::{Due, Queue};
use storage::Storage;
pub(crate) use streams::{Connect, Write};

/// The heap world as a [`World`](crate::world::World).
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap;

impl crate::world::World for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }
    fn run(&self, plan: &Plan, options: &Options) -> Run {
        run(plan, options)
    }
}

/// Runs one plan to its end or to its first violation.
#[must_use]
pub fn run(plan: &Plan, options: &Options) -> Run {
    World::new(plan, options).run()
}

/// A run that can be stopped at any time and forked: what comes after may then be drawn anew.
///
/// ```
/// # use apus_sim::{heap::Simulation, scenario::{Plan, Scenario, shipped}, world::Options};
/// let (name, text) = shipped()[0];
/// let scenario = Scenario::parse(name, text).expect("what is shipped is sound");
/// let mut run = Simulation::new(&Plan::draw(&scenario, 1), &Options::default());
/// run.until(2_000_000_000);
/// let (same, mut other) = (run.clone(), run.clone());
/// other.reseed(7);
/// assert_eq!(run.finish().hash, same.finish().hash);
/// assert!(other.finish().violation.is_none());
/// ```
#[derive(Clone)]
pub struct Simulation(World);

impl Simulation {
    /// Starts a run.
    #[must_use]
    pub fn new(plan: &Plan, options: &Options) -> Self {
        Self(World::new(plan, options))
    }

    /// Goes on to this time; false: the run has ended, by a violation or because its time is over.
    pub fn until(&mut self, time: Ns) -> bool {
        let end = self.0.end();
        self.0.go_on(time.min(end));
        self.0.violation.is_none() && time < end
    }

    /// The delays and fates of packets and disks are drawn from other streams from now on; the plan's faults stay.
    pub fn reseed(&mut self, salt: u64) {
        self.0.reseed(Seed(self.0.plan.seed).derive("fork").nth(salt));
    }

    /// Goes on to the end.
    #[must_use]
    pub fn finish(self) -> Run {
        self.0.run()
    }
}

/// One run while it goes on.
#[derive(Clone)]
pub(crate) struct World {
    plan: Rc<Plan>,
    options: Options,
    now: Ns,
    queue: Queue,
    nodes: Vec<Host>,
    active: Vec<Active>,
    /// Running faults that work on packets, and all others.
    on_links: Vec<u16>,
    on_nodes: Vec<u16>,
    /// Resolved targets.
    started: Vec<Vec<NodeId>>,
    net: Rng,
    os: Rng,
    link_delay: Ns,
    disk_delay: Ns,
    next_packet: u64,
    next_run: u32,
    sent: Vec<u64>,
    /// Packets so far by sender, receiver and kind; counted only where their fates are given.
    lanes: BTreeMap<(NodeId, NodeId, u8), usize>,
    /// Inputs of each engine in this second, and their bound.
    worked: Vec<u64>,
    work_bound: u64,
    roles: BTreeMap<ResourceId, Role>,
    overlap: BTreeMap<ResourceId, Ns>,
    holders_since: BTreeMap<ResourceId, Ns>,
    /// Disks of nodes that pose as another cluster's.
    parked: BTreeMap<NodeId, Storage>,
    undrains: Vec<NodeId>,
    clients: clients::Clients,
    /// Replicated files, where the scenario has some.
    files: Option<Box<files::Files>>,
    hash: TraceHash,
    trace: Vec<Line>,
    goals: Vec<&'static str>,
    violation: Option<Violation>,
    /// The first time of two holders, while the run goes on to measure it.
    measured: Option<Violation>,
    checkers: Option<Box<Checkers>>,
    /// Engines run in shells outside, not here.
    outside: Option<Box<Outside>>,
    /// What a data plane measured.
    measured_outside: BTreeMap<&'static str, Ns>,
}

impl World {
    fn new(plan: &Plan, options: &Options) -> Self {
        let seed = Seed(plan.seed);
        let mut clocks = seed.stream("clocks");
        let scenario = &plan.scenario;
        let nodes = plan.configs.iter().enumerate().map(|(at, config)| {
            let bound = i64::from(config.views.drift_ppm) / 4;
            let ppm = i64::try_from(clocks.below(2 * bound.unsigned_abs() + 1)).unwrap_or(0) - bound;
            let clock = Clock::new(0, clocks.between(S, 1_000 * S), ppm);
            Host::new(config.clone(), clock, at < scenario.members as usize)
        });
        let nodes: Vec<Host> = nodes.collect();
        let roles = plan.configs.first().map(|config| config.resources.iter().map(|r| (r.id, r.role)).collect());
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            active: plan.faults.iter().enumerate().map(|(at, fault)| Active::new(plan.seed, at, fault)).collect(),
            on_links: Vec::new(),
            on_nodes: Vec::new(),
            started: vec![Vec::new(); plan.faults.len()],
            net: seed.stream("net"),
            os: seed.stream("os"),
            link_delay: scenario.cluster.link_delay.unwrap_or(MS / 5),
            disk_delay: scenario.cluster.disk_delay.unwrap_or(MS),
            next_packet: 0,
            next_run: 0,
            sent: vec![0; nodes.len()],
            lanes: BTreeMap::new(),
            worked: vec![0; nodes.len()],
            work_bound: work_bound(plan),
            roles: roles.unwrap_or_default(),
            overlap: BTreeMap::new(),
            holders_since: BTreeMap::new(),
            parked: BTreeMap::new(),
            undrains: Vec::new(),
            clients: clients::Clients::new(plan),
            files: files::Files::new(plan),
            hash: TraceHash::default(),
            trace: Vec::new(),
            goals: Vec::new(),
            violation: None,
            measured: None,
            checkers: Some(Box::new(Checkers::new(plan))),
            nodes,
            plan: Rc::new(plan.clone()),
            options: options.clone(),
            outside: None,
            measured_outside: BTreeMap::new(),
        };
        world.schedule(&mut seed.stream("boot"));
        world
    }

    fn schedule(&mut self, rng: &mut Rng) {
        for node in 0..self.plan.scenario.members {
            // Machines do not start at one instant.
            self.queue.push(rng.below(100 * MS), Due::Boot(NodeId(node), 0));
        }
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.queue.push(fault.at, Due::FaultStart(index as u16));
        }
        self.queue.push(self.plan.scenario.duration, Due::Heal);
        self.queue.push(S, Due::Second);
        if let Some(files) = &self.files {
            let look = Due::Files { node: NodeId(0), life: 0, what: files::FilesDue::Look };
            self.queue.push(files.first_look(), look);
        }
        for client in 0..self.clients.many() {
            self.queue.push(rng.between(S / 2, S), Due::Client(client));
        }
    }

    /// When the run is over.
    fn end(&self) -> Ns {
        let end = self.plan.scenario.duration + self.plan.scenario.heal;
        self.options.until.map_or(end, |until| until.min(end))
    }

    fn run(mut self) -> Run {
        let end = self.end();
        self.go_on(end);
        if self.violation.is_none() {
            self.now = end;
            self.finish();
        }
        self.report()
    }

    fn reseed(&mut self, seed: Seed) {
        self.net = seed.stream("net");
        self.os = seed.stream("os");
        for (at, active) in self.active.iter_mut().enumerate() {
            active.rng = seed.nth(at as u64).stream("fault");
        }
    }

    /// Everything that happens up to and at `end`.
    fn go_on(&mut self, end: Ns) {
        let mut steps = 0_u32;
        while self.violation.is_none() {
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(1 << 12) && self.options.deadline.is_some_and(|end| Instant::now() >= end) {
                let what = format!("cut after {} events: the time for one seed was over", self.hash.events);
                self.violate(TIMEOUT, true, what);
                break;
            }
            let Some((at, due)) = self.queue.pop_until(end) else { break };
            self.now = at;
            self.dispatch(due);
        }
    }

    fn dispatch(&mut self, due: Due) {
        match due {
            Due::Deliver { to, from, id, datagram } => self.deliver(to, from, id, datagram),
            Due::Timer { node } => self.timer(node),
            Due::Synced { node, life } => self.synced(node, life),
            Due::Done { node, life, op, outcome } => {
                if self.nodes[node.0 as usize].life == life {
                    self.feed(node, apus_engine::Input::Done { op, outcome });
                }
            }
            Due::Program { node, copy, run, what } => self.program_acts(node, copy, run, what),
            Due::ProgramGone { node, copy, run } => self.program_gone(node, copy, run),
            Due::Unclaimed { node, life } => self.unclaimed(node, life),
            Due::Guard { node, resource } => self.guard_due(node, resource),
            Due::FaultStart(index) => self.fault_start(index),
            Due::FaultStep(index, step) => self.fault_step(index, step),
            Due::FaultStop(index) => self.fault_stop(index),
            Due::Heal => self.heal(),
            Due::Boot(node, life) => {
                if self.nodes[node.0 as usize].life == life {
                    self.boot(node);
                }
            }
            Due::Wake(node, life) => self.wake(node, life),
            Due::Client(client) => self.client(client),
            Due::Second => self.second(),
            Due::Files { node, life, what } => self.files_due(node, life, what),
        }
    }

    /// Once a second: rates, sizes, and what operators repeat.
    fn second(&mut self) {
        let sent = std::mem::replace(&mut self.sent, vec![0; self.nodes.len()]);
        self.worked.fill(0);
        self.with_checkers(|checkers, world| checkers.second(world.now, &sent, world));
        let drained = std::mem::take(&mut self.undrains);
        for node in drained {
            if self.command(&Command::Undrain(node)).is_err() {
                self.undrains.push(node);
            }
        }
        self.forget_flights();
        self.queue.push(self.now + S, Due::Second);
    }

    fn finish(&mut self) {
        self.files_end();
        for resource in self.roles.keys().copied().collect::<Vec<_>>() {
            self.integrate_holders(resource);
        }
        self.with_checkers(|checkers, world| checkers.end(world.now, world));
    }

    /// Tells the checkers and the trace.
    fn line(&mut self, node: Option<NodeId>, what: What) {
        let line = Line { at: self.now, node, what };
        if !matches!(line.what, What::Sent { .. } | What::Received { .. } | What::Lost { .. }) {
            self.with_checkers(|checkers, _| checkers.see(&line));
        }
        if self.options.keep_trace {
            self.trace.push(line);
        }
    }

    fn with_checkers(&mut self, call: impl FnOnce(&mut Checkers, &Self) -> Option<Violation>) {
        let Some(mut checkers) = self.checkers.take() else { return };
        let violation = call(&mut checkers, self);
        self.checkers = Some(checkers);
        if let Some(violation) = violation {
            self.blame(violation);
        }
    }

    fn violate(&mut self, checker: &'static str, liveness: bool, what: String) {
        let at = self.now;
        self.blame(Violation { checker, liveness, at, what });
    }

    fn blame(&mut self, violation: Violation) {
        let excepted = self.plan.scenario.expect.except.contains_key(violation.checker);
        // Under the 1998 rule the run goes on, so that the report can say for how long there were two.
        let measured = violation.checker == "one-holder" && self.options.measure_overlap;
        if self.violation.is_none() && !excepted && !measured {
            self.violation = Some(violation);
        } else if measured {
            self.measured.get_or_insert(violation);
        }
    }

    fn reach(&mut self, goal: &'static str) {
        if !self.goals.contains(&goal) {
            self.goals.push(goal);
        }
    }

    fn submit(&mut self, node: NodeId, command: Command) -> Result<(), SubmitError> {
        let host = &mut self.nodes[node.0 as usize];
        let refused = Err(SubmitError::NotCoordinator { hint: None });
        if !host.alive || host.frozen || host.busy_until > self.now {
            return refused;
        }
        let local = host.clock.read(self.now);
        let Some(engine) = &mut host.engine else { return refused };
        let result = engine.submit(local, command.clone());
        self.hash.value(&(node, command));
        if result.is_ok() {
            self.feed(node, apus_engine::Input::Tick);
        }
        result
    }

    /// Who leads, by what the nodes themselves think; the highest term wins.
    fn leader(&self) -> Option<NodeId> {
        let terms = self.nodes.iter().enumerate().filter_map(|(at, host)| {
            let (_, consensus, ..) = host.engine.as_ref()?.look()?;
            consensus.leads().map(|(term, _)| (term, NodeId(at as u16)))
        });
        terms.max().map(|(_, node)| node)
    }

    fn report(mut self) -> Run {
        let mut measures = self.checkers.take().map(|checkers| checkers.measures()).unwrap_or_default();
        for goal in std::mem::take(&mut measures.goals) {
            self.reach(goal);
        }
        if self.violation.as_ref().is_some_and(|violation| violation.checker == "one-holder") {
            // The run ends here, the time of two holders does not.
            for resource in self.roles.keys().copied().collect::<Vec<_>>() {
                let ahead = self.overlap_ahead(resource);
                *self.overlap.entry(resource).or_default() += ahead;
            }
        }
        let overlap = self.overlap.values().copied().max().unwrap_or(0);
        if overlap > 0 {
            measures.map.insert("two-holders-time", overlap);
            self.reach("two-holders");
        }
        self.clients.measure(&mut measures.map);
        measures.map.append(&mut self.measured_outside);
        let mut faults = self.plan.faults.clone();
        for (fault, nodes) in faults.iter_mut().zip(&self.started) {
            if !nodes.is_empty() && fault.target != crate::fault::Target::All {
                fault.target = crate::fault::Target::Nodes(nodes.clone());
            }
        }
        if self.violation.is_none() {
            self.violation = self.measured.take();
        }
        Run {
            seed: self.plan.seed,
            violation: self.violation,
            faults,
            effects: self.active.iter().map(|state| state.effects).collect(),
            goals: self.goals,
            measures: measures.map,
            hash: self.hash.finish(),
            events: self.hash.events,
            simulated: self.now,
            trace: self.trace,
        }
    }
}

impl Look for World {
    fn now(&self) -> Ns {
        self.now
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn nodes(&self) -> usize {
        self.nodes.len()
    }
    fn engine(&self, node: NodeId) -> Option<&Engine> {
        let host = self.nodes.get(node.0 as usize)?;
        host.engine.as_deref().filter(|_| host.alive && !host.frozen)
    }
    fn lost(&self, node: NodeId) -> bool {
        self.nodes[node.0 as usize].lost
    }
    fn holders(&self, resource: ResourceId) -> Vec<NodeId> {
        (0..self.nodes.len() as u16).map(NodeId).filter(|node| self.holds(*node, resource)).collect()
    }
    fn active_copies(&self, copy: apus_engine::Copy) -> Vec<NodeId> {
        let active =
            |node: &NodeId| self.nodes[node.0 as usize].programs.get(&copy).is_some_and(|program| program.active);
        (0..self.nodes.len() as u16).map(NodeId).filter(active).collect()
    }
}

/// Kinds that clients look at.
const LOAD: [Kind; 3] = [Kind::LoadSpike, Kind::RetryStorm, Kind::OddSizes];
