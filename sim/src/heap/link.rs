//! What happens to a packet on its way.

use apus_engine::wire::{is_intact, peek_kind, repair_check};
use apus_engine::{NodeId, Ratio, Rng};

use super::World;
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

const fn ppm(rate: u32) -> Ratio {
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

impl World<'_> {
    /// Sends one packet, and decides its fate.
    pub(super) fn transmit(&mut self, from: NodeId, to: NodeId, datagram: Vec<u8>) {
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
        if let Some(fates) = self.options.fates.as_deref() {
            let nth = self.lanes.entry((from, to, kind)).or_default();
            let fate = fates.get(from, to, kind, *nth);
            *nth += 1;
            if let Some(fate) = fate {
                return self.follow(fate, (from, to, id, kind), delay, datagram);
            }
        }
        if self.on_links.is_empty() {
            let at = self.now + delay;
            self.queue.push(at, Due::Deliver { to, from, id, datagram });
            return;
        }
        let mut packet = Packet { datagram, delay, not_before: 0, again: Vec::new(), from };
        for at in 0..self.on_links.len() {
            let index = self.on_links[at];
            if !self.pass(index, from, to, kind, &mut packet) {
                self.active[index as usize].effects += 1;
                if self.options.keep_trace {
                    self.line(Some(from), What::Lost { to, id, fault: Some(index) });
                }
                return;
            }
        }
        let Packet { datagram, delay, not_before, again, from } = packet;
        let at = (self.now + delay).max(not_before);
        for later in again {
            let datagram = datagram.clone();
            self.queue.push(at + later, Due::Deliver { to, from, id, datagram });
        }
        self.queue.push(at, Due::Deliver { to, from, id, datagram });
    }

    /// Does with a packet what is known to become of it. The faults are asked all the same: they count their effects, and
    /// their streams stay in step for packets whose fate is not known.
    fn follow(
        &mut self,
        fate: &[Arrival],
        (from, to, id, kind): (NodeId, NodeId, u64, u8),
        delay: Ns,
        datagram: Vec<u8>,
    ) {
        let mut packet = Packet { datagram: datagram.clone(), delay, not_before: 0, again: Vec::new(), from };
        let mut lost = None;
        for at in 0..self.on_links.len() {
            let index = self.on_links[at];
            if !self.pass(index, from, to, kind, &mut packet) {
                self.active[index as usize].effects += 1;
                lost = Some(index);
                break;
            }
        }
        if fate.is_empty() && self.options.keep_trace {
            self.line(Some(from), What::Lost { to, id, fault: Some(lost.unwrap_or(u16::MAX)) });
        }
        for arrival in fate {
            let datagram = arrival.altered.clone().unwrap_or_else(|| datagram.clone());
            let from = arrival.posed.unwrap_or(from);
            self.queue.push(self.now + arrival.after, Due::Deliver { to, from, id, datagram });
        }
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
        let rng = &mut state.rng;
        let rate = ppm(fault.rate_ppm);
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
            Kind::Partition if crosses => return false,
            Kind::OneWay if inside_from && !inside_to => return false,
            Kind::OneWayIn if inside_to && !inside_from => return false,
            Kind::Bridge if crosses => return state.bridge == Some(from) || state.bridge == Some(to),
            Kind::Swizzle if state.clogged.contains(&from) || state.clogged.contains(&to) => return false,
            Kind::Flap if crosses => return !state.on,
            Kind::NicDown if inside_from || inside_to => return false,
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
