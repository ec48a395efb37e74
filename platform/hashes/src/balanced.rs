//! The product's own table: built, checked and read as a data plane does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use apus_dispatch::{Block, BlockError, DEFAULT_LOG2_SLOTS, Head, Key, Layout, Member, Members, build, slot_of};

use crate::{Contender, Server, key};

const SLOTS: usize = 1 << DEFAULT_LOG2_SLOTS;

/// Slots of a block, in the machine's own order of bytes: a lookup is a hash, a shift and a load.
pub struct Balanced {
    ids: Vec<u32>,
    slots: Box<[u16; SLOTS]>,
}

impl Balanced {
    /// For these servers.
    #[must_use]
    pub fn new(servers: &[Server]) -> Self {
        let mut balanced = Self { ids: Vec::new(), slots: Box::new([u16::MAX; SLOTS]) };
        balanced.change(servers);
        balanced
    }
}

/// The bytes of a table; empty if the servers cannot have one.
fn block(servers: &[Server], epoch: u64) -> Vec<u8> {
    let member = |server: &Server| {
        let [a, b, c, d] = server.id.to_be_bytes();
        let draining = server.weight == 0;
        Member { id: u64::from(server.id), mac: [2, 0, a, b, c, d], weight: server.weight, draining }
    };
    let head = Head {
        epoch,
        seed: key::SEED,
        log2_slots: DEFAULT_LOG2_SLOTS,
        key: Key::Source,
        v4: [192, 0, 2, 1],
        v6: [0; 16],
        claim: [0; 6],
    };
    Members::new(servers.iter().map(member)).and_then(|members| build(&head, &members, None)).unwrap_or_default()
}

impl Contender for Balanced {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        // The array's size is known, and the slot below it: no check is left.
        u32::from(self.slots[slot_of(key::client(client), DEFAULT_LOG2_SLOTS) as usize & (SLOTS - 1)])
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        let bytes = block(servers, 1);
        let slots = bytes.get(apus_dispatch::HEAD_BYTES..).unwrap_or_default().as_chunks().0;
        for (slot, bytes) in self.slots.iter_mut().zip(slots) {
            *slot = u16::from_le_bytes(*bytes);
        }
        self.ids = servers.iter().map(|server| server.id).collect();
    }
    fn bytes(&self) -> usize {
        let servers = u16::try_from(self.ids.len()).unwrap_or(u16::MAX);
        Layout::new(DEFAULT_LOG2_SLOTS, servers).map_or(0, |layout| layout.bytes)
    }
}

/// How long a finished table takes until readers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Every byte is checked.
    pub check: Duration,
    /// The pointer is exchanged under readers.
    pub swap: Duration,
}

impl Published {
    /// Publishes a table of these servers over another, `repeats` times, and returns the least times.
    ///
    /// # Errors
    /// If the table is refused.
    pub fn measure(servers: &[Server], repeats: u32) -> Result<Self, BlockError> {
        let shared = Mutex::new(Arc::new(block(servers, 1)));
        let mut least = Self { check: Duration::MAX, swap: Duration::MAX };
        let mut later = block(servers, 2);
        for _ in 0..repeats.max(1) {
            let began = Instant::now();
            Block::newer(&later, 1)?;
            least.check = least.check.min(began.elapsed());
            let next = Arc::new(later);
            let began = Instant::now();
            let old = shared.lock().map(|mut shared| std::mem::replace(&mut *shared, Arc::clone(&next)));
            least.swap = least.swap.min(began.elapsed());
            // Back to how it was.
            if let (Ok(mut shared), Ok(old)) = (shared.lock(), old) {
                *shared = old;
            }
            later = Arc::try_unwrap(next).unwrap_or_else(|next| next.to_vec());
        }
        Ok(least)
    }
}

/// A lookup through the block itself gives the same server: the copy of its slots is only another order of bytes.
#[cfg(test)]
mod tests {
    use apus_dispatch::Table as _;

    use super::*;

    #[test]
    fn the_copy_reads_as_the_block() {
        let servers: Vec<Server> = (0..9).map(|id| Server { id, weight: id }).collect();
        let bytes = block(&servers, 1);
        let table = Block::new(&bytes).expect("it is a table");
        let balanced = Balanced::new(&servers);
        for client in (0..10_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9)) {
            let slot = table.slot(slot_of(key::client(client), DEFAULT_LOG2_SLOTS));
            assert_eq!(u32::from(slot.server), balanced.place_of(client));
            assert!(slot.server > 0, "a server without weight serves nobody");
        }
        assert_eq!(balanced.bytes(), bytes.len());
        assert!(Published::measure(&servers, 2).is_ok_and(|took| took.check > Duration::ZERO));
    }
}
