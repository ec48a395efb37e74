//! Single frames with what became of them, told while somebody asks. Otherwise a plane looks at one flag per frame.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use apus_dispatch::{Head, Here, Hooks, Mac, NOBODY, Slot, Table, Verdict, dispatch};

/// Frames that wait for whoever asks; more are lost to it, and counted.
const WAITING: usize = 8_192;

/// One frame, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How many it had.
    pub length: usize,
    /// What became of it.
    pub verdict: Verdict,
    /// The slot that was looked up, if one was.
    pub slot: Option<u32>,
    /// Place among the table's servers of the one that got it.
    pub server: Option<u16>,
    /// Where it was sent.
    pub to: Option<Mac>,
}

/// The frames of a plane from now on. Dropping it ends the trace.
#[derive(Debug)]
pub struct Trace {
    from: Receiver<Record>,
    lost: Arc<AtomicU64>,
}

/// What [`Trace::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A frame.
    Frame(Record),
    /// None until then.
    Nothing,
    /// The plane has ended, or somebody else asks now.
    Over,
}

impl Trace {
    /// The next frame.
    #[must_use]
    pub fn next(&self, until: Instant) -> Next {
        match self.from.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(record) => Next::Frame(record),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::Over,
        }
    }

    /// Frames that came while too many were waiting.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

struct Sink {
    to: SyncSender<Record>,
    lost: Arc<AtomicU64>,
    bytes: usize,
}

/// The plane's end.
#[derive(Default)]
pub(crate) struct Tracer {
    on: AtomicBool,
    sink: Mutex<Option<Sink>>,
}

/// A table that notes which slot is looked up.
struct Watched<'t, T> {
    table: &'t T,
    slot: Cell<Option<u32>>,
}

impl<T: Table> Table for Watched<'_, T> {
    fn head(&self) -> Head {
        self.table.head()
    }
    fn slot(&self, number: u32) -> Slot {
        self.slot.set(Some(number));
        self.table.slot(number)
    }
    fn server(&self, place: u16) -> Option<Mac> {
        self.table.server(place)
    }
    fn port(&self, number: usize) -> Option<(u16, [u8; 8])> {
        self.slot.set(u32::try_from(number).ok());
        self.table.port(number)
    }
}

impl Tracer {
    /// Tells of frames from now on, with so many of their first bytes. Who asked before is told no more.
    pub(crate) fn start(&self, bytes: usize) -> Trace {
        let (to, from) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        *sink = Some(Sink { to, lost: lost.clone(), bytes });
        self.on.store(true, Ordering::Release);
        Trace { from, lost }
    }

    /// What the core does with a frame; told if somebody asks.
    #[inline]
    pub(crate) fn dispatch<T: Table>(&self, here: &Here, table: &T, hooks: &impl Hooks, frame: &mut [u8]) -> Verdict {
        if self.on.load(Ordering::Relaxed) {
            return self.told(here, table, hooks, frame);
        }
        dispatch(here, table, hooks, frame)
    }

    #[cold]
    #[inline(never)]
    fn told<T: Table>(&self, here: &Here, table: &T, hooks: &impl Hooks, frame: &mut [u8]) -> Verdict {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Sink { to, lost, bytes }) = sink.as_ref() else { return dispatch(here, table, hooks, frame) };
        let before = frame.get(..*bytes).unwrap_or(frame).to_vec();
        let table = Watched { table, slot: Cell::new(None) };
        let verdict = dispatch(here, &table, hooks, &mut *frame);
        let slot = table.slot.get();
        let sent = frame.first_chunk::<6>().copied().filter(|_| verdict == Verdict::Transmit);
        let server = match verdict {
            Verdict::Local if slot.is_some() => Some(here.server),
            Verdict::Transmit if slot.is_some() => {
                (0..NOBODY).map_while(|place| Some((place, table.server(place)?))).find(|(_, mac)| Some(*mac) == sent)
            }
            .map(|(place, _)| place),
            _ => None,
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let record = Record { at, bytes: before, length: frame.len(), verdict, slot, server, to: sent };
        match to.try_send(record) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => {
                *sink = None;
                self.on.store(false, Ordering::Relaxed);
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apus_dispatch::{Block, Key, Member, Members, NoHooks, build};

    use super::*;

    fn frame(client: u8) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 9, 9, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        bytes.extend([10, 1, 0, client, 10, 0, 0, 100]);
        bytes.extend([0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
        bytes
    }

    /// A table of three servers, of which this one is the first.
    fn table() -> (Vec<u8>, Here) {
        let member = |id: u64| {
            let mac = [2, 0, 0, 0, 0, u8::try_from(id).expect("small") + 1];
            Member { id, mac, weight: 1, draining: false }
        };
        let members = Members::new((0..3).map(member)).expect("three members");
        let head = Head {
            epoch: 1,
            seed: 7,
            log2_slots: 6,
            key: Key::Source,
            v4: [10, 0, 0, 100],
            v6: [0; 16],
            claim: [0; 6],
        };
        let bytes = build(&head, &members, None).expect("a table");
        (bytes, Here { now: 1, lease: 2, epoch: 1, fence: 1, server: 0, id: 0, mac: [2, 0, 0, 0, 0, 1] })
    }

    #[test]
    fn what_is_told_is_what_happens() {
        let (bytes, here) = table();
        let block = Block::new(&bytes).expect("a table");
        let tracer = Tracer::default();
        let trace = tracer.start(34);
        let (mut local, mut sent) = (0, 0);
        for client in 0..64 {
            let (mut plain, mut told) = (frame(client), frame(client));
            let wanted = dispatch(&here, &block, &NoHooks, &mut plain[..]);
            assert_eq!(tracer.dispatch(&here, &block, &NoHooks, &mut told), wanted);
            assert_eq!(plain, told);
            let Next::Frame(record) = trace.next(Instant::now()) else { panic!("nothing is told") };
            assert_eq!((record.verdict, record.length, &record.bytes[..]), (wanted, 54, &frame(client)[..34]));
            let slot = block.slot(record.slot.expect("a slot"));
            assert_eq!(record.server, Some(slot.server));
            match wanted {
                Verdict::Local => local += 1,
                Verdict::Transmit => {
                    assert_eq!(record.to, block.server(slot.server));
                    sent += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(local > 5 && sent > 20, "{local} {sent}");
        assert_eq!((trace.next(Instant::now()), trace.lost()), (Next::Nothing, 0));
    }

    #[test]
    fn who_asks_no_more_costs_nothing_and_who_is_slow_loses() {
        let (bytes, here) = table();
        let block = Block::new(&bytes).expect("a table");
        let tracer = Tracer::default();
        let first = tracer.start(14);
        let second = tracer.start(14);
        assert_eq!(first.next(Instant::now() + Duration::from_secs(1)), Next::Over);
        for _ in 0..WAITING + 5 {
            tracer.dispatch(&here, &block, &NoHooks, &mut frame(1));
        }
        assert_eq!(second.lost(), 5);
        drop(second);
        tracer.dispatch(&here, &block, &NoHooks, &mut frame(1));
        assert!(!tracer.on.load(Ordering::Relaxed));
    }
}
