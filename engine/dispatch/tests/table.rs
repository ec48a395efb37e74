//! Tables from members: balance, moves, order, former servers, and bytes that never change.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod bed;

use std::collections::BTreeMap;

use apus_dispatch::{
    Block, BuildError, DEFAULT_LOG2_SLOTS, Head, Key, MAX_WEIGHT, Mac, Member, Members, NOBODY, Table as _, build,
    checksum, primaries,
};
use bed::Random;

fn mac(id: u64) -> Mac {
    let [_, _, _, a, b, c, d, e] = (id + 1).to_be_bytes();
    [2, a, b, c, d, e]
}

fn member(id: u64, weight: u32) -> Member {
    Member { id, mac: mac(id), weight, draining: false }
}

fn set(all: &[Member]) -> Members {
    Members::new(all.iter().copied()).expect("they can be told apart")
}

fn head(log2_slots: u8, epoch: u64) -> Head {
    Head { epoch, seed: 7, log2_slots, key: Key::Ports, v4: [10, 0, 0, 1], v6: [9; 16], claim: [2; 6] }
}

/// The number of each slot's server.
fn ids(seed: u64, log2: u8, all: &[Member]) -> Vec<u64> {
    let members = set(all);
    let slots = primaries(seed, log2, &members).expect("a size that exists");
    slots.iter().map(|place| members.all()[usize::from(*place)].id).collect()
}

/// Parts in a million.
fn ppm(part: u64, whole: u64) -> u64 {
    part * 1_000_000 / whole
}

/// The least and the most of its share that a server has, in parts in a million.
fn balance(slots: &[u64], all: &[Member]) -> (u64, u64) {
    let mut has: BTreeMap<u64, u64> = BTreeMap::new();
    slots.iter().for_each(|id| *has.entry(*id).or_default() += 1);
    let weight = |member: &Member| if member.draining { 0 } else { u64::from(member.weight) };
    let total: u64 = all.iter().map(weight).sum();
    let shares = all.iter().filter(|member| weight(member) > 0).map(|member| {
        let has = has.get(&member.id).copied().unwrap_or(0);
        ppm(has * total, slots.len() as u64 * weight(member))
    });
    shares.fold((u64::MAX, 0), |(least, most), share| (least.min(share), most.max(share)))
}

/// Changes one member; tells whose slots may go, and whose may come.
fn change(all: &mut Vec<Member>, what: u64, draw: &mut Random) -> (Option<u64>, Option<u64>) {
    let at = draw.below(all.len() as u64) as usize;
    let id = all[at].id;
    match what {
        0 => {
            let new = member(1_000_000 + draw.below(1_000), all[at].weight);
            all.push(new);
            (None, Some(new.id))
        }
        1 => {
            all.remove(at);
            (Some(id), None)
        }
        2 => {
            all[at].draining = true;
            (Some(id), None)
        }
        3 => {
            all[at].weight = (2 * all[at].weight).min(100);
            (None, Some(id))
        }
        _ => {
            all[at].weight = (all[at].weight / 2).max(1);
            (Some(id), None)
        }
    }
}

/// With up to 256 servers of weights 1 to 100 in a table of the usual size: everyone within 5 % of its share, and at most
/// 0.1 % of all slots move that need not.
#[test]
pub(crate) fn shares_are_even_and_little_moves() {
    let mut draw = Random(1);
    for many in [3, 16, 256] {
        for weights in 0..3 {
            let weight = |draw: &mut Random, id: u64| match weights {
                0 => 10,
                1 => 1 + draw.below(100),
                _ => [1, 100][id as usize % 2],
            };
            let all: Vec<Member> = (0..many)
                .map(|id| {
                    let weight = weight(&mut draw, id);
                    member(id * 1_000 + draw.below(1_000), weight as u32)
                })
                .collect();
            let seed = draw.below(u64::MAX);
            let before = ids(seed, DEFAULT_LOG2_SLOTS, &all);
            let what = draw.below(5);
            let mut changed = all.clone();
            let (from, to) = change(&mut changed, what, &mut draw);
            let after = ids(seed, DEFAULT_LOG2_SLOTS, &changed);
            for (slots, members) in [(&before, &all), (&after, &changed)] {
                let (least, most) = balance(slots, members);
                assert!(least >= 950_000 && most <= 1_050_000, "{many} servers, weights {weights}: {least} to {most}");
            }
            let needless = |(old, new): &(&u64, &u64)| old != new && Some(**old) != from && Some(**new) != to;
            let excess = before.iter().zip(&after).filter(needless).count() as u64;
            let excess = ppm(excess, before.len() as u64);
            assert!(excess <= 1_000, "{many} servers, weights {weights}, change {what}: {excess} in a million");
        }
    }
}

/// The weakest case of the promise: one server of weight 1 among 255 of weight 100.
#[test]
pub(crate) fn the_lightest_server_gets_its_share() {
    let all: Vec<Member> = (0..256).map(|id| member(id, if id == 77 { 1 } else { 100 })).collect();
    let (least, most) = balance(&ids(3, DEFAULT_LOG2_SLOTS, &all), &all);
    assert!(least >= 950_000 && most <= 1_050_000, "{least} to {most}");
}

/// Small tables cannot be even, but nobody is more than a slot beyond the limits.
#[test]
pub(crate) fn odd_tables_are_full_and_nobody_has_too_much() {
    let mut draw = Random(5);
    for round in 0..150 {
        let many = 1 + draw.below(if round % 10 == 0 { 700 } else { 20 });
        let log2 = 4 + draw.below(8) as u8;
        let top = [1, 5, 100, u64::from(MAX_WEIGHT)][draw.below(4) as usize];
        let all: Vec<Member> = (0..many).map(|id| member(id, 1 + draw.below(top) as u32)).collect();
        let slots = ids(draw.below(u64::MAX), log2, &all);
        assert_eq!(slots.len(), 1 << log2);
        let total: u64 = all.iter().map(|member| u64::from(member.weight)).sum();
        for member in &all {
            let has = slots.iter().filter(|id| **id == member.id).count() as u64;
            let share = (u64::from(member.weight) << log2) * 100;
            let (least, most) = (share * 95 / (total * 10_000), (share * 105).div_ceil(total * 10_000));
            assert!((least..=most.max(1)).contains(&has), "{many} servers, 2^{log2}: {has} for {least} to {most}");
        }
    }
}

#[test]
pub(crate) fn order_does_not_matter_and_two_builds_are_the_same() {
    let mut draw = Random(9);
    for round in 0..40 {
        let many = 1 + draw.below(60);
        let mut all: Vec<Member> = (0..many)
            .map(|id| Member { draining: draw.below(9) == 0, ..member(id * 13, draw.below(101) as u32) })
            .collect();
        let head = head(4 + draw.below(9) as u8, round);
        let old = build(&head, &set(&all[..all.len().div_ceil(2)]), None).expect("a size that exists");
        let old = Block::new(&old).expect("it is a table");
        let one = build(&head, &set(&all), Some(&old)).expect("a size that exists");
        for at in 0..all.len() {
            all.swap(at, draw.below(many) as usize);
        }
        let other = build(&head, &set(&all), Some(&old)).expect("a size that exists");
        assert!(one == other, "round {round}");
        let block = Block::new(&one).expect("it is a table");
        assert_eq!(block.head(), head);
        all.sort_unstable();
        let macs: Vec<Mac> = (0..).map_while(|place| block.server(place)).collect();
        assert_eq!(macs, all.iter().map(|member| member.mac).collect::<Vec<_>>());
        for (place, member) in all.iter().enumerate() {
            assert_eq!(set(&all).place(member.id).map(usize::from), Some(place));
        }
    }
}

/// The bytes are a promise between nodes of different builds and machines.
#[test]
pub(crate) fn the_bytes_never_change() {
    let sum = |log2: u8, all: &[Member]| checksum(&build(&head(log2, 5), &set(all), None).expect("a size that exists"));
    let equal: Vec<Member> = (0..5).map(|id| member(id, 1)).collect();
    let mixed: Vec<Member> =
        (0..100).map(|id| Member { draining: id % 17 == 0, ..member(id * id, (id * 37 % 101) as u32) }).collect();
    let sums = [sum(4, &equal), sum(16, &equal), sum(12, &mixed), sum(18, &mixed)];
    let known = [0x344a_d06a_a8d4_6038, 0xd939_4a6a_445d_f9e8, 0x1496_168c_f49e_84cb, 0x651b_8846_538b_c200];
    assert_eq!(sums, known);
}

#[test]
pub(crate) fn who_drains_or_weighs_nothing_is_known_but_gets_nothing() {
    let mut all = vec![member(1, 10), member(2, 0), member(3, 10), member(4, 7)];
    all[2].draining = true;
    let bytes = build(&head(10, 1), &set(&all), None).expect("a size that exists");
    let block = Block::new(&bytes).expect("it is a table");
    assert_eq!((0..).map_while(|place| block.server(place)).count(), 4);
    assert!((0..1 << 10).all(|slot| matches!(block.slot(slot).server, 0 | 3)));
    // What a member that serves nobody is called does not matter to the others.
    let rest = ids(7, 10, &[all[0], all[3]]);
    assert_eq!(ids(7, 10, &all), rest);
    for nobody in [vec![], vec![member(1, 0)], vec![Member { draining: true, ..member(9, 5) }]] {
        let bytes = build(&head(6, 1), &set(&nobody), None).expect("a size that exists");
        let block = Block::new(&bytes).expect("it is a table");
        assert!((0..64).all(|slot| block.slot(slot).server == NOBODY && block.slot(slot).former == NOBODY));
    }
    assert!(ids(7, 12, &[member(5, 1)]).iter().all(|id| *id == 5));
}

/// A history of member sets against the rule, told with numbers instead of places.
#[test]
pub(crate) fn former_servers_follow_the_rule() {
    let mut draw = Random(11);
    let mut all: Vec<Member> = (0..8).map(|id| member(id, 10)).collect();
    let mut bytes = build(&head(8, 0), &set(&all), None).expect("a size that exists");
    let mut known = vec![(None, None); 256];
    let (mut kept, mut gone) = (0, 0);
    for epoch in 1..80 {
        match draw.below(5) {
            0 if all.len() > 2 => drop(all.remove(draw.below(all.len() as u64) as usize)),
            1 => all.push(member(100 + epoch, 1 + draw.below(20) as u32)),
            2 => {
                let at = draw.below(all.len() as u64) as usize;
                all[at].draining = !all[at].draining;
            }
            3 => {
                let at = draw.below(all.len() as u64) as usize;
                all[at].weight = draw.below(30) as u32;
            }
            _ => {}
        }
        let members = set(&all);
        let old = Block::new(&bytes).expect("it is a table");
        let new = build(&head(8, epoch), &members, Some(&old)).expect("a size that exists");
        let block = Block::newer(&new, epoch - 1).expect("it is a later table");
        let name = |place: u16| (place != NOBODY).then(|| members.all()[usize::from(place)].id);
        for (slot, known) in (0..).zip(&mut known) {
            let (server, former) = (name(block.slot(slot).server), name(block.slot(slot).former));
            if epoch > 1 {
                let (was, before): (Option<u64>, Option<u64>) = *known;
                let there = |id: &u64| Some(*id) != server && all.iter().any(|member| member.id == *id);
                let want = was.filter(there).or(before.filter(there));
                assert_eq!(former, want, "epoch {epoch}, slot {slot}: {was:?} {before:?} {server:?}");
                kept += u32::from(want.is_some());
                gone += u32::from(want.is_none() && was.is_some());
            }
            *known = (server, former);
        }
        bytes = new;
    }
    assert!(kept > 5_000 && gone > 1_000, "{kept} {gone}");
}

#[test]
pub(crate) fn former_servers_outlive_another_size_but_not_another_seed() {
    let mut all: Vec<Member> = (0..6).map(|id| member(id, 10)).collect();
    let bytes = build(&head(10, 1), &set(&all), None).expect("a size that exists");
    let old = Block::new(&bytes).expect("it is a table");
    all[2].draining = true;
    for log2 in [8, 10, 12] {
        let bytes = build(&head(log2, 2), &set(&all), Some(&old)).expect("a size that exists");
        let block = Block::new(&bytes).expect("it is a table");
        for slot in 0..1_u32 << log2 {
            let (now, was) = (block.slot(slot), old.slot((u64::from(slot) << 10 >> log2) as u32).server);
            assert_eq!(now.former, if now.server == was { NOBODY } else { was });
        }
    }
    let other = build(&Head { seed: 8, ..head(10, 2) }, &set(&all), Some(&old)).expect("a size that exists");
    let block = Block::new(&other).expect("it is a table");
    assert!((0..1 << 10).all(|slot| block.slot(slot).former == NOBODY));
}

#[test]
pub(crate) fn as_many_servers_as_a_table_can_name() {
    let all: Vec<Member> = (0..4_096).map(|id| member(id, 1)).collect();
    let bytes = build(&head(16, 1), &set(&all), None).expect("a size that exists");
    let block = Block::new(&bytes).expect("it is a table");
    let mut has = vec![0; 4_096];
    (0..1 << 16).for_each(|slot| has[usize::from(block.slot(slot).server)] += 1);
    assert!(has.iter().all(|has| *has == 16), "16 slots each are the share");
}

#[test]
pub(crate) fn wrong_members_and_sizes_are_refused_with_a_reason() {
    let refused = |all: Vec<Member>| Members::new(all).expect_err("it is wrong");
    let mut errors = vec![
        refused((0..4_097).map(|id| member(id, 1)).collect()),
        refused(vec![member(3, 1), member(5, 1), Member { mac: mac(9), ..member(3, 2) }]),
        refused(vec![member(3, 1), Member { mac: mac(3), ..member(5, 1) }]),
        refused(vec![Member { mac: [0; 6], ..member(5, 1) }]),
        refused(vec![member(5, MAX_WEIGHT + 1)]),
    ];
    for log2 in [0, 3, 21, 255] {
        errors.push(build(&head(log2, 1), &set(&[member(1, 1)]), None).expect_err("no such size"));
        assert_eq!(primaries(1, log2, &set(&[])), Err(BuildError::Slots(log2)));
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts[..6],
        [
            "4097 servers, and a table names at most 4096",
            "two servers have the number 3; each needs its own",
            "the hardware address 02:00:00:00:00:04 is that of two servers, or of none; each needs its own",
            "the hardware address 00:00:00:00:00:00 is that of two servers, or of none; each needs its own",
            "the weight of server 5 is above 65535",
            "a table has 2^4 to 2^20 slots, not 2^0",
        ]
    );
}
