//! Every server bids for every client, and the highest bid wins: no table, a hash for each server.

use crate::{Contender, NOBODY, Server, key};

/// A server at the auction.
pub(crate) trait Bidder {
    /// Lower than any bid.
    const NONE: Self::Bid;
    type Bid: PartialOrd;

    fn new(server: Server) -> Self;
    /// For a client with this hash.
    fn bid(&self, hash: u64) -> Self::Bid;
}

/// All bids alike: the hash of both.
pub(crate) struct Plain {
    key: u64,
}

impl Bidder for Plain {
    const NONE: Self::Bid = 0;
    type Bid = u64;

    fn new(server: Server) -> Self {
        Self { key: key::mix(u64::from(server.id)) }
    }
    #[inline]
    fn bid(&self, hash: u64) -> u64 {
        key::mix(hash ^ self.key)
    }
}

/// The logarithm of a fraction, over the weight: a race of exponential clocks.
pub(crate) struct Clock {
    key: u64,
    /// One over the weight.
    over: f64,
}

impl Bidder for Clock {
    const NONE: Self::Bid = f64::NEG_INFINITY;
    type Bid = f64;

    fn new(server: Server) -> Self {
        Self { key: key::mix(u64::from(server.id)), over: 1.0 / f64::from(server.weight) }
    }
    #[inline]
    fn bid(&self, hash: u64) -> f64 {
        // 53 bits, never 0.
        let fraction = ((key::mix(hash ^ self.key) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        fraction.ln() * self.over
    }
}

/// The servers with a weight.
pub(crate) struct Rendezvous<B> {
    ids: Vec<u32>,
    bidders: Vec<B>,
}

impl<B: Bidder> Rendezvous<B> {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let live = servers.iter().filter(|server| server.weight > 0);
        let (ids, bidders) = live.map(|server| (server.id, B::new(*server))).unzip();
        Self { ids, bidders }
    }
}

impl<B: Bidder> Contender for Rendezvous<B> {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let (mut best, mut place) = (B::NONE, NOBODY);
        for (bidder, at) in self.bidders.iter().zip(0_u32..) {
            let bid = bidder.bid(hash);
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
        size_of_val(self.bidders.as_slice())
    }
}
