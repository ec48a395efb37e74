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
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use apus_engine::NodeId;
use apus_quic::Trust;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::control::Serving;
use super::machine::is_down;
use super::view::Place;
use super::{COMMANDS, Say};
use crate::hex::hex;
use crate::remote::{Asker, Grant, Wish, judge};
use crate::view::{Entry, Journal, TEXT, short};
use crate::{Config, Remote};
use relay::Order;

/// Asked here at once, and as many asked elsewhere.
const AT_ONCE: usize = 8;
/// Asked here at once by those of one node.
const OF_ONE: usize = AT_ONCE / 2;
/// What another node says is shown up to so many characters.
const SAID: usize = 300;
/// A peer is waited for so long.
const ANSWER: Duration = Duration::from_secs(2);
/// A ticket is good for so long.
const FRESH: Duration = Duration::from_secs(10);
/// Asked by one node in a second; what is beyond is counted, and not told of one by one.
const PACE: u32 = 20;

/// A place among all that are under way here, and among those of one node: free once nobody holds it any more.
type Seat = Arc<[OwnedSemaphorePermit; 2]>;

/// Whoever brings it may have done what was granted, once.
struct Ticket {
    word: [u8; 16],
    by: Asker,
    wish: Wish,
    grant: Grant,
    until: Instant,
    place: Seat,
}

/// What is put down of it, from any thread.
struct Audit {
    journal: Arc<Journal>,
    place: Arc<Place>,
    print: Say,
}

impl Audit {
    fn tell(&self, kind: &'static str, about: NodeId, text: &str) {
        // Much of it is what others said.
        let text = short(text, TEXT);
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
    /// Which commands run, for the daemon that comes after this one.
    notes: PathBuf,
    /// By node and reason: the second in which a refusal was last put down, and how many there were.
    refusals: Mutex<BTreeMap<(NodeId, String), (u64, u64)>>,
}

impl Shared {
    fn tickets(&self) -> MutexGuard<'_, Vec<Ticket>> {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.retain(|ticket| ticket.until > Instant::now());
        tickets
    }

    /// Counts a refusal, and puts it down: those of a node for one reason once a second, so that nobody fills the journal.
    fn refuse(&self, from: NodeId, why: &str, text: &str) {
        more(&self.counts.refused);
        // How it begins, without numbers: what follows may be the asker's to choose.
        let reason = why.chars().filter(|c| !c.is_ascii_digit()).take(24).collect();
        let many = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let (told, many) = refusals.entry((from, reason)).or_default();
            *many += 1;
            let second = crate::view::wall() / 1_000_000;
            if std::mem::replace(told, second) == second {
                return;
            }
            *many
        };
        self.audit.tell("refused-remote", from, &format!("{text} ({many} so far)"));
    }

    /// What came of it: counted, and put down.
    fn ended(&self, about: NodeId, kind: &'static str, what: &str, end: &Value) {
        let good = end["error"].is_null() && end["cut"].is_null();
        more(if good { &self.counts.done } else { &self.counts.failed });
        let bytes = ["out", "in", "bytes"].iter().filter_map(|key| end[key].as_u64()).fold(0, u64::saturating_add);
        let _ =
            self.counts.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_add(bytes)));
        self.audit.tell(if good { kind } else { "remote-failed" }, about, &format!("{}: {what}", outcome(end)));
    }
}

/// In words, of which an end by another node has few.
fn outcome(end: &Value) -> String {
    let number = |key: &str| end[key].as_u64().unwrap_or_default();
    if let Some(error) = end["error"].as_str() {
        return format!("failed: {}", short(error, SAID / 2));
    }
    if end["done"] == true {
        return format!("{} bytes copied, {} of them before", number("bytes"), number("before"));
    }
    let how = match (end["code"].as_i64(), end["signal"].as_i64()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        _ => "ended".into(),
    };
    let cut = end["cut"].as_str().map(|cut| format!(", because {}", short(cut, SAID / 3))).unwrap_or_default();
    format!("{how}{cut}; {} bytes in, {} out, {} ms", number("in"), number("out"), number("ms"))
}

/// This node's part in it.
pub(super) struct Far {
    policy: Option<Remote>,
    shared: Arc<Shared>,
    /// To the thread, once there is one.
    orders: RefCell<Option<mpsc::UnboundedSender<Order>>>,
    /// Asked elsewhere.
    asking: Arc<Semaphore>,
    /// By node: places of its own.
    each: RefCell<BTreeMap<NodeId, Arc<Semaphore>>>,
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
            notes: config.folder.join(COMMANDS),
            refusals: Mutex::default(),
        };
        Self {
            policy: config.remote.clone(),
            shared: Arc::new(shared),
            orders: RefCell::default(),
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            each: RefCell::default(),
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

    fn judge(&self, by: Asker, wish: &Wish) -> Result<(Grant, Seat), String> {
        // Tickets that nobody came with hold places no longer.
        drop(self.shared.tickets());
        let grant = judge(self.policy.as_ref(), by, wish)?;
        let own = self.each.borrow_mut().entry(by.node).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE))).clone();
        let own = own.try_acquire_owned();
        let own = own.map_err(|_| format!("{OF_ONE} of node {} are under way there: try again", by.node.0))?;
        let place = self.shared.sessions.clone().try_acquire_owned();
        let place = place.map_err(|_| format!("{AT_ONCE} are under way there: try again"))?;
        Ok((grant, Arc::new([own, place])))
    }

    /// A peer asks: a ticket, or why not. Both are put down.
    pub(super) fn asked(&self, from: NodeId, question: &Value) -> Value {
        let shared = &self.shared;
        more(&shared.counts.asked);
        let refused = |why: &str, text: &str| {
            shared.refuse(from, why, text);
            json!({ "refused": why })
        };
        if !self.in_pace(from) {
            let why = format!("more than {PACE} questions a second");
            return refused(&why, &format!("node {} asks {why}", from.0));
        }
        let number = |key: &str| question[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let (Ok(wish), Some(user)) = (wish(question), number("user")) else {
            return refused("it is not known there", &format!("node {} asks for what is not known here", from.0));
        };
        let by = Asker { node: from, user, process: number("process").unwrap_or_default() };
        let ticket = || -> Result<[u8; 16], String> {
            let (grant, place) = self.judge(by, &wish)?;
            if shared.trust.is_none() {
                return Err("nodes speak in the clear there: it needs certificates, by `apus cluster init`".into());
            }
            let word = word().ok_or("no randomness")?;
            self.order(Order::Listen)?;
            let until = Instant::now() + FRESH;
            shared.tickets().push(Ticket { word, by, wish: wish.clone(), grant, until, place });
            Ok(word)
        };
        match ticket() {
            Ok(word) => {
                more(&shared.counts.granted);
                shared.audit.tell(wish.kind(), from, &format!("{by} may {wish}"));
                json!({ "ticket": hex(&word), "port": shared.at.port() })
            }
            Err(why) => {
                shared.refuse(from, &format!("{}: {why}", wish.kind()), &format!("{by} may not {wish}: {why}"));
                json!({ "refused": why })
            }
        }
    }
}

/// Why not, for who asked here: it may not be, or something failed.
fn no(why: impl Into<String>) -> Value {
    json!({ "refused": why.into() })
}

fn failed(why: impl Into<String>) -> Value {
    json!({ "error": why.into() })
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
                me.audit.tell(wish.kind(), node, &format!("{by} asks node {} to {wish}", node.0));
                self.far_order(node, wish, by, &stream, question).await
            }
            (None, _) => Err(no("`node` must be a node's number")),
            (_, Err(what)) => Err(no(what)),
        };
        if let Err(why) = asked {
            let (kind, counter, word, text) = match why["refused"].as_str() {
                Some(text) => ("refused-remote", &me.counts.refused, "is refused", text),
                None => ("remote-failed", &me.counts.failed, "fails", why["error"].as_str().unwrap_or_default()),
            };
            more(counter);
            me.audit.tell(kind, node.unwrap_or(self.me), &format!("{by} {word}: {text}"));
            relay::answer(&stream, &why);
        }
    }

    async fn far_order(
        &self,
        node: NodeId,
        wish: Wish,
        by: Asker,
        stream: &UnixStream,
        question: &Value,
    ) -> Result<(), Value> {
        let far = &self.far;
        let own = stream.try_clone().map_err(|error| failed(error.to_string()))?;
        if node == self.me {
            let (grant, place) = far.judge(by, &wish).map_err(no)?;
            more(&far.shared.counts.granted);
            return far.order(Order::Here { stream: own, by, wish, grant, place }).map_err(failed);
        }
        let address = self.nodes.borrow().iter().find(|known| known.id == node).map(|known| known.address);
        let address = address.ok_or_else(|| no(format!("node {} is not in the cluster", node.0)))?;
        if far.shared.trust.is_none() {
            return Err(no(
                "nodes speak in the clear here: remote execution and copy need certificates, by `apus cluster init`",
            ));
        }
        if is_down(&self.engine.borrow(), node) {
            return Err(failed(format!("node {} is down", node.0)));
        }
        let place = far.asking.clone().try_acquire_owned();
        let place = place.map_err(|_| no(format!("{AT_ONCE} are under way from here: try again")))?;
        let mut ask = question.clone();
        ask["ask"] = "remote".into();
        ask["user"] = by.user.into();
        ask["process"] = by.process.into();
        let heard = self.view.peers.ask(node, &ask, ANSWER).await;
        let answer = heard.ok_or_else(|| failed(format!("node {} does not answer", node.0)))?.value;
        if let Some(why) = answer["refused"].as_str() {
            return Err(no(format!("node {} refuses: {}", node.0, short(why, 2 * SAID))));
        }
        let ticket = answer["ticket"].as_str().and_then(unhex);
        let port = answer["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let (Some(ticket), Some(port)) = (ticket, port) else {
            return Err(no(format!("node {} runs a program that does not know this: upgrade it", node.0)));
        };
        let to = SocketAddr::new(address, port);
        far.order(Order::There { stream: own, node, to, ticket, by, wish, place }).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::SystemTime;

    use apus_engine::ClusterId;
    use apus_quic::{Authority, Name, NewKey};

    use super::*;

    /// Where nobody listens.
    fn free() -> u16 {
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
    }

    fn trust(authority: &mut Authority, node: u16) -> Arc<Trust> {
        let (name, now) = (Name { cluster: ClusterId(7), node: NodeId(node) }, SystemTime::now());
        let key = NewKey::make().expect("randomness");
        let issued = authority.issue(name, key.public(), now, Duration::from_secs(86_400)).expect("it is issued");
        Trust::new(name, &[authority.certificate().clone()], issued.der, key.pkcs8(), |_| {}).expect("it is good")
    }

    /// A node with certificates that allows `/bin/echo` and much of nothing, whose streams come in at this port; and what it says.
    fn far(port: u16) -> (Far, Arc<Mutex<Vec<String>>>) {
        of(&mut Authority::make(ClusterId(7), SystemTime::now()).expect("randomness"), port)
    }

    fn of(authority: &mut Authority, port: u16) -> (Far, Arc<Mutex<Vec<String>>>) {
        let folder = std::env::temp_dir().join(format!("apus-far-{}", std::process::id()));
        let text = format!(
            "cluster = 7\nnode = 0\nfolder = \"{}\"\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\n\
             command = [\"/bin/true\"]\n[remote]\nport = {port}\n[[remote.exec]]\ncommand = \"/bin/echo\"\nargs = [\"...\"]\n\
             [[remote.exec]]\ncommand = \"/usr/bin/head\"\nargs = [\"-c\", \"*\", \"/dev/zero\"]\noutput = \"8M\"\n",
            folder.display()
        );
        let config = Config::read("x", &text).expect("it is good");
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        let print: Say = Arc::new(move |line: &str| lines.lock().expect("no panic").push(line.to_owned()));
        let journal = Arc::new(Journal::in_memory(0));
        (Far::new(&config, Some(trust(authority, 0)), journal, Arc::default(), print), said)
    }

    fn echo(far: &Far, from: u16, word: &str) -> Value {
        far.asked(NodeId(from), &json!({ "do": "exec", "command": ["/bin/echo", word], "user": 0 }))
    }

    #[test]
    fn tickets_that_nobody_comes_with_and_one_node_do_not_take_all_places() {
        // Nobody else has it.
        let (far, _) = far(free());
        for node in [1, 2] {
            for _ in 0..OF_ONE {
                assert!(echo(&far, node, "a")["ticket"].is_string());
            }
            let why = echo(&far, node, "a");
            let more = format!("{OF_ONE} of node {node} are under way");
            assert!(why["refused"].as_str().is_some_and(|why| why.contains(&more)), "{why}");
        }
        let why = echo(&far, 3, "a");
        assert!(why["refused"].as_str().is_some_and(|why| why.contains("8 are under way")), "{why}");
        far.shared.tickets().iter_mut().for_each(|ticket| ticket.until = Instant::now());
        assert!(echo(&far, 1, "a")["ticket"].is_string());
    }

    /// Waits for something on another thread, in this one's runtime.
    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A program has ended, and what it said is on its way still: who carries that has its place.
    #[test]
    fn a_place_is_taken_until_the_asker_has_all_that_was_said() {
        // More than the window of a stream, and less than that and what a socket holds.
        const MANY: usize = (1 << 20) + (64 << 10);
        let mut authority = Authority::make(ClusterId(7), SystemTime::now()).expect("randomness");
        let port = free();
        let (far, said) = of(&mut authority, port);
        let question =
            json!({ "do": "exec", "command": ["/usr/bin/head", "-c", MANY.to_string(), "/dev/zero"], "user": 0 });
        let answer = far.asked(NodeId(1), &question);
        let ticket = answer["ticket"].as_str().and_then(unhex).unwrap_or_else(|| panic!("{answer}"));
        let left = || far.shared.sessions.available_permits();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (own, to) = ([127, 0, 0, 1].into(), SocketAddr::from(([127, 0, 0, 1], port)));
            let mut bulk = apus_quic::dial(&trust(&mut authority, 1), own, to, NodeId(0)).await.expect("it answers");
            bulk.send.write_all(&ticket).await.expect("it hears");
            let ended = || said.lock().expect("no panic").iter().any(|line| line.starts_with("exit code 0;"));
            until("the program ends", ended).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(left(), AT_ONCE - 1, "what it said is on its way");
            let all = bulk.receive.read_to_end(8 << 20).await.expect("all of it");
            assert!(all.len() > MANY, "{}", all.len());
            until("its place is free", || left() == AT_ONCE).await;
        });
    }

    /// An asker has its answer, and the other end has not heard yet that it has: its place is taken until then.
    #[test]
    fn an_asker_has_its_place_until_the_other_end_knows_of_the_end() {
        let mut authority = Authority::make(ClusterId(7), SystemTime::now()).expect("randomness");
        let (far, said) = of(&mut authority, 0);
        let there = trust(&mut authority, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let door = SocketAddr::from(([127, 0, 0, 1], free()));
            let mut open = apus_quic::Door::open(there, door).expect("a port");
            let (between, deaf) = between(door).await;
            let (stream, mut asker) = UnixStream::pair().expect("a pair");
            let place = far.asking.clone().try_acquire_owned().expect("a place");
            let by = Asker { node: NodeId(0), user: 0, process: 1 };
            let wish = Wish::Exec(vec!["/bin/echo".into()]);
            far.order(Order::There { stream, node: NodeId(1), to: between, ticket: [7; 16], by, wish, place })
                .expect("a thread");
            let (from, mut bulk) = open.next().await;
            let mut word = [0; 16];
            bulk.receive.read_exact(&mut word).await.expect("a ticket");
            assert_eq!((from, word), (NodeId(0), [7; 16]));
            deaf.store(true, Ordering::Relaxed);
            let mut end = Vec::new();
            frame::end(&mut end, &json!({ "code": 0 })).expect("a frame");
            bulk.send.write_all(&end).await.expect("it hears");
            bulk.send.finish().expect("it is open");
            let told = || said.lock().expect("no panic").iter().any(|line| line.starts_with("exit code 0;"));
            until("it is told", told).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(far.asking.available_permits(), AT_ONCE - 1);
            deaf.store(false, Ordering::Relaxed);
            until("its place is free", || far.asking.available_permits() == AT_ONCE).await;
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut asker, &mut bytes).expect("it is closed");
            assert!(bytes.ends_with(&end), "{bytes:?}");
        });
    }

    /// Stands between a door and who dials it; nothing comes to the door while it is deaf.
    async fn between(door: SocketAddr) -> (SocketAddr, Arc<std::sync::atomic::AtomicBool>) {
        let bind = || tokio::net::UdpSocket::bind("127.0.0.1:0");
        let (front, back) = (bind().await.expect("a port"), bind().await.expect("a port"));
        let (at, deaf) = (front.local_addr().expect("it is bound"), Arc::<std::sync::atomic::AtomicBool>::default());
        let is_deaf = deaf.clone();
        tokio::spawn(async move {
            let (mut there, mut here, mut dialler) = (vec![0; 65_536], vec![0; 65_536], at);
            loop {
                tokio::select! {
                    Ok((many, from)) = front.recv_from(&mut there) => {
                        dialler = from;
                        if !is_deaf.load(Ordering::Relaxed) {
                            let _ = back.send_to(&there[..many], door).await;
                        }
                    }
                    Ok((many, _)) = back.recv_from(&mut here) => {
                        let _ = front.send_to(&here[..many], dialler).await;
                    }
                    else => return,
                }
            }
        });
        (at, deaf)
    }

    #[test]
    fn tickets_for_a_port_that_cannot_be_opened_are_void() {
        let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (far, said) = far(taken.local_addr().expect("it is bound").port());
        let failed = || said.lock().expect("no panic").iter().filter(|line| line.contains("is the port free?")).count();
        let until = Instant::now() + Duration::from_secs(5);
        for round in 1..=3 {
            assert!(echo(&far, 1, "a")["ticket"].is_string());
            while (failed() < round || !far.shared.tickets().is_empty()) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
                // One that was given as the port failed is void at the next attempt.
                let _ = far.order(Order::Listen).is_ok();
            }
            assert!(far.shared.tickets().is_empty());
        }
    }

    #[test]
    fn what_others_say_forges_no_lines_and_fills_neither_memory_nor_journal() {
        let (far, said) = far(0);
        let question = json!({ "do": "exec", "command": ["/bin/cat", "a\nnode 1: yes\u{1b}[2J"], "user": 0 });
        let mut lines = Vec::new();
        // Within two seconds at most.
        for _ in 0..PACE {
            assert!(far.asked(NodeId(1), &question)["refused"].is_string());
        }
        lines.append(&mut said.lock().expect("no panic"));
        assert!((1..=3).contains(&lines.len()), "{lines:?}");
        assert_eq!(far.counters()["refused"], PACE);
        // A peer's own account of what came of it.
        let end = json!({ "out": u64::MAX, "in": u64::MAX, "bytes": u64::MAX, "error": format!("\n{}\u{202e}", "x".repeat(9_000)) });
        far.shared.ended(NodeId(1), "exec", "a\nb", &end);
        far.shared.ended(NodeId(1), "exec", "a", &json!({ "code": 3, "in": [1, "\n"], "out": u64::MAX }));
        assert_eq!(far.counters()["bytes"], u64::MAX);
        lines.append(&mut said.lock().expect("no panic"));
        assert!(lines.iter().all(|line| line.chars().count() <= TEXT && !line.contains(['\n', '\u{1b}', '\u{202e}'])));
        let told: Vec<String> = far.shared.audit.journal.tail(10).into_iter().map(|entry| entry.text).collect();
        assert_eq!(told, lines);
        assert!(told.last().is_some_and(|text| text.starts_with("exit code 3; 0 bytes in, ")), "{told:?}");
    }

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let word = word().expect("randomness");
        assert_eq!(unhex(&hex(&word)), Some(word));
        assert!(unhex("zz").is_none() && unhex(&"é".repeat(16)).is_none());
    }
}
