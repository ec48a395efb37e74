//! `DxHash`: a client's own endless row of slots; its server is the first that is in use.

use crate::{Contender, Server, key, live};

/// Slots, and a bit for each that is in use.
pub(crate) struct Dx {
    ids: Vec<u32>,
    used: Vec<u64>,
}

impl Dx {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let mut ids = live(servers);
        let many = ids.len();
        let room = (2 * many).max(many + 4);
        ids.resize(room, crate::NOBODY);
        let mut dx = Self { ids, used: vec![0; room.div_ceil(64)] };
        (0..many).for_each(|slot| dx.set(slot, true));
        dx
    }

    #[inline]
    fn is_used(&self, slot: usize) -> bool {
        self.used[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn set(&mut self, slot: usize, used: bool) {
        let bit = 1 << (slot % 64);
        if used { self.used[slot / 64] |= bit } else { self.used[slot / 64] &= !bit }
    }
}

impl Contender for Dx {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let mut hash = key::client(client);
        loop {
            let slot = key::scale(hash, crate::place(self.ids.len()));
            if self.is_used(slot as usize) {
                return slot;
            }
            hash = key::pair(hash, 1);
        }
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        let now = live(servers);
        for slot in 0..self.ids.len() {
            if self.is_used(slot) && !now.contains(&self.ids[slot]) {
                self.set(slot, false);
            }
        }
        for id in now {
            let own = self.ids.iter().position(|known| *known == id);
            if own.is_some_and(|slot| self.is_used(slot)) {
                continue;
            }
            // Its own slot if it was here before, else the first free one.
            let Some(slot) = own.or_else(|| (0..self.ids.len()).find(|slot| !self.is_used(*slot))) else {
                *self = Self::new(servers);
                return;
            };
            self.ids[slot] = id;
            self.set(slot, true);
        }
    }
    fn bytes(&self) -> usize {
        self.used.len() * 8 + self.ids.len() * 4
    }
}
