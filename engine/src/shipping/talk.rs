//! What comes from other copies, and what every copy answers whatever its part is.

use alloc::vec::Vec;

use super::fact::{Fact, Trouble};
use super::group::{Group, Role};
use super::message::{Ack, Ask, Have, Message};
use crate::context::Ctx;
use crate::ids::{Epoch, Lsn, NodeId};
use crate::mutant::Mutant;

impl Group {
    pub(super) fn on_message(&mut self, ctx: &mut Ctx<'_>, from: NodeId, message: Message) {
        if !self.found || !self.config.copies.contains(&from) {
            return;
        }
        match message {
            Message::Ask(ask) => self.on_ask(ctx, from, ask),
            Message::Have(have) => self.on_have(ctx, from, have),
            Message::Lead(lead) => self.on_lead(ctx, from, lead),
            Message::Follow(follow) => self.on_follow(ctx, from, follow),
            Message::Records(records) => self.on_records(ctx, from, &records),
            Message::Ack(ack) => self.on_ack(ctx, from, ack),
            Message::Begin(begin) => self.on_begin(ctx, from, begin),
            Message::Holds(holds) => self.on_page(ctx, from, holds),
            Message::Mends(mending) => self.on_mends(ctx, from, *mending),
            Message::Scrub(scrub) => self.on_scrub(ctx, from, scrub),
            Message::Wrong(wrong) => self.on_wrong(ctx, from, wrong),
        }
        self.settle(ctx);
    }

    fn on_ask(&mut self, ctx: &mut Ctx<'_>, from: NodeId, ask: Ask) {
        if ask.era < self.promised {
            self.refuse(ctx, from, ask.era);
        } else {
            self.asked.insert(from, ask.era);
            self.answer_asks(ctx);
        }
    }

    /// Answers who asked, once the promise is durable and nothing is written here any more.
    pub(super) fn answer_asks(&mut self, ctx: &mut Ctx<'_>) {
        let asked: Vec<(NodeId, Epoch)> = self.asked.iter().map(|(node, era)| (*node, *era)).collect();
        for (node, era) in asked {
            if era < self.promised {
                self.asked.remove(&node);
            } else if self.promise(ctx, era) {
                if self.writer.era.is_some() {
                    self.close(ctx);
                }
                if self.is_settled() {
                    self.asked.remove(&node);
                    self.tell_have(ctx, node, era);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, ctx: &mut Ctx<'_>, from: NodeId, era: Epoch) {
        Self::fact(ctx, &[], Fact::Refused { group: self.config.id, era, promised: self.promised });
        self.tell_have(ctx, from, era);
    }

    fn tell_have(&self, ctx: &mut Ctx<'_>, to: NodeId, era: Epoch) {
        let have = Have {
            group: self.config.id,
            era,
            promised: self.promised,
            blank: self.blank,
            whole: self.whole && !self.blank,
            base: self.log.base,
            end: self.log.end,
            eras: self.log.eras.clone(),
        };
        Self::say(ctx, to, Message::Have(have));
    }

    pub(super) fn say(ctx: &mut Ctx<'_>, to: NodeId, message: Message) {
        if ctx.speaks(to) >= crate::wire::FILES {
            ctx.send(to, crate::io::Lane::Log, &crate::wire::Body::Shipping(message));
        }
    }

    /// Tells who is followed how far this copy has come.
    pub(super) fn ack(&self, ctx: &mut Ctx<'_>) {
        let Role::Follower(follower) = &self.role else { return };
        if !follower.may_ack() {
            return;
        }
        let kept = follower.staged.as_ref().map_or(self.log.end, |staged| staged.end);
        let ack = Ack {
            group: self.config.id,
            era: follower.era,
            stream: follower.stream,
            received: follower.received.end,
            durable: if ctx.has(Mutant::AckBeforeDurable) { follower.received.end } else { kept },
            applied: if follower.staged.is_some() { Lsn(0) } else { self.applied },
            trouble: match self.trouble {
                None => 0,
                Some(_) if ctx.has(Mutant::TroubleUntold) => 0,
                Some(Trouble::Full) => 1,
                Some(Trouble::Failed) => 2,
            },
        };
        Self::say(ctx, follower.source, Message::Ack(ack));
    }
}
