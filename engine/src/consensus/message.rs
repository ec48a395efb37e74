//! Log entries, memberships, and what voters tell each other.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{Causes, Epoch, Index, NodeId, ResourceId, Term};
use crate::time::{Micros, Time};
use crate::views::{Renew, Renewed};
use crate::wire::{DecodeError, Reader, Wire, Writer};
use crate::{wire_messages, wire_struct};

/// Who decides and who follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// Nodes whose majority decides.
    pub voters: BTreeSet<NodeId>,
    /// While a change runs, the old voters: their majority is needed too (Raft §6). Empty otherwise.
    pub outgoing: BTreeSet<NodeId>,
    /// Nodes that only follow.
    pub learners: BTreeSet<NodeId>,
    /// Voters that own nothing.
    pub arbiters: BTreeSet<NodeId>,
}
wire_struct!(Membership { voters, outgoing, learners, arbiters } least 4);

impl Membership {
    /// Whether `node` belongs to the cluster in any role.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node) || self.learners.contains(&node)
    }

    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    /// Whether `node`'s vote counts now.
    #[must_use]
    pub fn votes(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether a change is running.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Payload {
    /// A leader's first entry: commits what came before it.
    Lead(NodeId),
    /// The members from this entry on, in force as soon as it is in the log.
    Config(Arc<Membership>),
    /// `resource` belongs to `holder`; the entry's index is the epoch.
    Grant {
        /// What.
        resource: ResourceId,
        /// To whom.
        holder: NodeId,
        /// The evidence.
        because: Causes,
    },
    /// The holder of `epoch` has let go: guard disarmed, program stopped.
    Release {
        /// What.
        resource: ResourceId,
        /// Which grant.
        epoch: Epoch,
    },
    /// The node shall get nothing new, or may again.
    Maintenance {
        /// Who.
        node: NodeId,
        /// Whether it is drained.
        on: bool,
    },
    /// The holder must let go so that the resource can move; `to` is the wish for the next grant.
    Move {
        /// What.
        resource: ResourceId,
        /// Where to, if it matters.
        to: Option<NodeId>,
        /// The evidence.
        because: Causes,
    },
    /// Bytes of the application.
    Note(Vec<u8>),
    /// How a resource is set up; replaces what was set before (since version 3).
    Set {
        /// What.
        resource: ResourceId,
        /// The host's to understand.
        value: Vec<u8>,
    },
}

impl Wire for Payload {
    const LEAST: usize = 2;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Lead(node) => (w.u8(0), node.put(w)).1,
            Self::Config(membership) => (w.u8(1), membership.put(w)).1,
            Self::Grant { resource, holder, because } => {
                w.u8(2);
                resource.put(w);
                holder.put(w);
                because.put(w);
            }
            Self::Release { resource, epoch } => {
                w.u8(3);
                resource.put(w);
                epoch.put(w);
            }
            Self::Maintenance { node, on } => {
                w.u8(4);
                node.put(w);
                on.put(w);
            }
            Self::Move { resource, to, because } => {
                w.u8(5);
                resource.put(w);
                to.put(w);
                because.put(w);
            }
            Self::Note(bytes) => {
                w.u8(6);
                bytes.put(w);
            }
            Self::Set { resource, value } => {
                w.u8(7);
                resource.put(w);
                value.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Lead(Wire::get(r)?),
            1 => Self::Config(Wire::get(r)?),
            2 => Self::Grant { resource: Wire::get(r)?, holder: Wire::get(r)?, because: Wire::get(r)? },
            3 => Self::Release { resource: Wire::get(r)?, epoch: Wire::get(r)? },
            4 => Self::Maintenance { node: Wire::get(r)?, on: Wire::get(r)? },
            5 => Self::Move { resource: Wire::get(r)?, to: Wire::get(r)?, because: Wire::get(r)? },
            6 => Self::Note(Wire::get(r)?),
            7 => Self::Set { resource: Wire::get(r)?, value: Wire::get(r)? },
            _ => return Err(DecodeError::Value),
        })
    }
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands.
    pub index: Index,
    /// The term of the leader that wrote it.
    pub term: Term,
    /// What it says.
    pub payload: Payload,
}
wire_struct!(Entry { index, term, payload } least 4);

/// What the log up to an index amounts to; small, so it is sent whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry in it.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// The members after it.
    pub membership: Membership,
    /// The state machine of `views` after it.
    pub state: ViewState,
}
wire_struct!(Snapshot { index, term, membership, state } least 10);

/// The replicated state machine: who owns what. A function of the log alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewState {
    /// The newest grant of each resource.
    pub grants: BTreeMap<ResourceId, Grant>,
    /// Nodes that get nothing new.
    pub drained: BTreeSet<NodeId>,
    /// How many notes were applied, and the hash of them all in order.
    pub notes: u64,
    /// See `notes`.
    pub notes_hash: u64,
    /// How resources are set up, where that was set (since version 3).
    pub settings: BTreeMap<ResourceId, Vec<u8>>,
}

impl Wire for ViewState {
    const LEAST: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.grants.put(w);
        self.drained.put(w);
        self.notes.put(w);
        self.notes_hash.put(w);
        if w.version >= 3 {
            self.settings.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (grants, drained) = (Wire::get(r)?, Wire::get(r)?);
        let (notes, notes_hash) = (Wire::get(r)?, Wire::get(r)?);
        let settings = if r.version >= 3 { Wire::get(r)? } else { BTreeMap::new() };
        Ok(Self { grants, drained, notes, notes_hash, settings })
    }
}

/// The newest grant of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Index of its entry: the fencing token.
    pub epoch: Epoch,
    /// Whose it is.
    pub holder: NodeId,
    /// Whether the holder has let go.
    pub released: bool,
    /// Whether the holder has been told to let go, and the wish for the next holder.
    pub moving: Option<Option<NodeId>>,
    /// The evidence.
    pub because: Causes,
}
wire_struct!(Grant { epoch, holder, released, moving, because } least 17);

/// A candidate asks for a vote, or, with `pre`, whether it would get one (Raft thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// The candidate's term; with `pre`, the one it would start.
    pub term: Term,
    /// Only asking.
    pub pre: bool,
    /// The leader asked it to campaign, so stickiness does not apply.
    pub transfer: bool,
    /// Its last entry.
    pub last_index: Index,
    /// The term of that.
    pub last_term: Term,
}
wire_struct!(VoteRequest { term, pre, transfer, last_index, last_term } least 5);

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteReply {
    /// The voter's term, or the asked one if granted.
    pub term: Term,
    /// Answers a `pre` request.
    pub pre: bool,
    /// Whether it gets the vote.
    pub granted: bool,
    /// With a vote: how long the voter has neither followed a leader nor been one, by its clock, since its start at most.
    /// Zero if it does not say (before version 2): then it may have done so just now.
    pub quiet: Micros,
}

impl Wire for VoteReply {
    const LEAST: usize = 3;
    fn put(&self, w: &mut Writer) {
        self.term.put(w);
        self.pre.put(w);
        self.granted.put(w);
        if w.version >= 2 {
            self.quiet.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (term, pre, granted) = (Wire::get(r)?, Wire::get(r)?, Wire::get(r)?);
        let quiet = if r.version >= 2 { Wire::get(r)? } else { Micros::ZERO };
        Ok(Self { term, pre, granted, quiet })
    }
}

/// A leader's entries, or its heartbeat when there are none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry before the first.
    pub prev_index: Index,
    /// The term of that.
    pub prev_term: Term,
    /// How far the leader has committed.
    pub commit: Index,
    /// When the leader sent it, on its own clock; echoed, so that a lease is counted from the sending.
    pub sent_at: Time,
    /// The entries.
    pub entries: Vec<Entry>,
}
wire_struct!(Append { term, prev_index, prev_term, commit, sent_at, entries } least 6);

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendReply {
    /// The follower's term.
    pub term: Term,
    /// Echo.
    pub sent_at: Time,
    /// Whether the entry before fitted.
    pub fits: bool,
    /// Last entry known to equal the leader's and durable; or, if it did not fit, where to try next.
    pub index: Index,
    /// The disk of the follower was wiped: it must not be counted until it is readmitted.
    pub blank: bool,
}
wire_struct!(AppendReply { term, sent_at, fits, index, blank } least 5);

/// A heartbeat to a follower that has all (since version 4). It is answered at once, and may be lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Beat {
    /// As in [`Append`].
    pub term: Term,
    /// The last entry.
    pub prev_index: Index,
    /// The term of that.
    pub prev_term: Term,
    /// How far the leader has committed.
    pub commit: Index,
    /// As in [`Append`].
    pub sent_at: Time,
    /// The answer to what the receiver asked for with its last answer; of no grants if to nothing.
    pub renewed: Renewed,
}
wire_struct!(Beat { term, prev_index, prev_term, commit, sent_at, renewed } least 9);

/// The answer to a [`Beat`] (since version 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BeatReply {
    /// As to an append.
    pub reply: AppendReply,
    /// What the follower holds, as if it asked for more time itself (rule R1).
    pub renew: Renew,
}
wire_struct!(BeatReply { reply, renew } least 7);

/// A snapshot for a follower that needs compacted entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Install {
    /// The leader's term.
    pub term: Term,
    /// Echoed.
    pub sent_at: Time,
    /// The state.
    pub snapshot: Arc<Snapshot>,
}
wire_struct!(Install { term, sent_at, snapshot } least 12);

/// The leader asks its best follower to take over at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TakeOver {
    /// The leader's term.
    pub term: Term,
}
wire_struct!(TakeOver { term } least 1);

wire_messages! {
    /// Messages of consensus.
    pub enum Message {
        /// Asks for a vote.
        0x20 "vote-request" VoteRequest(VoteRequest),
        /// Gives or refuses it.
        0x21 "vote-reply" VoteReply(VoteReply),
        /// Entries or heartbeat.
        0x22 "append" Append(Append),
        /// The answer.
        0x23 "append-reply" AppendReply(AppendReply),
        /// A snapshot.
        0x24 "install" Install(Install),
        /// Campaign now.
        0x25 "take-over" TakeOver(TakeOver),
        /// A heartbeat at rest.
        0x26 "beat" Beat(Beat),
        /// Its answer.
        0x27 "beat-reply" BeatReply(BeatReply),
    }
}

/// What consensus says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// An election, or with `pre` a poll before one, starts.
    Campaign {
        /// For which term.
        term: Term,
        /// Only asking.
        pre: bool,
    },
    /// The vote of this node in a term; durable.
    Voted {
        /// The term.
        term: Term,
        /// For whom.
        candidate: NodeId,
    },
    /// This node leads.
    Elected {
        /// The term.
        term: Term,
    },
    /// It leads no longer.
    SteppedDown {
        /// Its term then.
        term: Term,
        /// No quorum answered within an election timeout.
        no_quorum: bool,
    },
    /// This node knows who leads.
    Follows {
        /// Whom.
        leader: NodeId,
        /// In which term.
        term: Term,
    },
    /// An entry is committed and applied here. `digest` covers index, term and payload.
    Committed {
        /// Where.
        index: Index,
        /// Its term.
        term: Term,
        /// Of the entry, the same on every node.
        digest: u64,
    },
    /// A snapshot replaced the log up to here.
    Installed {
        /// The last entry in it.
        index: Index,
    },
    /// The members changed.
    Members {
        /// By which entry.
        index: Index,
        /// How many vote now.
        voters: u16,
        /// Whether a change is running.
        joint: bool,
    },
    /// A wiped node asks to be readmitted.
    Blank {
        /// Who.
        node: NodeId,
    },
}
