//! One entry of a node's journal: what happened there, when by its clocks, and what it follows from.

use std::borrow::Cow;

use apus_engine::{
    Copy, EngineFact, Event, EvidenceId, Fact, GroupId, Incarnation, NodeId, ResourceId, ServiceId, consensus,
    diagnosis, shipping, supervision, views,
};
use apus_host::Names;
use serde_json::{Map, Value, json};

use crate::service::slot_resource;

/// Longest text that is kept, in characters.
pub(crate) const TEXT: usize = 640;

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Info,
    /// Something is amiss, and is being dealt with.
    Warning,
    /// Something failed.
    Error,
}

impl Level {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// As syslog and the system's journal number it.
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
        }
    }
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The how-manieth of the node's journal, from 1; restarts do not begin anew.
    pub seq: u64,
    /// Whose journal.
    pub node: u16,
    /// The node's wall clock, in microseconds since 1970.
    pub wall: u64,
    /// Its clock since the machine's start, in microseconds.
    pub boot: u64,
    /// Where the node's log stood: term, and index of what was committed.
    pub term: u64,
    /// See `term`.
    pub index: u64,
    /// The epoch that the entry is about.
    pub epoch: Option<u64>,
    /// The engine's name of the event; none for what the host or an operator did.
    pub id: Option<EvidenceId>,
    /// What it follows from, on any node.
    pub because: Vec<EvidenceId>,
    /// Who says so: `engine`, `diagnosis`, `log`, `leases`, `programs`, `host`, `operator`.
    pub part: Cow<'static, str>,
    /// What happened, in a word.
    pub kind: Cow<'static, str>,
    /// The resource that it is about.
    pub resource: Option<u16>,
    /// What that is called.
    pub name: Option<String>,
    /// The node that it is about.
    pub about: Option<u16>,
    /// Another node that plays a part.
    pub by: Option<u16>,
    /// The life of the node that it is about.
    pub life: Option<u32>,
    /// A length of time in it, in milliseconds.
    pub ms: Option<u64>,
    /// The term that it is about.
    pub of_term: Option<u64>,
    /// In words.
    pub text: String,
}

/// A node's engine events and what its host adds carry these names.
fn resource_of(copy: Copy) -> ResourceId {
    slot_resource(copy.service, copy.slot)
}

impl Entry {
    /// Of an engine's event. Clocks, position and number are the journal's to set.
    #[must_use]
    pub fn of(event: &Event, names: &impl Names) -> Self {
        let mut entry = Self {
            id: Some(event.id),
            because: event.because.iter().filter(|id| id.is_some()).copied().collect(),
            text: apus_host::words(event, names),
            ..Self::default()
        };
        match &event.fact {
            Fact::Engine(fact) => entry.engine(*fact),
            Fact::Diagnosis(fact) => entry.diagnosis(fact, event.id.node),
            Fact::Consensus(fact) => entry.consensus(fact),
            Fact::Views(fact) => entry.views(fact),
            Fact::Supervision(fact) => entry.supervision(fact),
            Fact::Shipping(fact) => entry.shipping(fact),
        }
        entry.name = entry.resource.map(|resource| names.resource(ResourceId(resource)));
        entry
    }

    /// Of something that is no engine's: the host's or an operator's doing.
    #[must_use]
    pub fn new(part: &'static str, kind: &'static str, text: impl Into<String>) -> Self {
        Self { part: part.into(), kind: kind.into(), text: text.into(), ..Self::default() }
    }

    fn tell(&mut self, part: &'static str, kind: &'static str) {
        (self.part, self.kind) = (part.into(), kind.into());
    }

    fn engine(&mut self, fact: EngineFact) {
        let kind = match fact {
            EngineFact::Started { .. } => "started",
            EngineFact::Stalled { late } => {
                self.ms = Some(late.0 / 1_000);
                "stalled"
            }
            EngineFact::Superseded { .. } => "superseded",
            EngineFact::DiskFailed => "disk-failed",
            EngineFact::DiskFull => "disk-full",
        };
        self.tell("engine", kind);
    }

    fn diagnosis(&mut self, fact: &diagnosis::Fact, me: NodeId) {
        use diagnosis::Fact;
        let (kind, node, life) = match fact {
            Fact::Missed { node, deadline } => {
                self.ms = Some(deadline.0 / 1_000);
                ("missed", *node, None)
            }
            Fact::Suspected { node, inc, by } => {
                self.by = Some(by.0);
                (if *by == me { "suspected" } else { "heard" }, *node, Some(*inc))
            }
            Fact::Cleared { node, inc } => ("cleared", *node, Some(*inc)),
            Fact::Down { node, inc } => ("down", *node, Some(*inc)),
            Fact::Up { node, inc } => ("up", *node, Some(*inc)),
            Fact::SelfDegraded { .. } => ("slow", me, None),
        };
        self.about = Some(node.0);
        self.life = life.map(|Incarnation(life)| life);
        self.tell("diagnosis", kind);
    }

    fn consensus(&mut self, fact: &consensus::Fact) {
        use consensus::Fact;
        let kind = match fact {
            Fact::Campaign { term, pre } => {
                self.of_term = Some(term.0);
                if *pre { "polls" } else { "stands" }
            }
            Fact::Voted { term, candidate } => {
                (self.of_term, self.about) = (Some(term.0), Some(candidate.0));
                "voted"
            }
            Fact::Elected { term } => {
                self.of_term = Some(term.0);
                "elected"
            }
            Fact::SteppedDown { term, .. } => {
                self.of_term = Some(term.0);
                "stepped-down"
            }
            Fact::Follows { leader, term } => {
                (self.of_term, self.about) = (Some(term.0), Some(leader.0));
                "follows"
            }
            Fact::Committed { .. } => "committed",
            Fact::Installed { .. } => "installed",
            Fact::Members { .. } => "members",
            Fact::Blank { node } => {
                self.about = Some(node.0);
                "blank"
            }
        };
        self.tell("log", kind);
    }

    fn shipping(&mut self, fact: &shipping::Fact) {
        use shipping::Fact;
        let (kind, about) = match fact {
            Fact::Promised { .. } => ("promised", None),
            Fact::Refused { .. } => ("refused", None),
            Fact::Fetching { from, .. } => ("fetches", Some(from)),
            Fact::TooFew { .. } => ("too-few", None),
            Fact::NoModel { furthest, .. } => ("no-model", Some(furthest)),
            Fact::Opened { .. } => ("opened", None),
            Fact::Closed { .. } => ("closed", None),
            Fact::LetGo { .. } => ("let-go", None),
            Fact::Following { source, .. } => ("follows", Some(source)),
            Fact::Synced { .. } => ("compared", None),
            Fact::Orphaned { .. } => ("saved", None),
            Fact::Lagging { node, .. } => ("lagging", Some(node)),
            Fact::CaughtUp { node, .. } => ("caught-up", Some(node)),
            Fact::Troubled { node, .. } => ("troubled", Some(node)),
            Fact::Recovered { node, .. } => ("recovered", Some(node)),
            Fact::Dropped { node, .. } => ("dropped", Some(node)),
            Fact::Missed { .. } => ("missed", None),
            Fact::Differs { node, .. } => ("differs", Some(node)),
        };
        self.about = about.map(|node| node.0);
        self.tell("files", kind);
    }

    fn views(&mut self, fact: &views::Fact) {
        use views::Fact;
        let (kind, resource) = match fact {
            Fact::Waiting { resource, holder, left } => {
                (self.about, self.ms) = (Some(holder.0), Some(left.0 / 1_000));
                ("waiting", *resource)
            }
            Fact::Proposed { resource, holder, index } => {
                (self.about, self.epoch) = (Some(holder.0), Some(index.0));
                ("proposed", *resource)
            }
            Fact::Granted { resource, epoch, holder } => {
                (self.about, self.epoch) = (Some(holder.0), Some(epoch.0));
                ("granted", *resource)
            }
            Fact::Armed { resource, epoch, .. } => {
                self.epoch = Some(epoch.0);
                ("armed", *resource)
            }
            Fact::Expired { resource, epoch } => {
                self.epoch = Some(epoch.0);
                ("expired", *resource)
            }
            Fact::Released { resource, epoch } => {
                self.epoch = Some(epoch.0);
                ("released", *resource)
            }
            Fact::Refused { resource, epoch, .. } => {
                self.epoch = Some(epoch.0);
                ("refused", *resource)
            }
            Fact::Seized { resource } => ("seized", *resource),
            Fact::Yielded { resource, to } => {
                self.about = Some(to.0);
                ("yielded", *resource)
            }
            Fact::Lapsed { resource, holder, over } => {
                (self.about, self.ms) = (Some(holder.0), Some(over.0 / 1_000));
                ("lapsed", *resource)
            }
            Fact::Noted { .. } => return self.tell("leases", "noted"),
        };
        self.resource = Some(resource.0);
        self.tell("leases", kind);
    }

    fn supervision(&mut self, fact: &supervision::Fact) {
        use supervision::{Fact, Rung};
        let (kind, copy) = match fact {
            Fact::Starting { copy, epoch, .. } => {
                self.epoch = Some(epoch.0);
                ("starting", *copy)
            }
            Fact::Ready { copy } => ("ready", *copy),
            Fact::Promoted { copy, epoch } => {
                self.epoch = Some(epoch.0);
                ("promoted", *copy)
            }
            Fact::Failed { copy, .. } => ("failed", *copy),
            Fact::BackingOff { copy, wait, .. } => {
                self.ms = Some(wait.0 / 1_000);
                ("backing-off", *copy)
            }
            Fact::Escalated { copy, rung } => {
                let kind = match rung {
                    Rung::Restart => "restart",
                    Rung::FailOver => "fail-over",
                    Rung::Reboot => "reboot",
                };
                (kind, *copy)
            }
            Fact::Stopping { copy } => ("stopping", *copy),
            Fact::Stopped { copy } => ("stopped", *copy),
        };
        self.resource = Some(resource_of(copy).0);
        self.tell("programs", kind);
    }

    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> Level {
        match &*self.kind {
            "failed" | "disk-failed" | "superseded" | "fail-over" | "reboot" | "refused-order" => Level::Error,
            "missed" | "suspected" | "heard" | "down" | "expired" | "stepped-down" | "stalled" | "slow" | "waiting"
            | "lapsed" | "backing-off" | "disk-full" | "blank" | "restart" | "refused-remote" | "remote-failed"
            | "slow-asker" | "too-few" | "no-model" | "lagging" | "troubled" | "dropped" | "saved" | "differs"
            | "stranger" => Level::Warning,
            _ => Level::Info,
        }
    }

    /// As programs read it.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                all.insert(key.into(), value);
            }
        };
        put("node", json!(self.node));
        put("seq", json!(self.seq));
        put("wall_us", json!(self.wall));
        put("boot_us", json!(self.boot));
        put("term", json!(self.term));
        put("index", json!(self.index));
        put("level", json!(self.level().name()));
        put("part", json!(self.part));
        put("kind", json!(self.kind));
        put("epoch", json!(self.epoch));
        put("resource", json!(self.resource));
        put("name", json!(self.name));
        put("about", json!(self.about));
        put("by", json!(self.by));
        put("life", json!(self.life));
        put("ms", json!(self.ms));
        put("of_term", json!(self.of_term));
        put("text", json!(self.text));
        put("id", json!(self.id.map(|id| id.to_string())));
        if !self.because.is_empty() {
            put("because", self.because.iter().map(|id| Value::String(id.to_string())).collect());
        }
        Value::Object(all)
    }

    /// Reads what [`json`](Self::json) wrote, here or on another node; `None` if it is no entry.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_u64();
        let small = |key: &str| number(key).and_then(|number| u16::try_from(number).ok());
        let word = |key: &str| value[key].as_str().map(|word| short(word, 40));
        let ids = value["because"].as_array().into_iter().flatten().filter_map(Value::as_str).filter_map(evidence);
        Some(Self {
            seq: number("seq")?,
            node: small("node")?,
            wall: number("wall_us")?,
            boot: number("boot_us")?,
            term: number("term").unwrap_or_default(),
            index: number("index").unwrap_or_default(),
            epoch: number("epoch"),
            id: value["id"].as_str().and_then(evidence),
            because: ids.take(3).collect(),
            part: word("part")?.into(),
            kind: word("kind")?.into(),
            resource: small("resource"),
            name: word("name"),
            about: small("about"),
            by: small("by"),
            life: number("life").and_then(|life| u32::try_from(life).ok()),
            ms: number("ms"),
            of_term: number("of_term"),
            text: short(value["text"].as_str()?, TEXT),
        })
    }

    /// With a text that is not too long.
    #[must_use]
    pub(super) fn bounded(mut self) -> Self {
        self.text = short(&self.text, TEXT);
        self
    }
}

/// The first so many characters, without those that would end a line, drive a terminal, or turn the order of others around.
pub(crate) fn short(text: &str, most: usize) -> String {
    let odd = |c: char| {
        c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars().take(most).map(|c| if odd(c) { ' ' } else { c }).collect()
}

/// Reads such as `n2.1.17`.
fn evidence(text: &str) -> Option<EvidenceId> {
    let mut parts = text.strip_prefix('n')?.split('.');
    let id = EvidenceId {
        node: NodeId(parts.next()?.parse().ok()?),
        inc: Incarnation(parts.next()?.parse().ok()?),
        seq: parts.next()?.parse().ok()?,
    };
    (parts.next().is_none() && id.is_some()).then_some(id)
}

/// What things are called on this node: the address, and services by their names.
#[derive(Clone, Debug, Default)]
pub struct Called {
    services: Vec<(ServiceId, String, u8)>,
    address: Option<ResourceId>,
    groups: Vec<(GroupId, String)>,
}

impl Called {
    /// By the node's configuration: services with their degrees, and which resource the address is.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = (ServiceId, String, u8)>, address: Option<ResourceId>) -> Self {
        Self { services: services.into_iter().collect(), address, groups: Vec::new() }
    }

    /// With groups of files.
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = (GroupId, String)>) -> Self {
        Self { groups: groups.into_iter().collect(), ..self }
    }

    /// The resources that a word means: `vip`, a service, or a slot such as `web.1`.
    #[must_use]
    pub fn resources(&self, word: &str) -> Vec<u16> {
        if matches!(word, "vip" | "address" | "the address") {
            return self.address.iter().map(|address| address.0).collect();
        }
        let slots = self.services.iter().flat_map(|(id, name, degree)| (0..*degree).map(move |slot| (*id, name, slot)));
        let meant = slots.filter(|(_, name, slot)| *name == word || format!("{name}.{slot}") == word);
        meant.map(|(id, _, slot)| slot_resource(id, slot).0).collect()
    }

    /// Everything that can be asked about, but nodes.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let address = self.address.map(|_| "vip".to_owned());
        address.into_iter().chain(self.services.iter().map(|(_, name, _)| name.clone())).collect()
    }
}

impl Names for Called {
    fn node(&self, node: NodeId) -> String {
        format!("node {}", node.0)
    }

    fn resource(&self, resource: ResourceId) -> String {
        if self.address == Some(resource) {
            return "the address".into();
        }
        let slots = self.services.iter().flat_map(|(id, _, degree)| (0..*degree).map(move |slot| (*id, slot)));
        let mut found = slots.filter(|(id, slot)| slot_resource(*id, *slot) == resource);
        found.next().map_or_else(|| resource.to_string(), |(service, slot)| self.copy(Copy { service, slot }))
    }

    fn group(&self, group: GroupId) -> String {
        let found = self.groups.iter().find(|(id, _)| *id == group);
        found.map_or_else(|| group.to_string(), |(_, name)| name.clone())
    }

    fn copy(&self, copy: Copy) -> String {
        let found = self.services.iter().find(|(id, ..)| *id == copy.service);
        found.map_or_else(|| format!("{}.{}", copy.service, copy.slot), |(_, name, _)| format!("{name}.{}", copy.slot))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn called() -> Called {
        Called::new([(ServiceId(0), "web".into(), 2)], Some(ResourceId(1)))
    }

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let id = EvidenceId { node: NodeId(2), inc: Incarnation(3), seq: 17 };
        let fact = views::Fact::Granted { resource: ResourceId(257), epoch: apus_engine::Epoch(9), holder: NodeId(1) };
        let event = Event { id, because: [id, EvidenceId::NONE, id], fact: Fact::Views(fact) };
        let mut entry = Entry::of(&event, &called());
        (entry.seq, entry.node, entry.wall, entry.boot, entry.term, entry.index) =
            (4, 2, 1_700_000_000_000_000, 5, 6, 9);
        assert_eq!(entry.text, "applies the grant: web.1 to node 1 by e9");
        assert_eq!((entry.epoch, entry.about, entry.resource, entry.because.len()), (Some(9), Some(1), Some(257), 2));
        assert_eq!(Entry::read(&entry.json()).as_ref(), Some(&entry));
    }

    #[test]
    fn what_is_no_entry_is_refused_and_long_or_odd_texts_are_cut() {
        let good = Entry { seq: 1, ..Entry::new("host", "said", "hello") }.json();
        assert!(Entry::read(&good).is_some());
        for key in ["seq", "node", "wall_us", "boot_us", "part", "kind", "text"] {
            let mut bad = good.clone();
            bad[key] = Value::Null;
            assert_eq!(Entry::read(&bad), None, "{key}");
        }
        let mut long = good;
        long["text"] = json!("\u{1b}[31mx\n\u{202e}".repeat(500));
        long["because"] = json!(["n1.1.1", "n1.1.0", "n1.1", "m1.1.1", "n1.1.2", "n1.1.3", "n1.1.4"]);
        let read = Entry::read(&long).expect("it is one");
        assert!(read.text.chars().count() == TEXT && !read.text.contains(['\u{1b}', '\n', '\u{202e}']));
        assert_eq!(read.because.len(), 3);
    }

    #[test]
    fn words_mean_what_is_configured() {
        assert_eq!(called().resources("vip"), [1]);
        assert_eq!(called().resources("web"), [256, 257]);
        assert_eq!(called().resources("web.1"), [257]);
        assert_eq!(called().resources("db"), [0_u16; 0]);
        assert_eq!(called().all(), ["vip", "web"]);
    }
}
