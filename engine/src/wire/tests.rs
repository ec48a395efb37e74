//! The decoder against a million random and damaged packets, and every message kind there and back.

#![allow(clippy::cast_possible_truncation, reason = "random bytes are cut on purpose")]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Body, DecodeError, Header, Reader, VERSION, decode, encode, repair_check};
use crate::{Bootstrap, ClusterId, Config, Incarnation, NodeId, Rng, Seed, consensus, diagnosis, shipping, views};

fn config() -> Config {
    let bootstrap = Bootstrap { voters: [NodeId(0), NodeId(1)].to_vec(), ..Bootstrap::default() };
    Config { wire_version: VERSION, ..Config::new(NodeId(1), bootstrap) }
}

fn header(version: u8) -> Header {
    Header { version, speaks: VERSION, cluster: ClusterId(0x4150_5553), sender: NodeId(0), incarnation: Incarnation(3) }
}

const KINDS: [&[u8]; 4] =
    [diagnosis::Message::KINDS, consensus::Message::KINDS, views::Message::KINDS, shipping::Message::KINDS];

/// A random body of a kind: random bytes are read until they make sense.
fn body(kind: u8, version: u8, rng: &mut Rng) -> Body {
    loop {
        let len = rng.below(120) as usize;
        // Small bytes make short lengths and valid flags likely.
        let mut byte = || {
            let bound = if rng.below(4) == 0 { 256 } else { 3 };
            rng.below(bound) as u8
        };
        let bytes: Vec<u8> = (0..len).map(|_| byte()).collect();
        let mut r = Reader::new(version, &bytes);
        let read = match kind >> 4 {
            1 => diagnosis::Message::get_body(kind, &mut r).map(Body::Diagnosis),
            2 => consensus::Message::get_body(kind, &mut r).map(Body::Consensus),
            3 => views::Message::get_body(kind, &mut r).map(Body::Views),
            _ => shipping::Message::get_body(kind, &mut r).map(Body::Shipping),
        };
        if let Ok(body) = read {
            return body;
        }
    }
}

#[test]
fn every_kind_there_and_back_in_every_version() {
    let config = config();
    let mut rng = Seed(7).stream("wire");
    for kind in KINDS.concat() {
        for version in super::since(kind)..=VERSION {
            for _ in 0..200 {
                let body = body(kind, version, &mut rng);
                let header = header(version);
                assert_eq!(decode(&config, &encode(&header, &body)), Ok((header, body)), "kind {kind:#x}");
            }
        }
    }
}

/// Who speaks an older version neither writes nor reads what came later.
#[test]
fn a_kind_is_unknown_before_its_version() {
    let mut rng = Seed(9).stream("wire");
    let order = body(0x34, 3, &mut rng);
    for (body, since) in
        [(&order, 3), (&body(0x26, 4, &mut rng), 4), (&body(0x27, 4, &mut rng), 4), (&body(0x44, 5, &mut rng), 5)]
    {
        for version in 1..=VERSION {
            let speaks = if version < since { Err(DecodeError::Kind) } else { Ok(()) };
            assert_eq!(decode(&config(), &encode(&header(version), body)).map(|_| ()), speaks, "{version} of {since}");
        }
    }
    let mut old = config();
    old.wire_version = 2;
    assert_eq!(decode(&old, &encode(&header(3), &order)).map(|_| ()), Err(DecodeError::Version));
}

#[test]
fn a_million_random_and_damaged_packets() {
    let config = config();
    let mut rng = Seed(8).stream("wire");
    // Several bodies of each kind in each version.
    let mut valid: Vec<Vec<u8>> = Vec::new();
    for kind in KINDS.concat() {
        for version in [1, 2, 3, 4, 5, 1, 2, 3, 4, 5].map(|version: u8| version.max(super::since(kind))) {
            valid.push(encode(&header(version), &body(kind, version, &mut rng)));
        }
    }
    // Of each kind: damaged with a right check, and of these still understood and refused.
    let mut seen: BTreeMap<u8, (u32, u32, u32)> = BTreeMap::new();
    let (mut damaged, mut random) = (0_u32, 0_u32);
    while damaged + random < 1_000_000 {
        let noise = rng.below(4) == 0;
        let origin = if noise {
            (0..rng.below(100)).map(|_| rng.next() as u8).collect()
        } else {
            valid[rng.below(valid.len() as u64) as usize].clone()
        };
        let mut packet = origin.clone();
        for _ in 0..rng.below(4) {
            damage(&mut packet, &mut rng);
        }
        let repaired = rng.below(2) == 0;
        if repaired {
            repair_check(&mut packet);
        }
        let mutated = packet != origin;
        random += u32::from(noise);
        damaged += u32::from(mutated && !noise);
        let decoded = decode(&config, &packet);
        if mutated && !noise && repaired {
            let (many, good, bad) = seen.entry(origin[4]).or_default();
            *many += 1;
            *if decoded.is_ok() { good } else { bad } += 1;
        }
        if let Ok((header, body)) = decoded {
            // One value has one encoding.
            assert_eq!(encode(&header, &body), packet);
        }
    }
    for kind in KINDS.concat() {
        let (many, good, bad) = seen.get(&kind).copied().unwrap_or_default();
        assert!(
            many > 5_000 && good > 100 && bad > 100,
            "kind {kind:#x}: {many} damaged, {good} understood, {bad} refused"
        );
    }
}

fn damage(packet: &mut Vec<u8>, rng: &mut Rng) {
    let len = packet.len().max(1) as u64;
    match rng.below(4) {
        0 => packet.truncate(rng.below(len) as usize),
        1 => packet.push(rng.next() as u8),
        _ if packet.is_empty() => {}
        _ => packet[rng.below(len) as usize] ^= 1 << rng.below(8),
    }
}

#[test]
fn a_length_never_allocates_more_than_the_packet_holds() {
    let mut r = Reader::new(2, &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
    assert_eq!(r.len(1), Err(DecodeError::Truncated));
}

#[test]
fn another_cluster_and_a_wrong_check_are_refused() {
    let config = config();
    let message = diagnosis::Message::PingReq(diagnosis::PingReq { seq: 1, target: NodeId(0) });
    let body = Body::Diagnosis(message);
    let mut packet = encode(&Header { cluster: ClusterId(1), ..header(2) }, &body);
    assert_eq!(decode(&config, &packet), Err(DecodeError::Cluster));
    packet[20] ^= 1;
    assert_eq!(decode(&config, &packet), Err(DecodeError::Check));
}
