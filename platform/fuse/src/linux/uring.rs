//! FUSE over `io_uring` (Linux 6.14): each thread has a ring with one request in it, answers it and fetches the next with one call. The
//! kernel gives a request to the queue of the processor that it was made on, and the threads of a queue stay there: nobody else is woken.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};

use apus_capture::linux::sys::{self, Errno};

use super::backing::{Done, check};
use super::device::{first, ring_head, ring_number, stay};
use super::protocol::{Header, OP, PAYLOAD};
use super::server::{Request, Server};
use super::stay::{Seen, Stay};

/// `IORING_SETUP_…`.
const SQE128: u32 = 1 << 10;
const SINGLE_ISSUER: u32 = 1 << 12;
const DEFER_TASKRUN: u32 = 1 << 13;
/// `IORING_OFF_SQES`.
const SQES: i64 = 0x1000_0000;
/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: usize = 1;
/// `IORING_OP_URING_CMD`.
const URING_CMD: u8 = 46;
/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;
/// `fuse_uring_req_header`: a header, a request's structure, and what the ring says.
const HEADERS: usize = 288;
/// Where the ring's own part begins.
const OWN: usize = 256;
/// Bytes of a submission.
const SUBMISSION: usize = 128;

/// Memory that is shared with the kernel.
struct Shared {
    start: *mut u8,
    len: usize,
}

impl Shared {
    fn map(ring: RawFd, len: usize, offset: i64) -> Done<Self> {
        let (protection, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping anywhere.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, how, ring, offset) };
        if start == libc::MAP_FAILED {
            check(-1)?;
        }
        Ok(Self { start: start.cast(), len })
    }

    /// The counter at `at`, which both sides change.
    fn word(&self, at: u32) -> &AtomicU32 {
        let at = at as usize;
        assert!(at + 4 <= self.len && at.is_multiple_of(4), "the kernel names a place in its own ring");
        // SAFETY: it lies inside the mapping.
        let word = unsafe { self.start.add(at) };
        // SAFETY: aligned, mapped as long as `self`, and changed by atomic stores alone.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by us, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// A ring for one request at a time.
struct Ring {
    fd: OwnedFd,
    counters: Shared,
    submissions: Shared,
    /// Places of counters: the tail of submissions, their order; head, tail and entries of completions.
    tail: u32,
    order: u32,
    done_head: u32,
    done_tail: u32,
    done: u32,
    done_mask: u32,
}

impl Ring {
    fn new() -> Done<Self> {
        // `io_uring_params`.
        let mut told = [0u32; 30];
        told[2] = SQE128 | SINGLE_ISSUER | DEFER_TASKRUN;
        let into = told.as_mut_ptr() as usize;
        // SAFETY: the structure is as long as the kernel's.
        let fd = unsafe { sys::call(libc::SYS_io_uring_setup, [2, into, 0, 0, 0, 0]) };
        if fd < 0 {
            return Err(Errno(-fd as i32));
        }
        // SAFETY: just opened, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        // Both counters lie in one mapping since Linux 5.4.
        let len = (told[16] + told[0] * 4).max(told[25] + told[1] * 16) as usize;
        let counters = Shared::map(fd.as_raw_fd(), len, 0)?;
        let submissions = Shared::map(fd.as_raw_fd(), told[0] as usize * SUBMISSION, SQES)?;
        let done_mask = counters.word(told[22]).load(Acquire);
        Ok(Self {
            fd,
            counters,
            submissions,
            tail: told[11],
            order: told[16],
            done_head: told[20],
            done_tail: told[21],
            done: told[25],
            done_mask,
        })
    }

    /// Hands in one command, calls `begun`, and waits until it is done: its result.
    fn command(&mut self, submission: &[u8; SUBMISSION], begun: Option<&dyn Fn()>) -> Done<i32> {
        // SAFETY: the first submission is as long as this, and the kernel reads none between two calls.
        unsafe { std::ptr::copy_nonoverlapping(submission.as_ptr(), self.submissions.start, SUBMISSION) };
        let tail = self.counters.word(self.tail);
        let at = tail.load(Acquire);
        self.counters.word(self.order + at % 2 * 4).store(0, Release);
        tail.store(at.wrapping_add(1), Release);
        let mut submit = 1;
        if let Some(begun) = begun {
            while submit > 0 {
                submit -= self.enter(submit, 0)?;
            }
            begun();
        }
        loop {
            let head = self.counters.word(self.done_head);
            let next = head.load(Acquire);
            if next != self.counters.word(self.done_tail).load(Acquire) {
                // User data 8, result 4, flags 4.
                let result = self.counters.word(self.done + (next & self.done_mask) * 16 + 8).load(Acquire);
                head.store(next.wrapping_add(1), Release);
                return Ok(result.cast_signed());
            }
            submit -= self.enter(submit, 1)?;
        }
    }

    /// How many of the submissions were taken.
    fn enter(&self, submit: usize, wait: usize) -> Done<usize> {
        let ring = self.fd.as_raw_fd() as usize;
        // SAFETY: no memory is passed but what the submission names, which outlives the call.
        let done = unsafe { sys::call(libc::SYS_io_uring_enter, [ring, submit, wait, GETEVENTS, 0, 0]) };
        match done {
            0.. => Ok((done as usize).min(submit)),
            _ if done == -(libc::EINTR as isize) => Ok(0),
            _ if done == -(libc::EAGAIN as isize) => {
                // The kernel has no memory just now; whoever could give it some must run.
                std::thread::sleep(std::time::Duration::from_millis(1));
                Ok(0)
            }
            _ => Err(Errno(-done as i32)),
        }
    }
}

fn submission(device: RawFd, command: u32, commit: u64, queue: usize) -> [u8; SUBMISSION] {
    let mut bytes = [0; SUBMISSION];
    bytes[0] = URING_CMD;
    bytes[4..8].copy_from_slice(&device.to_ne_bytes());
    bytes[8..12].copy_from_slice(&command.to_ne_bytes());
    // `fuse_uring_cmd_req`: flags, which request is answered, which queue.
    bytes[56..64].copy_from_slice(&commit.to_ne_bytes());
    bytes[64..66].copy_from_slice(&(queue as u16).to_ne_bytes());
    bytes
}

/// Serves the queue of one processor until the mount is gone.
pub(super) fn serve(
    server: &Arc<Server>,
    device: RawFd,
    queue: usize,
    begun: &dyn Fn(),
    stays: Option<&Stay>,
) -> Done<()> {
    stay(queue);
    if server.realtime {
        first(0);
    }
    let mut headers = vec![0u8; HEADERS];
    let mut payload = vec![0u8; PAYLOAD];
    let parts = [
        libc::iovec { iov_base: headers.as_mut_ptr().cast(), iov_len: HEADERS },
        libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: PAYLOAD },
    ];
    let mut ring = Ring::new()?;
    let mut next = submission(device, REGISTER, 0, queue);
    next[16..24].copy_from_slice(&(parts.as_ptr() as u64).to_ne_bytes());
    next[24..28].copy_from_slice(&2u32.to_ne_bytes());
    let mut begun = Some(begun);
    let own = stays.map(|stay| (stay, stay.join(queue)));
    let mut seen = Seen::new();
    loop {
        match ring.command(&next, begun.take())? {
            0 => {}
            result => {
                return match -result {
                    libc::ENOTCONN | libc::ECANCELED | libc::ENODEV | libc::ECONNABORTED => Ok(()),
                    error => Err(Errno(error)),
                };
            }
        }
        // The kernel has filled both through the pointers that it was given.
        let header = Header::read(std::hint::black_box(&headers));
        if let Some((stay, own)) = &own {
            stay.comes(own, &mut seen, header.process);
        }
        let (commit, filled) = ring_number(&headers[OWN..]);
        let mut op = [0; OP];
        op.copy_from_slice(&headers[128..128 + OP]);
        let buffer = std::hint::black_box(&mut payload[..]);
        let filled = filled.min(PAYLOAD);
        let done = server.serve(&mut Request { header, op: &op, buffer, filled });
        let (error, len) = match done {
            Ok(len) => (0, len.unwrap_or(0)),
            Err(error) => (error.0, 0),
        };
        ring_head(header.unique, error, &mut headers);
        headers[OWN + 16..OWN + 20].copy_from_slice(&(len as u32).to_ne_bytes());
        next = submission(device, COMMIT_AND_FETCH, commit, queue);
    }
}
