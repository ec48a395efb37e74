//! No healthy node on a healthy network is declared faulty (Adaptive-DSD, accuracy), and nothing old comes back to life.

use std::collections::BTreeMap;

use apus_engine::{Fact, Incarnation, NodeId, diagnosis};

use super::Checker;
use super::truth::Truth;
use crate::trace::{Line, What};

#[derive(Clone)]
pub(super) struct DiagnosisAccurate {
    pub(super) truth: Truth,
}

impl Checker for DiagnosisAccurate {
    fn name(&self) -> &'static str {
        "diagnosis-accurate"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        self.truth.see(line);
        let (Some(by), What::Event(event)) = (line.node, &line.what) else { return Ok(()) };
        let Fact::Diagnosis(diagnosis::Fact::Down { node, .. }) = event.fact else { return Ok(()) };
        if self.truth.is_healthy(node, line.at) && self.truth.is_healthy(by, line.at) {
            return Err(format!("{by} declares {node} down, which is healthy"));
        }
        Ok(())
    }
}

/// News about an earlier life never overwrites news about a later one (incarnations).
#[derive(Clone, Default)]
pub(super) struct NoResurrection {
    born: BTreeMap<NodeId, Incarnation>,
    known: BTreeMap<(NodeId, NodeId), Incarnation>,
}

impl Checker for NoResurrection {
    fn name(&self) -> &'static str {
        "no-resurrection"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(by) = line.node else { return Ok(()) };
        let event = match &line.what {
            What::Boot(inc) => {
                let born = self.born.entry(by).or_default();
                *born = (*born).max(*inc);
                self.known.retain(|(observer, _), _| *observer != by);
                return Ok(());
            }
            What::Event(event) => event,
            _ => return Ok(()),
        };
        let Fact::Diagnosis(diagnosis::Fact::Up { node, inc } | diagnosis::Fact::Down { node, inc }) = event.fact
        else {
            return Ok(());
        };
        let known = self.known.entry((by, node)).or_default();
        if inc < *known {
            return Err(format!("{by} believes news of {node} in life {} after life {}", inc.0, known.0));
        }
        *known = inc;
        Ok(())
    }
}
