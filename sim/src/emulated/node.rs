//! A node: the table and lease of its network card, the control side that feeds them, and the servers behind.
//! The way of a frame is in [`card`](super::card).

use std::collections::BTreeMap;

use apus_dispatch::{
    Act, Block, Claim, Flow, Here, Key, Mac, Member, Members, NOBODY, Notice, Station, StationConfig, Table,
};
use apus_engine::hash::mix;
use apus_engine::{Mutant, NodeId, Seed};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpListenEndpoint};

use super::http::Talk;
use super::link::Link;
use super::packet::{CLUSTER_V4, CLUSTER_V6, PORT, read, wide};
use super::stack::Stack;
use crate::fault::Ns;
use crate::heap::Known;

/// Sockets that wait for a connection.
const LISTENING: usize = 4;
/// Slots are 2 to this power: few clients, and each frame checks the whole table.
const LOG2_SLOTS: u8 = 8;

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) link: Link,
    pub(super) stack: Stack,
    pub(super) flows: BTreeMap<Flow, SocketHandle>,
    /// Frames to other cards are taken as well.
    pub(super) promiscuous: bool,
    /// What is said on connections, if people may come by the cable: their servers know HTTP.
    pub(super) talks: Option<BTreeMap<Flow, Talk>>,
    listening: Vec<SocketHandle>,
    datagrams: SocketHandle,
    /// The table in use, and what the node is.
    pub(super) block: Vec<u8>,
    pub(super) here: Here,
    station: Option<(u32, Station)>,
    members: Option<Vec<(NodeId, bool)>>,
    table_epoch: u64,
    fence: u64,
    pub(super) lease: Option<(u64, u64)>,
    /// Counts how often the machine got power.
    pub(super) boots: u32,
    pub(super) powered: bool,
    /// The newest epoch that the process has found in its engine, and when it did.
    pub(super) known: u64,
    pub(super) looked: Ns,
    /// Since when its process has found servers to be drained.
    pub(super) resting: BTreeMap<NodeId, Ns>,
    pub(super) timer: Ns,
    seed: u64,
    mutant: Option<Mutant>,
}

/// A node's hardware address.
pub(super) const fn mac_of(node: NodeId) -> Mac {
    let [high, low] = node.0.to_be_bytes();
    [2, 8, 0, 0, high, low]
}

fn flow_of(socket: &tcp::Socket<'_>) -> Option<Flow> {
    let remote = socket.remote_endpoint()?;
    let (client, v6) = match remote.addr {
        IpAddress::Ipv4(address) => (wide(address.octets()), false),
        IpAddress::Ipv6(address) => (address.octets(), true),
    };
    Some(Flow { client, v6, port: remote.port, cluster_port: PORT })
}

impl Node {
    pub(super) fn new(id: NodeId, seed: u64, mutant: Option<Mutant>) -> Self {
        let [high, low] = id.0.to_be_bytes();
        let mac = mac_of(id);
        let v4 = [10, 8, high, low + 1];
        let v6 = [0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, high, low];
        let mut node = Self {
            id,
            link: Link::new(mac, v4, v6),
            stack: Stack::new(0, 0, CLUSTER_V4, CLUSTER_V6),
            flows: BTreeMap::new(),
            promiscuous: false,
            talks: None,
            listening: Vec::new(),
            datagrams: SocketHandle::default(),
            block: Vec::new(),
            here: Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: low, mac },
            station: None,
            members: None,
            table_epoch: 0,
            fence: 0,
            lease: None,
            boots: 0,
            powered: false,
            known: 0,
            looked: 0,
            resting: BTreeMap::new(),
            timer: Ns::MAX,
            seed,
            mutant,
        };
        node.starts(0);
        node
    }

    pub(super) fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The machine gets power: nothing of before is there.
    pub(super) fn starts(&mut self, now: Ns) {
        self.boots += 1;
        let seed = Seed(self.seed).derive("node's stack").nth(u64::from(self.id.0)).nth(u64::from(self.boots));
        self.stack = Stack::new(seed.stream("stack").next(), now, CLUSTER_V4, CLUSTER_V6);
        self.link = Link::new(self.link.mac, self.link.v4, self.link.v6);
        self.flows.clear();
        if let Some(talks) = &mut self.talks {
            talks.clear();
        }
        self.listening.clear();
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 32_768]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let bound = socket.bind(PORT);
        assert!(bound.is_ok(), "the port is free");
        self.datagrams = self.stack.sockets.add(socket);
        self.block.clear();
        self.here = Here { lease: 0, epoch: 0, fence: 0, server: NOBODY, ..self.here };
        (self.station, self.members, self.lease, self.fence) = (None, None, None, 0);
        self.timer = Ns::MAX;
        self.listen();
    }

    fn listen(&mut self) {
        while self.listening.len() < LISTENING {
            let buffer = || tcp::SocketBuffer::new(vec![0; 2_048]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            let listens = socket.listen(IpListenEndpoint { addr: None, port: PORT });
            assert!(listens.is_ok(), "a fresh socket listens");
            self.listening.push(self.stack.sockets.add(socket));
        }
    }

    /// Whether a connection has a socket here.
    pub(super) fn serves(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow)
    }

    /// Whether the table in use names a server.
    pub(super) fn lists(&self, mac: Mac) -> bool {
        Block::new(&self.block)
            .is_ok_and(|block| (0_u16..).map_while(|place| block.server(place)).any(|listed| listed == mac))
    }

    /// Epoch of the table in use.
    pub(super) fn table(&self) -> u64 {
        read(&self.block, 16).map_or(0, u64::from_le_bytes)
    }

    /// The servers work on what came up.
    pub(super) fn work(&mut self, now: Ns) {
        self.link.tick(now);
        self.stack.poll(now);
        let speaks = self.talks.is_some();
        let sockets = &mut self.stack.sockets;
        let flows = &mut self.flows;
        self.listening.retain(|handle| {
            let socket = sockets.get::<tcp::Socket<'_>>(*handle);
            match flow_of(socket).filter(|_| socket.state() != tcp::State::Listen) {
                Some(flow) => {
                    // A socket that closed at once is swept below.
                    if let Some(talks) = &mut self.talks {
                        talks.remove(&flow);
                    }
                    if let Some(old) = flows.insert(flow, *handle) {
                        sockets.remove(old);
                    }
                    false
                }
                None => socket.state() == tcp::State::Listen,
            }
        });
        if let Some(talks) = &mut self.talks {
            let who = format!("server {}\nepoch {}\nafter {} ms\n", self.id, self.known, now / 1_000_000);
            talks.retain(|flow, _| flows.contains_key(flow));
            for (flow, handle) in flows.iter() {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
                talks.entry(*flow).or_default().go_on(socket, &who);
            }
        }
        flows.retain(|_, handle| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            while !speaks && socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let Ok(data) = socket.recv(|data| {
                    let many = data.len().min(room);
                    (many, data[..many].to_vec())
                }) else {
                    break;
                };
                if data.is_empty() || socket.send_slice(&data).is_err() {
                    break;
                }
            }
            if !speaks && socket.state() == tcp::State::CloseWait {
                socket.close();
            }
            let over = matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
            if over {
                sockets.remove(*handle);
            }
            !over
        });
        let socket = sockets.get_mut::<udp::Socket<'_>>(self.datagrams);
        while let Ok((data, from)) = socket.recv().map(|(data, from)| (data.to_vec(), from)) {
            let _ = socket.send_slice(&data, from);
        }
        self.listen();
        self.stack.poll(now);
    }

    /// When there is something to do again.
    pub(super) fn next(&mut self, now: Ns) -> Ns {
        let first = self.link.next().into_iter().chain(self.stack.next(now)).min();
        first.map_or(Ns::MAX, |at| at.max(now + 1_000))
    }

    // The control side.

    fn config(&self) -> StationConfig {
        StationConfig {
            id: self.here.id,
            node: u64::from(self.id.0),
            mac: self.link.mac,
            v4: CLUSTER_V4,
            v6: CLUSTER_V6,
            claim: [0; 6],
            key: Key::Source,
            seed: mix(self.seed ^ 0x0517),
            log2_slots: LOG2_SLOTS,
        }
    }

    /// A process runs: its station, a new one for a new life.
    fn station(&mut self, life: u32) -> &mut Station {
        if self.station.as_ref().is_none_or(|(of, _)| *of != life) {
            let station = Station::new(self.config());
            self.station = Some((life, station));
            (self.members, self.fence) = (None, 0);
        }
        match &mut self.station {
            Some((_, station)) => station,
            None => unreachable!("it was just made"),
        }
    }

    pub(super) fn claimed(&mut self, local: u64, frame: &[u8]) {
        let claim = Claim::heard(frame);
        let believed = self.has(Mutant::ClaimBelieved);
        let Some((_, station)) = &mut self.station else { return };
        if believed {
            let epoch = station.here().epoch;
            return station.handle(local, Notice::Released { epoch });
        }
        station.handle(local, Notice::Claimed(claim));
    }

    /// The process looks at its engine.
    pub(super) fn look(&mut self, now: Ns, local: u64, life: u32, known: Option<Known>) {
        self.station(life);
        let Some(mut known) = known else { return };
        if known.epoch != self.known {
            (self.known, self.looked) = (known.epoch, now);
        }
        let drained = |node: &NodeId| known.servers.contains(&(*node, true));
        self.resting.retain(|node, _| drained(node));
        for (node, _) in known.servers.iter().filter(|(_, drained)| *drained) {
            self.resting.entry(*node).or_insert(now);
        }
        if self.has(Mutant::DrainIgnored) {
            known.servers.iter_mut().for_each(|(_, drained)| *drained = false);
        }
        if self.has(Mutant::DownKept)
            && let Some(old) = &self.members
        {
            let kept = old.iter().filter(|(node, _)| known.servers.iter().all(|(other, _)| other != node));
            let kept: Vec<_> = kept.copied().collect();
            known.servers.extend(kept);
            known.servers.sort_unstable();
        }
        let servers = known.servers;
        let changed = self.members.as_ref() != Some(&servers);
        if changed && !(self.has(Mutant::FirstTableKept) && self.members.is_some()) {
            let member = |(node, drained): &(NodeId, bool)| Member {
                id: u64::from(node.0),
                mac: mac_of(*node),
                weight: if *drained { 0 } else { 1 },
                draining: *drained,
            };
            self.table_epoch += 1;
            let epoch = self.table_epoch.max(self.table() + 1);
            self.table_epoch = epoch;
            let first = self.members.is_none();
            if first && let Ok(others) = Members::new(servers.iter().filter(|(node, _)| *node != self.id).map(member)) {
                // Who comes takes slots from others. Which, it knows only from the table without itself.
                self.station(life).handle(local, Notice::Members { epoch, members: others });
            }
            let epoch = epoch + u64::from(first);
            self.table_epoch = epoch;
            if let Ok(members) = Members::new(servers.iter().map(member)) {
                self.members = Some(servers);
                self.station(life).handle(local, Notice::Members { epoch, members });
            }
        }
        if known.epoch > self.fence && !self.has(Mutant::FenceUntold) {
            self.fence = known.epoch;
            self.station(life).handle(local, Notice::Fence { epoch: known.epoch });
        }
    }

    /// The guard of the address was armed, prolonged or disarmed.
    pub(super) fn leased(&mut self, local: u64, life: u32, lease: Option<(u64, u64)>) {
        let old = std::mem::replace(&mut self.lease, lease);
        let notice = match (lease, old) {
            (Some((epoch, until)), _) => Notice::Lease { epoch, until },
            (None, Some((epoch, _))) => Notice::Released { epoch },
            (None, None) => return,
        };
        self.station(life).handle(local, notice);
    }

    /// Time passes for the process.
    pub(super) fn tick(&mut self, local: u64) {
        if let Some((_, station)) = &mut self.station
            && station.deadline().is_some_and(|deadline| deadline <= local)
        {
            station.handle(local, Notice::Tick);
        }
    }

    /// When the process has to look at the clock, on it.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.station.as_ref().and_then(|(_, station)| station.deadline())
    }

    /// Does what the station asks for; the frames it sends.
    pub(super) fn acts(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(act) = self.station.as_mut().and_then(|(_, station)| station.poll()) {
            frames.extend(self.act(act));
        }
        frames
    }

    /// Does one thing; the frame it sends.
    pub(super) fn act(&mut self, act: Act) -> Option<Vec<u8>> {
        match act {
            Act::Publish(block) => self.block = self.bend(block),
            Act::Stand(here) => self.here = here,
            Act::Announce { frame } => return self.announces(frame),
        }
        None
    }

    fn bend(&self, mut block: Vec<u8>) -> Vec<u8> {
        if self.has(Mutant::SeedOfEpoch)
            && let Some(seed) = read(&block, 24).map(u64::from_le_bytes)
        {
            let seed = mix(seed ^ self.members.as_ref().map_or(0, |members| members.len() as u64));
            block[24..32].copy_from_slice(&seed.to_le_bytes());
            let sum = apus_dispatch::checksum(&block);
            block[8..16].copy_from_slice(&sum.to_le_bytes());
        }
        block
    }

    fn announces(&self, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        let v6 = read(&frame, 12) == Some([0x86, 0xdd]);
        if self.has(Mutant::NoAnnouncement) || (self.has(Mutant::NoAnnouncementV6) && v6) {
            return None;
        }
        if self.has(Mutant::AnnouncesAnother) {
            let at = if v6 { 80 } else { 22 };
            let wrong = mac_of(NodeId(u16::from(self.here.id == 0)));
            frame[at..at + 6].copy_from_slice(&wrong);
            frame[6..12].copy_from_slice(&wrong);
        }
        Some(frame)
    }
}
