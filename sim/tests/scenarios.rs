//! The shipped scenarios, the malformed ones, and what may happen to any of them on the way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use apus_engine::{NodeId, Seed};
use apus_sim::fault::{Cost, Kind, Target};
use apus_sim::scenario::{Plan, Problems, Scenario, Shipped, reference, schema, shipped};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn toml_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    files.sort_by_key(|path| stem(path));
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("it has a name").to_string_lossy().into_owned()
}

/// Compares with a file, or writes it when `UPDATE_EXPECTED` is set.
fn expect_file(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, text).expect("it can be written");
        return;
    }
    let there = std::fs::read_to_string(path).unwrap_or_default().replace("\r\n", "\n");
    assert!(there == text, "{} is stale; set UPDATE_EXPECTED=1 to write it anew:\n{text}", path.display());
}

fn parsed() -> Vec<Scenario> {
    let read = |(name, text): &(&str, &str)| match Scenario::parse(&format!("scenarios/{name}.toml"), text) {
        Ok(scenario) => scenario,
        Err(problems) => panic!("{problems}"),
    };
    shipped().iter().map(read).collect()
}

#[test]
fn all_scenarios_are_shipped() {
    let there: Vec<String> = toml_files(&root().join("scenarios")).iter().map(|path| stem(path)).collect();
    let listed: Vec<&str> = shipped().iter().map(|(name, _)| *name).collect();
    assert_eq!(there, listed, "list the file in sim/src/scenario/shipped.rs");
    assert!(listed.len() >= 42);
}

#[test]
fn shipped_scenarios_can_be_read_and_are_told_in_two_lines() {
    for scenario in parsed() {
        let lines: Vec<&str> = scenario.about.lines().collect();
        assert_eq!(lines.len(), 2, "{}: {lines:?}", scenario.name);
        assert!(lines.iter().all(|line| line.len() <= 110), "{}", scenario.name);
        let streams = scenario.name.starts_with("stream-") || scenario.name == "swarm-streams-7";
        // Frames are in no other world.
        let frames = scenario.worlds == ["emulated"] && scenario.name.starts_with("vip-");
        assert!(scenario.worlds.contains(&"heap".into()) != (streams || frames), "{}", scenario.name);
    }
}

#[test]
fn every_kind_of_fault_is_in_a_scenario() {
    let mut used = BTreeSet::new();
    for scenario in parsed() {
        used.extend(scenario.faults.iter().map(|fault| fault.kind));
        used.extend(scenario.swarm.iter().map(|fault| fault.kind));
    }
    let unused: Vec<&str> = Kind::ALL.iter().filter(|kind| !used.contains(kind)).map(|kind| kind.spec().name).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn what_turmoil_can_carry_runs_there_too() {
    for scenario in parsed() {
        let kinds = scenario.faults.iter().map(|fault| fault.kind).chain(scenario.swarm.iter().map(|fault| fault.kind));
        let carried = kinds.into_iter().all(|kind| kind.spec().worlds.contains(&"turmoil"));
        if carried && scenario.nodes <= 16 && scenario.services.is_empty() {
            assert!(scenario.worlds.contains(&"turmoil".into()), "{}", scenario.name);
        }
    }
}

/// Each problem is told with a place that is in the file, and with a mend.
fn check_problems(name: &str, bytes: &[u8], problems: &Problems) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!problems.all.is_empty(), "{name}");
    for problem in &problems.all {
        assert!(problem.line >= 1 && problem.line <= text.lines().count() + 1, "{name}: {problem}");
        let line = text.split('\n').nth(problem.line - 1).unwrap_or_default();
        assert!(problem.column >= 1 && problem.column <= line.chars().count() + 1, "{name}: {problem}");
        assert!(!problem.help.is_empty() && !problem.message.is_empty(), "{name}: {problem}");
    }
}

#[test]
fn malformed_files_are_refused_with_place_and_mend() {
    let files = toml_files(&root().join("scenarios/bad"));
    assert!(files.len() >= 120);
    for path in files {
        let bytes = std::fs::read(&path).expect("it can be read");
        let name = format!("scenarios/bad/{}.toml", stem(&path));
        let problems = Scenario::parse_bytes(&name, &bytes).expect_err(&name);
        check_problems(&name, &bytes, &problems);
        let json = problems.to_json();
        assert_eq!(json[0]["file"], name.as_str());
        assert_eq!(json.as_array().map(Vec::len), Some(problems.all.len()));
        expect_file(&path.with_extension("expected"), &problems.to_string());
    }
}

#[test]
fn huge_files_are_refused_at_once() {
    let huge = b"# not a scenario\n".repeat(620_000);
    assert!(huge.len() > 10_000_000);
    let problems = Scenario::parse_bytes("huge.toml", &huge).expect_err("it is refused");
    assert!(problems.to_string().contains("at most 1 MiB"), "{problems}");
}

#[test]
fn the_schema_is_fresh() {
    let text = serde_json::to_string_pretty(&schema()).expect("it is JSON") + "\n";
    expect_file(&root().join("scenarios/schema.json"), &text);
}

#[test]
fn the_reference_is_fresh() {
    let path = root().join("docs/scenarios.md");
    let page = std::fs::read_to_string(&path).expect("it can be read").replace("\r\n", "\n");
    let (head, _) = page.split_once("<!-- generated -->").expect("the page has a mark for the generated part");
    expect_file(&path, &format!("{head}<!-- generated -->\n\n{}", reference()));
}

/// Damages a file: bits, bytes, pieces of other files, repeats, ends, odd values, and tokens in each other's place.
fn damage(bytes: &mut Vec<u8>, files: &[Shipped], pick: &mut dyn FnMut(usize) -> usize) {
    const ODD: [&str; 14] = [
        "99999999999999999999",
        "-1",
        "\"\"",
        "[]",
        "{}",
        "0",
        "µ",
        "\u{0}",
        "n65535",
        "0x",
        "1e9",
        "\'\'\'",
        "\u{feff}",
        "\r\n",
    ];
    for _ in 0..=pick(3) {
        let at = pick(bytes.len());
        let end = (at + pick(12)).min(bytes.len());
        match pick(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << pick(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let other = files[pick(files.len())].1.as_bytes();
                let from = pick(other.len());
                let to = (from + pick(60)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes.truncate(at),
            5 => {
                let odd = ODD[pick(ODD.len())].bytes();
                bytes.splice(at..end, odd);
            }
            _ => swap_tokens(bytes, pick),
        }
    }
}

/// Two words of the file change places.
fn swap_tokens(bytes: &mut Vec<u8>, pick: &mut dyn FnMut(usize) -> usize) {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_\"%.".contains(&byte);
    let mut words: Vec<(usize, usize)> = Vec::new();
    let mut start = None;
    for (at, byte) in bytes.iter().copied().chain([b' ']).enumerate() {
        match (is_word(byte), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    let (a, b) = (pick(words.len()), pick(words.len()));
    if let (Some(first), Some(second)) = (words.get(a.min(b)), words.get(a.max(b)))
        && a != b
    {
        let (one, two) = (bytes[first.0..first.1].to_vec(), bytes[second.0..second.1].to_vec());
        bytes.splice(second.0..second.1, one);
        bytes.splice(first.0..first.1, two);
    }
}

/// Files changed by chance never make the parser or the planner panic; each is read, or refused with places.
#[test]
fn damaged_files_never_panic() {
    let files = shipped();
    let mut rng = Seed(0x5eed).stream("damaged files");
    let mut accepted = 0;
    let mut pick = |below: usize| usize::try_from(rng.below(below.max(1) as u64)).expect("it is small");
    for case in 0..24_000_u64 {
        let mut bytes = files[pick(files.len())].1.as_bytes().to_vec();
        damage(&mut bytes, files, &mut pick);
        // Under its own name a damaged file may be a good one.
        let first = String::from_utf8_lossy(&bytes);
        let name = first.lines().next().unwrap_or("").split('"').nth(1).unwrap_or("x").to_owned();
        match Scenario::parse_bytes(&format!("{name}.toml"), &bytes) {
            Ok((scenario, _)) => {
                accepted += 1;
                let _ = (scenario.nodes <= 64).then(|| Plan::draw(&scenario, case));
            }
            Err(problems) => {
                check_problems("damaged.toml", &bytes, &problems);
                assert!(problems.to_string().lines().count() >= 5 * problems.all.len().min(20));
            }
        }
    }
    assert!(accepted > 1_000, "{accepted} of 24000 damaged files were good ones: the damage is too heavy to be a test");
}

#[test]
fn plans_keep_their_promises() {
    for scenario in parsed() {
        let seeds = if scenario.nodes > 64 { 2 } else { 300 };
        for seed in 0..seeds {
            let plan = Plan::draw(&scenario, seed);
            check_plan(&plan);
        }
        assert_eq!(Plan::draw(&scenario, 7), Plan::draw(&scenario, 7), "{}", scenario.name);
    }
}

fn check_plan(plan: &Plan) {
    let scenario = &plan.scenario;
    let (name, seed) = (&scenario.name, plan.seed);
    assert_eq!(plan.configs.len(), usize::from(scenario.nodes));
    for (at, config) in plan.configs.iter().enumerate().take(20) {
        assert_eq!(config.check(), Ok(()), "{name}, seed {seed}");
        assert_eq!(usize::from(config.me.0), at);
    }
    assert!(plan.faults.is_sorted(), "{name}, seed {seed}");
    let minority = usize::from(scenario.voters - 1) / 2;
    let mut disks: BTreeSet<NodeId> = BTreeSet::new();
    for fault in &plan.faults {
        assert!(fault.at + fault.lasts <= scenario.duration, "{name}, seed {seed}: {fault:?}");
        assert!(
            !matches!(fault.target, Target::Random | Target::Voter | Target::Some(_) | Target::Minority | Target::Half),
            "{name}, seed {seed}: {fault:?}"
        );
        if fault.kind.spec().cost == Cost::Disk
            && let Target::Nodes(nodes) = &fault.target
        {
            disks.extend(nodes.iter().filter(|node| node.0 < scenario.voters));
        }
    }
    assert!(disks.len() <= minority, "{name}, seed {seed}: the disks of {disks:?}");
    for moment in plan.faults.iter().filter(|fault| fault.scripted.is_none()).map(|fault| fault.at) {
        let down = plan.faults.iter().filter(|fault| {
            fault.kind.spec().cost != Cost::Free && fault.at <= moment && moment < fault.at + fault.lasts
        });
        let down: Vec<_> = down.collect();
        let mut voters: BTreeSet<NodeId> = BTreeSet::new();
        for fault in down.iter().filter(|fault| fault.kind.spec().aim != apus_sim::fault::Aim::Cut) {
            if let Target::Nodes(nodes) = &fault.target {
                voters.extend(nodes.iter().filter(|node| node.0 < scenario.voters));
            }
        }
        let swarm_only = down.iter().all(|fault| fault.scripted.is_none());
        assert!(!swarm_only || voters.len() <= minority, "{name}, seed {seed} at {moment}: {down:?}");
    }
}

/// Taking one kind or one scripted fault away leaves all others as they were.
#[test]
fn streams_are_independent() {
    let text = shipped().iter().find(|(name, _)| *name == "common-swarm-8").expect("it is shipped").1;
    let mut scenario = Scenario::parse("common-swarm-8.toml", text).expect("it is good");
    // Without a budget nothing is dropped because of another one.
    scenario.swarm.retain(|fault| fault.kind.spec().cost == Cost::Free);
    for seed in 0..50 {
        let all = Plan::draw(&scenario, seed).faults;
        for without in 0..scenario.swarm.len() {
            let mut fewer = scenario.clone();
            let gone = fewer.swarm.remove(without).kind;
            let rest: Vec<_> = all.iter().filter(|fault| fault.kind != gone).cloned().collect();
            assert_eq!(Plan::draw(&fewer, seed).faults, rest);
        }
    }
}

/// Every kind of the common swarm is really drawn, and no seed has them all.
#[test]
fn the_swarm_is_a_swarm() {
    let text = shipped().iter().find(|(name, _)| *name == "common-swarm-8").expect("it is shipped").1;
    let scenario = Scenario::parse("common-swarm-8.toml", text).expect("it is good");
    let mut seen = BTreeSet::new();
    let mut most = 0;
    for seed in 0..400 {
        let kinds: BTreeSet<Kind> = Plan::draw(&scenario, seed).faults.iter().map(|fault| fault.kind).collect();
        most = most.max(kinds.len());
        seen.extend(kinds);
    }
    let never: Vec<&str> =
        scenario.swarm.iter().filter(|fault| !seen.contains(&fault.kind)).map(|fault| fault.kind.spec().name).collect();
    assert!(never.is_empty(), "{never:?}");
    assert!(most < scenario.swarm.len());
}
