//! What the engine tells about itself: every act with the evidence that led to it.

use serde::{Deserialize, Serialize};

use crate::ids::{Causes, EvidenceId, Incarnation};
use crate::{consensus, diagnosis, shipping, supervision, views};

/// One fact, its name, and what it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub id: EvidenceId,
    /// What it follows from; also events of other nodes.
    pub because: Causes,
    /// What happened.
    pub fact: Fact,
}

/// What happened, by the part that says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// The engine itself.
    Engine(EngineFact),
    /// Ring diagnosis.
    Diagnosis(diagnosis::Fact),
    /// The replicated log.
    Consensus(consensus::Fact),
    /// Leases and grants.
    Views(views::Fact),
    /// Programs.
    Supervision(supervision::Fact),
    /// Groups of files.
    Shipping(shipping::Fact),
}

/// What the engine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EngineFact {
    /// A life began.
    Started {
        /// Whether the disk was formatted.
        formatted: bool,
    },
    /// The host called in so late that the node must have been paused.
    Stalled {
        /// By how much.
        late: crate::Micros,
    },
    /// Peers know a later life of this node. A node with a disk of its own is an old instance of itself and falls silent;
    /// a node whose disk was wiped begins a life after that one.
    Superseded {
        /// The later life.
        inc: Incarnation,
        /// Whether the node falls silent.
        silent: bool,
    },
    /// Persisting failed for good; the node decides nothing until it is restarted.
    DiskFailed,
    /// The disk is full; the record is kept and tried again.
    DiskFull,
}
