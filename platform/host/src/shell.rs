//! The backend of every node: a machine, a transport and a store, put together.

use std::future::Future;

use apus_engine::shipping::Order;
use apus_engine::{Causes, Copy, Deadline, Event, GuardOrder, Input, Lane, NodeId, OpId, Output, ProcessOrder, Time};

use crate::run::Backend;
use crate::store::Writer;
use crate::transport::{Sockets, Transport};

/// What only the machine can do. Nothing here waits, except [`next`](Self::next).
pub trait Machine {
    /// Why a node cannot go on.
    type Error;

    /// The monotonic clock.
    fn now(&self) -> Time;
    /// Tells the kernel's guard.
    fn guard(&mut self, order: GuardOrder);
    /// Starts an order to a program; its answer comes by [`next`](Self::next).
    fn process(&mut self, op: OpId, copy: Copy, order: ProcessOrder);
    /// Runs the reboot hook.
    fn reboot(&mut self, because: Causes);
    /// Starts an order about a group of files; its answer is an input. Of nodes without groups nothing is ordered.
    fn files(&mut self, _order: Order) {}
    /// Takes note of an event.
    fn event(&mut self, event: Event);
    /// Waits for the machine's own inputs: answers, programs, signals, and a tick at the deadline. `None` ends the node.
    ///
    /// Cancel-safe: whoever drops the future loses no input.
    fn next(&mut self, deadline: Option<Deadline>) -> impl Future<Output = Option<Input>>;

    /// Looks at an output before it is executed.
    ///
    /// # Errors
    /// If the node ends here.
    fn before(&mut self, _output: &Output) -> Result<(), Self::Error> {
        Ok(())
    }
    /// Looks at a packet before it is sent, and may keep it. A live machine leaves it alone; a simulated one lays its links here.
    fn outbound(&mut self, _to: NodeId, _lane: Lane, packet: Vec<u8>) -> Option<Vec<u8>> {
        Some(packet)
    }
    /// A packet of the machine's own, which engines never see: asked for before each wait. Its peer takes it out by
    /// [`inbound`](Self::inbound). Losing it is allowed.
    fn own_packet(&mut self) -> Option<(NodeId, Lane, Vec<u8>)> {
        None
    }
    /// Looks at what store and transport bring before the engine does, and may hold it back.
    fn inbound(&mut self, input: Input) -> Option<Input> {
        Some(input)
    }
}

/// A node's backend.
pub struct Shell<M, S: Sockets> {
    machine: M,
    transport: Transport<S>,
    store: Writer,
}

impl<M: Machine, S: Sockets> Shell<M, S> {
    /// Puts a backend together.
    pub const fn new(machine: M, transport: Transport<S>, store: Writer) -> Self {
        Self { machine, transport, store }
    }
}

impl<M: Machine, S: Sockets> Backend for Shell<M, S> {
    type Error = M::Error;

    fn now(&self) -> Time {
        self.machine.now()
    }

    fn execute(&mut self, output: Output) -> Result<(), M::Error> {
        self.machine.before(&output)?;
        match output {
            Output::Send { to, lane, datagram } => {
                if let Some(datagram) = self.machine.outbound(to, lane, datagram) {
                    // A full queue is a lost packet: it is counted, and the engine sends again what matters.
                    let _ = self.transport.send(to, lane, datagram);
                }
            }
            Output::Persist { op, record } => self.store.write(op, record),
            Output::Guard(order) => self.machine.guard(order),
            Output::Process { op, copy, order } => self.machine.process(op, copy, order),
            Output::Files(order) => self.machine.files(order),
            Output::Reboot { because } => self.machine.reboot(because),
            Output::Event(event) => self.machine.event(event),
        }
        Ok(())
    }

    /// Inputs of the machine come before those of the disk, and both before packets, which may be lost.
    async fn next(&mut self, deadline: Option<Deadline>) -> Result<Option<Input>, M::Error> {
        loop {
            let Self { machine, transport, store } = self;
            while let Some((to, lane, packet)) = machine.own_packet() {
                let _ = transport.send(to, lane, packet);
            }
            let input = tokio::select! {
                biased;
                input = machine.next(deadline) => return Ok(input),
                (op, outcome) = store.next() => Input::Done { op, outcome },
                packet = transport.next() => {
                    let (from, datagram) = packet;
                    Input::Packet { from, datagram }
                }
            };
            if let Some(input) = self.machine.inbound(input) {
                return Ok(Some(input));
            }
        }
    }
}
