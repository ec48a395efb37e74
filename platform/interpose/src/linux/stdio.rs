//! Streams. The C library writes them by calls of its own that no library can stand before; so a stream on a file of the group is made
//! from functions that call ours.

use core::ffi::{c_char, c_int, c_void};

use apus_capture::linux::sys;
use libc::{AT_FDCWD, FILE, off64_t, size_t, ssize_t};

use super::names::{is_file, opened, path};
use super::state::{capture, errno, file, finish, forget, raw};

/// Where glibc keeps a stream's descriptor (`struct _IO_FILE`, part of its binary interface).
const FILENO: usize = 112;

#[repr(C)]
struct Functions {
    read: unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: unsafe extern "C" fn(*mut c_void, *mut off64_t, c_int) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
    static mut stdout: *mut FILE;
    static mut stderr: *mut FILE;
}

unsafe extern "C" fn read(cookie: *mut c_void, to: *mut c_char, len: size_t) -> ssize_t {
    finish(raw(libc::SYS_read, [cookie as usize, to as usize, len]))
}

unsafe extern "C" fn write(cookie: *mut c_void, from: *const c_char, len: size_t) -> ssize_t {
    // SAFETY: the stream's buffer.
    let done = unsafe { super::bytes::write(cookie as c_int, from.cast(), len) };
    // A stream's function says nothing was written, where a system call says -1.
    done.max(0)
}

unsafe extern "C" fn seek(cookie: *mut c_void, offset: *mut off64_t, whence: c_int) -> c_int {
    // SAFETY: the stream's place.
    let offset = unsafe { &mut *offset };
    let at = finish(raw(libc::SYS_lseek, [cookie as usize, *offset as usize, whence as usize]));
    if at < 0 {
        return -1;
    }
    *offset = at as off64_t;
    0
}

unsafe extern "C" fn close(cookie: *mut c_void) -> c_int {
    // SAFETY: the stream's descriptor.
    unsafe { super::descriptors::close(cookie as c_int) }
}

/// A stream over `fd`, whose calls are ours.
fn stream(fd: c_int, mode: *const c_char) -> *mut FILE {
    // SAFETY: the functions stay, the mode is the caller's.
    let made = unsafe { fopencookie(fd as usize as *mut c_void, mode, Functions { read, write, seek, close }) };
    if !made.is_null() {
        // SAFETY: within the stream that was just made.
        let place = unsafe { made.cast::<u8>().add(FILENO) };
        // SAFETY: as above; programs ask for the descriptor.
        unsafe { place.cast::<c_int>().write(fd) };
    }
    made
}

/// The flags that a mode means; `None` for what only the C library knows.
fn flags(mode: &[u8]) -> Option<c_int> {
    let plus = mode.iter().take_while(|&&byte| byte != b',').any(|&byte| byte == b'+');
    let base = match mode.first()? {
        b'r' if plus => libc::O_RDWR,
        b'r' => libc::O_RDONLY,
        b'w' => libc::O_CREAT | libc::O_TRUNC | if plus { libc::O_RDWR } else { libc::O_WRONLY },
        b'a' => libc::O_CREAT | libc::O_APPEND | if plus { libc::O_RDWR } else { libc::O_WRONLY },
        _ => return None,
    };
    let letter = |letter: u8, flag: c_int| if mode.contains(&letter) { flag } else { 0 };
    Some(base | letter(b'e', libc::O_CLOEXEC) | letter(b'x', libc::O_EXCL))
}

fn open(name: *const c_char, mode: *const c_char, real: impl FnOnce() -> *mut FILE) -> *mut FILE {
    // SAFETY: the caller's.
    let wanted = flags(unsafe { path(mode) }).filter(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY);
    let (Some(capture), Some(flags)) = (capture(), wanted) else { return forgotten(real()) };
    // SAFETY: the caller's.
    let below = unsafe { path(name) };
    if !capture.concerns(AT_FDCWD, below) {
        return forgotten(real());
    }
    let fd = opened(capture, AT_FDCWD, below, flags, &mut || {
        raw(libc::SYS_openat, [AT_FDCWD as usize, name as usize, flags as usize, 0o666])
    });
    if fd < 0 {
        return core::ptr::null_mut();
    }
    let made = stream(fd, mode);
    if made.is_null() {
        // SAFETY: just opened.
        unsafe { super::descriptors::close(fd) };
    }
    made
}

/// A new stream whose descriptor may have been another's.
fn forgotten(made: *mut FILE) -> *mut FILE {
    if !made.is_null() {
        // SAFETY: a stream of the C library.
        forget(unsafe { libc::fileno(made) });
    }
    made
}

macro_rules! fopens {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, mode: *const c_char) -> *mut FILE, real => open(name, mode, real);
    )*}};
}
fopens!(fopen fopen64);

macro_rules! freopens {
    ($($name:ident)*) => {hook! {$(
        fn $name(name: *const c_char, mode: *const c_char, old: *mut FILE) -> *mut FILE, real => {
            if !old.is_null() {
                // SAFETY: the caller's stream.
                forget(unsafe { libc::fileno(old) });
            }
            // SAFETY: the caller's.
            let wanted = flags(unsafe { path(mode) }).filter(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY);
            if let (Some(capture), Some(flags), false) = (capture(), wanted, name.is_null()) {
                // Made or cut by a call that is seen; what the stream writes afterwards is not.
                // SAFETY: the caller's.
                let below = unsafe { path(name) };
                let (fd, class) = if capture.concerns(AT_FDCWD, below) {
                    let flags = flags | libc::O_CLOEXEC;
                    capture.open(AT_FDCWD, below, flags, &mut || raw(libc::SYS_openat, [AT_FDCWD as usize, name as usize, flags as usize, 0o666]))
                } else {
                    (-1, None)
                };
                if fd >= 0 {
                    if is_file(class) && let Some((bound, _)) = file(fd as c_int) {
                        capture.untracked(bound);
                    }
                    forget(fd as c_int);
                    sys::close(fd as c_int);
                }
            }
            forgotten(real())
        };
    )*}};
}
freopens!(freopen freopen64);

hook! {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE, real => {
        // SAFETY: the caller's.
        let wanted = flags(unsafe { path(mode) }).filter(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY);
        let Some(flags) = wanted.filter(|_| file(fd).is_some()) else { return real() };
        let has = sys::flags(fd).unwrap_or(0);
        if has & libc::O_ACCMODE != libc::O_RDWR && has & libc::O_ACCMODE != flags & libc::O_ACCMODE {
            errno(libc::EINVAL);
            return core::ptr::null_mut();
        }
        if flags & !has & libc::O_APPEND != 0 {
            // SAFETY: a flag, no memory.
            unsafe { super::descriptors::fcntl(fd, libc::F_SETFL, (has | libc::O_APPEND) as usize as *mut c_void) };
        }
        stream(fd, mode)
    };
    fn fclose(old: *mut FILE) -> c_int, real => {
        // SAFETY: the caller's stream.
        // Whose functions close it: the C library's are not seen, and ours forget once more.
        forget(unsafe { libc::fileno(old) });
        real()
    };
}

/// Streams that the program was given are made anew if they lead into the group.
extern "C" fn standard() {
    for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        if capture().is_none() || file(fd).is_none() {
            continue;
        }
        let made = stream(fd, if fd == libc::STDOUT_FILENO { c"w" } else { c"a" }.as_ptr());
        if made.is_null() {
            continue;
        }
        if fd == libc::STDOUT_FILENO {
            // SAFETY: nothing has been written yet; the program has not begun.
            unsafe { stdout = made };
        } else {
            // SAFETY: the stream was just made.
            unsafe { libc::setvbuf(made, core::ptr::null_mut(), libc::_IONBF, 0) };
            // SAFETY: as above.
            unsafe { stderr = made };
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static STANDARD: extern "C" fn() = standard;
