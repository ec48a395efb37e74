//! The tree underneath: reached by a descriptor of its folder that was opened before the mount, and by file handles.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use apus_capture::linux::sys::{self, Errno, Handle};

/// The kernel's way of saying `Result`.
pub(super) type Done<T> = Result<T, Errno>;

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    /// Device, inode number, birth: one file, ever.
    pub(super) key: [u64; 3],
    pub(super) size: u64,
    pub(super) blocks: u64,
    /// Seconds and nanoseconds.
    pub(super) accessed: (i64, u32),
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) device: u32,
    pub(super) block: u32,
}

impl Found {
    fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    pub(super) fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
    pub(super) fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
    pub(super) fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }
}

/// What the C library answers with, and its error.
pub(super) fn check(result: impl Into<i64>) -> Done<i64> {
    let result = result.into();
    if result < 0 { Err(Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))) } else { Ok(result) }
}

/// The number of an error of the standard library.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A descriptor that was just opened.
fn owned(fd: impl Into<i64>) -> Done<OwnedFd> {
    let fd = check(fd)? as RawFd;
    // SAFETY: just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is at `name` below `dir`; an empty name means `dir` itself. A symbolic link is not followed.
pub(super) fn stat(dir: RawFd, name: &CStr) -> Done<Found> {
    // SAFETY: a statx of zeros is one.
    let mut got: libc::statx = unsafe { std::mem::zeroed() };
    let how = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let asked = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the name ends with a zero, the structure is the kernel's.
    check(unsafe { libc::statx(dir, name.as_ptr(), how, asked, &raw mut got) })?;
    let born = if got.stx_mask & libc::STATX_BTIME == 0 {
        0
    } else {
        got.stx_btime.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(got.stx_btime.tv_nsec)).cast_unsigned()
    };
    let time = |at: libc::statx_timestamp| (at.tv_sec, at.tv_nsec);
    Ok(Found {
        key: [u64::from(got.stx_dev_major) << 32 | u64::from(got.stx_dev_minor), got.stx_ino, born],
        size: got.stx_size,
        blocks: got.stx_blocks,
        accessed: time(got.stx_atime),
        modified: time(got.stx_mtime),
        changed: time(got.stx_ctime),
        mode: u32::from(got.stx_mode),
        links: got.stx_nlink,
        user: got.stx_uid,
        group: got.stx_gid,
        device: got.stx_rdev_minor & 0xff | got.stx_rdev_major << 8 | (got.stx_rdev_minor & !0xff) << 12,
        block: got.stx_blksize,
    })
}

/// Opens `name` below `dir`; what is there is not followed if it is a link.
pub(super) fn open(dir: RawFd, name: &CStr, flags: i32, mode: u32) -> Done<OwnedFd> {
    // SAFETY: the name ends with a zero.
    owned(unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOFOLLOW, mode) })
}

/// Opens by handle, whatever the file's names are. `root`: any descriptor of the file system.
pub(super) fn open_handle(root: RawFd, handle: &Handle, flags: i32) -> Done<OwnedFd> {
    owned(sys::open_handle(root, handle, flags)?)
}

/// A name by which the kernel finds an open file, also one that is open as a path alone.
pub(super) fn descriptor(fd: RawFd) -> CString {
    CString::new(format!("/proc/self/fd/{fd}")).expect("digits")
}

pub(super) fn make_dir(dir: RawFd, name: &CStr, mode: u32) -> Done<()> {
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::mkdirat(dir, name.as_ptr(), mode) }).map(drop)
}

pub(super) fn make_node(dir: RawFd, name: &CStr, mode: u32, device: u32) -> Done<()> {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::mknodat(dir, name.as_ptr(), mode, libc::makedev(major, minor)) }).map(drop)
}

pub(super) fn make_symlink(target: &CStr, dir: RawFd, name: &CStr) -> Done<()> {
    // SAFETY: both end with a zero.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir, name.as_ptr()) }).map(drop)
}

/// One more name of the file that is open as `file`.
pub(super) fn link(file: RawFd, dir: RawFd, name: &CStr) -> Done<()> {
    // SAFETY: the name ends with a zero; an empty first one means the file itself.
    check(unsafe { libc::linkat(file, c"".as_ptr(), dir, name.as_ptr(), libc::AT_EMPTY_PATH) }).map(drop)
}

pub(super) fn unlink(dir: RawFd, name: &CStr, directory: bool) -> Done<()> {
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), if directory { libc::AT_REMOVEDIR } else { 0 }) }).map(drop)
}

pub(super) fn rename(from: RawFd, name: &CStr, to: RawFd, new: &CStr, flags: u32) -> Done<()> {
    // SAFETY: both end with a zero.
    check(unsafe { libc::renameat2(from, name.as_ptr(), to, new.as_ptr(), flags) }).map(drop)
}

/// The text of the link that is open as `fd`.
pub(super) fn read_link(fd: RawFd) -> Done<Vec<u8>> {
    let mut text = vec![0u8; libc::PATH_MAX as usize];
    let got = sys::readlinkat(fd, c"".as_ptr(), &mut text)?;
    text.truncate(got);
    Ok(text)
}

/// Permissions of what is open as `fd`.
pub(super) fn set_mode(fd: RawFd, mode: u32) -> Done<()> {
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::chmod(descriptor(fd).as_ptr(), mode) }).map(drop)
}

/// Owner and group; `u32::MAX` leaves one as it is.
pub(super) fn set_owner(fd: RawFd, user: u32, group: u32) -> Done<()> {
    let how = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: an empty name means the file itself.
    check(unsafe { libc::fchownat(fd, c"".as_ptr(), user, group, how) }).map(drop)
}

/// Times of access and change.
pub(super) fn set_times(fd: RawFd, times: &[libc::timespec; 2]) -> Done<()> {
    let how = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: an empty name means the file itself; both times are there.
    check(unsafe { libc::utimensat(fd, c"".as_ptr(), times.as_ptr(), how) }).map(drop)
}

pub(super) fn set_len(fd: RawFd, len: u64) -> Done<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::ftruncate(fd, len.cast_signed()) }).map(drop)
}

pub(super) fn allocate(fd: RawFd, how: i32, offset: u64, len: u64) -> Done<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fallocate(fd, how, offset.cast_signed(), len.cast_signed()) }).map(drop)
}

pub(super) fn seek(fd: RawFd, offset: u64, whence: i32) -> Done<u64> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::lseek(fd, offset.cast_signed(), whence) }).map(i64::cast_unsigned)
}

pub(super) fn sync(fd: RawFd, data: bool) -> Done<()> {
    // SAFETY: no memory is passed.
    check(if data { unsafe { libc::fdatasync(fd) } } else { unsafe { libc::fsync(fd) } }).map(drop)
}

/// All of the file system that `fd` is on.
pub(super) fn sync_all(fd: RawFd) -> Done<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syncfs(fd) }).map(drop)
}

/// As much as the file has, or an error if there is nothing at all.
pub(super) fn read(fd: RawFd, to: &mut [u8], offset: u64) -> Done<usize> {
    let mut got = 0;
    while got < to.len() {
        match sys::pread(fd, &mut to[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(Errno(libc::EINTR)) => {}
            Err(error) if got == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(got)
}

/// Writes all, or as much as there is room for; an error if that is nothing.
pub(super) fn write(fd: RawFd, from: &[u8], offset: u64) -> Done<usize> {
    let mut done = 0;
    while done < from.len() {
        let rest = &from[done..];
        let at = (offset + done as u64).cast_signed();
        // SAFETY: the slice is as long as is said.
        match check(unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), at) } as i64) {
            Ok(0) => break,
            Ok(more) => done += more as usize,
            Err(Errno(libc::EINTR)) => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// One step of a copy inside the file system.
pub(super) fn copy(from: RawFd, mut at: i64, to: RawFd, mut place: i64, len: usize) -> Done<usize> {
    // SAFETY: both places are there.
    let done = unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut place, len, 0) };
    check(done as i64).map(|done| done as usize)
}

/// Entries of the directory that is open as `fd`, from its place on: inode number, next place, type, name.
pub(super) fn entries(fd: RawFd, room: &mut [u8]) -> Done<Vec<(u64, u64, u8, CString)>> {
    // SAFETY: the slice is as long as is said.
    let got = check(unsafe { libc::syscall(libc::SYS_getdents64, fd, room.as_mut_ptr(), room.len()) })?;
    let mut rest = &room[..got as usize];
    let mut list = Vec::new();
    // Inode number 8, place 8, length 2, type 1, the name with its zero.
    while rest.len() > 19 {
        let number = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().expect("eight"));
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let Ok(name) = CStr::from_bytes_until_nul(&rest[19..len.clamp(19, rest.len())]) else { break };
        list.push((number(0), number(8), rest[18], name.to_owned()));
        rest = &rest[len.min(rest.len())..];
    }
    Ok(list)
}

/// An extended attribute of what is open as `fd`. No room: its length alone.
pub(super) fn attribute(fd: RawFd, name: &CStr, to: &mut [u8]) -> Done<usize> {
    let path = descriptor(fd);
    // SAFETY: names end with a zero, the room is as large as is said.
    let got = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), to.as_mut_ptr().cast(), to.len()) };
    check(got as i64).map(|got| got as usize)
}

/// Names of extended attributes, each ended by a zero. No room: their length alone.
pub(super) fn attributes(fd: RawFd, to: &mut [u8]) -> Done<usize> {
    let path = descriptor(fd);
    // SAFETY: the name ends with a zero, the room is as large as is said.
    check(unsafe { libc::listxattr(path.as_ptr(), to.as_mut_ptr().cast(), to.len()) } as i64).map(|got| got as usize)
}

pub(super) fn set_attribute(fd: RawFd, name: &CStr, value: &[u8], flags: i32) -> Done<()> {
    let path = descriptor(fd);
    // SAFETY: names end with a zero, the value is as long as is said.
    check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }).map(drop)
}

pub(super) fn remove_attribute(fd: RawFd, name: &CStr) -> Done<()> {
    let path = descriptor(fd);
    // SAFETY: both names end with a zero.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).map(drop)
}

/// `statvfs` of the file system that `fd` is on.
pub(super) fn space(fd: RawFd) -> Done<libc::statvfs> {
    // SAFETY: a statvfs of zeros is one.
    let mut got: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is the kernel's.
    check(unsafe { libc::fstatvfs(fd, &raw mut got) })?;
    Ok(got)
}

/// The handle of what is at `name` below `dir`; an empty name means `dir` itself.
pub(super) fn handle(dir: RawFd, name: &CStr) -> Done<Handle> {
    sys::handle(dir, name.as_ptr())
}

/// Gives this thread a mask of its own, apart from the process's.
pub(super) fn own_mask() -> Done<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// Which permissions files do not get that this thread makes: it is the asking program's mask, so that the file system itself
/// weighs it against a folder's list of access.
pub(super) fn mask(mask: u32) {
    // SAFETY: no memory is passed; the thread has a mask of its own.
    unsafe { libc::umask(mask) };
}

/// A descriptor's number.
pub(super) fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
