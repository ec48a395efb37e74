//! Linux on x86-64.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the kernel's numbers: lengths of requests have 32 bits, error numbers stand below zero"
)]

mod apart;
mod attributes;
mod backing;
mod content;
mod data;
mod device;
mod directory;
mod fallback;
mod handover;
mod lanes;
mod mount;
mod names;
mod opens;
mod protocol;
mod queue;
mod rename;
mod server;
mod stay;
mod tree;
mod uring;

pub use apart::{Outside, There, apart, clear, cut, there};
pub use device::Transport;
pub use fallback::fallback;
pub use mount::{Barrier, Mounted, Options, unmount};
pub use server::{Status, status};
