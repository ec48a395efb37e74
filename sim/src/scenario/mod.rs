//! Scenario files: from text to data to a plan per seed.
mod model;
mod plan;

pub use model::{Cluster, Expect, Plan, Scenario, ScriptedFault, Service, SwarmFault, Workload};
