//! What is looked at before anything is kept: which datagrams may begin a connection, and how many.
//!
//! A flood of first packets costs its target as little as can be, and never at the price of a peer: the places in which they wait are
//! told apart by who may have sent them. Nothing is kept for a datagram, and nothing is answered.
//!
//! | an Initial packet | paced |
//! |---|---|
//! | from the very address of a peer, with a token that was made for this address | for that peer: who sends it received there |
//! | from the very address of a peer, to a connection of this node's choice | for that peer: answers to this node's own dials |
//! | from the very address of a peer, otherwise | for that peer |
//! | from elsewhere, with a token that was made for this address | all of them together |
//! | from elsewhere, otherwise | all of them together |
//!
//! An address is IP and port: programs beside a peer, on its machine, are elsewhere. Whoever can forge a peer's address can use up what
//! that peer has without a token, and not what it has with one; a token comes with each connection, and is good in later lives of who made it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::crypto::HandshakeTokenKey;
use quinn::{ConnectionId, ConnectionIdGenerator as _};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;

use crate::trust::Why;

/// Version 1 of QUIC, as it stands in long headers (RFC 9000 §15).
const QUIC_1: [u8; 4] = [0, 0, 0, 1];
/// Length of the connection numbers that a node gives itself.
const OWN: usize = 8;
/// A datagram with a client's first packet has at least so many bytes (RFC 9000 §14.1).
const LEAST_FIRST: usize = 1_200;

/// Longer than any token of ours.
pub(crate) const TOKEN: usize = 128;
/// The kind of a token that comes with a connection.
const CONNECTION: u8 = 1;

/// An IP as tokens have it.
fn laid_out(ip: IpAddr) -> ([u8; 17], usize) {
    let mut out = [0; 17];
    match ip {
        IpAddr::V4(v4) => {
            out[1..5].copy_from_slice(&v4.octets());
            (out, 5)
        }
        IpAddr::V6(v6) => {
            out[0] = 1;
            out[1..].copy_from_slice(&v6.octets());
            (out, 17)
        }
    }
}

/// So many a second, and a few of them at once (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    every: Duration,
    /// How far ahead of an even flow it may be.
    ahead: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// `rate` a second, `burst` of them at once.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let every = Duration::from_secs(1) / rate.max(1);
        Self { every, ahead: every * burst.saturating_sub(1), next: None }
    }

    /// Whether there is one more at `now`.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let next = self.next.map_or(now, |next| next.max(now));
        let may = next - now <= self.ahead;
        if may {
            self.next = Some(next + self.every);
        }
        may
    }
}

/// First packets a second, and how many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paces {
    /// From addresses that are no peer's, all together.
    pub strangers: (u32, u32),
    /// Of them, those whose senders have proved their addresses.
    pub proved: (u32, u32),
    /// From the address of one peer.
    pub peer: (u32, u32),
    /// From the address of one peer, with a token.
    pub known: (u32, u32),
    /// From the address of one peer, answering a dial.
    pub answers: (u32, u32),
}

impl Default for Paces {
    fn default() -> Self {
        // A dial that nothing answers sends seven packets in its second, and a node dials a peer once at a time.
        Self { strangers: (200, 20), proved: (400, 40), peer: (20, 8), known: (100, 20), answers: (200, 50) }
    }
}

/// What a datagram may be, by what anybody can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort<'d> {
    /// No QUIC of this version, or nothing that this node ever takes.
    Garbage,
    /// An Initial packet, to a number, with a token.
    Initial { to: &'d [u8], token: &'d [u8] },
    /// A Handshake or Retry packet.
    Long { to: &'d [u8] },
    /// A packet of a connection, or a stateless reset, which only peers send.
    Short { to: &'d [u8] },
}

/// A variable-length number (RFC 9000 §16), and what follows.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, _) = bytes.split_first()?;
    let (digits, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let number = digits.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let number = number & (u64::MAX >> 2 >> (64 - 8 * digits.len()));
    Some((usize::try_from(number).ok()?, rest))
}

/// A length of one byte, so many bytes, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    // Version 1 knows no longer connection numbers.
    (*length <= 20).then(|| rest.split_at_checked((*length).into()))?
}

impl<'d> Sort<'d> {
    fn of(datagram: &'d [u8]) -> Self {
        match datagram {
            // The fixed bit (RFC 9000 §17).
            [first, ..] if first & 0x40 == 0 => Self::Garbage,
            [first, rest @ ..] if first & 0x80 != 0 => Self::long(*first, rest).unwrap_or(Self::Garbage),
            [_, rest @ ..] if rest.len() >= 20 => Self::Short { to: &rest[..OWN] },
            _ => Self::Garbage,
        }
    }

    fn long(first: u8, rest: &'d [u8]) -> Option<Self> {
        let (to, rest) = counted(rest.strip_prefix(&QUIC_1)?)?;
        let (_, rest) = counted(rest)?;
        match first >> 4 & 3 {
            0 => {
                let (length, rest) = number(rest)?;
                let (token, _) = rest.split_at_checked(length)?;
                Some(Self::Initial { to, token })
            }
            // Nothing is ever taken before a handshake has ended (0-RTT).
            1 => None,
            _ => Some(Self::Long { to }),
        }
    }
}

struct Peer {
    first: Pace,
    known: Pace,
    answers: Pace,
}

struct Inner {
    strangers: Pace,
    proved: Pace,
    peers: BTreeMap<SocketAddr, Peer>,
}

/// The gate of one socket.
pub(crate) struct Gate {
    paces: Paces,
    inner: Mutex<Inner>,
    tokens: Arc<dyn HandshakeTokenKey>,
    seed: u64,
    own: HashedConnectionIdGenerator,
    /// Datagrams that were not let in.
    pub(crate) garbage: AtomicU64,
    pub(crate) flood: AtomicU64,
}

impl Gate {
    /// `secret` is known to nobody else, and the same in each life of a node.
    pub(crate) fn new(secret: &[u8; 32], paces: Paces) -> Arc<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let part = |what: &[u8]| hmac::sign(&key, what);
        let seed = part(b"apus numbers").as_ref().iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let salt = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"apus tokens");
        let pace = |(rate, burst)| Pace::new(rate, burst);
        let inner = Inner { strangers: pace(paces.strangers), proved: pace(paces.proved), peers: BTreeMap::new() };
        Arc::new(Self {
            paces,
            inner: Mutex::new(inner),
            tokens: Arc::new(salt.extract(part(b"apus tokens").as_ref())),
            seed,
            own: HashedConnectionIdGenerator::from_key(seed),
            garbage: AtomicU64::new(0),
            flood: AtomicU64::new(0),
        })
    }

    /// What the endpoint seals its tokens with.
    pub(crate) fn token_key(&self) -> Arc<dyn HandshakeTokenKey> {
        self.tokens.clone()
    }

    /// What the endpoint numbers its connections with.
    pub(crate) const fn numbers(&self) -> u64 {
        self.seed
    }

    /// Takes in where peers are now.
    pub(crate) fn know(&self, peers: impl IntoIterator<Item = SocketAddr>) {
        let mut inner = self.inner();
        let mut before = std::mem::take(&mut inner.peers);
        if planted!(NobodyKnown) {
            return;
        }
        let pace = |(rate, burst)| Pace::new(rate, burst);
        let fresh =
            || Peer { first: pace(self.paces.peer), known: pace(self.paces.known), answers: pace(self.paces.answers) };
        inner.peers = peers.into_iter().map(|at| (at, before.remove(&at).unwrap_or_else(fresh))).collect();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection number is one of this node's own choice.
    fn is_own(&self, number: &[u8]) -> bool {
        number.len() == OWN && self.own.validate(&ConnectionId::new(number)).is_ok()
    }

    /// Whether this node has made a token for who is at `from`.
    fn is_for(&self, token: &[u8], from: SocketAddr) -> bool {
        // As quinn lays out those of its Retry packets: sealed bytes, and sixteen that the key is drawn with. Were it to do otherwise, peers
        // would have the pace of strangers, and the tests of fail-overs under attack would fail.
        let Some((sealed, random)) = token.len().checked_sub(16).map(|at| token.split_at(at)) else { return false };
        if sealed.is_empty() || token.len() > TOKEN {
            return false;
        }
        let mut sealed = sealed.to_vec();
        let Ok(opened) = self.tokens.aead_from_hkdf(random).open(&mut sealed, &[]) else { return false };
        let Some((kind, rest)) = opened.split_first() else { return false };
        let (ip, length) = laid_out(from.ip());
        let Some(rest) = rest.strip_prefix(&ip[..length]) else { return false };
        // One of a Retry packet is for a port, too; one that came with a connection is for any.
        *kind == CONNECTION || *kind == 0 && rest.starts_with(&from.port().to_be_bytes())
    }

    /// A token for whoever is at `ip`, of the kind that comes with a connection.
    pub(crate) fn token(&self, ip: IpAddr) -> Vec<u8> {
        let (ip, length) = laid_out(ip);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut token = [&[CONNECTION][..], &ip[..length], &now.to_be_bytes()].concat();
        let mut random = [0; 16];
        // Without randomness, or unsealed, it is of no use, and does no harm.
        let _ = SystemRandom::new().fill(&mut random);
        let _ = self.tokens.aead_from_hkdf(&random).seal(&mut token, &[]);
        token.extend_from_slice(&random);
        token
    }

    /// Looks at a datagram: why it is not let in, if it is not.
    pub(crate) fn look(&self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), Why> {
        let (to, token) = match Sort::of(datagram) {
            Sort::Garbage => return Err(Why::Garbage),
            Sort::Short { to } | Sort::Long { to } if self.is_own(to) => return Ok(()),
            Sort::Short { .. } if self.inner().peers.contains_key(&from) => return Ok(()),
            Sort::Short { .. } | Sort::Long { .. } => return Err(Why::Garbage),
            Sort::Initial { to, token } => (to, token),
        };
        let own = self.is_own(to);
        if !own && datagram.len() < LEAST_FIRST {
            return Err(Why::Garbage);
        }
        let proved = !token.is_empty() && (self.is_for(token, from) || planted!(AnyToken));
        let mut inner = self.inner();
        let inner = &mut *inner;
        let pace = match (inner.peers.get_mut(&from), proved, own) {
            (Some(_), false, false) if planted!(PaceShared) => &mut inner.strangers,
            (Some(peer), true, _) => &mut peer.known,
            (Some(peer), false, true) => &mut peer.answers,
            (Some(peer), false, false) => &mut peer.first,
            (None, true, _) => &mut inner.proved,
            // Nobody there was ever dialled.
            (None, false, true) => return Err(Why::Garbage),
            (None, false, false) => &mut inner.strangers,
        };
        if pace.take(now) { Ok(()) } else { Err(Why::Flood) }
    }

    /// Looks at a datagram; one that is not let in is counted, and made into one that is dropped at its first byte.
    pub(crate) fn sift(&self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        let counter = match self.look(now, from, datagram) {
            Ok(()) => return,
            Err(Why::Flood) => &self.flood,
            Err(_) => &self.garbage,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(first) = datagram.first_mut() {
            *first = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use quinn::ConnectionIdGenerator as _;
    use quinn_proto::HashedConnectionIdGenerator;
    use tokio::time::Instant;

    use super::{Gate, Pace, Paces, Sort, number};
    use crate::trust::Why;

    const MS: Duration = Duration::from_millis(1);

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// An Initial packet to a number, with a token.
    fn initial(to: &[u8], token: &[u8]) -> Vec<u8> {
        let short = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
        let mut packet = vec![0xc3, 0, 0, 0, 1, short(to)];
        packet.extend_from_slice(to);
        packet.extend_from_slice(&[4, 1, 2, 3, 4, 0x40, short(token)]);
        packet.extend_from_slice(token);
        packet.resize(1_200, 7);
        packet
    }

    /// A token as quinn seals it.
    fn token(gate: &Gate, content: &[u8]) -> Vec<u8> {
        let mut sealed = content.to_vec();
        gate.token_key().aead_from_hkdf(&[9; 16]).seal(&mut sealed, &[]).expect("it seals");
        [&sealed[..], &[9; 16]].concat()
    }

    fn gate() -> std::sync::Arc<Gate> {
        Gate::new(&[5; 32], Paces::default())
    }

    #[test]
    fn a_pace_is_kept_over_any_second() {
        let began = Instant::now();
        let mut pace = Pace::new(20, 8);
        let taken = |pace: &mut Pace, from: u64| {
            (0..1_000).filter(|at| pace.take(began + Duration::from_millis(from + at))).count()
        };
        assert_eq!(taken(&mut pace, 0), 27, "eight at once, and one each 50 ms");
        assert_eq!(taken(&mut pace, 1_000), 20);
        assert_eq!((0..50).filter(|_| pace.take(began + Duration::from_secs(60))).count(), 8);
    }

    #[test]
    fn what_cannot_be_quic() {
        assert_eq!(Sort::of(&[0x40; 30]), Sort::Short { to: &[0x40; 8] });
        let initial = initial(&[1; 8], &[2; 40]);
        assert_eq!(Sort::of(&initial), Sort::Initial { to: &[1; 8], token: &[2; 40] });
        // Cut anywhere in its header it is none.
        assert!((0..6 + 8 + 5 + 2 + 40).all(|cut| Sort::of(&initial[..cut]) == Sort::Garbage));
        let changed = |at: usize, to: u8| {
            let mut packet = initial.clone();
            packet[at] = to;
            packet
        };
        assert_eq!(Sort::of(&changed(4, 2)), Sort::Garbage, "version 2");
        assert_eq!(Sort::of(&changed(5, 21)), Sort::Garbage, "a number of 21 bytes");
        assert_eq!(Sort::of(&changed(0, 0xd3)), Sort::Garbage, "0-RTT");
        assert_eq!(Sort::of(&changed(0, 0x83)), Sort::Garbage, "no fixed bit");
        for (kind, sort) in [(0xe3, "Handshake"), (0xf3, "Retry")] {
            assert_eq!(Sort::of(&changed(0, kind)), Sort::Long { to: &[1; 8] }, "{sort}");
        }
        for garbage in [&b""[..], b"GET / HTTP/1.1\r\n", &[0; 1_200], &[0xc0, 0, 0, 0, 1], &[0x40; 8]] {
            assert_eq!(Sort::of(garbage), Sort::Garbage);
        }
        for (bytes, is) in [(&[0x25][..], 37), (&[0x7b, 0xbd], 15_293), (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333)] {
            assert_eq!(number(bytes), Some((is, &[][..])), "RFC 9000 §A.1");
        }
        assert_eq!(number(&[0x7b]), None);
    }

    /// Each of a million floods is paced, and not at the expense of anybody else's place.
    #[test]
    fn a_flood_leaves_the_places_of_others() {
        let (gate, began) = (gate(), Instant::now());
        let (peer, beside, other) = (at("10.0.0.1:7400"), at("10.0.0.1:9999"), at("10.0.0.2:7400"));
        gate.know([peer, other]);
        let first = initial(&[1; 8], &[]);
        let mine = HashedConnectionIdGenerator::from_key(gate.numbers()).generate_cid();
        let answer = initial(&mine, &[]);
        let returns = initial(&[1; 8], &gate.token(peer.ip()));
        let mut let_in = [0_u32; 3];
        for step in 0..10_000_u64 {
            let now = began + Duration::from_micros(step * 100);
            // Strangers on the peer's own machine, strangers anywhere, and somebody who forges the other peer's address.
            let_in[0] += u32::from(gate.look(now, beside, &first).is_ok());
            let there = at("192.0.2.9:1").ip();
            let_in[1] +=
                u32::from(gate.look(now, (there, u16::try_from(step % 60_000).unwrap_or(1)).into(), &first).is_ok());
            let_in[2] += u32::from(gate.look(now, other, &first).is_ok());
            // What a peer sends on a dial, answers and dials again with a token: every one comes in.
            if step.is_multiple_of(2_000) {
                assert_eq!(gate.look(now, peer, &first), Ok(()));
                assert_eq!(gate.look(now, peer, &answer), Ok(()));
                assert_eq!(gate.look(now, peer, &returns), Ok(()));
                assert_eq!(gate.look(now, other, &answer), Ok(()));
            }
        }
        assert!(let_in[0] + let_in[1] <= 220 && let_in[2] <= 28, "{let_in:?}");
        // The forger has used up what the other peer has without a token; with one it comes in at once.
        let now = began + Duration::from_secs(1);
        let forged = (0..100).filter(|_| gate.look(now, other, &first).is_ok()).count();
        assert!(forged <= 8);
        assert_eq!(gate.look(now, other, &first), Err(Why::Flood));
        let returns = initial(&[1; 8], &gate.token(other.ip()));
        assert_eq!(gate.look(now, other, &returns), Ok(()));
    }

    #[test]
    fn a_token_is_good_where_it_was_made_for() {
        let gate = gate();
        let (v4, v6) = (at("10.0.0.1:7400"), at("[fd00::1]:7400"));
        let (of_v4, of_v6) = (gate.token(v4.ip()), gate.token(v6.ip()));
        assert_ne!(of_v4, gate.token(v4.ip()), "each is another");
        assert!(gate.is_for(&of_v4, v4) && gate.is_for(&of_v4, at("10.0.0.1:1")) && gate.is_for(&of_v6, v6));
        assert!(!gate.is_for(&of_v4, v6) && !gate.is_for(&of_v6, v4) && !gate.is_for(&of_v4, at("10.0.0.2:7400")));
        // A Retry packet's is for one port.
        let retry = token(&gate, &[0, 0, 10, 0, 0, 1, 0x1c, 0xe8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(gate.is_for(&retry, v4) && !gate.is_for(&retry, at("10.0.0.1:7401")));
        for at in 0..of_v4.len() {
            let mut damaged = of_v4.clone();
            damaged[at] ^= 1;
            assert!(!gate.is_for(&damaged, v4), "byte {at}");
            assert!(!gate.is_for(&of_v4[..at], v4), "cut at {at}");
        }
        assert!(!Gate::new(&[6; 32], Paces::default()).is_for(&of_v4, v4), "another node's");
    }

    #[test]
    fn what_is_not_let_in_is_garbage_afterwards() {
        let (gate, now) = (gate(), Instant::now());
        let (mut first, from) = (initial(&[1; 8], &[]), at("192.0.2.1:5"));
        let kept = first.clone();
        let let_in = (0..100).filter(|_| {
            first.clone_from(&kept);
            gate.sift(now, from, &mut first);
            first == kept
        });
        assert_eq!(let_in.count(), 20);
        assert_eq!((first[0], &first[1..]), (0, &kept[1..]));
        // A stranger cannot reach a connection of this node's choice, nor begin one with a short packet.
        let mine = HashedConnectionIdGenerator::from_key(gate.numbers()).generate_cid();
        assert_eq!(gate.look(now + 1_000 * MS, from, &initial(&mine, &[])), Err(Why::Garbage));
        assert_eq!(gate.look(now + 1_000 * MS, from, &kept[..1_199]), Err(Why::Garbage));
        // Only a peer says that a connection is gone, by a packet that looks like one of a connection.
        assert_eq!(gate.look(now, from, &[0x41; 40]), Err(Why::Garbage));
        assert_eq!(gate.look(now, from, &[&[0x41][..], &mine, &[7; 40]].concat()), Ok(()));
        gate.know([from]);
        assert_eq!(gate.look(now, from, &[0x41; 40]), Ok(()));
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((load(&gate.flood), load(&gate.garbage)), (80, 0));
    }
}
