//! What keeps the copy.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apus_capture::linux::{Capture, Drainer, Replay};
use apus_capture::{Change, Consumer, Group, Listed, Operation};

use super::live::Live;
use super::network::{Network, time};
use crate::linux::processes::{Ended, bound};
use crate::linux::redis::which;

/// Where a system works.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    pub(crate) copy: PathBuf,
    /// Room of its own.
    pub(crate) room: PathBuf,
    pub(crate) me: Vec<std::ffi::OsString>,
    pub(crate) library: PathBuf,
    pub(crate) workload: String,
}

pub(crate) trait System {
    fn start(&mut self, site: &Site) -> io::Result<()>;
    /// What programs need.
    fn dress(&self, command: &mut Command);
    /// The first of the workload's programs, if this system starts them itself: another one than `before`, which was killed.
    fn runs(&mut self, before: Option<u32>) -> io::Result<Option<u32>> {
        let _ = before;
        Ok(None)
    }
    /// Stops the receiver. `false`: what is there may not be shown now, and it goes on.
    fn freeze(&mut self) -> io::Result<bool>;
    fn thaw(&mut self) -> io::Result<()>;
    /// The receiver is killed and started again.
    fn crash(&mut self) -> io::Result<()>;
    /// Processor time so far, in nanoseconds.
    fn processor(&self) -> u64;
    /// Bytes that were sent.
    fn wire(&mut self) -> io::Result<u64>;
    /// What is to be known in the end.
    fn note(&self) -> String {
        String::new()
    }
    /// What its programs said last, where something did not come.
    fn story(&self) -> String {
        String::new()
    }
}

/// All of them.
pub(crate) const NAMES: [&str; 4] = ["apus", "apus-live", "lsyncd", "syncthing"];

pub(crate) fn make(name: &str) -> io::Result<Box<dyn System>> {
    let needs = |programs: &[&str]| match programs.iter().find(|program| which(program).is_none()) {
        Some(program) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed"))),
        None => Ok(()),
    };
    match name {
        "apus" => Ok(Box::<Apus>::default()),
        "apus-live" => needs(&["unshare", "nsenter", "ip"]).map(|()| Box::<Live>::default() as _),
        "lsyncd" => needs(&["lsyncd", "rsync", "unshare", "nsenter", "ip"]).map(|()| Box::<Lsyncd>::default() as _),
        "syncthing" => needs(&["syncthing", "unshare", "nsenter", "ip"]).map(|()| Box::<Syncthing>::default() as _),
        other => {
            let why = format!("{other} is no system; there are {}", NAMES.join(", "));
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// Capture, and the operations done over again in the copy.
#[derive(Default)]
struct Apus {
    site: Option<Site>,
    capture: Option<Capture>,
    receiver: Option<(Ended, ChildStdin, BufReader<ChildStdout>)>,
    earlier: (u64, u64),
}

impl Apus {
    fn ask(&mut self, what: &str) -> io::Result<String> {
        let Some((_, to, from)) = &mut self.receiver else { return Err(io::Error::other("there is no receiver")) };
        writeln!(to, "{what}")?;
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the receiver ended"));
        }
        Ok(line.trim().to_string())
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(site) = &self.site else { return Ok(()) };
        let mut command = Command::new(&site.me[0]);
        command.args(&site.me[1..]).arg("receive").arg(site.room.join("ring")).arg(&site.copy);
        let mut child = bound(command.stdin(Stdio::piped()).stdout(Stdio::piped())).spawn()?;
        if let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) {
            self.receiver = Some((Ended(child), to, BufReader::new(from)));
        }
        Ok(())
    }
}

impl System for Apus {
    fn start(&mut self, site: &Site) -> io::Result<()> {
        self.capture = Some(Group::new(&site.root, &["**", "!*-shm", "!socket"]).create(&site.room.join("ring"))?);
        self.site = Some(site.clone());
        self.begin()
    }

    fn dress(&self, command: &mut Command) {
        if let Some(site) = &self.site {
            command.env("LD_PRELOAD", &site.library).env("APUS_CAPTURE", site.room.join("ring"));
        }
    }

    fn freeze(&mut self) -> io::Result<bool> {
        self.ask("freeze").map(|answer| answer == "shown")
    }

    fn thaw(&mut self) -> io::Result<()> {
        self.ask("thaw").map(drop)
    }

    fn crash(&mut self) -> io::Result<()> {
        self.earlier = (self.processor(), self.wire()?);
        self.receiver = None;
        self.begin()
    }

    fn processor(&self) -> u64 {
        self.earlier.0 + self.receiver.as_ref().map_or(0, |(child, ..)| time(child.0.id()))
    }

    fn wire(&mut self) -> io::Result<u64> {
        let sent = self.ask("sent")?;
        Ok(self.earlier.1 + sent.parse::<u64>().unwrap_or(0))
    }

    fn note(&self) -> String {
        let Some(capture) = &self.capture else { return String::new() };
        let status = capture.status();
        format!("order lost {} times: {}", status.lost - 1, status.ever.words().join(", "))
    }
}

/// Does operations over between which it can be stopped, and counts their bytes.
struct Gate {
    replay: Replay,
    shown: Arc<Mutex<bool>>,
    sent: Arc<AtomicU64>,
}

impl Consumer for Gate {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let bytes = match operation.change {
            Change::Write { bytes, .. } => bytes.len(),
            Change::Listing { entries } => entries.iter().map(|entry| entry.path.len() + 64).sum(),
            _ => 0,
        };
        // A record's header, and what is in it.
        self.sent.fetch_add(64 + bytes as u64, Relaxed);
        let mut shown = self.shown.lock().map_err(|_| io::Error::other("a thread ended"))?;
        // Not whole while it is done, whatever comes.
        *shown = false;
        self.replay.take(operation)?;
        *shown = operation.publish;
        Ok(())
    }

    fn wants(&mut self, listed: &Listed) -> bool {
        self.replay.wants(listed)
    }
}

/// Role: the receiver. It stops between two operations where it is told to.
pub(crate) fn receive(ring: &Path, copy: &Path) -> io::Result<()> {
    let shown = Arc::new(Mutex::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut gate = Gate { replay: Replay::new(copy)?, shown: Arc::clone(&shown), sent: Arc::clone(&sent) };
    let mut drainer = Drainer::open(ring)?;
    std::thread::spawn(move || {
        let mut lines = io::stdin().lock().lines();
        while let Some(Ok(line)) = lines.next() {
            match line.as_str() {
                "freeze" => {
                    let Ok(held) = shown.lock() else { return };
                    println!("{}", if *held { "shown" } else { "hidden" });
                    // Until it is told to go on, if it has stopped.
                    while *held && lines.next().is_some_and(|line| line.is_ok_and(|line| line != "thaw")) {}
                    if *held {
                        println!("on");
                    }
                }
                "sent" => println!("{}", sent.load(Relaxed)),
                _ => println!("on"),
            }
        }
        std::process::exit(0);
    });
    let done = drainer.run(&mut gate, &AtomicBool::new(false));
    for note in drainer.notes() {
        eprintln!("receiver: {note}");
    }
    done
}

macro_rules! in_network {
    ($name:ident) => {
        #[derive(Default)]
        struct $name(Network);

        impl System for $name {
            fn start(&mut self, site: &Site) -> io::Result<()> {
                let programs = Self::programs(site)?;
                self.0.start(programs)
            }
            fn dress(&self, _: &mut Command) {}
            fn freeze(&mut self) -> io::Result<bool> {
                self.0.signal(self.0.last(), libc::SIGSTOP);
                // A stop is seen at the end of the call that each of them is in.
                std::thread::sleep(Duration::from_millis(2));
                Ok(true)
            }
            fn thaw(&mut self) -> io::Result<()> {
                self.0.signal(self.0.last(), libc::SIGCONT);
                Ok(())
            }
            fn crash(&mut self) -> io::Result<()> {
                self.0.crash(self.0.last())
            }
            fn processor(&self) -> u64 {
                self.0.processor()
            }
            fn wire(&mut self) -> io::Result<u64> {
                Ok(self.0.wire())
            }
        }
    };
}
in_network!(Lsyncd);
in_network!(Syncthing);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

impl Lsyncd {
    /// With a delay of a second, and looking at changes, not at closing alone: files that stay open are never sent otherwise.
    fn programs(site: &Site) -> io::Result<Vec<Vec<String>>> {
        let (root, copy, room) = (site.root.display(), site.copy.display(), site.room.display());
        let lsyncd = format!(
            "settings {{ nodaemon = true, inotifyMode = \"CloseWrite or Modify\", logfile = \"{room}/log\", statusFile = \"{room}/status\" }}\n\
             sync {{ default.rsync, source = \"{root}\", target = \"rsync://127.0.0.1:8873/copy\", delay = 1, exclude = {{ \"*-shm\", \"socket\" }}, rsync = {{ archive = true }} }}\n"
        );
        std::fs::write(site.room.join("lsyncd.lua"), lsyncd)?;
        let rsync = format!(
            "use chroot = no\nuid = root\ngid = root\nlock file = {room}/lock\nlog file = {room}/rsyncd.log\n[copy]\npath = {copy}\nread only = no\n"
        );
        std::fs::write(site.room.join("rsyncd.conf"), rsync)?;
        Ok(vec![
            words(&["lsyncd", &format!("{room}/lsyncd.lua")]),
            words(&["rsync", "--daemon", "--no-detach", "--port=8873", &format!("--config={room}/rsyncd.conf")]),
        ])
    }
}

impl Syncthing {
    /// Two instances that know each other, with a watcher's delay of a second.
    fn programs(site: &Site) -> io::Result<Vec<Vec<String>>> {
        let homes = [site.room.join("from"), site.room.join("to")];
        let mut devices = Vec::new();
        for home in &homes {
            let out = Command::new("syncthing")
                .arg("generate")
                .arg("--home")
                .arg(home)
                .arg("--no-default-folder")
                .output()?;
            let id = Command::new("syncthing").arg("--home").arg(home).arg("--device-id").output()?;
            if !out.status.success() || !id.status.success() {
                return Err(io::Error::other(String::from_utf8_lossy(&out.stderr).into_owned()));
            }
            devices.push(String::from_utf8_lossy(&id.stdout).trim().to_string());
        }
        for (at, (home, folder)) in homes.iter().zip([&site.root, &site.copy]).enumerate() {
            let kind = if at == 0 { "sendonly" } else { "receiveonly" };
            let mut text = format!(
                "<configuration version=\"35\">\n<folder id=\"g\" path=\"{}\" type=\"{kind}\" rescanIntervalS=\"3600\" fsWatcherEnabled=\"true\" fsWatcherDelayS=\"1\" ignorePerms=\"false\">\n",
                folder.display()
            );
            for device in &devices {
                let _ = writeln!(text, "<device id=\"{device}\"/>");
            }
            text += "<disableFsync>true</disableFsync>\n</folder>\n";
            for (number, device) in devices.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "<device id=\"{device}\" name=\"d{number}\" compression=\"metadata\"><address>tcp://127.0.0.1:2200{number}</address></device>"
                );
            }
            let _ = writeln!(
                text,
                "<gui enabled=\"false\"/>\n<options><listenAddress>tcp://127.0.0.1:2200{at}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH><reconnectionIntervalS>1</reconnectionIntervalS><startBrowser>false</startBrowser><setLowPriority>false</setLowPriority><crashReportingEnabled>false</crashReportingEnabled></options>\n</configuration>"
            );
            std::fs::write(home.join("config.xml"), text)?;
            std::fs::create_dir_all(folder.join(".stfolder"))?;
        }
        std::fs::write(site.root.join(".stignore"), "*-shm\nsocket\n")?;
        let program = |home: &PathBuf| {
            words(&["syncthing", "serve", "--no-browser", "--no-restart", "--home", &home.display().to_string()])
        };
        Ok(homes.iter().map(program).collect())
    }
}
