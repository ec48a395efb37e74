//! How news travels: at once to predecessors and chords, again on every probe, and by comparison of tables when digests differ.

use alloc::vec::Vec;

use super::{Compare, Diagnosis, Message, News, Spread};
use crate::config::DiagnosisRule;
use crate::context::Ctx;
use crate::ids::NodeId;
use crate::mutant::Mutant;

/// Items on one probe at most.
const PIGGYBACK: usize = 6;
/// Items in one packet of news at most, so that it stays below 1,200 bytes.
const SPREAD: usize = 40;
/// Packets in answer to one comparison at most.
const ANSWERS: usize = 8;
/// Buckets of a comparison: 1 KiB.
const BUCKETS: usize = 128;

impl Diagnosis {
    /// News about `rank` goes out at the end of this call, and on the next probes.
    pub(super) fn freshen(&mut self, ctx: &Ctx<'_>, rank: usize) {
        if !self.fresh.contains(&rank) {
            self.fresh.push(rank);
        }
        let log = usize::BITS - self.table.len().leading_zeros();
        let again = ctx.config().diagnosis.retransmit.saturating_mul(u8::try_from(log).unwrap_or(8));
        if !ctx.has(Mutant::NewsSentOnce) {
            self.queue.insert(rank, again);
        }
    }

    /// Sends what is fresh to predecessors and chords.
    pub(super) fn flush(&mut self, ctx: &mut Ctx<'_>) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = core::mem::take(&mut self.fresh);
        let Some(me) = self.table.rank(self.me) else { return };
        let chords = !ctx.has(Mutant::NoChords) && ctx.config().diagnosis.rule == DiagnosisRule::Adaptive;
        let to: Vec<NodeId> = self.rings.spread(me, chords).into_iter().map(|rank| self.table.node(rank)).collect();
        for chunk in fresh.chunks(SPREAD) {
            let news: Vec<News> = chunk.iter().map(|rank| self.table.news(*rank)).collect();
            for node in &to {
                self.send(ctx, *node, Message::Spread(Spread { news: news.clone() }));
            }
        }
    }

    /// News for a probe: what was sent least so far.
    pub(super) fn piggyback(&mut self) -> Vec<News> {
        if self.queue.is_empty() {
            return Vec::new();
        }
        let mut items: Vec<(u8, usize)> = self.queue.iter().map(|(rank, left)| (*left, *rank)).collect();
        items.sort_unstable_by(|a, b| b.cmp(a));
        items.truncate(PIGGYBACK);
        let mut news = Vec::with_capacity(items.len());
        for (left, rank) in items {
            news.push(self.table.news(rank));
            if left <= 1 {
                self.queue.remove(&rank);
            } else {
                self.queue.insert(rank, left - 1);
            }
        }
        news
    }

    /// Digests differ: after news had its chance, compare tables; at most once a period.
    pub(super) fn compare_if_differs(&mut self, ctx: &mut Ctx<'_>, with: NodeId, digest: u64) {
        if digest == self.table.digest() || ctx.has(Mutant::DigestIgnored) {
            return;
        }
        self.stirred = ctx.now;
        let period = ctx.config().diagnosis.period;
        if self.compared.is_some_and(|at| ctx.now.since(at) < period) || self.table.rank(with).is_none() {
            return;
        }
        self.compared = Some(ctx.now);
        let buckets = self.table.buckets(self.many_buckets());
        self.send(ctx, with, Message::Compare(Compare { buckets, reply: true }));
    }

    fn many_buckets(&self) -> usize {
        self.table.len().clamp(1, BUCKETS)
    }

    /// Answers with what differs, and asks back.
    pub(super) fn on_compare(&mut self, ctx: &mut Ctx<'_>, from: NodeId, compare: &Compare) {
        if compare.buckets.is_empty() || compare.buckets.len() > BUCKETS || self.table.rank(from).is_none() {
            return;
        }
        let ranks: Vec<usize> = self.table.differing(&compare.buckets).take(SPREAD * ANSWERS).collect();
        for chunk in ranks.chunks(SPREAD) {
            let news = chunk.iter().map(|rank| self.table.news(*rank)).collect();
            self.send(ctx, from, Message::Spread(Spread { news }));
        }
        if compare.reply {
            let buckets = self.table.buckets(compare.buckets.len());
            self.send(ctx, from, Message::Compare(Compare { buckets, reply: false }));
        }
    }
}
