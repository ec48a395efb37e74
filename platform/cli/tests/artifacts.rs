//! From a failure to its artifact, and from the artifact to everything that is made of it.

mod common;

use std::collections::BTreeMap;

use common::{apus, corpus, root, snapshot, temp};
use serde_json::Value;

const SCENARIO: &str = "scenarios/dispatcher-power-off.toml";

#[test]
fn a_failure_becomes_a_small_artifact_that_replays() {
    let dir = temp("flow");
    let at = dir.display().to_string();
    let junit = dir.join("report.xml").display().to_string();
    let args = [
        "run",
        SCENARIO,
        "--mutant",
        "grant-without-wait",
        "--seeds",
        "0..2000",
        "--shrink",
        "--artifacts",
        &at,
        "--junit",
        &junit,
        "--format",
        "json",
    ];
    let run = apus(&args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let kept = &run.json()["scenarios"][0]["artifact"];
    let path = kept["path"].as_str().expect("an artifact");
    assert!(
        kept["faults"].as_u64() <= Some(6) && kept["nodes"].as_u64() <= Some(5) && kept["minimal"] == true,
        "{kept}"
    );
    let replay = apus(&["replay", path, "--format", "json"]);
    assert_eq!((replay.code, &replay.json()["same_trace"]), (1, &Value::Bool(true)));
    assert_eq!(replay.json()["trace_hash"], kept["trace_hash"]);
    check_junit(&std::fs::read_to_string(&junit).expect("a report"));
    // An engine of another kind would give another hash.
    let text = std::fs::read_to_string(path).expect("it is there");
    let hash = kept["trace_hash"].as_str().expect("a hash");
    std::fs::write(path, text.replace(hash, &"0".repeat(32))).expect("it can be written");
    assert_eq!(apus(&["replay", path]).code, 5);
}

/// The rules of the common `JUnit` schemas (Ant, Jenkins): elements, their order, attributes, and counts.
fn check_junit(text: &str) {
    let xml = roxmltree::Document::parse(text).expect("well-formed");
    let elements = |node: roxmltree::Node<'_, '_>| -> Vec<String> {
        node.children().filter(roxmltree::Node::is_element).map(|child| child.tag_name().name().to_owned()).collect()
    };
    let root = xml.root_element();
    assert_eq!(root.tag_name().name(), "testsuites");
    assert_eq!(elements(root), ["testsuite"]);
    let suite = root.first_element_child().expect("a suite");
    let cases: Vec<_> = suite.children().filter(roxmltree::Node::is_element).collect();
    let failed = cases.iter().filter(|case| case.children().any(|child| child.has_tag_name("failure"))).count();
    for node in [root, suite] {
        assert!(
            node.attribute("name").is_some() && node.attribute("time").is_some_and(|time| time.parse::<f64>().is_ok())
        );
        assert_eq!(node.attribute("tests"), Some(cases.len().to_string().as_str()));
        assert_eq!(node.attribute("failures"), Some(failed.to_string().as_str()));
        assert_eq!(node.attribute("errors"), Some("0"));
    }
    let (mut names, mut stories) = (std::collections::BTreeSet::new(), 0);
    for case in &cases {
        assert_eq!(case.tag_name().name(), "testcase");
        assert!(
            case.attribute("classname").is_some()
                && case.attribute("time").is_some_and(|time| time.parse::<f64>().is_ok())
        );
        assert!(names.insert(case.attribute("name").expect("a name").to_owned()), "names are unique");
        let order = ["properties", "failure", "system-out"];
        let places: Vec<usize> = elements(*case)
            .iter()
            .map(|name| order.iter().position(|known| known == name).expect("a known element"))
            .collect();
        assert!(places.is_sorted() && places.first() == Some(&0), "{places:?}");
        let properties = case.first_element_child().expect("properties");
        let of = |key: &str| {
            let property = properties.children().find(|node| node.attribute("name") == Some(key));
            property.and_then(|node| node.attribute("value")).map(ToOwned::to_owned)
        };
        if let Some(failure) = case.children().find(|child| child.has_tag_name("failure")) {
            assert!(failure.attribute("type").is_some() && failure.attribute("message").is_some());
            let seed = of("seed").expect("a seed");
            assert!(of("replay").is_some_and(|replay| replay.contains(&format!("--seed {seed}"))));
            assert!(of("trace-hash").is_some_and(|hash| hash.len() == 32));
            let out = case.children().find(|child| child.has_tag_name("system-out")).and_then(|node| node.text());
            // The first failing seed has the story; another thread may have found more.
            stories += out.map_or(0, |out| {
                assert!(out.lines().count() <= 40 && out.contains("VIOLATED"), "{out}");
                1
            });
        } else {
            assert!(of("seeds").is_some() && of("traces").is_some());
        }
    }
    assert!(failed > 0 && stories == 1, "{stories} stories of {failed} failures");
}

#[test]
fn the_story_the_chain_and_the_trace_read_well() {
    let artifact = corpus("lease-from-receive-time--dispatcher-power-off");
    let story = apus(&["explain", &artifact]);
    assert_eq!(story.code, 0);
    let told = story.stdout.lines().filter(|line| line.starts_with("    ")).count();
    assert!((10..=40).contains(&told), "{told} lines");
    snapshot("story", &story.stdout);
    let why = apus(&["why", &artifact, "n0", "30s"]);
    assert_eq!(why.code, 0);
    snapshot("why", &why.stdout);
    assert_eq!(apus(&["why", &artifact, "n0", "1ms"]).code, 3, "nothing has happened yet");
    let end = why.stdout.lines().rev().nth(1).expect("the last act").trim_start();
    let end: f64 = end.split_whitespace().next().expect("its time").parse().expect("milliseconds");
    let window = format!("{}ms..{}ms", end - 45.0, end + 1.0).replace('-', "");
    let trace = apus(&["explain", &artifact, "--trace", &window]);
    assert!(trace.stdout.contains("<- ") && trace.stdout.contains("-> "), "{}", trace.stdout);
    snapshot("trace", &trace.stdout);
}

#[test]
fn pictures_are_whole_and_need_no_network() {
    let dir = temp("pictures");
    let name = "lease-from-receive-time--dispatcher-power-off";
    let out = apus(&["explain", &corpus(name), "--all", &dir.display().to_string()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let read = |end: &str| std::fs::read(dir.join(format!("{name}.{end}"))).expect("it was written");
    let page = String::from_utf8(read("html")).expect("UTF-8");
    assert!(page.len() < 2_000_000 && page.contains("VIOLATED"), "{} bytes", page.len());
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "fetch(", "import("] {
        assert!(!page.contains(outside), "the page refers to {outside}");
    }
    check_mermaid(&String::from_utf8(read("mmd")).expect("UTF-8"));
    check_perfetto(&serde_json::from_slice(&read("perfetto.json")).expect("JSON"));
    check_pcapng(&read("pcapng"));
}

/// Lines as Mermaid's grammar of sequence diagrams has them; at most 40 messages, between declared participants.
fn check_mermaid(text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("sequenceDiagram"));
    let (mut nodes, mut messages) = (Vec::new(), 0);
    for line in lines.map(str::trim).filter(|line| !line.starts_with("%% ")) {
        assert!(!line.contains([';', '#']), "{line}");
        if let Some(node) = line.strip_prefix("participant ") {
            nodes.push(node.to_owned());
        } else if let Some(note) = line.strip_prefix("Note over ") {
            let (over, text) = note.split_once(": ").expect("a note has a text");
            let over: Vec<&str> = over.split(',').collect();
            assert!(over.len() <= 2 && over.iter().all(|node| nodes.iter().any(|known| known == node)), "{line}");
            assert!(!text.is_empty());
        } else {
            let (ends, _) = line.split_once(": ").expect("a message has a label");
            let (from, to) = ends.split_once("->>").expect("an arrow");
            assert!(nodes.iter().any(|node| node == from) && nodes.iter().any(|node| node == to), "{line}");
            messages += 1;
        }
    }
    assert!((4..=40).contains(&messages), "{messages}");
    assert!(text.trim_end().lines().last().is_some_and(|line| line.contains("VIOLATED")));
    snapshot("mermaid", text);
}

fn check_perfetto(json: &Value) {
    let events = json["traceEvents"].as_array().expect("a list");
    let mut flows: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut phases = std::collections::BTreeSet::new();
    for event in events {
        let phase = event["ph"].as_str().expect("a phase");
        phases.insert(phase);
        assert!(event["pid"].is_u64() && event["tid"].is_u64() && event["name"].is_string(), "{event}");
        assert!(phase == "M" || event["ts"].as_f64().is_some_and(|at| at >= 0.0), "{event}");
        assert!(phase != "X" || event["dur"].as_f64().is_some_and(|dur| dur >= 0.0), "{event}");
        if phase == "s" || phase == "f" {
            flows.entry(event["id"].as_u64().expect("an id")).or_default().push(phase);
        }
    }
    assert!(flows.len() > 100 && flows.values().all(|ends| ends[..] == ["s", "f"]));
    assert_eq!(phases.into_iter().collect::<Vec<_>>(), ["M", "X", "f", "i", "s"]);
}

/// Blocks with equal lengths at both ends; packets of IPv4 with a right checksum around the datagram's own bytes.
fn check_pcapng(bytes: &[u8]) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let (mut at, mut interfaces, mut packets, mut last) = (0, 0, 0, 0);
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4));
        assert_eq!((len % 4, word(at + len - 4)), (0, len), "the length is told twice");
        match kind {
            0x0a0d_0d0a => assert_eq!((at, word(at + 8)), (0, 0x1a2b_3c4d)),
            1 => interfaces += 1,
            6 => {
                packets += 1;
                assert!(word(at + 8) < interfaces);
                let time = (word(at + 12) as u64) << 32 | word(at + 16) as u64;
                assert!(time >= last, "in order of time");
                last = time;
                let (captured, original) = (word(at + 20), word(at + 24));
                assert_eq!(captured, original);
                let packet = &bytes[at + 28..at + 28 + captured];
                assert_eq!(
                    (packet[0], packet[9], usize::from(packet[2]) << 8 | usize::from(packet[3])),
                    (0x45, 17, captured)
                );
                let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
                assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum of the IP header");
                assert_eq!(&packet[28..30], b"AP", "the engine's own bytes: its magic");
            }
            _ => panic!("an unknown block {kind:#x}"),
        }
        at += len;
    }
    assert!(interfaces >= 2 && packets > 100, "{interfaces} interfaces, {packets} packets");
}

#[test]
fn the_corpus_does_as_it_should() {
    let dir = root().join("scenarios/corpus").display().to_string();
    let out = apus(&["corpus", "run", &dir]);
    assert_eq!(out.code, 0, "{}", out.stdout);
    let right = out.stdout.lines().filter(|line| line.starts_with("ok  ")).count();
    assert!(right >= 12, "{}", out.stdout);
    let empty = temp("empty").display().to_string();
    assert_eq!(apus(&["corpus", "run", &empty]).code, 4);
}

#[test]
fn a_corpus_takes_what_guards_something() {
    let dir = temp("corpus");
    let at = dir.display().to_string();
    let entry = corpus("grant-without-wait--clock-drift");
    let added = apus(&["corpus", "add", &entry, &at]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let copy = dir.join("grant-without-wait--clock-drift.json");
    std::fs::copy(&copy, dir.join("z-again.json")).expect("it can be copied");
    let least = apus(&["corpus", "minimize", &at, "--budget", "20s", "--format", "json"]);
    assert_eq!(least.code, 0, "{}", least.stderr);
    let kept: Vec<bool> =
        least.json()["entries"].as_array().expect("a list").iter().map(|entry| entry["kept"] == true).collect();
    assert_eq!(kept, [true, false], "two that fail alike are one");
    assert_eq!(apus(&["corpus", "run", &at]).code, 0);
    // The same failure with nothing planted: it would have to be mended first.
    let text = std::fs::read_to_string(corpus("partition-1998-rule")).unwrap_or_default();
    assert!(text.is_empty(), "a scenario that shows a failure is no entry");
    let shown = temp("shown").display().to_string();
    assert_eq!(apus(&["run", "partition-1998-rule", "--seed", "0", "--artifacts", &shown]).code, 1);
    let refused = apus(&["corpus", "add", &format!("{shown}/partition-1998-rule-0.json"), &at]);
    assert_eq!(refused.code, 64, "{}", refused.stdout);
    assert!(refused.stderr.contains("with nothing planted"), "{}", refused.stderr);
}

/// What the README shows is what the commands print, `…` aside.
#[test]
fn the_readme_shows_real_output() {
    let page = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    let at = temp("readme").display().to_string();
    let mut shown = 0;
    for block in page.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for part in block.split("$ ").skip(1) {
            let (command, lines) = part.split_once('\n').expect("a command and what it prints");
            let words: Vec<String> = command
                .split_whitespace()
                .skip(1)
                .map(|word| match word.strip_prefix("out") {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{at}{rest}"),
                    _ => word.to_owned(),
                })
                .collect();
            let out = apus(&words.iter().map(String::as_str).collect::<Vec<_>>());
            let printed = out.stdout.replace(&at, "out");
            let mut rest = printed.lines();
            for line in lines.lines().filter(|line| *line != "…") {
                shown += 1;
                assert!(rest.any(|there| there == line), "stale: `{command}` does not print\n{line}\nbut\n{printed}");
            }
        }
    }
    assert!(shown > 20, "{shown} lines");
}
