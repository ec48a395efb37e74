//! The library on Linux.
#![allow(clippy::cast_possible_truncation, reason = "64-bit machines only; a region has less than 2^31 pages")]

mod arena;
mod error;
mod ft;
mod segment;
mod store;
pub mod supervise;
mod system;
mod track;

pub use arena::Arena;
pub use error::{Error, Refusal};
pub use ft::{Checkpoint, Config, Ft, Recovered, Saved};
pub use track::Tracking;

/// A stretch of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first page.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

/// Bytes of a page. Others are refused at the start: formats and bases are made for it.
pub(crate) const PAGE: usize = 4096;
