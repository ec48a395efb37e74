//! The worlds in which the engine is tried: faults, checkers, traces.
#![forbid(unsafe_code)]
#![allow(clippy::cast_possible_truncation, reason = "a world has at most 65,536 nodes and as many faults; places fit")]

pub mod artifact;
pub mod checker;
pub mod emulated;
pub mod explain;
pub mod fates;
pub mod fault;
pub mod goal;
pub mod heap;
pub mod incident;
pub mod pcapng;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod search;
pub mod shrink;
pub mod trace;
pub mod turmoil;
pub mod world;
