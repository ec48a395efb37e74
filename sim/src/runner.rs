//! Many seeds of one scenario, on several threads, with one result whatever the threads did.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use apus_engine::hash::mix;

use crate::fault::{Kind, Ns};
use crate::report::{Run, Verdict, Violation};
use crate::scenario::{Plan, Scenario};
use crate::world::{Options, TIMEOUT, World};

/// Which seeds to run, and how.
#[derive(Clone, Debug)]
pub struct Batch {
    /// First seed.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// Of these, only `seed / every % n == i`, where `every` is the scenario's.
    pub shard: (u64, u64),
    /// Threads.
    pub jobs: usize,
    /// Start no seed after this long.
    pub budget: Option<Duration>,
    /// A seed that takes longer than this fails.
    pub timeout: Option<Duration>,
    /// Run this share of the seeds twice and compare, in percent.
    pub check_determinism: u8,
    /// Go on after the first failing seed.
    pub keep_going: bool,
}

impl Batch {
    /// Whether a seed is run. A seed asked for by itself always is.
    #[must_use]
    pub const fn has(&self, scenario: &Scenario, seed: u64) -> bool {
        let every = if self.to - self.from == 1 { 1 } else { scenario.every };
        seed.is_multiple_of(every) && (self.shard.1 <= 1 || seed / every % self.shard.1 == self.shard.0)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            from: 0,
            to: 1,
            shard: (0, 1),
            jobs: 1,
            budget: None,
            timeout: None,
            check_determinism: 0,
            keep_going: false,
        }
    }
}

/// What all seeds of one scenario amount to. Independent of the number of threads.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// Engine inputs.
    pub events: u64,
    /// Simulated time, and the same times the nodes.
    pub simulated: u128,
    /// Simulated node time.
    pub node_time: u128,
    /// How often faults of each kind were in a plan, and how often they had an effect.
    pub kinds: BTreeMap<Kind, (u64, u64)>,
    /// In how many seeds without a violation each `[[fault]]` of the script was, and in how many it had an effect.
    pub scripted: BTreeMap<u16, (u64, u64)>,
    /// Goals reached, and in how many seeds.
    pub goals: BTreeMap<&'static str, u64>,
    /// Worst measured value and its seed.
    pub measures: BTreeMap<&'static str, (Ns, u64)>,
    /// All values of each measure, for quantiles.
    pub values: BTreeMap<&'static str, Vec<Ns>>,
    /// Failing seeds.
    pub failures: BTreeMap<u64, Violation>,
    /// Their trace hashes.
    pub hashes: BTreeMap<u64, u128>,
    /// Seeds whose second run differed.
    pub differing: BTreeSet<u64>,
    /// Order-independent digest over seeds and trace hashes.
    pub digest: u128,
    /// Wall-clock time.
    pub took: Duration,
}

impl Summary {
    /// Adds one run of this many nodes.
    pub fn add(&mut self, run: Run, nodes: usize) {
        self.seeds += 1;
        self.events += run.events;
        self.simulated += u128::from(run.simulated);
        self.node_time += u128::from(run.simulated) * nodes as u128;
        #[allow(clippy::cast_possible_truncation, reason = "halves of a hash")]
        let (low, high) = (run.hash as u64, (run.hash >> 64) as u64);
        self.digest ^= u128::from(mix(run.seed ^ low)) << 64 | u128::from(mix(run.seed ^ high));
        for (fault, effects) in run.faults.iter().zip(&run.effects) {
            let (planned, had) = self.kinds.entry(fault.kind).or_default();
            *planned += 1;
            *had += u64::from(*effects > 0);
            if let Some(place) = fault.scripted.filter(|_| run.violation.is_none()) {
                let (planned, had) = self.scripted.entry(place).or_default();
                *planned += 1;
                *had += u64::from(*effects > 0);
            }
        }
        for goal in run.goals {
            *self.goals.entry(goal).or_default() += 1;
        }
        for (name, value) in run.measures {
            let worst = self.measures.entry(name).or_insert((value, run.seed));
            *worst = (*worst).max((value, run.seed));
            self.values.entry(name).or_default().push(value);
        }
        if let Some(violation) = run.violation {
            self.failures.insert(run.seed, violation);
            self.hashes.insert(run.seed, run.hash);
        }
    }

    /// Why the scenario shows nothing, if so. With few seeds only what every seed has counts.
    #[must_use]
    pub fn vacuous(&self, scenario: &Scenario) -> Vec<String> {
        let mut why = Vec::new();
        let kind_of = |place: &u16| scenario.faults.get(usize::from(*place)).map(|fault| fault.kind);
        let acting: BTreeSet<_> =
            self.scripted.iter().filter(|(_, (_, had))| *had > 0).map(|(place, _)| kind_of(place)).collect();
        for (place, (planned, had)) in &self.scripted {
            let Some(kind) = kind_of(place).filter(|_| *had == 0) else { continue };
            // Of several faults of one kind each must act, once there were seeds enough for each to meet its moment.
            if *planned >= 20 || !acting.contains(&Some(kind)) {
                let (nth, kind) = (place + 1, kind.spec().name);
                why.push(format!("the scripted fault `{kind}`, `[[fault]]` number {nth}, had no effect in any seed"));
            }
        }
        if self.seeds >= 50 {
            for (kind, (planned, had)) in &self.kinds {
                if *planned >= 20 && *had == 0 {
                    why.push(format!("fault `{}` was drawn {planned} times and never had an effect", kind.spec().name));
                }
            }
            for goal in &scenario.expect.sometimes {
                if !self.goals.contains_key(goal.as_str()) {
                    why.push(format!("the goal `{goal}` was never reached"));
                }
            }
        }
        why
    }

    /// The verdict over all seeds.
    #[must_use]
    pub fn verdict(&self, scenario: &Scenario) -> Verdict {
        if self.seeds == 0 {
            Verdict::NoSeed
        } else if self.failures.values().any(|violation| !violation.liveness) {
            Verdict::Safety
        } else if !self.failures.is_empty() {
            Verdict::Liveness
        } else if !self.differing.is_empty() {
            Verdict::NotDeterministic
        } else if !self.vacuous(scenario).is_empty() {
            Verdict::Vacuous
        } else {
            Verdict::Pass
        }
    }

    /// Whether a scenario that shows a failure on purpose failed as told.
    #[must_use]
    pub fn fails_as_told(&self, scenario: &Scenario) -> bool {
        self.failures.values().any(|violation| scenario.expect.fails.iter().any(|name| name == violation.checker))
    }
}

/// Runs one seed; a panic is a violation of its own.
#[must_use]
pub fn run_guarded(world: &dyn World, plan: &Plan, options: &Options) -> Run {
    catch_unwind(AssertUnwindSafe(|| world.run(plan, options))).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        let what = what.unwrap_or_else(|| "the engine panicked".into());
        Run::without(plan, Violation { checker: "no-panic", liveness: false, at: 0, what })
    })
}

/// The options a scenario asks for.
#[must_use]
pub fn options(scenario: &Scenario) -> Options {
    let prefer = scenario.cluster.availability == Some(apus_engine::Availability::Prefer);
    Options { measure_overlap: prefer, ..Options::default() }
}

/// Progress of a batch, for a terminal.
#[derive(Debug, Default)]
pub struct Progress {
    /// Seeds done.
    pub seeds: AtomicU64,
    /// Engine inputs done.
    pub events: AtomicU64,
    /// Simulated node seconds done.
    pub node_seconds: AtomicU64,
    /// Kinds of faults that had an effect: bit n is the n-th of [`Kind::ALL`].
    pub kinds: [AtomicU64; 2],
}

const _: () = assert!(Kind::ALL.len() <= 128);

impl Progress {
    fn add(&self, plan: &Plan, run: &Run) {
        self.seeds.fetch_add(1, Ordering::Relaxed);
        self.events.fetch_add(run.events, Ordering::Relaxed);
        self.node_seconds.fetch_add(run.simulated / 1_000_000_000 * plan.configs.len() as u64, Ordering::Relaxed);
        for (fault, _) in run.faults.iter().zip(&run.effects).filter(|(_, effects)| **effects > 0) {
            let bit = fault.kind as usize;
            self.kinds[bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }
}

/// Runs put back into the order of their seeds, up to the first failing one.
struct InOrder<'b> {
    batch: &'b Batch,
    scenario: &'b Scenario,
    /// All seeds before this one are in the total.
    next: u64,
    waiting: BTreeMap<u64, Done>,
    total: Summary,
}

/// A run that is over, with what the total needs besides.
struct Done {
    run: Run,
    nodes: usize,
    differs: bool,
}

impl InOrder<'_> {
    fn add(&mut self, done: Done) {
        self.waiting.insert(done.run.seed, done);
        loop {
            while self.next < self.batch.to && !self.batch.has(self.scenario, self.next) {
                self.next += 1;
            }
            let Some(done) = self.waiting.remove(&self.next) else { return };
            self.next += 1;
            self.count(done);
        }
    }

    fn count(&mut self, done: Done) {
        if !self.total.failures.is_empty() && !self.batch.keep_going {
            return;
        }
        if done.differs {
            self.total.differing.insert(done.run.seed);
        }
        self.total.add(done.run, done.nodes);
    }

    /// Where a budget left gaps, what came after them counts as well.
    fn finish(mut self) -> Summary {
        for done in std::mem::take(&mut self.waiting).into_values() {
            self.count(done);
        }
        self.total
    }
}

/// Runs a batch. Seeds are handed out in order; after a failure no later seed is started, and none counts: the summary
/// is the same whatever the number of threads.
#[must_use]
pub fn run_batch(world: &(dyn World + Sync), scenario: &Scenario, batch: &Batch, progress: &Progress) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(batch.from);
    let stop = AtomicBool::new(false);
    let all = InOrder { batch, scenario, next: batch.from, waiting: BTreeMap::new(), total: Summary::default() };
    let all = Mutex::new(all);
    let options = options(scenario);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= batch.to || batch.budget.is_some_and(|budget| began.elapsed() >= budget) {
                break;
            }
            if !batch.has(scenario, seed) {
                continue;
            }
            let plan = Plan::draw(scenario, seed);
            let done = run_one(world, &plan, &options, batch);
            progress.add(&plan, &done.run);
            if done.run.violation.is_some() && !batch.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
            all.lock().unwrap_or_else(PoisonError::into_inner).add(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..batch.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut summary = all.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    summary.took = began.elapsed();
    summary
}

/// One seed of a batch, twice where determinism is checked.
fn run_one(world: &dyn World, plan: &Plan, options: &Options, batch: &Batch) -> Done {
    let started = Instant::now();
    let options = Options { deadline: batch.timeout.map(|timeout| started + timeout), ..options.clone() };
    let mut run = run_guarded(world, plan, &options);
    let late = batch.timeout.filter(|timeout| started.elapsed() > *timeout);
    if let Some(timeout) = late {
        // A world that cannot be cut short is told afterwards.
        let what = format!("the seed took longer than {timeout:?}");
        run.violation.get_or_insert(Violation { checker: TIMEOUT, liveness: true, at: run.simulated, what });
    }
    let twice = late.is_none() && mix(plan.seed) % 100 < u64::from(batch.check_determinism);
    let differs = twice && {
        let again = run_guarded(world, plan, &Options { deadline: None, ..options });
        again.hash != run.hash || again.events != run.events
    };
    Done { run, nodes: plan.configs.len(), differs }
}
