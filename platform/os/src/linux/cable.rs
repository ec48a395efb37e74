//! The system's end of a cable whose other end is a program: a TAP device with addresses, for as long as the program runs.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::process::Command;
use std::time::Instant;

use super::ring::index_of;
use super::system::{at, command, mac_text};
use super::tap::Tap;

/// Hardware address of the device.
const MAC: apus_dispatch::Mac = [2, 8, 4, 0, 0, 1];
/// The longest frame; the device's MTU is 1500.
const LONGEST: usize = 2_048;

/// Bytes of `signalfd_siginfo` (linux/signalfd.h).
const SIGNAL: usize = 128;

/// What [`Cable::wait`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A frame that the system sent.
    Frame(Vec<u8>),
    /// Nothing until then.
    Nothing,
    /// A signal: the user wants an end.
    Signal,
}

/// A TAP device and the signals that end a program. The kernel removes device, addresses and routes with this value, however
/// the program ends.
#[derive(Debug)]
pub struct Cable {
    tap: Tap,
    signals: File,
    before: libc::sigset_t,
    no_v6: Option<String>,
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Whether the system may call a device so.
fn fits(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
    (1..libc::IFNAMSIZ).contains(&name.len()) && name.chars().all(plain) && name != "." && name != ".."
}

/// What the system routes inside a network already; `None` if nothing.
fn routed(network: &str) -> io::Result<Option<String>> {
    let said = |what: &dyn std::fmt::Display| io::Error::other(format!("`ip route`: {what}"));
    let output = Command::new("ip")
        .args(["-4", "-o", "route", "show", "table", "all", "root", network])
        .output()
        .map_err(|error| said(&format!("{error}; install iproute2")))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned()))
}

impl Cable {
    /// Makes a TAP device of this name with these addresses, such as `10.8.0.254/16` in `10.8.0.0/16`, and up.
    ///
    /// # Errors
    /// If the name cannot be or is taken, the network is routed elsewhere, the driver is missing, or the right
    /// `CAP_NET_ADMIN`: with what to do.
    pub fn plug(name: &str, v4: &str, network: &str, v6: &str) -> io::Result<Self> {
        if !fits(name) {
            return Err(wrong(format!(
                "`{name}` is no name for a device: want 1 to 15 letters or digits, such as apus0"
            )));
        }
        if index_of(name).is_ok() {
            return Err(wrong(format!("there is a device `{name}` already; choose another name, or remove it")));
        }
        let tap = Tap::make(name, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong(format!(
                "{error}; load the driver (`modprobe tun`), or give the container the device (`--device /dev/net/tun`)"
            )),
            io::ErrorKind::PermissionDenied => wrong(format!("{error}; only root may make a TAP device: use sudo")),
            io::ErrorKind::ResourceBusy => wrong(format!("{error}; another program has `{name}`: choose another name")),
            _ => error,
        })?;
        if let Some(route) = routed(network)? {
            return Err(wrong(format!(
                "{network} is in use here: `{route}`; run in a namespace of its own (`ip netns`)"
            )));
        }
        tap.at_once()?;
        let name = tap.name();
        command("ip", &["link", "set", "dev", name, "addrgenmode", "none", "address", &mac_text(MAC), "up"], "")?;
        command("ip", &["address", "add", v4, "dev", name], "")?;
        let no_v6 = command("ip", &["address", "add", v6, "dev", name, "nodad"], "").err();
        let (signals, before) = signals()?;
        Ok(Self { tap, signals: signals.into(), before, no_v6: no_v6.map(|error| error.to_string()) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.tap.name()
    }

    /// Why it has no IPv6 address, if so.
    #[must_use]
    pub fn no_v6(&self) -> Option<&str> {
        self.no_v6.as_deref()
    }

    /// Waits for a frame from the system, or a signal; looks at least once.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn wait(&mut self, until: Instant) -> io::Result<Seen> {
        loop {
            let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut both = [entry(self.tap.as_raw_fd()), entry(self.signals.as_raw_fd())];
            let left = until.saturating_duration_since(Instant::now());
            let left = libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // SAFETY: entries and time outlive the call, and there are two entries.
            let ready = unsafe { libc::ppoll(both.as_mut_ptr(), 2, &raw const left, std::ptr::null()) };
            if ready == 0 {
                return Ok(Seen::Nothing);
            }
            if both[1].revents != 0 {
                return Ok(Seen::Signal);
            }
            let mut frame = vec![0; LONGEST];
            match self.tap.take(&mut frame) {
                Ok(length) => {
                    frame.truncate(length);
                    return Ok(Seen::Frame(frame));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at(self.tap.name())(error)),
            }
        }
    }

    /// Gives the system a frame. One that it has no room for, or that comes while the device is down, is lost.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.tap.put(frame) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(at(self.tap.name())(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // What has come is told: it must not come again.
        while self.signals.read(&mut [0; SIGNAL]).is_ok_and(|got| got > 0) {}
        // SAFETY: the set is one that the system gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Signals that end a program come by a file from now on; and what was before, for this thread.
fn signals() -> io::Result<(OwnedFd, libc::sigset_t)> {
    // SAFETY: all zeros are a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = set;
    // SAFETY: the set outlives the call.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the set outlives the call.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: both sets outlive the call.
    if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) } != 0 {
        return Err(io::Error::other("signals cannot be held back"));
    }
    // SAFETY: the set outlives the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_system_does_not_take() {
        for name in ["", "a/b", "a b", "apus%d", "sixteen-letters-", ".", "..", "a:b", "ä"] {
            assert!(!fits(name), "{name}");
            let error = Cable::plug(name, "10.8.0.254/16", "10.8.0.0/16", "fd08::1/64").expect_err("a bad name");
            assert!(error.to_string().contains("no name for a device"), "{error}");
        }
        assert!(fits("apus0") && fits("fifteen-letters"));
        let taken = Cable::plug("lo", "10.8.0.254/16", "10.8.0.0/16", "fd08::1/64").expect_err("it is there");
        assert!(taken.to_string().contains("a device `lo` already"), "{taken}");
    }
}
