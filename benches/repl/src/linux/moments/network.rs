//! Programs in a network of their own.

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::linux::processes::{Ended, bound};

/// Programs in a network of their own, whose bytes are counted.
#[derive(Default)]
pub(super) struct Network {
    holder: Option<Ended>,
    /// The last one receives.
    programs: Vec<Ended>,
    commands: Vec<Vec<String>>,
    earlier: u64,
}

impl Network {
    pub(super) fn start(&mut self, programs: Vec<Vec<String>>) -> io::Result<()> {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 100000"]).stdout(Stdio::piped());
        let mut holder = bound(&mut command).spawn()?;
        let mut line = String::new();
        if let Some(out) = holder.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        self.holder = Some(Ended(holder));
        if line.trim() != "up" {
            return Err(io::Error::other("no network namespace can be made"));
        }
        // The receiver first: the other one looks for it.
        for program in programs.iter().rev() {
            let child = spawn(self.holder.as_ref(), program)?;
            self.programs.insert(0, Ended(child));
            std::thread::sleep(Duration::from_millis(200));
        }
        self.commands = programs;
        Ok(())
    }

    /// A signal to one of the programs and what it has started.
    pub(super) fn signal(&self, at: usize, number: i32) {
        if let Some(program) = self.programs.get(at) {
            // SAFETY: no memory is passed; the group is the one that this program was started in.
            unsafe { libc::kill(-program.0.id().cast_signed(), number) };
        }
    }

    /// Who receives.
    pub(super) fn last(&self) -> usize {
        self.programs.len().saturating_sub(1)
    }

    /// Stops one of the programs: once this returns none of its threads does anything.
    pub(super) fn stop(&self, at: usize) -> io::Result<()> {
        self.signal(at, libc::SIGSTOP);
        let process = self.programs.get(at).map_or(0, |program| program.0.id());
        let stopped = || {
            let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
            threads.flatten().all(|thread| {
                let text = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                text.rsplit_once(')').is_none_or(|(_, after)| after.trim_start().starts_with(['T', 't', 'Z', 'X']))
            })
        };
        if until(Duration::from_secs(10), stopped) { Ok(()) } else { Err(io::Error::other("it does not stop")) }
    }

    /// Kills one of the programs, and starts it again.
    pub(super) fn crash(&mut self, at: usize) -> io::Result<()> {
        self.earlier += self.programs.get(at).map_or(0, |program| of_group(program.0.id()));
        self.signal(at, libc::SIGKILL);
        if let (Some(place), Some(command)) = (self.programs.get_mut(at), self.commands.get(at)) {
            let _ = place.0.wait();
            let child = spawn(self.holder.as_ref(), command)?;
            *place = Ended(child);
        }
        Ok(())
    }

    /// What else runs in this network.
    pub(super) fn others(&self) -> Vec<u32> {
        let network = |process: u32| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let Some(holder) = self.holder.as_ref().map(|holder| holder.0.id()) else { return Vec::new() };
        let Some(ours) = network(holder) else { return Vec::new() };
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|process| *process != holder && network(*process).as_ref() == Some(&ours)).collect()
    }

    pub(super) fn wire(&self) -> u64 {
        let holder = self.holder.as_ref().map_or(0, |holder| holder.0.id());
        let text = std::fs::read_to_string(format!("/proc/{holder}/net/dev")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap_or("");
        line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
    }

    pub(super) fn processor(&self) -> u64 {
        self.earlier + self.programs.iter().map(|program| of_group(program.0.id())).sum::<u64>()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for program in &self.programs {
            // SAFETY: as above.
            unsafe { libc::kill(-program.0.id().cast_signed(), libc::SIGKILL) };
        }
    }
}

/// Starts a program in the network of `holder`.
fn spawn(holder: Option<&Ended>, program: &[String]) -> io::Result<Child> {
    let holder = holder.map_or(0, |holder| holder.0.id()).to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &holder, "-n", "--"]).args(program).stdout(Stdio::null()).stderr(Stdio::null());
    bound(command.process_group(0)).spawn()
}

/// A process's time, with that of its children that have ended.
pub(super) fn time(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    // 14 to 17 of all words: own and children's, in hundredths of a second.
    after.split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() * 10_000_000
}

/// The same of all processes of a group: a program may have started others.
fn of_group(group: u32) -> u64 {
    let of = |process: u32| {
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|process| of(*process) == Some(group)).map(time).sum()
}

/// Waits until `what` is so, at most for so long.
pub(crate) fn until(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < limit {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
