//! Critical data of a program that survives it: the library that a program links (libft of the 1998 paper, §2.1 and §3.2).
//!
//! A program keeps what it must not lose in [`Arena`]s, and says when they are whole ([`Ft::checkpoint`]). The next life of the
//! program finds them as they were then ([`Ft::init`], [`Ft::recovered`]), at the same addresses. Where a checkpoint goes:
//!
//! - into a **segment**, memory that belongs to who supervises the program and is mapped nowhere in it: no wild pointer and no
//!   `kill -9` destroys it. Microseconds; survives the program, not the machine.
//! - into **files** ([`Ft::save`]): full and incremental ones, checksummed, chained. Survives a restart of the machine, and the
//!   machine itself where their folder is a group of replicated files.
//!
//! `docs/libft.md` tells the formats, what is promised, and what is not.
//!
//! 64-bit Linux only; elsewhere the crate is empty but for the format of files.

pub mod image;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use linux::{Arena, Checkpoint, Config, Error, Ft, Recovered, Refusal, Saved, Tracking, supervise};
