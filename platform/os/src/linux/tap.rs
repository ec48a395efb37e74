//! A port of our own, by which the system gets frames that it did not see on the wire.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use apus_dispatch::Mac;

use super::system::{at, command, mac_text, write_setting};

/// A TAP device. It is gone with this value, and with the process.
#[derive(Debug)]
pub(super) struct Tap {
    file: File,
    name: String,
}

const TUN: &str = "/dev/net/tun";
/// A link-local address (RFC 3927) that nobody speaks to.
const OWN: &str = "169.254.65.80/32";

/// Makes a device; `%d` in its name becomes the first free number. Its name in full.
pub(super) fn open(name: &str, flags: libc::c_int) -> io::Result<(File, String)> {
    let file = OpenOptions::new().read(true).write(true).open(TUN).map_err(at(TUN))?;
    // SAFETY: a request of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A zero stays at the end.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
    // SAFETY: the file is that of the driver that knows this request, and the request outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(at("making a TAP device")(io::Error::last_os_error()));
    }
    let full = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(byte.cast_unsigned()));
    Ok((file, full.collect()))
}

impl Tap {
    /// Makes one with the hardware address of the port that the frames came to.
    pub(super) fn new(mac: Mac) -> io::Result<Self> {
        let (file, name) = open("apus%d", libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
        // Clients are reached by another port than the one their frames seem to come from: that is forgiven where a port has an
        // address of its own.
        write_setting(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
        command("ip", &["link", "set", "dev", &name, "addrgenmode", "none", "address", &mac_text(mac), "up"], "")?;
        command("ip", &["address", "add", OWN, "dev", &name, "scope", "link"], "")?;
        Ok(Self { file, name })
    }

    /// Gives the system a frame, behind its `virtio_net_hdr`.
    pub(super) fn put(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write_all(frame)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}
