//! The segment: memory that outlives the program, and that the program has mapped nowhere to write to.
//!
//! ```text
//! header      1 page     what it is, and the commit: one stretch of 80 bytes, written by one call
//! base        capacity   all pages as they were at some checkpoint
//! log 0, 1    each as much as the largest checkpoint needs: records of pages written since
//! ```
//! A checkpoint is one record behind the last one of the active log, then the commit that counts it. A thread brings the records
//! of the other log into the base, and empties it. Whatever is cut off anywhere: base, then the older log, then the active one, as
//! far as the commit says, are the last checkpoint, because records are made again from their start.
//!
//! Nothing here is safe from the machine: a segment is as gone after a power failure as the program.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::system::{self, Mapping};
use super::{Error, PAGE, Refusal, Run};

const MAGIC: [u8; 8] = *b"APUSFTSG";
const VERSION: u32 = 1;
/// Where the commit is.
const COMMIT: u64 = 2048;
/// A record's head: magic, checkpoint, runs, pages, check.
const HEAD: usize = 40;
const RECORD: u64 = 0x5450_4b43_5446_5041;
/// A log that has so much is changed for the other, if that is empty. So much of each is there from the start: memory that comes
/// while a program waits costs as much again.
const SOFT: u64 = 4 << 20;
/// A lasting layout's name is no longer.
const LAYOUT: usize = 256;

/// What a segment is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Address of the first page.
    pub(super) base: usize,
    /// Most pages.
    pub(super) pages: usize,
    /// Who lays the data out.
    pub(super) layout: String,
}

/// What counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Commit {
    /// The life that wrote last, from 1 on.
    epoch: u64,
    /// The last checkpoint; they go on through all lives.
    checkpoint: u64,
    /// Which log is written to.
    active: u64,
    /// Bytes of each.
    filled: [u64; 2],
    /// Records whose pages are in the base are up to this checkpoint.
    folded: u64,
    /// The life that made the last checkpoint.
    made_in: u64,
}

impl Commit {
    fn encode(&self) -> [u8; 80] {
        let words =
            [self.epoch, self.checkpoint, self.active, self.filled[0], self.filled[1], self.folded, self.made_in, 0, 0];
        let mut bytes = [0; 80];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let check = check(&bytes[..72]);
        bytes[72..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; 80]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(*bytes[at * 8..].first_chunk().expect("a word of ten"));
        let commit = Self {
            epoch: word(0),
            checkpoint: word(1),
            active: word(2),
            filled: [word(3), word(4)],
            folded: word(5),
            made_in: word(6),
        };
        (word(9) == check(&bytes[..72]) && commit.active < 2).then_some(commit)
    }
}

/// A sum over words that tells what was written from what was not; against accidents, not against an enemy.
fn check(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0x9e37_79b9_7f4a_7c15, |sum: u64, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    })
}

/// Bytes of a record.
const fn length(runs: usize, pages: usize) -> u64 {
    (HEAD + runs * 8 + pages * PAGE) as u64
}

/// Bytes of a log: one checkpoint of all pages, in as many runs as there can be, and room for small ones before it.
const fn log_bytes(pages: usize) -> u64 {
    (length(pages / 2 + 1, pages) + SOFT).next_multiple_of(PAGE as u64)
}

#[derive(Debug)]
struct State {
    commit: Commit,
    /// Nobody writes any more.
    over: bool,
    /// Why the base could not be written.
    stuck: Option<io::ErrorKind>,
}

/// What the program and the thread that folds share.
#[derive(Debug)]
struct Shared {
    file: File,
    pages: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A segment in use.
#[derive(Debug)]
pub(super) struct Segment {
    shared: Arc<Shared>,
    folder: Option<JoinHandle<()>>,
    head: Vec<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self) -> u64 {
        PAGE as u64
    }

    fn log(&self, which: usize) -> u64 {
        self.base() + (self.pages * PAGE) as u64 + log_bytes(self.pages) * which as u64
    }

    fn bytes(&self) -> u64 {
        self.log(2)
    }

    /// Makes a commit count.
    fn commit(&self, state: &mut State, commit: Commit) -> io::Result<()> {
        // 80 bytes of one page: a process is killed before or after, not in the middle.
        self.file.write_all_at(&commit.encode(), COMMIT)?;
        state.commit = commit;
        Ok(())
    }

    /// Works while there is something to bring into the base.
    fn fold(&self, image: &Mapping) {
        let mut state = self.state();
        loop {
            let other = 1 - state.commit.active as usize;
            if state.commit.filled[other] == 0 || state.stuck.is_some() {
                if state.over {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let filled = state.commit.filled[other];
            drop(state);
            let done = self.bring(image, other, filled);
            state = self.state();
            let done = done.and_then(|last| {
                let mut commit = state.commit;
                commit.filled[other] = 0;
                commit.folded = last;
                self.commit(&mut state, commit)
            });
            if let Err(error) = done {
                state.stuck = Some(error.kind());
            } else if filled > 2 * SOFT {
                // A large one was there: memory above the usual goes back.
                let usual = (2 * SOFT).min(log_bytes(self.pages));
                let _ = system::room(&self.file, self.log(other) + usual, log_bytes(self.pages) - usual, false);
            }
            self.changed.notify_all();
        }
    }

    /// Brings a log's records into the base.
    fn bring(&self, image: &Mapping, which: usize, filled: u64) -> io::Result<u64> {
        let mut last = 0;
        let log = self.log(which);
        let start = image.base().wrapping_add(log as usize).cast_const();
        // SAFETY: the mapping covers the file, whose length is sealed; this stretch is changed by nobody while it is not active.
        let bytes = unsafe { std::slice::from_raw_parts(start, filled as usize) };
        for record in records(bytes, self.pages) {
            let record = record.map_err(|(at, what)| io::Error::other(format!("byte {at} of log {which}: {what}")))?;
            for (run, pages) in record.runs() {
                let mut to = self.base() + u64::from(run.first) * PAGE as u64;
                // The system lets one write to a file at a time: a checkpoint waits for no more than this.
                for part in pages.chunks(16 * PAGE) {
                    self.file.write_all_at(part, to)?;
                    to += part.len() as u64;
                }
            }
            last = record.checkpoint;
        }
        Ok(last)
    }
}

/// A record as it lies in a log.
struct Record<'a> {
    checkpoint: u64,
    runs: &'a [u8],
    pages: &'a [u8],
}

impl<'a> Record<'a> {
    fn runs(&self) -> impl Iterator<Item = (Run, &'a [u8])> {
        let mut rest = self.pages;
        self.runs.chunks_exact(8).map(move |run| {
            let word = |at: usize| u32::from_le_bytes(*run[at..].first_chunk().expect("four bytes of eight"));
            let run = Run { first: word(0), count: word(4) };
            let (pages, after) = rest.split_at(run.count as usize * PAGE);
            rest = after;
            (run, pages)
        })
    }
}

/// The records of a log; or where one is wrong, and how.
fn records(bytes: &[u8], capacity: usize) -> impl Iterator<Item = Result<Record<'_>, (u64, &'static str)>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at as u64;
        at = bytes.len();
        let word =
            |place: usize| rest.get(place..place + 8).map(|word| u64::from_le_bytes(word.try_into().expect("8")));
        let head = (word(0), word(8), word(16), word(24), word(32));
        let (Some(RECORD), Some(checkpoint), Some(runs), Some(pages), Some(told)) = head else {
            return Some(Err((start, "no record begins here")));
        };
        let (runs, pages) = (runs as usize, pages as usize);
        if runs > capacity || pages > capacity || rest.len() < HEAD + runs * 8 + pages * PAGE {
            return Some(Err((start, "a record is longer than its log")));
        }
        let (head, pages_of) = rest.split_at(HEAD + runs * 8);
        if told != check(&head[..32]) ^ check(&head[HEAD..]) {
            return Some(Err((start, "a record's head is damaged")));
        }
        let record = Record { checkpoint, runs: &head[HEAD..], pages: &pages_of[..pages * PAGE] };
        let whole = record.runs.chunks_exact(8).try_fold(0, |sum, run| {
            let word = |at: usize| u32::from_le_bytes(*run[at..].first_chunk().expect("four of eight")) as usize;
            (word(0) + word(4) <= capacity).then_some(sum + word(4))
        });
        if whole != Some(pages) {
            return Some(Err((start, "a record tells of pages that are not there")));
        }
        at = start as usize + HEAD + runs * 8 + pages * PAGE;
        Some(Ok(record))
    })
}

impl Segment {
    /// A new one, of which nothing but zeros is known.
    ///
    /// # Errors
    /// What the system refuses.
    pub(super) fn create(shape: &Shape) -> Result<(File, Self), Error> {
        let file = system::memory_file("apus-ft").map_err(Error::of("memory for the segment"))?;
        let shared = Shared::new(file, shape.pages);
        let failed = || Error::of("memory for the segment");
        shared.file.set_len(shared.bytes()).map_err(failed())?;
        system::seal_length(&shared.file).map_err(failed())?;
        for which in 0..2 {
            let usual = (SOFT + SOFT / 4).min(log_bytes(shape.pages));
            system::room(&shared.file, shared.log(which), usual, true).map_err(failed())?;
        }
        shared.file.write_all_at(&header(shape), 0).map_err(failed())?;
        let mut segment = Self::start(shared)?;
        segment.lock()?;
        segment.new_life()?;
        let file = segment.shared.file.try_clone().map_err(failed())?;
        Ok((file, segment))
    }

    /// One of an earlier life.
    ///
    /// # Errors
    /// If it is another's, or damaged, or in use; see [`Refusal`].
    pub(super) fn open(file: File, shape: &Shape) -> Result<Self, Error> {
        let damaged = |offset: u64, what: &str| Refusal::Damaged { file: None, offset, what: what.to_owned() };
        let mut found = [0; PAGE];
        file.read_exact_at(&mut found, 0).map_err(|_| damaged(0, "it has no header"))?;
        if found[..8] != MAGIC {
            return Err(damaged(0, "it is no segment").into());
        }
        let version = u32::from_le_bytes(*found[8..].first_chunk().expect("four of a page"));
        if version > VERSION {
            return Err(Refusal::Later { file: None, version }.into());
        }
        let (own, known) = (header(shape), &found[..COMMIT as usize]);
        if own[..40] != known[..40] {
            let word = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight"));
            let tell = |bytes: &[u8]| format!("{} pages from {:#x} on", word(bytes, 24), word(bytes, 16));
            let what = format!("it holds {}, and {} are asked for", tell(known), tell(&own));
            return Err(Refusal::OtherShape { what }.into());
        }
        if own[40..] != known[40..] {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
            return Err(Refusal::OtherLayout { found: text(&known[40..40 + LAYOUT]), own: shape.layout.clone() }.into());
        }
        let commit: &[u8; 80] = found[COMMIT as usize..].first_chunk().expect("80 of a page");
        let commit = Commit::decode(commit).ok_or_else(|| damaged(COMMIT, "its commit is damaged"))?;
        let shared = Shared::new(file, shape.pages);
        let long = shared.file.metadata().map_err(Error::of("the segment"))?.len();
        if long != shared.bytes() {
            return Err(damaged(long, "it is cut").into());
        }
        if commit.filled.iter().any(|filled| *filled > log_bytes(shape.pages)) {
            return Err(damaged(COMMIT, "its commit counts more than there can be").into());
        }
        shared.state().commit = commit;
        let mut segment = Self::prepared(shared);
        segment.lock()?;
        Ok(segment)
    }

    fn prepared(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), folder: None, head: Vec::new() }
    }

    fn start(shared: Shared) -> Result<Self, Error> {
        let mut segment = Self::prepared(shared);
        segment.begin()?;
        Ok(segment)
    }

    /// Starts the thread that folds.
    fn begin(&mut self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let bytes = usize::try_from(shared.bytes()).unwrap_or(usize::MAX);
        let image = Mapping::of(&shared.file, bytes).map_err(Error::of("the segment"))?;
        let thread = std::thread::Builder::new().name("apus-ft".into());
        self.folder = Some(thread.spawn(move || shared.fold(&image)).map_err(Error::of("a thread for the segment"))?);
        Ok(())
    }

    fn lock(&mut self) -> Result<(), Error> {
        match system::lock(&self.shared.file).map_err(Error::of("the segment's lock"))? {
            Some(pid) => Err(Refusal::InUse { pid }.into()),
            None => Ok(()),
        }
    }

    /// Begins a life.
    fn new_life(&mut self) -> Result<(), Error> {
        let mut state = self.shared.state();
        let commit = Commit { epoch: state.commit.epoch + 1, ..state.commit };
        self.shared.commit(&mut state, commit).map_err(Error::of("the segment's commit"))
    }

    /// The life that has it, and the last checkpoint: in which life it was made, and its number; 0 is none.
    pub(super) fn known(&self) -> (u64, (u64, u64)) {
        let commit = self.shared.state().commit;
        (commit.epoch, (commit.made_in, commit.checkpoint))
    }

    /// One more hold on its file.
    pub(super) fn file(&self) -> io::Result<OwnedFd> {
        Ok(self.shared.file.try_clone()?.into())
    }

    /// Says from outside what the last checkpoint was: the data came from a file.
    pub(super) fn set_known(&self, epoch: u64, made_in: u64, checkpoint: u64) -> Result<(), Error> {
        let mut state = self.shared.state();
        let commit = Commit { epoch, checkpoint, made_in, ..state.commit };
        self.shared.commit(&mut state, commit).map_err(Error::of("the segment's commit"))
    }

    /// Gives the last checkpoint's pages, in the order in which they are to be written over each other, and begins a new life. All
    /// records are looked at before the first page is given.
    ///
    /// # Errors
    /// If a record is damaged.
    pub(super) fn recover(&mut self, mut give: impl FnMut(Run, &[u8])) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let commit = shared.state().commit;
        let bytes = usize::try_from(shared.bytes()).unwrap_or(usize::MAX);
        let image = Mapping::of(&shared.file, bytes).map_err(Error::of("the segment"))?;
        // SAFETY: the mapping covers the file, whose length is sealed, and which this process alone writes to: it has the lock.
        let image = unsafe { std::slice::from_raw_parts(image.base().cast_const(), image.len()) };
        let older = 1 - commit.active as usize;
        let log = |which: usize| &image[shared.log(which) as usize..][..commit.filled[which] as usize];
        for which in [older, 1 - older] {
            for record in records(log(which), shared.pages) {
                let Err((at, what)) = record else { continue };
                let offset = shared.log(which) + at;
                return Err(Refusal::Damaged { file: None, offset, what: what.to_owned() }.into());
            }
        }
        let end = shared.base() + (shared.pages * PAGE) as u64;
        let mut at = shared.base();
        while let Some((start, stop)) = system::next_data(&shared.file, at).map_err(Error::of("the segment"))? {
            let stop = stop.min(end);
            if start >= stop {
                break;
            }
            let first = (start - shared.base()) / PAGE as u64;
            let run = Run { first: first as u32, count: ((stop - start) / PAGE as u64) as u32 };
            give(run, &image[start as usize..stop as usize]);
            at = stop;
        }
        for which in [older, 1 - older] {
            for record in records(log(which), shared.pages).flatten() {
                for (run, pages) in record.runs() {
                    give(run, pages);
                }
            }
        }
        self.begin()?;
        self.new_life()
    }

    /// Adds a checkpoint: pages at `memory`, page 0 first.
    ///
    /// # Errors
    /// If it could not be made; the one before counts then.
    ///
    /// # Safety
    /// The pages of `runs` must be readable there.
    pub(super) unsafe fn append(&mut self, checkpoint: u64, runs: &[Run], memory: *const u8) -> Result<u64, Error> {
        let pages = runs.iter().map(|run| run.count as usize).sum();
        let need = length(runs.len(), pages);
        let most = log_bytes(self.shared.pages);
        self.encode(checkpoint, runs, pages);
        let mut state = self.shared.state();
        let mut commit;
        loop {
            if let Some(kind) = state.stuck.take_if(|_| true) {
                // The thread tries again once it is woken.
                self.shared.changed.notify_all();
                return Err(Error::System { what: "the segment's base".into(), error: kind.into() });
            }
            commit = state.commit;
            let (active, other) = (commit.active as usize, 1 - commit.active as usize);
            let full = commit.filled[active] + need > most;
            if (full || commit.filled[active] > SOFT) && commit.filled[other] == 0 {
                commit.active = other as u64;
                break;
            }
            if !full {
                break;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let active = commit.active as usize;
        let at = self.shared.log(active) + commit.filled[active];
        let mut parts = Vec::with_capacity(1 + runs.len());
        parts.push(libc::iovec { iov_base: self.head.as_mut_ptr().cast(), iov_len: self.head.len() });
        parts.extend(runs.iter().map(|run| libc::iovec {
            iov_base: memory.wrapping_add(run.first as usize * PAGE).cast_mut().cast(),
            iov_len: run.count as usize * PAGE,
        }));
        // SAFETY: the head is ours, and the pages are readable, as the caller promises.
        unsafe { system::write_all(&self.shared.file, &mut parts, at) }.map_err(Error::of("the segment's log"))?;
        let switched = commit.active != state.commit.active;
        commit.filled[active] += need;
        commit.checkpoint = checkpoint;
        commit.made_in = commit.epoch;
        self.shared.commit(&mut state, commit).map_err(Error::of("the segment's commit"))?;
        if switched {
            self.shared.changed.notify_all();
        }
        Ok(need)
    }

    fn encode(&mut self, checkpoint: u64, runs: &[Run], pages: usize) {
        let head = &mut self.head;
        head.clear();
        for word in [RECORD, checkpoint, runs.len() as u64, pages as u64, 0] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        for run in runs {
            head.extend_from_slice(&run.first.to_le_bytes());
            head.extend_from_slice(&run.count.to_le_bytes());
        }
        let told = check(&head[..32]) ^ check(&head[HEAD..]);
        head[32..HEAD].copy_from_slice(&told.to_le_bytes());
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.changed.notify_all();
        if let Some(folder) = self.folder.take() {
            let _ = folder.join();
        }
    }
}

impl Shared {
    fn new(file: File, pages: usize) -> Self {
        let state = State { commit: Commit::default(), over: false, stuck: None };
        Self { file, pages, state: Mutex::new(state), changed: Condvar::new() }
    }
}

/// The first half of the first page.
fn header(shape: &Shape) -> [u8; COMMIT as usize] {
    let mut header = [0; COMMIT as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(PAGE as u32).to_le_bytes());
    header[16..24].copy_from_slice(&(shape.base as u64).to_le_bytes());
    header[24..32].copy_from_slice(&(shape.pages as u64).to_le_bytes());
    let layout = &shape.layout.as_bytes()[..shape.layout.len().min(LAYOUT)];
    header[40..40 + layout.len()].copy_from_slice(layout);
    header
}
