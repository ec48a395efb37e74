//! What goes into an engine and what comes out of it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::consensus::{Entry, Snapshot};
use crate::event::Event;
use crate::ids::{Causes, Epoch, GroupId, Incarnation, Index, NodeId, OpId, ResourceId, ServiceId, Term, ThreadId};
use crate::shipping::{Happening, Order};
use crate::time::{Micros, Time};

/// One thing the world did.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Input {
    /// Time has passed. Early, late and repeated ticks are harmless.
    Tick,
    /// A packet came in. `from` is what the transport says; the engine checks the packet itself.
    Packet {
        /// Whose link it came over.
        from: NodeId,
        /// The bytes.
        datagram: Vec<u8>,
    },
    /// An [`Output`] with this operation is done.
    Done {
        /// Which.
        op: OpId,
        /// How it went.
        outcome: Outcome,
    },
    /// A supervised program did something by itself.
    Process {
        /// Which service and slot of this node.
        copy: Copy,
        /// What it did.
        what: ProcessInput,
    },
    /// Something about a group of files.
    Files {
        /// Which group.
        group: GroupId,
        /// What.
        what: Happening,
    },
}

/// How slow work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done, and durable if it was a [`Output::Persist`].
    Ok,
    /// The disk is full: nothing was written. The engine retries when it next must.
    DiskFull,
    /// The disk failed; whether it was written is unknown. The engine stops deciding until it is restarted.
    DiskFailed,
    /// A program could not be started or was not there to be stopped.
    ProcessFailed,
}

/// One copy of a service on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Copy {
    /// Of which service.
    pub service: ServiceId,
    /// In which slot.
    pub slot: u8,
}

/// What a supervised program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProcessInput {
    /// It can serve.
    Ready,
    /// `hbeat(thread, timeout)`: the thread promises to beat again within `timeout`; zero ends its promise.
    Heartbeat {
        /// Which thread.
        thread: ThreadId,
        /// Until the next beat at most.
        timeout: Micros,
    },
    /// It is gone.
    Exited(ExitCause),
}

/// Why a program is gone, as the operating system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ExitCause {
    /// By itself, with this code.
    Code(i32),
    /// By a signal or an unhandled exception.
    Signal(i32),
    /// The system was out of memory.
    OutOfMemory,
    /// Its lease ran out and its guard ended it.
    Guard,
}

/// One thing that the host must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Output {
    /// Send one packet; losing it is allowed.
    Send {
        /// To whom.
        to: NodeId,
        /// Probes go as datagrams; log messages may go over a stream.
        lane: Lane,
        /// The bytes.
        datagram: Vec<u8>,
    },
    /// Make `record` durable after all earlier ones, then answer. Nothing that relies on it is sent before.
    Persist {
        /// Answer with this.
        op: OpId,
        /// What to keep.
        record: Record,
    },
    /// Tell the kernel's guard who may act; it acts by itself when a lease runs out.
    Guard(GuardOrder),
    /// Do something to a supervised program, then answer.
    Process {
        /// Answer with this.
        op: OpId,
        /// Which copy.
        copy: Copy,
        /// What to do.
        order: ProcessOrder,
    },
    /// Do something with a group of files.
    Files(Order),
    /// Run the reboot hook of this machine.
    Reboot {
        /// The evidence.
        because: Causes,
    },
    /// Tell the application, the trace, and the checkers.
    Event(Event),
}

/// How a packet should travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Small, may be lost.
    Probe,
    /// Up to 64 KiB, may be lost, should arrive in order.
    Log,
}

/// What the kernel's guard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GuardOrder {
    /// This node owns `resource` until `until` of its own clock. A later `until` of the same or a higher epoch replaces it.
    Arm {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// Until when.
        until: Time,
    },
    /// This node owns `resource` no longer; answer when that is so.
    Disarm {
        /// Answer with this.
        op: OpId,
        /// What.
        resource: ResourceId,
        /// By which grant it was owned.
        epoch: Epoch,
    },
}

/// What to do to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProcessOrder {
    /// Start it. The guard ends it when the lease of `epoch` runs out; a standby has no lease.
    Start {
        /// Active, or a passive standby.
        active: bool,
        /// By which grant.
        epoch: Epoch,
    },
    /// Make a standby active.
    Promote {
        /// By which grant.
        epoch: Epoch,
    },
    /// Ask it to end, kill it after `grace`; done when it is gone with all its children.
    Stop {
        /// How long it may take by itself.
        grace: Micros,
    },
    /// Keep stacks of a hung program, before it is stopped.
    Capture,
}

/// What must be durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Record {
    /// A new life begins.
    Born(Incarnation),
    /// Term and vote.
    Vote {
        /// The term.
        term: Term,
        /// For whom this node voted in it.
        voted: Option<NodeId>,
    },
    /// Entries; what was at their first index and after it is void.
    Entries(Vec<Entry>),
    /// Everything up to the snapshot's index is in it.
    Snapshot(Arc<Snapshot>),
    /// A node whose disk was wiped votes again.
    Admitted,
}

/// What a restart finds on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Durable {
    /// False when the disk was never formatted or was wiped: the node must not vote before it is readmitted.
    pub formatted: bool,
    /// The last life.
    pub incarnation: Incarnation,
    /// The newest term.
    pub term: Term,
    /// The vote in it.
    pub voted: Option<NodeId>,
    /// The newest snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The entries after it.
    pub log: BTreeMap<Index, Entry>,
}

impl Durable {
    /// A disk as `apus cluster init` leaves it: formatted, nothing else.
    #[must_use]
    pub fn formatted() -> Self {
        Self { formatted: true, ..Self::default() }
    }

    /// Replays one record, oldest first.
    pub fn replay(&mut self, record: Record) {
        match record {
            Record::Born(incarnation) => self.incarnation = self.incarnation.max(incarnation),
            Record::Admitted => self.formatted = true,
            Record::Vote { term, voted } => {
                self.term = term;
                self.voted = voted;
            }
            Record::Entries(entries) => {
                while let Some(last) = self.log.last_entry()
                    && entries.first().is_some_and(|first| first.index <= *last.key())
                {
                    last.remove();
                }
                self.log.extend(entries.into_iter().map(|entry| (entry.index, entry)));
            }
            Record::Snapshot(snapshot) => {
                // Entries that do not follow from the snapshot are void with it.
                let follows = self.log.get(&snapshot.index).is_none_or(|entry| entry.term == snapshot.term);
                self.log = self.log.split_off(&Index(snapshot.index.0.saturating_add(1)));
                if !follows {
                    self.log.clear();
                }
                self.snapshot = Some(snapshot);
            }
        }
    }
}

/// One thing the application or the operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Command {
    /// Put bytes into the replicated log.
    Note(Vec<u8>),
    /// Move a resource to a node, without two owners and without a gap longer than needed.
    Move {
        /// What.
        resource: ResourceId,
        /// Where.
        to: NodeId,
    },
    /// Move everything away from a node and give it nothing new.
    Drain(NodeId),
    /// End a drain.
    Undrain(NodeId),
    /// Set a resource up, for all members.
    Set {
        /// What.
        resource: ResourceId,
        /// The host's to understand; at most 1 KiB.
        value: Vec<u8>,
    },
    /// Add a member, as learner first; a voter is promoted once it has caught up.
    AddNode {
        /// Who.
        node: NodeId,
        /// Whether it shall vote.
        voter: bool,
    },
    /// Remove a member.
    RemoveNode(NodeId),
    /// Look through the files of a group's copies; given to who writes.
    Scrub(GroupId),
    /// Compare a copy's files from the start; given to who writes.
    Compare {
        /// Of which group.
        group: GroupId,
        /// Whose.
        node: NodeId,
    },
}

/// Why a submission was refused. In every case the engine is unchanged.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubmitError {
    /// Another node coordinates; retry there if it is known.
    NotCoordinator {
        /// Who does, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// Too much is in flight; retry later.
    WindowFull {
        /// How much may be.
        limit: u16,
    },
    /// A change of the membership, or of this resource, is running; retry when it is done.
    ChangeInProgress,
    /// No such node or resource.
    Unknown,
    /// No program writes the group's files on this node; ask the one where its service runs.
    NotWriter,
    /// The node may not own the resource.
    NotEligible(NodeId),
    /// A note is at most 32 KiB, a setting 1 KiB.
    TooLarge,
    /// This member's program is too old to know such a command: upgrade it first.
    TooOld(NodeId),
}

/// When the host must call in at the latest, and which part asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Deadline {
    /// When, on this node's clock.
    pub at: Time,
    /// Who asks.
    pub part: Part,
}

/// The parts of an engine, in routing order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// Ring diagnosis.
    Diagnosis,
    /// The replicated log.
    Consensus,
    /// Leases and grants.
    Views,
    /// Programs.
    Supervision,
    /// Groups of files.
    Shipping,
}
