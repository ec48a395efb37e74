//! A file system's end without notice: what was not written yet never will be.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::system::at;

/// `EXT4_IOC_SHUTDOWN` of ext4; xfs has the same number as `XFS_IOC_GOINGDOWN`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither the journal nor what waits in memory is written.
const NO_LOG_FLUSH: u32 = 2;

/// Does to the file system that holds `place` what a power failure does: from now on no byte reaches its device, and all that was not made
/// durable before is gone with the mount. Reading and writing give `EIO` until it is mounted anew.
///
/// # Errors
/// If it is neither ext4 nor xfs, or this process may not.
pub fn cut(place: &Path) -> io::Result<()> {
    let name = place.display().to_string();
    let folder = File::open(place).map_err(at(&name))?;
    let how = NO_LOG_FLUSH;
    // SAFETY: the number outlives the call, which reads it.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const how) };
    if done == 0 { Ok(()) } else { Err(at(&name)(io::Error::last_os_error())) }
}
