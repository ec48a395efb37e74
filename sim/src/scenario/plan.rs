//! From a scenario and a seed to the explicit list of faults and the configuration of every node.

use apus_engine::{
    Availability, Bootstrap, Config, GroupConfig, GroupId, Micros, NodeId, Ratio, ResourceConfig, ResourceId, Rng,
    Role, Seed, ServiceConfig, ServiceId,
};

use super::budget;
use super::log_uniform::log_uniform;
use super::model::{Plan, Scenario, ScriptedFault, Service, SwarmFault};
use crate::fault::{Aim, Fault, Kind, MS, Ns, Target};

const MILLION: u32 = 1_000_000;

/// The swarm leaves the start alone for this long, so that there is something to break.
pub(super) fn quiet(scenario: &Scenario) -> Ns {
    (1_500 * MS).min(scenario.duration / 4)
}

impl Plan {
    /// Draws everything that a seed decides.
    ///
    /// Each scripted fault and each kind of the swarm draws from a stream of its own, so that taking one away moves no
    /// draw of another. Of the swarm only what leaves a quorum and one good copy is kept; what the scenario scripts is
    /// always kept.
    #[must_use]
    pub fn draw(scenario: &Scenario, seed: u64) -> Self {
        let root = Seed(seed).derive("faults");
        let mut nth = std::collections::BTreeMap::<Kind, u64>::new();
        let mut faults: Vec<Fault> = Vec::new();
        for (place, scripted) in scenario.faults.iter().enumerate() {
            let nth = nth.entry(scripted.kind).or_default();
            let mut rng = root.derive(scripted.kind.spec().name).nth(*nth).stream("scripted");
            *nth += 1;
            faults.push(draw_scripted(scenario, place, scripted, &mut rng));
        }
        let mut swarm = Vec::new();
        for kind in &scenario.swarm {
            let seed = root.derive(kind.kind.spec().name).derive("swarm");
            draw_swarm(scenario, kind, seed, &mut swarm);
        }
        budget::keep(scenario, &mut faults, swarm);
        Self::with_faults(scenario, seed, faults)
    }

    /// The same plan with these faults, for shrinking and replaying.
    #[must_use]
    pub fn with_faults(scenario: &Scenario, seed: u64, mut faults: Vec<Fault>) -> Self {
        faults.sort();
        let configs = configs(scenario, seed, &faults);
        Self { scenario: scenario.clone(), seed, faults, configs }
    }
}

fn draw_scripted(scenario: &Scenario, place: usize, fault: &ScriptedFault, rng: &mut Rng) -> Fault {
    let at = rng.between(fault.at.0, fault.at.1);
    let lasts = log_uniform(rng, fault.lasts.0, fault.lasts.1);
    Fault {
        at,
        lasts: lasts.min(scenario.duration.saturating_sub(at)),
        kind: fault.kind,
        target: draw_target(scenario, fault.kind, &fault.target, rng),
        rate_ppm: small(log_uniform(rng, fault.rate_ppm.0.into(), fault.rate_ppm.1.into())),
        size: log_uniform(rng, fault.size.0, fault.size.1),
        scripted: Some(number(place)),
    }
}

fn small(rate: u64) -> u32 {
    u32::try_from(rate).unwrap_or(MILLION).min(MILLION)
}

fn draw_swarm(scenario: &Scenario, fault: &SwarmFault, seed: Seed, into: &mut Vec<Fault>) {
    let mut rng = seed.stream("how many");
    if !rng.hit(Ratio { hit: fault.chance_ppm, of: MILLION }) {
        return;
    }
    let quiet = quiet(scenario);
    for number in 0..rng.between(fault.count.0.into(), fault.count.1.into()) {
        // A stream for each: a smaller count keeps the first ones as they were.
        let mut rng = seed.nth(number).stream("which");
        let most = fault.lasts.1.min(scenario.duration.saturating_sub(quiet));
        let lasts = log_uniform(&mut rng, fault.lasts.0.min(most), most);
        let latest = scenario.duration.saturating_sub(lasts).saturating_sub(1);
        into.push(Fault {
            at: rng.between(quiet.min(latest), latest),
            lasts,
            kind: fault.kind,
            target: draw_target(scenario, fault.kind, &fault.target, &mut rng),
            rate_ppm: small(log_uniform(&mut rng, fault.rate_ppm.0.into(), fault.rate_ppm.1.into())),
            size: log_uniform(&mut rng, fault.size.0, fault.size.1),
            scripted: None,
        });
    }
}

/// Fixes what can be fixed before the run; roles are found out when the fault starts.
fn draw_target(scenario: &Scenario, kind: Kind, target: &Target, rng: &mut Rng) -> Target {
    let arbiters = scenario.voters.saturating_sub(scenario.arbiters)..scenario.voters;
    // Arbiters run no programs and own nothing.
    let owns = matches!(kind.spec().aim, Aim::Programs) || kind == Kind::MoveHolder;
    let members: Vec<u16> = (0..scenario.members).filter(|node| !owns || !arbiters.contains(node)).collect();
    let voters: Vec<u16> = (0..scenario.voters).collect();
    let (from, many) = match target {
        Target::Random => (members, 1),
        Target::Voter => (voters, 1),
        Target::Some(n) => (members, usize::from(*n)),
        Target::Minority => (voters, budget::minority(scenario)),
        Target::Half => {
            let half = members.len() / 2;
            (members, half)
        }
        other => return other.clone(),
    };
    Target::Nodes(pick(rng, from, many))
}

/// `many` of them, in order.
fn pick(rng: &mut Rng, mut from: Vec<u16>, many: usize) -> Vec<NodeId> {
    let mut out = Vec::new();
    while out.len() < many && !from.is_empty() {
        let at = usize::try_from(rng.below(from.len() as u64)).unwrap_or(0);
        out.push(NodeId(from.swap_remove(at)));
    }
    out.sort_unstable();
    out
}

/// The configuration of every node; checked.
fn configs(scenario: &Scenario, seed: u64, faults: &[Fault]) -> Vec<Config> {
    let mut common = base(scenario);
    if faults.iter().any(|fault| fault.kind == Kind::Knobs) {
        let mut rng = Seed(seed).stream("knobs");
        // The relations between the knobs are kept as they are drawn; the check is the proof of it.
        common = (0..8).map(|_| draw_knobs(&common, &mut rng)).find(|drawn| drawn.check().is_ok()).unwrap_or(common);
    }
    (0..scenario.nodes).map(|node| Config { me: NodeId(node), ..common.clone() }).collect()
}

/// Every time within a factor of two or so.
fn draw_knobs(base: &Config, rng: &mut Rng) -> Config {
    let mut drawn = base.clone();
    let mut scaled = |value: Micros, low, high| value.scale(rng.between(low, high), 100);
    drawn.diagnosis.period = scaled(base.diagnosis.period, 60, 200);
    drawn.diagnosis.suspicion = scaled(base.diagnosis.suspicion, 60, 200);
    drawn.diagnosis.deadline_floor = scaled(base.diagnosis.deadline_floor, 80, 150);
    drawn.consensus.heartbeat = scaled(base.consensus.heartbeat, 60, 150);
    let least = drawn.consensus.heartbeat.scale(3, 1);
    drawn.consensus.election = scaled(base.consensus.election, 80, 200).max(least);
    drawn.views.lease = scaled(base.views.lease, 80, 200).max(least);
    drawn.consensus.batch = u16::try_from(log_uniform(rng, 1, 64)).unwrap_or(1);
    drawn.consensus.window = u16::try_from(log_uniform(rng, 8, 256)).unwrap_or(8);
    drawn.consensus.keep = u32::try_from(log_uniform(rng, 4, 256)).unwrap_or(4);
    drawn
}

/// What all nodes have in common, as node 0 has it, without what a seed draws.
pub(super) fn base(scenario: &Scenario) -> Config {
    let mut common = Config::new(NodeId(0), bootstrap(scenario));
    set_knobs(scenario, &mut common);
    common.mutant = scenario.mutant;
    let availability = scenario.cluster.availability.unwrap_or_default();
    common.resources.push(resource(0, Role::Dispatcher, availability));
    for (at, service) in scenario.services.iter().enumerate() {
        let id = ServiceId(number(at));
        for slot in 0..service.degree {
            let next = number(common.resources.len());
            common.resources.push(resource(next, Role::Slot { service: id, slot }, Availability::Safe));
        }
        common.services.push(service_config(scenario, id, service));
    }
    if let Some(files) = &scenario.files {
        let id = ResourceId(1);
        let copies: Vec<NodeId> = (0..files.copies).map(NodeId).collect();
        if let Some(resource) = common.resources.iter_mut().find(|resource| resource.id == id) {
            resource.candidates.clone_from(&copies);
        }
        let group = GroupConfig::new(GroupId(1), id, copies);
        let (log_bytes, scrub) = (files.log, micros(files.scrub));
        common.groups.push(GroupConfig {
            mode: files.mode,
            need: files.need,
            log_bytes,
            lag: files.lag,
            scrub,
            ..group
        });
        common.wire_version = scenario.cluster.wire_version.unwrap_or(apus_engine::wire::VERSION);
    }
    common
}

fn number(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

const fn resource(id: u16, role: Role, availability: Availability) -> ResourceConfig {
    ResourceConfig { id: ResourceId(id), role, availability, candidates: Vec::new() }
}

fn bootstrap(scenario: &Scenario) -> Bootstrap {
    let nodes = |from: u16, to: u16| (from..to).map(NodeId).collect::<Vec<_>>();
    Bootstrap {
        voters: nodes(0, scenario.voters),
        arbiters: nodes(scenario.voters.saturating_sub(scenario.arbiters), scenario.voters),
        learners: nodes(scenario.voters, scenario.members),
    }
}

const fn micros(ns: Ns) -> Micros {
    Micros(ns / 1_000)
}

fn set_knobs(scenario: &Scenario, config: &mut Config) {
    let knobs = &scenario.cluster;
    let set = |to: &mut Micros, from: Option<Ns>| *to = from.map_or(*to, micros);
    set(&mut config.diagnosis.period, knobs.period);
    set(&mut config.diagnosis.deadline_floor, knobs.deadline_floor);
    set(&mut config.diagnosis.deadline_ceiling, knobs.deadline_ceiling);
    set(&mut config.diagnosis.suspicion, knobs.suspicion);
    set(&mut config.consensus.heartbeat, knobs.heartbeat);
    set(&mut config.consensus.election, knobs.election);
    set(&mut config.views.lease, knobs.lease);
    config.diagnosis.rule = knobs.rule.unwrap_or(config.diagnosis.rule);
    config.diagnosis.observers = knobs.observers.unwrap_or(config.diagnosis.observers);
    config.diagnosis.convict = knobs.convict.unwrap_or(config.diagnosis.convict);
    config.views.drift_ppm = knobs.drift_ppm.unwrap_or(config.views.drift_ppm);
    config.consensus.batch = knobs.batch.unwrap_or(config.consensus.batch);
    config.consensus.keep = knobs.keep.unwrap_or(config.consensus.keep);
    config.wire_version = knobs.wire_version.unwrap_or(config.wire_version);
    // Fewer nodes than observers: everybody watches everybody. What a file says itself is not touched, but checked.
    let others = u8::try_from(scenario.members.saturating_sub(1).clamp(1, 16)).unwrap_or(16);
    if knobs.observers.is_none() {
        config.diagnosis.observers = config.diagnosis.observers.min(others);
    }
    if knobs.convict.is_none() {
        config.diagnosis.convict = config.diagnosis.convict.min(config.diagnosis.observers);
    }
}

fn service_config(scenario: &Scenario, id: ServiceId, service: &Service) -> ServiceConfig {
    // An unknown name cannot come from a file; the number of no service makes `Config::check` refuse it.
    let of = |name: &String| {
        scenario
            .services
            .iter()
            .position(|other| other.name == *name)
            .map_or(ServiceId(u16::MAX), |at| ServiceId(number(at)))
    };
    ServiceConfig {
        strategy: service.strategy,
        degree: service.degree,
        requires: service.requires.iter().map(of).collect(),
        start_within: micros(service.start_within),
        heartbeats: service.heartbeats.iter().copied().map(micros).collect(),
        grace: micros(service.grace),
        failures: service.failures,
        within: micros(service.within),
        may_reboot: service.may_reboot,
        ..ServiceConfig::cold(id, &service.name)
    }
}
