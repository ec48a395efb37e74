//! A plug-in that writes down what it is told, and its cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::tests::{began, service};

/// Writes a line for each call, and does as the file `mood` says.
const PLUGIN: &str = "#!/bin/sh
read line
echo \"$1 $2 $APUS_EPOCH $APUS_TARGET $line\" >> FOLDER/calls
case $(cat FOLDER/mood) in
    slow) sleep 1000 & echo $! > FOLDER/child; echo waits; wait ;;
    stale) echo later; exit 3 ;;
    unknown) exit 4 ;;
    bad) echo no answer; exit 1 ;;
esac
echo stopped
";

fn put(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("a file");
}

/// Calls so far: what was on standard input, with what came before it.
fn calls(folder: &Path) -> Vec<(Vec<String>, Value)> {
    let text = fs::read_to_string(folder.join("calls")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (words, input) = line.split_once('{').expect("a line");
            let words = words.split_whitespace().map(str::to_owned).collect();
            (words, serde_json::from_str(&format!("{{{input}")).expect("JSON"))
        })
        .collect()
}

pub(crate) fn fenced() {
    let services = service("web", "candidates = [2, 0, 1]")
        + "[fence]\ncommand = [\"FOLDER/fence\"]\nwithin = \"2s\"\nauto = true\nafter = \"2s\"\ntargets = { 2 = \"ipmi2\" }\n";
    let mut cluster = Cluster::new("fenced", 3, "", &services);
    let folder = cluster.folder().to_path_buf();
    put(&folder, "fence", &PLUGIN.replace("FOLDER", &folder.display().to_string()));
    fs::set_permissions(folder.join("fence"), fs::Permissions::from_mode(0o755)).expect("a file");
    put(&folder, "mood", "good");
    cluster.ready("web", 0, |node, row| node == 2 && row["node"] == 2);

    // By an operator: looked at, refused, not done, done.
    let ask = |more: Value| {
        let mut question = json!({"do": "fence", "node": 2});
        more.as_object().into_iter().flatten().for_each(|(key, value)| question[key] = value.clone());
        cluster.try_ask(0, &question)
    };
    assert_eq!(ask(json!({"action": "status"})).expect("it can")["said"], "stopped");
    let refused = ask(json!({})).expect_err("it is up");
    assert!(refused.contains("node 2 is up") && refused.contains("--force"), "{refused}");
    assert!(cluster.try_ask(2, &json!({"do": "fence", "node": 2, "force": true})).is_err(), "not itself");
    let plan = ask(json!({"force": true, "dry": true, "why": "a \"test\""})).expect("a plan");
    assert_eq!((&plan["input"]["why"], &plan["holds"]), (&json!("a \"test\""), &json!(["web.0"])), "{plan}");
    assert_eq!(calls(&folder).len(), 1, "a plan does nothing");
    for (mood, said) in [
        ("bad", "off failed: no answer"),
        ("stale", "off refused: a later epoch"),
        ("unknown", "does not know this node"),
    ] {
        put(&folder, "mood", mood);
        let refused = ask(json!({"force": true})).expect_err(mood);
        assert!(refused.contains(said), "{mood}: {refused}");
    }
    put(&folder, "mood", "slow");
    let asked = Instant::now();
    let crowd = crowd(cluster.folder().join("control0"));
    let refused = ask(json!({"force": true, "action": "reboot"})).expect_err("it is late");
    drop(crowd.join().expect("they ask"));
    assert!(refused.contains("not done within 2 s and was killed. waits"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(5));
    let child = fs::read_to_string(folder.join("child")).expect("it began").trim().parse().expect("a number");
    cluster.wait("the end of its child", || began(child).is_none());
    put(&folder, "mood", "good");
    assert_eq!(
        ask(json!({"force": true, "why": "x".repeat(3_000)})).expect("it is done")["done"],
        true,
        "a long reason"
    );
    let done = ask(json!({"force": true, "why": "test"})).expect("it is done");
    let all = calls(&folder);
    let (words, input) = all.last().expect("it was called");
    let epoch = done["epoch"].as_u64().expect("a number");
    assert_eq!(words[..], ["off".to_owned(), "2".into(), epoch.to_string(), "ipmi2".into()]);
    assert_eq!(
        (&input["epoch"], &input["by"], &input["why"], &input["cluster"]),
        (&json!(epoch), &json!(0), &json!("test"), &json!(98))
    );
    let epochs: Vec<u64> = all.iter().filter_map(|(_, input)| input["epoch"].as_u64()).collect();
    assert!(epochs.is_sorted() && epochs.last() > epochs.first(), "{epochs:?}");

    // A node that remembers a later epoch asks with no lower one.
    put(&folder.join("store0"), "fenced", "{\"2\": 1000000}");
    let many = calls(&folder).len();
    let refused = ask(json!({"force": true})).expect_err("it is lower");
    assert!(refused.contains("a later epoch was there before"), "{refused}");
    assert_eq!(calls(&folder).len(), many, "and the plug-in does not hear of it");
    fs::remove_file(folder.join("store0/fenced")).expect("it is there");

    // What it remembers cannot be read: nobody knows what it asked with.
    put(&folder.join("store0"), "fenced", "{\"2\"");
    let refused = ask(json!({"force": true})).expect_err("it is damaged");
    assert!(refused.contains("store0/fenced: "), "{refused}");
    assert_eq!(calls(&folder).len(), many, "and the plug-in does not hear of it");
    fs::remove_file(folder.join("store0/fenced")).expect("it is there");

    by_itself(&mut cluster, &folder);
}

/// Askers that say nothing, more than there are places, soon after now.
fn crowd(socket: PathBuf) -> JoinHandle<Vec<UnixStream>> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        (0..70).map(|_| UnixStream::connect(&socket).expect("it listens")).collect()
    })
}

/// A node that dies with what it holds is fenced once, by whoever coordinates; and without a majority nobody is.
fn by_itself(cluster: &mut Cluster, folder: &Path) {
    let many = calls(folder).len();
    let status = |cluster: &Cluster| cluster.ask(0, &json!({"do": "cluster"}))["nodes"][2]["status"].clone();
    // A daemon that is started anew is no dead machine.
    cluster.kill(2);
    cluster.wait("the verdict", || status(cluster) == "down");
    cluster.start(2);
    cluster.wait("its return", || status(cluster) == "up");
    cluster.ready("web", 0, |node, row| row["node"] == node);
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(calls(folder).len(), many, "it was back");
    assert_eq!(cluster.ask(0, &json!({"do": "move", "what": "web", "node": 2}))["done"], true);
    cluster.ready("web", 0, |node, row| node == 2 && row["node"] == 2);
    cluster.kill(2);
    let killed = Instant::now();
    cluster.wait("the fence", || calls(folder).len() > many);
    assert!(killed.elapsed() >= Duration::from_secs(2), "not before its time");
    cluster.ready("web", 0, |node, row| node != 2 && row["node"] == node);
    let fenced = |by: usize| cluster.ask(by, &json!({"do": "cluster"}))["nodes"][2]["fenced"].clone();
    cluster.wait("the record", || fenced(0)["state"] == "done" && fenced(1)["state"] == "done");
    std::thread::sleep(Duration::from_secs(1));
    let all = calls(folder);
    assert_eq!(all.len(), many + 1, "once\n{all:?}");
    let why = all[many].1["why"].as_str().expect("a text");
    assert!(why.contains("down and held web.0"), "{why}");
    cluster.kill(1);
    std::thread::sleep(Duration::from_millis(500));
    let asked = cluster.try_ask(0, &json!({"do": "fence", "node": 1, "force": true}));
    assert!(asked.is_err_and(|why| why.contains("not done within")), "no majority");
    assert_eq!(calls(folder).len(), many + 1, "nobody was fenced");
}
