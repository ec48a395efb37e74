//! The planes with the dispatch core in a thread of this process. One has its frames from a packet socket, one from `AF_XDP` sockets,
//! one by TAP devices alone.
//!
//! A packet socket sees copies, before all rules. Rules of the plane's own keep the frames from the system, which gets those that are
//! for it by a port of its own: it neither begins a connection nor ends one before the core has asked the other servers.

use std::collections::VecDeque;
use std::io;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use apus_dispatch::{Block, Claim, Head, Here, Key, Mac, NOBODY, Reason, Slot, Table, Verdict};

use super::choose::Port;
use super::clock;
use super::handed::{Full, Handed, Leave, hand_over};
use super::ring::{BEFORE, Ring, send, sender};
use super::rules::{Rules, Way};
use super::sockets::{Connections, Sockets};
use super::system::{at, driver};
use super::tap::Tap;
use super::xdp::cable;
use super::xsk::{Xsk, lost};
use crate::plane::{Counters, Plane};
use crate::trace::{Trace, Tracer};

/// Most frames at a time.
pub(super) const BATCH: usize = 32;
/// Waits end after so long at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// Foreign claims that wait to be asked for.
const CLAIMS: usize = 64;

/// What both threads see.
struct Shared {
    here: Mutex<Here>,
    /// The table, and this node's place in it.
    block: Mutex<(Arc<Vec<u8>>, u16)>,
    /// How many tables there have been.
    tables: AtomicU64,
    claims: Mutex<VecDeque<Option<Claim>>>,
    pass: AtomicU64,
    local: AtomicU64,
    transmit: AtomicU64,
    unsent: AtomicU64,
    lost: AtomicU64,
    /// What had to be done and was not.
    refused: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    ended: AtomicU64,
    tracer: Tracer,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where frames come from.
enum Source {
    /// Copies, of which the system gets what the plane gives it.
    Packet(Ring),
    /// The frames themselves.
    Early(Xsk),
    /// The frames themselves, by a TAP device.
    Handed(Handed),
}

impl Source {
    /// At most [`BATCH`] frames at a time, each behind what precedes it.
    fn take(&mut self, mut act: impl FnMut(&mut [&mut [u8]])) -> bool {
        match self {
            Self::Packet(ring) => ring.take(|mut bytes| act(std::slice::from_mut(&mut bytes))),
            Self::Early(xsk) => xsk.take(act),
            Self::Handed(handed) => handed.take(act),
        }
    }

    /// So long at most. False if the port is down for now.
    fn wait(&self, other: RawFd, most: Duration) -> bool {
        match self {
            Self::Packet(ring) => ring.wait(other, most),
            Self::Early(xsk) => {
                xsk.wait(other);
                true
            }
            Self::Handed(handed) => {
                handed.wait(other, most);
                true
            }
        }
    }
}

/// By which frames leave.
#[derive(Clone)]
enum Out {
    Socket(Arc<OwnedFd>),
    Tap(Arc<Leave>),
}

impl Out {
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(socket) => send(socket.as_raw_fd(), frame),
            Self::Tap(leave) => leave.put(frame),
        }
    }
}

/// Where frames are counted that came and found no room.
enum Lost {
    Packet(OwnedFd),
    Early(Vec<OwnedFd>),
    Handed(Full),
}

/// A source of frames, a way for them to leave, a thread, and a TAP device.
pub struct PacketPlane {
    name: &'static str,
    shared: Arc<Shared>,
    out: Out,
    lost: Lost,
    tap: String,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for PacketPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketPlane").field("tap", &self.tap).finish_non_exhaustive()
    }
}

impl PacketPlane {
    /// Takes a port.
    ///
    /// # Errors
    /// If the system refuses a packet socket or a TAP device: without the right `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn new(port: &Port) -> io::Result<Self> {
        let tap = Tap::new(port.mac)?;
        let v4 = port.v4.map_or([0; 4], |v4| v4.octets());
        let place = format!("packet socket on {}", port.name);
        let ring = Ring::new(&port.name, v4, port.v6.map(solicited)).map_err(at(&place))?;
        let (out, lost) = (Out::Socket(ring.sender()?.into()), Lost::Packet(ring.sender()?));
        let rules = Rules::new(port, &Way::Copies)?;
        Self::start("af-packet", port, Source::Packet(ring), Some(rules), out, lost, tap.into())
    }

    /// Takes a port by `AF_XDP` sockets.
    ///
    /// # Errors
    /// As [`PacketPlane::new`], or without the right to load programs, or on a virtual cable that was not asked for.
    pub(super) fn early(port: &Port, asked: bool) -> io::Result<Self> {
        if !asked && driver(&port.name).is_ok_and(|name| name == "veth") {
            return Err(cable("af-xdp"));
        }
        let tap = Tap::new(port.mac)?;
        let socket = sender(&port.name)?;
        let xsk = Xsk::new(port, socket.as_raw_fd())?;
        let lost = Lost::Early(xsk.handles()?);
        Self::start("af-xdp", port, Source::Early(xsk), None, Out::Socket(socket.into()), lost, tap.into())
    }

    /// Takes a port by TAP devices and rules of nftables.
    ///
    /// # Errors
    /// Without the right `CAP_NET_ADMIN`; if the kernel does not know the rules, or another process has made them.
    pub(super) fn handed(port: &Port) -> io::Result<Self> {
        let tap = Arc::new(Tap::new(port.mac)?);
        let (handed, rules, leave, full) = hand_over(port, &tap)?;
        Self::start("tap", port, Source::Handed(handed), Some(rules), Out::Tap(leave.into()), Lost::Handed(full), tap)
    }

    fn start(
        name: &'static str,
        port: &Port,
        source: Source,
        rules: Option<Rules>,
        out: Out,
        lost: Lost,
        tap: Arc<Tap>,
    ) -> io::Result<Self> {
        let v4 = port.v4.map_or([0; 4], |v4| v4.octets());
        let device = tap.name().to_owned();
        let (wake, woken) = UnixStream::pair()?;
        let here = Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: 0, fresh: false, mac: port.mac };
        let shared = Arc::new(Shared {
            here: Mutex::new(here),
            block: Mutex::new((Arc::default(), NOBODY)),
            tables: AtomicU64::new(0),
            claims: Mutex::default(),
            pass: AtomicU64::new(0),
            local: AtomicU64::new(0),
            transmit: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: std::array::from_fn(|_| AtomicU64::new(0)),
            ended: AtomicU64::new(0),
            tracer: Tracer::default(),
        });
        let sockets = Sockets::new().map_err(at("asking the kernel for its sockets"))?;
        let v6 = port.v6.map_or([0; 16], |v6| v6.octets());
        let mut worker =
            Worker { shared: shared.clone(), rules, source, out: out.clone(), tap, sockets, woken, v4, v6 };
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || worker.work())?;
        Ok(Self { name, shared, out, lost, tap: device, wake, thread: Some(thread) })
    }
}

impl Plane for PacketPlane {
    fn name(&self) -> &'static str {
        self.name
    }

    fn publish(&mut self, block: &[u8], here: &Here) -> io::Result<()> {
        Block::new(block).map_err(io::Error::other)?;
        *lock(&self.shared.block) = (Arc::new(block.to_vec()), here.server);
        *lock(&self.shared.here) = *here;
        self.shared.tables.fetch_add(1, Ordering::Release);
        (&self.wake).write_all(&[0])
    }

    fn stand(&mut self, here: &Here) -> io::Result<()> {
        *lock(&self.shared.here) = *here;
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut whole = vec![0; BEFORE];
        whole.extend_from_slice(frame);
        if let Out::Tap(leave) = &self.out {
            leave.check()?;
        }
        self.out.send(&whole)
    }

    fn counters(&mut self) -> io::Result<Counters> {
        let shared = &self.shared;
        match &self.lost {
            // Since the last question.
            Lost::Packet(socket) => {
                shared.lost.fetch_add(Ring::lost(socket.as_raw_fd()), Ordering::Relaxed);
            }
            Lost::Early(sockets) => shared.lost.store(lost(sockets), Ordering::Relaxed),
            Lost::Handed(full) => shared.lost.store(full.lost(), Ordering::Relaxed),
        }
        let plain = [
            ("pass", &shared.pass),
            ("local", &shared.local),
            ("transmit", &shared.transmit),
            ("not-sent", &shared.unsent),
            ("ring-full", &shared.lost),
            ("rules-not-renewed", &shared.refused),
        ];
        let reasons = Reason::ALL.iter().map(|reason| reason.name()).zip(&shared.dropped);
        Ok(plain.into_iter().chain(reasons).map(|(name, count)| (name.into(), count.load(Ordering::Relaxed))).collect())
    }

    fn trace(&mut self, bytes: usize) -> io::Result<Trace> {
        Ok(self.shared.tracer.start(bytes))
    }

    fn claims(&mut self) -> Vec<Option<Claim>> {
        lock(&self.shared.claims).drain(..).collect()
    }
}

impl Drop for PacketPlane {
    fn drop(&mut self) {
        self.shared.ended.store(1, Ordering::Release);
        let _ = (&self.wake).write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The group's hardware address by which an IPv6 address is asked for (RFC 4291, section 2.7.1; RFC 2464, section 7).
pub(super) fn solicited(v6: Ipv6Addr) -> Mac {
    let [.., a, b, c] = v6.octets();
    [0x33, 0x33, 0xff, a, b, c]
}

/// Before the first table: the addresses alone, so that nobody else answers for them.
struct NoTable([u8; 4], [u8; 16]);

impl Table for NoTable {
    fn head(&self) -> Head {
        let Self(v4, v6) = *self;
        Head { epoch: 0, seed: 0, log2_slots: 4, key: Key::Source, v4, v6, claim: [0; 6] }
    }
    fn slot(&self, _: u32) -> Slot {
        Slot { server: NOBODY, former: NOBODY }
    }
    fn server(&self, _: u16) -> Option<Mac> {
        None
    }
}

/// The thread that has the frames.
struct Worker {
    shared: Arc<Shared>,
    /// Go before the source does.
    rules: Option<Rules>,
    source: Source,
    out: Out,
    tap: Arc<Tap>,
    sockets: Sockets,
    woken: UnixStream,
    v4: [u8; 4],
    v6: [u8; 16],
}

impl Worker {
    fn work(&mut self) {
        let _ = self.woken.set_nonblocking(true);
        while self.shared.ended.load(Ordering::Acquire) == 0 {
            let tables = self.shared.tables.load(Ordering::Acquire);
            let (bytes, place) = lock(&self.shared.block).clone();
            match Block::new(&bytes) {
                Ok(block) => self.under(&block, place, tables),
                Err(_) => self.under(&NoTable(self.v4, self.v6), NOBODY, tables),
            }
        }
    }

    /// Until there is another table.
    fn under<T: Table>(&mut self, table: &T, place: u16, tables: u64) {
        let Self { shared, rules, source, out, tap, sockets, woken, v4, v6 } = self;
        let head = table.head();
        let hooks = Connections { sockets, v4: *v4, v6: *v6 };
        loop {
            if shared.tables.load(Ordering::Acquire) != tables || shared.ended.load(Ordering::Acquire) != 0 {
                return;
            }
            if rules.as_mut().is_some_and(|rules| !rules.renew()) {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            let more =
                source.take(|bytes: &mut [&mut [u8]]| shared.frames((table, &head, place), &hooks, tap, out, bytes));
            if !more {
                if !source.wait(woken.as_raw_fd(), rules.as_ref().map_or(LOOK, Rules::left)) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let _ = io::Read::read(woken, &mut [0; 64]);
            }
        }
    }
}

impl Shared {
    fn frames<T: Table>(
        &self,
        (table, head, place): (&T, &Head, u16),
        hooks: &Connections<'_>,
        tap: &Tap,
        out: &Out,
        batch: &mut [&mut [u8]],
    ) {
        let mut verdicts = [Verdict::Drop(Reason::Runt); BATCH];
        let mut frames: [&mut [u8]; BATCH] = std::array::from_fn(|_| &mut [][..]);
        let many = batch.len().min(BATCH);
        for (frame, bytes) in frames.iter_mut().zip(&mut *batch) {
            *frame = bytes.get_mut(BEFORE..).unwrap_or_default();
        }
        // The clock is read last: whatever held this thread up before has counted.
        let mut here = *lock(&self.here);
        here.now = clock::boot();
        // What it is in another table does not count yet, or no more.
        here.server = place;
        self.tracer.dispatch(&here, table, hooks, &mut frames[..many], &mut verdicts);
        for (bytes, verdict) in batch.iter_mut().zip(verdicts) {
            self.done(verdict, bytes, &here, head, tap, out);
        }
    }

    fn done(&self, verdict: Verdict, bytes: &mut [u8], here: &Here, head: &Head, tap: &Tap, out: &Out) {
        let one = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let Some((_, frame)) = bytes.split_at_mut_checked(BEFORE) else { return };
        match verdict {
            Verdict::Pass => one(&self.pass),
            Verdict::Local => {
                one(&self.local);
                if head.claim != [0; 6] {
                    frame[..6].copy_from_slice(&here.mac);
                }
                if tap.put(bytes).is_err() {
                    one(&self.unsent);
                }
            }
            Verdict::Transmit => {
                if out.send(bytes).is_ok() {
                    one(&self.transmit);
                } else {
                    one(&self.unsent);
                }
            }
            Verdict::Drop(reason) => {
                if let Some(count) = self.dropped.get(reason as usize) {
                    one(count);
                }
                if reason == Reason::ForeignClaim {
                    let mut claims = lock(&self.claims);
                    if claims.len() < CLAIMS {
                        claims.push_back(Claim::heard(&*frame));
                    }
                }
            }
        }
    }
}
