//! Engines that run outside: in shells of another world, which drives them and carries their packets. Machines, clocks, guards,
//! programs, clients, faults and checkers stay here, and so does the fate of every packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use apus_engine::{ClusterId, Deadline, Durable, Engine, Input, Lane, NodeId, Output, Ratio, Time};
use tokio::sync::Notify;

use super::World;
use super::link::Arriving;
use super::queue::Due;
use super::storage::{PowerLoss, Storage};
use crate::fault::{Kind, MS, Ns, S};
use crate::report::{Run, Violation};
use crate::scenario::Plan;
use crate::trace::What;
use crate::world::{Options, TIMEOUT};

/// A packet that a stream has not brought after this long is lost.
const LOST: Ns = 10 * S;

/// What the other world has to do for a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// Start its process.
    Start(NodeId),
    /// End its process; with `power` nobody hears of it.
    Stop { node: NodeId, power: bool },
}

/// The addresses of both ends of a stream, in order.
pub(crate) type StreamId = [SocketAddr; 2];

/// A packet on its way through a transport.
struct Flight {
    sent: Ns,
    from: NodeId,
    to: NodeId,
    carried: Vec<u8>,
    arrivals: Vec<Arriving>,
}

/// What the heap knows about the shells.
#[derive(Default)]
pub(crate) struct Outside {
    actions: Vec<Action>,
    /// Tells the loop of a node that it should look.
    ports: Vec<Rc<Notify>>,
    /// Tasks that stand still until something changes, by number.
    sleepers: BTreeMap<u64, Waker>,
    next: u64,
    flights: BTreeMap<u64, Flight>,
    /// Streams that were reset.
    pub(super) broken: BTreeSet<StreamId>,
}

/// Shells cannot be copied: what is forked off a run has none.
impl Clone for Outside {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Outside {
    pub(super) fn stop(&mut self, node: NodeId, power: bool) {
        self.actions.push(Action::Stop { node, power });
    }
}

impl World {
    /// A world whose engines run outside.
    pub(crate) fn outside(plan: &Plan, options: &Options) -> Self {
        let mut world = Self::new(plan, options);
        let ports = world.nodes.iter().map(|_| Rc::new(Notify::new())).collect();
        world.outside = Some(Box::new(Outside { ports, ..Outside::default() }));
        world
    }

    /// Does all that is due up to an instant, and says what has to be done outside. `None`: the run is over.
    pub(crate) fn advance(&mut self, until: Ns) -> Option<Vec<Action>> {
        if self.options.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let what = format!("cut after {} events: the time for one seed was over", self.hash.events);
            self.violate(TIMEOUT, true, what);
        }
        let mut stirred = false;
        while self.violation.is_none() {
            let Some((at, due)) = self.queue.pop_until(until.min(self.end())) else { break };
            self.now = self.now.max(at);
            stirred |= matches!(
                due,
                Due::FaultStart(_) | Due::FaultStep(..) | Due::FaultStop(_) | Due::Heal | Due::Boot(..) | Due::Wake(..)
            );
            self.dispatch(due);
        }
        self.now = self.now.max(until);
        if stirred {
            self.stir();
        }
        if self.violation.is_some() || self.now >= self.end() {
            return None;
        }
        self.outside.as_mut().map(|outside| std::mem::take(&mut outside.actions))
    }

    /// Looks for the last time.
    pub(crate) fn close(mut self) -> Run {
        if self.violation.is_none() {
            self.finish();
        }
        self.report()
    }

    /// The run ends with something that no checker sees.
    pub(crate) fn fail(&mut self, checker: &'static str, what: String) {
        self.blame(Violation { checker, liveness: false, at: self.now, what });
    }

    /// Lets all that stand still look again.
    pub(super) fn stir(&mut self) {
        let Some(outside) = &mut self.outside else { return };
        std::mem::take(&mut outside.sleepers).into_values().for_each(Waker::wake);
    }

    /// Lets a node's loop look at its inbox and its clock.
    pub(super) fn poke(&self, node: NodeId) {
        if let Some(outside) = &self.outside {
            outside.ports[node.0 as usize].notify_one();
        }
    }

    /// What [`poke`](Self::poke) rings.
    pub(crate) fn port(&self, node: NodeId) -> Rc<Notify> {
        self.outside.as_ref().map_or_else(Rc::default, |outside| outside.ports[node.0 as usize].clone())
    }

    /// An even number for what may stand still in two ways at most; the other way has the next odd one.
    pub(crate) fn number(&mut self) -> u64 {
        self.outside.as_mut().map_or(0, |outside| {
            outside.next += 2;
            outside.next
        })
    }

    /// A task looks again once something has changed.
    pub(crate) fn sleep(&mut self, number: u64, waker: &Waker) {
        if let Some(outside) = &mut self.outside {
            outside.sleepers.insert(number, waker.clone());
        }
    }

    // A node's life.

    pub(super) fn boot_outside(&mut self, node: NodeId) {
        self.begin_life(node);
        if let Some(outside) = &mut self.outside {
            outside.actions.push(Action::Start(node));
        }
    }

    /// How many machines there are.
    pub(crate) fn many(&self) -> u16 {
        self.nodes.len() as u16
    }

    /// Of which cluster a machine believes to be.
    pub(crate) fn cluster(&self, node: NodeId) -> ClusterId {
        self.nodes[node.0 as usize].config.cluster
    }

    /// The life whose process may run now.
    pub(crate) fn life(&self, node: NodeId) -> Option<u32> {
        let host = &self.nodes[node.0 as usize];
        host.alive.then_some(host.life)
    }

    /// Whether a life goes on.
    pub(crate) fn lives(&self, node: NodeId, life: u32) -> bool {
        self.life(node) == Some(life)
    }

    /// Whether a life goes on and gets processor time.
    pub(crate) fn runs(&self, node: NodeId, life: u32) -> bool {
        self.lives(node, life) && !self.nodes[node.0 as usize].frozen
    }

    /// Whether a machine can be heard of at all, and whether its process runs.
    pub(crate) fn answers(&self, node: NodeId) -> (bool, bool) {
        let host = &self.nodes[node.0 as usize];
        (host.powered && !host.suspended && !host.lost, host.alive)
    }

    /// The store is open: the engine of this life begins.
    pub(crate) fn opened(&mut self, node: NodeId, durable: Durable) -> Option<&Engine> {
        self.start_engine(node, durable);
        self.nodes[node.0 as usize].engine.as_deref()
    }

    /// The store was refused: the operator wipes the disk.
    pub(crate) fn refused(&mut self, node: NodeId) {
        self.line(Some(node), What::Refused);
        self.again(node, 500 * MS);
        self.nodes[node.0 as usize].storage = Storage::new(false);
        self.files_wiped(node);
    }

    /// The process ends before it has begun, and is tried again.
    pub(crate) fn again(&mut self, node: NodeId, after: Ns) {
        let host = &mut self.nodes[node.0 as usize];
        host.alive = false;
        let life = host.life;
        if let Some(outside) = &mut self.outside {
            outside.stop(node, false);
        }
        self.queue.push(self.now + after, Due::Boot(node, life));
    }

    /// The engine of a life.
    pub(crate) fn engine_of(&mut self, node: NodeId, life: u32) -> Option<&mut Engine> {
        let host = &mut self.nodes[node.0 as usize];
        if host.alive && host.life == life { host.engine.as_deref_mut() } else { None }
    }

    /// The node's clock.
    pub(crate) fn local(&self, node: NodeId) -> Time {
        self.nodes[node.0 as usize].clock.read(self.now)
    }

    // Inputs and outputs.

    /// Looks at an output; false: the process is gone.
    pub(crate) fn before(&mut self, node: NodeId, life: u32, output: &Output) -> bool {
        if !self.lives(node, life) || self.fuse_blows(node) {
            return false;
        }
        self.hash_output(node, output);
        true
    }

    /// The next input, if the process has time for it.
    pub(crate) fn take(&mut self, node: NodeId, life: u32) -> Option<Input> {
        let now = self.now;
        if !self.runs(node, life) {
            return None;
        }
        let host = &mut self.nodes[node.0 as usize];
        if host.busy_until > now {
            return None;
        }
        let input = host.inbox.pop_front()?;
        let local = host.clock.read(now);
        self.hash_input(node, local, &input);
        if let Some(slow) = self.size_of(Kind::SlowNode, node) {
            self.nodes[node.0 as usize].busy_until = now + slow;
            self.queue.push(now + slow, Due::Wake(node, life));
        }
        Some(input)
    }

    /// How long to wait for a deadline; `None`: until something else happens.
    pub(crate) fn wait(&mut self, node: NodeId, deadline: Option<Deadline>) -> Option<Ns> {
        let host = &self.nodes[node.0 as usize];
        if host.frozen || host.busy_until > self.now {
            return None;
        }
        let at = host.clock.when(self.now, deadline?.at);
        (at < Ns::MAX).then(|| self.fires(node, at).saturating_sub(self.now))
    }

    /// A timer fired; a tick if the deadline has come by the node's clock.
    pub(crate) fn tick(&mut self, node: NodeId, deadline: Option<Deadline>) {
        if deadline.is_some_and(|deadline| deadline.at <= self.local(node)) {
            self.feed(node, Input::Tick);
        }
    }

    /// An input from store or transport.
    pub(crate) fn enters(&mut self, node: NodeId, input: Input) {
        match input {
            Input::Packet { from, datagram } => self.arrives(from, node, &datagram),
            other => self.feed(node, other),
        }
    }

    /// A packet leaves. What the transport has to carry, if it has to carry it.
    pub(crate) fn departs(&mut self, from: NodeId, to: NodeId, lane: Lane, datagram: Vec<u8>) -> Option<Vec<u8>> {
        self.files_packet(from, &datagram, true);
        let (there, alive) = self.nodes.get(to.0 as usize).map(|_| self.answers(to))?;
        if lane == Lane::Probe && !(there && alive) {
            // Nobody takes a datagram there now; a late one finds whoever runs by then.
            self.transmit(from, to, datagram);
            return None;
        }
        let mut arrivals: Vec<Arriving> = Vec::new();
        self.send(from, to, datagram, lane == Lane::Log, |_, arrival| arrivals.push(arrival));
        let first = arrivals.first()?;
        let id = first.id;
        let mut carried = Vec::from(id.to_le_bytes());
        carried.extend_from_slice(&first.datagram);
        let flight = Flight { sent: self.now, from, to, carried: carried.clone(), arrivals };
        self.outside.as_mut()?.flights.insert(id, flight);
        Some(carried)
    }

    /// The transport brings a packet: it arrives now, or later if its link is slower than the transport.
    fn arrives(&mut self, from: NodeId, to: NodeId, carried: &[u8]) {
        let id = carried.first_chunk().map(|id| u64::from_le_bytes(*id)).unwrap_or_default();
        let Some(flight) = self.outside.as_mut().and_then(|outside| outside.flights.remove(&id)) else { return };
        assert!(
            (flight.from, flight.to) == (from, to) && flight.carried == carried,
            "the transport brought {to} a packet of {from} that {} had not sent so to {}",
            flight.from,
            flight.to
        );
        for Arriving { at, from, to, id, datagram } in flight.arrivals {
            if at <= self.now {
                self.deliver(to, from, id, datagram);
            } else {
                self.queue.push(at, Due::Deliver { to, from, id, datagram });
            }
        }
    }

    /// Once a second: packets that their stream did not bring.
    pub(super) fn forget_flights(&mut self) {
        let Some(outside) = &mut self.outside else { return };
        let oldest = self.now.saturating_sub(LOST);
        let lost: Vec<(u64, NodeId, NodeId)> = outside
            .flights
            .iter()
            .filter(|(_, flight)| flight.sent < oldest)
            .map(|(id, f)| (*id, f.from, f.to))
            .collect();
        for (id, from, to) in lost {
            if let Some(outside) = &mut self.outside {
                outside.flights.remove(&id);
            }
            if self.options.keep_trace {
                self.line(Some(from), What::Lost { to, id, fault: None });
            }
        }
    }

    // Disks.

    /// The files of a machine's disk.
    pub(crate) fn files(&mut self, node: NodeId) -> &mut Files {
        &mut self.nodes[node.0 as usize].storage.files
    }

    /// Damages what was found damaged, so that the store refuses it: a bit that a mark vouches for, or one of the state file.
    pub(crate) fn rot(&mut self, node: NodeId) {
        let storage = &mut self.nodes[node.0 as usize].storage;
        if !std::mem::take(&mut storage.damaged) {
            return;
        }
        let vouched: Vec<(String, u64)> = storage
            .files
            .all()
            .iter()
            .map(|(name, file)| (name.clone(), apus_host::store::vouched(name, &file.bytes) as u64))
            .collect();
        let best = vouched.into_iter().filter(|(_, bytes)| *bytes > 0).max_by_key(|(_, bytes)| *bytes);
        let (name, many) = best.unwrap_or((apus_host::store::STATE_FILE.into(), 16));
        let bit = self.os.below(many * 8) as usize;
        if let Some(file) = storage.files.all().get_mut(&name) {
            file.bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Whether a write fails, and how.
    pub(crate) fn disk_error(&mut self, node: NodeId) -> Option<std::io::ErrorKind> {
        if self.hits(Kind::DiskFull, node) || self.hits(Kind::ReadOnly, node) {
            return Some(std::io::ErrorKind::StorageFull);
        }
        let index = self.find(Kind::DiskError, node)?;
        let rate = self.plan.faults[index as usize].rate_ppm;
        let state = &mut self.active[index as usize];
        let hit = state.rng.hit(Ratio { hit: rate, of: 1_000_000 });
        state.effects += u64::from(hit);
        hit.then_some(std::io::ErrorKind::Other)
    }

    /// How much of a write that does not fit is there all the same.
    pub(crate) fn part_of(&mut self, length: usize) -> usize {
        self.os.below(length as u64 + 1) as usize
    }

    /// How long a sync takes.
    pub(crate) fn sync_time(&mut self, node: NodeId) -> Ns {
        let slow = self.size_of(Kind::SlowDisk, node).unwrap_or(0);
        self.disk_delay / 2 + self.os.below(self.disk_delay + 1) + slow
    }
}

/// One file: its bytes, and how many of them survive a power failure.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) synced: usize,
}

/// A disk's files, as a process sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    formatted: bool,
    made: bool,
    files: BTreeMap<String, File>,
}

impl Files {
    /// A disk as `apus cluster init` leaves it, or a blank one.
    pub(super) fn new(formatted: bool) -> Self {
        Self { formatted, ..Self::default() }
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> &mut BTreeMap<String, File> {
        if !std::mem::replace(&mut self.made, true) && self.formatted {
            let files = apus_host::store::empty(true).into_iter();
            self.files.extend(files.map(|(name, bytes)| (name, File { synced: bytes.len(), bytes })));
        }
        &mut self.files
    }

    /// The process is gone: the system writes what it was given.
    pub(super) fn flush(&mut self) {
        self.files.values_mut().for_each(|file| file.synced = file.bytes.len());
    }

    /// Power fails; true if a write was lost.
    pub(super) fn power_off(&mut self, loss: PowerLoss) -> bool {
        let mut lost = false;
        for file in self.files.values_mut() {
            let open = file.bytes.len() - file.synced;
            let keep = match loss {
                PowerLoss::LoseAll => 0,
                PowerLoss::Prefix(draw) => (draw % (open as u64 + 1)) as usize,
            };
            lost |= keep < open;
            file.bytes.truncate(file.synced + keep);
        }
        lost
    }
}
