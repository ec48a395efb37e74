//! What can go wrong, with its mend.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a call failed. The program's data is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The program's to mend: what, and how.
    Usage(String),
    /// The system refused something.
    System {
        /// What was tried.
        what: String,
        /// What it said.
        error: io::Error,
    },
    /// There is data of an earlier life, and it cannot be had. Nothing was taken away: see [`Refusal`] for what to do.
    Refused(Refusal),
}

/// Why data of an earlier life is not given to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another process has it: an earlier life is not over. End it first.
    InUse {
        /// Its number, in this process-id namespace.
        pid: u32,
    },
    /// Memory is taken where its data has to be. Start without what took it, or move both with `Config::base`.
    Occupied {
        /// The first address.
        base: usize,
        /// How many bytes.
        bytes: usize,
    },
    /// Another layout: raw data is worth nothing to a program that lays it out in another way.
    /// Start the program that wrote it, or give both the same `Config::layout` if they agree.
    OtherLayout {
        /// What wrote it.
        found: String,
        /// What asks.
        own: String,
    },
    /// Made with another capacity, base or page size.
    OtherShape {
        /// What differs, and how.
        what: String,
    },
    /// A file is damaged, and no earlier checkpoint is whole without it.
    Damaged {
        /// Which; `None` is the segment.
        file: Option<PathBuf>,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Written by a later version of this library.
    Later {
        /// Which; `None` is the segment.
        file: Option<PathBuf>,
        /// Its version.
        version: u32,
    },
}

impl Error {
    /// Of a result.
    pub(crate) fn of(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |error| Self::System { what: what.into(), error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::System { what, error } => write!(f, "{what}: {error}"),
            Self::Refused(refusal) => write!(f, "data of an earlier life is there and not used: {refusal}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |file: &Option<PathBuf>| {
            file.as_ref().map_or_else(|| "the segment".to_owned(), |file| file.display().to_string())
        };
        match self {
            Self::InUse { pid } => write!(f, "process {pid} has it still; end that first"),
            Self::Occupied { base, bytes } => {
                write!(f, "{bytes} bytes at {base:#x} are taken by something else; set another base for both lives")
            }
            Self::OtherLayout { found, own } => {
                write!(f, "`{found}` laid it out, this is `{own}`; give both one layout if they agree")
            }
            Self::OtherShape { what } => f.write_str(what),
            Self::Damaged { file, offset, what } => write!(f, "{} is damaged at byte {offset}: {what}", place(file)),
            Self::Later { file, version } => {
                write!(f, "{} is of version {version}, which is later than this library's", place(file))
            }
        }
    }
}
