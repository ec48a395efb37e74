//! The replicated log: Raft with PreVote, CheckQuorum, stickiness, joint membership and readmission of wiped nodes.
mod message;

pub use message::{
    Append, AppendReply, Entry, Fact, Grant, Install, Membership, Message, Payload, Snapshot, TakeOver, ViewState,
    VoteReply, VoteRequest,
};

use crate::config::Config;
use crate::context::{Ctx, Signal};
use crate::ids::{Epoch, Index, NodeId, OpId, ResourceId, Term};
use crate::io::{Command, Durable, Outcome, SubmitError};
use crate::rng::Rng;
use crate::time::Time;

/// One node's copy of the log and its role.
#[derive(Clone, Debug, Hash)]
pub struct Consensus {}

impl Consensus {
    pub(crate) fn new(_config: &Config, _durable: Durable, _now: Time, _rng: &mut Rng) -> Self {
        Self {}
    }
    /// Tells the other parts what the disk held: `Members`, and `Restored` if there is a snapshot.
    pub(crate) fn on_start(&mut self, _ctx: &mut Ctx<'_>) {}
    pub(crate) fn on_message(&mut self, _ctx: &mut Ctx<'_>, _from: NodeId, _message: Message) {}
    pub(crate) fn on_timer(&mut self, _ctx: &mut Ctx<'_>) {}
    pub(crate) fn on_done(&mut self, _ctx: &mut Ctx<'_>, _op: OpId, _outcome: Outcome) {}
    pub(crate) fn on_signal(&mut self, _ctx: &mut Ctx<'_>, _signal: &Signal) {}
    pub(crate) fn submit(&mut self, _ctx: &mut Ctx<'_>, _command: Command) -> Result<(), SubmitError> {
        Err(SubmitError::NotCoordinator { hint: None })
    }
    pub(crate) fn deadline(&self) -> Option<Time> {
        None
    }
    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(0)
    }
    /// Whether this node leads, and since when on its own clock.
    #[must_use]
    pub fn leads(&self) -> Option<(Term, Time)> {
        None
    }
    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        None
    }
    /// Whether the leader has committed an entry of its own term.
    #[must_use]
    pub fn own_term_committed(&self) -> bool {
        false
    }
    /// Q of rule R1: the newest send time such that a quorum has acknowledged an append sent then or later.
    #[must_use]
    pub fn quorum_contact(&self) -> Option<Time> {
        None
    }
    /// The newest grant of a resource in the log, committed or not.
    #[must_use]
    pub fn newest_grant(&self, _resource: ResourceId) -> Option<(Epoch, NodeId)> {
        None
    }
    /// Whether an entry about this resource waits for commitment.
    #[must_use]
    pub fn in_flight(&self, _resource: ResourceId) -> bool {
        false
    }
    /// The members in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        unimplemented_membership()
    }
    /// The last committed index.
    #[must_use]
    pub fn commit(&self) -> Index {
        Index(0)
    }
}
fn unimplemented_membership() -> &'static Membership {
    static EMPTY: Membership = Membership {
        voters: alloc::collections::BTreeSet::new(),
        outgoing: alloc::collections::BTreeSet::new(),
        learners: alloc::collections::BTreeSet::new(),
        arbiters: alloc::collections::BTreeSet::new(),
    };
    &EMPTY
}
