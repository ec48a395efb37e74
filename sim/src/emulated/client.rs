//! Machines of clients: real TCP connections to the cluster's address, one request after the other.

use apus_dispatch::Flow;
use apus_engine::{Rng, Seed};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Address, Ipv6Address};

use super::link::Link;
use super::packet::{CLUSTER_V4, CLUSTER_V6, PORT, wide};
use super::stack::Stack;
use crate::fault::{MS, Ns, S};

/// Bytes of a request and of its answer.
const REQUEST: usize = 300;
/// A connection attempt is given up after this long.
const CONNECT: Ns = 1_500 * MS;
/// A request is given up after this long.
const PATIENCE: Ns = 3 * S;
/// Some clients end their connection after so many requests.
const SHORT: u32 = 5;

#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Nothing, until then.
    Rests(Ns),
    /// Connects, since then.
    Connects(Ns),
    /// Is connected, and asks then.
    Asks(Ns),
    /// Has asked at that time; so many bytes of the answer are there.
    Reads(Ns, usize),
}

/// What happened to a client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Story {
    /// It ended, as the client wished or because it gave up.
    Over(Flow),
    /// The other side broke it off.
    Reset(Flow),
    /// The answer was not what was asked.
    Wrong(Flow),
    /// A request was answered, so long after it was asked.
    Answered(Ns),
    /// A datagram came back whole.
    Echoed,
}

/// One client.
struct Client {
    v6: bool,
    /// Ends its connections.
    short: bool,
    handle: Option<SocketHandle>,
    flow: Flow,
    doing: Doing,
    requests: u32,
    answered: Ns,
}

/// One machine.
pub(super) struct Machine {
    pub(super) link: Link,
    pub(super) stack: Stack,
    /// When it is looked at next.
    pub(super) timer: Ns,
    number: u16,
    rng: Rng,
    every: Ns,
    clients: Vec<Client>,
    closing: Vec<SocketHandle>,
    datagrams: SocketHandle,
    next_port: u16,
}

fn byte(machine: u16, request: u32, at: usize) -> u8 {
    (u64::from(machine) * 31 + u64::from(request) * 7 + at as u64) as u8
}

impl Machine {
    /// A machine; clients are added by [`host`](Self::host).
    pub(super) fn new(seed: u64, number: u16, every: Ns) -> Self {
        let [high, low] = number.to_be_bytes();
        let mac = [2, 8, 1, 0, high, low];
        let v4 = [10, 8, 1 + high, low];
        let v6 = [0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, high, low];
        let seed = Seed(seed).derive("machine").nth(u64::from(number));
        let mut rng = seed.stream("clients");
        let mut stack = Stack::new(rng.next(), 0, v4, v6);
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 16_384]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        let bound = socket.bind(5_000);
        assert!(bound.is_ok(), "the port is free");
        let datagrams = stack.sockets.add(socket);
        Self {
            link: Link::new(mac, v4, v6),
            stack,
            timer: Ns::MAX,
            number,
            rng,
            every,
            clients: Vec::new(),
            closing: Vec::new(),
            datagrams,
            next_port: 20_000,
        }
    }

    /// One more client lives here.
    pub(super) fn host(&mut self, nth: u16, starts: Ns) {
        let v6 = nth % 3 == 2;
        let flow = Flow { client: [0; 16], v6, port: 0, cluster_port: PORT };
        let doing = Doing::Rests(starts);
        self.clients.push(Client { v6, short: nth % 4 == 3, handle: None, flow, doing, requests: 0, answered: 0 });
    }

    /// When the slowest client was answered last.
    pub(super) fn last_answer(&self) -> Ns {
        self.clients.iter().map(|client| client.answered).min().unwrap_or(Ns::MAX)
    }

    /// Sends a datagram of this many bytes.
    pub(super) fn datagram(&mut self, bytes: usize) {
        let data: Vec<u8> = (0..bytes).map(|at| byte(self.number, 0, at)).collect();
        let to = IpEndpoint::new(IpAddress::Ipv4(Ipv4Address::from(CLUSTER_V4)), PORT);
        let _ = self.stack.sockets.get_mut::<udp::Socket<'_>>(self.datagrams).send_slice(&data, to);
    }

    /// Lets stack and clients work; what happened.
    pub(super) fn work(&mut self, now: Ns) -> Vec<Story> {
        self.link.tick(now);
        self.stack.poll(now);
        let mut stories = Vec::new();
        let socket = self.stack.sockets.get_mut::<udp::Socket<'_>>(self.datagrams);
        while let Ok((data, _)) = socket.recv() {
            if data.iter().enumerate().all(|(at, got)| *got == byte(self.number, 0, at)) {
                stories.push(Story::Echoed);
            }
        }
        for at in 0..self.clients.len() {
            self.act(now, at, &mut stories);
        }
        let sockets = &mut self.stack.sockets;
        self.closing.retain(|handle| {
            let over =
                matches!(sockets.get::<tcp::Socket<'_>>(*handle).state(), tcp::State::Closed | tcp::State::TimeWait);
            if over {
                sockets.remove(*handle);
            }
            !over
        });
        self.stack.poll(now);
        stories
    }

    /// When there is something to do again.
    pub(super) fn next(&mut self, now: Ns) -> Ns {
        let clients = self.clients.iter().map(|client| match client.doing {
            Doing::Rests(at) | Doing::Asks(at) => at,
            Doing::Connects(since) => since + CONNECT,
            Doing::Reads(since, _) => since + PATIENCE,
        });
        let first = clients.chain(self.link.next()).chain(self.stack.next(now)).min();
        first.map_or(Ns::MAX, |at| at.max(now + 1_000))
    }

    fn pause(&mut self) -> Ns {
        self.every / 2 + self.rng.below(self.every + 1)
    }

    fn connect(&mut self, now: Ns, at: usize) {
        let buffer = || tcp::SocketBuffer::new(vec![0; 2_048]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.next_port = if self.next_port >= 60_000 { 20_000 } else { self.next_port + 1 };
        let port = self.next_port;
        let client = &mut self.clients[at];
        let (to, own, wide) = if client.v6 {
            let own = self.link.v6;
            (IpAddress::Ipv6(Ipv6Address::from(CLUSTER_V6)), IpAddress::Ipv6(Ipv6Address::from(own)), own)
        } else {
            let own = self.link.v4;
            (IpAddress::Ipv4(Ipv4Address::from(CLUSTER_V4)), IpAddress::Ipv4(Ipv4Address::from(own)), wide(own))
        };
        let handle = self.stack.sockets.add(socket);
        let (interface, sockets) = self.stack.parts();
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        let done = socket.connect(interface.context(), (to, PORT), (own, port));
        assert!(done.is_ok(), "a fresh socket connects: {done:?}");
        client.flow = Flow { client: wide, v6: client.v6, port, cluster_port: PORT };
        client.handle = Some(handle);
        client.doing = Doing::Connects(now);
        client.requests = 0;
    }

    fn act(&mut self, now: Ns, at: usize, stories: &mut Vec<Story>) {
        let pause = self.pause();
        let client = &mut self.clients[at];
        let Some(handle) = client.handle else {
            if let Doing::Rests(until) = client.doing
                && until <= now
            {
                self.connect(now, at);
            }
            return;
        };
        let socket = self.stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.state() == tcp::State::Closed {
            // The client does not close: it hands what it closes over.
            stories.push(if matches!(client.doing, Doing::Connects(_)) {
                Story::Over(client.flow)
            } else {
                Story::Reset(client.flow)
            });
            self.stack.sockets.remove(handle);
            (client.handle, client.doing) = (None, Doing::Rests(now + 50 * MS));
            return;
        }
        let give_up = match client.doing {
            Doing::Rests(_) => false,
            Doing::Connects(since) => since + CONNECT <= now,
            Doing::Asks(since) => since + PATIENCE <= now,
            Doing::Reads(since, _) => since + PATIENCE <= now,
        };
        if give_up {
            socket.abort();
            stories.push(Story::Over(client.flow));
            self.closing.push(handle);
            (client.handle, client.doing) = (None, Doing::Rests(now + 50 * MS));
            return;
        }
        match client.doing {
            Doing::Connects(_) if socket.may_send() => client.doing = Doing::Asks(now),
            Doing::Asks(then) if then <= now => {
                let data: Vec<u8> = (0..REQUEST).map(|place| byte(self.number, client.requests, place)).collect();
                if socket.send_slice(&data).is_ok_and(|sent| sent == REQUEST) {
                    client.doing = Doing::Reads(now, 0);
                }
            }
            Doing::Reads(since, mut got) => {
                let mut right = true;
                while socket.can_recv() {
                    let mut data = [0; REQUEST];
                    let Ok(many) = socket.recv_slice(&mut data) else { break };
                    right &= data[..many]
                        .iter()
                        .enumerate()
                        .all(|(place, data)| *data == byte(self.number, client.requests, got + place));
                    got += many;
                }
                if !right || got > REQUEST {
                    stories.push(Story::Wrong(client.flow));
                }
                client.doing = Doing::Reads(since, got);
                if got >= REQUEST {
                    stories.push(Story::Answered(now - since));
                    client.answered = now;
                    client.requests += 1;
                    client.doing = Doing::Asks(now + pause);
                    if client.short && client.requests >= SHORT {
                        socket.close();
                        stories.push(Story::Over(client.flow));
                        self.closing.push(handle);
                        (client.handle, client.doing) = (None, Doing::Rests(now + pause));
                    }
                }
            }
            _ => {}
        }
    }
}
