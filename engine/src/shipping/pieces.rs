//! What of a walk is still to be told, the next one first, and what of it was told.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::page::{Mends, Page, Place, Stretch, TOP};
use crate::ids::Lsn;
use crate::time::Time;

/// Stretches in one request, and files just made.
const MOST: usize = 128;
const MOST_ZEROS: usize = 16;
/// Parts of one answer that are taken.
const PARTS: u8 = 32;

/// Stretches of one kind, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Batch {
    /// How fine they are to be told.
    pub(super) depth: u8,
    /// Of files that were just made.
    pub(super) zeros: bool,
    pub(super) stretches: Vec<Stretch>,
}

impl Batch {
    /// Takes out what lies between two places.
    pub(super) fn remove(&mut self, from: &Place, to: &Place) {
        let rest = |Stretch { from: start, to: end }: Stretch| {
            let before = Stretch { to: end.clone().min(from.clone()), from: start.clone() };
            let after = Stretch { from: start.max(to.clone()), to: end };
            [before, after].into_iter().filter(|stretch| stretch.from < stretch.to)
        };
        self.stretches = core::mem::take(&mut self.stretches).into_iter().flat_map(rest).collect();
    }
}

/// What is still to be told; the last one is the next.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Pieces(Vec<(u8, bool, Stretch)>);

impl Pieces {
    /// A whole tree.
    pub(super) fn all(depth: u8) -> Self {
        Self(alloc::vec![(depth.min(TOP), false, Stretch { from: Place::START, to: Place::End })])
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How far the walk has come.
    pub(super) fn place(&self) -> Place {
        self.0.first().map_or(Place::End, |(.., stretch)| stretch.from.clone())
    }

    /// As many of one kind as a request holds; neighbours become one.
    pub(super) fn take(&mut self) -> Option<Batch> {
        let (depth, zeros, first) = self.0.pop()?;
        let mut stretches = alloc::vec![first];
        let most = if zeros { MOST_ZEROS } else { MOST };
        while let Some((.., next)) = self.0.pop_if(|(other, made, next)| {
            let follows = stretches.last().is_some_and(|last| last.to <= next.from);
            *other == depth && *made == zeros && follows && stretches.len() < most
        }) {
            match stretches.last_mut() {
                Some(last) if last.to == next.from && !zeros => last.to = next.to,
                _ => stretches.push(next),
            }
        }
        Some(Batch { depth, zeros, stretches })
    }

    /// They come next.
    pub(super) fn put(&mut self, batch: Batch) {
        let Batch { depth, zeros, stretches } = batch;
        self.0.extend(stretches.into_iter().rev().map(|stretch| (depth, zeros, stretch)));
    }

    /// What an answer asks for comes next: stretches one depth finer, and files that it makes. What it did not compare is not its to ask for.
    pub(super) fn put_asked(&mut self, depth: u8, mends: &mut Mends) {
        let (from, to) = (mends.from.clone(), mends.to.clone());
        let within = move |Stretch { from: start, to: end }: Stretch| {
            let stretch = Stretch { from: start.max(from.clone()), to: end.min(to.clone()) };
            Some(stretch).filter(|stretch| stretch.from < stretch.to)
        };
        let zeros = core::mem::take(&mut mends.zeros).into_iter().filter_map(within.clone()).collect();
        self.put(Batch { depth: 0, zeros: true, stretches: zeros });
        if let Some(depth) = depth.checked_sub(1) {
            let finer = core::mem::take(&mut mends.finer).into_iter().filter_map(within).collect();
            self.put(Batch { depth, zeros: false, stretches: finer });
        }
    }
}

/// What was told and not answered in full.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) batch: Batch,
    /// When it was told, or a part of its answer came.
    pub(super) at: Time,
    /// The last record that the tree had then.
    pub(super) floor: Lsn,
    parts: u8,
}

/// All that was told, by number.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Open(pub(super) BTreeMap<u32, Asked>);

impl Open {
    /// A page goes out. What of the batch it does not tell is given back.
    pub(super) fn tell(
        &mut self,
        number: u32,
        mut batch: Batch,
        page: &Page,
        (now, floor): (Time, Lsn),
    ) -> Option<Batch> {
        let end = page.end()?.clone();
        let mut rest = batch.clone();
        rest.remove(&Place::START, &end);
        batch.remove(&end, &Place::End);
        if batch.stretches.is_empty() {
            return None;
        }
        self.0.insert(number, Asked { batch, at: now, floor, parts: 0 });
        Some(rest)
    }

    /// A part of an answer came: the depth of what it answers, whether it is the first part and since when that was waited for, and what
    /// is to be told again. `None`: it answers nothing that is open.
    pub(super) fn answered(&mut self, number: u32, mends: &Mends, last: bool, now: Time) -> Option<Answered> {
        let asked = self.0.get_mut(&number)?;
        let before = asked.batch.clone();
        asked.batch.remove(&mends.from, &mends.to);
        if asked.batch == before || asked.parts == PARTS {
            asked.batch = before;
            return None;
        }
        let floor = asked.floor;
        let since = (asked.parts == 0).then_some(asked.at);
        (asked.parts, asked.at) = (asked.parts + 1, now);
        let depth = if before.zeros { 0 } else { before.depth };
        let over = last || asked.batch.stretches.is_empty() || asked.parts == PARTS;
        let again = if over { self.0.remove(&number).map(|asked| asked.batch) } else { None };
        Some(Answered { depth, zeros: before.zeros, since, floor, again })
    }
}

/// What an answer was one to.
pub(super) struct Answered {
    pub(super) depth: u8,
    pub(super) zeros: bool,
    pub(super) since: Option<Time>,
    pub(super) floor: Lsn,
    pub(super) again: Option<Batch>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FileId;

    fn at(block: u64) -> Place {
        Place::File(FileId(7), block)
    }

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from: at(from), to: at(to) }
    }

    fn batch(stretches: &[(u64, u64)]) -> Batch {
        Batch { depth: 1, zeros: false, stretches: stretches.iter().map(|(from, to)| stretch(*from, *to)).collect() }
    }

    #[test]
    fn neighbours_are_told_as_one_and_the_finer_ones_first() {
        let mut pieces = Pieces::all(TOP);
        assert_eq!(pieces.place(), Place::START);
        let all = pieces.take().expect("all");
        assert_eq!((all.depth, pieces.is_empty(), pieces.place()), (TOP, true, Place::End));
        pieces.put(batch(&[(40, 50)]));
        pieces.put(batch(&[(0, 16), (16, 32), (35, 36)]));
        let mut mends = Mends {
            from: at(2),
            to: at(9),
            mends: Vec::new(),
            finer: alloc::vec![stretch(0, 4), stretch(5, 6), stretch(9, 90)],
            zeros: Vec::new(),
        };
        pieces.put_asked(1, &mut mends);
        assert_eq!(
            pieces.take().map(|batch| (batch.depth, batch.stretches)),
            Some((0, alloc::vec![stretch(2, 4), stretch(5, 6)]))
        );
        assert_eq!(pieces.take(), Some(batch(&[(0, 32), (35, 36), (40, 50)])));
        assert_eq!(pieces.take(), None);
    }

    #[test]
    fn what_an_answer_leaves_out_is_told_again() {
        let told =
            |from, to| super::super::page::Told { from: at(from), to: at(to), what: super::super::page::What::Zeros };
        let page = Page { salt: 1, told: alloc::vec![told(0, 10), told(20, 25)] };
        let mends =
            |from, to| Mends { from: at(from), to: at(to), mends: Vec::new(), finer: Vec::new(), zeros: Vec::new() };
        let mut open = Open::default();
        let rest = open.tell(3, batch(&[(0, 10), (20, 30)]), &page, (Time(5), Lsn(4))).expect("told");
        assert_eq!(rest, batch(&[(25, 30)]));
        assert!(open.answered(4, &mends(0, 10), false, Time(9)).is_none(), "of another number");
        let first = open.answered(3, &mends(0, 4), false, Time(9)).expect("open");
        assert_eq!((first.since, first.again, first.depth), (Some(Time(5)), None, 1));
        assert!(open.answered(3, &mends(0, 4), false, Time(9)).is_none(), "twice");
        // A part was lost.
        let last = open.answered(3, &mends(6, 22), true, Time(12)).expect("open");
        assert_eq!((last.since, last.again), (None, Some(batch(&[(4, 6), (22, 25)]))));
        assert!(open.0.is_empty());
    }
}
