//! `kill -9` of daemons at random moments under load: what they keep on their disks, what they run, what they recorded.
//!
//! `APUS_KILLS=200` for more of it, `APUS_SEED=N` for the same moments again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use apus_engine::{Durable, Index, Rng, Seed};
use apus_host::record::{FOLDER, Incident, Reason, export, replay};
use apus_host::store::{Folder, Settings, Store};
use serde_json::json;

use crate::cluster::{Cluster, Row};
use crate::tests::{began, pid, service};

pub(crate) fn given(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// What a disk holds. Looked at in a copy: a start mends what a crash has torn.
fn durable(store: &Path, copy: &Path) -> Durable {
    let _ = fs::remove_dir_all(copy);
    fs::create_dir_all(copy).expect("a folder");
    for entry in fs::read_dir(store).expect("a store").flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let opened =
        runtime.block_on(async { Store::open(Folder::new(copy).expect("a folder"), Settings::default()).await });
    opened.unwrap_or_else(|error| panic!("{}: {error}", store.display())).1
}

/// Nothing that was relied upon is taken back: lives, terms, votes, and what was committed up to `sure`.
fn goes_on(node: usize, old: &Durable, new: &Durable, sure: Index) {
    assert!(new.incarnation > old.incarnation, "node {node}: life {} after {}", new.incarnation, old.incarnation);
    assert!(new.term >= old.term, "node {node}: {} after {}", new.term, old.term);
    if new.term == old.term && old.voted.is_some() {
        assert_eq!(new.voted, old.voted, "node {node} votes twice in {}", new.term);
    }
    let index = |durable: &Durable| durable.snapshot.as_ref().map_or(Index(0), |snapshot| snapshot.index);
    assert!(index(new) >= index(old), "node {node}: its snapshot goes back");
    for (at, entry) in old.log.range(..=sure) {
        let kept = *at <= index(new) || new.log.get(at) == Some(entry);
        assert!(kept, "node {node}: {at} is {:?}, and was {entry:?}", new.log.get(at));
    }
}

/// The newest epoch of every slot by any node's word, which only grows. An epoch is the index of a committed entry.
fn epochs(cluster: &Cluster, known: &mut BTreeMap<(String, u64), u64>) -> Index {
    for node in 0..3 {
        for row in cluster.rows(node) {
            let (Some(name), Some(slot), Some(epoch)) =
                (row["name"].as_str(), row["slot"].as_u64(), row["epoch"].as_u64())
            else {
                continue;
            };
            let newest = known.entry((name.to_owned(), slot)).or_default();
            *newest = (*newest).max(epoch);
        }
    }
    Index(known.values().copied().max().unwrap_or_default())
}

/// All copies, ready: node, process and when it began.
fn copies(cluster: &Cluster) -> BTreeMap<(&'static str, u8), (usize, u32, Option<String>)> {
    let ready = |name: &'static str, slot: u8| {
        let (node, row) = cluster.ready(name, slot, |node, row: &Row| row["node"] == node);
        ((name, slot), (node, pid(&row), began(pid(&row))))
    };
    [ready("web", 0), ready("job", 0), ready("hot", 0), ready("hot", 1)].into_iter().collect()
}

/// Lines that programs wrote when they began, over all nodes.
fn begun(cluster: &Cluster) -> usize {
    let mut all = 0;
    for node in 0..3 {
        let folders = fs::read_dir(cluster.folder().join(format!("store{node}/programs")));
        for folder in folders.into_iter().flatten().flatten() {
            let output = fs::read_to_string(folder.path().join("output")).unwrap_or_default();
            all += output.lines().filter(|line| *line == "begins").count();
        }
    }
    all
}

/// Drains node 2, on which nothing runs, and ends that: each is an entry of the log. Gives what was acknowledged.
fn load(cluster: &Cluster, rng: &mut Rng, until: Instant, drained: &mut bool) -> u64 {
    let mut many = 0;
    while Instant::now() < until {
        let node = usize::try_from(rng.below(3)).unwrap_or_default();
        let what = if *drained { "undrain" } else { "drain" };
        if cluster.ask(node, &json!({"do": what, "node": 2}))["done"] == true {
            *drained = !*drained;
            many += 1;
        }
    }
    many
}

pub(crate) fn killed() {
    let (kills, seed) = (given("APUS_KILLS", 15), given("APUS_SEED", u64::from(std::process::id())));
    println!("{kills} kills, APUS_SEED={seed}");
    let mut rng = Seed(seed).stream("kills");
    let two = "candidates = [0, 1]";
    let services = service("web", two)
        + &service("job", &format!("{two}\nstrategy = \"warm\""))
        + &service("hot", &format!("{two}\nstrategy = \"hot\"\nreplicas = 2"));
    let mut cluster = Cluster::new("killed", 3, "lease = \"20s\"\nrecord = \"8M\"", &services);
    let before = copies(&cluster);
    let (_, standby) = (0, cluster.until(1 - before[&("job", 0)].0, "job", |row| row["state"] == "standby"));
    assert!(pid(&standby) != 0);
    // One of `web`, two of `job` and of `hot`: each writes its line a moment after it was started.
    cluster.wait("their lines", || begun(&cluster) == 5);
    let started = begun(&cluster);
    let mut known = BTreeMap::new();
    let mut disks: BTreeMap<usize, Durable> = BTreeMap::new();
    let (mut drained, mut acknowledged) = (false, 0);
    let scratch = cluster.folder().join("scratch");
    for kill in 0..kills {
        let node = usize::try_from(rng.below(3)).unwrap_or_default();
        let pause = Duration::from_micros(rng.below(150_000));
        acknowledged += load(&cluster, &mut rng, Instant::now() + pause, &mut drained);
        let sure = epochs(&cluster, &mut known);
        cluster.kill(node);
        let disk = durable(&cluster.folder().join(format!("store{node}")), &scratch);
        if let Some(old) = disks.get(&node) {
            // Killed before it began its next life, it has the same one.
            if disk.incarnation != old.incarnation {
                goes_on(node, old, &disk, sure);
            }
        }
        disks.insert(node, disk);
        std::thread::sleep(Duration::from_micros(rng.below(60_000)));
        cluster.start(node);
        if kill % 5 == 4 {
            assert_eq!(copies(&cluster), before, "kill {kill}: the same processes\n{}", cluster.story());
        }
    }
    assert_eq!(copies(&cluster), before, "the same processes\n{}", cluster.story());
    assert_eq!(begun(&cluster), started, "none began a second time");
    let job = cluster.until(1 - before[&("job", 0)].0, "job", |row| row["state"] == "standby");
    assert_eq!(pid(&job), pid(&standby), "the standby too");
    let old = known.clone();
    epochs(&cluster, &mut known);
    assert_eq!(known, old, "nothing was granted anew");
    // What was acknowledged last is what all say.
    acknowledged += load(&cluster, &mut rng, Instant::now() + Duration::from_millis(300), &mut drained);
    assert!(acknowledged > 0);
    let until = Instant::now() + Duration::from_secs(20);
    let says = |node: usize| cluster.ask(node, &json!({"do": "status"}))["nodes"][2]["drained"].clone();
    while (0..3).any(|node| says(node) != drained) {
        assert!(Instant::now() < until, "drained is {drained}: {:?}", (0..3).map(says).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(10));
    }
    replays(&cluster, kills);
}

/// Every node's record, lives cut off by `kill -9` and all, gives the same states again.
fn replays(cluster: &Cluster, kills: u64) {
    let (mut steps, mut lives, mut torn) = (0, 0, 0);
    for node in 0..3 {
        let bytes = export(&cluster.folder().join(format!("store{node}")).join(FOLDER), None);
        let bytes = bytes.unwrap_or_else(|(file, error)| panic!("{file}: {error}"));
        let incident = Incident::read(&bytes).expect("it is whole");
        incident.check_build().expect("ours");
        let replayed = replay(&incident, |_| {}).expect("it is read");
        let replayed = replayed.unwrap_or_else(|difference| panic!("node {node}: {difference}"));
        assert_eq!(replayed.same + replayed.unknown, incident.steps() as u64);
        steps += replayed.same;
        lives += replayed.lives.len() as u64;
        torn += incident.spans.iter().filter(|span| span.torn.is_some()).count();
        assert!(incident.spans.iter().all(|span| span.start.reason != Reason::Gap), "no disk failed");
    }
    println!("{steps} recorded steps of {lives} lives replayed, {torn} torn ends cut");
    // A life may be too short to be recorded; a ring may have lost the first.
    assert!(steps > 100 && (lives > kills / 2 || kills > 100), "{steps} {lives}");
}
