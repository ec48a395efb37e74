//! A group's copy on one machine: the log of its history, its files, a second tree while files are compared, and what was saved.
//!
//! The engine part `shipping` says what is to be done ([`Work`](apus_engine::shipping::Work)); a [`Store`] does it with files and
//! folders. On the node whose program changes the files a [`Feed`] takes what `apus-capture` hands over, gives it numbers, and the
//! store tells it to the engine. `docs/replication.md` ("The copy on disk") tells the formats and rules.
//!
//! # How a host uses it
//! ```text
//! let mut store = Store::open(settings)?;
//! if store.open_era().is_some() && ring exists {          // a program may be writing still
//!     let mut feed = store.feed(ring, wake)?;             // goes on with the ring
//!     drain into `feed` until idle (or begin the thread that does)
//! }
//! Find                -> store.found(), then store.happened()
//! Open                -> store.perform(); on Done, unless a feed is there: make a new ring, store.feed(ring, wake), drain into it until
//!                        idle (the listing); then hand over the answer. Programs start after that.
//! anything else       -> store.perform() or store.perform_all()
//! after each of them, and whenever `wake` was called: store.happened(), before the answer of `perform` goes to the engine
//! Close answered      -> the drainer and the feed may go, and the ring's file
//! Release             -> store.released(): the record of the ring up to which programs need not wait
//! ```
//! `Close` and `Compare` wait for the feed: [`Store::perform`] answers `None` and the answer comes by [`Store::happened`]. Thus
//! drainer and store may run in one thread or in two.
//!
//! Linux on x86-64 only; elsewhere the crate is empty.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod linux;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use linux::{Feed, Globs, Saved, Settings, Status, Store, StoreError};
