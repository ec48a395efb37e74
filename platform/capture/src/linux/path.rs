//! From the path that a program says to the name that the kernel knows, without allocation.

use libc::{AT_FDCWD, c_char, c_int};

use super::sys::{self, Errno, Stat};

/// The longest path, with its zero.
const LIMIT: usize = libc::PATH_MAX as usize;
/// How many links are followed that lead to nothing.
const LINKS: usize = 8;

/// A path that begins at `/` and holds no link, no `.` and no `..`; a zero byte follows.
#[derive(Clone)]
pub struct Name {
    len: usize,
    bytes: [u8; LIMIT],
}

impl Name {
    fn empty() -> Self {
        Self { len: 0, bytes: [0; LIMIT] }
    }

    /// Without the zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Ended by a zero.
    pub fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.len + bytes.len();
        if end >= LIMIT {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.bytes[end] = 0;
        self.len = end;
        Ok(())
    }

    /// The name of the open file `fd`.
    pub fn of(fd: c_int) -> Result<Self, Errno> {
        let mut link = [0u8; 32];
        descriptor(fd, &mut link);
        let mut name = Self::empty();
        name.len = sys::readlinkat(AT_FDCWD, link.as_ptr().cast(), &mut name.bytes[..LIMIT - 1])?;
        name.bytes[name.len] = 0;
        Ok(name)
    }
}

/// The name of a descriptor below `/proc`, ended by a zero.
pub(super) fn descriptor(fd: c_int, link: &mut [u8; 32]) {
    link[..14].copy_from_slice(b"/proc/self/fd/");
    let (mut digits, mut rest) = (1, fd.unsigned_abs());
    while rest >= 10 {
        rest /= 10;
        digits += 1;
    }
    rest = fd.unsigned_abs();
    for at in (14..14 + digits).rev() {
        link[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Where a path leads.
#[derive(Clone)]
pub struct Place {
    /// Its name.
    pub name: Name,
    /// What is there, if anything is.
    pub stat: Option<Stat>,
}

/// The text at `path`.
///
/// # Safety
/// `path` ends with a zero byte.
pub unsafe fn text<'a>(path: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's.
    unsafe { core::ffi::CStr::from_ptr(path) }.to_bytes()
}

impl Place {
    /// Where opening `path` leads, links followed.
    pub fn follow(dir: c_int, path: &[u8]) -> Result<Self, Errno> {
        let mut asked = Name::empty();
        asked.push(path)?;
        let mut at = dir;
        for _ in 0..LINKS {
            let found = sys::openat(at, asked.as_ptr(), libc::O_PATH);
            let place = match found {
                Ok(fd) => {
                    let place = Name::of(fd).and_then(|name| Ok(Self { name, stat: Some(sys::fstat(fd)?) }));
                    sys::close(fd);
                    place
                }
                Err(Errno(libc::ENOENT)) => Self::here(at, asked.as_bytes()),
                Err(error) => Err(error),
            };
            if at != dir {
                sys::close(at);
            }
            let place = place?;
            // Nothing to be found, but a name: a link that leads to nothing, whose end a new file would be.
            if found.is_ok() || place.stat.is_none() {
                return Ok(place);
            }
            let mut target = Name::empty();
            target.len = sys::readlinkat(AT_FDCWD, place.name.as_ptr(), &mut target.bytes[..LIMIT - 1])?;
            let end = place.name.as_bytes().iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            let mut parent = Name::empty();
            parent.push(&place.name.as_bytes()[..=end])?;
            at = sys::openat(AT_FDCWD, parent.as_ptr(), libc::O_PATH | libc::O_DIRECTORY)?;
            asked = target;
        }
        if at != dir {
            sys::close(at);
        }
        Err(Errno(libc::ELOOP))
    }

    /// Where `path` leads, its last part not followed.
    pub fn here(dir: c_int, path: &[u8]) -> Result<Self, Errno> {
        let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        let start = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let last = &path[start..end];
        if last.is_empty() || last == b"." || last == b".." {
            let mut asked = Name::empty();
            asked.push(path)?;
            let fd = sys::openat(dir, asked.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW)?;
            let place = Name::of(fd).and_then(|name| Ok(Self { name, stat: Some(sys::fstat(fd)?) }));
            sys::close(fd);
            return place;
        }
        let mut parent = Name::empty();
        parent.push(if start == 0 { b"." } else { &path[..start] })?;
        let fd = sys::openat(dir, parent.as_ptr(), libc::O_PATH | libc::O_DIRECTORY)?;
        let name = Name::of(fd);
        sys::close(fd);
        let mut name = name?;
        if name.as_bytes() != b"/" {
            name.push(b"/")?;
        }
        name.push(last)?;
        let stat = match sys::stat(AT_FDCWD, name.as_ptr()) {
            Ok(stat) => Some(stat),
            Err(Errno(libc::ENOENT)) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { name, stat })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn names_are_those_of_the_kernel() {
        let dir = std::env::temp_dir().join(format!("apus-path-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("real/deep")).expect("a directory");
        let dir = std::fs::canonicalize(dir).expect("it is there");
        std::fs::write(dir.join("real/file"), "x").expect("a file");
        std::os::unix::fs::symlink("real", dir.join("way")).expect("a link");
        std::os::unix::fs::symlink("real/none", dir.join("dangling")).expect("a link");
        let at = |path: &str, follow: bool| {
            let path = dir.join(path);
            let found = if follow {
                Place::follow(AT_FDCWD, path.as_os_str().as_bytes())
            } else {
                Place::here(AT_FDCWD, path.as_os_str().as_bytes())
            };
            found.map(|place| {
                (
                    String::from_utf8_lossy(&place.name.as_bytes()[dir.as_os_str().len()..]).into_owned(),
                    place.stat.is_some(),
                )
            })
        };
        assert_eq!(at("way/deep/../file", true), Ok(("/real/file".into(), true)));
        assert_eq!(at("way/new", true), Ok(("/real/new".into(), false)));
        assert_eq!(at("dangling", true), Ok(("/real/none".into(), false)));
        assert_eq!(at("dangling", false), Ok(("/dangling".into(), true)));
        assert_eq!(at("way", false), Ok(("/way".into(), true)));
        assert_eq!(at("way/", true), Ok(("/real".into(), true)));
        assert_eq!(at("real/deep///", false), Ok(("/real/deep".into(), true)));
        assert_eq!(at("nothing/new", true), Err(Errno(libc::ENOENT)));
        std::fs::remove_dir_all(dir).expect("it is ours");
    }
}
