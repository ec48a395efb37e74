//! UDP sockets for quinn: its own, with a gate before it, and a plain one where the system refuses its options (Wine does).

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::gate::Gate;

/// What the system may keep for a node that does something else just now, in bytes; it may grant less.
const BUFFER: usize = 4 << 20;

/// A socket that counts, with a gate.
pub(crate) struct Counting {
    socket: Arc<dyn AsyncUdpSocket>,
    /// None before a socket that only dials.
    gate: Option<Arc<Gate>>,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").finish_non_exhaustive()
    }
}

impl Counting {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, gate: Option<Arc<Gate>>) -> Arc<Self> {
        Arc::new(Self { socket, gate, received: AtomicU64::new(0), sent: AtomicU64::new(0) })
    }
}

/// Binds a socket.
pub(crate) fn bind(at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let first = std::net::UdpSocket::bind(at)?;
    if let Ok(state) = UdpSocketState::new((&first).into()) {
        // As much as the system lets anybody have: what does not fit is lost, a flood and a peer's packets alike.
        let _ = state.set_recv_buffer_size((&first).into(), BUFFER);
    }
    let second = first.try_clone()?;
    if let Ok(socket) = TokioRuntime.wrap_udp_socket(first) {
        return Ok(socket);
    }
    second.set_nonblocking(true)?;
    Ok(Arc::new(Plain(UdpSocket::from_std(second)?)))
}

impl AsyncUdpSocket for Counting {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let many = transmit.segment_size.map_or(1, |size| transmit.contents.len().div_ceil(size.max(1)));
        self.sent.fetch_add(many as u64, Ordering::Relaxed);
        Ok(())
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let many = ready!(self.socket.poll_recv(cx, bufs, meta))?;
        let now = Instant::now();
        for (buffer, meta) in bufs.iter_mut().zip(&*meta).take(many) {
            for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                self.received.fetch_add(1, Ordering::Relaxed);
                if let Some(gate) = &self.gate {
                    gate.sift(now, meta.addr, datagram);
                }
            }
        }
        Poll::Ready(Ok(many))
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }
    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// A socket without options.
#[derive(Debug)]
struct Plain(UdpSocket);

impl AsyncUdpSocket for Plain {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send_to(transmit.contents, transmit.destination).map(|_| ())
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_recv_ready(cx))?;
            match self.0.try_recv_from(&mut bufs[0]) {
                Ok((len, addr)) => {
                    meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    return Poll::Ready(Ok(1));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Windows reports here that an earlier datagram found no receiver.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until a plain socket takes datagrams again.
struct Writable {
    socket: Arc<Plain>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { socket.0.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::sync::Arc;

    use quinn::AsyncUdpSocket as _;
    use quinn::udp::{RecvMeta, Transmit};
    use tokio::net::UdpSocket;

    use super::Plain;

    #[test]
    fn the_plain_socket_carries_datagrams() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bind = || async { Arc::new(Plain(UdpSocket::bind("127.0.0.1:0").await.expect("a port"))) };
            let (one, two) = (bind().await, bind().await);
            let destination = two.local_addr().expect("its address");
            let mut poller = one.clone().create_io_poller();
            std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.expect("writable");
            let transmit = Transmit { destination, ecn: None, contents: b"abc", segment_size: None, src_ip: None };
            one.try_send(&transmit).expect("it is sent");
            let mut buffer = [0; 16];
            let mut meta = [RecvMeta::default()];
            let many = std::future::poll_fn(|cx| two.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
            assert_eq!(many.await.expect("it comes"), 1);
            assert_eq!((meta[0].len, &buffer[..3]), (3, &b"abc"[..]));
        });
    }
}
