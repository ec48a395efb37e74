//! What Apus asks of an operating system, behind traits: data planes for ONE-IP.

#[cfg(target_os = "linux")]
pub mod linux;
mod plane;

pub use plane::{Counters, Plane};
