//! The fallback of a group that a daemon replicates: a process of its own, which serves the mount and is itself a program under the
//! library. What it does to the tree underneath is recorded in the group's ring as any program's is, with the same order, the same waits
//! and the same end; nothing is handed over here. It outlives the daemon.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_capture::linux::Mapped;
use apus_capture::{Consumer, Operation};

use super::apart::apart;
use super::mount::{Mounted, Options};

/// What is handed over is thrown away at once.
const SOON: Duration = Duration::from_secs(10);

/// The ring has all: nothing is kept here, and nothing read for it.
struct Recorded;

impl Consumer for Recorded {
    fn take(&mut self, _: &Operation<'_>) -> io::Result<()> {
        Ok(())
    }

    fn anew(&mut self, _: bool) -> bool {
        false
    }
}

/// Mounts over `root`, says `mounted` on its standard output, or why not, and serves until that is taken away. To be called by the
/// process's first thread, while there is no other.
///
/// # Errors
/// The process is not under the library, is not root, or the folder or the kernel does not let it.
pub fn fallback(root: &Path, patterns: &[String]) -> io::Result<()> {
    let say = |line: &str| {
        let mut out = io::stdout();
        writeln!(out, "{line}").and_then(|()| out.flush())
    };
    let mounted = begin(root, patterns).inspect_err(|why| {
        let _ = say(&why.to_string());
    })?;
    say("mounted")?;
    mounted.finish(SOON);
    Ok(())
}

fn begin(root: &Path, patterns: &[String]) -> io::Result<Mounted> {
    let ring = std::env::var_os("APUS_CAPTURE").map(PathBuf::from);
    let ring = ring.ok_or_else(|| io::Error::other("APUS_CAPTURE names no ring: start it as its daemon does"))?;
    // SAFETY: no memory is passed. Whoever ends the daemon's session or terminal does not mean this process.
    unsafe { libc::setsid() };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: as above. It ends with its mount, which is taken away by whoever knows that nobody needs it.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // All that is opened by path from here on, by the library too, is the tree underneath.
    let outside = apart(root)?;
    let mut options = Options::new(root, &[]);
    options.patterns = patterns.to_vec();
    options.outside = Some(outside);
    // A file that is written in passthrough and renamed into the group would change unseen until it is closed.
    options.passthrough = false;
    let mounted = Mounted::new(options, Box::new(Recorded))?;
    let maps = Mapped::at(&ring).ok().and_then(|mapped| mapped.by(std::process::id()));
    if maps != Some(true) {
        let why = format!("{}: this process does not record there: is the library in LD_PRELOAD?", ring.display());
        return Err(io::Error::other(why));
    }
    Ok(mounted)
}
