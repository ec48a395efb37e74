//! Linux.

mod xdp;

pub use xdp::{Attached, Xdp};
