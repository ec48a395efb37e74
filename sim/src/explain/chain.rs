//! Why: from one event back through everything that led to it, over all nodes.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{EvidenceId, NodeId};

use super::{events, ms, words};
use crate::fault::Ns;
use crate::report::Run;
use crate::trace::What;

/// The events that led to `from`, oldest first, it included.
pub(super) fn back(run: &Run, from: EvidenceId) -> BTreeSet<EvidenceId> {
    let by_id: BTreeMap<EvidenceId, _> = events(run).map(|(_, _, event)| (event.id, event)).collect();
    let mut open = vec![from];
    let mut chain = BTreeSet::new();
    while let Some(id) = open.pop() {
        if let Some(event) = by_id.get(&id)
            && chain.insert(id)
        {
            open.extend(event.because.iter().filter(|cause| cause.is_some()));
        }
    }
    chain
}

/// The chain behind the last act of `node` at or before `at`, as text; `None`: it did nothing that has a cause.
#[must_use]
pub fn why(run: &Run, node: NodeId, at: Ns) -> Option<Vec<String>> {
    let act = |what: &What| {
        matches!(what, What::Event(event) if event.because[0].is_some()
            && !matches!(event.fact, apus_engine::Fact::Consensus(apus_engine::consensus::Fact::Committed { .. })))
    };
    let last = run.trace.iter().rev().find(|line| line.at <= at && line.node == Some(node) && act(&line.what));
    let Some(What::Event(event)) = last.map(|line| &line.what) else { return None };
    let chain = back(run, event.id);
    let lines = events(run).filter(|(_, _, event)| chain.contains(&event.id));
    Some(lines.map(|(at, node, event)| format!("{:>12}  {node}  {}", ms(at), words(event))).collect())
}
