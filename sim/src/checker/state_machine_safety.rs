//! No two nodes apply different entries at one index (Raft §5.4.3, State Machine Safety), and each applies in order.

use std::collections::BTreeMap;

use apus_engine::{Fact, Index, NodeId, consensus};

use super::Checker;
use crate::trace::{Line, What};

#[derive(Clone, Default)]
pub(super) struct StateMachineSafety {
    entries: BTreeMap<Index, (u64, NodeId)>,
    last: BTreeMap<NodeId, Index>,
}

impl Checker for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state-machine-safety"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let Some(node) = line.node else { return Ok(()) };
        let event = match &line.what {
            What::Boot(_) => {
                self.last.remove(&node);
                return Ok(());
            }
            What::Event(event) => event,
            _ => return Ok(()),
        };
        match event.fact {
            Fact::Consensus(consensus::Fact::Installed { index }) => {
                if let Some(last) = self.last.insert(node, index)
                    && index <= last
                {
                    return Err(format!("{node} goes back to a snapshot at {index} after it has applied {last}"));
                }
            }
            Fact::Consensus(consensus::Fact::Committed { index, digest, .. }) => {
                if let Some(last) = self.last.insert(node, index)
                    && index.0 != last.0 + 1
                {
                    return Err(format!("{node} applies {index} after {last}"));
                }
                let (known, by) = self.entries.entry(index).or_insert((digest, node));
                if *known != digest {
                    return Err(format!("{node} applies another entry at {index} than {by} did"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
