//! The loop.

use std::future::Future;

use apus_engine::{Deadline, Engine, Input, Output, Time};

/// Where the engine lives: with the loop, or where a control socket or a simulator looks at it between two turns.
pub trait Hold {
    /// Lends the engine; `None` once it has been taken away, which ends the loop.
    fn with<T>(&mut self, act: impl FnOnce(&mut Engine) -> T) -> Option<T>;

    /// Feeds the engine. Who records what it is fed does so here.
    fn feed(&mut self, now: Time, input: Input) -> Option<()> {
        self.with(|engine| engine.handle(now, input))
    }
}

impl Hold for Engine {
    fn with<T>(&mut self, act: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        Some(act(self))
    }
}

/// Executes outputs and yields inputs.
pub trait Backend {
    /// Why a node cannot go on.
    type Error;

    /// The node's monotonic clock.
    fn now(&self) -> Time;

    /// Starts one output. It cannot wait: slow work is answered later, by an input with the same operation.
    ///
    /// # Errors
    /// If the node cannot go on. What is slow or refused is no error.
    fn execute(&mut self, output: Output) -> Result<(), Self::Error>;

    /// Waits for the next input, and for [`Input::Tick`] no later than `deadline`; early ticks are harmless. `None` ends the loop.
    ///
    /// # Errors
    /// If the node cannot go on.
    fn next(&mut self, deadline: Option<Deadline>) -> impl Future<Output = Result<Option<Input>, Self::Error>>;
}

/// Runs a node until its backend ends it: drain, wait, feed.
///
/// # Errors
/// What the backend reports.
pub async fn run<B: Backend>(mut engine: impl Hold, mut backend: B) -> Result<(), B::Error> {
    loop {
        while let Some(output) = engine.with(Engine::poll_output).flatten() {
            backend.execute(output)?;
        }
        let Some(deadline) = engine.with(|engine| engine.deadline()) else { return Ok(()) };
        let Some(input) = backend.next(deadline).await? else { return Ok(()) };
        let now = backend.now();
        engine.feed(now, input);
    }
}
