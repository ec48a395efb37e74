//! What operators at other nodes have done here, and those here elsewhere: programs run, files copied. The page is `docs/remote.md`.
//!
//! ```text
//!  apus exec ── control socket ──▶ engine's loop ── AO packet: may I ──▶ engine's loop: policy, journal ── ticket ──▶
//!                   │                                                          │
//!                   └──▶ thread `remote` ══ a stream of its own: ticket ══▶ thread `remote` ── socket pair ──▶ a thread: program, file
//! ```
//! The loop only asks and judges. What takes time or memory is done by threads, which start when they are needed.

mod copy;
mod frame;
mod relay;
mod session;

pub(crate) mod client;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apus_engine::NodeId;
use apus_engine::diagnosis::Status;
use apus_quic::Trust;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Say;
use super::control::Serving;
use super::view::Place;
use crate::remote::{Asker, Grant, Wish, judge};
use crate::view::{Entry, Journal};
use crate::{Config, Remote};
use relay::Order;

/// Asked here at once, and as many asked elsewhere.
const AT_ONCE: usize = 8;
/// A peer is waited for so long.
const ANSWER: Duration = Duration::from_secs(2);
/// A ticket is good for so long.
const FRESH: Duration = Duration::from_secs(10);
/// Asked by one node in a second; what is beyond is counted, and not told of one by one.
const PACE: u32 = 20;

/// Whoever brings it may have done what was granted, once.
struct Ticket {
    word: [u8; 16],
    by: Asker,
    wish: Wish,
    grant: Grant,
    until: Instant,
    place: OwnedSemaphorePermit,
}

/// What is put down of it, from any thread.
struct Audit {
    journal: Arc<Journal>,
    place: Arc<Place>,
    print: Say,
}

impl Audit {
    fn tell(&self, kind: &'static str, about: NodeId, text: String) {
        (self.print)(&text);
        let entry = Entry { about: Some(about.0), ..Entry::new("remote", kind, text) };
        super::view::put(&self.journal, &self.place, entry);
    }
}

/// How often what happened.
#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

fn more(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the threads share.
struct Shared {
    tickets: Mutex<Vec<Ticket>>,
    audit: Audit,
    counts: Counts,
    trust: Option<Arc<Trust>>,
    at: SocketAddr,
    me: NodeId,
    sessions: Arc<Semaphore>,
}

impl Shared {
    fn tickets(&self) -> MutexGuard<'_, Vec<Ticket>> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|ticket| ticket.until > Instant::now());
        tickets
    }

    /// What came of it: counted, and put down.
    fn ended(&self, about: NodeId, kind: &'static str, what: &str, end: &Value) {
        let good = end["error"].is_null() && end["cut"].is_null();
        more(if good { &self.counts.done } else { &self.counts.failed });
        let bytes = ["out", "in", "bytes"].iter().filter_map(|key| end[key].as_u64()).sum();
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.audit.tell(if good { kind } else { "remote-failed" }, about, format!("{what}: {}", outcome(end)));
    }
}

/// In words.
pub(crate) fn outcome(end: &Value) -> String {
    if let Some(error) = end["error"].as_str() {
        return format!("failed: {error}");
    }
    if end["done"] == true {
        return format!("{} bytes copied, {} of them before", end["bytes"], end["before"]);
    }
    let how = match (end["code"].as_i64(), end["signal"].as_i64()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        _ => "ended".into(),
    };
    let cut = end["cut"].as_str().map(|cut| format!(", because {cut}")).unwrap_or_default();
    format!("{how}{cut}; {} bytes in, {} out, {} ms", end["in"], end["out"], end["ms"])
}

/// This node's part in it.
pub(super) struct Far {
    policy: Option<Remote>,
    shared: Arc<Shared>,
    /// To the thread, once there is one.
    orders: RefCell<Option<mpsc::UnboundedSender<Order>>>,
    /// Asked elsewhere.
    asking: Arc<Semaphore>,
    /// By node: the second, how often it asked in it.
    paces: RefCell<BTreeMap<NodeId, (u64, u32)>>,
}

/// Who asks at the control socket.
#[derive(Clone, Copy)]
pub(super) struct Local {
    pub(super) user: u32,
    pub(super) process: u32,
}

/// Whether a question is one of these.
pub(super) fn is_ours(question: &Value) -> bool {
    matches!(question["do"].as_str(), Some("exec" | "pull" | "push"))
}

fn wish(question: &Value) -> Result<Wish, String> {
    let path = || {
        let path = question["path"].as_str().map(str::to_owned);
        path.filter(|path| path.starts_with('/') && !path.contains('\0')).ok_or("`path` must be an absolute path")
    };
    match question["do"].as_str() {
        Some("exec") => {
            let words = question["command"].as_array().into_iter().flatten();
            let words: Option<Vec<String>> = words.map(|word| word.as_str().map(str::to_owned)).collect();
            let good = |words: &Vec<String>| !words.is_empty() && words.iter().all(|word| !word.contains('\0'));
            Ok(Wish::Exec(words.filter(good).ok_or("`command` must be a list of words")?))
        }
        Some("pull") => Ok(Wish::Pull(path()?)),
        Some("push") => Ok(Wish::Push(path()?)),
        _ => Err("neither exec, nor pull, nor push".into()),
    }
}

fn word() -> Option<[u8; 16]> {
    use std::io::Read as _;
    let mut word = [0; 16];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut word)).ok()?;
    Some(word)
}

fn hex(word: [u8; 16]) -> String {
    word.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut word = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in word.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(word)
}

impl Far {
    pub(super) fn new(
        config: &Config,
        trust: Option<Arc<Trust>>,
        journal: Arc<Journal>,
        place: Arc<Place>,
        print: Say,
    ) -> Self {
        let port = config.remote.as_ref().and_then(|remote| remote.port).unwrap_or(config.port.saturating_add(2));
        let shared = Shared {
            tickets: Mutex::default(),
            audit: Audit { journal, place, print },
            counts: Counts::default(),
            trust,
            at: SocketAddr::new(config.own().address, port),
            me: config.me,
            sessions: Arc::new(Semaphore::new(AT_ONCE)),
        };
        Self {
            policy: config.remote.clone(),
            shared: Arc::new(shared),
            orders: RefCell::default(),
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            paces: RefCell::default(),
        }
    }

    /// How often what happened.
    pub(super) fn counters(&self) -> Value {
        let counts = &self.shared.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "asked": of(&counts.asked), "granted": of(&counts.granted), "refused": of(&counts.refused),
            "done": of(&counts.done), "failed": of(&counts.failed), "bytes": of(&counts.bytes),
        })
    }

    /// Gives the thread something to do; it is started by the first.
    fn order(&self, order: Order) -> Result<(), String> {
        let mut orders = self.orders.borrow_mut();
        let order = match orders.as_ref() {
            Some(to) => match to.send(order) {
                Ok(()) => return Ok(()),
                // It has panicked, or could not start: another one.
                Err(mpsc::error::SendError(order)) => order,
            },
            None => order,
        };
        let (to, from) = mpsc::unbounded_channel();
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("remote".into()).spawn(move || relay::work(shared, from));
        thread.map_err(|error| format!("no thread for it: {error}"))?;
        let sent = to.send(order).map_err(|_| "the node is ending".to_owned());
        *orders = Some(to);
        sent
    }

    /// Whether a node asks no more often than it may.
    fn in_pace(&self, node: NodeId) -> bool {
        let second = crate::view::wall() / 1_000_000;
        let mut paces = self.paces.borrow_mut();
        let pace = paces.entry(node).or_default();
        if pace.0 != second {
            *pace = (second, 0);
        }
        pace.1 = pace.1.saturating_add(1);
        pace.1 <= PACE
    }

    fn judge(&self, by: Asker, wish: &Wish) -> Result<(Grant, OwnedSemaphorePermit), String> {
        let grant = judge(self.policy.as_ref(), by, wish)?;
        let place = self.shared.sessions.clone().try_acquire_owned();
        Ok((grant, place.map_err(|_| format!("{AT_ONCE} are under way there: try again"))?))
    }

    /// A peer asks: a ticket, or why not. Both are put down.
    pub(super) fn asked(&self, from: NodeId, question: &Value) -> Value {
        more(&self.shared.counts.asked);
        let (tell, counts) = (|kind, text| self.shared.audit.tell(kind, from, text), &self.shared.counts);
        if !self.in_pace(from) {
            more(&counts.refused);
            return json!({ "refused": format!("more than {PACE} questions a second") });
        }
        let number = |key: &str| question[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let (Ok(wish), Some(user)) = (wish(question), number("user")) else {
            more(&counts.refused);
            tell("refused-remote", format!("node {} asks for what is not known here", from.0));
            return json!({ "refused": "it is not known there" });
        };
        let by = Asker { node: from, user, process: number("process").unwrap_or_default() };
        let ticket = || -> Result<[u8; 16], String> {
            let (grant, place) = self.judge(by, &wish)?;
            if self.shared.trust.is_none() {
                return Err("nodes speak in the clear there: it needs certificates, by `apus cluster init`".into());
            }
            let word = word().ok_or("no randomness")?;
            let until = Instant::now() + FRESH;
            self.shared.tickets().push(Ticket { word, by, wish: wish.clone(), grant, until, place });
            self.order(Order::Listen)?;
            Ok(word)
        };
        match ticket() {
            Ok(word) => {
                more(&counts.granted);
                tell(wish.kind(), format!("{by} may {wish}"));
                json!({ "ticket": hex(word), "port": self.shared.at.port() })
            }
            Err(why) => {
                more(&counts.refused);
                tell("refused-remote", format!("{by} may not {wish}: {why}"));
                json!({ "refused": why })
            }
        }
    }
}

impl Serving {
    /// Has something done, here or elsewhere; the stream is the asker's from the first frame on.
    pub(super) async fn far(&self, question: &Value, by: Local, stream: UnixStream) {
        let me = &self.far.shared;
        more(&me.counts.asked);
        let by = Asker { node: self.me, user: by.user, process: by.process };
        let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok()).map(NodeId);
        let asked = match (node, wish(question)) {
            (Some(node), Ok(wish)) => {
                me.audit.tell(wish.kind(), node, format!("{by} asks node {} to {wish}", node.0));
                self.far_order(node, wish, by, &stream, question).await
            }
            (None, _) => Err("`node` must be a node's number".to_owned()),
            (_, Err(what)) => Err(what),
        };
        if let Err(why) = asked {
            more(&me.counts.refused);
            let text = format!("{by} is refused: {why}");
            me.audit.tell("refused-remote", node.unwrap_or(self.me), text);
            relay::answer(&stream, &json!({ "error": why }));
        }
    }

    async fn far_order(
        &self,
        node: NodeId,
        wish: Wish,
        by: Asker,
        stream: &UnixStream,
        question: &Value,
    ) -> Result<(), String> {
        let far = &self.far;
        let own = stream.try_clone().map_err(|error| error.to_string())?;
        if node == self.me {
            let (grant, place) = far.judge(by, &wish)?;
            more(&far.shared.counts.granted);
            return far.order(Order::Here { stream: own, by, wish, grant, place });
        }
        let address = self.nodes.borrow().iter().find(|known| known.id == node).map(|known| known.address);
        let address = address.ok_or_else(|| format!("node {} is not in the cluster", node.0))?;
        if far.shared.trust.is_none() {
            return Err(
                "nodes speak in the clear here: remote execution and copy need certificates, by `apus cluster init`"
                    .into(),
            );
        }
        let down = {
            let engine = self.engine.borrow();
            let status = engine.look().and_then(|(diagnosis, ..)| diagnosis.status(node));
            matches!(status, Some((Status::Down | Status::Left, _)))
        };
        if down {
            return Err(format!("node {} is down", node.0));
        }
        let place = far.asking.clone().try_acquire_owned();
        let place = place.map_err(|_| format!("{AT_ONCE} are under way from here: try again"))?;
        let mut ask = question.clone();
        ask["ask"] = "remote".into();
        ask["user"] = by.user.into();
        ask["process"] = by.process.into();
        let heard = self.view.peers.ask(node, &ask, ANSWER).await;
        let answer = heard.ok_or_else(|| format!("node {} does not answer", node.0))?.value;
        if let Some(why) = answer["refused"].as_str() {
            return Err(format!("node {} refuses: {why}", node.0));
        }
        let ticket = answer["ticket"].as_str().and_then(unhex);
        let port = answer["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let (Some(ticket), Some(port)) = (ticket, port) else {
            return Err(format!("node {} runs a program that does not know this: upgrade it", node.0));
        };
        let to = SocketAddr::new(address, port);
        far.order(Order::There { stream: own, node, to, ticket, by, wish, place })
    }
}
