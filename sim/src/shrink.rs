//! Smaller plans that fail in the same way: fewer faults, then fewer nodes, then less work, then less time.

use std::time::{Duration, Instant};

use crate::fault::{Fault, MS, Target};
use crate::report::{Run, Violation};
use crate::runner::{options, run_guarded};
use crate::scenario::{Plan, Scenario, Workload};
use crate::world::{Options, World};

/// The result of shrinking.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan found.
    pub plan: Plan,
    /// Its run.
    pub run: Run,
    /// Runs tried.
    pub tried: u32,
    /// No single fault can be taken away any more.
    pub minimal: bool,
}

struct Shrinker<'a> {
    world: &'a dyn World,
    signature: (&'static str, bool),
    /// It passes without its planted bug, and so must everything smaller: else another failure has been found.
    by_mutant: bool,
    deadline: Instant,
    tried: u32,
}

/// Shrinks a failing plan within a wall-clock budget. `None` if it does not fail.
#[must_use]
pub fn shrink(world: &dyn World, plan: &Plan, budget: Duration) -> Option<Shrunk> {
    let first = run_guarded(world, plan, &options(&plan.scenario));
    let violation = first.violation.as_ref()?;
    let mut shrinker = Shrinker {
        world,
        signature: (violation.checker, violation.liveness),
        by_mutant: false,
        deadline: Instant::now() + budget,
        tried: 1,
    };
    shrinker.by_mutant = plan.scenario.mutant.is_some() && !shrinker.fails_without(plan);
    let mut best = (plan.clone(), first);
    // Explicit targets, where that fails alike: an artifact should not depend on who led at the time.
    let explicit = Plan::with_faults(&plan.scenario, plan.seed, best.1.faults.clone());
    shrinker.take(&mut best, explicit);
    loop {
        let before = size(&best.0);
        shrinker.fewer_faults(&mut best);
        shrinker.fewer_nodes(&mut best);
        shrinker.less_work(&mut best);
        shrinker.less_time(&mut best);
        if size(&best.0) >= before || Instant::now() >= shrinker.deadline {
            break;
        }
    }
    let minimal = shrinker.fewer_faults(&mut best);
    let (plan, run) = best;
    Some(Shrunk { plan, run, tried: shrinker.tried, minimal })
}

/// What shrinking makes smaller.
fn size(plan: &Plan) -> (usize, u16, usize, u64) {
    let faults: u64 = plan.faults.iter().map(|fault| fault.lasts / MS + 1).sum();
    (plan.faults.len(), plan.scenario.nodes, plan.scenario.services.len(), plan.scenario.duration / MS + faults)
}

impl Shrinker<'_> {
    /// Whether a plan fails with the same signature.
    fn fails(&mut self, plan: &Plan) -> Option<Run> {
        if Instant::now() >= self.deadline {
            return None;
        }
        let run = self.run(plan);
        let same = run.violation.as_ref().is_some_and(|violation| self.is_same(violation));
        (same && !(self.by_mutant && self.fails_without(plan))).then_some(run)
    }

    fn is_same(&self, violation: &Violation) -> bool {
        (violation.checker, violation.liveness) == self.signature
    }

    fn run(&mut self, plan: &Plan) -> Run {
        self.tried += 1;
        let options = Options { deadline: Some(self.deadline), ..options(&plan.scenario) };
        run_guarded(self.world, plan, &options)
    }

    /// Whether it fails alike although nothing is planted.
    fn fails_without(&mut self, plan: &Plan) -> bool {
        let mut scenario = plan.scenario.clone();
        scenario.mutant = None;
        let run = self.run(&Plan::with_faults(&scenario, plan.seed, plan.faults.clone()));
        run.violation.as_ref().is_some_and(|violation| self.is_same(violation))
    }

    /// Takes a candidate if it fails alike.
    fn take(&mut self, best: &mut (Plan, Run), candidate: Plan) -> bool {
        match self.fails(&candidate) {
            Some(run) => {
                *best = (candidate, run);
                true
            }
            None => false,
        }
    }

    /// ddmin over the faults; true if not one more can be taken away.
    fn fewer_faults(&mut self, best: &mut (Plan, Run)) -> bool {
        let mut chunk = best.0.faults.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let mut shorter = false;
            while at < best.0.faults.len() {
                let mut faults = best.0.faults.clone();
                faults.drain(at..(at + chunk).min(faults.len()));
                let candidate = Plan::with_faults(&best.0.scenario, best.0.seed, faults);
                if self.take(best, candidate) {
                    shorter = true;
                } else {
                    at += chunk;
                }
            }
            if chunk == 1 && !shorter {
                return Instant::now() < self.deadline;
            }
            if Instant::now() >= self.deadline {
                return false;
            }
            if !shorter || chunk > 1 {
                chunk = (chunk / 2).max(1);
            }
        }
    }

    fn fewer_nodes(&mut self, best: &mut (Plan, Run)) {
        for nodes in sizes(best.0.scenario.nodes) {
            let mut scenario = best.0.scenario.clone();
            scenario.nodes = nodes;
            scenario.members = scenario.members.min(nodes);
            scenario.voters = scenario.voters.min(scenario.members);
            if scenario.voters > 1 && scenario.voters.is_multiple_of(2) && best.0.scenario.voters % 2 == 1 {
                scenario.voters -= 1;
            }
            scenario.arbiters = scenario.arbiters.min(scenario.voters - 1);
            let faults: Option<Vec<Fault>> = best.0.faults.iter().map(|fault| within(fault, nodes)).collect();
            let Some(faults) = faults else { continue };
            // Another cluster size is another run of chances: a few seeds are tried where that is cheap.
            for more in 0..if nodes <= 8 { 6 } else { 2 } {
                let candidate = Plan::with_faults(&scenario, best.0.seed.wrapping_add(more), faults.clone());
                if self.take(best, candidate) {
                    return;
                }
            }
        }
    }

    fn less_work(&mut self, best: &mut (Plan, Run)) {
        let drop = |change: &dyn Fn(&mut Scenario)| {
            let mut scenario = best.0.scenario.clone();
            change(&mut scenario);
            scenario
        };
        if best.0.scenario.workload != Workload::None {
            let scenario = drop(&|scenario| scenario.workload = Workload::None);
            let candidate = Plan::with_faults(&scenario, best.0.seed, best.0.faults.clone());
            self.take(best, candidate);
        }
        let mut at = best.0.scenario.services.len();
        while at > 0 {
            at -= 1;
            let mut scenario = best.0.scenario.clone();
            let gone = scenario.services.remove(at);
            if scenario.services.iter().any(|service| service.requires.contains(&gone.name)) {
                continue;
            }
            let candidate = Plan::with_faults(&scenario, best.0.seed, best.0.faults.clone());
            self.take(best, candidate);
        }
    }

    fn less_time(&mut self, best: &mut (Plan, Run)) {
        if let Some(at) = best.1.violation.as_ref().map(|violation| violation.at)
            && !self.signature.1
            && at + 100 * MS < best.0.scenario.duration
        {
            let mut scenario = best.0.scenario.clone();
            scenario.duration = at + 100 * MS;
            scenario.heal = MS;
            let faults = best.0.faults.iter().cloned().map(|mut fault| {
                fault.lasts = fault.lasts.min(scenario.duration.saturating_sub(fault.at));
                fault
            });
            let candidate = Plan::with_faults(&scenario, best.0.seed, faults.collect());
            self.take(best, candidate);
        }
        for at in 0..best.0.faults.len() {
            while best.0.faults[at].lasts > 2 * MS {
                let mut faults = best.0.faults.clone();
                faults[at].lasts /= 2;
                let candidate = Plan::with_faults(&best.0.scenario, best.0.seed, faults);
                if !self.take(best, candidate) {
                    break;
                }
            }
        }
    }
}

/// Smaller clusters to try, the smallest first: all of a few nodes, then ever larger steps.
fn sizes(below: u16) -> impl Iterator<Item = u16> {
    let next = |size: &u16| Some(if *size < 8 { size + 1 } else { size.saturating_add(size / 2) });
    std::iter::successors(Some(1), next).take_while(move |size| *size < below)
}

/// The fault in a smaller cluster; `None` if it is aimed at nodes that are not there.
fn within(fault: &Fault, nodes: u16) -> Option<Fault> {
    let mut fault = fault.clone();
    if let Target::Nodes(targets) = &mut fault.target {
        targets.retain(|node| node.0 < nodes);
        if targets.is_empty() {
            return None;
        }
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_to_the_cluster() {
        assert_eq!(sizes(1).count(), 0);
        assert_eq!(sizes(5).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(sizes(30).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 12, 18, 27]);
        assert!(sizes(u16::MAX).count() < 40);
    }
}
