//! Epochs only grow: the order of grants of one resource is the order in which guards are armed. Paper §3.6 has no such
//! number; this is rule R5, the fencing token.

use std::collections::BTreeMap;

use apus_engine::{Epoch, ResourceId};

use super::Checker;
use crate::trace::{Line, What};

#[derive(Clone, Default)]
pub(super) struct EpochsGrow {
    newest: BTreeMap<ResourceId, Epoch>,
}

impl Checker for EpochsGrow {
    fn name(&self) -> &'static str {
        "epochs-grow"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let What::Armed { resource, epoch, .. } = line.what else { return Ok(()) };
        let newest = self.newest.entry(resource).or_default();
        if epoch < *newest {
            return Err(format!("{resource} is armed by {epoch} after {newest}"));
        }
        *newest = epoch;
        Ok(())
    }
}
