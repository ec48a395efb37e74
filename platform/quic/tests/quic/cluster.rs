//! Engines over QUIC: nodes elect, one holds, one fails, another takes over. On real sockets, disk and clock, or on those of a test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use apus_engine::{
    Availability, Bootstrap, Causes, Config, Copy, Deadline, Engine, Event, GuardOrder, Input, Lane, NodeId, OpId,
    Outcome, ProcessOrder, ResourceConfig, ResourceId, Role, Seed, Time,
};
use apus_host::store::{Disk, Folder, Settings, Store, empty};
use apus_host::transport::{Book, Identity, Transport};
use apus_host::{Machine, Shell};
use apus_quic::{Limits, Quic, Trust, transport_settings};
use tokio::time::{Instant, sleep};

use crate::common::{CLUSTER, addresses, authority, block_on, trust};
use crate::net::Net;

const ADDRESS: ResourceId = ResourceId(1);

/// A disk in memory.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl Disk for Memory {
    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().keys().cloned().collect())
    }
    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.0.borrow().get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    async fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().entry(file.into()).or_default().extend_from_slice(bytes);
        Ok(())
    }
    async fn sync(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }
    async fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.0.borrow_mut().entry(file.into()).or_default().truncate(length);
        Ok(())
    }
    async fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().insert(file.into(), bytes.into());
        Ok(())
    }
    async fn remove(&mut self, file: &str) -> io::Result<()> {
        self.0.borrow_mut().remove(file);
        Ok(())
    }
}

/// One clock for all nodes of a test.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Time {
        Time(1_000_000 + u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Who may use the address, by its guards: until when.
type Guards = Rc<RefCell<BTreeMap<NodeId, Time>>>;

/// A machine with a guard and nothing else.
struct Bare {
    me: NodeId,
    clock: Clock,
    guards: Guards,
    waiting: VecDeque<Input>,
    packets: Rc<Cell<u64>>,
}

impl Machine for Bare {
    type Error = Infallible;
    fn now(&self) -> Time {
        self.clock.now()
    }
    fn guard(&mut self, order: GuardOrder) {
        match order {
            GuardOrder::Arm { until, .. } => {
                self.guards.borrow_mut().insert(self.me, until);
            }
            GuardOrder::Disarm { op, .. } => {
                self.guards.borrow_mut().remove(&self.me);
                self.waiting.push_back(Input::Done { op, outcome: Outcome::Ok });
            }
        }
    }
    fn process(&mut self, op: OpId, _: Copy, _: ProcessOrder) {
        self.waiting.push_back(Input::Done { op, outcome: Outcome::ProcessFailed });
    }
    fn reboot(&mut self, _: Causes) {}
    fn event(&mut self, _: Event) {}
    fn outbound(&mut self, _: NodeId, _: Lane, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.packets.set(self.packets.get() + 1);
        Some(packet)
    }
    async fn next(&mut self, deadline: Option<Deadline>) -> Option<Input> {
        if let Some(input) = self.waiting.pop_front() {
            return Some(input);
        }
        match deadline {
            Some(deadline) => sleep(Duration::from_micros(deadline.at.since(self.clock.now()).0)).await,
            None => std::future::pending().await,
        }
        Some(Input::Tick)
    }
}

pub(crate) struct Node {
    pub(crate) quic: Quic,
    pub(crate) trust: Arc<Trust>,
    packets: Rc<Cell<u64>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Ends it as if its power failed: nothing is said, its guard runs out by itself.
    pub(crate) fn fail(self, net: &Net, at: SocketAddr) {
        net.cut(at);
        self.task.abort();
    }
}

pub(crate) struct Cluster {
    folder: PathBuf,
    net: Option<Net>,
    clock: Clock,
    voters: Vec<NodeId>,
    pub(crate) book: BTreeMap<NodeId, SocketAddr>,
    guards: Guards,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.values().for_each(|node| node.task.abort());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Cluster {
    /// Nodes on real sockets and a real disk.
    async fn real(many: u16, tag: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("apus-quic-{tag}-{}", std::process::id()));
        let mut authority = authority();
        let trusts = (0..many).map(|node| trust(&mut authority, node)).collect();
        let mut cluster = Self::none(addresses(many), None);
        cluster.folder = folder;
        cluster.with(trusts).await
    }

    /// Nodes on a network in memory, where `book` says, one for each trust.
    pub(crate) async fn on(net: &Net, book: BTreeMap<NodeId, SocketAddr>, trusts: Vec<Arc<Trust>>) -> Self {
        Self::none(book, Some(net.clone())).with(trusts).await
    }

    fn none(book: BTreeMap<NodeId, SocketAddr>, net: Option<Net>) -> Self {
        let (voters, clock) = (Vec::new(), Clock(Instant::now()));
        Self { folder: PathBuf::new(), net, clock, voters, book, guards: Guards::default(), nodes: BTreeMap::new() }
    }

    async fn with(mut self, trusts: Vec<Arc<Trust>>) -> Self {
        self.voters = trusts.iter().map(|trust| trust.me().node).collect();
        for trust in trusts {
            self.start(trust).await;
        }
        self
    }

    async fn start(&mut self, trust: Arc<Trust>) {
        let (me, clock) = (trust.me().node, self.clock);
        let files = empty(true);
        let (writer, durable) = if self.net.is_some() {
            let disk = Memory(Rc::new(RefCell::new(files.into())));
            let (store, durable) = Store::open(disk, Settings::default()).await.expect("a store");
            (store.spawn(), durable)
        } else {
            let folder = self.folder.join(me.0.to_string());
            let disk = Folder::new(&folder).expect("a folder");
            for (name, bytes) in files {
                std::fs::write(folder.join(name), bytes).expect("a store");
            }
            let (store, durable) = Store::open(disk, Settings::default()).await.expect("a store");
            (store.spawn(), durable)
        };
        let voters = self.voters.clone();
        let mut config = Config::new(me, Bootstrap { voters, ..Bootstrap::default() });
        config.cluster = CLUSTER;
        config.resources.push(ResourceConfig {
            id: ADDRESS,
            role: Role::Dispatcher,
            availability: Availability::Safe,
            candidates: Vec::new(),
        });
        let engine = Engine::new(config, durable, Seed(u64::from(me.0) + 1), clock.now());
        let identity = Identity { cluster: CLUSTER, me, incarnation: engine.incarnation() };
        let shared = Book::from(self.book.clone());
        let mut quic = Quic::new(trust.clone(), shared.clone(), Limits::default());
        if let Some(net) = self.net.clone() {
            quic = quic.over(move |at| net.bind(at));
        }
        let at = self.book[&me];
        let transport =
            Transport::start(quic.clone(), identity, at, shared, transport_settings()).await.expect("it starts");
        let packets = Rc::new(Cell::new(0));
        let (guards, waiting) = (self.guards.clone(), VecDeque::new());
        let shell = Shell::new(Bare { me, clock, guards, waiting, packets: packets.clone() }, transport, writer);
        let task = tokio::task::spawn_local(async move {
            let _ = apus_host::run(engine, shell).await;
        });
        self.nodes.insert(me, Node { quic, trust, packets, task });
    }

    /// Who holds the address now: never two.
    pub(crate) fn holder(&self) -> Option<NodeId> {
        let now = self.clock.now();
        let guards = self.guards.borrow();
        let holders: Vec<NodeId> = guards.iter().filter(|(_, until)| **until > now).map(|(node, _)| *node).collect();
        assert!(holders.len() <= 1, "two holders: {holders:?}");
        holders.first().copied()
    }

    /// Waits for a holder that is not `but`, and looks for two all the while.
    pub(crate) async fn held(&self, but: Option<NodeId>) -> (NodeId, Duration) {
        let began = Instant::now();
        loop {
            if let Some(holder) = self.holder().filter(|holder| Some(*holder) != but) {
                return (holder, began.elapsed());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What a node costs at rest: `cargo test -p apus-quic --release -- --ignored --nocapture rest`.
#[test]
#[ignore = "a measurement of ten seconds"]
fn eight_nodes_at_rest() {
    block_on(async {
        let cluster = Cluster::real(8, "rest").await;
        cluster.held(None).await;
        sleep(Duration::from_secs(3)).await;
        let sum = |of: &dyn Fn(&Node) -> u64| cluster.nodes.values().map(of).sum::<u64>();
        let look = || {
            (
                sum(&|node| node.packets.get()),
                sum(&|node| node.quic.counters().udp_sent),
                sum(&|node| node.quic.counters().dialled),
                cpu(),
            )
        };
        let before = look();
        sleep(Duration::from_secs(10)).await;
        let after = look();
        let each = |now: u64, then: u64| (now - then) / 80;
        println!(
            "a node of eight at rest: {} packets/s of the engine, {} datagrams/s sent, {} dials, {:.2} % of a core; all eight: {} KiB",
            each(after.0, before.0),
            each(after.1, before.1),
            after.2 - before.2,
            (after.3 - before.3) / 80.0 * 100.0,
            crate::hostile::resident().unwrap_or_default() / 1_024,
        );
    });
}

/// Seconds of processor time of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    // utime and stime are the 12th and 13th numbers after the name; the state is no number.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(user, system)| (user + system) as f64 / 100.0)
}
