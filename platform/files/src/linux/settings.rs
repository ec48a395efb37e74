//! What a copy is made of, and what can be wrong with it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use apus_engine::GroupId;

/// Which names belong to the group: as [`apus_capture::Globs`], owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Globs(Vec<u8>);

impl Globs {
    /// Patterns, the last that fits decides.
    #[must_use]
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        Self(patterns.iter().flat_map(|pattern| pattern.as_ref().bytes().chain([0])).collect())
    }

    /// Whether a name below the root belongs to the group.
    #[must_use]
    pub fn holds(&self, name: &[u8]) -> bool {
        apus_capture::Globs::new(&self.0).holds(name)
    }
}

/// Where a group's copy is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of which group.
    pub group: GroupId,
    /// The published files. A folder, not the top of a file system, and with nothing mounted in it.
    pub root: PathBuf,
    /// Log, marks, second tree and saved files. On the file system of `root`, and neither in it nor around it.
    pub state: PathBuf,
    /// Which names below `root` belong to the group; others are left alone.
    pub globs: Globs,
    /// Bytes that the log may have, as in the group's configuration: the size of its segments follows from it.
    pub log_bytes: u64,
}

/// Why a copy cannot be used. The text names the place and the mend.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process uses it.
    Busy(PathBuf),
    /// It is another group's, or of a version that this program does not read.
    Foreign(PathBuf, String),
    /// The folders do not fit together, or the file system lacks what is needed.
    Unfit(PathBuf, String),
    /// The system refused.
    Io(PathBuf, io::Error),
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io(path.to_path_buf(), error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(path) => write!(f, "{} is used by another process: stop it first", path.display()),
            Self::Foreign(path, why) | Self::Unfit(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            _ => None,
        }
    }
}
