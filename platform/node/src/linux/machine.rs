//! What the engine's host needs of this machine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use apus_dispatch::{self as dispatch, Members};
use apus_engine::diagnosis::Status;
use apus_engine::{
    Causes, Copy, Deadline, Engine, Event, Fact, GuardOrder, Input, Lane, Micros, NodeId, OpId, Outcome, ProcessOrder,
    Time, shipping, views,
};
use apus_host::{Hold, Machine};
use apus_os::linux::signals;
use apus_os::linux::timer::Timer;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::address::Order;
use super::cluster::Nodes;
use super::control::Serving;
use super::files::Files;
use super::held::Held;
use super::peers;
use super::programs::Programs;
use super::systemd::Manager;
use super::telling::Telling;
use super::{DISPATCHER, Say, now};
use crate::Member;

/// The engine, where the control socket sees it too, and what of it the address follows.
pub(super) struct Live {
    engine: Rc<RefCell<Held>>,
    address: Option<Sender<Order>>,
    nodes: Nodes,
    me: NodeId,
    told: Option<Seen>,
}

/// What the address follows: the newest grant's epoch, who serves, and how it is set up if the log says so.
#[derive(Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) fence: u64,
    pub(super) members: Members,
    pub(super) setting: Option<Vec<u8>>,
}

impl Live {
    pub(super) const fn new(
        engine: Rc<RefCell<Held>>,
        address: Option<Sender<Order>>,
        nodes: Nodes,
        me: NodeId,
    ) -> Self {
        Self { engine, address, nodes, me, told: None }
    }

    /// Tells the address what has changed: who serves, and which dispatcher is the oldest that is obeyed.
    fn tell(&mut self) {
        let Some(address) = &self.address else { return };
        let engine = self.engine.borrow();
        let Some(mut seen) = seen(&engine, &self.nodes.borrow(), self.me) else { return };
        if let Some(told) = &self.told
            && !self.is_connected(&engine)
        {
            seen.members = told.members.clone();
        }
        if self.told.as_ref() != Some(&seen) {
            let _ = address.send(Order::Seen(seen.clone()));
            self.told = Some(seen);
        }
    }

    /// Whether this node is with the majority. One that is cut off holds all others for dead, and while its lease lasts clients still
    /// reach it: a table of itself alone would end their connections with the others.
    fn is_connected(&self, engine: &Engine) -> bool {
        let Some((_, log, ..)) = engine.look() else { return false };
        let voters = &log.membership().voters;
        let up = voters_up(engine, self.me);
        let heard = match log.leads() {
            Some(_) => log.quorum_contact(now()).is_some_and(|at| now().since(at) < LOST),
            None => log.leader().is_some(),
        };
        heard && 2 * up > voters.len()
    }
}

/// Whether this node's diagnosis holds another for gone.
pub(super) fn is_down(engine: &Engine, node: NodeId) -> bool {
    let status = engine.look().and_then(|(diagnosis, ..)| diagnosis.status(node));
    matches!(status, Some((Status::Down | Status::Left, _)))
}

/// How many voters are not down; this node is not.
pub(super) fn voters_up(engine: &Engine, me: NodeId) -> usize {
    let voters = engine.look().map(|(_, log, ..)| log.membership().voters.iter());
    voters.into_iter().flatten().filter(|node| **node == me || !is_down(engine, **node)).count()
}

/// A leader that heard no majority for so long may be cut off.
const LOST: Micros = Micros::from_millis(250);

fn member(node: &Member, draining: bool) -> dispatch::Member {
    dispatch::Member { id: node.id.0.into(), mac: node.mac, weight: node.weight, draining }
}

/// Servers are the members of the cluster that are not down; who is drained takes nothing new.
pub(super) fn seen(engine: &Engine, nodes: &[Member], me: NodeId) -> Option<Seen> {
    let (_, log, ..) = engine.look()?;
    let state = log.state();
    let serves = |node: NodeId| log.membership().contains(node) && (node == me || !is_down(engine, node));
    let members = nodes.iter().filter(|node| serves(node.id));
    let members = members.map(|node| member(node, state.drained.contains(&node.id)));
    let fence = state.grants.get(&DISPATCHER).map_or(0, |grant| grant.epoch.0);
    let members = Members::new(members).unwrap_or_default();
    Some(Seen { fence, members, setting: state.settings.get(&DISPATCHER).cloned() })
}

impl Hold for Live {
    fn with<T>(&mut self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let result = act(self.engine.borrow_mut().lend());
        self.tell();
        Some(result)
    }

    fn feed(&mut self, now: Time, input: Input) -> Option<()> {
        self.engine.borrow_mut().handle(now, input);
        self.tell();
        Some(())
    }
}

/// What ends a node, and what has it take its own place.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on they are heard.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until one that ends a node has come.
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Before this process becomes another program: who is told to end from now on, ends. Tells whether it was told so before.
    pub(super) async fn give_way(&mut self) -> bool {
        signals::give_way();
        tokio::time::timeout(LATE, self.end()).await.is_ok()
    }
}

/// A signal that has come is heard after so long.
const LATE: Duration = Duration::from_millis(5);

/// Boot clock, address, programs, signals.
pub(super) struct LiveMachine {
    address: Option<Sender<Order>>,
    programs: Rc<Programs>,
    files: Rc<Files>,
    inputs: mpsc::UnboundedReceiver<Input>,
    reboot: Option<Vec<String>>,
    done: mpsc::UnboundedReceiver<OpId>,
    waiting: VecDeque<Input>,
    nudge: Rc<Notify>,
    timer: Timer,
    signals: Signals,
    say: Say,
    telling: Option<Telling>,
    manager: Manager,
    /// Puts events down, and answers peers.
    serving: Serving,
}

impl LiveMachine {
    pub(super) fn new(
        address: Option<Sender<Order>>,
        done: mpsc::UnboundedReceiver<OpId>,
        (programs, files, inputs): (Rc<Programs>, Rc<Files>, mpsc::UnboundedReceiver<Input>),
        reboot: Option<Vec<String>>,
        say: Say,
        serving: Serving,
        (manager, signals): (Manager, Signals),
    ) -> io::Result<Self> {
        let (nudge, waiting, timer) = (serving.nudge.clone(), VecDeque::new(), Timer::new()?);
        let telling = None;
        Ok(Self {
            address,
            programs,
            files,
            inputs,
            reboot,
            done,
            waiting,
            nudge,
            timer,
            signals,
            say,
            telling,
            manager,
            serving,
        })
    }

    /// Tells everything in a file.
    pub(super) fn telling(mut self, telling: Option<Telling>) -> Self {
        self.telling = telling;
        self
    }

    fn tell(&self, tell: impl FnOnce(&Telling)) {
        if let Some(telling) = &self.telling {
            tell(telling);
        }
    }
}

impl Machine for LiveMachine {
    type Error = Infallible;

    fn now(&self) -> Time {
        let now = now();
        self.tell(|telling| telling.step(now));
        now
    }

    fn guard(&mut self, order: GuardOrder) {
        self.tell(|telling| telling.guard(order));
        self.files.guard(order);
        let address = match (order, &self.address) {
            (GuardOrder::Arm { resource: DISPATCHER, epoch, until }, Some(address)) => {
                Some((address, Order::Lease { epoch: epoch.0, until: until.0.saturating_mul(1_000) }))
            }
            (GuardOrder::Disarm { op, resource: DISPATCHER, epoch }, Some(address)) => {
                Some((address, Order::Release { op, epoch: epoch.0 }))
            }
            _ => None,
        };
        match (address, order) {
            (Some((address, order)), _) => {
                let _ = address.send(order);
            }
            (None, order) if self.programs.guard(order) => {}
            (None, GuardOrder::Arm { .. }) => {}
            (None, GuardOrder::Disarm { op, .. }) => {
                self.waiting.push_back(Input::Done { op, outcome: Outcome::Ok });
            }
        }
    }

    fn process(&mut self, op: OpId, copy: Copy, order: ProcessOrder) {
        self.tell(|telling| telling.process(op, copy, order));
        if !self.programs.process(op, copy, order) {
            self.waiting.push_back(Input::Done { op, outcome: Outcome::ProcessFailed });
        }
    }

    fn files(&mut self, order: shipping::Order) {
        self.files.order(order);
    }

    /// In a thread of its own, so that it is waited for.
    fn reboot(&mut self, _: Causes) {
        let Some(hook) = self.reboot.clone() else { return };
        let say = self.say.clone();
        say(&format!("the reboot hook: {}", hook.join(" ")));
        tokio::task::spawn_blocking(move || {
            let Some((name, args)) = hook.split_first() else { return };
            let mut hook = std::process::Command::new(name);
            // The manager that it would speak to is this node's.
            for key in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
                hook.env_remove(key);
            }
            match hook.args(args).stdin(std::process::Stdio::null()).output() {
                Ok(done) if done.status.success() => {}
                Ok(done) => say(&format!("the reboot hook: {}", String::from_utf8_lossy(&done.stderr).trim())),
                Err(error) => say(&format!("the reboot hook: {error}")),
            }
        });
    }

    fn event(&mut self, event: Event) {
        self.tell(|telling| telling.event(&event));
        self.serving.view.event(&self.serving.engine.borrow(), &event);
        let quiet =
            matches!(event.fact, Fact::Diagnosis(_) | Fact::Consensus(_) | Fact::Views(views::Fact::Noted { .. }));
        if !quiet {
            (self.say)(&format!("{:?}", event.fact));
        }
    }

    fn own_packet(&mut self) -> Option<(NodeId, Lane, Vec<u8>)> {
        self.serving.view.peers.poll().map(|(to, packet)| (to, Lane::Log, packet))
    }

    fn inbound(&mut self, input: Input) -> Option<Input> {
        match input {
            Input::Packet { from, datagram } if peers::is_ours(&datagram) => {
                self.serving.view.peers.take(from, &datagram, |question| self.serving.answer_peer(from, question));
                None
            }
            input => Some(input),
        }
    }

    /// Whoever looks after this node is fed here, and nowhere else.
    async fn next(&mut self, deadline: Option<Deadline>) -> Option<Input> {
        self.manager.turn(|| self.serving.brief());
        self.files.turn(&self.programs);
        if let Some(input) = self.waiting.pop_front() {
            return Some(input);
        }
        // What falls into the same millisecond is done together.
        let wait = |deadline: Deadline| Time(deadline.at.0.next_multiple_of(1_000)).since(now());
        let at = deadline.map(|deadline| Instant::now() + Duration::from_micros(wait(deadline).0));
        let at = at.into_iter().chain(self.manager.due()).min();
        if let Some(at) = at {
            self.timer.reset(at);
        }
        let input = loop {
            break tokio::select! {
                biased;
                _ = self.signals.term.recv() => None,
                _ = self.signals.interrupt.recv() => None,
                _ = self.signals.hangup.recv() => {
                    if !self.serving.may_begin_anew().await {
                        self.manager.tell("STATUS=not reloaded: its configuration is wrong, see its output");
                        continue;
                    }
                    self.serving.anew.set(true);
                    None
                }
                Some(op) = self.done.recv() => Some(Input::Done { op, outcome: Outcome::Ok }),
                Some(input) = self.inputs.recv() => Some(input),
                () = self.nudge.notified() => Some(Input::Tick),
                () = self.timer.over(), if at.is_some() => Some(Input::Tick),
            };
        };
        match &input {
            None if self.serving.anew.get() => self.manager.reloading(),
            None => self.manager.stopping(),
            Some(_) => {}
        }
        if let Some(input) = &input {
            self.tell(|telling| telling.input(input));
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, exit};

    use super::*;

    const CASE: &str = "APUS_TEST_SIGNALS";
    const TOLD: i32 = 3;
    const GOES_ON: i32 = 4;

    /// A process that gives way, and is sent a signal by itself before or after that.
    fn gives_way(case: &str) {
        let send = |name: &str| {
            let own = std::process::id().to_string();
            Command::new("kill").args([name, &own]).status().expect("kill");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (mut heard, mut late) = (Signals::new().expect("signals"), Signals::new().expect("signals"));
            // As the loop of the engine does, which looks no more once it was sent SIGHUP.
            send("-HUP");
            heard.hangup.recv().await;
            if case == "before" {
                send("-TERM");
            }
            if late.give_way().await {
                exit(TOLD);
            }
            match case {
                "after" => send("-TERM"),
                "hangup" => send("-HUP"),
                _ => {}
            }
            exit(GOES_ON);
        });
    }

    #[test]
    fn no_signal_is_lost_in_the_last_moment_before_another_program() {
        if let Ok(case) = std::env::var(CASE) {
            return gives_way(&case);
        }
        let ended = |case: &str| {
            let own = std::env::current_exe().expect("a program");
            let name = "linux::machine::tests::no_signal_is_lost_in_the_last_moment_before_another_program";
            let out = Command::new(own).args(["--exact", name]).env(CASE, case).output().expect("it runs");
            (out.status.code(), out.status.signal())
        };
        assert_eq!(ended("none"), (Some(GOES_ON), None));
        assert_eq!(ended("before"), (Some(TOLD), None), "heard last of all");
        assert_eq!(ended("after"), (None, Some(15)), "ended by it");
        assert_eq!(ended("hangup"), (Some(GOES_ON), None), "the next program is told anew");
    }
}
