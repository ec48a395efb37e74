//! A change of the members is committed by a majority of the old voters and one of the new (Raft §6, joint consensus).

use std::collections::BTreeSet;

use apus_engine::consensus::{Entry, Payload};
use apus_engine::{Index, NodeId, Term};

use super::{Checker, Look, logs};
use crate::fault::Ns;

#[derive(Clone, Default)]
pub(super) struct JointConsensus {
    seen: BTreeSet<(Index, Term)>,
}

/// Whether a node may hold an entry. One that cannot be asked may, and so may one that has lost its disk since.
fn may_hold(look: &dyn Look, node: NodeId, entry: &Entry) -> bool {
    let Some((_, log, ..)) = look.engine(node).and_then(|engine| engine.look()) else { return true };
    let compacted = log.last_index() >= entry.index && log.entry(entry.index).is_none();
    log.is_blank() || compacted || log.entry(entry.index).is_some_and(|own| own.term == entry.term)
}

impl Checker for JointConsensus {
    fn name(&self) -> &'static str {
        "joint-consensus"
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        for (node, log) in logs(look) {
            // Committed entries that are still in the log, the newest first.
            let committed = (0..=log.commit().0).rev().map_while(|index| log.entry(Index(index)));
            for entry in committed {
                let Payload::Config(members) = &entry.payload else { continue };
                if !self.seen.insert((entry.index, entry.term)) {
                    break;
                }
                for (which, voters) in [("new", &members.voters), ("old", &members.outgoing)] {
                    let holding = voters.iter().filter(|voter| may_hold(look, **voter, entry)).count();
                    if holding * 2 <= voters.len() && !voters.is_empty() {
                        let (index, many) = (entry.index, voters.len());
                        return Err(format!(
                            "{node} takes the members of {index} for committed, {holding} of {many} {which} voters hold them"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
