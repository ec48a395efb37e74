//! From a scenario and a seed to the explicit list of faults and the configuration of every node.

use apus_engine::{
    Bootstrap, Config, Micros, NodeId, ResourceConfig, ResourceId, Rng, Role, Seed, ServiceConfig, ServiceId,
};

use super::model::{Plan, Scenario, ScriptedFault, SwarmFault};
use crate::fault::{Cost, Fault, Kind, MS, Ns, Target};

/// Two faults that take nodes out are at least this far apart, so that each is felt by itself.
const CALM: Ns = 300 * MS;

fn micros(ns: Ns) -> Micros {
    Micros(ns / 1_000)
}

/// A number in `low..=high`, each order of magnitude alike likely; integers only.
fn log_uniform(rng: &mut Rng, low: u64, high: u64) -> u64 {
    if low >= high {
        return low;
    }
    let least = low.max(1);
    // Draw the number of bits, then the rest; a draw outside is drawn again within a few tries.
    let (from, to) = (least.ilog2(), high.ilog2());
    for _ in 0..16 {
        let bits = u32::try_from(rng.between(u64::from(from), u64::from(to))).unwrap_or(from);
        let floor = 1_u64 << bits;
        let value = floor + rng.below(floor);
        if (low..=high).contains(&value) {
            return value;
        }
    }
    rng.between(low, high)
}

impl Plan {
    /// Draws everything that a seed decides. Each scripted fault and each swarm kind has a stream of its own: taking one away
    /// moves no draw of another.
    #[must_use]
    pub fn draw(scenario: &Scenario, seed: u64) -> Self {
        let mut faults = Vec::new();
        let root = Seed(seed).derive("faults");
        for (at, scripted) in scenario.faults.iter().enumerate() {
            let mut rng = root.derive(scripted.kind.spec().name).nth(at as u64).stream("scripted");
            faults.push(draw_scripted(scenario, scripted, &mut rng));
        }
        let mut swarm = Vec::new();
        for fault in &scenario.swarm {
            let mut rng = root.derive(fault.kind.spec().name).stream("swarm");
            draw_swarm(scenario, fault, &mut rng, &mut swarm);
        }
        swarm.sort();
        keep_budget(scenario, &mut faults, swarm);
        faults.sort();
        let configs = configs(scenario, seed, &faults);
        Self { scenario: scenario.clone(), seed, faults, configs }
    }

    /// The same plan with other faults, for shrinking and replaying.
    #[must_use]
    pub fn with_faults(scenario: &Scenario, seed: u64, faults: Vec<Fault>) -> Self {
        let configs = configs(scenario, seed, &faults);
        Self { scenario: scenario.clone(), seed, faults, configs }
    }
}

fn draw_scripted(scenario: &Scenario, fault: &ScriptedFault, rng: &mut Rng) -> Fault {
    let at = rng.between(fault.at.0, fault.at.1);
    let lasts = log_uniform(rng, fault.lasts.0, fault.lasts.1);
    let lasts = lasts.min(scenario.duration.saturating_sub(at));
    Fault {
        at,
        lasts,
        kind: fault.kind,
        target: draw_target(scenario, &fault.target, rng),
        rate_ppm: u32::try_from(rng.between(fault.rate_ppm.0.into(), fault.rate_ppm.1.into())).unwrap_or(0),
        size: log_uniform(rng, fault.size.0, fault.size.1),
        scripted: true,
    }
}

fn draw_swarm(scenario: &Scenario, fault: &SwarmFault, rng: &mut Rng, into: &mut Vec<Fault>) {
    let on = rng.hit(apus_engine::Ratio { hit: fault.chance_ppm, of: 1_000_000 });
    let count = rng.between(fault.count.0.into(), fault.count.1.into());
    for _ in 0..count {
        let lasts = log_uniform(rng, fault.lasts.0, fault.lasts.1);
        // The first second is left alone, so that there is something to break.
        let latest = scenario.duration.saturating_sub(lasts.saturating_add(100 * MS));
        let at = rng.between(1_500 * MS.min(latest), latest.max(1_500 * MS));
        let drawn = Fault {
            at,
            lasts: lasts.min(scenario.duration.saturating_sub(at)),
            kind: fault.kind,
            target: draw_target(scenario, &fault.target, rng),
            rate_ppm: u32::try_from(log_uniform(rng, fault.rate_ppm.0.into(), fault.rate_ppm.1.into())).unwrap_or(0),
            size: log_uniform(rng, fault.size.0, fault.size.1),
            scripted: false,
        };
        if on && drawn.at < scenario.duration {
            into.push(drawn);
        }
    }
}

/// Fixes what can be fixed before the run; roles are resolved when the fault starts.
fn draw_target(scenario: &Scenario, target: &Target, rng: &mut Rng) -> Target {
    let members: Vec<u16> = (0..scenario.members).collect();
    let voters: Vec<u16> = (0..scenario.voters).collect();
    let mut pick = |from: &[u16], n: usize| {
        let mut left = from.to_vec();
        let mut out = Vec::new();
        while out.len() < n && !left.is_empty() {
            let at = usize::try_from(rng.below(left.len() as u64)).unwrap_or(0);
            out.push(NodeId(left.swap_remove(at)));
        }
        out.sort_unstable();
        Target::Nodes(out)
    };
    match target {
        Target::Random => pick(&members, 1),
        Target::Voter => pick(&voters, 1),
        Target::Some(n) => pick(&members, usize::from(*n)),
        Target::Minority => pick(&voters, (voters.len() - 1) / 2),
        Target::Half => pick(&members, members.len() / 2),
        other => other.clone(),
    }
}

/// How many voters a fault takes out at most.
fn weight(scenario: &Scenario, fault: &Fault) -> u16 {
    if fault.kind.spec().cost == Cost::Free {
        return 0;
    }
    match &fault.target {
        Target::All | Target::Half => scenario.voters,
        Target::Nodes(nodes) => {
            u16::try_from(nodes.iter().filter(|node| node.0 < scenario.voters).count()).unwrap_or(0)
        }
        Target::Some(n) => *n,
        Target::Minority => (scenario.voters.max(1) - 1) / 2,
        _ => 1,
    }
}

/// Keeps of the swarm what leaves a quorum and one good copy alive. What the scenario scripts is always kept.
fn keep_budget(scenario: &Scenario, kept: &mut Vec<Fault>, swarm: Vec<Fault>) {
    let most = (scenario.voters.max(1) - 1) / 2;
    let mut disks: u16 =
        kept.iter().filter(|fault| fault.kind.spec().cost == Cost::Disk).map(|fault| weight(scenario, fault)).sum();
    for fault in swarm {
        let cost = fault.kind.spec().cost;
        let heavy = weight(scenario, &fault);
        if cost == Cost::Disk {
            if disks + heavy > most {
                continue;
            }
            disks += heavy;
        }
        if cost != Cost::Free {
            let overlaps =
                |other: &&Fault| other.at < fault.at + fault.lasts + CALM && fault.at < other.at + other.lasts + CALM;
            let down: u16 = kept.iter().filter(overlaps).map(|other| weight(scenario, other)).sum();
            if down + heavy > most {
                continue;
            }
        }
        kept.push(fault);
    }
}

/// The configuration of every node.
fn configs(scenario: &Scenario, seed: u64, faults: &[Fault]) -> Vec<Config> {
    let knobs = faults.iter().any(|fault| fault.kind == Kind::Knobs);
    let mut rng = Seed(seed).stream("knobs");
    let mut common = Config::new(NodeId(0), bootstrap(scenario));
    apply_knobs(scenario, &mut common);
    if knobs {
        // Every time within a factor of two, in steps that keep the relations the engine asks for.
        let percent = rng.between(60, 200);
        common.diagnosis.period = common.diagnosis.period.scale(percent, 100);
        let percent = rng.between(80, 200);
        common.consensus.heartbeat = common.consensus.heartbeat.scale(percent, 100);
        common.consensus.election = common.consensus.election.scale(percent, 100);
        common.views.lease = common.views.lease.scale(rng.between(90, 200), 100);
        common.consensus.batch = u16::try_from(rng.between(1, 64)).unwrap_or(1);
        common.consensus.keep = u32::try_from(rng.between(4, 256)).unwrap_or(4);
    }
    common.mutant = scenario.mutant;
    add_services(scenario, &mut common);
    (0..scenario.nodes).map(|node| Config { me: NodeId(node), ..common.clone() }).collect()
}

fn bootstrap(scenario: &Scenario) -> Bootstrap {
    let nodes = |from: u16, to: u16| (from..to).map(NodeId).collect::<Vec<_>>();
    Bootstrap {
        voters: nodes(0, scenario.voters),
        arbiters: nodes(scenario.voters - scenario.arbiters.min(scenario.voters), scenario.voters),
        learners: nodes(scenario.voters, scenario.members),
    }
}

fn apply_knobs(scenario: &Scenario, config: &mut Config) {
    let knobs = &scenario.cluster;
    let set = |to: &mut Micros, from: Option<Ns>| {
        if let Some(ns) = from {
            *to = micros(ns);
        }
    };
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
    config.consensus.keep = knobs.keep.unwrap_or(config.consensus.keep);
    config.wire_version = knobs.wire_version.unwrap_or(config.wire_version);
    // Fewer nodes than observers: everybody watches everybody.
    let others = u8::try_from(scenario.members.saturating_sub(1).clamp(1, 16)).unwrap_or(16);
    config.diagnosis.observers = config.diagnosis.observers.min(others);
    config.diagnosis.convict = config.diagnosis.convict.min(config.diagnosis.observers);
}

fn add_services(scenario: &Scenario, config: &mut Config) {
    let availability = scenario.cluster.availability.unwrap_or_default();
    let dispatcher = ResourceConfig { id: ResourceId(0), role: Role::Dispatcher, availability, candidates: Vec::new() };
    config.resources.push(dispatcher);
    for (at, service) in scenario.services.iter().enumerate() {
        let id = ServiceId(u16::try_from(at).unwrap_or(u16::MAX));
        let named = |name: &String| scenario.services.iter().position(|other| other.name == *name);
        let requires = service.requires.iter().filter_map(named);
        // A service that requires another runs where that one runs.
        let mut own = ServiceConfig::cold(id, &service.name);
        own.strategy = service.strategy;
        own.degree = service.degree;
        own.requires = requires.map(|at| ServiceId(u16::try_from(at).unwrap_or(u16::MAX))).collect();
        own.start_within = micros(service.start_within);
        own.heartbeats = service.heartbeats.iter().copied().map(micros).collect();
        own.grace = micros(service.grace);
        own.failures = service.failures;
        own.within = micros(service.within);
        own.may_reboot = service.may_reboot;
        for slot in 0..service.degree {
            let number = ResourceId(u16::try_from(config.resources.len()).unwrap_or(u16::MAX));
            let role = Role::Slot { service: id, slot };
            config.resources.push(ResourceConfig {
                id: number,
                role,
                availability: apus_engine::Availability::Safe,
                candidates: Vec::new(),
            });
        }
        config.services.push(own);
    }
}
