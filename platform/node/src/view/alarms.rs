//! What is amiss in a cluster, from what a node tells of it.

use serde_json::{Value, json};

/// Clocks that differ by more make journals hard to read, in microseconds.
const CLOCK: i64 = 500_000;

/// How a cluster is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing is amiss.
    Good,
    /// Something is.
    Degraded,
    /// Nothing can be decided: no majority, or no coordinator.
    NoQuorum,
}

impl Health {
    /// Of a status.
    #[must_use]
    pub fn of(status: &Value) -> Self {
        if status["state"] != "running" || status["quorum"]["has"] != true {
            return Self::NoQuorum;
        }
        let amiss = status["alarms"].as_array().is_some_and(|all| !all.is_empty());
        if amiss { Self::Degraded } else { Self::Good }
    }

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Degraded => "degraded",
            Self::NoQuorum => "no quorum",
        }
    }
}

/// So long ago somebody who was not captured is of interest, in microseconds.
const STRANGE: u64 = 600_000_000;

fn alarm(level: &str, about: impl Into<String>, what: impl Into<String>, mend: impl Into<String>) -> Value {
    json!({ "level": level, "about": about.into(), "what": what.into(), "mend": mend.into() })
}

/// All that is amiss, the worst first. `status` is that of the cluster, without alarms.
#[must_use]
pub fn alarms(status: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    if status["state"] != "running" {
        let what = format!("node {} is {}", status["node"], status["state"].as_str().unwrap_or("not running"));
        all.push(alarm("error", format!("node {}", status["node"]), what, "see its output; its disk may have failed"));
        return all;
    }
    let quorum = &status["quorum"];
    if quorum["has"] != true {
        let what = if quorum["up"].as_u64() < quorum["needed"].as_u64() {
            format!("{} of {} voters are up, {} are needed", quorum["up"], quorum["of"], quorum["needed"])
        } else {
            "no coordinator is known, or it hears no majority".into()
        };
        let mend = "start nodes until a majority is up; nothing is granted before that, and leases run out";
        all.push(alarm("error", "cluster", what, mend));
    }
    nodes(status, &mut all);
    for lease in status["leases"].as_array().into_iter().flatten() {
        let name = lease["name"].as_str().unwrap_or_default();
        let down = |node: &Value| {
            let nodes = status["nodes"].as_array();
            nodes.is_some_and(|all| all.iter().any(|one| one["node"] == *node && one["status"] == "down"))
        };
        if lease["holder"].is_null() {
            let mend = "a candidate must be up and not drained; `apus why` tells what happened";
            all.push(alarm("error", name, format!("{name} is nobody's"), mend));
        } else if down(&lease["holder"]) {
            let what = format!("{name} is held by node {}, which is down: its lease is waited for", lease["holder"]);
            all.push(alarm(
                "warning",
                name,
                what,
                "it goes to another node when the lease is over, if one is up that may take it",
            ));
        } else if !lease["moving"].is_null() {
            let what = format!("{name} is on its way from node {}", lease["holder"]);
            all.push(alarm("warning", name, what, "wait"));
        }
    }
    for service in status["services"].as_array().into_iter().flatten() {
        let name = format!("{}.{}", service["name"].as_str().unwrap_or_default(), service["slot"]);
        let state = service["state"].as_str().unwrap_or_default();
        let (node, end) = (&service["node"], service["last_end"].as_str().unwrap_or("it has not ended yet"));
        let level = match state {
            "backing off" | "given up" | "hung" => "error",
            "blocked" | "left running" => "warning",
            _ => continue,
        };
        let what = format!("{name} on node {node}: {state}; how the last copy ended: {end}");
        all.push(alarm(
            level,
            name,
            what,
            "see its `output` file in the node's folder, and `apus service status` there",
        ));
    }
    files(status, &mut all);
    all.sort_by_key(|alarm| alarm["level"] != "error");
    all
}

fn files(status: &Value, all: &mut Vec<Value>) {
    for group in status["files"].as_array().into_iter().flatten() {
        let name = format!("files {}", group["group"].as_str().unwrap_or_default());
        let mut put = |level: &str, what: String, mend: &str| all.push(alarm(level, &name, what, mend));
        if group["writer"].is_null() {
            let held = |lease: &Value| lease["resource"] == group["resource"] && lease["holder"].is_u64();
            if status["leases"].as_array().is_some_and(|leases| leases.iter().any(held)) {
                put(
                    "error",
                    format!("{name} are not written yet, though their service has a holder"),
                    "enough copies must answer, and what they have is taken over first; `apus repl status` tells more",
                );
            }
        }
        let capture = &group["capture"];
        if capture["in_order"] == false {
            let why: Vec<&str> = capture["why"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let what = format!("{name}: the order of changes is lost: {}", why.join(", "));
            put("warning", what, "it is mended by itself: names are listed, and copies compared");
        }
        if capture["untracked"] == true {
            let what = format!("{name}: a file is changed through a shared mapping, which leaves no record");
            put("warning", what, "take such files out of `patterns`, as `!*-shm`; what is read is not in order");
        }
        for copy in group["copies"].as_array().into_iter().flatten() {
            let at = format!("{name} at node {}", copy["node"]);
            if let Some(why) = copy["trouble"].as_str() {
                put("error", format!("{at}: {why}"), "the others go on; this copy does once its disk takes something");
            }
            let stranger = &copy["stranger"];
            if stranger["ago_us"].as_u64().is_some_and(|ago| ago < STRANGE) {
                let did = if stranger["allowed"] == true { "changes" } else { "was refused" };
                let what = format!(
                    "{at}: process {} ({}) is not captured and {did} {}, {} times",
                    stranger["process"],
                    stranger["program"].as_str().unwrap_or_default(),
                    stranger["path"].as_str().unwrap_or_default(),
                    stranger["times"]
                );
                let mend =
                    "end it, start it under the library, or write `capture = \"fuse\"`: then all programs are captured";
                put("warning", what, mend);
            }
            if let Some(why) = copy["mount"]["trouble"].as_str() {
                put("error", format!("{at}: {why}"), "it is tried again; until then programs find no file there");
            }
            if copy["whole"] == false && copy["doing"] != "compares" {
                put(
                    "warning",
                    format!("{at} lost changes with the power, or are new"),
                    "they are compared with who writes",
                );
            }
            if copy["left_behind"] == true {
                put(
                    "warning",
                    format!("{at} were left behind by the log"),
                    "they are compared; a longer `log` bears longer breaks",
                );
            } else if copy["lags"] == true {
                let what = format!("{at} are {} changes behind", copy["behind"]);
                put("warning", what, "look at its disk, its load and its cable");
            }
            if copy["orphans"].as_u64().is_some_and(|many| many > 0) {
                let what = format!("{at}: updates that nobody else had were saved");
                put("warning", what, "look at them: `apus repl orphans` there; remove their folder when done");
            }
        }
    }
}

const ENDED: &str = "`apus maintenance off` gives it work again";

/// Such as `in maintenance: new memory`.
fn maintained(node: &Value) -> String {
    match node["maintenance"]["why"].as_str().filter(|why| !why.is_empty()) {
        Some(why) => format!("in maintenance: {why}"),
        None => "in maintenance".into(),
    }
}

fn nodes(status: &Value, all: &mut Vec<Value>) {
    for node in status["nodes"].as_array().into_iter().flatten() {
        let name = format!("node {}", node["node"]);
        match node["status"].as_str() {
            // Somebody works on it: that it is down is no surprise.
            Some("down") if node["maintenance"].is_object() => {
                all.push(alarm("warning", &name, format!("{name} is down, {}", maintained(node)), ENDED));
                continue;
            }
            Some("down") => {
                all.push(alarm(
                    "error",
                    &name,
                    format!("{name} is down"),
                    "start it, or look at its machine and cable",
                ));
                continue;
            }
            Some("suspect") => {
                let what = format!("{name} does not answer all who ask it");
                all.push(alarm("warning", &name, what, "look at its load and its cable, if this stays"));
            }
            _ => {}
        }
        if node["maintenance"].is_object() {
            all.push(alarm("warning", &name, format!("{name} is {}", maintained(node)), ENDED));
        } else if node["drained"] == true {
            all.push(alarm("warning", &name, format!("{name} is drained"), "`apus node undrain` gives it work again"));
        }
        if node["member"] == false {
            let what = format!("{name} is in the configuration, but no member of the cluster");
            all.push(alarm("warning", &name, what, "add it, or take it out of the configuration"));
        }
        if node["answers"] == false {
            let what = format!("{name} is up, but does not tell how it is");
            all.push(alarm("warning", &name, what, "it may be overloaded, or run an older version"));
        }
        if let Some(ahead) = node["clock_us"].as_i64().filter(|ahead| ahead.abs() > CLOCK) {
            let way = if ahead > 0 { "ahead" } else { "behind" };
            let what = format!("the wall clock of {name} is {} ms {way}", ahead.abs() / 1_000);
            all.push(alarm("warning", &name, what, "have clocks set by NTP; leases do not depend on them"));
        }
        if node["slow"].as_u64().is_some_and(|slow| slow > 0) {
            let what = format!("{name} finds itself slow");
            all.push(alarm("warning", &name, what, "it stood still lately: look at its load"));
        }
        if let Some(version) = node["apus"].as_str().filter(|version| status["apus"] != *version) {
            let what = format!("{name} runs version {version}");
            all.push(alarm("warning", &name, what, "upgrade the older nodes"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        json!({
            "apus": "1", "node": 0, "state": "running", "quorum": {"of": 3, "up": 3, "needed": 2, "has": true},
            "nodes": [{"node": 0, "status": "up", "apus": "1", "clock_us": 0}, {"node": 1, "status": "up", "answers": true}],
            "leases": [{"name": "the address", "holder": 1}],
            "services": [{"name": "web", "slot": 0, "node": 0, "state": "ready"}],
            "files": [{"group": "books", "resource": 256, "writer": 0, "capture": {"in_order": true, "untracked": false},
                "copies": [{"node": 0, "whole": true}, {"node": 1, "lags": false, "orphans": 0}]}],
        })
    }

    #[test]
    fn a_good_cluster_has_no_alarm() {
        assert_eq!(alarms(&good()), Vec::<Value>::new());
        assert_eq!(Health::of(&good()), Health::Good);
    }

    #[test]
    fn each_fault_has_its_alarm_with_a_mend() {
        let cases: [(&str, Value, &str); 20] = [
            ("/state", json!("starting"), "node 0 is starting"),
            ("/quorum", json!({"of": 3, "up": 1, "needed": 2, "has": false}), "1 of 3 voters are up, 2 are needed"),
            ("/quorum/has", json!(false), "no coordinator is known"),
            ("/nodes/1/status", json!("down"), "node 1 is down"),
            ("/nodes/1/status", json!("suspect"), "node 1 does not answer all"),
            ("/nodes/1/answers", json!(false), "node 1 is up, but does not tell"),
            ("/nodes/0/clock_us", json!(-700_000), "700 ms behind"),
            ("/nodes/0/apus", json!("0"), "node 0 runs version 0"),
            ("/leases/0/holder", Value::Null, "the address is nobody's"),
            ("/services/0/state", json!("backing off"), "web.0 on node 0: backing off"),
            ("/services/0/state", json!("hung"), "web.0 on node 0: hung"),
            ("/files/0/capture", json!({"in_order": false, "why": ["ring full"]}), "changes is lost: ring full"),
            ("/files/0/capture/untracked", json!(true), "files books: a file is changed through a shared mapping"),
            ("/files/0/copies/0/whole", json!(false), "files books at node 0 lost changes"),
            (
                "/files/0/copies/0",
                json!({"node": 0, "stranger": {"process": 7, "program": "/bin/cp", "path": "a.db", "allowed": false, "times": 2, "ago_us": 5}}),
                "files books at node 0: process 7 (/bin/cp) is not captured and was refused a.db, 2 times",
            ),
            (
                "/files/0/copies/0",
                json!({"node": 0, "mount": {"trouble": "no room"}}),
                "files books at node 0: no room",
            ),
            ("/files/0/copies/1/lags", json!(true), "files books at node 1 are"),
            ("/files/0/copies/1/orphans", json!(1), "files books at node 1: updates that nobody else had were saved"),
            ("/files/0/copies/1", json!({"node": 1, "trouble": "its disk is full"}), "at node 1: its disk is full"),
            ("/files/0/copies/1", json!({"node": 1, "left_behind": true}), "at node 1 were left behind by the log"),
        ];
        for (place, value, said) in cases {
            let mut status = good();
            *status.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
            let found = alarms(&status);
            let what = found.first().and_then(|alarm| alarm["what"].as_str()).unwrap_or_default();
            assert!(what.contains(said), "{place}: {found:?}");
            assert!(found.iter().all(|alarm| alarm["mend"].as_str() > Some("")), "{found:?}");
            status["alarms"] = found.into();
            assert_ne!(Health::of(&status), Health::Good, "{place}");
        }
    }
}
