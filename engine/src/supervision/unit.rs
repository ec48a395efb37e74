//! One copy of a service on this node: what is wanted, what it does, and how it has failed.

use alloc::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, EvidenceId, OpId, ResourceId, ThreadId};
use crate::time::Time;

/// What shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Want {
    /// Nothing runs.
    #[default]
    Nothing,
    /// A passive copy.
    Standby(Epoch),
    /// The active copy, by this grant.
    Active(Epoch),
}

/// What is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing runs.
    #[default]
    Stopped,
    /// It waits for a service that it requires.
    Blocked,
    /// It was started and is not ready yet.
    Starting {
        /// Of the order, until it is done.
        op: Option<OpId>,
        /// When it is called not ready.
        due: Time,
        /// Active, or a standby.
        active: bool,
    },
    /// It serves.
    Ready,
    /// It stands by.
    Standby,
    /// It is made active.
    Promoting {
        /// Of the order.
        op: OpId,
    },
    /// Its stacks are kept before it is stopped.
    Capturing {
        /// Of the order.
        op: OpId,
    },
    /// It was told to end.
    Stopping {
        /// Of the order.
        op: OpId,
    },
    /// It failed and is tried again later.
    BackingOff {
        /// When.
        until: Time,
    },
    /// It failed too often here.
    GivenUp {
        /// When it is tried again, or the reboot hook is run, if nobody has taken it over.
        until: Time,
    },
}

/// One copy.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Unit {
    pub(super) resource: ResourceId,
    pub(super) want: Want,
    pub(super) phase: Phase,
    /// The newest event about it.
    pub(super) evidence: EvidenceId,
    /// When each thread has to have beaten again.
    pub(super) beats: BTreeMap<ThreadId, Time>,
    /// Failures within the window.
    pub(super) failures: VecDeque<Time>,
    /// Failures without a stable run between them.
    pub(super) streak: u32,
    /// Not started before this, whatever is wanted meanwhile.
    pub(super) backed_off: Time,
    pub(super) ready_since: Option<Time>,
    /// A failure whose program is still being stopped.
    pub(super) failing: bool,
    /// The grant to let go of when it is gone.
    pub(super) let_go: Option<Epoch>,
}

impl Unit {
    /// Whether a program runs or may run.
    pub(super) const fn runs(&self) -> bool {
        !matches!(self.phase, Phase::Stopped | Phase::Blocked | Phase::BackingOff { .. } | Phase::GivenUp { .. })
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Starting { due, .. } => Some(due),
            Phase::BackingOff { until } | Phase::GivenUp { until } => Some(until),
            Phase::Ready => self.beats.values().min().copied(),
            _ => None,
        }
    }
}
