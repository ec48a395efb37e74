//! Chrome and Perfetto JSON: nodes as processes; faults, lives and holders as slices; messages as flows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::words;
use crate::fault::Ns;
use crate::report::Run;
use crate::trace::What;

/// Microseconds with a fraction, as the format wants it.
fn us(at: Ns) -> Value {
    json!(format!("{}.{:03}", at / 1_000, at % 1_000).parse::<serde_json::Number>().ok())
}

/// The trace as JSON text.
#[must_use]
pub fn perfetto(run: &Run) -> String {
    let mut out: Vec<Value> = Vec::new();
    let mut lives: BTreeMap<u16, Ns> = BTreeMap::new();
    let mut held: BTreeMap<(u16, u16), (Ns, Ns, u64)> = BTreeMap::new();
    let slice = |pid: u16, tid: &str, name: String, from: Ns, to: Ns| json!({ "ph": "X", "pid": pid, "tid": tid, "name": name, "ts": us(from), "dur": us(to.saturating_sub(from)) });
    for line in &run.trace {
        let pid = line.node.map_or(u16::MAX, |node| node.0);
        match &line.what {
            What::Boot(_) => {
                lives.insert(pid, line.at);
            }
            What::Halt => {
                if let Some(from) = lives.remove(&pid) {
                    out.push(slice(pid, "life", "runs".into(), from, line.at));
                }
            }
            What::Armed { resource, epoch, until } => {
                let until = (*until).min(run.simulated);
                let entry = held.entry((pid, resource.0)).or_insert((line.at, until, epoch.0));
                if entry.2 == epoch.0 && line.at <= entry.1 {
                    entry.1 = until;
                } else {
                    let (from, to, old) = std::mem::replace(entry, (line.at, until, epoch.0));
                    out.push(slice(pid, "holds", format!("{resource} e{old}"), from, to));
                }
            }
            What::Disarmed { resource, .. } => {
                if let Some((from, _, epoch)) = held.remove(&(pid, resource.0)) {
                    out.push(slice(pid, "holds", format!("{resource} e{epoch}"), from, line.at));
                }
            }
            What::FaultStart { fault, kind, .. } => {
                out.push(json!({ "ph": "b", "cat": "fault", "id": fault, "pid": pid, "name": kind.spec().name, "ts": us(line.at) }));
            }
            What::FaultStop { fault, kind, .. } => {
                out.push(json!({ "ph": "e", "cat": "fault", "id": fault, "pid": pid, "name": kind.spec().name, "ts": us(line.at) }));
            }
            What::Event(event) => {
                out.push(json!({ "ph": "i", "s": "t", "pid": pid, "tid": "events", "name": words(event), "ts": us(line.at) }));
            }
            What::Sent { id, kind, .. } => {
                let name = apus_engine::wire::kind_name(*kind);
                out.push(json!({ "ph": "s", "cat": "packet", "id": id, "pid": pid, "tid": "packets", "name": name, "ts": us(line.at) }));
            }
            What::Received { id, kind, .. } => {
                let name = apus_engine::wire::kind_name(*kind);
                let at = us(line.at);
                out.push(json!({ "ph": "f", "bp": "e", "cat": "packet", "id": id, "pid": pid, "tid": "packets", "name": name, "ts": at }));
            }
            _ => {}
        }
    }
    for (pid, from) in lives {
        out.push(slice(pid, "life", "runs".into(), from, run.simulated));
    }
    for ((pid, resource), (from, to, epoch)) in held {
        out.push(slice(pid, "holds", format!("r{resource} e{epoch}"), from, to.min(run.simulated)));
    }
    json!({ "traceEvents": out, "displayTimeUnit": "ms" }).to_string()
}
