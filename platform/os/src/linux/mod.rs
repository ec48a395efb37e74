//! Linux.

mod cable;
mod choose;
pub mod clock;
mod guard;
mod lease;
mod packet;
mod ring;
mod sockets;
mod system;
mod table;
mod tap;
mod vip;
mod xdp;
mod xsk;

pub use cable::{Cable, Seen};
pub use choose::{Choice, Port, choose};
pub use guard::Guard;
pub use lease::Lease;
pub use packet::PacketPlane;
pub use vip::Vip;
pub use xdp::{Attached, Xdp};
