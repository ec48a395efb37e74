//! What a node asks of the leader ends once the log has answered it (rule R6 of views: a release is asked for until the log shows it).

use std::collections::BTreeMap;

use apus_engine::{Epoch, Fact, NodeId, ResourceId, views};

use super::Checker;
use crate::fault::{Ns, S};
use crate::trace::{Line, What};

/// Time after healing for everybody to learn what the log has, and for one more round of questions.
const LEARNED: Ns = 2 * S;

#[derive(Clone, Default)]
pub(super) struct AsksEnd {
    healed: Option<Ns>,
    /// What was refused since everybody could know better, and when first.
    refused: BTreeMap<(NodeId, ResourceId, Epoch), Ns>,
}

impl Checker for AsksEnd {
    fn name(&self) -> &'static str {
        "asks-end"
    }
    fn liveness(&self) -> bool {
        true
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        match (&line.what, line.node) {
            (What::Healed, _) => self.healed = Some(line.at),
            (What::Boot(_), _) => self.refused.clear(),
            (What::Event(event), Some(node)) => {
                let Fact::Views(views::Fact::Refused { resource, epoch, newest }) = event.fact else { return Ok(()) };
                if self.healed.is_none_or(|healed| line.at < healed + LEARNED) {
                    return Ok(());
                }
                let first = *self.refused.entry((node, resource, epoch)).or_insert(line.at);
                if line.at > first + S {
                    return Err(format!("{node} is still asked about {epoch} of {resource}, long after {newest}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
