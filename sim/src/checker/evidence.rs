//! Every automatic act carries the chain of evidence that led to it.

use std::collections::BTreeMap;

use apus_engine::{EvidenceId, Fact, Incarnation, NodeId, diagnosis, supervision, views};

use super::Checker;
use crate::fault::Kind;
use crate::scenario::Plan;
use crate::trace::{Line, What};

#[derive(Clone)]
pub(super) struct EvidenceComplete {
    /// A packet that was damaged unseen can name anything.
    forged: bool,
    /// The newest event of each life; they are numbered without gaps.
    known: BTreeMap<(NodeId, Incarnation), u32>,
}

impl EvidenceComplete {
    pub(super) fn new(plan: &Plan) -> Self {
        let forged = plan.faults.iter().any(|fault| fault.kind == Kind::CorruptUnseen);
        Self { forged, known: BTreeMap::new() }
    }

    fn happened(&self, id: &EvidenceId) -> bool {
        self.known.get(&(id.node, id.inc)).is_some_and(|newest| (1..=*newest).contains(&id.seq))
    }
}

/// Acts, which must have a reason; observations need none.
const fn is_act(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Diagnosis(diagnosis::Fact::Down { .. })
            | Fact::Views(views::Fact::Proposed { .. } | views::Fact::Armed { .. } | views::Fact::Granted { .. })
            | Fact::Supervision(
                supervision::Fact::Starting { .. }
                    | supervision::Fact::Promoted { .. }
                    | supervision::Fact::Escalated { .. }
            )
    )
}

impl Checker for EvidenceComplete {
    fn name(&self) -> &'static str {
        "evidence-complete"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let What::Event(event) = &line.what else { return Ok(()) };
        // A wiped node counts its lives anew, and its events with them.
        let newest = self.known.entry((event.id.node, event.id.inc)).or_default();
        *newest = event.id.seq.max(*newest);
        let mut causes = event.because.iter().filter(|cause| cause.is_some()).peekable();
        if causes.peek().is_none() && is_act(&event.fact) {
            return Err(format!("{} acts without a reason: {:?}", event.id, event.fact));
        }
        if let Some(cause) = causes.find(|cause| !self.forged && !self.happened(cause)) {
            return Err(format!("{} names {cause} as its reason, which never happened", event.id));
        }
        Ok(())
    }
}
