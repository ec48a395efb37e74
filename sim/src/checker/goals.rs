//! Which goals a run reached; goals are no properties, they show that a scenario is not vacuous.

use std::collections::BTreeSet;

use apus_engine::{EngineFact, Fact, NodeId, ResourceId, consensus, diagnosis, shipping, supervision, views};

use super::Checker;
use crate::scenario::{Plan, Workload};
use crate::trace::{Line, What};

#[derive(Clone, Default)]
pub(super) struct Goals {
    reached: BTreeSet<&'static str>,
    holder: Option<NodeId>,
    leader: Option<NodeId>,
    blank: bool,
    load: bool,
    boots: BTreeSet<NodeId>,
    drained: bool,
    versions: BTreeSet<u8>,
}

impl Goals {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { load: plan.scenario.workload != Workload::None, ..Self::default() }
    }

    fn reach(&mut self, goal: &'static str) {
        self.reached.insert(goal);
    }

    fn event(&mut self, node: NodeId, fact: &Fact) {
        match fact {
            Fact::Engine(EngineFact::Stalled { .. }) => self.reach("stalled"),
            Fact::Diagnosis(diagnosis::Fact::Cleared { .. }) => self.reach("suspected-and-cleared"),
            Fact::Consensus(consensus::Fact::Elected { .. })
                if self.leader.replace(node).is_some_and(|old| old != node) =>
            {
                self.reach("leader-changed");
            }
            Fact::Consensus(consensus::Fact::SteppedDown { no_quorum: true, .. }) => self.reach("no-quorum-pause"),
            Fact::Consensus(consensus::Fact::Installed { .. }) => self.reach("snapshot-installed"),
            Fact::Consensus(consensus::Fact::Blank { .. }) => self.blank = true,
            Fact::Consensus(consensus::Fact::Members { joint: false, index, .. }) if index.0 > 0 => {
                self.reach("membership-changed");
                if self.blank {
                    self.reach("readmitted");
                }
            }
            Fact::Views(views::Fact::Granted { .. }) => {
                self.reach("view-changed");
                if self.load {
                    self.reach("view-changed-under-load");
                }
            }
            Fact::Views(views::Fact::Refused { .. }) => self.reach("refused-old-epoch"),
            Fact::Supervision(supervision::Fact::BackingOff { .. }) => self.reach("program-restarted"),
            Fact::Supervision(supervision::Fact::Promoted { .. }) => self.reach("standby-promoted"),
            Fact::Supervision(supervision::Fact::Escalated { rung, .. }) => match rung {
                supervision::Rung::FailOver => self.reach("failed-over"),
                supervision::Rung::Reboot => self.reach("escalated-to-reboot"),
                supervision::Rung::Restart => {}
            },
            Fact::Supervision(supervision::Fact::Failed { cause: supervision::FailureCause::Hang(_), .. }) => {
                self.reach("hang-detected");
            }
            Fact::Shipping(fact) => self.reached.extend(files(fact)),
            _ => {}
        }
    }
}

/// The goal of replicated files that a fact shows.
const fn files(fact: &shipping::Fact) -> Option<&'static str> {
    use shipping::Fact as Files;
    Some(match fact {
        Files::Opened { .. } => "files-opened",
        Files::Synced { .. } => "files-compared",
        Files::Fetching { .. } => "files-fetched",
        Files::LetGo { .. } => "files-let-go",
        Files::Orphaned { .. } => "files-orphaned",
        Files::Refused { .. } => "files-era-refused",
        Files::TooFew { .. } => "files-too-few",
        Files::Lagging { .. } => "files-lag-told",
        Files::Troubled { .. } => "files-trouble-told",
        Files::Dropped { .. } => "files-log-cut",
        Files::Differs { .. } => "files-differ",
        Files::Missed { .. } => "files-missed",
        Files::Promised { .. }
        | Files::Closed { .. }
        | Files::Following { .. }
        | Files::CaughtUp { .. }
        | Files::NoModel { .. }
        | Files::Recovered { .. } => return None,
    })
}

impl Checker for Goals {
    fn name(&self) -> &'static str {
        "goals"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match (&line.what, line.node) {
            (What::Event(event), Some(node)) => self.event(node, &event.fact),
            (What::Boot(_), Some(node)) if !self.boots.insert(node) => {
                self.reach("node-restarted");
            }
            (What::Armed { resource: ResourceId(0), .. }, Some(node))
                if self.holder.replace(node).is_some_and(|old| old != node) =>
            {
                self.reach("holder-changed");
                self.reach("takeover");
            }
            (What::FaultStop { kind, effects, .. }, _) if *effects > 0 => match kind {
                crate::fault::Kind::Drain => {
                    self.drained = true;
                    self.reach("drained");
                }
                crate::fault::Kind::Upgrade => {
                    self.versions.insert(1);
                    self.reach("version-mixed");
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
    fn goals(&self, into: &mut Vec<&'static str>) {
        into.extend(&self.reached);
    }
}
