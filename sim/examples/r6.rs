use apus_sim::runner::{Batch, Progress, run_batch};
use apus_sim::scenario::{Plan, Scenario};
use apus_sim::world::{Options, named};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (from, to) = args[2].split_once("..").unwrap();
    let text = std::fs::read_to_string(&args[1]).unwrap();
    let mut scenario = Scenario::parse(&args[1], &text).unwrap_or_else(|p| panic!("{p}"));
    if let Some(m) = args.get(3).filter(|m| *m != "-") { scenario.mutant = Some(apus_engine::Mutant::named(m).expect("mutant")); }
    let world = named(args.get(4).map_or("heap", |w| w)).unwrap();
    if std::env::var("TRACE").is_ok() {
        let plan = Plan::draw(&scenario, from.parse().unwrap());
        let run = world.run(&plan, &Options { keep_trace: true, ..Options::default() });
        for line in &run.trace {
            use apus_sim::trace::What;
            match &line.what {
                What::Sent { .. } | What::Received { .. } | What::Lost { .. } => {}
                What::Event(e) => { let t = format!("{:?}", e.fact); if !t.starts_with("Diagnosis") && !t.starts_with("Consensus") { println!("{:>9.3} {:?} {t}", line.at as f64 / 1e6, line.node.map(|n| n.0)); } }
                w => println!("{:>9.3} {:?} {w:?}", line.at as f64 / 1e6, line.node.map(|n| n.0)),
            }
        }
        println!("{:?}", run.violation);
        return;
    }
    let batch = Batch { from: from.parse().unwrap(), to: to.parse().unwrap(), jobs: 2, keep_going: true, ..Batch::default() };
    let s = run_batch(world, &scenario, &batch, &Progress::default());
    println!("{} {} seeds, {} events, {:?}, digest {:x}, goals {:?} vacuous {:?}", args[1], s.seeds, s.events, s.took, s.digest, s.goals, s.vacuous(&scenario));
    for (seed, v) in s.failures.iter().take(8) { println!("  {seed}: {} at {:.3}: {}", v.checker, v.at as f64 / 1e6, v.what); }
    println!("  {} failures", s.failures.len());
}
