//! From what programs did, by path, to changes, by number.
//!
//! A change's number is the one after the last. The log keeps with its records which record of the ring the last of them came from, so
//! that a restart goes on with the same numbers: what the ring still holds is handed over again, and what the log has is left out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use apus_capture::linux::sys;
use apus_capture::{Change as Op, Consumer, FileId as Id, Kind as OpKind, Listed, Operation};
use apus_engine::FileId;
use apus_engine::shipping::record::{MOST_BYTES, MOST_TARGET};
use apus_engine::shipping::{Attributes, Change, Entry, Happening};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::disk::{self, Handle, Kind};
use super::index::Index;
use super::marks::{Ring, Seat};
use super::shared::{Shared, Step, lock};

/// Takes operations of a drainer and gives them numbers; [`Store::happened`](super::Store::happened) tells them. It may run in a
/// thread of its own.
pub struct Feed {
    shared: Arc<Mutex<Shared>>,
    /// Which one it is.
    serial: u64,
    wake: Box<dyn Fn() + Send>,
    mount: OwnedFd,
    ring: Ring,
    /// The listing that comes is the ring's first.
    new: bool,
    /// Up to here the log had it before.
    skip: Seat,
    /// The ring's numbers of files.
    known: BTreeMap<u64, FileId>,
    handles: BTreeMap<u64, Handle>,
    /// Files of the ring that have no name any more.
    dead: std::collections::BTreeSet<u64>,
    /// The record that is being handed over, and how many changes it had.
    at: (u64, u32),
    missed: bool,
    /// The number that says so.
    marker: u64,
    /// Bytes of changes that may wait for the log.
    limit: u64,
    /// Bytes of files that are gone are lacking up to this record.
    lacks: u64,
    /// Changes that wait to be told together.
    waiting: usize,
}

/// So many changes are told although more may follow at once.
const TOGETHER: usize = 64;

fn apart() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl Feed {
    pub(super) fn new(
        shared: Arc<Mutex<Shared>>,
        wake: Box<dyn Fn() + Send>,
        mount: OwnedFd,
        ring: Ring,
        skip: Seat,
        known: Vec<(Id, sys::Handle, bool)>,
    ) -> Self {
        let dead = known.iter().filter(|(_, _, dead)| *dead).map(|(id, ..)| id.0).collect();
        let handles = known.into_iter().map(|(id, handle, _)| (id.0, Handle::from_sys(&handle))).collect();
        let (new, at, serial) = (false, (0, 0), lock(&shared).feed);
        let mut feed = Self {
            shared,
            serial,
            wake,
            mount,
            ring,
            new,
            skip,
            known: BTreeMap::new(),
            handles,
            dead,
            at,
            missed: false,
            marker: 0,
            limit: u64::MAX,
            lacks: 0,
            waiting: 0,
        };
        feed.learn();
        feed
    }

    /// Files that were made under this ring and whose handles only it knows.
    fn learn(&mut self) {
        let mut shared = lock(&self.shared);
        for (id, handle) in self.handles.iter().filter(|(id, _)| !self.dead.contains(id)) {
            let file = FileId(self.ring.prefix | id);
            if shared.index.node(file).is_some_and(|node| node.handle.is_none()) {
                shared.index.set_handle(file, Some(handle.clone()));
            }
        }
    }

    /// All of the ring was taken up to this record.
    #[must_use]
    pub fn taken(&self) -> u64 {
        lock(&self.shared).taken
    }

    /// From now on no more than about so many bytes of changes wait for the log: what would come on top stays in the ring, which holds
    /// programs up once it is full. What was begun is taken to its end, and so is what is read anew.
    pub const fn limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Nothing more is taken until the log has some of it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        lock(&self.shared).waiting >= self.limit
    }

    fn number(&self, id: u64) -> FileId {
        FileId(self.ring.prefix | id)
    }

    /// What was taken is told, or somebody woken who tells it.
    fn tell(&mut self, mut shared: MutexGuard<'_, Shared>) {
        self.waiting = 0;
        let told = shared.flush();
        drop(shared);
        if !told {
            (self.wake)();
        }
    }

    /// The group's number of a file of the ring; `None`: it has no name any more.
    fn file(&mut self, index: &Index, id: Id) -> io::Result<Option<FileId>> {
        if let Some(file) = self.known.get(&id.0) {
            return Ok(Some(*file).filter(|file| index.node(*file).is_some()));
        }
        let made = self.number(id.0);
        let by_handle = || self.handles.get(&id.0).and_then(|handle| index.by_handle(handle));
        match index.node(made).map(|_| made).or_else(by_handle) {
            Some(file) => {
                self.known.insert(id.0, file);
                Ok(Some(file))
            }
            None if self.dead.contains(&id.0) => Ok(None),
            None => Err(apart()),
        }
    }

    /// What is so of a file now, if it can be asked.
    fn attributes(&self, index: &Index, file: FileId) -> Option<Attributes> {
        let node = index.node(file)?;
        let opened = node.handle.as_ref()?.open(&self.mount, OFlags::PATH).ok()??;
        let about = disk::owner(&opened, node.kind).ok()?;
        Some(Attributes { mtime: 0, ..about })
    }

    /// What is at a path below the root, by no link: directories and links have no handle in the ring.
    fn there(&self, path: &[u8], kind: Kind) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(&self.mount, path, flags, Mode::empty(), how).ok()?;
        let is = Kind::of(rustix::fs::fstat(&opened).ok()?.st_mode);
        Some(opened).filter(|_| is == Some(kind))
    }

    /// Who owns what was just made, if not the system's own user; and what it is called by the file system.
    fn made(&self, index: &mut Index, file: FileId, path: &[u8], (kind, mode): (Kind, u32)) -> Option<Change> {
        let opened = self.there(path, kind)?;
        index.insert(file, kind, Handle::of_open(&opened).ok().filter(|handle| index.by_handle(handle).is_none()));
        let has = disk::owner(&opened, kind).ok().filter(|has| (has.uid, has.gid) != (0, 0))?;
        Some(Change::Attributes { file, attributes: Attributes { mode, ..has } })
    }

    fn take_one(&mut self, shared: &mut Shared, operation: &Operation<'_>) -> io::Result<Vec<Change>> {
        let index = &shared.index;
        let id = operation.file;
        let entry = |path: &[u8]| index.entry(path).ok_or_else(apart);
        let named = |path: &[u8]| {
            let at = index.entry(path).ok_or_else(apart)?;
            index.at(at.dir, &at.name).ok_or_else(apart)
        };
        let mut out = Vec::new();
        match operation.change {
            // The group's own folder is each machine's.
            Op::Mode { path: b"", .. }
            | Op::Owner { path: b"", .. }
            | Op::Times { path: b"", .. }
            | Op::SetAttribute { path: b"", .. }
            | Op::RemoveAttribute { path: b"", .. } => {}
            Op::Bind { path } => {
                let at = entry(path)?;
                let by_handle = self.handles.get(&id.0).and_then(|handle| index.by_handle(handle));
                let file = by_handle.or_else(|| index.at(at.dir, &at.name)).ok_or_else(apart)?;
                self.known.insert(id.0, file);
            }
            Op::Create { path, mode } => {
                let (file, at) = (self.number(id.0), entry(path)?);
                self.known.insert(id.0, file);
                out.push(Change::Create { file, at, mode: mode & disk::FILE_MODE });
                shared.index.insert(file, Kind::Regular, self.handles.get(&id.0).cloned());
                if let Some(attributes) =
                    self.attributes(&shared.index, file).filter(|has| (has.uid, has.gid) != (0, 0))
                {
                    out.push(Change::Attributes { file, attributes: Attributes { mode, ..attributes } });
                }
            }
            Op::Write { offset, bytes } => {
                if let Some(file) = self.file(index, id)? {
                    let pieces = bytes.chunks(MOST_BYTES).zip((offset..).step_by(MOST_BYTES));
                    out.extend(pieces.map(|(piece, offset)| Change::Write { file, offset, bytes: piece.to_vec() }));
                }
            }
            Op::Truncate { len } => {
                out.extend(self.file(index, id)?.map(|file| Change::Truncate { file, length: len }));
            }
            Op::Extend { len } => {
                let file = self.file(index, id)?.filter(|file| index.node(*file).is_some_and(|node| node.size < len));
                out.extend(file.map(|file| Change::Truncate { file, length: len }));
            }
            Op::Zero { offset, len } => {
                out.extend(self.file(index, id)?.map(|file| Change::Punch { file, offset, length: len }));
            }
            Op::Rename { from, to } => {
                let (file, from, to) = (named(from)?, entry(from)?, entry(to)?);
                out.push(Change::Rename { file, from, to });
            }
            Op::Exchange { from, to } => {
                let (from, to) = (entry(from)?, entry(to)?);
                let name = format!(".apus-exchange-{}", operation.seq).into_bytes();
                let between = Entry { dir: from.dir, name };
                let at = |at: &Entry| index.at(at.dir, &at.name);
                // The log may have a part of it from before a restart.
                let half = at(&between);
                let second = half.or_else(|| at(&to)).ok_or_else(apart)?;
                let first = at(&from).or_else(|| half.and_then(|_| at(&to))).ok_or_else(apart)?;
                out.push(Change::Rename { file: second, from: to.clone(), to: between.clone() });
                out.push(Change::Rename { file: first, from: from.clone(), to });
                out.push(Change::Rename { file: second, from: between, to: from });
            }
            Op::Link { path } => {
                let at = entry(path)?;
                out.extend(self.file(index, id)?.map(|file| Change::Link { file, at }));
            }
            Op::Symlink { path, target } if (1..=MOST_TARGET).contains(&target.len()) => {
                let (file, at) = (self.number(operation.seq), entry(path)?);
                out.push(Change::Symlink { file, at, target: target.to_vec() });
                out.extend(self.made(&mut shared.index, file, path, (Kind::Symlink, 0o777)));
            }
            Op::Unlink { path } => {
                let at = entry(path)?;
                if index.at(at.dir, &at.name).is_some() {
                    out.push(Change::Unlink { at });
                }
            }
            Op::Mkdir { path, mode } => {
                let (file, at) = (self.number(operation.seq), entry(path)?);
                out.push(Change::Mkdir { file, at, mode: mode & disk::DIR_MODE });
                out.extend(self.made(&mut shared.index, file, path, (Kind::Directory, mode)));
            }
            Op::Rmdir { path } => {
                let at = entry(path)?;
                if let Some(file) = index.at(at.dir, &at.name) {
                    if index.entries(file).next().is_some() {
                        return Err(apart());
                    }
                    out.push(Change::Rmdir { at });
                }
            }
            Op::Mode { path, mode } => {
                let file = named(path)?;
                let has = self.attributes(index, file);
                out.extend(has.map(|has| Change::Attributes { file, attributes: Attributes { mode, ..has } }));
            }
            Op::Owner { path, user, group } => {
                let file = named(path)?;
                let has = self.attributes(index, file);
                let set = |has| Attributes { uid: user, gid: group, ..has };
                out.extend(has.map(|has| Change::Attributes { file, attributes: set(has) }));
            }
            Op::Times { path, modified, .. } => {
                let file = named(path)?;
                let mtime = modified.max(1).cast_unsigned();
                let has = self.attributes(index, file);
                out.extend(has.map(|has| Change::Attributes { file, attributes: Attributes { mtime, ..has } }));
            }
            Op::SetAttribute { path, name, value } if disk::is_ours(name) && value.len() <= MOST_BYTES => {
                out.push(Change::SetXattr { file: named(path)?, name: name.to_vec(), value: value.to_vec() });
            }
            Op::RemoveAttribute { path, name } if disk::is_ours(name) => {
                out.push(Change::RemoveXattr { file: named(path)?, name: name.to_vec() });
            }
            Op::Sync => {
                // Also where the file has no name any more: somebody may wait for it.
                let file = self.file(index, id).ok().flatten().unwrap_or(FileId::ROOT);
                out.push(Change::Barrier { file });
            }
            Op::Listing { .. }
            | Op::Resynced
            | Op::Symlink { .. }
            | Op::SetAttribute { .. }
            | Op::RemoveAttribute { .. } => {}
        }
        Ok(out)
    }

    /// Names as they were listed.
    fn list(&mut self, shared: &mut Shared, entries: &[Listed]) {
        let old = std::mem::take(&mut shared.index);
        let mut index = Index::after(&old);
        let mut same = true;
        self.known.clear();
        for listed in entries {
            let Some(at) = index.entry(&listed.path) else { continue };
            let (kind, handle) = match &listed.kind {
                OpKind::File => (Kind::Regular, self.handles.get(&listed.file.0).cloned()),
                OpKind::Directory => (Kind::Directory, None),
                OpKind::Symlink(_) => (Kind::Symlink, None),
            };
            let is = |file: &FileId| old.node(*file).is_some_and(|node| node.kind == kind);
            let made = self.number(listed.file.0);
            let there = old.at(at.dir, &at.name).filter(is);
            let file = match kind {
                Kind::Regular => index
                    .node(made)
                    .map(|_| made)
                    .or_else(|| handle.as_ref().and_then(|handle| index.by_handle(handle)))
                    .or_else(|| old.node(made).map(|_| made))
                    .or_else(|| handle.as_ref().and_then(|handle| old.by_handle(handle)))
                    .filter(|file| is(file) || index.node(*file).is_some())
                    .unwrap_or(made),
                _ => there.filter(|file| index.node(*file).is_none()).unwrap_or_else(|| index.adopt(self.ring.prefix)),
            };
            let before = old.node(file);
            same &= before.is_some_and(|node| kind != Kind::Regular || node.size == listed.size) && there == Some(file);
            if index.node(file).is_none() {
                let handle = handle.or_else(|| before.and_then(|node| node.handle.clone()));
                index.insert(file, kind, handle);
            }
            index.set_size(file, if kind == Kind::Regular { listed.size } else { 0 });
            index.name(&at, file);
            if kind == Kind::Regular {
                self.known.insert(listed.file.0, file);
            }
        }
        same &= old.counts() == index.counts();
        self.missed = !(self.new && same);
        if self.new && !same {
            shared.told.push("the files are not what the log leads to: other copies will compare theirs".to_owned());
        }
        self.new = false;
        shared.index = index;
    }
}

impl Consumer for Feed {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let all = Arc::clone(&self.shared);
        let mut shared = lock(&all);
        if shared.feed != self.serial {
            return Ok(());
        }
        let seq = operation.seq;
        match operation.change {
            Op::Listing { entries } => {
                self.list(&mut shared, entries);
                shared.taken = shared.taken.max(seq);
                if self.missed {
                    shared.queue.push(Happening::Missed);
                    // Once this is in the log, so is that something was missed.
                    self.at = (seq, 1);
                    shared.push(Change::Barrier { file: FileId::ROOT }, seq, 1);
                    self.marker = shared.captured;
                    let index = Box::new(shared.index.clone());
                    shared.steps.push_back((self.marker, Step::Listed(index)));
                    // Not settled before it is told to be whole.
                    shared.unsettled = Some((u64::MAX, seq));
                }
                let last = shared.captured;
                shared.passed.push_back((seq, last));
                shared.settle();
                drop(shared);
                (self.wake)();
                return Ok(());
            }
            Op::Resynced => {
                if std::mem::take(&mut self.missed) {
                    shared.unsettled = Some((self.marker, seq));
                }
                return Ok(());
            }
            // The log had it before a restart.
            _ if seq > shared.taken && seq < self.skip.seq => return Ok(()),
            // Who waits for what lies in the ring may be the one that the log waits for.
            _ if seq > shared.taken
                && self.at.0 != seq
                && shared.waiting >= self.limit
                && shared.awaited.is_none_or(|upto| seq > upto) =>
            {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            _ => {}
        }
        let had = if seq > shared.taken && seq == self.skip.seq { self.skip.part } else { 0 };
        let changes = match self.take_one(&mut shared, operation) {
            // All of it was done before the restart, so that it cannot be done again.
            Err(_) if had > 0 => return Ok(()),
            other => other?,
        };
        if self.at.0 != seq {
            self.at = (seq, 0);
        }
        self.waiting += changes.len();
        for change in changes {
            self.at.1 += 1;
            if self.at.1 > had {
                shared.index.change(&change);
                shared.push(change, seq, self.at.1);
            }
        }
        if self.waiting >= TOGETHER {
            self.tell(shared);
        }
        Ok(())
    }

    fn lacks(&mut self, upto: u64) {
        let all = Arc::clone(&self.shared);
        let mut shared = lock(&all);
        if shared.feed != self.serial || upto <= self.lacks {
            return;
        }
        self.lacks = upto;
        // Other copies go on from their present state only to one that a program saw: by comparing.
        shared.queue.push(Happening::Missed);
        shared.told.push("a file was gone before it was read: other copies will compare their files".to_owned());
        drop(shared);
        (self.wake)();
    }

    fn rests(&mut self) {
        let all = Arc::clone(&self.shared);
        let shared = lock(&all);
        if shared.feed == self.serial && !shared.queue.is_empty() {
            self.tell(shared);
        }
    }

    fn anew(&mut self, first: bool) -> bool {
        self.new = first;
        // Copies compare their files, and need no content from here.
        false
    }

    fn bound(&mut self, file: Id, handle: &sys::Handle) {
        self.handles.insert(file.0, Handle::from_sys(handle));
        self.dead.remove(&file.0);
    }

    fn unbound(&mut self, file: Id) {
        self.known.remove(&file.0);
        self.handles.remove(&file.0);
        self.dead.remove(&file.0);
    }

    fn passed(&mut self, seq: u64) {
        let mut shared = lock(&self.shared);
        if shared.feed != self.serial {
            return;
        }
        shared.taken = seq;
        let last = shared.captured;
        match shared.passed.back_mut() {
            Some(back) if back.1 == last => back.0 = seq,
            _ => shared.passed.push_back((seq, last)),
        }
        if shared.logged.captured >= last {
            shared.settle();
        }
        let wake = shared.awaited.take_if(|upto| *upto <= seq).is_some();
        drop(shared);
        if wake {
            (self.wake)();
        }
    }

    fn kept(&self) -> u64 {
        let shared = lock(&self.shared);
        if shared.feed != self.serial {
            return 0;
        }
        let unsettled = shared.unsettled.map_or(u64::MAX, |(_, seq)| seq.saturating_sub(1));
        shared.kept.min(unsettled)
    }
}
