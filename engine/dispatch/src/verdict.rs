//! What becomes of a frame.

/// What to do with a frame that [`dispatch`](crate::dispatch) has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is none of ours: to the system, unchanged.
    Pass,
    /// For the cluster's address, and this node serves it: to the system, unchanged.
    Local,
    /// It is rewritten: send it out on the port it came from.
    Transmit,
    /// It ends here.
    Drop(Reason),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Why a frame ends here. Each is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name of the counter.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header.
    Runt "runt",
    /// A header is cut off, or says that it is longer than the frame.
    Truncated "truncated",
    /// More than two VLAN tags.
    TooManyTags "too-many-tags",
    /// A version or header length that does not exist.
    BadHeader "bad-header",
    /// More IPv6 extension headers than are followed.
    TooManyHeaders "too-many-headers",
    /// To the cluster's address, by a group's hardware address.
    Group "group",
    /// From a client, but this node is not the dispatcher.
    NotDispatcher "not-dispatcher",
    /// From a client, but the lease to dispatch has run out.
    LeaseExpired "lease-expired",
    /// From a dispatcher of an earlier epoch.
    StaleEpoch "stale-epoch",
    /// Nobody serves the slot.
    NoServer "no-server",
    /// A question for the cluster's address, which is not for this node to answer.
    NotForUs "not-for-us",
    /// A question or claim about a neighbour that cannot be one.
    BadNeighbour "bad-neighbour",
    /// Another machine claims the cluster's address.
    ForeignClaim "foreign-claim",
    /// The first segment of a connection, about which two servers do not agree whose it is: its client sends it again.
    Unsettled "unsettled",
}
