//! Turmoil's sockets as a process on a faulty network sees them.
//!
//! Here lie the faults of streams, and here turmoil is made to behave like a network: a process that stands still reads and writes
//! nothing; a cut link lets a stream stand still instead of ending it; a machine without power lets a dialler wait; a machine whose
//! process is gone refuses (turmoil would keep packets for it until it is back).

use std::future::{Future as _, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apus_engine::NodeId;
use apus_host::transport::Sockets;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

use super::{Shared, node_of};
use crate::heap::{Connect, StreamId, Write};

/// Longest slice of a read.
const SLICE: usize = 1_000;

/// The network of a node, for one life of its process.
#[derive(Clone)]
pub(super) struct SimSockets {
    pub(super) world: Shared,
    pub(super) node: NodeId,
    pub(super) life: u32,
}

impl SimSockets {
    /// Waits until the process runs. A life that is over waits for ever.
    async fn running(&self) {
        let number = self.world.borrow_mut().number();
        poll_fn(|cx| {
            let mut world = self.world.borrow_mut();
            if world.runs(self.node, self.life) {
                return Poll::Ready(());
            }
            world.sleep(number, cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn stream(&self, inner: TcpStream, peer: NodeId) -> io::Result<SimStream> {
        let mut id = [inner.local_addr()?, inner.peer_addr()?];
        id.sort_unstable();
        let number = self.world.borrow_mut().number();
        Ok(SimStream {
            at: self.clone(),
            inner,
            peer,
            id,
            number,
            written: 0,
            mute: false,
            closed: false,
            closing: None,
        })
    }
}

/// Where a node's datagrams come in and go out.
pub(super) struct SimDatagrams {
    at: SimSockets,
    inner: UdpSocket,
}

/// Where a node's streams come in.
pub(super) struct SimListener {
    at: SimSockets,
    inner: TcpListener,
}

impl Sockets for SimSockets {
    type Stream = SimStream;
    type Listener = SimListener;
    type Datagrams = SimDatagrams;

    async fn datagrams(&self, at: SocketAddr) -> io::Result<SimDatagrams> {
        Ok(SimDatagrams { at: self.clone(), inner: UdpSocket::bind(at).await? })
    }

    async fn send_to(socket: &SimDatagrams, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.at.running().await;
        socket.inner.send_to(bytes, to).await
    }

    async fn receive_from(socket: &SimDatagrams, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        socket.at.running().await;
        let received = socket.inner.recv_from(into).await?;
        socket.at.running().await;
        Ok(received)
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<SimListener> {
        Ok(SimListener { at: self.clone(), inner: TcpListener::bind(at).await? })
    }

    async fn accept(listener: &SimListener) -> io::Result<(SimStream, SocketAddr)> {
        listener.at.running().await;
        let (inner, from) = listener.inner.accept().await?;
        Ok((listener.at.stream(inner, node_of(from))?, from))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<SimStream> {
        let (number, peer) = (self.world.borrow_mut().number(), node_of(to));
        let go = poll_fn(|cx| {
            let mut world = self.world.borrow_mut();
            if world.runs(self.node, self.life) {
                match world.on_connect(self.node, peer) {
                    Connect::Go => return Poll::Ready(Ok(())),
                    Connect::Refuse => return Poll::Ready(Err(io::Error::from(ErrorKind::ConnectionRefused))),
                    Connect::Hang => {}
                }
            }
            world.sleep(number, cx.waker());
            Poll::Pending
        });
        go.await?;
        self.stream(TcpStream::connect(to).await?, peer)
    }
}

/// One end of a stream.
pub(super) struct SimStream {
    at: SimSockets,
    inner: TcpStream,
    peer: NodeId,
    id: StreamId,
    number: u64,
    written: u64,
    /// What is written is lost.
    mute: bool,
    /// Nothing can be written any more.
    closed: bool,
    /// The peer has closed the stream, and this end hears of it when that is over.
    closing: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    /// Whether it goes on now; `Pending` once the task is registered to be woken.
    fn poll_ready(&self, cx: &mut Context<'_>, reading: bool) -> Poll<io::Result<()>> {
        let mut world = self.at.world.borrow_mut();
        if world.is_reset(self.id) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        // Either half may wait: each has a number of its own.
        world.sleep(self.number + u64::from(reading), cx.waker());
        let runs = world.runs(self.at.node, self.at.life);
        if !runs || (reading && world.is_cut_off(self.peer, self.at.node)) {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx, true))?;
        if let Some(closing) = &mut self.closing {
            return closing.as_mut().poll(cx).map(Ok);
        }
        let most = self.at.world.borrow_mut().on_read(self.peer, self.at.node);
        let before = buf.filled().len();
        if let Some(most) = most {
            let mut slice = [0; SLICE];
            let mut slice = ReadBuf::new(&mut slice[..most.min(SLICE).min(buf.remaining())]);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut slice))?;
            buf.put_slice(slice.filled());
        } else {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        }
        let read = buf.filled().len() - before;
        if read == 0 {
            let late = self.at.world.borrow_mut().on_close(self.peer, self.at.node);
            let mut closing = Box::pin(tokio::time::sleep(Duration::from_nanos(late)));
            let over = closing.as_mut().poll(cx).map(Ok);
            self.closing = Some(closing);
            return over;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx, false))?;
        if self.closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if self.mute {
            return Poll::Ready(Ok(bytes.len()));
        }
        let (from, to) = (self.at.node, self.peer);
        let write = self.at.world.borrow_mut().on_write(from, to, self.id, self.written, bytes.len());
        match write {
            Write::Take(most) => {
                let length = ready!(Pin::new(&mut self.inner).poll_write(cx, &bytes[..most]))?;
                self.written += length as u64;
                Poll::Ready(Ok(length))
            }
            Write::Reset => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Write::HalfClose => {
                self.mute = true;
                let _ = Pin::new(&mut self.inner).poll_shutdown(cx);
                Poll::Ready(Ok(bytes.len()))
            }
            Write::Vanish => {
                self.mute = true;
                Poll::Ready(Ok(bytes.len()))
            }
            Write::Close => {
                self.closed = true;
                // Half of it is there.
                let _ = Pin::new(&mut self.inner).poll_write(cx, &bytes[..bytes.len() / 2]);
                let _ = Pin::new(&mut self.inner).poll_shutdown(cx);
                Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mute || self.closed {
            return Poll::Ready(Ok(()));
        }
        self.closed = true;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
