//! keepalived on the field: VRRP between three nodes, none of which takes the address back from another.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use super::faults::{Fault, Stack};
use super::field::{Field, NODES};
use super::processes;
use super::stop::until;
use super::tail::Tail;
use crate::cluster::end;
use crate::net::{VIP, sh};

/// What it says when it takes the address.
const MASTER: &[&str] = &["Entering MASTER STATE"];

pub(crate) struct Keepalived {
    name: &'static str,
    /// Between two adverts, in seconds.
    advert: &'static str,
    keeps: Duration,
    daemons: Vec<Option<Child>>,
    tails: Vec<Tail>,
    field: Field,
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        // It keeps its own child, which Field ends.
        self.daemons.iter_mut().flatten().for_each(end);
    }
}

impl Keepalived {
    pub(crate) fn new(name: &'static str, advert: &'static str) -> Result<Self, String> {
        sh("keepalived --version")?;
        let field = Field::new()?;
        let tails = (0..NODES).map(|node| Tail::new(field.file(&format!("keepalived{node}.log")), MASTER)).collect();
        let keeps = if advert == "1" { 6_000 } else { 2_500 };
        let daemons = (0..NODES).map(|_| None).collect();
        let mut made = Self { name, advert, keeps: Duration::from_millis(keeps), daemons, tails, field };
        for node in 0..NODES {
            made.start(node)?;
        }
        Ok(made)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let file = self.field.file(&format!("keepalived{node}.conf")).display().to_string();
        let text = format!(
            "global_defs {{\nvrrp_version 3\n}}\nvrrp_instance a {{\nstate BACKUP\nnopreempt\ninterface eth0\n\
             virtual_router_id 97\npriority {}\nadvert_int {}\nvirtual_ipaddress {{ {VIP}/24 }}\n}}\n",
            150 - 50 * node.min(2),
            self.advert
        );
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let pid = |of: &str| format!("--{of}={}", self.field.file(&format!("{of}{node}.pid")).display());
        let command = ["keepalived", "-n", "-l", "-P", "-f", &file, &pid("pid"), &pid("vrrp_pid")];
        let child = self.field.start(&self.field.net.node(node), &command, &format!("keepalived{node}.log"))?;
        self.daemons[node] = Some(child);
        Ok(())
    }
}

impl Stack for Keepalived {
    fn name(&self) -> &'static str {
        self.name
    }
    fn field(&mut self) -> &mut Field {
        &mut self.field
    }
    fn see(&self) -> &Field {
        &self.field
    }
    fn tails(&self) -> &[Tail] {
        &self.tails
    }
    fn copies(&self) -> Option<&PathBuf> {
        None
    }
    fn keeps(&self) -> Duration {
        self.keeps
    }
    fn daemons(&self, node: usize) -> Vec<u32> {
        let all = processes::all(&self.field.net.node(node));
        all.into_iter().filter(|pid| processes::name(*pid) == "keepalived").collect()
    }

    fn settle(&mut self) -> Result<usize, String> {
        until(30, "no single master", || match self.field.holders()[..] {
            [one] => Ok(one),
            ref some => Err(format!("masters {some:?}")),
        })
    }

    /// Its farewell is the quickest way that it has.
    fn hand_over(&mut self, from: usize) -> Result<(), String> {
        let child = self.daemons[from].as_ref().ok_or("it does not run")?;
        processes::signal(&[child.id()], "TERM");
        Ok(())
    }

    fn revive(&mut self, node: usize, fault: Fault) -> Result<(), String> {
        if !matches!(fault, Fault::Kill | Fault::Move) {
            return Ok(());
        }
        if let Some(mut child) = self.daemons[node].take() {
            let _ = child.wait();
        }
        // What is left of a killed one, an operator takes away: also its pid files, whose numbers other processes may have by now.
        self.field.strip(node);
        for file in [format!("pid{node}.pid"), format!("vrrp_pid{node}.pid")] {
            let _ = std::fs::remove_file(self.field.file(&file));
        }
        self.start(node)
    }
}
