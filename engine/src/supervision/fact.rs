//! What supervision says happened.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ThreadId};
use crate::io::{Copy, ExitCause};
use crate::time::Micros;

/// Why a copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FailureCause {
    /// The program ended by itself.
    Crash(ExitCause),
    /// A thread did not beat in time.
    Hang(ThreadId),
    /// It was not ready in time.
    NotReady,
    /// It could not be started.
    NotStarted,
    /// Its machine failed; known from diagnosis.
    Machine,
}

/// The rungs of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rung {
    /// Start it again here.
    Restart,
    /// Another node shall run it.
    FailOver,
    /// The machine's reboot hook.
    Reboot,
}

/// What supervision says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fact {
    /// A copy is being started.
    Starting {
        /// Which.
        copy: Copy,
        /// Active, or standby.
        active: bool,
        /// By which grant.
        epoch: Epoch,
    },
    /// It serves (active) or stands by.
    Ready {
        /// Which.
        copy: Copy,
    },
    /// A standby became active.
    Promoted {
        /// Which.
        copy: Copy,
        /// By which grant.
        epoch: Epoch,
    },
    /// It failed, with the true cause.
    Failed {
        /// Which.
        copy: Copy,
        /// Why.
        cause: FailureCause,
    },
    /// It is tried again after a wait.
    BackingOff {
        /// Which.
        copy: Copy,
        /// How long.
        wait: Micros,
        /// Failures in the window so far.
        failures: u8,
    },
    /// The limit of failures was reached.
    Escalated {
        /// Which.
        copy: Copy,
        /// To what.
        rung: Rung,
    },
    /// It is being stopped.
    Stopping {
        /// Which.
        copy: Copy,
    },
    /// It is gone, as ordered.
    Stopped {
        /// Which.
        copy: Copy,
    },
}
