//! From the tables of a scenario file to the scenario.

use std::collections::BTreeMap;
use std::ops::Range;

use apus_engine::{Availability, DiagnosisRule, Mode, Mutant, Strategy};
use toml::de::{DeTable, DeValue};

use super::keys::{self, Shape, Table, Words};
use super::mend::expected;
use super::model::{Cluster, Expect, Files, Scenario, ScriptedFault, Service, SwarmFault, Workload};
use super::reader::{Reader, Value, View, join, quote};
use super::suggest::nearest;
use super::target::{default_target, read_target};
use super::units;
use crate::fault::{Kind, MS, S, Unit};

/// Something read, and where it stands in the file.
pub(super) struct Sited<'t, T> {
    pub(super) what: T,
    pub(super) view: View<'t>,
}

/// The parts of a file that could be read, with their places.
pub(super) struct Parts<'t> {
    pub(super) scenario: Scenario,
    pub(super) root: View<'t>,
    pub(super) cluster: Option<View<'t>>,
    pub(super) services: Vec<View<'t>>,
    pub(super) files: Option<View<'t>>,
    pub(super) faults: Vec<Sited<'t, ScriptedFault>>,
    pub(super) swarm: Vec<Sited<'t, SwarmFault>>,
    pub(super) expect: Option<View<'t>>,
    pub(super) requires: Vec<Vec<(String, Range<usize>)>>,
    pub(super) worlds: Vec<(&'static str, Range<usize>)>,
    pub(super) sometimes: Vec<(&'static str, Range<usize>)>,
    pub(super) fails: Vec<(&'static str, Range<usize>)>,
    /// Whether the numbers of nodes could be read, so that it makes sense to compare with them.
    pub(super) counted: bool,
}

pub(super) fn read<'t>(r: &mut Reader<'t>, table: &'t DeTable<'t>, file: &str) -> Parts<'t> {
    let root = r.open(&keys::ROOT, table, 0..0, String::new());
    let name = read_name(r, &root, file);
    let before = r.count();
    let nodes = small(r.number(&root, "nodes"));
    let members = small(r.number(&root, "members")).or(nodes);
    let usual = members.unwrap_or(1).min(5);
    let usual = if usual.is_multiple_of(2) { usual - 1 } else { usual };
    let voters = small(r.number(&root, "voters")).unwrap_or(usual);
    let arbiters = small(r.number(&root, "arbiters")).unwrap_or(0);
    let counted = r.count() == before && nodes.is_some();
    let worlds = r.words(&root, "worlds");
    let (services, requires, service_views) = read_services(r, &root);
    let cluster = sub(r, &root, "cluster", &keys::CLUSTER);
    let expect = sub(r, &root, "expect", &keys::EXPECT);
    let workload = sub(r, &root, "workload", &keys::WORKLOAD);
    let files = sub(r, &root, "files", &keys::FILES);
    let mut scenario = Scenario {
        name,
        about: r.text(&root, "about").unwrap_or_default().trim().to_owned(),
        worlds: worlds.iter().map(|(world, _)| (*world).to_owned()).collect(),
        nodes: nodes.unwrap_or(1),
        voters,
        arbiters,
        members: members.unwrap_or(1),
        duration: r.time(&root, "duration").unwrap_or(3_600 * S),
        heal: r.time(&root, "heal").unwrap_or(10 * S),
        every: r.number(&root, "every").unwrap_or(1).max(1),
        cluster: cluster.as_ref().map(|view| read_cluster(r, view)).unwrap_or_default(),
        services,
        workload: workload.as_ref().map(|view| read_workload(r, view)).unwrap_or_default(),
        files: files.as_ref().map(|view| read_files(r, view)),
        faults: Vec::new(),
        swarm: Vec::new(),
        expect: expect.as_ref().map(|view| read_expect(r, view)).unwrap_or_default(),
        mutant: r.word(&root, "mutant").and_then(Mutant::named),
    };
    if root.get("worlds").is_none() {
        scenario.worlds = vec!["heap".into()];
    }
    let faults = read_faults(r, &root);
    let swarm = read_swarm(r, &root);
    scenario.faults = faults.iter().map(|fault| fault.what.clone()).collect();
    scenario.swarm = swarm.iter().map(|fault| fault.what.clone()).collect();
    let sometimes = expect.as_ref().map(|view| r.words(view, "sometimes")).unwrap_or_default();
    let fails = expect.as_ref().map(|view| r.words(view, "fails")).unwrap_or_default();
    scenario.expect.sometimes = sometimes.iter().map(|(name, _)| (*name).to_owned()).collect();
    scenario.expect.fails = fails.iter().map(|(name, _)| (*name).to_owned()).collect();
    Parts {
        scenario,
        root,
        cluster,
        services: service_views,
        files,
        faults,
        swarm,
        expect,
        requires,
        worlds,
        sometimes,
        fails,
        counted,
    }
}

pub(super) fn small(number: Option<u64>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok())
}

fn byte(number: Option<u64>) -> Option<u8> {
    number.and_then(|number| u8::try_from(number).ok())
}

/// The name, which must be the file's.
fn read_name<'t>(r: &mut Reader<'t>, root: &View<'t>, file: &str) -> String {
    let Some(name) = r.text(root, "name") else { return String::new() };
    let base = file.rsplit(['/', '\\']).next().unwrap_or(file);
    if let Some(stem) = base.strip_suffix(".toml")
        && stem != name
    {
        let help = format!("write `name = {stem:?}`, or rename the file to `{name}.toml`");
        r.wrong(
            root.at("name"),
            "name",
            format!("the file is `{base}`, the name is {}", quote(&name)),
            "the file's name",
            help,
        );
    }
    name
}

/// A table below the root.
fn sub<'t>(r: &mut Reader<'t>, root: &View<'t>, key: &'static str, spec: &'static Table) -> Option<View<'t>> {
    let value = root.get(key)?;
    let DeValue::Table(table) = value.get_ref() else {
        not_a_table(r, value, key.to_owned(), Shape::Table(spec));
        return None;
    };
    Some(r.open(spec, table, value.span(), key.to_owned()))
}

/// The tables of a `[[list]]`.
fn subs<'t>(r: &mut Reader<'t>, root: &View<'t>, key: &'static str, spec: &'static Table) -> Vec<View<'t>> {
    let Some(value) = root.get(key) else { return Vec::new() };
    let DeValue::Array(array) = value.get_ref() else {
        not_a_table(r, value, key.to_owned(), Shape::Tables(spec));
        return Vec::new();
    };
    let mut out = Vec::new();
    for (at, value) in array.iter().enumerate() {
        let path = format!("{key}[{at}]");
        match value.get_ref() {
            DeValue::Table(table) => out.push(r.open(spec, table, value.span(), path)),
            _ => not_a_table(r, value, path, Shape::Table(spec)),
        }
    }
    out
}

fn not_a_table(r: &mut Reader<'_>, value: &Value<'_>, key: String, shape: Shape) {
    let help = match (value.get_ref(), shape) {
        (DeValue::Table(_), Shape::Tables(table)) => format!("write the header with two brackets: `{}`", table.name),
        (DeValue::Array(_), Shape::Table(table)) => format!("write the header with one bracket: `{}`", table.name),
        _ => "see docs/scenarios.md for the tables of a scenario".to_owned(),
    };
    r.wrong(value.span(), key, "this is not the table that is expected here", expected(shape), help);
}

fn read_cluster<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Cluster {
    Cluster {
        rule: r.word(view, "rule").map(|word| match word {
            "paper" => DiagnosisRule::Paper,
            _ => DiagnosisRule::Adaptive,
        }),
        availability: r.word(view, "availability").map(|word| match word {
            "prefer" => Availability::Prefer,
            _ => Availability::Safe,
        }),
        period: r.time(view, "period"),
        observers: byte(r.number(view, "observers")),
        convict: byte(r.number(view, "convict")),
        deadline_floor: r.time(view, "deadline_floor"),
        deadline_ceiling: r.time(view, "deadline_ceiling"),
        suspicion: r.time(view, "suspicion"),
        heartbeat: r.time(view, "heartbeat"),
        election: r.time(view, "election"),
        lease: r.time(view, "lease"),
        drift_ppm: r.share(view, "drift"),
        batch: small(r.number(view, "batch")),
        keep: r.number(view, "keep").and_then(|keep| u32::try_from(keep).ok()),
        wire_version: byte(r.number(view, "wire_version")),
        link_delay: r.time(view, "link_delay"),
        disk_delay: r.time(view, "disk_delay"),
    }
}

type Requires = Vec<Vec<(String, Range<usize>)>>;

fn read_services<'t>(r: &mut Reader<'t>, root: &View<'t>) -> (Vec<Service>, Requires, Vec<View<'t>>) {
    let views = subs(r, root, "service", &keys::SERVICE);
    let mut requires = Vec::new();
    let mut services = Vec::new();
    for view in &views {
        let needs = r.names(view, "requires");
        let strategy = match r.word(view, "strategy") {
            Some("warm") => Strategy::Warm,
            Some("hot") => Strategy::Hot,
            _ => Strategy::Cold,
        };
        services.push(Service {
            name: r.text(view, "name").unwrap_or_default(),
            strategy,
            degree: byte(r.number(view, "degree")).unwrap_or(if strategy == Strategy::Hot { 2 } else { 1 }),
            requires: needs.iter().map(|(name, _)| name.clone()).collect(),
            starts_in: r.time(view, "starts_in").unwrap_or(200 * MS),
            start_within: r.time(view, "start_within").unwrap_or(2 * S),
            heartbeats: r.times(view, "heartbeats"),
            grace: r.time(view, "grace").unwrap_or(500 * MS),
            failures: byte(r.number(view, "failures")).unwrap_or(3),
            within: r.time(view, "within").unwrap_or(30 * S),
            may_reboot: r.flag(view, "may_reboot").unwrap_or(false),
        });
        requires.push(needs);
    }
    (services, requires, views)
}

fn read_workload<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Workload {
    let clients = small(r.number(view, "clients")).unwrap_or(4);
    let rate = r.number(view, "rate").and_then(|rate| u32::try_from(rate).ok()).unwrap_or(10);
    let kind = r.word(view, "kind");
    if kind == Some("none")
        && let Some(key) = ["clients", "rate"].into_iter().find(|key| view.get(key).is_some())
    {
        let message = format!("`{key}` of a workload that does nothing");
        let help = format!("write `kind = \"notes\"` or `kind = \"flows\"`, or take `{key}` out");
        r.wrong(view.at(key), view.key(key), message, "clients that do something", help);
    }
    match kind {
        Some("notes") => Workload::Notes { clients, rate },
        Some("flows") => Workload::Flows { clients, rate },
        _ => Workload::None,
    }
}

fn read_files<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Files {
    Files {
        copies: small(r.number(view, "copies")).unwrap_or(3),
        mode: match r.word(view, "mode") {
            Some("sync") => Mode::Sync,
            Some("semi-sync") => Mode::SemiSync,
            _ => Mode::Async,
        },
        need: byte(r.number(view, "need")).unwrap_or(2),
        rate: r.number(view, "rate").and_then(|rate| u32::try_from(rate).ok()).unwrap_or(100),
        log: r.number(view, "log").unwrap_or(1 << 20),
        lag: r.number(view, "lag").unwrap_or(200),
        scrub: r.time(view, "scrub").unwrap_or(0),
        tree: r.number(view, "tree").unwrap_or(0),
        blocks: r.number(view, "blocks").unwrap_or(1),
    }
}

fn read_expect<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Expect {
    r.word(view, "invariants");
    Expect {
        except: read_reasons(r, view),
        takeover_within: r.time(view, "takeover_within"),
        diagnosis_within: r.time(view, "diagnosis_within"),
        news_within: r.time(view, "news_within"),
        converge_within: r.time(view, "converge_within"),
        blackout_within: r.time(view, "blackout_within"),
        packets_at_rest: r.number(view, "packets_at_rest"),
        sometimes: Vec::new(),
        fails: Vec::new(),
    }
}

fn read_reasons<'t>(r: &mut Reader<'t>, view: &View<'t>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let Some(value) = view.get("except") else { return out };
    let DeValue::Table(table) = value.get_ref() else {
        let help = "write `except = { \"checker\" = \"why it does not apply\" }`";
        r.wrong(value.span(), view.key("except"), "this is no table", expected(Shape::Reasons), help);
        return out;
    };
    for (name, reason) in table {
        let path = join(&view.key("except"), name.get_ref());
        let known = r.known_word(name.get_ref(), name.span(), &path, Words::Checkers);
        match reason.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => {
                out.extend(known.map(|name| (name.to_owned(), text.trim().to_owned())));
            }
            _ => r.wrong(
                reason.span(),
                path,
                "the reason is missing",
                "a text",
                "say in a few words why the checker does not apply here",
            ),
        }
    }
    out
}

fn read_kind<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Option<Kind> {
    r.word(view, "kind").and_then(Kind::named)
}

fn read_faults<'t>(r: &mut Reader<'t>, root: &View<'t>) -> Vec<Sited<'t, ScriptedFault>> {
    let views = subs(r, root, "fault", &keys::FAULT);
    views.into_iter().filter_map(|view| read_fault(r, &view).map(|what| Sited { what, view })).collect()
}

/// One scripted fault; `None` if anything about it is wrong.
fn read_fault<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Option<ScriptedFault> {
    let before = r.count();
    let kind = read_kind(r, view);
    let at = r.range(view, "at");
    let lasts = r.range(view, "for");
    let target = read_target(r, view);
    let rate = r.range(view, "rate");
    let kind = kind?;
    if kind.spec().lasts && view.get("for").is_none() {
        let help = "add `for = \"5s\"`, or a range `for = [\"1s\", \"10s\"]`";
        let message = format!("`{}` lasts, but `for` is missing", kind.spec().name);
        r.wrong(view.span.clone(), view.key("for"), message, "how long it lasts", help);
    }
    fits_kind(r, view, kind);
    let size = read_size(r, view, kind);
    let target = target.or_else(|| default_target(r, view, kind));
    let fault = ScriptedFault {
        kind,
        target: target?,
        at: at?,
        lasts: lasts.unwrap_or((0, 0)),
        rate_ppm: rate.map_or_else(|| one(kind.spec().rate.map_or(0, |(usual, _)| usual)), narrow),
        size: size.unwrap_or_else(|| one(kind.spec().size.map_or(0, |(_, usual, _)| usual))),
    };
    (r.count() == before).then_some(fault)
}

const fn one<T: Copy>(value: T) -> (T, T) {
    (value, value)
}

fn narrow((low, high): (u64, u64)) -> (u32, u32) {
    (u32::try_from(low).unwrap_or(u32::MAX), u32::try_from(high).unwrap_or(u32::MAX))
}

fn read_swarm<'t>(r: &mut Reader<'t>, root: &View<'t>) -> Vec<Sited<'t, SwarmFault>> {
    let Some(value) = root.get("swarm") else { return Vec::new() };
    let DeValue::Table(table) = value.get_ref() else {
        not_a_table(r, value, "swarm".into(), Shape::ByKind(&keys::SWARM));
        return Vec::new();
    };
    let mut out: Vec<Sited<'t, SwarmFault>> = Vec::new();
    for (name, value) in table {
        let path = join("swarm", name.get_ref());
        let kind = r.known_word(name.get_ref(), name.span(), &path, Words::Kinds).and_then(Kind::named);
        let DeValue::Table(inner) = value.get_ref() else {
            let help = format!("write `{} = {{ }}` for the defaults", name.get_ref());
            r.wrong(value.span(), path, "this is no table", expected(Shape::ByKind(&keys::SWARM)), help);
            continue;
        };
        let Some(kind) = kind else { continue };
        let view = r.open(&keys::SWARM, inner, name.span(), path);
        if let Some(what) = read_swarm_fault(r, &view, kind) {
            out.push(Sited { what, view });
        }
    }
    out.sort_by_key(|fault| fault.what.kind);
    out
}

fn read_swarm_fault<'t>(r: &mut Reader<'t>, view: &View<'t>, kind: Kind) -> Option<SwarmFault> {
    let before = r.count();
    fits_kind(r, view, kind);
    let spec = kind.spec();
    let usual = if spec.lasts { (100 * MS, 5 * S) } else { (0, 0) };
    let lasts = r.range(view, "for").unwrap_or(usual);
    let chance_ppm = r.share(view, "chance").unwrap_or(500_000);
    if chance_ppm == 0 {
        let help = "give it a chance, or take the kind out of the swarm";
        r.wrong(
            view.at("chance"),
            view.key("chance"),
            format!("`{}` would never happen", spec.name),
            "more than 0%",
            help,
        );
    }
    let count = r.range(view, "count").unwrap_or((1, 2));
    let rate = r.range(view, "rate").map(narrow);
    let size = read_size(r, view, kind);
    let target = read_target(r, view).or_else(|| default_target(r, view, kind));
    let fault = SwarmFault {
        kind,
        target: target?,
        chance_ppm,
        count: (small(Some(count.0)).unwrap_or(1), small(Some(count.1)).unwrap_or(1)),
        lasts,
        rate_ppm: rate
            .unwrap_or_else(|| spec.rate.map_or((0, 0), |(usual, most)| spread(usual.into(), most.into()).into_u32())),
        size: size
            .unwrap_or_else(|| spec.size.map_or((0, 0), |(unit, usual, most)| spread_size(kind, unit, usual, most))),
    };
    (r.count() == before).then_some(fault)
}

/// From a quarter of the usual value to twice as much.
struct Spread(u64, u64);

const fn spread(usual: u64, most: u64) -> Spread {
    let least = if usual / 4 == 0 { 1 } else { usual / 4 };
    let double = usual.saturating_mul(2);
    Spread(least, if double > most { most } else { double })
}

impl Spread {
    fn into_u32(self) -> (u32, u32) {
        narrow((self.0, self.1))
    }
}

fn spread_size(kind: Kind, unit: Unit, usual: u64, most: u64) -> (u64, u64) {
    if kind == Kind::DropKind || unit == Unit::Bytes {
        return (usual, usual);
    }
    let Spread(low, high) = spread(usual, most);
    (low, high)
}

/// `for`, `rate` and `size` only where the kind has them, within its limits.
fn fits_kind<'t>(r: &mut Reader<'t>, view: &View<'t>, kind: Kind) {
    let spec = kind.spec();
    for (key, has) in [("for", spec.lasts), ("rate", spec.rate.is_some()), ("size", spec.size.is_some())] {
        if view.get(key).is_some() && !has {
            let message = format!("`{}` has no `{key}`: {}", spec.name, spec.about);
            let why = if key == "for" { "it happens at once" } else { "the kind has none" };
            r.wrong(view.at(key), view.key(key), message, "", format!("take `{key}` out: {why}"));
        }
    }
    let high = view.get("rate").and_then(peek).map(|(_, high)| high);
    if spec.rate.is_some() && high == Some(0) {
        let message = format!("`{}` would never happen at this rate", spec.name);
        let help = "write a rate above 0%, or take the fault out";
        r.wrong(view.at("rate"), view.key("rate"), message, "more than 0%", help);
    }
    if let (Some((_, most)), Some(high)) = (spec.rate, high)
        && high > u64::from(most)
    {
        let most = units::show_share(most.into());
        let message = format!("the rate of `{}` is at most {most}", spec.name);
        r.wrong(
            view.at("rate"),
            view.key("rate"),
            message,
            format!("up to `\"{most}\"`"),
            format!("write at most `\"{most}\"`"),
        );
    }
}

/// The greatest share of a rate, without complaints.
fn peek(value: &Value<'_>) -> Option<(u64, u64)> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => units::share(text).ok().filter(|ppm| *ppm <= 1_000_000),
        _ => None,
    };
    let most = match value.get_ref() {
        DeValue::Array(array) => array.iter().filter_map(|value| one(value.get_ref())).max(),
        DeValue::Table(table) => table.values().filter_map(|value| one(value.get_ref())).max(),
        value => one(value),
    };
    most.map(|most| (0, most))
}

/// The size in the unit of the kind.
fn read_size<'t>(r: &mut Reader<'t>, view: &View<'t>, kind: Kind) -> Option<(u64, u64)> {
    let (unit, _, most) = kind.spec().size?;
    let value = view.get("size")?;
    let key = view.key("size");
    r.pair(value, &key, |r, value, key| match unit {
        _ if kind == Kind::DropKind => packet_kind(r, value, key),
        Unit::Count => r.one_number(value, key.to_owned(), Shape::Count(1, most), (1, most)),
        Unit::Time => {
            let shape = Shape::Time(1_000, most);
            r.quantity(value, key, shape, &expected(shape), (1_000, most), (units::time, units::show_time))
        }
        Unit::Ppm => {
            let shape = Shape::Share(most);
            r.quantity(value, key, shape, &expected(shape), (1, most), (units::share, units::show_share))
        }
        Unit::Bytes => {
            let text = format!("a size up to {}, such as `\"1200B\"` or `\"64KiB\"`", units::show_bytes(most));
            r.quantity(value, key, Shape::Sizes, &text, (1, most), (units::bytes, units::show_bytes))
        }
        Unit::Bandwidth => {
            let text = "bytes a second, such as `\"64kB/s\"`";
            let show = |rate| format!("{}/s", units::show_bytes(rate));
            r.quantity(value, key, Shape::Sizes, text, (1, most), (units::bandwidth, show))
        }
    })
}

/// Every kind of packet, by its byte.
fn packet_kinds() -> impl Iterator<Item = (u8, &'static str)> {
    (0x10..0x50).map(|byte| (byte, apus_engine::wire::kind_name(byte))).filter(|(_, name)| *name != "unknown")
}

pub(super) fn packet_kind_names() -> Vec<&'static str> {
    packet_kinds().map(|(_, name)| name).collect()
}

/// A kind of packet by its name.
fn packet_kind(r: &mut Reader<'_>, value: &Value<'_>, key: &str) -> Option<u64> {
    let names = packet_kind_names();
    let expected = format!("one of {}", super::reader::list(&names));
    let DeValue::String(text) = value.get_ref() else {
        r.wrong(
            value.span(),
            key,
            "a kind of packet is written by its name",
            expected,
            "write for example `\"vote-request\"`",
        );
        return None;
    };
    if let Some((byte, _)) = packet_kinds().find(|(_, name)| *name == text.as_ref()) {
        return Some(byte.into());
    }
    let near = nearest(text, names.iter().copied());
    let help =
        near.map_or_else(|| "take one of the expected names".to_owned(), |near| format!("did you mean `{near}`?"));
    r.wrong(value.span(), key, format!("there is no kind of packet {}", quote(text)), expected, help);
    None
}
