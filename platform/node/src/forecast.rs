//! What a change would do to who holds what: the rules of the engine's placement over a copy of what the log says. A coordinator
//! decides later and may know more, such as who failed to keep a resource alive.

use std::collections::BTreeSet;

use apus_engine::consensus::{Grant, Membership, ViewState};
use apus_engine::{Availability, Config, Copy, NodeId, ResourceConfig, ResourceId, Role, Strategy};

/// What may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A resource goes to a node.
    Move(ResourceId, NodeId),
    /// A node gets nothing and gives everything away, or no longer so.
    Drain(NodeId, bool),
    /// A node leaves for good.
    Leave(NodeId),
}

/// A resource that changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) resource: ResourceId,
    pub(crate) from: Option<NodeId>,
    /// `None`: it has to go, and nobody else can have it: it stays until somebody can.
    pub(crate) to: Option<NodeId>,
    pub(crate) why: &'static str,
}

/// What a copy of a service does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) copy: Copy,
    pub(crate) node: NodeId,
    pub(crate) what: &'static str,
}

/// What is known now.
pub(crate) struct Known<'a> {
    pub(crate) config: &'a Config,
    pub(crate) state: &'a ViewState,
    pub(crate) members: &'a Membership,
    /// Who diagnosis calls down.
    pub(crate) down: BTreeSet<NodeId>,
}

/// What would happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forecast {
    pub(crate) steps: Vec<Step>,
    pub(crate) acts: Vec<Act>,
}

impl Known<'_> {
    /// What a change would lead to.
    pub(crate) fn forecast(&self, change: Change) -> Forecast {
        let mut then = Then { known: self, state: self.state.clone(), gone: None };
        let mut steps = Vec::new();
        match change {
            Change::Move(resource, to) => {
                let from = self.holder(self.state, resource);
                if from == Some(to) {
                    return Forecast::default();
                }
                then.give(resource, to);
                steps.push(Step { resource, from, to: Some(to), why: "it is asked for" });
            }
            Change::Drain(node, true) => {
                then.state.drained.insert(node);
            }
            Change::Drain(node, false) => {
                then.state.drained.remove(&node);
            }
            Change::Leave(node) => then.gone = Some(node),
        }
        then.settle(&mut steps);
        let acts = self.acts(&steps, &then.state, then.gone);
        Forecast { steps, acts }
    }

    /// Whether a node may hold something at all.
    pub(crate) fn may_hold(&self, resource: ResourceId, node: NodeId) -> bool {
        self.config.resource(resource).is_some_and(|resource| fits(resource, self.members, node))
    }

    fn holder(&self, state: &ViewState, resource: ResourceId) -> Option<NodeId> {
        state.grants.get(&resource).filter(|grant| !grant.released).map(|grant| grant.holder)
    }

    /// What copies do when resources go as the steps say.
    fn acts(&self, steps: &[Step], after: &ViewState, gone: Option<NodeId>) -> Vec<Act> {
        let mut acts = Vec::new();
        for resource in &self.config.resources {
            let Role::Slot { service, slot } = resource.role else { continue };
            let Some(config) = self.config.service(service) else { continue };
            let copy = Copy { service, slot };
            let (from, to) = (self.holder(self.state, resource.id), self.holder(after, resource.id));
            let warm = config.strategy == Strategy::Warm;
            let waits = |state: &ViewState, holder: Option<NodeId>, gone: Option<NodeId>| {
                let holder = holder.filter(|_| warm)?;
                standby(resource, self.members, state, holder, gone)
            };
            let (was, will) = (waits(self.state, from, None), waits(after, to, gone));
            let moved = steps.iter().any(|step| step.resource == resource.id && step.to.is_some());
            if moved {
                acts.extend(from.map(|node| Act { copy, node, what: "stops" }));
                let what = if was == to && was.is_some() { "is promoted from standby" } else { "starts" };
                acts.extend(to.map(|node| Act { copy, node, what }));
            }
            if was != will {
                acts.extend(was.filter(|node| Some(*node) != to).map(|node| Act {
                    copy,
                    node,
                    what: "ends as standby",
                }));
                acts.extend(will.map(|node| Act { copy, node, what: "starts as standby" }));
            }
        }
        acts
    }
}

/// The state as it would be.
struct Then<'a> {
    known: &'a Known<'a>,
    state: ViewState,
    gone: Option<NodeId>,
}

impl Then<'_> {
    fn give(&mut self, resource: ResourceId, to: NodeId) {
        if let Some(grant) = self.state.grants.get_mut(&resource) {
            *grant = Grant { holder: to, released: false, moving: None, ..*grant };
        }
    }

    /// Lets go who must, and what follows them, until all rests.
    fn settle(&mut self, steps: &mut Vec<Step>) {
        let config = self.known.config;
        let safe = config.resources.iter().filter(|resource| resource.availability == Availability::Safe);
        let safe: Vec<&ResourceConfig> = safe.collect();
        // Each can go once a round at most, and what requires it after it.
        for _ in 0..=safe.len() {
            let mut rests = true;
            for resource in &safe {
                let Some(from) = self.known.holder(&self.state, resource.id) else { continue };
                let Some(why) = self.must_go(resource, from) else { continue };
                if let Some(to) = self.choose(resource, from).filter(|to| *to != from) {
                    self.give(resource.id, to);
                    steps.push(Step { resource: resource.id, from: Some(from), to: Some(to), why });
                    rests = false;
                }
            }
            if rests {
                break;
            }
        }
        for resource in safe {
            let Some(from) = self.known.holder(&self.state, resource.id) else { continue };
            if let Some(why) = self.must_go(resource, from) {
                steps.push(Step { resource: resource.id, from: Some(from), to: None, why });
            }
        }
    }

    fn must_go(&self, resource: &ResourceConfig, holder: NodeId) -> Option<&'static str> {
        if self.gone == Some(holder) {
            return Some("its node leaves");
        }
        if self.state.drained.contains(&holder) {
            return Some("its node gives everything away");
        }
        (!self.requirements(resource, holder)).then_some("what it requires goes there")
    }

    fn requirements(&self, resource: &ResourceConfig, node: NodeId) -> bool {
        let config = self.known.config;
        let Role::Slot { service, .. } = resource.role else { return true };
        let Some(service) = config.service(service) else { return true };
        service.requires.iter().all(|needed| {
            config.resources.iter().any(|other| {
                matches!(other.role, Role::Slot { service, .. } if service == *needed)
                    && self.known.holder(&self.state, other.id) == Some(node)
            })
        })
    }

    /// The best holder, as the engine ranks them.
    fn choose(&self, resource: &ResourceConfig, leaving: NodeId) -> Option<NodeId> {
        let (config, state) = (self.known.config, &self.state);
        let sibling = |node: NodeId| {
            let Role::Slot { service, .. } = resource.role else { return false };
            config.resources.iter().any(|other| {
                other.id != resource.id
                    && matches!(other.role, Role::Slot { service: same, .. } if same == service)
                    && self.known.holder(state, other.id) == Some(node)
            })
        };
        let fit = |node: NodeId| {
            fits(resource, self.known.members, node)
                && self.gone != Some(node)
                && !self.known.down.contains(&node)
                && !state.drained.contains(&node)
                && !sibling(node)
                && self.requirements(resource, node)
        };
        let load = |node: NodeId| state.grants.values().filter(|grant| grant.holder == node && !grant.released).count();
        let order = |at: usize| if resource.candidates.is_empty() { 0 } else { at };
        let nodes = candidates(resource, self.known.members);
        let fit = nodes.iter().enumerate().filter(|(_, node)| fit(**node));
        fit.map(|(at, node)| (*node, (leaving == *node, order(at), load(*node), *node)))
            .min_by_key(|(_, rank)| *rank)
            .map(|(node, _)| node)
    }
}

fn candidates(resource: &ResourceConfig, members: &Membership) -> Vec<NodeId> {
    if resource.candidates.is_empty() { members.members().into_iter().collect() } else { resource.candidates.clone() }
}

fn fits(resource: &ResourceConfig, members: &Membership, node: NodeId) -> bool {
    members.contains(node)
        && !members.arbiters.contains(&node)
        && (resource.candidates.is_empty() || resource.candidates.contains(&node))
}

/// Where the standby of a warm service is: on the next candidate after its holder.
fn standby(
    resource: &ResourceConfig,
    members: &Membership,
    state: &ViewState,
    holder: NodeId,
    gone: Option<NodeId>,
) -> Option<NodeId> {
    let nodes = candidates(resource, members);
    let fit = |node: &&NodeId| {
        fits(resource, members, **node) && **node != holder && gone != Some(**node) && !state.drained.contains(node)
    };
    let after = nodes.iter().position(|node| *node == holder).map_or(0, |at| at + 1);
    nodes[after..].iter().chain(&nodes[..after]).find(fit).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use apus_engine::consensus::{Grant, Membership, ViewState};
    use apus_engine::{Epoch, NodeId, ServiceId};

    use super::{Change, Known};
    use crate::{Config, slot_resource};

    const FILE: &str = "cluster = 7\nnode = 0\nnodes = [{ id = 0, address = \"10.0.0.1\" }, { id = 1, address = \"10.0.0.2\" }, \
                        { id = 2, address = \"10.0.0.3\" }]\n[[services]]\nname = \"db\"\ncommand = [\"/bin/db\"]\n[[services]]\n\
                        name = \"web\"\ncommand = [\"/bin/web\"]\nrequires = [\"db\"]\n[[services]]\nname = \"hot\"\n\
                        command = [\"/bin/hot\"]\nstrategy = \"hot\"\nreplicas = 2\n";

    /// A cluster in which `db.0`, `web.0`, `hot.0` and `hot.1` are held by these nodes.
    fn told(held: [u16; 4], down: &[u16], change: Change) -> (Vec<String>, Vec<String>) {
        let config = crate::engine::config(&Config::read("x", FILE).expect("it is good")).expect("it fits");
        let mut state = ViewState::default();
        for (at, holder) in [(0, 0), (1, 0), (2, 0), (2, 1)].into_iter().zip(held) {
            let grant = Grant {
                epoch: Epoch(u64::from(holder) + 1),
                holder: NodeId(holder),
                released: false,
                moving: None,
                because: apus_engine::Causes::default(),
            };
            state.grants.insert(slot_resource(ServiceId(at.0), at.1), grant);
        }
        let voters = (0..3).map(NodeId).collect();
        let members = Membership { voters, ..Membership::default() };
        let down: BTreeSet<NodeId> = down.iter().copied().map(NodeId).collect();
        let forecast = Known { config: &config, state: &state, members: &members, down }.forecast(change);
        let name = |resource: apus_engine::ResourceId| {
            let of = |(service, slot): &(u16, u8)| slot_resource(ServiceId(*service), *slot) == resource;
            let at = [(0, 0), (1, 0), (2, 0), (2, 1)].iter().position(of).expect("one of them");
            ["db", "web", "hot.0", "hot.1"][at]
        };
        let node = |node: Option<NodeId>| node.map_or_else(|| "nobody".into(), |node| node.0.to_string());
        let steps = forecast.steps.iter();
        let steps = steps.map(|step| format!("{} {} to {}", name(step.resource), node(step.from), node(step.to)));
        let acts = forecast.acts.iter();
        let acts = acts.map(|act| format!("{} {} {}", act.copy.service.0, act.node.0, act.what));
        (steps.collect(), acts.collect())
    }

    #[test]
    fn what_requires_something_follows_it_and_copies_stay_apart() {
        let (steps, acts) = told([0, 0, 0, 1], &[], Change::Drain(NodeId(0), true));
        assert_eq!(steps, ["db 0 to 2", "web 0 to 2", "hot.0 0 to 2"], "the least loaded; not beside the other copy");
        assert_eq!(acts[..2], ["0 0 stops", "0 2 starts"]);
        let (steps, _) = told([0, 0, 0, 1], &[], Change::Move(slot_resource(ServiceId(0), 0), NodeId(1)));
        assert_eq!(steps, ["db 0 to 1", "web 0 to 1"]);
        let (steps, acts) = told([0, 0, 0, 1], &[], Change::Move(slot_resource(ServiceId(0), 0), NodeId(0)));
        assert!(steps.is_empty() && acts.is_empty(), "it is there");
    }

    #[test]
    fn what_nobody_else_can_have_stays_and_is_told() {
        let (steps, acts) = told([0, 0, 0, 1], &[2], Change::Drain(NodeId(0), true));
        assert_eq!(steps, ["db 0 to 1", "web 0 to 1", "hot.0 0 to nobody"]);
        assert!(!acts.iter().any(|act| act.starts_with('2')), "{acts:?}");
        let (steps, _) = told([1, 1, 0, 1], &[], Change::Leave(NodeId(1)));
        assert_eq!(steps, ["db 1 to 2", "web 1 to 2", "hot.1 1 to 2"]);
        let (steps, _) = told([1, 1, 0, 1], &[], Change::Drain(NodeId(2), false));
        assert!(steps.is_empty(), "nothing comes by itself: {steps:?}");
    }
}
