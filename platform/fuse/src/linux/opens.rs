//! Open files by the number that the kernel gives back with every request.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, RwLock};

use apus_capture::linux::sys::Errno;

use super::backing::Done;
use super::tree::Node;

/// One opening.
pub(super) struct Open {
    pub(super) node: Arc<Node>,
    fd: OwnedFd,
    /// In passthrough.
    pub(super) through: bool,
    /// May write.
    pub(super) writes: bool,
}

impl Open {
    pub(super) fn new(node: Arc<Node>, fd: OwnedFd, through: bool, writes: bool) -> Self {
        Self { node, fd, through, writes }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Opens {
    table: RwLock<(Vec<Option<Arc<Open>>>, Vec<usize>)>,
}

impl Opens {
    pub(super) fn add(&self, open: Open) -> u64 {
        let mut table = self.table.write().expect("no thread ends while it holds it");
        let open = Some(Arc::new(open));
        match table.1.pop() {
            Some(at) => {
                table.0[at] = open;
                at as u64
            }
            None => {
                table.0.push(open);
                table.0.len() as u64 - 1
            }
        }
    }

    pub(super) fn get(&self, number: u64) -> Done<Arc<Open>> {
        let table = self.table.read().expect("no thread ends while it holds it");
        table.0.get(number as usize).cloned().flatten().ok_or(Errno(libc::EBADF))
    }

    pub(super) fn remove(&self, number: u64) -> Done<Arc<Open>> {
        let mut table = self.table.write().expect("no thread ends while it holds it");
        let open = table.0.get_mut(number as usize).and_then(Option::take).ok_or(Errno(libc::EBADF))?;
        table.1.push(number as usize);
        Ok(open)
    }
}
