//! Process life: start, readiness, heartbeats, crash, hang, restart, escalation.
mod fact;

pub use fact::{Fact, FailureCause, Rung};

use crate::config::Config;
use crate::context::{Ctx, Signal};
use crate::ids::OpId;
use crate::io::{Copy, Outcome, ProcessInput};
use crate::time::Time;

/// The programs of one node.
#[derive(Clone, Debug, Hash)]
pub struct Supervision {}

impl Supervision {
    pub(crate) fn new(_config: &Config) -> Self {
        Self {}
    }
    pub(crate) fn on_process(&mut self, _ctx: &mut Ctx<'_>, _copy: Copy, _what: ProcessInput) {}
    pub(crate) fn on_done(&mut self, _ctx: &mut Ctx<'_>, _op: OpId, _outcome: Outcome) {}
    pub(crate) fn on_timer(&mut self, _ctx: &mut Ctx<'_>) {}
    pub(crate) fn on_signal(&mut self, _ctx: &mut Ctx<'_>, _signal: &Signal) {}
    pub(crate) fn deadline(&self) -> Option<Time> {
        None
    }
}
