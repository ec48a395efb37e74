//! Ports of our own, by which the system and this process give each other frames.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use apus_dispatch::Mac;
use tun::AbstractDevice as _;

use super::system::{at, command, mac_text, write_setting};

/// A TAP device. It is gone with this value, and with the process.
pub(super) struct Tap {
    device: tun::Device,
    name: String,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("name", &self.name).finish_non_exhaustive()
    }
}

const TUN: &str = "/dev/net/tun";
/// A link-local address (RFC 3927) that nobody speaks to.
const OWN: &str = "169.254.65.80/32";

impl Tap {
    /// Makes a device; `%d` in its name becomes the first free number. With `header`, a `virtio_net_hdr` is before each frame.
    pub(super) fn make(name: &str, header: bool) -> io::Result<Self> {
        let mut config = tun::configure();
        config.tun_name(name).layer(tun::Layer::L2);
        config.platform_config(|linux| {
            linux.vnet_hdr(header).ensure_root_privileges(false);
        });
        let device = tun::create(&config).map_err(io::Error::from).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::EACCES) => at(TUN)(error),
            _ => at("making a TAP device")(error),
        })?;
        let name = device.tun_name().map_err(io::Error::from)?;
        Ok(Self { device, name })
    }

    /// Makes one with the hardware address of the port that the frames came to, by which the system takes them.
    pub(super) fn new(mac: Mac) -> io::Result<Self> {
        let tap = Self::make("apus%d", true)?;
        let name = &tap.name;
        // Clients are reached by another port than the one their frames seem to come from: that is forgiven where a port has an
        // address of its own.
        write_setting(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
        command("ip", &["link", "set", "dev", name, "addrgenmode", "none", "address", &mac_text(mac), "up"], "")?;
        command("ip", &["address", "add", OWN, "dev", name, "scope", "link"], "")?;
        Ok(tap)
    }

    /// Takes and gives at once, or not at all.
    pub(super) fn at_once(&self) -> io::Result<()> {
        self.device.set_nonblock()
    }

    /// Gives the system a frame, as if it came from a cable.
    pub(super) fn put(&self, frame: &[u8]) -> io::Result<()> {
        self.device.send(frame).map(|_| ())
    }

    /// Takes a frame that the system sends; how long it is.
    pub(super) fn take(&self, into: &mut [u8]) -> io::Result<usize> {
        self.device.recv(into)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}
