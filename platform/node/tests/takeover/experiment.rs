//! The test, and the table.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Clients, Cluster};
use crate::net::sh;
use crate::strike::{Row, Strike, strike};
use crate::watch::{Seen, Watch};
use crate::{operate, peers, vrrp, watch};

/// Why it cannot run here, if so.
fn skipped() -> Option<String> {
    for (tool, args) in [("ip", "-V"), ("nft", "--version"), ("tcpdump", "--version")] {
        if sh(&format!("{tool} {args}")).is_err() {
            return Some(format!("`{tool}` is missing"));
        }
    }
    let name = format!("apus-probe-{}", std::process::id());
    let made = sh(&format!("ip netns add {name}"));
    let _ = sh(&format!("ip netns del {name}"));
    made.err().map(|error| format!("no namespaces: {error}"))
}

/// Other work on this machine shall not be measured: all programs of the test go first, where that is allowed.
fn prefer() {
    if let Err(error) = sh(&format!("chrt -r -p 1 {}", std::process::id())) {
        eprintln!("with other work: {error}");
    }
}

/// Programs of this one go first, if it can run here; else it says why not.
pub(crate) fn ready(what: &str) -> Option<()> {
    if let Some(why) = skipped() {
        println!("{what}: SKIPPED: {why}");
        return None;
    }
    prefer();
    Some(())
}

/// What strikes, and whether the dispatcher coordinates too.
const ALL: [(Strike, bool); 12] = [
    (Strike::Kill, false),
    (Strike::Kill, true),
    (Strike::Stop, false),
    (Strike::Stop, true),
    (Strike::Link, false),
    (Strike::Link, true),
    (Strike::Partition, false),
    (Strike::Partition, true),
    (Strike::Cut, false),
    (Strike::Cut, true),
    (Strike::Move, false),
    (Strike::Move, true),
];

fn row(what: Strike, together: bool) -> Row {
    Row::new(&format!("{}{}", what.name(), if together { "; it coordinates too" } else { "" }))
}

/// Each kind of fault, how servers are rolled, and what operators and peers see, once.
pub(crate) fn test(plane: Option<&str>) -> Result<(), String> {
    if let Some(why) = skipped() {
        println!("takeover: SKIPPED: {why}");
        return Ok(());
    }
    prefer();
    watch::self_test();
    crate::beside::self_test();
    let began = Instant::now();
    let step = |name: &str| println!("{:5.1} s  {name}", began.elapsed().as_secs_f64());
    let mut cluster = Cluster::new(plane, apus_engine::wire::VERSION - 1)?;
    println!("plane {}", cluster.status(0)["address"]["plane"]);
    let mut clients = Clients::start(&cluster.net, &cluster.exe, 200)?;
    clients.settle("start")?;
    let watch = Watch::start(&cluster.net)?;
    let mut rows = Vec::new();
    for (what, together) in if std::env::var_os("ROLL").is_some() {
        vec![]
    } else {
        vec![
            (Strike::Kill, false),
            (Strike::Stop, true),
            (Strike::Partition, false),
            (Strike::Cut, true),
            (Strike::Move, false),
        ]
    } {
        let mut row = row(what, together);
        step(&row.name);
        strike(&mut cluster, &mut clients, what, together, &mut row)?;
        row.done();
        rows.push(row);
    }
    step("all servers rolled, each to the next wire version");
    operate::is_old(&cluster)?;
    rows.push(operate::roll(&mut cluster, &mut clients)?);
    operate::is_new(&cluster)?;
    drop(clients);
    step("settings of the whole cluster");
    operate::set(&mut cluster)?;
    step("five nginx and curl");
    peers::nginx(&mut cluster)?;
    step("after a crash");
    operate::crash(&mut cluster)?;
    let seen = end(watch);
    println!("{}", Row::HEAD);
    rows.iter().for_each(|row| println!("{}", row.text()));
    println!("at the nodes' ports: {seen:?}");
    step("done");
    // The bound is for machines with other work; the goals are in the table's documentation.
    judge(&rows, &seen, 2_500.0)
}

fn end(watch: Watch) -> Seen {
    // What was captured comes within a second.
    std::thread::sleep(Duration::from_millis(1_300));
    watch.seen()
}

/// So many trials of each kind, and keepalived.
pub(crate) fn table(trials: u64, only: &str, as_json: bool) -> Result<(), String> {
    const CONNECTIONS: usize = 1_000;
    if let Some(why) = skipped() {
        println!("takeover: SKIPPED: {why}");
        return Ok(());
    }
    prefer();
    watch::self_test();
    let print = |row: &Row| if as_json { eprintln!("{}", row.text()) } else { println!("{}", row.text()) };
    let mut cluster = Cluster::new(None, apus_engine::wire::VERSION)?;
    let mut clients = Clients::start(&cluster.net, &cluster.exe, CONNECTIONS)?;
    clients.settle("start")?;
    let watch = Watch::start(&cluster.net)?;
    let mut rows = Vec::new();
    if !as_json {
        println!("{}", Row::HEAD);
    }
    for (what, together) in ALL {
        let mut row = row(what, together);
        if !row.name.contains(only) {
            continue;
        }
        for _ in 0..trials {
            strike(&mut cluster, &mut clients, what, together, &mut row)?;
        }
        row.done();
        print(&row);
        rows.push(row);
    }
    let mut rolled = Row::new("five servers rolled");
    if rolled.name.contains(only) {
        for _ in 0..trials.div_ceil(10) {
            operate::roll_into(&mut cluster, &mut clients, &mut rolled)?;
        }
        rolled.done();
        print(&rolled);
        rows.push(rolled);
    }
    drop(clients);
    let seen = end(watch);
    drop(cluster);
    let mut vrrp = Vec::new();
    match vrrp::keepalived(trials.div_ceil(3), only, CONNECTIONS, print) {
        Ok(rows) => vrrp = rows,
        Err(why) => eprintln!("keepalived: SKIPPED: {why}"),
    }
    if as_json {
        let all: Vec<_> = rows.iter().chain(&vrrp).map(Row::json).collect();
        println!(
            "{}",
            json!({
                "connections": CONNECTIONS,
                "rows": all,
                "dispatched_frames": seen.frames,
                "dispatchers": seen.reigns,
                "overlap_us": seen.overlap_us,
                "two_of_one_epoch": seen.impostors,
            })
        );
    } else {
        println!("{CONNECTIONS} connections; at the nodes' ports: {seen:?}");
    }
    if only.is_empty() { judge(&rows, &seen, 5_000.0) } else { losses(&rows).map_or(Ok(()), Err) }
}

fn judge(rows: &[Row], seen: &Seen, bound_ms: f64) -> Result<(), String> {
    let mut wrong = Vec::new();
    if seen.overlap_us > 0 || seen.impostors > 0 {
        wrong.push(format!("two dispatchers: {seen:?}"));
    }
    if seen.frames < 1_000 || seen.reigns < 5 {
        wrong.push(format!("the nodes' ports saw too little: {seen:?}"));
    }
    wrong.extend(losses(rows));
    for row in rows.iter().filter(|row| row.invalid < row.trials && row.ms(0.99) > bound_ms) {
        wrong.push(format!("{}: nobody answered for {:.0} ms", row.name, row.ms(0.99)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn losses(rows: &[Row]) -> Option<String> {
    let lost = |row: &Row| format!("{}: {} connections of surviving servers lost", row.name, row.lost.others);
    let all: Vec<String> = rows.iter().filter(|row| row.lost.others > 0).map(lost).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
