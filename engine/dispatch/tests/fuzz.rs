//! Random, structured and damaged frames: no panic, nothing changes but what may, and the verdict of a plain model.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

pub(crate) mod bed;

use apus_dispatch::{
    Block, Flow, Here, Hooks, Key, NOBODY, Ready, Reason, Table, Tag, Verdict, dispatch, dispatch_batch, hash_v4,
    hash_v6, slot_of, with_ports,
};
use bed::*;

/// Has the sockets of odd ports.
struct Odd;

impl Hooks for Odd {
    fn has_socket(&self, flow: &Flow) -> bool {
        flow.port % 2 == 1
    }
}

pub(crate) const CLIENTS: [[u8; 4]; 4] = [[192, 0, 2, 1], [192, 0, 2, 77], [198, 51, 100, 3], [10, 0, 0, 100]];

fn client6(random: &mut Random) -> [u8; 16] {
    let mut address = V6;
    address[0] = 0x20;
    address[15] = random.below(8) as u8;
    address
}

fn transport(random: &mut Random) -> (u8, Vec<u8>) {
    let (from, to) = (random.below(6) as u16 + 1000, random.pick(&[80, 443]));
    match random.below(4) {
        0 => (17, udp(from, to, &random.next().to_be_bytes())),
        1 => {
            let id = [0x20, 0, random.below(5) as u8, 0, 0, 0, 0, 0];
            let start: &[u8] = if random.below(2) == 0 { &[0x40] } else { &[0xc0, 0, 0, 0, 1, 8] };
            (17, udp(from, to, &[start, &id].concat()))
        }
        _ => (6, tcp(from, to, random.pick(&[SYN, ACK, SYN | ACK, 4, 0]))),
    }
}

fn reversed(random: &mut Random) -> (u8, Vec<u8>) {
    let (protocol, mut bytes) = transport(random);
    bytes.rotate_left(2);
    (protocol, bytes)
}

fn packet4(random: &mut Random) -> Vec<u8> {
    let client = random.pick(&CLIENTS);
    let to = if random.below(8) == 0 { [10, 0, 0, 1] } else { V4 };
    let field = random.pick(&[0, 0, 0, 0x4000, 0x2000, 0x0003]);
    let options = vec![1; 4 * random.pick(&[0, 0, 0, 1, 10])];
    if random.below(4) == 0 {
        let (protocol, bytes) = reversed(random);
        let told = ipv4(V4, client, protocol, field, &options, &bytes);
        let kind = random.pick(&[0, 3, 4, 5, 8, 11, 12]);
        return ipv4([10, 9, 9, 9], to, 1, random.pick(&[0, 0, 0, 0x2000]), &options, &icmp_error(kind, &told));
    }
    let (protocol, bytes) = transport(random);
    ipv4(client, to, protocol, field, &options, &bytes)
}

fn packet6(random: &mut Random) -> Vec<u8> {
    let client = client6(random);
    if random.below(6) == 0 {
        let mut payload = vec![random.pick(&[135, 136, 134]), random.pick(&[0, 0, 0, 1]), 0, 0, 0x20, 0, 0, 0];
        payload.extend(if random.below(4) == 0 { client } else { V6 });
        if random.below(2) == 0 {
            payload.extend([random.pick(&[1, 2]), 1]);
            payload.extend(ROUTER);
        }
        let from = random.pick(&[[0; 16], client, V6]);
        return ipv6(from, random.pick(&[V6, client]), 58, random.pick(&[255, 255, 64]), &payload);
    }
    let error = random.below(4) == 0;
    let (mut next, mut payload) = if error { reversed(random) } else { transport(random) };
    for _ in 0..random.below(9) {
        let kind = random.pick(&[0, 43, 60, 51, 44]);
        let mut header = vec![next, 0, 0, 0, 0, 0, 0, 0];
        match kind {
            51 => header[1] = 0,
            44 => header[2..4].copy_from_slice(&random.pick(&[0_u16, 1, 8]).to_be_bytes()),
            _ => {
                header[1] = random.below(2) as u8;
                header.extend(vec![0; 8 * header[1] as usize]);
            }
        }
        payload = [header, payload].concat();
        next = kind;
        if random.below(2) == 0 {
            break;
        }
    }
    if error {
        let told = ipv6(V6, client, next, 64, &payload);
        let kind = random.pick(&[0, 1, 2, 3, 4, 128]);
        return ipv6(client6(random), V6, 58, 64, &icmp_error(kind, &told));
    }
    ipv6(client, random.pick(&[V6, V6, V6, client]), next, 64, &payload)
}

pub(crate) fn frame(random: &mut Random) -> Vec<u8> {
    let to = random.pick(&[mac(0), mac(0), mac(0), mac(1), CLAIM, [0xff; 6], mac(9)]);
    let epoch = random.pick(&[6, 7, 7, 8]);
    let tag = Tag { sender: 1, epoch, hop: random.pick(&[0, 0, 1, 2]) }.mac();
    let from = random.pick(&[ROUTER, ROUTER, tag]);
    let mut frame = match random.below(8) {
        0 => {
            let sender =
                (random.pick(&[ROUTER, mac(0), CLAIM, [1; 6], [0; 6]]), random.pick(&[CLIENTS[0], V4, [0; 4]]));
            arp(random.pick(&[1, 1, 2, 3]), sender, ([0; 6], random.pick(&[V4, V4, [10, 0, 0, 1]])))
        }
        1..=4 => ethernet(to, from, 0x0800, &packet4(random)),
        _ => ethernet(to, from, 0x86dd, &packet6(random)),
    };
    match random.below(8) {
        0 => frame = vlan(&frame, &[0x8100]),
        1 => frame = vlan(&frame, &[0x88a8, 0x8100, 0x9100][..random.below(4) as usize]),
        _ => {}
    }
    match random.below(6) {
        0 => frame.truncate(random.below(frame.len() as u64 + 1) as usize),
        1 => {
            for _ in 0..=random.below(3) {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.next() as u8;
            }
        }
        2 => frame.extend(vec![0xa5; random.below(64) as usize]),
        _ => {}
    }
    frame
}

pub(crate) const CLAIM: apus_dispatch::Mac = [0, 0, 0x5e, 0, 1, 7];

pub(crate) fn situation(random: &mut Random) -> Here {
    let server = random.pick(&[0, 0, 1, NOBODY]);
    Here {
        now: 1_000,
        lease: random.pick(&[0, 500, 2_000, 2_000, 2_000]),
        epoch: 7,
        fence: random.pick(&[7, 7, 0, 9]),
        server,
        id: 0,
        fresh: random.pick(&[false, true]),
        mac: random.pick(&[mac(0), mac(0), mac(1)]),
    }
}

/// A table for each key, with the address of the dispatcher's own port and with another that goes with the cluster's.
pub(crate) fn tables() -> Vec<Vec<u8>> {
    [Key::Source, Key::Ports, Key::Quic]
        .into_iter()
        .flat_map(|key| [table(key, [0; 6]), table(key, CLAIM)])
        .map(|mut bytes| {
            // Nobody has the last four slots.
            bytes[64 + 2 * 60..64 + 2 * 64].fill(0xff);
            seal(&mut bytes);
            bytes
        })
        .collect()
}

#[test]
fn a_batch_has_the_verdicts_and_bytes_of_its_frames() {
    let mut random = Random(11);
    for bytes in tables() {
        let block = Block::new(&bytes).expect("a good table");
        for many in 0..200 {
            let here = situation(&mut random);
            let mut frames: Vec<_> = (0..many % 40).map(|_| frame(&mut random)).collect();
            let mut alone = frames.clone();
            let wanted: Vec<_> = alone.iter_mut().map(|frame| dispatch(&here, &block, &Odd, &mut frame[..])).collect();
            let mut verdicts = vec![Verdict::Pass; frames.len()];
            let mut batch: Vec<&mut [u8]> = frames.iter_mut().map(|frame| &mut frame[..]).collect();
            dispatch_batch(&here, &block, &Odd, &mut batch, &mut verdicts);
            assert_eq!((verdicts, frames), (wanted, alone), "{here:?}");
        }
    }
}

#[test]
pub(crate) fn damaged_frames_change_nothing_but_what_may_change() {
    let tables = tables();
    let blocks: Vec<_> = tables.iter().map(|bytes| Block::new(bytes).expect("a good table")).collect();
    let mut random = Random(1);
    let mut seen = std::collections::BTreeMap::<Verdict, u32>::new();
    for _ in 0..1_000_000 {
        let before = frame(&mut random);
        let here = situation(&mut random);
        let block = blocks[random.below(6) as usize];
        let mut after = before.clone();
        let verdict = dispatch(&here, &block, &Odd, &mut after[..]);
        *seen.entry(verdict).or_default() += 1;
        let mut again = before.clone();
        let ready = Ready::new(&Here { now: 0, ..here }, block).dispatch(here.now, &Odd, &mut again[..]);
        assert_eq!((ready, &again), (verdict, &after), "{here:?} {before:x?}");
        let (wanted, changed) = model(&here, &block, &before);
        assert_eq!(verdict, wanted, "{here:?} {before:x?}");
        if verdict != Verdict::Transmit {
            assert_eq!(after, before, "{verdict:?}");
        } else if let Some(addresses) = changed {
            assert_eq!(after[..12], addresses, "{here:?} {before:x?}");
            assert_eq!(after[12..], before[12..], "more than the addresses changed");
        } else {
            assert_eq!(after.len(), before.len());
        }
    }
    for verdict in [Verdict::Pass, Verdict::Local, Verdict::Transmit] {
        assert!(seen.get(&verdict).is_some_and(|many| *many > 10_000), "{verdict:?}: {seen:?}");
    }
    for reason in Reason::ALL {
        assert!(seen.get(&Verdict::Drop(*reason)).is_some_and(|many| *many > 50), "{reason:?}: {seen:?}");
    }
}

/// All lengths of a frame from 0 to 128 bytes, with every byte of its headers taking every value.
#[test]
pub(crate) fn every_short_frame_and_every_byte_of_a_header() {
    let bytes = table(Key::Ports, [0; 6]);
    let block = Block::new(&bytes).expect("a good table");
    let client = [192, 0, 2, 9];
    let client6 = [0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let four = to_dispatcher(0x0800, &ipv4(client, V4, 6, 0, &[1; 8], &[&tcp(1, 80, ACK)[..], &[0; 80]].concat()));
    let headers = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0], &tcp(1, 80, ACK), &[0; 80]].concat();
    let six = to_dispatcher(0x86dd, &ipv6(client6, V6, 0, 64, &headers));
    let told = icmp_error(3, &ipv4(V4, client, 6, 0, &[], &[&tcp(80, 1, ACK)[..], &[0; 80]].concat()));
    let error = to_dispatcher(0x0800, &ipv4([9; 4], V4, 1, 0, &[], &told));
    let mut question = vec![135, 0, 0, 0, 0, 0, 0, 0];
    question.extend(V6);
    question.extend([1, 1, 2, 0, 0, 0, 0xff, 1]);
    let solicitation = to_dispatcher(0x86dd, &ipv6(client6, V6, 58, 255, &[&question[..], &[0; 60]].concat()));
    let who_has = [&arp(1, (ROUTER, client), ([0; 6], V4))[..], &[0; 86]].concat();
    let mut runs = 0_u64;
    for whole in [four, six, error, solicitation, who_has] {
        let whole = [&whole[..], &[0; 128]].concat();
        for length in 0..=128 {
            for at in 0..length.min(96) {
                // Every value where a header says how long something is; some elsewhere.
                let step = if length % 32 == 0 { 1 } else { 61 };
                for value in (0..=255_u8).step_by(step) {
                    let mut before = whole[..length].to_vec();
                    before[at] = value;
                    let mut after = before.clone();
                    let verdict = dispatch(&here(0), &block, &Odd, &mut after[..]);
                    assert_eq!(verdict, model(&here(0), &block, &before).0, "{before:x?}");
                    assert!(verdict == Verdict::Transmit || after == before);
                    runs += 1;
                }
            }
        }
    }
    assert!(runs > 200_000, "{runs}");
}

/// The plainest thing that could be right: headers are cut off the front of a list one after the other. For packets that
/// are sent on it also says the twelve new bytes.
fn model(here: &Here, block: &Block<'_>, frame: &[u8]) -> (Verdict, Option<Vec<u8>>) {
    match try_model(here, block, frame) {
        Ok((verdict, bytes)) => (verdict, bytes),
        Err(reason) => (Verdict::Drop(reason), None),
    }
}

type Modelled = Result<(Verdict, Option<Vec<u8>>), Reason>;

const PASS: Modelled = Ok((Verdict::Pass, None));

fn cut(rest: &mut &[u8], bytes: usize) -> Result<Vec<u8>, Reason> {
    if rest.len() < bytes {
        return Err(Reason::Truncated);
    }
    let (head, tail) = rest.split_at(bytes);
    *rest = tail;
    Ok(head.to_vec())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte))
}

fn dispatcher(here: &Here) -> Result<(), Reason> {
    match here.lease {
        0 => Err(Reason::NotDispatcher),
        lease if lease <= here.now => Err(Reason::LeaseExpired),
        _ => Ok(()),
    }
}

fn try_model(here: &Here, block: &Block<'_>, frame: &[u8]) -> Modelled {
    let mut rest = frame;
    if frame.len() < 14 {
        return Err(Reason::Runt);
    }
    let addresses = cut(&mut rest, 12)?;
    let mut kind = number(&cut(&mut rest, 2)?);
    let mut tags = 0;
    while [0x8100, 0x88a8, 0x9100].contains(&kind) {
        tags += 1;
        if tags == 3 {
            return Err(Reason::TooManyTags);
        }
        kind = number(&cut(&mut rest, 4)?[2..]);
    }
    let head = block.head();
    let own = if head.claim == [0; 6] { here.mac } else { head.claim };
    match kind {
        0x0806 => {
            let arp = cut(&mut rest, 28)?;
            if arp[..6] != [0, 1, 8, 0, 6, 4] {
                return PASS;
            }
            if arp[14..18] == V4 {
                return Err(if arp[8..14] == own { Reason::NotForUs } else { Reason::ForeignClaim });
            }
            if arp[24..28] != V4 || arp[6..8] != [0, 1] {
                return PASS;
            }
            dispatcher(here).map_err(|_| Reason::NotForUs)?;
            if arp[8] % 2 == 1 || arp[8..14] == [0; 6] {
                return Err(Reason::BadNeighbour);
            }
            Ok((Verdict::Transmit, None))
        }
        0x0800 => {
            let size = rest.len();
            let whole = rest;
            let ip = cut(&mut rest, 20)?;
            if ip[16..20] != V4 {
                return PASS;
            }
            let (header, length) = (usize::from(ip[0] % 16) * 4, number(&ip[2..4]) as usize);
            if ip[0] / 16 != 4 || header < 20 || length < header {
                return Err(Reason::BadHeader);
            }
            if length > size {
                return Err(Reason::Truncated);
            }
            let fragment = number(&ip[6..8]) & 0x3fff > 0;
            let client = hash_v4(head.seed, ip[12..16].try_into().expect("four bytes"));
            let mut packet = Modelling { protocol: ip[9], fragment, client, l4: whole.get(header..), reverse: false };
            let inner = whole.get(header + 8..header + 28);
            if ip[9] == 1
                && !fragment
                && let (Some([3 | 4 | 5 | 11 | 12, ..]), Some(ip)) = (whole.get(header..), inner)
                && ip[0] / 16 == 4
                && ip[12..16] == V4
            {
                packet = Modelling {
                    protocol: ip[9],
                    fragment: number(&ip[6..8]) & 0x3fff > 0,
                    client: hash_v4(head.seed, ip[16..20].try_into().expect("four bytes")),
                    l4: whole.get(header + 8 + usize::from(ip[0] % 16) * 4..),
                    reverse: true,
                };
            }
            packet.route(here, block, &addresses)
        }
        0x86dd => {
            let size = rest.len();
            let ip = cut(&mut rest, 40)?;
            let (length, next) = (number(&ip[4..6]) as usize, ip[6]);
            if next == 58
                && ip[7] == 255
                && let Some(icmp) = rest.get(..24)
                && [135, 136].contains(&icmp[0])
                && icmp[8..24] == V6
            {
                return neighbour(here, own, &addresses, &ip, rest);
            }
            if ip[24..40] != V6 {
                return PASS;
            }
            if ip[0] / 16 != 6 {
                return Err(Reason::BadHeader);
            }
            if 40 + length > size {
                return Err(Reason::Truncated);
            }
            let client = |bytes: &[u8]| hash_v6(head.seed, bytes.try_into().expect("sixteen bytes"));
            let (protocol, fragment, l4) = follow(next, rest)?;
            let mut packet = Modelling { protocol, fragment, client: client(&ip[8..24]), l4: Some(l4), reverse: false };
            if protocol == 58
                && !fragment
                && let Some(told) = l4.get(8..).filter(|told| told.len() >= 40)
                && (1..=4).contains(&l4[0])
                && told[0] / 16 == 6
                && told[8..24] == V6
            {
                let (protocol, fragment, l4) = follow(told[6], &told[40..]).unwrap_or((59, false, &[]));
                packet = Modelling { protocol, fragment, client: client(&told[24..40]), l4: Some(l4), reverse: true };
            }
            packet.route(here, block, &addresses)
        }
        _ => PASS,
    }
}

fn follow(mut next: u8, mut rest: &[u8]) -> Result<(u8, bool, &[u8]), Reason> {
    let mut fragment = false;
    for _ in 0..7 {
        let length = match next {
            0 | 43 | 60 => 8 * (usize::from(*rest.get(1).ok_or(Reason::Truncated)?) + 1),
            51 => 4 * (usize::from(*rest.get(1).ok_or(Reason::Truncated)?) + 2),
            44 => 8,
            _ => return Ok((next, fragment, rest)),
        };
        let header = rest.get(..4).ok_or(Reason::Truncated)?;
        let was = next;
        next = header[0];
        if was == 44 {
            let field = number(&header[2..4]);
            fragment |= field % 2 == 1 || field / 8 > 0;
            if field / 8 > 0 {
                next = 59;
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Err(Reason::TooManyHeaders)
}

fn neighbour(here: &Here, own: [u8; 6], addresses: &[u8], ip: &[u8], icmp: &[u8]) -> Modelled {
    let length = number(&ip[4..6]) as usize;
    if icmp[1] != 0 || length < 24 {
        return Err(Reason::BadNeighbour);
    }
    if length > icmp.len() {
        return Err(Reason::Truncated);
    }
    let option = |kind: u8| icmp.get(24..32).filter(|option| length >= 32 && option[..2] == [kind, 1]);
    if icmp[0] == 136 {
        let mac = option(2).map_or(&addresses[6..12], |option| &option[2..]);
        return Err(if mac == own { Reason::NotForUs } else { Reason::ForeignClaim });
    }
    if ip[8..24] == [0; 16] {
        return Err(Reason::ForeignClaim);
    }
    dispatcher(here).map_err(|_| Reason::NotForUs)?;
    let asker = match option(1) {
        Some(option) => &option[2..],
        None if addresses[0].is_multiple_of(2) => &addresses[6..12],
        None => return Err(Reason::BadNeighbour),
    };
    if asker[0] % 2 == 1 || ip[8] == 0xff {
        return Err(Reason::BadNeighbour);
    }
    Ok((Verdict::Transmit, None))
}

struct Modelling<'f> {
    protocol: u8,
    fragment: bool,
    client: u64,
    l4: Option<&'f [u8]>,
    reverse: bool,
}

impl Modelling<'_> {
    fn ports(&self) -> Result<Option<(u16, u16)>, Reason> {
        if self.fragment || ![6, 17].contains(&self.protocol) {
            return Ok(None);
        }
        let bytes = self.l4.and_then(|l4| l4.get(..4)).ok_or(Reason::Truncated)?;
        let (a, b) = (number(&bytes[..2]) as u16, number(&bytes[2..]) as u16);
        Ok(Some(if self.reverse { (b, a) } else { (a, b) }))
    }

    fn route(&self, here: &Here, block: &Block<'_>, addresses: &[u8]) -> Modelled {
        let head = block.head();
        if addresses[..6] != here.mac && addresses[..6] != head.claim {
            return if addresses[0] % 2 == 1 { Err(Reason::Group) } else { PASS };
        }
        let tagged = addresses[6..8] == [0x52, 0x41];
        let epoch = number(&addresses[9..11]) as u16;
        if !tagged {
            dispatcher(here)?;
        } else if (epoch.wrapping_sub(here.fence as u16) as i16) < 0 {
            return Err(Reason::StaleEpoch);
        }
        let mut named = None;
        if head.key == Key::Quic
            && self.protocol == 17
            && !self.fragment
            && !self.reverse
            && let Some(quic) = self.l4.and_then(|l4| l4.get(8..))
            && let Some(first) = quic.first()
        {
            let id = if *first < 0x80 {
                quic.get(1..9)
            } else {
                quic.get(5).filter(|length| **length >= 8).and_then(|_| quic.get(6..14))
            };
            named = id.filter(|id| id[0] < 0xe0).map(|id| number(&id[1..3]) as u16).filter(|server| *server < SERVERS);
        }
        let (server, former) = if let Some(server) = named {
            (server, NOBODY)
        } else {
            let mut hash = self.client;
            if head.key != Key::Source
                && let Some((client, cluster)) = self.ports()?
            {
                hash = with_ports(hash, client, cluster);
            }
            let slot = block.slot(slot_of(hash, head.log2_slots));
            (slot.server, slot.former)
        };
        let send_for = |sender: u8, to: u16, epoch: u16, hop: u8| {
            let tag = Tag { sender, epoch, hop }.mac();
            let mac = block.server(to).ok_or(Reason::NoServer)?;
            Ok((Verdict::Transmit, Some([mac, tag].concat())))
        };
        let send = |to, epoch, hop| send_for(here.id, to, epoch, hop);
        if !tagged && (server != here.server || server == NOBODY) {
            return send(server, here.epoch as u16, 0);
        }
        let hop = if tagged { addresses[11] } else { 0 };
        let flags = self.l4.and_then(|l4| l4.get(13)).copied();
        let begins = !self.reverse && flags.is_some_and(|flags| flags & 0x12 == 2);
        let one_of = |servers: [u16; 2]| servers.into_iter().find(|server| ![here.server, NOBODY].contains(server));
        let other = match (begins, server == here.server, hop) {
            (false, _, 0 | 1) => one_of([former, server]).map(Ok),
            (true, true, 0) if here.fresh => one_of([former, NOBODY]).map(Ok),
            (true, false, 1) if server != NOBODY => Some(Ok(server)),
            (true, true, 2) if addresses[8] == here.id => None,
            (false, ..) | (true, _, 0) => None,
            (true, ..) => Some(Err(Reason::Unsettled)),
        };
        if let Some(other) = other
            && self.protocol == 6
            && let Ok(Some((port, _))) = self.ports()
            && port % 2 == 0
            && (self.reverse || flags.is_some())
        {
            let asks = if begins && hop > 0 { addresses[8] } else { here.id };
            return send_for(asks, other?, if tagged { epoch } else { here.epoch as u16 }, hop + 1);
        }
        Ok((Verdict::Local, None))
    }
}
