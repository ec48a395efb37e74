//! The socket by which a program speaks: `sd_notify`'s lines, and `HBEAT=THREAD` with `TIMEOUT_USEC=MICROSECONDS`. Who sends is told
//! by the kernel, and must be the copy's own.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// What a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is ready.
    Ready,
    /// A beat of the thread behind the watchdog.
    Watchdog,
    /// It has hung by its own judgement.
    Trigger,
    /// A beat of a thread, with its promise in microseconds; zero ends it.
    Beat { thread: u32, timeout: u64 },
    /// A word for people.
    Status(String),
}

/// Reads one datagram; what is not known is passed over, as `sd_notify` wants it.
pub(super) fn read(bytes: &[u8]) -> Vec<Said> {
    let text = String::from_utf8_lossy(bytes);
    let mut said = Vec::new();
    let mut beating: Option<u32> = None;
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => said.push(Said::Ready),
            Some(("WATCHDOG", "1")) => said.push(Said::Watchdog),
            Some(("WATCHDOG", "trigger")) => said.push(Said::Trigger),
            Some(("STATUS", status)) => said.push(Said::Status(status.chars().take(256).collect())),
            Some(("HBEAT", thread)) => beating = thread.trim().parse().ok(),
            Some(("TIMEOUT_USEC", timeout)) => {
                if let (Some(thread), Ok(timeout)) = (beating.take(), timeout.trim().parse()) {
                    said.push(Said::Beat { thread, timeout });
                }
            }
            _ => {}
        }
    }
    said
}

/// A beat on one line too, as a shell writes it.
fn spread(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.replace(" TIMEOUT_USEC=", "\nTIMEOUT_USEC=").into_bytes()
}

/// The keeper's end.
#[derive(Debug)]
pub(super) struct Ear(UnixDatagram);

/// What came, and from whom. Files that came with it are closed when it is dropped: who waits for that knows that it was read.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) pid: u32,
    pub(super) said: Vec<Said>,
    _files: Vec<OwnedFd>,
}

impl Ear {
    /// Listens at a path, for everybody: who speaks is looked at then.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
        let fd = socket.as_raw_fd();
        // SAFETY: the value outlives the call and is as long as is said.
        let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const on).cast(), length) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next that came; `None` if none is there.
    pub(super) fn hear(&self) -> Option<Heard> {
        let mut bytes = [0_u8; 4_096];
        // As aligned as control messages have to be.
        let mut control = [0_u64; 64];
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all fields may be zero.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        // SAFETY: the header's buffers outlive the call and are as long as it says.
        let got = unsafe { libc::recvmsg(self.fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
        let got = usize::try_from(got).ok()?;
        let mut heard = Heard { pid: 0, said: Vec::new(), _files: Vec::new() };
        // SAFETY: the kernel has filled the header in.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        while !message.is_null() {
            // SAFETY: it is not null, and the kernel has written it.
            let head = unsafe { message.read_unaligned() };
            // SAFETY: as above; the data follows the head.
            let data = unsafe { libc::CMSG_DATA(message) };
            if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_CREDENTIALS {
                // SAFETY: a message of this kind holds a `ucred`.
                let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                heard.pid = u32::try_from(who.pid).unwrap_or_default();
            } else if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
                // SAFETY: computes a length only.
                let before = unsafe { libc::CMSG_LEN(0) } as usize;
                let many = (head.cmsg_len as usize).saturating_sub(before) / size_of::<RawFd>();
                for at in 0..many {
                    // SAFETY: so many numbers are there.
                    let place = unsafe { data.cast::<RawFd>().add(at) };
                    // SAFETY: as above.
                    let fd = unsafe { place.read_unaligned() };
                    // SAFETY: the kernel has just opened it for this process.
                    heard._files.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            // SAFETY: both are as the kernel has written them.
            message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
        }
        heard.said = read(&spread(&bytes[..got.min(bytes.len())]));
        Some(heard)
    }
}

/// Says something to the keeper of the copy that this process belongs to, and waits until it is heard, a second at most.
///
/// # Errors
/// If there is no such keeper, or it does not listen.
pub fn tell(socket: &Path, lines: &str) -> io::Result<()> {
    let (heard, to_close) = io::pipe()?;
    let own = UnixDatagram::unbound()?;
    own.connect(socket)?;
    let mut part = libc::iovec { iov_base: lines.as_ptr().cast_mut().cast(), iov_len: lines.len() };
    let mut control = [0_u64; 4];
    // SAFETY: all fields may be zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    let size = u32::try_from(size_of::<RawFd>()).unwrap_or_default();
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
    unsafe { data.cast::<RawFd>().write_unaligned(to_close.as_raw_fd()) };
    // SAFETY: the header's buffers outlive the call and are as long as it says; the kernel only reads them.
    if unsafe { libc::sendmsg(own.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(to_close);
    // The other end is closed once it was heard.
    if super::wait_for(&heard, Duration::from_secs(1))? {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the keeper does not listen"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_what_is_not_known_is_passed_over() {
        let text = b"READY=1\nMAINPID=5\nSTATUS=well\nHBEAT=3\nTIMEOUT_USEC=500000\nTIMEOUT_USEC=7\nHBEAT=x\nnothing\nWATCHDOG=1";
        let said =
            [Said::Ready, Said::Status("well".into()), Said::Beat { thread: 3, timeout: 500_000 }, Said::Watchdog];
        assert_eq!(read(text), said);
        assert_eq!(read(&spread(b"HBEAT=1 TIMEOUT_USEC=0\n")), [Said::Beat { thread: 1, timeout: 0 }]);
        assert_eq!(read(&[0xff, b'=', 0, b'\n']), []);
    }

    #[test]
    fn who_speaks_is_known_and_knows_that_it_was_heard() {
        let path = std::env::temp_dir().join(format!("apus-ear-{}", std::process::id()));
        let ear = Ear::open(&path).expect("it listens");
        let speaker = {
            let path = path.clone();
            std::thread::spawn(move || tell(&path, "HBEAT=2 TIMEOUT_USEC=9"))
        };
        assert!(super::super::wait_for(&ear.0, Duration::from_secs(5)).expect("it is there"));
        let heard = ear.hear().expect("it came");
        assert_eq!((heard.pid, &heard.said[..]), (std::process::id(), &[Said::Beat { thread: 2, timeout: 9 }][..]));
        assert!(!speaker.is_finished(), "it waits until it was heard");
        drop(heard);
        speaker.join().expect("no panic").expect("it was heard");
        assert!(ear.hear().is_none());
        fs::remove_file(path).expect("it is ours");
    }
}
