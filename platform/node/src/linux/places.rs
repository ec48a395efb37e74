//! Places for who asks: so many at once, and when all are taken, whoever has been slow for longest gives way to who comes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

/// Nobody gives way before this: a crowd of those who are quick is none of those who are slow.
const SLOW: Duration = Duration::from_secs(1);
/// Between two looks for somebody who is slow by now.
const LOOK: Duration = Duration::from_millis(100);

/// All places.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    permits: Arc<Semaphore>,
    /// The oldest first.
    held: Mutex<VecDeque<(Instant, oneshot::Sender<()>)>>,
    evicted: AtomicU64,
}

/// One of them.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    /// Says that it must be given up; once it is dropped, the place is its holder's for as long as he likes.
    pub(super) give_up: Option<oneshot::Receiver<()>>,
}

impl Places {
    pub(super) fn new(many: usize) -> Self {
        let permits = Arc::new(Semaphore::new(many));
        Self(Arc::new(Inner { permits, held: Mutex::default(), evicted: AtomicU64::new(0) }))
    }

    /// How many had to give way.
    pub(super) fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }

    /// Has whoever holds one for longest give it up, if he was slow.
    fn evict(&self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, who)| !who.is_closed());
        if held.front().is_some_and(|(since, _)| since.elapsed() >= SLOW)
            && let Some((_, who)) = held.pop_front()
            && who.send(()).is_ok()
        {
            self.0.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for a place.
    pub(super) async fn take(&self) -> Place {
        let permit = loop {
            if let Ok(permit) = self.0.permits.clone().try_acquire_owned() {
                break permit;
            }
            self.evict();
            if let Ok(Ok(permit)) = timeout(LOOK, self.0.permits.clone().acquire_owned()).await {
                break permit;
            }
        };
        let (who, give_up) = oneshot::channel();
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, who)| !who.is_closed());
        held.push_back((Instant::now(), who));
        Place { _permit: permit, give_up: Some(give_up) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_gives_way_and_who_is_quick_or_settled_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("it starts").block_on(async {
            let places = Places::new(2);
            let (mut one, mut two) = (places.take().await, places.take().await);
            // Both are quick so far.
            assert!(timeout(Duration::from_millis(500), places.take()).await.is_err());
            assert_eq!(places.evicted(), 0);
            let waits = {
                let places = places.clone();
                tokio::spawn(async move { places.take().await })
            };
            one.give_up.as_mut().expect("it is young").await.expect("it is told");
            drop(one);
            let three = waits.await.expect("it gets the place");
            assert_eq!(places.evicted(), 1);
            // Who has settled stays; the next one goes.
            two.give_up = None;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let waits = {
                let places = places.clone();
                tokio::spawn(async move { places.take().await })
            };
            three.give_up.expect("it is young").await.expect("it is told");
            assert_eq!(places.evicted(), 2);
            drop(waits);
        });
    }
}
