//! The verdict on a live run, from what its nodes told, what was done to them, and what clients saw: no engine is looked into.

mod files;

use std::collections::BTreeMap;

use apus_engine::{Copy, Engine, Epoch, Fact, NodeId, ProcessOrder, ResourceId, Role, Time, views};
use apus_node::{Told, slot_resource};
use apus_sim::checker::{Checkers, Look};
use apus_sim::fault::{MS, Ns, S};
use apus_sim::report::Violation;
use apus_sim::scenario::{Plan, Workload};
use apus_sim::trace::{Line, TraceHash, What};

pub(crate) use files::Files;
#[cfg(target_os = "linux")]
pub(crate) use files::differ;

/// On top of every bound in time but the one of healing: a machine does other things, too.
pub const BOUND_MARGIN: Ns = S;
/// On top of the bound of healing: daemons are looked at a few times a second, and programs take their time.
pub const CONVERGE_MARGIN: Ns = 3 * S;

/// The simulator's checkers that a live run is judged by, as they are: they look at lines only.
pub const JUDGED: &[&str] = &[
    "election-safety",
    "votes-once",
    "state-machine-safety",
    "leader-kept",
    "epochs-grow",
    "diagnosis-accurate",
    "no-resurrection",
    "diagnosis-bound",
    "news-bound",
    "clusters-apart",
    "grant-eligible",
    "asks-end",
    "restart-after-exit",
    "backoff-kept",
    "escalation-kept",
    "dependency-order",
    "guard-obeyed",
    "cause-true",
    "hang-found",
    "grace-kept",
    "takeover-bound",
    "evidence-complete",
    "goals",
];

/// Those that a live run looks at in its own way, and how.
pub const OWN: &[(&str, &str)] = &[
    ("one-holder", "by what daemons tell the kernels' guards, on the one boot clock"),
    ("one-active-copy", "by starts, ends and leases that daemons and keepers tell"),
    (
        "one-dispatcher",
        "frames at the nodes' ports: no dispatcher's after the first of a later one; without tcpdump not looked at",
    ),
    ("converges", "the control sockets of all nodes, until the end"),
    ("diagnosis-complete", "the control sockets of all nodes, at the end"),
    ("clients-served", "HTTP requests to the cluster's address"),
    ("blackout-bound", "HTTP requests to the cluster's address"),
    ("files-prefix", "the program looks at what it finds, and all trees are looked at at the end"),
    ("files-one-writer", "by what programs tell that they found and that is kept"),
    ("files-kept", "what a program was told to be kept is found by every later one"),
    ("files-nothing-lost", "the same in all modes, if nothing but orders happens"),
    ("files-orphans", "without sync: what a later program does not find is among what was saved"),
    ("files-equal", "the trees of all copies byte for byte, once the program rests"),
    ("files-go-on", "a program is told after healing that rows are kept"),
];

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) client: u16,
    /// When it was sent and when it was answered or given up.
    pub(crate) from: Ns,
    pub(crate) to: Ns,
    pub(crate) answered: bool,
}

/// Frames of one dispatcher in one epoch, at the nodes' ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reign {
    pub(crate) first: Ns,
    pub(crate) last: Ns,
    pub(crate) frames: u64,
    /// Frames of the same epoch by another one.
    pub(crate) impostors: u64,
}

/// All that is known of a run. Times are since its start.
pub(crate) struct Evidence {
    pub(crate) plan: Plan,
    /// When it began, on the boot clock.
    pub(crate) start: u64,
    pub(crate) end: Ns,
    /// What each node told, oldest first.
    pub(crate) told: Vec<Vec<(Time, Told)>>,
    /// What was done: faults, halts, healing.
    pub(crate) done: Vec<Line>,
    /// Power failures among the halts: guards and programs are gone with them.
    pub(crate) powerless: Vec<(Ns, NodeId)>,
    /// Since when all was well at the end; otherwise what was not.
    pub(crate) well: Result<Ns, String>,
    pub(crate) asked: Vec<Asked>,
    /// By epoch; `None` where nobody looked.
    pub(crate) reigns: Option<BTreeMap<u16, Reign>>,
    /// Replicated files, if there are any.
    pub(crate) files: Option<Files>,
}

/// What it comes to.
pub(crate) struct Judged {
    pub(crate) violation: Option<Violation>,
    pub(crate) goals: Vec<&'static str>,
    pub(crate) measures: BTreeMap<&'static str, Ns>,
    pub(crate) lines: Vec<Line>,
    pub(crate) hash: TraceHash,
}

/// The plan with bounds for a real machine.
fn with_margins(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let expect = &mut plan.scenario.expect;
    for bound in [&mut expect.takeover_within, &mut expect.diagnosis_within, &mut expect.news_within] {
        *bound = bound.map(|bound| bound + BOUND_MARGIN);
    }
    plan
}

/// A daemon's numbers of resources, as a scenario has them.
fn resources(plan: &Plan) -> BTreeMap<ResourceId, ResourceId> {
    let all = plan.configs.first().map(|config| config.resources.clone()).unwrap_or_default();
    let live = |role| match role {
        Role::Dispatcher => ResourceId(1),
        Role::Slot { service, slot } => slot_resource(service, slot),
    };
    all.iter().map(|resource| (live(resource.role), resource.id)).collect()
}

/// Gives a fact's resource its number in the scenario.
fn renumber(fact: &mut Fact, to: &impl Fn(ResourceId) -> ResourceId) {
    let Fact::Views(fact) = fact else { return };
    match fact {
        views::Fact::Waiting { resource, .. }
        | views::Fact::Proposed { resource, .. }
        | views::Fact::Granted { resource, .. }
        | views::Fact::Armed { resource, .. }
        | views::Fact::Expired { resource, .. }
        | views::Fact::Released { resource, .. }
        | views::Fact::Refused { resource, .. }
        | views::Fact::Seized { resource }
        | views::Fact::Lapsed { resource, .. }
        | views::Fact::Yielded { resource, .. } => *resource = to(*resource),
        views::Fact::Noted { .. } => {}
    }
}

/// Something that happened, before it is a line.
enum Step {
    Told(NodeId, Told),
    Done(Line),
    Powerless(NodeId),
}

/// Judges.
pub(crate) fn judge(evidence: &Evidence) -> Judged {
    let plan = with_margins(&evidence.plan);
    let mut court = Court {
        checkers: Checkers::only(&plan, JUDGED),
        start: evidence.start,
        look: Nothing { plan: plan.clone(), now: 0 },
        numbers: resources(&plan),
        slots: slots(&plan),
        guards: BTreeMap::new(),
        active: BTreeMap::new(),
        violation: None,
        lines: Vec::new(),
        hash: TraceHash::default(),
    };
    let mut second = S;
    for (at, step) in steps(evidence) {
        while second <= at {
            court.expire(second);
            court.second(second);
            second += S;
        }
        court.expire(at);
        court.step(at, step);
    }
    while second <= evidence.end {
        court.expire(second);
        court.second(second);
        second += S;
    }
    let mut measures = court.checkers.measures();
    court.clients(evidence, &mut measures.map);
    court.reigns(evidence);
    court.converged(evidence, &mut measures.map);
    court.files(evidence);
    Judged {
        violation: court.violation,
        goals: measures.goals,
        measures: measures.map,
        lines: court.lines,
        hash: court.hash,
    }
}

/// Everything in the order of time. Of one instant, what was done comes first, and what one node told stays in its order.
fn steps(evidence: &Evidence) -> Vec<(Ns, Step)> {
    let mut all: Vec<(Ns, Step)> = evidence.done.iter().map(|line| (line.at, Step::Done(line.clone()))).collect();
    all.extend(evidence.powerless.iter().map(|(at, node)| (*at, Step::Powerless(*node))));
    for (node, told) in (0..).map(NodeId).zip(&evidence.told) {
        let at = |at: &Time| at.0.saturating_mul(1_000).saturating_sub(evidence.start);
        all.extend(told.iter().map(|(time, told)| (at(time), Step::Told(node, told.clone()))));
    }
    all.retain(|(at, _)| *at <= evidence.end);
    all.sort_by_key(|(at, _)| *at);
    all
}

fn slots(plan: &Plan) -> BTreeMap<ResourceId, Copy> {
    let all = plan.configs.first().map(|config| config.resources.clone()).unwrap_or_default();
    let slot = |role| match role {
        Role::Slot { service, slot } => Some(Copy { service, slot }),
        Role::Dispatcher => None,
    };
    all.iter().filter_map(|resource| Some((resource.id, slot(resource.role)?))).collect()
}

/// Lines are all there is to see.
struct Nothing {
    plan: Plan,
    now: Ns,
}

impl Look for Nothing {
    fn now(&self) -> Ns {
        self.now
    }
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn nodes(&self) -> usize {
        usize::from(self.plan.scenario.nodes)
    }
    fn engine(&self, _: NodeId) -> Option<&Engine> {
        None
    }
    fn lost(&self, _: NodeId) -> bool {
        false
    }
    fn holders(&self, _: ResourceId) -> Vec<NodeId> {
        Vec::new()
    }
    fn active_copies(&self, _: Copy) -> Vec<NodeId> {
        Vec::new()
    }
}

struct Court {
    checkers: Checkers,
    start: u64,
    look: Nothing,
    numbers: BTreeMap<ResourceId, ResourceId>,
    slots: BTreeMap<ResourceId, Copy>,
    /// Each guard that is armed: by which grant and until when.
    guards: BTreeMap<(NodeId, ResourceId), (Epoch, Ns)>,
    /// Active copies that run.
    active: BTreeMap<Copy, Vec<NodeId>>,
    violation: Option<Violation>,
    lines: Vec<Line>,
    hash: TraceHash,
}

impl Court {
    fn blame(&mut self, violation: Option<Violation>) {
        if self.violation.is_none() {
            self.violation =
                violation.filter(|found| !self.look.plan.scenario.expect.except.contains_key(found.checker));
        }
    }

    fn say(&mut self, checker: &'static str, liveness: bool, at: Ns, what: String) {
        self.blame(Some(Violation { checker, liveness, at, what }));
    }

    fn line(&mut self, line: Line) {
        let found = self.checkers.see(&line);
        self.blame(found);
        self.hash.value(&line);
        self.hash.events += 1;
        self.lines.push(line);
    }

    fn second(&mut self, now: Ns) {
        self.look.now = now;
        let found = self.checkers.second(now, &[], &self.look);
        self.blame(found);
    }

    /// Leases that run out before a time: the kernel's guard ends what stands on them.
    fn expire(&mut self, now: Ns) {
        loop {
            let over = self.guards.iter().filter(|(_, (_, until))| *until <= now).min_by_key(|(_, (_, until))| *until);
            let Some((&(node, resource), &(epoch, until))) = over else { return };
            self.disarm(until, node, resource, epoch);
        }
    }

    fn disarm(&mut self, at: Ns, node: NodeId, resource: ResourceId, epoch: Epoch) {
        self.guards.remove(&(node, resource));
        self.line(Line { at, node: Some(node), what: What::Disarmed { resource, epoch } });
        if let Some(copy) = self.slots.get(&resource).copied() {
            self.ended(node, copy);
        }
    }

    fn ended(&mut self, node: NodeId, copy: Copy) {
        self.active.entry(copy).or_default().retain(|at| *at != node);
    }

    fn step(&mut self, at: Ns, step: Step) {
        match step {
            Step::Done(line) => self.line(line),
            Step::Powerless(node) => {
                self.guards.retain(|(at, _), _| *at != node);
                self.active.values_mut().for_each(|nodes| nodes.retain(|at| *at != node));
            }
            Step::Told(node, told) => self.told(at, node, told),
        }
    }

    fn told(&mut self, at: Ns, node: NodeId, told: Told) {
        let to = |numbers: &BTreeMap<_, _>, resource| numbers.get(&resource).copied().unwrap_or(resource);
        let what = match told {
            Told::Boot { life } => {
                // A new daemon holds nothing that it did not ask for anew.
                let held: Vec<_> =
                    self.guards.iter().filter(|((of, _), _)| *of == node).map(|(k, v)| (*k, *v)).collect();
                for ((_, resource), (epoch, _)) in held {
                    self.disarm(at, node, resource, epoch);
                }
                What::Boot(life)
            }
            Told::Event { mut event } => {
                let numbers = &self.numbers;
                renumber(&mut event.fact, &|resource| to(numbers, resource));
                What::Event(event)
            }
            Told::Armed { resource, epoch, until } => {
                let resource = to(&self.numbers, resource);
                let until = until.0.saturating_mul(1_000).saturating_sub(self.start);
                let old = self.guards.insert((node, resource), (epoch, until));
                self.one_holder(at, node, resource, epoch);
                if old.is_some_and(|(old, _)| old == epoch) {
                    return;
                }
                What::Armed { resource, epoch, until }
            }
            Told::Disarmed { resource, epoch } => {
                let resource = to(&self.numbers, resource);
                if self.guards.get(&(node, resource)).is_some_and(|(armed, _)| *armed <= epoch) {
                    self.disarm(at, node, resource, epoch);
                }
                return;
            }
            Told::Ordered { copy, order } => {
                if matches!(order, ProcessOrder::Start { active: true, .. } | ProcessOrder::Promote { .. }) {
                    self.one_active(at, node, copy);
                }
                What::Program { copy, order }
            }
            Told::Gone { copy, cause } => {
                self.ended(node, copy);
                What::Gone { copy, cause }
            }
        };
        self.line(Line { at, node: Some(node), what });
    }

    /// Who arms a guard is the only one whose guard is armed.
    fn one_holder(&mut self, at: Ns, node: NodeId, resource: ResourceId, epoch: Epoch) {
        let other = self.guards.iter().find(|((of, what), (_, until))| *of != node && *what == resource && *until > at);
        let Some(((other, _), (theirs, until))) = other else { return };
        let left = (until - at) / 1_000;
        let what = format!(
            "{node} holds {resource} by {epoch} while {other} still holds it by {theirs}, for another {left} us"
        );
        self.say("one-holder", false, at, what);
    }

    fn one_active(&mut self, at: Ns, node: NodeId, copy: Copy) {
        let runs = self.active.entry(copy).or_default();
        let other = runs.iter().copied().find(|other| *other != node);
        if !runs.contains(&node) {
            runs.push(node);
        }
        if let Some(other) = other {
            let (slot, service) = (copy.slot, copy.service);
            let what = format!("{node} starts slot {slot} of {service} while it is active at {other}");
            self.say("one-active-copy", false, at, what);
        }
    }

    /// What clients saw. A request that was under way when the last fault ended may still fail.
    fn clients(&mut self, evidence: &Evidence, measures: &mut BTreeMap<&'static str, Ns>) {
        let Workload::Flows { clients, .. } = evidence.plan.scenario.workload else { return };
        let asked = evidence.asked.len() as u64;
        let failed = evidence.asked.iter().filter(|asked| !asked.answered).count() as u64;
        if let Some(share) = (failed * 1_000_000).checked_div(asked) {
            measures.insert("refused-ppm", share);
        }
        let mut answers: Vec<Ns> = evidence.asked.iter().filter(|asked| asked.answered).map(|asked| asked.to).collect();
        answers.sort_unstable();
        let first = evidence.asked.iter().map(|asked| asked.from).min().unwrap_or(0);
        let ends =
            [first].into_iter().chain(answers.iter().copied()).zip(answers.iter().copied().chain([evidence.end]));
        let gap = ends.map(|(from, to)| to.saturating_sub(from)).max().unwrap_or(evidence.end);
        measures.insert("blackout", gap);
        if let Some(bound) = evidence.plan.scenario.expect.blackout_within
            && gap > bound + BOUND_MARGIN
        {
            let what =
                format!("nobody was answered for {} ms, the bound is {} ms", gap / MS, (bound + BOUND_MARGIN) / MS);
            self.say("blackout-bound", true, evidence.end, what);
        }
        for client in 0..clients {
            let last = evidence.asked.iter().filter(|asked| asked.client == client).max_by_key(|asked| asked.from);
            if last.is_none_or(|last| !last.answered || last.to + 2 * S < evidence.end) {
                let what = format!("client {client} is not answered at the end: {last:?}");
                return self.say("clients-served", true, evidence.end, what);
            }
        }
    }

    /// No frame of a dispatcher comes after the first of a later one, and there is one an epoch.
    fn reigns(&mut self, evidence: &Evidence) {
        let Some(reigns) = &evidence.reigns else { return };
        let mut later: Option<(u16, Ns)> = None;
        let mut found = None;
        for (epoch, reign) in reigns.iter().rev() {
            if reign.impostors > 0 {
                found = Some((reign.first, format!("{} frames of epoch {epoch} are another node's", reign.impostors)));
            }
            if let Some((newer, first)) = later
                && reign.last > first
            {
                let over = (reign.last - first) / 1_000;
                found =
                    Some((first, format!("a frame of epoch {epoch} came {over} us after the first of epoch {newer}")));
            }
            if later.is_none_or(|(_, first)| reign.first < first) {
                later = Some((*epoch, reign.first));
            }
        }
        if let Some((at, what)) = found {
            self.say("one-dispatcher", false, at, what);
        }
    }

    fn converged(&mut self, evidence: &Evidence, measures: &mut BTreeMap<&'static str, Ns>) {
        let scenario = &evidence.plan.scenario;
        let healed =
            evidence.done.iter().find(|line| line.what == What::Healed).map_or(scenario.duration, |line| line.at);
        let bound = scenario.expect.converge_within.unwrap_or(scenario.heal.saturating_sub(S)) + CONVERGE_MARGIN;
        match &evidence.well {
            Ok(since) => {
                measures.insert("converge", since.saturating_sub(healed));
                if *since > healed + bound {
                    let what = format!("well only {} ms after healing", (since - healed) / MS);
                    self.say("converges", true, evidence.end, what);
                }
            }
            Err(what) => self.say("converges", true, evidence.end, format!("never well for a second: {what}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{Event, EvidenceId, Incarnation, Term, consensus};
    use apus_sim::fault::Kind;
    use apus_sim::scenario::Scenario;

    use super::*;

    const DISPATCHER: ResourceId = ResourceId(1);
    const TEXT: &str = "name = \"x\"\nabout = \"y\"\nnodes = 3\nduration = \"5s\"\nheal = \"3s\"\n[workload]\nkind = \"flows\"\n\
                        clients = 1\n[[fault]]\nkind = \"power-off\"\nat = \"2s\"\nfor = \"2s\"\n\
                        target = \"n0\"\n[expect]\ntakeover_within = \"1s\"\nblackout_within = \"1s\"\n";

    /// A run in which all is well: n0 dispatches, loses power, and n1 takes over when the lease is over.
    fn sound() -> Evidence {
        let plan = Plan::draw(&Scenario::parse("x", TEXT).expect("it is sound"), 0);
        let arm = |at: u64, epoch, until: u64| {
            (Time(at * 1_000), Told::Armed { resource: DISPATCHER, epoch: Epoch(epoch), until: Time(until * 1_000) })
        };
        let boot = |at: u64| (Time(at * 1_000), Told::Boot { life: Incarnation(1) });
        let line = |at: u64, node, what| Line { at: at * MS, node, what };
        let ask = |from: u64| Asked {
            client: 0,
            from: from * MS,
            to: (from + 1) * MS,
            answered: !(2_000..2_500).contains(&from),
        };
        let nodes = vec![NodeId(0)];
        Evidence {
            plan,
            start: 0,
            end: 8_000 * MS,
            told: vec![
                vec![boot(1), arm(500, 5, 1_100), arm(1_900, 5, 2_500)],
                vec![boot(2), arm(2_500, 9, 8_100)],
                vec![boot(3)],
            ],
            done: vec![
                line(2_000, None, What::FaultStart { fault: 0, kind: Kind::PowerOff, nodes: nodes.clone() }),
                line(2_001, Some(NodeId(0)), What::Halt),
                line(4_500, None, What::FaultStop { fault: 0, kind: Kind::PowerOff, effects: 1 }),
                line(5_000, None, What::Healed),
            ],
            powerless: vec![(2_001 * MS, NodeId(0))],
            well: Ok(5_500 * MS),
            asked: (0..80).map(|nth| ask(nth * 100)).collect(),
            reigns: Some(BTreeMap::from([(5, reign(500, 1_999)), (9, reign(2_500, 8_000))])),
            files: None,
        }
    }

    fn reign(first: u64, last: u64) -> Reign {
        Reign { first: first * MS, last: last * MS, frames: 10, impostors: 0 }
    }

    fn found(change: impl FnOnce(&mut Evidence)) -> Option<&'static str> {
        let mut evidence = sound();
        change(&mut evidence);
        judge(&evidence).violation.map(|violation| violation.checker)
    }

    #[test]
    fn a_sound_run_passes_and_is_measured() {
        let judged = judge(&sound());
        assert_eq!(judged.violation, None);
        assert_eq!(judged.measures["takeover"], 500 * MS);
        assert_eq!(judged.measures["blackout"], 600 * MS);
        assert_eq!(judged.measures["converge"], 500 * MS);
        assert!(judged.goals.contains(&"takeover"), "{:?}", judged.goals);
        // A lease that was not renewed in time ended, and began anew.
        let armed = judged.lines.iter().filter(|line| matches!(line.what, What::Armed { .. })).count();
        assert_eq!(armed, 3);
    }

    #[test]
    fn what_is_wrong_is_found_by_its_checker() {
        assert_eq!(found(|_| {}), None);
        // The old holder is not without power: its guard lasts until 2500 ms.
        let early = |evidence: &mut Evidence| {
            evidence.powerless.clear();
            evidence.told[1][1].0 = Time(2_499_000);
        };
        assert_eq!(found(early), Some("one-holder"));
        assert_eq!(found(|evidence| evidence.powerless.clear()), None, "at its very end it is over");
        assert_eq!(found(|evidence| evidence.told[1][1].0 = Time(4_400_000)), Some("takeover-bound"));
        let reigns = |evidence: &mut Evidence, old: Reign| {
            evidence.reigns.iter_mut().for_each(|all| {
                all.insert(5, old);
            });
        };
        let impostor = Reign { impostors: 1, ..reign(500, 1_999) };
        assert_eq!(found(|evidence| reigns(evidence, impostor)), Some("one-dispatcher"));
        let late = |evidence: &mut Evidence| reigns(evidence, reign(500, 2_501));
        assert_eq!(found(late), Some("one-dispatcher"));
        assert_eq!(found(|evidence| evidence.well = Err("n1 is down".into())), Some("converges"));
        assert_eq!(found(|evidence| evidence.well = Ok(10_100 * MS)), Some("converges"));
        assert_eq!(found(|evidence| evidence.asked.truncate(40)), Some("blackout-bound"));
        assert_eq!(found(|evidence| evidence.asked[79].answered = false), Some("clients-served"));
        let elected = |node: u16| {
            let id = EvidenceId { node: NodeId(node), inc: Incarnation(1), seq: 1 };
            let fact = Fact::Consensus(consensus::Fact::Elected { term: Term(3) });
            (Time(600_000), Told::Event { event: Event { id, because: [EvidenceId::NONE; 3], fact } })
        };
        let two = |evidence: &mut Evidence| {
            evidence.told[1].insert(1, elected(1));
            evidence.told[2].insert(1, elected(2));
        };
        assert_eq!(found(two), Some("election-safety"));
        let old = |evidence: &mut Evidence| {
            if let (_, Told::Armed { epoch, .. }) = &mut evidence.told[1][1] {
                *epoch = Epoch(4);
            }
        };
        assert_eq!(found(old), Some("epochs-grow"));
    }

    #[test]
    fn two_active_copies_are_found_unless_the_lease_of_one_is_over() {
        let text = "name = \"x\"\nabout = \"y\"\nnodes = 2\nduration = \"5s\"\n[[service]]\nname = \"web\"\n";
        let plan = Plan::draw(&Scenario::parse("x", text).expect("it is sound"), 0);
        let copy = Copy { service: plan.configs[0].services[0].id, slot: 0 };
        let resource = slot_resource(copy.service, 0);
        let own = |at: u64, epoch: u64| {
            let epoch = Epoch(epoch);
            let until = Time(at + 1_000_000);
            let order = ProcessOrder::Start { active: true, epoch };
            vec![(Time(at), Told::Armed { resource, epoch, until }), (Time(at), Told::Ordered { copy, order })]
        };
        let judged = |second: u64, armed: bool| {
            let second = own(second, 6).split_off(usize::from(!armed));
            let evidence = Evidence {
                plan: plan.clone(),
                start: 0,
                end: 5 * S,
                told: vec![own(500_000, 5), second],
                done: Vec::new(),
                powerless: Vec::new(),
                well: Ok(0),
                asked: Vec::new(),
                reigns: None,
                files: None,
            };
            judge(&evidence).violation.map(|violation| violation.checker)
        };
        assert_eq!(judged(1_400_000, true), Some("one-holder"), "the first that is seen");
        assert_eq!(judged(1_400_000, false), Some("one-active-copy"));
        assert_eq!(judged(1_500_000, true), None);
    }
}
