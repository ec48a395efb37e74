//! What runs an [`Engine`](apus_engine::Engine): one loop, a transport, a store. The same code on real and on simulated machines.
//!
//! ```text
//!              run(engine, backend)
//!                     │
//!                   Shell ─────────── Backend of every node
//!        ┌────────────┼─────────────┐
//!     Machine      Transport      Writer ── Store
//!   clock, guards, datagrams and  group commit over an
//!   programs       streams        append-only segment log
//!        │            │             │
//!     the OS,      Sockets        Disk
//!     or a world
//! ```
//! A node is one thread: the loop and its tasks run in one [`LocalSet`](tokio::task::LocalSet).
#![forbid(unsafe_code)]

pub mod record;
mod run;
mod shell;
pub mod store;
pub mod transport;
mod words;

pub use apus_engine::shipping::crc32c_of as crc32c;
pub use run::{Backend, Hold, run};
pub use shell::{Machine, Shell};
pub use words::{Names, Numbers, exit, words};
