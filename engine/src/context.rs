//! What a part is given with each call: the time, its own generator, and ways to make things happen.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::consensus::{Entry, Membership, Payload, Snapshot};
use crate::event::{Event, Fact};
use crate::ids::{Causes, Epoch, EvidenceId, GroupId, Incarnation, Index, NodeId, OpId, ResourceId, Term};
use crate::io::{Copy, GuardOrder, Lane, Output, Part, ProcessOrder, Record};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::shipping::{Order, Work};
use crate::time::{Micros, Time};
use crate::views::Renewed;
use crate::wire::{self, Body, Header};

/// What one part tells the others. The engine routes signals in the order they were given, each to every part in [`Part`] order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Signal {
    /// From the engine: this node was paused for about `late`.
    Stalled {
        /// How long.
        late: Micros,
        /// The event.
        evidence: EvidenceId,
    },
    /// From diagnosis: somebody accuses a node; no verdict yet.
    NodeSuspect {
        /// Whom.
        node: NodeId,
        /// The event.
        evidence: EvidenceId,
    },
    /// From diagnosis: the verdict is down. It proposes; it never decides ownership.
    NodeDown {
        /// Who.
        node: NodeId,
        /// The event.
        evidence: EvidenceId,
    },
    /// From diagnosis: the node is up, or its accusation was cleared.
    NodeUp {
        /// Who.
        node: NodeId,
        /// In which life.
        inc: Incarnation,
        /// The event.
        evidence: EvidenceId,
    },
    /// From consensus: this node leads from now on.
    Leads {
        /// In which term.
        term: Term,
        /// The event.
        evidence: EvidenceId,
    },
    /// From consensus: this node leads no longer.
    Deposed {
        /// The event.
        evidence: EvidenceId,
    },
    /// From consensus: an entry is committed; exactly once and in order.
    Applied {
        /// The entry.
        entry: Entry,
        /// The `Committed` event.
        evidence: EvidenceId,
    },
    /// From consensus: the state up to an index, after a restart or from the leader.
    Restored {
        /// The state.
        snapshot: Arc<Snapshot>,
        /// The event.
        evidence: EvidenceId,
    },
    /// From consensus: the members, as soon as the entry is in the log.
    Members(Arc<Membership>),
    /// From consensus: a heartbeat that is answered at once went to a voter. It counts as a test of it.
    Beat {
        /// To whom.
        node: NodeId,
    },
    /// From consensus: a voter has answered what was sent to it at `sent`.
    Answered {
        /// Who.
        node: NodeId,
        /// By this node's clock.
        sent: Time,
    },
    /// From consensus: an answer to a heartbeat carried what this node holds, as a renewal sent then.
    Carried {
        /// When, by this node's clock.
        at: Time,
    },
    /// From consensus: the leader's heartbeat brought the answer to that.
    Prolonged {
        /// The leader.
        by: NodeId,
        /// The answer.
        renewed: Renewed,
    },
    /// To consensus: put this into the log if this node leads; otherwise it is dropped.
    Propose(Payload),
    /// From consensus: an entry of this node's own leadership got this index; not yet committed.
    Proposed {
        /// What was proposed.
        payload: Payload,
        /// Where it stands.
        index: Index,
    },
    /// From views: this node holds a resource, its guard is armed. Given once per grant.
    Holds {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// The event.
        evidence: EvidenceId,
    },
    /// From views: stop what `resource` runs, then answer with [`Signal::LetGo`].
    MustLetGo {
        /// What.
        resource: ResourceId,
        /// By which grant it is held.
        epoch: Epoch,
        /// The event.
        evidence: EvidenceId,
    },
    /// From views: the lease is over; the guard has acted already. Stop at once.
    LeaseLost {
        /// What.
        resource: ResourceId,
        /// By which grant it was held.
        epoch: Epoch,
        /// The event.
        evidence: EvidenceId,
    },
    /// From views: keep, or no longer keep, a passive standby here.
    StandBy {
        /// Of what.
        copy: Copy,
        /// Keep.
        on: bool,
        /// The grant that made it so.
        epoch: Epoch,
        /// The event.
        evidence: EvidenceId,
    },
    /// From supervision: nothing runs for this resource any more.
    LetGo {
        /// What.
        resource: ResourceId,
        /// By which grant it was held.
        epoch: Epoch,
    },
    /// From shipping: the program of this resource may start, its files are those of this grant.
    FilesReady {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// The event.
        evidence: EvidenceId,
    },
    /// From supervision: nothing runs any more for a resource with files; shipping lets go of it.
    FilesLetGo {
        /// What.
        resource: ResourceId,
        /// By which grant it was held.
        epoch: Epoch,
    },
    /// From supervision: this node cannot keep the program alive; another should try.
    CannotKeep {
        /// What.
        resource: ResourceId,
        /// By which grant it is held.
        epoch: Epoch,
        /// The evidence.
        because: Causes,
    },
}

/// What a node knows of a peer's wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) inc: Incarnation,
    pub(crate) speaks: u8,
}

/// What all parts write to.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) inc: Incarnation,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) signals: VecDeque<Signal>,
    /// For [`why`](crate::Engine::why) alone: it decides nothing, and a saved state goes without it.
    #[serde(skip)]
    pub(crate) journal: VecDeque<Event>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// What this node holds and does not let go of, from views to the answers of heartbeats.
    pub(crate) held: Vec<(ResourceId, Epoch)>,
    /// Leader: grants whose holder has asked for another one and not let go in its time: not renewed any more (rule R7).
    pub(crate) given_up: BTreeMap<ResourceId, Epoch>,
    pub(crate) next_op: u64,
    pub(crate) next_event: u32,
    /// Persisted records that are not yet durable; a sick disk shows here.
    pub(crate) persisting: u32,
}

/// Events kept for `why`.
const JOURNAL: usize = 512;

impl Shared {
    pub(crate) fn event(&mut self, because: Causes, fact: Fact) -> EvidenceId {
        self.next_event += 1;
        let id = EvidenceId { node: self.config.me, inc: self.inc, seq: self.next_event };
        let event = Event { id, because, fact };
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        self.journal.push_back(event.clone());
        self.outputs.push_back(Output::Event(event));
        id
    }

    /// Operations carry their part in the low two bits, so that their completion finds its way back.
    pub(crate) fn op(&mut self, part: Part) -> OpId {
        debug_assert!(part != Part::Shipping, "its operations have numbers of their own");
        self.next_op += 1;
        OpId(self.next_op << 2 | part as u64)
    }
}

#[cfg(test)]
impl Shared {
    /// Of a node in its first life.
    pub(crate) fn of(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            inc: Incarnation(1),
            outputs: VecDeque::new(),
            signals: VecDeque::new(),
            journal: VecDeque::new(),
            peers: BTreeMap::new(),
            held: Vec::new(),
            given_up: BTreeMap::new(),
            next_op: 0,
            next_event: 0,
            persisting: 0,
        }
    }

    /// For one call to a part.
    pub(crate) fn ctx<'a>(&'a mut self, rng: &'a mut Rng, part: Part, now: Time) -> Ctx<'a> {
        Ctx { now, rng, part, shared: self }
    }
}

/// What a part is given with each call.
pub struct Ctx<'a> {
    /// This node's clock.
    pub now: Time,
    /// This part's own generator.
    pub rng: &'a mut Rng,
    pub(crate) part: Part,
    pub(crate) shared: &'a mut Shared,
}

impl Ctx<'_> {
    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.shared.config.me
    }

    /// This node's life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.inc
    }

    /// Whether a planted bug is on.
    #[must_use]
    pub fn has(&self, mutant: Mutant) -> bool {
        self.shared.config.has(mutant)
    }

    /// Records that wait for the disk, of all parts.
    #[must_use]
    pub fn persisting(&self) -> u32 {
        self.shared.persisting
    }

    /// Whether a node knows of rest, and this one does: that a leader is heard less often while all is well, and tests those that decide itself.
    #[must_use]
    pub fn knows_rest(&self, node: NodeId) -> bool {
        let both = self.shared.config.wire_version.min(self.speaks(node));
        both >= wire::REST || self.has(Mutant::RestAssumed)
    }

    /// The newest wire version that a node speaks, as far as is known.
    #[must_use]
    pub fn speaks(&self, node: NodeId) -> u8 {
        let own = self.shared.config.wire_version;
        if node == self.shared.config.me { own } else { self.shared.peers.get(&node).map_or(1, |peer| peer.speaks) }
    }

    /// Sends a message, in the newest version that both sides speak.
    pub fn send(&mut self, to: NodeId, lane: Lane, body: &Body) {
        let speaks = self.shared.config.wire_version;
        let peer = self.shared.peers.get(&to).map_or(1, |peer| peer.speaks.max(1));
        let header = Header {
            version: speaks.min(peer),
            speaks,
            cluster: self.shared.config.cluster,
            sender: self.shared.config.me,
            incarnation: self.shared.inc,
        };
        let datagram = wire::encode(&header, body);
        self.shared.outputs.push_back(Output::Send { to, lane, datagram });
    }

    /// Asks the host to make a record durable; its [`Done`](crate::Input::Done) comes back to this part.
    pub fn persist(&mut self, record: Record) -> OpId {
        let op = self.shared.op(self.part);
        self.shared.persisting += 1;
        self.shared.outputs.push_back(Output::Persist { op, record });
        op
    }

    /// Arms the kernel's guard.
    pub fn arm(&mut self, resource: ResourceId, epoch: Epoch, until: Time) {
        self.shared.outputs.push_back(Output::Guard(GuardOrder::Arm { resource, epoch, until }));
    }

    /// Disarms it; the completion comes back to this part.
    pub fn disarm(&mut self, resource: ResourceId, epoch: Epoch) -> OpId {
        let op = self.shared.op(self.part);
        self.shared.outputs.push_back(Output::Guard(GuardOrder::Disarm { op, resource, epoch }));
        op
    }

    /// Orders something of a program; the completion comes back to this part.
    pub fn process(&mut self, copy: Copy, order: ProcessOrder) -> OpId {
        let op = self.shared.op(self.part);
        self.shared.outputs.push_back(Output::Process { op, copy, order });
        op
    }

    /// Orders something of a group's files.
    pub fn files(&mut self, group: GroupId, work: Work) {
        self.shared.outputs.push_back(Output::Files(Order { group, work }));
    }

    /// Runs the machine's reboot hook.
    pub fn reboot(&mut self, because: Causes) {
        self.shared.outputs.push_back(Output::Reboot { because });
    }

    /// Tells the other parts.
    pub fn signal(&mut self, signal: Signal) {
        self.shared.signals.push_back(signal);
    }

    /// Tells the world, with the events that this one follows from (at most three are kept).
    pub fn event(&mut self, because: &[EvidenceId], fact: Fact) -> EvidenceId {
        let mut causes = Causes::default();
        let known = because.iter().filter(|id| id.is_some());
        for (slot, id) in causes.iter_mut().zip(known) {
            *slot = *id;
        }
        self.shared.event(causes, fact)
    }
}

/// The earliest of some deadlines.
pub(crate) fn earliest(deadlines: impl IntoIterator<Item = Option<Time>>) -> Option<Time> {
    deadlines.into_iter().flatten().min()
}
