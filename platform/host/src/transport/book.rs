//! Where peers are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use apus_engine::NodeId;

/// The addresses of a node's peers. Clones share it: who learns of a node tells the transport and the sockets at once.
#[derive(Clone, Debug, Default)]
pub struct Book(Rc<RefCell<BTreeMap<NodeId, SocketAddr>>>);

impl From<BTreeMap<NodeId, SocketAddr>> for Book {
    fn from(book: BTreeMap<NodeId, SocketAddr>) -> Self {
        Self(Rc::new(RefCell::new(book)))
    }
}

impl Book {
    /// Where a node is.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.borrow().get(&node).copied()
    }

    /// Who is there.
    #[must_use]
    pub fn node(&self, address: SocketAddr) -> Option<NodeId> {
        self.0.borrow().iter().find(|(_, at)| **at == address).map(|(node, _)| *node)
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.borrow().keys().copied().collect()
    }

    /// Takes in who is where now.
    pub fn set(&self, book: BTreeMap<NodeId, SocketAddr>) {
        *self.0.borrow_mut() = book;
    }
}
