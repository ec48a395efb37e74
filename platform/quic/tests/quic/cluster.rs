//! Engines on real clocks, a real disk and QUIC: nodes elect, and one holds.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apus_engine::{
    Availability, Bootstrap, Causes, Config, Copy, Deadline, Engine, Event, GuardOrder, Input, Lane, NodeId, OpId,
    Outcome, ProcessOrder, ResourceConfig, ResourceId, Role, Seed, Time,
};
use apus_host::store::{Folder, Settings, Store, empty};
use apus_host::transport::{Book, Identity, Transport};
use apus_host::{Machine, Shell};
use apus_quic::{Limits, Quic, Trust, transport_settings};
use tokio::time::sleep;

use crate::common::{CLUSTER, addresses, authority, block_on, trust};

const ADDRESS: ResourceId = ResourceId(1);

thread_local! {
    /// One clock for all nodes of a test.
    static BEGAN: Instant = Instant::now();
}

fn now() -> Time {
    Time(1_000_000 + u64::try_from(BEGAN.with(Instant::elapsed).as_micros()).unwrap_or(u64::MAX))
}

/// Who may use the address, by its guards: until when.
type Guards = Rc<RefCell<BTreeMap<NodeId, Time>>>;

/// A machine with a guard and nothing else.
struct Bare {
    me: NodeId,
    guards: Guards,
    waiting: VecDeque<Input>,
    packets: Rc<Cell<u64>>,
}

impl Machine for Bare {
    type Error = Infallible;
    fn now(&self) -> Time {
        now()
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
            Some(deadline) => sleep(Duration::from_micros(deadline.at.since(now()).0)).await,
            None => std::future::pending().await,
        }
        Some(Input::Tick)
    }
}

struct Node {
    quic: Quic,
    packets: Rc<Cell<u64>>,
    task: tokio::task::JoinHandle<()>,
}

struct Cluster {
    folder: PathBuf,
    book: BTreeMap<NodeId, SocketAddr>,
    guards: Guards,
    nodes: BTreeMap<NodeId, Node>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.values().for_each(|node| node.task.abort());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Cluster {
    async fn new(many: u16, tag: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("apus-quic-{tag}-{}", std::process::id()));
        let (book, mut authority) = (addresses(many), authority());
        let mut cluster = Self { folder, book, guards: Guards::default(), nodes: BTreeMap::new() };
        for node in 0..many {
            let trust = trust(&mut authority, node);
            let disk = cluster.folder.join(node.to_string());
            std::fs::create_dir_all(&disk).expect("a folder");
            for (name, bytes) in empty(true) {
                std::fs::write(disk.join(name), bytes).expect("a store");
            }
            cluster.start(trust).await;
        }
        cluster
    }

    async fn start(&mut self, trust: Arc<Trust>) {
        let me = trust.me().node;
        let disk = Folder::new(&self.folder.join(me.0.to_string())).expect("a folder");
        let (store, durable) = Store::open(disk, Settings::default()).await.expect("a store");
        let voters = self.book.keys().copied().collect();
        let mut config = Config::new(me, Bootstrap { voters, ..Bootstrap::default() });
        config.cluster = CLUSTER;
        config.resources.push(ResourceConfig {
            id: ADDRESS,
            role: Role::Dispatcher,
            availability: Availability::Safe,
            candidates: Vec::new(),
        });
        let engine = Engine::new(config, durable, Seed(u64::from(me.0) + now().0), now());
        let identity = Identity { cluster: CLUSTER, me, incarnation: engine.incarnation() };
        let shared = Book::from(self.book.clone());
        let quic = Quic::new(trust, shared.clone(), Limits::default());
        let at = self.book[&me];
        let transport =
            Transport::start(quic.clone(), identity, at, shared, transport_settings()).await.expect("it starts");
        let packets = Rc::new(Cell::new(0));
        let machine = Bare { me, guards: self.guards.clone(), waiting: VecDeque::new(), packets: packets.clone() };
        let shell = Shell::new(machine, transport, store.spawn());
        let task = tokio::task::spawn_local(async move {
            let _ = apus_host::run(engine, shell).await;
        });
        self.nodes.insert(me, Node { quic, packets, task });
    }

    /// Who holds the address now: never two.
    fn holder(&self) -> Option<NodeId> {
        let now = now();
        let guards = self.guards.borrow();
        let holders: Vec<NodeId> = guards.iter().filter(|(_, until)| **until > now).map(|(node, _)| *node).collect();
        assert!(holders.len() <= 1, "two holders: {holders:?}");
        holders.first().copied()
    }

    /// Waits for a holder that is not `but`, and looks for two all the while.
    async fn held(&self, but: Option<NodeId>) -> (NodeId, Duration) {
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
        let cluster = Cluster::new(8, "rest").await;
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
