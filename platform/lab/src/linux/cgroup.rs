//! Processor time that is held back from a daemon, by a control group.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Of a group's turns, in microseconds.
const TURN: u64 = 100_000;

/// Where groups can hold processor time back.
enum Where {
    One(PathBuf),
    Two(PathBuf),
}

fn find() -> Result<Where, String> {
    let has_cpu =
        |file: &Path| fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|word| word == "cpu"));
    for root in [Path::new(ROOT), &Path::new(ROOT).join("unified")] {
        if has_cpu(&root.join("cgroup.controllers")) {
            if !has_cpu(&root.join("cgroup.subtree_control")) {
                fs::write(root.join("cgroup.subtree_control"), "+cpu")
                    .map_err(|error| format!("{}: {error}", root.display()))?;
            }
            return Ok(Where::Two(root.into()));
        }
    }
    for name in ["cpu", "cpu,cpuacct"] {
        let root = Path::new(ROOT).join(name);
        if root.join("cpu.cfs_quota_us").exists() || root.join("cgroup.procs").exists() {
            return Ok(Where::One(root));
        }
    }
    Err(format!("there is no control group with `cpu` below {ROOT}"))
}

impl Where {
    fn root(&self) -> &Path {
        match self {
            Self::One(root) | Self::Two(root) => root,
        }
    }

    /// The group of this process.
    fn own(&self) -> PathBuf {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of = |line: &str| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let fits = match self {
                Self::One(_) => names.split(',').any(|name| name == "cpu"),
                Self::Two(_) => names.is_empty(),
            };
            fits.then(|| path.trim_start_matches('/').to_owned())
        };
        self.root().join(text.lines().find_map(of).unwrap_or_default())
    }
}

fn group(name: &str) -> String {
    format!("apus-lab-{name}")
}

fn put(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Lets a process have this much of one processor, in percent.
pub(crate) fn starve(name: &str, pid: u32, percent: u64) -> Result<(), String> {
    let place = find()?;
    let folder = place.root().join(group(name));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // A group may have no less than a millisecond a turn.
    let share = (TURN * percent / 100).max(1_000);
    match place {
        Where::One(_) => {
            put(&folder.join("cpu.cfs_period_us"), &TURN.to_string())?;
            put(&folder.join("cpu.cfs_quota_us"), &share.to_string())?;
        }
        Where::Two(_) => put(&folder.join("cpu.max"), &format!("{share} {TURN}"))?,
    }
    put(&folder.join("cgroup.procs"), &pid.to_string())
}

/// Ends that for a node's daemon, or for those of all of a lab, whose names begin so.
pub(crate) fn feed(name: &str) {
    let Ok(place) = find() else { return };
    let own = place.own().join("cgroup.procs");
    for entry in fs::read_dir(place.root()).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&group(name)) {
            continue;
        }
        let folder = entry.path();
        for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&own, pid);
        }
        let _ = fs::remove_dir(&folder);
    }
}

/// How often the group of this name was held back.
pub(crate) fn held_back(name: &str) -> u64 {
    let Ok(place) = find() else { return 0 };
    let text = fs::read_to_string(place.root().join(group(name)).join("cpu.stat")).unwrap_or_default();
    let of = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    of.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
