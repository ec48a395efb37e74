//! What happens to clients when the dispatcher dies, freezes, loses its net, or hands over.

use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cluster::{Clients, Cluster, Lost, NODES, signal};
use crate::wait::until;

/// Clients that were themselves so far behind, in microseconds, saw nothing that counts.
const BEHIND: u64 = 60_000;

/// Flows were answered a moment ago, in microseconds.
pub(crate) const CALM: u64 = 150_000;

/// All trials of one kind.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) trials: u64,
    /// Of these.
    pub(crate) invalid: u64,
    /// How long nobody answered a flow of datagrams, in microseconds.
    blackout: Histogram<u64>,
    /// From when a question was due to its answer: the longest of each trial, in microseconds.
    worst: Histogram<u64>,
    pub(crate) lost: Lost,
    /// Nodes that had the address at once, at most.
    pub(crate) owners: usize,
    began: Instant,
    seconds: f64,
}

impl Row {
    pub(crate) fn new(name: &str) -> Self {
        let histogram = || Histogram::new(3).expect("three digits");
        Self {
            name: name.into(),
            trials: 0,
            invalid: 0,
            blackout: histogram(),
            worst: histogram(),
            lost: Lost::default(),
            owners: 1,
            began: Instant::now(),
            seconds: 0.0,
        }
    }

    /// Takes what clients saw in one window.
    pub(crate) fn add(&mut self, report: &Value) {
        self.trials += 1;
        let behind = report["behind_us"].as_u64().unwrap_or(u64::MAX);
        if behind > BEHIND || report["answers"] == 0 {
            eprintln!("{}: invalid: clients were {behind} us behind", self.name);
            self.invalid += 1;
            return;
        }
        for gap in report["gaps_us"].as_array().into_iter().flatten() {
            let _ = self.blackout.record(gap.as_u64().unwrap_or_default());
        }
        let _ = self.worst.record(report["latency_us"][2].as_u64().unwrap_or_default());
    }

    pub(crate) fn lose(&mut self, lost: Lost) {
        self.lost.others += lost.others;
        self.lost.struck += lost.struck;
        self.lost.had += lost.had;
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn done(&mut self) {
        self.seconds = self.began.elapsed().as_secs_f64() / self.trials.max(1) as f64;
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.blackout.value_at_quantile(quantile) as f64 / 1_000.0
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn worst_ms(&self, quantile: f64) -> f64 {
        self.worst.value_at_quantile(quantile) as f64 / 1_000.0
    }

    pub(crate) const HEAD: &str = "\
| event | trials | invalid | blackout p50 ms | p99 | max | slowest request p50 ms | max | others' connections lost | of the one struck, which had | owners | s a trial |
|---|---|---|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn text(&self) -> String {
        format!(
            "| {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {} of {} | {} | {:.1} |",
            self.name,
            self.trials,
            self.invalid,
            self.ms(0.5),
            self.ms(0.99),
            self.ms(1.0),
            self.worst_ms(0.5),
            self.worst_ms(1.0),
            self.lost.others,
            self.lost.struck,
            self.lost.had,
            self.owners,
            self.seconds
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "event": self.name,
            "trials": self.trials,
            "invalid": self.invalid,
            "blackout_ms": {"p50": self.ms(0.5), "p99": self.ms(0.99), "max": self.ms(1.0)},
            "slowest_request_ms": {"p50": self.worst_ms(0.5), "max": self.worst_ms(1.0)},
            "lost": {"others": self.lost.others, "struck": self.lost.struck, "struck_had": self.lost.had},
            "owners": self.owners,
            "seconds_a_trial": self.seconds,
        })
    }
}

/// What strikes the dispatcher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strike {
    Kill,
    Stop,
    Link,
    /// Its port is cut off, with the carrier up.
    Partition,
    /// Clients and servers reach it, other nodes do not.
    Cut,
    Move,
}

impl Strike {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed (SIGKILL)",
            Self::Stop => "frozen (SIGSTOP)",
            Self::Link => "link down",
            Self::Partition => "partition, carrier up",
            Self::Cut => "cut off from nodes, not from clients",
            Self::Move => "planned hand-over",
        }
    }

    fn act(self, cluster: &mut Cluster, struck: usize) -> Result<(), String> {
        match self {
            Self::Kill => cluster.stop(struck, "KILL"),
            Self::Stop => signal(cluster.nodes[struck].as_ref(), "STOP"),
            Self::Link => cluster.net.link(struck, false),
            Self::Partition => cluster.net.cut(struck, true),
            Self::Cut => cluster.net.cut(struck, false),
            Self::Move => {
                // To a node that does not coordinate.
                let (_, coordinator) = cluster.dispatcher()?;
                let to = (1..NODES).map(|more| (struck + more) % NODES).find(|to| *to != coordinator);
                cluster.order(&json!({"do": "move", "node": to}))
            }
        }
    }

    fn undo(self, cluster: &mut Cluster, struck: usize) -> Result<(), String> {
        match self {
            Self::Kill => cluster.start(struck),
            Self::Stop => signal(cluster.nodes[struck].as_ref(), "CONT"),
            Self::Link => cluster.net.link(struck, true),
            Self::Partition | Self::Cut => cluster.net.mend(),
            Self::Move => Ok(()),
        }
    }
}

/// One trial. All is well again at its end.
pub(crate) fn strike(
    cluster: &mut Cluster,
    clients: &mut Clients,
    what: Strike,
    together: bool,
    row: &mut Row,
) -> Result<(), String> {
    cluster.whole()?;
    let placed = until(20, "dispatcher and coordinator do not stay", || {
        let placed = cluster.place(together)?;
        row.lose(clients.settle(&row.name)?);
        sleep(Duration::from_millis(300));
        // Whoever coordinates may have changed meanwhile, by load, or the address was handed on.
        let stays = cluster.dispatcher() == Ok(placed);
        if stays { Ok(placed) } else { Err(format!("{placed:?}, then {:?}", cluster.dispatcher())) }
    })?;
    let struck = placed.0;
    let had = clients.report()?["servers"][struck.to_string()].as_u64().unwrap_or_default();
    clients.say("mark")?;
    let began = Instant::now();
    what.act(cluster, struck)?;
    if what != Strike::Move {
        row.lose(Lost { had, ..Lost::default() });
        (cluster.away, clients.struck) = (Some(struck), Some(struck));
    }
    let report = until(20, "nobody took over", || {
        let (dispatcher, _) = cluster.dispatcher()?;
        let report = clients.report()?;
        let own = clients.struck.map(|struck| struck.to_string());
        let late = report["late"].as_object().into_iter().flatten().any(|(server, _)| Some(server) != own.as_ref());
        let silent = report["silent_us"].as_u64().unwrap_or(u64::MAX);
        let over = dispatcher != struck && !late && silent < CALM && began.elapsed() > Duration::from_millis(900);
        if over { Ok(report) } else { Err(format!("late {}, silent {silent} us", report["late"])) }
    });
    what.undo(cluster, struck)?;
    cluster.away = None;
    row.add(&report.map_err(|error| format!("{}: {error}", row.name))?);
    cluster.whole()?;
    row.lose(clients.count(&row.name)?);
    Ok(())
}
