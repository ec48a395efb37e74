//! The event heap: total order by `(time, class, node, sequence)`, so that a run has one order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use apus_engine::{Copy, NodeId, OpId, Outcome, ProcessInput, ResourceId};

use crate::fault::Ns;

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// A fault starts.
    FaultStart(u16),
    /// A fault with steps takes the next one.
    FaultStep(u16, u32),
    /// A fault ends.
    FaultStop(u16),
    /// The liveness phase begins.
    Heal,
    /// The node's process starts.
    Boot(NodeId, u32),
    /// The node's process wakes from a pause it was put into.
    Wake(NodeId, u32),
    /// A packet arrives.
    Deliver { to: NodeId, from: NodeId, id: u64, datagram: Vec<u8> },
    /// The host answers an output of this life.
    Done { node: NodeId, life: u32, op: OpId, outcome: Outcome },
    /// The disk of this life finished its oldest batch.
    Synced { node: NodeId, life: u32 },
    /// A program does something.
    Program { node: NodeId, copy: Copy, run: u32, what: ProcessInput },
    /// A program that was asked to stop is gone.
    ProgramGone { node: NodeId, copy: Copy, run: u32 },
    /// Programs that an earlier daemon left may be nobody's.
    Unclaimed { node: NodeId, life: u32 },
    /// A lease may have run out.
    Guard { node: NodeId, resource: ResourceId },
    /// The engine's deadline.
    Timer { node: NodeId },
    /// A client acts.
    Client(u16),
    /// Counts of the last second are looked at.
    Second,
    /// Something about replicated files.
    Files { node: NodeId, life: u32, what: super::files::FilesDue },
}

impl Due {
    /// What comes first at one instant.
    const fn class(&self) -> u64 {
        match self {
            Self::FaultStart(_) => 0,
            Self::FaultStep(..) => 1,
            Self::FaultStop(_) => 2,
            Self::Heal => 3,
            Self::Boot(..) | Self::Wake(..) => 4,
            Self::Guard { .. } => 5,
            Self::Synced { .. } => 6,
            Self::Done { .. } => 7,
            Self::Deliver { .. } => 8,
            Self::Program { .. } | Self::ProgramGone { .. } | Self::Unclaimed { .. } => 9,
            Self::Timer { .. } => 10,
            Self::Client(_) => 11,
            Self::Second => 12,
            Self::Files { .. } => 13,
        }
    }

    fn node(&self) -> u64 {
        match self {
            Self::FaultStart(fault) | Self::FaultStep(fault, _) | Self::FaultStop(fault) => u64::from(*fault),
            Self::Client(client) => u64::from(*client),
            Self::Heal | Self::Second => 0,
            Self::Boot(node, _)
            | Self::Wake(node, _)
            | Self::Deliver { to: node, .. }
            | Self::Done { node, .. }
            | Self::Synced { node, .. }
            | Self::Program { node, .. }
            | Self::ProgramGone { node, .. }
            | Self::Unclaimed { node, .. }
            | Self::Guard { node, .. }
            | Self::Timer { node }
            | Self::Files { node, .. } => u64::from(node.0),
        }
    }
}

/// Class in 4 bits, node in 16, sequence in 44.
type Key = (Ns, u64);

/// The heap. Keys and places are sorted; the events themselves stay where they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Key, u32)>>,
    slots: Vec<Option<Due>>,
    free: Vec<u32>,
    next: u64,
}

impl Queue {
    /// Adds an event.
    #[allow(clippy::cast_possible_truncation, reason = "fewer than 2^32 events wait at once")]
    pub(super) fn push(&mut self, at: Ns, due: Due) {
        let key = (at, due.class() << 60 | due.node() << 44 | self.next);
        self.next = (self.next + 1) & ((1 << 44) - 1);
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(due);
            slot
        } else {
            self.slots.push(Some(due));
            (self.slots.len() - 1) as u32
        };
        self.heap.push(Reverse((key, slot)));
    }

    /// When the earliest event is due.
    pub(super) fn next_at(&self) -> Option<Ns> {
        self.heap.peek().map(|Reverse(((at, _), _))| *at)
    }

    /// Takes the earliest event, if it is due by then.
    pub(super) fn pop_until(&mut self, end: Ns) -> Option<(Ns, Due)> {
        self.heap.peek().filter(|Reverse(((at, _), _))| *at <= end)?;
        let Reverse(((at, _), slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot as usize].take().map(|due| (at, due))
    }
}
