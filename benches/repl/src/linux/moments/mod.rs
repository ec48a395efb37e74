//! Moments: a receiver is stopped at a random instant, and the programs themselves look at the copy that it has.

mod cost;
mod drive;
mod judge;
mod live;
mod network;
mod programs;
mod systems;
mod writers;

pub use drive::{Moments, Outcome, Part, moments, text};
pub(crate) use systems::receive;
pub(crate) use writers::serve;
