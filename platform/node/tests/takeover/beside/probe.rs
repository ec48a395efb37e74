//! A client: a request by HTTP each 2 ms, each on a connection of its own, sent when it is due whatever became of those before.
//!
//! It obeys lines on its standard input: `mark` begins a window, `report` answers with a line of JSON, `pause` and `go` do what they say.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// Between two requests.
pub(crate) const EVERY: Duration = Duration::from_millis(2);
/// A request without an answer for so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
/// Failed requests that are not farther apart are of one outage.
const APART: Duration = Duration::from_millis(100);

struct Probe {
    target: SocketAddr,
    sources: Vec<Ipv4Addr>,
    /// When requests of this window were due that failed: first and last of each outage.
    outages: Vec<(Instant, Instant)>,
    failed: u64,
    sent: u64,
    latency: Histogram<u64>,
    /// When the last that was answered was due, and the last that failed.
    answered: Instant,
    failed_last: Option<Instant>,
    /// The longest time that this program itself was behind.
    behind: Duration,
    marked: Instant,
    paused: bool,
}

pub(crate) fn probe(target: SocketAddr, sources: Vec<Ipv4Addr>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let now = Instant::now();
    let probe = Rc::new(RefCell::new(Probe {
        target,
        sources,
        outages: Vec::new(),
        failed: 0,
        sent: 0,
        latency: Histogram::new(3).map_err(io::Error::other)?,
        answered: now,
        failed_last: None,
        behind: Duration::ZERO,
        marked: now,
        paused: false,
    }));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        tokio::task::spawn_local(pace(probe.clone()));
        let (to, mut from) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = from.recv().await {
            let mut probe = probe.borrow_mut();
            match &line[..] {
                "mark" => probe.mark(),
                "pause" => probe.paused = true,
                "go" => (probe.paused, probe.answered) = (false, Instant::now()),
                _ => println!("{}", probe.report()),
            }
        }
        Ok(())
    })
}

async fn pace(probe: Rc<RefCell<Probe>>) {
    let mut due = Instant::now();
    for number in 0_usize.. {
        tokio::time::sleep_until(due.into()).await;
        let now = Instant::now();
        {
            let mut own = probe.borrow_mut();
            if own.paused {
                due = now + EVERY;
                continue;
            }
            own.behind = own.behind.max(now.saturating_duration_since(due));
            own.sent += 1;
            drop(own);
            tokio::task::spawn_local(one(probe.clone(), number, due));
        }
        // Open loop: what is late is made up for at once. After a second it was not this program that waited.
        due += EVERY;
        if now.saturating_duration_since(due) > Duration::from_secs(1) {
            due = now;
        }
    }
}

async fn one(probe: Rc<RefCell<Probe>>, number: usize, due: Instant) {
    let (target, source) = {
        let own = probe.borrow();
        (own.target, own.sources[number % own.sources.len()])
    };
    let began = Instant::now();
    let answered = tokio::time::timeout_at((began.max(due) + PATIENCE).into(), request(target, source)).await;
    let mut own = probe.borrow_mut();
    if matches!(answered, Ok(Ok(()))) {
        own.answered = own.answered.max(due);
        let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let _ = own.latency.record(us);
    } else {
        own.fail(due);
    }
}

/// One request, to the server's end of the connection.
async fn request(target: SocketAddr, source: Ipv4Addr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(target).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(512);
    stream.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other("another answer")) }
}

impl Probe {
    fn mark(&mut self) {
        self.outages.clear();
        self.failed = 0;
        self.sent = 0;
        self.latency.reset();
        self.behind = Duration::ZERO;
        self.marked = Instant::now();
    }

    fn fail(&mut self, due: Instant) {
        self.failed_last = self.failed_last.max(Some(due));
        // What was due before the window is of the one before.
        if due < self.marked {
            return;
        }
        self.failed += 1;
        // Refusals come before silences that were due earlier: the order of the list is not that of time.
        let near = |(first, last): &&mut (Instant, Instant)| due + APART >= *first && due <= *last + APART;
        match self.outages.iter_mut().find(near) {
            Some((first, last)) => (*first, *last) = ((*first).min(due), (*last).max(due)),
            None => self.outages.push((due, due)),
        }
    }

    fn report(&self) -> Value {
        let mut outages = self.outages.clone();
        outages.sort_unstable();
        let mut longest = Duration::ZERO;
        let mut open: Option<(Instant, Instant)> = None;
        for (first, last) in outages {
            let (from, to) = match open {
                Some((from, to)) if first <= to + APART => (from, to.max(last)),
                _ => (first, last),
            };
            open = Some((from, to));
            longest = longest.max(to - from + EVERY);
        }
        let quantile = |of: f64| self.latency.value_at_quantile(of);
        json!({
            "outage_us": longest.as_micros(),
            "failed": self.failed,
            "sent": self.sent,
            "answered": self.latency.len(),
            "silent_us": self.answered.elapsed().as_micros(),
            "calm_us": self.failed_last.map(|last| last.elapsed().as_micros()),
            "latency_us": [quantile(0.5), quantile(0.99), self.latency.max()],
            "behind_us": self.behind.as_micros(),
        })
    }
}
