//! Which mounts a thread sees. Whoever works on the tree underneath by its path needs a view of its own, in which it is not mounted over.

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::backing::check;
use super::server::asked;

/// What the kernel's list calls our mounts.
const KIND: &str = "fuse.apus";

/// What everybody else sees: mounts are made and taken away there.
#[derive(Debug)]
pub struct Outside(OwnedFd);

impl Outside {
    /// What this thread sees.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn here() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/mnt")?.into()))
    }

    /// Does something there, in a thread of its own.
    ///
    /// # Errors
    /// The thread may not go there, or there is none.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            // SAFETY: no memory is passed. The thread shares root and working directory with nobody from here on.
            check(unsafe { libc::unshare(libc::CLONE_FS) })?;
            // SAFETY: as above.
            check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNS) })?;
            Ok(what())
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("outside".into()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
        })
    }
}

/// From now on this thread, and those that it starts, see the tree below `root` itself, whatever is mounted over it now or later by us.
/// Mounts that others make elsewhere are seen, and not kept, as before.
///
/// # Errors
/// It needs `CAP_SYS_ADMIN`.
pub fn apart(root: &Path) -> io::Result<Outside> {
    let outside = Outside::here()?;
    let needs =
        |error: io::Error| io::Error::new(error.kind(), format!("a view of mounts of its own needs root: {error}"));
    // SAFETY: no memory is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).map_err(|error| needs(error.into()))?;
    spread(Path::new("/"), libc::MS_REC | libc::MS_SLAVE)?;
    // The newest first: they may lie on each other.
    for (place, kind) in mounts()?.iter().rev() {
        if kind == KIND {
            unmount_at(place, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)?;
        }
    }
    let below = |(place, _): &(PathBuf, String)| root.starts_with(place).then(|| place.clone());
    if let Some(place) = mounts()?.iter().filter_map(below).max_by_key(|place| place.as_os_str().len()) {
        spread(&place, libc::MS_PRIVATE)?;
    }
    Ok(outside)
}

/// Whether mounts that are made elsewhere come here too.
fn spread(place: &Path, how: libc::c_ulong) -> io::Result<()> {
    let (path, none) = (CString::new(place.as_os_str().as_bytes())?, std::ptr::null());
    // SAFETY: the name ends with a zero; the others are not read.
    check(unsafe { libc::mount(none, path.as_ptr(), none, how, none.cast()) })?;
    Ok(())
}

fn unmount_at(place: &Path, how: i32) -> io::Result<()> {
    let path = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: the name ends with a zero.
    check(unsafe { libc::umount2(path.as_ptr(), how) })?;
    Ok(())
}

/// Where something is mounted as this thread sees it, and of what kind, the oldest first.
fn mounts() -> io::Result<Vec<(PathBuf, String)>> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(text.lines().filter_map(mount).collect())
}

fn mount(line: &str) -> Option<(PathBuf, String)> {
    let place = line.split(' ').nth(4)?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?;
    // Blanks and the like are written in octal digits.
    let mut plain = Vec::new();
    let mut rest = place.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    Some((PathBuf::from(OsString::from_vec(plain)), kind.to_owned()))
}

/// What there is of ours at a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A mount whose process answers.
    Lives,
    /// A mount whose process has ended: whoever goes there gets an error.
    Dead,
}

/// What is mounted at `root`, as this thread sees it.
pub fn there(root: &Path) -> There {
    match asked(root) {
        Ok(_) => There::Lives,
        Err(error) if is_dead(&error) => There::Dead,
        Err(_) => There::Nothing,
    }
}

/// Before the kernel has cleared up after a daemon that was killed, a call may be cancelled, or find the folder and nobody behind it.
pub(super) fn is_dead(error: &io::Error) -> bool {
    let number = error.raw_os_error().unwrap_or(0);
    [libc::ENOTCONN, libc::ECONNABORTED, libc::ECANCELED].contains(&number)
}

/// Takes away mounts of ours at `root` whose process has ended. Whether there was one.
///
/// # Errors
/// The caller is not root.
pub fn clear(root: &Path) -> io::Result<bool> {
    let mut cleared = false;
    loop {
        let ours = mounts()?.iter().any(|(place, kind)| place == root && kind == KIND);
        if !ours || there(root) != There::Dead {
            break;
        }
        unmount_at(root, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)?;
        cleared = true;
    }
    Ok(cleared)
}

/// Takes the mount at `root` away from those who use it, too: what they stored in pages is written first, then they get `ENOTCONN`.
///
/// # Errors
/// Nothing is mounted there, or the caller is not root.
pub fn cut(root: &Path) -> io::Result<()> {
    if let Ok(folder) = File::open(root) {
        // SAFETY: no memory is passed. What cannot be written is lost to its program too.
        unsafe { libc::syncfs(folder.as_raw_fd()) };
    }
    unmount_at(root, libc::MNT_FORCE | libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)
}

/// The path as the kernel wants it.
pub(super) fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Asks the file system at `path` how much room it has: a request for whoever serves it.
pub(super) fn nudge(path: &CStr) {
    // SAFETY: a statvfs of zeros is one.
    let mut got: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, the structure is the kernel's. What it answers is of no interest.
    unsafe { libc::statvfs(path.as_ptr(), &raw mut got) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let line = r"36 35 0:45 / /mnt/a\040b\134 rw,noatime shared:1 - fuse.apus apus rw,user_id=0";
        assert_eq!(mount(line), Some(("/mnt/a b\\".into(), "fuse.apus".into())));
        assert_eq!(mount("nonsense"), None);
        assert!(mounts().expect("it is there").iter().any(|(place, _)| place == Path::new("/")));
    }
}
