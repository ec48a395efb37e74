//! One self-contained page: nodes as lanes, faults as bands, holders as bars, events and messages on a scrubbed time line.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{is_notable, words};
use crate::artifact::target_json;
use crate::report::Run;
use crate::scenario::Plan;
use crate::trace::What;

/// Messages in the page at most, so that it stays below 2 MB; the last ones before the end are kept.
const MESSAGES: usize = 12_000;
/// Events in the page at most.
const EVENTS: usize = 4_000;

const TEMPLATE: &str = include_str!("template.html");

/// The page.
#[must_use]
pub fn html(plan: &Plan, run: &Run, title: &str) -> String {
    let data = data(plan, run, title).to_string().replace("</", "<\\/");
    TEMPLATE.replace("/*DATA*/null", &data)
}

fn data(plan: &Plan, run: &Run, title: &str) -> Value {
    let end = run.simulated;
    let mut holds: Vec<Value> = Vec::new();
    let mut open: BTreeMap<(u16, u16), (u64, u64, u64)> = BTreeMap::new();
    let mut lives: Vec<Value> = Vec::new();
    let mut running: BTreeMap<u16, u64> = BTreeMap::new();
    let mut bands: Vec<Value> = Vec::new();
    let mut started: BTreeMap<u16, (u64, Vec<u16>)> = BTreeMap::new();
    let mut events: Vec<Value> = Vec::new();
    let mut sent: BTreeMap<u64, (u64, u16)> = BTreeMap::new();
    let mut messages: Vec<Value> = Vec::new();
    let mut close = |node: u16, resource: u16, (from, to, epoch): (u64, u64, u64)| {
        holds.push(json!([node, resource, epoch, from / 1_000, to.min(end) / 1_000]));
    };
    for line in &run.trace {
        let at = line.at / 1_000;
        let node = line.node.map(|node| node.0);
        match (&line.what, node) {
            (What::Boot(_), Some(node)) => {
                running.insert(node, at);
            }
            (What::Halt, Some(node)) => {
                if let Some(from) = running.remove(&node) {
                    lives.push(json!([node, from, at]));
                }
                for key in open.keys().filter(|(at, _)| *at == node).copied().collect::<Vec<_>>() {
                    if let Some(mut bar) = open.remove(&key) {
                        // A guard outlives the process; power loss ends it. Either way not beyond its term.
                        bar.1 = bar.1.min(end);
                        close(key.0, key.1, bar);
                    }
                }
            }
            (What::Armed { resource, epoch, until }, Some(node)) => {
                let key = (node, resource.0);
                match open.get_mut(&key) {
                    Some(bar) if bar.2 == epoch.0 && line.at <= bar.1 => bar.1 = *until,
                    _ => {
                        if let Some(bar) = open.insert(key, (line.at, *until, epoch.0)) {
                            close(key.0, key.1, bar);
                        }
                    }
                }
            }
            (What::Disarmed { resource, .. }, Some(node)) => {
                if let Some(mut bar) = open.remove(&(node, resource.0)) {
                    bar.1 = line.at;
                    close(node, resource.0, bar);
                }
            }
            (What::FaultStart { fault, nodes, .. }, _) => {
                started.insert(*fault, (at, nodes.iter().map(|node| node.0).collect()));
            }
            (What::FaultStop { fault, kind, effects }, _) => {
                if let Some((from, nodes)) = started.remove(fault) {
                    bands.push(json!([kind.spec().name, from, at, nodes, effects, kind.spec().about]));
                }
            }
            (What::Sent { id, .. }, Some(node)) => {
                sent.insert(*id, (at, node));
            }
            (What::Received { from, id, kind, .. }, Some(node)) => {
                let (when, who) = sent.get(id).copied().unwrap_or((at, from.0));
                messages.push(json!([when, at, who, node, apus_engine::wire::kind_name(*kind)]));
            }
            (What::Event(event), Some(node)) if is_notable(line) => {
                let causes: Vec<String> =
                    event.because.iter().filter(|id| id.is_some()).map(ToString::to_string).collect();
                let part = match event.fact {
                    apus_engine::Fact::Engine(_) => 0,
                    apus_engine::Fact::Diagnosis(_) => 1,
                    apus_engine::Fact::Consensus(_) => 2,
                    apus_engine::Fact::Views(_) => 3,
                    apus_engine::Fact::Supervision(_) => 4,
                };
                events.push(json!([at, node, part, words(event), event.id.to_string(), causes]));
            }
            _ => {}
        }
    }
    for (key, bar) in open {
        close(key.0, key.1, bar);
    }
    lives.extend(running.into_iter().map(|(node, from)| json!([node, from, end / 1_000])));
    for (fault, (from, nodes)) in started {
        let kind = plan.faults[usize::from(fault)].kind;
        bands.push(json!([kind.spec().name, from, end / 1_000, nodes, 0, kind.spec().about]));
    }
    messages.drain(..messages.len().saturating_sub(MESSAGES));
    events.drain(..events.len().saturating_sub(EVENTS));
    let violation =
        run.violation.as_ref().map(|violation| json!([violation.checker, violation.at / 1_000, violation.what]));
    let measures: BTreeMap<&str, u64> = run.measures.iter().map(|(name, value)| (*name, value / 1_000)).collect();
    json!({
        "title": title, "about": plan.scenario.about, "nodes": plan.scenario.nodes, "voters": plan.scenario.voters,
        "end": end / 1_000, "healed": plan.scenario.duration / 1_000, "seed": plan.seed, "hash": format!("{:032x}", run.hash),
        "lives": lives, "holds": holds, "bands": bands, "events": events, "messages": messages, "violation": violation,
        "measures": measures,
        "faults": plan.faults.iter().map(|fault| json!([fault.kind.spec().name, target_json(&fault.target)])).collect::<Vec<_>>(),
    })
}
