//! The host's sockets over QUIC.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use apus_engine::NodeId;
use apus_host::transport::{self, Book, Sockets};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    RecvStream, Runtime, SendDatagramError, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::gate::{Gate, Pace, Paces, TOKEN};
use crate::link::{Close, Peer, close};
use crate::name::Name;
use crate::places::{Place, Places};
use crate::trust::{Own, Trust, Verifier, Why};
use crate::udp::{self, Counting};

/// What both ends must speak; a change that old nodes cannot read has a new name.
const ALPN: &[u8] = b"apus/1";

/// Bounds and times.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// First packets that are looked at.
    pub paces: Paces,
    /// Handshakes at once from all addresses that are no peer's.
    pub strangers: usize,
    /// Handshakes a second from all addresses that are no peer's, and how many of them at once.
    pub handshakes: (u32, u32),
    /// Handshakes at once from one peer's address; a newer one ends the oldest.
    pub of_peer: usize,
    /// From the first packet to a connection.
    pub connect: Duration,
    /// Nothing heard for so long, where something was sent, ends a connection.
    pub silence: Duration,
    /// Where nothing else does, a packet goes out so often.
    pub keep_alive: Duration,
    /// Nothing heard for so long ends a connection that nobody uses.
    pub idle: Duration,
    /// Between two attempts to dial, at first and at most.
    pub back_off: (Duration, Duration),
    /// Datagrams that wait for the transport; the oldest gives way.
    pub probes: usize,
    /// Datagrams that wait for a connection to one peer, and how long.
    pub waiting: (usize, Duration),
    /// Long datagrams on their way to one peer, and from it.
    pub long: usize,
    /// Streams that wait to be accepted.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            paces: Paces::default(),
            strangers: 8,
            handshakes: (50, 10),
            of_peer: 2,
            connect: ms(1_000),
            silence: ms(1_500),
            keep_alive: ms(25_000),
            idle: ms(60_000),
            back_off: (ms(50), ms(500)),
            probes: 256,
            waiting: (16, ms(500)),
            long: 8,
            streams: 64,
        }
    }
}

/// The transport's settings over QUIC: the connection notices silence, so that its streams need no pings of their own.
#[must_use]
pub fn transport_settings() -> transport::Settings {
    transport::Settings {
        keep_alive: Duration::from_secs(20),
        silence: Duration::from_secs(50),
        streams: 1_024,
        ..transport::Settings::default()
    }
}

/// What happened so far, below the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections this node dialled.
    pub dialled: u64,
    /// Connections it accepted.
    pub accepted: u64,
    /// Attempts to dial that failed.
    pub dial_failed: u64,
    /// Of them, those that the peer refused.
    pub refused_by_peer: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Datagrams that went by a stream, because they are long.
    pub long: u64,
    /// Datagrams dropped, on either side.
    pub dropped: u64,
    /// UDP datagrams received.
    pub udp_received: u64,
    /// UDP datagrams sent.
    pub udp_sent: u64,
    /// UDP datagrams that are no QUIC of this version, or that nobody waits for.
    pub garbage: u64,
    /// First packets beyond the paces.
    pub flood: u64,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Inner {
    trust: Arc<Trust>,
    book: Book,
    limits: Limits,
    endpoint: OnceCell<Endpoint>,
    socket: OnceCell<Arc<Counting>>,
    dials: OnceCell<ClientConfig>,
    gate: Arc<Gate>,
    purse: Arc<Purse>,
    peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    /// Handshakes under way that others began.
    places: RefCell<Places>,
    probes: RefCell<VecDeque<(SocketAddr, Vec<u8>)>>,
    filled: Notify,
    tasks: mpsc::UnboundedSender<Task>,
    streams: mpsc::Sender<(Stream, SocketAddr)>,
    counters: Cell<Counters>,
}

/// QUIC below a [`Transport`](apus_host::transport::Transport).
#[derive(Clone)]
pub struct Quic {
    inner: Rc<Inner>,
    /// What [`Sockets::datagrams`] and [`Sockets::listen`] take, once.
    ends: Rc<RefCell<(Option<mpsc::UnboundedReceiver<Task>>, Option<mpsc::Receiver<(Stream, SocketAddr)>>)>>,
    open: Rc<dyn Fn(SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>>,
    runtime: Arc<dyn Runtime>,
}

impl std::fmt::Debug for Quic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quic").field("trust", &self.inner.trust).finish_non_exhaustive()
    }
}

/// A stream of a connection; the connection lives as long as one of its streams or the table of peers holds it.
#[derive(Debug)]
pub struct Stream {
    peer: NodeId,
    send: SendStream,
    receive: RecvStream,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// Where datagrams come in, and the tasks: dropping it ends them all.
pub struct Datagrams {
    inner: Rc<Inner>,
    work: Mutex<(mpsc::UnboundedReceiver<Task>, JoinSet<()>)>,
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Some(endpoint) = self.inner.endpoint.get() {
            endpoint.close(VarInt::from_u32(Close::Ends as u32), b"");
        }
    }
}

/// The runtime of this machine's sockets.
fn live() -> Arc<dyn Runtime> {
    #[cfg(target_os = "linux")]
    let live = crate::linux::Live;
    #[cfg(not(target_os = "linux"))]
    let live = TokioRuntime;
    Arc::new(live)
}

fn transport_config(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::from(VarInt::from_u32(u32::try_from(limits.idle.as_millis()).unwrap_or(u32::MAX)));
    let long = u32::try_from(limits.long).unwrap_or(8);
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.keep_alive))
        .max_concurrent_bidi_streams(8_u32.into())
        .max_concurrent_uni_streams(long.into())
        .stream_receive_window((256_u32 << 10).into())
        .receive_window((512_u32 << 10).into())
        .send_window(512 << 10)
        .datagram_receive_buffer_size(Some(128 << 10))
        .datagram_send_buffer_size(128 << 10)
        .crypto_buffer_size(16 << 10)
        // A network of one building; the first lost packet of a handshake costs three times this.
        .initial_rtt(Duration::from_millis(30));
    config
}

fn wrong(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// What a unidirectional stream carries, by its first byte.
#[derive(Clone, Copy)]
enum Kind {
    /// A datagram that is too long for a packet.
    Probe = 0,
    /// A token for the next dial.
    Token = 1,
}

/// The newest token of each peer. It opens the peer's gate for the first packet of the next dial, and is no proof of anything: the
/// peer still asks for one. So it may be used again, until a newer one comes.
#[derive(Default)]
struct Purse(std::sync::Mutex<BTreeMap<String, Bytes>>);

/// A purse keeps no more than one for each node that can be.
const MOST_TOKENS: usize = 256;

impl Purse {
    fn keep(&self, peer: &str, token: Bytes) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MOST_TOKENS && !tokens.contains_key(peer) {
            tokens.pop_first();
        }
        tokens.insert(peer.into(), token);
    }
}

impl quinn::TokenStore for Purse {
    fn insert(&self, _: &str, _: Bytes) {}
    fn take(&self, peer: &str) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }
}

pub(crate) fn server_config(
    tls: rustls::ServerConfig,
    alpn: &[u8],
    transport: Arc<TransportConfig>,
    gate: &Gate,
) -> io::Result<ServerConfig> {
    let mut tls = tls;
    tls.alpn_protocols = vec![alpn.into()];
    // No session is ever resumed, so nothing is ever sent before a peer has proved who it is.
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let tls = Arc::new(QuicServerConfig::try_from(tls).map_err(wrong)?);
    let mut config = ServerConfig::new(tls, gate.token_key());
    config
        .transport_config(transport)
        // Peers are known by certificate, and stay where they are.
        .migration(false)
        .retry_token_lifetime(Duration::from_secs(3))
        // More than the gate lets in before it is looked at again.
        .max_incoming(512)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(512 << 10);
    config.validation_token.sent(0);
    Ok(config)
}

/// Both ends show certificates, by TLS 1.3.
pub(crate) fn server_tls(trust: &Arc<Trust>) -> io::Result<rustls::ServerConfig> {
    let tls = rustls::ServerConfig::builder_with_provider(trust.provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(Arc::new(Verifier(trust.clone())))
        .with_cert_resolver(Arc::new(Own(trust.clone())));
    Ok(tls)
}

/// Who dials: as [`server_tls`]; nothing is resumed.
pub(crate) fn client_tls(trust: &Arc<Trust>) -> io::Result<rustls::ClientConfig> {
    let mut tls = rustls::ClientConfig::builder_with_provider(trust.provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier(trust.clone())))
        .with_client_cert_resolver(Arc::new(Own(trust.clone())));
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
    Ok(tls)
}

/// Keys of an endpoint that outlive a restart, so that peers of the life before are told at once that it is over (stateless reset).
pub(crate) fn endpoint_config(trust: &Trust, gate: &Gate) -> EndpointConfig {
    let secret = trust.secret(b"apus stateless reset");
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret)));
    let numbers = gate.numbers();
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(numbers)));
    config.grease_quic_bit(false);
    config
}

impl Quic {
    /// Sockets that speak to the nodes of `book` whom `trust` believes.
    #[must_use]
    pub fn new(trust: Arc<Trust>, book: Book, limits: Limits) -> Self {
        let (tasks, tasks_out) = mpsc::unbounded_channel();
        let (streams, streams_out) = mpsc::channel(limits.streams);
        let (rate, burst) = limits.handshakes;
        let inner = Inner {
            gate: Gate::new(&trust.secret(b"apus gate"), limits.paces),
            purse: Arc::default(),
            places: RefCell::new(Places::new(limits.strangers, Pace::new(rate, burst), limits.of_peer)),
            trust,
            book,
            limits,
            endpoint: OnceCell::new(),
            socket: OnceCell::new(),
            dials: OnceCell::new(),
            peers: RefCell::default(),
            probes: RefCell::default(),
            filled: Notify::new(),
            tasks,
            streams,
            counters: Cell::default(),
        };
        Self {
            inner: Rc::new(inner),
            ends: Rc::new(RefCell::new((Some(tasks_out), Some(streams_out)))),
            open: Rc::new(udp::bind),
            runtime: live(),
        }
    }

    /// The same over a network of somebody else's, whose time is tokio's: `open` binds an address there.
    #[must_use]
    pub fn over(self, open: impl Fn(SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> + 'static) -> Self {
        Self { open: Rc::new(open), runtime: Arc::new(TokioRuntime), ..self }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.inner.counters.get();
        if let Some(socket) = self.inner.socket.get() {
            counters.udp_received = socket.received.load(Ordering::Relaxed);
            counters.udp_sent = socket.sent.load(Ordering::Relaxed);
        }
        counters.garbage = self.inner.gate.garbage.load(Ordering::Relaxed);
        counters.flood = self.inner.gate.flood.load(Ordering::Relaxed);
        counters
    }

    /// Peers that are connected.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeId> {
        let peers = self.inner.peers.borrow();
        peers.iter().filter(|(_, peer)| peer.connection().is_some()).map(|(node, _)| *node).collect()
    }

    /// Peers that are connected, and the serial numbers of the certificates that they have shown.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<NodeId, u64> {
        let peers = self.inner.peers.borrow();
        let shown = |(node, peer): (&NodeId, &Rc<Peer>)| {
            let (certificate, _) = identity(&peer.connection()?)?;
            Some((*node, crate::der::serial(&certificate)?))
        };
        peers.iter().filter_map(shown).collect()
    }

    fn start(&self, at: SocketAddr) -> io::Result<()> {
        let trust = &self.inner.trust;
        let transport = Arc::new(transport_config(&self.inner.limits));
        let gate = &self.inner.gate;
        let server = server_config(server_tls(trust)?, ALPN, transport.clone(), gate)?;
        let mut client = client_tls(trust)?;
        client.alpn_protocols = vec![ALPN.into()];
        let mut dials = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).map_err(wrong)?));
        dials.transport_config(transport).token_store(self.inner.purse.clone());
        self.inner.know();
        let socket = Counting::new((self.open)(at)?, Some(gate.clone()));
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(trust, gate),
            Some(server),
            socket.clone(),
            self.runtime.clone(),
        )?;
        let fresh = self.inner.endpoint.set(endpoint).is_ok()
            && self.inner.socket.set(socket).is_ok()
            && self.inner.dials.set(dials).is_ok();
        if fresh { Ok(()) } else { Err(wrong("these sockets are bound already")) }
    }
}

impl Sockets for Quic {
    type Stream = Stream;
    type Listener = Mutex<mpsc::Receiver<(Stream, SocketAddr)>>;
    type Datagrams = Datagrams;

    async fn datagrams(&self, at: SocketAddr) -> io::Result<Datagrams> {
        self.start(at)?;
        let tasks = self.ends.borrow_mut().0.take().ok_or_else(|| wrong("these sockets are bound already"))?;
        self.inner.spawn(accept(self.inner.clone()));
        self.inner.spawn(sweep(self.inner.clone()));
        Ok(Datagrams { inner: self.inner.clone(), work: Mutex::new((tasks, JoinSet::new())) })
    }

    async fn send_to(socket: &Datagrams, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        let inner = &socket.inner;
        let node = inner.book.node(to).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let peer = inner.peer(node);
        match peer.connection() {
            Some(connection) => inner.send(&peer, &connection, bytes.to_vec()),
            None => {
                if peer.wait(bytes.to_vec(), inner.limits.waiting.0) {
                    inner.count(|counters| &mut counters.dropped);
                }
                if peer.may_dial() && peer.dialling.try_lock().is_ok() {
                    let inner = inner.clone();
                    socket.inner.spawn(async move {
                        let _ = inner.link(node).await;
                    });
                }
            }
        }
        Ok(bytes.len())
    }

    async fn receive_from(socket: &Datagrams, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut work = socket.work.lock().await;
        let (tasks, running) = &mut *work;
        loop {
            if let Some((from, probe)) = socket.inner.probes.borrow_mut().pop_front() {
                let length = probe.len().min(into.len());
                into[..length].copy_from_slice(&probe[..length]);
                return Ok((length, from));
            }
            tokio::select! {
                biased;
                Some(task) = tasks.recv() => {
                    running.spawn_local(task);
                }
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    // A panic in a task is one of the node.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                () = socket.inner.filled.notified() => {}
            }
        }
    }

    async fn listen(&self, _: SocketAddr) -> io::Result<Self::Listener> {
        self.ends.borrow_mut().1.take().map(Mutex::new).ok_or_else(|| wrong("these sockets are bound already"))
    }

    async fn accept(listener: &Self::Listener) -> io::Result<(Stream, SocketAddr)> {
        listener.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        let node = self.inner.book.node(to).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let connection = self.inner.link(node).await?;
        let (send, receive) = connection.open_bi().await.map_err(wrong)?;
        Ok(Stream { peer: node, send, receive })
    }

    fn who(stream: &Stream) -> Option<NodeId> {
        Some(stream.peer)
    }
}

/// Certificate and name of who is at the other end; the handshake has judged them.
pub(crate) fn identity(connection: &Connection) -> Option<(CertificateDer<'static>, Name)> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let certificate = chain.into_iter().next()?;
    let name = webpki::EndEntityCert::try_from(&certificate).ok()?.valid_dns_names().find_map(Name::read)?;
    Some((certificate, name))
}

impl Inner {
    /// Tells the gate where peers are.
    fn know(&self) {
        let me = self.trust.me().node;
        let peers = self.book.nodes().into_iter().filter(|node| *node != me);
        self.gate.know(peers.filter_map(|node| self.book.address(node)));
    }

    fn count(&self, which: impl FnOnce(&mut Counters) -> &mut u64) {
        let mut counters = self.counters.get();
        *which(&mut counters) += 1;
        self.counters.set(counters);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // The receiver lives as long as the sockets do.
        let _ = self.tasks.send(Box::pin(task));
    }

    fn peer(&self, node: NodeId) -> Rc<Peer> {
        self.peers.borrow_mut().entry(node).or_default().clone()
    }

    /// The connection to a peer; dials if there is none.
    async fn link(self: &Rc<Self>, node: NodeId) -> io::Result<Connection> {
        let peer = self.peer(node);
        let _one_at_a_time = peer.dialling.lock().await;
        if let Some(connection) = peer.connection() {
            return Ok(connection);
        }
        if !peer.may_dial() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let at = self.book.address(node).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let shown = self.trust.serial();
        let result = self.dial(node, at).await;
        match result {
            Ok(connection) => {
                self.count(|counters| &mut counters.dialled);
                self.adopt(node, &peer, &connection, (true, shown));
                // The peer may have dialled at the same time: then there is another connection, or will be soon.
                peer.connection().ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
            }
            Err(error) => {
                peer.failed(self.limits.back_off);
                self.count(|counters| &mut counters.dial_failed);
                Err(error)
            }
        }
    }

    async fn dial(&self, node: NodeId, at: SocketAddr) -> io::Result<Connection> {
        let (Some(endpoint), Some(config)) = (self.endpoint.get(), self.dials.get()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let name = Name { cluster: self.trust.me().cluster, node };
        let connecting = endpoint.connect_with(config.clone(), at, &name.to_string()).map_err(wrong)?;
        match timeout(self.limits.connect, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                if matches!(error, ConnectionError::ConnectionClosed(_)) {
                    self.count(|counters| &mut counters.refused_by_peer);
                }
                Err(wrong(error))
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Takes a new connection in, and sends what waited for one.
    fn adopt(self: &Rc<Self>, node: NodeId, peer: &Rc<Peer>, connection: &Connection, dialled: (bool, u64)) {
        if peer.take(self.trust.me().node, node, connection, dialled, self.limits.connect) {
            self.spawn(serve(self.clone(), node, peer.clone(), connection.clone()));
            // QUIC's own tokens go to who dials only; the next dial may be the other's.
            if !planted!(NoTokens) {
                let token = self.gate.token(connection.remote_address().ip());
                self.by_stream(peer, connection, Kind::Token, token);
            }
        } else {
            self.count(|counters| &mut counters.ended);
        }
        if let Some(connection) = peer.connection() {
            for datagram in peer.waited(self.limits.waiting.1) {
                self.send(peer, &connection, datagram);
            }
        }
    }

    fn send(self: &Rc<Self>, peer: &Rc<Peer>, connection: &Connection, datagram: Vec<u8>) {
        let fits = connection.max_datagram_size().is_some_and(|most| datagram.len() <= most);
        if fits {
            // What quinn has no room for makes it drop older ones.
            match connection.send_datagram(datagram.into()) {
                Ok(()) | Err(SendDatagramError::ConnectionLost(_)) => {}
                Err(_) => self.count(|counters| &mut counters.dropped),
            }
            return;
        }
        if peer.long.get() >= self.limits.long {
            self.count(|counters| &mut counters.dropped);
            return;
        }
        self.count(|counters| &mut counters.long);
        self.by_stream(peer, connection, Kind::Probe, datagram);
    }

    /// Sends bytes in a stream of their own.
    fn by_stream(self: &Rc<Self>, peer: &Rc<Peer>, connection: &Connection, kind: Kind, bytes: Vec<u8>) {
        peer.long.set(peer.long.get() + 1);
        let (inner, peer, connection) = (self.clone(), peer.clone(), connection.clone());
        self.spawn(async move {
            let by_stream = async {
                let mut stream = connection.open_uni().await.ok()?;
                stream.write_all(&[kind as u8]).await.ok()?;
                stream.write_all(&bytes).await.ok()?;
                stream.finish().ok()
            };
            if !matches!(timeout(inner.limits.silence, by_stream).await, Ok(Some(()))) {
                inner.count(|counters| &mut counters.dropped);
            }
            peer.long.set(peer.long.get() - 1);
        });
    }

    fn received(&self, from: NodeId, probe: Vec<u8>) {
        // Who was taken out of the book meanwhile is told so by the sweep.
        let Some(address) = self.book.address(from) else { return };
        let mut probes = self.probes.borrow_mut();
        if probes.len() >= self.limits.probes {
            probes.pop_front();
            self.count(|counters| &mut counters.dropped);
        }
        probes.push_back((address, probe));
        self.filled.notify_one();
    }
}

/// Answers first packets that the gate let in: an address is proved before anything is kept for it.
async fn accept(inner: Rc<Inner>) {
    let Some(endpoint) = inner.endpoint.get().cloned() else { return };
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address();
        if !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        let peer = inner.book.node(from).map(|_| from);
        let place = inner.places.borrow_mut().take(peer, Instant::now());
        match place {
            Some(place) => inner.spawn(handshake(inner.clone(), incoming, from, peer, place)),
            None => {
                inner.trust.refuse(Why::TooMany, from);
                incoming.refuse();
            }
        }
    }
}

async fn handshake(inner: Rc<Inner>, incoming: Incoming, from: SocketAddr, peer: Option<SocketAddr>, place: Place) {
    let shown = inner.trust.serial();
    let result = match incoming.accept() {
        Ok(connecting) => {
            tokio::select! {
                biased;
                result = timeout(inner.limits.connect, connecting) => Some(result),
                () = place.notified() => None,
            }
        }
        Err(error) => Some(Ok(Err(error))),
    };
    inner.places.borrow_mut().leave(peer, &place);
    // Its peer has begun anew.
    let Some(result) = result else { return inner.trust.refuse(Why::TooMany, from) };
    match result {
        Ok(Ok(connection)) => match identity(&connection) {
            Some((_, name)) => {
                inner.count(|counters| &mut counters.accepted);
                let peer = inner.peer(name.node);
                inner.adopt(name.node, &peer, &connection, (false, shown));
            }
            None => close(&connection, Close::Refused),
        },
        Ok(Err(ConnectionError::TransportError(error))) => {
            // Alerts about certificates (RFC 8446 §6.2) were counted with their reason.
            let code = u64::from(error.code);
            match code.checked_sub(0x100) {
                Some(42..=48) => {}
                Some(116) => inner.trust.refuse(Why::Unreadable, from),
                _ => inner.trust.refuse(Why::HandshakeFailed, from),
            }
        }
        Ok(Err(ConnectionError::ConnectionClosed(_))) => inner.count(|counters| &mut counters.refused_by_peer),
        Ok(Err(_)) => inner.trust.refuse(Why::HandshakeFailed, from),
        Err(_) => inner.trust.refuse(Why::HandshakeTimeout, from),
    }
}

/// Hands over what a connection brings, until it ends.
async fn serve(inner: Rc<Inner>, node: NodeId, peer: Rc<Peer>, connection: Connection) {
    let began = Instant::now();
    let mut long = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => inner.received(node, datagram.into()),
                Err(_) => break,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    let Some(address) = inner.book.address(node) else { continue };
                    // A stream that nobody takes is closed by its drop.
                    if inner.streams.try_send((Stream { peer: node, send, receive }, address)).is_err() {
                        inner.count(|counters| &mut counters.dropped);
                    }
                }
                Err(_) => break,
            },
            stream = connection.accept_uni(), if long.len() < inner.limits.long => match stream {
                Ok(mut stream) => {
                    let silence = inner.limits.silence;
                    long.spawn_local(async move { timeout(silence, stream.read_to_end(1 + (1 << 16))).await.ok()?.ok() });
                }
                Err(_) => break,
            },
            Some(read) = long.join_next(), if !long.is_empty() => match read {
                Ok(Some(bytes)) => match bytes.split_first() {
                    Some((kind, probe)) if *kind == Kind::Probe as u8 => inner.received(node, probe.to_vec()),
                    Some((kind, token)) if *kind == Kind::Token as u8 && token.len() <= TOKEN => {
                        let name = Name { cluster: inner.trust.me().cluster, node };
                        inner.purse.keep(&name.to_string(), token.to_vec().into());
                    }
                    _ => inner.count(|counters| &mut counters.dropped),
                },
                _ => inner.count(|counters| &mut counters.dropped),
            },
        }
    }
    inner.count(|counters| &mut counters.ended);
    if began.elapsed() > inner.limits.back_off.1 {
        peer.lasted();
    } else if peer.connection().is_none() {
        peer.failed(inner.limits.back_off);
    }
}

/// Between two looks at all connections.
const SWEEP: Duration = Duration::from_millis(500);

/// Closes connections whose peer is silent or not believed any more, tells the gate who is where, and counts what it did not let in.
async fn sweep(inner: Rc<Inner>) {
    const JUDGE_EVERY: u32 = 20;
    let (mut garbage, mut flood) = (0, 0);
    let mut rounds = 0_u32;
    let mut wait = SWEEP;
    loop {
        let changed = tokio::select! {
            () = inner.trust.changed() => true,
            () = sleep(wait) => false,
        };
        // A new certificate is shown at one peer after the other, so that whoever sees this node sees it by the others meanwhile.
        let own = inner.trust.serial();
        let stale = inner.peers.borrow().values().find_map(|peer| peer.stale(own));
        wait = if stale.is_some() { Duration::from_millis(100) } else { SWEEP };
        if let Some(connection) = stale {
            close(&connection, Close::Renewed);
        }
        let silent: Vec<_> =
            inner.peers.borrow().values().filter_map(|peer| peer.silent(inner.limits.silence)).collect();
        silent.iter().for_each(|connection| close(connection, Close::Silent));
        inner.know();
        let told = |counter: &AtomicU64, before: &mut u64, why, what: &str| {
            let now = counter.load(Ordering::Relaxed);
            inner.trust.refuse_many(why, now - *before, what);
            *before = now;
        };
        told(&inner.gate.garbage, &mut garbage, Why::Garbage, "datagrams");
        told(&inner.gate.flood, &mut flood, Why::Flood, "first packets");
        rounds += 1;
        if !changed && !rounds.is_multiple_of(JUDGE_EVERY) {
            continue;
        }
        let peers: Vec<_> = inner.peers.borrow().values().filter_map(|peer| peer.connection()).collect();
        for connection in peers {
            let Some((certificate, name)) = identity(&connection) else { continue };
            if let Err(why) = inner.trust.still(&certificate) {
                inner.trust.refuse(why, name);
                close(&connection, Close::Refused);
            }
        }
        let book = inner.book.nodes();
        inner.peers.borrow_mut().retain(|node, peer| book.contains(node) || peer.connection().is_some());
    }
}
