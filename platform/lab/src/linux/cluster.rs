//! Daemons of a lab: their files, and how they are started and ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_node::{Config, Part, init};
use serde_json::{Value, json};

use super::ask::ask;
use super::disk::{self, Disk};
use super::net::{Net, VIP, address, mac};
use super::program::PORT;
use super::{machine, program};
use crate::judge::Asked;

/// The disks of a machine, by what is on them.
const SYSTEM: &str = "system";
const DATA: &str = "data";
/// How the rings of all labs begin.
const RINGS: &str = "/dev/shm/apus-lab-";

/// A daemon that runs answers within this.
const PATIENCE: Duration = Duration::from_millis(500);

/// One lab's daemons.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) net: Net,
    /// All files of it.
    pub(crate) folder: PathBuf,
    /// This command.
    pub(crate) exe: String,
    /// Daemons go before all else on the machine.
    pub(crate) first: bool,
    /// Machines have disks of their own, which lose with the power what was not synced.
    pub(crate) disks: bool,
}

/// What a node's file says besides the obvious.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Top-level lines, each with an end.
    pub(crate) top: String,
    /// Tables.
    pub(crate) tables: String,
    pub(crate) cluster: u32,
}

impl Cluster {
    /// What a node has on the machine's disk.
    pub(crate) fn files(&self, node: u16) -> PathBuf {
        self.folder.join(format!("n{node}"))
    }
    pub(crate) fn config(&self, node: u16) -> PathBuf {
        self.files(node).join("node.toml")
    }
    pub(crate) fn control(&self, node: u16) -> PathBuf {
        self.files(node).join("control")
    }
    pub(crate) fn told(&self, node: u16) -> PathBuf {
        self.files(node).join("told")
    }
    pub(crate) fn store(&self, node: u16) -> PathBuf {
        self.system(node).join("store")
    }
    /// Where the daemon keeps what it must not forget.
    fn system(&self, node: u16) -> PathBuf {
        if self.disks { self.files(node).join(SYSTEM) } else { self.files(node) }
    }
    /// The disk for programs' files.
    pub(crate) fn data(&self, node: u16) -> Disk {
        Disk::new(&self.files(node), DATA)
    }
    /// The tree of a group, on that disk.
    pub(crate) fn root(&self, node: u16) -> PathBuf {
        self.data(node).place.join("root")
    }
    /// In memory: gone with the power.
    pub(crate) fn ring(&self, node: u16) -> PathBuf {
        format!("{RINGS}{}-n{node}", self.net.id).into()
    }

    fn all_disks(&self, node: u16) -> Vec<Disk> {
        let files = self.files(node);
        let names: &[&str] = if self.disks { &[SYSTEM, DATA] } else { &[] };
        names.iter().map(|name| Disk::new(&files, name)).collect()
    }

    /// Makes machines and the switch between them.
    pub(crate) fn make(&self) -> Result<(), String> {
        if self.disks {
            disk::share(&self.folder)?;
        }
        self.net.make()?;
        (0..self.net.nodes).try_for_each(|node| self.new_disks(node))
    }

    /// A machine gets empty disks.
    pub(crate) fn new_disks(&self, node: u16) -> Result<(), String> {
        for disk in self.all_disks(node) {
            disk.unmount()?;
            disk.make()?;
        }
        self.seen_root(node)
    }

    /// The folder of the group is there, as an operator makes it.
    fn seen_root(&self, node: u16) -> Result<(), String> {
        let root = self.root(node);
        let made = if self.disks { fs::create_dir_all(&root) } else { Ok(()) };
        made.map_err(|error| format!("{}: {error}", root.display()))
    }

    /// Takes the power from a machine: nothing that it would still say gets out, and nothing of its memory is left.
    pub(crate) fn power_off(&self, node: u16) -> Result<(), String> {
        self.net.carrier(node, false)?;
        self.all_disks(node).iter().try_for_each(Disk::cut)?;
        self.net.power_off(node)?;
        self.all_disks(node).iter().try_for_each(Disk::unmount)?;
        remove_file(&self.ring(node))
    }

    /// A machine has power again: its disks are as the failure left them.
    pub(crate) fn power_on(&self, node: u16) -> Result<(), String> {
        self.net.machine(node)?;
        self.see_disks(node)?;
        self.seen_root(node)
    }

    /// The disks of a machine without power can be looked at.
    pub(crate) fn see_disks(&self, node: u16) -> Result<(), String> {
        self.all_disks(node).iter().try_for_each(Disk::mount)
    }

    /// Takes away what is not a process: files, disks and rings.
    pub(crate) fn clear(folder: &Path, id: &str) -> Result<(), String> {
        let released = disk::release(folder);
        let rings = fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
        let own = format!("{RINGS}{id}-n");
        let own = rings.filter(|path| path.display().to_string().starts_with(&own)).map(|path| remove_file(&path));
        own.collect::<Result<(), _>>().and(released).and_then(|()| remove(folder))
    }

    /// Writes a node's file.
    pub(crate) fn write(&self, node: u16, parts: &[Part], extra: &Extra) -> Result<(), String> {
        let store = if extra.cluster == 98 { "store".to_owned() } else { format!("store-{}", extra.cluster) };
        let (files, cluster) = (self.files(node), extra.cluster);
        let mut text = format!(
            "cluster = {cluster}\nnode = {node}\nfolder = \"{}\"\ncontrol = \"{}/control\"\n{}",
            self.system(node).join(store).display(),
            files.display(),
            extra.top
        );
        for (other, part) in (0..).zip(parts) {
            let part = match part {
                Part::Voter => "voter",
                Part::Arbiter => "arbiter",
                Part::Learner => "learner",
            };
            let (address, mac) = (address(other), mac(other));
            text += &format!("[[nodes]]\nid = {other}\naddress = \"{address}\"\nmac = \"{mac}\"\npart = \"{part}\"\n");
        }
        text += &format!("[vip]\nv4 = \"{VIP}\"\ninterface = \"eth0\"\nkey = \"ports\"\nlog2_slots = 12\nseed = 98\n");
        text += &extra.tables;
        fs::create_dir_all(&files).map_err(|error| format!("{}: {error}", files.display()))?;
        let file = self.config(node);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Formats a node's store.
    pub(crate) fn format(&self, node: u16) -> Result<(), String> {
        let file = self.config(node);
        let name = file.display().to_string();
        let text = fs::read_to_string(&file).map_err(|error| format!("{name}: {error}"))?;
        let config = Config::read(&name, &text).map_err(|error| error.to_string())?;
        init(&config).map_err(|error| error.to_string())
    }

    pub(crate) fn start(&self, node: u16) -> Result<(), String> {
        let file = self.config(node).display().to_string();
        let log = self.files(node).join("daemon.log");
        let command = [&self.exe[..], "node", "run", "--config", &file];
        machine::start(&self.net.node(node), self.first, &command, &log).map_err(|error| error.to_string())
    }

    pub(crate) fn daemon(&self, node: u16) -> Option<u32> {
        machine::daemon(&self.net.node(node))
    }

    /// Ends a node's daemon; false: there was none.
    pub(crate) fn end(&self, node: u16, signal: &str) -> Result<bool, String> {
        match self.daemon(node) {
            Some(pid) => machine::end(pid, signal).map(|()| true),
            None => Ok(false),
        }
    }

    pub(crate) fn ask(&self, node: u16, question: &Value) -> Result<Value, String> {
        ask(&self.control(node), question, PATIENCE)
    }

    pub(crate) fn status(&self, node: u16) -> Result<Value, String> {
        self.ask(node, &json!({"do": "status"}))
    }

    /// The last lines of a daemon's output, for people.
    pub(crate) fn last_words(&self, node: u16) -> String {
        let log = fs::read_to_string(self.files(node).join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }

    /// Starts clients who send requests to the cluster's address; they go with the lab.
    pub(crate) fn load(&self, clients: u16, rate: u32) -> io::Result<()> {
        let (clients, rate) = (clients.to_string(), rate.to_string());
        let command = [&self.exe[..], "lab", "load", &format!("{VIP}:{PORT}"), &clients, &rate];
        machine::start(&self.net.client(), self.first, &command, &self.folder.join("asked"))
    }

    /// What they saw until now; times since `start` on the boot clock.
    pub(crate) fn asked(&self, start: u64) -> Vec<Asked> {
        let text = fs::read_to_string(self.folder.join("asked")).unwrap_or_default();
        text.lines().filter_map(|line| program::asked(line, start)).collect()
    }
}

fn remove_file(file: &Path) -> Result<(), String> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", file.display())),
        _ => Ok(()),
    }
}

/// Removes a folder with all that is in it; one that is not there is gone.
pub(crate) fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}
