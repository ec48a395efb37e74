//! A capture in pcapng: one interface a node, each packet with its own bytes as UDP in IPv4. The
//! comment of a packet names its kind, and what took it if it was lost.

use std::collections::BTreeMap;

use crate::pcapng;
use crate::report::Run;
use crate::trace::What;

/// The port that the packets seem to use.
const PORT: u16 = 7_447;

fn packet(from: u16, to: u16, id: u64, payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&(udp + 20).to_be_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "an identification is 16 bits")]
    let ident = id as u16;
    ip.extend_from_slice(&ident.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 64, 17, 0, 0]);
    for node in [from, to] {
        let [high, low] = (node + 1).to_be_bytes();
        ip.extend_from_slice(&[10, 0, high, low]);
    }
    let sum = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    ip.extend_from_slice(&PORT.to_be_bytes());
    ip.extend_from_slice(&PORT.to_be_bytes());
    ip.extend_from_slice(&udp.to_be_bytes());
    ip.extend_from_slice(&[0, 0]);
    ip.extend_from_slice(payload);
    ip
}

/// What a packet became, for the comment of its block.
fn lost(run: &Run) -> BTreeMap<u64, String> {
    let kinds: BTreeMap<u16, &str> = run
        .trace
        .iter()
        .filter_map(|line| match line.what {
            What::FaultStart { fault, kind, .. } => Some((fault, kind.spec().name)),
            _ => None,
        })
        .collect();
    let why = |fault: Option<u16>| match fault {
        None => "nobody there".into(),
        Some(fault) => kinds.get(&fault).map_or_else(|| "lost".into(), |kind| format!("lost to {kind}")),
    };
    let line = |line: &crate::trace::Line| match line.what {
        What::Lost { id, fault, .. } => Some((id, why(fault))),
        _ => None,
    };
    run.trace.iter().filter_map(line).collect()
}

/// The capture: what each node sent, on its interface as outbound, and what it received, as inbound.
#[must_use]
pub fn pcapng(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    pcapng::section(&mut out);
    let nodes = run.trace.iter().filter_map(|line| line.node).map(|node| node.0 + 1).max().unwrap_or(0);
    for node in 0..nodes {
        pcapng::interface(&mut out, pcapng::LINK_RAW, &format!("n{node}"));
    }
    let lost = lost(run);
    for line in &run.trace {
        let (interface, bytes, kind, inbound, id) = match (&line.what, line.node) {
            (What::Sent { to, id, kind, datagram }, Some(node)) => {
                (node.0, packet(node.0, to.0, *id, datagram), *kind, false, *id)
            }
            (What::Received { from, id, kind, datagram }, Some(node)) => {
                (node.0, packet(from.0, node.0, *id, datagram), *kind, true, *id)
            }
            _ => continue,
        };
        let name = apus_engine::wire::kind_name(kind);
        let comment = lost.get(&id).filter(|_| !inbound).map_or_else(|| name.into(), |why| format!("{name}, {why}"));
        let (interface, length) = (interface.into(), bytes.len());
        let packet = pcapng::Packet { interface, at: line.at, bytes: &bytes, length, comment: &comment, inbound };
        pcapng::packet(&mut out, &packet);
    }
    out
}
