//! The race: one node of a ring dies, one packet in a hundred is lost. When does every other node know, is anybody accused
//! wrongly, and what does it cost?

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::{self, Write as _};
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apus_engine::{Fact, NodeId, Ratio, Rng, Seed, diagnosis};
use apus_sim::fault::{Kind, Ns};
use apus_sim::heap::Heap;
use apus_sim::scenario::{Plan, Scenario};
use apus_sim::trace::What;
use apus_sim::world::{Options, World};
use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Identity, Member, NoCustomBroadcast, OwnedNotification, PostcardCodec, Timer};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const MS: Ns = 1_000_000;
const S: Ns = 1_000 * MS;
const LOSS: Ratio = Ratio { hit: 1, of: 100 };
/// Packets are counted from here to the crash.
const SETTLED: Ns = 2 * S;

/// What is done to both.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Nodes.
    pub nodes: u16,
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub first: u64,
    /// When the node in the middle dies; a random part of a second is added.
    pub crash: Ns,
    /// When the run ends.
    pub end: Ns,
    /// Milliseconds between two tests of one node by another; for ours.
    pub period: u64,
}

impl Script {
    /// The usual one: dead from the fifth second on, over at 25 seconds.
    #[must_use]
    pub const fn new(nodes: u16, seeds: u64) -> Self {
        Self { nodes, seeds, first: 0, crash: 5 * S, end: 25 * S, period: 1_000 }
    }

    /// Nobody dies, and six seconds are all: only wrong verdicts and packets are counted.
    #[must_use]
    pub const fn quiet(nodes: u16, seeds: u64) -> Self {
        Self { crash: 8 * S, end: 6 * S, ..Self::new(nodes, seeds) }
    }

    const fn victim(&self) -> u16 {
        self.nodes / 2
    }
}

/// What came of it, over all seeds.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who.
    pub name: &'static str,
    /// Of the script.
    pub nodes: u16,
    /// Of the script.
    pub seeds: u64,
    /// Microseconds from the crash until one node knows, over nodes and seeds.
    pub known: Histogram<u64>,
    /// Microseconds until the last node knows, over seeds.
    pub last: Histogram<u64>,
    /// Nodes that never knew.
    pub never: u64,
    /// Verdicts about nodes that ran.
    pub wrong: u64,
    /// The first seed with such a verdict.
    pub wrong_in: Option<u64>,
    /// Diagnosis packets sent, and node-seconds in which they were.
    pub packets: u64,
    /// See `packets`.
    pub node_time: Ns,
    /// Packets of other parts: the log and leases.
    pub others: u64,
}

impl Row {
    /// Names of the columns.
    pub const HEAD: &'static str = "                nodes  seeds  knows: median     p99   worst   last knows: median   worst   never  wrong  packets/s/node  others";

    fn new(name: &'static str, script: &Script) -> Self {
        let histogram = || Histogram::new(3).expect("three digits are valid");
        Self {
            name,
            nodes: script.nodes,
            seeds: script.seeds,
            known: histogram(),
            last: histogram(),
            never: 0,
            wrong: 0,
            wrong_in: None,
            packets: 0,
            node_time: 0,
            others: 0,
        }
    }

    /// Adds one seed: when each node learned of the crash.
    fn add(&mut self, script: &Script, crash: Ns, known: &BTreeMap<u16, Ns>) {
        let delays = known.values().map(|at| (at - crash) / 1_000);
        for delay in delays.clone() {
            self.known.record(delay).expect("the histogram grows");
        }
        if crash > script.end {
            self.node_time += (script.end - SETTLED) * u64::from(script.nodes);
            return;
        }
        self.never += u64::from(script.nodes) - 1 - known.len() as u64;
        if known.len() + 1 == script.nodes as usize {
            self.last.record(delays.max().unwrap_or(0)).expect("the histogram grows");
        }
        self.node_time += (crash - SETTLED) * u64::from(script.nodes);
    }

    fn merge(mut self, other: &Self) -> Self {
        self.known.add(&other.known).expect("the histogram grows");
        self.last.add(&other.last).expect("the histogram grows");
        self.never += other.never;
        self.wrong += other.wrong;
        self.wrong_in = self.wrong_in.into_iter().chain(other.wrong_in).min();
        self.packets += other.packets;
        self.node_time += other.node_time;
        self.others += other.others;
        self
    }
}

/// Runs all seeds of a script, on every core; the sum is the same however they are spread.
fn over_seeds(name: &'static str, script: &Script, one: impl Fn(&mut Row, u64) + Sync) -> Row {
    let next = AtomicU64::new(script.first);
    let work = || {
        let mut row = Row::new(name, script);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= script.first + script.seeds {
                return row;
            }
            let before = row.wrong;
            one(&mut row, seed);
            if row.wrong > before {
                row.wrong_in.get_or_insert(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let rows = workers.into_iter().map(|worker| worker.join().expect("a run does not panic"));
        rows.fold(Row::new(name, script), |sum, row| sum.merge(&row))
    })
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |histogram: &Histogram<u64>, q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
        let rate = |packets: u64| packets as f64 * S as f64 / self.node_time.max(1) as f64;
        write!(
            f,
            "{:<14} {:>6} {:>6} {:>12.0} ms {:>4.0} ms {:>4.0} ms {:>17.0} ms {:>4.0} ms {:>7} {:>6} {:>15.2} {:>7.2}",
            self.name,
            self.nodes,
            self.seeds,
            ms(&self.known, 0.5),
            ms(&self.known, 0.99),
            ms(&self.known, 1.0),
            ms(&self.last, 0.5),
            ms(&self.last, 1.0),
            self.never,
            self.wrong,
            rate(self.packets),
            rate(self.others),
        )?;
        self.wrong_in.map_or(Ok(()), |seed| write!(f, "  (seed {seed})"))
    }
}

/// Our diagnosis, in the heap world.
///
/// # Panics
/// If the scenario cannot be read.
#[must_use]
pub fn ours(name: &'static str, script: &Script) -> Row {
    let (end, crash, period) = (script.end / MS, script.crash / MS, script.period);
    let mut text = format!(
        "name = \"detection\"\nabout = \"\"\"\nOne crash in a ring.\nFor measuring.\"\"\"\nworlds = [\"heap\"]\nnodes = {}\nvoters = {}\n\
         duration = \"{end}ms\"\nheal = \"1s\"\n[cluster]\nperiod = \"{period}ms\"\nheartbeat = \"250ms\"\nelection = \"1s\"\nlease = \"2s\"\n\
         [[fault]]\nkind = \"loss\"\nat = \"0s\"\nfor = \"{end}ms\"\ntarget = \"all\"\nrate = \"1%\"\n",
        script.nodes,
        script.nodes.min(5),
    );
    if crash < end {
        let (latest, left, victim) = (crash + 1_000, end - crash - 1_000, script.victim());
        let power_off = "[[fault]]\nkind = \"power-off\"\n";
        let _ = writeln!(
            text,
            "{power_off}at = [\"{crash}ms\", \"{latest}ms\"]\nfor = \"{left}ms\"\ntarget = \"n{victim}\""
        );
    }
    let scenario = Scenario::parse("detection", &text).expect("the scenario can be read");
    over_seeds(name, script, |row, seed| {
        let options = Options { keep_trace: true, ..Options::default() };
        let run = Heap.run(&Plan::draw(&scenario, seed), &options);
        let crash = run.faults.iter().find(|fault| fault.kind == Kind::PowerOff).map_or(script.crash, |fault| fault.at);
        let mut known = BTreeMap::new();
        for line in &run.trace {
            match (&line.what, line.node) {
                (What::Sent { kind, .. }, _) if line.at >= SETTLED && line.at < crash.min(script.end) => {
                    *if kind >> 4 == 1 { &mut row.packets } else { &mut row.others } += 1;
                }
                (What::Event(event), Some(at)) => {
                    let Fact::Diagnosis(diagnosis::Fact::Down { node, .. }) = event.fact else { continue };
                    if line.at > script.end {
                        break;
                    }
                    if node != NodeId(script.victim()) || line.at < crash {
                        row.wrong += 1;
                    } else {
                        known.entry(at.0).or_insert(line.at);
                    }
                }
                _ => {}
            }
        }
        row.add(script, crash, &known);
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    number: u16,
    life: u8,
}

impl Identity for Node {
    type Addr = u16;
    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life.wrapping_add(1), ..*self })
    }
    fn addr(&self) -> u16 {
        self.number
    }
    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.life > other.life
    }
}

enum Due {
    Start(u16),
    Packet(u16, Bytes),
    Timer(u16, Timer<Node>),
}

type Peer = Foca<Node, PostcardCodec, Rng, NoCustomBroadcast>;

/// What foca advises for a local network.
#[must_use]
pub fn lan(nodes: u16) -> foca::Config {
    foca::Config::new_lan(NonZeroU32::new(u32::from(nodes)).unwrap_or(NonZeroU32::MIN))
}

/// The same, tuned for this network: a direct answer takes less than a millisecond.
#[must_use]
pub fn swift(nodes: u16) -> foca::Config {
    let mut config = lan(nodes);
    config.probe_rtt = Duration::from_millis(60);
    config.suspect_to_down_after = Duration::from_millis(800);
    config.num_indirect_probes = NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN);
    config.max_transmissions = config.max_transmissions.max(NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN));
    config
}

/// A network of foca's nodes: one heap of what is due.
struct Network<'s> {
    script: &'s Script,
    peers: Vec<Peer>,
    heap: BinaryHeap<Reverse<(Ns, u64)>>,
    due: BTreeMap<u64, Due>,
    next: u64,
    net: Rng,
    crash: Ns,
    known: BTreeMap<u16, Ns>,
    started: BTreeSet<u16>,
}

impl Network<'_> {
    fn push(&mut self, at: Ns, due: Due) {
        self.heap.push(Reverse((at, self.next)));
        self.due.insert(self.next, due);
        self.next += 1;
    }

    fn dead(&self, node: u16, now: Ns) -> bool {
        node == self.script.victim() && now >= self.crash
    }

    fn run(&mut self, row: &mut Row) {
        let members: Vec<Member<Node>> =
            (0..self.script.nodes).map(|number| Member::alive(Node { number, life: 0 })).collect();
        while let Some(Reverse((now, id))) = self.heap.pop() {
            if now > self.script.end {
                break;
            }
            let Some(due) = self.due.remove(&id) else { continue };
            let mut runtime = AccumulatingRuntime::new();
            let node = match due {
                Due::Start(node) => {
                    self.started.insert(node);
                    let others = members.iter().filter(|member| member.id().number != node).cloned();
                    self.peers[node as usize].apply_many(others, false, &mut runtime).expect("members are well formed");
                    while runtime.to_notify().is_some() {}
                    node
                }
                Due::Packet(node, _) if self.dead(node, now) || !self.started.contains(&node) => continue,
                // What foca does not want to hear it says by an error.
                Due::Packet(node, data) => {
                    let _ = self.peers[node as usize].handle_data(&data, &mut runtime);
                    node
                }
                Due::Timer(node, _) if self.dead(node, now) => continue,
                Due::Timer(node, timer) => {
                    let _ = self.peers[node as usize].handle_timer(timer, &mut runtime);
                    node
                }
            };
            self.take(row, node, now, &mut runtime);
        }
    }

    fn take(&mut self, row: &mut Row, node: u16, now: Ns, runtime: &mut AccumulatingRuntime<Node>) {
        while let Some((to, data)) = runtime.to_send() {
            row.packets += u64::from(now >= SETTLED && now < self.crash.min(self.script.end));
            if !self.net.hit(LOSS) {
                let delay = self.net.between(MS / 10, 3 * MS / 10);
                self.push(now + delay, Due::Packet(to.number, data));
            }
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            self.push(now + after.as_nanos() as Ns, Due::Timer(node, timer));
        }
        while let Some(notification) = runtime.to_notify() {
            match notification {
                OwnedNotification::MemberDown(down) if self.dead(down.number, now) => {
                    self.known.entry(node).or_insert(now);
                }
                OwnedNotification::MemberDown(_) => row.wrong += 1,
                _ => {}
            }
        }
    }
}

/// Foca under the same script. Every node knows all others from its start, somewhere in the first second.
#[must_use]
pub fn theirs(name: &'static str, script: &Script, config: &foca::Config) -> Row {
    over_seeds(name, script, |row, seed| {
        let seed = Seed(seed);
        let peer = |number: u16| {
            let rng = seed.derive("peer").nth(u64::from(number)).stream("foca");
            Foca::new(Node { number, life: 0 }, config.clone(), rng, PostcardCodec)
        };
        let mut boot = seed.stream("boot");
        let mut network = Network {
            script,
            peers: (0..script.nodes).map(peer).collect(),
            heap: BinaryHeap::new(),
            due: BTreeMap::new(),
            next: 0,
            net: seed.stream("net"),
            crash: script.crash + boot.below(S),
            known: BTreeMap::new(),
            started: BTreeSet::new(),
        };
        for node in 0..script.nodes {
            network.push(boot.below(S), Due::Start(node));
        }
        network.run(row);
        row.add(script, network.crash, &network.known);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_learn_of_a_crash_and_accuse_nobody_else() {
        let script = Script::new(10, 3);
        for row in [ours("apus", &script), theirs("foca", &script, &lan(10))] {
            assert_eq!((row.never, row.wrong), (0, 0), "{}\n{row}", Row::HEAD);
            assert_eq!(row.known.len(), 27);
            assert!(row.packets > 0);
        }
    }
}
