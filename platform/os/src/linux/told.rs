//! Frames that the kernel program tells of: a buffer for each processor, and a thread that reads them.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use apus_dispatch::{Block, Here, NOBODY, Reason, Verdict};
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use aya::util::online_cpus;

use crate::trace::{Record, Sink, Trace, place_of, slot_of, wall};

/// Pages of each processor's buffer.
const PAGES: usize = 64;
/// So long the thread waits before it looks whether anybody listens, in milliseconds.
const WAIT: i32 = 100;

/// The table in use and what this node is, to say which slot and server a frame had.
#[derive(Debug)]
pub(super) struct View {
    pub(super) block: Vec<u8>,
    pub(super) here: Here,
}

impl View {
    pub(super) const fn new() -> Self {
        let here = Here { now: 0, lease: 0, epoch: 0, fence: 0, server: NOBODY, id: 0, fresh: false, mac: [0; 6] };
        Self { block: Vec::new(), here }
    }
}

/// A trace that goes on. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Telling {
    gone: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Telling {
    /// Whether nobody listens any more.
    pub(super) fn over(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Reads what the program tells from now on.
    pub(super) fn start(events: &mut PerfEventArray<MapData>, view: &Arc<Mutex<View>>) -> io::Result<(Self, Trace)> {
        let processors = online_cpus().map_err(|(_, error)| error)?;
        let open = |processor| events.open(processor, Some(PAGES)).map_err(io::Error::other);
        let buffers: Vec<_> = processors.into_iter().map(open).collect::<io::Result<_>>()?;
        let (sink, trace) = Sink::new();
        let telling = Self { gone: sink.gone(), ended: Arc::default() };
        let (gone, ended) = (telling.gone.clone(), telling.ended.clone());
        let mut reader = Reader { buffers, sink, view: view.clone(), gone, ended };
        std::thread::Builder::new().name("told".into()).spawn(move || reader.work())?;
        Ok((telling, trace))
    }
}

struct Reader {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    sink: Sink,
    view: Arc<Mutex<View>>,
    gone: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Reader {
    fn work(&mut self) {
        while !self.gone.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed) {
            let entry = |buffer: &PerfEventArrayBuffer<MapData>| libc::pollfd {
                fd: buffer.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let mut all: Vec<libc::pollfd> = self.buffers.iter().map(entry).collect();
            let many = libc::nfds_t::try_from(all.len()).unwrap_or_default();
            // SAFETY: the entries outlive the call, and there are so many.
            unsafe { libc::poll(all.as_mut_ptr(), many, WAIT) };
            let Self { buffers, sink, view, .. } = self;
            for buffer in buffers {
                buffer.for_each(|event| match event {
                    PerfEvent::Lost { count } => sink.missed(count),
                    PerfEvent::Sample { head, tail } => {
                        if let Some(record) = record(&[head, tail].concat(), view) {
                            sink.tell(record);
                        }
                    }
                });
            }
        }
    }
}

/// The verdict of a counter.
fn verdict(which: u64) -> Option<Verdict> {
    Some(match which {
        0 => Verdict::Pass,
        1 => Verdict::Local,
        2 => Verdict::Transmit,
        drop => Verdict::Drop(*Reason::ALL.get(usize::try_from(drop).ok()?.checked_sub(3)?)?),
    })
}

/// See `told` in `drivers/oneip_xdp/oneip.rs`.
fn record(sample: &[u8], view: &Mutex<View>) -> Option<Record> {
    let (head, rest) = sample.split_first_chunk::<8>()?;
    let head = u64::from_le_bytes(*head);
    let verdict = verdict(head & 0xff)?;
    let length = usize::try_from(head >> 8 & 0xff_ffff).ok()?;
    let bytes = rest.get(..usize::try_from(head >> 32).ok()?)?.to_vec();
    let sent = bytes.first_chunk::<6>().copied().filter(|_| verdict == Verdict::Transmit);
    let view = view.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut slot, mut server) = (None, None);
    if let Ok(block) = Block::new(&view.block)
        && matches!(verdict, Verdict::Local | Verdict::Transmit)
    {
        slot = slot_of(&block, &view.here, &bytes);
        server = match sent.filter(|_| slot.is_some()) {
            Some(mac) => place_of(&block, mac),
            None => slot.map(|_| view.here.server),
        };
    }
    Some(Record { at: wall(), bytes, length, verdict, slot, server, to: sent })
}
