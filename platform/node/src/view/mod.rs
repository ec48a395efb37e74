//! The operator's view: journals, the reasons of what happened, what is amiss, and the numbers of it. What is here knows no system;
//! `linux/view.rs` asks engine and peers.

mod alarms;
mod client;
mod entry;
mod files;
mod journal;
mod metrics;
mod why;

pub use alarms::{Health, alarms};
pub use client::{Flow, stream};
pub use entry::{Called, Entry, Level};
#[cfg(target_os = "linux")]
pub(crate) use entry::{TEXT, short};
pub use files::files;
pub use journal::{Journal, KEPT, Page, on_disk, wall};
pub use metrics::{MEDIA, metrics};
pub use why::{Clocks, Step, Story, Subject, why};

#[cfg(test)]
#[path = "../../tests/support/openmetrics.rs"]
mod openmetrics;
