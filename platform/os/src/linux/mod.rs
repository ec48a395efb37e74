//! Linux.

mod beneath;
mod cable;
mod choose;
pub mod clock;
pub mod exec;
mod guard;
mod handed;
mod lease;
pub mod memory;
mod netfilter;
mod packet;
pub mod plugin;
pub mod program;
mod ring;
mod rules;
pub mod signals;
mod sockets;
mod system;
mod table;
mod tap;
pub mod timer;
mod told;
mod vip;
mod watchdog;
mod xdp;
mod xsk;

pub use beneath::{Beneath, Part, Place};
pub use cable::{Cable, Seen};
pub use choose::{Choice, Port, choose};
pub use guard::Guard;
pub use lease::Lease;
pub use packet::PacketPlane;
pub use system::text_file;
pub use vip::Vip;
pub use watchdog::Watchdog;
pub use xdp::{Attached, Xdp};
