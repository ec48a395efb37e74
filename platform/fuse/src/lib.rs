//! A group's folder behind FUSE: what *any* program does to its files is done by this process on the tree underneath and handed, in
//! the order done, to an [`apus_capture::Consumer`]. It sees static programs, raw system calls, `io_uring` and stores through mappings,
//! which the preloaded library does not. Files outside the group are opened in kernel passthrough. `docs/replication.md` tells the rules.
//!
//! Linux on x86-64 only; elsewhere the crate is empty.
#![cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    allow(rustdoc::broken_intra_doc_links, reason = "empty there")
)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod linux;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use linux::{
    Barrier, Mounted, Options, Outside, Status, There, Transport, apart, clear, cut, fallback, status, there, unmount,
};
