//! A failure to keep: the scenario's text, the seed, and the explicit list of faults, so that it survives refactoring.

use apus_engine::{Mutant, NodeId};
use serde_json::{Value, json};

use crate::fault::{Fault, Kind, Target};
use crate::report::{Run, Violation};
use crate::scenario::{Plan, Scenario, Workload};

/// The format's version.
const VERSION: u64 = 1;

/// A failing run, explicit enough to run again.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The scenario file's text.
    pub text: String,
    /// What to run.
    pub plan: Plan,
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
    /// Of a run.
    #[must_use]
    pub fn new(text: &str, plan: &Plan, run: &Run) -> Self {
        Self {
            text: text.into(),
            plan: plan.clone(),
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
        serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
    }

    /// From a file's text. An error names the place and the mend.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
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
        Ok(Self { text: source.into(), mutant: plan.scenario.mutant, plan, violation, hash, engine })
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
    json!({
        "kind": fault.kind.spec().name, "at_ns": fault.at, "for_ns": fault.lasts, "target": target_json(&fault.target),
        "rate_ppm": fault.rate_ppm, "size": fault.size, "scripted": fault.scripted,
    })
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
        scripted: value["scripted"].as_bool().unwrap_or_default(),
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
