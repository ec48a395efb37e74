//! Chrome and Perfetto JSON: nodes as processes; lives, leaders and holders as slices; faults as a process of their own;
//! messages as short slices with flows between them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::scene::{End, Scene};
use super::{events, is_notable, words};
use crate::fault::Ns;
use crate::report::Run;
use crate::trace::What;

/// Messages in the trace at most; the last ones are kept.
const MESSAGES: usize = 8_000;
/// The process of the world.
const WORLD: u32 = 100_000;

/// Threads of a node's process.
const LIFE: u32 = 1;
const LEADS: u32 = 2;
const EVENTS: u32 = 3;
const PACKETS: u32 = 4;
/// Resource r has the thread `HOLDS + r`.
const HOLDS: u32 = 10;

/// Microseconds with a fraction, as the format wants it.
fn us(at: Ns) -> Value {
    json!(format!("{}.{:03}", at / 1_000, at % 1_000).parse::<serde_json::Number>().ok())
}

fn slice(pid: u32, tid: u32, name: String, from: Ns, to: Ns) -> Value {
    json!({ "ph": "X", "pid": pid, "tid": tid, "name": name, "ts": us(from), "dur": us(to.saturating_sub(from)) })
}

fn named(what: &str, pid: u32, tid: u32, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } })
}

/// The trace as JSON text.
#[must_use]
pub fn perfetto(run: &Run) -> String {
    let scene = Scene::new(run);
    let end = run.simulated;
    let mut out: Vec<Value> = Vec::new();
    let mut threads: BTreeMap<(u32, u32), String> = BTreeMap::new();
    for (node, from, to) in &scene.lives {
        threads.insert((u32::from(*node), LIFE), "life".into());
        out.push(slice((*node).into(), LIFE, "runs".into(), *from, *to));
    }
    for (node, term, from, to) in &scene.leads {
        threads.insert((u32::from(*node), LEADS), "leads".into());
        out.push(slice((*node).into(), LEADS, format!("leads t{term}"), *from, *to));
    }
    for hold in &scene.holds {
        let (pid, tid) = (u32::from(hold.node), HOLDS + u32::from(hold.resource));
        threads.insert((pid, tid), format!("holds r{}", hold.resource));
        out.push(slice(pid, tid, format!("r{} by e{}", hold.resource, hold.epoch), hold.from, hold.to.min(end)));
    }
    for (at, band) in scene.bands.iter().enumerate() {
        let nodes: Vec<String> = band.nodes.iter().map(|node| format!("n{node}")).collect();
        let name = format!("{} on {}", band.kind.spec().name, nodes.join(" "));
        let tid = u32::try_from(at).unwrap_or(0) + 1;
        threads.insert((WORLD, tid), band.kind.spec().name.into());
        out.push(slice(WORLD, tid, name, band.from, band.to));
    }
    for (at, node, event) in events(run) {
        threads.insert((node.0.into(), EVENTS), "events".into());
        out.push(json!({ "ph": "i", "s": "t", "pid": node.0, "tid": EVENTS, "name": words(event), "ts": us(at) }));
    }
    for line in run.trace.iter().filter(|line| is_notable(line)) {
        if let (What::Refused, Some(node)) = (&line.what, line.node) {
            out.push(
                json!({ "ph": "i", "s": "t", "pid": node.0, "tid": EVENTS, "name": "disk refused", "ts": us(line.at) }),
            );
        }
    }
    for (id, message) in scene.messages.iter().enumerate().skip(scene.messages.len().saturating_sub(MESSAGES)) {
        let name = apus_engine::wire::kind_name(message.kind);
        let (from, to) = (u32::from(message.from), u32::from(message.to));
        let flow = |ph: &str, pid: u32, at: Ns| json!({ "ph": ph, "bp": "e", "cat": "packet", "id": id, "pid": pid, "tid": PACKETS, "name": name, "ts": us(at) });
        threads.insert((from, PACKETS), "packets".into());
        let fate = match message.end {
            End::Arrived(_) => format!("{name} to n{to}"),
            End::Lost(..) => format!("{name} to n{to}, lost"),
            End::Nobody(_) => format!("{name} to n{to}, nobody there"),
            End::Open => format!("{name} to n{to}, on its way"),
        };
        out.push(slice(from, PACKETS, fate, message.sent, message.sent + 1_000));
        if let End::Arrived(at) = message.end {
            threads.insert((to, PACKETS), "packets".into());
            out.push(slice(to, PACKETS, format!("{name} from n{from}"), at, at + 1_000));
            out.push(flow("s", from, message.sent));
            out.push(flow("f", to, at));
        }
    }
    if let Some(violation) = &run.violation {
        let name = format!("VIOLATED {}: {}", violation.checker, violation.what);
        out.push(json!({ "ph": "i", "s": "g", "pid": WORLD, "tid": 0, "name": name, "ts": us(violation.at) }));
    }
    let pids: BTreeSet<u32> = threads.keys().map(|(pid, _)| *pid).chain([WORLD]).collect();
    let names = pids.into_iter().map(|pid| {
        let name = if pid == WORLD { "faults".into() } else { format!("n{pid}") };
        named("process_name", pid, 0, &name)
    });
    let names = names.chain(threads.iter().map(|((pid, tid), name)| named("thread_name", *pid, *tid, name)));
    let all: Vec<Value> = names.chain(out).collect();
    json!({ "traceEvents": all, "displayTimeUnit": "ms" }).to_string()
}
