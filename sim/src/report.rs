//! What a run amounts to.

use std::collections::BTreeMap;

use crate::fault::{Fault, Ns};
use crate::scenario::Plan;
use crate::trace::Line;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker's name; with the scenario this is the failure's signature.
    pub checker: &'static str,
    /// Safety, or liveness.
    pub liveness: bool,
    /// When it was seen.
    pub at: Ns,
    /// What was seen, for people.
    pub what: String,
}

/// The result of one seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The first violation, if any.
    pub violation: Option<Violation>,
    /// The faults with resolved targets.
    pub faults: Vec<Fault>,
    /// How often each of them had an effect, in the same order.
    pub effects: Vec<u64>,
    /// Goals that were reached.
    pub goals: Vec<&'static str>,
    /// Measured times against bounds: name to worst value of this seed.
    pub measures: BTreeMap<&'static str, Ns>,
    /// The trace hash.
    pub hash: u128,
    /// Engine inputs.
    pub events: u64,
    /// Simulated time.
    pub simulated: Ns,
    /// The trace, if it was asked for.
    pub trace: Vec<Line>,
}

impl Run {
    /// A run that ended without telling anything but why.
    #[must_use]
    pub fn without(plan: &Plan, violation: Violation) -> Self {
        Self {
            seed: plan.seed,
            violation: Some(violation),
            faults: plan.faults.clone(),
            effects: vec![0; plan.faults.len()],
            goals: Vec::new(),
            measures: BTreeMap::new(),
            hash: 0,
            events: 0,
            simulated: 0,
            trace: Vec::new(),
        }
    }
}

/// How a run, or all runs, ended; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Everything held.
    Pass = 0,
    /// A safety property did not.
    Safety = 1,
    /// A liveness property did not.
    Liveness = 2,
    /// A fault had no effect, or a goal was never reached.
    Vacuous = 3,
    /// No seed ran.
    NoSeed = 4,
    /// Two runs of one seed differed.
    NotDeterministic = 5,
}
