//! fanotify: the kernel tells of a folder's files, after they changed or before.

use std::ffi::CString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use super::{Place, Way};
use crate::linux::processes::{Ended, beside, bound};

/// Linux 6.14; not in the C library's headers of every system.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;

pub(crate) struct Fanotify {
    before: bool,
    reader: Option<(Ended, ChildStdin, BufReader<ChildStdout>)>,
}

impl Fanotify {
    /// `before`: the kernel asks before bytes are read or changed, and waits for the answer.
    pub(crate) fn new(before: bool) -> Self {
        Self { before, reader: None }
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        let Some((_, to, from)) = &mut self.reader else { return Err(io::Error::other("nobody reads events")) };
        writeln!(to, "{line}")?;
        let mut answer = String::new();
        from.read_line(&mut answer)?;
        match answer.trim().split_once(' ') {
            Some(("ok", rest)) => Ok(rest.to_string()),
            _ => Err(io::Error::other(answer.trim().to_string())),
        }
    }
}

impl Way for Fanotify {
    fn start(&mut self, place: &Place) -> io::Result<()> {
        let mut command = place.role(&["fanotify", if self.before { "before" } else { "after" }]);
        let mut child = bound(command.stdin(Stdio::piped()).stdout(Stdio::piped())).spawn()?;
        if let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) {
            self.reader = Some((Ended(child), to, BufReader::new(from)));
        }
        let root = place.root.display().to_string();
        self.ask(&format!("mark {root}")).map(drop)
    }

    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        // Redis keeps its files in a folder below, which is marked before it comes.
        for folder in [folder, &folder.join("appendonlydir")] {
            std::fs::create_dir(folder)?;
            self.ask(&format!("mark {}", folder.display()))?;
        }
        Ok(())
    }

    fn beside(&self) -> u64 {
        self.reader.as_ref().map_or(0, |(child, ..)| beside(child.0.id()))
    }

    fn seen(&mut self) -> io::Result<String> {
        let events = self.ask("count")?;
        if events == "0" { Err(io::Error::other("no event came")) } else { Ok(format!("{events} events")) }
    }
}

fn last<T>(failed: bool, value: T) -> io::Result<T> {
    if failed { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Role: reads events, and answers them where they ask.
pub(crate) fn read(before: bool) -> io::Result<()> {
    let class = if before { libc::FAN_CLASS_PRE_CONTENT } else { libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME };
    let how = class | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_UNLIMITED_QUEUE;
    let access = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC;
    // SAFETY: no memory is passed.
    let fan = unsafe { libc::fanotify_init(how, access.cast_unsigned()) };
    let opened = last(fan < 0, ());
    let (mut events, mut room) = (0u64, vec![0u8; 1 << 18]);
    let mut line = String::new();
    let input = io::stdin();
    loop {
        let mut wait =
            [(0, libc::POLLIN), (fan, libc::POLLIN)].map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
        // SAFETY: two structures, as is said.
        last(unsafe { libc::poll(wait.as_mut_ptr(), 2, -1) } < 0, ())?;
        if wait[1].revents != 0 {
            events += take(fan, before, &mut room)?;
        }
        if wait[0].revents != 0 {
            line.clear();
            if input.lock().read_line(&mut line)? == 0 {
                return Ok(());
            }
            let done = match (line.trim().split_once(' '), &opened) {
                (_, Err(error)) => Err(io::Error::new(error.kind(), format!("fanotify_init: {error}"))),
                (Some(("mark", folder)), _) => mark(fan, before, folder).map(|()| 0),
                _ => Ok(events),
            };
            match done {
                Ok(number) => println!("ok {number}"),
                Err(error) => println!("{error}"),
            }
        }
    }
}

fn mark(fan: i32, before: bool, folder: &str) -> io::Result<()> {
    let mask = if before {
        FAN_PRE_ACCESS
    } else {
        let names = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
        libc::FAN_MODIFY | names | libc::FAN_ONDIR
    };
    let path = CString::new(folder)?;
    // SAFETY: the path ends with a zero.
    let done = unsafe {
        libc::fanotify_mark(fan, libc::FAN_MARK_ADD, mask | libc::FAN_EVENT_ON_CHILD, libc::AT_FDCWD, path.as_ptr())
    };
    last(done < 0, ()).map_err(|error| io::Error::new(error.kind(), format!("fanotify_mark: {error}")))
}

/// Reads what is there, and lets it be done. How many events it was.
fn take(fan: i32, before: bool, room: &mut [u8]) -> io::Result<u64> {
    // SAFETY: the room is as large as is said.
    let got = unsafe { libc::read(fan, room.as_mut_ptr().cast(), room.len()) };
    let Ok(got) = usize::try_from(got) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
    };
    // A `fanotify_event_metadata` each: its length first, the descriptor at 16.
    let number = |at: usize| room[at..at + 4].try_into().map_or(-1, i32::from_ne_bytes);
    let (mut at, mut events) = (0, 0);
    while at + size_of::<libc::fanotify_event_metadata>() <= got {
        let (len, fd) = (number(at), number(at + 16));
        if before && fd >= 0 {
            let response = libc::fanotify_response { fd, response: libc::FAN_ALLOW };
            // SAFETY: the structure is as long as is said.
            unsafe { libc::write(fan, (&raw const response).cast(), size_of_val(&response)) };
            // SAFETY: the event's descriptor is ours.
            unsafe { libc::close(fd) };
        }
        events += 1;
        at += usize::try_from(len).unwrap_or(0).max(24);
    }
    Ok(events)
}
