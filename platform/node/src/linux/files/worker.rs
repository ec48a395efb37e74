//! The thread of one group: it owns the copy on disk, and begins and ends the capture of programs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apus_capture::linux::{Capture, Guard, Mapped, Policy};
use apus_capture::{Drained, Drainer};
use apus_engine::shipping::{Answer, Happening, Work};
use apus_engine::{Input, Mode, OpId};
use apus_files::{Feed, Globs, Store};
use apus_fuse::Outside;
use tokio::sync::mpsc;

use super::super::{Note, Say};
use super::last::{self, Last};
use super::mount::{self, Mount};
use super::queue::Queue;
use super::strangers;
use crate::{Group, Guarded};

/// A disk that could not be opened is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);
/// What a copy's status is worth, while nothing else happens.
const FRESH: Duration = Duration::from_millis(100);
/// Notes of one kind in a row that are said.
const NOTES: usize = 8;

/// What a group's thread is given.
pub(super) struct Settings {
    pub(super) group: Group,
    /// The group of users whose programs record.
    pub(super) owner: Option<u32>,
    pub(super) queue: Arc<Queue>,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) say: Say,
    /// Takes down what an operator may ask for later.
    pub(super) note: Note,
}

/// Starts it. It ends by [`Queue::end`].
pub(super) fn start(settings: Settings) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("files {}", settings.group.name)).spawn(move || run(settings))
}

fn run(settings: Settings) {
    let mut told = String::new();
    let mut outside = None;
    while !settings.queue.is_over() {
        match Worker::new(&settings, &mut outside) {
            Ok(mut worker) => {
                settings.queue.change(|state| state.trouble = None);
                worker.work();
                return;
            }
            Err(why) => {
                settings.queue.change(|state| state.trouble = Some(why.clone()));
                if told != why {
                    (settings.say)(&format!("files `{}`: {why}", settings.group.name));
                    told = why;
                }
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// Bytes of captured changes that may wait for the log in memory.
const UNLOGGED: u64 = 64 << 20;

/// Programs are captured.
struct Capturing {
    stop: Arc<AtomicBool>,
    /// The drainer stops for this too.
    pause: Arc<AtomicBool>,
    last: Arc<Last>,
    ring: Arc<Capture>,
    drains: JoinHandle<()>,
    guards: Option<JoinHandle<()>>,
    mount: Option<Mount>,
}

impl Capturing {
    /// Programs have ended: the drainer takes what is left, and wakes the group's thread.
    fn programs_ended(&self) {
        if let Some(mount) = &self.mount {
            // What it still has to write is the last that comes.
            mount.end();
        }
        self.last.programs_ended();
        self.pause.store(true, Ordering::SeqCst);
        self.ring.rouse();
    }

    /// Ends it; the guard has answered its last question when the thread that is given has ended.
    fn end(self) -> Option<JoinHandle<()>> {
        if let Some(mount) = &self.mount {
            mount.leave();
        }
        self.stop.store(true, Ordering::SeqCst);
        self.pause.store(true, Ordering::SeqCst);
        self.ring.rouse();
        let _ = self.drains.join();
        self.guards
    }
}

struct Worker<'s> {
    settings: &'s Settings,
    store: Store,
    /// Where all others are, if this thread sees the tree below the group's mount.
    outside: Option<Arc<Outside>>,
    capturing: Option<Capturing>,
    /// The guard of an earlier ring.
    guarded: Option<JoinHandle<()>>,
    /// Done once all that programs left is taken.
    close: Option<Work>,
    /// When this is answered, no program changes the files any more.
    closing: Option<OpId>,
    /// The ring of programs that have ended, until the files are closed.
    spent: bool,
    looked: Option<Instant>,
}

impl<'s> Worker<'s> {
    fn new(settings: &'s Settings, outside: &mut Option<Arc<Outside>>) -> Result<Self, String> {
        let (group, ring) = (&settings.group, &settings.queue.ring);
        if group.capture == crate::Capture::Fuse && outside.is_none() {
            let apart = apus_fuse::apart(&group.root).map_err(|error| format!("{}: {error}", group.root.display()))?;
            *outside = Some(Arc::new(apart));
        }
        if settings.queue.captured().is_none() && ring.exists() {
            // Whoever runs still has a lease that is renewed, however long it takes to read the disk.
            settings.queue.set_ring(Capture::at(ring).ok().map(Arc::new));
        }
        let store = Store::open(apus_files::Settings {
            group: group.engine.id,
            root: group.root.clone(),
            state: group.state.clone(),
            globs: Globs::new(&group.patterns),
            log_bytes: group.engine.log_bytes,
        });
        let store = store.map_err(|error| error.to_string())?;
        let (close, closing, spent, looked) = (None, None, false, None);
        let outside = outside.clone();
        let mut worker =
            Self { settings, store, outside, capturing: None, guarded: None, close, closing, spent, looked };
        if worker.store.open_era().is_some() && ring.exists() {
            // A program may be writing still; what it did meanwhile lies in the ring.
            if let Err(why) = worker.capture() {
                if Mapped::at(ring).is_ok_and(|mapped| mapped.by_others()) {
                    return Err(why);
                }
                worker.say(&format!("{why}; no program has it any more, and the copy goes on without what is in it"));
                worker.store.end_feed();
            }
        }
        if worker.capturing.is_none() {
            settings.queue.set_ring(None);
            if let Some(outside) = &worker.outside {
                mount::none(group, &settings.queue, &settings.say, outside)?;
            }
        }
        worker.status();
        Ok(worker)
    }

    fn say(&self, what: &str) {
        (self.settings.say)(&format!("files `{}`: {what}", self.settings.group.name));
    }

    fn tell(&self, what: Happening) {
        let _ = self.settings.inputs.send(Input::Files { group: self.settings.group.engine.id, what });
    }

    fn work(&mut self) {
        loop {
            let works = self.settings.queue.take();
            if self.settings.queue.is_over() {
                self.store.end_feed();
                self.capturing.take().map(Capturing::end);
                return;
            }
            self.carry_out(works);
            self.let_go();
            self.name_files();
            self.status();
            let alarms = self.store.alarms();
            let left_out = alarms.len().saturating_sub(NOTES);
            alarms.iter().take(NOTES).for_each(|alarm| self.say(alarm));
            if left_out > 0 {
                self.say(&format!("and {left_out} more of that kind"));
            }
        }
    }

    /// What stands by itself is done alone, all else as it came, at once.
    fn carry_out(&mut self, works: Vec<Work>) {
        let (free, works): (Vec<Work>, Vec<Work>) =
            works.into_iter().partition(|work| matches!(work, Work::Release { .. }));
        self.perform(free);
        if let (Some(record), Some(ring)) = (self.store.released(), self.settings.queue.captured()) {
            ring.release(record);
        }
        self.try_close();
        let mut run = Vec::new();
        for work in works {
            if let (Work::Close { .. }, Some(capturing)) = (&work, &self.capturing) {
                capturing.programs_ended();
                self.close = Some(work);
            } else if matches!(work, Work::Find | Work::Open { .. }) {
                self.perform(std::mem::take(&mut run));
                self.alone(&work);
            } else {
                run.push(work);
            }
        }
        self.perform(run);
    }

    /// Closes the files once the drainer has come to the end.
    fn try_close(&mut self) {
        let all = self.capturing.as_ref().and_then(|capturing| capturing.last.all());
        let (Some(all), Some(close)) = (all, self.close.take_if(|_| all.is_some())) else { return };
        if !all {
            self.store.lose("what programs did last cannot be taken");
        }
        // Its thread has ended: what others may still record is in no history.
        self.store.stop_feed();
        self.perform(vec![close]);
    }

    /// A ring is needed until all that came from it is in the log.
    fn let_go(&mut self) {
        if !self.spent || self.store.open_era().is_some() {
            return;
        }
        self.spent = false;
        let ring = &self.settings.queue.ring;
        if let Err(error) = std::fs::remove_file(ring)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.say(&format!("{}: {error}", ring.display()));
        }
    }

    fn alone(&mut self, work: &Work) {
        if *work == Work::Find {
            match self.store.found() {
                Ok(found) => self.tell(Happening::Found(found)),
                Err(error) => self.say(&format!("{error}; this copy takes no part until the node is started anew")),
            }
            return self.happened();
        }
        let Some((op, mut answer)) = self.store.perform(work) else { return self.happened() };
        if answer == Answer::Done
            && self.capturing.is_none()
            && let Err(why) = self.capture_anew()
        {
            self.say(&format!("its programs cannot be captured: {why}"));
            answer = Answer::Failed;
        }
        self.happened();
        self.tell(Happening::Done { op, answer });
    }

    fn perform(&mut self, works: Vec<Work>) {
        let closes = works.iter().find_map(|work| if let Work::Close { op } = work { Some(*op) } else { None });
        self.closing = closes.or(self.closing);
        let done = if works.is_empty() { Vec::new() } else { self.store.perform_all(works) };
        self.happened();
        for (op, answer) in done {
            self.done(op, answer);
        }
    }

    fn happened(&mut self) {
        for what in self.store.happened() {
            match what {
                Happening::Done { op, answer } => self.done(op, answer),
                other => self.tell(other),
            }
        }
    }

    fn done(&mut self, op: OpId, answer: Answer) {
        self.tell(Happening::Done { op, answer });
        if self.closing.take_if(|closes| *closes == op).is_some() {
            self.close();
        }
    }

    /// A new ring: what was recorded in an old one is of another time.
    fn capture_anew(&mut self) -> Result<(), String> {
        let (group, ring) = (&self.settings.group, &self.settings.queue.ring);
        self.spent = false;
        if let Some(guard) = self.guarded.take() {
            // It would take who records in the new ring for a stranger.
            let _ = guard.join();
        }
        match std::fs::remove_file(ring) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", ring.display()));
            }
            _ => {}
        }
        let patterns: Vec<&str> = group.patterns.iter().map(String::as_str).collect();
        let capture = apus_capture::Group {
            ring_bytes: group.ring_bytes,
            mode: if self.settings.owner.is_some() { 0o660 } else { 0o600 },
            owner_group: self.settings.owner,
            ..apus_capture::Group::new(&group.root, &patterns)
        };
        capture.create(ring).map_err(|error| format!("{}: {error}", ring.display()))?;
        self.capture()
    }

    /// Drains the ring that is there. Once this returns all is taken that lay in it by now, but for what waits for a program.
    fn capture(&mut self) -> Result<(), String> {
        let (queue, group) = (&self.settings.queue, &self.settings.group);
        let at = |error: io::Error| format!("{}: {error}", queue.ring.display());
        let ring = Arc::new(Capture::at(&queue.ring).map_err(at)?);
        let mut drainer = Drainer::open(&queue.ring).map_err(at)?;
        let wakes = queue.clone();
        let mut feed =
            self.store.feed(&queue.ring, Box::new(move || wakes.wake())).map_err(|error| error.to_string())?;
        ring.wait_for_release(group.engine.mode != Mode::Async);
        queue.set_ring(Some(ring.clone()));
        // Not what comes meanwhile: a program may be faster.
        let next = ring.status().next;
        while drainer.drain(&mut feed).map_err(at)? == Drained::Some && feed.taken() + 1 < next {}
        // Until here it is this thread that would have to log it.
        feed.limit(UNLOGGED);
        let begin = |outside| Mount::start(group, queue, &self.settings.say, outside);
        let mount = self.outside.as_ref().map(begin).transpose()?;
        let (stop, pause, last) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let guards = self.guard(&stop);
        let drains = self.drain(drainer, feed, (&stop, &pause, &last)).map_err(|error| format!("a thread: {error}"))?;
        self.capturing = Some(Capturing { stop, pause, last, ring, drains, guards, mount });
        Ok(())
    }

    fn drain(
        &self,
        mut drainer: Drainer,
        mut feed: Feed,
        (stop, pause, last): (&Arc<AtomicBool>, &Arc<AtomicBool>, &Arc<Last>),
    ) -> io::Result<JoinHandle<()>> {
        let (stop, pause, last, wakes) = (stop.clone(), pause.clone(), last.clone(), self.settings.queue.clone());
        let (say, name) = (self.settings.say.clone(), self.settings.group.name.clone());
        std::thread::Builder::new().name(format!("drain {name}")).spawn(move || {
            let mut before = String::new();
            let mut told = |error: &str| {
                if error != before {
                    say(&format!("files `{name}`: what programs do cannot be taken: {error}; it is tried again"));
                    error.clone_into(&mut before);
                }
            };
            // What the consumer refuses it is given again.
            while !stop.load(Ordering::SeqCst) {
                if last.is_wanted() {
                    let all = last::take(&mut drainer, &mut feed, &stop, &mut told);
                    last.came(all);
                    return wakes.wake();
                }
                if let Err(error) = drainer.run(&mut feed, &pause) {
                    told(&error.to_string());
                    std::thread::sleep(Duration::from_millis(100));
                }
                for note in drainer.notes().iter().take(NOTES) {
                    say(&format!("files `{name}`: {note}"));
                }
            }
        })
    }

    /// Watches for programs that are not captured.
    fn guard(&self, stop: &Arc<AtomicBool>) -> Option<JoinHandle<()>> {
        let policy = match self.settings.group.guard {
            Guarded::Refuse => Policy::Refuse,
            Guarded::Mark => Policy::Mark,
            Guarded::Off => return None,
        };
        match Guard::new(&self.settings.queue.ring, policy) {
            Ok(guard) => strangers::watch(guard, self.settings, stop.clone()).ok(),
            Err(error) => {
                self.say(&format!("{error}; nobody sees programs that change files without being captured"));
                None
            }
        }
    }

    /// No program changes the files any more, and all that it did is told: the ring is of no use.
    fn close(&mut self) {
        self.settings.queue.set_ring(None);
        if let Some(capturing) = self.capturing.take() {
            self.guarded = capturing.end();
        }
        self.spent = true;
    }

    /// Tells paths that somebody asks for.
    fn name_files(&self) {
        let wanted = self.settings.queue.state().wanted;
        if wanted.is_empty() {
            return;
        }
        let paths: Vec<_> = wanted.iter().map(|file| (*file, self.store.path(*file))).collect();
        self.settings.queue.change(|state| {
            state.wanted.clear();
            // What nobody asks for any more goes with the next question.
            state.paths = paths.into_iter().collect();
        });
    }

    fn status(&mut self) {
        if self.looked.is_none_or(|at| at.elapsed() > FRESH) {
            self.looked = Some(Instant::now());
            let status = self.store.status();
            self.settings.queue.change(|state| state.store = Some(status));
        }
    }
}
