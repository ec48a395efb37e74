//! If two logs hold an entry of one index and term, they are equal up to it (Raft §5.3, Log Matching), and a leader
//! holds every committed entry (§5.4, Leader Completeness).

use std::collections::BTreeMap;

use apus_engine::{Fact, Index, NodeId, Term, consensus};

use super::{Checker, Look, logs};
use crate::fault::Ns;
use crate::trace::{Line, What};

/// Entries looked at in each log, from its end.
const DEPTH: u64 = 32;

#[derive(Clone, Default)]
pub(super) struct LogMatching;

impl Checker for LogMatching {
    fn name(&self) -> &'static str {
        "log-matching"
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        let mut known: BTreeMap<(Index, Term), (u128, NodeId)> = BTreeMap::new();
        for (node, log) in logs(look) {
            let last = log.last_index().0;
            for index in last.saturating_sub(DEPTH) + 1..=last {
                let Some(entry) = log.entry(Index(index)) else { continue };
                let mut hash = apus_engine::hash::Hash128::new(0);
                std::hash::Hash::hash(&entry.payload, &mut hash);
                let digest = hash.finish128();
                let (other, by) = known.entry((entry.index, entry.term)).or_insert((digest, node));
                if *other != digest {
                    return Err(format!("{node} and {by} hold different entries at {} of {}", entry.index, entry.term));
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(super) struct LeaderCompleteness {
    committed: BTreeMap<Index, Term>,
}

impl Checker for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader-completeness"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        if let What::Event(event) = &line.what
            && let Fact::Consensus(consensus::Fact::Committed { index, term, .. }) = event.fact
        {
            self.committed.entry(index).or_insert(term);
        }
        Ok(())
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        let Some((last, term)) = self.committed.last_key_value() else { return Ok(()) };
        for (node, log) in logs(look) {
            // A leader of an older term may not know yet that it is one no longer.
            let lacks = log.entry(*last).map_or(log.last_index() < *last, |entry| entry.term != *term);
            if log.leads().is_some_and(|(leads, _)| leads >= *term) && lacks {
                return Err(format!("{node} leads {} without the committed entry {last} of {term}", log.term()));
            }
        }
        Ok(())
    }
}
