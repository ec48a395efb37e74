//! Files in memory, as a program and a backup see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apus_engine::FileId;
use apus_engine::hash::Hash128;
use apus_engine::shipping::walk::{self, Bounds};
use apus_engine::shipping::{BLOCK, Change, Entry, Mend, Mends, Page, Place, Sort, Stretch};

use super::content::File;

/// A tree of files: files by number, names by directory. A copy of it shares the files until one of the two changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<FileId, Arc<File>>,
    pub(crate) names: BTreeMap<(FileId, Vec<u8>), FileId>,
}

/// Files of a large tree, and the number of the first one.
const LARGE: u64 = 64;
pub(crate) const FIRST: u64 = 1 << 16;

impl Tree {
    /// So many bytes in all, in files that are made as they are read; without any the tree is empty.
    pub(crate) fn large(bytes: u64) -> Self {
        let mut out = Self::default();
        let blocks = bytes.div_ceil(LARGE * BLOCK);
        for nth in (0..LARGE).filter(|_| blocks > 0) {
            let number = FileId(FIRST + nth);
            out.files.insert(number, Arc::new(File::vast(nth, blocks)));
            out.names.insert((FileId::ROOT, format!("large-{nth:02}").into_bytes()), number);
        }
        out
    }

    /// Blocks of one file of the large tree, if there is one, and how many files it has.
    pub(crate) fn large_blocks(&self) -> Option<(u64, u64)> {
        self.files.get(&FileId(FIRST)).filter(|file| file.is_vast()).map(|file| (file.blocks(), LARGE))
    }

    /// All of it in one number.
    pub(crate) fn hash(&self) -> u128 {
        let mut hash = Hash128::new(3);
        for (number, file) in &self.files {
            std::hash::Hash::hash(&(number, file.sort(), file.attributes, &file.xattrs, file.sum), &mut hash);
        }
        std::hash::Hash::hash(&self.names, &mut hash);
        hash.finish128()
    }

    fn edit(&mut self, file: FileId) -> Option<&mut File> {
        self.files.get_mut(&file).map(Arc::make_mut)
    }

    /// Turns a bit of a file.
    pub(crate) fn flip(&mut self, file: FileId, bit: usize) {
        if let Some(file) = self.edit(file) {
            file.flip(bit);
        }
    }

    /// Changes it; a file that has lost its last name goes.
    pub(crate) fn apply(&mut self, change: &Change) {
        let loses = self.loosely(change);
        if let Some(file) = loses.filter(|file| !self.names.values().any(|named| named == file)) {
            self.files.remove(&file);
        }
    }

    /// Changes a tree that may have later changes already; afterwards it has to be [swept](Self::sweep). A file that may have lost a name.
    pub(crate) fn loosely(&mut self, change: &Change) -> Option<FileId> {
        let key = |entry: &Entry| (entry.dir, entry.name.clone());
        match change {
            Change::Create { file, at, mode } => self.make(*file, key(at), File::new(Sort::Regular(0), *mode)),
            Change::Mkdir { file, at, mode } => self.make(*file, key(at), File::new(Sort::Directory, *mode)),
            Change::Symlink { file, at, target } => {
                self.make(*file, key(at), File::new(Sort::Symlink(target.clone()), 0o777))
            }
            Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } => {
                if let Some(file) = self.edit(*file) {
                    file.write(*offset as usize, bytes);
                }
                None
            }
            Change::Truncate { file, length } => {
                if let Some(file) = self.edit(*file) {
                    file.resize(*length as usize);
                }
                None
            }
            Change::Punch { file, offset, length } => {
                if let Some(file) = self.edit(*file) {
                    file.punch(*offset as usize, *length as usize);
                }
                None
            }
            Change::Rename { file, from, to } => {
                if self.names.get(&key(from)) == Some(file) {
                    self.names.remove(&key(from));
                }
                self.names.insert(key(to), *file).filter(|over| over != file)
            }
            Change::Link { file, at } => self.names.insert(key(at), *file).filter(|over| over != file),
            Change::Unlink { at } | Change::Rmdir { at } => self.names.remove(&key(at)),
            Change::Attributes { file, attributes } => {
                if let Some(file) = self.edit(*file) {
                    file.attributes = *attributes;
                }
                None
            }
            Change::SetXattr { file, name, value } => {
                if let Some(file) = self.edit(*file) {
                    file.xattrs.insert(name.clone(), value.clone());
                }
                None
            }
            Change::RemoveXattr { file, name } => {
                if let Some(file) = self.edit(*file) {
                    file.xattrs.remove(name);
                }
                None
            }
            Change::Barrier { .. } | Change::Era { .. } => None,
        }
    }

    fn make(&mut self, number: FileId, at: (FileId, Vec<u8>), file: File) -> Option<FileId> {
        self.files.insert(number, Arc::new(file));
        self.names.insert(at, number).filter(|over| *over != number)
    }

    /// Takes away what has no name, and names of nothing.
    pub(crate) fn sweep(&mut self) {
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        let files = &self.files;
        self.names.retain(|_, file| files.contains_key(file));
    }

    /// Blocks, files and names told at once: few, so that a walk has many steps.
    fn bounds(&self) -> Bounds {
        let vast = self.files.values().any(|file| file.is_vast());
        Bounds { bytes: if vast { 40 * 1024 } else { 9_000 }, units: if vast { 4096 } else { 40 } }
    }

    /// What is there in stretches.
    pub(crate) fn page(&self, salt: u64, depth: u8, stretches: &[Stretch]) -> Page {
        let Ok(page) = walk::page(&mut Seen(self), &self.bounds(), (salt, depth), stretches);
        page
    }

    /// What makes stretches of another tree like this one; perhaps only the first of them.
    pub(crate) fn compare(&self, page: &Page, from: &Place) -> Mends {
        let Ok(mends) = walk::compare(&mut Seen(self), &self.bounds(), page, from);
        mends
    }

    /// Bytes of blocks that differ from another tree's.
    pub(crate) fn differs_by(&self, other: &Self) -> u64 {
        let blocks = |file: &Arc<File>, number| match other.files.get(number) {
            Some(theirs) if Arc::ptr_eq(file, theirs) => 0,
            theirs => file.differs_by(theirs.map(|theirs| &**theirs)),
        };
        self.files.iter().map(|(number, file)| blocks(file, number)).sum()
    }

    /// Mends a stretch.
    pub(crate) fn mend(&mut self, mends: &Mends) {
        for mend in &mends.mends {
            match mend {
                Mend::File { file, sort, attributes, xattrs } => {
                    let new = || Arc::new(File::new(sort.clone(), 0));
                    let entry = Arc::make_mut(self.files.entry(*file).or_insert_with(new));
                    if let Sort::Regular(length) = sort {
                        entry.sort = Sort::Regular(0);
                        entry.resize(*length as usize);
                    } else {
                        entry.sort = sort.clone();
                        entry.resize(0);
                    }
                    entry.attributes = *attributes;
                    entry.xattrs = xattrs.iter().cloned().collect();
                }
                Mend::Gone(file) => {
                    self.files.remove(file);
                }
                Mend::Block { file, block, bytes } => {
                    if let Some(file) = self.edit(*file) {
                        file.write((block * BLOCK) as usize, bytes);
                    }
                }
                Mend::Name { dir, name, file: Some(file) } => {
                    self.names.insert((*dir, name.clone()), *file);
                }
                Mend::Name { dir, name, file: None } => {
                    self.names.remove(&(*dir, name.clone()));
                }
            }
        }
    }
}

/// A tree that is compared.
struct Seen<'a>(&'a Tree);

impl walk::View for Seen<'_> {
    type Error = std::convert::Infallible;

    fn next_file(&self, from: FileId) -> Option<FileId> {
        self.0.files.range(from..).next().map(|(file, _)| *file)
    }

    fn about(&mut self, file: FileId) -> Result<Option<walk::About>, Self::Error> {
        Ok(self.0.files.get(&file).map(|file| file.about()))
    }

    fn blocks(
        &mut self,
        file: FileId,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &dyn walk::Block) -> bool,
    ) -> Result<(), Self::Error> {
        if let Some(file) = self.0.files.get(&file) {
            for block in from..to.min(file.blocks()) {
                if !each(block, &file.block(block)) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)> {
        self.0.names.range((dir, name.to_vec())..).next().map(|(key, file)| (key.clone(), *file))
    }

    fn hash(salt: u64, bytes: &[u8]) -> [u8; 16] {
        let mut hash = Hash128::new(salt);
        hash.bytes(bytes);
        hash.finish128().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_engine::shipping::{Attributes, TOP, Told, What};
    use apus_engine::{Rng, Seed};

    /// A change that a program could make to `tree`.
    fn any(rng: &mut Rng, next: &mut u64, tree: &Tree) -> Change {
        let file = FileId(1 + rng.below(12));
        let at = Entry { dir: FileId(0), name: vec![b'a' + rng.below(8) as u8] };
        match rng.below(9) {
            0..=2 => {
                *next += 1;
                Change::Create { file: FileId(*next), at, mode: 0o644 }
            }
            3 | 4 => Change::Write { file, offset: rng.below(40_000), bytes: vec![rng.next() as u8; 5_000] },
            5 => Change::Truncate { file, length: rng.below(30_000) },
            7 if tree.files.contains_key(&file) => Change::Link { file, at },
            6 | 7 => Change::Unlink { at },
            _ => Change::Attributes {
                file,
                attributes: Attributes { mode: rng.below(512) as u32, ..Attributes::default() },
            },
        }
    }

    /// A tree that is compared stretch by stretch while the other one changes is right once the changes since the start are applied to it.
    #[test]
    fn a_walk_over_a_changing_tree_and_the_changes_make_it_the_same() {
        for seed in 0..300 {
            let mut rng = Seed(seed).stream("tree");
            let (mut ours, mut theirs, mut next) = (Tree::default(), Tree::default(), 0);
            for _ in 0..60 {
                let change = any(&mut rng, &mut next, &ours);
                ours.apply(&change);
            }
            let mut other = 5;
            for _ in 0..rng.below(60) {
                let change = any(&mut rng, &mut other, &theirs);
                theirs.apply(&change);
            }
            let mut todo = vec![(TOP, Stretch { from: Place::START, to: Place::End })];
            let mut since = Vec::new();
            while let Some((depth, stretch)) = todo.pop() {
                let page = theirs.page(seed, depth, std::slice::from_ref(&stretch));
                let end = page.end().expect("something is told").clone();
                assert!(end > stretch.from && end <= stretch.to);
                for _ in 0..rng.below(3) {
                    let change = any(&mut rng, &mut next, &ours);
                    ours.apply(&change);
                    since.push(change);
                }
                let mends = ours.compare(&page, &stretch.from);
                assert!(mends.to > stretch.from && mends.to <= end);
                theirs.mend(&mends);
                if mends.to < stretch.to {
                    todo.push((depth, Stretch { from: mends.to.clone(), to: stretch.to }));
                }
                todo.extend(mends.finer.into_iter().map(|finer| (depth - 1, finer)));
                for Stretch { mut from, to } in mends.zeros {
                    while from < to {
                        let told = Told { from: from.clone(), to: to.clone(), what: What::Zeros };
                        let mends = ours.compare(&Page { salt: seed, told: vec![told] }, &from);
                        assert!(mends.to > from && mends.finer.is_empty() && mends.zeros.is_empty());
                        theirs.mend(&mends);
                        from = mends.to;
                    }
                }
            }
            for change in &since {
                theirs.loosely(change);
            }
            theirs.sweep();
            assert_eq!(ours, theirs, "seed {seed}");
        }
    }
}
