//! Frames of the data plane, told over the control socket: a line for each, and one at the end.

use std::time::{Duration, Instant};

use crate::hex::{hex, mac_text};
use apus_dispatch::Verdict;
use apus_os::{Next, Record, Trace};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// Lines under way to whoever asks.
const WAITING: usize = 256;

/// When a trace ends, and how much of a frame it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    frames: u64,
    lasts: Duration,
    pub(super) bytes: usize,
}

impl Bounds {
    /// From a question. What it leaves out: 10,000 frames, ten seconds, whole frames.
    pub(super) fn of(question: &Value) -> Self {
        let number = |name: &str, usual: u64| question[name].as_u64().unwrap_or(usual);
        Self {
            frames: number("frames", 10_000),
            lasts: Duration::from_millis(number("ms", 10_000)),
            bytes: usize::try_from(number("bytes", 1 << 17)).unwrap_or(usize::MAX),
        }
    }
}

fn line(record: &Record) -> Value {
    let (verdict, reason) = match record.verdict {
        Verdict::Pass => ("pass", None),
        Verdict::Local => ("local", None),
        Verdict::Transmit => ("transmit", None),
        Verdict::Drop(reason) => ("drop", Some(reason.name())),
    };
    json!({
        "ns": record.at,
        "verdict": verdict,
        "reason": reason,
        "slot": record.slot,
        "server": record.server,
        "to": record.to.map(mac_text),
        "length": record.length,
        "bytes": hex(&record.bytes),
    })
}

/// Tells a trace until it is over or nobody listens.
pub(super) async fn tell(trace: Trace, bounds: Bounds, to: &mut OwnedWriteHalf) {
    let (lines, mut from) = mpsc::channel::<Value>(WAITING);
    let began = std::thread::Builder::new().name("trace".into()).spawn(move || follow(&trace, bounds, &lines));
    if let Err(error) = began {
        let _ = to.write_all(format!("{}\n", json!({ "error": error.to_string() })).as_bytes()).await;
        return;
    }
    while let Some(line) = from.recv().await {
        if to.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

fn follow(trace: &Trace, bounds: Bounds, lines: &mpsc::Sender<Value>) {
    let end = Instant::now() + bounds.lasts;
    let mut frames = 0;
    let over = loop {
        if frames == bounds.frames {
            break "frames";
        }
        // Short waits: who asked may be gone while no frame comes.
        let wait = end.min(Instant::now() + Duration::from_millis(200));
        match trace.next(wait) {
            Next::Frame(record) => {
                frames += 1;
                if lines.blocking_send(line(&record)).is_err() {
                    return;
                }
            }
            Next::Nothing if lines.is_closed() => return,
            Next::Nothing if Instant::now() >= end => break "time",
            Next::Nothing => {}
            Next::Over => break "another trace, or the node ended",
        }
        if Instant::now() >= end {
            break "time";
        }
    };
    let _ = lines.blocking_send(json!({ "end": over, "frames": frames, "lost": trace.lost() }));
}
