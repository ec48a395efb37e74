//! A machine's TCP/IP: a smoltcp stack over packets. What lies below, addresses of Ethernet, is [`link`](super::link).

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address};

use crate::fault::Ns;

/// Bytes of a packet at most.
pub(super) const MTU: usize = 1_500;

/// Packets on their way up and down.
#[derive(Debug, Default)]
struct Packets {
    up: VecDeque<Vec<u8>>,
    down: Vec<Vec<u8>>,
}

struct Up(Vec<u8>);

impl RxToken for Up {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, call: F) -> R {
        call(&self.0)
    }
}

struct Down<'p>(&'p mut Vec<Vec<u8>>);

impl TxToken for Down<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, call: F) -> R {
        let mut packet = vec![0; len];
        let result = call(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Packets {
    type RxToken<'a> = Up;
    type TxToken<'a> = Down<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Up, Down<'_>)> {
        Some((Up(self.up.pop_front()?), Down(&mut self.down)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Down<'_>> {
        Some(Down(&mut self.down))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// One stack with its sockets.
pub(super) struct Stack {
    interface: Interface,
    packets: Packets,
    pub(super) sockets: SocketSet<'static>,
}

fn instant(now: Ns) -> Instant {
    Instant::from_micros(i64::try_from(now / 1_000).unwrap_or(i64::MAX))
}

impl Stack {
    /// A stack with these addresses.
    pub(super) fn new(seed: u64, now: Ns, v4: [u8; 4], v6: [u8; 16]) -> Self {
        let mut packets = Packets::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut packets, instant(now));
        interface.update_ip_addrs(|addresses| {
            let v4 = IpCidr::new(IpAddress::Ipv4(Ipv4Address::from(v4)), 16);
            let v6 = IpCidr::new(IpAddress::Ipv6(Ipv6Address::from(v6)), 64);
            for address in [v4, v6] {
                assert!(addresses.push(address).is_ok(), "a stack has room for two addresses");
            }
        });
        Self { interface, packets, sockets: SocketSet::new(Vec::new()) }
    }

    /// A packet comes up.
    pub(super) fn take(&mut self, packet: Vec<u8>) {
        self.packets.up.push_back(packet);
    }

    /// Takes the newest packet that came up back, and forgets those before.
    pub(super) fn taken(&mut self) -> Option<Vec<u8>> {
        let newest = self.packets.up.pop_back();
        self.packets.up.clear();
        newest
    }

    /// Works on all that is due.
    pub(super) fn poll(&mut self, now: Ns) {
        let _ = self.interface.poll(instant(now), &mut self.packets, &mut self.sockets);
    }

    /// The packets that go down.
    pub(super) fn down(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.packets.down)
    }

    /// When it has to be polled next.
    pub(super) fn next(&mut self, now: Ns) -> Option<Ns> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        let at = u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000);
        // Its clock counts microseconds: a timer is never early, nor twice at one instant.
        Some(at.max(now + 1_000))
    }

    /// For what needs the interface besides a socket, as a connect does.
    pub(super) fn parts(&mut self) -> (&mut Interface, &mut SocketSet<'static>) {
        (&mut self.interface, &mut self.sockets)
    }
}
