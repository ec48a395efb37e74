//! One voter, node 0, in a legal history of terms, leaders and commits that others made.

use std::collections::BTreeMap;

use apus_engine::consensus::{Append, Install, Membership, Message, Snapshot, VoteRequest};
use apus_engine::{Index, Mutant, NodeId, Rng, Term, Time};
use raft::eraftpb::{self, MessageType};

use crate::ours::{Ours, entry};
use crate::theirs::{Theirs, ends};
use crate::{Start, chance, pick};

/// Logs of the leaders of each term, from index 1, and how far each knew of commits.
struct History {
    logs: BTreeMap<u64, (Vec<(u64, Vec<u8>)>, u64)>,
}

impl History {
    /// Each leader starts from a prefix of an earlier one's log that holds all that is committed.
    fn draw(rng: &mut Rng) -> Self {
        let mut logs = BTreeMap::from([(1, (vec![(1, vec![0])], 1))]);
        let mut note = 0_u8;
        let mut committed: Vec<(u64, Vec<u8>)> = vec![(1, vec![0])];
        for term in 2..=rng.between(3, 7) {
            let from: Vec<&Vec<(u64, Vec<u8>)>> =
                logs.values().map(|(log, _)| log).filter(|log| log.starts_with(&committed)).collect();
            let mut log = (*pick(rng, &from)).clone();
            log.truncate(rng.between(committed.len() as u64, log.len() as u64) as usize);
            log.push((term, Vec::new()));
            for _ in 0..rng.below(4) {
                note += 1;
                log.push((term, vec![note]));
            }
            if chance(rng, 50) {
                let own = log.iter().position(|entry| entry.0 == term).unwrap_or(0) as u64;
                committed = log[..rng.between(own + 1, log.len() as u64) as usize].to_vec();
            }
            logs.insert(term, (log, committed.len() as u64));
        }
        Self { logs }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Granted {
        term: u64,
        pre: bool,
    },
    Refused {
        term: u64,
        pre: bool,
    },
    Matched {
        index: u64,
    },
    Mismatch,
    /// A newer term is known here.
    Stale {
        term: u64,
    },
}

fn our_answers(sent: &[(u16, Message)], asked: u64) -> Vec<Answer> {
    let answers = sent.iter().filter_map(|(_, message)| match message {
        Message::VoteReply(reply) if reply.granted => Some(Answer::Granted { term: reply.term.0, pre: reply.pre }),
        // Theirs lets a request of an older term go unanswered.
        Message::VoteReply(reply) if !reply.pre && reply.term.0 > asked => None,
        Message::VoteReply(reply) => Some(Answer::Refused { term: reply.term.0, pre: reply.pre }),
        Message::AppendReply(reply) if reply.fits => Some(Answer::Matched { index: reply.index.0 }),
        Message::AppendReply(reply) if reply.term.0 > asked => Some(Answer::Stale { term: reply.term.0 }),
        Message::AppendReply(_) => Some(Answer::Mismatch),
        _ => None,
    });
    answers.collect()
}

fn their_answers(sent: &[eraftpb::Message], asked: u64) -> Vec<Answer> {
    let answers = sent.iter().filter_map(|message| {
        let pre = message.get_msg_type() == MessageType::MsgRequestPreVoteResponse;
        match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse if !message.reject => {
                Some(Answer::Granted { term: message.term, pre })
            }
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                Some(Answer::Refused { term: message.term, pre })
            }
            MessageType::MsgAppendResponse if message.term > asked => Some(Answer::Stale { term: message.term }),
            MessageType::MsgAppendResponse if message.reject => Some(Answer::Mismatch),
            MessageType::MsgAppendResponse => Some(Answer::Matched { index: message.index }),
            _ => None,
        }
    });
    answers.collect()
}

/// A term, and who asks; the message of that term's leader or of a candidate.
fn draw_ask(rng: &mut Rng, history: &History, nodes: u16, ours: &Ours) -> (u16, u64, Message) {
    let terms: Vec<u64> = history.logs.keys().copied().collect();
    let view = ours.view();
    // Terms near the voter's own are the interesting ones.
    let term = *pick(rng, &terms);
    let (log, commit) = &history.logs[&term];
    let leader = 1 + (term % u64::from(nodes - 1)) as u16;
    if chance(rng, 35) {
        let (theirs, _) = &history.logs[pick(rng, &terms)];
        let last = rng.between(1, theirs.len() as u64);
        let pre = chance(rng, 40);
        // A poll about the voter's own term is answered differently; both answers are safe.
        let term = if pre && term == view.term { term + 1 } else { term };
        let term = if chance(rng, 20) { term + 1 } else { term };
        let pre = pre && term != view.term;
        let ask = VoteRequest {
            term: Term(term),
            pre,
            transfer: chance(rng, 15),
            last_index: Index(last),
            last_term: Term(theirs[last as usize - 1].0),
        };
        let from = 1 + rng.below(u64::from(nodes - 1)) as u16;
        // Theirs counts a repeated vote as a sign of life of the leader it follows.
        let repeats = !pre && term == view.term && (view.vote == Some(from) || !ours.is_synced());
        if !repeats || ours.leader().is_none() {
            return (from, term, Message::VoteRequest(ask));
        }
    }
    let sent_at = Time(rng.below(1_000));
    if chance(rng, 8) {
        let index = rng.between(1, *commit);
        let known = view.log.iter().any(|entry| (entry.0, entry.1) == (index, log[index as usize - 1].0));
        if !known || index <= view.commit {
            let membership = Membership { voters: (0..nodes).map(NodeId).collect(), ..Membership::default() };
            let (index, at) = (Index(index), Term(log[index as usize - 1].0));
            let snapshot = Snapshot { index, term: at, membership, ..Snapshot::default() };
            return (leader, term, Message::Install(Install { term: Term(term), sent_at, snapshot: snapshot.into() }));
        }
    }
    // Theirs does not look at entries that start before its commit.
    let prev = rng.between(view.commit.min(log.len() as u64), log.len() as u64);
    let upto = rng.between(prev, log.len() as u64);
    let entries = (prev + 1..=upto).map(|index| entry(index, log[index as usize - 1].0, &log[index as usize - 1].1));
    let append = Append {
        term: Term(term),
        prev_index: Index(prev),
        prev_term: Term(log[prev as usize - 1].0),
        commit: Index(rng.between(1, *commit)),
        sent_at,
        entries: entries.collect(),
    };
    (leader, term, Message::Append(append))
}

/// What ours promised must be on their disk.
fn check_promises(sent: &[(u16, Message)], history: &History, theirs: &Theirs) -> Result<(), String> {
    for (to, message) in sent {
        match message {
            Message::VoteReply(reply) if reply.granted && !reply.pre => {
                let (term, vote, _) = theirs.on_disk(1);
                if (term, vote) != (reply.term.0, Some(*to)) && term <= reply.term.0 {
                    return Err(format!("{message:?} to {to} is told, but the disk holds {vote:?} in {term}"));
                }
            }
            Message::AppendReply(reply) if reply.fits => {
                let Some((log, _)) = history.logs.get(&reply.term.0) else { continue };
                let index = reply.index.0;
                let (term, _, held) = theirs.on_disk(index);
                let right = index as usize <= log.len() && held.is_none_or(|held| held == log[index as usize - 1].0);
                if term < reply.term.0 || !right {
                    return Err(format!("{message:?} to {to} is told, but the disk holds {held:?} there, term {term}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn compare(mut rng: Rng, mutant: Option<Mutant>) -> Result<(), String> {
    let nodes = if chance(&mut rng, 50) { 3 } else { 5 };
    let history = History::draw(&mut rng);
    let terms: Vec<u64> = history.logs.keys().copied().collect();
    let of = *pick(&mut rng, &terms[..terms.len().div_ceil(2)]);
    let log = &history.logs[&of].0;
    let start = Start {
        voters: (0..nodes).collect(),
        term: of + rng.below(2),
        log: log[1..rng.between(1, log.len() as u64) as usize].to_vec(),
        ..Start::default()
    };
    let (mut ours, mut theirs) = (Ours::new(0, &start, mutant), Theirs::new(0, &start));
    let slow = chance(&mut rng, 50);
    let mut told = String::new();
    for step in 1..=40 {
        ours.step(step);
        theirs.step(step);
        let before = ours.view().term;
        let quiet = ours.is_synced() && theirs.is_synced();
        let mut asked = None;
        match rng.below(100) {
            0..70 => {
                let (from, term, message) = draw_ask(&mut rng, &history, nodes, &ours);
                told = format!("{told}\n{step}: {message:?} from {from}");
                theirs.receive(from, &message);
                ours.receive(from, &message);
                // An old leader's snapshot goes unanswered by theirs.
                let old = matches!(message, Message::Install(_)) && term < before;
                asked = (!old).then_some(term);
            }
            70..78 => {
                told = format!("{told}\n{step}: forgets its leader");
                theirs.forget_leader();
                ours.forget_leader();
            }
            78..84 => {
                told = format!("{told}\n{step}: restart");
                theirs.restart();
                ours.restart();
            }
            _ => {
                let upto = rng.below(step + 1);
                told = format!("{told}\n{step}: sync up to {upto}");
                theirs.sync(upto);
                ours.sync(upto);
            }
        }
        if !slow || chance(&mut rng, 10) {
            theirs.sync(step);
        }
        let early = ours.sent();
        if theirs.is_synced() {
            ours.sync(step);
        }
        let late = ours.sent();
        let sent: Vec<_> = early.into_iter().chain(late).collect();
        let fail = |what: String| format!("{what}{told}");
        check_promises(&sent, &history, &theirs).map_err(fail)?;
        let their_sent = theirs.sent();
        if !(ours.is_synced() && theirs.is_synced()) {
            continue;
        }
        if let Some(asked) = asked.filter(|_| quiet) {
            let (a, b) = (our_answers(&sent, asked), their_answers(&their_sent, asked));
            // Ours leaves the heartbeat that brought a new term without an answer: the term was not durable yet.
            let unanswered = a.is_empty() && before < asked && matches!(b[..], [Answer::Matched { .. }]);
            if a != b && !unanswered {
                return Err(format!("answers differ: {a:?}, theirs {b:?} to {:?}{told}", their_sent.first().map(ends)));
            }
        }
        let (mut a, mut b) = (ours.view(), theirs.view());
        a.align(&mut b);
        if a != b {
            return Err(format!("states differ: {a:?}\ntheirs {b:?}{told}"));
        }
    }
    Ok(())
}
