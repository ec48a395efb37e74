//! The ways, each behind one trait.

mod fanotify;
mod fuse;
mod interpose;
mod seccomp;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use fanotify::Fanotify;
pub(crate) use fanotify::read;
use fuse::Fuse;
pub(crate) use fuse::mount;
use interpose::Interposed;
pub(crate) use interpose::drain;
use seccomp::Seccomp;
pub(crate) use seccomp::{listened, supervise};

/// Where a way works.
pub(crate) struct Place {
    /// What it watches.
    pub(crate) root: PathBuf,
    /// Room of its own, in memory.
    pub(crate) room: PathBuf,
    /// Room of its own on the disk of `root`.
    pub(crate) disk: PathBuf,
    /// This program, with what makes it play a role.
    pub(crate) me: Vec<OsString>,
    /// The library that is preloaded.
    pub(crate) library: PathBuf,
}

impl Place {
    /// This program in a role.
    pub(crate) fn role(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.me[0]);
        command.args(&self.me[1..]).args(args);
        command
    }
}

/// A way to capture.
pub(crate) trait Way {
    /// Starts what watches the folder.
    fn start(&mut self, place: &Place) -> io::Result<()> {
        let _ = place;
        Ok(())
    }
    /// Makes a folder in `root` in which a program will work.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir(folder)
    }
    /// Its program has ended: the folder goes.
    fn remove(&mut self, folder: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(folder)
    }
    /// What a program that is watched needs.
    fn before(&mut self, command: &mut Command) -> io::Result<()> {
        let _ = command;
        Ok(())
    }
    /// It runs.
    fn started(&mut self, program: &mut Child) -> io::Result<()> {
        let _ = program;
        Ok(())
    }
    /// A slot begins.
    fn resume(&mut self) {}
    /// A slot has ended: returns once nothing is left to do, and does nothing from then on.
    fn rest(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Processor time of what works beside the program, in nanoseconds.
    fn beside(&self) -> u64 {
        0
    }
    /// What was seen so far, in words; an error if it was nothing.
    fn seen(&mut self) -> io::Result<String> {
        Ok(String::new())
    }
}

struct None;
impl Way for None {}

/// A way that cannot be gone here.
struct Missing(&'static str);

impl Way for Missing {
    fn start(&mut self, _: &Place) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, self.0))
    }
}

/// All ways: name, and what it is.
pub const WAYS: [(&str, &str); 12] = [
    ("none", "nothing: what the others are compared with"),
    ("again", "nothing, in other processes: what chance does"),
    ("other", "the library is loaded, no file belongs to the group"),
    ("interposer", "the library, records by reference, read and thrown away"),
    ("replay", "the same, done over again on the same disk"),
    ("fuse", "a daemon's file system, over io_uring where the kernel takes it: all operations through it"),
    ("fuse-device", "the same, over /dev/fuse"),
    ("fuse-through", "the same, but no file belongs to the group: bytes go past the daemon"),
    ("fanotify-after", "fanotify: an event after a file or name changed; no ranges, no bytes, events merged"),
    ("fanotify-before", "fanotify: the kernel asks before bytes are read or changed; ranges, no bytes"),
    ("seccomp", "seccomp's notification: a process looks at the arguments of each call before it is done"),
    ("ebpf", "a kernel program at the end of each system call: ranges, no bytes; may drop"),
];

pub(crate) fn make(name: &str) -> io::Result<Box<dyn Way>> {
    Ok(match name {
        "none" | "again" => Box::new(None),
        "other" => Box::new(Interposed::new(&["*.other"], false)),
        "interposer" => Box::new(Interposed::new(MATCHED, false)),
        "replay" => Box::new(Interposed::new(MATCHED, true)),
        "fanotify-after" => Box::new(Fanotify::new(false)),
        "fanotify-before" => Box::new(Fanotify::new(true)),
        "seccomp" => Box::<Seccomp>::default(),
        "fuse" => Box::new(Fuse::new("best")),
        "fuse-device" => Box::new(Fuse::new("device")),
        "fuse-through" => Box::new(Fuse::new("through")),
        "ebpf" => Box::new(Missing("this build has no kernel program for it")),
        other => {
            let names: Vec<&str> = WAYS.iter().map(|(name, _)| *name).collect();
            let why = format!("{other} is no way to capture; there are {}", names.join(", "));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    })
}

const MATCHED: &[&str] = &["*.db", "*.db-*", "!*-shm", "**/appendonlydir/**"];
