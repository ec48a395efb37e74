//! Streams of bulk between members: each on a connection of its own, at a port of its own, so that neither probes nor the log wait for
//! what an operator sends. They have their own windows, their own pace and their own place in the processor: whoever uses them does so on
//! a thread of his own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apus_engine::NodeId;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream,
    TokioRuntime, TransportConfig, VarInt,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::gate::{Gate, Paces};
use crate::name::Name;
use crate::quic::{client_tls, endpoint_config, identity, server_config, server_tls};
use crate::trust::{Trust, Why};
use crate::udp::{self, Counting};

const ALPN: &[u8] = b"apus-bulk/1";
/// From the first packet to a stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes at once.
const PLACES: usize = 8;
/// Who is not heard for so long is gone, in milliseconds; who has nothing to say is heard this often.
const GONE: u32 = 3_000;
const ALIVE: Duration = Duration::from_millis(500);
/// Bytes under way in one stream, on each side.
const WINDOW: u32 = 1 << 20;

/// A stream to or from a member.
#[derive(Debug)]
pub struct Bulk {
    /// What this end says.
    pub send: SendStream,
    /// What the other says.
    pub receive: RecvStream,
    connection: Connection,
    /// Of who dialled: it lives as long as the stream.
    endpoint: Option<Endpoint>,
}

/// Looks whether the other end of a stream is still a member.
#[derive(Debug)]
pub struct Standing(Arc<Trust>, Connection);

impl Standing {
    /// Whether its certificate would be believed now.
    #[must_use]
    pub fn is_good(&self) -> bool {
        identity(&self.1).is_some_and(|(certificate, _)| self.0.still(&certificate).is_ok())
    }

    /// Waits until the connection is lost, or its other end is believed no more.
    pub async fn lost(&self) {
        while timeout(Duration::from_secs(1), self.1.closed()).await.is_err() {
            if !self.is_good() {
                self.1.close(VarInt::from_u32(2), b"");
            }
        }
    }
}

impl Bulk {
    /// To look whether the other end is still a member.
    #[must_use]
    pub fn standing(&self, trust: &Arc<Trust>) -> Standing {
        Standing(trust.clone(), self.connection.clone())
    }

    /// Ends it once the other end has all that was sent, or after five seconds.
    pub async fn finish(mut self) {
        let _ = self.send.finish();
        let _ = timeout(PATIENCE, self.send.stopped()).await;
        self.connection.close(VarInt::from_u32(0), b"");
        if let Some(endpoint) = self.endpoint {
            let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        }
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(1_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into())
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(16 << 10)
        .keep_alive_interval(Some(ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(GONE).into()))
        .initial_rtt(Duration::from_millis(30));
    Arc::new(config)
}

fn wrong(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Where members' streams come in; dropping it closes the port and all that came in by it.
#[derive(Debug)]
pub struct Door {
    task: JoinHandle<()>,
    came: mpsc::Receiver<(NodeId, Bulk)>,
    endpoint: Endpoint,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

impl Door {
    /// Opens a port to those whom `trust` believes, in the current runtime.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn open(trust: Arc<Trust>, at: SocketAddr) -> io::Result<Self> {
        // Who dials does so from any port, so all are strangers until they have shown who they are.
        let gate = Gate::new(&trust.secret(b"apus bulk"), Paces::default());
        let server = server_config(server_tls(&trust)?, ALPN, transport(), &gate)?;
        let socket = Counting::new(udp::bind(at)?, Some(gate.clone()));
        let config = endpoint_config(&trust, &gate);
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))?;
        let (to, came) = mpsc::channel(PLACES);
        let task = tokio::spawn(accept(endpoint.clone(), trust, to));
        Ok(Self { task, came, endpoint })
    }

    /// The next stream, and whose it is; never, once the port is lost.
    pub async fn next(&mut self) -> (NodeId, Bulk) {
        match self.came.recv().await {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }
}

async fn accept(endpoint: Endpoint, trust: Arc<Trust>, to: mpsc::Sender<(NodeId, Bulk)>) {
    let places = Arc::new(Semaphore::new(PLACES));
    while let Some(incoming) = endpoint.accept().await {
        if let Some((incoming, from, place)) = admitted(incoming, &places, &trust) {
            tokio::spawn(shake(incoming, from, trust.clone(), to.clone(), place));
        }
    }
}

/// Who has proved its address and finds a place; others are told to, or refused.
pub(crate) fn admitted(
    incoming: Incoming,
    places: &Arc<Semaphore>,
    trust: &Trust,
) -> Option<(Incoming, SocketAddr, OwnedSemaphorePermit)> {
    let from = incoming.remote_address();
    if !incoming.remote_address_validated() {
        let _ = incoming.retry();
        return None;
    }
    match places.clone().try_acquire_owned() {
        Ok(place) => Some((incoming, from, place)),
        Err(_) => {
            trust.refuse(Why::TooMany, from);
            incoming.refuse();
            None
        }
    }
}

async fn shake(
    incoming: Incoming,
    from: SocketAddr,
    trust: Arc<Trust>,
    to: mpsc::Sender<(NodeId, Bulk)>,
    _place: OwnedSemaphorePermit,
) {
    let shake = async {
        let connection = incoming.accept()?.await?;
        let (send, receive) = connection.accept_bi().await?;
        Ok::<_, ConnectionError>((connection, send, receive))
    };
    match timeout(PATIENCE, shake).await {
        Ok(Ok((connection, send, receive))) => {
            if let Some((_, name)) = identity(&connection) {
                // One that nobody takes in time is closed by its drop.
                let bulk = Bulk { send, receive, connection, endpoint: None };
                let _ = timeout(PATIENCE, to.send((name.node, bulk))).await;
            }
        }
        // Alerts about certificates (RFC 8446 §6.2) were counted with their reason.
        Ok(Err(ConnectionError::TransportError(error))) => match u64::from(error.code).checked_sub(0x100) {
            Some(42..=48) => {}
            Some(116) => trust.refuse(Why::Unreadable, from),
            _ => trust.refuse(Why::HandshakeFailed, from),
        },
        Ok(Err(_)) => trust.refuse(Why::HandshakeFailed, from),
        Err(_) => trust.refuse(Why::HandshakeTimeout, from),
    }
}

/// Dials a member's door, from any port of this IP.
///
/// # Errors
/// If nobody answers there within five seconds, or it is another than was meant.
pub async fn dial(trust: &Arc<Trust>, from: std::net::IpAddr, to: SocketAddr, node: NodeId) -> io::Result<Bulk> {
    let mut tls = client_tls(trust)?;
    tls.alpn_protocols = vec![ALPN.into()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(wrong)?));
    config.transport_config(transport());
    let socket = Counting::new(udp::bind((from, 0).into())?, None);
    let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
    let name = Name { cluster: trust.me().cluster, node };
    let talk = async {
        let connection = endpoint.connect_with(config, to, &name.to_string()).map_err(wrong)?.await.map_err(wrong)?;
        let (send, receive) = connection.open_bi().await.map_err(wrong)?;
        io::Result::Ok((connection, send, receive))
    };
    let (connection, send, receive) = match timeout(PATIENCE, talk).await {
        Ok(talk) => talk?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    };
    Ok(Bulk { send, receive, connection, endpoint: Some(endpoint) })
}

/// SHA-256 of bytes that come in pieces.
pub struct Sum(ring::digest::Context);

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sum").finish_non_exhaustive()
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

impl Sum {
    /// Of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    /// And of these.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum.
    #[must_use]
    pub fn end(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use apus_engine::ClusterId;

    use super::*;
    use crate::authority::{Authority, NewKey};

    #[test]
    fn a_door_that_is_lost_gives_nobody_however_often_it_is_asked() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (name, now) = (Name { cluster: ClusterId(7), node: NodeId(0) }, SystemTime::now());
            let mut authority = Authority::make(ClusterId(7), now).expect("randomness");
            let key = NewKey::make().expect("randomness");
            let issued = authority.issue(name, key.public(), now, Duration::from_secs(60)).expect("it is issued");
            let authorities = [authority.certificate().clone()];
            let trust = Trust::new(name, &authorities, issued.der, key.pkcs8(), |_| {}).expect("it is good");
            let mut door = Door::open(trust, ([127, 0, 0, 1], 0).into()).expect("a port");
            door.endpoint.close(VarInt::from_u32(0), b"");
            (&mut door.task).await.expect("it ends");
            for _ in 0..3 {
                assert!(timeout(Duration::from_millis(20), door.next()).await.is_err());
            }
        });
    }
}
