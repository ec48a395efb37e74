//! Faults that act by themselves: who else sends frames, and what becomes of the switch.

use apus_dispatch::Mac;

use super::packet::{self, BROADCAST, CLUSTER_V4, CLUSTER_V6, Meta, PORT, Packet, Sort, arp, frame, solicitation};
use super::switch::Port;
use super::{Ether, Event};
use crate::fault::{Kind, MS, S};
use crate::heap::World;

impl Ether {
    pub(super) fn strike(&mut self, world: &mut World, index: u16) {
        let Some(mut rng) = self.strikes.get(&index).cloned() else { return };
        let fault = world.fault(index).clone();
        let now = world.true_time();
        let each = S / fault.size.max(1);
        let wait = match fault.kind {
            Kind::SwitchForgets => {
                self.switch.forget();
                world.had_effect(index);
                fault.size
            }
            Kind::ArpStorm => {
                let low = rng.below(1 << 15) as u16 | 1 << 15;
                let [a, b] = low.to_be_bytes();
                let mac = [2, 8, 2, 0, a, b];
                let bytes = if rng.below(2) == 0 {
                    arp(1, BROADCAST, (mac, [10, 8, a, b]), ([0; 6], CLUSTER_V4))
                } else {
                    let from = [0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, a, b];
                    solicitation((mac, from), CLUSTER_V6)
                };
                let meta = self.follow.begins(now, Sort::Question);
                self.stranger(world, index, Packet { bytes, meta });
                each
            }
            Kind::SpoofedFlood => {
                let from = [10, 8, 0x80 | rng.below(0x80) as u8, rng.below(256) as u8];
                let segment = packet::tcp(rng.below(60_000) as u16 + 1, PORT, rng.next() as u32, 0x10);
                let payload = packet::v4(6, from, CLUSTER_V4, &segment);
                if let Some(to) = self.cluster_mac() {
                    let bytes = frame(to, [2, 8, 2, 1, 0, 1], 0x0800, &payload);
                    let meta = self.follow.begins(now, Sort::Spoofed);
                    self.stranger(world, index, Packet { bytes, meta });
                }
                each
            }
            Kind::DuplicateAddress => {
                let mac = [2, 8, 2, 2, 0, 1];
                let claims = [
                    arp(1, BROADCAST, (mac, CLUSTER_V4), ([0; 6], CLUSTER_V4)),
                    packet::advertisement((mac, CLUSTER_V6), None),
                ];
                for bytes in claims {
                    self.stranger(world, index, Packet { bytes, meta: Meta::NONE });
                }
                fault.size
            }
            Kind::TooBig => {
                let flows = self.follow.owners.len() as u64;
                let nth = rng.below(flows.max(1)) as usize;
                let flow = self.follow.owners.keys().nth(nth).copied();
                if let (Some(flow), Some(to)) = (flow, self.cluster_mac()) {
                    let payload = packet::too_big(&flow, rng.below(250) as u8 + 1);
                    let kind = if flow.v6 { 0x86dd } else { 0x0800 };
                    let meta = self.follow.begins(now, Sort::Error { flow });
                    let bytes = frame(to, [2, 8, 2, 3, 0, 1], kind, &payload);
                    self.stranger(world, index, Packet { bytes, meta });
                }
                each
            }
            Kind::Fragments => {
                for machine in 0..self.machines.len() as u16 {
                    self.machines[usize::from(machine)].datagram(fault.size as usize);
                    self.machine(world, machine);
                    world.had_effect(index);
                }
                S / 10
            }
            _ => return,
        };
        self.strikes.insert(index, rng);
        self.push(now + wait.max(MS / 100), Event::Strike(index));
    }

    fn stranger(&mut self, world: &mut World, index: u16, packet: Packet) {
        world.had_effect(index);
        self.sends(world, Port::Stranger, packet);
    }

    /// Where clients believe the cluster's address to be.
    fn cluster_mac(&self) -> Option<Mac> {
        self.machines.iter().find_map(|machine| machine.link.known(packet::wide(CLUSTER_V4)))
    }
}
