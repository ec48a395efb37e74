//! Maglev: servers take turns to fill a table, each in an order of its own.

use crate::{Contender, Server, key, live};

/// A table of `M` entries, a prime.
pub(crate) struct Maglev<const M: usize> {
    ids: Vec<u32>,
    table: Vec<u16>,
}

impl<const M: usize> Maglev<M> {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let live_servers: Vec<Server> = servers.iter().copied().filter(|server| server.weight > 0).collect();
        Self { ids: live(servers), table: fill(M, &live_servers) }
    }
}

/// In a round, a server takes a turn if it has had fewer than its weight allows; the heaviest takes one in each.
fn fill(size: usize, servers: &[Server]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let m = size as u64;
    let heaviest = servers.iter().map(|server| u64::from(server.weight)).max().unwrap_or(1);
    // Next entry, step, and the weight that its next turn needs.
    let mut takers: Vec<(u64, u64, u64)> = servers
        .iter()
        .map(|server| {
            let id = key::mix(u64::from(server.id));
            (key::pair(id, 1) % m, key::pair(id, 2) % (m - 1) + 1, 0)
        })
        .collect();
    let mut table = vec![FREE; size];
    let mut free = size;
    for round in 1_u64.. {
        for ((taker, server), place) in takers.iter_mut().zip(servers).zip(0_u16..) {
            if free == 0 || servers.is_empty() {
                break;
            }
            if round * u64::from(server.weight) < taker.2 {
                continue;
            }
            taker.2 += heaviest;
            while let Some(entry) = table.get_mut(usize::try_from(taker.0).unwrap_or(0)) {
                taker.0 = (taker.0 + taker.1) % m;
                if *entry == FREE {
                    *entry = place;
                    free -= 1;
                    break;
                }
            }
        }
        if free == 0 || servers.is_empty() {
            break;
        }
    }
    table
}

impl<const M: usize> Contender for Maglev<M> {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let at = key::scale(key::client(client), crate::place(M));
        self.table.get(at as usize).map_or(crate::NOBODY, |place| u32::from(*place))
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        *self = Self::new(servers);
    }
    fn bytes(&self) -> usize {
        self.table.len() * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry is filled, and at equal weights no server has two more than another; steps must be coprime to the size.
    #[test]
    fn the_table_is_filled_evenly() {
        for size in [65_537, 655_373, 4_093, 7] {
            assert!((2..size).take_while(|i| i * i <= size).all(|i| size % i > 0), "{size} is no prime");
        }
        for many in [1, 2, 5, 16, 100] {
            let servers: Vec<Server> = (0..many).map(|id| Server { id, weight: 7 }).collect();
            let mut has = vec![0; many as usize];
            for place in fill(65_537, &servers) {
                has[usize::from(place)] += 1;
            }
            let (most, least) = (has.iter().max().copied(), has.iter().min().copied());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{has:?}");
        }
        let servers = [Server { id: 1, weight: 1 }, Server { id: 2, weight: 9 }];
        let light = fill(65_537, &servers).iter().filter(|place| **place == 0).count();
        assert!((6_500..6_600).contains(&light), "{light}");
    }
}
