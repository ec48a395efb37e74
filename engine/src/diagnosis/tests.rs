//! The laws of the state table, the deadline against RFC 6298, and the shape of the rings, each against the simplest model.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::probe::Rtt;
use super::ring::Rings;
use super::{Diagnosis, News, Status};
use crate::config::{Bootstrap, Config, DiagnosisConfig};
use crate::context::Shared;
use crate::ids::{EvidenceId, Incarnation, NodeId};
use crate::io::Part;
use crate::rng::{Rng, Seed};
use crate::time::{Micros, Time};

const NODES: u16 = 8;

fn config() -> Config {
    Config::new(NodeId(0), Bootstrap { voters: (0..NODES).map(NodeId).collect(), ..Bootstrap::default() })
}

/// What an honest node could say of node 5: nobody is accused at an even counter, a verdict has two accusers.
fn news(rng: &mut Rng) -> News {
    let ctr = u32::try_from(rng.below(4)).unwrap_or(0);
    let mut accusers: Vec<NodeId> = (1..5).filter(|_| ctr % 2 == 1 && rng.below(3) == 0).map(NodeId).collect();
    if ctr % 2 == 1 && accusers.is_empty() {
        accusers.push(NodeId(1));
    }
    let inc = Incarnation(u32::try_from(1 + rng.below(2)).unwrap_or(1));
    News { node: NodeId(5), inc, ctr, down: accusers.len() >= 2, accusers, evidence: EvidenceId::NONE }
}

/// What a node knows of node 5 after these items: life, counter, accusers, verdict, and the digest of its table.
fn after(items: &[News]) -> (u32, u32, BTreeSet<NodeId>, bool, u64) {
    let mut shared = Shared::of(config());
    let mut rng = Seed(1).stream("diagnosis");
    let now = Time(1_000_000);
    let mut diagnosis = Diagnosis::new(&config(), Incarnation(1), now, &mut rng);
    let mut ctx = shared.ctx(&mut rng, Part::Diagnosis, now);
    for item in items {
        diagnosis.take_news(&mut ctx, alloc::vec![item.clone()], false);
    }
    let entry = diagnosis.table.entry(5);
    (entry.inc.0, entry.ctr, entry.accusers.iter().copied().collect(), entry.down, diagnosis.table.digest())
}

#[test]
fn merging_is_idempotent_commutative_and_associative() {
    let mut rng = Seed(2).stream("news");
    for _ in 0..20_000 {
        let items: Vec<News> = (0..1 + rng.below(6)).map(|_| news(&mut rng)).collect();
        let once = after(&items);
        // Any order, with repetitions: what is in it decides.
        let mut again = items.clone();
        again.extend(items.iter().filter(|_| rng.below(2) == 0).cloned().collect::<Vec<_>>());
        for at in (1..again.len()).rev() {
            again.swap(at, usize::try_from(rng.below(at as u64 + 1)).unwrap_or(0));
        }
        assert_eq!(after(&again), once, "{items:?}\n{again:?}");
        // The model: the newest life and counter win, their accusers are united, two make a verdict.
        let newest = items.iter().map(|item| (item.inc.0, item.ctr)).max().unwrap_or_default();
        let of_newest = items.iter().filter(|item| (item.inc.0, item.ctr) == newest);
        let accusers: BTreeSet<NodeId> = of_newest.flat_map(|item| item.accusers.clone()).collect();
        let down = newest.1 % 2 == 1 && accusers.len() >= 2;
        assert_eq!((once.0, once.1, &once.2, once.3), (newest.0, newest.1, &accusers, down), "{items:?}");
    }
}

/// A verdict of this node's alone is one to it, and none to act on beyond it.
#[test]
fn a_lone_verdict_is_no_conviction() {
    let mut shared = Shared::of(config());
    let mut rng = Seed(1).stream("diagnosis");
    let now = Time(1_000_000);
    let mut diagnosis = Diagnosis::new(&config(), Incarnation(1), now, &mut rng);
    let mut ctx = shared.ctx(&mut rng, Part::Diagnosis, now);
    let (node, inc) = (NodeId(5), Incarnation(1));
    let accused = |accusers: &[NodeId]| {
        let evidence = EvidenceId::NONE;
        alloc::vec![News { node, inc, ctr: 1, down: accusers.len() >= 2, accusers: accusers.to_vec(), evidence }]
    };
    diagnosis.take_news(&mut ctx, accused(&[NodeId(1)]), false);
    assert!(!diagnosis.is_convicted(node), "a suspicion");
    diagnosis.convict(&mut ctx, node, true);
    assert_eq!(diagnosis.status(node), Some((Status::Down, inc)));
    assert!(!diagnosis.is_convicted(node), "its own verdict alone");
    diagnosis.take_news(&mut ctx, accused(&[NodeId(1), NodeId(2)]), false);
    assert!(diagnosis.is_convicted(node), "two say so");
    assert!(!diagnosis.is_convicted(NodeId(99)), "no member");
}

#[test]
fn a_table_merges_what_another_merged_as_if_it_had_heard_it_itself() {
    let mut rng = Seed(3).stream("news");
    for _ in 0..5_000 {
        let items: Vec<News> = (0..2 + rng.below(5)).map(|_| news(&mut rng)).collect();
        let (left, right) = items.split_at(items.len() / 2);
        let told = |part: &[News]| {
            let (inc, ctr, accusers, down, _) = after(part);
            let accusers = accusers.into_iter().collect();
            News { node: NodeId(5), inc: Incarnation(inc), ctr, accusers, down, evidence: EvidenceId::NONE }
        };
        assert_eq!(after(&[told(left), told(right)]), after(&items), "{items:?}");
    }
}

#[test]
fn a_node_never_believes_ill_of_itself_and_contradicts_with_a_higher_counter() {
    let mut rng = Seed(4).stream("news");
    let mut shared = Shared::of(config());
    let mut parts_rng = Seed(1).stream("diagnosis");
    let now = Time(1_000_000);
    let mut diagnosis = Diagnosis::new(&config(), Incarnation(1), now, &mut parts_rng);
    let mut highest = 0;
    for _ in 0..1_000 {
        let item = News { node: NodeId(0), inc: Incarnation(1), ..news(&mut rng) };
        highest = highest.max(item.ctr);
        let mut ctx = shared.ctx(&mut parts_rng, Part::Diagnosis, now);
        diagnosis.take_news(&mut ctx, alloc::vec![item.clone()], false);
        let me = diagnosis.table.entry(0);
        assert!(!me.down && me.ctr.is_multiple_of(2) && me.accusers.is_empty());
        assert!(item.ctr.is_multiple_of(2) || me.ctr > item.ctr, "{item:?} is not contradicted by {}", me.ctr);
    }
    assert!(highest == 3);
}

#[test]
fn an_accusation_of_an_earlier_life_is_answered_with_this_one() {
    for (inc, ctr, answered) in [(0, 1, true), (1, 3, true), (1, 2, false), (2, 0, false)] {
        let mut shared = Shared::of(config());
        let mut rng = Seed(1).stream("diagnosis");
        let now = Time(1_000_000);
        let mut diagnosis = Diagnosis::new(&config(), Incarnation(2), now, &mut rng);
        // A node that is back has news of itself from the start.
        diagnosis.fresh.clear();
        let mut ctx = shared.ctx(&mut rng, Part::Diagnosis, now);
        let accusers = if ctr % 2 == 1 { alloc::vec![NodeId(1)] } else { Vec::new() };
        let (node, inc) = (NodeId(0), Incarnation(inc));
        let item = News { node, inc, ctr, accusers, down: false, evidence: EvidenceId::NONE };
        diagnosis.take_news(&mut ctx, alloc::vec![item], false);
        let told = diagnosis.fresh.contains(&0).then(|| diagnosis.table.news(0).inc);
        assert_eq!(told, answered.then_some(Incarnation(2)), "life {inc:?}, counter {ctr}");
    }
}

#[test]
fn the_deadline_is_that_of_rfc_6298() {
    let config = DiagnosisConfig::default();
    let mut rng = Seed(5).stream("rtt");
    for _ in 0..500 {
        let mut rtt = Rtt::default();
        // In 2⁻²⁰ microseconds, so that rounding does not show.
        let (mut smooth, mut var) = (0_i128, 0_i128);
        for round in 0..100 {
            let spread = 1 + rng.below(200_000);
            let sample = 100 + rng.below(spread);
            rtt.observe(Micros(sample));
            let sample = i128::from(sample) << 20;
            if round == 0 {
                (smooth, var) = (sample, sample / 2);
            } else {
                var = (3 * var + (smooth - sample).abs()) / 4;
                smooth = (7 * smooth + sample) / 8;
            }
            let exact = (smooth + 4 * var) >> 20;
            let bounded = exact.clamp(i128::from(config.deadline_floor.0), i128::from(config.deadline_ceiling.0));
            let is = i128::from(rtt.deadline(&config).0);
            // Rounding down twice a sample loses at most 2·8 µs of the mean and (2 + 16/4)·4 µs of the deviation.
            assert!((is - bounded).abs() <= 16 + 4 * 24, "{is} µs, exactly {bounded} µs");
        }
    }
}

#[test]
fn every_node_has_its_observers_and_every_ring_is_one_cycle() {
    for len in 1..300_usize {
        for many in 1..=4 {
            let rings = Rings::new(len, many);
            assert_eq!(rings.offsets.len(), many.min(len - 1));
            let prime = (1..len).filter(|offset| (2..=*offset).all(|by| offset % by != 0 || len % by != 0)).count();
            for ring in 0..rings.offsets.len() {
                let mut at = 0;
                let mut seen = BTreeSet::new();
                while seen.insert(at) {
                    assert_eq!(rings.behind(rings.ahead(at, ring, 1), ring, 1), at);
                    at = rings.ahead(at, ring, 1);
                }
                // While there are enough numbers prime to the length, each ring visits everybody.
                assert!(seen.len() == len || prime < 4 * many, "ring {ring} of {len} visits {}", seen.len());
            }
            let observers: BTreeSet<usize> = (0..rings.offsets.len()).map(|ring| rings.behind(0, ring, 1)).collect();
            assert_eq!(observers.len(), rings.offsets.len(), "observers of one node are different nodes");
        }
    }
}
