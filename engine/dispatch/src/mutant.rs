//! Planted bugs, one per rule that a test or checker defends. They show that these bite.

macro_rules! mutants {
    ($($variant:ident $name:literal $about:literal,)*) => {
        /// A planted bug. Without the feature `mutants` none can be switched on, and nothing of them is compiled.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Mutant { $(#[doc = $about] $variant,)* }

        impl Mutant {
            /// Every planted bug.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is wrong with the core that carries it.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// The mutant of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
            }
        }
    };
}

mutants! {
    LeaseIgnored "core-lease-ignored" "a dispatcher goes on when its lease has run out",
    StaleObeyed "core-stale-obeyed" "a frame from a dispatcher of an earlier epoch is delivered",
    FragmentPorts "core-fragment-ports" "a fragment is hashed with ports, so its packet is torn apart",
    LaterFragmentRead "core-later-fragment-read" "the middle of an IPv6 packet is read as if it were its headers",
    ErrorByRouter "core-error-by-router" "an ICMP error goes where the router's address hashes to, not its client's",
    ErrorNotReversed "core-error-not-reversed" "the ports inside an error are taken in the order of an own packet",
    ThirdChance "core-third-chance" "a frame that was with all who could have its connection is sent on again",
    HopKept "core-hop-kept" "a frame on its second chance is not marked as such",
    SynKept "core-syn-kept" "who is asked about a first segment keeps it, if its own table says so",
    SynThird "core-syn-third" "a first segment that another server asked about begins its connection where it is sent on to",
    SynMoved "core-syn-moved" "the first segment of a connection is asked about elsewhere, however long ago slots moved",
    TagTurned "core-tag-turned" "the epoch in a tag has its bytes turned round",
    ThreeTags "core-three-tags" "three VLAN tags are followed",
    LongWalk "core-long-walk" "one more IPv6 extension header is followed than may be",
    ArpByAnyone "core-arp-by-anyone" "a node that is not the dispatcher answers who has the address",
    ArpAnswered "core-arp-answered" "an answer to somebody's question is answered",
    FarNeighbour "core-far-neighbour" "neighbour discovery from beyond a router is believed",
    ProbeAnswered "core-probe-answered" "a machine that is about to take the address is told of no conflict",
    SumWithoutOption "core-sum-without-option" "an advertisement's checksum leaves its option out",
    OldClaimOwn "core-old-claim-own" "a claim of an earlier epoch is taken for the cluster's own",
    ChecksumIgnored "core-checksum-ignored" "a damaged table is used",
    SlotUnchecked "core-slot-unchecked" "a table whose slots name servers that it lacks is used",
    OldTableTaken "core-old-table-taken" "a table replaces a later one",
    DrainingServes "core-draining-serves" "a server that drains keeps getting slots",
    FormerByPlace "core-former-by-place" "former servers are carried over by place, though places have moved",
    FormerSelf "core-former-self" "a slot's own server is remembered as its former one",
    NoLimit "core-no-limit" "a server may have more than its share",
    OrderMatters "core-order-matters" "members are kept in the order in which they were told",
    AnnouncesAnyway "core-announces-anyway" "a node without a lease goes on announcing",
    AnnouncesOnce "core-announces-once" "a new dispatcher announces once and no more",
    ClaimUnanswered "core-claim-unanswered" "a foreign claim is not answered",
    ClaimStorm "core-claim-storm" "every foreign claim is answered, however many there are",
    JoinAtOnce "core-join-at-once" "whoever comes gets slots at once, each by a table of its own",
    DrainWaits "core-drain-waits" "a drain waits until it is quiet",
    ReleaseIgnored "core-release-ignored" "a dispatcher goes on after its grant was released",
    FenceFalls "core-fence-falls" "a late word lowers the fence",
    OwnWithoutFormer "core-own-without-former" "a server that comes does not know who has had its slots in the meantime",
    AwayShrinks "core-away-shrinks" "a node that is cut off gives up the table of those it does not see",
    FreshForEver "core-fresh-for-ever" "slots that have moved never settle",
    EpochRepeats "core-epoch-repeats" "a table that a new set-up asks for has the epoch of the one before",
}

#[cfg(feature = "mutants")]
static PLANTED: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(u8::MAX);

/// Plants a bug, for the whole process, in place of the one that was planted.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.store(mutant.map_or(u8::MAX, |mutant| mutant as u8), core::sync::atomic::Ordering::SeqCst);
}

/// Whether this bug is planted. Always false without the feature `mutants`.
#[inline]
pub(crate) fn planted(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    let planted = PLANTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as u8;
    #[cfg(not(feature = "mutants"))]
    let planted = {
        let _ = mutant;
        false
    };
    planted
}
