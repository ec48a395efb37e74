//! `apus bench dispatch`, as a user runs it.

mod common;

use common::{apus, temp};
use serde_json::Value;

fn contender<'j>(json: &'j Value, name: &str) -> &'j Value {
    let all = json["contenders"].as_array().expect("a list");
    all.iter().find(|row| row["contender"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or_else(|| panic!("{name}: {of}"))
}

/// What the command is for: modulo moves nearly everybody, ours those it must; and every number is one.
#[test]
fn one_of_sixteen_leaves() {
    let dir = temp("dispatch-plots");
    let out = apus(&[
        "bench",
        "dispatch",
        "--servers",
        "16",
        "--change",
        "remove",
        "--many",
        "500000",
        "--no-instructions",
        "--plots",
        &dir.display().to_string(),
        "--format",
        "json",
    ]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let json = out.json();
    assert_eq!(json["contenders"].as_array().map(Vec::len), Some(16));
    assert!((number(&json, "ideal") - 0.0625).abs() < 1e-9);
    let (modulo, ours) = (contender(&json, "modulo"), contender(&json, "balanced"));
    assert!((number(modulo, "moved") - 0.9375).abs() < 0.01, "{modulo}");
    assert!((number(ours, "moved") - 0.0625).abs() <= 0.001 && number(ours, "needless") <= 0.001, "{ours}");
    assert!(number(ours, "order_dependent") <= 0.0 && number(contender(&json, "anchor"), "order_dependent") > 0.05);
    assert!(number(ours, "max_load") <= 1.05 && number(ours, "min_load") >= 0.95, "{ours}");
    assert!(number(ours, "publish_check_ns") > 0.0);
    assert!(good(&json["take"]), "{}", json["take"]);
    assert_eq!(json["instructions_not_counted"], "--no-instructions");
    for row in json["contenders"].as_array().expect("a list") {
        for way in ["independent", "dependent"] {
            let (least, median) = (number(&row[way], "least_ns"), number(&row[way], "median_ns"));
            assert!(least > 0.0 && median >= least * 0.99, "{row}");
        }
        assert!(number(row, "build_ns") > 0.0 && number(row, "bytes") > 0.0, "{row}");
    }
    for name in ["loads", "moved", "lookups"] {
        let png = std::fs::read(dir.join(name).with_extension("png")).expect("it is written");
        assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
        let svg = std::fs::read_to_string(dir.join(name).with_extension("svg")).expect("it is written");
        let page = roxmltree::Document::parse(&svg).expect("it is XML");
        let texts: Vec<&str> = page.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        assert!(texts.contains(&"balanced") && texts.contains(&"modulo"), "{texts:?}");
    }
}

/// Without counted instructions, times of a machine that others use too decide between two that keep every limit: a table for which the
/// caches have no room is no quicker than a few steps of arithmetic.
fn good(take: &Value) -> bool {
    take == "balanced" || take == "dx"
}

/// What is no time is the same each time.
#[test]
fn a_question_has_one_answer() {
    let args = ["bench", "dispatch", "--servers", "5", "--change", "roll", "--many", "30000", "--no-instructions"];
    let ask = || {
        let out = apus(&[&args[..], &["--format", "json"]].concat());
        assert_eq!(out.code, 0, "{}", out.stderr);
        let json = out.json();
        let of = |row: &Value| {
            let parts = ["clients", "max_load", "min_load", "moved", "needless", "order_dependent", "bytes"];
            parts.map(|part| row[part].to_string())
        };
        let rows: Vec<_> = json["contenders"].as_array().expect("a list").iter().map(of).collect();
        (json["take"].clone(), rows)
    };
    let (first, again) = (ask(), ask());
    assert_eq!(first.1, again.1);
    for (take, _) in [first, again] {
        assert!(good(&take), "{take}");
    }
}

/// Weights, a file, and the other formats; contenders without weights are not recommended.
#[test]
fn weights_and_a_file() {
    let dir = temp("dispatch-clients");
    let file = dir.join("clients.txt");
    let lines = (0..4_000_u32).map(|i| format!("10.{}.{}.{} {}", i / 1_000, i / 250 % 4, i % 250, 1 + i % 3));
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).expect("it can be written");
    let file = file.display().to_string();
    let args = ["bench", "dispatch", "--servers", "3", "--weights", "1,1,4", "--clients", &file, "--change", "drain"];
    let text = apus(&[&args[..], &["--format", "table", "--no-instructions"]].concat());
    assert_eq!(text.code, 0, "{}", text.stderr);
    assert!(text.stdout.contains("* knows no weights") && text.stdout.contains("jump*"), "{}", text.stdout);
    assert!(text.stdout.contains("3 servers, of different weights; drain; 4000 clients"), "{}", text.stdout);
    let take = text.stdout.lines().find_map(|line| line.strip_prefix("take ")).expect("it says what to take");
    let known = ["balanced", "rendezvous-weighted", "ring", "maglev-65537", "maglev-655373", "ipvs-sh", "ipvs-mh"];
    assert!(known.iter().any(|name| take.starts_with(name)), "{take}");
    let csv = apus(&[&args[..], &["--format", "csv", "--no-instructions"]].concat());
    let lines: Vec<Vec<&str>> = csv.stdout.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 17, "{}", csv.stdout);
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{}", csv.stdout);
    let ours = lines.iter().find(|line| line[0] == "balanced").expect("a line");
    let at = |name: &str| {
        let column = lines[0].iter().position(|column| *column == name).unwrap_or_else(|| panic!("no {name}"));
        ours[column].parse::<f64>().unwrap_or_else(|_| panic!("{name}: {ours:?}"))
    };
    assert!((at("ideal") - 1.0 / 6.0).abs() < 1e-9 && at("needless") <= 0.001 && ours[2] == "4000");
}

#[test]
fn a_bad_client_is_told_with_its_line() {
    let dir = temp("dispatch-bad");
    let told = |text: &str| {
        let file = dir.join("clients.txt");
        std::fs::write(&file, text).expect("it can be written");
        let file = file.display().to_string();
        let out = apus(&["bench", "dispatch", "--clients", &file]);
        assert!(out.code == 64 && out.stdout.is_empty(), "{}{}", out.stdout, out.stderr);
        out.stderr
    };
    assert!(told("192.0.2.1\n192.0.2.256 4\n").contains("clients.txt:2: `192.0.2.256` is no IP address; want "));
    assert!(told("192.0.2.1 many\n").contains("clients.txt:1: `many` is no number of packets"));
    assert!(told("# nobody\n").contains("clients.txt: no client in it; want "));
    let out = apus(&["bench", "dispatch", "--clients", &dir.join("none").display().to_string(), "--format", "json"]);
    assert_eq!((out.code, out.json()["exit_code"].as_i64()), (64, Some(64)));
}
