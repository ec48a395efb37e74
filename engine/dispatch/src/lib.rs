//! ONE-IP (paper, section 3.6): many machines behind one address.
//!
//! [`dispatch`] takes a frame and says what becomes of it; on the way it may rewrite the twelve bytes of the two MAC
//! addresses, or turn a question for the cluster's address into its answer. The same code runs in the simulated worlds, in
//! a host's receive loop and, through [`Frame`] and [`Table`] over raw memory, in the kernel's receive path. Hence: no
//! allocation, no panic, no unsafe code, loops with small fixed bounds, and 64-bit arithmetic that every target has.
//!
//! A frame comes in one of three ways:
//! - from a client, to the dispatcher: its slot's server gets it, with a [`Tag`] as source address;
//! - from the dispatcher, to a server: it is delivered, unless it belongs to a connection that the server has no socket
//!   for; then the slot's former server gets it, once (the second chance);
//! - a question or claim (ARP, neighbour discovery) for the cluster's address: only the dispatcher answers.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod any;
mod block;
#[cfg(feature = "alloc")]
mod build;
mod dispatch;
mod frame;
mod hash;
mod header;
mod here;
mod mutant;
mod neighbour;
mod packet;
#[cfg(feature = "alloc")]
mod station;
mod tag;
mod usual;
mod verdict;

pub use any::{any, sign};
pub use block::{Block, BlockError, CHECKSUM_AT, HEAD_BYTES, Layout, checksum};
#[cfg(feature = "alloc")]
pub use build::{BuildError, DEFAULT_LOG2_SLOTS, MAX_WEIGHT, Member, Members, build, primaries};
pub use dispatch::{dispatch, slot_of};
pub use frame::Frame;
#[cfg(feature = "alloc")]
pub use hash::mix;
pub use hash::{hash_v4, hash_v6, with_ports};
pub use here::{Flow, Here, Hooks, NoHooks};
pub use mutant::Mutant;
#[cfg(feature = "mutants")]
pub use mutant::plant;
pub use neighbour::{ANNOUNCEMENT_BYTES, Announcement, Claim, announcement};
#[cfg(feature = "alloc")]
pub use station::{ANNOUNCED_AT, Act, Notice, QUIET, SERIES_APART, Station, StationConfig};
pub use tag::Tag;
pub use usual::{Ready, usual};
pub use verdict::{Reason, Verdict};

/// A hardware address.
pub type Mac = [u8; 6];

/// No server, or a slot without one.
pub const NOBODY: u16 = 0xffff;

/// Most servers a table can name.
pub const MAX_SERVERS: u16 = 4_096;

/// What of a packet decides its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Key {
    /// The client's address, as in the paper. All fragments of a packet and all connections of a client go the same way.
    #[default]
    Source = 0,
    /// The client's address and both ports; fragments fall back to the address.
    Ports = 1,
    /// The server named in a QUIC connection id; without a valid one, as [`Key::Ports`].
    Quic = 2,
}

/// Of one slot: who serves it, and who did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Place of its server among the table's, or [`NOBODY`].
    pub server: u16,
    /// Place of the server it had before, or [`NOBODY`].
    pub former: u16,
}

/// What a table says about all packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Which table this is; a later one has a higher number.
    pub epoch: u64,
    /// Key of the hash: without it nobody can pick clients that all land on one server.
    pub seed: u64,
    /// The table has 2 to this power slots.
    pub log2_slots: u8,
    /// What is hashed.
    pub key: Key,
    /// The cluster's IPv4 address; zero if it has none.
    pub v4: [u8; 4],
    /// The cluster's IPv6 address; zero if it has none.
    pub v6: [u8; 16],
    /// The hardware address that goes with them; zero: that of the dispatcher's own port.
    pub claim: Mac,
}

/// Where slots and servers are looked up. [`Block`] is the form that is stored, sent and mapped.
pub trait Table {
    /// What holds for all packets.
    fn head(&self) -> Head;
    /// A slot; the number is taken modulo the table's size. An empty one for what is no table.
    fn slot(&self, number: u32) -> Slot;
    /// The hardware address of a server, if there is such a server.
    fn server(&self, place: u16) -> Option<Mac>;

    /// A slot's server and its hardware address, with two more bytes of any value; of a number below the table's size. None
    /// if nobody serves the slot.
    #[inline]
    fn port(&self, number: usize) -> Option<(u16, [u8; 8])> {
        #[allow(clippy::cast_possible_truncation, reason = "of 20 bits at most")]
        let server = self.slot(number as u32).server;
        let [a, b, c, d, e, f] = self.server(server)?;
        Some((server, [a, b, c, d, e, f, 0, 0]))
    }
}
