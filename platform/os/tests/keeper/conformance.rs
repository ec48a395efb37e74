//! One function a property.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apus_os::linux::clock;
use apus_os::program::{Cause, Check, Hooks, Limits, Liveness, NO_LEASE, Order, Readiness, Report, Spec};

use crate::client::{Copy, Link, PATIENCE, Process, in_ms, parent, program, words};

const ALL: &[(&str, fn())] = &[
    ("an end is told as it was", causes),
    ("want of memory is told from a kill", memory),
    ("what cannot begin is told", cannot_begin),
    ("a stop asks first, then kills", stops),
    ("all children go with it, wherever they went", trees),
    ("ready is as the spec says", readiness),
    ("beats come, and strangers are not heard", beats),
    ("a shell beats by one line", shell_beats),
    ("a check that passes is a beat", liveness),
    ("a hang leaves evidence", evidence),
    ("a hang leaves a core, within bounds", core),
    ("user, folder and environment are as the spec says", surroundings),
    ("output is kept, within bounds", output),
    ("a standby becomes active, by signal or by hook", promotes),
    ("hooks run before a start and after an end", hooks),
    ("a hook that fails, hangs or outlasts its lease starts nothing", bad_hooks),
    ("a C program beats by one header", c_header),
    ("limits hold, by control groups of version 2", limits),
    ("a lease ends a copy whose daemon is frozen", frozen_daemon),
    ("a lease ends a copy whose keeper is frozen", frozen_keeper),
    ("a lower epoch and a lease that is over are not obeyed", epochs),
    ("a daemon killed twenty times finds its program", adoption),
    ("another spec replaces the program", replaces),
    ("who kills the keeper kills what it keeps", keeper_killed),
    ("one keeper a copy", one_keeper),
];

/// Runs all, or those whose name has the word.
pub(crate) fn all(only: Option<&str>) {
    for (name, test) in ALL.iter().filter(|(name, _)| only.is_none_or(|word| name.contains(word))) {
        let began = Instant::now();
        test();
        println!("test {name} ... ok ({} ms)", began.elapsed().as_millis());
    }
}

fn notify(mut spec: Spec) -> Spec {
    spec.readiness = Readiness::Notify;
    spec
}

fn causes() {
    let (_copy, mut link) = Copy::kept("causes");
    for code in [0, 7, 255] {
        link.began(program(&["exit", &code.to_string()]));
        assert_eq!(link.ended(), Cause::Code(code));
    }
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, libc::SIGABRT] {
        link.began(program(&["signal", &signal.to_string()]));
        assert_eq!(link.ended(), Cause::Signal(signal));
    }
    // Killed from outside, and the next start is another process.
    let first = link.began(program(&["rest"]));
    Process::open(first).expect("it runs").signal(libc::SIGKILL);
    assert_eq!(link.ended(), Cause::Signal(libc::SIGKILL));
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "it was waited for");
    link.stop(0);
}

fn memory() {
    let (_copy, mut link) = Copy::kept("memory");
    let mut spec = program(&["hog"]);
    spec.limits = Limits { memory: Some(64 << 20), cpu: Some(900), pids: Some(64) };
    let note = link.start(spec.clone(), NO_LEASE).expect("it starts");
    if note.contains("memory") {
        println!("want of memory: SKIPPED: {note}");
        return;
    }
    assert_eq!(link.ended(), Cause::OutOfMemory);
    // The count is of this program only.
    spec.command = program(&["signal", "9"]).command;
    link.began(spec.clone());
    assert_eq!(link.ended(), Cause::Signal(libc::SIGKILL));
    spec.command = program(&["hog"]).command;
    spec.limits.memory = Some(1 << 30);
    link.began(spec);
    assert_eq!(link.ended(), Cause::Code(0), "within its limit");
}

fn cannot_begin() {
    let (_copy, mut link) = Copy::kept("cannot");
    let mut spec = program(&["rest"]);
    spec.command = vec!["/no/such/program".into()];
    let wrong = link.start(spec.clone(), NO_LEASE).expect_err("it is not there");
    assert!(wrong.contains("`/no/such/program`") && wrong.contains("does it exist"), "{wrong}");
    spec.command.clear();
    link.start(spec, NO_LEASE).expect_err("there is no command");
    let mut spec = program(&["rest"]);
    spec.user = Some("no-such-user".into());
    let wrong = link.start(spec, NO_LEASE).expect_err("it is not there");
    assert!(wrong.contains("there is no user `no-such-user`"), "{wrong}");
    let wrong = link.start(program(&["rest"]), in_ms(0)).expect_err("without a lease nothing begins");
    assert!(wrong.contains("lease"), "{wrong}");
    assert_eq!(link.order(|op| Order::Promote { op, epoch: 1, until: NO_LEASE }), Err("nothing runs".into()));
    link.stop(0);
}

fn stops() {
    let (_copy, mut link) = Copy::kept("stops");
    let asked = Process::open(link.began(program(&["rest"]))).expect("it runs");
    let began = Instant::now();
    link.stop(60_000_000);
    assert!(asked.ended(Duration::ZERO) && began.elapsed() < Duration::from_secs(30), "it ends when asked");
    let deaf = Process::open(link.began(notify(program(&["deaf"])))).expect("it runs");
    link.ready();
    let began = Instant::now();
    link.stop(150_000);
    assert!(began.elapsed() >= Duration::from_millis(150), "it had its grace");
    assert!(deaf.ended(Duration::ZERO), "then it was killed");
    assert!(!link.passed().iter().any(|report| matches!(report, Report::Ended(_))), "an ordered end is no failure");
    let state = link.state_of();
    assert_eq!(state.last.map(|end| end.cause), Some(Cause::Stopped));
    link.stop(0);
}

fn trees() {
    let (copy, mut link) = Copy::kept("trees");
    let file = copy.folder.join("numbers");
    let spec = notify(program(&["tree", &file.display().to_string()]));
    for how in ["stop", "crash"] {
        let _ = fs::remove_file(&file);
        let main = link.began(spec.clone());
        link.ready();
        let children: Vec<Process> = words(&file).into_iter().map(|pid| Process::open(pid).expect("it runs")).collect();
        assert_eq!(children.len(), 3);
        assert!(children.iter().all(|child| !child.ended(Duration::ZERO)));
        if how == "stop" {
            link.stop(50_000);
        } else {
            Process::open(main).expect("it runs").signal(libc::SIGABRT);
            assert_eq!(link.ended(), Cause::Signal(libc::SIGABRT));
        }
        assert!(children.iter().all(|child| child.ended(Duration::ZERO)), "{how}: gone before it is told");
    }
}

fn readiness() {
    let (copy, mut link) = Copy::kept("readiness");
    link.began(program(&["rest"]));
    link.ready();
    link.stop(0);
    link.began(notify(program(&["ready"])));
    link.ready();
    link.stop(0);
    // Silent: not ready, however long; a later start still is.
    link.began(notify(program(&["rest"])));
    link.stop(0);
    assert!(!link.passed().contains(&Report::Ready));

    let file = copy.folder.join("port");
    let mut port = |answer: &str, check: fn(SocketAddr) -> Check, ready: bool| {
        let _ = fs::remove_file(&file);
        // The port is not known before it is there: a program that only tells it, then one at that port.
        let mut spec = program(&["serve", &file.display().to_string(), answer]);
        link.began(spec.clone());
        let number = u16::try_from(words(&file)[0]).expect("a port");
        let address = SocketAddr::from(([127, 0, 0, 1], number));
        // Another copy whose check is that port.
        let other = Copy::new("asked");
        other.launch().expect("a keeper");
        let mut asked = other.link();
        spec = program(&["rest"]);
        spec.readiness = Readiness::Check { check: check(address), every: 5_000 };
        asked.began(spec);
        if ready {
            asked.ready();
        } else {
            // Ten tries take longer than this, and none passes.
            std::thread::sleep(Duration::from_millis(100));
            asked.stop(0);
            assert!(!asked.passed().contains(&Report::Ready));
        }
        link.stop(0);
    };
    port("200", Check::Tcp, true);
    port("204", |address| Check::Http { address, path: "/".into() }, true);
    port("503", |address| Check::Http { address, path: "/".into() }, false);

    let flag = copy.folder.join("flag");
    let mut spec = program(&["rest"]);
    let script = vec!["test".into(), "-e".into(), flag.display().to_string()];
    spec.readiness = Readiness::Check { check: Check::Script(script), every: 5_000 };
    link.began(spec);
    assert!(!link.passed().contains(&Report::Ready));
    fs::write(&flag, "").expect("a file");
    link.ready();
}

fn beats() {
    let (copy, mut link) = Copy::kept("beats");
    let mut spec = notify(program(&["beat"]));
    spec.watchdog = Some(250_000);
    link.began(spec);
    link.ready();
    let mut heard = [link.beat(), link.beat(), link.beat()];
    heard.sort_unstable();
    assert_eq!(heard, [(0, 250_000), (3, 700_000), (4, 9)]);
    // This test is no part of the copy.
    apus_os::linux::program::tell(&copy.folder.join("notify"), "HBEAT=5 TIMEOUT_USEC=5\nREADY=1").expect("it is read");
    let state = link.state_of();
    assert_eq!(state.strangers, 1);
    assert!(!link.passed().iter().any(|report| matches!(report, Report::Beat { thread: 5, .. })));
}

/// One line of a shell, where systemd's tool is there.
fn shell_beats() {
    if Command::new("systemd-notify").arg("--version").output().is_err() {
        return println!("a shell beats by one line: SKIPPED: there is no `systemd-notify`");
    }
    let (_copy, mut link) = Copy::kept("shell");
    let mut spec = notify(program(&["rest"]));
    spec.command = shell("systemd-notify READY=1 HBEAT=6 TIMEOUT_USEC=600000; exec sleep 1000").expect("a command");
    link.began(spec);
    link.ready();
    assert_eq!(link.beat(), (6, 600_000));
    link.stop(0);
}

fn liveness() {
    let (_copy, mut link) = Copy::kept("liveness");
    let mut spec = program(&["rest"]);
    let check = Check::Script(vec!["true".into()]);
    spec.liveness = Some(Liveness { check, every: 5_000, within: 5_000_000, thread: 7, promise: 300_000 });
    link.began(spec.clone());
    for _ in 0..3 {
        assert_eq!(link.beat(), (7, 300_000));
    }
    link.stop(0);
    // One that hangs is killed with its own children and is no beat.
    let check = Check::Script(vec!["sleep".into(), "1000".into()]);
    spec.liveness = Some(Liveness { check, every: 5_000, within: 20_000, thread: 8, promise: 300_000 });
    link.began(spec);
    std::thread::sleep(Duration::from_millis(60));
    link.stop(0);
    assert!(!link.passed().iter().any(|report| matches!(report, Report::Beat { thread: 8, .. })));
}

fn evidence() {
    let (_copy, mut link) = Copy::kept("evidence");
    let pid = link.began(notify(program(&["ready"])));
    link.ready();
    let mut files = Vec::new();
    for _ in 0..7 {
        let note = link.order(|op| Order::Capture { op }).expect("it is kept");
        files.push(PathBuf::from(note));
    }
    let text = fs::read_to_string(files.last().expect("seven")).expect("it is there");
    for part in [&format!("== process {pid}: "), "-- thread ", "comm keeper", "wchan", "syscall ", "maps\n", "State:"] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    assert!(!files[0].exists() && files[2].exists(), "the newest five are kept");
    assert!(Process::open(pid).is_some_and(|program| !program.ended(Duration::ZERO)), "it was only looked at");
}

fn core() {
    let (copy, mut link) = Copy::kept("core");
    let mut spec = notify(program(&["ready"]));
    spec.core = Some(1 << 20);
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let here = matches!(pattern.trim(), "core" | "core.%p");
    for _ in 0..3 {
        let main = Process::open(link.began(spec.clone())).expect("it runs");
        link.ready();
        let began = Instant::now();
        let note = link.order(|op| Order::Capture { op }).expect("it is kept");
        assert!(began.elapsed() < PATIENCE && note.contains("/hang-"), "{note}");
        assert!(main.ended(Duration::ZERO), "it is gone before the evidence is told");
        if here {
            let core = PathBuf::from(note.rsplit(", ").next().expect("a path"));
            let length = fs::metadata(&core).unwrap_or_else(|error| panic!("{note}: {error}")).len();
            assert!((4_096..=1 << 20).contains(&length), "{length} bytes");
            assert_eq!(fs::read(&core).expect("it is there")[..4], *b"\x7fELF");
        }
        // The engine orders a stop then; there is nothing left to stop.
        link.stop(0);
        assert!(!link.passed().iter().any(|report| matches!(report, Report::Ended(_))), "its end is no second failure");
    }
    if here {
        let cores = fs::read_dir(&copy.folder).expect("a folder").flatten();
        let cores = cores.filter(|entry| entry.file_name().to_string_lossy().starts_with("core-")).count();
        assert_eq!(cores, 2, "the newest two are kept");
    } else {
        println!("a hang leaves a core, within bounds: SKIPPED in part: cores go to `{}` here", pattern.trim());
    }
    // One that was stopped ends as well.
    let main = Process::open(link.began(spec)).expect("it runs");
    link.ready();
    main.signal(libc::SIGSTOP);
    link.order(|op| Order::Capture { op }).expect("it is kept");
    assert!(main.ended(Duration::ZERO));
}

fn surroundings() {
    let (copy, mut link) = Copy::kept("who");
    // SAFETY: no memory is passed.
    let root = unsafe { libc::geteuid() } == 0;
    let file = std::env::temp_dir().join(format!("apus-who-{}", std::process::id()));
    let mut spec = program(&["who", &file.display().to_string()]);
    spec.environment = vec![("OWN".into(), "a b".into())];
    spec.directory = Some("/".into());
    spec.user = root.then(|| "nobody".into());
    if root {
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::chown(&file, Some(65_534), None).expect("it is ours");
    } else {
        println!("another user: SKIPPED: it needs root");
    }
    let started = link.start(spec, NO_LEASE);
    // The test's own file may lie where nobody else may go.
    if let Err(wrong) = &started {
        assert!(wrong.contains("Permission denied"), "{wrong}");
        println!("another user: SKIPPED: {wrong}");
        return;
    }
    let first = words(&file);
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(text.ends_with("active a b false /\n"), "{text}");
    if root {
        assert_eq!(first[..2], [65_534, 65_534], "{text}");
    }
    link.stop(0);
    fs::remove_file(file).expect("it is ours");
    drop(copy);
}

fn output() {
    let (copy, mut link) = Copy::kept("output");
    let mut spec = program(&["flood", "200000"]);
    (spec.log_bytes, spec.log_files) = (65_536, 2);
    link.began(spec);
    assert_eq!(link.ended(), Cause::Code(0));
    // The last of it is written by a thread after the program has ended.
    let until = Instant::now() + PATIENCE;
    let newest = copy.folder.join("output");
    while !fs::read_to_string(&newest).unwrap_or_default().ends_with("line 199999\n") {
        assert!(Instant::now() < until, "the last line is not kept");
        std::thread::yield_now();
    }
    for name in ["output", "output.1"] {
        assert!(fs::metadata(copy.folder.join(name)).expect("it is there").len() <= 65_536);
    }
    assert!(!copy.folder.join("output.2").exists());
}

fn promotes() {
    let (copy, mut link) = Copy::kept("promotes");
    let spec = notify(program(&["standby"]));
    link.start(spec.clone(), 0).expect("it starts");
    link.ready();
    link.order(|op| Order::Promote { op, epoch: 5, until: NO_LEASE }).expect("it is active");
    assert_eq!(link.ended(), Cause::Code(42), "it was told by a signal");
    // By a hook, which is told the grant; one that fails ends the copy.
    let told = copy.folder.join("told");
    for (script, good) in [("echo $APUS_EPOCH $APUS_PID > told", true), ("exit 3", false)] {
        let mut spec = spec.clone();
        spec.promote = Some(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        link.start(spec, 0).expect("it starts");
        link.ready();
        let program = link.wait(|report| match report {
            Report::Began { pid, .. } => Some(*pid),
            _ => None,
        });
        let promoted = link.order(|op| Order::Promote { op, epoch: 6, until: in_ms(60_000) });
        assert_eq!(promoted.is_ok(), good, "{promoted:?}");
        let state = link.state_of();
        if good {
            assert_eq!(words(&told), [6, program]);
            assert_eq!(state.runs.map(|runs| (runs.active, runs.epoch)), Some((true, 6)));
            link.stop(0);
        } else {
            assert!(state.runs.is_none_or(|runs| runs.ending));
        }
    }
}

/// A daemon of its own process: takes the copy over, and holds its lease for so many milliseconds again and again until it is
/// killed.
pub(crate) fn daemon(folder: &Path, lease: u64) -> i32 {
    let mut link = Link::to(folder);
    let spec = notify(program(&["ready"]));
    link.start(spec, in_ms(lease)).expect("it starts");
    link.ready();
    let state = link.state_of();
    println!("{} {}", state.runs.map_or(0, |runs| runs.main.pid), state.starts);
    loop {
        link.send(&Order::Lease { epoch: 1, until: in_ms(lease) });
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Daemon {
    child: Child,
    /// The program, and how many the keeper has started.
    program: u32,
    starts: u32,
}

impl Daemon {
    fn start(copy: &Copy, lease: u64) -> Self {
        let exe = std::env::current_exe().expect("it runs");
        let mut command = Command::new(exe);
        command.arg("daemon").arg(&copy.folder).arg(lease.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a daemon");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it speaks");
        let mut words = line.split_whitespace().map(|word| word.parse().expect("a number"));
        let (program, starts) = (words.next().expect("a number"), words.next().expect("a number"));
        Self { child, program, starts }
    }

    fn signal(&self, signal: i32) {
        Process::open(self.child.id()).expect("it runs").signal(signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn frozen_daemon() {
    let copy = Copy::new("frozen");
    copy.launch().expect("a keeper");
    for dead in [false, true] {
        let daemon = Daemon::start(&copy, 1_000);
        let program = Process::open(daemon.program).expect("it runs");
        assert!(dead || !program.ended(Duration::from_millis(1_200)), "a daemon that renews keeps it");
        let at = clock::boot();
        daemon.signal(if dead { libc::SIGKILL } else { libc::SIGSTOP });
        assert!(program.ended(PATIENCE), "the lease ends it");
        let took = Duration::from_nanos(clock::boot() - at);
        assert!(took < Duration::from_millis(2_000), "after {took:?}");
        drop(daemon);
        let state = copy.link().state;
        assert_eq!(state.last.map(|end| end.cause), Some(Cause::Guard));
        assert!(state.runs.is_none());
    }
}

fn frozen_keeper() {
    let (copy, mut link) = Copy::kept("stuck");
    let keeper = Process::open(link.state.keeper.pid).expect("it runs");
    let file = copy.folder.join("numbers");
    let spec = notify(program(&["tree", &file.display().to_string()]));
    link.start(spec, in_ms(1_500)).expect("it starts");
    link.ready();
    let children: Vec<Process> = words(&file).into_iter().map(|pid| Process::open(pid).expect("it runs")).collect();
    keeper.signal(libc::SIGSTOP);
    assert!(children.iter().all(|child| child.ended(PATIENCE)), "its warden ends them");
    keeper.signal(libc::SIGCONT);
    assert_eq!(link.ended(), Cause::Guard);
}

fn epochs() {
    let (_copy, mut link) = Copy::kept("epochs");
    let begin = |link: &mut Link, until: u64| {
        let op = link.op();
        link.send(&Order::Start { op, spec: Box::new(program(&["rest"])), active: true, epoch: 5, until });
        link.done(op)
    };
    begin(&mut link, in_ms(60_000)).expect("it starts");
    link.send(&Order::Lease { epoch: 4, until: 0 });
    link.send(&Order::Lease { epoch: 4, until: in_ms(90_000) });
    let runs = link.state_of().runs.expect("it runs");
    assert!(runs.until <= in_ms(60_000) && runs.epoch == 5, "a lower epoch neither ends nor prolongs it");
    link.send(&Order::Lease { epoch: 5, until: in_ms(1_000) });
    assert_eq!(link.state_of().runs.map(|after| after.until), Some(runs.until), "it does not get shorter");
    link.send(&Order::Lease { epoch: 6, until: in_ms(30_000) });
    assert_eq!(link.state_of().runs.map(|runs| runs.epoch), Some(6));
    link.send(&Order::Lease { epoch: 6, until: 0 });
    assert_eq!(link.ended(), Cause::Guard, "its own ends it");
    // What is given back ends what is active by it, and leaves a standby alone.
    begin(&mut link, in_ms(60_000)).expect("it starts");
    link.order(|op| Order::Release { op, epoch: 4 }).expect("nothing of it runs");
    let active = Process::open(link.state_of().runs.expect("it runs").main.pid).expect("it runs");
    link.order(|op| Order::Release { op, epoch: 5 }).expect("it ends");
    assert!(active.ended(Duration::ZERO), "it is gone when that is told");
    link.start(program(&["rest"]), 0).expect("it starts");
    link.order(|op| Order::Release { op, epoch: 9 }).expect("nothing active runs");
    assert!(link.state_of().runs.is_some_and(|runs| !runs.ending));
}

fn adoption() {
    let copy = Copy::new("adoption");
    copy.launch().expect("a keeper");
    let mut daemon = Daemon::start(&copy, 60_000);
    let program = daemon.program;
    let handle = Process::open(program).expect("it runs");
    for _ in 0..20 {
        daemon.signal(libc::SIGKILL);
        drop(daemon);
        daemon = Daemon::start(&copy, 60_000);
        assert_eq!((daemon.program, daemon.starts), (program, 1), "the same program, started once");
    }
    assert!(!handle.ended(Duration::ZERO));
    assert!(parent(program) == copy.link().state.keeper.pid);
}

fn replaces() {
    let (_copy, mut link) = Copy::kept("replaces");
    let first = link.began(program(&["rest"]));
    let handle = Process::open(first).expect("it runs");
    assert_eq!(link.began(program(&["rest"])), first, "the same spec keeps it");
    let mut other = program(&["rest"]);
    other.environment.push(("NEW".into(), "1".into()));
    let second = link.began(other);
    assert!(second != first && handle.ended(Duration::ZERO), "the old one is gone before the new one begins");
    assert!(!link.passed().iter().any(|report| matches!(report, Report::Ended(_))));
}

fn keeper_killed() {
    for both in [false, true] {
        let (copy, mut link) = Copy::kept("killed");
        let file = copy.folder.join("numbers");
        let spec = notify(program(&["tree", &file.display().to_string()]));
        let main = Process::open(link.began(spec.clone())).expect("it runs");
        link.ready();
        let children: Vec<Process> = words(&file).into_iter().map(|pid| Process::open(pid).expect("it runs")).collect();
        let keeper = Process::open(link.state.keeper.pid).expect("it runs");
        let warden = Process::open(parent(link.state.keeper.pid)).expect("it runs");
        if both {
            // Frozen first, so that neither can act on the other's end.
            warden.signal(libc::SIGSTOP);
            keeper.signal(libc::SIGKILL);
            assert!(main.ended(PATIENCE), "the kernel ends the program with its keeper");
            warden.signal(libc::SIGKILL);
        } else {
            keeper.signal(libc::SIGKILL);
            assert!(main.ended(PATIENCE) && children.iter().all(|child| child.ended(PATIENCE)));
        }
        assert!(warden.ended(PATIENCE));
        // The next keeper finds what was left, and begins when it is gone.
        copy.launch().expect("a keeper");
        let mut link = copy.link();
        assert!(link.state.runs.is_none());
        let left = children.iter().filter(|child| !child.ended(Duration::ZERO)).count();
        if left > 0 {
            // They left the session, and without a control group nobody knows whose they are.
            println!("both killed: {left} children that left the session live on: no control groups of version 2 here");
            children.iter().for_each(|child| child.signal(libc::SIGKILL));
        }
        let _ = fs::remove_file(&file);
        link.began(spec);
        link.ready();
    }
}

fn one_keeper() {
    let (copy, mut link) = Copy::kept("one");
    let wrong = copy.launch().expect_err("there is one");
    assert!(wrong.contains("another keeper keeps this copy"), "{wrong}");
    let pid = link.began(program(&["rest"]));
    // Garbage ends the connection, not the keeper.
    let mut garbage = std::os::unix::net::UnixStream::connect(copy.folder.join("socket")).expect("it listens");
    let _ = garbage.write_all(&[0xff; 64]);
    let runs = copy.link().state.runs.expect("it runs on");
    assert_eq!(runs.main.pid, pid);
    assert!(clock::boot() > runs.since);
}

/// A command of a shell, as a hook.
fn shell(script: &str) -> Option<Vec<String>> {
    Some(vec!["/bin/sh".into(), "-c".into(), script.into()])
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn hooks() {
    let (copy, mut link) = Copy::kept("hooks");
    let told = copy.folder.join("told");
    let note = |what: &str| format!("echo {what} $APUS_ROLE $APUS_EPOCH $APUS_RESULT $APUS_CODE >> {}", told.display());
    let mut spec = notify(program(&["ready"]));
    // What a hook leaves running goes with it.
    spec.hooks = Hooks {
        before: shell(&format!("{}; sleep 1000 & echo $! > {}.left", note("before"), told.display())),
        after: shell(&note("after")),
        within: 10_000_000,
    };
    let main = Process::open(link.began(spec.clone())).expect("it runs");
    link.ready();
    assert_eq!(lines(&told), ["before active 1"]);
    let left = words(&copy.folder.join("told.left"))[0];
    assert!(!Path::new(&format!("/proc/{left}")).exists(), "what the hook left is gone before the program begins");
    // A new daemon's start leaves what runs alone: no hook runs again.
    let mut link = copy.link();
    assert_eq!(link.start(spec.clone(), NO_LEASE), Ok("it ran already".into()));
    main.signal(libc::SIGABRT);
    assert_eq!(link.ended(), Cause::Signal(libc::SIGABRT));
    assert_eq!(lines(&told), ["before active 1", "after active 1 signal 6"], "told after the hook");
    link.began(spec.clone());
    link.ready();
    link.stop(1_000_000);
    assert_eq!(lines(&told)[2..], ["before active 1", "after active 1 stopped 0"], "a stop waits for the hook");
    // A lease that ends.
    link.start(spec, in_ms(400)).expect("it starts");
    assert_eq!(link.ended(), Cause::Guard);
    assert_eq!(lines(&told)[4..], ["before active 1", "after active 1 lease 0"]);
}

fn bad_hooks() {
    let (copy, mut link) = Copy::kept("bad-hooks");
    let mut spec = program(&["rest"]);
    let failed = Err("the hook before the start failed".to_owned());
    spec.hooks = Hooks { before: shell("exit 3"), after: None, within: 10_000_000 };
    assert_eq!(link.start(spec.clone(), NO_LEASE), failed);
    // One that hangs, with a child that left its session.
    spec.hooks.before = shell("setsid sleep 1000 & sleep 1000");
    spec.hooks.within = 100_000;
    let began = Instant::now();
    assert_eq!(link.start(spec.clone(), NO_LEASE), failed);
    assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < PATIENCE);
    spec.hooks.within = 60_000_000;
    assert_eq!(link.start(spec.clone(), in_ms(100)), failed, "its lease is over first");
    assert!(link.state_of().runs.is_none() && link.state_of().starts == 0);
    // A stop ends it.
    let flag = copy.folder.join("flag");
    spec.hooks.before = shell(&format!("touch {}; sleep 1000", flag.display()));
    let op = link.op();
    link.send(&Order::Start { op, spec: Box::new(spec.clone()), active: true, epoch: 1, until: NO_LEASE });
    let until = Instant::now() + PATIENCE;
    while !flag.exists() {
        assert!(Instant::now() < until, "the hook begins");
        std::thread::sleep(Duration::from_millis(1));
    }
    link.stop(60_000_000);
    assert_eq!(link.done(op), Err("it was stopped".into()));
    // After an end, too: it has its time, and no more.
    spec.hooks = Hooks { before: None, after: shell("sleep 1000"), within: 100_000 };
    link.began(spec);
    let began = Instant::now();
    link.stop(0);
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert!(link.state_of().runs.is_none());
}

fn c_header() {
    let (copy, mut link) = Copy::kept("c-header");
    let source = copy.folder.join("beat.c");
    let text = "#include \"apus_hbeat.h\"\nint main(void) {\n    if (apus_ready() || apus_hbeat(3, 700000)) return 1;\n    \
                unsetenv(\"NOTIFY_SOCKET\");\n    if (apus_hbeat(0, 1) == 0 || errno != ENOENT) return 2;\n    pause();\n}\n";
    fs::write(&source, text).expect("a file");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    // As C and as C++, both as old as they come.
    for (compiler, standard) in [("cc", "-std=gnu99"), ("c++", "-std=gnu++11")] {
        let program = copy.folder.join(compiler);
        let mut command = Command::new(compiler);
        command.args([standard, "-Wall", "-Wextra", "-Werror", "-I", include, "-o"]).arg(&program);
        let kind = if compiler == "cc" { "c" } else { "c++" };
        match command.args(["-x", kind]).arg(&source).output() {
            Err(_) => {
                println!("a C program beats by one header: SKIPPED: there is no `{compiler}`");
                continue;
            }
            Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
        }
        let mut spec = notify(program_at(&program));
        spec.stop_signal = libc::SIGTERM;
        link.began(spec);
        link.ready();
        assert_eq!(link.beat(), (3, 700_000));
        link.stop(0);
    }
}

fn program_at(path: &Path) -> Spec {
    Spec { command: vec![path.display().to_string()], ..program(&["rest"]) }
}

/// Where the control groups of version 2 are, if they can limit.
fn version_two() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let at = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, at, "cgroup2", ..] => Some(PathBuf::from(at)),
        _ => None,
    });
    let at = at.ok_or("no control groups of version 2 are mounted")?;
    let has = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
    for wanted in ["memory", "cpu", "pids"] {
        if !has.split_whitespace().any(|name| name == wanted) {
            return Err(format!(
                "the controller `{wanted}` is not in version 2 here: `{}` has `{}`",
                at.display(),
                has.trim()
            ));
        }
    }
    Ok(at)
}

fn limits() {
    let at = match version_two() {
        Ok(at) => at,
        Err(why) => return println!("limits hold, by control groups of version 2: SKIPPED: {why}"),
    };
    let (copy, mut link) = Copy::kept("limits");
    let mut spec = notify(program(&["ready"]));
    spec.limits = Limits { memory: Some(256 << 20), cpu: Some(250), pids: Some(9) };
    let note = link.start(spec, NO_LEASE).expect("it starts");
    if !note.is_empty() {
        return println!("limits hold, by control groups of version 2: SKIPPED: {note}");
    }
    let group = at.join("apus").join(copy.group()).join("run");
    for (file, want) in [("memory.max", "268435456"), ("cpu.max", "25000 100000"), ("pids.max", "9")] {
        assert_eq!(fs::read_to_string(group.join(file)).expect("it is limited").trim(), want, "{file}");
    }
    link.stop(0);
    // One process too many is refused to it.
    let mut spec = program(&["exit", "0"]);
    spec.command = shell("for n in 1 2 3 4 5 6; do sleep 1000 & done; exit 7").expect("a command");
    spec.limits.pids = Some(4);
    link.began(spec);
    assert!(matches!(link.ended(), Cause::Code(code) if code != 7), "the shell could not have its six children");
}
