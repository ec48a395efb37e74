//! The replicated state machine: a function of the log alone.

use core::hash::Hash as _;

use super::{Entry, Grant, Payload, ViewState};
use crate::hash::{Hash128, hash_bytes, mix};
use crate::ids::Epoch;

impl ViewState {
    /// Applies the next committed entry.
    pub(super) fn apply(&mut self, entry: &Entry) {
        match &entry.payload {
            Payload::Lead(_) | Payload::Config(_) => {}
            Payload::Grant { resource, holder, because } => {
                let epoch = Epoch(entry.index.0);
                let grant = Grant { epoch, holder: *holder, released: false, moving: None, because: *because };
                self.grants.insert(*resource, grant);
            }
            Payload::Release { resource, epoch } => {
                if let Some(grant) = self.grants.get_mut(resource).filter(|grant| grant.epoch == *epoch) {
                    grant.released = true;
                }
            }
            Payload::Move { resource, to, because } => {
                if let Some(grant) = self.grants.get_mut(resource).filter(|grant| !grant.released) {
                    grant.moving = Some(*to);
                    grant.because = *because;
                }
            }
            Payload::Maintenance { node, on } => {
                if *on {
                    self.drained.insert(*node);
                } else {
                    self.drained.remove(node);
                }
            }
            Payload::Note(bytes) => {
                self.notes += 1;
                self.notes_hash = mix(self.notes_hash ^ hash_bytes(self.notes, bytes));
            }
            Payload::Set { resource, value } => {
                self.settings.insert(*resource, value.clone());
            }
        }
    }
}

impl Entry {
    /// A digest of index, term and payload: the same on every node that holds the entry.
    pub(super) fn digest(&self) -> u64 {
        let mut hash = Hash128::new(0x656e_7472);
        self.hash(&mut hash);
        hash.finish64()
    }
}
