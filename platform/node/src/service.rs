//! `[[services]]`: what is supervised, for people and for the engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use apus_engine::{Availability, Micros, NodeId, ResourceConfig, ResourceId, Role, ServiceConfig, ServiceId, Strategy};
use apus_os::program::{Check, Hooks, Limits, Liveness, Readiness, Spec};

use crate::section::{Section, Value, Wrong, number, text};

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

pub(crate) fn entries<'t>(
    value: &'t Value<'t>,
    key: &str,
    want: &str,
) -> Result<impl Iterator<Item = &'t Value<'t>> + use<'t>, Wrong> {
    let all = value.get_ref().as_array();
    all.map(|all| all.iter()).ok_or_else(|| (value.span(), format!("`{key}` must be a list: {want}")))
}

/// A key's list without what is wrong in it.
pub(crate) fn list<'t, T>(
    section: &Section<'t>,
    key: &str,
    want: &str,
    read: impl Fn(&'t Value<'t>) -> Result<T, Wrong>,
) -> Vec<T> {
    let all = section.opt(key, |value, key| entries(value, key, want));
    all.into_iter().flatten().filter_map(|entry| section.ok(read(entry))).collect()
}

/// A program and its arguments.
pub(crate) fn command(value: &Value<'_>, key: &str) -> Result<Vec<String>, Wrong> {
    let want = "the program and its arguments, such as [\"/bin/sleep\", \"60\"]; no shell is between";
    let command: Vec<String> =
        entries(value, key, want)?.map(|word| text(word, key).map(str::to_owned)).collect::<Result<_, _>>()?;
    if command.first().is_none_or(String::is_empty) || command.iter().any(|word| word.contains('\0')) {
        return Err((value.span(), format!("`{key}` must be {want}")));
    }
    Ok(command)
}

/// What a service's own table is read among.
struct Among<'t, 'a> {
    /// All services; `None`: some name is wrong, so that who is required cannot be looked up.
    names: Option<&'a [(&'t str, ServiceId)]>,
    /// Nodes of the cluster, if they are known.
    nodes: Option<&'a [NodeId]>,
    /// There is a reboot hook.
    reboots: bool,
}

/// `[[services]]`. `nodes` are those of the cluster, if they are known; `reboots` tells whether there is a reboot hook.
pub(crate) fn services<'t>(
    file: &Section<'t>,
    value: &'t Value<'t>,
    nodes: Option<&[NodeId]>,
    reboots: bool,
) -> Result<Vec<Service>, Wrong> {
    let wrong = || (value.span(), "`services` must be a list of tables: write a `[[services]]` for each".to_owned());
    let before = file.wrongs().many();
    let mut sections = Vec::new();
    let mut names: Vec<(&str, ServiceId)> = Vec::new();
    for (at, entry) in value.get_ref().as_array().ok_or_else(wrong)?.iter().enumerate() {
        let such = "{ name = \"web\", command = [\"/bin/web\"] }";
        let Some(section) = file.ok(file.below(entry, "a service", such)) else { continue };
        let name = section.must("name", "\"web\"", name).unwrap_or("?");
        let id = section.opt("id", |value, key| {
            let id = number(value, key, "0 to 1023")?;
            if id > 1_023 { Err((value.span(), "`id` must be 0 to 1023".into())) } else { Ok(id) }
        });
        let id = id.unwrap_or_else(|| u16::try_from(at).unwrap_or(u16::MAX));
        if let Some((other, _)) = names.iter().find(|(other, taken)| *other == name || taken.0 == id) {
            let what = format!("this service has the name or the `id` of `{other}`; each needs its own");
            file.wrongs().put((section.span.clone(), what));
        }
        names.push((name, ServiceId(id)));
        sections.push(section);
    }
    let named = file.wrongs().many() == before;
    let among = Among { names: named.then_some(&names[..]), nodes, reboots };
    let read = sections.iter().zip(&names).filter_map(|(section, (name, id))| service(section, name, *id, &among));
    let all: Vec<Service> = read.collect();
    if file.wrongs().many() == before {
        circles(&all, &sections);
    }
    Ok(all)
}

/// What requires itself could never start.
fn circles(all: &[Service], sections: &[Section<'_>]) {
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
            let what = format!("`{}` requires itself, if by a circle; take one of them out", service.engine.name);
            section.wrongs().put((section.place("requires"), what));
        }
    }
}

/// A name that can be one of a folder and of a control group.
pub(crate) fn name<'t>(value: &'t Value<'t>, key: &str) -> Result<&'t str, Wrong> {
    let name = text(value, key)?;
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

/// `None`: without a command; what is wrong was put down.
fn service(section: &Section<'_>, name: &str, id: ServiceId, among: &Among<'_, '_>) -> Option<Service> {
    section.known(KEYS);
    let mut engine = ServiceConfig::cold(id, name);
    let command_of = section.must("command", "[\"/bin/sleep\", \"60\"]", command);
    (engine.strategy, engine.degree) = copies(section, among.nodes.map(<[NodeId]>::len));
    let candidates = list(section, "candidates", "numbers of nodes, such as [0, 1]", |node| {
        let id = NodeId(number(node, "candidates", "numbers of nodes")?);
        let unknown = || (node.span(), format!("`candidates` names node {}, which is not among `nodes`", id.0));
        if among.nodes.is_none_or(|nodes| nodes.contains(&id)) { Ok(id) } else { Err(unknown()) }
    });
    let required = list(section, "requires", "names of services, such as [\"db\"]", |word| {
        let wanted = text(word, "requires")?;
        let Some(names) = among.names else { return Ok(None) };
        let found = names.iter().find(|(name, _)| *name == wanted).map(|(_, id)| Some(*id));
        found.ok_or_else(|| (word.span(), format!("`requires` names `{wanted}`, and there is no such service")))
    });
    engine.requires = required.into_iter().flatten().collect();
    for (key, place) in [
        ("start_within", &mut engine.start_within),
        ("backoff", &mut engine.backoff),
        ("backoff_max", &mut engine.backoff_max),
        ("stable_after", &mut engine.stable_after),
        ("within", &mut engine.within),
    ] {
        *place = section.opt(key, time).unwrap_or(*place);
    }
    if engine.backoff > engine.backoff_max {
        let key = if section.get("backoff").is_some() { "backoff" } else { "backoff_max" };
        let what = "`backoff` must be at most `backoff_max` (5s if left out)";
        section.wrongs().put((section.place(key), what.into()));
    }
    let failures = section.opt("failures", |value, key| match number(value, key, "1 to 255")? {
        0_u8 => Err((value.span(), format!("`{key}` must be 1 to 255"))),
        failures => Ok(failures),
    });
    engine.failures = failures.unwrap_or(engine.failures);
    engine.may_reboot = section.flag("may_reboot", false);
    if engine.may_reboot && !among.reboots {
        let what = "there is no reboot hook: write such as `reboot = [\"/sbin/reboot\"]` at the top";
        section.wrongs().put((section.place("may_reboot"), what.into()));
    }
    engine.heartbeats =
        list(section, "heartbeats", "a promise for each thread, such as [\"1s\"]", |value| time(value, "heartbeats"));
    let watchdog = engine.heartbeats.first().map(|promise| promise.0);
    let (signal, grace) = stop(section);
    engine.grace = grace;
    let threads = u32::try_from(engine.heartbeats.len()).unwrap_or(u32::MAX);
    let liveness = section.opt("live", |value, _| live(section, value, threads)).flatten();
    engine.heartbeats.extend(liveness.iter().map(|live| Micros(live.promise)));
    let (log_bytes, log_files) = section.opt("output", |value, _| output(section, value)).unwrap_or(OUTPUT);
    let word = |key| section.opt(key, text).map(str::to_owned);
    let spec = Spec {
        name: name.into(),
        slot: 0,
        user: word("user"),
        environment: section.opt("environment", |value, _| environment(section, value)).unwrap_or_default(),
        directory: word("directory"),
        limits: section.opt("limits", |value, _| limits(section, value)).unwrap_or_default(),
        readiness: section.opt("ready", |value, _| ready(section, value)).flatten().unwrap_or(Readiness::Started),
        liveness,
        watchdog,
        stop_signal: signal,
        grace: grace.0,
        promote: section.opt("promote", command),
        log_bytes,
        log_files,
        hooks: hooks(section),
        core: section.opt("core", bytes),
        command: command_of?,
    };
    Some(Service { engine, spec, candidates, fenced: section.flag("fenced", true) })
}

fn hooks(section: &Section<'_>) -> Hooks {
    let (before, after) = (section.opt("before", command), section.opt("after", command));
    let any = section.get("before").or(section.get("after")).is_some();
    let within = section.opt("hooks_within", |value, key| {
        let within = time(value, key)?.0;
        if any && (1_000..=600_000_000).contains(&within) {
            return Ok(within);
        }
        let what = "`hooks_within` is for `before` and `after`, which a service must have, and must be 1ms to 10m";
        Err((value.span(), what.into()))
    });
    if any { Hooks { before, after, within: within.unwrap_or(10_000_000) } } else { Hooks::default() }
}

fn strategy(value: &Value<'_>, key: &str) -> Result<Strategy, Wrong> {
    match text(value, key)? {
        "cold" => Ok(Strategy::Cold),
        "warm" => Ok(Strategy::Warm),
        "hot" => Ok(Strategy::Hot),
        word => Err((value.span(), format!("`{key}` is `{word}`, and must be cold, warm or hot"))),
    }
}

/// How a service is kept, and how many active copies it has. `nodes` is how many there are, if that is known.
fn copies(section: &Section<'_>, nodes: Option<usize>) -> (Strategy, u8) {
    let strategy = match section.get("strategy") {
        None => Some(Strategy::Cold),
        Some(_) => section.opt("strategy", strategy),
    };
    let most = nodes.map_or(MOST_SLOTS, |nodes| u8::try_from(nodes).unwrap_or(MOST_SLOTS).min(MOST_SLOTS));
    let replicas = section.opt("replicas", |value, key| {
        let replicas: u8 = number(value, key, "1 to 16")?;
        if strategy.is_some_and(|strategy| strategy != Strategy::Hot) && replicas != 1 {
            let what = "`replicas` is for `strategy = \"hot\"` alone: others have one active copy";
            return Err((value.span(), what.into()));
        }
        let wrong = || (value.span(), format!("`replicas` must be 1 to {most}: each copy is on a node of its own"));
        if (1..=most).contains(&replicas) { Ok(replicas) } else { Err(wrong()) }
    });
    let strategy = strategy.unwrap_or(Strategy::Cold);
    (strategy, replicas.unwrap_or(if strategy == Strategy::Hot { most } else { 1 }))
}

fn environment<'t>(above: &Section<'t>, value: &'t Value<'t>) -> Result<Vec<(String, String)>, Wrong> {
    let section = above.below(value, "`environment`", "environment = { LANG = \"C\" }")?;
    let mut all = Vec::new();
    for (key, value) in section.entries() {
        let key = key.get_ref().to_string();
        let Some(word) = section.ok(text(value, "environment")) else { continue };
        if key.is_empty() || key.contains(['=', '\0']) || word.contains('\0') {
            section.wrongs().put((value.span(), format!("`{key}` is no name of the environment")));
        }
        all.push((key, word.to_owned()));
    }
    Ok(all)
}

fn limits<'t>(above: &Section<'t>, value: &'t Value<'t>) -> Result<Limits, Wrong> {
    let table = above.below(value, "`limits`", "limits = { memory = \"512M\", cpu = \"150%\", pids = 100 }")?;
    table.known(&["memory", "cpu", "pids"]);
    let cpu = table.opt("cpu", |value, key| {
        let word = text(value, key)?;
        let percent = word.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
        let percent = percent.filter(|percent| (1..=100_000).contains(percent)).map(|percent| percent * 10);
        percent.ok_or_else(|| {
            (value.span(), format!("`cpu` is `{word}`, and must be a part of one processor, such as `150%`"))
        })
    });
    let pids = table.opt("pids", |value, key| number(value, key, "a number above 0"));
    Ok(Limits { memory: table.opt("memory", bytes), cpu, pids })
}

const CHECKS: &str =
    "{ tcp = \"127.0.0.1:80\" }, { http = \"http://127.0.0.1:80/health\" } or { script = [\"/bin/check\"] }";

/// The one of `tcp`, `http` and `script` that is there.
fn check(section: &Section<'_>) -> Result<Check, Wrong> {
    let found: Vec<_> = ["tcp", "http", "script"].iter().filter(|key| section.get(key).is_some()).collect();
    let [kind] = found[..] else {
        return Err((section.span.clone(), format!("{} must be one of {CHECKS}", section.name())));
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

fn ready<'t>(above: &Section<'t>, value: &'t Value<'t>) -> Result<Option<Readiness>, Wrong> {
    if let Some(word) = value.get_ref().as_str() {
        return match word {
            "started" => Ok(Some(Readiness::Started)),
            "notify" => Ok(Some(Readiness::Notify)),
            _ => Err((value.span(), format!("`ready` is `{word}`, and must be \"started\", \"notify\", {CHECKS}"))),
        };
    }
    let section = above.below(value, "`ready`", "ready = { tcp = \"127.0.0.1:80\" }")?;
    section.known(&["tcp", "http", "script", "every"]);
    let every = section.opt("every", time).unwrap_or(Micros(20_000));
    Ok(section.ok(check(&section)).map(|check| Readiness::Check { check, every: every.0 }))
}

fn live<'t>(above: &Section<'t>, value: &'t Value<'t>, thread: u32) -> Result<Option<Liveness>, Wrong> {
    let section = above.below(value, "`live`", "live = { http = \"http://127.0.0.1:80/health\", every = \"1s\" }")?;
    section.known(&["tcp", "http", "script", "every", "within"]);
    let every = section.opt("every", time).unwrap_or(Micros::from_secs(1));
    let within = section.opt("within", time).unwrap_or(every);
    let promise = every.0.saturating_add(within.0).saturating_mul(MISSES);
    let check = section.ok(check(&section));
    Ok(check.map(|check| Liveness { check, every: every.0, within: within.0, thread, promise }))
}

/// Names of signals that may ask a program to end, with Linux's numbers.
const SIGNALS: &[(&str, i32)] = &[("HUP", 1), ("INT", 2), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("TERM", 15)];

/// The signal and the grace; what is left out is usual.
fn stop(above: &Section<'_>) -> (i32, Micros) {
    let (signal, grace) = (15, Micros::from_secs(5));
    let read = |section: Section<'_>| {
        section.known(&["signal", "grace"]);
        let signal = section.opt("signal", signal_of).unwrap_or(signal);
        (signal, section.opt("grace", time).unwrap_or(grace))
    };
    let such = "stop = { signal = \"TERM\", grace = \"5s\" }";
    above.opt("stop", |value, _| above.below(value, "`stop`", such).map(read)).unwrap_or((signal, grace))
}

fn signal_of(value: &Value<'_>, key: &str) -> Result<i32, Wrong> {
    let word = text(value, key)?;
    let found = SIGNALS.iter().find(|(name, _)| word.strip_prefix("SIG").unwrap_or(word) == *name);
    let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
    let unknown = || (value.span(), format!("`{key}` is `{word}`, and must be one of {}", names.join(", ")));
    Ok(found.ok_or_else(unknown)?.1)
}

/// Bytes of one file of output, and how many files.
const OUTPUT: (u64, u8) = (4 << 20, 4);

fn output<'t>(above: &Section<'t>, value: &'t Value<'t>) -> Result<(u64, u8), Wrong> {
    let section = above.below(value, "`output`", "output = { bytes = \"4M\", files = 4 }")?;
    section.known(&["bytes", "files"]);
    let most = section.opt("bytes", bytes).unwrap_or(OUTPUT.0);
    let files = section.opt("files", |value, key| number(value, key, "1 to 255")).unwrap_or(OUTPUT.1);
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
        let mistakes = [
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
        ];
        crate::section::each_mistake_is_told(&format!("{HEAD}{FULL}"), &mistakes);
    }
}
