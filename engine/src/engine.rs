//! The engine only routes: inputs to parts, signals between parts, outputs to the host.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::consensus::Consensus;
use crate::context::{Ctx, Peer, Shared, Signal};
use crate::counters::Counters;
use crate::diagnosis::{self, Diagnosis, Superseded};
use crate::event::{EngineFact, Event, Fact};
use crate::hash::Hash128;
use crate::ids::{EvidenceId, Incarnation, NO_CAUSE, NodeId, OpId};
use crate::io::{Command, Deadline, Durable, Input, Lane, Outcome, Output, Part, Record, SubmitError};
use crate::mutant::Mutant;
use crate::rng::{Rng, Seed};
use crate::shipping::Shipping;
use crate::supervision::Supervision;
use crate::time::{Micros, Time};
use crate::views::Views;
use crate::wire::{self, Body, Header};

/// Names the sources that this engine was built from: another build may decide otherwise, and lays its state out otherwise.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("APUS_ENGINE_SOURCES"));

/// One node's protocols. Feed one thing, drain [`poll_output`](Self::poll_output) to `None`, wait until [`deadline`](Self::deadline).
///
/// The same configuration, disk, seed and inputs give the same outputs, bit for bit, on every host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    shared: Shared,
    rngs: [Rng; 5],
    now: Time,
    counters: Counters,
    life: Life,
    /// A later life of this node that is on its way to the disk.
    rebirth: Option<(OpId, Incarnation)>,
    /// Worked out once per call; a host asks more than once.
    deadline: Option<Deadline>,
}

/// A node acts only once its new incarnation is durable: until then nobody has heard it speak.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
enum Life {
    Booting {
        op: OpId,
        retry: Option<Time>,
        durable: Durable,
    },
    Running(alloc::boxed::Box<Parts>),
    /// The disk failed: silent for ever.
    Dead,
}

#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Parts {
    diagnosis: Diagnosis,
    consensus: Consensus,
    views: Views,
    supervision: Supervision,
    shipping: Shipping,
}

/// Hashes of an engine's state by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks([u64; 8]);

impl Marks {
    /// What each of them is of.
    pub const PARTS: [&'static str; 8] =
        ["diagnosis", "consensus", "views", "supervision", "shipping", "outputs", "randomness", "time and counts"];

    /// All in one: the state's hash.
    #[must_use]
    pub fn whole(&self) -> u128 {
        let mut hash = Hash128::new(0);
        self.0.iter().for_each(|mark| hash.word(*mark));
        hash.finish128()
    }

    /// A few bits of each, which name the part where the whole differs.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "a few bits are meant")]
    pub fn brief(&self) -> [u16; 8] {
        self.0.map(|mark| mark as u16)
    }
}

/// How long a full disk is left alone.
const RETRY_FULL: Micros = Micros::from_millis(500);

impl Engine {
    /// Starts a node on what its disk holds. A restarted node needs a new seed, or it repeats its old choices.
    #[must_use]
    pub fn new(config: Config, mut durable: Durable, seed: Seed, now: Time) -> Self {
        let inc = Incarnation(durable.incarnation.0 + 1);
        if config.has(Mutant::TermForgotten) {
            durable.term = crate::Term(0);
            durable.voted = None;
        }
        if config.has(Mutant::VoteForgotten) {
            durable.voted = None;
        }
        let mut shared = Shared {
            config: Arc::new(config),
            inc,
            outputs: Default::default(),
            signals: Default::default(),
            journal: Default::default(),
            peers: Default::default(),
            held: Default::default(),
            given_up: Default::default(),
            next_op: 0,
            next_event: 0,
            persisting: 0,
        };
        let op = shared.op(Part::Diagnosis);
        shared.persisting += 1;
        shared.outputs.push_back(Output::Persist { op, record: Record::Born(inc) });
        let rngs = ["diagnosis", "consensus", "views", "supervision", "shipping"].map(|label| seed.stream(label));
        Self {
            shared,
            rngs,
            now,
            counters: Counters::default(),
            life: Life::Booting { op, retry: None, durable },
            rebirth: None,
            deadline: None,
        }
    }

    /// Takes in one thing the world did. Never fails: what is wrong with an input is counted or an [`Event`].
    pub fn handle(&mut self, now: Time, input: Input) {
        if now < self.now {
            self.counters.clock_backwards += 1;
        }
        self.now = self.now.max(now);
        self.notice_stall();
        match input {
            Input::Tick => {}
            Input::Packet { from, datagram } => self.handle_packet(from, &datagram),
            Input::Done { op, outcome } => self.handle_done(op, outcome),
            Input::Process { copy, what } => {
                self.with(Part::Supervision, |parts, ctx| parts.supervision.on_process(ctx, copy, what));
            }
            Input::Files { group, what } => {
                self.with(Part::Shipping, |parts, ctx| parts.shipping.on_happening(ctx, group, what));
            }
        }
        self.route_signals();
        self.deadline = self.next_deadline();
        if self.deadline.is_some_and(|deadline| deadline.at <= self.now) {
            self.run_timers();
            self.route_signals();
            self.deadline = self.next_deadline();
        }
        self.finish_step();
    }

    fn finish_step(&mut self) {
        self.with(Part::Consensus, |parts, ctx| parts.consensus.finish_step(ctx));
        if !self.shared.signals.is_empty() {
            self.route_signals();
            self.deadline = self.next_deadline();
        }
    }

    /// Takes in one thing the application wants. A refusal leaves the engine unchanged.
    pub fn submit(&mut self, now: Time, command: Command) -> Result<(), SubmitError> {
        self.now = self.now.max(now);
        let Life::Running(parts) = &mut self.life else {
            return Err(SubmitError::NotCoordinator { hint: None });
        };
        let mut ctx = Ctx {
            now: self.now,
            rng: &mut self.rngs[Part::Views as usize],
            part: Part::Views,
            shared: &mut self.shared,
        };
        match command {
            Command::AddNode { .. } | Command::RemoveNode(_) | Command::Note(_) => {
                ctx.part = Part::Consensus;
                parts.consensus.submit(&mut ctx, command)?;
            }
            Command::Move { .. } | Command::Drain(_) | Command::Undrain(_) | Command::Set { .. } => {
                parts.views.submit(&mut ctx, &parts.consensus, command)?;
            }
            Command::Scrub(group) => {
                ctx.part = Part::Shipping;
                parts.shipping.scrub(&ctx, group)?;
            }
            Command::Compare { group, node } => {
                ctx.part = Part::Shipping;
                parts.shipping.compare(&mut ctx, group, node)?;
            }
        }
        self.route_signals();
        self.finish_step();
        self.deadline = self.next_deadline();
        Ok(())
    }

    /// Sends an operator's command on to whoever leads. It may be lost or refused there in silence: repeat it until the log shows
    /// what it does.
    ///
    /// # Errors
    /// If this node leads itself, or knows nobody who does.
    pub fn pass_on(&mut self, now: Time, order: crate::views::Order) -> Result<(), SubmitError> {
        self.now = self.now.max(now);
        let Life::Running(parts) = &mut self.life else {
            return Err(SubmitError::NotCoordinator { hint: None });
        };
        let mut ctx = Ctx {
            now: self.now,
            rng: &mut self.rngs[Part::Views as usize],
            part: Part::Views,
            shared: &mut self.shared,
        };
        parts.views.pass_on(&mut ctx, &parts.consensus, order)
    }

    /// The next thing the host must do, oldest first; `None` once drained.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// When the host must call `handle(now, Input::Tick)` at the latest, and which part asks.
    #[must_use]
    pub const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    fn next_deadline(&self) -> Option<Deadline> {
        match &self.life {
            Life::Dead => None,
            Life::Booting { retry, .. } => retry.map(|at| Deadline { at, part: Part::Diagnosis }),
            Life::Running(parts) => parts.deadline(),
        }
    }

    /// What was dropped and why.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What this node was told at its start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// This node's life.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.shared.inc
    }

    /// The event of this name and, transitively, what led to it as far as this node saw it; newest first.
    #[must_use]
    pub fn why(&self, id: EvidenceId) -> Vec<&Event> {
        let mut wanted = alloc::vec![id];
        let mut chain = Vec::new();
        for event in self.shared.journal.iter().rev() {
            if wanted.contains(&event.id) {
                wanted.extend(event.because.iter().filter(|cause| cause.is_some()));
                chain.push(event);
            }
        }
        chain
    }

    /// Forgets the events kept for [`why`](Self::why): a world that copies engines by the million has no use for them.
    pub fn forget_events(&mut self) {
        self.shared.journal = Default::default();
    }

    /// The parts, for worlds and status pages to look at; `None` while booting or after a disk failure.
    #[must_use]
    pub fn look(&self) -> Option<(&Diagnosis, &Consensus, &Views, &Supervision)> {
        match &self.life {
            Life::Running(parts) => Some((&parts.diagnosis, &parts.consensus, &parts.views, &parts.supervision)),
            Life::Booting { .. } | Life::Dead => None,
        }
    }

    /// The groups of files; `None` while booting or after a disk failure.
    #[must_use]
    pub fn files(&self) -> Option<&Shipping> {
        match &self.life {
            Life::Running(parts) => Some(&parts.shipping),
            Life::Booting { .. } | Life::Dead => None,
        }
    }

    /// A hash of everything that decides what this engine does next. The journal of events is left out.
    #[must_use]
    pub fn state_hash(&self) -> u128 {
        let mut hash = Hash128::new(0);
        self.life.hash(&mut hash);
        self.rngs.hash(&mut hash);
        self.shared.inc.hash(&mut hash);
        self.shared.peers.hash(&mut hash);
        self.shared.outputs.hash(&mut hash);
        self.shared.persisting.hash(&mut hash);
        self.rebirth.hash(&mut hash);
        hash.finish128()
    }

    /// Whether [`poll_output`](Self::poll_output) has nothing left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.outputs.is_empty()
    }

    /// Hashes of all of the state by part, the host's clock and the outputs that wait among them: two engines with the same marks go
    /// on alike and have told alike. The journal of events is left out.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let of = |hash: &dyn Fn(&mut Hash128)| {
            let mut state = Hash128::new(0);
            hash(&mut state);
            state.finish64()
        };
        let parts = match &self.life {
            Life::Running(parts) => [
                of(&|to| parts.diagnosis.hash(to)),
                of(&|to| parts.consensus.hash(to)),
                of(&|to| parts.views.hash(to)),
                of(&|to| parts.supervision.hash(to)),
                of(&|to| parts.shipping.hash(to)),
            ],
            Life::Booting { .. } => [of(&|to| self.life.hash(to)), 0, 0, 0, 0],
            Life::Dead => [1, 0, 0, 0, 0],
        };
        let shared = &self.shared;
        let [diagnosis, consensus, views, supervision, shipping] = parts;
        Marks([
            diagnosis,
            consensus,
            views,
            supervision,
            shipping,
            of(&|to| shared.outputs.hash(to)),
            of(&|to| self.rngs.hash(to)),
            of(&|to| {
                (self.now, self.deadline, self.counters, self.rebirth).hash(to);
                (shared.inc, shared.next_op, shared.next_event, shared.persisting).hash(to);
                (&shared.peers, &shared.signals).hash(to);
            }),
        ])
    }

    /// Runs one part with its context.
    fn with(&mut self, part: Part, run: impl FnOnce(&mut Parts, &mut Ctx<'_>)) {
        if let Life::Running(parts) = &mut self.life {
            let rng = &mut self.rngs[part as usize];
            run(parts, &mut Ctx { now: self.now, rng, part, shared: &mut self.shared });
        }
    }

    /// A host that calls in long after the deadline was not running: every verdict in progress is void.
    fn notice_stall(&mut self) {
        let Some(deadline) = self.deadline() else { return };
        let late = self.now.since(deadline.at);
        let config = &self.shared.config;
        if late > config.views.timer_slack + config.diagnosis.period.scale(1, 4) {
            let evidence = self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::Stalled { late }));
            self.shared.signals.push_back(Signal::Stalled { late, evidence });
            self.route_signals();
        }
    }

    fn handle_packet(&mut self, from: NodeId, datagram: &[u8]) {
        if !matches!(self.life, Life::Running(_)) {
            self.counters.before_start += 1;
            return;
        }
        match wire::decode(&self.shared.config, datagram) {
            Err(error) => self.counters.refuse(error),
            Ok((header, _)) if header.sender != from || from == self.shared.config.me => self.counters.spoofed += 1,
            Ok((header, body)) => {
                if self.admit(&header) {
                    self.counters.packets += 1;
                    self.dispatch(header, body);
                }
            }
        }
    }

    /// Learns a peer's life and version; a packet of an earlier life is dropped.
    fn admit(&mut self, header: &Header) -> bool {
        let peer = self.shared.peers.entry(header.sender).or_default();
        if header.incarnation < peer.inc && !self.shared.config.has(Mutant::SenderIncarnationIgnored) {
            self.counters.old_incarnation += 1;
            let inc = peer.inc;
            let notice = Body::Diagnosis(diagnosis::Message::Superseded(Superseded { inc }));
            self.with(Part::Diagnosis, |_, ctx| ctx.send(header.sender, Lane::Probe, &notice));
            return false;
        }
        *peer = Peer { inc: peer.inc.max(header.incarnation), speaks: header.speaks };
        true
    }

    fn dispatch(&mut self, header: Header, body: Body) {
        let from = header.sender;
        match body {
            Body::Diagnosis(diagnosis::Message::Superseded(notice)) => self.on_superseded(notice.inc),
            Body::Diagnosis(message) => {
                self.with(Part::Diagnosis, |parts, ctx| {
                    parts.diagnosis.on_message(ctx, from, header.incarnation, message);
                });
            }
            Body::Consensus(message) => {
                self.with(Part::Diagnosis, |parts, ctx| parts.diagnosis.notice(ctx, from));
                self.with(Part::Consensus, |parts, ctx| parts.consensus.on_message(ctx, from, message));
            }
            Body::Views(message) => {
                self.with(Part::Diagnosis, |parts, ctx| parts.diagnosis.notice(ctx, from));
                self.with(Part::Views, |parts, ctx| parts.views.on_message(ctx, &parts.consensus, from, message));
            }
            Body::Shipping(message) => {
                self.with(Part::Diagnosis, |parts, ctx| parts.diagnosis.notice(ctx, from));
                self.with(Part::Shipping, |parts, ctx| parts.shipping.on_message(ctx, from, message));
            }
        }
    }

    /// A peer knows a later life of this node.
    fn on_superseded(&mut self, inc: Incarnation) {
        let Life::Running(parts) = &mut self.life else { return };
        if inc <= self.shared.inc || inc.0 >= u32::MAX / 2 || self.rebirth.is_some() {
            return;
        }
        if parts.consensus.was_born_blank() {
            // The wiped disk held the number of lives too.
            self.live_after(inc);
        } else {
            self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::Superseded { inc, silent: true }));
            self.life = Life::Dead;
        }
    }

    /// Begins a life after `inc`, as soon as that is durable.
    fn live_after(&mut self, inc: Incarnation) {
        self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::Superseded { inc, silent: false }));
        let inc = Incarnation(inc.0 + 1);
        let op = self.shared.op(Part::Diagnosis);
        self.shared.outputs.push_back(Output::Persist { op, record: Record::Born(inc) });
        self.rebirth = Some((op, inc));
    }

    fn on_reborn(&mut self, inc: Incarnation) {
        self.shared.inc = inc;
        self.with(Part::Diagnosis, |parts, _| parts.diagnosis.reborn(inc));
    }

    fn handle_done(&mut self, op: OpId, outcome: Outcome) {
        if outcome == Outcome::DiskFailed {
            self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::DiskFailed));
            self.life = Life::Dead;
            return;
        }
        if outcome == Outcome::DiskFull {
            self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::DiskFull));
        }
        match &mut self.life {
            Life::Dead => {}
            Life::Booting { op: born, retry, durable } if *born == op => {
                if outcome == Outcome::Ok {
                    let durable = core::mem::take(durable);
                    self.start(durable);
                } else {
                    *retry = Some(self.now + RETRY_FULL);
                }
            }
            Life::Booting { .. } => self.counters.stray_done += 1,
            Life::Running(_) => match op.0 & 3 {
                0 => match self.rebirth.take_if(|(born, _)| *born == op) {
                    Some((_, inc)) if outcome == Outcome::Ok => self.on_reborn(inc),
                    Some(_) => {}
                    None => self.counters.stray_done += 1,
                },
                1 => self.with(Part::Consensus, |parts, ctx| {
                    ctx.shared.persisting = ctx.shared.persisting.saturating_sub(1);
                    parts.consensus.on_done(ctx, op, outcome);
                }),
                2 => self.with(Part::Views, |parts, ctx| parts.views.on_done(ctx, &parts.consensus, op, outcome)),
                _ => self.with(Part::Supervision, |parts, ctx| parts.supervision.on_done(ctx, op, outcome)),
            },
        }
    }

    fn start(&mut self, durable: Durable) {
        self.shared.persisting = 0;
        let formatted = durable.formatted;
        self.shared.event(NO_CAUSE, Fact::Engine(EngineFact::Started { formatted }));
        let (config, now) = (self.shared.config.clone(), self.now);
        let [diagnosis_rng, consensus_rng, ..] = &mut self.rngs;
        let parts = Parts {
            diagnosis: Diagnosis::new(&config, self.shared.inc, now, diagnosis_rng),
            consensus: Consensus::new(&config, durable, now, consensus_rng),
            views: Views::new(&config, now),
            supervision: Supervision::new(&config),
            shipping: Shipping::new(&config),
        };
        self.life = Life::Running(alloc::boxed::Box::new(parts));
        self.with(Part::Consensus, |parts, ctx| parts.consensus.on_start(ctx));
        self.with(Part::Shipping, |parts, ctx| parts.shipping.on_start(ctx));
    }

    fn run_timers(&mut self) {
        if let Life::Booting { op, retry, .. } = &mut self.life
            && retry.is_some_and(|at| at <= self.now)
        {
            *retry = None;
            self.shared.outputs.push_back(Output::Persist { op: *op, record: Record::Born(self.shared.inc) });
        }
        let now = self.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        self.with(Part::Diagnosis, |parts, ctx| {
            if due(parts.diagnosis.deadline(&parts.consensus)) {
                parts.diagnosis.on_timer(ctx, &parts.consensus);
            }
        });
        self.with(Part::Consensus, |parts, ctx| {
            if due(parts.consensus.deadline()) {
                parts.consensus.on_timer(ctx);
            }
        });
        self.with(Part::Views, |parts, ctx| {
            if due(parts.views.deadline()) {
                parts.views.on_timer(ctx, &parts.consensus);
            }
        });
        // What has run out is lost before a program is started under it.
        self.route_signals();
        self.with(Part::Supervision, |parts, ctx| {
            if due(parts.supervision.deadline()) {
                parts.supervision.on_timer(ctx);
            }
        });
        self.with(Part::Shipping, |parts, ctx| {
            if due(parts.shipping.deadline()) {
                parts.shipping.on_timer(ctx);
            }
        });
    }

    fn route_signals(&mut self) {
        while let Some(signal) = self.shared.signals.pop_front() {
            self.with(Part::Diagnosis, |parts, ctx| parts.diagnosis.on_signal(ctx, &signal));
            self.with(Part::Consensus, |parts, ctx| parts.consensus.on_signal(ctx, &signal));
            self.with(Part::Views, |parts, ctx| parts.views.on_signal(ctx, &parts.consensus, &signal));
            self.with(Part::Supervision, |parts, ctx| parts.supervision.on_signal(ctx, &signal));
            self.with(Part::Shipping, |parts, ctx| parts.shipping.on_signal(ctx, &signal));
        }
        if self.rebirth.is_none()
            && let Life::Running(parts) = &mut self.life
            && let Some(inc) = parts.diagnosis.denied_life()
        {
            self.live_after(inc);
        }
    }
}

impl Parts {
    fn deadline(&self) -> Option<Deadline> {
        let asks = [
            (Part::Diagnosis, self.diagnosis.deadline(&self.consensus)),
            (Part::Consensus, self.consensus.deadline()),
            (Part::Views, self.views.deadline()),
            (Part::Supervision, self.supervision.deadline()),
            (Part::Shipping, self.shipping.deadline()),
        ];
        asks.into_iter().filter_map(|(part, at)| at.map(|at| Deadline { at, part })).min()
    }
}
