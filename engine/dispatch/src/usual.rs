//! The usual frame: a whole packet from a client, for another server than this node.

use crate::any::any;
use crate::header::{EXTENSIONS, ICMP, TCP, UDP, be16};
use crate::packet::halves_v6;
use crate::{Frame, Head, Here, Hooks, Key, Mac, Table, Tag, Verdict, hash_v4, hash_v6, with_ports};

/// The first half of [`dispatch`]: a usual frame is sent on. None, and nothing written, for any other frame.
#[inline]
pub fn usual<F, T>(here: &Here, table: &T, frame: &mut F) -> Option<()>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
{
    let head = table.head();
    let usual = Usual::new(here, &head);
    usual.by_client(here.now, frame)?;
    match head.key {
        Key::Source => usual.v4::<false, _, _>(table, frame),
        Key::Ports => usual.v4::<true, _, _>(table, frame),
        Key::Quic => None,
    }
}

/// A node and a table that stay for many frames: what each frame is compared with is worked out once.
#[derive(Clone, Copy, Debug)]
pub struct Ready<T> {
    /// For tables with the one key and the other.
    by_source: Usual,
    by_ports: Usual,
    here: Here,
    table: T,
}

impl<T: Table> Ready<T> {
    /// For a node, whose [`Here::now`] does not matter, and a table.
    #[must_use]
    pub fn new(here: &Here, table: T) -> Self {
        let head = table.head();
        let usual = |key: Key| {
            let lease = if head.key as u8 == key as u8 { here.lease } else { 0 };
            Usual::new(&Here { lease, ..*here }, &head)
        };
        Self { by_source: usual(Key::Source), by_ports: usual(Key::Ports), here: *here, table }
    }

    /// As [`dispatch`], at the time `now`.
    #[inline]
    pub fn dispatch<F, H>(&self, now: u64, hooks: &H, frame: &mut F) -> Verdict
    where
        F: Frame + ?Sized,
        H: Hooks + ?Sized,
    {
        if self.by_source.by_client(now, frame).is_none() {
            return self.third(frame, now, hooks);
        }
        match self.by_source.v4::<false, _, _>(&self.table, frame) {
            Some(()) => Verdict::Transmit,
            None => self.second(frame, now, hooks),
        }
    }

    #[inline(never)]
    fn second<F, H>(&self, frame: &mut F, now: u64, hooks: &H) -> Verdict
    where
        F: Frame + ?Sized,
        H: Hooks + ?Sized,
    {
        match self.by_source.v6::<false, _, _>(&self.table, frame) {
            Some(()) => Verdict::Transmit,
            None => self.third(frame, now, hooks),
        }
    }

    #[inline(never)]
    fn third<F, H>(&self, frame: &mut F, now: u64, hooks: &H) -> Verdict
    where
        F: Frame + ?Sized,
        H: Hooks + ?Sized,
    {
        let (ports, table) = (&self.by_ports, &self.table);
        let sent = ports
            .by_client(now, frame)
            .and_then(|()| ports.v4::<true, _, _>(table, frame).or_else(|| ports.v6::<true, _, _>(table, frame)));
        match sent {
            Some(()) => Verdict::Transmit,
            None => any(&Here { now, ..self.here }, table, hooks, frame),
        }
    }
}

/// The usual case by itself: a whole packet from a client, for another server than this node; of IPv4 without options, of
/// IPv6 with TCP or UDP behind the usual extension headers. None, and nothing written, for anything else: [`any`] has the
/// same verdict for it, at several times the cost.
///
/// Words are as they lie in a frame: nothing is turned round only to be compared.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// The address that clients send to, and behind it what only a tag has there.
    own: u64,
    /// Ends with the lease.
    until: u64,
    seed: u64,
    /// What is written behind the server's address: a tag and the `EtherType`.
    signs: [u64; 2],
    v6: [u64; 2],
    v4: u32,
    /// `EtherType`, version and header length of a packet to the cluster; of no packet, if it has no such address.
    starts: [u32; 2],
    /// Hash bits that do not choose the slot.
    below: u32,
    server: u32,
}

/// Bits of the IPv6 extension headers that the usual packet may have: hop by hop, routing, for the destination.
const STEPPED_OVER: u64 = 1 | 1 << 43 | 1 << 60;

impl Usual {
    #[inline(always)]
    fn new(here: &Here, head: &Head) -> Self {
        let mac = |[a, b, c, d, e, f]: Mac| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let (port, claim) = (mac(here.mac), mac(head.claim));
        let [i, j, k, l, m, n] = here.tag().mac();
        let [high, low] = halves_v6(head.v6);
        Self {
            own: if claim == 0 { port } else { claim } | u64::from(Tag::MARK.swap_bytes()) << 48,
            until: here.lease,
            seed: head.seed,
            signs: [[8, 0], [0x86, 0xdd]].map(|[o, p]| u64::from_le_bytes([i, j, k, l, m, n, o, p])),
            v6: [high.to_be(), low.to_be()],
            v4: u32::from_le_bytes(head.v4),
            starts: [
                if head.v4 == [0; 4] { u32::MAX } else { 0x45_0008 },
                if high | low == 0 { u32::MAX } else { 0x60_dd86 },
            ],
            below: 64_u32.wrapping_sub(u32::from(head.log2_slots)),
            server: u32::from(here.server),
        }
    }

    /// Whether it is from a client, to this node, and this node may send it on.
    #[inline(always)]
    fn by_client<F: Frame + ?Sized>(&self, now: u64, frame: &F) -> Option<()> {
        frame.size().checked_sub(34)?;
        let other = (u64::from_le_bytes(frame.read(0)?) ^ self.own).rotate_left(16);
        (1..=0xffff).contains(&other).then_some(())?;
        (now < self.until).then_some(())
    }

    #[inline(always)]
    fn v4<const PORTS: bool, F, T>(&self, table: &T, frame: &mut F) -> Option<()>
    where
        F: Frame + ?Sized,
        T: Table + ?Sized,
    {
        let more = frame.size().checked_sub(34)?;
        if u32::from_le_bytes(frame.read(12)?) & 0xff_ffff != self.starts[0] {
            return None;
        }
        // Length, identification, flags and offset, and more.
        let middle = u64::from_be_bytes(frame.read(16)?);
        if middle & 0x3fff_0000 != 0 {
            return None;
        }
        if u32::from_le_bytes(frame.read(30)?) != self.v4 {
            return None;
        }
        let [protocol] = frame.read(23)?;
        if protocol == ICMP || ((middle >> 48) as usize).wrapping_sub(20) > more {
            return None;
        }
        let hash = hash_v4(self.seed, frame.read(26)?);
        let hash = if PORTS && matches!(protocol, TCP | UDP) { moved(hash, frame, 34)? } else { hash };
        self.send(table, frame, hash, self.signs[0])
    }

    #[inline(always)]
    fn v6<const PORTS: bool, F, T>(&self, table: &T, frame: &mut F) -> Option<()>
    where
        F: Frame + ?Sized,
        T: Table + ?Sized,
    {
        let more = frame.size().checked_sub(54)?;
        let start = u32::from_le_bytes(frame.read(12)?) & 0xf0_ffff;
        let length = u16::from_be_bytes(frame.read(18)?) as usize;
        let target = [u64::from_le_bytes(frame.read(38)?), u64::from_le_bytes(frame.read(46)?)];
        if start != self.starts[1] || target != self.v6 || length > more {
            return None;
        }
        let [mut next] = frame.read(20)?;
        let (mut l4, mut all) = (54_u32, next);
        for _ in 0..EXTENSIONS {
            // Numbers above 63 are taken for smaller ones here, and found out below.
            if STEPPED_OVER >> (next & 63) & 1 == 0 {
                break;
            }
            let [after, units, _, _] = frame.read(l4 as usize)?;
            (next, all) = (after, all | after);
            l4 = l4.wrapping_add(u32::from(units) * 8 + 8);
        }
        if all > 63 || !matches!(next, TCP | UDP) {
            return None;
        }
        let hash = hash_v6(self.seed, frame.read(22)?);
        let hash = if PORTS { moved(hash, frame, l4 as usize)? } else { hash };
        self.send(table, frame, hash, self.signs[1])
    }

    #[inline(always)]
    fn send<F, T>(&self, table: &T, frame: &mut F, hash: u64, sign: u64) -> Option<()>
    where
        F: Frame + ?Sized,
        T: Table + ?Sized,
    {
        #[allow(clippy::cast_possible_truncation, reason = "the highest bits, 20 at most")]
        let (server, mac) = table.port(hash.wrapping_shr(self.below) as usize)?;
        if u32::from(server) == self.server {
            return None;
        }
        (frame.write(0, mac) && frame.write(6, sign.to_le_bytes())).then_some(())
    }
}

/// A client's hash, moved on by the ports that are at `l4`.
#[inline]
fn moved<F: Frame + ?Sized>(hash: u64, frame: &F, l4: usize) -> Option<u64> {
    let [a, b, c, d] = frame.read(l4)?;
    Some(with_ports(hash, be16(a, b), be16(c, d)))
}
