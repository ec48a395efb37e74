//! The ring on the disk: a thread that appends to the newest segment and removes the oldest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::file::{SEGMENT, put_header};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The ring's files together have at most about so many bytes: a segment more while the newest one grows.
    pub bytes: u64,
    /// A segment of so many bytes is full.
    pub segment: usize,
    /// So many bytes wait for the disk at most; what comes then is a gap.
    pub queue: usize,
    /// What comes within this is written together: a node at rest does not wake for each of its steps. A process that is killed loses as much.
    pub gather: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(32 << 20)
    }
}

impl Settings {
    /// A ring of so many bytes.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let segment = usize::try_from(bytes / 16).unwrap_or(1 << 20).clamp(16 << 10, 1 << 20);
        Self { bytes, segment, queue: 4 << 20, gather: Duration::from_millis(250) }
    }
}

/// The name of a segment's file.
pub(super) fn name(number: u64) -> String {
    format!("segment-{number:016x}")
}

fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("segment-")?, 16).ok()
}

/// The segments of a ring, oldest first, and their lengths.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(number) {
            // One that is removed meanwhile is no error.
            all.extend(entry.metadata().ok().map(|data| (number, data.len())));
        }
    }
    all.sort_unstable();
    Ok(all)
}

enum Job {
    Begin(u64, Vec<u8>),
    More(Vec<u8>),
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Told {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// The segment that was begun last could not be written to its end.
    failed: AtomicBool,
}

/// The end of the queue at which the engine stands.
#[derive(Debug)]
pub(super) struct Ring {
    jobs: Option<Sender<Job>>,
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
    settings: Settings,
}

impl Ring {
    /// Goes on behind what the folder holds; gives the next segment's number too.
    pub(super) fn open(folder: &Path, settings: Settings) -> io::Result<(Self, u64)> {
        make(folder)?;
        let next = segments(folder)?.last().map_or(0, |(number, _)| number + 1);
        let told = Arc::new(Told::default());
        let (jobs, todo) = channel();
        let disk = Disk { folder: folder.into(), settings, file: None };
        let thread = std::thread::Builder::new().name("record".into()).spawn({
            let told = told.clone();
            move || disk.work(&todo, &told)
        })?;
        Ok((Self { jobs: Some(jobs), told, thread: Some(thread), settings }, next))
    }

    /// Begins a segment.
    pub(super) fn begin(&self, number: u64, bytes: Vec<u8>) {
        self.told.failed.store(false, Ordering::Release);
        self.send(Job::Begin(number, bytes));
    }

    /// Appends; false: nothing more may come before a new segment begins.
    pub(super) fn append(&self, bytes: Vec<u8>) -> bool {
        if self.told.failed.load(Ordering::Acquire) || !self.has_room(bytes.len()) {
            return false;
        }
        self.send(Job::More(bytes));
        true
    }

    /// Whether so much fits into the queue.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.told.waiting.load(Ordering::Acquire) + bytes <= self.settings.queue
    }

    fn send(&self, job: Job) {
        let (Job::Begin(_, bytes) | Job::More(bytes)) = &job;
        let length = bytes.len();
        let before = self.told.waiting.fetch_add(length, Ordering::AcqRel);
        // The thread lives as long as this.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
        let urgent = self.settings.queue / 8;
        if before < urgent && before + length >= urgent {
            self.wake();
        }
    }

    /// Waits until nothing waits.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        while self.told.waiting.load(Ordering::Acquire) > 0 {
            self.wake();
            std::thread::yield_now();
        }
    }

    /// Ends the thread's pause.
    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

/// What waits is written.
impl Drop for Ring {
    fn drop(&mut self) {
        self.jobs = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the folder, for its owner only: packets may hold what is nobody else's.
fn make(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

struct Disk {
    folder: PathBuf,
    settings: Settings,
    file: Option<File>,
}

/// Written together at most, in bytes.
const TOGETHER: usize = 64 << 10;

impl Disk {
    fn work(mut self, todo: &Receiver<Job>, told: &Told) {
        let mut next = todo.recv().ok();
        while let Some(job) = next.take() {
            let (done, bytes) = match job {
                Job::Begin(number, bytes) => (self.begin(number, &bytes), bytes.len()),
                Job::More(mut bytes) => {
                    while bytes.len() < TOGETHER {
                        match todo.try_recv() {
                            Ok(Job::More(more)) => bytes.extend_from_slice(&more),
                            Ok(begin) => {
                                next = Some(begin);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    (self.append(&bytes), bytes.len())
                }
            };
            if done.is_err() {
                self.file = None;
                told.failed.store(true, Ordering::Release);
            }
            told.waiting.fetch_sub(bytes, Ordering::AcqRel);
            if next.is_none() {
                next = match todo.try_recv() {
                    Ok(job) => Some(job),
                    Err(TryRecvError::Disconnected) => None,
                    Err(TryRecvError::Empty) => {
                        std::thread::park_timeout(self.settings.gather);
                        todo.recv().ok()
                    }
                };
            }
        }
        // A start that follows at once finds all of it.
        if let Some(file) = self.file {
            let _ = file.sync_data();
        }
    }

    fn begin(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(full) = self.file.take() {
            full.sync_data()?;
        }
        let all = segments(&self.folder)?;
        let mut sum: u64 = all.iter().map(|(_, length)| length).sum::<u64>() + bytes.len() as u64;
        for (old, length) in all {
            if sum + self.settings.segment as u64 <= self.settings.bytes {
                break;
            }
            match fs::remove_file(self.folder.join(name(old))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sum -= length,
            }
        }
        let mut options = OpenOptions::new();
        options.create_new(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(self.folder.join(name(number)))?;
        let mut whole = Vec::with_capacity(16 + bytes.len());
        put_header(&mut whole, SEGMENT);
        whole.extend_from_slice(bytes);
        file.write_all(&whole)?;
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}
