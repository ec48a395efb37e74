//! File operations of programs, captured in order and by reference.
//!
//! A program that runs under `apus-interpose` writes, before and after each operation on a file of the *group*, a record into a ring in
//! shared memory. A record of a write holds where the bytes lie, not the bytes: the drainer reads them from the page cache. What would
//! destroy bytes that the drainer has not read yet copies them into the ring first. The drainer hands a [`Consumer`] one ordered list of
//! operations. `docs/replication.md` tells the rules.
//!
//! Linux on x86-64 only; elsewhere there is [`Globs`] and no more.

mod globs;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod linux;

pub use globs::Globs;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use linux::{Change, Consumer, Drained, Drainer, FileId, Group, Kind, Listed, Operation};
