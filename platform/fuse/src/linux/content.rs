//! The content of a whole file as operations: when it comes into the group, or was written without this process.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use apus_capture::linux::Reasons;

use super::backing::{self, Done};
use super::queue::Did;
use super::server::{Bug, Server};
use super::tree::{Node, State};

/// The most bytes of one operation.
pub(super) const CHUNK: u64 = 1 << 20;

impl Server {
    /// A file has got its first name in the group: a new one, and its content, shown at once. The caller holds names and file.
    pub(super) fn enter(&self, node: &Arc<Node>, state: &mut State, path: Vec<u8>) -> Done<()> {
        state.file = 0;
        if self.entered(node, state, path).is_err() {
            // It is in the group all the same; the listing finds it.
            if state.file == 0 {
                state.file = self.queue.number();
            }
            state.whole = true;
            self.queue.lose(Reasons::DRIFT);
        }
        if state.through_writers > 0 && !std::mem::replace(&mut state.untracked, true) {
            self.untracked.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn entered(&self, node: &Arc<Node>, state: &mut State, path: Vec<u8>) -> Done<()> {
        let fd = node.open(self.root(), libc::O_RDONLY)?;
        let found = backing::stat(backing::raw(&fd), c"")?;
        let seq = self.queue.push(None, false, Did::Create(path.clone(), found.mode & 0o7777));
        state.file = seq.unwrap_or_else(|| self.queue.number());
        state.whole = seq.is_none();
        if seq.is_none() {
            return Ok(());
        }
        if found.user != 0 || found.group != 0 {
            self.queue.push(Some(state.file), false, Did::Owner(path.clone(), found.user, found.group));
        }
        for (name, value) in self.attributes_of(node)? {
            self.queue.push(Some(state.file), false, Did::SetAttribute(path.clone(), name, value));
        }
        if self.bug == Bug::Bare {
            self.queue.push(Some(state.file), true, Did::Sync);
            return Ok(());
        }
        self.content(state, backing::raw(&fd), found.size)
    }

    /// All bytes that are no hole, then the length, by which they are shown.
    fn content(&self, state: &mut State, fd: i32, size: u64) -> Done<()> {
        let mut at = 0;
        while at < size {
            let Ok(start) = backing::seek(fd, at, libc::SEEK_DATA) else { break };
            let end = backing::seek(fd, start, libc::SEEK_HOLE).unwrap_or(size).min(size);
            at = start;
            while at < end {
                let mut bytes = vec![0; (end - at).min(CHUNK) as usize];
                let got = backing::read(fd, &mut bytes, at)?;
                if got == 0 {
                    break;
                }
                bytes.truncate(got);
                self.record(state, false, Did::Write(at, bytes), at, at + got as u64);
                at += got as u64;
            }
            at = at.max(end);
        }
        self.record(state, true, Did::Truncate(size), 0, u64::MAX);
        Ok(())
    }

    /// A file of the group is written by nobody in passthrough any more: it is handed over whole. The caller holds the file.
    pub(super) fn resend(&self, node: &Arc<Node>, state: &mut State) {
        let done = node.open(self.root(), libc::O_RDONLY).and_then(|fd| {
            let size = backing::stat(backing::raw(&fd), c"")?.size;
            self.record(state, false, Did::Truncate(0), 0, u64::MAX);
            self.content(state, backing::raw(&fd), size)
        });
        if done.is_err() {
            state.whole = true;
            self.queue.lose(Reasons::DRIFT);
        }
    }
}
