//! Groups of files in the heap world: what hosts, disks and programs do.

mod content;
mod far;
mod judge;
mod tree;
mod vault;
mod writer;

use std::collections::BTreeMap;

use apus_engine::shipping::{Answer, Change, Fact, Follow, Happening, Head, Message, Order, Record, Work};
use apus_engine::wire::{self, Body};
use apus_engine::{Copy, GroupConfig, Input, Lsn, Mode, NodeId, OpId, Ratio, Rng, Role, Seed, ServiceId};

use super::World;
use super::queue::Due;
use crate::fault::{Kind, MS, Ns, S};
use crate::scenario::Plan;
use judge::{Judge, Wrong};
use tree::Tree;
use vault::Vault;

/// Between two looks at who is behind.
const LOOK: Ns = 100 * MS;

/// The group of a run.
#[derive(Clone, Debug)]
pub(super) struct Files {
    config: GroupConfig,
    copy: Copy,
    /// Steps of the program a second.
    rate: u32,
    /// Blocks of the large tree that a step writes.
    blocks: u64,
    vaults: BTreeMap<NodeId, Vault>,
    judge: Judge,
    /// Of scenarios with a large tree.
    meter: Option<far::Meter>,
    rng: Rng,
    /// Barrier that the program of this run waits for.
    waits: Option<(NodeId, u32, u64)>,
    /// The program of this run steps already.
    steps: Option<u32>,
    feeding: BTreeMap<NodeId, u32>,
    /// Programs stop here, so that all copies can become equal.
    quiet: Ns,
}

impl Files {
    pub(super) fn new(plan: &Plan) -> Option<Box<Self>> {
        let config = plan.configs.first()?.groups.first()?.clone();
        let role = plan.configs.first()?.resource(config.resource)?.role;
        let Role::Slot { service, slot } = role else { return None };
        let files = plan.scenario.files.as_ref()?;
        let tree = Tree::large(files.tree);
        let vaults = config.copies.iter().map(|node| (*node, Vault::holding(&tree))).collect();
        let planned = plan.faults.iter().all(|fault| fault.kind == Kind::Drain);
        Some(Box::new(Self {
            judge: Judge::new(config.clone(), planned, &tree),
            meter: (files.tree > 0).then(far::Meter::default),
            blocks: files.blocks,
            config,
            copy: Copy { service, slot },
            rate: files.rate,
            vaults,
            rng: Seed(plan.seed).stream("files"),
            waits: None,
            steps: None,
            feeding: BTreeMap::new(),
            quiet: plan.scenario.duration + plan.scenario.heal / 3,
        }))
    }

    pub(super) const fn first_look(&self) -> Ns {
        LOOK
    }
}

/// What an order of this op does when it is done.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    order: Order,
    answer: Option<Answer>,
    upto: Lsn,
}

impl World {
    fn judged(&mut self, seen: Result<(), Wrong>) {
        if let Err((checker, what)) = seen {
            self.violate(checker, false, what);
        }
    }

    /// A daemon has begun: it is told what its disk holds.
    fn files_found(&mut self, node: NodeId) {
        let Some(files) = &mut self.files else { return };
        files.feeding.remove(&node);
        let Some(vault) = files.vaults.get_mut(&node) else { return };
        let group = files.config.id;
        let found = vault.found();
        let life = self.nodes[node.0 as usize].life;
        let input = Input::Files { group, what: Happening::Found(found) };
        self.queue.push(self.now + MS, Due::Files { node, life, what: FilesDue::Input(Box::new(input)) });
        self.feed_captured(node);
    }

    pub(super) fn files_power_off(&mut self, node: NodeId) {
        let Some(files) = &mut self.files else { return };
        if let Some(vault) = files.vaults.get_mut(&node) {
            vault.power_off(&mut files.rng);
            files.judge.forgets(node);
        }
    }

    pub(super) fn files_wiped(&mut self, node: NodeId) {
        let Some(files) = &mut self.files else { return };
        if let Some(vault) = files.vaults.get_mut(&node) {
            *vault = Vault::blank();
            files.judge.wiped(node);
        }
    }

    pub(super) fn files_told(&mut self, node: NodeId, fact: &Fact) {
        let Some(files) = &mut self.files else { return };
        let mut seen = files.judge.fact(self.now, node, fact, &files.vaults);
        if let (Fact::Synced { .. }, Some(meter)) = (fact, &mut files.meter) {
            seen = seen.and_then(|()| meter.ends(self.now, node));
            self.measured_outside.extend(meter.measures.clone());
        }
        if let Fact::Differs { node: whose, file, .. } = fact
            && files.vaults.get(whose).is_some_and(|vault| !vault.rotten)
        {
            let what = format!("{node} says that {file} differs at {whose}, whose files are right");
            return self.violate("files-differ-true", false, what);
        }
        self.judged(seen);
    }

    /// A program is gone, as ordered.
    pub(super) fn files_program_gone(&mut self, node: NodeId, copy: Copy) {
        let now = self.now;
        if let Some(files) = self.files.as_mut().filter(|files| files.copy == copy) {
            files.judge.program_stopped(node, now);
        }
    }

    /// A daemon that stood still wakes.
    pub(super) fn files_woke(&mut self, node: NodeId) {
        if let Some(files) = &mut self.files {
            files.judge.stood_still(node);
        }
    }

    /// Starts what the engine orders; it is done a little later.
    pub(crate) fn files_order(&mut self, node: NodeId, order: Order) {
        if order.work == Work::Find {
            return self.files_found(node);
        }
        let slow = self.size_of(Kind::SlowDisk, node).unwrap_or(0);
        let writes = !matches!(
            order.work,
            Work::Read { .. }
                | Work::Digest { .. }
                | Work::Compare { .. }
                | Work::Release { .. }
                | Work::Close { .. }
                | Work::Trim { .. }
        );
        let trouble = if writes { self.files_trouble(node) } else { None };
        let Some(mut files) = self.files.take() else { return };
        let life = self.nodes[node.0 as usize].life;
        let mut wait = self.disk_delay / 2 + files.rng.below(self.disk_delay + 1) + slow;
        let mut seen = Ok(());
        let mut upto = Lsn(0);
        if let Some(vault) = files.vaults.get_mut(&node) {
            if writes && matches!(order.work, Work::Append { .. }) {
                files.judge.disk(node, self.now, trouble.is_none());
            }
            match &order.work {
                _ if trouble.is_some() => {}
                Work::Promise { era, .. } => vault.promise(*era),
                Work::Append { staged, records, captured, .. } => {
                    seen = files.judge.appends(node, vault, *staged, records);
                    if seen.is_ok() && !*staged {
                        seen = learn(&mut files.judge, node, vault, records);
                    }
                    vault.append(*staged, records, *captured);
                    let log = if *staged { vault.staged.as_ref().map(|(_, log)| log.end()) } else { None };
                    upto = log.unwrap_or(vault.log.end());
                    seen = seen.and_then(|()| files.judge.log_length(node, vault));
                }
                Work::Apply { upto, .. } => seen = files.judge.applies(node, vault, *upto),
                Work::Open { .. } => vault.writes = true,
                Work::Read { .. } | Work::Digest { .. } | Work::Compare { .. } => wait = MS / 10 + files.rng.below(MS),
                // Nothing of the second tree has to be durable before it is switched to.
                Work::Mend { .. } | Work::Fold { .. } => wait = MS / 10 + files.rng.below(MS),
                Work::Close { .. } => wait = MS,
                _ => {}
            }
        }
        match &order.work {
            Work::Release { captured } => {
                seen = files.judge.releases(node, *captured, &files.vaults);
                if let Some((at, run, number)) = files.waits
                    && at == node
                    && number <= *captured
                {
                    files.waits = None;
                    self.queue.push(self.now + MS / 10, Due::Files { node, life, what: FilesDue::Step(run) });
                }
            }
            Work::Trim { base } => {
                seen = files.judge.cuts(node, &files.vaults, base.lsn);
                if let Some(vault) = files.vaults.get_mut(&node) {
                    vault.trim(base.clone());
                }
            }
            _ => {
                let doing = Doing { order, answer: trouble, upto };
                // One disk: what was ordered first is done first. Files are closed after they were opened, however long that takes.
                let in_turn = writes || matches!(doing.order.work, Work::Close { .. });
                let host = &mut self.nodes[node.0 as usize];
                let at = if in_turn { host.files_done_at.max(self.now) + wait } else { self.now + wait };
                if in_turn {
                    host.files_done_at = at;
                }
                self.queue.push(at, Due::Files { node, life, what: FilesDue::Done(Box::new(doing)) });
            }
        }
        self.files = Some(files);
        self.judged(seen);
    }

    /// Whether a disk takes nothing for files now.
    fn files_trouble(&mut self, node: NodeId) -> Option<Answer> {
        if self.hits(Kind::FilesFull, node) || self.hits(Kind::DiskFull, node) || self.hits(Kind::ReadOnly, node) {
            return Some(Answer::Full);
        }
        let index = self.find(Kind::FilesError, node)?;
        let rate = self.plan.faults[index as usize].rate_ppm;
        let state = &mut self.active[index as usize];
        let hit = state.rng.hit(Ratio { hit: rate, of: 1_000_000 });
        state.effects += u64::from(hit);
        hit.then_some(Answer::Failed)
    }

    /// Something about files is due.
    pub(super) fn files_due(&mut self, node: NodeId, life: u32, what: FilesDue) {
        let host = &self.nodes[node.0 as usize];
        match what {
            FilesDue::Look => self.files_look(),
            FilesDue::Step(run) => self.files_step(node, run),
            _ if !host.alive || host.life != life => {}
            FilesDue::Input(input) => self.feed(node, *input),
            FilesDue::Captured => self.captured(node),
            FilesDue::Done(_) if !host.powered => {}
            FilesDue::Done(doing) => self.files_done(node, *doing),
        }
    }

    fn files_done(&mut self, node: NodeId, doing: Doing) {
        let Some(mut files) = self.files.take() else { return };
        let group = files.config.id;
        let mut seen = Ok(());
        let mut then = None;
        if let (Some(vault), None) = (files.vaults.get_mut(&node), &doing.answer) {
            match &doing.order.work {
                Work::Promise { era, .. } => vault.promise_kept(*era),
                Work::Append { staged, .. } => vault.appended(*staged, doing.upto),
                Work::Read { from, most, .. } => {
                    let mut bytes = Vec::new();
                    let mut at = *from;
                    while let Some(kept) = vault
                        .log
                        .get(at)
                        .filter(|kept| bytes.is_empty() || bytes.len() + kept.bytes.len() <= *most as usize)
                    {
                        bytes.extend_from_slice(&kept.bytes);
                        at = at.next();
                    }
                    then = Some(if bytes.is_empty() { Answer::Gone } else { Answer::Records(bytes) });
                }
                Work::Apply { upto, .. } => {
                    vault.apply(*upto);
                    seen = files.judge.publishes(node, vault);
                }
                Work::Checkpoint { at, .. } => vault.checkpointed(*at),
                Work::Open { era, .. } => vault.opened(*era),
                Work::Close { .. } => {
                    // What was captured last goes first.
                    let rest: Vec<_> =
                        vault.ring.iter().filter(|captured| captured.number > vault.told).cloned().collect();
                    vault.told = vault.captured;
                    vault.close();
                    if !rest.is_empty() {
                        let input = Input::Files { group, what: Happening::Captured(rest) };
                        self.files = Some(files);
                        self.feed(node, input);
                        return self.files_answer(node, &doing, Answer::Done);
                    }
                }
                Work::Shadow { base, .. } => {
                    vault.shadow(base.clone());
                    if let Some(meter) = &mut files.meter {
                        meter.begins(self.now, node, &files.vaults);
                    }
                }
                Work::Digest { shadow, salt, depth, stretches, .. } => {
                    let tree = match &vault.staged {
                        Some((tree, _)) if *shadow => tree,
                        _ => &vault.tree,
                    };
                    then = Some(Answer::Page(tree.page(*salt, *depth, stretches)));
                }
                Work::Compare { page, from, .. } => {
                    then = Some(Answer::Mends { mends: vault.tree.compare(page, from), captured: vault.captured });
                }
                Work::Mend { mends, .. } => {
                    if let Some((tree, _)) = &mut vault.staged {
                        tree.mend(mends);
                    }
                }
                Work::Fold { from, upto, base, .. } => vault.fold(*from, *upto, base.as_ref()),
                Work::Switch { .. } => {
                    seen = files.judge.switches(node, vault);
                    vault.switch();
                    files.judge.forgets(node);
                    files.judge.switched(node, vault);
                    seen = seen.and_then(|()| files.judge.publishes(node, vault));
                }
                Work::Orphans { from, .. } => vault.save(*from),
                Work::Find | Work::Trim { .. } | Work::Release { .. } => {}
            }
        }
        self.files = Some(files);
        self.judged(seen);
        let answer = doing.answer.clone().or(then).unwrap_or(Answer::Done);
        self.files_answer(node, &doing, answer);
    }

    fn files_answer(&mut self, node: NodeId, doing: &Doing, answer: Answer) {
        let Some(op) = op_of(&doing.order.work) else { return };
        let what = Happening::Done { op, answer };
        self.feed(node, Input::Files { group: doing.order.group, what });
    }

    /// A packet of shipping leaves or comes.
    pub(super) fn files_packet(&mut self, node: NodeId, datagram: &[u8], leaves: bool) {
        if self.files.is_none() || !wire::peek_kind(datagram).is_some_and(|kind| kind >> 4 == 4) {
            return;
        }
        let Ok((header, Body::Shipping(message))) = wire::decode(&self.nodes[node.0 as usize].config, datagram) else {
            return;
        };
        let Some(files) = &mut self.files else { return };
        let Some(vault) = files.vaults.get(&node) else { return };
        if let Some(meter) = files.meter.as_mut().filter(|_| leaves) {
            meter.sends(datagram);
        }
        let seen = match message {
            Message::Records(records) if leaves => learn(&mut files.judge, node, vault, &records.bytes),
            Message::Records(records) if !leaves => {
                let mut rest = &records.bytes[..];
                while let Ok(head) = Head::read(rest) {
                    files.judge.receives(node, head.era, head.lsn);
                    rest = rest.get(head.size()..).unwrap_or_default();
                }
                Ok(())
            }
            Message::Ack(ack) if leaves => files.judge.promised(node, vault, ack.era).and_then(|()| {
                let published = ack.applied > Lsn(0);
                if published { files.judge.tells(node, ack.era, ack.durable, &files.vaults) } else { Ok(()) }
            }),
            Message::Follow(Follow { era, from, .. }) if leaves => {
                let seen = files.judge.promised(node, vault, era);
                seen.and_then(|()| from.map_or(Ok(()), |lsn| files.judge.tells(node, era, lsn, &files.vaults)))
            }
            Message::Follow(follow) if !leaves => {
                if vault.open == Some(follow.era) && follow.from.is_none_or(|from| from >= vault.log.base.lsn) {
                    files.judge.followed(node, header.sender, follow.era);
                }
                Ok(())
            }
            Message::Have(have) if leaves => files.judge.promised(node, vault, have.promised),
            Message::Have(have) if !have.blank && have.promised == have.era => {
                let from = header.sender;
                let rank = (have.eras.last().map(|last| last.era).unwrap_or_default(), have.end);
                // Of a copy whose files lost something the records alone are of use.
                let is_of_use = have.whole || vault.takes_records(&have);
                if is_of_use && files.vaults.get(&from).is_some_and(|vault| !vault.blank) {
                    files.judge.answered(self.now, node, from, have.era, rank);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        self.judged(seen);
    }

    // Programs.

    /// A program of a service with files can serve: it begins to change them.
    pub(super) fn files_program(&mut self, node: NodeId, copy: Copy, run: u32) {
        let Some(files) = &mut self.files else { return };
        if files.copy == copy && files.steps != Some(run) {
            files.steps = Some(run);
            files.waits = None;
            self.queue.push(self.now + MS, Due::Files { node, life: 0, what: FilesDue::Step(run) });
        }
    }

    /// A program takes its next step.
    fn files_step(&mut self, node: NodeId, run: u32) {
        let quiet = self.files.as_ref().is_none_or(|files| self.now >= files.quiet);
        let copy = self.files.as_ref().map_or(Copy { service: ServiceId(0), slot: 0 }, |files| files.copy);
        let host = &self.nodes[node.0 as usize];
        let runs = host.programs.get(&copy).is_some_and(|program| program.run == run && program.active);
        if !runs || quiet {
            return;
        }
        if host.suspended || host.programs.get(&copy).is_some_and(|program| program.stopping.is_some()) {
            self.queue.push(self.now + 20 * MS, Due::Files { node, life: 0, what: FilesDue::Step(run) });
            return;
        }
        let missed = self.size_of(Kind::FilesMissed, node).is_some();
        let Some(mut files) = self.files.take() else { return };
        let mut seen = Ok(());
        let mut waits = None;
        if let Some(meter) = &mut files.meter {
            meter.steps(self.now);
        }
        if let Some(vault) = files.vaults.get_mut(&node) {
            for change in writer::step((node.0, files.blocks), vault, &mut files.rng) {
                if missed && !matches!(change, Change::Barrier { .. }) {
                    // The file changes, and nobody sees it.
                    vault.tree.apply(&change);
                    continue;
                }
                let number = vault.capture(change.clone());
                seen = seen.and_then(|()| files.judge.captured(node, vault, number, &change));
                if matches!(change, Change::Barrier { .. }) {
                    vault.sync();
                    waits = Some(number);
                }
            }
        }
        let every = S / u64::from(files.rate.max(1));
        let next = every / 2 + files.rng.below(every + 1);
        let waits = waits.filter(|_| files.config.mode != Mode::Async);
        files.waits = waits.map(|number| (node, run, number));
        if files.config.mode == Mode::Async {
            files.judge.granted_healed += u64::from(files.judge.healed);
        }
        self.files = Some(files);
        if waits.is_none() {
            self.queue.push(self.now + next, Due::Files { node, life: 0, what: FilesDue::Step(run) });
        }
        if missed {
            let group = self.files.as_ref().map(|files| files.config.id).unwrap_or_default();
            self.feed(node, Input::Files { group, what: Happening::Missed });
        }
        self.feed_captured(node);
        self.judged(seen);
    }

    /// The daemon is told soon what was captured.
    fn feed_captured(&mut self, node: NodeId) {
        let host = &self.nodes[node.0 as usize];
        let (life, alive) = (host.life, host.alive);
        let Some(files) = &mut self.files else { return };
        if alive && files.feeding.insert(node, life) != Some(life) {
            let wait = MS / 20 + files.rng.below(MS / 4);
            // After what the disk holds was told.
            let wait =
                wait + if files.vaults.get(&node).is_some_and(|vault| vault.told == vault.logged) { 2 * MS } else { 0 };
            self.queue.push(self.now + wait, Due::Files { node, life, what: FilesDue::Captured });
        }
    }

    fn captured(&mut self, node: NodeId) {
        let Some(files) = &mut self.files else { return };
        files.feeding.remove(&node);
        let group = files.config.id;
        let Some(vault) = files.vaults.get_mut(&node) else { return };
        let new: Vec<_> = vault.ring.iter().filter(|captured| captured.number > vault.told).cloned().collect();
        vault.told = vault.captured;
        if !new.is_empty() {
            self.feed(node, Input::Files { group, what: Happening::Captured(new) });
        }
    }

    // Looks.

    /// Who has the files open, and whose program may change them.
    fn files_writer(&self) -> Option<NodeId> {
        let files = self.files.as_ref()?;
        let runs = |node: &&NodeId| {
            let host = &self.nodes[node.0 as usize];
            host.alive
                && !host.frozen
                && host.programs.get(&files.copy).is_some_and(|program| program.active && program.ready)
        };
        files.vaults.keys().find(runs).copied()
    }

    fn files_look(&mut self) {
        self.queue.push(self.now + LOOK, Due::Files { node: NodeId(0), life: 0, what: FilesDue::Look });
        let writer = self.files_writer();
        let steady = self.on_links.is_empty() && self.nodes.iter().all(|host| host.alive && !host.frozen);
        let now = self.now;
        let Some(files) = &mut self.files else { return };
        let seen = files.judge.looks(now, writer, &files.vaults, steady);
        self.judged(seen);
    }

    /// Files of a machine rot: how many bits turned.
    pub(super) fn files_rot(&mut self, node: NodeId) -> u64 {
        let Some(files) = &mut self.files else { return 0 };
        let Some(vault) = files.vaults.get_mut(&node).filter(|vault| !vault.writes) else { return 0 };
        u64::from(vault.rot(&mut files.rng))
    }

    pub(super) fn files_healed(&mut self) {
        if let Some(files) = &mut self.files {
            files.judge.healed = true;
        }
    }

    pub(super) fn files_end(&mut self) {
        let writer = self.files_writer();
        let Some(files) = &self.files else { return };
        let seen = files.judge.ends(writer, &files.vaults, |node| self.nodes[node.0 as usize].lost);
        if let Err((checker, what)) = seen {
            self.violate(checker, true, what);
        }
    }
}

fn learn(judge: &mut Judge, node: NodeId, vault: &Vault, records: &[u8]) -> Result<(), Wrong> {
    let mut rest = records;
    while let Ok(head) = Head::read(rest) {
        if !judge.knows(&head) && judge.writes(node, head.era) {
            let Ok((record, _)) = Record::read(rest) else { break };
            judge.learn(node, vault, &record)?;
        }
        rest = rest.get(head.size()..).unwrap_or_default();
    }
    Ok(())
}

const fn op_of(work: &Work) -> Option<OpId> {
    match work {
        Work::Promise { op, .. }
        | Work::Append { op, .. }
        | Work::Read { op, .. }
        | Work::Apply { op, .. }
        | Work::Checkpoint { op, .. }
        | Work::Open { op, .. }
        | Work::Close { op }
        | Work::Shadow { op, .. }
        | Work::Digest { op, .. }
        | Work::Compare { op, .. }
        | Work::Mend { op, .. }
        | Work::Fold { op, .. }
        | Work::Switch { op, .. }
        | Work::Orphans { op, .. } => Some(*op),
        Work::Find | Work::Trim { .. } | Work::Release { .. } => None,
    }
}

/// What is due of files.
#[derive(Clone, Debug)]
pub(super) enum FilesDue {
    Done(Box<Doing>),
    Input(Box<Input>),
    Captured,
    Step(u32),
    Look,
}
