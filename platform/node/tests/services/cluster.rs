//! Nodes on addresses of the loopback, each a process of its own, their programs, and the end of both.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apus_node::{Config, ask, init};
use serde_json::{Value, json};

/// Longer than anything takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Some nodes; what they ran is gone with the value.
pub(crate) struct Cluster {
    folder: PathBuf,
    nodes: Vec<Option<Child>>,
    /// A frozen one, which is not asked.
    pub(crate) frozen: Option<usize>,
    /// What daemons find in their environment.
    environment: Vec<(&'static str, String)>,
}

/// What a node says of a slot.
pub(crate) type Row = Value;

impl Cluster {
    /// Nodes with these services; `top` is put at the top of each configuration.
    pub(crate) fn new(name: &str, nodes: usize, top: &str, services: &str) -> Self {
        let mut cluster = Self::stopped(name, nodes, top, services);
        (0..nodes).for_each(|node| cluster.start(node));
        cluster
    }

    /// Nodes that are not started yet. `FOLDER` in the texts is that of the cluster.
    pub(crate) fn stopped(name: &str, nodes: usize, top: &str, services: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("apus-services-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        // One port for all, free on the first address: each has an address of its own.
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let third = std::process::id() % 250;
        for node in 0..nodes {
            let place = folder.display();
            let mut text = format!(
                "cluster = 98\nnode = {node}\nport = {port}\nfolder = \"{place}/store{node}\"\n\
                 control = \"{place}/control{node}\"\n{top}\n"
            );
            for other in 0..nodes {
                text += &format!("[[nodes]]\nid = {other}\naddress = \"127.97.{third}.{}\"\n", other + 1);
            }
            text += services;
            if text.contains("ROOT") {
                fs::create_dir_all(folder.join(format!("root{node}"))).expect("a folder");
            }
            let text = text.replace("FOLDER", &place.to_string()).replace("ROOT", &format!("{place}/root{node}"));
            let text = text.replace("RING", &crate::shipped::ring(node));
            let file = folder.join(format!("node{node}.toml"));
            fs::write(&file, &text).expect("a file");
            init(&Config::read(&file.display().to_string(), &text).expect("it is good")).expect("a store");
        }
        Self { folder, nodes: (0..nodes).map(|_| None).collect(), frozen: None, environment: Vec::new() }
    }

    /// Daemons that are started from now on find this.
    pub(crate) fn set(&mut self, key: &'static str, value: &str) {
        self.environment.push((key, value.to_owned()));
    }

    /// A node's configuration.
    pub(crate) fn file(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node{node}.toml"))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn start(&mut self, node: usize) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join(format!("log{node}")));
        self.start_to(node, log.expect("a file").into());
    }

    /// Starts a node that says what it says there.
    pub(crate) fn start_to(&mut self, node: usize, say: Stdio) {
        let exe = std::env::current_exe().expect("it runs");
        let mut child = Command::new(exe);
        child.arg("node").arg(self.file(node)).stdin(Stdio::null()).stderr(say);
        child.envs(self.environment.iter().map(|(key, value)| (key, value)));
        self.nodes[node] = Some(child.spawn().expect("a node"));
    }

    /// Ends a daemon as it should be ended, and gives its exit code.
    pub(crate) fn end(&mut self, node: usize) -> Option<i32> {
        let mut child = self.nodes[node].take()?;
        crate::tests::signal("TERM", &[child.id()]);
        child.wait().ok().and_then(|status| status.code())
    }

    /// Ends a node's daemon as `kill -9` does.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The number of a daemon.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.nodes[node].as_ref().map_or(0, Child::id)
    }

    pub(crate) fn ask(&self, node: usize, question: &Value) -> Value {
        ask(&self.folder.join(format!("control{node}")), question).unwrap_or_default()
    }

    /// The slots by a node's word.
    pub(crate) fn rows(&self, node: usize) -> Vec<Row> {
        self.ask(node, &json!({"do": "services"}))["services"].as_array().cloned().unwrap_or_default()
    }

    pub(crate) fn row(&self, node: usize, name: &str, slot: u8) -> Row {
        let found = self.rows(node).into_iter().find(|row| row["name"] == name && row["slot"] == slot);
        found.unwrap_or_default()
    }

    /// Waits until some node runs the active copy, ready, and gives the node and the row.
    pub(crate) fn ready(&self, name: &str, slot: u8, such: impl Fn(usize, &Row) -> bool) -> (usize, Row) {
        let until = Instant::now() + PATIENCE;
        loop {
            let runs = |node: &usize| self.nodes[*node].is_some() && self.frozen != Some(*node);
            for node in (0..self.nodes.len()).filter(runs) {
                let row = self.row(node, name, slot);
                if row["state"] == "ready" && row["pid"].is_u64() && such(node, &row) {
                    return (node, row);
                }
            }
            self.late(until, name);
        }
    }

    /// Waits until a node says so of a slot.
    pub(crate) fn until(&self, node: usize, name: &str, such: impl Fn(&Row) -> bool) -> Row {
        let until = Instant::now() + PATIENCE;
        loop {
            let row = self.row(node, name, 0);
            if such(&row) {
                return row;
            }
            self.late(until, name);
        }
    }

    /// Asks a node, and gives its refusal as a text.
    pub(crate) fn try_ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        ask(&self.folder.join(format!("control{node}")), question).map_err(|error| error.to_string())
    }

    /// Waits until it is so.
    pub(crate) fn wait(&self, what: &str, such: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !such() {
            self.late(until, what);
        }
    }

    fn late(&self, until: Instant, name: &str) {
        assert!(Instant::now() < until, "{name} is not as it should be after {PATIENCE:?}\n{}", self.story());
        std::thread::sleep(Duration::from_millis(5));
    }

    /// How often all nodes said something.
    pub(crate) fn said(&self, what: &str) -> usize {
        let log = |node: usize| fs::read_to_string(self.folder.join(format!("log{node}"))).unwrap_or_default();
        (0..self.nodes.len()).map(|node| log(node).matches(what).count()).sum()
    }

    /// What all nodes said last.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for node in 0..self.nodes.len() {
            let log = fs::read_to_string(self.folder.join(format!("log{node}"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            story += &format!("node {node}: {:?}\n", self.rows(node));
            for line in &lines[lines.len().saturating_sub(40)..] {
                story += &format!("  {line}\n");
            }
        }
        story
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
        for node in 0..self.nodes.len() {
            let copies = fs::read_dir(self.folder.join(format!("store{node}/programs")));
            for copy in copies.into_iter().flatten().flatten() {
                end_keeper(&copy.path());
            }
        }
        #[cfg(target_arch = "x86_64")]
        for node in 0..self.nodes.len() {
            // Nothing of the tree below is removed by way of a mount that is left.
            let root = self.folder.join(format!("root{node}"));
            let _ = apus_fuse::cut(&root);
            let _ = apus_fuse::clear(&root);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Tells a keeper to end, with its copy, and waits until it has.
fn end_keeper(folder: &Path) {
    use apus_os::program::{Order, VERSION, encode_order};
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(folder.join("socket")) else { return };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    for order in [Order::Hello { version: VERSION }, Order::Stop { op: 1, grace: 0 }, Order::Leave] {
        let _ = stream.write_all(&encode_order(&order));
    }
    // Until it closes.
    let mut bytes = [0; 4_096];
    while matches!(stream.read(&mut bytes), Ok(1..)) {}
    // Its warden removes the socket last.
    let until = Instant::now() + PATIENCE;
    while folder.join("socket").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}
