//! Clients: notes into the log, or requests to the cluster's address.

use std::collections::BTreeMap;

use apus_engine::{Command, NodeId, ResourceId, Rng, Seed, SubmitError};

use super::queue::Due;
use super::{LOAD, World};
use crate::fault::{Kind, Ns, S};
use crate::scenario::{Plan, Workload};

/// All clients of a run.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    rng: Rng,
    many: u16,
    every: Ns,
    flows: bool,
    /// Where each client believes the leader to be.
    leader: Vec<NodeId>,
    served: u64,
    refused: u64,
    count: u64,
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Self {
        let (many, rate, flows) = match plan.scenario.workload {
            Workload::None => (0, 1, false),
            Workload::Notes { clients, rate } => (clients, rate, false),
            Workload::Flows { clients, rate } => (clients, rate, true),
        };
        Self {
            rng: Seed(plan.seed).stream("clients"),
            many,
            every: S / u64::from(rate.max(1)),
            flows,
            leader: vec![NodeId(0); many as usize],
            served: 0,
            refused: 0,
            count: 0,
        }
    }

    /// How many there are.
    pub(super) const fn many(&self) -> u16 {
        self.many
    }

    /// Availability as clients saw it, in parts per million, under `Ns` for want of another unit.
    pub(super) fn measure(&self, measures: &mut BTreeMap<&'static str, Ns>) {
        let all = self.served + self.refused;
        if let Some(share) = (self.refused * 1_000_000).checked_div(all) {
            measures.insert("refused-ppm", share);
        }
    }
}

impl World {
    /// One client acts, and plans its next act.
    pub(super) fn client(&mut self, client: u16) {
        let mut wait = self.clients.every / 2 + self.clients.rng.below(self.clients.every + 1);
        if let Some(index) = self.load(Kind::LoadSpike) {
            let rate = self.plan.faults[index as usize].size.max(1);
            wait = (S * u64::from(self.clients.many) / rate).max(1_000);
            self.active[index as usize].effects += 1;
        }
        if self.clients.flows {
            self.flow();
        } else {
            self.note(client);
        }
        self.queue.push(self.now + wait, Due::Client(client));
    }

    fn load(&self, kind: Kind) -> Option<u16> {
        debug_assert!(LOAD.contains(&kind), "a kind that clients look at");
        self.on_nodes.iter().copied().find(|index| self.plan.faults[*index as usize].kind == kind)
    }

    /// One request to the cluster's address.
    fn flow(&mut self) {
        let held = (0..self.nodes.len() as u16).any(|node| self.holds(NodeId(node), ResourceId(0)));
        if held {
            self.clients.served += 1;
        } else {
            self.clients.refused += 1;
        }
    }

    /// One note into the log; a refusal tells where to go next time.
    fn note(&mut self, client: u16) {
        self.clients.count += 1;
        let mut bytes = Vec::from(self.clients.count.to_le_bytes());
        bytes.extend_from_slice(&client.to_le_bytes());
        if let Some(index) = self.load(Kind::OddSizes) {
            bytes.resize(if self.clients.count.is_multiple_of(2) { 0 } else { 32 * 1024 }, 7);
            self.active[index as usize].effects += 1;
        }
        let mut copies = 1;
        if let Some(index) = self.load(Kind::RetryStorm) {
            copies = self.plan.faults[index as usize].size;
            self.active[index as usize].effects += 1;
        }
        for copy in 0..copies {
            let many = self.nodes.len() as u64;
            let to = if copy == 0 { self.clients.leader[client as usize] } else { NodeId((copy % many) as u16) };
            match self.submit(to, Command::Note(bytes.clone())) {
                Ok(()) => self.clients.served += 1,
                Err(error) => {
                    self.clients.refused += 1;
                    let next = match error {
                        SubmitError::NotCoordinator { hint: Some(hint) } => hint,
                        _ => NodeId(self.clients.rng.below(many) as u16),
                    };
                    self.clients.leader[client as usize] = next;
                }
            }
        }
    }
}
