//! The log: segments of records, each batch behind a header of its own.
//!
//! ```text
//! segment  4096 bytes: what the log begins after here, sealed; then frames, one behind the other; zeros up to its length
//! frame    0  "AF", version 1, kind (1: records, 2: seal)   4 bytes of records     8 first position   16 check before it
//!         20  part                                         24 captured           32 ring            40 ring's record
//!         48  durable when this was written                56 segment            60 check of the other 68 bytes
//!         64  the segment's mark, a random number          72 records as the engine encodes them
//! ```
//! By the mark no bytes of a file that a program wrote pass for a frame.
//!
//! A batch counts as a whole or not at all. A seal says that all before it was durable; it is written without waiting, and the next
//! frame takes its place.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use apus_engine::shipping::{Base, Head, History, Record, crc32c_of};
use apus_engine::{GroupId, Lsn};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use super::disk::{read_at, write_at};
use super::marks::Seat;
use super::sealed;

const MAGIC: [u8; 8] = *b"APUSLOG1";
/// Bytes before a segment's first frame.
pub(super) const FRONT: u64 = 4096;
/// Bytes of a frame's header.
pub(super) const FRAME: usize = 72;
/// Between two frames whose places are remembered.
const STRIDE: u64 = 32 * 1024;

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Front {
    group: GroupId,
    number: u64,
    base: Base,
    seat: Seat,
    mark: u64,
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    seal: bool,
    bytes: u32,
    first: Lsn,
    prev: u32,
    seat: Seat,
    synced: Lsn,
    segment: u32,
    mark: u64,
}

impl Frame {
    fn encode(&self) -> [u8; FRAME] {
        let mut out = [0; FRAME];
        out[..4].copy_from_slice(&[b'A', b'F', 1, if self.seal { 2 } else { 1 }]);
        out[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.prev.to_le_bytes());
        out[20..24].copy_from_slice(&self.seat.part.to_le_bytes());
        let words = [self.seat.captured, self.seat.ring, self.seat.seq, self.synced.0];
        for (to, word) in out[24..56].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.segment.to_le_bytes());
        out[64..].copy_from_slice(&self.mark.to_le_bytes());
        let check = Self::check(&out);
        out[60..64].copy_from_slice(&check.to_le_bytes());
        out
    }

    fn check(bytes: &[u8; FRAME]) -> u32 {
        crc32c_of(&[&bytes[..60], &bytes[64..]])
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let front: &[u8; FRAME] = bytes.first_chunk()?;
        let small = |at: usize| front[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let large = |at: usize| front[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if front[..3] != *b"AF\x01" || Self::check(front) != small(60) || !matches!(front[3], 1 | 2) {
            return None;
        }
        Some(Self {
            seal: front[3] == 2,
            bytes: small(4),
            first: Lsn(large(8)),
            prev: small(16),
            seat: Seat { part: small(20), captured: large(24), ring: large(32), seq: large(40) },
            synced: Lsn(large(48)),
            segment: small(56),
            mark: large(64),
        })
    }
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    file: File,
    base: Base,
    mark: u64,
    /// Frames that are remembered: the position before, and where.
    places: Vec<(Lsn, u64)>,
    end: u64,
    length: u64,
    /// Of records.
    bytes: u64,
}

/// What is wrong with a log before its durable end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) why: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.path.display(), self.offset, self.why)
    }
}

/// The records of a history, from a base on.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    group: GroupId,
    size: u64,
    segments: VecDeque<Segment>,
    history: History,
    seat: Seat,
    /// The last segment takes no more: what a failed write left there counts for nothing.
    sealed: bool,
}

/// One batch for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) records: &'a [u8],
    pub(super) seat: Option<Seat>,
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.seg"))
}

impl Log {
    /// How long segments are for a log of so many bytes.
    pub(super) fn segment_size(log_bytes: u64) -> u64 {
        (log_bytes / 8).clamp(64 << 10, 64 << 20).next_multiple_of(4096)
    }

    pub(super) fn create(folder: &Path, group: GroupId, size: u64, base: Base, seat: Seat) -> io::Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir(folder)?;
        let history = History::after(&base);
        let mut log =
            Self { folder: folder.to_path_buf(), group, size, segments: VecDeque::new(), history, seat, sealed: false };
        log.roll(0, &base, seat)?;
        sealed::sync_folder(folder.parent().unwrap_or(Path::new("/")))?;
        Ok(log)
    }

    /// What a crash at any point has left, cut at the first batch that is not whole. Damage before what was durable is told instead.
    pub(super) fn open(folder: &Path, group: GroupId, size: u64) -> io::Result<Result<Self, Damage>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.strip_suffix(".seg")) {
                Some(number) => numbers.extend(u64::from_str_radix(number, 16)),
                None => drop(std::fs::remove_file(folder.join(name))),
            }
        }
        numbers.sort_unstable();
        let mut log = Self {
            folder: folder.to_path_buf(),
            group,
            size,
            segments: VecDeque::new(),
            history: History::default(),
            seat: Seat::default(),
            sealed: false,
        };
        for number in numbers {
            if let Some(damage) = log.recover(number)? {
                return Ok(Err(damage));
            }
        }
        if log.segments.is_empty() {
            let why = "it holds no segment".to_owned();
            return Ok(Err(Damage { path: folder.to_path_buf(), offset: 0, why }));
        }
        log.cut()?;
        Ok(Ok(log))
    }

    /// Takes one segment in.
    fn recover(&mut self, number: u64) -> io::Result<Option<Damage>> {
        let path = segment_path(&self.folder, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let got = read_at(&file, &mut bytes, 0)?;
        bytes.truncate(got);
        let damage = |offset: u64, why: &str| Some(Damage { path: path.clone(), offset, why: why.to_owned() });
        let follows = self.segments.back().is_none_or(|before| before.number + 1 == number);
        let Some(front) = sealed::unseal::<Front>(MAGIC, &bytes).filter(|front| front.number == number) else {
            return Ok(damage(0, "what it begins with is not whole"));
        };
        if front.group != self.group {
            return Ok(damage(0, &format!("it is of {}, not of {}", front.group, self.group)));
        }
        if self.segments.is_empty() {
            (self.history, self.seat) = (History::after(&front.base), front.seat);
        } else if !follows || front.base.lsn > self.history.end {
            let why = format!("records before {} are missing", front.base.lsn.next());
            return Ok(damage(0, &why));
        } else if front.base.lsn < self.history.end {
            // A write had failed: what it left behind counts for nothing.
            self.abandon(&front.base);
        }
        if front.base.check != self.history.check {
            return Ok(damage(0, "it does not follow the segment before"));
        }
        self.seat = front.seat;
        let Front { base, mark, .. } = front;
        let mut segment =
            Segment { number, path: path.clone(), file, base, mark, places: Vec::new(), end: FRONT, length, bytes: 0 };
        let wrong = loop {
            match self.frame(&bytes, &segment) {
                Ok(Some((frame, size))) => self.took(&mut segment, &bytes, &frame, size),
                Ok(None) => break None,
                Err(wrong) => break Some(wrong),
            }
        };
        // What was durable when something behind it was written must be there.
        let end = self.history.end;
        let rest = bytes.get(segment.end as usize..).unwrap_or_default();
        let known = (0..rest.len().saturating_sub(FRAME - 1)).step_by(8).find_map(|at| {
            let frame = Frame::read(&rest[at..])?;
            (frame.mark == mark && frame.segment == number as u32 && frame.synced > end).then_some(frame.synced)
        });
        if let Some(known) = known {
            let (offset, why) = wrong.unwrap_or((segment.end, "no record is there"));
            return Ok(damage(offset, &format!("{why}; records up to {known} were durable")));
        }
        self.segments.push_back(segment);
        Ok(None)
    }

    /// The frame at a segment's end, whole; `None`: nothing is there. Else what is wrong, and where.
    fn frame(&self, bytes: &[u8], segment: &Segment) -> Result<Option<(Frame, u64)>, (u64, &'static str)> {
        let at = segment.end;
        let rest = bytes.get(at as usize..).unwrap_or_default();
        if rest.first_chunk::<FRAME>().is_none_or(|front| front.iter().all(|byte| *byte == 0)) {
            return Ok(None);
        }
        let Some(frame) = Frame::read(rest) else { return Err((at, "the header of a batch is not whole")) };
        let next = (frame.mark, frame.segment, frame.first, frame.prev);
        if next != (segment.mark, segment.number as u32, self.history.end.next(), self.history.check) {
            return Err((at, "a batch does not follow the one before"));
        }
        if frame.seal {
            return Ok(None);
        }
        let Some(records) = rest.get(FRAME..FRAME + frame.bytes as usize) else {
            return Err((at, "a batch is longer than its segment"));
        };
        let mut history = self.history.clone();
        let mut read = 0;
        while read < records.len() {
            let place = at + (FRAME + read) as u64;
            match Record::read(&records[read..]) {
                Ok((record, head)) if history.takes(&head) && record.group == self.group => {
                    history.push(&head);
                    read += head.size();
                }
                Ok(_) => return Err((place, "a record does not follow the one before")),
                Err(_) => return Err((place, "a record is not whole")),
            }
        }
        if read == 0 {
            return Err((at, "a batch is empty"));
        }
        Ok(Some((frame, (FRAME + read) as u64)))
    }

    fn took(&mut self, segment: &mut Segment, bytes: &[u8], frame: &Frame, size: u64) {
        let from = segment.end as usize + FRAME;
        let mut rest = bytes.get(from..from + frame.bytes as usize).unwrap_or_default();
        segment.remember(self.history.end);
        while let Ok(head) = Head::read(rest) {
            self.history.push(&head);
            rest = rest.get(head.size()..).unwrap_or_default();
        }
        if frame.seat.captured > 0 {
            self.seat = frame.seat;
        }
        segment.end += size;
        segment.bytes += u64::from(frame.bytes);
    }

    /// Forgets records behind `base` that were never acknowledged.
    fn abandon(&mut self, base: &Base) {
        let Some(last) = self.segments.back_mut() else { return };
        let mut at = last.places.iter().rev().find(|(before, _)| *before <= base.lsn).map_or(FRONT, |(_, at)| *at);
        let mut front = [0; FRAME];
        while at < last.end && read_at(&last.file, &mut front, at).is_ok() {
            let Some(frame) = Frame::read(&front).filter(|frame| frame.first <= base.lsn) else { break };
            at += FRAME as u64 + u64::from(frame.bytes);
        }
        last.places.retain(|(before, _)| *before < base.lsn);
        let mut gone = at;
        while gone < last.end && read_at(&last.file, &mut front, gone).is_ok() {
            let Some(frame) = Frame::read(&front) else { break };
            last.bytes = last.bytes.saturating_sub(u64::from(frame.bytes));
            gone += FRAME as u64 + u64::from(frame.bytes);
        }
        last.end = at;
        self.history = History { base: self.history.base, ..History::after(base) };
    }

    /// Nothing of what is behind the end is found by a later start.
    fn cut(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        rustix::fs::ftruncate(&last.file, last.end)?;
        allocate(&last.file, last.length)?;
        rustix::fs::fsync(&last.file)?;
        sealed::sync_folder(&self.folder)
    }

    /// Begins a segment with room for `need` bytes.
    fn roll(&mut self, need: u64, base: &Base, seat: Seat) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let path = segment_path(&self.folder, number);
        let new = path.with_extension("new");
        let length = self.size.max(FRONT + need + FRAME as u64);
        let mark = random()?;
        let front = Front { group: self.group, number, base: base.clone(), seat, mark };
        let mut bytes = sealed::seal(MAGIC, &front)?;
        if bytes.len() as u64 > FRONT {
            // Whoever sent it remembers more eras than a copy does.
            let why =
                format!("{} eras before a log's beginning are more than one segment has room for", base.eras.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        bytes.resize(FRONT as usize, 0);
        let made = (|| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
            allocate(&file, length)?;
            write_at(&file, &bytes, 0)?;
            rustix::fs::fsync(&file)?;
            std::fs::rename(&new, &path)?;
            sealed::sync_folder(&self.folder)?;
            Ok(file)
        })();
        let file = made.inspect_err(|_: &io::Error| drop(std::fs::remove_file(&new)))?;
        let (base, places) = (base.clone(), Vec::new());
        self.segments.push_back(Segment { number, path, file, base, mark, places, end: FRONT, length, bytes: 0 });
        self.sealed = false;
        Ok(())
    }

    fn base_here(&self) -> Base {
        Base { lsn: self.history.end, check: self.history.check, eras: self.history.eras.clone() }
    }

    /// Puts batches behind the end and makes them durable, by one flush if they fit one segment. If it fails: how many of them are durable
    /// all the same, with the error; nothing of the others is found later.
    pub(super) fn append(&mut self, batches: &[Batch<'_>]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        self.append_from(batches, &mut done).map_err(|error| (done, error))
    }

    fn append_from(&mut self, batches: &[Batch<'_>], at: &mut usize) -> io::Result<()> {
        while *at < batches.len() {
            let done = *at;
            let need = |batch: &Batch<'_>| (FRAME + batch.records.len()) as u64;
            let room = self.segments.back().map_or(0, |last| last.length - last.end);
            if self.sealed || need(&batches[done]) + FRAME as u64 > room {
                self.roll(need(&batches[done]), &self.base_here(), self.seat)?;
            }
            let room = self.segments.back().map_or(0, |last| last.length - last.end) - FRAME as u64;
            let mut many = 0;
            let mut all = 0;
            while let Some(batch) = batches.get(done + many)
                && all + need(batch) <= room
            {
                all += need(batch);
                many += 1;
            }
            self.write(&batches[done..done + many])?;
            *at += many;
        }
        Ok(())
    }

    fn write(&mut self, batches: &[Batch<'_>]) -> io::Result<()> {
        let synced = self.history.end;
        let Some(last) = self.segments.back() else { return Err(io::ErrorKind::NotFound.into()) };
        let (number, at, mark) = (last.number as u32, last.end, last.mark);
        let (mut history, mut seat) = (self.history.clone(), self.seat);
        let mut bytes = Vec::with_capacity(batches.iter().map(|batch| FRAME + batch.records.len()).sum());
        let mut frames = Vec::new();
        for batch in batches {
            let (before, prev) = (history.end, history.check);
            let mut rest = batch.records;
            while !rest.is_empty() {
                let head = Head::read(rest).ok().filter(|head| history.takes(head) && head.group == self.group);
                let Some((head, later)) = head.and_then(|head| Some((head, rest.get(head.size()..)?))) else {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "records do not follow the log's end"));
                };
                history.push(&head);
                rest = later;
            }
            if let Some(new) = batch.seat.filter(|new| new.captured > seat.captured || new.ring != seat.ring) {
                seat = new;
            }
            let frame = Frame {
                seal: false,
                bytes: batch.records.len() as u32,
                first: before.next(),
                prev,
                seat,
                synced,
                segment: number,
                mark,
            };
            frames.push((before, bytes.len() as u64, batch.records.len() as u64));
            bytes.extend_from_slice(&frame.encode());
            bytes.extend_from_slice(batch.records);
        }
        let written = write_at(&last.file, &bytes, at).and_then(|()| Ok(rustix::fs::fdatasync(&last.file)?));
        if let Err(error) = written {
            // Its first header counts no more; what else is there does not follow anything. The next segment says where this one ended.
            let _ = write_at(&last.file, &[0; FRAME], at);
            let _ = rustix::fs::fdatasync(&last.file);
            self.sealed = true;
            return Err(error);
        }
        (self.history, self.seat) = (history, seat);
        let seal = Frame {
            seal: true,
            bytes: 0,
            first: self.history.end.next(),
            prev: self.history.check,
            seat: Seat::default(),
            synced: self.history.end,
            segment: number,
            mark,
        };
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        for (before, offset, records) in frames {
            last.end = at + offset;
            last.remember(before);
            last.bytes += records;
        }
        last.end = at + bytes.len() as u64;
        // Nobody waits for this one: a crash of this process leaves it, and a power failure need not.
        let _ = write_at(&last.file, &seal.encode(), last.end);
        Ok(())
    }

    /// Records from `from` on, `most` bytes at most but one at least; empty: they are not here.
    pub(super) fn read(&self, from: Lsn, most: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        if from <= self.history.base || from > self.history.end {
            return Ok(out);
        }
        let before = Lsn(from.0 - 1);
        let first = self.segments.iter().rposition(|segment| segment.base.lsn <= before).unwrap_or(0);
        for segment in self.segments.iter().skip(first) {
            let place = segment.places.partition_point(|(known, _)| *known <= before);
            let mut at = place.checked_sub(1).and_then(|place| segment.places.get(place)).map_or(FRONT, |(_, at)| *at);
            while at < segment.end {
                let mut front = [0; FRAME];
                read_at(&segment.file, &mut front, at)?;
                let Some(frame) = Frame::read(&front) else {
                    let why = format!("{} is damaged at byte {at}: a batch is gone", segment.path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                };
                let mut records = vec![0; frame.bytes as usize];
                read_at(&segment.file, &mut records, at + FRAME as u64)?;
                let mut rest = &records[..];
                while !rest.is_empty() {
                    let Ok((record, head)) = Record::read(rest) else {
                        let offset = at + (FRAME + records.len() - rest.len()) as u64;
                        let why =
                            format!("{} is damaged at byte {offset}: a record is not whole", segment.path.display());
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    };
                    let (bytes, later) = rest.split_at(head.size());
                    rest = later;
                    if record.lsn < from {
                        continue;
                    }
                    if record.lsn > self.history.end || !out.is_empty() && out.len() + bytes.len() > most {
                        return Ok(out);
                    }
                    out.extend_from_slice(bytes);
                }
                at += (FRAME + records.len()) as u64;
            }
        }
        Ok(out)
    }

    /// Records up to here may go: whole segments do.
    pub(super) fn trim(&mut self, upto: Lsn) -> io::Result<()> {
        while let Some(next) = self.segments.get(1)
            && next.base.lsn <= upto
        {
            let base = next.base.lsn;
            if let Some(first) = self.segments.front() {
                std::fs::remove_file(&first.path)?;
            }
            self.segments.pop_front();
            self.history.base = base;
        }
        Ok(())
    }

    pub(super) const fn history(&self) -> &History {
        &self.history
    }

    pub(super) const fn seat(&self) -> Seat {
        self.seat
    }

    /// What the log begins after.
    pub(super) fn base(&self) -> Base {
        self.segments.front().map(|first| first.base.clone()).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Segment {
    fn remember(&mut self, before: Lsn) {
        if self.places.last().is_none_or(|(_, at)| self.end - at >= STRIDE) {
            self.places.push((before, self.end));
        }
    }
}

/// A number that nobody else knows.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn allocate(file: &File, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(rustix::fs::ftruncate(file, length)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
