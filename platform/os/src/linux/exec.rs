//! A command that somebody else asks for: in a session of its own, with nothing of this process but what is given, and gone when who
//! started it is.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::program::{as_user, boot_id, end_session, noted, poll};
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

/// What a command writes down of itself before it begins, in a file that is gone with this: so that whoever comes after a process that
/// was killed finds what the command left.
#[derive(Debug)]
pub struct Note(PathBuf);

impl Note {
    /// Of a command that is not started yet, in a folder. A disk that is full keeps no command from being run: then nothing is noted.
    ///
    /// # Errors
    /// If there can be no such file.
    pub fn of(command: &mut Command, folder: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let place = folder.join(format!("{}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&place)?;
        let note = Self(place);
        writeln!(file, "{}", boot_id())?;
        let own = move || {
            let mut stat = [0_u8; 1_024];
            // SAFETY: the name ends with a zero.
            let from = unsafe { libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
            // SAFETY: the buffer is as long as is said.
            let many = unsafe { libc::read(from, stat.as_mut_ptr().cast(), stat.len()) };
            if let Ok(many) = usize::try_from(many) {
                // SAFETY: so many were read into the buffer.
                let _ = unsafe { libc::write(file.as_raw_fd(), stat.as_ptr().cast(), many) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, on what was made ready before.
        unsafe { command.pre_exec(own) };
        Ok(note)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Ends all that commands noted in this folder have left in their sessions, and forgets them; tells how many processes there were.
/// For who has the folder alone, before it notes others.
pub fn end_noted(folder: &Path) -> usize {
    let (boot, mut many) = (boot_id(), 0);
    for place in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let text = fs::read_to_string(&place).unwrap_or_default();
        let of = text.split_once('\n').filter(|(machine, _)| *machine == boot);
        if let Some(leader) = of.and_then(|(_, stat)| noted(stat)) {
            many += end_session(leader);
        }
        let _ = fs::remove_file(&place);
    }
    many
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
        assert!(lives(pid));
        running.kill();
        running.child.wait().expect("it ends");
        assert!(ends(pid), "its child runs on");
    }

    /// Whether there is such a process, or what is left of one until whoever inherits it has looked.
    fn lives(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    fn ends(pid: u32) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while lives(pid) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        !lives(pid)
    }

    #[test]
    fn what_a_command_left_is_found_after_the_end_of_who_started_it() {
        let folder = std::env::temp_dir().join(format!("apus-noted-{}", std::process::id()));
        let notes = || fs::read_dir(&folder).into_iter().flatten().count();
        // Two, of which one ends in order.
        let begin = |script: &str| {
            let words = ["/bin/sh", "-c", script].map(str::to_owned);
            let mut command = command(&words, None).expect("it is made");
            let note = Note::of(&mut command, &folder).expect("a file");
            let mut running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped())).expect("it starts");
            let (mut out, mut text) = (running.child.stdout.take().expect("a pipe"), [0; 64]);
            let many = out.read(&mut text).expect("it tells");
            let child: u32 = String::from_utf8_lossy(&text[..many]).trim().parse().expect("a number");
            (note, running, child)
        };
        let (note, running, _) = begin("echo 1; exec sleep 1000");
        assert_eq!(notes(), 1);
        drop((running, note));
        assert_eq!(notes(), 0, "it is over");
        // Who started it is killed: so is the command, by the kernel, and nobody is left to end its children.
        let (note, mut running, child) = begin("sleep 1000 & echo $!; exec sleep 1000");
        let text = fs::read_to_string(&note.0).expect("it is noted");
        running.child.kill().and_then(|()| running.child.wait()).expect("it is ours");
        std::mem::forget((note, running));
        assert!(lives(child));
        // Another start of the machine, and another process of the same number: nothing is theirs.
        let place = folder.join("0.0");
        let (boot, stat) = text.split_once('\n').expect("two lines");
        fs::write(&place, format!("{}\n{stat}", boot.replace(|_| true, "0"))).expect("a file");
        let own = fs::read_to_string("/proc/self/stat").expect("a text");
        let mut fields: Vec<&str> = own.split(' ').collect();
        fields[21] = "1";
        fs::write(folder.join("0.1"), format!("{boot}\n{}", fields.join(" "))).expect("a file");
        fs::write(folder.join("0.2"), boot).expect("a file");
        assert_eq!(end_noted(&folder), 1);
        assert!(ends(child), "it runs on");
        assert_eq!((notes(), end_noted(&folder)), (0, 0));
        let _ = fs::remove_dir(&folder);
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
