//! Processes and their children, named so that a number that was given away again is never mistaken for them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::program::Identity;

/// What `/proc/PID/stat` says that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) identity: Identity,
    pub(super) parent: u32,
    pub(super) session: u32,
    /// It has ended, and waits for its parent to hear.
    pub(super) zombie: bool,
}

/// Reads it; `None` if there is no such process.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name is in parentheses, and may hold anything.
    let (front, rest) = text.rsplit_once(')')?;
    let pid = front.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        identity: Identity { pid, began: fields.get(19)?.parse().ok()? },
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        zombie: *fields.first()? == "Z" || *fields.first()? == "X",
    })
}

/// Of the process that a text of its `/proc/PID/stat` was written down from.
pub(in crate::linux) fn noted(text: &str) -> Option<Identity> {
    parse(text).map(|stat| stat.identity)
}

/// Of a process of now.
pub(in crate::linux) fn identity(pid: u32) -> Option<Identity> {
    stat(pid).map(|stat| stat.identity)
}

/// This start of the machine.
pub(in crate::linux) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().into()).unwrap_or_default()
}

/// All processes there are.
fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}

/// All that descend from a process, the process itself left out, zombies too: their parents may have forgotten them.
pub(super) fn descendants(of: u32) -> Vec<Stat> {
    let all = all();
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|stat| stat.parent == parent) {
            if found.iter().all(|known| known.identity != child.identity) && child.identity.pid != of {
                found.push(*child);
                parents.push(child.identity.pid);
            }
        }
    }
    found
}

/// All of a session that began no earlier than its leader. A number is given away again only once its session is empty: then whoever
/// has it now leads another one.
pub(super) fn session(leader: Identity) -> Vec<Stat> {
    if identity(leader.pid).is_some_and(|now| now != leader) {
        return Vec::new();
    }
    all()
        .into_iter()
        .filter(|stat| stat.session == leader.pid && stat.identity.began >= leader.began && !stat.zombie)
        .collect()
}

/// Kills all of a session, until none is left that can be; tells how many there were at first.
pub(in crate::linux) fn end_session(leader: Identity) -> usize {
    let mut many = None;
    for _ in 0..64 {
        let killed = session(leader).into_iter().filter(|stat| signal_to(stat.identity, libc::SIGKILL)).count();
        many.get_or_insert(killed);
        if killed == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    many.unwrap_or_default()
}

/// Whether a process descends from another, through parents that all live.
pub(super) fn descends(pid: u32, from: u32) -> bool {
    let mut at = pid;
    for _ in 0..256 {
        if at == from {
            return true;
        }
        match stat(at) {
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => return false,
        }
    }
    false
}

/// A handle to a process that names it for ever.
pub(super) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal through a handle.
pub(super) fn signal(handle: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed: the third argument is allowed to be null.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, 0, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to a process if it is still the one that is meant.
pub(super) fn signal_to(who: Identity, number: i32) -> bool {
    let Ok(handle) = open(who.pid) else { return false };
    // Looked at with the handle in hand: from here on the number cannot become another's.
    identity(who.pid) == Some(who) && signal(&handle, number).is_ok()
}

/// Kills all that descend from a process. They are halted first, so that none has children behind our back; who has already
/// done so is found by the next look. True once there are none but zombies of others.
pub(super) fn kill_below(of: u32) -> bool {
    let mut halted: Vec<Identity> = Vec::new();
    for _ in 0..64 {
        let fresh: Vec<Identity> = descendants(of)
            .into_iter()
            .filter(|stat| !stat.zombie && !halted.contains(&stat.identity))
            .map(|stat| stat.identity)
            .collect();
        if fresh.is_empty() {
            break;
        }
        for who in fresh {
            signal_to(who, libc::SIGSTOP);
            halted.push(who);
        }
    }
    for who in &halted {
        signal_to(*who, libc::SIGKILL);
    }
    halted.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_is_found_and_its_child_descends_from_it() {
        let own = std::process::id();
        let me = stat(own).expect("it runs");
        assert_eq!(me.identity.pid, own);
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let who = identity(child.id()).expect("it runs");
        assert!(descends(child.id(), own) && !descends(own, child.id()));
        assert!(descendants(own).iter().any(|stat| stat.identity == who));
        // The same number with another beginning is somebody else.
        assert!(!signal_to(Identity { began: who.began + 1, ..who }, libc::SIGKILL));
        assert!(signal_to(who, libc::SIGKILL));
        child.wait().expect("it is ours");
        assert!(!signal_to(who, 0), "it is gone");
        assert_eq!(boot_id().len(), 36);
    }

    #[test]
    fn a_session_is_not_taken_for_an_earlier_one_of_the_same_number() {
        let mut command = Command::new("sleep");
        let enter = || {
            // SAFETY: no memory is passed.
            unsafe { libc::setsid() };
            Ok(())
        };
        // SAFETY: between fork and exec only a system call is made.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, enter) };
        let mut child = command.arg("60").spawn().expect("sleep");
        let who = identity(child.id()).expect("it runs");
        assert_eq!(session(who).iter().map(|stat| stat.identity).collect::<Vec<_>>(), [who]);
        assert!(session(Identity { began: who.began - 1, ..who }).is_empty());
        child.kill().and_then(|()| child.wait()).expect("it is ours");
    }
}
