//! The story of a failure for a terminal: at most 40 lines.

use apus_engine::{EvidenceId, NodeId};

use super::chain::back;
use super::{events, is_notable, ms, words};
use crate::report::Run;
use crate::trace::{Line, What};

/// Lines of a story at most.
const LINES: usize = 40;

/// Faults, the causal chain behind the violation, and what happened right before it.
#[must_use]
pub fn story(run: &Run) -> Vec<String> {
    let end = run.violation.as_ref().map_or(run.simulated, |violation| violation.at);
    // The chain behind the last holder, or failing that behind the last event before the violation.
    let last: Option<EvidenceId> = events(run)
        .filter(|(at, _, event)| *at <= end && event.because[0].is_some())
        .filter(|(_, _, event)| {
            !matches!(event.fact, apus_engine::Fact::Consensus(apus_engine::consensus::Fact::Committed { .. }))
        })
        .last()
        .map(|(_, _, event)| event.id);
    let chain = last.map(|id| back(run, id)).unwrap_or_default();
    let tells = |line: &&Line| match &line.what {
        What::FaultStart { .. } | What::FaultStop { .. } | What::Healed => true,
        What::Armed { .. } | What::Disarmed { .. } => true,
        What::Event(event) => chain.contains(&event.id),
        _ => is_notable(line) && end.saturating_sub(line.at) < 2_000_000_000,
    };
    let mut seen = std::collections::BTreeSet::new();
    let mut lines: Vec<String> = run
        .trace
        .iter()
        .filter(|line| line.at <= end)
        .filter(tells)
        // A guard that is armed again and again is told once a grant.
        .filter(|line| match line.what {
            What::Armed { resource, epoch, .. } => seen.insert((line.node, resource, epoch)),
            _ => true,
        })
        .map(sentence)
        .collect();
    if lines.len() > LINES - 3 {
        let cut = lines.len() - (LINES - 3);
        lines.drain(2..2 + cut);
        lines.insert(2, format!("             … {cut} lines left out"));
    }
    if let Some(violation) = &run.violation {
        lines.push(format!("{:>12}  VIOLATED {}: {}", ms(violation.at), violation.checker, violation.what));
    }
    if let Some(overlap) = run.measures.get("two-holders-time") {
        lines.push(format!("              two nodes held one resource for {} ms", ms(*overlap)));
    }
    lines
}

fn nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn sentence(line: &Line) -> String {
    let who = line.node.map_or_else(|| "--".into(), |node| node.to_string());
    let what = match &line.what {
        What::FaultStart { kind, nodes: at, .. } => format!("FAULT {} on {}", kind.spec().name, nodes(at)),
        What::FaultStop { kind, effects, .. } => format!("fault {} ends after {effects} effects", kind.spec().name),
        What::Healed => "everything is healed from here on".into(),
        What::Armed { resource, epoch, until } => {
            let until = if *until == u64::MAX { "without end".into() } else { format!("until {}", ms(*until)) };
            format!("its guard opens {resource} by {epoch} {until}")
        }
        What::Disarmed { resource, epoch } => format!("its guard closes {resource} of {epoch}"),
        What::Boot(inc) => format!("starts its life {}", inc.0),
        What::Halt => "is gone".into(),
        What::Refused => "finds its disk damaged and is wiped".into(),
        What::Event(event) => words(event),
        What::Program { copy, order } => format!("{order:?} slot {} of {}", copy.slot, copy.service),
        What::Gone { copy, cause } => format!("slot {} of {} is gone: {cause:?}", copy.slot, copy.service),
        What::Sent { .. } | What::Received { .. } | What::Lost { .. } => String::new(),
    };
    format!("{:>12}  {who:<4} {what}", ms(line.at))
}
