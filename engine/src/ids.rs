//! Names of things. Each is a type of its own, so that a term cannot be passed as an index.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A machine of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

/// Counts the starts of one node, kept durably; a restarted node is a different speaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// A term of office of the replicated log (Raft §5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

/// A position in the replicated log; the first entry has index 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

/// A fencing token: the log index of the grant that it names. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Something at most one node may own at an instant: the dispatcher's address, or one slot of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId(pub u16);

impl ResourceId {
    /// From here on there are no resources, only settings of the cluster itself: its nodes, its authorities.
    pub const SETTINGS: Self = Self(0x8000);
}

/// A supervised program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId(pub u16);

/// A thread of a supervised program, as the program numbers them in `hbeat(thread, timeout)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ThreadId(pub u32);

/// A group of files that is replicated in one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u16);

/// A position in a group's history; the first record has 1, and 0 is before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A file, directory or link of a group: the position of the record that made it, never an inode's number, which is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u64);

impl FileId {
    /// The group's root directory.
    pub const ROOT: Self = Self(0);
}

/// Ties an output that takes time to the input that answers it. Unique within one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// Which cluster a packet belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u32);

/// Names one [`Event`](crate::Event) in the whole cluster, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EvidenceId {
    /// Who saw it.
    pub node: NodeId,
    /// In which of its lives.
    pub inc: Incarnation,
    /// The how-manieth event of that life, from 1; 0 names nothing.
    pub seq: u32,
}

impl EvidenceId {
    /// Names nothing.
    pub const NONE: Self = Self { node: NodeId(0), inc: Incarnation(0), seq: 0 };

    /// Whether it names an event.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.seq != 0
    }
}

/// Up to three events that an event follows from.
pub type Causes = [EvidenceId; 3];

/// No cause: the event came from outside.
pub const NO_CAUSE: Causes = [EvidenceId::NONE; 3];

macro_rules! display {
    ($($type:ident $prefix:literal),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}
display!(NodeId "n", Incarnation "i", Term "t", Index "#", Epoch "e", ResourceId "r", ServiceId "s", ThreadId "th", OpId "op", GroupId "g", Lsn "@", FileId "f");

impl fmt::Display for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.inc.0, self.seq)
    }
}
