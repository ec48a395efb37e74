//! The recorder: whoever feeds an engine does it here.

use std::io;
use std::path::Path;

use apus_engine::{BUILD, Engine, Micros, SubmitError, Time};

use super::file::{Act, After, END, FRAME, Reason, START, STEP, Start, encode, put_frame, put_step};
use super::ring::{Ring, Settings};

/// After a failure of the disk it is left alone for so long.
const AGAIN: Micros = Micros::from_secs(5);

/// Records one life of an engine.
///
/// A segment begins with the engine's state, so that a replay needs nothing that the ring no longer holds: a node that runs for
/// months has lost its beginning, and a state is small against a segment.
#[derive(Debug)]
pub struct Recorder {
    ring: Ring,
    settings: Settings,
    wall: fn() -> u64,
    /// The number of the next segment.
    next: u64,
    /// Bytes of the present segment.
    length: usize,
    /// A segment is full at so many.
    full: usize,
    steps: u64,
    after: After,
    state: State,
    #[cfg(test)]
    pub(super) planted: Option<super::tests::Planted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A segment shall begin.
    Due(Reason),
    Runs,
    /// The disk does not take it: so many steps are missing, and nothing is tried before then.
    Lost {
        steps: u64,
        until: Time,
    },
}

impl Recorder {
    /// Records an engine that was made just now, into this folder. `wall` is the wall clock, in microseconds since 1970 began; it is
    /// asked once a segment, and only told.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn start(folder: &Path, settings: Settings, engine: &Engine, wall: fn() -> u64) -> io::Result<Self> {
        let (ring, next) = Ring::open(folder, settings)?;
        Ok(Self {
            ring,
            settings,
            wall,
            next,
            length: 0,
            full: settings.segment,
            steps: 0,
            after: After::of(&engine.marks()),
            state: State::Due(Reason::Boot),
            #[cfg(test)]
            planted: None,
        })
    }

    /// Does this to the engine, and records it.
    ///
    /// # Errors
    /// As the engine refuses a command or an order.
    pub fn feed(&mut self, engine: &mut Engine, now: Time, act: Act) -> Result<(), SubmitError> {
        self.write(engine, now, &act);
        let result = act.apply(engine, now);
        self.after = After::of(&engine.marks());
        self.steps += 1;
        result
    }

    /// Steps of this life so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Waits until the disk has all that was given to it.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        self.ring.settle();
    }

    /// Steps that are missing since the last segment ended, because the disk does not take them.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        match self.state {
            State::Lost { steps, .. } => steps,
            State::Due(_) | State::Runs => 0,
        }
    }

    fn write(&mut self, engine: &Engine, now: Time, act: &Act) {
        if let State::Lost { until, .. } = self.state
            && now >= until
            && self.ring.has_room(self.settings.queue / 2)
        {
            self.state = State::Due(Reason::Gap);
        }
        if self.state == State::Runs && self.length >= self.full {
            let mut end = Vec::with_capacity(64);
            put_frame(&mut end, END, |out| self.after.put(out));
            self.state = if self.ring.append(end) { State::Due(Reason::Full) } else { self.lost(0, now) };
        }
        if let State::Due(reason) = self.state {
            self.begin(engine, now, reason);
            self.state = State::Runs;
        }
        if let State::Lost { steps, until } = self.state {
            self.state = State::Lost { steps: steps + 1, until };
            return;
        }
        let mut frame = Vec::with_capacity(FRAME + 128);
        let drained = engine.is_drained();
        #[cfg(test)]
        let (now, drained, act) = &super::tests::plant(self.planted, now, drained, act);
        #[cfg(test)]
        let (now, drained) = (*now, *drained);
        put_frame(&mut frame, STEP, |out| put_step(out, &self.after, drained, now, act));
        self.length += frame.len();
        if !self.ring.append(frame) {
            self.state = self.lost(1, now);
        }
    }

    fn lost(&self, steps: u64, now: Time) -> State {
        State::Lost { steps, until: now + AGAIN }
    }

    fn begin(&mut self, engine: &Engine, now: Time, reason: Reason) {
        // What the engine's marks are before the step, drained or not, is what the next step shall find.
        self.after = After::of(&engine.marks());
        let start = Start {
            build: BUILD.into(),
            node: engine.config().me,
            incarnation: engine.incarnation(),
            segment: self.next,
            before: self.steps,
            reason,
            now,
            wall: (self.wall)(),
            engine: encode(engine),
        };
        let mut frame = Vec::with_capacity(start.engine.len() + 128);
        put_frame(&mut frame, START, |out| out.extend_from_slice(&encode(&start)));
        self.length = frame.len();
        // A large state is not written too often.
        self.full = self.settings.segment.max(4 * frame.len());
        self.ring.begin(self.next, frame);
        self.next += 1;
    }
}

/// The last step's hashes are kept too.
impl Drop for Recorder {
    fn drop(&mut self) {
        // After a panic the state is whatever it is: the step that led to it stays the last one, without hashes.
        if self.state == State::Runs && !std::thread::panicking() {
            let mut end = Vec::with_capacity(64);
            put_frame(&mut end, END, |out| self.after.put(out));
            self.ring.append(end);
        }
    }
}
