//! `[[services]]`: what is supervised, for people and for the engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use apus_engine::{Availability, Micros, NodeId, ResourceConfig, ResourceId, Role, ServiceConfig, ServiceId, Strategy};
use apus_os::program::{Check, Hooks, Limits, Liveness, Readiness, Spec};

use crate::config::{Section, Value, Wrong, number, text};

/// Slots of one service at most.
const MOST_SLOTS: u8 = 16;
/// The slots' numbers among the resources begin here; lower ones are those of addresses.
const FIRST_SLOT: u16 = 256;
/// A promise that is checked from outside is kept as long as so many tries fail.
const MISSES: u64 = 3;

/// One supervised service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What the engine is told.
    pub engine: ServiceConfig,
    /// How a copy is run, but for its slot.
    pub spec: Spec,
    /// Nodes that may run it, the preferred one first; empty for any.
    pub candidates: Vec<NodeId>,
    /// Whether a copy ends with its lease even while no daemon runs. Without that, two nodes may run it.
    pub fenced: bool,
}

impl Service {
    /// Its resources: one for each slot.
    pub fn resources(&self) -> impl Iterator<Item = ResourceConfig> + '_ {
        (0..self.engine.degree).map(|slot| ResourceConfig {
            id: slot_resource(self.engine.id, slot),
            role: Role::Slot { service: self.engine.id, slot },
            availability: Availability::Safe,
            candidates: self.candidates.clone(),
        })
    }

    /// How the copy in a slot is run.
    #[must_use]
    pub fn copy(&self, slot: u8) -> Spec {
        Spec { slot, ..self.spec.clone() }
    }
}

/// The resource of a slot.
#[must_use]
pub fn slot_resource(service: ServiceId, slot: u8) -> ResourceId {
    ResourceId(FIRST_SLOT + service.0 * u16::from(MOST_SLOTS) + u16::from(slot))
}

/// Reads a length of time such as `250ms`, in microseconds.
pub(crate) fn time(value: &Value<'_>, key: &str) -> Result<Micros, Wrong> {
    let word = text(value, key)?;
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = word.split_at(digits);
    let scale = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => 0,
    };
    let time = count.parse::<u64>().ok().and_then(|count| count.checked_mul(scale)).filter(|time| *time > 0);
    time.filter(|time| *time <= 30 * 24 * 3_600_000_000).map(Micros).ok_or_else(|| {
        let want = "a whole number above 0 with us, ms, s, m or h, 30 days at most, such as `250ms`";
        (value.span(), format!("`{key}` is `{word}`, and must be {want}"))
    })
}

/// Reads bytes such as `512M`, as a text or a number.
pub(crate) fn bytes(value: &Value<'_>, key: &str) -> Result<u64, Wrong> {
    if value.get_ref().as_integer().is_some() {
        return number(value, key, "bytes");
    }
    let word = text(value, key)?;
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = word.split_at(digits);
    let scale = match unit {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let bytes = scale.and_then(|scale| count.parse::<u64>().ok()?.checked_mul(1 << scale)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| (value.span(), format!("`{key}` is `{word}`, and must be bytes such as `512M` or `2G`")))
}

fn list<'t, T>(
    value: &'t Value<'t>,
    key: &str,
    want: &str,
    read: impl Fn(&'t Value<'t>) -> Result<T, Wrong>,
) -> Result<Vec<T>, Wrong> {
    let wrong = || (value.span(), format!("`{key}` must be a list: {want}"));
    value.get_ref().as_array().ok_or_else(wrong)?.iter().map(read).collect()
}

/// A program and its arguments.
pub(crate) fn command(value: &Value<'_>, key: &str) -> Result<Vec<String>, Wrong> {
    let want = "the program and its arguments, such as [\"/bin/sleep\", \"60\"]; no shell is between";
    let command = list(value, key, want, |word| text(word, key).map(str::to_owned))?;
    if command.first().is_none_or(String::is_empty) || command.iter().any(|word| word.contains('\0')) {
        return Err((value.span(), format!("`{key}` must be {want}")));
    }
    Ok(command)
}

pub(crate) fn table<'t>(value: &'t Value<'t>, name: &'static str, such: &str) -> Result<Section<'t>, Wrong> {
    let table = value.get_ref().as_table();
    table
        .map(|table| Section { table, span: value.span(), name })
        .ok_or_else(|| (value.span(), format!("{name} must be a table, such as `{such}`")))
}

/// `[[services]]`. `nodes` are those of the cluster; `reboots` tells whether there is a reboot hook.
pub(crate) fn services(value: &Value<'_>, nodes: &[NodeId], reboots: bool) -> Result<Vec<Service>, Wrong> {
    let wrong = || (value.span(), "`services` must be a list of tables: write a `[[services]]` for each".to_owned());
    let entries = value.get_ref().as_array().ok_or_else(wrong)?;
    let mut sections = Vec::new();
    let mut names: Vec<(&str, ServiceId)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let table = entry.get_ref().as_table().ok_or_else(wrong)?;
        let section = Section { table, span: entry.span(), name: "a service" };
        let name = name(section.need("name", "\"web\"")?)?;
        let id = match section.get("id") {
            Some(value) => number(value, "id", "0 to 1023")?,
            None => u16::try_from(at).unwrap_or(u16::MAX),
        };
        if id > 1_023 {
            return Err((section.span.clone(), "`id` must be 0 to 1023".into()));
        }
        if let Some((other, _)) = names.iter().find(|(other, taken)| *other == name || taken.0 == id) {
            let what = format!("this service has the name or the `id` of `{other}`; each needs its own");
            return Err((section.span.clone(), what));
        }
        names.push((name, ServiceId(id)));
        sections.push(section);
    }
    let mut all = Vec::new();
    for (section, (name, id)) in sections.iter().zip(&names) {
        all.push(service(section, name, *id, &names, nodes, reboots)?);
    }
    circles(&all, &sections)?;
    Ok(all)
}

/// What requires itself could never start.
fn circles(all: &[Service], sections: &[Section<'_>]) -> Result<(), Wrong> {
    for (service, section) in all.iter().zip(sections) {
        let mut reached = service.engine.requires.clone();
        let mut at = 0;
        while let Some(next) = reached.get(at).copied() {
            at += 1;
            for more in all.iter().filter(|other| other.engine.id == next).flat_map(|other| &other.engine.requires) {
                if !reached.contains(more) {
                    reached.push(*more);
                }
            }
        }
        if reached.contains(&service.engine.id) {
            let span = section.get("requires").map_or(section.span.clone(), toml::Spanned::span);
            let what = format!("`{}` requires itself, if by a circle; take one of them out", service.engine.name);
            return Err((span, what));
        }
    }
    Ok(())
}

/// A name that can be one of a folder and of a control group.
fn name<'t>(value: &'t Value<'t>) -> Result<&'t str, Wrong> {
    let name = text(value, "name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
        let want = "1 to 32 letters, digits, `-` and `_`";
        return Err((value.span(), format!("`name` is `{name}`, and must be {want}")));
    }
    Ok(name)
}

const KEYS: &[&str] = &[
    "name",
    "id",
    "command",
    "user",
    "environment",
    "directory",
    "limits",
    "ready",
    "live",
    "heartbeats",
    "strategy",
    "replicas",
    "candidates",
    "requires",
    "stop",
    "backoff",
    "backoff_max",
    "stable_after",
    "failures",
    "within",
    "start_within",
    "may_reboot",
    "promote",
    "before",
    "after",
    "hooks_within",
    "core",
    "output",
    "fenced",
];

fn service(
    section: &Section<'_>,
    name: &str,
    id: ServiceId,
    names: &[(&str, ServiceId)],
    nodes: &[NodeId],
    reboots: bool,
) -> Result<Service, Wrong> {
    section.known(KEYS)?;
    let mut engine = ServiceConfig::cold(id, name);
    let command_of = command(section.need("command", "[\"/bin/sleep\", \"60\"]")?, "command")?;
    (engine.strategy, engine.degree) = copies(section, nodes.len())?;
    let candidates = match section.get("candidates") {
        Some(value) => list(value, "candidates", "numbers of nodes, such as [0, 1]", |node| {
            let id = NodeId(number(node, "candidates", "numbers of nodes")?);
            let unknown = || (node.span(), format!("`candidates` names node {}, which is not among `nodes`", id.0));
            if nodes.contains(&id) { Ok(id) } else { Err(unknown()) }
        })?,
        None => Vec::new(),
    };
    if let Some(value) = section.get("requires") {
        engine.requires = list(value, "requires", "names of services, such as [\"db\"]", |word| {
            let wanted = text(word, "requires")?;
            let found = names.iter().find(|(name, _)| *name == wanted).map(|(_, id)| *id);
            found.ok_or_else(|| (word.span(), format!("`requires` names `{wanted}`, and there is no such service")))
        })?;
    }
    let mut times = [
        ("start_within", &mut engine.start_within),
        ("backoff", &mut engine.backoff),
        ("backoff_max", &mut engine.backoff_max),
        ("stable_after", &mut engine.stable_after),
        ("within", &mut engine.within),
    ];
    for (key, place) in &mut times {
        if let Some(value) = section.get(key) {
            **place = time(value, key)?;
        }
    }
    if engine.backoff > engine.backoff_max {
        let span =
            section.get("backoff").or(section.get("backoff_max")).map_or(section.span.clone(), toml::Spanned::span);
        return Err((span, "`backoff` must be at most `backoff_max` (5s if left out)".into()));
    }
    if let Some(value) = section.get("failures") {
        engine.failures = number(value, "failures", "1 to 255")?;
        if engine.failures == 0 {
            return Err((value.span(), "`failures` must be 1 to 255".into()));
        }
    }
    engine.may_reboot = flag(section, "may_reboot", false)?;
    if engine.may_reboot && !reboots {
        let span = section.get("may_reboot").map_or(section.span.clone(), toml::Spanned::span);
        return Err((span, "there is no reboot hook: write such as `reboot = [\"/sbin/reboot\"]` at the top".into()));
    }
    if let Some(value) = section.get("heartbeats") {
        engine.heartbeats = list(value, "heartbeats", "a promise for each thread, such as [\"1s\"]", |value| {
            time(value, "heartbeats")
        })?;
    }
    let watchdog = engine.heartbeats.first().map(|promise| promise.0);
    let (signal, grace) = stop(section)?;
    engine.grace = grace;
    let liveness = match section.get("live") {
        Some(value) => {
            let live = live(value, u32::try_from(engine.heartbeats.len()).unwrap_or(u32::MAX))?;
            engine.heartbeats.push(Micros(live.promise));
            Some(live)
        }
        None => None,
    };
    let (log_bytes, log_files) = output(section)?;
    let word = |key| section.get(key).map(|value| text(value, key).map(str::to_owned)).transpose();
    let spec = Spec {
        name: name.into(),
        slot: 0,
        command: command_of,
        user: word("user")?,
        environment: environment(section)?,
        directory: word("directory")?,
        limits: limits(section)?,
        readiness: section.get("ready").map_or(Ok(Readiness::Started), ready)?,
        liveness,
        watchdog,
        stop_signal: signal,
        grace: grace.0,
        promote: section.get("promote").map(|value| command(value, "promote")).transpose()?,
        log_bytes,
        log_files,
        hooks: hooks(section)?,
        core: section.get("core").map(|value| bytes(value, "core")).transpose()?,
    };
    Ok(Service { engine, spec, candidates, fenced: flag(section, "fenced", true)? })
}

fn hooks(section: &Section<'_>) -> Result<Hooks, Wrong> {
    let one = |key| section.get(key).map(|value| command(value, key)).transpose();
    let (before, after) = (one("before")?, one("after")?);
    let within = section.get("hooks_within").map(|value| Ok((value, time(value, "hooks_within")?.0))).transpose()?;
    if let Some((value, within)) = within
        && (before.is_none() && after.is_none() || !(1_000..=600_000_000).contains(&within))
    {
        let what = "`hooks_within` is for `before` and `after`, which a service must have, and must be 1ms to 10m";
        return Err((value.span(), what.into()));
    }
    let any = before.is_some() || after.is_some();
    let within = within.map_or(10_000_000, |(_, within)| within);
    Ok(if any { Hooks { before, after, within } } else { Hooks::default() })
}

fn flag(section: &Section<'_>, key: &str, or: bool) -> Result<bool, Wrong> {
    section.get(key).map_or(Ok(or), |value| {
        value.get_ref().as_bool().ok_or_else(|| (value.span(), format!("`{key}` must be true or false")))
    })
}

fn copies(section: &Section<'_>, nodes: usize) -> Result<(Strategy, u8), Wrong> {
    let strategy = match section.get("strategy") {
        None => Strategy::Cold,
        Some(value) => match text(value, "strategy")? {
            "cold" => Strategy::Cold,
            "warm" => Strategy::Warm,
            "hot" => Strategy::Hot,
            word => return Err((value.span(), format!("`strategy` is `{word}`, and must be cold, warm or hot"))),
        },
    };
    let Some(value) = section.get("replicas") else {
        let all = u8::try_from(nodes).unwrap_or(MOST_SLOTS).min(MOST_SLOTS);
        return Ok((strategy, if strategy == Strategy::Hot { all } else { 1 }));
    };
    let replicas: u8 = number(value, "replicas", "1 to 16")?;
    if strategy != Strategy::Hot && replicas != 1 {
        return Err((value.span(), "`replicas` is for `strategy = \"hot\"` alone: others have one active copy".into()));
    }
    if !(1..=MOST_SLOTS).contains(&replicas) || usize::from(replicas) > nodes {
        let what = format!("`replicas` must be 1 to {}: each copy is on a node of its own", nodes.min(16));
        return Err((value.span(), what));
    }
    Ok((strategy, replicas))
}

fn environment(section: &Section<'_>) -> Result<Vec<(String, String)>, Wrong> {
    let Some(value) = section.get("environment") else { return Ok(Vec::new()) };
    let table = table(value, "`environment`", "environment = { LANG = \"C\" }")?;
    let mut all = Vec::new();
    for (key, value) in table.table {
        let (key, word) = (key.get_ref().to_string(), text(value, "environment")?);
        if key.is_empty() || key.contains(['=', '\0']) || word.contains('\0') {
            return Err((value.span(), format!("`{key}` is no name of the environment")));
        }
        all.push((key, word.to_owned()));
    }
    Ok(all)
}

fn limits(section: &Section<'_>) -> Result<Limits, Wrong> {
    let Some(value) = section.get("limits") else { return Ok(Limits::default()) };
    let table = table(value, "`limits`", "limits = { memory = \"512M\", cpu = \"150%\", pids = 100 }")?;
    table.known(&["memory", "cpu", "pids"])?;
    let cpu = table.get("cpu").map(|value| {
        let word = text(value, "cpu")?;
        let percent = word.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
        let percent = percent.filter(|percent| (1..=100_000).contains(percent)).map(|percent| percent * 10);
        percent.ok_or_else(|| {
            (value.span(), format!("`cpu` is `{word}`, and must be a part of one processor, such as `150%`"))
        })
    });
    Ok(Limits {
        memory: table.get("memory").map(|value| bytes(value, "memory")).transpose()?,
        cpu: cpu.transpose()?,
        pids: table.get("pids").map(|value| number(value, "pids", "a number above 0")).transpose()?,
    })
}

const CHECKS: &str =
    "{ tcp = \"127.0.0.1:80\" }, { http = \"http://127.0.0.1:80/health\" } or { script = [\"/bin/check\"] }";

/// The one of `tcp`, `http` and `script` that is there.
fn check(section: &Section<'_>) -> Result<Check, Wrong> {
    let found: Vec<_> = ["tcp", "http", "script"].iter().filter(|key| section.get(key).is_some()).collect();
    let [kind] = found[..] else {
        return Err((section.span.clone(), format!("{} must be one of {CHECKS}", section.name)));
    };
    let value = section.need(kind, CHECKS)?;
    let address = |word: &str, key: &str| {
        let parsed = word.parse::<SocketAddr>().ok().or_else(|| {
            let port = word.strip_prefix("localhost:")?.parse().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        });
        let such = "an address and a port, such as `127.0.0.1:80`";
        parsed.ok_or_else(|| (value.span(), format!("`{key}` is `{word}`, and must have {such}")))
    };
    match *kind {
        "tcp" => Ok(Check::Tcp(address(text(value, "tcp")?, "tcp")?)),
        "script" => Ok(Check::Script(command(value, "script")?)),
        _ => {
            let word = text(value, "http")?;
            let rest = word.strip_prefix("http://").unwrap_or(word);
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err((value.span(), format!("`http` is `{word}`: a path has no blanks")));
            }
            Ok(Check::Http { address: address(host, "http")?, path: format!("/{path}") })
        }
    }
}

fn ready(value: &Value<'_>) -> Result<Readiness, Wrong> {
    if let Some(word) = value.get_ref().as_str() {
        return match word {
            "started" => Ok(Readiness::Started),
            "notify" => Ok(Readiness::Notify),
            _ => Err((value.span(), format!("`ready` is `{word}`, and must be \"started\", \"notify\", {CHECKS}"))),
        };
    }
    let section = table(value, "`ready`", "ready = { tcp = \"127.0.0.1:80\" }")?;
    section.known(&["tcp", "http", "script", "every"])?;
    let every = section.get("every").map_or(Ok(Micros(20_000)), |value| time(value, "every"))?;
    Ok(Readiness::Check { check: check(&section)?, every: every.0 })
}

fn live(value: &Value<'_>, thread: u32) -> Result<Liveness, Wrong> {
    let section = table(value, "`live`", "live = { http = \"http://127.0.0.1:80/health\", every = \"1s\" }")?;
    section.known(&["tcp", "http", "script", "every", "within"])?;
    let every = section.get("every").map_or(Ok(Micros::from_secs(1)), |value| time(value, "every"))?;
    let within = section.get("within").map_or(Ok(every), |value| time(value, "within"))?;
    let promise = every.0.saturating_add(within.0).saturating_mul(MISSES);
    Ok(Liveness { check: check(&section)?, every: every.0, within: within.0, thread, promise })
}

/// Names of signals that may ask a program to end, with Linux's numbers.
const SIGNALS: &[(&str, i32)] = &[("HUP", 1), ("INT", 2), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("TERM", 15)];

fn stop(section: &Section<'_>) -> Result<(i32, Micros), Wrong> {
    let Some(value) = section.get("stop") else { return Ok((15, Micros::from_secs(5))) };
    let section = table(value, "`stop`", "stop = { signal = \"TERM\", grace = \"5s\" }")?;
    section.known(&["signal", "grace"])?;
    let grace = section.get("grace").map_or(Ok(Micros::from_secs(5)), |value| time(value, "grace"))?;
    let Some(value) = section.get("signal") else { return Ok((15, grace)) };
    let word = text(value, "signal")?;
    let found = SIGNALS.iter().find(|(name, _)| word.strip_prefix("SIG").unwrap_or(word) == *name);
    let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
    let unknown = || (value.span(), format!("`signal` is `{word}`, and must be one of {}", names.join(", ")));
    Ok((found.ok_or_else(unknown)?.1, grace))
}

fn output(section: &Section<'_>) -> Result<(u64, u8), Wrong> {
    let Some(value) = section.get("output") else { return Ok((4 << 20, 4)) };
    let section = table(value, "`output`", "output = { bytes = \"4M\", files = 4 }")?;
    section.known(&["bytes", "files"])?;
    let most = section.get("bytes").map_or(Ok(4 << 20), |value| bytes(value, "bytes"))?;
    let files = section.get("files").map_or(Ok(4), |value| number(value, "files", "1 to 255"))?;
    if files == 0 || most < 4_096 {
        return Err((section.span, "`output` needs one file at least, of 4K at least".into()));
    }
    Ok((most, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const HEAD: &str = r#"cluster = 7
node = 0
reboot = ["/sbin/reboot"]
[[nodes]]
id = 0
address = "10.0.0.1"
[[nodes]]
id = 1
address = "10.0.0.2"
"#;
    const FULL: &str = r#"[[services]]
name = "db"
command = ["/bin/db"]
[[services]]
name = "web"
command = ["/bin/web", "--port", "80"]
user = "www-data"
environment = { LANG = "C", A = "b c" }
directory = "/srv"
limits = { memory = "512M", cpu = "150%", pids = 100 }
ready = { http = "http://127.0.0.1:80/health", every = "10ms" }
live = { tcp = "localhost:80", every = "1s", within = "500ms" }
heartbeats = ["1s", "250ms"]
strategy = "hot"
replicas = 2
candidates = [1, 0]
requires = ["db"]
stop = { signal = "QUIT", grace = "3s" }
backoff = "100ms"
backoff_max = "10s"
stable_after = "1m"
failures = 5
within = "2m"
start_within = "20s"
may_reboot = true
promote = ["/bin/promote"]
output = { bytes = "1M", files = 2 }
fenced = false
before = ["/bin/mount", "/srv"]
after = ["/bin/umount", "/srv"]
hooks_within = "3s"
core = "64M"
"#;

    #[test]
    fn everything_reaches_the_engine_and_the_keeper() {
        let config = Config::read("x", &format!("{HEAD}{FULL}")).expect("it is good");
        let [db, web] = &config.services[..] else { panic!("two services") };
        assert_eq!((db.engine.strategy, db.engine.degree, db.fenced), (Strategy::Cold, 1, true));
        assert_eq!(db.spec.readiness, Readiness::Started);
        let engine = &web.engine;
        assert_eq!((engine.strategy, engine.degree, &engine.requires[..]), (Strategy::Hot, 2, &[ServiceId(0)][..]));
        let times = [engine.start_within, engine.backoff, engine.backoff_max, engine.stable_after, engine.within];
        assert_eq!(times.map(|time| time.0 / 1_000), [20_000, 100, 10_000, 60_000, 120_000]);
        assert_eq!((engine.failures, engine.may_reboot, engine.grace.0), (5, true, 3_000_000));
        assert_eq!(engine.heartbeats, [Micros(1_000_000), Micros(250_000), Micros(4_500_000)]);
        let spec = web.copy(1);
        assert_eq!((spec.slot, spec.stop_signal, spec.watchdog), (1, 3, Some(1_000_000)));
        assert_eq!(spec.limits, Limits { memory: Some(512 << 20), cpu: Some(1_500), pids: Some(100) });
        let live = spec.liveness.expect("it has one");
        assert_eq!((live.thread, live.every, live.within, live.promise), (2, 1_000_000, 500_000, 4_500_000));
        let command = |name: &str| Some(vec![name.to_owned(), "/srv".to_owned()]);
        let hooks = Hooks { before: command("/bin/mount"), after: command("/bin/umount"), within: 3_000_000 };
        assert_eq!((spec.hooks, &db.spec.hooks), (hooks, &Hooks::default()));
        assert_eq!((spec.core, db.spec.core), (Some(64 << 20), None));
        assert_eq!(spec.environment.len(), 2);
        let resources: Vec<_> = config.services.iter().flat_map(Service::resources).collect();
        assert_eq!(resources.iter().map(|resource| resource.id.0).collect::<Vec<_>>(), [256, 272, 273]);
        assert_eq!(resources[2].candidates, [NodeId(1), NodeId(0)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_how_to_mend_it() {
        for (from, to, said) in [
            ("name = \"web\"", "name = \"we b\"", "x:14: `name` is `we b`, and must be 1 to 32 letters"),
            ("name = \"web\"", "name = \"db\"", "x:13: this service has the name or the `id` of `db`"),
            ("command = [\"/bin/db\"]", "command = []", "x:12: `command` must be the program and its arguments"),
            (
                "command = [\"/bin/db\"]",
                "",
                "x:10: a service lacks `command`; write such as `command = [\"/bin/sleep\"",
            ),
            ("user =", "usr =", "x:16: `usr` is not known in a service; known are name, id"),
            ("\"512M\"", "\"512Q\"", "x:19: `memory` is `512Q`, and must be bytes such as `512M`"),
            ("\"150%\"", "1", "x:19: `cpu` must be a text"),
            ("\"150%\"", "\"0%\"", "x:19: `cpu` is `0%`, and must be a part of one processor"),
            ("127.0.0.1:80/health", "nowhere/health", "x:20: `http` is `nowhere`, and must have an address and a port"),
            ("http = \"http://127.0.0.1:80/health\", ", "", "x:20: `ready` must be one of { tcp"),
            ("tcp = \"localhost:80\"", "tcp = \"localhost\"", "x:21: `tcp` is `localhost`"),
            ("\"250ms\"]", "\"0ms\"]", "x:22: `heartbeats` is `0ms`, and must be a whole number above 0 with us, ms"),
            ("\"hot\"", "\"tepid\"", "x:23: `strategy` is `tepid`, and must be cold, warm or hot"),
            ("\"hot\"", "\"cold\"", "x:24: `replicas` is for `strategy = \"hot\"` alone"),
            ("replicas = 2", "replicas = 3", "x:24: `replicas` must be 1 to 2"),
            ("[1, 0]", "[1, 7]", "x:25: `candidates` names node 7, which is not among `nodes`"),
            ("[\"db\"]\nstop", "[\"dbx\"]\nstop", "x:26: `requires` names `dbx`, and there is no such service"),
            ("[\"db\"]\nstop", "[\"web\"]\nstop", "x:26: `web` requires itself"),
            ("\"QUIT\"", "\"KILL\"", "x:27: `signal` is `KILL`, and must be one of HUP, INT, QUIT"),
            ("backoff = \"100ms\"", "backoff = \"11s\"", "x:28: `backoff` must be at most `backoff_max`"),
            ("failures = 5", "failures = 0", "x:31: `failures` must be 1 to 255"),
            ("reboot = [\"/sbin/reboot\"]\n", "", "x:33: there is no reboot hook: write such as"),
            ("fenced = false", "fenced = 1", "x:37: `fenced` must be true or false"),
            ("files = 2", "files = 0", "x:36: `output` needs one file at least"),
        ] {
            let text = format!("{HEAD}{FULL}").replacen(from, to, 1);
            let error = Config::read("x", &text).expect_err(to).to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
    }
}
