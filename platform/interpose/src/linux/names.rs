//! What opens files and changes names.

use apus_capture::linux::{Capture, Class, text};
use libc::{AT_FDCWD, c_char, c_int, c_uint, mode_t};

use super::state::{capture, errno, finish, forget, learn, raw};

/// The text of a path, or nothing where the kernel would say `EFAULT`.
pub(super) unsafe fn path<'a>(path: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's.
    if path.is_null() { &[] } else { unsafe { text(path) } }
}

/// Opens with `call` and remembers what the descriptor is to the group.
pub(super) fn opened(
    capture: &Capture,
    dir: c_int,
    name: &[u8],
    flags: c_int,
    call: &mut dyn FnMut() -> isize,
) -> c_int {
    let (fd, class) = capture.open(dir, name, flags, call);
    if fd >= 0 {
        learn(fd as c_int, class, flags);
    }
    finish(fd) as c_int
}

fn open_file(dir: c_int, name: *const c_char, flags: c_int, mode: mode_t, real: impl FnOnce() -> c_int) -> c_int {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    let Some(capture) = capture().filter(|_| writes) else {
        let fd = real();
        forget(fd);
        return fd;
    };
    // SAFETY: the caller's.
    let below = unsafe { path(name) };
    opened(capture, dir, below, flags, &mut || {
        raw(libc::SYS_openat, [dir as usize, name as usize, flags as usize, mode as usize])
    })
}

macro_rules! opens {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, flags: c_int, mode: mode_t) -> c_int, real => open_file(AT_FDCWD, name, flags, mode, real);
    )*}};
}
opens!(open open64 __open __open64);

macro_rules! openats {
    ($($name:ident)*) => {hook! {$(
        fn $name(dir: c_int, name: *const c_char, flags: c_int, mode: mode_t) -> c_int, real => open_file(dir, name, flags, mode, real);
    )*}};
}
openats!(openat openat64);

macro_rules! checked {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, flags: c_int) -> c_int, real => open_file(AT_FDCWD, name, flags, 0, real);
    )*}};
}
checked!(__open_2 __open64_2);

macro_rules! checked_at {
    ($($name:ident)*) => {hook! {$(
        fn $name(dir: c_int, name: *const c_char, flags: c_int) -> c_int, real => open_file(dir, name, flags, 0, real);
    )*}};
}
checked_at!(__openat_2 __openat64_2);

macro_rules! creats {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, mode: mode_t) -> c_int, real =>
            open_file(AT_FDCWD, name, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode, real);
    )*}};
}
creats!(creat creat64);

/// The six letters of a template that are drawn, `suffix` bytes before its end; `None` if it has none.
fn letters<'a>(template: *mut c_char, suffix: c_int) -> Option<&'a mut [u8]> {
    // SAFETY: the caller's.
    let len = unsafe { path(template) }.len();
    let end = usize::try_from(suffix).ok().and_then(|suffix| len.checked_sub(suffix)).filter(|end| *end >= 6)?;
    // SAFETY: the template may be written to, and is this long.
    let letters = unsafe { core::slice::from_raw_parts_mut(template.cast::<u8>().wrapping_add(end - 6), 6) };
    (letters == b"XXXXXX").then_some(letters)
}

fn draw(letters: &mut [u8]) {
    const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut drawn = [0u8; 8];
    raw(libc::SYS_getrandom, [drawn.as_mut_ptr() as usize, 8, 0]);
    for (letter, number) in letters.iter_mut().zip(drawn) {
        *letter = LETTERS[number as usize % LETTERS.len()];
    }
}

/// `mkostemps`: the C library opens by calls of its own, so the names are made here.
fn temporary(template: *mut c_char, suffix: c_int, flags: c_int, real: impl FnOnce() -> c_int) -> c_int {
    let Some(capture) = capture() else {
        let fd = real();
        forget(fd);
        return fd;
    };
    let Some(letters) = letters(template, suffix) else {
        return finish(-(libc::EINVAL as isize)) as c_int;
    };
    for _ in 0..1000 {
        draw(letters);
        let flags = flags & !libc::O_ACCMODE | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let name = template as usize;
        // SAFETY: as above.
        let below = unsafe { path(template) };
        let (fd, class) = capture.open(AT_FDCWD, below, flags, &mut || {
            raw(libc::SYS_openat, [AT_FDCWD as usize, name, flags as usize, 0o600])
        });
        if fd != -(libc::EEXIST as isize) {
            if fd >= 0 {
                learn(fd as c_int, class, flags);
            }
            return finish(fd) as c_int;
        }
    }
    errno(libc::EEXIST);
    -1
}

macro_rules! temporaries {
    ($($name:ident($($arg:ident),*) $suffix:expr, $flags:expr;)*) => {hook! {$(
        fn $name(template: *mut c_char $(, $arg: c_int)*) -> c_int, real => temporary(template, $suffix, $flags, real);
    )*}};
}
temporaries! {
    mkstemp() 0, 0;
    mkstemp64() 0, 0;
    mkostemp(flags) 0, flags;
    mkostemp64(flags) 0, flags;
    mkstemps(suffix) suffix, 0;
    mkstemps64(suffix) suffix, 0;
    mkostemps(suffix, flags) suffix, flags;
    mkostemps64(suffix, flags) suffix, flags;
}

hook! {
    // As above: the C library makes the directory by a call of its own.
    fn mkdtemp(template: *mut c_char) -> *mut c_char, real => {
        if capture().is_none() {
            return real();
        }
        let Some(letters) = letters(template, 0) else {
            errno(libc::EINVAL);
            return core::ptr::null_mut();
        };
        // SAFETY: the C library's own place of this thread.
        let place = unsafe { libc::__errno_location() };
        for _ in 0..1000 {
            draw(letters);
            if mkdir_at(AT_FDCWD, template, 0o700, || -1) == 0 {
                return template;
            }
            // SAFETY: as above.
            if unsafe { *place } != libc::EEXIST {
                break;
            }
        }
        core::ptr::null_mut()
    };
}

macro_rules! truncates {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, len: libc::off_t) -> c_int, real => {
            let Some(capture) = capture() else { return real() };
            // SAFETY: the caller's.
            let below = unsafe { path(name) };
            finish(capture.truncate(below, len as u64, &mut || raw(libc::SYS_truncate, [name as usize, len as usize]))) as c_int
        };
    )*}};
}
truncates!(truncate truncate64);

pub(super) fn rename_at(
    from: c_int,
    old: *const c_char,
    to: c_int,
    new: *const c_char,
    flags: c_uint,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let (a, b) = (unsafe { path(old) }, unsafe { path(new) });
    let mut call =
        || raw(libc::SYS_renameat2, [from as usize, old as usize, to as usize, new as usize, flags as usize]);
    finish(capture.rename((from, a), (to, b), flags, &mut call)) as c_int
}

pub(super) fn unlink_at(dir: c_int, name: *const c_char, flags: c_int, real: impl FnOnce() -> c_int) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let below = unsafe { path(name) };
    finish(capture.unlink(dir, below, &mut || raw(libc::SYS_unlinkat, [dir as usize, name as usize, flags as usize])))
        as c_int
}

pub(super) fn link_at(
    from: c_int,
    old: *const c_char,
    to: c_int,
    new: *const c_char,
    flags: c_int,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let (a, b) = (unsafe { path(old) }, unsafe { path(new) });
    let followed = flags & (libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0;
    let old_name: &[u8] = if flags & libc::AT_EMPTY_PATH != 0 && a.is_empty() { b"." } else { a };
    let mut call = || raw(libc::SYS_linkat, [from as usize, old as usize, to as usize, new as usize, flags as usize]);
    let before = capture.entered();
    let done = if old_name == b"." {
        capture.link_open(from, (to, b), &mut call)
    } else {
        capture.link((from, old_name), followed, (to, b), &mut call)
    };
    if before != capture.entered() {
        forget(from);
    }
    finish(done) as c_int
}

pub(super) fn symlink_at(
    target: *const c_char,
    dir: c_int,
    name: *const c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let (a, b) = (unsafe { path(target) }, unsafe { path(name) });
    finish(capture.symlink(a, dir, b, &mut || raw(libc::SYS_symlinkat, [target as usize, dir as usize, name as usize])))
        as c_int
}

pub(super) fn mkdir_at(dir: c_int, name: *const c_char, mode: mode_t, real: impl FnOnce() -> c_int) -> c_int {
    let Some(capture) = capture() else { return real() };
    // SAFETY: the caller's.
    let below = unsafe { path(name) };
    finish(capture.mkdir(dir, below, &mut || raw(libc::SYS_mkdirat, [dir as usize, name as usize, mode as usize])))
        as c_int
}

hook! {
    fn rename(old: *const c_char, new: *const c_char) -> c_int, real => rename_at(AT_FDCWD, old, AT_FDCWD, new, 0, real);
    fn renameat(from: c_int, old: *const c_char, to: c_int, new: *const c_char) -> c_int, real => rename_at(from, old, to, new, 0, real);
    fn renameat2(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_uint) -> c_int, real => rename_at(from, old, to, new, flags, real);
    fn unlink(name: *const c_char) -> c_int, real => unlink_at(AT_FDCWD, name, 0, real);
    fn unlinkat(dir: c_int, name: *const c_char, flags: c_int) -> c_int, real => unlink_at(dir, name, flags, real);
    fn rmdir(name: *const c_char) -> c_int, real => unlink_at(AT_FDCWD, name, libc::AT_REMOVEDIR, real);
    fn remove(name: *const c_char) -> c_int, real => {
        if capture().is_none() {
            return real();
        }
        // SAFETY: the C library's own place of this thread.
        let place = unsafe { libc::__errno_location() };
        let done = unlink_at(AT_FDCWD, name, 0, || -1);
        // SAFETY: as above.
        if done != 0 && unsafe { *place } == libc::EISDIR { unlink_at(AT_FDCWD, name, libc::AT_REMOVEDIR, || -1) } else { done }
    };
    fn link(old: *const c_char, new: *const c_char) -> c_int, real => link_at(AT_FDCWD, old, AT_FDCWD, new, 0, real);
    fn linkat(from: c_int, old: *const c_char, to: c_int, new: *const c_char, flags: c_int) -> c_int, real => link_at(from, old, to, new, flags, real);
    fn symlink(target: *const c_char, name: *const c_char) -> c_int, real => symlink_at(target, AT_FDCWD, name, real);
    fn symlinkat(target: *const c_char, dir: c_int, name: *const c_char) -> c_int, real => symlink_at(target, dir, name, real);
    fn mkdir(name: *const c_char, mode: mode_t) -> c_int, real => mkdir_at(AT_FDCWD, name, mode, real);
    fn mkdirat(dir: c_int, name: *const c_char, mode: mode_t) -> c_int, real => mkdir_at(dir, name, mode, real);
}

/// Whether a class is that of a file of the group.
pub(super) fn is_file(class: Option<Class>) -> bool {
    matches!(class, Some(Class::File(_)))
}
