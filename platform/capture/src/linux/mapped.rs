//! Who has a file mapped.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A file that is looked for among the mappings of processes.
///
/// The kernel's list of mappings tells devices that `stat` does not: on btrfs a subvolume has one of its own, on overlayfs a file
/// underneath has its file system's. So the list only says which mappings may be meant, by number or by path, and what `stat` says of the
/// mapped file itself decides.
#[derive(Clone, Debug)]
pub struct Mapped {
    file: (u64, u64),
    path: PathBuf,
}

impl Mapped {
    /// The file that is at `path` now.
    ///
    /// # Errors
    /// There is none.
    pub fn at(path: &Path) -> io::Result<Self> {
        let is = std::fs::metadata(path)?;
        Ok(Self { file: (is.dev(), is.ino()), path: path.canonicalize()? })
    }

    /// Whether a process has it mapped; `None`: its mappings cannot be read, or it has ended.
    pub fn by(&self, process: u32) -> Option<bool> {
        let maps = std::fs::read(format!("/proc/{process}/maps")).ok()?;
        Some(maps.split(|byte| *byte == b'\n').any(|line| self.is(process, line)))
    }

    /// Whether any other process than this one has; where that cannot be told, one may.
    pub fn by_others(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else { return true };
        let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|number| *number != std::process::id()).any(|number| self.by(number) == Some(true))
    }

    /// Whether a line of the list is of it: `start-end rights offset device inode path`.
    fn is(&self, process: u32, line: &[u8]) -> bool {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let (Some(range), Some(inode)) = (words.next(), words.nth(3)) else { return false };
        let number = std::str::from_utf8(inode).ok().and_then(|text| text.parse::<u64>().ok());
        let named = line.ends_with(self.path.as_os_str().as_bytes());
        let numbered = number == Some(self.file.1);
        if number.is_none_or(|number| number == 0) || !named && !numbered {
            return false;
        }
        // The list writes low addresses with zeros before them, and the folder does not.
        let range = String::from_utf8_lossy(range);
        let ends: Vec<&str> = range.split('-').map(|end| end.trim_start_matches('0')).collect();
        match std::fs::metadata(format!("/proc/{process}/map_files/{}", ends.join("-"))) {
            Ok(is) => (is.dev(), is.ino()) == self.file,
            // Without the right to look at it: both must be so.
            Err(_) => named && numbered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn who_has_a_file_mapped_is_told_by_the_file_and_not_by_its_name() {
        let dir = std::env::temp_dir().join(format!("apus-mapped-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let (path, moved) = (dir.join("a file"), dir.join("moved"));
        std::fs::write(&path, [1; 4096]).expect("a file");
        let file = std::fs::File::options().read(true).write(true).open(&path).expect("it is there");
        let me = std::process::id();
        assert_eq!(Mapped::at(&path).expect("it is there").by(me), Some(false));
        let (flags, protection) = (libc::MAP_SHARED, libc::PROT_READ);
        // SAFETY: a new mapping anywhere.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(place, libc::MAP_FAILED);
        let mapped = Mapped::at(&path).expect("it is there");
        assert_eq!(mapped.by(me), Some(true));
        assert!(!mapped.by_others(), "this process is not meant");
        std::fs::rename(&path, &moved).expect("ours");
        std::fs::write(&path, "another").expect("a file");
        assert_eq!(Mapped::at(&path).expect("it is there").by(me), Some(false), "another file of that name");
        let again = Mapped::at(&moved).expect("it is there");
        assert_eq!(again.by(me), Some(true), "the same under another name");
        // SAFETY: mapped above, and nothing refers to it.
        unsafe { libc::munmap(place, 4096) };
        assert_eq!(again.by(me), Some(false));
        std::fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn another_process_is_seen() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("it runs");
        let program = Path::new("/bin/sleep").canonicalize().expect("it is there");
        let mapped = Mapped::at(&program).expect("it is there");
        // Not before it has become that program.
        while mapped.by(child.id()) == Some(false) {
            std::thread::yield_now();
        }
        let (own, others) = (mapped.by(child.id()), mapped.by_others());
        child.kill().expect("ours");
        child.wait().expect("ours");
        assert!(own == Some(true) && others);
    }
}
