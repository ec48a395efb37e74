//! Writes that follow each other in a file are read at once: a log's records are small and many.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::capture::Capture;
use super::drainer::{Drainer, Read};
use super::layout::{Kind, state};
use super::operation::{Change, Consumer};
use super::resync::full;

/// The most bytes that are read ahead.
const BYTES: u64 = 256 << 10;
/// The most records that are looked at for it.
const RECORDS: usize = 256;

/// Bytes of a file as they were once all records up to `seq` were done. Whatever destroys them later copies them first, as for any
/// record that was not handed over.
#[derive(Default)]
pub(super) struct Ahead {
    id: u64,
    start: u64,
    seq: u64,
    pub(super) bytes: Vec<u8>,
}

impl Ahead {
    /// The bytes of record `seq`, if all were asked for; fewer where the file ended.
    pub(super) fn of(&self, id: u64, seq: u64, offset: u64, len: usize) -> Option<&[u8]> {
        let from = offset.checked_sub(self.start)? as usize;
        if id != self.id || seq > self.seq || from > self.bytes.len() {
            return None;
        }
        let end = (from + len).min(self.bytes.len());
        Some(&self.bytes[from..end])
    }

    /// Says what `bytes` are about to hold: the writes from the record at `at` on, of one file, each where the one before ended. The
    /// range of the file.
    pub(super) fn gather(&mut self, capture: &Capture, at: u64) -> (u64, usize) {
        let first = capture.record(at);
        let (id, start) = (first.id.load(Relaxed), first.offset.load(Relaxed));
        let (mut at, mut end, mut seq) = (at, start, 0);
        let head = capture.shared.head.load(Acquire);
        for _ in 0..RECORDS {
            if at >= head {
                break;
            }
            let record = capture.record(at);
            if record.state.load(Acquire) != state::DONE {
                break;
            }
            if record.id.load(Relaxed) == id {
                let (offset, len) = (record.offset.load(Relaxed), record.len.load(Relaxed));
                let follows = record.kind.load(Relaxed) == Kind::Write as u32 && offset == end;
                if !follows || seq != 0 && end + len > start + BYTES {
                    break;
                }
                (end, seq) = (end + len, record.seq.load(Relaxed));
            }
            at += u64::from(record.total.load(Relaxed)).max(64);
        }
        (self.id, self.start, self.seq) = (id, start, seq);
        (start, (end - start) as usize)
    }
}

impl Drainer {
    /// Hands over a short write, read together with those that follow it. `false`: the order is lost.
    pub(super) fn write(&mut self, read: &Read, consumer: &mut dyn Consumer) -> io::Result<bool> {
        let mut ahead = std::mem::take(&mut self.ahead);
        let done = self.write_from(&mut ahead, read, consumer);
        self.ahead = ahead;
        done
    }

    fn write_from(&mut self, ahead: &mut Ahead, read: &Read, consumer: &mut dyn Consumer) -> io::Result<bool> {
        let want = read.len as usize;
        if want == 0 {
            return Ok(true);
        }
        if ahead.of(read.id, read.seq, read.offset, want).is_none() {
            let (start, len) = ahead.gather(&self.capture, read.at);
            ahead.bytes.resize(len, 0);
            let Some(file) = self.file(read.id, read.file) else {
                *ahead = Ahead::default();
                let mut buffer = vec![0; want];
                if !self.was_copied(read.id, read.offset, &mut buffer) {
                    return Ok(self.gone(read, consumer));
                }
                self.send(read.seq, read.id, Change::Write { offset: read.offset, bytes: &buffer }, true, consumer)?;
                return Ok(true);
            };
            let got = full(file, &mut ahead.bytes, start)?;
            ahead.bytes.truncate(got);
            // What was overwritten while it was read is known by now: its record was there before it was.
            self.scan();
        }
        if !self.capture.reasons().in_order() {
            return Ok(false);
        }
        let there = ahead.of(read.id, read.seq, read.offset, want).unwrap_or_default();
        if there.len() == want && self.before.lacks(read.id) {
            self.send(read.seq, read.id, Change::Write { offset: read.offset, bytes: there }, true, consumer)?;
            return Ok(true);
        }
        let mut buffer = vec![0; want];
        buffer[..there.len()].copy_from_slice(there);
        let covered = self.overlay(read.id, read.offset, there.len(), &mut buffer);
        if covered < want {
            let why = format!("of {want} bytes at {} there are {covered} (in the file {})", read.offset, there.len());
            self.drift(read, &why);
            return Ok(false);
        }
        self.send(read.seq, read.id, Change::Write { offset: read.offset, bytes: &buffer }, true, consumer)?;
        Ok(true)
    }
}
