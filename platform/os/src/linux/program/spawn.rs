//! The start of a program: its session, its group, its user, its end with its keeper.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use super::tree;
use crate::program::{Identity, Spec};

/// How far the keeper is before its programs, as `nice` counts; 0 without the right to be.
static HASTE: AtomicI32 = AtomicI32::new(0);

/// Puts this process before others.
pub(super) fn hasten() {
    const HOW: libc::c_int = 10;
    // SAFETY: no memory is passed.
    let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: no memory is passed.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, own - HOW) } == 0 {
        HASTE.store(HOW, Relaxed);
    }
}

/// A program that has just begun.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) identity: Identity,
    /// Readable once it has ended.
    pub(super) handle: OwnedFd,
}

/// Somebody of this machine.
struct User {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    home: String,
}

fn text(from: *const libc::c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: the entries of the user database end with a zero, and live until the next question.
    unsafe { std::ffi::CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

fn user(name: &str) -> io::Result<User> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("there is no user `{name}`"));
    let asked = CString::new(name).map_err(|_| unknown())?;
    // Its answer is one for all threads.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = ONE.lock();
    // SAFETY: the name ends with a zero; no other thread asks.
    let entry = unsafe { libc::getpwnam(asked.as_ptr()) };
    if entry.is_null() {
        return Err(unknown());
    }
    // SAFETY: it is not null, and is not asked for again before it was read.
    let entry = unsafe { entry.read() };
    let mut groups = vec![0; 256];
    let mut many: libc::c_int = 256;
    // SAFETY: there is room for so many.
    let got = unsafe { libc::getgrouplist(asked.as_ptr(), entry.pw_gid, groups.as_mut_ptr(), &raw mut many) };
    if got < 0 {
        return Err(io::Error::other(format!("`{name}` is in more than 256 groups")));
    }
    groups.truncate(usize::try_from(many).unwrap_or_default());
    Ok(User { uid: entry.pw_uid, gid: entry.pw_gid, groups, home: text(entry.pw_dir) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a command does before it begins, to be in a session of its own, which tells who is of it even when who started it is gone;
/// somebody else if that is asked; and gone when the thread that started it is.
///
/// # Errors
/// If there is no such user.
pub(in crate::linux) fn as_user(
    name: Option<&str>,
    command: &mut Command,
) -> io::Result<impl FnMut() -> io::Result<()> + Send + Sync + use<>> {
    let as_whom = name.map(user).transpose()?;
    if let (Some(user), Some(name)) = (&as_whom, name) {
        command.env("HOME", &user.home).env("USER", name).env("LOGNAME", name);
    }
    let parent = std::process::id();
    Ok(move || {
        // SAFETY: no memory is passed.
        checked(unsafe { libc::setsid() })?;
        if let Some(User { uid, gid, groups, .. }) = &as_whom {
            // SAFETY: so many groups are there.
            checked(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
            // SAFETY: no memory is passed.
            checked(unsafe { libc::setgid(*gid) })?;
            // SAFETY: no memory is passed.
            checked(unsafe { libc::setuid(*uid) })?;
        }
        // After the change of user, which takes it back.
        // SAFETY: no memory is passed.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: no memory is passed.
        if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // What the daemon was told to ignore, as by `nohup`, its programs are not. Of `KILL`, `STOP` and unknown ones it is refused.
        for signal in 1..=64 {
            // SAFETY: no memory is passed, and no function of this process is named.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: all of a set of signals may be zero.
        let none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set outlives the call; nothing is asked back.
        checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) })
    })
}

/// Starts a command as a spec says, in control groups that are entered by these files.
///
/// # Errors
/// If it cannot be started: with what to mend.
pub(super) fn start(
    spec: &Spec,
    command: &[String],
    folder: &Path,
    more: &[(&str, String)],
    entries: &[PathBuf],
    output: &PipeWriter,
) -> io::Result<Started> {
    let (name, args) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let entries: Vec<File> = entries.iter().filter_map(|path| File::options().write(true).open(path).ok()).collect();
    let mut child = Command::new(name);
    child.args(args).env_clear();
    for key in ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR"] {
        if let Some(value) = std::env::var_os(key) {
            child.env(key, value);
        }
    }
    let enter = as_user(spec.user.as_deref(), &mut child)?;
    child.env("APUS_SERVICE", &spec.name).env("APUS_SLOT", spec.slot.to_string());
    child.env("NOTIFY_SOCKET", folder.join("notify"));
    if let Some(promise) = spec.watchdog {
        child.env("WATCHDOG_USEC", promise.to_string());
    }
    child.envs(more.iter().map(|(key, value)| (*key, value)));
    child.envs(spec.environment.iter().map(|(key, value)| (key, value)));
    child.current_dir(spec.directory.as_deref().map_or(folder, Path::new));
    child.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let (haste, core) = (HASTE.load(Relaxed), spec.core);
    let bound = move || {
        for entry in &entries {
            // SAFETY: the buffer is as long as is said.
            let _ = unsafe { libc::write(entry.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        }
        // SAFETY: no memory is passed.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        // SAFETY: no memory is passed.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, own + haste) };
        // Of a core, so much and no more; where none is asked for, as the system has it.
        if let Some(most) = core {
            let most = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: the limit outlives the call.
            checked(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const most) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, on what was made ready before.
    unsafe { child.pre_exec(bound) };
    // SAFETY: likewise.
    unsafe { child.pre_exec(enter) };
    let mend = if spec.user.is_some() {
        "; does it exist, and may this node start programs as another user?"
    } else {
        "; does it exist, and may it be executed?"
    };
    let child = child.spawn().map_err(|error| io::Error::new(error.kind(), format!("`{name}`: {error}{mend}")))?;
    // Nobody has waited for it yet, so that its number is still its own.
    let handle = tree::open(child.id())?;
    let identity = tree::identity(child.id()).unwrap_or(Identity { pid: child.id(), began: 0 });
    Ok(Started { identity, handle })
}
