//! Watches every node's port of the bridge: who sends as the dispatcher, and when. No frame of an earlier dispatcher comes after one
//! of a later.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::net::Net;

/// Programs that watch, one for each node's port, as frames come in from it: before any rule of the bridge.
pub(crate) struct Watch {
    children: Vec<Child>,
    readers: Vec<JoinHandle<()>>,
    reigns: Arc<Mutex<BTreeMap<u16, Reign>>>,
}

/// One dispatcher's frames, times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reign {
    pub(crate) dispatcher: u8,
    first: u64,
    last: u64,
    pub(crate) frames: u64,
    /// Frames with the same epoch from another dispatcher.
    impostors: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Frames of dispatchers to servers.
    pub(crate) frames: u64,
    /// How many dispatchers there were, one after the other.
    pub(crate) reigns: usize,
    /// How long frames of an earlier dispatcher came after the first of a later, in microseconds.
    pub(crate) overlap_us: u64,
    /// Frames by two dispatchers of one epoch.
    pub(crate) impostors: u64,
}

impl Watch {
    pub(crate) fn start(net: &Net) -> Result<Self, String> {
        let mut watch = Self { children: Vec::new(), readers: Vec::new(), reigns: Arc::default() };
        for node in 0..net.nodes {
            let port = format!("v{node}");
            // A tag with hop 0.
            let what = "ether[6:2] = 0x5241 and ether[11] = 0";
            let command =
                ["tcpdump", "-i", &port, "-Q", "in", "-s", "64", "-B", "8192", "-U", "-Z", "root", "-w", "-", what];
            let mut child = net.start(&net.bridge(), &command, "tcpdump.log").map_err(|error| error.to_string())?;
            let mut from = child.stdout.take().ok_or("no standard output")?;
            watch.children.push(child);
            // The head comes when it has begun.
            from.read_exact(&mut [0; 24]).map_err(|error| format!("tcpdump on {port}: {error}"))?;
            let reigns = watch.reigns.clone();
            watch.readers.push(std::thread::spawn(move || read(std::io::BufReader::new(from), &reigns)));
        }
        Ok(watch)
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen_since(0)
    }

    /// The same, with the overlap that was from a time on, in microseconds of the wall clock.
    pub(crate) fn seen_since(&self, mark: u64) -> Seen {
        let reigns = self.reigns.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Seen { reigns: reigns.len(), ..Seen::default() };
        let mut later = u64::MAX;
        for reign in reigns.values().rev() {
            seen.frames += reign.frames;
            seen.impostors += reign.impostors;
            seen.overlap_us = seen.overlap_us.max(reign.last.saturating_sub(later.max(mark)));
            later = later.min(reign.first);
        }
        seen
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// Reads frames until the program ends. An epoch's low bits are enough: it grows by some hundreds in a run.
fn read(mut from: impl Read, reigns: &Mutex<BTreeMap<u16, Reign>>) {
    let mut head = [0; 16];
    let mut frame = Vec::new();
    while from.read_exact(&mut head).is_ok() {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let at = u64::from(word(0)) * 1_000_000 + u64::from(word(4));
        frame.resize(word(8) as usize, 0);
        if from.read_exact(&mut frame).is_err() || frame.len() < 14 {
            return;
        }
        let (dispatcher, epoch) = (frame[8], u16::from_be_bytes([frame[9], frame[10]]));
        let new = Reign { dispatcher, first: at, last: at, frames: 0, impostors: 0 };
        let mut reigns = reigns.lock().unwrap_or_else(PoisonError::into_inner);
        let reign = reigns.entry(epoch).or_insert(new);
        reign.first = reign.first.min(at);
        reign.last = reign.last.max(at);
        reign.frames += 1;
        reign.impostors += u64::from(reign.dispatcher != dispatcher);
    }
}

#[allow(clippy::unwrap_used, reason = "a test of the test")]
pub(crate) fn self_test() {
    // Two reigns; the first goes on 30 us into the second.
    let frame = |at: u32, dispatcher: u8, epoch: u8| {
        let mut bytes = [1_u32.to_le_bytes(), at.to_le_bytes(), 14_u32.to_le_bytes(), 14_u32.to_le_bytes()].concat();
        bytes.extend([0, 0, 0, 0, 0, 0, 0x52, 0x41, dispatcher, 0, epoch, 0, 8, 0]);
        bytes
    };
    let reigns = Mutex::default();
    read(&[frame(10, 1, 5), frame(100, 1, 5)].concat()[..], &reigns);
    read(&frame(70, 2, 9)[..], &reigns);
    let watch = Watch { children: Vec::new(), readers: Vec::new(), reigns: Arc::new(reigns) };
    let seen = watch.seen();
    assert_eq!((seen.frames, seen.reigns, seen.overlap_us, seen.impostors), (3, 2, 30, 0), "the watch is blind");
    let since = |mark: u64| watch.seen_since(1_000_000 + mark).overlap_us;
    assert_eq!((since(70), since(90), since(100)), (30, 10, 0), "what was before is taken for what is");
    read(&frame(80, 3, 9)[..], &watch.reigns);
    assert_eq!(watch.seen().impostors, 1, "the watch does not see two dispatchers of one epoch");
}
