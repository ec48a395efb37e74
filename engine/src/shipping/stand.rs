//! How a copy of a group stands, for people, and what they may ask of it.

use alloc::vec::Vec;

use super::fact::Trouble;
use super::group::{Group, Role};
use super::message::{Message, Wrong};
use super::page::Place;
use super::{Lsn, Shipping};
use crate::context::Ctx;
use crate::ids::{Epoch, GroupId, NodeId};
use crate::io::SubmitError;

/// What a copy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has not been told yet what its disk holds.
    Starting,
    /// Nothing: nobody writes, or nobody was heard of.
    Waiting,
    /// It has the grant and asks the other copies how far they have come.
    Asking,
    /// It has the grant and takes over what another copy has more, up to here.
    Fetching(Lsn),
    /// Programs may write here soon: the era is being marked.
    Opening,
    /// Programs write here.
    Writing,
    /// It takes another node's records.
    Following(NodeId),
    /// Its files are compared with another node's, and have been up to this place.
    Comparing(NodeId, Place),
}

/// How a copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// What it does.
    pub doing: Doing,
    /// The era of its newest records.
    pub era: Epoch,
    /// The era below which nobody is obeyed.
    pub promised: Epoch,
    /// Records up to this one are no longer in the log.
    pub base: Lsn,
    /// The last record.
    pub end: Lsn,
    /// The last one that is durable here.
    pub durable: Lsn,
    /// The last one that is in the files.
    pub applied: Lsn,
    /// Bytes of the log.
    pub bytes: u64,
    /// Why its disk takes nothing, if so.
    pub trouble: Option<Trouble>,
    /// Its files are a state of the history, or will be with the log's records.
    pub whole: bool,
    /// Barriers that programs wait for.
    pub waiting: usize,
    /// What the writer knows of the other copies.
    pub copies: Vec<Copy>,
}

/// Another copy, by the writer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whose.
    pub node: NodeId,
    /// It takes records at present, or has its files compared.
    pub follows: bool,
    /// Its files are being compared.
    pub compares: bool,
    /// The last record that it has received.
    pub received: Lsn,
    /// The last one that is durable there.
    pub durable: Lsn,
    /// The last one that is in its files.
    pub applied: Lsn,
    /// Why its disk takes nothing, if so.
    pub trouble: Option<Trouble>,
    /// It is behind by more than the bound.
    pub lags: bool,
    /// The log has gone on without it.
    pub left_behind: bool,
    /// How often its files were looked through to their end since it follows.
    pub scrubs: u64,
    /// They are being looked through.
    pub scrubbing: bool,
}

impl Group {
    /// How this copy stands.
    #[must_use]
    pub fn stand(&self, me: NodeId) -> Stand {
        let doing = match &self.role {
            _ if !self.found => Doing::Starting,
            Role::Idle => Doing::Waiting,
            Role::Candidate(_) => Doing::Asking,
            Role::Primary { opening: Some(_), .. } => Doing::Opening,
            Role::Primary { .. } => Doing::Writing,
            Role::Follower(follower) => follower.doing(),
        };
        let writes = matches!(self.role, Role::Primary { .. });
        let others = if writes { self.others(me) } else { Vec::new() };
        let of = |node| {
            let feed = self.feeds.get(&node);
            Copy {
                node,
                follows: feed.is_some(),
                compares: feed.is_some_and(|feed| feed.staged),
                received: feed.map(|feed| feed.received).unwrap_or_default(),
                durable: feed.map(|feed| feed.durable).unwrap_or_default(),
                applied: feed
                    .filter(|feed| !feed.staged && feed.applied > Lsn(0))
                    .map(|feed| feed.applied)
                    .or_else(|| self.seen.get(&node).copied())
                    .unwrap_or_default(),
                trouble: feed.and_then(|feed| feed.trouble),
                lags: self.lagging.contains(&node),
                left_behind: self.cut_off.contains(&node),
                scrubs: feed.map_or(0, |feed| feed.scrubs),
                scrubbing: feed.is_some_and(super::feed::Feed::is_scrubbing),
            }
        };
        Stand {
            doing,
            era: self.log.rank().0,
            promised: self.promised,
            base: self.log.base,
            end: self.log.end,
            durable: self.durable,
            applied: if self.writer.era.is_some() { self.log.end } else { self.applied },
            bytes: self.bytes(),
            trouble: self.trouble,
            whole: self.whole && !self.blank,
            waiting: self.writer.barriers.len(),
            copies: others.into_iter().map(of).collect(),
        }
    }

    fn written_here(&mut self) -> Result<Epoch, SubmitError> {
        match self.role {
            Role::Primary { era, opening: None, .. } => Ok(era),
            _ => Err(SubmitError::NotWriter),
        }
    }

    /// Looks through the files of all copies that take records now.
    fn scrub_now(&mut self, ctx: &Ctx<'_>) -> Result<(), SubmitError> {
        self.written_here()?;
        self.feeds.values_mut().for_each(|feed| feed.look_through(ctx.now));
        self.wake(ctx.now);
        Ok(())
    }

    /// Has a copy's files compared from the start.
    fn compare_now(&mut self, ctx: &mut Ctx<'_>, node: NodeId) -> Result<(), SubmitError> {
        let era = self.written_here()?;
        let Some(feed) = self.feeds.get(&node) else { return Err(SubmitError::Unknown) };
        let (group, stream) = (self.config.id, feed.stream);
        Self::say(ctx, node, Message::Wrong(Wrong { group, era, stream }));
        Ok(())
    }
}

impl Shipping {
    /// Looks through the files of a group's copies now.
    pub(crate) fn scrub(&mut self, ctx: &Ctx<'_>, group: GroupId) -> Result<(), SubmitError> {
        self.group_mut(group)?.scrub_now(ctx)
    }

    /// Has a copy of a group compared from the start.
    pub(crate) fn compare(&mut self, ctx: &mut Ctx<'_>, group: GroupId, node: NodeId) -> Result<(), SubmitError> {
        self.group_mut(group)?.compare_now(ctx, node)
    }

    fn group_mut(&mut self, group: GroupId) -> Result<&mut Group, SubmitError> {
        self.groups.get_mut(&group).ok_or(SubmitError::Unknown)
    }
}
