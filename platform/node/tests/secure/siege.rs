//! Everybody who means harm, at once, while a node fails. The cases have the numbers of `docs/remote.md`, and each is refused, counted,
//! and held in bounds: the service moves as soon as in peace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use apus_engine::{ClusterId, NodeId};
use apus_node::{Config, ask};
use apus_quic::{Authority, Keys, Name, NewKey, Sum, Trust};
use serde_json::{Value, json};

use crate::nodes::Nodes;
use crate::story::check;
use crate::wait::until;

/// From the death of the daemon that has the service to the service at another node: a lease of a second, and what it takes to see it,
/// to grant it anew, and to start it, on a busy machine.
const BOUND: Duration = Duration::from_millis(4_000);
/// A node's memory may grow by so much meanwhile, in bytes.
const GROWTH: u64 = 24 << 20;

/// As `frame.rs` of the node has it.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], &[kind], body].concat()
}

pub(crate) fn sum(bytes: &[u8]) -> [u8; 32] {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.end()
}

/// What the attackers know: nodes 0 and 2 live on.
struct Stage {
    /// Control sockets.
    control: [PathBuf; 3],
    page: SocketAddr,
    files: PathBuf,
    outside: PathBuf,
    bulk: SocketAddr,
    keys: PathBuf,
    config: String,
}

impl Stage {
    /// Asks, and gives the stream where frames go on; what was said, if it is refused.
    fn ask(&self, by: usize, question: &Value) -> Result<UnixStream, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = UnixStream::connect(&self.control[by]).map_err(text)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(text)?;
        stream.write_all(format!("{question}\n").as_bytes()).map_err(text)?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while stream.read(&mut byte).map_err(text)? == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let answer: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        match answer["refused"].as_str().or(answer["error"].as_str()) {
            Some(what) => Err(what.into()),
            None => Ok(stream),
        }
    }

    /// Node 2 wants something of node 0: whether that is refused with these words.
    fn refuses(&self, question: Value, words: &str) -> bool {
        let mut question = question;
        question["node"] = 0.into();
        matches!(self.ask(2, &question), Err(what) if what.contains(words))
    }

    /// Likewise, where it is refused once the file is looked at.
    fn ends(&self, question: Value, send: &[u8], words: &str) -> bool {
        let mut question = question;
        question["node"] = 0.into();
        let Ok(mut stream) = self.ask(2, &question) else { return false };
        let _ = stream.write_all(send);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).contains(words)
    }

    fn path(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }
}

/// Connections of which each says the next of these bytes now and then: how many were closed.
fn dribble<S: std::io::Read + std::io::Write>(open: impl Fn() -> Option<S>, bytes: &[u8], stop: &AtomicBool) -> u64 {
    let (mut all, mut closed) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        if all.len() < 100 {
            all.extend(open().map(|stream| (stream, bytes.iter().cycle())));
        }
        all.retain_mut(|(stream, bytes): &mut (S, std::iter::Cycle<std::slice::Iter<'_, u8>>)| {
            let next = bytes.next().copied().unwrap_or_default();
            let lives = stream.write_all(&[next]).is_ok() && !matches!(stream.read(&mut [0; 16]), Ok(0));
            closed += u64::from(!lives);
            lives
        });
        std::thread::sleep(Duration::from_millis(20));
    }
    closed
}

/// Tries again and again, so many times a second: how often it was refused as it should.
fn again(stop: &AtomicBool, pause: u64, mut attempt: impl FnMut() -> bool) -> u64 {
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        refused += u64::from(attempt());
        std::thread::sleep(Duration::from_millis(pause));
    }
    refused
}

fn exec(words: &[&str]) -> Value {
    json!({ "do": "exec", "command": words })
}

fn pull(path: String) -> Value {
    json!({ "do": "pull", "path": path })
}

fn push(path: String) -> Value {
    json!({ "do": "push", "path": path })
}

/// What begins a file of so many bytes.
fn head(length: u64) -> Vec<u8> {
    frame(5, &[&length.to_le_bytes()[..], &0o644_u32.to_le_bytes(), &[7; 32]].concat())
}

/// Somebody with this certificate at the port of streams, with a ticket that nobody gave: what he is told. `Ok`: he was let in, and then
/// closed without a word.
fn knock(trust: &std::sync::Arc<Trust>, to: SocketAddr) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    runtime.block_on(async {
        let mut bulk = apus_quic::dial(trust, [127, 0, 0, 1].into(), to, NodeId(0)).await.map_err(text)?;
        let told = async {
            bulk.send.write_all(&[9; 16]).await.map_err(|error| format!("{error:?}"))?;
            bulk.receive.read_to_end(64).await.map_err(|error| format!("{error:?}"))
        };
        match told.await {
            Ok(said) if said.is_empty() => Ok(()),
            Ok(said) => Err(format!("it says {said:?}")),
            Err(error) if error.contains("ApplicationClosed") => Ok(()),
            Err(error) => Err(error),
        }
    })
}

/// What somebody is told until the connection is closed; `None`: it stays open, or breaks.
fn heard(mut stream: impl std::io::Read) -> Option<Vec<u8>> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => None,
        _ => Some(said),
    }
}

fn foreign(keys: &Keys) -> Option<std::sync::Arc<Trust>> {
    let now = SystemTime::now();
    let mut authority = Authority::make(ClusterId(98), now).ok()?;
    let key = NewKey::make().ok()?;
    let name = Name { cluster: ClusterId(98), node: NodeId(2) };
    let issued = authority.issue(name, key.public(), now, Duration::from_secs(86_400)).ok()?;
    // It believes node 0, whatever that thinks of it.
    Trust::new(name, &keys.authorities().ok()?, issued.der, key.pkcs8(), |_| {}).ok()
}

type Attack = fn(&Stage, &AtomicBool) -> u64;

/// What somebody does until it is to stop; how often it was refused.
const CASES: [(u8, &str, Attack); 21] = [
    (27, "connections to the control socket that say a byte now and then", |stage, stop| {
        dribble(
            || {
                let stream = UnixStream::connect(&stage.control[0]).ok()?;
                stream.set_nonblocking(true).ok()?;
                Some(stream)
            },
            b"{\"do\"",
            stop,
        )
    }),
    (28, "a question without an end", |stage, stop| {
        again(stop, 50, || {
            let Ok(mut stream) = UnixStream::connect(&stage.control[0]) else { return false };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(&[b'x'; 1 << 20]);
            heard(stream).is_some_and(|said| said.is_empty() || said.starts_with(b"{\"error\""))
        })
    }),
    (29, "bytes that are no question", |stage, stop| {
        again(stop, 20, || {
            let Ok(mut stream) = UnixStream::connect(&stage.control[0]) else { return false };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(b"\x00\xff{{{{[\n");
            heard(stream).is_some_and(|said| said.is_empty() || said.starts_with(b"{\"error\""))
        })
    }),
    (30, "connections to the page that say a byte now and then", |stage, stop| {
        dribble(
            || {
                let stream = TcpStream::connect_timeout(&stage.page, Duration::from_millis(200)).ok()?;
                stream.set_nonblocking(true).ok()?;
                Some(stream)
            },
            // What begins a long handshake.
            &[&[0x16, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc, 3, 3][..], &[0; 4_000]].concat(),
            stop,
        )
    }),
    (31, "bytes that are no TLS at the page", |stage, stop| {
        again(stop, 50, || {
            let Ok(mut stream) = TcpStream::connect_timeout(&stage.page, Duration::from_secs(1)) else { return false };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(15)));
            let _ = stream.write_all(&[0x41; 4_000]);
            heard(stream).is_some_and(|said| !said.starts_with(b"HTTP"))
        })
    }),
    (32, "a command where no policy allows any", |stage, stop| {
        again(stop, 500, || {
            let mut question = exec(&["/bin/sh", "-c", "id"]);
            question["node"] = 2.into();
            matches!(stage.ask(0, &question), Err(what) if what.contains("are off"))
        })
    }),
    (33, "a command that is not allowed", |stage, stop| {
        again(stop, 900, || stage.refuses(exec(&["/bin/cat", "/etc/shadow"]), "no `[[remote.exec]]`"))
    }),
    (34, "arguments that are not allowed", |stage, stop| {
        again(stop, 900, || stage.refuses(exec(&["/bin/sleep", "100", "100"]), "no `[[remote.exec]]`"))
    }),
    (35, "a link out of the folder", |stage, stop| {
        again(stop, 900, || stage.ends(pull(stage.path("out/secret")), b"", "a symbolic link is on the way"))
    }),
    (36, "a link to a file elsewhere", |stage, stop| {
        again(stop, 900, || stage.ends(pull(stage.path("secret")), b"", "a symbolic link is on the way"))
    }),
    (37, "two dots", |stage, stop| {
        again(stop, 900, || stage.ends(pull(stage.path("../outside/secret")), b"", "leads out of the folder"))
    }),
    (38, "a file put through a link", |stage, stop| {
        again(stop, 900, || stage.ends(push(stage.path("out/new")), &head(9), "a symbolic link is on the way"))
    }),
    (39, "a file put in the place of a link", |stage, stop| {
        again(stop, 900, || stage.ends(push(stage.path("secret")), &head(9), "no regular file"))
    }),
    (40, "a file that somebody else has a name of", |stage, stop| {
        again(stop, 900, || stage.ends(push(stage.path("planted")), &head(9), "somebody has put"))
    }),
    (41, "a file outside of all folders", |stage, stop| {
        again(stop, 900, || stage.refuses(pull("/etc/shadow".into()), "has a folder above"))
    }),
    (42, "a file that is too long", |stage, stop| {
        again(stop, 900, || stage.ends(push(stage.path("long")), &head(1 << 40), "are allowed"))
    }),
    (43, "a damaged block", |stage, stop| {
        let block = frame(7, &[&0_u64.to_le_bytes()[..], &[1; 32], &[2; 9]].concat());
        again(stop, 900, || stage.ends(push(stage.path("damaged")), &[head(9), block.clone()].concat(), "is damaged"))
    }),
    (44, "frames of four gigabytes", |stage, stop| {
        again(stop, 900, || stage.ends(exec(&["/bin/sh", "-c", "sleep 9"]), &[0xff; 64], "what is no frame"))
    }),
    (45, "a command that does not end, and one that says too much", |stage, stop| {
        again(stop, 900, || {
            stage.ends(exec(&["/bin/sleep", "100"]), b"", "took longer")
                && stage.ends(exec(&["/usr/bin/yes"]), b"", "said more")
        })
    }),
    (46, "a member's stream with a ticket that nobody gave", |stage, stop| {
        let name = Name { cluster: ClusterId(98), node: NodeId(2) };
        let Ok(trust) = Keys::new(&stage.keys).trust(name, |_| {}) else { return 0 };
        again(stop, 300, || knock(&trust, stage.bulk).is_ok())
    }),
    (47, "a stream by a foreign authority", |stage, stop| {
        let Some(trust) = foreign(&Keys::new(&stage.keys)) else { return 0 };
        // By an alert of TLS (RFC 9001 §4.8), and not because nobody is there.
        again(stop, 300, || knock(&trust, stage.bulk).is_err_and(|why| why.contains("crypto")))
    }),
];

/// Bytes that a process has resident.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4_096
}

/// The daemon with the service dies; how long until the service runs elsewhere.
fn fail_over(nodes: &mut Nodes) -> Result<Duration, String> {
    until(20, "node 1 has the service", || {
        let _ = nodes.ask(1, &json!({ "do": "move", "what": "idle", "node": 1 }));
        nodes.idle(&[1]).map(|_| ())
    })?;
    let began = Instant::now();
    nodes.kill(1);
    let found = until(20, "it runs elsewhere", || {
        for node in [0, 2] {
            let services = nodes.ask(node, &json!({ "do": "services" })).unwrap_or_default();
            let rows = services["services"].as_array().cloned().unwrap_or_default();
            if rows.iter().any(|row| row["state"] == "ready" && row["here"] == true && row["pid"].is_u64()) {
                return Ok(node);
            }
        }
        Err("nowhere".into())
    })?;
    let took = began.elapsed();
    println!("{:>8.0} ms  until node {found} has the service", took.as_secs_f64() * 1e3);
    Ok(took)
}

pub(crate) fn tell(nodes: &mut Nodes) -> Result<(), String> {
    let files = nodes.files(0);
    let outside = nodes.file("outside");
    let io = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&outside).map_err(io)?;
    fs::write(outside.join("secret"), "secret").map_err(io)?;
    symlink(&outside, files.join("out")).map_err(io)?;
    symlink(outside.join("secret"), files.join("secret")).map_err(io)?;
    fs::hard_link(outside.join("secret"), files.join(".planted.0707070707070707.part")).map_err(io)?;
    let stage = Stage {
        control: [0, 1, 2].map(|node| nodes.control(node)),
        page: nodes.http(0).parse().map_err(|_| "an address")?,
        files,
        outside,
        bulk: format!("{}:{}", nodes.address(0), nodes.port + 2).parse().map_err(|_| "an address")?,
        keys: nodes.file("keys/node-2"),
        config: nodes.config(0, "1s"),
    };
    let calm = fail_over(nodes)?;
    check(calm <= BOUND, "in peace", &json!(calm.as_millis()))?;
    nodes.start(1)?;
    nodes.whole(&[0, 1, 2])?;
    let pid = nodes.pid(0).ok_or("node 0 does not run")?;
    let before = resident(pid);
    let stop = AtomicBool::new(false);
    let (took, refused, worst) = std::thread::scope(|scope| {
        let (stage, stop) = (&stage, &stop);
        let attackers: Vec<_> =
            CASES.map(|(number, _, attack)| (number, scope.spawn(move || attack(stage, stop)))).into();
        let mut fails = || {
            std::thread::sleep(Duration::from_secs(3));
            // An operator still gets an answer, on time.
            let asked = Instant::now();
            remote_status(nodes, 0)?;
            let worst = asked.elapsed();
            Ok::<_, String>((fail_over(nodes)?, worst))
        };
        let failed = fails();
        stop.store(true, Ordering::Relaxed);
        let refused: BTreeMap<u8, u64> =
            attackers.into_iter().map(|(number, task)| (number, task.join().unwrap_or_default())).collect();
        let (took, worst) = failed?;
        Ok::<_, String>((took, refused, worst))
    })?;
    for (number, what, _) in &CASES {
        let times = refused.get(number).copied().unwrap_or_default();
        println!("{times:>8} times  {number}. {what}");
        check(times > 0, what, &json!(refused))?;
    }
    check(took <= BOUND, "under attack", &json!(took.as_millis()))?;
    check(worst <= Duration::from_secs(5), "an operator waits", &json!(worst.as_millis()))?;
    let grown = resident(pid).saturating_sub(before);
    println!("{:>8} KiB grown", grown >> 10);
    check(grown <= GROWTH, "memory", &json!(grown))?;
    check(
        fs::read_to_string(stage.outside.join("secret")).is_ok_and(|text| text == "secret"),
        "the file outside",
        &json!(null),
    )?;
    // Counted and put down at the nodes.
    for (node, group, key) in
        [(0, "slow", "control"), (0, "remote", "refused"), (0, "remote", "failed"), (2, "remote", "refused")]
    {
        let many = nodes.counter(node, group, key);
        check(many > 0, &format!("{group} {key} at node {node}"), &json!(many))?;
    }
    let slow = nodes.counter(0, "slow", "page-quiet") + nodes.counter(0, "slow", "page-gave-way");
    check(slow > 0, "slow at the page", &json!(slow))?;
    let told = nodes.told(0)?.join("\n");
    for part in ["may not run /bin/", "brings no ticket", "asked too slowly", "unknown_authority"] {
        check(told.contains(part), part, &json!(told))?;
    }
    // 48. A configuration with keys that are not known does not start, and says where.
    for (text, said) in [
        ("[remote]\nuser = [0]\n", "`user` is not known in `remote`; known are users"),
        ("[[remote.exec]]\ncommand = \"/bin/id\"\nargz = []\n", "`argz` is not known in a `[[remote.exec]]`"),
        ("[http]\nlisten = \"127.0.0.1:1\"\ntlss = \"cluster\"\n", "`tlss` is not known in `http`"),
        ("[remot]\n", "`remot` is not known in the file"),
    ] {
        let error = Config::read("x", &format!("{}{text}", stage.config)).err().map(|error| error.to_string());
        check(error.as_ref().is_some_and(|error| error.contains(said)), said, &json!(error))?;
    }
    // 49. Faster than anybody may ask.
    let ask = || stage.ask(0, &json!({ "do": "exec", "node": 2, "command": ["/bin/true"] })).err();
    let flood: Vec<String> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..7).map(|_| scope.spawn(|| (0..12).filter_map(|_| ask()).collect::<Vec<_>>())).collect();
        tasks.into_iter().flat_map(|task| task.join().unwrap_or_default()).collect()
    });
    let paced = flood.iter().filter(|why| why.contains("more than 20 questions a second")).count();
    check(flood.len() == 84 && paced > 0, "the pace", &json!(flood.last()))
}

fn remote_status(nodes: &Nodes, node: usize) -> Result<Value, String> {
    until(10, "an operator is answered", || {
        ask(&nodes.control(node), &json!({ "do": "cluster" })).map_err(|error| error.to_string())
    })
}
