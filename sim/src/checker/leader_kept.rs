//! A leader that a quorum hears is not deposed by a node that does not hear it (Raft thesis §4.2.3, §9.6).

use std::collections::BTreeMap;

use apus_engine::{Fact, NodeId, consensus};

use super::Checker;
use super::truth::is_light;
use crate::fault::{Kind, MS, Ns, S};
use crate::scenario::Plan;
use crate::trace::{Line, What};

/// How long a node is excused after a fault at it.
const ECHO: Ns = 2 * S;
/// An election may still be under way when a leader is this young.
const YOUNG: Ns = 500 * MS;

#[derive(Clone)]
pub(super) struct LeaderKept {
    /// Only faults at single nodes, and those that a healthy network has every day.
    applies: bool,
    voters: Vec<NodeId>,
    light: Vec<bool>,
    leaders: BTreeMap<NodeId, Ns>,
    /// The nodes of each fault that goes on: a node can be in several at once.
    open: BTreeMap<u16, Vec<NodeId>>,
    /// Until when a fault that ended, or a boot, is felt.
    touched: BTreeMap<NodeId, Ns>,
}

const fn is_at_nodes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Partition
            | Kind::OneWay
            | Kind::OneWayIn
            | Kind::Flap
            | Kind::NicDown
            | Kind::Crash
            | Kind::PowerOff
            | Kind::GracefulStop
            | Kind::Freeze
            | Kind::Suspend
    )
}

impl LeaderKept {
    pub(super) fn new(plan: &Plan) -> Self {
        let light: Vec<bool> =
            plan.faults.iter().map(|fault| is_light(fault.kind, fault.rate_ppm, fault.size)).collect();
        let applies = plan.faults.iter().zip(&light).all(|(fault, light)| *light || is_at_nodes(fault.kind));
        let voters = (0..plan.scenario.voters).map(NodeId).collect();
        Self { applies, voters, light, leaders: BTreeMap::new(), open: BTreeMap::new(), touched: BTreeMap::new() }
    }

    fn is_well(&self, node: NodeId, now: Ns) -> bool {
        self.touched.get(&node).is_none_or(|until| *until <= now)
            && !self.open.values().any(|nodes| nodes.contains(&node))
    }
}

impl Checker for LeaderKept {
    fn name(&self) -> &'static str {
        "leader-kept"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if !self.applies {
            return Ok(());
        }
        match (&line.what, line.node) {
            (What::FaultStart { fault, nodes, .. }, _) if !self.light[usize::from(*fault)] => {
                self.open.insert(*fault, nodes.clone());
            }
            (What::FaultStop { fault, .. }, _) => {
                let nodes = self.open.remove(fault).unwrap_or_default();
                self.touched.extend(nodes.into_iter().map(|node| (node, line.at + ECHO)));
            }
            (What::Boot(_), Some(node)) => {
                self.touched.insert(node, line.at + ECHO);
                self.leaders.remove(&node);
            }
            (What::Event(event), Some(node)) => match event.fact {
                Fact::Consensus(consensus::Fact::Elected { .. }) => {
                    self.leaders.insert(node, line.at);
                }
                Fact::Consensus(consensus::Fact::SteppedDown { term, no_quorum }) => {
                    let since = self.leaders.remove(&node).unwrap_or(line.at);
                    let well = self.voters.iter().filter(|voter| self.is_well(**voter, line.at)).count();
                    let heard = self.is_well(node, line.at) && well * 2 > self.voters.len();
                    if !no_quorum && heard && since + YOUNG < line.at {
                        return Err(format!("{node}, which led {term} and was heard by a quorum, is deposed"));
                    }
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}
