//! Processes of one namespace, which is a machine.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::sh::{sh, until};

/// All processes of a namespace.
pub(crate) fn pids(space: &str) -> Vec<u32> {
    let own = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some(wanted) = own(&Path::new("/run/netns").join(space)) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| own(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(wanted)).collect()
}

/// The words of a process's command.
fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The daemon of a machine, if it runs.
pub(crate) fn daemon(space: &str) -> Option<u32> {
    let is = |pid: &u32| {
        let words = words(*pid);
        // Not yet, while `ip` or `setsid` are on their way to it.
        words.get(1).is_some_and(|word| word == "node") && words.get(2).is_some_and(|word| word == "run")
    };
    pids(space).into_iter().find(is)
}

/// The state letter of a process, such as `T` for one that is stopped.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sends a signal; who is gone already does not mind.
pub(crate) fn signal(pids: &[u32], name: &str) {
    let numbers: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let mut words = vec!["kill", "-s", name];
    words.extend(numbers.iter().map(String::as_str));
    if !numbers.is_empty() {
        let _ = sh(&words);
    }
}

/// Ends a process at once, or in order, and waits until it is gone.
pub(crate) fn end(pid: u32, name: &str) -> Result<(), String> {
    signal(&[pid], name);
    until(Duration::from_secs(10), || match state(pid) {
        None | Some('Z' | 'X') => Ok(()),
        Some(_) => Err(format!("process {pid} does not end by SIG{name}")),
    })
}

/// Starts a program in a namespace, apart from this one's terminal; its output goes to a file. Who starts it need not wait.
pub(crate) fn start(space: &str, first: bool, command: &[&str], log: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut words = vec!["ip", "netns", "exec", space];
    if first {
        words.extend(["chrt", "-r", "1"]);
    }
    words.extend(command);
    let errors = log.try_clone()?;
    let mut child = Command::new("setsid").args(words).stdin(Stdio::null()).stdout(log).stderr(errors).spawn()?;
    // Nobody else would take its end from the system.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Lets this process and what it starts go before all others of the machine, where that is allowed: other work shall not be judged.
pub(crate) fn go_first() -> bool {
    sh(&["chrt", "-a", "-r", "-p", "1", &std::process::id().to_string()]).is_ok()
}
