//! Leases, grants and placement: quorum grants, the holder's clock enforces.
mod message;

pub use message::{Ask, Claim, Fact, Message, Renew, Renewed};

use crate::config::Config;
use crate::consensus::Consensus;
use crate::context::{Ctx, Signal};
use crate::ids::{NodeId, OpId};
use crate::io::{Command, Outcome, SubmitError};
use crate::time::Time;

/// One node's leases and, on the leader, the placement.
#[derive(Clone, Debug, Hash)]
pub struct Views {}

impl Views {
    pub(crate) fn new(_config: &Config, _now: Time) -> Self {
        Self {}
    }
    pub(crate) fn on_message(&mut self, _ctx: &mut Ctx<'_>, _log: &Consensus, _from: NodeId, _message: Message) {}
    pub(crate) fn on_timer(&mut self, _ctx: &mut Ctx<'_>, _log: &Consensus) {}
    pub(crate) fn on_done(&mut self, _ctx: &mut Ctx<'_>, _log: &Consensus, _op: OpId, _outcome: Outcome) {}
    pub(crate) fn on_signal(&mut self, _ctx: &mut Ctx<'_>, _log: &Consensus, _signal: &Signal) {}
    pub(crate) fn submit(
        &mut self,
        _ctx: &mut Ctx<'_>,
        _log: &Consensus,
        _command: Command,
    ) -> Result<(), SubmitError> {
        Err(SubmitError::Unknown)
    }
    pub(crate) fn deadline(&self) -> Option<Time> {
        None
    }
}
