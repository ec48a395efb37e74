//! `MementoHash`: jump, and a note for each bucket that was removed out of turn.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::jump::jump;
use crate::{Contender, Server, key, live};

/// Notes are looked up often: a plain hash of their number.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = key::pair(self.0, u64::from(n));
    }
}

/// Of a removed bucket: how many were left, which is also who replaces it; and which was removed before it.
type Note = (u32, u32);

pub(crate) struct Memento {
    ids: Vec<u32>,
    notes: HashMap<u32, Note, BuildHasherDefault<Plain>>,
    last: u32,
}

impl Memento {
    pub(crate) fn new(servers: &[Server]) -> Self {
        let ids = live(servers);
        Self { last: crate::place(ids.len()), ids, notes: HashMap::default() }
    }

    fn used(&self) -> u32 {
        crate::place(self.ids.len() - self.notes.len())
    }

    fn remove(&mut self, bucket: u32) {
        if self.notes.is_empty() && bucket as usize + 1 == self.ids.len() {
            self.ids.pop();
            self.last = bucket;
        } else {
            self.notes.insert(bucket, (self.used() - 1, self.last));
            self.last = bucket;
        }
    }

    fn add(&mut self, id: u32) {
        match self.notes.remove(&self.last) {
            Some((_, before)) => {
                self.ids[self.last as usize] = id;
                self.last = before;
            }
            None => {
                self.ids.push(id);
                self.last = crate::place(self.ids.len());
            }
        }
    }
}

impl Contender for Memento {
    #[inline]
    fn place_of(&self, client: u32) -> u32 {
        let hash = key::client(client);
        let mut bucket = jump(hash, crate::place(self.ids.len()));
        while let Some((left, _)) = self.notes.get(&bucket) {
            let mut other = key::scale(key::pair(hash, u64::from(bucket)), *left);
            while let Some((then, _)) = self.notes.get(&other).filter(|(then, _)| then >= left) {
                other = *then;
            }
            bucket = other;
        }
        bucket
    }
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn change(&mut self, servers: &[Server]) {
        let now = live(servers);
        let known: Vec<(u32, u32)> =
            self.ids.iter().copied().zip(0_u32..).filter(|(_, bucket)| !self.notes.contains_key(bucket)).collect();
        let gone: Vec<u32> = known.iter().filter(|(id, _)| !now.contains(id)).map(|(_, bucket)| *bucket).collect();
        if gone.len() == known.len() {
            *self = Self::new(servers);
            return;
        }
        gone.into_iter().for_each(|bucket| self.remove(bucket));
        for id in now {
            if !known.iter().any(|(there, _)| *there == id) {
                self.add(id);
            }
        }
    }
    fn bytes(&self) -> usize {
        // The map's entries are a number and a note; who is where must be kept, too.
        4 + self.ids.len() * 4 + self.notes.capacity() * (4 + size_of::<Note>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's example: of ten, 9, 5 and 1 leave; then they come back, the last one first.
    #[test]
    fn notes_are_those_of_the_paper() {
        let servers: Vec<Server> = (0..10).map(|id| Server { id, weight: 1 }).collect();
        let mut memento = Memento::new(&servers);
        [9, 5, 1].into_iter().for_each(|bucket| memento.remove(bucket));
        assert_eq!((memento.notes.get(&5), memento.notes.get(&1)), (Some(&(8, 9)), Some(&(7, 5))));
        assert_eq!((memento.ids.len(), memento.used(), memento.last), (9, 7, 1));
        [1, 5, 9].into_iter().for_each(|id| memento.add(id));
        assert!(memento.notes.is_empty());
        assert_eq!(memento.ids, (0..10).collect::<Vec<_>>());
    }
}
