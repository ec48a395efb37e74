//! What a replayed incident looks like: its steps and outputs as the trace of a run, so that every picture of a run is one of it.

use std::collections::{BTreeMap, VecDeque};

use apus_engine::hash::Hash128;
use apus_engine::wire::peek_kind;
use apus_engine::{GuardOrder, Input, NodeId, Output, ProcessInput};
use apus_host::record::{Act, Difference, Incident, ReadError, Turn, replay};

use crate::fault::Ns;
use crate::report::Run;
use crate::scenario::{Plan, Scenario};
use crate::trace::{Line, What};

/// What one node's record told, and what the records of several nodes amount to.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The cluster, as far as it is known.
    pub plan: Plan,
    /// What happened.
    pub run: Run,
    /// When it began, in microseconds since 1970 began, by the wall clock of the node that was recorded first.
    pub began: u64,
}

/// A packet on its way: who sent it to whom, and its bytes' hash.
type Parcel = (NodeId, NodeId, u64, usize);

fn parcel(from: NodeId, to: NodeId, datagram: &[u8]) -> Parcel {
    (from, to, apus_engine::hash::hash_bytes(7, datagram), datagram.len())
}

/// Replays the incidents of one or several nodes, and draws them together. Their times are put on one axis by the wall clocks that
/// were read where each record begins: two machines' differ by what their clocks do.
///
/// # Errors
/// The first difference between a record and its replay; [`ReadError`] if a record cannot be read.
pub fn picture(incidents: &[Incident]) -> Result<Result<Picture, Box<Difference>>, ReadError> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut steps, mut hash) = (0, Hash128::new(0));
    let (mut nodes, mut voters, mut arbiters, mut members) = (1, 0, 0, 0);
    for incident in incidents {
        let mut node = NodeId(0);
        // What is added to the node's clock, in microseconds, to get the wall clock.
        let mut wall = 0_i128;
        // Packets that were recorded as sent and received get one number below.
        let replayed = replay(incident, |turn| {
            let mut put = |now: apus_engine::Time, node: NodeId, wall: i128, what: What| {
                let at = Ns::try_from(i128::from(now.0) + wall).unwrap_or(0);
                lines.push(Line { at, node: Some(node), what });
            };
            match turn {
                Turn::From { start, engine } => {
                    node = start.node;
                    wall = i128::from(start.wall) - i128::from(start.now.0);
                    let first = &engine.config().bootstrap;
                    let most = first.members().last().map_or(0, |node| node.0);
                    nodes = nodes.max(node.0 + 1).max(most + 1);
                    (voters, arbiters) = (first.voters.len(), first.arbiters.len());
                    members = first.members().len();
                    put(start.now, node, wall, What::Boot(start.incarnation));
                }
                Turn::Step(step) => match &step.act {
                    Act::Input(Input::Packet { from, datagram }) => {
                        let kind = peek_kind(datagram).unwrap_or(0);
                        let what = What::Received { from: *from, id: 0, kind, datagram: datagram.clone() };
                        put(step.now, node, wall, what);
                    }
                    Act::Input(Input::Process { copy, what: ProcessInput::Exited(cause) }) => {
                        put(step.now, node, wall, What::Gone { copy: *copy, cause: Some(*cause) });
                    }
                    _ => {}
                },
                Turn::Output(now, output) => match output {
                    Output::Send { to, datagram, .. } => {
                        let kind = peek_kind(&datagram).unwrap_or(0);
                        put(now, node, wall, What::Sent { to, id: 0, kind, datagram });
                    }
                    Output::Guard(GuardOrder::Arm { resource, epoch, until }) => {
                        let until = Ns::try_from(i128::from(until.0) + wall).unwrap_or(Ns::MAX);
                        put(now, node, wall, What::Armed { resource, epoch, until });
                    }
                    Output::Guard(GuardOrder::Disarm { resource, epoch, .. }) => {
                        put(now, node, wall, What::Disarmed { resource, epoch });
                    }
                    Output::Process { copy, order, .. } => put(now, node, wall, What::Program { copy, order }),
                    Output::Event(event) => put(now, node, wall, What::Event(event)),
                    Output::Persist { .. } | Output::Files(_) | Output::Reboot { .. } => {}
                },
                Turn::Until(now) => put(now, node, wall, What::Halt),
            }
        })?;
        match replayed {
            Ok(replayed) => {
                steps += replayed.same + replayed.unknown;
                hash.bytes(&replayed.hash.to_le_bytes());
            }
            Err(difference) => return Ok(Err(difference)),
        }
        // Where the record ends, the node does not.
        lines.pop_if(|line| line.what == What::Halt);
    }
    lines.sort_by_key(|line| line.at);
    let began = lines.first().map_or(0, |line| line.at);
    let trace = number(lines, began);
    let mut scenario = Scenario::parse("incident.toml", MINIMAL).expect("it is a scenario");
    scenario.nodes = nodes;
    scenario.voters = u16::try_from(voters).unwrap_or(nodes);
    scenario.arbiters = u16::try_from(arbiters).unwrap_or(0);
    scenario.members = u16::try_from(members).unwrap_or(nodes).min(nodes);
    let mut plan = Plan::draw(&scenario, 0);
    plan.faults.clear();
    let simulated = trace.last().map_or(0, |line| line.at);
    plan.scenario.duration = simulated;
    let run = Run {
        seed: 0,
        violation: None,
        faults: Vec::new(),
        effects: Vec::new(),
        goals: Vec::new(),
        measures: BTreeMap::new(),
        hash: hash.finish128(),
        events: steps,
        simulated,
        trace,
    };
    Ok(Ok(Picture { plan, run, began }))
}

const MINIMAL: &str = "name = \"incident\"\nabout = \"Recorded by a live node.\"\nnodes = 3\nduration = \"1s\"\n";

/// Microseconds become nanoseconds since the beginning; packets get their numbers. What was received and not seen to be sent was sent
/// by a node without a record: it is shown as sent when it came.
fn number(lines: Vec<Line>, began: Ns) -> Vec<Line> {
    let at = |micros: Ns| micros.saturating_sub(began).saturating_mul(1_000);
    let mut open: BTreeMap<Parcel, VecDeque<u64>> = BTreeMap::new();
    let mut next = 0;
    let mut out = Vec::with_capacity(lines.len());
    for line in lines {
        let (time, node) = (at(line.at), line.node.unwrap_or_default());
        let what = match line.what {
            What::Sent { to, kind, datagram, .. } => {
                next += 1;
                open.entry(parcel(node, to, &datagram)).or_default().push_back(next);
                What::Sent { to, id: next, kind, datagram }
            }
            What::Received { from, kind, datagram, .. } => {
                let sent = open.get_mut(&parcel(from, node, &datagram)).and_then(VecDeque::pop_front);
                let id = sent.unwrap_or_else(|| {
                    next += 1;
                    let what = What::Sent { to: node, id: next, kind, datagram: datagram.clone() };
                    out.push(Line { at: time, node: Some(from), what });
                    next
                });
                What::Received { from, id, kind, datagram }
            }
            What::Armed { resource, epoch, until } => What::Armed { resource, epoch, until: at(until) },
            other => other,
        };
        out.push(Line { at: time, node: line.node, what });
    }
    out
}
