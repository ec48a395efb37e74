//! Single frames with what became of them, told while somebody asks. Otherwise a plane looks at one flag per frame.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use apus_dispatch::{Flow, Head, Here, Hooks, Mac, NOBODY, Slot, Table, Verdict, dispatch, dispatch_batch};

/// Frames that wait for whoever asks; more are lost to it, and counted.
const WAITING: usize = 8_192;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its first bytes: as it came, or from a plane in the kernel as it left.
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
    gone: Arc<AtomicBool>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
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

/// Where frames are told.
pub(crate) struct Sink {
    to: SyncSender<Record>,
    lost: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
}

impl Sink {
    /// Both ends.
    pub(crate) fn new() -> (Self, Trace) {
        let (to, from) = sync_channel(WAITING);
        let (lost, gone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        (Self { to, lost: lost.clone(), gone: gone.clone() }, Trace { from, lost, gone })
    }

    /// Becomes true when nobody listens any more.
    pub(crate) fn gone(&self) -> Arc<AtomicBool> {
        self.gone.clone()
    }

    /// Tells of a frame.
    pub(crate) fn tell(&self, record: Record) {
        if let Err(TrySendError::Full(_)) = self.to.try_send(record) {
            self.missed(1);
        }
    }

    /// So many frames could not be told.
    pub(crate) fn missed(&self, many: u64) {
        self.lost.fetch_add(many, Ordering::Relaxed);
    }
}

/// Now, in nanoseconds since 1970.
pub(crate) fn wall() -> u64 {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    u64::try_from(at).unwrap_or(u64::MAX)
}

/// The place of a server among a table's.
pub(crate) fn place_of<T: Table>(table: &T, mac: Mac) -> Option<u16> {
    (0..NOBODY)
        .map_while(|place| Some((place, table.server(place)?)))
        .find(|(_, known)| *known == mac)
        .map(|(at, _)| at)
}

/// Every connection has its socket.
struct All;

impl Hooks for All {
    fn has_socket(&self, _: &Flow) -> bool {
        true
    }
}

/// The slot that a frame to the cluster belongs to, whatever its hardware addresses have become since.
pub(crate) fn slot_of<T: Table>(table: &T, here: &Here, frame: &[u8]) -> Option<u32> {
    let mut frame = frame.to_vec();
    let claim = table.head().claim;
    let to = if claim == [0; 6] { here.mac } else { claim };
    frame.get_mut(..12)?.copy_from_slice(&[to, [2, 0, 0, 0, 0, 0]].concat());
    let table = Watched { table, slot: Cell::new(None) };
    dispatch(&Here { now: 0, lease: u64::MAX, ..*here }, &table, &All, &mut frame[..]);
    table.slot.get()
}

/// The plane's end.
#[derive(Default)]
pub(crate) struct Tracer {
    on: AtomicBool,
    sink: Mutex<Option<(Sink, usize)>>,
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
        let (sink, trace) = Sink::new();
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some((sink, bytes));
        self.on.store(true, Ordering::Release);
        trace
    }

    /// What the core does with frames that came together; told if somebody asks.
    #[inline]
    pub(crate) fn dispatch<T: Table>(
        &self,
        here: &Here,
        table: &T,
        hooks: &impl Hooks,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        if !self.on.load(Ordering::Relaxed) {
            return dispatch_batch(here, table, hooks, frames, verdicts);
        }
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            *verdict = self.told(here, table, hooks, frame);
        }
    }

    #[cold]
    #[inline(never)]
    fn told<T: Table>(&self, here: &Here, table: &T, hooks: &impl Hooks, frame: &mut [u8]) -> Verdict {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((to, bytes)) = sink.as_ref().filter(|(to, _)| !to.gone.load(Ordering::Relaxed)) else {
            *sink = None;
            self.on.store(false, Ordering::Relaxed);
            return dispatch(here, table, hooks, frame);
        };
        let before = frame.get(..*bytes).unwrap_or(frame).to_vec();
        let table = Watched { table, slot: Cell::new(None) };
        let verdict = dispatch(here, &table, hooks, &mut *frame);
        let slot = table.slot.get();
        let sent = frame.first_chunk::<6>().copied().filter(|_| verdict == Verdict::Transmit);
        let server = match verdict {
            Verdict::Local if slot.is_some() => Some(here.server),
            Verdict::Transmit if slot.is_some() => sent.and_then(|mac| place_of(&table, mac)),
            _ => None,
        };
        to.tell(Record { at: wall(), bytes: before, length: frame.len(), verdict, slot, server, to: sent });
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
        (bytes, Here { now: 1, lease: 2, epoch: 1, fence: 1, server: 0, id: 0, fresh: false, mac: [2, 0, 0, 0, 0, 1] })
    }

    fn one(tracer: &Tracer, here: &Here, block: &Block<'_>, frame: &mut [u8]) -> Verdict {
        let mut verdicts = [Verdict::Pass];
        tracer.dispatch(here, block, &NoHooks, &mut [frame], &mut verdicts);
        verdicts[0]
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
            assert_eq!(one(&tracer, &here, &block, &mut told), wanted);
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
            one(&tracer, &here, &block, &mut frame(1));
        }
        assert_eq!(second.lost(), 5);
        drop(second);
        one(&tracer, &here, &block, &mut frame(1));
        assert!(!tracer.on.load(Ordering::Relaxed));
    }
}
