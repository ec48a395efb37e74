//! The slots of a service are on different machines: one machine's end costs one of them (NT-SwiFT §3.1, degree of replication).

use std::collections::BTreeMap;

use apus_engine::{Availability, Role};

use super::{Checker, Look, logs};
use crate::fault::Ns;

#[derive(Clone)]
pub(super) struct SlotsApart;

impl Checker for SlotsApart {
    fn name(&self) -> &'static str {
        "slots-apart"
    }
    fn second(&mut self, _now: Ns, _sent: &[u64], look: &dyn Look) -> Result<(), String> {
        for (node, log) in logs(look) {
            let mut taken = BTreeMap::new();
            for resource in &look.plan().configs[usize::from(node.0)].resources {
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
