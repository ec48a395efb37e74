//! What faults do to a frame between two ports.

use std::collections::BTreeMap;

use apus_engine::{NodeId, Ratio, Rng, Seed};

use super::packet::Packet;
use crate::fault::{Kind, MS, Ns};
use crate::heap::World;

/// What one running fault remembers of frames. Its chance is not that of the engines' packets: those meet the same fate as
/// without frames.
#[derive(Clone, Debug)]
struct State {
    rng: Rng,
    until: Ns,
    on: bool,
    steps: u64,
}

/// All faults at work.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire {
    states: BTreeMap<u16, State>,
}

/// What becomes of a frame.
pub(super) enum Fate {
    /// It arrives this much later than on a healthy link; and again, each so much later than that.
    Arrives { later: Ns, again: Vec<Ns> },
    /// It is lost.
    Lost,
}

/// Flips bits behind the addresses; false if the port at the end sees it by the frame's check sequence, and drops the frame.
///
/// A cable's damage is always seen there (IEEE 802.3 finds any three bits), a switch's own never, for it makes the sequence
/// anew. Then the checksums of IP and TCP are all there is: they find any one bit, but not two that cancel each other, so a
/// switch flips one here. ARP has no checksum: of that only cables damage frames.
fn flip(rng: &mut Rng, bytes: &mut [u8]) -> bool {
    let ip = matches!(bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
    let bits = (bytes.len().saturating_sub(14) * 8) as u64;
    let (switch, bit) = (rng.below(2) == 0, rng.below(bits.max(1)) as usize);
    match bytes.get_mut(14 + bit / 8).filter(|_| switch && ip) {
        Some(byte) => *byte ^= 1 << (bit % 8),
        None => return false,
    }
    true
}

impl Wire {
    /// Lets all running faults work on a frame from one machine to another; `None` is one that is no node.
    pub(super) fn carry(
        &mut self,
        world: &mut World,
        from: Option<NodeId>,
        to: Option<NodeId>,
        packet: &mut Packet,
    ) -> Fate {
        let now = world.true_time();
        let mut later = 0;
        let mut not_before = 0;
        let mut again = Vec::new();
        for index in world.on_frames() {
            let fault = world.fault(index).clone();
            if let Some(cut) = world.cut_between(index, from, to) {
                if cut {
                    world.had_effect(index);
                    return Fate::Lost;
                }
                continue;
            }
            let (inside_from, inside_to) = (world.touches(index, from), world.touches(index, to));
            let (touches, crosses) = (inside_from || inside_to, inside_from != inside_to);
            if !touches {
                continue;
            }
            let seed = Seed(world.seed()).derive("frames").nth(u64::from(index));
            let state = self.states.entry(index).or_insert_with(|| State {
                rng: seed.stream("fault"),
                until: 0,
                on: false,
                steps: 0,
            });
            let rng = &mut state.rng;
            let rate = Ratio { hit: fault.rate_ppm, of: 1_000_000 };
            let lost = match fault.kind {
                Kind::Loss => rng.hit(rate),
                Kind::BurstLoss => {
                    if now >= state.until {
                        state.on = !state.on;
                        state.until = now + rng.between(fault.size / 2, fault.size + fault.size / 2);
                    }
                    state.on && rng.hit(rate)
                }
                Kind::NoBroadcast => packet.bytes[0] & 1 == 1 && rng.hit(rate),
                Kind::Mtu => packet.bytes.len() as u64 > fault.size + 14,
                Kind::QueueCap => {
                    if now >= state.until {
                        state.until = now + world.healthy_delay().max(1);
                        state.steps = 0;
                    }
                    state.steps += 1;
                    state.steps > fault.size
                }
                Kind::Duplicate if rng.hit(rate) => {
                    again.push(rng.between(0, 2 * MS));
                    world.had_effect(index);
                    false
                }
                Kind::ReplayLate if rng.hit(rate) => {
                    again.push(rng.between(fault.size / 2, fault.size));
                    world.had_effect(index);
                    false
                }
                Kind::Corrupt if rng.hit(rate) => {
                    packet.meta.dirty = true;
                    world.had_effect(index);
                    !flip(rng, &mut packet.bytes)
                }
                Kind::Truncate if rng.hit(rate) => {
                    let keep = rng.below(packet.bytes.len() as u64) as usize;
                    packet.bytes.truncate(keep);
                    packet.meta.dirty = true;
                    world.had_effect(index);
                    false
                }
                _ => {
                    let added = match fault.kind {
                        Kind::Jitter => rng.below(fault.size + 1),
                        Kind::ReorderGap if rng.hit(rate) => fault.size,
                        Kind::Latency => fault.size,
                        Kind::SlowPair | Kind::SlowPartition if crosses => fault.size,
                        Kind::Bandwidth => {
                            let busy = (packet.bytes.len() as u64).saturating_mul(1_000_000_000) / fault.size.max(1);
                            state.until = state.until.max(now) + busy;
                            state.until - now
                        }
                        Kind::Lifo => {
                            let window = fault.size.max(1);
                            let end = (now / window + 1) * window;
                            not_before = not_before.max(end + (end - now));
                            1
                        }
                        Kind::Clog => {
                            not_before = not_before.max(world.fault_ends(index) + rng.below(MS));
                            1
                        }
                        _ => continue,
                    };
                    later += added;
                    world.had_effect(index);
                    false
                }
            };
            if lost {
                world.had_effect(index);
                return Fate::Lost;
            }
            if packet.bytes.is_empty() {
                return Fate::Lost;
            }
        }
        Fate::Arrives { later: later.max(not_before.saturating_sub(now)), again }
    }
}
