//! A watchdog device: the kernel resets the machine when nobody has fed it for its timeout, also when who fed it is gone.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use super::system::at;

/// `WDIOC_SETTIMEOUT` of `linux/watchdog.h`.
const SET_TIMEOUT: libc::c_ulong = 0xc004_5706;

/// An open device. It begins to count when it is opened; dropping it without [`disarm`](Self::disarm) lets it count on.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    timeout: Duration,
}

impl Watchdog {
    /// Opens a device and sets its timeout, which is in whole seconds.
    ///
    /// # Errors
    /// If it is not there, another program has it, or it cannot have such a timeout.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let place = path.display().to_string();
        let device = File::options().write(true).open(path).map_err(at(&place))?;
        let mut seconds = libc::c_int::try_from(timeout.as_secs()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the number outlives the call, which reads and writes it.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT, &raw mut seconds) };
        let error = io::Error::last_os_error();
        // What has no timeout to set, such as a pipe to another program, keeps its own.
        if set < 0 && !matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) {
            return Err(at(&place)(error));
        }
        let timeout = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let mut watchdog = Self { device, timeout };
        watchdog.feed().map_err(at(&place))?;
        Ok(watchdog)
    }

    /// As the device took it, which may be another one than was asked for.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Lets it count anew.
    ///
    /// # Errors
    /// If the device does not take it.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"\0")
    }

    /// Lets it count no more; some devices go on all the same.
    ///
    /// # Errors
    /// If the device does not take it.
    pub fn disarm(mut self) -> io::Result<()> {
        self.device.write_all(b"V")
    }
}
