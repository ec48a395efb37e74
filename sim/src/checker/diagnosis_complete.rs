//! Every fault-free node reaches the true diagnosis of every node (Adaptive-DSD, completeness), within the bound.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{Fact, NodeId, diagnosis};

use super::{Checker, Look};
use crate::fault::{Kind, Ns};
use crate::scenario::Plan;
use crate::trace::{Line, What};

#[derive(Clone, Default)]
pub(super) struct DiagnosisComplete;

impl Checker for DiagnosisComplete {
    fn name(&self) -> &'static str {
        "diagnosis-complete"
    }
    fn liveness(&self) -> bool {
        true
    }
    fn end(&mut self, look: &dyn Look) -> Result<(), String> {
        let all: Vec<NodeId> = (0..look.nodes() as u16).map(NodeId).collect();
        // Views of more than 100 nodes are sampled: the whole matrix would be a million cells.
        let every = all.len().div_ceil(100).max(1);
        // Who was removed may not know of it, and owes nothing.
        let logs = all.iter().filter_map(|node| Some(look.engine(*node)?.look()?.1));
        let leader = logs.filter(|log| log.leads().is_some()).max_by_key(|log| log.term());
        let member = |node: NodeId| leader.is_none_or(|log| log.membership().contains(node));
        for by in all.iter().step_by(every) {
            let Some((ring, log, ..)) = look.engine(*by).and_then(|engine| engine.look()) else { continue };
            for node in &all {
                let own = log.membership();
                if ![*node, *by].iter().all(|node| own.contains(*node) && member(*node)) {
                    continue;
                }
                let up = look.engine(*node).is_some();
                let thinks = ring.status(*node).map(|(status, _)| status);
                let right = match thinks {
                    Some(diagnosis::Status::Up) => up,
                    Some(diagnosis::Status::Down | diagnosis::Status::Left) => !up,
                    Some(diagnosis::Status::Suspect) | None => false,
                };
                if !right {
                    return Err(format!(
                        "{by} thinks {node} is {thinks:?}, but it {}",
                        if up { "runs" } else { "does not run" }
                    ));
                }
            }
        }
        Ok(())
    }
}

/// After a lone crash, or after the first verdict on it, every live node knows within the bound.
#[derive(Clone)]
pub(super) struct DiagnosisBound {
    bound: Option<Ns>,
    /// Time counts from the first verdict.
    news: bool,
    running: BTreeSet<NodeId>,
    /// By dead node: since when time counts, if it does, and who does not know.
    waiting: BTreeMap<NodeId, (Option<Ns>, BTreeSet<NodeId>)>,
    worst: Ns,
    clean: bool,
}

impl DiagnosisBound {
    pub(super) fn new(plan: &Plan, news: bool) -> Self {
        let expect = &plan.scenario.expect;
        let bound = if news { expect.news_within } else { expect.diagnosis_within };
        Self { bound, news, running: BTreeSet::new(), waiting: BTreeMap::new(), worst: 0, clean: true }
    }
}

impl Checker for DiagnosisBound {
    fn name(&self) -> &'static str {
        if self.news { "news-bound" } else { "diagnosis-bound" }
    }
    fn liveness(&self) -> bool {
        true
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if self.bound.is_none() {
            return Ok(());
        }
        match (&line.what, line.node) {
            (What::Boot(_), Some(node)) => {
                self.running.insert(node);
                self.waiting.remove(&node);
            }
            (What::Halt, Some(node)) => {
                self.running.remove(&node);
                for (_, missing) in self.waiting.values_mut() {
                    missing.remove(&node);
                }
            }
            (What::FaultStart { kind: Kind::PowerOff | Kind::Crash | Kind::PermanentLoss, nodes, .. }, _)
                if nodes.len() == 1 && self.running.contains(&nodes[0]) =>
            {
                let others = self.running.iter().copied().filter(|node| !nodes.contains(node)).collect();
                self.waiting.insert(nodes[0], ((!self.news).then_some(line.at), others));
            }
            (
                What::FaultStart {
                    kind: Kind::Partition | Kind::OneWay | Kind::OneWayIn | Kind::Freeze | Kind::Suspend,
                    ..
                },
                _,
            ) => {
                // Somebody cannot hear: the bound is not promised.
                self.clean = false;
                self.waiting.clear();
            }
            (What::Event(event), Some(by)) => {
                if let Fact::Diagnosis(diagnosis::Fact::Down { node, .. }) = event.fact
                    && let Some((since, missing)) = self.waiting.get_mut(&node)
                {
                    missing.remove(&by);
                    let since = *since.get_or_insert(line.at);
                    if missing.is_empty() {
                        self.worst = self.worst.max(line.at - since);
                        self.waiting.remove(&node);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, _sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        let Some(bound) = self.bound else { return Ok(()) };
        let is_late = |since: &Option<Ns>| since.is_some_and(|since| now > since + bound);
        let late = self.waiting.iter().find(|(_, (since, missing))| is_late(since) && !missing.is_empty());
        let (what, ms) = (if self.news { "the news" } else { "diagnosis" }, bound / 1_000_000);
        if let Some((node, (_, missing))) = late {
            return Err(format!("{} nodes do not know of the death of {node} after {ms} ms", missing.len()));
        }
        if self.worst > bound {
            return Err(format!("{what} took {} ms, the bound is {ms} ms", self.worst / 1_000_000));
        }
        Ok(())
    }
    fn measures(&self, into: &mut BTreeMap<&'static str, Ns>) {
        if self.worst > 0 {
            into.insert(if self.news { "news" } else { "diagnosis" }, self.worst);
        }
    }
}
