//! When which records were made: what a copy lacks, in bytes and seconds.

use std::collections::VecDeque;

use apus_engine::shipping::Head;
use apus_engine::{Lsn, Time};

/// Places that are remembered; with twice as many every second one is forgotten.
const PLACES: usize = 2_048;

/// What was written here lately.
#[derive(Debug, Default)]
pub(super) struct Past {
    bytes: u64,
    /// By the last record of an order to the log: bytes with it, and when.
    places: VecDeque<(Lsn, u64, Time)>,
}

/// How far behind somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) bytes: u64,
    pub(super) us: u64,
    /// It is at least so much: what it lacks first is forgotten, or was written before this daemon began.
    pub(super) more: bool,
}

impl Past {
    /// Records were made.
    pub(super) fn add(&mut self, now: Time, records: &[u8]) {
        let (mut rest, mut last) = (records, None);
        while let Ok(head) = Head::read(rest) {
            last = Some(head.lsn);
            rest = rest.get(head.size()..).unwrap_or_default();
        }
        self.bytes += records.len() as u64;
        let Some(last) = last else { return };
        if self.places.back().is_some_and(|(lsn, ..)| *lsn >= last) {
            // Another history: what was is of no use.
            self.places.clear();
        }
        self.places.push_back((last, self.bytes, now));
        if self.places.len() >= 2 * PLACES {
            let mut at = 0;
            self.places.retain(|_| {
                at += 1;
                at % 2 == 0
            });
        }
    }

    /// What somebody lacks who has the records up to `has`.
    pub(super) fn behind(&self, has: Lsn, end: Lsn, now: Time) -> Behind {
        if has >= end {
            return Behind::default();
        }
        let first = self.places.partition_point(|(lsn, ..)| *lsn <= has);
        let before = first.checked_sub(1).and_then(|at| self.places.get(at));
        let Some((_, _, since)) = self.places.get(first) else { return Behind { more: true, ..Behind::default() } };
        let bytes = self.bytes.saturating_sub(before.map_or(0, |(_, bytes, _)| *bytes));
        Behind { bytes, us: now.since(*since).0, more: before.is_none() && has > Lsn(0) }
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::shipping::{Change, Record};
    use apus_engine::{Epoch, FileId, GroupId};

    use super::*;

    #[test]
    fn lag_is_told_in_bytes_and_time() {
        let mut past = Past::default();
        let record = |lsn: u64| {
            let change = Change::Barrier { file: FileId(7) };
            Record { group: GroupId(1), era: Epoch(1), lsn: Lsn(lsn), prev: 0, change }.encode().0
        };
        let one = record(1).len() as u64;
        for lsn in 1..=10 {
            past.add(Time(1_000 * lsn), &[record(2 * lsn - 1), record(2 * lsn)].concat());
        }
        let (end, now) = (Lsn(20), Time(50_000));
        assert_eq!(past.behind(end, end, now), Behind::default());
        assert_eq!(past.behind(Lsn(18), end, now), Behind { bytes: 2 * one, us: 40_000, more: false });
        // Within an order all of it is counted.
        assert_eq!(past.behind(Lsn(17), end, now), Behind { bytes: 4 * one, us: 41_000, more: false });
        assert_eq!(past.behind(Lsn(0), end, now), Behind { bytes: 20 * one, us: 49_000, more: false });
        for lsn in 11..10_000 {
            past.add(Time(1_000 * lsn), &record(2 * lsn));
        }
        assert!(past.places.len() < 2 * PLACES);
        assert_eq!(past.behind(Lsn(19_996), Lsn(19_998), Time(20_000_000)).us, 10_001_000);
        // Another history begins anew.
        past.add(Time(5), &record(3));
        assert_eq!(past.behind(Lsn(2), Lsn(3), Time(9)), Behind { bytes: past.bytes, us: 4, more: true });
    }
}
