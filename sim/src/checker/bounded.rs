//! Memory and message rate stay within what the configuration implies.

use super::{Checker, Look, logs, nodes};
use crate::fault::{Kind, Ns, S};
use crate::scenario::{Plan, Workload};
use crate::trace::{Line, What};

/// The log is compacted: it never holds more than twice what is kept, and what is in flight.
#[derive(Clone, Default)]
pub(super) struct BoundedMemory;

impl Checker for BoundedMemory {
    fn name(&self) -> &'static str {
        "bounded-memory"
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        for (node, log) in logs(look) {
            let config = &look.plan().configs[usize::from(node.0)].consensus;
            let held = (0..).take_while(|back| {
                log.last_index().0 > *back && log.entry(apus_engine::Index(log.last_index().0 - back)).is_some()
            });
            let most = 2 * u64::from(config.keep) + 2 * u64::from(config.window) + 64;
            let held = held.take(most as usize + 1).count() as u64;
            // What is not committed yet cannot be compacted.
            let open = log.last_index().0.saturating_sub(log.commit().0);
            if held > most + open {
                return Err(format!("{node} holds {held} log entries, {most} are the bound"));
            }
        }
        Ok(())
    }
}

/// What one node's engine may be handed in a second at most: its duties several times over, and all that faults and
/// clients throw at it. Beyond that messages breed messages.
#[must_use]
pub fn work_bound(plan: &Plan) -> u64 {
    let nodes = plan.configs.len() as u64;
    let size = |kinds: &[Kind]| {
        let sizes = plan.faults.iter().filter(|fault| kinds.contains(&fault.kind)).map(|fault| fault.size);
        sizes.fold(0, u64::saturating_add)
    };
    let notes = match plan.scenario.workload {
        Workload::Notes { clients, rate } => u64::from(clients) * u64::from(rate) * size(&[Kind::RetryStorm]).max(1),
        _ => 0,
    };
    let clients = (notes + size(&[Kind::LoadSpike])) * (2 * nodes + 4);
    20_000 + 4 * BoundedRate::new(plan).bound + 4 * size(&[Kind::Flood]) + clients
}

/// In quiet times a node sends no more than its duties.
#[derive(Clone)]
pub(super) struct BoundedRate {
    bound: u64,
    quiet_after: Ns,
}

impl BoundedRate {
    pub(super) fn new(plan: &Plan) -> Self {
        let config = &plan.configs[0];
        let probes = 2 * u64::from(config.diagnosis.observers) * 1_000_000 / config.diagnosis.period.0.max(1);
        let beats = 2 * plan.configs.len() as u64 * 1_000_000 / config.consensus.heartbeat.0.max(1);
        let renewals = 2 * 6 * 1_000_000 / config.views.lease.0.max(1) * config.resources.len() as u64;
        let notes = match plan.scenario.workload {
            Workload::Notes { clients, rate } => 2 * u64::from(clients) * u64::from(rate) * plan.configs.len() as u64,
            _ => 0,
        };
        // Of replicated files: the records of each step and their answers, and the words of who writes.
        let files = plan.scenario.files.as_ref().map_or(0, |files| {
            u64::from(files.copies) * (40 + 8 * u64::from(files.rate) + if files.scrub > 0 { 400 } else { 0 })
        });
        Self { bound: 2 * (probes + beats + renewals + notes + files) + 100, quiet_after: Ns::MAX }
    }
}

impl Checker for BoundedRate {
    fn name(&self) -> &'static str {
        "bounded-rate"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if matches!(line.what, What::Healed) {
            self.quiet_after = line.at + 5 * S;
        }
        Ok(())
    }
    fn second(&mut self, now: Ns, sent: &[u64], _look: &dyn Look) -> Result<(), String> {
        let worst = sent.iter().enumerate().max_by_key(|(_, sent)| **sent);
        match worst {
            Some((node, sent)) if now > self.quiet_after && *sent > self.bound => {
                Err(format!("n{node} sent {sent} packets in a quiet second, {} are the bound", self.bound))
            }
            _ => Ok(()),
        }
    }
}

/// Without a fault on the wire every packet is understood.
#[derive(Clone)]
pub(super) struct CleanWire {
    clean: bool,
}

impl CleanWire {
    pub(super) fn new(plan: &Plan) -> Self {
        let dirty = |kind| {
            matches!(
                kind,
                Kind::Corrupt
                    | Kind::CorruptUnseen
                    | Kind::Truncate
                    | Kind::Spoof
                    | Kind::Flood
                    | Kind::Garbled
                    | Kind::WrongCluster
                    | Kind::Upgrade
            )
        };
        Self { clean: !plan.faults.iter().any(|fault| dirty(fault.kind)) }
    }
}

impl Checker for CleanWire {
    fn name(&self) -> &'static str {
        "clean-wire"
    }
    fn end(&mut self, look: &dyn Look) -> Result<(), String> {
        for node in nodes(look) {
            let Some(engine) = look.engine(node).filter(|_| self.clean) else { continue };
            let counters = engine.counters();
            let bad =
                counters.malformed + counters.damaged + counters.version + counters.unknown_kind + counters.spoofed;
            if bad + counters.other_cluster > 0 {
                return Err(format!("{node} could not read packets of its peers: {counters:?}"));
            }
        }
        Ok(())
    }
}
