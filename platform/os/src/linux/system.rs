//! What is set by files and commands.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Runs a command to its end, with `input` on its standard input.
///
/// # Errors
/// If it is not there or ends badly: with what it said.
pub(super) fn command(name: &str, args: &[&str], input: &str) -> io::Result<()> {
    let said = |what: &dyn std::fmt::Display| io::Error::other(format!("`{name} {}`: {what}", args.join(" ")));
    let mut child = Command::new(name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| said(&format!("{error}; install the package that has `{name}`")))?;
    if let Some(mut to) = child.stdin.take() {
        to.write_all(input.as_bytes()).map_err(|error| said(&error))?;
    }
    let output = child.wait_with_output().map_err(|error| said(&error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(said(&String::from_utf8_lossy(&output.stderr).trim()))
}

/// The text of a file of at most so many bytes: nothing that never ends, and nothing that is waited for.
///
/// # Errors
/// If it is another thing than a file, too long, no text, or cannot be read.
pub fn text_file(place: &Path, most: u64) -> io::Result<String> {
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(place)?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() > most {
        return Err(io::Error::other(format!("it must be a file of {most} bytes at most")));
    }
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Puts an error to the place where it happened.
pub(super) fn at(place: &str) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// The file of a kernel setting such as `net/ipv4/ip_forward`.
fn setting(name: &str) -> String {
    format!("/proc/sys/{name}")
}

pub(super) fn read_setting(name: &str) -> io::Result<String> {
    let path = setting(name);
    fs::read_to_string(&path).map(|value| value.trim().into()).map_err(at(&path))
}

pub(super) fn write_setting(name: &str, value: &str) -> io::Result<()> {
    let path = setting(name);
    fs::write(&path, value).map_err(at(&path))
}

/// As a text, such as `02:00:00:00:00:01`.
pub(super) fn mac_text([a, b, c, d, e, f]: apus_dispatch::Mac) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Name of the driver of a port (`ETHTOOL_GDRVINFO`), such as `veth`.
pub(super) fn driver(port: &str) -> io::Result<String> {
    // `struct ethtool_drvinfo`: the command, then the name; 196 bytes in all.
    let mut info = [0_u32; 49];
    info[0] = 3;
    // SAFETY: zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last one stays zero.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(port.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request and what it points to outlive the call, and have the size that it writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = info.iter().skip(1).take(8).flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0);
    Ok(name.map(char::from).collect())
}
