//! The daemon's end, as simple as can be, and what a test looks at.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apus_os::linux::clock;
use apus_os::linux::program::{SOCKET, launch};
use apus_os::program::{
    Cause, NO_LEASE, Order, Report, Spec, State, VERSION, decode_report, encode_order, frame_length,
};

/// Longer than anything takes that is not lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of one copy, its keeper gone with it.
pub(crate) struct Copy {
    pub(crate) folder: PathBuf,
    name: String,
}

impl Copy {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("apus-keeper-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        Self { folder, name }
    }

    pub(crate) fn launch(&self) -> Result<(), String> {
        let exe = std::env::current_exe().expect("it runs");
        launch(&[exe.as_os_str(), OsStr::new("keep")], &self.folder, &self.name).map_err(|error| error.to_string())
    }

    /// The name of its control group.
    pub(crate) fn group(&self) -> &str {
        &self.name
    }

    pub(crate) fn link(&self) -> Link {
        Link::to(&self.folder)
    }

    /// A keeper and a link to it.
    pub(crate) fn kept(name: &str) -> (Self, Link) {
        let copy = Self::new(name);
        copy.launch().expect("a keeper");
        let link = copy.link();
        (copy, link)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(mut link) = Link::try_to(&self.folder) {
            // The last to go.
            let warden = Process::open(parent(link.state.keeper.pid));
            link.send(&Order::Stop { op: 0, grace: 0 });
            link.send(&Order::Leave);
            if let Some(warden) = warden {
                warden.ended(PATIENCE);
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A connection to a keeper.
pub(crate) struct Link {
    stream: UnixStream,
    unread: Vec<u8>,
    pub(crate) state: State,
    /// Reports that came while something else was waited for.
    passed: Vec<Report>,
    ops: u64,
}

impl Link {
    pub(crate) fn to(folder: &Path) -> Self {
        Self::try_to(folder).expect("a keeper listens")
    }

    pub(crate) fn try_to(folder: &Path) -> Option<Self> {
        let stream = UnixStream::connect(folder.join(SOCKET)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let mut link = Self { stream, unread: Vec::new(), state: State::default(), passed: Vec::new(), ops: 0 };
        link.send(&Order::Hello { version: VERSION });
        match link.read() {
            Some(Report::State(state)) => link.state = state,
            other => panic!("{other:?} instead of a state"),
        }
        Some(link)
    }

    pub(crate) fn send(&mut self, order: &Order) {
        let _ = self.stream.write_all(&encode_order(order));
    }

    /// The next report; `None` if the keeper is gone.
    fn read(&mut self) -> Option<Report> {
        let mut bytes = [0; 4_096];
        loop {
            if let Ok(Some(length)) = frame_length(&self.unread)
                && self.unread.len() >= length
            {
                let frame: Vec<u8> = self.unread.drain(..length).collect();
                return Some(decode_report(&frame).expect("a report"));
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(many) => self.unread.extend(&bytes[..many]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the keeper says nothing"),
                Err(_) => return None,
            }
        }
    }

    /// Waits for the first report that this is about.
    pub(crate) fn wait<T>(&mut self, mut what: impl FnMut(&Report) -> Option<T>) -> T {
        for at in 0..self.passed.len() {
            if let Some(found) = what(&self.passed[at]) {
                self.passed.drain(..=at);
                return found;
            }
        }
        loop {
            let report = self.read().expect("the keeper is there");
            if let Some(found) = what(&report) {
                return found;
            }
            self.passed.push(report);
        }
    }

    /// What has been reported and not waited for.
    pub(crate) fn passed(&self) -> &[Report] {
        &self.passed
    }

    /// Asks for everything anew.
    pub(crate) fn state_of(&mut self) -> State {
        self.send(&Order::Hello { version: VERSION });
        self.wait(|report| match report {
            Report::State(state) => Some(state.clone()),
            _ => None,
        })
    }

    pub(crate) fn op(&mut self) -> u64 {
        self.ops += 1;
        self.ops
    }

    pub(crate) fn done(&mut self, op: u64) -> Result<String, String> {
        self.wait(|report| match report {
            Report::Done { op: of, wrong, note } if *of == op => {
                Some(wrong.clone().map_or_else(|| Ok(note.clone()), Err))
            }
            _ => None,
        })
    }

    pub(crate) fn start(&mut self, spec: Spec, until: u64) -> Result<String, String> {
        // What an earlier program said is no answer to anything.
        self.passed.retain(|report| !matches!(report, Report::Ready | Report::Beat { .. } | Report::Began { .. }));
        let op = self.op();
        self.send(&Order::Start { op, spec: Box::new(spec), active: until != 0, epoch: 1, until });
        self.done(op)
    }

    /// Starts it and gives its number.
    pub(crate) fn began(&mut self, spec: Spec) -> u32 {
        self.start(spec, NO_LEASE).expect("it starts");
        self.wait(|report| match report {
            Report::Began { pid, .. } => Some(*pid),
            _ => None,
        })
    }

    pub(crate) fn stop(&mut self, grace: u64) {
        let op = self.op();
        self.send(&Order::Stop { op, grace });
        self.done(op).expect("it stops");
    }

    pub(crate) fn order(&mut self, order: impl FnOnce(u64) -> Order) -> Result<String, String> {
        let op = self.op();
        let order = order(op);
        self.send(&order);
        self.done(op)
    }

    pub(crate) fn ended(&mut self) -> Cause {
        self.wait(|report| match report {
            Report::Ended(end) => Some(end.cause),
            _ => None,
        })
    }

    pub(crate) fn ready(&mut self) {
        self.wait(|report| (*report == Report::Ready).then_some(()));
    }

    pub(crate) fn beat(&mut self) -> (u32, u64) {
        self.wait(|report| match report {
            Report::Beat { thread, timeout } => Some((*thread, *timeout)),
            _ => None,
        })
    }
}

/// A process that is named for ever.
pub(crate) struct Process(OwnedFd);

impl Process {
    pub(crate) fn open(pid: u32) -> Option<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: it was just opened, and nobody else knows it.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it has ended within that time.
    pub(crate) fn ended(&self, within: Duration) -> bool {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one is there, and outlives the call.
        unsafe { libc::poll(&raw mut fd, 1, ms) == 1 }
    }

    pub(crate) fn signal(&self, signal: i32) {
        let fd = self.0.as_raw_fd();
        // SAFETY: no memory is passed: the third argument is allowed to be null.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) };
    }
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = text.rsplit_once(')').expect("a name");
    rest.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a parent")
}

/// This test's own program with some arguments.
pub(crate) fn program(args: &[&str]) -> Spec {
    let exe = std::env::current_exe().expect("it runs").display().to_string();
    let command = [exe, "program".into()].into_iter().chain(args.iter().map(|word| (*word).into())).collect();
    Spec {
        name: "test".into(),
        command,
        stop_signal: libc::SIGTERM,
        grace: 100_000,
        log_bytes: 65_536,
        log_files: 2,
        ..Spec::default()
    }
}

/// On the boot clock, so many milliseconds from now.
pub(crate) fn in_ms(ms: u64) -> u64 {
    clock::boot() + ms * 1_000_000
}

/// Waits for a file that ends with a line's end, and gives its words.
pub(crate) fn words(path: &Path) -> Vec<u32> {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        }
        assert!(Instant::now() < until, "{} is not written", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}
