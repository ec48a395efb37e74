//! Supervised programs: what a keeper is told and what it tells, the same on every system.
//!
//! A *keeper* is one small process for one copy of a service. It starts the program, watches it, and ends it with all its children
//! when it is told to, when the program itself ends, or when the copy's lease runs out: the last without anybody's help. It is no
//! child of the node's daemon: that may crash or be replaced, and asks for the [`State`] anew.

mod codec;

pub use codec::{Malformed, decode_order, decode_report, encode_order, encode_report, frame_length};

use std::net::SocketAddr;

/// Of the protocol between daemon and keeper.
pub const VERSION: u16 = 1;
/// A frame is at most so long, in bytes.
pub const LONGEST: usize = 1 << 20;
/// No lease: the copy runs until it is stopped.
pub const NO_LEASE: u64 = u64::MAX;

/// How one copy is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Of the service.
    pub name: String,
    /// Of the copy.
    pub slot: u8,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// As whom; as the keeper itself if left out.
    pub user: Option<String>,
    /// Added to a small environment of the keeper's.
    pub environment: Vec<(String, String)>,
    /// Where; the copy's own folder if left out.
    pub directory: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// How it is known to be ready.
    pub readiness: Readiness,
    /// Asked again and again once it is ready.
    pub liveness: Option<Liveness>,
    /// The promise behind `WATCHDOG=1`, in microseconds, if it makes one: a beat of thread 0.
    pub watchdog: Option<u64>,
    /// What asks it to end, such as 15.
    pub stop_signal: i32,
    /// From that to the kill, in microseconds, when the keeper itself has to end or to replace it.
    pub grace: u64,
    /// What makes a standby active: a command, or `SIGUSR1` to the program if left out.
    pub promote: Option<Vec<String>>,
    /// Bytes of one file of its output.
    pub log_bytes: u64,
    /// How many such files are kept.
    pub log_files: u8,
    /// What runs around it.
    pub hooks: Hooks,
    /// A program that hangs is ended by `SIGABRT`, so that the system writes a core of so many bytes at most.
    pub core: Option<u64>,
}

/// Commands around a program's life. Each runs as the program does, alone: before it begins, or when nothing of it is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before each start; without its success there is none.
    pub before: Option<Vec<String>>,
    /// After each end, however it came; the end is told when it is done.
    pub after: Option<Vec<String>>,
    /// For each of them, in microseconds; then it is killed.
    pub within: u64,
}

/// What a copy may use, as far as the system lets it be held to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of one processor.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A question to a program, from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It takes a connection.
    Tcp(SocketAddr),
    /// It answers `GET` with a status of 200 to 399.
    Http {
        /// Where.
        address: SocketAddr,
        /// Such as `/health`.
        path: String,
    },
    /// A command ends with 0.
    Script(Vec<String>),
}

/// How a program is known to be ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// Once it runs.
    #[default]
    Started,
    /// It says `READY=1` to `NOTIFY_SOCKET`.
    Notify,
    /// It passes a check, tried this often, in microseconds.
    Check {
        /// Which.
        check: Check,
        /// Between two tries, and for one.
        every: u64,
    },
}

/// A check whose success is a beat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// Which.
    pub check: Check,
    /// Between two tries, in microseconds.
    pub every: u64,
    /// For one try, in microseconds.
    pub within: u64,
    /// The thread whose beat it is.
    pub thread: u32,
    /// What a beat promises, in microseconds.
    pub promise: u64,
}

/// What a keeper is told. Each with a number is answered by [`Report::Done`] on the connection that it came by;
/// [`Order::Hello`] by [`Report::State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Who is there?
    Hello {
        /// The asker's.
        version: u16,
    },
    /// Make it so that a copy runs. One that runs by the same spec is kept as it is: that is how a new daemon takes it over.
    Start {
        /// Answer with this.
        op: u64,
        /// How.
        spec: Box<Spec>,
        /// Active, or a standby.
        active: bool,
        /// By which grant.
        epoch: u64,
        /// Until when on the boot clock, in nanoseconds; [`NO_LEASE`] without one.
        until: u64,
    },
    /// Make a standby active.
    Promote {
        /// Answer with this.
        op: u64,
        /// By which grant.
        epoch: u64,
        /// Until when.
        until: u64,
    },
    /// The lease lasts longer, or, with 0, is over. One of a lower epoch is not obeyed. Not answered.
    Lease {
        /// By which grant.
        epoch: u64,
        /// Until when.
        until: u64,
    },
    /// The lease is over and given back: an active copy of no higher epoch ends at once. Done when it is gone.
    Release {
        /// Answer with this.
        op: u64,
        /// By which grant it was held.
        epoch: u64,
    },
    /// Ask it to end, kill it after `grace`.
    Stop {
        /// Answer with this.
        op: u64,
        /// In microseconds.
        grace: u64,
    },
    /// Keep evidence of a hang.
    Capture {
        /// Answer with this.
        op: u64,
    },
    /// End, if nothing runs.
    Leave,
}

/// What a keeper tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything, for one who has just come.
    State(State),
    /// An order is carried out, or not.
    Done {
        /// Which.
        op: u64,
        /// `None` if it is; else why not.
        wrong: Option<String>,
        /// What was limited less than asked for, or where evidence is.
        note: String,
    },
    /// The program has begun: its number and when, for people.
    Began {
        /// Number.
        pid: u32,
        /// On the boot clock, in nanoseconds.
        since: u64,
    },
    /// It is ready.
    Ready,
    /// A thread has beaten.
    Beat {
        /// Which.
        thread: u32,
        /// What it promises, in microseconds.
        timeout: u64,
    },
    /// It is gone with all its children, without having been told to end.
    Ended(End),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// When the keeper saw it, on the boot clock in nanoseconds.
    pub at: u64,
}

/// Why a program is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// The system, or its limit, was out of memory.
    OutOfMemory,
    /// Its lease ran out.
    Guard,
    /// It was told to end.
    Stopped,
}

/// What a keeper keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Of its protocol.
    pub version: u16,
    /// This start of the machine.
    pub boot: String,
    /// The keeper.
    pub keeper: Identity,
    /// What runs.
    pub runs: Option<Runs>,
    /// How many programs it has started.
    pub starts: u32,
    /// How the last one ended.
    pub last: Option<End>,
    /// Words that came from who is not of the copy.
    pub strangers: u32,
}

/// A process, for as long as the machine runs: a number alone is given away again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it began, in the kernel's ticks since the machine's start.
    pub began: u64,
}

/// A running copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// The program.
    pub main: Identity,
    /// Active, or a standby.
    pub active: bool,
    /// By which grant.
    pub epoch: u64,
    /// Until when.
    pub until: u64,
    /// Since when, on the boot clock in nanoseconds.
    pub since: u64,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is on its way down.
    pub ending: bool,
}
