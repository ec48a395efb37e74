//! REPL (paper §2.2, §3.3): groups of files that survive their machine, by shipping the changes made to them in order.

#![allow(clippy::cast_possible_truncation, reason = "lengths are bounded before")]

mod crc;
pub mod record;

pub use crc::crc32c;
pub use record::{Attributes, Change, Entry, Head, Record, RecordError};
