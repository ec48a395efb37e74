//! Jump: no table, and a logarithm of steps; but it counts its servers, so only the last one can leave by itself.

use crate::{Contender, Server, key, live};

/// The bucket of a key among `many`; the paper's code.
#[inline]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "as in its paper"
)]
pub(crate) fn jump(mut key: u64, many: u32) -> u32 {
    let (mut bucket, mut next) = (0_i64, 0_i64);
    while next < i64::from(many) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

/// Who leaves has its place taken by the last: its clients go there, and the last one's go everywhere.
pub(crate) struct Jump {
    ids: Vec<u32>,
}

impl Jump {
    pub(crate) fn new(servers: &[Server]) -> Self {
        Self { ids: live(servers) }
    }
}

impl Contender for Jump {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        jump(key::client(client), crate::place(self.ids.len()))
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        let now = live(servers);
        let gone: Vec<u32> = self.ids.iter().copied().filter(|id| !now.contains(id)).collect();
        for id in gone {
            self.ids.iter().position(|known| *known == id).map(|at| self.ids.swap_remove(at));
        }
        for id in now {
            if !self.ids.contains(&id) {
                self.ids.push(id);
            }
        }
    }
    fn bytes(&self) -> usize {
        // The number; who is where must be kept, too, since it depends on what happened.
        4 + self.ids.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that other implementations publish in their tests (dgryski/go-jump).
    #[test]
    fn jump_gives_its_published_values() {
        for (key, many, bucket) in
            [(1, 1, 0), (42, 57, 43), (0xdead_10cc, 1, 0), (0xdead_10cc, 666, 361), (256, 1024, 520)]
        {
            assert_eq!(jump(key, many), bucket, "{key} among {many}");
        }
    }

    #[test]
    fn one_more_bucket_moves_clients_to_it_alone() {
        for key in (0..2_000_u64).map(key::mix) {
            for many in 1..40 {
                let (old, new) = (jump(key, many), jump(key, many + 1));
                assert!(new == old || new == many, "{key} among {many}");
            }
        }
    }
}
