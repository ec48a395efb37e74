//! Opening, reading, writing.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use apus_capture::linux::Reasons;
use apus_capture::linux::sys::Errno;

use super::backing::{self, Done, Found};
use super::content::CHUNK;
use super::device;
use super::opens::Open;
use super::protocol::{FSYNC_FDATASYNC, OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID, opened};
use super::queue::Did;
use super::server::{Request, Server};
use super::tree::{Node, State};

/// How much of a copy inside the file system is done in one request.
const COPY: u64 = 8 << 20;

impl Server {
    pub(super) fn open(&self, request: &mut Request<'_>) -> Done<usize> {
        let (flags, kill) = (request.fields().i32(0), request.fields().u32(4) & OPEN_KILL_SUIDGID != 0);
        let node = self.node(request.header.node)?;
        let (number, flags, backing) = self.open_node(&node, flags, kill)?;
        Ok(request.answer().open_out(number, flags, backing).len())
    }

    /// What the kernel is told of a new opening: its number, flags, and the kernel's own number of the file underneath.
    fn open_node(&self, node: &Arc<Node>, flags: i32, kill: bool) -> Done<(u64, u32, i32)> {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        // The kernel knows the end of a file and which bytes are direct; what it writes back it may have to read.
        let fd = node.open(self.root(), if writes { libc::O_RDWR } else { libc::O_RDONLY })?;
        if flags & libc::O_TRUNC != 0 {
            self.cut(node, writes.then(|| backing::raw(&fd)), 0, kill)?;
        }
        let direct = self.is_direct(&self.names(), node);
        let mut state = node.state();
        Ok(self.opened(node, &mut state, fd, (writes, true, direct)))
    }

    /// Whether it may write; may be opened in passthrough, if it is not in the group; is not to be kept in pages.
    fn opened(
        &self,
        node: &Arc<Node>,
        state: &mut State,
        fd: OwnedFd,
        (writes, through, direct): (bool, bool, bool),
    ) -> (u64, u32, i32) {
        // All openings of a file must be alike, whatever it has become since the first.
        let mut through = match () {
            () if state.through > 0 => true,
            () if state.cached > 0 => false,
            () => through && state.file == 0 && self.passthrough.load(Relaxed),
        };
        if through && state.through == 0 {
            let control = self.control.get().ok_or(Errno(libc::ENODEV));
            match control.and_then(|control| device::open_backing(backing::raw(control), backing::raw(&fd))) {
                Ok(backing) => state.backing = backing,
                Err(_) => through = false,
            }
        }
        let (flags, backing) = if through {
            state.through += 1;
            if writes {
                state.through_writers += 1;
                state.stale = true;
                if state.file != 0 && !std::mem::replace(&mut state.untracked, true) {
                    self.untracked.fetch_add(1, Relaxed);
                }
            }
            (opened::PASSTHROUGH, state.backing)
        } else {
            state.cached += 1;
            let kept = if std::mem::take(&mut state.stale) { 0 } else { opened::KEEP_CACHE };
            (if direct { kept | opened::DIRECT_IO } else { kept }, 0)
        };
        let number = self.opens.add(Open::new(Arc::clone(node), fd, through, writes));
        (number, flags | opened::NOFLUSH, backing)
    }

    pub(super) fn create(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (flags, mode, kill) = (of.i32(0), of.u32(4), of.u32(12) & OPEN_KILL_SUIDGID != 0);
        let (header, name) = (request.header, request.name()?);
        backing::mask(of.u32(8));
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let mut names = self.names();
        let (node, found, opened): (Arc<Node>, Found, _) = match self.make_file(&mut names, &header, &name, mode) {
            Ok((node, found, fd)) => {
                let direct = self.is_direct(&names, &node);
                drop(names);
                let mut state = node.state();
                let opened = self.opened(&node, &mut state, fd, (writes, true, direct));
                drop(state);
                (node, found, opened)
            }
            Err(Errno(libc::EEXIST)) if flags & libc::O_EXCL == 0 => {
                let (node, _) = self.find(&mut names, header.node, &name, true)?;
                drop(names);
                let opened = self.open_node(&node, flags, kill)?;
                let found = backing::stat(node.reach(self.root())?.raw(), c"")?;
                (node, found, opened)
            }
            Err(error) => return Err(error),
        };
        let mut answer = request.answer();
        Ok(answer.entry(node.id, &found).open_out(opened.0, opened.1, opened.2).len())
    }

    /// A file without a name. It goes through this process, so that it may get one in the group while it is open.
    pub(super) fn unnamed(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let mode = of.u32(4) & 0o7777;
        backing::mask(of.u32(8));
        let header = request.header;
        let dir = self.node(header.node)?;
        let reached = dir.reach(self.root())?;
        let fd = backing::open(reached.raw(), c".", libc::O_TMPFILE | libc::O_RDWR, mode)?;
        let found = self.give(reached.raw(), backing::raw(&fd), &header)?;
        let node = self.names().meet_open(backing::raw(&fd), &found)?;
        let mut state = node.state();
        let opened = self.opened(&node, &mut state, fd, (true, false, false));
        drop(state);
        let mut answer = request.answer();
        Ok(answer.entry(node.id, &found).open_out(opened.0, opened.1, opened.2).len())
    }

    pub(super) fn release(&self, request: &mut Request<'_>) -> Done<usize> {
        let open = self.opens.remove(request.fields().u64(0))?;
        let mut state = open.node.state();
        if !open.through {
            state.cached = state.cached.saturating_sub(1);
            return Ok(0);
        }
        state.through = state.through.saturating_sub(1);
        if open.writes {
            state.through_writers = state.through_writers.saturating_sub(1);
            if state.through_writers == 0 && state.untracked {
                state.untracked = false;
                self.resend(&open.node, &mut state);
                // Who reads that there are none finds the content queued.
                self.untracked.fetch_sub(1, Release);
            }
        }
        if state.through == 0
            && let Some(control) = self.control.get()
        {
            device::close_backing(backing::raw(control), state.backing);
        }
        Ok(0)
    }

    pub(super) fn read(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (number, offset, size) = (of.u64(0), of.u64(8), of.u32(16) as usize);
        let open = self.opens.get(number)?;
        let size = size.min(request.buffer.len());
        self.waiting(|| backing::read(open.fd(), &mut request.buffer[..size], offset))
    }

    pub(super) fn write(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (number, offset, size, flags) = (of.u64(0), of.u64(8), of.u32(16) as usize, of.u32(20));
        // Of a file of which the kernel keeps no pages it asks for no more than this.
        let durable = of.i32(32) & libc::O_DSYNC != 0;
        let open = self.opens.get(number)?;
        if flags & WRITE_KILL_SUIDGID != 0 {
            self.kill_privileges(&open.node)?;
        }
        let bytes = &request.payload()[..size.min(request.filled)];
        let mut state = open.node.state();
        let done = backing::write(open.fd(), bytes, offset)?;
        if state.file != 0 {
            let did = Did::Write(offset, bytes[..done].to_vec());
            self.record(&mut state, true, did, offset, offset + done as u64);
        }
        let seq = if durable { self.record(&mut state, true, Did::Sync, 0, 0) } else { None };
        drop(state);
        if durable {
            self.waiting(|| {
                backing::sync(open.fd(), true)?;
                self.wait(seq)
            })?;
        }
        Ok(request.answer().u32(done as u32).u32(0).len())
    }

    pub(super) fn sync(&self, request: &mut Request<'_>) -> Done<usize> {
        let (number, flags) = (request.fields().u64(0), request.fields().u32(8));
        let open = self.opens.get(number)?;
        let mut state = open.node.state();
        let seq = self.record(&mut state, true, Did::Sync, 0, 0);
        drop(state);
        self.waiting(|| {
            backing::sync(open.fd(), flags & FSYNC_FDATASYNC != 0)?;
            self.wait(seq)
        })?;
        Ok(0)
    }

    /// Whoever asked for a disk gets an answer when the barrier lets it pass.
    pub(super) fn wait(&self, seq: Option<u64>) -> Done<()> {
        match &self.barrier {
            Some(barrier) => barrier.wait(seq).map_err(|error| backing::errno(&error)),
            None => Ok(()),
        }
    }

    pub(super) fn allocate(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (number, offset, len, how) = (of.u64(0), of.u64(8), of.u64(16), of.i32(24));
        let open = self.opens.get(number)?;
        let end = offset.saturating_add(len);
        let mut state = open.node.state();
        backing::allocate(open.fd(), how, offset, len)?;
        let zeros = how & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        let longer = how & libc::FALLOC_FL_KEEP_SIZE == 0;
        if how & !(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE) != 0 {
            // Not one that the kernel hands on.
            state.whole = true;
            self.queue.lose(Reasons::CALL);
        }
        if longer {
            self.record(&mut state, !zeros, Did::Extend(end), offset, u64::MAX);
        }
        if zeros {
            self.record(&mut state, true, Did::Zero(offset, len), offset, end);
        }
        Ok(0)
    }

    pub(super) fn seek(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (number, offset, whence) = (of.u64(0), of.u64(8), of.u32(16).cast_signed());
        let at = backing::seek(self.opens.get(number)?.fd(), offset, whence)?;
        Ok(request.answer().u64(at).len())
    }

    pub(super) fn copy(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let (from, to) = (self.opens.get(of.u64(0))?, self.opens.get(of.u64(24))?);
        let (at, place, len) = (of.u64(8), of.u64(32), of.u64(40).min(COPY));
        let mut state = to.node.state();
        let done = backing::copy(from.fd(), at.cast_signed(), to.fd(), place.cast_signed(), len as usize)? as u64;
        let mut sent = 0;
        while state.file != 0 && sent < done {
            let mut bytes = vec![0; (done - sent).min(CHUNK) as usize];
            let got = backing::read(to.fd(), &mut bytes, place + sent)?;
            if got == 0 {
                break;
            }
            bytes.truncate(got);
            let last = sent + got as u64 >= done;
            self.record(&mut state, last, Did::Write(place + sent, bytes), place + sent, place + done);
            sent += got as u64;
        }
        drop(state);
        // The older form has 32 bits and four of padding: the same bytes.
        Ok(request.answer().u64(done).len())
    }

    pub(super) fn space(&self, request: &mut Request<'_>) -> Done<usize> {
        let got = backing::space(self.root())?;
        let mut answer = request.answer();
        answer.u64(got.f_blocks).u64(got.f_bfree).u64(got.f_bavail).u64(got.f_files).u64(got.f_ffree);
        answer.u32(got.f_bsize as u32).u32(got.f_namemax as u32).u32(got.f_frsize as u32).bytes(&[0; 28]);
        Ok(answer.len())
    }
}
