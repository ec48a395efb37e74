//! Files in memory, as a program and a backup see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apus_engine::FileId;
use apus_engine::hash::{Hash128, mix};
use apus_engine::shipping::{Attributes, BLOCK, Change, Digest, Entry, Item, Mend, Mends, Page, Place, Sort};

/// Blocks and names told at once: few, so that a walk has many steps.
const STEP: usize = 12;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) sort: Sort,
    attributes: Attributes,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: Vec<u8>,
    /// Of the content, kept up to date: the sum over its words of what each is worth at its place. Zeros are worth nothing.
    sum: u64,
}

impl File {
    fn new(sort: Sort, mode: u32) -> Self {
        Self {
            sort,
            attributes: Attributes { mode, ..Attributes::default() },
            xattrs: BTreeMap::new(),
            bytes: Vec::new(),
            sum: 0,
        }
    }

    /// Bytes of content.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the words are worth that a range touches.
    fn worth(&self, from: usize, to: usize) -> u64 {
        let from = from & !7;
        let part = self.bytes.get(from..to.next_multiple_of(8).min(self.bytes.len())).unwrap_or_default();
        let mut sum = 0_u64;
        for (at, chunk) in part.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word);
            if word != 0 {
                sum = sum.wrapping_add(mix(word ^ mix((from / 8 + at) as u64)));
            }
        }
        sum
    }

    /// Changes content within a range.
    fn change(&mut self, from: usize, to: usize, how: impl FnOnce(&mut [u8])) {
        let before = self.worth(from, to);
        how(&mut self.bytes[from..to]);
        self.sum = self.sum.wrapping_sub(before).wrapping_add(self.worth(from, to));
    }

    /// Cuts content off, or adds zeros.
    fn resize(&mut self, length: usize) {
        if length > self.bytes.len() {
            self.bytes.resize(length, 0);
            return;
        }
        let gone = self.worth(length, self.bytes.len());
        self.bytes.truncate(length);
        self.sum = self.sum.wrapping_sub(gone).wrapping_add(self.worth(length, length));
    }

    /// Turns a bit.
    pub(crate) fn flip(&mut self, bit: usize) {
        self.change(bit / 8, bit / 8 + 1, |bytes| bytes[0] ^= 1 << (bit % 8));
    }

    fn sort(&self) -> Sort {
        match &self.sort {
            Sort::Regular(_) => Sort::Regular(self.bytes.len() as u64),
            other => other.clone(),
        }
    }

    fn about(&self) -> Digest {
        let mut hash = Hash128::new(1);
        std::hash::Hash::hash(&(self.sort(), self.attributes, &self.xattrs), &mut hash);
        hash.finish128().to_le_bytes()
    }

    fn blocks(&self) -> u64 {
        (self.bytes.len() as u64).div_ceil(BLOCK)
    }

    fn block(&self, block: u64) -> &[u8] {
        let from = (block * BLOCK) as usize;
        let to = (from + BLOCK as usize).min(self.bytes.len());
        self.bytes.get(from..to).unwrap_or_default()
    }

    fn digest(&self, block: u64) -> Digest {
        let mut hash = Hash128::new(2);
        hash.bytes(self.block(block));
        hash.finish128().to_le_bytes()
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.bytes.len() < at + bytes.len() {
            self.resize(at + bytes.len());
        }
        self.change(at, at + bytes.len(), |place| place.copy_from_slice(bytes));
    }
}

/// A tree of files: files by number, names by directory. A copy of it shares the files until one of the two changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<FileId, Arc<File>>,
    pub(crate) names: BTreeMap<(FileId, Vec<u8>), FileId>,
}

impl Tree {
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
                    let many = file.bytes.len();
                    let (from, to) = ((*offset as usize).min(many), ((offset + length) as usize).min(many));
                    file.change(from, to, |bytes| bytes.fill(0));
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

    /// What is there from a place on.
    pub(crate) fn page(&self, from: &Place) -> Page {
        let mut items = Vec::new();
        let mut left = STEP;
        let page = |to: Place, items| Page { from: from.clone(), to, items };
        if let Place::File(first, skip) = from {
            for (number, file) in self.files.range(*first..) {
                let start = if number == first { *skip } else { 0 };
                if left == 0 {
                    return page(Place::File(*number, start), items);
                }
                let blocks = file.blocks();
                let end = blocks.min(start + left as u64);
                left = left.saturating_sub(1 + (end - start.min(end)) as usize);
                let told = (start.min(end)..end).map(|block| file.digest(block)).collect();
                items.push(Item::File { file: *number, block: start, about: file.about(), blocks: told });
                if end < blocks {
                    return page(Place::File(*number, end), items);
                }
            }
        }
        for ((dir, name), file) in self.names_from(from) {
            if left == 0 {
                return page(Place::Name(*dir, name.clone()), items);
            }
            left -= 1;
            items.push(Item::Name { dir: *dir, name: name.clone(), file: *file });
        }
        page(Place::End, items)
    }

    fn names_from(&self, from: &Place) -> impl Iterator<Item = (&(FileId, Vec<u8>), &FileId)> {
        let first = match from {
            Place::File(..) => (FileId(0), Vec::new()),
            Place::Name(dir, name) => (*dir, name.clone()),
            Place::End => (FileId(u64::MAX), vec![0xff; 256]),
        };
        self.names.range(first..)
    }

    /// What makes a stretch of another tree like this one; perhaps only of the first part of it.
    pub(crate) fn compare(&self, page: &Page) -> Mends {
        let mut mends = Vec::new();
        let mut left = STEP;
        let mut to = page.to.clone();
        let theirs: BTreeMap<FileId, (u64, &Digest, &Vec<Digest>)> = page
            .items
            .iter()
            .filter_map(|item| match item {
                Item::File { file, block, about, blocks } => Some((*file, (*block, about, blocks))),
                Item::Name { .. } => None,
            })
            .collect();
        if let Place::File(first, skip) = page.from {
            'files: for (number, file) in self.files.range(first..) {
                let start = if *number == first { skip } else { 0 };
                if Place::File(*number, start) >= page.to {
                    break;
                }
                if left == 0 {
                    to = Place::File(*number, start);
                    break;
                }
                left -= 1;
                let known = theirs.get(number);
                if known.is_none_or(|(_, about, _)| **about != file.about()) {
                    mends.push(Mend::File {
                        file: *number,
                        sort: file.sort(),
                        attributes: file.attributes,
                        xattrs: file.xattrs.clone().into_iter().collect(),
                    });
                }
                for block in start..file.blocks() {
                    if Place::File(*number, block) >= page.to {
                        break;
                    }
                    let same = known.is_some_and(|(from, _, blocks)| {
                        block.checked_sub(*from).and_then(|at| blocks.get(at as usize)) == Some(&file.digest(block))
                    });
                    if same {
                        continue;
                    }
                    if left == 0 {
                        to = Place::File(*number, block);
                        break 'files;
                    }
                    left -= 1;
                    mends.push(Mend::Block { file: *number, block, bytes: file.block(block).to_vec() });
                }
            }
        }
        let within = |place: &Place| *place >= page.from && *place < to;
        for file in theirs.keys().filter(|file| !self.files.contains_key(file)) {
            if within(&Place::File(*file, 0)) || matches!(page.from, Place::File(first, _) if first == *file) {
                mends.push(Mend::Gone(*file));
            }
        }
        let named: BTreeMap<(FileId, &[u8]), FileId> = page
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Name { dir, name, file } => Some(((*dir, &name[..]), *file)),
                Item::File { .. } => None,
            })
            .collect();
        for ((dir, name), file) in self.names_from(&page.from) {
            let place = Place::Name(*dir, name.clone());
            if place >= to {
                break;
            }
            if left == 0 {
                to = place;
                break;
            }
            if named.get(&(*dir, &name[..])) != Some(file) {
                left -= 1;
                mends.push(Mend::Name { dir: *dir, name: name.clone(), file: Some(*file) });
            }
        }
        for (dir, name) in named.keys() {
            let ours = self.names.contains_key(&(*dir, name.to_vec()));
            if !ours && Place::Name(*dir, name.to_vec()) < to {
                mends.push(Mend::Name { dir: *dir, name: name.to_vec(), file: None });
            }
        }
        Mends { from: page.from.clone(), to, mends }
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

#[cfg(test)]
mod tests {
    use super::*;
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
            let (mut place, mut since) = (Place::START, Vec::new());
            while place != Place::End {
                let page = theirs.page(&place);
                assert!(page.to > place);
                for _ in 0..rng.below(3) {
                    let change = any(&mut rng, &mut next, &ours);
                    ours.apply(&change);
                    since.push(change);
                }
                let mends = ours.compare(&page);
                assert!(mends.to > place && mends.to <= page.to);
                theirs.mend(&mends);
                place = mends.to;
            }
            for change in &since {
                theirs.loosely(change);
            }
            theirs.sweep();
            assert_eq!(ours, theirs, "seed {seed}");
        }
    }
}
