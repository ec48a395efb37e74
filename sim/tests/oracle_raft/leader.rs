//! One candidate, node 0, is given votes until it leads, then acknowledgements. Wins and commits must come at the same message.

use apus_engine::consensus::{AppendReply, Message, VoteReply};
use apus_engine::{Index, Micros, Mutant, Rng, Term};

use crate::ours::Ours;
use crate::theirs::Theirs;
use crate::{Start, chance};

fn draw_start(rng: &mut Rng) -> Start {
    let mut start = Start::default();
    let nodes = rng.between(2, 6) as u16;
    let joint = chance(rng, 40);
    for node in 0..nodes {
        match rng.below(if joint { 4 } else { 6 }) {
            0 if node > 0 => start.learners.push(node),
            1 if joint => start.outgoing.push(node),
            2 if joint => {
                start.voters.push(node);
                start.outgoing.push(node);
            }
            _ => start.voters.push(node),
        }
    }
    // Nobody is a learner and an outgoing voter at once here, and somebody votes.
    if start.voters.is_empty() {
        start.voters.push(0);
    }
    if start.voters.iter().chain(&start.outgoing).all(|node| *node == 0) {
        // Alone it commits, and leaves joint members, at once.
        start.outgoing.clear();
    }
    let mut term = 1;
    for note in 0..rng.below(6) {
        term += rng.below(2);
        start.log.push((term, vec![note as u8 + 1]));
    }
    start.term = term + rng.below(2);
    start
}

fn both(ours: &mut Ours, theirs: &mut Theirs, from: u16, message: &Message) {
    theirs.receive(from, message);
    ours.receive(from, message);
}

pub(crate) fn compare(mut rng: Rng, mutant: Option<Mutant>) -> Result<(), String> {
    let start = draw_start(&mut rng);
    let mut peers: Vec<u16> = start.voters.iter().chain(&start.outgoing).chain(&start.learners).copied().collect();
    peers.sort_unstable();
    peers.dedup();
    let peers: Vec<u16> = peers.into_iter().filter(|node| *node != 0).collect();
    let (mut ours, mut theirs) = (Ours::new(0, &start, mutant), Theirs::new(0, &start));
    let mut told = format!("{start:?}");
    let same = |ours: &Ours, theirs: &Theirs, told: &str| {
        let (mut a, mut b) = (ours.view(), theirs.view());
        a.align(&mut b);
        // The vote for oneself is on our disk later than in their memory.
        (a.vote, b.vote) = (None, None);
        if a == b { Ok(()) } else { Err(format!("states differ: {a:?}\ntheirs {b:?}\n{told}")) }
    };
    ours.time_out();
    theirs.time_out();
    theirs.sync(u64::MAX);
    ours.sync(u64::MAX);
    same(&ours, &theirs, &told)?;
    for pre in [true, false] {
        for _ in 0..2 * peers.len() {
            let term = theirs.view().term + u64::from(pre);
            if theirs.view().leads || !pre && term == start.term || pre && term > start.term + 1 || peers.is_empty() {
                break;
            }
            let from = *crate::pick(&mut rng, &peers);
            let reply = VoteReply { term: Term(term), pre, granted: true, quiet: Micros::ZERO };
            told = format!("{told}\n{reply:?} from {from}");
            both(&mut ours, &mut theirs, from, &Message::VoteReply(reply));
            theirs.sync(u64::MAX);
            ours.sync(u64::MAX);
            same(&ours, &theirs, &told)?;
        }
    }
    for step in 1..=30 {
        if !theirs.view().leads {
            break;
        }
        ours.step(step);
        theirs.step(step);
        let view = theirs.view();
        let last = view.log.last().map_or(1, |entry| entry.0);
        match rng.below(10) {
            0..2 => {
                told = format!("{told}\n{step}: proposes");
                theirs.propose(&[100 + step as u8]);
                ours.propose(&[100 + step as u8]);
            }
            2..4 => {
                told = format!("{told}\n{step}: own disk synced");
                theirs.sync(step);
                ours.sync(step);
            }
            _ if peers.is_empty() => {}
            _ => {
                let from = *crate::pick(&mut rng, &peers);
                let index = Index(rng.between(1, last));
                let ack = AppendReply { term: Term(view.term), sent_at: ours.now(), fits: true, index, blank: false };
                told = format!("{told}\n{step}: {ack:?} from {from}");
                both(&mut ours, &mut theirs, from, &Message::AppendReply(ack));
            }
        }
        let own_term = theirs.view();
        let committed = own_term.log.iter().any(|entry| entry.0 <= own_term.commit && entry.1 == own_term.term);
        if committed && !start.outgoing.is_empty() {
            // Ours leaves joint members by itself from here on, and counts the new voters alone.
            let (a, b) = (ours.view().commit, own_term.commit);
            return if a >= b { Ok(()) } else { Err(format!("commit {a}, theirs {b}\n{told}")) };
        }
        same(&ours, &theirs, &told)?;
    }
    Ok(())
}
