//! Watches the nodes' ports of the switch: who sends as the dispatcher, and when.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::net::Net;
use crate::judge::Reign;

/// The source address of a frame from a dispatcher begins with these two bytes; a dispatcher follows, its epoch, and 0.
const WHAT: &str = "ether[6:2] = 0x5241 and ether[11] = 0";

/// Programs that watch, one for each node's port, as frames come in from it: before any rule of the switch.
pub(crate) struct Watch {
    children: Vec<Child>,
    readers: Vec<JoinHandle<()>>,
    reigns: Arc<Mutex<BTreeMap<u16, Seen>>>,
}

/// Frames of one epoch, times in nanoseconds of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    dispatcher: u8,
    reign: Reign,
}

impl Watch {
    /// Begins; `None` without tcpdump.
    pub(crate) fn start(net: &Net) -> Option<Self> {
        let mut watch = Self { children: Vec::new(), readers: Vec::new(), reigns: Arc::default() };
        for node in 0..net.nodes {
            watch.port(net, node)?;
        }
        Some(watch)
    }

    /// Watches a node's port, which may be another one than before.
    pub(crate) fn port(&mut self, net: &Net, node: u16) -> Option<()> {
        let (switch, port) = (net.switch(), net.port(node));
        let dump = ["tcpdump", "-i", &port, "-Q", "in", "-s", "64", "-B", "4096", "-U", "-Z", "root", "-w", "-", WHAT];
        let child = Command::new("ip")
            .args(["netns", "exec", &switch])
            .args(dump)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.ok()?;
        let from = child.stdout.take()?;
        self.children.push(child);
        let mut from = BufReader::new(from);
        // The head comes when it has begun.
        from.read_exact(&mut [0; 24]).ok()?;
        let reigns = self.reigns.clone();
        self.readers.push(std::thread::spawn(move || read(from, &reigns)));
        Some(())
    }

    /// What was seen, in times since the wall clock showed `start`.
    pub(crate) fn end(mut self, start: u64) -> BTreeMap<u16, Reign> {
        self.stop();
        let reigns = self.reigns.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |at: u64| at.saturating_sub(start);
        reigns
            .iter()
            .map(|(epoch, seen)| {
                let reign = seen.reign;
                (*epoch, Reign { first: since(reign.first), last: since(reign.last), ..reign })
            })
            .collect()
    }

    fn stop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads frames until the program ends. An epoch's low bits are enough: it grows by some hundreds in a run.
fn read(mut from: impl Read, reigns: &Mutex<BTreeMap<u16, Seen>>) {
    let mut head = [0; 16];
    let mut frame = Vec::new();
    while from.read_exact(&mut head).is_ok() {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let at = u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * 1_000;
        frame.resize(word(8) as usize, 0);
        if from.read_exact(&mut frame).is_err() || frame.len() < 14 {
            return;
        }
        let (dispatcher, epoch) = (frame[8], u16::from_be_bytes([frame[9], frame[10]]));
        let new = Seen { dispatcher, reign: Reign { first: at, last: at, frames: 0, impostors: 0 } };
        let mut reigns = reigns.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = reigns.entry(epoch).or_insert(new);
        seen.reign.first = seen.reign.first.min(at);
        seen.reign.last = seen.reign.last.max(at);
        seen.reign.frames += 1;
        seen.reign.impostors += u64::from(seen.dispatcher != dispatcher);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::read;

    #[test]
    fn two_dispatchers_of_one_epoch_and_late_frames_are_seen() {
        let frame = |at: u32, dispatcher: u8, epoch: u8| {
            let mut bytes =
                [1_u32.to_le_bytes(), at.to_le_bytes(), 14_u32.to_le_bytes(), 14_u32.to_le_bytes()].concat();
            bytes.extend([0, 0, 0, 0, 0, 0, 0x52, 0x41, dispatcher, 0, epoch, 0, 8, 0]);
            bytes
        };
        let reigns = Mutex::default();
        read(&[frame(10, 1, 5), frame(100, 1, 5)].concat()[..], &reigns);
        read(&[frame(70, 2, 9), frame(80, 3, 9)].concat()[..], &reigns);
        let reigns = reigns.into_inner().expect("nobody panicked");
        let (old, new) = (reigns[&5].reign, reigns[&9].reign);
        assert_eq!((old.last - new.first, old.frames, old.impostors), (30_000, 2, 0));
        assert_eq!((new.frames, new.impostors), (2, 1));
    }
}
