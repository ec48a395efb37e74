//! Programs that lose their life in the middle of their work, and the next life of each.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use apus_ft::supervise::Supervisor;
use apus_ft::{Config, Error, Ft, Recovered, Refusal, Tracking};

const ROLE: &str = "APUS_FT_TEST_ROLE";
const TABLE: usize = 64 << 12;

/// The tests of one process share one range of addresses.
static ONE: Mutex<()> = Mutex::new(());

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("apus-ft-test-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A program as a user would write one: a table of counters, each step a change of some, and a checkpoint. What it has done is told
/// on its output only after the checkpoint.
#[test]
fn program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut config = Config::from_env("counters").expect("the environment is right");
    config.layout = Some("counters 1".into());
    config.capacity = 4 << 20;
    if role.contains("hashed") {
        config.tracking = Tracking::Hashed;
    }
    let mut ft = Ft::init(config).unwrap_or_else(|error| {
        println!("refused {error}");
        std::process::exit(3)
    });
    let mut table = ft.arena("table", TABLE).expect("there is room");
    println!("began {:?} {}", ft.recovered(), ft.epoch());
    let word = |table: &[u8], at: usize| u64::from_le_bytes(table[at * 8..at * 8 + 8].try_into().expect("eight"));
    let words = table.len() / 8;
    let start = word(table.as_slice(), 0);
    assert_eq!(digest(table.as_slice()), expected(start, words), "the state is that of step {start}");
    let steps: u64 = std::env::var("STEPS").expect("steps").parse().expect("a number");
    let until = if role.contains("once") { start + steps } else { steps };
    for step in start + 1..=until {
        let bytes = table.as_mut_slice();
        change(step, words, |at, value| bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes()));
        ft.checkpoint().expect("it is made");
        if role.contains("saves") && step % 7 == 0 {
            ft.save().expect("it is written");
            println!("saved {step}");
        }
        println!("did {step}");
    }
    println!("end {} {:016x}", word(table.as_slice(), 0), digest(table.as_slice()));
}

/// What a step does: a few words anywhere, and its number in the first.
fn change(step: u64, words: usize, mut set: impl FnMut(usize, u64)) {
    let mut seed = step;
    for _ in 0..=step % 5 {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(step | 1);
        set(1 + (seed >> 33) as usize % (words - 1), seed);
    }
    set(0, step);
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).zip(1_u64..).fold(0, |sum, (word, at)| {
        let word = u64::from_le_bytes(word.try_into().expect("eight"));
        sum.wrapping_add(if word == 0 { 0 } else { (word ^ at.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) })
    })
}

/// What the digest is after so many steps.
fn expected(steps: u64, words: usize) -> u64 {
    let mut model = BTreeMap::new();
    (1..=steps).for_each(|step| change(step, words, |at, value| _ = model.insert(at, value)));
    let mut bytes = vec![0; words * 8];
    model
        .into_iter()
        .for_each(|(at, value): (usize, u64)| bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes()));
    digest(&bytes)
}

fn child(role: &str, steps: u64, folder: Option<&Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "program", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env("STEPS", steps.to_string()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    match folder {
        Some(folder) => command.env("APUS_FT_DIR", folder),
        None => command.env_remove("APUS_FT_DIR"),
    };
    command
}

/// Runs one life, killed after so many lines of work if that is asked. What it said.
fn life(
    supervisor: &Supervisor,
    role: &str,
    steps: u64,
    folder: Option<&Path>,
    kill_after: Option<u64>,
) -> Vec<String> {
    use std::io::{BufRead as _, BufReader};
    let mut command = child(role, steps, folder);
    let mut child = supervisor.prepare(&mut command).spawn().expect("it starts");
    let mut said = Vec::new();
    let mut did = 0;
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        did += u64::from(line.starts_with("did "));
        said.push(line);
        if kill_after == Some(did) {
            child.kill().expect("it is ours");
        }
    }
    let status = child.wait().expect("it ends");
    assert!(status.success() || status.signal() == Some(9) || status.code() == Some(3), "{status} {said:?}");
    said
}

fn number(said: &[String], word: &str) -> Option<u64> {
    let last = said.iter().rev().find_map(|line| line.strip_prefix(word));
    last.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
}

/// Killed again and again; each life begins with at least what the one before had told to be kept, whole.
fn killed_lives(role: &str, kills: u64) {
    let supervisor = Supervisor::new(&std::env::temp_dir()).expect("it listens");
    let (mut kept, mut seed) = (0, 7_u64);
    for kill in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let said = life(&supervisor, role, u64::MAX, None, Some(1 + (seed >> 33) % 60));
        let began = said.iter().find(|line| line.contains("began ")).expect("it began");
        assert!(began.contains(if kill == 0 { "Cold" } else { "Segment" }), "{began}");
        let first = said.iter().find_map(|line| line.strip_prefix("did ")?.parse().ok()).unwrap_or(kept + 1);
        // A checkpoint may count before its line is out.
        assert!(first > kept && first <= kept + 2, "kept {kept}, goes on with {first}");
        kept = number(&said, "did ").unwrap_or(kept);
    }
    assert_eq!(supervisor.kept(), 1);
    let said = life(&supervisor, &format!("{role} once"), 3, None, None);
    let steps = number(&said, "end ").expect("it ended well");
    assert!(steps >= kept + 3);
}

#[test]
fn a_killed_program_goes_on_from_its_last_checkpoint() {
    killed_lives("segment", 40);
}

#[test]
fn so_it_does_where_pages_are_hashed() {
    killed_lives("hashed", 6);
}

#[test]
fn without_its_supervisor_it_goes_on_from_its_last_file() {
    let folder = folder("files");
    for round in 0..12 {
        let supervisor = Supervisor::new(&std::env::temp_dir()).expect("it listens");
        let said = life(&supervisor, "saves", u64::MAX, Some(&folder), Some(10 + round * 3));
        let began = said.iter().find(|line| line.contains("began ")).expect("it began").clone();
        let first: u64 = said.iter().find_map(|line| line.strip_prefix("did ")?.parse().ok()).expect("it worked");
        assert!(began.contains(if round == 0 { "Cold" } else { "Files" }), "{began}");
        assert_eq!(first % 7, 1, "it goes on behind a step that was saved");
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

/// A damaged file is told, and the checkpoint before it is used; without a whole one nothing begins.
#[test]
fn a_damaged_file_is_named_and_the_one_before_is_used() {
    let folder = folder("damaged");
    let lives = |kill| {
        let supervisor = Supervisor::new(&std::env::temp_dir()).expect("it listens");
        life(&supervisor, "saves", u64::MAX, Some(&folder), Some(kill))
    };
    lives(30);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("it is there")
        .map(|entry| entry.expect("it is there").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "apusft"))
        .collect();
    files.sort();
    let last = files.last().expect("some were saved");
    let mut bytes = std::fs::read(last).expect("it is there");
    let at = bytes.len() - 40;
    bytes[at] ^= 4;
    std::fs::write(last, bytes).expect("it is ours");
    let said = lives(3);
    let began = said.iter().find(|line| line.contains("began ")).expect("it began");
    assert!(
        began.contains("Files") && began.contains("Damaged") && began.contains(&last.display().to_string()),
        "{began}"
    );
    assert_eq!(number(&said[..said.len().min(6)], "did ").map(|step| step >= 22), Some(true), "{said:?}");
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn another_layout_is_refused_and_nothing_is_lost() {
    let _one = ONE.lock();
    let folder = folder("layout");
    let config = |layout: &str, afresh| Config {
        folder: Some(folder.clone()),
        layout: Some(layout.into()),
        afresh,
        ..Config::new("layouts")
    };
    let mut ft = Ft::init(config("one", false)).expect("it begins");
    let mut arena = ft.arena("a", 10_000).expect("there is room");
    arena.as_mut_slice()[9_999] = 77;
    let saved = ft.save().expect("it is written");
    assert!(saved.full && saved.file.is_some());
    drop((ft, arena));
    let refused = Ft::init(config("two", false)).expect_err("another layout");
    assert!(matches!(refused, Error::Refused(Refusal::OtherLayout { .. })), "{refused}");
    let other = Ft::init(config("two", true)).expect("it was asked for");
    assert_eq!(other.recovered(), &Recovered::Cold);
    drop(other);
    let mut ft = Ft::init(config("one", false)).expect("it is there");
    assert!(matches!(ft.recovered(), Recovered::Files { epoch: 1, .. }), "{:?}", ft.recovered());
    assert_eq!(ft.arena("a", 10_000).expect("it is there").as_slice()[9_999], 77);
    drop(ft);
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn what_is_asked_wrongly_is_told() {
    let _one = ONE.lock();
    let init = |change: fn(&mut Config)| {
        let mut config = Config::new("wrong");
        change(&mut config);
        Ft::init(config).map(|_| ()).expect_err("it is wrong").to_string()
    };
    assert!(init(|config| config.capacity = 5_000).contains("5000 bytes"));
    assert!(init(|config| config.name = "a b".into()).contains("`a b` is no name"));
    assert!(init(|config| config.base = 12).contains("0xc"));
    let mut ft = Ft::init(Config { capacity: 1 << 16, ..Config::new("small") }).expect("it begins");
    let again = Ft::init(Config::new("again")).expect_err("its addresses are taken");
    assert!(matches!(again, Error::Refused(Refusal::Occupied { .. })), "{again}");
    assert!(ft.arena("big", 1 << 16).expect_err("too big").to_string().contains("61440 are left"));
    let arena = ft.arena("some", 100).expect("it fits");
    assert_eq!((arena.len(), arena.is_empty()), (4096, false));
    assert!(ft.arena("some", 100).expect_err("twice").to_string().contains("given already"));
    assert!(ft.arena("", 1).is_err());
    assert!(ft.save().expect_err("no folder").to_string().contains("Config::folder"));
    assert!(Ft::hbeat(1, Duration::from_secs(1)).is_err() || std::env::var_os("NOTIFY_SOCKET").is_some());
}

/// Checkpoints of all sizes, far more than a log holds, each read by a life of its own.
#[test]
fn large_and_small_checkpoints_are_what_memory_was() {
    let _one = ONE.lock();
    let supervisor = Supervisor::new(&std::env::temp_dir()).expect("it listens");
    drop(supervisor);
    let bytes = 24 << 20;
    let config = || Config { capacity: 32 << 20, layout: Some("l".into()), ..Config::new("large") };
    let mut ft = Ft::init(config()).expect("it begins");
    let mut arena = ft.arena("all", bytes).expect("there is room");
    let mut seed = 1_u64;
    let mut model = vec![0_u8; bytes];
    for round in 0..60 {
        let many = match round % 10 {
            3 => 6_000,
            7 => 1_500,
            _ => 1 + round * 3,
        };
        for _ in 0..many {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 20) as usize % bytes;
            arena.as_mut_slice()[at] = round as u8 + 1;
            model[at] = round as u8 + 1;
        }
        let made = ft.checkpoint().expect("it is made");
        assert!(made.pages > 0 && made.pages <= many + 1);
        assert_eq!(ft.checkpoint().expect("nothing is new").pages, 0);
    }
    // What is written after the last checkpoint is not in the next life.
    arena.as_mut_slice()[5] = 255;
    let segment = ft.segment().expect("one more hold on it");
    drop((ft, arena));
    let mut ft = Ft::init(Config { segment: Some(segment), ..config() }).expect("it begins");
    assert!(matches!(ft.recovered(), Recovered::Segment { epoch: 1, number: 60 }), "{:?}", ft.recovered());
    let arena = ft.arena("all", bytes).expect("it is there");
    assert!(arena.as_slice() == model, "memory differs");
    assert_eq!(ft.checkpoint().expect("nothing is new").pages, 0);
}
