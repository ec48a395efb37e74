//! Other supervisors with the same program, where they are installed: from a kill to the first line of the next one. Each has an
//! interval before it starts anew that it does not go below; a kill comes well after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::supervise::{Killer, Row};

/// Longer than any of them calls a start a failure.
const SETTLED: Duration = Duration::from_millis(1_300);
const PATIENCE: Duration = Duration::from_secs(20);

/// Number and begin of the program that wrote this last, in microseconds of the boot clock.
pub(crate) fn stamp(file: &Path) -> Option<(u32, u64)> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, began) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, began.parse().ok()?))
}

/// A supervisor, ended with the value.
struct Peer {
    child: Child,
    folder: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        crate::tests::signal("TERM", &[self.child.id()]);
        let _ = self.child.wait();
        if let Some((pid, _)) = stamp(&self.folder.join("began")) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_there(name: &str) -> bool {
    Command::new(name)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok_and(|mut child| {
            let _ = child.kill();
            child.wait().is_ok()
        })
}

/// What is there, and why others are not.
pub(crate) fn measure(trials: usize) -> (Vec<Row>, Vec<String>) {
    let exe = std::env::current_exe().expect("it runs").display().to_string();
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for (name, what) in
        [("runsv", "runit's runsv: the next one runs"), ("supervisord", "supervisord: the next one runs")]
    {
        if !is_there(name) {
            skipped.push(format!("SKIPPED: {name} is not installed"));
            continue;
        }
        let folder = std::env::temp_dir().join(format!("apus-peer-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut command = Command::new(name);
        if name == "runsv" {
            let run = folder.join("run");
            fs::write(&run, format!("#!/bin/sh\nexec {exe} program ready\n")).expect("a file");
            fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a file");
            command.arg(&folder);
        } else {
            let place = folder.display();
            let text = format!(
                "[supervisord]\nnodaemon=true\nlogfile={place}/log\npidfile={place}/pid\n[program:trivial]\n\
                 command={exe} program ready\ndirectory={place}\nautorestart=true\nstartsecs=0\n"
            );
            fs::write(folder.join("conf"), text).expect("a file");
            command.arg("-c").arg(folder.join("conf"));
        }
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let peer = Peer { child: command.spawn().expect("it is there"), folder };
        rows.push(kills(&peer, what, trials));
    }
    if Path::new("/run/systemd/system").is_dir() {
        skipped.push("SKIPPED: systemd runs here, and a unit of its own would change this machine".into());
    } else {
        skipped.push("SKIPPED: systemd does not manage this machine".into());
    }
    (rows, skipped)
}

fn kills(peer: &Peer, what: &str, trials: usize) -> Row {
    let file = peer.folder.join("began");
    let mut row = Row::new(what, None);
    let mut killer = Killer::new();
    let next = |old: u32| {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = stamp(&file).filter(|(pid, _)| *pid != old) {
                return found;
            }
            assert!(Instant::now() < until, "{what}: it does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let (mut pid, _) = next(0);
    for _ in 0..trials {
        std::thread::sleep(SETTLED);
        let killed = killer.kill(pid);
        let (fresh, began) = next(pid);
        row.put(began.saturating_sub(killed));
        pid = fresh;
    }
    row
}
