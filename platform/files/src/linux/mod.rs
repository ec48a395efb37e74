//! Linux on x86-64.
#![allow(clippy::cast_possible_truncation, reason = "64-bit machines only: lengths and numbers have one width")]

mod adopt;
mod digest;
mod disk;
mod feed;
mod index;
mod log;
mod marks;
mod orphans;
mod recover;
mod sealed;
mod second;
mod settings;
mod shadow;
mod shared;
mod store;
mod tree;
mod work;

pub use feed::Feed;
pub use orphans::Saved;
pub use settings::{Globs, Settings, StoreError};
#[doc(hidden)]
pub use store::Fail;
pub use store::{Status, Store};
