//! An authority, ports, nodes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apus_engine::{ClusterId, Incarnation, NodeId};
use apus_host::transport::{Book, Identity, Transport};
use apus_quic::{Authority, Limits, Name, NewKey, Quic, Trust, Why, transport_settings};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::net::Net;

pub(crate) const CLUSTER: ClusterId = ClusterId(7);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limited = async { timeout(Duration::from_secs(30), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

/// Runs a test in a process of its own, where nothing else takes memory.
pub(crate) fn alone(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os("APUS_ALONE").is_some() {
        return block_on(test);
    }
    let mut run = std::process::Command::new(std::env::current_exe().expect("it runs"));
    let out = run.args(["--exact", name, "--nocapture"]).env("APUS_ALONE", "1").output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

pub(crate) fn name(node: u16) -> Name {
    Name { cluster: CLUSTER, node: NodeId(node) }
}

/// Free ports of the loopback, as far as anybody can know.
pub(crate) fn addresses(many: u16) -> BTreeMap<NodeId, SocketAddr> {
    let sockets: Vec<_> = (0..many).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
    (0..many).zip(&sockets).map(|(node, socket)| (NodeId(node), socket.local_addr().expect("its address"))).collect()
}

pub(crate) fn authority() -> Authority {
    Authority::make(CLUSTER, SystemTime::now()).expect("randomness")
}

/// Certificate and key of `who`, issued at `from` for `life`.
pub(crate) fn issue(
    authority: &mut Authority,
    who: Name,
    from: SystemTime,
    life: Duration,
) -> (CertificateDer<'static>, NewKey) {
    let key = NewKey::make().expect("randomness");
    (authority.issue(who, key.public(), from, life).expect("it issues").der, key)
}

pub(crate) fn trust(authority: &mut Authority, node: u16) -> Arc<Trust> {
    let (certificate, key) = issue(authority, name(node), SystemTime::now(), DAY);
    let authorities = [authority.certificate().clone()];
    Trust::new(name(node), &authorities, certificate, key.pkcs8(), |_| {}).expect("a pair")
}

/// One end.
pub(crate) struct End {
    pub(crate) trust: Arc<Trust>,
    pub(crate) quic: Quic,
    pub(crate) transport: Transport<Quic>,
}

impl End {
    pub(crate) async fn start(book: &BTreeMap<NodeId, SocketAddr>, trust: Arc<Trust>, life: u32) -> Self {
        let me = trust.me().node;
        let shared = Book::from(book.clone());
        let quic = Quic::new(trust.clone(), shared.clone(), Limits::default());
        let identity = Identity { cluster: CLUSTER, me, incarnation: Incarnation(life) };
        // The port of an earlier life is free once its connections have said farewell.
        for _ in 0..60 {
            let settings = transport_settings();
            match Transport::start(quic.clone(), identity, book[&me], shared.clone(), settings).await {
                Ok(transport) => return Self { trust, quic, transport },
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("{} stays taken", book[&me]);
    }

    /// The same on a network in memory.
    pub(crate) async fn within(net: &Net, book: &BTreeMap<NodeId, SocketAddr>, trust: Arc<Trust>) -> Self {
        let (net, shared, me) = (net.clone(), Book::from(book.clone()), trust.me().node);
        let quic = Quic::new(trust.clone(), shared.clone(), Limits::default()).over(move |at| net.bind(at));
        let identity = Identity { cluster: CLUSTER, me, incarnation: Incarnation(1) };
        let transport = Transport::start(quic.clone(), identity, book[&me], shared, transport_settings()).await;
        Self { trust, quic, transport: transport.expect("a port") }
    }

    pub(crate) fn refused(&self, why: Why) -> u64 {
        self.trust.refused().get(&why).copied().unwrap_or_default()
    }
}

/// Sends until it comes, and says how long that took.
pub(crate) async fn reaches(from: &mut End, to: &mut End, what: &[u8]) -> Duration {
    let began = std::time::Instant::now();
    let whom = to.trust.me().node;
    loop {
        let _ = from.transport.send(whom, apus_engine::Lane::Probe, what.to_vec());
        let look = async { while to.transport.next().await.1 != what {} };
        // The sender's transport runs while the receiver is waited for: its tasks share the thread.
        if timeout(Duration::from_millis(50), look).await.is_ok() {
            return began.elapsed();
        }
    }
}
