//! Reading folders. Nothing is kept between two requests: a place in a folder is the file system's own.

use std::ffi::CStr;

use apus_capture::linux::sys::Errno;

use super::backing::{self, Done};
use super::protocol::ENTRY;
use super::server::{Request, Server};

/// Bytes of entries that are read at once.
const ROOM: usize = 32_768;

impl Server {
    /// `plus`: with what each name stands for, so that the kernel need not ask again.
    pub(super) fn read_dir(&self, request: &mut Request<'_>, plus: bool) -> Done<usize> {
        let of = request.fields();
        let (offset, limit) = (of.u64(8), of.u32(16) as usize);
        let node = self.node(request.header.node)?;
        let fd = node.open(self.root(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        if offset > 0 {
            backing::seek(backing::raw(&fd), offset, libc::SEEK_SET)?;
        }
        let mut room = vec![0; ROOM];
        let mut answer = request.answer();
        'full: loop {
            let entries = backing::entries(backing::raw(&fd), &mut room)?;
            if entries.is_empty() {
                break;
            }
            for (inode, next, kind, name) in entries {
                let bytes = name.to_bytes();
                let entry = 24 + bytes.len().next_multiple_of(8) + if plus { ENTRY } else { 0 };
                if !answer.fits(entry, limit) {
                    break 'full;
                }
                if plus {
                    let special = bytes == b"." || bytes == b"..";
                    match if special { Err(Errno(0)) } else { self.look(node.id, &name) } {
                        Ok((node, found)) => answer.entry(node, &found),
                        // Gone in between, or on another file system: the name alone.
                        Err(_) => answer.bytes(&[0; ENTRY]),
                    };
                }
                answer.u64(inode).u64(next).u32(bytes.len() as u32).u32(u32::from(kind)).bytes(bytes).align();
            }
        }
        Ok(answer.len())
    }

    pub(super) fn sync_dir(&self, request: &mut Request<'_>) -> Done<usize> {
        let node = self.node(request.header.node)?;
        let fd = node.open(self.root(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let seq = {
            let _names = self.names();
            self.queue.push(Some(0), true, super::queue::Did::Sync)
        };
        self.waiting(|| {
            backing::sync(backing::raw(&fd), false)?;
            self.wait(seq)
        })?;
        Ok(0)
    }

    /// What is at a name; the kernel knows it from now on.
    fn look(&self, dir: u64, name: &CStr) -> Done<(u64, backing::Found)> {
        let mut names = self.names();
        self.find(&mut names, dir, name, true).map(|(node, found)| (node.id, found))
    }
}
