//! What is set by files and commands.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

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

/// Puts an error to the place where it happened.
pub(super) fn at(place: &str) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// The file of a kernel setting such as `net/ipv4/fwmark_reflect`.
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
