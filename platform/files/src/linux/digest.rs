//! Files on a disk as the engine's comparison walks them, and what they are hashed with.

use std::io;

use apus_engine::FileId;
use apus_engine::shipping::walk::{self, Block, Bounds};
use apus_engine::shipping::{BLOCK, Mends, Page, Place, Sort, Stretch};

use super::disk::{About, Kind};

/// What one answer may be: bytes on the wire if a single item is not longer, and blocks that are looked at.
const BOUNDS: Bounds = Bounds { bytes: 40 * 1024, units: 4096 };
/// Blocks that are read at once.
const READ: u64 = 64;

/// Files and names in the order of the walk.
pub(super) trait View {
    /// The next file from this number on.
    fn next_file(&self, from: FileId) -> Option<(FileId, Kind)>;
    /// What is so of a file, and where a link leads; `None`: it is gone meanwhile.
    fn about(&mut self, file: FileId, kind: Kind) -> io::Result<Option<(About, Vec<u8>)>>;
    /// Bytes of a file; fewer at its end.
    fn read(&mut self, file: FileId, to: &mut [u8], at: u64) -> io::Result<usize>;
    /// The next name from this one on.
    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)>;
}

/// What is there in stretches, or in the first of them.
pub(super) fn page(view: &mut dyn View, salt: u64, depth: u8, stretches: &[Stretch]) -> io::Result<Page> {
    walk::page(&mut Walked(view), &BOUNDS, (salt, depth), stretches)
}

/// What makes stretches of another tree like this one, from a place on; perhaps only the first part of it.
pub(super) fn compare(view: &mut dyn View, page: &Page, from: &Place) -> io::Result<Mends> {
    walk::compare(&mut Walked(view), &BOUNDS, page, from)
}

struct Walked<'a>(&'a mut dyn View);

/// Of all but content and time: the time of a file changes with each write, also of a copy's own.
fn compared(sort: &Sort, about: &About) -> Vec<u8> {
    let owner = (about.attributes.mode, about.attributes.uid, about.attributes.gid);
    postcard::to_stdvec(&(sort, owner, &about.xattrs)).unwrap_or_default()
}

fn hash(salt: u64, bytes: &[u8]) -> [u8; 16] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&salt.to_le_bytes());
    blake3::keyed_hash(&key, bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// A block that was read.
struct Content<'a>(&'a [u8]);

impl Block for Content<'_> {
    fn hash(&self, salt: u64) -> [u8; 16] {
        hash(salt, self.0)
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl walk::View for Walked<'_> {
    type Error = io::Error;

    fn next_file(&self, from: FileId) -> Option<FileId> {
        self.0.next_file(from).map(|(file, _)| file)
    }

    fn about(&mut self, file: FileId) -> io::Result<Option<walk::About>> {
        let Some((_, kind)) = self.0.next_file(file).filter(|(found, _)| *found == file) else { return Ok(None) };
        let Some((about, target)) = self.0.about(file, kind)? else { return Ok(None) };
        let sort = match kind {
            Kind::Regular => Sort::Regular(about.length),
            Kind::Directory => Sort::Directory,
            Kind::Symlink => Sort::Symlink(target),
        };
        let compared = compared(&sort, &about);
        Ok(Some(walk::About { sort, attributes: about.attributes, xattrs: about.xattrs, compared }))
    }

    fn blocks(
        &mut self,
        file: FileId,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &dyn Block) -> bool,
    ) -> io::Result<()> {
        let mut buffer = vec![0; (READ.min(to.saturating_sub(from)) * BLOCK) as usize];
        let mut at = from;
        while at < to {
            let want = ((to - at).min(READ) * BLOCK) as usize;
            let got = self.0.read(file, &mut buffer[..want], at * BLOCK)?;
            for (block, bytes) in (at..).zip(buffer[..got].chunks(BLOCK as usize)) {
                if !each(block, &Content(bytes)) {
                    return Ok(());
                }
            }
            if got < want {
                return Ok(());
            }
            at += READ;
        }
        Ok(())
    }

    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)> {
        self.0.next_name(dir, name)
    }

    fn hash(salt: u64, bytes: &[u8]) -> [u8; 16] {
        hash(salt, bytes)
    }
}
