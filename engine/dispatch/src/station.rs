//! The control side of one node: from what the cluster agrees on to the table, the lease and the announcements that its data
//! plane needs. No clock and no port: feed one [`Notice`], take [`Act`]s until there are none, wait until the deadline.
//!
//! Every node builds every table, from the members alone, so that whoever becomes the dispatcher has it. Only the holder of a
//! lease announces the address, at the moment it has one.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::build::{Member, Members, build, build_for};
use crate::mutant::planted;
use crate::{ANNOUNCEMENT_BYTES, Announcement, Block, Claim, Head, Here, Key, Mac, Mutant, NOBODY, announcement};

const MS: u64 = 1_000_000;

/// When a new dispatcher announces the address, in nanoseconds from its first moment: a single frame may be lost, and some
/// switches learn slowly.
pub const ANNOUNCED_AT: [u64; 4] = [0, 50 * MS, 200 * MS, 1_000 * MS];

/// From then on it announces the address again and again, so long after the last time: whoever missed all that still learns it,
/// long before it would ask by itself.
pub const REFRESHED: u64 = 2_000 * MS;

/// For so long, in nanoseconds, a table is fresh: in which the first segment of a connection may be on its way again.
pub const SETTLED: u64 = 10_000 * MS;

/// At most one series begins in this time, in nanoseconds, however often others claim the address.
pub const SERIES_APART: u64 = 50 * MS;

/// How long the members must be quiet, in nanoseconds, before somebody gains slots.
pub const QUIET: u64 = 1_000 * MS;

/// After so many quiet times a node has seen who is there, also over bad links.
const KNOWN: u64 = 4;

/// Members that are never quiet have their gains after so many quiet times.
const PATIENCE: u64 = 8;

/// What a node is, for life, and how its cluster's address is set up at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StationConfig {
    /// Its number in tags and claims.
    pub id: u8,
    /// Its number among the members.
    pub node: u64,
    /// The address of its port.
    pub mac: Mac,
    /// The cluster's IPv4 address; zero if it has none.
    pub v4: [u8; 4],
    /// The cluster's IPv6 address; zero if it has none.
    pub v6: [u8; 16],
    /// The hardware address that goes with them; zero: that of the dispatcher's own port.
    pub claim: Mac,
    /// What of a packet decides its slot.
    pub key: Key,
    /// Key of the hash, the same on all nodes.
    pub seed: u64,
    /// A table has 2 to this power slots: 4 to 20, the nearest of these for another number.
    pub log2_slots: u8,
}

/// Something a station is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// Time has passed. Early and repeated ones are harmless.
    Tick,
    /// The servers, as agreed. One of an earlier epoch than the last is ignored.
    Members {
        /// Of the table; grows with each change.
        epoch: u64,
        /// All of them.
        members: Members,
    },
    /// This node is the dispatcher, or stays it.
    Lease {
        /// Of the grant.
        epoch: u64,
        /// On the clock of [`Station::handle`].
        until: u64,
    },
    /// The grant of this epoch, and any earlier one, is over. That of this epoch may begin again: its renewals were late, and
    /// nobody else was granted it.
    Released {
        /// Of the grant.
        epoch: u64,
    },
    /// The lowest epoch whose dispatcher is still obeyed; it never falls.
    Fence {
        /// That epoch.
        epoch: u64,
    },
    /// The data plane dropped a frame as a foreign claim; with what [`Claim::heard`] found in it.
    Claimed(Option<Claim>),
    /// The cluster's address is set up differently from now on.
    Configure {
        /// As [`StationConfig::key`].
        key: Key,
        /// As [`StationConfig::v4`].
        v4: [u8; 4],
        /// As [`StationConfig::v6`].
        v6: [u8; 16],
        /// As [`StationConfig::log2_slots`].
        log2_slots: u8,
    },
}

/// Something the host must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Put this table into use, whole. Its epoch is higher than that of the one before.
    Publish(Vec<u8>),
    /// This is what the node is from now on.
    Stand(Here),
    /// Send this frame.
    Announce {
        /// All of it.
        frame: Vec<u8>,
    },
}

/// The control side of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    config: StationConfig,
    quiet: u64,
    here: Here,
    /// The lowest epoch that may still be granted to this node.
    open: u64,
    /// Members as in the table, and as last agreed; the agreed ones' epoch.
    shown: Option<Members>,
    wanted: Members,
    agreed: Option<u64>,
    /// Those that were last agreed by enough: what this node sees alone when it is cut off is not what the others do.
    whole: Members,
    /// The table in use, without what this node knows of its own slots, and with it; their epoch.
    plain: Vec<u8>,
    block: Vec<u8>,
    epoch: u64,
    /// When the first table came, and when the last one has settled.
    began: u64,
    /// It is cut off, and its table tells what the others do without it.
    alone: bool,
    settles: Option<u64>,
    /// When somebody first wanted slots that the table in use does not give, when they get them, and who they are.
    waiting: Option<(u64, u64, Members)>,
    series: Option<Series>,
    acts: VecDeque<Act>,
}

/// Announcements under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Series {
    began: u64,
    /// How many of [`ANNOUNCED_AT`] are done.
    done: usize,
}

impl Series {
    fn next(&self) -> Option<u64> {
        let done = self.done;
        let last = ANNOUNCED_AT.len().saturating_sub(1);
        let again = (done.saturating_sub(last) as u64).saturating_mul(REFRESHED);
        let after = ANNOUNCED_AT.get(done.min(last)).map_or(again, |after| after.saturating_add(again));
        (!planted(Mutant::AnnouncesOnce) || self.done == 0).then(|| self.began.saturating_add(after))
    }
}

impl Station {
    /// A node that knows no members and is not the dispatcher.
    #[must_use]
    pub fn new(config: StationConfig) -> Self {
        let here =
            Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: config.id, fresh: false, mac: config.mac };
        let config = StationConfig { log2_slots: config.log2_slots.clamp(4, 20), ..config };
        Self {
            config,
            quiet: QUIET,
            here,
            open: 0,
            shown: None,
            wanted: Members::default(),
            agreed: None,
            whole: Members::default(),
            plain: Vec::new(),
            block: Vec::new(),
            epoch: 0,
            began: 0,
            alone: false,
            settles: None,
            waiting: None,
            series: None,
            acts: VecDeque::from([Act::Stand(here)]),
        }
    }

    /// With another quiet time than [`QUIET`], in nanoseconds.
    #[must_use]
    pub fn with_quiet(self, quiet: u64) -> Self {
        Self { quiet, ..self }
    }

    /// Takes in one thing. `now` is on the clock that leases are counted on, in nanoseconds. Never fails: what is stale has no effect.
    pub fn handle(&mut self, now: u64, notice: Notice) {
        let before = self.here;
        self.here.now = now;
        match notice {
            Notice::Tick => {}
            Notice::Members { epoch, members } => self.on_members(epoch, &members),
            Notice::Lease { epoch, until } => self.on_lease(epoch, until),
            Notice::Released { epoch } => self.on_released(epoch),
            Notice::Fence { epoch } => self.on_fence(epoch),
            Notice::Claimed(claim) => self.on_claimed(claim),
            Notice::Configure { key, v4, v6, log2_slots } => {
                self.on_configure(StationConfig { key, v4, v6, log2_slots: log2_slots.clamp(4, 20), ..self.config });
            }
        }
        self.adopt();
        if self.settles.is_some_and(|settles| settles <= now) {
            self.settles = None;
            self.here.fresh = planted(Mutant::FreshForEver);
        }
        if self.here != (Here { now, ..before }) {
            self.acts.push_back(Act::Stand(self.here));
        }
        self.announce();
    }

    /// The next thing to do, oldest first.
    pub fn poll(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// When to call [`Station::handle`] with [`Notice::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let announce = self.series.and_then(|series| series.next());
        let publish = self.waiting.as_ref().map(|(_, due, _)| *due);
        let ends = (self.away() && self.here.may().is_ok()).then_some(self.here.lease);
        announce.into_iter().chain(publish).chain(self.settles).chain(ends).min()
    }

    /// What the node is.
    #[must_use]
    pub const fn here(&self) -> Here {
        self.here
    }

    /// The table in use; empty before the first.
    #[must_use]
    pub fn block(&self) -> &[u8] {
        &self.block
    }

    fn head(&self) -> Head {
        let StationConfig { v4, v6, claim, key, seed, log2_slots, .. } = self.config;
        Head { epoch: self.epoch, seed, log2_slots, key, v4, v6, claim }
    }

    fn on_members(&mut self, epoch: u64, members: &Members) {
        if self.agreed.is_some_and(|agreed| epoch < agreed) {
            return;
        }
        self.agreed = Some(epoch);
        self.wanted = members.plain();
        if !self.away() {
            self.whole = self.wanted.clone();
        }
    }

    /// Whether this node sees half of the others or fewer, and nobody has granted anything since: it is cut off, more likely than not.
    fn away(&self) -> bool {
        self.wanted.all().len() * 2 <= self.whole.all().len() && !planted(Mutant::AwayShrinks)
    }

    /// Enough of the members have granted something: what is seen is what there is.
    fn granted(&mut self) {
        self.whole = self.wanted.clone();
    }

    /// Puts the members into use, now or when it is quiet.
    ///
    /// Who leaves or drains must get no new connection, and whoever comes takes over at the same time: a slot remembers one
    /// former server only, so one change is better than two. Who only comes can wait for others; but not for a node that has
    /// just begun or was cut off: the others may have their slots moved before it, and it must know then whom to ask. A node
    /// that is cut off and may not dispatch keeps the table of the others: by that it will be sent what is for it.
    fn adopt(&mut self) {
        let now = self.here.now;
        let may = self.here.may().is_ok();
        let away = self.away() && !may;
        let target = if away { &self.whole } else { &self.wanted };
        let left = away && !self.alone;
        self.alone = away;
        let Some(shown) = &self.shown else {
            if self.agreed.is_some() {
                self.began = now;
                self.publish(target.clone());
            }
            return;
        };
        if shown == target && !left {
            self.waiting = None;
            return;
        }
        let lost = !planted(Mutant::DrainWaits) && shown.all().iter().any(|old| target.lost(old));
        let young = now < self.began.saturating_add(self.quiet) && !may;
        let due = self.waiting.as_ref().is_some_and(|(_, due, _)| *due <= now);
        if lost || away || young || due || planted(Mutant::JoinAtOnce) {
            return self.publish(target.clone());
        }
        if self.waiting.as_ref().is_none_or(|(.., waiting)| waiting != target) {
            let first = self.waiting.as_ref().map_or(now, |(first, ..)| *first);
            let last = first.saturating_add(self.quiet.saturating_mul(PATIENCE));
            self.waiting = Some((first, now.saturating_add(self.quiet).min(last), target.clone()));
            if self.quiet == 0 {
                self.publish(target.clone());
            }
        }
    }

    /// Builds the table of these members.
    fn publish(&mut self, members: Members) {
        self.waiting = None;
        let next = self.epoch.saturating_add(u64::from(!planted(Mutant::EpochRepeats)));
        self.epoch = self.agreed.unwrap_or_default().max(next);
        let (node, previous) = (self.config.node, Block::new(&self.plain).ok());
        // It fails for a size that does not exist, and the configuration has none.
        let Ok(plain) = build(&self.head(), &members, previous.as_ref()) else { return };
        let there = self.here.now >= self.began.saturating_add(self.quiet.saturating_mul(KNOWN)) && !self.alone;
        let shown = Block::new(&self.block).ok();
        let Ok(block) = build_for(node, plain.clone(), &members, there, shown.as_ref()) else { return };
        (self.plain, self.block) = (plain, block);
        self.here.server = members.place(node).unwrap_or(NOBODY);
        self.here.fresh = true;
        self.settles = Some(self.here.now.saturating_add(SETTLED));
        self.shown = Some(members);
        self.acts.push_back(Act::Publish(self.block.clone()));
    }

    fn on_lease(&mut self, epoch: u64, until: u64) {
        if epoch < self.open.max(self.here.fence) {
            return;
        }
        let renewed = self.here.may().is_ok() && epoch == self.here.epoch;
        self.open = epoch;
        self.here = Here { lease: until, epoch, fence: epoch, ..self.here };
        if self.here.may().is_ok() {
            self.granted();
        }
        if !renewed {
            self.begin();
        }
    }

    fn on_released(&mut self, epoch: u64) {
        if epoch >= self.open && !planted(Mutant::ReleaseIgnored) {
            self.open = epoch;
            self.here.lease = 0;
        }
    }

    fn on_fence(&mut self, epoch: u64) {
        let kept = if planted(Mutant::FenceFalls) { 0 } else { self.here.fence };
        if epoch > kept {
            self.granted();
        }
        self.here.fence = kept.max(epoch);
        if self.here.epoch < self.here.fence {
            self.here.lease = 0;
        }
    }

    /// A claim of a later epoch is not believed: it proves nothing, and whoever grants leases says so by a fence.
    fn on_claimed(&mut self, claim: Option<Claim>) {
        let foreign = claim.is_none_or(|claim| claim.epoch < self.here.epoch);
        let recent = |series: Series| self.here.now < series.began.saturating_add(SERIES_APART);
        let recent = self.series.is_some_and(recent) && !planted(Mutant::ClaimStorm);
        if foreign && !recent && !planted(Mutant::ClaimUnanswered) {
            self.begin();
        }
    }

    fn on_configure(&mut self, config: StationConfig) {
        if config == self.config {
            return;
        }
        let moved = (config.v4, config.v6) != (self.config.v4, self.config.v6);
        self.config = config;
        if let Some(shown) = self.shown.clone() {
            self.publish(shown);
        }
        if moved {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.series = Some(Series { began: self.here.now, done: 0 });
    }

    /// Announces if it is time, and only by a lease that holds now. What a late tick missed is sent once, not several times.
    fn announce(&mut self) {
        if self.here.may().is_err() && !planted(Mutant::AnnouncesAnyway) {
            self.series = None;
            self.acts.retain(|act| !matches!(act, Act::Announce { .. }));
            return;
        }
        let head = self.head();
        let Some(series) = &mut self.series else { return };
        if series.next().is_none_or(|next| self.here.now < next) {
            return;
        }
        while series.next().is_some_and(|next| next <= self.here.now) {
            series.done += 1;
        }
        for form in Announcement::ALL {
            let mut frame = [0; ANNOUNCEMENT_BYTES];
            let length = announcement(&mut frame, form, &self.here, &head);
            if let Some(frame) = length.and_then(|length| frame.get(..length)) {
                self.acts.push_back(Act::Announce { frame: frame.to_vec() });
            }
        }
    }
}

impl Members {
    /// As a table sees them: who drains is as one of weight 0.
    fn plain(&self) -> Self {
        let plain = |member: &Member| Member { weight: member.effective(), draining: false, ..*member };
        Self(self.0.iter().map(plain).collect())
    }

    /// Whether one that was in a table must not get what it would get by that table.
    fn lost(&self, old: &Member) -> bool {
        let new = self.place(old.id).and_then(|place| self.0.get(usize::from(place)));
        new.is_none_or(|new| new.mac != old.mac || new.weight == 0 && old.weight > 0)
    }
}
