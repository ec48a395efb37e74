//! From a frame to its verdict.

use crate::header::{self, ARP, Ethernet, ICMP, ICMPV6, IPV4, IPV6, Inner, NO_PROTOCOL, TCP, UDP, be16};
use crate::{
    Frame, Head, Key, Mac, NOBODY, Reason, Slot, Table, Tag, Verdict, hash_v4, hash_v6, neighbour, with_ports,
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
    /// The address of its port.
    pub mac: Mac,
}

impl Here {
    /// Whether this node may act as the dispatcher now.
    #[inline]
    pub(crate) const fn may(&self) -> Result<(), Reason> {
        if self.lease == 0 {
            Err(Reason::NotDispatcher)
        } else if self.now >= self.lease {
            Err(Reason::LeaseExpired)
        } else {
            Ok(())
        }
    }

    /// What this node signs a frame with that it sends on from a client.
    #[inline]
    const fn tag(&self) -> Tag {
        #[allow(clippy::cast_possible_truncation, reason = "a tag has the low bits")]
        let epoch = self.epoch as u16;
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
    /// Whether this node has a TCP socket for the flow. Asked for segments that do not begin a connection, only where
    /// another server could have it.
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
    if plain_v4(here, table, frame).is_some() {
        return Verdict::Transmit;
    }
    any(here, table, hooks, frame)
}

/// The usual case by itself: a whole IPv4 packet without options, from a client, for another server than this node. None,
/// and nothing written, for anything else: [`any`] has the same verdict for it, at three times the cost.
#[inline]
pub fn plain_v4<F, T>(here: &Here, table: &T, frame: &mut F) -> Option<()>
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
{
    if frame.size() < 34 {
        return None;
    }
    // In the order of memory: nothing is turned round only to be compared.
    let word = |at| frame.read::<8>(at).map(u64::from_le_bytes);
    let (addresses, start, middle, ends) = (word(0)?, word(12)?, word(20)?, word(26)?);
    let head = table.head();
    let [a, b, c, d, e, f] = here.mac;
    let own = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let cluster = u64::from(u32::from_le_bytes(head.v4)) << 32;
    // EtherType, version and header length; flags and fragment offset; both addresses.
    let other =
        ((start ^ 0x45_0008) & 0xff_ffff) | (middle & 0xff3f) | ((ends ^ cluster) >> 32) | ((addresses ^ own) << 16);
    #[allow(clippy::cast_possible_truncation, reason = "parts of words")]
    let (length, protocol, from) =
        (((start >> 32) as u16).swap_bytes(), (middle >> 24) as u8, (addresses >> 48) as u16);
    if other != 0
        || cluster == 0
        || from == Tag::MARK.swap_bytes()
        || protocol == ICMP
        || here.now >= here.lease
        || length < 20
        || length as usize + 14 > frame.size()
    {
        return None;
    }
    let [c0, c1, c2, c3, ..] = ends.to_le_bytes();
    let mut hash = hash_v4(head.seed, [c0, c1, c2, c3]);
    match head.key {
        Key::Source => {}
        Key::Ports if matches!(protocol, TCP | UDP) => {
            let [a, b, c, d] = frame.read::<4>(34)?;
            hash = with_ports(hash, be16(a, b), be16(c, d));
        }
        Key::Ports => {}
        Key::Quic => return None,
    }
    let server = table.slot(slot_of(hash, head.log2_slots)).server;
    if server == here.server {
        return None;
    }
    address(frame, table.server(server)?, here.tag()).then_some(())
}

/// Rewrites both addresses, a word and a half.
#[inline]
fn address<F: Frame + ?Sized>(frame: &mut F, to: Mac, tag: Tag) -> bool {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, tag.mac());
    frame.write(0, [a, b, c, d, e, f, g, h]) && frame.write(8, [i, j, k, l])
}

/// Any frame at all. Out of the way of the usual one, which then needs no stack.
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
    packet.client = halves_v4([d0, d1, d2, d3]);
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
    if next == ICMPV6 && hops == 255 {
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
        Some(tag) if tag.before(here.fence) => return Err(Reason::StaleEpoch),
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
    if tag.is_none_or(|tag| tag.hop == 0)
        && let Some(other) = elsewhere(here, slot)
        && let Some(flow) = connection(frame, packet)
        && !hooks.has_socket(&flow)
    {
        let first = tag.unwrap_or(here.tag());
        return send(table, frame, other, Tag { sender: here.id, hop: 1, ..first });
    }
    Ok(Verdict::Local)
}

/// The other server that a connection of this slot may be with.
#[inline]
const fn elsewhere(here: &Here, slot: Slot) -> Option<u16> {
    let other = if slot.former == here.server || slot.former == NOBODY { slot.server } else { slot.former };
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
const fn has_ports(packet: &Packet) -> bool {
    !packet.inner.fragment && matches!(packet.inner.protocol, TCP | UDP)
}

/// Client's and cluster's port of a packet that has ports, if they are not cut off.
#[inline]
fn ports<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<(u16, u16)> {
    let [a, b, c, d] = frame.read::<4>(packet.inner.l4)?;
    let (from, to) = (be16(a, b), be16(c, d));
    Some(if packet.reverse { (to, from) } else { (from, to) })
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

/// The connection of a TCP segment that does not begin one, or of an error about one.
#[inline]
fn connection<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<Flow> {
    if packet.inner.protocol != TCP || packet.inner.fragment {
        return None;
    }
    let (port, cluster_port) = ports(frame, packet)?;
    if !packet.reverse {
        let [flags] = frame.read::<1>(packet.inner.l4 + 13)?;
        // SYN without ACK begins one.
        if flags & 0x12 == 0x02 {
            return None;
        }
    }
    Some(Flow { client: whole(packet.client), v6: packet.v6, port, cluster_port })
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
