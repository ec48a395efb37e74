//! Engines in a small net of their own, one of them recorded; what is read back; what is damaged.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_engine::{
    Bootstrap, Command, Config, Copy, Durable, Engine, ExitCause, GuardOrder, Input, Micros, NodeId, OpId, Outcome,
    Output, ProcessInput, ProcessOrder, ResourceConfig, ResourceId, Rng, Role, Seed, ServiceConfig, ServiceId, Time,
};

use super::file::{FRAME, HEADER, ReadError};
use super::{Act, Difference, Incident, Reason, Recorder, Replayed, Settings, Turn, export, replay};

/// Bugs of a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    /// A step is recorded with the time after it was taken.
    LateTime,
    /// The host is said to have drained what it has not, and the other way round.
    DrainUntold,
    /// Completions are recorded as if all had gone well.
    OutcomeForgotten,
    /// What the control socket asks of the engine is not recorded.
    CommandsForgotten,
}

/// What the recorder writes in place of what was.
pub(super) fn plant(planted: Option<Planted>, now: Time, drained: bool, act: &Act) -> (Time, bool, Act) {
    match (planted, act) {
        (Some(Planted::LateTime), _) => (now + Micros(1), drained, act.clone()),
        (Some(Planted::DrainUntold), _) => (now, !drained, act.clone()),
        (Some(Planted::OutcomeForgotten), Act::Input(Input::Done { op, .. })) => {
            (now, drained, Act::Input(Input::Done { op: *op, outcome: Outcome::Ok }))
        }
        (Some(Planted::CommandsForgotten), Act::Command(_) | Act::Order(_)) => (now, drained, Act::Input(Input::Tick)),
        _ => (now, drained, act.clone()),
    }
}

const COPY: Copy = Copy { service: ServiceId(1), slot: 0 };

struct Node {
    engine: Engine,
    durable: Durable,
    /// Records that are not durable yet.
    writing: Vec<(OpId, apus_engine::Record)>,
}

thread_local! {
    /// The net's time.
    static WALL: Cell<u64> = const { Cell::new(0) };
}

fn wall() -> u64 {
    1_000_000_000 + WALL.get()
}

/// Three nodes, one of them recorded.
struct Net {
    nodes: Vec<Node>,
    recorder: Option<Recorder>,
    rng: Rng,
    now: Time,
    due: BTreeMap<(Time, u64), (usize, Input)>,
    many: u64,
    lives: u64,
}

fn config(me: u16) -> Config {
    let mut config =
        Config::new(NodeId(me), Bootstrap { voters: (0..3).map(NodeId).collect(), ..Bootstrap::default() });
    config.services.push(ServiceConfig::cold(ServiceId(1), "web"));
    config.resources.push(ResourceConfig {
        id: ResourceId(1),
        role: Role::Slot { service: ServiceId(1), slot: 0 },
        availability: apus_engine::Availability::Safe,
        candidates: vec![NodeId(0), NodeId(1)],
    });
    config.check().expect("it is good");
    config
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("apus-record-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

const SMALL: Settings = Settings { bytes: 64 << 20, segment: 16 << 10, queue: 64 << 20, gather: Duration::ZERO };

impl Net {
    fn new(seed: u64, record: Option<(&Path, Settings)>) -> Self {
        let seed = Seed(seed);
        let node = |me: u16| {
            let durable = Durable::formatted();
            Node {
                engine: Engine::new(config(me), durable.clone(), seed.nth(me.into()), Time(1_000_000)),
                durable,
                writing: Vec::new(),
            }
        };
        let nodes: Vec<Node> = (0..3).map(node).collect();
        let recorder = record
            .map(|(folder, settings)| Recorder::start(folder, settings, &nodes[0].engine, wall).expect("a folder"));
        let mut net = Self {
            nodes,
            recorder,
            rng: seed.stream("net"),
            now: Time(1_000_000),
            due: BTreeMap::new(),
            many: 0,
            lives: 1,
        };
        (0..3).for_each(|node| net.drain(node));
        net
    }

    /// The disk keeps up with the engine, however busy the machine is.
    fn settle(&self) {
        self.recorder.iter().for_each(Recorder::settle);
    }

    fn feed(&mut self, node: usize, act: Act) -> bool {
        let engine = &mut self.nodes[node].engine;
        match &mut self.recorder {
            Some(recorder) if node == 0 => recorder.feed(engine, self.now, act),
            _ => act.apply(engine, self.now),
        }
        .is_ok()
    }

    fn later(&mut self, node: usize, least: u64, most: u64, input: Input) {
        self.many += 1;
        let at = self.now + Micros(self.rng.between(least, most));
        self.due.insert((at, self.many), (node, input));
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].engine.poll_output() {
            let done = |op, outcome| Input::Done { op, outcome };
            match output {
                Output::Send { to, datagram, .. } => {
                    if self.rng.below(50) != 0 {
                        let from = NodeId(u16::try_from(node).expect("three"));
                        self.later(to.0.into(), 100, 900, Input::Packet { from, datagram });
                    }
                }
                Output::Persist { op, record } => {
                    let full = self.rng.below(200) == 0;
                    if !full {
                        self.nodes[node].writing.push((op, record));
                    }
                    // In order, as a disk answers.
                    let outcome = if full { Outcome::DiskFull } else { Outcome::Ok };
                    self.later(node, 800, 800, done(op, outcome));
                }
                Output::Guard(GuardOrder::Disarm { op, .. }) => self.later(node, 10, 50, done(op, Outcome::Ok)),
                Output::Process { op, copy, order } => {
                    let failed = self.rng.below(20) == 0;
                    self.later(node, 500, 2_000, done(op, if failed { Outcome::ProcessFailed } else { Outcome::Ok }));
                    if matches!(order, ProcessOrder::Start { .. } | ProcessOrder::Promote { .. }) && !failed {
                        self.later(node, 5_000, 9_000, Input::Process { copy, what: ProcessInput::Ready });
                    }
                }
                Output::Guard(GuardOrder::Arm { .. }) | Output::Files(_) | Output::Reboot { .. } | Output::Event(_) => {
                }
            }
        }
    }

    /// What comes next: an input, or a deadline.
    fn turn(&mut self) {
        let tick = self.nodes.iter().enumerate().filter_map(|(at, node)| Some((node.engine.deadline()?.at, at))).min();
        let next = self.due.first_key_value().map(|((at, _), _)| *at);
        let (node, input) = match (tick, next) {
            (Some((at, node)), next) if next.is_none_or(|next| at <= next) => {
                self.now = self.now.max(at);
                (node, Input::Tick)
            }
            _ => {
                let ((at, _), due) = self.due.pop_first().expect("something is due");
                self.now = self.now.max(at);
                due
            }
        };
        WALL.set(self.now.0);
        if let Input::Done { op, outcome: Outcome::Ok } = input {
            let node = &mut self.nodes[node];
            if let Some(at) = node.writing.iter().position(|(own, _)| *own == op) {
                let (_, record) = node.writing.remove(at);
                node.durable.replay(record);
            }
        }
        self.feed(node, Act::Input(input));
        let chance = self.rng.below(2_000);
        if chance < 40 {
            // Before the host drains, as a control socket does.
            let note = vec![7; usize::try_from(chance).unwrap_or_default()];
            self.feed(node, Act::Command(Command::Note(note)));
        } else if chance == 41 {
            let order = apus_engine::views::Order::Maintenance { node: NodeId(0), on: self.rng.below(3) == 0 };
            self.feed(node, Act::Order(order));
        } else if chance == 42 {
            let what = ProcessInput::Exited(ExitCause::Signal(9));
            self.feed(node, Act::Input(Input::Process { copy: COPY, what }));
        }
        self.drain(node);
    }

    /// Node 0 dies and comes back on what is durable.
    fn restart(&mut self, folder: &Path, settings: Settings) {
        drop(self.recorder.take());
        self.lives += 1;
        self.due.retain(|_, (node, _)| *node != 0);
        let node = &mut self.nodes[0];
        node.writing.clear();
        node.engine = Engine::new(config(0), node.durable.clone(), Seed(99).nth(self.lives), self.now);
        self.recorder = Some(Recorder::start(folder, settings, &node.engine, wall).expect("a folder"));
        self.drain(0);
    }
}

fn read(folder: &Path) -> Incident {
    let bytes = export(folder, None).unwrap_or_else(|(file, error)| panic!("{file}: {error}"));
    Incident::read(&bytes).expect("it is whole")
}

fn compare(incident: &Incident) -> Result<Replayed, Box<Difference>> {
    incident.check_build().expect("ours");
    replay(incident, |_| {}).expect("it is read")
}

/// A record of some turns, with a bug if there is one.
fn recorded(name: &str, turns: u32, planted: Option<Planted>) -> (PathBuf, Incident) {
    let folder = folder(name);
    let mut net = Net::new(5, Some((&folder, SMALL)));
    net.recorder.as_mut().expect("it records").planted = planted;
    for _ in 0..turns {
        net.turn();
    }
    drop(net);
    let incident = read(&folder);
    (folder, incident)
}

/// 100,000 steps over three lives, each with the hash of the state after it: all are the same again.
#[test]
fn a_hundred_thousand_steps_replay_hash_by_hash() {
    let folder = folder("long");
    let mut net = Net::new(1, Some((&folder, SMALL)));
    let (mut turns, mut deaths) = (0_u64, 0);
    let steps = |net: &Net| net.recorder.as_ref().map_or(0, Recorder::steps);
    let mut all = 0;
    while all + steps(&net) < 100_500 {
        net.turn();
        turns += 1;
        if deaths < 2 && all + steps(&net) > 30_000 * (deaths + 1) {
            all += steps(&net);
            net.restart(&folder, SMALL);
            deaths += 1;
        }
    }
    let last = net.nodes[0].engine.marks().whole();
    assert_eq!(net.recorder.as_ref().map(Recorder::missing), Some(0));
    drop(net);
    let incident = read(&folder);
    let (mut outputs, mut froms) = (0_u64, 0);
    let replayed = replay(&incident, |turn| match turn {
        Turn::Output(..) => outputs += 1,
        Turn::From { .. } => froms += 1,
        Turn::Step(_) | Turn::Until(_) => {}
    });
    let replayed = replayed.expect("it is read").unwrap_or_else(|difference| panic!("{difference}"));
    assert!(replayed.same >= 100_000, "{replayed:?}");
    assert_eq!((replayed.same, replayed.unknown), (incident.steps() as u64, 0));
    assert_eq!((replayed.lives.len(), froms), (3, 3));
    assert!(replayed.states > 50 && outputs > 50_000, "{replayed:?}, {outputs} outputs, {turns} turns");
    // Its outputs were taken after the last step.
    let end = incident.spans.last().expect("there are some");
    assert!(end.torn.is_none());
    assert_ne!(last, 0);
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// A recorder that tells another time, drain, outcome or no command at all is found out, with the step and the part.
#[test]
fn a_recorder_with_a_bug_is_caught() {
    for planted in [Planted::LateTime, Planted::DrainUntold, Planted::OutcomeForgotten, Planted::CommandsForgotten] {
        let (folder, incident) = recorded("planted", 30_000, Some(planted));
        let difference = compare(&incident).err().unwrap_or_else(|| panic!("{planted:?} is not seen"));
        let told = difference.to_string();
        assert!(difference.place.step > 0 && !difference.parts.is_empty(), "{planted:?}: {told}");
        // What was left in the queue is gone at the next whole state.
        let lasts = planted != Planted::DrainUntold;
        assert_eq!(!difference.fields.is_empty(), lasts, "{planted:?}: {told}");
        let wants = match planted {
            Planted::LateTime => "time and counts",
            Planted::DrainUntold => "outputs",
            Planted::OutcomeForgotten => "done: Ok",
            Planted::CommandsForgotten => "(tick",
        };
        assert!(told.contains(wants) && told.contains("at the next whole state, ") == lasts, "{planted:?}: {told}");
        fs::remove_dir_all(&folder).expect("it is ours");
    }
    let (folder, incident) = recorded("unplanted", 6_000, None);
    compare(&incident).expect("no bug is planted");
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// A changed input, and a changed field of a state, are named.
#[test]
fn the_first_difference_is_named() {
    let (folder, incident) = recorded("named", 6_000, None);
    let mut other = incident.clone();
    let at = other.spans[1].steps.iter().position(|step| matches!(step.act, Act::Input(Input::Packet { .. })));
    let at = at.expect("packets came");
    if let Act::Input(Input::Packet { datagram, .. }) = &mut other.spans[1].steps[at].act {
        *datagram.last_mut().expect("it has bytes") ^= 1;
    }
    let difference = compare(&other).expect_err("a packet is another one");
    assert_eq!(difference.place.step, other.spans[1].start.before + at as u64 + 1);
    assert!(difference.place.input.starts_with("packet `"), "{difference}");
    assert!(difference.parts.contains(&"time and counts"), "{difference}");
    assert!(difference.fields.iter().any(|field| field.path == "counters.damaged"), "{difference}");
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// A saved engine is the engine: it goes on alike, and is saved alike.
#[test]
fn a_state_is_saved_whole() {
    let mut net = Net::new(3, None);
    for turn in 0..20_000 {
        net.turn();
        if turn % 500 == 0 {
            for node in &net.nodes {
                let bytes = super::file::encode(&node.engine);
                let mut again: Engine = super::file::decode(&bytes).expect("it is read");
                assert_eq!(again.marks(), node.engine.marks());
                assert_eq!(super::file::encode(&again), bytes);
                let mut own = node.engine.clone();
                own.handle(net.now + Micros(700_000), Input::Tick);
                again.handle(net.now + Micros(700_000), Input::Tick);
                assert_eq!(again.marks(), own.marks());
                assert_eq!(
                    std::iter::from_fn(|| again.poll_output()).collect::<Vec<_>>(),
                    std::iter::from_fn(|| own.poll_output()).collect::<Vec<_>>()
                );
            }
        }
    }
}

/// Wherever a crash cuts the newest segment, what is whole is replayed, and the cut is said. Damage before that is refused.
#[test]
fn a_torn_end_is_cut_and_damage_is_refused() {
    let (folder, whole) = recorded("torn", 1_500, None);
    let (newest, _) = *super::ring::segments(&folder).expect("a folder").last().expect("segments");
    let path = folder.join(super::ring::name(newest));
    let bytes = fs::read(&path).expect("it is there");
    let steps = whole.steps();
    let mut torn = 0;
    for length in (0..bytes.len()).step_by(61).chain(bytes.len() - 200..bytes.len()) {
        fs::write(&path, &bytes[..length]).expect("it is ours");
        let incident = read(&folder);
        let span = incident.spans.iter().find(|span| span.start.segment == newest);
        torn += usize::from(span.is_some_and(|span| span.torn.is_some()));
        assert!(incident.steps() <= steps);
        let replayed = compare(&incident).unwrap_or_else(|difference| panic!("{length}: {difference}"));
        assert_eq!(replayed.same + replayed.unknown, incident.steps() as u64, "{length}");
    }
    assert!(torn > 100, "{torn}");
    // A bit in the middle.
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 300] ^= 4;
    fs::write(&path, &damaged).expect("it is ours");
    let (file, error) = export(&folder, None).expect_err("it is damaged");
    assert!(
        file.ends_with(&super::ring::name(newest)) && matches!(error, ReadError::Damaged { .. }),
        "{file}: {error}"
    );
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// An exported file is refused, with what to do, unless it is all there.
#[test]
fn a_bad_file_is_refused_with_a_reason() {
    let (folder, _) = recorded("bad", 1_500, None);
    let bytes = export(&folder, None).unwrap_or_else(|(file, error)| panic!("{file}: {error}"));
    for length in (0..bytes.len()).step_by(97).chain(bytes.len() - 40..bytes.len()) {
        let error = Incident::read(&bytes[..length]).expect_err("it is cut").to_string();
        assert!(error.starts_with(&format!("it ends early, at byte {length}")), "{length}: {error}");
    }
    for bit in (HEADER * 8..bytes.len() * 8).step_by(811) {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = Incident::read(&damaged).expect_err("it is damaged").to_string();
        assert!(error.contains("damaged at byte") || error.contains("ends early"), "{bit}: {error}");
    }
    let mut later = bytes.clone();
    later[8] = 9;
    let error = Incident::read(&later).expect_err("it is of later").to_string();
    assert!(error.contains("version 9") && error.contains("reads version 1"), "{error}");
    for other in [&b"{\"apus\": 1}"[..], b"", b"APUSREC1\x01", b"ELF"] {
        assert!(matches!(Incident::read(other), Err(ReadError::Another | ReadError::Short { .. })));
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(&bytes[bytes.len() - FRAME - 2..]);
    assert!(Incident::read(&longer).is_err());
    let mut of_another = Incident::read(&bytes).expect("it is whole");
    of_another.spans[0].start.build = "0.0.9+0".into();
    let error = of_another.check_build().expect_err("another build").to_string();
    assert!(error.contains("engine 0.0.9+0") && error.contains("of that node"), "{error}");
    let (_, error) = export(&folder.join("nothing"), None).expect_err("there is nothing");
    assert!(error.to_string().starts_with("nothing is recorded there"), "{error}");
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// The ring keeps to its size, and what it still holds is enough.
#[test]
fn the_ring_is_bounded_and_needs_no_beginning() {
    let folder = folder("bounded");
    let settings = Settings { bytes: 512 << 10, segment: 64 << 10, queue: 64 << 20, gather: Duration::ZERO };
    let mut net = Net::new(8, Some((&folder, settings)));
    let mut most = 0;
    for turn in 0..40_000 {
        net.turn();
        if turn % 1_000 == 0 {
            net.settle();
            most = most.max(super::ring::segments(&folder).expect("a folder").iter().map(|(_, length)| length).sum());
        }
    }
    drop(net);
    assert!((300 << 10..640 << 10).contains(&most), "{most}");
    let incident = read(&folder);
    assert!(incident.spans[0].start.before > 1_000 && incident.spans[0].start.reason == Reason::Full);
    let replayed = compare(&incident).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(replayed.same, incident.steps() as u64);
    // The newest part alone.
    let last = export(&folder, Some(100_000)).unwrap_or_else(|(file, error)| panic!("{file}: {error}"));
    let last = Incident::read(&last).expect("it is whole");
    assert!(last.steps() < incident.steps() && last.steps() > 0);
    compare(&last).unwrap_or_else(|difference| panic!("{difference}"));
    fs::remove_dir_all(&folder).expect("it is ours");
}

/// A disk that takes nothing for a while leaves a gap, which is said; the node goes on, and so does the record.
#[test]
fn a_disk_that_fails_leaves_a_gap() {
    let folder = folder("gap");
    let mut net = Net::new(4, Some((&folder, SMALL)));
    for _ in 0..2_000 {
        net.turn();
    }
    net.settle();
    // A folder in the place of the next segment: it cannot be made.
    let (newest, _) = *super::ring::segments(&folder).expect("a folder").last().expect("segments");
    let mut blocked = Vec::new();
    for number in newest + 1..newest + 40 {
        let place = folder.join(super::ring::name(number));
        if fs::create_dir(&place).is_ok() {
            blocked.push(place);
        }
    }
    let mut missed = 0;
    while missed < 200 {
        net.turn();
        missed = missed.max(net.recorder.as_ref().map_or(0, Recorder::missing));
    }
    for place in blocked {
        let _ = fs::remove_dir(place);
    }
    let mut turns = 0;
    while net.recorder.as_ref().is_some_and(|recorder| recorder.missing() > 0) || turns < 4_000 {
        net.turn();
        turns += 1;
    }
    drop(net);
    let incident = read(&folder);
    let gaps: Vec<u64> = (0..incident.spans.len()).filter_map(|at| incident.missing(at)).filter(|n| *n > 0).collect();
    assert!(gaps.iter().sum::<u64>() >= missed, "{gaps:?} {missed}");
    assert!(incident.spans.iter().any(|span| span.start.reason == Reason::Gap));
    compare(&incident).unwrap_or_else(|difference| panic!("{difference}"));
    fs::remove_dir_all(&folder).expect("it is ours");
}
