//! The mount over a group's tree, where all programs are captured by one: it is there before programs are, is taken away once they have
//! ended, and is put there again where its process ends. That is a program under the library as any other, and outlives this daemon.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apus_capture::linux::Mapped;
use apus_fuse::{Outside, There, there};

use super::super::Say;
use super::queue::{Mounting, Queue};
use crate::Group;

/// Between two looks at whether it is there.
const LOOK: Duration = Duration::from_millis(100);
/// How long its process may take to end once it is taken away.
const PATIENCE: Duration = Duration::from_secs(10);

/// A group's mount.
pub(super) struct Mount {
    one: Arc<One>,
}

struct One {
    group: Group,
    library: PathBuf,
    outside: Arc<Outside>,
    queue: Arc<Queue>,
    say: Say,
    /// Whether it is to be there. Whoever puts it there holds this.
    wanted: Mutex<bool>,
}

/// Takes away what the daemon before left, where no program is to use it.
pub(super) fn none(group: &Group, queue: &Arc<Queue>, say: &Say, outside: &Arc<Outside>) -> Result<(), String> {
    let one = One::new(group, queue, say, outside)?;
    // Whoever else has a ring of that name mapped is not waited for.
    let away = || if there(&group.root) == There::Nothing { Ok(()) } else { one.away() };
    outside.run(away).map_err(|error| error.to_string()).flatten()
}

impl Mount {
    /// Mounts, or goes on with what the daemon before left.
    pub(super) fn start(group: &Group, queue: &Arc<Queue>, say: &Say, outside: &Arc<Outside>) -> Result<Self, String> {
        let one = Arc::new(One::new(group, queue, say, outside)?);
        let watched = one.clone();
        // Where it is mounted, so that it is seen.
        let begun = outside.run(move || {
            let records = Mapped::at(&watched.queue.ring).is_ok_and(|ring| ring.by_others());
            if there(&watched.group.root) == There::Lives && records {
                watched.told(|mounting| mounting.process = process(&watched.group));
            } else {
                watched.put(&mut watched.wanted())?;
            }
            let name = format!("mount {}", watched.group.name);
            std::thread::Builder::new().name(name).spawn(move || watched.watch()).map_err(|error| error.to_string())?;
            Ok(())
        });
        begun.map_err(|error| error.to_string()).flatten()?;
        Ok(Self { one })
    }

    /// Nobody looks after it any more; it stays.
    pub(super) fn leave(&self) {
        *self.one.wanted() = false;
    }

    /// Takes it away, with all that programs have stored in pages of it; who still uses it is cut off. Once this returns its process has
    /// ended: what it did is in the ring.
    pub(super) fn end(&self) {
        self.leave();
        let one = &self.one;
        if let Err(why) = one.outside.run(|| one.away()).map_err(|error| error.to_string()).flatten() {
            one.said(&why);
        }
        one.queue.change(|state| state.mount = None);
    }
}

/// Which process serves it, by its own word.
fn process(group: &Group) -> u32 {
    let told = apus_fuse::status(&group.root).unwrap_or_default();
    told.lines().find_map(|line| line.strip_prefix("process: ")?.parse().ok()).unwrap_or_default()
}

impl One {
    fn new(group: &Group, queue: &Arc<Queue>, say: &Say, outside: &Arc<Outside>) -> Result<Self, String> {
        Ok(Self {
            group: group.clone(),
            library: super::library(group)?,
            outside: outside.clone(),
            queue: queue.clone(),
            say: say.clone(),
            wanted: Mutex::new(true),
        })
    }

    fn wanted(&self) -> MutexGuard<'_, bool> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self, what: &str) {
        (self.say)(&format!("files `{}`: {what}", self.group.name));
    }

    fn told(&self, change: impl FnOnce(&mut Mounting)) {
        self.queue.change(|state| change(state.mount.get_or_insert_default()));
    }

    fn watch(&self) {
        let mut before = String::new();
        loop {
            std::thread::sleep(LOOK);
            let found = there(&self.group.root);
            // What was found before it was taken away is of no interest.
            let mut wanted = self.wanted();
            if !*wanted {
                return;
            }
            if found == There::Lives {
                continue;
            }
            let ended = process_ended(found);
            if before.is_empty() {
                self.said(&format!("{ended}; programs that had files open there must open them again"));
            }
            match self.put(&mut wanted) {
                Ok(()) => {
                    self.said("it is mounted again");
                    self.told(|mounting| mounting.again += 1);
                    before.clear();
                }
                Err(why) if why != before => {
                    self.said(&format!("{why}; until it is mounted again programs find no file there"));
                    before = why;
                }
                Err(_) => {}
            }
        }
    }

    /// Puts it there. Over a dead one, so that no program finds the tree below for a moment, in which nobody would see what it does.
    fn put(&self, _: &mut MutexGuard<'_, bool>) -> Result<(), String> {
        if there(&self.group.root) == There::Lives {
            self.away()?;
        }
        let done = self.spawn();
        self.told(|mounting| {
            mounting.trouble = done.as_ref().err().cloned();
            mounting.process = *done.as_ref().unwrap_or(&0);
        });
        done.map(drop)
    }

    fn spawn(&self) -> Result<u32, String> {
        let (group, failed) = (&self.group, |error: std::io::Error| format!("a process for its mount: {error}"));
        let own = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(own);
        command.arg("fallback").arg(&group.root).args(&group.patterns).current_dir("/");
        command.env("LD_PRELOAD", &self.library).env("APUS_CAPTURE", &self.queue.ring);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let process = child.id();
        let mut said = String::new();
        let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        // Where this daemon ends first, nobody needs to wait for it.
        let waits = std::thread::Builder::new().name("mount ends".into()).spawn(move || child.wait());
        waits.map_err(failed)?;
        match (read, said.trim()) {
            (Some(Ok(_)), "mounted") => Ok(process),
            (_, why) => Err(format!("{} cannot be mounted: {why}", group.root.display())),
        }
    }

    /// Takes away what is there of ours, and waits until its process has ended.
    fn away(&self) -> Result<(), String> {
        let root = &self.group.root;
        if there(root) == There::Lives
            && let Err(why) = apus_fuse::unmount(root, false)
        {
            self.said(&format!("{why}: who still uses it is cut off"));
            apus_fuse::cut(root).map_err(|error| error.to_string())?;
        }
        apus_fuse::clear(root).map_err(|error| error.to_string())?;
        let until = Instant::now() + PATIENCE;
        while Mapped::at(&self.queue.ring).is_ok_and(|ring| ring.by_others()) {
            if Instant::now() >= until {
                return Err(format!("the process that served {} does not end", root.display()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn process_ended(found: There) -> &'static str {
    match found {
        There::Dead => "the process that served its mount has ended",
        There::Lives | There::Nothing => "its mount was taken away",
    }
}
