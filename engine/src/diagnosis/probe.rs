//! Probes and their deadlines: adaptive, stretched while this node itself is unwell.

use serde::{Deserialize, Serialize};

use crate::config::DiagnosisConfig;
use crate::ids::{EvidenceId, NodeId};
use crate::time::{Micros, Time};

/// Round-trip estimate of one ring, after RFC 6298 §2, in integers.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(super) struct Rtt {
    smooth: Micros,
    var: Micros,
    known: bool,
}

impl Rtt {
    /// Folds one round trip in (gains 1/8 and 1/4).
    pub(super) fn observe(&mut self, rtt: Micros) {
        if !self.known {
            *self = Self { smooth: rtt, var: rtt.scale(1, 2), known: true };
            return;
        }
        let error = Micros(self.smooth.0.abs_diff(rtt.0));
        self.var = self.var.scale(3, 4) + error.scale(1, 4);
        self.smooth = self.smooth.scale(7, 8) + rtt.scale(1, 8);
    }

    /// Expected arrival and four deviations, between floor and ceiling.
    pub(super) fn deadline(&self, config: &DiagnosisConfig) -> Micros {
        if !self.known {
            return config.deadline_floor.scale(2, 1).min(config.deadline_ceiling);
        }
        (self.smooth + self.var.scale(4, 1)).clamp(config.deadline_floor, config.deadline_ceiling)
    }
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// The regular test in a ring, or an early one.
    Test {
        /// Which ring.
        ring: usize,
    },
    /// The second try, with helpers asked as well.
    Confirm {
        /// Which ring.
        ring: usize,
        /// The missed test.
        missed: EvidenceId,
    },
    /// A heartbeat of the log, whose answer is the test's.
    Beat,
    /// For another node.
    Help {
        /// Who asked.
        asker: NodeId,
        /// Its number.
        seq: u32,
    },
    /// Whether a node that is accused, or judged down, is there after all.
    Revisit,
}

/// One probe on its way.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(super) struct Probe {
    pub(super) seq: u32,
    pub(super) target: NodeId,
    pub(super) sent: Time,
    pub(super) due: Time,
    pub(super) purpose: Purpose,
}

impl Probe {
    /// The ring it tests.
    pub(super) const fn ring(&self) -> Option<usize> {
        match self.purpose {
            Purpose::Test { ring } | Purpose::Confirm { ring, .. } => Some(ring),
            Purpose::Beat | Purpose::Help { .. } | Purpose::Revisit => None,
        }
    }
}
