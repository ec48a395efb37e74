//! Memory of two tables: the kernel's program reads one, this process writes the other.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::thread::JoinHandle;

/// Most slots of a table, as a power of two.
pub(super) const MOST_LOG2: u8 = 18;
/// Bytes of a table: so many slots, 4,096 servers.
pub(super) const TABLE_BYTES: usize = 64 + (4 << MOST_LOG2) + 8 * 4_096;

/// The kernel's own pages of a map with two values, mapped.
pub(super) struct Tables {
    memory: NonNull<u8>,
    used: Option<u64>,
    /// A processor may still be in the table that was in use before.
    read: bool,
    /// Ends when none is.
    grace: Option<JoinHandle<io::Result<()>>>,
}

// SAFETY: the mapping is this value's alone, as far as this process goes.
unsafe impl Send for Tables {}

impl Tables {
    /// Of the map's first value before the first table: there is none.
    pub(super) const NONE: u64 = 2;

    pub(super) fn new(map: RawFd) -> io::Result<Self> {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), 2 * TABLE_BYTES, access, shared, map, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("no memory for tables"))?;
        Ok(Self { memory, used: None, read: false, grace: None })
    }

    /// The table in use, or [`Tables::NONE`].
    pub(super) const fn used(&self) -> u64 {
        match self.used {
            Some(used) => used,
            None => Self::NONE,
        }
    }

    /// Writes a table aside, once nobody can be reading what was there. Gives its number. What lies behind it stays: the program
    /// looks at no place beyond the table.
    pub(super) fn write(&mut self, block: &[u8]) -> io::Result<u64> {
        assert!(block.len() <= TABLE_BYTES, "the block was measured");
        if self.read {
            match self.grace.take().map(JoinHandle::join) {
                Some(Ok(waited)) => waited?,
                _ => barrier()?,
            }
            self.read = false;
        }
        let next = u64::from(self.used == Some(0));
        let place = if next == 0 { 0 } else { TABLE_BYTES };
        // SAFETY: the place is inside the mapping.
        let to = unsafe { self.memory.as_ptr().add(place) };
        // SAFETY: so many bytes are mapped there, and the program reads the other table.
        unsafe { std::ptr::copy_nonoverlapping(block.as_ptr(), to, block.len()) };
        Ok(next)
    }

    /// The program was told to read this one from now on.
    pub(super) const fn flipped(&mut self, to: u64) {
        (self.used, self.read) = (Some(to), true);
    }

    /// Begins to wait for the one before to be free, some milliseconds, in a thread.
    pub(super) fn settle(&mut self) {
        if self.grace.is_none() && self.read {
            self.grace = std::thread::Builder::new().name("grace".into()).spawn(barrier).ok();
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if let Some(grace) = self.grace.take() {
            let _ = grace.join();
        }
        // SAFETY: the mapping is this value's alone, and nothing of it is lent.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), 2 * TABLE_BYTES) };
    }
}

/// Returns when every program that ran in the kernel when it was called has ended (`MEMBARRIER_CMD_GLOBAL`, which is the
/// kernel's `synchronize_rcu`).
pub(super) fn barrier() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
