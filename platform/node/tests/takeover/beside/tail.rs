//! Reads logs as they grow, and keeps when a line with some words came.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::boot_us;

/// Between two looks: a line is said to come at most so much too late.
const LOOK: Duration = Duration::from_millis(2);

/// One log.
pub(crate) struct Tail {
    lines: Arc<Mutex<Vec<(u64, String)>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Tail {
    /// Lines with one of these words; the file may come later.
    pub(crate) fn new(path: PathBuf, words: &'static [&'static str]) -> Self {
        let (lines, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (to, ends) = (lines.clone(), over.clone());
        let reader = std::thread::spawn(move || {
            let (mut file, mut rest, mut bytes) = (None, Vec::new(), vec![0; 65_536]);
            while !ends.load(Ordering::Relaxed) {
                if file.is_none() {
                    file = File::open(&path).ok();
                }
                let got = file.as_mut().and_then(|file| file.read(&mut bytes).ok()).unwrap_or(0);
                if got == 0 {
                    std::thread::sleep(LOOK);
                    continue;
                }
                let now = boot_us();
                rest.extend_from_slice(&bytes[..got]);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                    rest.drain(..=end);
                    if words.iter().any(|word| line.contains(word)) {
                        to.lock().unwrap_or_else(PoisonError::into_inner).push((now, line));
                    }
                }
            }
        });
        Self { lines, over, reader: Some(reader) }
    }

    /// The first such line after a moment, in microseconds of the boot clock.
    pub(crate) fn first(&self, since: u64) -> Option<u64> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|(at, _)| *at >= since).map(|(at, _)| *at)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// When the first of several said so, after a moment; the one of `but` is not asked.
pub(crate) fn first(tails: &[Tail], but: usize, since: u64) -> Option<u64> {
    let others = tails.iter().enumerate().filter(|(node, _)| *node != but);
    others.filter_map(|(_, tail)| tail.first(since)).min().map(|at| at - since)
}
