//! Peers that mean harm: each is refused and counted, and holds no memory.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apus_engine::{ClusterId, Lane, NodeId};
use apus_host::transport::{Frame, Hello, Sockets as _, VERSION};
use apus_quic::{Authority, Limits, Name, Quic, Trust, Why};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::common::{CLUSTER, DAY, End, addresses, alone, authority, block_on, issue, name, reaches, trust};

/// Stands between a node and those who believe that it is the node.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Nothing passes.
    pub(crate) cut: Rc<Cell<bool>>,
    /// Each datagram passes so many times, and old ones are sent again.
    pub(crate) replay: Rc<Cell<bool>>,
    pub(crate) replayed: Rc<Cell<u64>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn between(node: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = front.local_addr().expect("its address");
        let (cut, replay, replayed) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stop, again, count) = (cut.clone(), replay.clone(), replayed.clone());
        let task = tokio::task::spawn_local(async move {
            let mut client = None;
            let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
            let kept: RefCell<Vec<Vec<u8>>> = RefCell::default();
            loop {
                let (bytes, to, forwards) = tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        (&there[..length], node, true)
                    }
                    Ok((length, _)) = back.recv_from(&mut here) => {
                        let Some(client) = client else { continue };
                        (&here[..length], client, false)
                    }
                };
                if stop.get() {
                    continue;
                }
                let out = if forwards { &back } else { &front };
                let _ = out.send_to(bytes, to).await;
                if again.get() && forwards {
                    kept.borrow_mut().push(bytes.into());
                    let old: Vec<_> = kept.borrow().iter().rev().take(20).cloned().collect();
                    for datagram in old {
                        let _ = out.send_to(&datagram, to).await;
                        count.set(count.get() + 1);
                    }
                }
            }
        });
        Self { address, cut, replay, replayed, task }
    }
}

/// A node as `who`, by any authority, with any times.
fn stranger(
    by: &mut Authority,
    who: Name,
    believes: &CertificateDer<'static>,
    from: SystemTime,
    life: Duration,
) -> Arc<Trust> {
    let (certificate, key) = issue(by, who, from, life);
    Trust::new(who, std::slice::from_ref(believes), certificate, key.pkcs8(), |_| {}).expect("a pair")
}

/// Dials with somebody's certificate, and reports by how much each reason grew.
async fn knock(victim: &End, at: SocketAddr, as_whom: Arc<Trust>) -> Vec<(Why, u64)> {
    let before = victim.trust.refused();
    let me = as_whom.me().node;
    // The stranger may believe that the victim is of its own cluster: what counts is whom the victim believes.
    let book = [(victim.trust.me().node, at), (me, addresses(1)[&NodeId(0)])].into();
    let mut end = End::start(&book, as_whom, 1).await;
    for _ in 0..15 {
        let _ = end.transport.send(victim.trust.me().node, Lane::Probe, b"let me in".to_vec());
        sleep(Duration::from_millis(20)).await;
        if victim.trust.refused() != before {
            break;
        }
    }
    let now = victim.trust.refused();
    now.into_iter().filter(|(why, times)| before.get(why) != Some(times)).collect()
}

#[test]
fn certificates_that_are_refused() {
    block_on(async {
        let (book, mut good) = (addresses(4), authority());
        let at = book[&NodeId(1)];
        let of_one = trust(&mut good, 1);
        of_one.set_members([0, 1, 2].map(NodeId));
        let mut one = End::start(&book, of_one, 1).await;
        let known = good.certificate().clone();
        let now = SystemTime::now();
        let mut other = authority();
        let ago = now - 30 * DAY;
        let knocks = [
            (Why::UnknownAuthority, stranger(&mut other, name(0), &known, now, DAY)),
            (Why::Expired, stranger(&mut good, name(0), &known, ago, DAY)),
            (Why::NotYetValid, stranger(&mut good, name(0), &known, now + DAY, DAY)),
            (Why::NoMember, stranger(&mut good, name(3), &known, now, DAY)),
        ];
        for (why, whom) in knocks {
            let grown = knock(&one, at, whom).await;
            assert!(grown.len() == 1 && grown[0].0 == why, "{why:?}: {grown:?}");
        }
        // An operator has copied the authority of another cluster: its nodes are still no nodes of this one.
        let mut nine = Authority::make(ClusterId(9), now).expect("randomness");
        let (of_nine, _) = issue(&mut nine, Name { cluster: ClusterId(9), node: NodeId(0) }, now, DAY);
        let (own, key) = issue(&mut good, name(1), now, DAY);
        let both = [known.clone(), nine.certificate().clone()];
        let confused = Trust::new(name(1), &both, own, key.pkcs8(), |_| {}).expect("a pair");
        let judged = confused.judge(&of_nine, &[], rustls::pki_types::UnixTime::now(), webpki::KeyUsage::client_auth());
        assert_eq!(judged.map_err(|(why, _)| why), Err(Why::OtherCluster));
        // A revoked one, while it is connected and afterwards; a newer one of the same node is welcome.
        let of_two = trust(&mut good, 2);
        let mut two = End::start(&book, of_two.clone(), 1).await;
        reaches(&mut two, &mut one, b"good so far").await;
        one.trust.revoke(NodeId(2), apus_quic::serial(&of_two.own()).expect("a number"));
        timeout(Duration::from_secs(1), async {
            while !one.quic.connected().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("its connection is closed");
        drop(two);
        assert!(one.refused(Why::Revoked) == 1);
        let grown = knock(&one, at, of_two).await;
        assert!(grown.len() == 1 && grown[0].0 == Why::Revoked, "{grown:?}");
        let mut two = End::start(&addresses_with(&book, 2), trust(&mut good, 2), 2).await;
        reaches(&mut two, &mut one, b"a new certificate").await;
        // Somebody else's place: who is dialled as node 2 must be node 2.
        let mut moved = book.clone();
        moved.insert(NodeId(2), book[&NodeId(1)]);
        moved.insert(NodeId(0), addresses(1)[&NodeId(0)]);
        moved.remove(&NodeId(1));
        let mut zero = End::start(&moved, trust(&mut good, 0), 1).await;
        zero.transport.send(NodeId(2), Lane::Probe, b"who are you".to_vec()).expect("it fits");
        sleep(Duration::from_millis(200)).await;
        assert_eq!(zero.refused(Why::OtherNode), 1);
        assert_eq!(zero.quic.connected(), []);
    });
}

/// The same book, but for a node's own port: the one before it may not be free yet.
fn addresses_with(
    book: &std::collections::BTreeMap<NodeId, SocketAddr>,
    node: u16,
) -> std::collections::BTreeMap<NodeId, SocketAddr> {
    let mut book = book.clone();
    book.insert(NodeId(node), addresses(1)[&NodeId(0)]);
    book
}

/// A hello that names somebody else, an older wire version, a frame that is too long: from a member, over a good connection.
#[test]
fn a_member_that_lies_on_its_stream() {
    block_on(async {
        let (book, mut good) = (addresses(3), authority());
        let one = End::start(&book, trust(&mut good, 1), 1).await;
        let quic = Quic::new(trust(&mut good, 0), book.clone().into(), Limits::default());
        let datagrams = quic.datagrams(book[&NodeId(0)]).await.expect("bound");
        let pump = async {
            let mut buffer = [0; 2_000];
            loop {
                let _ = Quic::receive_from(&datagrams, &mut buffer).await;
            }
        };
        let talk = async {
            let good = Hello {
                version: VERSION,
                oldest: VERSION,
                cluster: CLUSTER,
                from: NodeId(0),
                to: NodeId(1),
                incarnation: apus_engine::Incarnation(1),
            };
            let mut refused = 0;
            for hello in [Hello { from: NodeId(2), ..good }, Hello { version: 0, oldest: 0, ..good }] {
                let mut stream = quic.connect(book[&NodeId(1)]).await.expect("a stream");
                let mut out = Vec::new();
                Frame::Hello(hello).put(&mut out);
                stream.write_all(&out).await.expect("it takes bytes");
                let mut answer = Vec::new();
                let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
                assert!(answer.len() > 9 && answer[8] == 3, "{answer:?}");
                refused += 1;
                assert_eq!(one.transport.counters().hellos_refused, refused);
            }
            // A frame of 4 GiB; then one byte at a time and never a whole hello.
            let mut stream = quic.connect(book[&NodeId(1)]).await.expect("a stream");
            stream.write_all(&[0xff; 64]).await.expect("it takes bytes");
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
            assert_eq!(one.transport.counters().bad_frames, 1);
            let mut slow = Vec::new();
            for _ in 0..20 {
                let open = timeout(Duration::from_millis(50), quic.connect(book[&NodeId(1)])).await;
                let Ok(Ok(mut stream)) = open else { break };
                let _ = stream.write_all(&[1]).await;
                slow.push(stream);
            }
            assert!(slow.len() <= 8, "{} streams of one peer", slow.len());
        };
        tokio::select! {
            () = talk => {}
            () = pump => {}
        }
    });
}

/// A recorded datagram is of no use, even at once and from the same place.
#[test]
fn a_replayed_datagram_is_dropped() {
    block_on(async {
        let (mut book, mut good) = (addresses(2), authority());
        let proxy = Proxy::between(book[&NodeId(1)]).await;
        let real = book.clone();
        book.insert(NodeId(1), proxy.address);
        let mut one = End::start(&book, trust(&mut good, 0), 1).await;
        let mut two = End::start(&real, trust(&mut good, 1), 1).await;
        reaches(&mut one, &mut two, b"connected").await;
        proxy.replay.set(true);
        for number in 0..100_u8 {
            one.transport.send(NodeId(1), Lane::Probe, vec![number]).expect("a probe fits");
            sleep(Duration::from_millis(1)).await;
        }
        let mut seen = Vec::new();
        while let Ok((_, packet)) = timeout(Duration::from_millis(300), two.transport.next()).await {
            if packet.len() == 1 {
                seen.push(packet[0]);
            }
        }
        assert!(proxy.replayed.get() > 1_000, "{}", proxy.replayed.get());
        let mut once = seen.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(seen.len(), once.len(), "some came twice");
        assert!(once.len() >= 95, "{} of 100 came", once.len());
    });
}

/// The first packet of a handshake, with random keys: as dear to a server as a stranger can make it.
pub(crate) fn first_packet(seed: u64) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend_from_slice(&seed.to_be_bytes());
    packet.extend_from_slice(&[8]);
    packet.extend_from_slice(&seed.to_le_bytes());
    packet.extend_from_slice(&[0, 0x44, 0x96]);
    packet.extend(
        (0..1_200 - packet.len()).map(|at| u8::try_from((seed.wrapping_mul(31) >> (at % 8)) & 255).unwrap_or(0)),
    );
    packet
}

/// Bytes that this process has resident.
pub(crate) fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    Some(pages * 4_096)
}

/// Garbage and handshakes that nobody means to finish, as fast as a thread can send them: peers do not notice, memory does not grow.
#[test]
fn a_flood_is_counted_and_forgotten() {
    alone("hostile::a_flood_is_counted_and_forgotten", async {
        let (book, mut good) = (addresses(2), authority());
        let at = book[&NodeId(1)];
        let mut one = End::start(&book, trust(&mut good, 0), 1).await;
        let mut two = End::start(&book, trust(&mut good, 1), 1).await;
        reaches(&mut one, &mut two, b"connected").await;
        let before = resident();
        let flood = std::thread::spawn(move || {
            let sockets: Vec<_> = (0..16).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
            for seed in 0..30_000_u64 {
                let socket = &sockets[usize::try_from(seed % 16).expect("small")];
                let _ = match seed % 3 {
                    0 => socket.send_to(b"\x16\x03\x01 what TLS over TCP begins with", at),
                    1 => socket.send_to(&first_packet(seed), at),
                    _ => socket.send_to(&[0x41; 600], at),
                };
            }
        });
        let mut worst = Duration::ZERO;
        while !flood.is_finished() {
            worst = worst.max(reaches(&mut one, &mut two, b"still here").await);
        }
        flood.join().expect("the flood ends");
        sleep(Duration::from_millis(1_100)).await;
        assert!(worst < Duration::from_secs(3), "a probe took {worst:?}");
        assert!(two.refused(Why::Garbage) > 100, "{:?}", two.trust.refused());
        assert!(two.quic.counters().accepted <= 3, "{:?}", two.quic.counters());
        if let (Some(before), Some(after)) = (before, resident()) {
            assert!(after.saturating_sub(before) < 16 << 20, "{before} bytes grew to {after}");
        }
    });
}

/// No certificate at all; a protocol that is not ours.
#[test]
fn who_has_no_certificate_is_refused() {
    use quinn::crypto::rustls::QuicClientConfig;
    block_on(async {
        let (book, mut good) = (addresses(2), authority());
        let two = End::start(&book, trust(&mut good, 1), 1).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(good.certificate().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a port");
        for (alpn, why) in [("apus/1", Why::Unreadable), ("apus/0", Why::HandshakeFailed), ("h3", Why::HandshakeFailed)]
        {
            tls.alpn_protocols = vec![alpn.into()];
            let config = QuicClientConfig::try_from(tls.clone()).expect("a configuration");
            let config = quinn::ClientConfig::new(Arc::new(config));
            let before = two.refused(why);
            let dialled =
                endpoint.connect_with(config, book[&NodeId(1)], &name(1).to_string()).expect("it dials").await;
            if let Ok(connection) = dialled {
                connection.closed().await;
            }
            sleep(Duration::from_millis(50)).await;
            assert_eq!(two.refused(why), before + 1, "{alpn}: {:?}", two.trust.refused());
        }
        assert_eq!(two.quic.connected(), []);
    });
}
