//! One seed of a small swarm, for looking at.
use apus_sim::fault::*;
use apus_sim::scenario::*;
use apus_sim::world::Options;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let n: u64 = args.get(1).and_then(|x| x.parse().ok()).unwrap_or(1);
    let show = args.len() > 2;
    let scenario = Scenario {
        name: "smoke".into(),
        about: String::new(),
        worlds: vec!["heap".into()],
        nodes: 8,
        voters: 5,
        arbiters: 0,
        members: 8,
        duration: 30 * S,
        heal: 10 * S,
        cluster: Cluster::default(),
        services: vec![],
        workload: Workload::None,
        faults: vec![ScriptedFault {
            kind: Kind::PowerOff,
            target: Target::Dispatcher,
            at: (5 * S, 6 * S),
            lasts: (5 * S, 5 * S),
            rate_ppm: (0, 0),
            size: (0, 0),
        }],
        swarm: if std::env::var("SWARM").is_ok() { swarm() } else { vec![] },
        expect: Expect::default(),
        mutant: None,
    };
    let t = std::time::Instant::now();
    let mut events = 0;
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|x| x.parse().ok());
    for seed in only.map_or(0..n, |s| s..s + 1) {
        let plan = Plan::draw(&scenario, seed);
        let run = apus_sim::heap::run(&plan, &Options { keep_trace: show, ..Options::default() });
        events += run.events;
        if show {
            let mut hist = std::collections::BTreeMap::new();
            for line in &run.trace {
                if let apus_sim::trace::What::Sent { kind, .. } = line.what {
                    *hist.entry((line.at / S, kind)).or_insert(0u64) += 1;
                }
            }
            for ((s, k), n) in hist {
                if n > 3000 {
                    println!("second {s} kind {k:x} sent {n}");
                }
            }
            for f in &run.faults {
                println!("fault {:?}", f);
            }
            for line in &run.trace {
                if !matches!(
                    line.what,
                    apus_sim::trace::What::Sent { .. }
                        | apus_sim::trace::What::Received { .. }
                        | apus_sim::trace::What::Lost { .. }
                        | apus_sim::trace::What::Armed { .. }
                ) {
                    println!("{:>12.6} {:?} {:?}", line.at as f64 / 1e9, line.node, line.what);
                }
            }
        }
        if n < 5 || run.violation.is_some() {
            println!(
                "seed {seed} {:032x} events {} goals {:?} measures {:?} effects {:?} violation {:?}",
                run.hash, run.events, run.goals, run.measures, run.effects, run.violation
            );
        }
    }
    let dt = t.elapsed().as_secs_f64();
    println!("{events} events {:.2} s  {:.0} ev/s", dt, events as f64 / dt);
}

fn services() -> Vec<Service> {
    let base = Service {
        name: "db".into(),
        strategy: apus_engine::Strategy::Cold,
        degree: 1,
        requires: vec![],
        starts_in: 100 * MS,
        start_within: 2 * S,
        heartbeats: vec![500 * MS],
        grace: 300 * MS,
        failures: 3,
        within: 30 * S,
        may_reboot: false,
    };
    let mut web = base.clone();
    web.name = "web".into();
    web.strategy = apus_engine::Strategy::Hot;
    web.degree = 2;
    let mut warm = base.clone();
    warm.name = "warm".into();
    warm.strategy = apus_engine::Strategy::Warm;
    let mut app = base.clone();
    app.name = "app".into();
    app.requires = vec!["db".into()];
    if std::env::var("NOSVC").is_ok() { vec![] } else { vec![base, web, warm, app] }
}
fn swarm() -> Vec<SwarmFault> {
    let only = std::env::var("SWARM").unwrap();
    Kind::ALL
        .iter()
        .filter(|k| only == "all" || only.split(',').any(|o| o == k.spec().name))
        .filter(|k| !matches!(k, Kind::CorruptUnseen | Kind::PermanentLoss | Kind::RemoveNode | Kind::AddNode))
        .map(|k| {
            let spec = k.spec();
            let target = match spec.aim {
                Aim::Links => Target::All,
                Aim::Cluster => Target::Random,
                _ => Target::Random,
            };
            let rate = spec.rate.map_or((0, 0), |(d, _)| (d / 4, d));
            let size = spec.size.map_or((0, 0), |(u, d, _)| {
                if u == Unit::Count && matches!(k, Kind::DropKind) { (0x10, 0x33) } else { (d / 2 + 1, d) }
            });
            SwarmFault {
                kind: *k,
                target,
                chance_ppm: if only == "all" { 60_000 } else { 1_000_000 },
                count: (1, 2),
                lasts: (50 * MS, 6 * S),
                rate_ppm: rate,
                size,
            }
        })
        .collect()
}
