//! The virtual Ethernet joined to a real one: virtual time goes as the clock does, and a cable brings frames in and takes them out.

use std::io;
use std::time::{Duration, Instant};

use apus_engine::NodeId;

use super::Ether;
use super::packet::{CLUSTER_V4, CLUSTER_V6, Meta, Packet};
use super::switch::Port;
use crate::fault::Ns;
use crate::heap::World;
use crate::report::Run;
use crate::scenario::Plan;
use crate::world::Options;

/// The cluster's addresses, of all scenarios.
pub const CLUSTER: ([u8; 4], [u8; 16]) = (CLUSTER_V4, CLUSTER_V6);
/// What the other end of the cable may have as its own, with the lengths of the networks: nothing in the world uses them.
pub const OUTSIDE: (([u8; 4], u8), ([u8; 16], u8)) =
    (([10, 8, 0, 254], 16), ([0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1], 64));

/// What a cable brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A frame from outside.
    Frame(Vec<u8>),
    /// Nothing, until then.
    Nothing,
    /// The user has seen enough.
    Enough,
}

/// The cable to a real Ethernet.
pub trait Cable {
    /// Waits for a frame; looks at least once.
    ///
    /// # Errors
    /// If the other end is gone.
    fn wait(&mut self, until: Instant) -> io::Result<Came>;

    /// Sends a frame. One that the other end does not take is lost, as on any cable.
    ///
    /// # Errors
    /// If the other end is gone.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// What a run on a cable was.
#[derive(Clone, Debug)]
pub struct Joined {
    /// As of any run. Of one that was ended early, what must hold at the end was not looked at.
    pub run: Run,
    /// It was ended early.
    pub early: bool,
    /// Frames that came in.
    pub came: u64,
    /// Frames that went out.
    pub went: u64,
    /// How far virtual time was behind the clock, at worst.
    pub late: Duration,
}

/// Runs a plan at the pace of the clock, until its end, or `lasts`, or the user has enough. `tell` hears what happens.
///
/// # Errors
/// Of the cable.
pub fn join(
    plan: &Plan,
    options: &Options,
    lasts: Option<Duration>,
    cable: &mut dyn Cable,
    tell: &mut dyn FnMut(Ns, &str),
) -> io::Result<Joined> {
    let ns = |time: Duration| Ns::try_from(time.as_nanos()).unwrap_or(Ns::MAX);
    let mut world = World::driven(plan, options);
    let mut ether = Ether::new(plan);
    ether.outside = Some(Vec::new());
    for node in &mut ether.nodes {
        node.talks = Some(std::collections::BTreeMap::new());
    }
    let whole = world.ends();
    let end = lasts.map_or(whole, |lasts| ns(lasts).min(whole));
    let (mut came, mut went, mut late, mut enough) = (0, 0, Duration::ZERO, false);
    let mut told = Told { fault: 0, dispatcher: None };
    let began = Instant::now();
    while !world.failed() {
        let due = world.due().min(ether.due());
        let at = began + Duration::from_nanos(due.min(end));
        match cable.wait(at)? {
            Came::Frame(bytes) => {
                came += 1;
                world.move_to(ns(began.elapsed()).min(due));
                ether.sends(&mut world, Port::Outside, Packet { bytes, meta: Meta::NONE });
                // What is due does not wait for a cable that is never quiet.
                if Instant::now() < at {
                    continue;
                }
            }
            Came::Nothing => {}
            Came::Enough => {
                enough = true;
                break;
            }
        }
        if due > end {
            break;
        }
        late = late.max(at.elapsed());
        ether.step(&mut world);
        told.look(plan, &world, tell);
        for frame in ether.outside.iter_mut().flat_map(std::mem::take) {
            cable.send(&frame)?;
            went += 1;
        }
    }
    let early = !world.failed() && (enough || end < whole);
    if !world.failed() && !early {
        world.move_to(end);
        ether.end(&mut world);
    }
    ether.measures(&mut world);
    let run = if early { world.cut_driven() } else { world.end_driven() };
    Ok(Joined { run, early, came, went, late })
}

/// What the user was told.
struct Told {
    fault: usize,
    dispatcher: Option<NodeId>,
}

impl Told {
    fn look(&mut self, plan: &Plan, world: &World, tell: &mut dyn FnMut(Ns, &str)) {
        let now = world.true_time();
        while let Some(fault) = plan.faults.get(self.fault).filter(|fault| fault.at <= now) {
            let lasts = fault.lasts / 1_000_000;
            let lasts = if lasts == 0 { String::new() } else { format!(" for {lasts} ms") };
            tell(now, &format!("fault {} of {:?}{lasts}", fault.kind.spec().name, fault.target).to_lowercase());
            self.fault += 1;
        }
        let nodes = 0..plan.configs.len() as u16;
        let dispatcher = nodes.map(NodeId).find(|node| world.may_dispatch(*node));
        if dispatcher != self.dispatcher {
            self.dispatcher = dispatcher;
            tell(
                now,
                &dispatcher.map_or("nobody is the dispatcher".into(), |node| format!("{node} is the dispatcher")),
            );
        }
    }
}
