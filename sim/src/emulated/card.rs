//! A node's network card: a frame comes off the cable, and goes out again, up to the system, or nowhere.

use std::collections::BTreeMap;

use apus_dispatch::{Block, Flow, Head, Hooks, Key, Mac, NOBODY, Reason, Slot, Table, Tag, Verdict, dispatch};
use apus_engine::Mutant;
use smoltcp::iface::SocketHandle;

use super::node::Node;
use super::packet::{CLUSTER_V4, CLUSTER_V6, read};
use crate::fault::Ns;

/// What the node's port does with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The system got it.
    Local,
    /// It is none of the cluster's: the system got it.
    Passed,
    /// It goes out again.
    Sends(Vec<u8>),
    /// It ends here.
    Drops(Reason),
    /// The port is not meant.
    Ignores,
}

/// A table before there is one: the address, and nobody behind it.
struct Bare;

impl Table for Bare {
    fn head(&self) -> Head {
        let key = Key::Source;
        Head { epoch: 0, seed: 0, log2_slots: 4, key, v4: CLUSTER_V4, v6: CLUSTER_V6, claim: [0; 6] }
    }
    fn slot(&self, _: u32) -> Slot {
        Slot { server: NOBODY, former: NOBODY }
    }
    fn server(&self, _: u16) -> Option<Mac> {
        None
    }
}

/// A table that a planted bug reads wrongly.
struct Bent<'b> {
    block: Block<'b>,
    seed: u64,
    formers: bool,
}

impl Table for Bent<'_> {
    fn head(&self) -> Head {
        let head = self.block.head();
        Head { seed: head.seed ^ self.seed, ..head }
    }
    fn slot(&self, number: u32) -> Slot {
        let slot = self.block.slot(number);
        Slot { former: if self.formers { slot.former } else { NOBODY }, ..slot }
    }
    fn server(&self, place: u16) -> Option<Mac> {
        self.block.server(place)
    }
}

/// Which connections have a socket here.
struct Sockets<'n> {
    flows: &'n BTreeMap<Flow, SocketHandle>,
    all: bool,
}

impl Hooks for Sockets<'_> {
    fn has_socket(&self, flow: &Flow) -> bool {
        self.all || self.flows.contains_key(flow)
    }
}

fn sender(frame: &[u8]) -> Mac {
    read(frame, 6).unwrap_or_default()
}

impl Node {
    /// A frame comes in. `local` is the machine's clock, in nanoseconds.
    pub(super) fn receive(&mut self, now: Ns, local: u64, mut frame: Vec<u8>) -> Outcome {
        match self.takes(now, local, &mut frame) {
            None => Outcome::Ignores,
            Some(Verdict::Drop(reason)) => Outcome::Drops(reason),
            Some(Verdict::Transmit) => Outcome::Sends(frame),
            Some(Verdict::Local) => Outcome::Local,
            Some(Verdict::Pass) => Outcome::Passed,
        }
    }

    /// The address that goes with the cluster's besides the card's own, if the table has one.
    fn claim(&self) -> Option<Mac> {
        read(&self.block, 56).filter(|claim| *claim != [0; 6])
    }

    /// The whole way of a frame through the card. What it says to transmit leaves as `frame` is then; what it passes or says is
    /// local is in the stack's queue, if it is an IP packet for this machine. None: the card is not meant.
    pub(super) fn takes(&mut self, now: Ns, local: u64, frame: &mut Vec<u8>) -> Option<Verdict> {
        let to: Mac = read(frame, 0).unwrap_or_default();
        let claimed = Some(to) == self.claim();
        if to != self.link.mac && to[0] & 1 == 0 && !claimed && !self.promiscuous {
            return None;
        }
        self.here.now = local;
        let verdict = self.decide(frame);
        match verdict {
            Verdict::Drop(Reason::ForeignClaim) if !self.has(Mutant::ClaimUnanswered) => self.claimed(local, frame),
            Verdict::Drop(_) => {}
            Verdict::Transmit => {
                if self.has(Mutant::HopForgotten) && frame[11] == 1 && frame[..2] != [0xff, 0xff] {
                    frame[11] = 0;
                }
            }
            Verdict::Local | Verdict::Pass => {
                let packet = if claimed {
                    let own = [&self.link.mac, &frame[6..]].concat();
                    self.link.receive(now, &own)
                } else {
                    self.link.receive(now, frame)
                };
                if let Some(packet) = packet {
                    self.stack.take(packet);
                }
            }
        }
        Some(verdict)
    }

    fn decide(&mut self, frame: &mut Vec<u8>) -> Verdict {
        let mut here = self.here;
        let kind = read(frame, 12).map_or(0, u16::from_be_bytes);
        let question = kind == 0x0806 || (kind == 0x86dd && read(frame, 54) == Some([135]));
        if self.has(Mutant::LeaseIgnored) && here.epoch > 0 && here.lease > 0 {
            here.lease = u64::MAX;
        }
        if self.has(Mutant::EverybodyAnswers) && question {
            here.lease = u64::MAX;
        }
        if self.has(Mutant::TagWithoutEpoch) {
            here.epoch &= 0xffff_0000;
        }
        if self.has(Mutant::FenceIgnored) {
            here.fence = 0;
        }
        let hooks = Sockets { flows: &self.flows, all: self.has(Mutant::NoSecondChance) };
        let Ok(block) = Block::new(&self.block) else { return dispatch(&here, &Bare, &hooks, frame.as_mut_slice()) };
        let part = kind == 0x0800 && read(frame, 20).map_or(0, u16::from_be_bytes) & 0x1fff != 0;
        let error = kind == 0x0800 && read(frame, 23) == Some([1]) && read(frame, 34) == Some([3]);
        if self.has(Mutant::ErrorsByRouter) && error {
            // As an echo it goes where the router's own address is.
            frame[34] = 8;
            let verdict = dispatch(&here, &block, &hooks, frame.as_mut_slice());
            frame[34] = 3;
            return verdict;
        }
        let seed = u64::from(self.has(Mutant::FragmentsScattered) && part && Tag::of(sender(frame)).is_none()) << 17;
        let bent = Bent { block, seed, formers: !self.has(Mutant::FormersIgnored) };
        let verdict = dispatch(&here, &bent, &hooks, frame.as_mut_slice());
        if self.has(Mutant::OwnShareSentOn) && verdict == Verdict::Local && Tag::of(sender(frame)).is_none() {
            return Verdict::Transmit;
        }
        verdict
    }
}
