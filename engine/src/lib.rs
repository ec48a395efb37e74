//! Every protocol of Apus in one deterministic state machine per node: no I/O, no clock, no randomness of its own.
//!
//! The host's whole duty:
//! ```text
//! loop {
//!     while let Some(output) = engine.poll_output() { execute(output) }   // start it; do not wait
//!     let input = next_input_or(engine.deadline());                       // a completion, a packet, or Tick
//!     engine.handle(now(), input);
//! }
//! ```
//! See [`Engine`]. Parts: [`diagnosis`], [`consensus`], [`views`], [`supervision`], [`shipping`]; their bytes: [`wire`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod config;
pub mod consensus;
mod context;
mod counters;
pub mod diagnosis;
mod engine;
mod event;
pub mod hash;
mod ids;
mod io;
mod mutant;
mod rng;
pub mod shipping;
pub mod supervision;
mod time;
pub mod views;
pub mod wire;

pub use config::{
    Availability, Bootstrap, Config, ConfigError, ConsensusConfig, DiagnosisConfig, DiagnosisRule, GroupConfig, Mode,
    ResourceConfig, Role, ServiceConfig, Strategy, ViewsConfig,
};
pub use context::{Ctx, Signal};
pub use counters::Counters;
pub use engine::{BUILD, Engine, Marks};
pub use event::{EngineFact, Event, Fact};
pub use ids::{
    Causes, ClusterId, Epoch, EvidenceId, FileId, GroupId, Incarnation, Index, Lsn, NO_CAUSE, NodeId, OpId, ResourceId,
    ServiceId, Term, ThreadId,
};
pub use io::{
    Command, Copy, Deadline, Durable, ExitCause, GuardOrder, Input, Lane, Outcome, Output, Part, ProcessInput,
    ProcessOrder, Record, SubmitError,
};
pub use mutant::Mutant;
pub use rng::{Ratio, Rng, Seed};
pub use time::{Micros, Time};
