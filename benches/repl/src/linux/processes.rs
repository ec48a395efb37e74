//! Processes that end with this one.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Ends with what holds it, however that ends.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel ends the process that `command` starts when this thread ends.
pub(crate) fn bound(command: &mut Command) -> &mut Command {
    let set = || {
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: the closure makes one system call, which may be made after a fork.
    unsafe { command.pre_exec(set) }
}

/// Processor time of a process and its threads so far, in nanoseconds; 0 where it cannot be read.
pub(crate) fn beside(process: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Sends a signal to a child.
pub(crate) fn signal(child: &Child, number: i32) {
    // SAFETY: no memory is passed; the child is ours and was not waited for.
    unsafe { libc::kill(child.id().cast_signed(), number) };
}
