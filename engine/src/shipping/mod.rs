//! REPL (paper §2.2, §3.3): groups of files that survive their machine, by shipping the changes made to them in order.
//!
//! Who holds a group's service is its primary: a host tells what programs change, the engine numbers it, has it logged, and sends it to
//! the other copies. These log it, then apply it, so that their files are always what the primary's were at one earlier moment.

#![allow(clippy::cast_possible_truncation, reason = "lengths are bounded before")]

mod candidate;
mod change;
mod crc;
mod fact;
mod feed;
mod fold;
mod follower;
mod group;
mod history;
mod length;
mod message;
mod model;
mod order;
mod pace;
mod page;
mod pieces;
pub mod record;
mod stand;
mod talk;
pub mod walk;
mod walker;
mod writer;

pub use crc::{crc32c, crc32c_of};
pub use fact::{Fact, Trouble};
pub use group::Group;
pub use history::{Base, EraStart, History};
pub use message::{Ack, Ask, Begin, Follow, Have, Holds, Lead, Mending, Message, Records, Scrub, Wrong};
pub use order::{Answer, Captured, Found, Happening, Order, Work};
pub use page::{BLOCK, Digest, Item, Mend, Mends, Page, Place, Sort, Stretch, TOP, Told, What, grain};
pub use record::{Attributes, Change, Entry, Head, Record, RecordError};
pub use stand::{Copy, Doing, Stand};

use alloc::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::context::{Ctx, Signal, earliest};
use crate::ids::{GroupId, Lsn, NodeId};
use crate::time::Time;

/// Takes the first one, if it is such a one.
fn pop_if<T>(queue: &mut VecDeque<T>, such: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(such) { queue.pop_front() } else { None }
}

/// The groups of one node.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Shipping {
    groups: BTreeMap<GroupId, Group>,
}

impl Shipping {
    pub(crate) fn new(config: &Config) -> Self {
        let mine = config.groups.iter().filter(|group| group.copies.contains(&config.me));
        Self { groups: mine.map(|group| (group.id, Group::new(group))).collect() }
    }

    /// The groups that this node has a copy of.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    pub(crate) fn on_start(&self, ctx: &mut Ctx<'_>) {
        self.groups.keys().for_each(|group| ctx.files(*group, Work::Find));
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        earliest(self.groups.values().map(|group| group.tick))
    }

    pub(crate) fn on_timer(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        for group in self.groups.values_mut().filter(|group| group.tick.is_some_and(|at| at <= now)) {
            group.on_timer(ctx);
        }
    }

    pub(crate) fn on_message(&mut self, ctx: &mut Ctx<'_>, from: NodeId, message: Message) {
        if let Some(group) = self.groups.get_mut(&message.group()) {
            group.on_message(ctx, from, message);
        }
    }

    pub(crate) fn on_happening(&mut self, ctx: &mut Ctx<'_>, group: GroupId, what: Happening) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.on_happening(ctx, what);
        }
    }

    pub(crate) fn on_signal(&mut self, ctx: &mut Ctx<'_>, signal: &Signal) {
        let of = |group: &&mut Group, resource| group.config.resource == resource;
        match *signal {
            Signal::Holds { resource, epoch, evidence } => {
                if let Some(group) = self.groups.values_mut().find(|group| of(group, resource)) {
                    group.on_holds(ctx, epoch, evidence);
                }
            }
            Signal::LeaseLost { resource, .. } => {
                if let Some(group) = self.groups.values_mut().find(|group| of(group, resource)) {
                    group.on_lost(ctx);
                }
            }
            Signal::FilesLetGo { resource, epoch } => {
                if let Some(group) = self.groups.values_mut().find(|group| of(group, resource)) {
                    group.on_let_go(ctx, epoch);
                }
            }
            _ => {}
        }
    }
}
