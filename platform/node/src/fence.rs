//! `[fence]` and `watchdog`: how another machine is stopped for certain, and what stops this one when its daemon does not work.
//! What a plug-in is told, and what its end means, is in docs/daemon.md.

use std::collections::BTreeMap;
use std::path::PathBuf;

use apus_engine::{Micros, NodeId};
use serde_json::{Value as Json, json};

use crate::section::{Section, Value, Wrong, text};
use crate::service::{command, time};

/// Of a reason, in bytes of JSON: a setting is small.
const REASON: usize = 400;

/// A reason as the log and a plug-in get it: without control characters, and no longer than there is room for.
pub(crate) fn reason(text: &str) -> String {
    let mut long = 0;
    let fits = |c: &char| {
        long += c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
        long <= REASON
    };
    text.chars().filter(|c| !c.is_control()).take_while(fits).collect()
}

/// The plug-in that stops other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It has so long.
    pub within: Micros,
    /// Whether the coordinator fences a node that is down while it holds something.
    pub auto: bool,
    /// It must have been down for so long without a break: a daemon that is started anew is back before.
    pub after: Micros,
    /// What the plug-in calls each machine, such as the address of its management board.
    pub targets: BTreeMap<NodeId, String>,
}

/// A device that resets this machine unless it is fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Such as `/dev/watchdog`.
    pub device: PathBuf,
    /// It resets the machine so long after the last feeding.
    pub timeout: Micros,
}

/// Reads `[fence]`; `None`: without a command, which was put down.
pub(crate) fn fence<'t>(
    file: &Section<'t>,
    value: &'t Value<'t>,
    nodes: Option<&[NodeId]>,
) -> Result<Option<Fence>, Wrong> {
    let section = file.below(value, "`fence`", "[fence]")?;
    section.known(&["command", "within", "auto", "after", "targets"]);
    let command = section.must("command", "[\"/usr/local/sbin/fence\"]", command);
    let within = section.opt("within", |value, key| bounded(value, key, 1, 600));
    let auto = section.flag("auto", false);
    let after = section.opt("after", |value, key| bounded(value, key, 1, 3_600)).unwrap_or(Micros::from_secs(30));
    let targets = section.opt("targets", |value, _| targets(&section, value, nodes)).unwrap_or_default();
    let within = within.unwrap_or(Micros::from_secs(30));
    Ok(command.map(|command| Fence { command, within, auto, after, targets }))
}

fn targets<'t>(
    above: &Section<'t>,
    value: &'t Value<'t>,
    nodes: Option<&[NodeId]>,
) -> Result<BTreeMap<NodeId, String>, Wrong> {
    let section = above.below(value, "`targets`", "targets = { 0 = \"10.9.0.1\" }")?;
    let mut all = BTreeMap::new();
    for (key, value) in section.entries() {
        let node = key.get_ref().parse().ok().map(NodeId);
        match node.filter(|node| nodes.is_none_or(|nodes| nodes.contains(node))) {
            Some(node) => all.extend(section.ok(text(value, "targets")).map(|target| (node, target.to_owned()))),
            None => {
                let what = format!("`{}` is no number of a node; see `nodes`", key.get_ref());
                section.wrongs().put((key.span(), what));
            }
        }
    }
    Ok(all)
}

/// Reads `watchdog`; `None`: with a mistake that was put down.
pub(crate) fn watchdog<'t>(file: &Section<'t>, value: &'t Value<'t>) -> Result<Option<Watchdog>, Wrong> {
    let section = file.below(value, "`watchdog`", "watchdog = { device = \"/dev/watchdog\", timeout = \"30s\" }")?;
    section.known(&["device", "timeout"]);
    let device = section.must("device", "\"/dev/watchdog\"", text).map(PathBuf::from);
    let timeout = section.opt("timeout", |value, key| bounded(value, key, 2, 3_600)).unwrap_or(Micros::from_secs(30));
    Ok(device.map(|device| Watchdog { device, timeout }))
}

/// A time of whole seconds between two bounds.
fn bounded(value: &Value<'_>, key: &str, least: u64, most: u64) -> Result<Micros, Wrong> {
    let time = time(value, key)?;
    if (least * 1_000_000..=most * 1_000_000).contains(&time.0) && time.0.is_multiple_of(1_000_000) {
        return Ok(time);
    }
    Err((value.span(), format!("`{key}` must be {least}s to {most}s, in whole seconds")))
}

/// What is asked of a plug-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The machine is off when the plug-in ends well.
    Off,
    /// It was off at some moment after the plug-in began.
    Reboot,
    /// Nothing is changed; the plug-in ends well if it could stop the machine.
    Status,
}

impl Action {
    /// As plug-ins and operators write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
            Self::Status => "status",
        }
    }

    /// Reads [`word`](Self::word).
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        [Self::Off, Self::Reboot, Self::Status].into_iter().find(|action| action.word() == word)
    }
}

/// One call of the plug-in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) action: Action,
    pub(crate) cluster: u32,
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) target: Option<String>,
    /// It only grows: who is told a lower one than before refuses.
    pub(crate) epoch: u64,
    pub(crate) by: NodeId,
    pub(crate) why: String,
}

impl Call {
    /// A line for standard input.
    pub(crate) fn input(&self) -> Json {
        json!({
            "version": 1, "action": self.action.word(), "cluster": self.cluster, "node": self.node.0,
            "address": self.address, "target": self.target, "epoch": self.epoch, "by": self.by.0, "why": self.why,
        })
    }

    /// The same for shells, but what may be long.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("APUS_ACTION", self.action.word().into()),
            ("APUS_CLUSTER", self.cluster.to_string()),
            ("APUS_NODE", self.node.0.to_string()),
            ("APUS_ADDRESS", self.address.clone()),
            ("APUS_TARGET", self.target.clone().unwrap_or_default()),
            ("APUS_EPOCH", self.epoch.to_string()),
            ("APUS_BY", self.by.0.to_string()),
        ]
    }

    /// What follows the configured command.
    pub(crate) fn arguments(&self) -> [String; 2] {
        [self.action.word().into(), self.node.0.to_string()]
    }
}

/// What a plug-in's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The machine is stopped, for certain.
    Done,
    /// A later epoch was here: whoever asked is behind.
    Stale,
    /// The plug-in does not know the machine: trying again is of no use.
    Unknown,
    /// It is not known whether the machine is stopped.
    Failed,
}

impl Verdict {
    /// By exit code; `None`: killed, or out of time.
    pub(crate) const fn of(code: Option<i32>) -> Self {
        match code {
            Some(0) => Self::Done,
            Some(3) => Self::Stale,
            Some(4) => Self::Unknown,
            _ => Self::Failed,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Stale => "refused: a later epoch was there before",
            Self::Unknown => "refused: the plug-in does not know this node",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{Micros, NodeId};

    use super::{Action, Call, Verdict, reason};
    use crate::Config;

    const HEAD: &str = "cluster = 7\nnode = 0\nwatchdog = { device = \"/dev/watchdog\", timeout = \"12s\" }\n[[nodes]]\nid = 0\n\
                        address = \"10.0.0.1\"\n[[services]]\nname = \"x\"\ncommand = [\"/bin/x\"]\n";
    const FENCE: &str =
        "[fence]\ncommand = [\"/sbin/f\", \"-v\"]\nwithin = \"20s\"\nauto = true\ntargets = { 0 = \"ipmi0\" }\n";

    #[test]
    fn a_fence_and_a_watchdog_are_read() {
        let config = Config::read("x", &format!("{HEAD}{FENCE}")).expect("it is good");
        let fence = config.fence.clone().expect("there is one");
        assert_eq!(
            (fence.within, fence.auto, fence.targets[&NodeId(0)].as_str()),
            (Micros::from_secs(20), true, "ipmi0")
        );
        assert_eq!(fence.after, Micros::from_secs(30), "unless it is written");
        assert_eq!(config.watchdog.expect("there is one").timeout, Micros::from_secs(12));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_how_to_mend_it() {
        let mistakes = [
            ("command = [\"/sbin/f\", \"-v\"]", "", "x:10: `fence` lacks `command`; write such as"),
            ("\"20s\"", "\"20ms\"", "x:12: `within` must be 1s to 600s, in whole seconds"),
            ("auto = true", "after = \"500ms\"", "x:13: `after` must be 1s to 3600s, in whole seconds"),
            ("0 = ", "9 = ", "x:14: `9` is no number of a node; see `nodes`"),
            ("12s", "1s", "x:3: `timeout` must be 2s to 3600s"),
            ("auto = true", "automatic = true", "x:13: `automatic` is not known in `fence`"),
        ];
        crate::section::each_mistake_is_told(&format!("{HEAD}{FENCE}"), &mistakes);
    }

    #[test]
    fn a_reason_has_room_in_the_log() {
        for text in
            ["x".repeat(3_000), "\"".repeat(3_000), "\\".repeat(3_000), "ü".repeat(3_000), "\u{1b}\n\0ü\"".repeat(900)]
        {
            let json = serde_json::to_string(&reason(&text)).expect("a text");
            assert!((398..=402).contains(&json.len()), "{json}");
        }
        assert_eq!(reason("new \"memory\"\r\n"), "new \"memory\"");
    }

    #[test]
    fn a_plug_in_is_told_the_same_in_three_ways() {
        let call = Call {
            action: Action::Off,
            cluster: 7,
            node: NodeId(2),
            address: "10.0.0.3".into(),
            target: Some("ipmi2".into()),
            epoch: 91,
            by: NodeId(0),
            why: "it is \"down\"".into(),
        };
        let input = call.input();
        for (key, value) in call.environment() {
            let field = key.trim_start_matches("APUS_").to_lowercase();
            assert_eq!(input[&field].as_str().map_or_else(|| input[&field].to_string(), str::to_owned), value, "{key}");
        }
        assert_eq!(call.arguments(), ["off", "2"]);
        assert_eq!(
            [0, 1, 3, 4].map(|code| Verdict::of(Some(code)).word().split(':').next()),
            [Some("done"), Some("failed"), Some("refused"), Some("refused")]
        );
        assert_eq!(Verdict::of(None), Verdict::Failed);
    }
}
