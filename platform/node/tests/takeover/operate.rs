//! What operators do: roll all servers, set the address up anew, and clear up after a crash.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use apus_node::wait_drained;
use serde_json::{Value, json};

use crate::cluster::{Clients, Cluster, NODES};
use crate::net::VIP;
use crate::strike::Row;
use crate::wait::until;

/// How long a client's connection lives while servers are rolled, in milliseconds.
const LIFE: u64 = 1_200;

pub(crate) fn roll(cluster: &mut Cluster, clients: &mut Clients) -> Result<Row, String> {
    let mut row = Row::new("five servers rolled");
    roll_into(cluster, clients, &mut row)?;
    row.done();
    Ok(row)
}

/// Drains every node in turn, waits until it rests, restarts daemon and server, and takes it back. Clients end their connections at
/// their own time; none may be ended for them.
pub(crate) fn roll_into(cluster: &mut Cluster, clients: &mut Clients, row: &mut Row) -> Result<(), String> {
    cluster.whole()?;
    row.lose(clients.settle(&row.name)?);
    clients.say(&format!("life {LIFE}"))?;
    clients.say("mark")?;
    for node in 0..NODES {
        cluster.order(&json!({"do": "drain", "node": node}))?;
        let socket = cluster.file(&format!("control{node}"));
        let number = u16::try_from(node).map_err(|error| error.to_string())?;
        let rest = wait_drained(Path::new(&socket), number, Duration::from_secs(20), |_| {})
            .map_err(|error| error.to_string())?;
        if cluster.dispatcher().is_ok_and(|(dispatcher, _)| dispatcher == node) {
            return Err(format!("node {node} rests and still dispatches: {rest}"));
        }
        // Nothing new came in the meantime either.
        let report = clients.report()?;
        let served = report["servers"].get(node.to_string()).cloned().unwrap_or_default();
        if !served.is_null() {
            return Err(format!("node {node} rests, and clients have {served} connections with it"));
        }
        cluster.stop(node, "TERM")?;
        cluster.end_server(node);
        cluster.serve(node)?;
        cluster.config(node, apus_engine::wire::VERSION)?;
        cluster.start(node)?;
        until(10, "the node is back", || cluster.ask(node, &json!({"do": "table"})))?;
        cluster.order(&json!({"do": "undrain", "node": node}))?;
        cluster.whole()?;
        until(10, "nobody comes to the node again", || {
            let report = clients.report()?;
            let back = report["servers"].get(node.to_string()).is_some();
            if back { Ok(()) } else { Err(report["servers"].to_string()) }
        })?;
    }
    let report = clients.report()?;
    if report["ended"].as_u64() < Some(100) {
        return Err(format!("hardly a connection ended in order: {report}"));
    }
    clients.say("life 0")?;
    row.add(&report);
    row.lose(clients.count(&row.name)?);
    Ok(())
}

/// All nodes write the wire version before the newest.
pub(crate) fn is_old(cluster: &Cluster) -> Result<(), String> {
    write(cluster, apus_engine::wire::VERSION - 1)
}

fn write(cluster: &Cluster, version: u8) -> Result<(), String> {
    for node in 0..NODES {
        let writes = cluster.ask(node, &json!({"do": "cluster"}))?["wire"].clone();
        if writes != version {
            return Err(format!("node {node} writes wire version {writes}, not {version}"));
        }
    }
    Ok(())
}

/// All nodes write the newest version, and none has heard what it did not understand.
pub(crate) fn is_new(cluster: &Cluster) -> Result<(), String> {
    write(cluster, apus_engine::wire::VERSION)?;
    for node in 0..NODES {
        let counters = cluster.ask(node, &json!({"do": "cluster"}))?["counters"]["engine"].clone();
        let odd = ["version", "unknown-kind", "malformed", "damaged"].map(|key| counters[key].as_u64());
        if odd != [Some(0); 4] {
            return Err(format!("node {node} did not understand: {counters}"));
        }
    }
    Ok(())
}

/// What is set at one node holds for all, also for one that was away; what is wrong is refused with what to write.
pub(crate) fn set(cluster: &mut Cluster) -> Result<(), String> {
    let away = 4;
    cluster.stop(away, "TERM")?;
    cluster.order(&json!({"do": "set", "key": "source", "log2_slots": 12}))?;
    let all = |cluster: &Cluster, nodes: &[usize], key: &str, slots: u64| {
        until(10, "the setting", || {
            for node in nodes {
                let table = cluster.ask(*node, &json!({"do": "table"}))?;
                if table["key"] != key || table["slots"] != slots {
                    return Err(format!("node {node}: {table}"));
                }
            }
            Ok(())
        })
    };
    all(cluster, &[0, 1, 2, 3], "source", 4_096)?;
    // Any node takes the order, and a node that was away learns of it.
    cluster.start(away)?;
    all(cluster, &[0, 1, 2, 3, 4], "source", 4_096)?;
    cluster.whole()?;
    for (wrong, said) in [
        (json!({"do": "set", "key": "colour"}), "`key` is `colour`: use source, ports or quic"),
        (json!({"do": "set", "log2_slots": 21}), "`log2_slots` is 21: use 4 to 20"),
        (json!({"do": "set", "v4": "none"}), "no address would be left"),
        (json!({"do": "move", "node": 9}), "node 9 is not in the cluster; its nodes are 0, 1, 2, 3, 4"),
        (json!({"do": "drain", "node": 9}), "node 9 is not in the cluster"),
    ] {
        let error = cluster.ask(0, &wrong).expect_err("it is wrong");
        if !error.contains(said) {
            return Err(format!("{wrong}: {error}"));
        }
    }
    // Another address: everything is held anew, and clients reach it.
    const OTHER: &str = "10.97.0.101";
    cluster.order(&json!({"do": "set", "key": "ports", "log2_slots": 14, "v4": OTHER}))?;
    all(cluster, &[0, 1, 2, 3, 4], "ports", 16_384)?;
    for node in 0..NODES {
        until(10, "the other address", || {
            let (has, had) = (holds(cluster, node, OTHER)?, holds(cluster, node, VIP)?);
            if has && !had { Ok(()) } else { Err(format!("node {node}: new {has}, old {had}")) }
        })?;
    }
    // Who asks for it is answered, and nobody answers for the old one.
    until(5, "nobody answers for the other address", || arping(cluster, OTHER))?;
    if let Ok(()) = arping(cluster, VIP) {
        return Err(format!("somebody answers for {VIP}, which was taken away"));
    }
    cluster.order(&json!({"do": "set", "v4": VIP}))?;
    until(5, "nobody answers for the first address", || arping(cluster, VIP))?;
    cluster.whole()
}

/// Has the client ask for an address, by sending to it.
fn arping(cluster: &Cluster, address: &str) -> Result<(), String> {
    let client = cluster.net.client();
    let ip = |args: &[&str]| -> Result<String, String> {
        let output = Command::new("ip").args(["-n", &client]).args(args).output().map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ip(&["neigh", "del", address, "dev", "eth0"])?;
    let exec = ["netns", "exec", &client, "bash", "-c"];
    let send = format!("echo x > /dev/udp/{address}/9");
    let _ = Command::new("ip").args(exec).arg(send).output();
    sleep(Duration::from_millis(300));
    let known = ip(&["neigh", "show", address, "dev", "eth0"])?;
    if known.contains("lladdr") { Ok(()) } else { Err(format!("no answer for {address}: {known}")) }
}

fn in_node(cluster: &Cluster, node: usize, words: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(["netns", "exec", &cluster.net.node(node)]).args(words).output();
    Ok(String::from_utf8_lossy(&output.map_err(|error| error.to_string())?.stdout).into_owned())
}

fn holds(cluster: &Cluster, node: usize, address: &str) -> Result<bool, String> {
    Ok(in_node(cluster, node, &["ip", "-o", "address", "show", "dev", "lo"])?.contains(&format!(" {address}/32 ")))
}

/// All that a node changes on its machine.
fn changed(cluster: &Cluster, node: usize) -> Result<Value, String> {
    let setting =
        |name: &str| in_node(cluster, node, &["cat", &format!("/proc/sys/{name}")]).map(|text| text.trim().to_owned());
    Ok(json!({
        "address": holds(cluster, node, VIP)?,
        "arp_ignore": setting("net/ipv4/conf/eth0/arp_ignore")?,
        "arp_announce": setting("net/ipv4/conf/eth0/arp_announce")?,
        "rules": in_node(cluster, node, &["nft", "list", "tables"])?.contains("apus_"),
    }))
}

/// A killed daemon leaves its machine serving and silent; the next one takes that over, and an end in order or `apus node clear`
/// undoes it.
pub(crate) fn crash(cluster: &mut Cluster) -> Result<(), String> {
    let node = 3;
    let own = "2";
    // An operator's own setting, which must come back.
    cluster.stop(node, "TERM")?;
    in_node(cluster, node, &["sysctl", "-qw", &format!("net.ipv4.conf.eth0.arp_ignore={own}")])?;
    let before = changed(cluster, node)?;
    if before["address"] == true || before["rules"] == true || before["arp_ignore"] != own {
        return Err(format!("an end in order left something: {before}"));
    }
    let begun = |cluster: &Cluster| {
        until(10, "the node", || match holds(cluster, node, VIP) {
            Ok(true) => cluster.ask(node, &json!({"do": "status"})),
            other => Err(format!("it has the address: {other:?}")),
        })
    };
    for clear in [false, true] {
        cluster.start(node)?;
        begun(cluster)?;
        let during = changed(cluster, node)?;
        cluster.stop(node, "KILL")?;
        let after = changed(cluster, node)?;
        if during != after || after["address"] != true || after["rules"] != true || after["arp_ignore"] != "1" {
            return Err(format!("a crash changed what the server needs: {during}, then {after}"));
        }
        if clear {
            let file = cluster.file(&format!("node{node}.toml"));
            let output = in_node(cluster, node, &[&cluster.exe, "clear", &file])?;
            let _ = output;
        } else {
            cluster.start(node)?;
            begun(cluster)?;
            cluster.stop(node, "TERM")?;
        }
        let restored = changed(cluster, node)?;
        if restored != before {
            return Err(format!("not as before (clear: {clear}): {restored}, and was {before}"));
        }
    }
    cluster.start(node)?;
    cluster.whole()
}
