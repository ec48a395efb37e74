//! The turmoil world: the shipped host loop, transport and store, on simulated machines that exchange real frames.
//!
//! Machines, faults, clients and checkers are those of the heap, and its queue keeps true time; turmoil runs one shell for each
//! node in ticks of a millisecond, and carries datagrams and streams. What lies between two nodes is decided by our own links:
//! turmoil's latency is one tick, always, and it loses nothing. Where its own behaviour is no model of a real one, see
//! [`sockets`](self::sockets).

mod disk;
mod machine;
mod sockets;

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use apus_engine::NodeId;
use turmoil::{Builder, Sim};

use crate::fault::Ns;
use crate::heap::{Action, World};
use crate::report::{Run, Violation};
use crate::scenario::{Plan, Scenario, TURMOIL_NODES};
use crate::world::{Options, TIMEOUT};

/// The world as what it is to the machines: shared, on one thread.
type Shared = Rc<RefCell<World>>;

/// Where every node listens.
const PORT: u16 = 7_400;
/// A seed that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(600);
/// How much later than its deadline a run is given up, if it does not end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// The turmoil world as a [`World`](crate::world::World).
#[derive(Clone, Copy, Debug, Default)]
pub struct Turmoil;

impl crate::world::World for Turmoil {
    fn name(&self) -> &'static str {
        "turmoil"
    }

    fn refuses(&self, scenario: &Scenario) -> Option<String> {
        let nodes = scenario.nodes;
        (nodes > TURMOIL_NODES)
            .then(|| format!("{nodes} nodes are too many for the world `turmoil`: it takes {TURMOIL_NODES}"))
    }

    /// Runs on a thread of its own: one that never comes back, because a node loops within a tick, is left behind.
    fn run(&self, plan: &Plan, options: &Options) -> Run {
        let deadline = options.deadline.unwrap_or_else(|| Instant::now() + LONGEST);
        let (tell, told) = sync_channel(1);
        let (plan, options) = (Arc::new(plan.clone()), Options { deadline: Some(deadline), ..options.clone() });
        let theirs = plan.clone();
        std::thread::spawn(move || {
            let run = catch_unwind(AssertUnwindSafe(|| run(&theirs, &options)));
            let _ = tell.send(run);
        });
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now()) + GRACE) {
            Ok(Ok(run)) => run,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => stuck(&plan),
        }
    }
}

fn stuck(plan: &Plan) -> Run {
    let what = "a node works on without an end within one tick".into();
    Run::without(plan, Violation { checker: TIMEOUT, liveness: true, at: 0, what })
}

/// A node's address.
fn ip(node: NodeId) -> IpAddr {
    let [high, low] = node.0.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 7, high, low.saturating_add(1)))
}

fn address(node: NodeId) -> SocketAddr {
    SocketAddr::new(ip(node), PORT)
}

/// Whose address it is.
fn node_of(address: SocketAddr) -> NodeId {
    match address.ip() {
        IpAddr::V4(ip) => NodeId(u16::from_be_bytes([ip.octets()[2], ip.octets()[3] - 1])),
        IpAddr::V6(_) => NodeId(u16::MAX),
    }
}

fn run(plan: &Plan, options: &Options) -> Run {
    let nodes = u16::try_from(plan.configs.len()).unwrap_or(u16::MAX);
    let world: Shared = Rc::new(RefCell::new(World::outside(plan, options)));
    // Everything that turmoil would draw or take from the machine it runs on is fixed here.
    let tick = Duration::from_millis(1);
    let mut sim = Builder::new()
        .epoch(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .rng_seed(plan.seed)
        .tick_duration(tick)
        .simulation_duration(Duration::MAX)
        .min_message_latency(tick)
        .max_message_latency(tick)
        .fail_rate(0.0)
        .tcp_capacity(1_024)
        .udp_capacity(4_096)
        .build();
    for node in (0..nodes).map(NodeId) {
        let world = world.clone();
        sim.host(ip(node), move || machine::node(world.clone(), node));
    }
    let mut powered = vec![true; usize::from(nodes)];
    loop {
        let now = Ns::try_from(sim.elapsed().as_nanos()).unwrap_or(Ns::MAX);
        let Some(actions) = world.borrow_mut().advance(now) else { break };
        for action in actions {
            act(&mut sim, action, &mut powered);
        }
        if let Err(error) = sim.step() {
            world.borrow_mut().fail("no-panic", format!("a node ended: {error}"));
        }
    }
    drop(sim);
    match Rc::try_unwrap(world) {
        Ok(world) => world.into_inner().close(),
        Err(_) => panic!("a node outlived its world"),
    }
}

/// Starts or ends a process. Without power a machine is cut off first, so that turmoil's farewells for it reach nobody.
fn act(sim: &mut Sim<'_>, action: Action, powered: &mut [bool]) {
    let (node, power) = match action {
        Action::Start(node) => (node, true),
        Action::Stop { node, power: false } => return sim.crash(ip(node)),
        Action::Stop { node, power: true } => (node, false),
    };
    let at = usize::from(node.0);
    let changed = powered[at] != power;
    powered[at] = power;
    let others = (0..powered.len()).filter(|other| *other != at && powered[*other] && changed);
    for other in others.filter_map(|other| u16::try_from(other).ok()).map(NodeId) {
        if power {
            sim.repair(ip(node), ip(other));
        } else {
            sim.partition(ip(node), ip(other));
        }
    }
    if power {
        sim.bounce(ip(node));
    } else {
        sim.crash(ip(node));
    }
}
