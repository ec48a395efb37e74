//! What a start does with what a crash has left.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use apus_engine::shipping::{Base, Entry, Record};
use apus_engine::{FileId, Lsn};
use rustix::fs::{OFlags, RenameFlags};

use super::disk::{self, Handle, Kind};
use super::index::Index;
use super::log::Log;
use super::marks::{self, Body, Marks, Seat};
use super::sealed;
use super::settings::{Settings, StoreError};
use super::shadow::clear;
use super::store::{INDEX, Store, index_path, log_path};
use super::tree::Tree;

/// Opens a copy, or makes a blank one.
pub(super) fn open(settings: Settings) -> Result<Store, StoreError> {
    let state = &settings.state;
    std::fs::create_dir_all(state).map_err(StoreError::io(state))?;
    fits(&settings)?;
    let lock = File::create(state.join("lock")).map_err(StoreError::io(state))?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(StoreError::Busy(state.clone()));
    }
    for folder in ["limbo", "orphans", "damaged"] {
        std::fs::create_dir_all(state.join(folder)).map_err(StoreError::io(state))?;
    }
    let mut alarms = VecDeque::new();
    let mut marks = open_marks(&settings, &mut alarms)?;
    end_switch(&settings, &mut marks, &mut alarms).map_err(StoreError::io(state))?;
    tidy(&settings, &marks.body).map_err(StoreError::io(state))?;
    let log = open_log(&settings, &mut marks, &mut alarms).map_err(StoreError::io(state))?;
    let mut index = open_index(&settings, &mut marks, &mut alarms).map_err(StoreError::io(state))?;
    let mut tree = tree(&settings).map_err(StoreError::io(&settings.root))?;
    if marks.body.open.is_some() && marks.body.boot != marks::boot() && !marks.body.torn {
        // What programs wrote and nobody had logged may be in the files.
        marks.change(|body| body.torn = true).map_err(StoreError::io(state))?;
        alarms.push_back("the machine failed while a program had the files open".to_owned());
    }
    let body = &marks.body;
    if body.checkpoint < log.history().base && !body.blank && !body.torn {
        alarms.push_back(format!(
            "the log begins after {}, and files are known up to {}",
            log.history().base,
            body.checkpoint
        ));
        marks.change(|body| body.torn = true).map_err(StoreError::io(state))?;
    }
    let body = &marks.body;
    let end = log.history().end;
    let follows = body.open.is_none() && !body.torn && !body.blank;
    let loose = (follows && body.checkpoint < end).then_some(end);
    if loose.is_none() {
        replay(&log, &mut index, body.checkpoint).map_err(StoreError::io(state))?;
        tree.purge().map_err(StoreError::io(state))?;
    }
    Ok(Store::new(settings, lock, (marks, log, tree), index, loose, alarms))
}

/// Whether the folders can be used for what they are named for.
fn fits(settings: &Settings) -> Result<(), StoreError> {
    let Settings { root, state, .. } = settings;
    let unfit = |path: &Path, why: &str| Err(StoreError::Unfit(path.to_path_buf(), why.to_owned()));
    let (of_root, of_state) = (
        std::fs::metadata(root).map_err(StoreError::io(root))?,
        std::fs::metadata(state).map_err(StoreError::io(state))?,
    );
    if !of_root.is_dir() {
        return unfit(root, "it is no folder; name the folder that holds the group's files");
    }
    if std::fs::symlink_metadata(root).is_ok_and(|is| is.file_type().is_symlink()) {
        return unfit(root, "it is a symbolic link; name the folder itself");
    }
    let (full_root, full_state) = (
        std::fs::canonicalize(root).map_err(StoreError::io(root))?,
        std::fs::canonicalize(state).map_err(StoreError::io(state))?,
    );
    if full_root.starts_with(&full_state) || full_state.starts_with(&full_root) {
        return unfit(state, "it and the group's files lie in each other; name a folder beside them");
    }
    if of_root.dev() != of_state.dev() {
        return unfit(state, "it is not on the file system of the group's files; name a folder that is, beside them");
    }
    let above = full_root.parent().unwrap_or(Path::new("/"));
    let of_above = std::fs::metadata(above).map_err(StoreError::io(above))?;
    if of_above.dev() != of_root.dev() {
        return unfit(root, "it is the top of a file system, and cannot be replaced at once; name a folder in it");
    }
    let handle = File::open(root).and_then(|folder| Ok((Handle::of_open(&folder)?, folder)));
    let opened = handle.and_then(|(handle, folder)| handle.open(folder, OFlags::DIRECTORY));
    match opened {
        Ok(Some(_)) => Ok(()),
        Ok(None) => unfit(root, "its file system gives no lasting handles; put the group on ext4, xfs, btrfs or tmpfs"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unfit(
            root,
            "files are opened by handle here, for which CAP_DAC_READ_SEARCH is needed: run the daemon with it",
        ),
        Err(error) => unfit(
            root,
            &format!("its file system has no file handles ({error}); put the group on ext4, xfs, btrfs or tmpfs"),
        ),
    }
}

fn open_marks(settings: &Settings, alarms: &mut VecDeque<String>) -> Result<Marks, StoreError> {
    let path = settings.state.join("marks");
    let failed = || StoreError::io(&path);
    let blank = || Body::blank(settings.group);
    match Marks::open(&path).map_err(failed())? {
        marks::Found::Marks(marks) if marks.body.group != settings.group => {
            let why = format!("the copy is of {}, not of {}: name another folder", marks.body.group, settings.group);
            Err(StoreError::Foreign(settings.state.clone(), why))
        }
        marks::Found::Marks(marks) => Ok(marks),
        marks::Found::None => Marks::create(&path, blank()).map_err(failed()),
        marks::Found::Damaged => {
            let aside = aside(&settings.state, "marks").map_err(failed())?;
            std::fs::rename(&path, &aside).map_err(failed())?;
            alarms.push_back(format!(
                "{}: both halves are damaged at bytes 0 and 4096; it is {} now, and the copy counts as blank",
                path.display(),
                aside.display()
            ));
            // The log and index that are there are nobody's without it.
            for number in 1..1024 {
                let log = log_path(&settings.state, number);
                if log.exists() {
                    let aside = self::aside(&settings.state, &format!("log-{number}")).map_err(failed())?;
                    std::fs::rename(&log, aside).map_err(failed())?;
                }
            }
            Marks::create(&path, blank()).map_err(failed())
        }
    }
}

/// A new name among what is kept because it is damaged.
fn aside(state: &Path, name: &str) -> io::Result<std::path::PathBuf> {
    let folder = state.join("damaged");
    std::fs::create_dir_all(&folder)?;
    let free = (1..).map(|number| folder.join(format!("{name}.{number}"))).find(|path| !path.exists());
    free.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
}

pub(super) fn open_log(settings: &Settings, marks: &mut Marks, alarms: &mut VecDeque<String>) -> io::Result<Log> {
    let folder = log_path(&settings.state, marks.body.log);
    let size = Log::segment_size(settings.log_bytes);
    let create = |seat| Log::create(&folder, settings.group, size, Base::default(), seat);
    if !folder.exists() {
        if !marks.body.blank {
            alarms.push_back(format!("{} is gone; the copy counts as blank", folder.display()));
            blank(marks)?;
        }
        return create(marks.body.seat);
    }
    match Log::open(&folder, settings.group, size)? {
        Ok(log) => Ok(log),
        // A blank copy that was ended before its log was made.
        Err(damage) if marks.body.blank && std::fs::read_dir(&folder)?.next().is_none() => {
            drop(damage);
            create(marks.body.seat)
        }
        Err(damage) => {
            let aside = aside(&settings.state, "log")?;
            std::fs::rename(&folder, &aside)?;
            alarms.push_back(format!("{damage}; the log is {} now, and the copy counts as blank", aside.display()));
            blank(marks)?;
            create(marks.body.seat)
        }
    }
}

/// What was there is lost, and what it promised is not.
fn blank(marks: &mut Marks) -> io::Result<()> {
    marks.change(|body| {
        (body.blank, body.torn, body.open, body.checkpoint) = (true, false, None, Lsn(0));
    })
}

pub(super) fn open_index(settings: &Settings, marks: &mut Marks, alarms: &mut VecDeque<String>) -> io::Result<Index> {
    if marks.body.index == 0 {
        return Ok(Index::default());
    }
    let path = index_path(&settings.state, marks.body.index);
    let bytes = sealed::read(&path)?;
    let index = bytes.as_deref().and_then(|bytes| Index::decode(sealed::unseal_bytes(INDEX, bytes)?));
    if let Some(index) = index {
        return Ok(index);
    }
    let what = if bytes.is_some() { "is damaged" } else { "is gone" };
    alarms.push_back(format!(
        "{} {what}: which file is which is not known, and other copies' files are taken",
        path.display()
    ));
    if bytes.is_some() {
        std::fs::rename(&path, aside(&settings.state, "index")?)?;
    }
    // The log is whole, and counts; the files do not.
    marks.change(|body| {
        body.torn |= !body.blank;
        body.index = 0;
    })?;
    Ok(Index::default())
}

/// What the log's records after `from` do to the index.
fn replay(log: &Log, index: &mut Index, from: Lsn) -> io::Result<()> {
    let mut at = from.max(log.history().base).next();
    while at <= log.history().end {
        let bytes = log.read(at, disk::CHUNK)?;
        let mut rest = &bytes[..];
        while let Ok((record, head)) = Record::read(rest) {
            rest = rest.get(head.size()..).unwrap_or_default();
            if index.fits(&record.change) {
                index.change(&record.change);
            }
            at = record.lsn.next();
        }
        if bytes.is_empty() {
            break;
        }
    }
    Ok(())
}

/// The published folder.
pub(super) fn tree(settings: &Settings) -> io::Result<Tree> {
    let state = &settings.state;
    Tree::open(&settings.root, &state.join("limbo"), &state.join("orphans").join("aside"))
}

fn shadow_root(settings: &Settings) -> std::path::PathBuf {
    settings.state.join("shadow").join("new")
}

/// Where the published folder lies, and its name there, so that it can be replaced also where its path leads through links.
fn published(settings: &Settings) -> io::Result<std::path::PathBuf> {
    std::fs::canonicalize(&settings.root)
}

/// Has the second folder take the published one's place, unless it has it already. `false`: somebody has taken the second one away, and the
/// published one is what it was. After an error it is not known which of both is published: the switch stays marked, and this is tried again.
pub(super) fn exchange(settings: &Settings, marks: &Marks, alarms: &mut VecDeque<String>) -> io::Result<bool> {
    let Some(switch) = &marks.body.switch else { return Ok(true) };
    let (root, new) = (published(settings)?, shadow_root(settings));
    if Handle::of_open(File::open(&root)?)? != switch.root {
        let there = match File::open(&new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(Handle::of_open(other?)?),
        };
        if there.as_ref() != Some(&switch.root) {
            alarms.push_back(format!("{}: the folder that was to be published is gone", new.display()));
            return Ok(false);
        }
        rustix::fs::renameat_with(rustix::fs::CWD, &root, rustix::fs::CWD, &new, RenameFlags::EXCHANGE)?;
    }
    // Also after a restart: the rename may have been as far as here.
    sealed::sync_folder(root.parent().unwrap_or(Path::new("/")))?;
    sealed::sync_folder(new.parent().unwrap_or(Path::new("/")))?;
    Ok(true)
}

/// Ends a switch that a crash has interrupted: it was decided.
pub(super) fn end_switch(settings: &Settings, marks: &mut Marks, alarms: &mut VecDeque<String>) -> io::Result<()> {
    let Some(switch) = marks.body.switch.clone() else { return Ok(()) };
    if !exchange(settings, marks, alarms)? {
        return marks.change(|body| {
            body.switch = None;
            body.torn |= !body.blank;
        });
    }
    let read = |serial| -> io::Result<Option<Index>> {
        let bytes = sealed::read(&index_path(&settings.state, serial))?;
        Ok(bytes.and_then(|bytes| Index::decode(sealed::unseal_bytes(INDEX, &bytes)?)))
    };
    if let (Some(old), Some(new)) = (read(marks.body.index)?, read(switch.index)?) {
        let mut tree = tree(settings)?;
        bring_over(settings, &mut tree, &old, &new)?;
        alarms.extend(std::mem::take(&mut tree.told));
    } else if marks.body.index == 0
        && let Some(new) = read(switch.index)?
    {
        let mut tree = tree(settings)?;
        bring_over(settings, &mut tree, &Index::default(), &new)?;
        alarms.extend(std::mem::take(&mut tree.told));
    }
    let seat = marks.body.seat;
    settled(marks, seat)
}

/// The switch is done.
pub(super) fn settled(marks: &mut Marks, seat: Seat) -> io::Result<()> {
    marks.change(|body| {
        let Some(switch) = body.switch.take() else { return };
        (body.log, body.index, body.checkpoint) = (switch.log, switch.index, switch.upto);
        (body.open, body.blank, body.torn) = (None, false, false);
        (body.seat, body.saved) = (seat, None);
    })
}

/// Removes what is left of earlier logs, indexes and second trees.
pub(super) fn tidy(settings: &Settings, body: &Body) -> io::Result<()> {
    clear(&settings.state.join("shadow"))?;
    for entry in std::fs::read_dir(&settings.state)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let number = |front: &str| text.strip_prefix(front).map(|rest| rest.parse::<u64>().ok());
        let path = settings.state.join(&name);
        if number("log-").is_some_and(|number| number != Some(body.log)) {
            clear(&path)?;
        } else if number("index-").is_some_and(|number| number != Some(body.index)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Names in the old folder that are not the group's come over to the new one; of those that look like the group's and that nobody knows,
/// people decide.
pub(super) fn bring_over(settings: &Settings, tree: &mut Tree, old: &Index, new: &Index) -> io::Result<()> {
    let folder = shadow_root(settings);
    let from = match File::open(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => OwnedFd::from(other?),
    };
    let to = disk::directory(&tree.root, b".")?;
    let mut walk = Walk { settings, tree, old, new };
    walk.folder(&from, Some(&to), FileId::ROOT, &mut Vec::new())
}

struct Walk<'a> {
    settings: &'a Settings,
    tree: &'a mut Tree,
    old: &'a Index,
    new: &'a Index,
}

impl Walk<'_> {
    fn folder(&mut self, from: &OwnedFd, to: Option<&OwnedFd>, dir: FileId, path: &mut Vec<u8>) -> io::Result<()> {
        for name in disk::names(from)? {
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let at = Entry { dir, name };
            self.name(from, to, &at, path)?;
            path.truncate(before);
        }
        Ok(())
    }

    fn name(&mut self, from: &OwnedFd, to: Option<&OwnedFd>, at: &Entry, path: &mut Vec<u8>) -> io::Result<()> {
        let Some(stat) = disk::stat(from, &at.name)? else { return Ok(()) };
        let kind = Kind::of(stat.st_mode);
        if let Some(file) = self.old.at(at.dir, &at.name) {
            if kind == Some(Kind::Directory) {
                let inner = disk::directory(from, &at.name)?;
                // Who lies may have made something else of it.
                let is_folder = self.new.node(file).is_some_and(|node| node.kind == Kind::Directory);
                let stays = is_folder && self.new.at(at.dir, &at.name) == Some(file);
                let other = to.filter(|_| stays).map(|to| disk::directory(to, &at.name)).transpose()?;
                self.folder(&inner, other.as_ref(), file, path)?;
            }
            return Ok(());
        }
        let groups = kind.is_some_and(|kind| kind != Kind::Directory) && self.settings.globs.holds(path);
        let free = to.map(|to| disk::stat(to, &at.name)).transpose()?.is_some_and(|there| there.is_none());
        match to {
            Some(to) if free && !groups => {
                Ok(rustix::fs::renameat_with(from, &at.name[..], to, &at.name[..], RenameFlags::NOREPLACE)?)
            }
            _ => self.tree.put_aside(from, &at.name),
        }
    }
}
