//! The cluster's address on this node: station, plane, guard and loopback, in a thread of their own, so that no command to the
//! kernel holds the engine up.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use apus_dispatch::{Act, Block, Key, Members, NOBODY, Notice, Station, StationConfig, Table as _};
use apus_engine::OpId;
use apus_os::linux::{Choice, Guard, Lease, Port, Vip, choose, clock};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Say;
use crate::{Config, Vip as Wanted};

/// Foreign claims are looked for this often.
const LOOK: Duration = Duration::from_millis(50);

/// What the address is told.
pub(super) enum Order {
    /// This node is the dispatcher until then, on the boot clock in nanoseconds.
    Lease { epoch: u64, until: u64 },
    /// It is no longer; answer.
    Release { op: OpId, epoch: u64 },
    /// The oldest dispatcher that is obeyed, and who serves.
    Seen { fence: u64, members: Members },
    /// Another way to choose servers.
    Set { key: Option<Key>, log2_slots: Option<u8> },
    /// How it stands.
    Status { to: oneshot::Sender<Value> },
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
        let port = Port { name: vip.interface.clone(), mac: own.mac, v4: vip.v4, v6: vip.v6 };
        let guard = Guard::new(&vip.interface, vip.v4, vip.v6)?;
        let held = Vip::hold(&vip.interface, vip.v4, vip.v6, &config.folder.join("address"))?;
        let choice = choose(&port, vip.plane.as_deref())?;
        for (name, why) in &choice.tried {
            say(&format!("plane {name}: {why}"));
        }
        let station = StationConfig {
            id: u8::try_from(own.id.0).unwrap_or_default(),
            node: own.id.0.into(),
            mac: own.mac,
            v4: vip.v4.map_or([0; 4], |v4| v4.octets()),
            v6: vip.v6.map_or([0; 16], |v6| v6.octets()),
            claim: [0; 6],
            key: vip.key,
            seed: vip.seed,
            log2_slots: vip.log2_slots,
        };
        let lease = guard.lease()?;
        let rules = Rules::start(guard, say.clone())?;
        let (orders, incoming) = channel();
        let (stop, stopped) = channel();
        let mut keeper = Keeper {
            config: station,
            station: Station::new(station),
            seen: 0,
            choice,
            lease,
            rules,
            _held: held,
            answers,
            say,
            armed: 0,
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

/// The guard's rules, set by commands in a thread of their own: they take their time, and a new dispatcher has none.
struct Rules {
    to: Option<Sender<(u64, bool)>>,
    /// The fence, and whether resets are kept back.
    wanted: (u64, bool),
    thread: Option<JoinHandle<()>>,
}

impl Rules {
    fn start(mut guard: Guard, say: Say) -> io::Result<Self> {
        let (to, from) = channel::<(u64, bool)>();
        let thread = std::thread::Builder::new().name("rules".into()).spawn(move || {
            while let Ok(first) = from.recv() {
                let (fence, keep_back) = from.try_iter().last().unwrap_or(first);
                for result in [guard.keep_back(keep_back), guard.fence(fence)] {
                    if let Err(error) = result {
                        say(&format!("the guard: {error}"));
                    }
                }
            }
        })?;
        Ok(Self { to: Some(to), wanted: (0, false), thread: Some(thread) })
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

struct Keeper {
    config: StationConfig,
    station: Station,
    /// How many sets of members there have been.
    seen: u64,
    choice: Choice,
    lease: Lease,
    rules: Rules,
    _held: Vip,
    answers: mpsc::UnboundedSender<OpId>,
    say: Say,
    /// The epoch in which this node is the dispatcher; 0 if it is not.
    armed: u64,
}

impl Keeper {
    fn work(&mut self, orders: &Receiver<Order>, stopped: &Receiver<()>) {
        loop {
            self.act();
            let due = self.station.deadline().map_or(LOOK, |at| clock::left(at).min(LOOK));
            match orders.recv_timeout(due) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => self.handle(Notice::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if stopped.try_recv().is_ok() {
                return;
            }
            for claim in self.choice.plane.claims() {
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
            Order::Lease { epoch, until } => {
                // The kernel first: what the plane sends without it is lost.
                let armed = self.lease.arm(clock::left(until));
                if self.told("the guard", armed) {
                    if self.armed != epoch {
                        (self.say)(&format!("dispatcher, epoch {epoch}"));
                        self.armed = epoch;
                    }
                    self.handle(Notice::Lease { epoch, until });
                }
            }
            Order::Release { op, epoch } => {
                self.handle(Notice::Released { epoch });
                self.act();
                let _ = self.answers.send(op);
                self.armed = 0;
                let disarmed = self.lease.disarm();
                self.told("the guard", disarmed);
                (self.say)(&format!("no longer dispatcher, epoch {epoch}"));
            }
            Order::Seen { fence, members } => {
                self.handle(Notice::Fence { epoch: fence });
                self.seen += 1;
                self.handle(Notice::Members { epoch: self.seen, members });
                self.act();
                self.rules.wanted.0 = fence;
                self.rules.want();
            }
            Order::Set { key, log2_slots } => {
                self.config.key = key.unwrap_or(self.config.key);
                self.config.log2_slots = log2_slots.unwrap_or(self.config.log2_slots);
                let StationConfig { key, v4, v6, log2_slots, .. } = self.config;
                self.handle(Notice::Configure { key, v4, v6, log2_slots });
            }
            Order::Status { to } => {
                let _ = to.send(self.status());
            }
            Order::Table { to } => {
                let _ = to.send(table(self.station.block()));
            }
        }
    }

    fn act(&mut self) {
        while let Some(act) = self.station.poll() {
            match act {
                Act::Publish(block) => {
                    let published = self.choice.plane.publish(&block);
                    self.told("the table", published);
                    self.rules.wanted.1 = shared(&block, self.station.here().server);
                    self.rules.want();
                }
                Act::Stand(here) => {
                    let stood = self.choice.plane.stand(&here);
                    self.told("the plane", stood);
                }
                Act::Announce { frame } => {
                    let sent = self.choice.plane.send(&frame);
                    self.told("an announcement", sent);
                }
            }
        }
    }

    fn status(&mut self) -> Value {
        let here = self.station.here();
        let counters = self.choice.plane.counters().unwrap_or_default();
        let tried: Vec<Value> = self.choice.tried.iter().map(|(name, why)| json!({"name": name, "why": why})).collect();
        json!({
            "plane": self.choice.plane.name(),
            "tried": tried,
            "dispatcher_for_ms": if here.lease == 0 { 0 } else { clock::left(here.lease).as_millis() },
            "epoch": here.epoch,
            "fence": here.fence,
            "counters": counters,
        })
    }
}

/// Whether connections of a slot of this node may be another's.
fn shared(block: &[u8], me: u16) -> bool {
    Block::new(block).is_ok_and(|block| {
        let slots = u32::try_from(block.layout().slots).unwrap_or_default();
        (0..slots)
            .map(|number| block.slot(number))
            .any(|slot| slot.former != NOBODY && slot.former != slot.server && (slot.server == me || slot.former == me))
    })
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
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({"mac": mac.join(":"), "slots": serves, "former": served})
        })
        .collect();
    json!({
        "epoch": head.epoch,
        "slots": slots,
        "key": format!("{:?}", head.key).to_lowercase(),
        "servers": servers,
    })
}
