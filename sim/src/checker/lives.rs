//! Nothing that an earlier life of a node says, or a node of another cluster, has a say here (SWIM §4.2, incarnations).

use std::collections::BTreeSet;

use apus_engine::{EngineFact, Fact, NodeId, consensus, diagnosis};

use super::truth::is_light;
use super::{Checker, Look, nodes};
use crate::fault::{Kind, Ns};
use crate::scenario::Plan;
use crate::trace::{Line, What};

/// What an old instance of a node sends is refused, and counted as such.
#[derive(Clone)]
pub(super) struct OldLifeRefused {
    /// Nothing but an old instance disturbs the run, so that counts of every life are still there at the end.
    applies: bool,
    sent: u64,
}

/// So few packets may all have come before the new life was known.
const FEW: u64 = 20;

impl OldLifeRefused {
    pub(super) fn new(plan: &Plan) -> Self {
        let quiet = |fault: &crate::fault::Fault| {
            fault.kind == Kind::Zombie || is_light(fault.kind, fault.rate_ppm, fault.size)
        };
        Self { applies: plan.faults.iter().all(quiet), sent: 0 }
    }
}

impl Checker for OldLifeRefused {
    fn name(&self) -> &'static str {
        "old-life-refused"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if let What::FaultStop { kind: Kind::Zombie, effects, .. } = line.what {
            self.sent += effects;
        }
        Ok(())
    }
    fn end(&mut self, look: &dyn Look) -> Result<(), String> {
        let engines = nodes(look).filter_map(|node| look.engine(node));
        let refused: u64 = engines.map(|engine| engine.counters().old_incarnation).sum();
        if self.applies && self.sent > FEW && refused == 0 {
            return Err(format!(
                "an old instance sent {} packets and none was refused as of an earlier life",
                self.sent
            ));
        }
        Ok(())
    }
}

/// A node that poses as one of another cluster follows nobody of this one, and nobody follows it.
#[derive(Clone, Default)]
pub(super) struct ClustersApart {
    posing: BTreeSet<NodeId>,
}

impl Checker for ClustersApart {
    fn name(&self) -> &'static str {
        "clusters-apart"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match (&line.what, line.node) {
            (What::FaultStart { kind: Kind::WrongCluster, nodes, .. }, _) => self.posing.extend(nodes),
            (What::FaultStop { kind: Kind::WrongCluster, .. }, _) => self.posing.clear(),
            (What::Event(event), Some(node)) => {
                if let Fact::Consensus(consensus::Fact::Follows { leader, .. }) = event.fact
                    && self.posing.contains(&leader) != self.posing.contains(&node)
                {
                    return Err(format!("{node} follows {leader}, which is of another cluster"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Who was paused himself accuses nobody by probes that he sent before.
#[derive(Clone)]
pub(super) struct PausedAccusesNobody {
    /// No probe that is sent after a pause can be late so soon.
    soon: Ns,
    stalled: Vec<Option<Ns>>,
}

impl PausedAccusesNobody {
    pub(super) fn new(plan: &Plan) -> Self {
        let floor = plan.configs.iter().map(|config| config.diagnosis.deadline_floor.0).min().unwrap_or(0);
        Self { soon: floor * 1_000 / 2, stalled: vec![None; plan.configs.len()] }
    }
}

impl Checker for PausedAccusesNobody {
    fn name(&self) -> &'static str {
        "paused-accuses-nobody"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let (What::Event(event), Some(me)) = (&line.what, line.node) else { return Ok(()) };
        let stalled = &mut self.stalled[usize::from(me.0)];
        match event.fact {
            Fact::Engine(EngineFact::Stalled { .. }) => *stalled = Some(line.at),
            Fact::Diagnosis(diagnosis::Fact::Suspected { node, by, .. })
                if by == me && stalled.is_some_and(|at| line.at < at + self.soon) =>
            {
                return Err(format!("{me}, which was paused itself, accuses {node}"));
            }
            _ => {}
        }
        Ok(())
    }
}
