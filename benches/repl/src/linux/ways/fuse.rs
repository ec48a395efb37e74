//! A daemon's file system over the folder.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use apus_capture::linux::Discard;
use apus_fuse::{Mounted, Options, Transport};

use super::{MATCHED, Place, Way};
use crate::linux::processes::{Ended, beside, bound};

/// How long the consumer may take for what a slot left.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fuse {
    variant: &'static str,
    root: PathBuf,
    server: Option<(Ended, ChildStdin, BufReader<ChildStdout>)>,
}

impl Fuse {
    /// `best`: by the transport that the kernel gives; `device`: by `/dev/fuse`; `through`: no file belongs to the group.
    pub(crate) fn new(variant: &'static str) -> Self {
        Self { variant, root: PathBuf::new(), server: None }
    }

    fn answer(&mut self) -> io::Result<String> {
        let Some((_, _, from)) = &mut self.server else { return Err(io::Error::other("nothing is mounted")) };
        let mut answer = String::new();
        from.read_line(&mut answer)?;
        match answer.trim().split_once(' ') {
            Some(("ok", rest)) => Ok(rest.to_string()),
            _ => Err(io::Error::other(answer.trim().to_string())),
        }
    }

    fn settled(&mut self) -> io::Result<String> {
        let Some((_, to, _)) = &mut self.server else { return Err(io::Error::other("nothing is mounted")) };
        writeln!(to, "settle")?;
        self.answer()
    }
}

/// Role: mounts over `root`, answers each line once the consumer has all, and ends with its input.
pub(crate) fn mount(variant: &str, root: &Path) -> io::Result<()> {
    let mut options = Options::new(root, if variant == "through" { &["*.other"] } else { MATCHED });
    if variant == "device" {
        options.transport = Some(Transport::Device);
    }
    let mounted = match Mounted::new(options, Box::new(Discard)) {
        Ok(mounted) => mounted,
        Err(error) => {
            println!("{error}");
            return Err(error);
        }
    };
    println!("ok mounted");
    for line in io::stdin().lock().lines() {
        line?;
        let settled = mounted.settle(PATIENCE);
        let status = mounted.status();
        if settled {
            println!(
                "ok {} operations, by {:?}, order lost {} times",
                status.next - 1,
                status.transport,
                status.lost - 1
            );
        } else {
            println!("the consumer does not come to an end: {status:?}");
        }
    }
    Ok(())
}

impl Way for Fuse {
    fn start(&mut self, place: &Place) -> io::Result<()> {
        self.root.clone_from(&place.root);
        let mut command = place.role(&["fuse", self.variant]);
        let mut child = bound(command.arg(&self.root).stdin(Stdio::piped()).stdout(Stdio::piped())).spawn()?;
        if let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) {
            self.server = Some((Ended(child), to, BufReader::new(from)));
        }
        self.answer().map(drop)
    }

    fn rest(&mut self) -> io::Result<()> {
        self.settled().map(drop)
    }

    fn beside(&self) -> u64 {
        self.server.as_ref().map_or(0, |(child, ..)| beside(child.0.id()))
    }

    fn seen(&mut self) -> io::Result<String> {
        self.settled()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if let Some((mut server, to, _)) = self.server.take() {
            drop(to);
            let _ = server.0.wait();
        }
        // Where the server was killed the mount is still there; otherwise nothing is.
        let _ = apus_fuse::unmount(&self.root, true);
    }
}
