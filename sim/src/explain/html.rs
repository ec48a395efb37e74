//! One self-contained page: nodes as lanes, faults as bands, holders as bars, events and messages on a scrubbed time line.

use std::collections::BTreeMap;

use apus_engine::{Fact, Mutant};
use serde_json::{Value, json};

use super::relevant::{chain, end, packets};
use super::scene::{End, Scene};
use super::story::tell;
use super::words::sentence;
use super::{is_notable, words};
use crate::fault::{MS, Ns, S};
use crate::report::Run;
use crate::scenario::Plan;
use crate::trace::What;

/// Messages in the page at most, so that it stays below 2 MB; the last ones before the end are kept.
const MESSAGES: usize = 16_000;
/// Events in the page at most.
const EVENTS: usize = 4_000;
/// Bars in the page at most.
const BARS: usize = 4_000;

const TEMPLATE: &str = include_str!("template.html");

/// The page.
#[must_use]
pub fn html(plan: &Plan, run: &Run, title: &str) -> String {
    let data = data(plan, run, title).to_string().replace("</", "<\\/").replace("<!--", "<\\!--");
    TEMPLATE.replace("/*DATA*/null", &data)
}

/// Microseconds.
const fn us(at: Ns) -> u64 {
    at / 1_000
}

/// The last ones, if there are too many.
fn last<T>(mut all: Vec<T>, most: usize) -> Vec<T> {
    all.drain(..all.len().saturating_sub(most));
    all
}

fn part(fact: &Fact) -> u8 {
    match fact {
        Fact::Engine(_) => 0,
        Fact::Diagnosis(_) => 1,
        Fact::Consensus(_) => 2,
        Fact::Views(_) => 3,
        Fact::Supervision(_) => 4,
        Fact::Shipping(_) => 5,
    }
}

fn events(run: &Run) -> Vec<Value> {
    let event = |line: &crate::trace::Line| {
        let node = line.node?.0;
        let at = us(line.at);
        match &line.what {
            What::Event(event) if is_notable(line) => {
                let causes: Vec<String> =
                    event.because.iter().filter(|id| id.is_some()).map(ToString::to_string).collect();
                Some(json!([at, node, part(&event.fact), words(event), event.id.to_string(), causes]))
            }
            What::Boot(_) | What::Halt | What::Refused => Some(json!([at, node, 0, sentence(line), "", []])),
            What::Gone { .. } | What::Program { .. } | What::Kept { .. } => {
                Some(json!([at, node, 4, sentence(line), "", []]))
            }
            _ => None,
        }
    };
    run.trace.iter().filter_map(event).collect()
}

/// Sent, arrived or lost, from, to, kind, bytes, how it ended (0 arrived, 1 nobody there, 2 still on its way, 3 + n lost to
/// fault n), and whether it matters for the failure.
fn messages(run: &Run, scene: &Scene, kinds: &mut Vec<&'static str>) -> Vec<Value> {
    let wanted = packets(run, scene, &chain(run, scene), 40);
    let mut number: BTreeMap<u8, usize> = BTreeMap::new();
    let mut out = Vec::new();
    for message in &scene.messages {
        let kind = *number.entry(message.kind).or_insert_with(|| {
            kinds.push(apus_engine::wire::kind_name(message.kind));
            kinds.len() - 1
        });
        let (at, how) = match message.end {
            End::Arrived(at) => (at, 0),
            End::Nobody(at) => (at, 1),
            End::Open => (run.simulated, 2),
            End::Lost(at, fault) => (at, 3 + u32::from(fault)),
        };
        let matters = u8::from(wanted.contains(&message.id));
        out.push(json!([us(message.sent), us(at), message.from, message.to, kind, message.len, how, matters]));
    }
    last(out, MESSAGES)
}

fn data(plan: &Plan, run: &Run, title: &str) -> Value {
    let scene = Scene::new(run);
    let scenario = &plan.scenario;
    let mut kinds = Vec::new();
    let messages = messages(run, &scene, &mut kinds);
    // A guard that was opened just before the end stays open after it: the picture goes on a little to show it.
    let after = scene.holds.iter().map(|hold| hold.to).filter(|to| *to <= run.simulated + S).max().unwrap_or(0);
    let width = run.simulated.max(after).max(run.simulated + run.simulated / 50).max(MS);
    let holds: Vec<Value> = scene
        .holds
        .iter()
        .map(|hold| json!([hold.node, hold.resource, hold.epoch, us(hold.from), us(hold.to.min(width)), hold.renewals]))
        .collect();
    let bands: Vec<Value> = scene
        .bands
        .iter()
        .map(|band| {
            let spec = band.kind.spec();
            json!([spec.name, us(band.from), us(band.to), band.nodes, band.effects, spec.about])
        })
        .collect();
    let violation =
        run.violation.as_ref().map(|violation| json!([violation.checker, us(violation.at), violation.what]));
    let story: Vec<Value> =
        tell(run, &scene).iter().map(|told| json!([told.at.map(us), told.node, told.text])).collect();
    let faults: Vec<&str> = plan.faults.iter().map(|fault| fault.kind.spec().name).collect();
    json!({
        "title": title, "about": scenario.about, "nodes": scenario.nodes, "voters": scenario.voters,
        "arbiters": scenario.arbiters, "members": scenario.members, "seed": plan.seed,
        "mutant": scenario.mutant.map(Mutant::name), "engine": env!("CARGO_PKG_VERSION"),
        "hash": format!("{:032x}", run.hash), "end": us(run.simulated), "width": us(width), "moment": us(end(run)),
        "healed": us(scenario.duration), "lives": scene.lives.iter().map(|(node, from, to)| json!([node, us(*from), us(*to)])).collect::<Vec<_>>(),
        "leads": scene.leads.iter().map(|(node, term, from, to)| json!([node, term, us(*from), us(*to)])).collect::<Vec<_>>(),
        "holds": last(holds, BARS), "bands": last(bands, BARS), "events": last(events(run), EVENTS), "kinds": kinds,
        "messages": messages, "faults": faults, "violation": violation, "story": story,
        "overlap": run.measures.get("two-holders-time").map(|overlap| us(*overlap)),
    })
}
