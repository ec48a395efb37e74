//! What a copy of a service, and who keeps it, asks of this machine.

use std::path::Path;
use std::time::Duration;

use crate::Error;

/// Turns this process into the keeper of the copy whose folder this is; returns once one listens.
///
/// # Errors
/// If there is one already, or the system refuses something.
#[cfg(target_os = "linux")]
pub fn keep(folder: &Path) -> Result<(), Error> {
    apus_os::linux::program::keep(folder).map_err(|error| Error::Failed(error.to_string()))
}

/// Says for a program that one of its threads lives, and beats again within `timeout`; zero ends its promise.
///
/// # Errors
/// If no keeper is named by `NOTIFY_SOCKET`, or it does not listen.
#[cfg(target_os = "linux")]
pub fn hbeat(thread: u32, timeout: Duration) -> Result<(), Error> {
    let socket = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| {
        Error::Usage("`NOTIFY_SOCKET` is not set: this is for programs that a node supervises".into())
    })?;
    let lines = format!("HBEAT={thread}\nTIMEOUT_USEC={}\n", timeout.as_micros());
    let place = Path::new(&socket);
    apus_os::linux::program::tell(place, &lines).map_err(|error| Error::Failed(format!("{}: {error}", place.display())))
}

/// Serves the mount over a group's tree until that is taken away: what a node starts for a group with `capture = "fuse"`.
///
/// # Errors
/// If it is not started as a node does, or the system refuses something.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn fallback(root: &Path, patterns: &[String]) -> Result<(), Error> {
    apus_fuse::fallback(root, patterns).map_err(|error| Error::Failed(error.to_string()))
}

/// Serves nothing.
///
/// # Errors
/// Always: only Linux on x86-64 has it.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn fallback(_: &Path, _: &[String]) -> Result<(), Error> {
    Err(Error::Usage("files are captured on Linux on x86-64 only so far".into()))
}

/// Keeps nothing.
///
/// # Errors
/// Always: only Linux has keepers.
#[cfg(not(target_os = "linux"))]
pub fn keep(_: &Path) -> Result<(), Error> {
    Err(Error::Usage("programs are kept on Linux only so far".into()))
}

/// Says nothing.
///
/// # Errors
/// Always: only Linux has keepers.
#[cfg(not(target_os = "linux"))]
pub fn hbeat(_: u32, _: Duration) -> Result<(), Error> {
    Err(Error::Usage("programs are kept on Linux only so far".into()))
}
