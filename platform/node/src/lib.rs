//! A node on a real machine: the engine on real sockets, a real disk and the boot clock, and ONE-IP on a port.
//!
//! ```text
//!   control socket ──▶ engine (apus_host::run) ── grants, members ──▶ Address: station, plane, guard, loopback
//!                          sockets, store                              a thread of its own
//! ```
//! Only Linux runs nodes; elsewhere [`run`] says so.
#![forbid(unsafe_code)]

mod check;
pub mod cluster;
mod config;
mod control;
mod copy;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
mod difference;
mod engine;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
mod fence;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
mod forecast;
mod group;
#[cfg(target_os = "linux")]
mod here;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
mod hex;
mod http;
mod knobs;
#[cfg(target_os = "linux")]
mod linux;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
pub mod remote;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
mod roster;
mod section;
mod service;
mod setup;
mod told;
pub mod view;

use std::fmt;

pub use check::check;
pub use config::{Config, ConfigError, Member, Vip, Wire};
pub use control::{ask, ask_long, trace, wait_drained};
pub use copy::{fallback, hbeat, keep};
pub use fence::{Action, Fence, Watchdog};
pub use group::{Capture, Group, Guarded, LIBRARY};
#[cfg(target_os = "linux")]
pub use here::check_here;
pub use http::{Http, Tls};
pub use knobs::{Knobs, Part};
pub use remote::Remote;
pub use service::{Service, slot_resource};
pub use setup::Setup;
pub use told::Told;

/// Why a node does not run.
#[derive(Debug)]
pub enum Error {
    /// The operator's to mend: what, and how.
    Usage(String),
    /// Something outside failed.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Failed(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs a node until a signal ends it. `say` is given a line for each thing that an operator may want to know.
///
/// # Errors
/// If it cannot start or go on.
#[cfg(target_os = "linux")]
pub fn run(config: &Config, say: impl Fn(&str) + Send + Sync + 'static) -> Result<(), Error> {
    linux::run(config, std::sync::Arc::new(say), None)
}

/// Runs a node until a signal ends it; `each` is given every new entry of its journal, also those of lines that [`run`] says.
///
/// # Errors
/// If it cannot start or go on.
#[cfg(target_os = "linux")]
pub fn run_logged(config: &Config, each: impl Fn(&view::Entry) + Send + Sync + 'static) -> Result<(), Error> {
    linux::run(config, std::sync::Arc::new(|_: &str| {}), Some(Box::new(each)))
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Always: only Linux has the data planes.
#[cfg(not(target_os = "linux"))]
pub fn run_logged(config: &Config, _: impl Fn(&view::Entry) + Send + Sync + 'static) -> Result<(), Error> {
    run(config, |_| {})
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Always: only Linux has the data planes.
#[cfg(not(target_os = "linux"))]
pub fn run(_: &Config, _: impl Fn(&str) + Send + Sync + 'static) -> Result<(), Error> {
    Err(Error::Usage("a node runs on Linux only so far: its data planes are Linux's; run it there".into()))
}

/// What of right files this machine does not have.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn check_here(files: &[(String, String)]) -> Vec<ConfigError> {
    let what = "a node runs on Linux only so far: look there".to_owned();
    files.iter().map(|(file, _)| ConfigError { file: file.clone(), line: 1, what: what.clone() }).collect()
}

/// Formats the disk of a node of a new cluster, once.
///
/// # Errors
/// If the folder has a store already, or cannot be written.
pub fn init(config: &Config) -> Result<(), Error> {
    use apus_host::store::{STATE_FILE, empty};
    use std::io::Write as _;
    let place = config.folder.display();
    let failed = |error: std::io::Error| Error::Failed(format!("{place}: {error}"));
    std::fs::create_dir_all(&config.folder).map_err(failed)?;
    if config.folder.join(STATE_FILE).exists() {
        let mend = "a node keeps its store for life; remove the folder only if the whole cluster begins anew";
        return Err(Error::Usage(format!("{place}: there is a store already; {mend}")));
    }
    // A machine that loses power a moment later has a store all the same: each file before the next, and the state comes last.
    for (name, bytes) in empty(true) {
        let mut file = std::fs::File::create(config.folder.join(name)).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    if cfg!(unix) {
        let above = config.folder.parent().filter(|above| !above.as_os_str().is_empty());
        for folder in std::iter::once(&*config.folder).chain(above) {
            std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Undoes what a node that was killed has left on this machine: the address on the loopback, kernel settings, nftables rules. Until
/// then its server goes on serving what another dispatcher sends, and the machine answers nobody for the address.
///
/// # Errors
/// If the node still runs, or the system refuses something.
#[cfg(target_os = "linux")]
pub fn clear(config: &Config) -> Result<(), Error> {
    linux::clear(config)
}

/// Undoes what a node that was killed has left on this machine.
///
/// # Errors
/// Always: only Linux runs nodes.
#[cfg(not(target_os = "linux"))]
pub fn clear(_: &Config) -> Result<(), Error> {
    Err(Error::Usage("a node runs on Linux only so far: there is nothing to undo here".into()))
}
