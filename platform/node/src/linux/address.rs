//! The cluster's address on this node: station, plane, guard and loopback, in a thread of their own, so that no command to the
//! kernel holds the engine up.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apus_dispatch::{Act, Block, Mac, Members, NOBODY, Notice, Station, StationConfig, Table as _};
use apus_engine::OpId;
use apus_os::Trace;
use apus_os::linux::{Choice, Guard, Lease, Port, Vip, choose, clock};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Say;
use super::machine::Seen;
use crate::hex::mac_text;
use crate::{Config, Setup, Vip as Wanted};

/// Foreign claims are looked for this often by the dispatcher, who answers them, and by the others, who count them.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_IDLE: Duration = Duration::from_secs(1);

/// The dispatcher follows a drain this much after it learned of it, in nanoseconds: others learn by the next heartbeat.
const LAST: u64 = 150_000_000;

/// What the address is told.
pub(super) enum Order {
    /// This node is the dispatcher until then, on the boot clock in nanoseconds.
    Lease { epoch: u64, until: u64 },
    /// It is no longer; answer.
    Release { op: OpId, epoch: u64 },
    /// What the cluster has agreed on.
    Seen(Seen),
    /// How it stands.
    Status { to: oneshot::Sender<Value> },
    /// Each frame from now on, with so many of its first bytes.
    Trace { bytes: usize, to: oneshot::Sender<io::Result<Trace>> },
    /// The table in use.
    Table { to: oneshot::Sender<Value> },
}

/// The thread. Dropping it takes the address off this machine.
pub(super) struct Address {
    orders: Option<Sender<Order>>,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Address {
    /// Sets everything up; answers to releases go to `answers`.
    pub(super) fn start(
        config: &Config,
        vip: &Wanted,
        answers: mpsc::UnboundedSender<OpId>,
        say: Say,
    ) -> io::Result<Self> {
        let own = config.own();
        let setup = Setup::from(vip);
        let port = Holding {
            name: vip.interface.clone(),
            mac: own.mac,
            plane: vip.plane.clone(),
            state: config.folder.join("address"),
            say: say.clone(),
        };
        let held = port.hold(&setup)?;
        let station = StationConfig {
            id: u8::try_from(own.id.0).unwrap_or_default(),
            node: own.id.0.into(),
            mac: own.mac,
            v4: setup.v4.map_or([0; 4], |v4| v4.octets()),
            v6: setup.v6.map_or([0; 16], |v6| v6.octets()),
            claim: [0; 6],
            key: setup.key,
            seed: vip.seed,
            log2_slots: setup.log2_slots,
        };
        let (orders, incoming) = channel();
        let (stop, stopped) = channel();
        let mut keeper = Keeper {
            first: setup,
            setup,
            station: Station::new(station),
            seen: 0,
            members: Members::default(),
            due: None,
            setting: None,
            port,
            held: Some(held),
            answers,
            say,
            armed: None,
        };
        let thread =
            std::thread::Builder::new().name("address".into()).spawn(move || keeper.work(&incoming, &stopped))?;
        Ok(Self { orders: Some(orders), stop, thread: Some(thread) })
    }

    /// Where orders go.
    pub(super) fn orders(&self) -> Sender<Order> {
        self.orders.clone().unwrap_or_else(|| channel().0)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The rules rest for so long before a new fence: while they change, the kernel lets no lease begin, and the fence follows each grant.
/// Until then the holder before, whose lease is over, is held by its own guard, and its epoch is refused by the plane.
const REST: Duration = Duration::from_millis(100);

/// The guard's rules, set by commands in a thread of their own: they take their time, and a new dispatcher has none.
struct Rules {
    to: Option<Sender<u64>>,
    /// The fence.
    wanted: u64,
    thread: Option<JoinHandle<()>>,
}

impl Rules {
    fn start(mut guard: Guard, say: Say) -> io::Result<Self> {
        let (to, from) = channel::<u64>();
        let thread = std::thread::Builder::new().name("rules".into()).spawn(move || {
            while let Ok(mut fence) = from.recv() {
                let until = Instant::now() + REST;
                loop {
                    match from.recv_timeout(until.saturating_duration_since(Instant::now())) {
                        Ok(newer) => fence = newer,
                        Err(RecvTimeoutError::Timeout) => break,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
                if let Err(error) = guard.fence(fence) {
                    say(&format!("the guard: {error}"));
                }
            }
        })?;
        Ok(Self { to: Some(to), wanted: 0, thread: Some(thread) })
    }

    fn want(&self) {
        if let Some(to) = &self.to {
            let _ = to.send(self.wanted);
        }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the address is held.
struct Holding {
    name: String,
    mac: Mac,
    plane: Option<String>,
    state: PathBuf,
    say: Say,
}

/// The address, held: as long as the value lives.
struct Held {
    /// Comes last, when the plane has a table, and goes first: a system that has the address answers by itself where nothing stands
    /// before it, also what another server only asks about.
    vip: Option<Vip>,
    /// What was before is in this file, also if it was a killed process that changed it.
    state: PathBuf,
    choice: Choice,
    lease: Lease,
    rules: Rules,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without a table the address was not taken; what a killed process left is undone all the same.
        if self.vip.is_none() {
            let _ = Vip::restore(&self.state);
        }
    }
}

impl Holding {
    fn hold(&self, setup: &Setup) -> io::Result<Held> {
        let Setup { v4, v6, log2_slots, .. } = *setup;
        let port = Port { name: self.name.clone(), mac: self.mac, v4, v6, log2_slots };
        let guard = Guard::new(&self.name, setup.v4, setup.v6)?;
        let choice = choose(&port, self.plane.as_deref())?;
        for (name, why) in &choice.tried {
            (self.say)(&format!("plane {name}: {why}"));
        }
        let lease = guard.lease()?;
        let rules = Rules::start(guard, self.say.clone())?;
        Ok(Held { vip: None, state: self.state.clone(), choice, lease, rules })
    }

    fn serve(&self, setup: &Setup) -> io::Result<Vip> {
        Vip::hold(&self.name, setup.v4, setup.v6, &self.state)
    }
}

struct Keeper {
    /// How the address is set up by this node's file, and now.
    first: Setup,
    setup: Setup,
    station: Station,
    /// How many sets of members there have been.
    seen: u64,
    /// Who serves, and when the station is told if that waits, in nanoseconds of the boot clock.
    members: Members,
    due: Option<u64>,
    /// What the log says of the address.
    setting: Option<Vec<u8>>,
    port: Holding,
    /// Nothing if the machine refused an address that was set.
    held: Option<Held>,
    answers: mpsc::UnboundedSender<OpId>,
    say: Say,
    /// The epoch in which this node is the dispatcher, and until when.
    armed: Option<(u64, u64)>,
}

impl Keeper {
    fn work(&mut self, orders: &Receiver<Order>, stopped: &Receiver<()>) {
        loop {
            self.look();
            self.act();
            let look = if self.armed.is_some() { LOOK } else { LOOK_IDLE };
            let own = self.due.into_iter().chain(self.station.deadline()).min();
            let due = own.map_or(look, |at| clock::left(at).min(look));
            match orders.recv_timeout(due) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => self.handle(Notice::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if stopped.try_recv().is_ok() {
                return;
            }
            let claims = self.held.as_mut().map(|held| held.choice.plane.claims()).unwrap_or_default();
            for claim in claims {
                self.handle(Notice::Claimed(claim));
            }
        }
    }

    fn handle(&mut self, notice: Notice) {
        self.station.handle(clock::boot(), notice);
    }

    fn told(&self, what: &str, result: io::Result<()>) -> bool {
        if let Err(error) = &result {
            (self.say)(&format!("{what}: {error}"));
        }
        result.is_ok()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Lease { epoch, until } => self.lease(epoch, until),
            Order::Release { op, epoch } => {
                self.handle(Notice::Released { epoch });
                self.act();
                let _ = self.answers.send(op);
                self.armed = None;
                let disarmed = self.held.as_mut().map_or(Ok(()), |held| held.lease.disarm());
                self.told("the guard", disarmed);
                (self.say)(&format!("no longer dispatcher, epoch {epoch}"));
            }
            Order::Seen(Seen { fence, members, setting }) => {
                if setting != self.setting {
                    self.setting = setting;
                    self.set_up();
                }
                self.handle(Notice::Fence { epoch: fence });
                if let Some(held) = &mut self.held {
                    held.rules.wanted = fence;
                    held.rules.want();
                }
                self.serve(members);
            }
            Order::Status { to } => {
                let _ = to.send(self.status());
            }
            Order::Trace { bytes, to } => {
                let none = || Err(io::Error::other("this node does not hold the address"));
                let _ = to.send(self.held.as_mut().map_or_else(none, |held| held.choice.plane.trace(bytes)));
            }
            Order::Table { to } => {
                let _ = to.send(table(self.station.block()));
            }
        }
    }

    fn lease(&mut self, epoch: u64, until: u64) {
        // The kernel first: what the plane sends without it is lost. Without a plane nothing is sent at all.
        let Some(held) = &mut self.held else { return };
        let armed = held.lease.arm(clock::left(until));
        if self.told("the guard", armed) {
            if self.armed.is_none_or(|(armed, _)| armed != epoch) {
                (self.say)(&format!("dispatcher, epoch {epoch}"));
            }
            self.armed = Some((epoch, until));
            self.handle(Notice::Lease { epoch, until });
        }
    }

    /// Other servers, or servers that drain.
    fn serve(&mut self, members: Members) {
        let old = std::mem::replace(&mut self.members, members);
        let now = clock::boot();
        let has = |all: &Members, id: u64| all.all().iter().any(|member| member.id == id);
        let drains = |all: &Members, id: u64| all.all().iter().any(|member| member.id == id && member.draining);
        if old != self.members && old.all().iter().all(|member| has(&self.members, member.id)) {
            // The dispatcher is the last to follow, if nobody died.
            let drained = self.members.all().iter().any(|member| member.draining && !drains(&old, member.id));
            if drained && self.armed.is_some() {
                self.due = Some(now.saturating_add(LAST));
                return;
            }
        }
        self.follow();
    }

    /// Tells the station who serves.
    fn follow(&mut self) {
        self.due = None;
        self.seen += 1;
        let members = self.members.clone();
        self.handle(Notice::Members { epoch: self.seen, members });
        self.act();
    }

    /// What is due by now.
    fn look(&mut self) {
        let now = clock::boot();
        if self.due.is_some_and(|due| due <= now) {
            self.follow();
        }
    }

    /// Sets the address up as the log says. Another address, or a table that the plane has no room for, is taken by everything anew;
    /// all else is a new table.
    fn set_up(&mut self) {
        let read = self.setting.as_deref().map_or(Ok(self.first), |setting| self.first.read(setting));
        let setup = match read {
            Ok(setup) => setup,
            Err(error) => {
                return (self.say)(&format!("`apus vip set`: {error}; this node is older than who set it: upgrade it"));
            }
        };
        let old = std::mem::replace(&mut self.setup, setup);
        if setup == old {
            return;
        }
        (self.say)(&format!("the address is set up anew: {}", setup.json()));
        if (setup.v4, setup.v6) != (old.v4, old.v6) || setup.log2_slots > old.log2_slots || self.held.is_none() {
            let wanted = self.held.as_ref().map(|held| held.rules.wanted);
            // First all of the old: both use the same port.
            self.held = None;
            match self.port.hold(&setup) {
                Ok(held) => self.held = Some(held),
                Err(error) => {
                    let mend = "this node serves nothing until `apus vip set` gives an address that it can hold";
                    (self.say)(&format!("the address: {error}; {mend}"));
                }
            }
            if let Some((held, wanted)) = self.held.as_mut().zip(wanted) {
                held.rules.wanted = wanted;
                held.rules.want();
                let stood = held.choice.plane.stand(&self.station.here());
                self.told("the plane", stood);
            }
            if let Some((epoch, until)) = self.armed {
                self.lease(epoch, until);
            }
        }
        let Setup { v4, v6, key, log2_slots } = setup;
        let (v4, v6) = (v4.map_or([0; 4], |v4| v4.octets()), v6.map_or([0; 16], |v6| v6.octets()));
        self.handle(Notice::Configure { key, v4, v6, log2_slots });
        self.act();
    }

    fn act(&mut self) {
        while let Some(act) = self.station.poll() {
            let Some(held) = &mut self.held else { continue };
            match act {
                Act::Publish(block) => {
                    let published = held.choice.plane.publish(&block, &self.station.here());
                    if self.told("the table", published) {
                        self.take();
                    }
                }
                Act::Stand(here) => {
                    let stood = held.choice.plane.stand(&here);
                    self.told("the plane", stood);
                }
                Act::Announce { frame } => {
                    let sent = held.choice.plane.send(&frame);
                    self.told("an announcement", sent);
                }
            }
        }
    }

    /// The plane has a table: the system may have the address.
    fn take(&mut self) {
        let Some(held) = &mut self.held else { return };
        if held.vip.is_none() {
            match self.port.serve(&self.setup) {
                Ok(vip) => held.vip = Some(vip),
                Err(error) => {
                    (self.say)(&format!(
                        "the address: {error}; this node serves nothing until its next table, or until it is restarted"
                    ));
                }
            }
        }
    }

    fn status(&mut self) -> Value {
        let here = self.station.here();
        let setup = self.setup.json();
        let Some(Held { choice, .. }) = &mut self.held else {
            return json!({"plane": null, "set_up": setup});
        };
        let counters = choice.plane.counters().unwrap_or_default();
        let tried: Vec<Value> = choice.tried.iter().map(|(name, why)| json!({"name": name, "why": why})).collect();
        json!({
            "plane": choice.plane.name(),
            "tried": tried,
            "set_up": setup,
            "dispatcher_for_ms": if here.lease == 0 { 0 } else { clock::left(here.lease).as_millis() },
            "epoch": here.epoch,
            "fence": here.fence,
            "counters": counters,
        })
    }
}

/// The table in use, for people.
fn table(block: &[u8]) -> Value {
    let Ok(block) = Block::new(block) else { return json!({"epoch": 0, "slots": 0, "servers": []}) };
    let head = block.head();
    let slots = u32::try_from(block.layout().slots).unwrap_or_default();
    let mut shares = std::collections::BTreeMap::<u16, (u32, u32)>::new();
    for number in 0..slots {
        let slot = block.slot(number);
        shares.entry(slot.server).or_default().0 += 1;
        if slot.former != NOBODY {
            shares.entry(slot.former).or_default().1 += 1;
        }
    }
    let servers: Vec<Value> = (0..)
        .map_while(|place| block.server(place).map(|mac| (place, mac)))
        .map(|(place, mac)| {
            let (serves, served) = shares.get(&place).copied().unwrap_or_default();
            json!({"mac": mac_text(mac), "slots": serves, "former": served})
        })
        .collect();
    json!({
        "epoch": head.epoch,
        "slots": slots,
        "key": format!("{:?}", head.key).to_lowercase(),
        "servers": servers,
    })
}
