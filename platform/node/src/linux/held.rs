//! The engine of a running node, and the record of what it is fed.

use std::ops::Deref;
use std::time::{SystemTime, UNIX_EPOCH};

use apus_engine::views::Order;
use apus_engine::{Command, Engine, Input, SubmitError, Time};
use apus_host::record::{self, Act, Recorder, Settings};

use super::Say;
use crate::Config;

/// An engine that is fed through its recorder, and looked at as itself.
pub(super) struct Held {
    engine: Engine,
    recorder: Option<Recorder>,
    /// It was said that the disk does not take the record.
    told: bool,
    say: Say,
}

/// Microseconds since 1970 began.
fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl Held {
    /// An engine that was made just now. A node whose record cannot be kept runs without.
    pub(super) fn new(engine: Engine, config: &Config, say: &Say) -> Self {
        let folder = config.folder.join(record::FOLDER);
        let recorder = (config.record > 0).then(|| {
            Recorder::start(&folder, Settings::of(config.record), &engine, wall)
                .map_err(|error| say(&format!("{}: nothing is recorded: {error}", folder.display())))
        });
        Self { engine, recorder: recorder.and_then(Result::ok), told: false, say: say.clone() }
    }

    fn feed(&mut self, now: Time, act: Act) -> Result<(), SubmitError> {
        let Some(recorder) = &mut self.recorder else { return act.apply(&mut self.engine, now) };
        let result = recorder.feed(&mut self.engine, now, act);
        let missing = recorder.missing() > 0;
        if missing != self.told {
            self.told = missing;
            (self.say)(if missing { "the disk does not take the record: a gap" } else { "the record goes on" });
        }
        result
    }

    pub(super) fn handle(&mut self, now: Time, input: Input) {
        // An input is never refused.
        let _ = self.feed(now, Act::Input(input));
    }

    pub(super) fn submit(&mut self, now: Time, command: Command) -> Result<(), SubmitError> {
        self.feed(now, Act::Command(command))
    }

    pub(super) fn pass_on(&mut self, now: Time, order: Order) -> Result<(), SubmitError> {
        self.feed(now, Act::Order(order))
    }

    /// For the host loop, which drains it.
    pub(super) const fn lend(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Deref for Held {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}
