//! A tree of files compared piece by piece: what is told of a stretch of it, and what mends the stretch.
//!
//! Both trees are walked in one order: files by number and, within a file, blocks; then names by directory. A stretch is what lies
//! between two places of that order, so that a walk can be cut, lost and taken up anywhere.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::record::Attributes;
use crate::ids::FileId;
use crate::wire::{DecodeError, Reader, Wire, Writer};
use crate::wire_struct;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// A place in the order of the walk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// A block of a file; what else there is to a file is told with its block 0.
    File(FileId, u64),
    /// A name in a directory.
    Name(FileId, Vec<u8>),
    /// After everything.
    End,
}

impl Place {
    /// Before everything.
    pub const START: Self = Self::File(FileId::ROOT, 0);
}

/// A hash of file content, 128 bits of it; which one is the hosts' choice, the same for all.
pub type Digest = [u8; 16];

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sort {
    /// A regular file of this length.
    Regular(u64),
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
}

/// What is told of one file or name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Item {
    /// A file: the hash of all but its content, told at its first block, and the hashes of blocks from `block` on.
    File {
        /// Which.
        file: FileId,
        /// The first block that is told.
        block: u64,
        /// Of what kind, whose, how long.
        about: Digest,
        /// One for each block.
        blocks: Vec<Digest>,
    },
    /// A name.
    Name {
        /// In which directory.
        dir: FileId,
        /// Which.
        name: Vec<u8>,
        /// Whose name it is.
        file: FileId,
    },
}

/// All that is in one tree between two places.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Page {
    /// From here on …
    pub from: Place,
    /// … up to before here.
    pub to: Place,
    /// In order.
    pub items: Vec<Item>,
}
wire_struct!(Page { from, to, items } least 3);

/// What makes a stretch of the other tree like this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mend {
    /// A file is like this, apart from its content; one that is not there is made.
    File {
        /// Which.
        file: FileId,
        /// What it is.
        sort: Sort,
        /// Whose.
        attributes: Attributes,
        /// Extended attributes.
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// There is no such file.
    Gone(FileId),
    /// A block of a file.
    Block {
        /// Of which.
        file: FileId,
        /// Which.
        block: u64,
        /// All of it; less at the end of the file.
        bytes: Vec<u8>,
    },
    /// A name, and whose it is, if anybody's.
    Name {
        /// In which directory.
        dir: FileId,
        /// Which.
        name: Vec<u8>,
        /// Whose.
        file: Option<FileId>,
    },
}

/// Mends of a stretch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mends {
    /// From here on …
    pub from: Place,
    /// … up to before here; at most where the compared page ends.
    pub to: Place,
    /// In order.
    pub mends: Vec<Mend>,
}
wire_struct!(Mends { from, to, mends } least 3);

wire_struct!(Attributes { mode, uid, gid, mtime } least 4);

impl Wire for Place {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::File(file, block) => {
                w.u8(0);
                file.put(w);
                block.put(w);
            }
            Self::Name(dir, name) => {
                w.u8(1);
                dir.put(w);
                name.put(w);
            }
            Self::End => w.u8(2),
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::File(Wire::get(r)?, Wire::get(r)?),
            1 => Self::Name(Wire::get(r)?, Wire::get(r)?),
            2 => Self::End,
            _ => return Err(DecodeError::Value),
        })
    }
}

impl Wire for Sort {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Regular(length) => {
                w.u8(0);
                length.put(w);
            }
            Self::Directory => w.u8(1),
            Self::Symlink(target) => {
                w.u8(2);
                target.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Regular(Wire::get(r)?),
            1 => Self::Directory,
            2 => Self::Symlink(Wire::get(r)?),
            _ => return Err(DecodeError::Value),
        })
    }
}

impl Wire for Item {
    const LEAST: usize = 4;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::File { file, block, about, blocks } => {
                w.u8(0);
                file.put(w);
                block.put(w);
                about.put(w);
                blocks.put(w);
            }
            Self::Name { dir, name, file } => {
                w.u8(1);
                dir.put(w);
                name.put(w);
                file.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::File { file: Wire::get(r)?, block: Wire::get(r)?, about: Wire::get(r)?, blocks: Wire::get(r)? },
            1 => Self::Name { dir: Wire::get(r)?, name: Wire::get(r)?, file: Wire::get(r)? },
            _ => return Err(DecodeError::Value),
        })
    }
}

impl Wire for (Vec<u8>, Vec<u8>) {
    const LEAST: usize = 2;
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
        self.1.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((Wire::get(r)?, Wire::get(r)?))
    }
}

impl Wire for Mend {
    const LEAST: usize = 2;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::File { file, sort, attributes, xattrs } => {
                w.u8(0);
                file.put(w);
                sort.put(w);
                attributes.put(w);
                xattrs.put(w);
            }
            Self::Gone(file) => {
                w.u8(1);
                file.put(w);
            }
            Self::Block { file, block, bytes } => {
                w.u8(2);
                file.put(w);
                block.put(w);
                bytes.put(w);
            }
            Self::Name { dir, name, file } => {
                w.u8(3);
                dir.put(w);
                name.put(w);
                file.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::File {
                file: Wire::get(r)?,
                sort: Wire::get(r)?,
                attributes: Wire::get(r)?,
                xattrs: Wire::get(r)?,
            },
            1 => Self::Gone(Wire::get(r)?),
            2 => Self::Block { file: Wire::get(r)?, block: Wire::get(r)?, bytes: Wire::get(r)? },
            3 => Self::Name { dir: Wire::get(r)?, name: Wire::get(r)?, file: Wire::get(r)? },
            _ => return Err(DecodeError::Value),
        })
    }
}
