//! The simplest consumer: does the operations over again in another directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use super::operation::{Change, Consumer, FileId, Kind, Listed, Operation};
use super::sys;

/// Files that are kept open, at most. With those of a drainer in the same process, a quarter of what it may open is left for all else.
const OPEN: u64 = 512;
/// The attribute of each copy that tells which file it is, so that a new process knows.
const NUMBER: &std::ffi::CStr = c"user.apus.file";

/// A copy of the group's tree. An operation that comes again after a crash is done again without harm.
pub struct Replay {
    tree: PathBuf,
    top: File,
    names: BTreeMap<u64, BTreeSet<PathBuf>>,
    open: BTreeMap<u64, File>,
    /// The last operation after which the copy was a tree that a program could see, and whether it is one now.
    shown: (u64, bool),
}

impl Replay {
    /// Into `tree`, which is made if it is not there, and which nobody else may write to.
    ///
    /// # Errors
    /// The directory cannot be made or read, or has no extended attributes.
    pub fn new(tree: impl Into<PathBuf>) -> io::Result<Self> {
        let tree = tree.into();
        fs::create_dir_all(&tree)?;
        let top = File::open(&tree)?;
        let mut replay = Self { tree, top, names: BTreeMap::new(), open: BTreeMap::new(), shown: (0, false) };
        let tree = replay.tree.clone();
        replay.find(&tree)?;
        Ok(replay)
    }

    /// The last operation after which the copy was a tree that a program could see, and whether it is one now.
    pub fn shown(&self) -> (u64, bool) {
        self.shown
    }

    fn find(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.find(&entry.path())?;
            } else if entry.file_type()?.is_file()
                && let Some(number) = number(&entry.path())
            {
                self.names.entry(number).or_default().insert(entry.path());
            }
        }
        Ok(())
    }

    /// The place of a path that must not lead out of the tree.
    fn at(&self, path: &[u8]) -> io::Result<PathBuf> {
        let below = Path::new(OsStr::from_bytes(path));
        if path.is_empty() || !below.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} does not lie below a root", below.display()),
            ));
        }
        // Nobody else writes here: what is no link now is none when the name is used.
        let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            let parent = sys::beneath(self.top.as_raw_fd(), c_path(parent)?.as_ptr())?;
            sys::close(parent);
        }
        Ok(self.tree.join(below))
    }

    fn is(&mut self, file: FileId, path: PathBuf) -> io::Result<()> {
        let name = c_path(&path)?;
        let text = file.0.to_string();
        // SAFETY: names end with a zero, the value is as long as is said.
        if unsafe { libc::setxattr(name.as_ptr(), NUMBER.as_ptr(), text.as_ptr().cast(), text.len(), 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.forget(&path);
        self.names.entry(file.0).or_default().insert(path);
        Ok(())
    }

    fn forget(&mut self, path: &Path) {
        self.names.retain(|_, names| {
            names.remove(path);
            !names.is_empty()
        });
    }

    fn file(&mut self, file: FileId) -> io::Result<Option<&File>> {
        if !self.open.contains_key(&file.0) {
            let Some(path) = self.names.get(&file.0).and_then(BTreeSet::first) else { return Ok(None) };
            let opened = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            if self.open.len() as u64 >= OPEN.min(sys::open_limit() / 4).max(1) {
                self.open.pop_first();
            }
            self.open.insert(file.0, opened);
        }
        Ok(self.open.get(&file.0))
    }

    fn create(&mut self, file: FileId, path: &[u8], mode: u32) -> io::Result<()> {
        let at = self.at(path)?;
        if number(&at) == Some(file.0) {
            return Ok(());
        }
        gone(remove(&at))?;
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
        self.is(file, at)
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from, to) = (self.at(from)?, self.at(to)?);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.symlink_metadata().is_ok() => return Ok(()),
            other => other?,
        }
        self.forget(&to);
        for names in self.names.values_mut() {
            *names = names
                .iter()
                .map(|name| {
                    name.strip_prefix(&from).map_or_else(
                        |_| name.clone(),
                        |rest| if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) },
                    )
                })
                .collect();
        }
        Ok(())
    }

    fn exchange(&mut self, file: FileId, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from, to) = (self.at(from)?, self.at(to)?);
        if number(&to) == Some(file.0) {
            return Ok(());
        }
        let (a, b) = (c_path(&from)?, c_path(&to)?);
        // SAFETY: both names end with a zero.
        if unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
        for path in [from, to] {
            self.forget(&path);
            if let Some(number) = number(&path) {
                self.names.entry(number).or_default().insert(path);
            }
        }
        Ok(())
    }

    /// Names as they are listed: those that are missing are made, all others go.
    fn list(&mut self, entries: &[Listed]) -> io::Result<()> {
        let mut kept = BTreeSet::new();
        let held = self.hold(entries)?;
        for entry in entries {
            let at = self.at(&entry.path)?;
            kept.insert(at.clone());
            let there = at.symlink_metadata().ok();
            match &entry.kind {
                Kind::Directory => {
                    if !there.is_some_and(|there| there.is_dir()) {
                        gone(remove(&at))?;
                        fs::create_dir(&at)?;
                    }
                }
                Kind::File => {
                    let known = held.get(&entry.file.0);
                    let own = number(&at);
                    if own != Some(entry.file.0) {
                        let others = own.is_some_and(|own| held.contains_key(&own));
                        if there.as_ref().is_some_and(fs::Metadata::is_file) && known.is_none() && !others {
                            // Known by a number that was forgotten: the content is right or will be sent.
                        } else {
                            gone(remove(&at))?;
                            match known {
                                Some(held) => fs::hard_link(held, &at)?,
                                None => drop(File::create(&at)?),
                            }
                        }
                        self.is(entry.file, at.clone())?;
                    }
                }
                Kind::Symlink(target) => {
                    gone(remove(&at))?;
                    std::os::unix::fs::symlink(OsStr::from_bytes(target), &at)?;
                    continue;
                }
            }
            fs::set_permissions(&at, fs::Permissions::from_mode(entry.mode))?;
            std::os::unix::fs::lchown(&at, Some(entry.owner.0), Some(entry.owner.1))?;
        }
        let tree = self.tree.clone();
        self.prune(&tree, &kept)?;
        self.open.clear();
        self.names.clear();
        self.find(&tree)
    }

    /// A name for each file of the list that the copy has and that is not where the list says, which no other entry takes from it. Where
    /// such names are, nothing is listed: all of them go in the end.
    fn hold(&mut self, entries: &[Listed]) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut held = BTreeMap::new();
        let place = (0u32..)
            .map(|try_| self.tree.join(format!(".apus-held-{try_}")))
            .find(|place| entries.iter().all(|entry| !place.ends_with(OsStr::from_bytes(&entry.path))))
            .unwrap_or_else(|| self.tree.join(".apus-held"));
        gone(remove(&place))?;
        for entry in entries.iter().filter(|entry| entry.kind == Kind::File) {
            let Some(known) = self.names.get(&entry.file.0).and_then(|names| names.iter().find(|name| name.exists()))
            else {
                continue;
            };
            if held.contains_key(&entry.file.0) {
                continue;
            }
            fs::create_dir_all(&place)?;
            let name = place.join(entry.file.0.to_string());
            fs::hard_link(known, &name)?;
            held.insert(entry.file.0, name);
        }
        Ok(held)
    }

    fn prune(&mut self, dir: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if !kept.contains(&path) {
                remove(&path)?;
            } else if path.symlink_metadata()?.is_dir() {
                self.prune(&path, kept)?;
            }
        }
        Ok(())
    }

    fn attribute(&self, path: &[u8], name: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let (at, name) = (c_path(&self.at(path)?)?, CString::new(name)?);
        let done = match value {
            // SAFETY: names end with a zero, the value is as long as is said.
            Some(value) => unsafe {
                libc::lsetxattr(at.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
            },
            // SAFETY: as above.
            None => unsafe { libc::lremovexattr(at.as_ptr(), name.as_ptr()) },
        };
        let error = io::Error::last_os_error();
        if done != 0 && error.raw_os_error() != Some(libc::ENODATA) {
            return Err(error);
        }
        Ok(())
    }
}

impl Consumer for Replay {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let file = operation.file;
        match operation.change {
            Change::Bind { path } => {
                let at = self.at(path)?;
                // What is not there comes by what follows.
                if at.symlink_metadata().is_ok_and(|there| there.is_file()) {
                    let old = number(&at);
                    self.is(file, at.clone())?;
                    let others = old.and_then(|old| self.names.remove(&old)).unwrap_or_default();
                    self.names.entry(file.0).or_default().extend(others);
                }
            }
            Change::Create { path, mode } => self.create(file, path, mode)?,
            Change::Write { offset, bytes } => {
                if let Some(file) = self.file(file)? {
                    file.write_all_at(bytes, offset)?;
                }
            }
            Change::Truncate { len } => {
                if let Some(file) = self.file(file)? {
                    file.set_len(len)?;
                }
            }
            Change::Extend { len } => {
                if let Some(file) = self.file(file)?
                    && file.metadata()?.len() < len
                {
                    file.set_len(len)?;
                }
            }
            Change::Zero { offset, len } => {
                if let Some(file) = self.file(file)? {
                    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    // SAFETY: no memory is passed.
                    if unsafe { libc::fallocate(file.as_raw_fd(), how, offset.cast_signed(), len.cast_signed()) } != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
            }
            Change::Rename { from, to } => {
                let (from_at, to_at) = (self.at(from)?, self.at(to)?);
                // Done before, and the drainer was killed before it knew.
                let again = file.0 != 0 && number(&to_at) == Some(file.0) && number(&from_at) != Some(file.0);
                if !again {
                    self.rename(from, to)?;
                }
            }
            Change::Exchange { from, to } => self.exchange(file, from, to)?,
            Change::Link { path } => {
                let at = self.at(path)?;
                let known = self.names.get(&file.0).and_then(BTreeSet::first).cloned();
                if let Some(known) = known
                    && number(&at) != Some(file.0)
                {
                    gone(remove(&at))?;
                    fs::hard_link(known, &at)?;
                    self.forget(&at);
                    self.names.entry(file.0).or_default().insert(at);
                }
            }
            Change::Symlink { path, target } => {
                let at = self.at(path)?;
                gone(remove(&at))?;
                self.forget(&at);
                std::os::unix::fs::symlink(OsStr::from_bytes(target), &at)?;
            }
            Change::Unlink { path } => {
                let at = self.at(path)?;
                gone(fs::remove_file(&at))?;
                self.forget(&at);
                if !self.names.contains_key(&file.0) {
                    self.open.remove(&file.0);
                }
            }
            Change::Mkdir { path, mode } => {
                let at = self.at(path)?;
                match fs::create_dir(&at) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other?,
                }
                fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
            }
            Change::Rmdir { path } => gone(fs::remove_dir(self.at(path)?))?,
            Change::Mode { path, mode } => gone(fs::set_permissions(self.at(path)?, fs::Permissions::from_mode(mode)))?,
            Change::Owner { path, user, group } => {
                gone(std::os::unix::fs::lchown(self.at(path)?, Some(user), Some(group)))?;
            }
            Change::Times { path, accessed, modified } => {
                let at = c_path(&self.at(path)?)?;
                let time = |nanos: i64| libc::timespec {
                    tv_sec: nanos.div_euclid(1_000_000_000),
                    tv_nsec: nanos.rem_euclid(1_000_000_000),
                };
                let times = [time(accessed), time(modified)];
                // SAFETY: the name ends with a zero, both times are there.
                if unsafe { libc::utimensat(libc::AT_FDCWD, at.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) }
                    != 0
                {
                    gone(Err(io::Error::last_os_error()))?;
                }
            }
            Change::SetAttribute { path, name, value } => self.attribute(path, name, Some(value))?,
            Change::RemoveAttribute { path, name } => self.attribute(path, name, None)?,
            Change::Sync => {
                if let Some(file) = self.file(file)? {
                    file.sync_data()?;
                }
            }
            Change::Listing { entries } => self.list(entries)?,
            Change::Resynced => {}
        }
        self.shown = if operation.publish { (operation.seq, true) } else { (self.shown.0, false) };
        Ok(())
    }

    fn wants(&mut self, listed: &Listed) -> bool {
        // Listed before: it was made then if it was not there.
        self.at(&listed.path)
            .ok()
            .and_then(|at| at.symlink_metadata().ok())
            .is_none_or(|there| there.len() != listed.size)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn number(path: &Path) -> Option<u64> {
    let name = c_path(path).ok()?;
    let mut text = [0u8; 24];
    // SAFETY: names end with a zero, the room is as large as is said.
    let got = unsafe { libc::lgetxattr(name.as_ptr(), NUMBER.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    let got = usize::try_from(got).ok()?;
    std::str::from_utf8(&text[..got]).ok()?.parse().ok()
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// What is not there need not be removed.
fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files that changed places while the order was lost are each where the list says, whatever comes first in it.
    #[test]
    fn a_list_keeps_files_apart() {
        let dir = std::env::temp_dir().join(format!("apus-list-{}", std::process::id()));
        let mut replay = Replay::new(dir.join("copy")).expect("a copy");
        let mut take = |file, change| replay.take(&Operation { seq: 1, file: FileId(file), publish: true, change });
        for (number, path) in [(7u64, b"a"), (8, b"b"), (9, b"c")] {
            take(number, Change::Create { path, mode: 0o644 }).expect("a file");
            let bytes: &[u8] = [b"7", b"8", b"9"][number as usize - 7];
            take(number, Change::Write { offset: 0, bytes }).expect("written");
        }
        // The first two by turns, the third under another name, and a new one where it was.
        let listed = |path: &[u8], number: u64| Listed {
            path: path.to_vec(),
            file: FileId(number),
            kind: Kind::File,
            mode: 0o644,
            owner: (0, 0),
            size: 1,
        };
        let entries = [listed(b"a", 8), listed(b"b", 7), listed(b"c", 10), listed(b"d", 9)];
        take(0, Change::Listing { entries: &entries }).expect("listed");
        let content = |name: &str| fs::read(dir.join("copy").join(name)).expect("it is there");
        assert_eq!(["a", "b", "d"].map(content), [b"8", b"7", b"9"]);
        assert_eq!(content("c"), b"", "new, and its content is sent");
        assert!(replay.wants(&entries[2]));
        assert_eq!(fs::read_dir(dir.join("copy")).expect("a folder").count(), 4);
        fs::remove_dir_all(dir).expect("ours");
    }

    /// A link in the copy is a name like another, and no way out of it.
    #[test]
    fn no_link_leads_out_of_the_copy() {
        let dir = std::env::temp_dir().join(format!("apus-replay-{}", std::process::id()));
        fs::create_dir_all(dir.join("outside")).expect("a folder");
        let mut replay = Replay::new(dir.join("copy")).expect("a copy");
        let mut take = |change| replay.take(&Operation { seq: 1, file: FileId(7), publish: true, change });
        take(Change::Mkdir { path: b"folder", mode: 0o755 }).expect("below");
        take(Change::Create { path: b"folder/in", mode: 0o644 }).expect("below");
        take(Change::Symlink { path: b"way", target: b"../outside" }).expect("a name");
        let refused = take(Change::Create { path: b"way/out", mode: 0o644 }).expect_err("it leads out");
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
        assert!(take(Change::Create { path: b"../outside/out", mode: 0o644 }).is_err());
        assert!(fs::read_dir(dir.join("outside")).expect("a folder").next().is_none());
        fs::remove_dir_all(dir).expect("ours");
    }
}
