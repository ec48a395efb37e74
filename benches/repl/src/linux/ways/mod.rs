//! The ways, each behind one trait.

mod interpose;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};

use interpose::Interposed;
pub(crate) use interpose::drain;

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
    fn seen(&self) -> io::Result<String> {
        Ok(String::new())
    }
}

struct None;
impl Way for None {}

/// All ways: name, and what it is.
pub const WAYS: [(&str, &str); 5] = [
    ("none", "nothing: what the others are compared with"),
    ("again", "nothing, in other processes: what chance does"),
    ("other", "the library is loaded, no file belongs to the group"),
    ("interposer", "the library, records by reference, read and thrown away"),
    ("replay", "the same, done over again on the same disk"),
];

pub(crate) fn make(name: &str) -> io::Result<Box<dyn Way>> {
    Ok(match name {
        "none" | "again" => Box::new(None),
        "other" => Box::new(Interposed::new(&["*.other"], false)),
        "interposer" => Box::new(Interposed::new(MATCHED, false)),
        "replay" => Box::new(Interposed::new(MATCHED, true)),
        other => {
            let names: Vec<&str> = WAYS.iter().map(|(name, _)| *name).collect();
            let why = format!("{other} is no way to capture; there are {}", names.join(", "));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    })
}

const MATCHED: &[&str] = &["*.db", "*.db-*", "!*-shm", "**/appendonlydir/**"];
