//! Properties that must hold, each in a file of its own, outside the engine: they see only what nodes tell and do.

mod asks_end;
mod at_rest;
mod bounded;
mod convergence;
mod diagnosis_accurate;
mod diagnosis_complete;
mod election_safety;
mod epochs_grow;
mod evidence;
mod goals;
mod grant_eligible;
mod joint_consensus;
mod leader_kept;
mod lives;
mod log_matching;
pub mod names;
mod program_bounds;
mod programs;
mod slots_apart;
mod state_machine_safety;
mod truth;

pub use bounded::work_bound;

use std::collections::BTreeMap;

use apus_engine::consensus::Consensus;
use apus_engine::{Availability, Copy, Engine, NodeId, ResourceId};

use crate::fault::Ns;
use crate::report::Violation;
use crate::scenario::Plan;
use crate::trace::Line;

/// What a checker may look at, once a second and at the end.
pub trait Look {
    /// True time.
    fn now(&self) -> Ns;
    /// What is run.
    fn plan(&self) -> &Plan;
    /// How many machines there are.
    fn nodes(&self) -> usize;
    /// The engine of a node whose process runs.
    fn engine(&self, node: NodeId) -> Option<&Engine>;
    /// Whether the machine never comes back.
    fn lost(&self, node: NodeId) -> bool;
    /// Who may act for a resource now, by the kernels' guards.
    fn holders(&self, resource: ResourceId) -> Vec<NodeId>;
    /// Where the active copy runs.
    fn active_copies(&self, copy: Copy) -> Vec<NodeId>;
}

/// All nodes, whether their processes run or not.
fn nodes(look: &dyn Look) -> impl Iterator<Item = NodeId> {
    (0..u16::try_from(look.nodes()).unwrap_or(u16::MAX)).map(NodeId)
}

/// The logs of those whose engines run.
fn logs(look: &dyn Look) -> impl Iterator<Item = (NodeId, &Consensus)> {
    nodes(look).filter_map(|node| Some((node, look.engine(node)?.look()?.1)))
}

/// A checker can be copied with the run that it watches.
pub trait Copied {
    /// The copy.
    fn copied(&self) -> Box<dyn Checker>;
}

impl<C: Checker + Clone + 'static> Copied for C {
    fn copied(&self) -> Box<dyn Checker> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Checker> {
    fn clone(&self) -> Self {
        (**self).copied()
    }
}

/// One property.
pub trait Checker: Copied {
    /// Its name, as in [`names`].
    fn name(&self) -> &'static str;
    /// Whether it is about liveness.
    fn liveness(&self) -> bool {
        false
    }
    /// Looks at one line (never one about a single packet). An error is what was seen, for people.
    fn see(&mut self, _line: &Line) -> Result<(), String> {
        Ok(())
    }
    /// Looks once a second; `sent` packets by node in that second.
    fn second(&mut self, _now: Ns, _sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        Ok(())
    }
    /// Looks when the run is over.
    fn end(&mut self, _look: &dyn Look) -> Result<(), String> {
        Ok(())
    }
    /// Worst times seen, by name.
    fn measures(&self, _into: &mut BTreeMap<&'static str, Ns>) {}
    /// Goals reached.
    fn goals(&self, _into: &mut Vec<&'static str>) {}
}

/// What the checkers measured.
#[derive(Debug, Default)]
pub struct Measures {
    /// Worst times by name.
    pub map: BTreeMap<&'static str, Ns>,
    /// Goals.
    pub goals: Vec<&'static str>,
}

/// All checkers of a run.
#[derive(Clone)]
pub struct Checkers {
    all: Vec<Box<dyn Checker>>,
}

impl Checkers {
    /// Those that apply to a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let except = &plan.scenario.expect.except;
        let all = all(plan).into_iter().filter(|checker| !except.contains_key(checker.name())).collect();
        Self { all }
    }

    /// Of those that apply to a plan the ones of these names: for a world that cannot show what the others look at.
    #[must_use]
    pub fn only(plan: &Plan, names: &[&str]) -> Self {
        let mut checkers = Self::new(plan);
        checkers.all.retain(|checker| names.contains(&checker.name()));
        checkers
    }

    fn each(&mut self, at: Ns, mut call: impl FnMut(&mut dyn Checker) -> Result<(), String>) -> Option<Violation> {
        let mut first = None;
        for checker in &mut self.all {
            if let Err(what) = call(checker.as_mut()) {
                let (name, liveness) = (checker.name(), checker.liveness());
                first = first.or(Some(Violation { checker: name, liveness, at, what }));
            }
        }
        first
    }

    /// Looks at one line.
    pub fn see(&mut self, line: &Line) -> Option<Violation> {
        self.each(line.at, |checker| checker.see(line))
    }
    /// Looks once a second.
    pub fn second(&mut self, now: Ns, sent: &[u64], look: &dyn Look) -> Option<Violation> {
        self.each(now, |checker| checker.second(now, sent, look))
    }
    /// Looks at the end.
    pub fn end(&mut self, now: Ns, look: &dyn Look) -> Option<Violation> {
        self.each(now, |checker| checker.end(look))
    }
    /// What was measured, and goals.
    #[must_use]
    pub fn measures(&self) -> Measures {
        let mut measures = Measures::default();
        for checker in &self.all {
            checker.measures(&mut measures.map);
            checker.goals(&mut measures.goals);
        }
        measures
    }
}

/// Every checker, in the order in which they are asked.
fn all(plan: &Plan) -> Vec<Box<dyn Checker>> {
    let safe = plan.scenario.cluster.availability != Some(Availability::Prefer);
    let mut all: Vec<Box<dyn Checker>> = vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(election_safety::VotesOnce::default()),
        Box::new(state_machine_safety::StateMachineSafety::default()),
        Box::new(log_matching::LogMatching),
        Box::new(log_matching::LeaderCompleteness::default()),
        Box::new(joint_consensus::JointConsensus::default()),
        Box::new(leader_kept::LeaderKept::new(plan)),
        Box::new(diagnosis_accurate::DiagnosisAccurate { truth: truth::Truth::new(plan) }),
        Box::new(diagnosis_accurate::NoResurrection::default()),
        Box::new(diagnosis_complete::DiagnosisComplete),
        Box::new(diagnosis_complete::DiagnosisBound::new(plan, false)),
        Box::new(diagnosis_complete::DiagnosisBound::new(plan, true)),
        Box::new(lives::OldLifeRefused::new(plan)),
        Box::new(lives::ClustersApart::default()),
        Box::new(lives::PausedAccusesNobody::new(plan)),
        Box::new(asks_end::AsksEnd::default()),
        Box::new(slots_apart::SlotsApart),
        Box::new(grant_eligible::GrantEligible::new(plan)),
        Box::new(programs::RestartAfterExit::default()),
        Box::new(programs::OutliveDaemon::default()),
        Box::new(programs::BackoffKept::new(plan)),
        Box::new(programs::EscalationKept::new(plan)),
        Box::new(programs::DependencyOrder::new(plan)),
        Box::new(programs::GuardObeyed::new(plan)),
        Box::new(programs::CauseTrue::default()),
        Box::new(program_bounds::HangFound::new(plan)),
        Box::new(program_bounds::GraceKept::new(plan)),
        Box::new(program_bounds::DegreeHeld::new(plan)),
        Box::new(convergence::Converges::new(plan)),
        Box::new(convergence::TakeoverBound::new(plan)),
        Box::new(convergence::DrainedEmpty::default()),
        Box::new(evidence::EvidenceComplete::new(plan)),
        Box::new(bounded::BoundedMemory),
        Box::new(bounded::BoundedRate::new(plan)),
        Box::new(bounded::CleanWire::new(plan)),
        Box::new(at_rest::CheapAtRest::new(plan)),
        Box::new(at_rest::LeaseKept::new(plan)),
        Box::new(goals::Goals::new(plan)),
    ];
    if safe {
        // Under the 1998 rule there are no epochs.
        all.push(Box::new(epochs_grow::EpochsGrow::default()));
    }
    all
}
