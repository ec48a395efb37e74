//! `AnchorHash`: buckets that were removed remember how many were left.

use crate::{Contender, Server, key, live};

/// Buckets in four arrays, as in the paper's in-place form.
pub(crate) struct Anchor {
    /// The server of a bucket.
    ids: Vec<u32>,
    /// 0: in use; else how many buckets were left when it was removed.
    left: Vec<u32>,
    /// Who follows it.
    next: Vec<u32>,
    /// Buckets in use come first.
    order: Vec<u32>,
    /// Where a bucket is in that order.
    at: Vec<u32>,
    removed: Vec<u32>,
    used: u32,
}

impl Anchor {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let ids = live(servers);
        let used = crate::place(ids.len());
        let room = (2 * used).max(used + 4);
        let mut anchor = Self {
            ids,
            left: vec![0; room as usize],
            next: (0..room).collect(),
            order: (0..room).collect(),
            at: (0..room).collect(),
            removed: Vec::new(),
            used: room,
        };
        anchor.ids.resize(room as usize, crate::NOBODY);
        (used..room).rev().for_each(|bucket| anchor.remove(bucket));
        anchor
    }

    fn remove(&mut self, bucket: u32) {
        let b = bucket as usize;
        self.removed.push(bucket);
        self.used -= 1;
        self.left[b] = self.used;
        let last = self.order[self.used as usize];
        self.order[self.at[b] as usize] = last;
        self.at[last as usize] = self.at[b];
        self.next[b] = last;
    }

    /// The bucket that was removed last comes back; `None` if none is left.
    fn add(&mut self) -> Option<u32> {
        let bucket = self.removed.pop()?;
        let b = bucket as usize;
        self.left[b] = 0;
        let last = self.order[self.used as usize];
        self.at[last as usize] = self.used;
        self.order[self.at[b] as usize] = bucket;
        self.next[b] = bucket;
        self.used += 1;
        Some(bucket)
    }
}

impl Contender for Anchor {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let mut bucket = key::scale(hash, crate::place(self.left.len()));
        loop {
            let left = self.left[bucket as usize];
            if left == 0 {
                return bucket;
            }
            let mut other = key::scale(key::pair(hash, u64::from(bucket)), left);
            while self.left[other as usize] >= left {
                other = self.next[other as usize];
            }
            bucket = other;
        }
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        let now = live(servers);
        let gone = (0..crate::place(self.left.len()))
            .filter(|bucket| self.left[*bucket as usize] == 0 && !now.contains(&self.ids[*bucket as usize]));
        // The last one cannot leave before another has come.
        let gone: Vec<u32> = gone.collect();
        let known: Vec<u32> = (0..self.left.len()).filter(|b| self.left[*b] == 0).map(|b| self.ids[b]).collect();
        if gone.len() == known.len() {
            *self = Self::new(servers);
            return;
        }
        gone.into_iter().for_each(|bucket| self.remove(bucket));
        for id in now.iter().filter(|id| !known.contains(id)) {
            // No room: everything is made anew, and most clients move.
            let Some(bucket) = self.add() else {
                *self = Self::new(servers);
                return;
            };
            self.ids[bucket as usize] = *id;
        }
    }
    fn bytes(&self) -> usize {
        (4 * self.left.len() + self.removed.len()) * 4
    }
}
