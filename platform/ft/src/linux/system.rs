//! Calls of the system, each as a function that cannot be called wrongly.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::PAGE;

/// The number that a call gave, or why it failed.
pub(super) fn told(result: i64) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Bytes of a page of this system.
pub(super) fn page_size() -> usize {
    // SAFETY: no memory is passed.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or_default()
}

/// A file that is memory, and no program inherits.
pub(super) fn memory_file(name: &str) -> io::Result<File> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the name ends with a zero and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    let fd = RawFd::try_from(told(fd.into())?).unwrap_or(-1);
    // SAFETY: the kernel has just opened it for this process, which knows it by this number alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Keeps a file from changing its length: what maps it cannot be killed by that.
pub(super) fn seal_length(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no memory is passed.
    told(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into()).map(|_| ())
}

/// Takes the one lock on a file for this process. `Some`: who has it.
pub(super) fn lock(file: &File) -> io::Result<Option<u32>> {
    // SAFETY: all of it may be zero: the whole file, from its start.
    let mut asked: libc::flock = unsafe { std::mem::zeroed() };
    asked.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: what is passed outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const asked) } == 0 {
        return Ok(None);
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) {
        return Err(error);
    }
    // SAFETY: as above; the answer is written there.
    told(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut asked) }.into())?;
    Ok(Some(u32::try_from(asked.l_pid).unwrap_or_default()))
}

/// Gives bytes of a file room, or takes it away again. The length stays.
pub(super) fn room(file: &File, from: u64, bytes: u64, given: bool) -> io::Result<()> {
    let how = if given { 0 } else { libc::FALLOC_FL_PUNCH_HOLE };
    let (from, bytes) = (i64::try_from(from), i64::try_from(bytes));
    let (Ok(from), Ok(bytes)) = (from, bytes) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // SAFETY: no memory is passed.
    told(unsafe { libc::fallocate(file.as_raw_fd(), how | libc::FALLOC_FL_KEEP_SIZE, from, bytes) }.into()).map(|_| ())
}

/// Where the next bytes of a file are that are not a hole, from a place on.
pub(super) fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence| {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        // SAFETY: no memory is passed.
        told(unsafe { libc::lseek(file.as_raw_fd(), from, whence) })
    };
    match seek(from, libc::SEEK_DATA) {
        Ok(start) => Ok(Some((start as u64, seek(start as u64, libc::SEEK_HOLE)? as u64))),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Memory of this process that is unmapped when it is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: it is memory, which belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: it gives out its address alone; who uses that answers for it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh memory of this process at a fixed address, in small pages. `None`: something is there.
    pub(super) fn fixed(base: usize, bytes: usize) -> io::Result<Option<Self>> {
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel gives the place only if nothing is there.
        let got = unsafe { libc::mmap(base as *mut libc::c_void, bytes, rights, how, -1, 0) };
        if got == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EEXIST) { Ok(None) } else { Err(error) };
        }
        let mapping = Self { base: got.cast(), bytes };
        if got as usize != base {
            // A kernel that does not know the request takes it for a wish.
            return Ok(None);
        }
        // Huge pages would be copied whole.
        // SAFETY: it is advice about memory of ours.
        unsafe { libc::madvise(got, bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Some(mapping))
    }

    /// A file, to be read.
    pub(super) fn of(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place.
        let got =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base: got.cast(), bytes }) }
    }

    pub(super) const fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and who borrows from it has ended.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Writes several stretches of memory to a file, one after the other, and says how much came there.
///
/// # Safety
/// Each stretch must be readable memory.
pub(super) unsafe fn write_all(file: &File, parts: &mut [libc::iovec], mut at: u64) -> io::Result<()> {
    let mut from = 0;
    while from < parts.len() {
        let many = libc::c_int::try_from((parts.len() - from).min(1024)).unwrap_or(1024);
        let place = libc::off_t::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: so many parts are there, and each is readable, as the caller promises.
        let wrote = unsafe { libc::pwritev(file.as_raw_fd(), parts[from..].as_ptr(), many, place) };
        let mut wrote = match told(wrote as i64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            other => other?,
        };
        at += wrote as u64;
        while from < parts.len() && wrote >= parts[from].iov_len {
            wrote -= parts[from].iov_len;
            from += 1;
        }
        if wrote > 0 {
            parts[from].iov_base = parts[from].iov_base.wrapping_byte_add(wrote);
            parts[from].iov_len -= wrote;
        }
    }
    Ok(())
}

/// A name for the program that runs: by what its linker said of its build, or by its file's size and times.
pub(super) fn build() -> io::Result<String> {
    let file = File::open("/proc/self/exe")?;
    let about = file.metadata()?;
    let image = Mapping::of(&file, usize::try_from(about.len()).unwrap_or_default())?;
    // SAFETY: the mapping is that long, and a running program's file cannot be written to.
    let bytes = unsafe { std::slice::from_raw_parts(image.base().cast_const(), image.len()) };
    Ok(note(bytes).map_or_else(
        || {
            use std::os::unix::fs::MetadataExt as _;
            format!("file {} {}.{}", about.len(), about.mtime(), about.mtime_nsec())
        },
        |id| id.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

/// The build's number in a 64-bit little-endian program (`NT_GNU_BUILD_ID`, ELF).
fn note(elf: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let part = elf.get(at..at.checked_add(bytes)?)?;
        part.iter().rev().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, many) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..many {
        let at = table.checked_add(entry.checked_mul(size)?)?;
        if number(at, 4)? != 4 {
            continue;
        }
        let (mut at, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
        let end = at.checked_add(length)?;
        while at + 12 <= end {
            let (name, bytes, kind) = (number(at, 4)?, number(at + 4, 4)?, number(at + 8, 4)?);
            let content = at.checked_add(12)?.checked_add(name.checked_next_multiple_of(4)?)?;
            if kind == 3 && elf.get(at + 12..at + 16) == Some(b"GNU\0") {
                return elf.get(content..content.checked_add(bytes)?);
            }
            at = content.checked_add(bytes.checked_next_multiple_of(4)?)?;
        }
    }
    None
}

/// Whether memory is of whole pages.
pub(super) const fn is_whole(bytes: usize) -> bool {
    bytes.is_multiple_of(PAGE)
}
