//! What the headers of a packet say, as far as dispatch needs it.

use crate::{Frame, Mac, Reason};

pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// IPv6 extension headers that are followed.
const EXTENSIONS: usize = 6;
/// No header that a port could be in.
pub(crate) const NO_PROTOCOL: u8 = 59;

/// The Ethernet header.
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) kind: u16,
    /// Where the network header begins.
    pub(crate) l3: usize,
}

/// A packet within a packet, or the packet itself, up to its transport header.
#[derive(Clone, Copy)]
pub(crate) struct Inner {
    /// 59 where there is none.
    pub(crate) protocol: u8,
    /// Where it begins.
    pub(crate) l4: usize,
    /// It is not all of its packet.
    pub(crate) fragment: bool,
}

#[inline]
pub(crate) const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Reads the Ethernet header, with at most two VLAN tags.
#[inline]
pub(crate) fn ethernet<F: Frame + ?Sized>(frame: &F) -> Result<Ethernet, Reason> {
    let Some([t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, high, low]) = frame.read::<14>(0) else {
        return Err(Reason::Runt);
    };
    let mut kind = be16(high, low);
    let mut l3 = 14;
    if is_tag(kind) {
        for _ in 0..2 {
            let Some([high, low]) = frame.read::<2>(l3 + 2) else { return Err(Reason::Truncated) };
            kind = be16(high, low);
            l3 += 4;
            if !is_tag(kind) {
                break;
            }
        }
        if is_tag(kind) {
            return Err(Reason::TooManyTags);
        }
    }
    Ok(Ethernet { to: [t0, t1, t2, t3, t4, t5], from: [f0, f1, f2, f3, f4, f5], kind, l3 })
}

/// IEEE 802.1Q, 802.1ad, and what came before it.
#[inline]
const fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8 | 0x9100)
}

/// The same, without its history ([`Frame::hide`]).
#[inline]
pub(crate) fn hidden<F: Frame + ?Sized>(frame: &F, inner: Inner) -> Inner {
    #[allow(clippy::cast_possible_truncation, reason = "it was a byte")]
    let protocol = frame.hide(inner.protocol as usize) as u8;
    Inner { protocol, l4: frame.hide(inner.l4), fragment: frame.hide(inner.fragment as usize) != 0 }
}

/// Follows the extension headers of an IPv6 packet (RFC 8200, section 4), from the first in `inner` to what is behind the
/// last.
#[inline]
pub(crate) fn extensions<F: Frame + ?Sized>(frame: &F, inner: &mut Inner) -> Result<(), Reason> {
    for _ in 0..=EXTENSIONS {
        let length = match inner.protocol {
            // Hop by hop, routing, for the destination: in units of 8 bytes, the first not counted. Authentication: of 4, the first two not.
            0 | 43 | 60 | 51 | 44 => {
                let Some([next, units, high, low]) = frame.read::<4>(inner.l4) else { return Err(Reason::Truncated) };
                let was = inner.protocol;
                inner.protocol = next;
                match was {
                    51 => (units as usize + 2) * 4,
                    44 => {
                        let field = be16(high, low);
                        inner.fragment |= field & 0xfff9 != 0;
                        if field & 0xfff8 != 0 {
                            // What follows is from the middle of a packet.
                            inner.protocol = NO_PROTOCOL;
                        }
                        8
                    }
                    _ => (units as usize + 1) * 8,
                }
            }
            _ => return Ok(()),
        };
        inner.l4 += length;
        *inner = hidden(frame, *inner);
    }
    Err(Reason::TooManyHeaders)
}
