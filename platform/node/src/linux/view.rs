//! What a node shows of itself and of its cluster: its own word, and what its peers say when they are asked.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apus_engine::diagnosis::Status;
use apus_engine::{Engine, Event, NodeId, ResourceId};
use apus_host::Names as _;
use apus_host::transport::Counters;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::task::JoinSet;

use super::address::Order;
use super::control::Serving;
use super::machine::is_down;
use super::peers::{Heard, PAGE, Peers};
use super::{DISPATCHER, now};
use crate::view::{Called, Clocks, Entry, Journal, Subject, alarms, on_disk, wall, why};
use crate::{Config, roster, slot_resource};

/// Peers are waited for so long.
const ANSWER: Duration = Duration::from_millis(400);
/// What was found out is good for so long: many who look cost no more than one.
const FRESH: Duration = Duration::from_millis(200);
/// A leader that heard no majority for so long has none.
const LOST: apus_engine::Micros = apus_engine::Micros::from_secs(1);
/// Between two looks at the journals while somebody follows them.
const LOOK: Duration = Duration::from_millis(300);
/// A word to who follows while there is nothing to tell.
const BEAT: Duration = Duration::from_secs(2);
/// Entries of one answer at most.
const MOST: usize = 20_000;

/// Those who asked too slowly and were closed.
#[derive(Default)]
pub(super) struct Slow {
    /// At the page: nothing was answered, or taken, for too long.
    pub(super) quiet: AtomicU64,
    /// At the page: their places were wanted.
    pub(super) gave_way: AtomicU64,
    /// At the control socket: the question did not come in time.
    pub(super) control: AtomicU64,
    /// At the control socket: their places were wanted.
    pub(super) control_gave_way: AtomicU64,
}

impl Slow {
    /// So many gave way at the control socket; true if it was fewer before.
    pub(super) fn gave_way_at_control(&self, so_far: u64) -> bool {
        self.control_gave_way.swap(so_far, Ordering::Relaxed) < so_far
    }
}

/// What the view of a node needs, beside what it shows.
pub(super) struct View {
    pub(super) slow: Arc<Slow>,
    pub(super) journal: Arc<Journal>,
    pub(super) peers: Peers,
    called: Called,
    folder: PathBuf,
    place: Arc<Place>,
    began: Instant,
    transport: OnceCell<Box<dyn Fn() -> Counters>>,
    cluster: RefCell<Option<(Instant, Value)>>,
}

/// Where the log stood when something was last told, for those who cannot look at the engine.
#[derive(Default)]
pub(super) struct Place {
    term: AtomicU64,
    index: AtomicU64,
}

/// Sets an entry's clocks.
fn stamped(entry: Entry) -> Entry {
    Entry { wall: wall(), boot: now().0, ..entry }
}

/// Puts down what the host says, from any thread.
pub(super) fn said(journal: &Journal, place: &Place, line: &str) {
    put(journal, place, Entry::new("host", "said", line));
}

/// Puts an entry down, from any thread.
pub(super) fn put(journal: &Journal, place: &Place, entry: Entry) {
    let (term, index) = (place.term.load(Ordering::Relaxed), place.index.load(Ordering::Relaxed));
    journal.put(Entry { term, index, ..stamped(entry) });
}

/// What things are called here.
pub(super) fn called(config: &Config) -> Called {
    let services = config.services.iter().map(|service| &service.engine);
    let services = services.map(|service| (service.id, service.name.clone(), service.degree));
    let groups = config.groups.iter().map(|group| (group.engine.id, group.name.clone()));
    Called::new(services, config.vip.as_ref().map(|_| DISPATCHER)).with_groups(groups)
}

impl View {
    pub(super) fn new(
        config: &Config,
        journal: Arc<Journal>,
        place: Arc<Place>,
        nudge: Rc<tokio::sync::Notify>,
    ) -> Self {
        let others = config.nodes.iter().map(|node| node.id).filter(|node| *node != config.me).collect();
        Self {
            slow: Arc::default(),
            journal,
            peers: Peers::new(others, nudge),
            called: called(config),
            folder: folder(config),
            place,
            began: Instant::now(),
            transport: OnceCell::new(),
            cluster: RefCell::default(),
        }
    }

    /// Says where the transport's counters are seen.
    pub(super) fn watch(&self, transport: impl Fn() -> Counters + 'static) {
        let _ = self.transport.set(Box::new(transport));
    }

    /// Puts an entry into the journal, with the clocks and the place of the log.
    pub(super) fn note(&self, engine: &Engine, entry: Entry) {
        if let Some((_, log, ..)) = engine.look() {
            self.place.term.store(log.term().0, Ordering::Relaxed);
            self.place.index.store(log.commit().0, Ordering::Relaxed);
        }
        let (term, index) = (self.place.term.load(Ordering::Relaxed), self.place.index.load(Ordering::Relaxed));
        self.journal.put(Entry { term, index, ..stamped(entry) });
    }

    /// Takes entries of other threads, and says them.
    pub(super) fn notes(&self, print: super::Say) -> super::Note {
        let (journal, place, called) = (self.journal.clone(), self.place.clone(), self.called.clone());
        Arc::new(move |entry: Entry| {
            print(&entry.text);
            let name = entry.resource.map(|resource| called.resource(ResourceId(resource)));
            put(&journal, &place, Entry { name, ..entry });
        })
    }

    /// What a word means: the address, a service's slots.
    pub(super) fn resources(&self, word: &str) -> Vec<u16> {
        self.called.resources(word)
    }

    /// What a resource is called.
    pub(super) fn name(&self, resource: ResourceId) -> String {
        self.called.resource(resource)
    }

    /// Puts an engine's event down.
    pub(super) fn event(&self, engine: &Engine, event: &Event) {
        self.note(engine, Entry::of(event, &self.called));
    }
}

/// Where the journal's files are.
pub(super) fn folder(config: &Config) -> PathBuf {
    config.folder.join("journal")
}

const fn word(status: Status) -> &'static str {
    match status {
        Status::Up => "up",
        Status::Suspect => "suspect",
        Status::Down => "down",
        Status::Left => "left",
    }
}

/// Entries of several nodes, and what is not among them.
pub(super) struct Gathered {
    entries: Vec<Entry>,
    clocks: Clocks,
    within: BTreeMap<u16, u64>,
    missing: Vec<Value>,
    /// By node: the last entry that was got.
    upto: BTreeMap<u16, u64>,
}

impl Gathered {
    fn at(&self, entry: &Entry) -> u64 {
        let ahead = self.clocks.get(&entry.node).copied().unwrap_or_default();
        entry.wall.saturating_add_signed(ahead.saturating_neg())
    }

    /// By time on this node's clock, as far as clocks are known.
    fn sort(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let mut order: Vec<(u64, Entry)> = entries.into_iter().map(|entry| (self.at(&entry), entry)).collect();
        order.sort_by_key(|(at, entry)| (*at, entry.node, entry.seq));
        self.entries = order.into_iter().map(|(_, entry)| entry).collect();
    }

    /// As told to a client: with the time on this node's clock.
    fn lines(&self) -> impl Iterator<Item = Value> + '_ {
        self.entries.iter().map(|entry| {
            let mut line = entry.json();
            line["at_us"] = self.at(entry).into();
            line
        })
    }

    fn clocks(&self) -> Value {
        let clock = |(node, ahead): (&u16, &i64)| json!({ "node": node, "ahead_us": ahead, "within_us": self.within.get(node) });
        self.clocks.iter().map(clock).collect()
    }
}

impl Serving {
    /// This node's own word about itself.
    pub(super) fn own(&self) -> Value {
        let mut own = json!({
            "node": self.me.0, "apus": env!("CARGO_PKG_VERSION"), "state": "starting, or its disk failed",
            "wall_us": wall(), "boot_us": now().0, "up_s": self.view.began.elapsed().as_secs(),
            "incarnation": self.engine.borrow().incarnation().0,
        });
        let services = self.services();
        let engine = self.engine.borrow();
        let Some((diagnosis, log, views, _)) = engine.look() else { return own };
        let resources = log.state().grants.keys();
        let holds = resources.filter_map(|resource| {
            views.holds(*resource).map(|(epoch, until)| {
            json!({ "resource": resource.0, "epoch": epoch.0, "left_ms": until.since(now()).0 / 1_000 })
        })
        });
        let here = services["services"].as_array().into_iter().flatten().filter(|row| row["here"] == true);
        own["state"] = "running".into();
        own["term"] = log.term().0.into();
        own["commit"] = log.commit().0.into();
        own["slow"] = diagnosis.lhm().into();
        own["holds"] = holds.collect();
        own["services"] = here.cloned().collect();
        own["files"] = self.files.rows(&engine, self.me);
        own
    }

    /// What a peer asks.
    pub(super) fn answer_peer(&self, from: NodeId, question: &Value) -> Value {
        match question["ask"].as_str() {
            Some("remote") => self.far.asked(from, question),
            Some("own") => json!({ "own": self.own() }),
            Some("entries") => {
                let number = |key: &str| question[key].as_u64().unwrap_or_default();
                let page = self.view.journal.page(number("after"), number("since_us"), 1_000, PAGE);
                let entries: Vec<Value> = page.entries.iter().map(Entry::json).collect();
                json!({ "entries": entries, "more": page.more, "last": page.last })
            }
            _ => json!({ "error": "not known" }),
        }
    }

    /// Nodes that diagnosis does not call down, this one not among them.
    fn reachable(&self) -> BTreeSet<NodeId> {
        let engine = self.engine.borrow();
        self.view.peers.others().iter().filter(|node| !is_down(&engine, **node)).copied().collect()
    }

    /// Asks several peers at once.
    async fn ask_each(&self, questions: BTreeMap<NodeId, Value>) -> BTreeMap<NodeId, Heard> {
        let mut tasks = JoinSet::new();
        for (node, question) in questions {
            let view = self.view.clone();
            tasks.spawn_local(async move { (node, view.peers.ask(node, &question, ANSWER).await) });
        }
        let mut heard = BTreeMap::new();
        while let Some(done) = tasks.join_next().await {
            if let Ok((node, Some(answer))) = done
                && answer.value.get("error").is_none()
            {
                heard.insert(node, answer);
            }
        }
        heard
    }

    /// The whole cluster as this node sees it.
    pub(super) async fn cluster(&self) -> Value {
        if let Some((at, known)) = &*self.view.cluster.borrow()
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let questions = self.reachable().into_iter().map(|node| (node, json!({ "ask": "own" }))).collect();
        let heard = self.ask_each(questions).await;
        let address = match &self.address {
            Some(_) => self.of_address(|to| Order::Status { to }).await.unwrap_or_default(),
            None => Value::Null,
        };
        let mut status = self.seen(&heard, &address);
        let alarms = alarms(&status);
        status["alarms"] = alarms.into();
        status["health"] = crate::view::Health::of(&status).name().into();
        *self.view.cluster.borrow_mut() = Some((Instant::now(), status.clone()));
        status
    }

    fn seen(&self, heard: &BTreeMap<NodeId, Heard>, address: &Value) -> Value {
        let own = self.own();
        let mut status = json!({
            "apus": own["apus"], "cluster": self.cluster, "node": self.me.0, "state": own["state"],
            "incarnation": own["incarnation"], "wall_us": own["wall_us"], "boot_us": own["boot_us"], "up_s": own["up_s"],
        });
        let engine = self.engine.borrow();
        let Some((diagnosis, log, ..)) = engine.look() else { return status };
        let (state, members) = (log.state(), log.membership());
        let say =
            |node: NodeId| if node == self.me { Some(&own) } else { heard.get(&node).map(|heard| &heard.value["own"]) };
        let state_of = |node: NodeId| match diagnosis.status(node) {
            _ if node == self.me => "up",
            Some((status, _)) => word(status),
            None => "up",
        };
        let kept = |setting: ResourceId, such: bool| {
            if such { roster::words(&state.settings, setting) } else { Value::Null }
        };
        let leader = log.leader();
        let dispatcher = state.grants.get(&DISPATCHER).filter(|grant| !grant.released).map(|grant| grant.holder);
        let nodes: Vec<Value> = self
            .nodes
            .borrow()
            .iter()
            .map(|node| {
                let id = node.id;
                let (own, heard) = (say(id), heard.get(&id));
                let life = diagnosis.status(id).map(|(_, life)| life.0);
                json!({
                    "node": id.0, "address": node.address.to_string(), "status": state_of(id),
                    "life": own.map_or(json!(life), |own| own["incarnation"].clone()),
                    "member": members.contains(id), "voter": members.votes(id), "drained": state.drained.contains(&id),
                    "maintenance": kept(roster::maintenance(id), state.drained.contains(&id)),
                    "fenced": kept(roster::fencing(id), true),
                    "weight": node.weight, "coordinator": leader == Some(id), "dispatcher": dispatcher == Some(id),
                    "answers": own.is_some(), "clock_us": heard.map(|heard| heard.ahead).or((id == self.me).then_some(0)),
                    "clock_within_us": heard.map(|heard| heard.within),
                    "term": own.map(|own| &own["term"]), "commit": own.map(|own| &own["commit"]),
                    "up_s": own.map(|own| &own["up_s"]), "slow": own.map(|own| &own["slow"]),
                    "apus": own.map(|own| &own["apus"]),
                })
            })
            .collect();
        let voters: Vec<u16> = members.voters.iter().map(|node| node.0).collect();
        let up = members.voters.iter().filter(|node| matches!(state_of(**node), "up" | "suspect")).count();
        let hears = match (log.leads(), leader) {
            (Some(_), _) => log.quorum_contact(now()).is_some_and(|at| now().since(at) < LOST),
            (None, leader) => leader.is_some_and(|leader| state_of(leader) != "down"),
        };
        let needed = voters.len() / 2 + 1;
        status["term"] = log.term().0.into();
        status["commit"] = log.commit().0.into();
        status["epoch"] = state.grants.values().map(|grant| grant.epoch.0).max().into();
        status["coordinator"] = leader.map(|node| node.0).into();
        status["dispatcher"] = dispatcher.map(|node| node.0).into();
        status["quorum"] = json!({
            "voters": voters, "of": voters.len(), "up": up, "needed": needed, "has": hears && up >= needed,
        });
        status["nodes"] = nodes.into();
        status["tests"] = diagnosis.tests().iter().map(|(from, to)| json!([from.0, to.0])).collect();
        let held = |node: NodeId, resource: ResourceId, epoch: u64| {
            let holds = say(node).and_then(|own| own["holds"].as_array());
            let found = holds.into_iter().flatten();
            found
                .filter(|one| one["resource"] == resource.0 && one["epoch"] == epoch)
                .map(|one| one["left_ms"].clone())
                .next()
        };
        let slots = self.services.iter().flat_map(|s| (0..s.degree).map(|slot| slot_resource(s.id, slot)));
        let resources = self.address.as_ref().map(|_| DISPATCHER).into_iter().chain(slots);
        status["leases"] = resources
            .map(|resource| {
                let grant = state.grants.get(&resource);
                let kept = grant.filter(|grant| !grant.released);
                json!({
                    "resource": resource.0, "name": self.view.called.resource(resource),
                    "holder": kept.map(|grant| grant.holder.0), "epoch": grant.map(|grant| grant.epoch.0),
                    "moving": kept.and_then(|grant| grant.moving).map(|to| json!({ "to": to.map(|node| node.0) })),
                    "left_ms": kept.and_then(|grant| held(grant.holder, resource, grant.epoch.0)),
                    "lease_ms": self.lease.0 / 1_000,
                })
            })
            .collect();
        let packets = engine.counters();
        let (last, unwritten) = self.view.journal.counts();
        let peers = self.view.peers.counters();
        status["counters"] = json!({
            "engine": {
                "taken": packets.packets, "before-start": packets.before_start, "spoofed": packets.spoofed,
                "old-life": packets.old_incarnation, "malformed": packets.malformed, "damaged": packets.damaged,
                "version": packets.version, "unknown-kind": packets.unknown_kind, "other-cluster": packets.other_cluster,
            },
            "frames": address["counters"],
            "journal": { "put": last, "unwritten": unwritten },
            "transport": self.view.transport.get().map(|counters| transport(&counters())),
            "remote": self.far.counters(),
            "slow": {
                "page-quiet": self.view.slow.quiet.load(Ordering::Relaxed),
                "page-gave-way": self.view.slow.gave_way.load(Ordering::Relaxed),
                "control-gave-way": self.view.slow.control_gave_way.load(Ordering::Relaxed),
                "control": self.view.slow.control.load(Ordering::Relaxed),
            },
            "view": { "asked": peers.asked, "answered": peers.answered, "served": peers.served, "refused": peers.refused },
        });
        status["address"] = address.clone();
        status["wire"] = engine.config().wire_version.into();
        drop(engine);
        status["services"] = self.rows(&|node| {
            if node == self.me { Some(own.clone()) } else { heard.get(&node).map(|heard| heard.value["own"].clone()) }
        });
        let own = [(self.me, &own)].into_iter();
        let all: Vec<(NodeId, &Value)> =
            own.chain(heard.iter().map(|(node, heard)| (*node, &heard.value["own"]))).collect();
        status["files"] = crate::view::files(&all);
        status["missing"] = self.missing(|node| heard.contains_key(&node));
        status
    }

    /// Slots of services, each by its holder's word where that is known.
    fn rows(&self, say: &dyn Fn(NodeId) -> Option<Value>) -> Value {
        let mut words: BTreeMap<u16, Option<Value>> = BTreeMap::new();
        for node in self.nodes.borrow().iter() {
            words.insert(node.id.0, say(node.id));
        }
        let mut table = self.services();
        let Some(rows) = table["services"].as_array_mut() else { return json!([]) };
        for row in rows.iter_mut() {
            let (name, slot) = (row["name"].clone(), row["slot"].clone());
            let (holder, epoch) = (row["node"].clone(), row["epoch"].clone());
            let of = |own: &Value| {
                let mut all = own["services"].as_array().into_iter().flatten();
                all.find(|other| other["name"] == name && other["slot"] == slot).cloned()
            };
            let copies: Vec<Value> = words
                .iter()
                .filter_map(|(node, own)| Some((node, of(own.as_ref()?)?)))
                .map(|(node, copy)| json!({ "node": node, "state": copy["state"], "pid": copy["pid"] }))
                .collect();
            let word = holder.as_u64().and_then(|node| u16::try_from(node).ok()).and_then(|node| words.get(&node));
            *row = match word {
                None => json!({ "state": "nobody's" }),
                Some(None) => json!({ "state": "not known" }),
                Some(Some(own)) => of(own).unwrap_or_else(|| json!({ "state": "stopped" })),
            };
            row["name"] = name;
            row["slot"] = slot;
            row["node"] = holder;
            row["epoch"] = epoch;
            row["copies"] = copies.into();
        }
        table["services"].take()
    }

    /// Who has not answered, and why, as far as that is known.
    fn missing(&self, heard: impl Fn(NodeId) -> bool) -> Value {
        let engine = self.engine.borrow();
        let why = |node: NodeId| {
            let status = engine.look().and_then(|(diagnosis, ..)| diagnosis.status(node));
            match status {
                Some((Status::Down, _)) => "it is down",
                Some((Status::Left, _)) => "it is no member",
                _ => "it does not answer",
            }
        };
        let missing = self.view.peers.others().iter().filter(|node| !heard(**node));
        missing.map(|node| json!({ "node": node.0, "why": why(*node) })).collect()
    }

    /// Entries of all nodes, or of one, that can be asked: those after what each was asked upto already.
    async fn gather(&self, since: u64, only: Option<u16>, upto: &BTreeMap<u16, u64>) -> Gathered {
        let mut all = Gathered {
            entries: Vec::new(),
            clocks: Clocks::new(),
            within: BTreeMap::new(),
            missing: Vec::new(),
            upto: upto.clone(),
        };
        let wanted = |node: NodeId| only.is_none_or(|only| only == node.0);
        if wanted(self.me) {
            let after = upto.get(&self.me.0).copied().unwrap_or_default();
            let page = self.view.journal.page(after, since, MOST, usize::MAX);
            all.upto.insert(self.me.0, page.last);
            all.entries = page.entries;
        }
        let mut open: BTreeMap<NodeId, u64> = BTreeMap::new();
        for node in self.reachable().into_iter().filter(|node| wanted(*node)) {
            open.insert(node, upto.get(&node.0).copied().unwrap_or_default());
        }
        let mut heard = BTreeSet::new();
        let mut failed = BTreeSet::new();
        while !open.is_empty() && all.entries.len() < MOST {
            let question = |after: &u64| json!({ "ask": "entries", "after": after, "since_us": since });
            let questions = open.iter().map(|(node, after)| (*node, question(after))).collect();
            let answers = self.ask_each(questions).await;
            let asked = std::mem::take(&mut open);
            for (node, after) in asked {
                let Some(answer) = answers.get(&node) else {
                    failed.insert(node);
                    continue;
                };
                heard.insert(node);
                if all.within.get(&node.0).is_none_or(|within| answer.within < *within) {
                    all.clocks.insert(node.0, answer.ahead);
                    all.within.insert(node.0, answer.within);
                }
                let entries = answer.value["entries"].as_array().into_iter().flatten().filter_map(Entry::read);
                all.entries.extend(entries.filter(|entry| entry.node == node.0));
                let last = answer.value["last"].as_u64().unwrap_or_default();
                match answer.value["more"].as_u64() {
                    // Only on: a peer that sends one back would be asked for ever.
                    Some(more) if more > after || after > last => {
                        open.insert(node, more);
                    }
                    _ => {
                        all.upto.insert(node.0, last);
                    }
                }
            }
        }
        heard.retain(|node| !failed.contains(node));
        let missing = self.missing(|node| heard.contains(&node) || !wanted(node));
        all.missing = missing.as_array().cloned().unwrap_or_default();
        all.sort();
        all
    }

    /// Why something is as it is.
    pub(super) async fn why(&self, of: &str) -> Result<Value, String> {
        let resources = self.view.called.resources(of);
        let number = of.strip_prefix("node").unwrap_or(of).trim().trim_start_matches('n').parse::<u16>().ok();
        let node = number.filter(|number| self.nodes.borrow().iter().any(|node| node.id.0 == *number));
        let subject = match node {
            _ if !resources.is_empty() => Subject::Resources(resources),
            Some(node) => Subject::Node(node),
            None => {
                let nodes: Vec<String> = self.nodes.borrow().iter().map(|node| format!("n{}", node.id.0)).collect();
                let known: Vec<String> = self.view.called.all().into_iter().chain(nodes).collect();
                return Err(format!("`{of}` is not known here; known are {}", known.join(", ")));
            }
        };
        let all = self.gather(0, None, &BTreeMap::new()).await;
        let missing = || -> Vec<String> {
            all.missing
                .iter()
                .map(|one| format!("node {} ({})", one["node"], one["why"].as_str().unwrap_or("")))
                .collect()
        };
        let Some(story) = why(&all.entries, &all.clocks, &subject, &self.view.called) else {
            let without = missing();
            let without = if without.is_empty() { String::new() } else { format!("; missing: {}", without.join(", ")) };
            return Err(format!("the journals tell nothing of `{of}`{without}"));
        };
        let mut answer = story.json();
        answer["of"] = of.into();
        answer["node"] = self.me.0.into();
        answer["clocks"] = all.clocks();
        answer["missing"] = all.missing.clone().into();
        Ok(answer)
    }

    /// Entries as one document, the oldest first: the last so many of the newest.
    pub(super) async fn events(&self, since: u64, most: usize) -> Value {
        let all = self.gather(since, None, &BTreeMap::new()).await;
        let lines: Vec<Value> = all.lines().skip(all.entries.len().saturating_sub(most)).collect();
        json!({ "events": lines, "upto": all.upto, "clocks": all.clocks(), "missing": all.missing })
    }

    /// Entries that came after what was told already.
    pub(super) async fn events_after(&self, upto: &BTreeMap<u16, u64>) -> (Value, BTreeMap<u16, u64>) {
        let all = self.gather(0, None, upto).await;
        (all.lines().collect(), all.upto.clone())
    }

    /// Tells entries line by line: those that there are, then, if that is asked, those that come.
    pub(super) async fn tell_events(&self, question: &Value, to: &mut OwnedWriteHalf) {
        let since = question["since_us"].as_u64().unwrap_or_default();
        let only = question["node"].as_u64().and_then(|node| u16::try_from(node).ok());
        let follow = question["follow"] == true;
        if let Some(node) = only.filter(|only| !self.nodes.borrow().iter().any(|node| node.id.0 == *only)) {
            let line = json!({ "error": format!("node {node} is not in the cluster") });
            let _ = to.write_all(format!("{line}\n").as_bytes()).await;
            return;
        }
        let mut all = self.gather(since, only, &BTreeMap::new()).await;
        // What memory has no more is on this node's disk.
        if only.is_none_or(|only| only == self.me.0) && since < self.view.journal.oldest() {
            let first = all.entries.iter().filter(|entry| entry.node == self.me.0).map(|entry| entry.seq).min();
            let folder = self.view.folder.clone();
            let older =
                tokio::task::spawn_blocking(move || on_disk(&folder, since, first.unwrap_or(u64::MAX), MOST)).await;
            all.entries.extend(older.unwrap_or_default());
            all.sort();
        }
        let mut quiet = Instant::now();
        loop {
            let mut text = String::new();
            for line in all.lines() {
                text += &format!("{line}\n");
            }
            if !follow {
                let end = json!({ "end": "told", "missing": all.missing, "clocks": all.clocks() });
                text += &format!("{end}\n");
            } else if text.is_empty() && quiet.elapsed() >= BEAT {
                text += "{\"beat\":true}\n";
            }
            if !text.is_empty() {
                quiet = Instant::now();
                if to.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            tokio::time::sleep(LOOK).await;
            let upto = std::mem::take(&mut all.upto);
            all = self.gather(since, only, &upto).await;
        }
    }

    /// Puts an operator's order down, before it is given.
    pub(super) fn ordered(&self, question: &Value, user: u32) {
        if question["dry"] == true {
            return;
        }
        let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok());
        let moved = question["what"].as_str().map_or_else(|| vec![DISPATCHER.0], |what| self.view.resources(what));
        let (kind, what) = match (question["do"].as_str(), node) {
            (Some("drain"), Some(node)) => ("drain", format!("drain node {node}")),
            (Some("undrain"), Some(node)) => ("undrain", format!("undrain node {node}")),
            (Some("move"), Some(node)) => {
                let what = moved
                    .first()
                    .map_or_else(|| "what is not known".into(), |resource| self.view.name(ResourceId(*resource)));
                ("move", format!("move {what} to node {node}"))
            }
            (Some("set"), _) => ("set", "set the address up anew".to_owned()),
            (Some("maintain"), Some(node)) => {
                let what = if question["on"] == true { "begin" } else { "end" };
                let why = question["why"].as_str().filter(|why| !why.is_empty()).map(|why| format!(": {why}"));
                ("maintain", format!("{what} the maintenance of node {node}{}", why.unwrap_or_default()))
            }
            (Some("fence"), Some(node)) => {
                ("fence", format!("fence node {node}, {}", question["action"].as_str().unwrap_or("off")))
            }
            (Some("apply"), _) => ("apply", format!("apply {}", question["file"].as_str().unwrap_or_default())),
            _ => return,
        };
        let resource = match kind {
            "move" => moved.first().copied(),
            "set" => Some(DISPATCHER.0),
            _ => None,
        };
        let entry = Entry {
            about: node,
            resource,
            name: resource.map(|resource| self.view.name(ResourceId(resource))),
            ..Entry::new("operator", kind, format!("an operator (user {user}) orders here: {what}"))
        };
        self.view.note(&self.engine.borrow(), entry);
    }

    /// Puts down that an order was refused.
    pub(super) fn refused(&self, question: &Value, why: &str) {
        let what = question["do"].as_str().unwrap_or_default();
        let orders = ["drain", "undrain", "move", "set", "maintain", "fence", "apply"];
        if question["dry"] != true && orders.contains(&what) {
            let entry = Entry::new("operator", "refused-order", format!("the order to {what} is refused: {why}"));
            self.view.note(&self.engine.borrow(), entry);
        }
    }
}

fn transport(counters: &Counters) -> Value {
    json!({
        "probes-sent": counters.probes_sent, "probes-received": counters.probes_received,
        "probes-dropped": counters.probes_dropped, "probes-failed": counters.probes_failed,
        "strangers": counters.strangers, "packets-sent": counters.packets_sent,
        "packets-received": counters.packets_received, "packets-refused": counters.packets_refused,
        "packets-stale": counters.packets_stale, "dialled": counters.dialled, "dial-failed": counters.dial_failed,
        "hellos-refused": counters.hellos_refused, "silent": counters.silent, "ended": counters.ended,
        "bad-frames": counters.bad_frames,
    })
}
