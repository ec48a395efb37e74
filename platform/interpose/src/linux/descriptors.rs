//! What descriptors are.

use libc::{c_int, c_uint, c_void};

use super::state::{appends, capture, file, finish, forget, forget_all, raw, same};

/// The program's output streams keep a buffer of their own over these: a file of the group that is moved there is written by the C
/// library without a call that can be seen.
fn standard(fd: c_int) {
    if matches!(fd, libc::STDOUT_FILENO | libc::STDERR_FILENO)
        && let (Some(capture), Some((bound, _))) = (capture(), file(fd))
    {
        capture.untracked(bound);
    }
}

macro_rules! closes {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int) -> c_int, real => {
            // Before the number can be another's.
            forget(fd);
            real()
        };
    )*}};
}
closes!(close __close);

macro_rules! dup2s {
    ($($name:ident)*) => {hook! {$(
        fn $name(from: c_int, to: c_int) -> c_int, real => {
            if from != to {
                forget(to);
            }
            let fd = real();
            if fd >= 0 && from != to {
                same(from, fd);
                standard(fd);
            }
            fd
        };
    )*}};
}
dup2s!(dup2 __dup2);

hook! {
    fn dup(from: c_int) -> c_int, real => {
        let fd = real();
        if fd >= 0 {
            same(from, fd);
            standard(fd);
        }
        fd
    };
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int, real => {
        forget(to);
        let fd = real();
        if fd >= 0 {
            same(from, fd);
            standard(fd);
        }
        fd
    };
    fn close_range(from: c_uint, to: c_uint, flags: c_int) -> c_int, real => {
        if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 {
            forget_all(from as usize, to as usize);
        }
        real()
    };
    fn closefrom(from: c_int) -> (), real => {
        forget_all(from.max(0) as usize, usize::MAX);
        real();
    };
    // The C library closes its descriptor by a call of its own.
    fn closedir(stream: *mut libc::DIR) -> c_int, real => {
        if !stream.is_null() {
            // SAFETY: the caller's stream.
            forget(unsafe { libc::dirfd(stream) });
        }
        real()
    };
    fn daemon(stay: c_int, keep: c_int) -> c_int, real => {
        let done = real();
        forget_all(0, 2);
        done
    };
}

macro_rules! fcntls {
    ($($name:ident)*) => {hook! {$(
        fn $name(fd: c_int, what: c_int, arg: *mut c_void) -> c_int, real => {
            // A database asks for six of these a row: by the kernel's own call, as the C library does it, they cost no more than without us.
            if let libc::F_SETLK | libc::F_GETLK | libc::F_OFD_SETLK | libc::F_OFD_GETLK = what {
                return finish(raw(libc::SYS_fcntl, [fd as usize, what as usize, arg as usize])) as c_int;
            }
            let done = real();
            match what {
                libc::F_DUPFD | libc::F_DUPFD_CLOEXEC if done >= 0 => same(fd, done),
                libc::F_SETFL if done >= 0 => appends(fd, arg as usize & libc::O_APPEND as usize != 0),
                _ => {}
            }
            done
        };
    )*}};
}
fcntls!(fcntl fcntl64 __fcntl);
