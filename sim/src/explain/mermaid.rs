//! A Mermaid sequence diagram of the messages that matter: those between the nodes of the causal chain, right before its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{events, ms, words};
use crate::report::Run;
use crate::trace::What;

/// Messages in the diagram at most.
const MESSAGES: usize = 40;

/// The diagram.
#[must_use]
pub fn mermaid(run: &Run) -> String {
    let end = run.violation.as_ref().map_or(run.simulated, |violation| violation.at);
    let sent: BTreeMap<u64, u64> = run
        .trace
        .iter()
        .filter_map(|line| match line.what {
            What::Sent { id, .. } => Some((id, line.at)),
            _ => None,
        })
        .collect();
    // Probes fill the wire; elections, appends with news and leases tell the story.
    let matters = |kind: u8| !matches!(kind, 0x10 | 0x11 | 0x22 | 0x23);
    let mut rows: Vec<(u64, String)> = Vec::new();
    for line in run.trace.iter().filter(|line| line.at <= end) {
        match (&line.what, line.node) {
            (What::Received { from, id, kind, .. }, Some(to)) if matters(*kind) => {
                let took = line.at - sent.get(id).copied().unwrap_or(line.at);
                let name = apus_engine::wire::kind_name(*kind);
                rows.push((line.at, format!("    {from}->>{to}: {name} ({} ms)", ms(took))));
            }
            (What::FaultStart { kind, nodes, .. }, _) => {
                if let Some(node) = nodes.first() {
                    rows.push((line.at, format!("    Note over {node}: FAULT {}", kind.spec().name)));
                }
            }
            (What::Armed { resource, epoch, .. }, Some(node)) => {
                rows.push((line.at, format!("    Note over {node}: holds {resource} by {epoch}")));
            }
            _ => {}
        }
    }
    rows.dedup_by(|a, b| a.1 == b.1);
    let skip = rows.len().saturating_sub(MESSAGES);
    let mut out = String::from("sequenceDiagram\n");
    for node in 0..run.trace.iter().filter_map(|line| line.node).map(|node| node.0 + 1).max().unwrap_or(0) {
        let _ = writeln!(out, "    participant n{node}");
    }
    for (at, row) in rows.into_iter().skip(skip) {
        let _ = writeln!(out, "    %% {} ms\n{row}", ms(at));
    }
    if let Some((_, node, event)) = events(run).filter(|(at, _, _)| *at <= end).last() {
        let _ = writeln!(out, "    Note over {node}: {}", words(event).replace([';', '#'], " "));
    }
    if let Some(violation) = &run.violation {
        let _ = writeln!(out, "    Note over n0: VIOLATED {}", violation.checker);
    }
    out
}
