//! The second tree, while files are compared: numbers and names in memory, and the content of those files alone that differ. It becomes a
//! folder when it takes the place of the published one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use apus_engine::FileId;
use apus_engine::shipping::record::MOST_TARGET;
use apus_engine::shipping::{Attributes, BLOCK, Change, Entry, Mend, Mends, Sort};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::digest::View;
use super::disk::{self, About, Handle, Kind};
use super::index::{DEPTH, Index};
use super::tree::Tree;

/// A file of the second tree.
#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    about: About,
    target: Vec<u8>,
    /// Its content lies here, not in the published tree.
    own: bool,
}

/// The second tree.
pub(super) struct Shadow {
    folder: PathBuf,
    flat: OwnedFd,
    nodes: BTreeMap<FileId, Node>,
    names: BTreeMap<(FileId, Vec<u8>), FileId>,
    open: Option<(FileId, OwnedFd)>,
}

fn flat_name(file: FileId) -> String {
    format!("{:016x}", file.0)
}

impl Shadow {
    /// As the published tree is now.
    pub(super) fn of(tree: &mut Tree, index: &mut Index, folder: &Path) -> io::Result<Self> {
        clear(folder)?;
        std::fs::create_dir_all(folder.join("flat"))?;
        let flat = rustix::fs::openat(
            rustix::fs::CWD,
            folder.join("flat"),
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let names = index.names_from(FileId::ROOT, b"").map(|(name, file)| (name.clone(), file)).collect();
        let mut shadow = Self { folder: folder.to_path_buf(), flat, nodes: BTreeMap::new(), names, open: None };
        let files: Vec<(FileId, Kind)> = index.nodes_from(FileId::ROOT).map(|(file, node)| (file, node.kind)).collect();
        for (file, kind) in files {
            let mut published = Published { tree, index };
            if let Some((about, target)) = published.about(file, kind)? {
                shadow.nodes.insert(file, Node { kind, about, target, own: false });
            }
        }
        Ok(shadow)
    }

    /// Gives a file content of its own.
    fn own(&mut self, tree: &mut Tree, index: &mut Index, file: FileId) -> io::Result<Option<&OwnedFd>> {
        let Some(node) = self.nodes.get(&file).filter(|node| node.kind == Kind::Regular) else { return Ok(None) };
        let name = flat_name(file);
        if !node.own {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&self.flat, &name[..], flags, Mode::RUSR | Mode::WUSR)?;
            if let Some(from) = tree.reach(index, file)? {
                disk::copy(from, &made)?;
            }
            if let Some(node) = self.nodes.get_mut(&file) {
                node.own = true;
            }
            self.open = Some((file, made));
        } else if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.open = Some((file, rustix::fs::openat(&self.flat, &name[..], flags, Mode::empty())?));
        }
        Ok(self.open.as_ref().map(|(_, open)| open))
    }

    /// A published file is about to be changed: what this tree has of it stays.
    pub(super) fn keep(&mut self, tree: &mut Tree, index: &mut Index, file: FileId) -> io::Result<()> {
        self.own(tree, index, file).map(drop)
    }

    fn gone(&mut self, file: FileId) -> io::Result<()> {
        if self.nodes.remove(&file).is_some_and(|node| node.own) {
            self.open = None;
            disk::remove(&self.flat, flat_name(file).as_bytes())?;
        }
        Ok(())
    }

    /// A file that is like new; what it was is gone.
    fn make(&mut self, file: FileId, kind: Kind, about: About, target: Vec<u8>) -> io::Result<()> {
        self.gone(file)?;
        if kind == Kind::Regular {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&self.flat, flat_name(file), flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::ftruncate(&made, about.length)?;
            self.open = Some((file, made));
        }
        self.nodes.insert(file, Node { kind, about, target, own: kind == Kind::Regular });
        Ok(())
    }

    fn resize(&mut self, tree: &mut Tree, index: &mut Index, file: FileId, length: u64) -> io::Result<()> {
        let Some(fd) = self.own(tree, index, file)? else { return Ok(()) };
        rustix::fs::ftruncate(fd, length)?;
        if let Some(node) = self.nodes.get_mut(&file) {
            node.about.length = length;
        }
        Ok(())
    }

    fn write(&mut self, tree: &mut Tree, index: &mut Index, file: FileId, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(end) = at.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok()) else {
            return Ok(());
        };
        let Some(fd) = self.own(tree, index, file)? else { return Ok(()) };
        if bytes.iter().all(|byte| *byte == 0) {
            let length = rustix::fs::fstat(fd)?.st_size.max(0).cast_unsigned();
            if length < end {
                rustix::fs::ftruncate(fd, end)?;
            }
            disk::punch(fd, at, bytes.len() as u64)?;
        } else {
            disk::write_at(fd, bytes, at)?;
        }
        if let Some(node) = self.nodes.get_mut(&file) {
            node.about.length = node.about.length.max(end);
        }
        Ok(())
    }

    /// Mends a stretch. What no honest tree says is left out.
    pub(super) fn mend(&mut self, tree: &mut Tree, index: &mut Index, mends: &Mends) -> io::Result<()> {
        for mend in &mends.mends {
            match mend {
                Mend::File { file, sort, attributes, xattrs } => {
                    self.mend_file(tree, index, *file, sort, *attributes, xattrs)?;
                }
                Mend::Gone(file) => self.gone(*file)?,
                Mend::Block { file, block, bytes } if bytes.len() as u64 <= BLOCK => {
                    if let Some(at) = block.checked_mul(BLOCK) {
                        self.write(tree, index, *file, at, bytes)?;
                    }
                }
                Mend::Name { dir, name, file: Some(file) } if disk::plain(name).is_ok() => {
                    self.names.insert((*dir, name.clone()), *file);
                }
                Mend::Name { dir, name, file: None } => drop(self.names.remove(&(*dir, name.clone()))),
                Mend::Block { .. } | Mend::Name { .. } => {}
            }
        }
        Ok(())
    }

    fn mend_file(
        &mut self,
        tree: &mut Tree,
        index: &mut Index,
        file: FileId,
        sort: &Sort,
        attributes: Attributes,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        let (kind, length, target) = match sort {
            Sort::Regular(length) if i64::try_from(*length).is_ok() => (Kind::Regular, *length, Vec::new()),
            Sort::Directory => (Kind::Directory, 0, Vec::new()),
            Sort::Symlink(to) if (1..=MOST_TARGET).contains(&to.len()) && !to.contains(&0) => {
                (Kind::Symlink, 0, to.clone())
            }
            _ => return Ok(()),
        };
        if file == FileId::ROOT {
            return Ok(());
        }
        let about = About { length, attributes, xattrs: xattrs.to_vec() };
        match self.nodes.get(&file) {
            Some(known) if known.kind == kind && known.target == target => {
                if kind == Kind::Regular {
                    self.resize(tree, index, file, length)?;
                }
                if let Some(node) = self.nodes.get_mut(&file) {
                    node.about = about;
                }
                Ok(())
            }
            _ => self.make(file, kind, about, target),
        }
    }

    /// Makes one change of the second log.
    fn change(&mut self, tree: &mut Tree, index: &mut Index, change: &Change) -> io::Result<()> {
        let key = |at: &Entry| (at.dir, at.name.clone());
        let new = |mode: u32| About { attributes: Attributes { mode, ..Attributes::default() }, ..About::default() };
        match change {
            Change::Create { file, at, mode } => {
                self.make(*file, Kind::Regular, new(*mode), Vec::new())?;
                self.names.insert(key(at), *file);
            }
            Change::Mkdir { file, at, mode } => {
                self.make(*file, Kind::Directory, new(*mode), Vec::new())?;
                self.names.insert(key(at), *file);
            }
            Change::Symlink { file, at, target } => {
                self.make(*file, Kind::Symlink, new(0o777), target.clone())?;
                self.names.insert(key(at), *file);
            }
            Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } => {
                self.write(tree, index, *file, *offset, bytes)?;
            }
            Change::Truncate { file, length } => self.resize(tree, index, *file, *length)?,
            Change::Punch { file, offset, length } => {
                if let Some(fd) = self.own(tree, index, *file)? {
                    disk::punch(fd, *offset, *length)?;
                }
            }
            Change::Rename { file, from, to } => {
                if self.names.get(&key(from)) == Some(file) {
                    self.names.remove(&key(from));
                }
                self.names.insert(key(to), *file);
            }
            Change::Link { file, at } => drop(self.names.insert(key(at), *file)),
            Change::Unlink { at } | Change::Rmdir { at } => drop(self.names.remove(&key(at))),
            Change::Attributes { file, attributes } => {
                self.own(tree, index, *file)?;
                if let Some(node) = self.nodes.get_mut(file) {
                    let mtime = if attributes.mtime == 0 { node.about.attributes.mtime } else { attributes.mtime };
                    node.about.attributes = Attributes { mtime, ..*attributes };
                }
            }
            Change::SetXattr { file, name, value } if disk::is_ours(name) => {
                self.own(tree, index, *file)?;
                if let Some(node) = self.nodes.get_mut(file) {
                    node.about.xattrs.retain(|(other, _)| other != name);
                    node.about.xattrs.push((name.clone(), value.clone()));
                }
            }
            Change::RemoveXattr { file, name } => {
                self.own(tree, index, *file)?;
                if let Some(node) = self.nodes.get_mut(file) {
                    node.about.xattrs.retain(|(other, _)| other != name);
                }
            }
            Change::SetXattr { .. } | Change::Barrier { .. } | Change::Era { .. } => {}
        }
        Ok(())
    }

    /// Makes the changes of the second log.
    pub(super) fn catch_up(&mut self, tree: &mut Tree, index: &mut Index, changes: &[Change]) -> io::Result<()> {
        changes.iter().try_for_each(|change| self.change(tree, index, change))
    }

    /// Makes it a folder beside the published one, on the disk, and says which files are where.
    pub(super) fn build(&mut self, tree: &mut Tree, index: &mut Index) -> io::Result<(PathBuf, Index)> {
        self.open = None;
        let top = self.folder.join("new");
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        clear(&top)?;
        std::fs::create_dir(&top)?;
        let root = rustix::fs::openat(rustix::fs::CWD, &top, flags, Mode::empty())?;
        let mut made = Index::default();
        let mut folders = vec![(FileId::ROOT, 0)];
        let mut seen = BTreeSet::from([FileId::ROOT]);
        let mut made_folders = Vec::new();
        let mut placed = BTreeSet::new();
        while let Some((dir, depth)) = folders.pop() {
            let Some(folder) = folder_of(&root, &made, dir)? else { continue };
            let names: Vec<(Vec<u8>, FileId)> = self
                .names
                .range((dir, Vec::new())..)
                .take_while(|((other, _), _)| *other == dir)
                .map(|((_, name), file)| (name.clone(), *file))
                .collect();
            for (name, file) in names {
                // Names of nothing go.
                let Some(node) = self.nodes.get(&file) else { continue };
                let at = Entry { dir, name };
                match node.kind {
                    Kind::Directory => {
                        // A directory has one name, and no tree is so deep: who says otherwise lies.
                        if depth >= DEPTH || !seen.insert(file) {
                            continue;
                        }
                        rustix::fs::mkdirat(&folder, &at.name[..], Mode::RWXU)?;
                        let inner = disk::directory(&folder, &at.name)?;
                        made.insert(file, Kind::Directory, Some(Handle::of_open(&inner)?));
                        made_folders.push(file);
                        folders.push((file, depth + 1));
                    }
                    Kind::Symlink | Kind::Regular => {
                        let handle = self.place(tree, index, file, &at, &folder, placed.contains(&file))?;
                        let Some(handle) = handle else { continue };
                        made.insert(file, node.kind, Some(handle));
                        placed.insert(file);
                    }
                }
                made.name(&at, file);
                let length = self.nodes.get(&file).map_or(0, |node| node.about.length);
                made.set_size(file, length);
            }
        }
        // Owner, permissions and times of directories come after what is in them.
        for file in made_folders.into_iter().rev() {
            let (Some(node), Some(folder)) = (self.nodes.get(&file), folder_of(&root, &made, file)?) else { continue };
            disk::set_xattrs(&folder, &node.about.xattrs)?;
            disk::set_attributes(&folder, Kind::Directory, &node.about.attributes)?;
        }
        let old = disk::about(&tree.root, Kind::Directory)?;
        disk::set_xattrs(&root, &old.xattrs)?;
        disk::set_attributes(&root, Kind::Directory, &old.attributes)?;
        rustix::fs::syncfs(&root)?;
        Ok((top, made))
    }

    fn place(
        &self,
        tree: &mut Tree,
        index: &mut Index,
        file: FileId,
        at: &Entry,
        folder: &OwnedFd,
        before: bool,
    ) -> io::Result<Option<Handle>> {
        let Some(node) = self.nodes.get(&file) else { return Ok(None) };
        let name = &at.name[..];
        match node.kind {
            Kind::Regular if node.own => {
                let flat = flat_name(file);
                if !before {
                    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let open = rustix::fs::openat(&self.flat, &flat[..], flags, Mode::empty())?;
                    disk::set_xattrs(&open, &node.about.xattrs)?;
                    disk::set_attributes(&open, Kind::Regular, &node.about.attributes)?;
                }
                rustix::fs::linkat(&self.flat, &flat[..], folder, name, AtFlags::empty())?;
            }
            Kind::Regular => {
                let Some(fd) = tree.reach(index, file)? else { return Ok(None) };
                match rustix::fs::linkat(fd, c"", folder, name, AtFlags::EMPTY_PATH) {
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    other => other?,
                }
            }
            Kind::Symlink if before => {
                // Its first name is in a folder that is closed by now: the file is reached by its flat one.
                rustix::fs::linkat(&self.flat, flat_name(file), folder, name, AtFlags::empty())?;
            }
            Kind::Symlink => {
                disk::remove(&self.flat, flat_name(file).as_bytes())?;
                rustix::fs::symlinkat(&node.target[..], &self.flat, flat_name(file))?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let link = rustix::fs::openat(&self.flat, flat_name(file), flags, Mode::empty())?;
                disk::set_attributes(&link, Kind::Symlink, &node.about.attributes)?;
                rustix::fs::linkat(&self.flat, flat_name(file), folder, name, AtFlags::empty())?;
            }
            Kind::Directory => return Ok(None),
        }
        Handle::of(folder, name)
    }
}

/// A directory of the folder that is being made.
fn folder_of(root: &OwnedFd, made: &Index, dir: FileId) -> io::Result<Option<OwnedFd>> {
    if dir == FileId::ROOT {
        return Ok(Some(root.as_fd().try_clone_to_owned()?));
    }
    let handle = made.node(dir).and_then(|node| node.handle.as_ref());
    handle.map_or(Ok(None), |handle| handle.open(root, Kind::Directory.flags()))
}

/// Removes a folder, if it is there.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The published tree as a view.
pub(super) struct Published<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) index: &'a mut Index,
}

impl View for Published<'_> {
    fn next_file(&self, from: FileId) -> Option<(FileId, Kind)> {
        self.index.nodes_from(from).next().map(|(file, node)| (file, node.kind))
    }

    fn about(&mut self, file: FileId, kind: Kind) -> io::Result<Option<(About, Vec<u8>)>> {
        let Some(fd) = self.tree.reach(self.index, file)? else { return Ok(None) };
        let target = if kind == Kind::Symlink { disk::link_text(fd)? } else { Vec::new() };
        Ok(Some((disk::about(fd, kind)?, target)))
    }

    fn read(&mut self, file: FileId, to: &mut [u8], at: u64) -> io::Result<usize> {
        match self.tree.reach(self.index, file)? {
            Some(fd) => disk::read_at(fd, to, at),
            None => Ok(0),
        }
    }

    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)> {
        self.index.names_from(dir, name).next().map(|(name, file)| (name.clone(), file))
    }
}

/// The second tree as a view.
pub(super) struct Second<'a> {
    pub(super) shadow: &'a mut Shadow,
    pub(super) tree: &'a mut Tree,
    pub(super) index: &'a mut Index,
}

impl View for Second<'_> {
    fn next_file(&self, from: FileId) -> Option<(FileId, Kind)> {
        self.shadow.nodes.range(from..).next().map(|(file, node)| (*file, node.kind))
    }

    fn about(&mut self, file: FileId, _: Kind) -> io::Result<Option<(About, Vec<u8>)>> {
        let Some(node) = self.shadow.nodes.get(&file) else { return Ok(None) };
        let mut about = node.about.clone();
        about.attributes.mode &= match node.kind {
            Kind::Regular => disk::FILE_MODE,
            Kind::Directory => disk::DIR_MODE,
            Kind::Symlink => 0o777,
        };
        about.xattrs.retain(|(name, _)| disk::is_ours(name));
        about.xattrs.sort();
        Ok(Some((about, node.target.clone())))
    }

    fn read(&mut self, file: FileId, to: &mut [u8], at: u64) -> io::Result<usize> {
        if self.shadow.nodes.get(&file).is_some_and(|node| node.own) {
            return match self.shadow.own(self.tree, self.index, file)? {
                Some(fd) => disk::read_at(fd, to, at),
                None => Ok(0),
            };
        }
        Published { tree: self.tree, index: self.index }.read(file, to, at)
    }

    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)> {
        self.shadow.names.range((dir, name.to_vec())..).next().map(|(name, file)| (name.clone(), *file))
    }
}
