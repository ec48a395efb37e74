//! The emulated world: smoltcp stacks as clients and servers on a virtual Ethernet, real TCP connections through ONE-IP.
//!
//! Nodes, engines, faults, guards and checkers are the heap's, event for event: the same seed gives the same control plane
//! there and here. What is added lies below: a switch that learns, a port for each node in which frames go through
//! [`apus_dispatch::dispatch`] under the guard that the node's engine armed, and machines of clients. What must hold of
//! packets is in [`follow`](self::follow).

mod card;
mod client;
mod ending;
mod follow;
mod frames;
mod http;
mod joined;
mod link;
mod node;
mod packet;
mod port;
mod stack;
mod strikes;
mod switch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{Mutant, NodeId, Rng, Seed};

use crate::fault::{MS, Ns, S};
use crate::heap::World;
use crate::report::Run;
use crate::scenario::{EMULATED_NODES, Plan, Scenario, Workload};
use crate::world::Options;
use client::{Machine, Story};
use follow::Follow;
use node::{Node, mac_of};
use packet::{CLUSTER_V4, CLUSTER_V6, Meta, Packet, Sort, read};
use switch::{Port, Switch};
use wire::Wire;

pub use joined::{CLUSTER, Cable, Came, Joined, OUTSIDE, join};
pub use port::{NodePort, Taken};

/// Between two looks of a node's process at its engine.
const LOOK: Ns = 10 * MS;
/// Machines that clients live on, at most.
const MACHINES: u16 = 48;
/// A client must have been answered so shortly before the end.
const SERVED: Ns = 3 * S;

/// The emulated world as a [`World`](crate::world::World).
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulated;

impl crate::world::World for Emulated {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn refuses(&self, scenario: &Scenario) -> Option<String> {
        let nodes = scenario.nodes;
        (nodes > EMULATED_NODES)
            .then(|| format!("{nodes} nodes are too many for the world `emulated`: it takes {EMULATED_NODES}"))
    }

    fn run(&self, plan: &Plan, options: &Options) -> Run {
        let mut world = World::driven(plan, options);
        let mut ether = Ether::new(plan);
        let end = world.ends();
        let mut steps = 0_u32;
        while !world.failed() {
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(1 << 12) {
                world.look_at_the_clock();
            }
            if world.due().min(ether.due()) > end {
                break;
            }
            ether.step(&mut world);
        }
        if !world.failed() {
            world.move_to(end);
            ether.end(&mut world);
        }
        ether.measures(&mut world);
        world.end_driven()
    }
}

/// Something that will happen.
enum Event {
    /// A frame arrives at a port.
    Arrives(Port, Packet),
    /// A machine of clients has something to do.
    Machine(u16),
    /// The system of a node has something to do.
    Node(u16),
    /// The process of a node looks at its clock.
    Station(u16),
    /// Processes look at their engines.
    Look,
    /// A fault takes its next step.
    Strike(u16),
    /// Once a second.
    Second,
}

/// The virtual Ethernet and all that is plugged into it.
struct Ether {
    queue: BTreeMap<(Ns, u64), Event>,
    next: u64,
    switch: Switch,
    wire: Wire,
    nodes: Vec<Node>,
    machines: Vec<Machine>,
    /// Frames for the cable to a real Ethernet, if there is one.
    outside: Option<Vec<Vec<u8>>>,
    follow: Follow,
    /// Faults that act by themselves, and their chance.
    strikes: BTreeMap<u16, Rng>,
    /// How often each node has left a table.
    left: Vec<u64>,
    tables: Vec<BTreeSet<u16>>,
    answers: Vec<Ns>,
    resets: u64,
    mutant: Option<Mutant>,
    seed: u64,
}

impl Ether {
    fn new(plan: &Plan) -> Self {
        let nodes = plan.configs.len() as u16;
        let mutant = plan.scenario.mutant;
        let (clients, rate) = match plan.scenario.workload {
            Workload::Flows { clients, rate } => (clients, rate),
            Workload::None | Workload::Notes { .. } => (3, 2),
        };
        let many = clients.min(MACHINES);
        let every = S / u64::from(rate.max(1));
        let mut machines: Vec<Machine> = (0..many).map(|number| Machine::new(plan.seed, number, every)).collect();
        let mut rng = Seed(plan.seed).stream("clients begin");
        for client in 0..clients {
            machines[usize::from(client % many)].host(client, S + rng.below(S));
        }
        let mut ether = Self {
            queue: BTreeMap::new(),
            next: 0,
            switch: Switch::default(),
            wire: Wire::default(),
            nodes: (0..nodes).map(|node| Node::new(NodeId(node), plan.seed, mutant)).collect(),
            machines,
            outside: None,
            follow: Follow::new(plan.scenario.expect.blackout_within),
            strikes: BTreeMap::new(),
            left: vec![0; usize::from(nodes)],
            tables: vec![BTreeSet::new(); usize::from(nodes)],
            answers: Vec::new(),
            resets: 0,
            mutant,
            seed: plan.seed,
        };
        for machine in 0..many {
            ether.set_machine(0, machine);
        }
        ether.push(LOOK, Event::Look);
        ether.push(S, Event::Second);
        ether
    }

    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn push(&mut self, at: Ns, event: Event) {
        self.next += 1;
        self.queue.insert((at, self.next), event);
    }

    fn due(&self) -> Ns {
        self.queue.first_key_value().map_or(Ns::MAX, |((at, _), _)| *at)
    }

    /// Does the next event of the machines or of the frames.
    fn step(&mut self, world: &mut World) {
        let frames = self.due();
        if world.due() <= frames {
            world.one();
            self.sees(world);
        } else {
            world.move_to(frames);
            self.one(world);
        }
    }

    fn one(&mut self, world: &mut World) {
        let Some((_, event)) = self.queue.pop_first() else { return };
        let now = world.true_time();
        match event {
            Event::Arrives(port, packet) => self.arrives(world, port, packet),
            Event::Machine(machine) => {
                if self.machines[usize::from(machine)].timer <= now {
                    self.machines[usize::from(machine)].timer = Ns::MAX;
                    self.machine(world, machine);
                }
            }
            Event::Node(node) => {
                if self.nodes[usize::from(node)].timer <= now {
                    self.nodes[usize::from(node)].timer = Ns::MAX;
                    self.works(world, node);
                }
            }
            Event::Station(node) => self.station(world, node),
            Event::Look => {
                for node in 0..self.nodes.len() as u16 {
                    self.looks(world, node);
                }
                self.push(now + LOOK, Event::Look);
            }
            Event::Strike(index) => self.strike(world, index),
            Event::Second => {
                self.follow.second(world);
                self.push(now + S, Event::Second);
            }
        }
    }

    // Machines.

    /// Looks at what an event of the engines changed.
    fn sees(&mut self, world: &mut World) {
        let now = world.true_time();
        for at in 0..self.nodes.len() {
            let seen = world.seen(NodeId(at as u16));
            let node = &mut self.nodes[at];
            if seen.powered != node.powered {
                node.powered = seen.powered;
                if seen.powered {
                    node.starts(now);
                }
            }
            if seen.lease != node.lease
                && let Some(life) = seen.daemon
            {
                node.leased(world.local_ns(NodeId(at as u16)), life, seen.lease);
                self.station(world, at as u16);
            }
        }
        let striking = world.striking();
        self.strikes.retain(|index, _| striking.contains(index));
        for index in striking {
            if !self.strikes.contains_key(&index) {
                let rng = Seed(self.seed).derive("strikes").nth(u64::from(index)).stream("fault");
                self.strikes.insert(index, rng);
                self.push(now, Event::Strike(index));
            }
        }
    }

    fn looks(&mut self, world: &mut World, at: u16) {
        let id = NodeId(at);
        let Some(life) = world.seen(id).daemon else { return };
        let (known, local) = (world.known(id), world.local_ns(id));
        self.nodes[usize::from(at)].look(world.true_time(), local, life, known);
        self.station(world, at);
    }

    /// The process of a node does what is due.
    fn station(&mut self, world: &mut World, at: u16) {
        let id = NodeId(at);
        if world.seen(id).daemon.is_none() {
            return;
        }
        let local = world.local_ns(id);
        let node = &mut self.nodes[usize::from(at)];
        let before = node.table();
        node.tick(local);
        let frames = node.acts();
        let deadline = node.deadline();
        if node.table() != before {
            self.changed(at);
        }
        for bytes in frames {
            if !world.may_dispatch(id) {
                world.breaks("one-answerer", format!("{id} announces the cluster's address without a lease"));
            }
            self.sends(world, Port::Node(at), Packet { bytes, meta: Meta::NONE });
        }
        if let Some(deadline) = deadline {
            let when = world.when_local(id, deadline).max(world.true_time() + MS / 10);
            if when < Ns::MAX {
                self.push(when, Event::Station(at));
            }
        }
    }

    /// A node uses another table.
    fn changed(&mut self, at: u16) {
        let nodes = 0..self.nodes.len() as u16;
        let now: BTreeSet<u16> =
            nodes.filter(|node| self.nodes[usize::from(at)].lists(mac_of(NodeId(*node)))).collect();
        let before = std::mem::replace(&mut self.tables[usize::from(at)], now.clone());
        for gone in before.difference(&now) {
            self.left[usize::from(*gone)] += 1;
        }
    }

    fn machine(&mut self, world: &mut World, at: u16) {
        let now = world.true_time();
        let machine = &mut self.machines[usize::from(at)];
        let stories = machine.work(now);
        for packet in machine.stack.down() {
            let sort = packet::sort(&packet);
            let meta = sort.map_or(Meta::NONE, |sort| self.follow.begins(now, sort));
            machine.link.send(now, packet, meta);
        }
        let (out, lost) = (std::mem::take(&mut machine.link.out), std::mem::take(&mut machine.link.lost));
        for mut packet in out {
            if packet.meta.id == 0 && asks(&packet.bytes) {
                packet.meta = self.follow.begins(now, Sort::Question);
            }
            self.sends(world, Port::Machine(at), packet);
        }
        for meta in lost {
            self.follow.ends(world, meta, "no-neighbour");
        }
        for story in stories {
            self.told(world, story);
        }
        self.set_machine(now, at);
    }

    fn set_machine(&mut self, now: Ns, at: u16) {
        let machine = &mut self.machines[usize::from(at)];
        let next = machine.next(now);
        if next < machine.timer {
            machine.timer = next;
            self.push(next, Event::Machine(at));
        }
    }

    fn told(&mut self, world: &mut World, story: Story) {
        match story {
            Story::Over(flow) => drop(self.follow.owners.remove(&flow)),
            Story::Wrong(flow) => {
                world.breaks(
                    "answers-true",
                    format!("the client at port {} got an answer to another request", flow.port),
                );
            }
            Story::Answered(after) => self.answers.push(after),
            Story::Echoed => world.reached("fragments-put-together"),
            Story::Reset(flow) => {
                self.resets += 1;
                let Some(owner) = self.follow.owners.remove(&flow) else { return };
                let server = &self.nodes[usize::from(owner.node.0)];
                let there = server.powered && server.boots == owner.boots;
                // A dispatcher that is about to lose its lease may still hand connections to a server that others gave up.
                let listed = self.nodes.iter().all(|node| node.lists(mac_of(owner.node)));
                if there && listed && self.left[usize::from(owner.node.0)] == owner.left {
                    let what = format!(
                        "the connection from port {} was reset, though its server {} runs and never left a table",
                        flow.port, owner.node
                    );
                    world.breaks("no-reset", what);
                }
            }
        }
    }

    fn works(&mut self, world: &mut World, at: u16) {
        if !world.seen(NodeId(at)).up {
            return;
        }
        let now = world.true_time();
        let node = &mut self.nodes[usize::from(at)];
        node.work(now);
        for packet in node.stack.down() {
            node.link.send(now, packet, Meta::NONE);
        }
        node.link.lost.clear();
        let out = std::mem::take(&mut node.link.out);
        for packet in out {
            self.sends(world, Port::Node(at), packet);
        }
        let node = &mut self.nodes[usize::from(at)];
        let next = node.next(now);
        if next < node.timer {
            node.timer = next;
            self.push(next, Event::Node(at));
        }
    }
}

/// Whether a frame asks who has the cluster's address.
fn asks(bytes: &[u8]) -> bool {
    match read(bytes, 12) {
        Some([0x08, 0x06]) => read(bytes, 20) == Some([0, 1]) && read(bytes, 38) == Some(CLUSTER_V4),
        Some([0x86, 0xdd]) => read(bytes, 54) == Some([135]) && read(bytes, 62) == Some(CLUSTER_V6),
        _ => false,
    }
}
