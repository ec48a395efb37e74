//! The 1998 rule (paper §3.6), kept so that worlds can show what it does: the first node up takes the resource, its
//! neighbour takes over when diagnosis calls it down. Nobody is asked. In a partition there are two owners.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Claim, Fact, Message, Views};
use crate::config::{Availability, Config};
use crate::context::Ctx;
use crate::ids::{Epoch, NodeId, ResourceId};
use crate::time::{Micros, Time};

/// Claims are repeated this often.
const CLAIM_EVERY: Micros = Micros::from_millis(200);

/// Resources under the 1998 rule at this node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Prefer {
    resources: Vec<(ResourceId, Vec<NodeId>)>,
    /// What this node has taken.
    seized: Vec<ResourceId>,
    at: Option<Time>,
}

impl Prefer {
    pub(super) fn new(config: &Config, now: Time) -> Self {
        let members = config.bootstrap.members();
        let mine = config.resources.iter().filter(|resource| resource.availability == Availability::Prefer);
        let resources: Vec<_> = mine
            .map(|resource| {
                let nodes = if resource.candidates.is_empty() { members.clone() } else { resource.candidates.clone() };
                (resource.id, nodes)
            })
            .collect();
        // One detection time, so that a node that starts late hears who owns it.
        let wait = config.diagnosis.period + config.diagnosis.deadline_ceiling;
        let at = (!resources.is_empty()).then_some(now + wait);
        Self { resources, seized: Vec::new(), at }
    }

    pub(super) const fn deadline(&self) -> Option<Time> {
        self.at
    }
}

impl Views {
    /// Takes what no lower-numbered live node would take, and says so.
    pub(super) fn prefer_on_timer(&mut self, ctx: &mut Ctx<'_>) {
        if self.prefer.at.is_none_or(|at| at > ctx.now) {
            return;
        }
        self.prefer.at = Some(ctx.now + CLAIM_EVERY);
        for (resource, nodes) in self.prefer.resources.clone() {
            let first = nodes.iter().copied().filter(|node| !self.down.contains_key(node)).min();
            let mine = first == Some(self.me);
            if mine && !self.prefer.seized.contains(&resource) {
                let because: Vec<_> = nodes.iter().filter_map(|node| self.down.get(node).copied()).collect();
                self.event(ctx, &because, Fact::Seized { resource });
                self.prefer.seized.push(resource);
                ctx.arm(resource, Epoch(0), Time::NEVER);
            }
            if self.prefer.seized.contains(&resource) {
                for node in nodes.into_iter().filter(|node| *node != self.me) {
                    self.send(ctx, node, Message::Claim(Claim { resource }));
                }
            }
        }
    }

    /// Two owners hear of each other: the higher number gives way.
    pub(super) fn on_claim(&mut self, ctx: &mut Ctx<'_>, from: NodeId, claim: Claim) {
        let resource = claim.resource;
        if from < self.me && self.prefer.seized.contains(&resource) {
            self.prefer.seized.retain(|other| *other != resource);
            self.event(ctx, &[], Fact::Yielded { resource, to: from });
            let _ = ctx.disarm(resource, Epoch(0));
        }
    }
}
