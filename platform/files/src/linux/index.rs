//! Which file is which: numbers, names, and what the file system calls each. In memory; written down with each checkpoint.

use std::collections::{BTreeMap, HashMap};

use apus_engine::FileId;
use apus_engine::shipping::{Change, Entry};
use serde::{Deserialize, Serialize};

use super::disk::{Handle, Kind};

/// A file that has names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// `None`: not known yet; it is found by its name.
    pub(super) handle: Option<Handle>,
    /// Of a regular file, as far as the changes tell.
    pub(super) size: u64,
    pub(super) names: Vec<(FileId, Vec<u8>)>,
}

/// Files by number, names by directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    nodes: BTreeMap<FileId, Node>,
    names: BTreeMap<(FileId, Vec<u8>), FileId>,
    handles: HashMap<Handle, FileId>,
    /// Numbers that were given to files whose making nobody saw.
    adopted: u64,
}

/// Directories within each other at most: who walks them holds all of them open.
pub(super) const DEPTH: usize = 200;
/// Whether a number was given to a file whose making nobody saw: numbers of a ring's records stay below.
const ADOPTED: u64 = 1 << 39;

impl Index {
    /// An empty one that goes on with another's numbers.
    pub(super) fn after(other: &Self) -> Self {
        Self { adopted: other.adopted, ..Self::default() }
    }

    pub(super) fn node(&self, file: FileId) -> Option<&Node> {
        self.nodes.get(&file)
    }

    pub(super) fn nodes_from(&self, first: FileId) -> impl Iterator<Item = (FileId, &Node)> {
        self.nodes.range(first..).map(|(file, node)| (*file, node))
    }

    pub(super) fn names_from(&self, dir: FileId, name: &[u8]) -> impl Iterator<Item = (&(FileId, Vec<u8>), FileId)> {
        self.names.range((dir, name.to_vec())..).map(|(name, file)| (name, *file))
    }

    /// What a directory holds.
    pub(super) fn entries(&self, dir: FileId) -> impl Iterator<Item = (&[u8], FileId)> {
        self.names
            .range((dir, Vec::new())..)
            .take_while(move |((other, _), _)| *other == dir)
            .map(|((_, name), file)| (&name[..], *file))
    }

    pub(super) fn at(&self, dir: FileId, name: &[u8]) -> Option<FileId> {
        self.names.get(&(dir, name.to_vec())).copied()
    }

    pub(super) fn by_handle(&self, handle: &Handle) -> Option<FileId> {
        self.handles.get(handle).copied()
    }

    pub(super) fn without_handle(&self) -> impl Iterator<Item = FileId> {
        self.nodes.iter().filter(|(_, node)| node.handle.is_none()).map(|(file, _)| *file)
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        (self.nodes.len() as u64, self.names.len() as u64)
    }

    /// The directory and last name that a path below the root leads to; directories on the way are followed by their names.
    pub(super) fn entry(&self, path: &[u8]) -> Option<Entry> {
        let mut dir = FileId::ROOT;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Some(Entry { dir, name: part.to_vec() }).filter(Entry::is_plain);
            }
            dir = self.at(dir, part).filter(|file| self.is_directory(*file))?;
        }
        None
    }

    pub(super) fn is_directory(&self, file: FileId) -> bool {
        file == FileId::ROOT || self.node(file).is_some_and(|node| node.kind == Kind::Directory)
    }

    /// One path of a file below the root, for people and patterns.
    pub(super) fn path(&self, file: FileId) -> Option<Vec<u8>> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = file;
        while at != FileId::ROOT {
            let (dir, name) = self.node(at)?.names.first()?;
            parts.push(name);
            at = *dir;
            // Nonsense may lead in a ring.
            if parts.len() > 4096 {
                return None;
            }
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    pub(super) fn set_handle(&mut self, file: FileId, handle: Option<Handle>) {
        let Some(node) = self.nodes.get_mut(&file) else { return };
        if let Some(old) = node.handle.take()
            && self.handles.get(&old) == Some(&file)
        {
            self.handles.remove(&old);
        }
        node.handle.clone_from(&handle);
        if let Some(handle) = handle
            && let Some(other) = self.handles.insert(handle, file).filter(|other| *other != file)
            && let Some(other) = self.nodes.get_mut(&other)
        {
            // One file has one number: the other one's was a guess.
            other.handle = None;
        }
    }

    pub(super) fn set_size(&mut self, file: FileId, size: u64) {
        if let Some(node) = self.nodes.get_mut(&file) {
            node.size = size;
        }
    }

    /// Adds a file without a name, or makes one like new.
    pub(super) fn insert(&mut self, file: FileId, kind: Kind, handle: Option<Handle>) {
        let node = self.nodes.entry(file).or_insert_with(|| Node { kind, handle: None, size: 0, names: Vec::new() });
        (node.kind, node.size) = (kind, 0);
        if handle.is_some() {
            self.set_handle(file, handle);
        }
    }

    /// Gives a name. The file that loses it, if another had it and is gone by that.
    pub(super) fn name(&mut self, at: &Entry, file: FileId) -> Option<FileId> {
        let gone = if self.at(at.dir, &at.name) == Some(file) { return None } else { self.unname(at) };
        if let Some(node) = self.nodes.get_mut(&file) {
            node.names.push((at.dir, at.name.clone()));
            self.names.insert((at.dir, at.name.clone()), file);
        }
        gone
    }

    /// Takes a name. The file that had it, if it is gone by that.
    pub(super) fn unname(&mut self, at: &Entry) -> Option<FileId> {
        let file = self.names.remove(&(at.dir, at.name.clone()))?;
        let node = self.nodes.get_mut(&file)?;
        node.names.retain(|(dir, name)| (*dir, name) != (at.dir, &at.name));
        if !node.names.is_empty() {
            return None;
        }
        self.forget(file);
        Some(file)
    }

    fn forget(&mut self, file: FileId) {
        self.set_handle(file, None);
        self.nodes.remove(&file);
    }

    /// Whether a change can be made to these files. A primary that lies could otherwise make nonsense of them: names in what is no
    /// directory, a directory in itself, a file that is another's number.
    pub(super) fn fits(&self, change: &Change) -> bool {
        // No number is given twice; what was made already may be made again as it was.
        let is_new = |file: &FileId, kind, at: &Entry| {
            let same = |(dir, name): &(FileId, Vec<u8>)| (*dir, name) == (at.dir, &at.name);
            self.node(*file).is_none_or(|node| node.kind == kind && node.names.iter().all(same))
        };
        let taken = |at: &Entry| self.at(at.dir, &at.name);
        let free =
            |at: &Entry| self.is_directory(at.dir) && taken(at).is_none_or(|file| self.entries(file).next().is_none());
        match change {
            Change::Create { file, at, .. } => is_new(file, Kind::Regular, at) && free(at),
            Change::Mkdir { file, at, .. } => {
                is_new(file, Kind::Directory, at) && free(at) && self.depth(at.dir) < DEPTH
            }
            Change::Symlink { file, at, .. } => is_new(file, Kind::Symlink, at) && free(at),
            Change::Link { file, at } => !self.is_directory(*file) && free(at),
            Change::Rename { file, to, .. } => {
                let deep = || self.depth(to.dir) >= DEPTH || self.is_within(to.dir, *file);
                free(to) && !(self.is_directory(*file) && deep())
            }
            Change::Unlink { at } => taken(at).is_none_or(|file| !self.is_directory(file)),
            Change::Rmdir { at } => {
                taken(at).is_none_or(|file| self.is_directory(file) && self.entries(file).next().is_none())
            }
            Change::Attributes { file, .. } => *file != FileId::ROOT,
            _ => true,
        }
    }

    /// What a change does to numbers, names and lengths. The file that is gone by it.
    pub(super) fn change(&mut self, change: &Change) -> Option<FileId> {
        match change {
            Change::Create { file, at, .. } => {
                self.insert(*file, Kind::Regular, None);
                self.name(at, *file)
            }
            Change::Mkdir { file, at, .. } => {
                self.insert(*file, Kind::Directory, None);
                self.name(at, *file)
            }
            Change::Symlink { file, at, .. } => {
                self.insert(*file, Kind::Symlink, None);
                self.name(at, *file)
            }
            Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } => {
                let end = offset.saturating_add(bytes.len() as u64);
                let size = self.node(*file).map_or(0, |node| node.size.max(end));
                self.set_size(*file, size);
                None
            }
            Change::Truncate { file, length } => {
                self.set_size(*file, *length);
                None
            }
            Change::Rename { file, from, to } => {
                if !self.nodes.contains_key(file) {
                    return self.unname(to);
                }
                let gone = self.name(to, *file);
                if from != to && self.at(from.dir, &from.name) == Some(*file) {
                    self.unname(from);
                }
                if self.is_directory(*file)
                    && let Some(node) = self.nodes.get_mut(file)
                {
                    // It has one name, whatever somebody who lies says that it was.
                    let is = |name: &(FileId, Vec<u8>)| (name.0, &name.1) == (to.dir, &to.name);
                    for name in node.names.extract_if(.., |name| !is(name)) {
                        self.names.remove(&name);
                    }
                }
                gone
            }
            Change::Link { file, at } if self.nodes.contains_key(file) => self.name(at, *file),
            Change::Unlink { at } | Change::Rmdir { at } => self.unname(at),
            Change::Link { .. }
            | Change::Punch { .. }
            | Change::Attributes { .. }
            | Change::SetXattr { .. }
            | Change::RemoveXattr { .. }
            | Change::Barrier { .. }
            | Change::Era { .. } => None,
        }
    }

    fn depth(&self, dir: FileId) -> usize {
        let mut at = dir;
        (0..4096)
            .find(|_| match self.node(at).and_then(|node| node.names.first()) {
                Some((parent, _)) => {
                    at = *parent;
                    false
                }
                None => true,
            })
            .unwrap_or(4096)
    }

    /// Whether moving `file` into `dir` would make a directory its own ancestor.
    pub(super) fn is_within(&self, dir: FileId, file: FileId) -> bool {
        let mut at = dir;
        for _ in 0..4096 {
            if at == file {
                return true;
            }
            match self.node(at).and_then(|node| node.names.first()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        true
    }

    /// A number for a file that was there before anybody knew it.
    pub(super) fn adopt(&mut self, prefix: u64) -> FileId {
        self.adopted += 1;
        FileId(prefix | ADOPTED | self.adopted & (ADOPTED - 1))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let nodes: Vec<(FileId, &Node)> = self.nodes_from(FileId::ROOT).collect();
        postcard::to_stdvec(&(self.adopted, nodes)).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (adopted, nodes): (u64, Vec<(FileId, Node)>) = postcard::from_bytes(bytes).ok()?;
        let mut index = Self { adopted, ..Self::default() };
        for (file, node) in nodes {
            for (dir, name) in &node.names {
                index.names.insert((*dir, name.clone()), file);
            }
            if let Some(handle) = &node.handle {
                index.handles.insert(handle.clone(), file);
            }
            index.nodes.insert(file, node);
        }
        Some(index)
    }
}
