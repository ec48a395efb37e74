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
        duration: 20 * S,
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
        swarm: vec![],
        expect: Expect::default(),
        mutant: None,
    };
    let t = std::time::Instant::now();
    let mut events = 0;
    for seed in 0..n {
        let plan = Plan::draw(&scenario, seed);
        let run = apus_sim::heap::run(&plan, &Options { keep_trace: show, ..Options::default() });
        events += run.events;
        if show {
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
