//! A command that somebody else asks for: in a session of its own, with nothing of this process but what is given, and gone when who
//! started it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use super::program::{as_user, end_session, poll};
use crate::program::Identity;

/// What it finds in its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, not yet started: the program by its path, its arguments, and as whom it runs, if not as this process. It ends at the
/// latest with the thread that starts it.
///
/// # Errors
/// If there is no such user.
pub fn command(words: &[String], user: Option<&str>) -> io::Result<Command> {
    let (name, args) = words.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(name);
    command.args(args).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    let enter = as_user(user, &mut command)?;
    // SAFETY: between fork and exec only system calls are made, on what was made ready before.
    unsafe { command.pre_exec(enter) };
    let masked = || {
        // SAFETY: no memory is passed.
        let _ = unsafe { libc::umask(0o022) };
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(masked) };
    Ok(command)
}

/// Waits until one end of a pipe can be read, or written, or was hung up: so long at most; tells whether it is so.
///
/// # Errors
/// As the system says.
pub fn ready(what: &impl AsFd, write: bool, within: Duration) -> io::Result<bool> {
    let events = if write { libc::POLLOUT } else { libc::POLLIN };
    let mut polled = [libc::pollfd { fd: what.as_fd().as_raw_fd(), events, revents: 0 }];
    poll(&mut polled, Some(within))?;
    Ok(polled[0].revents != 0)
}

/// A command that runs. Who drops it while it does, ends it.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    identity: Option<Identity>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        // Nobody has waited for it yet, so that its number is still its own.
        let identity = super::program::identity(child.id());
        Ok(Self { child, identity })
    }

    /// Kills it, and all that is left of its session.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        if let Some(identity) = self.identity {
            end_session(identity);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;
    use std::time::Instant;

    use super::*;

    #[test]
    fn nothing_of_it_is_left() {
        let words: Vec<String> = ["/bin/sh", "-c", "sleep 1000 & echo $!; exec sleep 1000"].map(str::to_owned).into();
        let mut command = command(&words, None).expect("it is made");
        let mut running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped())).expect("it starts");
        let mut out = running.child.stdout.take().expect("a pipe");
        let mut text = [0; 16];
        let many = out.read(&mut text).expect("it tells");
        let pid: u32 = String::from_utf8_lossy(&text[..many]).trim().parse().expect("a number");
        let lives = || super::super::program::identity(pid).is_some();
        assert!(lives());
        running.kill();
        running.child.wait().expect("it ends");
        let until = Instant::now() + Duration::from_secs(5);
        while lives() && Instant::now() < until {
            // A zombie, perhaps, until whoever inherits it has looked.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.contains(") Z ") {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Instant::now() < until, "its child runs on");
    }

    #[test]
    fn it_is_who_it_shall_be_and_knows_nothing_else() {
        let words = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let said = |mut command: Command| {
            let output = command.stdin(Stdio::null()).output().expect("it runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let text = said(command(&words("env; pwd"), None).expect("it is made"));
        assert!(text.contains(PATH) && !text.contains("CARGO") && text.ends_with("/\n"), "{text}");
        assert!(command(&words("id"), Some("no such user")).is_err());
        if said(command(&words("id -u"), None).expect("it is made")).trim() == "0" {
            let text = said(command(&words("id -u; id -G; umask"), Some("nobody")).expect("it is made"));
            assert!(text.starts_with("65534\n65534\n"), "{text}");
        }
    }

    #[test]
    fn it_ends_when_it_is_dropped_and_hears_what_its_starter_ignores() {
        // As `nohup` has it. Nobody sends this process one.
        // SAFETY: no function of this process is named.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        let words = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let mut hears = command(&words("kill -HUP $$; exit 3"), None).expect("it is made");
        let status = hears.stdin(Stdio::null()).status().expect("it runs");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGHUP));
        let mut sleeps = command(&words("exec sleep 1000"), None).expect("it is made");
        let running = Running::start(sleeps.stdin(Stdio::null())).expect("it starts");
        let pid = running.child.id();
        drop(running);
        // Not even a zombie of it.
        assert!(super::super::program::identity(pid).is_none());
    }
}
