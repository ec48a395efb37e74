//! When the order is lost: all names are listed while nothing moves, then the bytes that may differ are read while programs go on. The
//! records from the listing on are applied over them, and once those up to the end of the reading are, the tree is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::drainer::{CHUNK, Drained, Drainer, Read};
use super::layout::{self, NONE, Reasons, SPANS};
use super::operation::{Change, Consumer, FileId, Kind, Listed};
use super::sys::{self, Errno};
use crate::Globs;

/// Bytes that are compared at once in files that leave no records.
const PIECE: u64 = 1 << 16;
/// How often a file is looked at that changes under our hands.
const TRIES: u32 = 3;

/// By these a consumer says that its copy is not what the operation was made on.
const APART: [i32; 6] = [libc::ENOENT, libc::ENOTEMPTY, libc::EISDIR, libc::ENOTDIR, libc::EEXIST, libc::ELOOP];

/// What of a file must be read.
#[derive(Clone, Debug)]
struct Dirty {
    index: u32,
    whole: bool,
    spans: Vec<(u64, u64)>,
}

struct Quiet {
    seq: u64,
    all: bool,
    /// The ring was just made: nothing was recorded or lost yet.
    first: bool,
    entries: Vec<Listed>,
    /// By file.
    dirty: BTreeMap<u64, Dirty>,
}

impl Drainer {
    /// Lists the group and reads what may differ. `Waiting`: a program holds a lock.
    pub(super) fn resync(&mut self, consumer: &mut dyn Consumer) -> io::Result<Drained> {
        let Some(quiet) = self.quiesce()? else { return Ok(Drained::Waiting) };
        let done = self.renew(&quiet, consumer);
        if done.is_err() {
            // What may differ was remembered in the ring, and is not any more.
            self.capture.lose(Reasons::NEW | Reasons::ALL);
        }
        done.map(|()| Drained::Some)
    }

    /// Hands over what is complete, at most as much as one look at the ring shows.
    ///
    /// # Errors
    /// Those of the consumer, who gets the same operation again the next time.
    pub fn drain(&mut self, consumer: &mut dyn Consumer) -> io::Result<Drained> {
        match self.drain_some(consumer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It waits for what it was told to be dealt with: nothing of that may stay with it.
                consumer.rests();
                Ok(Drained::Waiting)
            }
            other => other,
        }
    }

    /// An operation that the copy has no place for would be refused for ever: the copy is made anew. Other errors are the caller's.
    pub(super) fn taken(&mut self, read: &Read, done: io::Result<bool>) -> io::Result<bool> {
        match done {
            Err(error) if error.raw_os_error().is_some_and(|number| APART.contains(&number)) => {
                self.drift(read, &format!("the copy has no place for it: {error}"));
                Ok(false)
            }
            other => other,
        }
    }

    fn renew(&mut self, quiet: &Quiet, consumer: &mut dyn Consumer) -> io::Result<()> {
        self.whole_at = None;
        let wanted = consumer.anew(quiet.first);
        for entry in quiet.entries.iter().filter(|entry| entry.kind == Kind::File) {
            if let Some(dirty) = quiet.dirty.get(&entry.file.0) {
                consumer.bound(entry.file, &self.capture.file(dirty.index).handle());
            }
        }
        self.send(quiet.seq, 0, Change::Listing { entries: &quiet.entries }, false, consumer)?;
        let mut done = std::collections::BTreeSet::new();
        for entry in quiet.entries.iter().filter(|entry| wanted && entry.kind == Kind::File) {
            let Some(dirty) = quiet.dirty.get(&entry.file.0) else { continue };
            let whole = quiet.all || dirty.whole || consumer.wants(entry);
            if (whole || !dirty.spans.is_empty()) && done.insert(entry.file) {
                let spans = if whole { vec![(0, u64::MAX)] } else { dirty.spans.clone() };
                self.content(quiet.seq, entry.file.0, dirty.index, &spans, consumer)?;
            }
        }
        let shared = self.capture.shared;
        let next = shared.next.load(Acquire);
        shared.hidden.store(next, SeqCst);
        self.whole_at = Some(next);
        self.show(consumer)
    }

    fn quiesce(&mut self) -> io::Result<Option<Quiet>> {
        let capture = &self.capture;
        let shared = capture.shared;
        let patience = shared.lock_ms.load(Relaxed);
        let Some(_names) = shared.names.take(capture.own(), patience) else { return Ok(None) };
        let mut held = Vec::new();
        for index in capture.taken() {
            match capture.file(index).lock.take(capture.own(), patience) {
                Some(lock) => held.push(lock),
                None => return Ok(None),
            }
        }
        // Before the reasons go: a drainer that is killed from here on leaves behind that all is to be listed, and nobody takes the copy
        // for one that may be shown.
        shared.resyncing.store(1, SeqCst);
        shared.hidden.store(u64::MAX, SeqCst);
        // From here on a reason is a new one: whoever has no lock may have come too late for the listing.
        let reasons = shared.reasons.swap(0, SeqCst);
        let first = shared.ever.load(SeqCst) == Reasons::NEW | Reasons::ALL
            && shared.shipped.load(Relaxed) == 0
            && shared.head.load(Acquire) == 0
            && shared.used.load(Relaxed) == 0;
        let mut all = reasons & Reasons::ALL != 0;
        // What was recorded and not handed over is read anew with the rest: its bytes may be gone.
        let (mut at, head) = (shared.tail.load(Relaxed), shared.head.load(Acquire));
        let mut good = capture.spans(at, head);
        while good && at < head {
            let record = capture.record(at);
            let index = record.file.load(Relaxed);
            if index != NONE {
                let (file, offset, len) = (capture.file(index), record.offset.load(Relaxed), record.len.load(Relaxed));
                match layout::Kind::from_number(record.kind.load(Relaxed)) {
                    Some(layout::Kind::Write | layout::Kind::Zero | layout::Kind::Rewrite) => {
                        file.mark(offset, offset.saturating_add(len));
                    }
                    Some(layout::Kind::Truncate | layout::Kind::Extend) => file.mark(offset, u64::MAX),
                    Some(layout::Kind::Create | layout::Kind::Enter | layout::Kind::Bind) => {
                        file.whole.store(1, Relaxed);
                    }
                    _ => {}
                }
            }
            let next = capture.after(at, head);
            good = next.is_some();
            at = next.unwrap_or(head);
        }
        if !good {
            shared.ever.fetch_or(Reasons::DRIFT | Reasons::ALL, SeqCst);
            all = true;
        }
        let mut quiet = Quiet { seq: 0, all, first, entries: Vec::new(), dirty: BTreeMap::new() };
        let root = Path::new(std::ffi::OsStr::from_bytes(capture.root())).to_path_buf();
        if let Err(error) = self.list(&root, &mut Vec::new(), &mut quiet) {
            shared.reasons.fetch_or(reasons, SeqCst);
            return Err(error);
        }
        for index in capture.taken() {
            let file = capture.file(index);
            let used = (file.spans_used.swap(0, Relaxed) as usize).min(SPANS);
            let spans =
                file.spans[..used].iter().map(|span| (span.start.load(Relaxed), span.end.load(Relaxed))).collect();
            let whole = file.whole.swap(0, Relaxed) != 0;
            quiet.dirty.insert(file.id.load(Relaxed), Dirty { index, whole, spans });
        }
        quiet.seq = capture.number();
        shared.shipped.store(quiet.seq, SeqCst);
        shared.tail.store(head, Release);
        capture.roomier();
        drop(held);
        (self.cursor, self.handed, self.settling) = (head, quiet.seq, None);
        self.unkept.clear();
        self.scanned = head;
        self.before.clear();
        Ok(Some(quiet))
    }

    /// All names below `dir`, parents first.
    fn list(&self, dir: &Path, below: &mut Vec<u8>, quiet: &mut Quiet) -> io::Result<()> {
        let mut names: Vec<_> = std::fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let path = entry.path();
            let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
            // Programs without the library may remove a name in between.
            let Ok(stat) = sys::stat(libc::AT_FDCWD, name.as_ptr()) else { continue };
            let parent = below.len();
            if parent > 0 {
                below.push(b'/');
            }
            below.extend_from_slice(entry.file_name().as_bytes());
            let held = Globs::new(self.capture.patterns()).holds(below);
            let mut listed = Listed {
                path: below.clone(),
                file: FileId(0),
                kind: Kind::File,
                mode: stat.mode & 0o7777,
                owner: stat.owner,
                size: stat.size,
            };
            let same_device = stat.key[0] == self.capture.shared.device.load(Relaxed);
            if stat.is_dir() && same_device {
                listed.kind = Kind::Directory;
                quiet.entries.push(listed);
                self.list(&path, below, quiet)?;
            } else if stat.is_file() && held && same_device {
                let known = self.capture.find(stat.key);
                let bound = match known {
                    Some(bound) => Some(bound),
                    None => sys::handle(libc::AT_FDCWD, name.as_ptr())
                        .ok()
                        .and_then(|handle| self.capture.admit(&stat, &handle, self.capture.number())),
                };
                let Some(bound) = bound else {
                    let why = format!(
                        "{}: {} files at once are the limit; narrow the group's patterns",
                        path.display(),
                        layout::FILES
                    );
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
                };
                listed.file = FileId(self.capture.file(bound.index).id.load(Relaxed));
                quiet.entries.push(listed);
            } else if stat.mode & libc::S_IFMT == libc::S_IFLNK
                && held
                && let Ok(target) = std::fs::read_link(&path)
            {
                listed.kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
                quiet.entries.push(listed);
            }
            below.truncate(parent);
        }
        Ok(())
    }

    /// Length and bytes of a file as they are now.
    fn content(
        &mut self,
        seq: u64,
        id: u64,
        index: u32,
        spans: &[(u64, u64)],
        consumer: &mut dyn Consumer,
    ) -> io::Result<()> {
        let Some(file) = self.file(id, index) else { return Ok(()) };
        let file = file.try_clone()?;
        let size = file.metadata()?.len();
        self.send(seq, id, Change::Truncate { len: size }, false, consumer)?;
        let mut buffer = vec![0; CHUNK as usize];
        for &(start, end) in spans {
            let mut at = start;
            while at < end.min(size) {
                let want = (end.min(size) - at).min(CHUNK) as usize;
                let got = full(&file, &mut buffer[..want], at)?;
                if got == 0 {
                    break;
                }
                self.send(seq, id, Change::Write { offset: at, bytes: &buffer[..got] }, false, consumer)?;
                at += got as u64;
            }
        }
        Ok(())
    }

    /// Reads the files that change without records, and hands over what is new. What is handed over is as it was at some time since the
    /// last look, in no order: the group says so.
    pub(super) fn reread(&mut self, consumer: &mut dyn Consumer) -> io::Result<()> {
        let shared = self.capture.shared;
        if shared.untracked.load(Relaxed) == 0 || !self.capture.reasons().in_order() {
            return Ok(());
        }
        let untracked: Vec<u32> =
            self.capture.taken().filter(|&index| self.capture.file(index).untracked.load(Relaxed) != 0).collect();
        let seq = self.handed;
        let mut any = false;
        for index in untracked {
            let (id, dead) = (self.capture.file(index).id.load(Relaxed), self.capture.file(index).dead.load(Relaxed));
            if dead != 0 || id > seq {
                continue;
            }
            let Some(file) = self.file(id, index) else { continue };
            let file = file.try_clone()?;
            for _ in 0..TRIES {
                let size = file.metadata()?.len();
                let mut hashes = self.hashes.remove(&id).unwrap_or_default();
                hashes.resize(size.div_ceil(PIECE) as usize + 1, 0);
                let mut changed = false;
                let mut buffer = vec![0; PIECE as usize];
                if hashes.last() != Some(&(size + 1)) {
                    self.hide();
                    self.send(seq, id, Change::Truncate { len: size }, false, consumer)?;
                    changed = true;
                }
                for (piece, hash) in hashes.iter_mut().enumerate() {
                    let at = piece as u64 * PIECE;
                    let got = full(&file, &mut buffer, at)?;
                    if at >= size {
                        *hash = size + 1;
                        break;
                    }
                    let mut hasher = DefaultHasher::new();
                    hasher.write(&buffer[..got]);
                    let now = hasher.finish() | 1;
                    if *hash != now {
                        *hash = now;
                        self.hide();
                        self.send(seq, id, Change::Write { offset: at, bytes: &buffer[..got] }, false, consumer)?;
                        changed = true;
                    }
                }
                self.hashes.insert(id, hashes);
                any |= changed;
                if !changed {
                    break;
                }
            }
        }
        if any {
            shared.reread.fetch_add(1, Relaxed);
            let next = shared.next.load(Acquire);
            shared.hidden.fetch_max(next, SeqCst);
            self.whole_at = Some(next);
            self.show(consumer)?;
        }
        Ok(())
    }

    fn hide(&self) {
        self.capture.shared.hidden.fetch_max(self.capture.shared.next.load(Acquire), SeqCst);
    }

    /// Gives places in the table back: of files that are gone, and, once it is crowded, of those about which all is known.
    pub(super) fn sweep(&mut self, consumer: &mut dyn Consumer) {
        let crowded = self.crowded();
        let capture = &self.capture;
        let shipped = capture.shared.shipped.load(Relaxed);
        let over = |index: u32| {
            let file = capture.file(index);
            let (dead, last) = (file.dead.load(Relaxed), file.last.load(Relaxed));
            let clean = file.untracked.load(Relaxed) == 0
                && file.whole.load(Relaxed) == 0
                && file.spans_used.load(Relaxed) == 0;
            last <= shipped && (dead != 0 && dead <= shipped || crowded && clean && file.id.load(Relaxed) <= shipped)
        };
        let candidates: Vec<u32> = capture.taken().filter(|&index| over(index)).collect();
        // Whoever changes names relies on places that it has looked up.
        let Some(_names) = capture.shared.names.take(capture.own(), 0) else { return };
        for index in candidates {
            let file = capture.file(index);
            let Some(_held) = file.lock.take(capture.own(), 0) else { continue };
            if over(index) && capture.reasons().in_order() {
                let id = file.id.load(Relaxed);
                self.open.remove(id);
                self.hashes.remove(&id);
                capture.evict(index);
                consumer.unbound(FileId(id));
            }
        }
    }
}

/// As many bytes as there are.
pub(super) fn full(file: &File, to: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < to.len() {
        match sys::pread(file.as_raw_fd(), &mut to[got..], at + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}
