//! Scenario files: from text to data to a plan per seed.

mod budget;
mod check;
mod keys;
mod log_uniform;
mod mend;
mod model;
mod parse;
mod plan;
mod problem;
mod reader;
mod reference;
mod schema;
mod shipped;
mod source;
mod suggest;
mod target;
mod units;

pub use keys::{EMULATED_NODES, TURMOIL_NODES};
pub use model::{Cluster, Expect, Plan, Scenario, ScriptedFault, Service, SwarmFault, Workload};
pub use problem::{Problem, Problems};
pub use reference::reference;
pub use schema::schema;
pub use shipped::{Shipped, shipped};
pub use suggest::nearest;
pub use units::{show_time, time as read_time};
