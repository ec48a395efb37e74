//! A life of a program, with what it keeps.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::segment::{Segment, Shape};
use super::store::Store;
use super::system::{self, Mapping};
use super::track::{Tracker, Tracking};
use super::{Error, PAGE, Refusal, Run, supervise};
use crate::image::Head;

/// Where memory starts if nothing else is said: far from where systems put anything.
const BASE: usize = 0x2000_0000_0000;
/// Arenas of one region.
const ARENAS: usize = 63;
/// Bytes of an arena's name at most.
const NAME: usize = 48;
const MAGIC: u64 = 0x4e4f_4947_4552_5446;

/// This process came out of a fork: what it has of the library is a copy.
static FORKED: AtomicBool = AtomicBool::new(false);

/// How a life begins.
#[derive(Debug)]
pub struct Config {
    /// The program's name, as its supervisor knows the segment: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Bytes of all arenas together, and one page. Memory is used as it is written.
    pub capacity: usize,
    /// Where checkpoints are saved as files; `None` for a segment only.
    pub folder: Option<PathBuf>,
    /// Address of the first page, the same in each life.
    pub base: usize,
    /// Who lays out the data in the arenas. `None`: this build of the program and no other. Give a name of your own, and another
    /// one whenever the layout changes, so that a later build can go on.
    pub layout: Option<String>,
    /// How written pages are found.
    pub tracking: Tracking,
    /// A segment of an earlier life. `None`: the supervisor is asked.
    pub segment: Option<OwnedFd>,
    /// What an earlier life left is not looked at: files stay where they are, and a new life begins beside them.
    pub afresh: bool,
}

impl Config {
    /// A program of this name with 64 MiB, no folder, and the usual address.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            capacity: 64 << 20,
            folder: None,
            base: BASE,
            layout: None,
            tracking: Tracking::Protected,
            segment: None,
            afresh: false,
        }
    }

    /// As [`Config::new`], with what the environment says: `APUS_FT_DIR` is the folder, `APUS_FT_CAPACITY` the capacity in bytes.
    ///
    /// # Errors
    /// If the capacity is no number.
    pub fn from_env(name: impl Into<String>) -> Result<Self, Error> {
        let mut config = Self::new(name);
        config.folder = std::env::var_os("APUS_FT_DIR").map(PathBuf::from);
        if let Some(capacity) = std::env::var_os("APUS_FT_CAPACITY") {
            let text = capacity.to_string_lossy().into_owned();
            let bytes = text.trim().parse();
            config.capacity =
                bytes.map_err(|_| Error::Usage(format!("APUS_FT_CAPACITY: `{text}` is no number of bytes")))?;
        }
        Ok(config)
    }
}

/// What this life began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing: all arenas are zeros.
    Cold,
    /// The last checkpoint, from the segment.
    Segment {
        /// The life that made it.
        epoch: u64,
        /// Its number.
        number: u64,
    },
    /// A saved checkpoint, from files.
    Files {
        /// The life that made it.
        epoch: u64,
        /// Its number.
        number: u64,
        /// Files that were passed over, and why. Not empty: later checkpoints may be lost.
        flaws: Vec<Refusal>,
    },
}

/// A checkpoint that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its number; as before if nothing had changed.
    pub number: u64,
    /// Pages that were written since the one before.
    pub pages: usize,
    /// How long the caller waited.
    pub pause: Duration,
}

/// A checkpoint that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its number.
    pub number: u64,
    /// Its file; `None` if nothing had changed since the last one.
    pub file: Option<PathBuf>,
    /// Bytes of the file.
    pub bytes: u64,
    /// It holds all pages, and goes on from no other file.
    pub full: bool,
}

/// The first page: what arenas there are.
#[repr(C)]
struct Super {
    magic: u64,
    used: u64,
    arenas: u64,
    spare: [u64; 5],
    entries: [Entry; ARENAS],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    name: [u8; NAME],
    first: u64,
    pages: u64,
}

const _: () = assert!(size_of::<Super>() == PAGE);

/// The library's hold on a life of a program.
///
/// One for each [`Config::base`]. Not to be used in a process that was forked from this one without an `exec`: it says so.
#[derive(Debug)]
pub struct Ft {
    region: Arc<Mapping>,
    pages: usize,
    layout: String,
    tracker: Tracker,
    segment: Segment,
    store: Option<Store>,
    recovered: Recovered,
    epoch: u64,
    number: u64,
    given: BTreeSet<String>,
    /// Pages whose checkpoint failed.
    owed: Vec<Run>,
    runs: Vec<Run>,
    /// Pages that are in no file, one bit each.
    unsaved: Vec<u64>,
}

impl Ft {
    /// Begins a life: with what the last one left, if it left something.
    ///
    /// A segment counts if it holds a later checkpoint than the files do.
    ///
    /// # Errors
    /// [`Error::Refused`] if something is there and cannot be used: nothing of it is changed then. [`Config::afresh`] begins
    /// without it.
    pub fn init(config: Config) -> Result<Self, Error> {
        config.check()?;
        let pages = config.capacity / PAGE;
        let layout = config.layout.clone().map_or_else(system::build, Ok).map_err(Error::of("the running program"))?;
        let shape = Shape { base: config.base, pages, layout: layout.clone() };
        let kept = config.segment.or_else(|| supervise::taken(&config.name)).filter(|_| !config.afresh);
        let mut segment = kept.map(|fd| Segment::open(File::from(fd), &shape)).transpose()?;
        let store = config.folder.as_deref().map(Store::open).transpose()?;
        let (mut store, found) = store.map_or_else(Default::default, |(store, found)| (Some(store), found));
        let region = Mapping::fixed(config.base, config.capacity).map_err(Error::of("memory for arenas"))?;
        let region = region.ok_or(Refusal::Occupied { base: config.base, bytes: config.capacity })?;
        let put = |run: Run, bytes: &[u8]| {
            let most = (pages * PAGE).saturating_sub(run.first as usize * PAGE);
            let bytes = &bytes[..bytes.len().min(most)];
            let to = region.base().wrapping_add(run.first as usize * PAGE);
            // SAFETY: it lies within the region, of which nobody else has anything yet.
            unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        };
        let in_segment = segment.as_ref().map(|segment| segment.known().1).filter(|(_, number)| *number > 0);
        let in_files = found.last.filter(|_| !config.afresh);
        let mut recovered = Recovered::Cold;
        if in_segment.is_some() && in_segment >= in_files {
            let (epoch, number) = in_segment.unwrap_or_default();
            if let Some(segment) = &mut segment {
                segment.recover(put)?;
            }
            recovered = Recovered::Segment { epoch, number };
        } else {
            // An empty segment, or one that is behind, is of no use.
            segment = None;
            if let Some((epoch, number)) = in_files {
                if let Some(head) = Store::load(&found, put)? {
                    fits(&head, &shape)?;
                }
                recovered = Recovered::Files { epoch, number, flaws: found.flaws };
            }
        }
        let highest = store.as_ref().map_or((0, 0), Store::highest);
        let known = segment.as_ref().map(Segment::known);
        let epoch = highest.0.saturating_add(1).max(known.map_or(1, |(epoch, _)| epoch));
        let number = highest.1.max(known.map_or(0, |(_, (_, number))| number));
        if let (Some(store), Recovered::Cold | Recovered::Segment { .. }) = (&mut store, &recovered) {
            // What is in the files is not what is here, or not all of it: which pages differ is not known.
            store.begin_anew();
        }
        let warm = recovered != Recovered::Cold;
        let fresh = segment.is_none();
        let segment = segment.map_or_else(|| supervised(&config.name, &shape), Ok)?;
        let tracker = Tracker::new(config.base, config.tracking);
        let unsaved = vec![0; pages.div_ceil(64)];
        let region = Arc::new(region);
        let (given, owed, runs) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut ft = Self {
            region,
            pages,
            layout,
            tracker,
            segment,
            store,
            recovered,
            epoch,
            number,
            given,
            owed,
            runs,
            unsaved,
        };
        ft.segment.set_known(epoch, ft.made_in(), number)?;
        ft.begin(warm, fresh)?;
        static WATCHED: std::sync::Once = std::sync::Once::new();
        WATCHED.call_once(|| {
            extern "C" fn forked() {
                FORKED.store(true, Ordering::Relaxed);
            }
            // SAFETY: the function stays, and does nothing that a forked process may not do.
            unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        });
        Ok(ft)
    }

    /// The life in which the checkpoint was made that is here.
    const fn made_in(&self) -> u64 {
        match self.recovered {
            Recovered::Cold => 0,
            Recovered::Segment { epoch, .. } | Recovered::Files { epoch, .. } => epoch,
        }
    }

    /// Takes in the memory as it is: as recovered, or empty.
    fn begin(&mut self, warm: bool, fresh: bool) -> Result<(), Error> {
        let used = if warm { self.top().used } else { 1 };
        let sound = !warm || self.top().magic == MAGIC && used >= 1 && self.are_sound();
        let used = usize::try_from(used).ok().filter(|used| sound && *used <= self.pages).ok_or_else(|| {
            let what = "the table of arenas is damaged".to_owned();
            Refusal::Damaged { file: None, offset: PAGE as u64, what }
        })?;
        // SAFETY: they are within the region, which is mapped for as long as the tracker lives.
        unsafe { self.tracker.begin(0, used) }.map_err(Error::of("tracking of written pages"))?;
        if !warm {
            let top = self.top_mut();
            (top.magic, top.used, top.arenas) = (MAGIC, 1, 0);
        } else if fresh {
            // A new segment knows nothing yet.
            self.owed.push(Run { first: 0, count: used as u32 });
        }
        if warm && fresh { self.checkpoint().map(|_| ()) } else { Ok(()) }
    }

    fn top(&self) -> &Super {
        // SAFETY: the first page is the library's own, is aligned, and any bytes are a table.
        unsafe { &*self.region.base().cast::<Super>() }
    }

    fn top_mut(&mut self) -> &mut Super {
        // SAFETY: as above; nobody else has it.
        unsafe { &mut *self.region.base().cast::<Super>() }
    }

    /// Whether the arenas of the table lie one behind the other.
    fn are_sound(&self) -> bool {
        let top = self.top();
        let many = usize::try_from(top.arenas).unwrap_or(usize::MAX);
        let entries = top.entries.get(..many);
        let ends = entries.map(|entries| {
            entries.iter().try_fold(1_u64, |at, entry| (entry.first == at).then(|| at.saturating_add(entry.pages)))
        });
        ends.flatten() == Some(top.used)
    }

    /// What this life began with.
    #[must_use]
    pub const fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// How written pages are found: hashed, if the kernel did not give what was asked for.
    #[must_use]
    pub const fn tracking(&self) -> Tracking {
        self.tracker.tracking()
    }

    /// Which life this is, from 1 on; no other has its number.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The arena of this name: as it was, or zeros if there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] if the name is wrong, there is no room, or it is there with fewer bytes; or if it was given already.
    pub fn arena(&mut self, name: &str, bytes: usize) -> Result<Arena, Error> {
        let usage = |what: String| Err(Error::Usage(format!("arena `{name}`: {what}")));
        if name.is_empty() || name.len() > NAME || name.bytes().any(|byte| byte == 0) {
            return usage(format!("a name is 1 to {NAME} bytes, without zeros"));
        }
        if self.given.contains(name) {
            return usage("it was given already; there is one hold on each".into());
        }
        let pages = bytes.max(1).div_ceil(PAGE);
        let mut full = [0; NAME];
        full[..name.len()].copy_from_slice(name.as_bytes());
        let many = self.top().arenas as usize;
        let there = self.top().entries[..many].iter().find(|entry| entry.name == full).copied();
        let entry = match there {
            Some(entry) if entry.pages < pages as u64 => {
                let has = entry.pages as usize * PAGE;
                return usage(format!(
                    "it was made with {has} bytes, and {bytes} are asked for; make another and copy"
                ));
            }
            Some(entry) => entry,
            None => {
                let (first, left) = (self.top().used as usize, self.pages - self.top().used as usize);
                if many == ARENAS {
                    return usage(format!("there are {ARENAS} already"));
                }
                if pages > left {
                    let left = left * PAGE;
                    return usage(format!(
                        "{bytes} bytes are asked for, {left} are left; give `Config::capacity` more"
                    ));
                }
                // SAFETY: they are within the region, which is mapped for as long as the tracker lives.
                let begun = unsafe { self.tracker.begin(first, first + pages) };
                begun.map_err(Error::of("tracking of written pages"))?;
                let entry = Entry { name: full, first: first as u64, pages: pages as u64 };
                let top = self.top_mut();
                top.entries[many] = entry;
                top.arenas += 1;
                top.used += entry.pages;
                entry
            }
        };
        self.given.insert(name.to_owned());
        // SAFETY: the table says that it lies there, and it is given once.
        Ok(unsafe { Arena::new(&self.region, entry.first as usize, entry.pages as usize) })
    }

    /// Makes all arenas, as they are now, what the next life begins with. Call it when what they hold is whole: no thread is in the
    /// middle of a change.
    ///
    /// Once this returns, `kill -9` takes nothing of it away. A power failure does, unless it is [saved](Self::save).
    ///
    /// # Errors
    /// What the system refuses. The checkpoint before counts then; the next one has all that this one would have had.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, Error> {
        if FORKED.load(Ordering::Relaxed) {
            return Err(Error::Usage("a forked process has a copy of its parent's arenas, and no checkpoints".into()));
        }
        let began = Instant::now();
        self.runs.clear();
        self.runs.append(&mut self.owed);
        let used = self.top().used as usize;
        // SAFETY: so many pages have begun.
        let looked = unsafe { self.tracker.look(used, &mut self.runs) };
        if let Err(error) = looked {
            self.owed.append(&mut self.runs);
            return Err(Error::System { what: "tracking of written pages".into(), error });
        }
        let pages = self.runs.iter().map(|run| run.count as usize).sum();
        if pages > 0 {
            // SAFETY: the pages are within the region.
            let made = unsafe { self.segment.append(self.number + 1, &self.runs, self.region.base()) };
            if let Err(error) = made {
                self.owed.append(&mut self.runs);
                return Err(error);
            }
            self.number += 1;
            if self.store.is_some() {
                for page in self.runs.iter().flat_map(|run| run.first..run.first + run.count) {
                    self.unsaved[page as usize / 64] |= 1 << (page % 64);
                }
            }
        }
        Ok(Checkpoint { number: self.number, pages, pause: began.elapsed() })
    }

    /// Makes a checkpoint and writes it to the folder: durable once this returns.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no folder; what the system refuses: the last saved one counts then, and the next one has all
    /// that this one would have had.
    pub fn save(&mut self) -> Result<Saved, Error> {
        if self.store.is_none() {
            return Err(Error::Usage("nothing can be saved without a folder: set `Config::folder`".into()));
        }
        let number = self.checkpoint()?.number;
        let used = self.top().used as usize;
        let Some(store) = &mut self.store else { return Err(Error::Usage("no folder".into())) };
        let full = store.wants_full();
        let runs = if full { vec![Run { first: 0, count: used as u32 }] } else { marked(&self.unsaved, used) };
        if runs.is_empty() {
            return Ok(Saved { number, file: None, bytes: 0, full });
        }
        // By the kernel: the program may write meanwhile, and a page that is torn by that is written again at the next save.
        let mut copies = Vec::with_capacity(runs.len());
        for run in runs {
            copies.push((run.first, copy(self.region.base(), run)?));
        }
        let parts: Vec<(u32, &[u8])> = copies.iter().flat_map(|(first, bytes)| worth(*first, bytes, full)).collect();
        let head = Head {
            page: PAGE as u32,
            before: None,
            epoch: self.epoch,
            number,
            base: self.region.base() as u64,
            capacity: self.pages as u64,
            layout: self.layout.clone(),
        };
        let (file, bytes) = store.write(head, &parts, full)?;
        self.unsaved.fill(0);
        Ok(Saved { number, file: Some(file), bytes, full })
    }

    /// One more hold on the segment, for who supervises this program in a way of its own: a next life is given it by
    /// [`Config::segment`].
    ///
    /// # Errors
    /// What the system refuses.
    pub fn segment(&self) -> Result<OwnedFd, Error> {
        self.segment.file().map_err(Error::of("one more hold on the segment"))
    }

    /// Says to the supervisor that a thread lives, and beats again within `timeout`; zero ends its promise. As in 1998.
    ///
    /// # Errors
    /// If no supervisor is named by `NOTIFY_SOCKET`, or it does not listen.
    pub fn hbeat(thread: u32, timeout: Duration) -> Result<(), Error> {
        supervise::say(&format!("HBEAT={thread}\nTIMEOUT_USEC={}\n", timeout.as_micros()))
    }
}

/// A new segment, which the supervisor is given if there is one.
fn supervised(name: &str, shape: &Shape) -> Result<Segment, Error> {
    let (file, segment) = Segment::create(shape)?;
    if supervise::is_there() {
        supervise::give(name, file.as_fd())?;
    }
    Ok(segment)
}

/// Whether a saved checkpoint is for this program.
fn fits(head: &Head, shape: &Shape) -> Result<(), Refusal> {
    if (head.base, head.capacity, head.page as usize) != (shape.base as u64, shape.pages as u64, PAGE) {
        let what = format!(
            "saved were {} pages of {} bytes from {:#x} on, and {} of {PAGE} from {:#x} on are asked for",
            head.capacity, head.page, head.base, shape.pages, shape.base
        );
        return Err(Refusal::OtherShape { what });
    }
    if head.layout != shape.layout {
        return Err(Refusal::OtherLayout { found: head.layout.clone(), own: shape.layout.clone() });
    }
    Ok(())
}

/// The stretches whose bits are set.
fn marked(bits: &[u64], pages: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in (0..pages).filter(|page| bits[page / 64] >> (page % 64) & 1 == 1) {
        match runs.last_mut() {
            Some(last) if last.first + last.count == page as u32 => last.count += 1,
            _ => runs.push(Run { first: page as u32, count: 1 }),
        }
    }
    runs
}

/// A copy of pages, made by the kernel.
fn copy(base: *mut u8, run: Run) -> Result<Vec<u8>, Error> {
    let length = run.count as usize * PAGE;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let to = libc::iovec { iov_base: bytes[done..].as_mut_ptr().cast(), iov_len: length - done };
        let from = base.wrapping_add(run.first as usize * PAGE + done);
        let from = libc::iovec { iov_base: from.cast(), iov_len: length - done };
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
        // SAFETY: one part is ours and that long, the other is looked at by the kernel.
        let got = unsafe { libc::process_vm_readv(own, &raw const to, 1, &raw const from, 1, 0) };
        match system::told(got as i64).map_err(Error::of("a copy of pages"))? {
            0 => return Err(Error::Usage("pages of the region are not mapped any more".into())),
            more => done += more,
        }
    }
    Ok(bytes)
}

/// The stretches that a file has to hold: in a full one pages of zeros are left out.
fn worth(first: u32, bytes: &[u8], full: bool) -> Vec<(u32, &[u8])> {
    if !full {
        return vec![(first, bytes)];
    }
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let mut parts: Vec<(u32, usize, usize)> = Vec::new();
    for (at, page) in bytes.chunks_exact(PAGE).enumerate() {
        if is_zero(page) {
            continue;
        }
        match parts.last_mut() {
            Some((_, _, to)) if *to == at => *to += 1,
            _ => parts.push((first + at as u32, at, at + 1)),
        }
    }
    parts.into_iter().map(|(first, from, to)| (first, &bytes[from * PAGE..to * PAGE])).collect()
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let usage = |what: String| Err(Error::Usage(what));
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(fine) {
            return usage(format!("`{}` is no name: 1 to 64 letters, digits, `-`, `_` and `.`", self.name));
        }
        if system::page_size() != PAGE {
            return usage(format!(
                "pages of this system have {} bytes; this library works with {PAGE}",
                system::page_size()
            ));
        }
        if !system::is_whole(self.capacity) || self.capacity < 2 * PAGE || self.capacity / PAGE > u32::MAX as usize / 2
        {
            return usage(format!("a capacity of {} bytes is not of 2 pages or more, or of too many", self.capacity));
        }
        if !system::is_whole(self.base) || self.base == 0 || self.base.checked_add(self.capacity).is_none() {
            return usage(format!("{:#x} is no address that {} bytes can begin at", self.base, self.capacity));
        }
        if self.layout.as_ref().is_some_and(|layout| layout.is_empty() || layout.len() > crate::image::LAYOUT) {
            return usage(format!("a layout's name has 1 to {} bytes", crate::image::LAYOUT));
        }
        Ok(())
    }
}
