//! Each kind of frame has the verdict and the bytes it should have.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod bed;

use std::cell::RefCell;

use apus_dispatch::{
    Announcement, Block, BlockError, Claim, Flow, Here, Hooks, Key, NOBODY, NoHooks, Reason, Tag, Verdict,
    announcement, dispatch, hash_v4, hash_v6, slot_of, with_ports,
};
use bed::*;

const CLIENT: [u8; 4] = [192, 0, 2, 9];
const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn run(key: Key, here: &Here, hooks: &impl Hooks, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let bytes = table(key, [0; 6]);
    let block = Block::new(&bytes).expect("a good table");
    let mut after = frame.to_vec();
    let verdict = dispatch(here, &block, hooks, &mut after[..]);
    if verdict != Verdict::Transmit {
        assert_eq!(after, frame, "{verdict:?} changed the frame");
    }
    (verdict, after)
}

/// An IPv4 packet as the dispatcher, or another server, sends it on to a server.
fn sent_on(to: u16, epoch: u16, hop: u8, packet: &[u8]) -> Vec<u8> {
    ethernet(mac(to), Tag { sender: 0, epoch, hop }.mac(), 0x0800, packet)
}

fn verdict(frame: &[u8]) -> Verdict {
    run(Key::Source, &here(0), &NoHooks, frame).0
}

/// Where the dispatcher sent it.
fn server_of(key: Key, frame: &[u8]) -> u16 {
    match run(key, &here(0), &NoHooks, frame) {
        (Verdict::Local, _) => 0,
        (Verdict::Transmit, after) => {
            assert_eq!(after[12..], frame[12..], "more than the addresses changed");
            assert_eq!(Tag::of(after[6..12].try_into().expect("six bytes")), Some(Tag { sender: 0, epoch: 7, hop: 0 }));
            u16::from(after[5])
        }
        (other, _) => panic!("{other:?}"),
    }
}

fn expected(hash: u64) -> u16 {
    slot_of(hash, LOG2) as u16 % SERVERS
}

/// Client addresses that fall to a server.
fn client_of(server: u16, slots: std::ops::Range<u32>) -> [u8; 4] {
    let of = |n: u16| [192, 0, (n >> 8) as u8, n as u8];
    let fits = |client: &[u8; 4]| {
        let slot = slot_of(hash_v4(SEED, *client), LOG2);
        slot as u16 % SERVERS == server && slots.contains(&slot)
    };
    (0..=u16::MAX).map(of).find(fits).expect("some client falls to it")
}

#[test]
pub(crate) fn a_client_goes_to_the_server_of_its_slot_whatever_it_sends() {
    for n in 0..200_u8 {
        let client = [192, 0, 2, n];
        let wanted = expected(hash_v4(SEED, client));
        let packets = [
            ipv4(client, V4, 6, 0, &[], &tcp(1000, 80, SYN)),
            ipv4(client, V4, 17, 0, &[1; 4], &udp(1000, 53, b"x")),
            ipv4(client, V4, 17, 0x2000, &[], &udp(1000, 53, b"x")),
            ipv4(client, V4, 17, 0x0010, &[1; 40], b"rest"),
            ipv4(client, V4, 1, 0, &[], &[8, 0, 0, 0, 0, 0, 0, 0]),
            ipv4([10, 9, 9, 9], V4, 1, 0, &[], &icmp_error(3, &ipv4(V4, client, 6, 0, &[], &tcp(80, 1000, ACK)))),
            ipv4([10, 9, 9, 9], V4, 1, 0, &[], &icmp_error(11, &ipv4(V4, client, 17, 0x2000, &[1; 8], b"12345678"))),
        ];
        for packet in packets {
            let frame = to_dispatcher(0x0800, &packet);
            assert_eq!(server_of(Key::Source, &frame), wanted, "{frame:x?}");
            for tags in [&[0x8100_u16][..], &[0x88a8, 0x8100]] {
                assert_eq!(server_of(Key::Source, &vlan(&frame, tags)), wanted);
            }
        }
    }
}

#[test]
pub(crate) fn ipv6_goes_the_same_way_through_extension_headers_and_errors() {
    for n in 0..200_u8 {
        let mut client = CLIENT6;
        client[15] = n;
        let wanted = expected(hash_v6(SEED, client));
        let segment = tcp(1000, 80, SYN);
        let hop_by_hop = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[43, 1], &[0; 14], &[6, 0], &[0; 6], &segment].concat();
        let told = ipv6(V6, client, 60, 64, &[&[6, 0, 0, 0, 0, 0, 0, 0][..], &tcp(80, 1000, ACK)].concat());
        let packets = [
            ipv6(client, V6, 6, 64, &segment),
            ipv6(client, V6, 0, 64, &hop_by_hop),
            ipv6(client, V6, 44, 64, &[&[6, 0, 0, 1, 0, 0, 0, 1][..], &segment].concat()),
            ipv6(client, V6, 44, 64, &[6, 0, 1, 0, 0, 0, 0, 1, 9, 9]),
            ipv6(client, V6, 51, 64, &[&[6, 4, 0, 0][..], &[0; 20], &segment].concat()),
            ipv6(CLIENT6, V6, 58, 64, &icmp_error(2, &told)),
            ipv6(CLIENT6, V6, 58, 64, &icmp_error(1, &told[..48])),
        ];
        for packet in packets {
            assert_eq!(server_of(Key::Source, &to_dispatcher(0x86dd, &packet)), wanted, "{packet:x?}");
        }
    }
}

#[test]
pub(crate) fn with_ports_a_client_is_spread_but_its_fragments_and_errors_stay_together() {
    let mut seen = std::collections::BTreeSet::new();
    for port in 1_000..1_100 {
        let wanted = expected(with_ports(hash_v4(SEED, CLIENT), port, 80));
        let packets = [
            ipv4(CLIENT, V4, 6, 0, &[], &tcp(port, 80, SYN)),
            ipv4(CLIENT, V4, 6, 0, &[1; 12], &tcp(port, 80, ACK)),
            ipv4([10, 9, 9, 9], V4, 1, 0, &[], &icmp_error(3, &ipv4(V4, CLIENT, 6, 0, &[], &tcp(80, port, ACK)))),
        ];
        for packet in packets {
            assert_eq!(server_of(Key::Ports, &to_dispatcher(0x0800, &packet)), wanted);
        }
        seen.insert(wanted);
        for field in [0x2000, 0x0010] {
            let fragment = ipv4(CLIENT, V4, 17, field, &[], &udp(port, 53, b"x"));
            assert_eq!(server_of(Key::Ports, &to_dispatcher(0x0800, &fragment)), expected(hash_v4(SEED, CLIENT)));
        }
        let six = ipv6(CLIENT6, V6, 17, 64, &udp(port, 53, b""));
        assert_eq!(
            server_of(Key::Ports, &to_dispatcher(0x86dd, &six)),
            expected(with_ports(hash_v6(SEED, CLIENT6), port, 53))
        );
    }
    assert_eq!(seen.len(), 4);
}

#[test]
pub(crate) fn a_quic_packet_goes_to_the_server_that_its_connection_id_names() {
    let packet = |payload: &[u8]| to_dispatcher(0x0800, &ipv4(CLIENT, V4, 17, 0, &[], &udp(5000, 443, payload)));
    let by_ports = expected(with_ports(hash_v4(SEED, CLIENT), 5000, 443));
    for server in 0..4_u8 {
        let id = [0x20, 0, server, 1, 2, 3, 4, 5];
        let short = [&[0x40][..], &id].concat();
        let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id].concat();
        assert_eq!(server_of(Key::Quic, &packet(&short)), u16::from(server));
        assert_eq!(server_of(Key::Quic, &packet(&long)), u16::from(server));
        let unroutable = [&[0x40, 0xe0, 0, server][..], &[0; 5]].concat();
        let of_nobody = [&[0x40, 0x20, 1, server][..], &[0; 5]].concat();
        let short_id = [&[0xc0, 0, 0, 0, 1, 4][..], &id].concat();
        for payload in [&unroutable[..], &of_nobody, &short_id, b"x", b""] {
            assert_eq!(server_of(Key::Quic, &packet(payload)), by_ports);
        }
    }
}

#[test]
pub(crate) fn only_a_dispatcher_with_a_lease_dispatches() {
    let frame = to_dispatcher(0x0800, &ipv4(client_of(1, 0..64), V4, 6, 0, &[], &tcp(1, 80, SYN)));
    let at = |now, lease| run(Key::Source, &Here { now, lease, ..here(0) }, &NoHooks, &frame).0;
    assert_eq!(at(1_999, 2_000), Verdict::Transmit);
    assert_eq!(at(2_000, 2_000), Verdict::Drop(Reason::LeaseExpired));
    assert_eq!(at(0, 0), Verdict::Drop(Reason::NotDispatcher));
    assert_eq!(at(u64::MAX, u64::MAX), Verdict::Drop(Reason::LeaseExpired));
}

#[test]
pub(crate) fn a_server_takes_what_it_is_sent_and_refuses_an_earlier_epoch() {
    let client = client_of(1, 0..64);
    let from = |epoch, hop| {
        let packet = ipv4(client, V4, 6, 0, &[], &tcp(1, 80, ACK));
        sent_on(1, epoch, hop, &packet)
    };
    let at = |fence, epoch| run(Key::Source, &Here { fence, ..here(1) }, &NoHooks, &from(epoch, 0)).0;
    assert_eq!(at(7, 7), Verdict::Local);
    assert_eq!(at(7, 8), Verdict::Local);
    assert_eq!(at(7, 6), Verdict::Drop(Reason::StaleEpoch));
    // Sixteen bits go round.
    assert_eq!(at(0x1_0001, 0xffff), Verdict::Drop(Reason::StaleEpoch));
    assert_eq!(at(0xffff, 1), Verdict::Local);
}

/// A node whose sockets are known.
struct Sockets<'s> {
    own: &'s [u16],
    asked: RefCell<Vec<Flow>>,
}

impl Hooks for Sockets<'_> {
    fn has_socket(&self, flow: &Flow) -> bool {
        self.asked.borrow_mut().push(*flow);
        self.own.contains(&flow.port)
    }
}

#[test]
pub(crate) fn a_segment_without_a_socket_gets_a_second_chance_once() {
    let client = client_of(1, 0..32);
    let sockets = Sockets { own: &[1000], asked: RefCell::new(Vec::new()) };
    let sent = |port, flags, hop| {
        let packet = ipv4(client, V4, 6, 0, &[], &tcp(port, 80, flags));
        let frame = sent_on(1, 7, hop, &packet);
        run(Key::Source, &here(1), &sockets, &frame)
    };
    assert_eq!(sent(1000, ACK, 0).0, Verdict::Local);
    assert_eq!(sent(2000, SYN, 0).0, Verdict::Local, "a new connection is the server's own");
    let (verdict, after) = sent(2000, ACK, 0);
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(after[..6], mac(2), "not the former server");
    assert_eq!(after[6..12], Tag { sender: 1, epoch: 7, hop: 1 }.mac());
    assert_eq!(sent(2000, ACK | SYN, 0).0, Verdict::Transmit);
    // From another that had it before, this one sends it on once more, and that was all.
    let (verdict, after) = sent(2000, ACK, 1);
    assert_eq!((verdict, after[11]), (Verdict::Transmit, 2));
    assert_eq!(sent(2000, ACK, 2).0, Verdict::Local, "there is no further chance");
    let flow = sockets.asked.borrow()[1];
    assert_eq!((flow.v6, flow.port, flow.cluster_port, &flow.client[12..]), (false, 2000, 80, &client[..]));

    // The first segment, soon after slots have moved: sent a second time it may be the former server's.
    let first = |node: u16, fresh: bool, port, hop| {
        let packet = ipv4(client, V4, 6, 0, &[], &tcp(port, 80, SYN));
        let frame = ethernet(mac(node), Tag { sender: 1, epoch: 7, hop }.mac(), 0x0800, &packet);
        let (verdict, after) = run(Key::Source, &Here { fresh, ..here(node) }, &sockets, &frame);
        (verdict, after[5], after[11])
    };
    let back = |node: u16| {
        let packet = ipv4(client, V4, 6, 0, &[], &tcp(2000, 80, SYN));
        let frame = ethernet(mac(node), Tag { sender: 3, epoch: 7, hop: 1 }.mac(), 0x0800, &packet);
        run(Key::Source, &here(node), &sockets, &frame).1[8]
    };
    assert_eq!(back(2), 3, "it says who asked");
    let sent_to = |node: u16, hop| (Verdict::Transmit, mac(node)[5], hop);
    assert_eq!(first(1, true, 2000, 0), sent_to(2, 1));
    assert_eq!(first(2, true, 2000, 1), sent_to(1, 2), "who does not have it sends it back");
    assert_eq!(first(2, false, 2000, 1), sent_to(1, 2));
    let unsettled = Verdict::Drop(Reason::Unsettled);
    assert_eq!(first(1, true, 2000, 1).0, unsettled, "who asks has another table");
    assert_eq!(first(1, true, 1000, 1).0, Verdict::Local, "it is here, whatever the tables say");
    assert_eq!(first(1, true, 2000, 2).0, Verdict::Local, "the former server sent it back");
    let other = ethernet(
        mac(1),
        Tag { sender: 3, epoch: 7, hop: 2 }.mac(),
        0x0800,
        &ipv4(client, V4, 6, 0, &[], &tcp(2000, 80, SYN)),
    );
    assert_eq!(run(Key::Source, &here(1), &sockets, &other).0, unsettled, "another server asked");
    assert_eq!(first(2, true, 2000, 2).0, unsettled, "the former server sent it to whom it takes for its owner");
    assert_eq!(first(1, true, 2000, 3).0, unsettled, "nobody sends this");
    assert_eq!(first(2, true, 1000, 1).0, Verdict::Local, "it is the former server's");
    assert_eq!(first(1, true, 1000, 0).0, Verdict::Local, "it has come before");
    assert_eq!(first(2, true, 2000, 0).0, Verdict::Local, "by another's table");

    // An error about such a connection follows it.
    let error = icmp_error(3, &ipv4(V4, client, 6, 0, &[], &tcp(80, 2000, ACK)));
    let frame = sent_on(1, 7, 0, &ipv4([9; 4], V4, 1, 0, &[], &error));
    assert_eq!(run(Key::Source, &here(1), &sockets, &frame).0, Verdict::Transmit);
    // Without a former server there is nobody else.
    let client = client_of(1, 32..64);
    let frame = sent_on(1, 7, 0, &ipv4(client, V4, 6, 0, &[], &tcp(2000, 80, ACK)));
    assert_eq!(run(Key::Source, &here(1), &sockets, &frame).0, Verdict::Local);
    // A former server that is sent it by an older table sends it on to the one that has it now.
    let client = client_of(1, 0..32);
    let frame = sent_on(2, 7, 0, &ipv4(client, V4, 6, 0, &[], &tcp(2000, 80, ACK)));
    let (verdict, after) = run(Key::Source, &here(2), &sockets, &frame);
    assert_eq!((verdict, &after[..6]), (Verdict::Transmit, &mac(1)[..]));
    // The dispatcher is a server as well.
    let frame = to_dispatcher(0x0800, &ipv4(client_of(0, 0..32), V4, 6, 0, &[], &tcp(2000, 80, ACK)));
    let (verdict, after) = run(Key::Source, &here(0), &sockets, &frame);
    assert_eq!((verdict, &after[..6], after[11]), (Verdict::Transmit, &mac(1)[..], 1));
}

#[test]
pub(crate) fn what_is_not_for_the_cluster_passes() {
    let others = [
        to_dispatcher(0x0800, &ipv4(CLIENT, [10, 0, 0, 1], 6, 0, &[], &tcp(1, 80, SYN))),
        to_dispatcher(0x86dd, &ipv6(CLIENT6, CLIENT6, 6, 64, &tcp(1, 80, SYN))),
        to_dispatcher(0x88cc, b"lldp"),
        ethernet(mac(3), ROUTER, 0x0800, &ipv4(CLIENT, V4, 6, 0, &[], &tcp(1, 80, SYN))),
        arp(1, (ROUTER, CLIENT), ([0; 6], [10, 0, 0, 1])),
        arp(2, (ROUTER, CLIENT), (mac(0), V4)),
    ];
    for frame in others {
        assert_eq!(verdict(&frame), Verdict::Pass, "{frame:x?}");
    }
}

#[test]
pub(crate) fn bad_frames_are_dropped_with_their_reason() {
    let good = ipv4(CLIENT, V4, 6, 0, &[], &tcp(1, 80, SYN));
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        to_dispatcher(0x0800, &packet)
    };
    let frame = to_dispatcher(0x0800, &good);
    let six = |next, payload: &[u8]| to_dispatcher(0x86dd, &ipv6(CLIENT6, V6, next, 64, payload));
    let cases = [
        (Reason::Runt, frame[..13].to_vec()),
        (Reason::Truncated, frame[..33].to_vec()),
        (Reason::Truncated, frame[..50].to_vec()),
        (Reason::BadHeader, with(0, 0x55)),
        (Reason::BadHeader, with(0, 0x44)),
        (Reason::BadHeader, with(3, 19)),
        (Reason::Truncated, with(2, 1)),
        (Reason::TooManyTags, vlan(&frame, &[0x8100, 0x8100, 0x8100])),
        (Reason::Truncated, vlan(&frame, &[0x8100])[..16].to_vec()),
        (Reason::Group, ethernet([0xff; 6], ROUTER, 0x0800, &good)),
        (Reason::TooManyHeaders, six(0, &[[0; 8]; 8].concat())),
        (Reason::Truncated, six(60, &[6, 200, 0, 0, 0, 0, 0, 0, 60])[..60].to_vec()),
        (Reason::BadHeader, {
            let mut frame = six(6, &tcp(1, 80, SYN));
            frame[14] = 0x45;
            frame
        }),
    ];
    for (reason, frame) in cases {
        assert_eq!(verdict(&frame), Verdict::Drop(reason), "{frame:x?}");
    }
}

#[test]
pub(crate) fn the_dispatcher_alone_answers_who_has_the_address() {
    let question = arp(1, (ROUTER, CLIENT), ([0; 6], V4));
    let (verdict, answer) = run(Key::Source, &here(0), &NoHooks, &question);
    assert_eq!(verdict, Verdict::Transmit);
    let mut wanted = arp(2, (mac(0), V4), (ROUTER, CLIENT));
    wanted[..6].copy_from_slice(&ROUTER);
    assert_eq!(answer, wanted);
    assert_eq!(run(Key::Source, &here(1), &NoHooks, &question).0, Verdict::Drop(Reason::NotForUs));
    let late = Here { now: 2_000, ..here(0) };
    assert_eq!(run(Key::Source, &late, &NoHooks, &question).0, Verdict::Drop(Reason::NotForUs));
    let forged = arp(1, ([1, 0, 0, 0, 0, 1], CLIENT), ([0; 6], V4));
    assert_eq!(run(Key::Source, &here(0), &NoHooks, &forged).0, Verdict::Drop(Reason::BadNeighbour));

    let bytes = table(Key::Source, [0, 0, 0x5e, 0, 1, 7]);
    let block = Block::new(&bytes).expect("a good table");
    let mut frame = question;
    assert_eq!(dispatch(&here(0), &block, &NoHooks, &mut frame[..]), Verdict::Transmit);
    assert_eq!(frame[6..12], [0, 0, 0x5e, 0, 1, 7], "the claimed address is what is told");
}

fn solicitation(from: [u8; 16], option: bool, to: apus_dispatch::Mac) -> Vec<u8> {
    let mut payload = vec![135, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(V6);
    if option {
        payload.extend([1, 1]);
        payload.extend(ROUTER);
    }
    ethernet(to, ROUTER, 0x86dd, &ipv6(from, V6, 58, 255, &payload))
}

#[test]
pub(crate) fn a_neighbour_is_advertised_to_with_a_right_checksum() {
    let group = [0x33, 0x33, 0xff, 0, 1, 0];
    for (option, to) in [(true, group), (true, mac(0)), (false, mac(0))] {
        let question = solicitation(CLIENT6, option, to);
        let (verdict, answer) = run(Key::Source, &here(0), &NoHooks, &question);
        assert_eq!(verdict, Verdict::Transmit);
        assert_eq!((&answer[..6], &answer[6..12]), (&ROUTER[..], &mac(0)[..]));
        let packet = &answer[14..];
        assert_eq!((&packet[8..24], &packet[24..40]), (&V6[..], &CLIENT6[..]));
        assert_eq!((packet[40], packet[44], packet[7]), (136, 0x60, 255));
        assert_eq!(icmpv6_sum(packet), 0);
        if option {
            assert_eq!(packet[64..72], [&[2, 1][..], &mac(0)].concat());
        }
        assert_eq!(run(Key::Source, &here(1), &NoHooks, &question).0, Verdict::Drop(Reason::NotForUs));
    }
    let dropped = |frame: &[u8]| run(Key::Source, &here(0), &NoHooks, frame).0;
    assert_eq!(dropped(&solicitation(CLIENT6, false, group)), Verdict::Drop(Reason::BadNeighbour));
    assert_eq!(dropped(&solicitation([0; 16], false, group)), Verdict::Drop(Reason::ForeignClaim));
    let mut far = solicitation(CLIENT6, true, group);
    far[21] = 254;
    assert_eq!(dropped(&far), Verdict::Drop(Reason::Group), "from beyond a router");
}

#[test]
pub(crate) fn announcements_are_known_to_their_own_and_a_stale_or_foreign_claim_is_told() {
    let bytes = table(Key::Source, [0; 6]);
    let block = Block::new(&bytes).expect("a good table");
    let head = apus_dispatch::Table::head(&block);
    for form in Announcement::ALL {
        let mut buffer = [0; 104];
        let length = announcement(&mut buffer, form, &here(0), &head).expect("both families have an address");
        let frame = buffer[..length].to_vec();
        if form == Announcement::Neighbour {
            assert_eq!(icmpv6_sum(&frame[14..]), 0);
        }
        let at = |server, fence| run(Key::Source, &Here { fence, ..here(server) }, &NoHooks, &frame).0;
        assert_eq!(at(1, 7), Verdict::Drop(Reason::NotForUs));
        assert_eq!(at(0, 7), Verdict::Drop(Reason::NotForUs));
        assert_eq!(at(1, 8), Verdict::Drop(Reason::ForeignClaim), "of an earlier epoch");
        let mut foreign = frame.clone();
        foreign[length - 1] ^= 1;
        let at = |server| run(Key::Source, &here(server), &NoHooks, &foreign).0;
        assert_eq!(at(1), Verdict::Drop(Reason::ForeignClaim));
        assert_eq!(at(0), Verdict::Drop(Reason::NotForUs), "an echo of its own");
    }
    let claim = Claim { id: 3, epoch: 1 << 40 };
    assert_eq!(Claim::of(claim.bytes()), Some(claim));
}

#[test]
pub(crate) fn a_wrong_table_is_refused_with_its_reason() {
    let good = table(Key::Source, [0; 6]);
    let edited = |at: usize, byte: u8, sealed: bool| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        if sealed {
            seal(&mut bytes);
        }
        Block::new(&bytes).map(|_| ()).expect_err("it is wrong")
    };
    assert_eq!(edited(0, b'X', true), BlockError::Magic);
    assert_eq!(edited(32, 3, true), BlockError::Range);
    assert_eq!(edited(32, 21, true), BlockError::Range);
    assert_eq!(edited(33, 3, true), BlockError::Range);
    assert_eq!(edited(35, 0xff, true), BlockError::Range);
    assert_eq!(edited(34, 5, true), BlockError::Size { needed: good.len() + 8, there: good.len() });
    assert_eq!(edited(64, 1, false), BlockError::Checksum);
    assert_eq!(edited(64 + 2 * 5, 4, true), BlockError::Slot(5));
    assert_eq!(Block::new(&good[..63]).map(|_| ()), Err(BlockError::Size { needed: 64, there: 63 }));
    assert_eq!(Block::new(&[]).map(|_| ()), Err(BlockError::Magic));
    assert_eq!(Block::newer(&good, 7).map(|_| ()), Err(BlockError::Epoch { offered: 7, in_use: 7 }));
    assert!(Block::newer(&good, 6).is_ok());
    // Every single damaged bit is seen.
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Block::new(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
pub(crate) fn an_empty_slot_has_no_server() {
    let mut bytes = table(Key::Source, [0; 6]);
    bytes[64..64 + 128].fill(0xff);
    seal(&mut bytes);
    let block = Block::new(&bytes).expect("a good table");
    let mut frame = to_dispatcher(0x0800, &ipv4(CLIENT, V4, 6, 0, &[], &tcp(1, 80, SYN)));
    let verdict = dispatch(&here(0), &block, &NoHooks, &mut frame[..]);
    assert_eq!(verdict, Verdict::Drop(Reason::NoServer));
    assert_eq!(NOBODY, 0xffff);
}
