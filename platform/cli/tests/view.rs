//! The operator's view of three live nodes on addresses of the loopback, each the real command: a drain, a dead node, its return,
//! a page, metrics.

#![cfg(target_os = "linux")]

mod common;

#[path = "../../node/tests/support/openmetrics.rs"]
mod openmetrics;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, apus, temp};
use serde_json::Value;

const NODES: usize = 3;
/// Longer than anything takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef";

struct Cluster {
    folder: PathBuf,
    nodes: Vec<Option<Child>>,
    web: u16,
    third: u32,
}

impl Cluster {
    fn new(name: &str, nodes: usize) -> Self {
        let folder = temp(name);
        // One port for all, free on the first address: each has an address of its own.
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (one, other) = (socket(), socket());
        let [port, web] = [one, other].map(|socket| socket.local_addr().expect("a port").port());
        let third = std::process::id() % 250;
        let cluster = Self { folder, nodes: (0..nodes).map(|_| None).collect(), web, third };
        for node in 0..nodes {
            let place = cluster.folder.display();
            let mut text = format!(
                "cluster = 96\nnode = {node}\nport = {port}\nfolder = \"{place}/s{node}\"\ncontrol = \"{place}/c{node}\"\n"
            );
            for other in 0..nodes {
                text += &format!("[[nodes]]\nid = {other}\naddress = \"{}\"\n", cluster.address(other));
            }
            text += "[[services]]\nname = \"web\"\ncommand = [\"/bin/sleep\", \"1000\"]\nbackoff = \"10ms\"\n";
            text += &format!("[http]\nlisten = \"{}\"\n", cluster.http(node));
            if node == 2 {
                text += &format!("token = \"{TOKEN}\"\n");
            }
            let file = cluster.folder.join(format!("{node}.toml"));
            fs::write(&file, &text).expect("a file");
            let out = apus(&["node", "init", "--config", &file.display().to_string()]);
            assert_eq!(out.code, 0, "{}", out.stderr);
        }
        cluster
    }

    fn address(&self, node: usize) -> String {
        format!("127.96.{}.{}", self.third, node + 1)
    }

    fn http(&self, node: usize) -> String {
        format!("{}:{}", self.address(node), self.web)
    }

    fn start(&mut self, node: usize) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join(format!("log{node}")));
        let log = log.expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
        command.args(["node", "run", "--format", "json", "--config"]).arg(self.folder.join(format!("{node}.toml")));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.nodes[node] = Some(command.spawn().expect("a node"));
    }

    /// Ends a node's daemon as `kill -9` does.
    fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()).collect()
    }

    fn control(&self, node: usize) -> String {
        self.folder.join(format!("c{node}")).display().to_string()
    }

    fn ask(&self, node: usize, words: &[&str]) -> Ran {
        apus(&[words, &["--control", &self.control(node)]].concat())
    }

    fn status(&self, node: usize) -> Value {
        let out = self.ask(node, &["status", "--format", "json"]);
        serde_json::from_str(&out.stdout).unwrap_or_default()
    }

    /// Waits until a node's status is so.
    fn until(&self, node: usize, what: &str, such: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status(node);
            if such(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the service is ready on a node that is none of these, and gives it.
    fn ready(&self, by: usize, not: &[usize]) -> usize {
        let there = |status: &Value| {
            let row = &status["services"][0];
            let node = row["node"].as_u64().and_then(|node| usize::try_from(node).ok());
            node.filter(|node| row["state"] == "ready" && row["pid"].is_u64() && !not.contains(node))
        };
        let status = self.until(by, "the service is ready", |status| there(status).is_some());
        there(&status).expect("it was seen")
    }

    /// Asks by HTTP: the status line with the headers, and the body.
    fn get(&self, node: usize, path: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http(node)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.http(node)) };
        write!(stream, "GET {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n").expect("it is asked");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if std::thread::panicking() {
                let log = fs::read_to_string(self.folder.join(format!("log{node}"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("node {node}:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
            self.kill(node);
        }
        for node in 0..self.nodes.len() {
            for copy in fs::read_dir(self.folder.join(format!("s{node}/programs"))).into_iter().flatten().flatten() {
                end_keeper(&copy.path());
            }
        }
    }
}

/// Tells a keeper to end, with its copy, and waits until it has.
fn end_keeper(folder: &Path) {
    use apus_os::program::{Order, VERSION, encode_order};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(folder.join("socket")) else { return };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    for order in [Order::Hello { version: VERSION }, Order::Stop { op: 1, grace: 0 }, Order::Leave] {
        let _ = stream.write_all(&encode_order(&order));
    }
    let mut bytes = [0; 4_096];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
}

/// Where texts stand in another, which must be in this order.
fn in_order(text: &str, parts: &[&str]) {
    let mut from = 0;
    for part in parts {
        let found = text[from..].find(part);
        from += found.unwrap_or_else(|| panic!("`{part}` does not follow in\n{text}"));
    }
}

#[test]
fn a_cluster_is_seen_through_a_drain_a_death_and_a_return() {
    let mut cluster = Cluster::new("view", NODES);
    (0..NODES).for_each(|node| cluster.start(node));
    let first = cluster.ready(0, &[]);
    let good = cluster.until(0, "nothing is amiss", |status| status["health"] == "good");
    assert!(good["leases"][0]["left_ms"].as_u64().is_some_and(|left| left <= 600), "{good:#}");
    let text = cluster.ask(0, &["status"]);
    assert_eq!(text.code, 0, "{}", text.stdout);
    in_order(
        &text.stdout,
        &["cluster 96, as node 0 sees it: good", "3 of 3 voters up", "NODE", "LEASE", "web.0", "SERVICE"],
    );

    // A drain: the order is found as the cause.
    let by = (first + 1) % NODES;
    assert_eq!(cluster.ask(by, &["node", "drain", &first.to_string()]).code, 0);
    let second = cluster.ready(by, &[first]);
    let why = cluster.ask(by, &["why", "web"]);
    assert_eq!(why.code, 0, "{}", why.stderr);
    let headline = format!("web.0 is ready on node {second}, epoch ");
    let order = format!("orders here: drain node {first}");
    in_order(&why.stdout, &[&headline, &order, "lets go of web.0", "is granted to", "holds web.0", "web.0 is ready"]);
    assert_eq!(cluster.ask(by, &["node", "undrain", &first.to_string()]).code, 0);

    // By order to another node.
    cluster.until(by, "nothing is amiss again", |status| status["health"] == "good");
    let victim = usize::from(second == 0);
    let moved = cluster.ask(by, &["move", "web", "--to", &victim.to_string()]);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert_eq!(cluster.ready(by, &[second]), victim);
    let why = cluster.ask(by, &["why", "web"]);
    in_order(&why.stdout, &[&format!("orders here: move web.0 to node {victim}"), "lets go of web.0", "is granted to"]);
    let refused = cluster.ask(by, &["move", "nothing", "--to", "0"]);
    assert!(refused.code == 64 && refused.stderr.contains("`nothing` is not known here"), "{}", refused.stderr);

    // A death: what led to the takeover, over the journals of those who are left.
    cluster.kill(victim);
    let (second, seer) = (victim, 1 - victim);
    let third = cluster.ready(seer, &[second]);
    let why = cluster.ask(seer, &["why", "web.0"]);
    let headline = format!("web.0 is ready on node {third}, epoch ");
    let silent = format!("node {second} stops answering: ");
    let down = format!("node {second} is judged down, by node");
    let missing = format!("the journal of node {second} is missing: it is down");
    in_order(
        &why.stdout,
        &[&headline, &silent, &down, "is granted to", "holds web.0", "web.0 is ready", "held again: ", &missing],
    );
    let json = cluster.ask(seer, &["why", "web", "--format", "json"]).json();
    let outage = json["outage_us"].as_u64().expect("it was out");
    assert!((100_000..20_000_000).contains(&outage), "{outage}");
    let steps = json["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["wall_us"].is_u64() && step["index"].is_u64()), "{json:#}");
    let node = cluster.ask(seer, &["why", &format!("n{second}")]);
    assert!(node.stdout.starts_with(&format!("node {second} is down\n")), "{}", node.stdout);
    let text = cluster.ask(seer, &["status"]);
    assert_eq!(text.code, 1, "{}", text.stdout);
    in_order(
        &text.stdout,
        &["degraded", &format!("node {second} is down: start it"), &format!("not asked: node {second}, it is down")],
    );
    let top = cluster.ask(seer, &["top", "--once"]);
    assert_eq!(top.code, 1, "{}", top.stderr);
    in_order(&top.stdout, &["cluster 96", &format!("node {second} is down"), "web.0", "packets sent", "judges"]);
    web(&cluster, seer);

    // Its return: the journal goes on where it was.
    cluster.start(second);
    cluster.until(seer, "it is back", |status| status["health"] == "good");
    let out = cluster.ask(seer, &["events", "--format", "json", "--node", &format!("n{second}")]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let lines: Vec<Value> = out.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (end, entries) = lines.split_last().expect("an end");
    assert_eq!(end["end"], "told");
    let starts = entries.iter().filter(|entry| entry["kind"] == "started").count();
    assert_eq!(starts, 2, "both lives");
    assert!(entries.windows(2).all(|two| two[0]["seq"].as_u64() < two[1]["seq"].as_u64()), "one numbering");

    // What comes is told as it comes, by every node.
    let mut follow = Command::new(env!("CARGO_BIN_EXE_apus"));
    let follow = follow.args(["events", "--follow", "--since", "1ms", "--format", "json", "--control"]);
    let mut follow = follow.arg(cluster.control(seer)).stdout(Stdio::piped()).spawn().expect("it starts");
    // Its node may have been too late with its answer.
    let status = cluster.until(seer, "its program is told of", |status| status["services"][0]["pid"].is_u64());
    let pid = status["services"][0]["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
    let told = BufReader::new(follow.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let fails =
        told.map(|line| serde_json::from_str::<Value>(&line).expect("JSON")).find(|line| line["kind"] == "failed");
    let _ = follow.kill();
    let _ = follow.wait();
    let fails = fails.expect("it is told");
    assert_eq!((&fails["node"], &fails["level"]), (&third.into(), &"error".into()), "{fails}");

    // Without a majority: still seen, and said.
    for node in (0..NODES).filter(|node| *node != seer) {
        cluster.kill(node);
    }
    let alone = |status: &Value| status["health"] == "no quorum" && status["quorum"]["up"] == 1;
    cluster.until(seer, "no quorum", alone);
    let text = cluster.ask(seer, &["status"]);
    assert_eq!(text.code, 2, "{}", text.stdout);
    in_order(&text.stdout, &["no quorum", "1 of 3 voters are up, 2 are needed"]);
    let log = fs::read_to_string(cluster.folder.join(format!("log{seer}"))).expect("a log");
    assert!(
        log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string())),
        "{log}"
    );
}

/// Page, metrics, health, and who is let in: node 2 wants a token, and is never the one that is killed first.
fn web(cluster: &Cluster, seer: usize) {
    let auth = format!("Authorization: Bearer {TOKEN}\r\n");
    let get = |path| cluster.get(seer, path, "");
    let (head, body) = get("/metrics");
    assert!(head.contains("200 OK") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    let samples = openmetrics::read(&body).unwrap_or_else(|what| panic!("{what}\n{body}"));
    let has = |name: &str| samples.iter().any(|sample| sample.0 == name);
    for name in [
        "apus_info",
        "apus_quorum",
        "apus_node_state",
        "apus_lease_left_seconds",
        "apus_service_ready",
        "apus_transport_total",
    ] {
        assert!(has(name), "{name}\n{body}");
    }
    let (head, body) = get("/health");
    assert!(head.contains("200 OK") && body.contains("\"health\":\"degraded\""), "{head}\n{body}");
    let (head, body) = get("/api/why?of=web%2E0");
    assert!(head.contains("200 OK") && body.contains("stops answering"), "{head}\n{body}");
    assert!(get("/api/why?of=nothing").0.contains("404"));
    assert!(get("/etc/passwd").0.contains("404") && get("/api/events?most=5").1.contains("\"events\":["));
    let (head, page) = get("/");
    assert!(head.to_lowercase().contains("content-security-policy: default-src 'none'"), "{head}");
    for (path, body) in [("/", page), ("/app.js", get("/app.js").1), ("/app.css", get("/app.css").1)] {
        let foreign = body.replace("http://www.w3.org/2000/svg", "");
        assert!(body.len() > 500 && !foreign.contains("http://") && !foreign.contains("https://"), "{path}");
    }
    // What is kept up to date.
    let mut stream = TcpStream::connect(cluster.http(seer)).expect("it listens");
    write!(stream, "GET /live HTTP/1.1\r\nHost: {}\r\n\r\n", cluster.http(seer)).expect("it is asked");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let lines = BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with("event: "));
    let told: Vec<String> = lines.take(3).collect();
    assert_eq!(told, ["event: status", "event: journal", "event: status"]);
    // Who is let in.
    for node in cluster.alive() {
        let asked = cluster.get(node, "/health", "Host: evil.example\r\n").0;
        let none = cluster.get(node, "/health", "").0;
        if node == 2 {
            assert!(none.contains("401") && asked.contains("401"), "{none}");
            assert!(cluster.get(2, "/health", "Authorization: Bearer 0123456789abcdeX\r\n").0.contains("401"));
            assert!(cluster.get(2, "/health", &auth).0.contains("200"));
            let once = cluster.get(2, &format!("/?token={TOKEN}"), "").0;
            assert!(once.contains("303") && once.contains("HttpOnly; SameSite=Strict"), "{once}");
            assert!(cluster.get(2, "/health", &format!("Cookie: a=b; apus={TOKEN}\r\n")).0.contains("200"));
        } else {
            assert!(none.contains("200") && asked.contains("403"), "{asked}");
        }
    }
    browser(cluster, seer);
}

/// The page in a real browser: what its script makes of what it is sent.
fn browser(cluster: &Cluster, seer: usize) {
    let there = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].iter().find(there) else {
        println!("the page in a browser: SKIPPED: there is no Chromium");
        return;
    };
    let profile = cluster.folder.join("browser");
    let out = Command::new("timeout")
        .args(["60", browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--timeout=20000"])
        .args(["--dump-dom".to_owned(), format!("--user-data-dir={}", profile.display())])
        .arg(format!("http://{}/", cluster.http(seer)))
        .output()
        .expect("it starts");
    let dom = String::from_utf8_lossy(&out.stdout);
    for part in ["cluster 96, seen by node", "degraded", "web.0", " is down", " ms", ">ready<", "judges "] {
        assert!(dom.contains(part), "`{part}` is not in the page:\n{dom}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn where_no_node_answers_it_is_said_what_to_do() {
    for words in [&["status"][..], &["events"], &["why", "web"], &["top", "--once"], &["top"]] {
        let out = apus(&[words, &["--control", "/no/such/socket"]].concat());
        assert_eq!(out.code, 70, "{words:?}: {}", out.stderr);
        assert!(out.stdout.is_empty() && out.stderr.contains("`--control` names another socket"), "{}", out.stderr);
    }
    let cluster = temp("view-none");
    let out = apus(&["man", &cluster.display().to_string()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for page in ["apus.1", "apus-status.1", "apus-node-run.1", "apus-why.1"] {
        assert!(fs::read_to_string(cluster.join(page)).is_ok_and(|text| text.contains(".SH SYNOPSIS")), "{page}");
    }
    assert!(!cluster.join("apus-keep.1").exists(), "what is hidden has none");
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let out = apus(&["completions", shell]);
        assert!(out.code == 0 && out.stdout.contains("events"), "{shell}");
    }
}
