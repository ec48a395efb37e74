//! A record of all that an engine is fed, in a ring of files of bounded size, and what becomes of it: an incident in one file, and
//! its replay.
//!
//! ```text
//! node:    inputs ──▶ Recorder ── engine
//!                        │ queue, bounded
//!                     a thread ──▶ DIR/record/segment-N   each: the engine's state, then steps
//! later:   export ──▶ FILE ──▶ Incident ──▶ replay, step by step, hash by hash
//! ```
//! A step is written before it is taken, so that the one that killed the engine is there; the hashes of the state after it come with
//! the next step.

mod difference;
mod file;
mod incident;
mod recorder;
mod replay;
mod ring;
#[cfg(test)]
mod tests;

pub use difference::{Difference, Field};
pub use file::{Act, ReadError, Reason, Start, Step};
pub use incident::{Incident, Span, Torn, export};
pub use recorder::Recorder;
pub use replay::{Replayed, Turn, replay};
pub use ring::Settings;

/// The folder of a node's record, in the node's folder.
pub const FOLDER: &str = "record";
