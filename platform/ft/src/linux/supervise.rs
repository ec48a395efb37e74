//! Between a program and who supervises it: files that the supervisor keeps for the program's next life.
//!
//! The protocol is `sd_notify`'s: `FDSTORE=1` with `FDNAME=` and the file gives one; `BARRIER=1` with a pipe tells when it was read.
//! A next life finds them by `LISTEN_FDS` and `LISTEN_FDNAMES` (systemd), or by `APUS_KEPT`, which names the numbers themselves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Error;
use super::system::told;

/// What a segment is called among the files that a supervisor keeps.
const PREFIX: &str = "apus-ft.";
/// Files that are kept for one program.
const MOST: usize = 64;
/// Who does not read a word for so long does not listen.
const PATIENCE: libc::c_int = 5_000;

/// Whether somebody supervises this program.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

fn socket() -> Result<UnixDatagram, Error> {
    let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).ok_or_else(|| {
        Error::Usage("`NOTIFY_SOCKET` is not set: this is for programs that somebody supervises".into())
    })?;
    connected(&path)
}

fn connected(path: &OsString) -> Result<UnixDatagram, Error> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::SocketAddr;
    let what = || format!("the supervisor at {}", path.display());
    let own = UnixDatagram::unbound().map_err(Error::of(what()))?;
    let bytes = path.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    let address = address.map_err(Error::of(what()))?;
    own.connect_addr(&address).map_err(Error::of(what()))?;
    Ok(own)
}

/// Says something, without waiting until it is heard.
///
/// # Errors
/// If there is no supervisor, or it does not listen.
pub fn say(lines: &str) -> Result<(), Error> {
    send(&socket()?, lines, None).map_err(Error::of("a word to the supervisor"))
}

/// Gives a file to be kept, and waits until it is.
///
/// # Errors
/// If there is no supervisor, or it does not listen.
pub(super) fn give(name: &str, file: BorrowedFd<'_>) -> Result<(), Error> {
    let socket = socket()?;
    let failed = || Error::of("a file for the supervisor");
    let lines = format!("FDSTORE=1\nFDNAME={PREFIX}{name}\nFDPOLL=0\n");
    send(&socket, &lines, Some(file.as_raw_fd())).map_err(failed())?;
    let (heard, to_close) = io::pipe().map_err(failed())?;
    send(&socket, "BARRIER=1\n", Some(to_close.as_raw_fd())).map_err(failed())?;
    drop(to_close);
    let mut polled = libc::pollfd { fd: heard.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one is there, and outlives the call.
    let ready = told(unsafe { libc::poll(&raw mut polled, 1, PATIENCE) }.into()).map_err(failed())?;
    if ready == 0 {
        return Err(Error::System { what: "the supervisor".into(), error: io::ErrorKind::TimedOut.into() });
    }
    Ok(())
}

/// A file that the supervisor kept for this life.
pub(super) fn taken(name: &str) -> Option<OwnedFd> {
    let wanted = format!("{PREFIX}{name}");
    let variable = |name: &str| std::env::var(name).ok();
    let kept = variable("APUS_KEPT").and_then(|kept| {
        let mut pairs = kept.split(',').filter_map(|pair| pair.rsplit_once('='));
        pairs.find(|(name, _)| *name == wanted).and_then(|(_, fd)| fd.parse::<RawFd>().ok())
    });
    let fd = kept.or_else(|| {
        let own = variable("LISTEN_PID")?.parse() == Ok(std::process::id());
        let many: usize = variable("LISTEN_FDS")?.parse().ok().filter(|_| own)?;
        let names = variable("LISTEN_FDNAMES")?;
        let at = names.split(':').take(many).position(|name| name == wanted)?;
        RawFd::try_from(at).ok().map(|at| at + 3)
    })?;
    // Not this one's, which others may hold too, but one more: what is at that number is not known to be ours to close.
    // SAFETY: no memory is passed.
    let own = told(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into()).ok()?;
    // SAFETY: no memory is passed. Programs that this one starts do not inherit the first.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the kernel has just opened it for this process.
    Some(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(own).ok()?) })
}

fn send(socket: &UnixDatagram, lines: &str, file: Option<RawFd>) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: lines.as_ptr().cast_mut().cast(), iov_len: lines.len() };
    // As aligned as control messages have to be.
    let mut control = [0_u64; 4];
    // SAFETY: all fields may be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(file) = file {
        let size = u32::try_from(size_of::<RawFd>()).unwrap_or_default();
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes a length only.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: the header has room for one message.
        let message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: computes a length only.
        let length = unsafe { libc::CMSG_LEN(size) };
        let head = libc::cmsghdr { cmsg_len: length as _, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
        // SAFETY: there is room, see above.
        unsafe { message.write_unaligned(head) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(message) };
        // SAFETY: there is room for one number.
        unsafe { data.cast::<RawFd>().write_unaligned(file) };
    }
    // SAFETY: the header's buffers outlive the call and are as long as it says; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    told(sent as i64).map(|_| ())
}

/// One word from the program, with the files that came with it.
fn hear(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut bytes = [0_u8; 4096];
    let mut control = [0_u64; 64];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all fields may be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header's buffers outlive the call and are as long as it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let got = told(got as i64)?;
    let mut files = Vec::new();
    // SAFETY: the kernel has filled the header in.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: it is not null, and the kernel has written it.
        let head = unsafe { message.read_unaligned() };
        // SAFETY: as above; the data follows the head.
        let data = unsafe { libc::CMSG_DATA(message) };
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: computes a length only.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            for at in 0..(head.cmsg_len as usize).saturating_sub(before) / size_of::<RawFd>() {
                // SAFETY: so many numbers are there.
                let place = unsafe { data.cast::<RawFd>().add(at) };
                // SAFETY: as above.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has just opened it for this process.
                files.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: both are as the kernel has written them.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    Ok((String::from_utf8_lossy(&bytes[..got]).into_owned(), files))
}

/// A supervisor for one program, where there is neither a node of a cluster nor systemd: it keeps the program's files, and starts
/// it again when it ends badly.
#[derive(Debug)]
pub struct Supervisor {
    folder: PathBuf,
    kept: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Supervisor {
    /// Listens for a program that is not started yet, at a socket in a new folder beneath `within`.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn new(within: &Path) -> io::Result<Self> {
        let folder = within.join(format!("apus-ft-{}-{:x}", std::process::id(), unique()));
        fs::create_dir(&folder)?;
        let socket = UnixDatagram::bind(folder.join("notify"))?;
        let kept: Arc<Mutex<BTreeMap<String, OwnedFd>>> = Arc::default();
        let keeps = Arc::downgrade(&kept);
        std::thread::Builder::new().name("apus-ft-keeps".into()).spawn(move || {
            while let Ok((lines, files)) = hear(&socket) {
                let Some(keeps) = keeps.upgrade() else { return };
                keep(&mut keeps.lock().unwrap_or_else(PoisonError::into_inner), &lines, files);
            }
        })?;
        Ok(Self { folder, kept })
    }

    /// How many files are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Makes a command a supervised one, with what is kept by now.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = kept.iter().map(|(name, fd)| format!("{name}={}", fd.as_raw_fd())).collect();
        command.env("NOTIFY_SOCKET", self.folder.join("notify")).env("APUS_KEPT", names.join(","));
        let fds: Vec<RawFd> = kept.values().map(OwnedFd::as_raw_fd).collect();
        let inherit = move || {
            for fd in &fds {
                // SAFETY: no memory is passed.
                unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes system calls alone, on numbers that were made ready before.
        unsafe { command.pre_exec(inherit) }
    }

    /// Runs a command until it ends well, or has ended badly more than `restarts` times; each start after a bad end waits twice as
    /// long as the one before, 10 ms at first and a second at most.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(
        &self,
        mut command: impl FnMut() -> Command,
        restarts: u32,
        mut tell: impl FnMut(&str),
    ) -> io::Result<ExitStatus> {
        let mut wait = Duration::from_millis(10);
        for run in 0.. {
            let began = Instant::now();
            let status = self.prepare(&mut command()).status()?;
            if status.success() || run >= restarts {
                return Ok(status);
            }
            let cause = status.signal().map_or_else(
                || format!("with code {}", status.code().unwrap_or_default()),
                |signal| format!("by signal {signal}"),
            );
            tell(&format!(
                "it ended {cause} after {:.3} s; restart {} of {restarts}",
                began.elapsed().as_secs_f64(),
                run + 1
            ));
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(1));
        }
        unreachable!("it is left from within")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The thread ends with the next word, which is this one.
        let kept = std::mem::take(&mut self.kept);
        drop(kept);
        if let Ok(own) = UnixDatagram::unbound() {
            let _ = own.send_to(b"END=1\n", self.folder.join("notify"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Does with files what the word says that came with them. What is not kept is closed.
fn keep(kept: &mut BTreeMap<String, OwnedFd>, lines: &str, files: Vec<OwnedFd>) {
    let value = |key: &str| lines.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let name = value("FDNAME").unwrap_or("stored").to_owned();
    let fine = name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic() && !b":=,".contains(&byte));
    if value("FDSTOREREMOVE") == Some("1") {
        kept.remove(&name);
    } else if value("FDSTORE") == Some("1") && fine && (kept.len() < MOST || kept.contains_key(&name)) {
        kept.extend(files.into_iter().next().map(|file| (name, file)));
    }
}
