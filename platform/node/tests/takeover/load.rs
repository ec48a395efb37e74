//! Clients: connections that stay and ask again and again, and datagrams at a steady pace, which tell how long nobody answered.
//!
//! It obeys lines on its standard input: `reset`, `report` (a line of JSON on its standard output), and ends with it.

use std::cell::RefCell;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};

use crate::serve::PORT;

/// Between two questions on one connection.
const ASK: Duration = Duration::from_millis(500);
/// Between two datagrams of one flow.
pub(crate) const PROBE: Duration = Duration::from_millis(5);
/// Flows of datagrams.
const FLOWS: usize = 40;
/// A question without an answer for so long: the connection is broken.
const GIVE_UP: Duration = Duration::from_secs(15);

#[derive(Default, Clone)]
struct Connection {
    server: Option<u8>,
    broken: Option<String>,
    worst: Duration,
}

#[derive(Clone, Copy)]
struct Flow {
    server: Option<u8>,
    /// When the newest answered datagram was sent, and the longest time between two of them.
    answered: Option<Instant>,
    gap: Duration,
}

struct Load {
    target: Ipv4Addr,
    sources: Vec<Ipv4Addr>,
    connections: RefCell<Vec<Connection>>,
    flows: RefCell<Vec<Flow>>,
}

pub(crate) fn load(target: Ipv4Addr, sources: Vec<Ipv4Addr>, connections: usize) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let flow = Flow { server: None, answered: None, gap: Duration::ZERO };
    let load = Rc::new(Load {
        target,
        sources,
        connections: RefCell::new(vec![Connection::default(); connections]),
        flows: RefCell::new(vec![flow; FLOWS]),
    });
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        for number in 0..FLOWS {
            tokio::task::spawn_local(load.clone().flow(number));
        }
        for number in 0..connections {
            tokio::task::spawn_local(load.clone().connection(number));
            tokio::time::sleep(Duration::from_millis(1)).await;
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
            match line.as_str() {
                "reset" => load.reset(),
                _ => println!("{}", load.report()),
            }
        }
        Ok(())
    })
}

impl Load {
    fn reset(self: &Rc<Self>) {
        for (number, connection) in self.connections.borrow_mut().iter_mut().enumerate() {
            connection.worst = Duration::ZERO;
            if connection.broken.is_some() {
                *connection = Connection::default();
                tokio::task::spawn_local(self.clone().connection(number));
            }
        }
        for flow in self.flows.borrow_mut().iter_mut() {
            flow.gap = Duration::ZERO;
            flow.answered = None;
        }
    }

    fn report(&self) -> serde_json::Value {
        let connections = self.connections.borrow();
        let broken: Vec<_> = connections
            .iter()
            .filter_map(|connection| {
                connection.broken.as_ref().map(|why| json!({"server": connection.server, "why": why}))
            })
            .collect();
        let worst: Vec<u128> = connections.iter().map(|connection| connection.worst.as_micros()).collect();
        let mut servers = std::collections::BTreeMap::<String, u32>::new();
        for connection in connections.iter().filter(|connection| connection.broken.is_none()) {
            *servers.entry(connection.server.map_or("none".into(), |server| server.to_string())).or_default() += 1;
        }
        let now = Instant::now();
        let gaps: Vec<_> = self
            .flows
            .borrow()
            .iter()
            .map(|flow| {
                let open = flow.answered.map_or(GIVE_UP, |answered| now - answered);
                json!({"server": flow.server, "us": flow.gap.max(open).as_micros()})
            })
            .collect();
        json!({"broken": broken, "worst": worst, "servers": servers, "gaps": gaps})
    }

    fn source(&self, number: usize) -> Ipv4Addr {
        self.sources[number % self.sources.len()]
    }

    async fn connection(self: Rc<Self>, number: usize) {
        let result = self.talk(number).await;
        if let Err(error) = result {
            self.connections.borrow_mut()[number].broken = Some(error.to_string());
        }
    }

    async fn talk(&self, number: usize) -> io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.source(number), 0).into())?;
        let mut stream = socket.connect((self.target, PORT).into()).await?;
        stream.set_nodelay(true)?;
        let mut asked = 0_u64;
        loop {
            asked += 1;
            let began = Instant::now();
            stream.write_all(&asked.to_be_bytes()).await?;
            let mut answer = [0; 9];
            tokio::time::timeout(GIVE_UP, stream.read_exact(&mut answer)).await??;
            if answer[1..] != asked.to_be_bytes() {
                return Err(io::Error::other("an answer to another question"));
            }
            self.answered(number, answer[0], began.elapsed())?;
            tokio::time::sleep(ASK.saturating_sub(began.elapsed())).await;
        }
    }

    fn answered(&self, number: usize, server: u8, after: Duration) -> io::Result<()> {
        let connection = &mut self.connections.borrow_mut()[number];
        connection.worst = connection.worst.max(after);
        if connection.server.is_some_and(|before| before != server) {
            return Err(io::Error::other("another server answered"));
        }
        connection.server = Some(server);
        Ok(())
    }

    async fn flow(self: Rc<Self>, number: usize) {
        let Ok(socket) = UdpSocket::bind((self.source(number), 0)).await else { return };
        let socket = Rc::new(socket);
        let began = Instant::now();
        let sender = socket.clone();
        let target = (self.target, PORT);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(PROBE);
            loop {
                ticks.tick().await;
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
                flow.gap = flow.gap.max(sent.saturating_duration_since(before).saturating_sub(PROBE));
            }
            flow.answered = flow.answered.max(Some(sent));
        }
    }
}
