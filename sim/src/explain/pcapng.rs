//! A capture in pcapng (draft-ietf-opsawg-pcapng): one interface a node, each packet with its own bytes as UDP in IPv4. The
//! comment of a packet names its kind, and what took it if it was lost.

use std::collections::BTreeMap;

use crate::report::Run;
use crate::trace::What;

/// Raw IPv4 packets, no link header (`LINKTYPE_RAW`).
const LINK_RAW: u16 = 101;
/// The port that the packets seem to use.
const PORT: u16 = 7_447;

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let padded = body.len().div_ceil(4) * 4;
    let total = u32::try_from(padded + 12).unwrap_or(u32::MAX);
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&total.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(out.len() + padded - body.len(), 0);
    out.extend_from_slice(&total.to_le_bytes());
}

/// An option of a block, padded.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().div_ceil(4) * 4, 0);
}

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
    let mut body = Vec::new();
    body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    body.extend_from_slice(&1_u16.to_le_bytes());
    body.extend_from_slice(&0_u16.to_le_bytes());
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    option(&mut body, 4, concat!("apus ", env!("CARGO_PKG_VERSION")).as_bytes());
    option(&mut body, 0, &[]);
    block(&mut out, 0x0a0d_0d0a, &body);
    let nodes = run.trace.iter().filter_map(|line| line.node).map(|node| node.0 + 1).max().unwrap_or(0);
    for node in 0..nodes {
        let mut body = Vec::new();
        body.extend_from_slice(&LINK_RAW.to_le_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
        option(&mut body, 2, format!("n{node}").as_bytes());
        // Times in nanoseconds.
        option(&mut body, 9, &[9]);
        option(&mut body, 0, &[]);
        block(&mut out, 1, &body);
    }
    let lost = lost(run);
    for line in &run.trace {
        let (interface, packet, kind, inbound, id) = match (&line.what, line.node) {
            (What::Sent { to, id, kind, datagram }, Some(node)) => {
                (node.0, packet(node.0, to.0, *id, datagram), *kind, false, *id)
            }
            (What::Received { from, id, kind, datagram }, Some(node)) => {
                (node.0, packet(from.0, node.0, *id, datagram), *kind, true, *id)
            }
            _ => continue,
        };
        let len = u32::try_from(packet.len()).unwrap_or(0).to_le_bytes();
        let mut body = Vec::new();
        body.extend_from_slice(&u32::from(interface).to_le_bytes());
        body.extend_from_slice(&u32::try_from(line.at >> 32).unwrap_or(0).to_le_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "the low half")]
        let low = line.at as u32;
        body.extend_from_slice(&low.to_le_bytes());
        body.extend_from_slice(&len);
        body.extend_from_slice(&len);
        body.extend_from_slice(&packet);
        body.resize(body.len().div_ceil(4) * 4, 0);
        let name = apus_engine::wire::kind_name(kind);
        let comment = lost.get(&id).filter(|_| !inbound).map_or_else(|| name.into(), |why| format!("{name}, {why}"));
        option(&mut body, 1, comment.as_bytes());
        option(&mut body, 2, &(if inbound { 1_u32 } else { 2 }).to_le_bytes());
        option(&mut body, 0, &[]);
        block(&mut out, 6, &body);
    }
    out
}
