//! Control groups: limits, and a kill that no child escapes. Version 2 where it is mounted; the limits of version 1 where only that
//! has the controllers. Without either a copy is held together by its parentage alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::program::Limits;

/// Where the control groups of version 2 are, and this process's own folders of version 1 by controller.
#[derive(Debug, Default)]
struct Mounts {
    two: Option<PathBuf>,
    one: Vec<(String, PathBuf)>,
}

fn mounts() -> Mounts {
    let mut found = Mounts::default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else { continue };
        match kind {
            "cgroup2" => found.two = found.two.take().or_else(|| Some(at.into())),
            "cgroup" => {
                for controller in ["memory", "cpu", "pids"] {
                    // The own folder: what is limited stays below what the keeper itself is held to.
                    let place = own.lines().find_map(|line| {
                        let mut parts = line.splitn(3, ':').skip(1);
                        let (controllers, path) = (parts.next()?, parts.next()?);
                        controllers.split(',').any(|name| name == controller).then_some(path)
                    });
                    if let Some(path) = place.filter(|_| options.split(',').any(|name| name == controller)) {
                        let folder = Path::new(at).join(path.trim_start_matches('/'));
                        // In a container, the path may be one of outside.
                        let folder = if folder.is_dir() { folder } else { at.into() };
                        found.one.push((controller.into(), folder));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The control group of one copy.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Of version 2: its folder, with `keeper` and `run` in it.
    two: Option<PathBuf>,
    /// Of version 1, by controller.
    one: Vec<(String, PathBuf)>,
    /// Kills for want of memory, when the program was started.
    kills: u64,
}

impl Group {
    /// Makes the group of a copy, or finds it, and puts this process beside the program: out of the daemon's group, so that it is
    /// not stopped with that. What cannot be had is left out.
    pub(super) fn make(name: &str) -> Self {
        let mounts = mounts();
        let two = mounts.two.and_then(|root| {
            let folder = root.join("apus").join(name);
            fs::create_dir_all(folder.join("run")).ok()?;
            for above in [&root, &root.join("apus"), &folder] {
                for controller in ["+memory", "+cpu", "+pids"] {
                    let _ = fs::write(above.join("cgroup.subtree_control"), controller);
                }
            }
            let aside = folder.join("keeper");
            let _ = fs::create_dir(&aside);
            let _ = fs::write(aside.join("cgroup.procs"), "0");
            Some(folder)
        });
        let wanted = format!("apus-{name}");
        let one = mounts.one.into_iter().map(|(controller, own)| (controller, own.join(&wanted))).collect();
        Self { two, one, kills: 0 }
    }

    fn run(&self) -> Option<PathBuf> {
        self.two.as_ref().map(|folder| folder.join("run"))
    }

    fn of(&self, controller: &str) -> Option<&PathBuf> {
        self.one.iter().find(|(name, _)| name == controller).map(|(_, folder)| folder)
    }

    /// Sets the limits for the next program. Gives the files that it enters the group by, and what is not limited.
    pub(super) fn prepare(&mut self, limits: &Limits) -> (Vec<PathBuf>, Vec<&'static str>) {
        let mut entries: Vec<PathBuf> = self.run().map(|run| run.join("cgroup.procs")).into_iter().collect();
        let mut missing = Vec::new();
        let mut limit = |controller: &'static str, two: (&str, Option<String>), one: (&str, Option<String>)| {
            let asked = two.1.is_some();
            let value = two.1.unwrap_or_else(|| "max".into());
            if self.run().is_some_and(|run| fs::write(run.join(two.0), value).is_ok()) {
                return;
            }
            let Some(value) = one.1 else { return };
            let done = self.of(controller).is_some_and(|folder| {
                let made = folder.is_dir() || fs::create_dir(folder).is_ok();
                made && fs::write(folder.join(one.0), value).is_ok()
            });
            if done {
                entries.extend(self.of(controller).map(|folder| folder.join("cgroup.procs")));
            } else if asked {
                missing.push(controller);
            }
        };
        let memory = limits.memory.map(|bytes| bytes.to_string());
        limit("memory", ("memory.max", memory.clone()), ("memory.limit_in_bytes", memory));
        // A thousandth of a processor is 100 µs of 100 ms.
        let quota = limits.cpu.map(|part| u64::from(part) * 100);
        let two = quota.map(|quota| format!("{quota} 100000"));
        limit("cpu", ("cpu.max", two), ("cpu.cfs_quota_us", quota.map(|quota| quota.to_string())));
        let pids = limits.pids.map(|many| many.to_string());
        limit("pids", ("pids.max", pids.clone()), ("pids.max", pids));
        self.kills = self.count_kills();
        (entries, missing)
    }

    /// How often the system has killed in this group for want of memory.
    fn count_kills(&self) -> u64 {
        let count = |path: PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let two = self.run().map_or(0, |run| count(run.join("memory.events")));
        two + self.of("memory").map_or(0, |folder| count(folder.join("memory.oom_control")))
    }

    /// Whether it has done so since the program was started.
    pub(super) fn out_of_memory(&self) -> bool {
        self.count_kills() > self.kills
    }

    /// Kills all that is in the group; false if that cannot be done so.
    pub(super) fn kill(&self) -> bool {
        self.run().is_some_and(|run| fs::write(run.join("cgroup.kill"), "1").is_ok())
    }

    /// Whether something runs in it. Without a group nothing does.
    pub(super) fn is_populated(&self) -> bool {
        let events = self.run().and_then(|run| fs::read_to_string(run.join("cgroup.events")).ok());
        events.is_some_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Takes away what was made, as far as nothing runs there.
    pub(super) fn remove(&self) -> io::Result<()> {
        for (_, folder) in self.one.iter().filter(|(_, folder)| folder.is_dir()) {
            fs::remove_dir(folder)?;
        }
        if let Some(folder) = &self.two {
            let _ = fs::write(folder.join("../../cgroup.procs"), "0");
            for part in ["run", "keeper"] {
                fs::remove_dir(folder.join(part))?;
            }
            fs::remove_dir(folder)?;
        }
        Ok(())
    }
}
