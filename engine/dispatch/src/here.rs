//! What a node is while frames come, and what the core asks of the system it runs in.

use crate::header::be16;
use crate::mutant::planted;
use crate::{Mac, Mutant, Reason, Tag};

/// What a node is at the moment: all that may change while the table stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Here {
    /// Now, on the clock that leases are counted on, in nanoseconds.
    pub now: u64,
    /// Until when this node is the dispatcher; 0 if it is not.
    pub lease: u64,
    /// In which epoch it is, or was last.
    pub epoch: u64,
    /// The lowest epoch whose dispatcher is still obeyed.
    pub fence: u64,
    /// This node's place among the servers, or [`NOBODY`].
    pub server: u16,
    /// Its number, in the tags of what it sends on.
    pub id: u8,
    /// The address of its port.
    pub mac: Mac,
}

impl Here {
    /// Whether this node may act as the dispatcher now.
    #[inline]
    pub(crate) fn may(&self) -> Result<(), Reason> {
        if self.lease == 0 {
            Err(Reason::NotDispatcher)
        } else if self.now >= self.lease && !planted(Mutant::LeaseIgnored) {
            Err(Reason::LeaseExpired)
        } else {
            Ok(())
        }
    }

    /// What this node signs a frame with that it sends on from a client.
    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        #[allow(clippy::cast_possible_truncation, reason = "a tag has the low bits")]
        let epoch = self.epoch as u16;
        let epoch = if planted(Mutant::TagTurned) { epoch.swap_bytes() } else { epoch };
        Tag { sender: self.id, epoch, hop: 0 }
    }
}

/// A client's connection or exchange with the cluster's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The client: an IPv6 address, or an IPv4 one in its last four bytes.
    pub client: [u8; 16],
    /// Whether that is an IPv6 address.
    pub v6: bool,
    /// The client's port.
    pub port: u16,
    /// The cluster's port.
    pub cluster_port: u16,
}

/// What the core asks the system it runs in.
pub trait Hooks {
    /// Whether this node has a TCP socket for the flow. Asked for segments that do not begin a connection, only where
    /// another server could have it.
    fn has_socket(&self, flow: &Flow) -> bool;

    /// Which server a QUIC connection id names; its first eight bytes are given. By default a layout of
    /// draft-ietf-quic-load-balancers in the clear: three bits of configuration (7: names nobody), then two bytes of server.
    #[inline]
    fn quic_server(&self, id: [u8; 8]) -> Option<u16> {
        let [config, high, low, ..] = id;
        if config >> 5 == 7 { None } else { Some(be16(high, low)) }
    }
}

/// A system that knows no sockets: every connection is its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    #[inline]
    fn has_socket(&self, _: &Flow) -> bool {
        true
    }
}
