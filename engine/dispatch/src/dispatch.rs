//! From a frame to its verdict.

use crate::header::{self, ARP, EXTENSIONS, Ethernet, ICMP, ICMPV6, IPV4, IPV6, Inner, NO_PROTOCOL, TCP, UDP, be16};
use crate::mutant::planted;
use crate::{
    Frame, Head, Key, Mac, Mutant, NOBODY, Reason, Slot, Table, Tag, Verdict, hash_v4, hash_v6, neighbour, with_ports,
};

/// What a node is at the moment: all that may change while the table stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Here {
    /// Now, on the clock that leases are counted on, in nanoseconds.
    pub now: u64,
    /// Until when this node is the dispatcher; 0 if it is not.
    pub lease: u64,
    /// In which epoch it is, or was last.
    pub epoch: u64,
    /// The lowest epoch whose dispatcher is still obeyed.
    pub fence: u64,
    /// This node's place among the servers, or [`NOBODY`].
    pub server: u16,
    /// Its number, in the tags of what it sends on.
    pub id: u8,
    /// Whether slots moved so shortly ago that a connection may have begun at a slot's former server, which does not know yet
    /// that it has it: the first segment is sent again, or late.
    pub fresh: bool,
    /// The address of its port.
    pub mac: Mac,
}

impl Here {
    /// Whether this node may act as the dispatcher now.
    #[inline]
    pub(crate) fn may(&self) -> Result<(), Reason> {
        if self.lease == 0 {
            Err(Reason::NotDispatcher)
        } else if self.now >= self.lease && !planted(Mutant::LeaseIgnored) {
            Err(Reason::LeaseExpired)
        } else {
            Ok(())
        }
    }

    /// What this node signs a frame with that it sends on from a client.
    #[inline]
    fn tag(&self) -> Tag {
        #[allow(clippy::cast_possible_truncation, reason = "a tag has the low bits")]
        let epoch = self.epoch as u16;
        let epoch = if planted(Mutant::TagTurned) { epoch.swap_bytes() } else { epoch };
        Tag { sender: self.id, epoch, hop: 0 }
    }
}

/// A client's connection or exchange with the cluster's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The client: an IPv6 address, or an IPv4 one in its last four bytes.
    pub client: [u8; 16],
    /// Whether that is an IPv6 address.
    pub v6: bool,
    /// The client's port.
    pub port: u16,
    /// The cluster's port.
    pub cluster_port: u16,
}

/// What the core asks the system it runs in.
pub trait Hooks {
    /// Whether this node has a TCP socket for the flow, one that only listens aside. Asked only where another server could
    /// have it.
    fn has_socket(&self, flow: &Flow) -> bool;

    /// Which server a QUIC connection id names; its first eight bytes are given. By default a layout of
    /// draft-ietf-quic-load-balancers in the clear: three bits of configuration (7: names nobody), then two bytes of server.
    #[inline]
    fn quic_server(&self, id: [u8; 8]) -> Option<u16> {
        let [config, high, low, ..] = id;
        if config >> 5 == 7 { None } else { Some(be16(high, low)) }
    }
}

/// A system that knows no sockets: every connection is its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    #[inline]
    fn has_socket(&self, _: &Flow) -> bool {
        true
    }
}

/// The slot of a hash.
#[inline]
#[must_use]
pub const fn slot_of(hash: u64, log2_slots: u8) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "the highest bits, 20 at most")]
    let slot = hash.wrapping_shr(64_u32.wrapping_sub(log2_slots as u32)) as u32;
    slot
}

/// Says what becomes of a frame, and rewrites it where the verdict is [`Verdict::Transmit`].
#[inline]
pub fn dispatch<F, T, H>(here: &Here, table: &T, hooks: &H, frame: &mut F) -> Verdict
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    match usual(here, table, frame) {
        Some(()) => Verdict::Transmit,
        None => any(here, table, hooks, frame),
    }
}

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

/// Rewrites both addresses, a word and a half.
#[inline]
fn address<F: Frame + ?Sized>(frame: &mut F, to: Mac, tag: Tag) -> bool {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, tag.mac());
    frame.write(0, [a, b, c, d, e, f, g, h]) && frame.write(8, [i, j, k, l])
}

/// The second half of [`dispatch`]: any frame at all. Out of the way of the usual one, which then needs no stack.
#[inline(never)]
pub fn any<F, T, H>(here: &Here, table: &T, hooks: &H, frame: &mut F) -> Verdict
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    match header::ethernet(frame) {
        Ok(ethernet) => {
            let head = table.head();
            let verdict = match ethernet.kind {
                IPV4 => v4(here, table, hooks, frame, &ethernet, &head),
                IPV6 => v6(here, table, hooks, frame, &ethernet, &head),
                ARP => neighbour::arp(here, &head, frame, &ethernet),
                _ => Ok(Verdict::Pass),
            };
            verdict.unwrap_or_else(Verdict::Drop)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// A packet for the cluster, ready to be routed.
struct Packet {
    inner: Inner,
    /// An IPv6 address in two halves, or an IPv4 one in the second: kernel targets keep bytes in memory, and may not read
    /// all of them there.
    client: [u64; 2],
    v6: bool,
    /// An ICMP error: `inner` is the packet it tells about, which the cluster sent.
    reverse: bool,
}

/// An IPv4 address, as a client's.
#[inline]
const fn halves_v4(address: [u8; 4]) -> [u64; 2] {
    [0, u32::from_be_bytes(address) as u64]
}

/// An IPv6 address, as a client's.
#[inline]
const fn halves_v6(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

/// A client's address, as a flow has it.
#[inline]
const fn whole([high, low]: [u64; 2]) -> [u8; 16] {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high.to_be_bytes(), low.to_be_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[inline]
fn v4<F, T, H>(
    here: &Here,
    table: &T,
    hooks: &H,
    frame: &mut F,
    ethernet: &Ethernet,
    head: &Head,
) -> Result<Verdict, Reason>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    let l3 = ethernet.l3;
    let ip = frame.read::<20>(l3).ok_or(Reason::Truncated)?;
    let [
        first,
        _,
        length_high,
        length_low,
        _,
        _,
        field_high,
        field_low,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = ip;
    if [d0, d1, d2, d3] != head.v4 || head.v4 == [0; 4] {
        return Ok(Verdict::Pass);
    }
    let header = (first & 15) as usize * 4;
    let length = be16(length_high, length_low) as usize;
    if first >> 4 != 4 || header < 20 || length < header {
        return Err(Reason::BadHeader);
    }
    if l3 + length > frame.size() {
        return Err(Reason::Truncated);
    }
    let fragment = be16(field_high, field_low) & 0x3fff != 0;
    let inner = Inner { protocol, l4: l3 + header, fragment };
    let mut packet = Packet { inner, client: halves_v4([s0, s1, s2, s3]), v6: false, reverse: false };
    if protocol == ICMP && !fragment {
        told_by_v4(frame, &mut packet, head);
    }
    route(here, table, hooks, frame, ethernet, head, packet)
}

/// An ICMP error (RFC 792) comes from any router; whose it is, is in the packet that it tells about.
#[inline]
fn told_by_v4<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, head: &Head) {
    let l4 = packet.inner.l4;
    let Some([3 | 4 | 5 | 11 | 12]) = frame.read::<1>(l4) else { return };
    let Some(ip) = frame.read::<20>(l4 + 8) else { return };
    let [first, _, _, _, _, _, high, low, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
    if first >> 4 != 4 || [s0, s1, s2, s3] != head.v4 {
        return;
    }
    let fragment = be16(high, low) & 0x3fff != 0;
    packet.inner = Inner { protocol, l4: l4 + 8 + (first & 15) as usize * 4, fragment };
    if !planted(Mutant::ErrorByRouter) {
        packet.client = halves_v4([d0, d1, d2, d3]);
    }
    packet.reverse = true;
}

#[inline]
fn v6<F, T, H>(
    here: &Here,
    table: &T,
    hooks: &H,
    frame: &mut F,
    ethernet: &Ethernet,
    head: &Head,
) -> Result<Verdict, Reason>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    let l3 = ethernet.l3;
    let [first, _, _, _, length_high, length_low, next, hops] = frame.read::<8>(l3).ok_or(Reason::Truncated)?;
    let source = frame.read::<16>(l3 + 8).ok_or(Reason::Truncated)?;
    let target = frame.read::<16>(l3 + 24).ok_or(Reason::Truncated)?;
    let length = be16(length_high, length_low) as usize;
    if head.v6 == [0; 16] {
        return Ok(Verdict::Pass);
    }
    if next == ICMPV6 && (hops == 255 || planted(Mutant::FarNeighbour)) {
        // Who has the address, and who claims it; sent to groups.
        if let Some(verdict) = neighbour::discovery(here, head, frame, ethernet, length) {
            return verdict;
        }
    }
    if target != head.v6 {
        return Ok(Verdict::Pass);
    }
    if first >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    if l3 + 40 + length > frame.size() {
        return Err(Reason::Truncated);
    }
    let mut inner = Inner { protocol: next, l4: l3 + 40, fragment: false };
    header::extensions(frame, &mut inner)?;
    let mut packet = Packet { inner, client: halves_v6(source), v6: true, reverse: false };
    if inner.protocol == ICMPV6 && !inner.fragment {
        told_by_v6(frame, &mut packet, head);
    }
    route(here, table, hooks, frame, ethernet, head, packet)
}

/// The same for `ICMPv6` (RFC 4443), whose errors are types 1 to 4.
#[inline]
fn told_by_v6<F: Frame + ?Sized>(frame: &F, packet: &mut Packet, head: &Head) {
    let told = packet.inner.l4 + 8;
    let Some([1..=4]) = frame.read::<1>(packet.inner.l4) else { return };
    let Some([first, _, _, _, _, _, next, _]) = frame.read::<8>(told) else { return };
    let Some(source) = frame.read::<16>(told + 8) else { return };
    let Some(target) = frame.read::<16>(told + 24) else { return };
    if first >> 4 != 6 || source != head.v6 {
        return;
    }
    // An error may carry less than all headers of the packet; its client is known all the same.
    packet.inner = Inner { protocol: next, l4: told + 40, fragment: false };
    if header::extensions(frame, &mut packet.inner).is_err() {
        packet.inner = Inner { protocol: NO_PROTOCOL, l4: 0, fragment: false };
    }
    packet.client = halves_v6(target);
    packet.reverse = true;
}

#[inline]
fn route<F, T, H>(
    here: &Here,
    table: &T,
    hooks: &H,
    frame: &mut F,
    ethernet: &Ethernet,
    head: &Head,
    packet: Packet,
) -> Result<Verdict, Reason>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    let packet = &Packet {
        inner: header::hidden(frame, packet.inner),
        client: packet.client,
        v6: frame.hide(packet.v6 as usize) != 0,
        reverse: frame.hide(packet.reverse as usize) != 0,
    };
    if ethernet.to != here.mac && ethernet.to != head.claim {
        return if ethernet.to[0] & 1 == 1 { Err(Reason::Group) } else { Ok(Verdict::Pass) };
    }
    let tag = Tag::of(ethernet.from);
    match tag {
        Some(tag) if tag.before(here.fence) && !planted(Mutant::StaleObeyed) => return Err(Reason::StaleEpoch),
        Some(_) => {}
        None => here.may()?,
    }
    let named = if head.key as u8 == Key::Quic as u8 { quic(table, hooks, frame, packet) } else { None };
    let slot = match named {
        Some(server) => Slot { server, former: NOBODY },
        None => table.slot(slot_of(hash(frame, head, packet)?, head.log2_slots)),
    };
    // A node that serves nothing has no place either: a slot without a server is not its own.
    if tag.is_none() && (slot.server != here.server || slot.server == NOBODY) {
        return send(table, frame, slot.server, here.tag());
    }
    // It is for this node, unless it belongs to a connection that another server has.
    let first = tag.unwrap_or(here.tag());
    if (first.hop < LAST_HOP || planted(Mutant::ThirdChance))
        && let Some((flow, begins)) = connection(frame, packet)
        && let Some(other) = elsewhere(here, slot, first.hop, begins)
        && !hooks.has_socket(&flow)
    {
        let hop = first.hop.wrapping_add(u8::from(!planted(Mutant::HopKept)));
        return send(table, frame, other, Tag { sender: here.id, hop, ..first });
    }
    Ok(Verdict::Local)
}

/// From here a frame goes nowhere: it was with the slot's server, the former one, and the one before or the slot's again.
const LAST_HOP: u8 = 2;

/// The other server that a connection of this slot may be with. A first segment is asked about where it could have been before,
/// for as long as it could, and comes back to the slot's server.
#[inline]
fn elsewhere(here: &Here, slot: Slot, hop: u8, begins: bool) -> Option<u16> {
    let former = if slot.former == here.server { NOBODY } else { slot.former };
    let other = if begins && slot.server == here.server {
        if hop < LAST_HOP && (here.fresh || planted(Mutant::SynMoved)) { former } else { NOBODY }
    } else if begins {
        if hop == 1 { slot.server } else { NOBODY }
    } else if former == NOBODY {
        slot.server
    } else {
        former
    };
    if other == here.server || other == NOBODY { None } else { Some(other) }
}

#[inline]
fn send<F, T>(table: &T, frame: &mut F, server: u16, tag: Tag) -> Result<Verdict, Reason>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
{
    let to = table.server(server).ok_or(Reason::NoServer)?;
    if address(frame, to, tag) { Ok(Verdict::Transmit) } else { Err(Reason::Runt) }
}

/// Whether a port could be in it.
#[inline]
fn has_ports(packet: &Packet) -> bool {
    (!packet.inner.fragment || planted(Mutant::FragmentPorts)) && matches!(packet.inner.protocol, TCP | UDP)
}

/// Client's and cluster's port of a packet that has ports, if they are not cut off.
#[inline]
fn ports<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<(u16, u16)> {
    let [a, b, c, d] = frame.read::<4>(packet.inner.l4)?;
    let (from, to) = (be16(a, b), be16(c, d));
    Some(if packet.reverse && !planted(Mutant::ErrorNotReversed) { (to, from) } else { (from, to) })
}

#[inline]
fn hash<F: Frame + ?Sized>(frame: &F, head: &Head, packet: &Packet) -> Result<u64, Reason> {
    let client = whole(packet.client);
    let [.., a, b, c, d] = client;
    let hash = if packet.v6 { hash_v6(head.seed, client) } else { hash_v4(head.seed, [a, b, c, d]) };
    if head.key as u8 == Key::Source as u8 || !has_ports(packet) {
        return Ok(hash);
    }
    let (client, cluster) = ports(frame, packet).ok_or(Reason::Truncated)?;
    Ok(with_ports(hash, client, cluster))
}

/// The connection of a TCP segment, or of an error about one, and whether it begins there: SYN without ACK.
#[inline]
fn connection<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<(Flow, bool)> {
    if packet.inner.protocol != TCP || packet.inner.fragment {
        return None;
    }
    let (port, cluster_port) = ports(frame, packet)?;
    let begins = if packet.reverse {
        false
    } else {
        let [flags] = frame.read::<1>(packet.inner.l4 + 13)?;
        flags & 0x12 == 0x02
    };
    Some((Flow { client: whole(packet.client), v6: packet.v6, port, cluster_port }, begins))
}

/// The server that a QUIC packet's destination connection id names (RFC 9000, section 17), if the table has it.
#[inline]
fn quic<F, T, H>(table: &T, hooks: &H, frame: &F, packet: &Packet) -> Option<u16>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    if packet.inner.protocol != UDP || packet.inner.fragment || packet.reverse {
        return None;
    }
    let payload = packet.inner.l4 + 8;
    let [first] = frame.read::<1>(payload)?;
    let id = if first & 0x80 == 0 {
        payload + 1
    } else {
        let [length] = frame.read::<1>(payload + 5)?;
        if length < 8 {
            return None;
        }
        payload + 6
    };
    let server = hooks.quic_server(frame.read::<8>(id)?)?;
    table.server(server).map(|_| server)
}
