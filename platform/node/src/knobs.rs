//! What of the engine a file may set: the times of its protocols, and which part a node has among the others. All nodes need the same.

use apus_engine::{Config as Engine, DiagnosisRule, Micros};

use crate::section::{Section, Value, Wrong, number, text};
use crate::service::time;

/// A node's part among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// It decides, owns and serves.
    #[default]
    Voter,
    /// It decides, and owns and serves nothing: the third machine of two.
    Arbiter,
    /// It owns and serves, and does not decide.
    Learner,
}

impl Part {
    /// As it is written.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Arbiter => "arbiter",
            Self::Learner => "learner",
        }
    }

    pub(crate) fn read(value: &Value<'_>) -> Result<Self, Wrong> {
        match text(value, "part")? {
            "voter" => Ok(Self::Voter),
            "arbiter" => Ok(Self::Arbiter),
            "learner" => Ok(Self::Learner),
            other => Err((value.span(), format!("`part` is `{other}`, and must be voter, arbiter or learner"))),
        }
    }
}

/// How a file has it.
trait Knob {
    fn text(&self) -> String;
}

impl Knob for Micros {
    fn text(&self) -> String {
        format!("\"{}us\"", self.0)
    }
}

impl Knob for DiagnosisRule {
    fn text(&self) -> String {
        let word = match self {
            Self::Adaptive => "adaptive",
            Self::Paper => "paper",
        };
        format!("\"{word}\"")
    }
}

macro_rules! whole {
    ($($type:ty)*) => {$(
        impl Knob for $type {
            fn text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole!(u8 u16 u32);

macro_rules! knobs {
    ($($name:ident $type:ty, $read:expr, $about:literal, |$engine:ident, $value:ident| $set:expr;)*) => {
        /// Knobs of the engine; what is left out keeps its default.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Knobs { $(#[doc = $about] pub $name: Option<$type>,)* }

        impl Knobs {
            pub(crate) fn read<'t>(file: &Section<'t>, value: &'t Value<'t>) -> Result<Self, Wrong> {
                let section = file.below(value, "`knobs`", "knobs = { period = \"200ms\" }")?;
                section.known(&[$(stringify!($name)),*]);
                Ok(Self { $($name: section.opt(stringify!($name), $read),)* })
            }

            /// Sets them.
            #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux runs nodes"))]
            pub(crate) fn apply(&self, engine: &mut Engine) {
                $(if let Some($value) = self.$name {
                    let $engine = &mut *engine;
                    $set = $value;
                })*
            }

            /// Those of an engine, all of them.
            #[must_use]
            pub fn of(engine: &Engine) -> Self {
                Self { $($name: { let $engine = engine; Some($set) },)* }
            }

            /// As a file has them.
            #[must_use]
            pub fn toml(&self) -> String {
                let mut text = String::from("[knobs]\n");
                $(if let Some(value) = &self.$name {
                    text += &format!("{} = {}\n", stringify!($name), Knob::text(value));
                })*
                text
            }
        }
    };
}

fn whole<T: TryFrom<u64>>(value: &Value<'_>, key: &str) -> Result<T, Wrong> {
    number(value, key, "a whole number that fits")
}

fn rule(value: &Value<'_>, key: &str) -> Result<DiagnosisRule, Wrong> {
    match text(value, key)? {
        "adaptive" => Ok(DiagnosisRule::Adaptive),
        "paper" => Ok(DiagnosisRule::Paper),
        other => Err((value.span(), format!("`{key}` is `{other}`, and must be adaptive or paper"))),
    }
}

knobs! {
    rule DiagnosisRule, rule, "Rule of diagnosis.", |e, v| e.diagnosis.rule;
    period Micros, time, "Between two probes of a neighbour.", |e, v| e.diagnosis.period;
    observers u8, whole, "Neighbours that watch each node.", |e, v| e.diagnosis.observers;
    convict u8, whole, "Accusers that make a verdict.", |e, v| e.diagnosis.convict;
    deadline_floor Micros, time, "Shortest deadline of a probe.", |e, v| e.diagnosis.deadline_floor;
    deadline_ceiling Micros, time, "Longest deadline of a probe.", |e, v| e.diagnosis.deadline_ceiling;
    suspicion Micros, time, "How long a lone accusation waits for company.", |e, v| e.diagnosis.suspicion;
    heartbeat Micros, time, "Between two heartbeats of the leader.", |e, v| e.consensus.heartbeat;
    election Micros, time, "Shortest election timeout.", |e, v| e.consensus.election;
    batch u16, whole, "Log entries in one packet at most.", |e, v| e.consensus.batch;
    window u16, whole, "Changes under way at most.", |e, v| e.consensus.window;
    keep u32, whole, "Applied log entries kept before compaction.", |e, v| e.consensus.keep;
    drift_ppm u32, whole, "How far two clocks may drift apart, in parts per million.", |e, v| e.views.drift_ppm;
    wire_version u8, whole, "Wire version that is written.", |e, v| e.wire_version;
}

#[cfg(test)]
mod tests {
    use apus_engine::{Bootstrap, Config as Engine, Micros, NodeId};

    use super::{Knobs, Part};
    use crate::Config;

    const HEAD: &str = "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"10.0.0.1\"\n[[nodes]]\nid = 1\npart = \"arbiter\"\n\
                        address = \"10.0.0.2\"\nweight = 3\n[[services]]\nname = \"x\"\ncommand = [\"/bin/x\"]\n";

    #[test]
    fn knobs_of_an_engine_are_written_read_and_applied() {
        let mut engine = Engine::new(NodeId(0), Bootstrap::default());
        engine.diagnosis.period = Micros(123_456);
        engine.consensus.keep = 8;
        engine.views.drift_ppm = 1_000;
        let knobs = Knobs::of(&engine);
        let config = Config::read("x", &format!("{HEAD}{}", knobs.toml())).expect("it is good");
        assert_eq!(config.knobs, knobs);
        let mut other = Engine::new(NodeId(0), Bootstrap::default());
        config.knobs.apply(&mut other);
        assert_eq!(other, engine);
        assert_eq!((config.nodes[1].part, config.nodes[1].weight), (Part::Arbiter, 0), "an arbiter serves nobody");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_how_to_mend_it() {
        let mistakes = [
            ("\"arbiter\"", "\"judge\"", "x:8: `part` is `judge`, and must be voter, arbiter or learner"),
            ("[[services]]", "[knobs]\nperiod = 5\n[[services]]", "x:12: `period` must be a text"),
            (
                "[[services]]",
                "[knobs]\ntempo = 5\n[[services]]",
                "x:12: `tempo` is not known in `knobs`; known are rule",
            ),
            ("[[services]]", "[knobs]\nbatch = 70000\n[[services]]", "x:12: `batch` must be a whole number that fits"),
        ];
        crate::section::each_mistake_is_told(HEAD, &mistakes);
    }
}
