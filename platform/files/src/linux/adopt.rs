//! The index made to say what is in the folder: where nobody knows what happened to it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use apus_engine::FileId;
use apus_engine::shipping::Entry;

use super::disk::{self, Handle, Kind};
use super::index::Index;
use super::settings::Globs;
use super::tree::Tree;

/// The files that are there and belong to the group. Who is known keeps its number; others get one above `prefix`, or, without one, are
/// left out. The bool: whether names, or who has them, are others than the index says.
pub(super) fn adopt(tree: &mut Tree, index: &Index, globs: &Globs, prefix: Option<u64>) -> io::Result<(Index, bool)> {
    tree.let_go();
    let mut walk =
        Walk { index, globs, prefix, made: Index::after(index), device: rustix::fs::fstat(&tree.root)?.st_dev };
    let root = tree.root.as_fd().try_clone_to_owned()?;
    walk.folder(&disk::directory(&root, b".")?, FileId::ROOT, &mut Vec::new())?;
    let same = index.names_from(FileId::ROOT, b"").eq(walk.made.names_from(FileId::ROOT, b""));
    Ok((walk.made, !same))
}

struct Walk<'a> {
    index: &'a Index,
    globs: &'a Globs,
    prefix: Option<u64>,
    made: Index,
    device: u64,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &OwnedFd, dir: FileId, path: &mut Vec<u8>) -> io::Result<()> {
        for name in disk::names(folder)? {
            let Some(stat) = disk::stat(folder, &name)? else { continue };
            let Some(kind) = Kind::of(stat.st_mode).filter(|_| stat.st_dev == self.device) else { continue };
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if kind == Kind::Directory || self.globs.holds(path) {
                let at = Entry { dir, name };
                if let Some(file) = self.file(folder, &at, kind, stat.st_size.max(0).cast_unsigned())?
                    && kind == Kind::Directory
                {
                    self.folder(&disk::directory(folder, &at.name)?, file, path)?;
                }
            }
            path.truncate(before);
        }
        Ok(())
    }

    fn file(&mut self, folder: &OwnedFd, at: &Entry, kind: Kind, size: u64) -> io::Result<Option<FileId>> {
        let Some(handle) = Handle::of(folder, &at.name)? else { return Ok(None) };
        let same = |file: &FileId| self.index.node(*file).is_some_and(|node| node.kind == kind);
        let by_name = || {
            let file = self.index.at(at.dir, &at.name).filter(same)?;
            // A handle that is known and another one says that it is another file.
            self.index.node(file).is_some_and(|node| node.handle.is_none()).then_some(file)
        };
        let known =
            self.made.by_handle(&handle).or_else(|| self.index.by_handle(&handle).filter(same)).or_else(by_name);
        let file = match (known, self.prefix) {
            (Some(file), _) => file,
            (None, Some(prefix)) => self.made.adopt(prefix),
            (None, None) => return Ok(None),
        };
        if self.made.node(file).is_none() {
            self.made.insert(file, kind, Some(handle));
            self.made.set_size(file, if kind == Kind::Regular { size } else { 0 });
        }
        self.made.name(at, file);
        Ok(Some(file))
    }
}
