//! The real command: help, wrong usage, exit codes, and formats.

mod common;

use std::time::{Duration, Instant};

use common::{apus, apus_with, corpus, root, snapshot, temp};
use serde_json::Value;

const HELP: [&[&str]; 45] = [
    &[],
    &["run"],
    &["replay"],
    &["shrink"],
    &["explain"],
    &["why"],
    &["corpus"],
    &["corpus", "run"],
    &["corpus", "add"],
    &["corpus", "minimize"],
    &["list"],
    &["doctor"],
    &["schema"],
    &["completions"],
    &["bench"],
    &["bench", "sim"],
    &["bench", "diagnosis"],
    &["bench", "repl"],
    &["bench", "dispatch"],
    &["mutants"],
    &["cluster"],
    &["cluster", "init"],
    &["cluster", "token"],
    &["cluster", "join"],
    &["cluster", "status"],
    &["cluster", "leave"],
    &["cluster", "rotate"],
    &["status"],
    &["top"],
    &["events"],
    &["man"],
    &["move"],
    &["exec"],
    &["cp"],
    &["config"],
    &["config", "check"],
    &["config", "apply"],
    &["maintenance"],
    &["node", "fence"],
    &["repl"],
    &["repl", "status"],
    &["repl", "verify"],
    &["repl", "orphans"],
    &["repl", "promote"],
    &["repl", "resync"],
];

#[test]
fn every_command_has_a_help_text() {
    for path in HELP {
        let out = apus(&[path, &["--help"]].concat());
        assert_eq!(out.code, 0, "{path:?}");
        assert!(out.stderr.is_empty() && out.stdout.contains("Usage: apus"), "{path:?}");
        assert!(out.stdout.lines().all(|line| line.chars().count() <= 100), "{path:?}: {}", out.stdout);
        let name = if path.is_empty() { "help".into() } else { format!("help_{}", path.join("_")) };
        snapshot(&name, &out.stdout);
    }
}

#[test]
fn wrong_usage_is_told_with_a_mend() {
    let wrong: [&[&str]; 34] = [
        &["rnu"],
        &["run", "helthy"],
        &["run", "--seeds", "5"],
        &["run", "--seeds", "5..5"],
        &["run", "--seeds", "0..9", "--seed", "3"],
        &["run", "--seed-from-commit", "HEAD"],
        &["run", "--shard", "4/4"],
        &["run", "--jobs", "0"],
        &["run", "--budget", "5"],
        &["run", "--world", "moon"],
        &["run", "--mutant", "grant-without-wiat"],
        &["run", "--check-determinism=200"],
        &["run", "--shrink=soon"],
        &["run", "--formt", "json"],
        &["list", "falts"],
        &["replay", "no-such.json"],
        &["replay", "README.md"],
        &["why", "no-such.json", "n1", "5"],
        &["why", "scenarios/corpus/lease-from-receive-time--dispatcher-power-off.json", "n9", "5s"],
        &["why", "scenarios/corpus/lease-from-receive-time--dispatcher-power-off.json"],
        &["why", "web", "n1"],
        &["events", "--node", "web"],
        &["explain"],
        &["corpus", "run", "no-such-folder"],
        &["bench", "dispatch", "--servers", "0"],
        &["bench", "dispatch", "--servers", "4095"],
        &["bench", "dispatch", "--servers", "1"],
        &["bench", "dispatch", "--servers", "3", "--weights", "1,2"],
        &["bench", "dispatch", "--weights", "1,0"],
        &["bench", "dispatch", "--change", "remvoe"],
        &["bench", "dispatch", "--clients", "zpif"],
        &["bench", "dispatch", "--clients", "LICENSE-MIT"],
        &["bench", "dispatch", "--many", "5"],
        &["list", "--format", "csv"],
    ];
    let mut all = String::new();
    for args in wrong {
        let out = apus(args);
        assert_eq!(out.code, 64, "{args:?}: {}", out.stderr);
        assert!(out.stderr.starts_with("error: ") && out.stdout.is_empty(), "{args:?}: {}", out.stderr);
        all += &format!("$ apus {}\n{}\n", args.join(" "), out.stderr);
    }
    snapshot("wrong_usage", &all);
}

#[test]
fn bad_scenarios_exit_with_64_and_say_where() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("scenarios/bad")).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_none_or(|end| end != "toml") {
            continue;
        }
        seen += 1;
        let name = format!("scenarios/bad/{}", path.file_name().expect("a file").to_string_lossy());
        let expected = std::fs::read_to_string(path.with_extension("expected")).expect("it says what is wrong");
        let out = apus(&["run", &name, "--format", "json"]);
        assert_eq!(out.code, 64, "{name}");
        assert!(out.stderr.replace("\r\n", "\n").starts_with(expected.trim_end()), "{name}: {}", out.stderr);
        let json = out.json();
        assert_eq!(json["exit_code"], 64, "{name}");
        let problem = &json["problems"][0];
        assert!(problem["line"].as_u64() >= Some(1) && problem["help"].as_str() > Some(""), "{name}: {problem}");
    }
    assert!(seen >= 120, "{seen}");
    let text = apus(&["run", "scenarios/bad/unknown-kind.toml"]);
    assert!(text.stdout.is_empty() && text.stderr.contains("nothing was run"), "{}", text.stderr);
}

#[test]
fn exit_codes_are_as_documented() {
    let dir = temp("codes");
    let write = |name: &str, rest: &str| {
        let text = format!("name = \"{name}\"\nabout = \"\"\"\nOne.\nTwo.\"\"\"\nnodes = 3\nduration = \"5s\"\n{rest}");
        let path = dir.join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    let vacuous =
        write("vacuous", "[[fault]]\nkind = \"mtu\"\nat = \"2s\"\nfor = \"1s\"\nsize = \"64KiB\"\ntarget = \"all\"\n");
    let endless = write("endless", "heal = \"1h\"\n");
    let code = |args: &[&str]| apus(args).code;
    assert_eq!(code(&["run", "healthy", "--seeds", "0..2"]), 0);
    assert_eq!(code(&["run", "partition-1998-rule", "--seed", "0"]), 1);
    assert_eq!(code(&["run", &vacuous, "--seed", "0"]), 3);
    assert_eq!(code(&["run", "healthy", "--budget", "0s"]), 4);
    assert_eq!(code(&["run", "healthy", "--seeds", "0..2", "--shard", "2/3"]), 4);
    assert_eq!(code(&["run", "healthy", "--seed", "0", "--junit", &dir.display().to_string()]), 70);
    assert_eq!(code(&["run", "healthy", "--seed", "x"]), 64);
    // A seed is ended while it runs, not afterwards: an hour of simulated time takes far longer than the limit.
    let began = Instant::now();
    let out = apus(&["run", &endless, "--seed", "0", "--timeout-per-seed", "50ms", "--format", "json"]);
    assert_eq!(out.code, 2, "{}", out.stdout);
    assert_eq!(out.json()["scenarios"][0]["failures"][0]["checker"], "timeout");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn first_and_last_lines_name_what_ran() {
    let out = apus(&["run", "healthy", "--seeds", "0..3", "--jobs", "2"]);
    let (first, last) = (out.stdout.lines().next().expect("a line"), out.stdout.lines().last().expect("a line"));
    for line in [first, last] {
        assert!(line.contains(&format!("apus {}", env!("CARGO_PKG_VERSION"))) && line.contains("seeds 0..3"), "{line}");
    }
    let run = |more: &[&str]| apus(&[&["run", "healthy", "--seeds", "0..3", "--format", "json"], more].concat()).json();
    let json = run(&["--jobs", "1"]);
    let hash = json["scenarios_hash"].as_str().expect("a hash");
    assert!(first.contains(hash) && last.contains(hash), "{first}\n{last}");
    assert!(last.contains(json["traces"].as_str().expect("a digest")), "one thread or two: the same digest\n{last}");
    let digest = |json: &Value| u128::from_str_radix(json["traces"].as_str().expect("a digest"), 16).expect("hex");
    let shards = ["0/2", "1/2"].map(|shard| digest(&run(&["--shard", shard])));
    assert_eq!(shards[0] ^ shards[1], digest(&json), "shards add up to the whole");
}

#[test]
fn a_commit_names_a_seed() {
    let seed = |sha: &str| {
        let json = apus(&["run", "healthy", "--seed-from-commit", sha, "--format", "json"]).json();
        json["seeds"]["from"].as_u64().expect("a number")
    };
    assert_eq!(seed("0123abc"), 0x0012_3abc);
    assert_eq!(seed("0123abc4567"), 0x0012_3abc, "a longer hash of the same commit means the same seed");
}

#[test]
fn every_printed_result_is_there_as_json() {
    let artifact = corpus("lease-from-receive-time--dispatcher-power-off");
    let copy = temp("json").join("copy.json").display().to_string();
    let commands: [&[&str]; 15] = [
        &["run", "healthy", "--seed", "1"],
        &["run", "--list"],
        &["replay", &artifact],
        &["shrink", &artifact, "--budget", "5s", "--out", &copy],
        &["explain", &artifact],
        &["explain", &artifact, "--trace", "1s..2s"],
        &["why", &artifact, "n0", "20s"],
        &["list"],
        &["list", "checkers"],
        &["doctor"],
        &["schema"],
        &["bench", "diagnosis", "--nodes", "16", "--seeds", "1", "--jobs", "1"],
        &["bench", "search", "--states", "2000", "--jobs", "1"],
        &["bench", "dispatch", "--servers", "3", "--many", "1000"],
        &["mutants", "grant-without-wait", "--seeds", "1", "--jobs", "1"],
    ];
    for command in commands {
        let out = apus(&[command, &["--format", "json"]].concat());
        let json = out.json();
        if let Some(code) = json.get("exit_code") {
            assert_eq!(code.as_i64(), Some(out.code.into()), "{command:?}");
        }
        assert!(out.stderr.is_empty(), "{command:?}: {}", out.stderr);
    }
}

#[test]
fn colours_only_where_they_are_wanted() {
    let args = ["run", "healthy", "--seed", "0"];
    assert!(!apus(&args).stdout.contains('\u{1b}'), "no terminal, no colour");
    let forced = apus_with(&args, &[("CLICOLOR_FORCE", "1")]);
    assert!(forced.stdout.contains('\u{1b}'));
    assert_eq!(forced.stderr, "", "no progress line without a terminal");
    assert!(!apus_with(&args, &[("NO_COLOR", "1")]).stdout.contains('\u{1b}'));
    assert!(!apus(&["run", "nosuch"]).stderr.contains('\u{1b}'));
}

/// On a terminal, made by util-linux's `script`: a progress line that ends erased, and no colour with `NO_COLOR`.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_progress() {
    let run = |env: &str| {
        let command = format!("{env} {} run common-swarm-8 --budget 1s --jobs 1", env!("CARGO_BIN_EXE_apus"));
        let out = std::process::Command::new("script").args(["-qec", &command, "/dev/null"]).output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
    };
    // Without util-linux there is no terminal to try.
    let Ok(text) = run("TERM=xterm") else { return };
    assert!(text.contains("\r\u{1b}[K[1/1] common-swarm-8") && text.contains("ETA"), "{text:?}");
    assert!(text.contains("\u{1b}[32m"), "{text:?}");
    let plain = run("TERM=xterm NO_COLOR=1").expect("it ran before");
    assert!(!plain.contains("\u{1b}[32m") && plain.contains("pass"), "{plain:?}");
    let dumb = run("TERM=dumb").expect("it ran before");
    assert!(!dumb.contains("ETA"), "{dumb:?}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let bash = |script: &str| {
        let script = script.replace("apus", env!("CARGO_BIN_EXE_apus"));
        std::process::Command::new("bash").args(["-c", &script]).output().expect("bash is there")
    };
    let out = bash("apus list faults | head -1; echo ${PIPESTATUS[0]}");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(text.lines().last(), Some("0"), "{text}");
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(bash("apus list > /dev/full").status.code(), Some(70), "a full disk is an error");
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let out = apus(&["completions", shell]);
        assert_eq!(out.code, 0, "{shell}");
        assert!(out.stdout.contains("corpus") && out.stdout.contains("seed-from-commit"), "{shell}");
    }
}

#[test]
fn the_documents_tell_the_exit_codes() {
    let help = apus(&["--help"]).stdout;
    for page in ["README.md", "docs/scenarios.md"] {
        let text = std::fs::read_to_string(root().join(page)).expect("it is there");
        for code in [0, 1, 2, 3, 4, 5, 64, 70] {
            assert!(text.contains(&format!("| {code} |")), "{page} lacks exit code {code}");
            assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "help lacks {code}");
        }
    }
}

const NODE: &str = "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\n\
                    command = [\"/bin/sleep\", \"9\"]\n";

#[test]
fn a_configuration_is_checked_before_it_is_used() {
    let folder = temp("config");
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let good = file("good.toml", NODE);
    let out = apus(&["config", "check", &good, "--here"]);
    assert_eq!((out.code, out.stdout.trim()), (0, format!("{good}: nothing is wrong").as_str()), "{}", out.stderr);
    let bad =
        file("bad.toml", &NODE.replace("node = 0", "node = 0\nlease = 5").replace("[\"/bin/sleep\", \"9\"]", "[]"));
    let out = apus(&["config", "check", &bad]);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!((out.code, lines.len()), (1, 2), "{}", out.stdout);
    assert!(lines[0].starts_with(&format!("{bad}:3: `lease` must be a text")), "{}", lines[0]);
    assert!(lines[1].starts_with(&format!("{bad}:9: `command` must be the program")), "{}", lines[1]);
    assert!(out.stderr.contains("2 mistakes"), "{}", out.stderr);
    let json = apus(&["config", "check", &good, &bad, "--format", "json"]);
    let told = json.json();
    assert_eq!((json.code, &told["files"], &told["wrong"][1]["line"]), (1, &2.into(), &9.into()), "{told}");
    // Who runs it is told the same.
    let run = apus(&["node", "run", "--config", &bad]);
    assert_eq!(run.code, 64);
    assert!(
        run.stderr.contains("bad.toml:3: `lease`") && run.stderr.contains("bad.toml:9: `command`"),
        "{}",
        run.stderr
    );
    assert_eq!(apus(&["config", "check", &folder.join("none").display().to_string()]).code, 64);
    for what in [
        &["maintenance", "on", "1"][..],
        &["config", "apply", &good],
        &["node", "fence", "1", "--dry-run"],
        &["repl", "status"],
        &["repl", "verify", "books"],
        &["repl", "orphans"],
        &["repl", "promote", "books", "--to", "1"],
        &["repl", "resync", "books", "--node", "1"],
    ] {
        let nobody = folder.join("control").display().to_string();
        let out = apus(&[what, &["--control", &nobody]].concat());
        assert!(matches!(out.code, 64 | 70) && out.stderr.contains("does a node run here"), "{what:?}: {}", out.stderr);
    }
}

#[test]
fn the_environment_names_a_control_socket_unless_the_argument_does() {
    let folder = temp("named");
    let place = |name: &str| folder.join(name).display().to_string();
    let (named, argued) = (place("named"), place("argued"));
    for what in [&["exec"][..], &["status"], &["vip", "status"], &["service", "status"], &["cluster", "status"]] {
        let rest: &[&str] = if what == ["exec"] { &["1", "--", "/bin/true"] } else { &[] };
        let env = [("APUS_CONTROL", named.as_str())];
        let by_env = apus_with(&[what, rest].concat(), &env).stderr;
        assert!(by_env.contains(&named), "{what:?}: {by_env}");
        let by_both = apus_with(&[what, &["--control", &argued], rest].concat(), &env).stderr;
        assert!(by_both.contains(&argued) && !by_both.contains(&named), "{what:?}: {by_both}");
    }
    let pages = folder.join("man").display().to_string();
    assert_eq!(apus(&["man", &pages]).code, 0);
    let page = std::fs::read_to_string(folder.join("man/apus-status.1")).expect("a page");
    assert!(page.contains("APUS_CONTROL"), "{page}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let folder = temp("unit");
    let config = folder.join("a node.toml");
    let out = apus(&["node", "unit", "--config", &config.display().to_string()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for line in ["Type=notify", "KillMode=process", "Delegate=yes", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(out.stdout.lines().any(|one| one == line), "{line}: {}", out.stdout);
    }
    assert!(out.stdout.contains("/a node.toml\""), "{}", out.stdout);
    let unit = folder.join("apus.service");
    std::fs::write(&unit, &out.stdout).expect("a file");
    let verify =
        |unit: &std::path::Path| std::process::Command::new("systemd-analyze").arg("verify").arg(unit).output();
    let Ok(said) = verify(&unit) else {
        println!("SKIPPED: systemd-analyze is not installed");
        return;
    };
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("apus.service")).collect();
    // Nothing about manual pages: those are installed by `apus man`.
    let ours: Vec<&&str> = ours.iter().filter(|line| !line.contains("man apus-node-run")).collect();
    assert!(ours.is_empty(), "{told}");
    // And it would tell.
    let broken = folder.join("broken.service");
    std::fs::write(&broken, out.stdout.replace("Type=notify", "Type=notifies")).expect("a file");
    let said = verify(&broken).expect("it was there");
    assert!(String::from_utf8_lossy(&said.stderr).contains("notifies"), "{said:?}");
}

/// A node that answers each who asks by the number of the node that he asks for.
#[cfg(target_os = "linux")]
fn answers(place: &std::path::Path) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::os::unix::net::UnixListener::bind(place).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("somebody asks");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a question");
            let question: Value = serde_json::from_str(&line).expect("a question");
            let end = match question["node"].as_u64() {
                Some(4) => {
                    let _ = stream.write_all(b"{\"refused\":\"not by you\"}\n");
                    continue;
                }
                Some(5) => {
                    let _ = stream.write_all(b"{\"error\":\"node 5 is down\"}\n");
                    continue;
                }
                Some(1) => r#"{"code":7}"#,
                Some(2) => r#"{"signal":9}"#,
                Some(3) => r#"{"signal":9,"cut":"it took longer"}"#,
                Some(7) => r#"{"error":"no such program"}"#,
                _ => "",
            };
            let _ = stream.write_all(b"{\"go\":true}\n");
            if !end.is_empty() {
                let length = u32::try_from(end.len() + 1).expect("short").to_le_bytes();
                let _ = stream.write_all(&[&length[..], &[9], end.as_bytes()].concat());
            }
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_remote_command_has_the_exit_codes_that_its_help_names() {
    let place = temp("remote-codes").join("control");
    answers(&place);
    let place = place.display().to_string();
    let run = |nodes: &[&str], more: &[&str]| {
        let words = [&["exec", "--control", &place][..], nodes, more, &["--", "/bin/true"]].concat();
        apus(&words)
    };
    for (node, code) in [("1", 7), ("2", 137), ("3", 124), ("4", 64), ("5", 70), ("6", 70), ("7", 70)] {
        let ran = run(&[node], &[]);
        assert_eq!(ran.code, code, "{node}: {}", ran.stderr);
    }
    let none = apus(&["exec", "--control", "/nonexistent/control", "1", "--", "/bin/true"]);
    assert_eq!(none.code, 70, "{}", none.stderr);
    // Every node has a line, also one that failed.
    let ran = run(&["1", "4", "5"], &["--format", "json"]);
    let mut lines: Vec<(u64, u64, bool)> = Vec::new();
    for line in ran.stdout.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        lines.push((
            line["node"].as_u64().expect("a node"),
            line["exit_code"].as_u64().expect("a code"),
            line["error"].is_string(),
        ));
    }
    lines.sort_unstable();
    assert_eq!((ran.code, lines), (70, vec![(1, 7, false), (4, 64, true), (5, 70, true)]));
    let cp = apus(&["cp", "--control", &place, "4:/srv/x", &format!("{place}.x")]);
    assert_eq!(cp.code, 64, "{}", cp.stderr);
}
