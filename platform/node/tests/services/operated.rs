//! What an operator is told before something is done, and that it is so; maintenance; a new file.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::tests::{pid, service, signal};

/// Who holds each slot, by a node's word, and by which epoch.
fn holders(cluster: &Cluster, node: usize) -> BTreeMap<String, (Value, Value)> {
    let rows = cluster.rows(node);
    rows.iter()
        .map(|row| {
            let name = format!("{}.{}", row["name"].as_str().unwrap_or_default(), row["slot"]);
            (name, (row["node"].clone(), row["epoch"].clone()))
        })
        .collect()
}

/// A node as the whole cluster's status has it.
fn seen(cluster: &Cluster, by: usize, node: usize) -> Value {
    cluster.ask(by, &json!({"do": "cluster"}))["nodes"][node].clone()
}

pub(crate) fn planned() {
    let services = service("web", "candidates = [0, 1, 2]")
        + &service("job", "requires = [\"web\"]\ncandidates = [0, 2, 1]")
        + &service("pair", "strategy = \"warm\"\ncandidates = [0, 1]")
        + &service("away", "candidates = [2]");
    let mut cluster = Cluster::new("planned", 3, "lease = \"3s\"", &services);
    for name in ["web", "job", "pair"] {
        cluster.ready(name, 0, |node, row| node == 0 && row["node"] == 0);
    }
    cluster.ready("away", 0, |node, row| node == 2 && row["node"] == 2);
    cluster.until(1, "pair", |row| row["state"] == "standby");
    let before = holders(&cluster, 1);

    let order = json!({"do": "maintain", "node": 0, "on": true, "why": "new memory"});
    let mut dry = order.clone();
    dry["dry"] = true.into();
    let plan = cluster.ask(1, &dry);
    let went: BTreeMap<String, Value> = plan["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one["to"].clone()))
        .collect();
    assert_eq!(went.keys().collect::<Vec<_>>(), ["job.0", "pair.0", "web.0"], "{plan}");
    let acts: Vec<String> = plan["copies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            format!(
                "{} {} {}",
                one["name"].as_str().unwrap_or_default(),
                one["node"],
                one["what"].as_str().unwrap_or_default()
            )
        })
        .collect();
    for act in ["web.0 0 stops", "web.0 1 starts", "job.0 1 starts", "pair.0 1 is promoted from standby"] {
        assert!(acts.iter().any(|one| one == act), "{act}: {acts:#?}");
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(holders(&cluster, 1), before, "a plan does nothing");
    assert_eq!(seen(&cluster, 1, 0)["drained"], false);

    // And now in earnest: everything is where the plan said.
    assert_eq!(cluster.ask(1, &order)["done"], true);
    cluster.wait("the move", || holders(&cluster, 1).values().all(|(node, _)| *node != json!(0) && !node.is_null()));
    for (name, to) in &went {
        let slot = name.trim_end_matches(".0");
        let (node, _) = cluster.ready(slot, 0, |node, row| row["node"] == node);
        assert_eq!(&json!(node), to, "{name}: {plan}");
    }
    assert_eq!(holders(&cluster, 1)["away.0"], before["away.0"], "what need not move does not");
    let shown = seen(&cluster, 2, 0);
    assert_eq!(
        (&shown["maintenance"]["why"], &shown["drained"], &shown["status"]),
        (&json!("new memory"), &json!(true), &json!("up"))
    );
    let alarms = cluster.ask(2, &json!({"do": "cluster"}))["alarms"].to_string();
    assert!(alarms.contains("node 0 is in maintenance: new memory"), "{alarms}");
    let refused = cluster.try_ask(2, &json!({"do": "move", "what": "web", "node": 0})).expect_err("it gets nothing");
    assert!(refused.contains("undrain it first"), "{refused}");

    // All daemons anew: the log knows.
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.start(node));
    cluster.wait("the status", || seen(&cluster, 2, 0)["maintenance"]["why"] == "new memory");
    cluster.ready("web", 0, |node, row| node != 0 && row["node"] == node);
    cluster
        .wait("a coordinator", || cluster.ask(1, &json!({"do": "maintain", "node": 0, "on": false}))["done"] == true);
    cluster.wait("the end of it", || {
        let shown = seen(&cluster, 2, 0);
        shown["maintenance"].is_null() && shown["drained"] == false
    });

    // Home again, and what requires it follows, as the plan says.
    let home = json!({"do": "move", "what": "web", "node": 0});
    let mut dry = home.clone();
    dry["dry"] = true.into();
    let plan = cluster.ask(1, &dry);
    assert_eq!((&plan["resources"][0]["to"], &plan["resources"][1]["name"]), (&json!(0), &json!("job.0")), "{plan}");
    assert_eq!(cluster.ask(1, &home)["done"], true);
    cluster.ready("job", 0, |node, row| node == 0 && row["node"] == 0);

    // One of three is dead: another one's maintenance would end all decisions.
    cluster.kill(2);
    cluster.wait("the verdict", || seen(&cluster, 0, 2)["status"] == "down");
    let plan = cluster.ask(0, &json!({"do": "maintain", "node": 1, "on": true, "dry": true}));
    let warned = plan["warnings"].to_string();
    assert!(warned.contains("1 of 3 voters are up and 2 are needed"), "{plan}");
    let refused = cluster.try_ask(0, &json!({"do": "rotate", "dry": true})).expect_err("it cannot be tried");
    assert!(refused.contains("cannot be tried"), "{refused}");
}

pub(crate) fn applied() {
    let services = service("web", "") + &service("job", "");
    let cluster = Cluster::new("applied", 1, "lease = \"30s\"", &services);
    let (_, web) = cluster.ready("web", 0, |_, _| true);
    let (_, job) = cluster.ready("job", 0, |_, _| true);
    let file = cluster.file(0);
    let text = fs::read_to_string(&file).expect("a file");
    let order = json!({"do": "apply", "file": file});
    let mut dry = order.clone();
    dry["dry"] = true.into();
    let nothing = cluster.ask(0, &dry);
    assert_eq!((&nothing["changes"], &nothing["copies"]), (&json!([]), &json!([])), "{nothing}");

    fs::write(&file, text.replace("cluster = 98", "cluster = 99")).expect("a file");
    let refused = cluster.try_ask(0, &order).expect_err("another cluster's");
    assert!(refused.contains("it is for node 0 of cluster 99, and this is node 0 of 98"), "{refused}");
    fs::write(&file, text.replace("lease = \"30s\"", "lease = 3\nrecord = 5")).expect("a file");
    let refused = cluster.try_ask(0, &order).expect_err("it is wrong");
    assert!(refused.contains("node0.toml:6: `lease`") && refused.contains("node0.toml:7: `record`"), "{refused}");

    // What is no file is not read, and nobody waits for it.
    let pipe = cluster.folder().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for odd in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
        let refused = cluster.try_ask(0, &json!({"do": "apply", "file": odd})).expect_err("it is no file");
        assert!(refused.contains("it must be a file of"), "{refused}");
    }

    let new = text
        .replace("name = \"web\"", "name = \"web\"\nenvironment = { NEW = \"1\" }")
        .replace("id = 0", "id = 0\nweight = 7");
    fs::write(&file, new.replace("name = \"job\"", "name = \"job\"\nfailures = 9")).expect("a file");
    let plan = cluster.ask(0, &dry);
    assert_eq!(
        (&plan["changes"][0]["what"], &plan["changes"][0]["when"]),
        (&json!("weight of node 0"), &json!("now")),
        "{plan}"
    );
    let copies = plan["copies"].as_array().expect("a list");
    assert_eq!((&copies[0]["name"], &copies[0]["pid"]), (&json!("web.0"), &web["pid"]), "{plan}");
    assert_eq!(copies[0]["what"], "is started anew: environment", "{plan}");
    assert_eq!(copies[1]["what"], "runs on, by other rules: failures", "{plan}");
    assert_eq!(cluster.ask(0, &json!({"do": "status"}))["nodes"][0]["weight"], 1, "a plan does nothing");
    assert_eq!(cluster.ask(0, &order)["done"], true);
    cluster.wait("the weight", || cluster.ask(0, &json!({"do": "status"}))["nodes"][0]["weight"] == 7);
    assert_eq!(cluster.row(0, "web", 0)["pid"], web["pid"], "the rest waits");

    // Until the daemon takes its own place.
    signal("HUP", &[cluster.pid(0)]);
    let (_, fresh) = cluster.ready("web", 0, |_, row| row["pid"] != web["pid"]);
    assert!(pid(&fresh) != 0);
    let (_, same) = cluster.ready("job", 0, |_, _| true);
    assert_eq!(same["pid"], job["pid"], "what is the same is kept");
    assert_eq!(cluster.ask(0, &json!({"do": "status"}))["nodes"][0]["weight"], 7, "the log has it");
}
