//! Single files and names: what is done with them, each by a descriptor and at most one name, so that no path leads anywhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use apus_capture::linux::sys;
use apus_engine::shipping::Attributes;
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use serde::{Deserialize, Serialize};

/// Bytes that are read or written at once.
pub(super) const CHUNK: usize = 256 * 1024;
/// Of a file's permissions these are replicated: a primary that lies makes no program of another user's rights here.
pub(super) const FILE_MODE: u32 = 0o1777;
/// Of a directory's.
pub(super) const DIR_MODE: u32 = 0o3777;
/// Bytes of extended attributes that are replicated of one file.
pub(super) const XATTRS: usize = 24 * 1024;

/// A file, whatever its names are, as its file system calls it. It is not given to another file once this one is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Handle(Box<[u8]>);

impl Handle {
    pub(super) fn from_sys(handle: &sys::Handle) -> Self {
        let data = &handle.data[..handle.bytes.min(128) as usize];
        Self([&handle.kind.to_le_bytes()[..], data].concat().into())
    }

    fn to_sys(&self) -> Option<sys::Handle> {
        let (kind, data) = self.0.split_first_chunk()?;
        let mut handle = sys::Handle { bytes: data.len() as u32, kind: i32::from_le_bytes(*kind), data: [0; 128] };
        handle.data.get_mut(..data.len())?.copy_from_slice(data);
        Some(handle)
    }

    /// Of the file by a name; `None`: there is none.
    pub(super) fn of(dir: impl AsFd, name: &[u8]) -> io::Result<Option<Self>> {
        let name = CString::new(name)?;
        match sys::handle(dir.as_fd().as_raw_fd(), name.as_ptr()) {
            Ok(handle) => Ok(Some(Self::from_sys(&handle))),
            Err(sys::Errno(libc::ENOENT)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Of an open file.
    pub(super) fn of_open(file: impl AsFd) -> io::Result<Self> {
        let handle = sys::handle(file.as_fd().as_raw_fd(), c"".as_ptr())?;
        Ok(Self::from_sys(&handle))
    }

    /// Opens it; `mount` is any file of its file system. `None`: it is gone.
    pub(super) fn open(&self, mount: impl AsFd, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let Some(handle) = self.to_sys() else { return Ok(None) };
        let flags = (flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
        match sys::open_handle(mount.as_fd().as_raw_fd(), &handle, flags) {
            // SAFETY: just opened, nobody else's.
            Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(sys::Errno(libc::ESTALE | libc::ENOENT)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Kind {
    Regular,
    Directory,
    Symlink,
}

impl Kind {
    pub(super) const fn of(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Some(Self::Regular),
            libc::S_IFDIR => Some(Self::Directory),
            libc::S_IFLNK => Some(Self::Symlink),
            _ => None,
        }
    }

    /// How it is opened for all that is done with it.
    pub(super) const fn flags(self) -> OFlags {
        match self {
            Self::Regular => OFlags::RDWR,
            Self::Directory => OFlags::DIRECTORY,
            Self::Symlink => OFlags::PATH,
        }
    }

    const fn mask(self) -> u32 {
        match self {
            Self::Regular => FILE_MODE,
            Self::Directory => DIR_MODE,
            Self::Symlink => 0,
        }
    }
}

/// All of a file but its content and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Of a regular file, in bytes.
    pub(super) length: u64,
    pub(super) attributes: Attributes,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Whether an extended attribute is replicated. Those by which a file gets rights over the machine are not.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"system.posix_acl_access" || name == b"system.posix_acl_default"
}

/// What is so of an open file.
pub(super) fn about(file: impl AsFd, kind: Kind) -> io::Result<About> {
    let file = file.as_fd();
    let stat = rustix::fs::fstat(file)?;
    let nanos = stat.st_mtime.max(0).cast_unsigned().saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec);
    let mode = if kind == Kind::Symlink { 0o777 } else { stat.st_mode & kind.mask() };
    let attributes = Attributes { mode, uid: stat.st_uid, gid: stat.st_gid, mtime: nanos };
    let length = if kind == Kind::Regular { stat.st_size.max(0).cast_unsigned() } else { 0 };
    Ok(About { length, attributes, xattrs: if kind == Kind::Symlink { Vec::new() } else { xattrs(file)? } })
}

/// Owner and permissions of an open file.
pub(super) fn owner(file: impl AsFd, kind: Kind) -> io::Result<Attributes> {
    let stat = rustix::fs::fstat(file)?;
    let mode = if kind == Kind::Symlink { 0o777 } else { stat.st_mode & kind.mask() };
    Ok(Attributes { mode, uid: stat.st_uid, gid: stat.st_gid, mtime: 0 })
}

/// The extended attributes that are replicated, by name.
fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 64 * 1024];
    let many = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(many) => many,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut out = Vec::new();
    let mut all = 0;
    let mut names: Vec<&[u8]> = list[..many].split(|byte| *byte == 0).filter(|name| is_ours(name)).collect();
    names.sort_unstable();
    for name in names {
        let mut value = vec![0; apus_engine::shipping::record::MOST_BYTES];
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(many) => value.truncate(many),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::RANGE) => continue,
            Err(error) => return Err(error.into()),
        }
        all += name.len() + value.len();
        if all > XATTRS {
            break;
        }
        out.push((name.to_vec(), value));
    }
    Ok(out)
}

/// Sets owner and permissions, and the time if it is not zero.
pub(super) fn set_attributes(file: impl AsFd, kind: Kind, attributes: &Attributes) -> io::Result<()> {
    let file = file.as_fd();
    // The kernel's word for "as it is", which is nobody's number.
    let one = |number: u32| (number != u32::MAX).then_some(number);
    let (uid, gid) = (one(attributes.uid).map(Uid::from_raw), one(attributes.gid).map(Gid::from_raw));
    rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    if kind != Kind::Symlink {
        // After the owner, which takes bits away.
        rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode & kind.mask()))?;
    }
    if attributes.mtime != 0 {
        let at = Timespec {
            tv_sec: (attributes.mtime / 1_000_000_000).cast_signed(),
            tv_nsec: (attributes.mtime % 1_000_000_000).cast_signed(),
        };
        let omit = Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
        let times = Timestamps { last_access: omit, last_modification: at };
        rustix::fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

/// Sets or takes away an extended attribute; `false`: this file system or this file takes none such.
pub(super) fn set_xattr(file: impl AsFd, name: &[u8], value: Option<&[u8]>) -> io::Result<bool> {
    let done = match value {
        Some(value) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
        None => rustix::fs::fremovexattr(file, name),
    };
    match done {
        Ok(()) | Err(rustix::io::Errno::NODATA) => Ok(true),
        // A file system that keeps them with the inode says so when one is too large: the disk is not full.
        Err(rustix::io::Errno::NOSPC | rustix::io::Errno::RANGE | rustix::io::Errno::TOOBIG) => Ok(false),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes the extended attributes be these.
pub(super) fn set_xattrs(file: impl AsFd, wanted: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    let file = file.as_fd();
    for (name, _) in xattrs(file)? {
        if !wanted.iter().any(|(other, _)| *other == name) {
            set_xattr(file, &name, None)?;
        }
    }
    for (name, value) in wanted.iter().filter(|(name, _)| is_ours(name)) {
        set_xattr(file, name, Some(value))?;
    }
    Ok(())
}

/// Reads until `to` is full or the file ends.
pub(super) fn read_at(file: impl AsFd, to: &mut [u8], at: u64) -> io::Result<usize> {
    let file = file.as_fd();
    let mut got = 0;
    while got < to.len() {
        match rustix::io::pread(file, &mut to[got..], at + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

/// Writes all of it.
pub(super) fn write_at(file: impl AsFd, bytes: &[u8], at: u64) -> io::Result<()> {
    let file = file.as_fd();
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(file, &bytes[done..], at + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => done += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes a range of a file a hole, or zeros where the file system has no holes. The length stays.
pub(super) fn punch(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let file = file.as_fd();
    if length == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    let end = offset.saturating_add(length).min(rustix::fs::fstat(file)?.st_size.max(0).cast_unsigned());
    let zeros = vec![0; CHUNK];
    let mut at = offset;
    while at < end {
        let many = (end - at).min(CHUNK as u64);
        write_at(file, &zeros[..many as usize], at)?;
        at += many;
    }
    Ok(())
}

/// Copies content, owner, permissions, time and extended attributes. Blocks are shared where the file system can; holes stay holes.
pub(super) fn copy(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let about = about(from, Kind::Regular)?;
    if rustix::fs::ioctl_ficlone(to, from).is_err() {
        rustix::fs::ftruncate(to, about.length)?;
        let mut at = 0;
        let mut buffer = vec![0; CHUNK];
        while at < about.length {
            let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(rustix::io::Errno::INVAL) => at,
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start)).unwrap_or(about.length);
            at = start;
            while at < end {
                let many = (end - at).min(CHUNK as u64) as usize;
                let got = read_at(from, &mut buffer[..many], at)?;
                if got == 0 {
                    break;
                }
                write_at(to, &buffer[..got], at)?;
                at += got as u64;
            }
            at = at.max(end);
        }
    }
    set_xattrs(to, &about.xattrs)?;
    set_attributes(to, Kind::Regular, &about.attributes)
}

/// One name as the system takes it; what is none is refused.
pub(super) fn plain(name: &[u8]) -> io::Result<&[u8]> {
    let entry = apus_engine::shipping::Entry { dir: apus_engine::FileId::ROOT, name: name.to_vec() };
    if entry.is_plain() { Ok(name) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// What is by a name, not followed.
pub(super) fn stat(dir: impl AsFd, name: &[u8]) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The names in a directory.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            out.push(name);
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// A directory by its name, through no link.
pub(super) fn directory(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Removes what is by a name, with all that is in it, through no link.
pub(super) fn remove(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let dir = dir.as_fd();
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let inner = directory(dir, name)?;
    for name in names(&inner)? {
        remove(&inner, &name)?;
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// The text of a symbolic link.
pub(super) fn link_text(link: impl AsFd) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes())
}

/// The directory that a directory is in.
pub(super) fn directory_above(dir: impl AsFd) -> io::Result<OwnedFd> {
    directory(dir, b"..")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Numbers of destroyed files are given again all the time: their handles are stale, whatever the kernel says meanwhile.
    #[test]
    fn a_handle_of_a_destroyed_file_is_stale_while_its_number_is_given_again() {
        let top = std::env::var_os("APUS_FILES_DIR").map_or_else(std::env::temp_dir, std::path::PathBuf::from);
        let folder = top.join(format!("apus-files-stale-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let dir = std::fs::File::open(&folder).expect("it is there");
        let over = AtomicBool::new(false);
        let wrong = std::thread::scope(|scope| {
            for maker in 0..2 {
                let (path, over) = (folder.join(format!("made-{maker}")), &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        drop(std::fs::File::create(&path).expect("a file"));
                        std::fs::remove_file(&path).expect("it is there");
                    }
                });
            }
            let mut wrong = Vec::new();
            for _ in 0..100 {
                let paths: Vec<_> = (0..8).map(|number| folder.join(format!("gone-{number}"))).collect();
                let made = |path| Handle::of_open(std::fs::File::create(path).expect("a file")).expect("a handle");
                let handles: Vec<Handle> = paths.iter().map(made).collect();
                paths.iter().for_each(|path| std::fs::remove_file(path).expect("it is there"));
                for _ in 0..100 {
                    wrong.extend(
                        handles
                            .iter()
                            .map(|handle| handle.open(&dir, OFlags::RDWR))
                            .filter(|got| !matches!(got, Ok(None))),
                    );
                }
            }
            over.store(true, Ordering::Relaxed);
            wrong
        });
        std::fs::remove_dir_all(&folder).expect("ours");
        assert!(wrong.is_empty(), "{} of them: {:?}", wrong.len(), wrong.first());
    }
}
