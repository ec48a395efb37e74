//! Models of two schedulers of Linux IPVS, from how they fill their tables; nothing of the kernel is run.
//!
//! A new server comes to the head of the kernel's list, and tables are filled along the list: two dispatchers that
//! heard of servers in another order have other tables. A server of weight 0 stays in the list.

use crate::{Contender, NOBODY, Server, key};

/// The kernel's list.
fn relist(list: &mut Vec<Server>, servers: &[Server]) {
    list.retain(|known| servers.iter().any(|server| server.id == known.id));
    for server in servers {
        match list.iter_mut().find(|known| known.id == server.id) {
            Some(known) => known.weight = server.weight,
            None => list.insert(0, *server),
        }
    }
}

/// Source hashing, with `sh-fallback`: without it, clients of a server of weight 0 are refused.
pub(crate) struct Sh {
    list: Vec<Server>,
    ids: Vec<u32>,
    table: [u16; 256],
}

impl Sh {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let mut sh = Self { list: Vec::new(), ids: Vec::new(), table: [0; 256] };
        sh.change(servers);
        sh
    }
}

impl Contender for Sh {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        // The kernel's `hash_32`: its golden ratio, and the highest eight bits.
        u32::from(self.table[(client.wrapping_mul(0x61c8_8647) >> 24) as usize])
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        relist(&mut self.list, servers);
        self.ids = self.list.iter().map(|server| server.id).collect();
        // Each in turn as many buckets as it weighs, or one.
        let turns = self.list.iter().zip(0_u16..);
        let fill: Vec<u16> = turns
            .flat_map(|(server, place)| std::iter::repeat_n(place, server.weight.clamp(1, 256) as usize))
            .cycle()
            .take(256)
            .collect();
        let up = |place: u16| self.list.get(usize::from(place)).is_some_and(|server| server.weight > 0);
        for bucket in 0..256 {
            let here = fill.get(bucket).copied().filter(|place| up(*place));
            // The fall-back hashes again from where it is, so it starts at twice the bucket.
            let other = || (0..256).filter_map(|i| fill.get((2 * bucket + i) % 256).copied()).find(|place| up(*place));
            // Where no server of the buckets is up, the kernel refuses; so that each client has a server, the first takes it.
            let any = || self.list.iter().zip(0_u16..).find(|(server, _)| server.weight > 0).map(|(_, place)| place);
            self.table[bucket] = here.or_else(other).or_else(any).unwrap_or(u16::MAX);
        }
    }
    fn bytes(&self) -> usize {
        256 * 8
    }
}

/// Entries of `mh` as distributions build it (`IP_VS_MH_TAB_INDEX` 12).
const MH: u32 = 4_093;

/// Maglev hashing: turns of as many entries as a server weighs, after division by the weights' greatest common divisor.
pub(crate) struct Mh {
    list: Vec<Server>,
    ids: Vec<u32>,
    table: Vec<u16>,
}

impl Mh {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let mut mh = Self { list: Vec::new(), ids: Vec::new(), table: Vec::new() };
        mh.change(servers);
        mh
    }
}

impl Contender for Mh {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let at = key::scale(key::client(client), MH);
        self.table.get(at as usize).map_or(NOBODY, |place| u32::from(*place))
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        const FREE: u16 = u16::MAX;
        relist(&mut self.list, servers);
        self.ids = self.list.iter().map(|server| server.id).collect();
        let divisor = self.list.iter().map(|server| server.weight).fold(0, gcd).max(1);
        let mut takers: Vec<(u32, u32, u32)> = self
            .list
            .iter()
            .map(|server| {
                let id = key::mix(u64::from(server.id));
                let start = key::scale(key::pair(id, 1), MH);
                let step = key::scale(key::pair(id, 2), MH - 1) + 1;
                (start, step, server.weight / divisor)
            })
            .collect();
        self.table = vec![FREE; MH as usize];
        let mut free = MH;
        while free > 0 && takers.iter().any(|(_, _, turns)| *turns > 0) {
            for (taker, place) in takers.iter_mut().zip(0_u16..) {
                for _ in 0..taker.2.min(free) {
                    while self.table[taker.0 as usize] != FREE {
                        taker.0 = (taker.0 + taker.1) % MH;
                    }
                    self.table[taker.0 as usize] = place;
                    free -= 1;
                }
            }
        }
    }
    fn bytes(&self) -> usize {
        MH as usize * 8
    }
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_filled_along_the_list() {
        let two = [Server { id: 1, weight: 1 }, Server { id: 2, weight: 3 }];
        let sh = Sh::new(&two);
        assert_eq!(sh.ids, [2, 1], "the last to come is the first");
        assert_eq!(sh.table[..5], [0, 0, 0, 1, 0]);
        let mh = Mh::new(&two);
        let light = mh.table.iter().filter(|place| **place == 1).count();
        assert!((1_023..=1_024).contains(&light), "{light}");
    }
}
