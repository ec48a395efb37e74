//! What happened in a run, in one format for all worlds: for hashes, checkers, and pictures.

use apus_engine::hash::Hash128;
use apus_engine::{Copy, Epoch, Event, ExitCause, Incarnation, NodeId, ProcessOrder, ResourceId};

use crate::fault::{Kind, Ns};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// When, in true time.
    pub at: Ns,
    /// Where; `None` for the world itself.
    pub node: Option<NodeId>,
    /// What.
    pub what: What,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The node's process starts.
    Boot(Incarnation),
    /// It is gone.
    Halt,
    /// The storage of the node refused to open; it was wiped by the operator.
    Refused,
    /// Something the engine tells.
    Event(Event),
    /// A packet left. `id` is unique in the run.
    Sent {
        /// To whom.
        to: NodeId,
        /// Which packet.
        id: u64,
        /// Kind byte.
        kind: u8,
        /// Its bytes as they left.
        datagram: Vec<u8>,
    },
    /// A packet was handed to this node.
    Received {
        /// Who sent it.
        from: NodeId,
        /// Which packet.
        id: u64,
        /// Kind byte.
        kind: u8,
        /// Its bytes as they arrived.
        datagram: Vec<u8>,
    },
    /// A packet was lost: to a fault (index in the plan), or because nobody was there when it arrived.
    Lost {
        /// To whom it was sent.
        to: NodeId,
        /// Which packet.
        id: u64,
        /// By which fault.
        fault: Option<u16>,
    },
    /// This node holds a resource from now until `until` of true time (kernel guard).
    Armed {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// Until when; `Ns::MAX` without end.
        until: Ns,
    },
    /// This node's guard ended it, or was disarmed.
    Disarmed {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
    },
    /// A program was ordered something.
    Program {
        /// Which.
        copy: Copy,
        /// What.
        order: ProcessOrder,
    },
    /// A program has begun. `run` is unique in the run.
    Began {
        /// Which.
        copy: Copy,
        /// Which run of it.
        run: u32,
    },
    /// A daemon has begun, and this program of an earlier one runs.
    Found {
        /// Which.
        copy: Copy,
        /// Which run of it.
        run: u32,
    },
    /// The daemon has taken it over: it runs on as it is.
    Kept {
        /// Which.
        copy: Copy,
        /// Which run of it.
        run: u32,
    },
    /// A program is gone, and the true cause; `None`: it was asked to.
    Gone {
        /// Which.
        copy: Copy,
        /// Why.
        cause: Option<ExitCause>,
    },
    /// A fault starts, on these nodes.
    FaultStart {
        /// Index in the plan.
        fault: u16,
        /// What.
        kind: Kind,
        /// Whom, resolved.
        nodes: Vec<NodeId>,
    },
    /// A fault ends.
    FaultStop {
        /// Index in the plan.
        fault: u16,
        /// What.
        kind: Kind,
        /// How often it had an effect.
        effects: u64,
    },
    /// Everything is healed from here on.
    Healed,
}

/// The 128-bit hash of a run, rolled over every input and output of every engine.
#[derive(Clone, Debug)]
pub struct TraceHash {
    hash: Hash128,
    /// Engine inputs so far.
    pub events: u64,
}

impl Default for TraceHash {
    fn default() -> Self {
        Self { hash: Hash128::new(0x7472_6163), events: 0 }
    }
}

impl TraceHash {
    /// Adds one word.
    pub const fn word(&mut self, word: u64) {
        self.hash.word(word);
    }
    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.hash.bytes(bytes);
    }
    /// Adds anything hashable.
    pub fn value(&mut self, value: &impl std::hash::Hash) {
        value.hash(&mut self.hash);
    }
    /// The hash so far.
    #[must_use]
    pub const fn finish(&self) -> u128 {
        self.hash.finish128()
    }
}
