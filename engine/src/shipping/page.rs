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

/// A hash, 48 bits of it, of content that nobody can choose by it: each comparison draws a salt, and hosts hash with that. Which hash is the
/// hosts' choice, the same for all. That two different blocks look alike has odds of 2^-48, and the next scrub draws another salt.
pub type Digest = [u8; 6];

/// The depth that a comparison begins at.
pub const TOP: u8 = 2;

/// How much one sum covers at a depth, in blocks, files and names: 0 tells each of them.
#[must_use]
pub const fn grain(depth: u8) -> u64 {
    1 << (4 * if depth > TOP { TOP } else { depth })
}

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

/// What lies between two places, the second one not included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stretch {
    /// From here on …
    pub from: Place,
    /// … up to before here.
    pub to: Place,
}

/// What is told of one file or name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Item {
    /// A file: the hash of all but its content, told with its first block, and the hashes of blocks from `block` on.
    File {
        /// Which.
        file: FileId,
        /// The first block that is told.
        block: u64,
        /// Of what kind, whose, how long; none after block 0.
        about: Option<Digest>,
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

/// What is told of a stretch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// One hash for all up to each place.
    Sums(Vec<(Place, Digest)>),
    /// All that is in it, in order.
    Items(Vec<Item>),
    /// A file that was just made: zeros.
    Zeros,
}

/// A stretch of one tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Told {
    /// From here on …
    pub from: Place,
    /// … up to before here.
    pub to: Place,
    /// What.
    pub what: What,
}

/// Stretches of one tree, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Page {
    /// What hashes are made with.
    pub salt: u64,
    /// One at least.
    pub told: Vec<Told>,
}
wire_struct!(Page { salt, told } least 2);

impl Page {
    /// Where its last stretch ends.
    #[must_use]
    pub fn end(&self) -> Option<&Place> {
        self.told.last().map(|told| &told.to)
    }
}

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

/// What became of the stretches of a page that lie between two places.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mends {
    /// From here on …
    pub from: Place,
    /// … up to before here; at most where the compared page ends.
    pub to: Place,
    /// In order.
    pub mends: Vec<Mend>,
    /// Stretches that differ somewhere: they are to be told one depth finer.
    pub finer: Vec<Stretch>,
    /// Files that `mends` makes: their content is to be asked for.
    pub zeros: Vec<Stretch>,
}
wire_struct!(Mends { from, to, mends, finer, zeros } least 5);

wire_struct!(Attributes { mode, uid, gid, mtime } least 4);

impl Place {
    fn get_of(tag: u8, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match tag {
            0 => Self::File(Wire::get(r)?, Wire::get(r)?),
            1 => Self::Name(Wire::get(r)?, Wire::get(r)?),
            2 => Self::End,
            _ => return Err(DecodeError::Value),
        })
    }

    /// Lays it after another one: within one file only how much further it is.
    fn put_after(&self, before: &Self, w: &mut Writer) {
        match (before, self) {
            (Self::File(one, from), Self::File(other, to)) if one == other && from <= to => {
                w.u8(3);
                (to - from).put(w);
            }
            _ => self.put(w),
        }
    }

    fn get_after(before: &Self, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = r.u8()?;
        match (tag, before) {
            (3, Self::File(file, from)) => {
                let further: u64 = Wire::get(r)?;
                Ok(Self::File(*file, from.checked_add(further).ok_or(DecodeError::Value)?))
            }
            _ => {
                let place = Self::get_of(tag, r)?;
                // One value has one encoding.
                let further = matches!((before, &place), (Self::File(one, from), Self::File(other, to)) if one == other && from <= to);
                if further { Err(DecodeError::Value) } else { Ok(place) }
            }
        }
    }
}

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
        let tag = r.u8()?;
        Self::get_of(tag, r)
    }
}

/// Stretches are laid one after the other, in order; one that is empty or lies before the last one is refused.
impl Wire for Stretch {
    const LEAST: usize = 2;
    fn put(&self, w: &mut Writer) {
        Self::put_all(core::slice::from_ref(self), w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::get_all(1, r)?.pop().ok_or(DecodeError::Value)
    }
    fn put_all(all: &[Self], w: &mut Writer) {
        let mut before = &Place::START;
        for Self { from, to } in all {
            from.put_after(before, w);
            to.put_after(from, w);
            before = to;
        }
    }
    fn get_all(many: usize, r: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let mut out: Vec<Self> = Vec::new();
        for _ in 0..many {
            let (from, to) = get_stretch(out.last().map(|last| &last.to), r)?;
            out.push(Self { from, to });
        }
        Ok(out)
    }
}

fn get_stretch(before: Option<&Place>, r: &mut Reader<'_>) -> Result<(Place, Place), DecodeError> {
    let before = before.unwrap_or(&Place::START);
    let from = Place::get_after(before, r)?;
    let to = Place::get_after(&from, r)?;
    if from < *before || to <= from { Err(DecodeError::Value) } else { Ok((from, to)) }
}

impl Wire for Told {
    const LEAST: usize = 3;
    fn put(&self, w: &mut Writer) {
        Self::put_all(core::slice::from_ref(self), w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::get_all(1, r)?.pop().ok_or(DecodeError::Value)
    }
    fn put_all(all: &[Self], w: &mut Writer) {
        let mut before = &Place::START;
        for Self { from, to, what } in all {
            from.put_after(before, w);
            to.put_after(from, w);
            what.put_from(from, w);
            before = to;
        }
    }
    fn get_all(many: usize, r: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let mut out: Vec<Self> = Vec::new();
        for _ in 0..many {
            let (from, to) = get_stretch(out.last().map(|last| &last.to), r)?;
            let what = What::get_from(&from, &to, r)?;
            out.push(Self { from, to, what });
        }
        Ok(out)
    }
}

impl What {
    fn put_from(&self, from: &Place, w: &mut Writer) {
        match self {
            Self::Sums(sums) => {
                w.u8(0);
                w.var(sums.len() as u64);
                let mut before = from;
                for (to, sum) in sums {
                    to.put_after(before, w);
                    sum.put(w);
                    before = to;
                }
            }
            Self::Items(items) => {
                w.u8(1);
                w.var(items.len() as u64);
                let mut before = from.clone();
                for item in items {
                    before = item.put_after(&before, w);
                }
            }
            Self::Zeros => w.u8(2),
        }
    }

    fn get_from(from: &Place, to: &Place, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => {
                let many = r.len(1 + Digest::LEAST)?;
                let mut sums: Vec<(Place, Digest)> = Vec::new();
                for _ in 0..many {
                    let before = sums.last().map_or(from, |(place, _)| place);
                    let place = Place::get_after(before, r)?;
                    if place <= *before {
                        return Err(DecodeError::Value);
                    }
                    sums.push((place, Wire::get(r)?));
                }
                // They cover all of the stretch.
                if sums.last().is_none_or(|(last, _)| last != to) {
                    return Err(DecodeError::Value);
                }
                Self::Sums(sums)
            }
            1 => {
                let many = r.len(Item::LEAST)?;
                let mut items = Vec::new();
                let mut before = from.clone();
                for _ in 0..many {
                    items.push(Item::get_after(&mut before, r)?);
                }
                Self::Items(items)
            }
            2 => Self::Zeros,
            _ => return Err(DecodeError::Value),
        })
    }
}

impl Item {
    const LEAST: usize = 4;

    /// Lays it after a place; where what is told by it ends.
    fn put_after(&self, before: &Place, w: &mut Writer) -> Place {
        match self {
            Self::File { file, block, about, blocks } => {
                Place::File(*file, *block).put_after(before, w);
                about.put(w);
                blocks.put(w);
                Place::File(*file, block.saturating_add(blocks.len() as u64))
            }
            Self::Name { dir, name, file } => {
                let place = Place::Name(*dir, name.clone());
                place.put_after(before, w);
                file.put(w);
                place
            }
        }
    }

    fn get_after(before: &mut Place, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match Place::get_after(before, r)? {
            Place::File(file, block) => {
                let (about, blocks): (Option<Digest>, Vec<Digest>) = (Wire::get(r)?, Wire::get(r)?);
                let end = block.checked_add(blocks.len() as u64).ok_or(DecodeError::Value)?;
                *before = Place::File(file, end);
                Self::File { file, block, about, blocks }
            }
            Place::Name(dir, name) => {
                *before = Place::Name(dir, name.clone());
                Self::Name { dir, name, file: Wire::get(r)? }
            }
            Place::End => return Err(DecodeError::Value),
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
