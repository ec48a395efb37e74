//! What happens to a packet on its way.

use apus_engine::wire::{is_intact, peek_kind, repair_check};
use apus_engine::{NodeId, Ratio, Rng};

use super::World;
use super::faults::Active;
use super::queue::Due;
use crate::fates::Arrival;
use crate::fault::{Kind, MS, Ns};
use crate::trace::What;

/// What the active faults have made of one packet so far.
struct Packet {
    datagram: Vec<u8>,
    /// On top of the healthy delay.
    delay: Ns,
    /// Not before this instant.
    not_before: Ns,
    /// Arrives a second time, this much later.
    again: Vec<Ns>,
    /// Whose packet it pretends to be.
    from: NodeId,
}

/// One arrival of a packet.
pub(super) struct Arriving {
    pub(super) at: Ns,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) id: u64,
    pub(super) datagram: Vec<u8>,
}

/// Kinds that let nothing of a link through, while they do.
pub(super) const fn is_cut(kind: Kind) -> bool {
    use Kind::{Bridge, Flap, NicDown, OneWay, OneWayIn, Partition, Swizzle};
    matches!(kind, Partition | OneWay | OneWayIn | Bridge | Swizzle | Flap | NicDown)
}

/// Whether a cut lets nothing through from one node to another now.
pub(super) fn cuts(kind: Kind, state: &Active, from: NodeId, to: NodeId) -> bool {
    let (inside_from, inside_to) = (state.has(from), state.has(to));
    let crosses = inside_from != inside_to;
    match kind {
        Kind::Partition => crosses,
        Kind::OneWay => inside_from && !inside_to,
        Kind::OneWayIn => inside_to && !inside_from,
        Kind::Bridge => crosses && state.bridge != Some(from) && state.bridge != Some(to),
        Kind::Swizzle => state.clogged.contains(&from) || state.clogged.contains(&to),
        Kind::Flap => crosses && state.on,
        Kind::NicDown => inside_from || inside_to,
        _ => false,
    }
}

pub(super) const fn ppm(rate: u32) -> Ratio {
    Ratio { hit: rate, of: 1_000_000 }
}

/// Flips one to three bits.
fn flip(rng: &mut Rng, bytes: &mut [u8], from: usize) {
    let bits = (bytes.len().saturating_sub(from) * 8) as u64;
    for _ in 0..rng.between(1, 3) {
        if bits > 0 {
            let bit = rng.below(bits) as usize;
            bytes[from + bit / 8] ^= 1 << (bit % 8);
        }
    }
}

impl World {
    /// Sends one packet.
    pub(super) fn transmit(&mut self, from: NodeId, to: NodeId, datagram: Vec<u8>) {
        self.send(from, to, datagram, false, |world, arrival| {
            let Arriving { at, from, to, id, datagram } = arrival;
            world.queue.push(at, Due::Deliver { to, from, id, datagram });
        });
    }

    /// Decides the fate of one packet, and tells each of its arrivals. Cuts are none of a stream's packets' business: the
    /// stream itself stands still.
    pub(super) fn send(
        &mut self,
        from: NodeId,
        to: NodeId,
        datagram: Vec<u8>,
        stream: bool,
        mut arrive: impl FnMut(&mut Self, Arriving),
    ) {
        self.next_packet += 1;
        let id = self.next_packet;
        let kind = peek_kind(&datagram).unwrap_or(0);
        self.sent[from.0 as usize] += 1;
        if self.options.keep_trace {
            self.line(Some(from), What::Sent { to, id, kind, datagram: datagram.clone() });
        }
        if to.0 as usize >= self.nodes.len() {
            return;
        }
        let base = self.link_delay;
        let delay = base / 2 + self.net.below(base + 1);
        if self.options.fates.is_some() {
            let fates = self.options.fates.clone().unwrap_or_default();
            let nth = self.lanes.entry((from, to, kind)).or_default();
            let fate = fates.get(from, to, kind, *nth);
            *nth += 1;
            if let Some(fate) = fate {
                return self.follow(fate, (from, to, id, kind), delay, (datagram, stream), arrive);
            }
        }
        if self.on_links.is_empty() {
            let at = self.now + delay;
            return arrive(self, Arriving { at, from, to, id, datagram });
        }
        let mut packet = Packet { datagram, delay, not_before: 0, again: Vec::new(), from };
        if let Some(index) = self.strike((from, to, kind, stream), &mut packet) {
            if self.options.keep_trace {
                self.line(Some(from), What::Lost { to, id, fault: Some(index) });
            }
            return;
        }
        let Packet { datagram, delay, not_before, again, from } = packet;
        let at = (self.now + delay).max(not_before);
        for later in again {
            let datagram = datagram.clone();
            arrive(self, Arriving { at: at + later, from, to, id, datagram });
        }
        arrive(self, Arriving { at, from, to, id, datagram });
    }

    /// Lets the active faults work on a packet, one after the other; the one that loses it. Cuts of a stream are made below it.
    fn strike(&mut self, (from, to, kind, stream): (NodeId, NodeId, u8, bool), packet: &mut Packet) -> Option<u16> {
        for at in 0..self.on_links.len() {
            let index = self.on_links[at];
            if stream && is_cut(self.plan.faults[index as usize].kind) {
                continue;
            }
            if !self.pass(index, from, to, kind, packet) {
                self.active[index as usize].effects += 1;
                return Some(index);
            }
        }
        None
    }

    /// Does with a packet what is known to become of it. The faults are asked all the same: they count their effects, and
    /// their streams stay in step for packets whose fate is not known.
    fn follow(
        &mut self,
        fate: &[Arrival],
        (from, to, id, kind): (NodeId, NodeId, u64, u8),
        delay: Ns,
        (datagram, stream): (Vec<u8>, bool),
        mut arrive: impl FnMut(&mut Self, Arriving),
    ) {
        let mut packet = Packet { datagram: datagram.clone(), delay, not_before: 0, again: Vec::new(), from };
        let lost = self.strike((from, to, kind, stream), &mut packet);
        if fate.is_empty() && self.options.keep_trace {
            self.line(Some(from), What::Lost { to, id, fault: Some(lost.unwrap_or(u16::MAX)) });
        }
        for arrival in fate {
            let datagram = arrival.altered.clone().unwrap_or_else(|| datagram.clone());
            let from = arrival.posed.unwrap_or(from);
            let at = self.now + arrival.after;
            arrive(self, Arriving { at, from, to, id, datagram });
        }
    }

    /// Whether a running cut lets nothing through from one node to another now; counts an effect if so.
    pub(crate) fn is_cut_off(&mut self, from: NodeId, to: NodeId) -> bool {
        let cut = self
            .on_links
            .iter()
            .copied()
            .find(|index| cuts(self.plan.faults[*index as usize].kind, &self.active[*index as usize], from, to));
        if let Some(index) = cut {
            self.active[index as usize].effects += 1;
        }
        cut.is_some()
    }

    /// Lets one active fault work on a packet; false: it is lost.
    #[allow(clippy::cast_possible_truncation, reason = "a fault's size was checked against its kind")]
    fn pass(&mut self, index: u16, from: NodeId, to: NodeId, kind: u8, packet: &mut Packet) -> bool {
        let now = self.now;
        let state = &mut self.active[index as usize];
        let fault = &self.plan.faults[index as usize];
        let (inside_from, inside_to) = (state.has(from), state.has(to));
        let touches = state.everything || inside_from || inside_to;
        let crosses = inside_from != inside_to;
        let rate = ppm(fault.rate_ppm);
        if is_cut(fault.kind) {
            return !cuts(fault.kind, state, from, to);
        }
        let rng = &mut state.rng;
        match fault.kind {
            Kind::Loss if touches => return !rng.hit(rate),
            Kind::BurstLoss if touches => {
                if now >= state.until {
                    state.on = !state.on;
                    state.until = now + rng.between(fault.size / 2, fault.size + fault.size / 2);
                }
                return !(state.on && rng.hit(rate));
            }
            Kind::Duplicate if touches && rng.hit(rate) => packet.again.push(rng.between(0, 2 * MS)),
            Kind::ReplayLate if touches && rng.hit(rate) => packet.again.push(rng.between(fault.size / 2, fault.size)),
            Kind::Jitter if touches => packet.delay += rng.below(fault.size + 1),
            Kind::ReorderGap if touches && rng.hit(rate) => packet.delay += fault.size,
            Kind::Lifo if touches => {
                // A window's packets arrive at its end, the newest first.
                let window = fault.size.max(1);
                let end = (now / window + 1) * window;
                packet.not_before = end + (end - now);
            }
            Kind::Corrupt if touches && rng.hit(rate) => flip(rng, &mut packet.datagram, 0),
            Kind::CorruptUnseen if touches && kind >> 4 == 1 && rng.hit(rate) && is_intact(&packet.datagram) => {
                // Behind the header: a forged sender is another fault. What is damaged already stays so.
                flip(rng, &mut packet.datagram, 15);
                repair_check(&mut packet.datagram);
            }
            Kind::Truncate if touches && rng.hit(rate) => {
                let keep = rng.below(packet.datagram.len() as u64) as usize;
                packet.datagram.truncate(keep);
            }
            Kind::Mtu if touches => return packet.datagram.len() as u64 <= fault.size,
            Kind::DropKind if touches && u64::from(kind) == fault.size => return !rng.hit(rate),
            Kind::Spoof if touches && rng.hit(rate) => packet.from = NodeId(rng.below(self.nodes.len() as u64) as u16),
            Kind::Latency if touches => packet.delay += fault.size,
            Kind::SlowPair | Kind::SlowPartition if crosses => packet.delay += fault.size,
            Kind::Bandwidth if touches => {
                let busy = (packet.datagram.len() as u64).saturating_mul(1_000_000_000) / fault.size.max(1);
                state.until = state.until.max(now) + busy;
                packet.delay += state.until - now;
            }
            Kind::QueueCap if touches => {
                // Packets on their way at once, a link's delay each.
                if now >= state.until {
                    state.until = now + self.link_delay.max(1);
                    state.steps = 0;
                }
                state.steps += 1;
                return u64::from(state.steps) <= fault.size;
            }
            Kind::Clog if touches => packet.not_before = packet.not_before.max(state.ends + rng.below(MS)),
            Kind::NoSockets if inside_from => return !rng.hit(rate),
            Kind::Garbled if inside_from && rng.hit(rate) => {
                for byte in &mut packet.datagram {
                    *byte = rng.next() as u8;
                }
            }
            _ => return true,
        }
        state.effects += 1;
        true
    }
}
