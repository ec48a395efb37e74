//! Two transports on this machine's loopback, and peers that misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use apus_engine::{ClusterId, Incarnation, Lane, NodeId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Decoder, Frame, Hello, Identity, Refusal, SendError, Settings, Sockets, Tokio, Transport, VERSION};

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limited = async { timeout(Duration::from_secs(20), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

/// Free ports of the loopback, as far as anybody can know.
async fn addresses() -> BTreeMap<NodeId, SocketAddr> {
    let mut book = BTreeMap::new();
    let mut held = Vec::new();
    for node in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        book.insert(NodeId(node), listener.local_addr().expect("its address"));
        held.push(listener);
    }
    book
}

const fn identity(me: u16, incarnation: u32) -> Identity {
    Identity { cluster: ClusterId(7), me: NodeId(me), incarnation: Incarnation(incarnation) }
}

fn settings() -> Settings {
    let ms = Duration::from_millis;
    Settings {
        packets: 300,
        inbox: 64,
        window: 32,
        keep_alive: ms(50),
        silence: ms(300),
        back_off: (ms(10), ms(100)),
        ..Settings::default()
    }
}

async fn start(book: &BTreeMap<NodeId, SocketAddr>, identity: Identity) -> Transport<Tokio> {
    let at = book[&identity.me];
    Transport::start(Tokio, identity, at, book.clone(), settings()).await.expect("it starts")
}

#[test]
fn packets_arrive_in_order_and_under_back_pressure() {
    block_on(async {
        let book = addresses().await;
        let (mut one, mut two) = (start(&book, identity(0, 1)).await, start(&book, identity(1, 1)).await);
        one.send(NodeId(1), Lane::Probe, b"probe".to_vec()).expect("a probe always fits");
        assert_eq!(two.next().await, (NodeId(0), b"probe".to_vec()));
        // More than windows and inboxes hold, to a receiver that does not look at first.
        let mut taken = Vec::new();
        for number in 0..400_u32 {
            match one.send(NodeId(1), Lane::Log, number.to_le_bytes().to_vec()) {
                Ok(()) => taken.push(number),
                Err(error) => assert_eq!(error, SendError::Full),
            }
        }
        assert_eq!(one.counters().packets_refused, 100);
        tokio::time::sleep(Duration::from_millis(600)).await;
        let sent = one.counters().packets_sent;
        assert!(sent <= 64 + 32, "{sent} packets left although nobody reads");
        for number in taken {
            assert_eq!(two.next().await, (NodeId(0), number.to_le_bytes().to_vec()));
        }
        assert_eq!(one.counters().dialled, 1);
        assert_eq!(one.send(NodeId(9), Lane::Log, Vec::new()), Err(SendError::Unknown));
    });
}

#[test]
fn a_peer_that_comes_back_is_dialled_again() {
    block_on(async {
        let book = addresses().await;
        let mut one = start(&book, identity(0, 1)).await;
        for life in 1..4 {
            let mut two = start(&book, identity(1, life)).await;
            loop {
                let _ = one.send(NodeId(1), Lane::Log, vec![u8::try_from(life).expect("small")]);
                let Ok((_, packet)) = timeout(Duration::from_millis(50), two.next()).await else { continue };
                if packet == [u8::try_from(life).expect("small")] {
                    break;
                }
            }
            two.close().await;
        }
        assert!(one.counters().dialled >= 3);
    });
}

#[test]
fn a_silent_peer_is_left() {
    block_on(async {
        let book = addresses().await;
        let mut one = start(&book, identity(0, 1)).await;
        // Accepts and reads, and says nothing.
        let listener = TcpListener::bind(book[&NodeId(1)]).await.expect("the port");
        for _ in 0..2 {
            one.send(NodeId(1), Lane::Log, vec![1]).expect("room");
            let (mut stream, _) = listener.accept().await.expect("a stream");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("closed in order");
            assert!(!all.is_empty());
        }
        assert!(one.counters().silent >= 1);
    });
}

async fn dial(to: SocketAddr, hello: Hello) -> (TcpStream, Frame) {
    let mut stream = TcpStream::connect(to).await.expect("a stream");
    let mut out = Vec::new();
    Frame::Hello(hello).put(&mut out);
    // One byte at a time.
    for byte in out {
        stream.write_all(&[byte]).await.expect("it takes bytes");
    }
    let mut decoder = Decoder::default();
    loop {
        let mut buffer = [0; 64];
        let length = stream.read(&mut buffer).await.expect("an answer");
        assert!(length > 0, "closed without an answer");
        decoder.push(&buffer[..length]);
        if let Some(frame) = decoder.next().expect("a frame") {
            return (stream, frame);
        }
    }
}

#[test]
fn strangers_and_older_lives_are_refused() {
    block_on(async {
        let book = addresses().await;
        let mut two = start(&book, identity(1, 5)).await;
        let at = book[&NodeId(1)];
        let good = Hello {
            version: VERSION,
            oldest: VERSION,
            cluster: ClusterId(7),
            from: NodeId(0),
            to: NodeId(1),
            incarnation: Incarnation(3),
        };
        let refused = [
            (Hello { cluster: ClusterId(8), ..good }, Refusal::Cluster),
            (Hello { to: NodeId(4), ..good }, Refusal::Receiver),
            (Hello { version: 9, oldest: 9, ..good }, Refusal::Version),
        ];
        for (hello, reason) in refused {
            assert_eq!(dial(at, hello).await.1, Frame::Refuse(reason));
        }
        let (mut first, welcome) = dial(at, good).await;
        assert_eq!(welcome, Frame::Welcome { version: VERSION, incarnation: Incarnation(5) });
        let (mut second, welcome) = dial(at, Hello { version: 200, ..good }).await;
        assert_eq!(welcome, Frame::Welcome { version: VERSION, incarnation: Incarnation(5) });
        // The newer stream of the same life replaced the older one.
        assert_eq!(first.read(&mut [0; 8]).await.expect("an end"), 0);
        assert_eq!(dial(at, Hello { incarnation: Incarnation(2), ..good }).await.1, Frame::Refuse(Refusal::Old));
        let mut out = Vec::new();
        Frame::Data(vec![42]).put(&mut out);
        second.write_all(&out).await.expect("it takes bytes");
        assert_eq!(two.next().await, (NodeId(0), vec![42]));
        second.write_all(&[0xff; 40]).await.expect("it takes bytes");
        assert_eq!(second.read(&mut [0; 8]).await.unwrap_or(0), 0);
        assert_eq!(two.counters().bad_frames, 1);
        assert_eq!(two.counters().hellos_refused, 4);
    });
}

/// Sockets whose listener panics.
#[derive(Clone)]
struct Panicking;

impl Sockets for Panicking {
    type Stream = TcpStream;
    type Listener = ();
    type Datagrams = tokio::net::UdpSocket;

    async fn datagrams(&self, at: SocketAddr) -> std::io::Result<tokio::net::UdpSocket> {
        Tokio.datagrams(at).await
    }
    async fn send_to(socket: &tokio::net::UdpSocket, bytes: &[u8], to: SocketAddr) -> std::io::Result<usize> {
        Tokio::send_to(socket, bytes, to).await
    }
    async fn receive_from(socket: &tokio::net::UdpSocket, into: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
        Tokio::receive_from(socket, into).await
    }
    async fn listen(&self, _at: SocketAddr) -> std::io::Result<()> {
        Ok(())
    }
    async fn accept((): &()) -> std::io::Result<(TcpStream, SocketAddr)> {
        panic!("a bug in a task");
    }
    async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        Tokio.connect(to).await
    }
}

/// With or without `tokio_unstable`: no task dies in silence.
#[test]
#[should_panic(expected = "a bug in a task")]
fn a_panic_in_a_task_is_one_of_the_node() {
    block_on(async {
        let book = addresses().await;
        let at = book[&NodeId(0)];
        let started = Transport::start(Panicking, identity(0, 1), at, book, settings()).await;
        started.expect("it starts").next().await;
    });
}
