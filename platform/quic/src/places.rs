//! Who may shake hands now. Addresses are proved before.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::gate::Pace;

/// A handshake under way; told when its place is another's.
pub(crate) type Place = Rc<Notify>;

/// Places for handshakes: a few for all strangers together, and for each peer its own.
///
/// A peer dials once at a time. So whoever comes from its address while its places are taken has given the older attempts up, and takes
/// the oldest one's place. A stranger waits until a place is free.
#[derive(Debug)]
pub(crate) struct Places {
    strangers: usize,
    of_peer: usize,
    pace: Pace,
    /// `None`: all strangers.
    taken: BTreeMap<Option<SocketAddr>, VecDeque<Place>>,
}

impl Places {
    /// So many for strangers, at a pace, and for each peer.
    pub(crate) const fn new(strangers: usize, pace: Pace, of_peer: usize) -> Self {
        Self { strangers, of_peer, pace, taken: BTreeMap::new() }
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(&mut self, peer: Option<SocketAddr>, now: Instant) -> Option<Place> {
        let taken = self.taken.entry(peer).or_default();
        if peer.is_none() && (taken.len() >= self.strangers || !self.pace.take(now)) {
            return None;
        }
        if peer.is_some() && taken.len() >= self.of_peer {
            taken.pop_front()?.notify_one();
        }
        let place = Place::default();
        taken.push_back(place.clone());
        Some(place)
    }

    /// A handshake has ended.
    pub(crate) fn leave(&mut self, peer: Option<SocketAddr>, place: &Place) {
        if let Some(taken) = self.taken.get_mut(&peer) {
            taken.retain(|other| !Rc::ptr_eq(other, place));
            if taken.is_empty() {
                self.taken.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pace, Places};

    #[test]
    fn strangers_wait_and_a_peer_never_does() {
        let (now, peer) = (Instant::now(), "10.0.0.1:7400".parse().ok());
        let mut places = Places::new(3, Pace::new(50, 5), 2);
        let strangers: Vec<_> = (0..10).filter_map(|_| places.take(None, now)).collect();
        assert_eq!(strangers.len(), 3);
        let first = places.take(peer, now).expect("a peer's own place");
        let more: Vec<_> = (0..5).map(|_| places.take(peer, now).expect("the place of an older one")).collect();
        assert_eq!(places.taken[&peer].len(), 2);
        assert!(places.taken[&peer].iter().all(|place| !std::rc::Rc::ptr_eq(place, &first)), "the oldest has gone");
        more.iter().for_each(|place| places.leave(peer, place));
        strangers.iter().for_each(|place| places.leave(None, place));
        assert!(places.taken.is_empty());
        // Three of the five that may come at once have come.
        let two = (0..10).filter(|_| places.take(None, now).inspect(|place| places.leave(None, place)).is_some());
        assert_eq!(two.count(), 2);
        assert!(places.take(None, now + Duration::from_millis(20)).is_some());
    }
}
