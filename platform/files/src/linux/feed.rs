//! From what programs did, by path, to changes, by number.

use std::io;

use apus_capture::{Consumer, Operation};

/// Takes operations of a drainer and gives them numbers; [`Store::happened`](super::Store::happened) tells them. `Send`: it may run in a
/// thread of its own.
pub struct Feed {}

impl Consumer for Feed {
    fn take(&mut self, _operation: &Operation<'_>) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
