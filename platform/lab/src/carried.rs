//! What the live world carries of a scenario, and why it does not carry the rest.

use std::ops::Range;

use apus_engine::Availability;
use apus_sim::fault::Kind;
use apus_sim::scenario::{Problem, Scenario};
use toml::de::DeTable;

/// Most nodes of a live run: each is a daemon, a server and a namespace.
pub const LIVE_NODES: u16 = 16;

/// Why a scenario is not run live, and where its file says what is the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The keys that lead there; a number is a place in a list.
    path: Vec<String>,
    /// What.
    pub what: String,
    expected: String,
    help: String,
}

/// Why a kind of fault is not carried; `None`: it is.
const fn lacks(kind: Kind) -> Option<&'static str> {
    use Kind::{
        BitRot, Bridge, BurstLoss, Crash, CrashAll, CrashLoop, DivergentConfig, Drain, FilesFull, FilesMissed,
        FilesRot, Flap, Freeze, GracefulStop, Knobs, LoseUnsynced, Loss, MoveHolder, NicDown, OneWay, OneWayIn,
        Partition, PermanentLoss, PowerOff, ProgramCrash, ProgramHang, ProgramPoison, ProgramSlowStart,
        ProgramWontStart, Starve, Suspend, Swizzle, TruncatedFile, Upgrade, Wipe, WrongCluster,
    };
    match kind {
        BitRot | Bridge | BurstLoss | Crash | CrashAll | CrashLoop | DivergentConfig | Drain | FilesFull
        | FilesMissed | FilesRot | Flap | Freeze | GracefulStop | Knobs | LoseUnsynced | Loss | MoveHolder
        | NicDown | OneWay | OneWayIn | Partition | PermanentLoss | PowerOff | ProgramCrash | ProgramHang
        | ProgramPoison | ProgramSlowStart | ProgramWontStart | Starve | Suspend | Swizzle | TruncatedFile
        | Upgrade | Wipe | WrongCluster => None,
        Kind::Latency
        | Kind::SlowPair
        | Kind::SlowPartition
        | Kind::Jitter
        | Kind::ReorderGap
        | Kind::Lifo
        | Kind::Clog
        | Kind::ReplayLate
        | Kind::Duplicate
        | Kind::Bandwidth
        | Kind::QueueCap => {
            Some("the bridge of a lab forwards or drops a frame, it does not hold one back or double it")
        }
        Kind::Corrupt
        | Kind::CorruptUnseen
        | Kind::Truncate
        | Kind::Mtu
        | Kind::DropKind
        | Kind::Spoof
        | Kind::Garbled
        | Kind::Flood
        | Kind::NoSockets => {
            Some("it works on packets of the engine, which a lab sees only as frames of the transport")
        }
        Kind::Drift
        | Kind::JumpForward
        | Kind::JumpBackward
        | Kind::Strobe
        | Kind::Slew
        | Kind::CoarseTimer
        | Kind::LateTimer
        | Kind::ClockOrigin => Some("all nodes of a lab have the one boot clock of the machine"),
        Kind::TornWrite
        | Kind::ReorderWrites
        | Kind::DiskError
        | Kind::PhantomWrite
        | Kind::Misdirect
        | Kind::StaleChunk
        | Kind::StaleDisk
        | Kind::DiskFull
        | Kind::SlowDisk
        | Kind::ReadOnly => {
            Some("a disk of a lab loses with the power what was not synced; nothing else of it fails or is slow")
        }
        Kind::FilesError => Some("nothing between a lab's file systems and their images fails single writes"),
        Kind::AddNode | Kind::RemoveNode => Some("a daemon takes no order yet that changes the members"),
        Kind::LoadSpike | Kind::RetryStorm | Kind::OddSizes => Some("clients of a lab work at one steady pace"),
        Kind::CrashAtPoint | Kind::CrashInRecovery | Kind::SlowNode | Kind::Zombie | Kind::NewAddress => {
            Some("it is done inside a node's process, and a lab has a node from outside only")
        }
        _ => Some("a lab has no way to do it"),
    }
}

/// Why the live world does not carry a scenario; nothing: it does.
#[must_use]
pub fn not_live(scenario: &Scenario) -> Vec<Reason> {
    let mut all = Vec::new();
    let mut tell = |path: &[&str], what: String, expected: &str, help: String| {
        let path = path.iter().map(|key| (*key).to_owned()).collect();
        all.push(Reason { path, what, expected: expected.into(), help });
    };
    let elsewhere = |what: &str| format!("take it out, or run it with {what}");
    if !scenario.worlds.iter().any(|world| world == "heap") {
        let other = scenario.worlds.first().map_or("heap", String::as_str);
        let what = format!("it is written for the world `{other}` alone");
        tell(&["worlds"], what, "a scenario for the world `heap`", format!("run it with `--world {other}`"));
    }
    if scenario.nodes > LIVE_NODES {
        let what = format!("{} nodes are too many for one machine", scenario.nodes);
        let help = format!("write `nodes = {LIVE_NODES}` or fewer, or run it with `--world heap`");
        tell(&["nodes"], what, "at most 16 nodes", help);
    }
    if scenario.members < scenario.nodes {
        let what = "a daemon takes no order yet that adds a member".into();
        tell(&["members"], what, "every node a member", elsewhere("`--world heap` or `turmoil`"));
    }
    if let Some(mutant) = scenario.mutant {
        let what = format!("the daemon that is shipped has no planted bug `{}`", mutant.name());
        tell(&["mutant"], what, "no planted bug", elsewhere("`--world heap` or `turmoil`"));
    }
    if scenario.cluster.availability == Some(Availability::Prefer) {
        let what = "a daemon never has two holders: the 1998 rule is for the simulator".into();
        tell(&["cluster", "availability"], what, "`safe`", elsewhere("`--world heap` or `turmoil`"));
    }
    if scenario.cluster.link_delay.is_some() {
        let what = "the links of a lab are as fast as the machine".into();
        tell(&["cluster", "link_delay"], what, "no delay of links", elsewhere("`--world heap` or `turmoil`"));
    }
    if scenario.cluster.disk_delay.is_some() {
        let what = "the disk of a lab is as fast as the machine's".into();
        tell(&["cluster", "disk_delay"], what, "no delay of disks", elsewhere("`--world heap` or `turmoil`"));
    }
    if scenario.services.iter().any(|service| service.may_reboot) {
        let what = "a lab has no machine that a program's failures may reboot".into();
        tell(&["service"], what, "`may_reboot = false`", elsewhere("`--world heap` or `turmoil`"));
    }
    let mut told = Vec::new();
    let scripted =
        scenario.faults.iter().enumerate().map(|(at, fault)| (vec!["fault".into(), at.to_string()], fault.kind));
    let drawn =
        scenario.swarm.iter().map(|fault| (vec!["swarm".into(), fault.kind.spec().name.to_owned()], fault.kind));
    for (mut path, kind) in scripted.chain(drawn) {
        let Some(why) = lacks(kind).filter(|_| !told.contains(&kind)) else { continue };
        told.push(kind);
        if path[0] == "fault" {
            path.push("kind".into());
        }
        let spec = kind.spec();
        let what = format!("the world `live` does not carry `{}`: {why}", spec.name);
        let help = format!("take the fault out, or run it with `--world {}`", spec.worlds.join("` or `"));
        all.push(Reason { path, what, expected: "a kind that a lab can inject; see docs/lab.md".into(), help });
    }
    all
}

/// The same as problems of the file, each with its place.
#[must_use]
pub fn problems(file: &str, text: &str, scenario: &Scenario) -> Vec<Problem> {
    not_live(scenario).into_iter().map(|reason| reason.problem(file, text)).collect()
}

impl Reason {
    fn problem(self, file: &str, text: &str) -> Problem {
        let span = place(text, &self.path).unwrap_or(0..0);
        let before = &text[..span.start];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
        let shown = span.end.clamp(span.start, end);
        let mut key = String::new();
        for part in &self.path {
            match part.parse::<usize>() {
                Ok(at) => key += &format!("[{at}]"),
                Err(_) if key.is_empty() => key.clone_from(part),
                Err(_) => key += &format!(".{part}"),
            }
        }
        Problem {
            file: file.into(),
            line: before.matches('\n').count() + 1,
            column: text[start..span.start].chars().count() + 1,
            key,
            message: self.what,
            expected: self.expected,
            help: self.help,
            excerpt: text[start..end].trim_end_matches('\r').to_owned(),
            width: text[span.start..shown].chars().count(),
        }
    }
}

/// Where a key's value stands.
fn place(text: &str, path: &[String]) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let (first, rest) = path.split_first()?;
    let mut value = root.get_ref().get(first.as_str())?;
    for key in rest {
        let inner = match key.parse::<usize>() {
            Ok(at) => value.get_ref().as_array().and_then(|list| list.get(at)),
            Err(_) => value.get_ref().as_table().and_then(|table| table.get(key.as_str())),
        };
        // What was left out has a default, and stands nowhere.
        let Some(inner) = inner else { break };
        value = inner;
    }
    Some(value.span())
}

#[cfg(test)]
mod tests {
    use apus_sim::scenario::{Scenario, shipped};

    use super::{not_live, problems};

    #[test]
    fn what_is_not_carried_is_told_with_place_and_mend() {
        let text = "name = \"x\"\nabout = \"y\"\nnodes = 3\nduration = \"9s\"\n[[fault]]\nkind = \"crash\"\nat = \"2s\"\nfor = \"1s\"\n\
                    [[fault]]\nkind = \"latency\"\nat = \"2s\"\nfor = \"1s\"\n[swarm]\ndrift = {}\n";
        let scenario = Scenario::parse("x.toml", text).expect("it is sound");
        let all = problems("x.toml", text, &scenario);
        assert_eq!(all.len(), 2);
        let [first, second] = &all[..] else { panic!("{all:?}") };
        assert_eq!((first.line, first.column, first.key.as_str()), (10, 8, "fault[1].kind"));
        assert!(first.message.starts_with("the world `live` does not carry `latency`: the bridge of a lab"), "{first}");
        assert!(first.help.contains("`--world heap` or `turmoil`"), "{first}");
        assert_eq!((second.line, second.key.as_str()), (14, "swarm.drift"));
    }

    /// Of the shipped scenarios at least these many run live as they are.
    #[test]
    fn forty_shipped_scenarios_are_carried() {
        let sound = |(name, text): &(&str, &str)| Scenario::parse(name, text).expect("what is shipped is sound");
        let carried = shipped().iter().map(sound).filter(|scenario| not_live(scenario).is_empty()).count();
        assert!(carried >= 40, "{carried}");
    }
}
