//! Where a history of changes comes from: which era wrote which part of it.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::record::Head;
use crate::ids::{Epoch, Lsn};
use crate::wire_struct;

/// Eras that are remembered; whose history is older than all of them is taken for divergent.
const MOST_ERAS: usize = 64;

/// An era's place in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EraStart {
    /// Which.
    pub era: Epoch,
    /// Its first record.
    pub first: Lsn,
    /// The files there are not what the records before lead to.
    pub fresh: bool,
}
wire_struct!(EraStart { era, first, fresh } least 3);

/// What a log needs to know of the records before its first one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Base {
    /// The last of them; zero if there are none.
    pub lsn: Lsn,
    /// Its header check.
    pub check: u32,
    /// The eras up to it.
    pub eras: Vec<EraStart>,
}
wire_struct!(Base { lsn, check, eras } least 3);

/// A log as the engine knows it: its ends and its eras, not its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct History {
    /// Records up to this one are no longer in the log.
    pub base: Lsn,
    /// The last record.
    pub end: Lsn,
    /// Its header check.
    pub check: u32,
    /// The eras, the oldest first.
    pub eras: Vec<EraStart>,
}

impl History {
    /// An empty log after `base`.
    #[must_use]
    pub fn after(base: &Base) -> Self {
        Self { base: base.lsn, end: base.lsn, check: base.check, eras: base.eras.clone() }
    }

    /// Whether a record is the next one of this history.
    #[must_use]
    pub const fn takes(&self, head: &Head) -> bool {
        head.lsn.0 == self.end.next().0 && head.prev == self.check
    }

    /// Adds the next record.
    pub fn push(&mut self, head: &Head) {
        if head.is_era() {
            self.eras.push(EraStart { era: head.era, first: head.lsn, fresh: head.is_fresh() });
            if self.eras.len() > MOST_ERAS {
                self.eras.remove(0);
            }
        }
        self.end = head.lsn;
        self.check = head.check;
    }

    /// How far this history has come: the era counts first, then the length.
    #[must_use]
    pub fn rank(&self) -> (Epoch, Lsn) {
        (self.eras.last().map(|last| last.era).unwrap_or_default(), self.end)
    }

    /// The eras up to a position.
    #[must_use]
    pub fn eras_to(&self, lsn: Lsn) -> Vec<EraStart> {
        self.eras.iter().filter(|start| start.first <= lsn).copied().collect()
    }

    /// The last position up to which this history and another one are the same.
    ///
    /// One node writes in an era, so records of one era and position are one record; eras that begin at one place for both are
    /// common, and both go on alike until the shorter one of the last common era ends.
    #[must_use]
    pub fn agrees(&self, eras: &[EraStart], end: Lsn) -> Lsn {
        let (mut ours, mut theirs) = (&self.eras[..], eras);
        // Either may have forgotten the oldest ones.
        if let (Some(a), Some(b)) = (ours.first(), theirs.first()) {
            if let Some(at) = theirs.iter().position(|start| start == a) {
                theirs = &theirs[at..];
            } else if let Some(at) = ours.iter().position(|start| start == b) {
                ours = &ours[at..];
            }
        }
        let common = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        if common == 0 {
            return Lsn(0);
        }
        let stop =
            |eras: &[EraStart], end: Lsn| eras.get(common).map_or(end, |next| Lsn(next.first.0.saturating_sub(1)));
        stop(ours, self.end).min(stop(theirs, end))
    }
}

/// Whether somebody at `lsn` cannot go on by records alone, because files were taken as they were found after that.
#[must_use]
pub(super) fn is_fresh_after(eras: &[EraStart], lsn: Lsn) -> bool {
    eras.iter().any(|start| start.fresh && start.first > lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(eras: &[(u64, u64)], end: u64) -> History {
        let eras =
            eras.iter().map(|(era, first)| EraStart { era: Epoch(*era), first: Lsn(*first), fresh: false }).collect();
        History { base: Lsn(0), end: Lsn(end), check: 0, eras }
    }

    #[test]
    fn histories_agree_up_to_where_they_part() {
        let ours = history(&[(5, 1), (7, 41)], 60);
        for (theirs, end, agreed) in [
            (&[(5, 1), (7, 41)][..], 90, 60),
            (&[(5, 1), (7, 41)], 50, 50),
            (&[(5, 1), (8, 30)], 90, 29),
            (&[(5, 1)], 70, 40),
            (&[(5, 1)], 20, 20),
            (&[(6, 1)], 20, 0),
            (&[], 0, 0),
            // The other has forgotten its oldest era.
            (&[(7, 41), (9, 70)], 80, 60),
        ] {
            let theirs = history(theirs, end);
            assert_eq!(ours.agrees(&theirs.eras, theirs.end), Lsn(agreed), "{theirs:?}");
            assert_eq!(theirs.agrees(&ours.eras, ours.end), Lsn(agreed), "{theirs:?} the other way");
        }
        assert!(history(&[(7, 2)], 2).rank() > history(&[(5, 1)], 90).rank(), "the era counts first");
    }
}
