//! Clients: connections that stay and ask at a steady pace, answered or not, and datagrams at a steady pace, which tell how long
//! nobody answered.
//!
//! It obeys lines on its standard input: `mark` begins a window; `report` answers with a line of JSON; `renew` replaces broken
//! connections, and with a server's number those too that wait for it; `life MS` ends connections in order at that age and opens
//! new ones (0: they stay). It ends with its standard input.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

use crate::serve::PORT;

/// Between two questions on one connection.
const ASK: Duration = Duration::from_millis(500);
/// Between two datagrams of one flow.
const PROBE: Duration = Duration::from_millis(5);
/// Flows of datagrams.
const FLOWS: usize = 40;
/// A question without an answer for so long: the connection is broken.
const GIVE_UP: Duration = Duration::from_secs(15);
/// An answer is late after so long.
const LATE: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Connection {
    server: Option<u8>,
    broken: Option<String>,
    /// Since when the oldest question without an answer was due; a connect is one.
    waits: Option<Instant>,
    task: Option<AbortHandle>,
}

#[derive(Clone, Copy)]
struct Flow {
    server: Option<u8>,
    /// When the newest answered datagram was sent, and the longest time between two of them in this window.
    answered: Option<Instant>,
    gap: Duration,
}

struct Load {
    target: Ipv4Addr,
    sources: Vec<Ipv4Addr>,
    connections: RefCell<Vec<Connection>>,
    flows: RefCell<Vec<Flow>>,
    /// From when a question was due to its answer, in microseconds, in this window.
    latency: RefCell<Histogram<u64>>,
    /// The longest time in this window that this process itself was behind.
    behind: Cell<Duration>,
    life: Cell<Duration>,
    /// Connections that ended in order.
    ended: Cell<u64>,
}

pub(crate) fn load(target: Ipv4Addr, sources: Vec<Ipv4Addr>, connections: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let flow = Flow { server: None, answered: None, gap: Duration::ZERO };
    let load = Rc::new(Load {
        target,
        sources,
        connections: RefCell::new((0..connections).map(|_| Connection::default()).collect()),
        flows: RefCell::new(vec![flow; FLOWS]),
        latency: RefCell::new(Histogram::new(3).map_err(io::Error::other)?),
        behind: Cell::default(),
        life: Cell::default(),
        ended: Cell::default(),
    });
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        for number in 0..FLOWS {
            tokio::task::spawn_local(load.clone().flow(number));
        }
        for number in 0..connections {
            load.open(number);
            if number % 8 == 7 {
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        }
        let (to, mut from) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = from.recv().await {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["mark"] => load.mark(),
                ["renew"] => load.renew(None),
                ["renew", server] => load.renew(server.parse().ok()),
                ["life", ms] => load.life.set(Duration::from_millis(ms.parse().unwrap_or_default())),
                _ => println!("{}", load.report()),
            }
        }
        Ok(())
    })
}

impl Load {
    fn mark(&self) {
        self.latency.borrow_mut().reset();
        self.behind.set(Duration::ZERO);
        self.ended.set(0);
        for flow in self.flows.borrow_mut().iter_mut() {
            flow.gap = Duration::ZERO;
        }
    }

    fn open(self: &Rc<Self>, number: usize) {
        let load = self.clone();
        let task = tokio::task::spawn_local(async move {
            loop {
                let result = load.talk(number).await;
                let connection = &mut load.connections.borrow_mut()[number];
                connection.waits = None;
                if let Err(error) = result {
                    connection.broken = Some(error.to_string());
                    return;
                }
                load.ended.set(load.ended.get() + 1);
                connection.server = None;
            }
        });
        self.connections.borrow_mut()[number] = Connection { task: Some(task.abort_handle()), ..Connection::default() };
    }

    fn renew(self: &Rc<Self>, struck: Option<u8>) {
        let old: Vec<usize> = {
            let connections = self.connections.borrow();
            let waits = |one: &Connection| one.waits.is_some() && struck.is_some() && one.server == struck;
            (0..connections.len()).filter(|n| connections[*n].broken.is_some() || waits(&connections[*n])).collect()
        };
        for number in old {
            if let Some(task) = self.connections.borrow_mut()[number].task.take() {
                task.abort();
            }
            self.open(number);
        }
    }

    fn report(&self) -> Value {
        let now = Instant::now();
        let connections = self.connections.borrow();
        let mut broken = Vec::new();
        let mut servers = BTreeMap::<String, u32>::new();
        let mut late = BTreeMap::<String, u32>::new();
        for connection in connections.iter() {
            let server = connection.server.map_or("none".into(), |server| server.to_string());
            if let Some(why) = &connection.broken {
                broken.push(json!({"server": connection.server, "why": why}));
                continue;
            }
            if connection.waits.is_some_and(|since| now.saturating_duration_since(since) > LATE) {
                *late.entry(server.clone()).or_default() += 1;
            }
            *servers.entry(server).or_default() += 1;
        }
        let (mut gaps, mut silent) = (Vec::new(), Duration::ZERO);
        for flow in self.flows.borrow().iter() {
            let open = flow.answered.map_or(GIVE_UP, |answered| now.saturating_duration_since(answered));
            gaps.push(flow.gap.max(open).saturating_sub(PROBE).as_micros());
            silent = silent.max(open);
        }
        let latency = self.latency.borrow();
        json!({
            "broken": broken,
            "servers": servers,
            "late": late,
            "gaps_us": gaps,
            "silent_us": silent.as_micros(),
            "latency_us": [latency.value_at_quantile(0.5), latency.value_at_quantile(0.99), latency.max()],
            "answers": latency.len(),
            "behind_us": self.behind.get().as_micros(),
            "ended": self.ended.get(),
        })
    }

    fn source(&self, number: usize) -> Ipv4Addr {
        self.sources[number % self.sources.len()]
    }

    /// A connection until it has reached its age; an error if it broke.
    async fn talk(&self, number: usize) -> io::Result<()> {
        self.connections.borrow_mut()[number].waits = Some(Instant::now());
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.source(number), 0).into())?;
        let connecting = tokio::time::timeout(GIVE_UP, socket.connect((self.target, PORT).into()));
        let stream = connecting.await.map_err(|_| io::Error::other("no connection in 15 s"))??;
        stream.set_nodelay(true)?;
        self.connections.borrow_mut()[number].waits = None;
        self.ask(number, stream).await
    }

    async fn ask(&self, number: usize, mut stream: TcpStream) -> io::Result<()> {
        let began = Instant::now();
        let mut due = began + ASK.mul_f64((number % 97) as f64 / 97.0);
        let mut asked = VecDeque::<(u64, Instant)>::new();
        let (mut count, mut got, mut bytes) = (0_u64, Vec::new(), [0; 256]);
        loop {
            let life = self.life.get();
            let ends = life > Duration::ZERO && began.elapsed() > life.mul_f64(0.5 + (number % 16) as f64 / 32.0);
            if ends && asked.is_empty() && got.is_empty() {
                stream.shutdown().await?;
                let left = tokio::time::timeout(GIVE_UP, stream.read(&mut bytes)).await.map_err(io::Error::other)??;
                return if left == 0 { Ok(()) } else { Err(io::Error::other("an answer to no question")) };
            }
            let limit = asked.front().map_or(due, |(_, first)| *first + GIVE_UP);
            tokio::select! {
                () = tokio::time::sleep_until(due.into()), if !ends => {
                    count += 1;
                    self.late(due);
                    asked.push_back((count, due));
                    due += ASK;
                    stream.write_all(&count.to_be_bytes()).await?;
                }
                read = stream.read(&mut bytes) => {
                    let read = read?;
                    if read == 0 {
                        return Err(io::Error::other("closed by the server"));
                    }
                    got.extend_from_slice(&bytes[..read]);
                }
                () = tokio::time::sleep_until(limit.into()), if !asked.is_empty() => {
                    return Err(io::Error::other("no answer for 15 s"));
                }
            }
            while let Some((answer, _)) = got.split_first_chunk::<9>() {
                let (wanted, since) = asked.pop_front().unwrap_or((0, began));
                if answer[1..] != wanted.to_be_bytes() {
                    return Err(io::Error::other("an answer to another question"));
                }
                self.answered(number, answer[0], since)?;
                got.drain(..9);
            }
            self.connections.borrow_mut()[number].waits = asked.front().map(|(_, since)| *since);
        }
    }

    fn late(&self, due: Instant) {
        self.behind.set(self.behind.get().max(Instant::now().saturating_duration_since(due)));
    }

    fn answered(&self, number: usize, server: u8, since: Instant) -> io::Result<()> {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let _ = self.latency.borrow_mut().record(us);
        let connection = &mut self.connections.borrow_mut()[number];
        if connection.server.is_some_and(|before| before != server) {
            return Err(io::Error::other(format!("server {server} answered too")));
        }
        connection.server = Some(server);
        Ok(())
    }

    async fn flow(self: Rc<Self>, number: usize) {
        let Ok(socket) = UdpSocket::bind((self.source(number), 0)).await else { return };
        let socket = Rc::new(socket);
        let began = Instant::now();
        let (sender, load) = (socket.clone(), self.clone());
        let target = (self.target, PORT);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(PROBE);
            loop {
                let due = ticks.tick().await;
                load.late(due.into());
                let sent = u64::try_from(began.elapsed().as_micros()).unwrap_or_default();
                let _ = sender.send_to(&sent.to_be_bytes(), target).await;
            }
        });
        let mut bytes = [0; 64];
        loop {
            let Ok((9, _)) = socket.recv_from(&mut bytes).await else { continue };
            let sent = u64::from_be_bytes(bytes[1..9].try_into().unwrap_or_default());
            let sent = began + Duration::from_micros(sent);
            let flow = &mut self.flows.borrow_mut()[number];
            flow.server = Some(bytes[0]);
            if let Some(before) = flow.answered {
                flow.gap = flow.gap.max(sent.saturating_duration_since(before));
            }
            flow.answered = flow.answered.max(Some(sent));
        }
    }
}
