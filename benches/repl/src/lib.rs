//! What ways to capture file operations cost programs, side by side on one disk.
//!
//! A worker stays for each way and each workload, and all of them do short *slots* of work in turns, forwards and back, so that
//! whatever slows the machine down meets all ways alike. What is told of a way is the median of the ratios of rounds, each of which
//! lasts for less than a second, with an interval by the bootstrap.
//!
//! Linux on x86-64 only; elsewhere there are the statistics and no more.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;
mod stats;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use linux::{Cell, KINDS, Kind, Moments, Outcome, Part, Plan, Report, Row, Step, WAYS, moments, role, run, text};
pub use stats::{Draw, Interval, median};
