//! What is looked at when a run is over.

use super::client::Machine;
use super::{Ether, Event, SERVED};
use crate::fault::Ns;
use crate::heap::World;

impl Ether {
    pub(super) fn end(&mut self, world: &mut World) {
        let mut under_way: Vec<u64> = self
            .queue
            .values()
            .filter_map(|event| if let Event::Arrives(_, packet) = event { Some(packet.meta.id) } else { None })
            .chain(self.machines.iter().flat_map(|machine| machine.link.waiting()))
            .collect();
        under_way.sort_unstable();
        self.follow.end(world, &under_way);
        let since = world.true_time().saturating_sub(SERVED);
        let slowest = self.machines.iter().map(Machine::last_answer).min().unwrap_or(Ns::MAX);
        if slowest < since {
            let what = format!("a client's last answer came at {} ms", slowest / 1_000_000);
            world.breaks("clients-served", what);
        }
    }

    pub(super) fn measures(&mut self, world: &mut World) {
        world.measure("blackout", self.follow.blackout);
        self.answers.sort_unstable();
        if let Some(worst) = self.answers.last() {
            world.measure("answer-worst", *worst);
            world.measure("answer-median", self.answers[self.answers.len() / 2]);
        }
        if self.resets > 0 {
            world.measure("resets-ppm", self.resets * 1_000_000 / (self.answers.len() as u64).max(1));
        }
    }
}
