//! Daemons of a lab: their files, and how they are started and ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_node::{Config, Part, init};
use serde_json::{Value, json};

use super::ask::ask;
use super::net::{Net, VIP, address, mac};
use super::program::PORT;
use super::{machine, program};
use crate::judge::Asked;

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
        self.files(node).join("store")
    }

    /// Writes a node's file.
    pub(crate) fn write(&self, node: u16, parts: &[Part], extra: &Extra) -> Result<(), String> {
        let store = if extra.cluster == 98 { "store".to_owned() } else { format!("store-{}", extra.cluster) };
        let (files, cluster) = (self.files(node), extra.cluster);
        let mut text = format!(
            "cluster = {cluster}\nnode = {node}\nfolder = \"{0}/{store}\"\ncontrol = \"{0}/control\"\n{1}",
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

/// Removes a folder with all that is in it; one that is not there is gone.
pub(crate) fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}
