//! What the control socket tells about services, and the end of copies that nobody wants.

use std::collections::BTreeMap;
use std::time::Duration;

use apus_engine::supervision::Phase;
use apus_engine::{Copy, ServiceConfig};
use apus_os::linux::clock;
use apus_os::program::Cause;
use serde_json::{Value, json};

use super::control::Serving;
use super::now;
use crate::slot_resource;

/// A copy that an earlier daemon left is stopped when nobody has claimed it for so long, in looks with a coordinator known.
const LOOKS: u32 = 10;

impl Serving {
    /// Every slot: who holds it, and, if a copy is here, what it does.
    pub(super) fn services(&self) -> Value {
        let engine = self.engine.borrow();
        let Some((_, log, _, supervision)) = engine.look() else {
            return json!({"node": self.me.0, "services": []});
        };
        let phases: BTreeMap<Copy, Phase> = supervision.copies().collect();
        let slots = self.services.iter().flat_map(|service| (0..service.degree).map(move |slot| (service, slot)));
        let rows: Vec<Value> = slots
            .map(|(service, slot)| {
                let copy = Copy { service: service.id, slot };
                let grant = log.state().grants.get(&slot_resource(service.id, slot));
                let holder = grant.filter(|grant| !grant.released).map(|grant| grant.holder.0);
                let mut row = self.here(service, copy, phases.get(&copy).copied().unwrap_or_default());
                row["name"] = json!(service.name);
                row["slot"] = json!(slot);
                row["node"] = json!(holder);
                row["epoch"] = json!(grant.map(|grant| grant.epoch.0));
                row
            })
            .collect();
        json!({"node": self.me.0, "services": rows})
    }

    /// The copy on this node.
    fn here(&self, service: &ServiceConfig, copy: Copy, phase: Phase) -> Value {
        let known = self.programs.known(copy).unwrap_or_default();
        let (state, next) = match phase {
            Phase::Stopped => ("stopped", None),
            Phase::Blocked => ("blocked", None),
            Phase::Starting { .. } => ("starting", None),
            Phase::Ready => ("ready", None),
            Phase::Standby => ("standby", None),
            Phase::Promoting { .. } => ("promoting", None),
            Phase::Capturing { .. } => ("hung", None),
            Phase::Stopping { .. } => ("stopping", None),
            Phase::BackingOff { until } => ("backing off", Some(until)),
            Phase::GivenUp { until } => ("given up", Some(until)),
        };
        let boot = clock::boot();
        let ms = |nanos: u64| nanos / 1_000_000;
        let runs = known.runs;
        json!({
            "here": phase != Phase::Stopped || runs.is_some(),
            "state": if state == "stopped" && runs.is_some() { "left running" } else { state },
            "next_ms": next.map(|until| until.since(now()).0 / 1_000),
            "pid": runs.map(|runs| runs.main.pid),
            "keeper": runs.map(|_| known.keeper),
            "running_ms": runs.map(|runs| ms(boot.saturating_sub(runs.since))),
            "starts": known.starts,
            "restarts": known.starts.saturating_sub(1),
            "last_end": known.last.map(|end| tell(end.cause)),
            "last_end_ms_ago": known.last.map(|end| ms(boot.saturating_sub(end.at))),
            "lease_ms": known.lease(boot).map(ms),
            "fenced": known.fenced(),
            "note": known.note,
            "requires": service.requires.iter().map(|id| id.0).collect::<Vec<_>>(),
        })
    }

    /// Whether the log gives the slot of a copy to this node: its engine takes the copy over once its lease is renewed, and if that takes
    /// too long the lease ends the copy.
    fn is_granted(&self, copy: Copy) -> bool {
        let engine = self.engine.borrow();
        let grants = engine.look().map(|(_, log, ..)| &log.state().grants);
        let grant = grants.and_then(|grants| grants.get(&slot_resource(copy.service, copy.slot)));
        grant.is_some_and(|grant| grant.holder == self.me && !grant.released)
    }

    fn coordinated(&self) -> bool {
        self.engine.borrow().look().is_some_and(|(_, log, ..)| log.leader().is_some())
    }
}

/// For people.
fn tell(cause: Cause) -> String {
    match cause {
        Cause::Code(code) => format!("exit code {code}"),
        Cause::Signal(signal) => format!("signal {signal}"),
        Cause::OutOfMemory => "out of memory".into(),
        Cause::Guard => "its lease ran out".into(),
        Cause::Stopped => "stopped".into(),
    }
}

/// Looks for copies that an earlier daemon left and that are nobody's here: without a lease nothing else would end them.
pub(super) async fn unclaimed(serving: Serving) {
    let mut looks = BTreeMap::<Copy, u32>::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let unclaimed = serving.programs.unclaimed();
        looks.retain(|copy, _| unclaimed.contains(copy));
        if !serving.coordinated() {
            continue;
        }
        for copy in unclaimed {
            if serving.is_granted(copy) {
                looks.remove(&copy);
                continue;
            }
            let seen = looks.entry(copy).or_default();
            *seen += 1;
            if *seen == LOOKS {
                serving.programs.end(copy);
            }
        }
    }
}
