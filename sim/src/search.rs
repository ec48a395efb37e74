//! Exhaustive search of the engine itself, not of a model of it: a few nodes, and every history with so many faults. Without
//! a fault, disks sync at once, packets arrive in order, and time passes when nothing is under way. A fault is a packet
//! that is lost, repeated, or overtakes others; a disk that is late; a crash that loses what was not synced; a timer that
//! fires before what is under way has arrived. States are merged by their hash.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apus_engine::hash::{Hash128, hash_bytes, mix};
use apus_engine::{
    Bootstrap, Config, Durable, Engine, Epoch, Fact, GuardOrder, Index, Input, Micros, Mutant, NodeId, OpId, Outcome,
    Output, Record, ResourceConfig, ResourceId, Role, Seed, Term, Time, consensus,
};

/// What to search.
#[derive(Clone, Debug)]
pub struct Search {
    /// Nodes, all voters; at most 4.
    pub nodes: u16,
    /// Faults in one history at most.
    pub faults: u8,
    /// How much time passes in a history.
    pub horizon: Micros,
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
}

impl Default for Search {
    fn default() -> Self {
        Self {
            nodes: 3,
            faults: 2,
            horizon: Micros::from_millis(1_000),
            in_flight: 12,
            states: 1_000_000,
            budget: Duration::from_secs(600),
            jobs: 1,
            mutant: None,
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
    /// Longest history, in steps.
    pub longest: u32,
    /// Whether every history within the bounds was visited.
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
    /// Hash of all of this, kept because one step changes one node.
    hash: u128,
}

impl NodeState {
    fn rehash(&mut self) {
        let mut hash = Hash128::new(2);
        self.engine.state_hash().hash(&mut hash);
        self.durable.hash(&mut hash);
        self.pending.hash(&mut hash);
        self.guards.hash(&mut hash);
        self.hash = hash.finish128();
    }
}

#[derive(Clone)]
struct Flight {
    to: NodeId,
    from: NodeId,
    /// Hash of the datagram.
    check: u64,
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
    faults: u8,
    depth: u32,
    until: Time,
    /// In which order its steps are tried.
    order: u64,
    path: Option<Arc<Step>>,
    broken: Option<String>,
}

struct Step {
    action: Action,
    before: Option<Arc<Step>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u64(&mut self, x: u64) {
        self.0 = x;
    }
}
/// Half of the hash is kept: among 10^7 states the chance that one is taken for another is below 3 in a million.
type Visited = HashSet<u64, BuildHasherDefault<Already>>;
const SHARDS: usize = 64;

/// What the threads of a search share.
#[derive(Default)]
struct Walk {
    visited: Vec<Mutex<Visited>>,
    shared: Mutex<Vec<State>>,
    states: AtomicU64,
    steps: AtomicU64,
    merged: AtomicU64,
    longest: AtomicU32,
    idle: AtomicUsize,
    /// A violation, or the bound on states or time, ended the search.
    stop: AtomicBool,
    violation: Mutex<Option<(String, Vec<String>)>>,
}

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
        NodeState { engine, durable, pending: VecDeque::new(), guards: BTreeMap::new(), life, hash: 0 }
    }

    /// Where histories begin: nodes that have just booted, and the same once a leader holds the resource.
    fn starts(&self) -> Vec<State> {
        let now = Time(1_000_000);
        let nodes = (0..self.nodes).map(|me| Arc::new(self.boot(me, 0, Durable::formatted(), now))).collect();
        let mut state = State {
            now,
            nodes,
            flight: Vec::new(),
            seen: Arc::default(),
            faults: self.faults,
            depth: 0,
            until: now,
            order: 0,
            path: None,
            broken: None,
        };
        for at in 0..state.nodes.len() {
            self.drain(&mut state, at);
        }
        while let Some(at) = state.nodes.iter().position(|node| !node.pending.is_empty()) {
            self.act(&mut state, Action::Sync(at));
        }
        let mut starts = vec![state.clone()];
        for _ in 0..5_000 {
            if state.nodes.iter().any(|node| node.guards.contains_key(&ResourceId(0))) {
                starts.push(state);
                break;
            }
            let action = Self::usual(&state);
            self.act(&mut state, action);
        }
        for start in &mut starts {
            (start.depth, start.path) = (0, None);
            start.until = start.now + self.horizon;
        }
        starts
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
                    let check = hash_bytes(3, &datagram);
                    state.flight.push(Flight { to, from: me, check, datagram: Arc::new(datagram) });
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
                Output::Files(_) | Output::Reboot { .. } => {}
                Output::Event(event) => Self::check_event(state, me, &event.fact),
            }
        }
        while state.flight.len() > self.in_flight {
            state.flight.remove(0);
        }
        let node = Arc::make_mut(&mut state.nodes[at]);
        node.engine.forget_events();
        node.rehash();
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

    /// What happens when nothing goes wrong.
    fn usual(state: &State) -> Action {
        match (state.nodes.iter().position(|node| !node.pending.is_empty()), state.flight.is_empty()) {
            (Some(at), _) => Action::Sync(at),
            (None, false) => Action::Deliver(0),
            (None, true) => Action::Advance,
        }
    }

    fn actions(state: &State) -> Vec<Action> {
        let usual = Self::usual(state);
        let mut actions = vec![usual];
        if state.faults > 0 {
            actions.extend((0..state.nodes.len()).map(Action::Crash));
            actions.extend((0..state.flight.len()).map(Action::Deliver));
            // To lose or repeat a packet later is the same as now: nobody has seen it.
            if !state.flight.is_empty() {
                actions.extend([Action::Drop(0), Action::Duplicate(0)]);
            }
            let waits = |at: &usize| !state.nodes[*at].pending.is_empty();
            actions.extend((0..state.nodes.len()).filter(waits).map(Action::Sync));
            actions.push(Action::Advance);
            actions[1..].sort_unstable();
            actions.dedup();
            if let Some(again) = actions[1..].iter().position(|action| *action == usual) {
                actions.remove(again + 1);
            }
        }
        // Depth first, one fixed order would stay in one corner for long.
        let mut order = Seed(state.order).stream("order");
        for at in (1..actions.len()).rev() {
            actions.swap(at, usize::try_from(order.below(at as u64 + 1)).unwrap_or(0));
        }
        actions
    }

    fn act(&self, state: &mut State, action: Action) {
        state.depth += 1;
        if action != Self::usual(state) {
            state.faults -= 1;
        }
        state.path = Some(Arc::new(Step { action, before: state.path.take() }));
        match action {
            Action::Deliver(at) => {
                let Flight { to, from, datagram, .. } = state.flight.remove(at);
                self.feed(state, usize::from(to.0), Input::Packet { from, datagram: datagram.to_vec() });
            }
            Action::Drop(at) => {
                state.flight.remove(at);
            }
            Action::Duplicate(at) => {
                // The copy comes behind all others.
                let again = state.flight.remove(at);
                let Flight { to, from, datagram, .. } = again.clone();
                state.flight.push(again);
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

    fn hash(state: &State) -> (usize, u64) {
        let mut hash = Hash128::new(1);
        hash.word(state.now.0);
        for node in &state.nodes {
            node.hash.hash(&mut hash);
        }
        for Flight { to, from, check, .. } in &state.flight {
            hash.word(u64::from(to.0) << 16 | u64::from(from.0));
            hash.word(*check);
        }
        state.seen.hash(&mut hash);
        hash.word(u64::from(state.faults));
        let hash = hash.finish128();
        #[allow(clippy::cast_possible_truncation, reason = "half of the hash is kept")]
        let half = hash as u64;
        (usize::try_from(hash >> 122).unwrap_or(0), half)
    }

    /// Visits every state that a history within the bounds reaches, depth first, on `jobs` threads.
    #[must_use]
    pub fn run(&self) -> Found {
        let began = Instant::now();
        let walk = Walk {
            visited: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shared: Mutex::new(self.starts()),
            ..Walk::default()
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.walk(&walk, began + self.budget));
            }
        });
        Found {
            states: walk.states.into_inner(),
            steps: walk.steps.into_inner(),
            merged: walk.merged.into_inner(),
            longest: walk.longest.into_inner(),
            complete: !walk.stop.into_inner(),
            took: began.elapsed(),
            violation: walk.violation.into_inner().ok().flatten(),
        }
    }

    fn walk(&self, walk: &Walk, until: Instant) {
        let mut mine: Vec<State> = Vec::new();
        let mut waiting = false;
        while !walk.stop.load(Ordering::Relaxed) {
            let Some(state) = mine.pop().or_else(|| walk.shared.lock().ok()?.pop()) else {
                if !std::mem::replace(&mut waiting, true) {
                    walk.idle.fetch_add(1, Ordering::SeqCst);
                }
                if walk.idle.load(Ordering::SeqCst) == self.jobs.max(1) {
                    break;
                }
                std::thread::yield_now();
                continue;
            };
            if std::mem::replace(&mut waiting, false) {
                walk.idle.fetch_sub(1, Ordering::SeqCst);
            }
            for action in Self::actions(&state) {
                let mut next = state.clone();
                self.act(&mut next, action);
                walk.steps.fetch_add(1, Ordering::Relaxed);
                if let Some(what) = next.broken.take() {
                    if let Ok(mut violation) = walk.violation.lock() {
                        violation.get_or_insert((what, path(next.path.as_ref())));
                    }
                    walk.stop.store(true, Ordering::Relaxed);
                    break;
                }
                let (shard, hash) = Self::hash(&next);
                next.order = hash;
                if !walk.visited[shard].lock().is_ok_and(|mut visited| visited.insert(hash)) {
                    walk.merged.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                walk.longest.fetch_max(next.depth, Ordering::Relaxed);
                let count = walk.states.fetch_add(1, Ordering::Relaxed) + 1;
                if count >= self.states || (count.is_multiple_of(4096) && Instant::now() > until) {
                    walk.stop.store(true, Ordering::Relaxed);
                }
                if next.now < next.until {
                    mine.push(next);
                }
            }
            // Share the oldest half with threads that wait.
            if walk.idle.load(Ordering::Relaxed) > 0
                && mine.len() > 1
                && let Ok(mut shared) = walk.shared.lock()
            {
                let half = mine.len() / 2;
                shared.extend(mine.drain(..half));
            }
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
