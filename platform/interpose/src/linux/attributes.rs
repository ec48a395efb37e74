//! What belongs to a file besides its bytes and its name.

use apus_capture::linux::Attribute;
use libc::{AT_FDCWD, c_char, c_int, c_void, gid_t, mode_t, size_t, timespec, timeval, uid_t};

use super::names::path;
use super::state::{capture, finish, raw};

/// At a path; `real` where there is no ring.
fn at(
    dir: c_int,
    name: *const c_char,
    follow: bool,
    what: Attribute<'_>,
    real: impl FnOnce() -> c_int,
    mut call: impl FnMut() -> isize,
) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let below = unsafe { path(name) };
    finish(capture.attribute(dir, below, follow, what, &mut call)) as c_int
}

/// Of a descriptor.
fn of(fd: c_int, what: Attribute<'_>, real: impl FnOnce() -> c_int, mut call: impl FnMut() -> isize) -> c_int {
    let Some(capture) = capture() else { return real() };
    finish(capture.attribute_of(fd, what, &mut call)) as c_int
}

/// Whether a path means the descriptor beside it.
fn itself(name: *const c_char, flags: c_int) -> bool {
    // SAFETY: the caller's.
    flags & libc::AT_EMPTY_PATH != 0 && unsafe { path(name) }.is_empty()
}

unsafe fn value<'a>(from: *const c_void, len: size_t) -> &'a [u8] {
    // SAFETY: the caller's.
    if from.is_null() { &[] } else { unsafe { core::slice::from_raw_parts(from.cast(), len) } }
}

/// Times in the kernel's form.
unsafe fn times(from: *const timeval) -> Option<[timespec; 2]> {
    if from.is_null() {
        return None;
    }
    // SAFETY: the caller's two.
    let two = unsafe { core::slice::from_raw_parts(from, 2) };
    Some([0, 1].map(|at| timespec { tv_sec: two[at].tv_sec, tv_nsec: two[at].tv_usec * 1000 }))
}

fn pointer(times: &Option<[timespec; 2]>) -> usize {
    times.as_ref().map_or(0, |times| times.as_ptr() as usize)
}

hook! {
    fn chmod(name: *const c_char, mode: mode_t) -> c_int, real =>
        at(AT_FDCWD, name, true, Attribute::Mode, real, || raw(libc::SYS_chmod, [name as usize, mode as usize]));
    fn fchmod(fd: c_int, mode: mode_t) -> c_int, real => of(fd, Attribute::Mode, real, || raw(libc::SYS_fchmod, [fd as usize, mode as usize]));
    fn fchmodat(dir: c_int, name: *const c_char, mode: mode_t, flags: c_int) -> c_int, real => {
        if flags != 0 {
            return real();
        }
        at(dir, name, true, Attribute::Mode, real, || raw(libc::SYS_fchmodat, [dir as usize, name as usize, mode as usize]))
    };
    fn chown(name: *const c_char, user: uid_t, group: gid_t) -> c_int, real =>
        at(AT_FDCWD, name, true, Attribute::Owner, real, || raw(libc::SYS_chown, [name as usize, user as usize, group as usize]));
    fn lchown(name: *const c_char, user: uid_t, group: gid_t) -> c_int, real =>
        at(AT_FDCWD, name, false, Attribute::Owner, real, || raw(libc::SYS_lchown, [name as usize, user as usize, group as usize]));
    fn fchown(fd: c_int, user: uid_t, group: gid_t) -> c_int, real =>
        of(fd, Attribute::Owner, real, || raw(libc::SYS_fchown, [fd as usize, user as usize, group as usize]));
    fn fchownat(dir: c_int, name: *const c_char, user: uid_t, group: gid_t, flags: c_int) -> c_int, real => {
        let call = || raw(libc::SYS_fchownat, [dir as usize, name as usize, user as usize, group as usize, flags as usize]);
        if itself(name, flags) {
            return of(dir, Attribute::Owner, real, call);
        }
        at(dir, name, flags & libc::AT_SYMLINK_NOFOLLOW == 0, Attribute::Owner, real, call)
    };
    fn utimensat(dir: c_int, name: *const c_char, times: *const timespec, flags: c_int) -> c_int, real => {
        let call = || raw(libc::SYS_utimensat, [dir as usize, name as usize, times as usize, flags as usize]);
        if name.is_null() || itself(name, flags) {
            return of(dir, Attribute::Times, real, call);
        }
        at(dir, name, flags & libc::AT_SYMLINK_NOFOLLOW == 0, Attribute::Times, real, call)
    };
    fn futimens(fd: c_int, times: *const timespec) -> c_int, real =>
        of(fd, Attribute::Times, real, || raw(libc::SYS_utimensat, [fd as usize, 0, times as usize, 0]));
    fn utimes(name: *const c_char, two: *const timeval) -> c_int, real =>
        at(AT_FDCWD, name, true, Attribute::Times, real, || raw(libc::SYS_utimes, [name as usize, two as usize]));
    fn lutimes(name: *const c_char, two: *const timeval) -> c_int, real => {
        // SAFETY: the caller's.
        let times = unsafe { times(two) };
        let call = || raw(libc::SYS_utimensat, [AT_FDCWD as usize, name as usize, pointer(&times), libc::AT_SYMLINK_NOFOLLOW as usize]);
        at(AT_FDCWD, name, false, Attribute::Times, real, call)
    };
    fn futimes(fd: c_int, two: *const timeval) -> c_int, real => {
        // SAFETY: the caller's.
        let times = unsafe { times(two) };
        of(fd, Attribute::Times, real, || raw(libc::SYS_utimensat, [fd as usize, 0, pointer(&times), 0]))
    };
    fn futimesat(dir: c_int, name: *const c_char, two: *const timeval) -> c_int, real =>
        at(dir, name, true, Attribute::Times, real, || raw(libc::SYS_futimesat, [dir as usize, name as usize, two as usize]));
    fn utime(name: *const c_char, times: *const libc::utimbuf) -> c_int, real =>
        at(AT_FDCWD, name, true, Attribute::Times, real, || raw(libc::SYS_utime, [name as usize, times as usize]));
    fn setxattr(name: *const c_char, key: *const c_char, from: *const c_void, len: size_t, flags: c_int) -> c_int, real => {
        // SAFETY: the caller's.
        let (attribute, what) = (unsafe { path(key) }, unsafe { value(from, len) });
        let call = || raw(libc::SYS_setxattr, [name as usize, key as usize, from as usize, len, flags as usize]);
        at(AT_FDCWD, name, true, Attribute::Set(attribute, what), real, call)
    };
    fn lsetxattr(name: *const c_char, key: *const c_char, from: *const c_void, len: size_t, flags: c_int) -> c_int, real => {
        // SAFETY: the caller's.
        let (attribute, what) = (unsafe { path(key) }, unsafe { value(from, len) });
        let call = || raw(libc::SYS_lsetxattr, [name as usize, key as usize, from as usize, len, flags as usize]);
        at(AT_FDCWD, name, false, Attribute::Set(attribute, what), real, call)
    };
    fn fsetxattr(fd: c_int, key: *const c_char, from: *const c_void, len: size_t, flags: c_int) -> c_int, real => {
        // SAFETY: the caller's.
        let (attribute, what) = (unsafe { path(key) }, unsafe { value(from, len) });
        let call = || raw(libc::SYS_fsetxattr, [fd as usize, key as usize, from as usize, len, flags as usize]);
        of(fd, Attribute::Set(attribute, what), real, call)
    };
    fn removexattr(name: *const c_char, key: *const c_char) -> c_int, real => {
        // SAFETY: the caller's.
        let attribute = unsafe { path(key) };
        at(AT_FDCWD, name, true, Attribute::Remove(attribute), real, || raw(libc::SYS_removexattr, [name as usize, key as usize]))
    };
    fn lremovexattr(name: *const c_char, key: *const c_char) -> c_int, real => {
        // SAFETY: the caller's.
        let attribute = unsafe { path(key) };
        at(AT_FDCWD, name, false, Attribute::Remove(attribute), real, || raw(libc::SYS_lremovexattr, [name as usize, key as usize]))
    };
    fn fremovexattr(fd: c_int, key: *const c_char) -> c_int, real => {
        // SAFETY: the caller's.
        let attribute = unsafe { path(key) };
        of(fd, Attribute::Remove(attribute), real, || raw(libc::SYS_fremovexattr, [fd as usize, key as usize]))
    };
}
