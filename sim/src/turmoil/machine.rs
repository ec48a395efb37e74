//! A node: the shipped loop and shell on a simulated machine.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use apus_engine::{
    Causes, Copy, Deadline, Engine, Event, GuardOrder, Input, Lane, NodeId, OpId, Output, ProcessOrder, Time,
};
use apus_host::store::{OpenError, Settings, Store};
use apus_host::transport::{self, Identity, Transport};
use apus_host::{Hold, Machine, Shell};
use tokio::sync::Notify;

use super::disk::SimDisk;
use super::sockets::SimSockets;
use super::{PORT, Shared, address};
use crate::fault::{MS, S};

/// Small segments, so that a run goes through many of them.
const STORE: Settings = Settings { segment: 16 * 1024, batch: 64 };

/// The whole life of a node's process. It never ends by itself: whoever watches machines ends it, with all its tasks.
pub(super) async fn node(world: Shared, node: NodeId) -> turmoil::Result {
    let life = world.borrow().life(node);
    if let Some(life) = life {
        live(&world, node, life).await?;
    }
    pending().await
}

async fn live(world: &Shared, node: NodeId, life: u32) -> io::Result<()> {
    world.borrow_mut().rot(node);
    let disk = SimDisk { world: world.clone(), node, life };
    let (store, durable) = match Store::open(disk, STORE).await {
        Ok(opened) => opened,
        Err(OpenError::Damaged { .. }) => {
            world.borrow_mut().refused(node);
            return Ok(());
        }
        Err(OpenError::Disk(_)) => {
            world.borrow_mut().again(node, S);
            return Ok(());
        }
    };
    let identity = {
        let mut world = world.borrow_mut();
        let cluster = world.cluster(node);
        let Some(engine) = world.opened(node, durable) else { return Ok(()) };
        Identity { cluster, me: node, incarnation: engine.incarnation() }
    };
    let book: BTreeMap<_, _> = (0..world.borrow().many()).map(|peer| (NodeId(peer), address(NodeId(peer)))).collect();
    let sockets = SimSockets { world: world.clone(), node, life };
    let at = ([0, 0, 0, 0], PORT).into();
    let transport = Transport::start(sockets, identity, at, book, transport::Settings::default()).await?;
    let port = world.borrow().port(node);
    let machine = SimMachine { world: world.clone(), node, life, port };
    let shell = Shell::new(machine, transport, store.spawn());
    // A process that its world has ended is no error.
    let _ = apus_host::run(InWorld { world: world.clone(), node, life }, shell).await;
    Ok(())
}

/// The engine stays where checkers can see it.
struct InWorld {
    world: Shared,
    node: NodeId,
    life: u32,
}

impl Hold for InWorld {
    fn with<T>(&mut self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        self.world.borrow_mut().engine_of(self.node, self.life).map(act)
    }
}

/// The process is gone.
struct Gone;

struct SimMachine {
    world: Shared,
    node: NodeId,
    life: u32,
    port: Rc<Notify>,
}

impl Machine for SimMachine {
    type Error = Gone;

    fn now(&self) -> Time {
        self.world.borrow().local(self.node)
    }
    fn guard(&mut self, order: GuardOrder) {
        self.world.borrow_mut().guard(self.node, order);
    }
    fn process(&mut self, op: OpId, copy: Copy, order: ProcessOrder) {
        self.world.borrow_mut().program(self.node, op, copy, order);
    }
    fn reboot(&mut self, _because: Causes) {
        self.world.borrow_mut().reboot(self.node);
    }
    fn files(&mut self, order: apus_engine::shipping::Order) {
        self.world.borrow_mut().files_order(self.node, order);
    }
    fn event(&mut self, event: Event) {
        self.world.borrow_mut().told(self.node, event);
    }

    async fn next(&mut self, deadline: Option<Deadline>) -> Option<Input> {
        loop {
            let wait = {
                let mut world = self.world.borrow_mut();
                if !world.lives(self.node, self.life) {
                    return None;
                }
                if let Some(input) = world.take(self.node, self.life) {
                    return Some(input);
                }
                world.wait(self.node, deadline)
            };
            tokio::select! {
                biased;
                () = self.port.notified() => {}
                () = tokio::time::sleep(Duration::from_nanos(wait.unwrap_or(MS))), if wait.is_some() => {
                    self.world.borrow_mut().tick(self.node, deadline);
                }
            }
        }
    }

    fn before(&mut self, output: &Output) -> Result<(), Gone> {
        if self.world.borrow_mut().before(self.node, self.life, output) { Ok(()) } else { Err(Gone) }
    }
    fn outbound(&mut self, to: NodeId, lane: Lane, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.world.borrow_mut().departs(self.node, to, lane, packet)
    }
    fn inbound(&mut self, input: Input) -> Option<Input> {
        self.world.borrow_mut().enters(self.node, input);
        None
    }
}
