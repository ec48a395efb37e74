//! What the benches share: engines in the middle of their work, and the detection race against foca.
#![forbid(unsafe_code)]
#![allow(clippy::cast_possible_truncation, reason = "at most 65,536 nodes, short frames")]

#[cfg(feature = "race")]
pub mod detection;
pub mod dispatch;
pub mod fixture;
