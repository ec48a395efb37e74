//! Adaptive ring diagnosis: who is up, who is down. It proposes; it never decides ownership.
mod message;

pub use message::{Ack, Compare, Fact, Message, News, Ping, PingReply, PingReq, Spread, Status};

use crate::config::Config;
use crate::context::{Ctx, Signal};
use crate::ids::{Incarnation, NodeId};
use crate::rng::Rng;
use crate::time::Time;

/// One node's view of the ring.
#[derive(Clone, Debug, Hash)]
pub struct Diagnosis {}

impl Diagnosis {
    pub(crate) fn new(_config: &Config, _inc: Incarnation, _now: Time, _rng: &mut Rng) -> Self {
        Self {}
    }
    pub(crate) fn on_message(&mut self, _ctx: &mut Ctx<'_>, _from: NodeId, _inc: Incarnation, _message: Message) {}
    pub(crate) fn on_timer(&mut self, _ctx: &mut Ctx<'_>) {}
    pub(crate) fn on_signal(&mut self, _ctx: &mut Ctx<'_>, _signal: &Signal) {}
    pub(crate) fn deadline(&self) -> Option<Time> {
        None
    }
    /// What this node thinks of another.
    #[must_use]
    pub fn status(&self, _node: NodeId) -> Option<(Status, Incarnation)> {
        None
    }
}
