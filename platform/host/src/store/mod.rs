//! Durable state: an append-only log in segments with checksums, and a small state file that is replaced atomically.
//!
//! A start accepts whatever a crash at any instant leaves, and refuses damage with file and offset: it never votes on half a memory.

mod disk;
mod log;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use disk::{Disk, Folder};
pub use state::State;
pub use writer::Writer;

use std::fmt;
use std::io;

use apus_engine::{Durable, Record};

/// The name of the state file.
pub const STATE_FILE: &str = "state";

/// The name of a segment's file.
fn segment(number: u64) -> String {
    format!("log-{number:016x}")
}

/// Makes the files of a blank disk; the state comes last.
async fn begin<D: Disk>(disk: &mut D, logs: &[String]) -> Result<State, OpenError> {
    for file in logs {
        if *file != segment(0) || disk.read(file).await?.len() > log::HEADER {
            return Err(damaged(STATE_FILE, 0, "there is a log, but no state file"));
        }
        disk.remove(file).await?;
    }
    let [(log, header), (_, state)] = empty(false);
    disk.append(&log, &header).await?;
    disk.sync(&log).await?;
    disk.replace(STATE_FILE, &state).await?;
    Ok(State::default())
}

fn number(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_prefix("log-")?, 16).ok()
}

/// How a store writes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A segment of this many bytes is closed: the next one begins with a checkpoint, and older ones are removed.
    pub segment: usize,
    /// Records written and synced together at most.
    pub batch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment: 1 << 20, batch: 64 }
    }
}

/// Why a store does not open.
#[derive(Debug)]
pub enum OpenError {
    /// What was durable is damaged. The operator wipes the disk; the node is readmitted by its peers.
    Damaged {
        /// In which file.
        file: String,
        /// At which byte.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The disk does not work.
    Disk(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { file, offset, what } => write!(f, "{file}, offset {offset}: {what}"),
            Self::Disk(error) => write!(f, "the disk does not work: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store<D> {
    disk: D,
    settings: Settings,
    /// The segment that is written, and its length.
    number: u64,
    length: usize,
    sequence: u64,
    /// The last batch has its mark.
    marked: bool,
    /// What the disk holds.
    durable: Durable,
}

/// The files of a store in which nothing is recorded yet, as `apus cluster init` leaves them.
#[must_use]
pub fn empty(formatted: bool) -> [(String, Vec<u8>); 2] {
    [(segment(0), log::header(0)), (STATE_FILE.into(), State { formatted, first: 0 }.encode())]
}

impl<D: Disk> Store<D> {
    /// Reads what is durable. An empty disk is that of an unformatted node.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if anything that may have been relied upon cannot be read.
    pub async fn open(mut disk: D, settings: Settings) -> Result<(Self, Durable), OpenError> {
        let mut logs: Vec<String> = disk.list().await?;
        logs.retain(|file| number(file).is_some());
        let state = match disk.read(STATE_FILE).await {
            Ok(bytes) => State::decode(&bytes).map_err(|(offset, what)| damaged(STATE_FILE, offset, what))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => begin(&mut disk, &logs).await?,
            Err(error) => return Err(error.into()),
        };
        let file = segment(state.first);
        let bytes = match disk.read(&file).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(&file, 0, "the file is missing"));
            }
            other => other?,
        };
        let scan = log::scan(state.first, &bytes).map_err(|damage| damaged(&file, damage.offset, damage.what))?;
        if scan.whole < bytes.len() {
            disk.truncate(&file, scan.whole as u64).await?;
        }
        // Left over from a crash while a segment was replaced: one that the state does not name was never relied upon.
        for other in logs.iter().filter(|other| **other != file) {
            disk.remove(other).await?;
        }
        let mut durable = Durable { formatted: state.formatted, ..Durable::default() };
        scan.records.into_iter().for_each(|record| durable.replay(record));
        let store = Self {
            disk,
            settings,
            number: state.first,
            length: scan.whole,
            sequence: scan.last,
            marked: scan.marked,
            durable: durable.clone(),
        };
        Ok((store, durable))
    }

    /// Makes records durable, all or none: they are when this returns.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] and its like mean that nothing was written; after any other error it is not known what
    /// was, and the store must not be used again.
    pub async fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.length >= self.settings.segment {
            // Without room for a new segment the old one goes on.
            match self.rotate().await {
                Err(error) if !is_full(&error) => return Err(error),
                _ => {}
            }
        }
        let file = segment(self.number);
        let mut bytes = if self.marked { Vec::new() } else { log::mark(self.number, self.sequence) };
        bytes.extend(log::batch(self.number, self.sequence + 1, records));
        if let Err(error) = self.disk.append(&file, &bytes).await {
            self.cut(&file).await?;
            return Err(error);
        }
        self.disk.sync(&file).await?;
        self.length += bytes.len();
        self.sequence += 1;
        self.marked = false;
        records.iter().cloned().for_each(|record| self.durable.replay(record));
        Ok(())
    }

    /// Takes back what a failed write may have left.
    async fn cut(&mut self, file: &str) -> io::Result<()> {
        self.disk.truncate(file, self.length as u64).await
    }

    /// Says on the disk that the last batch was synced. Losing the mark is harmless, so it is not synced itself.
    ///
    /// # Errors
    /// If the disk does not work.
    pub async fn mark(&mut self) -> io::Result<()> {
        if self.marked {
            return Ok(());
        }
        let file = segment(self.number);
        let bytes = log::mark(self.number, self.sequence);
        match self.disk.append(&file, &bytes).await {
            Ok(()) => {
                self.length += bytes.len();
                self.marked = true;
                Ok(())
            }
            Err(error) if is_full(&error) => self.cut(&file).await,
            Err(error) => Err(error),
        }
    }

    /// Begins a new segment with a checkpoint. The order makes every crash harmless: new segment synced, state replaced, old one removed.
    async fn rotate(&mut self) -> io::Result<()> {
        self.mark().await?;
        let (old, number) = (self.number, self.number + 1);
        let file = segment(number);
        let mut bytes = log::header(number);
        bytes.extend(log::batch(number, 1, &record::checkpoint(&self.durable)));
        if let Err(error) = self.disk.append(&file, &bytes).await {
            self.disk.remove(&file).await?;
            return Err(error);
        }
        self.disk.sync(&file).await?;
        let state = State { formatted: self.durable.formatted, first: number };
        if let Err(error) = self.disk.replace(STATE_FILE, &state.encode()).await {
            self.disk.remove(&file).await?;
            return Err(error);
        }
        (self.number, self.length, self.sequence, self.marked) = (number, bytes.len(), 1, false);
        self.disk.remove(&segment(old)).await
    }

    /// What the disk holds.
    pub const fn durable(&self) -> &Durable {
        &self.durable
    }
}

/// Errors after which nothing was written and the disk may work again.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn damaged(file: &str, offset: usize, what: &'static str) -> OpenError {
    OpenError::Damaged { file: file.into(), offset: offset as u64, what }
}

/// How many bytes of a segment's file a mark vouches for: where a disk may rot and is always found out.
#[must_use]
pub fn vouched(file: &str, bytes: &[u8]) -> usize {
    let scan = number(file).and_then(|number| log::scan(number, bytes).ok());
    scan.map_or(0, |scan| scan.vouched)
}
