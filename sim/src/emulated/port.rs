//! One node's port by itself, for those who compare it with other data planes frame by frame.

use apus_dispatch::{Act, Flow, Here, Mac, Verdict};
use apus_engine::NodeId;
use smoltcp::iface::SocketHandle;

use super::node::Node;

/// A node of the emulated world without its cable: frames are put into its network card by hand.
pub struct NodePort {
    node: Node,
    now: u64,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What the card decided.
    pub verdict: Verdict,
    /// What went out on the wire.
    pub sent: Option<Vec<u8>>,
    /// The IP packet that waits for the machine's stack now.
    pub up: Option<Vec<u8>>,
}

impl std::fmt::Debug for NodePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodePort").finish_non_exhaustive()
    }
}

impl NodePort {
    /// A port without a table. These connections have a socket on its machine.
    #[must_use]
    pub fn new(connections: impl IntoIterator<Item = Flow>) -> Self {
        let mut node = Node::new(NodeId(0), 0, None);
        node.flows.extend(connections.into_iter().map(|flow| (flow, SocketHandle::default())));
        Self { node, now: 0 }
    }

    /// Puts a table into use.
    pub fn publish(&mut self, block: Vec<u8>) {
        self.node.act(Act::Publish(block));
    }

    /// Says what the node is, and what its clock shows.
    pub fn stand(&mut self, here: Here) {
        self.now = here.now;
        self.node.link.mac = here.mac;
        self.node.act(Act::Stand(here));
    }

    /// Whether the card takes frames to other cards, too.
    pub const fn promiscuous(&mut self, yes: bool) {
        self.node.promiscuous = yes;
    }

    /// The card's own address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.node.link.mac
    }

    /// A frame comes off the cable. None: the card is not meant.
    pub fn receive(&mut self, frame: &[u8]) -> Option<Taken> {
        let mut frame = frame.to_vec();
        let verdict = self.node.takes(self.now, self.now, &mut frame)?;
        // Answers to questions for the machine's own addresses: the system's, not the data plane's.
        self.node.link.out.clear();
        let up = self.node.stack.taken();
        Some(Taken { verdict, sent: (verdict == Verdict::Transmit).then_some(frame), up })
    }
}
