//! What nodes ask each other about how they are: packets of the host's own, beside the engine's, over the same streams. So they are
//! let in and kept out as the log's packets are, and they wait in the same bounded queues.
//!
//! ```text
//! 2 "AO"   1 version   1 kind: 1 question, 2 answer   8 number of the question   JSON, at most 48 KiB
//! ```
//! A node of an earlier version counts them as malformed and goes on; who asks it gets no answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use apus_engine::NodeId;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use crate::view::wall;

const MAGIC: [u8; 2] = *b"AO";
const VERSION: u8 = 1;
const HEAD: usize = 12;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
/// JSON of one packet at most, in bytes.
const LONGEST: usize = 48 * 1_024;
/// Entries of a page are of so many bytes at most: with what stands around them they fit.
pub(super) const PAGE: usize = 40 * 1_024;
/// Questions that wait for an answer at once.
const ASKED: usize = 256;
/// Packets that wait to be sent.
const WAITING: usize = 64;
/// Questions of one peer that are answered in a second.
const SERVED: u32 = 400;

/// An answer, and what its way tells about clocks.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) value: Value,
    /// How far the peer's wall clock is ahead of this node's, in microseconds.
    pub(super) ahead: i64,
    /// How wrong that may be: half of the way there and back, in microseconds.
    pub(super) within: u64,
}

struct Asked {
    to: NodeId,
    at: Instant,
    wall: u64,
    answer: oneshot::Sender<Heard>,
}

#[derive(Default)]
struct Inner {
    out: VecDeque<(NodeId, Vec<u8>)>,
    asked: BTreeMap<u64, Asked>,
    next: u64,
    /// By peer: the second, and how much was served in it.
    served: BTreeMap<NodeId, (u64, u32)>,
    counters: Counters,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) served: u64,
    /// Questions beyond the limit, packets that are none of ours, answers nobody waits for.
    pub(super) refused: u64,
}

/// This node's end of it.
pub(super) struct Peers {
    others: Vec<NodeId>,
    inner: RefCell<Inner>,
    /// Wakes the loop: a packet waits.
    nudge: Rc<Notify>,
}

/// Whether a packet is one of these.
pub(super) fn is_ours(packet: &[u8]) -> bool {
    packet.starts_with(&MAGIC)
}

fn packet(kind: u8, number: u64, body: &Value) -> Option<Vec<u8>> {
    let text = body.to_string();
    if text.len() > LONGEST {
        return None;
    }
    let mut out = Vec::with_capacity(HEAD + text.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(out)
}

/// Kind, number and body; `None` if it is none of this version.
fn read(packet: &[u8]) -> Option<(u8, u64, Value)> {
    let (head, body) = packet.split_at_checked(HEAD)?;
    if head[..2] != MAGIC || head[2] != VERSION || body.len() > LONGEST {
        return None;
    }
    let number = u64::from_le_bytes(head[4..].try_into().ok()?);
    Some((head[3], number, serde_json::from_slice(body).ok()?))
}

impl Peers {
    pub(super) fn new(others: Vec<NodeId>, nudge: Rc<Notify>) -> Self {
        Self { others, inner: RefCell::default(), nudge }
    }

    pub(super) fn others(&self) -> &[NodeId] {
        &self.others
    }

    pub(super) fn counters(&self) -> Counters {
        self.inner.borrow().counters
    }

    /// The next packet to be sent.
    pub(super) fn poll(&self) -> Option<(NodeId, Vec<u8>)> {
        self.inner.borrow_mut().out.pop_front()
    }

    fn send(inner: &mut Inner, to: NodeId, packet: Vec<u8>) {
        if inner.out.len() == WAITING {
            inner.out.pop_front();
        }
        inner.out.push_back((to, packet));
    }

    /// Asks a peer, and waits for so long at most.
    pub(super) async fn ask(&self, to: NodeId, question: &Value, within: Duration) -> Option<Heard> {
        let (number, heard) = {
            let mut inner = self.inner.borrow_mut();
            inner.asked.retain(|_, asked| !asked.answer.is_closed());
            if inner.asked.len() >= ASKED {
                return None;
            }
            inner.next += 1;
            inner.counters.asked += 1;
            let number = inner.next;
            let packet = packet(QUESTION, number, question)?;
            Self::send(&mut inner, to, packet);
            let (answer, heard) = oneshot::channel();
            inner.asked.insert(number, Asked { to, at: Instant::now(), wall: wall(), answer });
            (number, heard)
        };
        self.nudge.notify_one();
        let heard = tokio::time::timeout(within, heard).await;
        self.inner.borrow_mut().asked.remove(&number);
        heard.ok()?.ok()
    }

    /// Takes a packet in; `answer` answers questions.
    pub(super) fn take(&self, from: NodeId, bytes: &[u8], answer: impl FnOnce(&Value) -> Value) {
        let read = read(bytes).filter(|_| self.others.contains(&from));
        let Some((kind, number, body)) = read else {
            self.inner.borrow_mut().counters.refused += 1;
            return;
        };
        if kind == QUESTION {
            {
                let mut inner = self.inner.borrow_mut();
                let second = wall() / 1_000_000;
                let served = inner.served.entry(from).or_default();
                if served.0 != second {
                    *served = (second, 0);
                }
                served.1 += 1;
                if served.1 > SERVED {
                    inner.counters.refused += 1;
                    return;
                }
                inner.counters.served += 1;
            }
            let mut answer = answer(&body);
            answer["wall_us"] = wall().into();
            let long = || packet(ANSWER, number, &json!({ "error": "the answer is too long", "wall_us": wall() }));
            if let Some(packet) = packet(ANSWER, number, &answer).or_else(long) {
                Self::send(&mut self.inner.borrow_mut(), from, packet);
            }
            return;
        }
        let mut inner = self.inner.borrow_mut();
        // What another node says does not end the wait.
        let waits = kind == ANSWER && inner.asked.get(&number).is_some_and(|asked| asked.to == from);
        let Some(asked) = waits.then(|| inner.asked.remove(&number)).flatten() else {
            inner.counters.refused += 1;
            return;
        };
        inner.counters.answered += 1;
        let way = u64::try_from(asked.at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let theirs = body["wall_us"].as_u64().unwrap_or_default();
        let ours = asked.wall.saturating_add(way / 2);
        let ahead = i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or_default();
        let _ = asked.answer.send(Heard { value: body, ahead, within: way / 2 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::new(vec![NodeId(1), NodeId(2)], Rc::default())
    }

    /// A question on its way, and what comes of it when `reply` has worked on the packets.
    fn asks(peers: &Peers, reply: impl FnOnce(&Peers, Vec<u8>)) -> Option<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it starts");
        runtime.block_on(async {
            let question = json!({ "ask": "own" });
            let ask = peers.ask(NodeId(1), &question, Duration::from_millis(50));
            tokio::pin!(ask);
            let waits = tokio::time::timeout(Duration::from_millis(1), &mut ask).await;
            assert!(waits.is_err(), "nobody has answered yet");
            let (to, packet) = peers.poll().expect("a packet");
            assert_eq!(to, NodeId(1));
            reply(peers, packet);
            ask.await.map(|heard| heard.value)
        })
    }

    #[test]
    fn a_question_is_answered_by_whom_it_went_to_and_nobody_else() {
        let other = peers();
        let answered = asks(&peers(), |peers, packet| {
            other.take(NodeId(1), &packet, |question| json!({ "heard": question["ask"] }));
            let (to, answer) = other.poll().expect("an answer");
            assert_eq!(to, NodeId(1));
            for from in [2, 7, 1, 1] {
                peers.take(NodeId(from), &answer, |_| Value::Null);
            }
            assert_eq!((peers.counters().answered, peers.counters().refused), (1, 3));
        });
        assert_eq!(answered.map(|value| value["heard"].clone()), Some(json!("own")));
    }

    #[test]
    fn garbage_and_floods_are_counted_and_cost_nothing() {
        let peers = peers();
        for bytes in [&b"AO"[..], b"AO\x01\x01", b"AO\x02\x01\0\0\0\0\0\0\0\0{}", b"AO\x01\x01\0\0\0\0\0\0\0\0{", b"AP"]
        {
            peers.take(NodeId(1), bytes, |_| unreachable!("it is no question"));
        }
        assert_eq!(peers.counters().refused, 5);
        let deep = [&packet(QUESTION, 1, &Value::Null).expect("short")[..HEAD], &b"[".repeat(40_000)].concat();
        peers.take(NodeId(1), &deep, |_| unreachable!("too deep"));
        let question = packet(QUESTION, 1, &json!({})).expect("short");
        for _ in 0..3 * SERVED {
            peers.take(NodeId(1), &question, |_| json!({}));
        }
        // The flood may lie in two seconds.
        assert!(peers.counters().served <= 2 * u64::from(SERVED) && peers.counters().refused > u64::from(SERVED));
        assert!(std::iter::from_fn(|| peers.poll()).count() <= WAITING);
        peers.take(NodeId(2), &question, |_| json!({ "long": "x".repeat(LONGEST) }));
        let (_, answer) = peers.poll().expect("it says so");
        assert!(answer.len() < 200 && String::from_utf8_lossy(&answer).contains("too long"));
    }
}
