//! What each kind of fault does to a lab, and how it is undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use apus_engine::{NodeId, Ratio};
use apus_sim::fault::{Fault, Kind, MS, Ns};
use apus_sim::trace::What;
use serde_json::json;

use super::play::{Active, Machine, Play};
use crate::linux::cluster::remove;
use crate::linux::machine;
use crate::linux::net::Rule;
use crate::linux::sh::until;

/// A daemon that does not start is dead within this.
const STARTS: Duration = Duration::from_secs(5);
const ALL: u32 = 1_000_000;

impl Play<'_> {
    fn machine(&mut self, node: u16) -> &mut Machine {
        &mut self.machines[usize::from(node)]
    }

    /// A fault begins.
    pub(super) fn strike(&mut self, index: usize, fault: &Fault) -> Result<(), String> {
        if is_link(fault.kind) {
            self.active[index].on = fault.kind == Kind::Flap;
            return self.rules();
        }
        let nodes: Vec<u16> = self.active[index].nodes.iter().copied().collect();
        for node in nodes {
            let had = self.strike_at(index, fault, node)?;
            self.active[index].effects += had;
        }
        Ok(())
    }

    /// What begins at one node; how many effects that had.
    fn strike_at(&mut self, index: usize, fault: &Fault, node: u16) -> Result<u64, String> {
        let files = self.stage.cluster.files(node);
        let put = |name: &str, text: String| {
            fs::write(files.join(name), text).map_err(|error| format!("{}: {error}", files.display()))
        };
        match fault.kind {
            Kind::Crash | Kind::Upgrade | Kind::DivergentConfig => self.halt(node, "KILL"),
            Kind::GracefulStop => self.halt(node, "TERM"),
            Kind::PowerOff | Kind::CrashAll | Kind::LoseUnsynced => self.power_off(node),
            Kind::PermanentLoss => {
                let had = self.power_off(node)?;
                self.machine(node).lost = true;
                Ok(had)
            }
            Kind::Wipe => {
                let had = self.power_off(node)?;
                remove(&self.stage.cluster.store(node))?;
                self.stage.cluster.new_disks(node)?;
                Ok(had)
            }
            Kind::BitRot | Kind::TruncatedFile => {
                let had = self.power_off(node)?;
                self.stage.cluster.see_disks(node)?;
                let file = self.stage.cluster.store(node).join("state");
                let failed = |error: std::io::Error| format!("{}: {error}", file.display());
                let mut bytes = fs::read(&file).map_err(failed)?;
                if fault.kind == Kind::TruncatedFile {
                    bytes.truncate(bytes.len() / 2);
                } else if let Some(byte) = bytes.get_mut(12) {
                    *byte ^= 1;
                }
                fs::write(&file, bytes).map_err(failed)?;
                self.machine(node).damaged = true;
                Ok(had)
            }
            Kind::WrongCluster => {
                let had = self.halt(node, "KILL")?;
                let mut config = self.plan.configs[usize::from(node)].clone();
                config.cluster.0 ^= 1;
                self.stage.write(node, &config)?;
                // Another time it has been there before.
                let _ = self.stage.cluster.format(node);
                self.stage.start(node)?;
                *self.machine(node) = Machine { posing: true, ..Machine::default() };
                Ok(had)
            }
            Kind::Freeze => self.freeze(node, true, false),
            Kind::Suspend => {
                let had = self.freeze(node, true, true)?;
                self.rules()?;
                Ok(had)
            }
            Kind::NicDown => {
                self.stage.cluster.net.carrier(node, false)?;
                Ok(u64::from(!self.machines[usize::from(node)].off))
            }
            Kind::Drain => {
                self.order(Some(index), json!({"do": "drain", "node": node}));
                Ok(0)
            }
            Kind::MoveHolder => {
                self.order(Some(index), json!({"do": "move", "node": node}));
                Ok(0)
            }
            Kind::ProgramCrash => {
                let had = self.programs(node);
                put("crash", self.stamp().to_string())?;
                Ok(had)
            }
            Kind::ProgramHang => {
                put("hang", String::new())?;
                Ok(self.programs(node))
            }
            Kind::ProgramPoison => {
                let had = self.programs(node);
                put("poison", (fault.size / MS).to_string())?;
                Ok(had)
            }
            Kind::ProgramSlowStart => {
                put("slow", (fault.size / MS).to_string())?;
                Ok(1)
            }
            Kind::ProgramWontStart => {
                fs::remove_file(files.join("program")).map_err(|error| format!("{}: {error}", files.display()))?;
                Ok(1)
            }
            Kind::Knobs => Ok(1),
            Kind::FilesFull => self.stage.cluster.data(node).fill().map(|()| 1),
            Kind::FilesRot => self.stage.rot(node),
            Kind::FilesMissed => self.stage.stranger(node),
            _ => Ok(0),
        }
    }

    /// Programs of services that run at a node.
    fn programs(&self, node: u16) -> u64 {
        let is = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(2) == Some(b"program")
        };
        machine::pids(&self.stage.cluster.net.node(node)).iter().filter(|pid| is(pid)).count() as u64
    }

    /// Ends a node's daemon; how many there were.
    fn halt(&mut self, node: u16, signal: &str) -> Result<u64, String> {
        let had = self.stage.cluster.end(node, signal)?;
        if had {
            self.line(Some(NodeId(node)), What::Halt);
        }
        self.machine(node).dead = true;
        Ok(u64::from(had))
    }

    fn power_off(&mut self, node: u16) -> Result<u64, String> {
        if self.machines[usize::from(node)].off {
            return Ok(0);
        }
        let had = self.stage.cluster.daemon(node).is_some();
        self.stage.cluster.power_off(node)?;
        if had {
            self.line(Some(NodeId(node)), What::Halt);
        }
        let at = self.stamp();
        self.powerless.push((at, NodeId(node)));
        let machine = self.machine(node);
        (machine.off, machine.dead, machine.frozen) = (true, true, false);
        Ok(u64::from(had))
    }

    /// Stops a daemon, or all that a machine runs; or lets it go on. How many stood still.
    fn freeze(&mut self, node: u16, on: bool, whole: bool) -> Result<u64, String> {
        let space = self.stage.cluster.net.node(node);
        let pids = if whole { machine::pids(&space) } else { machine::daemon(&space).into_iter().collect() };
        machine::signal(&pids, if on { "STOP" } else { "CONT" });
        let daemon = self.stage.cluster.daemon(node);
        let stands = || {
            until(Duration::from_secs(1), || match daemon.and_then(machine::state) {
                Some('T') => Ok(1),
                other => Err(format!("{other:?}")),
            })
        };
        let had = if on && daemon.is_some() { stands().unwrap_or(0) } else { 0 };
        self.machine(node).frozen = on;
        Ok(had)
    }

    /// Everything runs at a node, unless it is lost.
    pub(super) fn revive(&mut self, node: u16) -> Result<(), String> {
        let state = self.machines[usize::from(node)];
        if state.lost {
            return Ok(());
        }
        let files = self.stage.cluster.files(node);
        for name in ["hang", "poison", "slow"] {
            let _ = fs::remove_file(files.join(name));
        }
        if !files.join("program").exists() {
            self.stage.link(node)?;
        }
        if state.posing {
            self.halt(node, "KILL")?;
            let config = self.plan.configs[usize::from(node)].clone();
            self.stage.write(node, &config)?;
        }
        if state.off {
            self.stage.cluster.power_on(node)?;
            if let Some(mut watch) = self.watch.take() {
                self.watch = watch.port(&self.stage.cluster.net, node).map(|()| watch);
            }
        }
        if state.frozen {
            self.freeze(node, false, true)?;
        }
        self.stage.cluster.net.carrier(node, true)?;
        if state.off || state.dead || state.posing {
            self.stage.start(node)?;
        }
        if state.damaged {
            self.mend(node)?;
        }
        *self.machine(node) = Machine::default();
        if state.frozen {
            self.rules()?;
        }
        Ok(())
    }

    /// A daemon that refuses its damaged store: the operator wipes it.
    fn mend(&mut self, node: u16) -> Result<(), String> {
        let cluster = self.stage.cluster.clone();
        until(STARTS, || {
            if cluster.last_words(node).contains("remove its files") && cluster.daemon(node).is_none() {
                Ok(())
            } else {
                Err(format!("n{node} did not refuse its damaged store; it said: {}", cluster.last_words(node)))
            }
        })?;
        self.line(Some(NodeId(node)), What::Refused);
        remove(&cluster.store(node))?;
        self.stage.start(node)
    }

    /// How long until a kind does something again.
    pub(super) fn wait(&mut self, index: usize, fault: &Fault) -> Option<Ns> {
        let Active { rng, nodes, .. } = &mut self.active[index];
        Some(match fault.kind {
            Kind::Flap => (fault.size / 2).max(MS),
            Kind::BurstLoss => rng.between(fault.size / 2, fault.size + fault.size / 2).max(MS),
            Kind::Starve => rng.between(fault.size / 2, fault.size).max(MS),
            Kind::CrashLoop => fault.size.max(10 * MS),
            Kind::Swizzle => (fault.lasts / (2 * nodes.len() as u64 + 1)).max(1),
            _ => return None,
        })
    }

    /// It does it again.
    pub(super) fn strike_again(&mut self, index: usize, fault: &Fault, step: u32) -> Result<(), String> {
        let nodes: Vec<u16> = self.active[index].nodes.iter().copied().collect();
        match fault.kind {
            Kind::Flap | Kind::BurstLoss => {
                self.active[index].on ^= true;
                self.rules()
            }
            Kind::Swizzle => {
                let active = &mut self.active[index];
                if let Some(node) = nodes.get(step as usize) {
                    active.stopped.insert(*node);
                } else if !active.stopped.is_empty() {
                    let place = active.rng.below(active.stopped.len() as u64);
                    let node = usize::try_from(place).ok().and_then(|place| active.stopped.iter().nth(place).copied());
                    active.stopped.retain(|other| Some(*other) != node);
                }
                self.rules()
            }
            Kind::Starve => {
                for node in nodes {
                    let stop = self.active[index].rng.hit(Ratio { hit: fault.rate_ppm, of: ALL });
                    let had = self.freeze(node, stop, false)?;
                    self.active[index].effects += had;
                }
                Ok(())
            }
            Kind::CrashLoop => {
                for node in nodes {
                    if step.is_multiple_of(2) {
                        let had = self.halt(node, "KILL")?;
                        self.active[index].effects += had;
                    } else {
                        self.revive(node)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A fault is over.
    pub(super) fn undo(&mut self, index: usize, fault: &Fault) -> Result<(), String> {
        if is_link(fault.kind) {
            return self.rules();
        }
        let nodes: Vec<u16> = self.active[index].nodes.iter().copied().collect();
        for node in nodes {
            let files = self.stage.cluster.files(node);
            match fault.kind {
                Kind::Drain => self.order(None, json!({"do": "undrain", "node": node})),
                Kind::ProgramHang => drop(fs::remove_file(files.join("hang"))),
                Kind::ProgramPoison => drop(fs::remove_file(files.join("poison"))),
                Kind::ProgramSlowStart => drop(fs::remove_file(files.join("slow"))),
                Kind::ProgramWontStart => self.stage.link(node)?,
                Kind::FilesFull => self.stage.cluster.data(node).free()?,
                Kind::MoveHolder | Kind::ProgramCrash | Kind::Knobs | Kind::FilesRot | Kind::FilesMissed => {}
                Kind::Upgrade | Kind::DivergentConfig => {
                    let own = &mut self.plan.configs[usize::from(node)];
                    if fault.kind == Kind::Upgrade {
                        let newest = apus_engine::wire::VERSION;
                        own.wire_version = if own.wire_version == newest { 1 } else { newest };
                    } else {
                        own.diagnosis.period = own.diagnosis.period.scale(3, 2);
                        own.consensus.election = own.consensus.election.scale(3, 2);
                        own.consensus.batch = 1;
                    }
                    let config = own.clone();
                    self.stage.write(node, &config)?;
                    self.revive(node)?;
                }
                _ => self.revive(node)?,
            }
        }
        Ok(())
    }

    /// Frames of running faults are lost from now on, and of no others; what was lost so far is counted.
    fn rules(&mut self) -> Result<(), String> {
        let counted = if self.ruled { self.stage.cluster.net.lost()? } else { BTreeMap::new() };
        for (name, lost) in counted {
            let index = name.strip_prefix('f').and_then(|digits| digits.parse::<usize>().ok());
            if let Some(active) = index.and_then(|index| self.active.get_mut(index)) {
                active.effects += lost;
            }
        }
        let many = self.plan.scenario.nodes;
        let mut rules = Vec::new();
        for (index, active) in self.active.iter().enumerate().filter(|(_, active)| active.running) {
            let fault = &self.plan.faults[index];
            let (name, all) = (format!("f{index}"), (0..many).collect::<BTreeSet<_>>());
            let rest: BTreeSet<u16> = all.difference(&active.nodes).copied().collect();
            let mut rule = |from: &BTreeSet<u16>, to: &BTreeSet<u16>, ppm| {
                rules.push(Rule { name: name.clone(), from: from.clone(), to: to.clone(), ppm });
            };
            let own = &active.nodes;
            match fault.kind {
                Kind::Partition => [(own, &rest), (&rest, own)].iter().for_each(|(from, to)| rule(from, to, ALL)),
                Kind::OneWay => rule(own, &rest, ALL),
                Kind::OneWayIn => rule(&rest, own, ALL),
                Kind::Flap if active.on => {
                    [(own, &rest), (&rest, own)].iter().for_each(|(from, to)| rule(from, to, ALL));
                }
                Kind::Bridge => {
                    let others: BTreeSet<u16> = own.iter().skip(1).copied().collect();
                    [(&others, &rest), (&rest, &others)].iter().for_each(|(from, to)| rule(from, to, ALL));
                }
                Kind::Swizzle => {
                    rule(&active.stopped, &all, ALL);
                    rule(&all, &active.stopped, ALL);
                }
                // A machine that stands still hears and says nothing, to clients neither.
                Kind::Suspend => {
                    let with_clients: BTreeSet<u16> = (0..=many).collect();
                    rule(own, &with_clients, ALL);
                    rule(&with_clients, own, ALL);
                }
                Kind::Loss => {
                    rule(own, &all, fault.rate_ppm);
                    rule(&rest, own, fault.rate_ppm);
                }
                Kind::BurstLoss if active.on => {
                    rule(own, &all, fault.rate_ppm);
                    rule(&rest, own, fault.rate_ppm);
                }
                _ => {}
            }
        }
        self.ruled = true;
        self.stage.cluster.net.rules(&rules)
    }
}

/// Whether the switch alone does it.
const fn is_link(kind: Kind) -> bool {
    use Kind::{Bridge, BurstLoss, Flap, Loss, OneWay, OneWayIn, Partition, Swizzle};
    matches!(kind, Loss | BurstLoss | Partition | OneWay | OneWayIn | Bridge | Swizzle | Flap)
}
