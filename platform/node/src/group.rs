//! `[[groups]]`: files that several nodes have, for people and for the engine.

use std::path::{Component, Path, PathBuf};

use apus_capture::Globs;
use apus_engine::{GroupConfig, GroupId, Micros, Mode, NodeId, ServiceId, Strategy};

use crate::Service;
use crate::section::{Section, Value, Wrong, number, text};
use crate::service::{bytes, entries, list, name, slot_resource, time};

/// The file name of the library that captures what programs do.
pub const LIBRARY: &str = "libapus_interpose.so";

/// What happens to a program that opens a file of the group for writing and is not captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarded {
    /// It is refused.
    #[default]
    Refuse,
    /// It may, and all copies' files are compared.
    Mark,
    /// Nobody looks.
    Off,
}

impl Guarded {
    /// A word for status and files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Mark => "mark",
            Self::Off => "off",
        }
    }
}

/// How it is seen what programs do to the files of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// The service's program runs under a library.
    #[default]
    Preload,
    /// All programs go through a mount over the tree, whatever they are.
    Fuse,
}

impl Capture {
    /// A word for status and files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Preload => "preload",
            Self::Fuse => "fuse",
        }
    }
}

/// One group of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What the engine is told.
    pub engine: GroupConfig,
    /// What people call it.
    pub name: String,
    /// The service whose program changes the files.
    pub service: ServiceId,
    /// The tree.
    pub root: PathBuf,
    /// Log, second tree and saved files: on the file system of the tree, beside it.
    pub state: PathBuf,
    /// Which names of it belong to the group.
    pub patterns: Vec<String>,
    /// How changes are seen.
    pub capture: Capture,
    /// Who may change the files beside those that are captured.
    pub guard: Guarded,
    /// Bytes of the ring that programs record in.
    pub ring_bytes: u64,
    /// The ring's file, if it is not where it is usual.
    pub ring: Option<PathBuf>,
    /// The library that captures, if it does not lie beside this program.
    pub library: Option<PathBuf>,
}

impl Group {
    /// Patterns as they are held against names: each ended by a zero byte.
    #[must_use]
    pub fn globs(&self) -> Vec<u8> {
        globs(&self.patterns)
    }
}

fn globs(patterns: &[String]) -> Vec<u8> {
    patterns.iter().flat_map(|pattern| pattern.bytes().chain([0])).collect()
}

/// A word for status and files.
#[must_use]
pub(crate) const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Async => "async",
        Mode::SemiSync => "semi-sync",
        Mode::Sync => "sync",
    }
}

const KEYS: &[&str] = &[
    "name",
    "id",
    "service",
    "root",
    "patterns",
    "mode",
    "need",
    "copies",
    "log",
    "lag",
    "scrub",
    "capture",
    "guard",
    "ring",
    "ring_bytes",
    "library",
    "state",
];

/// Reads `[[groups]]`. `nodes` are those that have disks, if they are known. A service without candidates gets the copies' nodes.
pub(crate) fn groups<'t>(
    file: &Section<'t>,
    value: &'t Value<'t>,
    nodes: Option<&[NodeId]>,
    services: &mut [Service],
) -> Result<Vec<Group>, Wrong> {
    let wrong = || (value.span(), "`groups` must be a list of tables: write a `[[groups]]` for each".to_owned());
    let mut all: Vec<Group> = Vec::new();
    for (at, entry) in value.get_ref().as_array().ok_or_else(wrong)?.iter().enumerate() {
        let such = "{ name = \"books\", service = \"db\", root = \"/srv/db\", patterns = [\"*\"] }";
        let Some(section) = file.ok(file.below(entry, "a group", such)) else { continue };
        let Some(group) = group(&section, at, nodes, services) else { continue };
        let other = |same: &dyn Fn(&Group) -> bool| all.iter().find(|other| same(other)).map(|other| &other.name);
        let what = if let Some(other) = other(&|other| other.name == group.name || other.engine.id == group.engine.id) {
            Some(("name", format!("this group has the name or the `id` of `{other}`; each needs its own")))
        } else if let Some(other) = other(&|other| other.service == group.service) {
            let mend = "put all files of one service into one group";
            Some(("service", format!("`{other}` has the same service: one order holds within a group; {mend}")))
        } else if let Some(other) =
            other(&|other| other.root.starts_with(&group.root) || group.root.starts_with(&other.root))
        {
            let mend = "give each a folder of its own, neither in the other";
            Some(("root", format!("`root` overlaps with that of `{other}`; {mend}")))
        } else {
            None
        };
        if let Some((key, what)) = what {
            section.wrongs().put((section.place(key), what));
        }
        all.push(group);
    }
    Ok(all)
}

/// `None`: too little is right; what is wrong was put down.
fn group(section: &Section<'_>, at: usize, nodes: Option<&[NodeId]>, services: &mut [Service]) -> Option<Group> {
    section.known(KEYS);
    let name = section.must("name", "\"books\"", name);
    let id = section.opt("id", |value, key| number::<u16>(value, key, "0 to 65535"));
    let id = id.unwrap_or_else(|| u16::try_from(at).unwrap_or(u16::MAX));
    let root = section.must("root", "\"/srv/db\"", root);
    let patterns = section.must("patterns", "[\"*\"]", patterns);
    if let Some(patterns) = &patterns {
        journals(section, patterns);
    }
    let service = section.must("service", "\"db\"", |value, key| {
        let wanted = text(value, key)?;
        let unknown = || {
            let known: Vec<&str> = services.iter().map(|service| &*service.engine.name).collect();
            let known = if known.is_empty() { "there is none".into() } else { format!("known are {}", known.join(", ")) };
            (value.span(), format!("`service` is `{wanted}`, which is no service of this file: {known}"))
        };
        let at = services.iter().position(|service| service.engine.name == wanted).ok_or_else(unknown)?;
        if services.get(at).is_some_and(|service| service.engine.strategy != Strategy::Cold) {
            let what = format!(
                "`{wanted}` is not `strategy = \"cold\"`: a second copy would read files that change below it; make it cold"
            );
            return Err((value.span(), what));
        }
        Ok(at)
    });
    let mode = section.opt("mode", mode).unwrap_or_default();
    let copies = section.get("copies").map(|_| {
        list(section, "copies", "numbers of nodes, such as [0, 1]", |node| {
            let id = NodeId(number(node, "copies", "numbers of nodes")?);
            let unknown = || (node.span(), format!("`copies` names node {}, which is not among `nodes`", id.0));
            if nodes.is_none_or(|nodes| nodes.contains(&id)) { Ok(id) } else { Err(unknown()) }
        })
    });
    let log_bytes = section.opt("log", |value, key| {
        let log = bytes(value, key)?;
        let wrong =
            || (value.span(), "`log` must be \"1M\" to \"1024G\": bytes of records that each copy keeps".into());
        if (1 << 20..=1 << 40).contains(&log) { Ok(log) } else { Err(wrong()) }
    });
    let lag = section.opt("lag", |value, key| match number(value, key, "a number of changes above 0")? {
        0 => Err((value.span(), "`lag` must be a number of changes above 0".into())),
        lag => Ok(lag),
    });
    let scrub = section.opt("scrub", |value, key| match value.get_ref().as_bool() {
        Some(false) => Ok(Micros::ZERO),
        _ => time(value, key),
    });
    let ring_bytes = section.opt("ring_bytes", |value, key| {
        let ring = bytes(value, key)?;
        let wrong = || {
            let what = "`ring_bytes` must be a power of two, \"64K\" to \"4G\", such as \"16M\"";
            (value.span(), what.to_owned())
        };
        if ring.is_power_of_two() && (1 << 16..=1 << 32).contains(&ring) { Ok(ring) } else { Err(wrong()) }
    });
    let capture = section.opt("capture", capture).unwrap_or_default();
    let guard = section.opt("guard", guard).unwrap_or_default();
    let state = section.opt("state", whole_path);
    if let (Some(root), Some(state)) = (&root, &state)
        && (state.starts_with(root) || root.starts_with(state))
    {
        let what = "`state` and `root` overlap: leave `state` out, or name a folder beside `root`";
        section.wrongs().put((section.place("state"), what.into()));
    }
    let (ring, library) = (section.opt("ring", whole_path), section.opt("library", whole_path));
    let service = services.get_mut(service?)?;
    let copies = copies_of(section, copies, nodes, service)?;
    let many = copies.len();
    let need = section.opt("need", |value, key| {
        let need: u8 = number(value, key, "a number of copies")?;
        if mode != Mode::Sync {
            let what =
                "`need` is for `mode = \"sync\"` alone: so many copies have it on their disks before a program goes on";
            return Err((value.span(), what.into()));
        }
        let wrong =
            || (value.span(), format!("`need` must be 1 to {many}, the number of copies, the writer's own included"));
        if (1..=many).contains(&usize::from(need)) { Ok(need) } else { Err(wrong()) }
    });
    if mode != Mode::Async && !service.fenced {
        let what = format!(
            "`{}` is `fenced = false`, and `{}` tells its program what is kept: take out either",
            service.engine.name,
            mode_word(mode)
        );
        section.wrongs().put((section.place("mode"), what));
    }
    let usual = GroupConfig::new(GroupId(id), slot_resource(service.engine.id, 0), copies);
    let engine = GroupConfig {
        mode,
        need: need.unwrap_or_else(|| usual.need.min(u8::try_from(many).unwrap_or(u8::MAX))),
        log_bytes: log_bytes.unwrap_or(usual.log_bytes),
        lag: lag.unwrap_or(usual.lag),
        scrub: scrub.unwrap_or(Micros(24 * 3_600_000_000)),
        ..usual
    };
    let root = root?;
    let beside = || root.with_file_name(format!(".{}.apus", root.file_name().unwrap_or_default().display()));
    Some(Group {
        engine,
        name: name?.into(),
        service: service.engine.id,
        state: state.unwrap_or_else(beside),
        root,
        patterns: patterns?,
        capture,
        guard,
        ring_bytes: ring_bytes.unwrap_or(16 << 20),
        ring,
        library,
    })
}

/// The nodes that have the files: those that may run the service, and no others.
fn copies_of(
    section: &Section<'_>,
    copies: Option<Vec<NodeId>>,
    nodes: Option<&[NodeId]>,
    service: &mut Service,
) -> Option<Vec<NodeId>> {
    let sorted = |all: &[NodeId]| {
        let mut all = all.to_vec();
        all.sort_unstable();
        all.dedup();
        all
    };
    let copies = match (copies, &service.candidates[..]) {
        (Some(copies), []) => copies,
        (Some(copies), candidates) if sorted(&copies) == sorted(candidates) => candidates.to_vec(),
        (Some(_), _) => {
            let what = format!(
                "`copies` are not the `candidates` of `{}`: who may run it needs the files; leave `copies` out",
                service.engine.name
            );
            section.wrongs().put((section.place("copies"), what));
            return None;
        }
        (None, []) => nodes?.to_vec(),
        (None, candidates) => candidates.to_vec(),
    };
    if sorted(&copies).len() != copies.len() || !(1..=16).contains(&copies.len()) {
        let what = "`copies`, or the service's `candidates`, must be 1 to 16 different nodes";
        section.wrongs().put((section.place("copies"), what.into()));
        return None;
    }
    service.candidates.clone_from(&copies);
    Some(copies)
}

fn mode(value: &Value<'_>, key: &str) -> Result<Mode, Wrong> {
    match text(value, key)? {
        "async" => Ok(Mode::Async),
        "semi-sync" => Ok(Mode::SemiSync),
        "sync" => Ok(Mode::Sync),
        word => Err((value.span(), format!("`{key}` is `{word}`, and must be async, semi-sync or sync"))),
    }
}

fn capture(value: &Value<'_>, key: &str) -> Result<Capture, Wrong> {
    match text(value, key)? {
        "preload" => Ok(Capture::Preload),
        "fuse" => Ok(Capture::Fuse),
        word => Err((value.span(), format!("`{key}` is `{word}`, and must be preload or fuse"))),
    }
}

fn guard(value: &Value<'_>, key: &str) -> Result<Guarded, Wrong> {
    match text(value, key)? {
        "fallback" | "fuse" => {
            let what = format!(
                "`{key}` tells what happens to who is not captured; write `capture = \"fuse\"` to have every program captured by a mount"
            );
            Err((value.span(), what))
        }
        "refuse" => Ok(Guarded::Refuse),
        "mark" => Ok(Guarded::Mark),
        "off" => Ok(Guarded::Off),
        word => Err((value.span(), format!("`{key}` is `{word}`, and must be refuse, mark or off"))),
    }
}

fn whole_path(value: &Value<'_>, key: &str) -> Result<PathBuf, Wrong> {
    let path = Path::new(text(value, key)?);
    let plain = |part: Component<'_>| !matches!(part, Component::ParentDir | Component::CurDir);
    if path.is_absolute() && path.components().all(plain) && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(path.components().collect());
    }
    Err((value.span(), format!("`{key}` is `{}`, and must be a whole path without `..`", path.display())))
}

fn root(value: &Value<'_>, key: &str) -> Result<PathBuf, Wrong> {
    let path = whole_path(value, key)?;
    if path.parent().is_none() {
        return Err((value.span(), format!("`{key}` is the whole machine: name a folder below, such as `/srv/db`")));
    }
    Ok(path)
}

fn patterns(value: &Value<'_>, key: &str) -> Result<Vec<String>, Wrong> {
    let want = "names with `*`, `**`, `?` and `!` before those that do not belong, such as [\"*.db*\", \"!*-shm\"]";
    let all: Vec<String> =
        entries(value, key, want)?.map(|word| text(word, key).map(str::to_owned)).collect::<Result<_, _>>()?;
    let empty = |pattern: &String| pattern.trim_start_matches('!').is_empty() || pattern.contains('\0');
    if all.iter().any(empty) || all.iter().all(|pattern| pattern.starts_with('!')) {
        return Err((value.span(), format!("`{key}` must be {want}")));
    }
    Ok(all)
}

/// Endings of databases that have a log or a journal beside them, as those of `SQLite`.
const DATABASES: [&str; 4] = [".db", ".db3", ".sqlite", ".sqlite3"];

/// A database without its log is no database: both are in one group, or the copy is damaged.
fn journals(section: &Section<'_>, patterns: &[String]) {
    let text = globs(patterns);
    let held = Globs::new(&text);
    for pattern in patterns.iter().filter(|pattern| !pattern.starts_with('!')) {
        if !DATABASES.iter().any(|end| pattern.ends_with(end)) {
            continue;
        }
        let name = pattern.trim_start_matches('/').replace("**/", "").replace(['*', '?'], "x");
        let missing: Vec<&str> = ["-wal", "-journal"]
            .into_iter()
            .filter(|end| held.holds(name.as_bytes()) && !held.holds(format!("{name}{end}").as_bytes()))
            .collect();
        if let Some(end) = missing.first() {
            let more: Vec<String> = missing.iter().map(|end| format!("\"{pattern}{end}\"")).collect();
            let what = format!(
                "`patterns` has `{pattern}` without `{pattern}{end}`: a database is damaged without its log; add {}",
                more.join(" and ")
            );
            section.wrongs().put((section.place("patterns"), what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const HEAD: &str = r#"cluster = 7
node = 0
[[nodes]]
id = 0
address = "10.0.0.1"
[[nodes]]
id = 1
address = "10.0.0.2"
[[nodes]]
id = 2
address = "10.0.0.3"
part = "arbiter"
[[services]]
name = "db"
command = ["/bin/db"]
candidates = [1, 0]
[[services]]
name = "web"
command = ["/bin/web"]
strategy = "hot"
[[services]]
name = "job"
command = ["/bin/job"]
"#;
    const GROUPS: &str = r#"[[groups]]
name = "books"
service = "db"
root = "/srv/db"
patterns = ["*.db", "*.db-*", "!*-shm"]
mode = "sync"
need = 2
log = "256M"
lag = 500
scrub = "6h"
guard = "mark"
ring_bytes = "8M"
library = "/opt/apus/libapus_interpose.so"
[[groups]]
name = "work"
service = "job"
root = "/srv/job"
patterns = ["**"]
capture = "fuse"
scrub = false
"#;

    #[test]
    fn a_group_reaches_the_engine_with_its_copies() {
        let config = Config::read("x", &format!("{HEAD}{GROUPS}")).expect("it is good");
        let [books, work] = &config.groups[..] else { panic!("two groups") };
        let engine = &books.engine;
        assert_eq!((engine.mode, engine.need, engine.log_bytes, engine.lag), (Mode::Sync, 2, 256 << 20, 500));
        assert_eq!((engine.copies.as_slice(), engine.resource.0), (&[NodeId(1), NodeId(0)][..], 256));
        assert_eq!((books.guard, books.ring_bytes, engine.scrub.0), (Guarded::Mark, 8 << 20, 21_600_000_000));
        assert_eq!((books.capture, work.capture), (Capture::Preload, Capture::Fuse));
        assert_eq!((work.engine.mode, work.guard, work.engine.scrub), (Mode::Async, Guarded::Refuse, Micros::ZERO));
        // Who has no disk to lose holds no files; the service may run where they are.
        assert_eq!(work.engine.copies, [NodeId(0), NodeId(1)]);
        assert_eq!(config.services[2].candidates, work.engine.copies);
        let engine = crate::engine::config(&config).expect("the engine takes it");
        assert_eq!((engine.groups.len(), engine.wire_version), (2, 5));
    }

    #[test]
    fn what_is_wrong_with_a_group_is_told_with_its_line_and_the_mend() {
        let mistakes = [
            ("name = \"books\"", "name = \"bo oks\"", "x:25: `name` is `bo oks`, and must be 1 to 32 letters"),
            ("name = \"work\"", "name = \"books\"", "x:38: this group has the name or the `id` of `books`"),
            (
                "service = \"db\"",
                "service = \"dbx\"",
                "x:26: `service` is `dbx`, which is no service of this file: known are db, web, job",
            ),
            ("service = \"db\"", "service = \"web\"", "x:26: `web` is not `strategy = \"cold\"`"),
            (
                "service = \"job\"",
                "service = \"db\"",
                "x:39: `books` has the same service: one order holds within a group",
            ),
            ("service = \"db\"\n", "", "x:24: a group lacks `service`; write such as `service = \"db\"`"),
            ("root = \"/srv/db\"", "root = \"srv/db\"", "x:27: `root` is `srv/db`, and must be a whole path"),
            ("root = \"/srv/db\"", "root = \"/srv/../db\"", "x:27: `root` is `/srv/../db`, and must be a whole path"),
            ("root = \"/srv/db\"", "root = \"/\"", "x:27: `root` is the whole machine"),
            (
                "root = \"/srv/job\"",
                "root = \"/srv/db/jobs\"",
                "x:40: `root` overlaps with that of `books`; give each a folder",
            ),
            ("root = \"/srv/job\"", "root = \"/srv\"", "x:40: `root` overlaps with that of `books`"),
            ("root = \"/srv/job\"", "root = \"/var/lib/apus/x\"", "x:40: `root` and the node's `folder` overlap"),
            (
                "\"*.db-*\", ",
                "",
                "x:28: `patterns` has `*.db` without `*.db-wal`: a database is damaged without its log; add \"*.db-wal\" and \"*.db-journal\"",
            ),
            ("\"*.db-*\"", "\"*.db-wal\"", "x:28: `patterns` has `*.db` without `*.db-journal`"),
            ("[\"**\"]", "[\"!x\"]", "x:41: `patterns` must be names with `*`"),
            ("mode = \"sync\"", "mode = \"fast\"", "x:29: `mode` is `fast`, and must be async, semi-sync or sync"),
            ("mode = \"sync\"\n", "", "x:29: `need` is for `mode = \"sync\"` alone"),
            ("need = 2", "need = 3", "x:30: `need` must be 1 to 2, the number of copies"),
            ("need = 2", "need = 0", "x:30: `need` must be 1 to 2"),
            ("need = 2", "copies = [0]", "x:30: `copies` are not the `candidates` of `db`"),
            ("need = 2", "copies = [0, 7]", "x:30: `copies` names node 7, which is not among `nodes`"),
            ("log = \"256M\"", "log = \"9\"", "x:31: `log` must be \"1M\" to \"1024G\""),
            ("lag = 500", "lag = 0", "x:32: `lag` must be a number of changes above 0"),
            ("scrub = \"6h\"", "scrub = \"6\"", "x:33: `scrub` is `6`, and must be a whole number"),
            ("guard = \"mark\"", "guard = \"maybe\"", "x:34: `guard` is `maybe`, and must be refuse, mark or off"),
            ("\"8M\"", "\"9M\"", "x:35: `ring_bytes` must be a power of two"),
            ("candidates = [1, 0]", "fenced = false", "x:29: `db` is `fenced = false`, and `sync` tells its program"),
            ("guard = \"mark\"", "guard = \"fallback\"", "write `capture = \"fuse\"` to have every program captured"),
            ("\"fuse\"", "\"copy\"", "x:42: `capture` is `copy`, and must be preload or fuse"),
            ("scrub = false", "state = \"/srv/job/.x\"", "x:43: `state` and `root` overlap"),
            ("scrub = false", "colour = 1", "x:43: `colour` is not known in a group; known are name, id, service"),
        ];
        crate::section::each_mistake_is_told(&format!("{HEAD}{GROUPS}"), &mistakes);
    }
}
