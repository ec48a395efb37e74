//! A dispatcher of sixteen servers, and the frames that it gets.

use apus_dispatch::{Block, Head, Here, Key, Mac, Member, Members, NoHooks, Ready, Verdict, build};

const V4: [u8; 4] = [10, 0, 0, 100];
const V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const NOW: u64 = 1_000;

/// A dispatcher that lives for ever.
pub type Dispatcher = Ready<Block<'static>>;

const fn mac(server: u8) -> Mac {
    [2, 0, 0, 0, 1, server]
}

/// The node and its table, one by one.
///
/// # Panics
/// If the table is none.
#[must_use]
pub fn parts(key: Key) -> (Here, Block<'static>) {
    let member = |id: u8| Member { id: u64::from(id), mac: mac(id), weight: 10, draining: false };
    let members = Members::new((0..16).map(member)).expect("they can be told apart");
    let head = Head { epoch: 7, seed: 5, log2_slots: 12, key, v4: V4, v6: V6, claim: [0; 6] };
    let bytes = build(&head, &members, None).expect("a size that exists");
    let block = Block::new(bytes.leak()).expect("it is a table");
    (Here { now: NOW, lease: 2 * NOW, epoch: 7, fence: 7, server: 0, id: 0, fresh: false, mac: mac(0) }, block)
}

/// The node with its table made ready.
#[must_use]
pub fn dispatcher(key: Key) -> &'static Dispatcher {
    let (here, block) = parts(key);
    Box::leak(Box::new(Ready::new(&here, block)))
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&mac(0)[..], &[2, 0, 0, 0, 0xff, 1], &kind.to_be_bytes(), packet].concat()
}

fn ipv4(client: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let [high, low] = ((header + payload.len()) as u16).to_be_bytes();
    let start = [0x40 | (header / 4) as u8, 0, high, low, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, client];
    ethernet(0x0800, &[&start[..], &V4, options, payload].concat())
}

fn ipv6(client: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let start = [0x60, 0, 0, 0, high, low, next, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, client];
    ethernet(0x86dd, &[&start[..], &V6, payload].concat())
}

/// A frame of this kind that goes to another server.
///
/// # Panics
/// If there is no such kind.
#[must_use]
pub fn frame(key: Key, kind: &str) -> Vec<u8> {
    let segment = [&[3, 232, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0][..], &[0; 40]].concat();
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let make = |client: u8| match kind {
        "v4" => ipv4(client, &[], &segment),
        "v4_options" => ipv4(client, &[1; 8], &segment),
        "v6" => ipv6(client, 6, &segment),
        "v6_hop_by_hop" => ipv6(client, 0, &[options(6), segment.clone()].concat()),
        // Hop by hop, for the destination.
        "v6_two_headers" => ipv6(client, 0, &[options(60), options(6), segment.clone()].concat()),
        // And routing between them.
        "v6_three_headers" => ipv6(client, 0, &[options(43), options(60), options(6), segment.clone()].concat()),
        "v6_fragment" => ipv6(client, 44, &[&[6, 0, 0, 1, 0, 0, 0, 1][..], &segment].concat()),
        _ => panic!("no such kind of frame: {kind}"),
    };
    let ready = dispatcher(key);
    let other = |frame: &Vec<u8>| ready.dispatch(NOW, &NoHooks, &mut frame.clone()[..]) == Verdict::Transmit;
    (0..=255).map(make).find(other).expect("some client falls to another server")
}
