//! The emulated world: smoltcp stacks as clients and servers on a virtual Ethernet, real TCP connections through ONE-IP.
//!
//! Nodes, engines, faults, guards and checkers are the heap's, event for event: the same seed gives the same control plane
//! there and here. What is added lies below: a switch that learns, a port for each node in which frames go through
//! [`apus_dispatch::dispatch`] under the guard that the node's engine armed, and machines of clients. What must hold of
//! packets is in [`follow`](self::follow).

mod card;
mod client;
mod follow;
mod link;
mod node;
mod packet;
mod port;
mod stack;
mod switch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use apus_dispatch::{Flow, Mac, Reason, Tag};
use apus_engine::{Mutant, NodeId, Rng, Seed};

use crate::fault::{Kind, MS, Ns, S};
use crate::heap::World;
use crate::report::Run;
use crate::scenario::{EMULATED_NODES, Plan, Scenario, Workload};
use crate::world::Options;
use card::Outcome;
use client::{Machine, Story};
use follow::Follow;
use node::{Node, mac_of};
use packet::{BROADCAST, CLUSTER_V4, CLUSTER_V6, Meta, PORT, Packet, Sort, arp, frame, read, solicitation};
use switch::{Port, Switch};
use wire::{Fate, Wire};

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
            let (machines, frames) = (world.due(), ether.due());
            if machines.min(frames) > end {
                break;
            }
            if machines <= frames {
                world.one();
                ether.sees(&mut world);
            } else {
                world.move_to(frames);
                ether.one(&mut world);
            }
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

    // Frames.

    /// A port sends a frame: the switch hands it on, and faults lie in between.
    fn sends(&mut self, world: &mut World, from: Port, packet: Packet) {
        let secure = world.secures(from.node());
        let Some(ports) = self.switch.forward(from, &packet.bytes, secure.is_some(), self.ports()) else {
            if let Some(index) = secure {
                world.had_effect(index);
            }
            return self.follow.ends(world, packet.meta, "port-security");
        };
        if ports.is_empty() {
            return self.follow.ends(world, packet.meta, "no-way-out");
        }
        self.follow.splits(packet.meta, ports.len() as u32 - 1);
        for to in ports {
            let mut packet = packet.clone();
            match self.wire.carry(world, from.node(), to.node(), &mut packet) {
                Fate::Lost => self.follow.ends(world, packet.meta, "fault"),
                Fate::Arrives { later, again } => {
                    let at = world.true_time() + world.healthy_delay() / 2 + later;
                    for more in again {
                        self.follow.splits(packet.meta, 1);
                        let meta = Meta { copy: true, ..packet.meta };
                        self.push(at + more, Event::Arrives(to, Packet { bytes: packet.bytes.clone(), meta }));
                    }
                    self.push(at, Event::Arrives(to, packet));
                }
            }
        }
    }

    fn ports(&self) -> impl Iterator<Item = Port> + use<> {
        let (nodes, machines) = (self.nodes.len() as u16, self.machines.len() as u16);
        (0..nodes).map(Port::Node).chain((0..machines).map(Port::Machine)).chain([Port::Stranger])
    }

    fn arrives(&mut self, world: &mut World, port: Port, packet: Packet) {
        match port {
            Port::Node(node) => self.at_node(world, node, packet),
            Port::Machine(machine) => {
                let to: Mac = read(&packet.bytes, 0).unwrap_or_default();
                let here = &mut self.machines[usize::from(machine)];
                if to == here.link.mac || to[0] & 1 == 1 {
                    world.hash_frame(1_000 + u64::from(machine), &packet.bytes);
                    if let Some(up) = here.link.receive(world.true_time(), &packet.bytes) {
                        here.stack.take(up);
                    }
                    let quiet = to[0] & 1 == 1 && here.link.out.is_empty();
                    self.follow.ends(world, packet.meta, "at-a-client");
                    if !quiet {
                        self.machine(world, machine);
                    }
                } else {
                    self.follow.ends(world, packet.meta, "not-addressed");
                }
            }
            Port::Stranger => self.follow.ends(world, packet.meta, "at-a-stranger"),
        }
    }

    fn at_node(&mut self, world: &mut World, at: u16, packet: Packet) {
        let id = NodeId(at);
        let Packet { bytes, mut meta } = packet;
        if !world.seen(id).up {
            return self.follow.ends(world, meta, "port-down");
        }
        let now = world.true_time();
        let outcome = self.nodes[usize::from(at)].receive(now, world.local_ns(id), bytes.clone());
        if outcome != Outcome::Ignores {
            world.hash_frame(u64::from(at), &bytes);
        }
        let tag = read(&bytes, 6).and_then(Tag::of);
        match outcome {
            Outcome::Ignores => self.follow.ends(world, meta, "not-addressed"),
            Outcome::Passed => {
                self.follow.ends(world, meta, "passed");
                self.works(world, at);
            }
            Outcome::Drops(reason) => {
                if reason == Reason::ForeignClaim && !self.has(Mutant::ClaimUnanswered) {
                    self.station(world, at);
                    if world.may_dispatch(id) {
                        world.reached("claim-answered");
                    }
                }
                if reason == Reason::StaleEpoch {
                    world.reached("stale-frame-refused");
                }
                self.follow.ends(world, meta, reason.name());
            }
            Outcome::Local => {
                self.delivered(world, at, meta, tag);
                self.works(world, at);
            }
            Outcome::Sends(bytes) => {
                if meta.sort == Sort::Question && matches!(read(&bytes, 12), Some([0x08, 0x06] | [0x86, 0xdd])) {
                    if !world.may_dispatch(id) {
                        world.breaks("one-answerer", format!("{id} answers for the cluster's address without a lease"));
                    }
                    self.follow.answers(world, meta, id);
                    self.follow.ends(world, meta, "answered");
                    return self.sends(world, Port::Node(at), Packet { bytes, meta: Meta::NONE });
                }
                if tag.is_none() && !world.may_dispatch(id) {
                    world.breaks("one-dispatcher", format!("{id} sends a client's packet on without a lease"));
                }
                meta.hops += 1;
                if tag.is_some() {
                    world.reached("second-chance");
                }
                if meta.hops > 2 && !meta.dirty {
                    world.breaks("second-chance-once", format!("{id} sends a packet on for the third time"));
                }
                self.sends(world, Port::Node(at), Packet { bytes, meta });
            }
        }
    }

    /// A server gets a frame that was for the cluster.
    fn delivered(&mut self, world: &mut World, at: u16, meta: Meta, tag: Option<Tag>) {
        let id = NodeId(at);
        if meta.dirty || meta.id == 0 {
            return self.follow.ends(world, meta, "damaged");
        }
        let known = world.known(id).map_or(0, |known| known.epoch);
        if let Some(tag) = tag
            && tag.before(known)
            && self.settled(world, at)
        {
            world.breaks("fenced", format!("{id} takes a frame of epoch {} and knows of epoch {known}", tag.epoch));
        }
        if tag.is_none() && !world.may_dispatch(id) {
            world.breaks("one-dispatcher", format!("{id} takes its own share of the clients without a lease"));
        }
        match meta.sort {
            Sort::Segment { flow, begins } => self.segment(world, at, &flow, begins, tag),
            Sort::Error { flow } => self.error(world, at, &flow),
            Sort::Datagram { client, ident, part: true } => {
                // Which dispatcher, by which table: both in one number.
                let by = tag.map_or(at, |tag| u16::from(tag.sender));
                let table = self.nodes.get(usize::from(by)).map_or(0, Node::table) << 8 | u64::from(by);
                self.follow.part(world, (client, ident), id, table);
            }
            _ => {}
        }
        self.follow.arrives(world, meta, id);
    }

    /// Whether a node's process has had time to look at its engine.
    fn settled(&self, world: &World, at: u16) -> bool {
        let id = NodeId(at);
        world.seen(id).daemon.is_some()
            && self.nodes[usize::from(at)].looked + 2 * LOOK <= world.true_time()
            && world.known(id).is_some_and(|known| known.epoch == self.nodes[usize::from(at)].known)
    }

    /// The server that has a connection, if it runs on, has the socket, and is in the tables of those who look.
    fn keeps(&self, flow: &Flow, at: u16) -> Option<NodeId> {
        let owner = self.follow.owners.get(flow)?;
        let server = &self.nodes[usize::from(owner.node.0)];
        let listed = |node: &Node| node.lists(mac_of(owner.node));
        let here = server.powered && server.boots == owner.boots && server.serves(flow);
        let looked_at = listed(&self.nodes[usize::from(at)]);
        (here && looked_at && self.left[usize::from(owner.node.0)] == owner.left).then_some(owner.node)
    }

    fn segment(&mut self, world: &mut World, at: u16, flow: &Flow, begins: bool, tag: Option<Tag>) {
        let id = NodeId(at);
        if begins {
            let drained = world.known(id).is_some_and(|known| known.servers.contains(&(id, true)));
            if drained && self.rests(world, at) {
                world.breaks("drained-rests", format!("{id} is drained and gets a new connection"));
            }
            return;
        }
        if let Some(server) = self.keeps(flow, at)
            && server != id
        {
            let what = format!("a segment from port {} went to {id}, its connection is with {server}", flow.port);
            world.breaks("flow-kept", what);
        }
        let node = &self.nodes[usize::from(at)];
        if node.serves(flow) {
            let (boots, left) = (node.boots, self.left[usize::from(at)]);
            self.follow.owns(*flow, id, boots, tag.map(|tag| tag.epoch), left);
            if tag.is_some_and(|tag| self.follow.outlived(flow, tag.epoch)) {
                world.reached("flow-outlived-dispatcher");
            }
        }
    }

    /// Whether all who dispatch have known for long enough that a node is drained.
    fn rests(&self, world: &World, at: u16) -> bool {
        let now = world.true_time();
        self.nodes.iter().enumerate().all(|(other, node)| {
            let rested = node.resting.get(&NodeId(at)).is_some_and(|since| since + S / 2 < now);
            !world.may_dispatch(NodeId(other as u16)) || rested
        })
    }

    fn error(&mut self, world: &mut World, at: u16, flow: &Flow) {
        let id = NodeId(at);
        match self.keeps(flow, at) {
            Some(server) if server == id => world.reached("error-delivered"),
            Some(server) => {
                let what = format!("an error about a connection of {server} went to {id}");
                world.breaks("errors-reach-owner", what);
            }
            None => {}
        }
    }

    // Faults that act by themselves.

    fn strike(&mut self, world: &mut World, index: u16) {
        let Some(mut rng) = self.strikes.get(&index).cloned() else { return };
        let fault = world.fault(index).clone();
        let now = world.true_time();
        let each = S / fault.size.max(1);
        let wait = match fault.kind {
            Kind::SwitchForgets => {
                self.switch.forget();
                world.had_effect(index);
                fault.size
            }
            Kind::ArpStorm => {
                let low = rng.below(1 << 15) as u16 | 1 << 15;
                let [a, b] = low.to_be_bytes();
                let mac = [2, 8, 2, 0, a, b];
                let bytes = if rng.below(2) == 0 {
                    arp(1, BROADCAST, (mac, [10, 8, a, b]), ([0; 6], CLUSTER_V4))
                } else {
                    let from = [0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, a, b];
                    solicitation((mac, from), CLUSTER_V6)
                };
                let meta = self.follow.begins(now, Sort::Question);
                self.stranger(world, index, Packet { bytes, meta });
                each
            }
            Kind::SpoofedFlood => {
                let from = [10, 8, 0x80 | rng.below(0x80) as u8, rng.below(256) as u8];
                let segment = packet::tcp(rng.below(60_000) as u16 + 1, PORT, rng.next() as u32, 0x10);
                let payload = packet::v4(6, from, CLUSTER_V4, &segment);
                if let Some(to) = self.cluster_mac() {
                    let bytes = frame(to, [2, 8, 2, 1, 0, 1], 0x0800, &payload);
                    let meta = self.follow.begins(now, Sort::Spoofed);
                    self.stranger(world, index, Packet { bytes, meta });
                }
                each
            }
            Kind::DuplicateAddress => {
                let mac = [2, 8, 2, 2, 0, 1];
                let claims = [
                    arp(1, BROADCAST, (mac, CLUSTER_V4), ([0; 6], CLUSTER_V4)),
                    packet::advertisement((mac, CLUSTER_V6), None),
                ];
                for bytes in claims {
                    self.stranger(world, index, Packet { bytes, meta: Meta::NONE });
                }
                fault.size
            }
            Kind::TooBig => {
                let flows = self.follow.owners.len() as u64;
                let nth = rng.below(flows.max(1)) as usize;
                let flow = self.follow.owners.keys().nth(nth).copied();
                if let (Some(flow), Some(to)) = (flow, self.cluster_mac()) {
                    let payload = packet::too_big(&flow, rng.below(250) as u8 + 1);
                    let kind = if flow.v6 { 0x86dd } else { 0x0800 };
                    let meta = self.follow.begins(now, Sort::Error { flow });
                    let bytes = frame(to, [2, 8, 2, 3, 0, 1], kind, &payload);
                    self.stranger(world, index, Packet { bytes, meta });
                }
                each
            }
            Kind::Fragments => {
                for machine in 0..self.machines.len() as u16 {
                    self.machines[usize::from(machine)].datagram(fault.size as usize);
                    self.machine(world, machine);
                    world.had_effect(index);
                }
                S / 10
            }
            _ => return,
        };
        self.strikes.insert(index, rng);
        self.push(now + wait.max(MS / 100), Event::Strike(index));
    }

    fn stranger(&mut self, world: &mut World, index: u16, packet: Packet) {
        world.had_effect(index);
        self.sends(world, Port::Stranger, packet);
    }

    /// Where clients believe the cluster's address to be.
    fn cluster_mac(&self) -> Option<Mac> {
        self.machines.iter().find_map(|machine| machine.link.known(packet::wide(CLUSTER_V4)))
    }

    // The end.

    fn end(&mut self, world: &mut World) {
        let mut under_way: Vec<u64> = self
            .queue
            .values()
            .filter_map(|event| if let Event::Arrives(_, packet) = event { Some(packet.meta.id) } else { None })
            .chain(self.machines.iter().flat_map(|machine| machine.link.waiting()))
            .collect();
        under_way.sort_unstable();
        self.follow.end(world, &under_way);
        let since = world.true_time().saturating_sub(SERVED);
        let slowest = self.machines.iter().map(Machine::last_answer).min().unwrap_or(Ns::MAX);
        if slowest < since {
            let what = format!("a client's last answer came at {} ms", slowest / 1_000_000);
            world.breaks("clients-served", what);
        }
    }

    fn measures(&mut self, world: &mut World) {
        world.measure("blackout", self.follow.blackout);
        self.answers.sort_unstable();
        if let Some(worst) = self.answers.last() {
            world.measure("answer-worst", *worst);
            world.measure("answer-median", self.answers[self.answers.len() / 2]);
        }
        if self.resets > 0 {
            world.measure("resets-ppm", self.resets * 1_000_000 / (self.answers.len() as u64).max(1));
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
