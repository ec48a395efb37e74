//! Files that the drainer keeps open: their bytes outlive their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::drainer::Drainer;
use super::layout::NONE;
use super::sys::{self, Errno};

/// How many there are at most. Half of what the process may open is left for all else.
const OPEN: u64 = 1024;

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
            let open = || sys::open_handle(self.root.as_raw_fd(), &handle, libc::O_RDONLY | libc::O_NONBLOCK);
            let mut got = open();
            if let Err(Errno(libc::EMFILE | libc::ENFILE)) = got {
                self.open.0.clear();
                got = open();
            }
            // SAFETY: just opened, nobody else's.
            let file = unsafe { File::from_raw_fd(got.ok()?) };
            // A handle may be of anything; reading a pipe or a device would wait, or do something.
            if !sys::fstat(file.as_raw_fd()).is_ok_and(|stat| stat.is_file()) {
                return None;
            }
            if self.open.0.len() as u64 >= OPEN.min(sys::open_limit() / 2).max(1) {
                self.open.0.pop_first();
            }
            self.open.0.insert(id, (index, file));
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
