//! The log in memory: entries after the snapshot, and how far they are durable and committed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Entry, Membership, Payload, Snapshot};
use crate::ids::{Epoch, Index, NodeId, ResourceId, Term};

/// Entries after a snapshot. Indices are consecutive.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Log {
    /// Everything up to its index.
    pub(super) snapshot: Arc<Snapshot>,
    entries: Vec<Entry>,
    /// Indices of entries that set the members, after the snapshot.
    configs: Vec<Index>,
    /// Newest grant of each resource in the entries, with the index before it for truncation.
    grants: BTreeMap<ResourceId, Vec<(Epoch, NodeId)>>,
    /// Indices of entries about each resource, committed or not.
    about: BTreeMap<ResourceId, Vec<Index>>,
}

impl Log {
    pub(super) fn new(snapshot: Arc<Snapshot>, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut log = Self {
            snapshot,
            entries: Vec::new(),
            configs: Vec::new(),
            grants: BTreeMap::new(),
            about: BTreeMap::new(),
        };
        for entry in entries {
            if entry.index == log.last_index().next() {
                log.push(entry);
            }
        }
        log
    }

    pub(super) fn last_index(&self) -> Index {
        self.entries.last().map_or(self.snapshot.index, |entry| entry.index)
    }

    pub(super) fn last_term(&self) -> Term {
        self.entries.last().map_or(self.snapshot.term, |entry| entry.term)
    }

    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        let at = index.0.checked_sub(self.snapshot.index.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The term at an index, if the log still knows it.
    pub(super) fn term(&self, index: Index) -> Option<Term> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// At most `most` entries from an index on.
    pub(super) fn from(&self, index: Index, most: usize) -> &[Entry] {
        let at = index.0.saturating_sub(self.snapshot.index.0 + 1);
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.entries.len());
        &self.entries[at..(at + most).min(self.entries.len())]
    }

    /// Appends one entry behind the last.
    pub(super) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last_index().next(), "entries are consecutive");
        match &entry.payload {
            Payload::Config(_) => self.configs.push(entry.index),
            Payload::Grant { resource, holder, .. } => {
                self.grants.entry(*resource).or_default().push((Epoch(entry.index.0), *holder));
                self.about.entry(*resource).or_default().push(entry.index);
            }
            Payload::Release { resource, .. } | Payload::Move { resource, .. } => {
                self.about.entry(*resource).or_default().push(entry.index);
            }
            Payload::Lead(_) | Payload::Maintenance { .. } | Payload::Note(_) | Payload::Set { .. } => {}
        }
        self.entries.push(entry);
    }

    /// Drops the entries from an index on; true if the members changed by that.
    pub(super) fn truncate(&mut self, from: Index) -> bool {
        let keep = from.0.saturating_sub(self.snapshot.index.0 + 1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        let before = self.configs.len();
        self.configs.retain(|index| *index < from);
        for grants in self.grants.values_mut() {
            grants.retain(|(epoch, _)| epoch.0 < from.0);
        }
        for about in self.about.values_mut() {
            about.retain(|index| *index < from);
        }
        self.configs.len() != before
    }

    /// Forgets entries up to the snapshot's index, which replace them.
    pub(super) fn compact(&mut self, snapshot: Arc<Snapshot>) {
        let upto = snapshot.index;
        if self.term(upto) == Some(snapshot.term) {
            let gone = upto.0.saturating_sub(self.snapshot.index.0);
            self.entries.drain(..usize::try_from(gone).unwrap_or(0).min(self.entries.len()));
        } else {
            self.entries.clear();
        }
        let last = Index(upto.0 + self.entries.len() as u64);
        self.snapshot = snapshot;
        self.configs.retain(|index| *index > upto && *index <= last);
        for grants in self.grants.values_mut() {
            grants.retain(|(epoch, _)| epoch.0 > upto.0 && epoch.0 <= last.0);
        }
        for about in self.about.values_mut() {
            about.retain(|index| *index > upto && *index <= last);
        }
    }

    /// The members in force: those of the newest entry that sets them.
    pub(super) fn membership(&self) -> &Membership {
        self.configs
            .last()
            .and_then(|index| self.entry(*index))
            .and_then(|entry| match &entry.payload {
                Payload::Config(members) => Some(&**members),
                _ => None,
            })
            .unwrap_or(&self.snapshot.membership)
    }

    /// Where the members in force were set.
    pub(super) fn membership_index(&self) -> Index {
        self.configs.last().copied().unwrap_or(self.snapshot.index)
    }

    pub(super) fn newest_grant(&self, resource: ResourceId) -> Option<(Epoch, NodeId)> {
        let in_entries = self.grants.get(&resource).and_then(|grants| grants.last().copied());
        in_entries.or_else(|| self.snapshot.state.grants.get(&resource).map(|grant| (grant.epoch, grant.holder)))
    }

    /// Whether an entry about a resource stands after `commit`.
    pub(super) fn in_flight(&self, resource: ResourceId, commit: Index) -> bool {
        self.about.get(&resource).and_then(|about| about.last()).is_some_and(|last| *last > commit)
    }
}

impl Index {
    /// The one after it.
    #[must_use]
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
