//! Who has the cluster's address: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861).

use crate::header::{self, ARP, Ethernet, ICMPV6, IPV6, be16};
use crate::mutant::planted;
use crate::{Frame, Head, Here, Mac, Mutant, Reason, Verdict};

/// Follows each announcement of ours in the frame's padding: which dispatcher, by which grant. Eighteen bytes:
/// `"APUS" | version 1 | dispatcher | epoch | sum`, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Number of the node that claims the address.
    pub id: u8,
    /// The epoch in which it holds it.
    pub epoch: u64,
}

impl Claim {
    const MARK: [u8; 5] = *b"APUS\x01";

    const fn sum(self) -> [u8; 4] {
        #[allow(clippy::cast_possible_truncation, reason = "half of a product")]
        let sum = ((self.epoch ^ ((self.id as u64) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        sum.to_be_bytes()
    }

    /// As bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 18] {
        let [a, b, c, d, e, f, g, h] = self.epoch.to_be_bytes();
        let [s, t, u, v] = self.sum();
        let [m, n, o, p, q] = Self::MARK;
        [m, n, o, p, q, self.id, a, b, c, d, e, f, g, h, s, t, u, v]
    }

    /// From bytes, if they are such a trailer.
    #[must_use]
    pub fn of(bytes: [u8; 18]) -> Option<Self> {
        let [m, n, o, p, q, id, a, b, c, d, e, f, g, h, s, t, u, v] = bytes;
        let claim = Self { id, epoch: u64::from_be_bytes([a, b, c, d, e, f, g, h]) };
        if [m, n, o, p, q] == Self::MARK && [s, t, u, v] == claim.sum() { Some(claim) } else { None }
    }

    /// The trailer of an announcement, for a frame that was dropped as a foreign claim.
    #[must_use]
    pub fn heard<F: Frame + ?Sized>(frame: &F) -> Option<Self> {
        let ethernet = header::ethernet(frame).ok()?;
        let packet = match ethernet.kind {
            ARP => 28,
            IPV6 => frame.read::<2>(ethernet.l3 + 4).map(|[high, low]| 40 + be16(high, low) as usize)?,
            _ => return None,
        };
        Self::of(frame.read(ethernet.l3 + packet)?)
    }
}

#[inline]
fn own_mac(here: &Here, head: &Head) -> Mac {
    if head.claim == [0; 6] { here.mac } else { head.claim }
}

/// Somebody claims the cluster's address with `mac`; its trailer, if any, is at `trailer`.
#[inline]
fn claimed<F: Frame + ?Sized>(here: &Here, head: &Head, frame: &F, mac: Mac, trailer: usize) -> Reason {
    match frame.read::<18>(trailer).and_then(Claim::of) {
        Some(claim) if claim.epoch < here.fence && !planted(Mutant::OldClaimOwn) => Reason::ForeignClaim,
        Some(_) => Reason::NotForUs,
        None if mac == own_mac(here, head) => Reason::NotForUs,
        None => Reason::ForeignClaim,
    }
}

/// An ARP packet: answered in place if it asks for the cluster's address and this node is the dispatcher.
#[inline]
pub(crate) fn arp<F: Frame + ?Sized>(
    here: &Here,
    head: &Head,
    frame: &mut F,
    ethernet: &Ethernet,
) -> Result<Verdict, Reason> {
    let l3 = ethernet.l3;
    let packet = frame.read::<28>(l3).ok_or(Reason::Truncated)?;
    let [h0, h1, p0, p1, hardware, protocol, o0, o1, ..] = packet;
    let [.., a, b, c, d, e, f, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] = packet;
    let (mac, sender, target) = ([a, b, c, d, e, f], [s0, s1, s2, s3], [t0, t1, t2, t3]);
    if [h0, h1, p0, p1, hardware, protocol] != [0, 1, 8, 0, 6, 4] || head.v4 == [0; 4] {
        return Ok(Verdict::Pass);
    }
    if sender == head.v4 {
        return Err(claimed(here, head, frame, mac, l3 + 28));
    }
    if target != head.v4 || be16(o0, o1) != 1 && !planted(Mutant::ArpAnswered) {
        return Ok(Verdict::Pass);
    }
    if here.may().is_err() && !planted(Mutant::ArpByAnyone) {
        return Err(Reason::NotForUs);
    }
    if a & 1 == 1 || mac == [0; 6] {
        return Err(Reason::BadNeighbour);
    }
    let own = own_mac(here, head);
    let [m, n, o, p, q, r] = own;
    let answer = [0, 2, m, n, o, p, q, r, t0, t1, t2, t3, a, b, c, d, e, f, s0, s1, s2, s3];
    if frame.write(l3 + 6, answer) && frame.write(0, [a, b, c, d, e, f, m, n, o, p, q, r]) {
        Ok(Verdict::Transmit)
    } else {
        Err(Reason::Truncated)
    }
}

/// A neighbour solicitation or advertisement about the cluster's address; none if it is neither. `length` is the IPv6
/// payload's.
#[inline]
pub(crate) fn discovery<F: Frame + ?Sized>(
    here: &Here,
    head: &Head,
    frame: &mut F,
    ethernet: &Ethernet,
    length: usize,
) -> Option<Result<Verdict, Reason>> {
    let l3 = ethernet.l3;
    let l4 = l3 + 40;
    let [kind @ (135 | 136), code] = frame.read::<2>(l4)? else { return None };
    if frame.read::<16>(l4 + 8)? != head.v6 {
        return None;
    }
    Some(if code != 0 || length < 24 {
        Err(Reason::BadNeighbour)
    } else if l4 + length > frame.size() {
        Err(Reason::Truncated)
    } else if kind == 136 {
        let mac = match frame.read::<8>(l4 + 24) {
            Some([2, 1, a, b, c, d, e, f]) if length >= 32 => [a, b, c, d, e, f],
            _ => ethernet.from,
        };
        Err(claimed(here, head, frame, mac, l4 + length))
    } else {
        solicited(here, head, frame, ethernet, length)
    })
}

#[inline]
fn solicited<F: Frame + ?Sized>(
    here: &Here,
    head: &Head,
    frame: &mut F,
    ethernet: &Ethernet,
    length: usize,
) -> Result<Verdict, Reason> {
    let l3 = ethernet.l3;
    let l4 = l3 + 40;
    let source = frame.read::<16>(l3 + 8).ok_or(Reason::Truncated)?;
    if source == [0; 16] && !planted(Mutant::ProbeAnswered) {
        // Another machine is about to take the address (RFC 4862, section 5.4). An announcement tells it not to.
        return Err(Reason::ForeignClaim);
    }
    if here.may().is_err() {
        return Err(Reason::NotForUs);
    }
    let asker = match frame.read::<8>(l4 + 24) {
        Some([1, 1, a, b, c, d, e, f]) if length >= 32 => [a, b, c, d, e, f],
        // Without its address only a question to this node alone can be answered: the frame says whom to.
        _ if ethernet.to[0] & 1 == 0 => ethernet.from,
        _ => return Err(Reason::BadNeighbour),
    };
    if asker[0] & 1 == 1 || source[0] == 0xff {
        return Err(Reason::BadNeighbour);
    }
    let own = own_mac(here, head);
    let [m, n, o, p, q, r] = own;
    let with_option = length >= 32;
    let [high, low] = if with_option { [0, 32] } else { [0, 24] };
    let option = [2, 1, m, n, o, p, q, r];
    // Solicited, override; this is no router.
    let header = advertisement(0x60, head.v6, source, if with_option { Some(option) } else { None });
    let [a, b, c, d, e, f] = asker;
    let done = frame.write(l3 + 4, [high, low])
        && frame.write(l3 + 8, head.v6)
        && frame.write(l3 + 24, source)
        && frame.write(l4, header)
        && (!with_option || frame.write(l4 + 24, option))
        && frame.write(0, [a, b, c, d, e, f, m, n, o, p, q, r]);
    if done { Ok(Verdict::Transmit) } else { Err(Reason::Truncated) }
}

/// The first eight bytes of an advertisement about `from`, also its sender, to `to`, with its checksum (RFC 4443, section 2.3).
#[inline]
fn advertisement(flags: u8, from: [u8; 16], to: [u8; 16], option: Option<[u8; 8]>) -> [u8; 8] {
    // The address is in the sum twice: as the sender and as what it is about.
    let mut sum = 2 * words(from) + words(to) + eight([136, 0, 0, 0, flags, 0, 0, 0]) + ICMPV6 as u64;
    sum += match option {
        Some(_) if planted(Mutant::SumWithoutOption) => 32,
        Some(option) => 32 + eight(option),
        None => 24,
    };
    for _ in 0..5 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[allow(clippy::cast_possible_truncation, reason = "it was folded to 16 bits")]
    let [high, low] = (!(sum as u16)).to_be_bytes();
    [136, 0, high, low, flags, 0, 0, 0]
}

/// Sixteen-bit words summed pairwise: congruent modulo 65,535.
#[inline]
const fn words(bytes: [u8; 16]) -> u64 {
    let all = u128::from_be_bytes(bytes);
    #[allow(clippy::cast_possible_truncation, reason = "quarters of it")]
    let (a, b, c, d) = ((all >> 96) as u32, (all >> 64) as u32, (all >> 32) as u32, all as u32);
    a as u64 + b as u64 + c as u64 + d as u64
}

#[inline]
const fn eight(bytes: [u8; 8]) -> u64 {
    let all = u64::from_be_bytes(bytes);
    (all >> 32) + (all & 0xffff_ffff)
}

/// How the cluster's address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Announcement {
    /// Gratuitous ARP, as a request.
    ArpRequest,
    /// Gratuitous ARP, as an answer: some systems believe only these.
    ArpReply,
    /// Unsolicited neighbour advertisement with the override flag, to all nodes.
    Neighbour,
}

impl Announcement {
    /// All of them, for a cluster with both addresses.
    pub const ALL: [Self; 3] = [Self::ArpRequest, Self::ArpReply, Self::Neighbour];
}

/// Most bytes of an announcement.
pub const ANNOUNCEMENT_BYTES: usize = 104;

/// Writes an announcement and returns its length; `None` for a family in which the cluster has no address.
pub fn announcement(
    into: &mut [u8; ANNOUNCEMENT_BYTES],
    form: Announcement,
    here: &Here,
    head: &Head,
) -> Option<usize> {
    let own = own_mac(here, head);
    let [m, n, o, p, q, r] = own;
    let trailer = Claim { id: here.id, epoch: here.epoch }.bytes();
    let frame: &mut [u8] = into;
    if form == Announcement::Neighbour {
        if head.v6 == [0; 16] {
            return None;
        }
        let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let [kind_high, kind_low] = IPV6.to_be_bytes();
        let option = [2, 1, m, n, o, p, q, r];
        let done = frame.write(0, [0x33, 0x33, 0, 0, 0, 1, m, n, o, p, q, r, kind_high, kind_low])
            && frame.write(14, [0x60, 0, 0, 0, 0, 32, ICMPV6, 255])
            && frame.write(22, head.v6)
            && frame.write(38, all_nodes)
            && frame.write(54, advertisement(0x20, head.v6, all_nodes, Some(option)))
            && frame.write(62, head.v6)
            && frame.write(78, option)
            && frame.write(86, trailer);
        return if done { Some(104) } else { None };
    }
    if head.v4 == [0; 4] {
        return None;
    }
    let [a, b, c, d] = head.v4;
    let [kind_high, kind_low] = ARP.to_be_bytes();
    // A request's target address is not yet known, an answer's is the announcer's own (RFC 5227, section 3).
    let (operation, target) = if form == Announcement::ArpRequest { (1, [0; 6]) } else { (2, own) };
    let done = frame.write(0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, m, n, o, p, q, r, kind_high, kind_low])
        && frame.write(14, [0, 1, 8, 0, 6, 4, 0, operation, m, n, o, p, q, r, a, b, c, d])
        && frame.write(32, target)
        && frame.write(38, head.v4)
        && frame.write(42, trailer);
    if done { Some(60) } else { None }
}
