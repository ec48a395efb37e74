//! What matters for a failure: the events it follows from, and the messages that carried them.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{EvidenceId, Fact, views};

use super::chain::back;
use super::events;
use super::scene::Scene;
use crate::fault::Ns;
use crate::report::Run;
use crate::trace::What;

/// When the story ends: at the violation, or with the run.
pub(super) fn end(run: &Run) -> Ns {
    run.violation.as_ref().map_or(run.simulated, |violation| violation.at)
}

/// The events from which to look back. For a resource with two holders: how each of them came to hold it. Else the last
/// event that has a cause.
fn roots(run: &Run, scene: &Scene) -> Vec<EvidenceId> {
    let end = end(run);
    let mut roots = Vec::new();
    if run.violation.as_ref().is_some_and(|violation| violation.checker == "one-holder") {
        let resources: BTreeSet<u16> = scene.holds.iter().map(|hold| hold.resource).collect();
        for resource in resources {
            let holders: Vec<_> = scene.holders(resource, end).collect();
            for hold in holders.iter().filter(|_| holders.len() > 1) {
                let last = events(run)
                    .filter(|(at, node, event)| *at <= end && node.0 == hold.node && takes(&event.fact, resource))
                    .last();
                roots.extend(last.map(|(_, _, event)| event.id));
            }
        }
    }
    if roots.is_empty() {
        let commits = |fact: &Fact| matches!(fact, Fact::Consensus(apus_engine::consensus::Fact::Committed { .. }));
        let last =
            events(run).filter(|(at, _, event)| *at <= end && event.because[0].is_some() && !commits(&event.fact));
        roots.extend(last.last().map(|(_, _, event)| event.id));
    }
    roots
}

fn takes(fact: &Fact, wanted: u16) -> bool {
    match fact {
        Fact::Views(views::Fact::Armed { resource, .. } | views::Fact::Seized { resource }) => resource.0 == wanted,
        _ => false,
    }
}

/// The events that a failure follows from.
pub(super) fn chain(run: &Run, scene: &Scene) -> BTreeSet<EvidenceId> {
    roots(run, scene).into_iter().flat_map(|root| back(run, root)).collect()
}

/// The packets that carried them: from each event, and from the last renewal of each holder, back over the packet that an
/// engine worked on when it told so, and over the one that its sender worked on, until there are `most`.
pub(super) fn packets(run: &Run, scene: &Scene, chain: &BTreeSet<EvidenceId>, most: usize) -> BTreeSet<u64> {
    let end = end(run);
    // The packet that a node worked on at an instant, and where each packet was sent.
    let mut worked: BTreeMap<(u16, Ns), u64> = BTreeMap::new();
    let mut sent: BTreeMap<u64, (u16, Ns)> = BTreeMap::new();
    let mut open: Vec<(Ns, u16)> = Vec::new();
    for line in run.trace.iter().filter(|line| line.at <= end) {
        let Some(node) = line.node.map(|node| node.0) else { continue };
        match &line.what {
            What::Received { id, .. } => drop(worked.insert((node, line.at), *id)),
            What::Sent { id, .. } => drop(sent.insert(*id, (node, line.at))),
            What::Event(event) if chain.contains(&event.id) => open.push((line.at, node)),
            _ => {}
        }
    }
    open.extend(
        scene.holds.iter().filter(|hold| hold.from <= end && end < hold.to).map(|hold| (hold.renewed, hold.node)),
    );
    let mut found = BTreeSet::new();
    // The latest first: what happened right before the failure matters most.
    let mut open: BTreeSet<(Ns, u16)> = open.into_iter().collect();
    while let Some((at, node)) = open.pop_last() {
        if found.len() >= most {
            break;
        }
        let Some(id) = worked.get(&(node, at)).filter(|id| !found.contains(*id)) else { continue };
        found.insert(*id);
        open.extend(sent.get(id).map(|(from, at)| (*at, *from)));
    }
    found
}
