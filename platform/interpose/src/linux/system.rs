//! `syscall`: the same operations by their numbers.
#![allow(clippy::undocumented_unsafe_blocks, reason = "each passes on the caller's arguments for the same operation")]

use core::ffi::c_long;

use libc::{AT_FDCWD, c_char, c_int, c_uint, c_void};

use super::state::{capture, finish, raw};
use super::{attributes, bytes, descriptors, memory, names};

/// The kernel's description of an opening.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    if capture().is_none() {
        return finish(raw(number, [a, b, c, d, e, f])) as c_long;
    }
    let (fd, text, second) = (a as c_int, a as *const c_char, b as *const c_char);
    let file = b as *const c_char;
    let result = match number {
        // Programs fall back on calls that can be followed.
        libc::SYS_io_uring_setup => finish(-(libc::ENOSYS as isize)) as c_int,
        libc::SYS_write => return unsafe { bytes::write(fd, b as *const c_void, c) } as c_long,
        libc::SYS_pwrite64 => return unsafe { bytes::pwrite64(fd, b as *const c_void, c, d as i64) } as c_long,
        libc::SYS_writev => return unsafe { bytes::writev(fd, b as *const libc::iovec, c as c_int) } as c_long,
        libc::SYS_pwritev => {
            return unsafe { bytes::pwritev(fd, b as *const libc::iovec, c as c_int, d as i64) } as c_long;
        }
        libc::SYS_pwritev2 => {
            return unsafe { bytes::pwritev2(fd, b as *const libc::iovec, c as c_int, d as i64, f as c_int) } as c_long;
        }
        libc::SYS_copy_file_range => {
            return unsafe { bytes::copy_file_range(fd, b as *mut i64, c as c_int, d as *mut i64, e, f as c_uint) }
                as c_long;
        }
        libc::SYS_splice => {
            return unsafe { bytes::splice(fd, b as *mut i64, c as c_int, d as *mut i64, e, f as c_uint) } as c_long;
        }
        libc::SYS_sendfile => return unsafe { bytes::sendfile(fd, b as c_int, c as *mut i64, d) } as c_long,
        libc::SYS_mmap => {
            return unsafe { memory::mmap(a as *mut c_void, b, c as c_int, d as c_int, e as c_int, f as i64) }
                as c_long;
        }
        libc::SYS_ftruncate => unsafe { bytes::ftruncate(fd, b as i64) },
        libc::SYS_fallocate => unsafe { bytes::fallocate(fd, b as c_int, c as i64, d as i64) },
        libc::SYS_ioctl => unsafe { bytes::ioctl(fd, b as libc::c_ulong, c as *mut c_void) },
        libc::SYS_fsync => unsafe { bytes::fsync(fd) },
        libc::SYS_fdatasync => unsafe { bytes::fdatasync(fd) },
        libc::SYS_syncfs => unsafe { bytes::syncfs(fd) },
        libc::SYS_sync => {
            unsafe { bytes::sync() };
            0
        }
        libc::SYS_truncate => unsafe { names::truncate(text, b as i64) },
        libc::SYS_open => unsafe { names::open(text, b as c_int, c as u32) },
        libc::SYS_creat => unsafe { names::creat(text, b as u32) },
        libc::SYS_openat => unsafe { names::openat(fd, file, c as c_int, d as u32) },
        libc::SYS_openat2 => match (capture(), c as *const How) {
            (Some(capture), how) if !how.is_null() => {
                let (name, flags) = (unsafe { names::path(file) }, unsafe { (*how).flags } as c_int);
                names::opened(capture, fd, name, flags, &mut || raw(number, [a, b, c, d]))
            }
            _ => finish(raw(number, [a, b, c, d])) as c_int,
        },
        libc::SYS_rename => names::rename_at(AT_FDCWD, text, AT_FDCWD, second, 0, || -1),
        libc::SYS_renameat => names::rename_at(fd, file, c as c_int, d as *const c_char, 0, || -1),
        libc::SYS_renameat2 => names::rename_at(fd, file, c as c_int, d as *const c_char, e as c_uint, || -1),
        libc::SYS_unlink => names::unlink_at(AT_FDCWD, text, 0, || -1),
        libc::SYS_rmdir => names::unlink_at(AT_FDCWD, text, libc::AT_REMOVEDIR, || -1),
        libc::SYS_unlinkat => names::unlink_at(fd, file, c as c_int, || -1),
        libc::SYS_link => names::link_at(AT_FDCWD, text, AT_FDCWD, second, 0, || -1),
        libc::SYS_linkat => names::link_at(fd, file, c as c_int, d as *const c_char, e as c_int, || -1),
        libc::SYS_symlink => names::symlink_at(text, AT_FDCWD, second, || -1),
        libc::SYS_symlinkat => names::symlink_at(text, b as c_int, c as *const c_char, || -1),
        libc::SYS_mkdir => names::mkdir_at(AT_FDCWD, text, b as u32, || -1),
        libc::SYS_mkdirat => names::mkdir_at(fd, file, c as u32, || -1),
        libc::SYS_chmod => unsafe { attributes::chmod(text, b as u32) },
        libc::SYS_fchmod => unsafe { attributes::fchmod(fd, b as u32) },
        libc::SYS_fchmodat => unsafe { attributes::fchmodat(fd, file, c as u32, 0) },
        libc::SYS_fchownat => unsafe { attributes::fchownat(fd, file, c as u32, d as u32, e as c_int) },
        libc::SYS_utimensat => unsafe { attributes::utimensat(fd, file, c as *const libc::timespec, d as c_int) },
        libc::SYS_close => unsafe { descriptors::close(fd) },
        libc::SYS_close_range => unsafe { descriptors::close_range(a as c_uint, b as c_uint, c as c_int) },
        libc::SYS_dup => unsafe { descriptors::dup(fd) },
        libc::SYS_dup2 => unsafe { descriptors::dup2(fd, b as c_int) },
        libc::SYS_dup3 => unsafe { descriptors::dup3(fd, b as c_int, c as c_int) },
        libc::SYS_fcntl => unsafe { descriptors::fcntl(fd, b as c_int, c as *mut c_void) },
        _ => return finish(raw(number, [a, b, c, d, e, f])) as c_long,
    };
    c_long::from(result)
}
