//! What connections promise.

use std::time::{Duration, SystemTime};

use apus_engine::{Lane, NodeId};
use apus_quic::{Trust, Why};
use tokio::time::{sleep, timeout};

use crate::common::{DAY, End, addresses, authority, block_on, issue, name, reaches, trust};
use crate::net::{Net, virtually};

/// Both ends dial at once and agree on one connection, which carries probes, long ones too, and log packets in order.
#[test]
fn one_connection_carries_all_lanes() {
    block_on(async {
        let (book, mut authority) = (addresses(2), authority());
        let mut one = End::start(&book, trust(&mut authority, 0), 1).await;
        let mut two = End::start(&book, trust(&mut authority, 1), 1).await;
        for (from, to) in [(&mut one, NodeId(1)), (&mut two, NodeId(0))] {
            from.transport.send(to, Lane::Probe, b"who is first".to_vec()).expect("a probe fits");
        }
        reaches(&mut one, &mut two, b"one").await;
        reaches(&mut two, &mut one, b"two").await;
        sleep(Duration::from_millis(300)).await;
        let (of_one, of_two) = (one.quic.counters(), two.quic.counters());
        let alive = |end: &apus_quic::Counters| end.dialled + end.accepted - end.ended;
        assert_eq!((alive(&of_one), alive(&of_two)), (1, 1), "{of_one:?} {of_two:?}");
        for (from, to) in [(&mut one, NodeId(1)), (&mut two, NodeId(0))] {
            from.transport.send(to, Lane::Probe, vec![9; 9_000]).expect("a long one too");
            for number in 0..200_u8 {
                from.transport.send(to, Lane::Log, vec![number; 1_000]).expect("room");
            }
        }
        for end in [&mut one, &mut two] {
            let (mut log, mut long) = (Vec::new(), 0);
            while log.len() < 200 || long < 1 {
                let (_, packet) = end.transport.next().await;
                match packet.len() {
                    1_000 => log.push(packet[0]),
                    9_000 => long += 1,
                    _ => {}
                }
            }
            assert!(log.iter().copied().eq(0..200), "out of order");
        }
        assert_eq!((one.quic.counters().long, two.quic.counters().long), (1, 1));
        assert_eq!((alive(&one.quic.counters()), one.transport.counters().dialled), (1, 1));
        assert_eq!(one.trust.refused().len() + two.trust.refused().len(), 0);
    });
}

/// A peer that lost its power and begins a new life is reached again before the silence is over: its new endpoint tells that the old
/// connection is gone.
#[test]
fn a_restarted_peer_is_reached_at_once() {
    block_on(async {
        let (mut book, mut authority) = (addresses(2), authority());
        let real = book.clone();
        let proxy = crate::hostile::Proxy::between(book[&NodeId(1)]).await;
        book.insert(NodeId(1), proxy.address);
        let mut one = End::start(&book, trust(&mut authority, 0), 1).await;
        let of_two = trust(&mut authority, 1);
        let mut two = End::start(&real, of_two.clone(), 1).await;
        reaches(&mut one, &mut two, b"first life").await;
        // Its farewell is not heard.
        proxy.cut.set(true);
        drop(two);
        let mut two = End::start(&real, of_two, 2).await;
        proxy.cut.set(false);
        let before = one.quic.counters();
        let took = reaches(&mut one, &mut two, b"second life").await;
        assert!(took < Duration::from_millis(1_300), "{took:?}");
        assert_eq!(one.quic.counters().dialled, before.dialled + 1);
    });
}

/// Silence of one that is spoken to ends a connection within two seconds and a little.
#[test]
fn a_silent_peer_is_noticed() {
    block_on(async {
        let (mut book, mut authority) = (addresses(3), authority());
        let proxy = crate::hostile::Proxy::between(book[&NodeId(1)]).await;
        let real = book.clone();
        book.insert(NodeId(1), proxy.address);
        let mut one = End::start(&book, trust(&mut authority, 0), 1).await;
        let mut two = End::start(&real, trust(&mut authority, 1), 1).await;
        reaches(&mut one, &mut two, b"hello").await;
        assert_eq!(one.quic.connected(), [NodeId(1)]);
        proxy.cut.set(true);
        timeout(Duration::from_millis(2_500), async {
            while !one.quic.connected().is_empty() {
                one.transport.send(NodeId(1), Lane::Probe, b"are you there".to_vec()).expect("it is known");
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the silence is noticed");
    });
}

/// An acknowledgement is the last word of an exchange, and nobody's silence: whenever a connection is looked at, it goes on.
#[test]
fn a_rest_after_an_exchange_is_no_silence() {
    virtually(async {
        let (book, mut authority) = (addresses(2), authority());
        let net = Net::new();
        let mut one = End::within(&net, &book, trust(&mut authority, 0)).await;
        let mut two = End::within(&net, &book, trust(&mut authority, 1)).await;
        reaches(&mut one, &mut two, b"hello").await;
        sleep(Duration::from_secs(3)).await;
        let before = [one.quic.counters(), two.quic.counters()].map(|counters| (counters.dialled, counters.ended));
        // Looks come every half second: each at another moment of an exchange, whose last packet is 25 ms late.
        for _ in 0..50 {
            one.transport.send(NodeId(1), Lane::Probe, b"you?".to_vec()).expect("room");
            assert_eq!(two.transport.next().await.1, b"you?");
            two.transport.send(NodeId(0), Lane::Probe, b"me".to_vec()).expect("room");
            assert_eq!(one.transport.next().await.1, b"me");
            sleep(Duration::from_millis(3_010)).await;
        }
        let after = [one.quic.counters(), two.quic.counters()].map(|counters| (counters.dialled, counters.ended));
        assert_eq!(after, before);
    });
}

/// New certificates by a new authority, step by step, while packets flow over connections that are made anew.
#[test]
fn authorities_change_without_a_stop() {
    block_on(async {
        let (book, mut old) = (addresses(2), authority());
        let mut one = End::start(&book, trust(&mut old, 0), 1).await;
        let mut two = End::start(&book, trust(&mut old, 1), 1).await;
        reaches(&mut one, &mut two, b"0").await;
        let mut new = authority();
        let (first, second) = (old.certificate().clone(), new.certificate().clone());
        let keys: Vec<_> = [0, 1].map(|node| issue(&mut new, name(node), SystemTime::now(), DAY)).into();
        let own = one.trust.own();
        assert_eq!(apus_quic::validity(&own).expect("times").to, apus_quic::validity(&keys[0].0).expect("times").to);
        // Install: both believe both. Only then: use. Then: remove.
        let old_keys: Vec<_> = [0, 1].map(|node| issue(&mut old, name(node), SystemTime::now(), DAY)).into();
        for (end, (certificate, key)) in [&one, &two].into_iter().zip(&old_keys) {
            end.trust.renew(&[first.clone(), second.clone()], certificate.clone(), key.pkcs8()).expect("a pair");
        }
        reaches(&mut two, &mut one, b"1").await;
        for (end, (certificate, key)) in [&one, &two].into_iter().zip(&keys) {
            end.trust.renew(&[first.clone(), second.clone()], certificate.clone(), key.pkcs8()).expect("a pair");
        }
        reaches(&mut one, &mut two, b"2").await;
        for (end, (certificate, key)) in [&one, &two].into_iter().zip(&keys) {
            end.trust.renew(std::slice::from_ref(&second), certificate.clone(), key.pkcs8()).expect("a pair");
        }
        // Connections of old certificates end now, new ones are made.
        sleep(Duration::from_millis(50)).await;
        let took = reaches(&mut two, &mut one, b"3").await;
        assert!(took < Duration::from_millis(1_500), "{took:?}");
        // And whoever still comes with an old one is refused.
        let (certificate, key) = &old_keys[1];
        let stale = Trust::new(name(1), &[first, second], certificate.clone(), key.pkcs8(), |_| {}).expect("a pair");
        drop(two);
        let mut two = End::start(&book, stale, 2).await;
        let before = one.refused(Why::UnknownAuthority);
        two.transport.send(NodeId(0), Lane::Probe, b"old".to_vec()).expect("it fits");
        let waits = async {
            while one.refused(Why::UnknownAuthority) == before {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(2), waits).await.expect("it is refused");
    });
}
