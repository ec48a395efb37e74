//! A Mermaid sequence diagram of the messages that matter: those that carried the causal chain of the failure.

use std::fmt::Write as _;

use super::ms;
use super::relevant::{chain, end, packets};
use super::scene::{End, Scene};
use super::words::sentence;
use crate::fault::Ns;
use crate::report::Run;
use crate::trace::What;

/// Messages in the diagram at most.
const MESSAGES: usize = 40;

/// Text that Mermaid takes: no comment, no statement end, no entity.
fn plain(text: &str) -> String {
    text.replace('#', "no. ").replace(';', ",").replace('\n', " ")
}

/// The diagram.
#[must_use]
pub fn mermaid(run: &Run) -> String {
    let scene = Scene::new(run);
    let end = end(run);
    let chain = chain(run, &scene);
    let wanted = packets(run, &scene, &chain, MESSAGES);
    let mut rows: Vec<(Ns, String)> = Vec::new();
    let mut shown: Vec<u16> = Vec::new();
    for message in scene.messages.iter().filter(|message| wanted.contains(&message.id)) {
        let End::Arrived(at) = message.end else { continue };
        let name = apus_engine::wire::kind_name(message.kind);
        shown.extend([message.from, message.to]);
        rows.push((
            at,
            format!("    n{}->>n{}: {} {name} (+{} ms)", message.from, message.to, ms(at), ms(at - message.sent)),
        ));
    }
    let first = rows.iter().map(|(at, _)| *at).min().unwrap_or(0);
    for line in run.trace.iter().filter(|line| line.at <= end) {
        let node = line.node.map(|node| node.0);
        let over = match (&line.what, node) {
            (What::Event(event), Some(node)) if chain.contains(&event.id) => format!("n{node}"),
            (What::Boot(_) | What::Halt, Some(node)) if line.at >= first => format!("n{node}"),
            (What::FaultStart { nodes, .. }, _) if nodes.len() <= 8 => {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                nodes.join(",")
            }
            _ => continue,
        };
        // A note spans two participants at most: the first and the last.
        let ends: Vec<&str> = over.split(',').collect();
        let over = if ends.len() > 1 { format!("{},{}", ends[0], ends[ends.len() - 1]) } else { over };
        shown.extend(over.split(',').filter_map(|node| node.strip_prefix('n')?.parse::<u16>().ok()));
        rows.push((line.at, format!("    Note over {over}: {}", plain(&sentence(line)))));
    }
    rows.sort_by_key(|(at, _)| *at);
    let mut nodes = shown;
    nodes.sort_unstable();
    nodes.dedup();
    let mut out = String::from("sequenceDiagram\n");
    for node in &nodes {
        let _ = writeln!(out, "    participant n{node}");
    }
    let mut last = None;
    for (at, row) in rows {
        if last.replace(at) != Some(at) {
            let _ = writeln!(out, "    %% {} ms", ms(at));
        }
        let _ = writeln!(out, "{row}");
    }
    if let (Some(violation), Some(first), Some(last)) = (&run.violation, nodes.first(), nodes.last()) {
        let over = if first == last { format!("n{first}") } else { format!("n{first},n{last}") };
        let what = plain(&violation.what);
        let _ = writeln!(
            out,
            "    %% {} ms\n    Note over {over}: VIOLATED {}: {what}",
            ms(violation.at),
            violation.checker
        );
    }
    out
}
