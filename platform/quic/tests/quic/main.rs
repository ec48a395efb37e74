//! Nodes over QUIC on this machine's loopback and on a network in memory, and peers that mean them harm.

mod cluster;
mod common;
mod hostile;
mod joining;
mod links;
mod net;
mod siege;
