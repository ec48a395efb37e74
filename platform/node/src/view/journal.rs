//! A node's journal: the last entries in memory, more of them in two files. Both are bounded, and a slow disk holds nobody up.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::entry::Entry;

/// Entries in memory.
pub const KEPT: usize = 4_096;
/// Lines under way to the disk; one more is not written, and counted.
const WAITING: usize = 1_024;
/// A file is at most so long, in bytes; there are two.
const LONGEST: u64 = 4 << 20;
const NEW: &str = "journal";
const OLD: &str = "journal.old";

/// The wall clock, in microseconds since 1970.
#[must_use]
pub fn wall() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// A node's journal.
pub struct Journal {
    node: u16,
    inner: Mutex<Inner>,
    each: Option<Box<dyn Fn(&Entry) + Send + Sync>>,
    writer: Option<JoinHandle<()>>,
}

struct Inner {
    ring: VecDeque<Entry>,
    /// Number of the next entry.
    next: u64,
    /// Entries that are in memory only.
    unwritten: u64,
    lines: Option<SyncSender<String>>,
}

/// What a question to a journal gives.
#[derive(Debug, Default)]
pub struct Page {
    /// The oldest first.
    pub entries: Vec<Entry>,
    /// Ask on after this entry; `None`: there is no more.
    pub more: Option<u64>,
    /// Number of the newest entry; 0: there is none.
    pub last: u64,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in a folder, which is made, and goes on with its numbers; `each` sees every new entry. What cannot be read
    /// in it is passed over: a journal is for people, and nothing depends on it.
    ///
    /// # Errors
    /// If the folder or the file cannot be made.
    pub fn open(node: u16, folder: &Path, each: Option<Box<dyn Fn(&Entry) + Send + Sync>>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut ring = VecDeque::new();
        let mut last = 0;
        for name in [OLD, NEW] {
            read(&folder.join(name), |entry| {
                last = last.max(entry.seq);
                if ring.len() == KEPT {
                    ring.pop_front();
                }
                ring.push_back(entry);
            });
        }
        let file = Files::open(folder.to_owned())?;
        let (lines, waiting) = sync_channel(WAITING);
        let writer = std::thread::Builder::new().name("journal".into()).spawn(move || write(file, &waiting))?;
        let inner = Inner { ring, next: last + 1, unwritten: 0, lines: Some(lines) };
        Ok(Self { node, inner: Mutex::new(inner), each, writer: Some(writer) })
    }

    /// In memory only.
    #[must_use]
    pub fn in_memory(node: u16) -> Self {
        let inner = Inner { ring: VecDeque::new(), next: 1, unwritten: 0, lines: None };
        Self { node, inner: Mutex::new(inner), each: None, writer: None }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an entry in; the journal numbers it.
    pub fn put(&self, entry: Entry) {
        let mut entry = entry.bounded();
        let mut inner = self.inner();
        (entry.node, entry.seq) = (self.node, inner.next);
        inner.next += 1;
        let sent = match &inner.lines {
            Some(lines) => lines.try_send(entry.json().to_string()).is_ok(),
            None => false,
        };
        inner.unwritten += u64::from(!sent);
        if inner.ring.len() == KEPT {
            inner.ring.pop_front();
        }
        inner.ring.push_back(entry.clone());
        drop(inner);
        if let Some(each) = &self.each {
            each(&entry);
        }
    }

    /// Entries after a number and not before a time of the wall clock: at most so many, and of so many bytes as JSON; at least one, if
    /// there is one. `after` beyond the end, as after a wiped disk, counts as 0.
    #[must_use]
    pub fn page(&self, after: u64, since: u64, most: usize, bytes: usize) -> Page {
        let inner = self.inner();
        let last = inner.next - 1;
        let after = if after > last { 0 } else { after };
        let mut page = Page { last, ..Page::default() };
        let mut left = bytes;
        let from = inner.ring.partition_point(|entry| entry.seq <= after);
        for entry in inner.ring.range(from..).filter(|entry| entry.wall >= since) {
            let size = entry.json().to_string().len() + 1;
            if page.entries.len() == most || (size > left && !page.entries.is_empty()) {
                page.more = page.entries.last().map(|entry| entry.seq);
                break;
            }
            left = left.saturating_sub(size);
            page.entries.push(entry.clone());
        }
        page
    }

    /// The last so many entries.
    #[must_use]
    pub fn tail(&self, many: usize) -> Vec<Entry> {
        let inner = self.inner();
        let from = inner.ring.len().saturating_sub(many);
        inner.ring.range(from..).cloned().collect()
    }

    /// Number of the newest entry, and how many were never written.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.next - 1, inner.unwritten)
    }

    /// The oldest entry in memory was at this time.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.inner().ring.front().map_or(u64::MAX, |entry| entry.wall)
    }
}

/// What was told is on its way to the disk when the value is gone.
impl Drop for Journal {
    fn drop(&mut self) {
        self.inner().lines = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Entries in a folder's files from a time on, before those with this number; the last so many.
#[must_use]
pub fn on_disk(folder: &Path, since: u64, before: u64, most: usize) -> Vec<Entry> {
    let mut found = VecDeque::new();
    for name in [OLD, NEW] {
        read(&folder.join(name), |entry| {
            if entry.wall >= since && entry.seq < before {
                if found.len() == most {
                    found.pop_front();
                }
                found.push_back(entry);
            }
        });
    }
    found.into()
}

/// Every line that is an entry. Lines are cut at 4 KiB: ours are shorter.
fn read(path: &Path, mut each: impl FnMut(Entry)) {
    let Ok(file) = File::open(path) else { return };
    let mut file = BufReader::new(io::Read::take(file, 2 * LONGEST));
    let mut line = Vec::new();
    loop {
        line.clear();
        match file.read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        if line.len() <= 4_096
            && let Ok(value) = serde_json::from_slice::<Value>(&line)
            && let Some(entry) = Entry::read(&value)
        {
            each(entry);
        }
    }
}

/// The file that is written, and the one before.
struct Files {
    folder: PathBuf,
    file: File,
    length: u64,
}

impl Files {
    fn open(folder: PathBuf) -> io::Result<Self> {
        let mut file = File::options().create(true).append(true).open(folder.join(NEW))?;
        let length = file.metadata()?.len();
        // What an interrupted write left is a line of its own.
        if length > 0 {
            file.write_all(b"\n")?;
        }
        Ok(Self { folder, file, length })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.length > LONGEST {
            fs::rename(self.folder.join(NEW), self.folder.join(OLD))?;
            *self = Self::open(self.folder.clone())?;
        }
        self.length += lines.len() as u64;
        self.file.write_all(lines)
    }
}

/// Writes lines until there will be no more. What the disk refuses is in memory only.
fn write(mut files: Files, lines: &Receiver<String>) {
    while let Ok(first) = lines.recv() {
        let mut text = first + "\n";
        for line in lines.try_iter().take(WAITING) {
            text += &line;
            text.push('\n');
        }
        let _ = files.write(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("apus-journal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn said(n: u64) -> Entry {
        Entry { wall: 1_000 * n, ..Entry::new("host", "said", format!("line {n}")) }
    }

    #[test]
    fn a_restart_goes_on_with_the_numbers_and_a_torn_line_costs_only_itself() {
        let folder = folder("restart");
        let journal = Journal::open(3, &folder, None).expect("it opens");
        (1..=10).for_each(|n| journal.put(said(n)));
        drop(journal);
        let mut file = File::options().append(true).open(folder.join(NEW)).expect("it is there");
        file.write_all(br#"{"node":3,"seq":11,"wall"#).expect("it is written");
        let journal = Journal::open(3, &folder, None).expect("it opens");
        journal.put(said(11));
        let page = journal.page(0, 0, 100, 1 << 20);
        assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
        drop(journal);
        assert_eq!(on_disk(&folder, 0, u64::MAX, 100).len(), 11);
        assert_eq!(on_disk(&folder, 3_000, 9, 3).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [6, 7, 8]);
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn memory_and_disk_are_bounded() {
        let folder = folder("bounded");
        let journal = Journal::open(0, &folder, None).expect("it opens");
        let many = 3 * KEPT as u64 * 4;
        for n in 0..many {
            journal.put(Entry { text: "x".repeat(1_000), ..said(n) });
            if n % 512 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert_eq!(journal.tail(usize::MAX).len(), KEPT);
        assert_eq!(journal.counts().0, many);
        drop(journal);
        let size = |name| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
        // One batch more than the limit at most.
        assert!(size(NEW) + size(OLD) <= 2 * (LONGEST + WAITING as u64 * 1_100), "{} {}", size(NEW), size(OLD));
        assert!(size(OLD) > 0, "it was rotated");
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let journal = Journal::in_memory(0);
        (1..=100).for_each(|n| journal.put(said(n)));
        let (mut after, mut all) = (0, Vec::new());
        loop {
            let page = journal.page(after, 0, 1_000, 700);
            assert!(page.entries.len() < 10);
            all.extend(page.entries.iter().map(|entry| entry.seq));
            match page.more {
                Some(seq) => after = seq,
                None => break,
            }
        }
        assert_eq!(all, (1..=100).collect::<Vec<_>>());
        assert_eq!(journal.page(0, 50_000, 3, 1 << 20).entries[0].seq, 50);
        assert_eq!(journal.page(5_000, 0, 3, 1 << 20).entries[0].seq, 1, "a wiped disk begins anew");
        assert!(journal.page(100, 0, 3, 1 << 20).entries.is_empty());
    }
}
