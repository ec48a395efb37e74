//! A data plane: what runs the dispatch core on a port's frames.

use std::collections::BTreeMap;
use std::io;

use apus_dispatch::{Claim, Here};

use crate::Trace;

/// Frames by what became of them: `pass`, `local`, `transmit`, or the reason of a drop.
pub type Counters = BTreeMap<String, u64>;

/// The dispatch core on the frames of one port. Dropping a plane takes it off the port.
pub trait Plane {
    /// Its name: `xdp`, `af-packet`, …
    fn name(&self) -> &'static str;

    /// Puts a table into use, whole, and what this node is with it, its place among the table's servers first of all: no
    /// frame meets parts of two tables, or another table's place.
    ///
    /// # Errors
    /// If the block is no table or is too large for this plane; the old one stays in use.
    fn publish(&mut self, block: &[u8], here: &Here) -> io::Result<()>;

    /// Says what this node is from now on; [`Here::now`] is ignored, and leases are in nanoseconds of the boot clock.
    ///
    /// # Errors
    /// If the system refuses; the old state stays, and its lease still ends.
    fn stand(&mut self, here: &Here) -> io::Result<()>;

    /// Sends a frame of the control plane's, such as an announcement.
    ///
    /// # Errors
    /// If the system refuses it.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;

    /// What has become of the frames so far.
    ///
    /// # Errors
    /// If the system cannot be asked.
    fn counters(&mut self) -> io::Result<Counters>;

    /// Tells of each frame from now on, with so many of its first bytes, until the trace is dropped.
    ///
    /// # Errors
    /// If this plane cannot.
    fn trace(&mut self, _bytes: usize) -> io::Result<Trace> {
        let what = format!("the plane {} counts its frames and tells of none", self.name());
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    /// Claims by others to the cluster's address since the last question, with what was found in them. A plane in the kernel may
    /// only count them.
    fn claims(&mut self) -> Vec<Option<Claim>> {
        Vec::new()
    }
}
