//! A network in memory, on tokio's clock. Where that clock is paused, a second of the network is a second of nothing else: bounds hold
//! or not, however busy the machine is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Runs a test on a clock of its own, which goes on when nothing else does.
pub(crate) fn virtually(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let limited = async { tokio::time::timeout(Duration::from_secs(600), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), limited);
}

/// How long a datagram is under way.
const DELAY: Duration = Duration::from_millis(1);
/// Datagrams that a port keeps; one more is lost, as with a system's buffers.
const ROOM: usize = 200;

#[derive(Debug, Default)]
struct Port {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Inner {
    ports: BTreeMap<SocketAddr, Port>,
    flying: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    /// What these send or should get is lost; not what others send in their names.
    cut: BTreeSet<SocketAddr>,
    /// Pairs between which all is lost, both ways.
    parted: BTreeSet<(SocketAddr, SocketAddr)>,
    /// So many datagrams of these still pass.
    left: BTreeMap<SocketAddr, u64>,
    /// Copies of what is sent between these, once somebody asks for them.
    tapped: BTreeSet<SocketAddr>,
    copies: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    delivered: BTreeMap<SocketAddr, u64>,
    lost: u64,
}

/// The network. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    inner: Arc<Mutex<Inner>>,
    sent: Arc<Notify>,
}

impl Net {
    /// A network; its work ends with the current [`LocalSet`](tokio::task::LocalSet).
    pub(crate) fn new() -> Self {
        let net = Self::default();
        tokio::task::spawn_local(net.clone().work());
        net
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test has failed here")
    }

    async fn work(self) {
        loop {
            let due = self.inner().flying.front().map(|(at, ..)| *at);
            let Some(due) = due else {
                self.sent.notified().await;
                continue;
            };
            sleep_until(due).await;
            let mut inner = self.inner();
            while inner.flying.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
                let Some((_, from, to, bytes)) = inner.flying.pop_front() else { break };
                inner.deliver(from, to, bytes);
            }
        }
    }

    /// Sends a datagram, from wherever the sender says.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.inner().flying.push_back((Instant::now() + DELAY, from, to, bytes));
        self.sent.notify_one();
    }

    /// Binds a port.
    pub(crate) fn bind(&self, at: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.inner().ports.insert(at, Port::default());
        Ok(Arc::new(Socket { net: self.clone(), at }))
    }

    /// Nothing comes from there any more, nor goes there.
    pub(crate) fn cut(&self, at: SocketAddr) {
        self.inner().cut.insert(at);
    }

    /// Nothing goes between two, or again everything.
    pub(crate) fn part(&self, one: SocketAddr, two: SocketAddr, parted: bool) {
        let pair = (one.min(two), one.max(two));
        if parted {
            self.inner().parted.insert(pair);
        } else {
            self.inner().parted.remove(&pair);
        }
    }

    /// Only so many datagrams go out from there.
    pub(crate) fn leave(&self, at: SocketAddr, datagrams: u64) {
        self.inner().left.insert(at, datagrams);
    }

    /// Copies from now on what is sent between these.
    pub(crate) fn tap(&self, between: impl IntoIterator<Item = SocketAddr>) {
        self.inner().tapped.extend(between);
    }

    /// The copies so far, the last thousand of them.
    pub(crate) fn copies(&self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        self.inner().copies.drain(..).collect()
    }

    /// Datagrams that came to a port which is bound, or would have come if it were.
    pub(crate) fn delivered(&self, to: SocketAddr) -> u64 {
        self.inner().delivered.get(&to).copied().unwrap_or_default()
    }

    /// Datagrams for which a port had no room.
    pub(crate) fn lost(&self) -> u64 {
        self.inner().lost
    }
}

impl Inner {
    /// What a port sends by itself, not somebody else in its name.
    fn go(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if self.cut.contains(&from) || self.parted.contains(&(from.min(to), from.max(to))) {
            return;
        }
        if let Some(left) = self.left.get_mut(&from) {
            if *left == 0 {
                return;
            }
            *left -= 1;
        }
        if self.tapped.contains(&from) && self.tapped.contains(&to) {
            if self.copies.len() >= 1_000 {
                self.copies.pop_front();
            }
            self.copies.push_back((from, to, bytes.into()));
        }
        self.flying.push_back((Instant::now() + DELAY, from, to, bytes.into()));
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.cut.contains(&to) {
            return;
        }
        *self.delivered.entry(to).or_default() += 1;
        let Some(port) = self.ports.get_mut(&to) else { return };
        if port.waiting.len() >= ROOM {
            self.lost += 1;
            return;
        }
        port.waiting.push_back((from, bytes));
        if let Some(waker) = port.waker.take() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct Socket {
    net: Net,
    at: SocketAddr,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.net.inner().go(self.at, transmit.destination, transmit.contents);
        self.net.sent.notify_one();
        Ok(())
    }
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.net.inner();
        let port = inner.ports.entry(self.at).or_default();
        let mut many = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let Some((addr, bytes)) = port.waiting.pop_front() else { break };
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            many += 1;
        }
        if many > 0 {
            return Poll::Ready(Ok(many));
        }
        port.waker = Some(cx.waker().clone());
        Poll::Pending
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

/// There is always room to send.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
