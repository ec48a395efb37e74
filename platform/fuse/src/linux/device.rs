//! `/dev/fuse`: the mount, the agreement at its start, and one way to take requests.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use apus_capture::linux::sys::{self, Errno};

use super::backing::{self, Done, check};
use super::protocol::{Answer, Fields, Header, IN_HEADER, OP, OUT_HEADER, Offer, PAYLOAD, init, opcode, structure};
use super::server::{Request, Server};

/// `FUSE_DEV_IOC_CLONE`.
const CLONE: u64 = 0x8004_e500;
/// `FUSE_DEV_IOC_BACKING_OPEN`.
const BACKING_OPEN: u64 = 0x4010_e501;
/// `FUSE_DEV_IOC_BACKING_CLOSE`.
const BACKING_CLOSE: u64 = 0x4004_e502;

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Read from `/dev/fuse`, by several threads.
    Device,
    /// FUSE over `io_uring`: a request is served on the processor that it was made on.
    Ring,
}

impl fmt::Display for Transport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Device => "/dev/fuse",
            Self::Ring => "io_uring",
        })
    }
}

/// Mounts at `root`; the device by which it is served.
pub(super) fn mount(root: &Path, folder: RawFd) -> io::Result<OwnedFd> {
    let device = backing::open(libc::AT_FDCWD, c"/dev/fuse", libc::O_RDWR, 0)
        .map_err(|error| named("/dev/fuse", &error, "load the module `fuse`, as root"))?;
    let mode = backing::stat(folder, c"")?.mode;
    let options = CString::new(format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,allow_other,default_permissions,max_read={PAYLOAD}",
        device.as_raw_fd()
    ))?;
    // What the file system underneath forbids stays forbidden.
    let under = backing::space(folder)?.f_flag;
    let kept = [
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_RDONLY, libc::MS_RDONLY),
    ];
    let flags = kept.iter().filter(|(has, _)| under & has != 0).fold(libc::MS_NOATIME, |all, (_, flag)| all | flag);
    let target = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: all names end with a zero; the options are text.
    let done = unsafe {
        libc::mount(c"apus".as_ptr(), target.as_ptr(), c"fuse.apus".as_ptr(), flags, options.as_ptr().cast())
    };
    check(done).map_err(|error| named(&root.display().to_string(), &error, "mounting needs root"))?;
    Ok(device)
}

/// An error with the place and what may mend it.
pub(super) fn named(place: &str, error: &Errno, mend: &str) -> io::Error {
    let number = io::Error::from(*error);
    let mend =
        if matches!(error.0, libc::EPERM | libc::EACCES | libc::ENOENT) { format!("; {mend}") } else { String::new() };
    io::Error::new(number.kind(), format!("{place}: {number}{mend}"))
}

/// Another way to the same mount, for one thread.
pub(super) fn clone(device: RawFd) -> Done<OwnedFd> {
    let other = backing::open(libc::AT_FDCWD, c"/dev/fuse", libc::O_RDWR, 0)?;
    // SAFETY: the number is the kernel's to read.
    check(unsafe { libc::ioctl(other.as_raw_fd(), CLONE, &raw const device) })?;
    Ok(other)
}

/// The kernel's number for the file that is open as `fd`, by which it is read and written without us.
pub(super) fn open_backing(device: RawFd, fd: RawFd) -> Done<i32> {
    // `fuse_backing_map`: descriptor, flags, padding.
    let map = [fd.cast_unsigned(), 0, 0, 0];
    // SAFETY: the structure is as long as the kernel's.
    check(unsafe { libc::ioctl(device, BACKING_OPEN, map.as_ptr()) }).map(|number| number as i32)
}

/// The number is not used any more.
pub(super) fn close_backing(device: RawFd, number: i32) {
    // SAFETY: the number is the kernel's to read.
    unsafe { libc::ioctl(device, BACKING_CLOSE, &raw const number) };
}

/// Whether the kernel lets requests come over `io_uring`, which is a switch of its module.
pub(super) fn ring_allowed() -> bool {
    std::fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|text| text.trim_end() == "Y")
}

/// Answers the first request. Whether requests come over `io_uring` from then on.
pub(super) fn agree(server: &Server, device: RawFd, ring: bool, passthrough: bool) -> io::Result<bool> {
    let mut buffer = vec![0; PAYLOAD];
    let got = sys::read(device, &mut buffer)?;
    let header = Header::read(&buffer);
    if header.opcode != opcode::INIT || got < IN_HEADER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel does not begin with FUSE_INIT"));
    }
    let offer = Offer::read(&buffer[IN_HEADER..got]);
    let needed = init::SETXATTR_EXT | init::HANDLE_KILLPRIV_V2 | init::BIG_WRITES;
    if offer.major != 7 || offer.flags & needed != needed {
        let why = format!("the kernel speaks FUSE {}.{}; 7.33 is needed (Linux 5.12)", offer.major, offer.minor);
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let mut wanted = init::ASYNC_READ
        | init::ATOMIC_O_TRUNC
        | init::DONT_MASK
        | init::BIG_WRITES
        | init::DO_READDIRPLUS
        | init::READDIRPLUS_AUTO
        | init::ASYNC_DIO
        | init::PARALLEL_DIROPS
        | init::POSIX_ACL
        | init::MAX_PAGES
        | init::CACHE_SYMLINKS
        | init::NO_OPENDIR_SUPPORT
        | init::EXPLICIT_INVAL_DATA
        | init::HANDLE_KILLPRIV_V2
        | init::SETXATTR_EXT
        | init::INIT_EXT
        | init::DIRECT_IO_ALLOW_MMAP;
    if ring {
        wanted |= init::OVER_IO_URING;
    }
    if passthrough {
        wanted |= init::PASSTHROUGH;
    }
    let mut body = [0; 64];
    let mut answer = Answer::new(&mut body);
    let flags = offer.accept(wanted, &mut answer);
    reply(device, header.unique, 0, &body)?;
    server.direct_io.store(flags & init::DIRECT_IO_ALLOW_MMAP != 0, Relaxed);
    server.passthrough.store(flags & init::PASSTHROUGH != 0, Relaxed);
    Ok(flags & init::OVER_IO_URING != 0)
}

/// Sends an answer back.
fn reply(device: RawFd, unique: u64, error: i32, body: &[u8]) -> Done<()> {
    let mut head = [0; OUT_HEADER];
    Answer::new(&mut head).u32((OUT_HEADER + body.len()) as u32).i32(-error).u64(unique);
    let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let parts = [part(&head), part(body)];
    // SAFETY: both parts are there, and only read.
    check(unsafe { libc::writev(device, parts.as_ptr(), if body.is_empty() { 1 } else { 2 }) } as i64).map(drop)
}

/// Takes requests from the device until the mount is gone.
pub(super) fn serve(server: &Arc<Server>, device: RawFd) -> Done<()> {
    let mut buffer = vec![0u8; PAYLOAD + 4096];
    loop {
        let got = match sys::read(device, &mut buffer) {
            Ok(got) => got,
            // Taken back, or interrupted: the next one.
            Err(Errno(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => continue,
            Err(Errno(libc::ENODEV | libc::ECONNABORTED)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if got < IN_HEADER {
            continue;
        }
        let header = Header::read(&buffer);
        let from = (IN_HEADER + structure(header.opcode)).min(got);
        let mut op = [0; OP];
        op[..from - IN_HEADER].copy_from_slice(&buffer[IN_HEADER..from]);
        let filled = got - from;
        let mut request = Request { header, op: &op, buffer: &mut buffer[from..], filled };
        let done = match server.serve(&mut request) {
            Ok(None) => continue,
            Ok(Some(len)) => reply(device, header.unique, 0, &buffer[from..from + len]),
            Err(error) => reply(device, header.unique, error.0, &[]),
        };
        match done {
            // The asker has gone.
            Ok(()) | Err(Errno(libc::ENOENT)) => {}
            Err(Errno(libc::ENODEV | libc::ECONNABORTED)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The numbers of the processors that the kernel may ever use; the ring needs a queue for each.
pub(super) fn processors() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    text.trim_end().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok()).map_or(1, |last| last + 1)
}

/// Keeps this thread on one processor, if there is one of that number.
pub(super) fn stay(processor: usize) {
    let mut set = [0u64; 16];
    if let Some(word) = set.get_mut(processor / 64) {
        *word |= 1 << (processor % 64);
        // SAFETY: the set is as long as is said.
        unsafe { libc::sched_setaffinity(0, size_of_val(&set), set.as_ptr().cast()) };
    }
}

/// Lets a thread, or this one (0), run as soon as it has something to do, before programs: it stays on one processor and serves those that
/// wait for it there. Without the right to it, it waits its turn. Whether it has it.
pub(super) fn first(thread: i32) -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter is there.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const priority) == 0 }
}

/// Lets a thread run as others do (`SCHED_OTHER`), or behind them (`SCHED_IDLE`).
pub(super) fn usual(thread: i32, policy: i32) {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is there.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const priority) };
}

/// What an answer over the ring begins with.
pub(super) fn ring_head(unique: u64, error: i32, into: &mut [u8]) {
    Answer::new(into).u32(OUT_HEADER as u32).i32(-error).u64(unique);
}

/// A request's number, which the ring tells beside it.
pub(super) fn ring_number(bytes: &[u8]) -> (u64, usize) {
    let of = Fields(bytes);
    (of.u64(8), of.u32(16) as usize)
}
