//! `OpenMetrics` text of a cluster's status, as one node sees it.

use std::fmt::Write as _;

use serde_json::Value;

/// The media type that scrapers are told.
pub const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Families are written whole: each opens with its type and help.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, String)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "{name}");
        for (place, (label, text)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn label(name: &'static str, value: &Value) -> (&'static str, String) {
    (name, word(value))
}

/// Thousandths or millionths as seconds, without floating point.
fn seconds(count: i64, per_second: u64, digits: usize) -> String {
    let sign = if count < 0 { "-" } else { "" };
    let count = count.unsigned_abs();
    format!("{sign}{}.{:0digits$}", count / per_second, count % per_second)
}

/// The text, with its end mark.
#[must_use]
pub fn metrics(status: &Value) -> String {
    let mut text = Text(String::with_capacity(8_192));
    let t = &mut text;
    t.family("apus", "info", "", "The node that tells this.");
    let own = [label("version", &status["apus"]), label("node", &status["node"]), label("cluster", &status["cluster"])];
    t.sample("apus_info", &own, 1);
    let gauge = |t: &mut Text, name: &str, help: &str, value: &Value| {
        if let Some(value) = value.as_u64() {
            t.family(name, "gauge", "", help);
            t.sample(name, &[], value);
        }
    };
    gauge(t, "apus_term", "Term of the replicated log.", &status["term"]);
    gauge(t, "apus_commit_index", "Newest committed entry of the log that this node knows.", &status["commit"]);
    gauge(t, "apus_epoch", "Newest epoch of any lease.", &status["epoch"]);
    t.family("apus_quorum", "gauge", "", "1 if a coordinator hears a majority of the voters, else 0.");
    t.sample("apus_quorum", &[], u8::from(status["quorum"]["has"] == true));
    nodes(t, status);
    leases(t, status);
    services(t, status);
    files(t, status);
    t.family("apus_alarms", "gauge", "", "Things that are amiss, by level.");
    for level in ["error", "warning"] {
        let many = each(&status["alarms"]).filter(|alarm| alarm["level"] == level).count();
        t.sample("apus_alarms", &[("level", level.into())], many);
    }
    let counters = &status["counters"];
    for (group, name, label, help) in [
        ("frames", "apus_frames", "verdict", "Frames of the data plane, by what became of them."),
        ("transport", "apus_transport", "event", "What the transport between nodes did."),
        ("engine", "apus_engine_packets", "verdict", "Packets of the engine, by what became of them."),
        ("journal", "apus_journal", "entries", "Entries of this node's journal, and those that the disk did not take."),
        ("view", "apus_view", "event", "Questions between nodes about how they are."),
        ("slow", "apus_slow", "place", "Connections closed because they asked too slowly, or took no answer."),
        (
            "remote",
            "apus_remote",
            "event",
            "Remote execution and copy: what was asked here or from here, and what came of it.",
        ),
    ] {
        if let Some(all) = counters[group].as_object() {
            t.family(name, "counter", "", help);
            for (what, count) in all {
                t.sample(&format!("{name}_total"), &[(label, what.clone())], count);
            }
        }
    }
    text.0 += "# EOF\n";
    text.0
}

fn nodes(t: &mut Text, status: &Value) {
    t.family("apus_node_state", "stateset", "", "What this node thinks of each node.");
    for node in each(&status["nodes"]) {
        for state in ["up", "suspect", "down", "left"] {
            let labels = [label("node", &node["node"]), ("apus_node_state", state.into())];
            t.sample("apus_node_state", &labels, u8::from(node["status"] == state));
        }
    }
    for (field, name, help) in [
        ("coordinator", "apus_node_coordinator", "1 for the node that coordinates."),
        ("dispatcher", "apus_node_dispatcher", "1 for the node that has the cluster's address."),
        ("drained", "apus_node_drained", "1 for nodes that get nothing new."),
    ] {
        t.family(name, "gauge", "", help);
        for node in each(&status["nodes"]) {
            t.sample(name, &[label("node", &node["node"])], u8::from(node[field] == true));
        }
    }
    let name = "apus_node_clock_offset_seconds";
    t.family(name, "gauge", "seconds", "How far a node's wall clock is ahead of this one's.");
    for node in each(&status["nodes"]) {
        if let Some(ahead) = node["clock_us"].as_i64() {
            t.sample(name, &[label("node", &node["node"])], seconds(ahead, 1_000_000, 6));
        }
    }
}

fn leases(t: &mut Text, status: &Value) {
    let labels = |lease: &Value| [label("resource", &lease["name"]), label("node", &lease["holder"])];
    let held = || each(&status["leases"]).filter(|lease| lease["holder"].is_u64());
    t.family("apus_lease_epoch", "gauge", "", "The epoch by which a node holds something.");
    for lease in held() {
        t.sample("apus_lease_epoch", &labels(lease), &lease["epoch"]);
    }
    t.family("apus_lease_left_seconds", "gauge", "seconds", "What is left of a lease, by its holder's word.");
    for lease in held() {
        if let Some(left) = lease["left_ms"].as_i64() {
            t.sample("apus_lease_left_seconds", &labels(lease), seconds(left, 1_000, 3));
        }
    }
}

fn services(t: &mut Text, status: &Value) {
    let labels =
        |row: &Value| [label("service", &row["name"]), label("slot", &row["slot"]), label("node", &row["node"])];
    let rows = || each(&status["services"]).filter(|row| row["node"].is_u64());
    t.family("apus_service_ready", "gauge", "", "1 if a service's copy is ready, else 0.");
    for row in rows() {
        t.sample("apus_service_ready", &labels(row), u8::from(row["state"] == "ready"));
    }
    t.family("apus_service_starts", "counter", "", "Starts of a service's copy on its node, by its present keeper.");
    for row in rows() {
        if let Some(starts) = row["starts"].as_u64() {
            t.sample("apus_service_starts_total", &labels(row), starts);
        }
    }
}

fn files(t: &mut Text, status: &Value) {
    let groups = || each(&status["files"]);
    let copies = || groups().flat_map(|group| each(&group["copies"]).map(move |copy| (group, copy)));
    let labels = |group: &Value, copy: &Value| [label("group", &group["group"]), label("node", &copy["node"])];
    t.family("apus_files_writer", "gauge", "", "1 for the node whose program may change a group's files.");
    for (group, copy) in copies() {
        t.sample("apus_files_writer", &labels(group, copy), u8::from(group["writer"] == copy["node"]));
    }
    for (field, name, help) in [
        ("end", "apus_files_position", "The last record of a group's history that a copy has."),
        ("applied", "apus_files_applied", "The last record that is in a copy's files."),
        ("log_bytes", "apus_files_log_size", "Bytes of records in a copy's log."),
        ("orphans", "apus_files_orphans", "Saved updates of a copy that no other one had."),
        ("behind", "apus_files_lag_operations", "Records that a copy has not applied yet, by the writer's word."),
        ("behind_bytes", "apus_files_lag_size", "Bytes of records that a copy has not applied yet."),
    ] {
        t.family(name, "gauge", "", help);
        for (group, copy) in copies() {
            if let Some(value) = copy[field].as_u64() {
                t.sample(name, &labels(group, copy), value);
            }
        }
    }
    let name = "apus_files_lag_seconds";
    t.family(name, "gauge", "seconds", "How long ago the first record was made that a copy has not applied yet.");
    for (group, copy) in copies() {
        if let Some(us) = copy["behind_us"].as_i64() {
            t.sample(name, &labels(group, copy), seconds(us, 1_000_000, 6));
        }
    }
    t.family("apus_files_in_order", "gauge", "", "1 while a group's changes are captured in order, else 0.");
    for group in groups().filter(|group| group["capture"].is_object()) {
        let kept = group["capture"]["in_order"] == true;
        t.sample("apus_files_in_order", &[label("group", &group["group"])], u8::from(kept));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::openmetrics::read;
    use super::*;

    fn status() -> Value {
        json!({
            "apus": "0.1.0", "cluster": 7, "node": 0, "term": 4, "commit": 12, "epoch": 9, "quorum": {"has": true},
            "nodes": [
                {"node": 0, "status": "up", "coordinator": true, "clock_us": 0},
                {"node": 1, "status": "down", "dispatcher": true, "clock_us": -1_500},
            ],
            "leases": [
                {"name": "the \"address\"\\\n", "holder": 1, "epoch": 9, "left_ms": 412},
                {"name": "web.0", "holder": null, "epoch": 3},
            ],
            "services": [{"name": "web", "slot": 0, "node": 0, "state": "ready", "starts": 3}],
            "files": [{"group": "books", "writer": 0, "capture": {"in_order": true}, "copies": [
                {"node": 0, "end": 40, "applied": 40}, {"node": 1, "end": 38, "behind": 4, "behind_bytes": 900, "behind_us": 12_500}]}],
            "alarms": [{"level": "error"}],
            "counters": {"transport": {"probes-sent": 5}, "frames": null, "journal": {"put": 9, "unwritten": 0}},
        })
    }

    #[test]
    fn a_strict_reader_takes_it() {
        let samples = read(&metrics(&status())).unwrap_or_else(|what| panic!("{what}\n{}", metrics(&status())));
        let value = |name: &str, label: &str, is: &str| {
            let such = |sample: &&super::super::openmetrics::Sample| {
                sample.0 == name && (label.is_empty() || sample.1.get(label).is_some_and(|value| value == is))
            };
            samples.iter().find(such).map(|sample| sample.2)
        };
        assert_eq!(value("apus_term", "", ""), Some(4.0));
        assert_eq!(value("apus_lease_left_seconds", "resource", "the \"address\"\\\n"), Some(0.412));
        assert_eq!(value("apus_lease_epoch", "resource", "web.0"), None, "it is nobody's");
        assert_eq!(value("apus_node_clock_offset_seconds", "node", "1"), Some(-0.0015));
        assert_eq!(value("apus_service_starts_total", "service", "web"), Some(3.0));
        assert_eq!(value("apus_files_lag_seconds", "node", "1"), Some(0.0125));
        assert_eq!(value("apus_files_writer", "node", "0"), Some(1.0));
        assert_eq!(value("apus_files_in_order", "group", "books"), Some(1.0));
        assert_eq!(value("apus_transport_total", "event", "probes-sent"), Some(5.0));
        assert_eq!(value("apus_alarms", "level", "error"), Some(1.0));
        assert!(read(&metrics(&json!({}))).is_ok(), "a node that is starting");
    }

    #[test]
    fn the_reader_is_strict() {
        let good = "# TYPE a counter\n# HELP a words\na_total{b=\"c\"} 1\n# EOF\n";
        assert_eq!(read(good).map(|all| all.len()), Ok(1));
        for (from, to) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF"),
            ("a_total", "a"),
            (" 1", "  1"),
            (" 1", " x"),
            (" 1", " -1"),
            ("{b=\"c\"}", "{b=\"c\",b=\"d\"}"),
            ("{b=\"c\"}", "{b=c}"),
            ("{b=\"c\"}", "{}"),
            ("\"c\"", "\"\\c\""),
            ("counter", "colour"),
            ("# HELP", "# TYPE"),
            ("# HELP a words\n", "# HELP a words\n\n"),
            ("# EOF", "a_total{b=\"c\"} 1\n# EOF"),
            ("# EOF", "# TYPE b gauge\nb 1\n# TYPE a counter\n# EOF"),
            ("# HELP a words", "# UNIT a seconds"),
        ] {
            assert!(read(&good.replacen(from, to, 1)).is_err(), "{from} {to}");
        }
    }
}
