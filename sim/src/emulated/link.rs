//! A machine below IP: its own addresses, and whose hardware address belongs to whose address. It believes what Linux believes:
//! an announcement changes what is known, and tells nothing about strangers.

use std::collections::BTreeMap;

use apus_dispatch::Mac;

use super::packet::{BROADCAST, Meta, Packet, advertisement, arp, frame, read, solicitation, target, whole, wide};
use crate::fault::{Ns, S};

/// For so long an entry is used without asking.
const FRESH: Ns = 30 * S;
/// Between two questions.
const AGAIN: Ns = S;
/// Questions before it is given up.
const TRIES: u32 = 3;
/// Packets that wait for one answer, and addresses that are asked for at once: the oldest give way.
const WAITING: usize = 8;
const ASKED: usize = 256;

#[derive(Clone, Debug, Default)]
struct Near {
    mac: Option<Mac>,
    v6: bool,
    confirmed: Ns,
    /// When the last question was asked, while an answer is missing.
    asked: Option<Ns>,
    tries: u32,
    waiting: Vec<(Vec<u8>, Meta)>,
}

/// The lower half of a machine.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) mac: Mac,
    pub(super) v4: [u8; 4],
    pub(super) v6: [u8; 16],
    near: BTreeMap<[u8; 16], Near>,
    /// Frames to send.
    pub(super) out: Vec<Packet>,
    /// What found nobody.
    pub(super) lost: Vec<Meta>,
}

impl Link {
    pub(super) const fn new(mac: Mac, v4: [u8; 4], v6: [u8; 16]) -> Self {
        Self { mac, v4, v6, near: BTreeMap::new(), out: Vec::new(), lost: Vec::new() }
    }

    /// What it takes an address to be.
    pub(super) fn known(&self, address: [u8; 16]) -> Option<Mac> {
        self.near.get(&address)?.mac
    }

    /// Sends an IP packet.
    pub(super) fn send(&mut self, now: Ns, packet: Vec<u8>, meta: Meta) {
        let Some((to, v6)) = target(&packet) else { return self.lost.push(meta) };
        if v6 && to[0] == 0xff {
            return;
        }
        if !self.near.contains_key(&to)
            && self.near.len() >= ASKED
            && let Some(oldest) = self.near.iter().min_by_key(|(_, near)| near.confirmed).map(|(address, _)| *address)
            && let Some(gone) = self.near.remove(&oldest)
        {
            self.lost.extend(gone.waiting.into_iter().map(|(_, meta)| meta));
        }
        let near = self.near.entry(to).or_insert_with(|| Near { v6, confirmed: now, ..Near::default() });
        let stale = near.mac.is_none() || now >= near.confirmed + FRESH;
        match near.mac {
            Some(mac) => {
                let kind = if v6 { 0x86dd } else { 0x0800 };
                self.out.push(Packet { bytes: frame(mac, self.mac, kind, &packet), meta });
            }
            None => {
                if near.waiting.len() >= WAITING {
                    let (_, gone) = near.waiting.remove(0);
                    self.lost.push(gone);
                }
                near.waiting.push((packet, meta));
            }
        }
        if stale && near.asked.is_none() {
            (near.asked, near.tries) = (Some(now), 1);
            self.ask(to, v6);
        }
    }

    fn ask(&mut self, about: [u8; 16], v6: bool) {
        let [.., a, b, c, d] = about;
        let bytes = if v6 {
            solicitation((self.mac, self.v6), about)
        } else {
            arp(1, BROADCAST, (self.mac, self.v4), ([0; 6], [a, b, c, d]))
        };
        self.out.push(Packet { bytes, meta: Meta::NONE });
    }

    /// Numbers of the packets that wait for an answer.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.near.values().flat_map(|near| near.waiting.iter().map(|(_, meta)| meta.id))
    }

    /// Asks again, or gives up, what is due.
    pub(super) fn tick(&mut self, now: Ns) {
        let due: Vec<([u8; 16], bool)> = self
            .near
            .iter()
            .filter(|(_, near)| near.asked.is_some_and(|asked| asked + AGAIN <= now))
            .map(|(address, near)| (*address, near.v6))
            .collect();
        for (address, v6) in due {
            let Some(near) = self.near.get_mut(&address) else { continue };
            if near.tries < TRIES {
                near.tries += 1;
                near.asked = Some(now);
                self.ask(address, v6);
            } else if let Some(gone) = self.near.remove(&address) {
                self.lost.extend(gone.waiting.into_iter().map(|(_, meta)| meta));
            }
        }
    }

    /// When it has something to do again.
    pub(super) fn next(&self) -> Option<Ns> {
        self.near.values().filter_map(|near| near.asked).min().map(|asked| asked + AGAIN)
    }

    /// Somebody says that an address is his.
    fn heard(&mut self, now: Ns, address: [u8; 16], mac: Mac, overrides: bool) {
        let Some(near) = self.near.get_mut(&address) else { return };
        if mac[0] & 1 == 1 || mac == [0; 6] || (near.mac.is_some_and(|known| known != mac) && !overrides) {
            return;
        }
        near.mac = Some(mac);
        near.confirmed = now;
        near.asked = None;
        let kind = if near.v6 { 0x86dd } else { 0x0800 };
        for (packet, meta) in std::mem::take(&mut near.waiting) {
            self.out.push(Packet { bytes: frame(mac, self.mac, kind, &packet), meta });
        }
    }

    /// A frame comes in; an IP packet for the machine goes up.
    pub(super) fn receive(&mut self, now: Ns, bytes: &[u8]) -> Option<Vec<u8>> {
        let to: Mac = read(bytes, 0)?;
        let from: Mac = read(bytes, 6)?;
        match u16::from_be_bytes(read(bytes, 12)?) {
            0x0806 => {
                let operation = u16::from_be_bytes(read(bytes, 20)?);
                let (mac, sender): (Mac, [u8; 4]) = (read(bytes, 22)?, read(bytes, 28)?);
                let about: [u8; 4] = read(bytes, 38)?;
                self.heard(now, wide(sender), mac, true);
                if operation == 1 && about == self.v4 && sender != [0; 4] {
                    let bytes = arp(2, mac, (self.mac, self.v4), (mac, sender));
                    self.out.push(Packet { bytes, meta: Meta::NONE });
                }
                None
            }
            0x86dd if read(bytes, 20)? == [58, 255] && matches!(read(bytes, 54)?, [135 | 136]) => {
                if !whole(bytes.get(14..)?) {
                    return None;
                }
                let [kind] = read(bytes, 54)?;
                let (sender, about): ([u8; 16], [u8; 16]) = (read(bytes, 22)?, read(bytes, 62)?);
                let mac = match read::<2>(bytes, 78) {
                    Some([1 | 2, 1]) => read(bytes, 80)?,
                    _ => from,
                };
                if kind == 136 {
                    let [flags] = read(bytes, 58)?;
                    self.heard(now, about, mac, flags & 0x20 != 0);
                } else {
                    self.heard(now, sender, mac, true);
                    if about == self.v6 && sender != [0; 16] {
                        let bytes = advertisement((self.mac, self.v6), Some((mac, sender)));
                        self.out.push(Packet { bytes, meta: Meta::NONE });
                    }
                }
                None
            }
            0x0800 | 0x86dd if to == self.mac => Some(bytes[14..].to_vec()),
            _ => None,
        }
    }
}
