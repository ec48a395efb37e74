//! What a copy has promised and where it stands: one small file of two halves that say the same.
//!
//! A change writes one half, makes it durable, then the other. A crash in between leaves one whole half at least; a flipped bit leaves
//! one whole half, which is not older than the other was.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use apus_engine::{Epoch, GroupId, Lsn};
use serde::{Deserialize, Serialize};

use super::disk::{Handle, read_at, write_at};
use super::sealed;

const MAGIC: [u8; 8] = *b"APUSMRK1";
/// Bytes of a half.
const HALF: usize = 4096;

/// Where in what was captured a place in the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    /// The last captured change before it.
    pub(super) captured: u64,
    /// Which ring that one came from.
    pub(super) ring: u64,
    /// Its record there, and how many changes of that record came up to it.
    pub(super) seq: u64,
    pub(super) part: u32,
}

/// A ring that is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ring {
    pub(super) id: u64,
    /// In files' numbers, above the ring's.
    pub(super) prefix: u64,
}

/// A switch that is to be ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Switch {
    /// The new root.
    pub(super) root: Handle,
    pub(super) log: u64,
    pub(super) index: u64,
    pub(super) upto: Lsn,
}

/// What was saved last of what only this copy has: of which history, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) end: Lsn,
    pub(super) check: u32,
    pub(super) from: Lsn,
    pub(super) torn: bool,
    pub(super) folder: String,
}

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    serial: u64,
    pub(super) group: GroupId,
    pub(super) promised: Epoch,
    pub(super) open: Option<Epoch>,
    /// The machine's start in which that was so.
    pub(super) boot: String,
    pub(super) ring: Ring,
    pub(super) blank: bool,
    pub(super) torn: bool,
    /// Records up to here are durably in the files, and in the index.
    pub(super) checkpoint: Lsn,
    pub(super) index: u64,
    pub(super) log: u64,
    /// At least so far was captured.
    pub(super) seat: Seat,
    pub(super) switch: Option<Switch>,
    /// Until the files are others.
    pub(super) saved: Option<Saved>,
}

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Marks {
    file: File,
    pub(super) body: Body,
}

/// What was found instead of marks.
#[derive(Debug)]
pub(super) enum Found {
    Marks(Marks),
    None,
    Damaged,
}

impl Body {
    /// Of a copy that holds nothing.
    pub(super) fn blank(group: GroupId) -> Self {
        Self { group, blank: true, log: 1, ..Self::default() }
    }
}

impl Marks {
    pub(super) fn open(path: &Path) -> io::Result<Found> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; 2 * HALF];
        let got = read_at(&file, &mut bytes, 0)?;
        bytes.truncate(got);
        let halves = bytes.chunks(HALF).filter_map(|half| sealed::unseal::<Body>(MAGIC, half));
        let Some(body) = halves.max_by_key(|body| body.serial) else { return Ok(Found::Damaged) };
        let mut marks = Self { file, body };
        // Both say the same from here on.
        marks.keep()?;
        Ok(Found::Marks(marks))
    }

    pub(super) fn create(path: &Path, body: Body) -> io::Result<Self> {
        let half = Self::half(&body)?;
        sealed::write(path, &[&half[..], &half].concat())?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, body })
    }

    fn half(body: &Body) -> io::Result<Vec<u8>> {
        let mut half = sealed::seal(MAGIC, body)?;
        if half.len() > HALF {
            return Err(io::Error::other("marks are too long"));
        }
        half.resize(HALF, 0);
        Ok(half)
    }

    fn keep(&mut self) -> io::Result<()> {
        self.body.serial += 1;
        let half = Self::half(&self.body)?;
        for at in [0, HALF as u64] {
            write_at(&self.file, &half, at)?;
            rustix::fs::fdatasync(&self.file)?;
        }
        Ok(())
    }

    /// Changes them durably. If that fails, memory says what it said before, and the disk one of both.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Body)) -> io::Result<()> {
        let before = self.body.clone();
        change(&mut self.body);
        if self.body == before {
            return Ok(());
        }
        let done = self.keep();
        if done.is_err() {
            let serial = self.body.serial;
            self.body = Body { serial, ..before };
        }
        done
    }
}

/// This start of the machine.
pub(super) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let top = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let path = top.join(format!("apus-marks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn read(path: &Path) -> Option<Body> {
        match Marks::open(path).expect("it can be read") {
            Found::Marks(marks) => Some(marks.body),
            _ => None,
        }
    }

    /// Whatever a crash leaves of a change, and whatever single bit turns, what was promised is promised.
    #[test]
    fn a_promise_outlives_a_crash_at_any_byte_and_any_flipped_bit() {
        let path = place("crash");
        let mut marks = Marks::create(&path, Body { promised: Epoch(5), ..Body::default() }).expect("a file");
        let before = std::fs::read(&path).expect("it is there");
        marks.change(|body| body.promised = Epoch(9)).expect("it is kept");
        let after = std::fs::read(&path).expect("it is there");
        // The half's content is shorter than this; the rest of it is zeros.
        let full = 300;
        for cut in (0..full).chain([HALF - 1]).chain(HALF..HALF + full).chain([2 * HALF]) {
            // The second half is written only after the first one is durable.
            std::fs::write(&path, [&after[..cut], &before[cut..]].concat()).expect("a file");
            let body = read(&path).unwrap_or_else(|| panic!("nothing is left at {cut}"));
            assert!(body.promised == Epoch(5) || body.promised == Epoch(9), "{cut}: {body:?}");
            assert!(cut < HALF || body.promised == Epoch(9), "{cut}: an acknowledged promise is gone");
        }
        for bit in (0..8 * full).step_by(7).flat_map(|bit| [bit, bit + 8 * HALF]) {
            let mut bytes = after.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).expect("a file");
            assert_eq!(read(&path).map(|body| body.promised), Some(Epoch(9)), "bit {bit}");
        }
        std::fs::write(&path, vec![0; 2 * HALF]).expect("a file");
        assert!(matches!(Marks::open(&path), Ok(Found::Damaged)));
        std::fs::remove_file(&path).expect("ours");
    }
}
