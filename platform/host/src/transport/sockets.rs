//! What a transport needs of a network: tokio's sockets, or simulated ones of the same shape.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use apus_engine::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// A network. All futures are cancel-safe, but `connect`, whose attempt is then given up.
pub trait Sockets: Clone + 'static {
    /// A connected stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;
    /// Where streams come in.
    type Listener: 'static;
    /// Where datagrams come in and go out.
    type Datagrams: 'static;

    /// Binds a datagram socket.
    fn datagrams(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Datagrams>>;
    /// Sends one datagram.
    fn send_to(socket: &Self::Datagrams, bytes: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<usize>>;
    /// Receives one datagram.
    fn receive_from(socket: &Self::Datagrams, into: &mut [u8])
    -> impl Future<Output = io::Result<(usize, SocketAddr)>>;
    /// Binds a listener.
    fn listen(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>>;
    /// Accepts a stream.
    fn accept(listener: &Self::Listener) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>>;
    /// Connects a stream.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>>;
    /// Who is proved to be at the other end of an accepted stream; `None` where sockets cannot know.
    fn who(_: &Self::Stream) -> Option<NodeId> {
        None
    }
}

/// The sockets of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokio;

impl Sockets for Tokio {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Datagrams = UdpSocket;

    async fn datagrams(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(at).await
    }
    async fn send_to(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        socket.send_to(bytes, to).await
    }
    async fn receive_from(socket: &UdpSocket, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        socket.recv_from(into).await
    }
    async fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(at).await
    }
    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, from))
    }
    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
