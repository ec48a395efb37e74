//! From the members of a cluster to the bytes of its table: control plane only, hence with memory to allocate.
//!
//! Who serves a slot is a function of the seed and of the members' numbers and weights, and of nothing else: not of their
//! order, of earlier tables, or of the machine. A dispatcher that is promoted needs the member set, no log.
//!
//! The function is a race. Every server has an endless row of arrivals, as many in a unit of time as its weight; each comes
//! at a slot that a hash picks, and at a time that a hash moves within its turn. All arrivals are taken in order of time.
//! A free slot goes to its first arrival, unless that server has all it may have: 3 % more than its share. So a member that
//! leaves gives up its slots and nobody else's, and one that comes takes slots only for itself, but for the few that were
//! refused to a full server. When no slot is free, servers with less than 97 % of their share take slots, in the same order,
//! from servers with more than theirs. Even turns scatter the numbers of slots half as much as a draw for each slot would
//! (rendezvous), so that few servers come to a limit.

use alloc::vec;
use alloc::vec::Vec;

use crate::block::{CHECKSUM_AT, HEAD_BYTES, Layout, MAGIC, checksum};
use crate::hash::mix;
use crate::mutant::planted;
use crate::{Block, Frame as _, Head, MAX_SERVERS, Mac, Mutant, NOBODY, Slot, Table as _, slot_of};

/// The size to use where nothing else is asked for: a table of 1 MiB, in which each of up to 256 servers of weights 1 to
/// 100 has 10 slots or more, and so its share within 5 %. Another size gives every client another slot.
pub const DEFAULT_LOG2_SLOTS: u8 = 18;

/// Highest weight of a server.
pub const MAX_WEIGHT: u32 = 65_535;

/// How many percent of its share a server may have more or less. The second holds where the first has no whole slot.
const SLACK: [u64; 2] = [3, 5];

/// A server, as the control plane knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its number, which it keeps for life.
    pub id: u64,
    /// Its hardware address.
    pub mac: Mac,
    /// Its share of the slots, relative to that of the others; with 0 it gets none, but is still known.
    pub weight: u32,
    /// Gets no slots, as with weight 0: what it serves may end, what comes goes elsewhere.
    pub draining: bool,
}

impl Member {
    pub(crate) fn effective(&self) -> u32 {
        if self.draining && !planted(Mutant::DrainingServes) { 0 } else { self.weight }
    }
}

/// Why members cannot have a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BuildError {
    /// So many members, and at most [`MAX_SERVERS`] can be.
    Many(usize),
    /// Two members have this number.
    Id(u64),
    /// Two members have this hardware address, or one has none.
    Mac(Mac),
    /// A member of this number has a weight above [`MAX_WEIGHT`].
    Weight(u64),
    /// A table has 2^4 to 2^20 slots, not 2 to this power.
    Slots(u8),
}

impl core::fmt::Display for BuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Many(many) => write!(f, "{many} servers, and a table names at most {MAX_SERVERS}"),
            Self::Id(id) => write!(f, "two servers have the number {id}; each needs its own"),
            Self::Mac([a, b, c, d, e, g]) => write!(
                f,
                "the hardware address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} is that of two servers, or of none; \
                 each needs its own"
            ),
            Self::Weight(id) => write!(f, "the weight of server {id} is above {MAX_WEIGHT}"),
            Self::Slots(log2) => write!(f, "a table has 2^4 to 2^20 slots, not 2^{log2}"),
        }
    }
}

impl core::error::Error for BuildError {}

/// A set of servers: by number, whatever the order they were given in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Members(pub(crate) Vec<Member>);

impl Members {
    /// Puts them in order, which is that of their places in the table.
    ///
    /// # Errors
    /// If there are too many, two cannot be told apart, or a weight is too high.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, BuildError> {
        let mut all: Vec<Member> = members.into_iter().collect();
        if all.len() > usize::from(MAX_SERVERS) {
            return Err(BuildError::Many(all.len()));
        }
        if !planted(Mutant::OrderMatters) {
            all.sort_unstable();
        }
        let mut macs: Vec<Mac> = all.iter().map(|member| member.mac).chain([[0; 6]]).collect();
        macs.sort_unstable();
        if let Some((one, _)) = all.iter().zip(all.iter().skip(1)).find(|(a, b)| a.id == b.id) {
            return Err(BuildError::Id(one.id));
        }
        if let Some((mac, _)) = macs.iter().zip(macs.iter().skip(1)).find(|(a, b)| a == b) {
            return Err(BuildError::Mac(*mac));
        }
        match all.iter().find(|member| member.weight > MAX_WEIGHT) {
            Some(member) => Err(BuildError::Weight(member.id)),
            None => Ok(Self(all)),
        }
    }

    /// By place.
    #[must_use]
    pub fn all(&self) -> &[Member] {
        &self.0
    }

    /// The place of the server with this number.
    #[must_use]
    pub fn place(&self, id: u64) -> Option<u16> {
        let place = self.0.binary_search_by_key(&id, |member| member.id).ok()?;
        u16::try_from(place).ok()
    }
}

/// The server of each slot, as a place among the members; [`NOBODY`] everywhere if no member has a weight.
///
/// # Errors
/// If `log2_slots` is not 4 to 20.
pub fn primaries(seed: u64, log2_slots: u8, members: &Members) -> Result<Vec<u16>, BuildError> {
    Layout::new(log2_slots, 0).ok_or(BuildError::Slots(log2_slots))?;
    Ok(Race::new(seed, log2_slots, members).run())
}

/// The bytes of a table, for [`Block::new`] and all who read it.
///
/// `previous` is the table in use. A slot's former server is the one it had there, if that is another one and still a
/// member, even one without slots; else its former one there, on the same terms; else nobody. A server of the previous
/// table is known by its hardware address. A table with another seed sends clients to other slots: it tells nothing.
///
/// # Errors
/// If `head.log2_slots` is not 4 to 20.
pub fn build(head: &Head, members: &Members, previous: Option<&Block<'_>>) -> Result<Vec<u8>, BuildError> {
    let slots = primaries(head.seed, head.log2_slots, members)?;
    let count = u16::try_from(members.0.len()).unwrap_or(MAX_SERVERS);
    let layout = Layout::new(head.log2_slots, count).ok_or(BuildError::Slots(head.log2_slots))?;
    let mut bytes = Vec::with_capacity(layout.bytes);
    bytes.extend(MAGIC);
    bytes.extend([0; 8]);
    bytes.extend(head.epoch.to_le_bytes());
    bytes.extend(head.seed.to_le_bytes());
    bytes.extend([head.log2_slots, head.key as u8]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(head.v4);
    bytes.extend(head.v6);
    bytes.extend(head.claim);
    bytes.resize(HEAD_BYTES, 0);
    bytes.extend(slots.iter().flat_map(|server| server.to_le_bytes()));
    let formers = formers(head, members, previous, &slots);
    bytes.extend(formers.iter().flat_map(|former| former.to_le_bytes()));
    for member in &members.0 {
        bytes.extend(member.mac);
        bytes.extend([0; 2]);
    }
    let sum = checksum(&bytes);
    bytes.as_mut_slice().write(CHECKSUM_AT, sum.to_le_bytes());
    Ok(bytes)
}

/// The table that one of the servers uses: `plain`, as [`build`] made it, with what this server must know about its own slots.
///
/// A server asks another one only about slots that it has, or had. For a slot that it has had for ever, as far as it knows, it
/// asks who would have it without this server: if it was away, that one had it. `shown` is the table of its own that it used
/// before. If it was `there` all the while, whom it asked by that about a slot of its own, it goes on asking, for who came since
/// had nothing in the meantime; and for a slot that it had itself before, it asks whom it would have asked then.
///
/// # Errors
/// As [`build`].
pub fn build_for(
    node: u64,
    plain: Vec<u8>,
    members: &Members,
    there: bool,
    shown: Option<&Block<'_>>,
) -> Result<Vec<u8>, BuildError> {
    let (Ok(block), Some(me)) = (Block::new(&plain), members.place(node)) else { return Ok(plain) };
    let (head, layout) = (block.head(), block.layout());
    let others = Members(members.0.iter().filter(|member| member.id != node).copied().collect());
    let without = primaries(head.seed, head.log2_slots, &others)?;
    let alike = |old: &Head| old.seed == head.seed && old.log2_slots == head.log2_slots;
    let shown = shown.filter(|shown| alike(&shown.head()));
    let place = |mac: Mac| members.0.iter().zip(0_u16..).find(|(member, _)| member.mac == mac).map(|(_, place)| place);
    let own = members.all().get(usize::from(me)).map(|member| member.mac);
    let of = |slot: Slot, number: u32| {
        if slot.server == me && slot.former == NOBODY && !planted(Mutant::OwnWithoutFormer) {
            let asked = shown.as_ref().filter(|shown| there && shown.server(shown.slot(number).server) == own);
            if let Some(former) = asked.and_then(|shown| place(shown.server(shown.slot(number).former)?)) {
                return former;
            }
            // Behind this server's place each has one more here than without it.
            let other = without.get(number as usize).copied().unwrap_or(NOBODY);
            return if other == NOBODY { NOBODY } else { other + u16::from(other >= me) };
        }
        if slot.server != me && slot.former == me {
            let before = shown.as_ref().and_then(|shown| place(shown.server(shown.slot(number).former)?));
            return before.filter(|before| *before != slot.server).unwrap_or(me);
        }
        slot.former
    };
    let formers: Vec<u8> =
        (0..).take(layout.slots).flat_map(|number| of(block.slot(number), number).to_le_bytes()).collect();
    let mut bytes = plain;
    if let Some(there) = bytes.get_mut(layout.formers_at..layout.macs_at) {
        there.copy_from_slice(&formers);
    }
    let sum = checksum(&bytes);
    bytes.as_mut_slice().write(CHECKSUM_AT, sum.to_le_bytes());
    Ok(bytes)
}

fn formers(head: &Head, members: &Members, previous: Option<&Block<'_>>, slots: &[u16]) -> Vec<u16> {
    let Some(previous) = previous.filter(|block| block.head().seed == head.seed) else {
        return vec![NOBODY; slots.len()];
    };
    let mut places: Vec<(Mac, u16)> = members.0.iter().map(|member| member.mac).zip(0..).collect();
    places.sort_unstable();
    let place = |mac: Mac| places.binary_search_by_key(&mac, |(known, _)| *known).ok().and_then(|at| places.get(at));
    let moved: Vec<u16> = (0..MAX_SERVERS)
        .map_while(|old| previous.server(old))
        .map(|mac| place(mac).map_or(NOBODY, |(_, at)| *at))
        .collect();
    let now = |old: u16| {
        let place = moved.get(usize::from(old)).copied().unwrap_or(NOBODY);
        if planted(Mutant::FormerByPlace) && usize::from(old) < members.0.len() { old } else { place }
    };
    let theirs = previous.head().log2_slots;
    let wider = u32::from(head.log2_slots.saturating_sub(theirs));
    let narrower = u32::from(theirs.saturating_sub(head.log2_slots));
    slots
        .iter()
        .zip(0_u32..)
        .map(|(server, number)| {
            let slot = previous.slot((number >> wider) << narrower);
            [now(slot.server), now(slot.former)]
                .into_iter()
                .find(|old| (old != server || planted(Mutant::FormerSelf)) && *old != NOBODY)
                .unwrap_or(NOBODY)
        })
        .collect()
}

/// A unit of time is this many ticks: the gap between two arrivals of a server of weight 1.
const UNIT: u32 = 36;
/// The hash moves an arrival within its turn by this many bits; they are not those that pick the slot.
const JITTER: u32 = 20;

struct Racer {
    key: u64,
    weight: u64,
    /// Ticks between its arrivals.
    gap: u64,
    next: u64,
    /// Slots it has, must not exceed, and should not fall below; the whole slots of its share.
    has: u64,
    high: u64,
    low: u64,
    share: u64,
}

impl Racer {
    /// When its next arrival is, and its hash.
    fn arrival(&self) -> (u64, u64) {
        let hash = mix(self.key.wrapping_add(self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let within = (hash & ((1 << JITTER) - 1)).wrapping_mul(self.gap) >> JITTER;
        (self.next.wrapping_mul(self.gap).wrapping_add(within), hash)
    }
}

struct Race {
    log2: u8,
    racers: Vec<Racer>,
    slots: Vec<u16>,
    /// Arrivals that are still looked at: what is left then is given out plainly. It bounds the time, and is seen in tests only.
    budget: u64,
}

impl Race {
    fn new(seed: u64, log2: u8, members: &Members) -> Self {
        let slots = 1_u64 << log2;
        let total: u64 = members.0.iter().map(|member| u64::from(member.effective())).sum();
        let whole = |weight: u64, percent: u64, up: bool| {
            let (numerator, denominator) = (slots * weight * percent, 100 * total.max(1));
            if up { numerator.div_ceil(denominator) } else { numerator / denominator }
        };
        let mut racers: Vec<Racer> = members
            .0
            .iter()
            .map(|member| {
                let weight = u64::from(member.effective());
                let share = whole(weight, 100, false);
                let (low, high) = SLACK
                    .map(|slack| (whole(weight, 100 - slack, true), whole(weight, 100 + slack, false)))
                    .into_iter()
                    .find(|(low, high)| low <= high)
                    .unwrap_or((share, whole(weight, 100, true)));
                let gap = (1_u64 << UNIT).checked_div(weight).unwrap_or(u64::MAX);
                Racer { key: mix(mix(seed) ^ mix(member.id)), weight, gap, next: 0, has: 0, high, low, share }
            })
            .collect();
        // With few slots a server, whole numbers within the limits may not add up.
        if racers.iter().map(|racer| racer.high).sum::<u64>() < slots {
            racers.iter_mut().for_each(|racer| racer.high = racer.high.max(whole(racer.weight, 100, true)));
        }
        if racers.iter().map(|racer| racer.low).sum::<u64>() > slots {
            racers.iter_mut().for_each(|racer| racer.low = racer.low.min(racer.share));
        }
        Self { log2, racers, slots: vec![NOBODY; 1 << log2], budget: slots * 64 }
    }

    fn run(mut self) -> Vec<u16> {
        if self.racers.iter().any(|racer| racer.weight > 0) {
            self.take();
            self.finish();
            // Where whole slots leave no other way, also from those with less than theirs.
            self.pull(|racer| racer.has > racer.share.max(racer.low));
            self.pull(|racer| racer.has > racer.low);
        }
        self.slots
    }

    /// All arrivals until `end` of the servers that `still` take part, at slots that `at` wants, in order of time.
    fn arrivals(
        &mut self,
        end: u64,
        still: impl Fn(&Racer) -> bool,
        at: impl Fn(u16) -> bool,
        out: &mut Vec<(u64, u16, u32)>,
    ) {
        out.clear();
        for (racer, place) in self.racers.iter_mut().zip(0_u16..) {
            if !still(racer) {
                continue;
            }
            loop {
                let (time, hash) = racer.arrival();
                if time >= end {
                    break;
                }
                racer.next += 1;
                self.budget = self.budget.saturating_sub(1);
                let slot = slot_of(hash, self.log2);
                if self.slots.get(slot as usize).is_some_and(|server| at(*server)) {
                    out.push((time, place, slot));
                }
            }
        }
        out.sort_unstable();
    }

    /// The race for free slots.
    fn take(&mut self) {
        let slots = self.slots.len() as u64;
        let (mut free, mut end, mut batch) = (slots, 0_u64, Vec::new());
        let runs = |racer: &Racer| racer.has < racer.high || planted(Mutant::NoLimit);
        while free > 0 && self.budget > 0 {
            let rate: u64 = self.racers.iter().filter(|racer| runs(racer)).map(|racer| racer.weight).sum();
            // So many that about an eighth as many as there are slots come at a free one.
            let many = (slots * slots / (8 * free)).clamp(1, 4 * slots);
            let Some(ticks) = (many << UNIT).checked_div(rate) else { break };
            end = end.saturating_add(ticks.max(1));
            self.arrivals(end, runs, |server| server == NOBODY, &mut batch);
            for (_, place, slot) in &batch {
                let racer = self.racers.get_mut(usize::from(*place)).filter(|racer| runs(racer));
                let free_slot = self.slots.get_mut(*slot as usize).filter(|server| **server == NOBODY);
                if let (Some(racer), Some(server)) = (racer, free_slot) {
                    *server = *place;
                    racer.has += 1;
                    free -= 1;
                }
            }
        }
    }

    /// Gives what nobody came for to whoever may have it, by place.
    fn finish(&mut self) {
        let mut room = self.racers.iter_mut().zip(0_u16..).filter(|(racer, _)| racer.weight > 0).peekable();
        for server in self.slots.iter_mut().filter(|server| **server == NOBODY) {
            while room.next_if(|(racer, _)| racer.has >= racer.high).is_some() {}
            if let Some((racer, place)) = room.peek_mut() {
                racer.has += 1;
                *server = *place;
            }
        }
    }

    /// Servers far below their share take from those that may give, each from its first arrival on.
    fn pull(&mut self, gives: impl Fn(&Racer) -> bool) {
        let poor = |racer: &Racer| racer.has < racer.low;
        self.racers.iter_mut().for_each(|racer| racer.next = 0);
        self.budget = self.budget.max(self.slots.len() as u64 * 16);
        let (mut end, mut batch, mut many) = (0_u64, Vec::new(), 64_u64);
        while self.budget > 0 {
            let (rate, missing) = self
                .racers
                .iter()
                .filter(|racer| poor(racer))
                .fold((0, 0), |(rate, missing), racer| (rate + racer.weight, missing + racer.low - racer.has));
            many = (2 * many).max(4 * missing).min(4 * self.slots.len() as u64);
            let Some(ticks) = (many << UNIT).checked_div(rate) else { break };
            end = end.saturating_add(ticks.max(1));
            self.arrivals(end, poor, |_| true, &mut batch);
            for (_, place, slot) in &batch {
                let Some(server) = self.slots.get_mut(*slot as usize) else { continue };
                let (new, old) = (usize::from(*place), usize::from(*server));
                let wants = self.racers.get(new).is_some_and(poor);
                if wants && self.racers.get(old).is_some_and(&gives) {
                    *server = *place;
                    self.racers.get_mut(new).into_iter().for_each(|racer| racer.has += 1);
                    self.racers.get_mut(old).into_iter().for_each(|racer| racer.has -= 1);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    fn members(many: u64, weight: impl Fn(u64) -> u32) -> Members {
        let member = |id: u64| {
            let [.., a, b] = id.to_be_bytes();
            Member { id: id * 7, mac: [2, 0, 0, 0, a, b], weight: weight(id), draining: false }
        };
        Members::new((0..many).map(member)).unwrap_or_default()
    }

    /// The race as it is told: the earliest arrival of all, again and again.
    fn plain(mut race: Race) -> Vec<u16> {
        let mut free = race.slots.len();
        while free > 0 {
            let runs = race.racers.iter_mut().zip(0_u16..).filter(|(racer, _)| racer.has < racer.high);
            let Some((racer, place)) = runs.min_by_key(|(racer, place)| (racer.arrival().0, *place)) else { break };
            let slot = slot_of(racer.arrival().1, race.log2);
            racer.next += 1;
            if let Some(server) = race.slots.get_mut(slot as usize).filter(|server| **server == NOBODY) {
                *server = place;
                racer.has += 1;
                free -= 1;
            }
        }
        race.slots
    }

    #[test]
    fn windows_of_time_do_not_show() {
        for seed in 0..60 {
            let many = 1 + seed % 9;
            let members = members(many, |id| 1 + (mix(seed * 100 + id) % 50) as u32);
            let mut race = Race::new(seed, 4 + (seed % 6) as u8, &members);
            race.take();
            assert_eq!(race.slots, plain(Race::new(seed, 4 + (seed % 6) as u8, &members)), "seed {seed}");
        }
    }

    #[test]
    fn slots_that_nobody_came_for_are_given_out() {
        for budget in [0, 1, 100, 1_000] {
            let mut race = Race::new(1, 8, &members(5, |id| if id == 0 { 65_535 } else { 1 }));
            race.budget = budget;
            race.take();
            race.finish();
            assert!(!race.slots.contains(&NOBODY), "{budget}");
            assert!(race.racers.iter().all(|racer| racer.has <= racer.high), "{budget}");
            race.pull(|racer| racer.has > racer.low);
            assert!(race.racers.iter().all(|racer| racer.has <= racer.high && racer.has >= racer.low), "{budget}");
        }
    }

    #[test]
    fn the_budget_is_not_used_up() {
        let weights: [fn(u64) -> u32; 4] = [
            |_| 1,
            |id| if id == 0 { 65_535 } else { 1 },
            |id| 1 + id as u32 % 100,
            |id| if id % 2 == 0 { 9_999 } else { 1 },
        ];
        for weight in weights {
            for (many, log2) in [(1, 4), (2, 4), (3, 6), (300, 4), (300, 12), (2_000, 12)] {
                let mut race = Race::new(many, log2, &members(many, weight));
                race.take();
                let left = race.slots.iter().filter(|server| **server == NOBODY).count();
                assert!(race.budget > 0 && left == 0, "{many} servers, 2^{log2} slots: {left} are left");
                race.pull(|racer| racer.has > racer.low);
                assert!(race.racers.iter().all(|racer| racer.has >= racer.low), "{many} servers, 2^{log2} slots");
            }
        }
    }
}
