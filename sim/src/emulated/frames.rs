//! A frame's way: from a port through the switch and the faults to another port, and what must hold of it there.

use apus_dispatch::{Flow, Mac, Reason, Tag};
use apus_engine::{Mutant, NodeId};

use super::card::Outcome;
use super::node::{Node, mac_of};
use super::packet::{Meta, Packet, Sort, read};
use super::switch::Port;
use super::wire::Fate;
use super::{Ether, Event, LOOK};
use crate::fault::S;
use crate::heap::World;

impl Ether {
    /// A port sends a frame: the switch hands it on, and faults lie in between.
    pub(super) fn sends(&mut self, world: &mut World, from: Port, packet: Packet) {
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
        (0..nodes)
            .map(Port::Node)
            .chain((0..machines).map(Port::Machine))
            .chain([Port::Stranger])
            .chain(self.outside.as_ref().map(|_| Port::Outside))
    }

    pub(super) fn arrives(&mut self, world: &mut World, port: Port, packet: Packet) {
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
            Port::Outside => {
                self.outside.get_or_insert_default().push(packet.bytes);
                self.follow.ends(world, packet.meta, "left");
            }
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
    pub(super) fn delivered(&mut self, world: &mut World, at: u16, meta: Meta, tag: Option<Tag>) {
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
}
