//! The fault budget: which voters a fault takes out, and for how long, so that a quorum and one good copy survive.

use std::collections::BTreeSet;

use super::model::Scenario;
use crate::fault::{Aim, Cost, Fault, Kind, MS, Ns, S, Target};

/// Two faults that take nodes out are at least this far apart, so that each is felt by itself.
pub(super) const CALM: Ns = 500 * MS;
/// A node that lost its disk needs this long until it votes again.
const READMIT: Ns = 6 * S;
/// A fault on a role that nobody has at the moment starts this much later at most, as a rule.
const WAIT: Ns = 2 * S;

/// How many voters may be missing at once.
pub(super) const fn minority(scenario: &Scenario) -> usize {
    (if scenario.voters == 0 { 0 } else { scenario.voters as usize - 1 }) / 2
}

/// The voters that a fault takes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    /// Those that are known by number.
    pub(super) voters: BTreeSet<u16>,
    /// One more, known only when it starts.
    pub(super) someone: bool,
}

/// Whom a fault with a resolved target takes out.
pub(super) fn hit(scenario: &Scenario, kind: Kind, target: &Target) -> Hit {
    if kind.spec().cost == Cost::Free {
        return Hit::default();
    }
    let all: BTreeSet<u16> = (0..scenario.voters).collect();
    match target {
        Target::All if kind.spec().aim == Aim::Cut => Hit::default(),
        Target::All => Hit { voters: all, someone: false },
        Target::Nodes(nodes) => {
            let inside: BTreeSet<u16> =
                nodes.iter().map(|node| node.0).filter(|node| *node < scenario.voters).collect();
            // A cut leaves the larger side working.
            let other_side = kind.spec().aim == Aim::Cut && inside.len() * 2 > all.len();
            let voters = if other_side { all.difference(&inside).copied().collect() } else { inside };
            Hit { voters, someone: false }
        }
        _ => Hit { voters: BTreeSet::new(), someone: true },
    }
}

/// From when to when a fault counts.
fn window(fault: &Fault) -> (Ns, Ns) {
    let end = match fault.kind {
        Kind::PermanentLoss | Kind::RemoveNode => Ns::MAX,
        kind if kind.spec().cost == Cost::Disk => fault.at.saturating_add(fault.lasts).saturating_add(READMIT),
        _ => fault.at.saturating_add(fault.lasts).saturating_add(CALM),
    };
    let end = if matches!(fault.target, Target::Nodes(_) | Target::All) { end } else { end.saturating_add(WAIT) };
    (fault.at, end)
}

fn overlap(a: &Fault, b: &Fault) -> bool {
    let (a, b) = (window(a), window(b));
    a.0 < b.1 && b.0 < a.1
}

/// Whether a kind stops the process of a node, so that two of them on one node would hide each other.
const fn stops_process(kind: Kind) -> bool {
    let spec = kind.spec();
    !matches!(spec.cost, Cost::Free) && !matches!(spec.aim, Aim::Cut | Aim::Links)
}

fn nodes(target: &Target) -> Option<&[apus_engine::NodeId]> {
    match target {
        Target::Nodes(nodes) => Some(nodes),
        _ => None,
    }
}

/// Whether both stop the process of the same node at the same time.
fn collide(a: &Fault, b: &Fault) -> bool {
    if !stops_process(a.kind) || !stops_process(b.kind) || !overlap(a, b) {
        return false;
    }
    match (nodes(&a.target), nodes(&b.target)) {
        (Some(a), Some(b)) => a.iter().any(|node| b.contains(node)),
        _ => a.target == Target::All || b.target == Target::All,
    }
}

/// Adds to what is kept, in order of time, each fault that leaves a quorum and one good copy.
pub(super) fn keep(scenario: &Scenario, kept: &mut Vec<Fault>, mut candidates: Vec<Fault>) {
    candidates.sort();
    for fault in candidates {
        if fits(scenario, kept, &fault) {
            kept.push(fault);
        }
    }
}

fn fits(scenario: &Scenario, kept: &[Fault], fault: &Fault) -> bool {
    let cost = fault.kind.spec().cost;
    if cost == Cost::Free {
        return true;
    }
    if kept.iter().any(|other| collide(other, fault)) {
        return false;
    }
    let at_once = kept.iter().filter(|other| overlap(other, fault));
    if together(scenario, at_once.chain([fault])) > minority(scenario) {
        return false;
    }
    let disks = kept.iter().filter(|other| other.kind.spec().cost == Cost::Disk);
    cost != Cost::Disk || together(scenario, disks.chain([fault])) <= minority(scenario)
}

/// How many voters some faults take out together at most.
pub(super) fn together<'f>(scenario: &Scenario, faults: impl Iterator<Item = &'f Fault>) -> usize {
    let mut known = BTreeSet::new();
    let mut unknown = 0;
    for fault in faults {
        let hit = hit(scenario, fault.kind, &fault.target);
        known.extend(hit.voters);
        unknown += usize::from(hit.someone);
    }
    known.len() + unknown
}

/// How many voters a kind aimed like this takes out at least, whatever is drawn.
pub(super) fn least(scenario: &Scenario, kind: Kind, target: &Target) -> usize {
    if kind.spec().cost == Cost::Free {
        return 0;
    }
    let voters = usize::from(scenario.voters);
    let learners = usize::from(scenario.members.saturating_sub(scenario.voters));
    let drawn = |n: usize| (n.saturating_sub(learners), n.min(voters));
    let (low, high) = match target {
        Target::Random => drawn(1),
        Target::Some(n) => drawn(usize::from(*n)),
        Target::Half => drawn(usize::from(scenario.members / 2)),
        Target::Minority => return minority(scenario),
        Target::Bystander | Target::Dispatcher | Target::Holder(_) => drawn(1),
        Target::Voter | Target::Leader | Target::Follower => return 1,
        Target::All | Target::Nodes(_) => return hit(scenario, kind, target).voters.len(),
    };
    if kind.spec().aim == Aim::Cut { low.min(voters.saturating_sub(high)) } else { low }
}
