//! Threads that serve. Each queue of requests has a few; if all of them wait for a disk or a barrier, there is one more.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backing::{self, Done};
use super::server::Server;

/// Threads that each queue begins with.
const FIRST: usize = 2;
/// How long a new thread may take to begin.
const SOON: Duration = Duration::from_secs(1);
/// The most threads of a queue.
const MOST: usize = 64;

thread_local! {
    static QUEUE: Cell<usize> = const { Cell::new(0) };
}

/// How the requests of a queue are taken until the mount is gone; what is called once they may come.
pub(super) type Work = Box<dyn Fn(&Arc<Server>, usize, &dyn Fn()) -> Done<()> + Send + Sync>;

/// Has a request made from a processor, which comes to the queue of that number.
pub(super) type Nudge = Box<dyn Fn(usize) + Send + Sync>;

#[derive(Default)]
struct Queue {
    all: AtomicUsize,
    /// Those that do not wait.
    free: AtomicUsize,
}

/// The threads of a mount.
pub(super) struct Lanes {
    server: Weak<Server>,
    queues: Vec<Queue>,
    work: Work,
    /// Where the kernel hands a request that waits to a thread only as one answers: a new one is given something to answer.
    nudge: Option<Nudge>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Lanes {
    pub(super) fn new(server: &Arc<Server>, queues: usize, nudge: Option<Nudge>, work: Work) -> Arc<Self> {
        let queues = (0..queues).map(|_| Queue::default()).collect();
        Arc::new(Self { server: Arc::downgrade(server), queues, work, nudge, threads: Mutex::default() })
    }

    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        for queue in 0..self.queues.len() {
            for _ in 0..FIRST {
                self.add(queue)?;
            }
        }
        Ok(())
    }

    /// One more thread for a queue; it tells when it takes requests.
    fn add(self: &Arc<Self>, queue: usize) -> std::io::Result<Receiver<()>> {
        let (tell, told) = sync_channel(1);
        let own = &self.queues[queue];
        let (number, lanes) = (own.all.fetch_add(1, SeqCst), Arc::clone(self));
        own.free.fetch_add(1, SeqCst);
        let thread = std::thread::Builder::new().name(format!("fuse-{queue}-{number}")).spawn(move || {
            QUEUE.set(queue);
            let Some(server) = lanes.server.upgrade() else { return };
            // Nobody waits for the first ones.
            let begun = || {
                let _ = tell.try_send(());
            };
            if let Err(error) = backing::own_mask().and_then(|()| (lanes.work)(&server, queue, &begun)) {
                server.tell(format!("a thread that serves requests has ended: {}", error.text()));
            }
        });
        match thread {
            Ok(thread) => self.threads.lock().expect("no thread ends while it holds it").push(thread),
            Err(error) => {
                own.all.fetch_sub(1, SeqCst);
                own.free.fetch_sub(1, SeqCst);
                return Err(error);
            }
        }
        Ok(told)
    }

    /// Does what may take long; meanwhile another thread serves the queue of this one.
    pub(super) fn waiting<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let queue = QUEUE.get();
        let own = &self.queues[queue];
        // Without one more, requests wait.
        if own.free.fetch_sub(1, SeqCst) == 1
            && own.all.load(SeqCst) < MOST
            && let Ok(told) = self.add(queue)
            && let Some(nudge) = &self.nudge
            && told.recv_timeout(SOON).is_ok()
        {
            // This thread stays on the queue's processor.
            nudge(queue);
        }
        let done = work();
        own.free.fetch_add(1, SeqCst);
        done
    }

    /// Whether all of them have ended, as the mount is gone.
    pub(super) fn ended(&self) -> bool {
        self.threads.lock().expect("no thread ends while it holds it").iter().all(JoinHandle::is_finished)
    }

    /// Waits until all of them have.
    pub(super) fn join(&self) {
        loop {
            let thread = self.threads.lock().expect("no thread ends while it holds it").pop();
            let Some(thread) = thread else { return };
            let _ = thread.join();
        }
    }
}
