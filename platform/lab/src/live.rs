//! The world of real daemons.

use apus_sim::report::{Run, Violation};
use apus_sim::scenario::{Plan, Scenario};
use apus_sim::world::{Options, World};

use crate::carried::not_live;

/// The live world: a lab for each run, at the pace of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live;

/// The one there is.
pub static LIVE: &(dyn World + Sync) = &Live;

/// The checker's name of a run whose lab could not be made or went wrong.
const LAB: &str = "lab";

/// Why nothing runs live on this machine, if so: what is missing, and how to mend it.
#[must_use]
pub fn missing() -> Option<String> {
    #[cfg(target_os = "linux")]
    return crate::linux::missing();
    #[cfg(not(target_os = "linux"))]
    return Some("the live world is made of namespaces of Linux: run it there".into());
}

/// Why this scenario does not run live on a machine on which others do, if so.
#[must_use]
pub fn missing_for(scenario: &Scenario) -> Option<String> {
    #[cfg(target_os = "linux")]
    return crate::linux::missing_for(scenario);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = scenario;
        missing()
    }
}

impl World for Live {
    fn name(&self) -> &'static str {
        "live"
    }

    fn refuses(&self, scenario: &Scenario) -> Option<String> {
        not_live(scenario).into_iter().next().map(|reason| reason.what)
    }

    fn run(&self, plan: &Plan, options: &Options) -> Run {
        let broken = |what| Run::without(plan, Violation { checker: LAB, liveness: true, at: 0, what });
        if let Some(what) = self.refuses(&plan.scenario) {
            return broken(what);
        }
        #[cfg(target_os = "linux")]
        return crate::linux::run(plan, options).unwrap_or_else(broken);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = options;
            broken(missing().unwrap_or_default())
        }
    }
}
