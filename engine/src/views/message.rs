//! Leases: what holders and the leader tell each other.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{Causes, Epoch, Index, NodeId, ResourceId, Term};
use crate::io::Command;
use crate::time::{Micros, Time};
use crate::{wire_messages, wire_struct};

/// A holder asks for more time (rule R1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Renew {
    /// When it was sent, on the holder's clock; echoed (rule R2).
    pub sent_at: Time,
    /// What it holds by which grant.
    pub held: Vec<(ResourceId, Epoch)>,
}
wire_struct!(Renew { sent_at, held } least 2);

impl crate::wire::Wire for (ResourceId, Epoch) {
    const LEAST: usize = 3;
    fn put(&self, w: &mut crate::wire::Writer) {
        self.0.put(w);
        self.1.put(w);
    }
    fn get(r: &mut crate::wire::Reader<'_>) -> Result<Self, crate::wire::DecodeError> {
        Ok((crate::wire::Wire::get(r)?, crate::wire::Wire::get(r)?))
    }
}

/// The leader's answer: `left` from `sent_at` on the holder's clock, for the listed grants only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Renewed {
    /// Echo.
    pub sent_at: Time,
    /// How long from `sent_at`.
    pub left: Micros,
    /// Of which grants.
    pub held: Vec<(ResourceId, Epoch)>,
    /// The leader's term.
    pub term: Term,
}
wire_struct!(Renewed { sent_at, left, held, term } least 4);

/// A node asks the leader for something; repeated until the log shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ask {
    /// The holder has let go of this grant.
    Release {
        /// What.
        resource: ResourceId,
        /// Which grant.
        epoch: Epoch,
    },
    /// The holder cannot keep its program alive; somebody else should try.
    FailOver {
        /// What.
        resource: ResourceId,
        /// Which grant.
        epoch: Epoch,
        /// The evidence.
        because: Causes,
    },
}

impl crate::wire::Wire for Ask {
    const LEAST: usize = 4;
    fn put(&self, w: &mut crate::wire::Writer) {
        match self {
            Self::Release { resource, epoch } => {
                w.u8(0);
                resource.put(w);
                epoch.put(w);
            }
            Self::FailOver { resource, epoch, because } => {
                w.u8(1);
                resource.put(w);
                epoch.put(w);
                because.put(w);
            }
        }
    }
    fn get(r: &mut crate::wire::Reader<'_>) -> Result<Self, crate::wire::DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Release { resource: ResourceId::get(r)?, epoch: Epoch::get(r)? },
            1 => Self::FailOver { resource: ResourceId::get(r)?, epoch: Epoch::get(r)?, because: Causes::get(r)? },
            _ => return Err(crate::wire::DecodeError::Value),
        })
    }
}

/// "I own it", under the 1998 rule only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// What.
    pub resource: ResourceId,
}
wire_struct!(Claim { resource } least 2);

/// What an operator wants, on its way from the node that was asked to the leader (since version 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Order {
    /// As [`Command::Move`].
    Move {
        /// What.
        resource: ResourceId,
        /// Where.
        to: NodeId,
    },
    /// As [`Command::Drain`], or [`Command::Undrain`].
    Maintenance {
        /// Who.
        node: NodeId,
        /// Whether to drain.
        on: bool,
    },
    /// As [`Command::Set`].
    Set {
        /// What.
        resource: ResourceId,
        /// The host's to understand.
        value: Vec<u8>,
    },
}

impl crate::wire::Wire for Order {
    const LEAST: usize = 4;
    fn put(&self, w: &mut crate::wire::Writer) {
        match self {
            Self::Move { resource, to } => {
                w.u8(0);
                resource.put(w);
                to.put(w);
            }
            Self::Maintenance { node, on } => {
                w.u8(1);
                node.put(w);
                on.put(w);
            }
            Self::Set { resource, value } => {
                w.u8(2);
                resource.put(w);
                value.put(w);
            }
        }
    }
    fn get(r: &mut crate::wire::Reader<'_>) -> Result<Self, crate::wire::DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Move { resource: ResourceId::get(r)?, to: NodeId::get(r)? },
            1 => Self::Maintenance { node: NodeId::get(r)?, on: bool::get(r)? },
            2 => Self::Set { resource: ResourceId::get(r)?, value: Vec::get(r)? },
            _ => return Err(crate::wire::DecodeError::Value),
        })
    }
}

impl From<Order> for Command {
    fn from(order: Order) -> Self {
        match order {
            Order::Move { resource, to } => Self::Move { resource, to },
            Order::Maintenance { node, on: true } => Self::Drain(node),
            Order::Maintenance { node, on: false } => Self::Undrain(node),
            Order::Set { resource, value } => Self::Set { resource, value },
        }
    }
}

wire_messages! {
    /// Messages of views.
    pub enum Message {
        /// More time, please.
        0x30 "renew" Renew(Renew),
        /// Granted.
        0x31 "renewed" Renewed(Renewed),
        /// A request to the leader.
        0x32 "ask" Ask(Ask),
        /// A claim under the 1998 rule.
        0x33 "claim" Claim(Claim),
        /// An operator's command for the leader.
        0x34 "order" Order(Order),
    }
}

/// What views says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// The leader waits until the old lease must have run out.
    Waiting {
        /// For what.
        resource: ResourceId,
        /// Whose lease.
        holder: NodeId,
        /// How long still.
        left: Micros,
    },
    /// The leader proposed a grant.
    Proposed {
        /// What.
        resource: ResourceId,
        /// To whom.
        holder: NodeId,
        /// At which index.
        index: Index,
    },
    /// A grant was applied at this node.
    Granted {
        /// What.
        resource: ResourceId,
        /// The fencing token.
        epoch: Epoch,
        /// To whom.
        holder: NodeId,
    },
    /// This node armed its guard for the first time under this grant.
    Armed {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// Until when, on its own clock.
        until: Time,
    },
    /// This node's lease ran out.
    Expired {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
    },
    /// This node let go.
    Released {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
    },
    /// An order of an older epoch was refused.
    Refused {
        /// What.
        resource: ResourceId,
        /// The old epoch.
        epoch: Epoch,
        /// The newest one known.
        newest: Epoch,
    },
    /// Under the 1998 rule this node took it, without asking anybody.
    Seized {
        /// What.
        resource: ResourceId,
    },
    /// Under the 1998 rule this node gave way to a claim of a lower number.
    Yielded {
        /// What.
        resource: ResourceId,
        /// To whom.
        to: NodeId,
    },
    /// A note was applied.
    Noted {
        /// Where in the log.
        index: Index,
        /// Of its bytes.
        digest: u64,
    },
    /// A holder that is up has not armed its guard for a whole lease, or has lost its lease again and again: it gives up, or the
    /// leader passes it over (rule R7).
    Lapsed {
        /// What.
        resource: ResourceId,
        /// Whose lease.
        holder: NodeId,
        /// For how long it could not keep it, as far as whoever says so knows.
        over: Micros,
    },
}
