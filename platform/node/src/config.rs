//! What a node is told in a file.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use apus_dispatch::{DEFAULT_LOG2_SLOTS, Key, MAX_WEIGHT, Mac};
use apus_engine::{Micros, NodeId};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fence::{self, Fence, Watchdog};
use crate::group::{self, Group};
use crate::hex::mac_text;
use crate::http::{self, Http};
use crate::knobs::{Knobs, Part};
use crate::remote::{self, Remote};
use crate::section::{Section, Value, Wrong, Wrongs, number, parsed, text};
use crate::service::{self, Service};

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of the cluster; packets of another one are dropped.
    pub cluster: u32,
    /// This node.
    pub me: NodeId,
    /// UDP and TCP port of the nodes among themselves.
    pub port: u16,
    /// Folder of the store.
    pub folder: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// All nodes, this one too.
    pub nodes: Vec<Member>,
    /// The cluster's address, if it has one.
    pub vip: Option<Vip>,
    /// How long what a node holds outlasts its daemon.
    pub lease: Option<Micros>,
    /// What is supervised.
    pub services: Vec<Service>,
    /// Files that several nodes have.
    pub groups: Vec<Group>,
    /// The reboot hook: a command.
    pub reboot: Option<Vec<String>>,
    /// How another machine is stopped for certain, if it can be.
    pub fence: Option<Fence>,
    /// What resets this machine when its daemon is stuck or gone, if anything.
    pub watchdog: Option<Watchdog>,
    /// How nodes speak; `None`: QUIC where there are certificates.
    pub transport: Option<Wire>,
    /// Folder of keys and certificates.
    pub keys: PathBuf,
    /// What the engine is fed is kept in so many bytes; 0: it is not.
    pub record: u64,
    /// Knobs of the engine.
    pub knobs: Knobs,
    /// Where everything that this node tells of itself is written, if somebody looks at it.
    pub told: Option<PathBuf>,
    /// Where the node shows how it is, if anywhere.
    pub http: Option<Http>,
    /// What operators at other nodes may have done here; `None`: nothing.
    pub remote: Option<Remote>,
    /// What all nodes have alike, as lines of a file.
    pub(crate) alike: String,
    /// The file that it was read from.
    pub(crate) file: PathBuf,
}

/// How nodes speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// QUIC with certificates of the cluster's own authority.
    Quic,
    /// UDP and TCP in the clear, peers known by their addresses: for tests, and for networks where every machine is trusted.
    Plain,
}

impl Wire {
    /// A word for status and files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Plain => "plain",
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, 0 to 255.
    pub id: NodeId,
    /// Where its peers reach it.
    pub address: IpAddr,
    /// The hardware address of the port with the cluster's address; zeroes where there is none.
    pub mac: Mac,
    /// Its share of the clients, relative to that of the others.
    pub weight: u32,
    /// Whether it came after the cluster was first started.
    pub joined: bool,
    /// Its part among the others.
    pub part: Part,
}

/// The cluster's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Its IPv4 form.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 form.
    pub v6: Option<Ipv6Addr>,
    /// The port that clients come to, such as `eth0`.
    pub interface: String,
    /// What of a packet decides its server.
    pub key: Key,
    /// A table has 2 to this power slots.
    pub log2_slots: u8,
    /// Key of the hash, the same on all nodes, known to nobody else.
    pub seed: u64,
    /// The data plane, if not the best that runs.
    pub plane: Option<String>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// What, and how to mend it.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the text of a file, whose name is for errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn read(file: &str, text: &str) -> Result<Self, ConfigError> {
        Self::check(file, text).map_err(|mut all| all.swap_remove(0))
    }

    /// Reads the text of a file, whose name is for errors.
    ///
    /// # Errors
    /// Everything that is wrong, each with its line. What only follows from another mistake is not among it.
    pub fn check(file: &str, text: &str) -> Result<Self, Vec<ConfigError>> {
        let error = |(span, what): Wrong| {
            let before = text.get(..span.start).unwrap_or(text);
            ConfigError { file: file.into(), line: before.matches('\n').count() + 1, what }
        };
        let (table, broken) = DeTable::parse_recoverable(text);
        if !broken.is_empty() {
            let wrong = |one: toml::de::Error| (one.span().unwrap_or_default(), one.message().trim().to_owned());
            return Err(broken.into_iter().map(wrong).map(error).collect());
        }
        let wrongs = Wrongs::default();
        let config = config(&Section::file(table.get_ref(), &wrongs));
        match (wrongs.all(), config) {
            (wrong, Some(config)) if wrong.is_empty() => Ok(Self { file: file.into(), ..config }),
            (wrong, _) => Err(wrong.into_iter().map(error).collect()),
        }
    }

    /// This node among the nodes.
    ///
    /// # Panics
    /// Never: a configuration without itself is refused.
    #[must_use]
    pub fn own(&self) -> &Member {
        self.nodes.iter().find(|node| node.id == self.me).expect("it was checked")
    }

    /// How nodes speak: as the file says; QUIC where there is a folder of keys, even one that cannot be read; else in the clear.
    #[must_use]
    pub fn wire(&self) -> Wire {
        let keys = || if self.keys.try_exists().unwrap_or(true) { Wire::Quic } else { Wire::Plain };
        self.transport.unwrap_or_else(keys)
    }

    /// The file of a new node of the same cluster, among `all`.
    #[must_use]
    pub fn text_for(&self, node: NodeId, all: &[Member]) -> String {
        let mut text = format!(
            "cluster = {}\nnode = {}\nport = {}\ntransport = \"quic\"\n{}",
            self.cluster, node.0, self.port, self.alike
        );
        for member in all {
            text += &format!("[[nodes]]\nid = {}\naddress = \"{}\"\n", member.id.0, member.address);
            if member.mac != [0; 6] {
                text += &format!("mac = \"{}\"\n", mac_text(member.mac));
            }
            text += &format!("weight = {}\njoined = {}\n", member.weight, member.joined);
            if member.part != Part::Voter {
                text += &format!("part = \"{}\"\n", member.part.word());
            }
        }
        text
    }

    /// Where a node's peers reach it.
    #[must_use]
    pub const fn reach(&self, node: &Member) -> SocketAddr {
        SocketAddr::new(node.address, self.port)
    }
}

fn mac(value: &Value<'_>, key: &str) -> Result<Mac, Wrong> {
    let word = text(value, key)?;
    let bytes: Vec<u8> = word.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mac: Option<Mac> = bytes.try_into().ok().filter(|mac: &Mac| mac[0] & 1 == 0 && *mac != [0; 6]);
    mac.ok_or_else(|| {
        (
            value.span(),
            format!("`mac` is `{word}`, and must be that of the port, such as `02:00:00:00:00:01`; see `ip link`"),
        )
    })
}

const KEYS: &[&str] = &[
    "cluster",
    "node",
    "port",
    "folder",
    "control",
    "nodes",
    "vip",
    "lease",
    "services",
    "groups",
    "reboot",
    "fence",
    "watchdog",
    "transport",
    "keys",
    "record",
    "knobs",
    "told",
    "http",
    "remote",
];

/// `None`: a stand-in is not enough to go on with; what is wrong was put down.
fn config(file: &Section<'_>) -> Option<Config> {
    file.known(KEYS);
    let me = file.must("node", "0", |value, key| number::<u8>(value, key, "this node's number, 0 to 255"));
    let before = file.wrongs().many();
    let such = "[{ id = 0, address = \"10.0.0.1\", mac = \"02:00:00:00:00:01\" }]";
    let nodes = file.must("nodes", such, |value, _| nodes(file, value)).unwrap_or_default();
    let sound = file.wrongs().many() == before;
    let me = me.map(|me| NodeId(me.into()));
    if let Some(me) = me
        && sound
        && !nodes.iter().any(|node| node.id == me)
    {
        let what = format!("`node` is {}, which is not among `nodes`: add it there", me.0);
        file.wrongs().put((file.place("node"), what));
    }
    let vip = file.opt("vip", |value, _| vip(file, value)).flatten();
    if vip.is_some()
        && sound
        && let Some(node) = nodes.iter().find(|node| node.mac == [0; 6])
    {
        let what =
            format!("node {} lacks `mac`; write such as `mac = \"02:00:00:00:00:01\"`; see `ip link`", node.id.0);
        file.wrongs().put((file.place("nodes"), what));
    }
    let reboot = file.opt("reboot", service::command);
    let ids: Option<Vec<NodeId>> = sound.then(|| nodes.iter().map(|node| node.id).collect());
    let reboots = file.get("reboot").is_some();
    let services = file.opt("services", |value, _| service::services(file, value, ids.as_deref(), reboots));
    let mut services = services.unwrap_or_default();
    let disks: Option<Vec<NodeId>> =
        sound.then(|| nodes.iter().filter(|node| node.part != Part::Arbiter).map(|node| node.id).collect());
    let groups = file.opt("groups", |value, _| group::groups(file, value, disks.as_deref(), &mut services));
    let groups = groups.unwrap_or_default();
    if file.get("vip").is_none()
        && file.get("services").is_none_or(|all| all.get_ref().as_array().is_some_and(|all| all.is_empty()))
    {
        let what = "there is nothing to do: write `[vip]` for an address, `[[services]]` for programs, or both";
        file.wrongs().put((0..0, what.into()));
    }
    let path = |key: &str| file.opt(key, text).map(PathBuf::from);
    let folder = path("folder").unwrap_or_else(|| "/var/lib/apus".into());
    // A socket's path has 107 bytes at most, and `/programs/NAME.SLOT/notify` follows.
    if let Some(service) = services.iter().find(|service| folder.as_os_str().len() + service.spec.name.len() + 20 > 107)
    {
        let what = format!("`folder` is too long for the sockets of `{}`: shorten either", service.spec.name);
        file.wrongs().put((file.place("folder"), what));
    }
    if let Some((at, _)) =
        groups.iter().enumerate().find(|(_, group)| group.root.starts_with(&folder) || folder.starts_with(&group.root))
    {
        let place =
            file.get("groups").and_then(|all| all.get_ref().as_array()?.get(at)?.get_ref().as_table()?.get("root"));
        let what = "`root` and the node's `folder` overlap: put the files elsewhere, or name another `folder`";
        file.wrongs().put((place.map_or(0..0, Spanned::span), what.into()));
    }
    let keys = path("keys");
    // Who names keys wants to be known by them.
    let transport = file.opt("transport", transport).or_else(|| keys.is_some().then_some(Wire::Quic));
    let http = file.opt("http", |value, _| http::http(file, value)).flatten();
    let port = file.opt("port", |value, key| number(value, key, "1 to 65535")).unwrap_or(7_400);
    let own = nodes.iter().find(|node| Some(node.id) == me).map(|node| node.address);
    if let Some(http) = &http
        && http.listen.port() == port
        && own.is_some_and(|own| own == http.listen.ip() || http.listen.ip().is_unspecified())
    {
        let what = "`listen` is where this node speaks with the others: give it another port";
        let table = file.get("http").and_then(|http| http.get_ref().as_table());
        let place = table.and_then(|table| table.get("listen")).map_or(0..0, Spanned::span);
        file.wrongs().put((place, what.into()));
    }
    let cluster = file.must("cluster", "1", |value, key| number(value, key, "a number up to 4294967295"));
    let lease = file.opt("lease", lease);
    // What files change would fill it, and cost each change a second write.
    let record = file.opt("record", record).unwrap_or(if groups.is_empty() { 32 << 20 } else { 0 });
    let knobs = file.opt("knobs", |value, _| Knobs::read(file, value)).unwrap_or_default();
    let remote = file.opt("remote", |value, _| remote::remote(file, value, ids.as_deref()));
    let fence = file.opt("fence", |value, _| fence::fence(file, value, ids.as_deref())).flatten();
    let watchdog = file.opt("watchdog", |value, _| fence::watchdog(file, value)).flatten();
    let config = Config {
        transport,
        keys: keys.unwrap_or_else(|| folder.join("keys")),
        alike: ALIKE.iter().filter_map(|key| Some(format!("{key} = {}\n", inline(file.get(key)?.get_ref())))).collect(),
        cluster: cluster?,
        me: me?,
        port,
        folder,
        control: path("control").unwrap_or_else(|| "/run/apus/control".into()),
        nodes,
        vip,
        lease,
        services,
        groups,
        reboot,
        fence,
        watchdog,
        record,
        knobs,
        told: path("told"),
        http,
        remote,
        file: PathBuf::new(),
    };
    // What only an engine knows to be wrong.
    if file.wrongs().many() == 0
        && let Err(error) = crate::engine::config(&config)
    {
        let place = if file.get("knobs").is_some() { file.place("knobs") } else { file.place("lease") };
        file.wrongs().put((place, error.to_string()));
    }
    Some(config)
}

fn transport(value: &Value<'_>, key: &str) -> Result<Wire, Wrong> {
    match text(value, key)? {
        "quic" => Ok(Wire::Quic),
        "plain" => Ok(Wire::Plain),
        other => {
            let what = format!(
                "`transport` is `{other}`, and must be `quic`, or `plain` where every machine of the network is trusted"
            );
            Err((value.span(), what))
        }
    }
}

/// What a new node takes over as it stands.
const ALIKE: [&str; 8] = ["fence", "groups", "knobs", "lease", "reboot", "record", "services", "vip"];

/// A text as a file has it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// A value in one line.
fn inline(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(all) => {
            let all: Vec<String> = all.iter().map(|value| inline(value.get_ref())).collect();
            format!("[{}]", all.join(", "))
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<toml::de::DeString<'_>>, &Value<'_>)| {
                format!("{} = {}", quoted(key.get_ref()), inline(value.get_ref()))
            };
            let all: Vec<String> = table.iter().map(entry).collect();
            format!("{{ {} }}", all.join(", "))
        }
    }
}

fn lease(value: &Value<'_>, key: &str) -> Result<Micros, Wrong> {
    let lease = service::time(value, key)?;
    if (300_000..=600_000_000).contains(&lease.0) {
        return Ok(lease);
    }
    Err((
        value.span(),
        "`lease` must be 300ms to 10m: who dies is replaced after it, and who restarts within it keeps".into(),
    ))
}

/// `"64M"`, or `false`.
fn record(value: &Value<'_>, key: &str) -> Result<u64, Wrong> {
    if value.get_ref().as_bool() == Some(false) {
        return Ok(0);
    }
    let bytes = service::bytes(value, key).ok().filter(|bytes| (1 << 20..=1 << 40).contains(bytes));
    bytes.ok_or_else(|| {
        (value.span(), "`record` must be how many bytes to keep, \"1M\" to \"1024G\", such as \"32M\"; or false".into())
    })
}

fn nodes<'t>(file: &Section<'t>, value: &'t Value<'t>) -> Result<Vec<Member>, Wrong> {
    let wrong = || (value.span(), "`nodes` must be a list of tables: write a `[[nodes]]` for each".to_owned());
    let entries = value.get_ref().as_array().filter(|all| !all.is_empty()).ok_or_else(wrong)?;
    let (mut all, before) = (Vec::new(), file.wrongs().many());
    let (mut ids, mut macs, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        let Some(section) = file.ok(file.below(entry, "a node", "{ id = 0, address = \"10.0.0.1\" }")) else {
            continue;
        };
        let Some(node) = node(&section) else { continue };
        let mac = node.mac == [0; 6] || macs.insert(node.mac);
        if !(ids.insert(node.id) && mac && addresses.insert(node.address)) {
            let what = "this node has the number, address or mac of an earlier one; each needs its own";
            file.wrongs().put((entry.span(), what.into()));
        }
        all.push(node);
    }
    let decides =
        all.iter().any(|node| node.part != Part::Arbiter) && !all.iter().all(|node| node.part == Part::Learner);
    if !decides && file.wrongs().many() == before {
        let what = "nobody would decide, or nobody serve: give some node `part = \"voter\"`, or take `part` out";
        return Err((value.span(), what.into()));
    }
    Ok(all)
}

fn node(section: &Section<'_>) -> Option<Member> {
    section.known(&["id", "address", "mac", "weight", "joined", "part"]);
    let id = section.must("id", "0", |value, key| number::<u8>(value, key, "the node's number, 0 to 255"));
    let address = section.must("address", "\"10.0.0.1\"", |value, key| parsed(value, key, "10.0.0.1"));
    let part = section.opt("part", |value, _| Part::read(value)).unwrap_or_default();
    let range = format!("0 to {MAX_WEIGHT}");
    let weight = section.opt("weight", |value, key| {
        let weight = number(value, key, &range)?;
        if weight > MAX_WEIGHT { Err((value.span(), format!("`weight` must be {range}"))) } else { Ok(weight) }
    });
    let mac = section.opt("mac", mac).unwrap_or_default();
    let joined = section.flag("joined", false);
    let weight = if part == Part::Arbiter { 0 } else { weight.unwrap_or(1) };
    Some(Member { id: NodeId(id?.into()), address: address?, mac, weight, joined, part })
}

/// A key's name, as in files and on the command line.
pub(crate) fn key_of(name: &str) -> Option<Key> {
    match name {
        "source" => Some(Key::Source),
        "ports" => Some(Key::Ports),
        "quic" => Some(Key::Quic),
        _ => None,
    }
}

fn vip<'t>(file: &Section<'t>, value: &'t Value<'t>) -> Result<Option<Vip>, Wrong> {
    let section = file.below(value, "`vip`", "[vip]")?;
    section.known(&["v4", "v6", "interface", "key", "log2_slots", "seed", "plane"]);
    let v4 = section.opt("v4", |value, key| parsed(value, key, "10.0.0.100"));
    let v6 = section.opt("v6", |value, key| parsed(value, key, "fd00::100"));
    if section.get("v4").is_none() && section.get("v6").is_none() {
        let what = "`vip` has no address; write `v4 = \"10.0.0.100\"`, `v6`, or both";
        file.wrongs().put((value.span(), what.into()));
    }
    let key = section.opt("key", |value, key| {
        let name = text(value, key)?;
        key_of(name).ok_or_else(|| (value.span(), format!("`key` is `{name}`, and must be source, ports or quic")))
    });
    let log2_slots = section.opt("log2_slots", |value, key| {
        let slots = number(value, key, "4 to 20")?;
        if (4..=20).contains(&slots) { Ok(slots) } else { Err((value.span(), "`log2_slots` must be 4 to 20".into())) }
    });
    let interface = section.must("interface", "\"eth0\"", interface);
    let seed = "a number, secret and the same on all nodes";
    let seed = section.opt("seed", |value, key| number(value, key, seed)).unwrap_or(0);
    let plane = section.opt("plane", |value, key| text(value, key).map(Into::into));
    Ok(interface.map(|interface| Vip {
        v4,
        v6,
        interface,
        key: key.unwrap_or(Key::Source),
        log2_slots: log2_slots.unwrap_or(DEFAULT_LOG2_SLOTS),
        seed,
        plane,
    }))
}

fn interface(value: &Value<'_>, key: &str) -> Result<String, Wrong> {
    let name = text(value, key)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > 15 || !name.chars().all(plain) {
        return Err((value.span(), format!("`{key}` is `{name}`, and must be the name of a port; see `ip link`")));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use apus_engine::NodeId;

    use super::{Config, Member, Wire};

    const GOOD: &str = r#"cluster = 7
node = 1
[[nodes]]
id = 0
address = "10.0.0.1"
mac = "02:00:00:00:00:01"
[[nodes]]
id = 1
address = "10.0.0.2"
mac = "02:00:00:00:00:02"
weight = 3
[vip]
v4 = "10.0.0.100"
interface = "eth0"
"#;

    #[test]
    fn a_good_file_is_read_and_what_it_leaves_out_has_a_default() {
        let config = Config::read("good.toml", GOOD).expect("it is good");
        assert_eq!(
            (config.own().weight, config.port, config.vip.as_ref().map(|vip| vip.log2_slots), config.record),
            (3, 7_400, Some(18), 32 << 20)
        );
        let off = Config::read("off.toml", &GOOD.replace("node = 1", "node = 1\nrecord = false")).expect("it is good");
        assert_eq!(off.record, 0);
        assert_eq!(config.reach(config.own()).to_string(), "10.0.0.2:7400");
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_what_to_write() {
        for (from, to, said) in [
            ("cluster = 7", "cluster = -7", "x:1: `cluster` must be a number up to 4294967295"),
            ("node = 1", "node = 9", "x:2: `node` is 9, which is not among `nodes`: add it there"),
            ("node = 1", "nodd = 1", "x:2: `nodd` is not known in the file; known are "),
            ("id = 1", "id = 0", "x:7: this node has the number, address or mac of an earlier one"),
            (
                "02:00:00:00:00:02",
                "03:00:00:00:00:02",
                "x:10: `mac` is `03:00:00:00:00:02`, and must be that of the port",
            ),
            ("v4 = \"10.0.0.100\"\n", "", "x:12: `vip` has no address; write"),
            ("interface = \"eth0\"", "", "x:12: `vip` lacks `interface`; write such as `interface = \"eth0\"`"),
            ("interface = \"eth0\"", "interface = \"e\\\"0\"", "x:14: `interface` is"),
            ("cluster = 7", "cluster = ", "x:1: "),
            ("weight = 3", "weight = 65536", "`weight` must be 0 to 65535"),
            (
                "node = 1",
                "node = 1\ntransport = \"tcp\"",
                "x:3: `transport` is `tcp`, and must be `quic`, or `plain` where",
            ),
            ("cluster = 7", "cluster = 7\nrecord = \"9\"", "x:2: `record` must be how many bytes to keep"),
        ] {
            let error = Config::read("x", &GOOD.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
    }

    #[test]
    fn a_new_node_gets_what_all_have_alike() {
        let services = r#"
[[services]]
name = "billing"
command = ["/bin/sh", "-c", "printf '\\\"%s\\\"\\t' x; sleep 1"]
"#;
        let top = GOOD.replace("node = 1", "node = 1\nport = 9\nlease = \"900ms\"\nreboot = [\"/sbin/reboot\", \"é\"]");
        let first = Config::read("first", &(top + services)).expect("it is good");
        let mut all = first.nodes.clone();
        all.push(Member {
            id: NodeId(4),
            address: [10, 0, 0, 5].into(),
            mac: [2, 0, 0, 0, 0, 5],
            weight: 2,
            joined: true,
            part: super::Part::Voter,
        });
        let text = first.text_for(NodeId(4), &all);
        let new = Config::read("new", &text).expect("it is good");
        let wanted = Config {
            me: NodeId(4),
            nodes: all,
            transport: Some(Wire::Quic),
            alike: new.alike.clone(),
            file: new.file.clone(),
            ..first.clone()
        };
        assert_eq!(new, wanted, "{text}");
        assert_eq!(new.text_for(NodeId(4), &new.nodes), text, "and it can give it on");
    }

    #[test]
    fn nodes_speak_in_the_clear_only_where_nothing_asks_for_keys() {
        let folder = std::env::temp_dir().join(format!("apus-wire-{}", std::process::id()));
        let with = |line: &str| {
            let text =
                GOOD.replace("node = 1", &format!("node = 1\nfolder = {:?}\n{line}", folder.display().to_string()));
            Config::read("x", &text).expect("it is good").wire()
        };
        assert_eq!(with(""), Wire::Plain);
        assert_eq!(with("transport = \"quic\""), Wire::Quic);
        assert_eq!(with("keys = \"/nowhere\""), Wire::Quic);
        std::fs::create_dir_all(folder.join("keys")).expect("a folder");
        assert_eq!(with(""), Wire::Quic, "an empty folder is a fault, and no leave to speak in the clear");
        assert_eq!(with("transport = \"plain\""), Wire::Plain);
        std::fs::remove_dir_all(folder).expect("it goes");
    }
}
