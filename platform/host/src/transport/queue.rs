//! Bounded queues between the engine's loop and the tasks of a transport.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;

use apus_engine::NodeId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;

/// Datagrams that wait to be sent.
pub(super) struct Probes {
    most: usize,
    queue: RefCell<VecDeque<(SocketAddr, Vec<u8>)>>,
    filled: Notify,
}

impl Probes {
    pub(super) fn new(most: usize) -> Self {
        Self { most, queue: RefCell::default(), filled: Notify::new() }
    }

    /// True if the oldest gave way.
    pub(super) fn push(&self, to: SocketAddr, packet: Vec<u8>) -> bool {
        let mut queue = self.queue.borrow_mut();
        let full = queue.len() >= self.most;
        if full {
            queue.pop_front();
        }
        queue.push_back((to, packet));
        self.filled.notify_one();
        full
    }

    pub(super) async fn pop(&self) -> (SocketAddr, Vec<u8>) {
        loop {
            if let Some(first) = self.queue.borrow_mut().pop_front() {
                return first;
            }
            self.filled.notified().await;
        }
    }
}

/// What waits for one peer's stream.
#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<(Instant, Vec<u8>)>>,
    bytes: Cell<usize>,
    filled: Notify,
}

impl Outbox {
    /// False if too much waits already.
    pub(super) fn push<S>(&self, shared: &Shared<S>, packet: Vec<u8>) -> bool {
        self.drop_stale(shared);
        let mut queue = self.queue.borrow_mut();
        let bytes = self.bytes.get() + packet.len();
        if queue.len() >= shared.settings.packets || bytes > shared.settings.bytes {
            return false;
        }
        self.bytes.set(bytes);
        queue.push_back((Instant::now(), packet));
        self.filled.notify_one();
        true
    }

    /// The oldest packet that is still worth sending.
    pub(super) fn pop<S>(&self, shared: &Shared<S>) -> Option<Vec<u8>> {
        self.drop_stale(shared);
        let (_, packet) = self.queue.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - packet.len());
        Some(packet)
    }

    fn drop_stale<S>(&self, shared: &Shared<S>) {
        let mut queue = self.queue.borrow_mut();
        while let Some((since, packet)) = queue.front()
            && since.elapsed() > shared.settings.stale
        {
            self.bytes.set(self.bytes.get() - packet.len());
            queue.pop_front();
            shared.count(|counters| &mut counters.packets_stale);
        }
    }

    /// Waits until something may be there. Cancel-safe.
    pub(super) async fn filled(&self) {
        if self.queue.borrow().is_empty() {
            self.filled.notified().await;
        }
    }
}

/// Packets that wait for the engine.
pub(super) struct Inbox {
    most_probes: usize,
    most_packets: usize,
    probes: RefCell<VecDeque<(NodeId, Vec<u8>)>>,
    packets: RefCell<VecDeque<(NodeId, Vec<u8>)>>,
    /// Whose turn it is, so that a flood of one kind does not starve the other.
    turn: Cell<bool>,
    filled: Notify,
    emptied: Notify,
}

impl Inbox {
    pub(super) fn new(most_probes: usize, most_packets: usize) -> Self {
        Self {
            most_probes,
            most_packets,
            probes: RefCell::default(),
            packets: RefCell::default(),
            turn: Cell::new(false),
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// True if the oldest gave way.
    pub(super) fn push_probe(&self, from: NodeId, packet: Vec<u8>) -> bool {
        let mut probes = self.probes.borrow_mut();
        let full = probes.len() >= self.most_probes;
        if full {
            probes.pop_front();
        }
        probes.push_back((from, packet));
        self.filled.notify_one();
        full
    }

    /// False if there is no room now.
    pub(super) fn push_packet(&self, from: NodeId, packet: &mut Vec<u8>) -> bool {
        let mut packets = self.packets.borrow_mut();
        if packets.len() >= self.most_packets {
            return false;
        }
        packets.push_back((from, std::mem::take(packet)));
        self.filled.notify_one();
        true
    }

    /// Waits until there may be room. Cancel-safe.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    pub(super) async fn pop(&self) -> (NodeId, Vec<u8>) {
        loop {
            let turn = self.turn.replace(!self.turn.get());
            let order = if turn { [&self.probes, &self.packets] } else { [&self.packets, &self.probes] };
            let first = order.iter().find_map(|queue| queue.borrow_mut().pop_front());
            if let Some(first) = first {
                self.emptied.notify_waiters();
                return first;
            }
            self.filled.notified().await;
        }
    }
}
