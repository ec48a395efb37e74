//! Linux.

mod choose;
pub mod clock;
mod guard;
mod lease;
mod packet;
pub mod program;
mod ring;
mod sockets;
mod system;
mod tap;
mod vip;
mod xdp;

pub use choose::{Choice, Port, choose};
pub use guard::Guard;
pub use lease::Lease;
pub use packet::PacketPlane;
pub use vip::Vip;
pub use xdp::{Attached, Xdp};
