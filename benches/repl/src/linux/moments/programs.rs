//! The programs of a workload, in a group of processes of their own.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::systems::{Site, System};
use crate::linux::processes::{Ended, bound};

/// What runs of a workload.
pub(super) struct Programs {
    /// Its first process, if it was started here and not by the system.
    own: Option<Ended>,
    first: u32,
    room: PathBuf,
    /// By those that were killed: bytes and operations.
    before: (u64, u64),
}

impl Programs {
    pub(super) fn start(system: &mut dyn System, site: &Site) -> io::Result<Self> {
        if let Some(first) = system.runs(None)? {
            return Ok(Self { own: None, first, room: site.room.clone(), before: (0, 0) });
        }
        Self::begin(&site.root, &site.room, site, |command| system.dress(command))
    }

    /// Where no system looks at: what the others are compared with.
    pub(super) fn plain(root: &Path, room: &Path, site: &Site) -> io::Result<Self> {
        Self::begin(root, room, site, |_| ())
    }

    fn begin(root: &Path, room: &Path, site: &Site, dress: impl Fn(&mut Command)) -> io::Result<Self> {
        let mut command = Command::new(&site.me[0]);
        command.args(&site.me[1..]).args(["serve", &site.workload]).arg(room).current_dir(root).stdout(Stdio::null());
        dress(&mut command);
        let own = Ended(bound(command.process_group(0)).spawn()?);
        Ok(Self { first: own.0.id(), own: Some(own), room: room.to_path_buf(), before: (0, 0) })
    }

    fn told(&self, what: &str) -> u64 {
        let text = std::fs::read_to_string(self.room.join(what)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Operations, so far.
    pub(super) fn done(&self) -> u64 {
        self.before.1 + self.told("done")
    }

    /// Bytes that the programs wrote, so far.
    pub(super) fn bytes(&self) -> u64 {
        let of = |process: u64| {
            let text = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
            line.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        self.before.0 + of(self.first.into()) + of(self.told("server"))
    }

    /// Why they do not run any more, if they do not.
    pub(super) fn ended(&mut self) -> io::Result<Option<String>> {
        match &mut self.own {
            Some(own) => Ok(own.0.try_wait()?.map(|ended| ended.to_string())),
            None => Ok((!Path::new(&format!("/proc/{}", self.first)).exists()).then(|| "they are gone".to_string())),
        }
    }

    /// They work without pauses, not at all, or as usual.
    pub(super) fn pace(&self, fast: bool, quiet: bool) -> io::Result<()> {
        for (name, wanted) in [("fast", fast), ("quiet", quiet)] {
            let file = self.room.join(name);
            if wanted {
                std::fs::write(file, "")?;
            } else if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        // The number is the group's as long as nobody has waited for its first process.
        if self.own.as_mut().is_none_or(|own| matches!(own.0.try_wait(), Ok(None))) {
            // SAFETY: no memory is passed; the group is the one that was started.
            unsafe { libc::kill(-self.first.cast_signed(), libc::SIGKILL) };
        }
        if let Some(own) = &mut self.own {
            let _ = own.0.wait();
        }
    }

    /// All are killed at once, and started again.
    pub(super) fn crash(&mut self, system: &mut dyn System, site: &Site) -> io::Result<()> {
        let before = (self.bytes(), self.done());
        self.kill();
        std::fs::write(self.room.join("done"), "0")?;
        *self = match system.runs(Some(self.first))? {
            Some(first) => Self { own: None, first, room: self.room.clone(), before },
            None => {
                let mut own = Self::start(system, site)?;
                own.before = before;
                own
            }
        };
        Ok(())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if self.own.is_some() {
            self.kill();
        }
    }
}
