//! Nodes over QUIC on this machine's loopback, and peers that mean them harm.

mod cluster;
mod common;
mod hostile;
mod joining;
mod links;
