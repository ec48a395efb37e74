//! Watches the bridge: no frame of an earlier dispatcher after one of a later.

use std::path::{Path, PathBuf};
use std::process::Child;

use crate::net::Net;

pub(crate) struct Watch {
    child: Child,
    file: PathBuf,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Frames of dispatchers to servers.
    pub(crate) dispatched: u64,
    /// Answers about the cluster's address, and announcements.
    pub(crate) answers: u64,
    /// Dispatchers, one after the other: number and low bits of the epoch.
    pub(crate) reigns: Vec<(u8, u16)>,
    /// Frames of a dispatcher after those of a later one.
    pub(crate) late: u64,
}

impl Watch {
    pub(crate) fn start(net: &Net) -> Result<Self, String> {
        let file = net.folder.join("bridge.pcap");
        let path = file.display().to_string();
        // A tag with hop 0, or ARP.
        let what = "(ether[6:2] = 0x5241 and ether[11] = 0) or arp";
        let command = ["tcpdump", "-i", "br0", "-s", "64", "-B", "16384", "-U", "-Z", "root", "-w", &path, what];
        let child = net.start(&net.bridge(), &command, "tcpdump.log").map_err(|error| error.to_string())?;
        for _ in 0..100 {
            if std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24) {
                return Ok(Self { child, file });
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err("tcpdump did not begin".into())
    }

    pub(crate) fn end(mut self) -> Seen {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let _ = crate::net::sh(&format!("kill -INT {}", self.child.id()));
        let _ = self.child.wait();
        read(&self.file)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(file: &Path) -> Seen {
    let bytes = std::fs::read(file).unwrap_or_default();
    let mut seen = Seen::default();
    let mut at = 24;
    while let Some(length) = bytes.get(at + 8..at + 12) {
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        let Some(frame) = bytes.get(at + 16..at + 16 + length) else { break };
        at += 16 + length;
        if frame[6..8] == [0x52, 0x41] {
            seen.dispatched += 1;
            let reign = (frame[8], u16::from_be_bytes([frame[9], frame[10]]));
            match seen.reigns.last() {
                Some(last) if *last == reign => {}
                Some(last) if reign.1.wrapping_sub(last.1).cast_signed() <= 0 => seen.late += 1,
                _ => seen.reigns.push(reign),
            }
        } else if frame.get(28..32) == Some(&[10, 97, 0, 100]) {
            seen.answers += 1;
        }
    }
    seen
}
