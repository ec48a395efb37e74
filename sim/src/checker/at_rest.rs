//! What a cluster costs while nothing goes wrong, and that it is not bought with leases that run out.

use apus_engine::{Fact, consensus, views};

use super::{Checker, Look};
use crate::fault::{Kind, Ns, S};
use crate::scenario::Plan;
use crate::trace::{Line, What};

/// After a change all are awake for so long.
const AWAKE: Ns = 7 * S;

/// Nodes at rest send few packets, each second, on average over them.
#[derive(Clone)]
pub(super) struct CheapAtRest {
    most: Option<u64>,
    changed: Ns,
}

impl CheapAtRest {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { most: plan.scenario.expect.packets_at_rest, changed: 0 }
    }
}

impl Checker for CheapAtRest {
    fn name(&self) -> &'static str {
        "cheap-at-rest"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let changed = match &line.what {
            What::Boot(_) | What::Halt | What::FaultStart { .. } | What::FaultStop { .. } => true,
            What::Event(event) => matches!(event.fact, Fact::Consensus(consensus::Fact::Elected { .. })),
            _ => false,
        };
        if changed {
            self.changed = line.at;
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        let Some(most) = self.most.filter(|_| now > self.changed + AWAKE) else { return Ok(()) };
        let all: u64 = sent.iter().sum();
        let nodes = sent.len() as u64;
        if all > most * nodes {
            return Err(format!("{nodes} nodes at rest sent {all} packets in a second, {most} for each are the bound"));
        }
        Ok(())
    }
}

/// A holder and a leader that reach each other, and a quorum, lose no lease by a packet that is lost.
#[derive(Clone)]
pub(super) struct LeaseKept {
    applies: bool,
}

impl LeaseKept {
    pub(super) fn new(plan: &Plan) -> Self {
        let mild = |kind: Kind, size: u64| match kind {
            Kind::Loss => size <= 10_000,
            Kind::Duplicate => true,
            _ => false,
        };
        let faults = &plan.faults;
        Self { applies: faults.iter().all(|fault| mild(fault.kind, u64::from(fault.rate_ppm))) }
    }
}

impl Checker for LeaseKept {
    fn name(&self) -> &'static str {
        "lease-kept"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let (Some(node), What::Event(event)) = (line.node, &line.what) else { return Ok(()) };
        match event.fact {
            Fact::Views(views::Fact::Expired { resource, .. }) if self.applies => {
                Err(format!("the lease of {node} on {resource} ran out, and nothing was wrong"))
            }
            _ => Ok(()),
        }
    }
}
