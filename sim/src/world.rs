//! What all worlds have in common.

use std::sync::Arc;
use std::time::Instant;

use crate::fates::Fates;
use crate::fault::Ns;
use crate::report::Run;
use crate::scenario::{Plan, Scenario};

/// How to run a plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep every line of the trace, packets too.
    pub keep_trace: bool,
    /// Stop here.
    pub until: Option<Ns>,
    /// Do not stop at the first time of two holders: go on, and measure how long there were two.
    pub measure_overlap: bool,
    /// End the run as a `timeout` once this instant of the wall clock has passed. Looked at every few thousand steps.
    pub deadline: Option<Instant>,
    /// What becomes of packets; those it does not know are left to the faults and to chance.
    pub fates: Option<Arc<Fates>>,
}

/// The checker's name of a run that was ended by its wall-clock deadline.
pub const TIMEOUT: &str = "timeout";

/// A place in which engines run.
pub trait World {
    /// Its name in scenario files.
    fn name(&self) -> &'static str;
    /// Why it cannot run a scenario, if so.
    fn refuses(&self, _scenario: &Scenario) -> Option<String> {
        None
    }
    /// Runs one plan.
    fn run(&self, plan: &Plan, options: &Options) -> Run;
}

/// Every world of this build.
pub const WORLDS: [&(dyn World + Sync); 3] = [&crate::heap::Heap, &crate::turmoil::Turmoil, &crate::emulated::Emulated];

/// The world of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static (dyn World + Sync)> {
    WORLDS.into_iter().find(|world| world.name() == name)
}
