//! System calls without the C library: no `errno`, no allocation, no cancellation, and never a call of our own that is interposed.

use core::arch::asm;

use libc::{c_char, c_int, c_long};

/// An error number of the kernel, above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The error in words.
    pub fn text(self) -> String {
        std::io::Error::from(self).to_string()
    }
}

impl From<Errno> for std::io::Error {
    fn from(error: Errno) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

/// One system call, its result as the kernel gives it: negative error numbers.
///
/// # Safety
/// The arguments must be what the call asks for.
#[inline]
pub unsafe fn call(number: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller answers for the arguments; the kernel keeps all registers but these.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
            in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

fn done(result: isize) -> Result<usize, Errno> {
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// Reads at an offset into `to`; fewer bytes at the end of the file.
pub fn pread(fd: c_int, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the slice is as long as is said.
    done(unsafe { call(libc::SYS_pread64, [fd as usize, to.as_mut_ptr() as usize, to.len(), offset as usize, 0, 0]) })
}

/// As [`pread`], from the file's place.
pub fn read(fd: c_int, to: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is as long as is said.
    done(unsafe { call(libc::SYS_read, [fd as usize, to.as_mut_ptr() as usize, to.len(), 0, 0, 0]) })
}

/// The file's place.
pub fn place(fd: c_int) -> Result<u64, Errno> {
    // SAFETY: no memory is passed.
    done(unsafe { call(libc::SYS_lseek, [fd as usize, 0, libc::SEEK_CUR as usize, 0, 0, 0]) }).map(|at| at as u64)
}

/// `path` ends with a zero byte.
pub fn openat(dir: c_int, path: *const c_char, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: the path is the caller's, ended by a zero; a bad pointer is the kernel's EFAULT.
    done(unsafe { call(libc::SYS_openat, [dir as usize, path as usize, (flags | libc::O_CLOEXEC) as usize, 0, 0, 0]) })
        .map(|fd| fd as c_int)
}

/// The directory at `path` (ended by a zero byte) below `dir`, where neither a link nor `..` leads there (`openat2`, Linux 5.6).
pub fn beneath(dir: c_int, path: *const c_char) -> Result<c_int, Errno> {
    // SAFETY: an open_how of zeros is one.
    let mut how: libc::open_how = unsafe { core::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    let size = size_of::<libc::open_how>();
    // SAFETY: the path is ended by a zero, the structure is as long as is said.
    done(unsafe { call(libc::SYS_openat2, [dir as usize, path as usize, (&raw const how) as usize, size, 0, 0]) })
        .map(|fd| fd as c_int)
}

/// Closes; an error is of no use to anyone here.
pub fn close(fd: c_int) {
    // SAFETY: no memory is passed.
    unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// `path` ends with a zero byte.
pub fn readlinkat(dir: c_int, path: *const c_char, to: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is as long as is said; the path is ended by a zero.
    done(unsafe { call(libc::SYS_readlinkat, [dir as usize, path as usize, to.as_mut_ptr() as usize, to.len(), 0, 0]) })
}

/// `F_GETFL`.
pub fn flags(fd: c_int) -> Result<c_int, Errno> {
    // SAFETY: no memory is passed.
    done(unsafe { call(libc::SYS_fcntl, [fd as usize, libc::F_GETFL as usize, 0, 0, 0, 0]) })
        .map(|flags| flags as c_int)
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device, inode number and birth in nanoseconds: together one file, ever. The birth is 0 where the file system has none.
    pub key: [u64; 3],
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// In bytes.
    pub size: u64,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Last access and last change of the content, in nanoseconds since 1970.
    pub accessed: i64,
    /// See `accessed`.
    pub modified: i64,
}

impl Stat {
    /// Whether it is a plain file.
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// The file at `path` (ended by a zero byte) below `dir`, not followed if it is a symbolic link; an empty path means `dir` itself.
pub fn stat(dir: c_int, path: *const c_char) -> Result<Stat, Errno> {
    // SAFETY: a statx of zeros is one.
    let mut got: libc::statx = unsafe { core::mem::zeroed() };
    let asked = (libc::STATX_BASIC_STATS | libc::STATX_BTIME) as usize;
    let how = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as usize;
    let into = (&raw mut got) as usize;
    // SAFETY: the structure is the kernel's; the path is ended by a zero.
    done(unsafe { call(libc::SYS_statx, [dir as usize, path as usize, how, asked, into, 0]) })?;
    let nanos = |at: libc::statx_timestamp| at.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(at.tv_nsec));
    let born = if got.stx_mask & libc::STATX_BTIME == 0 { 0 } else { nanos(got.stx_btime) as u64 };
    let device = u64::from(got.stx_dev_major) << 32 | u64::from(got.stx_dev_minor);
    Ok(Stat {
        key: [device, got.stx_ino, born],
        mode: u32::from(got.stx_mode),
        links: got.stx_nlink,
        size: got.stx_size,
        owner: (got.stx_uid, got.stx_gid),
        accessed: nanos(got.stx_atime),
        modified: nanos(got.stx_mtime),
    })
}

/// The file behind `fd`.
pub fn fstat(fd: c_int) -> Result<Stat, Errno> {
    stat(fd, c"".as_ptr())
}

/// Waits while `word` is `value`, at most `millis`.
pub fn futex_wait(word: &core::sync::atomic::AtomicU32, value: u32, millis: u32) {
    let limit = libc::timespec { tv_sec: i64::from(millis / 1000), tv_nsec: i64::from(millis % 1000) * 1_000_000 };
    // SAFETY: word and limit outlive the call.
    unsafe {
        call(
            libc::SYS_futex,
            [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, value as usize, (&raw const limit) as usize, 0, 0],
        )
    };
}

/// Wakes up to `many` that wait for `word`.
pub fn futex_wake(word: &core::sync::atomic::AtomicU32, many: u32) {
    // SAFETY: the word outlives the call.
    unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, many as usize, 0, 0, 0]) };
}

/// This process.
pub fn pid() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { call(libc::SYS_getpid, [0; 6]) as u32 }
}

/// Monotonic time in nanoseconds, coarse: milliseconds are what it is used for.
pub fn now() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is the kernel's. Answered without a system call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// Time since the machine started, also while it slept, in nanoseconds: what leases are told in.
pub fn boot() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is the kernel's.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// A file's handle, by which a privileged process opens it whatever its names are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handle {
    /// Bytes that are in use.
    pub bytes: u32,
    /// The file system's kind of handle.
    pub kind: i32,
    /// What only the file system reads.
    pub data: [u8; 128],
}

/// The handle of the file at `path` (ended by a zero; empty: `dir` itself).
pub fn handle(dir: c_int, path: *const c_char) -> Result<Handle, Errno> {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount: c_int = 0;
    let into = (&raw mut handle) as usize;
    // SAFETY: the structure has the room that it says.
    let got = unsafe {
        call(
            libc::SYS_name_to_handle_at,
            [dir as usize, path as usize, into, (&raw mut mount) as usize, libc::AT_EMPTY_PATH as usize, 0],
        )
    };
    done(got).map(|_| handle)
}

/// New bytes for good, without an allocator.
pub fn room(bytes: usize) -> Result<&'static mut [u8], Errno> {
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let how = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    // SAFETY: a new mapping anywhere.
    let start = done(unsafe { call(libc::SYS_mmap, [0, bytes.max(1), protection, how, usize::MAX, 0]) })?;
    // SAFETY: just mapped, as long as is said, and never given back; nobody else has it.
    Ok(unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(start), bytes) })
}

/// Opens by handle; `mount` is any descriptor of the same file system. It may take a tenth of a second.
///
/// While another file is being made with the number that a destroyed one had, Linux says "no memory" (`iget_locked` has one answer for
/// both); once it is made, that the handle is stale. So that answer is asked for again.
pub fn open_handle(mount: c_int, handle: &Handle, flags: c_int) -> Result<c_int, Errno> {
    let from = core::ptr::from_ref(handle) as usize;
    let open = || {
        // SAFETY: the handle says how long it is.
        done(unsafe {
            call(libc::SYS_open_by_handle_at, [mount as usize, from, (flags | libc::O_CLOEXEC) as usize, 0, 0, 0])
        })
    };
    let mut got = open();
    for _ in 0..100 {
        if got != Err(Errno(libc::ENOMEM)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        got = open();
    }
    got.map(|fd| fd as c_int)
}

/// Whether no process has this number.
fn none(process: u32) -> bool {
    // SAFETY: no memory is passed, and no signal sent.
    unsafe { call(libc::SYS_kill, [process as usize, 0, 0, 0, 0, 0]) == -(libc::ESRCH as isize) }
}

/// Whether `process` has ended, also if nobody has reaped it yet. `since`: it is as good as ended if it began after that monotonic time.
/// What cannot be told, for want of descriptors or of `/proc`, is alive.
pub fn ended(process: u32, since: Option<u64>) -> bool {
    let mut path = *b"/proc/0000000000/stat\0";
    let (mut at, mut rest) = (16, process);
    while at > 6 {
        at -= 1;
        path[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // The kernel knows no leading zeros: the digits are moved to the front.
    let first = (6..15).find(|&at| path[at] != b'0').unwrap_or(15);
    path.copy_within(first.., 6);
    let fd = match openat(libc::AT_FDCWD, path.as_ptr().cast(), libc::O_RDONLY) {
        Ok(fd) => fd,
        Err(Errno(libc::ENOENT | libc::ESRCH)) => return none(process),
        Err(_) => return false,
    };
    let mut text = [0; 512];
    let got = read(fd, &mut text);
    close(fd);
    let got = match got {
        Ok(got) => got,
        Err(Errno(libc::ESRCH)) => return none(process),
        Err(_) => return false,
    };
    // The name may hold anything, and stands in the last brackets.
    let Some(end) = text[..got].iter().rposition(|&byte| byte == b')') else { return false };
    let mut words = text[(end + 2).min(got)..got].split(|&byte| byte == b' ');
    let number = |word: Option<&[u8]>| {
        word.map_or(0, |word| {
            word.iter().filter(|byte| byte.is_ascii_digit()).fold(0u64, |all, digit| all * 10 + u64::from(digit - b'0'))
        })
    };
    let state = words.next().unwrap_or(b"");
    let threads = number(words.nth(16));
    let started = number(words.nth(1));
    if matches!(state, b"Z" | b"X") && threads <= 1 {
        return true;
    }
    since.is_some_and(|since| {
        let mut boot = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is the kernel's.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut boot) };
        let slept = (boot.tv_sec as u64 * 1_000_000_000 + boot.tv_nsec as u64).saturating_sub(now());
        // A tick is 10 ms, and the coarse clock lags by as much.
        (started * 10_000_000).saturating_sub(slept) > since.saturating_add(30_000_000)
    })
}

/// How many files this process may have open.
pub fn open_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is the kernel's.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 { limit.rlim_cur } else { 0 }
}

#[cfg(test)]
mod tests {
    /// With no descriptor left a living process is no dead one: its lock is not taken from it.
    #[test]
    fn without_descriptors_the_living_are_not_taken_for_dead() {
        let child = std::process::Command::new(std::env::current_exe().expect("we run"))
            .args(["--exact", "linux::sys::tests::in_want_of_descriptors", "--ignored"])
            .output();
        let child = child.expect("it runs");
        assert!(child.status.success() && String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{child:?}");
    }

    /// Alone in its process: it leaves no descriptor to others.
    #[test]
    #[ignore = "run by another"]
    fn in_want_of_descriptors() {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is there.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) }, 0);
        assert_eq!(super::openat(libc::AT_FDCWD, c"/".as_ptr(), libc::O_RDONLY), Err(super::Errno(libc::EMFILE)));
        assert!(!super::ended(std::process::id(), None));
    }

    #[test]
    fn an_ended_process_is_told_from_a_living_one() {
        assert!(!super::ended(std::process::id(), None));
        assert!(!super::ended(std::process::id(), Some(super::now())));
        assert!(!super::ended(1, None));
        let mut child = std::process::Command::new("true").spawn().expect("true is there");
        let pid = child.id();
        while !super::ended(pid, None) {
            std::thread::yield_now();
        }
        child.wait().expect("it is ours");
        assert!(super::ended(pid, None));
    }
}
