//! Exhaustive search of the engine itself, not of a model of it: a few nodes, and every order of deliveries, losses,
//! repetitions, syncs, crashes and time steps within a budget. States are merged by their hash.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apus_engine::hash::Hash128;
use apus_engine::{
    Bootstrap, Config, Durable, Engine, Epoch, Fact, GuardOrder, Index, Input, Micros, Mutant, NodeId, OpId, Outcome,
    Output, Record, ResourceConfig, ResourceId, Role, Seed, Term, Time, consensus,
};

/// What to search.
#[derive(Clone, Debug)]
pub struct Search {
    /// Nodes, all voters; at most 4.
    pub nodes: u16,
    /// Crashes in one history at most.
    pub crashes: u8,
    /// Lost packets in one history at most.
    pub drops: u8,
    /// Repeated packets in one history at most.
    pub duplicates: u8,
    /// Steps in one history at most.
    pub depth: u16,
    /// Packets on their way at most; more are lost without cost, oldest first.
    pub in_flight: usize,
    /// Unique states to visit at most.
    pub states: u64,
    /// Wall-clock limit.
    pub budget: Duration,
    /// Threads.
    pub jobs: usize,
    /// A planted bug.
    pub mutant: Option<Mutant>,
    /// Start when a leader holds the resource, rather than from cold.
    pub warm: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            nodes: 3,
            crashes: 1,
            drops: 1,
            duplicates: 1,
            depth: 40,
            in_flight: 8,
            states: 1_000_000,
            budget: Duration::from_secs(600),
            jobs: 1,
            mutant: None,
            warm: true,
        }
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Unique states visited.
    pub states: u64,
    /// Steps tried.
    pub steps: u64,
    /// Steps that led to a known state.
    pub merged: u64,
    /// Deepest history.
    pub deepest: u16,
    /// Whether everything within the bounds was visited.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// The first violation: what, and the steps that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

#[derive(Clone)]
struct NodeState {
    engine: Engine,
    durable: Durable,
    pending: VecDeque<(OpId, Record)>,
    guards: BTreeMap<ResourceId, (Epoch, Time)>,
    life: u64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flight {
    to: NodeId,
    from: NodeId,
    datagram: Arc<Vec<u8>>,
}

/// What history has shown, for properties over time.
#[derive(Clone, Default, Hash)]
struct Seen {
    leaders: BTreeMap<Term, NodeId>,
    commits: BTreeMap<Index, u64>,
}

#[derive(Clone)]
struct State {
    now: Time,
    nodes: Vec<Arc<NodeState>>,
    flight: Vec<Flight>,
    seen: Arc<Seen>,
    crashes: u8,
    drops: u8,
    duplicates: u8,
    depth: u16,
    path: Option<Arc<Step>>,
    broken: Option<String>,
}

struct Step {
    action: Action,
    before: Option<Arc<Step>>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver(usize),
    Drop(usize),
    Duplicate(usize),
    Sync(usize),
    Crash(usize),
    Advance,
}

/// States are hashed already.
#[derive(Default)]
struct Already(u64);
impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, x: u128) {
        #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let half = x as u64;
        self.0 = half;
    }
}
type Visited = HashSet<u128, BuildHasherDefault<Already>>;
const SHARDS: usize = 64;

impl Search {
    fn config(&self, me: u16) -> Config {
        let all: Vec<NodeId> = (0..self.nodes).map(NodeId).collect();
        let mut config = Config::new(NodeId(me), Bootstrap { voters: all, ..Bootstrap::default() });
        // Probes are rare, so that elections, the log and leases fill the histories.
        config.diagnosis.period = Micros::from_secs(1);
        config.diagnosis.observers = 1;
        config.diagnosis.convict = 1;
        config.mutant = self.mutant;
        config.resources.push(ResourceConfig {
            id: ResourceId(0),
            role: Role::Dispatcher,
            availability: apus_engine::Availability::Safe,
            candidates: Vec::new(),
        });
        config
    }

    fn boot(&self, me: u16, life: u64, durable: Durable, now: Time) -> NodeState {
        let seed = Seed(1).nth(u64::from(me)).nth(life);
        let engine = Engine::new(self.config(me), durable.clone(), seed, now);
        NodeState { engine, durable, pending: VecDeque::new(), guards: BTreeMap::new(), life }
    }

    fn start(&self) -> State {
        let now = Time(1_000_000);
        let nodes = (0..self.nodes).map(|me| Arc::new(self.boot(me, 0, Durable::formatted(), now))).collect();
        let mut state = State {
            now,
            nodes,
            flight: Vec::new(),
            seen: Arc::default(),
            crashes: self.crashes,
            drops: self.drops,
            duplicates: self.duplicates,
            depth: 0,
            path: None,
            broken: None,
        };
        for at in 0..state.nodes.len() {
            self.drain(&mut state, at);
        }
        for _ in 0..if self.warm { 5_000 } else { 0 } {
            if state.nodes.iter().any(|node| node.guards.contains_key(&ResourceId(0))) {
                break;
            }
            let action = match (state.nodes.iter().position(|node| !node.pending.is_empty()), state.flight.is_empty()) {
                (Some(at), _) => Action::Sync(at),
                (None, false) => Action::Deliver(0),
                (None, true) => Action::Advance,
            };
            self.act(&mut state, action);
        }
        (state.depth, state.path) = (0, None);
        state
    }

    /// Hands an input to a node and takes its outputs.
    fn feed(&self, state: &mut State, at: usize, input: Input) {
        let node = Arc::make_mut(&mut state.nodes[at]);
        node.engine.handle(state.now, input);
        self.drain(state, at);
    }

    fn drain(&self, state: &mut State, at: usize) {
        let me = NodeId(u16::try_from(at).unwrap_or(u16::MAX));
        let mut inputs = VecDeque::new();
        loop {
            let node = Arc::make_mut(&mut state.nodes[at]);
            let Some(output) = node.engine.poll_output() else {
                let Some(input) = inputs.pop_front() else { break };
                node.engine.handle(state.now, input);
                continue;
            };
            match output {
                Output::Send { to, datagram, .. } => {
                    state.flight.push(Flight { to, from: me, datagram: Arc::new(datagram) });
                }
                Output::Persist { op, record } => node.pending.push_back((op, record)),
                Output::Guard(GuardOrder::Arm { resource, epoch, until }) => {
                    node.guards.insert(resource, (epoch, until));
                    self.check_holders(state, me, resource);
                }
                Output::Guard(GuardOrder::Disarm { op, resource, .. }) => {
                    node.guards.remove(&resource);
                    inputs.push_back(Input::Done { op, outcome: Outcome::Ok });
                }
                Output::Process { op, .. } => inputs.push_back(Input::Done { op, outcome: Outcome::Ok }),
                Output::Reboot { .. } => {}
                Output::Event(event) => Self::check_event(state, me, &event.fact),
            }
        }
        state.flight.sort_unstable();
        // Two equal packets on their way are one: the receiver cannot tell.
        state.flight.dedup();
        while state.flight.len() > self.in_flight {
            state.flight.remove(0);
        }
    }

    fn check_holders(&self, state: &mut State, me: NodeId, resource: ResourceId) {
        let now = state.now;
        let holds = |node: &Arc<NodeState>| node.guards.get(&resource).is_some_and(|(_, until)| *until > now);
        let other = state.nodes.iter().enumerate().find(|(at, node)| *at != usize::from(me.0) && holds(node));
        if let Some((other, _)) = other {
            state.broken = Some(format!("one-holder: {me} and n{other} both hold {resource}"));
        }
    }

    fn check_event(state: &mut State, me: NodeId, fact: &Fact) {
        match *fact {
            Fact::Consensus(consensus::Fact::Elected { term }) => {
                let other = Arc::make_mut(&mut state.seen).leaders.insert(term, me);
                if other.is_some_and(|other| other != me) {
                    state.broken = Some(format!("election-safety: two leaders in {term}"));
                }
            }
            Fact::Consensus(consensus::Fact::Committed { index, digest, .. }) => {
                let other = Arc::make_mut(&mut state.seen).commits.insert(index, digest);
                if other.is_some_and(|other| other != digest) {
                    state.broken = Some(format!("state-machine-safety: two entries at {index}"));
                }
            }
            _ => {}
        }
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for at in 0..state.nodes.len() {
            if !state.nodes[at].pending.is_empty() {
                actions.push(Action::Sync(at));
            }
        }
        for at in 0..state.flight.len() {
            actions.push(Action::Deliver(at));
            if state.drops > 0 {
                actions.push(Action::Drop(at));
            }
            if state.duplicates > 0 {
                actions.push(Action::Duplicate(at));
            }
        }
        if state.crashes > 0 {
            actions.extend((0..state.nodes.len()).map(Action::Crash));
        }
        actions.push(Action::Advance);
        actions
    }

    fn act(&self, state: &mut State, action: Action) {
        state.depth += 1;
        state.path = Some(Arc::new(Step { action, before: state.path.take() }));
        match action {
            Action::Deliver(at) => {
                let Flight { to, from, datagram } = state.flight.remove(at);
                self.feed(state, usize::from(to.0), Input::Packet { from, datagram: datagram.to_vec() });
            }
            Action::Drop(at) => {
                state.drops -= 1;
                state.flight.remove(at);
            }
            Action::Duplicate(at) => {
                state.duplicates -= 1;
                let Flight { to, from, datagram } = state.flight[at].clone();
                self.feed(state, usize::from(to.0), Input::Packet { from, datagram: datagram.to_vec() });
            }
            Action::Sync(at) => {
                let node = Arc::make_mut(&mut state.nodes[at]);
                if let Some((op, record)) = node.pending.pop_front() {
                    node.durable.replay(record);
                    self.feed(state, at, Input::Done { op, outcome: Outcome::Ok });
                }
            }
            Action::Crash(at) => {
                state.crashes -= 1;
                let node = &state.nodes[at];
                let (life, durable) = (node.life + 1, node.durable.clone());
                let me = u16::try_from(at).unwrap_or(u16::MAX);
                let mut fresh = self.boot(me, life, durable, state.now);
                // The kernel's guard outlives the process.
                fresh.guards = node.guards.clone();
                state.nodes[at] = Arc::new(fresh);
                self.drain(state, at);
            }
            Action::Advance => {
                let next =
                    state.nodes.iter().filter_map(|node| node.engine.deadline()).map(|deadline| deadline.at).min();
                if let Some(next) = next {
                    state.now = state.now.max(next);
                    for at in 0..state.nodes.len() {
                        if state.nodes[at].engine.deadline().is_some_and(|deadline| deadline.at <= state.now) {
                            self.feed(state, at, Input::Tick);
                        }
                    }
                }
            }
        }
    }

    fn hash(state: &State) -> u128 {
        let mut hash = Hash128::new(1);
        hash.word(state.now.0);
        for node in &state.nodes {
            let engine = node.engine.state_hash();
            engine.hash(&mut hash);
            node.durable.hash(&mut hash);
            node.pending.hash(&mut hash);
            node.guards.hash(&mut hash);
        }
        state.flight.hash(&mut hash);
        state.seen.hash(&mut hash);
        hash.word(u64::from(state.crashes) << 16 | u64::from(state.drops) << 8 | u64::from(state.duplicates));
        hash.finish128()
    }

    /// Visits every reachable state within the bounds, depth first, on `jobs` threads.
    #[must_use]
    pub fn run(&self) -> Found {
        let began = Instant::now();
        let visited: Vec<Mutex<Visited>> = (0..SHARDS).map(|_| Mutex::default()).collect();
        let shared = Mutex::new(vec![self.start()]);
        let (states, steps, merged) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (deepest, idle) = (AtomicU64::new(0), AtomicUsize::new(0));
        let (stop, cut) = (AtomicBool::new(false), AtomicBool::new(false));
        let violation = Mutex::new(None);
        let work = || {
            let mut mine: Vec<State> = Vec::new();
            let mut waiting = false;
            while !stop.load(Ordering::Relaxed) {
                let Some(state) = mine.pop().or_else(|| shared.lock().ok()?.pop()) else {
                    if !std::mem::replace(&mut waiting, true) {
                        idle.fetch_add(1, Ordering::SeqCst);
                    }
                    if idle.load(Ordering::SeqCst) == self.jobs.max(1) {
                        break;
                    }
                    std::thread::yield_now();
                    continue;
                };
                if std::mem::replace(&mut waiting, false) {
                    idle.fetch_sub(1, Ordering::SeqCst);
                }
                for action in self.actions(&state) {
                    let mut next = state.clone();
                    self.act(&mut next, action);
                    steps.fetch_add(1, Ordering::Relaxed);
                    if let Some(what) = next.broken.take() {
                        if let Ok(mut violation) = violation.lock() {
                            violation.get_or_insert((what, path(next.path.as_ref())));
                        }
                        stop.store(true, Ordering::Relaxed);
                        break;
                    }
                    let hash = Self::hash(&next);
                    let shard = usize::try_from(hash >> 122).unwrap_or(0);
                    if !visited[shard].lock().is_ok_and(|mut visited| visited.insert(hash)) {
                        merged.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    deepest.fetch_max(u64::from(next.depth), Ordering::Relaxed);
                    let count = states.fetch_add(1, Ordering::Relaxed) + 1;
                    if count >= self.states || (count % 4096 == 0 && began.elapsed() > self.budget) {
                        cut.store(true, Ordering::Relaxed);
                        stop.store(true, Ordering::Relaxed);
                    }
                    if next.depth >= self.depth {
                        cut.store(true, Ordering::Relaxed);
                    } else {
                        mine.push(next);
                    }
                }
                // Share the oldest half with threads that wait.
                if idle.load(Ordering::Relaxed) > 0
                    && mine.len() > 1
                    && let Ok(mut shared) = shared.lock()
                {
                    let half = mine.len() / 2;
                    shared.extend(mine.drain(..half));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(work);
            }
        });
        Found {
            states: states.into_inner(),
            steps: steps.into_inner(),
            merged: merged.into_inner(),
            deepest: u16::try_from(deepest.into_inner()).unwrap_or(u16::MAX),
            complete: !cut.into_inner(),
            took: began.elapsed(),
            violation: violation.into_inner().ok().flatten(),
        }
    }
}

fn path(mut step: Option<&Arc<Step>>) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(this) = step {
        out.push(format!("{:?}", this.action));
        step = this.before.as_ref();
    }
    out.reverse();
    out
}
