//! Linux on x86-64.
#![allow(clippy::cast_possible_truncation, reason = "64-bit machines only: lengths and numbers have one width")]

mod feed;
mod settings;
mod store;

pub use feed::Feed;
pub use settings::{Globs, Settings, StoreError};
pub use store::{Saved, Status, Store};
