//! Packets between nodes: datagrams for probes, one framed stream each way between two nodes for the log.
//!
//! Nothing here is reliable, and the engine knows it. What the transport promises: bounded memory, order within a stream, streams
//! that are dropped and dialled again when their peer falls silent, and no packet of another cluster or of an older life of a peer.

mod accept;
mod book;
mod dial;
mod frame;
mod queue;
mod sockets;
#[cfg(test)]
mod tests;

pub use book::Book;
pub use frame::{Decoder, Frame, FrameError, Hello, LONGEST, Refusal, VERSION};
pub use sockets::{Sockets, Tokio};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use apus_engine::{ClusterId, Incarnation, Lane, NodeId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use queue::{Inbox, Outbox, Probes};

/// Oldest version of the stream format that is still spoken.
const OLDEST: u8 = 1;
/// From this version on both ends leave a stream that is not used alone.
const RESTS: u8 = 2;

/// Who a node is to its peers.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub me: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// Bounds and times.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Datagrams that wait to be sent, or to be read by the engine; the oldest goes when one more comes.
    pub probes: usize,
    /// Packets that wait for one peer's stream; one more is refused.
    pub packets: usize,
    /// Bytes that wait for one peer's stream.
    pub bytes: usize,
    /// A packet that waited longer is dropped: the engine has sent it again, if it matters.
    pub stale: Duration,
    /// Packets on one stream that the peer has not credited yet.
    pub window: u64,
    /// Packets from all streams that wait for the engine; then streams are read no further.
    pub inbox: usize,
    /// Streams accepted at once.
    pub streams: usize,
    /// From dialling to a stream.
    pub connect: Duration,
    /// From a packet to the ping that asks for an answer, and between two pings while packets go out.
    pub keep_alive: Duration,
    /// Without a frame for so long after one that must be answered, a stream is dropped.
    pub silence: Duration,
    /// Between two pings on a stream that is not used.
    pub rest: Duration,
    /// Between two attempts to dial, at first and at most; doubled each time.
    pub back_off: (Duration, Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probes: 256,
            packets: 1_024,
            bytes: 4 << 20,
            stale: Duration::from_secs(2),
            window: 256,
            inbox: 1_024,
            streams: 4_096,
            connect: Duration::from_secs(1),
            keep_alive: Duration::from_millis(500),
            silence: Duration::from_secs(2),
            rest: Duration::from_secs(20),
            back_off: (Duration::from_millis(50), Duration::from_secs(1)),
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams sent.
    pub probes_sent: u64,
    /// Datagrams received from known peers.
    pub probes_received: u64,
    /// Datagrams that gave way to newer ones, on either side.
    pub probes_dropped: u64,
    /// Datagrams that could not be sent.
    pub probes_failed: u64,
    /// Datagrams from addresses of no peer.
    pub strangers: u64,
    /// Packets put on streams.
    pub packets_sent: u64,
    /// Packets received on streams.
    pub packets_received: u64,
    /// Packets refused because too many wait.
    pub packets_refused: u64,
    /// Packets that waited too long.
    pub packets_stale: u64,
    /// Streams dialled and welcomed.
    pub dialled: u64,
    /// Attempts to dial that failed.
    pub dial_failed: u64,
    /// Streams that were refused, by either side.
    pub hellos_refused: u64,
    /// Streams dropped because their peer was silent.
    pub silent: u64,
    /// Streams that ended in any other way.
    pub ended: u64,
    /// Streams dropped because of an unreadable frame.
    pub bad_frames: u64,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Too much waits for this peer.
    Full,
    /// No address is known.
    Unknown,
}

/// What all tasks of a transport share.
struct Shared<S> {
    sockets: S,
    identity: Identity,
    settings: Settings,
    peers: Book,
    inbox: Inbox,
    probes: Probes,
    counters: Cell<Counters>,
    /// The newest stream from each peer: its life, and how its task is told that it was replaced.
    accepted: RefCell<BTreeMap<NodeId, (Incarnation, Rc<Notify>)>>,
}

impl<S> Shared<S> {
    fn count(&self, which: impl FnOnce(&mut Counters) -> &mut u64) {
        let mut counters = self.counters.get();
        *which(&mut counters) += 1;
        self.counters.set(counters);
    }
}

/// A node's end of the network. Dropping it ends all its tasks and streams.
pub struct Transport<S: Sockets> {
    shared: Rc<Shared<S>>,
    outboxes: BTreeMap<NodeId, Rc<Outbox>>,
    tasks: JoinSet<()>,
}

impl<S: Sockets> fmt::Debug for Transport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

impl<S: Sockets> Transport<S> {
    /// Binds datagrams and streams at `at`, and starts to listen, in the current [`LocalSet`](tokio::task::LocalSet).
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub async fn start(
        sockets: S,
        identity: Identity,
        at: SocketAddr,
        peers: impl Into<Book>,
        settings: Settings,
    ) -> io::Result<Self> {
        let peers = peers.into();
        let datagrams = Rc::new(sockets.datagrams(at).await?);
        let listener = sockets.listen(at).await?;
        let shared = Rc::new(Shared {
            sockets,
            identity,
            settings,
            peers,
            inbox: Inbox::new(settings.probes, settings.inbox),
            probes: Probes::new(settings.probes),
            counters: Cell::default(),
            accepted: RefCell::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn_local(send_probes(shared.clone(), datagrams.clone()));
        tasks.spawn_local(receive_probes(shared.clone(), datagrams));
        tasks.spawn_local(accept::accept(shared.clone(), listener));
        Ok(Self { shared, outboxes: BTreeMap::new(), tasks })
    }

    /// Queues a packet. A probe always fits: the oldest gives way.
    ///
    /// # Errors
    /// If the packet is not taken; it is counted.
    pub fn send(&mut self, to: NodeId, lane: Lane, packet: Vec<u8>) -> Result<(), SendError> {
        let Some(address) = self.shared.peers.address(to) else { return Err(SendError::Unknown) };
        if lane == Lane::Probe {
            if self.shared.probes.push(address, packet) {
                self.shared.count(|counters| &mut counters.probes_dropped);
            }
            return Ok(());
        }
        let Self { shared, outboxes, tasks } = self;
        let outbox = outboxes.entry(to).or_insert_with(|| {
            let outbox = Rc::new(Outbox::default());
            tasks.spawn_local(dial::dial(shared.clone(), to, outbox.clone()));
            outbox
        });
        if outbox.push(shared, packet) {
            return Ok(());
        }
        shared.count(|counters| &mut counters.packets_refused);
        Err(SendError::Full)
    }

    /// Waits for the next packet, and who sent it. Cancel-safe.
    ///
    /// # Panics
    /// If a task of the transport did.
    pub async fn next(&mut self) -> (NodeId, Vec<u8>) {
        loop {
            tokio::select! {
                biased;
                packet = self.shared.inbox.pop() => return packet,
                ended = self.tasks.join_next(), if !self.tasks.is_empty() => pass_on(ended),
            }
        }
    }

    /// Ends all tasks, and returns when the addresses are free again.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters.get()
    }

    /// What happened so far, for who looks at it while the transport is the loop's.
    pub fn watch(&self) -> impl Fn() -> Counters + use<S> {
        let shared = self.shared.clone();
        move || shared.counters.get()
    }
}

/// A panic in a task is a panic of the node.
fn pass_on(ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn send_probes<S: Sockets>(shared: Rc<Shared<S>>, socket: Rc<S::Datagrams>) {
    loop {
        let (to, packet) = shared.probes.pop().await;
        match S::send_to(&socket, &packet, to).await {
            Ok(_) => shared.count(|counters| &mut counters.probes_sent),
            Err(_) => shared.count(|counters| &mut counters.probes_failed),
        }
    }
}

async fn receive_probes<S: Sockets>(shared: Rc<Shared<S>>, socket: Rc<S::Datagrams>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match S::receive_from(&socket, &mut buffer).await {
            Ok((length, from)) => match shared.peers.node(from) {
                Some(from) => {
                    shared.count(|counters| &mut counters.probes_received);
                    if shared.inbox.push_probe(from, buffer[..length].into()) {
                        shared.count(|counters| &mut counters.probes_dropped);
                    }
                }
                None => shared.count(|counters| &mut counters.strangers),
            },
            // Windows reports here that an earlier datagram found no receiver: nothing is wrong with the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(_) => tokio::time::sleep(shared.settings.back_off.0).await,
        }
    }
}
