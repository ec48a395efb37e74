//! What shipping says happened.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, FileId, GroupId, Lsn, NodeId};

/// Why a copy does not take records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Trouble {
    /// Its disk is full.
    Full,
    /// Its disk fails.
    Failed,
}

/// What shipping says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// Eras below are refused from now on.
    Promised {
        /// Of which group.
        group: GroupId,
        /// The era.
        era: Epoch,
    },
    /// Somebody of an earlier era was refused.
    Refused {
        /// Of which group.
        group: GroupId,
        /// Its era.
        era: Epoch,
        /// The promised one.
        promised: Epoch,
    },
    /// A history that has come further is taken over from another copy before programs may write.
    Fetching {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// From whom.
        from: NodeId,
        /// Up to here.
        upto: Lsn,
    },
    /// Fewer copies answer than have to be asked; nobody writes until they do.
    TooFew {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// So many answered.
        have: u8,
        /// So many are needed.
        need: u8,
    },
    /// The copy with the furthest records has files that lost something, and no copy is there whose files it goes on from; nobody
    /// writes until one is, or until the group is promoted at that copy.
    NoModel {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// Whose records are the furthest.
        furthest: NodeId,
    },
    /// Programs may change the files here.
    Opened {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// The era's first record.
        at: Lsn,
        /// The files are taken as they were found.
        fresh: bool,
    },
    /// No program changes them any more.
    Closed {
        /// Of which group.
        group: GroupId,
        /// The last record.
        at: Lsn,
    },
    /// The grant is given back as planned.
    LetGo {
        /// Of which group.
        group: GroupId,
        /// The last record.
        at: Lsn,
        /// Every copy that follows has it durably; otherwise the wait for them was over.
        whole: bool,
    },
    /// This copy follows another one's history.
    Following {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// Whose.
        source: NodeId,
        /// Files are compared first.
        compares: bool,
    },
    /// This copy's files were compared and are published.
    Synced {
        /// Of which group.
        group: GroupId,
        /// In which era.
        era: Epoch,
        /// As of here.
        at: Lsn,
    },
    /// What this copy holds and the others do not was saved.
    Orphaned {
        /// Of which group.
        group: GroupId,
        /// The first record saved.
        from: Lsn,
        /// The last.
        upto: Lsn,
    },
    /// Alarm: a copy is behind by more than the bound.
    Lagging {
        /// Of which group.
        group: GroupId,
        /// Who.
        node: NodeId,
        /// By so many records.
        behind: u64,
    },
    /// It is within the bound again.
    CaughtUp {
        /// Of which group.
        group: GroupId,
        /// Who.
        node: NodeId,
    },
    /// Alarm: a copy takes no records; the others go on.
    Troubled {
        /// Of which group.
        group: GroupId,
        /// Who.
        node: NodeId,
        /// Why.
        why: Trouble,
    },
    /// It takes them again.
    Recovered {
        /// Of which group.
        group: GroupId,
        /// Who.
        node: NodeId,
    },
    /// Alarm: the log's bound was reached before a copy had taken its records; its files will be compared.
    Dropped {
        /// Of which group.
        group: GroupId,
        /// Who.
        node: NodeId,
        /// Records up to here are gone.
        upto: Lsn,
    },
    /// Alarm: changes were not captured; all copies' files will be compared.
    Missed {
        /// Of which group.
        group: GroupId,
        /// After this record.
        after: Lsn,
    },
    /// Alarm: a scrub found a copy's file to differ.
    Differs {
        /// Of which group.
        group: GroupId,
        /// Whose.
        node: NodeId,
        /// Which file.
        file: FileId,
        /// Which block of it; none: its name, length, owner or permissions.
        block: Option<u64>,
    },
}
