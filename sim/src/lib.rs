//! The worlds in which the engine is tried: faults, checkers, traces.
#![forbid(unsafe_code)]

pub mod checker;
pub mod fault;
pub mod goal;
pub mod heap;
pub mod report;
pub mod scenario;
pub mod search;
pub mod trace;
pub mod world;
