//! Every server bids for every client, and the highest bid wins: no table, a hash for each server.

use crate::{Contender, NOBODY, Server, key, live};

/// All bids alike.
pub(crate) struct Rendezvous {
    ids: Vec<u32>,
    keys: Vec<u64>,
}

impl Rendezvous {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let ids = live(servers);
        Self { keys: ids.iter().map(|id| key::mix(u64::from(*id))).collect(), ids }
    }
}

impl Contender for Rendezvous {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let (mut best, mut place) = (0, NOBODY);
        for (bid, at) in self.keys.iter().map(|server| key::mix(hash ^ server)).zip(0_u32..) {
            if bid > best || place == NOBODY {
                (best, place) = (bid, at);
            }
        }
        place
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        *self = Self::new(servers);
    }
    fn bytes(&self) -> usize {
        self.keys.len() * 8
    }
}

/// A bid is the logarithm of a fraction, over the weight: a race of exponential clocks.
pub(crate) struct Weighted {
    ids: Vec<u32>,
    /// Key, and one over the weight.
    keys: Vec<(u64, f64)>,
}

impl Weighted {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let live = servers.iter().filter(|server| server.weight > 0);
        let (ids, keys) =
            live.map(|server| (server.id, (key::mix(u64::from(server.id)), 1.0 / f64::from(server.weight)))).unzip();
        Self { ids, keys }
    }
}

impl Contender for Weighted {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let (mut best, mut place) = (f64::NEG_INFINITY, NOBODY);
        for ((server, over), at) in self.keys.iter().zip(0_u32..) {
            // 53 bits, never 0.
            let fraction = ((key::mix(hash ^ server) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            let bid = fraction.ln() * over;
            if bid > best {
                (best, place) = (bid, at);
            }
        }
        place
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        *self = Self::new(servers);
    }
    fn bytes(&self) -> usize {
        self.keys.len() * size_of::<(u64, f64)>()
    }
}
