//! What an engine dropped, and why. Never silent, never an event a packet: a flood must not flood the trace.

use serde::{Deserialize, Serialize};

use crate::wire::DecodeError;

/// Counts since the start of this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Counters {
    /// Packets taken in.
    pub packets: u64,
    /// Packets before this life was durable.
    pub before_start: u64,
    /// Packets whose sender is not the peer they came from.
    pub spoofed: u64,
    /// Packets of a sender's earlier life.
    pub old_incarnation: u64,
    /// Packets that end early or have bytes left.
    pub malformed: u64,
    /// Packets damaged on the way.
    pub damaged: u64,
    /// Packets of an unknown version.
    pub version: u64,
    /// Packets of an unknown kind.
    pub unknown_kind: u64,
    /// Packets of another cluster.
    pub other_cluster: u64,
    /// Completions of operations that nobody waits for.
    pub stray_done: u64,
    /// Calls with a time before the last one.
    pub clock_backwards: u64,
}

impl Counters {
    pub(crate) const fn refuse(&mut self, error: DecodeError) {
        let counter = match error {
            DecodeError::Check => &mut self.damaged,
            DecodeError::Version => &mut self.version,
            DecodeError::Kind => &mut self.unknown_kind,
            DecodeError::Cluster => &mut self.other_cluster,
            DecodeError::Truncated | DecodeError::Trailing | DecodeError::Magic | DecodeError::Value => {
                &mut self.malformed
            }
        };
        *counter += 1;
    }
}
