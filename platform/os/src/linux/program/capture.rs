//! Evidence of a hang, kept before the program is stopped: what the kernel knows of each thread. Bounded in time, threads and bytes.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{clock, tree};
use crate::program::Spec;

/// No longer than this, whatever is missing then.
const LONGEST: Duration = Duration::from_millis(500);
const MOST_THREADS: usize = 512;
/// Of one file of `/proc`.
const MOST_BYTES: usize = 256 * 1_024;
/// The newest are kept.
const KEPT: usize = 5;
/// Cores are large.
const CORES: usize = 2;

/// Writes what is known of a program and all its children; gives the file.
pub(super) fn capture(folder: &Path, pids: &[u32]) -> io::Result<PathBuf> {
    let began = Instant::now();
    let mut text = format!("boot {}\nat {} ns on the boot clock\n", tree::boot_id(), clock::boot());
    let mut threads = 0;
    'all: for pid in pids {
        let of = PathBuf::from(format!("/proc/{pid}"));
        let command = fs::read(of.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let _ = writeln!(text, "\n== process {pid}: {}", command.trim());
        let Ok(tasks) = fs::read_dir(of.join("task")) else { continue };
        for task in tasks.flatten() {
            if threads == MOST_THREADS || began.elapsed() > LONGEST {
                text += "-- cut here: too many threads, or too much time\n";
                break 'all;
            }
            threads += 1;
            let task = task.path();
            let _ = writeln!(text, "-- thread {}", task.file_name().unwrap_or_default().to_string_lossy());
            for name in ["comm", "status", "stat", "wchan", "syscall", "stack"] {
                part(&mut text, name, &task.join(name));
            }
        }
        part(&mut text, "maps", &of.join("maps"));
        let _ = writeln!(text, "files");
        for fd in fs::read_dir(of.join("fd")).into_iter().flatten().flatten().take(256) {
            if let Ok(target) = fs::read_link(fd.path()) {
                let _ = writeln!(text, "  {} {}", fd.file_name().to_string_lossy(), target.display());
            }
        }
    }
    let path = folder.join(format!("hang-{:020}", clock::boot()));
    fs::write(&path, text)?;
    forget(folder, "hang-", KEPT);
    Ok(path)
}

/// Puts the core that the system has left beside the other evidence; `None` if there is none. Where it leaves one is the machine's to
/// say: looked for is a file of the usual names in the program's folder.
pub(super) fn core(folder: &Path, spec: &Spec, pid: u32) -> Option<PathBuf> {
    let at = spec.directory.as_deref().map_or(folder, Path::new);
    let left =
        [format!("core.{pid}"), "core".into()].into_iter().map(|name| at.join(name)).find(|path| path.is_file())?;
    let path = folder.join(format!("core-{:020}", clock::boot()));
    // A folder of another file system keeps it.
    let kept = fs::rename(&left, &path).map_or(left, |()| path);
    forget(folder, "core-", CORES);
    Some(kept)
}

fn part(text: &mut String, name: &str, path: &Path) {
    let content = fs::read(path).unwrap_or_default();
    let content = String::from_utf8_lossy(&content[..content.len().min(MOST_BYTES)]).into_owned();
    let content = content.trim_end().trim_matches('\0');
    if name == "status" {
        // What a scheduler knows: states, masks of signals, switches.
        for line in content
            .lines()
            .filter(|line| ["State", "Sig", "vol", "nonvol", "VmRSS"].iter().any(|key| line.starts_with(key)))
        {
            let _ = writeln!(text, "  {line}");
        }
        return;
    }
    let _ =
        if content.contains('\n') { writeln!(text, "{name}\n{content}") } else { writeln!(text, "{name} {content}") };
}

/// Old evidence gives way.
fn forget(folder: &Path, prefix: &str, kept: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut hangs: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    hangs.sort();
    let old = hangs.len().saturating_sub(kept);
    hangs.iter().take(old).for_each(|path| {
        let _ = fs::remove_file(path);
    });
}
