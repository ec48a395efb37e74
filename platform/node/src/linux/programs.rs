//! The copies of services that may run here: for each a task that has the connection to its keeper, if there is one.
//!
//! Orders that have no answer yet are kept, and given again to whoever keeps the copy after a break: each may be given twice. A
//! keeper that is gone is replaced before anything is told: only the new one knows that nothing is left of the copy.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use apus_engine::{
    Copy, Epoch, ExitCause, GuardOrder, Input, Micros, OpId, Outcome, ProcessInput, ProcessOrder, ResourceId,
    ServiceId, ThreadId, Time,
};
use apus_os::linux::program;
use apus_os::program::{
    Cause, NO_LEASE, Order, Report, Runs, Spec, State, VERSION, decode_report, encode_order, frame_length,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use super::Say;
use crate::{Config, slot_resource};

/// A keeper is asked for its state this often, and is given up after so many questions without an answer.
const ASK: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 5;
/// Between two tries to have a keeper.
const AGAIN: Duration = Duration::from_millis(20);
/// How often in a row before a start is called failed.
const TRIES: u32 = 150;
/// What the file has no more has so long to end, in microseconds.
const OLD_GRACE: u64 = 5_000_000;
/// The number of an order that nobody waits for. An engine's own end in two bits that say which part asked, from 1.
const NOBODY: u64 = u64::MAX;

/// What is known of a copy, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What runs, by its keeper's word.
    pub(super) runs: Option<Runs>,
    /// Of that its keeper has told no more than that it began: its part and its lease follow.
    pub(super) begun: bool,
    pub(super) starts: u32,
    pub(super) last: Option<apus_os::program::End>,
    /// What an order told last: limits that do not hold, where evidence is, what failed.
    pub(super) note: String,
    pub(super) keeper: u32,
    /// The present engine has asked for it.
    pub(super) claimed: bool,
}

impl Known {
    /// Whether a lease ends what runs; `None`: nothing runs, or its keeper has not told yet.
    pub(super) fn fenced(&self) -> Option<bool> {
        self.runs.filter(|_| !self.begun).map(|runs| runs.until != NO_LEASE)
    }

    /// What is left of the lease of an active copy, in nanoseconds.
    pub(super) fn lease(&self, now: u64) -> Option<u64> {
        let runs = self.runs.filter(|runs| runs.active && self.fenced() == Some(true));
        runs.map(|runs| runs.until.saturating_sub(now))
    }
}

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Order>,
    /// Orders that are not answered yet, by number.
    open: BTreeSet<u64>,
    /// Its keeper told what it keeps, or there is none.
    heard: bool,
    /// The newest lease, by grant.
    lease: Option<(Epoch, u64)>,
    known: Known,
}

struct One {
    copy: Copy,
    spec: Spec,
    fenced: bool,
    folder: PathBuf,
    group: String,
    shared: RefCell<Shared>,
    nudge: Notify,
    inputs: mpsc::UnboundedSender<Input>,
    say: Say,
}

/// All copies that may run here.
pub(super) struct Programs {
    copies: BTreeMap<Copy, Rc<One>>,
    slots: BTreeMap<ResourceId, Copy>,
}

impl Programs {
    /// Looks for what runs already; what programs do goes to `inputs`.
    pub(super) fn start(config: &Config, inputs: &mpsc::UnboundedSender<Input>, say: &Say) -> Self {
        let mut programs = Self { copies: BTreeMap::new(), slots: BTreeMap::new() };
        for service in &config.services {
            for slot in 0..service.engine.degree {
                let copy = Copy { service: service.engine.id, slot };
                let name = format!("{}.{slot}", service.engine.name);
                let one = Rc::new(One {
                    copy,
                    spec: super::files::captured(config, service.engine.id, service.copy(slot)),
                    fenced: service.fenced,
                    folder: config.folder.join("programs").join(&name),
                    group: format!("{}.{}.{name}", config.cluster, config.me.0),
                    shared: RefCell::new(Shared::default()),
                    nudge: Notify::new(),
                    inputs: inputs.clone(),
                    say: say.clone(),
                });
                programs.slots.insert(slot_resource(service.engine.id, slot), copy);
                programs.copies.insert(copy, one.clone());
                tokio::task::spawn_local(one.attend());
            }
        }
        programs.forget(config, inputs, say);
        programs
    }

    /// Copies of services that the file has no more are stopped.
    fn forget(&self, config: &Config, inputs: &mpsc::UnboundedSender<Input>, say: &Say) {
        let folders = std::fs::read_dir(config.folder.join("programs")).into_iter().flatten().flatten();
        for folder in folders.map(|entry| entry.path()) {
            if self.copies.values().any(|one| one.folder == folder) {
                continue;
            }
            let old = Rc::new(One {
                copy: Copy { service: ServiceId(u16::MAX), slot: 0 },
                spec: Spec::default(),
                fenced: true,
                folder,
                group: String::new(),
                shared: RefCell::new(Shared::default()),
                nudge: Notify::new(),
                inputs: inputs.clone(),
                say: say.clone(),
            });
            old.order(Order::Stop { op: NOBODY, grace: OLD_GRACE });
            old.order(Order::Leave);
            tokio::task::spawn_local(old.attend());
        }
    }

    /// Leases of slots; `false` if the resource is none.
    pub(super) fn guard(&self, order: GuardOrder) -> bool {
        let (GuardOrder::Arm { resource, .. } | GuardOrder::Disarm { resource, .. }) = order;
        let Some(one) = self.slots.get(&resource).and_then(|copy| self.copies.get(copy)) else { return false };
        match order {
            GuardOrder::Arm { epoch, until, .. } => {
                let until = one.until(until);
                let newer = {
                    let mut shared = one.shared.borrow_mut();
                    let newer = shared.lease.is_none_or(|(known, _)| known <= epoch);
                    if newer {
                        shared.lease = Some((epoch, until));
                        if let Some(runs) = shared.known.runs.as_mut().filter(|runs| runs.active) {
                            runs.until = until;
                        }
                    }
                    newer
                };
                if newer {
                    one.order(Order::Lease { epoch: epoch.0, until });
                }
            }
            GuardOrder::Disarm { op, epoch, .. } => {
                one.shared.borrow_mut().lease.take_if(|(known, _)| *known <= epoch);
                one.order(Order::Release { op: op.0, epoch: epoch.0 });
            }
        }
        true
    }

    /// Does something to a program; `false` if there is no such copy.
    pub(super) fn process(&self, OpId(op): OpId, copy: Copy, order: ProcessOrder) -> bool {
        let Some(one) = self.copies.get(&copy) else { return false };
        let lease = |epoch: Epoch| {
            let lease = one.shared.borrow().lease;
            lease.filter(|(known, _)| *known >= epoch).map_or(0, |(_, until)| until)
        };
        let order = match order {
            ProcessOrder::Start { active, epoch } => {
                one.shared.borrow_mut().known.claimed = true;
                let until = if active { lease(epoch) } else { NO_LEASE };
                Order::Start { op, spec: Box::new(one.spec.clone()), active, epoch: epoch.0, until }
            }
            ProcessOrder::Promote { epoch } => Order::Promote { op, epoch: epoch.0, until: lease(epoch) },
            ProcessOrder::Stop { grace } => Order::Stop { op, grace: grace.0 },
            ProcessOrder::Capture => Order::Capture { op },
        };
        one.order(order);
        true
    }

    /// What is known of a copy.
    pub(super) fn known(&self, copy: Copy) -> Option<Known> {
        self.copies.get(&copy).map(|one| one.shared.borrow().known.clone())
    }

    /// Whether nothing of a copy runs, or is about to: for certain.
    pub(super) fn is_gone(&self, copy: Copy) -> bool {
        self.copies.get(&copy).is_none_or(|one| {
            let shared = one.shared.borrow();
            shared.heard && shared.known.runs.is_none() && shared.open.is_empty()
        })
    }

    /// Copies that an earlier daemon left and the present engine has not asked for.
    pub(super) fn unclaimed(&self) -> Vec<Copy> {
        let unclaimed = |one: &One| {
            let known = &one.shared.borrow().known;
            !known.claimed && known.runs.is_some_and(|runs| !runs.ending)
        };
        self.copies.iter().filter(|(_, one)| unclaimed(one)).map(|(copy, _)| *copy).collect()
    }

    /// Ends one of them.
    pub(super) fn end(&self, copy: Copy) {
        if let Some(one) = self.copies.get(&copy) {
            (one.say)(&format!("{}: nobody has claimed the copy that runs here: it is stopped", one.name()));
            one.order(Order::Stop { op: NOBODY, grace: one.spec.grace });
        }
    }
}

/// The number by which an order is answered.
const fn number(order: &Order) -> Option<u64> {
    match order {
        Order::Start { op, .. }
        | Order::Promote { op, .. }
        | Order::Release { op, .. }
        | Order::Stop { op, .. }
        | Order::Capture { op } => Some(*op),
        Order::Hello { .. } | Order::Lease { .. } | Order::Leave => None,
    }
}

/// Why a connection ends.
enum Break {
    /// The keeper is gone, or speaks what is not understood.
    Gone,
    /// It does not answer.
    Silent,
}

impl One {
    fn name(&self) -> String {
        format!("{}.{}", self.spec.name, self.spec.slot)
    }

    /// On the boot clock in nanoseconds.
    const fn until(&self, until: Time) -> u64 {
        if self.fenced { until.0.saturating_mul(1_000) } else { NO_LEASE }
    }

    fn order(&self, order: Order) {
        {
            let mut shared = self.shared.borrow_mut();
            shared.open.extend(number(&order));
            shared.waiting.push_back(order);
        }
        self.nudge.notify_one();
    }

    fn tell(&self, what: ProcessInput) {
        let _ = self.inputs.send(Input::Process { copy: self.copy, what });
    }

    fn answer(&self, op: u64, outcome: Outcome) {
        self.shared.borrow_mut().open.remove(&op);
        if op != NOBODY {
            let _ = self.inputs.send(Input::Done { op: OpId(op), outcome });
        }
    }

    /// For as long as the node runs.
    async fn attend(self: Rc<Self>) {
        // Given, and not answered yet.
        let mut given: VecDeque<Order> = VecDeque::new();
        // Something ran when the connection broke.
        let mut ran = false;
        let mut tries = 0;
        loop {
            let stream = match UnixStream::connect(self.folder.join(program::SOCKET)).await {
                Ok(stream) => stream,
                Err(_) if !given.is_empty() || ran => {
                    tries += 1;
                    match self.launch().await {
                        Ok(()) => {}
                        Err(why) if tries < TRIES => {
                            if tries == 1 {
                                self.shared.borrow_mut().known.note.clone_from(&why);
                            }
                            tokio::time::sleep(AGAIN).await;
                        }
                        Err(why) => {
                            (self.say)(&format!("{}: {why}", self.name()));
                            self.refuse(&mut given, &why);
                            tries = 0;
                            tokio::time::sleep(ASK).await;
                        }
                    }
                    continue;
                }
                Err(_) => {
                    // Nothing is kept and nothing is wanted.
                    self.shared.borrow_mut().heard = true;
                    self.nudge.notified().await;
                    self.take(&mut given);
                    continue;
                }
            };
            let keeper = stream.peer_cred().ok().and_then(|peer| peer.pid());
            let broke = self.speak(stream, &mut given, &mut ran, &mut tries).await;
            if let (Break::Silent, Some(keeper)) = (broke, keeper.and_then(|pid| u32::try_from(pid).ok())) {
                (self.say)(&format!(
                    "{}: its keeper does not answer: it is replaced, and the copy with it",
                    self.name()
                ));
                program::end_keeper(keeper, &self.folder);
            }
        }
    }

    /// Takes what waits; without a keeper most of it is done by that.
    fn take(&self, given: &mut VecDeque<Order>) {
        let waiting = std::mem::take(&mut self.shared.borrow_mut().waiting);
        for order in waiting {
            match order {
                Order::Start { .. } => given.push_back(order),
                Order::Stop { .. } | Order::Release { .. } if !given.is_empty() => given.push_back(order),
                Order::Stop { op, .. } | Order::Release { op, .. } | Order::Capture { op } => {
                    self.answer(op, Outcome::Ok);
                }
                Order::Promote { op, .. } => self.answer(op, Outcome::ProcessFailed),
                Order::Hello { .. } | Order::Lease { .. } | Order::Leave => {}
            }
        }
    }

    /// No keeper can be had: what cannot be known is called failed, and stops wait on.
    fn refuse(&self, given: &mut VecDeque<Order>, why: &str) {
        self.shared.borrow_mut().known.note = why.into();
        given.retain(|order| match order {
            Order::Start { op, .. } | Order::Promote { op, .. } => {
                self.answer(*op, Outcome::ProcessFailed);
                false
            }
            Order::Capture { op } => {
                self.answer(*op, Outcome::Ok);
                false
            }
            _ => true,
        });
    }

    async fn launch(&self) -> Result<(), String> {
        let (folder, group) = (self.folder.clone(), self.group.clone());
        let launched = tokio::task::spawn_blocking(move || {
            // What runs, even if its file was replaced meanwhile.
            let own = Path::new("/proc/self/exe");
            program::launch(&[own.as_os_str(), OsStr::new("keep")], &folder, &group)
        });
        match launched.await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Speaks with a keeper until the connection breaks.
    async fn speak(
        &self,
        mut stream: UnixStream,
        given: &mut VecDeque<Order>,
        ran: &mut bool,
        tries: &mut u32,
    ) -> Break {
        let mut unsent = encode_order(&Order::Hello { version: VERSION });
        let mut unread: Vec<u8> = Vec::new();
        let mut bytes = vec![0; 16_384];
        let mut greeted = false;
        // Looks without a word between; a node that stood still itself has had one look only.
        let mut silent: u32 = 0;
        let mut ask = tokio::time::interval(ASK);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (mut from, mut to) = stream.split();
            tokio::select! {
                biased;
                read = from.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => return Break::Gone,
                    Ok(many) => {
                        silent = 0;
                        unread.extend(&bytes[..many]);
                    }
                },
                written = to.write(&unsent), if !unsent.is_empty() => match written {
                    Ok(many) => {
                        unsent.drain(..many);
                    }
                    Err(_) => return Break::Gone,
                },
                () = self.nudge.notified(), if greeted => {}
                _ = ask.tick() => {
                    silent += 1;
                    if silent > PATIENCE {
                        return Break::Silent;
                    }
                    if greeted {
                        unsent.extend(encode_order(&Order::Hello { version: VERSION }));
                    }
                }
            }
            loop {
                let length = match frame_length(&unread) {
                    Ok(Some(length)) if unread.len() >= length => length,
                    Ok(_) => break,
                    Err(_) => return Break::Gone,
                };
                let frame: Vec<u8> = unread.drain(..length).collect();
                let Ok(report) = decode_report(&frame) else { return Break::Gone };
                if let Report::State(state) = &report
                    && !greeted
                {
                    greeted = true;
                    *tries = 0;
                    self.greet(state, given, *ran, &mut unsent);
                }
                self.hear(report, given);
            }
            if greeted {
                *ran = self.shared.borrow().known.runs.is_some();
                let waiting = std::mem::take(&mut self.shared.borrow_mut().waiting);
                for order in waiting {
                    unsent.extend(encode_order(&order));
                    if number(&order).is_some() {
                        given.push_back(order);
                    }
                }
            }
        }
    }

    /// A keeper's first word: what it keeps, and what it has to be told anew.
    fn greet(&self, state: &State, given: &mut VecDeque<Order>, ran: bool, unsent: &mut Vec<u8>) {
        match &state.runs {
            Some(runs) => {
                let known = self.shared.borrow().known.claimed;
                if !known {
                    (self.say)(&format!("{}: process {} runs already: it is kept", self.name(), runs.main.pid));
                }
            }
            None if ran => {
                (self.say)(&format!("{}: its keeper was gone, and the copy with it", self.name()));
                let started = given.iter().position(|order| matches!(order, Order::Start { .. }));
                match started.and_then(|at| given.remove(at)).as_ref().and_then(number) {
                    Some(op) => self.answer(op, Outcome::ProcessFailed),
                    None => {
                        let cause = state.last.map_or(ExitCause::Signal(9), |end| exit(end.cause));
                        self.tell(ProcessInput::Exited(cause));
                    }
                }
            }
            None => {}
        }
        let lease = self.shared.borrow().lease;
        if let Some((epoch, until)) = lease {
            unsent.extend(encode_order(&Order::Lease { epoch: epoch.0, until }));
        }
        for order in given.iter() {
            let order = match order.clone() {
                // The lease has gone on meanwhile.
                Order::Start { op, spec, active: true, epoch, until } => {
                    let until = lease.filter(|(known, _)| known.0 >= epoch).map_or(until, |(_, newer)| newer);
                    Order::Start { op, spec, active: true, epoch, until }
                }
                order => order,
            };
            unsent.extend(encode_order(&order));
        }
    }

    fn hear(&self, report: Report, given: &mut VecDeque<Order>) {
        let mut shared = self.shared.borrow_mut();
        let known = &mut shared.known;
        match report {
            Report::State(state) => {
                shared.heard = true;
                let known = &mut shared.known;
                (known.runs, known.starts, known.last) = (state.runs, state.starts, state.last);
                known.begun = false;
                known.keeper = state.keeper.pid;
            }
            Report::Done { op, wrong, note } => {
                let at = given.iter().position(|order| number(order) == Some(op));
                match at.and_then(|at| given.remove(at)) {
                    Some(Order::Stop { .. }) => known.runs = None,
                    Some(Order::Release { .. }) if known.runs.is_some_and(|runs| runs.active) => known.runs = None,
                    Some(_) => {}
                    // Not of this connection, or of nobody.
                    None => return,
                }
                if let Some(wrong) = &wrong {
                    (self.say)(&format!("{}: {wrong}", self.name()));
                } else if !note.is_empty() {
                    (self.say)(&format!("{}: {note}", self.name()));
                }
                if wrong.is_some() || !note.is_empty() {
                    known.note = wrong.clone().unwrap_or(note);
                }
                drop(shared);
                self.answer(op, if wrong.is_some() { Outcome::ProcessFailed } else { Outcome::Ok });
            }
            Report::Began { pid, since } => {
                let main = apus_os::program::Identity { pid, began: 0 };
                let old = known.runs.filter(|runs| runs.main.pid == pid);
                known.starts = known.starts.saturating_add(u32::from(old.is_none()));
                let fresh = Runs { main, active: false, epoch: 0, until: NO_LEASE, since, ready: false, ending: false };
                known.begun |= old.is_none();
                known.runs = Some(old.unwrap_or(fresh));
                // The rest of it.
                shared.waiting.push_back(Order::Hello { version: VERSION });
                self.nudge.notify_one();
            }
            Report::Ready => {
                if let Some(runs) = &mut known.runs {
                    runs.ready = true;
                }
                drop(shared);
                self.tell(ProcessInput::Ready);
            }
            Report::Beat { thread, timeout } => {
                drop(shared);
                self.tell(ProcessInput::Heartbeat { thread: ThreadId(thread), timeout: Micros(timeout) });
            }
            Report::Ended(end) => {
                known.last = Some(end);
                known.runs = None;
                drop(shared);
                self.tell(ProcessInput::Exited(exit(end.cause)));
            }
        }
    }
}

const fn exit(cause: Cause) -> ExitCause {
    match cause {
        Cause::Code(code) => ExitCause::Code(code),
        Cause::Signal(signal) => ExitCause::Signal(signal),
        Cause::OutOfMemory => ExitCause::OutOfMemory,
        Cause::Guard => ExitCause::Guard,
        // The keeper was told to end by the system, or another spec took its place.
        Cause::Stopped => ExitCause::Signal(15),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use apus_os::program::Identity;

    use super::*;

    /// A copy that nobody keeps, and what it tells the engine.
    fn one() -> (One, mpsc::UnboundedReceiver<Input>) {
        let (inputs, told) = mpsc::unbounded_channel();
        let one = One {
            copy: Copy { service: ServiceId(0), slot: 0 },
            spec: Spec::default(),
            fenced: true,
            folder: PathBuf::new(),
            group: String::new(),
            shared: RefCell::new(Shared::default()),
            nudge: Notify::new(),
            inputs,
            say: Arc::new(|_| {}),
        };
        (one, told)
    }

    #[test]
    fn whether_a_lease_ends_a_program_is_not_told_before_its_keeper_does() {
        const SECOND: u64 = 1_000_000_000;
        let (one, _told) = one();
        let look = || {
            let shared = one.shared.borrow();
            (shared.known.runs.map(|runs| runs.main.pid), shared.known.fenced(), shared.known.lease(4 * SECOND))
        };
        let began = |pid| one.hear(Report::Began { pid, since: SECOND }, &mut VecDeque::new());
        let state = |pid, until| {
            let main = Identity { pid, began: 9 };
            let runs = Runs { main, active: true, epoch: 3, until, since: SECOND, ready: false, ending: false };
            one.hear(Report::State(State { runs: Some(runs), starts: 1, ..State::default() }), &mut VecDeque::new());
        };
        assert_eq!(look(), (None, None, None));
        began(7);
        assert_eq!(look(), (Some(7), None, None), "it runs; no more is known");
        assert_eq!(one.shared.borrow_mut().waiting.pop_front(), Some(Order::Hello { version: VERSION }), "it is asked");
        state(7, 5 * SECOND);
        assert_eq!(look(), (Some(7), Some(true), Some(SECOND)));
        // Adopted: what was known of it is true still.
        began(7);
        assert_eq!(look(), (Some(7), Some(true), Some(SECOND)));
        // Another one.
        began(8);
        assert_eq!(look(), (Some(8), None, None));
        state(8, NO_LEASE);
        assert_eq!(look(), (Some(8), Some(false), None), "it has none");
    }
}
