//! Old bytes that programs copied before they destroyed them, found by the range that they are of.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::drainer::{Drainer, Read};
use super::layout::{Kind, NONE, Reasons, state};
use super::operation::Consumer;

/// The old bytes of one file that wait in the ring.
#[derive(Default)]
pub(super) struct Olds {
    /// By offset and the record's place in the ring; their lengths.
    pieces: BTreeMap<(u64, u64), u64>,
    /// No piece is longer.
    longest: u64,
}

impl Olds {
    fn add(&mut self, offset: u64, place: u64, len: u64) {
        self.pieces.insert((offset, place), len);
        self.longest = self.longest.max(len);
    }

    /// Places of the records that may hold bytes of `at..end`, newest first.
    fn of(&self, at: u64, end: u64) -> Vec<u64> {
        let near = self.pieces.range((at.saturating_sub(self.longest), 0)..(end, 0));
        let mut places: Vec<u64> = near
            .filter(|&(&(offset, _), &len)| offset.saturating_add(len) > at)
            .map(|(&(_, place), _)| place)
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        places
    }
}

/// By file.
#[derive(Default)]
pub(super) struct Before(BTreeMap<u64, Olds>);

impl Before {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there are none of a file.
    pub(super) fn lacks(&self, id: u64) -> bool {
        !self.0.contains_key(&id)
    }

    /// The record is done with.
    pub(super) fn remove(&mut self, id: u64, offset: u64, place: u64) {
        if let Some(olds) = self.0.get_mut(&id) {
            olds.pieces.remove(&(offset, place));
            if olds.pieces.is_empty() {
                self.0.remove(&id);
            }
        }
    }
}

impl Drainer {
    /// Looks at all records that are there for old bytes.
    pub(super) fn scan(&mut self) {
        let head = self.capture.shared.head.load(Acquire);
        let mut good = self.capture.spans(self.scanned, head);
        while good && self.scanned < head {
            let record = self.capture.record(self.scanned);
            if record.kind.load(Relaxed) == Kind::Before as u32 {
                // As long as it can be: less may have been there to be copied.
                let len = u64::from(record.total.load(Relaxed)).saturating_sub(64);
                let olds = self.before.0.entry(record.id.load(Relaxed)).or_default();
                olds.add(record.offset.load(Relaxed), self.scanned, len);
            }
            let next = self.capture.after(self.scanned, head);
            good = next.is_some();
            self.scanned = next.unwrap_or(head);
        }
        if !good {
            self.capture.lose(Reasons::DRIFT | Reasons::ALL);
        }
    }

    /// Puts old bytes over those that are newer than their record, newest first. How many bytes from the start are there.
    pub(super) fn overlay(&self, id: u64, at: u64, got: usize, buffer: &mut [u8]) -> usize {
        let end = at + buffer.len() as u64;
        let mut pieces = vec![(at, at + got as u64)];
        for place in self.before.0.get(&id).map_or_else(Vec::new, |olds| olds.of(at, end)) {
            let record = self.capture.record(place);
            if record.state.load(Acquire) != state::DONE {
                continue;
            }
            let (offset, len) = (record.offset.load(Relaxed), record.len.load(Relaxed));
            if len.saturating_add(64) > u64::from(record.total.load(Relaxed)) {
                self.capture.lose(Reasons::DRIFT | Reasons::ALL);
                return 0;
            }
            let (from, to) = (offset.max(at), offset.saturating_add(len).min(end));
            if from < to {
                let into = &mut buffer[(from - at) as usize..(to - at) as usize];
                self.capture.read(place.wrapping_add(64 + (from - offset)), into);
                pieces.push((from, to));
            }
        }
        pieces.sort_unstable();
        let covered =
            pieces.iter().fold(at, |covered, &(from, to)| if from <= covered { covered.max(to) } else { covered });
        (covered - at) as usize
    }

    /// A file is gone: whether these bytes of it were all copied before, which `buffer` gets.
    pub(super) fn was_copied(&mut self, id: u64, at: u64, buffer: &mut [u8]) -> bool {
        self.scan();
        self.overlay(id, at, 0, buffer) == buffer.len()
    }

    /// The bytes are gone with their file: what lies between and its end cannot be shown. `false`: the order is lost.
    pub(super) fn gone(&mut self, read: &Read, consumer: &mut dyn Consumer) -> bool {
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
        consumer.lacks(dead);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Before, Olds};

    #[test]
    fn old_bytes_are_found_by_range_newest_first() {
        let mut olds = Olds::default();
        for (offset, place, len) in [(0, 64, 100), (50, 128, 10), (4000, 192, 96), (0, 256, 8), (100, 320, 5)] {
            olds.add(offset, place, len);
        }
        assert_eq!(olds.of(0, 60), [256, 128, 64]);
        assert_eq!(olds.of(99, 100), [64]);
        assert_eq!(olds.of(100, 101), [320]);
        assert_eq!(olds.of(105, 4000), [0u64; 0]);
        assert_eq!(olds.of(4095, u64::MAX), [192]);
        let mut before = Before::default();
        before.0.insert(7, olds);
        for (offset, place) in [(0, 64), (50, 128), (4000, 192), (0, 256), (100, 321)] {
            before.remove(7, offset, place);
        }
        assert!(!before.lacks(7));
        before.remove(7, 100, 320);
        assert!(before.lacks(7));
    }
}
