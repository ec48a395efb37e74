//! Memory of a table that the kernel's program reads and this process writes.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr::NonNull;

use aya::maps::MapData;

/// Most slots of a table, as a power of two.
pub(super) const MOST_LOG2: u8 = 18;
/// Bytes of a table's map: so many slots, 4,096 servers.
pub(super) const TABLE_BYTES: usize = 64 + (4 << MOST_LOG2) + 8 * 4_096;

/// `BPF_MAP_CREATE`, `BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE` (linux/bpf.h).
const CREATE: libc::c_int = 0;
const ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;

/// A map with one value, mapped.
pub(super) struct TableMap {
    map: MapData,
    memory: NonNull<u8>,
}

// SAFETY: the mapping is this value's alone, as far as this process goes.
unsafe impl Send for TableMap {}

impl TableMap {
    pub(super) fn new() -> io::Result<Self> {
        let size = u32::try_from(TABLE_BYTES).map_err(io::Error::other)?;
        // `union bpf_attr`: type, bytes of a key, bytes of a value, how many values, flags.
        let wanted = [ARRAY, 4, size, 1, MMAPABLE];
        // SAFETY: the kernel reads as many bytes as it is told, and takes those beyond for zeros.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, CREATE, wanted.as_ptr(), size_of_val(&wanted)) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: it was just opened, and nobody else knows it.
        let map = MapData::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(io::Error::other)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), TABLE_BYTES, access, shared, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("no memory for a table"))?;
        Ok(Self { map, memory })
    }

    /// Writes a table, which nobody may be reading. What lies behind it stays: the program looks at no place beyond the table.
    pub(super) fn write(&mut self, block: &[u8]) {
        assert!(block.len() <= TABLE_BYTES, "the block was measured");
        // SAFETY: so many bytes are mapped, and the program has another table.
        unsafe { std::ptr::copy_nonoverlapping(block.as_ptr(), self.memory.as_ptr(), block.len()) };
    }

    pub(super) const fn map(&self) -> &MapData {
        &self.map
    }
}

impl Drop for TableMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and nothing of it is lent.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), TABLE_BYTES) };
    }
}
