//! What diagnosis tells other nodes, and its own host.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{EvidenceId, Incarnation, NodeId};
use crate::time::Micros;
use crate::wire::{DecodeError, Reader, Wire, Writer};
use crate::{wire_messages, wire_struct};

/// What a node is thought to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Answers its observers.
    #[default]
    Up,
    /// Some observers got no answer.
    Suspect,
    /// Enough observers got no answer.
    Down,
    /// Not, or no longer, a member.
    Left,
}

/// One item of the state table: a join semilattice, so order, loss and repetition do not matter.
///
/// A higher incarnation wins; within one, the higher counter; at the same counter the accusers are united and a verdict stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct News {
    /// About whom.
    pub node: NodeId,
    /// In which life.
    pub inc: Incarnation,
    /// Even: asserted up; odd: accused. Only the node itself raises it to even.
    pub ctr: u32,
    /// Who accuses, at an odd counter.
    pub accusers: Vec<NodeId>,
    /// Whether the accusers amount to a verdict.
    pub down: bool,
    /// The observation behind it (since version 2).
    pub evidence: EvidenceId,
}

impl Wire for News {
    const LEAST: usize = 6;
    fn put(&self, w: &mut Writer) {
        self.node.put(w);
        self.inc.put(w);
        self.ctr.put(w);
        self.down.put(w);
        self.accusers.put(w);
        if w.version >= 2 {
            self.evidence.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (node, inc, ctr, down) = (Wire::get(r)?, Wire::get(r)?, Wire::get(r)?, Wire::get(r)?);
        let accusers = Wire::get(r)?;
        let evidence = if r.version >= 2 { Wire::get(r)? } else { EvidenceId::NONE };
        Ok(Self { node, inc, ctr, accusers, down, evidence })
    }
}

/// A test of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ping {
    /// Echoed by the answer.
    pub seq: u32,
    /// Digest of the sender's state table.
    pub digest: u64,
    /// How unhealthy the sender feels, 0 is well.
    pub lhm: u8,
    /// News for the target, itself included.
    pub news: Vec<News>,
}
wire_struct!(Ping { seq, digest, lhm, news } least 4);

/// The answer to a [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Of which ping.
    pub seq: u32,
    /// Digest of the answering node's state table.
    pub digest: u64,
    /// Whether its loop and disk keep their deadlines.
    pub sick: bool,
    /// News for the tester.
    pub news: Vec<News>,
}
wire_struct!(Ack { seq, digest, sick, news } least 4);

/// Asks a third node to test a silent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PingReq {
    /// Of the asking node.
    pub seq: u32,
    /// Whom to test.
    pub target: NodeId,
}
wire_struct!(PingReq { seq, target } least 3);

/// The result of a [`PingReq`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PingReply {
    /// Of the request.
    pub seq: u32,
    /// Who was tested.
    pub target: NodeId,
    /// Whether it answered the helper.
    pub heard: bool,
}
wire_struct!(PingReply { seq, target, heard } least 4);

/// Digests of the sender's state table by bucket; the receiver answers with what differs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// One digest a bucket; a node's bucket is its number modulo their count.
    pub buckets: Vec<u64>,
    /// Whether the receiver shall compare back.
    pub reply: bool,
}
wire_struct!(Compare { buckets, reply } least 2);

/// News that cannot wait for the next probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The items.
    pub news: Vec<News>,
}
wire_struct!(Spread { news } least 1);

/// The receiver spoke in a life that is over: another one of its number is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Superseded {
    /// The newest life of the receiver that the sender knows.
    pub inc: Incarnation,
}
wire_struct!(Superseded { inc } least 1);

wire_messages! {
    /// Messages of diagnosis.
    pub enum Message {
        /// A test.
        0x10 "ping" Ping(Ping),
        /// Its answer.
        0x11 "ack" Ack(Ack),
        /// Test somebody for me.
        0x12 "ping-req" PingReq(PingReq),
        /// The result of that.
        0x13 "ping-reply" PingReply(PingReply),
        /// Tables differ.
        0x14 "compare" Compare(Compare),
        /// News at once.
        0x15 "spread" Spread(Spread),
        /// Your life is over.
        0x16 "superseded" Superseded(Superseded),
    }
}

/// What diagnosis says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// A probe's deadline passed without an answer.
    Missed {
        /// Of whom.
        node: NodeId,
        /// The deadline that was set.
        deadline: Micros,
    },
    /// This node accuses, or has heard an accusation of, a node.
    Suspected {
        /// Whom.
        node: NodeId,
        /// In which life.
        inc: Incarnation,
        /// Who accuses.
        by: NodeId,
    },
    /// The accusation was contradicted.
    Cleared {
        /// Whose.
        node: NodeId,
        /// In which life.
        inc: Incarnation,
    },
    /// The verdict at this node is down.
    Down {
        /// Who.
        node: NodeId,
        /// In which life.
        inc: Incarnation,
    },
    /// The node is up, for the first time or again.
    Up {
        /// Who.
        node: NodeId,
        /// In which life.
        inc: Incarnation,
    },
    /// This node was itself paused or late, and voids its running verdicts.
    SelfDegraded {
        /// How unhealthy it feels.
        lhm: u8,
    },
}
