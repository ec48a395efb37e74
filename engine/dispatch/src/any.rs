//! Any frame at all, from its headers to its verdict.

use crate::header::{self, ARP, Ethernet, ICMP, ICMPV6, IPV4, IPV6, Inner, NO_PROTOCOL, be16};
use crate::mutant::planted;
use crate::packet::{self, Packet, halves_v4, halves_v6};
use crate::{
    Frame, Head, Here, Hooks, Key, Mac, Mutant, NOBODY, Reason, Slot, Table, Tag, Verdict, neighbour, slot_of,
};

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
    let named = if head.key as u8 == Key::Quic as u8 { packet::quic(table, hooks, frame, packet) } else { None };
    let slot = match named {
        Some(server) => Slot { server, former: NOBODY },
        None => table.slot(slot_of(packet::hash(frame, head, packet)?, head.log2_slots)),
    };
    // A node that serves nothing has no place either: a slot without a server is not its own.
    if tag.is_none() && (slot.server != here.server || slot.server == NOBODY) {
        return send(table, frame, slot.server, here.tag());
    }
    // It is for this node, unless it belongs to a connection that another server has.
    let first = tag.unwrap_or(here.tag());
    if let Some((flow, begins)) = packet::connection(frame, packet)
        && let Some(other) = elsewhere(here, slot, first, begins)
        && !hooks.has_socket(&flow)
    {
        let hop = first.hop.wrapping_add(u8::from(!planted(Mutant::HopKept)));
        // A first segment on its way back says who asked.
        let sender = if begins && first.hop > 0 { first.sender } else { here.id };
        return send(table, frame, other?, Tag { sender, hop, ..first });
    }
    Ok(Verdict::Local)
}

/// The other server that a connection of this slot may be with. A frame was with the slot's server, the former one, and the one
/// before or the slot's again; from there it goes nowhere.
///
/// A first segment is asked about where its connection could have been before, for as long as it could, and comes back to the
/// slot's server that asked, which alone may begin one. Where the two do not agree whose the slot is, a table is on its way: a
/// connection that began now could be with a server that no table names, so the segment ends here and its client sends it again.
#[inline]
fn elsewhere(here: &Here, slot: Slot, Tag { sender, hop, .. }: Tag, begins: bool) -> Option<Result<u16, Reason>> {
    let own = slot.server == here.server;
    let former = if slot.former == here.server { NOBODY } else { slot.former };
    let other = match (begins, hop) {
        (true, 0) if own && (here.fresh || planted(Mutant::SynMoved)) => former,
        (true, 0) => NOBODY,
        (true, 1) if !own && slot.server != NOBODY => slot.server,
        (true, 1) if own && planted(Mutant::SynKept) => NOBODY,
        (true, 2) if own && (sender == here.id || planted(Mutant::SynThird)) => NOBODY,
        (true, _) => return Some(Err(Reason::Unsettled)),
        (false, hop) if hop > 1 && !planted(Mutant::ThirdChance) => NOBODY,
        (false, _) if former == NOBODY => slot.server,
        (false, _) => former,
    };
    if other == here.server || other == NOBODY { None } else { Some(Ok(other)) }
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

/// Puts this node's tag on a frame that it serves itself ([`Verdict::Local`]) and that has none yet, being straight from a
/// client: as if the dispatcher had sent it here. For a plane whose system lets in only what a dispatcher sent.
#[inline]
pub fn sign<F: Frame + ?Sized>(here: &Here, frame: &mut F) {
    let Some(from) = frame.read(6) else { return };
    if Tag::of(from).is_none() {
        frame.write(6, here.tag().mac());
    }
}

/// Rewrites both addresses, a word and a half.
#[inline]
fn address<F: Frame + ?Sized>(frame: &mut F, to: Mac, tag: Tag) -> bool {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, tag.mac());
    frame.write(0, [a, b, c, d, e, f, g, h]) && frame.write(8, [i, j, k, l])
}
