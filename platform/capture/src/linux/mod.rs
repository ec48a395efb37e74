//! Linux on x86-64.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the kernel's numbers: a result is a length or an error in one register, sizes are 64 bits wide"
)]

mod ahead;
mod before;
mod busy;
mod capture;
mod drainer;
mod files;
mod guard;
mod layout;
mod lock;
mod mapped;
mod names;
mod opened;
mod operation;
mod path;
mod replay;
mod resync;
mod ring;
pub mod sys;
mod wait;

pub use capture::{Bug, Capture, Source, Stale};
pub use drainer::{Drained, Drainer};
pub use files::Bound;
pub use guard::{Guard, Policy, Verdict};
pub use layout::{Reasons, Status};
pub use mapped::Mapped;
pub use names::{Attribute, Class};
pub use operation::{Change, Consumer, Discard, FileId, Kind, Listed, Operation};
pub use path::{Name, Place, text};
pub use replay::Replay;
pub use ring::Group;
pub use wait::{Mark, Target};
