//! What must hold of packets, each followed from where it begins to where it ends.

use std::collections::{BTreeMap, BTreeSet};

use apus_dispatch::Flow;
use apus_engine::NodeId;

use super::packet::{Meta, Sort};
use crate::fault::{Ns, S};
use crate::heap::World;

/// Who serves a connection, since its first segment after the handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    /// Which start of the machine.
    pub(super) boots: u32,
    /// Epoch of the dispatcher that sent the first segment on, if another node did.
    epoch: Option<u16>,
    /// How often the server had left a table by then.
    pub(super) left: u64,
}

/// One packet.
#[derive(Clone, Debug)]
struct Track {
    sort: Sort,
    sent: Ns,
    /// Frames that carry it now.
    frames: u32,
    /// How many of them ended with a reason.
    ended: u32,
    delivered: Vec<NodeId>,
    answered: Vec<NodeId>,
}

/// All packets under way.
#[derive(Debug, Default)]
pub(super) struct Follow {
    next: u64,
    live: BTreeMap<u64, Track>,
    pub(super) owners: BTreeMap<Flow, Owner>,
    /// Connections that their clients have no more: what comes late of them makes nobody their server.
    over: BTreeSet<Flow>,
    /// Where the first part of a datagram went, by which table.
    parts: BTreeMap<([u8; 16], u16), (NodeId, u64, Ns)>,
    /// By family: since when nothing arrives, and when something did.
    dark: [Option<Ns>; 2],
    last: [Ns; 2],
    /// The longest time in which no segment of a family reached a server.
    pub(super) blackout: Ns,
    bound: Option<Ns>,
    /// Frames that ended, by reason.
    pub(super) reasons: BTreeMap<&'static str, u64>,
    pub(super) delivered: u64,
}

/// A packet that is still under way after this long is lost without a word.
const FORGOTTEN: Ns = 60 * S;

impl Follow {
    pub(super) fn new(bound: Option<Ns>) -> Self {
        Self { bound, ..Self::default() }
    }

    /// A packet begins.
    pub(super) fn begins(&mut self, now: Ns, sort: Sort) -> Meta {
        self.next += 1;
        let track = Track { sort, sent: now, frames: 1, ended: 0, delivered: Vec::new(), answered: Vec::new() };
        self.live.insert(self.next, track);
        Meta { id: self.next, sort, hops: 0, copy: false, dirty: false }
    }

    /// One frame became several.
    pub(super) fn splits(&mut self, meta: Meta, more: u32) {
        if let Some(track) = self.live.get_mut(&meta.id) {
            track.frames += more;
        }
    }

    /// A frame ends with a reason, which is counted.
    pub(super) fn ends(&mut self, world: &mut World, meta: Meta, reason: &'static str) {
        *self.reasons.entry(reason).or_default() += 1;
        if let Some(track) = self.live.get_mut(&meta.id) {
            track.ended += 1;
            self.goes(world, meta.id);
        }
    }

    fn goes(&mut self, world: &mut World, id: u64) {
        let Some(track) = self.live.get_mut(&id) else { return };
        track.frames = track.frames.saturating_sub(1);
        if track.frames > 0 {
            return;
        }
        if track.delivered.is_empty()
            && let Sort::Segment { flow, .. } = track.sort
        {
            let family = usize::from(flow.v6);
            let since = track.sent.max(self.last[family]);
            self.dark[family] = Some(self.dark[family].map_or(since, |dark| dark.min(since)));
            self.judge(world, family);
        }
        self.live.remove(&id);
    }

    fn judge(&mut self, world: &mut World, family: usize) {
        let Some(since) = self.dark[family] else { return };
        let dark = world.true_time() - since;
        self.blackout = self.blackout.max(dark);
        if let Some(bound) = self.bound.filter(|bound| dark > *bound) {
            let (dark, bound) = (dark / 1_000_000, bound / 1_000_000);
            let family = ["IPv4", "IPv6"][family];
            world.breaks(
                "blackout-bound",
                format!("for {dark} ms no {family} segment reached a server, the bound is {bound} ms"),
            );
        }
    }

    /// A node answers a question for the address.
    pub(super) fn answers(&mut self, world: &mut World, meta: Meta, node: NodeId) {
        let Some(track) = self.live.get_mut(&meta.id) else { return };
        if !track.answered.contains(&node) {
            track.answered.push(node);
        }
        if track.answered.len() > 1 && !meta.copy {
            let what = format!("{:?} both answered one question for the cluster's address", track.answered);
            world.breaks("one-answerer", what);
        }
    }

    /// A server got a frame of a packet. True if it is the first.
    pub(super) fn arrives(&mut self, world: &mut World, meta: Meta, node: NodeId) {
        self.delivered += 1;
        let now = world.true_time();
        let Some(track) = self.live.get_mut(&meta.id) else { return };
        if !meta.copy {
            track.delivered.push(node);
        }
        let (twice, sort, sent) = (track.delivered.len() > 1, track.sort, track.sent);
        if twice {
            let what = format!("one packet was delivered to {:?}", track.delivered);
            world.breaks("delivered-once", what);
        }
        if let Sort::Segment { flow, .. } = sort {
            let family = usize::from(flow.v6);
            let since = sent.max(self.last[family]);
            self.dark[family] = Some(self.dark[family].map_or(since, |dark| dark.min(since)));
            self.judge(world, family);
            self.dark[family] = None;
            self.last[family] = now;
        }
        self.goes(world, meta.id);
    }

    /// A client has done with a connection; who served it.
    pub(super) fn over(&mut self, flow: Flow) -> Option<Owner> {
        self.over.insert(flow);
        self.owners.remove(&flow)
    }

    /// A connection begins to be served.
    pub(super) fn owns(&mut self, flow: Flow, node: NodeId, boots: u32, epoch: Option<u16>, left: u64) {
        if self.over.contains(&flow) {
            return;
        }
        self.owners.entry(flow).or_insert(Owner { node, boots, epoch, left });
    }

    /// Whether a connection was begun under another dispatcher than this one.
    pub(super) fn outlived(&self, flow: &Flow, epoch: u16) -> bool {
        self.owners.get(flow).is_some_and(|owner| owner.epoch.is_some_and(|began| began != epoch))
    }

    /// A part of a datagram arrives, by a table of this epoch of one dispatcher.
    pub(super) fn part(&mut self, world: &mut World, key: ([u8; 16], u16), node: NodeId, table: u64) {
        let now = world.true_time();
        let (first, by, _) = *self.parts.entry(key).or_insert((node, table, now));
        if first != node && by == table {
            let what = format!("parts of one datagram reached {first} and {node} by one table");
            world.breaks("fragments-together", what);
        }
        if self.parts.len() > 4_096 {
            self.parts.retain(|_, (.., at)| *at + 5 * S > now);
        }
    }

    /// Once a second: what is dark, and what was forgotten.
    pub(super) fn second(&mut self, world: &mut World) {
        self.judge(world, 0);
        self.judge(world, 1);
        let now = world.true_time();
        let first = self.live.iter().find(|(_, track)| track.sent + FORGOTTEN < now && track.ended == 0);
        if let Some((id, track)) = first.filter(|(_, track)| track.delivered.is_empty()) {
            let what = format!("packet {id}, a {:?}, was neither delivered nor counted", track.sort);
            world.breaks("delivered-or-counted", what);
        }
    }

    /// When the run is over nothing may be missing but what is under way.
    pub(super) fn end(&mut self, world: &mut World, under_way: &[u64]) {
        let missing = self.live.iter().find(|(id, track)| track.frames > 0 && under_way.binary_search(id).is_err());
        if let Some((id, track)) = missing {
            let what = format!("packet {id}, a {:?}, is neither under way nor delivered nor counted", track.sort);
            world.breaks("delivered-or-counted", what);
        }
    }
}
