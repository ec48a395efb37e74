//! What the engine is told of a configuration.

use apus_engine::{Availability, Bootstrap, ClusterId, ConfigError, NodeId, ResourceConfig, ResourceId, Role};

use crate::{Config, Part, Service};

/// Whoever owns it answers for the cluster's address.
pub(crate) const DISPATCHER: ResourceId = ResourceId(1);

/// The engine's configuration.
///
/// # Errors
/// If knobs contradict each other.
pub(crate) fn config(config: &Config) -> Result<apus_engine::Config, ConfigError> {
    let of = |such: fn(Part) -> bool| -> Vec<NodeId> {
        config.nodes.iter().filter(|node| !node.joined && such(node.part)).map(|node| node.id).collect()
    };
    let bootstrap = Bootstrap {
        voters: of(|part| part != Part::Learner),
        arbiters: of(|part| part == Part::Arbiter),
        learners: of(|part| part == Part::Learner),
    };
    let mut engine = apus_engine::Config::new(config.me, bootstrap);
    engine.cluster = ClusterId(config.cluster);
    if !config.groups.is_empty() {
        // Peers of an earlier version are told nothing of files.
        engine.wire_version = apus_engine::wire::FILES;
    }
    config.knobs.apply(&mut engine);
    engine.views.lease = config.lease.unwrap_or(engine.views.lease);
    if config.vip.is_some() {
        engine.resources.push(ResourceConfig {
            id: DISPATCHER,
            role: Role::Dispatcher,
            availability: Availability::Safe,
            candidates: Vec::new(),
        });
    }
    engine.resources.extend(config.services.iter().flat_map(Service::resources));
    engine.services.extend(config.services.iter().map(|service| service.engine.clone()));
    engine.groups.extend(config.groups.iter().map(|group| group.engine.clone()));
    engine.check().map(|()| engine)
}
