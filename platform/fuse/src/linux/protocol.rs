//! The kernel's protocol, version 7 from 31 to 45: `include/uapi/linux/fuse.h`. Numbers are in the machine's order.

use super::backing::Found;

/// Tells what a request wants.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const FLUSH: u32 = 25;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const SYNCFS: u32 = 50;
    pub(in super::super) const TMPFILE: u32 = 51;
    pub(in super::super) const COPY_FILE_RANGE_64: u32 = 53;
    /// Above all that there are.
    pub(in super::super) const END: usize = 64;
}

/// What is agreed at the start.
pub(super) mod init {
    pub(in super::super) const ASYNC_READ: u64 = 1;
    pub(in super::super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in super::super) const DONT_MASK: u64 = 1 << 6;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const POSIX_ACL: u64 = 1 << 20;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(in super::super) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in super::super) const SETXATTR_EXT: u64 = 1 << 29;
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
    pub(in super::super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub(in super::super) const PASSTHROUGH: u64 = 1 << 37;
    pub(in super::super) const OVER_IO_URING: u64 = 1 << 41;
}

/// Bits of `SETATTR`.
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const FH: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Answers to `OPEN`.
pub(super) mod opened {
    pub(in super::super) const DIRECT_IO: u32 = 1;
    pub(in super::super) const KEEP_CACHE: u32 = 1 << 1;
    pub(in super::super) const NOFLUSH: u32 = 1 << 5;
    pub(in super::super) const PASSTHROUGH: u32 = 1 << 7;
}

/// Of `OPEN` and `CREATE`: privileges go because the file is cut.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// Of `WRITE`: privileges go.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// Of `GETATTR`: it is about an open file.
pub(super) const GETATTR_FH: u32 = 1;
/// Of `FSYNC`: the data alone.
pub(super) const FSYNC_FDATASYNC: u32 = 1;
/// The folder that is mounted.
pub(super) const ROOT: u64 = 1;
/// The longest payload of a request or its answer, in bytes.
pub(super) const PAYLOAD: usize = 1 << 20;
/// Bytes before a request's own.
pub(super) const IN_HEADER: usize = 40;
/// Bytes before an answer's own.
pub(super) const OUT_HEADER: usize = 16;
/// The longest structure at the start of a request.
pub(super) const OP: usize = 128;

/// Seconds for which the kernel keeps names and attributes: nobody else changes the tree.
const VALID: u64 = 1 << 31;

/// Numbers out of a structure. What lies beyond its end is zero: the kernel is older.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn u32(self, at: usize) -> u32 {
        self.0.get(at..at + 4).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("four")))
    }
    pub(super) fn i32(self, at: usize) -> i32 {
        self.u32(at).cast_signed()
    }
    pub(super) fn u64(self, at: usize) -> u64 {
        self.0.get(at..at + 8).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().expect("eight")))
    }
}

/// What stands before every request (`fuse_in_header`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) user: u32,
    pub(super) group: u32,
    /// The thread that asks, by the number that this process knows it by.
    pub(super) process: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let of = Fields(bytes);
        let (opcode, unique, node) = (of.u32(4), of.u64(8), of.u64(16));
        Self { opcode, unique, node, user: of.u32(24), group: of.u32(28), process: of.u32(32) }
    }
}

/// The length of the structure that a request begins with; names and bytes follow.
pub(super) fn structure(opcode: u32) -> usize {
    match opcode {
        opcode::FORGET
        | opcode::LINK
        | opcode::RENAME
        | opcode::MKDIR
        | opcode::INTERRUPT
        | opcode::GETXATTR
        | opcode::LISTXATTR
        | opcode::BATCH_FORGET
        | opcode::OPEN
        | opcode::SYNCFS => 8,
        opcode::GETATTR | opcode::MKNOD | opcode::FSYNC | opcode::FSYNCDIR | opcode::RENAME2 | opcode::SETXATTR => 16,
        opcode::CREATE | opcode::TMPFILE => 16,
        opcode::FLUSH | opcode::RELEASE | opcode::LSEEK => 24,
        opcode::FALLOCATE => 32,
        opcode::READ | opcode::WRITE | opcode::READDIR | opcode::READDIRPLUS => 40,
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => 56,
        opcode::INIT => 64,
        opcode::SETATTR => 88,
        _ => 0,
    }
}

/// An answer, put together in the request's own buffer.
pub(super) struct Answer<'a> {
    to: &'a mut [u8],
    len: usize,
}

impl<'a> Answer<'a> {
    pub(super) fn new(to: &'a mut [u8]) -> Self {
        Self { to, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether `more` bytes would still fit into `limit`.
    pub(super) fn fits(&self, more: usize, limit: usize) -> bool {
        self.len + more <= limit.min(self.to.len())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = (self.len + bytes.len()).min(self.to.len());
        let (from, fit) = (self.len, end - self.len);
        self.to[from..end].copy_from_slice(&bytes[..fit]);
        self.len = end;
        self
    }
    pub(super) fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }
    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }
    pub(super) fn i32(&mut self, number: i32) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }
    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }
    /// Zeros up to the next multiple of eight.
    pub(super) fn align(&mut self) -> &mut Self {
        let rest = self.len.next_multiple_of(8) - self.len;
        self.bytes(&[0; 8][..rest])
    }

    /// `fuse_attr`.
    fn attributes(&mut self, found: &Found) -> &mut Self {
        self.u64(found.key[1]).u64(found.size).u64(found.blocks);
        self.u64(found.accessed.0.cast_unsigned()).u64(found.modified.0.cast_unsigned());
        self.u64(found.changed.0.cast_unsigned());
        self.u32(found.accessed.1).u32(found.modified.1).u32(found.changed.1);
        self.u32(found.mode).u32(found.links).u32(found.user).u32(found.group);
        self.u32(found.device).u32(found.block).u32(0)
    }

    /// `fuse_attr_out`.
    pub(super) fn attr_out(&mut self, found: &Found) -> &mut Self {
        self.u64(VALID).u32(0).u32(0).attributes(found)
    }

    /// `fuse_entry_out`: what is at a name.
    pub(super) fn entry(&mut self, node: u64, found: &Found) -> &mut Self {
        self.u64(node).u64(0).u64(VALID).u64(VALID).u32(0).u32(0).attributes(found)
    }

    /// `fuse_entry_out` of a name that is not there: the kernel remembers that too.
    pub(super) fn nothing(&mut self) -> &mut Self {
        self.u64(0).u64(0).u64(VALID).u64(0).bytes(&[0; 96])
    }

    /// `fuse_open_out`.
    pub(super) fn open_out(&mut self, handle: u64, flags: u32, backing: i32) -> &mut Self {
        self.u64(handle).u32(flags).i32(backing)
    }
}

/// The bytes of [`Answer::entry`].
pub(super) const ENTRY: usize = 128;

/// What the kernel offers (`fuse_init_in`).
pub(super) struct Offer {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) readahead: u32,
    pub(super) flags: u64,
}

impl Offer {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let of = Fields(bytes);
        let more = if u64::from(of.u32(12)) & init::INIT_EXT == 0 { 0 } else { u64::from(of.u32(16)) << 32 };
        Self { major: of.u32(0), minor: of.u32(4), readahead: of.u32(8), flags: u64::from(of.u32(12)) | more }
    }

    /// `fuse_init_out` with those of the flags in `wanted` that are offered, which are given back.
    pub(super) fn accept(&self, wanted: u64, answer: &mut Answer<'_>) -> u64 {
        let flags = self.flags & wanted;
        answer.u32(7).u32(self.minor.min(45)).u32(self.readahead).u32(flags as u32);
        answer.u16(64).u16(48).u32(PAYLOAD as u32).u32(1).u16((PAYLOAD / 4096) as u16).u16(0);
        // Two file systems may lie on each other: the group's may be an overlay.
        answer.u32((flags >> 32) as u32).u32(if flags & init::PASSTHROUGH == 0 { 0 } else { 2 }).bytes(&[0; 24]);
        flags
    }
}

/// Where the names end that follow a request's structure; each is ended by a zero.
pub(super) fn names(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_lengths() {
        let mut room = [0u8; 512];
        let mut answer = Answer::new(&mut room);
        answer.entry(2, &Found::default());
        assert_eq!(answer.len(), ENTRY);
        answer.open_out(1, 2, 3);
        assert_eq!(answer.len(), ENTRY + 16);
        let mut answer = Answer::new(&mut room);
        answer.nothing();
        assert_eq!(answer.len(), ENTRY);
        let mut answer = Answer::new(&mut room);
        answer.attr_out(&Found::default());
        assert_eq!(answer.len(), 104);
        let mut answer = Answer::new(&mut room);
        let offer = Offer { major: 7, minor: 45, readahead: 1, flags: init::PASSTHROUGH };
        assert_eq!(offer.accept(u64::MAX, &mut answer), init::PASSTHROUGH);
        assert_eq!(answer.len(), 64);
    }

    #[test]
    fn a_short_request_reads_as_zeros() {
        let of = Fields(&[1, 0, 0]);
        assert_eq!((of.u32(0), of.u64(8)), (0, 0));
        assert!(structure(opcode::SETATTR) <= OP);
    }
}
