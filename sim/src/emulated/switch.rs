//! A switch that learns where addresses are.

use std::collections::BTreeMap;

use apus_dispatch::Mac;
use apus_engine::NodeId;

use super::packet::read;

/// Where a cable is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Port {
    /// A node.
    Node(u16),
    /// A machine of clients.
    Machine(u16),
    /// Whoever makes trouble, and routers.
    Stranger,
    /// The cable to a real Ethernet.
    Outside,
}

impl Port {
    /// The node behind it, if it is one.
    pub(super) const fn node(self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(NodeId(node)),
            Self::Machine(_) | Self::Stranger | Self::Outside => None,
        }
    }
}

/// Addresses that it can remember; a flood of sources pushes no known one out.
const REMEMBERED: usize = 1_024;

/// The switch.
#[derive(Clone, Debug, Default)]
pub(super) struct Switch {
    learned: BTreeMap<Mac, Port>,
    /// The first address that was seen at a port.
    first: BTreeMap<Port, Mac>,
}

impl Switch {
    /// Where a frame goes; `None`: the port may not send by this address.
    pub(super) fn forward(
        &mut self,
        from: Port,
        bytes: &[u8],
        secure: bool,
        all: impl Iterator<Item = Port>,
    ) -> Option<Vec<Port>> {
        let (Some(to), Some(sender)) = (read::<6>(bytes, 0), read::<6>(bytes, 6)) else { return Some(Vec::new()) };
        if sender[0] & 1 == 0 {
            let first = *self.first.entry(from).or_insert(sender);
            if secure && first != sender {
                return None;
            }
            if self.learned.len() < REMEMBERED || self.learned.contains_key(&sender) {
                self.learned.insert(sender, from);
            }
        }
        match self.learned.get(&to) {
            Some(port) if to[0] & 1 == 0 => Some(if *port == from { Vec::new() } else { vec![*port] }),
            _ => Some(all.filter(|port| *port != from).collect()),
        }
    }

    /// Knows no address any more.
    pub(super) fn forget(&mut self) {
        self.learned.clear();
    }
}
