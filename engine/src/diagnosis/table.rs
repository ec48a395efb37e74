//! The state table: what is known of every member, merged as a join semilattice, with a running digest.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{News, Status};
use crate::hash::Hash128;
use crate::ids::{EvidenceId, Incarnation, NodeId};

/// What is known of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) inc: Incarnation,
    /// Even: asserted up; odd: accused.
    pub(super) ctr: u32,
    pub(super) down: bool,
    pub(super) accusers: Vec<NodeId>,
    pub(super) evidence: EvidenceId,
    /// Others know it too: it counts in the digest. The first life of a node that nobody missed does not.
    pub(super) told: bool,
    /// The verdict is this node's alone: acted on here, told to nobody.
    pub(super) private: bool,
    /// Its disk or loop is late, by its own word.
    pub(super) sick: bool,
}

impl Entry {
    pub(super) const fn status(&self) -> Status {
        if self.down {
            Status::Down
        } else if self.ctr % 2 == 1 {
            Status::Suspect
        } else {
            Status::Up
        }
    }

    /// Its part of the digest. A suspicion without a verdict is known to few and does not count.
    fn digest(&self, node: NodeId) -> u64 {
        let down = self.down && !self.private;
        if !self.told && !down && self.ctr < 2 {
            return 0;
        }
        let settled = if down { self.ctr } else { self.ctr & !1 };
        let mut hash = Hash128::new(u64::from(node.0));
        hash.word(u64::from(self.inc.0) << 32 | u64::from(settled));
        hash.word(u64::from(down));
        hash.finish64()
    }
}

/// All members by rank, the order of their numbers.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Table {
    nodes: Vec<NodeId>,
    entries: Vec<Entry>,
    digest: u64,
    /// Ranks judged down, and ranks that somebody accuses.
    pub(super) down: BTreeSet<usize>,
    pub(super) suspect: BTreeSet<usize>,
}

impl Table {
    /// Takes over what is known of those who stay.
    pub(super) fn reshape(&mut self, nodes: Vec<NodeId>) {
        let mut old = core::mem::take(self);
        let entries: Vec<Entry> = nodes
            .iter()
            .map(|node| old.rank(*node).map_or_else(Entry::default, |rank| core::mem::take(&mut old.entries[rank])))
            .collect();
        self.digest = nodes.iter().zip(&entries).fold(0, |sum, (node, entry)| sum ^ entry.digest(*node));
        let all = || entries.iter().map(Entry::status).enumerate();
        self.down = all().filter(|(_, status)| *status == Status::Down).map(|(rank, _)| rank).collect();
        self.suspect = all().filter(|(_, status)| *status == Status::Suspect).map(|(rank, _)| rank).collect();
        (self.nodes, self.entries) = (nodes, entries);
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The place of a node; `None`: it is no member. Numbers are mostly dense, so the first guess is mostly right.
    pub(super) fn rank(&self, node: NodeId) -> Option<usize> {
        let guess = usize::from(node.0);
        if self.nodes.get(guess) == Some(&node) {
            return Some(guess);
        }
        self.nodes.binary_search(&node).ok()
    }

    pub(super) fn node(&self, rank: usize) -> NodeId {
        self.nodes[rank]
    }

    pub(super) fn entry(&self, rank: usize) -> &Entry {
        &self.entries[rank]
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// Changes one entry and the digest with it.
    pub(super) fn change(&mut self, rank: usize, change: impl FnOnce(&mut Entry)) {
        let node = self.nodes[rank];
        let entry = &mut self.entries[rank];
        let (digest, status) = (entry.digest(node), entry.status());
        change(entry);
        self.digest ^= digest ^ entry.digest(node);
        let now = entry.status();
        if status == now {
            return;
        }
        self.down.remove(&rank);
        self.suspect.remove(&rank);
        match now {
            Status::Down => self.down.insert(rank),
            Status::Suspect => self.suspect.insert(rank),
            Status::Up | Status::Left => false,
        };
    }

    /// The entry as news.
    pub(super) fn news(&self, rank: usize) -> News {
        let entry = &self.entries[rank];
        News {
            node: self.nodes[rank],
            inc: entry.inc,
            ctr: entry.ctr,
            accusers: entry.accusers.clone(),
            down: entry.down && !entry.private,
            evidence: entry.evidence,
        }
    }

    /// One digest a bucket; a node's bucket is its number modulo their count.
    pub(super) fn buckets(&self, many: usize) -> Vec<u64> {
        let mut buckets = alloc::vec![0; many];
        for (node, entry) in self.nodes.iter().zip(&self.entries) {
            buckets[usize::from(node.0) % many] ^= entry.digest(*node);
        }
        buckets
    }

    /// Ranks in buckets that differ and that say more than the default.
    pub(super) fn differing<'a>(&'a self, theirs: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
        let mine = self.buckets(theirs.len());
        let differs = move |node: NodeId| {
            let bucket = usize::from(node.0) % theirs.len();
            mine[bucket] != theirs[bucket]
        };
        (0..self.nodes.len()).filter(move |rank| {
            let entry = &self.entries[*rank];
            differs(self.nodes[*rank]) && (entry.told || entry.down || entry.ctr > 0)
        })
    }
}
