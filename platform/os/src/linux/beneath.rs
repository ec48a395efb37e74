//! Files below a folder, which no link leads out of: each is opened by `openat2` (Linux 5.6) with the folder as its root.

use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Neither up, nor through a symbolic link, nor through one of the kernel's own such as `/proc/self/fd/3`.
const RESOLVE: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
/// A path has at most so many bytes.
const LONGEST: usize = 1_024;

/// A folder.
#[derive(Debug)]
pub struct Beneath(OwnedFd);

/// A name in a folder: where a file is, or is to be.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    name: CString,
}

/// A file that is being filled, under a name of its own; it takes its place whole, by [`finish`](Part::finish).
#[derive(Debug)]
pub struct Part {
    place: Place,
    name: CString,
    file: File,
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, what)
}

fn word(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path has no zero byte"))
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(folder: RawFd, path: &str, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    let path = word(path)?;
    // SAFETY: zeros are a valid request.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC | libc::O_NOCTTY).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = RESOLVE;
    // SAFETY: path and request outlive the call, and the request is as long as is said.
    let fd =
        unsafe { libc::syscall(libc::SYS_openat2, folder, path.as_ptr(), &raw const how, size_of::<libc::open_how>()) };
    let Some(fd) = i32::try_from(fd).ok().filter(|fd| *fd >= 0) else {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::ELOOP) => refused("a symbolic link is on the way, and none is followed"),
            Some(libc::EXDEV) => refused("it leads out of the folder"),
            Some(libc::ENOSYS) => io::Error::other("this kernel has no openat2: Linux 5.6 or later is needed"),
            _ => error,
        });
    };
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path below a folder, in its last name and the folders before it.
fn split(path: &str) -> io::Result<(&str, &str)> {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    if path.len() > LONGEST || path.starts_with('/') || matches!(name, "" | "." | "..") || name.len() > 200 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it must name a file, by 200 letters at most"));
    }
    Ok((folder, name))
}

impl Beneath {
    /// Opens a folder. Its own path is the operator's, and may have links.
    ///
    /// # Errors
    /// If it is no folder, or may not be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(folder)?;
        Ok(Self(file.into()))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// If there is none, or a link or something else is on the way.
    pub fn read(&self, path: &str) -> io::Result<File> {
        split(path)?;
        // A pipe would hold up who opens it.
        let file = File::from(open(self.0.as_raw_fd(), path, libc::O_RDONLY | libc::O_NONBLOCK, 0)?);
        if !file.metadata()?.is_file() {
            return Err(refused("it is no regular file"));
        }
        Ok(file)
    }

    /// The place that a path names; its folder must be there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn place(&self, path: &str) -> io::Result<Place> {
        let (folder, name) = split(path)?;
        let folder = open(self.0.as_raw_fd(), folder, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        Ok(Place { folder, name: word(name)? })
    }
}

impl Place {
    /// That there is nothing here, or a regular file, which may be replaced.
    ///
    /// # Errors
    /// If there is something else.
    pub fn check(&self) -> io::Result<()> {
        match self.look(&self.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(is) if is.st_mode & libc::S_IFMT == libc::S_IFREG => Ok(()),
            Ok(_) => Err(refused("what is there is no regular file, and is not replaced")),
        }
    }

    /// What is by a name in the folder.
    fn look(&self, name: &CString) -> io::Result<libc::stat> {
        // SAFETY: zeros are a valid answer.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let (folder, name) = (self.folder.as_raw_fd(), name.as_ptr());
        // SAFETY: name and answer outlive the call.
        checked(unsafe { libc::fstatat(folder, name, &raw mut stat, libc::AT_SYMLINK_NOFOLLOW) })?;
        Ok(stat)
    }

    /// Bytes that may still be written on this file system.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn room(&self) -> io::Result<u64> {
        // SAFETY: zeros are a valid answer.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the answer outlives the call.
        checked(unsafe { libc::fstatvfs(self.folder.as_raw_fd(), &raw mut stat) })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Opens what was begun under this tag, or begins it: a file beside the place that only its owner may read.
    ///
    /// # Errors
    /// If somebody fills it already, if it is another's, or if it cannot be made.
    pub fn part(self, tag: &str) -> io::Result<Part> {
        self.check()?;
        let name = format!(".{}.{tag}.part", self.name.to_string_lossy());
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK;
        let file = File::from(open(self.folder.as_raw_fd(), &name, flags, 0o600)?);
        let is = file.metadata()?;
        // SAFETY: it cannot fail.
        let own = unsafe { libc::geteuid() };
        // A name that somebody else put here may be one of a file elsewhere.
        if !is.is_file() || is.nlink() != 1 || is.uid() != own {
            return Err(refused("somebody has put something of this name beside it: remove it"));
        }
        let busy = || io::Error::other("it is being copied there already");
        file.try_lock().map_err(|_| busy())?;
        let part = Part { place: self, name: word(&name)?, file };
        // Whoever had the lock may have given the file its place since it was opened.
        if part.is_here() { Ok(part) } else { Err(busy()) }
    }
}

impl Part {
    /// The file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Writes at a place in it.
    ///
    /// # Errors
    /// As the disk says.
    pub fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Whether its name is still this file's.
    fn is_here(&self) -> bool {
        let (Ok(own), Ok(named)) = (self.file.metadata(), self.place.look(&self.name)) else { return false };
        (own.dev(), own.ino()) == (named.st_dev, named.st_ino)
    }

    /// Has it take its place: on the disk first, then by its name, then the name on the disk. Of `mode` the rights of owner, group and
    /// others are kept; set-uid and its like never are.
    ///
    /// # Errors
    /// As the disk says; then the place is as it was.
    pub fn finish(self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode & 0o777))?;
        self.file.sync_all()?;
        self.place.check()?;
        if !self.is_here() {
            return Err(refused("somebody has put something else in the place of what was copied"));
        }
        let (folder, name, to) = (self.place.folder.as_raw_fd(), self.name.as_ptr(), self.place.name.as_ptr());
        // SAFETY: both names outlive the call.
        checked(unsafe { libc::renameat(folder, name, folder, to) })?;
        // SAFETY: no memory is passed.
        checked(unsafe { libc::fsync(folder) })
    }

    /// Removes it.
    pub fn discard(self) {
        if self.is_here() {
            // SAFETY: the name outlives the call.
            let _ = unsafe { libc::unlinkat(self.place.folder.as_raw_fd(), self.name.as_ptr(), 0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("apus-beneath-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("in/deep")).expect("a folder");
        fs::create_dir_all(path.join("out")).expect("a folder");
        fs::write(path.join("out/secret"), "secret").expect("a file");
        fs::write(path.join("in/deep/file"), "good").expect("a file");
        Folder(path)
    }

    fn says<T: std::fmt::Debug>(result: io::Result<T>) -> String {
        result.expect_err("it is refused").to_string()
    }

    #[test]
    fn no_link_leads_out() {
        let folder = folder("links");
        let inside = folder.0.join("in");
        symlink("../out", inside.join("up")).expect("a link");
        symlink(folder.0.join("out/secret"), inside.join("direct")).expect("a link");
        symlink("deep/file", inside.join("harmless")).expect("a link");
        symlink("/proc/self/root", inside.join("magic")).expect("a link");
        fs::hard_link(folder.0.join("out/secret"), inside.join(".new.tag.part")).expect("a link");
        let all = Beneath::open(&inside).expect("a folder");
        for path in ["up/secret", "direct", "harmless", "magic/etc/passwd", "up"] {
            assert!(says(all.read(path)).contains("symbolic link"), "{path}");
        }
        for path in ["../out/secret", "deep/../../out/secret"] {
            assert!(says(all.read(path)).contains("leads out"), "{path}");
        }
        for path in ["/etc/passwd", "", ".", "..", "deep/", "deep/..", &"x/".repeat(600)] {
            assert!(says(all.read(path)).contains("must name a file"), "{path}");
        }
        assert!(says(all.read("deep")).contains("no regular file"));
        let mut text = String::new();
        io::Read::read_to_string(&mut all.read("deep/file").expect("it is there"), &mut text).expect("it is read");
        assert_eq!(text, "good");
        // As places to write, too.
        assert!(says(all.place("up/new")).contains("symbolic link"));
        assert!(says(all.place("../new")).contains("leads out"));
        assert!(says(all.place("direct").expect("a place").part("t")).contains("no regular file"));
        assert!(says(all.place("new").expect("a place").part("tag")).contains("somebody has put"));
        assert_eq!(fs::read_to_string(folder.0.join("out/secret")).expect("it is there"), "secret");
    }

    #[test]
    fn what_has_its_name_meanwhile_takes_no_place_and_stays() {
        let folder = folder("swapped");
        let all = Beneath::open(&folder.0.join("in")).expect("a folder");
        let other = folder.0.join("in/.new.t.part");
        for finish in [true, false] {
            let part = all.place("new").expect("a place").part("t").expect("it begins");
            assert!(part.is_here());
            fs::remove_file(&other).expect("it is there");
            fs::write(&other, "another's").expect("a file");
            if finish {
                assert!(says(part.finish(0o644)).contains("in the place of"));
            } else {
                part.discard();
            }
            assert_eq!(fs::read_to_string(&other).expect("it is there"), "another's");
            assert!(!folder.0.join("in/new").exists());
        }
    }

    #[test]
    fn a_file_takes_its_place_whole() {
        let folder = folder("whole");
        let all = Beneath::open(&folder.0.join("in")).expect("a folder");
        let path = folder.0.join("in/deep/file");
        let place = || all.place("deep/file").expect("a place");
        let part = place().part("t").expect("it begins");
        assert!(says(place().part("t")).contains("being copied"));
        part.write(b"new", 0).expect("it is written");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "good");
        drop(part);
        // Begun once, it is gone on with.
        let part = place().part("t").expect("it goes on");
        assert_eq!(part.file().metadata().expect("it is there").len(), 3);
        part.write(b"er", 3).expect("it is written");
        part.finish(0o6754).expect("it takes its place");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "newer");
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o754);
        place().part("u").expect("it begins").discard();
        let names = fs::read_dir(folder.0.join("in/deep")).expect("a folder").count();
        assert_eq!(names, 1);
        assert!(place().room().expect("it says") > 0);
    }
}
