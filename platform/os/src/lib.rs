//! What Apus asks of an operating system, behind traits: data planes for ONE-IP.

#[cfg(target_os = "linux")]
pub mod linux;
mod plane;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "planes are Linux's so far"))]
mod trace;

pub use plane::{Counters, Plane};
pub use trace::{Next, Record, Trace};
