//! What changes a file's bytes.

use apus_capture::linux::Source;
use libc::{c_int, c_uint, c_void, iovec, off_t, size_t, ssize_t};

use super::state::{bytes, bytes_as, capture, errno, file, marked, marked_all, raw, released};

fn written(len: size_t) -> impl Fn(bool) -> Source {
    move |appends| if appends { Source::Append(len as u64) } else { Source::Here(len as u64) }
}

/// An offset does not keep a file that is opened for appending from appending.
fn placed(offset: off_t, len: size_t) -> impl Fn(bool) -> Source {
    move |appends| if appends { Source::AppendAside(len as u64) } else { Source::At(offset as u64, len as u64) }
}

unsafe fn total(parts: *const iovec, count: c_int) -> size_t {
    let mut sum = 0usize;
    for at in 0..usize::try_from(count).unwrap_or(0).min(1024) {
        // SAFETY: the caller's list is as long as is said; the kernel is asked the same.
        let part = unsafe { &*parts.wrapping_add(at) };
        sum = sum.saturating_add(part.iov_len);
    }
    sum
}

macro_rules! writes {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, from: *const c_void, len: size_t) -> ssize_t, real =>
            bytes(fd, written(len), real, move || raw(libc::SYS_write, [fd as usize, from as usize, len]));
    )*}};
}
writes!(write __write);

macro_rules! pwrites {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, from: *const c_void, len: size_t, offset: off_t) -> ssize_t, real =>
            bytes(fd, placed(offset, len), real, move || raw(libc::SYS_pwrite64, [fd as usize, from as usize, len, offset as usize]));
    )*}};
}
pwrites!(pwrite pwrite64 __pwrite64);

hook! {
    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t, real => {
        if file(fd).is_none() {
            return real();
        }
        // SAFETY: the caller's.
        let len = unsafe { total(parts, count) };
        bytes(fd, written(len), real, || raw(libc::SYS_writev, [fd as usize, parts as usize, count as usize]))
    };
}

macro_rules! pwritevs {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t, real => {
            if file(fd).is_none() {
                return real();
            }
            // SAFETY: the caller's.
            let len = unsafe { total(parts, count) };
            bytes(fd, placed(offset, len), real, || raw(libc::SYS_pwritev, [fd as usize, parts as usize, count as usize, offset as usize, 0]))
        };
    )*}};
}
pwritevs!(pwritev pwritev64);

macro_rules! pwritev2s {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, parts: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t, real => {
            if file(fd).is_none() {
                return real();
            }
            // SAFETY: the caller's.
            let len = unsafe { total(parts, count) };
            let source = |appends: bool| match (appends || flags & libc::RWF_APPEND != 0, offset) {
                (true, -1) => Source::Append(len as u64),
                (true, _) => Source::AppendAside(len as u64),
                (false, -1) => Source::Here(len as u64),
                (false, _) => Source::At(offset as u64, len as u64),
            };
            let durable = flags & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0;
            bytes_as(fd, durable, source, real, || raw(libc::SYS_pwritev2, [fd as usize, parts as usize, count as usize, offset as usize, 0, flags as usize]))
        };
    )*}};
}
pwritev2s!(pwritev2 pwritev64v2);

macro_rules! ftruncates {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, len: off_t) -> c_int, real =>
            bytes(fd, |_| Source::Truncate(len as u64), || real() as isize, || raw(libc::SYS_ftruncate, [fd as usize, len as usize])) as c_int;
    )*}};
}
ftruncates!(ftruncate ftruncate64);

/// `fallocate` on a file of the group.
fn allocate(fd: c_int, mode: c_int, offset: off_t, len: off_t, real: impl FnOnce() -> isize) -> isize {
    let call = || raw(libc::SYS_fallocate, [fd as usize, mode as usize, offset as usize, len as usize]);
    let (from, many) = (offset as u64, len as u64);
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 if mode & libc::FALLOC_FL_KEEP_SIZE != 0 => real(),
        0 => bytes(fd, |_| Source::Extend(from.saturating_add(many)), real, call),
        libc::FALLOC_FL_PUNCH_HOLE => bytes(fd, |_| Source::Zero(from, many, false), real, call),
        libc::FALLOC_FL_ZERO_RANGE => {
            // Recorded as the bytes that are there afterwards: what ends up within the file.
            let done = bytes(fd, |_| Source::Shift(from), real, call);
            done.min(0)
        }
        libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE => bytes(fd, |_| Source::Shift(from), real, call),
        _ => real(),
    }
}

macro_rules! fallocates {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int, real =>
            allocate(fd, mode, offset, len, || real() as isize) as c_int;
    )*}};
}
fallocates!(fallocate fallocate64);

macro_rules! posix_fallocates {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, offset: off_t, len: off_t) -> c_int, real => {
            let (Some(capture), Some((bound, _))) = (capture(), file(fd)) else { return real() };
            // SAFETY: the C library's own place of this thread.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: as above.
            let before = unsafe { *place };
            let result = allocate(fd, 0, offset, len, || 0);
            // SAFETY: as above.
            let number = if result < 0 { unsafe { *place } } else { 0 };
            errno(before);
            if number == libc::EOPNOTSUPP {
                // The C library writes zeros then, by calls of its own.
                capture.untracked(bound);
                return real();
            }
            number
        };
    )*}};
}
posix_fallocates!(posix_fallocate posix_fallocate64);

/// An offset of the program's.
unsafe fn at(place: *const off_t) -> Option<u64> {
    // SAFETY: the caller's; the kernel reads it too.
    (!place.is_null()).then(|| unsafe { *place } as u64)
}

hook! {
    fn copy_file_range(from: c_int, from_at: *mut off_t, to: c_int, to_at: *mut off_t, len: size_t, flags: c_uint) -> ssize_t, real => {
        // SAFETY: the caller's.
        let placed = unsafe { at(to_at) };
        bytes(to, |_| placed.map_or(Source::Here(len as u64), |offset| Source::At(offset, len as u64)), real,
            || raw(libc::SYS_copy_file_range, [from as usize, from_at as usize, to as usize, to_at as usize, len, flags as usize]))
    };
    fn splice(from: c_int, from_at: *mut off_t, to: c_int, to_at: *mut off_t, len: size_t, flags: c_uint) -> ssize_t, real => {
        if file(to).is_none() {
            return real();
        }
        if flags & libc::SPLICE_F_NONBLOCK == 0 {
            // Waited for outside the lock.
            let mut wait = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
            raw(libc::SYS_poll, [(&raw mut wait) as usize, 1, usize::MAX]);
        }
        // SAFETY: the caller's.
        let placed = unsafe { at(to_at) };
        bytes(to, |_| placed.map_or(Source::Here(len as u64), |offset| Source::At(offset, len as u64)), real,
            || raw(libc::SYS_splice, [from as usize, from_at as usize, to as usize, to_at as usize, len, flags as usize]))
    };
}

macro_rules! sendfiles {
    ($($name:ident)*) => {hook! {$(
        fn $name(to: c_int, from: c_int, offset: *mut off_t, len: size_t) -> ssize_t, real =>
            bytes(to, written(len), real, || raw(libc::SYS_sendfile, [to as usize, from as usize, offset as usize, len]));
    )*}};
}
sendfiles!(sendfile sendfile64);

macro_rules! syncs {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int) -> c_int, real => {
            let Some(capture) = capture() else { return real() };
            let Some(mark) = marked(capture, fd) else { return real() };
            // This disk and those of the copies work at the same time.
            let done = real();
            if done == 0 && capture.awaits() && !released(capture, fd, mark) {
                errno(libc::EIO);
                return -1;
            }
            done
        };
    )*}};
}
syncs!(fsync fdatasync);

hook! {
    fn syncfs(fd: c_int) -> c_int, real => {
        let Some(capture) = capture().filter(|capture| capture.shares_disk(fd)) else { return real() };
        let mark = marked_all(capture);
        let done = real();
        if done == 0 && capture.awaits() && mark.is_some_and(|mark| !released(capture, fd, mark)) {
            errno(libc::EIO);
            return -1;
        }
        done
    };
    fn sync() -> (), real => {
        let mark = capture().and_then(|capture| Some((capture, marked_all(capture)?)));
        real();
        if let Some((capture, mark)) = mark && capture.awaits() {
            // It has no way to fail. Once the lease is over the program is ended by its keeper.
            released(capture, -1, mark);
        }
    };
}

/// Calls whose bytes are written by other threads, or by the C library's own.
fn leaves(fd: c_int) {
    if let (Some(capture), Some((bound, _))) = (capture(), file(fd)) {
        capture.untracked(bound);
    }
}

macro_rules! later {
    ($($name:ident)*) => {hook! {$(
        fn $name(request: *mut libc::aiocb) -> c_int, real => {
            if !request.is_null() {
                // SAFETY: the caller's.
                leaves(unsafe { (*request).aio_fildes });
            }
            real()
        };
    )*}};
}
later!(aio_write aio_write64);

macro_rules! lists {
    ($($name:ident)*) => {hook! {$(
        fn $name(mode: c_int, list: *const *mut libc::aiocb, count: c_int, then: *mut c_void) -> c_int, real => {
            for at in 0..usize::try_from(count).unwrap_or(0) {
                // SAFETY: the caller's list is as long as is said.
                let request = unsafe { *list.add(at) };
                if !request.is_null() {
                    // SAFETY: the caller's.
                    leaves(unsafe { (*request).aio_fildes });
                }
            }
            real()
        };
    )*}};
}
lists!(lio_listio lio_listio64);

hook! {
    fn vdprintf(fd: c_int, format: *const libc::c_char, args: *mut c_void) -> c_int, real => {
        leaves(fd);
        real()
    };
    fn ioctl(fd: c_int, request: libc::c_ulong, arg: *mut c_void) -> c_int, real => {
        const CLONE: libc::c_ulong = 0x4004_9409;
        const CLONE_RANGE: libc::c_ulong = 0x4020_940d;
        let call = || raw(libc::SYS_ioctl, [fd as usize, request as usize, arg as usize]);
        match request {
            CLONE => bytes(fd, |_| Source::Shift(0), || real() as isize, call) as c_int,
            CLONE_RANGE if file(fd).is_some() => {
                // SAFETY: the kernel's structure: source, its offset, length, offset here.
                let range = unsafe { &*arg.cast::<[u64; 4]>() };
                let (len, to) = (range[2], range[3]);
                let source = |_| if len == 0 { Source::Shift(to) } else { Source::At(to, len) };
                bytes(fd, source, || real() as isize, || { let done = call(); if done == 0 { len as isize } else { done } }).min(0) as c_int
            }
            _ => real(),
        }
    };
}
