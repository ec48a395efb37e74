//! The slots of a service are on different machines: one machine's end costs one of them (NT-SwiFT §3.1, degree of replication).

use std::collections::BTreeMap;

use apus_engine::{Availability, NodeId, Role};

use super::{Checker, Look};
use crate::fault::Ns;

#[derive(Clone, Default)]
pub(super) struct SlotsApart;

impl Checker for SlotsApart {
    fn name(&self) -> &'static str {
        "slots-apart"
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        for at in 0..look.nodes() {
            let node = NodeId(u16::try_from(at).unwrap_or(u16::MAX));
            let Some((_, log, ..)) = look.engine(node).and_then(|engine| engine.look()) else { continue };
            let mut taken = BTreeMap::new();
            for resource in &look.plan().configs[at].resources {
                let Role::Slot { service, slot } = resource.role else { continue };
                let grant = log.state().grants.get(&resource.id).filter(|grant| !grant.released);
                let Some(grant) = grant.filter(|_| resource.availability == Availability::Safe) else { continue };
                if let Some(other) = taken.insert((service, grant.holder), slot) {
                    let holder = grant.holder;
                    return Err(format!("slots {other} and {slot} of {service} are both granted to {holder}"));
                }
            }
        }
        Ok(())
    }
}
