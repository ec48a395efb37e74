//! One copy: what runs, what it was told, what it is told. One thread that waits for nothing but [`poll`](super::poll).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::notify::{Ear, Said};
use super::probe::Probe;
use super::{PROGRAM, SOCKET, capture, clock, logs, spawn, tree};
use crate::program::{
    Cause, Check, End, Identity, LONGEST, NO_LEASE, Order, Readiness, Report, Runs, Spec, State, VERSION, decode_order,
    encode_report, frame_length,
};

/// First byte of what a thread of the keeper tells it: a probe's try has ended, a capture has.
pub(super) const PROBED: u8 = 1;
const CAPTURED: u8 = 2;

/// Without a daemon and a program a keeper has nothing to keep.
const IDLE: u64 = 10_000_000_000;
/// Beats go to the daemon this often at most; the newest of each thread counts.
const BEATS: u64 = 2_000_000;
/// Threads that may beat.
const MOST_THREADS: usize = 4_096;
/// A daemon that does not read so much is asked to come again.
const MOST_UNREAD: usize = 1 << 20;
/// What makes a standby active has so long.
const PROMOTE: u64 = 5_000_000_000;
/// The system has so long to write a core.
const CORE: u64 = 3_000_000_000;
/// While a tree is being killed it is looked at this often.
const LOOK: u64 = 5_000_000;

/// A hook that runs.
struct Hook {
    child: u32,
    /// It is killed then.
    until: u64,
    /// It has ended, well or not; what it left is being killed.
    passed: Option<bool>,
    before: Around,
    /// Stops that wait for it.
    stops: Vec<Op>,
}

/// What a hook runs around.
enum Around {
    /// A start that waits for it.
    Start(Start, PipeWriter),
    /// An end that is told then.
    End(End, Vec<Op>),
}

impl Hook {
    /// When it is killed: its time is over, or the lease of what it prepares.
    const fn due(&self) -> u64 {
        match &self.before {
            Around::Start(start, _) if start.active && start.until < self.until => start.until,
            _ => self.until,
        }
    }
}

/// What is polled, beside the fixed ones.
const SIGNALS: usize = 0;
const LEASE: usize = 1;
const EAR: usize = 2;
const WAKE: usize = 3;
const LISTENER: usize = 4;

pub(super) struct Keeper {
    folder: PathBuf,
    /// The warden, which this process ends with.
    warden: OwnedFd,
    listener: UnixListener,
    ear: Ear,
    signals: OwnedFd,
    lease: OwnedFd,
    late: OwnedFd,
    wake: (UnixDatagram, Arc<UnixDatagram>),
    group: Group,
    link: Option<Link>,
    links: u32,
    run: Option<Run>,
    /// What is started once the present program is gone.
    next: Option<Start>,
    /// A command around the program's life; none of it runs meanwhile.
    hook: Option<Hook>,
    state: State,
    own: u32,
    idle_since: u64,
    tries: u32,
    beats_sent: u64,
    leave: bool,
}

/// An order's number, and by which of the connections it came: another daemon may give the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Op(u64, u32);

/// The daemon.
struct Link {
    stream: UnixStream,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    known: bool,
}

struct Start {
    op: Op,
    spec: Box<Spec>,
    active: bool,
    epoch: u64,
    until: u64,
}

struct Run {
    spec: Box<Spec>,
    main: Identity,
    handle: OwnedFd,
    output: PipeWriter,
    entries: Vec<PathBuf>,
    active: bool,
    epoch: u64,
    until: u64,
    since: u64,
    ready: bool,
    /// What the system said of the program's end.
    exited: Option<libc::c_int>,
    ending: Option<Ending>,
    probe: Option<Probe>,
    promoting: Option<Promoting>,
    beats: BTreeMap<u32, u64>,
    /// Its stacks are kept; the rest of its evidence is what the system writes at its end.
    captured: Option<(Op, String)>,
}

struct Promoting {
    op: Op,
    child: u32,
    until: u64,
}

struct Ending {
    /// The cause if it is not the program's own.
    cause: Option<Cause>,
    kill_at: u64,
    killed: bool,
    look_at: u64,
    stops: Vec<Op>,
}

fn micros(time: u64) -> u64 {
    time.saturating_mul(1_000)
}

impl Keeper {
    pub(super) fn new(folder: &Path, group: Group, lease: OwnedFd, late: OwnedFd, warden: u32) -> io::Result<Self> {
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        // Without its warden it would be one guard only: it ends, and what it keeps with it.
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
        // It works little, but at once; what it starts is put back. Without the right to do so it stays as it is.
        spawn::hasten();
        let path = folder.join(SOCKET);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let ear = Ear::open(&folder.join("notify"))?;
        let (mine, theirs) = UnixDatagram::pair()?;
        mine.set_nonblocking(true)?;
        let own = std::process::id();
        let keeper = tree::identity(own).unwrap_or_default();
        let state = State { version: VERSION, boot: tree::boot_id(), keeper, ..State::default() };
        Ok(Self {
            folder: folder.into(),
            warden: tree::open(warden)?,
            listener,
            ear,
            signals: signals()?,
            lease,
            late,
            wake: (mine, Arc::new(theirs)),
            group,
            link: None,
            links: 0,
            run: None,
            next: None,
            hook: None,
            state,
            own,
            idle_since: clock::boot(),
            tries: 0,
            beats_sent: 0,
            leave: false,
        })
    }

    /// Works until there is nothing more to keep.
    pub(super) fn work(&mut self) -> io::Result<()> {
        loop {
            self.on_time();
            if self.run.is_none() && self.next.is_none() && self.hook.is_none() {
                let idle = self.link.is_none() && clock::boot().saturating_sub(self.idle_since) >= IDLE;
                if self.leave || idle {
                    return Ok(());
                }
            }
            let ready = self.wait()?;
            // Lease and ends first.
            if ready[LEASE] {
                self.on_lease();
            }
            if ready[SIGNALS] || ready[5] {
                self.on_signals();
            }
            if ready[6] {
                self.end(Some(Cause::Stopped), 0, None);
                self.leave = true;
            }
            if ready[EAR] {
                self.on_words();
            }
            if ready[WAKE] {
                self.on_wake();
            }
            if ready[7] {
                self.on_daemon();
            }
            if ready[LISTENER] {
                self.on_comer();
            }
            self.send_beats();
            self.flush();
        }
    }

    fn wait(&self) -> io::Result<Vec<bool>> {
        let nobody: RawFd = -1;
        let main = self.run.as_ref().filter(|run| run.exited.is_none()).map_or(nobody, |run| run.handle.as_raw_fd());
        let daemon = self.link.as_ref().map_or(nobody, |link| link.stream.as_raw_fd());
        let fds = [
            self.signals.as_raw_fd(),
            self.lease.as_raw_fd(),
            self.ear.fd(),
            self.wake.0.as_raw_fd(),
            self.listener.as_raw_fd(),
            main,
            if self.leave { nobody } else { self.warden.as_raw_fd() },
            daemon,
        ];
        let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        if self.link.as_ref().is_some_and(|link| !link.unsent.is_empty()) {
            polled[7].events |= libc::POLLOUT;
        }
        let within = self.deadline().map(|at| Duration::from_nanos(at.saturating_sub(clock::boot())));
        super::poll(&mut polled, within)?;
        Ok(polled.iter().map(|fd| fd.revents != 0).collect())
    }

    /// When something is due by itself; the lease has a timer of its own.
    fn deadline(&self) -> Option<u64> {
        if let Some(hook) = &self.hook {
            return Some(if hook.passed.is_some() { clock::boot().saturating_add(LOOK) } else { hook.due() });
        }
        let Some(run) = &self.run else {
            return self.link.is_none().then_some(self.idle_since.saturating_add(IDLE));
        };
        let ending = run.ending.as_ref().map(|ending| if ending.killed { ending.look_at } else { ending.kill_at });
        let probe = run.probe.as_ref().filter(|_| run.ending.is_none()).map(Probe::deadline);
        let promoting = run.promoting.as_ref().map(|promoting| promoting.until);
        let beats = (!run.beats.is_empty() && self.link.is_some()).then_some(self.beats_sent.saturating_add(BEATS));
        [ending, probe, promoting, beats].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        let now = clock::boot();
        if self.hook.is_some() {
            return self.look_at_hook();
        }
        let Some(run) = &mut self.run else { return };
        if run.active && run.until <= now && run.ending.as_ref().is_none_or(|ending| !ending.killed) {
            return self.on_lease();
        }
        if let Some(ending) = &mut run.ending {
            if ending.killed && ending.look_at <= now || !ending.killed && ending.kill_at <= now {
                self.kill();
                self.look();
            }
            return;
        }
        if run.promoting.as_ref().is_some_and(|promoting| promoting.until <= now) {
            return self.promoted(false);
        }
        let Some(probe) = run.probe.as_mut().filter(|probe| probe.deadline() <= now) else { return };
        if probe.trying.is_some() {
            return self.probed(false);
        }
        self.tries = self.tries.wrapping_add(1);
        probe.begin(self.tries);
        if probe.connect(self.tries, &self.wake.1) {
            return;
        }
        let Check::Script(command) = probe.check.clone() else { return };
        let begun = spawn::start(&run.spec, &command, &self.folder, &[], &run.entries, &run.output);
        match begun {
            Ok(begun) => probe.child = Some(begun.identity.pid),
            Err(_) => self.probed(false),
        }
    }

    /// The lease's timer has rung.
    fn on_lease(&mut self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is as long as is said.
        unsafe { libc::read(self.lease.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        let over = self.run.as_ref().is_some_and(|run| run.active && run.until <= clock::boot());
        if over {
            self.end(Some(Cause::Guard), 0, None);
        }
    }

    fn arm(&self) {
        let until = self.run.as_ref().filter(|run| run.active && run.until != NO_LEASE).map(|run| run.until);
        super::set_timer(&self.lease, until);
        let late = u64::try_from(super::LATE.as_nanos()).unwrap_or(u64::MAX);
        super::set_timer(&self.late, until.map(|until| until.saturating_add(late)));
    }

    fn on_signals(&mut self) {
        let mut infos = [0_u8; 128 * 8];
        loop {
            // SAFETY: the buffer is as long as is said.
            let got = unsafe { libc::read(self.signals.as_raw_fd(), infos.as_mut_ptr().cast(), infos.len()) };
            let Ok(got) = usize::try_from(got) else { break };
            for info in infos[..got].chunks_exact(128) {
                let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                if i32::try_from(number) != Ok(libc::SIGCHLD) {
                    // The machine goes down, or the warden is gone: in order, if there is time.
                    let grace = self.run.as_ref().map_or(0, |run| run.spec.grace);
                    self.end(Some(Cause::Stopped), grace, None);
                    self.leave = true;
                }
            }
        }
        self.look();
    }

    /// Hears of children that have ended, and whether any are left.
    fn look(&mut self) {
        let childless = loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            match u32::try_from(pid) {
                Ok(0) => break false,
                Ok(pid) => self.reaped(pid, status),
                Err(_) => break true,
            }
        };
        if self.hook.is_some() {
            return self.look_at_hook();
        }
        let Some(run) = &mut self.run else { return };
        if run.exited.is_none() {
            return;
        }
        if run.ending.is_none() {
            // By itself: its children have no reason to live on.
            let now = clock::boot();
            run.ending = Some(Ending { cause: None, kill_at: now, killed: false, look_at: now, stops: Vec::new() });
        }
        if childless {
            return self.gone();
        }
        let at_once = run.ending.as_ref().is_some_and(|ending| !ending.killed && ending.cause.is_none());
        if at_once {
            self.kill();
        }
    }

    fn reaped(&mut self, pid: u32, status: libc::c_int) {
        let passed = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        if let Some(hook) = self.hook.as_mut().filter(|hook| hook.child == pid) {
            hook.passed.get_or_insert(passed);
        }
        let Some(run) = &mut self.run else { return };
        if pid == run.main.pid {
            run.exited = Some(status);
        } else if run.probe.as_ref().is_some_and(|probe| probe.child == Some(pid)) {
            self.probed(passed);
        } else if run.promoting.as_ref().is_some_and(|promoting| promoting.child == pid) {
            self.promoted(passed);
        }
    }

    /// Nothing of the copy is left.
    fn gone(&mut self) {
        let Some(run) = self.run.take() else { return };
        let status = run.exited.unwrap_or_default();
        let ending = run.ending;
        let ordered = ending.as_ref().and_then(|ending| ending.cause);
        let cause = ordered.unwrap_or_else(|| {
            if libc::WIFEXITED(status) {
                Cause::Code(libc::WEXITSTATUS(status))
            } else if libc::WTERMSIG(status) == libc::SIGKILL && self.group.out_of_memory() {
                Cause::OutOfMemory
            } else {
                Cause::Signal(libc::WTERMSIG(status))
            }
        });
        let end = End { cause, at: clock::boot() };
        self.state.last = Some(end);
        self.idle_since = end.at;
        self.arm();
        let _ = fs::remove_file(self.folder.join(PROGRAM));
        if let Some(promoting) = run.promoting {
            self.done(promoting.op, Some("it ended".into()), String::new());
        }
        if let Some((op, note)) = run.captured {
            let core = capture::core(&self.folder, &run.spec, run.main.pid);
            let wrote = core
                .map_or_else(|| "no core: see /proc/sys/kernel/core_pattern".into(), |path| path.display().to_string());
            self.done(op, None, format!("{note}, {wrote}"));
        }
        let stops = ending.map_or_else(Vec::new, |ending| ending.stops);
        if let Some(command) = run.spec.hooks.after.clone() {
            let (result, code) = match cause {
                Cause::Code(0) => ("success", 0),
                Cause::Code(code) => ("exit-code", code),
                Cause::Signal(signal) => ("signal", signal),
                Cause::OutOfMemory => ("out-of-memory", 0),
                Cause::Guard => ("lease", 0),
                Cause::Stopped => ("stopped", 0),
            };
            let role = if run.active { "active" } else { "standby" };
            let more = [
                ("APUS_ROLE", role.to_owned()),
                ("APUS_EPOCH", run.epoch.to_string()),
                ("APUS_RESULT", result.to_owned()),
                ("APUS_CODE", code.to_string()),
            ];
            if let Ok(begun) = spawn::start(&run.spec, &command, &self.folder, &more, &run.entries, &run.output) {
                let until = end.at.saturating_add(micros(run.spec.hooks.within));
                let (child, before) = (begun.identity.pid, Around::End(end, stops));
                self.hook = Some(Hook { child, until, passed: None, before, stops: Vec::new() });
                return;
            }
        }
        self.ended(end, stops);
    }

    /// Tells of an end, and starts what waited for it.
    fn ended(&mut self, end: End, stops: Vec<Op>) {
        if end.cause != Cause::Stopped && self.next.is_none() {
            self.report(&Report::Ended(end));
        }
        for op in stops {
            self.done(op, None, String::new());
        }
        if let Some(start) = self.next.take() {
            self.start(start);
        }
    }

    /// A hook's time may be over, or it has ended; what it left goes with it.
    fn look_at_hook(&mut self) {
        let Some(hook) = &mut self.hook else { return };
        let now = clock::boot();
        if hook.passed.is_none() {
            // A stop ends what prepares a start, and waits for what has to be done after an end.
            let stopped = !hook.stops.is_empty() && matches!(hook.before, Around::Start(..));
            if hook.due() > now && !stopped {
                return;
            }
            hook.passed = Some(false);
        }
        self.group.kill();
        if !tree::kill_below(self.own) {
            return;
        }
        // Those that were killed are waited for.
        loop {
            let mut status = 0;
            // SAFETY: the status outlives the call.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                0 => return,
                ..0 => break,
                _ => {}
            }
        }
        let Some(Hook { passed, before, stops, .. }) = self.hook.take() else { return };
        self.idle_since = now;
        match before {
            Around::End(end, mut waiting) => {
                waiting.extend(stops);
                return self.ended(end, waiting);
            }
            Around::Start(start, output) if passed == Some(true) && stops.is_empty() => {
                self.launch(start, Some(output));
            }
            Around::Start(start, _) => {
                let why = if stops.is_empty() { "the hook before the start failed" } else { "it was stopped" };
                self.done(start.op, Some(why.into()), String::new());
                for op in stops {
                    self.done(op, None, String::new());
                }
            }
        }
        // Another daemon may have come meanwhile.
        if let Some(next) = self.next.take() {
            self.start(next);
        }
    }

    /// Ends what runs: asked to, then killed after `grace` microseconds.
    fn end(&mut self, cause: Option<Cause>, grace: u64, op: Option<Op>) {
        let now = clock::boot();
        if let Some(hook) = &mut self.hook {
            hook.stops.extend(op);
            if op.is_none() && matches!(hook.before, Around::Start(..)) {
                hook.until = 0;
            }
            return self.look_at_hook();
        }
        let Some(run) = &mut self.run else {
            if let Some(op) = op {
                self.done(op, None, String::new());
            }
            return;
        };
        let kill_at = now.saturating_add(micros(grace));
        let fresh = run.ending.is_none();
        let ending =
            run.ending.get_or_insert_with(|| Ending { cause, kill_at, killed: false, look_at: now, stops: Vec::new() });
        ending.kill_at = ending.kill_at.min(kill_at);
        ending.stops.extend(op);
        if cause == Some(Cause::Guard) && ending.cause == Some(Cause::Stopped) && ending.stops.is_empty() {
            ending.cause = cause;
        }
        if ending.kill_at <= now {
            self.kill();
            self.look();
        } else if fresh && run.exited.is_none() {
            // Its session leads a group of the same number, which is its own until it was waited for.
            let group = i32::try_from(run.main.pid).unwrap_or_default();
            // SAFETY: no memory is passed.
            unsafe { libc::kill(-group, run.spec.stop_signal) };
            let _ = tree::signal(&run.handle, libc::SIGCONT);
        }
    }

    /// Kills everything below, the program first.
    fn kill(&mut self) {
        let Some(run) = &mut self.run else { return };
        if let Some(ending) = &mut run.ending {
            ending.killed = true;
            ending.look_at = clock::boot().saturating_add(LOOK);
        }
        let _ = tree::signal(&run.handle, libc::SIGKILL);
        self.group.kill();
        tree::kill_below(self.own);
    }

    fn start(&mut self, start: Start) {
        let now = clock::boot();
        if self.hook.is_some() {
            if let Some(before) = self.next.replace(start) {
                self.done(before.op, Some("another start came".into()), String::new());
            }
            return;
        }
        let Some(run) = &mut self.run else { return self.launch(start, None) };
        let same = run.spec == start.spec && (start.active || !run.active);
        if run.ending.is_some() || run.exited.is_some() || !same {
            let grace = run.spec.grace;
            if let Some(before) = self.next.replace(start) {
                self.done(before.op, Some("another start came".into()), String::new());
            }
            return self.end(Some(Cause::Stopped), grace, None);
        }
        if start.active && start.until <= now {
            return self.done(start.op, Some("its lease is over".into()), String::new());
        }
        // It runs: the daemon is new.
        let (pid, since, ready) = (run.main.pid, run.since, run.ready);
        let promote = start.active && !run.active;
        if promote {
            self.promote(start.op, start.epoch, start.until);
        } else {
            self.hold(start.epoch, start.until);
            self.done(start.op, None, "it ran already".into());
        }
        self.report(&Report::Began { pid, since });
        if ready {
            self.report(&Report::Ready);
        }
    }

    /// Starts a program, after its hook if it has one; `output` is there when that was so.
    fn launch(&mut self, start: Start, output: Option<PipeWriter>) {
        let now = clock::boot();
        let op = start.op;
        if start.active && start.until <= now {
            return self.done(op, Some("its lease is over".into()), String::new());
        }
        if output.is_none() && start.spec.hooks.before.is_some() {
            if let Err(error) = self.prepare(start) {
                self.done(op, Some(format!("the hook before the start: {error}")), String::new());
            }
            return;
        }
        match self.begin(start, output) {
            Ok((run, missing)) => {
                let (pid, since, ready) = (run.main.pid, run.since, run.ready);
                self.run = Some(run);
                self.arm();
                self.state.starts = self.state.starts.saturating_add(1);
                let note = if missing.is_empty() {
                    String::new()
                } else {
                    format!("not limited here, for want of control groups: {}", missing.join(", "))
                };
                self.done(op, None, note);
                self.report(&Report::Began { pid, since });
                if ready {
                    self.become_ready();
                }
            }
            Err(error) => self.done(op, Some(error.to_string()), String::new()),
        }
    }

    /// Starts the hook before a start.
    fn prepare(&mut self, start: Start) -> io::Result<()> {
        let spec = &start.spec;
        let Some(command) = &spec.hooks.before else { return Ok(()) };
        let output = logs::start(&self.folder, spec.log_bytes, spec.log_files)?;
        let (entries, _) = self.group.prepare(&spec.limits);
        let role = if start.active { "active" } else { "standby" };
        let more = [("APUS_ROLE", role.to_owned()), ("APUS_EPOCH", start.epoch.to_string())];
        let begun = spawn::start(spec, command, &self.folder, &more, &entries, &output)?;
        let until = clock::boot().saturating_add(micros(spec.hooks.within));
        let (child, before) = (begun.identity.pid, Around::Start(start, output));
        self.hook = Some(Hook { child, until, passed: None, before, stops: Vec::new() });
        Ok(())
    }

    fn begin(&mut self, start: Start, output: Option<PipeWriter>) -> io::Result<(Run, Vec<&'static str>)> {
        let Start { spec, active, epoch, until, .. } = start;
        let output = match output {
            Some(output) => output,
            None => logs::start(&self.folder, spec.log_bytes, spec.log_files)?,
        };
        let (entries, missing) = self.group.prepare(&spec.limits);
        let role = if active { "active" } else { "standby" };
        let more = [("APUS_ROLE", role.to_owned()), ("APUS_EPOCH", epoch.to_string())];
        let begun = spawn::start(&spec, &spec.command, &self.folder, &more, &entries, &output)?;
        // Without the note a later keeper could not find what this one left: better not to run.
        if let Err(error) = super::note_program(&self.folder, begun.identity) {
            let _ = tree::signal(&begun.handle, libc::SIGKILL);
            return Err(error);
        }
        let probe = match &spec.readiness {
            Readiness::Check { check, every } => Some(Probe::new(check.clone(), *every, (*every).max(1_000_000))),
            Readiness::Started | Readiness::Notify => None,
        };
        let run = Run {
            ready: spec.readiness == Readiness::Started,
            spec,
            main: begun.identity,
            handle: begun.handle,
            output,
            entries,
            active,
            epoch,
            until: if active { until } else { NO_LEASE },
            since: clock::boot(),
            exited: None,
            ending: None,
            probe,
            promoting: None,
            beats: BTreeMap::new(),
            captured: None,
        };
        Ok((run, missing))
    }

    fn become_ready(&mut self) {
        let Some(run) = self.run.as_mut().filter(|run| run.ending.is_none()) else { return };
        let fresh = !std::mem::replace(&mut run.ready, true);
        let live = &run.spec.liveness;
        run.probe = live.as_ref().map(|live| Probe::new(live.check.clone(), live.every, live.within));
        if fresh || run.spec.readiness == Readiness::Started {
            self.report(&Report::Ready);
        }
    }

    /// A try of the probe has ended.
    fn probed(&mut self, passed: bool) {
        let Some(run) = &mut self.run else { return };
        let Some(probe) = run.probe.as_mut().filter(|probe| probe.trying.is_some()) else { return };
        if let Some(child) = probe.child
            && !passed
        {
            // It leads a session of its own; if it was waited for already, nothing of that number is ours and nothing is hit.
            for stat in tree::descendants(self.own).iter().filter(|stat| stat.session == child) {
                tree::signal_to(stat.identity, libc::SIGKILL);
            }
        }
        probe.end();
        if !passed || run.ending.is_some() {
            return;
        }
        if !run.ready {
            self.become_ready();
        } else if let Some(live) = &run.spec.liveness {
            run.beats.insert(live.thread, live.promise);
        }
    }

    /// The lease lasts longer, or is over.
    fn hold(&mut self, epoch: u64, until: u64) {
        let mut waiting: Vec<&mut Start> = self.next.iter_mut().collect();
        if let Some(Hook { before: Around::Start(start, _), .. }) = &mut self.hook {
            waiting.push(start);
        }
        for start in waiting.into_iter().filter(|start| start.active && start.epoch <= epoch) {
            start.until = if until == 0 { 0 } else { start.until.max(until) };
        }
        if self.hook.is_some() {
            return self.look_at_hook();
        }
        let Some(run) = self.run.as_mut().filter(|run| run.active) else { return };
        if epoch < run.epoch {
            return;
        }
        if until == 0 {
            run.until = 0;
            self.arm();
            return self.end(Some(Cause::Guard), 0, None);
        }
        if epoch > run.epoch || until > run.until || run.until == NO_LEASE {
            (run.epoch, run.until) = (epoch, until);
            self.arm();
        }
    }

    fn promote(&mut self, op: Op, epoch: u64, until: u64) {
        let now = clock::boot();
        let Some(run) = self.run.as_mut().filter(|run| run.ending.is_none() && run.exited.is_none()) else {
            return self.done(op, Some("nothing runs".into()), String::new());
        };
        if until <= now || epoch < run.epoch {
            return self.done(op, Some("its lease is over".into()), String::new());
        }
        if run.active {
            self.hold(epoch, until);
            return self.done(op, None, String::new());
        }
        (run.active, run.epoch, run.until) = (true, epoch, until);
        let Some(command) = run.spec.promote.clone() else {
            let asked = tree::signal(&run.handle, libc::SIGUSR1);
            self.arm();
            return self.done(op, asked.err().map(|error| error.to_string()), String::new());
        };
        let more = [
            ("APUS_ROLE", "active".to_owned()),
            ("APUS_EPOCH", epoch.to_string()),
            ("APUS_PID", run.main.pid.to_string()),
        ];
        let begun = spawn::start(&run.spec, &command, &self.folder, &more, &run.entries, &run.output);
        match begun {
            Ok(begun) => {
                let until = now.saturating_add(PROMOTE);
                run.promoting = Some(Promoting { op, child: begun.identity.pid, until });
                self.arm();
            }
            Err(error) => {
                self.arm();
                self.done(op, Some(error.to_string()), String::new());
                self.end(Some(Cause::Stopped), 0, None);
            }
        }
    }

    /// The promote hook has ended. One that failed leaves a copy of which nobody knows what it is: it ends.
    fn promoted(&mut self, passed: bool) {
        let Some(promoting) = self.run.as_mut().and_then(|run| run.promoting.take()) else { return };
        if passed {
            self.done(promoting.op, None, String::new());
        } else {
            self.done(promoting.op, Some("the promote hook failed".into()), String::new());
            self.end(Some(Cause::Stopped), 0, None);
        }
    }

    fn capture(&mut self, op: Op) {
        let mut pids: Vec<u32> = tree::descendants(self.own).iter().map(|stat| stat.identity.pid).collect();
        if let Some(main) = self.run.as_ref().map(|run| run.main.pid) {
            pids.retain(|pid| *pid != main);
            pids.insert(0, main);
        }
        let (to, folder) = (self.wake.1.clone(), self.folder.clone());
        let begun = std::thread::Builder::new().name("capture".into()).spawn(move || {
            let note = match capture::capture(&folder, &pids) {
                Ok(path) => path.display().to_string(),
                Err(error) => format!("no evidence: {error}"),
            };
            let (op, link) = (op.0.to_le_bytes(), op.1.to_le_bytes());
            let _ = to.send(&[&[CAPTURED][..], &op, &link, note.as_bytes()].concat());
        });
        if let Err(error) = begun {
            self.done(op, None, format!("no evidence: {error}"));
        }
    }

    /// The stacks are kept. Where a core is wanted the program ends now, by what makes the system write one, in bounded time; its end
    /// is no failure of its own.
    fn captured(&mut self, op: Op, note: String) {
        let now = clock::boot();
        let Some(run) = self.run.as_mut().filter(|run| run.spec.core.is_some() && run.exited.is_none()) else {
            return self.done(op, None, note);
        };
        if run.ending.is_some() {
            return self.done(op, None, note);
        }
        let (cause, kill_at) = (Some(Cause::Stopped), now.saturating_add(CORE));
        run.ending = Some(Ending { cause, kill_at, killed: false, look_at: now, stops: Vec::new() });
        run.captured = Some((op, note));
        let _ = tree::signal(&run.handle, libc::SIGABRT);
        let _ = tree::signal(&run.handle, libc::SIGCONT);
    }

    fn on_wake(&mut self) {
        let mut bytes = [0; 4_096];
        while let Ok(many) = self.wake.0.recv(&mut bytes) {
            match bytes[..many] {
                [PROBED, a, b, c, d, passed] => {
                    let number = u32::from_le_bytes([a, b, c, d]);
                    let probe = self.run.as_ref().and_then(|run| run.probe.as_ref());
                    if probe.is_some_and(|probe| probe.trying.is_some_and(|(tried, _)| tried == number)) {
                        self.probed(passed == 1);
                    }
                }
                [CAPTURED, a, b, c, d, e, f, g, h, i, j, k, l, ref note @ ..] => {
                    let op = Op(u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([i, j, k, l]));
                    self.captured(op, String::from_utf8_lossy(note).into_owned());
                }
                _ => {}
            }
        }
    }

    /// Words of the program, or of somebody who would like to be it.
    fn on_words(&mut self) {
        for _ in 0..256 {
            let Some(heard) = self.ear.hear() else { return };
            let own = heard.pid != self.own && tree::descends(heard.pid, self.own);
            let Some(run) = self.run.as_mut().filter(|_| own) else {
                self.state.strangers = self.state.strangers.saturating_add(1);
                continue;
            };
            let mut ready = false;
            for said in &heard.said {
                let beat = match said {
                    Said::Ready => {
                        ready = !run.ready && run.spec.readiness == Readiness::Notify;
                        continue;
                    }
                    Said::Watchdog => run.spec.watchdog.map(|promise| (0, promise)),
                    // A promise that is broken at once.
                    Said::Trigger => Some((0, 1)),
                    Said::Beat { thread, timeout } => Some((*thread, *timeout)),
                    Said::Status(_) => None,
                };
                if let Some((thread, timeout)) = beat
                    && (run.beats.len() < MOST_THREADS || run.beats.contains_key(&thread))
                {
                    run.beats.insert(thread, timeout);
                }
            }
            if ready {
                self.become_ready();
            }
        }
    }

    fn send_beats(&mut self) {
        let now = clock::boot();
        let unread = self.link.as_ref().is_none_or(|link| !link.known || !link.unsent.is_empty());
        if unread || now.saturating_sub(self.beats_sent) < BEATS {
            return;
        }
        let Some(run) = self.run.as_mut().filter(|run| !run.beats.is_empty()) else { return };
        for (thread, timeout) in std::mem::take(&mut run.beats) {
            self.report(&Report::Beat { thread, timeout });
        }
        self.beats_sent = now;
    }

    /// A daemon comes: the newest is the one that counts.
    fn on_comer(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() && may_order(&stream) {
                self.links = self.links.wrapping_add(1);
                self.link = Some(Link { stream, unread: Vec::new(), unsent: Vec::new(), known: false });
            }
        }
    }

    fn on_daemon(&mut self) {
        let mut bytes = [0; 65_536];
        loop {
            let Some(link) = &mut self.link else { return };
            match link.stream.read(&mut bytes) {
                Ok(0) => return self.unlink(),
                Ok(many) => link.unread.extend(&bytes[..many]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.unlink(),
            }
            while let Some(link) = &mut self.link {
                match frame_length(&link.unread) {
                    Ok(Some(length)) if link.unread.len() >= length => {
                        let frame: Vec<u8> = link.unread.drain(..length).collect();
                        match decode_order(&frame) {
                            Ok(order) => self.obey(order),
                            Err(_) => self.unlink(),
                        }
                    }
                    Ok(_) => break,
                    Err(_) => self.unlink(),
                }
            }
        }
    }

    fn unlink(&mut self) {
        self.link = None;
        self.idle_since = clock::boot();
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Hello { .. } => {
                if let Some(link) = &mut self.link {
                    link.known = true;
                }
                let state = State { runs: self.run.as_ref().map(Run::told), ..self.state.clone() };
                self.report(&Report::State(state));
            }
            Order::Start { op, spec, active, epoch, until } => {
                self.start(Start { op: Op(op, self.links), spec, active, epoch, until });
            }
            Order::Promote { op, epoch, until } => self.promote(Op(op, self.links), epoch, until),
            Order::Lease { epoch, until } => self.hold(epoch, until),
            Order::Release { op, epoch } => {
                let op = Op(op, self.links);
                self.forget_next(|next| next.active && next.epoch <= epoch, "its lease is over");
                let prepared = match self.hook.as_ref().map(|hook| &hook.before) {
                    Some(Around::Start(start, _)) => start.active && start.epoch <= epoch,
                    Some(Around::End(..)) => true,
                    None => false,
                };
                if prepared || self.run.as_ref().is_some_and(|run| run.active && run.epoch <= epoch) {
                    self.end(Some(Cause::Guard), 0, Some(op));
                } else {
                    self.done(op, None, String::new());
                }
            }
            Order::Stop { op, grace } => {
                self.forget_next(|_| true, "it was stopped");
                self.end(Some(Cause::Stopped), grace, Some(Op(op, self.links)));
            }
            Order::Capture { op } => self.capture(Op(op, self.links)),
            Order::Leave => self.leave = true,
        }
    }

    /// Does not start what waits for the present program's end, if it is such.
    fn forget_next(&mut self, such: impl Fn(&Start) -> bool, why: &str) {
        if let Some(next) = self.next.take_if(|next| such(next)) {
            self.done(next.op, Some(why.into()), String::new());
        }
    }

    fn done(&mut self, Op(op, link): Op, wrong: Option<String>, note: String) {
        if link == self.links {
            self.report(&Report::Done { op, wrong, note });
        }
    }

    fn report(&mut self, report: &Report) {
        if let Some(link) = self.link.as_mut().filter(|link| link.known) {
            link.unsent.extend(encode_report(report));
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        while !link.unsent.is_empty() {
            match link.stream.write(&link.unsent) {
                Ok(many) => {
                    link.unsent.drain(..many);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.unlink(),
            }
        }
        if link.unsent.len() > MOST_UNREAD || link.unread.len() > LONGEST + 4 {
            self.unlink();
        }
    }
}

impl Run {
    fn told(&self) -> Runs {
        Runs {
            main: self.main,
            active: self.active,
            epoch: self.epoch,
            until: self.until,
            since: self.since,
            ready: self.ready,
            ending: self.ending.is_some() || self.exited.is_some(),
        }
    }
}

/// The owner of this process, or root.
fn may_order(stream: &UnixStream) -> bool {
    let mut who = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or_default();
    let fd = stream.as_raw_fd();
    let place = (&raw mut who).cast();
    // SAFETY: the value outlives the call and is as long as is said.
    let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length) };
    // SAFETY: no memory is passed.
    got == 0 && (who.uid == 0 || who.uid == unsafe { libc::geteuid() })
}

/// Those that come as something to read.
fn signals() -> io::Result<OwnedFd> {
    // SAFETY: all of a set of signals may be zero, and is then set as an empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set outlives the call.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the set outlives the call.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the set outlives the call; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: the set outlives the call.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
