//! A resource is granted to a node that may own it: no arbiter, none that the leader holds for dead, none that is drained.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{Epoch, Fact, NodeId, ResourceId, diagnosis, views};

use super::{Checker, Look, logs};
use crate::fault::{Kind, Ns};
use crate::scenario::Plan;
use crate::trace::{Line, What};

#[derive(Clone)]
pub(super) struct GrantEligible {
    arbiters: BTreeSet<NodeId>,
    /// Whom each node holds for dead, and since when.
    down: BTreeMap<(NodeId, NodeId), Ns>,
    /// Drained at the last look, and granted something since.
    drained: BTreeSet<NodeId>,
    granted: BTreeSet<NodeId>,
    /// Whose drain was ended, and whether it was asked for again since: the log may still have to follow.
    lifted: BTreeMap<NodeId, bool>,
    /// Whom each running drain is about.
    drains: BTreeMap<u16, Vec<NodeId>>,
    newest: BTreeMap<ResourceId, Epoch>,
}

impl GrantEligible {
    pub(super) fn new(plan: &Plan) -> Self {
        let voters = plan.scenario.voters;
        let arbiters = (voters - plan.scenario.arbiters.min(voters)..voters).map(NodeId).collect();
        Self {
            arbiters,
            down: BTreeMap::new(),
            drained: BTreeSet::new(),
            granted: BTreeSet::new(),
            lifted: BTreeMap::new(),
            drains: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }
}

/// Whom the leader of the newest term knows as drained.
fn drained(look: &dyn Look) -> BTreeSet<NodeId> {
    let leader = logs(look).filter(|(_, log)| log.leads().is_some()).max_by_key(|(_, log)| log.term());
    leader.map(|(_, log)| log.state().drained.clone()).unwrap_or_default()
}

impl Checker for GrantEligible {
    fn name(&self) -> &'static str {
        "grant-eligible"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match &line.what {
            What::FaultStart { fault, kind: Kind::Drain, nodes } => {
                for node in nodes {
                    self.lifted.entry(*node).and_modify(|again| *again = true);
                }
                self.drains.insert(*fault, nodes.clone());
            }
            What::FaultStop { fault, kind: Kind::Drain, .. } => {
                let nodes = self.drains.remove(fault).unwrap_or_default();
                self.lifted.extend(nodes.into_iter().map(|node| (node, false)));
            }
            _ => {}
        }
        let Some(by) = line.node else { return Ok(()) };
        let event = match &line.what {
            What::Boot(_) => {
                self.down.retain(|(observer, _), _| *observer != by);
                return Ok(());
            }
            What::Event(event) => event,
            _ => return Ok(()),
        };
        match event.fact {
            Fact::Diagnosis(diagnosis::Fact::Down { node, .. }) => {
                self.down.insert((by, node), line.at);
            }
            Fact::Diagnosis(diagnosis::Fact::Up { node, .. } | diagnosis::Fact::Cleared { node, .. }) => {
                self.down.remove(&(by, node));
            }
            Fact::Views(views::Fact::Proposed { resource, holder, .. }) => {
                if self.arbiters.contains(&holder) {
                    return Err(format!("{by} grants {resource} to {holder}, which is an arbiter"));
                }
                // What was found out in this very step is acted on at its end.
                if self.down.get(&(by, holder)).is_some_and(|since| *since < line.at) {
                    return Err(format!("{by} grants {resource} to {holder}, which it holds for dead"));
                }
            }
            Fact::Views(views::Fact::Granted { resource, epoch, holder }) => {
                // A restarted node applies the old ones again.
                let newest = self.newest.entry(resource).or_default();
                if epoch > *newest {
                    *newest = epoch;
                    self.granted.insert(holder);
                }
            }
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        let now = drained(look);
        let granted = std::mem::take(&mut self.granted);
        let all_along =
            |node: &NodeId| self.drained.contains(node) && now.contains(node) && !self.lifted.contains_key(node);
        let wrong = granted.into_iter().find(all_along);
        self.lifted.retain(|node, again| now.contains(node) && !*again);
        self.drained = now;
        wrong.map_or(Ok(()), |node| Err(format!("{node} is drained and was granted something")))
    }
}
