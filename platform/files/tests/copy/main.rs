//! Copies on this machine's disk: changes, crashes, comparison, hostile primaries, and programs.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod changes;
mod closed;
mod compare;
mod hostile;
mod live;
mod lost;
mod world;
