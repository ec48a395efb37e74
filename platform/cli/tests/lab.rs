//! A lab of real nodes: it comes up, is struck, heals and goes without a trace; and scenarios run in it.

#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{apus, root};

/// All that a lab of this name has on the machine.
fn traces(name: &str) -> Vec<String> {
    let names = |folder: &str, such: &dyn Fn(&str) -> bool| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| such(name)).collect()
    };
    let mut all = names("/run/netns", &|space| space.starts_with(&format!("apus-lab-{name}-")));
    all.extend(names("/run/apus-lab", &|folder| folder == name));
    all.extend(names("/dev/shm", &|ring| ring.starts_with(&format!("apus-lab-{name}-"))));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    all.extend(mounts.lines().filter(|line| line.contains(&format!("/run/apus-lab/{name}"))).map(str::to_owned));
    let ours = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("/run/apus-lab/{name}/"))
    };
    all.extend(names("/proc", &|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && ours(pid)));
    all
}

/// A lab that is gone with the value, whatever happened.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        apus(&["lab", "down", "--name", &self.0]);
    }
}

/// Whether a machine refused for want of rights or tools; told, then.
fn skipped(what: &str, code: i32, stderr: &str) -> bool {
    let skip = code == 64 && (stderr.contains("run it as root") || stderr.contains("is missing"));
    if skip {
        println!("{what}: SKIPPED: {}", stderr.trim());
    }
    skip
}

#[test]
fn a_lab_comes_up_outlives_its_dispatcher_and_goes_without_a_trace() {
    let name = format!("t{}", std::process::id());
    let of = ["--name", &name];
    let up = apus(&[&["lab", "up", "--nodes", "3", "--format", "json"], &of[..]].concat());
    if skipped("lab", up.code, &up.stderr) {
        return;
    }
    let gone = Gone(name.clone());
    assert_eq!(up.code, 0, "{}", up.stderr);
    assert_eq!(up.json()["address"], "10.98.0.100");
    let twice = apus(&[&["lab", "up"], &of[..]].concat());
    assert_eq!((twice.code, twice.stderr.contains("apus lab down")), (64, true), "{}", twice.stderr);

    let ask = |times: usize| {
        let curl = format!(
            "for i in $(seq {times}); do curl -s --connect-timeout 0.2 --max-time 0.4 http://10.98.0.100/ || echo miss; sleep 0.05; done"
        );
        let ran = apus(&[&["lab", "exec"], &of[..], &["client", "--", "sh", "-c", &curl]].concat());
        ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = ask(20);
    assert!(before.iter().all(|line| line.starts_with("web on n")), "{before:?}");

    let struck = apus(&[&["lab", "fault"], &of[..], &["dispatcher", "power-off"]].concat());
    assert_eq!(struck.code, 0, "{}", struck.stderr);
    let after = ask(60);
    assert!(after[40..].iter().all(|line| line.starts_with("web on n")), "{after:?}");
    let status = apus(&[&["lab", "status", "--format", "json"], &of[..]].concat()).json();
    let nodes = status["nodes"].as_array().expect("a list");
    let off: Vec<_> = nodes.iter().filter(|node| node["machine"] == "off").collect();
    assert_eq!((nodes.len(), off.len()), (3, 1), "{status}");
    let node = off[0]["node"].to_string();
    let again = apus(&[&["lab", "fault"], &of[..], &[&node, "kill"]].concat());
    assert_eq!((again.code, again.stderr.contains("has no power")), (64, true), "{}", again.stderr);
    assert!(!after.iter().skip(40).any(|line| line.ends_with(&format!("n{node}"))), "{after:?}");

    let healed = apus(&[&["lab", "heal"], &of[..]].concat());
    assert_eq!(healed.code, 0, "{}", healed.stderr);
    let cut = apus(&[&["lab", "fault"], &of[..], &[&node, "loss", "--rate", "30"]].concat());
    assert_eq!(cut.code, 0, "{}", cut.stderr);
    let starved = apus(&[&["lab", "fault"], &of[..], &["0", "starve", "--rate", "5"]].concat());
    if starved.stderr.contains("SKIPPED") {
        println!("{}", starved.stderr.trim());
    } else {
        assert_eq!(starved.code, 0, "{}", starved.stderr);
    }
    let unknown = apus(&[&["lab", "fault"], &of[..], &["0", "poweroff"]].concat());
    assert_eq!((unknown.code, unknown.stderr.contains("did you mean `power-off`?")), (64, true), "{}", unknown.stderr);
    drop(gone);
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn what_an_interrupted_command_leaves_is_taken_away() {
    let name = format!("k{}", std::process::id());
    let mut up = Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(["lab", "up", "--nodes", "3", "--plain", "--name", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let gone = Gone(name.clone());
    // Until a daemon runs, so that something is left.
    let began = Instant::now();
    while !Path::new(&format!("/run/apus-lab/{name}/n1/control")).exists() && began.elapsed() < Duration::from_secs(20)
    {
        if let Some(code) = up.try_wait().expect("it can be asked") {
            let output = up.wait_with_output().expect("it ended");
            assert!(skipped("lab", code.code().unwrap_or(1), &String::from_utf8_lossy(&output.stderr)), "it ended");
            return;
        }
        sleep(Duration::from_millis(20));
    }
    up.kill().expect("it runs");
    up.wait().expect("it ended");
    assert!(traces(&name).len() > 5, "{:?}", traces(&name));
    drop(gone);
    assert_eq!(traces(&name), Vec::<String>::new());
}

/// The machine with a database loses power, with what its disk had not written: every row that was acknowledged is found elsewhere, what
/// only that machine had is saved, and in the end all trees are equal.
#[test]
fn a_database_outlives_its_machine() {
    let name = format!("f{}", std::process::id());
    let gone = Gone(name.clone());
    let ask = |more: &[&str]| apus(&[&["lab", "demo", "files", "--name", &name, "--format", "json"], more].concat());
    let mut ran = ask(&[]);
    if ran.stderr.contains("`sqlite3` is missing") {
        println!("a database: SKIPPED: {}; files instead", ran.stderr.trim());
        ran = ask(&["--plain"]);
    }
    if skipped("a database", ran.code, &ran.stderr) {
        return;
    }
    let said = ran.json();
    // How long it took is told, and not judged on a machine that does other things.
    assert!(ran.code == 0 || ran.code == 2, "{}{}", ran.stdout, ran.stderr);
    assert!(
        said["acknowledged"].as_u64() >= Some(200) && said["found"].as_u64() >= said["acknowledged"].as_u64(),
        "{said}"
    );
    assert!(said["writer_before"] != said["writer_after"] && said["position"].as_u64() > Some(0), "{said}");
    assert_eq!((&said["lost"], &said["equal"]), (&serde_json::json!([]), &serde_json::json!(true)), "{said}");
    assert!(said["orphans"].as_array().is_some_and(|saved| !saved.is_empty()), "{said}");
    let times: Vec<i64> =
        said["timeline"].as_array().into_iter().flatten().filter_map(|line| line["ms"].as_i64()).collect();
    assert!(times.len() >= 8 && times.is_sorted(), "{said}");
    drop(gone);
    assert_eq!(traces(&name), Vec::<String>::new());
}

/// The files that heap and turmoil run, with the verdict that heap gives.
#[test]
fn scenarios_run_live_with_the_verdict_of_the_heap() {
    let names = ["dispatcher-crash", "partition-dispatcher", "cold-fail-over", "files-power-off"];
    let start = |name: &&str| {
        Command::new(env!("CARGO_BIN_EXE_apus"))
            .args(["run", name, "--world", "live", "--seed", "1", "--format", "json"])
            .current_dir(root())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    let all: Vec<_> = names.iter().map(start).collect();
    for (name, child) in names.iter().zip(all) {
        let output = child.wait_with_output().expect("it ended");
        let (code, stderr) = (output.status.code().unwrap_or(1), String::from_utf8_lossy(&output.stderr).into_owned());
        if skipped(name, code, &stderr) {
            continue;
        }
        let heap = apus(&["run", name, "--world", "heap", "--seed", "1"]);
        assert_eq!(code, heap.code, "{name}: {}{stderr}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn what_a_lab_cannot_inject_is_refused_with_its_place() {
    let ran = apus(&["run", "slow-pair", "--world", "live"]);
    assert_eq!(ran.code, 64);
    for said in
        ["the world `live` does not carry `slow-pair`", "--> slow-pair:", "at `fault[0].kind`", "`--world heap`"]
    {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
}

/// The page of docs that is made from the code is as it is made.
#[test]
fn the_list_of_live_scenarios_is_the_one_in_the_docs() {
    let file = common::temp("lab").join("scenarios.md");
    let ran = apus(&["lab", "scenarios", "--table", &file.display().to_string()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let made = std::fs::read_to_string(file).expect("it was written");
    let kept = root().join("docs/lab-scenarios.md");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&kept, &made).expect("it can be written");
    }
    let kept = std::fs::read_to_string(kept).unwrap_or_default();
    assert!(made == kept, "docs/lab-scenarios.md is another one: UPDATE_EXPECTED=1 writes it");
}
