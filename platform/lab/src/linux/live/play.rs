//! The course of a run: when what begins, steps and ends, and how the nodes are meanwhile.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use apus_engine::{NodeId, Rng, Seed};
use apus_os::linux::clock;
use apus_sim::fault::{Kind, MS, Ns, S, Target};
use apus_sim::scenario::{Plan, Workload};
use apus_sim::trace::{Line, What};
use serde_json::json;

use super::Stage;
use crate::linux::ask::ask;
use crate::linux::watch::Watch;

/// A role that nobody has is looked for again after this.
const AGAIN: Ns = 50 * MS;
/// Between two looks at all nodes after healing.
const LOOK: Ns = 250 * MS;
/// An order that is not taken is given again for so long.
const ORDERED: Duration = Duration::from_secs(4);

/// A fault of the plan while the run goes on.
pub(super) struct Active {
    pub(super) nodes: BTreeSet<u16>,
    pub(super) everything: bool,
    pub(super) running: bool,
    pub(super) effects: u64,
    pub(super) rng: Rng,
    /// For kinds that are on and off in turn.
    pub(super) on: bool,
    /// Of a swizzle: whose links are stopped.
    pub(super) stopped: BTreeSet<u16>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Start(usize),
    Step(usize, u32),
    Stop(usize),
    Heal,
    Look,
}

/// How a node's machine and daemon are, by what was done to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) off: bool,
    pub(super) lost: bool,
    pub(super) dead: bool,
    pub(super) frozen: bool,
    /// Its store is to be wiped when it does not start.
    pub(super) damaged: bool,
    /// It is configured as a node of another cluster.
    pub(super) posing: bool,
}

/// What a run leaves.
pub(super) struct Played {
    pub(super) end: Ns,
    pub(super) done: Vec<Line>,
    pub(super) powerless: Vec<(Ns, NodeId)>,
    pub(super) well: Result<Ns, String>,
    pub(super) effects: Vec<u64>,
    pub(super) struck: Vec<Vec<NodeId>>,
    pub(super) watch: Option<Watch>,
    /// How late the worst act was.
    pub(super) late: Ns,
}

pub(super) struct Play<'s> {
    pub(super) stage: &'s mut Stage,
    pub(super) plan: Plan,
    /// The boot clock at the start of the evidence, and at the start of the plan.
    base: u64,
    zero: u64,
    queue: BTreeSet<(Ns, Due)>,
    pub(super) active: Vec<Active>,
    pub(super) machines: Vec<Machine>,
    pub(super) done: Vec<Line>,
    pub(super) powerless: Vec<(Ns, NodeId)>,
    pub(super) watch: Option<Watch>,
    /// The switch obeys rules, which count.
    pub(super) ruled: bool,
    /// Orders that were taken, by fault.
    taken: (Sender<usize>, Receiver<usize>),
    well: Result<Ns, String>,
    late: Ns,
    over: Arc<Mutex<bool>>,
}

impl Drop for Play<'_> {
    fn drop(&mut self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl<'s> Play<'s> {
    pub(super) fn new(stage: &'s mut Stage, base: u64, watch: Option<Watch>) -> Self {
        let plan = stage.plan.clone();
        let active = plan.faults.iter().enumerate().map(|(at, fault)| Active {
            nodes: BTreeSet::new(),
            everything: false,
            running: false,
            effects: 0,
            rng: Seed(plan.seed).derive(fault.kind.spec().name).nth(at as u64).stream("live"),
            on: false,
            stopped: BTreeSet::new(),
        });
        let mut queue: BTreeSet<(Ns, Due)> =
            plan.faults.iter().enumerate().map(|(at, fault)| (fault.at, Due::Start(at))).collect();
        queue.insert((plan.scenario.duration, Due::Heal));
        Self {
            active: active.collect(),
            machines: vec![Machine::default(); usize::from(plan.scenario.nodes)],
            stage,
            base,
            zero: clock::boot(),
            queue,
            done: Vec::new(),
            powerless: Vec::new(),
            watch,
            ruled: false,
            taken: channel(),
            well: Err("nobody was asked".into()),
            late: 0,
            over: Arc::default(),
            plan,
        }
    }

    /// Clients come.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        self.stage.clients()?;
        if let Workload::Notes { clients, rate } = self.plan.scenario.workload {
            let sockets: Vec<_> = (0..self.plan.scenario.nodes).map(|node| self.stage.cluster.control(node)).collect();
            for client in 0..usize::from(clients) {
                let (sockets, over) = (sockets.clone(), self.over.clone());
                std::thread::spawn(move || notes(client, &sockets, rate, &over));
            }
        }
        self.zero = clock::boot();
        Ok(())
    }

    /// Time of the plan.
    fn now(&self) -> Ns {
        clock::boot().saturating_sub(self.zero)
    }

    /// Time of the evidence.
    pub(super) fn stamp(&self) -> Ns {
        clock::boot().saturating_sub(self.base)
    }

    pub(super) fn line(&mut self, node: Option<NodeId>, what: What) {
        self.done.push(Line { at: self.stamp(), node, what });
    }

    /// Plays to the end.
    pub(super) fn play(mut self) -> Result<Played, String> {
        let end = self.plan.scenario.duration + self.plan.scenario.heal;
        while let Some((at, due)) = self.queue.pop_first() {
            if at > end {
                break;
            }
            let now = self.now();
            if now < at {
                sleep(Duration::from_nanos(at - now));
            }
            if due != Due::Look {
                self.late = self.late.max(self.now().saturating_sub(at));
            }
            match due {
                Due::Start(fault) => self.start(fault)?,
                Due::Step(fault, step) => self.step(fault, step)?,
                Due::Stop(fault) => self.stop(fault)?,
                Due::Heal => self.heal()?,
                Due::Look => self.look(),
            }
        }
        let left = end.saturating_sub(self.now());
        sleep(Duration::from_nanos(left));
        self.look();
        for fault in self.taken.1.try_iter().collect::<Vec<_>>() {
            self.active[fault].effects += 1;
        }
        Ok(Played {
            end: self.stamp(),
            done: std::mem::take(&mut self.done),
            powerless: std::mem::take(&mut self.powerless),
            well: self.well.clone(),
            effects: self.active.iter().map(|active| active.effects).collect(),
            struck: self.active.iter().map(|active| active.nodes.iter().map(|node| NodeId(*node)).collect()).collect(),
            watch: self.watch.take(),
            late: self.late,
        })
    }

    /// Whom a target means now.
    fn resolve(&mut self, index: usize, target: &Target) -> BTreeSet<u16> {
        let many = self.plan.scenario.nodes;
        let voters = self.plan.scenario.voters;
        let role = |role: &str| -> Option<u16> {
            let mut best = None;
            for (node, machine) in (0..).zip(&self.machines) {
                if *machine != Machine::default() {
                    continue;
                }
                let Ok(status) = self.stage.cluster.status(node) else { continue };
                let term = status["term"].as_u64().unwrap_or_default();
                let who = if role == "dispatcher" {
                    (status["dispatches"] == true).then_some(node)
                } else {
                    status[role].as_u64().and_then(|node| u16::try_from(node).ok())
                };
                best = best.max(who.map(|who| (term, who)));
            }
            best.map(|(_, who)| who)
        };
        let pick = |rng: &mut Rng, mut from: Vec<u16>, many: usize| {
            let mut out = BTreeSet::new();
            while out.len() < many && !from.is_empty() {
                let at = usize::try_from(rng.below(from.len() as u64)).unwrap_or(0);
                out.insert(from.swap_remove(at));
            }
            out
        };
        let drawn = match target {
            Target::All => return (0..many).collect(),
            Target::Nodes(nodes) => return nodes.iter().map(|node| node.0).collect(),
            Target::Leader => return role("coordinator").into_iter().collect(),
            Target::Dispatcher | Target::Holder(0) => return role("dispatcher").into_iter().collect(),
            Target::Holder(resource) => return self.holder(*resource).into_iter().collect(),
            Target::Random => ((0..many).collect(), 1),
            Target::Voter => ((0..voters).collect(), 1),
            Target::Some(n) => ((0..many).collect(), usize::from(*n)),
            Target::Minority => ((0..voters).collect(), usize::from((voters - 1) / 2)),
            Target::Half => ((0..many).collect(), usize::from(many / 2)),
            Target::Follower => {
                let Some(leader) = role("coordinator") else { return BTreeSet::new() };
                ((0..voters).filter(|node| *node != leader).collect(), 1)
            }
            Target::Bystander => {
                let mut holders: Vec<Option<u16>> = vec![role("dispatcher")];
                let resources = self.plan.configs[0].resources.len();
                holders.extend((1..u16::try_from(resources).unwrap_or(u16::MAX)).map(|resource| self.holder(resource)));
                ((0..many).filter(|node| !holders.contains(&Some(*node))).collect::<Vec<_>>(), 1)
            }
        };
        pick(&mut self.active[index].rng, drawn.0, drawn.1)
    }

    /// Who holds a slot of a service, by the word of a node that runs.
    fn holder(&self, resource: u16) -> Option<u16> {
        let place = self.plan.configs[0].resources.iter().find(|known| known.id.0 == resource)?;
        let apus_engine::Role::Slot { service, slot } = place.role else { return None };
        let name = &self.plan.scenario.services.get(usize::from(service.0))?.name;
        let well = (0..).zip(&self.machines).filter(|(_, machine)| **machine == Machine::default());
        well.into_iter().find_map(|(node, _)| {
            let services = self.stage.cluster.ask(node, &json!({"do": "services"})).ok()?;
            let rows = services["services"].as_array()?;
            let row = rows.iter().find(|row| row["name"] == name.as_str() && row["slot"] == slot)?;
            row["node"].as_u64().and_then(|node| u16::try_from(node).ok())
        })
    }

    fn start(&mut self, index: usize) -> Result<(), String> {
        let fault = self.plan.faults[index].clone();
        let nodes = self.resolve(index, &fault.target);
        if nodes.is_empty() {
            let now = self.now();
            if now < self.plan.scenario.duration.saturating_sub(fault.lasts + 100 * MS) {
                self.queue.insert((now + AGAIN, Due::Start(index)));
            }
            return Ok(());
        }
        let active = &mut self.active[index];
        (active.nodes, active.everything, active.running) = (nodes.clone(), fault.target == Target::All, true);
        let whom = nodes.iter().map(|node| NodeId(*node)).collect();
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        self.line(None, What::FaultStart { fault: number, kind: fault.kind, nodes: whom });
        let began = self.now();
        self.strike(index, &fault)?;
        let lasts = if fault.kind.spec().lasts { fault.lasts } else { grace(fault.kind) };
        self.queue.insert(((began + lasts).min(self.plan.scenario.duration), Due::Stop(index)));
        if let Some(wait) = self.wait(index, &fault) {
            self.queue.insert((began + wait, Due::Step(index, 0)));
        }
        Ok(())
    }

    fn step(&mut self, index: usize, step: u32) -> Result<(), String> {
        if !self.active[index].running {
            return Ok(());
        }
        let fault = self.plan.faults[index].clone();
        let began = self.now();
        self.strike_again(index, &fault, step)?;
        if let Some(wait) = self.wait(index, &fault) {
            self.queue.insert((began + wait, Due::Step(index, step + 1)));
        }
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Result<(), String> {
        if !self.active[index].running {
            return Ok(());
        }
        let fault = self.plan.faults[index].clone();
        self.active[index].running = false;
        self.undo(index, &fault)?;
        for fault in self.taken.1.try_iter().collect::<Vec<_>>() {
            self.active[fault].effects += 1;
        }
        let (number, effects) = (u16::try_from(index).unwrap_or(u16::MAX), self.active[index].effects);
        self.line(None, What::FaultStop { fault: number, kind: fault.kind, effects });
        Ok(())
    }

    /// Every fault is over, every machine that can run runs.
    fn heal(&mut self) -> Result<(), String> {
        for index in 0..self.active.len() {
            self.stop(index)?;
        }
        for node in 0..self.plan.scenario.nodes {
            self.revive(node)?;
        }
        self.line(None, What::Healed);
        self.queue.insert((self.now() + LOOK, Due::Look));
        Ok(())
    }

    /// How all is.
    fn look(&mut self) {
        let (gone, run): (Vec<u16>, Vec<u16>) =
            (0..self.plan.scenario.nodes).partition(|node| self.machines[usize::from(*node)].lost);
        match self.stage.well(&run, &gone) {
            Ok(()) if self.well.is_ok() => {}
            Ok(()) => self.well = Ok(self.stamp()),
            Err(what) => self.well = Err(what),
        }
        self.queue.insert((self.now() + LOOK, Due::Look));
    }

    /// Has an order given until somebody takes it, beside all else.
    pub(super) fn order(&self, index: Option<usize>, question: serde_json::Value) {
        let well = (0..).zip(&self.machines).filter(|(_, machine)| **machine == Machine::default());
        let sockets: Vec<_> = well.map(|(node, _)| self.stage.cluster.control(node)).collect();
        let taken = self.taken.0.clone();
        std::thread::spawn(move || {
            let began = std::time::Instant::now();
            while began.elapsed() < ORDERED {
                for socket in &sockets {
                    if ask(socket, &question, Duration::from_secs(6)).is_ok() {
                        if let Some(index) = index {
                            let _ = taken.send(index);
                        }
                        return;
                    }
                }
                sleep(Duration::from_nanos(AGAIN));
            }
        });
    }
}

/// How long an instant kind keeps trying.
const fn grace(kind: Kind) -> Ns {
    match kind {
        Kind::MoveHolder | Kind::ProgramCrash => 3 * S,
        _ => 0,
    }
}

/// A client that puts notes into the log, where it believes the coordinator to be.
fn notes(client: usize, sockets: &[std::path::PathBuf], rate: u32, over: &Mutex<bool>) {
    let mut at = client % sockets.len().max(1);
    for number in 0_u64.. {
        if *over.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        let question = json!({"do": "note", "text": format!("{client}.{number}")});
        match ask(&sockets[at], &question, Duration::from_millis(200)) {
            Ok(answer) if answer["done"] == true => {}
            Ok(answer) if answer["coordinator"].is_u64() => {
                let next = answer["coordinator"].as_u64().and_then(|node| usize::try_from(node).ok());
                at = next.filter(|node| *node < sockets.len()).unwrap_or(0);
            }
            _ => at = (at + 1) % sockets.len(),
        }
        sleep(Duration::from_secs(1) / rate.max(1));
    }
}
