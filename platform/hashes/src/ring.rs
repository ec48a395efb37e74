//! Points on a ring: a client belongs to the next one.

use crate::{Contender, Server, key, live};

/// Points a server of average weight has.
const POINTS: u64 = 160;
/// Probes a client makes; 21 bring the busiest server within 5 % of its share (its paper, table 1).
const PROBES: u64 = 21;

/// As in ketama: a server's number of points is its part of all weights, rounded down. Points come from our hash in place
/// of MD5.
pub(crate) struct Ring {
    ids: Vec<u32>,
    /// Hash and place, in order.
    points: Vec<(u32, u32)>,
}

impl Ring {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let ids = live(servers);
        let total: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
        let all = POINTS * ids.len() as u64;
        let weights = servers.iter().filter(|server| server.weight > 0);
        let mut points: Vec<(u32, u32)> = weights
            .zip(0_u32..)
            .flat_map(|(server, place)| {
                let many = (all * u64::from(server.weight) / total.max(1)).max(1);
                (0..many).map(move |i| ((key::pair(key::mix(u64::from(server.id)), i) >> 32) as u32, place))
            })
            .collect();
        points.sort_unstable();
        Self { ids, points }
    }
}

impl Contender for Ring {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = (key::client(client) >> 32) as u32;
        let at = self.points.partition_point(|(point, _)| *point < hash);
        self.points.get(at).or(self.points.first()).map_or(crate::NOBODY, |(_, place)| *place)
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        *self = Self::new(servers);
    }
    fn bytes(&self) -> usize {
        self.points.len() * size_of::<(u32, u32)>()
    }
}

/// One point a server; a client takes the nearest of those after its probes.
pub(crate) struct MultiProbe {
    ids: Vec<u32>,
    points: Vec<(u64, u32)>,
}

impl MultiProbe {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let ids = live(servers);
        let mut points: Vec<(u64, u32)> = ids.iter().map(|id| key::mix(u64::from(*id) + 1)).zip(0..).collect();
        points.sort_unstable();
        Self { ids, points }
    }
}

impl Contender for MultiProbe {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let nearest = (0..PROBES).map(|probe| {
            let at = key::pair(hash, probe);
            let next = self.points.partition_point(|(point, _)| *point < at);
            let (point, place) = self.points.get(next).or(self.points.first()).copied().unwrap_or((0, crate::NOBODY));
            (point.wrapping_sub(at), place)
        });
        nearest.min().map_or(crate::NOBODY, |(_, place)| place)
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        *self = Self::new(servers);
    }
    fn bytes(&self) -> usize {
        self.points.len() * size_of::<(u64, u32)>()
    }
}
