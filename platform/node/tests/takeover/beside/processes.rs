//! Processes of a namespace, and what they cost.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::net::sh;

/// Clock ticks a second, by the kernel's interface to programs.
const TICKS: u64 = 100;

/// All processes of a namespace.
pub(crate) fn all(space: &str) -> Vec<u32> {
    let own = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some(wanted) = own(&Path::new("/run/netns").join(space)) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|pid| own(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(wanted)).collect()
}

/// The words of a process's command.
pub(crate) fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The name of its program.
pub(crate) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Its fields from the state letter on, as `/proc/PID/stat` has them.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(str::to_owned).collect()
}

/// Its state letter, such as `T` for one that is stopped; `None` if it is gone or waits for its parent to notice.
pub(crate) fn state(pid: u32) -> Option<char> {
    stat(pid).first()?.chars().next().filter(|state| !matches!(state, 'Z' | 'X'))
}

/// Processor time of some processes, in microseconds.
pub(crate) fn cpu_us(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let stat = stat(*pid);
        let number = |at: usize| stat.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        number(11) + number(12)
    };
    pids.iter().map(of).sum::<u64>() * 1_000_000 / TICKS
}

/// Memory of some processes, in KiB: resident, and their share of it (what several have counts once).
pub(crate) fn memory_kib(pids: &[u32]) -> (u64, u64) {
    let mut sum = (0, 0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
        };
        sum = (sum.0 + field("Rss:"), sum.1 + field("Pss:"));
    }
    sum
}

/// Sends a signal; who is gone already does not mind.
pub(crate) fn signal(pids: &[u32], name: &str) {
    let numbers: Vec<String> = pids.iter().map(ToString::to_string).collect();
    if !numbers.is_empty() {
        let _ = sh(&format!("kill -s {name} {}", numbers.join(" ")));
    }
}

/// Ends all that runs in a namespace; what is left.
pub(crate) fn end_all(space: &str) -> Vec<u32> {
    for _ in 0..200 {
        let left: Vec<u32> = all(space).into_iter().filter(|pid| state(*pid).is_some()).collect();
        if left.is_empty() {
            return left;
        }
        signal(&left, "KILL");
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    all(space)
}

/// Takes away namespaces of programs like this one that were killed themselves, with what still runs there.
pub(crate) fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let space = entry.file_name().to_string_lossy().into_owned();
        let Some((who, pid)) = space.strip_prefix("apus-").and_then(|rest| rest.rsplit_once('-')) else { continue };
        let ours = matches!(who, "n0" | "n1" | "n2" | "o0" | "o1" | "o2" | "br" | "c");
        if ours && pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            eprintln!("{space} was left by a program that was killed: it is removed");
            end_all(&space);
            let _ = sh(&format!("ip netns del {space}"));
        }
    }
}
