//! What there is to see in a run: lives, leaders, holders, faults and messages, each with its time.

use std::collections::BTreeMap;

use apus_engine::{Fact, consensus};

use crate::fault::{Kind, Ns};
use crate::report::Run;
use crate::trace::What;

/// A node held a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) node: u16,
    pub(super) resource: u16,
    pub(super) epoch: u64,
    pub(super) from: Ns,
    /// Its guard opens until then; may be after the end of the run.
    pub(super) to: Ns,
    /// How often it was renewed, and when last.
    pub(super) renewals: u32,
    pub(super) renewed: Ns,
}

/// A fault was at work.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) kind: Kind,
    pub(super) from: Ns,
    pub(super) to: Ns,
    pub(super) nodes: Vec<u16>,
    /// `None`: it did not end in the run.
    pub(super) effects: Option<u64>,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It arrived.
    Arrived(Ns),
    /// A fault took it: its index in the plan.
    Lost(Ns, u16),
    /// Nobody was there.
    Nobody(Ns),
    /// It was on its way when the run was over.
    Open,
}

/// A message; one that arrives twice is there twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) kind: u8,
    pub(super) len: usize,
    pub(super) sent: Ns,
    pub(super) end: End,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// Node, from, to.
    pub(super) lives: Vec<(u16, Ns, Ns)>,
    /// Node, term, from, to.
    pub(super) leads: Vec<(u16, u64, Ns, Ns)>,
    pub(super) holds: Vec<Hold>,
    pub(super) bands: Vec<Band>,
    pub(super) messages: Vec<Message>,
}

impl Scene {
    pub(super) fn new(run: &Run) -> Self {
        let end = run.simulated;
        let mut scene = Self::default();
        let mut lives: BTreeMap<u16, Ns> = BTreeMap::new();
        let mut leads: BTreeMap<u16, (u64, Ns)> = BTreeMap::new();
        let mut holds: BTreeMap<(u16, u16), Hold> = BTreeMap::new();
        let mut bands: BTreeMap<u16, Band> = BTreeMap::new();
        let mut sent: BTreeMap<u64, usize> = BTreeMap::new();
        for line in &run.trace {
            let (at, node) = (line.at, line.node.map(|node| node.0));
            match (&line.what, node) {
                (What::Boot(_), Some(node)) => drop(lives.insert(node, at)),
                (What::Halt, Some(node)) => {
                    scene.lives.extend(lives.remove(&node).map(|from| (node, from, at)));
                    scene.leads.extend(leads.remove(&node).map(|(term, from)| (node, term, from, at)));
                }
                (What::Event(event), Some(node)) => match event.fact {
                    Fact::Consensus(consensus::Fact::Elected { term }) => drop(leads.insert(node, (term.0, at))),
                    Fact::Consensus(consensus::Fact::SteppedDown { .. }) => {
                        scene.leads.extend(leads.remove(&node).map(|(term, from)| (node, term, from, at)));
                    }
                    _ => {}
                },
                (What::Armed { resource, epoch, until }, Some(node)) => {
                    let new = Hold {
                        node,
                        resource: resource.0,
                        epoch: epoch.0,
                        from: at,
                        to: *until,
                        renewals: 0,
                        renewed: at,
                    };
                    match holds.get_mut(&(node, resource.0)) {
                        Some(hold) if hold.epoch == epoch.0 && at <= hold.to => {
                            hold.to = *until;
                            hold.renewals += 1;
                            hold.renewed = at;
                        }
                        _ => scene.holds.extend(holds.insert((node, resource.0), new).map(|old| until_at(old, at))),
                    }
                }
                (What::Disarmed { resource, .. }, Some(node)) => {
                    scene.holds.extend(holds.remove(&(node, resource.0)).map(|hold| until_at(hold, at)));
                }
                (What::FaultStart { fault, kind, nodes }, _) => {
                    let nodes = nodes.iter().map(|node| node.0).collect();
                    bands.insert(*fault, Band { kind: *kind, from: at, to: end, nodes, effects: None });
                }
                (What::FaultStop { fault, effects, .. }, _) => {
                    scene.bands.extend(bands.remove(fault).map(|band| Band {
                        to: at,
                        effects: Some(*effects),
                        ..band
                    }));
                }
                (What::Sent { to, id, kind, datagram }, Some(from)) => {
                    sent.insert(*id, scene.messages.len());
                    let (to, kind, len) = (to.0, *kind, datagram.len());
                    scene.messages.push(Message { id: *id, from, to, kind, len, sent: at, end: End::Open });
                }
                (What::Received { id, .. }, _) => scene.ends(&sent, *id, End::Arrived(at)),
                (What::Lost { id, fault, .. }, _) => {
                    scene.ends(&sent, *id, fault.map_or(End::Nobody(at), |fault| End::Lost(at, fault)));
                }
                _ => {}
            }
        }
        scene.lives.extend(lives.into_iter().map(|(node, from)| (node, from, end)));
        scene.leads.extend(leads.into_iter().map(|(node, (term, from))| (node, term, from, end)));
        scene.holds.extend(holds.into_values());
        scene.bands.extend(bands.into_values());
        scene.lives.sort_unstable();
        scene.leads.sort_unstable();
        scene.bands.sort_by_key(|band| (band.from, band.kind));
        scene.holds.sort_by_key(|hold| (hold.from, hold.node, hold.resource));
        scene
    }

    fn ends(&mut self, sent: &BTreeMap<u64, usize>, id: u64, end: End) {
        let Some(message) = sent.get(&id).and_then(|at| self.messages.get_mut(*at)) else { return };
        if message.end == End::Open {
            message.end = end;
        } else {
            let again = Message { end, ..*message };
            self.messages.push(again);
        }
    }

    /// Who may act for a resource at an instant.
    pub(super) fn holders(&self, resource: u16, at: Ns) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(move |hold| hold.resource == resource && hold.from <= at && at < hold.to)
    }
}

fn until_at(hold: Hold, at: Ns) -> Hold {
    Hold { to: hold.to.min(at), ..hold }
}
