//! The published files: changes are made to them by number.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use apus_engine::FileId;
use apus_engine::shipping::{Attributes, Change, Entry};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};

use super::disk::{self, Handle, Kind};
use super::index::Index;

/// Files that are kept open.
const OPEN: usize = 256;

/// How changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// The files are what the changes before led to.
    Exact,
    /// Later changes may be in the files already, in part: no file is destroyed before the end, as it may be asked for again.
    Loose,
}

/// The folder of a group, and beside it one for what has no place yet or no more.
pub(super) struct Tree {
    pub(super) root: OwnedFd,
    limbo: OwnedFd,
    aside: PathBuf,
    next: u64,
    open: BTreeMap<FileId, OwnedFd>,
    /// What was in the way of changes, for people.
    pub(super) told: Vec<String>,
}

/// What became of a change.
type Done = io::Result<()>;

impl Tree {
    pub(super) fn open(root: &Path, limbo: &Path, aside: &Path) -> io::Result<Self> {
        let folder = |path: &Path| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
        };
        Ok(Self {
            root: folder(root)?,
            limbo: folder(limbo)?,
            aside: aside.to_path_buf(),
            next: 0,
            open: BTreeMap::new(),
            told: Vec::new(),
        })
    }

    fn tell(&mut self, what: String) {
        if self.told.len() < 64 {
            self.told.push(what);
        }
    }

    /// A new name in the limbo.
    fn fresh(&mut self) -> io::Result<Vec<u8>> {
        loop {
            self.next += 1;
            let name = format!("{:x}", self.next).into_bytes();
            if disk::stat(&self.limbo, &name)?.is_none() {
                return Ok(name);
            }
        }
    }

    /// Removes what is in the limbo.
    pub(super) fn purge(&mut self) -> Done {
        for name in disk::names(&self.limbo)? {
            disk::remove(&self.limbo, &name)?;
        }
        Ok(())
    }

    /// Lets go of open files: other descriptors of theirs may be needed.
    pub(super) fn let_go(&mut self) {
        self.open.clear();
    }

    /// The open file; `None` if it is gone. One whose handle is not known is looked for by its names.
    pub(super) fn reach(&mut self, index: &mut Index, file: FileId) -> io::Result<Option<&OwnedFd>> {
        if file == FileId::ROOT {
            return Ok(Some(&self.root));
        }
        if !self.open.contains_key(&file) {
            let Some(opened) = self.find(index, file)? else { return Ok(None) };
            if self.open.len() >= OPEN {
                self.open.pop_first();
            }
            self.open.insert(file, opened);
        }
        Ok(self.open.get(&file))
    }

    /// A directory, by a descriptor of its own.
    fn folder(&mut self, index: &mut Index, dir: FileId) -> io::Result<Option<OwnedFd>> {
        if !index.is_directory(dir) {
            return Ok(None);
        }
        self.reach(index, dir)?.map(|dir| dir.as_fd().try_clone_to_owned()).transpose()
    }

    fn find(&mut self, index: &mut Index, file: FileId) -> io::Result<Option<OwnedFd>> {
        let Some(node) = index.node(file) else { return Ok(None) };
        let kind = node.kind;
        let open = |handle: &Handle, root: &OwnedFd| -> io::Result<Option<OwnedFd>> {
            let Some(opened) = handle.open(root, kind.flags())? else { return Ok(None) };
            let is = Kind::of(rustix::fs::fstat(&opened)?.st_mode);
            Ok(Some(opened).filter(|_| is == Some(kind)))
        };
        if let Some(handle) = &node.handle {
            return open(handle, &self.root);
        }
        for (dir, name) in node.names.clone() {
            let Some(dir) = self.folder(index, dir)? else { continue };
            let Some(handle) = Handle::of(dir, &name)? else { continue };
            // One that is known by another number is not this one.
            if index.by_handle(&handle).is_some() {
                continue;
            }
            if let Some(opened) = open(&handle, &self.root)? {
                index.set_handle(file, Some(handle));
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    /// Whether the name is this file's on the disk.
    fn has(&mut self, index: &mut Index, at: &Entry, file: FileId) -> io::Result<bool> {
        if self.reach(index, file)?.is_none() {
            return Ok(false);
        }
        let handle = index.node(file).and_then(|node| node.handle.clone());
        let Some(dir) = self.folder(index, at.dir)? else { return Ok(false) };
        Ok(handle.is_some() && Handle::of(dir, &at.name)? == handle)
    }

    /// Makes one change. What the disk refuses is an error; what the files do not fit is told, and left out.
    pub(super) fn apply(&mut self, index: &mut Index, change: &Change, care: Care) -> Done {
        if !index.fits(change) {
            // With later changes in the index this can be so of a true one.
            if care == Care::Exact {
                self.tell(format!("a change fits no file of the group and is left out: {}", said(change)));
            }
            return Ok(());
        }
        match change {
            Change::Create { file, at, mode } => self.create(index, *file, at, *mode, care)?,
            Change::Mkdir { file, at, mode } => self.mkdir(index, *file, at, *mode, care)?,
            Change::Symlink { file, at, target } => self.symlink(index, *file, at, target, care)?,
            Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } => {
                if let Some(fd) = self.regular(index, *file)? {
                    too_large(disk::write_at(fd, bytes, *offset))?;
                }
            }
            Change::Truncate { file, length } => {
                if let Some(fd) = self.regular(index, *file)? {
                    too_large(rustix::fs::ftruncate(fd, *length).map_err(Into::into))?;
                }
            }
            Change::Punch { file, offset, length } => {
                if let Some(fd) = self.regular(index, *file)? {
                    too_large(disk::punch(fd, *offset, *length))?;
                }
            }
            Change::Rename { file, from, to } => self.rename(index, *file, from, to, care)?,
            Change::Link { file, at } => {
                if index.node(*file).is_some() {
                    self.put(index, *file, at, care)?;
                }
            }
            Change::Unlink { at } => self.unlink(index, at, care)?,
            Change::Rmdir { at } => self.rmdir(index, at, care)?,
            Change::Attributes { file, attributes } => {
                if let (Some(node), Some(fd)) = (index.node(*file).map(|node| node.kind), self.reach(index, *file)?) {
                    disk::set_attributes(fd, node, attributes)?;
                }
            }
            Change::SetXattr { file, name, value } => self.xattr(index, *file, name, Some(value))?,
            Change::RemoveXattr { file, name } => self.xattr(index, *file, name, None)?,
            Change::Barrier { .. } | Change::Era { .. } => {}
        }
        let handle = match change {
            Change::Create { file, .. } | Change::Mkdir { file, .. } | Change::Symlink { file, .. } => {
                index.node(*file).and_then(|node| node.handle.clone()).map(|handle| (*file, handle))
            }
            _ => None,
        };
        if let Some(gone) = index.change(change) {
            self.open.remove(&gone);
        }
        if let Some((file, handle)) = handle {
            index.set_handle(file, Some(handle));
        }
        Ok(())
    }

    fn regular(&mut self, index: &mut Index, file: FileId) -> io::Result<Option<&OwnedFd>> {
        if index.node(file).is_none_or(|node| node.kind != Kind::Regular) {
            return Ok(None);
        }
        self.reach(index, file)
    }

    fn xattr(&mut self, index: &mut Index, file: FileId, name: &[u8], value: Option<&[u8]>) -> Done {
        let kind = index.node(file).map(|node| node.kind);
        if !disk::is_ours(name) || kind.is_none_or(|kind| kind == Kind::Symlink) {
            return Ok(());
        }
        let Some(fd) = self.reach(index, file)? else { return Ok(()) };
        if !disk::set_xattr(fd, name, value)? {
            self.tell(format!("{file}: the file system takes no {}", String::from_utf8_lossy(name)));
        }
        Ok(())
    }

    /// Moves what is in the limbo to its place. What is there goes, and is kept in the limbo where it may be asked for again.
    fn settle(&mut self, index: &mut Index, limbo: &[u8], at: &Entry, care: Care) -> Done {
        self.clear(index, at, care)?;
        let Some(dir) = self.folder(index, at.dir)? else { return Ok(()) };
        match rustix::fs::renameat(&self.limbo, limbo, &dir, &at.name[..]) {
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::NOTDIR | rustix::io::Errno::NOTEMPTY) => {
                self.stash(&dir, &at.name)?;
                rustix::fs::renameat(&self.limbo, limbo, &dir, &at.name[..])?;
            }
            other => other?,
        }
        Ok(())
    }

    /// While changes are made loosely, whatever a name loses is kept.
    fn clear(&mut self, index: &mut Index, at: &Entry, care: Care) -> Done {
        if care == Care::Exact {
            return Ok(());
        }
        let Some(dir) = self.folder(index, at.dir)? else { return Ok(()) };
        if disk::stat(&dir, &at.name)?.is_some() { self.stash(&dir, &at.name) } else { Ok(()) }
    }

    fn stash(&mut self, dir: &OwnedFd, name: &[u8]) -> Done {
        let to = self.fresh()?;
        Ok(rustix::fs::renameat(dir, name, &self.limbo, &to[..])?)
    }

    /// Whether a new file has a place to be put. While changes are made loosely its directory may have gone with a later one: it is made
    /// in the limbo then, from where a later one may have taken it.
    fn placeable(&mut self, index: &mut Index, at: &Entry, care: Care) -> io::Result<bool> {
        if care == Care::Loose || self.folder(index, at.dir)?.is_some() {
            return Ok(true);
        }
        self.tell(format!("directory {} is gone: {} is not made", at.dir, String::from_utf8_lossy(&at.name)));
        Ok(false)
    }

    fn create(&mut self, index: &mut Index, file: FileId, at: &Entry, mode: u32, care: Care) -> Done {
        let fresh = Attributes { mode, ..Attributes::default() };
        if self.has(index, at, file)? {
            // Made already, and asked for again: it is as new.
            if let Some(fd) = self.reach(index, file)? {
                rustix::fs::ftruncate(fd, 0)?;
                disk::set_attributes(fd, Kind::Regular, &fresh)?;
            }
            return Ok(());
        }
        if !self.placeable(index, at, care)? {
            return Ok(());
        }
        let name = self.fresh()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.limbo, &name[..], flags, Mode::RUSR | Mode::WUSR)?;
        disk::set_attributes(&made, Kind::Regular, &fresh)?;
        let handle = Handle::of_open(&made)?;
        self.settle(index, &name, at, care)?;
        index.insert(file, Kind::Regular, Some(handle));
        self.open.insert(file, made);
        Ok(())
    }

    fn mkdir(&mut self, index: &mut Index, file: FileId, at: &Entry, mode: u32, care: Care) -> Done {
        let fresh = Attributes { mode, ..Attributes::default() };
        if self.has(index, at, file)? {
            if let Some(fd) = self.reach(index, file)? {
                disk::set_attributes(fd, Kind::Directory, &fresh)?;
            }
            return Ok(());
        }
        if !self.placeable(index, at, care)? {
            return Ok(());
        }
        let name = self.fresh()?;
        rustix::fs::mkdirat(&self.limbo, &name[..], Mode::RWXU)?;
        let made = disk::directory(&self.limbo, &name)?;
        disk::set_attributes(&made, Kind::Directory, &fresh)?;
        let handle = Handle::of_open(&made)?;
        self.settle(index, &name, at, care)?;
        index.insert(file, Kind::Directory, Some(handle));
        self.open.remove(&file);
        Ok(())
    }

    fn symlink(&mut self, index: &mut Index, file: FileId, at: &Entry, target: &[u8], care: Care) -> Done {
        if self.has(index, at, file)? || !self.placeable(index, at, care)? {
            return Ok(());
        }
        let name = self.fresh()?;
        rustix::fs::symlinkat(target, &self.limbo, &name[..])?;
        let owner = (Some(Uid::ROOT), Some(Gid::ROOT));
        rustix::fs::chownat(&self.limbo, &name[..], owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        let handle = Handle::of(&self.limbo, &name)?;
        self.settle(index, &name, at, care)?;
        index.insert(file, Kind::Symlink, handle);
        self.open.remove(&file);
        Ok(())
    }

    /// Makes a name be a file's.
    fn put(&mut self, index: &mut Index, file: FileId, at: &Entry, care: Care) -> Done {
        if self.has(index, at, file)? || !self.placeable(index, at, care)? {
            return Ok(());
        }
        let name = self.fresh()?;
        let Some(fd) = self.reach(index, file)? else {
            // Later changes have destroyed it: what it replaces is gone all the same, and nothing else would take that away any more.
            return self.unlink(index, at, care);
        };
        let fd = fd.as_fd().try_clone_to_owned()?;
        if index.is_directory(file) {
            return self.move_directory(index, &fd, at, care);
        }
        match rustix::fs::linkat(&fd, c"", &self.limbo, &name[..], AtFlags::EMPTY_PATH) {
            // It has no name any more, and is gone with us.
            Err(rustix::io::Errno::NOENT) => return self.unlink(index, at, care),
            other => other?,
        }
        self.settle(index, &name, at, care)
    }

    fn move_directory(&mut self, index: &mut Index, fd: &OwnedFd, at: &Entry, care: Care) -> Done {
        let is = rustix::fs::fstat(fd)?;
        let parent = disk::directory_above(fd)?;
        for name in disk::names(&parent)? {
            let found = disk::stat(&parent, &name)?;
            if !found.is_some_and(|found| (found.st_dev, found.st_ino) == (is.st_dev, is.st_ino)) {
                continue;
            }
            let to = self.fresh()?;
            self.clear(index, at, care)?;
            let Some(dir) = self.folder(index, at.dir)? else { return Ok(()) };
            // By the limbo: it may have been in the way of itself.
            if rustix::fs::renameat(&parent, &name[..], &self.limbo, &to[..]).is_ok() {
                match rustix::fs::renameat(&self.limbo, &to[..], &dir, &at.name[..]) {
                    // Into itself: a later change has moved the other one, too, and will say where both are.
                    Err(rustix::io::Errno::INVAL) => {
                        rustix::fs::renameat(&self.limbo, &to[..], &parent, &name[..])?;
                    }
                    Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::NOTEMPTY) => {
                        self.stash(&dir, &at.name)?;
                        rustix::fs::renameat(&self.limbo, &to[..], &dir, &at.name[..])?;
                    }
                    other => other?,
                }
            }
            return Ok(());
        }
        Ok(())
    }

    fn rename(&mut self, index: &mut Index, file: FileId, from: &Entry, to: &Entry, care: Care) -> Done {
        if index.node(file).is_none() {
            // Nobody knows it here: what it replaces is gone all the same.
            return self.unlink(index, to, care);
        }
        if from == to {
            return self.put(index, file, to, care);
        }
        let (at_from, at_to) = (self.has(index, from, file)?, self.has(index, to, file)?);
        if at_to {
            if at_from {
                // Two names of one file: a rename by the system would do nothing.
                if let Some(dir) = self.folder(index, from.dir)? {
                    rustix::fs::unlinkat(dir, &from.name[..], AtFlags::empty())?;
                }
            }
            return Ok(());
        }
        if !at_from || care == Care::Loose {
            self.put(index, file, to, care)?;
            if self.has(index, from, file)?
                && let Some(dir) = self.folder(index, from.dir)?
            {
                if self.has(index, to, file)? {
                    rustix::fs::unlinkat(&dir, &from.name[..], AtFlags::empty())?;
                } else {
                    // Its new directory has gone with a later change, or is in it: the old name goes all the same, and the file stays.
                    self.stash(&dir, &from.name)?;
                }
            }
            return Ok(());
        }
        if !self.placeable(index, to, care)? {
            return Ok(());
        }
        let Some(old) = self.folder(index, from.dir)? else { return Ok(()) };
        let Some(new) = self.folder(index, to.dir)? else { return Ok(()) };
        match rustix::fs::renameat(&old, &from.name[..], &new, &to.name[..]) {
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::NOTDIR | rustix::io::Errno::NOTEMPTY) => {
                self.put_aside(&new, &to.name)?;
                rustix::fs::renameat(&old, &from.name[..], &new, &to.name[..])?;
            }
            other => other?,
        }
        Ok(())
    }

    fn unlink(&mut self, index: &mut Index, at: &Entry, care: Care) -> Done {
        self.clear(index, at, care)?;
        let Some(dir) = self.folder(index, at.dir)? else { return Ok(()) };
        match rustix::fs::unlinkat(&dir, &at.name[..], AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR) => self.put_aside(&dir, &at.name),
            Err(error) => Err(error.into()),
        }
    }

    fn rmdir(&mut self, index: &mut Index, at: &Entry, care: Care) -> Done {
        let known = index.at(at.dir, &at.name);
        let is = known.map(|file| self.has(index, at, file)).transpose()?;
        if is != Some(true) {
            // A later change has put another one there, which it will put there again.
            self.clear(index, at, care)?;
        }
        let Some(dir) = self.folder(index, at.dir)? else { return Ok(()) };
        match rustix::fs::unlinkat(&dir, &at.name[..], AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::NOTDIR) => self.put_aside(&dir, &at.name),
            Err(error) => Err(error.into()),
        }
    }

    /// What is not the group's and is in the way is kept for people.
    pub(super) fn put_aside(&mut self, dir: &OwnedFd, name: &[u8]) -> Done {
        std::fs::create_dir_all(&self.aside)?;
        for number in 1.. {
            let to = [format!("{number}-").as_bytes(), &name[..name.len().min(200)]].concat();
            let to = self.aside.join(std::ffi::OsStr::new(&*String::from_utf8_lossy(&to)));
            match rustix::fs::renameat_with(dir, name, rustix::fs::CWD, &to, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) => {}
                Err(rustix::io::Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    let name = String::from_utf8_lossy(name);
                    self.tell(format!("{name} was in the way and not the group's: it is {} now", to.display()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether every name is its file's, once loosely made changes have come to their end; what is not is put right if it can be. What
    /// cannot, by path.
    pub(super) fn sweep(&mut self, index: &mut Index) -> io::Result<Vec<Vec<u8>>> {
        let mut lost = Vec::new();
        let names: Vec<(Entry, FileId)> = index
            .names_from(FileId::ROOT, b"")
            .map(|((dir, name), file)| (Entry { dir: *dir, name: name.clone() }, file))
            .collect();
        for (at, file) in names {
            if !self.has(index, &at, file)? {
                // What is at the name of a lost one is not ours to take away.
                if self.reach(index, file)?.is_some() {
                    self.put(index, file, &at, Care::Loose)?;
                }
                if !self.has(index, &at, file)? {
                    lost.push(index.path(file).unwrap_or(at.name));
                }
            }
        }
        Ok(lost)
    }
}

/// A file that no file system holds: whoever sent that lies, or has another one; the change is left out.
fn too_large(done: Done) -> Done {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

/// A change without its bytes.
pub(super) fn said(change: &Change) -> String {
    match change {
        Change::Write { file, offset, bytes } => format!("write of {} bytes at {offset} of {file}", bytes.len()),
        Change::Append { file, offset, bytes } => format!("append of {} bytes at {offset} of {file}", bytes.len()),
        Change::SetXattr { file, name, value } => {
            format!("attribute {} of {} bytes for {file}", String::from_utf8_lossy(name), value.len())
        }
        Change::Create { file, at, .. } => format!("create {file} as {}", named(at)),
        Change::Mkdir { file, at, .. } => format!("directory {file} as {}", named(at)),
        Change::Symlink { file, at, target } => {
            format!("link {file} as {} to {}", named(at), String::from_utf8_lossy(target).escape_debug())
        }
        Change::Link { file, at } => format!("name {} for {file}", named(at)),
        Change::Rename { file, from, to } => format!("rename {file} from {} to {}", named(from), named(to)),
        Change::Unlink { at } => format!("unlink {}", named(at)),
        Change::Rmdir { at } => format!("rmdir {}", named(at)),
        other => format!("{other:?}"),
    }
}

fn named(at: &Entry) -> String {
    format!("{}/{}", at.dir, String::from_utf8_lossy(&at.name).escape_debug())
}
