//! Why: from the newest act about something back through everything that led to it, over the journals of all nodes.
//!
//! What follows from what is told by the engines: each event names its causes, also those of other nodes, and what no event names
//! (an operator's order, the end of the old lease, lost probes) is found by epoch, life and place in the log. Clocks only decide
//! between steps of which neither follows from the other.

use std::collections::{BTreeMap, BTreeSet};

use apus_engine::{EvidenceId, NodeId, ResourceId};
use apus_host::Names as _;
use serde_json::{Value, json};

use super::entry::{Called, Entry};

/// Steps of a story at most; older ones are left out.
const STEPS: usize = 40;
/// Openings by programs that are not captured that are told, the newest.
const STRANGERS: usize = 5;
/// Another node's verdict belongs to the first one if it comes within so many microseconds.
const TOGETHER: u64 = 2_000_000;
/// Probes lost further apart than this, in us, are not of one silence: those between were answered, of which no journal tells.
const ANSWERED: u64 = 1_000_000;
/// A grant that no failure led to, so many microseconds after another, belongs to its story: what is taken over in haste moves once more.
const HASTE: u64 = 5_000_000;
/// So many microseconds after a wait for a lease is over, the grant for which it was is not to be expected any more.
const LONG_OVER: u64 = 10_000_000;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Something that nodes hold: the address, or the slots of a service.
    Resources(Vec<u16>),
    /// A node.
    Node(u16),
}

/// How far the wall clocks of other nodes are ahead of this one's, in microseconds.
pub type Clocks = BTreeMap<u16, i64>;

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// On the clock of who asks, in microseconds since 1970, as far as clocks are known.
    pub at: u64,
    /// On the clock of the node that tells it.
    pub wall: u64,
    /// Who tells it.
    pub node: u16,
    /// In words.
    pub text: String,
    /// Where that node's log stood.
    pub term: u64,
    /// See `term`.
    pub index: u64,
    /// What it is about.
    pub epoch: Option<u64>,
    names: Vec<EvidenceId>,
    because: Vec<EvidenceId>,
}

/// A story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    /// How it stands.
    pub headline: String,
    /// What led to it, causes first.
    pub steps: Vec<Step>,
    /// Steps that were left out before the first one.
    pub left_out: usize,
    /// From the first sign of a failure until somebody held it again, in microseconds, if that is the story.
    pub outage: Option<u64>,
}

impl Story {
    /// As programs read it.
    #[must_use]
    pub fn json(&self) -> Value {
        let step = |step: &Step| {
            json!({
                "at_us": step.at, "wall_us": step.wall, "node": step.node, "text": step.text, "term": step.term,
                "index": step.index, "epoch": step.epoch,
                "ids": step.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        };
        json!({
            "headline": self.headline,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "left_out": self.left_out,
            "outage_us": self.outage,
        })
    }
}

/// Everything that is known, with clocks made one.
struct Known<'a> {
    entries: &'a [Entry],
    by_id: BTreeMap<EvidenceId, &'a Entry>,
    clocks: &'a Clocks,
    called: &'a Called,
}

/// The story of a subject; `None` if nothing is told of it.
#[must_use]
pub fn why(entries: &[Entry], clocks: &Clocks, subject: &Subject, called: &Called) -> Option<Story> {
    let by_id = entries.iter().filter_map(|entry| entry.id.map(|id| (id, entry))).collect();
    let known = Known { entries, by_id, clocks, called };
    match subject {
        Subject::Resources(resources) => {
            let ends = resources.iter().filter_map(|resource| known.newest(*resource).map(|end| (*resource, end)));
            let (resource, end) = ends.max_by_key(|(_, end)| (end.entry.index, known.at(end.entry), end.entry.seq))?;
            Some(known.of_resource(resource, &end))
        }
        Subject::Node(node) => known.of_node(*node),
    }
}

/// The newest act about a resource, and whose it is.
struct End<'a> {
    entry: &'a Entry,
    holder: u16,
    epoch: u64,
    /// Grants that led to it in haste, the newest first, and whose they were.
    between: Vec<(u64, u16)>,
    /// The grant before all those, and whose that was.
    before: Option<(u64, u16)>,
}

impl<'a> Known<'a> {
    fn at(&self, entry: &Entry) -> u64 {
        let ahead = self.clocks.get(&entry.node).copied().unwrap_or_default();
        entry.wall.saturating_add_signed(ahead.saturating_neg())
    }

    /// When the newest entry was told.
    fn now(&self) -> u64 {
        self.entries.iter().map(|entry| self.at(entry)).max().unwrap_or_default()
    }

    /// Whether entries came in this order, by log, then by clock.
    fn order(&self, entry: &Entry) -> (u64, u64, u64) {
        (entry.index, self.at(entry), entry.seq)
    }

    fn newest(&self, resource: u16) -> Option<End<'a>> {
        let of = |entry: &&Entry| entry.resource == Some(resource);
        // Whose each was, and when it was first known.
        let mut grants: BTreeMap<u64, (u16, u64)> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| of(entry) && entry.kind == "granted") {
            let Some((epoch, holder)) = entry.epoch.zip(entry.about) else { continue };
            let known = grants.entry(epoch).or_insert((holder, u64::MAX));
            known.1 = known.1.min(self.at(entry));
        }
        let (epoch, (holder, mut since)) = grants.last_key_value().map(|(epoch, grant)| (*epoch, *grant))?;
        let (mut between, mut later) = (Vec::new(), epoch);
        let mut older = grants.range(..epoch).rev().map(|(epoch, (holder, at))| (*epoch, *holder, *at)).peekable();
        while let Some((epoch, holder, at)) = older.next_if(|(.., at)| {
            since.saturating_sub(*at) < HASTE && between.len() < STEPS && !self.is_mend(resource, later)
        }) {
            between.push((epoch, holder));
            (since, later) = (at, epoch);
        }
        let before = older.next().map(|(epoch, holder, _)| (epoch, holder));
        // What the holder says last, by its own numbers; before it says anything, the grant.
        let says = |entry: &&Entry| {
            let other = matches!(&*entry.kind, "granted" | "proposed" | "refused" | "waiting" | "lapsed");
            of(entry) && entry.node == holder && entry.index >= epoch && entry.id.is_some() && !other
        };
        let said = self.entries.iter().filter(says).max_by_key(|entry| entry.seq);
        let entry = said.or_else(|| self.grant(resource, epoch))?;
        // A coordinator that waits for the holder's lease, and has not thought better of it.
        let waits = |entry: &&Entry| {
            let well = |later: &Entry| {
                let up = matches!(&*later.kind, "up" | "cleared") && later.about == Some(holder);
                up && later.node == entry.node && later.seq > entry.seq
            };
            of(entry) && entry.kind == "waiting" && entry.index >= epoch && !self.entries.iter().any(well)
        };
        let waiting = self.entries.iter().filter(waits).max_by_key(|entry| self.order(entry));
        let entry = waiting.filter(|waiting| self.at(waiting) > self.at(entry)).unwrap_or(entry);
        Some(End { entry, holder, epoch, between, before })
    }

    /// Everything that an entry follows from, as far as journals tell, it included; entries that `keep` refuses are not looked
    /// behind.
    fn back(&self, from: EvidenceId, keep: impl Fn(&Entry) -> bool) -> BTreeSet<EvidenceId> {
        let mut open = vec![from];
        let mut chain = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(entry) = self.by_id.get(&id).filter(|entry| id == from || keep(entry))
                && chain.insert(id)
            {
                open.extend(&entry.because);
            }
        }
        chain
    }

    fn grant(&self, resource: u16, epoch: u64) -> Option<&'a Entry> {
        let of =
            |entry: &&Entry| entry.resource == Some(resource) && entry.kind == "granted" && entry.epoch == Some(epoch);
        self.entries.iter().filter(of).max_by_key(|entry| self.order(entry))
    }

    /// Whether a grant follows from a verdict that its holder before is down.
    fn is_mend(&self, resource: u16, epoch: u64) -> bool {
        let Some(id) = self.grant(resource, epoch).and_then(|entry| entry.id) else { return false };
        let behind = self.back(id, |entry| !matches!(&*entry.kind, "granted" | "armed"));
        behind.iter().any(|id| self.by_id.get(id).is_some_and(|entry| entry.kind == "down"))
    }

    fn of_resource(&self, resource: u16, end: &End<'a>) -> Story {
        let floor = end.before.map_or(0, |(epoch, _)| epoch);
        let older = |entry: &Entry| {
            let grants = matches!(&*entry.kind, "granted" | "proposed" | "armed");
            entry.index < floor || grants && entry.epoch.is_some_and(|epoch| epoch <= floor)
        };
        let mut chain = end.entry.id.map(|id| self.back(id, |entry| !older(entry))).unwrap_or_default();
        for (epoch, _) in &end.between {
            if let Some(id) = self.grant(resource, *epoch).and_then(|entry| entry.id) {
                chain.extend(self.back(id, |entry| !older(entry)));
            }
        }
        let mut told: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.id.is_some_and(|id| chain.contains(&id))).collect();
        // What no event names: the wait for the old lease, its end, and who ordered it.
        let old: BTreeMap<u64, u16> = end.between.iter().chain(&end.before).copied().collect();
        let of_old = |entry: &Entry| old.values().any(|holder| entry.about == Some(*holder));
        let ends = |entry: &&Entry| {
            let waits = entry.kind == "waiting" && entry.index >= floor && of_old(entry);
            let ended = entry.epoch.is_some_and(|epoch| old.contains_key(&epoch));
            let ends = matches!(&*entry.kind, "expired" | "released") && ended;
            // Who held it in between.
            let held = entry.kind == "armed" && ended && entry.epoch != Some(floor);
            entry.resource == Some(resource) && (ends || held || waits)
        };
        let orders = |entry: &&Entry| {
            let place = (floor..end.epoch).contains(&entry.index) && entry.id.is_none();
            let whose = entry.resource == Some(resource) && matches!(&*entry.kind, "move" | "step-aside")
                || entry.kind == "drain" && of_old(entry);
            place && whose
        };
        told.extend(self.entries.iter().filter(|entry| ends(entry) || orders(entry)));
        // Who was at its files without being captured, lately.
        let strange =
            |entry: &&Entry| entry.resource == Some(resource) && entry.kind == "stranger" && entry.index >= end.epoch;
        let strangers: Vec<&Entry> = self.entries.iter().filter(strange).collect();
        told.extend(&strangers[strangers.len().saturating_sub(STRANGERS)..]);
        self.story(end.entry, told, self.headline(resource, end))
    }

    fn headline(&self, resource: u16, end: &End<'_>) -> String {
        let what = self.called.resource(ResourceId(resource));
        let (holder, epoch) = (self.called.node(NodeId(end.holder)), end.epoch);
        match &*end.entry.kind {
            "armed" => format!("{what} is held by {holder}, epoch {epoch}"),
            "ready" | "promoted" => format!("{what} is ready on {holder}, epoch {epoch}"),
            "granted" | "proposed" => {
                format!("{what} was granted to {holder}, epoch {epoch}, which has not taken it yet")
            }
            "waiting" if self.now() > self.at(end.entry) + 1_000 * end.entry.ms.unwrap_or_default() + LONG_OVER => {
                format!(
                    "{what} is nobody's: the lease of {holder}, epoch {epoch}, is over, and nobody was granted it since: \
                 no other node that is up may take it, or there is no quorum"
                )
            }
            "waiting" => format!("{what} is nobody's until the lease of {holder}, epoch {epoch}, is over"),
            _ => format!("{what}, held by {holder}, epoch {epoch}: {}", end.entry.text),
        }
    }

    fn of_node(&self, node: u16) -> Option<Story> {
        let tells = |entry: &&Entry| match &*entry.kind {
            "down" | "up" | "cleared" | "suspected" => entry.about == Some(node),
            "started" | "superseded" | "disk-failed" | "stalled" => entry.node == node,
            "drain" | "undrain" => entry.about == Some(node),
            _ => false,
        };
        let end = self.entries.iter().filter(tells).max_by_key(|entry| (self.at(entry), entry.seq))?;
        let name = self.called.node(NodeId(node));
        let headline = match &*end.kind {
            "down" => format!("{name} is down"),
            "up" | "cleared" => format!("{name} is up"),
            "suspected" => format!("{name} is suspected"),
            "drain" => format!("{name} was told to drain"),
            "undrain" => format!("{name} was told to serve again"),
            _ => format!("{name} {}", end.text),
        };
        // Back to where this verdict's opposite was reached.
        let opposite = if end.kind == "down" { ["up", "cleared"] } else { ["", ""] };
        let keep = |entry: &Entry| {
            entry.part == "diagnosis" && !(opposite.contains(&&*entry.kind) && entry.about == Some(node))
        };
        let chain = end.id.map(|id| self.back(id, keep)).unwrap_or_default();
        let told = self.entries.iter();
        let told = told.filter(|entry| entry.id.is_some_and(|id| chain.contains(&id)) || std::ptr::eq(*entry, end));
        Some(self.story(end, told.collect(), headline))
    }

    fn story(&self, end: &Entry, told: Vec<&Entry>, headline: String) -> Story {
        let mut steps = Vec::new();
        let mut began = None;
        // A node's silence is one step, the verdicts about it another.
        let fallen: BTreeSet<(u16, Option<u32>)> =
            told.iter().filter(|entry| entry.kind == "down").filter_map(|e| Some((e.about?, e.life))).collect();
        for (node, life) in &fallen {
            let silent = self.fall(*node, *life, &told, &mut steps);
            began = began.into_iter().chain(silent).min();
        }
        let fell = |entry: &Entry| {
            let accuses = matches!(&*entry.kind, "missed" | "suspected" | "heard" | "down");
            accuses && entry.about.is_some_and(|about| fallen.iter().any(|(node, _)| *node == about))
        };
        let mut granted = BTreeSet::new();
        let mut elected = BTreeSet::new();
        let mut rest: Vec<&Entry> = told.iter().copied().filter(|entry| !fell(entry)).collect();
        rest.sort_by_key(|entry| (self.at(entry), entry.node, entry.seq));
        rest.dedup();
        for entry in rest.iter().copied() {
            let text = match &*entry.kind {
                "committed" | "follows" | "voted" | "polls" | "stands" | "installed" => continue,
                "granted" if !granted.insert((entry.resource, entry.epoch)) => continue,
                "granted" => self.granted(entry),
                "elected" if !elected.insert(entry.of_term) => continue,
                "elected" => self.elected(entry),
                _ => entry.text.clone(),
            };
            let mut step = self.step(entry, text);
            // What was told elsewhere of the same grant is the same step.
            if entry.kind == "granted" {
                let same = |other: &&&Entry| other.kind == "granted" && other.epoch == entry.epoch;
                step.names = rest.iter().filter(same).filter_map(|other| other.id).collect();
            }
            steps.push(step);
        }
        let mut steps = self.sorted(steps);
        let left_out = steps.len().saturating_sub(STEPS);
        steps.drain(..left_out);
        // Where no node fell, but a lease was not renewed, its end is the first sign.
        if began.is_none() && rest.iter().any(|entry| entry.kind == "lapsed") {
            began = rest.iter().filter(|entry| entry.kind == "expired").map(|entry| self.at(entry)).min();
        }
        let over = matches!(&*end.kind, "armed" | "ready" | "promoted");
        // Whoever held it first after that ended the outage, whoever holds it now.
        let outage = began.filter(|_| over).map(|began| {
            let again = rest.iter().filter(|entry| entry.kind == end.kind).map(|entry| self.at(entry));
            again.filter(|at| *at > began).min().unwrap_or_else(|| self.at(end)).saturating_sub(began)
        });
        Story { headline, steps, left_out, outage }
    }

    fn step(&self, entry: &Entry, text: String) -> Step {
        Step {
            at: self.at(entry),
            wall: entry.wall,
            node: entry.node,
            text,
            term: entry.term,
            index: entry.index,
            epoch: entry.epoch,
            names: entry.id.into_iter().collect(),
            because: entry.because.clone(),
        }
    }

    /// Two steps for a node that fell silent: its silence, and the verdicts. Answers when the first probe was lost.
    fn fall(&self, node: u16, life: Option<u32>, told: &[&Entry], steps: &mut Vec<Step>) -> Option<u64> {
        let verdict = |entry: &&&Entry| entry.kind == "down" && entry.about == Some(node) && entry.life == life;
        let first = told.iter().filter(verdict).min_by_key(|entry| self.at(entry))?;
        let until = self.at(first);
        let name = self.called.node(NodeId(node));
        // What each node saw since it last thought well of the silent one.
        let mut lost: BTreeMap<u16, Vec<&Entry>> = BTreeMap::new();
        let mut judges = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.about == Some(node)) {
            let at = self.at(entry);
            match &*entry.kind {
                "up" | "cleared" if at < until => {
                    lost.remove(&entry.node);
                }
                "missed" | "suspected" if at <= until => lost.entry(entry.node).or_default().push(entry),
                "down" if entry.life == life && at <= until + TOGETHER => {
                    judges.insert(entry.node, entry);
                }
                _ => {}
            }
        }
        let mut times: Vec<u64> = lost.values().flatten().map(|entry| self.at(entry)).collect();
        times.sort_unstable();
        let gap = times.windows(2).rposition(|pair| pair[1] - pair[0] > ANSWERED);
        let from = gap.and_then(|at| times.get(at + 1)).copied().unwrap_or_default();
        lost.values_mut().for_each(|seen| seen.retain(|entry| self.at(entry) >= from));
        lost.retain(|_, seen| !seen.is_empty());
        let probes = lost.values().flatten().filter(|entry| entry.kind == "missed").count();
        let start = lost.values().flatten().min_by_key(|entry| (self.at(entry), entry.seq)).copied();
        if let Some(start) = start {
            let lost_probes = match probes {
                0 => "it is accused".to_owned(),
                1 => "a probe is lost".to_owned(),
                many => format!("{many} probes are lost"),
            };
            let seen = self.nodes(lost.keys().copied());
            let mut step = self.step(start, format!("{name} stops answering: {lost_probes}, seen by {seen}"));
            step.names = lost.values().flatten().filter_map(|entry| entry.id).collect();
            step.because.clear();
            steps.push(step);
        }
        let by = self.nodes(judges.keys().copied());
        let mut step = self.step(first, format!("{name} is judged down, by {by}"));
        step.names = judges.values().filter_map(|entry| entry.id).collect();
        // The silence comes first, also where the accusation was heard from elsewhere.
        step.because = start.and_then(|start| start.id).into_iter().collect();
        steps.push(step);
        start.map(|start| self.at(start))
    }

    fn granted(&self, entry: &Entry) -> String {
        let what = self.called.resource(ResourceId(entry.resource.unwrap_or_default()));
        let to = self.called.node(NodeId(entry.about.unwrap_or_default()));
        let knows =
            |other: &&Entry| other.kind == "granted" && other.resource == entry.resource && other.epoch == entry.epoch;
        let known = self.nodes(self.entries.iter().filter(knows).map(|other| other.node));
        let epoch = entry.epoch.unwrap_or_default();
        format!(
            "{what} is granted to {to} by epoch {epoch}: entry {epoch} of the log, term {}, known to {known}",
            entry.term
        )
    }

    fn elected(&self, entry: &Entry) -> String {
        let term = entry.of_term.unwrap_or_default();
        let votes =
            |other: &&Entry| other.kind == "voted" && other.of_term == entry.of_term && other.about == Some(entry.node);
        let voters = self.nodes(self.entries.iter().filter(votes).map(|other| other.node));
        let voted = if voters.is_empty() { String::new() } else { format!(", by the votes of {voters}") };
        format!("is elected coordinator of term {term}{voted}")
    }

    /// `node 0`, `nodes 0, 1`.
    fn nodes(&self, nodes: impl Iterator<Item = u16>) -> String {
        let nodes: BTreeSet<u16> = nodes.collect();
        let list: Vec<String> = nodes.iter().map(u16::to_string).collect();
        match list.len() {
            0 => String::new(),
            1 => self.called.node(NodeId(*nodes.first().unwrap_or(&0))),
            _ => format!("nodes {}", list.join(", ")),
        }
    }

    /// Causes first; between steps of which neither follows from the other, by clock.
    fn sorted(&self, steps: Vec<Step>) -> Vec<Step> {
        let place: BTreeMap<EvidenceId, usize> =
            steps.iter().enumerate().flat_map(|(at, step)| step.names.iter().map(move |id| (*id, at))).collect();
        // Also causes behind entries that have no step of their own.
        let causes: Vec<BTreeSet<usize>> = steps
            .iter()
            .enumerate()
            .map(|(at, step)| {
                let behind = step.because.iter().flat_map(|id| self.nearest(*id, &place));
                behind.filter(|cause| *cause != at).collect()
            })
            .collect();
        let mut left: Vec<usize> = (0..steps.len()).collect();
        left.sort_by_key(|at| (steps[*at].at, *at));
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        while !left.is_empty() {
            // A circle cannot be, but for a journal that lies: then the clock decides.
            let next = left.iter().position(|at| causes[*at].is_subset(&done)).unwrap_or(0);
            let at = left.remove(next);
            done.insert(at);
            order.push(at);
        }
        let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
        order.into_iter().filter_map(|at| steps[at].take()).collect()
    }

    /// The steps that an event is part of, or that it follows from without another step between.
    fn nearest(&self, id: EvidenceId, place: &BTreeMap<EvidenceId, usize>) -> BTreeSet<usize> {
        let (mut open, mut seen, mut found) = (vec![id], BTreeSet::new(), BTreeSet::new());
        while let Some(id) = open.pop() {
            if let Some(at) = place.get(&id) {
                found.insert(*at);
            } else if seen.insert(id)
                && let Some(entry) = self.by_id.get(&id)
            {
                open.extend(&entry.because);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{Incarnation, ServiceId};

    use super::*;

    fn id(node: u16, seq: u32) -> EvidenceId {
        EvidenceId { node: NodeId(node), inc: Incarnation(1), seq }
    }

    fn called() -> Called {
        Called::new([(ServiceId(0), "web".into(), 1)], Some(ResourceId(1)))
    }

    struct Tale(Vec<Entry>);

    impl Tale {
        /// An engine's event at `ms`; the number names it, and others may name it as a cause.
        fn event(
            &mut self,
            node: u16,
            seq: u32,
            ms: u64,
            index: u64,
            kind: &'static str,
            because: &[(u16, u32)],
        ) -> &mut Entry {
            let part = match kind {
                "missed" | "suspected" | "heard" | "down" | "up" => "diagnosis",
                "elected" | "voted" | "committed" => "log",
                _ => "leases",
            };
            self.0.push(Entry {
                seq: seq.into(),
                node,
                wall: 1_000 * ms,
                boot: 1_000 * ms,
                term: 2,
                index,
                id: Some(id(node, seq)),
                because: because.iter().map(|(node, seq)| id(*node, *seq)).collect(),
                ..Entry::new(part, kind, kind)
            });
            self.0.last_mut().expect("it was put there")
        }
    }

    fn set(entry: &mut Entry, resource: Option<u16>, epoch: Option<u64>, about: Option<u16>) {
        (entry.resource, entry.epoch, entry.about, entry.life) = (resource, epoch, about, Some(1));
    }

    /// Node 2 holds the address and dies; node 0 coordinates; node 1, whose clock is a second ahead, takes it.
    fn takeover() -> Vec<Entry> {
        let mut tale = Tale(Vec::new());
        set(tale.event(2, 1, 5, 5, "granted", &[]), Some(1), Some(5), Some(2));
        set(tale.event(0, 1, 6, 5, "granted", &[]), Some(1), Some(5), Some(2));
        tale.event(0, 2, 1, 3, "elected", &[]).of_term = Some(2);
        for (node, seq, ms) in [(0, 3, 100), (0, 4, 140), (1, 3, 1_120)] {
            set(tale.event(node, seq, ms, 5, "missed", &[]), None, None, Some(2));
        }
        set(tale.event(0, 5, 141, 5, "suspected", &[(0, 4)]), None, None, Some(2));
        set(tale.event(1, 4, 1_130, 5, "suspected", &[(1, 3)]), None, None, Some(2));
        set(tale.event(0, 6, 150, 5, "down", &[(1, 4)]), None, None, Some(2));
        set(tale.event(1, 5, 1_152, 5, "down", &[(0, 6)]), None, None, Some(2));
        set(tale.event(0, 7, 151, 5, "waiting", &[(0, 6), (0, 2)]), Some(1), None, Some(2));
        set(tale.event(0, 8, 700, 5, "proposed", &[(0, 6), (0, 2)]), Some(1), Some(6), Some(1));
        tale.event(0, 9, 702, 6, "committed", &[(0, 2)]);
        set(tale.event(0, 10, 702, 6, "granted", &[(0, 9), (0, 8), (0, 6)]), Some(1), Some(6), Some(1));
        set(tale.event(1, 6, 1_703, 6, "granted", &[(0, 8), (0, 6)]), Some(1), Some(6), Some(1));
        set(tale.event(1, 7, 1_704, 6, "armed", &[(1, 6)]), Some(1), Some(6), None);
        tale.0
    }

    fn texts(story: &Story) -> Vec<&str> {
        story.steps.iter().map(|step| step.text.as_str()).collect()
    }

    #[test]
    fn a_takeover_is_told_from_the_first_lost_probe_to_the_new_holder() {
        let clocks = Clocks::from([(1, 1_000_000)]);
        let story = why(&takeover(), &clocks, &Subject::Resources(vec![1]), &called()).expect("there is one");
        assert_eq!(story.headline, "the address is held by node 1, epoch 6");
        assert_eq!(
            texts(&story),
            [
                "node 2 stops answering: 3 probes are lost, seen by nodes 0, 1",
                "node 2 is judged down, by nodes 0, 1",
                "waiting",
                "proposed",
                "the address is granted to node 1 by epoch 6: entry 6 of the log, term 2, known to nodes 0, 1",
                "armed",
            ]
        );
        assert_eq!(story.outage, Some(604_000));
        assert!(story.steps.is_sorted_by_key(|step| step.at), "{story:?}");
    }

    #[test]
    fn a_probe_that_was_lost_long_before_is_no_part_of_the_silence() {
        let mut tale = Tale(takeover());
        for entry in &mut tale.0 {
            (entry.wall, entry.boot) = (entry.wall + 5_000_000, entry.boot + 5_000_000);
        }
        set(tale.event(0, 30, 100, 5, "missed", &[]), None, None, Some(2));
        let clocks = Clocks::from([(1, 1_000_000)]);
        let story = why(&tale.0, &clocks, &Subject::Resources(vec![1]), &called()).expect("there is one");
        assert_eq!(texts(&story)[0], "node 2 stops answering: 3 probes are lost, seen by nodes 0, 1");
        assert_eq!(story.outage, Some(604_000));
    }

    #[test]
    fn what_moves_on_in_haste_is_one_story_with_its_takeover() {
        let mut tale = Tale(takeover());
        // A second later it goes to node 0, by choice.
        set(tale.event(1, 8, 2_700, 6, "released", &[]), Some(1), Some(6), None);
        set(tale.event(0, 11, 1_701, 7, "proposed", &[(0, 2)]), Some(1), Some(8), Some(0));
        set(tale.event(0, 12, 1_702, 8, "granted", &[(0, 11)]), Some(1), Some(8), Some(0));
        set(tale.event(0, 13, 1_703, 8, "armed", &[(0, 12)]), Some(1), Some(8), None);
        let clocks = Clocks::from([(1, 1_000_000)]);
        let story = why(&tale.0, &clocks, &Subject::Resources(vec![1]), &called()).expect("there is one");
        assert_eq!(story.headline, "the address is held by node 0, epoch 8");
        let told = texts(&story);
        assert!(told[0].starts_with("node 2 stops answering"), "{told:?}");
        assert_eq!(told.iter().filter(|text| text.contains("is granted")).count(), 2, "{told:?}");
        assert_eq!(story.outage, Some(604_000), "until node 1 held it");
    }

    #[test]
    fn a_lease_that_is_not_renewed_is_told_from_its_end_to_the_new_holder() {
        let mut tale = Tale(Vec::new());
        set(tale.event(2, 1, 5, 5, "granted", &[]), Some(1), Some(5), Some(2));
        set(tale.event(0, 1, 6, 5, "granted", &[]), Some(1), Some(5), Some(2));
        tale.event(0, 2, 1, 3, "elected", &[]).of_term = Some(2);
        set(tale.event(2, 2, 600, 5, "expired", &[(2, 1)]), Some(1), Some(5), None);
        set(tale.event(0, 3, 1_150, 5, "lapsed", &[(0, 2)]), Some(1), None, Some(2));
        set(tale.event(0, 4, 1_150, 5, "proposed", &[(0, 3), (0, 2)]), Some(1), Some(6), Some(1));
        set(tale.event(0, 5, 1_152, 6, "granted", &[(0, 4), (0, 3)]), Some(1), Some(6), Some(1));
        set(tale.event(1, 1, 1_153, 6, "granted", &[(0, 4), (0, 3)]), Some(1), Some(6), Some(1));
        set(tale.event(1, 2, 1_154, 6, "armed", &[(1, 1)]), Some(1), Some(6), None);
        let story = why(&tale.0, &Clocks::new(), &Subject::Resources(vec![1]), &called()).expect("there is one");
        assert_eq!(story.headline, "the address is held by node 1, epoch 6");
        let told = texts(&story);
        let place = |word: &str| told.iter().position(|text| text.contains(word)).expect("it is told");
        assert!(place("expired") < place("lapsed") && place("lapsed") < place("is granted to node 1"), "{told:?}");
        assert_eq!(story.outage, Some(554_000));
    }

    #[test]
    fn a_lease_that_is_long_over_is_not_waited_for() {
        let mut tale = Tale(takeover());
        tale.0.retain(|entry| !matches!(&*entry.kind, "proposed") && entry.epoch != Some(6));
        let headline = |tale: &Tale| {
            let story = why(&tale.0, &Clocks::new(), &Subject::Resources(vec![1]), &called()).expect("there is one");
            story.headline
        };
        assert_eq!(headline(&tale), "the address is nobody's until the lease of node 2, epoch 5, is over");
        tale.event(0, 20, 60_000, 6, "committed", &[]);
        let waits = |tale: &mut Tale, ms| {
            tale.0.iter_mut().filter(|entry| entry.kind == "waiting").for_each(|entry| entry.ms = Some(ms));
        };
        waits(&mut tale, 60_000);
        assert!(headline(&tale).contains("nobody's until"), "a lease of a minute is not over: {}", headline(&tale));
        waits(&mut tale, 600);
        assert!(headline(&tale).contains("nobody was granted it since"), "{}", headline(&tale));
    }

    #[test]
    fn causes_come_first_whatever_the_clocks_say() {
        // Nobody knows that node 1 is a second ahead, or another time a second behind.
        for wrong in [0, 2_000_000] {
            let clocks = Clocks::from([(1, wrong)]);
            let story = why(&takeover(), &clocks, &Subject::Resources(vec![1]), &called()).expect("there is one");
            let place = |word: &str| texts(&story).iter().position(|text| text.contains(word)).expect("it is told");
            assert!(place("stops") < place("judged") && place("judged") < place("proposed"), "{story:?}");
            assert!(place("proposed") < place("granted") && place("granted") < place("armed"), "{story:?}");
        }
    }

    #[test]
    fn the_order_of_an_operator_is_found_by_the_log_and_not_by_the_clock() {
        let mut all = takeover();
        let order = |index, ms: u64| Entry {
            node: 1,
            wall: 1_000 * ms,
            index,
            about: Some(2),
            ..Entry::new("operator", "drain", format!("drain at {index}"))
        };
        all.extend([order(4, 50), order(5, 1_140), order(6, 1_141)]);
        let story = why(&all, &Clocks::new(), &Subject::Resources(vec![1]), &called()).expect("there is one");
        let told: Vec<&str> = texts(&story).into_iter().filter(|text| text.starts_with("drain")).collect();
        assert_eq!(told, ["drain at 5"]);
    }

    #[test]
    fn a_node_is_asked_about_too_and_who_was_never_told_of_is_none() {
        let story = why(&takeover(), &Clocks::from([(1, 1_000_000)]), &Subject::Node(2), &called()).expect("one");
        assert_eq!(story.headline, "node 2 is down");
        assert_eq!(texts(&story).len(), 2, "{story:?}");
        assert_eq!(why(&takeover(), &Clocks::new(), &Subject::Node(7), &called()), None);
        assert_eq!(why(&takeover(), &Clocks::new(), &Subject::Resources(vec![256]), &called()), None);
    }

    #[test]
    fn a_journal_that_names_itself_as_its_cause_ends_too() {
        let mut tale = Tale(Vec::new());
        set(tale.event(0, 1, 1, 1, "granted", &[(0, 2)]), Some(1), Some(1), Some(0));
        set(tale.event(0, 2, 2, 1, "armed", &[(0, 1), (0, 2)]), Some(1), Some(1), None);
        let story = why(&tale.0, &Clocks::new(), &Subject::Resources(vec![1]), &called()).expect("there is one");
        assert_eq!(story.steps.len(), 2);
    }
}
