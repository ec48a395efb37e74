//! Connections: one for each pair of nodes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use apus_engine::NodeId;
use quinn::{Connection, VarInt};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Why this end closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The node ends.
    Ends = 0,
    /// The pair has another connection.
    Twice = 1,
    /// The peer is not believed any more.
    Refused = 2,
    /// This end has a new certificate, and shows it on the next connection.
    Renewed = 3,
    /// The peer leaves what is sent to it unanswered.
    Silent = 4,
}

pub(crate) fn close(connection: &Connection, why: Close) {
    connection.close(VarInt::from_u32(why as u32), b"");
}

struct Link {
    connection: Connection,
    /// Whether this node dialled.
    dialled: bool,
    /// Serial number of the certificate that this node has shown.
    shown: u64,
    since: Instant,
    /// Packets received and frames sent that are answered, when all of them may have been, and when that was.
    settled: Cell<(u64, u64, Instant)>,
}

/// One peer: its connection, and what waits for one.
#[derive(Default)]
pub(crate) struct Peer {
    link: RefCell<Option<Link>>,
    /// Held while this node dials.
    pub(crate) dialling: Mutex<()>,
    /// Before that it is not dialled again; how long the wait was.
    back_off: Cell<Option<(Instant, Duration)>>,
    /// Datagrams that wait for a connection.
    waiting: RefCell<VecDeque<(Instant, Vec<u8>)>>,
    /// Long datagrams on their way, each in a stream of its own.
    pub(crate) long: Cell<usize>,
}

impl Peer {
    /// The connection, if there is one.
    pub(crate) fn connection(&self) -> Option<Connection> {
        let link = self.link.borrow();
        link.as_ref().map(|link| &link.connection).filter(|open| open.close_reason().is_none()).cloned()
    }

    /// The connection, if there is one on which another certificate was shown.
    pub(crate) fn stale(&self, own: u64) -> Option<Connection> {
        let shown = self.link.borrow().as_ref().map(|link| link.shown);
        self.connection().filter(|_| shown != Some(own))
    }

    /// The connection, if for `silence` nothing has come by it although something was sent that a peer answers: an acknowledgement is
    /// the last word of an exchange. One that nobody uses is not asked.
    pub(crate) fn silent(&self, silence: Duration) -> Option<Connection> {
        let connection = self.connection()?;
        let link = self.link.borrow();
        let settled = &link.as_ref()?.settled;
        let stats = connection.stats();
        let frames = stats.frame_tx;
        let (received, sent) = (stats.udp_rx.datagrams, frames.datagram + frames.stream + frames.ping);
        let (before, asked, since) = settled.get();
        if received != before || sent == asked {
            settled.set((received, sent, Instant::now()));
            return None;
        }
        (since.elapsed() >= silence).then_some(connection)
    }

    /// Takes a connection in; false if it is closed, because the pair has another.
    ///
    /// A node dials only while it has no connection. So a second one is either that of a peer which has lost the first, and the newer
    /// one is kept; or both have dialled at once, and both keep that of the lower number.
    pub(crate) fn take(
        &self,
        me: NodeId,
        peer: NodeId,
        connection: &Connection,
        (dialled, shown): (bool, u64),
        at_once: Duration,
    ) -> bool {
        let mut link = self.link.borrow_mut();
        if let Some(known) = link.as_ref().filter(|known| known.connection.close_reason().is_none()) {
            let both = known.dialled != dialled && known.since.elapsed() < at_once;
            if both && dialled != (me < peer) {
                close(connection, Close::Twice);
                return false;
            }
            close(&known.connection, Close::Twice);
        }
        let since = Instant::now();
        let settled = Cell::new((0, 0, since));
        *link = Some(Link { connection: connection.clone(), dialled, shown, since, settled });
        true
    }

    /// Whether it may be dialled now.
    pub(crate) fn may_dial(&self) -> bool {
        self.back_off.get().is_none_or(|(until, _)| Instant::now() >= until)
    }

    /// An attempt failed, or a connection did not last: the next one waits twice as long.
    pub(crate) fn failed(&self, (least, most): (Duration, Duration)) {
        let wait = self.back_off.get().map_or(least, |(_, wait)| (wait * 2).min(most));
        self.back_off.set(Some((Instant::now() + wait, wait)));
    }

    /// A connection lasted.
    pub(crate) fn lasted(&self) {
        self.back_off.set(None);
    }

    /// Keeps a datagram until there is a connection; the oldest of too many is dropped. True if one was.
    pub(crate) fn wait(&self, datagram: Vec<u8>, most: usize) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let full = waiting.len() >= most;
        if full {
            waiting.pop_front();
        }
        waiting.push_back((Instant::now(), datagram));
        full
    }

    /// What waited, but for what is older than `stale`.
    pub(crate) fn waited(&self, stale: Duration) -> Vec<Vec<u8>> {
        let all = std::mem::take(&mut *self.waiting.borrow_mut());
        all.into_iter().filter(|(since, _)| since.elapsed() < stale).map(|(_, datagram)| datagram).collect()
    }
}
