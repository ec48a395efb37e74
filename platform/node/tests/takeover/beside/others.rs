//! Those that only detect, or only restart: serf, and supervisord.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::clock::{boot_us, wall_us};
use super::copy;
use super::faults::Fault;
use super::field::NODES;
use super::judge::{gap, overlap};
use super::processes;
use super::stop::until;
use super::tail::{self, Tail};
use crate::cluster::end;
use crate::net::{Net, node_address, sh};

pub(crate) const SERF: &str = "serf, LAN profile";
pub(crate) const SUPERVISORD: &str = "supervisord";
const FAILED: &[&str] = &["EventMemberFailed: n0"];

/// Three agents; the first is struck.
pub(crate) struct Serf {
    agents: Vec<Option<Child>>,
    tails: Vec<Tail>,
    net: Net,
}

impl Drop for Serf {
    fn drop(&mut self) {
        self.agents.iter_mut().flatten().for_each(end);
    }
}

impl Serf {
    pub(crate) fn new() -> Result<Self, String> {
        sh("serf version")?;
        let net = Net::new(NODES)?;
        let tails = (0..NODES).map(|node| Tail::new(net.folder.join(format!("serf{node}.log")), FAILED)).collect();
        let mut serf = Self { agents: (0..NODES).map(|_| None).collect(), tails, net };
        for node in 0..NODES {
            serf.start(node)?;
        }
        Ok(serf)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let log =
            std::fs::File::options().create(true).append(true).open(self.net.folder.join(format!("serf{node}.log")));
        let log = log.map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let name = format!("-node=n{node}");
        let bind = format!("-bind={}", node_address(node));
        let mut words = vec!["serf", "agent", &name, &bind, "-profile=lan", "-rpc-addr=127.0.0.1:7373"];
        let others: Vec<String> = (0..NODES)
            .filter(|other| *other != node)
            .map(|other| format!("-retry-join={}", node_address(other)))
            .collect();
        words.extend(others.iter().map(String::as_str));
        words.push("-retry-interval=1s");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.net.node(node)])
            .args(words)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.agents[node] = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn whole(&self) -> Result<(), String> {
        until(60, "not all agents are members", || {
            for node in 0..NODES {
                let members = ["netns", "exec", &self.net.node(node), "serf", "members", "-status=alive"];
                let output = Command::new("ip").args(members).output().map_err(|error| error.to_string())?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                if text.lines().count() < NODES {
                    return Err(format!("n{node}: {text}"));
                }
            }
            Ok(())
        })
    }

    pub(crate) fn trial(&mut self, fault: Fault) -> Result<Value, String> {
        self.whole()?;
        sleep(Duration::from_micros(wall_us().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44));
        let pid = self.agents[0].as_ref().ok_or("it does not run")?.id();
        let boot = boot_us();
        match fault {
            Fault::Kill => processes::signal(&[pid], "KILL"),
            Fault::Stop => processes::signal(&[pid], "STOP"),
            _ => self.net.cut(0, true)?,
        }
        let seen = until(30, "nobody missed it", || tail::first(&self.tails, 0, boot).ok_or("not yet".into()));
        match fault {
            Fault::Kill => {
                self.agents[0].iter_mut().for_each(end);
                self.start(0)?;
            }
            Fault::Stop => processes::signal(&[pid], "CONT"),
            _ => self.net.mend()?,
        }
        let (detect, invalid) = match seen {
            Ok(us) => (Some(us), None),
            Err(error) => (None, Some(format!("not recovered in time: {error}"))),
        };
        Ok(json!({"stack": SERF, "fault": fault.name(), "invalid": invalid, "detect_us": detect}))
    }
}

/// One supervisord with one program.
pub(crate) struct Supervisord {
    child: Child,
    folder: std::path::PathBuf,
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        // In order: it ends its program first.
        processes::signal(&[self.child.id()], "TERM");
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Supervisord {
    pub(crate) fn new() -> Result<Self, String> {
        sh("supervisord --version")?;
        let folder = std::env::temp_dir().join(format!("apus-supervisord-{}", std::process::id()));
        let copies = folder.join("copies");
        std::fs::create_dir_all(&copies).map_err(|error| error.to_string())?;
        let exe = std::env::current_exe().map_err(|error| error.to_string())?;
        let (place, exe) = (folder.display(), exe.display());
        let text = format!(
            "[supervisord]\nnodaemon=true\nlogfile={place}/log\npidfile={place}/pid\nchildlogdir={place}\n\
             [program:copy]\ncommand={exe} copy {place}/copies\nautorestart=true\n"
        );
        let file = folder.join("conf");
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let command = Command::new("supervisord")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Self { child: command.map_err(|error| error.to_string())?, folder })
    }

    pub(crate) fn trial(&mut self) -> Result<Value, String> {
        let copies = self.folder.join("copies");
        let alive = |since: u64| copy::lives(&copies, since);
        until(30, "no copy", || {
            if alive(boot_us().saturating_sub(60_000)).len() == 1 { Ok(()) } else { Err("none".into()) }
        })?;
        // Longer than its `startsecs`, or the program counts as one that does not start.
        sleep(Duration::from_millis(1_200));
        sleep(Duration::from_micros(wall_us().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44));
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let pids: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let boot = boot_us();
        processes::signal(&pids, "KILL");
        let back = until(20, "not started again", || {
            let lives = alive(boot_us().saturating_sub(60_000));
            if lives.iter().any(|(first, _)| *first > boot) { Ok(()) } else { Err("not yet".into()) }
        });
        let lives: Vec<_> = alive(boot.saturating_sub(50_000)).into_iter().map(|life| vec![life]).collect();
        let invalid = back.err().map(|error| format!("not recovered in time: {error}"));
        Ok(json!({
            "stack": SUPERVISORD,
            "fault": Fault::Program.name(),
            "invalid": invalid,
            "service_outage_us": gap(&lives, boot, boot_us()),
            "service_overlap_us": overlap(&lives),
            "service_open": false,
        }))
    }
}
