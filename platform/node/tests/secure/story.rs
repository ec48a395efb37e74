//! What an operator does, in order.

use std::fs;
use std::time::Instant;

use apus_engine::NodeId;
use apus_node::cluster::{self, NewNode};
use apus_node::init;
use serde_json::{Value, json};

use crate::nodes::{FIRST, Nodes};
use crate::wait::until;

pub(crate) fn check(holds: bool, what: &str, status: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what}: {status}")) }
}

fn serials(all: &[Value]) -> Vec<u64> {
    all.iter().map(|status| status["cluster"]["serial"].as_u64().unwrap_or_default()).collect()
}

pub(crate) fn tell() -> Result<(), String> {
    let began = Instant::now();
    let mut nodes = Nodes::new(99)?;
    let told = story(&mut nodes, began);
    if told.is_err() {
        for node in 0..=FIRST {
            let log = fs::read_to_string(nodes.file(&format!("log{node}"))).unwrap_or_default();
            eprintln!("node {node}:\n{log}");
        }
    }
    told
}

fn story(nodes: &mut Nodes, began: Instant) -> Result<(), String> {
    let done = |what: &str| println!("test {what} ... ok (at {} ms)", began.elapsed().as_millis());
    let text = |error: apus_node::Error| error.to_string();
    for node in 0..FIRST {
        fs::write(nodes.file(&format!("node{node}.toml")), nodes.config(node, "5s"))
            .map_err(|error| error.to_string())?;
    }
    // Without certificates a node that is to have some does not start.
    let first = nodes.read(&nodes.file("node0.toml"))?;
    init(&first).map_err(text)?;
    let error = apus_node::run(&first, |_| {}).map_err(text);
    check(
        error.as_ref().is_err_and(|error| error.contains("no certificate")),
        "it starts",
        &json!(format!("{error:?}")),
    )?;
    let keys = nodes.file("keys");
    cluster::init(&first, Some(&keys), 90).map_err(text)?;
    let again = cluster::init(&first, Some(&keys), 90).map_err(text);
    check(again.is_err_and(|error| error.contains("there are keys already")), "twice", &json!(null))?;
    for node in 0..FIRST {
        if node > 0 {
            init(&nodes.read(&nodes.file(&format!("node{node}.toml")))?).map_err(text)?;
        }
        nodes.start(node)?;
    }
    let all = nodes.whole(&[0, 1, 2])?;
    check(all.iter().all(|status| status["cluster"]["transport"] == "quic"), "by QUIC", &all[0])?;
    let (place, pid) = nodes.idle(&[0, 1, 2])?;
    done("three nodes speak by certificates");

    // Everything changes while a program runs and a node coordinates: neither notices.
    let before = serials(&all);
    for (what, authorities) in [("node", 1), ("install", 2), ("use", 2), ("remove", 1)] {
        // Refused while somebody does not show what the step before has given it.
        until(20, what, || nodes.ask(0, &json!({"do": "rotate", "what": what})))?;
        until(20, what, || {
            let all = nodes.whole(&[0, 1, 2])?;
            for status in &all {
                let many = status["cluster"]["authorities_days_left"].as_array().map_or(0, Vec::len);
                check(many == authorities, "authorities", status)?;
            }
            let is_new = serials(&all).iter().zip(&before).all(|(now, before)| now > before);
            check(is_new, "new certificates", &json!(serials(&all)))
        })?;
        check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    }
    done("certificates and their authority change without a stop");

    let answer = nodes.ask(0, &json!({"do": "token", "life": 60}))?;
    let word = answer["token"].as_str().ok_or("no token")?.to_owned();
    let (file, store) = (nodes.file("node3.toml"), nodes.file("store3"));
    let address = nodes.address(3).parse().ok();
    let new = NewNode { node: None, address, mac: [0; 6], weight: 1 };
    let config = cluster::join(&word, &file, &store, &new).map_err(text)?;
    check(config.me == NodeId(3) && config.services.len() == 1, "it is node 3", &json!(config.me.0))?;
    let other = nodes.file("node4.toml");
    let twice = cluster::join(&word, &other, &nodes.file("store4"), &new).map_err(text);
    check(twice.as_ref().is_err_and(|error| error.contains("it was used")), "twice", &json!(twice.err()))?;
    let joined = fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let control = format!("control = \"{}\"\n{joined}", nodes.file("control3").display());
    fs::write(&file, control).map_err(|error| error.to_string())?;
    nodes.start(3)?;
    nodes.whole(&[0, 1, 2, 3])?;
    check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    done("a node joins with a token, once");

    let order = json!({"do": "leave", "node": 3});
    nodes.ask(1, &order)?;
    let refused = |node| -> Result<u64, String> {
        let status = nodes.status(node)?;
        let count = |why: &str| status["cluster"]["refused"][why].as_u64().unwrap_or_default();
        Ok(count("revoked") + count("no_member"))
    };
    let all = nodes.whole(&[0, 1, 2])?;
    check(nodes.ask(1, &order).is_err(), "it leaves twice", &all[1])?;
    until(10, "who has left is refused", || {
        let counts = [refused(0)?, refused(1)?, refused(2)?];
        check(counts.iter().all(|count| *count > 0), "refused", &json!(counts))
    })?;
    nodes.whole(&[0, 1, 2])?;
    check(nodes.idle(&[place])? == (place, pid), "another process", &json!(pid))?;
    done("a node that has left is refused by all");
    Ok(())
}
