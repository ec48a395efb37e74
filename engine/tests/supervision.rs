//! The ladder of supervision, seen from outside: a cluster of one node that runs one program, which fails as the table says.

use apus_engine::{
    Availability, Bootstrap, Config, Copy, Durable, Engine, ExitCause, GuardOrder, Input, Micros, NodeId, Outcome,
    Output, ProcessInput, ProcessOrder, ResourceConfig, ResourceId, Role, Seed, ServiceConfig, ServiceId, ThreadId,
    Time,
};

const COPY: Copy = Copy { service: ServiceId(1), slot: 0 };
const MS: u64 = 1_000;

/// What the machine is told to do with the program, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Start,
    Stop,
    Capture,
    Reboot,
}

struct Machine {
    engine: Engine,
    now: Time,
    told: Vec<(u64, Told)>,
}

impl Machine {
    /// A node that leads itself and has started its program.
    fn new(change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let mut config = Config::new(NodeId(0), Bootstrap { voters: vec![NodeId(0)], ..Bootstrap::default() });
        let mut service = ServiceConfig::cold(ServiceId(1), "program");
        change(&mut service);
        config.services.push(service);
        config.resources.push(ResourceConfig {
            id: ResourceId(0),
            role: Role::Slot { service: ServiceId(1), slot: 0 },
            availability: Availability::Safe,
            candidates: Vec::new(),
        });
        assert_eq!(config.check(), Ok(()));
        let now = Time(1_000_000);
        let mut machine =
            Self { engine: Engine::new(config, Durable::formatted(), Seed(5), now), now, told: Vec::new() };
        machine.drain();
        machine.until(|machine| !machine.told.is_empty());
        machine
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            let done = match output {
                Output::Persist { op, .. } | Output::Guard(GuardOrder::Disarm { op, .. }) => Some(op),
                Output::Process { op, order, .. } => {
                    let told = match order {
                        ProcessOrder::Start { .. } | ProcessOrder::Promote { .. } => Told::Start,
                        ProcessOrder::Stop { .. } => Told::Stop,
                        ProcessOrder::Capture => Told::Capture,
                    };
                    self.told.push((self.now.0, told));
                    Some(op)
                }
                Output::Reboot { .. } => {
                    self.told.push((self.now.0, Told::Reboot));
                    None
                }
                _ => None,
            };
            if let Some(op) = done {
                self.engine.handle(self.now, Input::Done { op, outcome: Outcome::Ok });
            }
        }
    }

    fn does(&mut self, what: ProcessInput) {
        self.engine.handle(self.now, Input::Process { copy: COPY, what });
        self.drain();
    }

    /// Lets time pass from deadline to deadline.
    fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if reached(self) {
                return;
            }
            let due = self.engine.deadline().expect("an engine has always something to do").at;
            self.now = self.now.max(due);
            self.engine.handle(self.now, Input::Tick);
            self.drain();
        }
        panic!("it never comes to that: {:?}", self.told);
    }

    fn passes(&mut self, time: Micros) {
        let end = self.now + time;
        self.until(|machine| machine.engine.deadline().is_none_or(|deadline| deadline.at > end));
        self.now = end;
    }

    fn starts(&self) -> usize {
        self.told.iter().filter(|(_, told)| *told == Told::Start).count()
    }

    /// The program dies; how long until it is started again.
    fn crash(&mut self) -> u64 {
        let (at, starts) = (self.now.0, self.starts());
        self.does(ProcessInput::Exited(ExitCause::Code(1)));
        self.until(|machine| machine.starts() > starts);
        self.now.0 - at
    }
}

#[test]
fn the_wait_doubles_up_to_its_limit_and_a_stable_run_resets_it() {
    let mut machine = Machine::new(|service| {
        service.backoff = Micros::from_millis(50);
        service.backoff_max = Micros::from_millis(300);
        service.stable_after = Micros::from_secs(10);
        service.failures = 255;
    });
    // Full waits in milliseconds, and how long the run before it lasts.
    let table =
        [(50, 0), (100, 0), (200, 0), (300, 0), (300, 9_000), (300, 9_900), (50, 10_000), (100, 0), (50, 60_000)];
    for (row, (full, run)) in table.into_iter().enumerate() {
        machine.does(ProcessInput::Ready);
        machine.passes(Micros::from_millis(run));
        let waited = machine.crash();
        let (least, most) = (full * MS - full * MS / 8, full * MS + full * MS / 8);
        assert!((least..=most).contains(&waited), "row {row}: waited {waited} µs, not {full} ms and an eighth");
    }
}

#[test]
fn so_many_failures_within_the_window_and_no_fewer_go_up_the_ladder() {
    // N, T in seconds, seconds between failures, and after how many failures it is given up.
    let table = [(3, 30, 1, Some(3)), (2, 30, 1, Some(2)), (3, 10, 6, None), (3, 10, 4, Some(3)), (1, 30, 1, Some(1))];
    for (failures, within, apart, given_up) in table {
        let mut machine = Machine::new(|service| {
            service.failures = failures;
            service.within = Micros::from_secs(within);
            service.backoff = Micros::from_millis(1);
            service.backoff_max = Micros::from_millis(1);
            service.may_reboot = true;
        });
        let rebooted = |machine: &Machine| machine.told.iter().any(|(_, told)| *told == Told::Reboot);
        let mut fell = None;
        for failure in 1..=12_usize {
            machine.does(ProcessInput::Ready);
            machine.passes(Micros::from_secs(apart));
            let starts = machine.starts();
            machine.does(ProcessInput::Exited(ExitCause::Code(1)));
            machine.until(|machine| machine.starts() > starts || rebooted(machine));
            if rebooted(&machine) {
                fell = Some(failure);
                break;
            }
        }
        assert_eq!(fell, given_up, "{failures} failures within {within} s, one each {apart} s");
    }
}

#[test]
fn without_a_reboot_hook_it_is_tried_here_again() {
    let mut machine = Machine::new(|service| {
        service.failures = 1;
        service.may_reboot = false;
    });
    machine.does(ProcessInput::Ready);
    let waited = machine.crash();
    assert!(waited >= 4_000 * MS, "nobody else could take it over, but it started after {waited} µs");
    assert!(machine.told.iter().all(|(_, told)| *told != Told::Reboot));
}

#[test]
fn a_missed_beat_keeps_the_stacks_and_stops_before_it_starts_anew() {
    let mut machine = Machine::new(|service| service.heartbeats = vec![Micros::from_millis(500)]);
    machine.does(ProcessInput::Ready);
    let beat = ProcessInput::Heartbeat { thread: ThreadId(0), timeout: Micros::from_millis(500) };
    for _ in 0..10 {
        machine.does(beat);
        machine.passes(Micros::from_millis(400));
    }
    assert_eq!(machine.told.len(), 1, "beats in time change nothing: {:?}", machine.told);
    let last = machine.now.0 - 400 * MS;
    machine.until(|machine| machine.starts() == 2);
    let orders: Vec<Told> = machine.told.iter().map(|(_, told)| *told).collect();
    assert_eq!(orders, [Told::Start, Told::Capture, Told::Stop, Told::Start]);
    assert_eq!(machine.told[1].0, last + 500 * MS, "the hang is found when the promise is broken");
}
