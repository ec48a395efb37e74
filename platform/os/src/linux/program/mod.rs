//! Keepers on Linux.
//!
//! ```text
//! daemon ── socket ──▶ keeper ── pidfd, pipe, notify socket ──▶ program, its session, its control group
//!                        │ child of
//!                      its warden: kills the program and all its children when the keeper is gone or has missed the lease
//! ```
//! Both are subreapers: whatever the program starts, and whatever it leaves behind, stays below them. Neither is a child of the
//! daemon for longer than its start takes.

mod capture;
mod group;
mod keeper;
mod logs;
mod notify;
mod probe;
mod spawn;
mod tree;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::clock;
use super::system::at;
use group::Group;
pub use notify::tell;
pub(super) use spawn::as_user;
pub(super) use tree::{boot_id, end_session, identity, noted};

/// Files in the folder of a copy.
pub const SOCKET: &str = "socket";
const LOCK: &str = "lock";
/// Which program runs, for who comes after a keeper that was killed.
const PROGRAM: &str = "program";
/// The name of the copy's control group, given by who starts the keeper.
pub const GROUP: &str = "group";

/// The warden acts so long after a lease's end, if the keeper has not.
const LATE: Duration = Duration::from_millis(50);
/// What an earlier keeper left has so long to be gone.
const SWEEP: Duration = Duration::from_secs(3);

/// Turns this process into the keeper of the copy whose folder this is, detached from who started it; returns in that process,
/// once the keeper listens or has failed. Its control group is named by a file in the folder.
///
/// # Errors
/// If it cannot keep: another keeper does, what an earlier one left does not end, or the system refuses something.
pub fn keep(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(folder.join(LOCK))?;
    lock.try_lock().map_err(|_| io::Error::other("another keeper keeps this copy"))?;
    let (mut result, to) = io::pipe()?;
    if fork()? == 0 {
        drop(result);
        // SAFETY: no memory is passed.
        unsafe { libc::setsid() };
        let code = warden(folder, to, &lock);
        std::process::exit(code);
    }
    drop(to);
    let mut said = String::new();
    result.read_to_string(&mut said)?;
    if said == "kept" { Ok(()) } else { Err(io::Error::other(said)) }
}

/// Starts the keeper of a copy by a command that calls [`keep`] with the folder, its last argument; returns once it listens. Nothing
/// of it stays a child of this process.
///
/// # Errors
/// If it does not keep: with what it said.
pub fn launch(command: &[&OsStr], folder: &Path, group: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    fs::write(folder.join(GROUP), group)?;
    let (name, args) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let done = Command::new(name).args(args).arg(folder).stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("no keeper for {}: {}", folder.display(), said.trim())))
}

/// Kills the keeper of a copy that does not answer; its warden ends the copy. Does nothing if that process keeps another.
pub fn end_keeper(pid: u32, folder: &Path) {
    let Some(who) = identity(pid) else { return };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let keeps = command.split(|byte| *byte == 0).any(|word| word == folder.as_os_str().as_encoded_bytes());
    if keeps {
        tree::signal_to(who, libc::SIGKILL);
    }
}

/// Must be called while the process has one thread.
fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: the process has one thread, so that the child may do what it likes.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Says why there is no keeper.
fn fail(mut to: PipeWriter, error: &io::Error) -> i32 {
    let _ = to.write_all(error.to_string().as_bytes());
    1
}

/// The parent of the keeper: ends with it, after it has ended what the keeper could not.
fn warden(folder: &Path, to: PipeWriter, _lock: &File) -> i32 {
    let begun = (|| {
        silence()?;
        let named = fs::read_to_string(folder.join(GROUP)).unwrap_or_default();
        let named = named.trim();
        let plain = !named.is_empty() && named.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let group = if plain && !named.starts_with('.') { Group::make(named) } else { Group::default() };
        sweep(folder, &group)?;
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        Ok::<_, io::Error>((group, timer()?, timer()?))
    })();
    let (group, lease, late) = match begun {
        Ok(begun) => begun,
        Err(error) => return fail(to, &error),
    };
    let warden = std::process::id();
    let keeper = match fork() {
        Err(error) => return fail(to, &error),
        Ok(0) => {
            let kept = keeper::Keeper::new(folder, group, lease, late, warden);
            let mut keeper = match kept {
                Ok(keeper) => keeper,
                Err(error) => return fail(to, &error),
            };
            let mut to = to;
            let _ = to.write_all(b"kept");
            drop(to);
            return i32::from(keeper.work().is_err());
        }
        Ok(keeper) => u32::try_from(keeper).unwrap_or_default(),
    };
    drop((to, lease));
    watch(keeper, &late);
    // The keeper is gone: so is all that it kept.
    while !tree::kill_below(std::process::id()) || reap() {
        std::thread::sleep(Duration::from_millis(1));
    }
    group.kill();
    let _ = fs::remove_file(folder.join(SOCKET));
    let _ = fs::remove_file(folder.join(PROGRAM));
    let _ = group.remove();
    0
}

/// Waits until the keeper is gone; ends what it keeps when the lease was over long ago and it did nothing.
fn watch(keeper: u32, late: &OwnedFd) {
    let Ok(handle) = tree::open(keeper) else { return };
    loop {
        match wait_any(&[handle.as_raw_fd(), late.as_raw_fd()], None) {
            Ok(ready) if ready[0] => return,
            Ok(ready) if ready[1] => {
                // It is frozen, or starved: its lease is over all the same.
                let mut count = [0_u8; 8];
                // SAFETY: the buffer is as long as is said.
                let read = unsafe { libc::read(late.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
                while read == 8 && !tree::kill_below(keeper) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Hears of children that have ended; true while there are others.
fn reap() -> bool {
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return pid == 0;
        }
    }
}

/// No terminal, no files of who started it.
fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: no memory is passed.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
    std::env::set_current_dir("/")
}

/// What an earlier keeper and its warden left when both were killed.
fn sweep(folder: &Path, group: &Group) -> io::Result<()> {
    let left = || {
        let text = fs::read_to_string(folder.join(PROGRAM)).unwrap_or_default();
        let mut words = text.split_whitespace();
        let same = words.next() == Some(&boot_id());
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (pid, began) = (number().and_then(|pid| u32::try_from(pid).ok()), number());
        let (Some(pid), Some(began), true) = (pid, began, same) else { return Vec::new() };
        tree::session(crate::program::Identity { pid, began })
    };
    let until = clock::boot() + u64::try_from(SWEEP.as_nanos()).unwrap_or(u64::MAX);
    loop {
        let rest = left();
        if rest.is_empty() && !group.is_populated() {
            return Ok(());
        }
        if clock::boot() > until {
            return Err(io::Error::other("what an earlier keeper left does not end: it may be stuck in the kernel"));
        }
        for stat in rest {
            tree::signal_to(stat.identity, libc::SIGKILL);
        }
        group.kill();
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Notes which program runs.
fn note_program(folder: &Path, who: crate::program::Identity) -> io::Result<()> {
    let text = format!("{} {} {}\n", boot_id(), who.pid, who.began);
    let fresh: PathBuf = folder.join("program.new");
    fs::write(&fresh, text)?;
    fs::rename(fresh, folder.join(PROGRAM))
}

/// A timer on the clock that leases are counted on.
fn timer() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
    if fd < 0 {
        return Err(at("a timer")(io::Error::last_os_error()));
    }
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets it to a time of the boot clock, or, with `None`, off. A time that is over lets it ring at once.
fn set_timer(timer: &OwnedFd, at: Option<u64>) {
    let nanos = at.map_or(0, |at| at.max(1));
    let whole = libc::time_t::try_from(nanos / 1_000_000_000).unwrap_or(libc::time_t::MAX);
    let part = libc::c_long::try_from(nanos % 1_000_000_000).unwrap_or_default();
    let spec = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec { tv_sec: whole, tv_nsec: part },
    };
    // SAFETY: the times outlive the call; the old ones are not asked for.
    unsafe { libc::timerfd_settime(timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut()) };
}

/// Waits until one of these can be read, or was hung up; tells which.
fn wait_any(fds: &[i32], within: Option<Duration>) -> io::Result<Vec<bool>> {
    let polled = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 });
    let mut polled: Vec<libc::pollfd> = polled.collect();
    poll(&mut polled, within)?;
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

pub(super) fn poll(fds: &mut [libc::pollfd], within: Option<Duration>) -> io::Result<()> {
    let wait = within.map(|within| libc::timespec {
        tv_sec: libc::time_t::try_from(within.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(within.subsec_nanos()),
    });
    let wait = wait.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let many = libc::nfds_t::try_from(fds.len()).unwrap_or_default();
    // SAFETY: so many are there, and the time outlives the call; no mask is given.
    let got = unsafe { libc::ppoll(fds.as_mut_ptr(), many, wait, std::ptr::null()) };
    match got {
        ..0 => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
        }
        _ => Ok(()),
    }
}

/// Waits until something can be read or was hung up, so long at most; tells whether it is so.
fn wait_for(what: &impl AsFd, within: Duration) -> io::Result<bool> {
    Ok(wait_any(&[what.as_fd().as_raw_fd()], Some(within))?[0])
}
