//! Files that the drainer keeps open: their bytes outlive their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::drainer::Drainer;
use super::layout::NONE;
use super::sys::{self, Errno};

/// How many there are at most.
const OPEN: usize = 1024;

/// By number, with the place in the table.
#[derive(Default)]
pub(super) struct Opened(BTreeMap<u64, (u32, File)>);

impl Opened {
    pub(super) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }
}

impl Drainer {
    /// The file, whatever its names are; `None` if it is gone.
    pub(super) fn file(&mut self, id: u64, index: u32) -> Option<&File> {
        if !self.open.0.contains_key(&id) {
            if index == NONE || self.capture.file(index).id.load(Relaxed) != id {
                return None;
            }
            let handle = self.capture.file(index).handle();
            let fd = match sys::open_handle(self.root.as_raw_fd(), &handle, libc::O_RDONLY) {
                Ok(fd) => fd,
                Err(Errno(libc::EMFILE | libc::ENFILE)) => {
                    self.open.0.clear();
                    sys::open_handle(self.root.as_raw_fd(), &handle, libc::O_RDONLY).ok()?
                }
                Err(_) => return None,
            };
            if self.open.0.len() >= OPEN {
                self.open.0.pop_first();
            }
            // SAFETY: just opened, nobody else's.
            self.open.0.insert(id, (index, unsafe { File::from_raw_fd(fd) }));
        }
        self.open.0.get(&id).map(|(_, file)| file)
    }

    /// Lets go of files that have no name any more and about which all was handed over: the disk keeps them as long as we do.
    pub(super) fn release(&mut self) {
        let (capture, shipped) = (&self.capture, self.capture.shared.shipped.load(Relaxed));
        self.open.0.retain(|&id, (index, _)| {
            let file = capture.file(*index);
            let dead = file.dead.load(Acquire);
            file.id.load(Relaxed) == id && (dead == 0 || dead > shipped || file.last.load(Relaxed) > shipped)
        });
    }
}
