//! A failure to keep: the scenario's text, the seed, the explicit list of faults with whom they hit, and the fate of every
//! packet, so that it survives a change of how faults and packets are drawn.
//!
//! Not kept, and drawn anew from labelled streams of the seed: how clocks run, when machines start, how long disks,
//! programs and clients take, the dice of faults that hit no packet, and the engines' own dice. Under one version of the
//! engine and the world all of that is the same, so the trace hash is; under another one the hash tells.

use std::fmt;
use std::sync::Arc;

use apus_engine::{Mutant, NodeId};
use serde_json::{Value, json};

use crate::fates::Fates;
use crate::fault::{Fault, Kind, Target};
use crate::report::{Run, Violation};
use crate::runner::{options, run_guarded};
use crate::scenario::{Plan, Scenario, Workload};
use crate::world::{self, Options, World};

/// The format's version.
const VERSION: u64 = 2;

/// A failing run, explicit enough to run again.
#[derive(Clone)]
pub struct Artifact {
    /// The scenario file's text.
    pub text: String,
    /// What to run.
    pub plan: Plan,
    /// The world it was found in.
    pub world: &'static (dyn World + Sync),
    /// What became of every packet.
    pub fates: Arc<Fates>,
    /// The planted bug it was found with.
    pub mutant: Option<Mutant>,
    /// What failed.
    pub violation: Option<Violation>,
    /// Trace hash of the run.
    pub hash: u128,
    /// Version of the engine that made it.
    pub engine: String,
}

impl Artifact {
    /// Of a run whose trace was kept.
    #[must_use]
    pub fn new(text: &str, plan: &Plan, world: &'static (dyn World + Sync), run: &Run) -> Self {
        Self {
            text: text.into(),
            plan: plan.clone(),
            world,
            fates: Arc::new(Fates::of(&run.trace)),
            mutant: plan.scenario.mutant,
            violation: run.violation.clone(),
            hash: run.hash,
            engine: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// As a file's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        let scenario = &self.plan.scenario;
        let violation = self.violation.as_ref().map(|violation| {
            json!({
                "checker": violation.checker, "liveness": violation.liveness, "at_ns": violation.at, "what": violation.what,
            })
        });
        let value = json!({
            "apus_artifact": VERSION,
            "engine": self.engine,
            "name": scenario.name,
            "world": self.world.name(),
            "scenario": self.text,
            "scenario_hash": format!("{:016x}", scenario_hash(&self.text)),
            "seed": self.plan.seed,
            "mutant": self.mutant.map(Mutant::name),
            "size": {
                "nodes": scenario.nodes, "members": scenario.members, "voters": scenario.voters, "arbiters": scenario.arbiters,
                "duration_ns": scenario.duration, "heal_ns": scenario.heal,
                "services": scenario.services.iter().map(|service| service.name.clone()).collect::<Vec<_>>(),
                "workload": scenario.workload != Workload::None,
            },
            "faults": self.plan.faults.iter().map(fault_json).collect::<Vec<_>>(),
            "violation": violation,
            "trace_hash": format!("{:032x}", self.hash),
        });
        // The packets come last: they are for the machine.
        let head = serde_json::to_string_pretty(&value).unwrap_or_default();
        let lines: Vec<String> = self
            .fates
            .to_lines()
            .iter()
            .map(|(lane, fates)| format!("    {}: {}", Value::from(lane.as_str()), Value::from(fates.as_str())))
            .collect();
        let body = head.trim_end().trim_end_matches('}').trim_end();
        format!("{body},\n  \"packets\": {{\n{}\n  }}\n}}\n", lines.join(",\n"))
    }

    /// From a file's text. An error names the place and the mend.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("this is no artifact: not JSON: {error}"))?;
        if value["apus_artifact"].as_u64() != Some(VERSION) {
            return Err(format!(
                "`apus_artifact` is not {VERSION}: this is no artifact, or one of another version of apus"
            ));
        }
        let source = string(&value, "scenario")?;
        let mut scenario = Scenario::parse("artifact", source).map_err(|problems| format!("`scenario`: {problems}"))?;
        scenario.mutant = match &value["mutant"] {
            Value::Null => None,
            name => {
                let name = name.as_str().unwrap_or_default();
                Some(
                    Mutant::named(name)
                        .ok_or_else(|| format!("`mutant`: there is no `{name}`; see `apus list mutants`"))?,
                )
            }
        };
        resize(&mut scenario, &value["size"])?;
        let list = value["faults"].as_array().ok_or("`faults` is missing")?;
        let faults: Result<Vec<Fault>, String> = list
            .iter()
            .enumerate()
            .map(|(at, fault)| fault_from(fault).map_err(|what| format!("`faults[{at}]`: {what}")))
            .collect();
        let hash =
            u128::from_str_radix(string(&value, "trace_hash")?, 16).map_err(|_| "`trace_hash` is not 32 hex digits")?;
        let plan = Plan::with_faults(&scenario, number(&value, "seed")?, faults?);
        let violation = value["violation"].as_object().map(|violation| {
            let name = violation.get("checker").and_then(Value::as_str).unwrap_or_default();
            Violation {
                checker: crate::checker::names::named(name).map_or("unknown", |known| known.name),
                liveness: violation.get("liveness").and_then(Value::as_bool).unwrap_or_default(),
                at: violation.get("at_ns").and_then(Value::as_u64).unwrap_or_default(),
                what: violation.get("what").and_then(Value::as_str).unwrap_or_default().into(),
            }
        });
        let engine = string(&value, "engine")?.into();
        let mut fates = Fates::default();
        for (lane, line) in value["packets"].as_object().into_iter().flatten() {
            let line = line.as_str().ok_or_else(|| format!("`packets`: `{lane}` is no text"))?;
            fates.add_line(lane, line).map_err(|what| format!("`packets`: {what}"))?;
        }
        let fates = Arc::new(fates);
        // Artifacts of before there were two worlds are the heap's.
        let world = value["world"].as_str().unwrap_or("heap");
        let world = world::named(world).ok_or_else(|| format!("`world`: this version carries no `{world}`"))?;
        Ok(Self { text: source.into(), world, fates, mutant: plan.scenario.mutant, plan, violation, hash, engine })
    }
}

/// How an entry of a corpus does today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It fails as it did with its planted bug, and passes without it.
    Guards {
        /// By which checker.
        checker: &'static str,
        /// Bit for bit the same run.
        same_trace: bool,
    },
    /// It has no planted bug: its failure was mended, and it passes.
    Mended,
    /// It fails as it did although nothing is planted: the failure is not mended, or is back.
    Unmended(&'static str),
    /// Its planted bug is not caught any more.
    Blind,
    /// It fails in another way.
    Otherwise(&'static str),
    /// It fails without its planted bug, too.
    FailsWithout(&'static str),
}

impl Standing {
    /// Whether an entry should stand like this.
    #[must_use]
    pub const fn is_right(&self) -> bool {
        matches!(self, Self::Guards { .. } | Self::Mended)
    }
    /// Whether the run was bit for bit the same.
    #[must_use]
    pub const fn same_trace(&self) -> bool {
        matches!(self, Self::Guards { same_trace: true, .. })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guards { checker, same_trace: true } => write!(f, "fails by {checker} with its bug, passes without"),
            Self::Guards { checker, .. } => {
                write!(f, "fails by {checker} with its bug, passes without; another trace than when it was made")
            }
            Self::Mended => write!(f, "passes: its failure is mended"),
            Self::Unmended(checker) => write!(f, "fails by {checker} with nothing planted"),
            Self::Blind => write!(f, "its planted bug is not caught any more"),
            Self::Otherwise(checker) => write!(f, "fails in another way than it did: by {checker}"),
            Self::FailsWithout(checker) => write!(f, "fails by {checker} without its planted bug, too"),
        }
    }
}

impl Artifact {
    /// How to run it: with the fates of its packets.
    #[must_use]
    pub fn options(&self) -> Options {
        Options { fates: Some(Arc::clone(&self.fates)), ..options(&self.plan.scenario) }
    }

    /// Runs it as an entry of a corpus: it must fail with its planted bug, and pass without it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let run = run_guarded(self.world, &self.plan, &self.options());
        let was = self.violation.as_ref().map(|violation| (violation.checker, violation.liveness));
        let is = run.violation.as_ref().map(|violation| (violation.checker, violation.liveness));
        match (self.mutant, is) {
            (None, None) => return Standing::Mended,
            (None, Some((checker, _))) => return Standing::Unmended(checker),
            (Some(_), None) => return Standing::Blind,
            (Some(_), Some((checker, _))) if is != was => return Standing::Otherwise(checker),
            _ => {}
        }
        let mut scenario = self.plan.scenario.clone();
        scenario.mutant = None;
        let plan = Plan::with_faults(&scenario, self.plan.seed, self.plan.faults.clone());
        let without = run_guarded(self.world, &plan, &self.options()).violation;
        // A run that was shrunk to a violation of safety has no time left to heal.
        let heals = was.is_some_and(|(_, liveness)| liveness);
        match without.filter(|violation| heals || !violation.liveness) {
            Some(violation) => Standing::FailsWithout(violation.checker),
            None => {
                Standing::Guards { checker: is.map_or("", |(checker, _)| checker), same_trace: run.hash == self.hash }
            }
        }
    }
}

/// Names a scenario's text.
#[must_use]
pub fn scenario_hash(text: &str) -> u64 {
    apus_engine::hash::hash_bytes(0x7363_656e, text.as_bytes())
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("`{key}` is missing or no string"))
}

fn number(value: &Value, key: &str) -> Result<u64, String> {
    value[key].as_u64().ok_or_else(|| format!("`{key}` is missing or no whole number"))
}

fn resize(scenario: &mut Scenario, size: &Value) -> Result<(), String> {
    let small =
        |key: &str| number(size, key).and_then(|n| u16::try_from(n).map_err(|_| format!("`size.{key}` is too large")));
    scenario.nodes = small("nodes")?;
    scenario.members = small("members")?;
    scenario.voters = small("voters")?;
    scenario.arbiters = small("arbiters")?;
    if scenario.voters == 0 || scenario.voters > scenario.members || scenario.members > scenario.nodes {
        return Err("`size`: at least one voter, at most as many voters as members, and members as nodes".into());
    }
    scenario.duration = number(size, "duration_ns")?;
    scenario.heal = number(size, "heal_ns")?;
    let kept: Vec<&str> = size["services"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    scenario.services.retain(|service| kept.contains(&service.name.as_str()));
    if size["workload"] == Value::Bool(false) {
        scenario.workload = Workload::None;
    }
    Ok(())
}

fn fault_json(fault: &Fault) -> Value {
    let mut value = json!({
        "kind": fault.kind.spec().name, "at_ns": fault.at, "for_ns": fault.lasts, "target": target_json(&fault.target),
        "rate_ppm": fault.rate_ppm, "size": fault.size,
    });
    if let Some(place) = fault.scripted {
        value["scripted"] = place.into();
    }
    value
}

fn fault_from(value: &Value) -> Result<Fault, String> {
    let name = string(value, "kind")?;
    Ok(Fault {
        kind: Kind::named(name).ok_or_else(|| format!("`kind`: there is no `{name}`; see `apus list faults`"))?,
        at: number(value, "at_ns")?,
        lasts: number(value, "for_ns")?,
        target: target_from(&value["target"])?,
        rate_ppm: u32::try_from(number(value, "rate_ppm")?).map_err(|_| "`rate_ppm` is too large")?,
        size: number(value, "size")?,
        scripted: value["scripted"].as_u64().and_then(|place| u16::try_from(place).ok()),
    })
}

/// A target as JSON.
#[must_use]
pub fn target_json(target: &Target) -> Value {
    match target {
        Target::All => json!("all"),
        Target::Nodes(nodes) => json!(nodes.iter().map(|node| node.0).collect::<Vec<_>>()),
        Target::Random => json!("random"),
        Target::Voter => json!("voter"),
        Target::Some(n) => json!({ "some": n }),
        Target::Minority => json!("minority"),
        Target::Half => json!("half"),
        Target::Leader => json!("leader"),
        Target::Follower => json!("follower"),
        Target::Dispatcher => json!("dispatcher"),
        Target::Holder(n) => json!({ "holder": n }),
        Target::Bystander => json!("bystander"),
    }
}

fn target_from(value: &Value) -> Result<Target, String> {
    let small = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    if let Some(nodes) = value.as_array() {
        let nodes: Option<Vec<NodeId>> = nodes.iter().map(|node| small(node).map(NodeId)).collect();
        return nodes.map(Target::Nodes).ok_or_else(|| "`target`: node numbers from 0 to 65535".into());
    }
    if let Some(n) = small(&value["some"]) {
        return Ok(Target::Some(n));
    }
    if let Some(n) = small(&value["holder"]) {
        return Ok(Target::Holder(n));
    }
    Ok(match value.as_str() {
        Some("all") => Target::All,
        Some("random") => Target::Random,
        Some("voter") => Target::Voter,
        Some("minority") => Target::Minority,
        Some("half") => Target::Half,
        Some("leader") => Target::Leader,
        Some("follower") => Target::Follower,
        Some("dispatcher") => Target::Dispatcher,
        Some("bystander") => Target::Bystander,
        _ => {
            return Err(format!(
                "`target`: {value} is no target; a list of node numbers, or a role such as \"leader\""
            ));
        }
    })
}
