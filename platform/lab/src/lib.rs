//! A cluster of real nodes on one machine: namespaces joined by a bridge, the daemons that are shipped, programs under them, faults.
//! `apus lab` keeps one up to play with; the live world of scenarios makes one for each run and judges what its nodes tell.
//!
//! Only Linux has namespaces; elsewhere everything here says so.
#![forbid(unsafe_code)]

mod carried;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has something to judge"))]
mod judge;
#[cfg(target_os = "linux")]
mod linux;
mod live;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has programs with replicated files"))]
mod rows;

use std::fmt;

pub use carried::{LIVE_NODES, Reason, not_live, problems};
pub use judge::{BOUND_MARGIN, CONVERGE_MARGIN, JUDGED, OWN};
#[cfg(target_os = "linux")]
pub use linux::{Books, Fault, Kept, Lab, Rows, Seen, Status, Up, load, now, program, serve};
pub use live::{LIVE, Live, missing, missing_for};

/// Why a lab does not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// The user's to mend: what, and how.
    Usage(String),
    /// Something outside failed.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Failed(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}
