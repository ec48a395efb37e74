//! seccomp's user notification: each call that may change a file waits until another process has looked at its arguments.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use super::{Place, Way};
use crate::linux::processes::{Ended, beside, bound};

/// Where a program finds the listener after it was started.
const LISTENER: i32 = 200;
const CALLS: [i64; 16] = [
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_openat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
];
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

#[derive(Default)]
pub(crate) struct Seccomp {
    me: Vec<std::ffi::OsString>,
    supervisor: Option<Ended>,
    /// Processor time of the supervisors before.
    earlier: u64,
}

impl Way for Seccomp {
    fn start(&mut self, place: &Place) -> io::Result<()> {
        self.me.clone_from(&place.me);
        // Is it there at all?
        let mut command = place.role(&["listened", "true"]);
        let mut child = bound(&mut command).spawn()?;
        let supervised = self.started(&mut child);
        let ended = child.wait()?;
        supervised?;
        if ended.success() { Ok(()) } else { Err(io::Error::other("a filter with a listener is refused")) }
    }

    fn before(&mut self, command: &mut Command) -> io::Result<()> {
        let mut under = Command::new(&self.me[0]);
        under.args(&self.me[1..]).arg("listened").arg(command.get_program()).args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            under.current_dir(dir);
        }
        *command = under;
        Ok(())
    }

    fn started(&mut self, program: &mut Child) -> io::Result<()> {
        self.earlier = self.beside();
        let mut command = Command::new(&self.me[0]);
        command.args(&self.me[1..]).arg("supervise").arg(program.id().to_string());
        self.supervisor = Some(Ended(bound(&mut command).spawn()?));
        Ok(())
    }

    fn beside(&self) -> u64 {
        self.earlier + self.supervisor.as_ref().map_or(0, |child| beside(child.0.id()))
    }

    fn seen(&mut self) -> io::Result<String> {
        Ok("calls let through one by one".into())
    }
}

fn last(got: i64) -> io::Result<i32> {
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(got).unwrap_or(i32::MAX)) }
}

/// Role: the program, whose calls are waited for.
pub(crate) fn listened(program: &[&str]) -> io::Result<()> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let mut filter = vec![number];
    for (at, call) in CALLS.iter().enumerate() {
        let over = (CALLS.len() - at) as u8;
        filter.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, over, 0, *call as u32));
    }
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    let whole = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no memory is passed.
    last(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    let (set, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the filter is as long as is said.
    let listener = last(unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const whole) })?;
    // SAFETY: no memory is passed. The copy outlives the exec.
    last(unsafe { libc::dup2(listener, LISTENER) }.into())?;
    Err(Command::new(program[0]).args(&program[1..]).exec())
}

#[repr(C)]
#[derive(Default)]
struct Asked {
    id: u64,
    process: u32,
    flags: u32,
    number: i32,
    arch: u32,
    place: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Role: looks at each call of a process, and lets it be done.
pub(crate) fn supervise(process: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let process = last(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    let listener = loop {
        // SAFETY: no memory is passed.
        match last(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, LISTENER, 0) }) {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => std::thread::yield_now(),
            other => break other?,
        }
    };
    let mut calls = [0u64; 6];
    loop {
        let mut asked = Asked::default();
        // SAFETY: the kernel's structure.
        if unsafe { libc::ioctl(listener, RECEIVE, &raw mut asked) } < 0 {
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ENOENT) => {
                    // Nobody asks any more, or the one who asked was ended.
                    let mut wait = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
                    // SAFETY: one structure, as is said.
                    unsafe { libc::poll(&raw mut wait, 1, 1000) };
                    if wait.revents & libc::POLLHUP != 0 {
                        return Ok(());
                    }
                    continue;
                }
                _ => return Err(io::Error::last_os_error()),
            }
        }
        calls.iter_mut().zip(asked.args).for_each(|(sum, arg)| *sum = sum.wrapping_add(arg));
        std::hint::black_box(&calls);
        let answer = Answer { id: asked.id, value: 0, error: 0, flags: 1 };
        // SAFETY: the kernel's structure; what has ended meanwhile needs no answer.
        unsafe { libc::ioctl(listener, SEND, &raw const answer) };
    }
}
