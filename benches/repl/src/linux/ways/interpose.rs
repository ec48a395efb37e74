//! The library before the program, and a drainer beside it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use apus_capture::Group;
use apus_capture::linux::{Capture, Discard, Drainer, Replay};

use super::{Place, Way};
use crate::linux::processes::{Ended, beside, bound, signal};

/// How long a drainer may take for what a slot left.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Interposed {
    patterns: &'static [&'static str],
    replayed: bool,
    ring: PathBuf,
    library: PathBuf,
    running: Option<(Capture, Ended)>,
}

impl Interposed {
    pub(crate) fn new(patterns: &'static [&'static str], replayed: bool) -> Self {
        Self { patterns, replayed, ring: PathBuf::new(), library: PathBuf::new(), running: None }
    }
}

impl Interposed {
    /// A short program under the library.
    fn run(&mut self, command: &mut Command) -> io::Result<()> {
        self.resume();
        self.before(command)?;
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_string()))
    }
}

/// Role: the drainer.
pub(crate) fn drain(ring: &Path, into: Option<&Path>) -> io::Result<()> {
    let mut drainer = Drainer::open(ring)?;
    let stop = AtomicBool::new(false);
    match into {
        Some(into) => drainer.run(&mut Replay::new(into)?, &stop),
        None => drainer.run(&mut Discard, &stop),
    }
}

impl Way for Interposed {
    fn start(&mut self, place: &Place) -> io::Result<()> {
        (self.ring, self.library) = (place.room.join("ring"), place.library.clone());
        if !self.library.is_file() {
            let why = format!("there is no library at {}; name it with --library", self.library.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let mut group = Group::new(&place.root, self.patterns);
        // A drainer that sleeps between slots must not cost the order.
        group.stall_ms = 10_000;
        let capture = group.create(&self.ring)?;
        let mut command = place.role(&["drain"]);
        command.arg(&self.ring);
        if self.replayed {
            command.arg(place.disk.join("copy"));
        }
        let drainer = Ended(bound(&mut command).spawn()?);
        self.running = Some((capture, drainer));
        self.rest()
    }

    /// By a program that is seen, so that the copy has it too.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        self.run(Command::new("mkdir").arg(folder))
    }

    fn remove(&mut self, folder: &Path) -> io::Result<()> {
        self.run(Command::new("rm").arg("-r").arg(folder))
    }

    fn before(&mut self, command: &mut Command) -> io::Result<()> {
        command.env("LD_PRELOAD", &self.library).env("APUS_CAPTURE", &self.ring);
        Ok(())
    }

    fn resume(&mut self) {
        if let Some((_, drainer)) = &self.running {
            signal(&drainer.0, libc::SIGCONT);
        }
    }

    fn rest(&mut self) -> io::Result<()> {
        let Some((capture, drainer)) = &mut self.running else { return Ok(()) };
        let until = Instant::now() + PATIENCE;
        loop {
            let status = capture.status();
            if status.reasons.in_order() && status.waiting == 0 && capture.shown() {
                break;
            }
            if let Some(status) = drainer.0.try_wait()? {
                return Err(io::Error::other(format!("the drainer ended: {status}")));
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("the drainer does not come to an end: {status:?}")));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        signal(&drainer.0, libc::SIGSTOP);
        Ok(())
    }

    fn beside(&self) -> u64 {
        self.running.as_ref().map_or(0, |(_, drainer)| beside(drainer.0.id()))
    }

    fn seen(&mut self) -> io::Result<String> {
        let Some((capture, _)) = &self.running else { return Ok(String::new()) };
        let status = capture.status();
        let text = format!(
            "{} records, {} bytes copied before overwriting, order lost {} times",
            status.next - 1,
            status.copied,
            status.lost - 1
        );
        if status.lost == 1 { Ok(text) } else { Err(io::Error::other(format!("{text}: {:?}", status.ever.words()))) }
    }
}
