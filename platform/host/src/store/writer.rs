//! Group commit: what arrives while one batch is synced makes the next one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use apus_engine::{OpId, Outcome, Record};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Disk, Store, is_full};

#[derive(Debug, Default)]
struct Queues {
    waiting: RefCell<VecDeque<(OpId, Record)>>,
    done: RefCell<VecDeque<(OpId, Outcome)>>,
    work: Notify,
    answers: Notify,
}

/// Writes records in a task of its own. Dropping it ends the task.
#[derive(Debug)]
pub struct Writer {
    queues: Rc<Queues>,
    task: JoinHandle<()>,
}

impl<D: Disk> Store<D> {
    /// Starts writing, in the current [`LocalSet`](tokio::task::LocalSet).
    #[must_use]
    pub fn spawn(self) -> Writer {
        let queues = Rc::new(Queues::default());
        let task = tokio::task::spawn_local(write_on(self, queues.clone()));
        Writer { queues, task }
    }
}

impl Writer {
    /// Queues a record behind all earlier ones. The engine bounds how many wait.
    pub fn write(&self, op: OpId, record: Record) {
        self.queues.waiting.borrow_mut().push_back((op, record));
        self.queues.work.notify_one();
    }

    /// Waits for the next operation that is done, in the order of writing. Cancel-safe.
    ///
    /// # Panics
    /// If the writing task did: a node without a disk must not go on.
    pub async fn next(&mut self) -> (OpId, Outcome) {
        loop {
            if let Some(done) = self.queues.done.borrow_mut().pop_front() {
                return done;
            }
            tokio::select! {
                biased;
                () = self.queues.answers.notified() => {}
                ended = &mut self.task => match ended {
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    _ => std::future::pending().await,
                }
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_on<D: Disk>(mut store: Store<D>, queues: Rc<Queues>) {
    let mut failed = false;
    loop {
        let batch: Vec<(OpId, Record)> = {
            let mut waiting = queues.waiting.borrow_mut();
            let many = waiting.len().min(store.settings.batch.max(1));
            waiting.drain(..many).collect()
        };
        if batch.is_empty() {
            // Idle: the last batch gets its mark now, not with the next one.
            failed = failed || store.mark().await.is_err();
            queues.work.notified().await;
            continue;
        }
        let (ops, records): (Vec<OpId>, Vec<Record>) = batch.into_iter().unzip();
        // After a failed sync nobody knows what the disk holds, and a second sync that succeeds proves nothing.
        let outcome = if failed {
            Outcome::DiskFailed
        } else {
            match store.append(&records).await {
                Ok(()) => Outcome::Ok,
                Err(error) if is_full(&error) => Outcome::DiskFull,
                Err(_) => {
                    failed = true;
                    Outcome::DiskFailed
                }
            }
        };
        queues.done.borrow_mut().extend(ops.into_iter().map(|op| (op, outcome)));
        queues.answers.notify_one();
    }
}
