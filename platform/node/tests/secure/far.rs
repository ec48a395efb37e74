//! Commands and files at other nodes, the page by TLS, and everybody who means harm, while a node fails.

use std::fs::{self, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use apus_node::remote::{self, Ended};
use apus_node::view::{Flow, stream};
use apus_node::{Error, cluster, init};
use serde_json::{Value, json};

use crate::nodes::{FIRST, Nodes};
use crate::siege;
use crate::story::check;
use crate::wait::until;

const TOKEN: &str = "0123456789abcdef";

/// What a node allows: node 2 nothing.
fn policy(nodes: &Nodes, node: usize) -> String {
    let at = nodes.http(node);
    let web = format!("[http]\nlisten = \"{at}\"\ntoken = \"{TOKEN}\"\ntls = \"cluster\"\n");
    if node == 2 {
        return web;
    }
    let files = nodes.files(node);
    web + &format!(
        "[remote]\n\
         [[remote.exec]]\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"*\"]\ninput = true\ntime = \"20s\"\n\
         [[remote.exec]]\ncommand = \"/bin/sleep\"\nargs = [\"100\"]\ntime = \"200ms\"\n\
         [[remote.exec]]\ncommand = \"/usr/bin/yes\"\noutput = \"64K\"\n\
         [[remote.copy]]\nfolder = \"{}\"\nread = true\nwrite = true\nmost = \"8M\"\n",
        files.display()
    )
}

impl Nodes {
    pub(crate) fn files(&self, node: usize) -> PathBuf {
        self.file(&format!("files{node}"))
    }

    pub(crate) fn control(&self, node: usize) -> PathBuf {
        self.file(&format!("control{node}"))
    }

    pub(crate) fn http(&self, node: usize) -> String {
        // Addresses are this test's own: any port is free there, but for those of the nodes.
        format!("{}:{}", self.address(node), if self.port == 7_480 { 7_481 } else { 7_480 })
    }

    /// Texts of a node's own journal.
    pub(crate) fn told(&self, node: usize) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let question = json!({ "do": "events", "node": node });
        stream(&self.control(node), &question, |line| {
            all.extend(line["text"].as_str().map(str::to_owned));
            Flow::More
        })
        .map_err(|error| error.to_string())?;
        Ok(all)
    }

    pub(crate) fn counter(&self, node: usize, group: &str, key: &str) -> u64 {
        let status = self.ask(node, &json!({ "do": "cluster" })).unwrap_or_default();
        status["counters"][group][key].as_u64().unwrap_or_default()
    }

    fn exec(
        &self,
        by: usize,
        at: u16,
        words: &[&str],
        input: &'static [u8],
    ) -> Result<(Vec<u8>, Vec<u8>, Ended), Error> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ended = remote::exec(&self.control(by), at, &words, Some(Box::new(input)), &mut out, &mut err)?;
        Ok((out, err, ended))
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, part: &str) -> Result<(), String> {
    match result {
        Err(error) if error.to_string().contains(part) => Ok(()),
        other => Err(format!("`{part}`: {other:?}")),
    }
}

pub(crate) fn tell() -> Result<(), String> {
    let began = Instant::now();
    let mut nodes = Nodes::new(98)?;
    let told = story(&mut nodes, began);
    if told.is_err() {
        for node in 0..FIRST {
            let log = fs::read_to_string(nodes.file(&format!("log{node}"))).unwrap_or_default();
            eprintln!("node {node}:\n{log}");
        }
    }
    told
}

fn story(nodes: &mut Nodes, began: Instant) -> Result<(), String> {
    let done = |what: &str| println!("test {what} ... ok (at {} ms)", began.elapsed().as_millis());
    let text = |error: Error| error.to_string();
    for node in 0..FIRST {
        fs::create_dir_all(nodes.files(node)).map_err(|error| error.to_string())?;
        let config = nodes.config(node, "1s") + &policy(nodes, node);
        fs::write(nodes.file(&format!("node{node}.toml")), config).map_err(|error| error.to_string())?;
    }
    let first = nodes.read(&nodes.file("node0.toml"))?;
    cluster::init(&first, Some(&nodes.file("keys")), 90).map_err(text)?;
    for node in 0..FIRST {
        init(&nodes.read(&nodes.file(&format!("node{node}.toml")))?).map_err(text)?;
        nodes.start(node)?;
    }
    nodes.whole(&[0, 1, 2])?;
    commands(nodes)?;
    done("a command runs at another node, as its file allows, and ends with who asked");
    files(nodes)?;
    done("a file is copied there and back, whole, and gone on with where it broke off");
    audited(nodes)?;
    done("both nodes tell who asked what, and what came of it");
    page(nodes)?;
    done("the page is shown by TLS, with the cluster's certificate, and needs a token still");
    left(nodes)?;
    done("what a command has begun ends with the next daemon, if its own is killed");
    siege::tell(nodes)?;
    done("everybody who means harm is refused and counted while a node fails");
    Ok(())
}

fn commands(nodes: &mut Nodes) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    let script = "read line; echo \"$line from $APUS_X$PWD\"; echo odd >&2; exit 7";
    for (by, at) in [(0, 1), (1, 0), (0, 0), (2, 1)] {
        let (out, err, ended) = nodes.exec(by, at, &["/bin/sh", "-c", script], b"a word\n").map_err(failed)?;
        let all = (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned(), ended.code);
        if all != ("a word from /\n".into(), "odd\n".into(), Some(7)) {
            return Err(format!("{by} to {at}: {all:?}"));
        }
    }
    // More than any buffer holds, and all of it.
    let (out, ..) = nodes.exec(0, 1, &["/bin/sh", "-c", "head -c 900000 /dev/zero"], b"").map_err(failed)?;
    check(out.len() == 900_000, "all of it", &json!(out.len()))?;
    let (.., ended) = nodes.exec(0, 1, &["/bin/sh", "-c", "kill -9 $$"], b"").map_err(failed)?;
    check(ended.signal == Some(9), "by a signal", &json!(ended.code))?;
    refused(nodes.exec(0, 2, &["/bin/sh", "-c", "id"], b""), "node 2 refuses: remote execution and copy are off")?;
    refused(nodes.exec(0, 1, &["/bin/ls"], b""), "no `[[remote.exec]]` of its file has this command")?;
    refused(nodes.exec(0, 7, &["/bin/sh", "-c", "id"], b""), "node 7 is not in the cluster")?;
    // More than an entry has room for: its hash is put down.
    let long = format!("exit 9 # {}", "x".repeat(1_000));
    let (.., ended) = nodes.exec(0, 1, &["/bin/sh", "-c", &long], b"").map_err(failed)?;
    check(ended.code == Some(9), "a long one", &json!(ended.code))?;
    let sum: String =
        siege::sum(format!("/bin/sh\0-c\0{long}\0").as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    for (node, words) in [(0, ["asks node 1 to run", "exit code 9;"]), (1, [" may run", "exit code 9;"])] {
        for word in words {
            until(5, "both put it down", || {
                let told = nodes.told(node)?;
                let is_there = told.iter().any(|text| text.contains(word) && text.contains(&sum));
                if is_there { Ok(()) } else { Err(format!("{word}: {told:?}")) }
            })?;
        }
    }
    // It ends with who asked, who is killed here as a terminal's end does it.
    let lives = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    let ended = |within: u64, pid: u32| {
        until(within, "it ends with who asked", || if lives(pid) { Err(pid.to_string()) } else { Ok(()) })
    };
    let (asker, pid) = sleeps(nodes, 0, SLEEPS)?;
    check(lives(pid), "it runs", &json!(pid))?;
    drop(asker);
    ended(2, pid)?;
    // And with the node where he asked, which says nothing as it dies.
    let (asker, pid) = sleeps(nodes, 2, SLEEPS)?;
    check(lives(pid), "it runs", &json!(pid))?;
    nodes.kill(2);
    ended(5, pid)?;
    drop(asker);
    nodes.start(2)?;
    nodes.whole(&[0, 1, 2]).map(|_| ())
}

/// Tells its number first.
const SLEEPS: &str = "echo $$; exec sleep 15";

/// A daemon is killed while a command runs that has begun something: the command dies with it, the other with the next daemon.
fn left(nodes: &mut Nodes) -> Result<(), String> {
    nodes.whole(&[0, 1, 2])?;
    let (_asker, pid) = sleeps(nodes, 0, "sleep 1000 & echo $!; wait")?;
    let lives = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    nodes.kill(1);
    std::thread::sleep(Duration::from_millis(200));
    check(lives(), "nobody ends it", &json!(pid))?;
    nodes.start(1)?;
    until(10, "the next daemon ends it", || if lives() { Err(pid.to_string()) } else { Ok(()) })?;
    nodes.whole(&[0, 1, 2])?;
    let told = nodes.told(1)?;
    check(told.iter().any(|text| text.starts_with("1 processes of commands")), "it is told", &json!(told))
}

/// Somebody at a node who has a script run at node 1, and the process whose number it tells.
fn sleeps(nodes: &Nodes, by: usize, script: &str) -> Result<(UnixStream, u32), String> {
    let mut asker = UnixStream::connect(nodes.control(by)).map_err(|error| error.to_string())?;
    let ask = json!({ "do": "exec", "node": 1, "command": ["/bin/sh", "-c", script] });
    asker.write_all(format!("{ask}\n").as_bytes()).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let pid = until(10, "it runs", || {
        let mut piece = [0; 512];
        let many = asker.read(&mut piece).map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&piece[..many]);
        let text = String::from_utf8_lossy(&bytes);
        let digits = text.rsplit('\u{3}').next().unwrap_or_default().trim().parse::<u32>();
        digits.map_err(|_| format!("{text:?}"))
    })?;
    Ok((asker, pid))
}

fn files(nodes: &Nodes) -> Result<(), String> {
    let failed = |error: Error| error.to_string();
    let io = |error: io::Error| error.to_string();
    let content: Vec<u8> =
        (0..3_000_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let (here, back) = (nodes.file("here"), nodes.file("back"));
    fs::write(&here, &content).map_err(io)?;
    fs::set_permissions(&here, Permissions::from_mode(0o4750)).map_err(io)?;
    let there = nodes.files(1).join("there");
    let path = there.display().to_string();
    // A copy that breaks off, by an asker that goes away.
    {
        let mut asker = UnixStream::connect(nodes.control(0)).map_err(io)?;
        let ask = json!({ "do": "push", "node": 1, "path": path });
        asker.write_all(format!("{ask}\n").as_bytes()).map_err(io)?;
        let mut line = [0; 64];
        let many = asker.read(&mut line).map_err(io)?;
        check(line[..many].starts_with(b"{\"go\":true}"), "granted", &json!(String::from_utf8_lossy(&line[..many])))?;
        let head = [&3_000_001_u64.to_le_bytes()[..], &0o750_u32.to_le_bytes(), &siege::sum(&content)].concat();
        asker.write_all(&siege::frame(5, &head)).map_err(io)?;
        let mut from = [0; 13];
        asker.read_exact(&mut from).map_err(io)?;
        for block in 0..20_usize {
            let bytes = &content[block << 15..(block + 1) << 15];
            let at = (block as u64) << 15;
            asker
                .write_all(&siege::frame(7, &[&at.to_le_bytes()[..], &siege::sum(bytes), bytes].concat()))
                .map_err(io)?;
        }
        let part = || {
            fs::read_dir(nodes.files(1))
                .ok()?
                .flatten()
                .find(|entry| entry.metadata().is_ok_and(|is| is.len() == 20 << 15))
        };
        until(5, "the part is there", || part().map(|_| ()).ok_or_else(|| "not yet".into()))?;
    }
    check(!there.exists(), "a part takes no place", &json!(path))?;
    let copied = until(5, "the copy goes on", || remote::push(&nodes.control(0), &here, 1, &path).map_err(failed))?;
    check(copied.bytes == 3_000_001 && copied.before == 20 << 15, "gone on with", &json!(copied.before))?;
    check(fs::read(&there).map_err(io)? == content, "the same content", &json!(path))?;
    let mode = fs::metadata(&there).map_err(io)?.permissions().mode() & 0o7777;
    check(mode == 0o750, "mode", &json!(mode))?;
    remote::pull(&nodes.control(0), 1, &path, &back).map_err(failed)?;
    check(fs::read(&back).map_err(io)? == content, "the same content, back", &json!(path))?;
    let left = fs::read_dir(nodes.files(1)).map_err(io)?.count();
    check(left == 1, "nothing else is left", &json!(left))?;
    refused(remote::push(&nodes.control(0), &here, 2, &path), "are off")?;
    refused(remote::pull(&nodes.control(0), 1, "/etc/hostname", &back), "has a folder above")?;
    refused(remote::pull(&nodes.control(0), 1, &format!("{path}x"), &back), "No such file")?;
    full(nodes)
}

/// A full disk is told, and is not left full.
fn full(nodes: &Nodes) -> Result<(), String> {
    let small = nodes.files(1).join("small");
    fs::create_dir_all(&small).map_err(|error| error.to_string())?;
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "tmpfs"]).arg(&small).status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("test a full disk ... SKIPPED: it needs root to mount a small one");
        return Ok(());
    }
    let path = small.join("file").display().to_string();
    let result = remote::push(&nodes.control(0), &nodes.file("here"), 1, &path);
    let left = fs::read_dir(&small).map(Iterator::count);
    let _ = Command::new("umount").arg(&small).status();
    refused(result, "do not fit")?;
    check(left.is_ok_and(|left| left == 0), "nothing is left", &json!(path))
}

fn audited(nodes: &Nodes) -> Result<(), String> {
    let pid = std::process::id();
    for (node, parts) in [
        (
            0,
            [
                "asks node 1 to run /bin/sh -c",
                "node 1 to run /bin/sh -c \"kill -9 $$\"",
                "asked node 1 to copy a file to",
            ],
        ),
        (1, ["at node 0 (process", "run /bin/sh -c \"kill -9 $$\"", "3000001 bytes copied, 655360 of them before"]),
        (
            2,
            [
                "at node 0 (process",
                "may not run /bin/sh -c id: remote execution and copy are off",
                "may not copy a file to",
            ],
        ),
    ] {
        let told = nodes.told(node)?.join("\n");
        for part in parts {
            check(told.contains(part), part, &json!(told))?;
        }
        if node < 2 {
            let killed = |text: &&str| text.starts_with("ended by signal 9; ") && text.ends_with("\"kill -9 $$\"");
            check(told.lines().find(killed).is_some(), "how it ended", &json!(told))?;
        }
        let who = format!("user {} at node 0 (process {pid})", user());
        check(told.contains(&who), &who, &json!(told))?;
    }
    // Since it was started again.
    check(nodes.counter(2, "remote", "refused") > 0, "counted", &json!(null))?;
    check(nodes.counter(1, "remote", "done") >= 5, "counted", &json!(null))
}

fn user() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
}

/// What curl says of a path of a node's page: the answer's code, and the body.
pub(crate) fn curl(nodes: &Nodes, node: usize, path: &str, more: &[&str]) -> Result<(String, String), String> {
    let name = format!("node-{node}.cluster-98.apus.internal");
    let (at, ip) = (nodes.http(node), nodes.address(node));
    let port = at.rsplit(':').next().unwrap_or_default();
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code}", "--resolve", &format!("{name}:{port}:{ip}")])
        .args(more)
        .arg(format!("https://{name}:{port}{path}"))
        .output()
        .map_err(|error| format!("curl: {error}"))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = out.rsplit_once('\n').unwrap_or(("", &out));
    if output.status.success() {
        Ok((code.into(), body.into()))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

fn page(nodes: &Nodes) -> Result<(), String> {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("test the page by TLS ... SKIPPED: there is no curl");
        return Ok(());
    }
    let authority = nodes.file("keys/node-0/authorities.pem").display().to_string();
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for node in 0..FIRST {
        let (code, body) = curl(nodes, node, "/api/status", &["--cacert", &authority, "-H", &bearer])?;
        let status: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        check(code == "200" && status["node"] == node, "the page", &json!(code))?;
        let (code, _) = curl(nodes, node, "/api/status", &["--cacert", &authority])?;
        check(code == "401", "without a token", &json!(code))?;
    }
    // Who does not believe the cluster's authority sees nothing, and in the clear nothing is said.
    check(curl(nodes, 0, "/", &[]).is_err(), "without the authority", &json!(null))?;
    let mut plain = std::net::TcpStream::connect(nodes.http(0)).map_err(|error| error.to_string())?;
    plain.set_read_timeout(Some(Duration::from_secs(15))).map_err(|error| error.to_string())?;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    check(!said.starts_with(b"HTTP"), "in the clear", &json!(String::from_utf8_lossy(&said)))?;
    // Certificates of somebody else's making, as files.
    let keys = nodes.file("keys/node-1");
    let config = nodes.config(0, "1s")
        + &format!(
            "[http]\nlisten = \"127.0.0.1:1\"\ncert = \"{}\"\nkey = \"{}\"\n",
            keys.join("authorities.pem").display(),
            keys.join("node.key").display()
        );
    let file = nodes.file("wrong.toml");
    fs::write(&file, config).map_err(|error| error.to_string())?;
    let mut wrong = nodes.read(&file)?;
    wrong.folder = nodes.file("storewrong");
    wrong.control = nodes.file("controlwrong");
    init(&wrong).map_err(|error| error.to_string())?;
    let error = apus_node::run(&wrong, |_| {}).map_err(|error| error.to_string());
    check(
        error.as_ref().is_err_and(|error| error.contains("`cert` and `key`")),
        "a pair that is none",
        &json!(format!("{error:?}")),
    )
}
