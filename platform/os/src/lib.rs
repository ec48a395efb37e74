//! What Apus asks of an operating system, behind traits: data planes for ONE-IP, and keepers of programs.

#[cfg(target_os = "linux")]
pub mod linux;
mod plane;
pub mod program;

pub use plane::{Counters, Plane};
