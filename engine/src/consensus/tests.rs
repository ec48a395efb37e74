//! The log against a plain list, and quorums against counting, also under joint members.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::log::Log;
use super::{Consensus, Entry, Membership, Payload, Snapshot};
use crate::config::{Bootstrap, Config};
use crate::context::Shared;
use crate::ids::{Epoch, Index, NO_CAUSE, NodeId, ResourceId, Term};
use crate::io::{Durable, Part};
use crate::rng::{Rng, Seed};
use crate::time::Time;

fn members(rng: &mut Rng) -> Membership {
    let mut some = || (0..6).filter(|_| rng.below(2) == 0).map(NodeId).collect::<BTreeSet<_>>();
    let (mut voters, outgoing, learners) = (some(), some(), some());
    voters.insert(NodeId(0));
    Membership { voters, outgoing, learners, ..Membership::default() }
}

fn payload(rng: &mut Rng) -> Payload {
    let resource = ResourceId(u16::try_from(rng.below(3)).unwrap_or(0));
    match rng.below(5) {
        0 => Payload::Config(members(rng).into()),
        1 => Payload::Grant { resource, holder: NodeId(u16::try_from(rng.below(4)).unwrap_or(0)), because: NO_CAUSE },
        2 => Payload::Release { resource, epoch: Epoch(rng.below(9)) },
        3 => Payload::Lead(NodeId(1)),
        _ => Payload::Note(alloc::vec![1]),
    }
}

/// The same, as a list of everything ever kept.
struct Plain {
    base: Snapshot,
    entries: Vec<Entry>,
}

impl Plain {
    fn last(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }
    fn find<T>(&self, what: impl Fn(&Entry) -> Option<T>) -> Option<T> {
        self.entries.iter().rev().find_map(what)
    }
}

#[test]
fn the_log_is_a_list() {
    let mut rng = Seed(1).stream("log");
    for _ in 0..2_000 {
        let base = Snapshot { membership: members(&mut rng), ..Snapshot::default() };
        let mut log = Log::new(Arc::new(base.clone()), []);
        let mut plain = Plain { base, entries: Vec::new() };
        for _ in 0..40 {
            let last = plain.last();
            match rng.below(8) {
                0 if last > plain.base.index => {
                    let from = Index(rng.between(plain.base.index.0 + 1, last.0));
                    let had = plain.entries.iter().any(|e| e.index >= from && matches!(e.payload, Payload::Config(_)));
                    assert_eq!(log.truncate(from), had);
                    plain.entries.retain(|entry| entry.index < from);
                }
                1 if last > plain.base.index => {
                    // A snapshot of this log up to some entry, or of another one that goes further.
                    let own = rng.below(2) == 0;
                    let index = Index(rng.between(plain.base.index.0 + 1, last.0) + if own { 0 } else { rng.below(3) });
                    let term = log.term(index).filter(|_| own).unwrap_or(Term(99));
                    let snapshot = Snapshot { index, term, membership: members(&mut rng), ..Snapshot::default() };
                    log.compact(Arc::new(snapshot.clone()));
                    plain.entries.retain(|entry| own && entry.index > index);
                    plain.base = snapshot;
                }
                _ => {
                    let entry = Entry { index: last.next(), term: Term(1 + last.0 / 7), payload: payload(&mut rng) };
                    log.push(entry.clone());
                    plain.entries.push(entry);
                }
            }
            compare(&log, &plain, &mut rng);
        }
    }
}

fn compare(log: &Log, plain: &Plain, rng: &mut Rng) {
    assert_eq!(log.last_index(), plain.last());
    assert_eq!(log.last_term(), plain.entries.last().map_or(plain.base.term, |entry| entry.term));
    for index in (0..=plain.last().0 + 1).map(Index) {
        assert_eq!(log.entry(index), plain.entries.iter().find(|entry| entry.index == index));
    }
    let from = Index(rng.between(plain.base.index.0 + 1, plain.last().0 + 1));
    let rest: Vec<&Entry> = plain.entries.iter().filter(|entry| entry.index >= from).take(3).collect();
    assert_eq!(log.from(from, 3).iter().collect::<Vec<_>>(), rest);
    let set = plain.find(|entry| match &entry.payload {
        Payload::Config(members) => Some((members.clone(), entry.index)),
        _ => None,
    });
    let (members, at) = set.unwrap_or((Arc::new(plain.base.membership.clone()), plain.base.index));
    assert_eq!((log.membership(), log.membership_index()), (&*members, at));
    for resource in (0..3).map(ResourceId) {
        let grant = plain.find(|entry| match entry.payload {
            Payload::Grant { resource: of, holder, .. } if of == resource => Some((Epoch(entry.index.0), holder)),
            _ => None,
        });
        assert_eq!(log.newest_grant(resource), grant);
        let commit = Index(rng.below(plain.last().0 + 2));
        let open = plain.entries.iter().any(|entry| {
            entry.index > commit
                && match entry.payload {
                    Payload::Grant { resource: of, .. } | Payload::Release { resource: of, .. } => of == resource,
                    _ => false,
                }
        });
        assert_eq!(log.in_flight(resource, commit), open);
    }
}

#[test]
fn a_quorum_is_a_majority_of_each_set_of_voters() {
    let mut rng = Seed(2).stream("quorum");
    for _ in 0..20_000 {
        let members = members(&mut rng);
        let snapshot = Snapshot { index: Index(1), term: Term(1), membership: members.clone(), ..Snapshot::default() };
        let config = Config::new(NodeId(0), Bootstrap { voters: alloc::vec![NodeId(0)], ..Bootstrap::default() });
        let durable = Durable { snapshot: Some(snapshot.into()), ..Durable::formatted() };
        let consensus = Consensus::new(&config, durable, Time(0), &mut rng);
        let has: BTreeSet<NodeId> = (0..6).filter(|_| rng.below(2) == 0).map(NodeId).collect();
        let most = |voters: &BTreeSet<NodeId>| 2 * voters.intersection(&has).count() > voters.len();
        let want = most(&members.voters) && (members.outgoing.is_empty() || most(&members.outgoing));
        let mut shared = Shared::of(config);
        let mut part = Seed(3).stream("consensus");
        let ctx = shared.ctx(&mut part, Part::Consensus, Time(0));
        assert_eq!(consensus.is_quorum(&ctx, |node| has.contains(&node)), want, "{has:?} of {members:?}");
        // Two quorums of members that follow each other share a voter.
        let rest: BTreeSet<NodeId> = (0..6).map(NodeId).filter(|node| !has.contains(node)).collect();
        assert!(!(want && consensus.is_quorum(&ctx, |node| rest.contains(&node))));
    }
}
