//! What is really so, read off the trace's fault lines: who runs, and who is disturbed.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::NodeId;

use crate::fault::{Aim, Fault, Kind, MS, Ns, S};
use crate::scenario::Plan;
use crate::trace::{Line, What};

/// How long a fault is felt after its end.
const ECHO: Ns = 6 * S;

/// Who runs, and who is disturbed until when.
#[derive(Clone, Default)]
pub(super) struct Truth {
    pub(super) running: BTreeSet<NodeId>,
    pub(super) since: BTreeMap<NodeId, Ns>,
    disturbed: BTreeMap<NodeId, Ns>,
    all_disturbed: Ns,
    open: BTreeMap<u16, Vec<NodeId>>,
    all_open: BTreeSet<u16>,
    light: BTreeSet<u16>,
    pub(super) healed: Option<Ns>,
}

impl Truth {
    pub(super) fn new(plan: &Plan) -> Self {
        let light = |fault: &Fault| is_light(fault.kind, fault.rate_ppm, fault.size);
        // Among three machines a bridge is one bad link; if nothing else is wrong, indirect probes see around that.
        let alone = plan.scenario.nodes == 3 && plan.faults.iter().filter(|fault| !light(fault)).count() == 1;
        let bad_link = |fault: &Fault| alone && fault.kind == Kind::Bridge;
        let light = plan.faults.iter().enumerate().filter(|(_, fault)| light(fault) || bad_link(fault));
        Self { light: light.map(|(at, _)| at as u16).collect(), ..Self::default() }
    }

    pub(super) fn see(&mut self, line: &Line) {
        match (&line.what, line.node) {
            (What::Boot(_), Some(node)) => {
                self.running.insert(node);
                self.since.insert(node, line.at);
                self.disturbed.insert(node, line.at + ECHO);
            }
            (What::Halt, Some(node)) => {
                self.running.remove(&node);
            }
            (What::FaultStart { fault, kind, nodes }, _) if !self.light.contains(fault) => {
                let cuts = matches!(kind.spec().aim, Aim::Links | Aim::Cut | Aim::Cluster) || *kind == Kind::Swizzle;
                if cuts {
                    self.all_open.insert(*fault);
                } else {
                    self.open.insert(*fault, nodes.clone());
                }
            }
            (What::FaultStop { fault, .. }, _) => {
                if self.all_open.remove(fault) {
                    self.all_disturbed = line.at + ECHO;
                }
                for node in self.open.remove(fault).unwrap_or_default() {
                    self.disturbed.insert(node, line.at + ECHO);
                }
            }
            (What::Healed, _) => self.healed = Some(line.at),
            _ => {}
        }
    }

    /// Whether nothing that could explain a wrong verdict about it touches `node` now.
    pub(super) fn is_healthy(&self, node: NodeId, now: Ns) -> bool {
        self.running.contains(&node)
            && self.all_open.is_empty()
            && self.all_disturbed <= now
            && self.disturbed.get(&node).is_none_or(|until| *until <= now)
            && !self.open.values().any(|nodes| nodes.contains(&node))
    }
}

/// Faults that a healthy network has every day: they excuse no wrong verdict.
pub(super) const fn is_light(kind: Kind, rate_ppm: u32, size: u64) -> bool {
    match kind {
        Kind::Loss | Kind::Duplicate | Kind::Corrupt | Kind::Truncate | Kind::ReorderGap => rate_ppm <= 20_000,
        Kind::Jitter | Kind::Latency | Kind::SlowPair | Kind::Lifo => size <= 10 * MS,
        Kind::Knobs => true,
        _ => false,
    }
}
