//! The side of the reader: records to operations, in order. It may be killed anywhere: what it needs to go on lies in the ring.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::before::Before;
use super::capture::Capture;
use super::layout::{FILES, Kind, NONE, Reasons, state};
use super::opened::Opened;
use super::operation::{Change, Consumer, FileId, Operation};
use super::resync::full;
use super::sys;

/// The most bytes of one operation.
pub(super) const CHUNK: u64 = 1 << 20;
/// Writes up to this long are read together with those that follow.
const AT_ONCE: u64 = 64 << 10;
/// How long it sleeps once it has caught up. Programs do not wake it: that would cost them more than the record does. To look more often
/// takes lines of the cache from them, and the processor where there are few.
const NAP: Duration = Duration::from_millis(1);
/// How long it sleeps while a program waits for it.
const SHORT_NAP: Duration = Duration::from_micros(50);
/// After how many naps it sleeps until it is woken.
const NAPS: u32 = 500;
/// Notes that are kept.
const NOTES: usize = 64;
/// How often places in the table are given back, and files read that are changed through mappings.
const SWEEP: Duration = Duration::from_millis(500);

/// What one call of [`Drainer::drain`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left.
    Idle,
    /// There was something.
    Some,
    /// The next operation is not done yet, or the consumer has no room for it.
    Waiting,
}

/// Reads a ring. One at a time: the ring's file is locked.
pub struct Drainer {
    pub(super) capture: Capture,
    pub(super) root: File,
    _lock: File,
    pub(super) open: Opened,
    /// Up to where records were looked at for old bytes.
    pub(super) scanned: u64,
    /// Old bytes that wait.
    pub(super) before: Before,
    /// When this record was handed over, what was read anew is whole.
    pub(super) whole_at: Option<u64>,
    pub(super) hashes: BTreeMap<u64, Vec<u64>>,
    pub(super) ahead: Ahead,
    /// A file may have lost its last name since files were let go of.
    names_went: bool,
    /// The next record that is handed over, and the number of the last one that was.
    pub(super) cursor: u64,
    pub(super) handed: u64,
    /// What was handed over and must stay until the consumer has kept it: where each record ends, and its number.
    pub(super) unkept: VecDeque<(u64, u64)>,
    /// Read anew, and not yet kept.
    pub(super) settling: Option<u64>,
    swept: Instant,
    notes: Vec<String>,
}

/// What a record says, out of the ring.
pub(super) struct Read {
    pub(super) at: u64,
    pub(super) state: u32,
    pub(super) kind: Kind,
    pub(super) total: u64,
    pub(super) owner: u32,
    pub(super) seq: u64,
    pub(super) id: u64,
    pub(super) file: u32,
    pub(super) first: Vec<u8>,
    pub(super) second: Vec<u8>,
    pub(super) more: Vec<u8>,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) time: u64,
}

impl Read {
    /// Whether the bytes that it is about may be a file's.
    fn fits(&self) -> bool {
        let offset = match self.kind {
            Kind::Write | Kind::Rewrite | Kind::Truncate | Kind::Extend | Kind::Zero => self.offset,
            Kind::Enter => 0,
            _ => return true,
        };
        offset.checked_add(self.len).is_some_and(|end| i64::try_from(end).is_ok())
    }
}

impl Drainer {
    /// The one drainer of the ring at `path`.
    ///
    /// # Errors
    /// There is no ring, another process drains it, or its root is gone.
    pub fn open(path: &Path) -> io::Result<Self> {
        let ring = File::options().read(true).write(true).open(path)?;
        // SAFETY: no memory is passed.
        if unsafe { libc::flock(ring.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} is drained by another process; stop it first", path.display()),
            ));
        }
        let capture = Capture::at(path)?;
        let root = File::open(Path::new(std::ffi::OsStr::from_bytes(capture.root())))?;
        let shared = capture.shared;
        shared.drainer.store(std::process::id(), Relaxed);
        if shared.resyncing.load(Acquire) != 0 {
            // The one before was killed while it read everything anew.
            capture.lose(Reasons::NEW | Reasons::ALL);
        }
        let (tail, handed) = (shared.tail.load(Acquire), shared.shipped.load(Acquire));
        Ok(Self {
            capture,
            root,
            _lock: ring,
            open: Opened::default(),
            scanned: tail,
            before: Before::default(),
            whole_at: None,
            hashes: BTreeMap::new(),
            ahead: Ahead::default(),
            names_went: false,
            cursor: tail,
            handed,
            unkept: VecDeque::new(),
            settling: None,
            swept: Instant::now(),
            notes: Vec::new(),
        })
    }

    /// The ring.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// What was found since the last call that a person may want to know: which file is not as recorded.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// A file is not as the records say.
    pub(super) fn drift(&mut self, read: &Read, why: &str) {
        if self.notes.len() < NOTES {
            self.notes.push(format!("record {} ({:?}) of file {}: {why}", read.seq, read.kind, read.id));
        }
        self.capture.lose(Reasons::DRIFT | Reasons::ALL);
    }

    /// Hands over what there is until `stop`.
    ///
    /// # Errors
    /// Those of the consumer.
    pub fn run(&mut self, consumer: &mut dyn Consumer, stop: &AtomicBool) -> io::Result<()> {
        let mut naps = 0;
        while !stop.load(Relaxed) {
            let shared = self.capture.shared;
            match self.drain(consumer)? {
                Drained::Some => naps = 0,
                Drained::Waiting => {
                    naps = 0;
                    std::thread::sleep(if shared.waiters.load(Relaxed) != 0 { SHORT_NAP } else { NAP });
                }
                Drained::Idle => {
                    naps += 1;
                    self.rest(naps > NAPS, || false);
                }
            }
            self.tend(consumer)?;
        }
        Ok(())
    }

    /// Sleeps where nothing is to be done: a moment, or, if `deep`, until a program records something, 200 ms at most.
    /// [`Capture::rouse`] ends it; what is `wanted` by then is asked before.
    pub fn rest(&self, deep: bool, wanted: impl Fn() -> bool) {
        let shared = self.capture.shared;
        let hurry = shared.hurry.load(SeqCst);
        if wanted() {
            return;
        }
        if !deep {
            sys::futex_wait(&shared.hurry, hurry, NAP.as_millis() as u32);
            return;
        }
        shared.asleep.store(1, SeqCst);
        let quiet = shared.head.load(SeqCst) == shared.tail.load(SeqCst) && shared.hurry.load(SeqCst) == hurry;
        if quiet && self.capture.reasons().in_order() && !wanted() {
            sys::futex_wait(&shared.asleep, 1, 200);
        }
        shared.asleep.store(0, SeqCst);
    }

    /// Now and then gives places in the table back, and reads files that are changed through mappings.
    ///
    /// # Errors
    /// Those of the consumer.
    pub fn tend(&mut self, consumer: &mut dyn Consumer) -> io::Result<()> {
        if self.swept.elapsed() >= SWEEP || self.crowded() {
            self.swept = Instant::now();
            self.release();
            self.sweep(consumer);
            self.reread(consumer)?;
        }
        Ok(())
    }

    /// Programs have ended: reads a last time what they changed through mappings. [`drain`](Self::drain) has found nothing before.
    ///
    /// # Errors
    /// Those of the consumer.
    pub fn look_last(&mut self, consumer: &mut dyn Consumer) -> io::Result<()> {
        self.reread(consumer)
    }

    pub(super) fn crowded(&self) -> bool {
        self.capture.shared.used.load(Relaxed) as usize > FILES / 4 * 3
    }

    pub(super) fn drain_some(&mut self, consumer: &mut dyn Consumer) -> io::Result<Drained> {
        if !self.capture.reasons().in_order() {
            return self.resync(consumer);
        }
        let mut drained = Drained::Idle;
        self.give_up(consumer);
        let head = self.capture.shared.head.load(Acquire);
        self.capture.shared.clock.store(sys::now(), Relaxed);
        loop {
            let tail = self.cursor;
            if tail == head {
                self.show(consumer)?;
                if std::mem::take(&mut self.names_went) {
                    self.release();
                }
                return Ok(drained);
            }
            let Some(read) = self.record(tail, head) else {
                // The listing goes on from the head.
                self.capture.lose(Reasons::DRIFT | Reasons::ALL);
                return Ok(Drained::Some);
            };
            match read.state {
                state::DONE => {
                    let done = self.hand_over(&read, consumer);
                    if !self.taken(&read, done)? {
                        return Ok(Drained::Some);
                    }
                }
                state::FAILED => {}
                _ if !sys::ended(read.owner, Some(read.time)) => {
                    return Ok(if drained == Drained::Idle { Drained::Waiting } else { drained });
                }
                // It may have gone on between the look at the record and the one at the process.
                _ if self.capture.record(tail).state.load(Acquire) != read.state => continue,
                _ => {
                    let done = self.settle(&read, consumer);
                    if !self.taken(&read, done)? {
                        return Ok(Drained::Some);
                    }
                }
            }
            self.advance(&read, consumer);
            self.show(consumer)?;
            drained = Drained::Some;
        }
    }

    /// `None` if what is there is no record.
    fn record(&self, at: u64, head: u64) -> Option<Read> {
        if !self.capture.spans(at, head) {
            return None;
        }
        let total = self.capture.after(at, head)? - at;
        let record = self.capture.record(at);
        let state = record.state.load(Acquire);
        let kind = Kind::from_number(record.kind.load(Relaxed))?;
        let texts = record.texts.load(Relaxed);
        let (one, two) = (texts as usize & 0xffff, texts as usize >> 16);
        let text = |from: usize, len: usize| Capture::copied(self.capture.bytes(at + 64 + from as u64, len));
        let len = record.len.load(Relaxed);
        if (64 + one + two) as u64 > total || kind == Kind::Before && len > total - 64 {
            return None;
        }
        let more = if kind == Kind::SetAttribute { (len as usize).min(total as usize - 64 - one - two) } else { 0 };
        Some(Read {
            at,
            state,
            kind,
            total,
            owner: record.owner.load(Relaxed),
            seq: record.seq.load(Relaxed),
            id: record.id.load(Relaxed),
            file: record.file.load(Relaxed),
            first: text(0, one),
            second: text(one, two),
            more: text(one + two, more),
            offset: record.offset.load(Relaxed),
            len,
            time: record.time.load(Relaxed),
        })
    }

    /// The record was handed over.
    fn advance(&mut self, read: &Read, consumer: &mut dyn Consumer) {
        (self.cursor, self.handed) = (read.at + read.total, read.seq);
        self.unkept.push_back((self.cursor, self.handed));
        consumer.passed(read.seq);
        self.give_up(consumer);
        self.scanned = self.scanned.max(read.at + read.total);
        if read.kind == Kind::Before {
            self.before.remove(read.id, read.offset, read.at);
        }
    }

    /// What the consumer has kept is done with: its bytes may be destroyed, its room used.
    fn give_up(&mut self, consumer: &dyn Consumer) {
        let (shared, kept) = (self.capture.shared, consumer.kept());
        let mut last = None;
        while let Some(&(end, seq)) = self.unkept.front().filter(|(_, seq)| *seq <= kept) {
            last = Some((end, seq));
            self.unkept.pop_front();
        }
        if let Some((end, seq)) = last {
            // In this order: killed in between, programs copy more than they need to, and nothing is read that may be gone.
            shared.tail.store(end, Release);
            shared.shipped.store(seq, SeqCst);
            self.capture.roomier();
        }
        if self.settling.take_if(|seq| *seq <= kept).is_some() {
            shared.resyncing.store(0, SeqCst);
        }
    }

    pub(super) fn send(
        &self,
        seq: u64,
        file: u64,
        change: Change<'_>,
        last: bool,
        consumer: &mut dyn Consumer,
    ) -> io::Result<()> {
        let publish = last && seq >= self.capture.shared.hidden.load(Relaxed);
        consumer.take(&Operation { seq, file: FileId(file), publish, change })
    }

    /// Says so once what was read anew is whole.
    pub(super) fn show(&mut self, consumer: &mut dyn Consumer) -> io::Result<()> {
        let shared = self.capture.shared;
        let all = self.cursor >= shared.head.load(Acquire);
        if let Some(at) = self.whole_at
            && (self.handed.saturating_add(1) >= at || all)
            && self.capture.reasons().in_order()
        {
            // A file may have been gone meanwhile before its bytes were read: then the tree is not to be shown until the record by which it
            // went, which comes later.
            let publish = all || shared.hidden.load(Relaxed) <= at;
            consumer.take(&Operation { seq: self.handed, file: FileId(0), publish, change: Change::Resynced })?;
            if publish {
                // Who asks finds it shown once the consumer has been told.
                shared.hidden.store(0, SeqCst);
            }
            self.whole_at = None;
            self.settling = Some(self.handed);
            self.give_up(consumer);
        }
        Ok(())
    }

    /// `false`: the order is lost.
    fn hand_over(&mut self, read: &Read, consumer: &mut dyn Consumer) -> io::Result<bool> {
        if !read.fits() {
            self.drift(read, "lies beyond any file");
            return Ok(false);
        }
        if matches!(read.kind, Kind::Bind | Kind::Create | Kind::Enter) && read.file != NONE {
            consumer.bound(FileId(read.id), &self.capture.file(read.file).handle());
        }
        let (path, second) = (read.first.as_slice(), read.second.as_slice());
        let mode = read.offset as u32;
        let change = match read.kind {
            Kind::Before => return Ok(true),
            Kind::Write if read.len <= AT_ONCE => return self.write(read, consumer),
            Kind::Write => return self.bytes(read, false, read.len > 0, consumer),
            Kind::Rewrite => {
                let whole = self.bytes(read, false, false, consumer)?;
                if whole {
                    self.send(read.seq, read.id, Change::Truncate { len: read.offset + read.len }, true, consumer)?;
                }
                return Ok(whole);
            }
            Kind::Enter => {
                self.send(read.seq, read.id, Change::Create { path, mode }, false, consumer)?;
                self.send(read.seq, read.id, Change::Extend { len: read.len }, read.len == 0, consumer)?;
                return self.bytes(read, false, true, consumer);
            }
            Kind::Bind => Change::Bind { path },
            Kind::Create => Change::Create { path, mode },
            Kind::Truncate => Change::Truncate { len: read.offset },
            Kind::Extend => Change::Extend { len: read.offset },
            Kind::Zero => Change::Zero { offset: read.offset, len: read.len },
            Kind::Rename => Change::Rename { from: path, to: second },
            Kind::Exchange => Change::Exchange { from: path, to: second },
            Kind::Link => Change::Link { path: second },
            Kind::Symlink => Change::Symlink { path, target: second },
            Kind::Unlink => Change::Unlink { path },
            Kind::Mkdir => Change::Mkdir { path, mode },
            Kind::Rmdir => Change::Rmdir { path },
            Kind::Mode => Change::Mode { path, mode },
            Kind::Owner => Change::Owner { path, user: mode, group: read.len as u32 },
            Kind::Times => Change::Times { path, accessed: read.offset as i64, modified: read.len as i64 },
            Kind::SetAttribute => Change::SetAttribute { path, name: second, value: &read.more },
            Kind::RemoveAttribute => Change::RemoveAttribute { path, name: second },
            Kind::Sync => Change::Sync,
        };
        self.send(read.seq, read.id, change, true, consumer)?;
        self.names_went |= matches!(read.kind, Kind::Rename | Kind::Unlink | Kind::Symlink | Kind::Link | Kind::Enter);
        if matches!(read.kind, Kind::Bind | Kind::Create) {
            // Opened while it has a name: its bytes outlive the name from here on.
            self.file(read.id, read.file);
        }
        Ok(true)
    }

    /// Hands over the bytes that a record refers to. `as_is`: its process ended in the middle, so fewer may be there. `last`: the record
    /// has no further operation. `false`: the order is lost.
    fn bytes(&mut self, read: &Read, as_is: bool, last: bool, consumer: &mut dyn Consumer) -> io::Result<bool> {
        let start = if read.kind == Kind::Enter { 0 } else { read.offset };
        let end = start.saturating_add(read.len);
        let mut at = start;
        let mut buffer = vec![0; read.len.min(CHUNK) as usize];
        while at < end {
            let want = (end - at).min(CHUNK) as usize;
            let Some(file) = self.file(read.id, read.file) else { return Ok(self.gone(read)) };
            let got = full(file, &mut buffer[..want], at)?;
            // What was overwritten while it was read is known by now: its record was there before it was.
            self.scan();
            if !self.capture.reasons().in_order() {
                return Ok(false);
            }
            let covered = self.overlay(read.id, at, got, &mut buffer[..want]);
            if covered < want && !as_is {
                let why = format!("of {want} bytes at {at} there are {covered} (in the file {got})");
                self.drift(read, &why);
                return Ok(false);
            }
            if covered > 0 {
                let done = at + want as u64 >= end || covered < want;
                self.send(
                    read.seq,
                    read.id,
                    Change::Write { offset: at, bytes: &buffer[..covered] },
                    done && last,
                    consumer,
                )?;
            }
            if covered < want {
                break;
            }
            at += want as u64;
        }
        Ok(true)
    }

    /// The bytes are gone with their file: what lies between and its end cannot be shown. `false`: the order is lost.
    pub(super) fn gone(&mut self, read: &Read) -> bool {
        let dead = if read.file == NONE { 0 } else { self.capture.file(read.file).dead.load(Acquire) };
        if dead != 0 && dead < read.seq {
            // Nobody sees what is written to a file without a name.
            return true;
        }
        if dead == 0 {
            self.drift(read, "cannot be opened, and is not known to be gone");
            return false;
        }
        self.capture.shared.hidden.fetch_max(dead, SeqCst);
        true
    }

    /// An operation whose process ended before it could tell the result. `false`: the order is lost.
    fn settle(&mut self, read: &Read, consumer: &mut dyn Consumer) -> io::Result<bool> {
        if read.state == state::COPYING || read.kind == Kind::Before {
            return Ok(true);
        }
        if !read.fits() {
            self.drift(read, "lies beyond any file");
            return Ok(false);
        }
        match read.kind {
            Kind::Write | Kind::Zero => self.bytes(read, true, true, consumer),
            kind if kind.names() => match self.happened(read) {
                None => {
                    self.capture.lose(Reasons::OWNER | Reasons::ALL);
                    Ok(false)
                }
                Some(false) => Ok(true),
                Some(true) => {
                    let Some(read) = self.record(read.at, read.at + read.total) else { return Ok(false) };
                    self.hand_over(&read, consumer)
                }
            },
            _ => {
                // Whether it was done shows in the file alone, which may have changed since.
                self.capture.lose(Reasons::OWNER);
                if read.file != NONE {
                    self.capture.file(read.file).whole.store(1, SeqCst);
                }
                Ok(false)
            }
        }
    }

    /// Whether an operation on names was done; `None` if others were since, and it cannot be told.
    fn happened(&self, read: &Read) -> Option<bool> {
        let capture = &self.capture;
        let _names = capture.lock(&capture.shared.names)?;
        let head = capture.shared.head.load(Acquire);
        let mut at = read.at + read.total;
        if !capture.spans(at, head) {
            return None;
        }
        while at < head {
            let record = capture.record(at);
            if Kind::from_number(record.kind.load(Relaxed)).is_none_or(Kind::names) {
                return None;
            }
            at = capture.after(at, head)?;
        }
        let full = |below: &[u8]| [capture.root(), b"/", below, b"\0"].concat();
        let stat = |below: &[u8]| sys::stat(libc::AT_FDCWD, full(below).as_ptr().cast()).ok();
        let key = || [0, 1, 2].map(|at| capture.file(read.file).key[at].load(Relaxed));
        Some(match read.kind {
            Kind::Bind => {
                let index = capture.taken().find(|&index| capture.file(index).id.load(Relaxed) == read.seq);
                capture.record(read.at).file.store(index.unwrap_or(NONE), Relaxed);
                index.is_some()
            }
            Kind::Create | Kind::Enter => {
                let Some(found) = stat(&read.first).filter(sys::Stat::is_file) else { return Some(false) };
                if read.kind == Kind::Enter
                    && capture
                        .find(found.key)
                        .is_some_and(|bound| capture.file(bound.index).id.load(Relaxed) != read.seq)
                {
                    return Some(false);
                }
                let bound = match capture.find(found.key) {
                    Some(bound) => Some(bound),
                    None => {
                        let handle = sys::handle(libc::AT_FDCWD, full(&read.first).as_ptr().cast()).ok()?;
                        capture.admit(&found, &handle, read.seq)
                    }
                };
                capture.record(read.at).file.store(bound?.index, Relaxed);
                capture.record(read.at).offset.store(u64::from(found.mode & 0o7777), Relaxed);
                if read.kind == Kind::Enter {
                    capture.record(read.at).len.store(found.size, Relaxed);
                }
                true
            }
            Kind::Rename if read.file != NONE => stat(&read.second).is_some_and(|found| found.key == key()),
            Kind::Rename => stat(&read.first).is_none() && stat(&read.second).is_some(),
            Kind::Link => stat(&read.second).is_some_and(|found| found.key == key()),
            Kind::Exchange => stat(&read.second).is_some_and(|found| read.file != NONE && found.key == key()),
            Kind::Unlink => stat(&read.first).is_none(),
            Kind::Rmdir => stat(&read.first).is_none(),
            Kind::Symlink => stat(&read.first).is_some(),
            Kind::Mkdir => {
                let found = stat(&read.first).filter(sys::Stat::is_dir);
                capture
                    .record(read.at)
                    .offset
                    .store(u64::from(found.map_or(0o755, |found| found.mode & 0o7777)), Relaxed);
                found.is_some()
            }
            _ => return None,
        })
    }
}
